"""Well-known wrong answers, each with three hints, and which of them an answer behaves like."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# How an answer is asked: a list of arguments, or, for a class, a function that is given the answer and uses it.
Probe = tuple[tuple, dict] | Callable[[Callable], object]


@dataclass(frozen=True)
class Mistake:
    """A classic wrong answer, and three hints that lead out of it, each more direct than the one before."""

    answer: Callable
    hints: tuple[str, str, str]


def recognise(
    name: str,
    call: Callable,
    mistakes: Mapping[str, Sequence[Mistake]],
    probes: Callable[[str], Iterable[Probe]],
) -> Mistake | None:
    """The first known mistake that gives what the answer gives on every probe, or None.

    Results are the same if their structure, shapes and dtypes are and their numbers are close (NaN equals NaN), and if
    the arguments were changed in place alike. Two calls that raise the same type of exception count as the same.

    Args:
        name: the public name that the answer claims to be, as in "attend".
        call: the answer, or a stand-in for it in another process.
        mistakes: the wrong answers by public name (`MISTAKES` of a module in tests/mistakes).
        probes: gives the probes of a name (`probes` of the same module).
    """
    suspects = list(mistakes.get(name, ()))
    for probe in probes(name):
        if not suspects:
            return None
        seen = outcome(call, probe)
        suspects = [suspect for suspect in suspects if same(outcome(suspect.answer, probe), seen)]
    return suspects[0] if suspects else None


def outcome(call: Callable, probe: Probe) -> tuple:
    """What a call gave and what became of its arguments, or the type of exception it raised."""
    try:
        if callable(probe):
            return "gave", probe(call)
        arguments, keywords = copied(probe)
        return "gave", call(*arguments, **keywords), arguments, keywords
    except Exception as error:
        return "raised", type(error).__name__


def copied(value: object) -> object:
    """The value with every tensor in it cloned, so that a call cannot spoil the next one's arguments."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    if isinstance(value, tuple):
        items = [copied(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def same(one: object, other: object) -> bool:
    """Whether two results have one structure, one dtype and shape per tensor, and close numbers."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return (
            isinstance(one, Tensor)
            and isinstance(other, Tensor)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and torch.allclose(one.double(), other.double(), atol=1e-4, rtol=1e-4, equal_nan=True)
        )
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or abs(one - other) <= 1e-4 * (1 + abs(other)) or (one != one and other != other)
    return type(one) is type(other) and one == other
