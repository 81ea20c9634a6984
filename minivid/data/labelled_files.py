"""Labelled video files: a folder for each class, or a table of paths and labels; and which teach, tune and test."""

import csv
import hashlib
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation", "dev"), "validation"
)
COLUMNS = ("path", "label", "split", "start", "end")
# Texts that lie beside class folders without being meant as clips.
NOTES = {"", ".csv", ".tsv", ".jsonl", ".json", ".md", ".txt", ".html", ".yaml", ".yml", ".pdf"}


@dataclass(frozen=True)
class LabelledFile:
    """One clip: a video file or a part of one, and what it shows.

    Attributes:
        path: of the file.
        label: the name of its class.
        split: one of SPLITS; None = not yet decided.
        start, end: seconds; what is outside is left out. None = from the beginning, to the end.
        fingerprint: of the file's content, see `fingerprint`; empty before the file was read.
        damage: what is wrong with a file that can be read in part; empty for a sound one.
    """

    path: str
    label: str
    split: str | None = None
    start: int | float | None = None
    end: int | float | None = None
    fingerprint: str = ""
    damage: str = ""


class Unreadable(NamedTuple):
    """A file that is not as it should be: where it is, why, a word for the kind of fault, and whether it is used."""

    path: str
    reason: str
    kind: str
    used: bool = False


@dataclass(frozen=True)
class LabelledFiles:
    """What a folder or a table names.

    Attributes:
        files: every clip, in order of class and name, or as in the table.
        classes: the labels, sorted.
        left_out: what lies there and belongs to no class.
    """

    files: tuple[LabelledFile, ...]
    classes: tuple[str, ...]
    left_out: tuple[Unreadable, ...] = ()


def read_labelled_files(source: str | os.PathLike, *, fewest_classes: int = 2) -> LabelledFiles:
    """List labelled files; none of them is opened.

    A folder holds one folder for each class, with its files at any depth; or `train`, `val` and `test`, each with such
    class folders. What begins with a dot is no clip. A table is a .csv or .tsv file with a header, or a .jsonl file
    with one object a line, of `path` (beside the table, or absolute), `label`, and if wanted `split`, `start` and `end`
    in seconds; other columns are passed over.

    Args:
        source: the folder or the table.
        fewest_classes: fewer are an error; to measure, one is enough.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: if it names no clips, too few classes, or something that cannot be meant.
    """
    source = Path(source)
    suffix = source.suffix.lower()
    if source.is_dir():
        files, left_out = _in_folder(source)
    elif not source.exists():
        raise FileNotFoundError(f"{source}: no such folder or file; give a folder with one folder for each class")
    elif suffix in (".csv", ".tsv"):
        files, left_out = _from_rows(source, _csv_rows(source)), []
    elif suffix in (".jsonl", ".ndjson"):
        files, left_out = _from_rows(source, _json_rows(source)), []
    else:
        raise ValueError(f"{source}: expected a folder with one folder for each class, or a .csv, .tsv or .jsonl file")
    classes = tuple(sorted({file.label for file in files}))
    if not files:
        raise ValueError(f"{source}: names no clips; put files into its class folders, or rows below its header")
    if len(classes) < fewest_classes:
        raise ValueError(f"{source}: 1 class, {classes[0]!r}, expected at least {fewest_classes} to tell apart")
    return LabelledFiles(tuple(files), classes, tuple(left_out))


