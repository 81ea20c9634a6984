"""Normalisation: every token is brought to one scale before a layer reads it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minivid.shapes import ShapeError


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
    last = tuple(range(-axes, 0))
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normal = wide * (wide.square().mean(last, keepdim=True) + eps).rsqrt()
    return (normal if weight is None else normal * weight).to(x.dtype)


class LayerNorm(nn.Module):
    """layer_norm with its learned scale and shift; the twin of torch.nn.LayerNorm.

    Args:
        normalized_shape: the last axes of the input, as d or (h, w).
        eps: as in layer_norm.
        elementwise_affine: whether scale (`weight`) and shift (`bias`) are learned.
        bias: False = a scale without a shift.

    Source: Ba, Kiros and Hinton 2016, section 3 (arXiv:1607.06450).
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ):
        super().__init__()
        self.normalized_shape = _as_tuple(normalized_shape)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(self.normalized_shape)) if elementwise_affine else None
        self.bias = nn.Parameter(torch.zeros(self.normalized_shape)) if elementwise_affine and bias else None

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Normalise every token.

        Args:
            x: any axes, then those of normalized_shape.

        Raises:
            ShapeError: if the last axes are others.
        """
        _check(x, self.normalized_shape)
        return layer_norm(x, self.weight, self.bias, axes=len(self.normalized_shape), eps=self.eps)

    def extra_repr(self) -> str:
        """The numbers of the constructor."""
        return f"{self.normalized_shape}, eps={self.eps}"


class RMSNorm(nn.Module):
    """rms_norm with its learned scale; the twin of torch.nn.RMSNorm.

    Args:
        normalized_shape: the last axes of the input, as d or (h, w).
        eps: as in rms_norm; None = the distance from 1 to the next number of the type it is computed in.
        elementwise_affine: whether the scale (`weight`) is learned.

    Source: Zhang and Sennrich 2019, equation 4 (arXiv:1910.07467).
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
    ):
        super().__init__()
        self.normalized_shape = _as_tuple(normalized_shape)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(self.normalized_shape)) if elementwise_affine else None

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
        return f"{self.normalized_shape}, eps={self.eps}"


def _as_tuple(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    return (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)


def _check(x: Tensor, normalized_shape: tuple[int, ...]) -> None:
    if x.shape[-len(normalized_shape) :] != normalized_shape:
        raise ShapeError(f"x: shape {tuple(x.shape)}, expected the last axes to be {normalized_shape}")
