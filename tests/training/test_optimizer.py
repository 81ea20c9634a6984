"""SGD and AdamW beside torch's: the same weights after every step, and state dicts that can be exchanged."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds
from torch import nn

from minivid.training.optimizer import SGD, AdamW, decay_groups

SGD_OPTIONS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.5, "dampening": 0.3},
    {"weight_decay": 0.1},
    {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True, "lr": 0.05},
]
ADAMW_OPTIONS = [
    {},
    {"lr": 0.1, "weight_decay": 0.5},
    {"betas": (0.5, 0.6), "eps": 0.1},
    {"weight_decay": 0.0},
    {"betas": (0.0, 0.0)},
]
TWINS = [(SGD, torch.optim.SGD, options) for options in SGD_OPTIONS]
TWINS += [(AdamW, torch.optim.AdamW, options) for options in ADAMW_OPTIONS]


def weights(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    """Three shapes, the last one a scalar."""
    return [nn.Parameter(normal(i, *shape, dtype=dtype)) for i, shape in enumerate([(3, 5), (7,), ()])]


def give_gradients(parameters: list[nn.Parameter], step: int) -> None:
    """Gradients that depend on step and weights, as those of a loss; the second weight misses every third one."""
    for i, parameter in enumerate(parameters):
        gradient = normal(100 * step + i, *parameter.shape, dtype=parameter.dtype) + 0.5 * parameter.detach()
        parameter.grad = None if i == 1 and step % 3 == 1 else gradient


@pytest.mark.parametrize(("ours", "theirs", "options"), TWINS)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_twenty_steps_equal_torch(ours, theirs, options, dtype, atol):
    pairs = [(weights(dtype), optimizer) for optimizer in (ours, theirs)]
    pairs = [(parameters, optimizer(parameters, **options)) for parameters, optimizer in pairs]
    for step in range(20):
        for parameters, optimizer in pairs:
            give_gradients(parameters, step)
            optimizer.step()
        for got, want in zip(pairs[0][0], pairs[1][0], strict=True):
            torch.testing.assert_close(got, want, atol=atol, rtol=atol)


@pytest.mark.parametrize(("ours", "theirs", "options"), TWINS)
def test_state_dicts_can_be_exchanged_both_ways(ours, theirs, options):
    # torch, then ours, then torch, seven steps each, equal twenty-one steps of torch.
    want, got = weights(), weights()
    alone = theirs(want, **options)
    for step in range(21):
        give_gradients(want, step)
        alone.step()
    state = None
    for turn, optimizer in enumerate((theirs, ours, theirs)):
        optimizer = optimizer(got, **options)
        if state is not None:
            optimizer.load_state_dict(copy.deepcopy(state))
        for step in range(7 * turn, 7 * turn + 7):
            give_gradients(got, step)
            optimizer.step()
        state = optimizer.state_dict()
    for x, y in zip(got, want, strict=True):
        torch.testing.assert_close(x, y, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("ours", "theirs", "options"), TWINS)
def test_state_has_the_entries_of_torch(ours, theirs, options):
    states = []
    for optimizer in (ours, theirs):
        parameters = weights()
        optimizer = optimizer(parameters, **options)
        give_gradients(parameters, 0)
        optimizer.step()
        states.append(optimizer.state_dict()["state"])
    if not options.get("momentum") and ours is SGD:
        states[1] = {}  # torch keeps an empty entry where there is no momentum
    assert states[0].keys() == states[1].keys()
    for key in states[0]:
        assert states[0][key].keys() == states[1][key].keys()
        for name in states[0][key]:
            torch.testing.assert_close(states[0][key][name], states[1][key][name], atol=1e-12, rtol=0)


def test_groups_have_their_own_options():
    results = []
    for optimizer in (AdamW, torch.optim.AdamW):
        a, b, c = weights()
        optimizer = optimizer([{"params": [a, b], "lr": 0.1}, {"params": [c], "weight_decay": 0.5}], lr=0.01)
        for step in range(3):
            give_gradients([a, b, c], step)
            optimizer.step()
        results.append([a, b, c])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


@given(seeds, st.floats(1e-3, 1.0))
def test_the_first_step_of_adam_goes_lr_against_the_sign_of_the_gradient(seed, lr):
    weight = nn.Parameter(normal(seed, 5, dtype=torch.float64))
    weight.grad = normal(seed + 1, 5, dtype=torch.float64)
    before = weight.detach().clone()
    AdamW([weight], lr=lr, weight_decay=0.0, eps=0.0).step()
    torch.testing.assert_close(weight.detach(), before - lr * weight.grad.sign(), atol=1e-12, rtol=0)


@given(seeds)
def test_decay_does_not_depend_on_the_gradient(seed):
    # Decoupled: what decay takes away is lr weight_decay w, whatever the gradient and its history.
    results = []
    for weight_decay in (0.0, 0.3):
        weight = nn.Parameter(normal(seed, 5, dtype=torch.float64))
        weight.grad = 10.0 * normal(seed + 1, 5, dtype=torch.float64)
        before = weight.detach().clone()
        AdamW([weight], lr=0.1, weight_decay=weight_decay).step()
        results.append(weight.detach() - before)
    torch.testing.assert_close(results[1] - results[0], -0.1 * 0.3 * before, atol=1e-12, rtol=0)


def test_momentum_by_hand():
    weight = nn.Parameter(torch.tensor(0.0))
    optimizer = SGD([weight], lr=1.0, momentum=0.5)
    seen = []
    for _ in range(3):
        weight.grad = torch.tensor(1.0)
        optimizer.step()
        seen.append(weight.item())
    assert seen == [-1.0, -2.5, -4.25]  # steps of 1, 1.5, 1.75: on the way to 2


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_closure_is_called_with_gradients_and_its_loss_returned(optimizer):
    weight = nn.Parameter(torch.tensor(3.0))
    optimizer = optimizer([weight], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = weight.square()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9.0
    assert weight.item() < 3.0
    assert optimizer.step() is None


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_gradients_are_left_alone_and_nothing_without_one_moves(optimizer):
    moved, still = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = optimizer([moved, still], lr=0.1, weight_decay=0.1)
    moved.grad = torch.ones(3)
    for _ in range(2):
        optimizer.step()
    assert torch.equal(moved.grad, torch.ones(3))
    assert torch.equal(still.detach(), torch.ones(3))
    moved.grad = None
    optimizer.step()  # nothing to do is no error


def test_momentum_does_not_live_in_the_gradient():
    # A gradient is often zeroed or written anew in place; the first step must not keep it as its momentum.
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.ones(3)
    optimizer = SGD([weight], lr=1.0, momentum=0.5)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    assert torch.equal(weight.detach(), torch.full((3,), -1.5))


def test_decay_groups_spare_biases_and_norms():
    model = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Conv3d(1, 2, 2))
    model[2].weight.requires_grad_(False)
    decayed, spared = decay_groups(model, 0.1)
    assert [p is q for p, q in zip(decayed["params"], [model[0].weight], strict=True)] == [True]
    wanted = [model[0].bias, model[1].weight, model[1].bias, model[2].bias]
    assert [p is q for p, q in zip(spared["params"], wanted, strict=True)] == [True] * 4
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize(
    ("optimizer", "options", "message"),
    [
        (SGD, {"lr": -0.1}, "lr is -0.1, expected 0 or more"),
        (SGD, {"momentum": -0.5}, "momentum is -0.5"),
        (SGD, {"weight_decay": -1.0}, "weight_decay is -1.0"),
        (SGD, {"nesterov": True}, "nesterov needs momentum > 0 and dampening 0, got momentum 0.0"),
        (SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "dampening=0.1"),
        (AdamW, {"lr": -0.1}, "lr is -0.1"),
        (AdamW, {"eps": -1e-8}, "eps is -1e-08"),
        (AdamW, {"weight_decay": -1.0}, "weight_decay is -1.0"),
        (AdamW, {"betas": (0.9, 1.0)}, r"betas\[1\] is 1.0, expected 0 <= beta < 1"),
    ],
)
def test_options_outside_their_range_are_named(optimizer, options, message):
    with pytest.raises(ValueError, match=message):
        optimizer(weights(), **options)


def test_an_option_that_is_not_taken_is_refused_by_name():
    with pytest.raises(TypeError, match="amsgrad"):
        AdamW(weights(), amsgrad=True)
    state = torch.optim.AdamW(weights(), amsgrad=True).state_dict()
    with pytest.raises(ValueError, match="amsgrad is True in the state dict"):
        AdamW(weights()).load_state_dict(state)
    state = torch.optim.SGD(weights(), maximize=True).state_dict()
    with pytest.raises(ValueError, match="maximize is True in the state dict"):
        SGD(weights()).load_state_dict(state)
