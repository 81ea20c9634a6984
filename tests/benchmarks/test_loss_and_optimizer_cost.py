"""Cross-entropy and AdamW beside torch's: time and memory, one thread, float32.

    pytest -m benchmark -n0 -s tests/benchmarks/test_loss_and_optimizer_cost.py

MINIVID_BENCHMARK_ROUNDS says how many rounds (5). Ratios are of the processor time, which other jobs disturb least.
"""

import os
from functools import partial

import pytest
import torch
from benchmarks.side_by_side import ratio, side_by_side, table
from strategies import normal
from torch.nn import functional as F

from minivid.training.cross_entropy import cross_entropy, plain_cross_entropy
from minivid.training.optimizer import AdamW

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("default")]

ROUNDS = int(os.environ.get("MINIVID_BENCHMARK_ROUNDS", "5"))
LOSSES = {
    "torch": F.cross_entropy,
    "fused": partial(cross_entropy, kernel="fused"),
    "blocks": cross_entropy,
    "plain": plain_cross_entropy,
}
# Words of a language model over its vocabulary; clips over the classes of Kinetics, many calls at a time.
SIZES = [(2048, 32768, 1), (64, 400, 500)]
OPTIMIZERS = {
    "torch": (torch.optim.AdamW, {}),
    "lists": (AdamW, {}),
    "weight by weight": (AdamW, {"foreach": False}),
}
_made = {}


def logits_and_targets(n, v):
    """Made once a process, before the counted calls."""
    if (n, v) not in _made:
        _made[n, v] = normal(0, n, v), torch.arange(n) % v
    return _made[n, v]


def forward(name, n, v, calls):
    torch.set_num_threads(1)
    with torch.no_grad():
        for _ in range(calls):
            loss = LOSSES[name](*logits_and_targets(n, v))
    return loss


def forward_and_backward(name, n, v, calls):
    torch.set_num_threads(1)
    logits, targets = logits_and_targets(n, v)
    logits = logits.detach().requires_grad_()
    for _ in range(calls):
        (gradient,) = torch.autograd.grad(LOSSES[name](logits, targets), logits)
    return gradient


def ten_steps(name):
    """The weights of twelve transformer layers of width 384."""
    torch.set_num_threads(1)
    if name not in _made:
        shapes = [(1152, 384), (1152,), (384, 384), (384,), (1536, 384), (1536,), (384, 1536), (384,)] * 12
        weights = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes + [(384,)] * 48]
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        kind, options = OPTIMIZERS[name]
        _made[name] = kind(weights, **options)
    for _ in range(10):
        _made[name].step()


@pytest.mark.parametrize("call", [forward, forward_and_backward])
@pytest.mark.parametrize("n, v, calls", SIZES)
def test_cross_entropy_costs_at_most_half_more_than_torch(call, n, v, calls):
    measured = side_by_side({name: (call, (name, n, v, calls)) for name in LOSSES}, rounds=ROUNDS)
    print(f"\n{call.__name__}, {n} answers, {v} classes, {calls} calls\n{table(measured, 'torch')}")
    # Of few logits, the powers alone cost more than all of torch's kernel: kernel="fused" is for them.
    quick = "fused" if n * v < 2**17 else "blocks"
    times = ratio(measured, quick, "torch", "cpu")
    assert times <= 1.5, f"{quick}: {times:.2f} of torch's time"


def test_adamw_costs_at_most_half_more_than_torch():
    measured = side_by_side({name: (ten_steps, (name,)) for name in OPTIMIZERS}, rounds=ROUNDS)
    print(f"\nten steps\n{table(measured, 'torch')}")
    times = ratio(measured, "lists", "torch", "cpu")
    assert times <= 1.5, f"{times:.2f} of torch's time"
