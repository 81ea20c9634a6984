"""Transformer blocks: tokens look at each other, then each thinks alone, and both are added to what was there."""

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from minivid.layers.attention import MultiHeadAttention
from minivid.layers.feed_forward import FeedForward, gelu
from minivid.layers.norms import LayerNorm


class EncoderBlock(nn.Module):
    """Self-attention, then a feed-forward layer, each with a norm and a residual connection.

        norm_first:  x = x + attention(norm(x));   x = x + feed_forward(norm(x))
        otherwise:   x = norm(x + attention(x));   x = norm(x + feed_forward(x))

    With the norm first, a straight sum runs from the first token to the last block: the residual stream. A mask makes
    the block causal; with norm_first and a causal mask it is the block of GPT-2.

    Children `attention`, `attention_norm`, `feed_forward` and `feed_forward_norm`. torch.nn.TransformerEncoderLayer
    with batch_first=True computes the same; it names them self_attn, norm1, linear1 with linear2, and norm2.

    Args:
        embed_dim: width d of a token.
        num_heads: heads of the attention.
        hidden_dim: width f of the feed-forward layer.
        dropout: share set to zero while training, of the attention weights, of the hidden numbers and of what each of
            the two parts adds.
        activation: between the two linear layers.
        norm_first: whether each part reads normalised tokens (pre-norm), or the sum is normalised (post-norm).
        norm_eps: eps of the norms.
        bias: whether the linear layers and the norms add one.
        kernel: "plain", "blocks" or "fused" attention, as in MultiHeadAttention.

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
        activation: Callable[[Tensor], Tensor] = gelu,
        norm_first: bool = True,
        norm_eps: float = 1e-5,
        bias: bool = True,
        kernel: str = "plain",
    ):
        super().__init__()
        self.norm_first = norm_first
        self.dropout = dropout
        self.attention_norm = LayerNorm(embed_dim, eps=norm_eps, bias=bias)
        self.attention = MultiHeadAttention(embed_dim, num_heads, dropout=dropout, bias=bias, kernel=kernel)
        self.feed_forward_norm = LayerNorm(embed_dim, eps=norm_eps, bias=bias)
        self.feed_forward = FeedForward(embed_dim, hidden_dim, activation=activation, dropout=dropout, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        *,
        mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Let the tokens look at each other, then send each through the feed-forward layer.

        Args:
            x: tokens.
            mask: True = may look. Any shape that broadcasts to b heads n n.
        """
        if self.norm_first:
            x = x + self._drop(self.attention(self.attention_norm(x), mask=mask))
            return x + self._drop(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + self._drop(self.attention(x, mask=mask)))
        return self.feed_forward_norm(x + self._drop(self.feed_forward(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class DecoderBlock(nn.Module):
    """Self-attention, attention to a memory, then a feed-forward layer, each with a norm and a residual connection.

        norm_first:  x = x + self_attention(norm(x));   x = x + cross_attention(norm(x), memory);   ...
        otherwise:   x = norm(x + self_attention(x));   x = norm(x + cross_attention(x, memory));   ...

    The memory is what an encoder made of the source; it is read as it is. Children `self_attention`, `cross_attention`
    and `feed_forward`, each with a `..._norm`. torch.nn.TransformerDecoderLayer with batch_first=True computes the
    same.

    Args:
        embed_dim: width d of a token.
        num_heads: heads of both attentions.
        hidden_dim: width f of the feed-forward layer.
        memory_dim: width of the memory's tokens; None = embed_dim.
        dropout, activation, norm_first, norm_eps, bias, kernel: as in EncoderBlock.

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
        activation: Callable[[Tensor], Tensor] = gelu,
        norm_first: bool = True,
        norm_eps: float = 1e-5,
        bias: bool = True,
        kernel: str = "plain",
    ):
        super().__init__()
        self.norm_first = norm_first
        self.dropout = dropout
        attention = dict(dropout=dropout, bias=bias, kernel=kernel)
        self.self_attention_norm = LayerNorm(embed_dim, eps=norm_eps, bias=bias)
        self.self_attention = MultiHeadAttention(embed_dim, num_heads, **attention)
        self.cross_attention_norm = LayerNorm(embed_dim, eps=norm_eps, bias=bias)
        self.cross_attention = MultiHeadAttention(embed_dim, num_heads, kdim=memory_dim, vdim=memory_dim, **attention)
        self.feed_forward_norm = LayerNorm(embed_dim, eps=norm_eps, bias=bias)
        self.feed_forward = FeedForward(embed_dim, hidden_dim, activation=activation, dropout=dropout, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        memory: Float[Tensor, "b s memory_dim"],
        *,
        mask: Bool[Tensor, "..."] | None = None,
        memory_mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Let the tokens look at each other, then at the memory, then send each through the feed-forward layer.

        Args:
            x: tokens of the target.
            memory: tokens of the source.
            mask: who may look at whom within x; broadcasts to b heads n n. Give causal_mask(n, n) when x is a text that
                is to be continued: nothing is hidden without it.
            memory_mask: who may look where in the memory; broadcasts to b heads n s.
        """
        if self.norm_first:
            x = x + self._drop(self.self_attention(self.self_attention_norm(x), mask=mask))
            x = x + self._drop(self.cross_attention(self.cross_attention_norm(x), memory, mask=memory_mask))
            return x + self._drop(self.feed_forward(self.feed_forward_norm(x)))
        x = self.self_attention_norm(x + self._drop(self.self_attention(x, mask=mask)))
        x = self.cross_attention_norm(x + self._drop(self.cross_attention(x, memory, mask=memory_mask)))
        return self.feed_forward_norm(x + self._drop(self.feed_forward(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
