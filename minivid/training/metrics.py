"""Metrics: what share of answers is right, which classes are taken for which, how far probabilities can be trusted."""

from collections.abc import Sequence
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


def classification_report(matrix: Int[Tensor, "v v"], names: Sequence[str], *, digits: int = 2) -> str:
    """Precision, recall, F1 and support of every class as a table, with the accuracy and two means below.

    The macro mean counts every class alike, the weighted one every example. The text is that of scikit-learn's function
    of this name.

    Args:
        matrix: a confusion matrix, rows present, columns predicted.
        names: what the classes are called, in order.
        digits: behind the point.

    Raises:
        ShapeError: if the matrix is not square, or there is not one name a class.
        ValueError: if the matrix holds no example.
    """
    scores = class_scores(matrix)
    if len(names) != len(matrix):
        raise ShapeError(f"names: {len(names)} for a matrix of {len(matrix)} classes; give one for each")
    examples = int(scores.support.sum())
    if examples == 0:
        raise ValueError("matrix: 0 examples, expected at least 1; a share of nothing has no value")
    columns = torch.stack(scores[:3])  # score v
    share = scores.support / examples
    width = max(len("weighted avg"), *map(len, names))

    def line(name: str, numbers: Sequence[float], support: int) -> str:
        cells = " ".join(f"{number:>9.{digits}f}" for number in numbers)
        return f"{name:>{width}}  {cells} {support:>9}"

    rows = [f"{'':>{width}}  " + " ".join(f"{name:>9}" for name in ("precision", "recall", "f1-score", "support")), ""]
    rows += [line(name, columns[:, v].tolist(), int(scores.support[v])) for v, name in enumerate(names)]
    right = (matrix.trace() / examples).item()
    rows += ["", f"{'accuracy':>{width}}  {'':>9} {'':>9} {right:>9.{digits}f} {examples:>9}"]
    rows += [line("macro avg", columns.mean(1).tolist(), examples)]
    rows += [line("weighted avg", (columns @ share.double()).tolist(), examples)]
    return "\n".join(rows) + "\n"


def expected_calibration_error(
    probabilities: Float[Tensor, "b v"], labels: Int[Tensor, " b"], *, bins: int = 15
) -> float:
    """How far a model's confidence is from how often it is right, from 0 (it can be trusted) to 1.

        ECE = sum_m (|B_m| / b) |accuracy(B_m) - mean confidence(B_m)|

    B_m holds the examples whose largest probability is above (m - 1) / bins and at most m / bins.

    Args:
        probabilities: of every class; rows sum to one.
        labels: the right classes.
        bins: how many intervals of equal width.

    Raises:
        ShapeError: if probabilities and labels do not fit together.
        ValueError: if there is no example, bins is below 1, or a number is no probability.

    Source: Guo et al. 2017, equation 3 (arXiv:1706.04599).
    """
    if probabilities.ndim != 2 or probabilities.shape[:1] != labels.shape:
        raise ShapeError(
            f"probabilities {tuple(probabilities.shape)} and labels {tuple(labels.shape)}: expected b v and b"
        )
    if len(labels) == 0:
        raise ValueError("probabilities: 0 examples, expected at least 1; a share of nothing has no value")
    if bins < 1:
        raise ValueError(f"bins is {bins}, expected at least 1")
    low, high = probabilities.min().item(), probabilities.max().item()
    if not 0.0 <= low <= high <= 1.0 + 1e-6:  # a softmax may end a rounding above 1
        raise ValueError(f"probabilities: from {low:.4g} to {high:.4g}, expected 0 to 1; put logits through a softmax")
    confidence, answers = probabilities.double().max(1)
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1  # b
    surplus = confidence - (answers == labels).double()
    return torch.zeros(bins, dtype=torch.float64).index_add_(0, which, surplus).abs().sum().item() / len(labels)


def recall_at_k(similarity: Float[Tensor, "n s"], k: int, *, targets: Int[Tensor, " n"] | None = None) -> float:
    """The share of queries whose counterpart is among the k answers most similar to it: retrieval of clips by texts.

    Of answers that are equally similar, those with the lower number come first.

    Args:
        similarity: of every query (row) with every answer (column); larger is closer.
        k: how many answers are looked at, from 1 to s.
        targets: the number of the counterpart of each query; None = answer i belongs to query i.

    Raises:
        ShapeError: if the targets are not one a query.
        ValueError: if there is no query, k is outside 1 to s, or a target is no answer.
    """
    if targets is None:
        targets = torch.arange(len(similarity), device=similarity.device)
    if targets.numel() and not 0 <= targets.min() <= targets.max() < similarity.shape[1]:
        raise ValueError(
            f"targets: from {targets.min()} to {targets.max()}, expected 0 to {similarity.shape[1] - 1}, the answers"
        )
    return top_k_accuracy(similarity, targets, k)


def _check(predictions: Tensor, labels: Tensor) -> None:
    if predictions.shape != labels.shape:
        raise ShapeError(
            f"predictions: shape {tuple(predictions.shape)}, expected that of the labels, {tuple(labels.shape)}; "
            "give class numbers, as of logits.argmax(-1)"
        )
    if predictions.numel() == 0:
        raise ValueError("predictions: 0 examples, expected at least 1; a share of nothing has no value")
