"""A clip is cut into small space-time boxes, one row of numbers each, and put together again."""

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Float32, Num, UInt8
from torch import Tensor

from minivid.shapes import Grid, ShapeError, checked_grid
from minivid.video.resize import normalize_

# A clip, and the rows of its patches. Rows run over time, then over blocks of merge x merge patches, then inside a
# block: the patches that will be merged into one token stand next to each other. (bh, bw): blocks along height and
# width; (mh, mw): the patch inside its block; (py, px): the pixel inside its patch.
CLIP = "(gt tau) c (bh mh py) (bw mw px)"
ROWS = "(gt bh bw mh mw) (c tau py px)"


def patchify(
    frames: Float[Tensor, "t c h w"],
    *,
    patch_size: int = 16,
    temporal_patch_size: int = 2,
    spatial_merge_size: int = 2,
) -> tuple[Float[Tensor, "n d"], Grid]:
    """Cut a clip into space-time boxes, one row per box.

    Rows run frame group by frame group, then over blocks of merge x merge boxes, then inside a block, so that the
    boxes that will be merged into one token stand next to each other. A row holds channel by channel, in it frame by
    frame, in it pixel row by pixel row.

    Args:
        frames: normalised pixels, at least one frame. The last frame is repeated up to a multiple of
            temporal_patch_size.
        patch_size: side of a box, in pixels.
        temporal_patch_size: depth of a box, in frames.
        spatial_merge_size: boxes along one side of a merged token.

    Returns:
        The rows, n = gt gh gw and d = c temporal_patch_size patch_size^2, and the grid (gt, gh, gw).

    Raises:
        ShapeError: if h or w is not a multiple of patch_size * spatial_merge_size, or there is no frame.

    Source: Qwen3-VL technical report (arXiv:2511.21631); Dosovitskiy et al. 2021, section 3.1 (arXiv:2010.11929).
    """
    grid = grid_of(
        frames.shape[0],
        frames.shape[2],
        frames.shape[3],
        patch_size=patch_size,
        temporal_patch_size=temporal_patch_size,
        spatial_merge_size=spatial_merge_size,
    )
    missing = grid.gt * temporal_patch_size - len(frames)
    if missing:
        frames = torch.cat([frames, repeat(frames[-1], "c h w -> missing c h w", missing=missing)])
    merge = spatial_merge_size
    rows = rearrange(
        frames, f"{CLIP} -> {ROWS}", tau=temporal_patch_size, mh=merge, mw=merge, py=patch_size, px=patch_size
    )
    return rows, grid


def unpatchify(
    patches: Num[Tensor, "n d"],
    grid: tuple[int, int, int],
    *,
    patch_size: int = 16,
    temporal_patch_size: int = 2,
    spatial_merge_size: int = 2,
) -> Num[Tensor, "t c h w"]:
    """Put the boxes of `patchify` back to where they were cut.

    Args:
        patches: one row per box, n = gt gh gw; d = c temporal_patch_size patch_size^2 gives the channels.
        grid: boxes along time, height and width.
        patch_size, temporal_patch_size, spatial_merge_size: those of `patchify`.

    Returns:
        The clip, t = gt temporal_patch_size frames: a last frame that `patchify` repeated is there twice.

    Raises:
        ShapeError: if the grid is not made of whole blocks, n is not gt gh gw, or d is not a multiple of
            temporal_patch_size * patch_size^2.
    """
    gt, gh, gw = checked_grid(grid, spatial_merge_size)
    n, d = patches.shape
    merge, box = spatial_merge_size, temporal_patch_size * patch_size**2
    if n != gt * gh * gw:
        raise ShapeError(f"patches: n={n} rows, but the grid {gt} x {gh} x {gw} has {gt * gh * gw}; give its own grid")
    if d == 0 or d % box:
        raise ShapeError(
            f"patches: d={d} is not a multiple of {box} (temporal_patch_size {temporal_patch_size} x "
            f"patch_size {patch_size}^2); give the sizes that cut them"
        )
    sizes = {"bh": gh // merge, "bw": gw // merge, "mh": merge, "mw": merge, "py": patch_size, "px": patch_size}
    return rearrange(patches, f"{ROWS} -> {CLIP}", tau=temporal_patch_size, **sizes)


def grid_of(
    frames: int,
    height: int,
    width: int,
    *,
    patch_size: int = 16,
    temporal_patch_size: int = 2,
    spatial_merge_size: int = 2,
) -> Grid:
    """Count the boxes of a clip along time, height and width, without the clip.

    gt = ceil(frames / temporal_patch_size), gh = height / patch_size, gw = width / patch_size.

    Args:
        frames: frames of the clip.
        height, width: their size in pixels.
        patch_size, temporal_patch_size, spatial_merge_size: see `patchify`.

    Returns:
        The grid.

    Raises:
        ShapeError: if height or width is not a multiple of patch_size * spatial_merge_size, or there is no frame.
    """
    if frames < 1:
        raise ShapeError(f"frames: t={frames}; a clip has at least one frame")
    factor = patch_size * spatial_merge_size
    for axis, size in (("h", height), ("w", width)):
        if size < 1 or size % factor:
            nearest = max(factor, round(size / factor) * factor)
            raise ShapeError(
                f"frames: {axis}={size} is not a multiple of {factor} (patch_size {patch_size} x "
                f"spatial_merge_size {spatial_merge_size}); resize to {nearest} or use smart_resize"
            )
    return Grid(-(-frames // temporal_patch_size), height // patch_size, width // patch_size)


def token_count(grid: tuple[int, int, int], *, spatial_merge_size: int = 2) -> int:
    """Count the tokens that a language model sees of a clip: gt gh gw / spatial_merge_size^2.

    Args:
        grid: boxes along time, height and width.
        spatial_merge_size: boxes along one side of a merged token.

    Returns:
        The number of merged tokens.

    Raises:
        ShapeError: if the grid is not made of whole blocks.
    """
    gt, gh, gw = checked_grid(grid, spatial_merge_size)
    return gt * gh * gw // spatial_merge_size**2


def write_patches(
    pixels: UInt8[Tensor, "tau c h w"],
    rows: Float32[Tensor, "n d"],
    *,
    patch_size: int = 16,
    spatial_merge_size: int = 2,
) -> None:
    """Normalise the frames of one temporal patch and write them into its rows, bit for bit those of `patchify`.

    One copy does the cutting and the change from bytes to floats, straight into memory that is there already; for a
    long clip that is a fraction of the time and memory of normalising first and cutting then.

    Args:
        pixels: as many frames as a patch is deep.
        rows: gh gw contiguous rows, overwritten: of the patches of the clip, those of this temporal patch.
        patch_size, spatial_merge_size: see `patchify`.

    Raises:
        ShapeError: if the frames are not of a size that gives these rows.
    """
    tau, c, h, w = pixels.shape
    _, gh, gw = grid_of(tau, h, w, patch_size=patch_size, spatial_merge_size=spatial_merge_size)
    wanted = gh * gw, c * tau * patch_size**2
    if tuple(rows.shape) != wanted or not rows.is_contiguous():
        raise ShapeError(
            f"rows: n={rows.shape[0]}, d={rows.shape[1]}; these frames need {wanted[0]} x {wanted[1]}, contiguous"
        )
    merge = spatial_merge_size
    boxes = "bh bw mh mw c tau py px"
    source = rearrange(
        pixels, f"tau c (bh mh py) (bw mw px) -> {boxes}", mh=merge, mw=merge, py=patch_size, px=patch_size
    )
    # Splitting axes gives views, so this writes to the rows themselves.
    rows.view(source.shape).copy_(source)
    normalize_(rows)
