"""Recurrent layers: laws of a step, of a walk and of the stack; torch's own as the oracle; lengths against packing."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from minivid.classroom.evidence import agree, holds
from minivid.layers import lstm as library
from minivid.layers.lstm import (
    LSTM,
    RNN,
    LSTMCell,
    Recurrent,
    fast_lstm,
    last,
    lstm_step,
    padding_as_zero,
    recur,
    reverse,
    rnn_step,
)
from minivid.shapes import ShapeError

few, sizes = st.integers(1, 2), st.integers(1, 3)


def step_case(seed: int, b: int, c: int, d: int, blocks: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """A frame, two tensors of state, and the four weights of one walk."""
    shapes = [(b, c), (b, d), (b, d), (blocks * d, c), (blocks * d, d), (blocks * d,), (blocks * d,)]
    return [normal(seed + i, *shape, dtype=dtype) for i, shape in enumerate(shapes)]


def stepped(impl, input: Tensor, h: Tensor, c: Tensor, *weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """What lstm_step gives, a pair of tensors; every law of lstm_step goes through here."""
    before = h.clone(), c.clone()
    got = impl.lstm_step(input, (h, c), *weights)
    kept = torch.equal(h, before[0]) and torch.equal(c, before[1])
    holds(kept, "lstm_step writes into the state that it is given", h=before[0], c=before[1])
    pair = isinstance(got, tuple) and len(got) == 2 and all(isinstance(x, Tensor) for x in got)
    holds(pair, "lstm_step returns (h, c), a tuple of two tensors", input=input, h=h, c=c)
    return got


def twins(impl, name: str, seed: int, *arguments, scale: float = 0.7, **options):
    """The answer's layer and torch's, with the same weights: normal numbers that depend on the seed alone."""
    theirs = getattr(nn, name)(*arguments, **options)
    weights = {key: scale * normal(seed + i, *x.shape) for i, (key, x) in enumerate(theirs.state_dict().items())}
    theirs.load_state_dict(weights)
    ours = getattr(impl, name)(*arguments, **options)
    ours.load_state_dict(weights)
    return ours, theirs


def walked(layer, *arguments, **options) -> tuple[Tensor, Tensor, Tensor]:
    """output, h and c as the answer's LSTM gives them; every law of LSTM goes through here."""
    got = layer(*arguments, **options)
    right = isinstance(got, tuple) and len(got) == 2 and isinstance(got[1], tuple) and len(got[1]) == 2
    holds(right, "an LSTM returns (output, (h, c))")
    return got[0], *got[1]


def alike(got, want, claim: str, axes=("t b d", "walks b d", "walks b d"), **case) -> None:
    """output, h and c beside what they should be; of a step, h and c."""
    for name, mine, right, letters in zip(("output", "h", "c")[-len(axes) :], got, want, axes, strict=False):
        agree(mine, right, f"{claim}: {name}", axes=letters, **case)


# ---- laws of rnn_step


@pytest.mark.law("rnn_step")
@given(few, sizes, sizes, seeds)
def test_rnn_step_without_weights_squashes_its_biases(impl, b, c, d, seed):
    """With weights of 0, the new state is tanh(b_ih + b_hh), whatever is seen and remembered."""
    input, h, _, _, _, bias_ih, bias_hh = step_case(seed, b, c, d, 1)
    got = impl.rnn_step(input, h, torch.zeros(d, c), torch.zeros(d, d), bias_ih, bias_hh)
    want = (bias_ih + bias_hh).tanh().expand(b, d)
    agree(got, want, "not tanh(b_ih + b_hh)", axes="b d", bias_ih=bias_ih, bias_hh=bias_hh)


@pytest.mark.law("rnn_step")
@given(few, sizes, sizes, st.booleans(), seeds)
def test_rnn_step_equals_torch(impl, b, c, d, bias, seed):
    """The new state is tanh(W_ih x + b_ih + W_hh h + b_hh)."""
    input, h, _, weight_ih, weight_hh, *biases = step_case(seed, b, c, d, 1)
    biases = biases if bias else (None, None)
    got = impl.rnn_step(input, h, weight_ih, weight_hh, *biases)
    want = torch.rnn_tanh_cell(input, h, weight_ih, weight_hh, *biases)
    claim = "not tanh of the sum of both products" + (" and both biases" if bias else "")
    agree(got, want, claim, axes="b d", input=input, state=h, weight_ih=weight_ih, weight_hh=weight_hh)


@pytest.mark.law("rnn_step")
@given(few, sizes, sizes, seeds)
def test_rnn_step_takes_relu(impl, b, c, d, seed):
    """With nonlinearity "relu" the sum is kept where it is positive, and 0 elsewhere."""
    input, h, _, *weights = step_case(seed, b, c, d, 1)
    got, want = impl.rnn_step(input, h, *weights, nonlinearity="relu"), torch.rnn_relu_cell(input, h, *weights)
    agree(got, want, "not the positive part of the sum", axes="b d", input=input, state=h)


# ---- laws of lstm_step, from the first things to get right to the last


@pytest.mark.law("lstm_step")
@given(few, sizes, sizes, seeds)
def test_lstm_step_with_weights_of_zero_halves_the_memory(impl, b, c, d, seed):
    """With weights of 0 every gate is half open and the candidate is 0: c' = c / 2 and h' = tanh(c / 2) / 2."""
    input, h, memory, *weights = step_case(seed, b, c, d, 4)
    got = stepped(impl, input, h, memory, *map(torch.zeros_like, weights))
    alike(got, [(memory / 2).tanh() / 2, memory / 2], "with all weights 0", ("b d",) * 2, c=memory)


@pytest.mark.law("lstm_step")
@given(few, sizes, sizes, seeds)
def test_lstm_step_carries_the_memory_through_an_open_forget_gate(impl, b, c, d, seed):
    """A forget gate of 1 (rows d to 2 d) and an input gate of 0 (rows 0 to d) carry the memory on unchanged."""
    input, h, memory, weight_ih, weight_hh, _, bias_hh = step_case(seed, b, c, d, 4)
    bias = torch.cat([torch.full((d,), -60.0), torch.full((d,), 60.0), torch.zeros(2 * d)])
    _, got = stepped(impl, input, h, memory, weight_ih, weight_hh, bias, bias_hh)
    agree(got, memory, "the memory is not carried on", axes="b d", input=input, c=memory, bias_ih=bias)


@pytest.mark.law("lstm_step")
@given(few, sizes, sizes, seeds)
def test_lstm_step_takes_in_the_candidate_through_an_open_input_gate(impl, b, c, d, seed):
    """A forget gate of 0 and an input gate of 1 replace the memory by tanh of the candidate (rows 2 d to 3 d)."""
    input, h, memory, weight_ih, weight_hh, _, bias_hh = step_case(seed, b, c, d, 4)
    bias = torch.cat([torch.full((d,), 60.0), torch.full((d,), -60.0), torch.zeros(2 * d)])
    _, got = stepped(impl, input, h, memory, weight_ih, weight_hh, bias, bias_hh)
    sums = input @ weight_ih.mT + h @ weight_hh.mT + bias_hh
    want = sums[:, 2 * d : 3 * d].tanh()
    agree(got, want, "the new memory is not tanh(candidate)", axes="b d", input=input, h=h, c=memory)


@pytest.mark.law("lstm_step")
@given(few, sizes, sizes, st.booleans(), seeds)
def test_lstm_step_equals_torch(impl, b, c, d, bias, seed):
    """The rows of the weights are those of the gates i, f, g, o, and both biases are added."""
    input, h, memory, weight_ih, weight_hh, *biases = step_case(seed, b, c, d, 4)
    biases = biases if bias else (None, None)
    got = stepped(impl, input, h, memory, weight_ih, weight_hh, *biases)
    want = torch.lstm_cell(input, (h, memory), weight_ih, weight_hh, *biases)
    alike(got, want, "another step than torch's", ("b d",) * 2, input=input, h=h, c=memory, weight_ih=weight_ih)


