"""A cache of decoded clips: decoding is the slow part, so its result is kept as bytes, and made anew if it is damaged.

An entry is one file: a line of JSON that says what it is, and the pixels. Its name is a hash of the video file's path,
size and time of change and of the settings it was read with, so that an entry is never of another file or another size.
Nothing is lost when the folder is removed.
"""

import hashlib
import json
import os
import re
import secrets
import time
import warnings
import zlib
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from minivid.video.clip import ClipSettings

FORMAT = "minivid clip 1"  # to be counted up when decoding or the layout of an entry changes
GIGABYTE = 10**9
_ENTRY = re.compile(r"[0-9a-f]{64}\.clip")
_UNFINISHED = re.compile(r"\.unfinished-[0-9a-f]{16}\.clip")


class CacheWarning(UserWarning):
    """The cache cannot be written; clips are decoded each time instead."""


class KeptClip(NamedTuple):
    """The frames of a file, and what was wrong with it when it was decoded; empty for a sound one."""

    pixels: UInt8[Tensor, "t c h w"]
    damage: str


class ClipCache:
    """Decoded clips in a folder, never more bytes than a limit.

    Where there is no room, entries that were not used since this cache was opened make way, the oldest first; those
    that were stay, because a training that goes round more clips than fit would else find none of them.
    Several processes may use one folder.

    Args:
        folder: made when the first entry is written.
        limit: bytes of all entries together.
    """

    def __init__(self, folder: str | os.PathLike, *, limit: int = 10 * GIGABYTE):
        if limit < 0:
            raise ValueError(f"limit={limit} bytes is below 0")
        self.folder = Path(folder)
        self.limit = limit
        self._opened = time.time()
        self._used: int | None = None  # bytes, counted when the first entry is written, in each process by itself
        self._broken = False

    def load(self, path: str | os.PathLike, settings: ClipSettings) -> KeptClip | None:
        """Give what is kept of a file, or None where they are not there or damaged; what is damaged is removed.

        Args:
            path: the video file.
            settings: how it was read.
        """
        entry = self._entry(path, settings)
        try:
            with open(entry, "rb") as file:
                data = bytearray(os.fstat(file.fileno()).st_size)
                file.readinto(data)
        except OSError:
            return None
        found = _unpacked(data, entry.stem)
        with suppress(OSError):
            os.unlink(entry) if found is None else os.utime(entry)
        return found

    def store(
        self, path: str | os.PathLike, settings: ClipSettings, pixels: UInt8[Tensor, "t c h w"], damage: str = ""
    ) -> bool:
        """Keep the frames of a file, if there is room.

        Args:
            path: the video file.
            settings: how it was read.
            pixels: its frames.
            damage: what is wrong with it.

        Returns:
            Whether they are kept.

        Warns:
            CacheWarning: once, if the folder cannot be written to.
        """
        entry = self._entry(path, settings)
        head, body = _packed(KeptClip(pixels, damage), entry.stem)
        if self._broken or not self._room_for(len(head) + len(body)):
            return False
        unfinished = self.folder / f".unfinished-{secrets.token_hex(8)}.clip"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(unfinished, "xb") as file:
                file.write(head)
                file.write(body)
            os.replace(unfinished, entry)
        except OSError as error:
            self._broken = True
            message = f"{self.folder}: clips cannot be kept ({error.strerror}); they are decoded each time"
            warnings.warn(message, CacheWarning, stacklevel=2)
            return False
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
        self._used += len(head) + len(body)
        return True

    def size(self) -> int:
        """Bytes of all entries together."""
        return sum(size for _, _, size in self._entries())

    def clear(self) -> int:
        """Remove every entry, and the folder if nothing else is in it.

        Returns:
            How many entries there were.
        """
        removed = 0
        for _, entry, _ in self._entries(unfinished=True):
            with suppress(FileNotFoundError):
                os.unlink(entry)
                removed += bool(_ENTRY.fullmatch(Path(entry).name))
        with suppress(OSError):
            self.folder.rmdir()
        self._used = None
        return removed

    def _entry(self, path: str | os.PathLike, settings: ClipSettings) -> Path:
        found = os.stat(path)
        about = [FORMAT, os.path.realpath(path), found.st_size, found.st_mtime_ns, asdict(settings)]
        return self.folder / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()}.clip"

    def _entries(self, *, unfinished: bool = False) -> list[tuple[float, str, int]]:
        """Time of last use, path and size of every entry, the oldest first."""
        found = []
        with suppress(FileNotFoundError), os.scandir(self.folder) as items:
            for item in items:
                if _ENTRY.fullmatch(item.name) or (unfinished and _UNFINISHED.fullmatch(item.name)):
                    with suppress(FileNotFoundError):
                        found.append((item.stat().st_mtime, item.path, item.stat().st_size))
        return sorted(found)

    def _room_for(self, size: int) -> bool:
        if self._used is None:
            self._used = self.size()
        if self._used + size <= self.limit:
            return True
        if size > self.limit:
            return False
        entries = self._entries()
        self._used = sum(entry[2] for entry in entries)
        for used, entry, bytes_there in entries:
            if self._used + size <= self.limit or used >= self._opened:
                break
            with suppress(FileNotFoundError):
                os.unlink(entry)
            self._used -= bytes_there
        return self._used + size <= self.limit


def _packed(kept: KeptClip, key: str) -> tuple[bytes, memoryview]:
    body = memoryview(kept.pixels.contiguous().numpy()).cast("B")
    about = {"format": FORMAT, "key": key, "shape": list(kept.pixels.shape), "damage": kept.damage}
    return json.dumps(about | {"crc32": _check(about, body)}).encode() + b"\n", body


def _unpacked(data: bytearray, key: str) -> KeptClip | None:
    """What an entry holds; None unless it is as it was written."""
    end = data.find(b"\n", 0, 1 << 16)
    if end < 0:
        return None
    body = memoryview(data)[end + 1 :]
    try:
        about = json.loads(bytes(data[:end]))
        check = about.pop("crc32")
        if (about["format"], about["key"], check) != (FORMAT, key, _check(about, body)):
            return None
        pixels = torch.frombuffer(data, dtype=torch.uint8, offset=end + 1).view(about["shape"])
        return KeptClip(pixels, about["damage"])
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        return None


def _check(about: dict, body: memoryview) -> int:
    """A sum over all that an entry says and holds, which any one flipped bit changes."""
    return zlib.crc32(body, zlib.crc32(json.dumps(about).encode()))
