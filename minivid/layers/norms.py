"""Normalisation: every token is brought to one scale before a layer reads it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from numbers import Integral

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minivid.shapes import ShapeError

# Numbers that block_layer_norm works on at a time: 0.5 MiB in float32, so that a block and what is made of it stay in
# the cache of a processor core.
BLOCK = 2**17


def layer_norm(
    x: Float[Tensor, "..."],
    weight: Float[Tensor, "..."] | None = None,
    bias: Float[Tensor, "..."] | None = None,
    *,
    axes: int = 1,
    eps: float = 1e-5,
) -> Float[Tensor, "..."]:
    """Bring the numbers of a token to mean 0 and variance 1, then scale and shift each by a learned number.

        y = (x - mean) / sqrt(variance + eps) * weight + bias,   variance = mean of (x - mean)^2

    The variance divides by the count of numbers, not by one less. Half-precision numbers are computed in float32.

    Args:
        x: tokens; mean and variance are taken over the last `axes` axes together.
        weight, bias: of a token's shape; None = 1 and 0.
        axes: how many axes a token has.
        eps: keeps the root away from 0 where all numbers are equal.

    Source: Ba, Kiros and Hinton 2016, equations 3 and 4 (arXiv:1607.06450).
    """
    last = tuple(range(-axes, 0))
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean(last, keepdim=True)
    normal = centred * (centred.square().mean(last, keepdim=True) + eps).rsqrt()
    if weight is not None:
        normal = normal * weight
    if bias is not None:
        normal = normal + bias
    return normal.to(x.dtype)


def layer_norm_gradient(
    grad: Float[Tensor, "..."],
    x: Float[Tensor, "..."],
    weight: Float[Tensor, "..."],
    *,
    axes: int = 1,
    eps: float = 1e-5,
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."], Float[Tensor, "..."]]:
    """What autograd finds for layer_norm, as formulas: how a loss changes with x, with the scale and with the shift.

    With z = (x - mean) / deviation, deviation = sqrt(variance + eps), and g for grad:

        d x      = (g weight - mean(g weight) - z mean(g weight z)) / deviation
        d weight = sum over tokens of g z
        d bias   = sum over tokens of g

    The means run over the numbers of a token. The first two terms say that no gradient is left that would move all
    numbers of a token alike, the third that none is left that would stretch them.

    Args:
        grad: how the loss changes with the result of layer_norm; of the shape of x.
        x, weight, axes, eps: as in `layer_norm`.

    Returns:
        d x, of the shape of x, and d weight and d bias, of a token's shape.
    """
    last = tuple(range(-axes, 0))
    centred = x - x.mean(last, keepdim=True)
    inverse = (centred.square().mean(last, keepdim=True) + eps).rsqrt()
    z, scaled = centred * inverse, grad * weight
    slope = (scaled * z).mean(last, keepdim=True)
    d_x = (scaled - scaled.mean(last, keepdim=True) - z * slope) * inverse
    token = x.shape[x.ndim - axes :]
    return d_x, (grad * z).reshape(-1, *token).sum(0), grad.reshape(-1, *token).sum(0)


def block_layer_norm(
    x: Float[Tensor, "..."],
    weight: Float[Tensor, "..."] | None = None,
    bias: Float[Tensor, "..."] | None = None,
    *,
    axes: int = 1,
    eps: float = 1e-5,
) -> Float[Tensor, "..."]:
    """The numbers of layer_norm and its gradient, some tokens at a time: the same in a fraction of the time.

    Autograd keeps the result of every step for the way back, each a new tensor of the size of x. Here a block of tokens
    goes through all steps while it lies in the processor's cache, only mean and 1 / deviation are kept, two numbers a
    token, and the way back is that of `layer_norm_gradient`.

    Args:
        x, weight, bias, axes, eps: as in `layer_norm`.

    Source: Ba, Kiros and Hinton 2016, equations 3 and 4 (arXiv:1607.06450).
    """
    if torch.compiler.is_compiling():  # a compiler joins the steps by itself
        return layer_norm(x, weight, bias, axes=axes, eps=eps)
    wide = torch.promote_types(x.dtype, torch.float32)
    token = x.shape[x.ndim - axes :]
    weight = x.new_ones(token) if weight is None else weight
    bias = x.new_zeros(token) if bias is None else bias
    return _Blocks.apply(x.to(wide), weight.to(wide), bias.to(wide), axes, eps)[0].to(x.dtype)


class _Blocks(torch.autograd.Function):
    """block_layer_norm as one step of autograd; it gives y, mean and 1 / deviation."""

    @staticmethod
    def forward(x, weight, bias, axes, eps):
        rows = _rows(x, axes)
        d = rows.shape[1]
        weight, bias, result = weight.flatten(), bias.flatten(), torch.empty_like(rows)
        means, inverses = rows.new_empty(2, len(rows), 1)
        for numbers, y, mean, inverse in _blocks(rows, result, means, inverses):
            torch.mean(numbers, 1, keepdim=True, out=mean)
            torch.sub(numbers, mean, out=y)
            torch.linalg.vector_norm(y, dim=1, keepdim=True, out=inverse)
            inverse.square_().div_(d).add_(eps).rsqrt_()
            y.mul_(inverse).mul_(weight).add_(bias)
        return result.view(x.shape), means, inverses

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, bias, ctx.axes, ctx.eps = inputs
        _, means, inverses = output
        ctx.mark_non_differentiable(means, inverses)
        ctx.save_for_backward(x, weight, means, inverses)
        ctx.save_for_forward(x, weight, bias)

    @staticmethod
    def jvp(ctx, *changes):
        return _change(partial(layer_norm, axes=ctx.axes, eps=ctx.eps), ctx.saved_tensors, changes), None, None

    @staticmethod
    def backward(ctx, grad, *_):
        return *_BlocksGradient.apply(grad, *ctx.saved_tensors, ctx.axes, ctx.eps), None, None

    @staticmethod
    def vmap(info, in_dims, x, weight, bias, axes, eps):
        def plain(x, weight, bias):
            unread = x.new_empty(0)  # the way back of what is mapped asks for neither mean nor deviation
            return layer_norm(x, weight, bias, axes=axes, eps=eps), unread, unread

        return torch.func.vmap(plain, in_dims[:3])(x, weight, bias), (0, 0, 0)


class _BlocksGradient(torch.autograd.Function):
    """The way back; its own gradient, and what is mapped over an axis, is computed by layer_norm_gradient."""

    @staticmethod
    def forward(grad, x, weight, means, inverses, axes, eps):
        rows = _rows(x, axes)
        result, d = torch.empty_like(rows), rows.shape[1]
        (d_weight, d_bias), weight = rows.new_zeros(2, d), weight.flatten()
        normal, ones, share = rows.new_empty(_block_size(d), d), rows.new_ones(_block_size(d)), weight / d
        # Sums are products with a vector of ones, the fastest way; under autocast they would be taken in bfloat16.
        device = x.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            for g, numbers, dx, mean, inverse in _blocks(_rows(grad, axes), rows, result, means, inverses):
                n, one = normal[: len(g)], ones[: len(g)]
                torch.sub(numbers, mean, out=n).mul_(inverse)
                torch.mul(g, n, out=dx)
                d_weight.addmv_(dx.T, one)
                d_bias.addmv_(g.T, one)
                slope, level = (dx @ share)[:, None], (g @ share)[:, None]
                torch.mul(g, weight, out=dx)
                dx.sub_(level).sub_(n.mul_(slope)).mul_(inverse)
        token = x.shape[x.ndim - axes :]
        return result.view(x.shape), d_weight.view(token), d_bias.view(token)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad, x, weight, _, _, ctx.axes, ctx.eps = inputs
        ctx.save_for_backward(grad, x, weight)
        ctx.save_for_forward(grad, x, weight)

    @staticmethod
    def jvp(ctx, *changes):
        return _change(partial(layer_norm_gradient, axes=ctx.axes, eps=ctx.eps), ctx.saved_tensors, changes)

    @staticmethod
    def backward(ctx, *grads):
        plain = partial(layer_norm_gradient, axes=ctx.axes, eps=ctx.eps)
        _, pull = torch.func.vjp(plain, *ctx.saved_tensors)
        return *pull(grads), None, None, None, None

    @staticmethod
    def vmap(info, in_dims, grad, x, weight, means, inverses, axes, eps):
        plain = partial(layer_norm_gradient, axes=axes, eps=eps)
        return torch.func.vmap(plain, in_dims[:3])(grad, x, weight), (0, 0, 0)


def _change(function: Callable, tensors: Sequence[Tensor], changes: Sequence[Tensor | None]) -> object:
    """How the result changes with the tensors, for forward-mode differentiation.

    The way back is linear in what is sent back, so its own way back is the way forward.
    """
    changes = [torch.zeros_like(t) if c is None else c for t, c in zip(tensors, changes, strict=False)]
    y, pull = torch.func.vjp(function, *tensors)
    start = torch.zeros_like(y) if isinstance(y, Tensor) else tuple(map(torch.zeros_like, y))
    _, push = torch.func.vjp(pull, start)
    return push(tuple(changes))[0]


def _rows(x: Tensor, axes: int) -> Tensor:
    """One token a row."""
    return x.reshape(-1, math.prod(x.shape[x.ndim - axes :]))


def _block_size(d: int) -> int:
    return max(1, BLOCK // d)


def _blocks(rows: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some tokens at a time, of each tensor."""
    return zip(*(tensor.split(_block_size(rows.shape[1])) for tensor in (rows, *others)), strict=True)


