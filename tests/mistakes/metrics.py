"""Classic wrong answers about metrics, each with three hints of increasing directness."""

from collections.abc import Iterator

import torch

from minivid.classroom.museum import Mistake
from minivid.training import metrics as library

# ---- accuracy


def share_of_errors(predictions, labels):
    return (predictions != labels).double().mean().item()


def number_of_right_answers(predictions, labels):
    return float((predictions == labels).sum())


def per_cent(predictions, labels):
    return 100 * library.accuracy(predictions, labels)


def mean_of_the_classes(predictions, labels):
    shares = [(predictions[labels == v] == v).double().mean() for v in labels.unique()]
    return torch.stack(shares).mean().item()


def share_of_the_predicted_classes(predictions, labels):
    shares = [(labels[predictions == v] == v).double().mean() for v in predictions.unique()]
    return torch.stack(shares).mean().item()


ACCURACY = [
    (
        share_of_errors,
        (
            "What should a model get that is always right?",
            "This is the share of answers that are wrong.",
            "(predictions == labels)",
        ),
    ),
    (
        number_of_right_answers,
        (
            "Is the result between 0 and 1?",
            "The right answers are counted, but not divided by how many there are.",
            "(predictions == labels).double().mean().item()",
        ),
    ),
    (
        per_cent,
        ("Is the result between 0 and 1?", "It is a share, not a percentage.", "Leave out the factor 100."),
    ),
    (
        mean_of_the_classes,
        (
            "Labels 0, 0, 0, 1, and the answer is always 0: how many of four are right?",
            "This is the mean of the classes' shares, balanced accuracy; a rare class counts too much.",
            "One mean over all answers: (predictions == labels).double().mean().item()",
        ),
    ),
    (
        share_of_the_predicted_classes,
        (
            "Answers 0, 0, 0, 1, and the label is always 0: how many of four are right?",
            "This is the mean precision of the classes that were answered.",
            "One mean over all answers: (predictions == labels).double().mean().item()",
        ),
    ),
]

# ---- confusion_matrix


def columns_are_labels(predictions, labels, classes):
    return library.confusion_matrix(predictions, labels, classes).T.contiguous()


def each_pair_counts_once(predictions, labels, classes):
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    matrix[labels, predictions] += 1
    return matrix


def classes_from_the_data(predictions, labels, classes):
    classes = int(max(predictions.max(), labels.max())) + 1
    return library.confusion_matrix(predictions, labels, classes)


def shares_of_the_row(predictions, labels, classes):
    matrix = library.confusion_matrix(predictions, labels, classes)
    return matrix / matrix.sum(1, keepdim=True).clamp(min=1)


def errors_alone(predictions, labels, classes):
    matrix = library.confusion_matrix(predictions, labels, classes)
    return matrix - torch.diag(matrix.diagonal())


def symmetric(predictions, labels, classes):
    matrix = library.confusion_matrix(predictions, labels, classes)
    return matrix + matrix.T - torch.diag(matrix.diagonal())


CONFUSION = [
    (
        columns_are_labels,
        (
            "Label 0 was answered as 1: which cell is that?",
            "Rows and columns are exchanged.",
            "Row = label, column = prediction: number the pairs by labels * classes + predictions.",
        ),
    ),
    (
        each_pair_counts_once,
        (
            "What if the same label gets the same answer twice?",
            "matrix[labels, predictions] += 1 adds once to a cell, however often the pair is there.",
            "torch.bincount(labels * classes + predictions, minlength=classes * classes).view(classes, classes)",
        ),
    ),
    (
        classes_from_the_data,
        (
            "What if the last class is neither there nor answered?",
            "The size is `classes`, not the largest number that was seen.",
            "torch.bincount(pairs, minlength=classes * classes)",
        ),
    ),
    (
        shares_of_the_row,
        (
            "Are the results whole numbers?",
            "The rows were divided by their sums; counts are wanted.",
            "Leave out the division.",
        ),
    ),
    (
        errors_alone,
        (
            "Where are the right answers?",
            "The diagonal counts too.",
            "Count every pair, not only those that differ.",
        ),
    ),
    (
        symmetric,
        (
            "Is class 0 answered as 1 the same as class 1 answered as 0?",
            "Each error is counted in two cells.",
            "Only matrix[label, prediction] gets one more.",
        ),
    ),
]

