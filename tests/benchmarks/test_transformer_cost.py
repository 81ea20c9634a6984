"""An encoder block and a stack beside torch's layer: time and memory, one thread, float32, width 384, six heads.

    pytest -m benchmark -n0 -s tests/benchmarks/test_transformer_cost.py

MINIVID_BENCHMARK_ROUNDS says how many rounds (5). Ratios are of the processor time, which other jobs disturb least.
"""

import os

import pytest
import torch
from benchmarks.side_by_side import ratio, side_by_side, table
from strategies import normal
from torch import nn

from minivid.layers.transformer import Encoder

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("default")]

ROUNDS = int(os.environ.get("MINIVID_BENCHMARK_ROUNDS", "5"))
# VideoMAE-S: 16 frames of 224 x 224 are 1568 tokens.
D, HEADS, HIDDEN, TOKENS = 384, 6, 1536, 1568
KINDS = ("torch", "fused", "blocks", "plain")


# The candidates


def forward(kind, n, layers):
    stack, x = _made(kind, n, layers)
    with torch.no_grad():
        return stack(x)


def forward_and_backward(kind, n, layers):
    stack, x = _made(kind, n, layers)
    return torch.autograd.grad(stack(x).sum(), list(stack.parameters()))


_stacks = {}


def _made(kind, n, layers):
    """Made once a process, before the counted calls."""
    torch.set_num_threads(1)
    if (kind, n, layers) not in _stacks:
        torch.manual_seed(0)
        if kind == "torch":
            layer = nn.TransformerEncoderLayer(D, HEADS, HIDDEN, 0.0, "gelu", batch_first=True, norm_first=True)
            stack = nn.TransformerEncoder(layer, layers, nn.LayerNorm(D), enable_nested_tensor=False)
        else:
            stack = Encoder(D, HEADS, HIDDEN, layers, kernel=kind)
        _stacks[kind, n, layers] = stack, normal(0, 1, n, D)
    return _stacks[kind, n, layers]


# The comparison


def compare(call, n, layers, kinds=KINDS):
    measured = side_by_side({kind: (call, (kind, n, layers)) for kind in kinds}, rounds=ROUNDS)
    print(f"\n{call.__name__}, {layers} blocks, {n} tokens of {D}\n{table(measured, 'torch')}")
    return {kind: tuple(ratio(measured, kind, "torch", what) for what in ("cpu", "memory")) for kind in kinds}


def test_a_block_costs_little_more_than_that_of_torch():
    found = compare(forward, TOKENS, 1)
    assert found["fused"][0] <= 1.25, f"fused: {found['fused'][0]:.2f} of torch's time"
    assert found["blocks"][0] <= 1.30, f"blocks: {found['blocks'][0]:.2f} of torch's time"


def test_training_a_block_costs_little_more_than_that_of_torch():
    found = compare(forward_and_backward, TOKENS, 1)
    assert found["fused"][0] <= 1.25, f"fused: {found['fused'][0]:.2f} of torch's time"
    assert found["blocks"][0] <= 1.30, f"blocks: {found['blocks'][0]:.2f} of torch's time"


def test_a_stack_costs_its_blocks():
    one, four = (compare(forward_and_backward, 196, layers, ("torch", "plain")) for layers in (1, 4))
    assert four["plain"][0] <= 1.3 * one["plain"][0], f"{one['plain'][0]:.2f}, then {four['plain'][0]:.2f}"
