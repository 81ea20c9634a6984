"""From a file to patches in one call: choose frames, decode them, resize, normalise, cut."""

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from minivid.shapes import Grid
from minivid.video.decode import Frames, Video, VideoInfo, open_video
from minivid.video.patches import grid_of, token_count, unpatchify, write_patches
from minivid.video.resize import SizeDecision, decide_size, resize
from minivid.video.sample import CountDecision, decide_count, frame_range, spread

CHANNELS = 3


@dataclass(frozen=True)
class ClipSettings:
    """How a file becomes patches: which frames, what size, how it is cut.

    A model with a fixed input asks for `frames`, `height` and `width`, and `repeat_short` for clips that are shorter.
    A file with one frame, such as a photo, is a picture: that frame, in the bounds of a picture, unless `frames` says
    otherwise; its patches hold it temporal_patch_size times.

    Attributes:
        fps, frames, min_frames, max_frames: how many frames, see `minivid.video.sample.frame_count`.
        start, end: seconds after the first frame; what is outside is left out, see `minivid.video.sample.frame_range`.
        repeat_short: where the clip has fewer than `frames`, spread so many numbers all the same, which repeats some.
        min_pixels, max_pixels, total_pixels: bounds of the size, see `minivid.video.resize.frame_size`.
        height, width: this size exactly, whatever the proportions; both or none.
        patch_size, temporal_patch_size, spatial_merge_size: see `minivid.video.patches.patchify`.
    """

    fps: int | float | None = None
    frames: int | None = None
    min_frames: int = 4
    max_frames: int = 768
    start: int | float | None = None
    end: int | float | None = None
    repeat_short: bool = False
    min_pixels: int | float | None = None
    max_pixels: int | float | None = None
    total_pixels: int | float | None = None
    height: int | None = None
    width: int | None = None
    patch_size: int = 16
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2

    def __post_init__(self):
        if (self.height is None) != (self.width is None):
            raise ValueError(f"height={self.height}, width={self.width}: give both or none")
        if self.height is not None and not (self.min_pixels is self.max_pixels is self.total_pixels is None):
            raise ValueError(
                f"height={self.height}, width={self.width} and a bound in pixels are both given; give one of them"
            )
        for name in ("patch_size", "temporal_patch_size", "spatial_merge_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not at least 1")

    @property
    def factor(self) -> int:
        """Side of one merged token, in pixels."""
        return self.patch_size * self.spatial_merge_size


class Stage(NamedTuple):
    """One step of the way: the shape of what it gives, how that is stored, its bytes, and the rule that decided it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    rule: str


@dataclass(frozen=True)
class ClipPlan:
    """What a file will become, known before a frame is decoded.

    Attributes:
        info: the file.
        settings: what was asked for.
        indices: numbers of the chosen frames, rising; with `repeat_short` some stand twice.
        count: how many, and the rule that decided it.
        size: height and width of a frame, which bound decided it, and the rule.
        grid: patches along time, height and width.
    """

    info: VideoInfo
    settings: ClipSettings
    indices: Int64[Tensor, " t"]
    count: CountDecision
    size: SizeDecision
    grid: Grid

    @property
    def seconds(self) -> Float[Tensor, " t"]:
        """When the chosen frames are shown if all last equally long; what is really so comes with decoding."""
        return self.info.start + self.indices.to(torch.float64) / self.info.fps

    @property
    def patches(self) -> tuple[int, int]:
        """Rows and columns of the patches."""
        settings = self.settings
        return math.prod(self.grid), CHANNELS * settings.temporal_patch_size * settings.patch_size**2

    @property
    def tokens(self) -> int:
        """Merged tokens that a language model gets."""
        return token_count(self.grid, spatial_merge_size=self.settings.spatial_merge_size)

    @property
    def segments(self) -> tuple[int, int]:
        """How many stretches of patches look only at themselves, one per temporal patch, and the patches in each."""
        return self.grid.gt, self.grid.gh * self.grid.gw

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Every step from the file to the tokens."""
        info, settings, grid = self.info, self.settings, self.grid
        t, height, width = self.count.frames, self.size.height, self.size.width
        tau, p, merge = settings.temporal_patch_size, settings.patch_size, settings.spatial_merge_size
        bound = "" if self.size.bound == "none" else f"{self.size.bound}: "
        fill = f", the last frame {grid.gt * tau - t + 1} times" if grid.gt * tau > t else ""
        wide = f"h / {p} x w / {p}"
        return (
            _bytes("video", (info.frames, CHANNELS, info.height, info.width), "every frame; never in memory at once"),
            _bytes("chosen", (t, CHANNELS, info.height, info.width), f"{self.count.rule}; {_which(self)}"),
            _bytes("resized", (t, CHANNELS, height, width), bound + self.size.rule),
            _floats("normalised", (t, CHANNELS, height, width), "(x - 127.5) / 127.5"),
            _floats("patches", self.patches, f"rows: t / {tau} x {wide}{fill}; columns: 3 x {tau} x {p} x {p}"),
            Stage("grid", tuple(grid), "", 0, "patches along time, height and width"),
            Stage("segments", self.segments, "", 0, "each temporal patch attends to its own patches only"),
            Stage("tokens", (self.tokens,), "", 0, f"{merge} x {merge} patches are merged into one"),
        )


