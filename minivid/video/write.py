"""Write frames to an H.264 mp4 file."""

import math
import os
import secrets
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from minivid.shapes import ShapeError

# 90 kHz is the clock of MPEG transport: 24, 25, 30, 50 and 60 frames a second are whole numbers of ticks.
CLOCK = 90_000


def write_video(
    path: str | os.PathLike[str],
    frames: UInt8[Tensor, "t c h w"],
    *,
    fps: int | float = 30.0,
    seconds: Sequence[int | float] | Float[Tensor, " t"] | None = None,
    crf: int = 18,
    preset: str = "veryfast",
    key_frame_interval: int = 250,
) -> None:
    """Write a clip to an mp4 file: H.264, one thread, so the same frames always give the same bytes.

    The file appears under its name only when it is complete; on an error or Ctrl-C nothing is left behind.
    Colour is kept at half the resolution (4:2:0, which every player can show) where height and width are even, and at
    full resolution (4:4:4) where one of them is odd, so that no size needs padding.

    Args:
        path: the file to make or to replace; its folder must exist.
        frames: red, green and blue, at least one frame.
        fps: frames a second. With `seconds` it only says how long the last frame is shown.
        seconds: the second at which each frame is shown, for a variable frame rate: not negative, each at least
            1/90000 s after the one before. Read back they are equal up to half a tick, 1/180000 s.
        crf: constant rate factor, from 0 (lossless but for the colour conversion) to 51 (unrecognisable).
        preset: what x264 may spend: "ultrafast" … "veryslow".
        key_frame_interval: at most this many frames from one key frame to the next; 1 makes every frame a key frame.

    Raises:
        ShapeError: if there is no frame, or not three channels, or not one second for each frame.
        TypeError: if the pixels are not uint8.
        ValueError: if fps, crf or key_frame_interval is out of range, or seconds are negative or do not grow.
        OSError: if the folder does not exist or cannot be written to.
    """
    seconds = None if seconds is None else [float(second) for second in seconds]
    _check(frames, fps, seconds, crf, key_frame_interval)
    path = Path(path)
    unfinished = path.parent / f".unfinished-{secrets.token_hex(8)}.mp4"
    try:
        with open(unfinished, "xb") as file:
            _encode(file, frames, fps, seconds, crf, preset, key_frame_interval)
        os.replace(unfinished, path)
    except BaseException:  # Ctrl-C too
        unfinished.unlink(missing_ok=True)
        raise


def _check(frames: Tensor, fps: int | float, seconds: list[float] | None, crf: int, key_frame_interval: int) -> None:
    if frames.ndim != 4 or frames.shape[1] != 3 or 0 in frames.shape:
        raise ShapeError(
            f"frames: shape {tuple(frames.shape)} is not t 3 h w with t, h, w >= 1; "
            "give red, green and blue pixels of at least one frame"
        )
    if str(frames.dtype) != "torch.uint8":
        raise TypeError(f"frames: {frames.dtype} is not torch.uint8; give pixels from 0 to 255")
    if not 1e-3 <= fps <= 1000:
        raise ValueError(f"fps={fps} is not between 0.001 and 1000 frames a second")
    if not 0 <= crf <= 51:
        raise ValueError(f"crf={crf} is not between 0 (best) and 51 (smallest)")
    if key_frame_interval < 1:
        raise ValueError(f"key_frame_interval={key_frame_interval} is not at least 1")
    if seconds is None:
        return
    if len(seconds) != len(frames):
        raise ShapeError(f"seconds: {len(seconds)} times for t={len(frames)} frames; give one for each")
    ticks = -1
    for index, second in enumerate(seconds):
        if not (math.isfinite(second) and second >= 0):
            raise ValueError(f"seconds[{index}]={second} is not a time from 0 on")
        previous, ticks = ticks, round(second * CLOCK)
        if ticks <= previous:
            raise ValueError(
                f"seconds[{index}]={second} is less than 1/{CLOCK} s after seconds[{index - 1}]={seconds[index - 1]}"
            )


def _encode(
    file: BinaryIO,
    frames: Tensor,
    fps: int | float,
    seconds: list[float] | None,
    crf: int,
    preset: str,
    key_frame_interval: int,
) -> None:
    rate = Fraction(fps).limit_denominator(1001)  # 30000 / 1001 as a float becomes that fraction again
    height, width = frames.shape[2:]
    # bitexact leaves out the version of FFmpeg
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        # x264's "macroblock tree" spends bits a little differently from run to run; without it, bytes repeat.
        options = {"crf": str(crf), "preset": preset, "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if height % 2 == 0 and width % 2 == 0 else "yuv444p"
        context = stream.codec_context
        context.thread_count = 1
        context.gop_size = key_frame_interval
        # what the conversion from RGB below makes; unsaid, players guess by the size
        context.colorspace = Colorspace.ITU601
        context.color_range = ColorRange.MPEG
        if seconds is not None:
            # mp4 adds up decoding times to a track's duration; without B-frames these are the times of showing.
            context.max_b_frames = 0
        context.time_base = 1 / rate if seconds is None else Fraction(1, CLOCK)
        stream.time_base = context.time_base
        last = round(CLOCK / rate)
        for index, pixels in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(_rows(pixels), format="rgb24")
            picture.time_base = context.time_base
            if seconds is None:
                picture.pts, picture.duration = index, 1
            else:
                picture.pts = round(seconds[index] * CLOCK)
                following = seconds[index + 1] * CLOCK if index + 1 < len(frames) else picture.pts + last
                picture.duration = round(following) - picture.pts
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _rows(pixels: Tensor) -> np.ndarray:
    return np.ascontiguousarray(rearrange(pixels.cpu(), "c h w -> h w c").numpy())
