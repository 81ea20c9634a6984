"""Patch embedding beside torch's convolution: time and memory, one thread, float32, at a large model's size.

    pytest -m benchmark -n0 -s tests/benchmarks/test_patch_embed_cost.py

MINIVID_BENCHMARK_ROUNDS says how many rounds (5). Ratios are of the processor time, which other jobs disturb least.
"""

import os

import pytest
import torch
from benchmarks.side_by_side import ratio, side_by_side, table
from einops import rearrange
from strategies import normal
from torch import nn

from minivid.layers.patch_embed import PatchEmbed, tubelets

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("default")]

ROUNDS = int(os.environ.get("MINIVID_BENCHMARK_ROUNDS", "5"))
# 30 frames of 480 x 512 in boxes of 2 x 16 x 16: 14 400 patches of 1536 numbers, to tokens of 768.
CLIP, BOX, WIDTH = (1, 30, 3, 480, 512), (2, 16, 16), 768


# The candidates: what is embedded, and by what


def published(conv, rows):
    """As the published model calls it: a convolution on rows of patches, each a clip of its own."""
    return conv(rows.view(-1, 3, *BOX)).view(-1, WIDTH)


def on_the_clip(conv, clip):
    return conv(clip)


def our_rows(embed, rows):
    return embed.embed(rows)


def our_clip(embed, clip):
    return embed(clip)


CALLS = {
    "Conv3d on rows (published)": published,
    "Conv3d on the clip (torch)": on_the_clip,
    "rows": our_rows,
    "clip": our_clip,
}


def forward(call):
    torch.set_num_threads(1)
    module, pixels = _made(call)
    with torch.no_grad():
        return CALLS[call](module, pixels)


def forward_and_backward(call):
    """The weights' gradients, as in training: nobody asks for those of the pixels."""
    torch.set_num_threads(1)
    module, pixels = _made(call)
    return torch.autograd.grad(CALLS[call](module, pixels).sum(), list(module.parameters()))


_ready = {}


def _made(call):
    """Made once a process, before the counted calls; each gets the layout that it likes best."""
    if call not in _ready:
        clip = normal(0, *CLIP)
        conv = nn.Conv3d(3, WIDTH, BOX, stride=BOX)
        pixels = {
            "Conv3d on rows (published)": lambda: tubelets(clip, patch_size=16, temporal_patch_size=2)[0],
            "Conv3d on the clip (torch)": lambda: rearrange(clip, "b t c h w -> b c t h w").contiguous(),
            "rows": lambda: tubelets(clip, patch_size=16, temporal_patch_size=2)[0],
            "clip": lambda: clip,
        }[call]()
        _ready[call] = (conv if "Conv3d" in call else PatchEmbed.from_conv3d(conv)), pixels
    return _ready[call]


# The comparison


@pytest.mark.parametrize("call", [forward, forward_and_backward])
def test_a_matrix_product_is_what_a_patch_embedding_should_cost(call):
    measured = side_by_side({name: (call, (name,)) for name in CALLS}, rounds=ROUNDS)
    print(f"\n{call.__name__}, 14400 patches x 1536 to {WIDTH}\n{table(measured, 'Conv3d on rows (published)')}")
    rows = ratio(measured, "rows", "Conv3d on rows (published)", "cpu")
    clip = ratio(measured, "clip", "Conv3d on the clip (torch)", "cpu")
    memory = ratio(measured, "clip", "Conv3d on the clip (torch)", "memory")
    print(f"clip / torch on the clip: {clip:.2f} of the time, {memory:.2f} of the memory")
    assert rows <= 0.33, f"rows take {rows:.2f} of the published model's time"
    assert clip <= 1.0, f"a clip takes {clip:.2f} of torch's time"
