"""The loop: what a training must do, whatever model it trains, and the same as a plain loop of torch does."""

import copy
import math
import re
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds, whole
from torch import nn
from torch.nn import functional as F

from minivid.classroom.evidence import agree, holds
from minivid.data.batches import Batch, TrainingBatches, batch_indices
from minivid.training.cross_entropy import cross_entropy
from minivid.training.finetune import (
    FinetuneConfig,
    clip_gradients,
    evaluate,
    finetune,
    gather_gradients,
    make_optimizer,
)
from minivid.training.muon import Muon
from minivid.training.objectives import Classification, objective_of
from minivid.training.optimizer import AdamW
from minivid.training.what_trains import what_trains

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]

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


def test_nothing_to_evaluate_is_an_error():
    with pytest.raises(ValueError, match="0 clips.*at least 1"):
        evaluate(Tiny(), [])


# ---- accumulation, workers, partial training


def gradients(model, objective, config, batches, step=3):
    parts = [batches[step, part] for part in range(batches.parts)]
    loss = gather_gradients(model, objective, parts, config)
    return loss, [weight.grad.clone() for weight in model.parameters()]


LABELS = {
    "classification": lambda i: i % V,
    "classification of some": lambda i: i % V if i % 3 else -100,  # two of three labels count, unevenly over the parts
    "multi-label": lambda i: tuple(float(i >> bit & 1) for bit in range(V)),
    "regression": lambda i: tuple(0.5 * i - bit for bit in range(V)),
}


@given(kind=st.sampled_from(sorted(LABELS)), batch_size=st.integers(2, 9), parts=st.integers(2, 9), seed=seeds)
def test_many_small_batches_have_the_gradient_of_one_large(kind, batch_size, parts, seed):
    data = [(clip.double(), LABELS[kind](i)) for i, (clip, _) in enumerate(examples(7))]
    objective = objective_of(kind.removesuffix(" of some"))
    model = Tiny(dropout=0.0).double()

    def summed(parts):
        config = replace(CONFIG, batch_size=batch_size, micro_batches=parts, seed=seed)
        batches = TrainingBatches(data, batch_size, seed, parts, augment=flip)
        return gradients(model, objective, config, batches)

    (loss, want), (again, got) = summed(1), summed(min(parts, batch_size))
    # The losses are float32 (2^-24 = 6e-8 a sum); a wrong weight of a part shows in the first digit.
    assert again == pytest.approx(loss, rel=1e-6)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_part_with_few_labels_weighs_little():
    # Of four clips, one in the first half and two in the second have a label: by hand, the mean over the three.
    data = [(clip, label) for (clip, _), label in zip(examples(4), (0, -100, 2, 3), strict=True)]
    model, config = Tiny(dropout=0.0), replace(CONFIG, batch_size=4, micro_batches=2)
    batches = TrainingBatches(data, 4, CONFIG.seed, 2)
    loss, found = gradients(model, Classification(), config, batches, step=0)
    chosen = [data[i] for i in batch_indices(4, 4, step=0, seed=CONFIG.seed)]
    losses = [F.cross_entropy(model(clip[None]), torch.tensor([label])).item() for clip, label in chosen if label >= 0]
    assert len(losses) == 3 and loss == pytest.approx(sum(losses) / 3, rel=1e-5)
    clips, labels = torch.stack([clip for clip, _ in chosen]), torch.tensor([label for _, label in chosen])
    want = torch.autograd.grad(F.cross_entropy(model(clips), labels, ignore_index=-100), list(model.parameters()))
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one, other)


def test_a_training_of_small_batches_is_one_of_large_batches():
    large, small = Tiny(dropout=0.0), Tiny(dropout=0.0)
    want, found = train(large), train(small, replace(CONFIG, micro_batches=3))
    for name in ("loss", "gradient_norm", "validation_loss"):
        assert found.curve(name)[1] == pytest.approx(want.curve(name)[1], rel=1e-4)
    for one, other in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_does_not_matter(workers):
    alone, helped = Tiny(), Tiny()
    config = replace(CONFIG, micro_batches=2)
    history = train(alone, config)
    assert train(helped, config, workers=workers).rows == history.rows and same(alone, helped)


