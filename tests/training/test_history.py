import json
import sys
import types

import pytest

from minivid.training.history import Best, History, HistoryFiles, draw_curves


def row(step, **values):
    return {"step": step, **values}


ROWS = [
    row(0, validation_loss=2.0, validation_accuracy=0.1),
    row(1, loss=1.5, learning_rate=0.0),
    row(2, loss=1.25, learning_rate=0.1),
    row(2, validation_loss=1.0, validation_accuracy=0.5),
    row(3, loss=0.1 + 0.2, learning_rate=0.05),
    row(3, validation_loss=1.5, validation_accuracy=0.75),
    row(4, validation_loss=1.0, validation_accuracy=0.75),
]


def test_a_curve_has_the_rows_that_have_its_name():
    history = History(ROWS)
    assert history.curve("loss") == ([1.0, 2.0, 3.0], [1.5, 1.25, 0.1 + 0.2])
    assert history.curve("validation_loss") == ([0.0, 2.0, 3.0, 4.0], [2.0, 1.0, 1.5, 1.0])
    assert history.curve("nothing") == ([], [])


def test_the_best_is_the_smallest_loss_and_the_largest_accuracy_and_the_first_of_equals():
    assert History(ROWS).best("validation_loss") == Best(2, 1.0, 2)
    assert History(ROWS).best("validation_accuracy") == Best(3, 0.75, 1)
    errors = [row(1, validation_absolute_error=2.0), row(2, validation_absolute_error=3.0)]
    assert History(errors).best("validation_absolute_error") == Best(1, 2.0, 1)


def test_what_was_before_the_first_step_is_not_the_best_of_the_training():
    assert History(ROWS[:3]).best("validation_loss") is None
    assert History([row(0, validation_loss=0.0), row(1, validation_loss=1.0)]).best("validation_loss") == Best(
        1, 1.0, 0
    )


def test_no_number_is_never_the_best():
    rows = [row(1, validation_loss=float("nan")), row(2, validation_loss=3.0)]
    assert History(rows).best("validation_loss") == Best(2, 3.0, 0)
    rows = [row(1, validation_accuracy=float("nan")), row(2, validation_accuracy=0.0)]
    assert History(rows).best("validation_accuracy") == Best(2, 0.0, 0)


def test_a_metric_that_is_not_measured_is_named_with_those_that_are():
    with pytest.raises(ValueError, match="metric: 'top5' is none of validation_loss, validation_accuracy"):
        History(ROWS).best("top5")


def test_a_row_is_in_the_file_as_soon_as_it_is_added(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as where it is not installed
    files = HistoryFiles(tmp_path, [])
    for number, row in enumerate(ROWS, 1):
        files.add(row)
        lines = (tmp_path / "history.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == ROWS[:number]  # every bit of 0.1 + 0.2 too
    files.flush()
    files.close()
    again = HistoryFiles(tmp_path, ROWS[:3])  # what came after the last save is cut off
    again.add(ROWS[5])
    again.close()
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [*ROWS[:3], ROWS[5]]
    assert [path.name for path in tmp_path.iterdir()] == ["history.jsonl"]


class Writer:
    """Stands for tensorboard's writer, which is no dependency: notes what it is told."""

    made = []

    def __init__(self, folder, purge_step):
        self.said = [(folder, purge_step)]
        Writer.made.append(self)

    def add_scalar(self, name, value, step):
        self.said.append((name, value, step))

    def flush(self):
        self.said.append("flush")

    def close(self):
        self.said.append("close")


def test_events_are_written_where_there_is_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    Writer.made.clear()
    for rows, purge in ([], 0), (ROWS[:3], 3):
        files = HistoryFiles(tmp_path, rows)
        files.add(ROWS[4])
        files.flush()
        files.close()
        want = [("loss", 0.1 + 0.2, 3), ("learning_rate", 0.05, 3), "flush", "close"]
        assert Writer.made[-1].said == [(str(tmp_path / "tensorboard"), purge), *want]


def test_event_files_can_be_read_back(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    files = HistoryFiles(tmp_path, [])
    for row in ROWS:
        files.add(row)
    files.close()
    again = HistoryFiles(tmp_path, ROWS[:3])
    again.add({"step": 3, "loss": 0.5})
    again.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.5), (2, 1.25), (3, 0.5)]


@pytest.mark.parametrize("rows", [ROWS, ROWS[1:3], [ROWS[1], row(1, validation_loss=1.0)]])
def test_the_curves_are_a_picture(tmp_path, rows):
    draw_curves(History(rows), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_the_titles_of_the_curves_say_what_was_found(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("minivid.plots.save_png", lambda figure, path: drawn.append(figure))
    draw_curves(History(ROWS), tmp_path / "curves.png")
    (figure,) = drawn
    assert [axes.get_title() for axes in figure.axes] == [
        "loss: 1.5 at first, 0.3 in the end",
        "learning rate: at most 0.1",
        "validation: accuracy 0.75 in the end",
    ]
    assert [axes.get_xlabel() for axes in figure.axes] == ["step"] * 3
    assert [line.get_label() for line in figure.axes[0].lines] == ["training batch", "validation"]
