"""The learning rate goes up in a straight line, then down along half a cosine."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minivid.classroom.evidence import agree, holds
from minivid.training.optimizer import AdamW
from minivid.training.schedule import cosine_schedule, cosine_with_warmup

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


# Learning rates of a published trainer with its cosine schedule, in units of 2e-5: 40 steps, 2 of them warm-up.
PUBLISHED = {
    0: 0.0,
    1: 1e-05,
    2: 2e-05,
    3: 1.99658449300667e-05,
    10: 1.789140509396394e-05,
    21: 1e-05,
    38: 1.3638696597278e-07,
    39: 3.4155069933301535e-08,
    40: 0.0,
}


def test_schedule_equals_a_published_trainer():
    optimizer = AdamW([nn.Parameter(torch.zeros(1))], lr=2e-5)
    scheduler = cosine_schedule(optimizer, total_steps=40, warmup_ratio=0.03)  # 1.2 steps, rounded up to 2
    seen = []
    for _ in range(41):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    for step, lr in PUBLISHED.items():
        assert seen[step] == pytest.approx(lr, rel=1e-9, abs=1e-18)


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


def test_numbers_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="warmup_steps is 7, expected 0 to total_steps=5"):
        cosine_with_warmup(0, total_steps=5, warmup_steps=7)
    optimizer = AdamW([nn.Parameter(torch.zeros(1))])
    with pytest.raises(ValueError, match="total_steps=5 and warmup_ratio=1.5"):
        cosine_schedule(optimizer, total_steps=5, warmup_ratio=1.5)
    with pytest.raises(ValueError, match="total_steps=0"):
        cosine_schedule(optimizer, total_steps=0)
