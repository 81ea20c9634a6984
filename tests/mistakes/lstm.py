"""Classic wrong answers about recurrent layers, each with three hints of increasing directness."""

from collections.abc import Callable, Iterator

import torch
from strategies import normal
from torch import Tensor, nn

from minivid.classroom.museum import Mistake, Probe
from minivid.layers import lstm as library
from minivid.layers.lstm import LSTM, RNN, LSTMCell, lstm_step, recur, rnn_step

# ---- rnn_step


def rnn_hidden_bias_forgotten(input, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, nonlinearity="tanh"):
    return rnn_step(input, state, weight_ih, weight_hh, bias_ih, None, nonlinearity=nonlinearity)


def rnn_without_squashing(input, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, nonlinearity="tanh"):
    biases = sum(bias for bias in (bias_ih, bias_hh) if bias is not None)
    return input @ weight_ih.mT + state @ weight_hh.mT + biases


def rnn_always_tanh(input, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, nonlinearity="tanh"):
    return rnn_step(input, state, weight_ih, weight_hh, bias_ih, bias_hh)


def rnn_sigmoid(input, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, nonlinearity="tanh"):
    total = rnn_without_squashing(input, state, weight_ih, weight_hh, bias_ih, bias_hh)
    return total.sigmoid() if nonlinearity == "tanh" else total.relu()


def rnn_state_ignored(input, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, nonlinearity="tanh"):
    return rnn_step(input, 0 * state, weight_ih, weight_hh, bias_ih, bias_hh, nonlinearity=nonlinearity)


def rnn_each_part_squashed(input, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, nonlinearity="tanh"):
    squash = torch.tanh if nonlinearity == "tanh" else torch.relu
    bias_ih, bias_hh = (0.0 if bias is None else bias for bias in (bias_ih, bias_hh))
    return squash(input @ weight_ih.mT + bias_ih) + squash(state @ weight_hh.mT + bias_hh)


def rnn_added_to_the_state(input, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, nonlinearity="tanh"):
    return state + rnn_step(input, state, weight_ih, weight_hh, bias_ih, bias_hh, nonlinearity=nonlinearity)


def rnn_biases_on_the_outside(input, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, nonlinearity="tanh"):
    biases = sum(bias for bias in (bias_ih, bias_hh) if bias is not None)
    return rnn_step(input, state, weight_ih, weight_hh, nonlinearity=nonlinearity) + biases


RNN_STEP = [
    (
        rnn_hidden_bias_forgotten,
        (
            "Set both weights to 0. Which number should come out, which one does?",
            "One of the two biases is missing.",
            "tanh(W_ih x + b_ih + W_hh h + b_hh): both b_ih and b_hh are added.",
        ),
    ),
    (
        rnn_without_squashing,
        (
            "Can a state of this step be larger than 1?",
            "Nothing squashes the sum.",
            "Take torch.tanh of the whole sum, or clamp(min=0) for relu.",
        ),
    ),
    (
        rnn_always_tanh,
        (
            'Is every argument used? Try nonlinearity="relu".',
            "tanh is taken, whatever nonlinearity says.",
            'total.tanh() if nonlinearity == "tanh" else total.clamp(min=0)',
        ),
    ),
    (
        rnn_sigmoid,
        (
            "Which values can the state have: from 0 to 1, or from -1 to 1?",
            "The sum is squashed by the sigmoid.",
            "Take tanh: it goes from -1 to 1, and 0 stays 0.",
        ),
    ),
    (
        rnn_state_ignored,
        (
            "Call it twice with another state. Does the result change?",
            "Nothing is remembered: the state is not read.",
            "Add state @ weight_hh.mT to the sum.",
        ),
    ),
    (
        rnn_each_part_squashed,
        (
            "Can the new state be 2?",
            "The two parts are squashed one by one; they are added first.",
            "One tanh around everything: tanh(W_ih x + b_ih + W_hh h + b_hh).",
        ),
    ),
    (
        rnn_added_to_the_state,
        (
            "With all weights 0, what is left of the state?",
            "The old state is added to the new one. That is a residual connection, and not this step.",
            "Return tanh(...) alone.",
        ),
    ),
    (
        rnn_biases_on_the_outside,
        (
            "Set both weights to 0. Which number should come out, which one does?",
            "The biases are added after the squashing.",
            "The biases stand inside: tanh(W_ih x + b_ih + W_hh h + b_hh).",
        ),
    ),
]


# ---- lstm_step: each takes what lstm_step takes


def sums(input, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, weight_hr=None) -> tuple[Tensor, ...]:
    """The four sums i, f, g, o and the memory."""
    total = input @ weight_ih.mT + state[0] @ weight_hh.mT
    for bias in (bias_ih, bias_hh):
        total = total if bias is None else total + bias
    return *total.chunk(4, -1), state[1]