@pytest.mark.law("lstm_step")
@given(few, sizes, sizes, seeds)
def test_lstm_step_shows_less_than_one(impl, b, c, d, seed):
    """However full the memory, |h| < 1: the output gate lets a part of tanh(c) through."""
    input, h, memory, *weights = step_case(seed, b, c, d, 4)
    got, _ = stepped(impl, input, h, 40 * memory, *weights)
    holds(bool((got.abs() <= 1).all()), "|h| is above 1", input=input, c=40 * memory, h=got)


@pytest.mark.law("lstm_step")
@given(sizes, sizes, sizes, seeds)
def test_lstm_step_takes_a_last_matrix(impl, c, d, d_out, seed):
    """With weight_hr, h' is W_hr (sigmoid(o) tanh(c')), and the memory keeps its width."""
    input, _, memory, weight_ih, _, *biases = step_case(seed, 2, c, d, 4)
    h, weight_hh, weight_hr = (
        normal(seed + 9 + i, *shape) for i, shape in enumerate([(2, d_out), (4 * d, d_out), (d_out, d)])
    )
    got = stepped(impl, input, h, memory, weight_ih, weight_hh, *biases, weight_hr)
    sums = input @ weight_ih.mT + h @ weight_hh.mT + sum(biases)
    i, f, g, o = sums.chunk(4, 1)
    kept = f.sigmoid() * memory + i.sigmoid() * g.tanh()
    want = (o.sigmoid() * kept.tanh()) @ weight_hr.mT, kept
    alike(got, want, "with weight_hr", ("b d_out", "b d"), input=input, h=h, c=memory, weight_hr=weight_hr)


# ---- laws of reverse, last and padding_as_zero


@st.composite
def clips_with_lengths(draw, least: int = 0):
    """Clips t b c of small whole numbers that all differ, and how many frames each has."""
    t, b, c = draw(st.tuples(st.integers(1, 4), sizes, few))
    lengths = draw(st.lists(st.integers(least, t), min_size=b, max_size=b))
    return torch.arange(1.0, t * b * c + 1).view(t, b, c), torch.tensor(lengths)


@pytest.mark.law("reverse")
@given(clips_with_lengths())
def test_reverse_without_lengths_turns_the_time_round(impl, case):
    """Without lengths, the last frame comes first, for every clip."""
    x, _ = case
    agree(impl.reverse(x), torch.stack(list(x)[::-1]), "the frames are not turned round", axes="t b c", x=x)


@pytest.mark.law("reverse")
@given(clips_with_lengths())
def test_reverse_turns_each_clip_round_at_its_own_end(impl, case):
    """A clip of 3 frames and 2 of padding becomes 2 1 0 and its padding, still behind."""
    x, lengths = case
    want = x.clone()
    for clip, length in enumerate(lengths.tolist()):
        want[:length, clip] = torch.stack([x[length - 1 - i, clip] for i in range(length)]) if length else x[:0, clip]
    agree(impl.reverse(x, lengths), want, "not each clip at its own end", axes="t b c", x=x, lengths=lengths)


@pytest.mark.law("reverse")
@given(clips_with_lengths())
def test_reverse_twice_is_nothing(impl, case):
    """Turned round twice, every clip is what it was."""
    x, lengths = case
    agree(impl.reverse(impl.reverse(x, lengths), lengths), x, "twice is not nothing", axes="t b c", lengths=lengths)


@pytest.mark.law("last")
@given(clips_with_lengths())
def test_last_is_the_state_after_each_clips_last_frame(impl, case):
    """A clip of 3 frames ends with states[2]; one without frames with the state it started with."""
    states, lengths = case
    start = -torch.arange(1.0, states[0].numel() + 1).view(states[0].shape)
    rows = [states[n - 1, i] if n else start[i] for i, n in enumerate(lengths.tolist())]
    got = impl.last(states, start, lengths)
    agree(got, torch.stack(rows), "another state", axes="b d", states=states, start=start, lengths=lengths)
    agree(impl.last(states, start), states[-1], "another state without lengths", axes="b d", states=states)


@pytest.mark.law("padding_as_zero")
@given(clips_with_lengths())
def test_padding_becomes_zero_whatever_it_was(impl, case):
    """Behind the end of each clip stand zeros, even if there was NaN; the clip itself stays."""
    x, lengths = case
    dirty, want = x.clone(), x.clone()
    for clip, length in enumerate(lengths.tolist()):
        dirty[length:, clip], want[length:, clip] = math.nan, 0.0
    agree(impl.padding_as_zero(dirty, lengths), want, "not the clip and zeros", axes="t b c", x=dirty, lengths=lengths)
    agree(impl.padding_as_zero(x), x, "without lengths nothing is padding", axes="t b c", x=x)


# ---- the law of the fast walk


def walk_case(seed: int, t: int, b: int, c: int, d: int, bias: bool, narrow: bool) -> list[Tensor | None]:
    """Frames, two tensors of state and the weights of one walk, in double precision."""
    shapes = [(t, b, c), (b, d), (b, d), (4 * d, c), (4 * d, d), (4 * d,), (4 * d,), (d, d)]
    tensors = [normal(seed + i, *shape, dtype=torch.float64) for i, shape in enumerate(shapes)]
    return [*tensors[:5], *(tensors[5:7] if bias else [None, None]), *tensors[7 : 7 + narrow]]


@pytest.mark.law("fast_lstm")
@given(st.integers(1, 4), few, sizes, sizes, st.booleans(), st.booleans(), seeds)
def test_fast_lstm_is_lstm_step_frame_by_frame(impl, t, b, c, d, bias, narrow, seed):
    """The fast walk gives h and c that lstm_step gives step by step."""
    input, h, memory, *weights = walk_case(seed, t, b, c, d, bias, narrow)
    got, want = (walk(input, (h, memory), *weights) for walk in (impl.fast_lstm, plain_walk))
    for name, mine, right in zip(("h", "c"), got, want, strict=True):
        agree(mine, right, f"{name} is not that of the steps", axes="t b d", input=input, atol=1e-10, rtol=0.0)


@pytest.mark.law("fast_lstm")
@given(st.integers(1, 4), few, sizes, st.booleans(), st.booleans(), seeds)
def test_fast_lstm_has_the_gradients_of_lstm_step(impl, t, b, d, bias, narrow, seed):
    """The gradients of the fast walk are those of the steps: of the frames, the state and every weight."""
    tensors, results = walk_case(seed, t, b, 2, d, bias, narrow), []
    for walk in (impl.fast_lstm, plain_walk):
        leaves = [None if x is None else x.clone().requires_grad_() for x in tensors]
        input, h, memory, *weights = leaves
        states = walk(input, (h, memory), *weights)
        loss = sum((state * normal(i, *state.shape, dtype=torch.float64)).sum() for i, state in enumerate(states))
        results.append(torch.autograd.grad(loss, [x for x in leaves if x is not None]))
    for i, (got, want) in enumerate(zip(*results, strict=True)):
        name = (["input", "h", "c"] + [f"weight {j}" for j in range(5)])[i]
        agree(got, want, f"not the gradient of the steps, of {name}", input=tensors[0], atol=1e-10, rtol=0.0)


def plain_walk(input, state, *weights):
    return recur(lambda frame, state: lstm_step(frame, state, *weights), input, state)


# ---- laws of LSTMCell


