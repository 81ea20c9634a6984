import os
import pickle
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minivid.data import clip_cache
from minivid.data.clip_cache import CacheWarning, ClipCache
from minivid.video.clip import ClipSettings

SETTINGS = ClipSettings(frames=2, height=3, width=5, patch_size=1, temporal_patch_size=1, spatial_merge_size=1)


def pixels(seed=0):
    return torch.randint(0, 256, (2, 3, 3, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"some bytes")
    return path


def entry_of(cache):
    (name,) = os.listdir(cache.folder)
    return cache.folder / name


def test_what_is_kept_comes_back(tmp_path, video):
    cache = ClipCache(tmp_path / "cache")
    assert cache.load(video, SETTINGS) is None and not cache.folder.exists()
    assert cache.store(video, SETTINGS, pixels(), "truncated: is cut off")
    kept = cache.load(video, SETTINGS)
    assert torch.equal(kept.pixels, pixels()) and kept.damage == "truncated: is cut off"
    kept.pixels.zero_()  # whoever gets them may write into them
    assert torch.equal(ClipCache(tmp_path / "cache").load(video, SETTINGS).pixels, pixels())
    assert cache.size() == entry_of(cache).stat().st_size > 90


def test_another_file_or_another_setting_is_another_entry(tmp_path, video):
    cache = ClipCache(tmp_path / "cache")
    cache.store(video, SETTINGS, pixels())
    for change in ({"frames": 3}, {"start": 0.5}, {"height": 4, "width": 4}, {"repeat_short": True}):
        assert cache.load(video, replace(SETTINGS, **change)) is None
    (tmp_path / "other.mp4").write_bytes(b"some bytes")
    assert cache.load(tmp_path / "other.mp4", SETTINGS) is None
    (tmp_path / "link.mp4").symlink_to(video)
    assert cache.load(tmp_path / "link.mp4", SETTINGS) is not None
    times = os.stat(video)
    os.utime(video, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert cache.load(video, SETTINGS) is None
    os.utime(video, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cache.load(video, SETTINGS) is not None
    video.write_bytes(b"some bytes more")
    os.utime(video, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cache.load(video, SETTINGS) is None


def test_every_single_bit_that_flips_and_every_cut_is_found_and_the_entry_removed(tmp_path, video):
    cache = ClipCache(tmp_path / "cache")
    cache.store(video, SETTINGS, pixels(), "x")
    entry = entry_of(cache)
    whole = entry.read_bytes()
    broken = [whole[:i] for i in range(0, len(whole), 7)] + [whole + b"\0"]
    broken += [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(len(whole))]
    for data in broken:
        entry.write_bytes(data)
        assert cache.load(video, SETTINGS) is None
        assert not entry.exists()
    assert cache.store(video, SETTINGS, pixels()) and cache.load(video, SETTINGS) is not None


def test_an_entry_under_the_name_of_another_is_none(tmp_path, video):
    cache = ClipCache(tmp_path / "cache")
    cache.store(video, SETTINGS, pixels())
    first = entry_of(cache)
    other = replace(SETTINGS, start=1)
    cache.store(video, other, pixels(1))
    (second,) = set(cache.folder.iterdir()) - {first}
    os.replace(first, second)
    assert cache.load(video, other) is None


@given(data=st.binary(max_size=200))
def test_no_bytes_make_it_fail(data):
    assert clip_cache._unpacked(bytearray(data), "key") is None


def test_it_is_never_larger_than_its_limit_and_keeps_what_this_training_uses(tmp_path, video):
    first = ClipCache(tmp_path / "cache")
    settings = [replace(SETTINGS, start=second) for second in range(5)]
    for index in (0, 1):
        assert first.store(video, settings[index], pixels())
    size = first.size() // 2
    for age, name in enumerate(sorted(os.listdir(first.folder))):
        os.utime(first.folder / name, (time.time() - 1000 - age,) * 2)
    later = ClipCache(first.folder, limit=3 * size + size // 2)
    assert later.load(video, settings[0]) is not None  # in use from now on
    assert later.store(video, settings[2], pixels()) and later.store(video, settings[3], pixels())
    assert later.size() <= later.limit
    assert [later.load(video, one) is not None for one in settings] == [True, False, True, True, False]
    assert not later.store(video, settings[4], pixels())  # all that is there is in use
    assert later.load(video, settings[2]) is not None and later.size() <= later.limit
    assert not ClipCache(tmp_path / "none", limit=0).store(video, SETTINGS, pixels())
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="limit=-1 bytes is below 0"):
        ClipCache(tmp_path, limit=-1)


def test_clearing_removes_entries_and_nothing_else(tmp_path, video):
    cache = ClipCache(tmp_path / "cache")
    cache.store(video, SETTINGS, pixels())
    (cache.folder / f".unfinished-{'0' * 16}.clip").write_bytes(b"")
    (cache.folder / "holiday.clip").write_bytes(b"")
    assert cache.clear() == 1 and os.listdir(cache.folder) == ["holiday.clip"]
    os.unlink(cache.folder / "holiday.clip")
    assert cache.clear() == 0 and not cache.folder.exists() and cache.size() == 0


def test_a_cache_that_cannot_be_written_is_said_once_and_leaves_nothing(tmp_path, video, monkeypatch):
    cache = ClipCache(tmp_path / "cache")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minivid.data.clip_cache.os.replace", refuse)
    with pytest.warns(CacheWarning, match="cache: clips cannot be kept .No space left"):
        assert not cache.store(video, SETTINGS, pixels())
    assert not cache.store(video, SETTINGS, pixels()) and os.listdir(cache.folder) == []


def test_it_can_be_sent_to_another_process(tmp_path, video):
    cache = ClipCache(tmp_path / "cache")
    cache.store(video, SETTINGS, pixels())
    assert torch.equal(pickle.loads(pickle.dumps(cache)).load(video, SETTINGS).pixels, pixels())
