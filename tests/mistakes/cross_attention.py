"""Classic wrong answers about attention between a clip and a text, each with three hints of increasing directness."""

import math
from collections.abc import Callable, Iterator

import torch
from einops import rearrange
from strategies import normal
from torch import Tensor

from minivid.classroom.museum import Mistake, Probe
from minivid.layers import cross_attention as library
from minivid.layers.attention import attend

# ---- cross_modal_attend


def table(video: Tensor, text: Tensor, w_v: Tensor) -> tuple[Tensor, Tensor]:
    """What the frames look like to the text, and the scores."""
    seen = video @ w_v
    return seen, seen @ text.mT / math.sqrt(text.shape[-1])


def softmax_over_the_wrong_axis(video, text, w_v, w_o):
    seen, scores = table(video, text, w_v)
    rows, columns = scores.softmax(-2), scores.softmax(-1).mT
    return rows @ text @ w_o, columns @ seen @ w_o, rows, columns


def one_softmax_for_both(video, text, w_v, w_o):
    seen, scores = table(video, text, w_v)
    weights = scores.softmax(-1)
    return weights @ text @ w_o, weights.mT @ seen @ w_o, weights, weights.mT


def one_softmax_over_the_frames_for_both(video, text, w_v, w_o):
    seen, scores = table(video, text, w_v)
    weights = scores.softmax(-2)
    return weights @ text @ w_o, weights.mT @ seen @ w_o, weights, weights.mT


def softmax_over_the_whole_table(video, text, w_v, w_o):
    seen, scores = table(video, text, w_v)
    weights = scores.flatten(1).softmax(-1).view_as(scores)
    return weights @ text @ w_o, weights.mT @ seen @ w_o, weights, weights.mT


def scale_forgotten(video, text, w_v, w_o):
    seen = video @ w_v
    scores = seen @ text.mT
    rows, columns = scores.softmax(-1), scores.softmax(-2).mT
    return rows @ text @ w_o, columns @ seen @ w_o, rows, columns


def scaled_by_the_width_of_the_video(video, text, w_v, w_o):
    seen = video @ w_v
    scores = seen @ text.mT / math.sqrt(video.shape[-1])
    rows, columns = scores.softmax(-1), scores.softmax(-2).mT
    return rows @ text @ w_o, columns @ seen @ w_o, rows, columns


def own_stream_averaged(video, text, w_v, w_o):
    seen, scores = table(video, text, w_v)
    rows, columns = scores.softmax(-1), scores.softmax(-2).mT
    return rows @ columns @ seen @ w_o, columns @ rows @ text @ w_o, rows, columns


def outputs_exchanged(video, text, w_v, w_o):
    video_output, text_output, video_weights, text_weights = library.cross_modal_attend(video, text, w_v, w_o)
    return text_output, video_output, video_weights, text_weights


def weights_of_the_words_not_turned(video, text, w_v, w_o):
    seen, scores = table(video, text, w_v)
    rows, columns = scores.softmax(-1), scores.softmax(-2)
    return rows @ text @ w_o, columns.mT @ seen @ w_o, rows, columns


def output_matrix_forgotten(video, text, w_v, w_o):
    seen, scores = table(video, text, w_v)
    rows, columns = scores.softmax(-1), scores.softmax(-2).mT
    return rows @ text, columns @ seen, rows, columns


def text_reads_what_the_video_became(video, text, w_v, w_o):
    seen, scores = table(video, text, w_v)
    rows = scores.softmax(-1)
    changed = seen + rows @ text
    columns = (changed @ text.mT / math.sqrt(text.shape[-1])).softmax(-2).mT
    return rows @ text @ w_o, columns @ changed @ w_o, rows, columns


def exp_overflows(video, text, w_v, w_o):
    seen, scores = table(video, text, w_v)
    powers = scores.exp()
    rows, columns = powers / powers.sum(-1, keepdim=True), (powers / powers.sum(-2, keepdim=True)).mT
    return rows @ text @ w_o, columns @ seen @ w_o, rows, columns


def video_alone(video, text, w_v, w_o):
    video_output, _, video_weights, _ = library.cross_modal_attend(video, text, w_v, w_o)
    return video_output, video_weights


def weights_detached(video, text, w_v, w_o):
    seen, scores = table(video, text, w_v)
    rows, columns = scores.softmax(-1).detach(), scores.softmax(-2).mT.detach()
    return rows @ text @ w_o, columns @ seen @ w_o, rows, columns


def axes_of_a_table_without_a_batch(video, text, w_v, w_o):
    seen, scores = table(video, text, w_v)
    rows, columns = scores.softmax(1), scores.softmax(0).mT
    return rows @ text @ w_o, columns @ seen @ w_o, rows, columns


def divided_by_the_width(video, text, w_v, w_o):
    seen = video @ w_v
    scores = seen @ text.mT / text.shape[-1]
    rows, columns = scores.softmax(-1), scores.softmax(-2).mT
    return rows @ text @ w_o, columns @ seen @ w_o, rows, columns


def multiplied_by_the_root(video, text, w_v, w_o):
    seen = video @ w_v
    scores = seen @ text.mT * math.sqrt(text.shape[-1])
    rows, columns = scores.softmax(-1), scores.softmax(-2).mT
    return rows @ text @ w_o, columns @ seen @ w_o, rows, columns


def scale_behind_the_softmax(video, text, w_v, w_o):
    seen, root = video @ w_v, math.sqrt(text.shape[-1])
    scores = seen @ text.mT
    rows, columns = scores.softmax(-1) / root, scores.softmax(-2).mT / root
    return rows @ text @ w_o, columns @ seen @ w_o, rows, columns


def softmax_of_the_softmax(video, text, w_v, w_o):
    seen, scores = table(video, text, w_v)
    rows = scores.softmax(-1)
    columns = rows.softmax(-2).mT
    return rows @ text @ w_o, columns @ seen @ w_o, rows, columns


def never_turned(video, text, w_v, w_o):
    seen, scores = table(video, text, w_v)
    rows, columns = scores.softmax(-1), scores.softmax(-2)
    return rows @ text @ w_o, columns @ seen @ w_o, rows, columns


def text_reshaped(video, text, w_v, w_o):
    seen = video @ w_v
    b, n, width = text.shape
    scores = seen @ text.reshape(b, width, n) / math.sqrt(width)
    rows, columns = scores.softmax(-1), scores.softmax(-2).mT
    return rows @ text @ w_o, columns @ seen @ w_o, rows, columns


