"""Classic wrong answers about transformer blocks, each with three hints of increasing directness."""

from collections.abc import Callable, Iterator

import torch
from strategies import normal
from torch import nn
from torch.nn import functional as F

from minivid.classroom.museum import Mistake, Probe
from minivid.layers import transformer as library
from minivid.layers.attention import causal_mask, padding_mask

# ---- EncoderBlock: each mistake is the library's block with another way through it


class Wrong(library.EncoderBlock):
    """The library's block, in steps that a mistake changes one of."""

    def forward(self, x, *, mask=None, cache=None, rotary=None):
        x = self.step(x, self.attention_norm, lambda y: self.look(y, mask, cache, rotary))
        return self.step(x, self.feed_forward_norm, self.feed_forward)

    def look(self, x, mask, cache, rotary):
        return self.attention(x, mask=mask, cache=cache, rotary=rotary)

    def step(self, x, norm, part):
        return x + self._drop(part(norm(x))) if self.norm_first else norm(x + self._drop(part(x)))


class ResidualForgotten(Wrong):
    def step(self, x, norm, part):
        return self._drop(part(norm(x))) if self.norm_first else norm(self._drop(part(x)))


class ResidualAfterTheNorm(Wrong):
    def step(self, x, norm, part):
        if self.norm_first:
            x = norm(x)
            return x + self._drop(part(x))
        return super().step(x, norm, part)


class NormsOnTheWrongSide(Wrong):
    def step(self, x, norm, part):
        return norm(x + self._drop(part(x))) if self.norm_first else x + self._drop(part(norm(x)))


class AlwaysPreNorm(Wrong):
    def step(self, x, norm, part):
        return x + self._drop(part(norm(x)))


class AlwaysPostNorm(Wrong):
    def step(self, x, norm, part):
        return norm(x + self._drop(part(x)))


class NormOfWhatIsAdded(Wrong):
    def step(self, x, norm, part):
        return x + self._drop(norm(part(x)))


class NormsOnBothSides(Wrong):
    def step(self, x, norm, part):
        return norm(x + self._drop(part(norm(x))))


class NoNorm(Wrong):
    def step(self, x, norm, part):
        return x + self._drop(part(x))


class OneSharedNorm(Wrong):
    def step(self, x, norm, part):
        return super().step(x, self.attention_norm, part)


class NormsSwapped(Wrong):
    def step(self, x, norm, part):
        other = self.attention_norm if norm is self.feed_forward_norm else self.feed_forward_norm
        return super().step(x, other, part)


class FeedForwardFirst(Wrong):
    def forward(self, x, *, mask=None, cache=None, rotary=None):
        x = self.step(x, self.feed_forward_norm, self.feed_forward)
        return self.step(x, self.attention_norm, lambda y: self.look(y, mask, cache, rotary))


class BothReadTheInput(Wrong):
    def forward(self, x, *, mask=None, cache=None, rotary=None):
        if not self.norm_first:
            return super().forward(x, mask=mask, cache=cache, rotary=rotary)
        looked = self._drop(self.look(self.attention_norm(x), mask, cache, rotary))
        return x + looked + self._drop(self.feed_forward(self.feed_forward_norm(x)))


class SecondSumStartsFromTheInput(Wrong):
    def forward(self, x, *, mask=None, cache=None, rotary=None):
        if not self.norm_first:
            return super().forward(x, mask=mask, cache=cache, rotary=rotary)
        looked = self.step(x, self.attention_norm, lambda y: self.look(y, mask, cache, rotary))
        return x + self._drop(self.feed_forward(self.feed_forward_norm(looked)))


class SecondNormReadsTheInput(Wrong):
    def forward(self, x, *, mask=None, cache=None, rotary=None):
        if not self.norm_first:
            return super().forward(x, mask=mask, cache=cache, rotary=rotary)
        looked = self.step(x, self.attention_norm, lambda y: self.look(y, None, cache, rotary))
        return looked + self._drop(self.feed_forward(self.feed_forward_norm(x)))


class SecondHalfAlwaysPostNorm(Wrong):
    def step(self, x, norm, part):
        if norm is self.feed_forward_norm:
            return norm(x + self._drop(part(x)))
        return super().step(x, norm, part)


