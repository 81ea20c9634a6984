"""Recurrent networks: a memory walks over a clip frame by frame, and gates say what it keeps, takes in and shows."""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from minivid.layers.linear import add_product
from minivid.layers.vmap import map_one_by_one
from minivid.shapes import ShapeError

# ---- one step


def rnn_step(
    input: Float[Tensor, "b c"],
    state: Float[Tensor, "b d"],
    weight_ih: Float[Tensor, "d c"],
    weight_hh: Float[Tensor, "d d"],
    bias_ih: Float[Tensor, " d"] | None = None,
    bias_hh: Float[Tensor, " d"] | None = None,
    *,
    nonlinearity: str = "tanh",
) -> Float[Tensor, "b d"]:
    """Read one frame: the new state is a squashed sum of what is seen and what is remembered.

        h' = tanh(W_ih x + b_ih + W_hh h + b_hh)

    Args:
        input: one frame of each clip, c numbers.
        state: what is remembered of the frames before, d numbers; zeros before the first.
        weight_ih, weight_hh: how a frame and a state are read.
        bias_ih, bias_hh: added to the two; None = nothing.
        nonlinearity: "tanh", or "relu": negative numbers become 0, the others stay.

    Raises:
        ValueError: for another nonlinearity.

    Source: Elman 1990, Finding structure in time; in the form of torch.nn.RNN.
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity is {nonlinearity!r}, expected 'tanh' or 'relu'")
    total = input @ weight_ih.mT + state @ weight_hh.mT
    for bias in (bias_ih, bias_hh):
        total = total if bias is None else total + bias
    return total.tanh() if nonlinearity == "tanh" else total.clamp(min=0)


def lstm_step(
    input: Float[Tensor, "b c"],
    state: tuple[Float[Tensor, "b d_out"], Float[Tensor, "b d"]],
    weight_ih: Float[Tensor, "4*d c"],
    weight_hh: Float[Tensor, "4*d d_out"],
    bias_ih: Float[Tensor, " 4*d"] | None = None,
    bias_hh: Float[Tensor, " 4*d"] | None = None,
    weight_hr: Float[Tensor, "d_out d"] | None = None,
) -> tuple[Float[Tensor, "b d_out"], Float[Tensor, "b d"]]:
    """Read one frame: gates decide what the memory forgets, takes in and shows.

        i, f, g, o = four blocks of d rows of  W_ih x + b_ih + W_hh h + b_hh
        c' = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')            with weight_hr: W_hr times that

    Args:
        input: one frame of each clip, c numbers.
        state: (h, c): what was shown last, and the memory; zeros before the first frame.
        weight_ih, weight_hh: the rows of the input gate i, the forget gate f, the candidate g and the output gate o,
            one block behind the other.
        bias_ih, bias_hh: added to the two; None = nothing.
        weight_hr: a last matrix that makes h narrower than the memory; None = d_out is d.

    Returns:
        (h', c').

    Source: Hochreiter and Schmidhuber 1997; with the forget gate of Gers, Schmidhuber and Cummins 2000; weight_hr: Sak,
    Senior and Beaufays 2014 (arXiv:1402.1128).
    """
    h, c = state
    gates = input @ weight_ih.mT + h @ weight_hh.mT
    for bias in (bias_ih, bias_hh):
        gates = gates if bias is None else gates + bias
    i, f, g, o = gates.chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return h if weight_hr is None else h @ weight_hr.mT, c


# ---- from step to step


def recur(
    step: Callable, input: Float[Tensor, "t b c"], state: tuple[Float[Tensor, "b _"], ...]
) -> tuple[Float[Tensor, "t b _"], ...]:
    """Walk over the frames: every step gets one frame and the state that the step before left.

    Args:
        step: takes a frame `b c` and a state, gives the next state.
        input: frames, in the order in which they are read.
        state: the tensors of the state before the first frame.

    Returns:
        Each tensor of the state after every frame.
    """
    states = []
    for frame in input:
        state = step(frame, state)
        states.append(state)
    return tuple(torch.stack(part) for part in zip(*states, strict=True))


def reverse(x: Float[Tensor, "t b c"], lengths: Int[Tensor, " b"] | None = None) -> Float[Tensor, "t b c"]:
    """Turn each clip round, so that its last frame comes first; what stands behind its end stays there.

        y[i] = x[length - 1 - i] for i < length, else x[i]

    Args:
        x: clips, one beside the other.
        lengths: frames of each; None = t.
    """
    if lengths is None:
        return x.flip(0)
    t, b = x.shape[:2]
    frame = torch.arange(t, device=x.device)[:, None]
    source = torch.where(frame < lengths, lengths - 1 - frame, frame)
    return x[source, torch.arange(b, device=x.device)]


def last(
    states: Float[Tensor, "t b d"], start: Float[Tensor, "b d"], lengths: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b d"]:
    """The state of each clip after its own last frame.

    Args:
        states: after every frame.
        start: before the first; it is the last one of a clip without frames.
        lengths: frames of each clip; None = t.
    """
    if lengths is None:
        return states[-1]
    return torch.cat([start[None], states])[lengths, torch.arange(states.shape[1], device=states.device)]


def padding_as_zero(x: Float[Tensor, "t b c"], lengths: Int[Tensor, " b"] | None = None) -> Float[Tensor, "t b c"]:
    """Write zeros over what stands behind the end of each clip, whatever it was, NaN too.

    Args:
        x: clips, one beside the other.
        lengths: frames of each; None = t.
    """
    if lengths is None:
        return x
    frame = torch.arange(x.shape[0], device=x.device)[:, None]
    return torch.where((frame < lengths)[..., None], x, 0.0)


# ---- the LSTM's walk, fast


def fast_lstm(
    input: Float[Tensor, "t b c"],
    state: tuple[Float[Tensor, "b d_out"], Float[Tensor, "b d"]],
    weight_ih: Float[Tensor, "4*d c"],
    weight_hh: Float[Tensor, "4*d d_out"],
    bias_ih: Float[Tensor, " 4*d"] | None = None,
    bias_hh: Float[Tensor, " 4*d"] | None = None,
    weight_hr: Float[Tensor, "d_out d"] | None = None,
) -> tuple[Float[Tensor, "t b d_out"], Float[Tensor, "t b d"]]:
    """What `recur` gives with `lstm_step`, from fewer and larger steps.

    What the frames add to the gates does not depend on the memory: one product computes it for all frames at once. The
    walk then writes into buffers that are there before it starts. Its gradient is written by hand, and each weight's
    is one product over many frames, instead of a sum that grows at every step. The gradients of the gates, and under
    torch.no_grad the gates, of some frames at a time share one buffer, which stays in the processor's cache.

    Args:
        input: frames, in the order in which they are read.
        state, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr: as in `lstm_step`.

    Returns:
        h and c after every frame. Their gradient has no gradient of its own.

    Source: Werbos 1990, Backpropagation through time; the equations are derived in the chapter.
    """
    bias = bias_ih if bias_hh is None else bias_ih + bias_hh
    outputs, cells, _ = _Walk.apply(input, *state, weight_ih, weight_hh, bias, weight_hr, torch.is_grad_enabled())
    return outputs, cells


# Numbers of gates, or of their gradients, that are worked on at a time where none are kept: 1 MiB in float32.
BLOCK = 2**18


def _frames_at_a_time(t: int, b: int, d: int) -> int:
    return max(1, min(t, BLOCK // max(1, 4 * b * d)))


@cache
def _minus_one() -> Tensor:
    return torch.tensor(-1.0, device="cpu")  # a number of no axes goes with tensors anywhere


def _tanh(x: Tensor, out: Tensor) -> Tensor:
    """tanh x = 2 sigmoid(2x) - 1 into a buffer: below half the time of torch's, as exact as numbers around 1 are."""
    if x.dtype.itemsize < 4:  # half precision has no digits to lose
        return torch.tanh(x, out=out)
    return torch.add(_minus_one(), torch.mul(x, 2, out=out).sigmoid_(), alpha=2, out=out)