def words_average_what_came_in(video, text, w_v, w_o):
    _, scores = table(video, text, w_v)
    rows, columns = scores.softmax(-1), scores.softmax(-2).mT
    return rows @ text @ w_o, columns @ video @ w_o, rows, columns


def output_matrix_turned(video, text, w_v, w_o):
    seen, scores = table(video, text, w_v)
    rows, columns = scores.softmax(-1), scores.softmax(-2).mT
    return rows @ text @ w_o.T, columns @ seen @ w_o.T, rows, columns


def weights_first(video, text, w_v, w_o):
    video_output, text_output, video_weights, text_weights = library.cross_modal_attend(video, text, w_v, w_o)
    return video_weights, text_weights, video_output, text_output


ATTEND: list[tuple[Callable, tuple[str, str, str]]] = [
    (
        softmax_over_the_wrong_axis,
        (
            "Add up the weights of one frame. Which sum is one instead?",
            "The two axes are exchanged: a frame shares one among the words, a word shares one among the frames.",
            "scores is b s n. Frames: softmax(scores, dim=-1), over n. Words: softmax(scores, dim=-2), over s.",
        ),
    ),
    (
        one_softmax_for_both,
        (
            "The frames are right. Add up the weights of one word.",
            "One softmax is used for both directions; transposed, its rows do not sum to one.",
            "The words need a softmax of their own: softmax(scores, dim=-2).mT.",
        ),
    ),
    (
        one_softmax_over_the_frames_for_both,
        (
            "The words are right. Add up the weights of one frame.",
            "One softmax is used for both directions; the frames need one over the words.",
            "video_weights = softmax(scores, dim=-1), beside text_weights = softmax(scores, dim=-2).mT.",
        ),
    ),
    (
        softmax_over_the_whole_table,
        (
            "Add up all weights of a clip. How many ones should there be?",
            "The softmax runs over the whole table: one is shared among all pairs, not by each frame.",
            "Along one axis at a time: softmax(scores, dim=-1) for the frames, dim=-2 for the words.",
        ),
    ),
    (
        scale_forgotten,
        (
            "The weights sum to one but are too sharp. What stands under the fraction bar?",
            "A score is a sum of text_dim products; the formula divides it by the root of text_dim.",
            "scores = seen @ text.mT / math.sqrt(text.shape[-1])",
        ),
    ),
    (
        scaled_by_the_width_of_the_video,
        (
            "With streams of one width it is right. How many products does one score sum up?",
            "The scale is made of the width of the video; the product is taken in the width of the text.",
            "math.sqrt(text.shape[-1]), not video.shape[-1].",
        ),
    ),
    (
        own_stream_averaged,
        (
            "Make all words zero. Does a frame still gather something?",
            "Each stream gets back a mean of itself; it should get a mean of the other.",
            "video_output = video_weights @ text @ w_o, text_output = text_weights @ (video @ w_v) @ w_o.",
        ),
    ),
    (
        outputs_exchanged,
        (
            "How many rows should video_output have: one for each frame, or for each word?",
            "The two outputs are exchanged.",
            "video_weights (b s n) times the words gives b s out_dim: that is the first result.",
        ),
    ),
    (
        weights_of_the_words_not_turned,
        (
            "The outputs are right. Which shape do the weights of the words have?",
            "They are b s n; a row should belong to a word.",
            "text_weights = softmax(scores, dim=-2).mT, which is b n s.",
        ),
    ),
    (
        output_matrix_forgotten,
        (
            "The weights are right. Which argument does no line use?",
            "W_o is not applied.",
            "video_weights @ text @ w_o, and text_weights @ seen @ w_o.",
        ),
    ),
    (
        text_reads_what_the_video_became,
        (
            "The frames are right. Which frames do the words read: those that came in?",
            "The words read frames that have already gathered words; both directions use one table.",
            "Make scores once, of video @ w_v as it came, and share it out along both axes.",
        ),
    ),
    (
        exp_overflows,
        (
            "Small numbers are right. What is exp(100) in float32?",
            "exp overflows for large scores, and inf / inf is NaN.",
            "Use softmax of minivid.layers.attention, which subtracts the largest score first.",
        ),
    ),
    (
        video_alone,
        (
            "What do the words gather?",
            "Only one direction is returned.",
            "return video_output, text_output, video_weights, text_weights",
        ),
    ),
    (
        weights_detached,
        (
            "All numbers are right. Which way does a gradient take back to W_v?",
            "The weights are cut off (detach): what is learned by looking is lost.",
            "Leave out .detach().",
        ),
    ),
    (
        axes_of_a_table_without_a_batch,
        (
            "One clip alone has a table s n. Which axes has the table of a batch?",
            "scores is b s n: dim=1 are the frames, dim=0 are the clips.",
            "Count from the end: softmax(scores, dim=-1) over the words, softmax(scores, dim=-2).mT over the frames.",
        ),
    ),
    (
        divided_by_the_width,
        (
            "The weights sum to one but are too even. What stands under the fraction bar?",
            "The scores are divided by text_dim; the formula divides by its root.",
            "math.sqrt(text.shape[-1])",
        ),
    ),
    (
        multiplied_by_the_root,
        (
            "The weights sum to one but are too sharp. Is the root above the fraction bar or under it?",
            "The scores are multiplied by the root; the formula divides by it.",
            "scores = seen @ text.mT / math.sqrt(text.shape[-1])",
        ),
    ),
    (
        scale_behind_the_softmax,
        (
            "Add up the weights of one frame. Is it one over a root?",
            "The weights are divided by the root, not the scores: the scale belongs inside the softmax.",
            "scores = seen @ text.mT / math.sqrt(text.shape[-1]), and nothing behind the softmax.",
        ),
    ),
    (
        softmax_of_the_softmax,
        (
            "The frames are right. What goes into the softmax of the words: scores, or weights?",
            "The words share out the weights of the frames; they should share out the scores.",
            "text_weights = softmax(scores, dim=-2).mT",
        ),
    ),
    (
        never_turned,
        (
            "Which shape have the weights of the words? A row should belong to a word.",
            "They are b s n; they have to be b n s before they are multiplied with the frames.",
            "text_weights = softmax(scores, dim=-2).mT, and text_output = text_weights @ seen @ w_o.",
        ),
    ),
    (
        text_reshaped,
        (
            "The shape of the scores is right. Which word belongs to the second column?",
            "reshape draws new borders in memory; the axes of the text have to change places.",
            "text.mT, which is b text_dim n.",
        ),
    ),
    (
        words_average_what_came_in,
        (
            "How wide is what the words average, and how many rows has W_o?",
            "The words average V; it has to be V W_v, which is as wide as the text.",
            "text_output = text_weights @ (video @ w_v) @ w_o",
        ),
    ),
    (
        output_matrix_turned,
        (
            "Which axes has w_o? And which does the product sum over?",
            "W_o is transposed: that is how nn.Linear keeps its weight; here it is text_dim out_dim already.",
            "video_weights @ text @ w_o, and text_weights @ seen @ w_o.",
        ),
    ),
    (
        weights_first,
        (
            "In which order do the four come back?",
            "The weights come first; the outputs should.",
            "return video_output, text_output, video_weights, text_weights",
        ),
    ),
]