class SecondResidualForgotten(Wrong):
    def step(self, x, norm, part):
        if norm is self.attention_norm:
            return super().step(x, norm, part)
        return self._drop(part(norm(x))) if self.norm_first else norm(self._drop(part(x)))


class FeedForwardForgotten(Wrong):
    def forward(self, x, *, mask=None, cache=None, rotary=None):
        return self.step(x, self.attention_norm, lambda y: self.look(y, mask, cache, rotary))


class SumHalved(Wrong):
    def step(self, x, norm, part):
        if self.norm_first:
            return (x + self._drop(part(norm(x)))) / 2
        return super().step(x, norm, part)


class MaskIgnored(Wrong):
    def look(self, x, mask, cache, rotary):
        return self.attention(x, cache=cache, rotary=rotary)


class MaskInverted(Wrong):
    def look(self, x, mask, cache, rotary):
        return self.attention(x, mask=None if mask is None else ~mask, cache=cache, rotary=rotary)


class AttentionAcrossTheBatch(Wrong):
    def look(self, x, mask, cache, rotary):
        if mask is not None:
            return super().look(x, mask, cache, rotary)
        return self.attention(x.transpose(0, 1)).transpose(0, 1)


class NormOverTheTokens(Wrong):
    def step(self, x, norm, part):
        def over_tokens(y):
            y = y - y.mean(1, keepdim=True)
            y = y / (y.square().mean(1, keepdim=True) + norm.eps).sqrt() * norm.weight
            return y if norm.bias is None else y + norm.bias

        return super().step(x, over_tokens, part)


class FeedForwardOfTheMeanToken(Wrong):
    def step(self, x, norm, part):
        if norm is self.feed_forward_norm:
            return super().step(x, norm, lambda y: part(y.mean(1, keepdim=True)).expand_as(y))
        return super().step(x, norm, part)


class FixedEps(Wrong):
    def step(self, x, norm, part):
        return super().step(x, lambda y: F.layer_norm(y, y.shape[-1:], norm.weight, norm.bias), part)


class FixedActivation(Wrong):
    def __init__(self, *sizes, activation="gelu", **options):
        super().__init__(*sizes, **options)


class DropoutInEvaluation(Wrong):
    def _drop(self, x):
        return F.dropout(x, self.dropout)


class NoDropout(Wrong):
    def _drop(self, x):
        return x


class DropoutOnTheSum(Wrong):
    def step(self, x, norm, part):
        if self.norm_first:
            return self._drop(x + part(norm(x)))
        return norm(self._drop(x + part(x)))