# ---- class_scores


def scores(change):
    """A wrong answer with the signature of class_scores, from a function of right, predicted and present."""

    def answer(matrix):
        return change(matrix, matrix.diagonal().double(), matrix.sum(0), matrix.sum(1))

    answer.__name__ = change.__name__
    return answer


def over(right, count):
    return right / count.clamp(min=1)


@scores
def precision_and_recall_exchanged(matrix, right, predicted, present):
    return over(right, present), over(right, predicted), over(2 * right, predicted + present), present


@scores
def nothing_over_nothing(matrix, right, predicted, present):
    precision, recall = right / predicted, right / present
    return precision, recall, 2 * precision * recall / (precision + recall), present


@scores
def arithmetic_mean(matrix, right, predicted, present):
    precision, recall = over(right, predicted), over(right, present)
    return precision, recall, (precision + recall) / 2, present


@scores
def geometric_mean(matrix, right, predicted, present):
    precision, recall = over(right, predicted), over(right, present)
    return precision, recall, (precision * recall).sqrt(), present


@scores
def f1_without_the_two(matrix, right, predicted, present):
    return over(right, predicted), over(right, present), over(right, predicted + present), present


@scores
def support_counts_predictions(matrix, right, predicted, present):
    return over(right, predicted), over(right, present), over(2 * right, predicted + present), predicted


@scores
def support_counts_right_answers(matrix, right, predicted, present):
    return over(right, predicted), over(right, present), over(2 * right, predicted + present), matrix.diagonal()


@scores
def true_negatives_count(matrix, right, predicted, present):
    total = matrix.sum()
    agreed = (total - predicted - present + 2 * right) / total
    return agreed, agreed, agreed, present


@scores
def over_all_examples(matrix, right, predicted, present):
    share = right / matrix.sum()
    return share, share, share, present


SCORES = [
    (
        precision_and_recall_exchanged,
        (
            "A class is answered every time: it is always found. Is that precision or recall?",
            "Precision and recall are exchanged.",
            "precision divides by matrix.sum(0), what was predicted; recall by matrix.sum(1), what is present.",
        ),
    ),
    (
        nothing_over_nothing,
        (
            "What if a class was never predicted?",
            "0 / 0 is no number; the score is 0 then.",
            "Divide by count.clamp(min=1).",
        ),
    ),
    (
        arithmetic_mean,
        (
            "Precision 1 and recall 0: how good is the class found?",
            "F1 is the harmonic mean, not the arithmetic one.",
            "2 * right / (predicted + present)",
        ),
    ),
    (
        geometric_mean,
        (
            "Precision 1 and recall 1/4: F1 is 0.4. And yours?",
            "This is the geometric mean; F1 is the harmonic one.",
            "2 * right / (predicted + present)",
        ),
    ),
    (
        f1_without_the_two,
        (
            "What is F1 of a class that is always found and never wrongly predicted?",
            "The factor 2 is missing.",
            "2 * right / (predicted + present)",
        ),
    ),
    (
        support_counts_predictions,
        (
            "Does the support depend on what the model answers?",
            "It is the number of examples of the class, not of predictions.",
            "support = matrix.sum(1)",
        ),
    ),
    (
        support_counts_right_answers,
        (
            "Does the support depend on what the model answers?",
            "It is the number of examples of the class, not of those that were found.",
            "support = matrix.sum(1)",
        ),
    ),
    (
        true_negatives_count,
        (
            "A class that is there once in a hundred is never found: is its recall 0.99?",
            "The examples of other classes that were not taken for this one count as right here.",
            "precision = right / predicted, recall = right / present",
        ),
    ),
    (
        over_all_examples,
        (
            "Two classes, all answers right: is each class's recall 1?",
            "The right answers of one class are divided by the examples of all.",
            "precision = right / matrix.sum(0), recall = right / matrix.sum(1)",
        ),
    ),
]

