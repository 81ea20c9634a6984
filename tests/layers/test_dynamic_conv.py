"""Dynamic convolution: mixing kernels is mixing results, and every clip gets its own mixture."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds
from torch import Tensor
from torch.nn import functional as F

from minivid.classroom.evidence import agree
from minivid.layers.conv3d import Conv3d
from minivid.layers.dynamic_conv import DynamicConv3d, dynamic_conv3d
from minivid.shapes import ShapeError

few = st.integers(1, 2)
three = st.tuples(few, few, few)


def rounded(seed: int, *shape: int) -> Tensor:
    """Small whole numbers that depend on the seed alone."""
    return normal(seed, *shape).mul(1.5).round()


@st.composite
def dynamic_case(draw):
    """Clips, a mixture for each, kernels and biases that fit, and settings."""
    b, c, c_out, groups, kernels, seed = draw(st.tuples(few, few, few, few, st.integers(1, 3), seeds))
    kernel, stride, padding, dilation = draw(st.tuples(three, three, three, three))
    sizes = [gap * (size - 1) + 2 for size, gap in zip(kernel, dilation, strict=True)]
    return (
        rounded(seed, b, groups * c, *sizes),
        rounded(seed + 1, b, kernels),
        rounded(seed + 2, kernels, groups * c_out, c, *kernel),
        rounded(seed + 3, kernels, groups * c_out),
        stride,
        padding,
        dilation,
        groups,
    )


# ---- laws


@pytest.mark.law("dynamic_conv3d")
@given(dynamic_case())
def test_dynamic_conv3d_of_one_chosen_kernel_is_that_convolution(impl, case):
    """A mixture of one 1 and zeros elsewhere is the convolution with that kernel and that bias."""
    input, attention, weight, bias, *settings = case
    chosen = [b % weight.shape[0] for b in range(len(input))]
    one_hot = torch.eye(weight.shape[0])[chosen]
    got = impl.dynamic_conv3d(input, one_hot, weight, bias, *settings)
    want = torch.cat([F.conv3d(x[None], weight[n], bias[n], *settings) for x, n in zip(input, chosen, strict=True)])
    claim = "the chosen kernel does not give its own result"
    agree(got, want, claim, axes="b c_out t h w", input=input, attention=one_hot, weight=weight, bias=bias)


@pytest.mark.law("dynamic_conv3d")
@given(dynamic_case())
def test_dynamic_conv3d_is_the_mixture_of_the_results(impl, case):
    """Mixing the kernels is mixing their results, each clip by its own numbers."""
    input, attention, weight, bias, *settings = case
    got = impl.dynamic_conv3d(*case)
    results = [F.conv3d(input, weight[n], bias[n], *settings) for n in range(weight.shape[0])]
    want = torch.einsum("bn,nb...->b...", attention, torch.stack(results))
    claim = "not the mixture of the results"
    agree(got, want, claim, axes="b c_out t h w", input=input, attention=attention, weight=weight, bias=bias)


@pytest.mark.law("dynamic_conv3d")
@given(dynamic_case())
def test_dynamic_conv3d_without_a_bias_adds_none(impl, case):
    """bias=None is a bias of zeros."""
    input, attention, weight, bias, *settings = case
    got = impl.dynamic_conv3d(input, attention, weight, None, *settings)
    want = impl.dynamic_conv3d(input, attention, weight, torch.zeros_like(bias), *settings)
    agree(got, want, "no bias differs from a bias of zeros", axes="b c_out t h w", input=input, weight=weight)


@st.composite
def module_case(draw):
    """Arguments of a module with 4 channels to 2, its weights, and clips."""
    kernels, reduction, seed = draw(st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 4, 9]), seeds))
    temperature = draw(st.sampled_from([0.5, 1.0, 4.0]))
    hidden = max(1, 4 // reduction)
    weights = {
        "weight": rounded(seed, kernels, 2, 4, 1, 2, 1),
        "bias": rounded(seed + 1, kernels, 2),
        "squeeze.weight": rounded(seed + 2, hidden, 4) / 2,
        "squeeze.bias": rounded(seed + 3, hidden) / 2,
        "score.weight": rounded(seed + 4, kernels, hidden),
        "score.bias": rounded(seed + 5, kernels),
    }
    options = dict(kernels=kernels, reduction=reduction, temperature=temperature)
    return options, weights, rounded(seed + 6, draw(few), 4, draw(few), 2, draw(few))


def loaded(impl, case):
    """The implementation's module with the weights of a case."""
    options, weights, _ = case
    module = impl.DynamicConv3d(4, 2, (1, 2, 1), **options)
    module.load_state_dict(weights)
    return module