def rms_norm(
    x: Float[Tensor, "..."],
    weight: Float[Tensor, "..."] | None = None,
    *,
    axes: int = 1,
    eps: float = 1e-6,
) -> Float[Tensor, "..."]:
    """Bring the numbers of a token to mean square 1, then scale each by a learned number; nothing is shifted.

        y = x / sqrt(mean of x^2 + eps) * weight

    Half-precision numbers are computed in float32.

    Args:
        x: tokens; the mean square is taken over the last `axes` axes together.
        weight: of a token's shape; None = 1.
        axes: how many axes a token has.
        eps: keeps the root away from 0.

    Source: Zhang and Sennrich 2019, equation 4 (arXiv:1910.07467).
    """
    last = -1 if axes == 1 else tuple(range(-axes, 0))
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    normal = wide * (wide.square().mean(last, keepdim=True) + eps).rsqrt()
    normal = normal if weight is None else normal * weight
    return normal if normal.dtype == x.dtype else normal.to(x.dtype)


def group_norm(
    x: Float[Tensor, "b c *places"],
    num_groups: int,
    weight: Float[Tensor, " c"] | None = None,
    bias: Float[Tensor, " c"] | None = None,
    *,
    eps: float = 1e-5,
) -> Float[Tensor, "b c *places"]:
    """Bring the channels of a clip, group by group, to mean 0 and variance 1, then scale and shift each channel.

        y = (x - mean) / sqrt(variance + eps) * weight + bias,   mean and variance over a group and all its places

    With one group this is the layer norm of a whole clip, with one learned number a channel instead of one a place. No
    clip of a batch knows of the others, which is the difference from batch norm. Half-precision numbers are computed in
    float32.

    Args:
        x: pictures or clips, channels first.
        num_groups: the channels fall into so many groups, one behind the other.
        weight, bias: for each channel; None = 1 and 0.
        eps: keeps the root away from 0 where all numbers of a group are equal.

    Raises:
        ShapeError: if the channels do not fall into so many groups.

    Source: Wu and He 2018, equations 1, 2 and 7 (arXiv:1803.08494).
    """
    if x.ndim < 2 or num_groups < 1 or x.shape[1] % num_groups:
        raise ShapeError(f"x: shape {tuple(x.shape)}, expected b c ... with c a multiple of {num_groups} groups")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normal = block_layer_norm(wide.reshape(len(x) * num_groups, -1), eps=eps).view_as(x)
    channel = (-1, *[1] * (x.ndim - 2))
    if weight is not None:
        normal = normal * weight.view(channel)
    if bias is not None:
        normal = normal + bias.view(channel)
    return normal.to(x.dtype)