# ---- top_k_accuracy and recall_at_k


def first_guess_alone(logits, labels, k):
    return library.top_k_accuracy(logits, labels, 1)


def last_of_the_k(logits, labels, k):
    best = logits.argsort(dim=1, descending=True, stable=True)
    return (best[:, k - 1] == labels).double().mean().item()


def the_smallest(logits, labels, k):
    return library.top_k_accuracy(-logits, labels, k)


def mean_over_all_guesses(logits, labels, k):
    return library.top_k_accuracy(logits, labels, k) / k


def ties_all_count(logits, labels, k):
    larger = (logits > logits.gather(1, labels[:, None])).sum(1)
    return (larger < k).double().mean().item()


def no_tie_counts(logits, labels, k):
    as_large = (logits >= logits.gather(1, labels[:, None])).sum(1)
    return (as_large <= k).double().mean().item()


TOP = [
    (
        first_guess_alone,
        ("Does k change anything?", "Only the first guess is looked at.", "Take the first k columns: [:, :k]"),
    ),
    (
        last_of_the_k,
        (
            "With k = 2, does a first guess that is right count?",
            "Only guess number k is looked at.",
            "(best[:, :k] == labels[:, None]).any(1)",
        ),
    ),
    (
        the_smallest,
        (
            "Which logits are the best guesses?",
            "These are the k smallest.",
            "logits.argsort(dim=1, descending=True, stable=True)",
        ),
    ),
    (
        mean_over_all_guesses,
        (
            "What should a model get whose label is always among its k guesses?",
            "The mean is taken over all k guesses; one hit among them makes the example right.",
            "(best == labels[:, None]).any(1)",
        ),
    ),
    (
        ties_all_count,
        (
            "All logits are equal and k = 1: is every label right?",
            "Of equal logits, only those with the lower class number come first.",
            "logits.argsort(dim=1, descending=True, stable=True)[:, :k]",
        ),
    ),
    (
        no_tie_counts,
        (
            "All logits are equal and k = 1: is every label wrong?",
            "Of equal logits, those with the lower class number come first.",
            "logits.argsort(dim=1, descending=True, stable=True)[:, :k]",
        ),
    ),
]


def diagonal(similarity, targets):
    return torch.arange(len(similarity)) if targets is None else targets


def nearest_alone(similarity, k, *, targets=None):
    return library.recall_at_k(similarity, 1, targets=targets)


def targets_ignored(similarity, k, *, targets=None):
    return library.recall_at_k(similarity, k)


def queries_as_columns(similarity, k, *, targets=None):
    return library.top_k_accuracy(similarity.T, diagonal(similarity, targets), k)


def similarity_taken_for_distance(similarity, k, *, targets=None):
    return library.recall_at_k(-similarity, k, targets=targets)


def over_k_answers(similarity, k, *, targets=None):
    return library.recall_at_k(similarity, k, targets=targets) / k


def equals_all_count(similarity, k, *, targets=None):
    return ties_all_count(similarity, diagonal(similarity, targets), k)