ENCODER_BLOCK: list[tuple[Callable, tuple[str, str, str]]] = [
    (
        ResidualForgotten,
        (
            "Let both parts make zeros. What is left of the tokens?",
            "The parts replace the tokens; they should add to them.",
            "x = x + self._drop(self.attention(self.attention_norm(x), ...)), and the same for the feed-forward layer.",
        ),
    ),
    (
        ResidualAfterTheNorm,
        (
            "Let both parts make zeros. What comes out, the tokens or normalised tokens?",
            "The name x is given to the normalised tokens before the sum, and the stream is lost.",
            "Normalise only what the part reads: x = x + part(norm(x)). Do not write x = norm(x).",
        ),
    ),
    (
        NormsOnTheWrongSide,
        (
            "Which of the two orders lets the tokens pass unchanged when the parts make zeros?",
            "The two orders are exchanged: norm_first=True should normalise what a part reads, not the sum.",
            "norm_first: x + part(norm(x)); otherwise: norm(x + part(x)).",
        ),
    ),
    (
        AlwaysPreNorm,
        (
            "With norm_first=True it is right. What changes with norm_first=False?",
            "The option is not used: with norm_first=False the sum is normalised.",
            "if not self.norm_first: x = norm(x + part(x)), for both parts.",
        ),
    ),
    (
        AlwaysPostNorm,
        (
            "With norm_first=False it is right. Let both parts make zeros: what should a pre-norm block give?",
            "The option is not used: with norm_first=True a part reads normalised tokens, and the sum stays as it is.",
            "if self.norm_first: x = x + part(norm(x)), for both parts.",
        ),
    ),
    (
        NormOfWhatIsAdded,
        (
            "Where does the norm stand, before a part, behind it, or behind the sum?",
            "It is applied to what the part has made; it belongs before the part (or behind the sum).",
            "norm_first: x + part(norm(x)), not x + norm(part(x)).",
        ),
    ),
    (
        NormsOnBothSides,
        (
            "Let both parts make zeros. Does a pre-norm block hand on the tokens?",
            "There is a norm before the part and one behind the sum; it is one or the other.",
            "norm_first: x + part(norm(x)); otherwise: norm(x + part(x)).",
        ),
    ),
    (
        NoNorm,
        (
            "Make the tokens ten times larger. Should a part of a pre-norm block notice?",
            "The norms are never called.",
            "x = x + self._drop(self.attention(self.attention_norm(x), ...))",
        ),
    ),
    (
        OneSharedNorm,
        (
            "Right at the start of training, but not after it. How many norms does a block have?",
            "Both parts read through the same norm; each has its own scale and shift.",
            "self.attention_norm before attention, self.feed_forward_norm before the feed-forward layer.",
        ),
    ),
    (
        NormsSwapped,
        (
            "Right at the start of training, but not after it. Which norm goes with which part?",
            "The two norms are exchanged.",
            "self.attention_norm before attention, self.feed_forward_norm before the feed-forward layer.",
        ),
    ),
    (
        FeedForwardFirst,
        (
            "With one part silent it is right. In which order do the two come?",
            "The feed-forward layer comes first; it should read what attention has found.",
            "First the line with self.attention, then the line with self.feed_forward.",
        ),
    ),
    (
        BothReadTheInput,
        (
            "With one part silent it is right. What does the feed-forward layer read?",
            "Both parts read the input of the block side by side; the second should read the sum after the first.",
            "x = x + attention(norm(x)) first; then feed_forward(norm(x)) with this new x.",
        ),
    ),
    (
        SecondSumStartsFromTheInput,
        (
            "Make the feed-forward layer silent. Does what attention added come out?",
            "The second sum starts from the input of the block, so that what attention added is lost.",
            "Use one name: x = x + ...; x = x + ...",
        ),
    ),
    (
        SecondNormReadsTheInput,
        (
            "With one part silent it is right. What does the feed-forward layer read? And what became of the mask?",
            "The feed-forward layer reads the input of the block, and no line uses the mask.",
            "x = x + attention(norm(x), mask=mask) first; then feed_forward(norm(x)) with this new x.",
        ),
    ),
    (
        SecondHalfAlwaysPostNorm,
        (
            "With norm_first=False it is right. Let both parts make zeros: which of the two halves changes the tokens?",
            "The second half normalises the sum in both orders.",
            "if self.norm_first: return x + self._drop(self.feed_forward(self.feed_forward_norm(x)))",
        ),
    ),
    (
        SecondResidualForgotten,
        (
            "Make the feed-forward layer silent. What is left of the tokens?",
            "Attention adds, but the feed-forward layer replaces.",
            "return x + self._drop(self.feed_forward(self.feed_forward_norm(x)))",
        ),
    ),
    (
        FeedForwardForgotten,
        (
            "Make attention silent. Does the block still change anything?",
            "The feed-forward layer is never called.",
            "After attention: x = x + self._drop(self.feed_forward(self.feed_forward_norm(x))).",
        ),
    ),
    (
        SumHalved,
        (
            "Let both parts make zeros. How large are the tokens that come out?",
            "The sum is divided; the stream is a sum, not a mean.",
            "x = x + ..., without a factor.",
        ),
    ),
    (
        MaskIgnored,
        (
            "Call the block with and without a mask. What changes?",
            "The mask is an argument that no line uses.",
            "self.attention(..., mask=mask)",
        ),
    ),
    (
        MaskInverted,
        (
            "Without a mask all is well. Which tokens are seen where one is given?",
            "The mask is used upside down. True means may look here, and may not look in torch's encoder layer.",
            "Hand it on as it is: True = may look.",
        ),
    ),
    (
        AttentionAcrossTheBatch,
        (
            "Put two clips into a batch. Does the one change the other?",
            "The first two axes are exchanged before attention: token 0 of one clip looks at token 0 of the others.",
            "Tokens are b n d here (batch_first=True in torch): leave out the transpose.",
        ),
    ),
    (
        NormOverTheTokens,
        (
            "Give the block a single token. What is its distance from the mean of all tokens?",
            "Mean and variance are taken over the tokens; a norm takes them over the numbers of each token.",
            "Over the last axis, d: self.attention_norm(x) does that.",
        ),
    ),
    (
        FeedForwardOfTheMeanToken,
        (
            "Change one token. With attention silent, do the others change?",
            "The feed-forward layer sees a mean over the tokens; it works on each token alone.",
            "self.feed_forward(self.feed_forward_norm(x)), on b n d as it is.",
        ),
    ),
    (
        FixedEps,
        (
            "Everything is right until norm_eps is another number.",
            "The eps of the constructor is not used.",
            "LayerNorm(embed_dim, eps=norm_eps, bias=bias)",
        ),
    ),
    (
        FixedActivation,
        (
            "Everything is right until the activation is another one.",
            "The activation of the constructor is not used.",
            "FeedForward(..., activation=activation, ...)",
        ),
    ),
    (
        DropoutInEvaluation,
        (
            "Ask an evaluated block twice. Does it give the same?",
            "F.dropout drops unless it is told that this is no training.",
            "F.dropout(x, self.dropout, self.training)",
        ),
    ),
    (
        NoDropout,
        (
            "Evaluation is right. What does dropout=0.999 change in training?",
            "Nothing is dropped of what the parts add.",
            "x = x + F.dropout(part(norm(x)), self.dropout, self.training)",
        ),
    ),
    (
        DropoutOnTheSum,
        (
            "Evaluation is right. In training, drop almost everything: what is left of the tokens?",
            "Dropout falls on the sum, and so on the stream itself; it belongs on what is added.",
            "x + drop(part(norm(x))), not drop(x + part(norm(x))).",
        ),
    ),
]


