"""The training loop: batch, loss, gradient, step, again; and the measurement of what came of it."""

import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from tqdm import tqdm

from minivid.data.batches import Examples, batch_indices, stack
from minivid.training.checkpoint import load_state, save_state, write_text
from minivid.training.cross_entropy import cross_entropy
from minivid.training.metrics import accuracy, confusion_matrix
from minivid.training.optimizer import AdamW, decay_groups
from minivid.training.schedule import cosine_with_warmup

HISTORY = "history.jsonl"
STATE = "unfinished.safetensors"


@dataclass(frozen=True)
class FinetuneConfig:
    """How a model is trained.

    Attributes:
        steps: how often the weights move.
        batch_size: clips seen in each step.
        learning_rate: the largest, at the end of the warm-up.
        weight_decay: of the matrices; vectors (biases, scales) do not decay.
        betas: how slowly AdamW's two averages forget.
        warmup_ratio: share of the steps in which the learning rate rises.
        max_grad_norm: all gradients together are never longer than this; 0 = no limit.
        label_smoothing: share of the right answer that is spread over all classes.
        seed: of the order of the clips, of the augmentation and of dropout.
        evaluate_every: steps from one look at the validation clips to the next, the first before the first step;
            0 = only after the last step.
        save_every: steps from one save of the unfinished training to the next, the most that Ctrl-C can cost; 0 = none.

    Raises:
        ValueError: if a number is out of range.
    """

    steps: int = 600
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0
    seed: int = 0
    evaluate_every: int = 100
    save_every: int = 100

    def __post_init__(self):
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not at least 1")
        for name in ("seed", "weight_decay", "max_grad_norm", "evaluate_every", "save_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is below 0")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} is not above 0")
        for name in ("warmup_ratio", "label_smoothing"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)} is not from 0 to 1")


@dataclass
class History:
    """What happened, as a list of rows in the order of the steps; `history.jsonl` holds one row a line.

    A training row has `step`, `loss`, `learning_rate` and `gradient_norm` (before it was cut). A validation row has
    `step`, `validation_loss` and `validation_accuracy`. Steps are counted from 1: a training row of step k tells of the
    weights before their k-th move, a validation row of those after it.
    """

    rows: list[dict[str, int | float]] = field(default_factory=list)

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """The steps and the values of one quantity, as minivid.plots.curves takes them."""
        rows = [row for row in self.rows if name in row]
        return [float(row["step"]) for row in rows], [row[name] for row in rows]


@dataclass(frozen=True)
class Metrics:
    """What a model answered to labelled clips.

    Attributes:
        loss: mean cross-entropy, in nats.
        labels: the right class of every clip.
        probabilities: of every class, for every clip.
    """

    loss: float
    labels: Int64[Tensor, " b"]
    probabilities: Float[Tensor, "b v"]

    @property
    def answers(self) -> Int64[Tensor, " b"]:
        """The most probable class of every clip."""
        return self.probabilities.argmax(-1)

    @property
    def correct(self) -> Tensor:
        """Which clips were answered right, as booleans."""
        return self.answers == self.labels

    @property
    def accuracy(self) -> float:
        """The share of clips that were answered right."""
        return accuracy(self.answers, self.labels)

    @property
    def confusion(self) -> Int64[Tensor, "v v"]:
        """How often each right class (row) was answered as each class (column)."""
        return confusion_matrix(self.answers, self.labels, self.probabilities.shape[-1])


def finetune(
    model: nn.Module,
    train: Examples,
    validation: Examples,
    config: FinetuneConfig,
    *,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    folder: str | os.PathLike | None = None,
    on_step: Callable[[int], object] | None = None,
    quiet: bool = False,
) -> History:
    """Teach a model to answer labelled clips, in place.

    The clips of step k and all that is random in it follow from config.seed and k alone. So the same call gives the
    same weights; and a training that was stopped goes on, when called again with the same folder, from its last save,
    and ends in the weights that it would have had without the stop.

    Args:
        model: from clips b t c h w to logits b v.
        train: the clips to learn from.
        validation: the clips to measure on now and then; nothing is learnt from them.
        config: how.
        augment: changes a training clip each time it is shown, in a way that leaves its label true.
        folder: gets history.jsonl, and while the training is not finished also what is needed to go on with it;
            None = nothing is written.
        on_step: called after each step with the number of steps done.
        quiet: no progress bar.

    Returns:
        What happened. The model is in the mode, training or evaluation, that it came in.

    Raises:
        ValueError: if the loss is no longer a number, or the folder holds an unfinished training of another kind.
    """
    mode = model.training
    optimizer = AdamW(decay_groups(model, config.weight_decay), lr=config.learning_rate, betas=config.betas)
    warmup_steps = math.ceil(config.warmup_ratio * config.steps)
    history, done = History(), 0
    if folder is not None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        history.rows, done = _resume(folder / STATE, model, optimizer, config, len(train))

    bar = tqdm(total=config.steps, initial=done, desc="train", unit="step", file=sys.stderr, disable=quiet)
    try:
        with bar, torch.random.fork_rng(devices=[]):  # the caller's random numbers are not ours to move
            if done == 0 and config.evaluate_every:
                history.rows.append(_measured(model, validation, done))
            model.train()
            while done < config.steps:
                rise_and_fall = cosine_with_warmup(done, total_steps=config.steps, warmup_steps=warmup_steps)
                learning_rate = config.learning_rate * rise_and_fall
                rng = _seed(config.seed, done)
                chosen = [train[i] for i in batch_indices(len(train), config.batch_size, step=done, seed=config.seed)]
                if augment is not None:
                    chosen = [(augment(clip, rng), label) for clip, label in chosen]
                clips, labels = stack(chosen)  # b t c h w, b
                logits = model(clips)  # b v
                loss = cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
                if not loss.isfinite():
                    raise ValueError(f"the loss of step {done + 1} is {loss.item()}; try a smaller learning_rate")
                optimizer.zero_grad()
                loss.backward()
                length = clip_gradients(model, config.max_grad_norm)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate
                optimizer.step()
                done += 1

                row = {"step": done, "loss": loss.item(), "learning_rate": learning_rate, "gradient_norm": length}
                history.rows.append(row)
                if done == config.steps or (config.evaluate_every and done % config.evaluate_every == 0):
                    history.rows.append(_measured(model, validation, done))
                if folder and config.save_every and done % config.save_every == 0 and done < config.steps:
                    _save(folder / STATE, model, optimizer, history, done, config, len(train))
                speed = (bar.format_dict["rate"] or 0.0) * config.batch_size
                shown = {"loss": f"{loss.item():.3f}", "lr": f"{learning_rate:.1e}", "clips/s": f"{speed:.0f}"}
                bar.set_postfix(shown, refresh=False)
                bar.update()
                if on_step is not None:
                    on_step(done)
    finally:
        model.train(mode)
    if folder is not None:
        write_text(folder / HISTORY, "".join(json.dumps(row) + "\n" for row in history.rows))
        (folder / STATE).unlink(missing_ok=True)
    return history


