import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from minivid.classroom.evidence import agree, holds
from minivid.video import sample as library

on_indices = pytest.mark.law("frame_indices")
on_count = pytest.mark.law("frame_count")

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "nframes.json").read_text())["cases"]

totals = st.integers(4, 400)
rates = st.sampled_from([1.0, 10.0, 12.5, 23.976, 24.0, 25.0, 29.97, 30.0, 59.94, 60.0])
wanted = st.sampled_from([None, 0.5, 1.0, 2.0, 3.0, 8.0])
limits = st.integers(2, 40)


@st.composite
def ranges(draw):
    """A clip and a range of seconds that holds at least four of its frames."""
    total, rate = draw(totals), draw(rates)
    start = draw(st.none() | st.integers(0, total - 4).map(lambda i: round(max(i - 0.6, 0) / rate, 3)))
    first = 0 if start is None else math.ceil(start * rate)
    end = draw(st.none() | st.integers(first + 3, total).map(lambda i: round((i + 0.4) / rate, 3)))
    last = total - 1 if end is None else min(math.floor(min(end, total / rate) * rate), total - 1)
    assume(last - first >= 3)
    return total, rate, {"start": start, "end": end}, first, last


@on_indices
@example((10, 1.0, {"start": None, "end": None}, 0, 9), 1.0)
@given(ranges(), wanted)
def test_first_and_last_frame_are_chosen(impl, clip, fps):
    """The first and the last frame of the range are chosen, by their numbers in the clip."""
    total, source_fps, given_range, first, last = clip
    got = impl.frame_indices(total, source_fps, fps=fps, **given_range)
    case = {"total": total, "source_fps": source_fps, "fps": fps, **given_range}
    kind = type(got).__name__
    holds(isinstance(got, torch.Tensor), f"the result is a {kind}, not a tensor of frame numbers", **case)
    want = torch.tensor([first, last])
    agree(got[[0, -1]] if len(got) else got, want, "the range does not begin and end where it should", **case)


@on_indices
@example((100, 10.0, {"start": None, "end": 4.94}, 0, 49), 2.0, 4, 40)  # 10 frames, and 20 for the whole clip
@given(ranges(), wanted, limits, limits)
def test_there_are_as_many_frames_as_the_rate_asks_for(impl, clip, fps, least, most):
    """As many frames are chosen as frame_count says for the length of the range."""
    total, source_fps, given_range, first, last = clip
    bounds = {"fps": fps, "min_frames": least, "max_frames": most}
    got = impl.frame_indices(total, source_fps, **bounds, **given_range)
    want = library.frame_count(last - first + 1, source_fps, **bounds)
    claim = f"{len(got)} frames are chosen, expected {want}"
    holds(len(got) == want, claim, total=total, source_fps=source_fps, **bounds, **given_range)