def _walk_forward(
    input: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    weight_hr: Tensor | None,
    learning: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """h, c and the four gates after every frame, the gates squashed; without learning, only the last frames' gates."""
    (t, b, _), d = input.shape, c.shape[1]
    span = t if learning else _frames_at_a_time(t, b, d)
    gates = input.new_empty(span, b, 4 * d)
    # `passed` is h before a last matrix makes it narrower.
    cells, passed = gates.new_empty(t, b, d), gates.new_empty(t, b, d)
    outputs = passed if weight_hr is None else gates.new_empty(t, b, h.shape[1])
    matrix = weight_hh.mT
    parts = list(zip(gates, gates[..., : 2 * d], *gates.chunk(4, -1), strict=True))
    for start in range(0, t, span):
        frames = input[start : start + span].flatten(0, 1)
        taken_in = gates.flatten(0, 1)[: len(frames)]
        taken_in.copy_(gates.new_zeros(()) if bias is None else bias)
        add_product(taken_in, frames, weight_ih)
        results = zip(*(x[start : start + span] for x in (cells, passed, outputs)), strict=True)
        # The last frames may be fewer than the buffer holds.
        for (gate, take_and_keep, take, keep, candidate, show), (cell, through, output) in zip(
            parts, results, strict=False
        ):
            gate.addmm_(h, matrix)
            take_and_keep.sigmoid_()
            _tanh(candidate, out=candidate)
            show.sigmoid_()
            c = torch.mul(keep, c, out=cell).addcmul_(take, candidate)
            _tanh(c, out=through).mul_(show)
            h = output if weight_hr is None else torch.mm(through, weight_hr.mT, out=output)
    return outputs, cells, gates


def _walk_backward(
    to_outputs: Tensor | None,
    to_cells: Tensor | None,
    input: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    weight_hr: Tensor | None,
    outputs: Tensor,
    cells: Tensor,
    gates: Tensor,
    input_learns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """From the gradients of h and c after every frame, those of input, h, c, weight_ih, weight_hh, bias, weight_hr."""
    (t, b, d), nothing = cells.shape, gates.new_empty(0)
    # In half precision the weights' gradients are one product: a sum over many blocks would be rounded at each.
    span = t if gates.dtype.itemsize < 4 else _frames_at_a_time(t, b, d)
    to_all_gates = gates.new_empty(span, b, 4 * d)
    to_input = input.new_zeros(input.shape) if input_learns else nothing
    to_weight_ih, to_weight_hh, to_bias = map(torch.zeros_like, (weight_ih, weight_hh, weight_ih[:, 0]))
    to_weight_hr = nothing.clone() if weight_hr is None else torch.zeros_like(weight_hr)
    to_h = torch.zeros_like(h) if to_outputs is None else to_outputs[-1]
    to_c = torch.zeros_like(c)
    for stop in range(t, 0, -span):
        start = max(0, stop - span)
        read, before, memory = input[start:stop], _shifted(h, outputs, start, stop), cells[start:stop]
        take, keep, candidate, show = gates[start:stop].chunk(4, -1)
        squashed = _tanh(memory, out=torch.empty_like(memory))
        # What of the gradient of c' reaches the sums in i, f and g, and what of that of h' the sum in o, and c': known
        # for all these frames before the walk back over them begins.
        to_gates = to_all_gates[: stop - start]
        to_take, to_keep, to_candidate, to_show = to_gates.chunk(4, -1)
        torch.addcmul(take, take, take, value=-1, out=to_take).mul_(candidate)  # a gate's slope is s (1 - s)
        torch.addcmul(keep, keep, keep, value=-1, out=to_keep).mul_(_shifted(c, cells, start, stop))
        torch.mul(take, candidate, out=to_candidate).mul_(candidate).neg_().add_(take)
        torch.addcmul(show, show, show, value=-1, out=to_show).mul_(squashed)
        passed = show * squashed
        to_memory = torch.addcmul(show, passed, squashed, value=-1)
        to_shown = []
        to_three = to_gates[..., : 3 * d].unflatten(-1, (3, -1))
        frames = list(zip(to_gates, to_three, to_show, to_memory, keep, strict=True))
        for i, (to_gate, three, to_o, to_cell, kept) in reversed(list(enumerate(frames, start))):
            to_shown.append(to_h)
            to_passed = to_h if weight_hr is None else to_h @ weight_hr
            to_c = torch.addcmul(to_c if to_cells is None else to_cells[i] + to_c, to_passed, to_cell)
            three.mul_(to_c[:, None])
            to_o.mul_(to_passed)
            to_c.mul_(kept)
            # What the frame before has shown reaches the loss by itself and through these gates.
            by_itself = None if to_outputs is None or i == 0 else to_outputs[i - 1]
            to_h = to_gate @ weight_hh if by_itself is None else torch.addmm(by_itself, to_gate, weight_hh)
        rows = to_gates.flatten(0, 1)
        add_product(to_weight_ih, rows.mT, read.flatten(0, 1).mT)
        add_product(to_weight_hh, rows.mT, before.flatten(0, 1).mT)
        to_bias += rows.sum(0)
        if input_learns:
            add_product(to_input[start:stop].flatten(0, 1), rows, weight_ih.mT)
        if weight_hr is not None:
            to_weight_hr.addmm_(torch.cat(to_shown[::-1]).mT, passed.flatten(0, 1))
    return to_input, to_h, to_c, to_weight_ih, to_weight_hh, to_bias, to_weight_hr


def _shifted(first: Tensor, states: Tensor, start: int, stop: int) -> Tensor:
    """The states before the frames from start to stop."""
    return states[start - 1 : stop - 1] if start else torch.cat([first[None], states[: stop - 1]])


# Operators of torch, not plain functions: torch.compile takes an operator as one step instead of unrolling its loop,
# and vmap can be told how to map what writes into buffers.
_walk = torch.library.custom_op(
    "minivid::lstm",
    _walk_forward,
    mutates_args=(),
    schema="(Tensor input, Tensor h, Tensor c, Tensor weight_ih, Tensor weight_hh, Tensor? bias, Tensor? weight_hr, "
    "bool learning) -> (Tensor, Tensor, Tensor)",
)
_walk_gradient = torch.library.custom_op(
    "minivid::lstm_gradient",
    _walk_backward,
    mutates_args=(),
    schema="(Tensor? to_outputs, Tensor? to_cells, Tensor input, Tensor h, Tensor c, Tensor weight_ih, "
    "Tensor weight_hh, Tensor? weight_hr, Tensor outputs, Tensor cells, Tensor gates, bool input_learns) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


@_walk.register_fake
def _(input, h, c, weight_ih, weight_hh, bias, weight_hr, learning):
    t, (b, d) = input.shape[0], c.shape
    span = t if learning else _frames_at_a_time(t, b, d)
    return input.new_empty(t, *h.shape), input.new_empty(t, b, d), input.new_empty(span, b, 4 * d)


@_walk_gradient.register_fake
def _(to_outputs, to_cells, input, h, c, weight_ih, weight_hh, weight_hr, outputs, cells, gates, input_learns):
    to_input = torch.empty_like(input, memory_format=torch.contiguous_format) if input_learns else h.new_empty(0)
    to_weight_hr = h.new_empty(0) if weight_hr is None else torch.empty_like(weight_hr)
    return to_input, *map(torch.empty_like, (h, c, weight_ih, weight_hh, weight_ih[:, 0])), to_weight_hr


map_one_by_one(_walk, _walk_gradient)


class _Walk(torch.autograd.Function):
    """What is kept between the walk forward and the walk back: input, states, gates and weights."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input, h, c, weight_ih, weight_hh, bias, weight_hr, learning):
        return _walk(input, h, c, weight_ih, weight_hh, bias, weight_hr, learning)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, h, c, weight_ih, weight_hh, bias, weight_hr, _ = inputs
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, h, c, weight_ih, weight_hh, weight_hr, *output)

    @staticmethod
    def backward(ctx, to_outputs, to_cells, _):
        input_learns, has_bias, weight_hr = ctx.needs_input_grad[0], ctx.has_bias, ctx.saved_tensors[5]
        to_input, to_h, to_c, to_weight_ih, to_weight_hh, to_bias, to_weight_hr = _WalkGradient.apply(
            to_outputs, to_cells, *ctx.saved_tensors, input_learns
        )
        return (
            to_input if input_learns else None,
            to_h,
            to_c,
            to_weight_ih,
            to_weight_hh,
            to_bias if has_bias else None,
            None if weight_hr is None else to_weight_hr,
            None,
        )


class _WalkGradient(torch.autograd.Function):
    """The walk back, which has no gradient of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        to_outputs,
        to_cells,
        input,
        h,
        c,
        weight_ih,
        weight_hh,
        weight_hr,
        outputs,
        cells,
        gates,
        input_learns,
    ):
        return _walk_gradient(
            to_outputs,
            to_cells,
            input,
            h,
            c,
            weight_ih,
            weight_hh,
            weight_hr,
            outputs,
            cells,
            gates,
            input_learns,
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError("fast_lstm has no gradient of its gradient; take lstm_step, or kernel='plain'")


# ---- modules


class LSTMCell(nn.Module):
    """One step of an LSTM with learned weights; the twin of torch.nn.LSTMCell.

    The same arguments in the same order, the same names in the state dict and, from the same seed, the same first
    numbers.

    Args:
        input_size: numbers c of a frame.
        hidden_size: numbers d of the memory.
        bias: whether biases are learned and added.
        device, dtype: of the weights.

    Raises:
        ValueError: if a size is below 1.

    Source: as for `lstm_step`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        _check_positive(input_size=input_size, hidden_size=hidden_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        kind = {"device": device, "dtype": dtype}
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size, **kind))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size, **kind))
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden_size, **kind)) if bias else None
        self.bias_hh = nn.Parameter(torch.empty(4 * hidden_size, **kind)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew, uniform between plus and minus 1 / sqrt(hidden_size), as torch does."""
        _draw(self.parameters(), self.hidden_size)

    def forward(
        self,
        input: Float[Tensor, "b c"] | Float[Tensor, " c"],
        state: tuple[Float[Tensor, "*b d"], Float[Tensor, "*b d"]] | None = None,
    ) -> tuple[Float[Tensor, "*b d"], Float[Tensor, "*b d"]]:
        """Read one frame.

        Args:
            input: one frame of each clip, or of a single clip without the axis b.
            state: (h, c) that the frame before left; None = zeros.

        Returns:
            The next (h, c).

        Raises:
            ShapeError: if the frame or the state has other sizes.
        """
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ShapeError(f"input: shape {tuple(input.shape)}, expected b c or c, with c={self.input_size}")
        wanted = (*input.shape[:-1], self.hidden_size)
        if state is None:
            state = (input.new_zeros(wanted),) * 2
        _check_state(state, (wanted, wanted), "b d, with d = hidden_size")
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        input, *rest = _as_autocast(torch.atleast_2d(input), *map(torch.atleast_2d, state), *weights)
        h, c = lstm_step(input, tuple(rest[:2]), *rest[2:])
        return h.view(wanted), c.view(wanted)

    def extra_repr(self) -> str:
        """The numbers of the constructor."""
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias_ih is not None else ", bias=False")


class Recurrent(nn.Module):
    """What every recurrent layer shares: a stack of walks over the frames, in one direction or both.

    A subclass says how many blocks of rows its weights have (`blocks`), how many tensors its state has (`states`), and
    what one walk is (`walk`).
    """

    blocks: int
    states: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: int | float,
        bidirectional: bool,
        proj_size: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ):
        super().__init__()
        _check_positive(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout is {dropout}, expected a share from 0 to 1")
        if dropout and num_layers == 1:
            warnings.warn(
                f"dropout is {dropout}, but it stands between layers and num_layers is 1: nothing is dropped",
                stacklevel=3,
            )
        if not 0 <= proj_size < hidden_size:
            raise ValueError(f"proj_size is {proj_size}, expected 0 (none) or less than hidden_size {hidden_size}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.output_size = proj_size or hidden_size
        rows = self.blocks * hidden_size
        for index in range(num_layers * self.directions):
            below = input_size if index < self.directions else self.output_size * self.directions
            shapes = {"weight_ih": (rows, below), "weight_hh": (rows, self.output_size)}
            if bias:
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
            if proj_size:
                shapes["weight_hr"] = (proj_size, hidden_size)
            for name, shape in shapes.items():
                weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                self.register_parameter(self.key(name, index), weight)
        self.reset_parameters()

    @property
    def directions(self) -> int:
        """1, or 2 for both."""
        return 2 if self.bidirectional else 1

    def key(self, name: str, index: int) -> str:
        """The name in the state dict of a walk's weight: layer by layer, in each forwards first.

        Args:
            name: as in "weight_ih".
            index: which of the num_layers x directions walks.
        """
        layer, backwards = divmod(index, self.directions)
        return f"{name}_l{layer}" + ("_reverse" if backwards else "")

    def reset_parameters(self) -> None:
        """Draw the weights anew, uniform between plus and minus 1 / sqrt(hidden_size), as torch does."""
        _draw(self.parameters(), self.hidden_size)

    def walk(
        self,
        input: Float[Tensor, "t b c"],
        state: tuple[Float[Tensor, "b _"], ...],
        weights: tuple[Float[Tensor, "..."] | None, ...],
    ) -> tuple[Float[Tensor, "t b _"], ...]:
        """The tensors of the state after every frame, of one layer in one direction.

        Args:
            input: t b c, in the order in which it is read.
            state: before the first frame, each b d.
            weights: weight_ih, weight_hh, bias_ih, bias_hh, weight_hr; None where there is none.
        """
        raise NotImplementedError

    def stack(
        self,
        input: Float[Tensor, "t b c"],
        state: tuple[Float[Tensor, "walks b _"], ...],
        lengths: Int[Tensor, " b"] | None,
    ) -> tuple[Float[Tensor, "t b _"], tuple[Float[Tensor, "walks b _"], ...]]:
        """All walks, each layer over what the one below it shows: the output, and the states that remain.

        Args:
            input: t b c.
            state: its tensors, each (num_layers directions) b d.
            lengths: frames of each clip; None = t.
        """
        ends = []
        for layer in range(self.num_layers):
            outputs = []
            for index in range(layer * self.directions, (layer + 1) * self.directions):
                backwards = index % self.directions == 1
                start = tuple(part[index] for part in state)
                names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
                weights = (getattr(self, self.key(name, index), None) for name in names)
                frames, *rest = _as_autocast(input, *start, *weights)
                start, weights = tuple(rest[: self.states]), tuple(rest[self.states :])
                walked = self.walk(reverse(frames, lengths) if backwards else frames, start, weights)
                ends.append(tuple(last(*pair, lengths) for pair in zip(walked, start, strict=True)))
                outputs.append(reverse(walked[0], lengths) if backwards else walked[0])
            input = padding_as_zero(torch.cat(outputs, -1) if self.bidirectional else outputs[0], lengths)
            if layer + 1 < self.num_layers:
                input = F.dropout(input, self.dropout, self.training)
        return input, tuple(torch.stack(part) for part in zip(*ends, strict=True))

    def run(
        self,
        input: Float[Tensor, "..."],
        state: tuple[Float[Tensor, "..."], ...] | None,
        lengths: Int[Tensor, "..."] | Sequence[int] | None,
    ) -> tuple[Float[Tensor, "..."], tuple[Float[Tensor, "..."], ...]]:
        """`stack`, for a clip alone too and for both orders of the axes: what `forward` of a subclass returns.

        Args:
            input, state, lengths: as in `LSTM.forward`; the state as a tuple, of however many tensors.
        """
        if not isinstance(input, Tensor):
            raise TypeError(
                f"input is a {type(input).__name__}, expected a tensor; of packed sequences give the padded tensor and "
                "lengths=, as torch.nn.utils.rnn.pad_packed_sequence returns them"
            )
        if input.ndim not in (2, 3) or input.shape[-1] != self.input_size:
            order = "b t c" if self.batch_first else "t b c"
            raise ShapeError(
                f"input: shape {tuple(input.shape)}, expected {order} or t c, with c={self.input_size} (input_size)"
            )
        alone = input.ndim == 2
        time_first = input[:, None] if alone else input.transpose(0, 1) if self.batch_first else input
        t, b, _ = time_first.shape
        if t == 0:
            raise ShapeError(f"input: shape {tuple(input.shape)} has t=0, expected at least one frame")
        walks = self.num_layers * self.directions
        shapes = [(walks, *(() if alone else (b,)), d) for d in (self.output_size, self.hidden_size)[: self.states]]
        if state is None:
            state = tuple(input.new_zeros(shape) for shape in shapes)
        _check_state(state, shapes, "(num_layers x directions) b d, or without b for a clip alone")
        if alone:
            state = tuple(part[:, None] for part in state)
        if lengths is not None:
            lengths = _checked_lengths(lengths, t, b, input.device)
        output, ends = self.stack(padding_as_zero(time_first, lengths), state, lengths)
        if alone:
            return output[:, 0], tuple(part[:, 0] for part in ends)
        return output.transpose(0, 1) if self.batch_first else output, ends

    def extra_repr(self) -> str:
        """The numbers of the constructor, those left at their defaults not named."""
        words = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        for name, default in (defaults | {"proj_size": 0}).items():
            if getattr(self, name) != default:
                words.append(f"{name}={getattr(self, name)}")
        return ", ".join(words)


class RNN(Recurrent):
    """A plain recurrent layer, whose state is squashed at every step; the twin of torch.nn.RNN.

    The same arguments in the same order, the same names in the state dict and, from the same seed, the same first
    numbers. Sequences of different length come padded, with their lengths, instead of packed.

    Args:
        input_size: numbers c of a frame.
        hidden_size: numbers d of the state.
        num_layers: layers, each reading what the one below it shows.
        nonlinearity: "tanh" or "relu".
        bias: whether biases are learned and added.
        batch_first: the axes of input and output are b t c, not t b c.
        dropout: share of the numbers between layers that is set to zero in training.
        bidirectional: whether a second walk starts at the end; the output holds both, side by side.
        device, dtype: of the weights.

    Raises:
        ValueError: if a size is below 1, dropout is no share, or for another nonlinearity.

    Source: Elman 1990; both directions: Schuster and Paliwal 1997.
    """

    blocks = 1
    states = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: int | float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity is {nonlinearity!r}, expected 'tanh' or 'relu'")
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )
        self.nonlinearity = nonlinearity

    def walk(
        self,
        input: Float[Tensor, "t b c"],
        state: tuple[Float[Tensor, "b _"], ...],
        weights: tuple[Float[Tensor, "..."] | None, ...],
    ) -> tuple[Float[Tensor, "t b _"], ...]:
        """`recur` with `rnn_step`."""
        step = partial(rnn_step, nonlinearity=self.nonlinearity)
        return recur(lambda frame, state: (step(frame, *state, *weights[:4]),), input, state)

    def forward(
        self,
        input: Float[Tensor, "... c"],
        state: Float[Tensor, "walks *b d"] | None = None,
        *,
        lengths: Int[Tensor, " b"] | Sequence[int] | None = None,
    ) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """Walk over the frames.

        Args:
            input: clips, t b c, with batch_first b t c; or one clip, t c.
            state: h before the first frame, for each of the num_layers x directions walks; None = zeros.
            lengths: frames of each clip, from 0 to t; what stands behind them is not read. None = t.

        Returns:
            The output, h of the last layer after every frame (zeros behind a clip's end), d or, in both directions, 2 d
            wide; and h after each clip's last frame, of every walk.

        Raises:
            ShapeError: if input, state or lengths have other sizes.
        """
        output, ends = self.run(input, None if state is None else (state,), lengths)
        return output, ends[0]

    def extra_repr(self) -> str:
        """The numbers of the constructor."""
        words = super().extra_repr()
        return words if self.nonlinearity == "tanh" else f"{words}, nonlinearity={self.nonlinearity!r}"


class LSTM(Recurrent):
    """A recurrent layer with a memory behind gates (long short-term memory); the twin of torch.nn.LSTM.

    The same arguments in the same order, the same names in the state dict and, from the same seed, the same first
    numbers. Sequences of different length come padded, with their lengths, instead of packed.

    Args:
        input_size: numbers c of a frame.
        hidden_size: numbers d of the memory.
        num_layers: layers, each reading what the one below it shows.
        bias: whether biases are learned and added.
        batch_first: the axes of input and output are b t c, not t b c.
        dropout: share of the numbers between layers that is set to zero in training.
        bidirectional: whether a second walk starts at the end; the output holds both, side by side.
        proj_size: numbers of h, if it is to be narrower than the memory; 0 = d.
        device, dtype: of the weights.
        kernel: "fast" walks by `fast_lstm`, "plain" by `recur` with `lstm_step`: the same numbers, slower, and its
            gradient has a gradient.

    Raises:
        ValueError: if a size is below 1, dropout is no share, proj_size is not below hidden_size, or for an unknown
            kernel.

    Source: as for `lstm_step`; both directions: Graves and Schmidhuber 2005.
    """

    blocks = 4
    states = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: int | float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        kernel: str = "fast",
    ):
        if kernel not in ("fast", "plain"):
            raise ValueError(f"kernel is {kernel!r}, expected 'fast' or 'plain'")
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        )
        self.kernel = kernel

    def walk(
        self,
        input: Float[Tensor, "t b c"],
        state: tuple[Float[Tensor, "b _"], ...],
        weights: tuple[Float[Tensor, "..."] | None, ...],
    ) -> tuple[Float[Tensor, "t b _"], ...]:
        """`fast_lstm`, or `recur` with `lstm_step`."""
        if self.kernel == "fast":
            return fast_lstm(input, state, *weights)
        return recur(lambda frame, state: lstm_step(frame, state, *weights), input, state)

    def forward(
        self,
        input: Float[Tensor, "... c"],
        state: tuple[Float[Tensor, "walks *b d_out"], Float[Tensor, "walks *b d"]] | None = None,
        *,
        lengths: Int[Tensor, " b"] | Sequence[int] | None = None,
    ) -> tuple[Float[Tensor, "..."], tuple[Float[Tensor, "..."], Float[Tensor, "..."]]]:
        """Walk over the frames.

        Args:
            input: clips, t b c, with batch_first b t c; or one clip, t c.
            state: (h, c) before the first frame, for each of the num_layers x directions walks; None = zeros.
            lengths: frames of each clip, from 0 to t; what stands behind them is not read. None = t.

        Returns:
            The output, h of the last layer after every frame (zeros behind a clip's end), in both directions twice as
            wide; and (h, c) after each clip's last frame, of every walk. A walk backwards ends at the first frame.

        Raises:
            ShapeError: if input, state or lengths have other sizes.
        """
        return self.run(input, state, lengths)

    def extra_repr(self) -> str:
        """The numbers of the constructor."""
        words = super().extra_repr()
        return words if self.kernel == "fast" else f"{words}, kernel={self.kernel!r}"


