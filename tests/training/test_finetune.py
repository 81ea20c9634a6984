import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds
from torch import nn

from minivid.training.cross_entropy import cross_entropy
from minivid.training.finetune import HISTORY, STATE, FinetuneConfig, clip_gradients, evaluate, finetune

T, C, H, W, V = 2, 3, 5, 7, 4
CONFIG = FinetuneConfig(steps=12, batch_size=3, learning_rate=1e-2, seed=5, evaluate_every=4, save_every=4)


class Tiny(nn.Module):
    """Pixels to logits by one layer, with dropout, so that a step has something random in it."""

    def __init__(self, seed=0, dropout=0.2):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.layer = nn.Linear(T * C * H * W, V)
        with torch.no_grad():
            self.layer.weight.copy_(0.1 * normal(seed, V, T * C * H * W))
            self.layer.bias.zero_()

    def forward(self, clips):
        return self.layer(self.dropout(clips.flatten(1)))


def examples(count=7, seed=0):
    return [(normal(100 * seed + i, T, C, H, W), i % V) for i in range(count)]


def flip(clip, rng):
    return clip.flip(-1) if torch.rand((), generator=rng) < 0.5 else clip


def train(model, config=CONFIG, **options):
    return finetune(model, examples(), examples(5, seed=1), config, augment=flip, quiet=True, **options)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_one_batch_is_learnt_by_heart():
    model = Tiny(dropout=0.0)
    history = finetune(model, examples(), examples(), replace(CONFIG, steps=60, weight_decay=0.0), quiet=True)
    found = evaluate(model, examples())
    assert found.accuracy == 1.0 and found.loss < 0.05
    steps, losses = history.curve("loss")
    assert steps == list(range(1, 61)) and losses[0] > 1.0 > losses[-1]


def test_the_same_seed_gives_the_same_weights_bit_for_bit():
    one, two, other = Tiny(), Tiny(), Tiny()
    train(one)
    torch.rand(3)  # what the caller drew in between does not matter
    train(two)
    train(other, replace(CONFIG, seed=6))
    assert same(one, two) and not same(one, other)


def test_the_callers_random_numbers_are_left_alone():
    model = Tiny()
    torch.manual_seed(1)
    want = torch.rand(3)
    torch.manual_seed(1)
    train(model)
    assert torch.equal(torch.rand(3), want)


@pytest.mark.parametrize("stop", [3, 4, 7, 11])
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, stop):
    whole, stopped, resumed = Tiny(), Tiny(), Tiny(seed=9)
    history = train(whole)

    def interrupt(done):
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, folder=tmp_path, on_step=interrupt)
    assert (tmp_path / STATE).exists() == (stop >= 4) and not (tmp_path / HISTORY).exists()
    steps = []
    # From the last save; without one, from the start, where the weights are the caller's to make again.
    again = train(resumed if stop >= 4 else Tiny(), folder=tmp_path, on_step=steps.append)
    assert steps[0] == stop // 4 * 4 + 1
    if stop >= 4:
        assert same(resumed, whole)
    assert again.rows == history.rows
    assert [json.loads(line) for line in (tmp_path / HISTORY).read_text().splitlines()] == history.rows
    assert not (tmp_path / STATE).exists() and [path.name for path in tmp_path.iterdir()] == [HISTORY]


def test_an_unfinished_training_of_another_kind_is_refused_by_its_numbers(tmp_path):
    def interrupt(done):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Tiny(), folder=tmp_path, on_step=interrupt)
    with pytest.raises(ValueError, match=rf"{STATE}.*learning_rate=0.01 \(now 0.5\).*remove"):
        train(Tiny(), replace(CONFIG, learning_rate=0.5), folder=tmp_path)
    with pytest.raises(ValueError, match=rf"{STATE}.*another model"):
        finetune(nn.Sequential(nn.Flatten(), nn.Linear(T * C * H * W, V)), examples(), examples(), CONFIG,
                 folder=tmp_path, quiet=True)  # fmt: skip


@given(limit=st.floats(0.01, 20.0), seed=seeds)
def test_gradients_are_shortened_together_and_never_turned(limit, seed):
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2, bias=False))
    for i, weight in enumerate(model.parameters()):
        weight.grad = normal(seed + i, *weight.shape)
    before = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    length = clip_gradients(model, limit)
    after = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    assert length == pytest.approx(before.norm().item(), rel=1e-5)
    torch.testing.assert_close(after, before * min(1.0, limit / length))
    for weight, part in zip(model.parameters(), before.split([15, 5, 10]), strict=True):
        weight.grad = part.view_as(weight).clone()
    nn.utils.clip_grad_norm_(model.parameters(), limit)  # divides by length + 1e-6
    theirs = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    torch.testing.assert_close(after, theirs, atol=1e-5, rtol=1e-4)


