"""Published checkpoints: the weights of a `transformers` ViViT under the names and in the numbers of ours."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from minivid.models.vivit import ViViT, ViViTConfig
from minivid.shapes import misfits

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

# Published name to ours, tried in this order. Two spellings of a block: up to version 4 of the library, and since 5.
_RENAMED = (
    (r"vivit\.", ""),
    (r"embeddings\.cls_token$", "class_token"),
    (r"embeddings\.position_embeddings$", "positions"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"(encoder\.layer|layers)\.(\d+)\.", r"blocks.\2."),
    (r"(blocks\.\d+\.)layernorm_before\.", r"\1attention_norm."),
    (r"(blocks\.\d+\.)layernorm_after\.", r"\1feed_forward_norm."),
    (r"(blocks\.\d+\.)attention\.attention\.(query|key|value)\.", lambda m: f"{m[1]}attention.{m[2][0]}_proj."),
    (r"(blocks\.\d+\.)attention\.(output\.dense|o_proj)\.", r"\1attention.out_proj."),
    (r"(blocks\.\d+\.)(intermediate\.dense|mlp\.fc1)\.", r"\1feed_forward.up_proj."),
    (r"(blocks\.\d+\.)(output\.dense|mlp\.fc2)\.", r"\1feed_forward.down_proj."),
    (r"layernorm\.", "norm."),
)
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_SAME = (
    "num_frames",
    "num_channels",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "qkv_bias",
)


def load_pretrained(folder: str | os.PathLike, *, kernel: str = "plain") -> ViViT:
    """Read a folder with a published ViViT, as `transformers` writes it.

    Args:
        folder: with config.json and model.safetensors. A pickled pytorch_model.bin is not read: it can run code.
        kernel: how attention is computed, as in ViViTConfig.

    Returns:
        As `vivit_of_published`.

    Raises:
        FileNotFoundError: if one of the two files is missing.
        ValueError: if one is damaged, or as in `vivit_of_published`.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: no {name}, expected {CONFIG} and {WEIGHTS} of a published model")
    try:
        published = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{folder}: {CONFIG} or {WEIGHTS} is damaged ({error}); get both anew") from error
    return vivit_of_published(published, weights, kernel=kernel)


def vivit_of_published(
    published: Mapping[str, object], weights: Mapping[str, Tensor], *, kernel: str = "plain"
) -> ViViT:
    """A ViViT with the weights of a `transformers` VivitModel or VivitForVideoClassification.

    Args:
        published: its configuration, as config.json holds it or `config.to_dict()` gives it.
        weights: its state dict. The pooler of a VivitModel is left out: classes are read off the class token itself.
        kernel: how attention is computed, as in ViViTConfig.

    Returns:
        The model in evaluation mode. Of a VivitModel, which has none, the classifier is drawn anew.

    Raises:
        ValueError: if the configuration asks for what ViViT has not, or the weights are not those of the configuration.
    """
    ours = rename_published(weights)
    labels = len(ours["classifier.weight"]) if "classifier.weight" in ours else None
    model = ViViT(replace(config_of_published(published, num_labels=labels), kernel=kernel)).eval()
    wanted = model.state_dict()
    for name in ("classifier.weight", "classifier.bias"):
        ours.setdefault(name, wanted[name])
    if wrong := misfits(ours, wanted):
        raise ValueError(f"weights: not those of the configuration: {wrong}")
    model.load_state_dict(ours)
    return model


def rename_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights of a published ViViT our names; they keep their shapes and numbers.

    Args:
        weights: as in `vivit_of_published`.

    Returns:
        The same tensors without the pooler. A name that is not known is kept.
    """
    renamed = {}
    for name, weight in weights.items():
        for pattern, ours in _RENAMED:
            name = re.sub(f"^{pattern}", ours, name)
        if not name.startswith("pooler."):
            renamed[name] = weight
    return renamed


def config_of_published(published: Mapping[str, object], *, num_labels: int | None = None) -> ViViTConfig:
    """The configuration of a published ViViT in the numbers of ours.

    Args:
        published: as in `vivit_of_published`; what is missing has the published default.
        num_labels: classes; None = as many as the configuration names.

    Raises:
        ValueError: if it is of another model, or asks for what ViViT has not; the message names the option.
    """
    kind = published.get("model_type", "vivit")
    if kind != "vivit":
        raise ValueError(f"model_type={kind!r}, expected 'vivit'")
    numbers = {name: published[name] for name in _SAME if name in published}
    act = published.get("hidden_act", "gelu_fast")
    if act not in _ACTIVATIONS:
        raise ValueError(f"hidden_act={act!r} is not known here, only {', '.join(_ACTIVATIONS)}")
    size = published.get("image_size", 224)
    if isinstance(size, list | tuple):
        if len(size) != 2 or size[0] != size[1]:
            raise ValueError(f"image_size={size!r}: only square frames are read here")
        size = size[0]
    dropout, of_weights = (published.get(f"{what}_dropout_prob", 0.0) for what in ("hidden", "attention_probs"))
    if dropout != of_weights:
        raise ValueError(
            f"attention_probs_dropout_prob={of_weights} and hidden_dropout_prob={dropout}: only one share for both is "
            "known here; write the one to train with into both, the weights do not depend on it"
        )
    config = ViViTConfig(
        image_size=size,
        tubelet_size=tuple(published.get("tubelet_size", (2, 16, 16))),
        hidden_act=_ACTIVATIONS[act],
        num_labels=num_labels or published.get("num_labels") or len(published.get("id2label") or "ab"),
        **numbers,
    )
    width = config.hidden_size // config.num_attention_heads
    if published.get("head_dim", width) != width:
        raise ValueError(
            f"head_dim={published['head_dim']}, expected hidden_size / num_attention_heads = {width}: heads are parts "
            "of the width here"
        )
    return config
