import os
import pickle
import warnings

import pytest
import torch
from torch.utils.data import DataLoader
from video.clips import make

from minivid.data.batches import Examples
from minivid.data.clip_cache import ClipCache
from minivid.data.file_clips import FileClips, read_files
from minivid.data.labelled_files import LabelledFile, Unreadable, fingerprint
from minivid.video.clip import ClipSettings, load_pixels
from minivid.video.resize import normalize

SETTINGS = ClipSettings(
    frames=4, height=6, width=10, repeat_short=True, patch_size=1, temporal_patch_size=1, spatial_merge_size=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One sound file, one cut in its middle, and four that hold no video."""
    place = tmp_path_factory.mktemp("files")
    make(place / "sound.mp4", 12, size=(32, 48))
    make(place / "cut.mkv", 30, size=(32, 48), options={"g": "5"})
    data = (place / "cut.mkv").read_bytes()
    (place / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    (place / "empty.mp4").write_bytes(b"")
    (place / "text.mp4").write_text("a page that was not found")
    (place / "folder.mp4").mkdir()
    return place


def listed(folder, *names, **parts):
    return [LabelledFile(str(folder / name), "a" if i % 2 else "b", **parts) for i, name in enumerate(names)]


def test_an_item_is_what_the_file_shows_normalised_and_its_class(folder):
    clips = FileClips(listed(folder, "sound.mp4", "sound.mp4"), ("a", "b"), SETTINGS)
    frames, label = clips[0]
    assert torch.equal(frames, normalize(load_pixels(folder / "sound.mp4", SETTINGS).pixels))
    assert frames.shape == (4, 3, 6, 10) and frames.dtype == torch.float32 and -1 <= frames.min() < frames.max() <= 1
    assert (label, clips[1][1], clips.labels, len(clips)) == (1, 0, [1, 0], 2)
    assert isinstance(clips, Examples) and clips.classes == ("a", "b")
    with pytest.raises(IndexError):
        clips[2]


def test_what_cannot_be_read_is_listed_with_its_kind_and_what_is_cut_is_used(folder):
    names = ["sound.mp4", "cut.mkv", "empty.mp4", "text.mp4", "folder.mp4", "gone.mp4"]
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the report says it; nothing else does
        good, unreadable = read_files(listed(folder, *names), SETTINGS, on_file=lambda: seen.append(1))
        assert [os.path.basename(file.path) for file in good] == names[:2] and len(seen) == 6
        frames, _ = FileClips(good, ("a", "b"), SETTINGS)[1]
    assert [(os.path.basename(entry.path), entry.kind, entry.used) for entry in unreadable] == [
        ("cut.mkv", "truncated", True),
        ("empty.mp4", "empty", False),
        ("text.mp4", "not_video", False),
        ("folder.mp4", "not_a_file", False),
        ("gone.mp4", "not_found", False),
    ]
    assert all(entry.reason and folder.name not in entry.reason for entry in unreadable)
    assert good[0].fingerprint == fingerprint(folder / "sound.mp4") and not good[0].damage and good[1].damage
    assert frames.shape == (4, 3, 6, 10)


def test_the_last_frame_that_came_stands_for_those_that_did_not(folder, monkeypatch):
    def three(path, settings, *, strict=False):
        found = load_pixels(path, settings)
        return type(found)(found.pixels[:3], found.seconds[:3], found.indices[:3])

    monkeypatch.setattr("minivid.data.file_clips.load_pixels", three)
    frames, _ = FileClips(listed(folder, "sound.mp4"), ("b",), SETTINGS)[0]
    assert torch.equal(frames[3], frames[2]) and not torch.equal(frames[2], frames[1])


def test_a_part_of_a_file_is_read_and_one_that_is_not_in_it_is_listed(folder):
    parts = listed(folder, "sound.mp4", start=0.2, end=0.3) + listed(folder, "sound.mp4", start=9.0)
    good, unreadable = read_files(parts, SETTINGS)
    assert good[0].start == 0.2 and len(good) == 1 and unreadable[0].kind == "seconds"
    whole, part = (FileClips(files, ("b",), SETTINGS)[0][0] for files in (listed(folder, "sound.mp4"), good))
    assert not torch.equal(whole, part)


def test_the_cache_gives_the_same_clips_and_the_same_report_without_decoding(folder, tmp_path, monkeypatch):
    files = listed(folder, "sound.mp4", "cut.mkv")
    without = read_files(files, SETTINGS)
    cache = ClipCache(tmp_path)
    assert read_files(files, SETTINGS, cache=cache) == without and cache.size() > 0
    plain = [FileClips(without[0], ("a", "b"), SETTINGS)[i][0] for i in (0, 1)]
    monkeypatch.setattr("minivid.data.file_clips.load_pixels", None)
    assert read_files(files, SETTINGS, cache=cache) == without
    kept = FileClips(without[0], ("a", "b"), SETTINGS, cache=cache)
    assert all(torch.equal(kept[i][0], plain[i]) for i in (0, 1))


def test_a_damaged_entry_of_the_cache_is_made_anew(folder, tmp_path):
    clips = FileClips(listed(folder, "sound.mp4"), ("b",), SETTINGS, cache=ClipCache(tmp_path))
    first = clips[0][0]
    (entry,) = tmp_path.iterdir()
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.write_bytes(data)
    assert torch.equal(clips[0][0], first)
    assert entry.read_bytes() != bytes(data) and torch.equal(clips[0][0], first)


def test_it_leaves_no_file_open_and_is_light_to_send(folder, tmp_path):
    clips = FileClips(listed(folder, *["sound.mp4"] * 50), ("a", "b"), SETTINGS, cache=ClipCache(tmp_path))
    clips[0]
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    for i in range(10):
        clips[i]
    read_files(clips.files[:5], SETTINGS)
    assert not before or set(os.listdir("/proc/self/fd")) <= before
    sent = pickle.dumps(clips)
    assert len(sent) < 20_000 and torch.equal(pickle.loads(sent)[3][0], clips[3][0])


def test_data_workers_give_the_same_clips(folder, tmp_path):
    clips = FileClips(listed(folder, "sound.mp4", "sound.mp4"), ("a", "b"), SETTINGS, cache=ClipCache(tmp_path))
    for (frames,), (label,) in DataLoader(clips, batch_size=1, num_workers=1):
        assert torch.equal(frames, clips[0][0]) and label in (0, 1)


def test_what_does_not_fit_together_is_refused(folder):
    with pytest.raises(ValueError, match="label 'b' is none of the 1 classes a"):
        FileClips(listed(folder, "sound.mp4"), ("a",), SETTINGS)
    for settings in (ClipSettings(frames=4), ClipSettings(height=32, width=32)):
        with pytest.raises(ValueError, match="give all three"):
            FileClips([], ("a",), settings)
        with pytest.raises(ValueError, match="give all three"):
            read_files([], settings)


def test_the_report_goes_along(folder):
    entry = Unreadable("x.mp4", "is empty", "empty")
    assert FileClips([], ("a",), SETTINGS, unreadable=[entry]).unreadable == [("x.mp4", "is empty", "empty", False)]
