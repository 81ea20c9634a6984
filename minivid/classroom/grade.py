"""`minivid grade NAME FOLDER`: the laws put to every answer in a folder, several at a time, as a table."""

import csv
import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from minivid.classroom.catalogue import find
from minivid.classroom.prose import clean, terminal_width

# No answer takes longer than this, in seconds: its own limits end it before, unless it breaks its checker.
LONGEST = 120.0
COLUMNS = ("name", "held", "laws", "broken", "why", "mistake")


def grade(name: str, folder: str | Path, *, jobs: int | None = None, quiet: bool = False) -> list[dict]:
    """Put the laws of a name to every answer in a folder.

    Each answer is checked by a process of its own, so that one that ends its checker costs nobody else a mark.

    Args:
        name: a public name, as in "attend", or a module's: then a file owes every name of it.
        folder: holds one Python file a student; the file's name is the student's.
        jobs: how many are checked at a time; as many as there are processors by default.
        quiet: no progress bar.

    Returns:
        One row an answer, by name: `name`; `held` of so many `laws`; the first `broken` law and `why`; how the known
        `mistake` is put right, if it is one. The last three are None where every law holds.

    Raises:
        ValueError: if there are no laws for the name, no such folder, or no Python file in it.
    """
    try:
        find(name)
    except LookupError as error:
        raise ValueError(error.args[0]) from None
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give one with one Python file a student")
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs {jobs}: give at least 1")
    files = sorted(path for path in folder.glob("*.py") if path.is_file() and not path.name.startswith((".", "_")))
    if not files:
        raise ValueError(f"{folder}: holds no Python file; one file a student is expected, as in ada.py")
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        rows = pool.map(lambda path: graded(name, path), files)
        return list(tqdm(rows, total=len(files), desc="answers", unit="", disable=quiet or None, leave=False))


def graded(name: str, path: Path) -> dict:
    """The row of one answer."""
    command = [sys.executable, "-P", "-m", "minivid", "check", name, str(path.resolve()), "--json"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=LONGEST, cwd=path.parent
        )
        found = json.loads(done.stdout)
        return {"name": path.stem} | {column: found[column] for column in COLUMNS[1:]}
    except subprocess.TimeoutExpired:
        why = f"no verdict after {LONGEST:.0f} s"
    except (ValueError, KeyError, TypeError):
        said = clean(done.stderr.strip().splitlines()[-1], 300) if done.stderr.strip() else "it said nothing"
        why = f"no verdict: the checker ended with status {done.returncode}; {said}"
    return {"name": path.stem, "held": 0, "laws": None, "broken": None, "why": why, "mistake": None}


def table(rows: list[dict], width: int | None = None) -> str:
    """The rows for a terminal, each cut to one line."""
    width = width or terminal_width()
    names = max(len("name"), *(min(24, len(row["name"])) for row in rows))
    room = width - names - len("  100 of 100  ")
    lines = [f"{'name':<{names}}  {'laws hold':<11} first law that does not; how it is put right"]
    for row in rows:
        held = f"{row['held']} of {row['laws']}" if row["laws"] else "none"
        words = "; ".join(clean(words, 1000) for words in (row["broken"] or row["why"], row["mistake"]) if words)
        lines.append(f"{clean(row['name'], names):<{names}}  {held:<11} {clean(words, room)}".rstrip())
    right = sum(row["held"] == row["laws"] for row in rows)
    return "\n".join([*lines, "", f"{right} of {len(rows)} answers are right"])


def as_csv(rows: list[dict]) -> str:
    """The rows as comma-separated values under a line of names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    # A spreadsheet takes a cell that begins so for a formula, and runs it: a file's name and an answer's words may.
    for row in rows:
        cells = {key: "" if value is None else value for key, value in row.items()}
        writer.writerow(
            {key: f"'{cell}" if str(cell).startswith(("=", "+", "-", "@")) else cell for key, cell in cells.items()}
        )
    return text.getvalue()