# ---- CrossModalAttention: each mistake changes one thing about the block


class WrongMaskOfTheOther(library.CrossModalAttention):
    """The mask of a stream hides keys of the other, cut or repeated to its length."""

    def forward(self, video, text, *, video_mask=None, text_mask=None):
        def fitted(mask, length):
            return None if mask is None else torch.stack([mask[:, i % mask.shape[1]] for i in range(length)], 1)

        v, t = self.video_norm(video), self.text_norm(text)
        video_keys, text_keys = fitted(video_mask, text.shape[1]), fitted(text_mask, video.shape[1])
        new_video = video + self._gathered(self.video_reads_text, v, t, video_keys)
        new_text = text + self._gathered(self.text_reads_video, t, v, text_keys)
        return library.hide_padding(new_video, video_mask), library.hide_padding(new_text, text_mask)


class MasksIgnored(library.CrossModalAttention):
    def forward(self, video, text, *, video_mask=None, text_mask=None):
        return super().forward(video, text)


class MasksInverted(library.CrossModalAttention):
    def forward(self, video, text, *, video_mask=None, text_mask=None):
        video_mask, text_mask = (None if mask is None else ~mask for mask in (video_mask, text_mask))
        return super().forward(video, text, video_mask=video_mask, text_mask=text_mask)


class OneMaskForgotten(library.CrossModalAttention):
    def forward(self, video, text, *, video_mask=None, text_mask=None):
        return super().forward(video, text, text_mask=text_mask)


class TextMaskForgotten(library.CrossModalAttention):
    def forward(self, video, text, *, video_mask=None, text_mask=None):
        return super().forward(video, text, video_mask=video_mask)


class OneAfterTheOther(library.CrossModalAttention):
    def forward(self, video, text, *, video_mask=None, text_mask=None):
        video, text, v, t = self._enter(video, text, video_mask, text_mask)
        video = video + self._gathered(self.video_reads_text, v, t, text_mask)
        text = text + self._gathered(self.text_reads_video, t, self.video_norm(video), video_mask)
        return library.hide_padding(video, video_mask), library.hide_padding(text, text_mask)


class TextFirst(library.CrossModalAttention):
    def forward(self, video, text, *, video_mask=None, text_mask=None):
        video, text, v, t = self._enter(video, text, video_mask, text_mask)
        text = text + self._gathered(self.text_reads_video, t, v, video_mask)
        video = video + self._gathered(self.video_reads_text, v, self.text_norm(text), text_mask)
        return library.hide_padding(video, video_mask), library.hide_padding(text, text_mask)


class NoResidual(library.CrossModalAttention):
    def forward(self, video, text, *, video_mask=None, text_mask=None):
        video, text, v, t = self._enter(video, text, video_mask, text_mask)
        video = self._gathered(self.video_reads_text, v, t, text_mask)
        text = self._gathered(self.text_reads_video, t, v, video_mask)
        return library.hide_padding(video, video_mask), library.hide_padding(text, text_mask)


class ResidualOfTheNormed(library.CrossModalAttention):
    def forward(self, video, text, *, video_mask=None, text_mask=None):
        _, _, v, t = self._enter(video, text, video_mask, text_mask)
        video = v + self._gathered(self.video_reads_text, v, t, text_mask)
        text = t + self._gathered(self.text_reads_video, t, v, video_mask)
        return library.hide_padding(video, video_mask), library.hide_padding(text, text_mask)


class NormForgotten(library.CrossModalAttention):
    def forward(self, video, text, *, video_mask=None, text_mask=None):
        self.norm_first = False
        video, text, v, t = self._enter(video, text, video_mask, text_mask)
        video = video + self._gathered(self.video_reads_text, v, t, text_mask)
        text = text + self._gathered(self.text_reads_video, t, v, video_mask)
        return library.hide_padding(video, video_mask), library.hide_padding(text, text_mask)


class NormOfTheAskerAlone(library.CrossModalAttention):
    def forward(self, video, text, *, video_mask=None, text_mask=None):
        video, text, v, t = self._enter(video, text, video_mask, text_mask)
        new_video = video + self._gathered(self.video_reads_text, v, text, text_mask)
        new_text = text + self._gathered(self.text_reads_video, t, video, video_mask)
        return library.hide_padding(new_video, video_mask), library.hide_padding(new_text, text_mask)


class PostNorm(library.CrossModalAttention):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options | {"norm_first": False})


class StreamsReturnedExchanged(library.CrossModalAttention):
    def forward(self, video, text, *, video_mask=None, text_mask=None):
        return super().forward(video, text, video_mask=video_mask, text_mask=text_mask)[::-1]


class VideoReadsItself(library.CrossModalAttention):
    """Each stream attends to itself, by the projections that fit its width."""

    def forward(self, video, text, *, video_mask=None, text_mask=None):
        video, text, v, t = self._enter(video, text, video_mask, text_mask)
        a, b = self.video_reads_text, self.text_reads_video

        def look(q, k, v_, out, asks, mask):
            heads = a.num_heads
            q, k, v_ = (rearrange(p(asks), "b n (heads k) -> b heads n k", heads=heads) for p in (q, k, v_))
            output, _ = attend(q, k, v_, mask)
            return out(rearrange(output, "b heads n k -> b n (heads k)"))

        video = video + look(a.q_proj, b.k_proj, b.v_proj, a.out_proj, v, library._keys(video_mask))
        text = text + look(b.q_proj, a.k_proj, a.v_proj, b.out_proj, t, library._keys(text_mask))
        return library.hide_padding(video, video_mask), library.hide_padding(text, text_mask)


