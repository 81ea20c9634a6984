"""3D convolution beside torch's fused one: time and memory, one thread, float32, at sizes of a 3D network.

    pytest -m benchmark -n0 -s tests/benchmarks/test_conv3d_cost.py

MINIVID_BENCHMARK_ROUNDS says how many rounds (5). Ratios are of the processor time, which other jobs disturb least.
"""

import os

import pytest
import torch
from benchmarks.side_by_side import ratio, side_by_side, table
from strategies import normal
from torch import nn

from minivid.layers.conv3d import Conv3d

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("default")]

ROUNDS = int(os.environ.get("MINIVID_BENCHMARK_ROUNDS", "5"))
# Kernels of 3 with padding 1: the first layer of a 3D network, on pixels, and one in its middle.
FIRST, MIDDLE = ((2, 3, 16, 112, 112), 64), ((2, 64, 8, 56, 56), 128)


# The candidates

MODULES = {
    "fused (torch)": lambda c, c_out: nn.Conv3d(c, c_out, 3, padding=1),
    "frames": lambda c, c_out: Conv3d(c, c_out, 3, padding=1, method="frames"),
    "plain": lambda c, c_out: Conv3d(c, c_out, 3, padding=1),
}


def forward(name, shape, c_out):
    torch.set_num_threads(1)
    module, clip = _made(name, shape, c_out)
    with torch.no_grad():
        return module(clip)


def forward_and_backward(name, shape, c_out):
    """All gradients; those of the clip only where it is no longer pixels."""
    torch.set_num_threads(1)
    module, clip = _made(name, shape, c_out)
    leaves = [*module.parameters(), *([clip] if clip.requires_grad else [])]
    return torch.autograd.grad(module(clip).sum(), leaves)


_ready = {}


def _made(name, shape, c_out):
    """Made once a process, before the counted calls."""
    if name not in _ready:
        _ready[name] = MODULES[name](shape[1], c_out), normal(0, *shape).requires_grad_(shape[1] > 3)
    return _ready[name]


# The comparison


@pytest.mark.parametrize(
    ("call", "shape", "c_out", "most"),
    [
        (forward, *FIRST, 1.0),
        (forward_and_backward, *FIRST, 1.15),
        (forward, *MIDDLE, 3.2),
        (forward_and_backward, *MIDDLE, 3.3),
    ],
)
def test_frames_cost_about_what_the_fused_convolution_does(call, shape, c_out, most):
    measured = side_by_side({name: (call, (name, shape, c_out)) for name in MODULES}, rounds=ROUNDS)
    print(f"\n{call.__name__}, {' x '.join(map(str, shape))} to {c_out} channels\n{table(measured, 'fused (torch)')}")
    time = ratio(measured, "frames", "fused (torch)", "cpu")
    memory = ratio(measured, "frames", "fused (torch)", "memory")
    assert time <= most, f"{time:.2f} of torch's time"
    assert memory <= 2.0, f"{memory:.2f} of torch's memory"
