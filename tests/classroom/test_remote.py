"""Functions and objects in another process behave as if they were here, gradients and exceptions included."""

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds, small
from torch import nn

from minivid.classroom.child import Child
from minivid.classroom.remote import Remote, revived
from minivid.classroom.sandbox import AnswerError, SignatureError
from minivid.shapes import Grid, ShapeError

ANSWERS = """
import sys
import torch
from torch import nn
from minivid.shapes import Grid, ShapeError

def mix(x, y, *, scale=2.0):
    return scale * x.sin() * y, (x > 0), 3

def plus(x, y):
    return x + y

def twice(x):
    return x + x, x * x

def detached(x):
    return x.detach() * 2

def inplace(x):
    x += 1
    return x

def grid(g):
    return Grid(g.gt + 1, g.gh, g.gw), [g], {"shape": torch.zeros(2).shape}

def refuse(kind):
    class Own(ValueError):
        pass
    class Odd(BaseException):
        pass
    kinds = {"shape": ShapeError, "own": Own, "odd": Odd, "exit": SystemExit, "bare": Exception, "memory": MemoryError}
    raise kinds[kind]("h=3")

def array():
    import numpy
    return numpy.arange(3)

def reads():
    return input()

class Pretender(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return True

def pretends(x):
    return x.as_subclass(Pretender)

def hungry():
    return torch.zeros(10**10)

def many(count):
    return [torch.empty(10**8, dtype=torch.uint8) for _ in range(count)]

class Layer(nn.Linear):
    kind = "linear"
"""


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    file = tmp_path_factory.mktemp("answers") / "answers.py"
    file.write_text(ANSWERS)
    with Child(seconds=100.0) as child:
        child.ready()
        remote = Remote(child)
        names = remote.load(str(file))
        assert {"mix", "Layer"} <= set(names)
        yield remote


def mix(x, y, *, scale=2.0):
    """The same function here."""
    return scale * x.sin() * y, (x > 0), 3


@given(n=small, k=small, seed=seeds)
def test_results_are_those_of_the_same_function_here(remote, n, k, seed):
    x, y = normal(seed, n, k), normal(seed + 1, n, k)
    got, want = remote.function("mix")(x, y, scale=3.0), mix(x, y, scale=3.0)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1]) and got[2] == 3


@given(n=small, seed=seeds)
def test_gradients_are_those_of_the_same_function_here(remote, n, seed):
    x, y, direction = (normal(seed + i, n).requires_grad_(i < 2) for i in range(3))
    got = torch.autograd.grad(remote.function("mix")(x, y)[0], (x, y), direction)
    want = torch.autograd.grad(mix(x, y)[0], (x, y), direction)
    assert all(map(torch.equal, got, want))


