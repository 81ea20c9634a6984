"""Classic wrong answers about generation, each with three hints of increasing directness."""

import math
from collections.abc import Callable, Iterator

import torch
from strategies import normal

from minivid.classroom.museum import Mistake, Probe
from minivid.layers.attention import softmax
from minivid.models import generate as library

# ---- seen_ids


def counts(ids, v, mask=None):
    mask = torch.ones_like(ids) if mask is None else mask
    return ids.new_zeros(len(ids), v).scatter_add(1, ids, mask.to(ids.dtype))


def padding_marked_too(ids, v, mask=None):
    return library.seen_ids(ids, v)


def padding_erases(ids, v, mask=None):
    seen = library.seen_ids(ids, v)
    if mask is not None:
        for row, place in (mask == 0).nonzero().tolist():
            seen[row, ids[row, place]] = False
    return seen


def padding_marks_entry_zero(ids, v, mask=None):
    return library.seen_ids(ids if mask is None else ids * (mask != 0), v)


def last_writer_wins(ids, v, mask=None):
    mask = torch.ones_like(ids) if mask is None else mask
    return torch.zeros(len(ids), v, dtype=torch.bool).scatter(1, ids, mask != 0)


def all_rows_together(ids, v, mask=None):
    return library.seen_ids(ids, v, mask).any(0, keepdim=True).expand(len(ids), v)


def unseen(ids, v, mask=None):
    return ~library.seen_ids(ids, v, mask)


def mask_upside_down(ids, v, mask=None):
    return library.seen_ids(ids, v, None if mask is None else mask == 0)


def counted_from_one(ids, v, mask=None):
    return library.seen_ids(ids, v, mask).roll(1, 1)


SEEN_IDS = [
    (
        counts,
        (
            "Look at the dtype of what comes back, and at a row in which an id stands twice.",
            "These are counts; an id is seen or not, however often.",
            "Scatter True into zeros of torch.bool, or compare the counts with 0.",
        ),
    ),
    (
        padding_marked_too,
        (
            "Give a mask with zeros. Does anything change?",
            "What stands under the padding is marked as if it were a token.",
            "Leave out places where the mask is 0, for example by ids.masked_fill(mask == 0, v) and one entry more.",
        ),
    ),
    (
        padding_erases,
        (
            "Take the row 3 3 with the mask 0 1. Is 3 seen?",
            "Padding takes away the mark of an id that is a token elsewhere in the row.",
            "Padding must write nothing at all: send it to an entry of its own, v, and cut that off.",
        ),
    ),
    (
        padding_marks_entry_zero,
        (
            "Take the row 3 3 with the mask 0 1. What is marked?",
            "Padding marks entry 0, which may never have been said.",
            "Send padding to an entry of its own, v, and cut that off.",
        ),
    ),
    (
        last_writer_wins,
        (
            "Take the row 3 3 with the masks 0 1 and 1 0. Is 3 seen in both?",
            "Two places write to one entry, and which one stays depends on their order.",
            "Only tokens may write: send padding to an entry of its own, v, and cut that off.",
        ),
    ),
    (
        all_rows_together,
        (
            "Give two rows with different ids. Do the marks differ?",
            "What one row has seen is marked in all of them.",
            "Scatter along axis 1, row by row: marks.scatter(1, ids, True).",
        ),
    ),
    (
        unseen,
        (
            "Take the row 2 of a vocabulary of 3. Which entries are True?",
            "Everything is marked that was not seen.",
            "True = seen.",
        ),
    ),
    (
        mask_upside_down,
        (
            "What does a 1 in the mask mean?",
            "The padding is marked and the tokens are not.",
            "1 is a token, 0 is padding: mask == 0 is what does not count.",
        ),
    ),
    (
        counted_from_one,
        (
            "Take the row 0. Which entry is marked?",
            "The marks stand one entry too far.",
            "Id i marks entry i; entries are counted from 0.",
        ),
    ),
]

# ---- repetition_penalty


def always_divided(logits, seen, penalty):
    return torch.where(seen, logits / penalty, logits)


def always_multiplied(logits, seen, penalty):
    return torch.where(seen, logits * penalty, logits)


def signs_swapped(logits, seen, penalty):
    return torch.where(seen, torch.where(logits < 0, logits / penalty, logits * penalty), logits)


def subtracted(logits, seen, penalty):
    return logits - penalty * seen


def for_all(logits, seen, penalty):
    return torch.where(logits < 0, logits * penalty, logits / penalty)


def for_the_others(logits, seen, penalty):
    return library.repetition_penalty(logits, ~seen, penalty)


def of_probabilities(logits, seen, penalty):
    weights = softmax(logits)
    return torch.where(seen, weights / penalty, weights).log()


def removed(logits, seen, penalty):
    return logits.masked_fill(seen, -math.inf)


def negative_ones_alone(logits, seen, penalty):
    return torch.where(seen & (logits < 0), logits * penalty, logits)


def positive_ones_alone(logits, seen, penalty):
    return torch.where(seen & (logits > 0), logits / penalty, logits)


