"""Models and unfinished trainings on disk: weights as safetensors, words as JSON, a checksum of each; nothing can run.

Whoever reads finds an old file or folder or a new one, never half of one, and an error where a bit has changed.
"""

import errno
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minivid.models.zoo import model_classes
from minivid.shapes import misfits
from minivid.training.sealed_folder import (
    CHECKSUMS,
    CheckpointError,
    check_seal,
    discard,
    sealed_files,
    sealed_folder,
)
from minivid.video.clip import ClipSettings
from minivid.whole_files import replace_file

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
TRAINING = "training.json"
BEST_AND_LAST = "best_and_last.json"

Read = Callable[[Path], tuple[dict[str, Tensor], dict[str, Tensor]]]

log = logging.getLogger(__name__)


# ---- a trained model


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
        folder: made if it does not exist; gets config.json, model.safetensors and checksums.json.
        model: one of minivid.models; its configuration is a dataclass in `model.config`.
        classes: the words for its logits, in order.
        clip: how a file becomes its input.

    Raises:
        CheckpointError: if the model is not one that load_checkpoint knows.
        OSError: if the folder cannot be written to.
    """
    name, known = type(model).__name__, _models()
    if known.get(name) is not type(model):
        raise CheckpointError(f"{name}: not one of {', '.join(known)}, the models in minivid/models")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"model": name, "config": asdict(model.config), "classes": list(classes), "clip": asdict(clip)}
    with sealed_files(folder) as unfinished:
        _save_tensors(unfinished / WEIGHTS, model.state_dict())
        (unfinished / CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def load_checkpoint(folder: str | os.PathLike) -> Checkpoint:
    """Read what save_checkpoint wrote.

    Args:
        folder: with config.json, model.safetensors and checksums.json.

    Returns:
        The model in evaluation mode, its classes, and how to load a clip for it.

    Raises:
        FileNotFoundError: if one of the files is missing.
        CheckpointError: if one is cut short, damaged, changed, or of something else.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS, CHECKSUMS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder}: no {name}, expected {CONFIG}, {WEIGHTS} and {CHECKSUMS} of a trained model; "
                "`minivid demo` and `minivid finetune` make them"
            )
    check_seal(folder, (CONFIG, WEIGHTS))
    known = _models()
    try:
        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = known[about["model"]]
        # JSON has lists where the configuration has tuples.
        values = {name: _tuples(value) for name, value in about["config"].items()}
        config = _config_class(kind)(**values)
        classes, clip = tuple(about["classes"]), ClipSettings(**about["clip"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / CONFIG}: not the configuration of a model known here, {', '.join(known)} "
            f"({type(error).__name__}: {error}); give a folder that minivid made"
        ) from error
    model = kind(config).eval()
    if len(classes) != config.num_labels:
        raise CheckpointError(f"{folder / CONFIG}: {len(classes)} classes for num_labels={config.num_labels}")
    put_weights(model, load_tensors(folder / WEIGHTS), folder / WEIGHTS)
    return Checkpoint(model, classes, clip)