def assign_splits(
    files: Sequence[LabelledFile], *, shares: Sequence[int | float] = (0.7, 0.15, 0.15), seed: int = 0
) -> list[LabelledFile]:
    """Say of every clip whether it teaches, tunes or tests.

    Splits that are given stay; if no clip is given to validation, some of train are. Else each class is shared out by
    itself, file by file: clips of one file, and copies of one file, are never in two splits. Which file goes where
    depends on its content and the seed, not on its name or on the others, so that a file that is added moves few.

    Args:
        files: with their fingerprints.
        shares: of train, validation and test; they need not sum to one. A class is in every split whose share is not 0.
        seed: which files.

    Returns:
        The same clips in the same order, each with its split.

    Raises:
        ValueError: if a class has too few files to be in every split, or a file is in two given splits.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or not all(map(math.isfinite, shares)) or shares[0] == 0:
        raise ValueError(
            f"shares {tuple(shares)}: expected three numbers for train, validation and test, train above 0"
        )
    given = {file.split for file in files}
    if None in given:
        return _shared_out(files, shares, seed)
    _check_given(files)
    if "train" not in given:
        raise ValueError(f"no clip is in train (splits: {', '.join(sorted(given))}); some must be, to learn from")
    if "validation" in given or shares[1] == 0:
        return list(files)
    rest = [file for file in files if file.split == "train"]
    parted = iter(_shared_out(rest, (shares[0], shares[1], 0), seed))
    return [next(parted) if file.split == "train" else file for file in files]


def fingerprint(path: str | os.PathLike) -> str:
    """Say in 64 hexadecimal digits what a file holds: the same for copies, whatever their name.

    The size and three pieces of 64 KiB (beginning, middle, end) are hashed by SHA-256, so that a file of gigabytes
    takes a millisecond.

    Args:
        path: a file.
    """
    piece = 1 << 16
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        found = hashlib.sha256(str(size).encode())
        places = (0, (size - piece) // 2, size - piece) if size > 3 * piece else range(0, size, piece)
        for place in places:
            file.seek(place)
            found.update(file.read(piece))
    return found.hexdigest()


def without_repeats(files: Sequence[LabelledFile]) -> tuple[list[LabelledFile], list[Unreadable]]:
    """Leave out clips that are there twice, so that no clip counts double and none is in two splits.

    Of copies that are given to different splits the one that tests stays before the one that tunes, and that before the
    one that teaches.

    Args:
        files: with their fingerprints.

    Returns:
        The clips that stay, in their order, and the others with the reason.

    Raises:
        ValueError: if copies have different labels.
    """
    copies = defaultdict(list)
    for index, file in enumerate(files):
        copies[file.fingerprint, file.start, file.end].append(index)
    drop: dict[int, int] = {}
    for indices in copies.values():
        first = max(indices, key=lambda index: (SPLITS.index(files[index].split or "train"), -index))
        for other in indices:
            if files[other].label != files[first].label:
                raise ValueError(
                    f"{files[first].path} is {files[first].label!r}, and {files[other].path}, the same clip, is "
                    f"{files[other].label!r}; one of the labels is wrong"
                )
            if other != first:
                drop[other] = first
    kept = [file for index, file in enumerate(files) if index not in drop]
    left_out = [
        Unreadable(files[other].path, f"the same as {files[first].path}, which is kept", "repeated")
        for other, first in sorted(drop.items())
    ]
    return kept, left_out


def _in_folder(folder: Path) -> tuple[list[LabelledFile], list[Unreadable]]:
    inside = _folders(folder)
    if not inside:
        raise ValueError(
            f"{folder}: holds no folders, expected one for each class ({folder.name}/CLASS/FILE), "
            f"or train, val and test with such folders in them ({folder.name}/train/CLASS/FILE)"
        )
    as_splits = [place for place in inside if place.name.lower() in SPLIT_NAMES]
    with_classes = [place for place in as_splits if _folders(place)]
    others = [place.name for place in inside if place not in as_splits]
    if with_classes and others and not any(_files(with_classes[0], deep=False)):
        raise ValueError(
            f"{folder}: {with_classes[0].name} looks like a split, {', '.join(others[:3])} like a class; "
            "put every class folder inside train, val or test, or none"
        )
    if others or len(inside) != len(as_splits):
        return _in_class_folders(folder, None)
    if not with_classes:
        names = ", ".join(place.name for place in as_splits)
        raise ValueError(f"{folder}: {names} hold no class folders; expected {as_splits[0].name}/CLASS/FILE")
    files, left_out = [], _loose(folder)
    for place in as_splits:
        more, loose = _in_class_folders(place, SPLIT_NAMES[place.name.lower()])
        files, left_out = files + more, left_out + loose
    return files, left_out


def _in_class_folders(folder: Path, split: str | None) -> tuple[list[LabelledFile], list[Unreadable]]:
    files = []
    for place in _folders(folder):
        found = [LabelledFile(str(path), _label(place.name, str(place)), split) for path in _files(place)]
        if not found:
            raise ValueError(f"{place}: no file for the class {place.name!r}; put some in or remove the folder")
        files += found
    return files, _loose(folder)


def _loose(folder: Path) -> list[Unreadable]:
    """Files that lie beside class folders and look like clips."""
    found = [path for path in _files(folder, deep=False) if path.suffix.lower() not in NOTES]
    return [Unreadable(str(path), "lies in no class folder", "no_class") for path in found]


def _folders(folder: Path) -> list[Path]:
    return sorted(place for place in folder.iterdir() if place.is_dir() and not _hidden(place.name))


def _files(folder: Path, *, deep: bool = True) -> Iterator[Path]:
    """Files in a folder, in the order of their names, through links too but not round in circles."""

    def refuse(error: OSError) -> None:
        raise error  # os.walk would pass over a folder that may not be read

    seen = set()
    for place, inner, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(place)
        inner[:] = sorted(name for name in inner if not _hidden(name)) if deep and real not in seen else []
        if real not in seen:
            yield from (Path(place, name) for name in sorted(names) if not _hidden(name))
        seen.add(real)


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name in ("Thumbs.db", "desktop.ini")


def _from_rows(source: Path, rows: Iterable[tuple[str, dict[str, object]]]) -> list[LabelledFile]:
    files, where, splits = [], {}, {}
    for place, row in rows:
        path, label = (_text(row.get(name)) for name in ("path", "label"))
        if not path:
            raise ValueError(f"{place}: no path")
        start, end = (_second(row.get(name), f"{place}: {name}") for name in ("start", "end"))
        if start is not None and end is not None and start >= end:
            raise ValueError(f"{place}: start={start:g} is not before end={end:g}")
        split = _text(row.get("split")).lower()
        if split and split not in SPLIT_NAMES:
            raise ValueError(f"{place}: split {split!r} is none of {', '.join(SPLITS)}")
        path = path if "://" in path else os.path.join(source.parent, path)
        file = LabelledFile(path, _label(label, place), SPLIT_NAMES.get(split), start, end)
        key = (os.path.realpath(path), start, end)
        if (earlier := where.setdefault(key, (place, file)))[1].label != file.label:
            raise ValueError(f"{place}: {path} is {file.label!r}, but {earlier[1].label!r} in {earlier[0]}")
        other, split_place = splits.setdefault(key[0], (file.split, place))
        if bool(other) != bool(file.split) or other != file.split:
            raise ValueError(
                f"{place}: {path} is in {file.split or 'no split'}, but in {other or 'none'} in {split_place}; "
                "clips of one file belong in one split"
            )
        files.append(file)
    if len({bool(file.split) for file in files}) > 1:
        lacking = next(file.path for file in files if not file.split)
        raise ValueError(f"{source}: {lacking} has no split though others have; give every row one, or none")
    return files


def _csv_rows(source: Path) -> Iterator[tuple[str, dict[str, object]]]:
    header: list[str] = []
    try:
        # utf-8-sig: spreadsheets write a mark in front of the first name.
        with open(source, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for cells in reader:
                place = f"{source}, line {reader.line_num}"
                if not any(cell.strip() for cell in cells):
                    continue
                if not header:
                    header = [cell.strip().lower() for cell in cells]
                    _check_header(place, header)
                    continue
                if len(cells) != len(header):
                    raise ValueError(f"{place}: {len(cells)} cells, expected the {len(header)} of {','.join(header)}")
                yield place, dict(zip(header, cells, strict=True))
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not a text in UTF-8 ({error.reason} at byte {error.start}); save it so") from None
    except csv.Error as error:
        raise ValueError(f"{source}: not comma-separated values ({error})") from None
    if not header:
        raise ValueError(f"{source}: empty, expected a header with path,label and below it one row for each clip")


def _check_header(place: str, header: list[str]) -> None:
    if "path" not in header or "label" not in header:
        raise ValueError(
            f"{place}: {','.join(header)[:80]!r} is no header with the columns path and label "
            f"(and, if wanted, {', '.join(COLUMNS[2:])})"
        )
    if repeated := [name for name, count in Counter(header).items() if count > 1 and name in COLUMNS]:
        raise ValueError(f"{place}: the column {repeated[0]} stands there twice")


def _json_rows(source: Path) -> Iterator[tuple[str, dict[str, object]]]:
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not a text in UTF-8 ({error.reason} at byte {error.start}); save it so") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{source}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{place}: not JSON ({error})") from None
        if not isinstance(row, dict) or not {"path", "label"} <= row.keys():
            raise ValueError(f"{place}: {line[:80]!r} is no object with path and label")
        yield place, row


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _label(text: str, place: str) -> str:
    if not text or not text.isprintable():
        raise ValueError(f"{place}: {text!r} is no name for a class; give one of letters, digits and signs")
    return text


def _second(value: object, place: str) -> float | None:
    text = _text(value)
    if not text:
        return None
    try:
        second = float(text)
    except ValueError:
        second = math.nan
    if not 0 <= second < math.inf:
        raise ValueError(f"{place}={text} is not a number of seconds from 0 on")
    return second


def _check_given(files: Sequence[LabelledFile]) -> None:
    seen: dict[str, LabelledFile] = {}
    for file in files:
        first = seen.setdefault(file.fingerprint, file)
        if first.split != file.split:
            raise ValueError(
                f"{first.path} is in {first.split}, and {file.path}, of the same file, in {file.split}; "
                "clips of one file belong in one split"
            )


def _shared_out(files: Sequence[LabelledFile], shares: Sequence[int | float], seed: int) -> list[LabelledFile]:
    label_of: dict[str, str] = {}
    for file in files:
        label_of.setdefault(file.fingerprint, file.label)
    contents = defaultdict(list)
    for content, label in label_of.items():
        contents[label].append(content)
    split_of = {}
    for label, same in sorted(contents.items()):
        same.sort(key=lambda content: hashlib.sha256(f"{seed} {content}".encode()).digest())
        counts = _counts(label, len(same), shares)
        names = [name for name, count in zip(SPLITS, counts, strict=True) for _ in range(count)]
        split_of |= dict(zip(same, names, strict=True))
    return [replace(file, split=split_of[file.fingerprint]) for file in files]


def _counts(label: str, files: int, shares: Sequence[int | float]) -> tuple[int, int, int]:
    """How many of the files of a class go to each split: at least one where its share is not 0."""
    wanted = [name for name, share in zip(SPLITS, shares, strict=True) if share]
    if files < len(wanted):
        raise ValueError(
            f"class {label!r}: {files} readable file{'' if files == 1 else 's'}, expected at least {len(wanted)}, "
            f"one each for {', '.join(wanted)}; add files, or give a split no share"
        )
    validation, test = (max(1, math.floor(files * share / sum(shares) + 0.5)) if share else 0 for share in shares[1:])
    while files - validation - test < 1:  # rounding, where there are very few
        validation, test = (validation - 1, test) if validation >= test else (validation, test - 1)
    return files - validation - test, validation, test
