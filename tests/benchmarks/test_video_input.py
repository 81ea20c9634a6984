"""Video input beside its peers: time and memory from a file to frames, and from a file to patches.

    pytest -m benchmark -n0 -s tests/benchmarks/test_video_input.py

The peers are installed by hand, into an environment of their own: torchcodec 0.13 with a shared FFmpeg 4 to 8 (from
the system), qwen-vl-utils 0.0.14, transformers 5, torchvision. What is missing is skipped. MINIVID_BENCHMARK_CLIPS may
name a folder with 720p60_{15s,60s,600s}_{gop60,gop240,gopinf}.mp4 and so save the making, MINIVID_BENCHMARK_ROUNDS the
number of rounds. Clips made here are 1280 x 720, 60 frames a second, H.264 at about 6 Mb/s with 3 B-frames.
"""

import hashlib
import importlib.util
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from benchmarks.side_by_side import let_torchvision_load, ratio, side_by_side, table
from torch.nn import functional as F

from minivid.video.clip import ClipSettings, load_clip, load_pixels
from minivid.video.patches import write_patches
from minivid.video.sample import frame_indices

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("default")]

SETTINGS = ClipSettings(total_pixels=20480 * 32 * 32, min_pixels=64 * 32 * 32, max_frames=30)
SIZE = (640, 1152)
KEY_FRAMES = ("gop60", "gop240", "gopinf")


# The candidates


def minivid_pixels(path):
    return load_pixels(path, SETTINGS).pixels


def torchcodec_pixels(path):
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, seek_mode="exact", num_ffmpeg_threads=0)
    indices = torch.linspace(0, decoder.metadata.num_frames - 1, 30).round().long().tolist()
    frames = decoder.get_frames_at(indices).data
    return F.interpolate(frames, size=SIZE, mode="bicubic", antialias=True, align_corners=False)


def minivid_patches(path):
    return load_clip(path, SETTINGS).patches


def published_patches(path):
    processor = _processor()
    from qwen_vl_utils.vision_process import fetch_video

    message = {"video": path, "total_pixels": 20480 * 32 * 32, "min_pixels": 64 * 32 * 32, "max_frames": 30}
    video, metadata = fetch_video(message, image_patch_size=16, return_video_metadata=True)
    return processor(
        videos=[video], video_metadata=[metadata], do_resize=False, do_sample_frames=False, return_tensors="pt"
    )["pixel_values_videos"]


def minivid_cut(seed):
    groups = _noise(seed).unflatten(0, (15, 2))
    patches = torch.empty(43200, 1536)
    for group, rows in zip(groups, patches.unflatten(0, (15, 2880)), strict=True):
        write_patches(group, rows)
    return patches


def published_cut(seed):
    return _processor()(videos=[_noise(seed)], do_resize=False, do_sample_frames=False, return_tensors="pt")[
        "pixel_values_videos"
    ]


def _described(result):
    """A digest of the bytes, and a few of the numbers, enough to say how far two results are apart."""
    result = result.contiguous()
    return hashlib.sha256(result.numpy().tobytes()).hexdigest(), result.flatten()[::9973].double().numpy()


for candidate in (
    minivid_pixels,
    torchcodec_pixels,
    minivid_patches,
    published_patches,
    minivid_cut,
    published_cut,
):
    candidate.describe = _described

_KEPT = {}


