"""A comparison that keeps its evidence: what a law was given, what came out, what should have."""

from collections.abc import Mapping

import torch
from torch import Tensor

# How many rows of a tensor are shown.
ROWS = 8


class Broken(AssertionError):
    """A law that failed on one input.

    Attributes:
        claim: what does not hold, in one sentence.
        case: the inputs, by argument name.
        got, want: what the answer gave and what the law expects, or None.
        shown: all of these that a reader is shown, by name.
    """

    def __init__(self, claim: str, case: Mapping[str, object], got: object = None, want: object = None):
        self.claim, self.case, self.got, self.want = claim, dict(case), got, want
        self.shown = {**self.case, **({} if want is None else {"got": got, "want": want})}
        super().__init__("\n".join([claim, *(show(name, value) for name, value in self.shown.items())]))


def agree(
    got: object, want: Tensor, claim: str, *, axes: str = "", atol: float = 1e-5, rtol: float = 1e-4, **case: object
) -> None:
    """Raise Broken unless `got` is a tensor of the shape and, within tolerance, the values of `want`.

    Args:
        got: what the implementation under test returned.
        want: what the law expects.
        claim: the sentence a reader sees when it fails, saying what does not hold.
        axes: names of want's axes, as in "n d"; the first differing place is given in them.
        atol, rtol: largest |got - want| allowed is atol + rtol |want|.
        case: the inputs, shown with the failure.
    """
    if not isinstance(got, Tensor):
        raise Broken(f"{claim}: the result is a {type(got).__name__}, not a tensor", case)
    if got.shape != want.shape:
        raise Broken(f"{claim}: the shape is {tuple(got.shape)}, expected {tuple(want.shape)} {axes}".rstrip(), case)
    close = torch.isclose(got.to(want.dtype), want, atol=atol, rtol=rtol, equal_nan=True)
    if not close.all():
        where = (~close).nonzero()[0].tolist()
        names = axes.split() if axes else [f"axis {i}" for i in range(want.ndim)]
        place = ", ".join(f"{name}={i}" for name, i in zip(names, where, strict=True)) or "the only number"
        first = f"first at {place}: {got[tuple(where)].item():.4g} instead of {want[tuple(where)].item():.4g}"
        raise Broken(f"{claim} ({first})", case, got, want)


def holds(condition: bool, claim: str, **case: object) -> None:
    """Raise Broken with the inputs unless the condition is true."""
    if not condition:
        raise Broken(claim, case)


def show(name: str, value: object, *, most: int = 36) -> str:
    """One value as a reader wants it: small tensors as rows of numbers, large ones as their shape."""
    head = f"  {name:>7} = "
    if not isinstance(value, Tensor):
        text = repr(value)
        return head + (text if len(text) <= 200 else text[:197] + "...")
    shape = " x ".join(map(str, value.shape)) or "one number"
    if value.numel() > most or value.numel() == 0:
        return f"{head}{str(value.dtype).removeprefix('torch.')} tensor, {shape}"
    if value.dtype == torch.bool:
        cell = {True: "x", False: "."}.__getitem__
    elif value.is_floating_point() and not torch.equal(value, value.round()):
        cell = "{:.3f}".format
    else:
        cell = "{:g}".format
    # Axes of size one at the end would give every number a line of its own.
    width = next((size for size in reversed(value.shape) if size > 1), 1)
    rows = value.detach().reshape(-1, width).tolist()
    lines = ["[" + " ".join(cell(v) for v in row) + "]" for row in rows[:ROWS]]
    if len(rows) > ROWS:
        lines[-1] = f"... {len(rows) - ROWS + 1} more rows"
    return head + ("\n" + " " * len(head)).join(lines) + f"   ({shape})"
