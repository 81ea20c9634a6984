"""Accuracy, the confusion matrix, and precision, recall and F1 by class."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minivid.classroom.evidence import agree, holds
from minivid.shapes import ShapeError
from minivid.training.metrics import accuracy, class_scores, confusion_matrix, top_k_accuracy


@st.composite
def answers(draw):
    """Predictions, labels and the number of classes, some of which may be missing."""
    classes = draw(st.integers(1, 4))
    pairs = draw(st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2), min_size=1, max_size=8))
    return *(torch.tensor([pair[i] for pair in pairs]) for i in (0, 1)), classes


@pytest.mark.law("confusion_matrix")
@given(answers())
def test_confusion_matrix_counts_pairs_rows_are_labels(impl, case):
    """Row i, column j: how many examples of class i were predicted as class j."""
    predictions, labels, classes = case
    want = torch.zeros(classes, classes, dtype=torch.int64)
    for prediction, label in zip(predictions.tolist(), labels.tolist(), strict=True):
        want[label, prediction] += 1
    got = impl.confusion_matrix(predictions, labels, classes)
    agree(got, want, "a count differs", axes="label prediction", predictions=predictions, labels=labels)


@pytest.mark.law("accuracy")
@given(answers())
def test_accuracy_is_the_share_that_is_right(impl, case):
    """Right answers over all answers."""
    predictions, labels, _ = case
    right = sum(p == y for p, y in zip(predictions.tolist(), labels.tolist(), strict=True))
    got = impl.accuracy(predictions, labels)
    holds(abs(got - right / len(labels)) < 1e-9, f"accuracy is {got}", predictions=predictions, labels=labels)


@pytest.mark.law("class_scores")
@given(answers())
def test_class_scores_count_each_class_against_the_rest(impl, case):
    """Precision: right of those predicted; recall: right of those present; F1: their harmonic mean."""
    predictions, labels, classes = case
    matrix = confusion_matrix(predictions, labels, classes)
    precision, recall, f1, support = impl.class_scores(matrix)
    for v in range(classes):
        right = int(((predictions == v) & (labels == v)).sum())
        predicted, present = int((predictions == v).sum()), int((labels == v).sum())
        p = right / predicted if predicted else 0.0
        r = right / present if present else 0.0
        want = [p, r, 2 * p * r / (p + r) if p + r else 0.0, float(present)]
        got = torch.stack([precision[v], recall[v], f1[v], support[v].double()]).double()
        claim = f"precision, recall, F1 or support of class {v} differs"
        agree(got, torch.tensor(want, dtype=torch.float64), claim, axes="score", matrix=matrix)


@pytest.mark.law("top_k_accuracy")
@given(st.integers(1, 5), st.integers(1, 4), st.data())
def test_top_k_accuracy_counts_a_label_among_the_k_largest(impl, b, v, data):
    """An example counts when fewer than k logits are larger than that of its label; of equals the first goes first."""
    logits = torch.tensor(
        data.draw(st.lists(st.lists(st.integers(-2, 2), min_size=v, max_size=v), min_size=b, max_size=b))
    )
    labels = torch.tensor(data.draw(st.lists(st.integers(0, v - 1), min_size=b, max_size=b)))
    k = data.draw(st.integers(1, v))
    ranks = [
        sum(x > row[y] or (x == row[y] and j < y) for j, x in enumerate(row))
        for row, y in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    want = sum(rank < k for rank in ranks) / b
    got = impl.top_k_accuracy(logits.float(), labels, k)
    holds(abs(got - want) < 1e-9, f"top-{k} accuracy is {got}, expected {want}", logits=logits, labels=labels, k=k)


def test_the_diagonal_over_everything_is_the_accuracy():
    predictions, labels = torch.tensor([0, 2, 1, 2, 2]), torch.tensor([0, 1, 1, 2, 0])
    matrix = confusion_matrix(predictions, labels, 3)
    assert matrix.tolist() == [[1, 0, 1], [0, 1, 1], [0, 0, 1]]
    assert accuracy(predictions, labels) == matrix.trace().item() / matrix.sum().item() == 0.6
    scores = class_scores(matrix)
    torch.testing.assert_close(scores.precision, torch.tensor([1.0, 1.0, 1 / 3], dtype=torch.float64))
    torch.testing.assert_close(scores.recall, torch.tensor([0.5, 0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(scores.f1, torch.tensor([2 / 3, 2 / 3, 0.5], dtype=torch.float64))
    assert scores.support.tolist() == [2, 2, 1]


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:A single label was found")  # one class is a case like any other here
@given(answers())
def test_scores_equal_scikit_learn(case):
    metrics = pytest.importorskip("sklearn.metrics")
    predictions, labels, classes = case
    names = list(range(classes))
    matrix = confusion_matrix(predictions, labels, classes)
    assert matrix.tolist() == metrics.confusion_matrix(labels, predictions, labels=names).tolist()
    theirs = metrics.precision_recall_fscore_support(labels, predictions, labels=names, zero_division=0)
    for got, want in zip(class_scores(matrix), theirs, strict=True):
        torch.testing.assert_close(got.double(), torch.tensor(want, dtype=torch.float64), atol=1e-12, rtol=0)


def test_every_shape_of_answers_is_counted():
    labels = torch.arange(6).view(2, 3) % 3
    assert confusion_matrix(labels, labels, 3).tolist() == [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
    assert accuracy(labels, labels) == 1.0


def test_numbers_that_do_not_fit_are_named():
    three, none = torch.zeros(3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    for function in (accuracy, lambda p, y: confusion_matrix(p, y, 2)):
        with pytest.raises(ShapeError, match=r"predictions: shape \(3, 2\), expected that of the labels, \(3,\)"):
            function(torch.zeros(3, 2, dtype=torch.int64), three)
        with pytest.raises(ValueError, match="predictions: 0 examples"):
            function(none, none)
    with pytest.raises(ValueError, match="predictions: from 0 to 5, expected classes 0 to 4"):
        confusion_matrix(torch.tensor([0, 5]), torch.tensor([0, 4]), 5)
    with pytest.raises(ValueError, match="labels: from -1 to 4, expected classes 0 to 4"):
        confusion_matrix(torch.tensor([0, 4]), torch.tensor([-1, 4]), 5)


@pytest.mark.usefixtures("unchecked")
def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ShapeError, match=r"matrix: shape \(2, 3\), expected v v"):
        class_scores(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ShapeError, match=r"logits \(2, 5\) and labels \(3,\)"):
        top_k_accuracy(torch.zeros(2, 5), torch.zeros(3, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="k is 6, expected 1 to the 5 classes"):
        top_k_accuracy(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64), 6)
