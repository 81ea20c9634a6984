"""Classic wrong answers about next-token prediction, each with three hints of increasing directness."""

from collections.abc import Iterator

import torch
from strategies import normal
from torch.nn import functional as F

from minivid.classroom.museum import Mistake

V = 5


def asked(logits, labels, *, counts=lambda labels: labels != -100):
    """The sum over all places where a label counts, of logits and labels that have been brought together."""
    kept = counts(labels)
    return F.cross_entropy(logits[kept].float(), labels[kept], reduction="sum"), kept.sum()


def not_shifted(logits, labels):
    return asked(logits, labels)


def shifted_twice(logits, labels):
    return asked(logits[:, :-2], labels[:, 2:])


def shifted_backwards(logits, labels):
    return asked(logits[:, 1:], labels[:, :-1])


def last_asked_for_the_first(logits, labels):
    return asked(logits, labels.roll(-1, dims=1))


def mean_over_padding_too(logits, labels):
    summed, _ = asked(logits[:, :-1], labels[:, 1:])
    return summed, torch.tensor(labels[:, 1:].numel())


def counted_before_the_shift(logits, labels):
    summed, _ = asked(logits[:, :-1], labels[:, 1:])
    return summed, (labels != -100).sum()


def mean_instead_of_sum(logits, labels):
    summed, count = asked(logits[:, :-1], labels[:, 1:])
    return summed / count.clamp(min=1), count


def mean_of_rows(logits, labels):
    rows = [asked(logits[b : b + 1, :-1], labels[b : b + 1, 1:]) for b in range(len(labels))]
    summed = sum((one / number.clamp(min=1) for one, number in rows), torch.zeros(()))
    return summed, sum((number for _, number in rows), torch.tensor(0))


def token_zero_never_counts(logits, labels):
    return asked(logits[:, :-1], labels[:, 1:], counts=lambda labels: labels > 0)


def rows_are_one_long_row(logits, labels):
    flat, answers = logits.flatten(0, 1)[:-1], labels.flatten()[1:]
    return asked(flat, answers)


def in_the_logits_own_precision(logits, labels):
    kept = labels[:, 1:] != -100
    return F.cross_entropy(logits[:, :-1][kept], labels[:, 1:][kept], reduction="sum"), kept.sum()


LOSS = [
    (
        not_shifted,
        (
            "What has a causal model read when it gives the logits of token n?",
            "It has read token n itself. To name it again is no art.",
            "Compare logits[:, :-1] with labels[:, 1:].",
        ),
    ),
    (
        shifted_twice,
        (
            "Which token do the logits of token n speak of?",
            "Of the one right after it, not of the one after that: something else has shifted already.",
            "Shift once: logits[:, :-1] and labels[:, 1:].",
        ),
    ),
    (
        shifted_backwards,
        (
            "Is it the past or the future that is to be told?",
            "Each token is asked for the one before it, which it has seen.",
            "Drop the last of the logits and the first of the labels, not the other way round.",
        ),
    ),
    (
        last_asked_for_the_first,
        (
            "What stands after the last token of a row?",
            "torch.roll brings the first label to the end, and the last token is asked for it.",
            "Set the last column to -100 after the roll.",
        ),
    ),
    (
        mean_over_padding_too,
        (
            "How many labels count?",
            "Tokens with label -100 are in the count, so padding makes the mean smaller.",
            "Count (labels[:, 1:] != -100).sum().",
        ),
    ),
    (
        counted_before_the_shift,
        (
            "Is every label that is not -100 asked for?",
            "The first token of a row is not: nothing stands before it.",
            "Count after the shift.",
        ),
    ),
    (
        mean_instead_of_sum,
        (
            "What is returned beside the count?",
            "The sum: who adds up parts of a batch divides once, at the end.",
            'Use reduction="sum".',
        ),
    ),
    (
        mean_of_rows,
        (
            "Does a token of a long answer count as much as one of a short answer?",
            "Each row has been divided by its own count.",
            "Sum over all rows, and divide nowhere.",
        ),
    ),
    (
        token_zero_never_counts,
        (
            "Which numbers are tokens?",
            "0 is one. Only -100 is not.",
            "Compare with != -100, not with > 0.",
        ),
    ),
    (
        rows_are_one_long_row,
        (
            "What comes after the last token of the first row?",
            "Nothing; the second row is another conversation.",
            "Shift along the second axis before anything is flattened.",
        ),
    ),
    (
        in_the_logits_own_precision,
        (
            "Try logits in bfloat16.",
            "With 8 bits, a sum of hundreds of losses loses its end.",
            "logits.float() before the cross-entropy.",
        ),
    ),
]


# ---- next_token_targets


def kept_where(following):
    kept = following != -100
    return kept, following[kept]


def following_of(labels):
    return F.pad(labels[:, 1:], (0, 1), value=-100)


