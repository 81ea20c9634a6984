"""Published checkpoints in and out: a folder that `transformers` wrote becomes a model here, and the other way round.

A published model is a table of numbers, config.json, and its weights by name, in one safetensors file or in several
with an index. The arithmetic is the same as here, so loading is renaming; only where one published matrix is several
here, its rows are dealt out.
"""

import errno
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minivid.models.qwen3_vl import Qwen3VL, Qwen3VLConfig, Qwen3VLTextConfig
from minivid.models.qwen3_vl_vision import Qwen3VLVisionConfig
from minivid.models.vivit import ViViT, ViViTConfig
from minivid.shapes import misfits
from minivid.whole_files import replaced_files

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PIECE = 1 << 23  # bytes of a weight that are changed into another kind of number at a time
_LISTED = 12  # differences that an error names

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
_PUBLISHED_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu", "silu": "silu"}


def load_pretrained(
    folder: str | os.PathLike, *, dtype: torch.dtype | None = None, kernel: str | None = None
) -> Qwen3VL | ViViT:
    """Read a folder with a published Qwen3-VL or ViViT, as `transformers` writes it.

    Nothing is copied: a weight is a view of its file and comes from the disk when it is first used. Where it is to be
    another kind of number, a piece of it at a time is. So memory holds the weights once. Before a Qwen3-VL in float32
    says much on a processor, `generate.column_major` makes each of its words come sooner.

    Args:
        folder: with config.json and model.safetensors, or model.safetensors.index.json and the files that it names. A
            pickled pytorch_model.bin is not read: it can run code.
        dtype: what the weights are to be, such as torch.float32 or torch.bfloat16; None = what they are in the file.
        kernel: how attention is computed, as in ViViTConfig and Qwen3VLConfig; None = by their default.

    Returns:
        The model in evaluation mode. Leave its files as they are while it is in use; replacing them by others, as
        `save_pretrained` does, is no harm.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if one is damaged, the configuration is of a model or has an option that is not known here, or the
            weights are not those of the configuration; the message lists the missing and the surplus ones.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype={dtype}: weights are fractions; give torch.float32 or torch.bfloat16")
    folder = Path(folder)
    published = read_config(folder)
    weights = _StoredWeights(folder, dtype)
    try:
        options = {} if kernel is None else {"kernel": kernel}
        return _MODELS[published["model_type"]](published, weights, **options)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def read_config(folder: str | os.PathLike) -> dict:
    """Read the config.json of a published model, without its weights.

    Args:
        folder: as in `load_pretrained`.

    Raises:
        FileNotFoundError: if there is no such folder, or no config.json in it.
        ValueError: if the file is damaged, or of a model that is not known here.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, expected a folder" if folder.exists() else "there is no such folder; expected one"
        raise FileNotFoundError(f"{folder}: {what} with {CONFIG} and {WEIGHTS} of a published model")
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder}: no {CONFIG}, expected {CONFIG} and {WEIGHTS} of a published model")
    published = _read_json(folder / CONFIG)
    kind = published.get("model_type")
    if kind not in _MODELS:
        hint = "; it is of a classifier that minivid trained: use `minivid predict`" if "clip" in published else ""
        raise ValueError(
            f"{folder / CONFIG}: model_type={kind!r} is not known here, only {', '.join(map(repr, _MODELS))}{hint}"
        )
    return published


