"""Examples to batches, in an order that depends on the seed and the step alone, so that training can go on anywhere."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from minivid.shapes import ShapeError

Example = tuple[Float[Tensor, "t c h w"], int]


@runtime_checkable
class Examples(Protocol):
    """Labelled clips: anything with a length whose items are a clip `t c h w` and its class number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


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


def stack(examples: Sequence[Example]) -> tuple[Float[Tensor, "b t c h w"], Int64[Tensor, " b"]]:
    """Put clips of one size and their labels into one tensor each.

    Args:
        examples: at least one clip with its class number.

    Raises:
        ShapeError: if the clips differ in size, or there is none.
    """
    sizes = {tuple(clip.shape) for clip, _ in examples}
    if len(sizes) != 1:
        raise ShapeError(
            f"clips: {len(sizes)} sizes t c h w in one batch, {sorted(sizes)}, expected one; "
            "load all clips with the same ClipSettings"
        )
    return torch.stack([clip for clip, _ in examples]), torch.tensor([label for _, label in examples])
