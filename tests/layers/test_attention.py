"""Attention: softmax, attend, masks, and the multi-head module beside torch's."""

import inspect
import math
import re

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import masks, normal, seeds, small, whole
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from minivid.classroom.evidence import Broken, agree, holds
from minivid.layers import attention, linear
from minivid.layers.attention import (
    MultiHeadAttention,
    attend,
    attention_weights,
    block_attend,
    block_mask,
    causal_mask,
    online_attend,
    padding_mask,
    softmax,
)
from minivid.layers.kv_cache import KVCache
from minivid.layers.positions import rotary_angles, rotate, turns
from minivid.shapes import ShapeError

few = st.integers(1, 3)


def exactly(message: str) -> str:
    """The pattern of this message, whole."""
    return f"^{re.escape(message)}$"


@st.composite
def queries_keys_values(draw):
    """Whole numbers in four sizes that differ often, n != s among them."""
    b, heads, n, s, k = draw(st.tuples(st.integers(1, 2), st.integers(1, 2), few, few, small))
    return draw(whole(b, heads, n, k)), draw(whole(b, heads, s, k)), draw(whole(b, heads, s, k))


@st.composite
def queries_keys_values_mask(draw):
    """The same with a mask of b heads n s, in which every query may look somewhere."""
    query, key, value = draw(queries_keys_values())
    mask = draw(masks(*query.shape[:3], key.shape[2]))
    seen = draw(st.integers(0, key.shape[2] - 1))
    mask[..., seen] |= ~mask.any(-1)
    return query, key, value, mask


@st.composite
def quick_case(draw):
    """The same as queries_keys_values for laws that come late: numbers from a seed are drawn faster, shrink less."""
    b, heads, n, s, k, seed = draw(st.tuples(st.integers(1, 2), st.integers(1, 2), few, few, small, seeds))
    return tuple(normal(seed + i, b, heads, m, k).mul(1.5).round() for i, m in enumerate((n, s, s)))


@st.composite
def quick_case_mask(draw):
    """The same with a mask, in which every query may look somewhere."""
    query, key, value = draw(quick_case())
    mask = normal(draw(seeds), *query.shape[:3], key.shape[2]) > 0
    mask[..., draw(st.integers(0, key.shape[2] - 1))] |= ~mask.any(-1)
    return query, key, value, mask


def attended(impl, query, key, value, mask=None) -> tuple[Tensor, Tensor]:
    """The answer's (output, weights), of the right shapes; every law of attend goes through here."""
    result = impl.attend(query, key, value) if mask is None else impl.attend(query, key, value, mask)
    case = dict(query=query, key=key, value=value, mask=mask)
    if isinstance(result, Tensor):
        raise Broken("attend returns (output, weights); one tensor came back. End with: return output, weights", case)
    holds(isinstance(result, tuple) and len(result) == 2, "attend returns (output, weights), a tuple of two", **case)
    for name, got, want in (
        ("output", result[0], query.shape),
        ("weights", result[1], (*query.shape[:3], key.shape[2])),
    ):
        axes = "b heads n k" if name == "output" else "b heads n s"
        holds(isinstance(got, Tensor), f"the {name} is a {type(got).__name__}, expected a tensor {axes}", **case)
        holds(got.shape == want, f"the {name} has shape {tuple(got.shape)}, expected {axes} = {tuple(want)}", **case)
    return result