def save_pretrained(model: nn.Module, folder: str | os.PathLike, *, shard_size: int = 5 * 10**9) -> None:
    """Write a model as `transformers` does, which then loads it; what is read back is the same bit by bit.

    The files appear under their names when all are complete. Other files of the folder, such as a tokenizer, stay.

    Args:
        model: a Qwen3VL or a ViViT; its weights are written as they are, in float32 or bfloat16.
        folder: made if it does not exist; gets config.json and model.safetensors, or, where the weights take more than
            shard_size, model-00001-of-00002.safetensors, ... and model.safetensors.index.json.
        shard_size: bytes of weights in one file; a weight that is larger has one of its own.

    Raises:
        ValueError: if the model is of another kind, or shard_size is below 1.
        OSError: if the folder cannot be written to.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size={shard_size} is not at least 1 byte")
    if isinstance(model, Qwen3VL):
        published, name_of = published_qwen3_vl_config(model.config), _qwen3_vl_name
    elif isinstance(model, ViViT):
        published, name_of = published_vivit_config(model.config), _vivit_name
    else:
        raise ValueError(f"{type(model).__name__}: only a Qwen3VL or a ViViT has a published form")
    state = model.state_dict()
    published |= {"dtype": str(next(iter(state.values())).dtype).removeprefix("torch.")}
    stacks = _stacks(state, name_of)
    shards = _shards({name: _bytes(state[part] for part in parts) for name, parts in stacks.items()}, shard_size)
    files = [WEIGHTS] if len(shards) == 1 else _shard_names(len(shards))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replaced_files(folder, key=CONFIG, surplus=_weight_files) as unfinished:
        for file, names in zip(files, shards, strict=True):
            # Only matrices that are stacked from several are copied, and only those of one file at a time.
            tensors = {name: _stacked([state[part] for part in stacks[name]]) for name in names}
            try:
                save_file(tensors, unfinished / file, metadata={"format": "pt"})
            except SafetensorError as error:
                raise OSError(errno.EIO, f"{folder / file}: {error}") from error
        if len(shards) > 1:
            places = {name: file for file, names in zip(files, shards, strict=True) for name in names}
            index = {"metadata": {"total_size": _bytes(state.values())}, "weight_map": dict(sorted(places.items()))}
            _write_json(unfinished / INDEX, index)
        _write_json(unfinished / CONFIG, published)


# ---- Qwen3-VL

# Our name to the published one: every rule is tried, in this order.
_QWEN3_VL_RENAMED = (
    (r"^(visual|language_model)\.", r"model.\1."),
    (r"^(model\.visual\.blocks\.\d+\.)attention_norm\.", r"\1norm1."),
    (r"^(model\.visual\.blocks\.\d+\.)feed_forward_norm\.", r"\1norm2."),
    (r"^(model\.visual\.blocks\.\d+\.)attention\.out_proj\.", r"\1attn.proj."),
    (r"^(model\.visual\.blocks\.\d+\.)attention\.[qkv]_proj\.", r"\1attn.qkv."),  # three of ours in one
    (r"^(model\.visual\.blocks\.\d+\.)feed_forward\.up_proj\.", r"\1mlp.linear_fc1."),
    (r"^(model\.visual\.blocks\.\d+\.)feed_forward\.down_proj\.", r"\1mlp.linear_fc2."),
    (r"^(model\.language_model\.layers\.\d+\.)attention_norm\.", r"\1input_layernorm."),
    (r"^(model\.language_model\.layers\.\d+\.)feed_forward_norm\.", r"\1post_attention_layernorm."),
    (r"^(model\.language_model\.layers\.\d+\.)attention\.out_proj\.", r"\1self_attn.o_proj."),
    (r"^(model\.language_model\.layers\.\d+\.)attention\.", r"\1self_attn."),
    (r"^(model\.language_model\.layers\.\d+\.)feed_forward\.", r"\1mlp."),
)
_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
_ROTARY = ("rope_parameters", "rope_scaling")  # where the rotary numbers stand: since version 5 of transformers, before


def qwen3_vl_of_published(
    published: Mapping[str, object], weights: Mapping[str, Tensor], *, kernel: str = "fastest"
) -> Qwen3VL:
    """A Qwen3-VL with the weights of a `transformers` Qwen3VLForConditionalGeneration.

    Args:
        published: its configuration, as config.json holds it or `config.to_dict()` gives it, in the dialect of
            transformers 4 or 5.
        weights: its state dict; a tied head may be there or not.
        kernel: how attention is computed, as in Qwen3VLConfig.

    Returns:
        The model in evaluation mode; its weights are not copies of those given.

    Raises:
        ValueError: if the configuration asks for what Qwen3VL has not, or the weights are not those of the
            configuration.
    """
    if "tie_word_embeddings" not in published and "tie_word_embeddings" not in (published.get("text_config") or {}):
        published = {**published, "tie_word_embeddings": _HEAD not in weights}
    config = replace(qwen3_vl_config_of_published(published), kernel=kernel)
    with _without_numbers():
        model = Qwen3VL(config).eval()
    found = weights.shapes if isinstance(weights, _StoredWeights) else weights
    wanted = model.state_dict()
    stacks = _stacks(wanted, _qwen3_vl_name)
    if config.tie_word_embeddings and _HEAD in found:
        # Some writers store the tied table a second time.
        if not torch.equal(weights[_HEAD], weights[_TABLE]):
            raise ValueError(
                f"weights: {_HEAD} is not {_TABLE}, though tie_word_embeddings is true; one of them is wrong"
            )
        found = {name: weight for name, weight in found.items() if name != _HEAD}
    rows = {name: [len(wanted[part]) for part in parts] for name, parts in stacks.items()}
    like = {
        name: torch.empty(sum(rows[name]), *wanted[parts[0]].shape[1:], device="meta") for name, parts in stacks.items()
    }
    if wrong := misfits(found, like, at_most=_LISTED):
        raise ValueError(f"weights: not those of the configuration: {wrong}")
    ours = {}
    for name, parts in stacks.items():
        ours |= dict(zip(parts, weights[name].split(rows[name]), strict=True))
    model.load_state_dict(ours, assign=True)
    return model


_HEAD, _TABLE = "lm_head.weight", "model.language_model.embed_tokens.weight"


def qwen3_vl_config_of_published(published: Mapping[str, object]) -> Qwen3VLConfig:
    """The configuration of a published Qwen3-VL in the numbers of ours.

    The rotary numbers stand in `rope_scaling` and beside it in files of transformers 4, in `rope_parameters` since 5.

    Args:
        published: as in `qwen3_vl_of_published`; what is missing has the value of Qwen3-VL-4B.

    Raises:
        ValueError: if it is of another model, or asks for what Qwen3VL has not; the message names the option.
    """
    _check_type(published, "qwen3_vl")
    if published.get("quantization_config"):
        raise ValueError("quantization_config: quantised weights are not read here; take the files in bfloat16")
    text, vision = (_part(published, name) for name in ("text_config", "vision_config"))
    tied = published.get("tie_word_embeddings", text.get("tie_word_embeddings", Qwen3VLConfig.tie_word_embeddings))
    try:
        return Qwen3VLConfig(
            text_config=Qwen3VLTextConfig(**_text_numbers(text)),
            vision_config=Qwen3VLVisionConfig(**_vision_numbers(vision)),
            tie_word_embeddings=bool(tied),
            **{name: published[name] for name in _IDS if name in published},
        )
    except TypeError as error:  # a word or a list where a number should be
        raise ValueError(f"the configuration is not of numbers as expected ({error})") from error


def _text_numbers(text: Mapping[str, object]) -> dict[str, object]:
    _only(text, "text_config.hidden_act", "silu", "silu")
    _only(text, "text_config.attention_dropout", 0.0)
    _only(text, "text_config.use_sliding_window", False)
    numbers = _same(text, Qwen3VLTextConfig)
    rotary: dict[str, object] = {"rope_theta": text["rope_theta"]} if "rope_theta" in text else {}
    for place in _ROTARY:
        dialect = text.get(place) or {}
        if not isinstance(dialect, Mapping):
            raise ValueError(f"text_config.{place} is {dialect!r}, expected a table of numbers")
        kind = dialect.get("rope_type", dialect.get("type", "default"))
        if kind not in ("default", "mrope"):
            raise ValueError(f"text_config.{place}: rope_type={kind!r} is not known here, only 'default'")
        _only(dialect, f"text_config.{place}.mrope_interleaved", True)
        for name in ("rope_theta", "mrope_section"):
            if name in dialect and rotary.setdefault(name, dialect[name]) != dialect[name]:
                raise ValueError(f"text_config: {name} is {rotary[name]} and, in {place}, {dialect[name]}")
    return numbers | {name: _tuple(value) for name, value in rotary.items()}


def _vision_numbers(vision: Mapping[str, object]) -> dict[str, object]:
    rotary = vision.get("rope_parameters") or {}
    _only(rotary, "vision_config.rope_parameters.rope_type", "axial", "default")
    numbers = _same(vision, Qwen3VLVisionConfig) | {"hidden_act": _activation(vision, "gelu_pytorch_tanh")}
    if "rope_theta" in rotary:
        numbers["rope_theta"] = rotary["rope_theta"]
    return {name: _tuple(value) for name, value in numbers.items()}


def published_qwen3_vl_config(config: Qwen3VLConfig) -> dict:
    """The configuration as `transformers` writes it; version 4.57 and version 5 read the same model from it.

    Args:
        config: ours. Its kernel is no part of it.
    """
    text, vision = asdict(config.text_config), asdict(config.vision_config)
    mrope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": list(text.pop("mrope_section"))}
    tied = {"tie_word_embeddings": config.tie_word_embeddings}
    axial = {"rope_type": "axial", "rope_theta": vision.pop("rope_theta")}
    text |= {"model_type": "qwen3_vl_text", "hidden_act": "silu", "attention_dropout": 0.0, **tied}
    # Both dialects, with the same numbers: each version takes the one that it knows.
    text |= {"rope_scaling": mrope, "rope_parameters": mrope | {"rope_theta": text["rope_theta"]}}
    vision |= {"model_type": "qwen3_vl_vision", "rope_parameters": axial}
    vision["hidden_act"] = _PUBLISHED_ACTIVATIONS[config.vision_config.hidden_act]
    vision["deepstack_visual_indexes"] = list(config.vision_config.deepstack_visual_indexes)
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        **{name: getattr(config, name) for name in _IDS},
        **tied,
        "text_config": text,
        "vision_config": vision,
    }


def _qwen3_vl_name(ours: str) -> str:
    return _renamed(ours, _QWEN3_VL_RENAMED)


# ---- ViViT

# Published name to ours, tried in this order. Two spellings of a block: up to version 4 of the library, and since 5.
_VIVIT_RENAMED = (
    (r"^vivit\.", ""),
    (r"^embeddings\.cls_token$", "class_token"),
    (r"^embeddings\.position_embeddings$", "positions"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(encoder\.layer|layers)\.(\d+)\.", r"blocks.\2."),
    (r"^(blocks\.\d+\.)layernorm_before\.", r"\1attention_norm."),
    (r"^(blocks\.\d+\.)layernorm_after\.", r"\1feed_forward_norm."),
    (r"^(blocks\.\d+\.)attention\.attention\.(query|key|value)\.", lambda m: f"{m[1]}attention.{m[2][0]}_proj."),
    (r"^(blocks\.\d+\.)attention\.(output\.dense|o_proj)\.", r"\1attention.out_proj."),
    (r"^(blocks\.\d+\.)(intermediate\.dense|mlp\.fc1)\.", r"\1feed_forward.up_proj."),
    (r"^(blocks\.\d+\.)(output\.dense|mlp\.fc2)\.", r"\1feed_forward.down_proj."),
    (r"^layernorm\.", "norm."),
)
# Ours to the published one, in the older spelling: both versions read it.
_WORDS = {"q": "query", "k": "key", "v": "value"}
_VIVIT_PUBLISHED = (
    (r"^norm\.", "layernorm."),
    (r"^class_token$", "embeddings.cls_token"),
    (r"^positions$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attention_norm\.", ".layernorm_before."),
    (r"\.feed_forward_norm\.", ".layernorm_after."),
    (r"\.attention\.([qkv])_proj\.", lambda m: f".attention.attention.{_WORDS[m[1]]}."),
    (r"\.attention\.out_proj\.", ".attention.output.dense."),
    (r"\.feed_forward\.up_proj\.", ".intermediate.dense."),
    (r"\.feed_forward\.down_proj\.", ".output.dense."),
    (r"^(?!classifier\.)", "vivit."),
)
_VIVIT_SAME = (
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


def vivit_of_published(
    published: Mapping[str, object], weights: Mapping[str, Tensor], *, kernel: str = "plain"
) -> ViViT:
    """A ViViT with the weights of a `transformers` VivitModel or VivitForVideoClassification.

    Args:
        published: its configuration, as config.json holds it or `config.to_dict()` gives it.
        weights: its state dict. The pooler of a VivitModel is left out: classes are read off the class token itself.
        kernel: how attention is computed, as in ViViTConfig.

    Returns:
        The model in evaluation mode; its weights are not copies of those given. Of a VivitModel, which has none, the
        classifier is drawn anew.

    Raises:
        ValueError: if the configuration asks for what ViViT has not, or the weights are not those of the configuration.
    """
    ours = rename_published(weights)
    labels = len(ours["classifier.weight"]) if "classifier.weight" in ours else None
    config = replace(config_of_published(published, num_labels=labels), kernel=kernel)
    with _without_numbers():
        model = ViViT(config).eval()
    wanted = model.state_dict()
    if wrong := misfits(ours, {name: like for name, like in wanted.items() if labels or name not in _CLASSIFIER}):
        raise ValueError(f"weights: not those of the configuration: {wrong}")
    if not labels:
        dtype, std = ours["norm.weight"].dtype, config.initializer_range
        first = nn.init.trunc_normal_(torch.empty(wanted[_CLASSIFIER[0]].shape), std=std, a=-2 * std, b=2 * std)
        ours |= dict(zip(_CLASSIFIER, (first.to(dtype), torch.zeros(len(first), dtype=dtype)), strict=True))
    model.load_state_dict(ours, assign=True)
    return model


_CLASSIFIER = ("classifier.weight", "classifier.bias")


def rename_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights of a published ViViT our names; they keep their shapes and numbers.

    Args:
        weights: as in `vivit_of_published`.

    Returns:
        The same tensors without the pooler. A name that is not known is kept.
    """
    renamed = {_renamed(name, _VIVIT_RENAMED): weight for name, weight in weights.items()}
    return {name: weight for name, weight in renamed.items() if not name.startswith("pooler.")}


