"""Open a local video file safely: refuse what is not one, and see whether the file is as long as it says.

FFmpeg opens far more than video files: addresses, playlists that name other files, scripts. Everything is refused here
that is not one ordinary file in a container of the list below, and FFmpeg is given an open file without a name, so that
it has nothing to look further with.
"""

import errno
import os
import re
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import av
import av.error

# As large as the largest camera formats (8K: 7680 x 4320, 8192 x 4320); a frame of this size takes 106 MB as RGB.
MAX_PIXELS = 36_000_000

# The names of FFmpeg's readers that read one file and nothing else. Sound and subtitles are here to be told apart.
CONTAINERS = (
    "mov,matroska,webm,avi,flv,mpeg,mpegts,asf,ogg,gif,apng,ivf,nut,rm,mxf,dv,wtv,yuv4mpegpipe,"
    "h264,hevc,vvc,av1,obu,m4v,mpegvideo,h263,h261,vc1,mjpeg,dnxhd,"
    "png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe,ppm_pipe,pgm_pipe,pbm_pipe,pam_pipe,jpegxl_pipe,qoi_pipe,gif_pipe,"
    "wav,w64,mp3,flac,aac,ac3,eac3,aiff,au,caf,amr,ape,srt,ass,webvtt"
)

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"

# FFmpeg's names of protocols, and others that people write in front of an address.
PROTOCOLS = (
    "async|bluray|cache|concatf?|concath|crypto|data|dict|dtls|fd|ffrtmp(crypt|http)|file|ftps?|gophers?|hls|httpproxy|https?|"
    "icecast|ipfs|ipns|ldaps?|magnet|md5|mmsh|mmst|mms|pipe|prompeg|rist|rtmp(e|s|t|te|ts)?|rtp|rtsps?|scp|sftp|smb|srtp?|subfile|"
    "tcp|tee|tls|udp|udplite|unix|zmq|s3|gs|az|blob"
)
ADDRESS = re.compile(rf"(?i)([a-z][a-z0-9+.-]+://|({PROTOCOLS})(,[^:]*)?:)")

PLAYLIST = re.compile(
    rb"(?is)(#extm3u|ffconcat\b|\[(playlist|reference)\]|v=0\r?\no=|rtsptext|asf http|file\s+['\"]?\S"
    rb"|(https?|rtsp|rtmp|mms|ftp|file)://"
    rb"|(<\?.*?\?>\s*|<!--.*?-->\s*|<!doctype \w+[^>]*>\s*)*"
    rb"<(mpd|smil|asx|playlist|smoothstreamingmedia|assetmap|packinglist|compositionplaylist)\b)"
)


class VideoError(ValueError):
    """A video cannot be read; one line says the cause and the remedy.

    Attributes:
        path: what was asked for.
        kind: one of bad_argument, url_refused, not_found, not_a_file, permission, empty, not_video, playlist_refused,
            no_video_stream, no_frames, too_large, unsupported_codec, encrypted_or_corrupt, truncated, corrupt,
            bad_index.
    """

    def __init__(self, path: object, kind: str, message: str) -> None:
        # repr where the name holds what a terminal would act on (line ends, escape codes)
        name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else repr(path)
        super().__init__(f"{name if name.isprintable() and name else repr(name)}: {message}")
        self.path = path
        self.kind = kind

    def __reduce__(self) -> tuple:  # an exception that crosses to another process is rebuilt from its arguments
        return _rebuilt, (self.path, self.kind, str(self))


def _rebuilt(path: object, kind: str, message: str) -> VideoError:
    error = VideoError(path, kind, "")
    error.args = (message,)
    return error


class VideoWarning(UserWarning):
    """A video is damaged: the frames that came are right, others are missing or were patched up by the decoder."""


