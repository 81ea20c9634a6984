"""A trained model on disk: config.json says what it is, model.safetensors holds its weights. No pickle, no code.

Every file is written under a temporary name and renamed when it is complete, so that whoever reads finds an old file or
a new one, never half of one.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minivid.models.vivit import ViViT, ViViTConfig
from minivid.video.clip import ClipSettings

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
MODELS = {"ViViT": (ViViT, ViViTConfig)}
"""The models that can be loaded: class name to class and class of its configuration."""


class CheckpointError(ValueError):
    """A folder or a file is not what save_checkpoint wrote; the message names it, what is wrong and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A model and what is needed to put a file to it.

    Attributes:
        model: in evaluation mode.
        classes: the words for its logits, in order.
        clip: how a file becomes its input.
    """

    model: nn.Module
    classes: tuple[str, ...]
    clip: ClipSettings


def save_checkpoint(
    folder: str | os.PathLike, model: nn.Module, *, classes: tuple[str, ...], clip: ClipSettings
) -> None:
    """Write a model to a folder.

    Args:
        folder: made if it does not exist; gets config.json and model.safetensors.
        model: one of MODELS; its configuration is a dataclass in `model.config`.
        classes: the words for its logits, in order.
        clip: how a file becomes its input.

    Raises:
        CheckpointError: if the model is not one that load_checkpoint knows.
        OSError: if the folder cannot be written to.
    """
    name = type(model).__name__
    if MODELS.get(name, (None,))[0] is not type(model):
        raise CheckpointError(f"{name}: not one of {', '.join(MODELS)}; add it to MODELS in training/checkpoint.py")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"model": name, "config": asdict(model.config), "classes": list(classes), "clip": asdict(clip)}
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    _write(folder / WEIGHTS, lambda path: save_file(tensors, path))
    write_text(folder / CONFIG, json.dumps(about, indent=2) + "\n")


def load_checkpoint(folder: str | os.PathLike) -> Checkpoint:
    """Read what save_checkpoint wrote.

    Args:
        folder: with config.json and model.safetensors.

    Returns:
        The model in evaluation mode, its classes, and how to load a clip for it.

    Raises:
        FileNotFoundError: if one of the two files is missing.
        CheckpointError: if one is cut short, damaged, or of something else.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder}: no {name}, expected {CONFIG} and {WEIGHTS} of a trained model; `minivid demo` makes them"
            )
    try:
        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind, config_kind = MODELS[about["model"]]
        # JSON has lists where the configuration has tuples.
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in about["config"].items()}
        config = config_kind(**values)
        classes, clip = tuple(about["classes"]), ClipSettings(**about["clip"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / CONFIG}: not the configuration of a model known here, {', '.join(MODELS)} "
            f"({type(error).__name__}: {error}); give a folder that `minivid demo` made"
        ) from error
    model = kind(config).eval()
    if len(classes) != config.num_labels:
        raise CheckpointError(f"{folder / CONFIG}: {len(classes)} classes for num_labels={config.num_labels}")
    tensors, _ = load_state(folder / WEIGHTS)
    _fit(folder / WEIGHTS, tensors, model.state_dict())
    model.load_state_dict(tensors)
    return Checkpoint(model, classes, clip)


def save_state(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, object]) -> None:
    """Write tensors and, in the same file, what they are, so that the two can never disagree.

    Args:
        path: the file to make or to replace; its folder must exist.
        tensors: by name.
        about: anything JSON can hold.
    """
    copies = {name: value.detach().contiguous() for name, value in tensors.items()}
    _write(path, lambda unfinished: save_file(copies, unfinished, {"about": json.dumps(about)}))


def load_state(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read the tensors of a safetensors file, and what save_state said about them ({} where it said nothing).

    Raises:
        CheckpointError: if the file is cut short, damaged, or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path}: {path.stat().st_size} bytes that are no complete safetensors file ({error}); "
            "it was cut short or is something else: make it anew"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears under its name only when it is complete."""
    _write(path, lambda unfinished: Path(unfinished).write_text(text, encoding="utf-8"))


def _write(path: Path, write: Callable[[str], object]) -> None:
    descriptor, unfinished = tempfile.mkstemp(prefix=".unfinished-", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    try:
        write(unfinished)
        os.chmod(unfinished, 0o644)  # mkstemp makes a private file
        os.replace(unfinished, path)
    except BaseException:  # Ctrl-C too
        with suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise


def _fit(path: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless the weights are those of the configuration, by name and shape."""
    missing, surplus = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    differ = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & tensors.keys())
        if tensors[name].shape != wanted[name].shape
    ]
    wrong = [f"missing {missing[0]} and {len(missing) - 1} more"] if missing else []
    wrong += [f"surplus {surplus[0]} and {len(surplus) - 1} more"] if surplus else []
    wrong += differ[:2]
    if wrong:
        raise CheckpointError(
            f"{path}: not the weights of the model in {CONFIG}: {'; '.join(wrong)}; the two are not of one training"
        )
