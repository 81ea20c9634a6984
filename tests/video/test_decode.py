"""The oracle is a decode of the whole file by PyAV alone, in a straight line."""

import os
import struct
import threading
import warnings
from contextlib import contextmanager
from dataclasses import asdict
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from clips import box, decode_all, make, patched, pictures, remux

from minivid.video import decode as library
from minivid.video.containers import VideoFile
from minivid.video.decode import (
    VideoError,
    VideoInfo,
    VideoWarning,
    display_matrix,
    open_video,
    orient,
    probe,
    read_frames,
)
from minivid.video.write import write_video

UNEVEN = np.cumsum(np.random.default_rng(0).integers(5, 300, 130)).tolist()
MEDIUM = {"preset": "medium", "g": "40"}

# name: suffix and what `make` is told
CLIPS = {
    "key_frame_every_12": (".mp4", {"options": {"g": "12", "preset": "veryfast"}}),
    "key_frame_every_40": (".mp4", {"options": MEDIUM}),
    "one_key_frame": (".mp4", {"options": MEDIUM | {"g": "1000"}}),
    "all_key_frames": (".mp4", {"options": {"g": "1"}}),
    "open_gop": (".mkv", {"options": MEDIUM | {"x264-params": "open-gop=1:scenecut=0:bframes=3:b-adapt=0"}}),
    "refreshed_bit_by_bit": (".mp4", {"options": MEDIUM | {"g": "30", "x264-params": "intra-refresh=1:bframes=0"}}),
    "b_pyramid": (".mp4", {"options": MEDIUM | {"bf": "8", "preset": "slow"}}),
    "uneven_times": (".mp4", {"options": MEDIUM, "ticks": UNEVEN, "time_base": Fraction(1, 1000)}),
    "uneven_times_matroska": (".mkv", {"options": MEDIUM, "ticks": UNEVEN, "time_base": Fraction(1, 1000)}),
    "late_start": (".mp4", {"options": MEDIUM, "ticks": list(range(43, 173))}),
    "fragments": (".mp4", {"options": MEDIUM, "muxer": {"movflags": "frag_keyframe+empty_moov"}}),
    "transport_stream": (".ts", {"options": MEDIUM}),
    "interlaced": (".ts", {"options": MEDIUM | {"x264-params": "tff=1"}, "size": (64, 64)}),
    "flash": (".flv", {"options": MEDIUM}),
    "sound": (".mp4", {"options": MEDIUM, "audio": True}),
    "odd_size": (".mp4", {"options": MEDIUM, "size": (31, 17), "pix_fmt": "yuv444p"}),
    "ten_bits": (".mp4", {"options": MEDIUM, "pix_fmt": "yuv420p10le"}),
    "grey": (".mkv", {"codec": "ffv1", "pix_fmt": "gray"}),
    "transparent": (".mov", {"codec": "qtrle", "pix_fmt": "argb"}),
    "mpeg4_in_avi": (".avi", {"codec": "mpeg4", "options": {"g": "40", "bf": "2"}}),
    "h264_in_avi": (".avi", {"options": MEDIUM}),
    "mpeg2": (".mpg", {"codec": "mpeg2video", "options": {"g": "40", "bf": "2"}}),
    "hidden_pictures_vp8": (".webm", {"codec": "libvpx", "options": {"g": "40", "auto-alt-ref": "1"}}),
    "hidden_pictures_vp9": (".webm", {"codec": "libvpx-vp9", "options": {"g": "40", "auto-alt-ref": "1"}}),
    "gif": (".gif", {"codec": "gif", "pix_fmt": "rgb8"}),
}
FAST_VPX = {"deadline": "good", "cpu-used": "5", "lag-in-frames": "16"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Makes a clip of CLIPS at most once in a process: its path, its frames and their times."""
    folder, made = tmp_path_factory.mktemp("clips"), {}

    def get(name):
        if name not in made:
            suffix, settings = CLIPS[name]
            if settings.get("codec", "").startswith("libvpx"):
                settings = settings | {"options": settings["options"] | FAST_VPX}
            path = make(folder / (name + suffix), 130, **settings)
            made[name] = (path, *decode_all(path))
        return made[name]

    return get


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """60 frames, 5 groups, the index behind the pictures."""
    return make(tmp_path_factory.mktemp("clean") / "clean.mp4", 60, options={"g": "12"})


# Frames


@pytest.mark.parametrize("name", CLIPS)
def test_every_frame_equals_the_straight_decode(clip, name):
    path, pixels, seconds = clip(name)
    with open_video(path) as video:
        assert video.info.frames == len(pixels) == 130
        got = list(video.frames())
        assert [index for index, _, _ in got] == list(range(130))
        assert all(np.array_equal(frame, want) for (_, _, frame), want in zip(got, pixels, strict=True))
        assert [second for _, second, _ in got] == video.seconds.tolist()
        if name != "h264_in_avi":  # whose times FFmpeg guesses wrongly, out of order
            np.testing.assert_allclose(video.seconds, seconds, atol=1e-9, rtol=0)
        assert (np.diff(video.seconds) > 0).all()


@pytest.mark.parametrize("name", CLIPS)
def test_a_chosen_frame_equals_the_straight_decode(clip, name):
    path, pixels, _ = clip(name)
    generator = np.random.default_rng(1)
    subsets = [[129], [0, 129], [39, 40, 41], [42], [44, 83], [41, 87], [78, 79], [80, 119, 120]]
    subsets += [sorted(generator.choice(130, size, replace=False).tolist()) for size in (1, 1, 2, 2, 3, 7)]
    with open_video(path) as video:
        for wanted in subsets:
            got = list(video.frames(wanted))
            assert [index for index, _, _ in got] == wanted
            for index, _, frame in got:
                assert np.array_equal(frame, pixels[index]), (wanted, index)


def test_seeking_decodes_less(clip, monkeypatch):
    path, _, _ = clip("key_frame_every_40")
    decoded = []
    decode = av.Packet.decode
    from minivid.video import decode as module

    monkeypatch.setattr(
        module._Damage, "decode", lambda self, packet: decoded.append(packet.pts) or self._noted(lambda: decode(packet))
    )
    with open_video(path) as video:
        decoded.clear()
        assert [index for index, _, _ in video.frames([125])] == [125]
    assert len(decoded) < 15


# Segments beside each other


def told(path, wanted, **settings) -> tuple[list, list[str]]:
    """The frames that come, then the error if there is one; and the warnings."""
    came = []
    with warnings.catch_warnings(record=True) as said, open_video(path) as video:
        warnings.simplefilter("always")
        try:
            came.extend((index, second, pixels.tobytes()) for index, second, pixels in video.frames(wanted, **settings))
        except VideoError as error:
            came.append(str(error))
    return came, [str(warning.message) for warning in said]


@pytest.mark.parametrize("wanted", [[35, 77, 120], [3, 5, 35, 36, 60, 61, 77, 90, 91, 92, 119, 129]])
@pytest.mark.parametrize("strict", [False, True])
def test_segments_side_by_side_tell_what_one_at_a_time_tells(tmp_path, monkeypatch, wanted, strict):
    path = make(tmp_path / "a.mp4", 130, options={"g": "30"})
    pixels, _ = decode_all(path)
    data = bytearray(path.read_bytes())
    start, end = box(bytes(data), b"mdat")
    for place in range((start + end) // 2, (start + end) // 2 + 400):
        data[place] ^= 0x55
    (tmp_path / "bad.mp4").write_bytes(data)
    heard = {}
    for count in (1, 2, 3):
        monkeypatch.setattr(library, "SIDE_BY_SIDE", count)
        heard[count] = [told(path, wanted, strict=strict), told(tmp_path / "bad.mp4", wanted, strict=strict)]
    assert heard[1] == heard[2] == heard[3]
    (whole, silence), (damaged, warned) = heard[1]
    assert [(index, frame) for index, _, frame in whole] == [(index, pixels[index].tobytes()) for index in wanted]
    assert silence == []
    assert "is damaged" in (damaged[-1] if strict else warned[0])


def test_leaving_early_stops_the_threads_and_closes_the_containers(clip, monkeypatch):
    opened, closed, threads = [], [], threading.enumerate()
    container = VideoFile.container

    @contextmanager
    def watched(file):
        with container(file) as made:
            opened.append(made)
            try:
                yield made
            finally:
                closed.append(made)

    path, _, _ = clip("key_frame_every_12")
    with open_video(path) as video:
        monkeypatch.setattr(VideoFile, "container", watched)
        frames = video.frames([30, 60, 90, 120])
        assert [next(frames)[0], next(frames)[0]] == [30, 60]  # one from each thread
        assert len(opened) == 2 and len(threading.enumerate()) == len(threads) + 2
        frames.close()
        assert len(closed) == len(opened) == 2 and threading.enumerate() == threads


def test_an_error_in_a_segment_comes_out_behind_the_frames_before_it(clip, monkeypatch):
    path, _, _ = clip("key_frame_every_40")
    segment = library.Video._segment

    def fails(self, container, stream, wanted, ledger):
        if wanted.frames == (90,):
            raise MemoryError("no room for frame 90")
        return segment(self, container, stream, wanted, ledger)

    monkeypatch.setattr(library.Video, "_segment", fails)
    threads, came = threading.enumerate(), []
    with open_video(path) as video, pytest.raises(MemoryError, match="no room for frame 90"):
        came.extend(index for index, _, _ in video.frames([10, 50, 90, 125]))
    assert came == [10, 50]
    assert threading.enumerate() == threads


def test_frames_cut_away_by_an_edit_list_do_not_count(tmp_path):
    # The edit list says at which tick of the recording the film begins.
    source = make(tmp_path / "source.mp4", 50, options={"g": "20"})
    data = source.read_bytes()
    start, _ = box(data, b"moov", b"trak", b"edts", b"elst")
    (count,) = np.frombuffer(data[start + 4 : start + 8], ">u4")
    assert count == 1
    duration, begin = np.frombuffer(data[start + 8 : start + 16], ">i4")
    ticks_a_frame = 512  # 15360 ticks a second, 30 frames
    new = np.array([duration, begin + 25 * ticks_a_frame], ">i4").tobytes()
    cut = patched(source, tmp_path / "cut.mp4", start + 8, new)
    pixels, seconds = decode_all(cut)
    assert len(pixels) == 25
    with open_video(cut) as video:
        assert video.info.frames == 25
        np.testing.assert_allclose(video.seconds, seconds, atol=1e-9)
        for index, _, frame in video.frames([0, 3, 24]):
            assert np.array_equal(frame, pixels[index])


def test_a_stream_that_begins_in_the_middle_counts_what_can_be_decoded(tmp_path):
    source = make(tmp_path / "source.ts", 60, options={"g": "20"})
    data = source.read_bytes()
    cut = tmp_path / "cut.ts"
    cut.write_bytes(data[: 188 * 3] + data[len(data) // 188 // 5 * 188 :])
    pixels, _ = decode_all(cut)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)
        frames = read_frames(cut)
    assert 20 <= len(pixels) < 60
    assert probe_quietly(cut).frames == len(frames) == len(pixels)


def test_frames_that_need_what_was_cut_away_do_not_count(clip, tmp_path):
    # The second group is open: the frames shown before its key frame are predicted from the first group too.
    with av.open(str(clip("open_gop")[0])) as container:
        packets = [(packet.pts, packet.is_keyframe) for packet in container.demux(video=0) if packet.size]
    place = next(place for place, (_, key) in enumerate(packets) if key and place)
    assert min(packets[place + 1 :])[0] < packets[place][0]
    cut = remux(clip("open_gop")[0], tmp_path / "cut.mkv", skip=place)
    pixels, _ = decode_all(cut)
    assert len(pixels) < 130 - place
    frames = read_frames(cut)
    assert probe(cut).frames == len(frames) == len(pixels)
    assert np.array_equal(frames.pixels[-1].permute(1, 2, 0).numpy(), pixels[-1])


def probe_quietly(path) -> VideoInfo:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)
        return probe(path)


def test_read_frames_honours_order_and_repetition(clip):
    path, pixels, seconds = clip("b_pyramid")
    asked = [77, 3, 3, 129, 0]
    frames = read_frames(path, asked)
    assert frames.pixels.dtype == torch.uint8 and frames.seconds.dtype == torch.float64
    assert frames.indices.tolist() == asked
    assert frames.seconds.tolist() == pytest.approx([seconds[index] for index in asked])
    for got, index in zip(frames.pixels, asked, strict=True):
        assert np.array_equal(got.permute(1, 2, 0).numpy(), pixels[index])
    assert len(read_frames(path, [])) == 0
    assert read_frames(path, torch.tensor([5, 4])).indices.tolist() == [5, 4]


def test_written_frames_are_read_back(tmp_path):
    frames = torch.from_numpy(pictures(7, 20, 34)).permute(0, 3, 1, 2)
    seconds = [0.5, 0.6, 1.0, 1.01, 2.0, 2.5, 2.75]
    write_video(tmp_path / "clip.mp4", frames, seconds=seconds, crf=1)
    got = read_frames(tmp_path / "clip.mp4")
    assert got.seconds.tolist() == pytest.approx(seconds, abs=1e-5)
    # half the resolution for colour, whose gradient is soft: a few levels
    assert (got.pixels.int() - frames.int()).abs().float().mean() < 6


def test_two_readers_of_one_video_do_not_disturb_each_other(clip):
    path, pixels, _ = clip("key_frame_every_12")
    with open_video(path) as video:
        for (i, _, left), (j, _, right) in zip(video.frames([3, 60, 100]), video.frames([1, 90, 129]), strict=True):
            assert np.array_equal(left, pixels[i]) and np.array_equal(right, pixels[j])
        half_read = video.frames(range(130))
        next(half_read)
    with pytest.raises(ValueError, match="was closed"):
        list(half_read)


@pytest.mark.parametrize("index", [130, -1])
def test_error_names_the_index_and_the_number_of_frames(clip, index):
    path, _, _ = clip("gif")
    with pytest.raises(VideoError, match=rf"no frame {index}: it has 130 frames, numbered 0 to 129") as caught:
        read_frames(path, [0, index])
    assert caught.value.kind == "bad_index" and caught.value.path == path


# What a video is


def test_probe_says_what_the_file_holds(tmp_path):
    path = make(tmp_path / "a.mp4", 45, audio=True, pixel_aspect=Fraction(16, 11), size=(32, 48))
    assert asdict(probe(path)) == {
        "width": 48,
        "height": 32,
        "fps": 30.0,
        "frames": 45,
        "duration": pytest.approx(1.5),
        "rotation": 0,
        "codec": "h264",
        "has_audio": True,
        "container": "mov,mp4,m4a,3gp,3g2,mj2",
        "start": 0.0,
        "pixel_aspect": pytest.approx(16 / 11),
        "interlaced": False,
    }
    assert not probe(make(tmp_path / "b.mkv", 5, codec="ffv1")).has_audio


def test_an_uneven_rate_is_the_mean_and_the_duration_is_that_of_the_frames(clip):
    info = probe(clip("uneven_times")[0])
    span = (UNEVEN[-1] - UNEVEN[0]) / 1000
    assert info.fps == pytest.approx(129 / span, rel=0.02)
    assert span < info.duration < span + 0.4
    assert info.start == pytest.approx(UNEVEN[0] / 1000)
    assert probe(clip("late_start")[0]).start == pytest.approx(43 / 30, abs=1e-3)  # edit lists count in ms


def test_lies_of_the_header_change_nothing(clean, tmp_path):
    data = clean.read_bytes()
    for path, lie in [((b"moov", b"mvhd"), 16), ((b"moov", b"trak", b"mdia", b"mdhd"), 16)]:
        start, _ = box(data, *path)
        for duration in (0, 36000 * 15360):
            lying = patched(clean, tmp_path / "lying.mp4", start + lie, duration.to_bytes(4))
            assert (probe(lying).frames, probe(lying).fps, probe(lying).duration) == (60, 30.0, pytest.approx(2.0))


def test_frames_without_times_are_spread_by_the_rate(tmp_path):
    raw = remux(make(tmp_path / "a.mp4", 40, options={"g": "12"}), tmp_path / "raw.h264")
    pixels, seconds = decode_all(raw)
    assert seconds[0] is None
    with open_video(raw) as video:
        assert video.info.frames == 40
        np.testing.assert_allclose(video.seconds, np.arange(40) / 30, atol=1e-9)
        for index, _, frame in video.frames([0, 25, 39]):
            assert np.array_equal(frame, pixels[index])


def test_a_picture_is_a_clip_of_one_frame(tmp_path):
    path = make(tmp_path / "a.png", 1, codec="png", pix_fmt="rgb24", format="image2")
    assert probe(path).frames == 1
    assert np.array_equal(read_frames(path).pixels[0].permute(1, 2, 0).numpy(), pictures(1)[0])


def test_transparency_is_dropped_and_the_colour_kept(clip):
    path, _, _ = clip("transparent")
    assert np.array_equal(read_frames(path, [4]).pixels[0].permute(1, 2, 0).numpy(), pictures(5)[4])


def test_a_picture_that_lets_through_is_laid_on_white(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (70, 9, 4), dtype=np.uint8)
    rgba[:2, :, 3] = [[0], [255]]  # a row of nothing, a row of colour alone
    with av.open(str(tmp_path / "a.png"), "w", format="image2") as output:
        stream = output.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = 70, 9, "rgba"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba")))
        output.mux(stream.encode(None))
    got = read_frames(tmp_path / "a.png").pixels[0].permute(1, 2, 0).numpy()
    share = rgba[..., 3:] / 255.0
    assert np.array_equal(got, np.rint(rgba[..., :3] * share + 255.0 * (1.0 - share)).astype(np.uint8))
    assert (got[0] == 255).all() and np.array_equal(got[1], rgba[1, :, :3])


# Rotation: the corner that is bright is where the viewer sees it


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_frames_stand_upright(tmp_path, rotation):
    path = make(tmp_path / "a.mp4", 3, rotation=rotation)
    lying, _ = decode_all(path)
    upright = [np.rot90(frame, rotation // 90) for frame in lying]
    info = probe(path)
    assert (info.height, info.width) == upright[0].shape[:2]
    assert abs(info.rotation) == abs(rotation)
    frames = read_frames(path).pixels.permute(0, 2, 3, 1).numpy()
    assert all(np.array_equal(got, want) for got, want in zip(frames, upright, strict=True))


def test_a_matrix_moves_each_pixel_where_it_says():
    pixels = np.arange(2 * 3).reshape(2, 3, 1).astype(np.uint8)
    for matrix in [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]:
        a, b, c, d = matrix
        got = orient(pixels, matrix)
        places = {(a * x + c * y, b * x + d * y): pixels[y, x] for y in range(2) for x in range(3)}
        left, top = (min(place[axis] for place in places) for axis in (0, 1))
        for (x, y), pixel in places.items():
            assert got[y - top, x - left] == pixel, matrix


def test_a_mirrored_recording_is_mirrored_back(tmp_path):
    path = make(tmp_path / "a.mp4", 2)
    start, _ = box(path.read_bytes(), b"moov", b"trak", b"tkhd")
    mirrored = patched(path, tmp_path / "b.mp4", start + 40, (-65536).to_bytes(4, signed=True))
    pixels, _ = decode_all(mirrored)
    with av.open(str(mirrored)) as container:
        assert display_matrix(next(container.decode(video=0))) == (-1, 0, 0, 1)
    assert np.array_equal(read_frames(mirrored).pixels[1].permute(1, 2, 0).numpy(), pixels[1][:, ::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_as_its_camera_says(tmp_path, orientation):
    photo = make(tmp_path / "a.jpg", 1, codec="mjpeg", pix_fmt="yuvj420p", format="image2")
    stored = read_frames(photo).pixels[0].permute(1, 2, 0).numpy()
    # Exif 2.32, 4.6.2 and 4.6.4 A: one entry, tag 0x112 = Orientation, of one short number
    directory = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + directory
    data = photo.read_bytes()
    photo.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(segment)) + segment + data[2:])
    turns, mirrored = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation], orientation in (2, 4, 5, 7)
    upright = np.rot90(stored, turns)
    if mirrored:
        upright = upright[::-1] if orientation in (5, 7) else upright[:, ::-1]
    assert np.array_equal(read_frames(photo).pixels[0].permute(1, 2, 0).numpy(), upright)


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (46341, 46341, -46341, 46341)])
def test_a_matrix_without_a_quarter_turn_turns_nothing(tmp_path, matrix):
    path = make(tmp_path / "a.mp4", 2)
    start, _ = box(path.read_bytes(), b"moov", b"trak", b"tkhd")
    a, b, c, d = matrix
    turned = patched(path, tmp_path / "b.mp4", start + 40, struct.pack(">5i", a, b, 0, c, d))
    assert probe(turned).rotation == 0
    assert np.array_equal(read_frames(turned).pixels, read_frames(path).pixels)


def test_what_a_camera_hangs_on_to_a_picture_is_no_further_frame(tmp_path):
    for name, codec, pix_fmt in (("a.png", "png", "rgb24"), ("a.webp", "libwebp", "yuv420p")):
        picture = make(tmp_path / name, 1, codec=codec, pix_fmt=pix_fmt, format="image2")
        pixels = read_frames(picture).pixels
        picture.write_bytes(2 * picture.read_bytes())
        assert probe(picture).frames == 1
        assert np.array_equal(read_frames(picture).pixels, pixels)


def test_times_that_stand_in_the_order_of_decoding_are_not_believed(tmp_path):
    path = make(tmp_path / "a.mp4", 60, options=MEDIUM | {"g": "20", "bf": "3", "x264-params": "b-adapt=0"})
    offsets = path.read_bytes().index(b"ctts")
    lying = patched(path, tmp_path / "b.mp4", offsets, b"free")
    pixels, _ = decode_all(lying)
    frames = read_frames(lying)
    assert len(frames) == len(pixels) > 50
    assert all(
        np.array_equal(got.permute(1, 2, 0).numpy(), want) for got, want in zip(frames.pixels, pixels, strict=True)
    )
    assert np.array_equal(read_frames(lying, [7]).pixels[0].permute(1, 2, 0).numpy(), pixels[7])


def test_pixels_that_are_not_square_are_reported_and_turn_with_the_frame(tmp_path):
    path = make(tmp_path / "a.mp4", 2, pixel_aspect=Fraction(2, 1), rotation=90)
    info = probe(path)
    assert (info.width, info.height, info.pixel_aspect) == (48, 64, 0.5)


# Damage


def test_a_file_cut_short_gives_frames_and_one_warning(tmp_path):
    whole = make(tmp_path / "a.mkv", 60, options={"g": "12"})
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    pixels, _ = decode_all(cut)
    with pytest.warns(VideoWarning, match=r"cut\.mkv: .*\d+ bytes of at least \d+") as caught:
        frames = read_frames(cut)
    assert len(caught) == 1
    assert 0 < len(frames) <= len(pixels) < 60
    assert all(
        np.array_equal(got.permute(1, 2, 0).numpy(), pixels[i])
        for got, i in zip(frames.pixels, frames.indices, strict=True)
    )
    with pytest.raises(VideoError, match="bytes of at least") as caught:
        read_frames(cut, strict=True)
    assert caught.value.kind == "truncated"
    with pytest.warns(VideoWarning, match="bytes of at least"):
        probe(cut)


def test_a_tail_of_zeros_gives_frames_and_a_warning_with_numbers(clean, tmp_path):
    data = clean.read_bytes()
    start, end = box(data, b"mdat")
    bad = patched(clean, tmp_path / "bad.mp4", (start + end) // 2, bytes(end - (start + end) // 2))
    with pytest.warns(VideoWarning, match=r"bad\.mp4: is damaged: \d+ of 60 frames cannot be decoded"):
        frames = read_frames(bad)
    good, _ = decode_all(clean)
    assert 0 < len(frames) < 60
    assert np.array_equal(frames.pixels[0].permute(1, 2, 0).numpy(), good[0])
    with pytest.raises(VideoError) as caught:
        read_frames(bad, strict=True)
    assert caught.value.kind == "corrupt"
    with pytest.raises(VideoError, match="1 of 1 frames cannot be decoded"):
        read_frames(bad, [59])
    assert len(read_frames(bad, [0, 2])) == 2  # what is not read may be damaged


def test_bytes_turned_over_are_noticed(clean, tmp_path):
    data = bytearray(clean.read_bytes())
    start, end = box(bytes(data), b"mdat")
    for place in np.random.default_rng(3).integers(start, end, (end - start) // 100):
        data[place] ^= 0x55
    (tmp_path / "bad.mp4").write_bytes(data)
    with pytest.warns(VideoWarning, match="is damaged"):
        assert 0 < len(read_frames(tmp_path / "bad.mp4")) <= 60


def test_nothing_is_left_open(clean, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    before = os.listdir("/proc/self/fd")
    for _ in range(20):
        read_frames(clean, [7])
        with pytest.raises(VideoError):
            probe(tmp_path / "text.mp4")
        with open_video(clean) as video:
            next(video.frames())
    assert os.listdir("/proc/self/fd") == before
