"""GELU in both forms, SiLU, and the two feed-forward layers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from operators import Steps
from strategies import normal, seeds, small
from torch import nn
from torch.nn import functional as F

from minivid.classroom.evidence import agree
from minivid.layers.feed_forward import BLOCK, FeedForward, SwiGLU, block_gelu_tanh, gelu, gelu_tanh, silu

numbers = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=6).map(torch.tensor)


# ---- laws


@pytest.mark.law("gelu")
@given(numbers)
def test_gelu_is_the_number_times_the_share_of_a_normal_below_it(impl, x):
    """gelu(x) = x P(N <= x), with P from the error function."""
    want = torch.tensor([v * 0.5 * math.erfc(-v / math.sqrt(2.0)) for v in x.tolist()])
    agree(impl.gelu(x), want, "the result differs from x P(N <= x)", axes="n", x=x)


@pytest.mark.law("gelu")
@given(numbers)
def test_gelu_of_x_minus_gelu_of_minus_x_is_x(impl, x):
    """What is held back on one side is let through on the other."""
    agree(impl.gelu(x) - impl.gelu(-x), x, "gelu(x) - gelu(-x) is not x", axes="n", x=x)


@pytest.mark.law("gelu_tanh")
@given(numbers)
def test_gelu_tanh_equals_its_formula(impl, x):
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
    want = [v * 0.5 * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (v + 0.044715 * v**3))) for v in x.tolist()]
    agree(impl.gelu_tanh(x), torch.tensor(want), "the result differs from the formula", axes="n", x=x)


@pytest.mark.law("silu")
@given(numbers)
def test_silu_is_the_number_times_its_sigmoid(impl, x):
    """silu(x) = x / (1 + exp(-x))."""
    want = torch.tensor([v / (1.0 + math.exp(-v)) for v in x.tolist()])
    agree(impl.silu(x), want, "the result differs from x / (1 + exp(-x))", axes="n", x=x)


@pytest.mark.law("FeedForward")
@given(small, small, small, seeds)
def test_feed_forward_is_two_linear_layers_with_gelu_between(impl, n, d, f, seed):
    """down_proj(gelu(up_proj(x))), each a matrix and a bias."""
    x, up, down = normal(seed, n, d), normal(seed + 1, f, d), normal(seed + 2, d, f)
    b_up, b_down = normal(seed + 3, f), normal(seed + 4, d)
    module = impl.FeedForward(d, f)
    module.load_state_dict(
        {"up_proj.weight": up, "up_proj.bias": b_up, "down_proj.weight": down, "down_proj.bias": b_down}
    )
    want = F.gelu(x @ up.T + b_up) @ down.T + b_down
    agree(module(x), want, "not down_proj(gelu(up_proj(x)))", axes="n d", atol=1e-4, x=x, up=up, down=down)


@pytest.mark.law("SwiGLU")
@given(small, small, small, seeds)
def test_swiglu_opens_a_gate_for_every_hidden_number(impl, n, d, f, seed):
    """down_proj(silu(gate_proj(x)) * up_proj(x)), each a matrix without a bias."""
    x, gate, up, down = (normal(seed + i, *shape) for i, shape in enumerate([(n, d), (f, d), (f, d), (d, f)]))
    module = impl.SwiGLU(d, f)
    module.load_state_dict({"gate_proj.weight": gate, "up_proj.weight": up, "down_proj.weight": down})
    want = (F.silu(x @ gate.T) * (x @ up.T)) @ down.T
    claim = "not down_proj(silu(gate_proj(x)) * up_proj(x))"
    agree(module(x), want, claim, axes="n d", atol=1e-4, x=x, gate=gate, up=up, down=down)


# ---- beside torch


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(gelu, F.gelu), (gelu_tanh, lambda x: F.gelu(x, approximate="tanh")), (silu, F.silu)],
    ids=["gelu", "gelu_tanh", "silu"],
)
def test_activations_equal_torch(ours, theirs):
    x = torch.linspace(-12, 12, 1001, dtype=torch.float64).requires_grad_()
    for function in (ours, theirs):
        assert torch.autograd.gradcheck(function, x[::100].detach().requires_grad_())
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-12, rtol=1e-12)
    got, want = (torch.autograd.grad(function(x).sum(), x)[0] for function in (ours, theirs))
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


def test_gelu_and_its_approximation_differ_by_less_than_they_say():
    x = torch.linspace(-12, 12, 100001, dtype=torch.float64)
    assert 4e-4 < (gelu(x) - gelu_tanh(x)).abs().max() < 5e-4


@given(small, small, small, small, seeds, st.booleans())
def test_feed_forward_equals_two_linear_layers_of_torch(b, n, d, f, seed, bias):
    ours = FeedForward(d, f, bias=bias).double()
    theirs = nn.Sequential(nn.Linear(d, f, bias=bias), nn.GELU(), nn.Linear(f, d, bias=bias)).double()
    state = {key.replace("0.", "up_proj.").replace("2.", "down_proj."): x for key, x in theirs.state_dict().items()}
    ours.load_state_dict(state)
    x = normal(seed, b, n, d, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-12, rtol=0)


@given(small, small, small, seeds)
def test_swiglu_equals_its_formula(n, d, f, seed):
    module, x = SwiGLU(d, f).double(), normal(seed, n, d, dtype=torch.float64)
    gate, up, down = module.gate_proj.weight, module.up_proj.weight, module.down_proj.weight
    torch.testing.assert_close(module(x), (F.silu(x @ gate.T) * (x @ up.T)) @ down.T, atol=1e-12, rtol=0)


def test_swiglu_names_its_weights_as_published_models_do():
    shapes = {key: tuple(x.shape) for key, x in SwiGLU(3, 5, bias=True).state_dict().items()}
    assert shapes == {
        "gate_proj.weight": (5, 3),
        "gate_proj.bias": (5,),
        "up_proj.weight": (5, 3),
        "up_proj.bias": (5,),
        "down_proj.weight": (3, 5),
        "down_proj.bias": (3,),
    }
    assert "up_proj.bias" not in SwiGLU(3, 5).state_dict()


@pytest.mark.parametrize("module", [FeedForward(3, 5), SwiGLU(3, 5)])
def test_feed_forward_treats_every_token_alone(module):
    x = normal(0, 2, 7, 3)
    torch.testing.assert_close(module(x)[1, 4], module(x[1, 4]))
    torch.testing.assert_close(torch.func.vmap(module)(x), module(x))
    assert torch.autograd.gradcheck(module.double(), normal(0, 2, 3, dtype=torch.float64).requires_grad_())
    module.float()


def test_dropout_acts_on_the_hidden_numbers_while_training_only():
    module = FeedForward(1, 1000, dropout=0.25, activation=lambda x: x, bias=False)
    nn.init.ones_(module.up_proj.weight)
    nn.init.ones_(module.down_proj.weight)
    torch.manual_seed(0)
    left = module(torch.ones(1)).item() * 0.75
    # Of 1000 numbers a quarter falls: four standard deviations are 55.
    assert left == pytest.approx(round(left), abs=1e-2)
    assert abs(left - 750) < 55
    assert module.eval()(torch.ones(1)).item() == pytest.approx(1000)


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_feed_forward_makes_its_weights_where_and_as_asked(dtype):
    module = FeedForward(3, 5, device="meta", dtype=dtype)
    assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", dtype or torch.float32)}
    assert FeedForward(3, 5, dtype=dtype).up_proj.weight.device.type == "cpu"


def test_another_activation_is_used():
    module = FeedForward(3, 5, activation=torch.relu)
    x = normal(0, 2, 3)
    torch.testing.assert_close(module(x), module.down_proj(module.up_proj(x).relu()))


@pytest.mark.parametrize("module", [FeedForward(3, 5, activation=gelu_tanh), SwiGLU(3, 5)])
def test_feed_forward_runs_under_autocast(module):
    x = normal(0, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), module(x), atol=2e-2, rtol=0)  # 8 bits, on numbers below 1


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # the compiler's own import
@pytest.mark.parametrize("module", [FeedForward(3, 5), SwiGLU(3, 5)])
def test_feed_forward_compiles(module, compiled):
    x = normal(0, 2, 3)
    torch.testing.assert_close(compiled(module)(x), module(x))


# ---- gelu_tanh in blocks


@pytest.mark.parametrize("n", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_block_gelu_tanh_is_gelu_tanh_at_every_edge_of_a_block(n):
    results = []
    for function in (block_gelu_tanh, gelu_tanh):
        x = (4.0 * normal(0, n, dtype=torch.float64)).requires_grad_()
        y = function(x)
        results.append((y, *torch.autograd.grad(y, x, normal(1, n, dtype=torch.float64))))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


def test_block_gelu_tanh_stays_finite_far_from_0():
    x = torch.tensor([-1e4, -40.0, 0.0, 40.0, 1e4], requires_grad=True)
    y = block_gelu_tanh(x)
    y.sum().backward()
    assert y.tolist() == [0.0, 0.0, 0.0, 40.0, 1e4] and x.grad.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own forward derivatives
def test_block_gelu_tanh_has_exact_gradients_of_every_order_and_in_both_directions():
    x = (2.0 * normal(0, 3, 5, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(block_gelu_tanh, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(block_gelu_tanh, x, check_fwd_over_rev=True)
    # Forwards through the way back, for every number at once.
    got, want = (torch.func.hessian(lambda x, f=f: f(x).pow(3).sum())(x) for f in (block_gelu_tanh, gelu_tanh))
    torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-10)


def test_block_gelu_tanh_maps_over_any_axis_and_reads_what_does_not_lie_in_order():
    x = normal(0, 2, 3, 5)
    for axis in range(3):
        got = torch.func.vmap(block_gelu_tanh, axis, axis)(x)
        torch.testing.assert_close(got, gelu_tanh(x), atol=1e-6, rtol=1e-5)
    got = torch.func.vmap(torch.func.grad(lambda x: block_gelu_tanh(x).sum()), 1, 1)(x)
    want = torch.func.grad(lambda x: gelu_tanh(x).sum())(x)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)
    y = x.mT.requires_grad_()
    (got,) = torch.autograd.grad(block_gelu_tanh(y), y, normal(1, 2, 3, 5).mT)
    (want,) = torch.autograd.grad(gelu_tanh(y), y, normal(1, 2, 3, 5).mT)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_block_gelu_tanh_computes_half_precision_in_float32(dtype):
    x = (4.0 * normal(0, 3, 5)).to(dtype)
    got = block_gelu_tanh(x)
    assert got.dtype == dtype and torch.equal(got, block_gelu_tanh(x.float()).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_mapped_gradient_of_half_precision_is_computed_in_float32(dtype):
    x = (4.0 * normal(0, 3, 5)).to(dtype)
    slopes = torch.func.vmap(torch.func.grad(lambda x: block_gelu_tanh(x).sum()))
    assert slopes(x).dtype == dtype and torch.equal(slopes(x), slopes(x.float()).to(dtype))


def test_block_gelu_tanh_keeps_its_input_alone_for_the_way_back():
    kept = []
    x = normal(0, 3, 5).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        block_gelu_tanh(x)
    assert [tensor.data_ptr() for tensor in kept] == [x.data_ptr()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_way_back_writes_into_buffers_of_a_block(dtype):
    assert BLOCK * 4 == 512 * 2**10
    x = normal(0, 2 * BLOCK + 3).to(dtype).requires_grad_()
    y, change = block_gelu_tanh(x), normal(1, 2 * BLOCK + 3).to(dtype)
    with Steps() as steps:
        torch.autograd.grad(y, x, change)
    # Three products a block, none of which makes a tensor of its own; what is made are the buffers and the result.
    assert steps.names.count("aten.mul.out") == 9 and "aten.mul.Tensor" not in steps.names
    assert sum("empty" in name for name in steps.names) == 2 and "aten._to_copy.default" not in steps.names


def test_a_compiler_is_given_gelu_tanh_itself(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    x = normal(0, 3, 5)
    assert torch.equal(block_gelu_tanh(x), gelu_tanh(x))


def test_block_gelu_tanh_runs_on_meta():
    x = torch.empty(2, 3, device="meta", requires_grad=True)
    (got,) = torch.autograd.grad(block_gelu_tanh(x).sum(), x)
    assert got.shape == (2, 3) and got.device.type == "meta"
