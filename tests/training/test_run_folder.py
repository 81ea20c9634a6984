"""A training that is stopped or killed, at whatever moment, ends as if it had not been."""

import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from strategies import normal
from torch import nn
from tqdm import tqdm

from minivid.models.zoo import build_model
from minivid.training.checkpoint import BEST_AND_LAST, WEIGHTS, CheckpointError
from minivid.training.finetune import FinetuneConfig, finetune
from minivid.training.history import CURVES, HISTORY
from minivid.training.run_folder import STATE
from minivid.whole_files import UNFINISHED

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]

T, C, H, W, V = 2, 3, 5, 7, 4
CONFIG = FinetuneConfig(
    steps=12, batch_size=3, learning_rate=1e-2, seed=5, evaluate_every=4, save_every=4, save_total_limit=2
)


@pytest.fixture(autouse=True)
def without_picture(monkeypatch):
    """Drawing takes most of the time of a training this short, and has a test of its own; so have event files."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr("minivid.training.run_folder.draw_curves", lambda history, path: path.write_bytes(b""))


class Tiny(nn.Module):
    """Pixels to logits, with dropout and running averages, so that a step has all that a stop could spoil."""

    def __init__(self, seed=0):
        super().__init__()
        self.dropout = nn.Dropout(0.2)
        self.layer = nn.Linear(T * C * H * W, 6)
        self.norm = nn.BatchNorm1d(6)
        self.classifier = nn.Linear(6, V)
        with torch.no_grad():
            for i, weight in enumerate(self.parameters()):
                weight.copy_(0.1 * normal(seed + i, *weight.shape) + (weight.ndim == 1))

    def forward(self, clips):
        return self.classifier(self.norm(self.layer(self.dropout(clips.flatten(1)))))


def examples(count=7, seed=0):
    return [(normal(100 * seed + i, T, C, H, W), i % V) for i in range(count)]


def flip(clip, rng):
    return clip.flip(-1) if torch.rand((), generator=rng) < 0.5 else clip


def train(model, config=CONFIG, **options):
    return finetune(model, examples(), examples(5, seed=1), config, augment=flip, quiet=True, **options)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def rows_of(folder):
    return [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]


def interrupt_at(stop):
    def interrupt(done):
        if done == stop:
            raise KeyboardInterrupt

    return interrupt


def stopped(folder, stop, config=CONFIG, **options):
    with pytest.raises(KeyboardInterrupt):
        train(Tiny(), config, folder=folder, on_step=interrupt_at(stop), **options)


def saved(folder):
    return sorted(int(path.name[5:]) for path in (folder / STATE).glob("step-*"))


# ---- stopped, and going on


@pytest.mark.parametrize(
    "change",
    [{}, {"micro_batches": 3}, {"optimizer": "sgd", "micro_batches": 2}, {"gradient_checkpointing": True}]
    + [{"optimizer": "muon"}],
    ids=lambda change: ", ".join(change) or "plain",
)
def test_stopped_at_any_save_a_training_ends_in_the_same_weights(tmp_path, change):
    config = replace(CONFIG, steps=7, batch_size=6, save_every=1, evaluate_every=2, **change)
    whole = Wrapped() if config.gradient_checkpointing else Tiny()
    history = train(whole, config)
    for stop in range(1, 7):
        folder = tmp_path / str(stop)
        make = Wrapped if config.gradient_checkpointing else Tiny
        with pytest.raises(KeyboardInterrupt):
            train(make(), config, folder=folder, on_step=interrupt_at(stop))
        resumed, steps = make(seed=9), []
        again = train(resumed, config, folder=folder, on_step=steps.append)
        assert steps == list(range(stop + 1, 8))
        assert same(resumed, whole) and again.rows == history.rows == rows_of(folder)


class Wrapped(Tiny):
    """The same, with its layer as a row of blocks."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.layer = nn.Sequential(self.layer, nn.Tanh())


