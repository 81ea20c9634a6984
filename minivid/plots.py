"""Every figure of the project: arrays go in, matplotlib axes come out, nothing is shown or saved on the way.

Colours are the Okabe-Ito palette (distinct for colour-blind readers) and the map cividis; sizes are in inches at 120
dots per inch. The only module that imports matplotlib, through its object interface: no window system is needed.
"""

import io
import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Num, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
DOTS_PER_INCH = 120


class Picture(Figure):
    """A figure that a notebook shows when it is the value of a cell, with the same bytes at every run."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        save_png(self, buffer)
        return buffer.getvalue()


def new_figure(
    rows: int = 1, columns: int = 1, *, width: int | float = 6.0, height: int | float = 3.2
) -> tuple[Figure, np.ndarray]:
    """Make a figure and its `rows x columns` array of axes."""
    figure = Picture(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_png(figure: Figure, target: str | os.PathLike | io.BufferedIOBase) -> None:
    """Write a figure as PNG bytes that depend on the figure alone.

    Args:
        figure: what to write.
        target: a binary file object, or a path (written to a temporary name in the same folder, then renamed).
    """
    options = {"format": "png", "dpi": DOTS_PER_INCH, "metadata": {"Software": None}}
    if not isinstance(target, str | os.PathLike):
        figure.savefig(target, **options)
        return
    temporary = f"{os.fspath(target)}.{os.getpid()}.part"
    try:
        figure.savefig(temporary, **options)
        os.replace(temporary, target)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _picture(pixels: Num[Tensor, "c h w"]) -> np.ndarray:
    """Turn one frame into `h w c` numbers in 0..1: whole numbers are read as 0..255, floats as normalised to -1..1."""
    values = pixels.detach().cpu().to(torch.float32)
    values = (values + 1) / 2 if pixels.is_floating_point() else values / 255
    return rearrange(values.clamp(0, 1), "c h w -> h w c").numpy()


def _bare(axes: Axes) -> None:
    """Take the ticks away: a picture of a scene needs no pixel numbers."""
    axes.set_xticks([])
    axes.set_yticks([])


def frames(
    pixels: Num[Tensor, "t c h w"],
    *,
    seconds: Sequence[int | float] | Float[Tensor, " t"] | None = None,
    titles: Sequence[str] | None = None,
    title: str = "",
    columns: int | None = None,
) -> Figure:
    """Draw the frames of a clip side by side in the order of time.

    Args:
        pixels: whole numbers 0..255, or floats normalised to -1..1.
        seconds: when each frame is shown; stands below it.
        titles: one line above each frame.
        title: the finding, above all.
        columns: frames in one row; by default all of them up to eight.
    """
    count, _, height, width = pixels.shape
    columns = min(count, columns or 8)
    rows = -(-count // columns)
    cell = min(1.9, 11.0 / columns)
    below = 0.25 if seconds is not None else 0.0
    above = 0.25 if titles is not None else 0.0
    figure, grid = new_figure(
        rows,
        columns,
        width=cell * columns,
        height=rows * (cell * height / width + below + above) + (0.4 if title else 0.1),
    )
    for index, axes in enumerate(grid.flat):
        _bare(axes)
        if index >= count:
            axes.set_axis_off()
            continue
        axes.imshow(_picture(pixels[index]), aspect="equal")
        if seconds is not None:
            axes.set_xlabel(f"{float(seconds[index]):.2f} s", fontsize=8)
        if titles is not None:
            axes.set_title(titles[index], fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def patch_grid(
    frame: Num[Tensor, "c h w"],
    *,
    patch_size: int,
    spatial_merge_size: int = 1,
    title: str = "",
    axes: Axes | None = None,
) -> Axes:
    """Draw one frame with the patch borders (thin) and the borders of merged tokens (thick) on top.

    Args:
        frame: one picture, as for `frames`.
        patch_size: side of a patch in pixels.
        spatial_merge_size: patches along one side of a merged token.
        title: the finding; by default the counts.
        axes: where to draw; by default a new figure.
    """
    _, height, width = frame.shape
    if axes is None:
        figure, grid = new_figure(width=6.0, height=max(1.2, 6.0 * height / width) + 0.6)
        axes = grid[0, 0]
    axes.imshow(_picture(frame), extent=(0, width, height, 0))
    # Lines as thin as the picture is small, or thousands of patches would hide what is in them.
    points = 72 * axes.figure.get_figwidth() / axes.get_gridspec().ncols * patch_size / width
    for step, share, line, most in ((patch_size, 0.6, 0.035, 0.8), (patch_size * spatial_merge_size, 1.0, 0.09, 2.4)):
        style = dict(color="white", linewidth=min(most, line * points), alpha=share)
        axes.hlines(np.arange(0, height + 1, step), 0, width, **style)
        axes.vlines(np.arange(0, width + 1, step), 0, height, **style)
    axes.set(xlim=(0, width), ylim=(height, 0), xlabel="column (pixel)", ylabel="row (pixel)")
    rows, columns = height // patch_size, width // patch_size
    merged = (rows // spatial_merge_size) * (columns // spatial_merge_size)
    axes.set_title(title or f"{rows} x {columns} patches of {patch_size} px, {merged} merged tokens", fontsize=9)
    return axes


def patch_order(
    numbers: Num[Tensor, "gh gw"], *, spatial_merge_size: int = 1, title: str = "", axes: Axes | None = None
) -> Axes:
    """Draw the number that each patch of one frame group has in the sequence, and the blocks that are merged.

    Args:
        numbers: the position of every patch in the sequence, laid out as in the picture.
        spatial_merge_size: patches along one side of a block (thick lines).
        title: the finding.
        axes: where to draw; by default a new figure.
    """
    rows, columns = numbers.shape
    if axes is None:
        _, grid = new_figure(width=max(3.0, 0.5 * columns + 1.6), height=max(2.0, 0.5 * rows + 1.0))
        axes = grid[0, 0]
    image = axes.imshow(numbers.cpu().numpy(), cmap="cividis")
    for row in range(rows):
        for column in range(columns):
            value = int(numbers[row, column])
            dark = value < (rows * columns) / 2
            axes.text(column, row, value, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.hlines(np.arange(-0.5, rows, spatial_merge_size), -0.5, columns - 0.5, color="white", linewidth=2)
    axes.vlines(np.arange(-0.5, columns, spatial_merge_size), -0.5, rows - 0.5, color="white", linewidth=2)
    axes.set(xlabel="patch column", ylabel="patch row", xticks=range(columns), yticks=range(rows))
    axes.set_title(title or f"order of {rows} x {columns} patches", fontsize=9)
    axes.figure.colorbar(image, ax=axes, label="row in the patch matrix", shrink=0.85)
    return axes


def sampled_times(
    seconds_all: Float[Tensor, " total"] | Sequence[int | float],
    seconds_chosen: Float[Tensor, " t"] | Sequence[int | float],
    *,
    title: str = "",
    axes: Axes | None = None,
) -> Axes:
    """Draw when the frames of a file are shown, and which of them were chosen.

    Args:
        seconds_all: the time of every frame in the file.
        seconds_chosen: the times of the chosen ones.
        title: the finding; by default the counts.
        axes: where to draw; by default a new figure.
    """
    if axes is None:
        _, grid = new_figure(width=7.0, height=1.5)
        axes = grid[0, 0]
    axes.vlines(np.asarray(seconds_all), 0.0, 0.5, color="#BBBBBB", linewidth=0.6, label="in the file")
    axes.vlines(np.asarray(seconds_chosen), 0.0, 1.0, color=OKABE_ITO[5], linewidth=1.2, label="chosen")
    axes.set(xlabel="time (second)", ylim=(0, 1.6), yticks=[])
    axes.set_ylabel("frames")
    axes.legend(loc="upper right", fontsize=7, ncols=2, frameon=False)
    axes.set_title(title or f"{len(seconds_chosen)} of {len(seconds_all)} frames chosen", fontsize=9)
    return axes


def curves(
    lines: Mapping[str, tuple[Sequence[int | float], Sequence[int | float]]],
    *,
    title: str,
    ylabel: str,
    xlabel: str = "step",
    axes: Axes | None = None,
) -> Axes:
    """Draw one curve a name.

    Args:
        lines: for every name, the steps and the values.
        title: the finding.
        ylabel, xlabel: what the numbers are, with units.
        axes: where to draw; by default a new figure.
    """
    if axes is None:
        _, grid = new_figure(width=5.2, height=3.0)
        axes = grid[0, 0]
    for colour, (name, (steps, values)) in zip(_cycle(len(lines)), lines.items(), strict=True):
        marker = "o" if len(steps) <= 20 else None
        axes.plot(list(steps), list(values), label=name, color=colour, marker=marker, markersize=3, linewidth=1.4)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.set_title(title, fontsize=9)
    if lines:
        axes.legend(fontsize=8)
    return axes


def confusion(matrix: Num[Tensor, "v v"], names: Sequence[str], *, title: str, axes: Axes | None = None) -> Axes:
    """Draw how often each true class (row) was answered as each class (column).

    Args:
        matrix: counts, true class by answered class.
        names: the classes in order.
        title: the finding.
        axes: where to draw; by default a new figure.
    """
    counts = matrix.detach().cpu().numpy()
    if axes is None:
        _, grid = new_figure(width=0.62 * len(names) + 2.2, height=0.55 * len(names) + 1.4)
        axes = grid[0, 0]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] < 0.5 else "black"
        axes.text(column, row, f"{counts[row, column]:g}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="answered class", ylabel="true class")
    axes.set_title(title, fontsize=9)
    axes.figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.85)
    return axes


def attention_map(
    weights: Float[Tensor, "n s"],
    *,
    title: str,
    xlabel: str = "token that is read (key)",
    ylabel: str = "token that reads (query)",
    axes: Axes | None = None,
) -> Axes:
    """Draw attention weights as a matrix: row i shows how query i shares one among the keys.

    Args:
        weights: rows that sum to one.
        title: the finding, with the shape.
        xlabel, ylabel: what the tokens are.
        axes: where to draw; by default a new figure.
    """
    queries, keys = weights.shape
    if axes is None:
        _, grid = new_figure(width=min(7.0, 3.0 + 0.08 * keys), height=min(6.0, 2.2 + 0.08 * queries))
        axes = grid[0, 0]
    image = axes.imshow(weights.detach().cpu().numpy(), cmap="cividis", vmin=0, aspect="auto")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, fontsize=9)
    axes.figure.colorbar(image, ax=axes, label="weight")
    return axes


def attention_on_frames(
    pixels: Num[Tensor, "t c h w"],
    weights: Float[Tensor, "gt gh gw"],
    *,
    seconds: Sequence[int | float] | Float[Tensor, " t"] | None = None,
    title: str = "",
) -> Figure:
    """Draw where and when a query looks: the weight of every patch over the first frame of its group.

    Args:
        pixels: the clip; t is a multiple of gt.
        weights: one weight a patch, over time, height and width.
        seconds: when each frame is shown.
        title: the finding.
    """
    groups = weights.shape[0]
    depth = pixels.shape[0] // groups
    height, width = pixels.shape[-2:]
    figure, grid = new_figure(
        2, groups, width=min(11.0, 1.6 * groups) + 0.8, height=2 * min(1.6, 11.0 / groups) * height / width + 1.0
    )
    image = None
    for group in range(groups):
        top, bottom = grid[0, group], grid[1, group]
        picture = _picture(pixels[group * depth])
        top.imshow(picture)
        bottom.imshow(picture.mean(axis=-1), cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0))
        image = bottom.imshow(
            weights[group].detach().cpu().numpy(), cmap="cividis", alpha=0.75, vmin=0, vmax=float(weights.max()),
            extent=(0, width, height, 0), interpolation="nearest",
        )  # fmt: skip
        share = float(weights[group].sum() / weights.sum().clamp_min(1e-12))
        bottom.set_xlabel(f"{share:.0%} of the weight", fontsize=8)
        when = f"{float(seconds[group * depth]):.2f} s" if seconds is not None else f"frame {group * depth}"
        top.set_title(when, fontsize=8)
        _bare(top)
        _bare(bottom)
    grid[0, 0].set_ylabel("frame", fontsize=8)
    grid[1, 0].set_ylabel("weight", fontsize=8)
    figure.colorbar(image, ax=grid[1, :].tolist(), label="weight of a patch", shrink=0.9)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def sampled_frames(
    pixels: UInt8[Tensor, "t c h w"],
    seconds: Sequence[int | float] | Float[Tensor, " t"],
    indices: Sequence[int],
    *,
    patch_size: int,
    spatial_merge_size: int,
    title: str = "",
    columns: int = 5,
) -> Figure:
    """Draw the sampled frames with their numbers and times, and the patch and merge borders on top.

    Args:
        pixels: the frames after resizing.
        seconds, indices: when each is shown, and its number in the file.
        patch_size: side of a patch in pixels.
        spatial_merge_size: patches along one side of a merged token.
        title: the finding.
        columns: frames in one row.
    """
    count, _, height, width = pixels.shape
    columns = min(count, columns)
    rows = -(-count // columns)
    cell = 18.0 / 5
    figure, grid = new_figure(rows, columns, width=cell * columns, height=rows * (cell * height / width + 0.25) + 0.5)
    for index, axes in enumerate(grid.flat):
        if index >= count:
            axes.set_axis_off()
            continue
        label = f"frame {indices[index]}, {float(seconds[index]):.2f} s"
        patch_grid(pixels[index], patch_size=patch_size, spatial_merge_size=spatial_merge_size, title=label, axes=axes)
        _bare(axes)
        axes.set(xlabel="", ylabel="")
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def words_on_frames(
    pixels: Num[Tensor, "t c h w"],
    weights: Float[Tensor, "n t"],
    words: Sequence[str],
    *,
    title: str,
    label: str = "weight",
) -> Figure:
    """Draw which word goes with which frame: a row for each word, and above each column its frame.

    Args:
        pixels: the clip.
        weights: one number for each word and frame.
        words: the words, from the top.
        title: the finding, with the shape.
        label: what the numbers are.
    """
    count, _, height, width = pixels.shape
    figure = Picture(figsize=(min(11.0, 0.75 * count + 2.2), 1.7 + 0.32 * len(words)), dpi=DOTS_PER_INCH)
    figure.set_layout_engine("constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1, 0.4 * len(words)]})
    strip = np.concatenate([_picture(frame) for frame in pixels], axis=1)
    side = height / width
    top.imshow(strip, extent=(-0.5, count - 0.5, side, 0), aspect="auto")
    top.vlines(np.arange(0.5, count - 1), 0, side, color="white", linewidth=1.5)
    top.set_ylabel("frame", fontsize=8)
    _bare(top)
    image = bottom.imshow(weights.detach().cpu().numpy(), cmap="cividis", vmin=0, aspect="auto")
    bottom.tick_params(axis="x", labelbottom=True, bottom=True)
    bottom.set_xticks(range(count))
    bottom.set_yticks(range(len(words)), words, fontsize=8)
    bottom.set(xlabel="frame number", ylabel="word")
    figure.colorbar(image, ax=bottom, label=label)
    figure.suptitle(title, fontsize=10)
    return figure


def _cycle(count: int) -> list[str]:
    """As many line colours as asked for, repeating the palette when it runs out."""
    return [OKABE_ITO[i % len(OKABE_ITO)] for i in range(count)]


def clips_with_words(clips: Sequence[Num[Tensor, "_ c _ _"]], words: Sequence[Sequence[str]], *, title: str) -> Figure:
    """Draw clips below each other, the frames of each side by side, and what is said about it at the right.

    Args:
        clips: whole numbers 0..255, or floats normalised to -1..1.
        words: lines of text for each clip.
        title: the finding.
    """
    figure, grid = new_figure(len(clips), 2, width=11.0, height=0.4 + 0.85 * len(clips))
    for (left, right), pixels, lines in zip(grid, clips, words, strict=True):
        left.imshow(np.concatenate([_picture(frame) for frame in pixels], axis=1), aspect="equal")
        left.vlines(np.arange(1, len(pixels)) * pixels.shape[-1] - 0.5, -0.5, pixels.shape[-2] - 0.5, color="white")
        _bare(left)
        right.set_axis_off()
        right.text(0, 0.5, "\n".join(lines), va="center", fontsize=8, parse_math=False)
    figure.suptitle(title, fontsize=10)
    return figure


def parts_in_rows(
    rows: Sequence[Sequence[str]],
    names: Sequence[str],
    *,
    title: str,
    marked: Sequence[int | None] | None = None,
    xlabel: str = "letter",
) -> Axes:
    """Draw texts below each other, each as boxes, one a part and as wide as it has letters.

    Args:
        rows: the parts of each row, from left to right.
        names: what stands beside each row.
        title: the finding.
        marked: for each row the part that is coloured, or None.
        xlabel: what is counted from left to right.
    """
    most = max(sum(map(len, parts)) for parts in rows)
    figure, grid = new_figure(width=min(2.2 + 0.17 * most, 12.0), height=1.0 + 0.34 * len(rows))
    axes = grid[0, 0]
    for row, (parts, special) in enumerate(zip(rows, marked or [None] * len(rows), strict=True)):
        left = 0
        for place, part in enumerate(parts):
            color = OKABE_ITO[1] if place == special else ("#cfe3f1", "#e4eef5")[place % 2]
            axes.barh(row, len(part), left=left, height=0.8, color=color, edgecolor="white", linewidth=1.5)
            label = part.replace("\n", "\u21b5").replace(" ", "\u2423")
            axes.text(
                left + len(part) / 2,
                row,
                label,
                ha="center",
                va="center",
                fontsize=8,
                family="DejaVu Sans Mono",
                parse_math=False,
            )
            left += len(part)
    axes.set(xlim=(0, most), ylim=(len(rows) - 0.5, -0.5), xlabel=xlabel, title=title)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.title.set_fontsize(10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return axes


def position_cube(positions: Num[Tensor, "n 3"], kinds: Sequence[str], *, title: str) -> Figure:
    """Draw where tokens stand in time, row and column, each kind in its colour, joined in their order.

    Args:
        positions: time, row and column of every token.
        kinds: what each token is, as in "words" or "picture".
        title: the finding, with the shape.
    """
    figure = Picture(figsize=(7.0, 4.4), dpi=DOTS_PER_INCH)
    axes = figure.add_axes((0.0, 0.06, 0.94, 0.88), projection="3d")
    time, row, column = positions.detach().cpu().numpy().T
    axes.plot(time, column, row, color="#bbbbbb", linewidth=0.8)
    for colour, kind in zip(_cycle(len(kinds)), dict.fromkeys(kinds), strict=False):
        of_kind = np.array([each == kind for each in kinds])
        points = time[of_kind], column[of_kind], row[of_kind]
        axes.scatter(*points, color=colour, s=26, depthshade=False, label=f"{kind} ({of_kind.sum()})")
    axes.set(xlabel="time (position)", ylabel="column (position)", zlabel="row (position)")
    axes.invert_zaxis()
    axes.tick_params(labelsize=7)
    axes.view_init(elev=16, azim=-48)
    axes.set_box_aspect((1.7, 1, 1), zoom=1.08)
    axes.legend(fontsize=8, loc="upper right")
    figure.suptitle(title, fontsize=10)
    return figure
