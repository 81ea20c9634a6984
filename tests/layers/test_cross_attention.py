"""Cross-modal attention: the two readings of one table, the block between two streams, and attention along time."""

import functools
import itertools
import math

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import normal, seeds, small, whole
from torch import Tensor, nn
from torch.nn import functional as F

from minivid.classroom.evidence import Broken, agree, holds
from minivid.layers import cross_attention as library
from minivid.layers.attention import KERNELS, causal_mask
from minivid.layers.cross_attention import (
    CrossAttention,
    CrossModalAttention,
    TemporalAttention,
    cross_modal_attend,
)
from minivid.shapes import ShapeError

few = st.integers(1, 3)
# Numbers that a model never meets and a memory that was not written may hold.
HIDDEN = st.sampled_from([math.nan, math.inf, 1e30, -7.0])

NAMES = ("video_output", "text_output", "video_weights", "text_weights")
AXES = ("b s out_dim", "b n out_dim", "b s n", "b n s")


@st.composite
def clip_and_text(draw):
    """Whole numbers in sizes that differ often: video b s video_dim, text b n text_dim, w_v, w_o."""
    b, s, n, widths = draw(st.tuples(st.integers(1, 2), few, few, st.tuples(few, small, few)))
    video_dim, text_dim, out_dim = widths
    return (
        draw(whole(b, s, video_dim)),
        draw(whole(b, n, text_dim)),
        draw(whole(video_dim, text_dim, low=-1, high=1)),
        draw(whole(text_dim, out_dim)),
    )


@st.composite
def quick_clip_and_text(draw):
    """The same for laws that come late: numbers from a seed are drawn faster, shrink less."""
    b, s, n, seed = draw(st.tuples(st.integers(1, 2), few, few, seeds))
    video_dim, text_dim, out_dim = draw(st.tuples(few, small, few))
    shapes = ((b, s, video_dim), (b, n, text_dim), (video_dim, text_dim), (text_dim, out_dim))
    return tuple(normal(seed + i, *shape).mul(1.5).round() for i, shape in enumerate(shapes))


def named(case: tuple) -> dict[str, Tensor]:
    return dict(zip(("video", "text", "w_v", "w_o"), case, strict=True))


