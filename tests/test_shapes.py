"""The axis letters: one meaning each, and no signature uses a letter that the key does not explain."""

import re
from pathlib import Path

import pytest

from minivid.shapes import AXES, Grid, ShapeError

PACKAGE = Path(__file__).parent.parent / "minivid"
SHAPE = re.compile(r"\b(?:Float|Float32|Float64|Int|Int64|UInt8|Num|Bool|Shaped)\[[\w.]+, \"([^\"]*)\"\]")


def unexplained(code: str) -> set[str]:
    """Axes in the signatures of some code that are neither in the key nor words, numbers or `...`."""
    axes = {axis.lstrip("*#") for shape in SHAPE.findall(code) for axis in shape.split()}
    return {axis for axis in axes if axis not in AXES and not re.fullmatch(r"\d+|\.\.\.|[a-z_]{3,}", axis)}


def test_an_axis_letter_has_one_meaning():
    assert len(set(AXES.values())) == len(AXES)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_every_letter_in_a_signature_is_explained(path):
    assert unexplained(path.read_text(encoding="utf-8")) == set()


def test_a_letter_that_is_not_in_the_key_is_found():
    assert unexplained('def f(x: Float[Tensor, "b q 3 kdim"]) -> Bool[Tensor, " z"]: ...') == {"q", "z"}


def test_a_grid_reads_as_time_height_width():
    assert tuple(Grid(gt=15, gh=40, gw=72)) == (15, 40, 72)


def test_a_shape_error_is_a_value_error():
    with pytest.raises(ValueError, match="h=30"):
        raise ShapeError("frames: h=30 is not a multiple of 32")
