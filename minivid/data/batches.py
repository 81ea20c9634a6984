"""Examples to batches: which clips, in which order, with what luck; the same however many workers load them."""

import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from multiprocessing import get_all_start_methods
from traceback import clear_frames
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from minivid.shapes import ShapeError

Label = int | float | Sequence[int | float]
Example = tuple[Float[Tensor, "t c h w"], Label]
Augment = Callable[[Tensor, torch.Generator], Tensor]
Inputs = Tensor | Mapping[str, Tensor]
"""What a model is called with: the clips, or its arguments by name."""


@runtime_checkable
class Examples(Protocol):
    """Labelled clips: anything with a length whose items are a clip `t c h w` and its class number, or its numbers.

    Items may be of any other kind where there is a method `collate` too, that makes a batch of some of them: what a
    model is called with, one tensor or several by name, and the labels.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


# ---- what a step is made of follows from its number


def batch_indices(examples: int, batch_size: int, *, step: int, seed: int = 0) -> list[int]:
    """Choose the examples of one training step.

    All examples in a random order, then all of them again in another one, without end; step k takes the numbers
    k batch_size to (k + 1) batch_size - 1 of that row. So each example comes equally often, and no batch is short.

    Args:
        examples: how many there are.
        batch_size: how many are wanted.
        step: counted from 0.
        seed: which random order.

    Raises:
        ValueError: if there is no example, or the batch is empty.
    """
    if examples < 1 or batch_size < 1:
        raise ValueError(f"{examples=} and {batch_size=}: expected at least 1 of each")
    places = (divmod(place, examples) for place in range(step * batch_size, (step + 1) * batch_size))
    return [_order(examples, seed, epoch)[place] for epoch, place in places]


@lru_cache(maxsize=4)
def _order(examples: int, seed: int, epoch: int) -> list[int]:
    return np.random.default_rng((seed, epoch)).permutation(examples).tolist()


class Seeds(NamedTuple):
    """Where three streams of random numbers begin: torch's own (dropout), augmentation's, and the objective's."""

    model: int
    augment: int
    objective: int


def place_seeds(seed: int, step: int, place: int = 0) -> Seeds:
    """All that is random about one clip of one step follows from these numbers.

    They depend on nothing else. So it does not matter which process or worker handles the clip, with which others, or
    whether the training was stopped before.

    Args:
        seed: of the training.
        step: counted from 0.
        place: of the clip in the batch of that step, counted from 0.
    """
    return Seeds(*np.random.SeedSequence((seed, step, place)).generate_state(3).tolist())


class PlaceGenerators(Sequence):
    """One random generator for each clip of a batch, for the objective; made when it is asked for."""

    def __init__(self, seed: int, step: int, places: range):
        self._seed, self._step, self._places = seed, step, places
        self._made: dict[int, torch.Generator] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> torch.Generator:
        place = self._places[index]
        if place not in self._made:
            start = place_seeds(self._seed, self._step, place).objective
            self._made[place] = torch.Generator().manual_seed(start)
        return self._made[place]