def shown(h: Tensor, c: Tensor, weight_hr: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return (h if weight_hr is None else h @ weight_hr.mT), c


def from_sums(new: Callable) -> Callable:
    """A step from a function of the four sums and the memory."""

    def step(input, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, weight_hr=None):
        return shown(*new(*sums(input, state, weight_ih, weight_hh, bias_ih, bias_hh)), weight_hr)

    step.__name__ = new.__name__
    return step


def right(i, f, g, o, c):
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


@from_sums
def gates_i_f_o_g(i, f, g, o, c):
    return right(i, f, o, g, c)


@from_sums
def gates_i_g_f_o(i, f, g, o, c):
    return right(i, g, f, o, c)


@from_sums
def gates_f_i_g_o(i, f, g, o, c):
    return right(f, i, g, o, c)


@from_sums
def gates_o_f_g_i(i, f, g, o, c):
    return right(o, f, g, i, c)


@from_sums
def gates_interleaved(i, f, g, o, c):
    return right(*torch.cat([i, f, g, o], -1).unflatten(-1, (-1, 4)).unbind(-1), c)


@from_sums
def memory_written_over(i, f, g, o, c):
    c.mul_(f.sigmoid()).add_(i.sigmoid() * g.tanh())
    return o.sigmoid() * c.tanh(), c


@from_sums
def forget_gate_opened_by_one(i, f, g, o, c):
    return right(i, f + 1, g, o, c)


@from_sums
def tanh_forgotten_on_the_output(i, f, g, o, c):
    h, c = right(i, f, g, o, c)
    return o.sigmoid() * c, c


@from_sums
def sigmoid_for_the_candidate(i, f, g, o, c):
    c = f.sigmoid() * c + i.sigmoid() * g.sigmoid()
    return o.sigmoid() * c.tanh(), c


@from_sums
def candidate_not_squashed(i, f, g, o, c):
    c = f.sigmoid() * c + i.sigmoid() * g
    return o.sigmoid() * c.tanh(), c


@from_sums
def gates_by_tanh(i, f, g, o, c):
    c = f.tanh() * c + i.tanh() * g.tanh()
    return o.tanh() * c.tanh(), c


@from_sums
def gates_not_squashed(i, f, g, o, c):
    c = f * c + i * g.tanh()
    return o * c.tanh(), c


@from_sums
def one_gate_for_both(i, f, g, o, c):
    return right(-f, f, g, o, c)  # sigmoid(-f) = 1 - sigmoid(f)


@from_sums
def nothing_is_forgotten(i, f, g, o, c):
    c = c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


@from_sums
def shows_the_old_memory(i, f, g, o, c):
    _, new = right(i, f, g, o, c)
    return o.sigmoid() * c.tanh(), new


@from_sums
def memory_kept_squashed(i, f, g, o, c):
    h, c = right(i, f, g, o, c)
    return h, c.tanh()


@from_sums
def memory_first(i, f, g, o, c):
    return right(i, f, g, o, c)[::-1]


def forget_bias_doubled(input, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, weight_hr=None):
    i, f, g, o, c = sums(input, state, weight_ih, weight_hh, bias_ih, bias_hh)
    for bias in (bias_ih, bias_hh):
        f = f if bias is None else f + bias.chunk(4)[1]
    return shown(*right(i, f, g, o, c), weight_hr)


def hidden_bias_forgotten(input, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, weight_hr=None):
    return lstm_step(input, state, weight_ih, weight_hh, bias_ih, None, weight_hr)


def h_ignored(input, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, weight_hr=None):
    return lstm_step(input, (0 * state[0], state[1]), weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)


def state_swapped(input, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, weight_hr=None):
    return lstm_step(input, (state[1], state[0]), weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)


def memory_ignored(input, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, weight_hr=None):
    return lstm_step(input, (state[0], 0 * state[1]), weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)


def last_matrix_ignored(input, state, weight_ih, weight_hh, bias_ih=None, bias_hh=None, weight_hr=None):
    return lstm_step(input, state, weight_ih, weight_hh, bias_ih, bias_hh)


ORDER = "The four blocks of d rows are, in torch's order: input gate i, forget gate f, candidate g, output gate o."
STEP = [
    (
        gates_i_f_o_g,
        (
            "All weights 0, all biases 0: right. Now open one gate by its bias. Which block of rows is it?",
            "Your third and fourth blocks are swapped: the candidate comes before the output gate.",
            f"{ORDER} i, f, g, o = gates.chunk(4, dim=-1)",
        ),
    ),
    (
        gates_i_g_f_o,
        (
            "Open the forget gate and close the input gate by their biases. Is the memory carried on?",
            "Your second and third blocks are swapped: the forget gate comes before the candidate.",
            f"{ORDER} i, f, g, o = gates.chunk(4, dim=-1)",
        ),
    ),
    (
        gates_f_i_g_o,
        (
            "Open the forget gate and close the input gate by their biases. Is the memory carried on?",
            "Your first and second blocks are swapped: the input gate comes before the forget gate.",
            f"{ORDER} i, f, g, o = gates.chunk(4, dim=-1)",
        ),
    ),
    (
        gates_o_f_g_i,
        (
            "Close the input gate by its bias. Does anything still get into the memory?",
            "Your first and last blocks are swapped: the input gate is the first.",
            f"{ORDER} i, f, g, o = gates.chunk(4, dim=-1)",
        ),
    ),
    (
        gates_interleaved,
        (
            "With d = 2: which rows of weight_ih belong to the input gate?",
            "You take every fourth row for a gate; a gate has d rows next to each other.",
            f"{ORDER} i, f, g, o = gates.chunk(4, dim=-1)",
        ),
    ),
    (
        memory_written_over,
        (
            "Call it twice with the same state. Does the same come out?",
            "The memory that was given is overwritten: whoever handed it over has lost it.",
            "c = sigmoid(f) * c + sigmoid(i) * tanh(g), and not c.mul_(...) or c += ...",
        ),
    ),
    (
        forget_gate_opened_by_one,
        (
            "With all weights and biases 0, how much of the memory is left?",
            "1 is added to the forget gate. It belongs into the bias, when the weights are first drawn, if anywhere.",
            "sigmoid(f), not sigmoid(f + 1).",
        ),
    ),
    (
        tanh_forgotten_on_the_output,
        (
            "Fill the memory with 40. How large is h?",
            "The memory is shown as it is; it is squashed first.",
            "h = sigmoid(o) * tanh(c)",
        ),
    ),
    (
        sigmoid_for_the_candidate,
        (
            "With all weights and biases 0, the candidate is 0. What do you take in?",
            "The candidate goes through the sigmoid, so that nothing can ever be taken off the memory.",
            "The three gates take the sigmoid, the candidate takes tanh(g).",
        ),
    ),
    (
        candidate_not_squashed,
        (
            "Open the input gate and close the forget gate. Is the new memory between -1 and 1?",
            "The candidate is taken in as it is.",
            "c = sigmoid(f) * c + sigmoid(i) * tanh(g)",
        ),
    ),
    (
        gates_by_tanh,
        (
            "With all weights and biases 0, how much of the memory is left?",
            "The gates go through tanh: a gate is between 0 and 1.",
            "sigmoid for i, f and o; tanh for g alone.",
        ),
    ),
    (
        gates_not_squashed,
        (
            "With all weights and biases 0, how much of the memory is left?",
            "The gates are not squashed: a gate is between 0 and 1.",
            "sigmoid for i, f and o; tanh for g.",
        ),
    ),
    (
        one_gate_for_both,
        (
            "Close the forget gate and the input gate at once, by their biases. What is left of the memory?",
            "What is forgotten is what is taken in: one gate for both. That is a variant; here each has its own.",
            "c = sigmoid(f) * c + sigmoid(i) * tanh(g)",
        ),
    ),
    (
        nothing_is_forgotten,
        (
            "With all weights and biases 0, how much of the memory is left?",
            "The forget gate is not used: the first LSTM had none.",
            "c = sigmoid(f) * c + sigmoid(i) * tanh(g)",
        ),
    ),
    (
        shows_the_old_memory,
        (
            "What does h show of a memory that was 0 before this frame?",
            "h is made from the memory before the frame; it is made from the one after.",
            "First the new c, then h = sigmoid(o) * tanh(c).",
        ),
    ),
    (
        memory_kept_squashed,
        (
            "Open the forget gate and fill the memory with 3. What is in it after the frame?",
            "The memory itself is squashed: what it holds shrinks at every step.",
            "tanh(c) is for h alone; c goes on as it is.",
        ),
    ),
    (
        memory_first,
        (
            "Two tensors come back. Which comes first?",
            "The memory stands where h should.",
            "return h, c",
        ),
    ),
    (
        forget_bias_doubled,
        (
            "With weights and biases of one sign: is the forget gate more open than the others?",
            "The biases of the forget gate are counted twice.",
            "Each of b_ih and b_hh is added once, to all four blocks.",
        ),
    ),
    (
        hidden_bias_forgotten,
        (
            "Set the weights to 0 and only b_hh to something else. Does anything change?",
            "b_hh is missing: torch keeps two biases, and adds both.",
            "gates = input @ weight_ih.mT + bias_ih + h @ weight_hh.mT + bias_hh",
        ),
    ),
    (
        h_ignored,
        (
            "Call it twice with another h. Does the result change?",
            "What was shown last is not read.",
            "Add h @ weight_hh.mT to the sums.",
        ),
    ),
    (
        state_swapped,
        (
            "Which of the two tensors of the state is multiplied by weight_hh?",
            "h and c are swapped where they come in.",
            "h, c = state",
        ),
    ),
    (
        memory_ignored,
        (
            "With all weights and biases 0, how much of the memory is left?",
            "The memory starts anew at every frame.",
            "c = sigmoid(f) * c + sigmoid(i) * tanh(g), with the c of the state.",
        ),
    ),
    (
        last_matrix_ignored,
        (
            "Is every argument used?",
            "weight_hr makes h narrower; it is not used.",
            "h = (sigmoid(o) * tanh(c)) @ weight_hr.mT, if there is a weight_hr.",
        ),
    ),
]


# ---- reverse, last, padding_as_zero


def everything_turned_round(x, lengths=None):
    return x.flip(0)


def nothing_turned_round(x, lengths=None):
    return x


def clips_turned_round(x, lengths=None):
    return x.flip(1)


def padding_moved_to_the_front(x, lengths=None):
    if lengths is None:
        return x.flip(0)
    return torch.stack([x[:, i].roll(int(n)) .flip(0) for i, n in enumerate(lengths)], 1)  # fmt: skip


def one_frame_off(x, lengths=None):
    t = len(x)
    lengths = torch.full((x.shape[1],), t) if lengths is None else lengths
    frame = torch.arange(t)[:, None]
    source = torch.where(frame < lengths, (lengths - frame).clamp(max=t - 1), frame)
    return x[source, torch.arange(x.shape[1])]


def padding_zeroed(x, lengths=None):
    return library.padding_as_zero(library.reverse(x, lengths), lengths)


REVERSE = [
    (
        everything_turned_round,
        (
            "Take a clip of 2 frames and 3 of padding. What does a walk from the end read first?",
            "All is turned round, the padding too: it comes first now.",
            "y[i] = x[length - 1 - i] while i < length; behind that y[i] = x[i].",
        ),
    ),
    (
        nothing_turned_round,
        (
            "Which frame comes first?",
            "Nothing is turned round.",
            "y[i] = x[length - 1 - i] while i < length; behind that y[i] = x[i].",
        ),
    ),
    (
        clips_turned_round,
        (
            "Give one clip alone. Which frame comes first?",
            "The clips change places; the frames should. Time is the first axis.",
            "Without lengths: x.flip(0).",
        ),
    ),
    (
        padding_moved_to_the_front,
        (
            "Take a clip of 2 frames and 3 of padding. Where does the padding stand afterwards?",
            "Frames and padding are rolled past each other; the padding stays where it is.",
            "y[i] = x[length - 1 - i] while i < length; behind that y[i] = x[i].",
        ),
    ),
    (
        one_frame_off,
        (
            "A clip of 3 frames has the frames 0, 1 and 2. Which is its last?",
            "One frame too far: a frame of padding comes in.",
            "length - 1 - i, not length - i.",
        ),
    ),
    (
        padding_zeroed,
        (
            "What stands behind the end of the clip, before and after?",
            "The padding is lost; it stays as it is.",
            "torch.where(frame < lengths, lengths - 1 - frame, frame) says where each frame comes from.",
        ),
    ),
]


def very_last_frame(states, start, lengths=None):
    return states[-1]


def state_one_too_far(states, start, lengths=None):
    if lengths is None:
        return states[-1]
    return states[lengths.clamp(max=len(states) - 1), torch.arange(states.shape[1])]


def state_of_empty_clips_from_the_end(states, start, lengths=None):
    if lengths is None:
        return states[-1]
    return states[lengths - 1, torch.arange(states.shape[1])]  # lengths of 0 ask for states[-1]


def same_length_for_all(states, start, lengths=None):
    return states[-1] if lengths is None else torch.cat([start[None], states])[lengths[0]]


LAST = [
    (
        very_last_frame,
        (
            "A clip has 2 frames and 3 of padding. After which step is its state wanted?",
            "The state after the padding is taken.",
            "states[length - 1, clip], and start[clip] where the length is 0.",
        ),
    ),
    (
        state_one_too_far,
        (
            "A clip of 1 frame: which of the states is its last?",
            "One step too far: the first frame of padding has been read.",
            "states[length - 1, clip], and start[clip] where the length is 0.",
        ),
    ),
    (
        state_of_empty_clips_from_the_end,
        (
            "What does a clip without frames end with?",
            "states[0 - 1] is the very last state. A clip without frames ends where it started.",
            "torch.cat([start[None], states])[lengths, torch.arange(b)]",
        ),
    ),
    (
        same_length_for_all,
        (
            "Give two clips of different length.",
            "The length of the first clip is taken for all.",
            "Index with both: [lengths, torch.arange(b)].",
        ),
    ),
]


def multiplied_by_a_mask(x, lengths=None):
    if lengths is None:
        return x
    return x * (torch.arange(len(x))[:, None] < lengths)[..., None]


def one_frame_of_padding_kept(x, lengths=None):
    return x if lengths is None else library.padding_as_zero(x, lengths + 1)


def padding_left(x, lengths=None):
    return x


def frames_zeroed(x, lengths=None):
    return x if lengths is None else torch.where((torch.arange(len(x))[:, None] < lengths)[..., None], 0.0, x)


PADDING = [
    (
        multiplied_by_a_mask,
        (
            "What is 0 times NaN?",
            "A product with 0 leaves NaN and infinity as NaN.",
            "torch.where(mask, x, 0.0) looks at one side only.",
        ),
    ),
    (
        one_frame_of_padding_kept,
        (
            "A clip of 3 frames has the frames 0, 1 and 2. Is frame 3 padding?",
            "The first frame of padding is kept.",
            "frame < lengths, not frame <= lengths.",
        ),
    ),
    (
        padding_left,
        (
            "What stands behind the end of a clip?",
            "Nothing is changed.",
            "torch.where((frame < lengths)[..., None], x, 0.0), with frame = torch.arange(t)[:, None].",
        ),
    ),
    (
        frames_zeroed,
        (
            "Which of the numbers are zero now?",
            "The mask is the wrong way round: the clip is gone, the padding is left.",
            "torch.where(frame < lengths, x, 0.0)",
        ),
    ),
]


# ---- LSTMCell


def cell_with(step: Callable) -> type[LSTMCell]:
    """A cell that takes another step."""

    class Cell(LSTMCell):
        def forward(self, input, state=None):
            state = (input.new_zeros(*input.shape[:-1], self.hidden_size),) * 2 if state is None else state
            return step(input, state, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)

    Cell.__name__ = f"cell_{step.__name__}"
    return Cell


class CellWithoutAState(LSTMCell):
    def forward(self, input, state=None):
        return super().forward(input)


class CellStartingAtOne(LSTMCell):
    def forward(self, input, state=None):
        return super().forward(input, (input.new_ones(len(input), self.hidden_size),) * 2 if state is None else state)


class CellWithOneMemoryForAll(LSTMCell):
    def forward(self, input, state=None):
        h, c = super().forward(input, state)
        return h, c.mean(0, keepdim=True).expand_as(c)


class CellThatShowsAlone(LSTMCell):
    def forward(self, input, state=None):
        return super().forward(input, state)[0]


BY_STEP = {row[0].__name__: row for row in STEP}
CELL = [
    *(
        (cell_with(BY_STEP[name][0]), BY_STEP[name][1])
        for name in (
            *("gates_i_f_o_g", "gates_f_i_g_o", "forget_gate_opened_by_one", "tanh_forgotten_on_the_output"),
            *("sigmoid_for_the_candidate", "hidden_bias_forgotten", "h_ignored", "memory_ignored", "memory_first"),
        )
    ),
    (
        CellWithoutAState,
        (
            "Call it twice with another state. Does the result change?",
            "The state is an argument that no line uses: every frame is the first.",
            "h, c = state, and zeros only if state is None.",
        ),
    ),
    (
        CellStartingAtOne,
        (
            "What is remembered before the first frame?",
            "Without a state the cell starts from ones.",
            "Zeros of b x hidden_size, for h and for c.",
        ),
    ),
    (
        CellWithOneMemoryForAll,
        (
            "Give two clips at once, then each alone. Do they agree?",
            "The memory is averaged over the batch: the clips read each other.",
            "Every row of c belongs to one clip; no sum may run over the axis b.",
        ),
    ),
    (
        CellThatShowsAlone,
        (
            "How many tensors does the next call need?",
            "Only h comes back; the memory is lost.",
            "return h, c",
        ),
    ),
]


# ---- RNN


class RNNInOtherOrder(RNN):
    """batch_first where it is not asked for."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.batch_first = not self.batch_first


class RNNWithoutLengths(RNN):
    def forward(self, input, state=None, *, lengths=None):
        return super().forward(input, state)


class RNNWithoutAState(RNN):
    def forward(self, input, state=None, *, lengths=None):
        return super().forward(input, lengths=lengths)


class RNNAlwaysTanh(RNN):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.nonlinearity = "tanh"


class RNNShowingItsLastState(RNN):
    def forward(self, input, state=None, *, lengths=None):
        output, end = super().forward(input, state, lengths=lengths)
        return output[-1:], end


class RNNWithoutTheHiddenBias(RNN):
    def walk(self, input, state, weights):
        return super().walk(input, state, (*weights[:3], None, None))


class RNNThatForgetsBetweenFrames(RNN):
    def walk(self, input, state, weights):
        return (torch.cat([super(RNNThatForgetsBetweenFrames, self).walk(x[None], state, weights)[0] for x in input]),)


class RNNEndingAtItsOutput(RNN):
    """The last state of each clip is taken from the last frame of the padded output."""

    def forward(self, input, state=None, *, lengths=None):
        output, end = super().forward(input, state, lengths=lengths)
        return output, end if lengths is None else super().forward(input, state)[1]


RECURRENT_HINTS = {
    "lengths": (
        "Put another number behind the end of a short clip. Does anything change?",
        "The padding is counted as data.",
        "Zeros in the output behind each clip's end, the state of its own last frame, and a walk backwards that begins "
        "at its own end.",
    ),
    "state": (
        "Call it twice with another state. Does the output change?",
        "The state is not carried: every walk starts with zeros.",
        "Start from the state that is given, and from zeros only if it is None.",
    ),
    "ends": (
        "A short clip and its padding: after which frame is its state wanted?",
        "The state comes from the last frame of the padded clip, not from the clip's own last one.",
        "Take the state after frame length - 1 of each clip; see `last`.",
    ),
    "order": (
        "Give 2 clips of 3 frames. Along which axis does the walk go?",
        "Batch and time are swapped: torch's default is t b c.",
        "Only with batch_first is the input b t c; then turn the first two axes before and after.",
    ),
    "bias": (
        "Are all the biases of the state dict used?",
        "bias_hh is missing.",
        "W_ih x + b_ih + W_hh h + b_hh",
    ),
}

RNN_LAYER = [
    (RNNInOtherOrder, RECURRENT_HINTS["order"]),
    (RNNWithoutLengths, RECURRENT_HINTS["lengths"]),
    (RNNWithoutAState, RECURRENT_HINTS["state"]),
    (RNNWithoutTheHiddenBias, RECURRENT_HINTS["bias"]),
    (RNNEndingAtItsOutput, RECURRENT_HINTS["ends"]),
    (
        RNNAlwaysTanh,
        (
            'Is every argument used? Try nonlinearity="relu".',
            "tanh is taken, whatever nonlinearity says.",
            "Hand the nonlinearity on to every step.",
        ),
    ),
    (
        RNNShowingItsLastState,
        (
            "How many frames does the output have?",
            "Only the last state comes back; the output holds the one after every frame.",
            "Collect the states in a list and return torch.stack(states).",
        ),
    ),
    (
        RNNThatForgetsBetweenFrames,
        (
            "Give two equal frames. Is the second output equal to the first?",
            "Every frame is read with the first state.",
            "In the loop: state = step(frame, state).",
        ),
    ),
]


# ---- LSTM


class PlainLSTM(LSTM):
    """Without the fast walk, whose operators take a second to start: an answer is told what is wrong sooner."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options, kernel="plain")


class LSTMWith(PlainLSTM):
    """A layer that walks by another step."""

    step: Callable

    def walk(self, input, state, weights):
        step = type(self).step
        return recur(lambda frame, state: step(frame, state, *weights), input, state)


def layer_with(step: Callable) -> type[LSTM]:
    return type(f"layer_{step.__name__}", (LSTMWith,), {"step": staticmethod(step)})


class InOtherOrder(PlainLSTM):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.batch_first = not self.batch_first


class BatchFirstIgnored(PlainLSTM):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.batch_first = False


class WithoutLengths(PlainLSTM):
    def forward(self, input, state=None, *, lengths=None):
        return super().forward(input, state)


class WithoutAState(PlainLSTM):
    def forward(self, input, state=None, *, lengths=None):
        return super().forward(input, lengths=lengths)


class WithoutAMemory(PlainLSTM):
    """h is carried from piece to piece, c is not."""

    def forward(self, input, state=None, *, lengths=None):
        state = None if state is None else (state[0], torch.zeros_like(state[1]))
        return super().forward(input, state, lengths=lengths)


class EndsSwapped(PlainLSTM):
    def forward(self, input, state=None, *, lengths=None):
        output, ends = super().forward(input, state, lengths=lengths)
        return output, ends[::-1]


class EndOfTheLastLayerAlone(PlainLSTM):
    def forward(self, input, state=None, *, lengths=None):
        output, ends = super().forward(input, state, lengths=lengths)
        return output, tuple(x[-self.directions :] for x in ends)


class EndingAtItsOutput(PlainLSTM):
    """The states that remain are those after the last frame of the padded clip."""

    def forward(self, input, state=None, *, lengths=None):
        output, ends = super().forward(input, state, lengths=lengths)
        return output, ends if lengths is None else super().forward(input, state)[1]


class PaddingShown(PlainLSTM):
    """What is computed behind a clip's end is left in the output."""

    def forward(self, input, state=None, *, lengths=None):
        output, ends = super().forward(input, state, lengths=lengths)
        if lengths is None:
            return output, ends
        frame = torch.arange(len(output))[:, None]
        return torch.where((frame < lengths)[..., None], output, super().forward(input, state)[0]), ends


class LayerByLayer(PlainLSTM):
    """A layer of which each single one can be had."""

    def of(self, layer, state):
        return tuple(x[layer * self.directions : (layer + 1) * self.directions] for x in state)

    def alone(self, layer):
        width = self.hidden_size * self.directions if layer else self.input_size
        one = PlainLSTM(width, self.hidden_size, 1, self.bias, False, 0.0, self.bidirectional)
        one.load_state_dict({
            key.replace(f"_l{layer}", "_l0"): value for key, value in self.state_dict().items() if f"_l{layer}" in key
        })  # fmt: skip
        return one


class LayersFedWithTheInput(LayerByLayer):
    """Where the sizes allow it, every layer reads the clip instead of the layer below."""

    def stack(self, input, state, lengths):
        output, ends = super().stack(input, state, lengths)
        if self.num_layers == 1 or self.input_size != self.hidden_size * self.directions:
            return output, ends
        parts = [self.alone(layer).stack(input, self.of(layer, state), lengths) for layer in range(self.num_layers)]
        return parts[-1][0], tuple(torch.cat(part) for part in zip(*(part[1] for part in parts), strict=True))


class WalkingOnOverZeros(LayerByLayer):
    """Padding is zeroed before and after every layer, but the walks go on over it."""

    def stack(self, input, state, lengths):
        ends = []
        for layer in range(self.num_layers):
            output, end = self.alone(layer).stack(input, self.of(layer, state), None)
            input = library.padding_as_zero(output, lengths)
            ends.append(end)
        return input, tuple(torch.cat(part) for part in zip(*ends, strict=True))


class LayersSharingAState(PlainLSTM):
    """Every walk starts where the one before it ended."""

    def stack(self, input, state, lengths):
        self.lengths, self.end = lengths, None
        return super().stack(input, state, lengths)

    def walk(self, input, state, weights):
        state = state if self.end is None else self.end
        walked = super().walk(input, state, weights)
        self.end = tuple(library.last(*pair, self.lengths) for pair in zip(walked, state, strict=True))
        return walked


class MemoryShown(PlainLSTM):
    """The output holds c after every frame, and so does what the next layer reads."""

    def stack(self, input, state, lengths):
        self.ends = []
        output, (_, c) = super().stack(input, state, lengths)
        return output, (torch.stack([library.last(*end, lengths) for end in self.ends]), c)

    def walk(self, input, state, weights):
        h, c = super().walk(input, state, weights)
        self.ends.append((h, state[0]))
        return c, c


class ThreeResults(PlainLSTM):
    def forward(self, input, state=None, *, lengths=None):
        output, ends = super().forward(input, state, lengths=lengths)
        return output, *ends


class StatesBatchFirst(PlainLSTM):
    """With batch_first the states have the clips in front too."""

    def forward(self, input, state=None, *, lengths=None):
        output, ends = super().forward(input, state, lengths=lengths)
        turned = self.batch_first and input.ndim == 3
        return output, tuple(x.transpose(0, 1) for x in ends) if turned else ends


class Both(PlainLSTM):
    """A layer that does something with the second half of what both directions give."""

    def of(self, forwards, backwards, lengths):
        raise NotImplementedError

    def forward(self, input, state=None, *, lengths=None):
        output, ends = super().forward(input, state, lengths=lengths)
        if not self.bidirectional:
            return output, ends
        time = -2 if self.batch_first or input.ndim == 2 else 0
        output = output if time == 0 else output.movedim(time, 0)
        output = self.of(*output.chunk(2, -1), lengths if output.ndim == 3 else None)
        return output if time == 0 else output.movedim(0, time), ends


class NotFlippedBack(Both):
    def of(self, forwards, backwards, lengths):
        if backwards.ndim == 2:
            return torch.cat([forwards, backwards.flip(0)], -1)
        return torch.cat([forwards, library.reverse(backwards, lengths)], -1)


class HalvesSwapped(Both):
    def of(self, forwards, backwards, lengths):
        return torch.cat([backwards, forwards], -1)


class HalvesAdded(Both):
    def of(self, forwards, backwards, lengths):
        return forwards + backwards


class ForwardsTwice(Both):
    def of(self, forwards, backwards, lengths):
        return torch.cat([forwards, forwards], -1)


class BackwardsFromTheVeryEnd(PlainLSTM):
    """The walk backwards begins at the end of the padding."""

    def stack(self, input, state, lengths):
        output, ends = super().stack(input, state, lengths)
        if lengths is None or not self.bidirectional:
            return output, ends
        whole, others = super().stack(input, state, None)
        output = torch.cat([output.chunk(2, -1)[0], whole.chunk(2, -1)[1]], -1)
        index = torch.arange(len(ends[0])) % 2 == 1
        ends = tuple(torch.where(index[:, None, None], y, x) for x, y in zip(ends, others, strict=True))
        return library.padding_as_zero(output, lengths), ends


class BackwardsEndingAtTheLastFrame(PlainLSTM):
    """h of the walk backwards is read off the last frame of the output; it ends at the first."""

    def stack(self, input, state, lengths):
        output, (h, c) = super().stack(input, state, lengths)
        if not self.bidirectional:
            return output, (h, c)
        h = h.clone()
        h[-1] = library.last(output, torch.zeros_like(output[0]), lengths)[..., self.hidden_size :]
        return output, (h, c)


LSTM_LAYER = [
    *(
        (layer_with(BY_STEP[name][0]), BY_STEP[name][1])
        for name in (
            *("gates_i_f_o_g", "gates_i_g_f_o", "gates_f_i_g_o", "forget_gate_opened_by_one", "forget_bias_doubled"),
            *("tanh_forgotten_on_the_output", "sigmoid_for_the_candidate", "hidden_bias_forgotten", "h_ignored"),
            *("memory_ignored", "nothing_is_forgotten"),
        )
    ),
    (InOtherOrder, RECURRENT_HINTS["order"]),
    (
        BatchFirstIgnored,
        (
            "Is every argument used? Try batch_first=True with 2 clips of 3 frames.",
            "batch_first is not used: the walk goes over the clips.",
            "With batch_first, turn the first two axes of the input before the walk, and those of the output after it.",
        ),
    ),
    (WithoutLengths, RECURRENT_HINTS["lengths"]),
    (WithoutAState, RECURRENT_HINTS["state"]),
    (
        WithoutAMemory,
        (
            "Cut a clip in two and carry the state over. Is the first output of the second piece right?",
            "h is carried over, the memory c starts at zero again.",
            "Start from both tensors of the state: h, c = state.",
        ),
    ),
    (
        EndsSwapped,
        (
            "Which of the two states equals the last output?",
            "h and c are swapped where they come back.",
            "return output, (h, c)",
        ),
    ),
    (
        EndOfTheLastLayerAlone,
        (
            "How many layers have a state?",
            "Only the last layer's state comes back; the next piece needs those of all.",
            "Stack the ends of all walks: (num_layers x directions) b d.",
        ),
    ),
    (EndingAtItsOutput, RECURRENT_HINTS["ends"]),
    (
        PaddingShown,
        (
            "What stands in the output behind the end of a short clip?",
            "The output goes on over the padding; there should be zeros.",
            "padding_as_zero(output, lengths)",
        ),
    ),
    (
        LayersFedWithTheInput,
        (
            "What does the second layer read?",
            "Every layer reads the clip; the second reads what the first one shows.",
            "In the loop over layers: input = output of this layer.",
        ),
    ),
    (
        WalkingOnOverZeros,
        (
            "A clip of 2 frames and 3 of padding: does its state still change after frame 1?",
            "The padding is set to zero, but the walk goes on over it, and a frame of zeros changes the state too.",
            "Take the state after each clip's own last frame (`last`), and begin the walk backwards there (`reverse`).",
        ),
    ),
    (
        LayersSharingAState,
        (
            "With two layers: from which state does the second one start?",
            "The second layer starts where the first one ended.",
            "Every walk has a start of its own: state[0][index] and state[1][index], or zeros.",
        ),
    ),
    (
        MemoryShown,
        (
            "Which of the two states equals the last output?",
            "The output holds the memory c; it holds what is shown of it, h.",
            "outputs.append(h)",
        ),
    ),
    (
        ThreeResults,
        (
            "How many things come back?",
            "Three come back; two are expected, of which the second is a pair.",
            "return output, (h, c)",
        ),
    ),
    (
        StatesBatchFirst,
        (
            "With batch_first, which shape have h and c?",
            "The states are turned round with the output; they keep their order.",
            "Only input and output are b t c; h and c are (num_layers x directions) b d always.",
        ),
    ),
    (
        NotFlippedBack,
        (
            "At which frame is the first output of the walk backwards?",
            "The output of the walk backwards is left in the order in which it was walked.",
            "Turn it round again before it is put beside the other: reverse(output, lengths).",
        ),
    ),
    (
        HalvesSwapped,
        (
            "Which half of the output does not know the later frames?",
            "The halves are swapped: forwards comes first.",
            "torch.cat([forwards, backwards], -1)",
        ),
    ),
    (
        HalvesAdded,
        (
            "How wide is the output?",
            "The directions are added; they stand side by side.",
            "torch.cat([forwards, backwards], -1)",
        ),
    ),
    (
        ForwardsTwice,
        (
            "Does the second half of the first output depend on the last frame?",
            "The second half is the first once more.",
            "Walk over reverse(input, lengths) with the weights whose names end in _reverse.",
        ),
    ),
    (
        BackwardsFromTheVeryEnd,
        (
            "Take a clip of 2 frames and 3 of padding. What does the walk backwards read first?",
            "The walk backwards begins with the padding.",
            "It begins at each clip's own last frame: reverse(input, lengths).",
        ),
    ),
    (
        BackwardsEndingAtTheLastFrame,
        (
            "Which frame does the walk backwards read last?",
            "h of the walk backwards is taken at the last frame: there it has read one frame only.",
            "Take it where that walk ends, at frame 0 of the output.",
        ),
    ),
]


# ---- fast_lstm

FAST = [
    (
        lambda input, state, *weights, step=BY_STEP[name][0]: recur(
            lambda frame, state: step(frame, state, *weights), input, state
        ),
        BY_STEP[name][1],
    )
    for name in (
        *("gates_i_f_o_g", "gates_f_i_g_o", "tanh_forgotten_on_the_output", "sigmoid_for_the_candidate"),
        *("hidden_bias_forgotten", "h_ignored", "memory_ignored", "last_matrix_ignored"),
    )
]


MISTAKES: dict[str, list[Mistake]] = {
    "rnn_step": [Mistake(*row) for row in RNN_STEP],
    "lstm_step": [Mistake(*row) for row in STEP],
    "reverse": [Mistake(*row) for row in REVERSE],
    "last": [Mistake(*row) for row in LAST],
    "padding_as_zero": [Mistake(*row) for row in PADDING],
    "fast_lstm": [Mistake(*row) for row in FAST],
    "LSTMCell": [Mistake(*row) for row in CELL],
    "RNN": [Mistake(*row) for row in RNN_LAYER],
    "LSTM": [Mistake(*row) for row in LSTM_LAYER],
}


def probes(name: str) -> Iterator[Probe]:
    """Arguments and uses on which every two of the mistakes above differ."""
    b, c, d = 2, 3, 4
    frame, h, memory = normal(0, b, c), normal(1, b, d), normal(2, b, d)
    wide = normal(3, 4 * d, c), normal(4, 4 * d, d), normal(5, 4 * d), normal(6, 4 * d)
    x, lengths = torch.arange(1.0, 25.0).view(4, 3, 2), torch.tensor([2, 4, 0])
    if name == "rnn_step":
        narrow = tuple(x[:d] for x in wide)
        yield (frame, h, *narrow), {}
        yield (frame, h, *narrow), {"nonlinearity": "relu"}
    elif name == "lstm_step":
        yield (frame, (h, memory), *wide), {}
        yield (frame, (h, memory), *wide[:2]), {}
        yield (frame, (h, memory), *wide, normal(7, d, d)), {}
    elif name == "fast_lstm":
        yield (frame.expand(3, b, c), (h, memory), *wide), {}
        yield (frame.expand(3, b, c), (h, memory), *wide, normal(7, d, d)), {}
    elif name == "reverse":
        yield (x,), {}
        yield (x, lengths), {}
    elif name == "last":
        yield (x, -x[0]), {}
        yield (x, -x[0], lengths), {}
    elif name == "padding_as_zero":
        yield (x, lengths), {}
        yield (torch.full((3, 2, 1), torch.nan), torch.tensor([2, 0])), {}
    elif name == "LSTMCell":
        yield use("LSTMCell", (c, d), frame)
        yield use("LSTMCell", (c, d), frame, (h, memory))
    elif name == "RNN":
        clip, start = normal(8, 4, 3, c), normal(9, 1, 3, d)
        yield use("RNN", (c, d), clip, start)
        yield use("RNN", (c, d, 1, "relu"), clip)
        yield use("RNN", (c, d), clip, lengths=lengths)
    elif name == "LSTM":
        clip, state = normal(8, 4, 3, d), (normal(9, 2, 3, d), normal(10, 2, 3, d))
        yield use("LSTM", (d, d, 2), clip, state)
        yield use("LSTM", (d, d, 1, True, True), clip)
        yield use("LSTM", (d, 2, 1, True, False, 0.0, True), clip, lengths=lengths)
        yield use("LSTM", (d, 2, 1, True, False, 0.0, True), clip)
        yield use("LSTM", (d, d, 2), clip, lengths=lengths)


def use(kind: str, arguments: tuple, *inputs, **options) -> Callable:
    """Make a layer, give it weights that depend on their place alone, and call it."""

    def used(layer_of: Callable) -> object:
        shapes = {key: x.shape for key, x in getattr(nn, kind)(*arguments).state_dict().items()}
        layer = layer_of(*arguments)
        layer.load_state_dict({key: normal(20 + i, *shape) for i, (key, shape) in enumerate(shapes.items())})
        with torch.no_grad():
            return layer(*inputs, **options)

    return used
