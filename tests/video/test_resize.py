import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import seeds

from minivid.shapes import ShapeError
from minivid.video.resize import decide_size, frame_size, normalize, normalize_, resize, smart_resize

DATA = Path(__file__).parents[1] / "data"
SMART_RESIZE = json.loads((DATA / "smart_resize.json").read_text())["cases"]
VIDEO_BUDGET = json.loads((DATA / "video_budget.json").read_text())["cases"]

sides = st.integers(1, 3000)
factors = st.sampled_from([1, 8, 14, 28, 32])
pixels = st.integers(1, 2_000_000)


def noise(seed, *shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", SMART_RESIZE, ids=[case["id"] for case in SMART_RESIZE])
def test_smart_resize_is_that_of_the_published_reader(case):
    if "error" in case:
        with pytest.raises(ValueError):
            smart_resize(**case["args"])
    else:
        assert list(smart_resize(**case["args"])) == case["out"]


@pytest.mark.parametrize("case", VIDEO_BUDGET, ids=[case["id"] for case in VIDEO_BUDGET])
def test_frame_size_is_that_of_the_published_reader(case):
    _, height, width = case["shape_thw"]
    asked, factor = case["ele"], 2 * case["image_patch_size"]
    limits = {name: value for name, value in asked.items() if name in ("min_pixels", "max_pixels", "total_pixels")}
    if "error" in case:
        with pytest.raises(ValueError):
            frame_size(height, width, 2, factor=factor, **limits)
    elif "resized_height" in asked:
        size = smart_resize(asked["resized_height"], asked["resized_width"], factor=factor)
        assert list(size) == case["out"]["resized"]
    else:
        size = frame_size(height, width, case["out"]["nframes"], factor=factor, **limits)
        assert list(size) == case["out"]["resized"]


@given(sides, sides, factors)
def test_sides_are_whole_tokens_and_turn_with_the_picture(height, width, factor):
    assume(max(height, width) <= 200 * min(height, width))
    size = smart_resize(height, width, factor=factor)
    assert size[0] % factor == size[1] % factor == 0
    assert smart_resize(width, height, factor=factor) == size[::-1]


@given(sides, sides, factors, pixels)
def test_area_stays_below_the_cap(height, width, factor, most):
    assume(max(height, width) <= 200 * min(height, width))
    size = smart_resize(height, width, factor=factor, min_pixels=0, max_pixels=most)
    # One token a side is never given up before the cap is looked at.
    assert size[0] * size[1] <= most or (size[0] * size[1] == factor**2 and most < factor**2)


@given(sides, sides, factors, pixels)
def test_area_stays_above_the_floor(height, width, factor, least):
    assume(max(height, width) <= 200 * min(height, width))
    size = smart_resize(height, width, factor=factor, min_pixels=least, max_pixels=math.inf)
    assert size[0] * size[1] >= least


@given(sides, sides, factors)
def test_whole_tokens_inside_the_limits_stay_as_they_are(rows, columns, factor):
    height, width = rows % 40 * factor + factor, columns % 40 * factor + factor
    assert smart_resize(height, width, factor=factor, min_pixels=0, max_pixels=math.inf) == (height, width)


@pytest.mark.parametrize(
    "shape, limits, size, bound, rule",
    [
        ((720, 1280, 30), {}, (640, 1152), "per-frame cap", "704 x 1280 is above 786432 pixels (768 tokens of 32 x 32"),
        ((720, 1280, 30), {"max_pixels": 400_000}, (448, 832), "max_pixels", "above 400000 pixels (max_pixels=400000)"),
        (
            (1913, 2353, 768),
            {"min_pixels": 27142, "max_pixels": 1440821},
            (480, 608),
            "total budget",
            "above 307200 pixels (total_pixels=117964800 over 384 pairs of frames)",
        ),
        (
            (720, 1280, 1200),
            {"total_pixels": 20480 * 1024, "min_pixels": 64 * 1024},
            (192, 320),
            "floor",
            "above 68812 pixels (1.05 min_pixels=68812.8 wins over the total budget)",
        ),
        ((20, 20, 4), {}, (384, 384), "floor", "32 x 32 is below min_pixels=131072"),
        (
            (197, 944, 4),
            {},
            (192, 960),
            "none",
            "nearest multiples of 32: 184320 pixels lie between 131072 and 786432",
        ),
        ((720, 1280, 1), {}, (704, 1280), "none", "901120 pixels lie between 4096 and 16777216"),
        ((8000, 6000, 1), {}, (4704, 3520), "per-frame cap", "is above 16777216 pixels (16384 tokens of 32 x 32"),
        ((720, 1280, 1), {"max_pixels": 10**9}, (704, 1280), "none", "between 4096 and 1000000000"),
        ((720, 1280, 1), {"total_pixels": 250_000}, (352, 640), "total budget", "250000 pixels (total_pixels=250000)"),
    ],
)
def test_decision_names_the_bound_and_the_numbers(shape, limits, size, bound, rule):
    decision = decide_size(*shape, **limits)
    assert decision[:2] == size == frame_size(*shape, **limits)
    assert decision.bound == bound
    assert rule in decision.rule


@pytest.mark.parametrize(
    "arguments, limits, message",
    [
        ((10, 2001), {}, "height=10, width=2001: the longer side is 200.1 times the shorter, more than 200"),
        ((720, 1280), {"min_pixels": 900, "max_pixels": 800}, "max_pixels=800 is below min_pixels=900"),
        ((0, 1280), {}, "height=0, width=1280: a picture has at least one pixel"),
    ],
)
def test_smart_resize_error_names_the_numbers(arguments, limits, message):
    with pytest.raises(ValueError, match=message):
        smart_resize(*arguments, **limits)


def test_size_below_one_token_is_an_error_of_frame_size():
    message = "height=258, width=8: inside 2048 pixels .*max_pixels=2048.* below one token of 16 pixels"
    with pytest.raises(ShapeError, match=message):
        frame_size(258, 8, 4, factor=16, min_pixels=1024, max_pixels=2048)


def test_clip_without_frames_has_no_size():
    with pytest.raises(ValueError, match="frames=0"):
        frame_size(720, 1280, 0)


def test_normalize_is_the_fused_form_for_every_byte():
    values = torch.arange(256)
    want = torch.tensor([float(torch.tensor((value - 127.5) / 127.5, dtype=torch.float64)) for value in range(256)])
    # Subtraction is exact and division rounds once, so float32 is the rounding of the exact quotient.
    assert torch.equal(normalize(values.to(torch.uint8)), want)
    assert torch.equal(normalize(values.float()), want)
    assert normalize(torch.tensor([0.0, 127.5, 255.0])).tolist() == [-1, 0, 1]


def test_normalize_leaves_its_argument_alone_and_normalize_in_place_does_not():
    values = torch.tensor([0.0, 255.0])
    normalize(values)
    assert values.tolist() == [0, 255]
    assert normalize_(values) is values
    assert values.tolist() == [-1, 1]


@given(seeds, st.integers(2, 40), st.integers(2, 40), st.integers(1, 40), st.integers(1, 40))
def test_resize_is_that_of_pillow_up_to_rounding(seed, h, w, height, width):
    image = pytest.importorskip("PIL.Image")
    # Away from 0 and 255, so that no overshoot is clipped between the passes along the two axes.
    frame = noise(seed, 3, h, w) // 4 + 96
    picture = image.fromarray(rearrange(frame, "c h w -> h w c").numpy()).resize(
        (width, height), image.Resampling.BICUBIC
    )
    want = rearrange(torch.from_numpy(np.array(picture)), "h w c -> c h w")
    # Both round to 8 bits after each axis: one level apart after the first can be two after the second.
    assert (resize(frame[None], (height, width))[0].int() - want.int()).abs().max() <= 2


@given(seeds, st.integers(1, 30), st.integers(1, 30))
def test_resize_does_not_depend_on_the_layout_in_memory(seed, height, width):
    planes = noise(seed, 2, 3, 17, 23)
    side_by_side = planes.to(memory_format=torch.channels_last)
    assert torch.equal(resize(planes, (height, width)), resize(side_by_side, (height, width)))


@given(seeds, st.integers(1, 30), st.integers(1, 30), st.booleans())
def test_resize_writes_where_it_is_told_to_whatever_the_layout_there(seed, height, width, side_by_side):
    frames, out = noise(seed, 2, 3, 17, 23), noise(seed, 2, 3, height, width)
    if side_by_side:
        out = out.contiguous(memory_format=torch.channels_last)
    assert resize(frames, (height, width), out=out) is out
    assert torch.equal(out, resize(frames, (height, width)))


def test_resize_to_the_same_size_is_copied_where_it_is_told_to():
    frames, out = noise(0, 2, 3, 5, 7), noise(1, 2, 3, 5, 7)
    assert resize(frames, (5, 7), out=out) is out
    assert torch.equal(out, frames)


def test_resize_refuses_a_place_of_another_shape():
    with pytest.raises(ShapeError, match=r"out: shape \(1, 3, 5, 8\), expected \(1, 3, 5, 9\)"):
        resize(noise(0, 1, 3, 5, 7), (5, 9), out=torch.empty(1, 3, 5, 8, dtype=torch.uint8))


@given(seeds, st.integers(1, 30), st.integers(1, 30))
def test_resize_treats_every_frame_alone(seed, height, width):
    frames = noise(seed, 3, 3, 17, 23)
    together = resize(frames, (height, width))
    assert together.shape == (3, 3, height, width)
    assert all(torch.equal(together[i : i + 1], resize(frames[i : i + 1], (height, width))) for i in range(3))


def test_resize_to_the_same_size_is_the_same_pixels():
    frames = noise(0, 2, 3, 5, 7)
    assert torch.equal(resize(frames, (5, 7)), frames)


def test_resize_keeps_a_plain_colour():
    assert torch.equal(resize(torch.full((1, 3, 20, 30), 201).byte(), (7, 11)), torch.full((1, 3, 7, 11), 201).byte())


def test_resize_error_names_both_sides():
    with pytest.raises(ShapeError, match="height=0, width=9"):
        resize(noise(0, 1, 3, 5, 7), (0, 9))