class LayerNorm(nn.Module):
    """layer_norm with its learned scale and shift, computed by block_layer_norm; the twin of torch.nn.LayerNorm.

    Args:
        normalized_shape: the last axes of the input, as d or (h, w).
        eps: as in layer_norm.
        elementwise_affine: whether scale (`weight`) and shift (`bias`) are learned.
        bias: False = a scale without a shift.
        device, dtype: of the parameters.

    Source: Ba, Kiros and Hinton 2016, section 3 (arXiv:1607.06450).
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.normalized_shape = _as_tuple(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        empty = torch.empty(self.normalized_shape, device=device, dtype=dtype)
        self.weight = nn.Parameter(empty) if elementwise_affine else None
        self.bias = nn.Parameter(empty.clone()) if elementwise_affine and bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start anew: scale 1, shift 0."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Normalise every token.

        Args:
            x: any axes, then those of normalized_shape.

        Raises:
            ShapeError: if the last axes are others.
        """
        _check(x, self.normalized_shape)
        return block_layer_norm(x, self.weight, self.bias, axes=len(self.normalized_shape), eps=self.eps)

    def extra_repr(self) -> str:
        """The numbers of the constructor."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(nn.Module):
    """rms_norm with its learned scale; the twin of torch.nn.RMSNorm.

    Args:
        normalized_shape: the last axes of the input, as d or (h, w).
        eps: as in rms_norm; None = the distance from 1 to the next number of the type it is computed in.
        elementwise_affine: whether the scale (`weight`) is learned.
        device, dtype: of the parameter.

    Source: Zhang and Sennrich 2019, equation 4 (arXiv:1910.07467).
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.normalized_shape = _as_tuple(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        empty = torch.empty(self.normalized_shape, device=device, dtype=dtype)
        self.weight = nn.Parameter(empty) if elementwise_affine else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start anew: scale 1."""
        if self.weight is not None:
            nn.init.ones_(self.weight)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Normalise every token.

        Args:
            x: any axes, then those of normalized_shape.

        Raises:
            ShapeError: if the last axes are others.
        """
        _check(x, self.normalized_shape)
        eps = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps if self.eps is None else self.eps
        return rms_norm(x, self.weight, axes=len(self.normalized_shape), eps=eps)

    def extra_repr(self) -> str:
        """The numbers of the constructor."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(nn.Module):
    """group_norm with its learned scale and shift, one of each a channel; the twin of torch.nn.GroupNorm.

    Args:
        num_groups: groups that the channels fall into.
        num_channels: channels c of the input.
        eps: as in group_norm.
        affine: whether scale (`weight`) and shift (`bias`) are learned.
        device, dtype: of the parameters.

    Raises:
        ValueError: if the groups do not divide the channels.

    Source: Wu and He 2018, section 3 (arXiv:1803.08494).
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if num_groups < 1 or num_channels < 1 or num_channels % num_groups:
            raise ValueError(f"num_channels {num_channels} is not a multiple of num_groups {num_groups}")
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        empty = torch.empty(num_channels, device=device, dtype=dtype)
        self.weight = nn.Parameter(empty) if affine else None
        self.bias = nn.Parameter(empty.clone()) if affine else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start anew: scale 1, shift 0."""
        if self.affine:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "b c *places"]) -> Float[Tensor, "b c *places"]:
        """Normalise every group of every clip.

        Args:
            x: pictures or clips, with c = num_channels.

        Raises:
            ShapeError: if there are other channels.
        """
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ShapeError(f"x: shape {tuple(x.shape)}, expected b c ... with c={self.num_channels}")
        return group_norm(x, self.num_groups, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        """The numbers of the constructor."""
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


def _as_tuple(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    return (normalized_shape,) if isinstance(normalized_shape, Integral) else tuple(normalized_shape)


def _check(x: Tensor, normalized_shape: tuple[int, ...]) -> None:
    if x.shape[-len(normalized_shape) :] != normalized_shape:
        raise ShapeError(f"x: shape {tuple(x.shape)}, expected the last axes to be {normalized_shape}")
