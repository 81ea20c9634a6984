"""Which frames of a clip a model sees: how many, and which ones."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

# A temporal patch of the published models is two frames deep, so an even number of frames is chosen.
PAIR = 2
FPS = 2.0


class CountDecision(NamedTuple):
    """How many frames are chosen, and the rule that decided it, in words with numbers."""

    frames: int
    rule: str


def decide_count(
    total: int,
    source_fps: int | float,
    *,
    fps: int | float | None = None,
    frames: int | None = None,
    min_frames: int = 4,
    max_frames: int = 768,
    repeat_short: bool = False,
) -> CountDecision:
    """Say how many frames to choose, and why.

    The arguments, the rule and the errors are those of `frame_count`; with `repeat_short`, `frames` may be more than
    the clip has.
    """
    _check_source(total, source_fps)
    if fps is not None and frames is not None:
        raise ValueError(f"fps={fps} and frames={frames} are both given; give one of them")
    if frames is not None:
        # round() goes to the even neighbour at a tie: 5 / 2 = 2.5 becomes 2, so 5 frames become 4 and 7 become 8.
        count = PAIR * round(frames / PAIR)
        rule = f"{frames} frames asked for" + ("" if count == frames else f", {count} is the nearest even number")
        if repeat_short and count > total:
            return CountDecision(count, f"{rule}, more than the {total} of the clip, so some are repeated")
        return CountDecision(_fitting(count, total, rule), rule)
    fps = FPS if fps is None else fps
    if not (fps > 0 and math.isfinite(fps)):
        raise ValueError(f"fps={fps} is not a number of frames per second above 0")
    least, most = PAIR * math.ceil(min_frames / PAIR), PAIR * math.floor(max_frames / PAIR)
    # The order of the factors is the published one: in floating point another order can fall below a whole number.
    wanted = total / source_fps * fps
    rule = f"{total / source_fps:.6g} s x {fps:g} frames per second = {wanted:.6g}"
    chosen = wanted
    for bounded, reason in (
        (max(chosen, least), f"min_frames={min_frames}"),
        (min(max(chosen, least), most), f"max_frames={max_frames}"),
        (min(max(chosen, least), most, total), f"all {total} frames"),
    ):
        if bounded != chosen:
            chosen, rule = bounded, f"{rule}, {'raised' if bounded > chosen else 'cut'} to {reason}"
    count = PAIR * math.floor(chosen / PAIR)
    if count != chosen:
        rule += f", {count} is the even number below"
    return CountDecision(_fitting(count, total, rule), rule)


def frame_count(
    total: int,
    source_fps: int | float,
    *,
    fps: int | float | None = None,
    frames: int | None = None,
    min_frames: int = 4,
    max_frames: int = 768,
) -> int:
    """Say how many frames of a clip to choose: always an even number.

    By rate: x = total / source_fps * fps, raised to min_frames, then cut to max_frames, then to total, then rounded
    down to an even number: 29.98 gives 28. By number: `frames` rounded to the nearest even number, and a tie to the
    multiple of 4: 5 gives 4, 7 gives 8.

    Args:
        total: frames of the clip, or of the part of it that is looked at.
        source_fps: frames per second of the clip.
        fps: frames to choose per second of the clip; 2 where neither fps nor frames is given.
        frames: how many to choose, whatever the clip's length.
        min_frames: at least so many where fps decides (rounded up to an even number).
        max_frames: at most so many where fps decides (rounded down to an even number); it wins over min_frames.

    Returns:
        The number of frames.

    Raises:
        ValueError: if fps and frames are both given, a rate is not above 0, the clip has no frame, or the number is
            below 2 or above total.

    Source: qwen-vl-utils 0.0.14, the reader of the published Qwen3-VL checkpoints.
    """
    return decide_count(total, source_fps, fps=fps, frames=frames, min_frames=min_frames, max_frames=max_frames).frames


def frame_range(
    total: int, source_fps: int | float, *, start: int | float | None = None, end: int | float | None = None
) -> tuple[int, int]:
    """Turn a range of seconds into a range of frame numbers.

    Frame i is shown at second i / source_fps. The range runs from the first frame shown at `start` or later to the
    last one shown at `end` or earlier: first = ceil(start source_fps), last = floor(end source_fps).

    Args:
        total: frames of the clip.
        source_fps: frames per second of the clip.
        start, end: seconds, cut to the clip; None is the clip's own beginning or end.

    Returns:
        The first and the last frame number, both inside the range.

    Raises:
        ValueError: if the clip has no frame, its rate is not above 0, or a given range holds fewer than two frames.
    """
    _check_source(total, source_fps)
    if start is None and end is None:
        return 0, total - 1
    for name, second in (("start", start), ("end", end)):
        if second is not None and math.isnan(second):
            raise ValueError(f"{name}={second} is not a number of seconds")
    duration = total / source_fps
    first = 0 if start is None else math.ceil(min(max(start, 0.0), duration) * source_fps)
    last = total - 1 if end is None else min(math.floor(min(max(end, 0.0), duration) * source_fps), total - 1)
    if first >= last:
        raise ValueError(
            f"start={start}, end={end}: frames {first} to {last} are fewer than two of a clip of {duration:.6g} s "
            f"({total} frames, {source_fps:g} per second); give a longer range inside it"
        )
    return first, last


def spread(first: int, last: int, count: int) -> Int64[Tensor, " t"]:
    """Spread `count` frame numbers evenly from `first` to `last`, both included.

    i_j = round(first + j (last - first) / (count - 1)) in float32, as the published models compute it. An even count
    never meets a tie: j (last - first) / (count - 1) has an odd denominator. More frames than there are repeat some.

    Args:
        first, last: frame numbers.
        count: how many, at least one.

    Returns:
        The frame numbers, in rising order.
    """
    return torch.linspace(first, last, count, dtype=torch.float32).round().to(torch.int64)


def frame_indices(
    total: int,
    source_fps: int | float,
    *,
    fps: int | float | None = None,
    frames: int | None = None,
    min_frames: int = 4,
    max_frames: int = 768,
    start: int | float | None = None,
    end: int | float | None = None,
) -> Int64[Tensor, " t"]:
    """Choose frames of a clip, evenly spread from the first to the last, both included.

    i_j = round(first + j (last - first) / (count - 1)): 30 of 900 frames are 0, 31, 62, ..., 899.

    Args:
        total: frames of the clip.
        source_fps: frames per second of the clip.
        fps, frames, min_frames, max_frames: how many, see `frame_count`; counted in the range.
        start, end: range of seconds to look at, see `frame_range`.

    Returns:
        Frame numbers, counted from the clip's first frame also where `start` is given, in rising order.

    Raises:
        ValueError: if fps and frames are both given, a rate is not above 0, the clip has no frame, the range holds
            fewer than two frames, or the number asked for is below 2 or above what the range holds.

    Source: qwen-vl-utils 0.0.14, the reader of the published Qwen3-VL checkpoints.
    """
    first, last = frame_range(total, source_fps, start=start, end=end)
    count = frame_count(
        last - first + 1, source_fps, fps=fps, frames=frames, min_frames=min_frames, max_frames=max_frames
    )
    return spread(first, last, count)


def _check_source(total: int, source_fps: int | float) -> None:
    if total < 1:
        raise ValueError(f"total={total}: a clip has at least one frame")
    if not (source_fps > 0 and math.isfinite(source_fps)):
        raise ValueError(f"source_fps={source_fps} is not a number of frames per second above 0; give the clip's rate")


def _fitting(count: int, total: int, rule: str) -> int:
    if not PAIR <= count <= total:
        repeat = ", or load with repeat_short=True" if count > total else ""
        raise ValueError(
            f"{rule}: {count} is not between {PAIR} and the {total} frames of the clip; ask for a number in between"
            + repeat
        )
    return count