def config_of_published(published: Mapping[str, object], *, num_labels: int | None = None) -> ViViTConfig:
    """The configuration of a published ViViT in the numbers of ours.

    Args:
        published: as in `vivit_of_published`; what is missing has the published default.
        num_labels: classes; None = as many as the configuration names.

    Raises:
        ValueError: if it is of another model, or asks for what ViViT has not; the message names the option.
    """
    _check_type(published, "vivit")
    numbers = {name: published[name] for name in _VIVIT_SAME if name in published}
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
        hidden_act=_activation(published, "gelu_fast"),
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


def published_vivit_config(config: ViViTConfig) -> dict:
    """The configuration as `transformers` writes it.

    Args:
        config: ours.

    Raises:
        ValueError: if its attention is factorised, for which `transformers` has no model.
    """
    if config.attention_type != ViViTConfig.attention_type:
        raise ValueError(f"attention_type={config.attention_type!r}: only {ViViTConfig.attention_type!r} is published")
    labels = [f"LABEL_{i}" for i in range(config.num_labels)]
    return {
        "architectures": ["VivitForVideoClassification"],
        "model_type": "vivit",
        "image_size": config.image_size,
        "tubelet_size": list(config.tubelet_size),
        "hidden_act": _PUBLISHED_ACTIVATIONS[config.hidden_act],
        "attention_probs_dropout_prob": config.hidden_dropout_prob,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        **{name: getattr(config, name) for name in _VIVIT_SAME},
    }