RECALL = [
    (
        nearest_alone,
        ("Does k change anything?", "Only the most similar answer is looked at.", "Look at the first k answers."),
    ),
    (
        targets_ignored,
        (
            "What if answer 0 belongs to query 1?",
            "The targets are not used.",
            "top_k_accuracy(similarity, targets, k)",
        ),
    ),
    (
        queries_as_columns,
        (
            "Which axis do the k best come from?",
            "Rows are queries, columns are answers: each row is sorted.",
            "similarity.argsort(dim=1, descending=True, stable=True)[:, :k]",
        ),
    ),
    (
        similarity_taken_for_distance,
        (
            "Which answers are close: those with large or with small numbers?",
            "These are the k least similar answers.",
            "similarity.argsort(dim=1, descending=True, stable=True)[:, :k]",
        ),
    ),
    (
        over_k_answers,
        (
            "What is the result if every counterpart is found?",
            "That is precision: one counterpart among k answers. Recall asks whether it is among them.",
            "Do not divide by k.",
        ),
    ),
    (
        equals_all_count,
        (
            "All answers are equally similar and k = 1: is every counterpart found?",
            "Of equals, only those with the lower number come first. Else a model that knows nothing finds everything.",
            "similarity.argsort(dim=1, descending=True, stable=True)[:, :k]",
        ),
    ),
]

# ---- expected_calibration_error


def calibration(change):
    """A wrong answer with the signature of expected_calibration_error.

    It is made from a function of confidence, whether right, the bin of every example, and how many bins there are.
    """

    def answer(probabilities, labels, *, bins=15):
        confidence, answers = probabilities.double().max(1)
        which = (confidence * bins).ceil().long().clamp(1, bins) - 1
        return change(confidence, (answers == labels).double(), which, bins)

    answer.__name__ = change.__name__
    return answer


def gaps(confidence, right, which, bins):
    """The mean surplus of every bin that holds an example, and its share of all."""
    held = [which == m for m in range(bins) if (which == m).any()]
    surplus = torch.stack([(confidence[mask] - right[mask]).mean() for mask in held])
    return surplus, torch.stack([mask.double().mean() for mask in held])


@calibration
def bins_count_alike(confidence, right, which, bins):
    return gaps(confidence, right, which, bins)[0].abs().mean().item()


@calibration
def empty_bins_count(confidence, right, which, bins):
    return gaps(confidence, right, which, bins)[0].abs().sum().item() / bins


@calibration
def gap_of_each_example(confidence, right, which, bins):
    return (confidence - right).abs().mean().item()


@calibration
def gap_of_all_together(confidence, right, which, bins):
    return (confidence - right).mean().abs().item()


@calibration
def signed(confidence, right, which, bins):
    return (confidence - right).mean().item()


@calibration
def largest_gap(confidence, right, which, bins):
    return gaps(confidence, right, which, bins)[0].abs().max().item()


@calibration
def squared_gap(confidence, right, which, bins):
    surplus, share = gaps(confidence, right, which, bins)
    return (surplus.square() * share).sum().item()


@calibration
def bins_closed_on_the_left(confidence, right, which, bins):
    surplus, share = gaps(confidence, right, (confidence * bins).long().clamp(0, bins - 1), bins)
    return (surplus.abs() * share).sum().item()


def fifteen_bins(probabilities, labels, *, bins=15):
    return library.expected_calibration_error(probabilities, labels)


def confidence_in_the_right_class(probabilities, labels, *, bins=15):
    confidence = probabilities.double().gather(1, labels[:, None])[:, 0]
    right = (probabilities.argmax(1) == labels).double()
    surplus, share = gaps(confidence, right, (confidence * bins).ceil().long().clamp(1, bins) - 1, bins)
    return (surplus.abs() * share).sum().item()