REPETITION_PENALTY = [
    (
        always_divided,
        (
            "Take a logit of -2 that was seen. Is it less likely afterwards?",
            "-2 divided by 2 is -1, which is more than -2: dividing a negative logit makes the token more likely.",
            "torch.where(logits < 0, logits * penalty, logits / penalty)",
        ),
    ),
    (
        always_multiplied,
        (
            "Take a logit of 2 that was seen. Is it less likely afterwards?",
            "2 times 2 is 4: multiplying a positive logit makes the token more likely.",
            "torch.where(logits < 0, logits * penalty, logits / penalty)",
        ),
    ),
    (
        signs_swapped,
        (
            "With a penalty of 2, what becomes of 2 and of -2?",
            "Both rise: the two cases are swapped.",
            "Negative logits are multiplied, the others are divided.",
        ),
    ),
    (
        subtracted,
        (
            "With a penalty of 1 nothing should change. Does it?",
            "The penalty is subtracted; that is the presence penalty.",
            "This one divides logits of at least 0 and multiplies negative ones.",
        ),
    ),
    (
        for_all,
        (
            "Mark nothing as seen. What changes?",
            "Every logit is changed, seen or not.",
            "torch.where(seen, changed, logits)",
        ),
    ),
    (
        for_the_others,
        (
            "Mark nothing as seen. What changes?",
            "What was not seen is changed.",
            "torch.where(seen, changed, logits), in this order.",
        ),
    ),
    (
        of_probabilities,
        (
            "Mark nothing as seen. Are the logits the same?",
            "The penalty is applied to probabilities; it belongs to the logits.",
            "No softmax: torch.where(logits < 0, logits * penalty, logits / penalty) where seen.",
        ),
    ),
    (
        removed,
        (
            "With a penalty of 1 nothing should change. Does it?",
            "What was seen can never be said again, which stops every sentence at its second comma.",
            "Lower the logit by the penalty, do not remove it.",
        ),
    ),
    (
        negative_ones_alone,
        (
            "What becomes of a positive logit that was seen?",
            "Only negative logits are changed.",
            "Divide those of at least 0, too.",
        ),
    ),
    (
        positive_ones_alone,
        (
            "What becomes of a negative logit that was seen?",
            "Only positive logits are changed.",
            "Multiply the negative ones, too.",
        ),
    ),
]

# ---- presence_penalty


def added(logits, generated, penalty):
    return logits + penalty * generated


def divided(logits, generated, penalty):
    return library.repetition_penalty(logits, generated, penalty or 1.0)


def presence_for_the_others(logits, generated, penalty):
    return logits - penalty * ~generated


def presence_for_all(logits, generated, penalty):
    return logits - penalty


def once_for_each_row(logits, generated, penalty):
    return logits - penalty * generated * generated.sum(-1, keepdim=True)


def away_from_zero(logits, generated, penalty):
    return torch.where(generated, logits - penalty * logits.sign(), logits)


def factor(logits, generated, penalty):
    return torch.where(generated, logits * (1 - penalty), logits)


def presence_removed(logits, generated, penalty):
    return logits.masked_fill(generated & (penalty != 0), -math.inf)


PRESENCE_PENALTY = [
    (
        added,
        (
            "With a penalty of 1, what becomes of a logit of 2?",
            "It rises: the penalty is added.",
            "logits - penalty where generated.",
        ),
    ),
    (
        divided,
        (
            "With a penalty of 0.5, what becomes of a logit of 2?",
            "It is divided; that is the repetition penalty.",
            "This one is subtracted: logits - penalty where generated.",
        ),
    ),
    (
        presence_for_the_others,
        (
            "Mark nothing. What changes?",
            "What did not come out is lowered.",
            "torch.where(generated, logits - penalty, logits)",
        ),
    ),
    (
        presence_for_all,
        (
            "Mark nothing. What changes?",
            "Every logit is lowered, which changes no probability at all.",
            "torch.where(generated, logits - penalty, logits)",
        ),
    ),
    (
        once_for_each_row,
        (
            "Mark two entries of a row. By how much is each lowered?",
            "By the penalty times the number of marks.",
            "Once: logits - penalty where generated.",
        ),
    ),
    (
        away_from_zero,
        (
            "What becomes of a negative logit?",
            "It is moved towards 0, which makes it more likely.",
            "Subtract whatever the sign: logits - penalty.",
        ),
    ),
    (
        factor,
        (
            "With a penalty of 1, what becomes of a logit of 3?",
            "The logit is scaled; the penalty is a number of the same kind as a logit.",
            "logits - penalty where generated.",
        ),
    ),
    (
        presence_removed,
        (
            "With a penalty of 0.5, what becomes of a logit of 2?",
            "What came out once can never come again.",
            "Lower it by the penalty: logits - penalty where generated.",
        ),
    ),
]

# ---- top_k


def exactly_k(logits, k):
    k = min(k, logits.shape[1])
    values, ids = logits.topk(k)
    return torch.full_like(logits, -math.inf).scatter(1, ids, values)


