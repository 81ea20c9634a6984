"""Classic wrong answers about linear layers, each with three hints of increasing directness."""

from collections.abc import Iterator

import torch
from strategies import normal

from minivid.classroom.museum import Mistake
from minivid.layers import linear as library

FORMULA = "x @ weight.mT, and + bias where there is one."


def bias_forgotten(x, weight, bias=None):
    return library.linear(x, weight)


def bias_taken_away(x, weight, bias=None):
    return library.linear(x, weight, None if bias is None else -bias)


def bias_before_the_product(x, weight, bias=None):
    return library.linear(x if bias is None else x + bias.mean(), weight)


def bias_as_a_factor(x, weight, bias=None):
    product = library.linear(x, weight)
    return product if bias is None else product * bias


def bias_twice(x, weight, bias=None):
    product = library.linear(x, weight, bias)
    return product if bias is None else product + bias


def inputs_first(x, weight, bias=None):
    """The matrix in the layout k d of other libraries."""
    return library.linear(x, weight.reshape(weight.shape[1], weight.shape[0]).mT, bias)


def root_of_the_width(x, weight, bias=None):
    return library.linear(x / x.shape[-1] ** 0.5, weight, bias)


def mean_for_sum(x, weight, bias=None):
    return library.linear(x / x.shape[-1], weight, bias)


def bent(x, weight, bias=None):
    return library.linear(x, weight, bias).relu()


def matrix_held_fast(x, weight, bias=None):
    return library.linear(x, weight.detach(), bias)


def rows_held_fast(x, weight, bias=None):
    return library.linear(x.detach(), weight, bias)


LINEAR = [
    (
        bias_forgotten,
        ("What should come out for a row of zeros?", "The bias is taken in and never used.", FORMULA),
    ),
    (
        bias_taken_away,
        ("What should come out for a row of zeros?", "The bias is subtracted; it is added.", FORMULA),
    ),
    (
        bias_before_the_product,
        (
            "What should come out for a row of zeros?",
            "The bias is added to the input; it belongs to the result, one number for each of the d.",
            FORMULA,
        ),
    ),
    (
        bias_as_a_factor,
        ("What should come out for a row of zeros?", "The bias multiplies; it is added.", FORMULA),
    ),
    (
        bias_twice,
        ("What should come out for a row of zeros?", "The bias is added two times.", FORMULA),
    ),
    (
        inputs_first,
        (
            "Take d=2 and k=3. Which numbers of the matrix does the first number of the result meet?",
            "The matrix is read as k d, as some libraries store it; here each row makes one number of the result.",
            "x @ weight.mT; turning it round is not the same as reshape(k, d).",
        ),
    ),
    (
        root_of_the_width,
        (
            "Take a matrix of ones and a row of four ones. What should come out?",
            "The result is divided by sqrt(k), as the scores of attention are. A linear layer divides by nothing.",
            FORMULA,
        ),
    ),
    (
        mean_for_sum,
        (
            "Take a matrix of ones and a row of four ones. What should come out?",
            "The products are averaged; they are summed.",
            FORMULA,
        ),
    ),
    (
        bent,
        (
            "Can a number of the result be below 0?",
            "What comes out is cut at 0. The activation is a step of its own, after the layer.",
            "Leave out the relu.",
        ),
    ),
    (
        matrix_held_fast,
        (
            "The numbers are right. What does training change?",
            "The matrix gets no gradient: it was taken out of the graph.",
            "No detach(), no .data, no torch.no_grad().",
        ),
    ),
    (
        rows_held_fast,
        (
            "The numbers are right. What would the layer below learn?",
            "The rows get no gradient: they were taken out of the graph.",
            "No detach(), no .data, no torch.no_grad().",
        ),
    ),
]

MISTAKES: dict[str, list[Mistake]] = {"linear": [Mistake(*row) for row in LINEAR]}


def gradients(at: int):
    """The numbers, and the gradient of one of the inputs; zeros where there is none."""

    def probe(answer):
        given = [normal(1, 4, 3), normal(2, 5, 3), normal(3, 5)]
        given[at].requires_grad_()
        y = answer(*given)
        if not y.requires_grad:
            return torch.zeros_like(given[at])
        return torch.autograd.grad(y.square().sum(), given[at], allow_unused=True, materialize_grads=True)[0]

    return probe


def probes(name: str) -> Iterator:
    """Arguments on which every two of the mistakes above differ."""
    yield (normal(1, 4, 3), normal(2, 5, 3), normal(3, 5)), {}
    yield gradients(0)
    yield gradients(1)
