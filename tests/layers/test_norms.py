"""LayerNorm and RMSNorm beside torch's, and what a normalised token must not depend on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds, small
from torch import nn

from minivid.classroom.evidence import agree, holds
from minivid.layers import norms
from minivid.layers.norms import (
    BLOCK,
    GroupNorm,
    LayerNorm,
    RMSNorm,
    block_layer_norm,
    group_norm,
    layer_norm,
    layer_norm_gradient,
    rms_norm,
)
from minivid.shapes import ShapeError

SHAPES = [(5,), (3, 5)]


# ---- laws


@pytest.mark.law("layer_norm")
@given(small, st.integers(2, 6), seeds)
def test_layer_norm_gives_mean_0_and_variance_1(impl, n, d, seed):
    """A token comes out with mean 0 and mean square 1, whatever its own mean and spread."""
    x = 3.0 * normal(seed, n, d) + 7.0
    y = impl.layer_norm(x, eps=1e-12)
    agree(y.mean(-1), torch.zeros(n), "the mean of a token is not 0", axes="n", atol=1e-4, x=x)
    agree(y.square().mean(-1), torch.ones(n), "the variance of a token is not 1", axes="n", atol=1e-3, x=x)


@pytest.mark.law("layer_norm")
@given(small, st.integers(2, 6), seeds, st.floats(0.5, 4.0), st.floats(-4.0, 4.0))
def test_layer_norm_does_not_see_scale_and_shift(impl, n, d, seed, scale, shift):
    """A token that is scaled and shifted as a whole gives the same result."""
    x = normal(seed, n, d)
    got, want = impl.layer_norm(scale * x + shift, eps=0.0), impl.layer_norm(x, eps=0.0)
    # Two numbers close to each other lose digits in x - mean; in 10^4 draws the loss stays under 1e-3.
    agree(
        got, want, "scale or shift of a token changes the result", axes="n d", atol=5e-3, x=x, scale=scale, shift=shift
    )


@pytest.mark.law("layer_norm")
@given(st.integers(2, 4), st.integers(2, 6), seeds)
def test_layer_norm_normalises_each_token_alone(impl, n, d, seed):
    """The other tokens change nothing."""
    x = normal(seed, n, d)
    agree(impl.layer_norm(x)[:1], impl.layer_norm(x[:1]), "a token depends on the others", axes="n d", x=x)


@pytest.mark.law("layer_norm")
@given(small, small, seeds, st.sampled_from([1e-5, 0.1]))
def test_layer_norm_equals_torch(impl, n, d, seed, eps):
    """The numbers are torch's, with scale, shift and any eps."""
    x, weight, bias = normal(seed, n, d), normal(seed + 1, d), normal(seed + 2, d)
    want = nn.functional.layer_norm(x, (d,), weight, bias, eps)
    agree(impl.layer_norm(x, weight, bias, eps=eps), want, "the result differs", axes="n d", atol=1e-4, x=x, eps=eps)


@pytest.mark.law("layer_norm")
@given(small, small, small, seeds)
def test_layer_norm_takes_tokens_with_several_axes(impl, n, h, w, seed):
    """With axes=2, a token is a picture h w: one mean and one variance over both axes."""
    x, weight, bias = normal(seed, n, h, w), normal(seed + 1, h, w), normal(seed + 2, h, w)
    want = nn.functional.layer_norm(x, (h, w), weight, bias)
    got = impl.layer_norm(x, weight, bias, axes=2)
    agree(got, want, "the result differs", axes="n h w", atol=1e-4, x=x, axes_=2)


@st.composite
def gradients(draw):
    """The gradient of y, tokens x n d, and their scale."""
    n, d, seed = draw(st.tuples(small, st.integers(2, 5), seeds))
    return (
        normal(seed, n, d, dtype=torch.float64),
        normal(seed + 1, n, d, dtype=torch.float64),
        1 + normal(seed + 2, d, dtype=torch.float64),
    )