def targets_not_shifted(labels, document_lengths=None):
    following = labels.clone()
    if document_lengths is not None:
        following[0, document_lengths.cumsum(0) - document_lengths] = -100
    else:
        following[:, 0] = -100
    return kept_where(following)


def targets_of_the_one_before(labels, document_lengths=None):
    return kept_where(F.pad(labels[:, :-1], (1, 0), value=-100))


def targets_two_on(labels, document_lengths=None):
    return kept_where(F.pad(labels[:, 2:], (0, 2), value=-100)[:, : labels.shape[1]])


def targets_round_the_corner(labels, document_lengths=None):
    return kept_where(labels.roll(-1, dims=1))


def documents_follow_each_other(labels, document_lengths=None):
    return kept_where(following_of(labels))


def documents_lose_their_first_question(labels, document_lengths=None):
    following = following_of(labels)
    if document_lengths is not None:
        following[0, document_lengths.cumsum(0) - document_lengths] = -100
    return kept_where(following)


def documents_of_one_length(labels, document_lengths=None):
    following = following_of(labels)
    if document_lengths is not None:
        length = int(document_lengths[0])
        following[0, length - 1 :: length] = -100
    return kept_where(following)


def lengths_taken_for_ends(labels, document_lengths=None):
    following = following_of(labels)
    if document_lengths is not None:
        following[0, document_lengths - 1] = -100
    return kept_where(following)


def zero_is_no_target(labels, document_lengths=None):
    following = following_of(labels)
    if document_lengths is not None:
        following[0, document_lengths.cumsum(0) - 1] = -100
    return kept_where(following.masked_fill(following == 0, -100))


def column_by_column(labels, document_lengths=None):
    following = following_of(labels)
    if document_lengths is not None:
        following[0, document_lengths.cumsum(0) - 1] = -100
    kept = following != -100
    return kept, following.T[kept.T]


TARGETS = [
    (
        targets_not_shifted,
        (
            "Who is asked for label n?",
            "Token n - 1: token n has seen itself.",
            "Keep the token before each label that counts: labels.roll(-1, dims=1).",
        ),
    ),
    (
        targets_of_the_one_before,
        (
            "Which way does the shift go?",
            "Each token is asked for the one before it.",
            "labels[:, 1:] belong to the tokens [:, :-1].",
        ),
    ),
    (
        targets_two_on,
        (
            "How far is the next token?",
            "One place. Here it is two: the labels were shifted before, or twice.",
            "labels[:, 1:], once.",
        ),
    ),
    (
        targets_round_the_corner,
        (
            "What is after the last token of a row?",
            "Nothing, but roll brings the first label there.",
            "following[:, -1] = -100.",
        ),
    ),
    (
        documents_follow_each_other,
        (
            "Two conversations stand in one row. What is the last token of the first one asked for?",
            "The first token of the second: it cannot know that, and learns nonsense.",
            "following[0, document_lengths.cumsum(0) - 1] = -100.",
        ),
    ),
    (
        documents_lose_their_first_question,
        (
            "Which token stands at the seam of two conversations?",
            "The last of the earlier one asks across it; the first of the later one asks inside.",
            "Ends are cumsum - 1; you have set the beginnings.",
        ),
    ),
    (
        documents_of_one_length,
        (
            "Are all conversations as long as the first?",
            "Only the first length has been read.",
            "document_lengths.cumsum(0) - 1 are all the ends.",
        ),
    ),
    (
        lengths_taken_for_ends,
        (
            "Where does the second conversation end?",
            "At the sum of two lengths, not at its own.",
            "Add the lengths up: cumsum(0).",
        ),
    ),
    (
        zero_is_no_target,
        (
            "Which labels do not count?",
            "-100 alone; 0 is a token.",
            "Leave out nothing but -100.",
        ),
    ),
    (
        column_by_column,
        (
            "In which order does a mask pick from a matrix?",
            "Row by row, as the model's logits come; the targets come column by column.",
            "following[kept], without the transpose.",
        ),
    ),
]

MISTAKES: dict[str, list[Mistake]] = {
    "next_token_cross_entropy": [Mistake(*row) for row in LOSS],
    "next_token_targets": [Mistake(*row) for row in TARGETS],
}


def probes(name: str) -> Iterator[tuple[tuple, dict]]:
    """Arguments on which every two of the mistakes above differ."""
    labels = torch.tensor([[3, 1, 0, 4, -100, 2], [2, 4, 1, -100, -100, -100]])
    if name == "next_token_cross_entropy":
        logits = 2 * normal(3, 2, 6, V)
        yield (logits, labels), {}
        yield (logits[:1], labels[:1]), {}
        yield (8 * logits.bfloat16(), labels), {}
        return
    yield (labels,), {}
    yield (labels[:1],), {}
    yield (torch.cat([labels[:1, :4], labels[1:, :3], labels[:1, 2:4]], dim=1), torch.tensor([4, 3, 2])), {}
