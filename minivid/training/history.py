"""What happened in a training, step by step: in memory, as lines of a file, as events of TensorBoard, and drawn."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from minivid.whole_files import replace_file

Row = dict[str, int | float]


@dataclass
class History:
    """What happened, as a list of rows in the order of the steps; `history.jsonl` holds one row a line.

    A training row has `step`, `loss`, `learning_rate` and `gradient_norm` (before it was cut). A validation row has
    `step` and what the objective measures, such as `validation_loss` and `validation_accuracy`. Steps are counted from
    1: a training row of step k tells of the weights before their k-th move, a validation row of those after it.
    """

    rows: list[Row] = field(default_factory=list)

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """The steps and the values of one quantity, as minivid.plots.curves takes them."""
        rows = [row for row in self.rows if name in row]
        return [float(row["step"]) for row in rows], [row[name] for row in rows]

    def best(self, metric: str) -> "Best | None":
        """The first validation after the training began that none surpasses; None before there is one.

        Args:
            metric: what is compared. The smaller is the better if its name ends in loss or error, else the larger.

        Raises:
            ValueError: if no validation has it.
        """
        looks = [row for row in self.rows if row["step"] > 0 and any(name.startswith("validation") for name in row)]
        if not looks:
            return None
        if metric not in looks[0]:
            raise ValueError(f"metric: {metric!r} is none of {', '.join(name for name in looks[0] if name != 'step')}")
        sign = -1.0 if metric.endswith(("loss", "error")) else 1.0
        worth = [-math.inf if math.isnan(look[metric]) else sign * look[metric] for look in looks]
        place = worth.index(max(worth))
        return Best(looks[place]["step"], looks[place][metric], len(looks) - 1 - place)


class Best(NamedTuple):
    """The best of all validations so far.

    Attributes:
        step: after which it was.
        value: of the metric.
        since: how many validations came after it.
    """

    step: int
    value: float
    since: int


class HistoryFiles:
    """A history's file on disk, to which each row is added when it happens, and its event files for TensorBoard.

    A row is in the hands of the operating system as soon as it is added: a killed process loses none. Event files are
    written if tensorboard is installed.

    Args:
        folder: gets history.jsonl, and tensorboard/ if there is tensorboard.
        rows: what happened before; the file is cut back to it.
    """

    def __init__(self, folder: Path, rows: Sequence[Row]):
        path = folder / HISTORY
        replace_file(path, lambda new: Path(new).write_text("".join(map(_line, rows)), encoding="utf-8"))
        self._lines = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._events = _event_writer(folder / "tensorboard", rows[-1]["step"] if rows else -1)

    def add(self, row: Row) -> None:
        """Write one more row."""
        self._lines.write(_line(row))
        self._lines.flush()
        if self._events is not None:
            for name, value in row.items():
                if name != "step":
                    self._events.add_scalar(name, value, row["step"])

    def flush(self) -> None:
        """Have the disk hold all rows."""
        os.fsync(self._lines.fileno())
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Add no more."""
        self._lines.close()
        if self._events is not None:
            self._events.close()


HISTORY = "history.jsonl"
CURVES = "curves.png"


def draw_curves(history: History, path: str | os.PathLike) -> None:
    """Draw loss, measurements and learning rate over the steps, and save the picture.

    Args:
        history: with at least one training row.
        path: the PNG file to make.
    """
    from minivid import plots  # matplotlib takes a second to load: only where something is drawn

    names = {name for row in history.rows for name in row if name.startswith("validation_")}
    others = sorted(names - {"validation_loss"})
    figure, grid = plots.new_figure(1, 3 if others else 2, width=12.0 if others else 8.0, height=3.2)
    steps, losses = history.curve("loss")
    lines = {"training batch": (steps, losses)}
    if "validation_loss" in names:
        lines["validation"] = history.curve("validation_loss")
    title = f"loss: {losses[0]:.3g} at first, {losses[-1]:.3g} in the end"
    plots.curves(lines, title=title, ylabel="loss", axes=grid[0, 0])
    rates = history.curve("learning_rate")
    plots.curves({"all groups": rates}, title=f"learning rate: at most {max(rates[1]):.2g}", ylabel="learning rate",
                 axes=grid[0, 1])  # fmt: skip
    if others:
        curves = {name.removeprefix("validation_").replace("_", " "): history.curve(name) for name in others}
        ends = ", ".join(f"{name} {values[-1]:.3g}" for name, (_, values) in curves.items())
        plots.curves(curves, title=f"validation: {ends} in the end", ylabel="measured", axes=grid[0, 2])
    plots.save_png(figure, path)


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _event_writer(folder: Path, step: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    # Events of later steps, of a training that was killed there, are not shown.
    return SummaryWriter(os.fspath(folder), purge_step=step + 1)
