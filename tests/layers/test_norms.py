"""LayerNorm and RMSNorm beside torch's, and what a normalised token must not depend on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds, small
from torch import nn

from minivid.classroom.evidence import agree
from minivid.layers.norms import LayerNorm, RMSNorm, layer_norm, rms_norm
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
def test_norms_compile(module):
    x = normal(0, 2, 3, 5)
    torch.testing.assert_close(torch.compile(module, fullgraph=True)(x), module(x))


@pytest.mark.parametrize("module", [LayerNorm((3, 5)), RMSNorm((3, 5))])
def test_norms_name_the_axes_that_do_not_fit(module):
    with pytest.raises(ShapeError, match=r"x: shape \(2, 5, 3\), expected the last axes to be \(3, 5\)"):
        module(torch.zeros(2, 5, 3))


def test_an_option_that_is_not_taken_is_refused_by_name():
    with pytest.raises(TypeError, match="momentum"):
        LayerNorm(5, momentum=0.1)
