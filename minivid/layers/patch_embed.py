"""Patch embedding: a clip is cut into space-time boxes, every box becomes one token, and tokens are merged again."""

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from minivid.layers.conv3d import Conv3d
from minivid.layers.feed_forward import gelu
from minivid.layers.linear import Linear, linear
from minivid.layers.norms import LayerNorm
from minivid.shapes import Grid, ShapeError, checked_grid


def tubelets(
    clips: Float[Tensor, "b t c h w"], *, patch_size: int, temporal_patch_size: int
) -> Float[Tensor, "b n box"]:
    """Cut clips into boxes of tau frames and p x p pixels, one row of numbers a box.

    Boxes stand in raster order: frame group by frame group, in each row by row, as in a text. A row of numbers holds
    channel by channel, in it frame by frame, in it pixel row by pixel row: box = c tau p p, the order of a kernel.

    Args:
        clips: pixels; t a multiple of temporal_patch_size, h and w of patch_size.
        patch_size: side p of a box, in pixels.
        temporal_patch_size: depth tau of a box, in frames. With 1, every frame is cut by itself.

    Returns:
        The rows, n = gt gh gw.

    Raises:
        ShapeError: if a size is not a multiple.
        ValueError: if patch_size or temporal_patch_size is below 1.

    Source: Arnab et al. 2021, section 3.2, tubelet embedding (arXiv:2103.15691).
    """
    box_grid(clips, patch_size=patch_size, temporal_patch_size=temporal_patch_size)
    return rearrange(
        clips,
        "b (gt tau) c (gh p1) (gw p2) -> b (gt gh gw) (c tau p1 p2)",
        tau=temporal_patch_size,
        p1=patch_size,
        p2=patch_size,
    )


