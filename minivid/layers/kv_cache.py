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
        self._keys: Tensor | None = None  # b heads capacity k, of which the first `length` are filled
        self._values: Tensor | None = None

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
        self._keys, self._values = self._joined(self._keys, keys), self._joined(self._values, values)
        self.capacity = self._keys.shape[2]
        self.length += keys.shape[2]
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]

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

    def _joined(self, kept: Tensor | None, new: Tensor) -> Tensor:
        """What is kept with the new tokens behind it, in the same memory where there is room."""
        end = self.length + new.shape[2]
        if kept is None:
            kept = new.new_empty(*new.shape[:2], max(self.capacity, end), new.shape[3])
        if torch.is_grad_enabled():
            return torch.cat([kept[:, :, : self.length], new], 2)
        if end > kept.shape[2]:
            larger = new.new_empty(*new.shape[:2], max(2 * kept.shape[2], end), new.shape[3])
            larger[:, :, : self.length] = kept[:, :, : self.length]
            kept = larger
        kept[:, :, self.length : end] = new
        return kept

    def _check(self, keys: Tensor, values: Tensor) -> None:
        if keys.ndim != 4 or keys.shape != values.shape:
            raise ShapeError(
                f"keys {tuple(keys.shape)} and values {tuple(values.shape)}: expected b heads n k, the same for both"
            )
        for name, new, kept in (("keys", keys, self._keys), ("values", values, self._values)):
            if kept is not None and _of_a_kind(new) != _of_a_kind(kept):
                b, heads, _, k = kept.shape
                raise ShapeError(
                    f"{name}: shape {tuple(new.shape)}, {new.dtype} on {new.device}, expected b={b}, heads={heads}, n, "
                    f"k={k}, {kept.dtype} on {kept.device}, as appended first; a cache serves one layer and one batch"
                )

    def __repr__(self) -> str:
        return f"KVCache(length={self.length}, capacity={self.capacity})"


def _of_a_kind(x: Tensor) -> tuple:
    """All that appended tokens have in common; only their number may differ."""
    b, heads, _, k = x.shape
    return b, heads, k, x.dtype, x.device
