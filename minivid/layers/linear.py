"""A linear layer: rows of numbers times a matrix, by the fastest of the libraries for it that torch carries."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F


def linear(
    x: Float[Tensor, "*rows width"], weight: Float[Tensor, "d width"], bias: Float[Tensor, " d"] | None = None
) -> Float[Tensor, "*rows d"]:
    """Multiply every row by a matrix: the numbers and gradients of torch.nn.functional.linear.

        y = W x + b,   dL/dx = W^T dL/dy,   dL/dW = sum over rows of dL/dy x^T,   dL/db = sum over rows of dL/dy

    torch carries two libraries for such a product on a processor, and gives matrices of float32 to MKL, convolutions
    and LSTMs to oneDNN. On processors with 512-bit vectors oneDNN can be twice as fast. Large products of float32 go
    to it here, in full float32 precision; the two sum in another order, so that the last bits differ.

    A large matrix times a few rows takes the time in which the matrix is read. On the same processors oneDNN reads one
    that lies row by row in memory faster than MKL does. For a single row there is a faster way still: where the matrix
    lies column by column and no gradient is wanted, its columns are summed, each times its number of the row, by the
    kernel that torch has for weighted sums of embeddings (FBGEMM's).

    All else is torch's: other types and devices, small products, torch.compile, torch.func, autocast.

    Args:
        x: rows, each of `width` numbers.
        weight: matrix W, one row for every number of the result.
        bias: b, added to every row; None = nothing.

    Raises:
        RuntimeError: torch's own, if rows and matrix do not fit together.

    Source: the gradients, Goodfellow, Bengio and Courville 2016, section 6.5.6 (deeplearningbook.org).
    """
    # Asked first, because a small product takes no longer than a few questions.
    if x.numel() * weight.size(0) >= NUMBERS and not torch.is_autocast_enabled("cpu"):
        if _by_columns(x, weight, bias):
            return _sum_of_columns(x, weight, bias)
        if by_onednn(x, weight, bias) or _by_long_rows(x, weight, bias):
            return _Linear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def product(
    x: Float[Tensor, "n width"], weight: Float[Tensor, "d width"], buffer: Float[Tensor, " size"]
) -> Float[Tensor, "n d"]:
    """x W^T as `linear` gives it, for what writes its own gradient and works in buffers.

    Args:
        x: rows, each of `width` numbers.
        weight: matrix W.
        buffer: n d numbers or more, which the product may be written into. (oneDNN makes a tensor of its own.)

    Returns:
        The product; in the beginning of the buffer or beside it. No gradient goes through it.
    """
    if by_onednn(x, weight):
        return _multiply(x, weight, None)
    return torch.mm(x, weight.mT, out=buffer[: len(x) * len(weight)].view(len(x), len(weight)))


def add_product(total: Float[Tensor, "n d"], x: Float[Tensor, "n width"], weight: Float[Tensor, "d width"]) -> None:
    """Add x W^T, in place: total += x W^T.

    Args:
        total: what is added to. No gradient goes through it.
        x: rows, each of `width` numbers.
        weight: matrix W.
    """
    if by_onednn(x, weight):
        total.add_(_multiply(x, weight, None))
    else:
        total.addmm_(x, weight.mT)


def by_onednn(
    x: Float[Tensor, "*rows width"], weight: Float[Tensor, "d width"], bias: Float[Tensor, " d"] | None = None
) -> bool:
    """Whether `linear` and `product` give this product, of many rows, to oneDNN: the faster one on this processor.

    Args:
        x, weight, bias: as in `linear`.
    """
    if _onednn is None or x.numel() * weight.size(0) < MULTIPLICATIONS or x.numel() < FEW_ROWS * x.size(-1):
        return False
    return _fit(x, weight, bias) and (weight.is_contiguous() or weight.mT.is_contiguous()) and _alone()


class Linear(nn.Linear):
    """torch.nn.Linear whose product is `linear`: the same constructor, weights, numbers and gradients.

        y = W x + b

    Args:
        in_features: numbers of a row, its width.
        out_features: numbers of a row of the result.
        bias, device, dtype: as in torch.nn.Linear.
    """

    # No letters: as with torch's own layer, a trace of shapes names the axes as the layers around it do.
    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Multiply every row by the layer's matrix.

        Args:
            x: rows of in_features numbers.

        Returns:
            As many rows of out_features numbers.
        """
        return linear(x, self.weight, self.bias)


# ---- which library, and how


def _operator() -> Callable | None:
    """The operator by which torch.compile hands a linear layer to oneDNN; None where it is missing or no faster.

    torch documents neither it nor the two names by which `_alone` sees transforms, so nothing depends on them.
    """
    if not (torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX512")):
        return None
    if not (hasattr(torch._C, "_are_functorch_transforms_active") and hasattr(forward_ad, "_current_level")):
        return None
    return getattr(getattr(torch.ops.mkldnn, "_linear_pointwise", None), "default", None)


_onednn = _operator()

# Measured, oneDNN is the faster one from this many multiplications and rows on. Asking and starting take some 15
# microseconds.
MULTIPLICATIONS, FEW_ROWS = 2**22, 16
_PLAIN = (Tensor, nn.Parameter)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _onednn(x, weight, bias, "none", [], "")


# Measured, oneDNN takes 0.5 to 0.9 of MKL's time for fewer rows where a matrix has so many numbers that the caches near
# the processor no longer keep it, and lies row by row. (Of one that lies column by column it can take twice the time.)
LONG = 2**19


def _by_long_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if x.numel() >= FEW_ROWS * x.size(-1) or weight.numel() < LONG or _onednn is None:
        return False
    return _fit(x, weight, bias) and weight.is_contiguous() and _alone()


# Measured, the columns of a matrix of so many numbers are summed in 0.6 to 0.9 of the time of torch's product.
NUMBERS = 3 * 2**16


def _by_columns(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if x.numel() != x.size(-1) or weight.numel() < NUMBERS or _onednn is None:
        return False
    wanted = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    return not wanted and _fit(x, weight, bias) and weight.mT.is_contiguous() and _alone()


def _sum_of_columns(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    columns, firsts = _shares(x.size(-1), torch.get_num_threads())
    y = F.embedding_bag(columns, weight.mT, firsts, mode="sum", per_sample_weights=x.reshape(-1))
    y = (y if y.size(0) == 1 else y.sum(0)).view(*x.shape[:-1], -1)
    return y if bias is None else y + bias


_kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}


def _shares(width: int, threads: int) -> tuple[Tensor, Tensor]:
    """The numbers of all columns, and of those at which the equal shares of the threads begin; made once."""
    shares = _kept.get((width, threads))
    if shares is None:
        step = width // math.gcd(width, threads)
        columns, firsts = torch.arange(width, device="cpu"), torch.arange(0, width, step, device="cpu")
        shares = columns, firsts
        if type(columns) is Tensor:  # no stand-in of a trace
            _kept[width, threads] = shares
    return shares


def _fit(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether these are numbers in memory that can be multiplied; shapes that do not fit are left to torch's error."""
    if weight.ndim != 2 or x.shape[-1] != weight.shape[1] or not (_is_plain(x) and _is_plain(weight)):
        return False
    return bias is None or (bias.shape == weight.shape[:1] and _is_plain(bias))


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is numbers in memory, and no stand-in for others (of a shard, a trace, a quantised matrix)."""
    return type(tensor) in _PLAIN and tensor.dtype is torch.float32 and tensor.is_cpu and tensor.layout is torch.strided


def _alone() -> bool:
    """Whether nothing looks into or changes what operators do: a compiler, torch.func, forward mode."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or not torch.backends.mkldnn.enabled
    )


# Rows that are summed at a time for the gradient of a matrix: both factors are then read from the processor's cache.
ROWS = 1024


class _Linear(torch.autograd.Function):
    """The product as one step of autograd; its gradients are products again, and so have gradients themselves."""

    @staticmethod
    def forward(x, weight, bias):
        return _multiply(x, weight, bias)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        wanted = grad.reshape(-1, grad.shape[-1])
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = linear(grad, weight.mT)
        if ctx.needs_input_grad[1]:
            read = x.reshape(-1, x.shape[-1]).contiguous()
            for some, their in zip(wanted.split(ROWS), read.split(ROWS), strict=True):
                part = linear(some.mT, their.mT)
                to_weight = part if to_weight is None else to_weight.add_(part)
        if ctx.needs_input_grad[2]:
            to_bias = wanted.sum(0)
        return to_x, to_weight, to_bias