def _as_autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in the dtype of autocast where that is on: all of one step's, so that none widens another."""
    kind = tensors[0].device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):  # "meta" has none
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    # As torch does for its own products: double precision was asked for on purpose.
    return tuple(x if x is None or x.dtype == torch.float64 else x.to(dtype) for x in tensors)


def _draw(weights, hidden_size: int) -> None:
    for weight in weights:
        nn.init.uniform_(weight, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}, expected at least 1")


def _check_state(state: tuple[Tensor, ...], shapes: Sequence[tuple[int, ...]], axes: str) -> None:
    came = [tuple(part.shape) for part in state]
    if came != list(shapes):
        raise ShapeError(
            f"state: shapes {', '.join(map(str, came))}, expected {', '.join(map(str, shapes))}: {axes}; "
            "None starts with zeros"
        )


def _checked_lengths(lengths: Tensor | Sequence[int], t: int, b: int, device: torch.device) -> Tensor:
    lengths = torch.as_tensor(lengths, device=device)
    if lengths.shape != (b,):
        raise ShapeError(f"lengths: shape {tuple(lengths.shape)}, expected ({b},), the frames of each of b={b} clips")
    if not torch.compiler.is_compiling():  # a compiled program does not branch on numbers
        values = torch.func.debug_unwrap(lengths)  # under vmap: the lengths of all entries
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) <= t:
            raise ShapeError(f"lengths: from {int(values.min())} to {int(values.max())}, expected from 0 to t={t}")
    return lengths
