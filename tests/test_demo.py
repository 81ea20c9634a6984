import json
import re
import struct
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from minivid import demo
from minivid.classify import Classifier
from minivid.data.moving_shapes import MOTIONS, OPPOSITE, read_labels
from minivid.training.finetune import Metrics, clip_gradients

FEW = {"train": 8, "validation": 3, "test": 10}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, demo.run(folder, seed=3, steps=3, clips=FEW, quiet=True)


class Page(HTMLParser):
    """What a browser would fetch or follow, and the pictures."""

    def __init__(self, text):
        super().__init__()
        self.links, self.pictures = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "img":
            self.pictures.append(values)
        self.links += [values[name] for name in ("href", "src", "srcset", "action", "data") if name in values]


def test_leaves_what_it_promises(finished):
    folder, metrics = finished
    names = {path.name for path in folder.iterdir()}
    assert names - {"tensorboard"} == {
        "checksums.json", "clips", "config.json", "curves.png", "history.jsonl", "metrics.json", "model.safetensors",
        "pictures", "report.html"
    }  # fmt: skip
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    for split, count in FEW.items():
        assert len(read_labels(folder / "clips" / split)) == count
        assert len(list((folder / "clips" / split).glob("*.mp4"))) == count
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]
    assert set(metrics["controls"]) == {"frozen", "backwards", "shuffled"}
    assert sum(map(sum, metrics["confusion"]["matrix"])) == FEW["test"]


def test_the_report_needs_nothing_but_itself(finished):
    folder, _ = finished
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.pictures) >= 8
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert all(picture["alt"] for picture in page.pictures)
    prose = re.sub(r'"data:[^"]*"', "", text)
    assert "http" not in prose and "url(" not in prose and "<script" not in prose and "$" not in prose


def test_every_picture_of_the_report_is_a_file_too(finished):
    folder, _ = finished
    files = list((folder / "pictures").iterdir())
    assert len(files) == len(Page((folder / "report.html").read_text()).pictures)
    for file in files:
        start = file.read_bytes()[:24]
        width, height = struct.unpack(">II", start[16:])
        assert start[:8] == b"\x89PNG\r\n\x1a\n" and min(width, height) > 100


@pytest.fixture
def without_report(monkeypatch):
    """Drawing takes most of the time of a run this short, and has tests of its own."""
    monkeypatch.setattr(demo._Report, "write", lambda self: None)


def test_the_seed_decides_the_weights_and_the_answers(finished, without_report, tmp_path):
    folder, metrics = finished
    again = demo.run(tmp_path, seed=3, steps=3, clips=FEW, quiet=True)
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    different = {name for name in metrics if metrics[name] != again[name]}
    assert different <= {"seconds"}


def test_ctrl_c_says_how_to_go_on_and_going_on_ends_in_the_same_weights(without_report, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "TRAINING", replace(demo.TRAINING, save_every=2))
    with monkeypatch.context() as patch:
        patch.setattr("minivid.training.finetune.clip_gradients", _stop_at(3))
        with pytest.raises(KeyboardInterrupt):
            demo.run(tmp_path, seed=3, steps=4, clips=FEW)
    said = capsys.readouterr()
    assert said.out == "" and re.search(
        r"after step 2 of 4.*same command again.*last save, at most 2 steps back", said.err, re.DOTALL
    )
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("minivid.demo.load_clips", _stop_at(1))
        demo.run(tmp_path, seed=3, steps=4, clips=FEW)
    assert re.search(r"before the training.*last save", capsys.readouterr().err, re.DOTALL)
    with pytest.raises(FileNotFoundError, match="not finished.*minivid demo"):
        Classifier(tmp_path)
    demo.run(tmp_path, seed=3, steps=4, clips=FEW, quiet=True)
    demo.run(tmp_path / "whole", seed=3, steps=4, clips=FEW, quiet=True)
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == whole


def _stop_at(step):
    """A clip_gradients, or any other step of the way, at whose n-th call Ctrl-C is pressed."""
    calls = []

    def press(*arguments, **_):
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return clip_gradients(*arguments)

    return press


def test_the_number_of_threads_is_given_back(tmp_path):
    before = torch.get_num_threads()
    (tmp_path / "file").write_text("")
    try:
        torch.set_num_threads(2)
        with pytest.raises(NotADirectoryError):
            demo.run(tmp_path / "file", clips=FEW, quiet=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_prints_a_table_and_the_next_commands(finished):
    folder, metrics = finished
    labels = read_labels(folder / "clips" / "test")
    text = demo._summary(folder, metrics, [demo._Control(**c) for c in _fields(metrics)], labels)
    assert "held-out clips" in text and f"{metrics['accuracy']:.1%}" in text
    assert f"minivid predict {folder / 'clips' / 'test' / '00000.mp4'} --checkpoint {folder}" in text
    assert max(map(len, text.splitlines())) < 120 + len(str(folder)) * 2


def _fields(metrics):
    return [{k: v for k, v in c.items() if k != "as_expected"} for c in metrics["controls"].values()]


def answers(labels, given):
    probabilities = torch.nn.functional.one_hot(torch.tensor(given), 4).float()
    return Metrics(0.0, torch.tensor(labels), probabilities)


def test_the_controls_change_the_order_of_the_frames_and_nothing_else():
    test = [(torch.arange(8.0).view(8, 1, 1, 1) + 10 * i, i) for i in range(5)]
    changed = demo._changed(test, seed=0)
    for name, clips in changed.items():
        assert [label for _, label in clips] == list(range(5))
        orders = [(frames.flatten() - 10 * i).tolist() for i, (frames, _) in enumerate(clips)]
        if name == "as drawn":
            assert orders == [[0, 1, 2, 3, 4, 5, 6, 7]] * 5
        elif name == "backwards":
            assert orders == [[7, 6, 5, 4, 3, 2, 1, 0]] * 5
        elif name == "frozen":
            assert orders == [[0] * 8] * 5
        else:
            assert all(sorted(order) == list(range(8)) for order in orders) and len(set(map(tuple, orders))) == 5


def test_a_model_that_sees_motion_passes_the_controls_and_one_that_does_not_fails_them():
    motions = list(MOTIONS)
    labels = [i % 4 for i in range(240)]
    opposite = [motions.index(OPPOSITE[motions[label]]) for label in labels]
    guesses = torch.randint(0, 4, (240,), generator=torch.Generator().manual_seed(0)).tolist()
    sees = {"as drawn": labels, "frozen": guesses, "backwards": opposite, "shuffled": guesses}
    found = {name: answers(labels, given) for name, given in sees.items()}
    assert all(control.as_expected for control in demo._controls(found))
    # One that finds the answer in single frames answers the same in whatever order they come.
    peeks = {name: answers(labels, labels) for name in sees}
    assert not any(control.as_expected for control in demo._controls(peeks))