def batch_parts(batch_size: int, parts: int) -> list[range]:
    """Cut the places of a batch into runs that follow each other and differ by at most one clip in length.

    Args:
        batch_size: places 0 to batch_size - 1.
        parts: how many runs.

    Raises:
        ValueError: if there are more parts than clips, or none.
    """
    if not 1 <= parts <= batch_size:
        raise ValueError(f"batch_size={batch_size} clips cannot be cut into {parts} parts, expected 1 to {batch_size}")
    cuts = [part * batch_size // parts for part in range(parts + 1)]
    return [range(first, last) for first, last in zip(cuts[:-1], cuts[1:], strict=True)]


def runs(examples: int, batch_size: int) -> list[range]:
    """Cut a row of examples into runs that follow each other, all of one length but the last.

    Args:
        examples: in the row.
        batch_size: the length of a run, at least 1.
    """
    return [range(first, min(first + batch_size, examples)) for first in range(0, examples, batch_size)]


def stack(examples: Sequence[Example]) -> tuple[Float[Tensor, "b t c h w"], Num[Tensor, "b ..."]]:
    """Put clips of one size and their labels into one tensor each.

    Args:
        examples: at least one clip with its class number, its number, or its equally many numbers.

    Raises:
        ShapeError: if the clips differ in size or the labels in length, or there is none.
    """
    sizes = {tuple(clip.shape) for clip, _ in examples}
    if len(sizes) != 1:
        raise ShapeError(
            f"clips: {len(sizes)} sizes t c h w in one batch, {sorted(sizes)}, expected one; "
            "load all clips with the same ClipSettings"
        )
    lengths = {np.shape(label) for _, label in examples}
    if len(lengths) != 1:
        raise ShapeError(f"labels: {len(lengths)} shapes in one batch, {sorted(lengths)}, expected one")
    return torch.stack([clip for clip, _ in examples]), torch.tensor([label for _, label in examples])


def collated(examples: Examples, chosen: Sequence) -> tuple[Inputs, Tensor]:
    """Make a batch of some examples, as they say themselves, or by `stack` where they say nothing.

    Args:
        examples: where they are from.
        chosen: some of their items.
    """
    return getattr(examples, "collate", stack)(chosen)


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    """Bring what a model is called with to where the model is.

    Args:
        inputs: one tensor, or several by name.
        device: of the model.
    """
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    return {name: tensor.to(device) for name, tensor in inputs.items()}


# ---- loading


class Batch(NamedTuple):
    """Some clips of one step: its micro-batch.

    Attributes:
        step: counted from 0.
        places: where the clips stand in the whole batch of the step.
        inputs: normalised pixels b t c h w, or what else the model is called with.
        labels: one number, or one row of numbers, a clip.
    """

    step: int
    places: range
    inputs: Inputs
    labels: Num[Tensor, "b ..."]


@dataclass(frozen=True)
class TrainingBatches(Dataset):
    """The micro-batches of a training: item (step, part) is the same whoever asks for it, and when.

    Attributes:
        examples: what there is to learn from.
        batch_size: clips of one step, over all parts and processes.
        seed: of order and augmentation.
        parts: micro-batches a step and process.
        share: the number of this process, counted from 0, and how many there are.
        augment: changes a clip by the generator it is given.
    """

    examples: Examples
    batch_size: int
    seed: int = 0
    parts: int = 1
    share: tuple[int, int] = (0, 1)
    augment: Augment | None = None
    _runs: list[range] = field(init=False, repr=False)

    def __post_init__(self):
        process, processes = self.share
        runs = batch_parts(self.batch_size, self.parts * processes)
        object.__setattr__(self, "_runs", runs[process * self.parts : (process + 1) * self.parts])

    def __getitem__(self, item: tuple[int, int]) -> Batch:
        step, part = item
        chosen = batch_indices(len(self.examples), self.batch_size, step=step, seed=self.seed)
        places = self._runs[part]
        examples = [self._example(chosen[place], step, place) for place in places]
        return Batch(step, places, *collated(self.examples, examples))

    def _example(self, index: int, step: int, place: int) -> object:
        if self.augment is None:
            return self.examples[index]
        clip, label = self.examples[index]
        rng = torch.Generator().manual_seed(place_seeds(self.seed, step, place).augment)
        return self.augment(clip, rng), label


@contextmanager
def loaded(batches: TrainingBatches, steps: range, *, workers: int = 0) -> Iterator[Iterator[Batch]]:
    """Load the micro-batches of some steps one after the other, ahead of their use if there are workers.

    The workers are gone when the context is left, however it is left.

    Args:
        batches: what to load.
        steps: in this order, every part of each.
        workers: processes that load; 0 = this one does, when the batch is asked for. Of no influence on the batches.

    Raises:
        ChildProcessError: inside the context, if a worker is killed.
        ValueError: if workers is negative.
    """
    if workers < 0:
        raise ValueError(f"workers={workers} is below 0")
    places = [(step, part) for step in steps for part in range(batches.parts)]
    if workers == 0:
        yield (batches[place] for place in places)
        return
    # A forked worker shares the clips that are in memory already, and needs no pickled `augment`.
    method = "fork" if "fork" in get_all_start_methods() else None
    loader = DataLoader(
        _Reported(batches),
        batch_size=None,
        sampler=places,
        num_workers=workers,
        collate_fn=_unchanged,
        multiprocessing_context=method,
        generator=torch.Generator(),  # its own: the caller's random numbers are not the loader's to move
        worker_init_fn=partial(_end_without, os.getpid()),
    )
    stream = _unwrapped(loader)
    try:
        yield stream
    except RuntimeError as error:
        # torch raises it from a signal handler, wherever the program is when a worker dies.
        if "DataLoader worker" not in str(error):
            raise
        message = f"one of {workers} data workers died ({str(error).splitlines()[0]}); " + _ADVICE
        _let_go(error)
        raise ChildProcessError(message) from None
    finally:
        stream.close()


def _end_without(training: int, worker: int) -> None:
    # A worker notices that its parent has changed, not that it had when the worker began to look.
    if os.getppid() != training:
        os._exit(1)


def _let_go(error: BaseException | None) -> None:
    # What the frames on its trail hold would keep the loader, and so its other workers, alive.
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


_ADVICE = "if memory ran out, give fewer workers or smaller clips, then run the same call again"


def _unwrapped(loader: DataLoader) -> Iterator[Batch]:
    for found in loader:
        if isinstance(found, Exception):
            raise found
        yield found


class _Reported(Dataset):
    """Batches, or the error met while making one: raised in the training's process as what it is, without its trail."""

    def __init__(self, batches: TrainingBatches):
        self.batches = batches

    def __getitem__(self, item: tuple[int, int]) -> Batch | Exception:
        try:
            return self.batches[item]
        except Exception as error:
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:
                return ValueError(f"{type(error).__name__}: {error}")
            return error


def _unchanged(batch: Batch | Exception) -> Batch | Exception:
    return batch