@dataclass(frozen=True)
class Clip:
    """The patches of a file, and what is needed to put its frames together again.

    Attributes:
        patches: float32 rows as `minivid.video.patches.patchify` gives them; the only large array that is kept.
        grid: patches along time, height and width.
        seconds: float64, when each chosen frame is shown.
        indices: int64, the number of each chosen frame in the file.
        info: the file.
        settings: how it was loaded.
    """

    patches: Float32[Tensor, "n d"]
    grid: Grid
    seconds: Float[Tensor, " t"]
    indices: Int64[Tensor, " t"]
    info: VideoInfo
    settings: ClipSettings

    @property
    def frames(self) -> Float32[Tensor, "t c h w"]:
        """The chosen frames, normalised to -1..1, put together from the patches anew each time they are asked for."""
        return unpatchify(self.patches, self.grid, **_cut(self.settings))[: len(self.seconds)]


def plan_clip(info: VideoInfo, settings: ClipSettings = ClipSettings()) -> ClipPlan:
    """Say what a file will become: which frames, what size, how many patches and tokens, and why.

    Args:
        info: what `minivid.video.decode.probe` says of the file.
        settings: what is asked for.

    Returns:
        The plan that `load_clip` carries out.

    Raises:
        ValueError: if the frames or the size asked for are not to be had from this file, see `frame_indices` in
            minivid/video/sample.py and `frame_size` in minivid/video/resize.py.
        ShapeError: if an exact height or width is not a multiple of patch_size * spatial_merge_size.
    """
    indices, count = _chosen(info, settings)
    size = _size(info, settings, count.frames)
    return ClipPlan(info, settings, indices, count, size, _grid(settings, count.frames, size))


def load_clip(
    path: str | bytes | os.PathLike,
    settings: ClipSettings = ClipSettings(),
    *,
    strict: bool = False,
) -> Clip:
    """Read a file and give its patches.

    One frame at a time comes from the decoder, which works ahead; it is resized in 8 bits, and each group of
    temporal_patch_size frames is written into its rows. So memory holds the patches and a few frames, however long the
    file is.

    Args:
        path: a local video file or picture.
        settings: which frames, what size, how it is cut.
        strict: whether damage in the file is an error; else what can be read is given, with a warning.

    Returns:
        The clip. Of a damaged file it can hold fewer frames than planned: `seconds` and `indices` are those that came.

    Raises:
        VideoError: if the file cannot be read, or with `strict` if it is damaged.
        ValueError, ShapeError: as `plan_clip`.

    Warns:
        VideoWarning: if frames are missing or were patched up by the decoder.
    """
    with open_video(path) as video:
        plan = _planned(path, video, settings)
        writer = _PatchWriter(plan)
        # Cutting takes longer than showing, and next to the patches one more picture is little.
        came = list(map(writer.add, _arriving(video, plan, strict, ahead=2)))
    patches, grid = writer.finish()
    return Clip(patches, grid, *_times(came), plan.info, settings)