def ties_cut(logits, k):
    """All that equal the k-th go, rather than stay."""
    k = min(k, logits.shape[1])
    return logits.masked_fill(logits <= logits.sort(descending=True).values[:, k - 1 : k], -math.inf)


def smallest_kept(logits, k):
    return -library.top_k(-logits, k)


def smallest_kept_right(logits, k):
    kept = library.top_k(-logits, k) > -math.inf
    return torch.where(kept, logits, -math.inf)


def zeros_instead(logits, k):
    return library.top_k(logits, k).masked_fill(library.top_k(logits, k) == -math.inf, 0.0)


def one_more(logits, k):
    return library.top_k(logits, k + 1)


def over_the_batch(logits, k):
    worst = logits.flatten().topk(min(k, logits.numel())).values[-1]
    return logits.masked_fill(logits < worst, -math.inf)


def too_many_is_an_error(logits, k):
    worst = logits.topk(k).values[:, -1:]
    return logits.masked_fill(logits < worst, -math.inf)


def values_alone(logits, k):
    return logits.topk(min(k, logits.shape[1])).values


def threshold_of_the_first_row(logits, k):
    worst = logits[:1].topk(min(k, logits.shape[1])).values[:, -1:]
    return logits.masked_fill(logits < worst, -math.inf)


def different_values(logits, k):
    """Equal ones share a place: k different values are kept."""
    rows = []
    for row in logits:
        values = row.unique().flip(0)
        rows.append(row.masked_fill(row < values[min(k, len(values)) - 1], -math.inf))
    return torch.stack(rows)


TOP_K = [
    (
        exactly_k,
        (
            "Take the logits 1 1 0 and k = 1. How many are as good as the best?",
            "Of entries as good as the k-th, some go and some stay, by chance of the sorting.",
            "Compare with the k-th value: logits < logits.topk(k).values[:, -1:] goes, equals stay.",
        ),
    ),
    (
        ties_cut,
        (
            "Take k = 1. Is the best still there?",
            "The k-th best goes, with all that equal it.",
            "What is smaller than the k-th value goes: <, not <=.",
        ),
    ),
    (
        smallest_kept,
        (
            "Which entries are left, and what do the others hold?",
            "The smallest are kept, and the others are +inf.",
            "worst = logits.topk(k).values[:, -1:]; what is below it becomes -inf.",
        ),
    ),
    (
        smallest_kept_right,
        (
            "Take k = 1. Which entry is left?",
            "The worst are kept.",
            "Sort descending, or use topk, which gives the largest.",
        ),
    ),
    (
        zeros_instead,
        (
            "What is exp(0)? And what should the weight of a removed entry be?",
            "A logit of 0 is no removal: its weight is exp(0) = 1.",
            "Fill with -inf: exp(-inf) is 0.",
        ),
    ),
    (
        one_more,
        (
            "Take k = 1 and count what is left.",
            "One entry too many is kept.",
            "Of k sorted values the worst is number k - 1, counted from 0.",
        ),
    ),
    (
        over_the_batch,
        (
            "Take two rows, one with much larger logits. What is left of the other?",
            "The k best of the whole batch are kept, not of each row.",
            "topk along the last axis, one border a row.",
        ),
    ),
    (
        too_many_is_an_error,
        (
            "Take k = 9 and three entries.",
            "topk refuses a k that is larger than the vocabulary.",
            "min(k, logits.shape[-1])",
        ),
    ),
    (
        values_alone,
        (
            "Compare the shapes of what goes in and what comes out.",
            "The k values come out without the places they stood at.",
            "Keep the shape, and fill what is below the k-th value with -inf.",
        ),
    ),
    (
        threshold_of_the_first_row,
        (
            "Take two rows, the second with much larger logits. How many are left of it?",
            "The border of the first row cuts all rows.",
            "topk along the last axis, one border a row.",
        ),
    ),
    (
        different_values,
        (
            "Take the logits 2 2 1 and k = 2. What is left?",
            "Equal entries are counted as one; k counts entries.",
            "The border is the k-th of all sorted values: logits.topk(k).values[:, -1:].",
        ),
    ),
]

# ---- top_p


def nucleus(logits, p, goes: Callable):
    """Keep by rank: goes(sorted weights, their running sum, p) says what is removed, from the most probable on."""
    values, ids = logits.sort(descending=True)
    weights = softmax(values)
    cut = goes(weights, weights.cumsum(-1), p)
    return logits.masked_fill(torch.zeros_like(cut).scatter(1, ids, cut), -math.inf)


def best_kept(cut):
    cut[:, 0] = False
    return cut


def the_one_that_crosses_goes(logits, p):
    return nucleus(logits, p, lambda weights, total, p: best_kept(total > p + 1e-6))


def the_best_may_go(logits, p):
    return nucleus(logits, p, lambda weights, total, p: total > p + 1e-6)


def one_beyond(logits, p):
    return nucleus(logits, p, lambda weights, total, p: total - weights - weights.roll(1, -1) >= p)


