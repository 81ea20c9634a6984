"""Muon beside torch's and beside the singular value decomposition; several optimisers as one."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds
from torch import nn

from minivid.training.muon import COEFFICIENTS, Muon, Together, muon_step, orthogonalized
from minivid.training.optimizer import AdamW

OPTIONS = [
    {},
    {"lr": 0.1, "weight_decay": 0.5},
    {"momentum": 0.5, "nesterov": False},
    {"momentum": 0.0},
    {"adjust_lr_fn": "original", "lr": 0.05},
    {"adjust_lr_fn": "match_rms_adamw", "lr": 0.05},
    {"ns_steps": 2, "ns_coefficients": (1.5, -0.5, 0.0), "lr": 0.05},
    {"eps": 100.0, "lr": 0.05},
]
SHAPES = ((4, 4), (6, 3), (2, 5), (6, 3))  # two of one size, which are made orthogonal together


def weights(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    return [nn.Parameter(normal(i, *shape, dtype=dtype)) for i, shape in enumerate(SHAPES)]


def give_gradients(parameters: list[nn.Parameter], step: int) -> None:
    """Gradients that depend on step and weights, as those of a loss; the second weight misses every third one."""
    for i, parameter in enumerate(parameters):
        gradient = normal(100 * step + i, *parameter.shape, dtype=parameter.dtype) + 0.5 * parameter.detach()
        parameter.grad = None if i == 1 and step % 3 == 1 else gradient


def curve(values: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """What becomes of singular values, of which the squares add up to 1."""
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        values = a * values + b * values**3 + c * values**5
    return values


# ---- one matrix


@given(seed=seeds, m=st.integers(1, 5), n=st.integers(1, 5), steps=st.integers(0, 5))
def test_singular_values_follow_the_polynomial_and_singular_vectors_stay(seed, m, n, steps):
    matrix = normal(seed, m, n, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    want = u @ torch.diag(curve(s / s.square().sum().sqrt(), steps)) @ vh
    # The polynomial's slope at 0 is 3.4, so that rounding of 1e-16 is 5e-14 after five steps.
    torch.testing.assert_close(orthogonalized(matrix, steps=steps), want, atol=1e-12, rtol=0)


def test_every_singular_value_that_is_not_tiny_comes_near_one():
    values = torch.logspace(-5.5, 0, 300, dtype=torch.float64)
    u, v = (torch.linalg.qr(normal(seed, 300, 300, dtype=torch.float64))[0] for seed in (0, 1))
    shares = values / values.square().sum().sqrt()
    found = torch.linalg.svdvals(orthogonalized(u @ torch.diag(values) @ v))
    counted = int((shares >= 0.002).sum())
    assert 50 < counted < 300
    assert found[:counted].min() > 0.68 and found.max() < 1.21


@given(seed=seeds, size=st.sampled_from([1e-3, 1e3]))
def test_neither_size_nor_turning_of_a_gradient_changes_more_than_it_says(seed, size):
    matrix = normal(seed, 3, 5, dtype=torch.float64)
    left = torch.linalg.qr(normal(seed + 1, 3, 3, dtype=torch.float64))[0]
    right = torch.linalg.qr(normal(seed + 2, 5, 5, dtype=torch.float64))[0]
    got = orthogonalized(size * left @ matrix @ right)
    torch.testing.assert_close(got, left @ orthogonalized(matrix) @ right, atol=1e-10, rtol=0)
    torch.testing.assert_close(orthogonalized(matrix.mT), orthogonalized(matrix).mT, atol=1e-12, rtol=0)


def test_several_matrices_are_as_each_alone_and_nothing_stays_nothing():
    matrices = normal(0, 3, 4, 2)
    together = orthogonalized(matrices)
    for one, got in zip(matrices, together, strict=True):
        torch.testing.assert_close(got, orthogonalized(one), atol=1e-6, rtol=0)
    assert torch.equal(orthogonalized(torch.zeros(2, 3)), torch.zeros(2, 3))


# ---- steps


@pytest.fixture
def exact_twin(monkeypatch):
    """torch's Muon, whose products are in bfloat16, in the dtype of its weights instead."""
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim.Muon came with torch 2.9")
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    return torch.optim.Muon


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_twenty_steps_equal_torch(options, dtype, atol, exact_twin):
    mine, theirs = weights(dtype), weights(dtype)
    sides = [(mine, Muon(mine, **options)), (theirs, exact_twin(theirs, **options))]
    for step in range(20):
        for parameters, optimizer in sides:
            give_gradients(parameters, step)
            optimizer.step()
        for got, want in zip(mine, theirs, strict=True):
            torch.testing.assert_close(got, want, atol=atol, rtol=atol)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_formula_of_one_step_is_the_optimiser_s(options):
    mine = weights()
    read, buffers = [weight.detach().clone() for weight in mine], [None] * len(SHAPES)
    optimizer = Muon(mine, **options)
    for step in range(5):
        give_gradients(mine, step)
        for i, weight in enumerate(mine):
            if weight.grad is not None:
                # What the classes call lr has a default, and so has weight_decay: the same ones.
                read[i], buffers[i] = muon_step(read[i], weight.grad, buffers[i], **{"lr": 1e-3, **options})
        optimizer.step()
        for got, want in zip(mine, read, strict=True):
            torch.testing.assert_close(got.detach(), want, atol=1e-12, rtol=0)


