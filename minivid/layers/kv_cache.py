"""The key-value cache: what attention has computed of earlier tokens is kept, so that a new token costs one row."""

import torch
from jaxtyping import Float
from torch import Tensor

from minivid.shapes import ShapeError


class KVCache:
    """Keys and values of the tokens that one attention layer has read so far, in the order in which they came.

    A token that may not look ahead never changes when more tokens follow, and neither do its key and its value. Kept,
    they make token s cost one query against s keys, instead of s queries against s keys.

    Memory is taken at the first append and doubled when it is full, so that s tokens are copied fewer than 2 s times
    in all. While gradients are recorded, every append copies all: the backward pass still needs what stood there.

    Args:
        capacity: tokens to make room for at first.

    Attributes:
        length: tokens kept.

    Raises:
        ValueError: if capacity is not positive.

    Source: Shazeer 2019, section 2.3, incremental inference (arXiv:1911.02150); Pope et al. 2022, section 2.1
    (arXiv:2211.05102).
    """

    def __init__(self, capacity: int = 64):
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}, expected at least 1 token")
        self.capacity = capacity
        self.length = 0
        self._kept: tuple[Tensor, Tensor] | None = None  # keys, values: b heads capacity k; length of them are filled

    def append(
        self, keys: Float[Tensor, "b heads n k"], values: Float[Tensor, "b heads n k"]
    ) -> tuple[Float[Tensor, "b heads s k"], Float[Tensor, "b heads s k"]]:
        """Keep n tokens more, behind the others.

        Args:
            keys: what the new tokens are found by, already turned by their positions where a layer does that. Of
                grouped heads, the heads of the keys, not their copies.
            values: what they give.

        Returns:
            Keys and values of all tokens so far, s = length. They are views: read them, do not write.

        Raises:
            ShapeError: if keys and values differ in shape, or are not of the shape, dtype and device of the first ones.
        """
        self._check(keys, values)
        end = self.length + keys.shape[2]
        if self._kept is None:
            self.capacity = max(self.capacity, end)
            self._kept = tuple(x.new_empty(*x.shape[:2], self.capacity, x.shape[3]) for x in (keys, values))
        if torch.is_grad_enabled() and any(x.requires_grad for x in (keys, values, *self._kept)):
            past = (kept[:, :, : self.length] for kept in self._kept)
            self._kept = tuple(torch.cat(pair, 2) for pair in zip(past, (keys, values), strict=True))
            self.capacity = end
        else:
            self._make_room(end)
            for kept, new in zip(self._kept, (keys, values), strict=True):
                kept[:, :, self.length : end] = new
        self.length = end
        return self._kept[0][:, :, :end], self._kept[1][:, :, :end]

    def crop(self, length: int) -> None:
        """Forget all but the first tokens: one prompt can be continued in several ways.

        Args:
            length: tokens to keep; their memory stays taken.

        Raises:
            ShapeError: if there are fewer tokens than that.
        """
        if not 0 <= length <= self.length:
            raise ShapeError(f"length: {length}, expected 0 to {self.length}, the tokens that are kept")
        self.length = length

    def _make_room(self, end: int) -> None:
        if end > self.capacity:
            self.capacity = max(2 * self.capacity, end)
            larger = tuple(kept.new_empty(*kept.shape[:2], self.capacity, kept.shape[3]) for kept in self._kept)
            for new, old in zip(larger, self._kept, strict=True):
                new[:, :, : self.length] = old[:, :, : self.length]
            self._kept = larger

    def _check(self, keys: Tensor, values: Tensor) -> None:
        if keys.ndim != 4 or keys.shape != values.shape:
            raise ShapeError(
                f"keys {tuple(keys.shape)} and values {tuple(values.shape)}: expected b heads n k, the same for both"
            )
        for name, new, kept in zip(("keys", "values"), (keys, values), self._kept or (), strict=False):
            same = new.shape[:2] == kept.shape[:2] and new.shape[3] == kept.shape[3]
            if not same or new.dtype != kept.dtype or new.device != kept.device:
                b, heads, _, k = kept.shape
                raise ShapeError(
                    f"{name}: shape {tuple(new.shape)}, {new.dtype} on {new.device}, expected b={b}, heads={heads}, n, "
                    f"k={k}, {kept.dtype} on {kept.device}, as appended first; a cache serves one layer and one batch"
                )

    def __repr__(self) -> str:
        return f"KVCache(length={self.length}, capacity={self.capacity})"
