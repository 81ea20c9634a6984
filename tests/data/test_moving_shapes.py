import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from minivid.data.labelled_files import read_labelled_files
from minivid.data.moving_shapes import (
    CASES,
    COLOURS,
    LABELS,
    MOTIONS,
    NAMELESS_HUES,
    OPPOSITE,
    SHAPES,
    centres,
    combinations,
    coverage,
    describe,
    drift,
    hue,
    load_clips,
    make_class_folders,
    make_clips,
    random_obstacle,
    read_labels,
    recoloured,
    render,
    roll,
)
from minivid.video.clip import ClipSettings
from minivid.video.decode import read_frames

SMALL = ClipSettings(frames=6, height=24, width=24, patch_size=8, temporal_patch_size=2, spatial_merge_size=1)


def clip(seed, **words):
    rng = np.random.default_rng(seed)
    wanted = {"shape": "circle", "colour": "red", "motion": "left", "case": "plain"} | words
    return describe(**wanted, rng=rng)


def place(mask):
    """Row and column of the middle of a mask on a picture with joined edges, as angles: no edge is special there."""
    middle = []
    for axis in (1, 0):
        angle = 2 * math.pi * (torch.arange(mask.shape[1 - axis]) + 0.5) / mask.shape[1 - axis]
        along = mask.sum(axis)
        middle.append(torch.atan2((along * angle.sin()).sum(), (along * angle.cos()).sum()) / (2 * math.pi))
    return torch.stack(middle)


@given(shape=st.sampled_from(SHAPES), motion=st.sampled_from(list(MOTIONS)), seed=seeds)
def test_the_shape_moves_the_way_the_label_says(shape, motion, seed):
    """Measured on the pixels: the middle of all that is not background, from frame to frame."""
    description = clip(seed, shape=shape, motion=motion)
    pixels = render(description, side=32)
    background = torch.tensor(description.background) * 255
    masks = ((pixels - background[:, None, None]).abs().amax(1) > 20).float()
    places = torch.stack([place(mask) for mask in masks])
    steps = (places.diff(dim=0) + 0.5) % 1.0 - 0.5
    along = torch.tensor(MOTIONS[motion]).float()
    # A step is 1/32 to 1/18 of the side, and a mask of whole pixels has its middle within half a pixel, 1/64, of the
    # shape's; of a symmetric mask, which does not change across the motion, within much less of that of the next.
    assert ((steps @ along) > 0.01).all()
    assert ((steps @ (1 - along.abs())).abs() < 0.015).all()
    assert steps.sum(0) @ along == pytest.approx(description.speed * description.seconds[-1], abs=1 / 32)


@pytest.mark.parametrize("case", CASES)
def test_all_that_is_random_is_drawn_alike_for_every_motion(case):
    """So that nothing but the motion tells the motion: the same random numbers give the same first frame."""
    first = [render(clip(7, motion=motion, case=case))[0] for motion in MOTIONS]
    assert all(torch.equal(frame, first[0]) for frame in first)


@given(motion=st.sampled_from(list(MOTIONS)), seed=seeds)
def test_every_place_is_equally_likely_in_every_frame(motion, seed):
    """The last frame is the first one moved round joined edges, so that a uniform start gives a uniform end."""
    description = clip(seed, motion=motion)
    moved = (centres(description)[-1] - torch.tensor(description.start)) % 1.0
    way = (torch.tensor(MOTIONS[motion]) * description.speed * description.seconds[-1]) % 1.0
    difference = (moved - way + 0.5) % 1.0 - 0.5
    assert difference.abs().max() < 1e-5


def test_starts_fill_the_picture_evenly():
    starts = torch.tensor([clip(seed).start for seed in range(800)])
    for axis in (0, 1):
        counts = torch.histc(starts[:, axis], bins=4, min=0.0, max=1.0)
        # 200 expected in each quarter; 61 is five standard deviations, sqrt(800 / 4 * 3 / 4) = 12.2.
        assert (counts - 200).abs().max() < 61


def test_a_clip_played_backwards_is_a_clip_of_the_opposite_motion():
    there = clip(3, motion="left", shape="triangle")
    end = centres(there)[-1].tolist()
    back = type(there)(**vars(there) | {"motion": OPPOSITE["left"], "start": tuple(end)})
    difference = render(there).flip(0).int() - render(back).int()
    assert difference.abs().max() <= 1  # one level of 255: the two places differ in the last bit of a float32


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_one_radius_have_one_area(shape):
    found = coverage(shape, torch.tensor([[0.37, 0.61]]), 0.23, 200).mean()
    assert found == pytest.approx(math.pi * 0.23**2, rel=2e-3)  # smooth edges round the corners off a little


