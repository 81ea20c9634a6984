"""3D convolution: one small kernel, laid over every place and moment of a clip; each time a sum of products."""

import itertools
import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from minivid.layers.vmap import map_one_by_one
from minivid.shapes import ShapeError

# One number for time, height and width alike, or one for each.
Triple = int | Sequence[int]


def output_size(size: int, kernel_size: int, *, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """How many places a kernel has along one axis.

        floor((size + 2 padding - reach) / stride) + 1,   reach = dilation (kernel_size - 1) + 1

    Args:
        size: frames, pixel rows or pixel columns of the input.
        kernel_size: numbers of the kernel along this axis.
        stride: from one place of the kernel to the next.
        padding: zeros before the first number, and as many behind the last.
        dilation: from one number of the kernel to the next.

    Raises:
        ShapeError: if the kernel does not fit once.
        ValueError: if kernel_size, stride or dilation is below 1, or padding below 0.

    Source: Dumoulin and Visin 2016, relationship 15 (arXiv:1603.07285).
    """
    for name, number, least in (
        ("kernel_size", kernel_size, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
    ):
        if number < least:
            raise ValueError(f"{name} is {number}, expected at least {least}")
    reach = dilation * (kernel_size - 1) + 1
    padded = size + 2 * padding
    if padded < reach:
        raise ShapeError(
            f"size {size} + 2 x padding {padding} = {padded} is less than the {reach} that the kernel reaches over "
            f"(dilation {dilation} x (kernel_size {kernel_size} - 1) + 1); pad more or take a smaller kernel"
        )
    return (padded - reach) // stride + 1


def conv3d(
    input: Float[Tensor, "b c t h w"],
    weight: Float[Tensor, "c_out c_group k_t k_h k_w"],
    bias: Float[Tensor, " c_out"] | None = None,
    stride: Triple = 1,
    padding: Triple | str = 0,
    dilation: Triple = 1,
    groups: int = 1,
) -> Float[Tensor, "b c_out t_out h_out w_out"]:
    """Lay a kernel over every place of a clip; every output number is the sum of products with what lies under it.

        output[b, o, t, h, w] = bias[o] + sum over c, i, j, k of
            weight[o, c, i, j, k] * padded[b, c, stride_t t + dilation_t i, stride_h h + dilation_h j, ...]

    The kernel is not flipped: mathematics calls this a cross-correlation. All windows are one view of the padded clip,
    and one matrix product takes every sum at once. `frame_conv3d` gives the same in less time and memory.

    Args:
        input: the clip.
        weight: one kernel for every output channel. With groups, c_group = c / groups.
        bias: added to every number of an output channel; None = nothing.
        stride: from one place of the kernel to the next, along time, height and width.
        padding: zeros on both sides of time, height and width; "valid" = none; "same" = as many as make the output
            as long as the input, of an odd number one more behind than before.
        dilation: from one number of the kernel to the next, along time, height and width.
        groups: the channels fall into so many groups, one behind the other, and every group is a convolution of its
            own.

    Returns:
        The sums, `output_size` many along each axis.

    Raises:
        ShapeError: if the channels do not fit together, or the kernel not into the clip.
        ValueError: if stride or dilation is below 1, padding below 0, or padding is "same" and a stride above 1.

    Source: Tran et al. 2015 (arXiv:1412.0767); as a matrix product: Chellapilla, Puri and Simard 2006.
    """
    check_channels(input, weight, bias, groups)
    kernel = weight.shape[2:]
    windows = unfold(pad(input, kernel, stride, padding, dilation), kernel, stride, dilation)
    columns = rearrange(windows, "b (g c) t h w i j k -> b g (c i j k) (t h w)", g=groups)
    rows = rearrange(weight, "(g o) c i j k -> g o (c i j k)", g=groups)
    output = rows @ columns
    if bias is not None:
        output = output + rearrange(bias, "(g o) -> g o 1", g=groups).to(output.dtype)
    t, h, w = windows.shape[2:5]
    return rearrange(output, "b g o (t h w) -> b (g o) t h w", t=t, h=h, w=w)


def frame_conv3d(
    input: Float[Tensor, "b c t h w"],
    weight: Float[Tensor, "c_out c_group k_t k_h k_w"],
    bias: Float[Tensor, " c_out"] | None = None,
    stride: Triple = 1,
    padding: Triple | str = 0,
    dilation: Triple = 1,
    groups: int = 1,
) -> Float[Tensor, "b c_out t_out h_out w_out"]:
    """The output of `conv3d`, one frame of it after the other, without ever keeping all windows.

    A copy of all windows is the clip k_t k_h k_w times over. Here the windows of one output frame fill one buffer,
    which the next frame uses again, and are multiplied while they are near. A convolution is linear in the clip and in
    the kernel, so three functions are all it takes to train, and each is the gradient of the other two:

        conv(clip, kernel),   to_clip(grad, kernel): the products laid back,   to_kernel(grad, clip): grad windows^T

    Args:
        input, weight, bias, stride, padding, dilation, groups: as in `conv3d`.

    Returns:
        As `conv3d`.

    Raises:
        ShapeError, ValueError: as `conv3d`.

    Source: Chellapilla, Puri and Simard 2006; a part at a time: Chetlur et al. 2014, section 3.2 (arXiv:1410.0759).
    """
    check_channels(input, weight, bias, groups)
    device = input.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):  # "meta" has none
        dtype = torch.get_autocast_dtype(device)
        input, weight, bias = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    padded = pad(input, weight.shape[2:], stride, padding, dilation)
    return _Conv.apply(padded, weight, bias, triple("stride", stride), triple("dilation", dilation), groups)


def _conv_frames(
    padded: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    windows = unfold(padded, weight.shape[2:], stride, dilation)
    b, c, t, h, w, *kernel = windows.shape
    rows = rearrange(weight, "(g o) c i j k -> g o (c i j k)", g=groups)
    output = padded.new_empty(b, len(weight), t, h, w)
    columns, product = padded.new_empty(c, *kernel, h, w), padded.new_empty(len(weight), h, w)
    for clip, frame in itertools.product(range(b), range(t)):
        columns.copy_(rearrange(windows[clip, :, frame], "c h w i j k -> c i j k h w"))
        torch.bmm(rows, columns.view(groups, -1, h * w), out=product.view(groups, -1, h * w))
        if bias is None:
            output[clip, :, frame] = product
        else:
            torch.add(product, bias[:, None, None], out=output[clip, :, frame])
    return output


def _conv_to_clip(
    grad: Tensor, weight: Tensor, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    # Half precision would lose what up to k_t k_h k_w windows add to one number.
    padded = grad.new_zeros(size, dtype=torch.promote_types(grad.dtype, torch.float32))
    windows = unfold(padded, weight.shape[2:], stride, dilation)
    b, c, t, h, w, *kernel = windows.shape
    rows = rearrange(weight, "(g o) c i j k -> g (c i j k) o", g=groups)
    columns = grad.new_empty(c, *kernel, h, w)
    for clip, frame in itertools.product(range(b), range(t)):
        torch.bmm(rows, grad[clip, :, frame].reshape(groups, -1, h * w), out=columns.view(groups, -1, h * w))
        # Windows share numbers, but those under one place of the kernel lie apart: each is added by itself.
        for j, k in itertools.product(range(kernel[1]), range(kernel[2])):
            windows[clip, :, frame, :, :, :, j, k] += rearrange(columns[:, :, j, k], "c i h w -> c h w i")
    return padded.to(grad.dtype)


def _conv_to_kernel(
    grad: Tensor, padded: Tensor, size: Sequence[int], stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    windows = unfold(padded, size[2:], stride, dilation)
    b, c, t, h, w, *kernel = windows.shape
    columns = padded.new_empty(c, *kernel, h, w)
    # Half precision would lose what the frames add up to.
    weight = grad.new_zeros(size, dtype=torch.promote_types(grad.dtype, torch.float32))
    sums = weight.view(groups, size[0] // groups, -1)
    for clip, frame in itertools.product(range(b), range(t)):
        columns.copy_(rearrange(windows[clip, :, frame], "c h w i j k -> c i j k h w"))
        sums += torch.bmm(grad[clip, :, frame].reshape(groups, -1, h * w), columns.view(groups, -1, h * w).mT)
    return weight.to(grad.dtype)


# Operators of torch, not plain functions: torch.compile takes an operator as one step instead of unrolling its loops,
# and vmap can be told how to map what writes into buffers.
_SETTINGS = "int[] stride, int[] dilation, int groups) -> Tensor"
_conv = torch.library.custom_op(
    "minivid::conv_frames",
    _conv_frames,
    mutates_args=(),
    schema=f"(Tensor padded, Tensor weight, Tensor? bias, {_SETTINGS}",
)
_to_clip = torch.library.custom_op(
    "minivid::conv_to_clip",
    _conv_to_clip,
    mutates_args=(),
    schema=f"(Tensor grad, Tensor weight, SymInt[] size, {_SETTINGS}",
)
_to_kernel = torch.library.custom_op(
    "minivid::conv_to_kernel",
    _conv_to_kernel,
    mutates_args=(),
    schema=f"(Tensor grad, Tensor padded, SymInt[] size, {_SETTINGS}",
)


@_conv.register_fake
def _(padded, weight, bias, stride, dilation, groups):
    t, h, w = unfold(padded, weight.shape[2:], stride, dilation).shape[2:5]
    return padded.new_empty(padded.shape[0], weight.shape[0], t, h, w)


@_to_clip.register_fake
@_to_kernel.register_fake
def _(grad, other, size, *_):
    return grad.new_empty(size)


map_one_by_one(_conv, _to_clip, _to_kernel)


class _Bilinear(torch.autograd.Function):
    """A function of two tensors, linear in each, and settings; what is kept for the pass back are the two."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx, inputs, output):
        one, other, *_, stride, dilation, groups = inputs
        ctx.settings = stride, dilation, groups
        ctx.save_for_backward(one, other)


class _Conv(_Bilinear):
    @staticmethod
    def forward(padded, weight, bias, stride, dilation, groups):
        return _conv(padded, weight, bias, stride, dilation, groups)

    @staticmethod
    def backward(ctx, grad):
        (padded, weight), wanted = ctx.saved_tensors, ctx.needs_input_grad
        return (
            _ToClip.apply(grad, weight, padded.shape, *ctx.settings) if wanted[0] else None,
            _ToKernel.apply(grad, padded, weight.shape, *ctx.settings) if wanted[1] else None,
            grad.sum((0, 2, 3, 4)) if wanted[2] else None,
            *[None] * 3,
        )


class _ToClip(_Bilinear):
    @staticmethod
    def forward(grad, weight, size, stride, dilation, groups):
        return _to_clip(grad, weight, size, stride, dilation, groups)

    @staticmethod
    def backward(ctx, padded):
        (grad, weight), wanted = ctx.saved_tensors, ctx.needs_input_grad
        return (
            _Conv.apply(padded, weight, None, *ctx.settings) if wanted[0] else None,
            _ToKernel.apply(grad, padded, weight.shape, *ctx.settings) if wanted[1] else None,
            *[None] * 4,
        )


class _ToKernel(_Bilinear):
    @staticmethod
    def forward(grad, padded, size, stride, dilation, groups):
        return _to_kernel(grad, padded, size, stride, dilation, groups)

    @staticmethod
    def backward(ctx, weight):
        (grad, padded), wanted = ctx.saved_tensors, ctx.needs_input_grad
        return (
            _Conv.apply(padded, weight, None, *ctx.settings) if wanted[0] else None,
            _ToClip.apply(grad, weight, padded.shape, *ctx.settings) if wanted[1] else None,
            *[None] * 4,
        )


def pad(
    input: Float[Tensor, "b c t h w"],
    kernel_size: Triple,
    stride: Triple = 1,
    padding: Triple | str = 0,
    dilation: Triple = 1,
) -> Float[Tensor, "b c t_pad h_pad w_pad"]:
    """Put zeros around a clip, before and behind it in time, height and width.

    Args:
        input: the clip.
        kernel_size, stride, padding, dilation: as in `conv3d`; all but padding matter for "same" only.

    Raises:
        ValueError: as for `conv3d`.
    """
    before, behind = _zeros(kernel_size, stride, padding, dilation)
    # F.pad counts the axes from the last, and wants what comes before and behind each.
    return F.pad(input, [zeros for pair in zip(before[::-1], behind[::-1], strict=True) for zeros in pair])


def unfold(
    padded: Float[Tensor, "b c t_pad h_pad w_pad"], kernel_size: Triple, stride: Triple = 1, dilation: Triple = 1
) -> Float[Tensor, "b c t h w k_t k_h k_w"]:
    """Every window of a clip that a kernel may lie on, as a view: overlapping windows share their numbers.

        windows[b, c, t, h, w, i, j, k] = padded[b, c, stride_t t + dilation_t i, stride_h h + dilation_h j, ...]

    Args:
        padded: the clip.
        kernel_size: numbers of the kernel along time, height and width.
        stride: from one window to the next.
        dilation: from one number of a window to the next.

    Returns:
        For each place t h w the k_t x k_h x k_w numbers below the kernel. Nothing is copied.

    Raises:
        ShapeError: if the kernel does not fit into the clip.
        ValueError: if a number is below 1.
    """
    sizes = zip(triple("kernel_size", kernel_size), triple("stride", stride), triple("dilation", dilation), strict=True)
    for axis, (name, (size, step, gap)) in enumerate(zip("thw", sizes, strict=True), start=2):
        reach = gap * (size - 1) + 1
        if padded.shape[axis] < reach:
            raise ShapeError(
                f"input: {name}={padded.shape[axis]} with its padding is less than the {reach} that the kernel reaches "
                f"over (dilation {gap} x (kernel_size {size} - 1) + 1); pad more or take a smaller kernel"
            )
        padded = padded.unfold(axis, reach, step)[..., ::gap]  # the window's own axis comes last
    return padded


def triple(name: str, value: Triple, *, least: int = 1) -> tuple[int, int, int]:
    """One number for time, height and width alike, or three, as three.

    Args:
        name: what the numbers are, for the error.
        value: one number or three.
        least: the smallest that is allowed.

    Raises:
        ValueError: if there are not one or three, or one is below `least`.
    """
    three = (value,) * 3 if isinstance(value, int) else tuple(value)
    if len(three) != 3 or min(three) < least:
        raise ValueError(
            f"{name} is {value}, expected one number, or three for time, height and width, of at least {least}"
        )
    return three


class Conv3d(nn.Module):
    """A convolution over time, height and width whose kernels are learned; the twin of torch.nn.Conv3d.

    The same arguments in the same order, the same names `weight` and `bias` in the state dict and, from the same seed,
    the same first numbers. Not taken: padding other than by zeros.

    Args:
        in_channels: channels c of the clip.
        out_channels: channels of the result, one kernel for each.
        kernel_size: numbers of the kernel along time, height and width.
        stride, padding, dilation, groups: as in `conv3d`.
        bias: whether a number for each output channel is learned and added.
        padding_mode: "zeros".
        device, dtype: of the weights.
        method: "plain" computes `conv3d`, "frames" the same by `frame_conv3d`.

    Raises:
        ValueError: if the groups do not divide the channels, a number is out of range, or padding_mode or method is
            another.

    Source: Tran et al. 2015 (arXiv:1412.0767).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Triple,
        stride: Triple = 1,
        padding: Triple | str = 0,
        dilation: Triple = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        method: str = "plain",
    ):
        super().__init__()
        if method not in ("plain", "frames"):
            raise ValueError(f"method is {method!r}, expected 'plain' or 'frames'")
        if padding_mode != "zeros":
            raise ValueError(f"padding_mode is {padding_mode!r}, expected 'zeros'; pad the clip first, with F.pad")
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if groups < 1 or channels < 1 or channels % groups:
                raise ValueError(f"{name} {channels} is not a multiple of groups {groups}; choose a divisor")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = triple("kernel_size", kernel_size)
        self.stride = triple("stride", stride)
        self.dilation = triple("dilation", dilation)
        _zeros(self.kernel_size, self.stride, padding, self.dilation)  # refuses what does not go together
        self.padding = padding if isinstance(padding, str) else triple("padding", padding, least=0)
        self.groups = groups
        self.method = method
        kind = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size, **kind))
        self.bias = nn.Parameter(torch.empty(out_channels, **kind)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew, uniform between plus and minus 1 / sqrt(numbers under a kernel).

        Source: LeCun et al. 1998, Efficient BackProp, section 4.6, with the spread that torch.nn.Conv3d takes.
        """
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c_out t_out h_out w_out"]:
        """Convolve a clip with the learned kernels.

        Args:
            input: the clip, with c = in_channels.

        Raises:
            ShapeError: if the clip has other channels or is smaller than a kernel.
        """
        convolve = conv3d if self.method == "plain" else frame_conv3d
        return convolve(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """The numbers of the constructor."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding!r}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}, "
            f"method={self.method!r}"
        )


def middle_channels(in_channels: int, out_channels: int, kernel_size: Triple) -> int:
    """Channels between the two halves of a (2+1)D convolution, so that it has as many weights as the full one.

        floor(k_t k_h k_w c_in c_out / (k_h k_w c_in + k_t c_out))

    Args:
        in_channels, out_channels: channels c_in and c_out of the convolution that is replaced.
        kernel_size: its kernel, along time, height and width.

    Source: Tran et al. 2018, section 3.5 (arXiv:1711.11248).
    """
    k_t, k_h, k_w = triple("kernel_size", kernel_size)
    return k_t * k_h * k_w * in_channels * out_channels // (k_h * k_w * in_channels + k_t * out_channels)


class Conv2Plus1d(nn.Module):
    """A convolution within each frame, then one across frames: a 3D kernel in two factors.

        output = temporal(activation(spatial(input)))

    `spatial` has the kernel 1 x k_h x k_w, `temporal` k_t x 1 x 1.

    Args:
        in_channels, out_channels, kernel_size, stride, padding: as in `Conv3d`, of the convolution that is replaced.
        mid_channels: channels between the two; None = `middle_channels`, the same number of weights.
        activation: what stands between; None = nn.ReLU(). With nn.Identity() the pair is one convolution, with
            `kernel()`.
        bias: whether both add one.

    Raises:
        ValueError: as for `Conv3d`.

    Source: Tran et al. 2018, section 3.5 (arXiv:1711.11248).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Triple,
        stride: Triple = 1,
        padding: Triple | str = 0,
        *,
        mid_channels: int | None = None,
        activation: nn.Module | None = None,
        bias: bool = True,
    ):
        super().__init__()
        if mid_channels is None:
            mid_channels = middle_channels(in_channels, out_channels, kernel_size)
        k_t, k_h, k_w = triple("kernel_size", kernel_size)
        s_t, s_h, s_w = triple("stride", stride)
        if isinstance(padding, str):
            within = across = padding
        else:
            p_t, p_h, p_w = triple("padding", padding, least=0)
            within, across = (0, p_h, p_w), (p_t, 0, 0)
        self.spatial = Conv3d(in_channels, mid_channels, (1, k_h, k_w), (1, s_h, s_w), within, bias=bias)
        self.activation = nn.ReLU() if activation is None else activation
        self.temporal = Conv3d(mid_channels, out_channels, (k_t, 1, 1), (s_t, 1, 1), across, bias=bias)

    def forward(self, input: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c_out t_out h_out w_out"]:
        """Convolve within frames, then across them.

        Args:
            input: the clip, with c = in_channels.

        Raises:
            ShapeError: as for `Conv3d`.
        """
        return self.temporal(self.activation(self.spatial(input)))

    def kernel(self) -> Float[Tensor, "c_out c k_t k_h k_w"]:
        """The full kernel that the two factors multiply to: without activation and bias, the same convolution.

        kernel[o, c, i, j, k] = sum_m temporal[o, m, i] spatial[m, c, j, k]
        """
        spatial = rearrange(self.spatial.weight, "m c 1 j k -> m c j k")
        temporal = rearrange(self.temporal.weight, "o m i 1 1 -> o m i")
        return torch.einsum("omi,mcjk->ocijk", temporal, spatial)


def receptive_field(
    kernel_sizes: Sequence[int], strides: Sequence[int] | None = None, dilations: Sequence[int] | None = None
) -> int:
    """How many frames of the clip one number sees, after convolutions one behind the other.

        1 + sum_l dilation_l (kernel_size_l - 1) stride_1 ... stride_(l-1)

    Args:
        kernel_sizes: of each layer along the axis in question, from the clip upwards.
        strides, dilations: of each layer; None = 1 everywhere.

    Raises:
        ValueError: if the three are not equally long.

    Source: Araujo, Norris and Sim 2019, Computing receptive fields of convolutional neural networks, equation 2.
    """
    strides = [1] * len(kernel_sizes) if strides is None else strides
    dilations = [1] * len(kernel_sizes) if dilations is None else dilations
    if not len(kernel_sizes) == len(strides) == len(dilations):
        raise ValueError(
            f"{len(kernel_sizes)} kernel sizes, {len(strides)} strides and {len(dilations)} dilations; "
            "give one of each for every layer"
        )
    frames, step = 1, 1  # step: frames of the clip from one number of this layer to the next
    for kernel_size, stride, dilation in zip(kernel_sizes, strides, dilations, strict=True):
        frames += dilation * (kernel_size - 1) * step
        step *= stride
    return frames


def check_channels(
    input: Float[Tensor, "..."], weight: Float[Tensor, "..."], bias: Float[Tensor, "..."] | None, groups: int
) -> None:
    """Refuse a clip, kernels and biases that do not fit together.

    Args:
        input, weight, bias, groups: as in `conv3d`.

    Raises:
        ShapeError: if they do not.
    """
    if input.ndim != 5 or weight.ndim != 5:
        raise ShapeError(
            f"input {tuple(input.shape)} and weight {tuple(weight.shape)}: expected b c t h w and "
            "c_out c_group k_t k_h k_w; one clip alone becomes a batch by clip[None]"
        )
    if groups < 1 or input.shape[1] != groups * weight.shape[1] or weight.shape[0] % groups:
        raise ShapeError(
            f"input: c={input.shape[1]}, but the weight {tuple(weight.shape)} in {groups} groups takes "
            f"c={groups * weight.shape[1]}; c and c_out are the same number of channels in every group"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"bias: shape {tuple(bias.shape)}, expected one number for each of {weight.shape[0]} kernels")


def _zeros(
    kernel_size: Triple, stride: Triple, padding: Triple | str, dilation: Triple
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Zeros before and behind time, height and width."""
    if padding == "valid":
        return (0, 0, 0), (0, 0, 0)
    if padding == "same":
        if max(triple("stride", stride)) > 1:
            raise ValueError(f"padding is 'same' with stride {stride}; only with stride 1 do the sizes stay the same")
        sizes, gaps = triple("kernel_size", kernel_size), triple("dilation", dilation)
        total = [gap * (size - 1) for size, gap in zip(sizes, gaps, strict=True)]
        return tuple(zeros // 2 for zeros in total), tuple(zeros - zeros // 2 for zeros in total)
    if isinstance(padding, str):
        raise ValueError(f"padding is {padding!r}, expected 'same', 'valid', or numbers")
    return (triple("padding", padding, least=0),) * 2
