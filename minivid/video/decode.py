"""Read a video file: what it holds, and its frames with the second at which each is shown.

Frame i is always the i-th that a decode of the whole file gives, bit for bit, whether the decoder seeks or not. Pixels
are upright (rotation metadata is applied), red, green, blue, 0 to 255, in the stored size: pixels that are not square
are not stretched (see VideoInfo.pixel_aspect), and interlaced frames keep both their fields (VideoInfo.interlaced).
Transparency: a picture, or any file of one frame, is laid on white, as the processors of published models do it; of a
video the colour is taken and the transparency dropped.
"""

import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import cycle

import av
import av.error
import numpy as np
import torch
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from minivid.video.ahead import made_ahead
from minivid.video.containers import MAX_PIXELS, VideoError, VideoFile, VideoWarning
from minivid.video.timeline import (
    FRAME_CONTAINERS,
    Packets,
    Segment,
    Timeline,
    frame_rate,
    pictures_shown,
    seconds_of_ticks,
    timeline_of_packets,
)

__all__ = ["Frames", "Video", "VideoError", "VideoInfo", "VideoWarning", "open_video", "probe", "read_frames"]

# More threads than this hold more frames in memory than they save time.
MAX_THREADS = 8
# So many segments are decoded at a time, each up to so many items (pictures, ends of segments) before they are taken.
SIDE_BY_SIDE, AHEAD = 2, 1
# A file of which so many packets fail, and none gives a picture, will not give one any more.
HOPELESS = 250
# Where packets claim that pictures are shown in the order of decoding, so many are decoded to see whether it is so.
LOOKED_AT = 24
# What FFmpeg and PyAV raise over broken files; the last two where a stream turns up late, or a time has over 64 bits.
BROKEN = (av.error.FFmpegError, IndexError, OverflowError)


@dataclass(frozen=True)
class VideoInfo:
    """What a video is, found by reading its packets and its first frame, not by trusting its header.

    Attributes:
        width, height: pixels of an upright frame.
        fps: frames a second; the mean rate where it varies.
        frames: how many frames there are.
        duration: seconds from the start of the first frame to the end of the last.
        rotation: degrees, counterclockwise, by which stored frames are turned to be upright (-90: a quarter clockwise).
        codec: FFmpeg's name of the compression, such as h264.
        has_audio: whether there is a sound track.
        container: FFmpeg's name of the file format.
        start: second at which the first frame is shown; not 0 in many broadcast and edited files.
        pixel_aspect: width of a pixel over its height as it is to be shown; frames are not stretched by it.
        interlaced: whether the first frame holds two fields, half a frame apart in time; they are not taken apart.
    """

    width: int
    height: int
    fps: float
    frames: int
    duration: float
    rotation: int
    codec: str
    has_audio: bool
    container: str
    start: float
    pixel_aspect: float
    interlaced: bool


@dataclass(frozen=True)
class Frames:
    """Chosen frames of a video.

    Attributes:
        pixels: uint8, `t c h w`, upright red, green and blue.
        seconds: float64, `t`: when each frame is shown.
        indices: int64, `t`: the number of each frame in the video.
    """

    pixels: UInt8[Tensor, "t c h w"]
    seconds: Float[Tensor, " t"]
    indices: Int64[Tensor, " t"]

    def __len__(self) -> int:
        return len(self.indices)


def probe(path: str | bytes | os.PathLike) -> VideoInfo:
    """Say what a video file holds; decodes its first frame only, where its packets can be counted.

    Args:
        path: a local file.

    Raises:
        VideoError: if the file holds no video that can be read.

    Warns:
        VideoWarning: if the file is damaged, and the numbers are those of what is left.
    """
    with open_video(path) as video:
        if video.damage is not None:
            warnings.warn(str(video.damage), VideoWarning, stacklevel=2)
        return video.info