class VideoFile:
    """A local file that was found to be a plausible video; FFmpeg may read it again and again.

    Attributes:
        path: as given.
        damage: the VideoError that says how the file contradicts itself, or None; frames may be readable all the same.
        encrypted: whether the header of an mp4 file says that its pictures are.
    """

    def __init__(self, path: str | bytes | os.PathLike) -> None:
        self.path = path
        self._file, self._turn = _open(path), threading.Lock()
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self._head = self._file.read(4096)
            self._refuse_text_that_names_other_files()
            self.damage = self._damage()
            self.encrypted = self._says_that_it_is_encrypted()
            self._refuse_enormous_picture()
            self._refuse_moving_webp()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def container(self) -> Iterator[av.container.InputContainer]:
        """Let FFmpeg open the file, from its start and apart from other containers of it.

        A container holds threads and frames until it is closed; its streams must not be touched after that.

        Raises:
            VideoError: if FFmpeg finds no container that is on the list.
        """
        try:
            container = av.open(
                _Nameless(self._file, self.size, self._turn),
                container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": ""},
                options={"max_pixels": str(MAX_PIXELS)},
                metadata_errors="replace",  # tags need not be UTF-8
                buffer_size=1 << 18,
                io_open=self._refuse_other_file,
            )
        except VideoError:
            raise
        except (av.error.FFmpegError, ValueError, OSError, ArithmeticError) as error:
            raise self._cannot_open() from error
        try:
            yield container
        finally:
            container.close()

    def close(self) -> None:
        """Close the file; containers of it can read no more."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether the file has been closed."""
        return self._file.closed

    def error(self, kind: str, message: str) -> VideoError:
        """Make a VideoError about this file."""
        return VideoError(self.path, kind, message)

    def _says_that_it_is_encrypted(self) -> bool:
        header = self._moov()
        return b"encv" in header and b"sinf" in header

    def _refuse_other_file(self, url: str, flags: int, options: dict) -> None:
        raise self.error("playlist_refused", f"names another file ({url[:80]!r}); give the video file itself")

    def _refuse_text_that_names_other_files(self) -> None:
        text = self._head.removeprefix(b"\xef\xbb\xbf").lstrip()
        if PLAYLIST.match(text):
            raise self.error(
                "playlist_refused", "is a playlist or script that names other files; give the video file itself"
            )
        if text.startswith(b"version https://git-lfs.github.com/spec/"):
            raise self.error(
                "not_video", "is a git-lfs pointer, not the video itself; run `git lfs pull` in its repository"
            )

    def _refuse_enormous_picture(self) -> None:
        if self._head[:4] == b"GIF8" or self._head[:8] == PNG:
            self.refuse_enormous(*self.declared_size())

    def declared_size(self) -> tuple[int, int]:
        """Width and height that the header of a picture or an AVI file speaks of; 0, 0 in other formats."""
        head = self._head.ljust(64, b"\0")
        if head[:4] == b"GIF8":
            return struct.unpack_from("<HH", head, 6)
        if head[:8] == PNG:
            return struct.unpack_from(">II", head, 16)
        if head[:3] == JPEG:
            return _jpeg(self._file)[:2]
        if head[:2] == b"BM":
            width, height = struct.unpack_from("<ii", head, 18)
            return abs(width), abs(height)  # a height below 0: the upper row comes first
        if head[:4] == b"qoif":
            return struct.unpack_from(">II", head, 4)
        if head[:4] == b"RIFF" and head[8:15] == b"WEBPVP8":
            return _webp_size(head)
        if head[:4] == b"RIFF" and (place := self._head.find(b"strf")) > 0:
            width, height = struct.unpack_from("<ii", self._head.ljust(place + 20, b"\0"), place + 12)
            return abs(width), abs(height)
        return 0, 0

    def refuse_enormous(self, width: int, height: int) -> None:
        """Raise a VideoError if one frame would have more than MAX_PIXELS pixels."""
        if width * height > MAX_PIXELS:
            raise self.error(
                "too_large",
                f"frames of {width} x {height} = {width * height / 1e6:.0f} million pixels exceed the limit of "
                f"{MAX_PIXELS / 1e6:.0f} million; make a smaller copy of the video",
            )

    def _refuse_moving_webp(self) -> None:
        head = self._head.ljust(21, b"\0")
        if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20] & 2:
            raise self.error(
                "unsupported_codec", "is an animated WebP, which nothing here reads; make it an mp4 or gif"
            )

    def _cannot_open(self) -> VideoError:
        if self.encrypted:
            return self.error("encrypted_or_corrupt", "is encrypted; give a copy without copy protection")
        if self.damage is not None:
            return self.damage
        if _is_text(self._head):
            page = b"<html" in self._head.lower() or b"<!doctype html" in self._head.lower()
            what = "is a web page (a failed download?)" if page else "is text"
            return self.error("not_video", f"{what}, not a video; download or export the video again")
        if _looks_like_video(self._head):
            return self.error("corrupt", "starts like a video but its header cannot be read; copy or download it again")
        return self.error("not_video", "is in none of the known video formats; give an mp4, mkv, webm, avi or gif file")

    # What the container declares about its own length

    def _damage(self) -> VideoError | None:
        head, size = self._head, self.size
        declared = 0
        if head[:4] == b"\x1aE\xdf\xa3":
            declared = _end_of_matroska(self._file, size)
        elif head[:4] == b"RIFF":
            declared = _end_of_riff(self._file, size)
        elif head[:3] == b"FLV":
            declared = _end_of_flv(self._file, size)
        elif head[:4] == b"GIF8":
            self._file.seek(max(0, size - 64))
            declared = size if self._file.read().rstrip(b"\0").endswith(b";") else size + 1
        elif head[:3] == JPEG:
            declared = _end_of_jpeg(self._file, size)
        elif head[:4] == b"OggS":
            declared = _end_of_ogg(self._file, size)
        elif (packet := _transport_packet(head)) and size % packet:
            declared = size + packet - size % packet
        elif head[4:8] in TOP_BOXES:
            return self._damage_of_mp4()
        return self._truncated(declared) if declared > size else None

    def _truncated(self, declared: int) -> VideoError:
        return self.error(
            "truncated", f"is cut off: {self.size} bytes of at least {declared}; copy or download it again"
        )

    def _damage_of_mp4(self) -> VideoError | None:
        kinds, start, end = [], 0, 0
        for kind, payload, following in _boxes(self._file, 0, self.size):
            if kind not in TOP_BOXES:
                break
            kinds.append(kind)
            start, end = payload, following
        if end > self.size and not (kinds[-1] == b"moov" and self._holds(b"mdat", start)):
            return self._truncated(end)
        if b"moov" in kinds:
            return self._damage_of_moov()
        if b"meta" in kinds and end == self.size:  # a picture (AVIF, HEIF) has its index there
            return None
        if kinds[-1:] == [b"mdat"] and end == self.size:
            return self.error("truncated", "is cut off before its index (no moov box); copy or download it again")
        return self.error("corrupt", "has no readable index (no moov box); copy or download it again")

    def _holds(self, name: bytes, start: int) -> bool:
        self._file.seek(start)
        return name in self._file.read(1 << 26)

    def _damage_of_moov(self) -> VideoError | None:
        for path, start, end, parent_end in _descend(self._file, 0, self.size, ()):
            kind = path[-1]
            if end > parent_end or not re.fullmatch(rb"[\x20-\x7e\xa9]{4}", kind):
                return self.error(
                    "corrupt",
                    f"the boxes of its header do not fit into each other (at byte {start}); copy or download it again",
                )
            if kind == b"stsz" and end - start >= 12:
                self._file.seek(start)
                _, _, samples = struct.unpack(">III", self._file.read(12))
                if samples > self.size:  # an error at once: to read on would only fill the memory
                    raise self.error(
                        "corrupt",
                        f"its header lists {samples} samples in a file of {self.size} bytes; copy or download it again",
                    )
        return None

    def _moov(self) -> bytes:
        for kind, start, end in _boxes(self._file, 0, self.size):
            if kind == b"moov":
                self._file.seek(start)
                return self._file.read(min(end - start, 1 << 26))
        return b""


