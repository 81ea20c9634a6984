"""The vision tower of Qwen3-VL: pictures and clips of any size become tokens that a language model reads."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minivid.layers.feed_forward import block_gelu_tanh
from minivid.layers.patch_embed import PatchEmbed, PatchMerger
from minivid.layers.positions import LearnedPositions, axial_angles, grid_positions
from minivid.layers.transformer import ACTIVATIONS, EncoderBlock
from minivid.shapes import Grid, ShapeError, checked_grid


@dataclass(frozen=True)
class Qwen3VLVisionConfig:
    """The numbers of a vision tower; names as published, defaults those of Qwen3-VL-4B.

    Attributes:
        depth: blocks.
        hidden_size: width d of a patch's token.
        num_heads: heads of each attention.
        intermediate_size: hidden width f of each feed-forward layer.
        patch_size: side p of a patch, in pixels.
        temporal_patch_size: depth tau of a patch, in frames.
        spatial_merge_size: side m of the block of patches that becomes one token of the language model.
        in_channels: channels c of a frame.
        num_position_embeddings: rows of the position table, a square number.
        out_hidden_size: width of a merged token, the language model's.
        deepstack_visual_indexes: the blocks behind which tokens are merged for DeepStack, counted from 0.
        hidden_act: activation in the feed-forward layers: "gelu", "gelu_tanh", "relu" or "silu".
        rope_theta: base of the rotary angles.
        initializer_range: standard deviation of the first weights.

    Raises:
        ValueError: if the numbers do not fit together.
    """

    depth: int = 24
    hidden_size: int = 1024
    num_heads: int = 16
    intermediate_size: int = 4096
    patch_size: int = 16
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    in_channels: int = 3
    num_position_embeddings: int = 2304
    out_hidden_size: int = 2560
    deepstack_visual_indexes: tuple[int, ...] = (5, 11, 17)
    hidden_act: str = "gelu_tanh"
    rope_theta: float = 10000.0
    initializer_range: float = 0.02

    def __post_init__(self):
        for name in (
            "depth", "hidden_size", "num_heads", "intermediate_size", "patch_size", "temporal_patch_size",
            "spatial_merge_size", "in_channels", "num_position_embeddings", "out_hidden_size",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not at least 1")
        if self.hidden_size % (4 * self.num_heads):
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of 4 num_heads = {4 * self.num_heads}: a head turns "
                "pairs of numbers by the row and as many by the column"
            )
        if self.table_size**2 != self.num_position_embeddings:
            raise ValueError(f"num_position_embeddings={self.num_position_embeddings} is not a square number")
        if min(self.deepstack_visual_indexes, default=0) < 0:
            raise ValueError(f"deepstack_visual_indexes={self.deepstack_visual_indexes} holds a number below 0")
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act={self.hidden_act!r} is none of {', '.join(ACTIVATIONS)}")
        if self.initializer_range <= 0:
            raise ValueError(f"initializer_range={self.initializer_range} is not above 0")

    @property
    def table_size(self) -> int:
        """Rows and columns of the picture that the position table is learned on."""
        return int(self.num_position_embeddings**0.5)

    @property
    def box_size(self) -> int:
        """Numbers in one patch, c tau p p."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


SMALL_CONFIG = Qwen3VLVisionConfig(
    depth=2,
    hidden_size=64,
    num_heads=4,
    intermediate_size=128,
    patch_size=8,
    num_position_embeddings=16,
    out_hidden_size=64,
    deepstack_visual_indexes=(0,),
)
"""For clips of 8 frames of 32 x 32 pixels: 64 patches, merged into 16 tokens."""


class VisionFeatures(NamedTuple):
    """What a vision tower made of some pictures and clips.

    Attributes:
        merged: one row for each merged token, frame group by frame group, in each row by row.
        deepstack: the same of the blocks in deepstack_visual_indexes, in the order of the blocks.
    """

    merged: Float[Tensor, "tokens out"]
    deepstack: tuple[Float[Tensor, "tokens out"], ...]


