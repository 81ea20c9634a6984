"""Classic wrong answers about the key-value cache, each with three hints of increasing directness."""

from collections.abc import Callable, Iterator

import torch
from strategies import normal

from minivid.classroom.museum import Mistake, Probe


class Right:
    """A cache that joins; each mistake below changes one thing about it."""

    def __init__(self, capacity=64):
        self.length, self.capacity, self.kept = 0, capacity, None

    def append(self, keys, values):
        self.kept = (keys, values) if self.kept is None else self.joined(keys, values)
        self.length = self.kept[0].shape[2]
        return self.kept

    def joined(self, keys, values):
        return torch.cat([self.kept[0], keys], 2), torch.cat([self.kept[1], values], 2)

    def crop(self, length):
        self.length, self.kept = length, tuple(x[:, :, :length] for x in self.kept)


class NewTokensInFront(Right):
    def joined(self, keys, values):
        return torch.cat([keys, self.kept[0]], 2), torch.cat([values, self.kept[1]], 2)


class NewTokensAlone(Right):
    def joined(self, keys, values):
        return keys, values


class NewTokensAloneComeBack(Right):
    def append(self, keys, values):
        super().append(keys, values)
        return keys, values


class FirstTokensForEver(Right):
    def joined(self, keys, values):
        return self.kept


class ValuesFirst(Right):
    def append(self, keys, values):
        return super().append(keys, values)[::-1]


class KeysTwice(Right):
    def append(self, keys, values):
        return super().append(keys, keys)


class OldValuesWithNewKeys(Right):
    def joined(self, keys, values):
        return torch.cat([self.kept[0], keys], 2), torch.cat([self.kept[1], self.kept[1][:, :, -1:]], 2)


class JoinedAlongTheHeads(Right):
    def joined(self, keys, values):
        return torch.cat([self.kept[0], keys], 1), torch.cat([self.kept[1], values], 1)


class JoinedAlongTheBatch(Right):
    def joined(self, keys, values):
        return torch.cat([self.kept[0], keys], 0), torch.cat([self.kept[1], values], 0)


class CountsAppends(Right):
    def append(self, keys, values):
        count = self.length
        kept = super().append(keys, values)
        self.length = count + 1
        return kept


class WholeBuffer(Right):
    def append(self, keys, values):
        kept = super().append(keys, values)
        room = max(self.capacity - self.length, 0)
        return tuple(torch.cat([x, x.new_zeros(*x.shape[:2], room, x.shape[3])], 2) for x in kept)


class LastTokensOnly(Right):
    """A sliding window: what is beyond the capacity falls out at the front."""

    def joined(self, keys, values):
        return tuple(x[:, :, -self.capacity :] for x in super().joined(keys, values))


class FullIsFull(Right):
    def joined(self, keys, values):
        return tuple(x[:, :, : self.capacity] for x in super().joined(keys, values))


class CropKeepsTheLast(Right):
    def crop(self, length):
        self.length, self.kept = length, tuple(x[:, :, self.length - length :] for x in self.kept)


class CropCutsOff(Right):
    def crop(self, length):
        super().crop(self.length - length)


class CropChangesTheLengthAlone(Right):
    def crop(self, length):
        self.length = length


