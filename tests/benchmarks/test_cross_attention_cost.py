"""Attention between a clip and a text, and along time, beside the same made of torch's modules: one thread, float32.

    pytest -m benchmark -n0 -s tests/benchmarks/test_cross_attention_cost.py

MINIVID_BENCHMARK_ROUNDS says how many rounds (5). Ratios are of the processor time, which other jobs disturb least.
torch.nn.MultiheadAttention is called with need_weights=False, which is its fast way.
"""

import os

import pytest
import torch
from benchmarks.side_by_side import ratio, side_by_side, table
from strategies import normal
from torch import nn

from minivid.layers.cross_attention import CrossModalAttention, TemporalAttention

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("default")]

ROUNDS = int(os.environ.get("MINIVID_BENCHMARK_ROUNDS", "5"))
TORCH = "torch"
KERNELS = (TORCH, "plain", "blocks", "fused")


# The candidates


class TorchBlock(nn.Module):
    """Co-attention with pre-norm, out of torch's modules."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.video_norm, self.text_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.video_reads_text = nn.MultiheadAttention(width, heads, batch_first=True)
        self.text_reads_video = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, video, text):
        v, t = self.video_norm(video), self.text_norm(text)
        video = video + self.video_reads_text(v, t, t, need_weights=False)[0]
        return video, text + self.text_reads_video(t, v, v, need_weights=False)[0]


class TorchAlongTime(nn.Module):
    """Attention along time by torch's module."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x):
        b, t, s, d = x.shape
        columns = x.transpose(1, 2).reshape(b * s, t, d)
        gathered = self.attention(columns, columns, columns, need_weights=False)[0]
        return gathered.view(b, s, t, d).transpose(1, 2)


def block(kernel: str, width: int, heads: int) -> nn.Module:
    if kernel == TORCH:
        return TorchBlock(width, heads)
    return CrossModalAttention(width, width, width, heads, kernel=kernel)


def along_time(kernel: str, width: int, heads: int) -> nn.Module:
    return TorchAlongTime(width, heads) if kernel == TORCH else TemporalAttention(width, heads, kernel=kernel)


MODULES = {"block": block, "along time": along_time}


def forward(what, kernel, width, heads, *shapes):
    module, inputs = _made(what, kernel, width, heads, *shapes)
    with torch.no_grad():
        return module(*inputs)


def forward_and_backward(what, kernel, width, heads, *shapes):
    module, inputs = _made(what, kernel, width, heads, *shapes)
    outputs = module(*(x.detach().requires_grad_() for x in inputs))
    total = sum(y.sum() for y in outputs) if isinstance(outputs, tuple) else outputs.sum()
    return torch.autograd.grad(total, list(module.parameters()))


_kept = {}


def _made(what, kernel, width, heads, *shapes):
    """Made once a process, before the counted calls."""
    torch.set_num_threads(1)
    key = (what, kernel, width, heads, *shapes)
    if key not in _kept:
        torch.manual_seed(0)
        module = MODULES[what](kernel, width, heads)
        _kept[key] = module, [normal(i, *shape) for i, shape in enumerate(shapes)]
    return _kept[key]


# The comparison


def compare(call, what, width, heads, *shapes):
    candidates = {kernel: (call, (what, kernel, width, heads, *shapes)) for kernel in KERNELS}
    measured = side_by_side(candidates, rounds=ROUNDS)
    print(f"\n{what}, {call.__name__}, {width} wide, {heads} heads, {shapes}\n{table(measured, TORCH)}")
    return {
        kernel: (
            ratio(measured, kernel, TORCH, "cpu"),
            measured[kernel].median("memory") - measured[TORCH].median("memory"),
        )
        for kernel in KERNELS
    }


# 16 frames of 14 x 14 patches in pairs (VideoMAE at 224 x 224) and a sentence; twice of each in a batch.
STREAMS = ((2, 1568, 768), (2, 64, 768))


# The plain form keeps the weights, to be looked at, and for the gradient what they were made of: of the three, only its
# memory has no bound.
@pytest.mark.parametrize("call", [forward, forward_and_backward])
def test_the_block_costs_little_more_than_torchs(call):
    measured = compare(call, "block", 768, 12, *STREAMS)
    for kernel in ("plain", "blocks", "fused"):
        time, extra = measured[kernel]
        assert time <= 1.15, f"{kernel}: {time:.2f} of the time of torch's modules"
        if kernel != "plain":
            assert extra <= 32, f"{kernel}: {extra:.0f} MiB more than torch's modules"


# 8 and 32 frames of 14 x 14 patches, 768 wide: TimeSformer, and a longer clip.
@pytest.mark.parametrize("frames", [8, 32])
@pytest.mark.parametrize("call, most", [(forward, 1.25), (forward_and_backward, 1.25)])
def test_attention_along_time_costs_little_more_than_torchs(frames, call, most):
    measured = compare(call, "along time", 768, 12, (1, frames, 196, 768))
    for kernel in ("plain", "fused"):
        time, extra = measured[kernel]
        assert time <= most, f"{kernel}: {time:.2f} of the time of torch's modules"
        assert extra <= 64, f"{kernel}: {extra:.0f} MiB more than torch's modules"
