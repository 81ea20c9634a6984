"""The axis letters of the project: one letter, one meaning, everywhere."""

from typing import NamedTuple

AXES: dict[str, str] = {
    "b": "clips in a batch",
    "t": "frames",
    "c": "channels",
    "h": "pixel rows",
    "w": "pixel columns",
    "gt": "patches along time",
    "gh": "patches along the height",
    "gw": "patches along the width",
    "tau": "frames in one patch",
    "p": "pixels along one side of a patch",
    "n": "tokens that ask (queries), or rows in general",
    "s": "tokens that answer (keys and values)",
    "d": "width of a token",
    "heads": "attention heads",
    "k": "width of one head",
    "f": "hidden width of a feed-forward layer",
    "v": "entries of a vocabulary, or classes",
    "r": "rank of a low-rank update",
}


class ShapeError(ValueError):
    """A tensor, or a size, does not fit; the message names the axis, what was expected, what came and what to do."""


class Grid(NamedTuple):
    """How many patches a clip has along time, height and width."""

    gt: int
    gh: int
    gw: int