def read_frames(
    path: str | bytes | os.PathLike, indices: Iterable[int] | Tensor | None = None, *, strict: bool = False
) -> Frames:
    """Read the frames with the given numbers, in the order given.

    Args:
        path: a local file.
        indices: numbers from 0 to frames - 1, in any order, also repeatedly; None = every frame.
        strict: whether damage is an error; else frames that cannot be decoded are left out, with a warning.

    Raises:
        VideoError: if the file holds no video that can be read, or no frame with such a number, or with `strict` if any
            part of it that had to be read is damaged.

    Warns:
        VideoWarning: if the file is damaged; `Frames.indices` says which frames came.
    """
    with open_video(path) as video:
        asked = list(range(video.info.frames)) if indices is None else [int(index) for index in indices]
        wanted = sorted(set(asked))
        pixels = torch.empty(len(wanted), 3, video.info.height, video.info.width, dtype=torch.uint8)
        place, seconds = {}, {}
        for index, second, frame in video.frames(wanted, strict=strict):
            pixels[len(place)] = torch.from_numpy(frame).permute(2, 0, 1)
            place[index], seconds[index] = len(place), second
    came = [index for index in asked if index in place]
    pixels = pixels[: len(place)]
    if came != list(place):  # not ascending, or repeated
        pixels = pixels[[place[index] for index in came]]
    return Frames(
        pixels,
        torch.tensor([seconds[index] for index in came], dtype=torch.float64),
        torch.tensor(came, dtype=torch.int64),
    )


@contextmanager
def open_video(path: str | bytes | os.PathLike) -> Iterator["Video"]:
    """Open a video file, find out what it holds, and close it in the end.

    Args:
        path: a local file; addresses, playlists, folders and pipes are refused before they are opened.

    Raises:
        VideoError: if the file holds no video that can be read.
    """
    file = VideoFile(path)
    try:
        yield Video(file)
    finally:
        file.close()


