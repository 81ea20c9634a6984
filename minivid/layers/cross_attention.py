"""Attention between a clip and a text: frames gather words while words gather frames; and attention along time."""

import math

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from minivid.layers.attention import MultiHeadAttention, causal_mask, softmax
from minivid.layers.linear import Linear
from minivid.layers.norms import LayerNorm
from minivid.shapes import ShapeError


def cross_modal_attend(
    video: Float[Tensor, "b s video_dim"],
    text: Float[Tensor, "b n text_dim"],
    w_v: Float[Tensor, "video_dim text_dim"],
    w_o: Float[Tensor, "text_dim out_dim"],
) -> tuple[Float[Tensor, "b s out_dim"], Float[Tensor, "b n out_dim"], Float[Tensor, "b s n"], Float[Tensor, "b n s"]]:
    """Let every frame gather words and every word frames: one table of scores, shared out along both its axes.

        scores        = (V W_v) T^T / sqrt(text_dim)       a row for each frame, a column for each word
        video_weights = softmax along each row             a frame shares one among the words
        text_weights  = (softmax along each column)^T      a word shares one among the frames
        video_output  = video_weights T W_o
        text_output   = text_weights (V W_v) W_o

    Articles write softmax(V W_v T^T) W_o for both directions; this is that formula with the axis of each softmax and
    what its weights average said.

    Args:
        video: s tokens of a clip, such as one for each frame.
        text: n tokens of a text.
        w_v: takes a token of the clip to the width of the text, where both can be compared.
        w_o: the output matrix, the same for both directions.

    Returns:
        video_output and text_output, what each frame and each word gathered; then video_weights, which sum to one over
        the words n, and text_weights, which sum to one over the frames s.

    Raises:
        ShapeError: if the tensors do not fit together.

    Source: one matrix between two widths: Luong, Pham and Manning 2015, section 3.1, "general" (arXiv:1508.04025); one
    table for both directions: Xiong, Zhong and Socher 2016, section 2.2 (arXiv:1611.01604).
    """
    if w_v.ndim != 2 or w_o.ndim != 2 or w_o.shape[0] != w_v.shape[1]:
        raise ShapeError(
            f"w_v {tuple(w_v.shape)} and w_o {tuple(w_o.shape)}: expected video_dim text_dim and text_dim out_dim with "
            "the same text_dim"
        )
    check_streams(video, text, *w_v.shape)
    seen = video @ w_v  # b s text_dim
    scores = seen @ text.mT / math.sqrt(text.shape[-1])  # b s n
    video_weights = softmax(scores, dim=-1)  # b s n
    text_weights = softmax(scores, dim=-2).mT  # b n s
    return video_weights @ text @ w_o, text_weights @ seen @ w_o, video_weights, text_weights


class CrossAttention(MultiHeadAttention):
    """Multi-head attention from tokens of one width to tokens of another, with heads of a third.

    The same children as MultiHeadAttention; only `q_proj` and `out_proj` have the width of the tokens that ask. With
    query_dim = embed_dim it is MultiHeadAttention, and takes the state dicts of torch.nn.MultiheadAttention.

    Args:
        query_dim: width of the tokens that ask, and of the result.
        context_dim: width of the tokens that answer.
        embed_dim: width of all heads together.
        num_heads: heads; each is embed_dim / num_heads wide.
        dropout, bias, kernel: as in MultiHeadAttention.

    Raises:
        ValueError: as for MultiHeadAttention.

    Source: Lu et al. 2019, co-attentional transformer layers (arXiv:1908.02265).
    """

    def __init__(
        self,
        query_dim: int,
        context_dim: int,
        embed_dim: int,
        num_heads: int,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        kernel: str = "plain",
    ):
        super().__init__(
            embed_dim, num_heads, dropout=dropout, bias=bias, kdim=context_dim, vdim=context_dim, kernel=kernel
        )
        self.qdim = query_dim
        self.q_proj = Linear(query_dim, embed_dim, bias=bias)
        self.out_proj = Linear(embed_dim, query_dim, bias=bias)
        self.reset_parameters()