@pytest.mark.law("LSTMCell")
@given(few, sizes, sizes, st.booleans(), seeds)
def test_cell_equals_torch_over_some_frames(impl, b, c, d, bias, seed):
    """Fed with its own state, the cell gives what torch's gives; without a state it starts with zeros."""
    ours, theirs = twins(impl, "LSTMCell", seed, c, d, bias)
    state, want = None, None
    for frame in normal(seed + 9, 3, b, c):
        state = ours(frame, state) if state is not None else ours(frame)
        want = theirs(frame, want)
        pair = isinstance(state, tuple) and len(state) == 2
        holds(pair, "the cell returns (h, c), a tuple of two tensors", frame=frame)
        alike(state, [x.detach() for x in want], "another step than torch's", ("b d",) * 2, frame=frame)


@pytest.mark.law("LSTMCell")
@given(sizes, sizes, seeds)
def test_cell_reads_each_clip_alone(impl, c, d, seed):
    """A batch of two is two batches of one: nothing leaks from clip to clip."""
    ours, _ = twins(impl, "LSTMCell", seed, c, d)
    frame, state = normal(seed + 8, 2, c), tuple(normal(seed + 9 + i, 2, d) for i in range(2))
    both = ours(frame, state)
    alone = [torch.cat(part) for part in zip(*(ours(frame[i : i + 1], tuple(s[i : i + 1] for s in state))
                                               for i in range(2)), strict=True)]  # fmt: skip
    alike(both, alone, "a clip reads another one", ("b d",) * 2, frame=frame)


# ---- laws of RNN


@pytest.mark.law("RNN")
@given(st.integers(1, 4), few, sizes, sizes, seeds)
def test_rnn_equals_torch(impl, t, b, c, d, seed):
    """One layer, one direction: the state after every frame, and the last one once more."""
    ours, theirs = twins(impl, "RNN", seed, c, d)
    input, start = normal(seed + 9, t, b, c), normal(seed + 10, 1, b, d)
    for state in ((), (start,)):
        alike(ours(input, *state), theirs(input, *state), "not torch's", input=input)


