"""Operators mapped over an axis: every entry by a call of its own."""

from types import SimpleNamespace

import pytest
import torch
from strategies import normal

from minivid.layers.vmap import _rule, map_one_by_one

calls = []


@torch.library.custom_op("minivid_test::scaled", mutates_args=())
def scaled(x: torch.Tensor, shift: torch.Tensor, factors: list[int], bias: torch.Tensor | None) -> torch.Tensor:
    calls.append(tuple(x.shape))
    y = factors[0] * x + factors[1] * shift
    return y if bias is None else y + bias


@torch.library.custom_op("minivid_test::both", mutates_args=())
def both(x: torch.Tensor, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    calls.append(tuple(x.shape))
    return x + shift, (x * shift).sum(1)


map_one_by_one(scaled, both)


@pytest.fixture(autouse=True)
def no_calls_yet():
    calls.clear()


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_one_tensor_comes_back_with_the_mapped_axis_first(dim):
    x, shift, bias = normal(0, 3, 5, 2), normal(1, 3, 5, 2), normal(2, 1)
    entries = x.shape[dim]
    got = torch.func.vmap(lambda x, s: scaled(x, s, [2, 7], bias), (dim, dim))(x, shift)
    torch.testing.assert_close(got, (2 * x + 7 * shift + bias).movedim(dim, 0), rtol=0, atol=1e-6)
    assert calls == [tuple(x.select(dim, 0).shape)] * entries


def test_what_is_not_mapped_is_the_same_for_every_entry():
    x, shift = normal(0, 3, 5), normal(1, 5)
    got = torch.func.vmap(lambda x: scaled(x, shift, [1, 1], None))(x)
    assert torch.equal(got, x + shift)


def test_a_tuple_comes_back_as_a_tuple_and_the_axis_may_differ_from_input_to_input():
    x, shift = normal(0, 3, 5, 2), normal(1, 5, 2, 3)
    got = torch.func.vmap(both, (0, 2))(x, shift)
    moved = shift.movedim(2, 0)
    assert isinstance(got, tuple)
    assert torch.equal(got[0], x + moved)
    torch.testing.assert_close(got[1], (x * moved).sum(2), rtol=0, atol=1e-6)
    assert calls == [(5, 2)] * 3


def test_two_axes_are_mapped_one_in_the_other():
    x, shift = normal(0, 3, 2, 5), normal(1, 3, 2, 5)
    got = torch.func.vmap(torch.func.vmap(lambda x, s: scaled(x, s, [1, -1], None)))(x, shift)
    assert torch.equal(got, x - shift)
    assert calls == [(5,)] * 6


def test_torch_is_not_left_to_loop_by_itself(capfd):
    # It would say on stderr that this is slow, and gives the same numbers otherwise.
    torch.func.vmap(lambda x: scaled(x, x, [1, 1], None))(normal(0, 3, 5))
    torch.func.vmap(both)(normal(0, 3, 5, 2), normal(1, 3, 5, 2))
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("unchecked")
def test_nothing_is_left_out_where_numbers_do_not_match():
    mapped = _rule(lambda x, *rest: (x,) * (1 + len(rest) + int(x.sum())))
    two = SimpleNamespace(batch_size=2)
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="shorter"):  # two inputs, one axis
        mapped(two, (0,), x, x)
    with pytest.raises(ValueError, match="longer"):  # one result for the first entry, two for the second
        mapped(two, (0,), x)