def _noise(seed):
    """Frames as a resizing decoder gives them: bytes, the channels of a pixel side by side; made once."""
    if seed not in _KEPT:
        pixels = torch.randint(0, 256, (30, *SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        _KEPT[seed] = pixels.permute(0, 3, 1, 2)
    return _KEPT[seed]


def _processor():
    if "processor" not in _KEPT:
        let_torchvision_load()
        from transformers import Qwen3VLVideoProcessor

        _KEPT["processor"] = Qwen3VLVideoProcessor(cap_pixels_per_frame=True)
    return _KEPT["processor"]


# The clips


def make_clip(path, seconds, key_frame_interval):
    """Write a clip of moving texture: noise of three sizes under a window that wanders."""
    random = np.random.default_rng(0)
    height, width = 720, 1280
    coarse = np.kron(random.integers(0, 256, (32, 50)), np.ones((32, 32)))
    fine = np.kron(random.integers(0, 256, (128, 200)), np.ones((8, 8)))
    grain = random.integers(0, 256, coarse.shape)
    light = (0.6 * coarse + 0.3 * fine + 0.1 * grain).clip(16, 235).astype(np.uint8)
    colour = coarse[::2, ::2].clip(16, 240).astype(np.uint8)
    x264 = f"keyint={key_frame_interval}:min-keyint={key_frame_interval}:scenecut=0:bframes=3:b-adapt=0"
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=60, options={"preset": "superfast", "x264-params": x264})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 6_000_000
        for index in range(60 * seconds):
            left, top = (2 * int(64 + 60 * np.sin(index / period)) for period in (37, 53))
            picture = np.empty((height * 3 // 2, width), np.uint8)
            picture[:height] = light[top : top + height, left : left + width]
            half = colour[top // 2 : top // 2 + height // 2, left // 2 : left // 2 + width // 2]
            picture[height:] = np.concatenate([half.reshape(-1, width)] * 2)
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def repeat_clip(source, path, times):
    """Write the packets of a clip one round after the other: ten minutes without ten minutes of encoding."""
    with av.open(path, "w", format="mp4") as target:
        copy, length = None, None
        for turn in range(times):
            with av.open(source) as container:
                stream = container.streams.video[0]
                if copy is None:
                    copy = target.add_stream_from_template(stream)
                    length = round(Fraction(stream.frames, 60) / stream.time_base)
                for packet in container.demux(stream):
                    if packet.size:
                        packet.pts, packet.dts = packet.pts + turn * length, packet.dts + turn * length
                        packet.stream = copy
                        target.mux(packet)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Give the path of a clip by its seconds and key frames, made when it is first asked for."""
    ready = os.environ.get("MINIVID_BENCHMARK_CLIPS")
    folder = Path(ready) if ready else tmp_path_factory.mktemp("clips")

    def of(seconds, key_frames):
        path = folder / f"720p60_{seconds}s_{key_frames}.mp4"
        if path.exists():
            return str(path)
        if seconds <= 60:
            make_clip(str(path), seconds, {"gop60": 60, "gop240": 240, "gopinf": 10**6}[key_frames])
        else:
            repeat_clip(of(60, key_frames), str(path), seconds // 60)
        return str(path)

    return of


# The comparisons

ROUNDS = int(os.environ.get("MINIVID_BENCHMARK_ROUNDS", "5"))
CLIPS = [(15, key_frames) for key_frames in KEY_FRAMES] + [
    (60, "gop60"),
    (60, "gop240"),
    (60, "gopinf"),
    (600, "gop60"),
    (600, "gop240"),
    (600, "gopinf"),
]


def need(*modules):
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")


def report(title, measured, peer):
    print(f"\n\n{title}, {ROUNDS} rounds, {os.cpu_count()} cores\n\n{table(measured, peer)}")


@pytest.mark.parametrize("seconds, key_frames", CLIPS)
def test_frames_chosen_and_resized_beside_torchcodec(clip, seconds, key_frames):
    need("torchcodec")
    path = clip(seconds, key_frames)
    candidates = {"minivid": (minivid_pixels, (path,)), "torchcodec": (torchcodec_pixels, (path,))}
    measured = side_by_side(candidates, rounds=ROUNDS)
    report(f"file to frames [30, 3, 640, 1152] uint8, {seconds} s, {key_frames}", measured, "torchcodec")
    assert measured["minivid"].result[0] == measured["torchcodec"].result[0], "the frames are not the same bytes"
    assert ratio(measured, "minivid", "torchcodec", "wall") <= 1.05
    assert ratio(measured, "minivid", "torchcodec", "memory") <= 0.70


@pytest.mark.parametrize("seconds, key_frames", CLIPS)
def test_file_to_patches_beside_the_published_route(clip, seconds, key_frames):
    need("torchcodec", "qwen_vl_utils", "transformers", "torchvision")
    path = clip(seconds, key_frames)
    candidates = {"minivid": (minivid_patches, (path,)), "qwen-vl-utils + transformers": (published_patches, (path,))}
    measured = side_by_side(candidates, rounds=ROUNDS)
    peer = "qwen-vl-utils + transformers"
    report(f"file to patches [43200, 1536] float32, {seconds} s, {key_frames}", measured, peer)
    apart = np.abs(measured["minivid"].result[1] - measured[peer].result[1])
    print(
        f"\nof {len(apart)} values {np.mean(apart > 0):.1%} differ, at most by {apart.max() * 127.5:.0f} levels of 255"
    )
    # The peer resizes in floats and rounds once, this library in 8 bits: a few levels of 255 where a picture is sharp.
    assert apart.mean() * 127.5 < 0.5
    assert ratio(measured, "minivid", peer, "wall") <= 0.55
    assert ratio(measured, "minivid", peer, "memory") <= 0.40


def test_patchify_beside_transformers():
    need("transformers", "torchvision")
    candidates = {"minivid": (minivid_cut, (0,)), "transformers": (published_cut, (0,))}
    measured = side_by_side(candidates, rounds=ROUNDS)
    report("frames uint8 to patches [43200, 1536] float32", measured, "transformers")
    assert measured["minivid"].result[0] == measured["transformers"].result[0], "the patches are not the same bytes"
    assert ratio(measured, "minivid", "transformers", "memory") <= 0.40


def frames_to_decode(total, interval):
    """How many frames lie between the chosen ones and the key frames before them: what a reader cannot do without."""
    last = {}
    for index in frame_indices(total, 60, frames=30).tolist():
        last[index // interval] = index % interval + 1
    return sum(last.values())


@pytest.mark.parametrize("key_frames, interval", [("gop60", 60), ("gop240", 240)])
def test_ten_minutes_cost_what_one_minute_costs(clip, key_frames, interval):
    minute, minutes = clip(60, key_frames), clip(600, key_frames)
    measured = side_by_side(
        {"10 min": (minivid_pixels, (minutes,)), "60 s": (minivid_pixels, (minute,))}, rounds=ROUNDS
    )
    # 1 with a key frame every second; 1.32 with one every 4 s, where two chosen frames of the minute share a key frame.
    work = frames_to_decode(36000, interval) / frames_to_decode(3600, interval)
    report(f"file to frames by length, {key_frames}", measured, "60 s")
    print(f"\nframes between the chosen ones and their key frames: {work:.2f} times as many in 10 min as in 60 s")
    assert ratio(measured, "10 min", "60 s", "wall") <= 1.3
    assert ratio(measured, "10 min", "60 s", "memory") <= 1.1
