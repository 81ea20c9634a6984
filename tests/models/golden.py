"""A tiny published checkpoint with what its own code made of three texts, pictures and clips among them."""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open

from minivid.models.pretrained import qwen3_vl_of_published

PLACE = Path(__file__).parent.parent / "data" / "qwen3_vl.safetensors"
INPUTS = (
    "input_ids",
    "attention_mask",
    "pixel_values",
    "image_grid_thw",
    "pixel_values_videos",
    "video_grid_thw",
)


@cache
def published():
    """The configuration, the weights and what was noted, as transformers wrote them."""
    with safe_open(PLACE, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    noted = {name.removeprefix("io."): tensor for name, tensor in tensors.items() if name.startswith("io.")}
    return config, {name: tensor for name, tensor in tensors.items() if not name.startswith("io.")}, noted


def golden_model(kernel="plain"):
    config, weights, _ = published()
    return qwen3_vl_of_published(config, {name: weight.clone() for name, weight in weights.items()}, kernel=kernel)


def noted(*names):
    return tuple(published()[2][name] for name in names)


def golden_inputs():
    return dict(zip(INPUTS, noted(*INPUTS), strict=True))


def equals_golden(got, want):
    """Up to 1.5e-4, the sum of many roundings of numbers of size 10; the smallest mistake moves logits by 3e-4."""
    torch.testing.assert_close(got, want, atol=1.5e-4, rtol=0)


class States:
    """What chosen modules of a model gave back, by their place in it, while the context is open."""

    def __init__(self, model, *names):
        self.model, self.names, self.seen, self.hooks = model, names, {}, []

    def __enter__(self):
        for name in self.names:
            keep = self.seen.setdefault(name, []).append
            module = self.model.get_submodule(name)
            self.hooks.append(module.register_forward_hook(lambda _, __, result, keep=keep: keep(result)))
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()

    def rows(self, name):
        """All tokens of a module's results, one behind the other."""
        return torch.cat([result.flatten(0, -2) for result in self.seen[name]])
