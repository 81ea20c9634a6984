"""Values cross a pipe and come back equal, and nothing that arrives is executed or trusted."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor

from minivid.classroom.museum import same
from minivid.classroom.pipe import Garbled
from minivid.classroom.wire import ALIGNMENT, DTYPES, pack, unpack
from minivid.shapes import Grid

tensors = st.one_of(
    arrays(np.float32, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), elements=st.floats(width=32)),
    arrays(np.int64, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)),
    arrays(np.bool_, array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3)),
).map(lambda array: torch.from_numpy(np.array(array)))
plain = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats() | st.text() | tensors
values = st.recursive(
    plain,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


def crossed(value):
    """The value after it was sent, as JSON text and bytes, and received."""
    tree, body = pack(value)
    return unpack(json.loads(json.dumps(tree)), bytearray(body))


@given(values)
def test_what_arrives_is_what_was_sent(value):
    assert same(crossed(value), value)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=list(DTYPES))
def test_every_dtype_arrives_bit_for_bit(dtype):
    value = torch.arange(6).reshape(2, 3).to(dtype)
    assert crossed(value).dtype == dtype and torch.equal(crossed(value), value) and crossed(dtype) == dtype


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(12.0).reshape(3, 4).T[1:],
        torch.tensor([1.0, 2.0]).expand(3, 2),
        torch.tensor([1 + 2j]).conj(),
        torch.randn(2, 3, requires_grad=True),
    ],
    ids=["strided", "expanded", "conjugated", "with a gradient"],
)
def test_a_view_arrives_as_its_numbers(value):
    assert torch.equal(crossed(value), value) and not crossed(value).requires_grad


def test_a_tensor_that_arrived_can_be_written_to_alone():
    value = torch.zeros(2)
    first, second = crossed((value, value))
    first += 1
    assert second.tolist() == [0, 0] and value.tolist() == [0, 0]


def test_every_tensor_starts_where_its_widest_element_may():
    tree, _ = pack((torch.ones(3, dtype=torch.uint8), torch.ones(1, dtype=torch.complex128)))
    assert [item["tensor"]["at"] % ALIGNMENT for item in tree["tuple"]] == [0, 0]


def test_a_grid_stays_a_grid():
    assert type(crossed(Grid(1, 2, 3))) is Grid and type(crossed((1, 2, 3))) is tuple


def test_a_grid_of_the_wrong_length_is_a_tuple():
    tree = {"tuple": [1, 2], "named": "Grid"}
    assert unpack(tree, bytearray()) == (1, 2) and type(unpack(tree, bytearray())) is tuple


class Pretender(Tensor):
    """A tensor that says yes to everything."""

    def __eq__(self, other):
        return True

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return True


def test_of_a_subclass_only_the_numbers_cross():
    arrived = crossed(torch.zeros(2).as_subclass(Pretender))
    assert type(arrived) is Tensor and arrived.tolist() == [0, 0]


def test_other_objects_stay_where_they_are():
    kept = []
    tree, body = pack((1, np.zeros(2)), lambda thing: kept.append(thing) or 7)
    arrived = unpack(tree, bytearray(body), handle=lambda number, kind: (number, kind))
    assert arrived == (1, (7, "ndarray")) and len(kept) == 1
    with pytest.raises(TypeError, match="a ndarray cannot be sent"):
        pack(np.zeros(2))
    with pytest.raises(TypeError, match="a int cannot be sent"):
        pack(2**70)


def entry(dtype="float32", shape=(2,), at=0, grad=False):
    return {"tensor": {"dtype": dtype, "shape": list(shape), "at": at, "grad": grad}}


@pytest.mark.parametrize(
    "tree",
    [
        entry(shape=(3,)),
        entry(at=4),
        entry(shape=(-1, -2)),
        entry(at=-8),
        entry(shape=(2**62, 2**62, 0)),
        entry(shape=(True,)),
        entry(shape=("2",)),
        entry(dtype="object"),
        {"tensor": {}},
        {"tensor": 3},
        {"dtype": "Tensor"},
        {"tuple": [1]},
        {"dict": [1]},
        {"object": 1, "type": "int"},
        {"exec": "print(1)"},
        {},
    ],
    ids=str,
)
def test_what_describes_no_value_is_refused(tree):
    with pytest.raises(Garbled):
        unpack(tree, bytearray(8))


def test_a_tower_of_tuples_is_refused():
    tree = 1
    for _ in range(20_000):
        tree = {"list": [tree]}
    with pytest.raises(Garbled, match="RecursionError"):
        unpack(tree, bytearray())