def probable_enough_each(logits, p):
    return nucleus(logits, p, lambda weights, total, p: best_kept(weights < p))


def the_least_probable_are_kept(logits, p):
    return nucleus(logits, p, lambda weights, total, p: best_kept(total < 1 - p))


def tail_of_p(logits, p):
    return nucleus(logits, p, lambda weights, total, p: best_kept(1 - (total - weights) <= p))


def not_put_back(logits, p):
    """The sorted entries come out in their sorted places."""
    values = logits.sort(descending=True).values
    weights = softmax(values)
    return values.masked_fill(weights.cumsum(-1) - weights >= p, -math.inf)


def cut_in_sorted_places(logits, p):
    """What is removed is known by rank, and is taken for a place."""
    weights = softmax(logits.sort(descending=True).values)
    return logits.masked_fill(weights.cumsum(-1) - weights >= p, -math.inf)


def not_sorted(logits, p):
    weights = softmax(logits)
    return logits.masked_fill(weights.cumsum(-1) - weights >= p, -math.inf)


def without_softmax(logits, p):
    values, ids = logits.sort(descending=True)
    cut = values.cumsum(-1) - values >= p
    return logits.masked_fill(torch.zeros_like(cut).scatter(1, ids, cut), -math.inf)


def probabilities_come_out(logits, p):
    return softmax(library.top_p(logits, p))


TOP_P = [
    (
        the_one_that_crosses_goes,
        (
            "Take probabilities 0.6 and 0.4 and p = 0.8. Do those that are left hold 0.8?",
            "The entry with which the sum passes p is removed; without it, p is not reached.",
            "Remove where the sum BEFORE an entry has reached p already: cumsum - weights >= p.",
        ),
    ),
    (
        the_best_may_go,
        (
            "Take p = 0.1. What is left?",
            "Where the best entry alone passes p, everything is removed.",
            "The first of the sorted entries always stays, and so does the one with which the sum passes p.",
        ),
    ),
    (
        one_beyond,
        (
            "Take probabilities 0.6, 0.3, 0.1 and p = 0.5. How many are needed?",
            "One entry more is kept than it takes.",
            "Remove where the sum of those before an entry has reached p: cumsum - weights >= p.",
        ),
    ),
    (
        probable_enough_each,
        (
            "Take probabilities 0.4, 0.3, 0.3 and p = 0.5. How many are left?",
            "Each probability alone is compared with p; their sum should be.",
            "Sort, then weights.cumsum(-1).",
        ),
    ),
    (
        the_least_probable_are_kept,
        (
            "Take probabilities 0.6, 0.3, 0.1 and p = 0.5. Which are left?",
            "From the most probable on, entries are removed instead of kept.",
            "Sorted descending, those stay that come before p is reached.",
        ),
    ),
    (
        tail_of_p,
        (
            "Take p = 0.9 and then p = 0.1. With which is more left?",
            "1 - p was taken where p belongs: a large p keeps little.",
            "Sorted ascending, remove while the sum is at most 1 - p.",
        ),
    ),
    (
        not_put_back,
        (
            "Take the logits 0 3. At which place does the 3 come out?",
            "The sorted logits come out: entry 0 now holds what belongs to the best one.",
            "Scatter what is removed back by the indices of the sort: cut.scatter(1, ids, sorted_cut).",
        ),
    ),
    (
        cut_in_sorted_places,
        (
            "Take the logits 0 3 and a small p. Which one is left?",
            "What is removed is known by its rank, but is removed by its place.",
            "Scatter it back by the indices of the sort: cut.scatter(1, ids, sorted_cut).",
        ),
    ),
    (
        not_sorted,
        (
            "Put the most probable entry last. Is it left?",
            "The sum runs in the order of the vocabulary, not from the most probable on.",
            "Sort the logits first, and put the result back by the indices of the sort.",
        ),
    ),
    (
        without_softmax,
        (
            "What do the numbers that are summed mean? Can they be negative?",
            "Logits are summed; p is a share of probability.",
            "softmax(sorted).cumsum(-1)",
        ),
    ),
    (
        probabilities_come_out,
        (
            "What goes in, and what comes out?",
            "Probabilities come out; the next step wants logits.",
            "Return the logits, with -inf where an entry is removed.",
        ),
    ),
]

# ---- min_p


def against_one(logits, p):
    return logits.masked_fill(softmax(logits) < p, -math.inf)


def of_logits(logits, p):
    return logits.masked_fill(logits < p * logits.amax(-1, keepdim=True), -math.inf)


def distance_of_logits(logits, p):
    return logits.masked_fill(logits - logits.amax(-1, keepdim=True) < -p, -math.inf)


def probable_ones_go(logits, p):
    return logits.masked_fill((logits - logits.amax(-1, keepdim=True)).exp() > p, -math.inf)


def best_of_the_batch(logits, p):
    return logits.masked_fill((logits - logits.amax()).exp() < p, -math.inf)


def against_the_mean(logits, p):
    weights = softmax(logits)
    return logits.masked_fill(weights < p * weights.mean(-1, keepdim=True), -math.inf)


