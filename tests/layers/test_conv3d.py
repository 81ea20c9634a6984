"""3D convolution: laws, torch's own as the oracle, the (2+1)D factors, and how far a number sees."""

import itertools
import math

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds, small
from torch import Tensor, nn
from torch.nn import functional as F

from minivid.classroom.evidence import agree, holds
from minivid.layers import conv3d as library
from minivid.layers.conv3d import (
    Conv2Plus1d,
    Conv3d,
    conv3d,
    frame_conv3d,
    middle_channels,
    output_size,
    pad,
    receptive_field,
    triple,
    unfold,
)
from minivid.layers.patch_embed import PatchEmbed
from minivid.shapes import ShapeError

few = st.integers(1, 2)
three = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
threes = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))


def rounded(seed: int, *shape: int) -> Tensor:
    """Small whole numbers that depend on the seed alone: drawn fast, exact in every float format."""
    return normal(seed, *shape).mul(1.5).round()


@st.composite
def plain_case(draw):
    """A clip and kernels that fit: input, weight; no two axes need be alike."""
    (k_t, k_h, k_w), (more_t, more_h, more_w) = draw(three), draw(threes)
    b, c, c_out, seed = draw(st.tuples(few, few, few, seeds))
    sizes = (k_t + more_t, k_h + more_h, k_w + more_w)
    return rounded(seed, b, c, *sizes), rounded(seed + 1, c_out, c, k_t, k_h, k_w)


@st.composite
def full_case(draw):
    """A clip, kernels, biases and settings that fit: input, weight, bias, stride, padding, dilation, groups."""
    kernel, stride, padding, dilation, more = draw(st.tuples(three, three, threes, three, threes))
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    sizes = [max(1, r - 2 * p) + m for r, p, m in zip(reach, padding, more, strict=True)]
    b, c, c_out, groups, seed = draw(st.tuples(few, few, few, few, seeds))
    return (
        rounded(seed, b, groups * c, *sizes),
        rounded(seed + 1, groups * c_out, c, *kernel),
        rounded(seed + 2, groups * c_out),
        stride,
        padding,
        dilation,
        groups,
    )


def compared(impl, claim: str, input: Tensor, weight: Tensor, bias: Tensor | None = None, **settings) -> None:
    """The answer beside torch's convolution; double precision, since torch may sum in another order."""
    got = impl.conv3d(input, weight, bias, **settings)
    want = F.conv3d(input.double(), weight.double(), None if bias is None else bias.double(), **settings)
    shown = {} if bias is None else {"bias": bias}
    agree(got, want, claim, axes="b c_out t h w", input=input, weight=weight, **shown, **settings)


# ---- laws of output_size


@pytest.mark.law("output_size")
@given(small, small)
def test_output_size_counts_the_places_of_a_kernel(impl, kernel_size, more):
    """A kernel of 3 has 3 places on 5 frames: size - kernel_size + 1."""
    size = kernel_size + more
    got = impl.output_size(size, kernel_size)
    places = len(range(size - kernel_size + 1))
    holds(got == places, f"{got} places instead of {places}", size=size, kernel_size=kernel_size)


@pytest.mark.law("output_size")
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(1, 3))
def test_output_size_is_what_comes_out(impl, size, kernel_size, stride, padding, dilation):
    """Counted one by one: the starting places from which the kernel stays inside the padded axis."""
    reach = dilation * (kernel_size - 1) + 1
    size = max(size, reach - 2 * padding)
    places = [start for start in range(0, size + 2 * padding, stride) if start + reach <= size + 2 * padding]
    settings = dict(stride=stride, padding=padding, dilation=dilation)
    got = impl.output_size(size, kernel_size, **settings)
    claim = f"{got} places instead of {len(places)}"
    holds(got == len(places) and isinstance(got, int), claim, size=size, kernel_size=kernel_size, **settings)


# ---- laws of conv3d, from the first things to get right to the last


@pytest.mark.law("conv3d")
@given(few, few, few, three, seeds)
def test_conv3d_of_single_numbers_is_a_matrix_product(impl, b, c, c_out, sizes, seed):
    """A kernel of 1 x 1 x 1 multiplies the channels at every place by one matrix."""
    input, weight = rounded(seed, b, c, *sizes), rounded(seed + 1, c_out, c, 1, 1, 1)
    want = torch.einsum("oc,bcthw->bothw", weight[:, :, 0, 0, 0], input)
    got = impl.conv3d(input, weight)
    agree(got, want, "not weight x channels at each place", axes="b c_out t h w", input=input, weight=weight)


@pytest.mark.law("conv3d")
@given(plain_case())
def test_conv3d_is_the_sum_of_products_under_the_kernel(impl, case):
    """The kernel lies on the clip as it is, not flipped: the first number of the kernel meets the first under it."""
    compared(impl, "not the sum of products with the numbers under the kernel", *case)


@pytest.mark.law("conv3d")
@given(plain_case(), seeds)
def test_conv3d_adds_the_bias_once(impl, case, seed):
    """Every number of an output channel gets the bias of that channel, once."""
    compared(impl, "the bias is not added once to its channel", *case, rounded(seed, case[1].shape[0]))


@pytest.mark.law("conv3d")
@given(plain_case(), three)
def test_conv3d_strides_along_each_axis(impl, case, stride):
    """With stride s the kernel lies on places 0, s, 2 s, ...; each axis has its own stride."""
    compared(impl, "the kernel lies on other places", *case, stride=stride)


@pytest.mark.law("conv3d")
@given(plain_case(), threes)
def test_conv3d_pads_both_sides(impl, case, padding):
    """Padding puts as many zeros before the first as behind the last number; each axis has its own padding."""
    compared(impl, "the zeros stand elsewhere", *case, padding=padding)


