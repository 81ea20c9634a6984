"""Classic wrong answers about attention, each with three hints of increasing directness."""

import functools
import inspect
import math
from collections.abc import Callable, Iterator

import torch
from strategies import normal
from torch import Tensor

from minivid.classroom.museum import Mistake
from minivid.layers import attention

# ---- attend


def scored(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.mT / math.sqrt(query.shape[-1])


def shared(scores: Tensor, mask: Tensor | None, blind: str, dim: int = -1) -> Tensor:
    """A masked softmax; `blind` says what a row that may look nowhere gets, which people solve in three ways."""
    if mask is None:
        return scores.softmax(dim)
    if blind == "nan":
        return scores.masked_fill(~mask, -math.inf).softmax(dim)
    weights = scores.masked_fill(~mask, -1e9).softmax(dim)
    return weights if blind == "mean" else weights.masked_fill(~mask, 0.0)


def softmax_over_the_queries(query, key, value, mask=None, *, blind):
    weights = shared(scored(query, key), mask, blind, dim=-2)
    return weights @ value, weights


def softmax_over_the_heads(query, key, value, mask=None, *, blind):
    weights = shared(scored(query, key), mask, blind, dim=1)
    return weights @ value, weights


def scale_forgotten(query, key, value, mask=None, *, blind):
    weights = shared(query @ key.mT, mask, blind)
    return weights @ value, weights


def divided_by_k(query, key, value, mask=None, *, blind):
    weights = shared(query @ key.mT / query.shape[-1], mask, blind)
    return weights @ value, weights


def multiplied_by_the_root(query, key, value, mask=None, *, blind):
    weights = shared(query @ key.mT * math.sqrt(query.shape[-1]), mask, blind)
    return weights @ value, weights


def divided_by_the_root_of_s(query, key, value, mask=None, *, blind):
    weights = shared(query @ key.mT / math.sqrt(key.shape[-2]), mask, blind)
    return weights @ value, weights


def divided_by_the_root_of_all_heads(query, key, value, mask=None, *, blind):
    weights = shared(query @ key.mT / math.sqrt(query.shape[1] * query.shape[-1]), mask, blind)
    return weights @ value, weights


def scaled_after_the_softmax(query, key, value, mask=None, *, blind):
    weights = shared(query @ key.mT, mask, blind) / math.sqrt(query.shape[-1])
    return weights @ value, weights


def mask_inverted(query, key, value, mask=None, *, blind):
    weights = shared(scored(query, key), None if mask is None else ~mask, blind)
    return weights @ value, weights


def keys_averaged(query, key, value, mask=None, *, blind):
    weights = shared(scored(query, key), mask, blind)
    return weights @ key, weights


def transposed(query, key, value, mask=None):
    scores = key @ query.mT / math.sqrt(query.shape[-1])
    weights = shared(scores, mask, "zeros")
    return weights @ value, weights


def boolean_mask_added(query, key, value, mask=None):
    scores = scored(query, key)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return weights @ value, weights


def masked_scores_set_to_zero(query, key, value, mask=None):
    scores = scored(query, key)
    weights = (scores if mask is None else scores * mask).softmax(-1)
    return weights @ value, weights


def masked_after_the_softmax(query, key, value, mask=None):
    weights = scored(query, key).softmax(-1)
    weights = weights if mask is None else weights * mask
    return weights @ value, weights


def mask_ignored(query, key, value, mask=None):
    weights = scored(query, key).softmax(-1)
    return weights @ value, weights


def blind_rows_are_nan(query, key, value, mask=None):
    weights = shared(scored(query, key), mask, "nan")
    return weights @ value, weights


def blind_rows_look_everywhere(query, key, value, mask=None):
    weights = shared(scored(query, key), mask, "mean")
    return weights @ value, weights


def exp_overflows(query, key, value, mask=None, *, blind):
    powers = scored(query, key).exp()
    if mask is not None:
        powers = powers * mask
    sums = powers.sum(-1, keepdim=True)
    weights = powers / (sums if blind == "nan" else sums + (sums == 0))
    return weights @ value, weights


def one_maximum_for_all_rows(query, key, value, mask=None, *, blind):
    scores = scored(query, key)
    powers = (scores - scores.max()).exp()
    if mask is not None:
        powers = powers * mask
    sums = powers.sum(-1, keepdim=True)
    weights = powers / (sums if blind == "nan" else sums + (sums == 0))
    return weights @ value, weights


def weights_from_before_the_mask(query, key, value, mask=None, *, blind):
    scores = scored(query, key)
    return shared(scores, mask, blind) @ value, scores.softmax(-1)


def scores_returned_as_weights(query, key, value, mask=None, *, blind):
    scores = scored(query, key)
    return shared(scores, mask, blind) @ value, scores


def output_alone(query, key, value, mask=None, *, blind):
    return shared(scored(query, key), mask, blind) @ value


def returned_the_wrong_way_round(query, key, value, mask=None, *, blind):
    weights = shared(scored(query, key), mask, blind)
    return weights, weights @ value


ATTEND: list[tuple[Callable, tuple[str, str, str]]] = [
    (
        softmax_over_the_queries,
        (
            "Add up the weights of one query. Which sum is one instead?",
            "The softmax runs along the wrong axis: a query shares 1 among the keys, not a key among the queries.",
            "The scores are b heads n s; the keys are the last axis, so softmax along dim=-1 (not -2).",
        ),
    ),
    (
        softmax_over_the_heads,
        (
            "Add up the weights of one query in one head. Then ask the same query in a batch with one head only.",
            "The softmax runs along the axis of the heads; heads must not know of each other.",
            "The scores are b heads n s; name the axis: softmax along dim=-1, the keys.",
        ),
    ),
    (
        scale_forgotten,
        (
            "The weights sum to one but are too sharp. What stands under the fraction bar in the formula?",
            "The scores grow with the width k of a head; the formula divides them by its square root.",
            "scores = query @ key.mT / math.sqrt(query.shape[-1])",
        ),
    ),
    (
        divided_by_k,
        (
            "The weights sum to one but are too even. How large is the spread of a sum of k products?",
            "The variance of such a sum is k, so its standard deviation is sqrt(k): that is what to divide by, not k.",
            "scores = query @ key.mT / math.sqrt(query.shape[-1])",
        ),
    ),
    (
        multiplied_by_the_root,
        (
            "The weights sum to one but are much too sharp. In which direction should the scale work?",
            "The square root of k is right, but it divides the scores.",
            "Replace `* math.sqrt(query.shape[-1])` by `/ math.sqrt(query.shape[-1])`.",
        ),
    ),
    (
        divided_by_the_root_of_s,
        (
            "Ask with more keys: the scores of the old keys change. Should they?",
            "The scale is made of the number of keys s; the formula takes the width k of query and key.",
            "math.sqrt(query.shape[-1]), the last axis, not shape[-2].",
        ),
    ),
    (
        divided_by_the_root_of_all_heads,
        (
            "With one head the answer is right; with two the weights are too even.",
            "The scale is made of the whole width heads * k; a score is a sum of only k products.",
            "math.sqrt(query.shape[-1]): query is already split into heads, k is its last axis.",
        ),
    ),
    (
        scaled_after_the_softmax,
        (
            "Add up the weights of a query. What number comes out, and where does it come from?",
            "The division by sqrt(k) comes after the softmax; it belongs to the scores, before it.",
            "weights = softmax(query @ key.mT / math.sqrt(query.shape[-1])): the fraction stands inside the softmax.",
        ),
    ),
    (
        mask_inverted,
        (
            "Without a mask all is well. Which keys get weight where the mask is given?",
            "The mask is used upside down: here True means 'may look'.",
            "Hide where the mask is False: scores.masked_fill(~mask, ...).",
        ),
    ),
    (
        keys_averaged,
        (
            "Make all values zero. Is the output zero?",
            "The weights are right; they are put to the keys, and the values are never read.",
            "output = weights @ value",
        ),
    ),
    (
        transposed,
        (
            "Try three queries and five keys: which shape do the scores have?",
            "The scores are key times query: one row per key. A row should belong to a query.",
            "scores = query @ key.mT / math.sqrt(query.shape[-1]), so that they are b heads n s.",
        ),
    ),
    (
        boolean_mask_added,
        (
            "Give a masked key a very large score. Does it still get no weight?",
            "The boolean mask is added to the scores: True adds 1, False adds 0, and nothing is hidden.",
            "Fill instead of adding: scores.masked_fill(~mask, the lowest finite number), then softmax.",
        ),
    ),
    (
        masked_scores_set_to_zero,
        (
            "Which weight does a score of 0 give: none, or exp(0) = 1?",
            "The masked scores are multiplied to 0, and exp(0) = 1 still takes a share of the weight.",
            "A hidden score must be very low, not 0: scores.masked_fill(~mask, the lowest finite number).",
        ),
    ),
    (
        masked_after_the_softmax,
        (
            "Add up the weights of a query that may see some of the keys only. Do they sum to one?",
            "The mask comes after the softmax: the hidden keys took their share before they were removed.",
            "Mask the scores first (masked_fill with the lowest number), then softmax.",
        ),
    ),
    (
        mask_ignored,
        (
            "Call attend with and without a mask. What changes?",
            "The mask is an argument that no line uses.",
            "Before the softmax: if mask is not None, scores = scores.masked_fill(~mask, the lowest finite number).",
        ),
    ),
    (
        blind_rows_are_nan,
        (
            "Everything is right but for a query that may look nowhere. What is 0 / 0?",
            "A row of -inf alone gives NaN in the softmax. Such a row gets zeros here.",
            "Fill with torch.finfo(scores.dtype).min instead of -inf, and after the softmax .masked_fill(~mask, 0.0).",
        ),
    ),
    (
        blind_rows_look_everywhere,
        (
            "Everything is right but for a query that may look nowhere. Which weights does it get?",
            "In such a row all scores are equally low, and the softmax shares evenly: a mean over what is hidden.",
            "After the softmax: weights = weights.masked_fill(~mask, 0.0).",
        ),
    ),
    (
        exp_overflows,
        (
            "Small numbers are right. What is exp(100) in float32?",
            "exp overflows for large scores, and inf / inf is NaN. The softmax does not change when a row is shifted.",
            "Before exp: scores = scores - scores.amax(-1, keepdim=True).",
        ),
    ),
    (
        one_maximum_for_all_rows,
        (
            "Make one query a thousand times larger. What happens to the rows of the others?",
            "One maximum is subtracted from all rows, so that exp becomes 0 in every key of a row with lower scores.",
            "Each query has its own: scores - scores.amax(-1, keepdim=True).",
        ),
    ),
    (
        weights_from_before_the_mask,
        (
            "The output is right. Look at the weights that come with it at a place that is masked.",
            "The weights that are returned are computed without the mask.",
            "Compute the weights once, masked, use them for the output, and return the same tensor.",
        ),
    ),
    (
        scores_returned_as_weights,
        (
            "The output is right. Do the weights that come with it sum to one?",
            "The scores are returned where the weights belong.",
            "return output, weights, where weights is what the softmax gave.",
        ),
    ),
    (
        output_alone,
        (
            "How many things should come back?",
            "attend returns two tensors, the output and the weights, so that the weights can be looked at.",
            "return weights @ value, weights",
        ),
    ),
    (
        returned_the_wrong_way_round,
        (
            "Two tensors come back. Which one comes first?",
            "The weights stand where the output should.",
            "return output, weights",
        ),
    ),
]


def in_every_blindness(wrong: Callable) -> Iterator[Callable]:
    """A mistake as people make it, with each way of treating a row that may look nowhere."""
    if "blind" not in inspect.signature(wrong).parameters:
        yield wrong
        return
    for blind in ("zeros", "nan", "mean") if "shared" in wrong.__code__.co_names else ("zeros", "nan"):
        answer = functools.wraps(wrong)(functools.partial(wrong, blind=blind))
        answer.__name__ = f"{wrong.__name__}_{blind}"
        yield answer


# ---- causal_mask


def starts_at_the_first_key(n, s):
    return torch.ones(n, s, dtype=torch.bool).tril()


def hides_the_present(n, s):
    return torch.ones(n, s, dtype=torch.bool).tril(s - n - 1)


def shows_the_future(n, s):
    return torch.ones(n, s, dtype=torch.bool).triu(s - n)


def true_hides(n, s):
    return ~attention.causal_mask(n, s)


def to_be_added(n, s):
    return torch.zeros(n, s).masked_fill(~attention.causal_mask(n, s), -math.inf)


def ones_and_zeros(n, s):
    return attention.causal_mask(n, s).float()


def keys_by_queries(n, s):
    return attention.causal_mask(n, s).mT


def square(n, s):
    return torch.ones(n, n, dtype=torch.bool).tril()


def one_key_too_many(n, s):
    return torch.ones(n, s, dtype=torch.bool).tril(s - n + 1)


CAUSAL_MASK = [
    (
        starts_at_the_first_key,
        (
            "With n = s it is right. With one query and four keys, what may that query see?",
            "The diagonal starts at the first key; the last query should stand at the last key.",
            "torch.ones(n, s, dtype=torch.bool).tril(s - n)",
        ),
    ),
    (
        hides_the_present,
        (
            "May a token look at itself?",
            "The diagonal itself is hidden: j < i where j <= i is wanted.",
            "tril(s - n), not tril(s - n - 1).",
        ),
    ),
    (
        shows_the_future,
        (
            "May the first query see the last key?",
            "The upper triangle is kept; the past is the lower one.",
            "tril instead of triu.",
        ),
    ),
    (
        true_hides,
        (
            "What does True mean in this library's masks?",
            "The mask is True where looking is forbidden; here True = may look.",
            "Leave out the last `~` (or turn the comparison round): j <= i + s - n.",
        ),
    ),
    (
        to_be_added,
        (
            "Which dtype does the mask have?",
            "This is a mask to be added to scores; a boolean one is wanted, True = may look.",
            "torch.ones(n, s, dtype=torch.bool).tril(s - n)",
        ),
    ),
    (
        ones_and_zeros,
        (
            "Which dtype does the mask have?",
            "The ones and zeros stand in the right places, but as floating-point numbers.",
            "torch.ones(n, s, dtype=torch.bool)",
        ),
    ),
    (
        keys_by_queries,
        (
            "Print the shape for two queries and four keys.",
            "Rows should be queries, columns keys.",
            "torch.ones(n, s, ...), n first.",
        ),
    ),
    (
        square,
        (
            "Print the shape for two queries and four keys.",
            "The number of keys s is never used.",
            "torch.ones(n, s, dtype=torch.bool).tril(s - n)",
        ),
    ),
    (
        one_key_too_many,
        (
            "Which keys may the last but one query see?",
            "Every query sees one key ahead of itself.",
            "tril(s - n), not tril(s - n + 1).",
        ),
    ),
]


# ---- softmax


def without_the_maximum(scores, dim=-1):
    powers = scores.exp()
    return powers / powers.sum(dim, keepdim=True)


def normalised_over_everything(scores, dim=-1):
    powers = (scores - scores.max()).exp()
    return powers / powers.sum()


def always_the_last_axis(scores, dim=-1):
    return scores.softmax(-1)


def one_maximum_for_all(scores, dim=-1):
    powers = (scores - scores.max()).exp()
    return powers / powers.sum(dim, keepdim=True)


def the_logarithm(scores, dim=-1):
    return scores.log_softmax(dim)


def without_the_powers(scores, dim=-1):
    return scores / scores.sum(dim, keepdim=True)


def powers_of_two(scores, dim=-1):
    return (scores * math.log(2.0)).softmax(dim)


def each_number_alone(scores, dim=-1):
    return scores.sigmoid()


def largest_is_one(scores, dim=-1):
    return (scores - scores.amax(dim, keepdim=True)).exp()


SOFTMAX = [
    (
        without_the_maximum,
        (
            "What is exp(100) in float32?",
            "Large scores overflow. Subtracting one number from all scores of a row changes no weight.",
            "powers = (scores - scores.amax(dim, keepdim=True)).exp()",
        ),
    ),
    (
        normalised_over_everything,
        (
            "Add up the weights along `dim` alone.",
            "The sum runs over the whole tensor; each row along `dim` has its own.",
            "powers / powers.sum(dim, keepdim=True)",
        ),
    ),
    (
        always_the_last_axis,
        (
            "Try another axis than the last.",
            "The argument `dim` is never used.",
            "Give dim to amax and to sum, both with keepdim=True.",
        ),
    ),
    (
        one_maximum_for_all,
        (
            "Put one row a thousand above the others.",
            "One maximum is subtracted from all rows, so that lower rows become 0 / 0.",
            "scores.amax(dim, keepdim=True) instead of scores.max().",
        ),
    ),
    (
        the_logarithm,
        (
            "May a weight be negative?",
            "These are the logarithms of the weights.",
            "Return the powers over their sum, without the log.",
        ),
    ),
    (
        without_the_powers,
        (
            "What happens to a row with a negative score?",
            "The scores are divided by their sum; the formula takes exp first.",
            "powers = scores.exp(); powers / powers.sum(dim, keepdim=True), and then make it stable.",
        ),
    ),
    (
        powers_of_two,
        (
            "A score that is larger by 1 gives how many times the weight?",
            "The base is 2; the formula takes e.",
            "scores.exp() instead of 2 ** scores.",
        ),
    ),
    (
        each_number_alone,
        (
            "Do the weights sum to one?",
            "This is the sigmoid: it looks at each score alone.",
            "exp of each score over the sum of all of them along dim.",
        ),
    ),
    (
        largest_is_one,
        (
            "Do the weights sum to one?",
            "The powers are not divided by their sum.",
            "powers / powers.sum(dim, keepdim=True)",
        ),
    ),
]


# ---- padding_mask and block_mask


def one_token_too_many(lengths, s):
    return (torch.arange(s) <= lengths[:, None])[:, None, None]


def padding_is_true(lengths, s):
    return (torch.arange(s) >= lengths[:, None])[:, None, None]


def padded_on_the_left(lengths, s):
    return (torch.arange(s) >= s - lengths[:, None])[:, None, None]


def without_room_for_heads(lengths, s):
    return torch.arange(s) < lengths[:, None]


def first_length_for_all(lengths, s):
    return (torch.arange(s) < lengths[:1, None])[:, None, None].expand(len(lengths), 1, 1, s)


PADDING_MASK = [
    (
        one_token_too_many,
        (
            "How many places are True in a row of length 2?",
            "Places are counted from 0: a row of length 2 has tokens 0 and 1.",
            "torch.arange(s) < lengths, not <=.",
        ),
    ),
    (
        padding_is_true,
        (
            "What does True mean in this library's masks?",
            "The mask is True at the padding; here True = may look.",
            "torch.arange(s) < lengths[:, None]",
        ),
    ),
    (
        padded_on_the_left,
        (
            "Where does the padding stand, before the tokens or behind them?",
            "The tokens come first here and the padding follows.",
            "torch.arange(s) < lengths[:, None]",
        ),
    ),
    (
        without_room_for_heads,
        (
            "To which axes of b heads n s does a mask of b s broadcast?",
            "Broadcasting counts axes from the right: b would meet the queries.",
            'rearrange(mask, "b s -> b 1 1 s")',
        ),
    ),
    (
        first_length_for_all,
        (
            "Try two rows of different lengths.",
            "All rows get the length of the first.",
            "Compare with lengths[:, None], one length a row.",
        ),
    ),
]


def labels_of(lengths) -> Tensor:
    lengths = torch.as_tensor(lengths)
    return torch.arange(len(lengths)).repeat_interleave(lengths)


def other_blocks(lengths):
    label = labels_of(lengths)
    return label[:, None] != label[None, :]


def earlier_blocks_too(lengths):
    label = labels_of(lengths)
    return label[:, None] >= label[None, :]


def causal_inside_a_block(lengths):
    label = labels_of(lengths)
    return (label[:, None] == label[None, :]).tril()


def blocks_of_the_first_length(lengths):
    lengths = torch.as_tensor(lengths)
    label = torch.arange(int(lengths.sum())) // int(lengths[0])
    return label[:, None] == label[None, :]


def one_number_a_block(lengths):
    return torch.eye(len(lengths), dtype=torch.bool)


BLOCK_MASK = [
    (
        other_blocks,
        (
            "May a token look at itself?",
            "The comparison is the wrong way round.",
            "block[:, None] == block[None, :]",
        ),
    ),
    (
        earlier_blocks_too,
        (
            "May a token of the second block look at the first block?",
            "A token sees its own block only, not the ones before.",
            "== instead of >=.",
        ),
    ),
    (
        causal_inside_a_block,
        (
            "May the first token of a block look at the second?",
            "Inside a block every token sees every token, earlier or later.",
            "Leave out the tril.",
        ),
    ),
    (
        blocks_of_the_first_length,
        (
            "Try blocks of lengths 1 and 3.",
            "All blocks get the length of the first.",
            "torch.arange(len(lengths)).repeat_interleave(lengths) numbers the tokens by block.",
        ),
    ),
    (
        one_number_a_block,
        (
            "How many rows should the mask have for lengths 2 and 3?",
            "There is one row a block; one row a token is wanted.",
            "Number the tokens by block with repeat_interleave, then compare each with each.",
        ),
    ),
]


MISTAKES: dict[str, list[Mistake]] = {
    "attend": [Mistake(answer, hints) for wrong, hints in ATTEND for answer in in_every_blindness(wrong)],
    "causal_mask": [Mistake(*row) for row in CAUSAL_MASK],
    "softmax": [Mistake(*row) for row in SOFTMAX],
    "padding_mask": [Mistake(*row) for row in PADDING_MASK],
    "block_mask": [Mistake(*row) for row in BLOCK_MASK],
}


def probes(name: str) -> Iterator[tuple[tuple, dict]]:
    """Arguments on which every two of the mistakes above differ."""
    if name == "attend":
        query, key, value = normal(0, 2, 3, 4, 5), normal(1, 2, 3, 6, 5), normal(2, 2, 3, 6, 5)
        yield (query, key, value), {}
        yield (query, key[:, :, :4], value[:, :, :4]), {}  # as many keys as queries
        mask = normal(3, 2, 3, 4, 6) > 0
        mask[..., 1] |= ~mask.any(-1)
        yield (query, key, value, mask), {}
        mask = mask.clone()
        mask[:, :, 2] = False  # a query that may look nowhere
        mask[:, :, 1] = True  # and one that may look everywhere
        yield (query, key, value, mask), {}
        mask = mask.clone()
        mask[..., 3] = False  # a key that nobody may see
        yield (query, key, value, mask), {}
        loud = query.clone()
        loud[:, :, 0] *= 1000  # one query with scores that overflow
        yield (loud, key, value), {}
    elif name == "causal_mask":
        for n, s in ((3, 3), (2, 5), (4, 3)):
            yield (n, s), {}
    elif name == "softmax":
        scores = normal(4, 3, 4, 5)
        yield (scores,), {}
        yield (scores, 1), {}
        loud = scores.clone()
        loud[0] += 1000
        yield (loud,), {}
    elif name == "padding_mask":
        yield (torch.tensor([2, 5, 0]), 5), {}
    elif name == "block_mask":
        yield (torch.tensor([1, 3, 2]),), {}