def written_out(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The definition in double precision, one query at a time; only for queries that may look somewhere."""
    output = torch.zeros(query.shape, dtype=torch.float64)
    weights = torch.zeros(*query.shape[:3], key.shape[2], dtype=torch.float64)
    for b, heads, n in torch.cartesian_prod(*(torch.arange(size) for size in query.shape[:3])).view(-1, 3).tolist():
        asks = query[b, heads, n].double()
        seen = [s for s in range(key.shape[2]) if mask is None or mask[b, heads, n, s]]
        scores = [float(asks @ key[b, heads, s].double()) / math.sqrt(query.shape[3]) for s in seen]
        powers = [math.exp(score - max(scores)) for score in scores]
        for s, power in zip(seen, powers, strict=True):
            weights[b, heads, n, s] = power / sum(powers)
            output[b, heads, n] += power / sum(powers) * value[b, heads, s].double()
    return output, weights


# ---- laws of softmax


@pytest.mark.law("softmax")
@given(few.flatmap(lambda n: small.flatmap(lambda s: whole(n, s))))
def test_softmax_is_the_powers_over_their_sum(impl, scores):
    """softmax(x)_j = exp(x_j) / sum_i exp(x_i) along the last axis."""
    powers = [[math.exp(x) for x in row] for row in scores.tolist()]
    want = torch.tensor([[x / sum(row) for x in row] for row in powers])
    agree(impl.softmax(scores), want, "the weights are not exp(x) over the sum of exp(x)", axes="n s", scores=scores)


@pytest.mark.law("softmax")
@given(whole(2, 3), whole(2, 1))
def test_softmax_does_not_see_a_shift(impl, scores, shift):
    """A number added to every score of a row changes no weight, be it a thousand, and another one in each row."""
    shifted = scores + 1000.0 * shift
    agree(
        impl.softmax(shifted), F.softmax(scores, -1), "a shifted score gives another weight", axes="n s", scores=shifted
    )


@pytest.mark.law("softmax")
@given(whole(2, 3, 4), st.sampled_from([0, 1, 2, -1, -2]))
def test_softmax_runs_along_the_axis_it_is_given(impl, scores, dim):
    """The weights sum to one along `dim`, and only there are they normalised."""
    agree(impl.softmax(scores, dim), F.softmax(scores, dim), "softmax along another axis", scores=scores, dim=dim)


# ---- laws of attend, from the first things to get right to the last


@pytest.mark.law("attend")
@given(queries_keys_values())
def test_attend_returns_output_and_weights(impl, case):
    """Two tensors come back: the output, of the query's shape, and the weights, one for each query and key."""
    attended(impl, *case)


@pytest.mark.law("attend")
@given(queries_keys_values())
def test_attend_gives_every_query_weights_that_sum_to_one(impl, case):
    """The weights of a query are never negative and sum to one over the keys."""
    _, weights = attended(impl, *case)
    query, key, _ = case
    holds(bool((weights >= 0).all()), "a weight is negative or not a number", query=query, key=key, weights=weights)
    total = weights.sum(-1)
    claim = "the weights of a query do not sum to one over the keys"
    agree(total, torch.ones_like(total), claim, axes="b heads n", query=query, key=key, weights=weights)


@pytest.mark.law("attend")
@given(queries_keys_values())
def test_attend_equals_the_sum_written_out(impl, case):
    """softmax(query key^T / sqrt(k)) value, term by term."""
    query, key, value = case
    output, weights = attended(impl, *case)
    want_output, want_weights = written_out(*case)
    claim = "the weights differ from exp(q.k / sqrt(k)) over its sum"
    agree(weights, want_weights, claim, axes="b heads n s", query=query, key=key)
    claim = "the output differs from the weights times the values"
    agree(output, want_output, claim, axes="b heads n k", value=value, weights=want_weights)


@pytest.mark.law("attend")
@given(queries_keys_values_mask())
def test_attend_shares_one_among_the_keys_a_query_may_see(impl, case):
    """With a mask, the sum is written over the keys where it is True, and the weights still sum to one."""
    query, key, value, mask = case
    output, weights = attended(impl, *case)
    want_output, want_weights = written_out(*case)
    agree(weights, want_weights, "the masked weights differ", axes="b heads n s", query=query, key=key, mask=mask)
    agree(output, want_output, "the masked output differs", axes="b heads n k", value=value, weights=want_weights)


@pytest.mark.law("attend")
@given(quick_case_mask())
def test_attend_stays_finite_when_scores_are_large(impl, case):
    """Scores in the thousands choose the best key, or share between equals; nothing overflows."""
    query, key, value, mask = case
    loud = query * 1e4
    output, weights = attended(impl, loud, key, value, mask)
    want, want_weights = written_out(loud, key, value, mask)
    agree(weights, want_weights, "large scores spoil the weights", axes="b heads n s", query=loud, key=key, mask=mask)
    agree(
        output, want, "large scores spoil the output", axes="b heads n k", query=loud, key=key, value=value, mask=mask
    )


@pytest.mark.law("attend")
@given(quick_case_mask())
def test_attend_never_reads_what_is_masked(impl, case):
    """A key and a value that no query may see can be anything."""
    query, key, value, mask = case
    hidden = ~mask.any(2)
    loud_key, loud_value = (x.masked_fill(hidden[..., None], 1e4) for x in (key, value))
    want, _ = written_out(query, key, value, mask)
    got, _ = attended(impl, query, loud_key, loud_value, mask)
    claim = "a masked key or value was read"
    agree(got, want, claim, axes="b heads n k", query=query, key=loud_key, value=loud_value, mask=mask)


@pytest.mark.law("attend")
@given(quick_case_mask())
def test_attend_takes_any_mask_that_broadcasts(impl, case):
    """A mask of n s, or of b 1 1 s, counts for every clip and head it is not given for."""
    query, key, value, mask = case
    for part in (mask[0, 0], mask[:, :1], mask[:, :1, :1]):
        got, _ = attended(impl, query, key, value, part)
        want, _ = attended(impl, query, key, value, part.expand(mask.shape).clone())
        claim = f"a mask of shape {tuple(part.shape)} is not the same as that mask repeated"
        agree(got, want, claim, axes="b heads n k", query=query, key=key, value=value, mask=part)


@pytest.mark.law("attend")
@given(quick_case_mask(), st.data())
def test_attend_gives_a_blind_query_zeros(impl, case, data):
    """A query that may look nowhere gets zeros, as output and as weights, not NaN and not a mean."""
    query, key, value, mask = case
    blind = normal(data.draw(seeds), *mask.shape[:3]) > 0
    blind[0, 0, 0] = True
    mask = mask & ~blind[..., None]
    output, weights = attended(impl, query, key, value, mask)
    shown = dict(query=query, key=key, value=value, mask=mask)
    agree(
        output[blind],
        torch.zeros_like(output[blind]),
        "the output of a query that sees nothing is not 0",
        axes="blind k",
        **shown,
    )
    agree(
        weights[blind],
        torch.zeros_like(weights[blind]),
        "the weights of a query that sees nothing are not 0",
        axes="blind s",
        **shown,
    )
    want, _ = written_out(query, key, value, mask | blind[..., None])
    agree(output[~blind], want.float()[~blind], "a blind query disturbs the other queries", axes="seeing k", **shown)


@pytest.mark.law("attend")
@given(quick_case_mask())
def test_attend_sends_a_blind_query_no_gradient(impl, case):
    """The gradient of a query that may look nowhere is zero, and every other gradient is finite."""
    query, key, value, mask = case
    mask = mask.clone()
    mask[:, :, 0] = False
    inputs = [x.clone().requires_grad_() for x in (query, key, value)]
    output, _ = attended(impl, *inputs, mask)
    gradients = torch.autograd.grad(output.square().sum() + output.sum(), inputs)
    shown = dict(query=query, key=key, value=value, mask=mask)
    for name, gradient in zip(("query", "key", "value"), gradients, strict=True):
        holds(
            bool(gradient.isfinite().all()),
            f"the gradient of the {name} is not finite",
            **shown,
        )
    blind = gradients[0][:, :, 0]
    agree(blind, torch.zeros_like(blind), "a query that sees nothing gets a gradient", query=query, key=key, mask=mask)


@pytest.mark.law("attend")
@given(quick_case(), seeds)
def test_attend_does_not_see_the_order_of_keys(impl, case, seed):
    """Keys and values in another order, both in the same one, change no output."""
    query, key, value = case
    order = torch.randperm(key.shape[2], generator=torch.Generator().manual_seed(seed))
    want, want_weights = attended(impl, *case)
    got, weights = attended(impl, query, key[:, :, order], value[:, :, order])
    agree(got, want, "the order of the keys changes the output", query=query, key=key, value=value, order=order)
    agree(weights, want_weights[..., order], "the weights do not follow their keys", query=query, key=key, order=order)


@pytest.mark.law("attend")
@given(quick_case(), seeds)
def test_attend_answers_queries_one_by_one(impl, case, seed):
    """Queries in another order give the same outputs in that order."""
    query, key, value = case
    order = torch.randperm(query.shape[2], generator=torch.Generator().manual_seed(seed))
    want, _ = attended(impl, *case)
    got, _ = attended(impl, query[:, :, order], key, value)
    agree(
        got, want[:, :, order], "an output depends on the other queries", query=query, key=key, value=value, order=order
    )


@pytest.mark.law("attend")
@given(quick_case())
def test_attend_keeps_clips_and_heads_apart(impl, case):
    """Each clip and each head gives what it gives alone."""
    output, _ = attended(impl, *case)
    shown = dict(zip(("query", "key", "value"), case, strict=True))
    for b in range(output.shape[0]):
        for head in range(output.shape[1]):
            alone = [x[b : b + 1, head : head + 1] for x in case]
            want, _ = attended(impl, *alone)
            claim = f"clip {b}, head {head} gives something else when it stands alone"
            agree(output[b, head], want[0, 0], claim, axes="n k", **shown)


@pytest.mark.law("attend")
@given(quick_case())
def test_attend_stays_between_the_values(impl, case):
    """An average is never above the largest value nor below the smallest."""
    output, _ = attended(impl, *case)
    value = case[2]
    inside = (output <= value.amax(2, keepdim=True) + 1e-5) & (output >= value.amin(2, keepdim=True) - 1e-5)
    holds(bool(inside.all()), "an output lies outside the range of the values", value=value, output=output)


@pytest.mark.law("attend")
@given(quick_case(), st.data())
def test_attend_does_not_see_a_vector_added_to_all_keys(impl, case, data):
    """A vector added to every key shifts all scores of a query alike, and changes nothing."""
    query, key, value = case
    vector = data.draw(whole(query.shape[3]))
    want, _ = attended(impl, *case)
    got, _ = attended(impl, query, key + vector, value)
    agree(got, want, "a vector added to all keys changes the output", query=query, key=key, value=value, vector=vector)


# ---- laws of attention in blocks: any block size gives what attend gives

sizes = st.integers(1, 4)


def in_blocks(name, impl, query, key, value, mask, size) -> Tensor:
    """The output of the answer, of the right shape."""
    got = getattr(impl, name)(query, key, value, mask, block_size=size)
    holds(isinstance(got, Tensor), f"{name} returns the output alone, one tensor", got=type(got).__name__)
    return got


def blocks_give_the_output(name, impl, case, size, atol=1e-5):
    query, key, value, mask = (*case, None)[:4]
    want, _ = written_out(query, key, value, mask)
    got = in_blocks(name, impl, query, key, value, mask, size)
    shown = dict(query=query, key=key, value=value, mask=mask, block_size=size)
    claim = "the output in blocks is not the output of attend"
    agree(got, want.float(), claim, axes="b heads n k", atol=atol, **shown)


def blind_queries_get_zeros(name, impl, case, size, seed):
    query, key, value, mask = case
    blind = normal(seed, *mask.shape[:3]) > 0
    blind[0, 0, 0] = True
    mask = mask & ~blind[..., None]
    want, _ = attend(query, key, value, mask)
    got = in_blocks(name, impl, query, key, value, mask, size)
    shown = dict(query=query, key=key, value=value, mask=mask, block_size=size)
    agree(got, want, "a query that sees nothing does not get zeros, or disturbs the others", **shown)


def gradients_are_the_same(name, impl, case, size):
    query, key, value, mask = case
    mask = mask.clone()
    mask[:, :, 0] = False
    results = []
    for function in (lambda *x: in_blocks(name, impl, *x, size), lambda *x: attend(*x)[0]):
        inputs = [x.clone().requires_grad_() for x in (query, key, value)]
        output = function(*inputs, mask)
        holds(output.requires_grad, "the output is cut off from its inputs: no gradient goes back", block_size=size)
        results.append(torch.autograd.grad(output.square().sum() + output.sum(), inputs))
    shown = dict(query=query, key=key, value=value, mask=mask, block_size=size)
    for which, got, want in zip(("query", "key", "value"), *results, strict=True):
        agree(got, want, f"the gradient of the {which} is not that of attend", atol=1e-4, **shown)


@pytest.mark.law("online_attend")
@given(queries_keys_values(), sizes)
def test_online_attend_gives_the_output_for_any_block_size(impl, case, size):
    """Read in blocks of any size, the keys give the output of attend."""
    blocks_give_the_output("online_attend", impl, case, size)


@pytest.mark.law("online_attend")
@given(quick_case_mask(), sizes)
def test_online_attend_takes_a_mask(impl, case, size):
    """With a mask, also where a block holds no key that a query may see."""
    blocks_give_the_output("online_attend", impl, case, size)


@pytest.mark.law("online_attend")
@given(quick_case_mask(), sizes)
def test_online_attend_stays_finite_when_scores_are_large(impl, case, size):
    """Scores in the thousands, rising or falling from block to block, overflow nowhere."""
    query, *rest = case
    # float32 numbers near the largest scores, some 5000, are 5e-4 apart: two equal scores differ by so much.
    blocks_give_the_output("online_attend", impl, (query * 300, *rest), size, atol=1e-2)


@pytest.mark.law("online_attend")
@given(quick_case_mask(), sizes, seeds)
def test_online_attend_gives_a_blind_query_zeros(impl, case, size, seed):
    """A query that may look nowhere gets zeros, not NaN and not a mean."""
    blind_queries_get_zeros("online_attend", impl, case, size, seed)


@pytest.mark.law("online_attend")
@given(quick_case_mask(), sizes)
def test_online_attend_has_the_gradients_of_attend(impl, case, size):
    """The gradients are those of attend, and a blind query gets none."""
    gradients_are_the_same("online_attend", impl, case, size)


@pytest.mark.law("block_attend")
@given(queries_keys_values(), sizes)
def test_block_attend_gives_the_output_for_any_block_size(impl, case, size):
    """Answered in blocks of any size, the queries get the output of attend."""
    blocks_give_the_output("block_attend", impl, case, size)


@pytest.mark.law("block_attend")
@given(quick_case_mask(), sizes)
def test_block_attend_takes_a_mask(impl, case, size):
    """Each block of queries takes its own rows of the mask."""
    blocks_give_the_output("block_attend", impl, case, size)


@pytest.mark.law("block_attend")
@given(quick_case_mask(), sizes)
def test_block_attend_stays_finite_when_scores_are_large(impl, case, size):
    """Scores in the thousands overflow nowhere, and one loud query does not silence its block."""
    query, *rest = case
    loud = query.clone()
    loud[:, :, 0] *= 300
    # float32 numbers near the largest scores, some 5000, are 5e-4 apart: two equal scores differ by so much.
    blocks_give_the_output("block_attend", impl, (loud, *rest), size, atol=1e-2)


@pytest.mark.law("block_attend")
@given(quick_case_mask(), sizes, seeds)
def test_block_attend_gives_a_blind_query_zeros(impl, case, size, seed):
    """A query that may look nowhere gets zeros, not NaN and not a mean."""
    blind_queries_get_zeros("block_attend", impl, case, size, seed)


@pytest.mark.law("block_attend")
@given(quick_case_mask(), sizes)
def test_block_attend_has_the_gradients_of_attend(impl, case, size):
    """The gradients are those of attend, and a blind query gets none."""
    gradients_are_the_same("block_attend", impl, case, size)


# ---- laws of the masks


@pytest.mark.law("causal_mask")
@given(small, small)
def test_causal_mask_ends_at_the_last_key(impl, n, s):
    """Query i may see key j when j <= i + s - n: the last query sees every key, the one before all but one."""
    want = torch.tensor([[j <= i + s - n for j in range(s)] for i in range(n)])
    got = impl.causal_mask(n, s)
    holds(isinstance(got, Tensor) and got.dtype == torch.bool, "the mask is not a boolean tensor", n=n, s=s, got=got)
    agree(got.int(), want.int(), "the mask shows the future or hides the past", axes="n s", n=n, s=s)


@pytest.mark.law("padding_mask")
@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(4, 6))
def test_padding_mask_shows_the_tokens_and_hides_the_rest(impl, lengths, s):
    """Key j of row b may be seen when j < lengths[b]."""
    want = torch.tensor([[[[j < length for j in range(s)]]] for length in lengths])
    agree(impl.padding_mask(torch.tensor(lengths), s), want, "padding shown", axes="b 1 1 s", lengths=lengths, s=s)