class PaddingTimesZero(library.CrossModalAttention):
    """Padding is hidden by weights of zero alone; what stands there goes through the projections."""

    def forward(self, video, text, *, video_mask=None, text_mask=None):
        v, t = self.video_norm(video), self.text_norm(text)
        new_video = video + self._gathered(self.video_reads_text, v, t, text_mask)
        new_text = text + self._gathered(self.text_reads_video, t, v, video_mask)
        if video_mask is not None:
            new_video = new_video * video_mask[..., None]
        if text_mask is not None:
            new_text = new_text * text_mask[..., None]
        return new_video, new_text


class BiasOutOfNothing(library.CrossModalAttention):
    """A stream whose other side is padding alone gets the bias of out_proj added."""

    def _gathered(self, attention, asks, answers, mask):
        return attention(asks, answers, mask=library._keys(mask))


class PaddingComesOut(library.CrossModalAttention):
    """Padded tokens ask too, and come out as if they were tokens."""

    def forward(self, video, text, *, video_mask=None, text_mask=None):
        video, text, v, t = self._enter(video, text, video_mask, text_mask)
        new_video = video + self._gathered(self.video_reads_text, v, t, text_mask)
        return new_video, text + self._gathered(self.text_reads_video, t, v, video_mask)


class BlindIsNaN(library.CrossModalAttention):
    def _gathered(self, attention, asks, answers, mask):
        gathered = super()._gathered(attention, asks, answers, mask)
        return gathered if mask is None else gathered.masked_fill(~mask.any(1)[:, None, None], math.nan)


class MasksExchanged(library.CrossModalAttention):
    """The mask of a stream where the other is read: sizes crash, unless clip and text are of one length."""

    def forward(self, video, text, *, video_mask=None, text_mask=None):
        v, t = self.video_norm(video), self.text_norm(text)
        new_video = video + self.video_reads_text(v, t, mask=library._keys(video_mask))
        return new_video, text + self.text_reads_video(t, v, mask=library._keys(text_mask))


class MaskOfTheAsker(library.CrossModalAttention):
    """Padded tokens may not ask; they are read all the same."""

    def forward(self, video, text, *, video_mask=None, text_mask=None):
        def asking(mask):
            return None if mask is None else rearrange(mask, "b n -> b 1 n 1")

        v, t = self.video_norm(video), self.text_norm(text)
        new_video = video + self.video_reads_text(v, t, mask=asking(video_mask))
        return new_video, text + self.text_reads_video(t, v, mask=asking(text_mask))


class ZerosInPlaceOfAMask(library.CrossModalAttention):
    """Padding is zeros, and is read: a score of zero is not a weight of zero."""

    def forward(self, video, text, *, video_mask=None, text_mask=None):
        video, text, v, t = self._enter(video, text, video_mask, text_mask)
        video, text = video + self.video_reads_text(v, t), text + self.text_reads_video(t, v)
        return library.hide_padding(video, video_mask), library.hide_padding(text, text_mask)


class KeysMaskedAlone(library.CrossModalAttention):
    """Right masks in both attentions, and nothing more: padding asks, and comes out."""

    def forward(self, video, text, *, video_mask=None, text_mask=None):
        v, t = self.video_norm(video), self.text_norm(text)
        new_video = video + self.video_reads_text(v, t, mask=library._keys(text_mask))
        return new_video, text + self.text_reads_video(t, v, mask=library._keys(video_mask))


class AnyOfTheBatch(library.CrossModalAttention):
    """One clip with a text is enough for all clips to get the bias."""

    def _gathered(self, attention, asks, answers, mask):
        gathered = attention(asks, answers, mask=library._keys(mask))
        return gathered if mask is None or mask.any() else torch.zeros_like(gathered)


class NoResidualUnhidden(library.CrossModalAttention):
    def forward(self, video, text, *, video_mask=None, text_mask=None):
        v, t = self.video_norm(video), self.text_norm(text)
        gathered = self.video_reads_text(v, t, mask=library._keys(text_mask))
        return gathered, self.text_reads_video(t, v, mask=library._keys(video_mask))


class OneAfterTheOtherUnhidden(library.CrossModalAttention):
    def forward(self, video, text, *, video_mask=None, text_mask=None):
        t = self.text_norm(text)
        video = video + self.video_reads_text(self.video_norm(video), t, mask=library._keys(text_mask))
        return video, text + self.text_reads_video(t, self.video_norm(video), mask=library._keys(video_mask))


def before_masks(kind: type) -> type:
    """The mistake in a block that does not use its masks yet: the mistake comes first."""

    def forward(self, video, text, *, video_mask=None, text_mask=None):
        return kind.forward(self, video, text)

    return type(f"{kind.__name__}BeforeMasks", (kind,), {"forward": forward})