# ---- DecoderBlock


class WrongDecoder(library.DecoderBlock):
    """The library's block, in steps that a mistake changes one of."""

    def forward(self, x, memory, *, mask=None, memory_mask=None, cache=None):
        for part in self.order():
            x = self.step(x, part, memory, mask, memory_mask, cache)
        return x

    def order(self):
        return ("self_attention", "cross_attention", "feed_forward")

    def make(self, part, x, memory, mask, memory_mask, cache):
        if part == "self_attention":
            return self.self_attention(x, mask=mask, cache=cache)
        if part == "cross_attention":
            return self.cross_attention(x, memory, mask=memory_mask)
        return self.feed_forward(x)

    def step(self, x, part, *rest):
        norm = getattr(self, f"{part}_norm")
        if self.norm_first:
            return x + self._drop(self.make(part, norm(x), *rest))
        return norm(x + self._drop(self.make(part, x, *rest)))


class DecoderResidualForgotten(WrongDecoder):
    def step(self, x, part, *rest):
        norm = getattr(self, f"{part}_norm")
        if self.norm_first:
            return self._drop(self.make(part, norm(x), *rest))
        return norm(self._drop(self.make(part, x, *rest)))


class CrossResidualForgotten(WrongDecoder):
    def step(self, x, part, *rest):
        if part != "cross_attention":
            return super().step(x, part, *rest)
        norm = self.cross_attention_norm
        if self.norm_first:
            return self._drop(self.make(part, norm(x), *rest))
        return norm(self._drop(self.make(part, x, *rest)))


class DecoderNormsOnTheWrongSide(WrongDecoder):
    def step(self, x, part, *rest):
        norm = getattr(self, f"{part}_norm")
        if not self.norm_first:
            return x + self._drop(self.make(part, norm(x), *rest))
        return norm(x + self._drop(self.make(part, x, *rest)))


class CrossAttentionReadsX(WrongDecoder):
    def make(self, part, x, memory, mask, memory_mask, cache):
        if part == "cross_attention":
            return self.cross_attention(x)
        return super().make(part, x, memory, mask, memory_mask, cache)


class MemoryAsks(WrongDecoder):
    def make(self, part, x, memory, mask, memory_mask, cache):
        if part == "cross_attention":
            return self.cross_attention(memory, x)
        return super().make(part, x, memory, mask, memory_mask, cache)


class KeysFromMemoryValuesFromX(WrongDecoder):
    def make(self, part, x, memory, mask, memory_mask, cache):
        if part == "cross_attention":
            return self.cross_attention(x, (memory, x), mask=memory_mask)
        return super().make(part, x, memory, mask, memory_mask, cache)