@pytest.mark.law("layer_norm_gradient")
@given(gradients(), st.sampled_from([1e-5, 0.1]))
def test_layer_norm_gradient_is_what_autograd_finds(impl, case, eps):
    """The three formulas give what autograd gets from layer_norm, step by step."""
    grad, x, weight = case
    inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, torch.zeros_like(weight))]
    want = torch.autograd.grad((layer_norm(*inputs, eps=eps) * grad).sum(), inputs)
    got = impl.layer_norm_gradient(grad, x, weight, eps=eps)
    holds(isinstance(got, tuple) and len(got) == 3, "the result is not d x, d weight, d bias", grad=grad, x=x)
    for name, one, other in zip(("x", "weight", "bias"), got, want, strict=True):
        axes = "n d" if name == "x" else "d"
        claim = f"the gradient of {name} differs"
        agree(one, other, claim, axes=axes, atol=1e-8, rtol=1e-6, grad=grad, x=x, weight=weight, eps=eps)


@pytest.mark.law("layer_norm_gradient")
@given(gradients())
def test_layer_norm_gradient_moves_no_token_as_a_whole(impl, case):
    """The numbers of a token in d x sum to zero: moving all of them alike changes no result."""
    d_x, _, _ = impl.layer_norm_gradient(*case)
    want = torch.zeros(len(d_x), dtype=torch.float64)
    agree(d_x.sum(-1), want, "d x would move a whole token", axes="n", atol=1e-8, grad=case[0], x=case[1])


@st.composite
def block_cases(draw):
    """Tokens, scale and shift or None, and eps."""
    n, d, seed = draw(st.tuples(small, small, seeds))
    weight, bias = (normal(seed + i, d) if draw(st.booleans()) else None for i in (1, 2))
    return normal(seed, n, d), weight, bias, draw(st.sampled_from([1e-5, 0.1]))


@pytest.mark.law("block_layer_norm")
@given(block_cases())
def test_block_layer_norm_equals_layer_norm(impl, case):
    """In blocks of tokens: the same numbers."""
    x, weight, bias, eps = case
    got, want = impl.block_layer_norm(x, weight, bias, eps=eps), layer_norm(x, weight, bias, eps=eps)
    agree(got, want, "the result differs from layer_norm", axes="n d", atol=1e-4, x=x, weight=weight, bias=bias)


@pytest.mark.law("block_layer_norm")
@given(block_cases())
def test_block_layer_norm_has_the_gradients_of_layer_norm(impl, case):
    """With the gradient written out: the same gradients of x, scale and shift."""
    x, weight, bias, eps = case
    found = []
    for function in (impl.block_layer_norm, layer_norm):
        inputs = [None if tensor is None else tensor.double().requires_grad_() for tensor in (x, weight, bias)]
        total = (function(*inputs, eps=eps) * (x.double() + 1.0)).sum()
        found.append(torch.autograd.grad(total, [i for i in inputs if i is not None]))
    for got, want in zip(*found, strict=True):
        agree(got, want, "a gradient differs", atol=1e-6, x=x, weight=weight, bias=bias)


@pytest.mark.law("rms_norm")
@given(small, small, seeds)
def test_rms_norm_gives_mean_square_1(impl, n, d, seed):
    """A token comes out with mean square 1."""
    x = 3.0 * normal(seed, n, d) + 7.0
    y = impl.rms_norm(x, eps=1e-12)
    agree(y.square().mean(-1), torch.ones(n), "the mean square of a token is not 1", axes="n", atol=1e-4, x=x)


@pytest.mark.law("rms_norm")
@given(small, small, seeds)
def test_rms_norm_keeps_the_direction(impl, n, d, seed):
    """A token is scaled as a whole and not shifted: equal shares stay equal, zero stays zero."""
    x = normal(seed, n, d)
    x[:, 0] = 0.0
    y = impl.rms_norm(x)
    agree(y[:, 0], torch.zeros(n), "a number that was 0 is not", axes="n", x=x)
    agree(y * x.norm(dim=-1, keepdim=True), x * y.norm(dim=-1, keepdim=True), "the direction changed", axes="n d", x=x)


