"""Well-known wrong ways to cut a clip into patches, and to put it together again."""

from collections.abc import Callable, Iterator

import torch
from einops import rearrange
from torch import Tensor

from minivid.classroom.museum import Mistake
from minivid.shapes import Grid
from minivid.video.patches import CLIP, ROWS, patchify, unpatchify


def repeat_last(frames: Tensor, depth: int) -> Tensor:
    return torch.cat([frames, *[frames[-1:]] * (-len(frames) % depth)])


def pad_with_zeros(frames: Tensor, depth: int) -> Tensor:
    return torch.cat([frames, *[torch.zeros_like(frames[-1:])] * (-len(frames) % depth)])


def repeat_first(frames: Tensor, depth: int) -> Tensor:
    return torch.cat([*[frames[:1]] * (-len(frames) % depth), frames])


def start_again(frames: Tensor, depth: int) -> Tensor:
    return torch.cat([frames] * depth)[: len(frames) + -len(frames) % depth]


def drop_the_rest(frames: Tensor, depth: int) -> Tensor:
    return frames[: len(frames) // depth * depth]


def cut(rows: str = ROWS, clip: str = CLIP, *, fill: Callable = repeat_last, order: tuple = (0, 1, 2)) -> Callable:
    """patchify with other axes of the rows, another way to fill the last box, or another order of the grid."""

    def answer(
        frames: Tensor, *, patch_size: int = 16, temporal_patch_size: int = 2, spatial_merge_size: int = 2
    ) -> tuple[Tensor, Grid]:
        whole = fill(frames, temporal_patch_size)
        sizes = {"tau": temporal_patch_size, "py": patch_size, "px": patch_size}
        merge = {"mh": spatial_merge_size, "mw": spatial_merge_size} if "mh" in clip else {}
        grid = len(whole) // temporal_patch_size, frames.shape[2] // patch_size, frames.shape[3] // patch_size
        return rearrange(whole, f"{clip} -> {rows}", **sizes, **merge), Grid(*(grid[axis] for axis in order))

    return answer


def reshape_only(frames, *, patch_size=16, temporal_patch_size=2, spatial_merge_size=2):
    rows, grid = cut()(
        frames,
        patch_size=patch_size,
        temporal_patch_size=temporal_patch_size,
        spatial_merge_size=spatial_merge_size,
    )
    return repeat_last(frames, temporal_patch_size).reshape(rows.shape), grid


def normalize_again(frames, **sizes):
    return patchify((frames - 127.5) / 127.5, **sizes)


def grid_of_tokens(frames, *, spatial_merge_size=2, **sizes):
    rows, (gt, gh, gw) = patchify(frames, spatial_merge_size=spatial_merge_size, **sizes)
    return rows, Grid(gt, gh // spatial_merge_size, gw // spatial_merge_size)


def grid_of_frames(frames, **sizes):
    rows, (_, gh, gw) = patchify(frames, **sizes)
    return rows, Grid(len(frames), gh, gw)


def join(rows: str = ROWS, clip: str = CLIP, *, order: tuple = (0, 1, 2)) -> Callable:
    """unpatchify with other axes of the rows or of the clip, or another reading of the grid."""

    def answer(
        patches: Tensor, grid: tuple, *, patch_size: int = 16, temporal_patch_size: int = 2, spatial_merge_size: int = 2
    ) -> Tensor:
        gt, gh, gw = (grid[axis] for axis in order)
        merge = spatial_merge_size
        sizes = {"gt": gt, "tau": temporal_patch_size, "py": patch_size, "px": patch_size}
        if "bh" in rows:
            sizes |= {"bh": gh // merge, "bw": gw // merge, "mh": merge, "mw": merge}
        else:
            sizes |= {"gh": gh, "gw": gw}
        return rearrange(patches, f"{rows} -> {clip}", **sizes)

    return answer


def join_reshape_only(patches, grid, *, patch_size=16, temporal_patch_size=2, spatial_merge_size=2):
    gt, gh, gw = grid
    return patches.reshape(gt * temporal_patch_size, -1, gh * patch_size, gw * patch_size)


def join_one_frame_per_box(patches, grid, *, temporal_patch_size=2, **sizes):
    return unpatchify(patches, grid, temporal_patch_size=temporal_patch_size, **sizes)[::temporal_patch_size]


def join_to_bytes(patches, grid, **sizes):
    return unpatchify(patches, grid, **sizes) * 127.5 + 127.5


RASTER = "(gt tau) c (gh py) (gw px)"

MISTAKES: dict[str, list[Mistake]] = {
    "patchify": [
        Mistake(
            cut("(gt gh gw) (c tau py px)", RASTER),
            (
                "The right boxes come in the wrong order.",
                "Boxes that will be merged into one token must follow each other; yours run along whole lines.",
                "Split gh into (bh mh) and gw into (bw mw), and order the rows (gt bh bw mh mw).",
            ),
        ),
        Mistake(
            cut("(bh bw gt mh mw) (c tau py px)"),
            (
                "The right boxes come in the wrong order.",
                "All boxes of the first moment come before any box of the next.",
                "Time is the slowest axis of the rows: (gt bh bw mh mw).",
            ),
        ),
        Mistake(
            cut("(gt bw bh mh mw) (c tau py px)"),
            (
                "The blocks come in the wrong order.",
                "Blocks run like words on a page: along a line first, then the next line.",
                "Of the two block axes bw is the faster one: (gt bh bw mh mw).",
            ),
        ),
        Mistake(
            cut("(gt bh bw mw mh) (c tau py px)"),
            (
                "Inside a block the boxes come in the wrong order.",
                "Inside a block, too, boxes run along a line first.",
                "mw is the fastest axis of the rows: (gt bh bw mh mw).",
            ),
        ),
        Mistake(
            cut("(gt bh bw) (mh mw c tau py px)"),
            (
                "There are too few rows.",
                "Merging is the model's work, after it has looked at every box on its own.",
                "mh and mw belong to the rows, not to the columns: (gt bh bw mh mw) (c tau py px).",
            ),
        ),
        Mistake(
            cut("(gt bh bw mh mw) (tau py px c)"),
            (
                "The numbers inside a row come in the wrong order.",
                "A row is read channel by channel: first everything red.",
                "c is the slowest axis inside a row: (c tau py px).",
            ),
        ),
        Mistake(
            cut("(gt bh bw mh mw) (tau c py px)"),
            (
                "The numbers inside a row come in the wrong order.",
                "All frames of the first channel come before the second channel.",
                "Swap tau and c: (c tau py px).",
            ),
        ),
        Mistake(
            cut("(gt bh bw mh mw) (c py px tau)"),
            (
                "The numbers inside a row come in the wrong order.",
                "In a channel, one frame of the box is read to its end before the next frame begins.",
                "tau comes before the pixels: (c tau py px).",
            ),
        ),
        Mistake(
            cut("(gt bh bw mh mw) (c tau px py)"),
            (
                "The numbers inside a row come in the wrong order.",
                "Each little picture lies on its side.",
                "Pixel rows before pixel columns: (c tau py px).",
            ),
        ),
        Mistake(
            cut("(gt bh bw mh mw) (c tau py px)", "(tau gt) c (bh mh py) (bw mw px)"),
            (
                "A box holds frames that do not follow each other.",
                "Neighbouring frames belong in one box; yours takes frames that are gt apart.",
                "Split time as (gt tau), not (tau gt).",
            ),
        ),
        Mistake(
            cut(fill=pad_with_zeros),
            (
                "Look at a clip whose length is not a multiple of temporal_patch_size.",
                "The last box is filled up with something that was not in the clip.",
                "Repeat the last frame instead of adding zeros: 0 is a grey picture.",
            ),
        ),
        Mistake(
            cut(fill=repeat_first),
            (
                "Look at a clip whose length is not a multiple of temporal_patch_size.",
                "All frames have moved by one: the filling is at the wrong end.",
                "Repeat the last frame, after it.",
            ),
        ),
        Mistake(
            cut(fill=start_again),
            (
                "Look at a clip whose length is not a multiple of temporal_patch_size.",
                "After its end the clip begins anew.",
                "Repeat the last frame, not the first ones.",
            ),
        ),
        Mistake(
            cut(fill=drop_the_rest),
            (
                "Look at a clip whose length is not a multiple of temporal_patch_size.",
                "The frames at the end that fill no whole box are lost.",
                "Round the number of boxes up and repeat the last frame.",
            ),
        ),
        Mistake(
            reshape_only,
            (
                "The shape is right, the numbers in it are not.",
                "reshape cuts the memory into pieces of equal length: a row becomes a piece of a line, not a box.",
                "Split every axis, move the axes, then flatten: einops.rearrange does the three in one line.",
            ),
        ),
        Mistake(
            normalize_again,
            (
                "The boxes are in place, but their numbers have changed.",
                "The frames come normalised already.",
                "Leave out (x - 127.5) / 127.5.",
            ),
        ),
        Mistake(
            cut(order=(0, 2, 1)),
            (
                "The rows are right; look at the grid.",
                "Two of its numbers have changed places.",
                "The grid is (gt, gh, gw): height before width.",
            ),
        ),
        Mistake(
            cut(order=(1, 0, 2)),
            (
                "The rows are right; look at the grid.",
                "Two of its numbers have changed places.",
                "The grid is (gt, gh, gw): time first.",
            ),
        ),
        Mistake(
            grid_of_tokens,
            (
                "The rows are right; look at the grid.",
                "The grid counts boxes; yours counts what becomes of them later.",
                "gh = h / patch_size and gw = w / patch_size, without spatial_merge_size.",
            ),
        ),
        Mistake(
            grid_of_frames,
            (
                "The rows are right; look at the grid.",
                "The first number counts boxes along time, not frames.",
                "gt = ceil(t / temporal_patch_size).",
            ),
        ),
    ],
    "unpatchify": [
        Mistake(
            join("(gt gh gw) (c tau py px)", RASTER),
            (
                "The boxes land in the wrong places.",
                "The rows do not run along whole lines: they run block by block.",
                "Read the rows as (gt bh bw mh mw) and put h together as (bh mh py).",
            ),
        ),
        Mistake(
            join("(bh bw gt mh mw) (c tau py px)"),
            (
                "The boxes land in the wrong places.",
                "The first gh gw rows all belong to the first moment.",
                "Time is the slowest axis of the rows: (gt bh bw mh mw).",
            ),
        ),
        Mistake(
            join("(gt bw bh mh mw) (c tau py px)"),
            (
                "The blocks land in the wrong places.",
                "Blocks run along a line first, then the next line.",
                "Of the two block axes bw is the faster one: (gt bh bw mh mw).",
            ),
        ),
        Mistake(
            join("(gt bh bw mw mh) (c tau py px)"),
            (
                "Inside a block the boxes land in the wrong places.",
                "Inside a block, too, boxes run along a line first.",
                "mw is the fastest axis of the rows: (gt bh bw mh mw).",
            ),
        ),
        Mistake(
            join("(gt bh bw mh mw) (tau py px c)"),
            (
                "The boxes are in place, the numbers inside them are not.",
                "A row begins with everything red.",
                "Read the columns as (c tau py px).",
            ),
        ),
        Mistake(
            join("(gt bh bw mh mw) (tau c py px)"),
            (
                "The boxes are in place, the numbers inside them are not.",
                "A row holds all frames of the first channel before the second channel.",
                "Read the columns as (c tau py px).",
            ),
        ),
        Mistake(
            join("(gt bh bw mh mw) (c py px tau)"),
            (
                "The boxes are in place, the numbers inside them are not.",
                "In a channel, one frame is complete before the next begins.",
                "Read the columns as (c tau py px).",
            ),
        ),
        Mistake(
            join("(gt bh bw mh mw) (c tau px py)"),
            (
                "The boxes are in place, the numbers inside them are not.",
                "Each little picture lies on its side.",
                "Read the columns as (c tau py px): pixel rows before pixel columns.",
            ),
        ),
        Mistake(
            join(clip="(tau gt) c (bh mh py) (bw mw px)"),
            (
                "The frames come in the wrong order.",
                "The frames of one box follow each other.",
                "Put time together as (gt tau), not (tau gt).",
            ),
        ),
        Mistake(
            join(clip="(gt tau) c (mh bh py) (mw bw px)"),
            (
                "The boxes land in the wrong places.",
                "The boxes of one block are neighbours.",
                "Put height together as (bh mh py) and width as (bw mw px).",
            ),
        ),
        Mistake(
            join(clip="c (gt tau) (bh mh py) (bw mw px)"),
            (
                "Look at the shape.",
                "A clip is t c h w here, one frame after the other.",
                "Time before channels: (gt tau) c (bh mh py) (bw mw px).",
            ),
        ),
        Mistake(
            join(order=(0, 2, 1)),
            (
                "Look at a picture that is not square.",
                "The grid is read in the wrong order.",
                "gt, gh, gw = grid: height before width.",
            ),
        ),
        Mistake(
            join_reshape_only,
            (
                "The shape is right, the numbers in it are not.",
                "reshape lays the rows end to end: boxes become stripes.",
                "Split both axes, move the pieces, then join them: einops.rearrange does the three in one line.",
            ),
        ),
        Mistake(
            join_one_frame_per_box,
            (
                "There are too few frames.",
                "A box holds temporal_patch_size frames, and all of them come back.",
                "t = gt temporal_patch_size: keep tau in (gt tau).",
            ),
        ),
        Mistake(
            join_to_bytes,
            (
                "The boxes are in place, but their numbers have changed.",
                "unpatchify moves numbers and changes none.",
                "Leave out x * 127.5 + 127.5.",
            ),
        ),
    ],
}


def probes(name: str) -> Iterator[tuple[tuple, dict]]:
    """Clips and patches of sizes that all differ, so that no two of the mistakes above give the same."""
    for t, c, bh, bw, depth, side, merge in ((5, 3, 2, 3, 2, 2, 2), (3, 2, 1, 2, 2, 3, 2), (4, 1, 3, 2, 3, 2, 1)):
        sizes = {"patch_size": side, "temporal_patch_size": depth, "spatial_merge_size": merge}
        shape = (t, c, bh * merge * side, bw * merge * side)
        frames = torch.rand(shape, generator=torch.Generator().manual_seed(t)) * 2 - 1
        if name == "patchify":
            yield (frames,), sizes
        else:
            yield patchify(frames, **sizes), sizes