@pytest.mark.law("block_mask")
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_block_mask_shows_a_token_its_own_block(impl, lengths):
    """Two tokens see each other when they are of one block, and blocks follow each other."""
    block = [i for i, length in enumerate(lengths) for _ in range(length)]
    want = torch.tensor([[i == j for j in block] for i in block])
    agree(impl.block_mask(torch.tensor(lengths)), want, "blocks mixed", axes="n n", lengths=lengths)


# ---- attend: torch as the oracle, gradients, and what a law cannot ask


@given(small, small, small, small, small, seeds)
def test_attend_equals_torch(b, heads, n, s, k, seed):
    # float64 and sums of at most 4 terms: 1e-12 is rounding.
    query, key, value = (normal(seed + i, b, heads, m, k, dtype=torch.float64) for i, m in enumerate((n, s, s)))
    mask = normal(seed + 3, b, heads, n, s) > 0  # blind rows among them: torch gives zeros there too
    for given_mask in (None, mask, mask[:1, :1]):
        output, _ = attend(query, key, value, given_mask)
        torch.testing.assert_close(
            output, F.scaled_dot_product_attention(query, key, value, given_mask), atol=1e-12, rtol=0
        )


def test_attend_passes_gradcheck_with_a_blind_row():
    query, key, value = (normal(i, 1, 2, m, 3, dtype=torch.float64).requires_grad_() for i, m in enumerate((3, 5, 5)))
    mask = normal(3, 3, 5) > 0
    mask[1] = False
    assert torch.autograd.gradcheck(lambda *x: attend(*x, mask), (query, key, value))
    assert torch.autograd.gradgradcheck(lambda *x: attend(*x, mask)[0], (query, key, value))


def test_no_step_of_a_blind_row_is_nan():
    query, key, value = (normal(i, 1, 1, m, 3).requires_grad_() for i, m in enumerate((2, 5, 5)))
    with torch.autograd.set_detect_anomaly(True):
        output, weights = attend(query, key, value, torch.zeros(2, 5, dtype=torch.bool))
        (output.sum() + weights.square().sum()).backward()
    for tensor in (output, weights, query.grad, key.grad, value.grad):
        assert torch.equal(tensor, torch.zeros_like(tensor))


def test_attend_leaves_its_inputs_alone():
    case = [normal(i, 1, 2, 3, 5) for i in range(3)] + [normal(3, 3, 3) > 0]
    before = [x.clone() for x in case]
    attend(*case)
    assert all(torch.equal(x, y) for x, y in zip(case, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_masks_without_overflow(dtype):
    query, key, value = (normal(i, 1, 2, 3, 5).to(dtype) for i in range(3))
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, False]])
    output, weights = attend(query, key, value, mask)
    want, _ = attend(query.float(), key.float(), value.float(), mask)
    assert output.dtype == dtype
    assert torch.equal(weights[:, :, 1], torch.zeros(1, 2, 3, dtype=dtype))
    # bfloat16 keeps 8 bits: 2^-8 on values up to about 3.
    torch.testing.assert_close(output.float(), want, atol=3e-2, rtol=0)


def test_attention_by_hand():
    # One query, two keys. Scores 2 ln 3 / sqrt(4) = ln 3 and 0: weights 3/4 and 1/4.
    query = torch.tensor([2 * math.log(3.0), 0.0, 0.0, 0.0]).view(1, 1, 1, 4)
    key = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]).view(1, 1, 2, 4)
    value = torch.tensor([[4.0, 0.0, 1.0, 0.0], [0.0, 8.0, 1.0, 0.0]]).view(1, 1, 2, 4)
    output, weights = attend(query, key, value)
    torch.testing.assert_close(weights, torch.tensor([0.75, 0.25]).view(1, 1, 1, 2))
    torch.testing.assert_close(output, torch.tensor([3.0, 2.0, 1.0, 0.0]).view(1, 1, 1, 4))


def test_softmax_passes_gradcheck():
    scores = normal(0, 3, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(softmax, scores)
    assert torch.autograd.gradgradcheck(lambda x: softmax(x, 0), scores)


def test_softmax_gives_minus_infinity_no_weight():
    scores = torch.tensor([0.0, -math.inf, math.log(3.0)])
    torch.testing.assert_close(softmax(scores), torch.tensor([0.25, 0.0, 0.75]))


UNLIKE = "expected b heads n k and b heads s k with the same b, heads and k"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 3, 5, 7), (2, 3, 11, 13)), f"query (2, 3, 5, 7) and key (2, 3, 11, 13): {UNLIKE}"),
        (((2, 3, 5, 7), (1, 3, 11, 7)), f"query (2, 3, 5, 7) and key (1, 3, 11, 7): {UNLIKE}"),
        (((2, 3, 5, 7), (2, 4, 11, 7)), f"query (2, 3, 5, 7) and key (2, 4, 11, 7): {UNLIKE}"),
        (((3, 5, 7), (3, 11, 7)), f"query (3, 5, 7) and key (3, 11, 7): {UNLIKE}"),
        (((3, 5, 7), (2, 3, 11, 7)), f"query (3, 5, 7) and key (2, 3, 11, 7): {UNLIKE}"),
        (((2, 3, 5, 7), (2, 3, 7)), f"query (2, 3, 5, 7) and key (2, 3, 7): {UNLIKE}"),
        (((2, 3, 5, 7), (2, 3, 5, 7, 1)), f"query (2, 3, 5, 7) and key (2, 3, 5, 7, 1): {UNLIKE}"),
        (
            ((2, 3, 5, 7), (2, 3, 11, 7), (2, 3, 13, 7)),
            "value: shape (2, 3, 13, 7), expected the key's (2, 3, 11, 7) (b heads s k); "
            "every key comes with one value of its width",
        ),
        (((2, 3, 5, 7), (2, 3, 0, 7)), "key (2, 3, 0, 7): s=0, expected at least one token to look at"),
        *(
            (
                ((2, 3, 5, 7), (2, 3, 11, 7), (2, 3, 11, 7), mask),
                f"mask: shape {mask} does not broadcast to b heads n s = (2, 3, 5, 11); "
                "a mask of b s over padded keys is given as b 1 1 s",
            )
            for mask in ((2, 11), (3, 1, 1, 11), (1, 1, 1, 5, 11), (5, 2))
        ),
    ],
)
def test_attend_names_the_shapes_that_do_not_fit(shapes, message):
    query, key = (torch.zeros(shape) for shape in shapes[:2])
    value = torch.zeros(shapes[2] if len(shapes) > 2 else shapes[1])
    mask = torch.ones(shapes[3], dtype=torch.bool) if len(shapes) > 3 else None
    with pytest.raises(ShapeError, match=exactly(message)):
        attend(query, key, value, mask)
    if value.shape == key.shape:
        with pytest.raises(ShapeError, match=exactly(message)):
            attention_weights(query, key, mask)