BLOCK: list[tuple[Callable, tuple[str, str, str]]] = [
    (
        WrongMaskOfTheOther,
        (
            "Without masks it is right. When a frame reads words, what is hidden: padded words, or padded frames?",
            "The masks are on the wrong side: a mask hides tokens that are read, and those are of the other stream.",
            "video_reads_text takes text_mask, text_reads_video takes video_mask.",
        ),
    ),
    (
        MasksIgnored,
        (
            "Call the block with and without masks. What changes?",
            "The masks are arguments that no line uses.",
            "mask=rearrange(text_mask, 'b n -> b 1 1 n') where the video reads the text, and the other way round.",
        ),
    ),
    (
        MasksInverted,
        (
            "Without masks it is right. Which tokens are read where a mask is given?",
            "The masks are used upside down: True is a token, False is padding.",
            "Leave out the ~: the attention's mask has True = may look, just as these.",
        ),
    ),
    (
        OneMaskForgotten,
        (
            "The text's padding is right. What about the clip's?",
            "video_mask is not used: the words read padded frames.",
            "text_reads_video(t, v, mask=rearrange(video_mask, 'b s -> b 1 1 s')), and zeros where it is False.",
        ),
    ),
    (
        TextMaskForgotten,
        (
            "The clip's padding is right. What about the text's?",
            "text_mask is not used: the frames read padded words.",
            "video_reads_text(v, t, mask=rearrange(text_mask, 'b n -> b 1 1 n')), and zeros where it is False.",
        ),
    ),
    (
        OneAfterTheOther,
        (
            "The video is right. Which video does the text read?",
            "The text reads a video that has already gathered words; both should read what came in.",
            "Compute v and t once, at the top, and use them in both calls.",
        ),
    ),
    (
        TextFirst,
        (
            "The text is right. Which text does the video read?",
            "The video reads a text that has already gathered frames; both should read what came in.",
            "Compute v and t once, at the top, and use them in both calls.",
        ),
    ),
    (
        NoResidual,
        (
            "Set all weights of out_proj to zero. What should come out?",
            "What a stream was is lost: the gathered is returned instead of added.",
            "video + video_reads_text(...), text + text_reads_video(...)",
        ),
    ),
    (
        ResidualOfTheNormed,
        (
            "Set all weights of out_proj to zero. Does the video come out as it went in?",
            "The gathered is added to the normalised stream; the sum should run past the norm.",
            "video + video_reads_text(v, t), with v = video_norm(video) inside the call alone.",
        ),
    ),
    (
        NormForgotten,
        (
            "Multiply the video by ten. Does the text gather something else?",
            "The streams are read without being normalised.",
            "v, t = self.video_norm(video), self.text_norm(text), and both attentions read v and t.",
        ),
    ),
    (
        NormOfTheAskerAlone,
        (
            "Multiply the video by ten. Does the text gather something else?",
            "Only the stream that asks is normalised; the one that answers is read as it is.",
            "video_reads_text(v, t) and text_reads_video(t, v): both of them normalised.",
        ),
    ),
    (
        PostNorm,
        (
            "Set all weights of out_proj to zero. Does the video come out as it went in?",
            "The norm stands behind the sum; by default (norm_first=True) it stands before the attention.",
            "video + video_reads_text(video_norm(video), text_norm(text)), and no norm behind it.",
        ),
    ),
    (
        StreamsReturnedExchanged,
        (
            "What is the shape of the first result?",
            "The streams come back exchanged.",
            "return video, text",
        ),
    ),
    (
        VideoReadsItself,
        (
            "Change the text. Does the video change?",
            "Each stream reads itself: queries, keys and values are of one stream.",
            "Queries of the one, keys and values of the other: video_reads_text(v, t), text_reads_video(t, v).",
        ),
    ),
    (
        PaddingTimesZero,
        (
            "Put NaN into a padded token. What is 0 x NaN?",
            "Padding gets weight zero, but a number that is not finite spoils even a product with zero.",
            "Before anything else: video = hide_padding(video, video_mask), and the same for the text.",
        ),
    ),
    (
        BiasOutOfNothing,
        (
            "Mask a whole text. Does its clip come out as it went in?",
            "Where nobody answers, attention gives zeros, but out_proj adds its bias to them.",
            "Hide what was gathered too: hide_padding(gathered, text_mask.any(1, keepdim=True)).",
        ),
    ),
    (
        PaddingComesOut,
        (
            "What stands at a padded place of the result?",
            "Padded tokens gather as if they were tokens; they come out as zeros here.",
            "At the end: hide_padding(video, video_mask), hide_padding(text, text_mask).",
        ),
    ),
    (
        BlindIsNaN,
        (
            "Mask a whole text. What is 0 / 0?",
            "A softmax over scores of -inf alone is NaN.",
            "Use attend of minivid.layers.attention, which gives zeros there, and hide_padding for the bias.",
        ),
    ),
    (
        MasksExchanged,
        (
            "Without masks it is right. How long is the mask of the words, and how long that of the frames?",
            "The masks are on the wrong side: a mask hides tokens that are read, and those are of the other stream.",
            "video_reads_text takes text_mask, text_reads_video takes video_mask.",
        ),
    ),
    (
        MaskOfTheAsker,
        (
            "Which tokens does the mask stop: those that ask, or those that are read?",
            "The mask stands at the queries (b 1 n 1), and padding is still read.",
            "mask=rearrange(text_mask, 'b n -> b 1 1 n') where the video reads the text: the last axis is who is read.",
        ),
    ),
    (
        ZerosInPlaceOfAMask,
        (
            "Which weight does a padded token get whose score is zero? What is exp(0)?",
            "Padding was replaced by zeros, but it still takes its share of the weights.",
            "It needs a mask too: mask=rearrange(text_mask, 'b n -> b 1 1 n') where the video reads the text.",
        ),
    ),
    (
        KeysMaskedAlone,
        (
            "What stands at a padded place of the result? And what if NaN stood there before?",
            "The masks are right, but padding still asks, and comes out as if it were a token.",
            "hide_padding of both streams first, before the norms, and again at the end.",
        ),
    ),
    (
        AnyOfTheBatch,
        (
            "One clip alone is right. What if one clip has a text and the other has none?",
            "Whether there is anything to read is asked of the whole batch; each clip needs an answer of its own.",
            "text_mask.any(1, keepdim=True), which is b 1.",
        ),
    ),
]
# Whoever has not come to hiding padding, or to the masks, makes these mistakes just as well.
BLOCK += [
    (unhidden, hints)
    for kind, hints in BLOCK
    for unhidden in (NoResidualUnhidden, OneAfterTheOtherUnhidden)
    if unhidden.__name__ == f"{kind.__name__}Unhidden"
]
EARLY = (
    *(OneAfterTheOther, TextFirst, NoResidual, ResidualOfTheNormed, NormForgotten, NormOfTheAskerAlone, PostNorm),
    *(StreamsReturnedExchanged, VideoReadsItself),
)
BLOCK += [(before_masks(kind), hints) for kind, hints in BLOCK if kind in EARLY]

# ---- TemporalAttention


class OverSpace(library.TemporalAttention):
    """Looks at the other places of the same frame."""

    def forward(self, x, *, frame_mask=None):
        rows = rearrange(library.hide_padding(x, frame_mask), "b t s d -> (b t) s d")
        gathered = rearrange(self.attention(rows), "(b t) s d -> b t s d", b=len(x))
        return library.hide_padding(gathered, frame_mask)


class OverEverything(library.TemporalAttention):
    """All places of all frames as one sequence."""

    def forward(self, x, *, frame_mask=None):
        b, t, s, _ = x.shape
        tokens = rearrange(library.hide_padding(x, frame_mask), "b t s d -> b (t s) d")
        frame = torch.arange(t).repeat_interleave(s)
        mask = (frame[:, None] >= frame) if self.causal else None
        if frame_mask is not None:
            there = frame_mask.repeat_interleave(s, 1)[:, None, None]
            mask = there if mask is None else there & mask
        gathered = rearrange(self.attention(tokens, mask=mask), "b (t s) d -> b t s d", t=t)
        return library.hide_padding(gathered, frame_mask)


