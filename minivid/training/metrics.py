"""Metrics: what share of the answers is right, and which classes are taken for which."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minivid.shapes import ShapeError


class ClassScores(NamedTuple):
    """How well each class is found; see class_scores."""

    precision: Float[Tensor, " v"]
    recall: Float[Tensor, " v"]
    f1: Float[Tensor, " v"]
    support: Int[Tensor, " v"]


def accuracy(predictions: Int[Tensor, "..."], labels: Int[Tensor, "..."]) -> float:
    """The share of predictions that are equal to their labels.

    Args:
        predictions: class numbers, such as logits.argmax(-1).
        labels: the right classes, of the same shape.

    Raises:
        ShapeError: if the shapes differ.
        ValueError: if there is no prediction.
    """
    _check(predictions, labels)
    return (predictions == labels).double().mean().item()


def confusion_matrix(
    predictions: Int[Tensor, "..."], labels: Int[Tensor, "..."], classes: int
) -> Int[Tensor, "classes classes"]:
    """How often each class was taken for each.

        matrix[i, j] = number of examples of class i that were predicted as class j

    The diagonal is what is right; a row sums to the examples of a class, a column to the predictions of one.

    Args:
        predictions: class numbers.
        labels: the right classes, of the same shape.
        classes: how many there are.

    Raises:
        ShapeError: if the shapes differ.
        ValueError: if there is no prediction, or a number is no class.
    """
    _check(predictions, labels)
    for name, numbers in (("predictions", predictions), ("labels", labels)):
        if numbers.min() < 0 or numbers.max() >= classes:
            raise ValueError(
                f"{name}: from {numbers.min().item()} to {numbers.max().item()}, expected classes 0 to {classes - 1}"
            )
    pairs = (labels * classes + predictions).flatten()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def class_scores(matrix: Int[Tensor, "v v"]) -> ClassScores:
    """Precision, recall and F1 of every class.

        precision = right / predicted,   recall = right / present,   f1 = 2 right / (predicted + present)

    F1 is the harmonic mean of the two. Where nothing was predicted, nothing present, or neither, the number is 0.

    Args:
        matrix: a confusion matrix, rows present, columns predicted.

    Returns:
        One number a class, and the support: how many examples of it are present.

    Raises:
        ShapeError: if the matrix is not square.

    Source: van Rijsbergen 1979, Information Retrieval, chapter 7.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ShapeError(f"matrix: shape {tuple(matrix.shape)}, expected v v: rows present, columns predicted")
    right, present, predicted = matrix.diagonal().double(), matrix.sum(1), matrix.sum(0)
    # Where a divisor is 0, so is `right`: dividing by 1 instead gives 0.
    return ClassScores(
        precision=right / predicted.clamp(min=1),
        recall=right / present.clamp(min=1),
        f1=2.0 * right / (predicted + present).clamp(min=1),
        support=present,
    )


def top_k_accuracy(logits: Float[Tensor, "b v"], labels: Int[Tensor, " b"], k: int) -> float:
    """The share of examples whose label is among the k classes with the largest logits.

    Of classes with equal logits, those with the lower number come first.

    Args:
        logits: one number a class and example.
        labels: the right classes.
        k: how many guesses count, from 1 to v.

    Raises:
        ShapeError: if logits and labels do not fit together.
        ValueError: if there is no example, or k is outside 1 to v.
    """
    if logits.ndim != 2 or logits.shape[:1] != labels.shape:
        raise ShapeError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)}: expected b v and b")
    if not 1 <= k <= logits.shape[1]:
        raise ValueError(f"k is {k}, expected 1 to the {logits.shape[1]} classes")
    best = logits.argsort(dim=1, descending=True, stable=True)[:, :k]
    return accuracy((best == labels[:, None]).any(1).int(), torch.ones_like(labels, dtype=torch.int))


def _check(predictions: Tensor, labels: Tensor) -> None:
    if predictions.shape != labels.shape:
        raise ShapeError(
            f"predictions: shape {tuple(predictions.shape)}, expected that of the labels, {tuple(labels.shape)}; "
            "give class numbers, as of logits.argmax(-1)"
        )
    if predictions.numel() == 0:
        raise ValueError("predictions: 0 examples, expected at least 1; a share of nothing has no value")