class Video:
    """An open video file.

    Attributes:
        info: what it holds.
        seconds: float64, one for every frame: when it is shown.
        damage: the VideoError that says what is known to be wrong with the file, or None.
    """

    def __init__(self, file: VideoFile) -> None:
        self._file = file
        self.damage = file.damage
        self._reformatter = VideoReformatter()
        packets = Packets()
        with file.container() as container:
            stream = self._stream(container, 1)
            self._codec = stream.codec_context.codec.canonical_name
            first = self._read_packets(container, stream, packets)
            name, has_audio = container.format.name, bool(container.streams.audio)
            time_base, pixel_aspect = Fraction(stream.time_base), float(stream.sample_aspect_ratio or 1)
            rates = [stream.average_rate, stream.guessed_rate, stream.base_rate]
        self._width, self._height = first.width, first.height
        self._matrix = display_matrix(first)
        turned = self._matrix[0] == 0
        assumed = next((rate for rate in (rates[1], rates[0]) if rate and rate <= 1000), Fraction(25))
        # Elsewhere the two fields of a frame may come as two packets.
        whole_frames = name.startswith(FRAME_CONTAINERS) or not (self._codec == "h264" and first.interlaced_frame)
        if packets.counted and whole_frames:
            self._timeline = timeline_of_packets(packets, name, time_base, assumed)
        else:
            self._timeline = self._timeline_by_decoding(time_base, assumed, len(packets.ticks))
        self.seconds = self._timeline.seconds
        fps = frame_rate(self.seconds, rates)
        start, last = float(self.seconds[0]), float(self.seconds[-1])
        shown_for = float(packets.end * time_base) - last if packets.end is not None else 0.0
        self.info = VideoInfo(
            width=first.height if turned else first.width,
            height=first.width if turned else first.height,
            fps=fps,
            frames=len(self.seconds),
            # a last frame that stays for more than ten others is a header's mistake
            duration=last - start + (shown_for if 0 < shown_for < 10 / fps else 1 / fps),
            rotation=-90 * self._matrix[1] if turned else 90 * (self._matrix[0] - 1),
            codec=self._codec,
            has_audio=has_audio,
            container=name,
            start=start,
            pixel_aspect=1 / pixel_aspect if turned else pixel_aspect,
            interlaced=first.interlaced_frame,
        )

    def frames(
        self, indices: Iterable[int] | None = None, *, strict: bool = False, ahead: int = AHEAD
    ) -> Iterator[tuple[int, float, UInt8[np.ndarray, "h w c"]]]:
        """Yield number, second and pixels of each wanted frame: ascending, each once, one at a time.

        Only the frame that is handed out is kept, so memory does not grow with the length of the video.

        Args:
            indices: numbers from 0 to info.frames - 1, in any order; None = every frame.
            strict: whether damage is an error; else frames that cannot be decoded are left out, with one warning.
            ahead: pictures, and ends of stretches, that each decoder makes before they are taken; more saves waiting
                where much is done with each frame, and costs memory.

        Raises:
            VideoError: if there is no frame with such a number, if none of them can be decoded, or with `strict` at the
                first sign of damage.

        Warns:
            VideoWarning: if frames are missing or were patched up by the decoder.
        """
        wanted = self._checked(indices)
        if strict and self.damage is not None:
            raise self.damage
        decoding, showing = _Damage(), _Damage()
        came = 0
        for index, picture, damage in self._pictures(wanted, decoding, ahead):
            pixels = self._pixels(picture.take(), showing)
            if strict and (damage or showing):
                decoding = damage
                break
            if pixels is None:
                continue
            came += 1
            yield index, float(self.seconds[index]), pixels
            del pixels  # before the next one is made
            if self._file.closed:
                raise ValueError(f"{self._file.path}: was closed while its frames were being read; read inside `with`")
        ledger = decoding + showing
        if not wanted or (came == len(wanted) and not ledger and self.damage is None):
            return
        error = self._report(ledger, came, len(wanted))
        if strict or came == 0:
            raise error
        warnings.warn(str(error), VideoWarning, stacklevel=2)

    # Opening

    def _stream(self, container: av.container.InputContainer, threads: int | None = None) -> av.VideoStream:
        """Choose the stream of pictures and set its decoder up; `threads` = None: as many as there are cores."""
        # a picture of an album in a sound file is not a video
        streams = [
            stream
            for stream in container.streams.video
            if not stream.disposition & (av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails)
        ]
        if not streams:
            if len(container.streams) == 0:
                raise self.damage or self._file.error(
                    "corrupt", "its header names no streams; copy or download it again"
                )
            names = ", ".join(
                f"{stream.type} {stream.codec_context.name if stream.codec_context else '?'}"
                for stream in container.streams
            )
            raise self._file.error("no_video_stream", f"no video stream (streams: {names}); give a file with pictures")
        stream = streams[0]
        if self._file.encrypted:
            raise self._encrypted()
        if stream.codec_context is None:
            raise self._file.error(
                "unsupported_codec", "no decoder knows how its pictures are compressed; convert it to H.264"
            )
        context = stream.codec_context
        self._file.refuse_enormous(context.width, context.height)
        context.thread_type = "AUTO"
        context.thread_count = threads or _cores()
        # Frames may change their size on the way, but a broken one that claims a hundredfold must not fill the memory.
        context.options = {"max_pixels": str(min(MAX_PIXELS, 16 * max(context.width * context.height, 1 << 17)))}
        return stream

    def _encrypted(self) -> VideoError:
        return self._file.error("encrypted_or_corrupt", "is encrypted; give a copy without copy protection")

    def _read_packets(
        self, container: av.container.InputContainer, stream: av.VideoStream, packets: Packets
    ) -> av.VideoFrame:
        """Take note of every packet and give the first frame that can be decoded."""
        first, corrupt, ledger, shown, context = None, False, _Damage(), [], stream.codec_context
        try:
            for packet in _packets(container, stream):
                if packet.size:
                    if not packets.ticks and packet.has_sidedata("encryption_info"):
                        raise self._encrypted()
                    packets.add(packet, self._codec)
                    corrupt = packet.is_corrupt
                doubtful = packets.in_order and context.has_b_frames and len(shown) < LOOKED_AT
                if (first is None or doubtful) and ledger.failed < HOPELESS:
                    for picture in ledger.decode(packet):
                        shown.append(picture.pts)
                        first = first or picture.take()
        except BROKEN as error:
            if self.damage is None:
                cause = f"cannot be read to its end ({str(error).splitlines()[0]})"
                self.damage = self._file.error("corrupt", f"{cause}; copy or download it again")
        if corrupt and self.damage is None:  # the last packet is incomplete
            self.damage = self._file.error("truncated", "ends in the middle of a frame; copy or download it again")
        packets.counted &= None in shown or shown == sorted(shown)
        if first is not None and packets.ticks:
            return first
        self._file.refuse_enormous(*self._file.declared_size())
        if self.damage is not None:
            raise self.damage
        if not packets.ticks:
            raise self._file.error("no_frames", "its video stream holds no frame; export it again")
        raise self._file.error(
            "corrupt", f"none of its {len(packets.ticks)} frames can be decoded; copy or download it again"
        )

    def _timeline_by_decoding(self, time_base: Fraction, rate: Fraction, packets: int) -> Timeline:
        ledger = _Damage()
        ticks = [picture.pts for picture in self._decode_in_order(ledger)]
        if not ticks:
            raise self._report(ledger, 0, packets)
        known = None if None in ticks else np.array(ticks, dtype=np.int64)
        if known is not None and (np.diff(known) < 0).any():
            known.sort()
        return Timeline(seconds_of_ticks(known, len(ticks), time_base, rate))

    def _checked(self, indices: Iterable[int] | None) -> list[int]:
        count = self.info.frames
        if indices is None:
            return list(range(count))
        wanted = sorted({int(index) for index in indices})
        for index in wanted[:1] + wanted[-1:]:
            if not 0 <= index < count:
                raise self._file.error(
                    "bad_index", f"no frame {index}: it has {count} frames, numbered 0 to {count - 1}"
                )
        return wanted

    # Decoding

    def _pictures(
        self, wanted: list[int], ledger: "_Damage", ahead: int
    ) -> Iterator[tuple[int, "_Picture", "_Damage"]]:
        """Number and picture of each wanted frame, and the damage on the way to it."""
        segments = None if self._timeline.ticks is None else self._timeline.segments(wanted)
        if segments is not None and segments != [Segment(0, tuple(wanted))]:
            for index, picture in self._by_segments(segments, ledger, ahead):
                yield index, picture, ledger.copy()
            return

        def marked() -> Generator[tuple[int, "_Picture", "_Damage"], None, None]:
            way = self._by_counting(wanted, ledger) if segments is None else self._from_the_start(wanted, ledger)
            for index, picture in way:
                yield index, picture, ledger.copy()  # what is decoded ahead says nothing of this picture

        with made_ahead(marked(), at_most=ahead) as pictures:
            yield from pictures

    def _by_counting(self, wanted: list[int], ledger: "_Damage") -> Iterator[tuple[int, "_Picture"]]:
        chosen = set(wanted)
        for index, picture in enumerate(self._decode_in_order(ledger)):
            if index in chosen:
                yield index, picture
            if index >= wanted[-1]:
                return

    def _decode_in_order(self, ledger: "_Damage") -> Iterator["_Picture"]:
        with self._file.container() as container:
            for packet in _demuxed(container, self._stream(container), ledger):
                yield from ledger.decode(packet)

    def _by_segments(
        self, segments: Sequence[Segment], ledger: "_Damage", at_most: int
    ) -> Iterator[tuple[int, "_Picture"]]:
        count = min(SIDE_BY_SIDE, len(segments))
        with ExitStack() as threads:
            # Each decodes every second segment, on its share of the cores: while one fills or empties its decoder, or
            # reads the file, the others keep the cores busy.
            lanes = [self._lane(segments[first::count], -(-_cores() // count)) for first in range(count)]
            ahead = [threads.enter_context(made_ahead(lane, at_most=at_most)) for lane in lanes]
            for segment, lane in zip(segments, cycle(ahead), strict=False):
                missing = list(segment.frames)
                for index, picture in iter(lane.__next__, None):
                    missing.remove(index)
                    yield index, picture
                if missing:
                    # Seeking did not bring all of them. Whether they exist is for a decode from the start to say.
                    yield from self._from_the_start(missing, ledger)

    def _from_the_start(self, wanted: Sequence[int], ledger: "_Damage") -> Iterator[tuple[int, "_Picture"]]:
        with self._file.container() as container:
            yield from self._segment(container, self._stream(container), Segment(0, tuple(wanted)), ledger)

    def _lane(self, segments: Sequence[Segment], threads: int) -> Generator["tuple[int, _Picture] | None", None, None]:
        """Decode segments; yield the pictures of each up to the first sign of damage, then None."""
        with self._file.container() as container:
            stream = self._stream(container, threads)
            for segment in segments:
                trial = _Damage()
                pictures = self._segment(container, stream, segment, trial)
                for frame, (index, picture) in zip(segment.frames, pictures, strict=False):
                    if trial or index != frame:
                        break
                    yield index, picture
                yield None

    def _segment(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        segment: Segment,
        ledger: "_Damage",
    ) -> Iterator[tuple[int, "_Picture"]]:
        """Decode from the packet at place `segment.start` on, until its frames have come."""
        context, start = stream.codec_context, segment.start
        wanted = {int(self._timeline.ticks[frame]): frame for frame in segment.frames}
        missing = set(wanted)
        # A picture that none is predicted from need not be decoded to get at another one. So sure only in H.264: in VP8
        # and HEVC the flag means less.
        skips = self._codec == "h264" and len(wanted) < len(self._timeline)
        context.skip_frame = "DEFAULT"
        for packet in self._seek(container, stream, start) if start else _demuxed(container, stream, ledger):
            if skips:
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            if packet.pts in missing and pictures_shown(packet, self._codec):
                missing.remove(packet.pts)
            for picture in ledger.decode(packet):
                if picture.pts in wanted:
                    yield wanted.pop(picture.pts), picture
            if not missing:  # all that is needed has gone in
                break
        for picture in ledger.drain(context):
            if picture.pts in wanted:
                yield wanted.pop(picture.pts), picture

    def _seek(self, container: av.container.InputContainer, stream: av.VideoStream, start: int) -> Iterator[av.Packet]:
        """Yield the packets from the key frame at place `start`, or one before it, on; none if seeking led astray."""
        timeline = self._timeline
        number = int(np.searchsorted(timeline.keys, start))
        allowed = {int(tick) for tick in timeline.key_ticks[: number + 1]}
        try:
            container.seek(int(timeline.key_ticks[number]), stream=stream)
        except BROKEN:
            return
        started = False
        for packet in _demuxed(container, stream, _Damage()):
            if not started and packet.is_keyframe:
                started = packet.pts in allowed
                if not started:
                    return
            if started:
                yield packet

    def _pixels(self, picture: av.VideoFrame, ledger: "_Damage") -> UInt8[np.ndarray, "h w c"] | None:
        through = self.info.frames == 1 and _lets_through(picture.format)
        layout, channels = ("rgba", 4) if through else ("rgb24", 3)
        try:
            plane = self._reformatter.reformat(picture, self._width, self._height, layout).planes[0]
        except BROKEN:  # a broken frame may claim colours that do not exist
            ledger.failed += 1
            return None
        # The picture's own bytes, not a copy of them; its rows may be longer than they are wide.
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        pixels = rows[:, : channels * plane.width].reshape(plane.height, plane.width, channels)
        return np.ascontiguousarray(orient(_on_white(pixels) if through else pixels, self._matrix))

    def _report(self, ledger: "_Damage", came: int, wanted: int) -> VideoError:
        kind = self.damage.kind if self.damage else "corrupt"
        cause = str(self.damage).rpartition(": ")[2].split(";")[0] if self.damage else "is damaged"
        found = []
        if came < wanted:
            found.append(f"{wanted - came} of {wanted} frames cannot be decoded")
        if ledger.patched:
            found.append(f"{ledger.patched} are incomplete")
        details = ", ".join(found) or f"all {wanted} frames asked for can be decoded, but others may be missing"
        return self._file.error(kind, f"{cause}: {details}; copy or download it again")


def _lets_through(layout: av.VideoFormat) -> bool:
    """Whether pixels are three colours and how much of each is seen."""
    return len(layout.components) == 4 and layout.components[3].is_alpha


def _on_white(pixels: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    """colour * alpha + white * (1 - alpha), to the nearest of 256 levels, some rows at a time."""
    shown = np.empty((*pixels.shape[:2], 3), np.uint8)
    for first in range(0, len(pixels), 64):
        some = pixels[first : first + 64].astype(np.uint16)
        colour, alpha = some[..., :3], some[..., 3:]
        shown[first : first + 64] = (colour * alpha + 255 * (255 - alpha) + 127) // 255
    return shown


def _cores() -> int:
    return min(os.cpu_count() or 1, MAX_THREADS)


class _Picture:
    """A decoded picture on its way: who takes it out has it alone; those who passed it on do not keep its memory."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self.pts = frame.pts
        self._frame: av.VideoFrame | None = frame

    def take(self) -> av.VideoFrame:
        frame, self._frame = self._frame, None
        return frame


class _Damage:
    """Decodes packets and takes note of those that fail."""

    def __init__(self) -> None:
        self.failed = self.patched = self.decoded = 0

    def __bool__(self) -> bool:
        return self.failed + self.patched > 0

    def copy(self) -> "_Damage":
        return self + _Damage()

    def __add__(self, other: "_Damage") -> "_Damage":
        total = _Damage()
        for name, count in vars(self).items():
            setattr(total, name, count + getattr(other, name))
        return total

    def decode(self, packet: av.Packet) -> list[_Picture]:
        return self._noted(packet.decode)

    def drain(self, context: av.VideoCodecContext) -> list[_Picture]:
        return self._noted(context.decode)

    def _noted(self, decode: Callable[[], list[av.VideoFrame]]) -> list[_Picture]:
        try:
            pictures = decode()
        except av.error.EOFError:  # the decoder was drained before
            return []
        except BROKEN:
            self.failed += 1
            return []
        self.decoded += len(pictures)
        self.patched += sum(picture.is_corrupt for picture in pictures)
        return list(map(_Picture, pictures))


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """Yield the packets of a stream; of a picture only the first, as what a camera hangs on are previews and depths."""
    packets = container.demux(stream)
    if not container.format.name.endswith("_pipe"):
        return packets
    return (packet for place, packet in enumerate(packets) if place == 0 or not packet.size)


def _demuxed(container: av.container.InputContainer, stream: av.VideoStream, ledger: _Damage) -> Iterator[av.Packet]:
    try:
        for packet in _packets(container, stream):
            yield packet
            if ledger.failed > HOPELESS and not ledger.decoded:
                return
    except BROKEN:
        ledger.failed += 1


def _unlisted(kinds: type[SideDataType], number: int) -> SideDataType:
    kind = object.__new__(kinds)
    kind._name_, kind._value_ = f"UNLISTED_{number}", number
    return kind


# One kind that PyAV does not list, such as the EXIF data of a photo (31), would hide all side data of a frame.
SideDataType._missing_ = classmethod(_unlisted)


def display_matrix(picture: av.VideoFrame) -> tuple[int, int, int, int]:
    """Say how stored pixels come to stand upright: the signs (a, b, c, d) of x' = a x + c y, y' = b x + d y.

    A camera that was held sideways stores the frame as the sensor sees it and this matrix beside it. Angles between the
    quarter turns are taken as the nearest one.

    Source: ISO/IEC 14496-12, section 6.2.2; FFmpeg, libavutil/display.h.
    """
    for data in picture.side_data:
        if data.type == SideDataType.DISPLAYMATRIX:
            a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
            if abs(a * d) >= abs(b * c):
                return (-1 if a < 0 else 1), 0, 0, (-1 if d < 0 else 1)
            return 0, (-1 if b < 0 else 1), (-1 if c < 0 else 1), 0
    return 1, 0, 0, 1


def orient(
    pixels: UInt8[np.ndarray, "h w c"], matrix: tuple[int, int, int, int]
) -> UInt8[np.ndarray, "height width c"]:
    """Turn and mirror a frame by quarter turns; `matrix` as `display_matrix` gives it."""
    a, b, c, d = matrix
    if a == 0:  # rows become columns
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[::d, ::a]
