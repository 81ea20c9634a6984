"""Classic wrong answers about activations and feed-forward layers, each with three hints of increasing directness."""

import math
from collections.abc import Callable, Iterator

import torch
from strategies import normal
from torch.nn import functional as F

from minivid.classroom.museum import Mistake
from minivid.layers import feed_forward as library

# ---- gelu


def relu(x):
    return x.clamp_min(0)


def root_of_two_forgotten(x):
    return 0.5 * x * (1 + torch.erf(x))


def half_forgotten(x):
    return x * (1 + torch.erf(x / math.sqrt(2)))


def one_forgotten(x):
    return 0.5 * x * torch.erf(x / math.sqrt(2))


def share_without_the_number(x):
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def density_for_share(x):
    return x * (-0.5 * x * x).exp() / math.sqrt(2 * math.pi)


def sigmoid_form(x):
    return x * torch.sigmoid(1.702 * x)


def other_tail(x):
    return 0.5 * x * torch.erfc(x / math.sqrt(2))


def times_root_of_two(x):
    return 0.5 * x * (1 + torch.erf(x * math.sqrt(2)))


GELU = [
    (
        relu,
        (
            "What is the value at -1: 0, or a little below?",
            "This is ReLU, which cuts; GELU bends.",
            "0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
        ),
    ),
    (
        root_of_two_forgotten,
        (
            "At 1, what share of a normal distribution lies below: 84 %, or 92 %?",
            "erf counts in units of sqrt(2) deviations; the division is missing.",
            "torch.erf(x / math.sqrt(2))",
        ),
    ),
    (
        half_forgotten,
        (
            "What should come out at 10?",
            "The share runs from 0 to 2 instead of from 0 to 1.",
            "0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
        ),
    ),
    (
        one_forgotten,
        (
            "What should come out at 10, and at -10?",
            "erf runs from -1 to 1; the share is (1 + erf) / 2.",
            "0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
        ),
    ),
    (
        share_without_the_number,
        (
            "What should come out at 10?",
            "This is the share alone; it is multiplied by the number.",
            "x * share",
        ),
    ),
    (
        density_for_share,
        (
            "What should come out at 10?",
            "The number is multiplied by the height of the bell; it is the area below it that counts.",
            "The area up to x is (1 + erf(x / sqrt(2))) / 2.",
        ),
    ),
    (
        sigmoid_form,
        (
            "Very near. At which digit do the numbers differ?",
            "x sigmoid(1.702 x) is the article's rough approximation, as in CLIP.",
            "0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
        ),
    ),
    (
        other_tail,
        (
            "What should come out at 10, and at -10?",
            "The share above the number is taken; it is the one below.",
            "0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
        ),
    ),
    (
        times_root_of_two,
        (
            "At 1, what share of a normal distribution lies below: 84 %, or 98 %?",
            "The number is multiplied by sqrt(2); it is divided.",
            "torch.erf(x / math.sqrt(2))",
        ),
    ),
    (
        library.gelu_tanh,
        (
            "Very near. At which digit do the numbers differ?",
            "This is the approximation with tanh; the exact one uses the error function.",
            "0.5 * x * (1 + torch.erf(x / math.sqrt(2)))",
        ),
    ),
]

# ---- gelu_tanh


def cubic_forgotten(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * x))


def square_for_cube(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**2)))


def cube_outside(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * x + 0.044715 * x**3))


def root_over_pi(x):
    return 0.5 * x * (1 + torch.tanh(2 / math.pi * (x + 0.044715 * x**3)))


def whole_for_half(x):
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def digit_lost(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.44715 * x**3)))


def pi_over_two(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(math.pi / 2) * (x + 0.044715 * x**3)))


TANH = "0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))"
GELU_TANH = [
    (
        cubic_forgotten,
        ("Near 0 it is right. At 2?", "The term with x^3 is missing.", TANH),
    ),
    (
        square_for_cube,
        (
            "For positive numbers it is near. For negative ones?",
            "x^2 stands where x^3 belongs: the curve has lost its balance.",
            TANH,
        ),
    ),
    (
        cube_outside,
        ("Near 0 it is right. At 2?", "The root multiplies x alone; it multiplies the term with x^3 too.", TANH),
    ),
    (
        root_over_pi,
        ("How steep is the curve inside tanh at 0?", "The root of 2 / pi is missing.", TANH),
    ),
    (
        whole_for_half,
        ("What should come out at 10?", "The half in front is missing.", TANH),
    ),
    (
        digit_lost,
        ("Near 0 it is right. At 1?", "0.44715 stands where 0.044715 belongs.", TANH),
    ),
    (
        pi_over_two,
        ("How steep is the curve inside tanh at 0?", "The fraction under the root is upside down.", TANH),
    ),
    (
        library.gelu,
        (
            "Very near. At which digit do the numbers differ?",
            "This is the exact form; the one wanted uses tanh.",
            TANH,
        ),
    ),
]

# ---- silu


def sigmoid_alone(x):
    return torch.sigmoid(x)