@given(shape=st.sampled_from(SHAPES), rows=st.integers(-9, 9), columns=st.integers(-9, 9))
def test_a_shape_that_leaves_on_one_side_comes_back_on_the_other(shape, rows, columns):
    side = 20
    here = coverage(shape, torch.tensor([[0.5, 0.5]]), 0.24, side)
    there = coverage(shape, torch.tensor([[0.5 + rows / side, 0.5 + columns / side]]), 0.24, side)
    assert torch.allclose(there, torch.roll(here, (rows, columns), (-2, -1)), atol=1e-4)


def test_hard_cases_are_what_they_are_called():
    plain, noise = clip(5), clip(5, case="noise")
    still = type(noise)(**vars(noise) | {"noise": 0.0})
    difference = (render(noise).float() - render(still).float()).std() / 255
    # Numbers beyond 0 and 1 are cut off, which makes it a little smaller.
    assert 0.8 * noise.noise < difference <= 1.02 * noise.noise and noise.noise >= 0.05
    assert not torch.equal(render(noise)[0] - render(still)[0], render(noise)[1] - render(still)[1])
    assert clip(5, case="two shapes").other is not None and plain.other is None
    assert len(set(np.diff(clip(5, case="uneven times").seconds).round(3))) >= 3
    assert set(np.diff(plain.seconds)) == {1 / 8}


@given(seed=seeds, shape=st.sampled_from(SHAPES), motion=st.sampled_from(list(MOTIONS)))
def test_a_fence_always_hides_some_of_the_shape_and_never_all(seed, shape, motion):
    fenced = clip(seed, case="occlusion", shape=shape, motion=motion)
    pixel = (torch.arange(40) + 0.5) / 40
    bars = ((pixel - fenced.fence.phase) % 0.5 < 0.16).float()
    bars = bars[:, None].expand(40, 40) if fenced.fence.across_rows else bars.expand(40, 40)
    covered = coverage(shape, centres(fenced), fenced.radius, 40)
    hidden = (covered * bars).sum((1, 2)) / covered.sum((1, 2))
    assert (hidden > 0).all() and (hidden < 0.8).all()