KV_CACHE = [
    (
        NewTokensInFront,
        (
            "Append token 0, then token 1. Which key comes back first?",
            "The new tokens stand in front of the old ones; they belong behind.",
            "torch.cat([old, new], 2), not torch.cat([new, old], 2).",
        ),
    ),
    (
        NewTokensAlone,
        (
            "Append one token twice. How many come back the second time?",
            "The old tokens are replaced by the new ones.",
            "Join them: torch.cat([old, new], 2).",
        ),
    ),
    (
        NewTokensAloneComeBack,
        (
            "The length is right. How many keys come back from the second append?",
            "What comes back are the arguments, not everything that is kept.",
            "Return all keys and values so far, of shape b heads length k.",
        ),
    ),
    (
        FirstTokensForEver,
        (
            "Append twice and look at the length.",
            "Only the first append is kept.",
            "Join the new tokens to the kept ones at every append.",
        ),
    ),
    (
        ValuesFirst,
        (
            "Two tensors come back. Which one comes first?",
            "The values stand where the keys should.",
            "return keys, values",
        ),
    ),
    (
        KeysTwice,
        (
            "Look at the values that come back.",
            "The keys are kept as values too.",
            "Keep two tensors, one of the keys and one of the values.",
        ),
    ),
    (
        OldValuesWithNewKeys,
        (
            "Append twice and look at the values of the second piece.",
            "The keys grow by the new tokens, the values by a copy of an old one.",
            "torch.cat([self.values, values], 2)",
        ),
    ),
    (
        JoinedAlongTheHeads,
        (
            "Print the shape of what comes back: which axis has grown?",
            "The tokens are joined along the heads.",
            "Tokens are axis 2 of b heads s k: torch.cat([old, new], 2).",
        ),
    ),
    (
        JoinedAlongTheBatch,
        (
            "Print the shape of what comes back: which axis has grown?",
            "The tokens are joined along the batch, torch.cat's axis when none is given.",
            "Tokens are axis 2 of b heads s k: torch.cat([old, new], 2).",
        ),
    ),
    (
        CountsAppends,
        (
            "Append a piece of three tokens. What is the length?",
            "The length counts appends; it should count tokens.",
            "self.length += keys.shape[2]",
        ),
    ),
    (
        WholeBuffer,
        (
            "Print the shape of what comes back after one token.",
            "The whole buffer comes back, with room that no token has filled; attention would look at it.",
            "return keys[:, :, :length], values[:, :, :length]",
        ),
    ),
    (
        LastTokensOnly,
        (
            "Give a capacity of 1 and append two tokens. Which come back?",
            "Beyond the capacity the oldest tokens fall out: a sliding window. Here the capacity is no limit.",
            "Take more room, twice as much, and copy the old tokens into it.",
        ),
    ),
    (
        FullIsFull,
        (
            "Give a capacity of 1 and append two tokens. Which come back?",
            "Beyond the capacity the new tokens are dropped.",
            "Take more room, twice as much, and copy the old tokens into it.",
        ),
    ),
    (
        CropKeepsTheLast,
        (
            "Crop three tokens to one. Which one is left?",
            "The last tokens are kept; the first are the prompt that is to be continued.",
            "keys[:, :, :length]",
        ),
    ),
    (
        CropCutsOff,
        (
            "What does the number given to crop mean?",
            "So many tokens are cut off; so many should be left.",
            "keys[:, :, :length]",
        ),
    ),
    (
        CropChangesTheLengthAlone,
        (
            "Crop, then append: where do the new tokens stand?",
            "The length is changed, but the next append still stands behind all the old tokens.",
            "Cut the keys and values to [:, :, :length] too, or write the next ones at self.length.",
        ),
    ),
]

MISTAKES: dict[str, list[Mistake]] = {"KVCache": [Mistake(*row) for row in KV_CACHE]}


def probes(name: str) -> Iterator[Probe]:
    """Uses on which every two of the mistakes above differ."""
    yield use(64, None)
    yield use(2, None)
    yield use(64, 1)
    yield use(64, None, pieces=(2, 2))  # equal pieces can be joined along a wrong axis


def use(capacity: int, crop: int | None, pieces: tuple[int, ...] = (3, 1, 2)) -> Callable:
    """Append pieces of so many tokens; crop before the third."""

    def used(cache_of: Callable) -> list:
        cache, seen = cache_of(capacity), []
        for seed, n in enumerate(pieces):
            if crop is not None and seed == 2:
                cache.crop(crop)
                seen.append(cache.length)
            kept = cache.append(normal(seed, 2, 3, n, 5), normal(seed + 10, 2, 3, n, 5))
            seen += [*kept, cache.length]
        return seen

    return used