@pytest.mark.usefixtures("unchecked")
def test_attend_refuses_a_mask_that_is_added():
    x, tokens = torch.zeros(1, 2, 3, 5), torch.zeros(1, 3, 6)
    message = exactly(
        "mask: torch.float32, expected torch.bool with True = may look; of an additive mask take `mask == 0`"
    )
    for call in (
        lambda mask: attend(x, x, x, mask),
        lambda mask: attention_weights(x, x, mask),
        *(lambda mask, k=k: MultiHeadAttention(6, 2, kernel=k)(tokens, mask=mask) for k in attention.KERNELS),
        lambda mask: MultiHeadAttention(6, 2).attention_weights(tokens, mask=mask),
    ):
        with pytest.raises(TypeError, match=message):
            call(torch.zeros(3, 3))


def test_padding_mask_names_a_row_that_is_too_long():
    message = "expected 0 to s=5; a row cannot hold more tokens than keys"
    with pytest.raises(ShapeError, match=exactly(f"lengths: [3, 7], {message}")):
        padding_mask(torch.tensor([3, 7]), 5)
    with pytest.raises(ShapeError, match=exactly(f"lengths: [5, -1], {message}")):
        padding_mask(torch.tensor([5, -1]), 5)


def test_masks_stand_where_their_lengths_do():
    lengths = torch.tensor([2, 3])
    with torch.device("meta"):  # where new tensors go unless they are told
        mask = padding_mask(lengths, 3)
    assert mask.device.type == "cpu"
    assert mask.tolist() == [[[[True, True, False]]], [[[True, True, True]]]]
    assert causal_mask(2, 3, device="meta").device.type == "meta"
    assert causal_mask(2, 3).device.type == "cpu"


def test_block_mask_takes_a_list():
    assert torch.equal(block_mask([2, 3]), block_mask(torch.tensor([2, 3])))


# ---- attention in blocks: torch as the oracle, memory, and what a law cannot ask

BLOCKED = pytest.mark.parametrize("blocked", [online_attend, block_attend])


@BLOCKED
@given(small, small, st.integers(1, 7), st.integers(1, 7), small, st.integers(1, 8), seeds)
def test_attention_in_blocks_equals_torch(blocked, b, heads, n, s, k, size, seed):
    # float64, sums of at most 7 terms, and 2^x for e^x: 1e-12 is rounding.
    query, key, value = (normal(seed + i, b, heads, m, k, dtype=torch.float64) for i, m in enumerate((n, s, s)))
    mask = normal(seed + 3, b, heads, n, s) > 0
    for given_mask in (None, mask, mask[:1, :1], mask[0, 0]):
        want = F.scaled_dot_product_attention(query, key, value, given_mask)
        torch.testing.assert_close(blocked(query, key, value, given_mask, block_size=size), want, atol=1e-12, rtol=0)


@BLOCKED
def test_attention_in_blocks_passes_gradcheck_with_a_blind_row(blocked):
    query, key, value = (normal(i, 2, 2, m, 3, dtype=torch.float64).requires_grad_() for i, m in enumerate((3, 5, 5)))
    mask = normal(3, 3, 5) > 0
    mask[1] = False
    for given_mask in (None, mask):
        assert torch.autograd.gradcheck(lambda *x, m=given_mask: blocked(*x, m, block_size=2), (query, key, value))


def test_blocks_are_equal_and_no_larger_than_asked(monkeypatch):
    asked = []

    class Watch:
        @staticmethod
        def apply(query, key, value, mask, query_block, key_block):
            asked.append((query_block, key_block))
            return (query,)

    monkeypatch.setattr(attention, "_Blocks", Watch)
    for n, s, size in ((7, 9, 3), (8, 9, 5), (8, 9, 8), (8, 10, 100), (1, 9, 4), (9, 1, 1), (9, 5, 2), (0, 7, 6)):
        block_attend(torch.zeros(1, 1, n, 2), torch.zeros(1, 1, s, 2), torch.zeros(1, 1, s, 2), block_size=size)
    assert asked == [(3, 1), (4, 2), (8, 3), (8, 10), (1, 2), (1, 1), (2, 1), (1, 3)]


def test_no_query_gets_no_answer():
    query, key = torch.zeros(2, 3, 0, 5), normal(0, 2, 3, 7, 5)
    for function in (block_attend, online_attend, lambda *x: attend(*x)[0]):
        assert function(query, key, key).shape == (2, 3, 0, 5)


def test_block_sizes_that_are_not_given_are_those_that_are_written_down():
    sizes = [inspect.signature(function).parameters["block_size"].default for function in (online_attend, block_attend)]
    assert sizes == [256, 1024]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
def test_the_operators_keep_what_they_promise_to_the_compiler(dtype, masked):
    query, key, value = (normal(i, 2, 3, m, 5).to(dtype) for i, m in enumerate((4, 7, 7)))
    mask = (normal(3, 4, 7) > 0).expand(2, 3, 4, 7) if masked else None
    promises = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.minivid.blocks, (query, key, value, mask, 3, 2), test_utils=promises)
    output, log_sum = attention._blocks(query, key, value, mask, 3, 2)
    back = (output, query, key, value, mask, output, log_sum, 3, 2)
    torch.library.opcheck(torch.ops.minivid.blocks_gradient, back, test_utils=promises)


def test_the_operators_have_the_signatures_that_are_written_down():
    # Inferred from the annotations, the sizes would be symbols under torch.compile, not numbers.
    inputs = "Tensor query, Tensor key, Tensor value, Tensor? mask"
    assert str(torch.ops.minivid.blocks.default._schema) == (
        f"minivid::blocks({inputs}, int query_block, int key_block) -> (Tensor, Tensor)"
    )
    assert str(torch.ops.minivid.blocks_gradient.default._schema) == (
        f"minivid::blocks_gradient(Tensor grad, {inputs}, Tensor output, Tensor log_sum, int query_block, "
        "int key_block) -> (Tensor, Tensor, Tensor)"
    )


def test_the_log_sum_has_no_gradient():
    query = normal(0, 1, 1, 3, 2).requires_grad_()
    output, log_sum = attention._Blocks.apply(query, query, query, None, 2, 1)
    assert output.requires_grad and not log_sum.requires_grad


@pytest.mark.parametrize("in_dims", [(0, 0, 0, 0), (1, None, 3, None), (None, 2, None, 4), (4, 0, 2, 1)])
def test_block_attend_maps_over_any_axis(in_dims):
    case = [normal(i, 2, 3, m, 5) for i, m in enumerate((4, 7, 7))] + [normal(3, 2, 3, 4, 7) > 0]
    mapped = [
        x if dim is None else torch.stack([torch.roll(x, i, 2) for i in range(3)], dim)
        for x, dim in zip(case, in_dims, strict=True)
    ]

    def gradients(query, key, value, mask):
        return torch.func.grad(lambda *x: block_attend(*x, mask, block_size=3).square().sum(), (0, 1, 2))(
            query, key, value
        )

    for function in (lambda *x: (block_attend(*x, block_size=3),), gradients):
        got = torch.func.vmap(function, in_dims)(*mapped)
        for i in range(3):
            one = [x if dim is None else x.select(dim, i) for x, dim in zip(mapped, in_dims, strict=True)]
            for ours, want in zip(got, function(*one), strict=True):
                torch.testing.assert_close(ours[i], want, atol=1e-5, rtol=1e-5)


NO_SECOND = "block_attend has no gradient of its gradient; take attend, or kernel='plain'"


