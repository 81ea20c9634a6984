"""Accuracy, the confusion matrix, precision, recall and F1 by class, calibration, retrieval."""

import re

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from minivid.classroom.evidence import agree, holds
from minivid.shapes import ShapeError
from minivid.training.metrics import (
    accuracy,
    class_scores,
    classification_report,
    confusion_matrix,
    expected_calibration_error,
    recall_at_k,
    top_k_accuracy,
)


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


@st.composite
def confidences(draw):
    """Probabilities of two or three classes, in steps of 1 / 20 (edges of bins among them), and labels."""
    b, v = draw(st.integers(1, 6)), draw(st.integers(2, 3))
    rows = []
    for _ in range(b):
        cuts = sorted(draw(st.lists(st.integers(0, 20), min_size=v - 1, max_size=v - 1)))
        rows.append([(high - low) / 20 for low, high in zip([0, *cuts], [*cuts, 20], strict=True)])
    return torch.tensor(rows, dtype=torch.float64), torch.tensor([draw(st.integers(0, v - 1)) for _ in range(b)])


@pytest.mark.law("expected_calibration_error")
@given(confidences(), st.integers(1, 7))
def test_calibration_error_is_the_mean_gap_of_the_bins(impl, case, bins):
    """In each bin of confidence: how often right, against how sure; weighted by the examples in it."""
    probabilities, labels = case
    held = [[] for _ in range(bins)]
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        sure = max(row)
        place = next(m for m in range(bins) if sure * bins <= m + 1)
        held[place].append((sure, row.index(sure) == label))
    gaps = [abs(sum(right for _, right in bin) - sum(sure for sure, _ in bin)) for bin in held]
    got, want = impl.expected_calibration_error(probabilities, labels, bins=bins), sum(gaps) / len(labels)
    # Sums of at most 6 numbers below 1 in float64.
    holds(abs(got - want) < 1e-12, f"{got} instead of {want}", probabilities=probabilities, labels=labels, bins=bins)


def test_a_model_that_is_always_right_and_sure_is_calibrated_and_one_that_is_wrong_and_sure_is_not():
    sure = torch.eye(3)[[0, 2, 1, 1]]
    assert expected_calibration_error(sure, torch.tensor([0, 2, 1, 1])) == 0.0
    assert expected_calibration_error(sure, torch.tensor([1, 1, 0, 0])) == 1.0
    # By default the bins are 15: 0.65 and 0.68 are in one, (9/15, 10/15] and (10/15, 11/15], in two.
    two = torch.tensor([[0.65, 0.35], [0.68, 0.32]], dtype=torch.float64)
    assert expected_calibration_error(two, torch.tensor([0, 1])) == pytest.approx((0.35 + 0.68) / 2)
    assert expected_calibration_error(two, torch.tensor([0, 1]), bins=1) == pytest.approx(abs(1 - 1.33) / 2)


@pytest.mark.law("recall_at_k")
@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.data())
def test_recall_counts_a_counterpart_among_the_k_most_similar(impl, n, s, own, data):
    """A query counts when fewer than k answers are more similar to it than its counterpart."""
    s = max(n, s) if own else s
    rows = data.draw(st.lists(st.lists(st.integers(-2, 2), min_size=s, max_size=s), min_size=n, max_size=n))
    targets = list(range(n)) if own else [data.draw(st.integers(0, s - 1)) for _ in range(n)]
    k = data.draw(st.integers(1, s))
    ranks = [
        sum(x > row[y] or (x == row[y] and j < y) for j, x in enumerate(row))
        for row, y in zip(rows, targets, strict=True)
    ]
    similarity = torch.tensor(rows).float()
    got = impl.recall_at_k(similarity, k, targets=None if own else torch.tensor(targets))
    want = sum(rank < k for rank in ranks) / n
    holds(abs(got - want) < 1e-9, f"recall@{k} is {got}, expected {want}", similarity=similarity, k=k)


REPORT = """\
              precision    recall  f1-score   support

        left       1.00      0.50      0.67         2
       right       1.00      0.50      0.67         2
          up       0.33      1.00      0.50         1

    accuracy                           0.60         5
   macro avg       0.78      0.67      0.61         5
weighted avg       0.87      0.60      0.63         5
"""


def test_a_report_is_a_table_of_the_scores_and_their_means():
    matrix = confusion_matrix(torch.tensor([0, 2, 1, 2, 2]), torch.tensor([0, 1, 1, 2, 0]), 3)
    assert classification_report(matrix, ["left", "right", "up"]) == REPORT
    assert "0.6667" in classification_report(matrix, ["left", "right", "up"], digits=4)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:A single label was found")
@given(answers())
def test_a_report_equals_scikit_learn(case):
    metrics = pytest.importorskip("sklearn.metrics")
    predictions, labels, classes = case
    # Where a listed class is in neither, scikit-learn calls the accuracy a micro mean.
    assume(set(predictions.tolist()) | set(labels.tolist()) == set(range(classes)))
    names = [f"class {'x' * 5 * i}" for i in range(classes)]
    theirs = metrics.classification_report(
        labels, predictions, labels=list(range(classes)), target_names=names, zero_division=0, digits=3
    )
    ours = classification_report(confusion_matrix(predictions, labels, classes), names, digits=3)
    # Some of its versions count examples as 1.0.
    assert ours == re.sub(r"(  )(\d+)\.0$", r"  \1\2", theirs, flags=re.MULTILINE)


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
    matrix = torch.eye(2, dtype=torch.int64)
    with pytest.raises(ShapeError, match="names: 3 for a matrix of 2 classes"):
        classification_report(matrix, ["a", "b", "c"])
    with pytest.raises(ValueError, match="matrix: 0 examples"):
        classification_report(0 * matrix, ["a", "b"])
    with pytest.raises(ShapeError, match=r"probabilities \(2, 5\) and labels \(3,\)"):
        expected_calibration_error(torch.zeros(2, 5), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="probabilities: 0 examples"):
        expected_calibration_error(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="bins is 0, expected at least 1"):
        expected_calibration_error(torch.ones(1, 1), torch.zeros(1, dtype=torch.int64), bins=0)
    with pytest.raises(
        ValueError, match="probabilities: from -1 to 2.5, expected 0 to 1; put logits through a softmax"
    ):
        expected_calibration_error(torch.tensor([[-1.0, 2.5]]), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="targets: from 0 to 2, expected 0 to 1, the answers"):
        recall_at_k(torch.zeros(3, 2), 1)
    with pytest.raises(ValueError, match="targets: from -1 to 0, expected 0 to 1, the answers"):
        recall_at_k(torch.zeros(2, 2), 1, targets=torch.tensor([-1, 0]))
    with pytest.raises(ValueError, match="k is 6, expected 1 to the 5 classes"):
        top_k_accuracy(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64), 6)