def other_sign(x):
    return x * torch.sigmoid(-x)


def tanh_for_sigmoid(x):
    return x * torch.tanh(x)


def steeper(x):
    return x * torch.sigmoid(1.702 * x)


def softplus(x):
    return F.softplus(x)


def overflowing(x):
    return x * x.exp() / (1 + x.exp().square())


def hard_swish(x):
    return x * (x + 3).clamp(0, 6) / 6


def lifted(x):
    return x * torch.sigmoid(x) + 0.5


def shifted(x):
    return x * torch.sigmoid(x - 1)


def sigmoid_of_the_square(x):
    return x * torch.sigmoid(x * x)


SILU = [
    (
        sigmoid_alone,
        ("What should come out at 10?", "This is the sigmoid alone.", "x * torch.sigmoid(x)"),
    ),
    (
        other_sign,
        ("What should come out at 10, and at -10?", "The sign inside the sigmoid is wrong.", "x * torch.sigmoid(x)"),
    ),
    (
        tanh_for_sigmoid,
        ("What should come out at -10?", "tanh stands where the sigmoid belongs.", "x * torch.sigmoid(x)"),
    ),
    (
        steeper,
        (
            "What is the value at 1?",
            "1.702 makes it an approximation of GELU; SiLU has no factor.",
            "x * torch.sigmoid(x)",
        ),
    ),
    (
        softplus,
        ("What should come out at 0?", "This is softplus, log(1 + exp(x)).", "x * torch.sigmoid(x)"),
    ),
    (
        library.gelu,
        ("What is the value at 1: 0.84, or 0.73?", "This is GELU.", "x * torch.sigmoid(x)"),
    ),
    (
        overflowing,
        ("What should come out at 10?", "The square below the line does not belong there.", "x / (1 + exp(-x))"),
    ),
    (
        relu,
        ("What is the value at -1: 0, or a little below?", "This is ReLU.", "x * torch.sigmoid(x)"),
    ),
    (
        hard_swish,
        (
            "What is the value at -10: 0, or a little below?",
            "This is the hard swish, whose sigmoid is made of three straight lines.",
            "x * torch.sigmoid(x)",
        ),
    ),
    (
        lifted,
        ("What should come out at 0?", "Something is added to the product.", "x * torch.sigmoid(x)"),
    ),
    (
        shifted,
        (
            "At 1, is the gate open by 0.73, or by 0.5?",
            "The sigmoid is half open at 0, not elsewhere: nothing is added to x inside it.",
            "x * torch.sigmoid(x)",
        ),
    ),
    (
        sigmoid_of_the_square,
        ("What should come out at -10?", "The square does not belong inside the sigmoid.", "x * torch.sigmoid(x)"),
    ),
]

# ---- the layers


def layer(parent: type, way: Callable) -> type:
    """A class of its own for one wrong way through a layer; it keeps the parent's name for the reader."""
    return type(parent.__name__, (parent,), {"forward": lambda self, x: way(self, x)})


def no_activation(self, x):
    return self.down_proj(self.up_proj(x))


def activated_again(self, x):
    return library.gelu(self.down_proj(library.gelu(self.up_proj(x))))


def activated_at_the_end(self, x):
    return library.gelu(self.down_proj(self.up_proj(x)))


def activated_before(self, x):
    return self.down_proj(self.up_proj(library.gelu(x)))


def with_the_input(self, x):
    return x + library.FeedForward.forward(self, x)


def with_relu(self, x):
    return self.down_proj(self.up_proj(x).relu())


def with_tanh_gelu(self, x):
    return self.down_proj(library.gelu_tanh(self.up_proj(x)))


def scaled_down(self, x):
    return library.FeedForward.forward(self, x) / math.sqrt(self.up_proj.out_features)


def with_silu(self, x):
    return self.down_proj(library.silu(self.up_proj(x)))


ORDER = "down_proj(activation(up_proj(x)))"
FEED_FORWARD = [
    (
        layer(library.FeedForward, no_activation),
        (
            "Two matrices one behind the other: what are they together?",
            "There is no activation between the two.",
            ORDER,
        ),
    ),
    (
        layer(library.FeedForward, with_silu),
        (
            "Which activation does the signature name?",
            "The hidden numbers are bent by silu, which belongs to the gate of SwiGLU; here it is gelu.",
            ORDER,
        ),
    ),
    (
        layer(library.FeedForward, activated_again),
        ("Can the result be very negative?", "The activation runs a second time, behind the second layer.", ORDER),
    ),
    (
        layer(library.FeedForward, activated_at_the_end),
        (
            "Can the result be very negative?",
            "The activation stands behind both layers instead of between them.",
            ORDER,
        ),
    ),
    (
        layer(library.FeedForward, activated_before),
        ("Where does a large negative input go?", "The activation stands before the first layer.", ORDER),
    ),
    (
        layer(library.FeedForward, with_the_input),
        ("With all weights zero, what comes out?", "The input is added; that is the block's business.", ORDER),
    ),
    (
        layer(library.FeedForward, with_relu),
        ("Near. Where do the numbers differ?", "The default activation is gelu, not ReLU.", ORDER),
    ),
    (
        layer(library.FeedForward, with_tanh_gelu),
        ("Very near. At which digit do the numbers differ?", "The default activation is the exact gelu.", ORDER),
    ),
    (
        layer(library.FeedForward, scaled_down),
        (
            "By which factor is the result off?",
            "The result is divided by the root of the width; no scale is needed.",
            ORDER,
        ),
    ),
]


