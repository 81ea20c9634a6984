"""Transformer blocks: tokens look at each other, then each thinks alone, and both are added to what was there."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from minivid.layers.attention import MultiHeadAttention
from minivid.layers.feed_forward import FeedForward, gelu, gelu_tanh, silu
from minivid.layers.kv_cache import KVCache
from minivid.layers.norms import LayerNorm
from minivid.shapes import ShapeError

# A function of one tensor, or its name.
Activation = str | Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": torch.relu,
    "silu": silu,
}


class EncoderBlock(nn.Module):
    """Self-attention, then a feed-forward layer, each with a norm and a residual connection.

        norm_first:  x = x + attention(norm(x));   x = x + feed_forward(norm(x))
        otherwise:   x = norm(x + attention(x));   x = norm(x + feed_forward(x))

    With the norm first, a straight sum runs from the first token to the last block: the residual stream. A mask makes
    the block causal; with norm_first and a causal mask it is the block of GPT-2.

    Children `attention`, `attention_norm`, `feed_forward` and `feed_forward_norm`. torch.nn.TransformerEncoderLayer
    with batch_first=True computes the same, and its state dicts can be loaded as they are. It names these children
    self_attn, norm1, linear1 with linear2, and norm2, and the arguments d_model, nhead, dim_feedforward and
    layer_norm_eps; its masks say True = may not look.

    Args:
        embed_dim: width d of a token.
        num_heads: heads of the attention.
        hidden_dim: width f of the feed-forward layer.
        dropout: share set to zero while training, of the attention weights, of the hidden numbers and of what each of
            the two parts adds.
        activation: between the two linear layers: "gelu", "gelu_tanh", "relu", "silu", or a function of one tensor.
        norm_first: whether each part reads normalised tokens (pre-norm), or the sum is normalised (post-norm).
        norm_eps: eps of the norms.
        bias: whether the linear layers and the norms add one.
        kernel: how attention is computed, as in MultiHeadAttention.
        device, dtype: where the weights are, and their type.

    Raises:
        ValueError: for an unknown activation, a hidden_dim below 1, or what MultiHeadAttention refuses.

    Source: post-norm: Vaswani et al. 2017, section 3.1 (arXiv:1706.03762); pre-norm: Xiong et al. 2020, table 1
    (arXiv:2002.04745).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        *,
        dropout: float = 0.0,
        activation: Activation = "gelu",
        norm_first: bool = True,
        norm_eps: float = 1e-5,
        bias: bool = True,
        kernel: str = "plain",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.norm_first = norm_first
        self.dropout = dropout
        kind = {"bias": bias, "device": device, "dtype": dtype}
        self.attention_norm = LayerNorm(embed_dim, eps=norm_eps, **kind)
        self.attention = MultiHeadAttention(embed_dim, num_heads, dropout=dropout, kernel=kernel, **kind)
        self.feed_forward_norm = LayerNorm(embed_dim, eps=norm_eps, **kind)
        self.feed_forward = _feed_forward(embed_dim, hidden_dim, activation, dropout=dropout, **kind)
        self.register_load_state_dict_pre_hook(_take_torch_names)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        *,
        mask: Bool[Tensor, "..."] | None = None,
        cache: KVCache | None = None,
        rotary: Float[Tensor, "n half"] | Float[Tensor, "b n half"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Let the tokens look at each other, then send each through the feed-forward layer.

        Args:
            x: tokens.
            mask: True = may look. Any shape that broadcasts to b heads n s; s = n, or all tokens of the cache.
            cache: what this block's attention kept of earlier tokens; x is appended. That nobody looks ahead is the
                mask's business: `causal_mask(n, cache.length + n)`.
            rotary: angles of positions.rotary_angles for the tokens x.

        Raises:
            ShapeError: if the tensors do not fit together.
        """
        if self.norm_first:
            x = x + self._drop(self.attention(self.attention_norm(x), mask=mask, cache=cache, rotary=rotary))
            return x + self._drop(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + self._drop(self.attention(x, mask=mask, cache=cache, rotary=rotary)))
        return self.feed_forward_norm(x + self._drop(self.feed_forward(x)))

    def extra_repr(self) -> str:
        """The numbers that the children do not show."""
        return f"norm_first={self.norm_first}, dropout={self.dropout}"

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class DecoderBlock(nn.Module):
    """Self-attention, attention to a memory, then a feed-forward layer, each with a norm and a residual connection.

        norm_first:  x = x + self_attention(norm(x));   x = x + cross_attention(norm(x), memory);   ...
        otherwise:   x = norm(x + self_attention(x));   x = norm(x + cross_attention(x, memory));   ...

    The memory is what an encoder made of the source; it is read as it is. Children `self_attention`, `cross_attention`
    and `feed_forward`, each with a `..._norm`. torch.nn.TransformerDecoderLayer with batch_first=True computes the
    same, and its state dicts can be loaded as they are.

    Args:
        embed_dim: width d of a token.
        num_heads: heads of both attentions.
        hidden_dim: width f of the feed-forward layer.
        memory_dim: width of the memory's tokens; None = embed_dim.
        dropout, activation, norm_first, norm_eps, bias, kernel, device, dtype: as in EncoderBlock.

    Raises:
        ValueError: as EncoderBlock.

    Source: Vaswani et al. 2017, section 3.1 (arXiv:1706.03762).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        *,
        memory_dim: int | None = None,
        dropout: float = 0.0,
        activation: Activation = "gelu",
        norm_first: bool = True,
        norm_eps: float = 1e-5,
        bias: bool = True,
        kernel: str = "plain",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.norm_first = norm_first
        self.dropout = dropout
        self.memory_dim = embed_dim if memory_dim is None else memory_dim
        kind = {"bias": bias, "device": device, "dtype": dtype}
        self.self_attention_norm = LayerNorm(embed_dim, eps=norm_eps, **kind)
        self.self_attention = MultiHeadAttention(embed_dim, num_heads, dropout=dropout, kernel=kernel, **kind)
        self.cross_attention_norm = LayerNorm(embed_dim, eps=norm_eps, **kind)
        self.cross_attention = MultiHeadAttention(
            embed_dim, num_heads, kdim=memory_dim, vdim=memory_dim, dropout=dropout, kernel=kernel, **kind
        )
        self.feed_forward_norm = LayerNorm(embed_dim, eps=norm_eps, **kind)
        self.feed_forward = _feed_forward(embed_dim, hidden_dim, activation, dropout=dropout, **kind)
        self.register_load_state_dict_pre_hook(_take_torch_names)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        memory: Float[Tensor, "b s memory_dim"],
        *,
        mask: Bool[Tensor, "..."] | None = None,
        memory_mask: Bool[Tensor, "..."] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Let the tokens look at each other, then at the memory, then send each through the feed-forward layer.

        Args:
            x: tokens of the target.
            memory: tokens of the source.
            mask: who may look at whom within x; broadcasts to b heads n n. Give causal_mask(n, n) when x is a text that
                is to be continued: nothing is hidden without it.
            memory_mask: who may look where in the memory; broadcasts to b heads n s.
            cache: what the self-attention kept of earlier tokens, as in EncoderBlock; the memory is given every time.

        Raises:
            ShapeError: if the tensors do not fit together.
        """
        if memory.ndim != 3 or memory.shape[0] != x.shape[0] or memory.shape[2] != self.memory_dim:
            raise ShapeError(
                f"memory: shape {tuple(memory.shape)}, expected b={x.shape[0]}, s, memory_dim={self.memory_dim}"
            )
        if self.norm_first:
            x = x + self._drop(self.self_attention(self.self_attention_norm(x), mask=mask, cache=cache))
            x = x + self._drop(self.cross_attention(self.cross_attention_norm(x), memory, mask=memory_mask))
            return x + self._drop(self.feed_forward(self.feed_forward_norm(x)))
        x = self.self_attention_norm(x + self._drop(self.self_attention(x, mask=mask, cache=cache)))
        x = self.cross_attention_norm(x + self._drop(self.cross_attention(x, memory, mask=memory_mask)))
        return self.feed_forward_norm(x + self._drop(self.feed_forward(x)))

    def extra_repr(self) -> str:
        """The numbers that the children do not show."""
        return f"norm_first={self.norm_first}, dropout={self.dropout}"

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Encoder(nn.Module):
    """Encoder blocks one behind the other, and a norm at the end.

        x = layers_N(... layers_1(x));   norm(x) if final_norm

    Nothing normalises the stream that pre-norm blocks add to, so that whoever reads it does so through a last norm.
    Children `layers` and `norm`: state dicts of torch.nn.TransformerEncoder can be loaded as they are. There, every
    layer starts as a copy of one; here, each is drawn by itself.

    Args:
        embed_dim, num_heads, hidden_dim: as in EncoderBlock.
        num_layers: blocks.
        final_norm: whether there is a norm at the end; None = with norm_first, as post-norm blocks end in one.
        norm_first, norm_eps, bias, device, dtype, options: as in EncoderBlock.

    Raises:
        ValueError: if num_layers is below 1, or as EncoderBlock.

    Source: Vaswani et al. 2017, section 3.1 (arXiv:1706.03762); the final norm: Xiong et al. 2020, table 1
    (arXiv:2002.04745).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        num_layers: int,
        *,
        final_norm: bool | None = None,
        norm_first: bool = True,
        norm_eps: float = 1e-5,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: object,
    ):
        super().__init__()
        _check_layers(num_layers)
        kind = {"bias": bias, "device": device, "dtype": dtype}
        options = dict(options, norm_first=norm_first, norm_eps=norm_eps, **kind)
        self.layers = nn.ModuleList(
            EncoderBlock(embed_dim, num_heads, hidden_dim, **options) for _ in range(num_layers)
        )
        final_norm = norm_first if final_norm is None else final_norm
        self.norm = LayerNorm(embed_dim, eps=norm_eps, **kind) if final_norm else None

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        *,
        mask: Bool[Tensor, "..."] | None = None,
        caches: Sequence[KVCache] | None = None,
        rotary: Float[Tensor, "n half"] | Float[Tensor, "b n half"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Send the tokens through all blocks.

        Args:
            x, mask, rotary: as in EncoderBlock; the same for every block.
            caches: one for each block.

        Raises:
            ShapeError: if the tensors do not fit together.
            ValueError: if there is not one cache a block.
        """
        for layer, cache in zip(self.layers, _one_each(caches, self.layers), strict=True):
            x = layer(x, mask=mask, cache=cache, rotary=rotary)  # b n d
        return x if self.norm is None else self.norm(x)


class Decoder(nn.Module):
    """Decoder blocks one behind the other, all reading one memory, and a norm at the end.

        x = layers_N(... layers_1(x, memory) ..., memory);   norm(x) if final_norm

    Children `layers` and `norm`: state dicts of torch.nn.TransformerDecoder can be loaded as they are.

    Args:
        embed_dim, num_heads, hidden_dim: as in DecoderBlock.
        num_layers, final_norm: as in Encoder.
        norm_first, norm_eps, bias, device, dtype, options: as in DecoderBlock.

    Raises:
        ValueError: if num_layers is below 1, or as DecoderBlock.

    Source: Vaswani et al. 2017, section 3.1 (arXiv:1706.03762).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        num_layers: int,
        *,
        final_norm: bool | None = None,
        norm_first: bool = True,
        norm_eps: float = 1e-5,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: object,
    ):
        super().__init__()
        _check_layers(num_layers)
        kind = {"bias": bias, "device": device, "dtype": dtype}
        options = dict(options, norm_first=norm_first, norm_eps=norm_eps, **kind)
        self.layers = nn.ModuleList(
            DecoderBlock(embed_dim, num_heads, hidden_dim, **options) for _ in range(num_layers)
        )
        final_norm = norm_first if final_norm is None else final_norm
        self.norm = LayerNorm(embed_dim, eps=norm_eps, **kind) if final_norm else None

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        memory: Float[Tensor, "b s memory_dim"],
        *,
        mask: Bool[Tensor, "..."] | None = None,
        memory_mask: Bool[Tensor, "..."] | None = None,
        caches: Sequence[KVCache] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Send the tokens through all blocks.

        Args:
            x, memory, mask, memory_mask: as in DecoderBlock; the same for every block.
            caches: one for each block.

        Raises:
            ShapeError: if the tensors do not fit together.
            ValueError: if there is not one cache a block.
        """
        for layer, cache in zip(self.layers, _one_each(caches, self.layers), strict=True):
            x = layer(x, memory, mask=mask, memory_mask=memory_mask, cache=cache)  # b n d
        return x if self.norm is None else self.norm(x)


def _feed_forward(embed_dim: int, hidden_dim: int, activation: Activation, **options: object) -> FeedForward:
    if hidden_dim < 1:
        raise ValueError(f"hidden_dim is {hidden_dim}, expected at least 1")
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}, or a function")
        activation = ACTIVATIONS[activation]
    return FeedForward(embed_dim, hidden_dim, activation=activation, **options)


def _check_layers(num_layers: int) -> None:
    if num_layers < 1:
        raise ValueError(f"num_layers is {num_layers}, expected at least 1")


def _one_each(caches: Sequence[KVCache] | None, layers: nn.ModuleList) -> Sequence[KVCache | None]:
    if caches is None:
        return [None] * len(layers)
    if len(caches) != len(layers):
        raise ValueError(f"caches: {len(caches)} for {len(layers)} blocks; give one for each")
    return caches


_TORCH_NAMES = {
    EncoderBlock: {
        "self_attn": "attention",
        "norm1": "attention_norm",
        "linear1": "feed_forward.up_proj",
        "linear2": "feed_forward.down_proj",
        "norm2": "feed_forward_norm",
    },
    DecoderBlock: {
        "self_attn": "self_attention",
        "norm1": "self_attention_norm",
        "multihead_attn": "cross_attention",
        "norm2": "cross_attention_norm",
        "linear1": "feed_forward.up_proj",
        "linear2": "feed_forward.down_proj",
        "norm3": "feed_forward_norm",
    },
}


def _take_torch_names(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Rename the entries of a torch.nn.TransformerEncoderLayer or TransformerDecoderLayer, before they are loaded."""
    names = _TORCH_NAMES[EncoderBlock if isinstance(module, EncoderBlock) else DecoderBlock]
    for key in list(state):
        child, _, rest = key.removeprefix(prefix).partition(".")
        if key.startswith(prefix) and child in names:
            state[f"{prefix}{names[child]}.{rest}"] = state.pop(key)
