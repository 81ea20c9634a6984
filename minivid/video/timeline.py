"""Which frames a video stream holds, when each is shown, and which packets to decode to get some of them.

A packet is one compressed picture; packets stand in a file in the order of decoding. To read them costs little (no
pixel is decoded) and tells the truth where headers do not: a packet carries the tick at which its picture is shown, and
whether decoding may start there (a key frame).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np

# To decode this many unwanted frames costs about as much as to seek and to fill the decoder's threads again.
FRAMES_WORTH_A_SEEK = 24

# In these one packet is one frame, once hidden pictures are left out. In others only decoding tells.
ONE_FRAME_A_PACKET = frozenset(
    ("h264", "hevc", "vvc", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4", "h263", "flv1")
    + ("mjpeg", "prores", "dnxhd", "ffv1", "rawvideo", "qtrle", "gif", "png")
)
# A picture of MPEG-4 part 2 that says "as before" is shorter than this and gives no frame.
SHORT_MPEG4_PACKET = 32
# Containers in which each packet is a whole frame even if it is coded as two fields.
FRAME_CONTAINERS = ("mov", "matroska")


@dataclass
class Packets:
    """What the packets of one stream say, in the order of decoding; hidden and cut-away pictures are left out.

    Attributes:
        ticks: when each picture is shown, in units of the time base; None where it is not said.
        keys: places in `ticks` of the key frames.
        counted: whether each gives exactly one frame, as far as one can tell without decoding.
        in_order: whether they say that pictures are shown in the order of decoding.
        end: when the picture that is shown last has been shown, in ticks; None where it is not said.
    """

    ticks: list[int | None] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    counted: bool = True
    in_order: bool = True
    end: int | None = None
    _begun: bool = False
    _first: int | None = None

    def add(self, packet: av.Packet, codec: str) -> int:
        """Take note of one packet; give how many pictures of it are shown."""
        if not self._begun:
            self._begun, self._first = True, packet.pts
            self.counted = packet.is_keyframe and codec in ONE_FRAME_A_PACKET
        pictures = pictures_shown(packet, codec)
        self.counted &= pictures <= 1 and not (codec == "mpeg4" and packet.size < SHORT_MPEG4_PACKET)
        if pictures:
            if packet.is_keyframe and (codec != "h264" or decodes_from_here_h264(packet)):
                self.keys.append(len(self.ticks))
            self.in_order &= not self.ticks or None in (packet.pts, self.ticks[-1]) or packet.pts > self.ticks[-1]
            self.ticks.append(packet.pts)
        if pictures and packet.pts is not None:
            # What is shown before the key frame that the stream begins with cannot be decoded, and is dropped.
            self.counted &= self._first is not None and packet.pts >= self._first
            if packet.duration:
                self.end = max(self.end or 0, packet.pts + packet.duration)
        return pictures


@dataclass(frozen=True)
class Segment:
    """A stretch to decode: from the packet at place `start` until the frames numbered `frames` have come."""

    start: int
    frames: tuple[int, ...]


@dataclass(frozen=True)
class Timeline:
    """The frames of a video in the order in which they are shown.

    Attributes:
        seconds: when each frame is shown.
        ticks: the same in units of the time base, ascending and all different; None where ticks cannot name the frames
            (not said, repeated, out of order) and frames must be counted.
        places: the place of each frame's packet in the order of decoding.
        keys: places of the key frames, ascending.
        key_ticks: when each key frame is shown.
    """

    seconds: np.ndarray
    ticks: np.ndarray | None = None
    places: np.ndarray | None = None
    keys: np.ndarray | None = None
    key_ticks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.seconds)

    def segments(self, wanted: Sequence[int]) -> list[Segment]:
        """Plan the way through the file: decode on, or seek where that leaves out enough.

        Args:
            wanted: numbers of frames, ascending, each once.

        Returns:
            Segments whose frames, one after the other, are the wanted ones.
        """
        planned: list[tuple[int, list[int]]] = []
        reached = 0
        for frame in wanted:
            key = self._key_before(frame)
            if not planned or key > reached + FRAMES_WORTH_A_SEEK:
                planned.append((key if key > FRAMES_WORTH_A_SEEK else 0, []))
            planned[-1][1].append(frame)
            reached = max(reached, int(self.places[frame]))
        return [Segment(start, tuple(frames)) for start, frames in planned]

    def _key_before(self, frame: int) -> int:
        # A frame that is decoded after a key frame but shown before it may need what came earlier (an open GOP), so the
        # key frame must come first in both orders.
        number = int(np.searchsorted(self.keys, self.places[frame], side="right")) - 1
        while number >= 0 and self.key_ticks[number] > self.ticks[frame]:
            number -= 1
        return int(self.keys[number]) if number >= 0 else 0


def timeline_of_packets(packets: Packets, container: str, time_base: Fraction, rate: Fraction) -> Timeline:
    """Number the frames of a stream by its packets alone.

    Args:
        packets: all of the stream; `packets.counted` must hold.
        container: FFmpeg's name of the container.
        time_base: seconds in a tick.
        rate: frames a second, for streams that say no times.
    """
    known = None not in packets.ticks
    ticks = np.array([0 if tick is None else tick for tick in packets.ticks], dtype=np.int64)
    places = np.argsort(ticks, kind="stable")
    seconds = seconds_of_ticks(ticks[places] if known else None, len(ticks), time_base, rate)
    # AVI has no times of its own: FFmpeg's guesses are good enough to show, not to find a frame by.
    if not known or "avi" in container or (np.diff(ticks[places]) <= 0).any():
        return Timeline(seconds)
    keys = np.array(packets.keys, dtype=np.int64)
    return Timeline(seconds, ticks[places], places, keys, ticks[keys])


def seconds_of_ticks(ticks: np.ndarray | None, count: int, time_base: Fraction, rate: Fraction) -> np.ndarray:
    """Turn ticks to seconds; frames without times, or all at the same time, are taken to be 1 / rate apart."""
    if ticks is None or (count > 1 and ticks[0] == ticks[-1]):
        return np.arange(count) / float(rate)
    return ticks * (time_base.numerator / time_base.denominator)


def frame_rate(seconds: np.ndarray, declared: Sequence[Fraction | None]) -> float:
    """Frames a second: what the container declares where the times agree with it, else what the times say.

    Declared rates are exact (30000/1001) where times are rounded (to 1 ms in Matroska), but may be plain wrong (1000).
    """
    span = float(seconds[-1] - seconds[0]) if len(seconds) else 0.0
    intervals = len(seconds) - 1
    for rate in declared:
        if rate and 0 < rate <= 1000:
            expected = float(rate) * span
            if intervals < 1 or (abs(expected - intervals) < min(0.5, 0.02 * intervals)):
                return float(rate)
    return intervals / span if span > 0 else 25.0


def pictures_shown(packet: av.Packet, codec: str) -> int:
    """Count the frames a packet gives: 0 if an edit list cuts it away, or if it only holds hidden pictures (VP8, VP9).

    Source: RFC 6386, section 9.1 (VP8, show_frame); VP9 bitstream specification, section 6.2 and annex B (superframes).
    """
    if packet.is_discard:
        return 0
    if codec == "vp8":
        return memoryview(packet)[0] >> 4 & 1
    if codec == "vp9":
        return sum(_vp9_picture_is_shown(picture) for picture in _vp9_pictures(memoryview(packet)))
    return 1


def _vp9_pictures(data: memoryview) -> list[memoryview]:
    marker = data[-1]
    if marker & 0b11100000 != 0b11000000:
        return [data]
    count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
    index = data[-2 - count * width :]
    if index[0] != marker or len(index) != 2 + count * width:
        return [data]
    pictures, start = [], 0
    for number in range(count):
        size = int.from_bytes(index[1 + number * width : 1 + (number + 1) * width], "little")
        if size:
            pictures.append(data[start : start + size])
        start += size
    return pictures


def _vp9_picture_is_shown(picture: memoryview) -> bool:
    bits = f"{int.from_bytes(picture[:2].tobytes().ljust(2, bytes(1))):016b}"
    after_profile = 5 if bits[2:4] == "11" else 4
    shows_an_earlier_picture = bits[after_profile] == "1"
    return shows_an_earlier_picture or bits[after_profile + 2] == "1"


def decodes_from_here_h264(packet: av.Packet) -> bool:
    """Whether every later frame can be decoded exactly from this H.264 key frame on.

    So it is for an IDR picture, and for a recovery point that needs no frame to recover. A stream that is refreshed bit
    by bit marks recovery points too, but after these the picture is whole only some frames later.

    Source: ITU-T H.264, table 7-1 and section D.2.8.
    """
    for unit in _h264_units(bytes(packet), packet.stream.codec_context.extradata):
        kind = unit[0] & 0x1F
        if kind == 5:  # an IDR picture
            return True
        if kind == 6:  # messages, one of which may mark a recovery point
            place = 1
            while place < len(unit) - 2:
                message, place = _h264_number(unit, place)
                size, place = _h264_number(unit, place)
                if message == 6 and place < len(unit):
                    return unit[place] >= 0x80  # recovery_frame_cnt, an Exp-Golomb number: 0 is a single bit, 1
                place += size
    return False


def _h264_number(unit: bytes, place: int) -> tuple[int, int]:
    number = 0
    while place < len(unit) - 1 and unit[place] == 0xFF:
        number, place = number + 0xFF, place + 1
    return number + unit[place], place + 1


def _h264_units(data: bytes, extradata: bytes | None) -> list[bytes]:
    units, place = [], 0
    if not extradata or extradata[0] != 1:  # start codes: transport streams
        units = re.split(rb"\x00\x00\x01", data)
    else:  # each behind its length: mp4, Matroska
        width = (extradata[4] & 3) + 1
        while place + width < len(data):
            size = int.from_bytes(data[place : place + width])
            units.append(data[place + width : place + width + size])
            place += width + size
    return [unit for unit in units if unit]
