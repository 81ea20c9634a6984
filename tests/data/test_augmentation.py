import pickle

import pytest
import torch

from minivid.data import moving_shapes
from minivid.data.augmentation import CHANGES, Augmentation, parse_changes
from minivid.video.augment import color_jitter, random_flip, random_resized_crop


def clip():
    return torch.rand(3, 3, 10, 14, generator=torch.Generator().manual_seed(1)) * 2 - 1


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


def test_names_stand_for_the_changes_of_their_rooms():
    assert torch.equal(Augmentation(("flip",))(clip(), generator()), random_flip(clip(), generator=generator()))
    assert torch.equal(Augmentation(("color",))(clip(), generator()), color_jitter(clip(), generator=generator()))
    assert torch.equal(Augmentation(("roll",))(clip(), generator()), moving_shapes.roll(clip(), generator()))
    cropped = random_resized_crop(clip(), (10, 14), generator=generator())
    assert torch.equal(Augmentation(("crop",))(clip(), generator()), cropped)


def test_changes_are_done_in_their_order_with_one_generator():
    rng = generator()
    want = color_jitter(random_resized_crop(clip(), (10, 14), generator=rng), generator=rng)
    assert torch.equal(Augmentation(("crop", "color"))(clip(), generator()), want)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_keeps_size_range_and_order_of_the_frames(name):
    for seed in range(5):
        still = clip()[:1].expand(3, -1, -1, -1)
        changed = Augmentation((name,))(still, generator(seed))
        assert changed.shape == still.shape and changed.abs().max() <= 1 + 1e-6
        # All frames alike: a clip that stands still does so afterwards, so no motion is made up.
        assert torch.equal(changed, changed[:1].expand_as(changed))


def test_no_change_is_the_same_clip_and_it_can_be_sent_to_a_worker():
    frames = clip()
    assert Augmentation(())(frames, generator()) is frames
    both = Augmentation(("roll", "color"))
    assert torch.equal(pickle.loads(pickle.dumps(both))(frames, generator()), both(frames, generator()))


def test_wrong_names_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match="there is no 'reverse'; there are crop, flip, color, roll"):
        Augmentation(("crop", "reverse"))
    with pytest.raises(ValueError, match="crop, crop names one change twice"):
        Augmentation(("crop", "crop"))


@pytest.mark.parametrize(
    "text, names", [("none", ()), ("", ()), ("crop", ("crop",)), ("crop, color", ("crop", "color"))]
)
def test_names_are_read_from_text(text, names):
    assert parse_changes(text) == names