@pytest.mark.law("conv3d")
@given(st.tuples(few, few), three, three, seeds)
def test_conv3d_spreads_the_kernel_by_dilation(impl, channels, kernel, dilation, seed):
    """With dilation d the numbers of the kernel lie d apart; the kernel reaches further and the clip stays as it is."""
    sizes = [d * (k - 1) + 2 for k, d in zip(kernel, dilation, strict=True)]
    c, c_out = channels
    input, weight = rounded(seed, 1, c, *sizes), rounded(seed + 1, c_out, c, *kernel)
    compared(impl, "the numbers of the kernel lie elsewhere", input, weight, dilation=dilation)


@pytest.mark.law("conv3d")
@given(full_case())
def test_conv3d_in_groups_is_separate_convolutions(impl, case):
    """Groups of channels, one behind the other, each with its own kernels, give the convolutions of each alone."""
    input, weight, bias, stride, padding, dilation, groups = case
    got = impl.conv3d(input, weight, bias, stride, padding, dilation, groups)
    parts = zip(input.chunk(groups, 1), weight.chunk(groups), bias.chunk(groups), strict=True)
    want = torch.cat([F.conv3d(*part, stride, padding, dilation) for part in parts], 1)
    claim = "a group differs from the convolution of its channels alone"
    settings = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    agree(got, want, claim, axes="b c_out t h w", input=input, weight=weight, bias=bias, **settings)