@pytest.mark.law("DynamicConv3d")
@given(module_case())
def test_shares_are_the_softmax_of_two_layers_on_the_mean(impl, case):
    """Row b of attention(clips) is softmax(score(relu(squeeze(mean of clip b))) / temperature); it sums to one."""
    options, w, clips = case
    hidden = F.linear(clips.mean((2, 3, 4)), w["squeeze.weight"], w["squeeze.bias"]).relu()
    scores = F.linear(hidden, w["score.weight"], w["score.bias"])
    want = (scores / options["temperature"]).softmax(-1)
    agree(loaded(impl, case).attention(clips), want, "other shares", axes="b kernels", clips=clips, **options)


@pytest.mark.law("DynamicConv3d")
@given(module_case())
def test_every_clip_is_convolved_with_its_own_mixture(impl, case):
    """The result is dynamic_conv3d of the clips, with the module's attention, weight and bias."""
    options, weights, clips = case
    module = loaded(impl, case)
    want = dynamic_conv3d(clips, module.attention(clips), weights["weight"], weights["bias"])
    agree(module(clips), want, "not the mixture's convolution", axes="b c_out t h w", clips=clips, **options)


# ---- the module


def test_alike_kernels_make_a_plain_convolution():
    module = DynamicConv3d(4, 6, (2, 3, 1), (1, 2, 1), (1, 0, 2), (3, 2, 1), groups=2, kernels=3).double()
    plain = Conv3d(4, 6, (2, 3, 1), (1, 2, 1), (1, 0, 2), (3, 2, 1), groups=2).double()
    with torch.no_grad():
        module.weight.copy_(plain.weight.expand_as(module.weight))
        module.bias.copy_(plain.bias.expand_as(module.bias))
    clip = normal(0, 2, 4, 3, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(module(clip), plain(clip), atol=1e-12, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_output_is_the_convolution_with_the_mixed_kernel_clip_by_clip(bias):
    module = DynamicConv3d(3, 5, 3, padding="same", bias=bias, reduction=1, temperature=0.1).double()
    clips = normal(0, 4, 3, 4, 5, 7, dtype=torch.float64) + 3 * normal(1, 4, 3, 1, 1, 1, dtype=torch.float64)
    attention, output = module.attention(clips), module(clips)
    assert attention.shape == (4, 4)
    assert attention.std(0).max() > 1e-3  # the mixtures differ, or the next lines would prove nothing
    for clip, mixture, got in zip(clips, attention, output, strict=True):
        weight = sum(share * kernel for share, kernel in zip(mixture, module.weight, strict=True))
        added = mixture @ module.bias if bias else None
        torch.testing.assert_close(got[None], F.conv3d(clip[None], weight, added, padding=1), atol=1e-12, rtol=0)


def test_attention_is_softmax_of_two_layers_on_the_mean():
    module = DynamicConv3d(8, 5, 3, kernels=3, temperature=2.0)
    clips = normal(0, 2, 8, 4, 5, 7) + 1.0
    assert module.squeeze.weight.shape == (2, 8)
    seen = clips.flatten(2).mean(-1)
    want = F.softmax(module.score(F.relu(module.squeeze(seen))) / 2.0, -1)
    torch.testing.assert_close(module.attention(clips), want, atol=1e-6, rtol=1e-5)


def test_a_high_temperature_shares_evenly_and_a_low_one_chooses():
    module, clips = DynamicConv3d(3, 5, 1, kernels=4), 10 * normal(0, 2, 3, 4, 5, 7)
    spreads = []
    for module.temperature in (1e4, 30.0, 1.0, 1e-4):
        spreads.append(module.attention(clips).amax(-1).mean().item())
    assert spreads == sorted(spreads)
    # Scores of about 1 divided by 10 000: shares of a quarter to within 1e-4; multiplied by it, one takes all.
    assert abs(spreads[0] - 0.25) < 1e-3 and spreads[-1] > 0.999


def test_the_mixture_does_not_see_where_and_when():
    module, clips = DynamicConv3d(3, 5, 1, temperature=1.0), normal(0, 2, 3, 4, 5, 7)
    moved = clips.flip(2).roll((1, 2), (3, 4))
    torch.testing.assert_close(module.attention(moved), module.attention(clips), atol=1e-6, rtol=0)


def test_a_clip_does_not_see_the_others():
    module = DynamicConv3d(4, 6, 3, groups=2, reduction=1, temperature=0.1)
    clips = normal(0, 3, 4, 4, 5, 7) + 3 * normal(1, 3, 4, 1, 1, 1)
    torch.testing.assert_close(module(clips), torch.cat([module(x[None]) for x in clips]), atol=1e-6, rtol=1e-5)


def test_the_kernels_start_different():
    module = DynamicConv3d(3, 5, 3)
    assert all(not torch.equal(module.weight[0], kernel) for kernel in module.weight[1:])
    assert module.weight.shape == (4, 5, 3, 3, 3, 3) and module.bias.shape == (4, 5)
    assert module.weight.abs().max() <= 81**-0.5  # as Conv3d starts: 81 numbers under a kernel


@pytest.mark.parametrize("bias", [True, False])
def test_every_kernel_starts_as_a_convolution_of_its_own(bias):
    torch.manual_seed(3)
    module = DynamicConv3d(3, 5, (1, 2, 3), kernels=2, bias=bias)
    torch.manual_seed(3)
    plain = [Conv3d(3, 5, (1, 2, 3), bias=bias) for _ in range(2)]
    assert torch.equal(module.weight, torch.stack([conv.weight for conv in plain]))
    assert module.bias is None if not bias else torch.equal(module.bias, torch.stack([conv.bias for conv in plain]))


def test_the_temperature_starts_where_the_paper_does():
    assert DynamicConv3d(3, 5, 1).temperature == 30.0


def test_dynamic_conv3d_passes_gradcheck():
    case = [normal(i, *shape, dtype=torch.float64).requires_grad_() for i, shape in enumerate(
        [(2, 2, 2, 3, 2), (2, 3), (3, 2, 1, 2, 1, 2), (3, 2)])]  # fmt: skip
    assert torch.autograd.gradcheck(lambda *x: dynamic_conv3d(*x, (1, 2, 1), 1, 1, 2), case)
    module = DynamicConv3d(2, 2, (1, 2, 1), kernels=2).double()
    assert torch.autograd.gradcheck(module, case[0])


def test_dynamic_conv3d_maps_over_an_axis_and_runs_under_autocast():
    module, clips = DynamicConv3d(4, 6, 3, padding=1, groups=2), normal(0, 3, 2, 4, 3, 5, 7)
    one_by_one = torch.stack([module(x) for x in clips])
    torch.testing.assert_close(torch.func.vmap(module)(clips), one_by_one, atol=1e-6, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        output = module(clips[0])
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), one_by_one[0], atol=3e-2, rtol=0)  # 8 bits on numbers of about 1


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # the compiler's own import
def test_dynamic_conv3d_compiles(compiled):
    module, clip = DynamicConv3d(4, 6, 3, padding=1, groups=2), normal(0, 2, 4, 3, 5, 7)
    torch.testing.assert_close(compiled(module)(clip), module(clip), atol=1e-5, rtol=1e-5)


# ---- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernels": 0}, "^kernels is 0 and reduction 4, expected both at least 1$"),
        ({"reduction": 0}, "^kernels is 4 and reduction 0, expected both at least 1$"),
        ({"temperature": 0.0}, "^temperature is 0.0, expected a finite number above 0$"),
        ({"temperature": -2.0}, "^temperature is -2.0, expected a finite number above 0$"),
        ({"temperature": float("inf")}, "^temperature is inf, expected a finite number above 0$"),
        ({"temperature": float("nan")}, "^temperature is nan, expected a finite number above 0$"),
        ({"groups": 2}, "^in_channels 3 is not a multiple of groups 2"),
        ({"stride": 0}, "^stride is 0"),
        ({"padding": -1}, "^padding is -1"),
        ({"dilation": 0}, "^dilation is 0"),
    ],
)
def test_constructor_names_what_does_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        DynamicConv3d(3, 4, 3, **options)


@pytest.mark.usefixtures("unchecked")
def test_shapes_that_do_not_fit_are_named():
    for shape in ((2, 3), (3, 4), (2,)):
        message = f"attention: shape {shape}, expected b kernels = (2, 4); every clip has one number for every kernel"
        with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
            dynamic_conv3d(torch.zeros(2, 1, 3, 3, 3), torch.zeros(shape), torch.zeros(4, 1, 1, 1, 1, 1))
    for shape in ((2, 4, 5, 5, 5), (3, 5, 5, 5)):
        message = f"input: shape {shape}, expected b c t h w with c=3"
        for call in (DynamicConv3d(3, 5, 3), DynamicConv3d(3, 5, 3).attention):
            with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
                call(torch.zeros(shape))