def box_grid(clips: Float[Tensor, "b t c h w"], *, patch_size: int, temporal_patch_size: int) -> Grid:
    """How many boxes a clip has along time, height and width.

    Args:
        clips, patch_size, temporal_patch_size: as in `tubelets`.

    Raises:
        ShapeError, ValueError: as for `tubelets`.
    """
    if clips.ndim != 5:
        raise ShapeError(
            f"clips: shape {tuple(clips.shape)}, expected b t c h w; one clip becomes a batch by clip[None]"
        )
    _at_least_one(patch_size=patch_size, temporal_patch_size=temporal_patch_size)
    _, t, _, h, w = clips.shape
    sizes = (("t", t, temporal_patch_size), ("h", h, patch_size), ("w", w, patch_size))
    for axis, size, step in sizes:
        if size % step or size == 0:
            raise ShapeError(f"clips: {axis}={size} is not a multiple of {step}; crop, pad or resize the clip first")
    return Grid(*(size // step for _, size, step in sizes))


def embed_patches(
    patches: Float[Tensor, "*rows box"],
    weight: Float[Tensor, "d c tau p p"],
    bias: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, "*rows d"]:
    """Turn each row of pixels into a token, by one matrix product.

        token = W patch + b,   W = weight with the axes c tau p p laid out as one

    A convolution whose stride equals its kernel reads every box once, so it is this product.

    Args:
        patches: rows of c tau p p numbers, as `tubelets` cuts them, in any order of rows.
        weight: the kernel of that convolution, as published models store it.
        bias: added to every token; None = nothing.

    Returns:
        One token a row, in the order of the rows.

    Raises:
        ShapeError: if a row has another number of entries than a kernel.

    Source: Dosovitskiy et al. 2021, equation 1 (arXiv:2010.11929).
    """
    d, c, tau, p1, p2 = weight.shape
    if patches.shape[-1] != c * tau * p1 * p2:
        raise ShapeError(
            f"patches: rows of {patches.shape[-1]} numbers, expected {c * tau * p1 * p2} = {c} channels x "
            f"{tau} frames x {p1} x {p2} pixels"
        )
    return linear(patches, rearrange(weight, "d c tau p1 p2 -> d (c tau p1 p2)"), bias)


def inflate_average(weight: Float[Tensor, "d c p p"], temporal_patch_size: int) -> Float[Tensor, "d c tau p p"]:
    """Make a tubelet's kernel of a picture's: the same in every frame, divided by their number.

        kernel[d, c, i] = weight[d, c] / tau,   i = 0 ... tau - 1

    The token of a box that stands still is then the token of its picture.

    Args:
        weight: the kernel of a patch embedding that was trained on pictures.
        temporal_patch_size: depth tau of the tubelet, in frames.

    Raises:
        ValueError: if temporal_patch_size is below 1.

    Source: Carreira and Zisserman 2017, section 2.4 (arXiv:1705.07750); Arnab et al. 2021, section 3.4, equation 8
    (arXiv:2103.15691).
    """
    _at_least_one(temporal_patch_size=temporal_patch_size)
    return repeat(weight / temporal_patch_size, "d c p1 p2 -> d c tau p1 p2", tau=temporal_patch_size)


def inflate_central(weight: Float[Tensor, "d c p p"], temporal_patch_size: int) -> Float[Tensor, "d c tau p p"]:
    """Make a tubelet's kernel of a picture's: the picture's in the central frame, zeros in the others.

        kernel[d, c, i] = weight[d, c] where i = floor(tau / 2), else 0

    The token of a box is then the token of its central frame; training finds out what the others are good for.

    Args:
        weight: the kernel of a patch embedding that was trained on pictures.
        temporal_patch_size: depth tau of the tubelet, in frames.

    Raises:
        ValueError: if temporal_patch_size is below 1.

    Source: Arnab et al. 2021, section 3.4, equation 9 (arXiv:2103.15691).
    """
    _at_least_one(temporal_patch_size=temporal_patch_size)
    kernel = weight.new_zeros(*weight.shape[:2], temporal_patch_size, *weight.shape[2:])
    kernel[:, :, temporal_patch_size // 2] = weight
    return kernel


def merge_order(
    tokens: Float[Tensor, "*b n d"], grid: tuple[int, int, int], *, spatial_merge_size: int = 2
) -> Float[Tensor, "*b n d"]:
    """Bring tokens from raster order into merge order: the m x m neighbours that become one stand side by side.

    Before: frame group by frame group, in each row by row. After: frame group by frame group, in each block by block,
    in each block row by row.

    Args:
        tokens: n = gt gh gw tokens of each clip, in raster order.
        grid: boxes along time, height and width.
        spatial_merge_size: boxes m along one side of a block.

    Raises:
        ShapeError: if the grid is not made of whole blocks, or n is not gt gh gw.

    Source: Wang et al. 2024, section 2.1 (arXiv:2409.12191).
    """
    gt, gh, gw = checked_grid(grid, spatial_merge_size)
    if tokens.shape[-2] != gt * gh * gw:
        raise ShapeError(f"tokens: n={tokens.shape[-2]}, but the grid {gt} x {gh} x {gw} has {gt * gh * gw} boxes")
    return rearrange(
        tokens,
        "... (gt bh mh bw mw) d -> ... (gt bh bw mh mw) d",
        gt=gt,
        bh=gh // spatial_merge_size,
        mh=spatial_merge_size,
        mw=spatial_merge_size,
    )


class PatchEmbed(nn.Module):
    """One linear layer on every space-time box of tau x p x p pixels; a convolution with that kernel and stride.

        token = W box + b,   box = c tau p p numbers

    `proj` holds the weight in the shape of that convolution, d c tau p p, which is how published models store it.

    Args:
        in_channels: channels c of a frame.
        embed_dim: width d of a token.
        patch_size: side p of a box, in pixels.
        temporal_patch_size: depth tau of a box, in frames. 1 embeds every frame alone.
        bias: whether b is learned.
        device, dtype: of the weights, as in torch.nn.Conv3d.

    Raises:
        ValueError: if a number is below 1.

    Source: Dosovitskiy et al. 2021, equation 1 (arXiv:2010.11929); boxes in time: Arnab et al. 2021, section 3.2
    (arXiv:2103.15691).
    """

    def __init__(
        self,
        in_channels: int,
        embed_dim: int,
        patch_size: int,
        temporal_patch_size: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        _at_least_one(
            in_channels=in_channels,
            embed_dim=embed_dim,
            patch_size=patch_size,
            temporal_patch_size=temporal_patch_size,
        )
        self.in_channels = in_channels
        self.patch_size = patch_size
        self.temporal_patch_size = temporal_patch_size
        # Only a place for the two parameters, with their published names, shapes and first values: it is never called.
        box = (temporal_patch_size, patch_size, patch_size)
        self.proj = Conv3d(in_channels, embed_dim, box, stride=box, bias=bias, device=device, dtype=dtype)

    @classmethod
    def from_conv3d(cls, conv: nn.Module) -> "PatchEmbed":
        """Take over a 3D convolution that is a patch embedding, with copies of its weights.

        Args:
            conv: a torch.nn.Conv3d or minivid's, with stride equal to kernel, square in space, and no padding, dilation
                or groups. Any other reads a number twice, not at all, or in another place.

        Raises:
            ValueError: if it is another convolution; the message names the setting.
        """
        tau, p, p2 = conv.kernel_size
        wanted = {
            "kernel_size": (tau, p, p),
            "stride": (tau, p, p2),
            "padding": (0, 0, 0),
            "dilation": (1, 1, 1),
            "groups": 1,
            "padding_mode": "zeros",
        }
        for name, value in wanted.items():
            found = getattr(conv, name, value)
            if found != value and (name, found) != ("padding", "valid"):
                raise ValueError(f"{name} is {found!r}, expected {value!r}: only then is every box read once, whole")
        bias, like = conv.bias is not None, conv.weight
        embed = cls(conv.in_channels, conv.out_channels, p, tau, bias=bias, device=like.device, dtype=like.dtype)
        embed.proj.load_state_dict(conv.state_dict())
        return embed

    def forward(self, clips: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b n d"]:
        """Cut clips into boxes and embed each.

        Args:
            clips: pixels; t a multiple of temporal_patch_size, h and w of patch_size.

        Returns:
            Tokens, n = gt gh gw: frame group by frame group, in each row by row, as in a text.

        Raises:
            ShapeError: if a size is not a multiple, or the channels are others.
        """
        self.grid(clips)
        return self.embed(
            tubelets(clips, patch_size=self.patch_size, temporal_patch_size=self.temporal_patch_size)  # b n box
        )  # b n d

    def embed(self, patches: Float[Tensor, "*rows box"]) -> Float[Tensor, "*rows d"]:
        """Embed boxes that are already cut, in whatever order they stand.

        Args:
            patches: rows of c tau p p numbers, channel by channel, in it frame by frame, row by row.

        Returns:
            One token a row, in the order of the rows.

        Raises:
            ShapeError: if a row has another number of entries.
        """
        return embed_patches(patches, self.proj.weight, self.proj.bias)

    def grid(self, clips: Float[Tensor, "b t c h w"]) -> Grid:
        """How many boxes a clip has along time, height and width.

        Args:
            clips: as in `forward`.

        Raises:
            ShapeError: as in `forward`.
        """
        if clips.ndim != 5 or clips.shape[2] != self.in_channels:
            raise ShapeError(f"clips: shape {tuple(clips.shape)}, expected b t c h w with c={self.in_channels}")
        return box_grid(clips, patch_size=self.patch_size, temporal_patch_size=self.temporal_patch_size)


class PatchMerger(nn.Module):
    """Join every m x m neighbouring tokens into one, of the width that a language model reads.

        main merger:      y = W_2 gelu(W_1 group(norm(x)) + b_1) + b_2
        DeepStack merger: y = W_2 gelu(W_1 norm(group(x)) + b_1) + b_2

    `group` lays m^2 tokens that stand side by side end to end: m^2 rows of d numbers are one row of m^2 d. Before the
    grouping, every token is brought to mean 0 and variance 1 by itself; after it, the m^2 of them together, which keeps
    how strong they are beside each other. Children `norm`, `linear_fc1` and `linear_fc2`, as published.

    Args:
        hidden_size: width d of a token.
        out_hidden_size: width of a merged token.
        spatial_merge_size: tokens m along one side of a block.
        use_postshuffle_norm: True = norm after the grouping, with m^2 d learned scales.

    Raises:
        ValueError: if a number is below 1.

    Source: Qwen3-VL technical report, 2025, section 2 (arXiv:2511.21631); DeepStack: Meng et al. 2024
    (arXiv:2406.04334).
    """

    def __init__(
        self,
        hidden_size: int,
        out_hidden_size: int,
        *,
        spatial_merge_size: int = 2,
        use_postshuffle_norm: bool = False,
    ):
        super().__init__()
        _at_least_one(hidden_size=hidden_size, out_hidden_size=out_hidden_size, spatial_merge_size=spatial_merge_size)
        self.hidden_size = hidden_size
        self.spatial_merge_size = spatial_merge_size
        self.use_postshuffle_norm = use_postshuffle_norm
        grouped = hidden_size * spatial_merge_size**2
        # eps 1e-6: the published model's; torch's own would be 1e-5.
        self.norm = LayerNorm(grouped if use_postshuffle_norm else hidden_size, eps=1e-6)
        self.linear_fc1 = Linear(grouped, grouped)
        self.linear_fc2 = Linear(grouped, out_hidden_size)

    def forward(self, tokens: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b merged out"]:
        """Merge tokens that stand in merge order (see `merge_order`).

        Args:
            tokens: n a multiple of m^2; every m^2 in a row are one block.

        Returns:
            n / m^2 tokens of out_hidden_size numbers.

        Raises:
            ShapeError: if d is not hidden_size, or n not a multiple of m^2.
        """
        block = self.spatial_merge_size**2
        if tokens.ndim < 2 or tokens.shape[-1] != self.hidden_size or tokens.shape[-2] % block:
            raise ShapeError(
                f"tokens: shape {tuple(tokens.shape)}, expected n d with d={self.hidden_size} and n a multiple of "
                f"{block} (spatial_merge_size {self.spatial_merge_size}^2)"
            )
        if not self.use_postshuffle_norm:
            tokens = self.norm(tokens)  # *b n d
        grouped = rearrange(tokens, "... (n block) d -> ... n (block d)", block=block)  # *b n/block block*d
        if self.use_postshuffle_norm:
            grouped = self.norm(grouped)  # *b n/block block*d
        return self.linear_fc2(gelu(self.linear_fc1(grouped)))  # *b n/block out


def _at_least_one(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {number}, expected at least 1")
