"""What is written is read back: size, number, times and, but for the codec, pixels."""

import os

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minivid.shapes import ShapeError
from minivid.video import write
from minivid.video.write import write_video


def gradient(t: int, h: int, w: int) -> torch.Tensor:
    """A soft picture that slides down: the kind that a codec keeps well."""
    rows = torch.arange(h)[:, None] + 3 * torch.arange(t)[:, None, None]
    columns = torch.arange(w)[None, None, :]
    return torch.stack([60 + rows + 0 * columns, 200 - columns + 0 * rows, rows + columns], dim=1).clip(0, 255).byte()


def read_back(path) -> tuple[np.ndarray, list[float]]:
    with av.open(str(path)) as container:
        pictures = [(picture.to_ndarray(format="rgb24"), picture.time) for picture in container.decode(video=0)]
    return np.stack([pixels for pixels, _ in pictures]), [second for _, second in pictures]


@settings(max_examples=15)
@given(t=st.integers(1, 7), h=st.integers(2, 37), w=st.integers(2, 37), data=st.data())
def test_size_number_and_pixels_come_back(tmp_path_factory, t, h, w, data):
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    frames = gradient(t, h, w)
    write_video(path, frames, crf=data.draw(st.sampled_from([0, 10])))
    pixels, _ = read_back(path)
    assert pixels.shape == (t, h, w, 3)
    # 4:2:0 averages the colour of 2 x 2 pixels and limited-range YUV has 219 steps of 255: a few levels
    difference = np.abs(pixels.astype(int) - frames.permute(0, 2, 3, 1).numpy().astype(int))
    assert difference.mean() < 4


def test_the_channels_are_red_green_blue_and_the_frames_are_in_order(tmp_path):
    frames = torch.zeros(3, 3, 32, 48, dtype=torch.uint8)
    for channel in range(3):
        frames[channel, channel] = 200
    write_video(tmp_path / "clip.mp4", frames)
    pixels, _ = read_back(tmp_path / "clip.mp4")
    assert pixels.mean(axis=(1, 2)).argmax(axis=1).tolist() == [0, 1, 2]
    assert pixels.mean(axis=(1, 2)).max(axis=1) == pytest.approx([200, 200, 200], abs=4)


@pytest.mark.parametrize("fps", [0.5, 23.976, 29.97, 30000 / 1001, 30, 60, 1000])
def test_frame_i_is_shown_at_i_over_fps(tmp_path, fps):
    write_video(tmp_path / "clip.mp4", gradient(9, 16, 18), fps=fps)
    _, seconds = read_back(tmp_path / "clip.mp4")
    # one tick of the slowest clock the file can have: mp4 takes at least 10 000 a second
    np.testing.assert_allclose(seconds, np.arange(9) / fps, atol=1e-4, rtol=0)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(fps, rel=1e-6)


@settings(max_examples=15)
@given(st.lists(st.integers(1, 500_000), min_size=1, max_size=9), st.sampled_from([0.0, 1.43]))
def test_variable_times_come_back_to_half_a_tick(tmp_path_factory, gaps, start):
    seconds = (start + np.cumsum([0, *gaps]) / 90_000).tolist()
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_video(path, gradient(len(seconds), 16, 16), seconds=seconds)
    pixels, got = read_back(path)
    assert len(pixels) == len(seconds)
    write_video(path, gradient(len(seconds), 16, 16), seconds=torch.tensor(seconds, dtype=torch.float64))
    assert read_back(path)[1] == got
    np.testing.assert_allclose(got, seconds, atol=0.5001 / 90_000, rtol=0)


def test_duration_ends_when_the_last_frame_has_been_shown(tmp_path):
    write_video(tmp_path / "clip.mp4", gradient(4, 16, 16), fps=10, seconds=[0, 0.5, 0.6, 2.5])
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.duration / av.time_base == pytest.approx(2.6, abs=1e-3)


@pytest.mark.parametrize("interval", [1, 4, 250])
def test_key_frames_come_at_least_so_often(tmp_path, interval):
    write_video(tmp_path / "clip.mp4", gradient(11, 32, 32), key_frame_interval=interval)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        key = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    gaps = np.diff([*np.flatnonzero(key), 11])
    assert gaps.max() <= interval
    assert len(gaps) == {1: 11, 4: len(gaps), 250: 1}[interval] < 12


def test_the_same_frames_give_the_same_bytes(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, gradient(8, 48, 64))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_an_existing_file_is_replaced_and_a_new_one_is_as_readable_as_others(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"old")
    write_video(tmp_path / "clip.mp4", gradient(2, 16, 16))
    (tmp_path / "other").touch()
    assert len(read_back(tmp_path / "clip.mp4")[0]) == 2
    assert os.stat(tmp_path / "clip.mp4").st_mode == os.stat(tmp_path / "other").st_mode


@pytest.mark.parametrize("cause", [KeyboardInterrupt, MemoryError])
def test_nothing_is_left_behind_when_writing_stops_halfway(tmp_path, monkeypatch, cause):
    (tmp_path / "clip.mp4").write_bytes(b"old")
    calls = iter(range(3))

    def stop_at_the_third_frame(pixels):
        if next(calls) == 2:
            raise cause
        return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())

    monkeypatch.setattr(write, "_rows", stop_at_the_third_frame)
    with pytest.raises(cause):
        write_video(tmp_path / "clip.mp4", gradient(5, 16, 16))
    assert os.listdir(tmp_path) == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_bytes() == b"old"


def test_strange_names_are_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("lesson1:intro.mp4", "frame%03d.mp4", "日本 🎬.mp4", "no_suffix"):
        write_video(name, gradient(2, 16, 16))
        assert (tmp_path / name).stat().st_size > 500


@pytest.mark.parametrize("shape", [(5, 4, 16, 18), (0, 3, 16, 18), (5, 3, 0, 18)])
def test_error_names_the_shape(tmp_path, shape):
    with pytest.raises(ShapeError, match=rf"{shape[0]}, {shape[1]}, {shape[2]}, {shape[3]}.*is not t 3 h w"):
        write_video(tmp_path / "clip.mp4", torch.zeros(shape, dtype=torch.uint8))
    assert os.listdir(tmp_path) == []


def test_error_says_that_pixels_are_uint8(tmp_path):
    with pytest.raises(TypeError, match="(?i)uint8"):
        write_video(tmp_path / "clip.mp4", torch.zeros(5, 3, 16, 18))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": 0}, "fps=0 is not between 0.001 and 1000"),
        ({"fps": float("nan")}, "fps=nan"),
        ({"crf": 52}, "crf=52 is not between 0 .* and 51"),
        ({"key_frame_interval": 0}, "key_frame_interval=0"),
        ({"seconds": [0, 1]}, "2 times for t=3 frames"),
        ({"seconds": [0, 1, 1]}, r"seconds\[2\]=1.0 .* seconds\[1\]=1.0"),
        ({"seconds": [-0.5, 1, 2]}, r"seconds\[0\]=-0.5 is not a time from 0 on"),
        ({"seconds": [0, float("inf"), 2]}, r"seconds\[1\]=inf"),
    ],
)
def test_errors_name_the_number(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "clip.mp4", gradient(3, 16, 18), **settings)


def test_error_when_the_folder_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_video(tmp_path / "nowhere" / "clip.mp4", gradient(3, 16, 18))
