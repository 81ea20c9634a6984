"""Well-known wrong ways to choose frames."""

import math
from collections.abc import Iterator

import torch

from minivid.classroom.museum import Mistake
from minivid.video.sample import frame_count, frame_indices, frame_range, spread

# All answers take what the public functions take.
LIMITS = {"fps": None, "frames": None, "min_frames": 4, "max_frames": 768}


def split(total, source_fps, given):
    """The range and the count that the library chooses: what most wrong answers still get right."""
    limits = {**LIMITS, **{name: given[name] for name in LIMITS if name in given}}
    first, last = frame_range(total, source_fps, start=given.get("start"), end=given.get("end"))
    return first, last, frame_count(last - first + 1, source_fps, **limits)


def whole(numbers):
    return torch.tensor([int(number) for number in numbers], dtype=torch.int64)


def floor_instead_of_round(total, source_fps, **given):
    first, last, count = split(total, source_fps, given)
    return whole(math.floor(first + k * (last - first) / (count - 1) + 1e-9) for k in range(count))


def ceil_instead_of_round(total, source_fps, **given):
    first, last, count = split(total, source_fps, given)
    return whole(math.ceil(first + k * (last - first) / (count - 1) - 1e-9) for k in range(count))


def leaves_out_the_end(total, source_fps, **given):
    first, last, count = split(total, source_fps, given)
    return whole(round(first + k * (last - first + 1) / count) for k in range(count))


def middles_of_equal_pieces(total, source_fps, **given):
    first, last, count = split(total, source_fps, given)
    return whole(math.floor(first + (k + 0.5) * (last - first + 1) / count) for k in range(count))


