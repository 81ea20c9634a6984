"""ViViT: a transformer that reads a clip as one sequence of space-time boxes and answers with a class."""

from dataclasses import dataclass

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from minivid.layers.attention import MultiHeadAttention
from minivid.layers.feed_forward import FeedForward, block_gelu_tanh
from minivid.layers.linear import Linear
from minivid.layers.norms import LayerNorm
from minivid.layers.patch_embed import PatchEmbed
from minivid.layers.transformer import ACTIVATIONS, Activation, EncoderBlock
from minivid.models.clip_classifier import ClipClassifier, ClipConfig
from minivid.shapes import Grid, ShapeError

ATTENTION_TYPES = ("joint", "factorised_encoder", "factorised_self_attention")
"""The paper's models 1, 2 and 3: who looks at whom."""


@dataclass(frozen=True)
class ViViTConfig(ClipConfig):
    """The numbers of a ViViT; names and defaults are those of the published configuration.

    What it has not: attention_type, num_temporal_layers and kernel (it knows joint attention alone), and "gelu" where
    it has "gelu_fast", which is called "gelu_tanh" here.

    Attributes:
        image_size: height and width of a frame, in pixels.
        num_frames: frames t of a clip.
        num_channels: channels c of a frame.
        num_labels: classes v.
        hidden_dropout_prob: share of numbers set to zero while training, also of the attention weights.
        initializer_range: standard deviation of the first weights.
        tubelet_size: frames, rows and columns of one box (tau p p).
        hidden_size: width d of a token.
        num_hidden_layers: blocks.
        num_attention_heads: heads of each attention.
        intermediate_size: hidden width f of each feed-forward layer.
        hidden_act: activation in the feed-forward layers: "gelu", "gelu_tanh", "relu" or "silu".
        layer_norm_eps: keeps a normalisation away from division by zero.
        qkv_bias: whether the projections to queries, keys and values add a number.
        attention_type: one of ATTENTION_TYPES, explained in `ViViT`.
        num_temporal_layers: blocks behind the others that read one vector a moment; with "factorised_encoder" only,
            where the published number is 4.
        kernel: how attention is computed, as in MultiHeadAttention; no weight and, up to rounding, no result depends on
            it.

    Raises:
        ValueError: if the numbers do not fit together.
    """

    image_size: int = 224
    num_frames: int = 32
    tubelet_size: tuple[int, int, int] = (2, 16, 16)
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    attention_type: str = "joint"
    num_temporal_layers: int = 0
    kernel: str = "plain"

    def __post_init__(self):
        super().__post_init__()
        if len(self.tubelet_size) != 3 or self.tubelet_size[1] != self.tubelet_size[2]:
            raise ValueError(f"tubelet_size {self.tubelet_size} is not (frames, side, side) with square boxes")
        if min(self.tubelet_size) < 1:
            raise ValueError(f"tubelet_size {self.tubelet_size} holds a number below 1")
        self.check_at_least_one("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        tau, p, _ = self.tubelet_size
        for name, step in (("num_frames", tau), ("image_size", p), ("hidden_size", self.num_attention_heads)):
            if getattr(self, name) % step:
                what = "num_attention_heads" if name == "hidden_size" else f"tubelet_size {self.tubelet_size}"
                raise ValueError(f"{name}={getattr(self, name)} is not a multiple of {step} ({what})")
        if self.layer_norm_eps <= 0:
            raise ValueError(f"layer_norm_eps={self.layer_norm_eps} is not above 0")
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act={self.hidden_act!r} is none of {', '.join(ACTIVATIONS)}")
        if self.attention_type not in ATTENTION_TYPES:
            raise ValueError(f"attention_type={self.attention_type!r} is none of {', '.join(ATTENTION_TYPES)}")
        two_steps = self.attention_type == "factorised_encoder"
        if (self.num_temporal_layers > 0) != two_steps:
            wanted = "at least 1 (4 as published)" if two_steps else "0"
            raise ValueError(
                f"num_temporal_layers={self.num_temporal_layers}, expected {wanted} with attention_type="
                f"{self.attention_type!r}"
            )

    @property
    def grid(self) -> Grid:
        """Boxes of a clip along time, height and width."""
        tau, p, _ = self.tubelet_size
        return Grid(self.num_frames // tau, self.image_size // p, self.image_size // p)

    @property
    def num_moments(self) -> int:
        """Moments that the model keeps apart: boxes along time."""
        return self.grid.gt


SMALL_CONFIG = ViViTConfig(
    image_size=32,
    num_frames=8,
    tubelet_size=(2, 8, 8),
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
    initializer_range=0.06,  # half of 1 / sqrt(hidden_size); 0.02, made for a width of 768, takes twice as many steps
    num_labels=4,
)
"""For clips of 8 frames of 32 x 32 pixels: learns the four motions of the generated clips in 500 steps."""


class ViViT(ClipClassifier):
    """Boxes become tokens, tokens look at each other in space and time, and a class token gathers the answer.

    Who looks at whom is the configuration's attention_type, for gt moments of m boxes each, n = gt m:

    - "joint", the paper's model 1: everyone at everyone, n^2 looks a block.
    - "factorised_encoder", model 2: in all blocks every moment by itself, with a copy of the class token: gt m^2 looks.
      The gt class tokens get positions in time and pass `temporal_blocks`; their mean is the answer.
    - "factorised_self_attention", model 3: in each block every place of the picture along time, then every moment by
      itself: m gt^2 + gt m^2 looks. The paper leaves the class token out here; as in the TimeSformer it stands
      beside every moment and becomes the mean of what it found there.

    With one moment, and nothing added by what is temporal, all three are the same.

    Args:
        config: the numbers.

    Source: Arnab et al. 2021, section 3.3, models 1 to 3 (arXiv:2103.15691); the class token of model 3: Bertasius,
    Wang and Torresani 2021, section 3 (arXiv:2102.05095).
    """

    def __init__(self, config: ViViTConfig):
        super().__init__(config)
        tau, p, _ = config.tubelet_size
        (gt, gh, gw), d = config.grid, config.hidden_size
        two_steps = config.attention_type == "factorised_encoder"
        self.patch_embed = PatchEmbed(config.num_channels, d, p, tau)
        self.class_token = nn.Parameter(torch.zeros(1, 1, d))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (1 if two_steps else gt) * gh * gw, d))
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.num_hidden_layers))
        if two_steps:
            self.temporal_positions = nn.Parameter(torch.zeros(1, gt, d))
            self.temporal_blocks = nn.ModuleList(_block(config) for _ in range(config.num_temporal_layers))
        self.norm = LayerNorm(d, eps=config.layer_norm_eps)
        self.classifier = Linear(d, config.num_labels)
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
        return self.classifier(self.features(clips))  # b v

    def features(self, clips: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b d"]:
        """What the classifier reads: the class token at the end, normalised.

        Args:
            clips, Raises: as in `forward`.
        """
        tokens = self._mix(self.embed(clips))  # b 1+n d
        return self.norm(tokens[:, 0])  # b d

    def moment_features(self, clips: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b gt d"]:
        """One vector for each moment: the mean of its boxes at the end; of a factorised encoder, its class token.

        Args:
            clips, Raises: as in `forward`.
        """
        tokens = self.embed(clips)  # b 1+n d
        if self.config.attention_type == "factorised_encoder":
            return self.norm(self._mix_in_two_steps(tokens)[0])  # b gt d
        return reduce(self.encode(tokens)[:, 1:], "b (gt m) d -> b gt d", "mean", gt=self.config.grid.gt)

    def embed(
        self,
        clips: Float[Tensor, "b t c h w"],
        masked: Bool[Tensor, "b n"] | None = None,
        mask_token: Float[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "b tokens d"]:
        """Make tokens: the class token, then one for each box, each with its position added.

        Args:
            clips: as in `forward`.
            masked: True = the box is hidden; what stands for it keeps its position. Boxes count frame group by frame
                group, in each row by row. None = all are seen.
            mask_token: what stands for a hidden box, d numbers; None = zeros.

        Returns:
            1 + n tokens.

        Raises:
            ShapeError: as in `forward`, or if `masked` has not one entry a box, or mask_token not d numbers.
        """
        self.check_clips(clips)
        boxes = self.patch_embed(clips)  # b n d
        if masked is not None:
            boxes = self._hide(boxes, masked, mask_token)
        first = repeat(self.class_token, "1 1 d -> b 1 d", b=len(clips))
        return torch.cat([first, boxes], dim=1) + self._positions()  # b 1+n d

    def encode(self, tokens: Float[Tensor, "b tokens d"]) -> Float[Tensor, "b tokens d"]:
        """Send the tokens of `embed` through all blocks and the last norm.

        Args:
            tokens: 1 + n of each clip.

        Returns:
            As many: first what the classifier reads, then the boxes. The boxes of a factorised encoder have seen their
            own moment only.
        """
        return self.norm(self._mix(tokens))

    @torch.no_grad()
    def attention(self, clips: Float[Tensor, "b t c h w"], *, layer: int = -1) -> Float[Tensor, "b gt gh gw"]:
        """Say where and when the class token looks: its attention to every box in one block, averaged over the heads.

        Args:
            clips: as in `forward`.
            layer: which of `blocks`; the last one by default.

        Returns:
            One weight a box. They sum to less than one: the rest is the class token's look at itself. Where attention
            is factorised, every moment has a class token of its own, and the weights of each moment sum to less than
            one.

        Raises:
            ShapeError: as in `forward`.
        """
        kind, grid = self.config.attention_type, self.config.grid
        x = self.embed(clips)  # b 1+n d
        if kind == "factorised_encoder":
            x = by_moment(x, grid.gt)  # (b gt) 1+m d
        layer = range(len(self.blocks))[layer]
        for block in self.blocks[:layer]:
            x = block(x)
        block = self.blocks[layer]
        if kind == "factorised_self_attention":
            x = by_moment(block.look_along(x), grid.gt)  # (b gt) 1+m d
        weights = block.attention.attention_weights(block.attention_norm(x)).mean(1)  # b 1+n 1+n, or (b gt) 1+m 1+m
        return weights[:, 0, 1:].reshape(len(clips), *grid)

    def _mix(self, tokens: Tensor) -> Tensor:
        """All blocks, without the last norm."""
        if self.config.attention_type == "factorised_encoder":
            moments, boxes = self._mix_in_two_steps(tokens)
            return torch.cat([moments.mean(1, keepdim=True), boxes], dim=1)  # b 1+n d
        for block in self.blocks:
            tokens = block(tokens)  # b 1+n d
        return tokens

    def _mix_in_two_steps(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The factorised encoder: what it knows of every moment, b gt d, and the boxes, b n d."""
        gt = self.config.grid.gt
        x = by_moment(tokens, gt)  # (b gt) 1+m d
        for block in self.blocks:
            x = block(x)
        moments = rearrange(x[:, 0], "(b gt) d -> b gt d", gt=gt) + self.temporal_positions
        for block in self.temporal_blocks:
            moments = block(moments)  # b gt d
        return moments, rearrange(x[:, 1:], "(b gt) m d -> b (gt m) d", gt=gt)

    def _positions(self) -> Tensor:
        if self.config.attention_type != "factorised_encoder":
            return self.positions  # 1 1+n d
        # A place has one position at all moments: what time it is, temporal_positions say.
        places = repeat(self.positions[:, 1:], "1 m d -> 1 (gt m) d", gt=self.config.grid.gt)
        return torch.cat([self.positions[:, :1], places], dim=1)  # 1 1+n d

    def _hide(self, boxes: Tensor, masked: Tensor, mask_token: Tensor | None) -> Tensor:
        b, n, d = boxes.shape
        if masked.shape != (b, n):
            gt, gh, gw = self.config.grid
            raise ShapeError(
                f"masked: shape {tuple(masked.shape)}, expected ({b}, {n}): one entry for each of the "
                f"{gt} x {gh} x {gw} boxes of {b} clips"
            )
        if mask_token is None:
            mask_token = boxes.new_zeros(d)
        if mask_token.numel() != d:
            raise ShapeError(f"mask_token: shape {tuple(mask_token.shape)}, expected ({d},), the width of a token")
        return torch.where(masked[..., None], mask_token.reshape(d).to(boxes.dtype), boxes)


class SpaceTimeBlock(nn.Module):
    """An encoder block whose tokens look along time at their place of the picture, then around in their moment.

        x = x + temporal_attention(norm(x))   all moments of a place; the class token stays as it is
        x = x + attention(norm(x))            all boxes of a moment, and the class token
        x = x + feed_forward(norm(x))

    The paper finds either order as good; in this one, what the last block finds along time reaches the class token.

    Args:
        embed_dim: width d of a token.
        num_heads: heads of both attentions.
        hidden_dim: width f of the feed-forward layer.
        moments: gt, boxes along time.
        dropout, activation, norm_eps, kernel: as in EncoderBlock.

    Source: Arnab et al. 2021, section 3.3, model 3, equations 4 to 6 (arXiv:2103.15691).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        moments: int,
        *,
        dropout: float = 0.0,
        activation: Activation = "gelu",
        norm_eps: float = 1e-5,
        kernel: str = "plain",
    ):
        super().__init__()
        self.moments = moments
        self.dropout = dropout
        self.temporal_attention_norm = LayerNorm(embed_dim, eps=norm_eps)
        self.temporal_attention = MultiHeadAttention(embed_dim, num_heads, dropout=dropout, kernel=kernel)
        self.attention_norm = LayerNorm(embed_dim, eps=norm_eps)
        self.attention = MultiHeadAttention(embed_dim, num_heads, dropout=dropout, kernel=kernel)
        self.feed_forward_norm = LayerNorm(embed_dim, eps=norm_eps)
        activation = ACTIVATIONS[activation] if isinstance(activation, str) else activation
        self.feed_forward = FeedForward(embed_dim, hidden_dim, activation=activation, dropout=dropout)

    def forward(self, x: Float[Tensor, "b tokens d"]) -> Float[Tensor, "b tokens d"]:
        """Let the tokens look along time, then around, then send each through the feed-forward layer.

        Args:
            x: the class token, then the boxes, moment by moment.
        """
        x = self.look_along(x)  # b 1+n d
        around = self.attention(by_moment(self.attention_norm(x), self.moments))  # (b gt) 1+m d
        x = x + self._drop(from_moments(around, self.moments))  # b 1+n d
        return x + self._drop(self.feed_forward(self.feed_forward_norm(x)))

    def look_along(self, x: Float[Tensor, "b tokens d"]) -> Float[Tensor, "b tokens d"]:
        """The first of the three parts: every box looks at the boxes of its place at all moments.

        Args:
            x: as in `forward`.
        """
        first, boxes = x[:, :1], x[:, 1:]  # b 1 d, b n d
        places = rearrange(self.temporal_attention_norm(boxes), "b (gt m) d -> (b m) gt d", gt=self.moments)
        along = rearrange(self.temporal_attention(places), "(b m) gt d -> b (gt m) d", b=len(x))
        return torch.cat([first, boxes + self._drop(along)], dim=1)  # b 1+n d

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def by_moment(tokens: Float[Tensor, "b tokens d"], moments: int) -> Float[Tensor, "b_moments tokens_each d"]:
    """Part the boxes moment by moment, with a copy of the class token before each moment's.

    Args:
        tokens: the class token, then n boxes, moment by moment.
        moments: gt, which divides n.

    Returns:
        b gt rows of 1 + n / gt tokens.
    """
    first = repeat(tokens[:, :1], "b 1 d -> (b gt) 1 d", gt=moments)
    return torch.cat([first, rearrange(tokens[:, 1:], "b (gt m) d -> (b gt) m d", gt=moments)], dim=1)


def from_moments(tokens: Float[Tensor, "b_moments tokens_each d"], moments: int) -> Float[Tensor, "b tokens d"]:
    """Undo `by_moment`: the boxes in one row again, and before them the mean of the class tokens.

    Args:
        tokens: b gt rows, each the class token and a moment's boxes.
        moments: gt, which divides the rows.
    """
    first = reduce(tokens[:, :1], "(b gt) 1 d -> b 1 d", "mean", gt=moments)
    return torch.cat([first, rearrange(tokens[:, 1:], "(b gt) m d -> b (gt m) d", gt=moments)], dim=1)


def _block(config: ViViTConfig) -> nn.Module:
    sizes = config.hidden_size, config.num_attention_heads, config.intermediate_size
    options = {
        "dropout": config.hidden_dropout_prob,
        # The numbers of gelu_tanh, as LayerNorm gives those of layer_norm: in less time and memory.
        "activation": block_gelu_tanh if config.hidden_act == "gelu_tanh" else config.hidden_act,
        "norm_eps": config.layer_norm_eps,
        "kernel": config.kernel,
    }
    if config.attention_type == "factorised_self_attention":
        block = SpaceTimeBlock(*sizes, config.grid.gt, **options)
    else:
        block = EncoderBlock(*sizes, **options)
    if not config.qkv_bias:
        for module in block.modules():
            if isinstance(module, MultiHeadAttention):
                module.q_proj.bias = module.k_proj.bias = module.v_proj.bias = None
    return block