def test_held_out_combinations_are_never_trained_on_and_always_tested():
    train, test, held_out = (set(combinations(split)) for split in ("train", "test", "held out"))
    assert not train & held_out
    assert train | held_out == test and len(test) == len(SHAPES) * len(COLOURS) * len(MOTIONS)
    assert set(combinations("validation")) == train
    for axis, words in enumerate((SHAPES, COLOURS, MOTIONS)):
        counts = Counter(combination[axis] for combination in held_out)
        assert set(counts.values()) == {len(held_out) // len(words)}
    # Shape and colour say nothing about the motion of a test clip: each pair has all four, of which training has three.
    assert set(Counter((shape, colour) for shape, colour, _ in train).values()) == {3}


@pytest.mark.parametrize("split", ["train", "test"])
def test_files_and_labels_belong_to_the_split(tmp_path, split):
    made = make_clips(tmp_path, 10, seed=2, split=split, side=16)
    assert made == read_labels(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([clip.file for clip in made] + [LABELS])
    allowed = set(combinations(split))
    for one in made:
        words = one.description.shape, one.description.colour, one.description.motion
        assert words in allowed and one.held_out == (words in set(combinations("held out")))
        assert one.label == list(MOTIONS).index(one.description.motion)
    line = json.loads((tmp_path / LABELS).read_text().splitlines()[0])
    assert line["caption"] == "a {colour} {shape} moves {motion}".format(**line)


def test_a_full_round_holds_every_combination_with_every_case_once(monkeypatch, tmp_path):
    monkeypatch.setattr("minivid.data.moving_shapes.write_video", lambda *_, **__: None)
    made = make_clips(tmp_path, 240, split="test", side=4)
    words = {(c.description.shape, c.description.colour, c.description.motion, c.description.case) for c in made}
    assert len(words) == 240


def test_the_seed_decides_the_bytes_of_every_file(tmp_path):
    # Full size: x264 with B-frames gives other bytes in about one run of 20, so that 30 files show it nearly always.
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_clips(tmp_path / folder, 30, seed=seed)
    files = [path.name for path in sorted((tmp_path / "a").iterdir())]
    same = [(tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files]
    other = [(tmp_path / "a" / name).read_bytes() == (tmp_path / "c" / name).read_bytes() for name in files]
    assert all(same) and not any(other)


def test_uneven_times_are_in_the_file(tmp_path):
    made = make_clips(tmp_path, 12, seed=4, side=16)
    for one in made:
        found = read_frames(tmp_path / one.file).seconds
        # Half a tick of the file's clock, 1/180000 s.
        np.testing.assert_allclose(found, one.description.seconds, atol=1e-5)
        steps = np.unique(np.diff(found).round(4))
        assert (len(steps) > 2) == (one.description.case == "uneven times")
    assert {one.description.case for one in made} >= {"plain", "uneven times"}


def test_clips_come_back_as_they_were_drawn(tmp_path):
    made = make_clips(tmp_path, 5, seed=3, side=48)
    settings = ClipSettings(frames=16, height=48, width=48, patch_size=8, temporal_patch_size=2, spatial_merge_size=1)
    ticks = []
    loaded = load_clips(tmp_path, settings, on_clip=lambda: ticks.append(1))
    assert len(ticks) == 5
    for (frames, label), one in zip(loaded, made, strict=True):
        want = render(one.description, side=48).float() / 127.5 - 1
        assert label == one.label
        # H.264 keeps colour at half the resolution: edges change, the whole does not. Mean of |difference|, of 2.
        assert (frames - want).abs().mean() < (0.12 if one.description.case == "noise" else 0.04)


def test_making_clips_again_leaves_no_earlier_clip_and_no_other_file_out(tmp_path):
    make_clips(tmp_path, 6, seed=0, side=16)
    (tmp_path / "mine.txt").write_text("keep")
    make_clips(tmp_path, 2, seed=0, side=16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.mp4", "00001.mp4", LABELS, "mine.txt"]


def test_a_folder_that_was_not_finished_has_no_labels(tmp_path):
    make_clips(tmp_path, 2, side=16)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_clips(tmp_path, 3, side=16, on_clip=stop)
    assert not (tmp_path / LABELS).exists() and not list(tmp_path.glob(".*"))
    with pytest.raises(FileNotFoundError, match=LABELS):
        read_labels(tmp_path)


@given(seed=seeds)
def test_roll_moves_all_frames_alike_and_loses_nothing(seed):
    frames = torch.arange(2 * 3 * 5 * 7).view(2, 3, 5, 7).float()
    rolled = roll(frames, torch.Generator().manual_seed(seed))
    shifts = (frames[0, 0] == rolled[0, 0, 0, 0]).nonzero()[0].tolist()
    assert torch.equal(torch.roll(rolled, shifts, (-2, -1)), frames)


@given(seed=seeds)
def test_what_drifts_moves_at_a_slant_or_not_at_all(seed):
    frames = torch.arange(4 * 3 * 9 * 9).view(4, 3, 9, 9).float()
    shown = drift(frames, torch.Generator().manual_seed(seed))
    rows, columns = (shown[1, 0] == frames[0, 0, 0, 0]).nonzero()[0].tolist()
    assert {rows, columns} == {0} or {rows, columns} <= {1, 2, 7, 8}  # 7 and 8: two back and one back, over the edge
    for i, picture in enumerate(shown):
        assert torch.equal(picture, torch.roll(frames[0], (i * rows, i * columns), (-2, -1)))


def test_of_a_thousand_clips_three_tenths_stand_still_and_the_others_go_every_way():
    frame = torch.zeros(2, 1, 5, 5)
    frame[0, 0, 0, 0] = 1
    rng = torch.Generator().manual_seed(0)
    steps = Counter(tuple(drift(frame, rng)[1, 0].nonzero()[0].tolist()) for _ in range(1000))
    assert set(steps) == {(0, 0)} | {(row, column) for row in (1, 2, 3, 4) for column in (1, 2, 3, 4)}
    # Three standard errors of 1000 draws: 43 of 300, and 20 of the 44 of each other step.
    assert abs(steps.pop((0, 0)) - 300) < 43 and all(abs(count - 43.75) < 20 for count in steps.values())


def test_hues_are_angles_from_red_and_no_named_one_is_near_a_nameless_one():
    corners = {"100": 0, "110": 60, "010": 120, "011": 180, "001": 240, "101": 300}
    for corner, angle in corners.items():
        assert hue([int(level) for level in corner]) == pytest.approx(angle)
    assert hue([0.2, 0.7, 0.7]) == pytest.approx(hue([0.5, 1.0, 1.0])) == pytest.approx(180)  # grey adds nothing
    named = [hue(paint) for paint in COLOURS.values()]
    for angle in range(360):
        near = min(min((angle - other) % 360, (other - angle) % 360) for other in named)
        assert (near >= 25) == (angle in NAMELESS_HUES)
    assert len(NAMELESS_HUES) > 100


@given(seed=seeds, colour=st.sampled_from(sorted(COLOURS)))
def test_recoloured_shapes_have_nameless_hues_and_keep_their_form(seed, colour):
    clip = describe("circle", colour, "left", "plain", np.random.default_rng(seed))
    frames = render(clip, side=16).float() / 255
    shown = recoloured(frames, colour, torch.Generator().manual_seed(seed))
    # A rotation about the axis of the greys: neither brightness nor distance from grey changes, in any pixel.
    torch.testing.assert_close(shown.mean(1), frames.mean(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(shown.square().sum(1), frames.square().sum(1), atol=1e-5, rtol=0)
    inside = coverage("circle", centres(clip)[:1], clip.radius, 16)[0] == 1
    for pixel in shown[0, :, inside].T.tolist():
        assert min(abs(hue(pixel) - angle) for angle in NAMELESS_HUES) < 1  # colours are stored in whole 255ths


@given(seed=seeds)
def test_an_obstacle_is_at_rest_and_leaves_every_other_pixel_as_it_was(seed):
    frames = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rng = torch.Generator().manual_seed(seed)
    changed = random_obstacle(frames, rng)
    assert changed.shape == frames.shape and changed.abs().max() <= 1
    hidden = (changed != frames).any(1)  # t h w
    assert torch.equal(hidden, hidden[:1].expand_as(hidden))
    assert hidden[0].float().mean() < 0.5
    again = torch.Generator().manual_seed(seed)
    assert torch.equal(random_obstacle(frames, again), changed) and torch.equal(rng.get_state(), again.get_state())


def test_of_a_thousand_clips_three_tenths_get_a_fence_and_a_tenth_a_shape():
    frames, rng = torch.full((2, 3, 32, 32), -0.987), torch.Generator().manual_seed(0)
    fences = shapes = 0
    for _ in range(1000):
        hidden = (random_obstacle(frames, rng)[0] != frames[0]).any(0)  # h w
        if hidden.any():
            across = hidden.all(0).any() or hidden.all(1).any()  # a bar goes through the picture, no shape is so long
            fences, shapes = fences + int(across), shapes + int(not across)
    # Three standard errors of 1000 draws: 0.043 and 0.028.
    assert abs(fences / 1000 - 0.3) < 0.043 and abs(shapes / 1000 - 0.1) < 0.028


def test_errors_name_the_word_and_what_is_known(tmp_path):
    with pytest.raises(ValueError, match="'star'.*circle, square, triangle"):
        clip(0, shape="star")
    with pytest.raises(ValueError, match="split: 'exam'.*'train'.*'test'"):
        make_clips(tmp_path, 1, split="exam")
    with pytest.raises(ValueError, match="count=0.*at least 1"):
        make_clips(tmp_path, 0)
    (tmp_path / LABELS).write_text('{"file": "a.mp4"}\n')
    with pytest.raises(ValueError, match="line 1.*held_out"):
        read_labels(tmp_path)


def test_a_set_for_any_classifier_has_a_folder_for_each_split_and_motion(tmp_path):
    seen = []
    counts = make_class_folders(tmp_path / "set", 20, seed=3, side=16, on_clip=lambda: seen.append(1))
    assert counts == {"train": 13, "validation": 2, "test": 5} and len(seen) == 20
    listed = read_labelled_files(tmp_path / "set")
    assert listed.classes == tuple(sorted(MOTIONS)) and not listed.left_out
    assert Counter(file.split for file in listed.files) == counts
    for split, count in counts.items():
        clips = read_labels(tmp_path / "set" / split)
        assert len(clips) == count and all(clip.file.split("/")[0] == clip.description.motion for clip in clips)
        assert [label for _, label in load_clips(tmp_path / "set" / split, SMALL)] == [clip.label for clip in clips]
    # The table beside them says the same.
    rows = read_labelled_files(tmp_path / "set" / "labels.csv").files
    assert sorted((row.path, row.label, row.split) for row in rows) == sorted(
        (file.path, file.label, file.split) for file in listed.files
    )
    flat = make_clips(tmp_path / "flat", 13, 3, side=16)
    path = tmp_path / "set" / "train" / read_labels(tmp_path / "set" / "train")[7].file
    assert path.read_bytes() == (tmp_path / "flat" / flat[7].file).read_bytes()


def test_making_a_set_again_replaces_it_and_leaves_what_is_not_of_it(tmp_path):
    make_class_folders(tmp_path, 16, side=16)
    (tmp_path / "train" / "left" / "mine.mp4").write_bytes(b"")
    make_class_folders(tmp_path, 8, seed=1, side=16)
    assert len(list(tmp_path.glob("*/*/0*.mp4"))) == 8 and (tmp_path / "train" / "left" / "mine.mp4").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="other: holds something else"):
        make_class_folders(tmp_path / "other", 8)
    with pytest.raises(ValueError, match="count=7 is not at least 8"):
        make_class_folders(tmp_path / "new", 7)
    assert not (tmp_path / "new").exists()