class CrossModalAttention(nn.Module):
    """A clip reads a text while the text reads the clip: co-attention, with a norm and a residual connection each.

        norm_first:  video' = video + A(norm_v(video), norm_t(text));   text' = text + B(norm_t(text), norm_v(video))
        otherwise:   video' = norm_v(video + A(video, text));           text' = norm_t(text + B(text, video))

    A and B are multi-head attention from the first to the second. Both read the streams as they came: neither sees what
    the other has just become. Each stream keeps its width, so that blocks can be stacked. A feed-forward layer for each
    stream is not part of it: an EncoderBlock of each stream behind this block adds it.

    Children `video_reads_text` (A), `text_reads_video` (B), both CrossAttention, `video_norm` and `text_norm`.

    Padding is not there: a padded token is read by nobody, whatever it holds, and comes out as zeros. A stream whose
    other side is padding alone gets nothing added, not even a bias.

    Args:
        video_dim: width of a token of the clip.
        text_dim: width of a token of the text.
        embed_dim: width of all heads together, in both directions.
        num_heads: heads in each direction.
        dropout: share set to zero while training, of the attention weights and of what is added to each stream.
        bias: whether projections and norms add one.
        norm_first: whether the streams are normalised before they are read (pre-norm, as in EncoderBlock), or the sums
            are (post-norm, as in ViLBERT).
        norm_eps: eps of the norms.
        kernel: how attention is computed, as in MultiHeadAttention.

    Raises:
        ValueError: as for MultiHeadAttention.

    Source: Lu et al. 2019, co-attentional transformer layers (arXiv:1908.02265).
    """

    def __init__(
        self,
        video_dim: int,
        text_dim: int,
        embed_dim: int,
        num_heads: int,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        norm_first: bool = True,
        norm_eps: float = 1e-5,
        kernel: str = "plain",
    ):
        super().__init__()
        self.video_dim, self.text_dim = video_dim, text_dim
        self.norm_first = norm_first
        self.dropout = dropout
        attention = dict(dropout=dropout, bias=bias, kernel=kernel)
        self.video_norm = LayerNorm(video_dim, eps=norm_eps, bias=bias)
        self.text_norm = LayerNorm(text_dim, eps=norm_eps, bias=bias)
        self.video_reads_text = CrossAttention(video_dim, text_dim, embed_dim, num_heads, **attention)
        self.text_reads_video = CrossAttention(text_dim, video_dim, embed_dim, num_heads, **attention)

    def forward(
        self,
        video: Float[Tensor, "b s video_dim"],
        text: Float[Tensor, "b n text_dim"],
        *,
        video_mask: Bool[Tensor, "b s"] | None = None,
        text_mask: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "b s video_dim"], Float[Tensor, "b n text_dim"]]:
        """Let both streams read each other.

        Args:
            video: tokens of the clips.
            text: tokens of the texts.
            video_mask: True = a token of the clip, False = padding; None = no padding.
            text_mask: the same for the text.

        Returns:
            Both streams, in their shapes; padding as zeros.

        Raises:
            ShapeError: if the tensors do not fit together or do not have the widths of the constructor.
            TypeError: if a mask is not boolean.
        """
        video, text, v, t = self._enter(video, text, video_mask, text_mask)
        video = video + self._gathered(self.video_reads_text, v, t, text_mask)
        text = text + self._gathered(self.text_reads_video, t, v, video_mask)
        if not self.norm_first:
            video, text = self.video_norm(video), self.text_norm(text)
        return hide_padding(video, video_mask), hide_padding(text, text_mask)

    def attention_weights(
        self,
        video: Float[Tensor, "b s video_dim"],
        text: Float[Tensor, "b n text_dim"],
        *,
        video_mask: Bool[Tensor, "b s"] | None = None,
        text_mask: Bool[Tensor, "b n"] | None = None,
    ) -> tuple[Float[Tensor, "b heads s n"], Float[Tensor, "b heads n s"]]:
        """How much each token of the clip looks at each word, and each word at each token of the clip.

        Args:
            video, text, video_mask, text_mask: as in `forward`.

        Returns:
            Weights of the clip, which sum to one over the words n, and weights of the text, which sum to one over the
            tokens s of the clip; without dropout. Rows and columns of padding are zeros.

        Raises:
            ShapeError, TypeError: as in `forward`.
        """
        _, _, v, t = self._enter(video, text, video_mask, text_mask)
        video_weights = self.video_reads_text.attention_weights(v, t, mask=_keys(text_mask))
        text_weights = self.text_reads_video.attention_weights(t, v, mask=_keys(video_mask))
        return tuple(
            weights if mask is None else weights.masked_fill(~rearrange(mask, "b n -> b 1 n 1"), 0.0)
            for weights, mask in ((video_weights, video_mask), (text_weights, text_mask))
        )

    def extra_repr(self) -> str:
        """What the children do not show."""
        return f"norm_first={self.norm_first}, dropout={self.dropout}"

    def _enter(self, video, text, video_mask, text_mask) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The streams without their padding's numbers, and both as the attentions read them."""
        check_streams(video, text, self.video_dim, self.text_dim)
        check_mask("video_mask", video_mask, video)
        check_mask("text_mask", text_mask, text)
        video, text = hide_padding(video, video_mask), hide_padding(text, text_mask)
        if self.norm_first:
            return video, text, self.video_norm(video), self.text_norm(text)
        return video, text, video, text

    def _gathered(self, attention: CrossAttention, asks: Tensor, answers: Tensor, mask: Tensor | None) -> Tensor:
        """What one stream takes from the other; mask says which tokens of the other are there."""
        gathered = F.dropout(attention(asks, answers, mask=_keys(mask)), self.dropout, self.training)
        # Where nobody answers, attention gives the bias of out_proj: something, out of nothing.
        return gathered if mask is None else hide_padding(gathered, mask.any(1, keepdim=True))