def nucleus_again(logits, p):
    return library.top_p(logits, p) if p else logits


def one_minus(logits, p):
    return library.min_p(logits, 1 - p) if p else logits


def equal_ones_go(logits, p):
    return logits.masked_fill((logits - logits.amax(-1, keepdim=True)).exp() <= p * (1 + 1e-6) + 0.07, -math.inf)


def renormalised(logits, p):
    return softmax(library.min_p(logits, p))


MIN_P = [
    (
        against_one,
        (
            "Take ten equal logits and p = 0.2. What is left?",
            "Probabilities are compared with p itself: where the model is unsure, nothing is left.",
            "The border is p times the largest probability.",
        ),
    ),
    (
        of_logits,
        (
            "Add 100 to all logits. Does the result keep the same entries?",
            "Logits are compared, not probabilities.",
            "(logits - logits.amax(-1, keepdim=True)).exp() < p",
        ),
    ),
    (
        distance_of_logits,
        (
            "Take p = 0.5. How much less likely may an entry be?",
            "The distance of logits is compared with p; it is the logarithm of the ratio.",
            "(logits - logits.amax(-1, keepdim=True)).exp() < p",
        ),
    ),
    (
        probable_ones_go,
        (
            "Is the most probable entry left?",
            "What is above the border is removed.",
            "Remove where the ratio is below p: <",
        ),
    ),
    (
        best_of_the_batch,
        (
            "Take two rows, one with much larger logits. What is left of the other?",
            "The best of the whole batch sets the border of every row.",
            "amax(-1, keepdim=True)",
        ),
    ),
    (
        against_the_mean,
        (
            "Take the probabilities 0.5, 0.3, 0.2 and p = 0.5. Where is the border?",
            "The border is p times the mean.",
            "It is p times the largest: weights.amax(-1, keepdim=True).",
        ),
    ),
    (
        nucleus_again,
        (
            "Take the probabilities 0.4, 0.3, 0.3 and p = 0.5. How many are left?",
            "This is top-p: probabilities are summed up.",
            "Each entry alone is compared with p times the largest.",
        ),
    ),
    (
        one_minus,
        (
            "Take p = 0.1 and then p = 0.9. With which is more left?",
            "1 - p was taken where p belongs: a small p keeps little.",
            "Remove where the ratio to the best is below p.",
        ),
    ),
    (
        equal_ones_go,
        (
            "Take an entry a little above the border. Is it left?",
            "The border lies too high.",
            "Exactly those go whose ratio to the best is below p.",
        ),
    ),
    (
        renormalised,
        (
            "What goes in, and what comes out?",
            "Probabilities come out; the draw takes the softmax itself.",
            "Return the logits, with -inf where an entry is removed.",
        ),
    ),
]

# ---- draw


def most_probable(weights, dice):
    return weights.argmax(-1)


def one_before(weights, dice):
    return (library.draw(weights, dice) - 1).clamp_min(0)


def one_behind(weights, dice):
    ends = weights.double().cumsum(-1)
    return (ends < dice[:, None] * ends[:, -1:]).sum(-1) + 1


def sum_of_one_assumed(weights, dice):
    ends = weights.double().cumsum(-1)
    return (ends < dice[:, None]).sum(-1)


def from_the_end(weights, dice):
    return weights.shape[1] - 1 - library.draw(weights.flip(1), dice)


def place_among_the_sorted(weights, dice):
    return library.draw(weights.sort(descending=True).values, dice)


def most_probable_first(weights, dice):
    ordered, ids = weights.sort(descending=True, stable=True)
    return ids.gather(1, library.draw(ordered, dice)[:, None])[:, 0]


def one_mark_for_all(weights, dice):
    return library.draw(weights, dice[:1].expand(len(weights)))


def evenly(weights, dice):
    return (dice * weights.shape[1]).ceil().long() - 1


def of_logits_again(weights, dice):
    return library.draw(softmax(weights), dice)


def first_large_enough(weights, dice):
    return (weights >= dice[:, None] * weights.amax(-1, keepdim=True)).int().argmax(-1)


