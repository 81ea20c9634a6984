"""Classic wrong answers about contrastive learning, each with three hints of increasing directness."""

from collections.abc import Iterator

import torch
from strategies import normal
from torch.nn import functional as F

from minivid.classroom.museum import Mistake


def cosines(first, second, temperature):
    return F.normalize(first, dim=1) @ F.normalize(second, dim=1).T / temperature


def chosen(scores, partner=None):
    partner = torch.arange(len(scores)) if partner is None else partner
    return F.cross_entropy(scores, partner, reduction="sum")


def rows_only(first, second, temperature):
    return chosen(cosines(first, second, temperature))


def rows_twice(first, second, temperature):
    return 2 * chosen(cosines(first, second, temperature))


def columns_twice(first, second, temperature):
    return 2 * chosen(cosines(first, second, temperature).T)


def lengths_count(first, second, temperature):
    scores = first @ second.T / temperature
    return chosen(scores) + chosen(scores.T)


def scaled_along_the_batch(first, second, temperature):
    scores = F.normalize(first, dim=0) @ F.normalize(second, dim=0).T / temperature
    return chosen(scores) + chosen(scores.T)


def one_side_scaled(first, second, temperature):
    scores = F.normalize(first, dim=1) @ second.T / temperature
    return chosen(scores) + chosen(scores.T)


def temperature_multiplied(first, second, temperature):
    scores = cosines(first, second, 1 / temperature)
    return chosen(scores) + chosen(scores.T)


def temperature_forgotten(first, second, temperature):
    scores = cosines(first, second, 1.0)
    return chosen(scores) + chosen(scores.T)


def mean_over_clips(first, second, temperature):
    scores = cosines(first, second, temperature)
    return (chosen(scores) + chosen(scores.T)) / len(scores)


def mean_of_both_directions(first, second, temperature):
    scores = cosines(first, second, temperature)
    return (chosen(scores) + chosen(scores.T)) / 2


def minus_forgotten(first, second, temperature):
    scores = cosines(first, second, temperature)
    return -chosen(scores) - chosen(scores.T)


def partner_not_among_the_choices(first, second, temperature):
    scores = cosines(first, second, temperature)
    others = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -1e9)
    return 0 * scores.sum() + sum((s.logsumexp(1) - scores.diagonal()).sum() for s in (others, others.T))


def own_side_is_a_choice_too(first, second, temperature):
    u, v = F.normalize(first, dim=1), F.normalize(second, dim=1)
    away = torch.eye(len(u), dtype=torch.bool)
    sides = ((u, v), (v, u))
    return sum(
        chosen(torch.cat([a @ b.T / temperature, (a @ a.T / temperature).masked_fill(away, -1e9)], 1)) for a, b in sides
    )


def distances_instead_of_cosines(first, second, temperature):
    scores = torch.cdist(F.normalize(first, dim=1), F.normalize(second, dim=1)) / temperature
    return chosen(scores) + chosen(scores.T)


SIMILARITY_LOSS = [
    (
        rows_only,
        "Who asks, and who is asked? Both sides should do both.",
        "The clips of the second side look for their partners, too: down the columns of the same table of scores.",
        "Add cross_entropy(scores.T, partner, reduction='sum').",
    ),
    (
        rows_twice,
        "Exchange the two sides: does your result stay?",
        "You asked the first side twice. The second side's scores are the same table, read down its columns.",
        "Use scores for one direction and scores.T for the other.",
    ),
    (
        columns_twice,
        "Exchange the two sides: does your result stay?",
        "You asked the second side twice. The first side's scores are the same table, read along its rows.",
        "Use scores for one direction and scores.T for the other.",
    ),
    (
        lengths_count,
        "Make one vector ten times as long. Should that change which clips are similar?",
        "Only the direction of a vector counts: each has to be divided by its length first.",
        "Divide first and second by their lengths: x / x.square().sum(-1, keepdim=True).sqrt().",
    ),
    (
        scaled_along_the_batch,
        "How long is each row after you scaled it?",
        "You divided by the length of each column, which mixes the clips of the batch; each row is a vector.",
        "Take the length over the last axis: x.square().sum(-1, keepdim=True).sqrt().",
    ),
    (
        one_side_scaled,
        "Make the second side's vectors ten times as long. Should that change anything?",
        "Only one of the two sides is divided by its lengths.",
        "Divide first and second, both, by the lengths of their rows.",
    ),
    (
        temperature_multiplied,
        "A small temperature should make the most similar clips count more. Does it?",
        "You multiply by the temperature.",
        "Divide: scores = u @ v.T / temperature.",
    ),
    (
        temperature_forgotten,
        "Try two temperatures: does your result change?",
        "The cosines lie between -1 and 1, so that without a temperature no choice can ever be sure.",
        "Divide: scores = u @ v.T / temperature.",
    ),
    (
        mean_over_clips,
        "What is asked for: the loss of all choices together, or of one on average?",
        "You divide by the number of clips; the count is given beside the sum, and divided by later.",
        "Use reduction='sum' and divide by nothing.",
    ),
    (
        mean_of_both_directions,
        "What is asked for: the loss of all choices together, or of one side on average?",
        "You take the mean of the two directions; their sum is asked for.",
        "Leave out the / 2.",
    ),
    (
        minus_forgotten,
        "Can a loss be below zero when it is minus the logarithm of a probability?",
        "The better the partner is found, the smaller the loss has to be; yours grows.",
        "Multiply by -1: loss = -log softmax(scores) at the partner.",
    ),
    (
        partner_not_among_the_choices,
        "Let all vectors be alike: b choices, so log b each. What do you get?",
        "The sum under the fraction runs over all clips of the other side, the partner included.",
        "Take log_softmax over whole rows of scores, without hiding the diagonal.",
    ),
    (
        own_side_is_a_choice_too,
        "Among how many does each vector choose? Count the columns of your scores.",
        "A vector chooses among those of the other side only, not among its own.",
        "Use scores = u @ v.T / temperature alone, of shape b b.",
    ),
    (
        distances_instead_of_cosines,
        "Give both sides the same vectors: is the right partner the most probable?",
        "A distance is large where two are different, so that the least similar clip wins.",
        "Use the product of the scaled vectors: u @ v.T.",
    ),
]

MISTAKES: dict[str, list[Mistake]] = {
    "similarity_loss": [Mistake(answer, tuple(hints)) for answer, *hints in SIMILARITY_LOSS],
}


def probes(name: str) -> Iterator[tuple[tuple, dict]]:
    """Arguments on which every two of the mistakes above differ."""
    for b, d, temperature in ((4, 3, 0.5), (3, 5, 0.2), (2, 2, 1.5)):
        yield (normal(b, b, d), normal(b + 10, b, d), temperature), {}