def _vivit_name(ours: str) -> str:
    return _renamed(ours, _VIVIT_PUBLISHED)


# ---- names and numbers


@contextmanager
def _without_numbers() -> Iterator[None]:
    """Make modules whose weights have shapes but no numbers, and need no memory."""
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Draw no random numbers. For those of the meta device, which has none, torch would load 70 MB of its compiler."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        drawing = getattr(function, "__module__", "") == "torch.nn.init"
        if drawing or getattr(function, "__name__", "") in ("normal_", "uniform_"):
            return arguments[0] if arguments else options["tensor"]
        return function(*arguments, **(options or {}))


def _renamed(name: str, rules: Sequence[tuple[str, str | Callable[[re.Match], str]]]) -> str:
    for pattern, other in rules:
        name = re.sub(pattern, other, name)
    return name


def _stacks(state: Mapping[str, Tensor], name_of: Callable[[str], str]) -> dict[str, list[str]]:
    """Every published name, and our weights whose rows stand in it one below the other."""
    stacks: dict[str, list[str]] = {}
    for ours in state:
        stacks.setdefault(name_of(ours), []).append(ours)
    return stacks


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    return parts[0].contiguous() if len(parts) == 1 else torch.cat(list(parts))


def _check_type(published: Mapping[str, object], kind: str) -> None:
    if published.get("model_type", kind) != kind:
        raise ValueError(f"model_type={published['model_type']!r}, expected {kind!r}")