DRAW = [
    (
        most_probable,
        (
            "Give the same weights with two different marks.",
            "The dice are not used: the largest weight is always drawn.",
            "Sum the weights up, and find where the sum reaches dice times the whole.",
        ),
    ),
    (
        one_before,
        (
            "Take the weights 1 1 and the mark 0.75.",
            "The entry before the one under the mark is drawn.",
            "The first entry at whose end the sum is at least dice times the whole.",
        ),
    ),
    (
        one_behind,
        (
            "Take one weight alone. Which entry is drawn?",
            "The entry behind the one under the mark is drawn.",
            "As many entries lie wholly before the mark as its number says: (ends < mark).sum(-1).",
        ),
    ),
    (
        sum_of_one_assumed,
        (
            "Double all weights. Does the result change?",
            "The mark is compared with sums that do not end at 1.",
            "The mark is dice times the sum of the row.",
        ),
    ),
    (
        from_the_end,
        (
            "Take the weights 1 1 and a small mark. Which entry is drawn?",
            "The entries are laid side by side from the end.",
            "Entry 0 lies at 0.",
        ),
    ),
    (
        place_among_the_sorted,
        (
            "Take the weights 0 1. Which entry is drawn?",
            "The rank of an entry comes out, not its number.",
            "No sorting is needed: cumsum in the order of the vocabulary.",
        ),
    ),
    (
        most_probable_first,
        (
            "Take the weights 1 2 and a small mark. Which entry is drawn?",
            "The entries are laid side by side from the most probable on; here they lie in the order of their numbers.",
            "No sorting: weights.cumsum(-1).",
        ),
    ),
    (
        one_mark_for_all,
        (
            "Give two equal rows with different marks.",
            "Every row is drawn with the first mark.",
            "dice[:, None] is one mark a row.",
        ),
    ),
    (
        evenly,
        (
            "Take the weights 0 1. Which entries are drawn?",
            "All entries are equally likely, whatever their weights.",
            "Sum the weights up, and find where the sum reaches dice times the whole.",
        ),
    ),
    (
        of_logits_again,
        (
            "Take the weights 0 1. Is entry 0 ever drawn?",
            "The weights are put through a softmax; they are weights already.",
            "weights.cumsum(-1), without a softmax.",
        ),
    ),
    (
        first_large_enough,
        (
            "Take the weights 1 1. Is entry 1 ever drawn?",
            "Single weights are compared with the mark; their running sum should be.",
            "weights.cumsum(-1) >= dice[:, None] * sum, and the first place where it holds.",
        ),
    ),
]

# ---- emit


def stop_token_swallowed(chosen, finished, stop_ids, pad_token_id):
    _, finished = library.emit(chosen, finished, stop_ids, pad_token_id)
    return torch.where(finished, pad_token_id, chosen), finished


def first_stop_token_alone(chosen, finished, stop_ids, pad_token_id):
    return library.emit(chosen, finished, stop_ids[:1], pad_token_id)


def all_stop_tokens_at_once(chosen, finished, stop_ids, pad_token_id):
    ids, _ = library.emit(chosen, finished, stop_ids, pad_token_id)
    return ids, finished | (chosen[:, None] == stop_ids).all(-1)


def finished_is_forgotten(chosen, finished, stop_ids, pad_token_id):
    ids, _ = library.emit(chosen, finished, stop_ids, pad_token_id)
    return ids, (chosen[:, None] == stop_ids).any(-1)


def goes_on_for_ever(chosen, finished, stop_ids, pad_token_id):
    return library.emit(chosen, finished, stop_ids[:0], pad_token_id)


def no_padding(chosen, finished, stop_ids, pad_token_id):
    return chosen, library.emit(chosen, finished, stop_ids, pad_token_id)[1]


def padding_ends_a_row(chosen, finished, stop_ids, pad_token_id):
    ids, done = library.emit(chosen, finished, stop_ids, pad_token_id)
    return ids, done | (ids == pad_token_id)


def one_row_ends_all(chosen, finished, stop_ids, pad_token_id):
    ids, done = library.emit(chosen, finished, stop_ids, pad_token_id)
    return ids, done.any().expand(len(done))


def padding_the_wrong_way_round(chosen, finished, stop_ids, pad_token_id):
    return library.emit(chosen, ~finished, stop_ids, pad_token_id)[0], library.emit(chosen, finished, stop_ids, 0)[1]


def stop_token_for_ever(chosen, finished, stop_ids, pad_token_id):
    ids, done = library.emit(chosen, finished, stop_ids, pad_token_id)
    return (torch.where(finished, stop_ids[0], chosen) if len(stop_ids) else ids), done


EMIT = [
    (
        stop_token_swallowed,
        (
            "Choose the stop token in a row that goes on. What comes out?",
            "Padding comes out in the very step in which the stop token was chosen.",
            "Decide by the rows that were finished BEFORE this step what comes out.",
        ),
    ),
    (
        first_stop_token_alone,
        (
            "Give two stop tokens and choose the second.",
            "Only the first of the stop tokens is heeded.",
            "(chosen[:, None] == stop_ids).any(-1)",
        ),
    ),
    (
        all_stop_tokens_at_once,
        (
            "Give two stop tokens and choose one of them.",
            "A row would have to choose all of them at once (and with none, it stops at once).",
            ".any(-1), not .all(-1)",
        ),
    ),
    (
        finished_is_forgotten,
        (
            "Take a row that is finished, for which some other token is chosen. Is it still finished?",
            "Only this step decides; what was finished before goes on again.",
            "finished | this_step",
        ),
    ),
    (
        goes_on_for_ever,
        (
            "Choose a stop token. Is the row finished?",
            "No token finishes a row.",
            "finished | (chosen[:, None] == stop_ids).any(-1)",
        ),
    ),
    (
        no_padding,
        (
            "Take a row that is finished. What comes out?",
            "Whatever the model happens to say behind the end comes out.",
            "torch.where(finished, pad_token_id, chosen)",
        ),
    ),
    (
        padding_ends_a_row,
        (
            "Choose the id of the padding in a row that goes on. Is it finished?",
            "The padding's id is taken for a stop token; it ends a row only if it is one of them.",
            "Compare with stop_ids alone.",
        ),
    ),
    (
        one_row_ends_all,
        (
            "Take two rows, one of which is finished. Is the other?",
            "One finished row finishes all.",
            "Rows are finished one by one: no .any() over the batch.",
        ),
    ),
    (
        padding_the_wrong_way_round,
        (
            "Take a row that goes on. What comes out?",
            "Rows that go on give out padding, and finished ones go on.",
            "torch.where(finished, pad_token_id, chosen), in this order.",
        ),
    ),
    (
        stop_token_for_ever,
        (
            "Take a row that is finished. What comes out?",
            "The stop token is given out again and again.",
            "torch.where(finished, pad_token_id, chosen)",
        ),
    ),
]