def read(impl, *case: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The answer's four tensors, of the right shapes; every law of cross_modal_attend goes through here."""
    result = impl.cross_modal_attend(*case)
    shown = named(case)
    expected = "cross_modal_attend returns (video_output, text_output, video_weights, text_weights)"
    if not isinstance(result, tuple) or len(result) != 4:
        came = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {type(result).__name__}"
        raise Broken(f"{expected}; {came} came back", shown)
    (b, s, _), n, out_dim = case[0].shape, case[1].shape[1], case[3].shape[1]
    shapes = ((b, s, out_dim), (b, n, out_dim), (b, s, n), (b, n, s))
    for name, axes, got, want in zip(NAMES, AXES, result, shapes, strict=True):
        holds(isinstance(got, Tensor), f"{name} is a {type(got).__name__}, expected a tensor {axes}", **shown)
        holds(got.shape == want, f"{name} has shape {tuple(got.shape)}, expected {axes} = {want}", **shown)
    return result


def written_out(video: Tensor, text: Tensor, w_v: Tensor, w_o: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The definition in double precision, one frame and one word at a time."""
    video, text, w_v, w_o = (x.double() for x in (video, text, w_v, w_o))
    b, s, n = *video.shape[:2], text.shape[1]
    video_output, text_output = video.new_zeros(b, s, w_o.shape[1]), video.new_zeros(b, n, w_o.shape[1])
    video_weights, text_weights = video.new_zeros(b, s, n), video.new_zeros(b, n, s)
    for clip in range(b):
        seen = [frame @ w_v for frame in video[clip]]
        fits = [[float(frame @ word) / math.sqrt(text.shape[2]) for word in text[clip]] for frame in seen]
        for frame in range(s):
            powers = [math.exp(fit - max(fits[frame])) for fit in fits[frame]]
            for word in range(n):
                video_weights[clip, frame, word] = powers[word] / sum(powers)
                video_output[clip, frame] += powers[word] / sum(powers) * (text[clip, word] @ w_o)
        for word in range(n):
            column = [fits[frame][word] for frame in range(s)]
            powers = [math.exp(fit - max(column)) for fit in column]
            for frame in range(s):
                text_weights[clip, word, frame] = powers[frame] / sum(powers)
                text_output[clip, word] += powers[frame] / sum(powers) * (seen[frame] @ w_o)
    return video_output, text_output, video_weights, text_weights


def order_of(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


# ---- laws of cross_modal_attend, from the first things to get right to the last


@pytest.mark.law("cross_modal_attend")
@settings(max_examples=10)  # each later law looks at the shapes too
@given(clip_and_text())
def test_cross_modal_attend_returns_outputs_and_weights_of_both(impl, case):
    """Four tensors: what each frame and each word gathered, then the weights of the frames and those of the words."""
    read(impl, *case)


@pytest.mark.law("cross_modal_attend")
@given(clip_and_text())
def test_cross_modal_attend_lets_a_frame_share_one_among_the_words(impl, case):
    """The weights of a frame are never negative and sum to one over the words."""
    _, _, weights, _ = read(impl, *case)
    holds(bool((weights >= 0).all()), "a weight of a frame is negative or not a number", **named(case), weights=weights)
    total = weights.sum(-1)
    claim = "the weights of a frame do not sum to one over the words"
    agree(total, torch.ones_like(total), claim, axes="b s", **named(case), video_weights=weights)


@pytest.mark.law("cross_modal_attend")
@given(clip_and_text())
def test_cross_modal_attend_lets_a_word_share_one_among_the_frames(impl, case):
    """The weights of a word are never negative and sum to one over the frames."""
    _, _, _, weights = read(impl, *case)
    holds(bool((weights >= 0).all()), "a weight of a word is negative or not a number", **named(case), weights=weights)
    total = weights.sum(-1)
    claim = "the weights of a word do not sum to one over the frames"
    agree(total, torch.ones_like(total), claim, axes="b n", **named(case), text_weights=weights)


@pytest.mark.law("cross_modal_attend")
@given(clip_and_text())
def test_cross_modal_attend_weighs_by_the_scores(impl, case):
    """Both weights are the softmax of one table, (V W_v) T^T / sqrt(text_dim), along its rows and along its columns."""
    results, wants = read(impl, *case), written_out(*case)
    for name, axes, got, want in list(zip(NAMES, AXES, results, wants, strict=True))[2:]:
        agree(got, want, f"{name} differ from exp(score) over its sum", axes=axes, **named(case))


@pytest.mark.law("cross_modal_attend")
@given(clip_and_text())
def test_cross_modal_attend_averages_the_other_stream(impl, case):
    """A frame gets the mean of the words T by its weights, a word that of the frames V W_v, each then times W_o."""
    results, wants = read(impl, *case), written_out(*case)
    for name, axes, got, want in list(zip(NAMES, AXES, results, wants, strict=True))[:2]:
        agree(got, want, f"{name} differs from the weighted mean of the other stream", axes=axes, **named(case))


@pytest.mark.law("cross_modal_attend")
@given(quick_clip_and_text())
def test_cross_modal_attend_stays_finite_when_scores_are_large(impl, case):
    """Scores in the thousands choose the best word, and the best frame; nothing overflows."""
    video, *rest = case
    loud = video * 1e4
    for name, axes, got, want in zip(NAMES, AXES, read(impl, loud, *rest), written_out(loud, *rest), strict=True):
        # Outputs reach 1e5 here, and float32 keeps seven digits.
        agree(got, want, f"large scores spoil {name}", axes=axes, atol=1e-2, **named((loud, *rest)))


@pytest.mark.law("cross_modal_attend")
@given(quick_clip_and_text(), seeds)
def test_cross_modal_attend_follows_the_words(impl, case, seed):
    """Words in another order: what words gather follows them, what frames gather stays."""
    video, text, w_v, w_o = case
    order = order_of(text.shape[1], seed)
    video_output, text_output, video_weights, text_weights = read(impl, *case)
    got = read(impl, video, text[:, order], w_v, w_o)
    want = (video_output, text_output[:, order], video_weights[:, :, order], text_weights[:, order])
    for name, axes, one, other in zip(NAMES, AXES, got, want, strict=True):
        claim = f"{name} of words in another order"
        agree(one, other, claim + " are not as they should be", axes=axes, **named(case), order=order)


@pytest.mark.law("cross_modal_attend")
@given(quick_clip_and_text(), seeds)
def test_cross_modal_attend_follows_the_frames(impl, case, seed):
    """Frames in another order: what frames gather follows them, what words gather stays."""
    video, text, w_v, w_o = case
    order = order_of(video.shape[1], seed)
    video_output, text_output, video_weights, text_weights = read(impl, *case)
    got = read(impl, video[:, order], text, w_v, w_o)
    want = (video_output[:, order], text_output, video_weights[:, order], text_weights[:, :, order])
    for name, axes, one, other in zip(NAMES, AXES, got, want, strict=True):
        claim = f"{name} of frames in another order"
        agree(one, other, claim + " are not as they should be", axes=axes, **named(case), order=order)


@pytest.mark.law("cross_modal_attend")
@given(quick_clip_and_text())
def test_cross_modal_attend_keeps_clips_apart(impl, case):
    """Each clip with its text gives what it gives alone."""
    video, text, w_v, w_o = case
    together = read(impl, *case)
    for clip in range(len(video)):
        alone = read(impl, video[clip : clip + 1], text[clip : clip + 1], w_v, w_o)
        for name, got, want in zip(NAMES, together, alone, strict=True):
            agree(got[clip], want[0], f"{name} of clip {clip} differ when it stands alone", **named(case))


@pytest.mark.law("cross_modal_attend")
@given(quick_clip_and_text(), seeds)
def test_cross_modal_attend_exchanges_its_weights_with_its_streams(impl, case, seed):
    """Between streams of one width: streams exchanged and W_v transposed exchange the weights."""
    video, text, _, w_o = case
    width = text.shape[2]
    video = normal(seed, *video.shape[:2], width).round()
    w_v = normal(seed + 1, width, width).round()
    _, _, video_weights, text_weights = read(impl, video, text, w_v, w_o)
    _, _, got_video, got_text = read(impl, text, video, w_v.T.contiguous(), w_o)
    for got, want, axes in ((got_video, text_weights, "b n s"), (got_text, video_weights, "b s n")):
        agree(got, want, "exchanged streams do not exchange weights", axes=axes, **named((video, text, w_v, w_o)))


@pytest.mark.law("cross_modal_attend")
@given(quick_clip_and_text())
def test_cross_modal_attend_sends_gradients_to_both_streams(impl, case):
    """Clip, text and both matrices get the gradient of the formula."""
    inputs = [x.clone().requires_grad_() for x in case]
    outputs = read(impl, *inputs)
    holds(all(x.requires_grad for x in outputs), "a result is cut off from its inputs (detach?)", **named(case))
    found = torch.autograd.grad(sum(x.square().sum() for x in outputs), inputs, allow_unused=True)
    doubles = [x.double().requires_grad_() for x in case]
    video, text, w_v, w_o = doubles
    scores = torch.einsum("bsv,vd,bnd->bsn", video, w_v, text) / math.sqrt(text.shape[2])
    rows, columns = F.softmax(scores, 2), F.softmax(scores, 1).mT
    wants = (rows @ text @ w_o, columns @ (video @ w_v) @ w_o, rows, columns)
    wants = torch.autograd.grad(sum(x.square().sum() for x in wants), doubles)
    for name, got, want in zip(named(case), found, wants, strict=True):
        holds(got is not None, f"no gradient reaches {name}", **named(case))
        # float32 sums of squares up to some hundred.
        agree(got, want, f"the gradient of {name} is another", atol=1e-2, rtol=1e-3, **named(case))


# ---- laws of CrossModalAttention

WIDTHS = (3, 4, 6, 2)  # video_dim, text_dim, embed_dim, num_heads


@functools.cache
def shapes_of(kind: type, *arguments: int) -> dict[str, torch.Size]:
    return {name: x.shape for name, x in kind(*arguments).state_dict().items()}


def weights_of(seed: int, kind: type, *arguments: int) -> dict[str, Tensor]:
    """A state dict of normal numbers: biases and norms too, which start as 0 and 1 and would hide mistakes."""
    shapes = shapes_of(kind, *arguments)
    numbers = 0.5 * normal(seed, sum(shape.numel() for shape in shapes.values()))
    parts = numbers.split([shape.numel() for shape in shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def block(impl, seed: int, **options):
    """The answer's block, with the weights of the seed."""
    module = impl.CrossModalAttention(*WIDTHS, **options)
    module.load_state_dict(weights_of(seed, CrossModalAttention, *WIDTHS))
    return module


@st.composite
def streams(draw):
    """video b s 3, text b n 4, a mask for each in which something is there, and a seed for the weights."""
    b, s, n, seed = draw(st.tuples(st.integers(1, 2), few, few, seeds))
    video, text = normal(seed, b, s, WIDTHS[0]), normal(seed + 1, b, n, WIDTHS[1])
    video_mask, text_mask = normal(seed + 2, b, s) > 0, normal(seed + 3, b, n) > 0
    video_mask[:, draw(st.integers(0, s - 1))] = True
    text_mask[:, draw(st.integers(0, n - 1))] = True
    return video, text, video_mask, text_mask, seed


def both(impl, module, video: Tensor, text: Tensor, **masks: Tensor) -> tuple[Tensor, Tensor]:
    """What the answer's block makes of two streams: a pair of their shapes."""
    result = module(video, text, **masks)
    shown = dict(video=video, text=text, **masks)
    pair = isinstance(result, tuple) and len(result) == 2 and all(isinstance(x, Tensor) for x in result)
    holds(pair, "the block returns (video, text), a tuple of two tensors", **shown)
    for name, got, want in zip(("video", "text"), result, (video, text), strict=True):
        claim = f"{name} comes out with shape {tuple(got.shape)}, it went in with {tuple(want.shape)}"
        holds(got.shape == want.shape, claim, **shown)
    return result


def gathered(state: dict, name: str, asks: Tensor, answers: Tensor, there: Tensor | None) -> Tensor:
    """Multi-head attention written with one product a head, over the tokens that are there alone; in double."""
    q, k, v = (
        x.double() @ state[f"{name}.{part}_proj.weight"].double().T + state[f"{name}.{part}_proj.bias"].double()
        for x, part in ((asks, "q"), (answers, "k"), (answers, "v"))
    )
    rows = []
    for clip in range(len(asks)):
        seen = torch.arange(answers.shape[1]) if there is None else there[clip].nonzero().flatten()
        if len(seen) == 0:
            rows.append(torch.zeros(asks.shape[1:], dtype=torch.float64))
            continue
        heads = []
        for head in range(WIDTHS[3]):
            part = slice(3 * head, 3 * head + 3)
            scores = q[clip, :, part] @ k[clip, seen][:, part].T / math.sqrt(3)
            heads.append(F.softmax(scores, -1) @ v[clip, seen][:, part])
        weight, bias = state[f"{name}.out_proj.weight"].double(), state[f"{name}.out_proj.bias"].double()
        rows.append(torch.cat(heads, -1) @ weight.T + bias)
    return torch.stack(rows)


def block_written_out(state, video, text, video_mask=None, text_mask=None, *, norm_first=True, eps=1e-5):
    """The block in double precision, with torch's layer_norm."""

    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias = state[f"{name}.weight"].double(), state[f"{name}.bias"].double()
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

    video, text = video.double(), text.double()
    v, t = (norm(video, "video_norm"), norm(text, "text_norm")) if norm_first else (video, text)
    video = video + gathered(state, "video_reads_text", v, t, text_mask)
    text = text + gathered(state, "text_reads_video", t, v, video_mask)
    if not norm_first:
        video, text = norm(video, "video_norm"), norm(text, "text_norm")
    if video_mask is not None:
        video = video * video_mask[..., None]
    if text_mask is not None:
        text = text * text_mask[..., None]
    return video, text


def compared(got, want, claim: str, **shown) -> None:
    for name, axes, one, other in zip(("video", "text"), ("b s video_dim", "b n text_dim"), got, want, strict=True):
        # A dozen sums of products in float32.
        agree(one, other, f"{name}: {claim}", axes=axes, atol=1e-4, rtol=1e-4, **shown)


@pytest.mark.law("CrossModalAttention")
@settings(max_examples=10)  # each later law looks at the shapes too
@given(streams())
def test_the_block_keeps_the_shapes_of_both_streams(impl, case):
    """video and text come back as a pair, each in its own shape."""
    video, text, *_, seed = case
    both(impl, block(impl, seed), video, text)


@pytest.mark.law("CrossModalAttention")
@settings(max_examples=20)
@given(streams())
def test_the_block_reads_both_streams_as_they_came(impl, case):
    """What a stream gathers does not depend on how the other reads: both happen at once."""
    video, text, *_, seed = case
    module, state = block(impl, seed), weights_of(seed, CrossModalAttention, *WIDTHS)
    before = both(impl, module, video, text)
    sides = (
        (1, "text", "b n text_dim", "video_reads_text", "video"),
        (0, "video", "b s video_dim", "text_reads_video", "text"),
    )
    for which, name, axes, reader, other in sides:
        module.load_state_dict({key: x + 1.0 * key.startswith(reader) for key, x in state.items()})
        claim = f"the {name} changes with the weights of {reader}: does it read a {other} that has read already?"
        agree(both(impl, module, video, text)[which], before[which], claim, axes=axes, video=video, text=text)


@pytest.mark.law("CrossModalAttention")
@given(streams())
def test_the_block_adds_what_each_stream_gathers_from_the_other(impl, case):
    """video + A(norm(video), norm(text)) and text + B(norm(text), norm(video)); the first asks, the second answers."""
    video, text, *_, seed = case
    got = both(impl, block(impl, seed), video, text)
    want = block_written_out(weights_of(seed, CrossModalAttention, *WIDTHS), video, text)
    compared(got, want, "not what it was plus what it gathers from the other", video=video, text=text)


@pytest.mark.law("CrossModalAttention")
@given(streams(), st.sampled_from([("text_mask",), ("video_mask",), ("video_mask", "text_mask")]))
def test_the_block_shares_one_among_the_tokens_that_are_there(impl, case, names):
    """With masks, the sums run over the tokens that are there, and padding comes out as zeros."""
    video, text, video_mask, text_mask, seed = case
    chosen = {name: dict(video_mask=video_mask, text_mask=text_mask)[name] for name in names}
    got = both(impl, block(impl, seed), video, text, **chosen)
    want = block_written_out(weights_of(seed, CrossModalAttention, *WIDTHS), video, text, **chosen)
    compared(got, want, f"with {' and '.join(names)} it is another", video=video, text=text, **chosen)


@pytest.mark.law("CrossModalAttention")
@given(streams(), HIDDEN)
def test_the_block_never_reads_padding(impl, case, number):
    """A padded token can hold anything, NaN included, and changes nothing."""
    video, text, video_mask, text_mask, seed = case
    masks = dict(video_mask=video_mask, text_mask=text_mask)
    spoilt = [x.masked_fill(~mask[..., None], number) for x, mask in ((video, video_mask), (text, text_mask))]
    got = both(impl, block(impl, seed), *spoilt, **masks)
    want = block_written_out(weights_of(seed, CrossModalAttention, *WIDTHS), video, text, **masks)
    compared(got, want, "a number in the padding changes it", video=spoilt[0], text=spoilt[1], **masks)


@pytest.mark.law("CrossModalAttention")
@given(streams())
def test_the_block_adds_nothing_from_a_side_that_is_padding_alone(impl, case):
    """A clip without a text comes out as it went in, and a text without a clip: not NaN, and not a bias."""
    video, text, video_mask, text_mask, seed = case
    text_mask[0] = False  # the first clip has no text,
    video_mask[1:] = False  # the second text, where there is one, no clip
    masks = dict(video_mask=video_mask, text_mask=text_mask)
    got = both(impl, block(impl, seed), video, text, **masks)
    claim = "it should come out as it went in, with zeros at the padding, where its other side is padding alone"
    compared(got, (video * video_mask[..., None], text * text_mask[..., None]), claim, video=video, text=text, **masks)


@pytest.mark.law("CrossModalAttention")
@given(streams())
def test_the_block_follows_the_order_of_both_streams(impl, case):
    """Words and frames in another order come out in that order, and are the same."""
    video, text, *_, seed = case
    module = block(impl, seed)
    frames, words = order_of(video.shape[1], seed), order_of(text.shape[1], seed + 1)
    want_video, want_text = both(impl, module, video, text)
    got = both(impl, module, video[:, frames], text[:, words])
    want, shown = (want_video[:, frames], want_text[:, words]), dict(video=video, text=text, frames=frames, words=words)
    compared(got, want, "another order of frames and words spoils it", **shown)


@pytest.mark.law("CrossModalAttention")
@given(streams())
def test_the_block_does_the_same_to_exchanged_streams(impl, case):
    """Streams and weights exchanged give the same results, exchanged."""
    video, text, video_mask, text_mask, seed = case
    state = weights_of(seed, CrossModalAttention, *WIDTHS)
    video_dim, text_dim, embed_dim, num_heads = WIDTHS
    module = impl.CrossModalAttention(text_dim, video_dim, embed_dim, num_heads)
    names = {"video_reads_text": "text_reads_video", "video_norm": "text_norm"}
    names |= {new: old for old, new in names.items()}
    module.load_state_dict({names[(parts := key.split(".", 1))[0]] + "." + parts[1]: x for key, x in state.items()})
    got_text, got_video = both(impl, module, text, video, video_mask=text_mask, text_mask=video_mask)
    want = block_written_out(state, video, text, video_mask, text_mask)
    compared((got_video, got_text), want, "not the same when the streams change places", video=video, text=text)


@pytest.mark.law("CrossModalAttention")
@settings(max_examples=20)
@given(streams())
def test_the_block_sends_gradients_to_both_streams(impl, case):
    """Each output moves both inputs; padding gets no gradient, and nothing is NaN."""
    video, text, video_mask, text_mask, seed = case
    masks, state = dict(video_mask=video_mask, text_mask=text_mask), weights_of(seed, CrossModalAttention, *WIDTHS)
    shown = dict(video=video, text=text, **masks)
    inputs = [x.masked_fill(~m[..., None], math.nan) for x, m in ((video, video_mask), (text, text_mask))]
    inputs = [x.requires_grad_() for x in inputs]
    outputs = both(impl, block(impl, seed), *inputs, **masks)
    holds(all(x.requires_grad for x in outputs), "a result is cut off from its inputs (detach?)", **shown)
    doubles = [x.double().requires_grad_() for x in (video, text)]
    # Times two, so that what one output misses is not made up for by the other.
    results = (outputs, inputs), (block_written_out(state, *doubles, **masks), doubles)
    found, wants = (
        torch.autograd.grad(v.square().sum() + 2 * t.square().sum(), x, allow_unused=True) for (v, t), x in results
    )
    for name, mask, got, want in zip(("video", "text"), (video_mask, text_mask), found, wants, strict=True):
        holds(got is not None, f"no gradient reaches the {name}", **shown)
        claim = f"the gradient that reaches the {name} is another"
        agree(got, want * mask[..., None], claim, atol=1e-2, rtol=1e-3, **shown)


# ---- laws of TemporalAttention

D, HEADS = 4, 2


def along_time(impl, seed: int, **options):
    """The answer's layer, with the weights of the seed."""
    module = impl.TemporalAttention(D, HEADS, **options)
    module.load_state_dict(weights_of(seed, TemporalAttention, D, HEADS))
    return module


@st.composite
def places(draw):
    """Tokens b t s d, a mask b t in which something is there, whether nobody may look ahead, and a seed."""
    b, t, s, seed = draw(st.tuples(st.integers(1, 2), few, few, seeds))
    mask = normal(seed + 1, b, t) > 0
    mask[:, draw(st.integers(0, t - 1))] = True
    return normal(seed, b, t, s, D), mask, draw(st.booleans()), seed


def looked(impl, module, x: Tensor, **mask: Tensor) -> Tensor:
    got = module(x, **mask)
    holds(isinstance(got, Tensor), f"the layer returns a {type(got).__name__}, expected a tensor b t s d", x=x, **mask)
    holds(got.shape == x.shape, f"shape {tuple(got.shape)} comes out, {tuple(x.shape)} b t s d went in", x=x, **mask)
    return got


def place_by_place(seed: int, x: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Each place of each clip as a sequence of its own, of the frames that are there, by torch's module; in double."""
    torchs = nn.MultiheadAttention(D, HEADS, batch_first=True, dtype=torch.float64)
    state = {key.removeprefix("attention."): y for key, y in weights_of(seed, TemporalAttention, D, HEADS).items()}
    for part in ("weight", "bias"):
        state[f"in_proj_{part}"] = torch.cat([state.pop(f"{name}_proj.{part}") for name in "qkv"])
    torchs.load_state_dict(state)
    want = torch.zeros(x.shape, dtype=torch.float64)
    for clip, place in itertools.product(range(x.shape[0]), range(x.shape[2])):
        there = torch.arange(x.shape[1]) if mask is None else mask[clip].nonzero().flatten()
        if len(there):
            tokens = x[clip : clip + 1, there, place].double()
            hidden = ~causal_mask(len(there), len(there)) if causal else None
            want[clip, there, place] = torchs(tokens, tokens, tokens, attn_mask=hidden, need_weights=False)[0][0]
    return want


@pytest.mark.law("TemporalAttention")
@settings(max_examples=10)  # each later law looks at the shape too
@given(places())
def test_temporal_attention_keeps_the_shape(impl, case):
    """b t s d goes in, b t s d comes out."""
    x, _, _, seed = case
    looked(impl, along_time(impl, seed), x)


@pytest.mark.law("TemporalAttention")
@given(places())
def test_temporal_attention_of_one_frame_sees_that_frame(impl, case):
    """In a clip of one frame each token sees itself alone: out_proj(v_proj(x))."""
    x, _, causal, seed = case
    x = x[:, :1]
    state = weights_of(seed, TemporalAttention, D, HEADS)
    want = x
    for name in ("v_proj", "out_proj"):
        want = F.linear(want, state[f"attention.{name}.weight"], state[f"attention.{name}.bias"])
    got = looked(impl, along_time(impl, seed, causal=causal), x)
    agree(got, want, "a single frame sees something else than itself", axes="b t s d", x=x)


@pytest.mark.law("TemporalAttention")
@given(places())
def test_temporal_attention_does_not_mix_places(impl, case):
    """A place gives what it gives when it is the only one: other places are not seen."""
    x, _, causal, seed = case
    module = along_time(impl, seed, causal=causal)
    got = looked(impl, module, x)
    for place in range(x.shape[2]):
        alone = looked(impl, module, x[:, :, place : place + 1])
        agree(got[:, :, place], alone[:, :, 0], f"place {place} differs when it stands alone", axes="b t d", x=x)


@pytest.mark.law("TemporalAttention")
@given(places())
def test_temporal_attention_is_attention_along_time(impl, case):
    """Each place of each clip is a sequence of t tokens, as torch's attention reads it."""
    x, _, _, seed = case
    got = looked(impl, along_time(impl, seed), x)
    agree(got, place_by_place(seed, x, None, False), "not attention over the frames of a place", axes="b t s d", x=x)


@pytest.mark.law("TemporalAttention")
@given(places())
def test_temporal_attention_hides_the_future_if_causal(impl, case):
    """causal=True: a frame sees itself and earlier frames only."""
    x, _, _, seed = case
    got = looked(impl, along_time(impl, seed, causal=True), x)
    agree(got, place_by_place(seed, x, None, True), "not attention over the frames so far", axes="b t s d", x=x)


@pytest.mark.law("TemporalAttention")
@given(places())
def test_temporal_attention_looks_at_frames_that_are_there(impl, case):
    """With a mask, a clip gives what its frames give without the padding; padding comes out as zeros."""
    x, mask, causal, seed = case
    got = looked(impl, along_time(impl, seed, causal=causal), x, frame_mask=mask)
    want = place_by_place(seed, x, mask, causal)
    agree(got, want, "not what the frames give without the padding", axes="b t s d", x=x, frame_mask=mask)


@pytest.mark.law("TemporalAttention")
@given(places(), HIDDEN)
def test_temporal_attention_never_reads_padding(impl, case, number):
    """A padded frame can hold anything, NaN included, and changes nothing; nor does a clip of padding alone break."""
    x, mask, causal, seed = case
    mask = mask & (torch.arange(len(mask)) == 0)[:, None]  # a second clip, where there is one, is padding alone
    spoilt = x.masked_fill(~mask[..., None, None], number)
    got = looked(impl, along_time(impl, seed, causal=causal), spoilt, frame_mask=mask)
    want = place_by_place(seed, x, mask, causal)
    agree(got, want, "a number in the padding changes it", axes="b t s d", x=spoilt, frame_mask=mask)


# ---- laws of hide_padding


@pytest.mark.law("hide_padding")
@given(st.integers(1, 2), few, few, seeds, HIDDEN)
def test_hide_padding_keeps_tokens_and_puts_zeros_elsewhere(impl, b, n, d, seed, number):
    """Where the mask is True the tokens stay, elsewhere there are zeros, whatever stood there."""
    mask = normal(seed, b, n) > 0
    tokens = normal(seed + 1, b, n, d)
    tokens[0, 0, 0] = math.inf  # of a token such a number is kept, and can be found
    x = tokens.masked_fill(~mask[..., None], number)
    want = torch.where(mask[..., None], tokens, torch.zeros(()))
    agree(impl.hide_padding(x, mask), want, "not the tokens, with zeros at the padding", axes="b n d", x=x, mask=mask)


@pytest.mark.law("hide_padding")
@given(few, few, seeds)
def test_hide_padding_without_a_mask_changes_nothing(impl, n, d, seed):
    """mask=None: there is no padding."""
    x = normal(seed, 2, n, d)
    agree(impl.hide_padding(x, None), x, "the tokens change without a mask", axes="b n d", x=x)


@pytest.mark.law("hide_padding")
@given(few, st.integers(1, 2), few, seeds)
def test_hide_padding_takes_tokens_of_any_axes(impl, t, s, d, seed):
    """Of b t s d, a mask b t hides whole frames; an axis of size 1 in the mask counts for all tokens."""
    x, mask = normal(seed, 2, t, s, d), normal(seed + 1, 2, t) > 0
    want = x * mask[..., None, None]
    agree(impl.hide_padding(x, mask), want, "not the frames that are there", axes="b t s d", x=x, mask=mask)
    want = x * mask[:, :1, None, None]
    agree(
        impl.hide_padding(x, mask[:, :1]), want, "a mask b 1 is not that mask repeated", axes="b t s d", x=x, mask=mask
    )


@pytest.mark.law("hide_padding")
@given(few, few, seeds)
def test_hide_padding_leaves_its_argument_alone_and_lets_no_gradient_through(impl, n, d, seed):
    """The tokens that were given stay as they are; their gradient is 1 where there is a token and 0 at the padding."""
    x, mask = normal(seed, 2, n, d), normal(seed + 1, 2, n) > 0
    before = x.clone()
    leaf = x.masked_fill(~mask[..., None], math.nan).requires_grad_()
    (gradient,) = torch.autograd.grad(impl.hide_padding(leaf, mask).sum(), leaf)
    want = mask[..., None].expand(x.shape).to(x.dtype)
    agree(gradient, want, "the gradient is not 1 at tokens and 0 at padding", axes="b n d", x=leaf, mask=mask)
    impl.hide_padding(x, mask)
    agree(x, before, "the tokens that were given are changed in place", axes="b n d", x=before, mask=mask)


# ---- the modules beside torch's

EXACT = dict(atol=1e-10, rtol=1e-10)
# The bound for float32: the numbers are about 1, and each is a sum of some ten products of such numbers.
SINGLE = dict(atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype, bound", [(torch.float64, EXACT), (torch.float32, SINGLE)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("context_dim", [6, 5])
def test_cross_attention_takes_the_state_of_torch_and_equals_it(context_dim, bias, dtype, bound):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(6, 3, bias=bias, kdim=context_dim, vdim=context_dim, batch_first=True, dtype=dtype)
    ours = CrossAttention(6, context_dim, 6, 3, bias=bias).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    inputs = [normal(i, 2, n, d, dtype=dtype).requires_grad_() for i, (n, d) in enumerate([(4, 6), (7, context_dim)])]
    mask = torch.arange(7) < torch.tensor([[5], [7]])
    got = ours(*inputs, mask=mask[:, None, None])
    want, _ = theirs(inputs[0], inputs[1], inputs[1], key_padding_mask=~mask)
    torch.testing.assert_close(got, want, **bound)
    for one, other in zip(*(torch.autograd.grad(y.square().sum(), inputs) for y in (got, want)), strict=True):
        torch.testing.assert_close(one, other, **bound)


def test_cross_attention_has_three_widths():
    module = CrossAttention(5, 7, 6, 2)
    shapes = {name: tuple(x.shape) for name, x in module.named_parameters()}
    assert shapes == {
        **{"q_proj.weight": (6, 5), "k_proj.weight": (6, 7), "v_proj.weight": (6, 7), "out_proj.weight": (5, 6)},
        **{"q_proj.bias": (6,), "k_proj.bias": (6,), "v_proj.bias": (6,), "out_proj.bias": (5,)},
    }
    assert module.attention_weights(normal(0, 3, 2, 5), normal(1, 3, 4, 7)).shape == (3, 2, 2, 4)
    for projection in module.children():  # drawn as MultiHeadAttention draws, at the new widths too
        bound = math.sqrt(6 / (projection.in_features + projection.out_features))
        assert 0.7 * bound < projection.weight.abs().max() <= bound
        assert torch.equal(projection.bias, torch.zeros_like(projection.bias))
    assert all(projection.bias is None for projection in CrossAttention(5, 7, 6, 2, bias=False).children())


class Torchs(nn.Module):
    """The block out of torch's own parts, for streams of one width."""

    def __init__(self, width: int, heads: int, norm_first: bool, eps: float, **options):
        super().__init__()
        self.norm_first = norm_first
        self.video_norm, self.text_norm = (nn.LayerNorm(width, eps=eps, **options) for _ in range(2))
        attention = dict(batch_first=True, **options)
        self.video_reads_text = nn.MultiheadAttention(width, heads, **attention)
        self.text_reads_video = nn.MultiheadAttention(width, heads, **attention)

    def forward(self, video, text, video_mask, text_mask):
        v, t = (self.video_norm(video), self.text_norm(text)) if self.norm_first else (video, text)
        new_video = video + self.video_reads_text(v, t, t, key_padding_mask=~text_mask)[0]
        new_text = text + self.text_reads_video(t, v, v, key_padding_mask=~video_mask)[0]
        if not self.norm_first:
            new_video, new_text = self.video_norm(new_video), self.text_norm(new_text)
        return new_video * video_mask[..., None], new_text * text_mask[..., None]


@pytest.mark.parametrize("dtype, bound", [(torch.float64, EXACT), (torch.float32, SINGLE)])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bias, norm_eps", [(True, 1e-5), (False, 1e-2)])
def test_the_block_takes_the_state_of_torchs_parts_and_equals_them(dtype, bound, norm_first, kernel, bias, norm_eps):
    torch.manual_seed(0)
    theirs = Torchs(6, 3, norm_first, norm_eps, bias=bias, dtype=dtype)
    ours = CrossModalAttention(6, 6, 6, 3, bias=bias, norm_first=norm_first, norm_eps=norm_eps, kernel=kernel).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    inputs = [normal(i, 2, n, 6, dtype=dtype).requires_grad_() for i, n in enumerate((7, 5))]
    masks = [torch.arange(7) < torch.tensor([[4], [7]]), torch.arange(5) < torch.tensor([[5], [2]])]
    got = ours(*inputs, video_mask=masks[0], text_mask=masks[1])
    want = theirs(*inputs, *masks)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, **bound)
    grads = [torch.autograd.grad((v.square().sum() + t.sum()), inputs) for v, t in (got, want)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, **bound)


@given(streams(), st.booleans())
def test_post_norm_normalises_the_sums(case, masked):
    video, text, video_mask, text_mask, seed = case
    masks = dict(video_mask=video_mask, text_mask=text_mask) if masked else {}
    module = block(library, seed, norm_first=False)
    want = block_written_out(module.state_dict(), video, text, **masks, norm_first=False)
    compared(module(video, text, **masks), want, "post-norm differs")


@given(streams(), st.booleans(), st.booleans())
def test_weights_of_the_block_are_those_it_reads_with(case, masked, norm_first):
    video, text, video_mask, text_mask, seed = case
    module = block(library, seed, norm_first=norm_first)
    masks = dict(video_mask=video_mask, text_mask=text_mask) if masked else {}
    spoilt = (video, text)
    if masked:
        spoilt = [x.masked_fill(~m[..., None], math.nan) for x, m in ((video, video_mask), (text, text_mask))]
    weights = module.attention_weights(*spoilt, **masks)
    streams_read = (module.video_norm(video), module.text_norm(text)) if norm_first else (video, text)
    sides = [
        (module.video_reads_text, *streams_read, video_mask, text_mask),
        (module.text_reads_video, *reversed(streams_read), text_mask, video_mask),
    ]
    for got, (attention, asks, answers, asks_mask, answers_mask) in zip(weights, sides, strict=True):
        if not masked:
            asks_mask, answers_mask = torch.ones_like(asks_mask), torch.ones_like(answers_mask)
        query, key = (
            rearrange(projection(x), "b n (heads k) -> b heads n k", heads=2)
            for projection, x in ((attention.q_proj, asks), (attention.k_proj, answers))
        )
        scores = (query @ key.mT / math.sqrt(3)).masked_fill(~answers_mask[:, None, None], -math.inf)
        want = F.softmax(scores, -1) * asks_mask[:, None, :, None]
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_weights_towards_padding_alone_are_zeros():
    module, video, text = CrossModalAttention(*WIDTHS), normal(0, 2, 5, 3), normal(1, 2, 7, 4)
    there = torch.tensor([[True] * 7, [False] * 7])
    video_weights, text_weights = module.attention_weights(video, text, text_mask=there)
    assert video_weights.shape == (2, 2, 5, 7) and text_weights.shape == (2, 2, 7, 5)
    assert torch.equal(video_weights[1], torch.zeros(2, 5, 7)) and torch.equal(text_weights[1], torch.zeros(2, 7, 5))
    torch.testing.assert_close(video_weights[0].sum(-1), torch.ones(2, 5))
    torch.testing.assert_close(text_weights[0].sum(-1), torch.ones(2, 7))
    # Only one mask is given: the other side has no padding.
    video_weights, text_weights = module.attention_weights(video, text, video_mask=there[:, :5])
    assert torch.equal(video_weights[1], torch.zeros(2, 5, 7)) and torch.equal(text_weights[1], torch.zeros(2, 7, 5))


def test_a_padded_batch_is_its_clips_one_by_one():
    module = block(library, 3)
    lengths = [(5, 2), (3, 7), (1, 1)]
    video_mask, text_mask = (
        torch.arange(most) < torch.tensor([pair[i] for pair in lengths])[:, None] for i, most in enumerate((5, 7))
    )
    video, text = normal(0, 3, 5, 3), normal(1, 3, 7, 4)
    got_video, got_text = module(video, text, video_mask=video_mask, text_mask=text_mask)
    for clip, (s, n) in enumerate(lengths):
        want_video, want_text = module(video[clip : clip + 1, :s], text[clip : clip + 1, :n])
        torch.testing.assert_close(got_video[clip : clip + 1, :s], want_video, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got_text[clip : clip + 1, :n], want_text, atol=1e-5, rtol=1e-5)
        assert not got_video[clip, s:].any() and not got_text[clip, n:].any()


def test_dropout_of_the_block_acts_while_training_only():
    module, video, text = block(library, 0, dropout=0.5), normal(0, 2, 5, 3), normal(1, 2, 7, 4)
    want = block(library, 0)(video, text)
    for got, right in zip(module.eval()(video, text), want, strict=True):
        torch.testing.assert_close(got, right, atol=0, rtol=0)
    module.train()
    with torch.no_grad():  # What is gathered is 1 everywhere: the bias of out_proj, and nothing else.
        for attention in (module.video_reads_text, module.text_reads_video):
            attention.out_proj.weight.zero_()
            attention.out_proj.bias.fill_(1.0)
    assert module.video_reads_text.dropout == module.text_reads_video.dropout == 0.5
    torch.manual_seed(0)
    video, text = torch.zeros(40, 5, 3), torch.zeros(40, 7, 4)
    for added in module(video, text):
        kept = added / 2  # what stays is divided by 1 - 0.5
        assert torch.equal(kept, kept.round())
        # 600 and 1120 throws of a coin: five standard deviations are 0.10.
        assert abs(kept.mean().item() - 0.5) < 0.10


def test_cross_modal_attend_of_a_small_table_by_hand():
    # Two frames, red and blue, three words: "red", "blue", "a". W_v is the identity; k = 2.
    root = math.sqrt(2)
    video = torch.tensor([[[root * math.log(3), 0.0], [0.0, root * math.log(2)]]])
    text = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    # Scores: log 3, 0, 0 and 0, log 2, 0; powers: 3 1 1 and 1 2 1.
    results = cross_modal_attend(video, text, torch.eye(2), torch.eye(2))
    video_weights = torch.tensor([[[0.6, 0.2, 0.2], [0.25, 0.5, 0.25]]])
    text_weights = torch.tensor([[[0.75, 0.25], [1 / 3, 2 / 3], [0.5, 0.5]]])
    for got, want in zip(
        results, (video_weights @ text, text_weights @ video, video_weights, text_weights), strict=True
    ):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


def test_cross_modal_attention_passes_gradcheck():
    shapes = ((2, 3, 2), (2, 2, 3), (2, 3), (3, 2))
    inputs = [normal(i, *shape, dtype=torch.float64).requires_grad_() for i, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(cross_modal_attend, inputs)
    module = CrossModalAttention(3, 2, 4, 2).double()
    mask = torch.tensor([[True, True, False], [False, False, False]])
    video, text = (
        normal(i, 2, n, d, dtype=torch.float64).requires_grad_() for i, (n, d) in enumerate([(3, 3), (2, 2)])
    )
    assert torch.autograd.gradcheck(lambda v, t: module(v, t, video_mask=mask), (video, text))


def test_temporal_attention_passes_gradcheck():
    module = TemporalAttention(4, 2, causal=True).double()
    x = normal(0, 2, 3, 2, 4, dtype=torch.float64).requires_grad_()
    mask = torch.tensor([[True, True, False], [False, True, True]])
    assert torch.autograd.gradcheck(lambda x: module(x, frame_mask=mask), (x,))


# ---- temporal attention


@pytest.mark.parametrize("dtype, bound", [(torch.float64, EXACT), (torch.float32, SINGLE)])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_temporal_attention_takes_the_state_of_torch_and_equals_it(dtype, bound, kernel, causal, bias):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(6, 3, bias=bias, batch_first=True, dtype=dtype)
    ours = TemporalAttention(6, 3, bias=bias, causal=causal, kernel=kernel).to(dtype)
    ours.attention.load_state_dict(theirs.state_dict())
    x = normal(1, 2, 5, 7, 6, dtype=dtype).requires_grad_()
    columns = x.transpose(1, 2).flatten(0, 1)
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    want = theirs(columns, columns, columns, attn_mask=hidden)[0].unflatten(0, (2, 7)).transpose(1, 2)
    got = ours(x)
    torch.testing.assert_close(got, want, **bound)
    torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (got, want)), **bound)


@given(places())
def test_weights_along_time_are_those_it_looks_with(case):
    x, mask, causal, seed = case
    module = along_time(library, seed, causal=causal)
    for there in (None, mask):
        given_x = x if there is None else x.masked_fill(~there[..., None, None], math.nan)
        got = module.attention_weights(given_x, frame_mask=there)
        seen = torch.ones_like(mask) if there is None else there
        query, key = (
            rearrange(projection(x), "b t s (heads k) -> b s heads t k", heads=HEADS)
            for projection in (module.attention.q_proj, module.attention.k_proj)
        )
        allowed = seen[:, None, :] & seen[:, :, None]
        if causal:
            allowed = allowed & causal_mask(x.shape[1], x.shape[1])
        scores = (query @ key.mT / math.sqrt(2)).masked_fill(~allowed[:, None, None], -math.inf)
        torch.testing.assert_close(got, F.softmax(scores, -1).nan_to_num(0.0), atol=1e-5, rtol=1e-4)


def test_temporal_attention_does_not_see_the_order_of_frames_unless_causal():
    x, order = normal(0, 2, 5, 3, 4), torch.tensor([4, 2, 0, 1, 3])
    module = along_time(library, 0)
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order], atol=1e-5, rtol=1e-5)
    module = along_time(library, 0, causal=True)
    assert not torch.allclose(module(x[:, order]), module(x)[:, order], atol=1e-2)
    assert module.causal is True and TemporalAttention(4, 2).causal is False


