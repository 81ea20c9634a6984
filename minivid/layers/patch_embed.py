"""Patch embedding: a clip is cut into space-time boxes and every box becomes one token."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from minivid.shapes import Grid, ShapeError


class PatchEmbed(nn.Module):
    """One linear layer on every space-time box of tau x p x p pixels; a convolution with that kernel and stride.

        token = W box + b,   box = c tau p p numbers

    A convolution whose stride equals its kernel reads every box once, so it is this matrix product. `proj` holds the
    weight in the shape of that convolution, d c tau p p, which is how published models store it.

    Args:
        in_channels: channels c of a frame.
        embed_dim: width d of a token.
        patch_size: side p of a box, in pixels.
        temporal_patch_size: depth tau of a box, in frames. 1 embeds every frame alone.
        bias: whether b is learned.

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
    ):
        super().__init__()
        self.in_channels = in_channels
        self.patch_size = patch_size
        self.temporal_patch_size = temporal_patch_size
        # Only a place for the two parameters, with their published names, shapes and first values: it is never called.
        box = (temporal_patch_size, patch_size, patch_size)
        self.proj = nn.Conv3d(in_channels, embed_dim, box, stride=box, bias=bias)

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
        boxes = rearrange(
            clips,
            "b (gt tau) c (gh p1) (gw p2) -> b (gt gh gw) (c tau p1 p2)",
            tau=self.temporal_patch_size,
            p1=self.patch_size,
            p2=self.patch_size,
        )
        return self.embed(boxes)

    def embed(self, boxes: Float[Tensor, "*rows box"]) -> Float[Tensor, "*rows d"]:
        """Embed boxes that are already cut, in whatever order they stand.

        Args:
            boxes: rows of c tau p p numbers, channel by channel, in it frame by frame, row by row.

        Returns:
            One token a row, in the order of the rows.

        Raises:
            ShapeError: if a row has another number of entries.
        """
        weight = rearrange(self.proj.weight, "d c tau p1 p2 -> d (c tau p1 p2)")
        if boxes.shape[-1] != weight.shape[1]:
            raise ShapeError(
                f"boxes: rows of {boxes.shape[-1]} numbers, expected {weight.shape[1]} = {self.in_channels} channels x "
                f"{self.temporal_patch_size} frames x {self.patch_size} x {self.patch_size} pixels"
            )
        return F.linear(boxes, weight, self.proj.bias)

    def grid(self, clips: Float[Tensor, "b t c h w"]) -> Grid:
        """How many boxes a clip has along time, height and width.

        Args:
            clips: as in `forward`.

        Raises:
            ShapeError: as in `forward`.
        """
        if clips.ndim != 5 or clips.shape[2] != self.in_channels:
            raise ShapeError(f"clips: shape {tuple(clips.shape)}, expected b t c h w with c={self.in_channels}")
        _, t, _, h, w = clips.shape
        sizes = (("t", t, self.temporal_patch_size), ("h", h, self.patch_size), ("w", w, self.patch_size))
        for axis, size, step in sizes:
            if size % step or size == 0:
                raise ShapeError(
                    f"clips: {axis}={size} is not a multiple of {step}; crop, pad or resize the clip first"
                )
        return Grid(*(size // step for _, size, step in sizes))