def test_every_step_draws_its_own_dropout():
    data, model = examples(1, seed=1), Tiny(dropout=0.5)
    batches = TrainingBatches(data, 1, CONFIG.seed)  # the same clip in each step
    losses = [gradients(model, Classification(), replace(CONFIG, batch_size=1), batches, step)[0] for step in range(5)]
    assert len(set(losses)) == 5


def test_a_batch_without_a_label_is_an_error():
    unlabelled = [(clip, -100) for clip, _ in examples()]
    with pytest.raises(ValueError, match="batch of step 1: no label in it counts"):
        finetune(Tiny(), unlabelled, examples(), CONFIG, quiet=True)


class Deep(nn.Module):
    """Blocks with running averages and dropout, and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(T * C * H * W, 5)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2)) for _ in range(2)
        )
        self.classifier = nn.Linear(5, V)

    def forward(self, clips):
        x = self.first(clips.flatten(1))
        for block in self.blocks:
            x = block(x)
        return self.classifier(x)


def test_what_is_frozen_stays_bit_for_bit():
    model = Deep()
    model.first.weight.grad = torch.full_like(model.first.weight, 1e6)  # of an earlier life: must not be counted
    before = {name: value.clone() for name, value in model.state_dict().items()}
    history = train(model, replace(CONFIG, freeze=("first", "blocks.0.")))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"blocks", "classifier"}
    assert all(name.startswith(("blocks.1.", "classifier.")) for name in changed)
    assert {"blocks.1.1.running_mean", "blocks.1.1.num_batches_tracked"} <= changed
    assert max(history.curve("gradient_norm")[1]) < 1e3
    assert all(weight.requires_grad for weight in model.parameters())


def test_recomputing_blocks_changes_no_number():
    plain, twice = Deep(), Deep()
    calls = []
    twice.blocks[0][0].register_forward_hook(lambda *_: calls.append(1))
    want = train(plain, replace(CONFIG, evaluate_every=0))
    assert train(twice, replace(CONFIG, evaluate_every=0, gradient_checkpointing=True)).rows == want.rows
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), twice.state_dict().values(), strict=True))
    assert len(calls) == 2 * CONFIG.steps + 1  # and the look at the end


def test_each_group_follows_its_own_rate(monkeypatch):
    seen = []
    step = AdamW.step

    def note(self):
        seen.append({group["group"]: group["lr"] for group in self.param_groups})
        step(self)

    monkeypatch.setattr(AdamW, "step", note)
    history = train(Deep(), replace(CONFIG, rates={"classifier": 0.5}))
    for rates, rate in zip(seen, history.curve("learning_rate")[1], strict=True):
        assert rates["everything else: weights"] == rate
        assert rates["classifier: weights"] == pytest.approx(50 * rate)


def test_in_bfloat16_products_are_short_and_weights_are_not():
    kinds = []
    model = Tiny(dropout=0.0)
    model.layer.register_forward_hook(lambda layer, _, out: kinds.append((layer.training, out.dtype)))
    plain = train(Tiny(dropout=0.0))
    short = train(model, replace(CONFIG, bfloat16=True))
    assert set(kinds) == {(True, torch.bfloat16), (False, torch.float32)} and model.layer.weight.dtype == torch.float32
    # bfloat16 has 8 bits: a product is right to some 0.4 %.
    assert short.curve("loss")[1][0] == pytest.approx(plain.curve("loss")[1][0], rel=0.02)
    assert short.curve("loss") != plain.curve("loss")


def test_the_optimiser_can_be_sgd(monkeypatch):
    steps = []
    note = lambda self: steps.append(self.param_groups[0]["momentum"])  # noqa: E731
    monkeypatch.setattr("minivid.training.finetune.SGD.step", note)
    train(Tiny(), replace(CONFIG, optimizer="sgd", momentum=0.75))
    assert steps == [0.75] * CONFIG.steps


def test_muon_moves_the_matrices_and_adamw_the_rest():
    model = nn.Sequential(
        OrderedDict(
            convolution=nn.Conv3d(C, 4, 2), flat=nn.Flatten(), inner=nn.Linear(4, 6), norm=nn.LayerNorm(6),
            embed_tokens=nn.Embedding(3, 2), classifier=nn.Linear(6, V),
        )
    )  # fmt: skip
    names = {weight: name for name, weight in model.named_parameters()}
    config = replace(CONFIG, optimizer="muon", momentum=0.7, betas=(0.5, 0.6), rates={"inner": 0.5}, no_decay=())
    optimizer = make_optimizer(model, config)
    muon, adamw = optimizer.optimizers
    assert (type(muon), type(adamw)) == (Muon, AdamW)
    assert [[names[weight] for weight in group["params"]] for group in muon.param_groups] == [
        ["convolution.weight"],
        ["inner.weight"],
    ]
    assert {names[weight] for group in adamw.param_groups for weight in group["params"]} == {
        "convolution.bias", "inner.bias", "norm.weight", "norm.bias", "embed_tokens.weight", "classifier.weight",
        "classifier.bias",
    }  # fmt: skip
    assert {(group["momentum"], group["adjust_lr_fn"]) for group in muon.param_groups} == {(0.7, "match_rms_adamw")}
    assert {group["betas"] for group in adamw.param_groups} == {(0.5, 0.6)}
    assert [group["initial_lr"] for group in muon.param_groups] == [config.learning_rate, 0.5]
    table = what_trains(model, optimizer.param_groups)
    assert "inner: weights (Muon)" in table and "everything else: biases, scales" in table

    only = nn.Linear(3, 2, bias=False)
    assert [type(part) for part in make_optimizer(only, replace(config, rates={})).optimizers] == [Muon]
    all_named = replace(config, rates={}, adamw_for=("weight",))
    assert [type(part) for part in make_optimizer(only, all_named).optimizers] == [AdamW]


def test_muon_learns_with_one_rate_for_both(tmp_path):
    model = nn.Sequential(
        OrderedDict(flat=nn.Flatten(), inner=nn.Linear(T * C * H * W, 6), act=nn.GELU(), classifier=nn.Linear(6, V))
    )
    config = replace(CONFIG, steps=30, optimizer="muon", evaluate_every=0)
    losses = train(model, config).curve("loss")[1]
    assert losses[-1] < 0.5 * losses[0]


def test_muon_does_not_move_parts_of_matrices():
    with pytest.raises(ValueError, match="optimizer='muon' needs whole matrices, and sharded=True cuts them"):
        train(Tiny(), replace(CONFIG, optimizer="muon"), sharded=True)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"optimizer": "sgd", "schedule": "linear", "momentum": 0.8},
        {"schedule": "constant", "micro_batches": 2, "label_smoothing": 0.1, "rates": {"classifier": 3e-2}},
    ],
    ids=["adamw, cosine", "sgd, linear", "adamw, constant, small batches"],
)
def test_losses_are_those_of_a_plain_loop_of_torch(change):
    """The same training, written with torch.nn and torch.optim alone."""
    config = replace(CONFIG, steps=30, batch_size=5, weight_decay=0.1, warmup_ratio=0.2, evaluate_every=0, **change)
    torch.manual_seed(1)
    layers = dict(flat=nn.Flatten(), inner=nn.Linear(T * C * H * W, 6), act=nn.GELU(), norm=nn.LayerNorm(6))
    mine = nn.Sequential(OrderedDict(layers, classifier=nn.Linear(6, V)))
    theirs = copy.deepcopy(mine)
    data = examples()
    history = finetune(mine, data, data[:2], config, quiet=True)

    head = config.rates.get("classifier", config.learning_rate)
    groups = [
        {"params": [theirs.inner.weight], "lr": config.learning_rate, "weight_decay": 0.1},
        {"params": [theirs.inner.bias, *theirs.norm.parameters()], "lr": config.learning_rate, "weight_decay": 0.0},
        {"params": [theirs.classifier.weight], "lr": head, "weight_decay": 0.1},
        {"params": [theirs.classifier.bias], "lr": head, "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, momentum=0.8)
    else:
        optimizer = torch.optim.AdamW(groups, betas=config.betas)
    falls = {
        "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
        "linear": lambda share: 1 - share,
        "constant": lambda share: 1.0,
    }
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: k / 6 if k < 6 else falls[config.schedule]((k - 6) / 24)
    )
    losses = []
    for step in range(30):
        chosen = [data[i] for i in batch_indices(len(data), 5, step=step, seed=config.seed)]
        clips, labels = torch.stack([clip for clip, _ in chosen]), torch.tensor([label for _, label in chosen])
        loss = F.cross_entropy(theirs(clips), labels, label_smoothing=config.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), config.max_grad_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert history.curve("loss")[1] == pytest.approx(losses, abs=1e-5)
    assert losses[-1] < losses[0]


# ---- what is said on the way


def test_the_bar_tells_loss_rate_speed_and_time_left(capsys):
    finetune(Tiny(), examples(), examples(5, seed=1), replace(CONFIG, freeze=("bias",)))
    said = capsys.readouterr()
    assert said.out == ""
    table, bar = said.err.split("train:", 1)
    assert re.search(r"what trains +parameters +share +learning rate +decay\n", table)
    assert re.search(r"everything: weights +840 +99.5% +0.01 +0.05\nfrozen +4 +0.5%", table)
    assert re.search(
        r"12/12 \[\d\d:\d\d<\d\d:\d\d, .*(step/s|s/step), loss=\d.\d\d\d, lr=\d.\de-\d\d, clips/s=\d+", bar
    )
    train(Tiny())
    assert capsys.readouterr() == ("", "")


def test_a_metric_that_is_not_measured_is_an_error_before_the_first_step():
    steps = []
    with pytest.raises(ValueError, match="metric='top5' is none of what is measured: validation_loss, validation_acc"):
        train(Tiny(), replace(CONFIG, metric="top5"), on_step=steps.append)
    assert steps == []


def test_a_gradient_that_is_no_number_stops_with_the_step():
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.inf

    class Model(Tiny):
        def forward(self, clips):
            return Steep.apply(super().forward(clips))

    model = Model()
    before = model.layer.weight.clone()
    with pytest.raises(ValueError, match="gradient's length (nan|inf); try a smaller learning_rate"):
        train(model)
    assert torch.equal(model.layer.weight, before)


def test_an_objective_gets_a_generator_for_each_clip_that_its_place_decides():
    seen = {}

    class Noisy(Classification):
        def loss(self, model, clips, labels, generators):
            drawn = [torch.rand((), generator=generator).item() for generator in generators]
            seen.setdefault(self.parts, []).extend(drawn)
            assert len(drawn) == len(clips)
            return super().loss(model, clips, labels)

    for parts in (1, 3):
        objective = Noisy()
        object.__setattr__(objective, "parts", parts)
        train(Tiny(), replace(CONFIG, micro_batches=parts), objective=objective)
    assert seen[1] == seen[3] and len(set(seen[1])) == CONFIG.steps * CONFIG.batch_size


# ---- laws


class Line(nn.Module):
    """Six pixels to three logits, behind a dropout; a weight that takes no part has no gradient."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.dropout, self.layer = nn.Dropout(dropout), nn.Linear(6, 3)
        self.idle = nn.Parameter(torch.ones(2))
        with torch.no_grad():
            self.layer.weight.copy_(normal(0, 3, 6))
            self.layer.bias.copy_(normal(1, 3))

    def forward(self, clips):
        return self.layer(self.dropout(clips.flatten(1)))

    def gradient(self):
        """All numbers of the gradient, in one row."""
        return torch.cat([weight.grad.flatten() for weight in self.layer.parameters()])