@pytest.mark.law("RNN")
@given(st.integers(1, 2), st.booleans(), st.booleans(), st.booleans(), seeds)
def test_rnn_takes_its_options_as_torch_does(impl, layers, bias, batch_first, bidirectional, seed):
    """num_layers, nonlinearity, bias, batch_first, dropout and bidirectional, in this order."""
    ours, theirs = twins(impl, "RNN", seed, 2, 3, layers, "relu", bias, batch_first, 0.0, bidirectional)
    input = normal(seed + 20, 3, 2, 2)
    options = dict(num_layers=layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
    alike(ours(input), theirs(input), "not torch's", ("", "walks b d"), input=input, **options)


@pytest.mark.law("RNN")
@given(clips_with_lengths(), st.booleans(), seeds)
def test_rnn_never_reads_padding(impl, case, bidirectional, seed):
    """With lengths, every clip gives what it gives alone, without its padding."""
    _, lengths = case
    ours, theirs = twins(impl, "RNN", seed, 2, 3, bidirectional=bidirectional)
    input = normal(seed + 20, len(case[0]), len(lengths), 2)
    claim = "a padded clip is not the clip alone"
    alike(ours(input, lengths=lengths), one_by_one(theirs, input, lengths), claim, input=input, lengths=lengths)


@torch.no_grad()
def one_by_one(theirs: nn.Module, input: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
    """What torch's layer gives for each clip without its padding, put side by side, zeros behind."""
    (t, b, _), directions = input.shape, 2 if theirs.bidirectional else 1
    width = (getattr(theirs, "proj_size", 0) or theirs.hidden_size) * directions
    output, ends = input.new_zeros(t, b, width), []
    for i, length in enumerate(lengths.tolist()):
        if length:
            output[:length, i], end = theirs(input[:length, i])
            ends.append(end if isinstance(end, tuple) else (end,))
        else:
            _, end = theirs(input[:1, i])
            ends.append(tuple(map(torch.zeros_like, end if isinstance(end, tuple) else (end,))))
    return output, *(torch.stack(part, 1) for part in zip(*ends, strict=True))


# ---- laws of LSTM


@pytest.mark.law("LSTM")
@given(st.integers(1, 3), few, sizes, sizes, st.booleans(), seeds)
def test_lstm_equals_torch(impl, t, b, c, d, bias, seed):
    """One layer, one direction: h after every frame, and the last (h, c)."""
    ours, theirs = twins(impl, "LSTM", seed, c, d, 1, bias)
    input = normal(seed + 9, t, b, c)
    output, end = theirs(input)
    alike(walked(ours, input), (output, *end), "not torch's", input=input)


@pytest.mark.law("LSTM")
@given(few, sizes, sizes, seeds)
def test_lstm_starts_from_the_state_it_is_given(impl, b, c, d, seed):
    """With a state the walk starts there, and not at zeros."""
    ours, theirs = twins(impl, "LSTM", seed, c, d)
    input, state = normal(seed + 9, 2, b, c), tuple(normal(seed + 10 + i, 1, b, d) for i in range(2))
    output, end = theirs(input, state)
    alike(walked(ours, input, state), (output, *end), "the state is not where the walk starts", input=input)


@pytest.mark.law("LSTM")
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(1, 2), seeds)
def test_lstm_gives_the_same_however_the_frames_are_split(impl, pieces, layers, seed):
    """A clip in pieces, each started from the state that the piece before left, gives what the whole clip gives."""
    ours, _ = twins(impl, "LSTM", seed, 2, 3, layers)
    input = normal(seed + 20, sum(pieces), 2, 2)
    whole = walked(ours, input)
    outputs, state = [], None
    for piece in input.split(pieces):
        output, *state = walked(ours, piece) if state is None else walked(ours, piece, tuple(state))
        outputs.append(output)
    alike((torch.cat(outputs), *state), whole, "the pieces give something else", pieces=pieces, input=input)


@pytest.mark.law("LSTM")
@given(few, sizes, sizes, seeds)
def test_lstm_stacks_its_layers(impl, t, c, d, seed):
    """The second layer reads what the first one shows, and (h, c) of both come back."""
    ours, theirs = twins(impl, "LSTM", seed, c, d, 2)
    input = normal(seed + 20, t, 2, c)
    output, end = theirs(input)
    alike(walked(ours, input), (output, *end), "two layers are not torch's", input=input)


@pytest.mark.law("LSTM")
@given(st.integers(1, 3), few, few, st.integers(1, 2), seeds)
def test_lstm_walks_in_both_directions(impl, t, b, d, layers, seed):
    """The second half of the output walks from the last frame to the first; its (h, c) are those at the first frame."""
    ours, theirs = twins(impl, "LSTM", seed, 2, d, layers, bidirectional=True)
    input = normal(seed + 20, t, b, 2)
    output, end = theirs(input)
    alike(walked(ours, input), (output, *end), "both directions are not torch's", num_layers=layers, input=input)


@pytest.mark.law("LSTM")
@given(clips_with_lengths(), st.integers(1, 2), st.booleans(), st.sampled_from([9.0, math.nan]), seeds)
def test_lstm_never_reads_padding(impl, case, layers, bidirectional, padding, seed):
    """With lengths, every clip gives what it gives alone, whatever its padding holds; behind its end stand zeros."""
    _, lengths = case
    ours, theirs = twins(impl, "LSTM", seed, 2, 2, layers, bidirectional=bidirectional)
    input = normal(seed + 20, len(case[0]), len(lengths), 2)
    visible = torch.arange(len(input))[:, None] < lengths
    input, want = torch.where(visible[..., None], input, padding), one_by_one(theirs, input, lengths)
    claim = "a padded clip is not the clip alone"
    alike(walked(ours, input, lengths=lengths), want, claim, input=input, lengths=lengths)


@pytest.mark.law("LSTM")
@given(clips_with_lengths(), seeds)
def test_lstm_of_a_reversed_clip_has_its_halves_swapped(impl, case, seed):
    """With the same weights in both directions, a reversed clip gives the reversed output with its halves swapped."""
    _, lengths = case
    ours = impl.LSTM(2, 3, bidirectional=True)
    weights = {key: 0.7 * normal(seed + i, *x.shape) for i, (key, x) in enumerate(nn.LSTM(2, 3).state_dict().items())}
    ours.load_state_dict(weights | {f"{key}_reverse": value for key, value in weights.items()})
    input = normal(seed + 20, len(case[0]), len(lengths), 2)
    output, h, c = walked(ours, input, lengths=lengths)
    got = walked(ours, library.reverse(input, lengths), lengths=lengths)
    want = library.reverse(output.roll(3, -1), lengths), h.flip(0), c.flip(0)
    alike(got, want, "the halves are not swapped", input=input, lengths=lengths)


@pytest.mark.law("LSTM")
@given(st.integers(1, 3), few, st.booleans(), st.booleans(), seeds)
def test_lstm_takes_batch_first_and_clips_alone(impl, t, b, bidirectional, stateful, seed):
    """With batch_first input and output are b t c, states stay as they are; a clip without the axis b stays without."""
    ours, theirs = twins(impl, "LSTM", seed, 2, 3, 1, True, True, 0.0, bidirectional)
    walks = 1 + bidirectional
    for shape, start, axes in (
        ((b, t, 2), (walks, b, 3), ("b t d", "walks b d", "walks b d")),
        ((t, 2), (walks, 3), ("t d", "walks d", "walks d")),
    ):
        input, state = normal(seed + 20, *shape), tuple(normal(seed + 30 + i, *start) for i in range(2))
        given_ = (input, state) if stateful else (input,)
        output, end = theirs(*given_)
        alike(walked(ours, *given_), (output, *end), "with batch_first", axes, input=input)


# ---- torch as the oracle, over every option

OPTIONS = [
    dict(num_layers=layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
    for layers, bias, batch_first, bidirectional in itertools.product((1, 3), *[(True, False)] * 3)
]
TOLERANCE = pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"]
)
BY_TORCH = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
BOTH = pytest.mark.parametrize("kernel", ["fast", "plain"])


def outcome(module: nn.Module, input: Tensor, state=None, **options) -> list[Tensor]:
    """Outputs and the gradients of everything: of the input, the state, and the parameters."""
    leaf = input.clone().requires_grad_()
    given_ = () if state is None else state if isinstance(state, tuple) else (state,)
    starts = [x.clone().requires_grad_() for x in given_]
    start = None if state is None else tuple(starts) if isinstance(state, tuple) else starts[0]
    output, ends = module(leaf, start, **options)
    results = [output, *(ends if isinstance(ends, tuple) else (ends,))]
    loss = sum((x * normal(i, *x.shape, dtype=x.dtype)).sum() / len(input) for i, x in enumerate(results))
    return [*results, *torch.autograd.grad(loss, [leaf, *starts, *module.parameters()])]


@BY_TORCH
@TOLERANCE
@BOTH
@pytest.mark.parametrize("proj_size", [0, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_lstm_module_and_its_gradients_equal_torch(options, proj_size, kernel, dtype, atol):
    theirs = nn.LSTM(5, 7, **options, proj_size=proj_size, dtype=dtype)
    ours = LSTM(5, 7, **options, proj_size=proj_size, dtype=dtype, kernel=kernel)
    ours.load_state_dict(theirs.state_dict())
    input = normal(0, 4, 6, 5, dtype=dtype)
    b, walks = input.shape[not options["batch_first"]], options["num_layers"] * (1 + options["bidirectional"])
    state = normal(1, walks, b, proj_size or 7, dtype=dtype), normal(2, walks, b, 7, dtype=dtype)
    for start in (None, state):
        for got, want in zip(outcome(ours, input, start), outcome(theirs, input, start), strict=True):
            torch.testing.assert_close(got, want, atol=atol, rtol=atol)


@TOLERANCE
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_rnn_module_and_its_gradients_equal_torch(options, nonlinearity, dtype, atol):
    theirs = nn.RNN(5, 7, nonlinearity=nonlinearity, **options, dtype=dtype)
    ours = RNN(5, 7, nonlinearity=nonlinearity, **options, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    input = normal(0, 4, 6, 5, dtype=dtype)
    b, walks = input.shape[not options["batch_first"]], options["num_layers"] * (1 + options["bidirectional"])
    for start in (None, normal(1, walks, b, 7, dtype=dtype)):
        for got, want in zip(outcome(ours, input, start), outcome(theirs, input, start), strict=True):
            torch.testing.assert_close(got, want, atol=atol, rtol=atol)


@BY_TORCH
@BOTH
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("batch_first", "proj_size"), [(False, 0), (True, 0), (False, 3)])
def test_lstm_with_lengths_equals_torch_on_packed_sequences(batch_first, proj_size, bidirectional, kernel):
    options = dict(num_layers=2, batch_first=batch_first, bidirectional=bidirectional, proj_size=proj_size)
    theirs = nn.LSTM(5, 7, **options, dtype=torch.float64)
    ours = LSTM(5, 7, **options, dtype=torch.float64, kernel=kernel)
    ours.load_state_dict(theirs.state_dict())
    input, lengths = normal(0, 6, 6, 5, dtype=torch.float64), [2, 6, 1, 4, 6, 3]
    walks = 2 * (1 + bidirectional)
    state = normal(1, walks, 6, proj_size or 7, dtype=torch.float64), normal(2, walks, 6, 7, dtype=torch.float64)

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = theirs

        def forward(self, input, state=None):
            packed = pack_padded_sequence(input, lengths, batch_first=batch_first, enforce_sorted=False)
            output, ends = self.layer(packed, state)
            return pad_packed_sequence(output, batch_first=batch_first)[0], ends

    for start in (None, state):
        wanted = outcome(Packed(), input, start)
        for given_ in (lengths, torch.tensor(lengths)):
            for got, want in zip(outcome(ours, input, start, lengths=given_), wanted, strict=True):
                torch.testing.assert_close(got, want, atol=1e-10, rtol=0)


@BOTH
def test_gradients_are_zero_at_the_padding_and_whole_everywhere_else(kernel):
    layer = LSTM(3, 4, 2, bidirectional=True, kernel=kernel)
    input, lengths = normal(0, 5, 3, 3), torch.tensor([2, 5, 0])
    frame = torch.arange(5)[:, None]
    input = torch.where((frame < lengths)[..., None], input, math.nan).requires_grad_()
    output, _ = layer(input, lengths=lengths)
    assert output.isfinite().all()
    gradients = torch.autograd.grad(output.square().sum(), [input, *layer.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert torch.equal(gradients[0].any(-1), frame < lengths)


@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), min_size=1, max_size=4), seeds)
def test_a_stream_of_clips_that_end_at_different_times_gives_the_same(pieces, seed):
    # Pieces of three frames, of which each clip has some: none when it has ended.
    layer, clips = LSTM(2, 3, 2), [[], []]
    outputs, state = [[], []], None
    for i, lengths in enumerate(pieces):
        frames = normal(seed + i, 3, 2, 2)
        output, state = layer(frames, state, lengths=lengths)
        for clip in range(2):
            clips[clip].append(frames[: lengths[clip], clip])
            outputs[clip].append(output[: lengths[clip], clip])
    for clip in range(2):
        if frames := len(torch.cat(clips[clip])):
            output, ends = layer(torch.cat(clips[clip]))
            assert len(output) == frames
            torch.testing.assert_close(torch.cat(outputs[clip]), output, atol=1e-6, rtol=1e-5)
            for got, want in zip(state, ends, strict=True):
                torch.testing.assert_close(got[:, clip], want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_modules_start_as_torch_from_the_same_seed(bias, bidirectional):
    shared = dict(bias=bias)
    for ours, theirs, arguments, options in (
        (LSTMCell, nn.LSTMCell, (3, 5), shared),
        (RNN, nn.RNN, (3, 5, 2), shared | dict(bidirectional=bidirectional)),
        (LSTM, nn.LSTM, (3, 5, 2), shared | dict(bidirectional=bidirectional)),
        (LSTM, nn.LSTM, (3, 5, 2), shared | dict(bidirectional=bidirectional, proj_size=2)),
    ):
        torch.manual_seed(3)
        mine = ours(*arguments, **options).state_dict()
        torch.manual_seed(3)
        want = theirs(*arguments, **options).state_dict()
        assert list(mine) == list(want)
        assert all(torch.equal(mine[key], want[key]) for key in want)


def test_constructors_take_their_arguments_in_the_order_of_torch():
    torch.manual_seed(0)
    rnn = RNN(3, 5, 2, "relu", False, True, 0.5, True, "cpu", torch.float64)
    assert (rnn.num_layers, rnn.nonlinearity, rnn.bias, rnn.batch_first) == (2, "relu", False, True)
    assert (rnn.dropout, rnn.bidirectional, rnn.weight_ih_l0.dtype) == (0.5, True, torch.float64)
    lstm = LSTM(3, 5, 2, False, True, 0.5, True, 2, "meta", torch.float16)
    assert (lstm.num_layers, lstm.bias, lstm.batch_first, lstm.dropout) == (2, False, True, 0.5)
    assert (lstm.bidirectional, lstm.proj_size) == (True, 2)
    assert (lstm.weight_hr_l1_reverse.dtype, lstm.weight_hr_l1_reverse.device.type) == (torch.float16, "meta")
    assert (lstm.input_size, lstm.hidden_size, lstm.kernel) == (3, 5, "fast")
    cell = LSTMCell(3, 5, False, "meta", torch.float64)
    assert (cell.input_size, cell.hidden_size, cell.bias_ih, cell.bias_hh) == (3, 5, None, None)
    assert (cell.weight_ih.dtype, cell.weight_hh.device.type) == (torch.float64, "meta")
    cell = LSTMCell(3, 5, device="meta", dtype=torch.float64)
    assert (cell.bias_ih.dtype, cell.bias_hh.device.type) == (torch.float64, "meta")
    assert {x.device.type for x in RNN(3, 5, device="meta").parameters()} == {"meta"}
    layer = RNN(3, 5)
    assert (layer.num_layers, layer.nonlinearity, layer.bias, layer.batch_first) == (1, "tanh", True, False)
    assert (layer.dropout, layer.bidirectional, layer.proj_size, layer.directions) == (0.0, False, 0, 1)
    assert "weight_ih_l0_reverse" not in LSTM(3, 5).state_dict() and not LSTM(3, 5).batch_first


def test_drawing_anew_stays_within_one_over_the_root_of_the_width():
    for layer in (LSTM(3, 100), LSTMCell(3, 100), RNN(3, 100)):
        before = layer.state_dict()["weight_hh" if isinstance(layer, LSTMCell) else "weight_hh_l0"].clone()
        layer.reset_parameters()
        after = layer.state_dict()["weight_hh" if isinstance(layer, LSTMCell) else "weight_hh_l0"]
        assert not torch.equal(before, after)
        # 10,000 uniform numbers: the largest is within 1 % of the bound, but for one case in e^100.
        assert 0.099 < after.max() <= 0.1 and -0.1 <= after.min() < -0.099


@BOTH
def test_gradients_pass_gradcheck(kernel):
    layer = LSTM(1, 3, bidirectional=True, proj_size=2, dtype=torch.float64, kernel=kernel)
    names = list(dict(layer.named_parameters()))
    input, h, c = (normal(i, *shape, dtype=torch.float64).requires_grad_() for i, shape in
                   enumerate([(3, 2, 1), (2, 2, 2), (2, 2, 3)]))  # fmt: skip

    def run(input, h, c, *weights):
        output, ends = torch.func.functional_call(
            layer, dict(zip(names, weights, strict=True)), (input, (h, c)), {"lengths": [3, 2]}
        )
        return output, *ends

    assert torch.autograd.gradcheck(run, (input, h, c, *layer.parameters()))


def test_the_plain_walk_has_gradients_of_gradients_and_the_fast_one_says_that_it_has_none():
    layer = LSTM(2, 3, dtype=torch.float64, kernel="plain")
    input = normal(0, 3, 2, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], (input,))
    layer.kernel = "fast"
    (gradient,) = torch.autograd.grad(layer(input)[0].square().sum(), input, create_graph=True)
    with pytest.raises(
        NotImplementedError,
        match="^fast_lstm has no gradient of its gradient; take lstm_step, or kernel='plain'$",
    ):
        gradient.sum().backward()


def test_only_what_is_asked_for_gets_a_gradient():
    # The output alone, the memory alone, h alone; an input that does not learn.
    layer, plain = LSTM(2, 3), LSTM(2, 3, kernel="plain")
    plain.load_state_dict(layer.state_dict())
    input = normal(0, 4, 2, 2)
    for pick in (lambda x: x[0], lambda x: x[1][0], lambda x: x[1][1]):
        got, want = (torch.autograd.grad(pick(m(input)).square().sum(), list(m.parameters())) for m in (layer, plain))
        for mine, right in zip(got, want, strict=True):
            torch.testing.assert_close(mine, right, atol=1e-6, rtol=1e-5)


def test_lstm_maps_over_an_axis():
    layer, clips = LSTM(3, 4, 2, bidirectional=True, proj_size=2), normal(0, 3, 5, 2, 3)
    lengths = torch.tensor([[5, 2], [1, 0], [3, 5]])
    run = lambda clip, length: layer(clip, lengths=length)[0]  # noqa: E731
    one_by_one = torch.stack([run(*pair) for pair in zip(clips, lengths, strict=True)])
    torch.testing.assert_close(torch.func.vmap(run)(clips, lengths), one_by_one, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        torch.func.vmap(lambda clip: layer(clip)[1][1])(clips),
        torch.stack([layer(clip)[1][1] for clip in clips]), atol=1e-6, rtol=1e-5,
    )  # fmt: skip
    loss = lambda clip: layer(clip)[0].square().sum()  # noqa: E731
    gradients = torch.func.vmap(torch.func.grad(loss))(clips)
    torch.testing.assert_close(gradients[1], torch.func.grad(loss)(clips[1]), atol=1e-6, rtol=1e-5)
    weights = dict(layer.named_parameters())
    scaled = lambda scale: torch.func.functional_call(  # noqa: E731
        layer, {key: scale * value for key, value in weights.items()}, (clips[0],)
    )[0]
    torch.testing.assert_close(
        torch.func.vmap(scaled)(torch.tensor([1.0, 0.0]))[0], layer(clips[0])[0], atol=1e-6, rtol=1e-5
    )


def test_rnn_and_cell_map_over_an_axis():
    rnn, cell, clips = RNN(3, 4), LSTMCell(3, 4), normal(0, 2, 5, 2, 3)
    torch.testing.assert_close(torch.func.vmap(lambda x: rnn(x)[0])(clips), torch.stack([rnn(x)[0] for x in clips]))
    torch.testing.assert_close(torch.func.vmap(cell)(clips[:, 0])[1], torch.stack([cell(x[0])[1] for x in clips]))


def test_lstm_runs_on_meta_where_there_is_no_autocast():
    lstm, x = LSTM(3, 5, proj_size=2, device="meta"), torch.empty(4, 7, 3, device="meta", requires_grad=True)
    output, (h, c) = lstm(x)
    assert [tuple(y.shape) for y in (output, h, c)] == [(4, 7, 2), (1, 7, 2), (1, 7, 5)]
    assert torch.autograd.grad(output.sum(), x)[0].shape == x.shape
    with torch.no_grad():
        assert lstm(x)[0].shape == (4, 7, 2)


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("at_a_time", [1, 3, 7, 8, 100])
def test_without_gradient_some_frames_at_a_time_give_the_same_numbers(monkeypatch, at_a_time, narrow):
    monkeypatch.setattr("minivid.layers.lstm.BLOCK", at_a_time * 4 * 2 * 5)
    lstm, x = LSTM(3, 5, proj_size=4 * narrow), normal(0, 7, 2, 3)
    want = lstm(x)
    with torch.no_grad():
        got = lstm(x)
        weights = [p for p in lstm.parameters()]
        state, weight_hr = (x.new_zeros(2, 5 - narrow), x.new_zeros(2, 5)), weights[4] if narrow else None
        _, _, gates = torch.ops.minivid.lstm(x, *state, *weights[:2], weights[2] + weights[3], weight_hr, False)
    assert len(gates) == min(7, at_a_time)
    for one, other in zip((got[0], *got[1]), (want[0], *want[1]), strict=True):
        # Sums of at most 8 products in another order: a hundred times the rounding of float32.
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    with torch.no_grad():
        assert lstm(x[:, :0])[0].shape == (7, 0, 5 - narrow)


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("at_a_time", [1, 3, 7, 100])
def test_with_gradient_the_gates_of_all_frames_are_kept_and_walked_back_some_at_a_time(monkeypatch, at_a_time, narrow):
    monkeypatch.setattr("minivid.layers.lstm.BLOCK", at_a_time * 4 * 2 * 5)
    fast = LSTM(3, 5, proj_size=4 * narrow)
    plain, x = LSTM(3, 5, proj_size=4 * narrow, kernel="plain"), normal(0, 7, 2, 3)
    plain.load_state_dict(fast.state_dict())
    for got, want in zip(outcome(fast, x), outcome(plain, x), strict=True):
        # Sums of at most 14 products in another order: a hundred times the rounding of float32.
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype, blocks", [(torch.float64, 7), (torch.float32, 7), (torch.bfloat16, 1)])
def test_half_precision_is_walked_back_in_one_piece(monkeypatch, dtype, blocks):
    # A sum over blocks would be rounded to 8 bits at each: of many small terms most would be lost.
    monkeypatch.setattr("minivid.layers.lstm.BLOCK", 1)
    starts, shifted = [], library._shifted
    monkeypatch.setattr(library, "_shifted", lambda *x: starts.append(x[2]) or shifted(*x))
    outcome(LSTM(3, 5, dtype=dtype), normal(0, 7, 2, 3).to(dtype))
    assert sorted(set(starts)) == list(range(blocks))


@pytest.mark.parametrize(
    # Of the numbers around 1 that it is made of, each of three steps rounds by up to half of the distance: 1.8e-7.
    "dtype, tolerance",
    [(torch.float64, 5e-16), (torch.float32, 2e-7), (torch.bfloat16, 0), (torch.float16, 0)],
)
def test_tanh_by_sigmoid_is_exact_to_the_digits_of_numbers_around_1(monkeypatch, dtype, tolerance):
    infinite = torch.tensor([torch.inf, -torch.inf], dtype=dtype)
    x = torch.cat([torch.linspace(-9, 9, 10001, dtype=dtype), torch.logspace(-30, 30, 61).to(dtype), infinite])
    before, out = x.clone(), torch.empty_like(x)
    places, sigmoid_ = [], Tensor.sigmoid_
    monkeypatch.setattr(Tensor, "sigmoid_", lambda x: places.append(x.data_ptr()) or sigmoid_(x))
    got, truth = library._tanh(x, out), x.tanh() if tolerance == 0 else x.double().tanh()
    assert got is out and torch.equal(x, before)
    assert places == ([out.data_ptr()] if tolerance else [])  # no other buffer; and of half precision torch's own
    torch.testing.assert_close(got.to(truth.dtype), truth, atol=tolerance, rtol=0)
    assert got.abs().max() == 1


def test_the_number_that_tanh_adds_stands_where_all_devices_read_it():
    library._minus_one.cache_clear()
    with torch.device("meta"):
        assert library._minus_one().device == torch.device("cpu")
    assert library._minus_one() == -1


def test_lengths_are_put_where_the_clips_are(monkeypatch):
    places, as_tensor = [], torch.as_tensor
    monkeypatch.setattr(torch, "as_tensor", lambda x, **kind: places.append(kind.get("device")) or as_tensor(x, **kind))
    LSTM(3, 5)(normal(0, 4, 2, 3), lengths=[4, 1])
    assert places == [torch.device("cpu")]


def test_autocast_takes_a_tensor_alone_too():
    with torch.autocast("cpu", torch.bfloat16):
        (got,) = library._as_autocast(normal(0, 3))
    assert got.dtype == torch.bfloat16


def test_a_mebibyte_of_gates_is_worked_on_at_a_time():
    assert library.BLOCK * 4 == 2**20
    frames = [
        library._frames_at_a_time(*sizes) for sizes in ((1000, 8, 64), (100, 8, 64), (9, 512, 512), (2**19, 0, 5))
    ]
    assert frames == [128, 100, 1, 2**18]


@BOTH
def test_lstm_runs_under_autocast(kernel):
    layer, input = LSTM(5, 7, 2, bidirectional=True, kernel=kernel), normal(0, 6, 3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        output, ends = layer(input, lengths=[6, 2, 3])
    assert {x.dtype for x in (output, *ends)} == {torch.bfloat16}
    output.float().square().sum().backward()
    assert all(x.grad.isfinite().all() and x.grad.dtype == torch.float32 for x in layer.parameters())
    # bfloat16 keeps 8 bits, on numbers below 1, over six steps and two layers.
    torch.testing.assert_close(output.float(), layer(input, lengths=[6, 2, 3])[0], atol=3e-2, rtol=0)


def test_rnn_and_cell_run_under_autocast_and_double_precision_stays():
    with torch.autocast("cpu", torch.bfloat16):
        assert RNN(3, 4)(normal(0, 5, 2, 3))[0].dtype == torch.bfloat16
        assert {x.dtype for x in LSTMCell(3, 4)(normal(0, 2, 3))} == {torch.bfloat16}
        assert LSTM(3, 4, dtype=torch.float64)(normal(0, 5, 2, 3, dtype=torch.float64))[0].dtype == torch.float64
    assert LSTMCell(3, 4)(normal(0, 2, 3))[0].dtype == torch.float32


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_lstm_runs_in_half_precision_on_odd_shapes(kernel, dtype):
    layer, input = LSTM(3, 5, 2, bidirectional=True, proj_size=3, kernel=kernel), normal(0, 7, 1, 3)
    want, _ = layer(input)
    output, _ = layer.to(dtype)(input.to(dtype))
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), want, atol=3e-2, rtol=0)


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # the compiler's own import
@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")  # the compiler does
@pytest.mark.parametrize(
    "layer",
    [LSTM(3, 4, 2, bidirectional=True), LSTM(3, 4, proj_size=2), LSTM(3, 4, bias=False, kernel="plain"), RNN(3, 4)],
    ids=["fast", "projected", "plain", "rnn"],
)
def test_layers_compile(layer, compiled):
    input, lengths = normal(0, 3, 3, 3), torch.tensor([3, 1, 0])
    results = []
    for module in (compiled(layer), layer):
        leaf = input.clone().requires_grad_()
        output, ends = module(leaf, lengths=lengths)
        loss = output.square().sum() + sum(x.sum() for x in ends)
        results.append([output, *torch.autograd.grad(loss, [leaf, *layer.parameters()])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


# ---- by hand, and what a law cannot ask


def test_rnn_step_by_hand():
    # 2 * 3 + 1 - 0.5 * 4 - 2 = 3
    numbers = [torch.tensor([[x]]) for x in (3.0, 4.0, 2.0, -0.5)]
    biases = torch.tensor([1.0]), torch.tensor([-2.0])
    assert rnn_step(*numbers, *biases, nonlinearity="relu").item() == 3.0
    assert rnn_step(*numbers, *biases).item() == pytest.approx(math.tanh(3.0), abs=1e-6)
    assert rnn_step(-numbers[0], *numbers[1:], nonlinearity="relu").item() == 0.0


def test_lstm_step_by_hand():
    # One number each; the frame is 1, and h is 0, so the four sums are the four weights. sigmoid(ln 3) = 3 / 4.
    log3 = math.log(3)
    weight = torch.tensor([[log3], [-log3], [0.5], [0.0]])
    h, c = lstm_step(torch.ones(1, 1), (torch.zeros(1, 1), torch.tensor([[2.0]])), weight, torch.ones(4, 1))
    assert c.item() == pytest.approx(0.25 * 2 + 0.75 * math.tanh(0.5), abs=1e-6)
    assert h.item() == pytest.approx(0.5 * math.tanh(c.item()), abs=1e-6)


def test_recur_hands_the_state_from_step_to_step():
    frames = torch.tensor([1.0, 2.0, 5.0]).view(3, 1, 1)
    total, count = recur(lambda x, state: (state[0] + x, state[1] + 1), frames, (torch.zeros(1, 1), torch.ones(1, 1)))
    assert total.flatten().tolist() == [1, 3, 8]
    assert count.flatten().tolist() == [2, 3, 4]


def test_recur_wants_as_many_tensors_after_every_frame():
    with pytest.raises(ValueError, match="zip"):
        recur(lambda x, state: (*state, x), torch.zeros(2, 1, 1), (torch.zeros(1, 1),))


def test_frames_are_counted_where_the_clips_are():
    x, lengths = torch.empty(4, 3, 2, device="meta"), torch.empty(3, dtype=torch.long, device="meta")
    assert reverse(x, lengths).shape == padding_as_zero(x, lengths).shape == (4, 3, 2)
    assert last(x, x[0], lengths).shape == (3, 2)


@pytest.mark.parametrize("block", [60, 1000])
@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("narrow", [True, False])
def test_the_walks_are_operators_that_keep_their_promises(monkeypatch, narrow, learns, block):
    # Of torch.compile and of what traces without numbers: the shapes, the memory layouts, and that nothing is written.
    input = normal(0, 3, 4, 1).transpose(0, 1)
    shapes = [(3, 5 - narrow), (3, 5), (20, 1), (20, 5 - narrow), (20,), (5 - narrow, 5)]
    *tensors, bias, weight_hr = [normal(1 + i, *shape) for i, shape in enumerate(shapes)]
    promises, weight_hr = ("test_schema", "test_faketensor"), weight_hr if narrow else None
    forward = (input, *tensors, bias if narrow else None, weight_hr)
    monkeypatch.setattr("minivid.layers.lstm.BLOCK", block)  # one frame at a time, or all
    for learning in (False, True):
        torch.library.opcheck(torch.ops.minivid.lstm, (*forward, learning), test_utils=promises)
    results = torch.ops.minivid.lstm(*forward, True)
    to_outputs, to_cells = normal(8, *results[0].shape), normal(9, *results[1].shape) if learns else None
    back = (to_outputs, to_cells, input, *tensors, weight_hr, *results, learns)
    torch.library.opcheck(torch.ops.minivid.lstm_gradient, back, test_utils=promises)


def test_a_walk_of_its_own_is_asked_for():
    class Nothing(Recurrent):
        blocks, states = 1, 1

    layer = Nothing(2, 3, 1, True, False, 0.0, False, 0, None, None)
    with pytest.raises(NotImplementedError):
        layer.walk(torch.zeros(1, 1, 2), (torch.zeros(1, 3),), ())


def test_dropout_stands_between_layers_and_only_in_training():
    layer = LSTM(3, 50, 2, dropout=0.5)
    theirs = nn.LSTM(3, 50, 2, dropout=0.5)
    theirs.load_state_dict(layer.state_dict())
    input = normal(0, 4, 2, 3)
    results = []
    for module in (layer, theirs):
        torch.manual_seed(7)
        results.append(module(input)[0])
    torch.testing.assert_close(*results, atol=1e-6, rtol=1e-5)  # the same numbers are dropped
    assert not torch.equal(layer(input)[0], layer(input)[0])
    layer.eval()
    assert torch.equal(layer(input)[0], layer(input)[0])
    all_dropped = LSTM(3, 5, 2, dropout=1)
    output, _ = all_dropped(input)  # the second layer reads zeros: the same for every clip
    torch.testing.assert_close(output[:, 0], output[:, 1], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(output[0], output[1], atol=1e-3)


def test_dropout_with_one_layer_is_named_as_useless():
    for kind in (LSTM, RNN):
        message = "^dropout is 0.5, but it stands between layers and num_layers is 1: nothing is dropped$"
        with pytest.warns(UserWarning, match=message) as caught:
            layer = kind(3, 5, dropout=0.5)
        assert torch.equal(layer(torch.ones(2, 1, 3))[0], layer(torch.ones(2, 1, 3))[0])
        # The warning points to the constructor of the class that was asked for.
        assert len(caught) == 1
        assert caught[0].filename == __file__ or "jaxtyping" in caught[0].filename  # the shape checker stands between


def test_a_cell_takes_a_frame_alone():
    cell, frame, state = LSTMCell(3, 5), normal(0, 3), (normal(1, 5), normal(2, 5))
    for start in (None, state):
        h, c = cell(frame, start)
        want = cell(frame[None], None if start is None else tuple(x[None] for x in start))
        assert h.shape == c.shape == (5,)
        assert torch.equal(h, want[0][0]) and torch.equal(c, want[1][0])


def test_a_clip_alone_takes_and_gives_states_without_the_axis_of_clips():
    for layer in (LSTM(3, 5, 2, proj_size=2), RNN(3, 5, 2)):
        input, states = normal(0, 4, 3), [normal(1, 2, layer.output_size), normal(2, 2, 5)][: layer.states]
        state = tuple(states) if layer.states == 2 else states[0]
        output, ends = layer(input, state, lengths=[3])
        batch = tuple(x[:, None] for x in states) if layer.states == 2 else states[0][:, None]
        want, wanted = layer(input[:, None], batch, lengths=[3])
        assert output.shape == (4, layer.output_size) and torch.equal(output, want[:, 0])
        for got, right in zip(ends, wanted, strict=True) if layer.states == 2 else [(ends, wanted)]:
            assert torch.equal(got, right[:, 0])


def test_layers_leave_their_inputs_alone():
    layer, input, state = LSTM(3, 5), normal(0, 4, 2, 3), (normal(1, 1, 2, 5), normal(2, 1, 2, 5))
    before = [x.clone() for x in (input, *state, *layer.parameters())]
    layer(input, state, lengths=[2, 3])[0].sum().backward()
    assert all(torch.equal(x, y) for x, y in zip(before, (input, *state, *layer.parameters()), strict=True))


def test_an_input_in_any_memory_layout_gives_the_same():
    layer, input = LSTM(3, 5), normal(0, 2, 4, 3)
    loose = input.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    assert not loose.is_contiguous()
    tight = input.clone().requires_grad_()
    results = [layer(x)[0] for x in (loose, tight)]
    torch.testing.assert_close(*results)
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for x, y in zip((loose, tight), results, strict=True)]
    torch.testing.assert_close(*gradients)


def test_an_empty_batch_gives_an_empty_output():
    output, (h, c) = LSTM(3, 5)(torch.zeros(4, 0, 3), lengths=torch.zeros(0, dtype=torch.long))
    assert (output.shape, h.shape, c.shape) == ((4, 0, 5), (1, 0, 5), (1, 0, 5))


# ---- errors


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([(4, 2, 7)], {}, r"input: shape (4, 2, 7), expected t b c or t c, with c=3 (input_size)"),
        ([(3,)], {}, r"input: shape (3,), expected t b c or t c, with c=3 (input_size)"),
        ([(1, 4, 2, 3)], {}, r"input: shape (1, 4, 2, 3), expected t b c or t c, with c=3 (input_size)"),
        ([(0, 2, 3)], {}, r"input: shape (0, 2, 3) has t=0, expected at least one frame"),
        (
            [(4, 2, 3), ((1, 2, 5), (1, 2, 5))],
            {},
            "state: shapes (1, 2, 5), (1, 2, 5), expected (2, 2, 5), (2, 2, 5): (num_layers x directions) b d, or "
            "without b for a clip alone; None starts with zeros",
        ),
        (
            [(4, 3), ((2, 1, 5), (2, 1, 5))],
            {},
            "state: shapes (2, 1, 5), (2, 1, 5), expected (2, 5), (2, 5): (num_layers x directions) b d, or "
            "without b for a clip alone; None starts with zeros",
        ),
        ([(4, 2, 3)], {"lengths": [4]}, "lengths: shape (1,), expected (2,), the frames of each of b=2 clips"),
        ([(4, 2, 3)], {"lengths": [5, 3]}, "lengths: from 3 to 5, expected from 0 to t=4"),
        ([(4, 2, 3)], {"lengths": [4, -1]}, "lengths: from -1 to 4, expected from 0 to t=4"),
    ],
)
def test_lstm_names_what_does_not_fit(arguments, options, message):
    input, *states = arguments
    state = tuple(map(torch.zeros, states[0])) if states else None
    with pytest.raises(ShapeError) as caught:
        LSTM(3, 5, 2)(torch.zeros(input), state, **options)
    assert str(caught.value) == message


@pytest.mark.usefixtures("unchecked")
def test_lstm_names_the_axes_in_the_order_it_takes_them():
    with pytest.raises(ShapeError, match=r"^input: shape \(4, 2, 7\), expected b t c or t c, with c=3 \(input_size\)$"):
        LSTM(3, 5, batch_first=True)(torch.zeros(4, 2, 7))
    with pytest.raises(ShapeError, match="t=0"):
        LSTM(3, 5, batch_first=True)(torch.zeros(4, 0, 3))
    with pytest.raises(ShapeError, match=r"^state: shapes \(1, 4, 5\), expected \(1, 2, 5\): "):
        RNN(3, 5)(torch.zeros(4, 2, 3), torch.zeros(1, 4, 5))


@pytest.mark.usefixtures("unchecked")
def test_a_packed_sequence_is_refused_by_name():
    packed = pack_padded_sequence(torch.zeros(4, 2, 3), [4, 2])
    with pytest.raises(TypeError) as caught:
        LSTM(3, 5)(packed)
    assert str(caught.value) == (
        "input is a PackedSequence, expected a tensor; of packed sequences give the padded tensor and lengths=, as "
        "torch.nn.utils.rnn.pad_packed_sequence returns them"
    )


@pytest.mark.usefixtures("unchecked")
def test_cell_names_what_does_not_fit():
    for shape in ((2, 4), (1, 2, 3), (4,)):
        with pytest.raises(ShapeError) as caught:
            LSTMCell(3, 5)(torch.zeros(shape))
        assert str(caught.value) == f"input: shape {shape}, expected b c or c, with c=3"
    with pytest.raises(ShapeError) as caught:
        LSTMCell(3, 5)(torch.zeros(2, 3), (torch.zeros(2, 5), torch.zeros(2, 3)))
    assert str(caught.value) == (
        "state: shapes (2, 5), (2, 3), expected (2, 5), (2, 5): b d, with d = hidden_size; None starts with zeros"
    )


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (LSTM, dict(input_size=0, hidden_size=5), "input_size is 0, expected at least 1"),
        (LSTM, dict(input_size=3, hidden_size=0), "hidden_size is 0, expected at least 1"),
        (RNN, dict(input_size=3, hidden_size=5, num_layers=0), "num_layers is 0, expected at least 1"),
        (LSTMCell, dict(input_size=3, hidden_size=0), "hidden_size is 0, expected at least 1"),
        (LSTMCell, dict(input_size=0, hidden_size=1), "input_size is 0, expected at least 1"),
        (LSTM, dict(input_size=3, hidden_size=5, dropout=1.5), "dropout is 1.5, expected a share from 0 to 1"),
        (RNN, dict(input_size=3, hidden_size=5, dropout=-0.5), "dropout is -0.5, expected a share from 0 to 1"),
        (
            LSTM,
            dict(input_size=3, hidden_size=5, proj_size=5),
            "proj_size is 5, expected 0 (none) or less than hidden_size 5",
        ),
        (
            LSTM,
            dict(input_size=3, hidden_size=5, proj_size=-1),
            "proj_size is -1, expected 0 (none) or less than hidden_size 5",
        ),
        (LSTM, dict(input_size=3, hidden_size=5, kernel="cudnn"), "kernel is 'cudnn', expected 'fast' or 'plain'"),
        (
            RNN,
            dict(input_size=3, hidden_size=5, nonlinearity="gelu"),
            "nonlinearity is 'gelu', expected 'tanh' or 'relu'",
        ),
    ],
)
def test_constructor_names_what_does_not_go_together(kind, arguments, message):
    with pytest.raises(ValueError) as caught:
        kind(**arguments)
    assert str(caught.value) == message


