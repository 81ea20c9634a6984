"""The training loop: batch, loss, gradient, step, again; and the measurement of what came of it."""

import math
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from minivid.data.batches import (
    Augment,
    Batch,
    Examples,
    PlaceGenerators,
    TrainingBatches,
    loaded,
    place_seeds,
    to_device,
)
from minivid.training.cross_entropy import cross_entropy
from minivid.training.distributed import held_back, spread
from minivid.training.finetune_config import FinetuneConfig
from minivid.training.history import HISTORY as HISTORY
from minivid.training.history import History
from minivid.training.metrics import accuracy, confusion_matrix
from minivid.training.muon import Muon, Together
from minivid.training.objectives import Classification, Objective, respond
from minivid.training.optimizer import SGD, AdamW
from minivid.training.processes import device, is_first, share, total
from minivid.training.recompute import recomputed
from minivid.training.run_folder import STATE as STATE
from minivid.training.run_folder import RunFolder
from minivid.training.what_trains import learning_groups, partly_frozen, train_mode, what_trains


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
    objective: Objective | None = None,
    augment: Augment | None = None,
    folder: str | os.PathLike | None = None,
    workers: int = 0,
    sharded: bool = False,
    on_step: Callable[[int], object] | None = None,
    quiet: bool = False,
) -> History:
    """Teach a model to answer labelled clips, in place.

    The clips of step k and all that is random in it follow from config.seed and k alone. So the same call gives the
    same weights; and a training that was stopped, or killed, goes on, when called again with the same folder, from its
    last save, and ends in the weights that it would have had without the stop.

    Where processes train together (minivid.training.processes), every one of them makes this call, and each takes its
    share of every batch; the first one prints and writes.

    Args:
        model: from clips b t c h w to logits b v, or to whatever the objective asks for.
        train: the clips to learn from.
        validation: the clips to measure on now and then; nothing is learnt from them.
        config: how.
        objective: what is minimised and measured; by default Classification(config.label_smoothing).
        augment: changes a training clip each time it is shown, in a way that leaves its label true.
        folder: gets history.jsonl row by row, checkpoints/ to go on from, curves.png in the end, and tensorboard/ if
            tensorboard is installed; None = nothing is written.
        workers: processes that load clips ahead; 0 = none. Of no influence on the numbers.
        sharded: whether each of the processes that train together holds a part of every weight only, see `spread`.
        on_step: called after each step with the number of steps done.
        quiet: no table of what trains and no progress bar.

    Returns:
        What happened. The model is in the mode, training or evaluation, that it came in.

    Raises:
        ValueError: if the loss is no longer a number, the folder holds a training of another kind, the model lacks what
            the configuration names, see `check_fits`, or Muon, which needs whole matrices, is to move parts of them.
        CheckpointError: if no checkpoint in the folder is whole.
        ChildProcessError: if a worker is killed.
        OSError: if the folder cannot be written to.
    """
    objective = objective or Classification(label_smoothing=config.label_smoothing)
    check_fits(model, config, objective)
    if sharded and config.optimizer == "muon":
        raise ValueError("optimizer='muon' needs whole matrices, and sharded=True cuts them; take 'adamw'")
    quiet = quiet or not is_first()
    batches = TrainingBatches(train, config.batch_size, config.seed, config.micro_batches, share(), augment)
    with ExitStack() as stack:
        stack.callback(model.train, model.training)
        # The caller's random numbers are not ours to move.
        places = {weight.device for weight in model.parameters()} | {device()}
        stack.enter_context(torch.random.fork_rng(devices=[place for place in places if place.type == "cuda"]))
        stack.enter_context(partly_frozen(model, config.train_only, config.freeze))
        model, called = stack.enter_context(spread(model, sharded=sharded))
        optimizer = make_optimizer(model, config)
        if not quiet:
            print(what_trains(model, optimizer.param_groups), file=sys.stderr)
        run = stack.enter_context(RunFolder(folder, model, optimizer, config, objective, len(train), len(validation)))
        if config.gradient_checkpointing:
            stack.enter_context(recomputed(model))
        steps = range(config.steps if run.finished else run.done, config.steps)
        stream = stack.enter_context(loaded(batches, steps, workers=workers))
        bar = stack.enter_context(
            tqdm(total=config.steps, initial=run.done, desc="train", unit="step", file=sys.stderr, disable=quiet)
        )

        if run.done == 0 and (config.evaluate_every or config.evaluate_every_epochs):
            run.add({"step": 0, **objective.measure(model, validation)})
        for step in steps:
            train_mode(model)
            factor = config.learning_rate_factor(step)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            loss = gather_gradients(called, objective, islice(stream, config.micro_batches), config)
            length = clip_gradients(model, config.max_grad_norm)
            if not math.isfinite(loss + length):
                raise ValueError(
                    f"the loss of step {step + 1} is {loss} and its gradient's length {length}; "
                    "try a smaller learning_rate"
                )
            optimizer.step()

            done, rate = step + 1, config.learning_rate * factor
            run.add({"step": done, "loss": loss, "learning_rate": rate, "gradient_norm": length})
            if config.looks_after(done, len(train)):
                run.add({"step": done, **objective.measure(model, validation)})
            run.after_step(done)
            speed = (bar.format_dict["rate"] or 0.0) * config.batch_size
            bar.set_postfix({"loss": f"{loss:.3f}", "lr": f"{rate:.1e}", "clips/s": f"{speed:.0f}"}, refresh=False)
            bar.update()
            if on_step is not None:
                on_step(done)
            if run.finished:
                break
        run.finish()
    return run.history


