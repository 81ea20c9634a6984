"""Models by name: which there are, and one made from the numbers of its configuration."""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields, replace

from torch import nn

import minivid.models


def model_classes() -> dict[str, type[nn.Module]]:
    """Every model that takes a configuration, by the name of its file: "vivit", "conv_lstm".

    A model is a class beside a dataclass of its name with `Config` behind it, as `ViViT` and `ViViTConfig` are. Its
    method `example_inputs(batch)` gives what `forward` can be called with.
    """
    found = {}
    for place in pkgutil.iter_modules(minivid.models.__path__):
        module = importlib.import_module(f"minivid.models.{place.name}")
        for name, item in vars(module).items():
            if getattr(item, "__module__", None) == module.__name__ and hasattr(module, f"{name}Config"):
                found[place.name] = item
    return found


def model_class(name: str) -> type[nn.Module]:
    """The model of a name.

    Args:
        name: the model's file or class, in any case, with or without dashes: "vivit", "ViViT", "conv-lstm".

    Raises:
        ValueError: if there is no such model.
    """
    classes = model_classes()
    plain = {place.replace("_", ""): model for place, model in classes.items()}
    model = plain.get(name.lower().replace("-", "").replace("_", ""))
    if model is None:
        raise ValueError(f"{name}: there is no such model; there are {', '.join(sorted(classes))}")
    return model


def small_config(name: str) -> object:
    """The configuration of a model for clips of 8 frames of 32 x 32 pixels, which learns the generated clips quickly.

    Args:
        name: as in `model_class`.

    Raises:
        ValueError: if there is no such model.
    """
    return importlib.import_module(model_class(name).__module__).SMALL_CONFIG


def build_model(name: str, numbers: Mapping[str, object] | None = None) -> nn.Module:
    """A new model with random weights.

    Args:
        name: as in `model_class`.
        numbers: fields of its configuration that differ from the defaults.

    Raises:
        ValueError: if there is no such model or no such field, or the numbers do not fit together.
    """
    model = model_class(name)
    config = getattr(importlib.import_module(model.__module__), f"{model.__name__}Config")()
    known = [field.name for field in fields(config)]
    if unknown := sorted(set(numbers or {}) - set(known)):
        raise ValueError(f"{model.__name__} has no {', '.join(unknown)}; it has {', '.join(known)}")
    return model(replace(config, **(numbers or {})))