# ---- Sampling


class Right:
    """All steps in order; each mistake below changes one thing about them."""

    def __init__(
        self, repetition_penalty=1.0, presence_penalty=0.0, temperature=1.0, top_k=None, top_p=None, min_p=None
    ):
        self.repetition, self.presence, self.temperature = repetition_penalty, presence_penalty, temperature
        self.numbers = {"top_k": top_k, "top_p": top_p, "min_p": min_p}

    def penalties(self, logits, seen, generated):
        logits = library.repetition_penalty(logits, seen, self.repetition)
        return library.presence_penalty(logits, generated, self.presence)

    def tempered(self, logits):
        return logits / self.temperature if self.temperature else logits

    def kept(self, logits, names=("top_k", "top_p", "min_p")):
        for name in names:
            if self.numbers[name] is not None:
                logits = getattr(library, name)(logits, self.numbers[name])
        return logits

    def scores(self, logits, seen, generated):
        return self.kept(self.tempered(self.penalties(logits, seen, generated)))

    def choose(self, logits, seen, generated, generator=None):
        return self.scores(logits, seen, generated).argmax(-1)


class TemperatureMultiplied(Right):
    def tempered(self, logits):
        return logits * self.temperature


class TemperatureLast(Right):
    def scores(self, logits, seen, generated):
        return self.tempered(self.kept(self.penalties(logits, seen, generated)))


class TemperatureFirst(Right):
    def scores(self, logits, seen, generated):
        return self.kept(self.penalties(self.tempered(logits), seen, generated))


class PresenceFirst(Right):
    def penalties(self, logits, seen, generated):
        logits = library.presence_penalty(logits, generated, self.presence)
        return library.repetition_penalty(logits, seen, self.repetition)


class PresenceOfThePromptToo(Right):
    def penalties(self, logits, seen, generated):
        return super().penalties(logits, seen, seen | generated)


class RepetitionOfTheAnswerAlone(Right):
    def penalties(self, logits, seen, generated):
        return super().penalties(logits, generated, generated)


class TopPBeforeTopK(Right):
    def kept(self, logits, names=("top_p", "top_k", "min_p")):
        return super().kept(logits, names)


class MinPFirst(Right):
    def kept(self, logits, names=("min_p", "top_k", "top_p")):
        return super().kept(logits, names)


class PenaltiesLast(Right):
    def scores(self, logits, seen, generated):
        return self.penalties(self.kept(self.tempered(logits)), seen, generated)


class NoPenaltiesAtTemperatureZero(Right):
    def choose(self, logits, seen, generated, generator=None):
        return logits.argmax(-1)


class OneStepAlone(Right):
    """The first of the three that is given, as in if, elif, elif."""

    def kept(self, logits, names=("top_k", "top_p", "min_p")):
        return super().kept(logits, [name for name in names if self.numbers[name] is not None][:1])