def _part(published: Mapping[str, object], name: str) -> Mapping[str, object]:
    part = published.get(name)
    if not isinstance(part, Mapping):
        raise ValueError(f"{name} is {part!r}, expected a table of numbers")
    return part


def _same(published: Mapping[str, object], kind: type) -> dict[str, object]:
    """The fields of a configuration that a published one has under the same name."""
    return {field.name: published[field.name] for field in fields(kind) if field.name in published}


def _only(published: Mapping[str, object], option: str, *known: object) -> None:
    name = option.rpartition(".")[2]
    if published.get(name) is not None and published[name] not in known:
        raise ValueError(f"{option}={published[name]!r} is not known here, only {' and '.join(map(repr, known))}")


def _activation(published: Mapping[str, object], default: str) -> str:
    name = published.get("hidden_act", default)
    if name not in _ACTIVATIONS:
        raise ValueError(f"hidden_act={name!r} is not known here, only {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


# ---- files


class _StoredWeights(Mapping[str, Tensor]):
    """The weights in a folder by their names; each is read when it is asked for.

    Args:
        folder: as in `load_pretrained`.
        dtype: what they are to be; None = as they are.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if one is damaged.
    """

    def __init__(self, folder: Path, dtype: torch.dtype | None):
        self.dtype = dtype
        self.shapes: dict[str, Tensor] = {}  # tensors without numbers
        self._places: dict[str, Path] = {}
        self._open = {path: _opened(path) for path in _listed_files(folder)}
        for path, file in self._open.items():
            for name in file.keys():  # noqa: SIM118 (not a dict)
                self.shapes[name] = torch.empty(file.get_slice(name).get_shape(), device="meta")
                self._places[name] = path

    def __getitem__(self, name: str) -> Tensor:
        path = self._places[name]
        weight = self._open[path].get_tensor(name)  # a view of the file
        if self.dtype in (None, weight.dtype):
            return weight
        made = torch.empty(weight.shape, dtype=self.dtype)
        rows = max(1, _PIECE * max(len(weight), 1) // max(weight.nbytes, 1)) if weight.ndim else 1
        for start in range(0, len(made) if made.ndim else 1, rows):
            with _opened(path) as file:  # opened anew for each piece: what was read of the last one is given back
                piece = file.get_slice(name)[start : start + rows] if made.ndim else file.get_tensor(name)
            (made[start : start + rows] if made.ndim else made).copy_(piece)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path}: {path.stat().st_size} bytes that are no complete safetensors file ({error}); it was cut short or "
            "is something else: get it anew"
        ) from error