def test_a_gradient_passes_gradcheck(remote):
    x = normal(0, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(remote.function("twice"), (x,))


def test_a_gradient_flows_on_through_what_stands_before(remote):
    weight = normal(0, 3).requires_grad_()
    first, second = remote.function("twice")(weight.exp())
    (first.sum() + second.sum()).backward()
    want = 2 * weight.exp() + 2 * weight.exp() ** 2  # d/dw of 2 e^w + e^2w
    assert torch.allclose(weight.grad, want, rtol=1e-6)


def test_a_result_without_a_gradient_has_none_here(remote):
    x = normal(0, 3).requires_grad_()
    assert not remote.function("detached")(x).requires_grad
    with torch.no_grad():
        assert not remote.function("twice")(x)[0].requires_grad


def test_an_argument_that_was_changed_in_place_is_changed_here(remote):
    x = torch.zeros(3)
    assert remote.function("inplace")(x).tolist() == [1, 1, 1] and x.tolist() == [1, 1, 1]
    assert remote.function("twice")(x)[0].tolist() == [2, 2, 2] and x.tolist() == [1, 1, 1]


def test_named_tuples_and_nests_cross(remote):
    got = remote.function("grid")(Grid(1, 2, 3))
    assert got == (Grid(2, 2, 3), [Grid(1, 2, 3)], {"shape": (2,)}) and type(got[0]) is Grid


@pytest.mark.parametrize(
    "kind, error, words",
    [
        ("shape", ShapeError, "h=3"),
        ("own", ValueError, "h=3"),
        ("bare", AnswerError, "Exception: h=3"),
        ("odd", AnswerError, "Odd: h=3"),
        ("exit", AnswerError, r"sys\.exit\(\) was called"),
        ("memory", MemoryError, "more than 1 GB"),
    ],
)
def test_an_exception_arrives_with_its_type_and_line(remote, kind, error, words):
    with pytest.raises(error, match=words) as caught:
        remote.function("refuse")(kind)
    assert type(caught.value) is error and caught.value.place.text.startswith("raise kinds[kind]")


def test_arguments_that_do_not_fit_are_told_from_other_type_errors(remote):
    with pytest.raises(SignatureError, match="missing a required argument: 'y'"):
        remote.function("mix")(1)
    with pytest.raises(TypeError) as caught:
        remote.function("plus")("a", 1)
    assert not isinstance(caught.value, SignatureError)


def test_exceptions_that_steer_a_test_lose_their_meaning():
    for name in ("UnsatisfiedAssumption", "StopTest", "Skipped", "KeyboardInterrupt", "SystemExit", "GeneratorExit"):
        assert type(revived({"types": [name, "BaseException"], "message": ""})) is AnswerError
    assert type(revived({"types": ["UnicodeDecodeError", "UnicodeError", "ValueError"], "message": ""})) is ValueError
    assert type(revived({"types": ["ExceptionGroup", "BaseExceptionGroup"], "message": ""})) is AnswerError
    for rubbish in ({}, {"types": 3}, {"types": [None]}, {"message": [1], "line": "x", "text": {}}):
        assert isinstance(revived(rubbish), Exception)


def test_an_object_of_another_kind_is_known_by_its_type(remote):
    assert type(remote.function("array")()).__name__ == "ndarray"


def test_the_answer_reads_an_empty_input(remote):
    with pytest.raises(EOFError):
        remote.function("reads")()


def test_a_tensor_that_pretends_arrives_as_its_numbers(remote):
    got = remote.function("pretends")(torch.arange(3))
    assert type(got) is torch.Tensor and got.tolist() == [0, 1, 2]


def test_a_hungry_answer_is_refused_and_lives_on(remote):
    with pytest.raises(MemoryError, match="more than 1 GB"):
        remote.function("hungry")()
    with pytest.raises(MemoryError, match="more than 1 GB"):
        remote.function("many")(40)
    assert remote.function("twice")(torch.ones(1))[0].tolist() == [2]


def test_a_module_takes_the_weights_of_its_twin_and_gives_its_results_and_gradients(remote):
    twin = nn.Linear(3, 2)
    layer = remote.function("Layer")(3, 2)
    assert set(layer.state_dict()) == {"weight", "bias"} and layer.kind == "linear" and layer.in_features == 3
    layer.load_state_dict(twin.state_dict())
    x = normal(0, 4, 3).requires_grad_()
    got, want = layer.eval()(x), twin(x)
    assert torch.equal(got, want) and layer.training is False
    assert torch.equal(torch.autograd.grad(got.sum(), x)[0], torch.autograd.grad(want.sum(), x)[0])


def test_what_is_no_longer_used_here_is_forgotten_there(remote):
    x = normal(0, 3).requires_grad_()
    result, layer = remote.function("twice")(x), remote.function("Layer")(3, 2)
    number = layer._number
    del result, layer
    gc.collect()
    assert number in remote.unused and len(remote.unused) >= 2
    remote.function("twice")(torch.ones(1))
    assert remote.unused == []


@given(st.integers(0, 3))
def test_many_results_wait_for_their_gradients_side_by_side(remote, count):
    xs = [normal(i, 2).requires_grad_() for i in range(count)]
    results = [remote.function("twice")(x)[1] for x in xs]
    for x, result in zip(xs, results, strict=True):
        assert torch.equal(torch.autograd.grad(result.sum(), x)[0], 2 * x.detach())