@pytest.mark.law("rms_norm")
@given(small, small, seeds, st.sampled_from([1e-6, 0.1]))
def test_rms_norm_equals_torch(impl, n, d, seed, eps):
    """The numbers are torch's, with scale and any eps."""
    x, weight = normal(seed, n, d), normal(seed + 1, d)
    want = nn.functional.rms_norm(x, (d,), weight, eps)
    agree(impl.rms_norm(x, weight, eps=eps), want, "the result differs", axes="n d", x=x, eps=eps)


@pytest.mark.law("rms_norm")
@given(small, small, small, seeds)
def test_rms_norm_takes_tokens_with_several_axes(impl, n, h, w, seed):
    """With axes=2, a token is a picture h w: one mean square over both axes."""
    x, weight = normal(seed, n, h, w), normal(seed + 1, h, w)
    want = nn.functional.rms_norm(x, (h, w), weight, 1e-6)
    agree(impl.rms_norm(x, weight, axes=2), want, "the result differs", axes="n h w", x=x, axes_=2)


# ---- many blocks, and what autograd may be asked


@pytest.mark.parametrize("n", [1, BLOCK // 512 - 1, BLOCK // 512, BLOCK // 512 + 1, 2 * BLOCK // 512 + 3])
def test_block_layer_norm_is_layer_norm_at_every_edge_of_a_block(n):
    grad, x = normal(0, n, 512, dtype=torch.float64), normal(1, n, 512, dtype=torch.float64)
    found = []
    for function in (block_layer_norm, layer_norm):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, normal(2, 512).double(), normal(3, 512).double())]
        y = function(*inputs)
        found.append([y, *torch.autograd.grad(y, inputs, grad)])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-10)


def test_a_token_longer_than_a_block_is_a_block_of_its_own():
    x = normal(0, 2, BLOCK + 3).requires_grad_()
    y = block_layer_norm(x)
    torch.testing.assert_close(y, layer_norm(x), atol=1e-5, rtol=0)
    got, want = (torch.autograd.grad(f(x).square().sum(), x)[0] for f in (block_layer_norm, layer_norm))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
    assert [len(block) for (block,) in norms._blocks(x)] == [1, 1]