class _Nameless:
    """An open file that does not tell its name: FFmpeg can read it, and look for nothing beside it.

    It keeps its own place, so that several containers can read one file, also from several threads: `turn` is the lock
    that all readers of the file share.
    """

    def __init__(self, file: BinaryIO, size: int, turn: threading.Lock) -> None:
        self._file, self._size, self._turn, self._place = file, size, turn, 0

    def read(self, count: int) -> bytes:
        with self._turn:
            self._file.seek(self._place)
            data = self._file.read(count)
        self._place += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place


def _open(path: object) -> BinaryIO:
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise VideoError(path, "bad_argument", f"a path was expected, not {type(path).__name__}")
    name = os.fsdecode(path)
    if not name:
        raise VideoError(path, "bad_argument", "the path is empty; give the path of a video file")
    if "\0" in name:
        raise VideoError(path, "bad_argument", "the path holds a NUL character, which no file name can")
    try:
        # Before opening: a FIFO would wait for a writer for ever.
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
            raise VideoError(path, "not_a_file", f"is {what}; give the path of a video file")
        if os.stat(path).st_size == 0:
            raise VideoError(path, "empty", "is empty (0 bytes); copy or download it again")
        return open(path, "rb", buffering=0)
    except PermissionError as error:
        raise VideoError(path, "permission", "may not be read by this user; change its permissions") from error
    except OSError as error:
        if ADDRESS.match(name.lstrip()):
            raise VideoError(
                path, "url_refused", "is an address, and only local files are read; download it and pass a path"
            ) from None
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
            raise VideoError(path, "bad_argument", f"cannot be a path ({error.strerror})") from error
        raise VideoError(path, "not_found", f"cannot be opened ({error.strerror}); check the path") from error