class Reshaped(library.TemporalAttention):
    """reshape where the axes should change places."""

    def forward(self, x, *, frame_mask=None):
        b, t, s, d = x.shape
        _, mask = self._columns(x, frame_mask)
        columns = library.hide_padding(x, frame_mask).reshape(b * s, t, d)
        gathered = self.attention(columns, mask=mask).reshape(b, t, s, d)
        return library.hide_padding(gathered, frame_mask)


class NotTurnedBack(library.TemporalAttention):
    """Right on the way there, reshaped on the way back."""

    def forward(self, x, *, frame_mask=None):
        columns, mask = self._columns(x, frame_mask)
        return library.hide_padding(self.attention(columns, mask=mask).reshape(x.shape), frame_mask)


class CausalForgotten(library.TemporalAttention):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options | {"causal": False})


class AlwaysCausal(library.TemporalAttention):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options | {"causal": True})


class LooksAhead(library.TemporalAttention):
    """The triangle turned round: a frame sees itself and later frames."""

    def _columns(self, x, frame_mask):
        causal, self.causal = self.causal, False
        columns, mask = super()._columns(x, frame_mask)
        self.causal = causal
        if causal:
            ahead = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu()
            mask = ahead if mask is None else mask & ahead
        return columns, mask


class StrictlyEarlier(library.TemporalAttention):
    """A frame sees earlier frames but not itself."""

    def _columns(self, x, frame_mask):
        columns, mask = super()._columns(x, frame_mask)
        return columns, (mask & ~torch.eye(x.shape[1], dtype=torch.bool) if self.causal else mask)


class FrameMaskIgnored(library.TemporalAttention):
    def forward(self, x, *, frame_mask=None):
        return super().forward(x)


class FrameMaskInverted(library.TemporalAttention):
    def forward(self, x, *, frame_mask=None):
        return super().forward(x, frame_mask=None if frame_mask is None else ~frame_mask)


class MaskInTheWrongOrder(library.TemporalAttention):
    """The mask is repeated clip behind clip, while the sequences run place by place within a clip."""

    def _columns(self, x, frame_mask):
        columns, mask = super()._columns(x, frame_mask)
        if frame_mask is not None:
            mask = rearrange(mask, "(b s) one n t -> (s b) one n t", b=len(x))
        return columns, mask


class PaddedFramesComeOut(library.TemporalAttention):
    def forward(self, x, *, frame_mask=None):
        columns, mask = self._columns(x, frame_mask)
        return rearrange(self.attention(columns, mask=mask), "(b s) t d -> b t s d", b=len(x))


class PaddedFramesTimesZero(library.TemporalAttention):
    def forward(self, x, *, frame_mask=None):
        _, mask = self._columns(x, frame_mask)
        gathered = self.attention(rearrange(x, "b t s d -> (b s) t d"), mask=mask)
        gathered = rearrange(gathered, "(b s) t d -> b t s d", b=len(x))
        return gathered if frame_mask is None else gathered * frame_mask[..., None, None]


class ResidualAdded(library.TemporalAttention):
    def forward(self, x, *, frame_mask=None):
        return library.hide_padding(x, frame_mask) + super().forward(x, frame_mask=frame_mask)


class MeanOverTime(library.TemporalAttention):
    """One row for each place instead of one for each frame: the mean over time, repeated."""

    def forward(self, x, *, frame_mask=None):
        gathered = super().forward(x, frame_mask=frame_mask)
        return gathered.mean(1, keepdim=True).expand_as(gathered).clone()


class NoMasksYet(library.TemporalAttention):
    def forward(self, x, *, frame_mask=None):
        gathered = self.attention(rearrange(x, "b t s d -> (b s) t d"))
        return rearrange(gathered, "(b s) t d -> b t s d", b=len(x))


class FrameMaskInPlaceOfTheCausalOne(library.TemporalAttention):
    def _columns(self, x, frame_mask):
        columns, mask = super()._columns(x, frame_mask)
        return columns, (mask if frame_mask is None else mask.any(-2, keepdim=True))


class EitherMask(library.TemporalAttention):
    """A frame is seen if one of the masks allows it."""

    def _columns(self, x, frame_mask):
        columns, mask = super()._columns(x, frame_mask)
        if frame_mask is not None and self.causal:
            frames = frame_mask.repeat_interleave(x.shape[2], 0)[:, None, None]
            mask = frames | library.causal_mask(x.shape[1], x.shape[1])
        return columns, mask


def before_the_frame_mask(kind: type) -> type:
    """The mistake in a layer that does not use frame_mask yet."""

    def forward(self, x, *, frame_mask=None):
        return kind.forward(self, x)

    return type(f"{kind.__name__}BeforeTheFrameMask", (kind,), {"forward": forward})


def before_both_masks(kind: type) -> type:
    """The mistake in a layer that does not use causal either."""

    def forward(self, x, *, frame_mask=None):
        self.causal = False
        return kind.forward(self, x)

    return type(f"{kind.__name__}BeforeBothMasks", (kind,), {"forward": forward})


