"""LayerNorm beside torch's fused kernel: time and memory, one thread, float32.

    pytest -m benchmark -n0 -s tests/benchmarks/test_norms_cost.py

MINIVID_BENCHMARK_ROUNDS says how many rounds (5). Ratios are of the processor time, which other jobs disturb least.
Rotation, RMSNorm and the activations are measured too, with no bound: they are short, and a reader may wonder.
"""

import os

import pytest
import torch
from benchmarks.side_by_side import ratio, side_by_side, table
from strategies import normal
from torch.nn import functional as F

from minivid.layers import feed_forward
from minivid.layers.norms import block_layer_norm, layer_norm, rms_norm

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("default")]

ROUNDS = int(os.environ.get("MINIVID_BENCHMARK_ROUNDS", "5"))
# Calls that are measured as one: a single one is too short for the clock of the processor.
CALLS = 10
# Tokens and their width: VideoMAE-S and -B at 16 frames, and a longer clip in a larger model.
SIZES = [(1568, 384), (1568, 768), (4096, 1024)]


# The candidates


def fused(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], weight, bias)


def fused_rms(x, weight, bias):
    return F.rms_norm(x, x.shape[-1:], weight, 1e-6)


def plain_rms(x, weight, bias):
    return rms_norm(x, weight)


def fused_gelu(x, weight, bias):
    return F.gelu(x)


def plain_gelu(x, weight, bias):
    return feed_forward.gelu(x)


FUNCTIONS = {
    "layer_norm (torch)": fused,
    "block_layer_norm": block_layer_norm,
    "layer_norm": layer_norm,
    "rms_norm (torch)": fused_rms,
    "rms_norm": plain_rms,
    "gelu (torch)": fused_gelu,
    "gelu": plain_gelu,
}


def forward(name, n, d):
    torch.set_num_threads(1)
    with torch.no_grad():
        for _ in range(CALLS):
            FUNCTIONS[name](*_inputs(n, d)[:3])


def forward_and_backward(name, n, d):
    torch.set_num_threads(1)
    *inputs, grad = _inputs(n, d)
    for _ in range(CALLS):
        leaves = [x.detach().requires_grad_() for x in inputs]
        torch.autograd.grad(FUNCTIONS[name](*leaves), leaves, grad, allow_unused=True)


_made = {}


def _inputs(n, d):
    """Made once a process, before the counted calls."""
    if (n, d) not in _made:
        _made[n, d] = normal(0, n, d), normal(1, d), normal(2, d), normal(3, n, d)
    return _made[n, d]


# The comparison


def compare(call, names, n, d):
    measured = side_by_side({name: (call, (name, n, d)) for name in names}, rounds=ROUNDS)
    print(f"\n{call.__name__}, {CALLS} times, {n} tokens of {d}\n{table(measured, names[0])}")
    return measured


LAYER_NORMS = ["layer_norm (torch)", "block_layer_norm", "layer_norm"]


@pytest.mark.parametrize("n, d", SIZES)
def test_layer_norm_forward_costs_at_most_four_times_the_fused_kernel(n, d):
    measured = compare(forward, LAYER_NORMS, n, d)
    time = ratio(measured, "block_layer_norm", "layer_norm (torch)", "cpu")
    assert time <= 4.0, f"{time:.2f} of the fused kernel's time"


@pytest.mark.parametrize("n, d", SIZES)
def test_training_a_layer_norm_costs_at_most_two_and_a_half_times_the_fused_kernel(n, d):
    measured = compare(forward_and_backward, LAYER_NORMS, n, d)
    time = ratio(measured, "block_layer_norm", "layer_norm (torch)", "cpu")
    assert time <= 2.5, f"{time:.2f} of the fused kernel's time"
    assert time < ratio(measured, "layer_norm", "layer_norm (torch)", "cpu") / 2


@pytest.mark.parametrize("peer, ours", [("rms_norm (torch)", "rms_norm"), ("gelu (torch)", "gelu")])
def test_what_the_other_plain_forms_cost(peer, ours):
    measured = compare(forward_and_backward, [peer, ours], 1568, 768)
    assert measured[ours].median("cpu") > 0
