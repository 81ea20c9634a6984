"""A folder of files that appears whole or not at all, and that knows the SHA-256 checksum of each of its files."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from minivid.whole_files import UNFINISHED, flush, unfinished_folder

CHECKSUMS = "checksums.json"


class CheckpointError(ValueError):
    """A folder or a file is not what was written; the message names it, what is wrong and what to do."""


@contextmanager
def sealed_folder(path: Path) -> Iterator[Path]:
    """Make a folder under a temporary name beside its place; seal, flush and rename it when the context ends well.

    What is at the place before is replaced. When this returns, the new folder has been read back from the disk.

    Args:
        path: where the folder is to be; the folder around it must exist.

    Raises:
        OSError: if the disk refuses; then the place is as it was.
        CheckpointError: if what was written is not what is read.
    """
    aside = None
    with unfinished_folder(path.parent) as unfinished:
        yield unfinished
        seal(unfinished, [file.name for file in unfinished.iterdir()])
        os.chmod(unfinished, 0o755)  # the temporary folder is private
        if path.exists():
            aside = _set_aside(path)
        try:
            os.replace(unfinished, path)
        except BaseException:
            if aside is not None:
                os.replace(aside, path)
            raise
        flush(path.parent)
        check_seal(path)
    if aside is not None:
        shutil.rmtree(aside)


@contextmanager
def sealed_files(folder: Path) -> Iterator[Path]:
    """Make files in a temporary folder; seal them and move them into a folder when the context ends well.

    They replace files of their names and the folder's checksums.json; other files of the folder stay.

    Args:
        folder: where the files are to be.

    Raises:
        OSError: if the disk refuses.
    """
    with unfinished_folder(folder) as unfinished:
        yield unfinished
        names = [file.name for file in unfinished.iterdir()]
        seal(unfinished, names)
        # The checksums last: whoever is killed in between leaves files that do not fit them, and that is an error.
        for name in (*names, CHECKSUMS):
            os.replace(unfinished / name, folder / name)
        flush(folder)


def discard(path: Path) -> None:
    """Remove a folder: first its name, at once, then its files.

    Args:
        path: the folder.
    """
    shutil.rmtree(_set_aside(path))


def _set_aside(path: Path) -> Path:
    aside = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=path.parent))
    os.replace(path, aside)
    return aside


def seal(folder: Path, names: Iterable[str]) -> None:
    """Flush files to the disk and write down their sizes and checksums, in checksums.json beside them.

    Args:
        folder: where the files are.
        names: of the files.
    """
    names = sorted(names)
    for name in names:
        flush(folder / name)
    sums = {name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in names}
    (folder / CHECKSUMS).write_text(_text(sums), encoding="utf-8")
    for place in (folder / CHECKSUMS, folder):
        flush(place)


def check_seal(folder: Path, names: Iterable[str] = ()) -> None:
    """Read every file that checksums.json names, and compare.

    A checksum of the file itself is needed: a safetensors file with a flipped bit loads without a word.

    Args:
        folder: with checksums.json.
        names: files that must be among the named.

    Raises:
        FileNotFoundError: if checksums.json is missing.
        CheckpointError: if a file is missing, was cut, or changed since, or checksums.json itself did.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no {CHECKSUMS}, so nothing tells whether its files are whole")
    try:
        text = path.read_text(encoding="utf-8")
        sums = json.loads(text)
        wanted = {name: (entry["bytes"], entry["sha256"]) for name, entry in sums.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes that are no list of checksums; {_ANEW}") from error
    if _text(sums) != text:  # one wording only, so that no flipped bit goes unseen
        raise CheckpointError(f"{path}: not as it was written; {_ANEW}")
    if missing := sorted(set(names) - set(wanted)):
        raise CheckpointError(f"{path}: no checksum of {', '.join(missing)}; {_ANEW}")
    for name, (size, sha256) in wanted.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise CheckpointError(f"{folder}: {name} is missing, {CHECKSUMS} names it with {size} bytes; {_ANEW}")
        if file.stat().st_size != size:
            raise CheckpointError(
                f"{file}: {file.stat().st_size} bytes, expected {size}: it was cut short or added to; {_ANEW}"
            )
        if (found := _sha256(file)) != sha256:
            raise CheckpointError(
                f"{file}: it has changed since it was written (SHA-256 {found[:8]}…, expected {sha256[:8]}…); {_ANEW}"
            )


_ANEW = "take another copy or make it anew"


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(sums: dict) -> str:
    return json.dumps(sums, indent=2, ensure_ascii=False) + "\n"