CALIBRATION = [
    (
        bins_count_alike,
        (
            "One bin holds 99 examples, another one: do they count alike?",
            "Each bin counts by its share of the examples.",
            "sum of (examples in the bin / all examples) * |accuracy - confidence|",
        ),
    ),
    (
        empty_bins_count,
        (
            "Does the result get smaller with more empty bins?",
            "The sum is divided by the number of bins; each bin counts by its share of the examples.",
            "sum of (examples in the bin / all examples) * |accuracy - confidence|",
        ),
    ),
    (
        gap_of_each_example,
        (
            "Half sure and half of the time right: is that badly calibrated?",
            "The absolute value is taken example by example; first take the means of the bin.",
            "|mean confidence of the bin - share of right answers in it|",
        ),
    ),
    (
        gap_of_all_together,
        (
            "Too sure in one bin, too modest in another: does that make a good model?",
            "There are no bins: surpluses and lacks cancel.",
            "The absolute value bin by bin, then the sum.",
        ),
    ),
    (
        signed,
        (
            "Can an error be negative?",
            "The absolute value is missing.",
            "The absolute value of each bin's gap, then the weighted sum.",
        ),
    ),
    (
        largest_gap,
        (
            "Is it one bin that decides?",
            "This is the largest gap, the maximum calibration error; the expected one is a mean.",
            "sum of (examples in the bin / all examples) * |accuracy - confidence|",
        ),
    ),
    (
        squared_gap,
        (
            "A gap of one half, always: what should come out?",
            "The gaps are squared.",
            ".abs() in place of .square()",
        ),
    ),
    (
        bins_closed_on_the_left,
        (
            "Two bins and a confidence of exactly 0.5: which one?",
            "Bin m goes from above (m - 1) / bins up to m / bins, with its upper end.",
            "(confidence * bins).ceil().long().clamp(1, bins) - 1",
        ),
    ),
    (
        fifteen_bins,
        ("Does `bins` change anything?", "There are always 15 bins.", "Use `bins` for the width: 1 / bins."),
    ),
    (
        confidence_in_the_right_class,
        (
            "Does the model know the label when it says how sure it is?",
            "Confidence is the largest probability, not that of the right class.",
            "confidence, answers = probabilities.max(1)",
        ),
    ),
]

MISTAKES = {
    name: [Mistake(answer, hints) for answer, hints in rows]
    for name, rows in {
        "accuracy": ACCURACY,
        "confusion_matrix": CONFUSION,
        "class_scores": SCORES,
        "top_k_accuracy": TOP,
        "expected_calibration_error": CALIBRATION,
        "recall_at_k": RECALL,
    }.items()
}


def probes(name: str) -> Iterator[tuple[tuple, dict]]:
    """Argument lists on which a wrong answer is recognised."""
    predictions, labels = torch.tensor([0, 1, 1, 2, 2, 0, 2]), torch.tensor([0, 0, 0, 2, 1, 0, 2])
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 3.0], [1.0, 1.0, 1.0], [0.0, 2.0, 1.0]])
    if name == "accuracy":
        yield (predictions, labels), {}
        yield (torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])), {}
        yield (torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 0])), {}
    elif name == "confusion_matrix":
        yield (predictions, labels, 3), {}
        yield (predictions, labels, 4), {}
    elif name == "class_scores":
        for classes in (3, 4):
            yield (library.confusion_matrix(predictions, labels, classes),), {}
    elif name == "top_k_accuracy":
        for k in (1, 2, 3):
            yield (scores, torch.tensor([1, 0, 1, 2]), k), {}
            yield (torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 3.0], [1.0, 1.0, 1.0]]), torch.tensor([0, 1, 2]), k), {}
    elif name == "recall_at_k":
        for k in (1, 2, 3):
            yield (scores[:3], k), {}
            yield (scores, k), {"targets": torch.tensor([1, 0, 1, 2])}
    elif name == "expected_calibration_error":
        probabilities = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.75, 0.25], [0.3, 0.7], [0.05, 0.95]])
        modest = torch.tensor([0.62, 0.63, 0.64, 0.71, 0.72, 0.92, 0.93])
        for bins in (1, 2, 4, 5, 15):
            yield (probabilities.double(), torch.tensor([1, 0, 0, 0, 1, 1])), {"bins": bins}
            yield (torch.stack([modest, 1 - modest], 1).double(), torch.tensor([0, 0, 0, 0, 1, 0, 0])), {"bins": bins}