class TemporalAttention(nn.Module):
    """Attention along time alone: each place of a picture looks at the same place in the other frames.

        output[b, :, s] = attention over the t tokens x[b, :, s]

    For t frames of s places that is s tables of t x t weights, where attention over all tokens at once has one of
    s t x s t: s times fewer. Other places are not seen; attention within each frame is the other half. Nothing tells
    the order of frames but the causal mask: positions are added before.

    Child `attention`, a MultiHeadAttention, which takes the state dicts of torch.nn.MultiheadAttention.

    Args:
        embed_dim: width d of a token.
        num_heads: heads; each is embed_dim / num_heads wide.
        dropout, bias, kernel: as in MultiHeadAttention.
        causal: whether a frame sees itself and earlier frames only.

    Raises:
        ValueError: as for MultiHeadAttention.

    Source: Bertasius, Wang and Torresani 2021, section 3, divided space-time attention (arXiv:2102.05095); Arnab et al.
    2021, section 3.3, model 3 (arXiv:2103.15691).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        causal: bool = False,
        kernel: str = "plain",
    ):
        super().__init__()
        self.causal = causal
        self.attention = MultiHeadAttention(embed_dim, num_heads, dropout=dropout, bias=bias, kernel=kernel)

    def forward(
        self, x: Float[Tensor, "b t s d"], *, frame_mask: Bool[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b t s d"]:
        """Let each place look along time.

        Args:
            x: tokens, s of them in each of t frames.
            frame_mask: True = a frame, False = padding; None = no padding.

        Returns:
            What each token gathered. A padded frame is seen by nobody, whatever it holds, and comes out as zeros.

        Raises:
            ShapeError: if x is not b t s d with d = embed_dim, or the mask not b t.
            TypeError: if the mask is not boolean.
        """
        columns, mask = self._columns(x, frame_mask)
        gathered = self.attention(columns, mask=mask)
        return hide_padding(rearrange(gathered, "(b s) t d -> b t s d", b=x.shape[0]), frame_mask)

    def attention_weights(
        self, x: Float[Tensor, "b t s d"], *, frame_mask: Bool[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b s heads t t"]:
        """How much each frame looks at each frame, place by place and head by head, without dropout.

        Args:
            x, frame_mask: as in `forward`.

        Returns:
            Weights that sum to one over the last axis. Rows and columns of padded frames are zeros.

        Raises:
            ShapeError, TypeError: as in `forward`.
        """
        columns, mask = self._columns(x, frame_mask)
        weights = self.attention.attention_weights(columns, mask=mask)
        weights = rearrange(weights, "(b s) heads n t -> b s heads n t", b=x.shape[0])
        return weights if frame_mask is None else weights.masked_fill(~rearrange(frame_mask, "b n -> b 1 1 n 1"), 0.0)

    def extra_repr(self) -> str:
        """What the child does not show."""
        return f"causal={self.causal}"

    def _columns(self, x: Tensor, frame_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """A sequence of t tokens for each clip and place, and who may look where in it."""
        if x.ndim != 4 or x.shape[3] != self.attention.embed_dim:
            raise ShapeError(f"x: shape {tuple(x.shape)}, expected b t s d with d={self.attention.embed_dim}")
        check_mask("frame_mask", frame_mask, x)
        columns = rearrange(hide_padding(x, frame_mask), "b t s d -> (b s) t d")
        t, s = x.shape[1:3]
        mask = causal_mask(t, t, device=x.device) if self.causal else None
        if frame_mask is not None:
            frames = repeat(frame_mask, "b t -> (b s) 1 1 t", s=s)
            mask = frames if mask is None else frames & mask
        return columns, mask


def hide_padding(x: Float[Tensor, "b n *rest"], mask: Bool[Tensor, "b _"] | None) -> Float[Tensor, "b n *rest"]:
    """Put zeros where there is padding, in place of whatever stands there, NaN included.

    A weight of zero does not hide a number that is not finite: 0 x NaN is NaN.

    Args:
        x: tokens.
        mask: True = a token, False = padding; None = no padding. An axis of size 1 counts for all of x's.

    Returns:
        x with zeros, through which no gradient flows, at the padding.
    """
    return x if mask is None else x.masked_fill(~mask.view(*mask.shape, *[1] * (x.ndim - 2)), 0.0)


def check_mask(name: str, mask: Tensor | None, x: Tensor) -> None:
    """Refuse a padding mask that does not go with its tokens.

    Args:
        name: what the mask is called, for the error.
        mask: the mask, or None.
        x: the tokens, whose first two axes the mask has.

    Raises:
        TypeError: if the mask is not boolean.
        ShapeError: if it has another shape.
    """
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(f"{name}: {mask.dtype}, expected torch.bool with True = a token; of 1 and 0 take `mask == 1`")
    if mask.shape != x.shape[:2]:
        raise ShapeError(
            f"{name}: shape {tuple(mask.shape)}, expected {tuple(x.shape[:2])}, one for each token that it speaks of; "
            "each side has a mask of its own"
        )


def check_streams(video: Tensor, text: Tensor, video_dim: int, text_dim: int) -> None:
    """Refuse a clip and a text that do not fit together, by name and numbers.

    Args:
        video, text: tokens, b of them each.
        video_dim, text_dim: the widths that they should have.

    Raises:
        ShapeError: if a stream has another width or no token, or if they are not as many clips as texts.
    """
    for name, x, width in (("video", video, video_dim), ("text", text, text_dim)):
        if x.ndim != 3 or x.shape[2] != width:
            raise ShapeError(f"{name}: shape {tuple(x.shape)}, expected b, tokens, {name}_dim={width}")
        if x.shape[1] == 0:
            raise ShapeError(
                f"{name}: shape {tuple(x.shape)}, expected at least one token; pad it and mask the padding"
            )
    if video.shape[0] != text.shape[0]:
        raise ShapeError(f"video: b={video.shape[0]} and text: b={text.shape[0]}; every clip comes with one text")


def _keys(mask: Tensor | None) -> Tensor | None:
    """A padding mask as one over the tokens that answer."""
    return None if mask is None else rearrange(mask, "b s -> b 1 1 s")
