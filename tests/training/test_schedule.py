"""The learning rate goes up in a straight line, then down along half a cosine."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minivid.classroom.evidence import agree, holds
from minivid.training.optimizer import AdamW
from minivid.training.schedule import (
    constant_schedule,
    constant_with_warmup,
    cosine_schedule,
    cosine_with_warmup,
    linear_schedule,
    linear_with_warmup,
    warmup,
)

trainings = st.integers(1, 40).flatmap(lambda total: st.tuples(st.just(total), st.integers(0, total)))


@pytest.mark.law("cosine_with_warmup")
@given(trainings)
def test_cosine_with_warmup_equals_its_formula(impl, training):
    """step / warmup at first, then (1 + cos(pi done)) / 2, with done from 0 to 1 over the rest."""
    total, warmup = training
    want = [step / warmup for step in range(warmup)]
    want += [0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) for step in range(warmup, total)]
    got = [impl.cosine_with_warmup(step, total_steps=total, warmup_steps=warmup) for step in range(total)]
    got, want = (torch.tensor(x, dtype=torch.float64) for x in (got, want))
    agree(got, want, "a factor differs", axes="step", atol=1e-9, total_steps=total, warmup_steps=warmup)


@pytest.mark.law("cosine_with_warmup")
@given(trainings)
def test_cosine_with_warmup_rises_then_falls(impl, training):
    """It rises up to the end of the warm-up, is 1 there, falls from there on, and stays between 0 and 1."""
    total, warmup = training
    factors = [impl.cosine_with_warmup(step, total_steps=total, warmup_steps=warmup) for step in range(total + 5)]
    shown = dict(total_steps=total, warmup_steps=warmup, factors=[round(x, 3) for x in factors])
    holds(all(0.0 <= x <= 1.0 for x in factors), "a factor is outside 0 to 1", **shown)
    if warmup < total:
        holds(factors[warmup] == 1.0, "the factor after the warm-up is not 1", **shown)
    up, down = factors[: warmup + 1], factors[warmup:]
    if warmup < total:
        holds(up == sorted(up), "it does not rise during the warm-up", **shown)
    holds(down == sorted(down, reverse=True), "it does not fall after the warm-up", **shown)


@pytest.mark.law("linear_with_warmup")
@given(trainings)
def test_linear_with_warmup_equals_its_formula(impl, training):
    """step / warmup at first, then the share of the steps behind the warm-up that is left."""
    total, warmup = training
    want = [step / warmup for step in range(warmup)]
    want += [(total - step) / (total - warmup) for step in range(warmup, total)]
    got = [impl.linear_with_warmup(step, total_steps=total, warmup_steps=warmup) for step in range(total)]
    got, want = (torch.tensor(x, dtype=torch.float64) for x in (got, want))
    agree(got, want, "a factor differs", axes="step", atol=1e-9, total_steps=total, warmup_steps=warmup)


@pytest.mark.law("linear_with_warmup")
@given(trainings)
def test_linear_with_warmup_stays_at_zero_after_the_end(impl, training):
    """From the last step on the factor is 0, and never below."""
    total, warmup = training
    factors = [impl.linear_with_warmup(total + i, total_steps=total, warmup_steps=warmup) for i in range(4)]
    holds(factors == [0.0] * 4, "it is not 0 after the end", total_steps=total, warmup_steps=warmup, factors=factors)


@pytest.mark.law("cosine_with_warmup")
@given(trainings)
def test_cosine_with_warmup_makes_no_jump_and_ends_at_zero(impl, training):
    """From one step to the next it changes by no more than a straight line and the steepest cosine do; the end is 0."""
    total, warmup = training
    factors = [impl.cosine_with_warmup(step, total_steps=total, warmup_steps=warmup) for step in range(total + 4)]
    shown = dict(total_steps=total, warmup_steps=warmup, factors=[round(x, 3) for x in factors])
    if warmup < total:
        most = max(1 / warmup if warmup else 0.0, math.pi / 2 / (total - warmup)) + 1e-9
        jumps = [abs(one - other) for one, other in zip(factors, factors[1:], strict=False)]
        holds(max(jumps) <= most, "it jumps", **shown)
    holds(all(abs(x) < 1e-12 for x in factors[total:]), "it is not 0 after the end", **shown)


@pytest.mark.law("constant_with_warmup")
@given(st.integers(0, 60), st.integers(0, 40))
def test_constant_with_warmup_rises_then_stays(impl, step, warmup):
    """step / warmup at first, then 1 for ever."""
    got = impl.constant_with_warmup(step, warmup_steps=warmup)
    want = step / warmup if step < warmup else 1.0
    holds(abs(got - want) < 1e-9, f"the factor is {got}, expected {want}", step=step, warmup_steps=warmup)


# Learning rates of a published trainer: kind, steps, share of warm-up, warm-up steps, rate, and that of some steps.
PUBLISHED = [
    (
        cosine_schedule,
        40,
        0.03,
        2,
        2e-5,
        {0: 0.0, 1: 1e-05, 2: 2e-05, 3: 1.99658449300667e-05},
    ),
    (cosine_schedule, 40, 0.03, 2, 2e-5, {10: 1.789140509396394e-05, 21: 1e-05, 39: 3.4155069933301535e-08, 40: 0.0}),
    (cosine_schedule, 10, 0.0, 0, 1e-3, {0: 1e-3, 1: 0.0009755282581475768, 5: 0.0005, 9: 2.4471741852423235e-05}),
    (cosine_schedule, 33, 0.1, 4, 5e-5, {1: 1.25e-05, 4: 5e-05, 5: 4.985344892885899e-05, 32: 1.4655107114101007e-07}),
    (
        linear_schedule,
        20,
        0.05,
        1,
        1e-4,
        {0: 0.0, 1: 1e-4, 2: 9.473684210526316e-05, 20: 0.0},
    ),
    (
        constant_schedule,
        12,
        0.2,
        3,
        1e-4,
        {0: 0.0, 1: 3.3333333333333335e-05, 3: 1e-4, 12: 1e-4},
    ),
]


@pytest.mark.parametrize(("schedule", "steps", "ratio", "warmup_steps", "rate", "published"), PUBLISHED)
def test_schedule_equals_a_published_trainer(schedule, steps, ratio, warmup_steps, rate, published):
    assert warmup(steps, ratio) == warmup_steps  # rounded up
    optimizer = AdamW([nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = schedule(optimizer, total_steps=steps, warmup_ratio=ratio)
    seen = []
    for _ in range(steps + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    for step, lr in published.items():
        assert seen[step] == pytest.approx(lr, rel=1e-9, abs=1e-18)


@pytest.mark.parametrize("schedule", [cosine_schedule, linear_schedule, constant_schedule])
def test_a_schedule_without_a_ratio_has_no_warmup(schedule):
    optimizer = AdamW([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule(optimizer, total_steps=3)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_training_that_is_all_warmup_ends_with_it():
    for factor in (cosine_with_warmup, linear_with_warmup):
        factors = [factor(step, total_steps=4, warmup_steps=4) for step in range(6)]
        assert factors == pytest.approx([0.0, 0.25, 0.5, 0.75, 0.0, 0.0])
    assert (
        constant_with_warmup(0) == linear_with_warmup(0, total_steps=1) == cosine_with_warmup(0, total_steps=1) == 1.0
    )


def test_every_group_is_scaled_from_its_own_rate():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = AdamW([{"params": [a], "lr": 1.0}, {"params": [b], "lr": 0.5}])
    scheduler = cosine_schedule(optimizer, total_steps=2)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.25])


def test_schedule_goes_on_where_its_state_was_saved():
    def made():
        optimizer = AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, cosine_schedule(optimizer, total_steps=7, warmup_ratio=0.3)

    optimizer, scheduler = made()
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    later, resumed = made()
    later.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    for one, other in ((optimizer, scheduler), (later, resumed)):
        one.step()
        other.step()
    assert later.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("factor", [cosine_with_warmup, linear_with_warmup])
def test_steps_that_do_not_fit_are_named(factor):
    for warmup_steps in (7, -1):
        with pytest.raises(ValueError, match=f"^warmup_steps is {warmup_steps}, expected 0 to total_steps=5$"):
            factor(0, total_steps=5, warmup_steps=warmup_steps)
    with pytest.raises(ValueError, match="^step is -1, expected 0 or more$"):
        factor(-1, total_steps=5)


def test_a_negative_step_or_warmup_is_named():
    for step, warmup_steps in ((-1, 0), (0, -2)):
        words = f"^step is {step} and warmup_steps is {warmup_steps}, expected 0 or more$"
        with pytest.raises(ValueError, match=words):
            constant_with_warmup(step, warmup_steps=warmup_steps)


@pytest.mark.parametrize("schedule", [cosine_schedule, linear_schedule, constant_schedule])
@pytest.mark.parametrize(("steps", "ratio"), [(5, 1.5), (5, -0.1), (0, 0.5)])
def test_a_share_that_is_none_is_named(schedule, steps, ratio):
    optimizer = AdamW([nn.Parameter(torch.zeros(1))])
    words = f"^total_steps={steps} and warmup_ratio={ratio}, expected at least 1 step and a ratio from 0 to 1$"
    with pytest.raises(ValueError, match=words):
        schedule(optimizer, total_steps=steps, warmup_ratio=ratio)