def test_a_step_is_as_long_as_adamw_s_where_that_is_asked_for():
    # AdamW's usual step changes each number by 0.2 to 0.4 of lr (Liu et al. 2025, section 2.2); here by about 0.2.
    gradient, weight = normal(0, 40, 60), torch.zeros(40, 60)
    moved = muon_step(weight, gradient, lr=1.0, adjust_lr_fn="match_rms_adamw")[0]
    assert moved.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)


def test_a_weight_with_more_axes_is_the_matrix_of_its_outputs():
    kernel, matrix = (nn.Parameter(normal(0, 4, 3, 2, 2).reshape(shape)) for shape in ((4, 3, 2, 2), (4, 12)))
    for weight in (kernel, matrix):
        weight.grad = normal(1, 4, 12).view_as(weight)
        Muon([weight], lr=0.1).step()
    assert torch.equal(kernel.detach().flatten(1), matrix.detach())


@pytest.mark.parametrize("options", OPTIONS[:3])
def test_state_dicts_can_be_exchanged_both_ways(options, exact_twin):
    want, got = weights(), weights()
    alone = exact_twin(want, **options)
    for step in range(12):
        give_gradients(want, step)
        alone.step()
    state = None
    for turn, kind in enumerate((exact_twin, Muon, exact_twin)):
        optimizer = kind(got, **options)
        if state is not None:
            optimizer.load_state_dict(copy.deepcopy(state))
        for step in range(4 * turn, 4 * turn + 4):
            give_gradients(got, step)
            optimizer.step()
        state = optimizer.state_dict()
    for x, y in zip(got, want, strict=True):
        torch.testing.assert_close(x, y, atol=1e-10, rtol=0)
    assert Muon(weights(), **options).state_dict()["param_groups"] == exact_twin(weights(), **options).state_dict()[
        "param_groups"
    ]  # fmt: skip


def test_the_loss_of_a_closure_comes_back():
    weight = nn.Parameter(torch.eye(2))

    def closure():
        loss = (weight**2).sum()
        loss.backward()
        return loss

    for optimizer in (Muon([weight]), Together(Muon([weight]))):
        before, weight.grad = weight.detach().clone(), None
        assert optimizer.step(closure).item() == pytest.approx(before.square().sum().item())
        assert not torch.equal(weight, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr is -1.0, expected 0 or more"),
        ({"momentum": -0.5}, "momentum is -0.5"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
        ({"adjust_lr_fn": "none"}, "adjust_lr_fn is 'none', expected 'original' or 'match_rms_adamw'"),
    ],
)
def test_options_outside_their_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Muon(weights(), **options)


def test_what_is_no_matrix_is_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\), expected a matrix; move it by AdamW"):
        Muon([nn.Parameter(torch.ones(3))])


# ---- several as one


def pair(parameters: list[nn.Parameter]) -> Together:
    return Together(Muon([{"params": parameters[:2], "lr": 0.1}, {"params": [parameters[3]]}]), AdamW([parameters[2]]))


def test_each_optimiser_moves_its_own_weights_at_the_rate_that_the_whole_says():
    mine, theirs = weights(), weights()
    whole = pair(mine)
    alone = [Muon(theirs[:2], lr=0.05), Muon([theirs[3]], lr=0.05), AdamW([theirs[2]], lr=0.05)]
    assert [len(group["params"]) for group in whole.param_groups] == [2, 1, 1]
    for step in range(4):
        for group in whole.param_groups:
            group["lr"] = 0.05
        for parameters, optimizers in ((mine, [whole]), (theirs, alone)):
            give_gradients(parameters, step)
            for optimizer in optimizers:
                optimizer.step()
    for got, want in zip(mine, theirs, strict=True):
        assert torch.equal(got, want)


def test_the_whole_goes_on_from_its_state_dict():
    straight, stopped = weights(), weights()
    one, first, second = pair(straight), pair(stopped), pair(stopped)
    for step in range(6):
        give_gradients(straight, step)
        one.step()
    for step in range(3):
        give_gradients(stopped, step)
        first.step()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in range(3, 6):
        give_gradients(stopped, step)
        second.step()
    for got, want in zip(stopped, straight, strict=True):
        assert torch.equal(got, want)
    assert set(second.state) == set(stopped)


def test_no_optimiser_and_a_weight_of_two_are_refused():
    weight = nn.Parameter(torch.eye(2))
    with pytest.raises(ValueError, match="empty"):
        Together()
    with pytest.raises(ValueError, match="more than one parameter group"):
        Together(Muon([weight]), AdamW([weight]))