@pytest.mark.parametrize("stop", [3, 4, 7, 11])
def test_a_training_goes_on_from_its_last_save(tmp_path, stop):
    config = replace(CONFIG, save_total_limit=0)
    whole, resumed = Tiny(), Tiny(seed=9)
    history = train(whole)
    stopped(tmp_path, stop, config)
    assert (tmp_path / STATE).exists() == (stop >= 4)
    assert rows_of(tmp_path) == history.rows[: len(rows_of(tmp_path))] and rows_of(tmp_path)[-1]["step"] == stop
    steps = []
    # From the last save; without one, from the start, where the weights are the caller's to make again.
    again = train(resumed if stop >= 4 else Tiny(), config, folder=tmp_path, on_step=steps.append)
    assert steps[0] == stop // 4 * 4 + 1
    if stop >= 4:
        assert same(resumed, whole)
    assert again.rows == history.rows == rows_of(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CURVES, HISTORY]


def test_workers_do_not_matter_to_who_goes_on(tmp_path):
    whole, resumed = Tiny(), Tiny(seed=9)
    history = train(whole)
    stopped(tmp_path, 6, workers=2)
    again = train(resumed, folder=tmp_path)
    assert same(resumed, whole) and again.rows == history.rows


def test_a_finished_training_is_given_back_as_it_ended(tmp_path):
    whole, again, steps = Tiny(), Tiny(seed=9), []
    history = train(whole, folder=tmp_path)
    assert saved(tmp_path)[-1] == 12 and len(saved(tmp_path)) == 2
    assert train(again, folder=tmp_path, on_step=steps.append).rows == history.rows
    assert same(again, whole) and steps == [] and rows_of(tmp_path) == history.rows


def test_what_a_killed_training_left_half_written_is_swept_away(tmp_path):
    stopped(tmp_path, 5)
    (tmp_path / STATE / f"{UNFINISHED}abc").mkdir()
    (tmp_path / f"{UNFINISHED}abc.jsonl").write_text("half")
    train(Tiny(), folder=tmp_path)
    assert not list(tmp_path.rglob(f"{UNFINISHED}*"))


def test_a_training_goes_on_from_the_save_before_a_damaged_one(tmp_path, caplog):
    whole, resumed, steps = Tiny(), Tiny(seed=9), []
    history = train(whole)
    stopped(tmp_path, 9)
    file = tmp_path / STATE / "step-00000008" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        again = train(resumed, folder=tmp_path, on_step=steps.append)
    assert "checkpoint of step 8 skipped" in caplog.text and steps[0] == 5
    assert same(resumed, whole) and again.rows == history.rows == rows_of(tmp_path)
    assert saved(tmp_path)[-1] == 12
    for path in (tmp_path / STATE).glob("step-*"):
        (path / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="none of its 2 checkpoints is whole"):
        train(Tiny(), folder=tmp_path)


def test_a_training_of_another_kind_is_refused_by_its_numbers(tmp_path):
    stopped(tmp_path, 5)
    with pytest.raises(ValueError, match=rf"{STATE}: a training with learning_rate=0.01 \(now 0.5\); .*remove"):
        train(Tiny(), replace(CONFIG, learning_rate=0.5), folder=tmp_path)
    with pytest.raises(
        ValueError, match=rf"{STATE}: a training with examples=7 \(now 6\), validation_examples=5 \(now 3"
    ):
        finetune(Tiny(), examples(6), examples(3), CONFIG, folder=tmp_path, quiet=True)
    with pytest.raises(ValueError, match=rf"{STATE}.*another model"):
        train(nn.Sequential(nn.Flatten(), nn.Linear(T * C * H * W, V)), folder=tmp_path)
    # How often it is saved may change: that changes no number.
    train(Tiny(), replace(CONFIG, save_every=3, save_total_limit=4), folder=tmp_path)
    assert saved(tmp_path)[-2:] == [9, 12]


# ---- best and last