def _is_text(head: bytes) -> bool:
    return not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head) and len(head) > 0 and _decodes(head)


def _decodes(head: bytes) -> bool:
    try:
        head[:-4].decode("utf-8")  # the last character may be cut
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 8
    return True


def _looks_like_video(head: bytes) -> bool:
    starts = (
        b"\x1aE\xdf\xa3",
        b"RIFF",
        b"FLV",
        b"GIF8",
        b"OggS",
        b"\0\0\1\xba",
        b"\0\0\1\xb3",
        b"\x89PNG",
        b"\xff\xd8\xff",
    )
    return (
        head.startswith(tuple(starts))
        or bool(_transport_packet(head))
        or any(kind in head for kind in (b"ftyp", b"moov", b"mdat", b"mvhd"))
    )


# mp4 and mov: boxes of a size, a type of four letters and a payload (ISO/IEC 14496-12, section 4.2)

TOP_BOXES = frozenset(
    b"ftyp styp moov mdat moof mfra free skip wide pnot uuid sidx ssix prft emsg meta udta pdin".split()
)
PARENTS = frozenset([b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf"])
# Far more boxes than any real file has: a file of nothing but tiny boxes must not take minutes.
MAX_BOXES = 200_000


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, first byte of the payload and end of every box; the end may lie beyond `end`."""
    for _ in range(MAX_BOXES):
        if start + 8 > end:
            return
        file.seek(start)
        header = file.read(16)
        size, kind = struct.unpack_from(">I4s", header)
        payload = start + 8
        if size == 1 and len(header) == 16:
            (size,) = struct.unpack_from(">Q", header, 8)
            payload = start + 16
        elif size == 0:
            size = end - start
        following = start + size
        yield kind, payload, max(following, payload)
        if following < payload:
            return
        start = following


def _descend(file: BinaryIO, start: int, end: int, path: tuple) -> Iterator[tuple[tuple, int, int, int]]:
    for kind, payload, box_end in _boxes(file, start, end):
        if path or kind == b"moov":
            yield (*path, kind), payload, box_end, end
        if kind in PARENTS and kind not in path and (path or kind == b"moov"):
            yield from _descend(file, payload, min(box_end, end), (*path, kind))
        if not path and kind == b"moov":
            return  # the first index counts; what was appended to the file does not


# The other containers


def _end_of_matroska(file: BinaryIO, size: int) -> int:
    """The end that the segment declares, or of the last cluster where the segment was written to a stream."""
    _, start, end = _element(file, 0, size)
    for _ in range(4):
        kind, start, end = _element(file, end, size)
        if kind == 0x18538067:  # Segment
            break
    else:
        return 0
    if end >= 0:
        return end
    for _ in range(MAX_BOXES):
        if start >= size:
            return start
        kind, start, end = _element(file, start, size)
        if end < 0 or kind not in (0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1F43B675, 0x1C53BB6B, 0xEC, 0xBF, 0x1254C367):
            return 0
        start = end
    return 0


def _element(file: BinaryIO, start: int, size: int) -> tuple[int, int, int]:
    """Id, first byte of the payload and end (-1: unknown) of an EBML element (RFC 8794)."""
    if not 0 <= start < size:
        return 0, start, -1
    file.seek(start)
    header = file.read(12)
    if len(header) < 2 or header[0] < 0x10:
        return 0, start, -1
    width = 9 - header[0].bit_length()
    kind = int.from_bytes(header[:width])
    if len(header) <= width or header[width] == 0:
        return 0, start, -1
    length = 9 - header[width].bit_length()
    payload = start + width + length
    value = int.from_bytes(header[width : width + length]) & ((1 << 7 * length) - 1)
    return kind, payload, -1 if value == (1 << 7 * length) - 1 else payload + value


def _end_of_riff(file: BinaryIO, size: int) -> int:
    end = 0
    for _ in range(MAX_BOXES):
        file.seek(end)
        header = file.read(8)
        if len(header) < 8 or header[:4] != b"RIFF":
            return end
        (length,) = struct.unpack_from("<I", header, 4)
        if length in (0, 0xFFFFFFFF):  # written to a stream that could not go back
            return 0
        end += 8 + length
        if end > size:
            return end
        end += length % 2
    return 0


def _jpeg(file: BinaryIO) -> tuple[int, int, int]:
    """Width, height, and where the compressed picture begins (0: nowhere) (ITU-T T.81, annex B)."""
    width = height = 0
    place = 2
    for _ in range(MAX_BOXES):
        file.seek(place)
        segment = file.read(9)
        if len(segment) < 4 or segment[0] != 0xFF:
            break
        if segment[1] == 0xDA:
            return width, height, place
        if 0xC0 <= segment[1] <= 0xCF and segment[1] not in (0xC4, 0xC8, 0xCC) and len(segment) == 9:
            height, width = struct.unpack_from(">HH", segment, 5)
        place += 1 if segment[1] == 0xFF else 2 + int.from_bytes(segment[2:4])
    return width, height, 0


def _end_of_jpeg(file: BinaryIO, size: int) -> int:
    """One byte more than there is where the mark of the end is missing."""
    *_, start = _jpeg(file)
    file.seek(start)
    return size + 1 if start and b"\xff\xd9" not in file.read(1 << 26) and size < 1 << 26 else size


def _webp_size(head: bytes) -> tuple[int, int]:
    """Source: RFC 9649, sections 2.5 to 2.7."""
    if head[15:16] == b"X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[15:16] == b"L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", head, 26)
    return width & 0x3FFF, height & 0x3FFF


def _end_of_ogg(file: BinaryIO, size: int) -> int:
    """The end of the last page, or one byte more than there is where that page is not marked as the last (RFC 3533)."""
    file.seek(max(0, size - (1 << 17)))  # a page has at most 65307 bytes
    tail = file.read()
    place = tail.rfind(b"OggS")
    if place < 0 or len(tail) < place + 27 or len(tail) < place + 27 + tail[place + 26]:
        return size + 1 if place >= 0 else 0
    segments = tail[place + 26]
    end = size - len(tail) + place + 27 + segments + sum(tail[place + 27 : place + 27 + segments])
    return end if end != size or tail[place + 5] & 4 else size + 1


def _end_of_flv(file: BinaryIO, size: int) -> int:
    end = 13
    for _ in range(MAX_BOXES):
        file.seek(end)
        header = file.read(4)
        if len(header) < 4 or header[0] & 0x1F not in (8, 9, 18):
            return 0
        end += 11 + int.from_bytes(header[1:4])
        if end > size:
            return end
        end += 4
    return 0


def _transport_packet(head: bytes) -> int:
    """Bytes of a packet if this is an MPEG transport stream, else 0."""
    for packet, offset in ((188, 0), (192, 4), (204, 0)):
        places = range(offset, min(len(head), offset + 5 * packet), packet)
        if len(places) >= 3 and all(head[place] == 0x47 for place in places):
            return packet
    return 0