def whole_steps(total, source_fps, **given):
    first, last, count = split(total, source_fps, given)
    return whole(first + k * ((last - first) // (count - 1)) for k in range(count))


def steps_of_the_rate(total, source_fps, **given):
    first, last, count = split(total, source_fps, given)
    step = source_fps / (given.get("fps") or 2.0)
    return whole(min(round(first + k * step), last) for k in range(count))


def first_frames_only(total, source_fps, **given):
    first, _, count = split(total, source_fps, given)
    return whole(first + k for k in range(count))


def counts_from_one(total, source_fps, **given):
    return frame_indices(total, source_fps, **given) + 1


def counts_from_the_start_of_the_range(total, source_fps, **given):
    first, last, count = split(total, source_fps, given)
    return spread(0, last - first, count)


def ignores_the_range(total, source_fps, **given):
    return frame_indices(total, source_fps, **{**given, "start": None, "end": None})


def ignores_the_start(total, source_fps, **given):
    return frame_indices(total, source_fps, **{**given, "start": None})


def counts_in_the_whole_clip(total, source_fps, **given):
    first, last, _ = split(total, source_fps, given)
    count = split(total, source_fps, {**given, "start": None, "end": None})[2]
    return spread(first, last, min(count, (last - first + 1) // 2 * 2))


def range_rounded_outwards(total, source_fps, **given):
    start, end = given.get("start"), given.get("end")
    first = 0 if start is None else math.floor(max(start, 0) * source_fps)
    last = total - 1 if end is None else min(math.ceil(end * source_fps), total - 1)
    limits = {**LIMITS, **{name: given[name] for name in LIMITS if name in given}}
    return spread(first, last, frame_count(last - first + 1, source_fps, **limits))


def every_frame_of_the_range(total, source_fps, **given):
    first, last, _ = split(total, source_fps, given)
    return torch.arange(first, last + 1)


def limited(x, total, min_frames, max_frames):
    least, most = 2 * math.ceil(min_frames / 2), 2 * math.floor(max_frames / 2)
    return min(max(x, least), most, total)


def count_with(*, wanted=None, even=None, asked=None):
    """frame_count with another number wanted, another rounding to even, or another reading of `frames`."""
    wanted = wanted or (lambda total, source_fps, fps: total / source_fps * fps)
    even = even or (lambda x: 2 * math.floor(x / 2))
    asked = asked or (lambda frames: 2 * round(frames / 2))

    def answer(total, source_fps, *, fps=None, frames=None, min_frames=4, max_frames=768):
        if frames is not None:
            return asked(frames)
        return even(limited(wanted(total, source_fps, fps or 2.0), total, min_frames, max_frames))

    return answer


def floor_wins(total, source_fps, *, fps=None, frames=None, min_frames=4, max_frames=768):
    if frames is not None:
        return 2 * round(frames / 2)
    least, most = 2 * math.ceil(min_frames / 2), 2 * math.floor(max_frames / 2)
    return 2 * math.floor(min(max(min(total / source_fps * (fps or 2.0), most), least), total) / 2)


def no_limits(total, source_fps, *, fps=None, frames=None, min_frames=4, max_frames=768):
    return 2 * round(frames / 2) if frames is not None else 2 * math.floor(total / source_fps * (fps or 2.0) / 2)


def longer_than_the_clip(total, source_fps, *, fps=None, frames=None, min_frames=4, max_frames=768):
    return count_with()(
        10**9, source_fps * 10**9 / total, fps=fps, frames=frames, min_frames=min_frames, max_frames=max_frames
    )


EVEN = (
    "The number of frames is sometimes odd.",
    "Two frames share one patch, so frames are chosen in pairs.",
    "End with 2 * floor(x / 2).",
)

MISTAKES: dict[str, list[Mistake]] = {
    "frame_indices": [
        Mistake(
            floor_instead_of_round,
            (
                "Some frames are one too early.",
                "An even spacing rarely falls on whole numbers; take the nearest frame, not the one before.",
                "round(...) instead of int(...) or floor(...).",
            ),
        ),
        Mistake(
            ceil_instead_of_round,
            (
                "Some frames are one too late.",
                "An even spacing rarely falls on whole numbers; take the nearest frame, not the one after.",
                "round(...) instead of ceil(...).",
            ),
        ),
        Mistake(
            leaves_out_the_end,
            (
                "Look at the last frame chosen.",
                "The first and the last frame are both chosen: n frames have n - 1 gaps between them.",
                "The step is (last - first) / (count - 1), not total / count.",
            ),
        ),
        Mistake(
            middles_of_equal_pieces,
            (
                "Look at the first and the last frame chosen.",
                "You cut the clip into pieces and take the middle of each; here the ends are taken too.",
                "first + k (last - first) / (count - 1): for k = 0 this is first.",
            ),
        ),
        Mistake(
            whole_steps,
            (
                "The further into the clip, the larger the error.",
                "The step is rounded before it is multiplied, so the rounding adds up.",
                "Round once, at the end: round(first + k * (last - first) / (count - 1)).",
            ),
        ),
        Mistake(
            steps_of_the_rate,
            (
                "Look at the last frame chosen.",
                "The rate decides how many frames there are; then they are spread over the whole range.",
                "The step is (last - first) / (count - 1), not source_fps / fps.",
            ),
        ),
        Mistake(
            first_frames_only,
            (
                "All frames come from the beginning of the clip.",
                "The frames are spread over the whole range.",
                "first + k * (last - first) / (count - 1), rounded.",
            ),
        ),
        Mistake(
            counts_from_one,
            (
                "Every frame is one too late.",
                "The first frame of a clip has number 0.",
                "Leave out the + 1.",
            ),
        ),
        Mistake(
            counts_from_the_start_of_the_range,
            (
                "Try a clip with start=.",
                "Frame numbers are those of the clip, not of the part that is looked at.",
                "Add the first frame of the range.",
            ),
        ),
        Mistake(
            ignores_the_range,
            (
                "Try a clip with start= and end=.",
                "Frames outside the range are chosen.",
                "first = ceil(start * source_fps), last = floor(end * source_fps), both kept inside the clip.",
            ),
        ),
        Mistake(
            ignores_the_start,
            (
                "Try a clip with start=.",
                "Frames before the start are chosen.",
                "first = ceil(start * source_fps).",
            ),
        ),
        Mistake(
            counts_in_the_whole_clip,
            (
                "Try a clip with start= and end=: there are too many frames.",
                "The rate counts in the part that is looked at.",
                "Give last - first + 1 to frame_count, not total.",
            ),
        ),
        Mistake(
            range_rounded_outwards,
            (
                "Try a start between two frames.",
                "A frame shown before the start, or after the end, is chosen.",
                "first = ceil(start * source_fps) and last = floor(end * source_fps): round inwards.",
            ),
        ),
        Mistake(
            every_frame_of_the_range,
            (
                "There are too many frames.",
                "fps, frames, min_frames and max_frames say how many to choose.",
                "count = frame_count(last - first + 1, source_fps, ...), then spread so many.",
            ),
        ),
    ],
    "frame_count": [
        Mistake(count_with(even=math.floor), EVEN),
        Mistake(
            count_with(even=lambda x: 2 * math.ceil(x / 2)),
            (
                "There are sometimes two frames too many.",
                "29.98 seconds' worth of frames is less than 30.",
                "Round down to an even number: 2 * floor(x / 2).",
            ),
        ),
        Mistake(
            count_with(even=lambda x: 2 * round(x / 2)),
            (
                "There are sometimes two frames too many.",
                "29.98 becomes 28, not 30: the rate rounds down.",
                "2 * floor(x / 2) instead of 2 * round(x / 2).",
            ),
        ),
        Mistake(
            count_with(wanted=lambda total, source_fps, fps: total * source_fps / fps),
            (
                "A faster clip gives more frames, though it lasts less long.",
                "The clip's seconds are total / source_fps.",
                "x = total / source_fps * fps.",
            ),
        ),
        Mistake(
            count_with(wanted=lambda total, source_fps, fps: total / source_fps / fps),
            (
                "A higher fps gives fewer frames.",
                "fps frames are chosen in each second.",
                "x = total / source_fps * fps.",
            ),
        ),
        Mistake(
            count_with(asked=lambda frames: frames),
            EVEN[:2] + ("With frames given: 2 * round(frames / 2).",),
        ),
        Mistake(
            count_with(asked=lambda frames: 2 * (frames // 2)),
            (
                "Try frames=7.",
                "The nearest even number is taken; of two equally near ones that which 4 divides: 7 gives 8.",
                "2 * round(frames / 2) instead of 2 * (frames // 2).",
            ),
        ),
        Mistake(
            floor_wins,
            (
                "Try a min_frames above max_frames.",
                "The two limits are applied in the wrong order.",
                "First max(x, least), then min(..., most): the upper limit wins.",
            ),
        ),
        Mistake(
            no_limits,
            (
                "Try a very short and a very long clip.",
                "min_frames and max_frames bound the number that the rate gives.",
                "x = min(max(x, min_frames), max_frames, total), the limits made even.",
            ),
        ),
        Mistake(
            longer_than_the_clip,
            (
                "Try a very short clip.",
                "There are more frames chosen than the clip has.",
                "Cut to total too: min(..., total).",
            ),
        ),
    ],
}


def probes(name: str) -> Iterator[tuple[tuple, dict]]:
    """Clips on which no two of the mistakes above give the same."""
    yield (449, 29.97), {"fps": 2.0}
    yield (900, 60.0), {}
    yield (285, 20.0), {}
    yield (101, 10.0), {"frames": 7}
    yield (101, 10.0), {"frames": 5}
    yield (3, 30.0), {}
    yield (3000, 10.0), {"fps": 4.0, "max_frames": 31}
    yield (500, 25.0), {"min_frames": 21, "max_frames": 13}
    if name == "frame_indices":
        yield (300, 30.0), {"start": 2.01, "end": 7.52}
        yield (313, 24.0), {"fps": 3.0, "start": 3.3}
        yield (313, 24.0), {"frames": 6, "end": 5.1}