class MemoryNormalised(WrongDecoder):
    def make(self, part, x, memory, mask, memory_mask, cache):
        if part == "cross_attention":
            memory = self.cross_attention_norm(memory)
        return super().make(part, x, memory, mask, memory_mask, cache)


class MasksSwapped(WrongDecoder):
    def make(self, part, x, memory, mask, memory_mask, cache):
        return super().make(part, x, memory, memory_mask, mask, cache)


class MaskOnTheMemoryToo(WrongDecoder):
    def make(self, part, x, memory, mask, memory_mask, cache):
        fits = mask is not None and memory_mask is None
        return super().make(part, x, memory, mask, mask if fits else memory_mask, cache)


class MemoryMaskIgnored(WrongDecoder):
    def make(self, part, x, memory, mask, memory_mask, cache):
        return super().make(part, x, memory, mask, None, cache)


class SelfMaskIgnored(WrongDecoder):
    def make(self, part, x, memory, mask, memory_mask, cache):
        return super().make(part, x, memory, None, memory_mask, cache)


class DecoderMasksInverted(WrongDecoder):
    def make(self, part, x, memory, mask, memory_mask, cache):
        mask, memory_mask = (None if m is None else ~m for m in (mask, memory_mask))
        return super().make(part, x, memory, mask, memory_mask, cache)


class CrossAttentionFirst(WrongDecoder):
    def order(self):
        return ("cross_attention", "self_attention", "feed_forward")


class CrossAttentionForgotten(WrongDecoder):
    def order(self):
        return ("self_attention", "feed_forward")


class OneAttentionTwice(WrongDecoder):
    def make(self, part, x, memory, mask, memory_mask, cache):
        if part == "cross_attention":
            return self.self_attention(x, memory, mask=memory_mask)
        return super().make(part, x, memory, mask, memory_mask, cache)


class MemoryAskedByStaleTokens(WrongDecoder):
    def forward(self, x, memory, *, mask=None, memory_mask=None, cache=None):
        if not self.norm_first:
            return super().forward(x, memory, mask=mask, memory_mask=memory_mask, cache=cache)
        asking = self.self_attention_norm(x)
        x = x + self._drop(self.self_attention(asking, mask=mask, cache=cache))
        x = x + self._drop(self.cross_attention(asking, memory, mask=memory_mask))
        return x + self._drop(self.feed_forward(self.feed_forward_norm(x)))


class DecoderOneSharedNorm(WrongDecoder):
    def step(self, x, part, *rest):
        if self.norm_first:
            return x + self._drop(self.make(part, self.self_attention_norm(x), *rest))
        return self.self_attention_norm(x + self._drop(self.make(part, x, *rest)))


class DecoderDropoutInEvaluation(WrongDecoder):
    def _drop(self, x):
        return F.dropout(x, self.dropout)


class DecoderNoDropout(WrongDecoder):
    def _drop(self, x):
        return x