TEMPORAL: list[tuple[Callable, tuple[str, str, str]]] = [
    (
        OverSpace,
        (
            "In a clip of one frame, what can a token see along time?",
            "The layer looks at the other places of a frame, not at the other frames of a place.",
            "rearrange(x, 'b t s d -> (b s) t d'): time is the sequence, a place is one more clip.",
        ),
    ),
    (
        OverEverything,
        (
            "Change a token in the corner. Which tokens of other places change?",
            "All places of all frames are one sequence; places should not see each other.",
            "rearrange(x, 'b t s d -> (b s) t d'): a sequence of t tokens for each place.",
        ),
    ),
    (
        Reshaped,
        (
            "With one place, or one frame, it is right. Which tokens stand in the first sequence otherwise?",
            "reshape draws new borders in memory; the axes t and s have to change places first.",
            "rearrange(x, 'b t s d -> (b s) t d'), or x.transpose(1, 2).reshape(b * s, t, d).",
        ),
    ),
    (
        NotTurnedBack,
        (
            "The attention is right. Which place does the second row of the result belong to?",
            "The sequences are (b s) t d; to become b t s d again, their axes have to change places back.",
            "rearrange(output, '(b s) t d -> b t s d', b=b)",
        ),
    ),
    (
        CausalForgotten,
        (
            "Make the layer with causal=True and change the last frame. Does the first output change?",
            "causal is an argument that no line uses.",
            "mask = causal_mask(t, t) if self.causal else None",
        ),
    ),
    (
        AlwaysCausal,
        (
            "Change the last frame. Does the first output change? Should it, by default?",
            "The layer is causal whatever it is told.",
            "mask = causal_mask(t, t) if self.causal else None",
        ),
    ),
    (
        LooksAhead,
        (
            "Make the layer with causal=True and change the first frame. Does the last output change?",
            "The triangle is turned round: frames see the future and not the past.",
            "causal_mask(t, t) is a lower triangle: tril, not triu.",
        ),
    ),
    (
        StrictlyEarlier,
        (
            "Make the layer with causal=True. What does the first frame see?",
            "A frame does not see itself; the diagonal belongs to what it may see.",
            "causal_mask(t, t) includes the diagonal.",
        ),
    ),
    (
        FrameMaskIgnored,
        (
            "Call the layer with and without a mask. What changes?",
            "frame_mask is an argument that no line uses.",
            "repeat(frame_mask, 'b t -> (b s) 1 1 t', s=s) is who may be looked at.",
        ),
    ),
    (
        FrameMaskInverted,
        (
            "Without a mask it is right. Which frames are seen where one is given?",
            "The mask is used upside down: True is a frame, False is padding.",
            "Leave out the ~.",
        ),
    ),
    (
        MaskInTheWrongOrder,
        (
            "With one clip, or one place, it is right. Which mask does the second sequence get?",
            "The sequences run place by place within a clip, the masks clip by clip within a place.",
            "repeat(frame_mask, 'b t -> (b s) 1 1 t', s=s): the clip is the outer number, as in the tokens.",
        ),
    ),
    (
        PaddedFramesComeOut,
        (
            "What stands at a padded frame of the result?",
            "Padded frames gather as if they were frames; they come out as zeros here.",
            "At the end: hide_padding(output, frame_mask).",
        ),
    ),
    (
        PaddedFramesTimesZero,
        (
            "Put NaN into a padded frame. What is 0 x NaN?",
            "Padding gets weight zero, but a number that is not finite spoils even a product with zero.",
            "Before anything else: x = hide_padding(x, frame_mask).",
        ),
    ),
    (
        ResidualAdded,
        (
            "Set all weights of out_proj to zero. What should come out?",
            "x is added; the layer returns what was gathered alone, and the block around it adds.",
            "Leave out `x +`.",
        ),
    ),
    (
        MeanOverTime,
        (
            "Are all frames of the result alike?",
            "The mean over time is taken behind the attention; each frame keeps its own answer.",
            "Leave out the mean.",
        ),
    ),
    (
        NoMasksYet,
        (
            "Make the layer with causal=True and change the last frame. Does the first output change?",
            "Without masks it is right. self.causal and frame_mask are not used yet.",
            "mask = causal_mask(t, t) if self.causal else None; then & with frame_mask, which becomes (b s) 1 1 t.",
        ),
    ),
    (
        FrameMaskInPlaceOfTheCausalOne,
        (
            "Each mask alone is right. What does the first frame see with causal=True and a frame_mask?",
            "frame_mask takes the place of the causal mask; both have to hold.",
            "mask = frames if mask is None else frames & mask",
        ),
    ),
    (
        EitherMask,
        (
            "Each mask alone is right. What does the first frame see with causal=True and a frame_mask?",
            "A frame is seen if either mask allows it (|); both have to.",
            "frames & mask",
        ),
    ),
]
# Whoever has not come to the masks yet makes these mistakes just as well.
TEMPORAL += [
    (before(kind), hints)
    for kind, hints in TEMPORAL
    if kind in (OverSpace, OverEverything, Reshaped, NotTurnedBack, ResidualAdded)
    for before in (before_the_frame_mask, before_both_masks)
    if (kind, before) != (OverSpace, before_the_frame_mask)  # it cannot be causal: there is no time in its sequences
]

# ---- hide_padding


def hides_the_tokens(x, mask):
    return x if mask is None else x.masked_fill(mask.view(*mask.shape, *[1] * (x.ndim - 2)), 0.0)


def multiplied(x, mask):
    return x if mask is None else x * mask.view(*mask.shape, *[1] * (x.ndim - 2))


def filled_with_the_lowest(x, mask):
    return x if mask is None else x.masked_fill(~mask.view(*mask.shape, *[1] * (x.ndim - 2)), torch.finfo(x.dtype).min)


def in_place(x, mask):
    return x if mask is None else x.detach().masked_fill_(~mask.view(*mask.shape, *[1] * (x.ndim - 2)), 0.0)


def one_axis_alone(x, mask):
    return x if mask is None else x.masked_fill(~mask[..., None], 0.0)


def cut_out(x, mask):
    return x if mask is None else x[mask]


def needs_a_mask(x, mask):
    return x.masked_fill(~mask.view(*mask.shape, *[1] * (x.ndim - 2)), 0.0)


def first_clips_mask(x, mask):
    return x if mask is None else x.masked_fill(~mask[:1].view(1, -1, *[1] * (x.ndim - 2)), 0.0)


def nan_made_zero(x, mask):
    return x if mask is None else torch.nan_to_num(x) * mask.view(*mask.shape, *[1] * (x.ndim - 2))


def indexed(x, mask):
    if mask is None:
        return x
    x = x.clone()
    x[~mask] = 0.0
    return x


def indexed_in_place(x, mask):
    if mask is not None:
        x[~mask] = 0.0
    return x