def check_fits(model: nn.Module, config: FinetuneConfig, objective: Objective) -> None:
    """Make sure that there is what a configuration names, before hours are spent on reading clips.

    Args:
        model: as it will be trained.
        config: how.
        objective: what is minimised and measured.

    Raises:
        ValueError: if a piece of train_only, freeze or rates is in no parameter's name, nothing is left that learns, or
            the metric is none of what the objective measures.
    """
    if config.metric not in objective.figures:
        raise ValueError(f"metric={config.metric!r} is none of what is measured: {', '.join(objective.figures)}")
    with partly_frozen(model, config.train_only, config.freeze):
        make_optimizer(model, config)


def make_optimizer(model: nn.Module, config: FinetuneConfig) -> Optimizer:
    """The optimiser that a configuration asks for, with a group for each rate and decay.

    Args:
        model: its parameters that require a gradient are moved.
        config: which optimiser, rates and decay.
    """
    groups = learning_groups(
        model,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        rates=config.rates,
        no_decay=config.no_decay,
    )
    if config.optimizer == "sgd":
        return SGD(groups, momentum=config.momentum)
    if config.optimizer == "muon":
        return _muon_and_adamw(model, groups, config)
    return AdamW(groups, betas=config.betas)


def _muon_and_adamw(model: nn.Module, groups: Iterable[dict], config: FinetuneConfig) -> Optimizer:
    names = {weight: name for name, weight in model.named_parameters()}
    parts: tuple[list[dict], list[dict]] = [], []
    for group in groups:
        tables = [w.ndim < 2 or any(piece in names[w] for piece in config.adamw_for) for w in group["params"]]
        for part, ours, note in zip(parts, (False, True), (" (Muon)", ""), strict=True):
            params = [weight for weight, table in zip(group["params"], tables, strict=True) if table == ours]
            if params:
                part.append({**group, "group": group["group"] + note, "params": params})
    matrices, rest = parts
    optimizers: list[Optimizer] = []
    if matrices:
        optimizers.append(Muon(matrices, momentum=config.momentum, adjust_lr_fn="match_rms_adamw"))
    if rest:
        optimizers.append(AdamW(rest, betas=config.betas))
    return Together(*optimizers)


def gather_gradients(model: nn.Module, objective: Objective, parts: Iterable[Batch], config: FinetuneConfig) -> float:
    """Put the parts of one batch through a model one after the other, and sum up their gradients to that of the whole.

    Where processes train together, these are the parts of this one, and the sums run over all.

        gradient = sum over parts of d(sum of losses) / sum over parts of how many count

    Dividing by each part's own count and averaging would weigh a part with few labels as much as one with many.

    Args:
        model: gets the gradient, in place of what it had.
        objective: gives each part's loss, as a sum, and count.
        parts: micro-batches of one step.
        config: batch_size, seed, and whether products are computed in bfloat16.

    Returns:
        The mean loss of the batch.

    Raises:
        ValueError: if nothing counts.
    """
    model.zero_grad()
    where = next(model.parameters()).device
    loss, count, step, processes = 0.0, 0, 0, share().processes
    for part, (step, places, inputs, labels) in enumerate(parts, start=1):
        torch.manual_seed(place_seeds(config.seed, step, places[0]).model)
        inputs, labels = to_device(inputs, where), labels.to(where)
        with held_back(model, last=part == config.micro_batches):
            with torch.autocast(where.type, torch.bfloat16, enabled=config.bfloat16):
                summed, counted = objective.loss(model, inputs, labels, PlaceGenerators(config.seed, step, places))
            # Of most objectives, as many count as there are clips; what else it is, is known after the last part.
            mean = summed / config.batch_size
            (mean * processes).backward()  # of the processes' gradients, the mean is taken
        loss, count = loss + mean.item(), count + int(counted)
    loss, count = total(loss, count, device=where)
    if count == 0:
        raise ValueError(f"the batch of step {step + 1}: no label in it counts, so there is nothing to learn from")
    if count != config.batch_size:
        for weight in model.parameters():
            if weight.grad is not None:
                weight.grad.mul_(config.batch_size / count)
        loss *= config.batch_size / count
    return loss


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
    logits, labels = respond(model, data, batch_size=batch_size, on_batch=on_batch)
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