DECODER_BLOCK: list[tuple[Callable, tuple[str, str, str]]] = [
    (
        DecoderResidualForgotten,
        (
            "Let all parts make zeros. What is left of the tokens?",
            "The parts replace the tokens; they should add to them.",
            "x = x + self._drop(part(norm(x))), three times.",
        ),
    ),
    (
        CrossResidualForgotten,
        (
            "Let cross-attention make zeros. What is left of the tokens?",
            "Cross-attention replaces the tokens by what it finds in the memory; it should add to them.",
            "x = x + self._drop(self.cross_attention(self.cross_attention_norm(x), memory, mask=memory_mask))",
        ),
    ),
    (
        DecoderNormsOnTheWrongSide,
        (
            "Which of the two orders lets the tokens pass unchanged when the parts make zeros?",
            "The two orders are exchanged: norm_first=True should normalise what a part reads, not the sum.",
            "norm_first: x + part(norm(x)); otherwise: norm(x + part(x)).",
        ),
    ),
    (
        CrossAttentionReadsX,
        (
            "Change the memory. Does anything change?",
            "Cross-attention looks at x: the memory is never read.",
            "self.cross_attention(self.cross_attention_norm(x), memory, mask=memory_mask)",
        ),
    ),
    (
        MemoryAsks,
        (
            "Three tokens and five of memory: how many come out of cross-attention?",
            "The memory asks and x answers; it is the other way round.",
            "The first argument asks: self.cross_attention(norm(x), memory, ...).",
        ),
    ),
    (
        KeysFromMemoryValuesFromX,
        (
            "Three tokens and five of memory: does every key come with a value?",
            "Keys are made of the memory and values of x; both belong to the memory.",
            "self.cross_attention(norm(x), memory, mask=memory_mask)",
        ),
    ),
    (
        MemoryNormalised,
        (
            "Make the memory ten times larger. Should cross-attention notice?",
            "The memory goes through the norm of x; it is read as the encoder left it.",
            "Normalise x only: self.cross_attention(self.cross_attention_norm(x), memory, ...).",
        ),
    ),
    (
        MasksSwapped,
        (
            "Give one mask and then the other. Which attention changes?",
            "The two masks are exchanged.",
            "self_attention takes mask, cross_attention takes memory_mask.",
        ),
    ),
    (
        MaskOnTheMemoryToo,
        (
            "With a causal mask, can the first token see the whole memory?",
            "The mask of the tokens is put on the memory too; the memory is all there from the beginning.",
            "self.cross_attention(..., mask=memory_mask), and nothing hidden where memory_mask is None.",
        ),
    ),
    (
        MemoryMaskIgnored,
        (
            "Call the block with and without memory_mask. What changes?",
            "memory_mask is an argument that no line uses.",
            "self.cross_attention(..., memory, mask=memory_mask)",
        ),
    ),
    (
        SelfMaskIgnored,
        (
            "With a causal mask, change the last token. Do others change?",
            "mask is an argument that no line uses.",
            "self.self_attention(..., mask=mask)",
        ),
    ),
    (
        DecoderMasksInverted,
        (
            "Without masks all is well. Which tokens are seen where one is given?",
            "The masks are used upside down.",
            "Hand them on as they are: True = may look.",
        ),
    ),
    (
        CrossAttentionFirst,
        (
            "With two parts silent it is right. In which order do the three come?",
            "The memory is asked before the tokens have looked at each other.",
            "self_attention, then cross_attention, then feed_forward.",
        ),
    ),
    (
        CrossAttentionForgotten,
        (
            "Change the memory. Does anything change?",
            "There is no cross-attention: it is an encoder block.",
            "x = x + self._drop(self.cross_attention(self.cross_attention_norm(x), memory, mask=memory_mask))",
        ),
    ),
    (
        OneAttentionTwice,
        (
            "How many attentions does a decoder block have, and are their weights the same?",
            "The memory is read with the weights of self-attention.",
            "self.cross_attention(...), not self.self_attention(...), for the memory.",
        ),
    ),
    (
        MemoryAskedByStaleTokens,
        (
            "Which tokens ask the memory: those before or after they have looked at each other, and by which norm?",
            "The memory is asked by the tokens that self-attention has read, normalised by its norm.",
            "self.cross_attention(self.cross_attention_norm(x), memory, ...) with the x after self-attention.",
        ),
    ),
    (
        DecoderOneSharedNorm,
        (
            "Right at the start of training, but not after it. How many norms does a block have?",
            "All three parts use one norm; each has its own scale and shift.",
            "self_attention_norm, cross_attention_norm, feed_forward_norm.",
        ),
    ),
    (
        DecoderDropoutInEvaluation,
        (
            "Ask an evaluated block twice. Does it give the same?",
            "F.dropout drops unless it is told that this is no training.",
            "F.dropout(x, self.dropout, self.training)",
        ),
    ),
    (
        DecoderNoDropout,
        (
            "Evaluation is right. What does dropout=0.999 change in training?",
            "Nothing is dropped of what the parts add.",
            "x = x + F.dropout(part(norm(x)), self.dropout, self.training)",
        ),
    ),
]


# ---- Encoder


class OneBlockManyTimes(library.Encoder):
    def __init__(self, embed_dim, num_heads, hidden_dim, num_layers, **options):
        super().__init__(embed_dim, num_heads, hidden_dim, num_layers, **options)
        self.layers = nn.ModuleList([self.layers[0]] * num_layers)


class CopiesOfOneBlock(library.Encoder):
    def __init__(self, embed_dim, num_heads, hidden_dim, num_layers, **options):
        super().__init__(embed_dim, num_heads, hidden_dim, num_layers, **options)
        for layer in self.layers[1:]:
            layer.load_state_dict(self.layers[0].state_dict())