def test_the_loop_hands_the_optimiser_shortened_gradients(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "minivid.training.finetune.AdamW.step",
        lambda self: seen.append(sum(w.grad.square().sum() for g in self.param_groups for w in g["params"]) ** 0.5),
    )
    history = train(Tiny(), replace(CONFIG, max_grad_norm=0.05))
    assert len(seen) == CONFIG.steps
    # Every gradient of this model is longer than the limit, as the history tells; float32 gives the limit to 1e-5.
    assert min(history.curve("gradient_norm")[1]) > 0.05
    assert all(length.item() == pytest.approx(0.05, rel=1e-4) for length in seen)
    seen.clear()
    history = train(Tiny(), replace(CONFIG, max_grad_norm=0.0))
    assert [length.item() for length in seen] == pytest.approx(history.curve("gradient_norm")[1], rel=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_label_smoothing_reaches_the_loss(smoothing):
    model = Tiny(dropout=0.0)
    data = examples(3)
    clips, labels = torch.stack([clip for clip, _ in data]), torch.tensor([label for _, label in data])
    want = cross_entropy(model(clips), labels, label_smoothing=smoothing).item()
    history = finetune(model, data, data, replace(CONFIG, steps=1, label_smoothing=smoothing), quiet=True)
    assert history.curve("loss")[1][0] == pytest.approx(want, rel=1e-5)


def test_the_learning_rate_rises_then_falls():
    rates = train(Tiny(), replace(CONFIG, steps=20, warmup_ratio=0.25)).curve("learning_rate")[1]
    assert rates[0] == 0.0 and rates.index(max(rates)) == 5 and max(rates) == pytest.approx(1e-2)
    assert rates[5:] == sorted(rates[5:], reverse=True) and rates[-1] < 1e-3


def test_augmentation_is_for_training_clips_only():
    seen = []

    def mark(clip, rng):
        seen.append(1)
        return clip

    finetune(Tiny(), examples(), examples(5, seed=1), CONFIG, augment=mark, quiet=True)
    assert len(seen) == CONFIG.steps * CONFIG.batch_size


def test_validation_is_measured_before_between_and_after():
    history = train(Tiny())
    assert history.curve("validation_accuracy")[0] == [0, 4, 8, 12]
    assert train(Tiny(), replace(CONFIG, evaluate_every=0)).curve("validation_loss")[0] == [12]
    assert train(Tiny(), replace(CONFIG, evaluate_every=5)).curve("validation_loss")[0] == [0, 5, 10, 12]


@pytest.mark.parametrize("mode", [True, False])
def test_the_model_keeps_its_mode(mode):
    model = Tiny().train(mode)
    evaluate(model, examples())
    assert model.training is mode
    train(model)
    assert model.training is mode
    with pytest.raises(RuntimeError):
        evaluate(model, [(torch.zeros(1, 1, 1, 1), 0)])
    assert model.training is mode


def test_evaluation_is_without_dropout_and_training_with_it():
    model = Tiny(dropout=0.9).train()
    assert torch.equal(evaluate(model, examples()).probabilities, evaluate(model, examples()).probabilities)
    modes = []
    model.dropout.register_forward_hook(lambda layer, *_: modes.append(layer.training))
    finetune(model, examples(), examples(), replace(CONFIG, steps=2, evaluate_every=1), quiet=True)
    assert modes == [False, True, False, True, False]


@given(batch_size=st.integers(1, 9))
def test_the_batch_size_does_not_change_the_answers(batch_size):
    data, model = examples(7), Tiny()
    found, want = evaluate(model, data, batch_size=batch_size), evaluate(model, data, batch_size=7)
    torch.testing.assert_close(found.probabilities, want.probabilities)
    assert found.labels.tolist() == [label for _, label in data]
    assert found.loss == pytest.approx(want.loss, rel=1e-5)


def test_metrics_count_what_was_answered():
    model = Tiny()
    with torch.no_grad():
        model.layer.weight.zero_()
        model.layer.bias.copy_(torch.tensor([0.0, 2.0, 0.0, 0.0]))  # always class 1
    found = evaluate(model, examples(7))  # labels 0 1 2 3 0 1 2
    assert found.accuracy == pytest.approx(2 / 7)
    assert found.confusion.tolist() == [[0, 2, 0, 0], [0, 2, 0, 0], [0, 2, 0, 0], [0, 1, 0, 0]]
    assert found.correct.tolist() == [False, True, False, False, False, True, False]


def test_a_loss_that_is_no_number_stops_with_the_step():
    broken = [(torch.full((T, C, H, W), float("nan")), 0)]
    with pytest.raises(ValueError, match="loss of step 1 is nan.*learning_rate"):
        finetune(Tiny(), broken, examples(), replace(CONFIG, evaluate_every=0), quiet=True)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"steps": 0}, "steps=0.*at least 1"),
        ({"batch_size": -1}, "batch_size=-1.*at least 1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0.*above 0"),
        ({"label_smoothing": 1.5}, "label_smoothing=1.5.*0 to 1"),
        ({"max_grad_norm": -1.0}, "max_grad_norm=-1.0.*below 0"),
    ],
)
def test_the_configuration_checks_its_numbers(change, words):
    with pytest.raises(ValueError, match=words):
        replace(CONFIG, **change)


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="0 clips.*at least 1"):
        evaluate(Tiny(), [])
