"""Scaled dot-product attention: every query takes a weighted mean of the values, weighted by how well the keys fit."""

import math
from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from minivid.layers.positions import rotate
from minivid.shapes import ShapeError

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
    _check(query, key, mask)
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
    if value.shape != key.shape:
        raise ShapeError(
            f"value: shape {tuple(value.shape)}, expected the key's {tuple(key.shape)} (b heads s k); "
            "every key comes with one value of its width"
        )
    weights = attention_weights(query, key, mask)
    return weights @ value, weights


def _check(query: Tensor, key: Tensor, mask: Tensor | None) -> None:
    if query.ndim != 4 or key.ndim != 4 or query.shape[:2] != key.shape[:2] or query.shape[3] != key.shape[3]:
        raise ShapeError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)}: expected b heads n k and b heads s k "
            "with the same b, heads and k"
        )
    if key.shape[2] == 0:
        raise ShapeError(f"key {tuple(key.shape)}: s=0, expected at least one token to look at")
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
    lengths = torch.as_tensor(lengths)
    block = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
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
        kernel: "plain" computes `attend` above. "fused" computes the same with one kernel of torch, which does not
            keep the n x s weights in memory.

    Raises:
        ValueError: if the heads do not divide, or for an unknown kernel.

    Source: Vaswani et al. 2017, section 3.2.2 (arXiv:1706.03762); grouped heads: Ainslie et al. 2023, section 2.2
    (arXiv:2305.13245).
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
        kernel: str = "plain",
    ):
        super().__init__()
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}; choose a divisor")
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            raise ValueError(
                f"num_heads {num_heads} is not a multiple of num_kv_heads {num_kv_heads}; choose a divisor"
            )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout is {dropout}, expected 0 <= dropout < 1")
        if kernel not in ("plain", "fused"):
            raise ValueError(f"kernel is {kernel!r}, expected 'plain' or 'fused'")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.kernel = kernel
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.k_proj = nn.Linear(embed_dim if kdim is None else kdim, num_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(embed_dim if vdim is None else vdim, num_kv_heads * self.head_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.reset_parameters()
        self.register_load_state_dict_pre_hook(_take_torch_names)

    def reset_parameters(self) -> None:
        """Draw the weights anew, uniform with variance 2 / (inputs + outputs); biases zero.

        Source: Glorot and Bengio 2010, equation 16.
        """
        for projection in self.children():
            nn.init.xavier_uniform_(projection.weight)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        context: Context | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        rotary: Float[Tensor, "n half"] | Float[Tensor, "b n half"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Let the tokens x look at the tokens of a context.

        Args:
            x: the tokens that ask.
            context: the tokens that answer; None = x itself. A pair: the tokens of the keys, those of the values.
            mask: True = may look. Any shape that broadcasts to b heads n s.
            rotary: angles of positions.rotary_angles for the tokens x, by which queries and keys are turned.

        Returns:
            One row per token of x. Where a token may look nowhere, this is the bias of out_proj.

        Raises:
            ShapeError: if the tensors do not fit together or do not have the widths of the constructor.
            TypeError: if the mask is not boolean.
            ValueError: if rotary is given with a context, whose tokens stand elsewhere.
        """
        query, key, value = self._project(x, context, rotary)
        if self.kernel == "fused":
            _check(query, key, mask)
            dropout = self.dropout if self.training else 0.0
            mixed = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        else:
            weights = attention_weights(query, key, mask)
            mixed = F.dropout(weights, self.dropout, self.training) @ value
        return self.out_proj(rearrange(mixed, "b heads n k -> b n (heads k)"))

    def attention_weights(
        self,
        x: Float[Tensor, "b n d"],
        context: Context | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        rotary: Float[Tensor, "n half"] | Float[Tensor, "b n half"] | None = None,
    ) -> Float[Tensor, "b heads n s"]:
        """How much each token of x looks at each token of the context, head by head, without dropout.

        Args:
            x, context, mask, rotary: as in `forward`.

        Returns:
            Weights that sum to one over s; zeros where a token may look nowhere.
        """
        query, key, _ = self._project(x, context, rotary)
        return attention_weights(query, key, mask)

    def extra_repr(self) -> str:
        """The numbers that the children do not show."""
        return (
            f"num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}, "
            f"dropout={self.dropout}, kernel={self.kernel!r}"
        )

    def _project(self, x: Tensor, context: Context | None, rotary: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if context is not None and rotary is not None:
            raise ValueError("rotary: these are the positions of x, and a context has others; give one or the other")
        context = x if context is None else context
        keys_from, values_from = context if isinstance(context, tuple) else (context, context)
        self._check_tokens(x, keys_from, values_from)
        query = self._split(self.q_proj(x), self.num_heads)  # b heads n k
        key = self._split(self.k_proj(keys_from), self.num_kv_heads)  # b heads s k
        value = self._split(self.v_proj(values_from), self.num_kv_heads)  # b heads s k
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        return query, key, value

    def _split(self, x: Tensor, heads: int) -> Tensor:
        x = rearrange(x, "b s (heads k) -> b heads s k", heads=heads)
        return repeat(x, "b heads s k -> b (heads copies) s k", copies=self.num_heads // heads)

    def _check_tokens(self, x: Tensor, keys_from: Tensor, values_from: Tensor) -> None:
        wanted = (("x", x, self.q_proj), ("keys", keys_from, self.k_proj), ("values", values_from, self.v_proj))
        for name, tokens, projection in wanted:
            if tokens.ndim != 3 or tokens.shape[0] != x.shape[0] or tokens.shape[2] != projection.in_features:
                raise ShapeError(
                    f"{name}: shape {tuple(tokens.shape)}, expected b={x.shape[0]}, tokens, d={projection.in_features}"
                )
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
