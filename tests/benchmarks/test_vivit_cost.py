"""One training step of ViViT beside the same of transformers' VivitForVideoClassification: time and memory, float32.

    pytest -m benchmark -n0 -s tests/benchmarks/test_vivit_cost.py

A step is forward, cross-entropy, backward and AdamW; the peer's loss is its own and its AdamW torch's. Both have the
same weights at the start (`pretrained`), the peer its default attention, torch's fused kernel. Of ours three forms are
measured: "blocks" and "plain" are computed here, "fused" asks the same kernel of torch as the peer does.

The peer is installed by hand (transformers 5). MINIVID_BENCHMARK_ROUNDS says how many rounds (5). Ratios are of the
processor time with one thread, which other jobs disturb least, and of the clock with two.
"""

import importlib.util
import os

import pytest
import torch
from benchmarks.side_by_side import let_torchvision_load, ratio, side_by_side, table
from strategies import normal

from minivid.models.pretrained import vivit_of_published
from minivid.training.cross_entropy import cross_entropy
from minivid.training.optimizer import AdamW

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("default")]

ROUNDS = int(os.environ.get("MINIVID_BENCHMARK_ROUNDS", "5"))
# Clips in a batch, and what differs from the published configuration (12 blocks of 768, 32 frames of 224 x 224).
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_hidden_layers": 4}
SIZES = {
    "197 tokens of 384": (4, SMALL | {"num_frames": 8, "image_size": 112}),
    "1569 tokens of 384": (1, SMALL | {"num_frames": 16}),
    "3137 tokens of 768": (1, {"num_hidden_layers": 2}),
}


def train(kind, size, threads):
    """One step; what it starts from is made once a process, before the counted calls."""
    torch.set_num_threads(threads)
    if not _made:
        _made.extend(_make(kind, size))
    model, optimizer, clips, labels = _made
    if kind == "transformers":
        loss = model(pixel_values=clips, labels=labels).loss
    else:
        loss = cross_entropy(model(clips), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


train.describe = lambda loss: loss
_made = []


def _make(kind, size):
    let_torchvision_load()
    from transformers import VivitConfig, VivitForVideoClassification

    batch, numbers = SIZES[size]
    torch.manual_seed(0)
    config = VivitConfig(**numbers, num_labels=400)
    model = VivitForVideoClassification(config).train()
    if kind != "transformers":
        model = vivit_of_published(config.to_dict(), model.state_dict(), kernel=kind).train()
    optimizer = (torch.optim.AdamW if kind == "transformers" else AdamW)(model.parameters(), lr=1e-4)
    clips = normal(1, batch, config.num_frames, 3, config.image_size, config.image_size)
    return model, optimizer, clips, torch.arange(batch) % 400


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_a_training_step_costs_no_more_than_the_published_model_s(size, threads):
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    kinds = ["transformers", "blocks", "fused", *(["plain"] if size.startswith("197 ") else [])]
    measured = side_by_side({kind: (train, (kind, size, threads)) for kind in kinds}, rounds=ROUNDS)
    print(f"\na training step, {size}, batch {SIZES[size][0]}, threads: {threads}\n{table(measured, 'transformers')}")
    losses = [measured[kind].result for kind in kinds]
    assert max(losses) - min(losses) < 1e-4, f"not the same model: losses {losses}"
    clock = "cpu" if threads == 1 else "wall"
    for kind in ("blocks", "fused"):
        time, memory = (ratio(measured, kind, "transformers", figure) for figure in (clock, "memory"))
        assert time <= 1.0 and memory <= 1.0, f"{kind}: {time:.2f} of the time, {memory:.2f} of the memory"