def test_block_attend_says_that_it_has_no_second_gradient():
    x = normal(0, 1, 1, 3, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(block_attend(x, x, x).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match=exactly(NO_SECOND)):
        gradient.sum().backward()


@BLOCKED
def test_attention_in_blocks_takes_heads_that_lie_apart_in_memory(blocked):
    tokens = normal(0, 2, 5, 3 * 2 * 7)
    query, key, value = rearrange(tokens, "b n (which heads k) -> which b heads n k", which=3, heads=2)
    want, _ = attend(query, key, value)
    torch.testing.assert_close(blocked(query, key, value, block_size=3), want, atol=1e-5, rtol=1e-5)


@BLOCKED
def test_attention_in_blocks_leaves_its_inputs_alone(blocked):
    case = [normal(i, 1, 2, 3, 5) for i in range(3)] + [normal(3, 3, 3) > 0]
    before = [x.clone() for x in case]
    blocked(*case, block_size=2)
    assert all(torch.equal(x, y) for x, y in zip(case, before, strict=True))


@BLOCKED
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_blocks_is_as_good_as_in_one(blocked, dtype):
    query, key, value = (normal(i, 1, 2, 7, 5).to(dtype) for i in range(3))
    mask = causal_mask(7, 7)
    mask[2] = False
    exact, _ = attend(query.double(), key.double(), value.double(), mask)
    got = blocked(query, key, value, mask, block_size=3)
    assert got.dtype == dtype
    # bfloat16 keeps 8 bits: 2^-8 on values up to about 3.
    torch.testing.assert_close(got.double(), exact, atol=3e-2, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_block_attend_in_half_precision_is_rounded_once(dtype):
    inputs = [normal(i, 1, 2, m, 8).to(dtype).requires_grad_() for i, m in enumerate((7, 101, 101))]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    results = []
    for output, given_ in ((block_attend(*inputs, block_size=3), inputs), (attend(*exact)[0], exact)):
        results.append([output, *torch.autograd.grad(output.sum(), given_)])
    for got, want in zip(*results, strict=True):
        # Half a unit in the last place, and a little for a sum that is small beside its terms. The gradients of query
        # and key also take the output, which is rounded to half precision by then: sums of 8 or 101 such terms.
        unit = torch.finfo(dtype).eps
        atol = 1e-5 if got is results[0][0] or got is results[0][3] else 2 * unit
        torch.testing.assert_close(got.double(), want, rtol=0.51 * unit, atol=atol)


@pytest.mark.parametrize("left", [True, False])
def test_in_blocks_the_largest_score_is_taken_off_or_left_with_the_same_result(monkeypatch, left):
    query, key, value = (normal(i, 2, 3, 7 + 4 * (i > 0), 5, dtype=torch.float64).requires_grad_() for i in range(3))
    mask = normal(3, 2, 1, 7, 11) > -0.5
    mask[1, :, 4] = False  # a blind query
    want, _ = attend(query, key, value, mask)
    monkeypatch.setattr(attention, "_scores_are_small", lambda *_: left)
    got = block_attend(query, key, value, mask, block_size=4)
    # float64, sums of at most 11 numbers of about 1.
    torch.testing.assert_close(got, want, atol=1e-13, rtol=1e-12)
    gradients = [torch.autograd.grad(output.square().sum(), [query, key, value]) for output in (got, want)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-11)


def test_scores_are_small_up_to_two_to_the_32():
    # The only query is the longest key times 3: the bound is the score itself, here 3 * 4 |key|^2 / sqrt(4) * log2(e).
    key = torch.full((1, 1, 2, 4), math.sqrt(32 * math.log(2) / 6), dtype=torch.float64)
    key[..., 1, :] *= -0.5
    query = 3 * key[:, :, :1]
    for factor, want in ((1 - 1e-9, True), (1 + 1e-9, False)):
        assert attention._scores_are_small(query * factor, key) is want
        assert attention._scores_are_small(query, -key * factor) is want
    # The longest of all heads and items counts, and what is no number is not small.
    assert not attention._scores_are_small(torch.cat([query, 2 * query], 1), torch.cat([key, key], 1))
    assert not attention._scores_are_small(query * math.nan, key)
    assert not attention._scores_are_small(torch.full((1, 1, 1, 4), 3e4).half(), torch.ones(1, 1, 1, 4).half())
    assert attention._scores_are_small(query[:, :, :0], key) and attention._scores_are_small(query, key[:, :, :0])


@pytest.mark.parametrize("apart", [False, True])
def test_large_blocks_give_the_same_by_either_library(monkeypatch, apart):
    if apart:
        inputs = [normal(i, 1, n, 2, 64).transpose(1, 2).requires_grad_() for i, n in enumerate((300, 420, 420))]
    else:
        inputs = [normal(i, 1, 2, n, 64).requires_grad_() for i, n in enumerate((300, 420, 420))]
    mask, grad = normal(3, 300, 420) > -1.5, normal(4, 1, 2, 300, 64)
    found = []
    for operator in (linear._onednn, None):
        monkeypatch.setattr(linear, "_onednn", operator)
        output = block_attend(*inputs, mask)
        found.append((output, *torch.autograd.grad(output, inputs, grad)))
    exact = [x.double() for x in inputs]
    output, _ = attend(*exact, mask)
    want = output, *torch.autograd.grad(output, inputs, grad.double())
    for results in found:
        for got, exactly in zip(results, want, strict=True):
            # Sums of some hundred numbers of float32, beside the largest.
            torch.testing.assert_close(got.double(), exactly.double(), atol=5e-6 * exactly.abs().max().item(), rtol=0)


def test_block_attend_never_makes_a_tensor_of_all_scores():
    largest, calls = 0, []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            calls.append(str(function))
            if isinstance(result, Tensor):
                largest = max(largest, result.untyped_storage().nbytes())
            return result

    n, k = 300, 8
    query, key, value = (normal(i, 1, 1, n, k) for i in range(3))
    with Watch():  # it does not see into an operator, so the two functions are called themselves
        output, log_sum = attention._blocks_forward(query, key, value, None, 60, 50)
        attention._blocks_backward(output, query, key, value, None, output, log_sum, 60, 50)
    # 5 blocks of queries, 6 of keys: 2 products forward and 5 back, each into a buffer or added to a result.
    assert calls.count("aten.mm.out") == 5 * 6 * (1 + 2) and calls.count("aten.addmm_.default") == 5 * 6 * (1 + 3)
    assert not any("mm.default" in call for call in calls)
    assert calls.count("aten.amax.default") == 2  # the longest query and key; so no block looks for its largest score
    assert largest == 60 * 50 * 4  # one block of scores in float32; all of them would be 300 * 300 * 4


@BLOCKED
@pytest.mark.usefixtures("unchecked")
def test_attention_in_blocks_refuses_what_attend_refuses(blocked):
    x = torch.zeros(1, 2, 3, 5)
    with pytest.raises(ShapeError, match=r"value: shape \(1, 2, 4, 5\), expected the key's \(1, 2, 3, 5\)"):
        blocked(x, x, torch.zeros(1, 2, 4, 5))
    with pytest.raises(ShapeError, match=r"mask: shape \(3, 4\) .* \(1, 2, 3, 3\)"):
        blocked(x, x, x, torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(TypeError, match="torch.float32, expected torch.bool"):
        blocked(x, x, x, torch.zeros(3, 3))
    with pytest.raises(ValueError, match=exactly("block_size is 0, expected at least 1")):
        blocked(x, x, x, block_size=0)


# ---- MultiHeadAttention beside torch's


def both(embed_dim: int, num_heads: int, dtype: torch.dtype = torch.float32, **options):
    """torch's module with random weights and biases, and ours with the same."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(embed_dim, num_heads, batch_first=True, dtype=dtype, **options)
    for parameter in theirs.parameters():  # torch starts biases at zero, where a forgotten bias does not show
        nn.init.normal_(parameter, std=0.5)
    ours = MultiHeadAttention(embed_dim, num_heads, dtype=dtype, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("embed_dim", "num_heads", "options"),
    [
        (6, 3, {}),
        (6, 3, {"bias": False}),
        (10, 2, {"kdim": 7, "vdim": 7}),
        (10, 5, {"kdim": 7, "vdim": 11}),
        (4, 1, {"vdim": 3, "bias": False}),
    ],
)
def test_multi_head_attention_equals_torch(embed_dim, num_heads, options, masked, dtype, atol):
    ours, theirs = both(embed_dim, num_heads, dtype, **options)
    b, n, s = 2, 3, 5
    x = normal(1, b, n, embed_dim, dtype=dtype)
    keys = normal(2, b, s, options.get("kdim", embed_dim), dtype=dtype)
    values = keys if options.get("vdim") == options.get("kdim") else normal(3, b, s, options["vdim"], dtype=dtype)
    mask = (
        torch.tensor([[True, True, False, True, False], [False, True, True, True, True], [True] * 5])
        if masked
        else None
    )
    tokens = torch.tensor([5, 3])[:, None] > torch.arange(s)  # the second clip has 3 tokens

    results = []
    for module in (ours, theirs):
        leaves = [y.clone().requires_grad_() for y in (x, keys, values)]
        if module is ours:
            allowed = mask & tokens[:, None, None] if masked else None
            context = (leaves[1], leaves[2]) if values is not keys else leaves[1]
            output = ours(leaves[0], context, mask=allowed)
            weights = ours.attention_weights(leaves[0], context, mask=allowed)
        else:
            hidden = {"attn_mask": ~mask, "key_padding_mask": ~tokens} if masked else {}
            if values is keys:
                leaves[2] = leaves[1]
            output, weights = theirs(*leaves, average_attn_weights=False, **hidden)
        leaves = leaves[: 3 if values is not keys else 2]
        gradients = torch.autograd.grad(
            output, [*leaves, module.out_proj.weight], normal(4, *output.shape, dtype=dtype)
        )
        results.append([output, weights, *gradients])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=atol, rtol=atol)


def test_every_weight_gets_the_gradient_of_torch():
    ours, theirs = both(6, 2, torch.float64)
    x = normal(1, 2, 5, 6, dtype=torch.float64)
    ours(x).square().sum().backward()
    theirs(x, x, x, need_weights=False)[0].square().sum().backward()
    stacked = torch.cat([ours.q_proj.weight.grad, ours.k_proj.weight.grad, ours.v_proj.weight.grad])
    torch.testing.assert_close(stacked, theirs.in_proj_weight.grad, atol=1e-10, rtol=0)
    stacked = torch.cat([ours.q_proj.bias.grad, ours.k_proj.bias.grad, ours.v_proj.bias.grad])
    torch.testing.assert_close(stacked, theirs.in_proj_bias.grad, atol=1e-10, rtol=0)
    torch.testing.assert_close(ours.out_proj.bias.grad, theirs.out_proj.bias.grad, atol=1e-10, rtol=0)


def test_state_dict_of_torch_loads_inside_a_model_and_leaves_no_trace():
    theirs = nn.Sequential(nn.Linear(3, 6), nn.MultiheadAttention(6, 2))
    ours = nn.Sequential(nn.Linear(3, 6), MultiHeadAttention(6, 2))
    state = theirs.state_dict()
    names = list(state)
    ours.load_state_dict(state)
    assert list(state) == names
    assert set(ours[1].state_dict()) == {
        f"{x}_proj.{part}" for x in ("q", "k", "v", "out") for part in ("weight", "bias")
    }
    again = MultiHeadAttention(6, 2)
    again.load_state_dict(ours[1].state_dict())
    assert torch.equal(again.v_proj.weight, theirs[1].in_proj_weight[12:])
    with pytest.raises(RuntimeError, match="bias_k"):
        again.load_state_dict(nn.MultiheadAttention(6, 2, add_bias_kv=True).state_dict())
    with pytest.raises(ValueError, match="shorter"):  # 4 rows are no three blocks
        again.load_state_dict({"in_proj_weight": torch.zeros(4, 6)})


@pytest.mark.parametrize("num_kv_heads", [1, 2, 3, 6])
def test_grouped_heads_equal_full_heads_with_repeated_weights(num_kv_heads):
    b, n, k, heads = 2, 5, 3, 6
    grouped = MultiHeadAttention(heads * k, heads, num_kv_heads=num_kv_heads)
    for parameter in grouped.parameters():
        nn.init.normal_(parameter)
    full = MultiHeadAttention(heads * k, heads)
    state = grouped.state_dict()
    for name in ("k_proj", "v_proj"):
        for part in ("weight", "bias"):
            blocks = state[f"{name}.{part}"].unflatten(0, (num_kv_heads, k))
            state[f"{name}.{part}"] = blocks.repeat_interleave(heads // num_kv_heads, 0).flatten(0, 1)
    full.load_state_dict(state)
    x = normal(1, b, n, heads * k)
    torch.testing.assert_close(grouped(x), full(x), atol=1e-4, rtol=1e-5)
    assert grouped.k_proj.weight.shape == (num_kv_heads * k, heads * k)


@pytest.mark.parametrize("kernel", ["blocks", "fused", "fastest"])
@given(seeds, st.sampled_from([1, 2]), st.booleans())
def test_every_kernel_equals_the_plain_one(kernel, seed, num_kv_heads, blind):
    b, n, s, d = 2, 3, 5, 6
    plain = MultiHeadAttention(d, 2, num_kv_heads=num_kv_heads, kdim=7, vdim=7).double()
    other = MultiHeadAttention(d, 2, num_kv_heads=num_kv_heads, kdim=7, vdim=7, kernel=kernel).double()
    other.load_state_dict(plain.state_dict())
    mask = normal(seed, b, 1, n, s) > 0
    mask[:, :, 1] = not blind
    for given_mask in (None, mask):
        results = []
        for module in (plain, other):
            x = normal(seed + 1, b, n, d, dtype=torch.float64).requires_grad_()
            context = normal(seed + 2, b, s, 7, dtype=torch.float64).requires_grad_()
            output = module(x, context, mask=given_mask)
            results.append([output, *torch.autograd.grad(output.square().sum(), [x, context, *module.parameters()])])
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-10)


KERNELS = pytest.mark.parametrize("kernel", attention.KERNELS)


def in_pieces(module, x, pieces, *, rotary=None, **options) -> Tensor:
    """Causal attention over x, cut into pieces of these lengths, with a cache."""
    cache, outputs = KVCache(**options), []
    for piece in x.split(pieces, 1):
        start, n = cache.length, piece.shape[1]
        angles = None if rotary is None else rotary[start : start + n]
        outputs.append(module(piece, mask=causal_mask(n, start + n), cache=cache, rotary=angles))
    assert cache.length == x.shape[1]
    return torch.cat(outputs, 1)


@KERNELS
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.sampled_from([1, 3]), seeds, st.booleans())
def test_any_split_with_a_cache_equals_the_whole_without(kernel, pieces, num_kv_heads, seed, turned):
    module = MultiHeadAttention(12, 3, num_kv_heads=num_kv_heads, kernel=kernel).double()
    n = sum(pieces)
    x = normal(seed, 2, n, 12, dtype=torch.float64)
    rotary = rotary_angles(torch.arange(n), 4) if turned else None
    want = module(x, mask=causal_mask(n, n), rotary=rotary)
    # float64: 1e-12 is rounding; rotary angles are float32, the same in both.
    torch.testing.assert_close(in_pieces(module, x, pieces, rotary=rotary), want, atol=1e-12, rtol=0)
    with torch.no_grad():  # there the cache writes in place, and has to grow
        torch.testing.assert_close(in_pieces(module, x, pieces, rotary=rotary, capacity=1), want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("num_kv_heads", [1, 2])  # copied for the heads of a group, or used as they are kept
def test_gradients_go_through_a_cache(num_kv_heads):
    module = MultiHeadAttention(6, 2, num_kv_heads=num_kv_heads).double()
    x = normal(0, 2, 7, 6, dtype=torch.float64)
    results = []
    for output in (module(x, mask=causal_mask(7, 7)), in_pieces(module, x, [3, 1, 3])):
        results.append(torch.autograd.grad(output.square().sum(), list(module.parameters())))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-10)


def test_a_cache_keeps_the_few_heads_of_a_group():
    module, cache = MultiHeadAttention(12, 6, num_kv_heads=2), KVCache()
    module(normal(0, 3, 5, 12), cache=cache)
    keys, values = cache.append(torch.zeros(3, 2, 1, 2), torch.zeros(3, 2, 1, 2))
    assert keys.shape == values.shape == (3, 2, 6, 2)


def test_a_cache_is_for_the_tokens_of_x():
    x = torch.zeros(1, 2, 6)
    message = "cache: it keeps the tokens of x, and a context has others; give one or the other"
    with pytest.raises(ValueError, match=exactly(message)):
        MultiHeadAttention(6, 2)(x, x, cache=KVCache())


def test_dropout_acts_on_weights_while_training_only():
    # All values are 1 and the output projection is the identity: the output is the sum of the weights that are left,
    # a multiple of 1 / (1 - dropout) / s. Of 4000 weights 30 % fall: three standard deviations are 0.022.
    module = MultiHeadAttention(1, 1, dropout=0.3, bias=False)
    with torch.no_grad():
        for projection, weight in zip(module.children(), (0.0, 0.0, 1.0, 1.0), strict=True):
            projection.weight.fill_(weight)
    x = torch.ones(400, 10, 1)
    torch.manual_seed(0)
    kept = module(x) * 0.7 * 10
    torch.testing.assert_close(kept, kept.round(), atol=1e-4, rtol=0)
    assert abs(kept.mean().item() / 10 - 0.7) < 0.022
    torch.testing.assert_close(module.eval()(x), torch.ones_like(x), atol=1e-6, rtol=0)
    torch.testing.assert_close(module.train().attention_weights(x), torch.full((400, 1, 10, 10), 0.1))


def test_fused_dropout_stops_when_evaluating():
    module = MultiHeadAttention(6, 2, dropout=0.5, kernel="fused")
    x = normal(0, 2, 5, 6)
    assert not torch.equal(module(x), module(x))
    module.eval()
    plain = MultiHeadAttention(6, 2)
    plain.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x), plain(x), atol=1e-6, rtol=1e-5)


@pytest.fixture
def kernels(monkeypatch):
    """The names of the kernels that run, in order: they give the same numbers, so that only their calls tell them."""
    calls = []

    def watched(name, function):
        return lambda *arguments: (calls.append(name), function(*arguments))[1]

    monkeypatch.setattr(attention, "attention_weights", watched("plain", attention_weights))
    monkeypatch.setattr(attention, "block_attend", watched("blocks", block_attend))
    monkeypatch.setattr(F, "scaled_dot_product_attention", watched("fused", F.scaled_dot_product_attention))
    return calls


def test_each_kernel_is_the_one_that_is_named(kernels):
    for kernel in attention.KERNELS:
        MultiHeadAttention(6, 2, kernel=kernel)(normal(0, 2, 5, 6))
    assert kernels == ["plain", "blocks", "fused", "fused"]  # so few tokens are not for blocks


@pytest.mark.parametrize(
    ("options", "tokens", "given", "kernel"),
    [
        ({}, (2, 4, 6), {}, "blocks"),
        ({"num_kv_heads": 1}, (2, 4, 6), {}, "blocks"),
        ({}, (2, 3, 6), {}, "fused"),
        ({}, (2, 4, 6), {"context": torch.zeros(2, 3, 6)}, "fused"),
        ({}, (2, 3, 6), {"context": torch.zeros(2, 4, 6)}, "fused"),
        ({}, (2, 5, 6), {"context": torch.zeros(2, 4, 6)}, "blocks"),
        ({}, (2, 4, 6), {"mask": torch.ones(4, 4, dtype=torch.bool)}, "fused"),
        ({}, (2, 4, 6), {"causal": True}, "fused"),
        ({}, (2, 5, 6), {"causal": True, "context": torch.zeros(2, 4, 6)}, "fused"),
        ({"dropout": 0.5}, (2, 4, 6), {}, "fused"),
        ({"dtype": torch.bfloat16}, (2, 4, 6), {}, "blocks"),
        ({"dtype": torch.float64}, (2, 4, 6), {}, "fused"),
        ({"dtype": torch.float16}, (2, 4, 6), {}, "fused"),
        ({}, (0, 4, 6), {}, "fused"),
    ],
)
def test_the_fastest_kernel_is_blocks_for_many_tokens_that_all_look_at_each_other(
    monkeypatch, kernels, options, tokens, given, kernel
):
    asked = []
    monkeypatch.setattr(attention, "_MANY", 4)
    monkeypatch.setattr(attention, "by_onednn", lambda *matrices: not asked.extend(matrices))
    module = MultiHeadAttention(6, 2, kernel="fastest", **options)
    place = {"dtype": module.q_proj.weight.dtype}
    x, given = normal(0, *tokens).to(**place), given | {k: v.to(**place) for k, v in given.items() if k == "context"}
    module(x, **given)
    assert kernels == [kernel]
    if kernel == "blocks":
        kernels.clear()
        # One head of queries and one of keys, as the blocks multiply them.
        n, s = x.shape[1], given.get("context", x).shape[1]
        assert [tuple(matrix.shape) for matrix in asked] == [(n, 3), (s, 3)]
        assert all(matrix.dtype == torch.float32 and matrix.is_contiguous() for matrix in asked)
        monkeypatch.setattr(attention, "by_onednn", lambda *matrices: False)
        module(x, **given)
        assert kernels == ["fused"]
    if "dropout" in options:
        module.eval()(x)
        assert kernels == ["fused", "blocks"]


def test_a_single_head_of_a_single_clip_tells_which_kernel_is_the_fastest(monkeypatch):
    monkeypatch.setattr(attention, "by_onednn", lambda *matrices: True)
    x = torch.zeros(1, 1, 256, 4)
    assert attention.blocks_are_faster(x, x) and not attention.blocks_are_faster(x[:, :0], x[:, :0])


def test_the_bound_of_the_fastest_kernel_is_the_one_that_was_measured():
    assert attention._MANY == 256


def test_the_fastest_kernel_gives_the_plain_one_s_numbers_for_many_tokens():
    plain, fastest = (
        MultiHeadAttention(128, 2, num_kv_heads=1, bias=False, kernel=kernel) for kernel in ("plain", "fastest")
    )
    fastest.load_state_dict(plain.state_dict())
    results = []
    for module in (plain, fastest):
        x = normal(0, 2, 260, 128).requires_grad_()
        output = module(x)
        results.append([output, *torch.autograd.grad(output.square().sum(), [x, *module.parameters()])])
    for got, want in zip(*results, strict=True):
        # Sums of up to 520 terms in another order: 1e-6 of the largest number was seen.
        torch.testing.assert_close(got, want, atol=1e-5 * want.abs().max().item(), rtol=0)


@KERNELS
@given(seeds, st.sampled_from([1, 2, 6]), st.integers(1, 4), st.integers(0, 3), st.booleans())
@settings(max_examples=20)
def test_causal_is_the_causal_mask(kernel, seed, num_kv_heads, n, earlier, masked):
    module = MultiHeadAttention(12, 6, num_kv_heads=num_kv_heads, kernel=kernel).double()
    x = normal(seed, 2, earlier + n, 12, dtype=torch.float64)
    # Masks of every kind that a single token may meet: none, over the keys of each clip, and of each head.
    masks = [None]
    if masked:
        masks = [normal(seed + 1, 2, heads, 1, earlier + n) > -0.5 for heads in (1, 6)]
    for mask in masks:
        ahead = causal_mask(n, earlier + n)
        caches = KVCache(), KVCache()
        for cache in caches:
            if earlier:
                module(x[:, :earlier], cache=cache)
        want = module(x[:, earlier:], mask=ahead if mask is None else mask & ahead, cache=caches[0])
        got = module(x[:, earlier:], mask=mask, causal=True, cache=caches[1])
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


@KERNELS
@pytest.mark.parametrize("heads, num_kv_heads", [(4, 2), (2, 1), (4, 4)])
@pytest.mark.parametrize("shape", ["heads 1 s", "b heads 1 s", "1 heads 1 s", "b 1 1 s", "1 s"])
def test_a_single_token_sees_by_any_mask_what_it_sees_among_others(kernel, heads, num_kv_heads, shape):
    module = MultiHeadAttention(8, heads, num_kv_heads=num_kv_heads, kernel=kernel).double()
    x, context = normal(0, 2, 1, 8, dtype=torch.float64), normal(1, 2, 5, 8, dtype=torch.float64)
    sizes = {"b": 2, "heads": heads, "s": 5}
    mask = normal(2, *(sizes.get(name, 1) for name in shape.split())) > -0.5
    both = module(x.expand(2, 2, 8), context, mask=mask.expand(*mask.shape[:-2], 2, 5))
    torch.testing.assert_close(module(x, context, mask=mask), both[:, :1], atol=1e-12, rtol=0)


@KERNELS
def test_nobody_looks_ahead_on_any_device(kernel):
    module = MultiHeadAttention(4, 2, kernel=kernel, device="meta")
    x, mask = torch.empty(1, 3, 4, device="meta"), torch.ones(3, 3, dtype=torch.bool, device="meta")
    assert module(x, mask=mask, causal=True).device.type == "meta"


@pytest.mark.parametrize("kernel", ["fused", "fastest"])
def test_torch_s_kernel_needs_no_mask_to_be_causal(monkeypatch, kernel):
    monkeypatch.setattr(attention, "causal_mask", None)  # would be called
    module, x = MultiHeadAttention(6, 2, kernel=kernel), normal(0, 2, 5, 6)
    want = MultiHeadAttention(6, 2)
    want.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x, causal=True), want(x, mask=causal_mask(5, 5)), atol=1e-6, rtol=1e-5)


@KERNELS
@pytest.mark.parametrize("head_dim", [1, 4, 6])
def test_heads_may_be_wider_or_narrower_than_their_share_of_a_token(kernel, head_dim):
    module = MultiHeadAttention(9, 4, num_kv_heads=2, head_dim=head_dim, kernel=kernel)
    assert module.head_dim == head_dim and module.q_norm is None and module.k_norm is None
    shapes = {name: tuple(w.shape) for name, w in module.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "q_proj.weight": (4 * head_dim, 9), "k_proj.weight": (2 * head_dim, 9), "v_proj.weight": (2 * head_dim, 9),
        "out_proj.weight": (9, 4 * head_dim),
    }  # fmt: skip
    x = normal(0, 2, 5, 9)
    query, key, value = (
        rearrange(projection(x), "b n (heads k) -> b heads n k", k=head_dim)
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    output, _ = attend(query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1))
    want = module.out_proj(rearrange(output, "b heads n k -> b n (heads k)"))
    torch.testing.assert_close(module(x), want, atol=1e-5, rtol=1e-4)


@KERNELS
@pytest.mark.parametrize("n", [1, 5])
def test_queries_and_keys_are_normed_head_by_head_before_they_are_turned(kernel, n):
    module = MultiHeadAttention(12, 3, num_kv_heads=1, qk_norm_eps=0.3, kernel=kernel)
    for norm in (module.q_norm, module.k_norm):
        nn.init.normal_(norm.weight)
    x, angles = normal(0, 2, n, 12), rotary_angles(torch.arange(n) + 7, 4)

    def normed(y, weight):
        return y / (y.square().mean(-1, keepdim=True) + 0.3).sqrt() * weight

    query = rearrange(module.q_proj(x), "b n (heads k) -> b heads n k", heads=3)
    query = rotate(normed(query, module.q_norm.weight), angles)
    key = rotate(normed(module.k_proj(x)[:, None], module.k_norm.weight), angles)
    output, weights = attend(query, key.expand(-1, 3, -1, -1), module.v_proj(x)[:, None].expand(-1, 3, -1, -1))
    want = module.out_proj(rearrange(output, "b heads n k -> b n (heads k)"))
    torch.testing.assert_close(module(x, rotary=angles), want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(module(x, rotary=turns(angles)), want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(module.attention_weights(x, rotary=angles), weights, atol=1e-5, rtol=1e-4)
    module.reset_parameters()
    assert torch.equal(module.q_norm.weight, torch.ones(4)) and torch.equal(module.k_norm.weight, torch.ones(4))


def test_a_head_of_no_width_is_refused():
    with pytest.raises(ValueError, match=exactly("head_dim is 0, expected at least 1")):
        MultiHeadAttention(6, 2, head_dim=0)


def test_a_blind_token_gets_the_output_bias():
    module = MultiHeadAttention(6, 2)
    nn.init.normal_(module.out_proj.bias)
    output = module(normal(0, 1, 3, 6), mask=torch.tensor([[True] * 3, [False] * 3, [True] * 3]))
    torch.testing.assert_close(output[0, 1], module.out_proj.bias, atol=0, rtol=0)


def test_multi_head_attention_does_not_see_the_order_of_a_context():
    module, x, context = MultiHeadAttention(6, 3), normal(0, 2, 3, 6), normal(1, 2, 5, 6)
    torch.testing.assert_close(module(x, context.flip(1)), module(x, context), atol=1e-6, rtol=1e-5)


def test_causal_outputs_do_not_change_with_the_future(impl):
    module, x = MultiHeadAttention(6, 3), normal(0, 2, 5, 6)
    other = x.clone()
    other[:, 3:] = normal(1, 2, 2, 6)
    mask = impl.causal_mask(5, 5)
    torch.testing.assert_close(module(x, mask=mask)[:, :3], module(other, mask=mask)[:, :3], atol=1e-6, rtol=0)
    assert not torch.allclose(module(x, mask=mask)[:, 3:], module(other, mask=mask)[:, 3:], atol=1e-2)


def test_frames_apart_equal_frames_one_by_one():
    module, x = MultiHeadAttention(6, 3), normal(0, 1, 7, 6)
    together = module(x, mask=block_mask([2, 5]))
    torch.testing.assert_close(together, torch.cat([module(x[:, :2]), module(x[:, 2:])], 1), atol=1e-6, rtol=0)


@KERNELS
def test_rotary_attention_sees_distances_and_not_places(kernel):
    module = MultiHeadAttention(12, 3, num_kv_heads=1, kernel=kernel)
    x = normal(0, 2, 5, 12)
    here, there = (rotary_angles(torch.arange(5) + start, 4) for start in (0, 70))
    torch.testing.assert_close(module(x, rotary=there), module(x, rotary=here), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(module(x, rotary=2 * here), module(x, rotary=here), atol=1e-3)
    weights = module.attention_weights(x, rotary=here)
    query = rearrange(module.q_proj(x), "b n (heads k) -> b heads n k", heads=3)
    key = module.k_proj(x)[:, None].expand(2, 3, 5, 4)
    torch.testing.assert_close(weights, attention_weights(rotate(query, here), rotate(key, here)))
    message = "rotary: these are the positions of x, and a context has others; give one or the other"
    with pytest.raises(ValueError, match=exactly(message)):
        module(x, x, rotary=here)


def test_multi_head_attention_passes_gradcheck():
    module = MultiHeadAttention(4, 2, num_kv_heads=1, kdim=3, vdim=3).double()
    x = normal(0, 1, 3, 4, dtype=torch.float64).requires_grad_()
    context = normal(1, 1, 2, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(module, (x, context))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch maps its fused kernel one by one
@KERNELS
def test_multi_head_attention_maps_over_an_axis(kernel):
    module, x = MultiHeadAttention(6, 2, kernel=kernel), normal(0, 3, 2, 5, 6)
    one_by_one = torch.stack([module(y) for y in x])
    torch.testing.assert_close(torch.func.vmap(module)(x), one_by_one, atol=1e-6, rtol=1e-5)
    # Gradients of each clip alone, as torch.func writes them.
    gradients = torch.func.vmap(torch.func.grad(lambda y: module(y).square().sum()))(x)
    torch.testing.assert_close(
        gradients[1], torch.func.grad(lambda y: module(y).square().sum())(x[1]), atol=1e-5, rtol=1e-4
    )


@KERNELS
def test_multi_head_attention_runs_under_autocast(kernel):
    module, x = MultiHeadAttention(6, 2, kernel=kernel), normal(0, 2, 5, 6)
    mask = torch.ones(5, 5, dtype=torch.bool).tril(-1)  # the first token is blind
    with torch.autocast("cpu", torch.bfloat16):
        output = module(x, mask=mask)
    assert output.dtype == torch.bfloat16
    output.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    # bfloat16 keeps 8 bits, and four roundings follow each other on numbers of about 1.
    torch.testing.assert_close(output.float(), module(x, mask=mask), atol=4e-2, rtol=0)


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # the compiler's own import
@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")  # the compiler does
@pytest.mark.parametrize("kernel", ["plain", "blocks"])
def test_multi_head_attention_compiles(kernel, compiled):
    module, x, mask = MultiHeadAttention(6, 2, kernel=kernel), normal(0, 2, 5, 6), block_mask([2, 3])
    gradients = []
    for function in (compiled(module), module):
        output = function(x, mask=mask)
        gradients.append([output, *torch.autograd.grad(output.square().sum(), list(module.parameters()))])
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_weights_start_as_glorot_and_biases_at_zero():
    module = MultiHeadAttention(64, 4, kdim=32, vdim=32)
    for projection in module.children():
        bound = math.sqrt(6 / (projection.in_features + projection.out_features))
        # 2048 uniform numbers: their largest is within 2 % of the bound, but for one case in e^40.
        assert 0.98 * bound < projection.weight.abs().max() <= bound
        assert torch.equal(projection.bias, torch.zeros_like(projection.bias))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(embed_dim=10, num_heads=3), "embed_dim 10 is not a multiple of num_heads 3; choose a divisor"),
        (dict(embed_dim=10, num_heads=0), "embed_dim 10 is not a multiple of num_heads 0; choose a divisor"),
        (dict(embed_dim=10, num_heads=-5), "embed_dim 10 is not a multiple of num_heads -5; choose a divisor"),
        (
            dict(embed_dim=12, num_heads=4, num_kv_heads=3),
            "num_heads 4 is not a multiple of num_kv_heads 3; choose a divisor",
        ),
        (
            dict(embed_dim=12, num_heads=4, num_kv_heads=0),
            "num_heads 4 is not a multiple of num_kv_heads 0; choose a divisor",
        ),
        (dict(embed_dim=12, num_heads=4, dropout=1.0), "dropout is 1.0, expected 0 <= dropout < 1"),
        (dict(embed_dim=12, num_heads=4, dropout=-0.5), "dropout is -0.5, expected 0 <= dropout < 1"),
        (
            dict(embed_dim=12, num_heads=4, kernel="flash"),
            "kernel is 'flash', expected one of plain, blocks, fused, fastest",
        ),
        (
            dict(embed_dim=12, num_heads=4, kernel="blocks", dropout=0.1),
            "dropout is 0.1, expected 0 with kernel 'blocks', which keeps no weights to drop; choose another",
        ),
    ],
)
def test_constructor_names_the_numbers_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=exactly(message)):
        MultiHeadAttention(**arguments)


def test_multi_head_attention_shows_its_numbers():
    module = MultiHeadAttention(12, 6, num_kv_heads=2, dropout=0.25, kernel="fused")
    assert (module.embed_dim, module.num_heads, module.num_kv_heads, module.head_dim) == (12, 6, 2, 2)
    assert module.extra_repr() == "num_heads=6, num_kv_heads=2, head_dim=2, dropout=0.25, kernel='fused'"
    plain = MultiHeadAttention(12, 6)
    assert plain.extra_repr() == "num_heads=6, num_kv_heads=6, head_dim=2, dropout=0.0, kernel='plain'"


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_multi_head_attention_makes_its_weights_where_and_as_asked(dtype):
    module = MultiHeadAttention(6, 2, kdim=3, vdim=5, qk_norm_eps=0.1, device="meta", dtype=dtype)
    assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", dtype or torch.float32)}
    assert MultiHeadAttention(6, 2, dtype=dtype).q_proj.weight.device.type == "cpu"


def test_an_option_that_is_not_taken_is_refused_by_name():
    with pytest.raises(TypeError, match="add_zero_attn"):
        MultiHeadAttention(4, 2, add_zero_attn=True)
    with pytest.raises(TypeError, match="key_padding_mask"):
        MultiHeadAttention(4, 2)(torch.zeros(1, 2, 4), key_padding_mask=torch.zeros(1, 2))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 3, 5), None), "x: shape (2, 3, 5), expected b=2, tokens, d=4"),
        (((3, 4), None), "x: shape (3, 4), expected b=3, tokens, d=4"),
        (((2, 3, 4, 4), None), "x: shape (2, 3, 4, 4), expected b=2, tokens, d=4"),
        (((2, 3, 4), (2, 5, 4)), "keys: shape (2, 5, 4), expected b=2, tokens, d=7"),
        (((2, 3, 4), (1, 5, 7)), "keys: shape (1, 5, 7), expected b=2, tokens, d=7"),
        (((2, 3, 4), ((2, 5, 7), (2, 5, 7))), "values: shape (2, 5, 7), expected b=2, tokens, d=11"),
        (
            ((2, 3, 4), ((2, 5, 7), (2, 6, 11))),
            "context: s=5 tokens for the keys and 6 for the values; every key comes with one value",
        ),
    ],
)
def test_forward_names_the_widths_that_do_not_fit(shapes, message):
    module = MultiHeadAttention(4, 2, kdim=7, vdim=11)
    x, context = shapes
    if context is not None:
        pair = isinstance(context[0], tuple)
        context = tuple(torch.zeros(shape) for shape in context) if pair else torch.zeros(context)
    with pytest.raises(ShapeError, match=exactly(message)):
        module(torch.zeros(x), context)


def test_attention_weights_are_those_of_attend():
    query, key = normal(0, 1, 2, 3, 5), normal(1, 1, 2, 7, 5)
    torch.testing.assert_close(attention_weights(query, key), attend(query, key, key)[1], atol=0, rtol=0)