class Told:
    """An objective whose validation is told beforehand."""

    figures = ("validation_loss",)

    def __init__(self, values):
        self.values, self.calls = values, 0

    def loss(self, model, clips, labels, generators):
        return model(clips).sum(), len(labels)

    def measure(self, model, data):
        self.calls += 1
        return {"validation_loss": self.values[self.calls - 1]}


def test_the_best_is_kept_and_given_back(tmp_path):
    config = replace(CONFIG, evaluate_every=2, return_best=True, schedule="constant", warmup_ratio=0.0)
    weights = {}
    model = Tiny()

    def keep(done):
        weights[done] = {name: value.clone() for name, value in model.state_dict().items()}

    values = [1.0, 5.0, 4.0, 3.0, 4.0, 4.0, 4.0]  # before the first step, after steps 2, 4, 6, ...
    train(model, config, folder=tmp_path, objective=Told(values), on_step=keep)
    assert saved(tmp_path) == [6, 12]  # after step 6 it was saved for being the best
    assert json.loads((tmp_path / STATE / BEST_AND_LAST).read_text()) == {
        "last": "step-00000012", "best": "step-00000006",
    }  # fmt: skip
    found = model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights[6].items())
    assert not torch.equal(found["layer.weight"], weights[12]["layer.weight"])


@pytest.mark.parametrize("patience, last", [(0, 12), (1, 6), (2, 8), (3, 12)])
def test_patience_ends_the_training(tmp_path, patience, last):
    config = replace(CONFIG, evaluate_every=2, patience=patience)
    values = [0.0, 5.0, 3.0, 4.0, 3.0, 1.0, 2.0]
    objective, steps, model = Told(values), [], Tiny()
    history = train(model, config, folder=tmp_path, objective=objective, on_step=steps.append)
    assert steps[-1] == last == history.rows[-1]["step"] and saved(tmp_path)[-1] == last
    again = train(Tiny(seed=9), config, folder=tmp_path, objective=Told([]), on_step=steps.append)
    assert again.rows == history.rows and steps[-1] == last  # it stays ended
    objective.calls = 0
    assert train(Tiny(), config, objective=objective).rows == history.rows  # also without a folder


def test_what_needs_a_folder_says_so(tmp_path):
    with pytest.raises(ValueError, match="return_best=True keeps the best weights in a folder; give one"):
        train(Tiny(), replace(CONFIG, return_best=True))
    with pytest.raises(ValueError, match="return_best=True with save_every=0: nothing is saved"):
        train(Tiny(), replace(CONFIG, return_best=True, save_every=0), folder=tmp_path)
    train(Tiny(), replace(CONFIG, save_every=0), folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CURVES, HISTORY]


def test_a_save_that_fails_ends_the_training_and_going_on_is_possible(tmp_path, monkeypatch):
    whole, resumed = Tiny(), Tiny(seed=9)
    train(whole)
    rename = os.replace

    def refuse(source, target):
        if str(target).endswith("step-00000008"):
            raise PermissionError(13, "Permission denied")
        return rename(source, target)

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="step-00000008: the checkpoint could not be saved"),
    ):
        patch.setattr(os, "replace", refuse)
        train(Tiny(), folder=tmp_path)
    assert saved(tmp_path) == [4]
    train(resumed, folder=tmp_path)
    assert same(resumed, whole)


# ---- killed


def in_a_process(folder, make, config, workers):
    """A training in a process of its own, as it can be killed."""

    def work():
        # The lock that a fork inherits is shared: a training killed while it holds it would stop all later ones.
        tqdm.set_lock(threading.RLock())
        torch.set_num_threads(1)
        model = make()
        data = [clip for clip in examples_for(model, 11)]
        finetune(model, data, data[:3], config, augment=flip, folder=folder, workers=workers, quiet=True)
        torch.save(model.state_dict(), folder / "end.pt")
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def exit_status(process):
    """Of a training that is left alone: 0, or None where it did not end in two minutes."""
    process.join(120)
    status = process.exitcode
    process.kill()
    return status


