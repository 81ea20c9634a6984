"""Scaled dot-product attention: every query takes a weighted mean of the values, weighted by how well the keys fit."""

import itertools
import math
from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from minivid.layers.kv_cache import KVCache
from minivid.layers.linear import Linear, add_product, by_onednn, product
from minivid.layers.norms import RMSNorm
from minivid.layers.positions import Rotary, turn, turns
from minivid.layers.vmap import map_one_by_one
from minivid.shapes import ShapeError

# The ways to compute attention that MultiHeadAttention takes.
KERNELS = ("plain", "blocks", "fused", "fastest")

# The tokens that answer: one tensor for keys and values, or one for each.
Context = Float[Tensor, "b s kdim"] | tuple[Float[Tensor, "b s kdim"], Float[Tensor, "b s vdim"]]


def softmax(scores: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    """Turn scores into weights, at least 0, that sum to one along an axis.

        softmax(x)_j = exp(x_j) / sum_i exp(x_i) = exp(x_j - m) / sum_i exp(x_i - m),   m = max_i x_i

    Both forms are equal for every m. The second one is computed: its largest exponent is 0, so that nothing overflows
    (in float32, exp(89) already does) and the sum is at least 1.

    Args:
        scores: any finite numbers; -inf is allowed beside at least one finite number and gets weight 0.
        dim: the axis along which the weights sum to one.

    Returns:
        Weights of the shape of `scores`.

    Source: Goodfellow, Bengio and Courville 2016, Deep Learning, section 4.1.
    """
    # The result does not depend on m, so neither does the gradient: there is nothing to send back through the maximum.
    # exp_ works in place on the difference, which nobody else holds: one pass over memory less.
    powers = (scores - scores.amax(dim, keepdim=True).detach()).exp_()
    return powers / powers.sum(dim, keepdim=True)


def attention_weights(
    query: Float[Tensor, "b heads n k"],
    key: Float[Tensor, "b heads s k"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "b heads n s"]:
    """How much each query looks at each key: softmax(query key^T / sqrt(k)) over the keys.

    A sum of k products of independent numbers of variance 1 has variance k; divided by sqrt(k), the scores keep
    variance 1 at every width, and the softmax neither freezes on one key nor blurs over all of them.

    Args:
        query: the tokens that ask.
        key: the tokens that answer.
        mask: True = may look. Any shape that broadcasts to b heads n s; None = every query may look at every key.

    Returns:
        Weights that sum to one over s. A query that may look nowhere gets zeros.

    Raises:
        ShapeError: if the tensors do not fit together.
        TypeError: if the mask is not boolean.

    Source: Vaswani et al. 2017, equation 1 (arXiv:1706.03762).
    """
    check_shapes(query, key, mask)
    scores = (query / math.sqrt(query.shape[-1])) @ key.mT
    if mask is None:
        return softmax(scores)
    # The lowest finite number, not -inf: a row of -inf alone is 0/0 in the softmax, and its gradient is NaN even where
    # the result is overwritten. Such a blind row comes out uniform here, and the second fill empties it.
    lowest = torch.finfo(scores.dtype).min
    return softmax(scores.masked_fill(~mask, lowest)).masked_fill(~mask, 0.0)


def attend(
    query: Float[Tensor, "b heads n k"],
    key: Float[Tensor, "b heads s k"],
    value: Float[Tensor, "b heads s k"],
    mask: Bool[Tensor, "..."] | None = None,
) -> tuple[Float[Tensor, "b heads n k"], Float[Tensor, "b heads n s"]]:
    """Scaled dot-product attention: the values, averaged with the attention weights.

        output = softmax(query key^T / sqrt(k)) value

    Args:
        query: the tokens that ask.
        key: what each answering token is found by.
        value: what each answering token gives.
        mask: True = may look. Any shape that broadcasts to b heads n s, such as n s or b 1 1 s; None = look anywhere.

    Returns:
        The output and the weights. A query that may look nowhere gets zeros in both, and zero gradients.

    Raises:
        ShapeError: if the tensors do not fit together.
        TypeError: if the mask is not boolean.

    Source: Vaswani et al. 2017, equation 1 (arXiv:1706.03762).
    """
    check_shapes(query, key, mask, value)
    weights = attention_weights(query, key, mask)
    return weights @ value, weights


def online_attend(
    query: Float[Tensor, "b heads n k"],
    key: Float[Tensor, "b heads s k"],
    value: Float[Tensor, "b heads s k"],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    block_size: int = 256,
) -> Float[Tensor, "b heads n k"]:
    """The output of `attend`, read from one block of keys after another, with a softmax that is mended as it runs.

    For each query three things are kept: the largest score so far m, the sum of powers l and the sum of values o, both
    as if m were the final maximum. When a block brings a larger one, what was summed before shrinks by a factor:

        m' = max(m, max_j score_j)
        l' = exp(m - m') l + sum_j exp(score_j - m')
        o' = exp(m - m') o + sum_j exp(score_j - m') value_j          output = o / l after the last block

    No more than n x block_size scores exist at a time. (Training keeps those of every block: see `block_attend`.)

    Args:
        query: the tokens that ask.
        key: what each answering token is found by.
        value: what each answering token gives.
        mask: True = may look. Any shape that broadcasts to b heads n s; None = look anywhere.
        block_size: keys read at a time.

    Returns:
        The output of `attend`. A query that may look nowhere gets zeros.

    Raises:
        ShapeError: if the tensors do not fit together.
        TypeError: if the mask is not boolean.
        ValueError: if block_size is not positive.

    Source: Milakov and Gimelshein 2018, algorithm 3 (arXiv:1805.02867); Rabe and Staats 2021 (arXiv:2112.05682).
    """
    check_shapes(query, key, mask, value, block_size)
    mask = None if mask is None else mask.expand(*query.shape[:3], key.shape[2])
    lowest = torch.finfo(query.dtype).min
    largest = torch.full_like(query[..., :1], lowest)  # b heads n 1
    total, mixed = torch.zeros_like(largest), torch.zeros_like(query)
    for start in range(0, key.shape[2], block_size):
        block = slice(start, start + block_size)
        scores = (query / math.sqrt(query.shape[-1])) @ key[:, :, block].mT  # b heads n block_size
        if mask is not None:
            scores = scores.masked_fill(~mask[..., block], lowest)
        # As in softmax, the result does not depend on the maximum, so no gradient goes through it.
        larger = torch.maximum(largest, scores.detach().amax(-1, keepdim=True))
        powers, shrink = (scores - larger).exp(), (largest - larger).exp()
        if mask is not None:  # where nothing was seen yet, exp(lowest - lowest) is 1
            powers = powers.masked_fill(~mask[..., block], 0.0)
        total = shrink * total + powers.sum(-1, keepdim=True)
        mixed = shrink * mixed + powers @ value[:, :, block]
        largest = larger
    # The largest score adds exp(0) = 1 to the total, so that only the 0 of a blind query is below 1.
    return mixed / total.clamp_min(1.0)


def block_attend(
    query: Float[Tensor, "b heads n k"],
    key: Float[Tensor, "b heads s k"],
    value: Float[Tensor, "b heads s k"],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    block_size: int = 1024,
) -> Float[Tensor, "b heads n k"]:
    """The output of `attend`, for one block of queries after another, without ever keeping the n x s weights.

    One head and block_size queries at a time, which read one block of keys after another, as in `online_attend`. No
    more than one block of scores is kept. Where |query| |key| tells that no power of a score can
    overflow, the largest is not looked for, and no block has to shrink what others gave. For the gradient only
    log(sum_j exp(score_j)) of each query is kept, one number a row; the weights of a block are computed a second time
    from it, w_j = exp(score_j - log-sum):

        dvalue = w^T doutput,   dscore = w (doutput value^T - sum_k doutput output),   dquery = dscore key / sqrt(k)

    The scores are computed in float32 at least. A gradient of the gradient is not available: take `attend` for it.

    Args:
        query: the tokens that ask.
        key: what each answering token is found by.
        value: what each answering token gives.
        mask: True = may look. Any shape that broadcasts to b heads n s; None = look anywhere.
        block_size: queries answered at a time, at most; of the keys half as many are read at a time. (All blocks are
            made equal, because a short last one costs as much as a long one.) Memory beside the result is about
            block_size^2 / 2 numbers, twice that with the gradient.

    Returns:
        The output of `attend`. A query that may look nowhere gets zeros.

    Raises:
        ShapeError: if the tensors do not fit together.
        TypeError: if the mask is not boolean.
        ValueError: if block_size is not positive.

    Source: Dao et al. 2022 (arXiv:2205.14135); queries in the outer loop, and the log-sum: Dao 2023, algorithms 1 and
    2 (arXiv:2307.08691).
    """
    check_shapes(query, key, mask, value, block_size)
    mask = None if mask is None else mask.expand(*query.shape[:3], key.shape[2])
    # Half as many keys as queries: on a processor a product of matrices of these sizes is the fastest.
    blocks = _part(query.shape[2], block_size), _part(key.shape[2], max(1, block_size // 2))
    return _Blocks.apply(query, key, value, mask, *blocks)[0]


# Measured, blocks take less time than torch's fused kernel from so many queries and keys on.
_MANY = 256


def blocks_are_faster(
    query: Float[Tensor, "b heads n k"], key: Float[Tensor, "b heads s k"], mask: Bool[Tensor, "..."] | None = None
) -> bool:
    """Whether `block_attend` takes less time than torch's fused kernel.

    It does on a processor where its products go to oneDNN (`linear.by_onednn`), for some hundred tokens without a mask,
    in float32 and bfloat16. Elsewhere the fused kernel is the faster one or was not measured.

    Args:
        query, key, mask: as in `block_attend`.
    """
    few = min(query.shape[2], key.shape[2]) < _MANY
    if mask is not None or few or not query.numel() or query.dtype not in (torch.float32, torch.bfloat16):
        return False
    return by_onednn(*(x[0, 0].float().contiguous() for x in (query, key)))


def _part(count: int, most: int) -> int:
    """The size of the equal parts, as few as possible, of a count; at least 1."""
    parts = max(1, -(-count // most))  # -(-a // b) rounds up
    return max(1, -(-count // parts))


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


# exp(x) = 2^(x log2 e), and torch's exp2 takes a third of the time of its exp: the scores, maxima and log-sums of the
# blocks below are multiplied by log2(e).
_LOG2_E = 1 / math.log(2)


# The largest score of a row is taken from all of them so that no power overflows. Between -32 and 32 none does, nor do
# sums of them times values up to 2^80: float32 goes to 2^127. Where all are known to be so small, the largest is not
# looked for.
_SMALL = 32


def _scores_are_small(query: Tensor, key: Tensor) -> bool:
    """Whether no score, times log2(e), can be beyond _SMALL to either side: |q . k| <= |q| |k|."""
    if not query.numel() or not key.numel():
        return True
    longest = [torch.linalg.vector_norm(x, dim=-1).amax().item() for x in (query, key)]
    return math.prod(longest) * _LOG2_E / math.sqrt(query.shape[-1]) <= _SMALL


def _block_scores(asking: Tensor, keys: Tensor, mask: Tensor | None, buffer: Tensor) -> Tensor:
    """Scores of a block of queries, which are divided by sqrt(k) already, and a block of keys; -inf where masked."""
    scores = product(asking, keys, buffer)
    return scores if mask is None else scores.masked_fill_(~mask, -math.inf)


def _blocks_forward(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, query_block: int, key_block: int
) -> tuple[Tensor, Tensor]:
    b, heads, n, k = query.shape
    work = torch.promote_types(query.dtype, torch.float32)  # half precision loses the log-sum
    output, log_sum = torch.zeros_like(query, dtype=work), query.new_empty(b, heads, n, 1, dtype=work)
    buffer = query.new_empty(query_block * key_block, dtype=work)
    small = _scores_are_small(query, key)
    for at in itertools.product(range(b), range(heads)):
        queries, keys, values = (x[at].to(work).contiguous() for x in (query, key, value))
        queries = queries * (_LOG2_E / math.sqrt(k))
        for rows in _slices(n, query_block):
            asking, mixed = queries[rows], output[at][rows]
            # The lowest finite number instead of the -inf of a blind query: 2^(-inf - lowest) is 0, not NaN.
            largest = asking.new_full((len(asking), 1), 0.0 if small else torch.finfo(work).min)
            total = torch.zeros_like(largest)
            for columns in _slices(len(keys), key_block):
                scores = _block_scores(asking, keys[columns], None if mask is None else mask[at][rows, columns], buffer)
                if not small:
                    larger = torch.maximum(largest, scores.amax(1, keepdim=True))
                    shrink, largest = largest.sub_(larger).exp2_(), larger
                    scores.sub_(largest)
                    total.mul_(shrink)
                    mixed.mul_(shrink)
                powers = scores.exp2_()
                total.add_(powers.sum(1, keepdim=True))
                add_product(mixed, powers, values[columns].mT)
            total.clamp_min_(2.0**-_SMALL)  # below it only where it is the 0 of a blind query
            mixed.div_(total)
            log_sum[at][rows] = largest + total.log2()
    return output.to(query.dtype), log_sum


def _blocks_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    output: Tensor,
    log_sum: Tensor,
    query_block: int,
    key_block: int,
) -> tuple[Tensor, Tensor, Tensor]:
    b, heads, n, k = query.shape
    grad_query, grad_key, grad_value = (torch.zeros_like(x, dtype=log_sum.dtype) for x in (query, key, value))
    buffer, other = log_sum.new_empty(query_block * key_block), log_sum.new_empty(query_block * key_block)
    for at in itertools.product(range(b), range(heads)):
        queries, keys, values, wanted = (x[at].to(log_sum.dtype).contiguous() for x in (query, key, value, grad))
        queries = queries * (_LOG2_E / math.sqrt(k))
        to_queries, to_keys, to_values = grad_query[at], grad_key[at], grad_value[at]
        # sum_j w_j (doutput . value_j), which the softmax takes off every entry of a row
        mean = (wanted * output[at]).sum(1, keepdim=True)
        for rows, columns in itertools.product(_slices(n, query_block), _slices(len(keys), key_block)):
            asking, asked = queries[rows], wanted[rows]
            seen = None if mask is None else mask[at][rows, columns]
            weights = _block_scores(asking, keys[columns], seen, buffer).sub_(log_sum[at][rows]).exp2_()
            add_product(to_values[columns].mT, asked.mT, weights.mT)
            to_scores = product(asked, values[columns], other).sub_(mean[rows]).mul_(weights)
            add_product(to_keys[columns].mT, asking.mT, to_scores.mT)
            add_product(to_queries[rows], to_scores, keys[columns].mT)
        to_keys.div_(_LOG2_E)
        to_queries.div_(math.sqrt(k))
    return grad_query.to(query.dtype), grad_key.to(key.dtype), grad_value.to(value.dtype)


# Operators of torch, not plain functions: torch.compile takes an operator as one step instead of unrolling its loops,
# and vmap can be told how to map what writes into buffers.
_blocks = torch.library.custom_op(
    "minivid::blocks",
    _blocks_forward,
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, Tensor? mask, int query_block, int key_block) -> (Tensor, Tensor)",
)
_blocks_gradient = torch.library.custom_op(
    "minivid::blocks_gradient",
    _blocks_backward,
    mutates_args=(),
    schema="(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor? mask, Tensor output, Tensor log_sum, "
    "int query_block, int key_block) -> (Tensor, Tensor, Tensor)",
)


@_blocks.register_fake
def _(query, key, value, *_):
    work = torch.promote_types(query.dtype, torch.float32)
    return torch.empty_like(query), query.new_empty(*query.shape[:3], 1, dtype=work)


@_blocks_gradient.register_fake
def _(grad, query, key, value, *_):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


map_one_by_one(_blocks, _blocks_gradient)


class _Blocks(torch.autograd.Function):
    """What is kept between the pass forward and the pass back: the inputs, the output, one number a query."""

    generate_vmap_rule = True

    @staticmethod
    def forward(query, key, value, mask, query_block, key_block):
        return _blocks(query, key, value, mask, query_block, key_block)

    @staticmethod
    def setup_context(ctx, inputs, output):
        query, key, value, mask, ctx.query_block, ctx.key_block = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(query, key, value, mask, *output)

    @staticmethod
    def backward(ctx, grad, _):
        gradients = _BlocksGradient.apply(grad, *ctx.saved_tensors, ctx.query_block, ctx.key_block)
        return *gradients, None, None, None


class _BlocksGradient(torch.autograd.Function):
    """The pass back, which has none of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad, query, key, value, mask, output, log_sum, query_block, key_block):
        return _blocks_gradient(grad, query, key, value, mask, output, log_sum, query_block, key_block)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *grads):
        raise NotImplementedError("block_attend has no gradient of its gradient; take attend, or kernel='plain'")


def check_shapes(
    query: Tensor, key: Tensor, mask: Tensor | None, value: Tensor | None = None, block_size: int = 1
) -> None:
    """Refuse tensors that do not fit together, by name and numbers.

    Args:
        query, key, mask, value, block_size: as in `attend` and `block_attend`; value None = there are only weights.

    Raises:
        ShapeError: if the tensors do not fit together.
        TypeError: if the mask is not boolean.
        ValueError: if block_size is not positive.
    """
    if query.ndim != 4 or key.ndim != 4 or query.shape[:2] != key.shape[:2] or query.shape[3] != key.shape[3]:
        raise ShapeError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)}: expected b heads n k and b heads s k "
            "with the same b, heads and k"
        )
    if key.shape[2] == 0:
        raise ShapeError(f"key {tuple(key.shape)}: s=0, expected at least one token to look at")
    if value is not None and value.shape != key.shape:
        raise ShapeError(
            f"value: shape {tuple(value.shape)}, expected the key's {tuple(key.shape)} (b heads s k); "
            "every key comes with one value of its width"
        )
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}, expected at least 1")
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(
            f"mask: {mask.dtype}, expected torch.bool with True = may look; of an additive mask take `mask == 0`"
        )
    wanted = (*query.shape[:3], key.shape[2])
    sizes = zip(reversed(mask.shape), reversed(wanted), strict=False)
    fits = mask.ndim <= 4 and all(size in (1, full) for size, full in sizes)
    if not fits:
        raise ShapeError(
            f"mask: shape {tuple(mask.shape)} does not broadcast to b heads n s = {wanted}; "
            "a mask of b s over padded keys is given as b 1 1 s"
        )


def causal_mask(n: int, s: int, *, device: torch.device | str | None = None) -> Bool[Tensor, "n s"]:
    """Who may look where when nobody may look ahead; the last query stands at the last key.

        mask[i, j] = (j <= i + s - n)

    With n = s it is a lower triangle. With n < s the queries are the last n of s tokens, as when a text is continued
    from kept keys. With n > s the first n - s queries stand before the first key and see nothing.

    Args:
        n: queries.
        s: keys.
        device: where the mask is made.

    Returns:
        True = may look.

    Source: Vaswani et al. 2017, section 3.2.3 (arXiv:1706.03762).
    """
    return torch.ones(n, s, dtype=torch.bool, device=device).tril(s - n)


def padding_mask(lengths: Int[Tensor, " b"], s: int) -> Bool[Tensor, "b 1 1 s"]:
    """Who may look where when each row of a batch has `lengths` tokens and padding up to s.

        mask[b, 0, 0, j] = (j < lengths[b])

    Args:
        lengths: tokens of each row.
        s: keys in the padded batch.

    Returns:
        True = a token, False = padding.

    Raises:
        ShapeError: if a row is longer than s or shorter than zero.
    """
    if ((lengths > s) | (lengths < 0)).any():
        raise ShapeError(f"lengths: {lengths.tolist()}, expected 0 to s={s}; a row cannot hold more tokens than keys")
    return rearrange(torch.arange(s, device=lengths.device) < lengths[:, None], "b s -> b 1 1 s")


def block_mask(lengths: Sequence[int] | Int[Tensor, " blocks"]) -> Bool[Tensor, "n n"]:
    """Who may look where when tokens stand block behind block and look inside their own block only.

    With the tokens of one frame as a block, every frame is attended to alone.

    Args:
        lengths: tokens of each block; their sum is n.

    Returns:
        True where the two tokens are of one block.

    Source: Dehghani et al. 2023, example packing (arXiv:2307.06304).
    """
    block = torch.repeat_interleave(torch.as_tensor(lengths))  # lengths 2 3: 0 0 1 1 1
    return block[:, None] == block[None, :]


class MultiHeadAttention(nn.Module):
    """Attention in several heads at once: project, split the width into heads, attend in each, join, project back.

    Children `q_proj`, `k_proj`, `v_proj` and `out_proj`, all `nn.Linear`. torch.nn.MultiheadAttention keeps the first
    three stacked in this order as `in_proj_weight` and `in_proj_bias`; its state dicts can be loaded as they are.
    Tokens come as b n d, as with its batch_first=True.

    Args:
        embed_dim: width d of the tokens that ask, and of the result.
        num_heads: heads; each is k = embed_dim / num_heads wide.
        dropout: share of the weights set to zero, while training only; the others are divided by 1 - dropout.
        bias: whether the four projections add one.
        kdim: width of the tokens the keys are made of; None = embed_dim.
        vdim: width of the tokens the values are made of; None = embed_dim.
        num_kv_heads: heads of the keys and values, a divisor of num_heads; None = num_heads. Head i of the queries
            looks at head i // (num_heads / num_kv_heads) of the keys.
        head_dim: width k of a head; None = embed_dim / num_heads. Given, the heads together may be wider or narrower
            than the tokens.
        qk_norm_eps: a number = every query and key is brought to mean square 1 by an `RMSNorm` over k with this eps,
            children `q_norm` and `k_norm`, before it is turned; None = no norm. Scores stay small however large the
            weights grow.
        kernel: "plain" computes `attend` above, "blocks" the same by `block_attend` and "fused" with one kernel of
            torch; these two do not keep the n x s weights in memory. "blocks" has no dropout and no second gradient.
            "fastest" is "blocks" where `blocks_are_faster` says so and nothing is dropped, and else "fused".
        device, dtype: of the weights.

    Raises:
        ValueError: if the heads do not divide, for an unknown kernel, or for dropout where the kernel has none.

    Source: Vaswani et al. 2017, section 3.2.2 (arXiv:1706.03762); grouped heads: Ainslie et al. 2023, section 2.2
    (arXiv:2305.13245); norms of queries and keys: Dehghani et al. 2023, section 2 (arXiv:2302.05442).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        qk_norm_eps: float | None = None,
        kernel: str = "plain",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1 or (head_dim is None and embed_dim % num_heads):
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}; choose a divisor")
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            raise ValueError(
                f"num_heads {num_heads} is not a multiple of num_kv_heads {num_kv_heads}; choose a divisor"
            )
        if head_dim is not None and head_dim < 1:
            raise ValueError(f"head_dim is {head_dim}, expected at least 1")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout is {dropout}, expected 0 <= dropout < 1")
        if kernel not in KERNELS:
            raise ValueError(f"kernel is {kernel!r}, expected one of {', '.join(KERNELS)}")
        if kernel == "blocks" and dropout:
            raise ValueError(
                f"dropout is {dropout}, expected 0 with kernel 'blocks', which keeps no weights to drop; choose another"
            )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = embed_dim // num_heads if head_dim is None else head_dim
        self.dropout = dropout
        self.kernel = kernel
        # The widths of the tokens that ask and of those that answer, read at every step: faster than the projections'.
        self.qdim = embed_dim
        self.kdim, self.vdim = embed_dim if kdim is None else kdim, embed_dim if vdim is None else vdim
        place = {"device": device, "dtype": dtype}
        options = {"bias": bias, **place}
        self.q_proj = Linear(embed_dim, num_heads * self.head_dim, **options)
        self.k_proj = Linear(self.kdim, num_kv_heads * self.head_dim, **options)
        self.v_proj = Linear(self.vdim, num_kv_heads * self.head_dim, **options)
        self.out_proj = Linear(num_heads * self.head_dim, embed_dim, **options)
        self.qk_norm_eps = qk_norm_eps
        normed = qk_norm_eps is not None
        self.q_norm = RMSNorm(self.head_dim, qk_norm_eps, **place) if normed else None
        self.k_norm = RMSNorm(self.head_dim, qk_norm_eps, **place) if normed else None
        self.reset_parameters()
        self.register_load_state_dict_pre_hook(_take_torch_names)

    def reset_parameters(self) -> None:
        """Draw the weights anew, uniform with variance 2 / (inputs + outputs); biases zero, scales of norms one.

        Source: Glorot and Bengio 2010, equation 16.
        """
        for norm in (self.q_norm, self.k_norm):
            if norm is not None:
                norm.reset_parameters()
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(projection.weight)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        context: Context | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
        rotary: Rotary | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Let the tokens x look at the tokens of a context.

        Args:
            x: the tokens that ask.
            context: the tokens that answer; None = x itself. A pair: the tokens of the keys, those of the values.
            mask: True = may look. Any shape that broadcasts to b heads n s; with a cache, s counts all its tokens.
            causal: True = nobody looks ahead, as with `causal_mask(n, s)` beside the mask; the fused kernel needs no
                n x s numbers for it.
            cache: what this layer kept of earlier tokens. x is appended, and looks at all of them. That nobody looks
                ahead is said by `causal` or by the mask `causal_mask(n, cache.length + n)`, as without a cache.
            rotary: angles of positions.rotary_angles for the tokens x, by which queries and keys are turned; or what
                positions.turns makes of them, where many layers turn by the same.

        Returns:
            One row per token of x. Where a token may look nowhere, this is the bias of out_proj.

        Raises:
            ShapeError: if the tensors do not fit together or do not have the widths of the constructor.
            TypeError: if the mask is not boolean.
            ValueError: if rotary or cache is given with a context, whose tokens are not those of x.
        """
        query, key, value = self._project(x, context, rotary, cache)
        n, s = query.shape[2], key.shape[2]
        # The one mask that torch's kernel has.
        triangle = causal and mask is None and n == s and self.kernel in ("fused", "fastest")
        if causal and n > 1 and not triangle:  # a single token stands last: nothing is ahead of it
            ahead = causal_mask(n, s, device=x.device)
            mask = ahead if mask is None else mask & ahead
        if n == 1 and (mask is None or mask.ndim < 3 or mask.shape[-3] == 1):
            # A group's heads ask like so many tokens of one head, and no key is copied.
            query = query.reshape(-1, self.num_kv_heads, self.num_heads // self.num_kv_heads, self.head_dim)
        else:
            key, value = self._copied(key), self._copied(value)
        dropout, kernel = self.dropout if self.training else 0.0, self.kernel
        if kernel == "fastest":
            free = not dropout and not triangle
            kernel = "blocks" if free and blocks_are_faster(query, key, mask) else "fused"
        if kernel == "fused":
            check_shapes(query, key, mask)
            mixed = F.scaled_dot_product_attention(query, key, value, mask, dropout, triangle)
        elif kernel == "blocks":
            mixed = block_attend(query, key, value, mask)
        else:
            weights = attention_weights(query, key, mask)
            mixed = F.dropout(weights, self.dropout, self.training) @ value
        if n == 1:
            return self.out_proj(mixed.reshape(x.shape[0], 1, -1))
        return self.out_proj(rearrange(mixed, "b heads n k -> b n (heads k)"))

    def attention_weights(
        self,
        x: Float[Tensor, "b n d"],
        context: Context | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        rotary: Rotary | None = None,
    ) -> Float[Tensor, "b heads n s"]:
        """How much each token of x looks at each token of the context, head by head, without dropout.

        Args:
            x, context, mask, rotary: as in `forward`.

        Returns:
            Weights that sum to one over s; zeros where a token may look nowhere.
        """
        query, key, _ = self._project(x, context, rotary)
        return attention_weights(query, self._copied(key), mask)

    def extra_repr(self) -> str:
        """The numbers that the children do not show."""
        return (
            f"num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}, "
            f"head_dim={self.head_dim}, dropout={self.dropout}, kernel={self.kernel!r}"
        )

    def _project(
        self, x: Tensor, context: Context | None, rotary: Rotary | None, cache: KVCache | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if context is not None and rotary is not None:
            raise ValueError("rotary: these are the positions of x, and a context has others; give one or the other")
        if context is not None and cache is not None:
            raise ValueError("cache: it keeps the tokens of x, and a context has others; give one or the other")
        context = x if context is None else context
        keys_from, values_from = context if isinstance(context, tuple) else (context, context)
        self._check_tokens(x, keys_from, values_from)
        query = self._in_heads(self.q_proj(x), self.num_heads)
        key = self._in_heads(self.k_proj(keys_from), self.num_kv_heads)
        value = self._in_heads(self.v_proj(values_from), self.num_kv_heads)
        if self.qk_norm_eps is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if rotary is not None:
            by = rotary if isinstance(rotary, tuple) else turns(rotary)
            query, key = turn(query, *by), turn(key, *by)
        return query, *((key, value) if cache is None else cache.append(key, value))

    def _in_heads(self, x: Tensor, heads: int) -> Tensor:
        """b n (heads k) -> b heads n k, as views: einops would take longer than the work where n is 1."""
        b, n, _ = x.shape
        return x.view(b, n, heads, self.head_dim).transpose(1, 2)

    def _copied(self, x: Tensor) -> Tensor:
        """The heads of keys or values, once for each head of their group; they are kept and turned as the few."""
        copies = self.num_heads // self.num_kv_heads
        return x if copies == 1 else repeat(x, "b heads s k -> b (heads copies) s k", copies=copies)

    def _check_tokens(self, x: Tensor, keys_from: Tensor, values_from: Tensor) -> None:
        wanted = (("x", x, self.qdim), ("keys", keys_from, self.kdim), ("values", values_from, self.vdim))
        for name, tokens, width in wanted:
            if tokens.ndim != 3 or tokens.shape[0] != x.shape[0] or tokens.shape[2] != width:
                raise ShapeError(f"{name}: shape {tuple(tokens.shape)}, expected b={x.shape[0]}, tokens, d={width}")
        if keys_from.shape[1] != values_from.shape[1]:
            raise ShapeError(
                f"context: s={keys_from.shape[1]} tokens for the keys and {values_from.shape[1]} for the values; "
                "every key comes with one value"
            )


def _take_torch_names(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Rename the entries of a torch.nn.MultiheadAttention, before they are loaded."""
    for part in ("weight", "bias"):
        stacked = state.pop(f"{prefix}in_proj_{part}", None)
        if stacked is not None:
            for name, block in zip("qkv", stacked.chunk(3), strict=True):
                state[f"{prefix}{name}_proj.{part}"] = block
    for name in "qkv":  # kept apart there where kdim or vdim differ from embed_dim
        if f"{prefix}{name}_proj_weight" in state:
            state[f"{prefix}{name}_proj.weight"] = state.pop(f"{prefix}{name}_proj_weight")