SAMPLING = [
    (
        TemperatureMultiplied,
        (
            "At a temperature of 0.1, are the probabilities sharper or flatter?",
            "The logits are multiplied by the temperature.",
            "logits / temperature",
        ),
    ),
    (
        TemperatureLast,
        (
            "Is the share of top_p taken of the probabilities that are drawn with?",
            "The temperature comes after top_k, top_p and min_p, which then judge other probabilities.",
            "Divide by the temperature before anything is removed.",
        ),
    ),
    (
        TemperatureFirst,
        (
            "Does the presence penalty weigh as much at every temperature?",
            "The temperature comes before the penalties, so that what a penalty does depends on it.",
            "First both penalties, then the temperature.",
        ),
    ),
    (
        PresenceFirst,
        (
            "Take a logit of 2, a repetition penalty of 2 and a presence penalty of 1: which comes first?",
            "The presence penalty is subtracted first, and then divided by the other one.",
            "First repetition, then presence: 2 / 2 - 1 = 0.",
        ),
    ),
    (
        PresenceOfThePromptToo,
        (
            "Is a word of the question hindered by the presence penalty?",
            "The presence penalty counts the prompt, too.",
            "Give it `generated`, not `seen`.",
        ),
    ),
    (
        RepetitionOfTheAnswerAlone,
        (
            "Is a word of the question hindered by the repetition penalty?",
            "The repetition penalty counts only what came out.",
            "Give it `seen`: prompt and answer.",
        ),
    ),
    (
        TopPBeforeTopK,
        (
            "Of which probabilities is the share of top_p taken?",
            "The share of top_p is taken of the whole vocabulary, not of the k that top_k has left.",
            "First top_k, then top_p, then min_p.",
        ),
    ),
    (
        MinPFirst,
        (
            "Of which probabilities is the share of top_p taken?",
            "min_p comes before the others.",
            "First top_k, then top_p, then min_p.",
        ),
    ),
    (
        PenaltiesLast,
        (
            "Can a penalty bring back a token that top_k has removed?",
            "The penalties come last: they work on what is kept, instead of deciding it.",
            "First both penalties, then the temperature, then what is kept.",
        ),
    ),
    (
        NoPenaltiesAtTemperatureZero,
        (
            "Does a penalty change anything at temperature 0?",
            "The best of the raw logits is chosen.",
            "The best of `scores`: the penalties count at every temperature.",
        ),
    ),
    (
        OneStepAlone,
        (
            "Give both top_k and top_p. Do both cut?",
            "Only the first of the three is made.",
            "One if for each, not if and elif.",
        ),
    ),
]

MISTAKES: dict[str, list[Mistake]] = {
    name: [Mistake(*row) for row in rows]
    for name, rows in {
        "seen_ids": SEEN_IDS,
        "repetition_penalty": REPETITION_PENALTY,
        "presence_penalty": PRESENCE_PENALTY,
        "top_k": TOP_K,
        "top_p": TOP_P,
        "min_p": MIN_P,
        "draw": DRAW,
        "emit": EMIT,
        "Sampling": SAMPLING,
    }.items()
}


def probes(name: str) -> Iterator[Probe]:
    """Arguments on which every two of the mistakes above differ."""
    logits = torch.tensor([[2.0, -1.0, 3.0, -2.0, 0.5], [-4.0, 7.0, 7.5, -3.0, 5.5]])
    marks = torch.tensor([[True, True, False, False, False], [True, True, False, True, True]])
    weights = torch.tensor([[3.0, 4.0, 1.0, 2.0], [1.0, 2.0, 4.0, 3.0]])
    if name == "seen_ids":
        ids = torch.tensor([[3, 3, 1], [2, 3, 2]])
        yield (ids, 5), {}
        yield (ids, 5, torch.tensor([[0, 1, 1], [1, 1, 0]])), {}
        yield (ids, 5, torch.tensor([[1, 0, 0], [0, 1, 1]])), {}
    elif name == "repetition_penalty":
        for penalty in (1.0, 2.0):
            yield (logits, marks, penalty), {}
    elif name == "presence_penalty":
        for penalty in (0.0, 0.5, 1.0):
            yield (logits, marks, penalty), {}
    elif name == "top_k":
        for k in (1, 2, 3, 9):
            yield (torch.tensor([[1.0, 0.0, 2.0, 1.0], [7.0, 9.0, 8.0, 6.0]]), k), {}
            yield (torch.tensor([[2.0, 2.0, 1.0, 0.0]]), k), {}
    elif name == "top_p":
        for p in (0.1, 0.35, 0.55, 0.65, 0.85, 0.95):
            yield (weights.log(), p), {}
    elif name == "min_p":
        for p in (0.0, 0.1, 0.3, 0.45, 0.55, 0.7, 0.8):
            yield (torch.cat([weights[:1], 9 * weights[1:]]).log(), p), {}
    elif name == "draw":
        for dice in ((0.05, 0.95), (0.35, 0.55), (0.85, 0.15)):
            yield (weights, torch.tensor(dice, dtype=torch.float64)), {}
        yield (torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([0.5], dtype=torch.float64)), {}
    elif name == "emit":
        chosen, finished = torch.tensor([4, 5, 1, 0, 2]), torch.tensor([False, False, True, False, False])
        for stops in ((4, 5), (5,), ()):
            yield (chosen, finished, torch.tensor(stops, dtype=torch.int64), 0), {}
    elif name == "Sampling":
        for settings in (
            dict(temperature=0.5),
            dict(repetition_penalty=2.0, presence_penalty=1.0, temperature=1.5, top_k=3, top_p=0.6, min_p=0.3),
            dict(repetition_penalty=3.0, temperature=0.0),
        ):
            yield use(settings)


def use(settings: dict) -> Callable:
    """Scores of some logits with these settings, and at temperature 0 what is chosen."""

    def used(sampling_of: Callable) -> list:
        sampling, found = sampling_of(**settings), []
        for seed in range(3):
            arguments = 3 * normal(seed, 3, 7), normal(seed + 10, 3, 7) > 0, normal(seed + 20, 3, 7) > 0.5
            found.append(sampling.scores(*arguments))
            if settings["temperature"] == 0:
                found.append(sampling.choose(*arguments))
        return found

    return used