@pytest.mark.law("conv3d")
@given(plain_case(), st.sampled_from(["same", "valid"]), st.integers(1, 2))
def test_conv3d_takes_padding_by_name(impl, case, padding, dilation):
    """ "valid" pads nothing; "same" so that the output is as long as the input, an odd zero more behind than before."""
    input, weight = case
    input = F.pad(input, (weight.shape[4], 0, weight.shape[3], 0, weight.shape[2], 0), value=1.0)  # room to dilate
    reach = [dilation * (k - 1) for k in weight.shape[:1:-1]]
    zeros = [n for total in reach for n in (total // 2, total - total // 2)] if padding == "same" else [0] * 6
    got = impl.conv3d(input, weight, None, 1, padding, dilation)
    want = F.conv3d(F.pad(input, zeros), weight, dilation=dilation)
    claim = f"padding {padding!r} does not put its zeros there"
    agree(got, want, claim, axes="b c_out t h w", input=input, weight=weight, dilation=dilation)


@pytest.mark.law("conv3d")
@given(full_case(), st.integers(-3, 3), seeds)
def test_conv3d_is_linear_in_the_clip(impl, case, number, seed):
    """conv(number x + y) = number conv(x) + conv(y), without a bias."""
    input, weight, _, *settings = case
    other = rounded(seed, *input.shape)
    got = impl.conv3d(number * input + other, weight, None, *settings)
    want = number * impl.conv3d(input, weight, None, *settings) + impl.conv3d(other, weight, None, *settings)
    agree(
        got, want, "the sum of two clips does not give the sum of the results", input=input, other=other, weight=weight
    )


@pytest.mark.law("conv3d")
@given(full_case(), st.integers(-3, 3), seeds)
def test_conv3d_is_linear_in_the_kernel(impl, case, number, seed):
    """A sum of kernels gives the sum of their results."""
    input, weight, bias, *settings = case
    other = rounded(seed, *weight.shape)
    got = impl.conv3d(input, number * weight + other, number * bias, *settings)
    want = number * impl.conv3d(input, weight, bias, *settings) + impl.conv3d(input, other, None, *settings)
    agree(got, want, "the sum of two kernels does not give the sum of the results", input=input, weight=weight)


@pytest.mark.law("conv3d")
@given(plain_case(), st.integers(2, 4), st.integers(1, 2), three)
def test_conv3d_follows_a_shift(impl, case, axis, places, stride):
    """A clip shifted by stride x n along an axis gives the result shifted by n, where both are inside."""
    input, weight = case
    step = stride[axis - 2]
    room = [n for i in (4, 3, 2) for n in (places * step if i == axis else 0, 0)]
    shifted = F.pad(input, room, value=1.0)
    got = impl.conv3d(shifted, weight, stride=stride).narrow(
        axis, places, impl.conv3d(input, weight, stride=stride).shape[axis]
    )
    want = impl.conv3d(input, weight, stride=stride)
    claim = f"a shift along axis {'thw'[axis - 2]} is not followed"
    agree(got, want, claim, axes="b c_out t h w", input=input, weight=weight, stride=stride)


@pytest.mark.law("conv3d")
@given(full_case())
def test_conv3d_sends_the_gradient_of_the_transposed_convolution(impl, case):
    """For every y, the products conv(x) y and x conv_transposed(y) have the same sum, and that is the gradient."""
    input, weight, _, stride, padding, dilation, groups = case
    leaf = input.clone().requires_grad_()
    output = impl.conv3d(leaf, weight, None, stride, padding, dilation, groups)
    holds(isinstance(output, Tensor) and output.requires_grad, "no gradient reaches the clip", input=input)
    other = rounded(7, *output.shape)
    (got,) = torch.autograd.grad((output * other).sum(), leaf)
    left_over = [
        (n + 2 * p - d * (k - 1) - 1) % s
        for n, k, s, p, d in zip(input.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    ]
    want = F.conv_transpose3d(other, weight, None, stride, padding, left_over, groups, dilation)
    settings = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    agree(got, want, "the gradient is not conv_transposed(y)", axes="b c t h w", input=input, weight=weight, **settings)
    both = (output * other).sum(), (input * want).sum()
    agree(both[0], both[1], "<conv(x), y> and <x, conv_transposed(y)> differ", input=input, weight=weight, **settings)


@pytest.mark.law("conv3d")
@given(few, few, st.tuples(few, few, few), small, few, few, seeds)
def test_conv3d_whose_stride_is_its_kernel_is_patch_embedding(impl, b, c, grid, d, p, tau, seed):
    """Boxes that do not overlap, each multiplied by one matrix."""
    embed = PatchEmbed(c, d, p, tau)
    weight, bias = rounded(seed, *embed.proj.weight.shape), rounded(seed + 1, d)
    embed.load_state_dict({"proj.weight": weight, "proj.bias": bias})
    input = rounded(seed + 2, b, c, grid[0] * tau, grid[1] * p, grid[2] * p)
    with torch.no_grad():
        want = embed(rearrange(input, "b c t h w -> b t c h w"))
    got = impl.conv3d(input, weight, bias, stride=(tau, p, p))
    shape = (b, d, *grid)
    holds(
        isinstance(got, Tensor) and got.shape == shape, f"expected b d gt gh gw = {shape}", input=input, weight=weight
    )
    got = rearrange(got, "b d gt gh gw -> b (gt gh gw) d")
    agree(got, want, "a token is not its box times the weights", axes="b n d", input=input, weight=weight)


# ---- laws of frame_conv3d: it is conv3d, and so are its gradients


@pytest.mark.law("frame_conv3d")
@given(plain_case())
def test_frame_conv3d_equals_conv3d(impl, case):
    """The numbers are those of conv3d."""
    input, weight = case
    got, want = impl.frame_conv3d(input, weight), conv3d(input, weight)
    agree(got, want, "not the numbers of conv3d", axes="b c_out t h w", input=input, weight=weight)


@pytest.mark.law("frame_conv3d")
@given(full_case())
def test_frame_conv3d_equals_conv3d_for_every_setting(impl, case):
    """Stride, padding, dilation, groups and bias mean what they mean for conv3d."""
    input, weight, bias, *settings = case
    got, want = impl.frame_conv3d(*case), conv3d(*case)
    names = dict(zip(("stride", "padding", "dilation", "groups"), settings, strict=True))
    agree(got, want, "not the numbers of conv3d", axes="b c_out t h w", input=input, weight=weight, bias=bias, **names)


@pytest.mark.law("frame_conv3d")
@given(plain_case(), st.sampled_from(["same", "valid"]), st.integers(1, 2))
def test_frame_conv3d_takes_padding_by_name(impl, case, padding, dilation):
    """ "same" and "valid" mean what they mean for conv3d."""
    input, weight = case
    input = F.pad(input, (weight.shape[4], 0, weight.shape[3], 0, weight.shape[2], 0), value=1.0)  # room to dilate
    settings = dict(padding=padding, dilation=dilation)
    got, want = impl.frame_conv3d(input, weight, **settings), conv3d(input, weight, **settings)
    claim = f"padding {padding!r} is another than conv3d's"
    agree(got, want, claim, axes="b c_out t h w", input=input, weight=weight, **settings)


@pytest.mark.law("frame_conv3d")
@given(full_case())
def test_frame_conv3d_has_the_gradients_of_conv3d(impl, case):
    """The gradients of clip, kernels and biases are those of conv3d."""
    *tensors, stride, padding, dilation, groups = case
    results = []
    for function in (impl.frame_conv3d, conv3d):
        leaves = [x.clone().requires_grad_() for x in tensors]
        output = function(*leaves, stride, padding, dilation, groups)
        other = rounded(7, *output.shape)
        results.append(torch.autograd.grad((output * other).sum(), leaves))
    settings = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    for name, got, want in zip(("clip", "kernel", "bias"), *results, strict=True):
        agree(got, want, f"another gradient of the {name}", input=case[0], weight=case[1], **settings)


# ---- laws of the rest


@pytest.mark.law("unfold")
@given(plain_case(), three, st.integers(1, 2))
def test_unfold_shows_what_lies_under_the_kernel(impl, case, stride, dilation):
    """windows[b, c, t, h, w, i, j, k] is number stride t + dilation i of the time axis, and so on for the others."""
    input, weight = case
    input = F.pad(input, (weight.shape[4], 0, weight.shape[3], 0, weight.shape[2], 0), value=1.0)  # room to dilate
    got = impl.unfold(input, weight.shape[2:], stride, dilation)
    places = [
        torch.tensor(
            [[s * n + dilation * i for i in range(k)] for n in range((size - dilation * (k - 1) - 1) // s + 1)]
        )
        for size, k, s in zip(input.shape[2:], weight.shape[2:], stride, strict=True)
    ]
    t, h, w = places
    want = input[
        :, :, t[:, None, None, :, None, None], h[None, :, None, None, :, None], w[None, None, :, None, None, :]
    ]
    claim = "other numbers lie under the kernel"
    kernel = tuple(weight.shape[2:])
    agree(got, want, claim, axes="b c t h w i j k", padded=input, kernel_size=kernel, stride=stride, dilation=dilation)


@pytest.mark.law("middle_channels")
@given(st.integers(1, 64), st.integers(1, 64), three)
def test_middle_channels_spend_the_weights_of_the_full_kernel(impl, c_in, c_out, kernel):
    """The two factors have no more weights than the full kernel, and with one channel more they would have."""
    k_t, k_h, k_w = kernel
    full, each = k_t * k_h * k_w * c_in * c_out, k_h * k_w * c_in + k_t * c_out
    got = impl.middle_channels(c_in, c_out, kernel)
    claim = f"{got} channels cost {got * each} weights of {full}"
    holds(isinstance(got, int) and got * each <= full < (got + 1) * each, claim, c_in=c_in, c_out=c_out, kernel=kernel)


@pytest.mark.law("receptive_field")
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)), max_size=3))
def test_receptive_field_counts_the_frames_that_matter(impl, layers):
    """The number of frames is what the first output depends on, from the first of them to the last."""
    kernel_sizes, strides, dilations = ([layer[i] for layer in layers] for i in range(3))
    clip = torch.ones(1, 1, 200, requires_grad=True, dtype=torch.float64)
    output = clip
    for kernel_size, stride, dilation in layers:
        weight = torch.ones(1, 1, kernel_size, dtype=torch.float64)
        output = F.conv1d(output, weight, stride=stride, dilation=dilation)
    (gradient,) = torch.autograd.grad(output[0, 0, 0], clip)
    want = int(gradient.nonzero()[-1, 2]) + 1
    got = impl.receptive_field(kernel_sizes, strides, dilations)
    claim = f"{got} frames instead of {want}"
    holds(got == want, claim, kernel_sizes=kernel_sizes, strides=strides, dilations=dilations)


@pytest.mark.law("receptive_field")
@given(st.lists(small, max_size=4))
def test_receptive_field_grows_by_the_kernel_less_one(impl, kernel_sizes):
    """Without strides and dilations, every layer adds its kernel size less one."""
    want = 1 + sum(size - 1 for size in kernel_sizes)
    got = impl.receptive_field(kernel_sizes)
    holds(got == want, f"{got} frames instead of {want}", kernel_sizes=kernel_sizes)


# ---- torch as the oracle, over every setting

KERNELS, STRIDES, PADDINGS, DILATIONS = [(2, 3, 4), 1], [(1, 3, 2), 1], [(2, 0, 1), "same", "valid"], [(2, 1, 3), 1]
SETTINGS = [
    (kernel, stride, padding, dilation, groups, bias)
    for kernel, stride, padding, dilation, groups, bias in itertools.product(
        KERNELS, STRIDES, PADDINGS, DILATIONS, (1, 2, 6), (True, False)
    )
    if padding != "same" or stride == 1
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # of torch: it copies the input
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "groups", "bias"), SETTINGS)
def test_conv3d_module_equals_torch(kernel, stride, padding, dilation, groups, bias, dtype, atol):
    arguments = (6, 12, kernel, stride, padding, dilation, groups, bias)
    theirs, ours = nn.Conv3d(*arguments).to(dtype), Conv3d(*arguments).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    results = []
    for module in (ours, theirs):
        input = normal(1, 2, 6, 5, 7, 11, dtype=dtype).requires_grad_()
        output = module(input)
        cotangent = normal(2, *output.shape, dtype=dtype) / math.sqrt(output[0, 0].numel())  # sums of about 1
        results.append([output, *torch.autograd.grad(output, [input, *module.parameters()], cotangent)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=atol, rtol=atol)


@pytest.mark.parametrize("ours", [conv3d, frame_conv3d])
@given(full_case(), seeds)
def test_conv3d_and_its_gradients_equal_torch_anywhere(ours, case, seed):
    *tensors, stride, padding, dilation, groups = case
    results = []
    for function in (ours, F.conv3d):
        leaves = [x.double().requires_grad_() for x in tensors]
        output = function(*leaves, stride, padding, dilation, groups)
        cotangent = normal(seed, *output.shape, dtype=torch.float64)
        results.append([output, *torch.autograd.grad(output, leaves, cotangent)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-10, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_module_starts_as_torch_from_the_same_seed(bias):
    modules = []
    for kind in (Conv3d, nn.Conv3d):
        torch.manual_seed(3)
        modules.append(kind(4, 6, (2, 3, 5), groups=2, bias=bias))
    ours, theirs = (module.state_dict() for module in modules)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("conv3d", [conv3d, frame_conv3d])
def test_gradients_pass_gradcheck_and_so_do_their_gradients(conv3d):
    input, weight, bias = (normal(i, *shape, dtype=torch.float64).requires_grad_() for i, shape in
                           enumerate([(1, 4, 3, 2, 4), (2, 2, 2, 1, 3), (2,)]))  # fmt: skip
    settings = ((2, 1, 1), (1, 0, 2), (1, 1, 2), 2)
    assert torch.autograd.gradcheck(lambda *x: conv3d(*x, *settings), (input, weight, bias))
    assert torch.autograd.gradgradcheck(lambda *x: conv3d(*x, *settings), (input, weight, bias))


@pytest.mark.parametrize("conv3d", [conv3d, frame_conv3d])
def test_conv3d_by_hand(conv3d):
    # One pixel over four frames, 1 4 9 16; the kernel -1 1 is what a frame has more than the one before.
    clip, kernel = (
        torch.tensor([1.0, 4.0, 9.0, 16.0]).view(1, 1, 4, 1, 1),
        torch.tensor([-1.0, 1.0]).view(1, 1, 2, 1, 1),
    )
    assert conv3d(clip, kernel).flatten().tolist() == [3.0, 5.0, 7.0]
    assert conv3d(clip, kernel, torch.tensor([10.0]), padding=(1, 0, 0)).flatten().tolist() == [11, 13, 15, 17, -6]
    assert conv3d(clip, kernel, stride=(2, 1, 1)).flatten().tolist() == [3.0, 7.0]
    assert conv3d(clip, kernel, dilation=(2, 1, 1)).flatten().tolist() == [8.0, 12.0]
    assert conv3d(clip, kernel, padding="same").flatten().tolist() == [3.0, 5.0, 7.0, -16.0]


@pytest.mark.parametrize("conv3d", [conv3d, frame_conv3d])
def test_conv3d_leaves_its_inputs_alone(conv3d):
    case = normal(0, 2, 3, 4, 5, 6), normal(1, 5, 3, 2, 2, 2), normal(2, 5)
    before = [x.clone() for x in case]
    conv3d(*case, 1, 1)
    assert all(torch.equal(x, y) for x, y in zip(case, before, strict=True))


def test_a_clip_in_any_memory_layout_gives_the_same():
    module, clip = Conv3d(3, 5, 3, padding=1), normal(0, 2, 3, 4, 5, 7)
    for other in (clip.to(memory_format=torch.channels_last_3d), clip.transpose(1, 2).contiguous().transpose(1, 2)):
        assert not other.is_contiguous()
        torch.testing.assert_close(module(other), module(clip), atol=1e-6, rtol=1e-5)


def test_unfold_copies_nothing():
    clip = normal(0, 2, 3, 5, 7, 11)
    windows = unfold(clip, (2, 3, 3), (1, 2, 1), (2, 1, 3))
    assert windows.shape == (2, 3, 3, 3, 5, 2, 3, 3)
    assert windows.data_ptr() == clip.data_ptr()


def test_pad_puts_an_odd_zero_behind():
    padded = pad(torch.ones(1, 1, 2, 3, 5), (2, 3, 4), padding="same", dilation=(1, 2, 1))
    assert padded.shape == (1, 1, 3, 7, 8)
    assert [padded[0, 0, :, 3, 3].tolist(), padded[0, 0, 0, 3].tolist()] == [[1, 1, 0], [0, 1, 1, 1, 1, 1, 0, 0]]
    assert pad(torch.ones(1, 1, 2, 3, 5), 3, padding=(1, 0, 2)).shape == (1, 1, 4, 3, 9)


def test_windows_are_taken_everywhere_and_nothing_is_padded_unless_told():
    clip = normal(0, 2, 3, 5, 7, 11)
    assert torch.equal(pad(clip, (3, 2, 4)), clip)
    windows = unfold(clip, (3, 2, 4))
    assert windows.shape == (2, 3, 3, 6, 8, 3, 2, 4)
    assert torch.equal(windows[:, :, 2, 5, 7], clip[:, :, 2:5, 5:7, 7:11])


def test_gradients_of_frames_are_mapped_clip_by_clip():
    # Without a warning of torch, which says so where it has to loop by itself.
    clips, weight = normal(0, 3, 1, 2, 3, 4, 5), normal(1, 4, 2, 2, 3, 2)

    def loss(clip, weight):
        return frame_conv3d(clip, weight).square().sum()

    got = torch.func.vmap(torch.func.grad(loss, (0, 1)), (0, None))(clips, weight)
    for i, clip in enumerate(clips):
        for x, want in zip(got, torch.func.grad(loss, (0, 1))(clip, weight), strict=True):
            torch.testing.assert_close(x[i], want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("conv3d", [conv3d, frame_conv3d])
def test_kernels_and_biases_may_be_mapped_too(conv3d):
    clip, weights, biases = normal(0, 2, 4, 3, 4, 5), normal(1, 5, 6, 2, 2, 1, 3), normal(2, 6, 5)
    settings = (1, 1, 1, 2)
    every = [conv3d(clip, weights[i], biases[:, i], *settings) for i in range(5)]
    got = torch.func.vmap(lambda w, b: conv3d(clip, w, b, *settings), in_dims=(0, 1))(weights, biases)
    torch.testing.assert_close(got, torch.stack(every), atol=1e-6, rtol=1e-5)
    got = torch.func.vmap(lambda b: conv3d(clip, weights[0], b, *settings), in_dims=1)(biases)
    every = [conv3d(clip, weights[0], biases[:, i], *settings) for i in range(5)]
    torch.testing.assert_close(got, torch.stack(every), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_frames_give_the_gradients_that_are_asked_for(wanted):
    results = []
    for function in (frame_conv3d, conv3d):
        tensors = [normal(0, 2, 4, 3, 4, 5), normal(1, 6, 2, 2, 1, 3), normal(2, 6)]
        leaves = [tensors[i].requires_grad_() for i in wanted]
        results.append(torch.autograd.grad(function(*tensors, 1, 0, 1, 2).square().sum(), leaves))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-5)


def test_frames_compute_no_gradient_that_nobody_asks_for(monkeypatch):
    called = []

    def counted(name, operator):
        return lambda *inputs: called.append(name) or operator(*inputs)

    operators = ("_conv", "_to_clip", "_to_kernel")
    for name in operators:
        monkeypatch.setattr(library, name, counted(name, getattr(library, name)))
    clip, kernel, grad = normal(0, 1, 2, 3, 3, 3), normal(1, 5, 2, 2, 2, 2), normal(2, 1, 5, 2, 2, 2)
    for function, inputs, third, names in (
        (library._Conv, (clip, kernel), None, operators),
        (library._ToClip, (grad, kernel), clip.shape, ("_to_clip", "_conv", "_to_kernel")),
        (library._ToKernel, (grad, clip), kernel.shape, ("_to_kernel", "_conv", "_to_clip")),
    ):
        for wanted in (0, 1):
            called.clear()
            leaves = [x.clone().requires_grad_(i == wanted) for i, x in enumerate(inputs)]
            function.apply(*leaves, third, (1, 1, 1), (1, 1, 1), 1).sum().backward()
            assert called == [names[0], names[1 + wanted]]


def test_frames_keep_no_windows():
    # All windows of this clip are 27 x 4 x 5 x 36 numbers; what is kept for the pass back is the padded clip.
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        frame_conv3d(normal(0, 1, 4, 5, 6, 6), normal(1, 2, 4, 3, 3, 3).requires_grad_(), padding=1)
    assert sorted(kept) == [2 * 4 * 27, 4 * 7 * 8 * 8]


def test_half_precision_adds_frames_in_single():
    # 300 frames of ones: a sum in bfloat16 stops growing at 256.
    clip = torch.ones(1, 1, 300, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.ones(1, 1, 1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    frame_conv3d(clip, weight).sum().backward()
    assert weight.grad.item() == 300 and weight.grad.dtype == clip.grad.dtype == torch.bfloat16
    wide, kernel = torch.ones(1, 1, 1, 1, 300, dtype=torch.bfloat16).requires_grad_(), torch.ones(1, 1, 1, 1, 280)
    (gradient,) = torch.autograd.grad(frame_conv3d(wide, kernel.bfloat16(), padding=(0, 0, 279)).sum(), wide)
    assert gradient.unique().tolist() == [280]


@pytest.mark.parametrize("method", ["plain", "frames"])
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch maps the gradient of a view one by one
def test_conv3d_maps_over_an_axis(method):
    module = Conv3d(4, 6, (2, 3, 3), (1, 2, 1), 1, groups=2, method=method)
    clips = normal(0, 3, 2, 4, 3, 5, 7)
    one_by_one = torch.stack([module(clip) for clip in clips])
    torch.testing.assert_close(torch.func.vmap(module)(clips), one_by_one, atol=1e-6, rtol=1e-5)
    gradients = torch.func.vmap(torch.func.grad(lambda clip: module(clip).square().sum()))(clips)
    alone = torch.func.grad(lambda clip: module(clip).square().sum())(clips[1])
    torch.testing.assert_close(gradients[1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["plain", "frames"])
@pytest.mark.parametrize("bias", [True, False])
def test_conv3d_runs_under_autocast(method, bias):
    module, clip = Conv3d(3, 5, 3, padding=1, method=method, bias=bias), normal(0, 2, 3, 4, 5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        output = module(clip)
    assert output.dtype == torch.bfloat16
    output.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    # bfloat16 keeps 8 bits, on sums of 81 products that come to about 1.
    torch.testing.assert_close(output.float(), module(clip), atol=3e-2, rtol=0)


@pytest.mark.parametrize("conv3d", [conv3d, frame_conv3d])
def test_under_autocast_the_bias_is_rounded_before_it_is_added(conv3d):
    # bfloat16 keeps 8 bits: 1 + 1/256 is rounded to 1, and 1 + 1/512 again. Added first, they are nearer to 1 + 1/128.
    input, weight, bias = torch.full((1, 1, 1, 1, 1), 1 / 512), torch.ones(1, 1, 1, 1, 1), torch.tensor([1 + 1 / 256])
    with torch.autocast("cpu", torch.bfloat16):
        assert conv3d(input, weight, bias).item() == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frames_of_a_clip_without_numbers_have_the_shapes_of_those_with(dtype):
    # What torch.compile asks before there are numbers: the shape and type of the output and of every gradient.
    def shapes(function, device: str) -> list:
        sizes = (2, 4, 7, 8, 11), (6, 2, 2, 1, 3), (6,)
        leaves = [torch.zeros(size, dtype=dtype, device=device, requires_grad=True) for size in sizes]
        output = function(*leaves, (1, 2, 3), (1, 0, 2), (3, 1, 2), 2)
        gradients = torch.autograd.grad(output, leaves, torch.zeros_like(output), create_graph=True)
        second = torch.autograd.grad(gradients[0].sum() + gradients[1].sum(), leaves[:2])
        return [(x.shape, x.dtype) for x in (output, *gradients, *second)]

    assert shapes(frame_conv3d, "meta") == shapes(frame_conv3d, "cpu") == shapes(conv3d, "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operators_of_frame_conv3d_keep_what_they_promise(dtype):
    padded, weight = normal(0, 2, 4, 3, 4, 6).to(dtype), normal(1, 6, 2, 2, 1, 3).to(dtype)
    settings = [1, 2, 1], [1, 1, 2], 2
    grad = torch.ops.minivid.conv_frames(padded, weight, None, *settings)
    for name, arguments in (
        ("conv_frames", (padded, weight, None)),
        ("conv_to_clip", (grad, weight, padded.shape)),
        ("conv_to_kernel", (grad, padded, weight.shape)),
    ):
        operator = getattr(torch.ops.minivid, name)
        torch.library.opcheck(operator, (*arguments, *settings), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # the compiler's own import
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the compiler does that
@pytest.mark.parametrize("method", ["plain", "frames"])
def test_conv3d_compiles(method, compiled):
    module = Conv3d(4, 6, (2, 3, 3), (1, 2, 1), 1, groups=2, method=method)
    clip = normal(0, 2, 4, 3, 5, 7).requires_grad_()
    results = []
    for function in (compiled(module), module):
        output = function(clip)
        results.append([output, *torch.autograd.grad(output.sum(), [clip, *module.parameters()])])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


# ---- (2+1)D


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), ((3, 2, 4), (1, 0, 2)), (1, "same")])
def test_two_factors_without_activation_are_one_convolution_with_their_kernel(stride, padding):
    module = Conv2Plus1d(
        3, 5, (3, 2, 4), stride, padding, activation=nn.Identity(), bias=False, mid_channels=7
    ).double()
    clip = normal(0, 2, 3, 5, 6, 7, dtype=torch.float64)
    assert module.kernel().shape == (5, 3, 3, 2, 4)
    want = F.conv3d(pad(clip, (3, 2, 4), stride, padding), module.kernel(), stride=stride)
    torch.testing.assert_close(module(clip), want, atol=1e-12, rtol=0)


def test_a_kernel_that_is_a_product_of_space_and_time_needs_one_channel_between():
    space, time = normal(0, 1, 3, 1, 2, 5), normal(1, 7, 1, 3, 1, 1)
    module = Conv2Plus1d(3, 7, (3, 2, 5), mid_channels=1, activation=nn.Identity(), bias=False)
    module.load_state_dict({"spatial.weight": space, "temporal.weight": time})
    clip = normal(2, 2, 3, 5, 6, 7)
    torch.testing.assert_close(module(clip), conv3d(clip, time * space), atol=1e-5, rtol=1e-5)


def test_the_activation_stands_between_the_factors():
    module = Conv2Plus1d(3, 5, 3)
    clip = normal(0, 2, 3, 5, 6, 7)
    torch.testing.assert_close(module(clip), module.temporal(module.spatial(clip).relu()), atol=0, rtol=0)
    assert (module.spatial(clip) < 0).any()


def test_middle_channels_are_the_published_ones():
    # R(2+1)D of 18 layers: 144 in its first stage (64 to 64 channels), 230 where the second begins (64 to 128).
    assert middle_channels(64, 64, 3) == 144
    assert middle_channels(64, 128, 3) == 230
    assert Conv2Plus1d(64, 64, 3).spatial.weight.shape == (144, 64, 1, 3, 3)


# ---- errors


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("input", "weight", "options", "message"),
    [
        (
            (3, 5, 7, 9),
            (2, 3, 1, 1, 1),
            {},
            "input (3, 5, 7, 9) and weight (2, 3, 1, 1, 1): expected b c t h w and c_out c_group k_t k_h k_w; "
            "one clip alone becomes a batch by clip[None]",
        ),
        (
            (1, 3, 5, 7, 9),
            (2, 3, 1, 1),
            {},
            "input (1, 3, 5, 7, 9) and weight (2, 3, 1, 1): expected b c t h w and c_out c_group k_t k_h k_w; "
            "one clip alone becomes a batch by clip[None]",
        ),
        (
            (1, 4, 5, 7, 9),
            (2, 3, 1, 1, 1),
            {},
            "input: c=4, but the weight (2, 3, 1, 1, 1) in 1 groups takes c=3; "
            "c and c_out are the same number of channels in every group",
        ),
        (
            (1, 6, 5, 7, 9),
            (5, 3, 1, 1, 1),
            {"groups": 2},
            "input: c=6, but the weight (5, 3, 1, 1, 1) in 2 groups takes c=6; "
            "c and c_out are the same number of channels in every group",
        ),
        (
            (1, 6, 5, 7, 9),
            (5, 3, 1, 1, 1),
            {"groups": 0},
            "input: c=6, but the weight (5, 3, 1, 1, 1) in 0 groups takes c=0; "
            "c and c_out are the same number of channels in every group",
        ),
        (
            (1, 3, 5, 7, 9),
            (2, 3, 1, 1, 1),
            {"bias": torch.zeros(3)},
            "bias: shape (3,), expected one number for each of 2 kernels",
        ),
        (
            (1, 3, 2, 7, 9),
            (2, 3, 3, 1, 1),
            {},
            "input: t=2 with its padding is less than the 3 that the kernel reaches over "
            "(dilation 1 x (kernel_size 3 - 1) + 1); pad more or take a smaller kernel",
        ),
        (
            (1, 3, 5, 3, 9),
            (2, 3, 1, 4, 1),
            {"padding": (0, 1, 0), "dilation": 2},
            "input: h=5 with its padding is less than the 7 that the kernel reaches over "
            "(dilation 2 x (kernel_size 4 - 1) + 1); pad more or take a smaller kernel",
        ),
        (
            (1, 3, 5, 7, 1),
            (2, 3, 1, 1, 2),
            {},
            "input: w=1 with its padding is less than the 2 that the kernel reaches over "
            "(dilation 1 x (kernel_size 2 - 1) + 1); pad more or take a smaller kernel",
        ),
    ],
)
def test_conv3d_names_what_does_not_fit(input, weight, options, message):
    for function in (conv3d, frame_conv3d):
        with pytest.raises(ShapeError) as caught:
            function(torch.zeros(input), torch.zeros(weight), **options)
        assert str(caught.value) == message


ONE_OR_THREE = "expected one number, or three for time, height and width, of at least"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 0}, f"stride is 0, {ONE_OR_THREE} 1"),
        ({"stride": (1, 2)}, f"stride is (1, 2), {ONE_OR_THREE} 1"),
        ({"dilation": (1, 1, 0)}, f"dilation is (1, 1, 0), {ONE_OR_THREE} 1"),
        ({"padding": -1}, f"padding is -1, {ONE_OR_THREE} 0"),
        ({"padding": "half"}, "padding is 'half', expected 'same', 'valid', or numbers"),
        (
            {"padding": "same", "stride": (1, 2, 1)},
            "padding is 'same' with stride (1, 2, 1); only with stride 1 do the sizes stay the same",
        ),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(options, message):
    for make in (
        lambda: conv3d(torch.zeros(1, 3, 5, 7, 9), torch.zeros(2, 3, 1, 1, 1), **options),
        lambda: frame_conv3d(torch.zeros(1, 3, 5, 7, 9), torch.zeros(2, 3, 1, 1, 1), **options),
        lambda: Conv3d(3, 2, 1, **options),
    ):
        with pytest.raises(ValueError) as caught:
            make()
        assert str(caught.value) == message


def test_a_kernel_of_no_size_is_named_by_all_that_take_one():
    clip = torch.zeros(1, 3, 5, 7, 9)
    for make in (
        lambda: unfold(clip, 0),
        lambda: pad(clip, 0, padding="same"),
        lambda: Conv3d(3, 2, 0),
        lambda: Conv2Plus1d(3, 2, 0, mid_channels=1),
        lambda: middle_channels(3, 2, 0),
    ):
        with pytest.raises(ValueError) as caught:
            make()
        assert str(caught.value) == f"kernel_size is 0, {ONE_OR_THREE} 1"
    for options, message in (
        ({"stride": 0}, f"stride is 0, {ONE_OR_THREE} 1"),
        ({"padding": -1}, f"padding is -1, {ONE_OR_THREE} 0"),
    ):
        with pytest.raises(ValueError) as caught:
            Conv2Plus1d(3, 2, 1, **options)
        assert str(caught.value) == message
    for options, message in (
        ({"stride": (1, 0, 1)}, f"stride is (1, 0, 1), {ONE_OR_THREE} 1"),
        ({"dilation": 0}, f"dilation is 0, {ONE_OR_THREE} 1"),
    ):
        with pytest.raises(ValueError) as caught:
            unfold(clip, 1, **options)
        assert str(caught.value) == message
        with pytest.raises(ValueError) as caught:
            pad(clip, 1, padding="same", **options)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            dict(in_channels=5, out_channels=4, groups=2),
            "in_channels 5 is not a multiple of groups 2; choose a divisor",
        ),
        (
            dict(in_channels=4, out_channels=5, groups=2),
            "out_channels 5 is not a multiple of groups 2; choose a divisor",
        ),
        (
            dict(in_channels=4, out_channels=4, groups=0),
            "in_channels 4 is not a multiple of groups 0; choose a divisor",
        ),
        (dict(in_channels=4, out_channels=0), "out_channels 0 is not a multiple of groups 1; choose a divisor"),
        (
            dict(in_channels=4, out_channels=4, padding_mode="circular"),
            "padding_mode is 'circular', expected 'zeros'; pad the clip first, with F.pad",
        ),
        (dict(in_channels=4, out_channels=4, method="fast"), "method is 'fast', expected 'plain' or 'frames'"),
    ],
)
def test_constructor_names_what_does_not_go_together(arguments, message):
    with pytest.raises(ValueError) as caught:
        Conv3d(kernel_size=3, **arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "options",
    [{}, {"padding": 2, "stride": 3}, {"padding": "same"}, {"dilation": (1, 2, 3), "groups": 3, "bias": False}],
)
def test_a_module_keeps_the_numbers_that_torch_keeps(options):
    module, twin = Conv3d(3, 6, 5, **options), nn.Conv3d(3, 6, 5, **options)
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(module, name) == getattr(twin, name)
    assert module.state_dict().keys() == twin.state_dict().keys()
    assert module.method == "plain"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("method", ["plain", "frames"])
def test_a_module_computes_by_the_method_it_is_told(method, monkeypatch):
    monkeypatch.setattr(library, "conv3d", lambda *arguments: "plain")
    monkeypatch.setattr(library, "frame_conv3d", lambda *arguments: "frames")
    assert Conv3d(1, 1, 1, method=method)(torch.zeros(1, 1, 1, 1, 1)) == method


def test_both_factors_add_a_bias_unless_told():
    for options, learned in (({}, True), ({"bias": True}, True), ({"bias": False}, False)):
        module = Conv2Plus1d(3, 5, 3, **options)
        assert (module.spatial.bias is not None) == (module.temporal.bias is not None) == learned


def test_weights_are_made_where_and_as_what_is_asked():
    module = Conv3d(3, 5, 3, device="meta", dtype=torch.bfloat16)
    assert {(x.device.type, x.dtype) for x in module.parameters()} == {("meta", torch.bfloat16)}


def test_output_size_names_the_numbers():
    with pytest.raises(ShapeError) as caught:
        output_size(2, 3, padding=1, dilation=2)
    assert str(caught.value) == (
        "size 2 + 2 x padding 1 = 4 is less than the 5 that the kernel reaches over "
        "(dilation 2 x (kernel_size 3 - 1) + 1); pad more or take a smaller kernel"
    )
    for name, number, least in (("stride", 0, 1), ("dilation", 0, 1), ("padding", -1, 0), ("kernel_size", 0, 1)):
        with pytest.raises(ValueError) as caught:
            output_size(5, **({"kernel_size": 3} | {name: number}))
        assert str(caught.value) == f"{name} is {number}, expected at least {least}"


def test_receptive_field_names_the_lengths_that_differ():
    for strides, dilations in (([1, 2], None), ([1, 2, 1, 1], [1, 1, 1]), (None, [1, 2])):
        with pytest.raises(ValueError) as caught:
            receptive_field([3, 3, 3], strides, dilations)
        counts = [3 if numbers is None else len(numbers) for numbers in (strides, dilations)]
        assert str(caught.value) == (
            f"3 kernel sizes, {counts[0]} strides and {counts[1]} dilations; give one of each for every layer"
        )


def test_one_number_is_three():
    assert triple("stride", 2) == triple("stride", [2, 2, 2]) == (2, 2, 2)


def test_a_module_prints_its_numbers():
    assert repr(Conv3d(4, 6, (2, 3, 5), (1, 2, 1), (0, 1, 0), groups=2, bias=False)) == (
        "Conv3d(4, 6, kernel_size=(2, 3, 5), stride=(1, 2, 1), padding=(0, 1, 0), "
        "dilation=(1, 1, 1), groups=2, bias=False, method='plain')"
    )
    assert "padding='same'" in repr(Conv3d(4, 6, 3, padding="same"))
