"""The folder that a command trains into: whether there is room, and what the training in it was asked for."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from minivid.training.checkpoint import CONFIG, write_text
from minivid.training.processes import is_first, wait_for_all
from minivid.training.run_folder import STATE

RUN = "run.json"
"""What a training was asked for; there from its first moment on."""


def make_room(
    folder: Path,
    made: Sequence[str],
    *,
    source: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> bool:
    """Find out whether a training may begin, or go on, in a folder.

    Args:
        folder: it need not exist.
        made: names of the files and folders that a training leaves there.
        source: the folder of a model that the training begins with, which must be another one.
        resume: an unfinished training must be there.
        overwrite: remove an earlier training, finished or not.

    Returns:
        Whether an unfinished training is there, to go on with.

    Raises:
        ValueError: if the folder holds something that may not be there, or not what must be there.
    """
    ours, finished = (folder / RUN).exists(), (folder / CONFIG).exists()
    if source is not None and os.path.realpath(source) == os.path.realpath(folder):
        raise ValueError(f"{folder}: the training begins with the model there; give another output folder")
    if overwrite and resume:
        raise ValueError("resume and overwrite: one keeps what the other removes; give one of them")
    if finished and not ours:
        raise ValueError(f"{folder}: holds a model that was not made by `minivid finetune`; give another output folder")
    if overwrite and ours:
        for name in made if is_first() else ():
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            (folder / name).unlink(missing_ok=True)
        return False
    if finished:
        raise ValueError(
            f"{folder}: holds a finished training; give another output folder, or --overwrite to train anew"
        )
    unfinished = ours and any((folder / STATE).glob("step-*"))  # one that was never saved has nothing to go on from
    if resume and not unfinished:
        raise ValueError(f"{folder}: holds no unfinished training to resume")
    return unfinished


def begin(
    folder: Path,
    about: Mapping[str, object],
    *,
    unfinished: bool,
    differences: Callable[[], Sequence[str]] = tuple,
    record: Callable[[], object] = lambda: None,
) -> None:
    """Write down what a training is asked for; if one is to go on, make sure that it is asked for the same.

    Args:
        folder: of the training; it exists.
        about: what must be the same for a training to go on, as JSON gives it back.
        unfinished: whether one is to go on.
        differences: what else is not the same, in words; asked if all of `about` is.
        record: writes down what else there is, before `about`.

    Raises:
        ValueError: if something differs.
    """
    if unfinished:
        try:
            before = json.loads((folder / RUN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = {}
        differ = [f"{name} {before.get(name)} (now {about[name]})" for name in about if before.get(name) != about[name]]
        if differ := differ or list(differences()):
            raise ValueError(
                f"{folder}: an unfinished training with {'; '.join(differ)}; ask for the same, "
                "give another output folder, or --overwrite to train anew"
            )
    wait_for_all()
    if is_first():
        record()
        write_text(folder / RUN, json.dumps(about, indent=2) + "\n")


def write_lines(path: Path, rows: Iterable[Mapping]) -> None:
    """Write a JSON object a line; the file appears when it is complete."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def in_short(numbers: Mapping[str, object]) -> str:
    """Names and values in one line: learning_rate=0.001 betas=(0.9,0.999)."""
    return " ".join(f"{name}={_short(value)}" for name, value in numbers.items())


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "").replace("'", "")