class Qwen3VLVision(nn.Module):
    """Patches of frame groups look at each other, each group by itself, and every m x m of them become one token.

        x = patch W + b + table(row, column)
        x = x + attention(norm(x));  x = x + feed_forward(norm(x))     in every block; queries turned by row and column
        merged = merger(x);  deepstack_j = deepstack_merger_list[j](x after block j of the list)

    No patch sees another frame group: what happens over time is left to the language model. Every picture may have its
    own size. Frame groups of equal size that follow each other stand in one batch, so that no mask is needed.

    Args:
        config: the numbers.
        kernel: how attention is computed, as in MultiHeadAttention.

    Source: Qwen3-VL technical report, section 2 (arXiv:2511.21631); DeepStack: Meng et al. 2024 (arXiv:2406.04334).
    """

    def __init__(self, config: Qwen3VLVisionConfig, *, kernel: str = "plain"):
        super().__init__()
        self.config = config
        d, side = config.hidden_size, config.table_size
        self.patch_embed = PatchEmbed(config.in_channels, d, config.patch_size, config.temporal_patch_size)
        self.pos_embed = LearnedPositions(side, side, d)
        # The numbers of gelu_tanh, as LayerNorm gives those of layer_norm: in less time and memory.
        activation = block_gelu_tanh if config.hidden_act == "gelu_tanh" else config.hidden_act
        options = {"activation": activation, "norm_eps": 1e-6, "kernel": kernel}
        self.blocks = nn.ModuleList(
            EncoderBlock(d, config.num_heads, config.intermediate_size, **options) for _ in range(config.depth)
        )
        m = {"spatial_merge_size": config.spatial_merge_size}
        self.merger = PatchMerger(d, config.out_hidden_size, **m)
        self.deepstack_merger_list = nn.ModuleList(
            PatchMerger(d, config.out_hidden_size, use_postshuffle_norm=True, **m)
            for _ in config.deepstack_visual_indexes
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: matrices and positions normal, biases zero, scales one."""
        initialize(self, self.config.initializer_range)

    def forward(self, pixel_values: Float[Tensor, "n box"], grid_thw: Int[Tensor, "clips 3"]) -> VisionFeatures:
        """Make tokens of pictures and clips that are cut into patches.

        Args:
            pixel_values: one row a patch, box = c tau p p, as `minivid.video.patches.patchify` cuts them: clip behind
                clip, in each frame group by frame group, in each by blocks of m x m.
            grid_thw: patches of every clip along time, height and width; a picture has 1 along time.

        Returns:
            One row for every m^2 patches, and the same for every level of DeepStack.

        Raises:
            ShapeError: if the rows are not those of the grids, or a grid is not made of whole blocks.
        """
        pictures = self._pictures(pixel_values, grid_thw)
        embedded = self.patch_embed.embed(pixel_values.to(self.patch_embed.proj.weight.dtype))  # n d
        rows = embedded.split([frames * grid.gh * grid.gw for frames, grid in pictures])
        made = [
            self.look(part.unflatten(0, (frames, -1)), grid)  # frames patches d
            for part, (frames, grid) in zip(rows, pictures, strict=True)
        ]
        merged, *deepstack = (torch.cat(parts) for parts in zip(*made, strict=True))  # n/m^2 out
        return VisionFeatures(merged, tuple(deepstack))

    def look(self, x: Float[Tensor, "frames patches d"], grid: Grid) -> list[Float[Tensor, "tokens out"]]:
        """Send embedded patches of frame groups of one size through the blocks and mergers.

        Args:
            x: every row of the batch is a frame group.
            grid: 1, and patches along height and width.

        Returns:
            Merged tokens, then one tensor for each level of DeepStack; frame group behind frame group.
        """
        m, indexes = self.config.spatial_merge_size, self.config.deepstack_visual_indexes
        places = grid_positions(grid, spatial_merge_size=m, device=x.device)[:, 1:]  # patches 2
        k = self.config.hidden_size // self.config.num_heads
        rotary = axial_angles(places, k, base=self.config.rope_theta)  # patches k/2
        x = x + self.pos_embed(grid, spatial_merge_size=m)  # frames patches d
        deepstack = []
        for i, block in enumerate(self.blocks):
            x = block(x, rotary=rotary)  # frames patches d
            if i in indexes:
                deepstack.append(self.deepstack_merger_list[indexes.index(i)](x))  # frames patches/m^2 out
        return [part.flatten(0, 1) for part in (self.merger(x), *deepstack)]

    def example_inputs(self, batch: int = 1) -> tuple[Tensor, Tensor]:
        """Patches of zeros for clips of two frame groups of 2 x 2 merged tokens.

        Args:
            batch: how many clips.
        """
        side = 2 * self.config.spatial_merge_size
        grid = torch.tensor([[2, side, side]] * batch, device="cpu")  # its numbers are read, on any device
        return torch.zeros(batch * 2 * side**2, self.config.box_size), grid

    def _pictures(self, pixel_values: Tensor, grid_thw: Tensor) -> list[tuple[int, Grid]]:
        """Runs of frame groups of equal size: how many, and the grid of one."""
        if pixel_values.ndim != 2 or pixel_values.shape[1] != self.config.box_size:
            c = self.config
            raise ShapeError(
                f"pixel_values: shape {tuple(pixel_values.shape)}, expected rows of {c.box_size} = {c.in_channels} "
                f"channels x {c.temporal_patch_size} frames x {c.patch_size} x {c.patch_size} pixels"
            )
        if grid_thw.ndim != 2 or grid_thw.shape[1] != 3 or len(grid_thw) == 0:
            raise ShapeError(
                f"grid_thw: shape {tuple(grid_thw.shape)}, expected one row (t, h, w) for each picture or clip"
            )
        grids = [checked_grid(Grid(*grid), self.config.spatial_merge_size) for grid in grid_thw.tolist()]
        patches = sum(gt * gh * gw for gt, gh, gw in grids)
        if patches != len(pixel_values):
            raise ShapeError(
                f"pixel_values: {len(pixel_values)} patches, but grid_thw {[list(grid) for grid in grids]} has "
                f"{patches}; give the rows of all pictures and clips, and one grid for each"
            )
        runs = itertools.groupby(grids, lambda grid: Grid(1, grid.gh, grid.gw))
        return [(sum(grid.gt for grid in run), size) for size, run in runs]


def initialize(model: nn.Module, std: float) -> None:
    """Draw all weights of a model anew: matrices and tables normal, biases zero, scales of norms one.

    Args:
        model: any module whose vectors are biases and scales.
        std: standard deviation of the normal numbers.
    """
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=std)
        elif name.endswith("bias"):
            nn.init.zeros_(weight)
        else:
            nn.init.ones_(weight)