def test_dropout_along_time_stops_when_evaluating():
    module, x = TemporalAttention(4, 2, dropout=0.5), normal(0, 2, 5, 3, 4)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


def test_the_causal_mask_is_made_where_the_tokens_are():
    module, x, mask = along_time(library, 0, causal=True), normal(0, 2, 5, 3, 4), torch.ones(2, 5, dtype=torch.bool)
    want = module(x)
    with torch.device("meta"):  # where new tensors go unless they are told
        assert torch.equal(module(x), want)
        assert torch.equal(module(x, frame_mask=mask), want)


# ---- how the modules run


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch maps its fused kernel one by one
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_modules_map_over_an_axis(kernel):
    module = CrossModalAttention(3, 4, 6, 2, kernel=kernel)
    video, text = normal(0, 3, 2, 5, 3), normal(1, 3, 2, 7, 4)
    mask = torch.arange(7) < torch.tensor([[3], [7]])

    def masked(video, text):
        return module(video, text, text_mask=mask)

    got = torch.func.vmap(masked)(video, text)
    for i, one in enumerate(got):
        want = torch.stack([masked(v, t)[i] for v, t in zip(video, text, strict=True)])
        torch.testing.assert_close(one, want, atol=1e-5, rtol=1e-5)
    layer, x = TemporalAttention(6, 2, causal=True, kernel=kernel), normal(2, 3, 2, 5, 7, 6)
    frames = torch.arange(5) < torch.tensor([[3], [5]])
    got = torch.func.vmap(lambda x: layer(x, frame_mask=frames))(x)
    torch.testing.assert_close(got, torch.stack([layer(y, frame_mask=frames) for y in x]), atol=1e-5, rtol=1e-5)