def put_weights(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give a model its weights, if they are its own by name and shape; otherwise leave it as it is.

    Args:
        model: gets them.
        tensors: as its state_dict() names them.
        path: where they are from, for the message.

    Raises:
        CheckpointError: if one is missing, one too many, or one of another shape.
    """
    if wrong := misfits(tensors, model.state_dict()):
        raise CheckpointError(f"{path}: the weights of another model than this {type(model).__name__}: {wrong}")
    model.load_state_dict(tensors)


def _models() -> dict[str, type[nn.Module]]:
    """The models that can be loaded, by class name."""
    return {kind.__name__: kind for kind in model_classes().values()}


def _config_class(kind: type[nn.Module]) -> type:
    return getattr(import_module(kind.__module__), f"{kind.__name__}Config")


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


# ---- an unfinished training


@dataclass(frozen=True)
class TrainingState:
    """All that a training needs to go on.

    Attributes:
        step: how many steps are done.
        model: the weights and buffers, as state_dict() names them.
        optimizer: what the optimiser remembers, by the weight's name and its own: "classifier.bias.exp_avg".
        about: words and numbers: the configuration, the history, where the random numbers stand.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    about: dict


def save_training(
    folder: Path,
    state: TrainingState,
    *,
    best: int | None = None,
    keep: int = 2,
    fill: Callable[[Path], object] | None = None,
) -> None:
    """Write a checkpoint of a training, then remove the oldest that are no longer wanted.

    It appears under its name, step-00000100, when it is whole and on the disk; nothing is removed before it was read
    back. The last and the best always stay.

    Args:
        folder: of all checkpoints of this training; made if it does not exist.
        state: what to write.
        best: the step that did best so far.
        keep: how many may stay, at least two: so there is one to go back to if the last is damaged.
        fill: writes the tensors into a folder, in other files than model.safetensors and optimizer.safetensors.

    Raises:
        OSError: if the disk refuses; the earlier checkpoints are whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{state.step:08d}"
    try:
        with sealed_folder(path) as unfinished:
            if fill is None:
                _save_tensors(unfinished / WEIGHTS, state.model)
                _save_tensors(unfinished / OPTIMIZER, state.optimizer)
            else:
                fill(unfinished)
            text = json.dumps({"step": state.step} | state.about) + "\n"
            (unfinished / TRAINING).write_text(text, encoding="utf-8")
        names = {"last": path.name, "best": None if best is None else f"step-{best:08d}"}
        write_text(folder / BEST_AND_LAST, json.dumps(names) + "\n")
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path}: the checkpoint could not be saved ({error.strerror or error}); the earlier ones are as they "
            "were: make room or give another folder, then run the same call again",
        ) from error
    _prune(folder, state.step, best, max(keep, 2))


def _prune(folder: Path, last: int, best: int | None, keep: int) -> None:
    saved = sorted(_steps(folder))
    # Those of later steps were skipped as damaged when this training went on from an earlier one.
    late = [step for step in saved if step > last]
    old = [step for step in saved if step < last and step != best]
    surplus = max(0, len(saved) - len(late) - keep)
    for step in late + old[:surplus]:
        discard(folder / f"step-{step:08d}")


def find_training(folder: Path, *, read: Read | None = None) -> TrainingState | None:
    """Read the newest checkpoint that is whole; say which newer ones are not, and why.

    Args:
        folder: of all checkpoints of one training.
        read: as for load_training.

    Returns:
        The state; None if there is no checkpoint at all.

    Raises:
        CheckpointError: if there are checkpoints but none is whole.
    """
    damaged = []
    for step in sorted(_steps(folder), reverse=True):
        try:
            state = load_training(folder / f"step-{step:08d}", read=read)
        except (CheckpointError, FileNotFoundError) as error:
            damaged.append(str(error))
            log.warning("checkpoint of step %d skipped: %s", step, error)
        else:
            if damaged:
                log.warning("going on from the checkpoint of step %d", step)
            return state
    if damaged:
        raise CheckpointError(
            f"{folder}: none of its {len(damaged)} checkpoints is whole, the newest: {damaged[0]}; "
            "remove the folder to begin anew"
        )
    return None


def load_training(path: Path, *, read: Read | None = None) -> TrainingState:
    """Read one checkpoint of a training.

    Args:
        path: its folder, such as checkpoints/step-00000100.
        read: reads the weights and the optimiser's memory where save_training was given a `fill`.

    Raises:
        FileNotFoundError: if it has no checksums.json.
        CheckpointError: if a file is missing, cut short, damaged, changed, or of something else.
    """
    check_seal(path, (WEIGHTS, OPTIMIZER, TRAINING) if read is None or (path / WEIGHTS).exists() else (TRAINING,))
    try:
        about = json.loads((path / TRAINING).read_text(encoding="utf-8"))
        step = about.pop("step")
        if path.name != f"step-{step:08d}":
            raise ValueError(f"it is of step {step}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path / TRAINING}: not about this checkpoint ({type(error).__name__}: {error}); it is of something else"
        ) from error
    if read is not None:
        return TrainingState(step, *read(path), about)
    return TrainingState(step, load_tensors(path / WEIGHTS), load_tensors(path / OPTIMIZER), about)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each weight, by the weight's name and its own.

    Args:
        model: whose weights it moves.
        optimizer: of torch, or minivid's.
    """
    return {
        f"{name}.{part}": value
        for name, weight in model.named_parameters()
        for part, value in optimizer.state.get(weight, {}).items()
        if isinstance(value, Tensor)
    }


def put_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser its memory back.

    Args:
        model: whose weights it moves.
        optimizer: gets the memory.
        tensors: as optimizer_state named them.
    """
    weights = dict(model.named_parameters())
    for name, value in tensors.items():
        of, _, part = name.rpartition(".")
        # AdamW's count of steps stays where torch has it, on the CPU.
        optimizer.state[weights[of]][part] = value if part == "step" else value.to(weights[of].device)


def _steps(folder: Path) -> list[int]:
    names = [path.name.removeprefix("step-") for path in folder.glob("step-*") if path.is_dir()]
    return [int(name) for name in names if name.isdecimal()]


# ---- files


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears under its name only when it is complete."""
    replace_file(path, lambda unfinished: Path(unfinished).write_text(text, encoding="utf-8"))


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    seen, separate = set(), {}
    for name, value in tensors.items():
        value = value.detach().contiguous()
        # Two names of one weight become two copies: safetensors refuses what shares memory.
        separate[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())

    try:
        save_file(separate, path)
    except SafetensorError as error:
        raise OSError(errno.EIO, f"{path.name}: {error}") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Args:
        path: the file.

    Raises:
        CheckpointError: if it is cut short, damaged, or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path}: {path.stat().st_size} bytes that are no complete safetensors file ({error}); "
            "it was cut short or is something else: make it anew"
        ) from error