def test_a_block_takes_half_a_mebibyte_in_single_precision():
    (first, *_) = next(norms._blocks(torch.empty(3 * BLOCK // 64, 64)))
    assert first.nbytes == 2**19


def test_a_compiler_is_given_layer_norm_itself(monkeypatch):
    x, weight, bias = normal(0, 2, 3, 5), normal(1, 3, 5), normal(2, 3, 5)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    got = block_layer_norm(x, weight.requires_grad_(), bias, axes=2, eps=0.3)
    assert torch.equal(got, layer_norm(x, weight, bias, axes=2, eps=0.3))
    assert "Blocks" not in type(got.grad_fn).__name__


def test_block_layer_norm_takes_no_tokens_and_tokens_that_do_not_lie_in_order():
    x = torch.zeros(0, 5, requires_grad=True)
    weight = torch.ones(5, requires_grad=True)
    y = block_layer_norm(x, weight)
    assert y.shape == (0, 5)
    y.sum().backward()
    assert x.grad.shape == (0, 5) and torch.equal(weight.grad, torch.zeros(5))
    x = normal(0, 5, 3, 2).requires_grad_()
    turned = x.permute(2, 1, 0)
    torch.testing.assert_close(block_layer_norm(turned), layer_norm(turned), atol=1e-5, rtol=0)
    got, want = (torch.autograd.grad(f(turned).pow(3).sum(), x)[0] for f in (block_layer_norm, layer_norm))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_block_layer_norm_has_exact_gradients_of_every_order():
    inputs = [
        normal(i, *shape, dtype=torch.float64).requires_grad_() for i, shape in enumerate([(2, 3, 5), (3, 5), (3, 5)])
    ]

    def call(x, weight, bias):
        return block_layer_norm(x, weight, bias, axes=2, eps=0.01)

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def with_settings(function):
    """The function with settings that are not its own, so that a forgotten one shows."""
    return lambda *tensors: function(*tensors, axes=2, eps=0.3)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, at the first jvp
def test_block_layer_norm_differentiates_forwards_and_twice():
    shapes = [(2, 3, 5), (3, 5), (3, 5)]
    inputs = [normal(i, *shape, dtype=torch.float64) for i, shape in enumerate(shapes)]
    changes = tuple(normal(i + 3, *shape, dtype=torch.float64) for i, shape in enumerate(shapes))
    got, want = (torch.func.jvp(with_settings(f), tuple(inputs), changes)[1] for f in (block_layer_norm, layer_norm))
    torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-10)
    for argument in range(3):

        def alone(x, function, argument=argument):
            return with_settings(function)(*inputs[:argument], x, *inputs[argument + 1 :]).pow(3).sum()

        got, want = (
            torch.func.hessian(lambda x, f=f: alone(x, f))(inputs[argument]) for f in (block_layer_norm, layer_norm)
        )
        torch.testing.assert_close(got, want, atol=1e-8, rtol=1e-8)
        # Forwards through the way back, in the direction of one tensor only.
        found = []
        for function in (block_layer_norm, layer_norm):

            def slopes(x, function=function, argument=argument):
                tensors = (*inputs[:argument], x, *inputs[argument + 1 :])
                return torch.func.grad(lambda *t: with_settings(function)(*t).pow(3).sum(), (0, 1, 2))(*tensors)

            found.append(torch.func.jvp(slopes, (inputs[argument],), (changes[argument],))[1])
        for got, want in zip(*found, strict=True):
            torch.testing.assert_close(got, want, atol=1e-8, rtol=1e-8)


def test_a_single_token_has_exact_gradients_of_every_order():
    inputs = [normal(i, 5, dtype=torch.float64).requires_grad_() for i in range(3)]
    assert torch.autograd.gradcheck(block_layer_norm, inputs)
    assert torch.autograd.gradgradcheck(block_layer_norm, inputs)


def test_layer_norm_gradient_takes_tokens_with_several_axes():
    grad, x, weight = (
        normal(i, *shape, dtype=torch.float64) for i, shape in enumerate([(2, 7, 3, 5), (2, 7, 3, 5), (3, 5)])
    )
    inputs = [x.requires_grad_(), weight.requires_grad_(), torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)]
    want = torch.autograd.grad(layer_norm(*inputs, axes=2), inputs, grad)
    for got, one in zip(layer_norm_gradient(grad, x, weight, axes=2), want, strict=True):
        torch.testing.assert_close(got, one, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("mapped", [(0, None, None), (None, 0, None), (None, None, 0), (0, 0, 0)])
def test_block_layer_norm_maps_over_any_of_its_tensors(mapped):
    shapes = [(2, 3, 5), (3, 5), (3, 5)]
    inputs = [normal(i, *((4, *s) if m == 0 else s)) for i, (s, m) in enumerate(zip(shapes, mapped, strict=True))]
    results = []
    for function in (block_layer_norm, layer_norm):

        def loss(x, weight, bias, function=function):
            return function(x, weight, bias, axes=2, eps=0.01).pow(3).sum()

        results.append(
            [
                torch.func.vmap(lambda *t, function=function: function(*t, axes=2, eps=0.01), mapped)(*inputs),
                *torch.func.vmap(torch.func.grad(loss, (0, 1, 2)), mapped)(*inputs),
            ]
        )
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_block_layer_norm_keeps_two_numbers_a_token_for_the_way_back():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        block_layer_norm(torch.ones(7, 5, requires_grad=True), torch.ones(5), torch.ones(5))
    assert sorted(kept) == [5, 7, 7, 35]  # weight, mean, 1 / deviation, and x


def test_sums_are_not_taken_in_half_precision_under_autocast():
    x, weight = normal(0, 300, 7).requires_grad_(), normal(1, 7).requires_grad_()
    want = torch.autograd.grad(layer_norm(x, weight).square().sum(), (x, weight))
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.autograd.grad(block_layer_norm(x, weight).square().sum(), (x, weight))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


def test_block_layer_norm_runs_on_meta_where_there_is_no_autocast():
    x, weight, bias = (torch.empty(shape, device="meta", requires_grad=True) for shape in ((2, 3, 5), (5,), (5,)))
    got = torch.autograd.grad(block_layer_norm(x, weight, bias).sum(), (x, weight, bias))
    assert [(g.shape, g.device.type) for g in got] == [(i.shape, "meta") for i in (x, weight, bias)]


# ---- the modules beside torch's


def both(ours, theirs, dtype):
    """The two modules with the same random weights; torch starts at 1 and 0, where a forgotten one does not show."""
    theirs = theirs.to(dtype)
    for i, parameter in enumerate(theirs.parameters()):
        parameter.data = normal(i, *parameter.shape, dtype=dtype)
    ours = ours.to(dtype)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def assert_equal_with_gradients(ours, theirs, shape, dtype, atol):
    results = []
    for module in (ours, theirs):
        x = normal(7, 2, 3, *shape, dtype=dtype).requires_grad_()
        y = module(x)
        results.append([y, *torch.autograd.grad(y, [x, *module.parameters()], normal(8, *y.shape, dtype=dtype))])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=atol, rtol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "options", [{}, {"eps": 0.1}, {"bias": False}, {"elementwise_affine": False}, {"elementwise_affine": True}]
)
def test_layer_norm_module_equals_torch(shape, options, dtype, atol):
    ours, theirs = both(LayerNorm(shape, **options), nn.LayerNorm(shape, **options), dtype)
    assert_equal_with_gradients(ours, theirs, shape, dtype, atol)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", [{}, {"eps": 0.1}, {"elementwise_affine": False}])
def test_rms_norm_module_equals_torch(shape, options, dtype, atol):
    ours, theirs = both(RMSNorm(shape, **options), nn.RMSNorm(shape, **options), dtype)
    assert_equal_with_gradients(ours, theirs, shape, dtype, atol)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("ours", "theirs"), [(LayerNorm, nn.LayerNorm), (RMSNorm, nn.RMSNorm)])