class PlainListOfBlocks(library.Encoder):
    def __init__(self, embed_dim, num_heads, hidden_dim, num_layers, **options):
        super().__init__(embed_dim, num_heads, hidden_dim, num_layers, **options)
        blocks = list(self.layers)
        del self.layers
        self.layers = blocks


class EveryBlockReadsTheInput(library.Encoder):
    def forward(self, x, *, mask=None, caches=None, rotary=None):
        for layer in self.layers:
            y = layer(x, mask=mask)
        return y if self.norm is None else self.norm(y)


class BlocksFromTheLast(library.Encoder):
    def forward(self, x, *, mask=None, caches=None, rotary=None):
        for layer in reversed(self.layers):
            x = layer(x, mask=mask)
        return x if self.norm is None else self.norm(x)


class LastBlockForgotten(library.Encoder):
    def forward(self, x, *, mask=None, caches=None, rotary=None):
        for layer in self.layers[:-1]:
            x = layer(x, mask=mask)
        return x if self.norm is None else self.norm(x)


class FinalNormForgotten(library.Encoder):
    def forward(self, x, *, mask=None, caches=None, rotary=None):
        for layer in self.layers:
            x = layer(x, mask=mask)
        return x


class NormAfterEveryBlock(library.Encoder):
    def forward(self, x, *, mask=None, caches=None, rotary=None):
        for layer in self.layers:
            x = layer(x, mask=mask)
            x = x if self.norm is None else self.norm(x)
        return x


class NormBeforeTheFirstBlock(library.Encoder):
    def forward(self, x, *, mask=None, caches=None, rotary=None):
        x = x if self.norm is None else self.norm(x)
        for layer in self.layers:
            x = layer(x, mask=mask)
        return x


class MaskInTheFirstBlockOnly(library.Encoder):
    def forward(self, x, *, mask=None, caches=None, rotary=None):
        for i, layer in enumerate(self.layers):
            x = layer(x, mask=mask if i == 0 else None)
        return x if self.norm is None else self.norm(x)


class MaskForgotten(library.Encoder):
    def forward(self, x, *, mask=None, caches=None, rotary=None):
        for layer in self.layers:
            x = layer(x)
        return x if self.norm is None else self.norm(x)


class StackOfThePlainKind(library.Encoder):
    def __init__(self, *sizes, norm_first=True, **options):
        super().__init__(*sizes, **{"final_norm": norm_first} | options)


ENCODER: list[tuple[Callable, tuple[str, str, str]]] = [
    (
        OneBlockManyTimes,
        (
            "Change the weights of the second block. Do those of the first change?",
            "One block stands in the list several times: they share their weights.",
            "nn.ModuleList(EncoderBlock(...) for _ in range(num_layers)), not [block] * num_layers.",
        ),
    ),
    (
        CopiesOfOneBlock,
        (
            "Look at the first weights of two blocks of a new stack.",
            "The blocks are copies of one; each should be drawn by itself.",
            "Call EncoderBlock(...) once for each block.",
        ),
    ),
    (
        PlainListOfBlocks,
        (
            "Print the names of the stack's weights: list(stack.state_dict()). Where are those of the blocks?",
            "A plain list hides the blocks: their weights are neither saved, nor loaded, nor trained.",
            "self.layers = nn.ModuleList(...)",
        ),
    ),
    (
        EveryBlockReadsTheInput,
        (
            "What does the second block read?",
            "Every block reads the input of the stack, and all results but the last are lost.",
            "x = layer(x, mask=mask): the same name on both sides.",
        ),
    ),
    (
        BlocksFromTheLast,
        (
            "One block is right. In which order do two come?",
            "The blocks run from the last to the first.",
            "for layer in self.layers: x = layer(x, mask=mask)",
        ),
    ),
    (
        LastBlockForgotten,
        (
            "Ask a stack of one block: does it change anything?",
            "The last block is left out.",
            "for layer in self.layers, all of them.",
        ),
    ),
    (
        FinalNormForgotten,
        (
            "Without a final norm it is right. What is the mean of a token that leaves a pre-norm stack?",
            "The last norm is never called.",
            "return x if self.norm is None else self.norm(x)",
        ),
    ),
    (
        NormAfterEveryBlock,
        (
            "A stack of one block is right. How often is the final norm called in a stack of two?",
            "The final norm is called after every block; it belongs behind the last one.",
            "Take it out of the loop.",
        ),
    ),
    (
        NormBeforeTheFirstBlock,
        (
            "Without a final norm it is right. Is the norm before the blocks or behind them?",
            "The norm is called before the first block; nothing normalises what the last one gives.",
            "After the loop: return x if self.norm is None else self.norm(x).",
        ),
    ),
    (
        MaskInTheFirstBlockOnly,
        (
            "A stack of one block is right with a mask. And two?",
            "Only the first block gets the mask; through the others, everything is seen.",
            "x = layer(x, mask=mask) for every layer.",
        ),
    ),
    (
        MaskForgotten,
        (
            "Call the stack with and without a mask. What changes?",
            "The mask is an argument that no line uses.",
            "x = layer(x, mask=mask) for every layer.",
        ),
    ),
    (
        StackOfThePlainKind,
        (
            "With norm_first=True it is right. What changes with norm_first=False?",
            "norm_first decides on the last norm but does not reach the blocks.",
            "EncoderBlock(..., norm_first=norm_first, ...)",
        ),
    ),
]