def gate_and_up_swapped(self, x):
    return self.down_proj(library.silu(self.up_proj(x)) * self.gate_proj(x))


def sigmoid_gate(self, x):
    return self.down_proj(torch.sigmoid(self.gate_proj(x)) * self.up_proj(x))


def gelu_gate(self, x):
    return self.down_proj(library.gelu(self.gate_proj(x)) * self.up_proj(x))


def relu_gate(self, x):
    return self.down_proj(self.gate_proj(x).relu() * self.up_proj(x))


def added_gate(self, x):
    return self.down_proj(library.silu(self.gate_proj(x)) + self.up_proj(x))


def both_through_silu(self, x):
    return self.down_proj(library.silu(self.gate_proj(x)) * library.silu(self.up_proj(x)))


def product_through_silu(self, x):
    return self.down_proj(library.silu(self.gate_proj(x) * self.up_proj(x)))


def no_silu(self, x):
    return self.down_proj(self.gate_proj(x) * self.up_proj(x))


def gate_forgotten(self, x):
    return self.down_proj(library.silu(self.up_proj(x)))


def gate_alone(self, x):
    return self.down_proj(library.silu(self.gate_proj(x)))


GATED = "down_proj(silu(gate_proj(x)) * up_proj(x))"
SWIGLU = [
    (
        layer(library.SwiGLU, gate_and_up_swapped),
        ("Which of the two goes through silu?", "gate_proj and up_proj are swapped.", GATED),
    ),
    (
        layer(library.SwiGLU, sigmoid_gate),
        ("How large can the gate become?", "The gate is a sigmoid (GLU); in SwiGLU it is silu.", GATED),
    ),
    (
        layer(library.SwiGLU, gelu_gate),
        ("Near. Where do the numbers differ?", "The gate is gelu (GEGLU); in SwiGLU it is silu.", GATED),
    ),
    (
        layer(library.SwiGLU, relu_gate),
        ("Can a gate be a little below 0?", "The gate is ReLU (ReGLU); in SwiGLU it is silu.", GATED),
    ),
    (
        layer(library.SwiGLU, added_gate),
        ("If the gate is shut, is anything left?", "The gate is added; it multiplies.", GATED),
    ),
    (
        layer(library.SwiGLU, both_through_silu),
        ("Can the hidden numbers be very negative?", "Both sides go through silu; only the gate does.", GATED),
    ),
    (
        layer(library.SwiGLU, product_through_silu),
        ("Can the hidden numbers be very negative?", "silu is applied to the product; it belongs to the gate.", GATED),
    ),
    (
        layer(library.SwiGLU, no_silu),
        ("Near a gate of 0, how does the result grow?", "The gate has no silu.", GATED),
    ),
    (
        layer(library.SwiGLU, gate_forgotten),
        ("Change gate_proj: does anything change?", "The gate is not used.", GATED),
    ),
    (
        layer(library.SwiGLU, gate_alone),
        ("Change up_proj: does anything change?", "The gate alone goes on; nothing passes through it.", GATED),
    ),
]

MISTAKES: dict[str, list[Mistake]] = {
    "gelu": [Mistake(*row) for row in GELU],
    "gelu_tanh": [Mistake(*row) for row in GELU_TANH],
    "silu": [Mistake(*row) for row in SILU],
    "FeedForward": [Mistake(*row) for row in FEED_FORWARD],
    "SwiGLU": [Mistake(*row) for row in SWIGLU],
}


def used(*settings, **state) -> Callable:
    """Make the layer, give it weights, and send tokens through."""

    def probe(answer):
        module = answer(*settings)
        module.load_state_dict({name.replace("__", "."): tensor for name, tensor in state.items()})
        return module(3.0 * normal(0, 4, 3))

    return probe


def probes(name: str) -> Iterator:
    """Arguments on which every two of the mistakes above differ."""
    if name in ("gelu", "gelu_tanh", "silu"):
        yield (torch.tensor([-10.0, -2.0, -1.0, -0.3, 0.0, 0.3, 1.0, 1.5, 2.0, 2.5, 10.0]),), {}
    elif name == "FeedForward":
        yield used(
            *(3, 5),
            up_proj__weight=normal(1, 5, 3),
            up_proj__bias=normal(2, 5),
            down_proj__weight=normal(3, 3, 5),
            down_proj__bias=normal(4, 3),
        )
    elif name == "SwiGLU":
        weights = dict(gate_proj__weight=normal(1, 5, 3), up_proj__weight=normal(2, 5, 3))
        yield used(*(3, 5), **weights, down_proj__weight=normal(3, 3, 5))