def test_half_precision_is_computed_in_float32(ours, theirs, dtype):
    # The mean of the squares of 1024 numbers of about 300 overflows in float16.
    x = (300.0 * normal(0, 3, 1024)).to(dtype)
    ours, theirs = both(ours(1024), theirs(1024), dtype)
    got, want = ours(x), theirs(x)
    assert got.dtype == dtype
    # One unit in the last place, on values up to 10: torch rounds once more in between.
    torch.testing.assert_close(got, want, atol=0, rtol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("function", [layer_norm, block_layer_norm])
def test_half_precision_gives_what_single_precision_gives_rounded_once(function, dtype):
    inputs = [tensor.to(dtype).requires_grad_() for tensor in (300.0 * normal(0, 3, 64), normal(1, 64), normal(2, 64))]
    wide = [tensor.detach().float().requires_grad_() for tensor in inputs]
    got, want = function(*inputs), function(*wide)
    assert got.dtype == dtype and torch.equal(got, want.to(dtype))
    grad = normal(3, 3, 64).to(dtype)
    found = zip(torch.autograd.grad(got, inputs, grad), torch.autograd.grad(want, wide, grad.float()), strict=True)
    for one, other in found:
        # Two units in the last place: a gradient that several steps share is rounded after each.
        torch.testing.assert_close(one, other.to(dtype), atol=1e-5, rtol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("ours", "theirs"), [(LayerNorm, nn.LayerNorm), (RMSNorm, nn.RMSNorm)])
def test_the_default_eps_is_that_of_torch_where_it_matters(ours, theirs, dtype):
    # Squares of 1e-8 beside an eps of 1e-5 (LayerNorm) or 1e-7 (RMSNorm, also in half precision).
    x = (1e-4 * normal(0, 3, 5)).to(dtype)
    got, want = ours(5).to(dtype)(x), theirs(5).to(dtype)(x)
    torch.testing.assert_close(got, want, atol=1e-7, rtol=2 * torch.finfo(dtype).eps + 1e-6)


@pytest.mark.parametrize("module", [LayerNorm((3, 5)), RMSNorm(5)])
def test_norms_pass_gradcheck(module):
    module = module.double()
    assert torch.autograd.gradcheck(module, normal(0, 2, 3, 5, dtype=torch.float64).requires_grad_())


@pytest.mark.parametrize("function", [layer_norm, rms_norm])
def test_a_constant_token_stays_finite(function):
    x = torch.zeros(2, 3, requires_grad=True)
    y = function(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(2, 3))
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("module", [LayerNorm(5), RMSNorm(5)])
def test_norms_map_over_an_axis_and_run_under_autocast(module):
    x = normal(0, 2, 3, 5)
    torch.testing.assert_close(torch.func.vmap(module)(x), module(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # the compiler's own import
@pytest.mark.parametrize("module", [LayerNorm(5), RMSNorm(5)])
def test_norms_compile(module, compiled):
    x = normal(0, 2, 3, 5)
    torch.testing.assert_close(compiled(module)(x), module(x))


@pytest.mark.parametrize("module", [LayerNorm((3, 5)), RMSNorm((3, 5))])
def test_norms_name_the_axes_that_do_not_fit(module):
    with pytest.raises(ShapeError, match=r"^x: shape \(2, 5, 3\), expected the last axes to be \(3, 5\)$"):
        module(torch.zeros(2, 5, 3))


def test_norms_take_device_and_dtype_and_say_what_they_are():
    for ours, theirs in ((LayerNorm, nn.LayerNorm), (RMSNorm, nn.RMSNorm)):
        module = ours((3, 5), device="meta", dtype=torch.bfloat16)
        assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.bfloat16)}
        for options in ({}, {"eps": 0.1}, {"elementwise_affine": False}):
            assert repr(ours((3, 5), **options)).startswith(
                repr(theirs((3, 5), **options)).split(", bias")[0].rstrip(")")
            )
            assert ours(5, **options).eps == theirs(5, **options).eps
    assert repr(LayerNorm(5)) == "LayerNorm((5,), eps=1e-05, elementwise_affine=True)"
    assert repr(RMSNorm([5], 0.1, False)) == "RMSNorm((5,), eps=0.1, elementwise_affine=False)"


def test_norms_begin_as_the_identity_on_normal_tokens_and_again_when_reset():
    for module in (LayerNorm(5), RMSNorm(5), LayerNorm(5, bias=False), LayerNorm(5, elementwise_affine=False)):
        for parameter in module.parameters():
            parameter.data.fill_(3.0)
        module.reset_parameters()
        assert {name: set(p.tolist()) for name, p in module.named_parameters()} == {
            name: {1.0} if name == "weight" else {0.0} for name, _ in module.named_parameters()
        }
    assert LayerNorm(5, bias=False).bias is None and LayerNorm(5, elementwise_affine=False).bias is None
    assert RMSNorm(5, elementwise_affine=False).weight is None


def test_the_default_eps_of_the_functions():
    x = normal(0, 3, 5) * 1e-3
    assert torch.equal(layer_norm(x), layer_norm(x, eps=1e-5)) and not torch.equal(
        layer_norm(x), layer_norm(x, eps=2e-5)
    )
    assert torch.equal(block_layer_norm(x), block_layer_norm(x, eps=1e-5))
    assert torch.equal(rms_norm(x), rms_norm(x, eps=1e-6)) and not torch.equal(rms_norm(x), rms_norm(x, eps=2e-6))
    one = torch.ones(5)
    for got, want in zip(layer_norm_gradient(x, x, one), layer_norm_gradient(x, x, one, axes=1, eps=1e-5), strict=True):
        assert torch.equal(got, want)


def test_an_option_that_is_not_taken_is_refused_by_name():
    with pytest.raises(TypeError, match="momentum"):
        LayerNorm(5, momentum=0.1)


# ---- groups of channels


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("places", [(), (5,), (2, 3, 5)])
@pytest.mark.parametrize("options", [{}, {"eps": 0.1}, {"affine": False}])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_module_equals_torch(groups, options, places, dtype, atol):
    ours, theirs = both(GroupNorm(groups, 6, **options), nn.GroupNorm(groups, 6, **options), dtype)
    results = []
    for module in (ours, theirs):
        x = (3.0 * normal(7, 4, 6, *places, dtype=dtype) + 1.0).requires_grad_()
        y = module(x)
        results.append([y, *torch.autograd.grad(y, [x, *module.parameters()], normal(8, *y.shape, dtype=dtype))])
    for got, want in zip(*results, strict=True):
        # A group of one number, where d y / d x is 0: torch divides rounding errors by sqrt(eps) = 0.003.
        torch.testing.assert_close(got, want, atol=100 * atol if groups == 6 and not places else atol, rtol=atol)


def test_one_group_is_the_layer_norm_of_a_clip():
    x = normal(0, 2, 3, 4, 5)
    torch.testing.assert_close(group_norm(x, 1, eps=0.1), layer_norm(x, axes=3, eps=0.1))
    weight, bias = normal(1, 3), normal(2, 3)
    want = layer_norm(x, weight[:, None, None].expand(3, 4, 5), bias[:, None, None].expand(3, 4, 5), axes=3)
    torch.testing.assert_close(group_norm(x, 1, weight, bias), want)
    torch.testing.assert_close(group_norm(x, 1, weight), want - bias[:, None, None])
    torch.testing.assert_close(group_norm(x, 1, None, bias), group_norm(x, 1) + bias[:, None, None])


def test_group_norm_reads_what_does_not_lie_in_order():
    x = normal(0, 2, 5, 4, 3)
    assert torch.equal(group_norm(x.transpose(1, 2), 2), group_norm(x.transpose(1, 2).contiguous(), 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_group_norm_computes_half_precision_in_float32(dtype):
    x, weight, bias = (300.0 * normal(0, 3, 4, 64)).to(dtype), normal(1, 4).to(dtype), normal(2, 4).to(dtype)
    got, want = group_norm(x, 2, weight, bias), group_norm(x.float(), 2, weight.float(), bias.float())
    assert got.dtype == dtype and torch.equal(got, want.to(dtype))


def test_group_norm_passes_gradcheck_maps_and_runs_under_autocast():
    module, x = GroupNorm(2, 4), normal(0, 2, 3, 4, 5)
    assert torch.autograd.gradcheck(GroupNorm(2, 4).double(), x[0].double().requires_grad_())
    torch.testing.assert_close(torch.func.vmap(module)(x), torch.stack([module(clip) for clip in x]))
    with torch.autocast("cpu", torch.bfloat16):
        assert module(x[0].bfloat16()).dtype == torch.bfloat16


def test_group_norm_begins_at_one_and_zero_and_says_what_it_is():
    module = GroupNorm(2, 6, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.bfloat16)}
    module = GroupNorm(2, 6, 0.1)
    for parameter in module.parameters():
        parameter.data.fill_(3.0)
    module.reset_parameters()
    assert (module.weight == 1).all() and (module.bias == 0).all()
    assert repr(module) == "GroupNorm(2, 6, eps=0.1, affine=True)"
    assert repr(GroupNorm(2, 6, affine=False)) == "GroupNorm(2, 6, eps=1e-05, affine=False)"
    x = 1e-3 * normal(0, 2, 6)
    assert torch.equal(group_norm(x, 2), group_norm(x, 2, eps=1e-5))


def test_group_norm_names_what_does_not_fit():
    for groups, channels in ((4, 6), (0, 6), (1, 0)):
        with pytest.raises(ValueError, match=f"^num_channels {channels} is not a multiple of num_groups {groups}$"):
            GroupNorm(groups, channels)
    with pytest.raises(ShapeError, match=r"^x: shape \(2, 5, 7\), expected b c \.\.\. with c=6$"):
        GroupNorm(2, 6)(torch.zeros(2, 5, 7))
    for groups in (4, 0):
        words = rf"^x: shape \(2, 6, 7\), expected b c \.\.\. with c a multiple of {groups} groups$"
        with pytest.raises(ShapeError, match=words):
            group_norm(torch.zeros(2, 6, 7), groups)


def test_group_norm_of_a_single_axis_is_refused(unchecked):
    for norm in (GroupNorm(1, 6), lambda x: group_norm(x, 1)):
        with pytest.raises(ShapeError, match=r"^x: shape \(6,\), expected b c \.\.\. with c"):
            norm(torch.zeros(6))


def test_one_channel_is_a_group():
    x = normal(0, 2, 1, 7)
    torch.testing.assert_close(GroupNorm(1, 1)(x), layer_norm(x), atol=1e-6, rtol=0)