@torch.no_grad()
def evaluate(
    model: nn.Module, data: Examples, *, batch_size: int = 64, on_batch: Callable[[int], object] | None = None
) -> Metrics:
    """Put every clip to a model and keep its answers.

    Args:
        model: from clips b t c h w to logits b v.
        data: labelled clips.
        batch_size: how many clips are put at once; of no influence on the answers.
        on_batch: called after each batch with the number of its clips, for a progress bar.

    Returns:
        The answers. The model is in the mode, training or evaluation, that it came in.

    Raises:
        ValueError: if there is no clip.
    """
    if len(data) == 0:
        raise ValueError("data: 0 clips, expected at least 1 to evaluate on")
    mode = model.training
    model.eval()
    try:
        parts = []
        for first in range(0, len(data), batch_size):
            clips, labels = stack([data[i] for i in range(first, min(first + batch_size, len(data)))])
            parts.append((model(clips), labels))  # b v, b
            if on_batch is not None:
                on_batch(len(labels))
    finally:
        model.train(mode)
    logits, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return Metrics(cross_entropy(logits, labels).item(), labels, logits.softmax(-1))


@torch.no_grad()
def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Shorten all gradients of a model together, by one factor, if their joint length is above a limit.

        g = g min(1, max_norm / |g|),   |g|^2 = sum of the squares of all numbers in all gradients

    Args:
        model: its gradients are changed in place.
        max_norm: the limit; 0 = none.

    Returns:
        |g| before.

    Source: Pascanu et al. 2013, algorithm 1 (arXiv:1211.5063).
    """
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    length = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt().item()
    if max_norm and length > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / length)
    return length


def _measured(model: nn.Module, validation: Examples, step: int) -> dict[str, int | float]:
    found = evaluate(model, validation)
    return {"step": step, "validation_loss": found.loss, "validation_accuracy": found.accuracy}


def _seed(seed: int, step: int) -> torch.Generator:
    """Let seed and step decide all that is random in one step: torch's own numbers (dropout), and those returned."""
    first, second = (int(number) for number in np.random.SeedSequence((seed, step)).generate_state(2))
    torch.manual_seed(first)
    return torch.Generator().manual_seed(second)


def _save(
    path: Path, model: nn.Module, optimizer: AdamW, history: History, done: int, config: FinetuneConfig, examples: int
) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    save_state(path, tensors, {"steps": done, "kind": _kind(config, examples), "history": history.rows})


def _kind(config: FinetuneConfig, examples: int) -> dict:
    """What must be equal for a training to go on as if it had not been stopped, as JSON gives it back."""
    return json.loads(json.dumps(asdict(config) | {"examples": examples}))


def _resume(
    path: Path, model: nn.Module, optimizer: AdamW, config: FinetuneConfig, examples: int
) -> tuple[list[dict], int]:
    if not path.exists():
        return [], 0
    tensors, about = load_state(path)
    wanted, found = _kind(config, examples), about["kind"]
    differ = [f"{name}={found.get(name)} (now {wanted[name]})" for name in wanted if found.get(name) != wanted[name]]
    if differ:
        raise ValueError(
            f"{path}: an unfinished training with {', '.join(differ)}; "
            "ask for the same, give another folder, or remove the file to start anew"
        )
    weights, states = {}, {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "model":
            weights[rest] = value
        else:
            index, _, part = rest.partition(".")
            states.setdefault(int(index), {})[part] = value
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: an unfinished training of another model; remove the file to start anew") from error
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return about["history"], about["steps"]