HIDE: list[tuple[Callable, tuple[str, str, str]]] = [
    (
        hides_the_tokens,
        (
            "Which tokens are zero now?",
            "True is a token: the zeros belong where the mask is False.",
            "x.masked_fill(~mask[..., None], 0.0)",
        ),
    ),
    (
        multiplied,
        (
            "What is 0 x NaN?",
            "A product with zero does not hide a number that is not finite.",
            "masked_fill writes a number, whatever stood there: x.masked_fill(~mask[..., None], 0.0).",
        ),
    ),
    (
        filled_with_the_lowest,
        (
            "Which number should stand at the padding?",
            "The lowest number is for scores, before a softmax; these are tokens.",
            "x.masked_fill(~mask[..., None], 0.0)",
        ),
    ),
    (
        in_place,
        (
            "What becomes of the tensor that was given? And of its gradient?",
            "The argument itself is changed (masked_fill_), and cut off from its gradient.",
            "masked_fill, without _ and without detach.",
        ),
    ),
    (
        one_axis_alone,
        (
            "Three axes are right. What about b t s d with a mask b t?",
            "The mask gets one axis more; it needs as many as x has more than two.",
            "mask.view(*mask.shape, *[1] * (x.ndim - 2))",
        ),
    ),
    (
        cut_out,
        (
            "Which shape comes out?",
            "Padding is cut out, and clips run into each other; its place stays, with zeros.",
            "x.masked_fill(~mask[..., None], 0.0)",
        ),
    ),
    (
        needs_a_mask,
        (
            "What is ~None?",
            "mask=None means that there is no padding.",
            "return x if mask is None else ...",
        ),
    ),
    (
        first_clips_mask,
        (
            "One clip is right. Where is the padding of the second?",
            "Every clip gets the mask of the first.",
            "mask, not mask[:1].",
        ),
    ),
    (
        nan_made_zero,
        (
            "What becomes of a token that is there and holds a number that is not finite?",
            "nan_to_num changes tokens too, and hides from everybody that something went wrong before.",
            "masked_fill, at the padding alone.",
        ),
    ),
    (
        indexed,
        (
            "A mask b n is right. What about a mask b 1, which speaks of all tokens of a clip at once?",
            "x[mask] wants a mask of exactly the axes of x; it does not stretch an axis of size one.",
            "x.masked_fill(~mask.view(*mask.shape, *[1] * (x.ndim - 2)), 0.0)",
        ),
    ),
    (
        indexed_in_place,
        (
            "What becomes of the tensor that was given?",
            "The argument itself is changed by x[~mask] = 0; and a mask b 1 does not stretch.",
            "x.masked_fill(~mask.view(*mask.shape, *[1] * (x.ndim - 2)), 0.0)",
        ),
    ),
]

MISTAKES: dict[str, list[Mistake]] = {
    "cross_modal_attend": [Mistake(*row) for row in ATTEND],
    "CrossModalAttention": [Mistake(*row) for row in BLOCK],
    "TemporalAttention": [Mistake(*row) for row in TEMPORAL],
    "hide_padding": [Mistake(*row) for row in HIDE],
}


def probes(name: str) -> Iterator[Probe]:
    """Arguments, or uses of a class, on which every two of the mistakes above differ."""
    if name == "cross_modal_attend":
        case = normal(0, 2, 3, 5), normal(1, 2, 4, 7), normal(2, 5, 7), normal(3, 7, 2)
        yield case, {}
        yield (1e4 * case[0], *case[1:]), {}
        yield gradient_of
        # Clip and text of one length and one width, where a product taken the wrong way round still fits.
        yield (normal(0, 2, 3, 5), normal(1, 2, 3, 5), normal(2, 5, 5), normal(3, 5, 5)), {}
    elif name == "CrossModalAttention":
        yield from (plain_streams, padded_streams, nan_in_padding, nothing_to_read, one_with_nothing_to_read)
    elif name == "TemporalAttention":
        yield from (plain_frames, causal_frames, padded_frames, nan_in_padded_frames, padded_causal_frames)
    elif name == "hide_padding":
        x, mask = normal(0, 2, 3, 5), torch.tensor([[True, True, False], [True, False, False]])
        yield (x, mask), {}
        yield (x.masked_fill(~mask[..., None], math.nan), mask), {}
        yield (x, None), {}
        yield (normal(1, 2, 3, 4, 5), mask), {}
        yield (x, mask[:, 1:2]), {}
        yield (x / 0, mask), {}


def gradient_of(answer: Callable) -> object:
    case = normal(0, 2, 3, 5), normal(1, 2, 4, 7), normal(2, 5, 7), normal(3, 7, 2)
    inputs = [x.requires_grad_() for x in case]
    outputs = answer(*inputs)
    return torch.autograd.grad(sum(x.square().sum() for x in outputs[:2]), inputs, allow_unused=True)


def drawn(answer: Callable, model: torch.nn.Module, *arguments: object, **options: object):
    """The answer's object with weights that depend on nothing: no two of them alike, biases included."""
    module = answer(*arguments, **options)
    state = model.state_dict()
    module.load_state_dict({name: 0.5 * normal(i, *x.shape) for i, (name, x) in enumerate(state.items())})
    return module


def a_block(answer: Callable):
    return drawn(answer, library.CrossModalAttention(3, 4, 6, 2), 3, 4, 6, 2)


def two_streams() -> tuple[Tensor, Tensor]:
    return normal(20, 2, 5, 3), normal(21, 2, 7, 4)


VIDEO_MASK = torch.tensor([[True, True, False, True, False], [True] * 5])
TEXT_MASK = torch.tensor([[True, False, True, True, True, False, False], [False] * 3 + [True] * 4])


def plain_streams(answer: Callable) -> object:
    return a_block(answer)(*two_streams())


def padded_streams(answer: Callable) -> object:
    return a_block(answer)(*two_streams(), video_mask=VIDEO_MASK, text_mask=TEXT_MASK)


def nan_in_padding(answer: Callable) -> object:
    video, text = two_streams()
    video, text = video.masked_fill(~VIDEO_MASK[..., None], math.nan), text.masked_fill(~TEXT_MASK[..., None], math.nan)
    return a_block(answer)(video, text, video_mask=VIDEO_MASK, text_mask=TEXT_MASK)


def nothing_to_read(answer: Callable) -> object:
    return a_block(answer)(*two_streams(), text_mask=torch.zeros(2, 7, dtype=torch.bool))


def one_with_nothing_to_read(answer: Callable) -> object:
    return a_block(answer)(*two_streams(), text_mask=torch.tensor([[False] * 7, [True] * 7]))


FRAME_MASK = torch.tensor([[True, False, True], [False, True, True]])


def a_layer(answer: Callable, **options: object):
    return drawn(answer, library.TemporalAttention(4, 2), 4, 2, **options)


def plain_frames(answer: Callable) -> object:
    return a_layer(answer)(normal(20, 2, 3, 5, 4))


def causal_frames(answer: Callable) -> object:
    return a_layer(answer, causal=True)(normal(20, 2, 3, 5, 4))


def padded_frames(answer: Callable) -> object:
    return a_layer(answer)(normal(20, 2, 3, 5, 4), frame_mask=FRAME_MASK)


def nan_in_padded_frames(answer: Callable) -> object:
    x = normal(20, 2, 3, 5, 4).masked_fill(~FRAME_MASK[..., None, None], math.nan)
    return a_layer(answer)(x, frame_mask=FRAME_MASK)


def padded_causal_frames(answer: Callable) -> object:
    return a_layer(answer, causal=True)(normal(20, 2, 3, 5, 4), frame_mask=FRAME_MASK)