def _listed_files(folder: Path) -> list[Path]:
    """The files with weights of a folder: one, or those that the index names."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"{folder}: no {WEIGHTS} and no {INDEX}, expected {CONFIG} and one of them")
    places = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{folder / INDEX}: no weight_map, expected one with the file of every weight; get it anew")
    names = sorted(set(map(str, places.values())))
    if outside := [name for name in names if Path(name).name != name]:
        raise ValueError(f"{folder / INDEX}: names {outside[0]}, which is not in the same folder")
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"{folder}: {len(missing)} of {len(names)} files with weights are missing, {', '.join(missing)}; "
            f"{INDEX} names them: get them too"
        )
    return [folder / name for name in names]


def _weight_files(folder: Path) -> Iterator[Path]:
    """All files of a folder that hold weights in the published format, or the index of them."""
    for path in folder.iterdir():
        if path.name in (WEIGHTS, INDEX) or re.fullmatch(r"model-\d+-of-\d+\.safetensors", path.name):
            yield path


def _shard_names(count: int) -> list[str]:
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def _shards(sizes: Mapping[str, int], shard_size: int) -> list[list[str]]:
    """Deal names out to files in their order, so that none holds more than shard_size bytes unless in one weight."""
    shards, room = [[]], shard_size
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = shard_size
        shards[-1].append(name)
        room -= size
    return shards


def _bytes(weights) -> int:
    return sum(weight.nbytes for weight in weights)


def _read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error}); it was cut short or changed: get it anew") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}, expected a table of names and values")
    return value


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


_MODELS: dict[str, Callable[..., nn.Module]] = {"qwen3_vl": qwen3_vl_of_published, "vivit": vivit_of_published}