@on_indices
@example((10, 1.0, {"start": None, "end": None}, 0, 9), 8)
@given(ranges(), st.integers(1, 20).map(lambda half: 2 * half))
def test_frames_are_the_nearest_to_an_even_spacing(impl, clip, frames):
    """Each frame is the one nearest to an even spacing from the first to the last."""
    total, source_fps, given_range, first, last = clip
    frames = min(frames, (last - first + 1) // 2 * 2)
    got = impl.frame_indices(total, source_fps, frames=frames, **given_range)
    # Exact fractions: an even count meets no tie, and float32 is 1000 times finer than the distance to one here.
    step = Fraction(last - first, frames - 1)
    want = torch.tensor([round(first + k * step) for k in range(frames)])
    case = {"total": total, "source_fps": source_fps, "frames": frames, **given_range}
    agree(got, want, "a frame is not the nearest one", axes="t", **case)


@on_count
@given(st.integers(2, 30) | st.integers(2, 4000), rates, wanted, limits, limits)
def test_count_is_the_rate_bounded_and_even(impl, total, source_fps, fps, least, most):
    """seconds x fps, raised to min_frames, cut to max_frames and to the clip, then the even number below."""
    assume(most >= 2)
    bounds = {"fps": fps, "min_frames": least, "max_frames": most}
    got = impl.frame_count(total, source_fps, **bounds)
    wish = max(total / source_fps * (2.0 if fps is None else fps), least + least % 2)
    want = math.floor(min(wish, most - most % 2, total) / 2) * 2
    claim = f"frame_count gives {got}, expected {want}"
    holds(got == want, claim, total=total, source_fps=source_fps, **bounds)


@on_count
@given(st.integers(2, 300), rates)
def test_count_asked_for_is_the_nearest_even_number(impl, frames, source_fps):
    """frames=n gives the nearest even number; of two equally near ones that which 4 divides: 5 gives 4, 7 gives 8."""
    got = impl.frame_count(1000, source_fps, frames=frames)
    want = next(near for near in (frames, frames - 1, frames + 1) if near % (4 if frames % 2 else 2) == 0)
    holds(got == want, f"frame_count gives {got}, expected {want}", total=1000, source_fps=source_fps, frames=frames)


@given(ranges(), wanted)
def test_frames_rise_and_stay_inside_the_range(clip, fps):
    total, source_fps, given_range, first, last = clip
    got = library.frame_indices(total, source_fps, fps=fps, **given_range)
    assert got.dtype == torch.int64
    assert (got.diff() > 0).all()
    assert first <= got.min() and got.max() <= last


@given(ranges(), wanted)
def test_a_range_is_chosen_like_a_clip_of_its_length(clip, fps):
    total, source_fps, given_range, first, last = clip
    got = library.frame_indices(total, source_fps, fps=fps, **given_range)
    alone = library.frame_indices(last - first + 1, source_fps, fps=fps)
    # float32 rounds first + x and x apart by one where the nearest frame is a close call; there is none below 400.
    assert torch.equal(got - first, alone)


@given(st.integers(1, 50), st.integers(0, 50), st.integers(1, 120))
def test_spread_repeats_frames_where_there_are_too_few(last, first, count):
    got = library.spread(first, first + last, count)
    assert len(got) == count
    assert (got.diff() >= 0).all()
    assert got[0] == first and (count == 1 or got[-1] == first + last)


ARGUMENT = {
    "fps": "fps",
    "nframes": "frames",
    "min_frames": "min_frames",
    "max_frames": "max_frames",
    "video_start": "start",
    "video_end": "end",
}


@pytest.mark.parametrize("case", GOLDEN, ids=[case["id"] for case in GOLDEN])
def test_frames_are_those_of_the_published_reader(case):
    given = {ARGUMENT[name]: value for name, value in case["ele"].items() if name in ARGUMENT}
    if "error" in case:
        with pytest.raises(ValueError):
            library.frame_indices(case["total_frames"], case["video_fps"], **given)
        return
    out = case["out"]
    assert library.frame_indices(case["total_frames"], case["video_fps"], **given).tolist() == out["indices"]
    window = {name: given.pop(name, None) for name in ("start", "end")}
    assert library.frame_range(case["total_frames"], case["video_fps"], **window) == (out["start"], out["end"])
    assert library.frame_count(out["range_frames"], case["video_fps"], **given) == out["nframes"]


def test_worked_example_chooses_every_31st_frame():
    assert library.frame_indices(900, 60.0).tolist() == list(range(0, 900, 31))


@pytest.mark.parametrize(
    "total, rate, given, rule",
    [
        (900, 60, {}, "15 s x 2 frames per second = 30"),
        (449, 29.97, {}, "14.9816 s x 2 frames per second = 29.9633, 28 is the even number below"),
        (30, 30, {"min_frames": 5}, "1 s x 2 frames per second = 2, raised to min_frames=5"),
        (3000, 30, {"fps": 4, "max_frames": 7}, "100 s x 4 frames per second = 400, cut to max_frames=7"),
        (
            3,
            30,
            {},
            "0.1 s x 2 frames per second = 0.2, raised to min_frames=4, cut to all 3 frames, "
            "2 is the even number below",
        ),
        (100, 25, {"frames": 8}, "8 frames asked for"),
        (100, 25, {"frames": 7}, "7 frames asked for, 8 is the nearest even number"),
    ],
)
def test_rule_tells_what_decided(total, rate, given, rule):
    assert library.decide_count(total, rate, **given).rule == rule


@pytest.mark.parametrize(
    "arguments, given, message",
    [
        ((100, 25.0), {"fps": 1, "frames": 8}, r"fps=1 and frames=8 are both given; give one"),
        ((7, 30.0), {"frames": 8}, r"8 frames asked for: 8 is not between 2 and the 7 frames of the clip"),
        (
            (7, 30.0),
            {"frames": 1},
            r"1 frames asked for, 0 is the nearest even number: 0 is not between 2 and the 7 frames",
        ),
        ((1, 30.0), {}, r"cut to all 1 frames, 0 is the even number below: 0 is not between 2 and the 1 frames"),
        ((90, 30.0), {"max_frames": 1}, r"cut to max_frames=1: 0 is not between 2 and the 90 frames of the clip"),
        ((0, 30.0), {}, r"total=0: a clip has at least one frame"),
        ((300, 0), {}, r"source_fps=0 is not a number of frames per second above 0"),
        ((300, math.nan), {}, r"source_fps=nan is not a number"),
        ((300, math.inf), {}, r"source_fps=inf is not a number"),
        ((300, 30.0), {"fps": 0}, r"fps=0 is not a number of frames per second above 0"),
        ((300, 30.0), {"fps": -2.0}, r"fps=-2.0 is not a number of frames per second above 0"),
        (
            (300, 30.0),
            {"start": 5.0, "end": 5.0},
            r"start=5.0, end=5.0: frames 150 to 150 are fewer than two of a clip of 10 s \(300 frames, 30 per second\)",
        ),
        ((300, 30.0), {"start": 12.0}, r"start=12.0, end=None: frames 300 to 299 are fewer than two"),
    ],
)
def test_error_names_the_numbers(arguments, given, message):
    with pytest.raises(ValueError, match=message):
        library.frame_indices(*arguments, **given)


@pytest.mark.parametrize("given", [{"start": float("nan")}, {"end": float("nan")}])
def test_a_range_that_is_no_number_is_refused_by_name(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))}=nan is not a number of seconds"):
        library.frame_range(60, 25.0, **given)