def examples_for(model, count):
    shape = model.example_inputs()[0].shape[1:] if hasattr(model, "example_inputs") else (T, C, H, W)
    return [(normal(i, *shape), i % V) for i in range(count)]


def killed_and_resumed(folder, make, config, *, kills, workers, dice):
    """Kill a training at random moments, let it go on each time; it must end as one that was left alone."""
    (folder / "whole").mkdir(parents=True)
    start = time.monotonic()
    assert exit_status(in_a_process(folder / "whole", make, config, workers)) == 0
    seconds = time.monotonic() - start
    (folder / "killed").mkdir()
    hits = 0
    for _ in range(kills):
        process = in_a_process(folder / "killed", make, config, workers)
        process.join(dice.uniform(0.0, 1.1 * seconds / kills))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            hits += 1
        process.join()
    assert exit_status(in_a_process(folder / "killed", make, config, workers)) == 0
    one, other = (torch.load(folder / name / "end.pt", weights_only=True) for name in ("whole", "killed"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert (folder / "whole" / HISTORY).read_bytes() == (folder / "killed" / HISTORY).read_bytes()
    assert not list((folder / "killed").rglob(f"{UNFINISHED}*"))
    return hits


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_killed_at_any_moment_a_training_ends_in_the_same_weights(tmp_path, optimizer):
    config = replace(CONFIG, steps=30, save_every=3, evaluate_every=5, batch_size=6, micro_batches=2)
    config = replace(config, optimizer=optimizer)
    hits = killed_and_resumed(tmp_path, Tiny, config, kills=4, workers=2, dice=random.Random(optimizer))
    assert hits >= 1


FAMILIES = {
    "vivit": {"image_size": 8, "num_frames": 4, "tubelet_size": (2, 4, 4), "hidden_size": 8, "num_hidden_layers": 2,
              "num_attention_heads": 2, "intermediate_size": 8},
    "conv3d_classifier": {"image_size": 8, "num_frames": 4, "hidden_sizes": (4, 6), "depths": (1, 1)},
    "conv_lstm": {"image_size": 8, "num_frames": 4, "conv_sizes": (4, 6), "hidden_size": 8},
}  # fmt: skip


@pytest.mark.benchmark
@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_twenty_kills_of_each_family(tmp_path, family, optimizer):
    """Ten kills with each optimiser, so twenty of each family, two or three of a training, with workers and dropout."""

    def make():
        torch.manual_seed(0)
        return build_model(family, FAMILIES[family] | {"num_labels": V, "hidden_dropout_prob": 0.1})

    config = replace(CONFIG, steps=60, save_every=7, evaluate_every=10, batch_size=6, micro_batches=2)
    config = replace(config, optimizer=optimizer)
    dice, hits, trainings = random.Random(family + optimizer), 0, 0
    while hits < 10:
        hits += killed_and_resumed(tmp_path / str(trainings), make, config, kills=3, workers=2, dice=dice)
        trainings += 1
    print(f"{family}, {optimizer}: {hits} kills in {trainings} trainings, the same weights and losses each time")


@pytest.mark.benchmark
def test_the_workers_of_a_killed_training_are_gone_soon(tmp_path):
    """A worker finds its parent gone within the five seconds in which torch looks."""
    process = in_a_process(tmp_path, Tiny, replace(CONFIG, steps=10_000, evaluate_every=0, save_every=0), 2)
    deadline, workers = time.monotonic() + 60, []
    while len(workers) < 2:
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.5)
        workers = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    deadline = time.monotonic() + 15
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alive(pid):
    try:
        return status(pid)[0] != "Z"
    except FileNotFoundError:
        return False


def status(pid):
    """The fields behind the name: state, parent, and so on."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()


def children(parent):
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):  # it may have ended since
            if status(pid)[1] == str(parent):
                found.append(int(pid))
    return found