def load_pixels(
    path: str | bytes | os.PathLike,
    settings: ClipSettings = ClipSettings(),
    *,
    strict: bool = False,
) -> Frames:
    """Read a file and give its chosen frames, resized, as bytes: what a person would look at.

    Args:
        path: a local video file or picture.
        settings: which frames and what size.
        strict: whether damage in the file is an error; else what can be read is given, with a warning.

    Returns:
        The frames, when each is shown, and its number in the file.

    Raises:
        VideoError: if the file cannot be read, or with `strict` if it is damaged.
        ValueError, ShapeError: as `plan_clip`.

    Warns:
        VideoWarning: if frames are missing or were patched up by the decoder.
    """
    with open_video(path) as video:
        plan = _planned(path, video, settings)
        height, width = plan.size[:2]
        # Channels side by side, as they come: nothing is held twice on the way.
        pixels = torch.empty(plan.count.frames, height, width, CHANNELS, dtype=torch.uint8).permute(0, 3, 1, 2)
        free = iter(pixels.split(1))

        def add(frame: _Arrived) -> _Arrived:
            resize(frame.pixels, (height, width), out=next(free))
            return frame.seen()

        came = list(map(add, _arriving(video, plan, strict)))
    seconds, indices = _times(came)
    return Frames(pixels[: len(came)], seconds, indices)


def plan_table(plan: ClipPlan) -> str:
    """Lay a plan out for the eye: the file, then one line for each stage, with its shape, bytes and rule."""
    info = plan.info
    head = (
        f"{info.codec}, {info.width} x {info.height}, {info.frames} frame{'' if info.frames == 1 else 's'}, "
        f"{info.fps:.6g} per second, {info.duration:.6g} s"
    )
    rows = [("stage", "shape", "stored as", "memory", "rule")]
    for stage in plan.stages:
        shape = " ".join(map(str, stage.shape)) if stage.name == "grid" else str(list(stage.shape))
        rows.append((stage.name, shape, stage.dtype, _memory(stage.bytes) if stage.bytes else "", stage.rule))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {dtype:<{widths[2]}}  {memory:>{widths[3]}}  {rule}"
        for name, shape, dtype, memory, rule in rows
    ]
    return "\n".join([head, "", *lines])


def plan_json(plan: ClipPlan) -> dict:
    """Give a plan as a dictionary of plain numbers, lists and words, as JSON can hold it."""
    return {
        "video": asdict(plan.info),
        "settings": asdict(plan.settings),
        "frames": {
            "count": plan.count.frames,
            "rule": plan.count.rule,
            "indices": plan.indices.tolist(),
            "seconds": plan.seconds.tolist(),
        },
        "size": plan.size._asdict(),
        "grid": list(plan.grid),
        "patches": list(plan.patches),
        "tokens": plan.tokens,
        "segments": dict(zip(("count", "patches"), plan.segments, strict=True)),
        "stages": [{**stage._asdict(), "shape": list(stage.shape)} for stage in plan.stages],
    }


class _Arrived(NamedTuple):
    """A decoded frame; without its pixels once they have been used."""

    index: int
    second: float
    pixels: UInt8[Tensor, "1 c h w"] | None

    def seen(self) -> "_Arrived":
        return self._replace(pixels=None)


