import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds, small

from minivid.shapes import ShapeError
from minivid.video import augment

CHANGES = {
    "random_crop": lambda frames, generator: augment.random_crop(frames, (5, 7), generator=generator),
    "random_resized_crop": lambda frames, generator: augment.random_resized_crop(frames, (5, 7), generator=generator),
    "random_flip": lambda frames, generator: augment.random_flip(frames, generator=generator),
    "random_reverse": lambda frames, generator: augment.random_reverse(frames, generator=generator),
    "color_jitter": lambda frames, generator: augment.color_jitter(frames, generator=generator),
}
changes = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def clip(seed, t=3, h=11, w=13):
    """A clip of values between -1 and 1."""
    return torch.rand(t, 3, h, w, generator=generator(seed)) * 2 - 1


@changes
@given(seed=seeds)
def test_same_seed_gives_the_same_clip(change, seed):
    assert torch.equal(change(clip(0), generator(seed)), change(clip(0), generator(seed)))


@changes
def test_another_seed_gives_another_clip(change):
    results = [change(clip(0), generator(seed)) for seed in range(20)]
    assert any(not torch.equal(results[0], other) for other in results[1:])


@changes
@given(seed=seeds)
def test_shape_kind_and_range_stay(change, seed):
    frames = clip(seed)
    changed = change(frames, generator(seed))
    assert changed.shape in {frames.shape, (3, 3, 5, 7)}
    assert changed.dtype == frames.dtype
    # Bilinear weights add up to 1 up to a rounding of 1e-7.
    assert changed.min() >= -1 - 1e-6 and changed.max() <= 1 + 1e-6


@changes
@given(seed=seeds, t=small)
def test_a_still_clip_stays_still(change, seed, t):
    frame = clip(seed, t=1)
    changed = change(frame.expand(t, -1, -1, -1), generator(seed))
    assert all(torch.equal(changed[0], other) for other in changed)


@changes
@given(seed=seeds)
def test_the_argument_is_left_alone_and_no_global_number_is_drawn(change, seed):
    frames, before = clip(seed), torch.get_rng_state()
    change(frames, generator(seed))
    assert torch.equal(frames, clip(seed))
    assert torch.equal(torch.get_rng_state(), before)


@changes
def test_a_clip_draws_the_same_numbers_however_long_it_is(change):
    states = []
    for t in (2, 9):
        source = generator(7)
        change(clip(0, t=t), source)
        states.append(source.get_state())
    assert torch.equal(*states)
    assert not torch.equal(states[0], generator(7).get_state())


@given(seeds)
def test_flipping_and_reversing_twice_changes_nothing(seed):
    frames = clip(seed)
    assert torch.equal(augment.flip(augment.flip(frames)), frames)
    assert torch.equal(augment.reverse(augment.reverse(frames)), frames)


def test_flip_swaps_left_and_right_and_reverse_first_and_last():
    frames = torch.arange(2 * 1 * 2 * 3).reshape(2, 1, 2, 3)
    assert augment.flip(frames)[0, 0].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert augment.reverse(frames)[0, 0].tolist() == [[6, 7, 8], [9, 10, 11]]


@given(seeds, st.integers(0, 6), st.integers(0, 6))
def test_crop_and_time_commute(seed, top, left):
    frames = clip(seed)
    assert torch.equal(
        augment.crop(augment.reverse(frames), top, left, 5, 7), augment.reverse(augment.crop(frames, top, left, 5, 7))
    )
    assert torch.equal(augment.crop(frames, top, left, 5, 7)[1], augment.crop(frames[1:2], top, left, 5, 7)[0])


@given(seeds)
def test_random_crop_is_a_part_of_the_clip(seed):
    frames = torch.arange(2 * 1 * 4 * 5).reshape(2, 1, 4, 5)
    part = augment.random_crop(frames, (2, 3), generator=generator(seed))
    top, left = divmod(part[0, 0, 0, 0].item(), 5)
    assert torch.equal(part, frames[:, :, top : top + 2, left : left + 3])


def test_random_crop_reaches_every_place():
    frames = torch.arange(12).reshape(1, 1, 3, 4)
    places = {augment.random_crop(frames, (2, 2), generator=generator(seed))[0, 0, 0, 0].item() for seed in range(100)}
    assert places == {0, 1, 2, 4, 5, 6}