def with_gradient(numbers):
    model = Line()
    model.layer.weight.grad, model.layer.bias.grad = numbers[:18].view(3, 6).clone(), numbers[18:].clone()
    return model


@pytest.mark.law("clip_gradients")
@given(whole(21), st.sampled_from([0.5, 2.0, 50.0]))
def test_a_joint_gradient_is_cut_to_the_limit_and_keeps_its_direction(impl, numbers, max_norm):
    """All gradients together, if longer than the limit, are shortened to it by one factor; else nothing changes."""
    model, length = with_gradient(numbers), numbers.norm().item()
    impl.clip_gradients(model, max_norm)
    want = numbers * min(1.0, max_norm / max(length, 1e-12))
    agree(model.gradient(), want, "the gradient differs", axes="number", before=numbers, max_norm=max_norm)
    fresh = torch.cat([weight.detach().flatten() for weight in Line().parameters()])
    weights = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    agree(weights, fresh, "the weights were changed", axes="number", before=numbers, max_norm=max_norm)


@pytest.mark.law("clip_gradients")
@given(whole(21), st.sampled_from([0.0, 0.5, 50.0]))
def test_the_length_before_is_what_one_gets(impl, numbers, max_norm):
    """The result is the joint length before: the root of the sum of all squares."""
    got, want = impl.clip_gradients(with_gradient(numbers), max_norm), numbers.norm().item()
    claim = f"the length is {got}, expected {want:.4f}"
    holds(abs(float(got) - want) < 1e-4 * (1 + want), claim, gradient=numbers, max_norm=max_norm)