MISTAKES: dict[str, list[Mistake]] = {
    "EncoderBlock": [Mistake(*row) for row in ENCODER_BLOCK],
    "DecoderBlock": [Mistake(*row) for row in DECODER_BLOCK],
    "Encoder": [Mistake(*row) for row in ENCODER],
}

SIZES = (4, 2, 3)


def filled(right: nn.Module, seed: int) -> dict:
    """Weights that depend on the seed alone, for the state dict of a module."""
    return {
        key: normal(seed + i, *x.shape) * 0.6 + (1.0 if key.endswith("norm.weight") else 0.0)
        for i, (key, x) in enumerate(right.state_dict().items())
    }


def used(name: str, inputs: tuple, keywords: dict, *, sizes: tuple = SIZES, train: bool = False, **options) -> Probe:
    """A probe: make the answer with these options, give it weights, and call it."""
    state = filled(getattr(library, name)(*sizes, **options), 3)

    def probe(answer):
        block = answer(*sizes, **options)
        block.load_state_dict(state)
        if train:
            block.train()
        else:
            block.eval()
        return block(*(x.clone() for x in inputs), **keywords).detach()

    return probe


def probes(name: str) -> Iterator[Probe]:
    """Uses on which every two of the mistakes above differ."""
    x, memory = normal(0, 2, 4, 4), normal(1, 2, 3, 4)
    causal, padded = causal_mask(4, 4), padding_mask(torch.tensor([4, 2]), 4)
    if name == "EncoderBlock":
        for norm_first in (True, False):
            yield used(name, (x,), {}, norm_first=norm_first)
            yield used(name, (x,), {"mask": causal & padded}, norm_first=norm_first)
            yield used(name, (x,), {}, norm_first=norm_first, norm_eps=0.3, activation="relu", bias=False)
            yield used(name, (x,), {}, norm_first=norm_first, dropout=1 - 1e-12)
            yield used(name, (x,), {}, norm_first=norm_first, dropout=1 - 1e-12, train=True)
    elif name == "DecoderBlock":
        for norm_first in (True, False):
            yield used(name, (x, memory), {}, norm_first=norm_first)
            yield used(name, (x, x.flip(0)), {"mask": causal}, norm_first=norm_first)
            yield used(name, (x, x.flip(0)), {"memory_mask": padded}, norm_first=norm_first)
            yield used(name, (x, memory), {}, norm_first=norm_first, dropout=1 - 1e-12)
            yield used(name, (x, memory), {}, norm_first=norm_first, dropout=1 - 1e-12, train=True)
    elif name == "Encoder":
        for options in ({}, {"final_norm": False}, {"norm_first": False}, {"norm_first": False, "final_norm": True}):
            yield used(name, (x,), {}, sizes=(*SIZES, 2), **options)
            yield used(name, (x,), {"mask": causal}, sizes=(*SIZES, 2), **options)
        yield lambda answer: [
            torch.equal(*(weight for key, weight in made.items() if key.endswith("up_proj.weight")))
            for made in [answer(*SIZES, 2).state_dict()]
        ]
