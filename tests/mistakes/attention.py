"""Classic wrong answers about attention, each with three hints of increasing directness."""

import functools
import inspect
import math
from collections.abc import Callable, Iterator

import torch
from strategies import normal
from torch import Tensor

from minivid.classroom.museum import Mistake, Probe
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


# ---- attention in blocks


def seen_in(mask: Tensor | None, like: Tensor) -> Tensor:
    """The mask at its full shape; everything seen where there is none."""
    return torch.ones_like(like, dtype=torch.bool) if mask is None else mask.expand(like.shape)


def running(
    query,
    key,
    value,
    mask,
    block_size,
    *,
    shrink=lambda before, after: ((before - after).exp(), (before - after).exp()),
    larger=torch.maximum,
    lowest=-1e30,
    blind=True,
    every_block=True,
    first_mask=False,
    scale=True,
):
    """The softmax that is mended as it runs; each mistake below changes one thing about it."""
    scores = scored(query, key) if scale else query @ key.mT
    seen = seen_in(mask, scores)
    most = torch.full_like(query[..., :1], lowest)
    total, mixed = torch.zeros_like(most), torch.zeros_like(query)
    s = key.shape[2]
    for start in range(0, s if every_block else s // block_size * block_size, block_size):
        block = slice(start, min(start + block_size, s))
        looks = seen[..., : block.stop - start] if first_mask else seen[..., block]
        part = scores[..., block].masked_fill(~looks, lowest)
        now = larger(most, part.amax(-1, keepdim=True)).detach()
        powers = (part - now).exp()
        powers = powers.masked_fill(~looks, 0.0) if blind else powers
        for_total, for_mixed = shrink(most, now)
        total = for_total * total + powers.sum(-1, keepdim=True)
        mixed = for_mixed * mixed + powers @ value[:, :, block]
        most = now
    return mixed / (total + (total == 0))


def never_mended(query, key, value, mask=None, *, block_size=256):
    return running(query, key, value, mask, block_size, shrink=lambda before, after: (1.0, 1.0))


def only_the_total_mended(query, key, value, mask=None, *, block_size=256):
    return running(query, key, value, mask, block_size, shrink=lambda before, after: ((before - after).exp(), 1.0))


def only_the_values_mended(query, key, value, mask=None, *, block_size=256):
    return running(query, key, value, mask, block_size, shrink=lambda before, after: (1.0, (before - after).exp()))


def grown_where_it_should_shrink(query, key, value, mask=None, *, block_size=256):
    return running(
        query,
        key,
        value,
        mask,
        block_size,
        shrink=lambda before, after: ((after - before).exp(), (after - before).exp()),
    )


def maximum_of_the_block_alone(query, key, value, mask=None, *, block_size=256):
    return running(query, key, value, mask, block_size, larger=lambda before, block: block)


def starts_at_minus_infinity(query, key, value, mask=None, *, block_size=256):
    return running(query, key, value, mask, block_size, lowest=-math.inf)


def starts_at_zero(query, key, value, mask=None, *, block_size=256):
    return running(query, key, value, mask, block_size, larger=lambda before, block: before.clamp_min(0).maximum(block))


def blind_blocks_count(query, key, value, mask=None, *, block_size=256):
    return running(query, key, value, mask, block_size, blind=False)


def last_block_forgotten(query, key, value, mask=None, *, block_size=256):
    return running(query, key, value, mask, block_size, every_block=False)


def mask_of_the_first_block(query, key, value, mask=None, *, block_size=256):
    return running(query, key, value, mask, block_size, first_mask=True)


def running_without_the_scale(query, key, value, mask=None, *, block_size=256):
    return running(query, key, value, mask, block_size, scale=False)


def softmax_of_each_block(query, key, value, mask=None, *, block_size=256):
    scores, outputs = scored(query, key), []
    seen = seen_in(mask, scores)
    for start in range(0, key.shape[2], block_size):
        block = slice(start, start + block_size)
        outputs.append(shared(scores[..., block], seen[..., block], "zeros") @ value[:, :, block])
    return torch.stack(outputs).mean(0)


ONLINE_ATTEND = [
    (
        never_mended,
        (
            "Let the largest score come in the last block. What are the powers of the first block worth then?",
            "Sums made with an old maximum are added to sums made with a new one.",
            "Before adding a block: total = (old - new).exp() * total, and the same for the values.",
        ),
    ),
    (
        only_the_total_mended,
        (
            "Two sums are carried from block to block. Do both know the new maximum?",
            "The total shrinks when a larger score comes, the sum of the values does not.",
            "mixed = (old - new).exp() * mixed + powers @ value",
        ),
    ),
    (
        only_the_values_mended,
        (
            "Two sums are carried from block to block. Do both know the new maximum?",
            "The sum of the values shrinks when a larger score comes, the total does not.",
            "total = (old - new).exp() * total + powers.sum(-1, keepdim=True)",
        ),
    ),
    (
        grown_where_it_should_shrink,
        (
            "A larger maximum comes. Should the old sums become larger or smaller?",
            "The factor is upside down: exp(new - old) grows.",
            "(old - new).exp(), never above 1.",
        ),
    ),
    (
        maximum_of_the_block_alone,
        (
            "Let the first block hold a score of 1000 and the second one of 0.",
            "The maximum of the last block replaces a larger one, and exp(old - new) overflows.",
            "new = torch.maximum(old, block.amax(-1, keepdim=True))",
        ),
    ),
    (
        starts_at_minus_infinity,
        (
            "What is minus infinity minus minus infinity?",
            "Where the first block shows a query nothing, its maximum stays -inf and exp(-inf - -inf) is NaN.",
            "Start at, and mask with, torch.finfo(dtype).min, and set masked powers to 0.",
        ),
    ),
    (
        starts_at_zero,
        (
            "What if every score of a query is -1000?",
            "The running maximum never falls below 0, so that the powers of a row of low scores all become 0.",
            "Start at the lowest finite number, torch.finfo(dtype).min.",
        ),
    ),
    (
        blind_blocks_count,
        (
            "What does a query get that may look nowhere?",
            "Where nothing was seen yet, a masked score equals the maximum, and its power is exp(0) = 1.",
            "powers = powers.masked_fill(~mask[..., block], 0.0)",
        ),
    ),
    (
        last_block_forgotten,
        (
            "Try five keys in blocks of two.",
            "s // block_size whole blocks are read; the rest of the keys is not.",
            "range(0, s, block_size): the last block may be shorter.",
        ),
    ),
    (
        mask_of_the_first_block,
        (
            "Mask one key of the second block. Does the output change?",
            "Every block gets the mask of the first keys.",
            "mask[..., block], with the slice that cuts the keys.",
        ),
    ),
    (
        running_without_the_scale,
        (
            "Take a single block: is it attend?",
            "The scores are not divided by sqrt(k).",
            "(query / math.sqrt(query.shape[-1])) @ key.mT",
        ),
    ),
    (
        softmax_of_each_block,
        (
            "Let one block hold a far better key than the other. How much should each block count?",
            "Every block gets a softmax of its own and counts as much as every other.",
            "Carry the maximum, the total of powers and the sum of values on from block to block; divide at the end.",
        ),
    ),
]


def by_rows(query, key, value, mask, block_size, answer) -> Tensor:
    scores = scored(query, key)
    seen = seen_in(mask, scores)
    starts = range(0, query.shape[2], block_size)
    blocks = [slice(start, start + block_size) for start in starts]
    return torch.cat([answer(scores[:, :, rows], seen[:, :, rows]) @ value for rows in blocks], 2)


def softmax_over_the_block(query, key, value, mask=None, *, block_size=256):
    return by_rows(query, key, value, mask, block_size, lambda scores, seen: shared(scores, seen, "zeros", dim=-2))


def one_maximum_a_block(query, key, value, mask=None, *, block_size=256):
    def weights(scores, seen):
        powers = (scores - scores.amax((-1, -2), keepdim=True)).exp() * seen
        return powers / powers.sum(-1, keepdim=True).clamp_min(1e-30)

    return by_rows(query, key, value, mask, block_size, weights)


def blind_rows_of_a_block_are_nan(query, key, value, mask=None, *, block_size=256):
    return by_rows(query, key, value, mask, block_size, lambda scores, seen: shared(scores, seen, "nan"))


def first_rows_of_the_mask(query, key, value, mask=None, *, block_size=256):
    first = seen_in(mask, scored(query, key))
    return by_rows(
        query, key, value, mask, block_size, lambda scores, _: shared(scores, first[:, :, : scores.shape[2]], "zeros")
    )


def last_queries_forgotten(query, key, value, mask=None, *, block_size=256):
    whole = query.shape[2] // block_size * block_size
    output = by_rows(query, key, value, mask, block_size, lambda scores, seen: shared(scores, seen, "zeros"))
    return torch.cat([output[:, :, :whole], torch.zeros_like(output[:, :, whole:])], 2)


def blocks_look_at_themselves(query, key, value, mask=None, *, block_size=256):
    scores = scored(query, key)
    near = torch.arange(query.shape[2])[:, None] // block_size == torch.arange(key.shape[2]) // block_size
    return shared(scores, seen_in(mask, scores) & near, "zeros") @ value


def written_into_a_copy(query, key, value, mask=None, *, block_size=256):
    return by_rows(query, key, value, mask, block_size, lambda scores, seen: shared(scores, seen, "zeros").detach())


def weights_come_too(query, key, value, mask=None, *, block_size=256):
    weights = shared(scored(query, key), mask, "zeros")
    return weights @ value, weights


BLOCK_ATTEND = [
    (
        softmax_over_the_block,
        (
            "Whose weights sum to one, a query's or a key's?",
            "The softmax runs over the queries of the block.",
            "The last axis, the keys: a block holds whole rows.",
        ),
    ),
    (
        one_maximum_a_block,
        (
            "Make one query a thousand times larger. What happens to the others of its block?",
            "One maximum is subtracted from all rows of a block, so that rows with lower scores become 0.",
            "scores.amax(-1, keepdim=True), one maximum a row.",
        ),
    ),
    (
        blind_rows_of_a_block_are_nan,
        (
            "What does a query get that may look nowhere?",
            "A row of -inf alone is 0 / 0.",
            "Subtract scores.amax(-1, keepdim=True).clamp_min(lowest) and divide by total.clamp_min(1).",
        ),
    ),
    (
        first_rows_of_the_mask,
        (
            "Mask something for the last query only. Does its output change?",
            "Every block of queries gets the first rows of the mask.",
            "mask[..., rows, :], with the slice that cuts the queries.",
        ),
    ),
    (
        last_queries_forgotten,
        (
            "Try five queries in blocks of two.",
            "n // block_size whole blocks are answered; the rest of the queries is not.",
            "range(0, n, block_size): the last block may be shorter.",
        ),
    ),
    (
        blocks_look_at_themselves,
        (
            "May a query of the second block see a key of the first?",
            "Queries and keys are both cut, so that a query sees the keys of its own block only.",
            "Cut the queries; every block looks at all keys.",
        ),
    ),
    (
        written_into_a_copy,
        (
            "The output is right. Ask for the gradient of the query.",
            "The weights are cut off from the graph, by detach() or by computing them under no_grad().",
            "Leave the weights in the graph, or write an autograd.Function with its backward pass.",
        ),
    ),
    (
        weights_come_too,
        (
            "What should come back, and what would keeping the weights cost?",
            "The n x s weights are what this function is there to avoid; the output alone comes back.",
            "return output",
        ),
    ),
]


MISTAKES: dict[str, list[Mistake]] = {
    "attend": [Mistake(answer, hints) for wrong, hints in ATTEND for answer in in_every_blindness(wrong)],
    "causal_mask": [Mistake(*row) for row in CAUSAL_MASK],
    "softmax": [Mistake(*row) for row in SOFTMAX],
    "padding_mask": [Mistake(*row) for row in PADDING_MASK],
    "block_mask": [Mistake(*row) for row in BLOCK_MASK],
    "online_attend": [Mistake(*row) for row in ONLINE_ATTEND],
    "block_attend": [Mistake(*row) for row in BLOCK_ATTEND],
}


def probes(name: str) -> Iterator[Probe]:
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
    elif name in ("online_attend", "block_attend"):
        query, key, value = normal(0, 2, 3, 5, 4), normal(1, 2, 3, 7, 4), normal(2, 2, 3, 7, 4)
        mask = normal(3, 2, 3, 5, 7) > 0
        mask[..., :2, :2] = False  # the first block of keys shows two queries nothing
        mask[..., 3] = True
        yield (query, key, value), {"block_size": 2}
        yield (query, key, value, mask), {"block_size": 2}
        mask = mask.clone()
        mask[:, :, 1] = False  # a query that may look nowhere
        yield (query, key, value, mask), {"block_size": 2}
        loud = query.clone()
        loud[:, :, 0] *= 1000
        yield (loud, key, value), {"block_size": 2}
        yield (query.abs(), -1000 * key.abs(), value), {"block_size": 2}  # low scores alone

        def gradient(answer):
            asks = query.clone().requires_grad_()
            output = answer(asks, key, value, block_size=2)
            return torch.autograd.grad(output.sum(), asks)

        yield gradient