class _PatchWriter:
    """Writes frames into the rows of patches, a group of temporal_patch_size at a time."""

    def __init__(self, plan: ClipPlan):
        self._size = plan.size[:2]
        self._grid = plan.grid
        self._settings = plan.settings
        self._patches = torch.empty(plan.patches)
        self._group: list[Tensor] = []
        self._written = 0

    def add(self, frame: _Arrived) -> _Arrived:
        self._group.append(resize(frame.pixels, self._size))
        if len(self._group) == self._settings.temporal_patch_size:
            self._write()
        return frame.seen()

    def _write(self) -> None:
        length = self._grid.gh * self._grid.gw
        rows = self._patches[self._written * length :][:length]
        sizes = {name: size for name, size in _cut(self._settings).items() if name != "temporal_patch_size"}
        write_patches(torch.cat(self._group), rows, **sizes)
        self._group.clear()
        self._written += 1

    def finish(self) -> tuple[Tensor, Grid]:
        if self._group:
            self._group += self._group[-1:] * (self._settings.temporal_patch_size - len(self._group))
            self._write()
        _, gh, gw = self._grid
        return self._patches[: self._written * gh * gw], Grid(self._written, gh, gw)


def _planned(path: str | bytes | os.PathLike, video: Video, settings: ClipSettings) -> ClipPlan:
    try:
        return plan_clip(video.info, settings)
    except ValueError as error:
        raise type(error)(f"{os.fsdecode(path)}: {error}") from None


def _arriving(video: Video, plan: ClipPlan, strict: bool, *, ahead: int = 1) -> Iterator[_Arrived]:
    """Decode the chosen frames; one that was chosen several times comes as often."""
    times = Counter(plan.indices.tolist())
    for index, second, pixels in video.frames(times, strict=strict, ahead=ahead):
        frame = _Arrived(index, second, rearrange(torch.from_numpy(pixels), "h w c -> 1 c h w"))
        yield from [frame] * times[index]
        del frame, pixels  # before the next one is made


def _times(came: list[_Arrived]) -> tuple[Tensor, Tensor]:
    """The second and the number of each frame."""
    seconds = torch.tensor([frame.second for frame in came], dtype=torch.float64)
    return seconds, torch.tensor([frame.index for frame in came], dtype=torch.int64)


def _chosen(info: VideoInfo, settings: ClipSettings) -> tuple[Tensor, CountDecision]:
    if info.frames == 1 and (settings.frames, settings.start, settings.end) == (None, None, None):
        return torch.tensor([0]), CountDecision(1, "a picture: its only frame")
    first, last = frame_range(info.frames, info.fps, start=settings.start, end=settings.end)
    count = decide_count(
        last - first + 1,
        info.fps,
        fps=settings.fps,
        frames=settings.frames,
        min_frames=settings.min_frames,
        max_frames=settings.max_frames,
        repeat_short=settings.repeat_short,
    )
    return spread(first, last, count.frames), count


def _size(info: VideoInfo, settings: ClipSettings, frames: int) -> SizeDecision:
    if settings.height is not None:
        height, width = settings.height, settings.width
        return SizeDecision(height, width, "exact", f"height={height}, width={width} asked for")
    return decide_size(
        info.height,
        info.width,
        frames,
        factor=settings.factor,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        total_pixels=settings.total_pixels,
    )


def _cut(settings: ClipSettings) -> dict[str, int]:
    return {
        "patch_size": settings.patch_size,
        "temporal_patch_size": settings.temporal_patch_size,
        "spatial_merge_size": settings.spatial_merge_size,
    }


def _grid(settings: ClipSettings, frames: int, size: SizeDecision) -> Grid:
    return grid_of(frames, size.height, size.width, **_cut(settings))


def _bytes(name: str, shape: tuple[int, ...], rule: str) -> Stage:
    return Stage(name, shape, "uint8", math.prod(shape), rule)


def _floats(name: str, shape: tuple[int, ...], rule: str) -> Stage:
    return Stage(name, shape, "float32", 4 * math.prod(shape), rule)


def _which(plan: ClipPlan) -> str:
    numbers, seconds = plan.indices.tolist(), plan.seconds.tolist()
    if len(numbers) == 1:
        return f"frame {numbers[0]} at {seconds[0]:.3f} s"
    shown = numbers if len(numbers) <= 5 else [*numbers[:3], "...", numbers[-1]]
    return f"frames {', '.join(map(str, shown))} at {seconds[0]:.3f} to {seconds[-1]:.3f} s"


def _memory(count: int) -> str:
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