def test_an_option_that_is_not_taken_is_refused_by_name():
    with pytest.raises(TypeError, match="proj_size"):
        RNN(3, 5, proj_size=2)


def test_rnn_step_names_the_nonlinearities():
    with pytest.raises(ValueError, match="^nonlinearity is 'sigmoid', expected 'tanh' or 'relu'$"):
        rnn_step(*step_case(0, 1, 2, 3, 1)[:2], *step_case(0, 1, 2, 3, 1)[3:], nonlinearity="sigmoid")


def test_modules_print_their_numbers():
    assert repr(LSTM(3, 5)) == "LSTM(3, 5)"
    assert repr(LSTM(3, 5, 2, False, True, 0.5, True, 2, kernel="plain")) == (
        "LSTM(3, 5, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True, proj_size=2, "
        "kernel='plain')"
    )
    assert repr(RNN(3, 5)) == "RNN(3, 5)"
    assert repr(RNN(3, 5, nonlinearity="relu")) == "RNN(3, 5, nonlinearity='relu')"
    assert repr(LSTMCell(3, 5)) == "LSTMCell(3, 5)"
    assert repr(LSTMCell(3, 5, bias=False)) == "LSTMCell(3, 5, bias=False)"


def test_helpers_take_no_lengths_as_all_of_them():
    x = normal(0, 4, 2, 3)
    full = torch.tensor([4, 4])
    assert torch.equal(reverse(x), reverse(x, full))
    assert torch.equal(last(x, x[0]), last(x, x[0], full))
    assert padding_as_zero(x) is x and torch.equal(padding_as_zero(x, full), x)


def test_fast_lstm_without_biases_takes_the_shortest_call():
    input, h, c, weight_ih, weight_hh, *_ = step_case(0, 2, 3, 4, 4)
    got = fast_lstm(input[None], (h, c), weight_ih, weight_hh)
    want = lstm_step(input, (h, c), weight_ih, weight_hh)
    for mine, right in zip(got, want, strict=True):
        torch.testing.assert_close(mine[0], right, atol=1e-6, rtol=1e-5)
