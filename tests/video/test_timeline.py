"""Which packets are frames, when they are shown, and the way to some of them."""

from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivid.video.timeline import (
    FRAMES_WORTH_A_SEEK,
    Packets,
    Timeline,
    _vp9_pictures,
    frame_rate,
    pictures_shown,
    seconds_of_ticks,
    timeline_of_packets,
)

MS = Fraction(1, 1000)


def timeline(ticks: list[int | None], keys: list[int], container: str = "mov") -> Timeline:
    return timeline_of_packets(Packets(ticks, keys), container, MS, Fraction(30))


@given(st.permutations(range(9)))
def test_frames_are_numbered_in_the_order_of_showing(ticks):
    line = timeline([40 * tick for tick in ticks], [0])
    assert [ticks[place] for place in line.places] == list(range(9))
    np.testing.assert_allclose(line.seconds, np.arange(9) * 0.04)


@pytest.mark.parametrize(
    ("ticks", "container", "seconds"),
    [
        ([None, None, None], "h264", [0, 1 / 30, 2 / 30]),
        ([0, 33, None], "mpegts", [0, 1 / 30, 2 / 30]),
        ([7, 7, 7], "mov", [0, 1 / 30, 2 / 30]),
        ([0, 33, 33, 66], "matroska", [0, 0.033, 0.033, 0.066]),
        ([33, 100, 66], "avi", [0.033, 0.066, 0.1]),
    ],
)
def test_where_times_do_not_name_the_frames_they_are_counted(ticks, container, seconds):
    line = timeline(ticks, [0], container)
    assert line.ticks is None
    np.testing.assert_allclose(line.seconds, seconds)


@given(st.data())
def test_segments_reach_each_wanted_frame_and_skip_what_is_worth_a_seek(data):
    groups = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=9))
    keys = np.cumsum([0, *groups[:-1]]).tolist()
    n = sum(groups)
    line = timeline(list(range(n)), keys)
    wanted = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=9, unique=True).map(sorted))
    segments = line.segments(wanted)
    assert [frame for segment in segments for frame in segment.frames] == wanted
    reached = 0
    for segment in segments:
        assert segment.start == 0 or (segment.start in keys and segment.start > reached + FRAMES_WORTH_A_SEEK)
        for frame in segment.frames:
            assert frame >= segment.start
            assert max(key for key in keys if key <= frame) <= max(reached, segment.start) + FRAMES_WORTH_A_SEEK
            reached = frame


def test_a_frame_shown_before_a_key_frame_starts_at_the_one_before():
    # an open group: the key frame at place 50 is shown at 52, behind two frames that were decoded after it
    ticks = [*range(50), 52, 50, 51, *range(53, 90)]
    line = timeline(ticks, [0, 50])
    assert [segment.start for segment in line.segments([51])] == [0]
    assert [segment.start for segment in line.segments([52])] == [50]
    assert [segment.start for segment in line.segments([80])] == [50]


@pytest.mark.parametrize(
    ("seconds", "declared", "rate"),
    [
        (np.arange(72) / 24000 * 1001, [Fraction(24000, 1001)], 24000 / 1001),
        (np.round(np.arange(72) * 1001 / 24000, 3), [Fraction(24000, 1001)], 24000 / 1001),
        (np.arange(31) / 30, [Fraction(1000), Fraction(60)], 30.0),
        (np.arange(31) / 30, [Fraction(1000), Fraction(30)], 30.0),
        (np.arange(3) / 30, [Fraction(25)], 30.0),
        (np.array([0, 0.1, 0.2, 2.0]), [Fraction(10)], 1.5),
        (np.zeros(1), [Fraction(12)], 12.0),
        (np.zeros(1), [None, Fraction(90000)], 25.0),
        (np.zeros(3), [], 25.0),
    ],
)
def test_a_declared_rate_counts_if_the_times_agree(seconds, declared, rate):
    assert frame_rate(seconds, declared) == pytest.approx(rate, rel=1e-9)


def test_seconds_are_ticks_of_the_time_base():
    seconds = seconds_of_ticks(np.array([129003, 132006]), 2, Fraction(1, 90000), Fraction(30))
    np.testing.assert_allclose(seconds, [1.433367, 1.466733], atol=1e-6)


@pytest.mark.parametrize(
    ("codec", "data", "shown"),
    [
        ("vp8", bytes([0b00010000, 0, 0, 0]), 1),
        ("vp8", bytes([0b00000001, 0, 0, 0]), 0),
        ("vp9", bytes([0b10000010, 0, 0, 0]), 1),  # marker 2, profile 0, not a repeat, a key frame, shown
        ("vp9", bytes([0b10000100, 0, 0, 0]), 0),
        ("vp9", bytes([0b10001000, 0, 0, 0]), 1),  # shows a picture decoded earlier
        ("vp9", bytes([0b10110001, 0, 0, 0]), 1),  # profile 3 has one bit more in front
        ("vp9", bytes([0b10110010, 0, 0, 0]), 0),
        ("h264", bytes(4), 1),
    ],
)
def test_hidden_pictures_give_no_frame(codec, data, shown):
    assert pictures_shown(av.Packet(data), codec) == shown


def test_a_vp9_superframe_is_taken_apart():
    hidden, shown = bytes([0b10000000]) + bytes(6), bytes([0b10000110]) + bytes(8)
    marker = 0b11000001  # two pictures, sizes of one byte
    superframe = hidden + shown + bytes([marker, len(hidden), len(shown), marker])
    assert [bytes(picture) for picture in _vp9_pictures(memoryview(superframe))] == [hidden, shown]
    assert [bytes(picture) for picture in _vp9_pictures(memoryview(shown))] == [shown]
