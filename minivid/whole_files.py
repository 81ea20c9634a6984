"""Files that appear under their names only when they are complete and on the disk."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".unfinished-"
"""How the names of files and folders begin that are being written."""


def replace_file(path: Path, write: Callable[[str], object]) -> None:
    """Write a file that appears under its name only when it is complete and on the disk.

    Args:
        path: the file to make or to replace; its folder must exist.
        write: given a temporary name in the same folder, makes the file.

    Raises:
        OSError: if the disk refuses; then the old file is as it was.
    """
    descriptor, unfinished = tempfile.mkstemp(prefix=UNFINISHED, suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    try:
        write(unfinished)
        os.chmod(unfinished, 0o644)  # mkstemp makes a private file
        flush(Path(unfinished))
        os.replace(unfinished, path)
    except BaseException:  # Ctrl-C too
        with suppress(OSError):
            os.unlink(unfinished)
        raise
    flush(path.parent)


@contextmanager
def replaced_files(folder: Path, *, key: str, surplus: Callable[[Path], Iterable[Path]]) -> Iterator[Path]:
    """Make files in a temporary folder that mean something only together, and move them into a folder in the end.

    Whoever is killed between two moves leaves a folder without the key file, which nobody takes for whole: first the
    old key file goes, then the old files that have no successor, then come the new ones, the key file last.

    Args:
        folder: where the files are to be; other files of it stay.
        key: name of the file without which no reader looks at the others; one of the new files.
        surplus: the files of an earlier set in a folder, which go unless they are replaced.

    Raises:
        OSError: if the disk refuses; before the first move, the old files are as they were.
    """
    with unfinished_folder(folder) as unfinished:
        yield unfinished
        names = sorted(path.name for path in unfinished.iterdir() if path.name != key)
        for name in (*names, key):
            flush(unfinished / name)
        (folder / key).unlink(missing_ok=True)
        flush(folder)
        for path in surplus(folder):
            path.unlink()
        for name in (*names, key):
            os.replace(unfinished / name, folder / name)
        flush(folder)


@contextmanager
def unfinished_folder(parent: Path) -> Iterator[Path]:
    """A folder that is there while the context is, unless it is renamed.

    Args:
        parent: where it is made.
    """
    folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk before anything else is.

    Args:
        path: the file or folder.
    """
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what a killed program left half written in a folder.

    Args:
        folder: need not exist.
    """
    for path in folder.glob(f"{UNFINISHED}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
