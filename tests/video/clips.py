"""Makes small tricky clips: other codecs and containers, times, key frames, and damage done on purpose."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def pictures(t: int, h: int = 48, w: int = 64, *, channels: int = 3) -> np.ndarray:
    """Frames `t h w c` that all differ: a soft gradient that slides, with a bright bar that counts."""
    rows, columns = np.arange(h)[:, None, None], np.arange(w)[None, :, None]
    frames = [rows * 2 + columns + 5 * i + 40 * np.arange(channels) for i in range(t)]
    frames = np.stack(frames) % 200
    for i, frame in enumerate(frames):
        frame[: h // 4, : 1 + i * 7 % w] = 255
    return frames.astype(np.uint8)


def make(
    path: Path,
    t: int = 30,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (48, 64),
    ticks: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 30),
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    audio: bool = False,
    pixel_aspect: Fraction | None = None,
    rotation: int = 0,
    format: str | None = None,
) -> Path:
    """Encode `t` pictures; `ticks` are their times in units of `time_base`."""
    h, w = size
    options = {"preset": "ultrafast", "bf": "2"} | (options or {}) if codec == "libx264" else options or {}
    with av.open(str(path), "w", format=format, options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = w, h, pix_fmt
        stream.codec_context.time_base, stream.codec_context.thread_count = time_base, 1
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=16000, layout="mono") if audio else None
        for i, pixels in enumerate(pictures(t, h, w)):
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts, picture.time_base = (ticks[i] if ticks else i), time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 16000, 0
            container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
    return path


def remux(source: Path, target: Path, *, skip: int = 0, muxer: dict[str, str] | None = None) -> Path:
    """Copy the packets to another container, leaving out the first `skip`."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=muxer or {}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in [packet for packet in old.demux(video=0) if packet.size][skip:]:
            packet.stream = stream
            new.mux(packet)
    return target


def decode_all(path: Path) -> tuple[list[np.ndarray], list[float | None]]:
    """Decode the whole file in a straight line with PyAV alone: the oracle."""
    with av.open(str(path), metadata_errors="replace") as container:
        frames = [(frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode(video=0)]
    return [pixels for pixels, _ in frames], [second for _, second in frames]


def box(data: bytes, *path: bytes) -> tuple[int, int]:
    """Start of the payload and end of an mp4 box inside the boxes named before it."""
    start, end = 0, len(data)
    for name in path:
        while True:
            size, kind = struct.unpack_from(">I4s", data, start)
            if kind == name:
                start, end = start + 8, start + size
                break
            start += size
            assert start < end, f"no {name} box"
    return start, end


def patched(path: Path, target: Path, place: int, new: bytes) -> Path:
    """Copy a file with some bytes replaced."""
    data = bytearray(path.read_bytes())
    data[place : place + len(new)] = new
    target.write_bytes(data)
    return target