@pytest.mark.law("clip_gradients")
@given(whole(21))
def test_a_limit_of_zero_is_none(impl, numbers):
    """max_norm = 0 leaves every gradient as it is."""
    model = with_gradient(numbers)
    impl.clip_gradients(model, 0.0)
    agree(model.gradient(), numbers, "the gradient was changed", axes="number")


def parts_of(clips, labels, parts, step=0):
    """A batch as its micro-batches."""
    cuts = [len(labels) * part // parts for part in range(parts + 1)]
    return [
        Batch(step, range(first, last), clips[first:last], labels[first:last])
        for first, last in zip(cuts[:-1], cuts[1:], strict=True)
    ]


@st.composite
def labelled(draw, b=6):
    """Clips of six pixels and their labels, some of which are not known, but not all."""
    labels = draw(st.lists(st.sampled_from([-100, 0, 1, 2]), min_size=b, max_size=b).filter(lambda y: max(y) >= 0))
    return draw(whole(b, 6)).view(b, 1, 1, 2, 3), torch.tensor(labels)


@pytest.mark.law("gather_gradients")
@given(labelled(), st.sampled_from([1, 2, 3]))
def test_the_parts_of_a_batch_give_the_gradient_of_the_whole(impl, case, parts):
    """However a batch is cut, gradient and loss are those of the mean over its labels, whatever was there before."""
    (clips, labels), model, twin = case, Line(), Line()
    want = F.cross_entropy(twin(clips), labels)
    want.backward()
    config = FinetuneConfig(batch_size=6, micro_batches=parts)
    shown = dict(pixels=clips.flatten(1), labels=labels, parts=parts)
    for time in ("first", "second"):
        got = impl.gather_gradients(model, Classification(), iter(parts_of(clips, labels, parts)), config)
        agree(model.gradient(), twin.gradient(), f"the gradient of the {time} call differs", axes="number", **shown)
        claim = f"the loss is {float(got):.4f}, expected {want.item():.4f}"
        holds(abs(float(got) - want.item()) < 1e-4 * (1 + want.item()), claim, **shown)


@pytest.mark.law("gather_gradients")
@given(seed=st.integers(0, 3), step=st.integers(0, 3))
def test_dropout_follows_from_seed_step_and_place(impl, seed, step):
    """With dropout, the same call gives the same gradient again, but two equal parts have each their own luck."""
    config = FinetuneConfig(batch_size=6, micro_batches=2, seed=seed)
    clips, labels = normal(4, 3, 1, 1, 2, 3).repeat(2, 1, 1, 1, 1), torch.tensor([0, 2, 1, 0, 2, 1])
    model, found = Line(dropout=0.5), []
    for parts in (
        parts_of(clips, labels, 2, step),
        parts_of(clips, labels, 2, step),
        2 * parts_of(clips, labels, 2, step)[:1],
    ):
        impl.gather_gradients(model, Classification(), iter(parts), config)
        found.append(model.gradient().clone())
        torch.rand(3)
    agree(found[1], found[0], "the same call gave another gradient", axes="number", seed=seed, step=step)
    claim = "the second part, of the same clips, lost the same features as the first"
    holds(not torch.equal(found[2], found[0]), claim, seed=seed, step=step)