def test_cross_modal_attend_maps_over_an_axis():
    case = normal(0, 3, 2, 5, 3), normal(1, 3, 2, 7, 4), normal(2, 3, 4), normal(3, 4, 6)
    got = torch.func.vmap(cross_modal_attend, in_dims=(0, 0, None, None))(*case)
    for i, one in enumerate(got):
        want = torch.stack([cross_modal_attend(v, t, *case[2:])[i] for v, t in zip(*case[:2], strict=True)])
        torch.testing.assert_close(one, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_modules_run_under_autocast(kernel):
    module = CrossModalAttention(3, 5, 6, 2, kernel=kernel)
    video, text = normal(0, 2, 5, 3), normal(1, 2, 7, 5)
    video_mask, text_mask = torch.arange(5) < torch.tensor([[0], [4]]), torch.arange(7) < torch.tensor([[3], [7]])
    masks = dict(video_mask=video_mask, text_mask=text_mask)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = module(video, text, **masks)
    sum(y.float().square().sum() for y in outputs).backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    # bfloat16 keeps 8 bits, and four roundings follow each other on numbers of about 1.
    for got, want in zip(outputs, module(video, text, **masks), strict=True):
        torch.testing.assert_close(got.float(), want, atol=4e-2, rtol=0)
    layer, x = TemporalAttention(6, 2, kernel=kernel), normal(2, 2, 5, 3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x, frame_mask=video_mask)
    torch.testing.assert_close(got.float(), layer(x, frame_mask=video_mask), atol=4e-2, rtol=0)


@pytest.mark.parametrize("dtype, bound", [(torch.float16, 2e-2), (torch.bfloat16, 1e-1)])
def test_the_modules_run_in_half_precision_at_odd_sizes(dtype, bound):
    # Half precision keeps 11 bits, bfloat16 8, of numbers up to 4, through five roundings.
    module, video, text = CrossModalAttention(3, 5, 7, 1), normal(0, 1, 3, 3), normal(1, 1, 5, 5)
    mask = torch.arange(5)[None] < 3
    want = module(video, text, text_mask=mask)
    got = module.to(dtype)(video.to(dtype), text.to(dtype), text_mask=mask)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.float(), other, atol=bound, rtol=0)
    case = [video, text, normal(2, 3, 5), normal(3, 5, 7)]
    for one, other in zip(cross_modal_attend(*(x.to(dtype) for x in case)), cross_modal_attend(*case), strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.float(), other, atol=4 * bound, rtol=4 * bound)
    layer, x = TemporalAttention(7, 1), normal(2, 1, 3, 5, 7)
    want = layer(x)
    torch.testing.assert_close(layer.to(dtype)(x.to(dtype)).float(), want, atol=bound, rtol=0)


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # the compiler's own import
def test_the_modules_compile(compiled):
    module, video, text = CrossModalAttention(3, 5, 6, 2), normal(0, 2, 5, 3), normal(1, 2, 7, 5)
    text_mask = torch.arange(7) < torch.tensor([[3], [0]])
    layer, x = TemporalAttention(6, 2, causal=True), normal(2, 2, 5, 3, 6)
    frame_mask = torch.arange(5) < torch.tensor([[3], [5]])
    results = []
    for wrap in (lambda f: f, compiled):
        outputs = [*wrap(module)(video, text, text_mask=text_mask), wrap(layer)(x, frame_mask=frame_mask)]
        outputs += wrap(cross_modal_attend)(video, text, torch.ones(3, 5), torch.ones(5, 2))
        parameters = [*module.parameters(), *layer.parameters()]
        results.append([*outputs, *torch.autograd.grad(sum(y.square().sum() for y in outputs), parameters)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-5)


# ---- defaults and errors


def test_defaults_are_those_of_the_house():
    module = CrossModalAttention(3, 5, 6, 2)
    assert repr(module).splitlines()[1].strip() == "norm_first=True, dropout=0.0"
    assert (module.video_dim, module.text_dim, module.norm_first, module.dropout) == (3, 5, True, 0.0)
    assert (module.video_norm.normalized_shape, module.text_norm.normalized_shape) == ((3,), (5,))
    assert module.video_norm.eps == module.text_norm.eps == 1e-5
    layer = TemporalAttention(6, 2)
    assert repr(layer).splitlines()[1].strip() == "causal=False"
    for attention in (module.video_reads_text, module.text_reads_video, layer.attention):
        assert (attention.kernel, attention.dropout, attention.num_heads) == ("plain", 0.0, 2)
        assert all(projection.bias is not None for projection in attention.children())
    assert CrossAttention(3, 5, 6, 2).kernel == "plain" and CrossAttention(3, 5, 6, 2).dropout == 0.0


@pytest.mark.parametrize("kernel", ["blocks", "fused"])
def test_the_kernel_is_that_of_every_attention_inside(kernel):
    block_of_both, layer = CrossModalAttention(3, 5, 6, 2, kernel=kernel), TemporalAttention(6, 2, kernel=kernel)
    for attention in (block_of_both.video_reads_text, block_of_both.text_reads_video, layer.attention):
        assert attention.kernel == kernel


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: CrossModalAttention(3, 5, 10, 4), "embed_dim 10 is not a multiple of num_heads 4; choose a divisor"),
        (lambda: TemporalAttention(10, 4), "embed_dim 10 is not a multiple of num_heads 4; choose a divisor"),
        (lambda: CrossModalAttention(3, 5, 6, 2, dropout=1.0), "dropout is 1.0, expected 0 <= dropout < 1"),
        (
            lambda: CrossModalAttention(3, 5, 6, 2, kernel="flash"),
            "kernel is 'flash', expected one of plain, blocks, fused, fastest",
        ),
    ],
)
def test_constructors_name_the_numbers_that_do_not_fit(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


def test_an_option_that_is_not_taken_is_refused_by_name():
    with pytest.raises(TypeError, match="num_kv_heads"):
        CrossModalAttention(3, 5, 6, 2, num_kv_heads=1)
    with pytest.raises(TypeError, match="key_padding_mask"):
        CrossModalAttention(3, 5, 6, 2)(torch.zeros(1, 2, 3), torch.zeros(1, 2, 5), key_padding_mask=None)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "video, text, masks, error, message",
    [
        ((2, 7, 4), (2, 5, 5), {}, ShapeError, "video: shape (2, 7, 4), expected b, tokens, video_dim=3"),
        ((2, 7, 3), (2, 5, 3), {}, ShapeError, "text: shape (2, 5, 3), expected b, tokens, text_dim=5"),
        ((7, 3), (2, 5, 5), {}, ShapeError, "video: shape (7, 3), expected b, tokens, video_dim=3"),
        (
            (2, 7, 3),
            (2, 0, 5),
            {},
            ShapeError,
            "text: shape (2, 0, 5), expected at least one token; pad it and mask the padding",
        ),
        ((2, 7, 3), (4, 5, 5), {}, ShapeError, "video: b=2 and text: b=4; every clip comes with one text"),
        (
            (2, 7, 3),
            (2, 5, 5),
            dict(video_mask=torch.ones(2, 5, dtype=torch.bool)),
            ShapeError,
            "video_mask: shape (2, 5), expected (2, 7), one for each token that it speaks of; each side has a mask of "
            "its own",
        ),
        (
            (2, 7, 3),
            (2, 5, 5),
            dict(text_mask=torch.ones(2, 7, dtype=torch.bool)),
            ShapeError,
            "text_mask: shape (2, 7), expected (2, 5), one for each token that it speaks of; each side has a mask of "
            "its own",
        ),
        (
            (2, 7, 3),
            (2, 5, 5),
            dict(text_mask=torch.ones(2, 5, dtype=torch.int64)),
            TypeError,
            "text_mask: torch.int64, expected torch.bool with True = a token; of 1 and 0 take `mask == 1`",
        ),
    ],
)
def test_the_block_says_what_does_not_fit(video, text, masks, error, message):
    module = CrossModalAttention(3, 5, 6, 2)
    for function in (module, module.attention_weights):
        with pytest.raises(error) as raised:
            function(torch.zeros(video), torch.zeros(text), **masks)
        assert str(raised.value) == message


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "shapes, message",
    [
        (((2, 7, 3), (2, 5, 4), (4, 3), (3, 6)), "video: shape (2, 7, 3), expected b, tokens, video_dim=4"),
        (((2, 7, 3), (2, 5, 4), (3, 3), (3, 6)), "text: shape (2, 5, 4), expected b, tokens, text_dim=3"),
        (((2, 7, 3), (4, 5, 4), (3, 4), (4, 6)), "video: b=2 and text: b=4; every clip comes with one text"),
        (
            ((2, 7, 3), (2, 5, 4), (3, 4), (3, 6)),
            "w_v (3, 4) and w_o (3, 6): expected video_dim text_dim and text_dim out_dim with the same text_dim",
        ),
        (
            ((2, 7, 3), (2, 5, 4), (3,), (4, 6)),
            "w_v (3,) and w_o (4, 6): expected video_dim text_dim and text_dim out_dim with the same text_dim",
        ),
        (
            ((2, 7, 3), (2, 5, 4), (3, 4), (4,)),
            "w_v (3, 4) and w_o (4,): expected video_dim text_dim and text_dim out_dim with the same text_dim",
        ),
    ],
)
def test_cross_modal_attend_says_what_does_not_fit(shapes, message):
    with pytest.raises(ShapeError) as raised:
        cross_modal_attend(*(torch.zeros(shape) for shape in shapes))
    assert str(raised.value) == message


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "shape, mask, error, message",
    [
        ((2, 5, 3, 4), None, ShapeError, "x: shape (2, 5, 3, 4), expected b t s d with d=6"),
        ((2, 5, 6), None, ShapeError, "x: shape (2, 5, 6), expected b t s d with d=6"),
        (
            (2, 5, 3, 6),
            torch.ones(2, 3, dtype=torch.bool),
            ShapeError,
            "frame_mask: shape (2, 3), expected (2, 5), one for each token that it speaks of; each side has a mask of "
            "its own",
        ),
        (
            (2, 5, 3, 6),
            torch.ones(2, 5),
            TypeError,
            "frame_mask: torch.float32, expected torch.bool with True = a token; of 1 and 0 take `mask == 1`",
        ),
    ],
)
def test_temporal_attention_says_what_does_not_fit(shape, mask, error, message):
    layer = TemporalAttention(6, 2)
    for function in (layer, layer.attention_weights):
        with pytest.raises(error) as raised:
            function(torch.zeros(shape), frame_mask=mask)
        assert str(raised.value) == message
