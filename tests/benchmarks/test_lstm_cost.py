"""The LSTM beside torch's fused one and a loop over torch's cell: time and memory, one thread, float32.

    pytest -m benchmark -n0 -s tests/benchmarks/test_lstm_cost.py

MINIVID_BENCHMARK_ROUNDS says how many rounds (5). Ratios are of the processor time, which other jobs disturb least.
"""

import os
from functools import cache

import pytest
import torch
from benchmarks.side_by_side import ratio, side_by_side, table
from strategies import normal
from torch import nn

from minivid.layers.lstm import LSTM

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("default")]

ROUNDS = int(os.environ.get("MINIVID_BENCHMARK_ROUNDS", "5"))
# One call takes milliseconds: so many make one that can be timed.
CALLS = 20
FUSED, LOOP = "nn.LSTM", "loop over nn.LSTMCell"


# The candidates


class Loop(nn.Module):
    """What one writes who has a cell only."""

    def __init__(self, width):
        super().__init__()
        self.cell = nn.LSTMCell(width, width)

    def forward(self, input):
        state, outputs = None, []
        for frame in input:
            state = self.cell(frame, state)
            outputs.append(state[0])
        return torch.stack(outputs), state


MODULES = {
    FUSED: lambda width: nn.LSTM(width, width),
    LOOP: Loop,
    "fast": lambda width: LSTM(width, width),
    "plain": lambda width: LSTM(width, width, kernel="plain"),
}


@cache
def made(name, t, b, width):
    """Made once a process, before the counted calls."""
    return MODULES[name](width), normal(0, t, b, width)


def forward(name, t, b, width):
    torch.set_num_threads(1)
    module, input = made(name, t, b, width)
    with torch.no_grad():
        for _ in range(CALLS):
            module(input)


def forward_and_backward(name, t, b, width):
    torch.set_num_threads(1)
    module, input = made(name, t, b, width)
    for _ in range(CALLS):
        torch.autograd.grad(module(input)[0].sum(), list(module.parameters()))


# The comparison


@pytest.mark.parametrize(
    "call, t, b, width, of_fused, of_loop",
    [
        (forward, 30, 8, 512, 2.1, 0.9),
        (forward_and_backward, 30, 8, 512, 1.7, 0.9),
        (forward, 64, 32, 128, 2.9, 0.90),  # so narrow that the squashing, which both do alike, is a third of the time
        (forward_and_backward, 64, 32, 128, 2.5, 0.9),
    ],
)
def test_the_fast_walk_costs_at_most_so_much_of_the_fused_one_and_less_than_a_loop(
    call, t, b, width, of_fused, of_loop
):
    measured = side_by_side({name: (call, (name, t, b, width)) for name in MODULES}, rounds=ROUNDS)
    print(f"\n{call.__name__}, {t} frames of {b} clips, {width} wide, {CALLS} calls\n{table(measured, FUSED)}")
    fused, loop = (ratio(measured, "fast", peer, "cpu") for peer in (FUSED, LOOP))
    print(f"of a loop over nn.LSTMCell: {loop:.2f}")
    assert fused <= of_fused, f"{fused:.2f} of the fused LSTM's time"
    assert loop <= of_loop, f"{loop:.2f} of the time of a loop over nn.LSTMCell"