def test_flip_and_reverse_happen_as_often_as_asked():
    frames = clip(0)
    for change in (augment.random_flip, augment.random_reverse):
        for probability in (0.0, 0.3, 1.0):
            source = generator(1)
            changed = sum(
                not torch.equal(change(frames, probability=probability, generator=source), frames) for _ in range(500)
            )
            # 500 draws of 0.3 have a standard deviation of 10.
            assert abs(changed - 500 * probability) <= (40 if 0 < probability < 1 else 0)


def test_whole_picture_at_its_own_size_is_resized_to_itself():
    frames = clip(3, h=6, w=12)
    same = augment.random_resized_crop(frames, (6, 12), scale=(1, 1), ratio=(2, 2), generator=generator(0))
    assert torch.allclose(same, frames, atol=1e-6)


@given(seeds)
def test_resized_crop_has_the_share_and_the_proportions_asked_for(seed):
    rows = torch.linspace(-1, 1, 12)[:, None].expand(2, 3, 12, 12)
    # A quarter of 12 x 12, four times as wide as high: 3 x 12, which is the size wanted, so nothing is resized.
    part = augment.random_resized_crop(rows, (3, 12), scale=(0.25, 0.25), ratio=(4, 4), generator=generator(seed))
    assert torch.allclose(part.diff(dim=-2), torch.full((2, 3, 2, 12), 2 / 11), atol=1e-6)


@given(seeds)
def test_factors_of_one_change_no_colour(seed):
    frames = clip(seed)
    # Two conversions between -1..1 and 0..1 and two sums of weighted numbers, in float32.
    assert torch.allclose(augment.adjust_color(frames), frames, atol=1e-6)


def test_colours_by_hand():
    frame = torch.tensor([0.5, -1.0, 0.0]).reshape(1, 3, 1, 1)  # 0.75, 0, 0.5 between 0 and 1
    black, grey = augment.adjust_color(frame, brightness=0), augment.adjust_color(frame, saturation=0)
    assert black.flatten().tolist() == [-1, -1, -1]
    light = 0.299 * 0.75 + 0.114 * 0.5
    assert torch.allclose(grey, torch.full_like(grey, 2 * light - 1), atol=1e-6)
    brighter = augment.adjust_color(frame, brightness=1.5)
    assert torch.allclose(brighter.flatten(), torch.tensor([1.0, -1.0, 0.5]), atol=1e-6)


def test_contrast_keeps_the_change_from_a_dark_frame_to_a_light_one():
    frames = torch.stack([torch.full((3, 4, 5), -0.5), torch.full((3, 4, 5), 0.5)])
    less = augment.adjust_color(frames, contrast=0.5)
    # Halfway to the mean of the whole clip, which is 0.
    assert torch.allclose(less, frames / 2, atol=1e-6)


def test_jitter_makes_some_clips_darker_and_some_lighter():
    grey = torch.full((1, 3, 2, 2), -0.2)  # 0.4 between 0 and 1
    off = {"contrast": 0, "saturation": 0}
    factors = [
        (augment.color_jitter(grey, brightness=0.5, **off, generator=generator(seed)).mean().item() + 1) / 0.8
        for seed in range(100)
    ]
    assert 0.5 <= min(factors) < 0.6
    assert 1.4 < max(factors) <= 1.5


@pytest.mark.parametrize(
    "place, message",
    [
        ((0, 0, 12, 3), "12 pixels from 0 on do not fit into h=11"),
        ((0, 9, 3, 5), "5 pixels from 9 on do not fit into w=13"),
        ((-1, 0, 3, 3), "3 pixels from -1 on do not fit into h=11"),
        ((0, 0, 0, 3), "0 pixels from 0 on do not fit into h=11"),
    ],
)
def test_crop_outside_the_frame_is_an_error(place, message):
    with pytest.raises(ShapeError, match=message):
        augment.crop(clip(0), *place)


def test_random_crop_larger_than_the_frame_is_an_error():
    with pytest.raises(ShapeError, match="14 pixels from 0 on do not fit into w=13"):
        augment.random_crop(clip(0), (5, 14), generator=generator(0))


def test_jitter_above_one_is_an_error():
    with pytest.raises(ValueError, match="contrast=1.5 is not between 0 and 1"):
        augment.color_jitter(clip(0), contrast=1.5, generator=generator(0))
