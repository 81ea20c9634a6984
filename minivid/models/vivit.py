"""ViViT: a transformer that reads a clip as one sequence of space-time boxes and answers with a class."""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from minivid.layers.norms import LayerNorm
from minivid.layers.patch_embed import PatchEmbed
from minivid.layers.transformer import EncoderBlock
from minivid.shapes import Grid, ShapeError


@dataclass(frozen=True)
class ViViTConfig:
    """The numbers of a ViViT; names and defaults are those of the published configuration.

    Attributes:
        image_size: height and width of a frame, in pixels.
        num_frames: frames t of a clip.
        tubelet_size: frames, rows and columns of one box (tau p p).
        num_channels: channels c of a frame.
        hidden_size: width d of a token.
        num_hidden_layers: blocks.
        num_attention_heads: heads of each attention.
        intermediate_size: hidden width f of each feed-forward layer.
        hidden_dropout_prob: share of numbers set to zero while training.
        initializer_range: standard deviation of the first weights.
        layer_norm_eps: keeps a normalisation away from division by zero.
        num_labels: classes v.

    Raises:
        ValueError: if the numbers do not fit together.
    """

    image_size: int = 224
    num_frames: int = 32
    tubelet_size: tuple[int, int, int] = (2, 16, 16)
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    num_labels: int = 2

    def __post_init__(self):
        if len(self.tubelet_size) != 3 or self.tubelet_size[1] != self.tubelet_size[2]:
            raise ValueError(f"tubelet_size {self.tubelet_size} is not (frames, side, side) with square boxes")
        sizes = (
            "image_size num_frames num_channels hidden_size num_hidden_layers num_attention_heads intermediate_size "
            "num_labels"
        )
        for name in sizes.split():
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not at least 1")
        if min(self.tubelet_size) < 1:
            raise ValueError(f"tubelet_size {self.tubelet_size} holds a number below 1")
        tau, p, _ = self.tubelet_size
        for name, step in (("num_frames", tau), ("image_size", p), ("hidden_size", self.num_attention_heads)):
            if getattr(self, name) % step:
                what = "num_attention_heads" if name == "hidden_size" else f"tubelet_size {self.tubelet_size}"
                raise ValueError(f"{name}={getattr(self, name)} is not a multiple of {step} ({what})")
        if not 0.0 <= self.hidden_dropout_prob < 1.0:
            raise ValueError(f"hidden_dropout_prob={self.hidden_dropout_prob} is not in 0 <= p < 1")
        if self.initializer_range <= 0 or self.layer_norm_eps <= 0:
            raise ValueError(
                f"initializer_range={self.initializer_range} and layer_norm_eps={self.layer_norm_eps}: expected above 0"
            )

    @property
    def grid(self) -> Grid:
        """Boxes of a clip along time, height and width."""
        tau, p, _ = self.tubelet_size
        return Grid(self.num_frames // tau, self.image_size // p, self.image_size // p)


class ViViT(nn.Module):
    """Boxes become tokens, every token looks at every other in space and time, and a class token gathers the answer.

    This is the paper's model 1, joint space-time attention: with n boxes it costs n^2, which is why larger clips are
    read by factorised models.

    Args:
        config: the numbers.

    Source: Arnab et al. 2021, section 3.3, model 1 (arXiv:2103.15691).
    """

    def __init__(self, config: ViViTConfig):
        super().__init__()
        self.config = config
        tau, p, _ = config.tubelet_size
        d, n = config.hidden_size, config.grid.gt * config.grid.gh * config.grid.gw
        self.patch_embed = PatchEmbed(config.num_channels, d, p, tau)
        self.class_token = nn.Parameter(torch.zeros(1, 1, d))
        self.positions = nn.Parameter(torch.zeros(1, 1 + n, d))
        self.blocks = nn.ModuleList(
            EncoderBlock(
                d,
                config.num_attention_heads,
                config.intermediate_size,
                dropout=config.hidden_dropout_prob,
                norm_eps=config.layer_norm_eps,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.norm = LayerNorm(d, eps=config.layer_norm_eps)
        self.classifier = nn.Linear(d, config.num_labels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: matrices and positions normal, cut at two deviations; biases zero, scales one."""
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                nn.init.trunc_normal_(
                    weight, std=self.config.initializer_range, a=-2 * self.config.initializer_range,
                    b=2 * self.config.initializer_range,
                )  # fmt: skip
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
            else:
                nn.init.ones_(weight)

    def forward(self, clips: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b v"]:
        """Score every class for every clip.

        Args:
            clips: normalised pixels, of the size in the configuration.

        Returns:
            Logits; softmax makes probabilities of them.

        Raises:
            ShapeError: if the clips have another size.
        """
        x = self.embed(clips)  # b 1+n d
        for block in self.blocks:
            x = block(x)  # b 1+n d
        return self.classifier(self.norm(x[:, 0]))  # b v

    def embed(self, clips: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b tokens d"]:
        """Make tokens: the class token, then one for each box, each with its position added.

        Args:
            clips: as in `forward`.

        Raises:
            ShapeError: as in `forward`.
        """
        config = self.config
        wanted = (config.num_frames, config.num_channels, config.image_size, config.image_size)
        if clips.ndim != 5 or tuple(clips.shape[1:]) != wanted:
            raise ShapeError(
                f"clips: shape {tuple(clips.shape)}, expected b t c h w with t c h w = {wanted}; "
                "sample and resize the clip to the size the model was made for"
            )
        boxes = self.patch_embed(clips)  # b n d
        first = repeat(self.class_token, "1 1 d -> b 1 d", b=len(clips))
        return torch.cat([first, boxes], dim=1) + self.positions  # b 1+n d

    def example_inputs(self, batch: int = 1) -> tuple[Float[Tensor, "b t c h w"]]:
        """Clips of zeros of the size that `forward` takes.

        Args:
            batch: how many clips.
        """
        c = self.config
        return (torch.zeros(batch, c.num_frames, c.num_channels, c.image_size, c.image_size),)

    @torch.no_grad()
    def attention(self, clips: Float[Tensor, "b t c h w"], *, layer: int = -1) -> Float[Tensor, "b gt gh gw"]:
        """Say where and when the class token looks: its attention to every box in one block, averaged over the heads.

        Args:
            clips: as in `forward`.
            layer: which block; the last one by default, from which the answer is read.

        Returns:
            One weight a box. They sum to less than one: the rest is the class token's look at itself.

        Raises:
            ShapeError: as in `forward`.
        """
        x = self.embed(clips)  # b 1+n d
        layer = range(len(self.blocks))[layer]
        for block in self.blocks[:layer]:
            x = block(x)  # b 1+n d
        block = self.blocks[layer]
        weights = block.attention.attention_weights(block.attention_norm(x))  # b heads 1+n 1+n
        gt, gh, gw = self.config.grid
        return rearrange(weights.mean(1)[:, 0, 1:], "b (gt gh gw) -> b gt gh gw", gt=gt, gh=gh, gw=gw)
