"""Attention beside torch's fused kernel: time and memory, one thread, float32, queries, keys and values given.

    pytest -m benchmark -n0 -s tests/benchmarks/test_attention_cost.py

MINIVID_BENCHMARK_ROUNDS says how many rounds (5). Ratios are of the processor time, which other jobs disturb least.
"""

import os

import pytest
import torch
from benchmarks.side_by_side import ratio, side_by_side, table
from strategies import normal
from torch.nn import functional as F

from minivid.layers.attention import attend, block_attend, online_attend

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("default")]

ROUNDS = int(os.environ.get("MINIVID_BENCHMARK_ROUNDS", "5"))


# The candidates


def fused(query, key, value):
    return F.scaled_dot_product_attention(query, key, value)


def plain(query, key, value):
    return attend(query, key, value)[0]


KERNELS = {"fused (torch)": fused, "blocks": block_attend, "online": online_attend, "plain": plain}


def forward(kernel, heads, n):
    torch.set_num_threads(1)
    with torch.no_grad():
        return KERNELS[kernel](*_inputs(heads, n))


def forward_and_backward(kernel, heads, n):
    torch.set_num_threads(1)
    inputs = [x.detach().requires_grad_() for x in _inputs(heads, n)]
    return torch.autograd.grad(KERNELS[kernel](*inputs).sum(), inputs)


_made = {}


def _inputs(heads, n):
    """Made once a process, before the counted calls."""
    if (heads, n) not in _made:
        _made[heads, n] = [normal(i, 1, heads, n, 64) for i in range(3)]
    return _made[heads, n]


# The comparison


def compare(call, kernels, heads, n):
    measured = side_by_side({kernel: (call, (kernel, heads, n)) for kernel in kernels}, rounds=ROUNDS)
    print(f"\n{call.__name__}, {heads} heads of 64, {n} tokens\n{table(measured, 'fused (torch)')}")
    extra = measured["blocks"].median("memory") - measured["fused (torch)"].median("memory")
    return ratio(measured, "blocks", "fused (torch)", "cpu"), extra


@pytest.mark.parametrize("heads, n, most", [(6, 1568, 1.10), (8, 4096, 1.10), (4, 8192, 1.15)])
def test_blocks_cost_a_tenth_more_than_the_fused_kernel(heads, n, most):
    # The plain form of 8192 tokens would take 2 GiB.
    time, extra = compare(forward, KERNELS if n < 8192 else ["fused (torch)", "blocks", "online"], heads, n)
    assert time <= most, f"{time:.2f} of the fused kernel's time"
    assert extra <= 32, f"{extra:.0f} MiB more than the fused kernel"


@pytest.mark.parametrize("heads, n, most", [(6, 1568, 1.15), (8, 4096, 1.30), (4, 8192, 1.30)])
def test_training_in_blocks_costs_little_more_than_the_fused_kernel(heads, n, most):
    kernels = ["fused (torch)", "blocks", "plain"]
    time, extra = compare(forward_and_backward, kernels if n < 8192 else kernels[:2], heads, n)
    assert time <= most, f"{time:.2f} of the fused kernel's time"
    assert extra <= 64, f"{extra:.0f} MiB more than the fused kernel"
