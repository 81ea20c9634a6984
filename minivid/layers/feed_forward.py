"""The feed-forward layer of a transformer: each token by itself goes through a wide hidden layer and back."""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from minivid.layers.linear import Linear


def gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Gaussian error linear unit: each number times the share of a normal distribution that lies below it.

        gelu(x) = x P(N <= x) = x (1 + erf(x / sqrt(2))) / 2

    Source: Hendrycks and Gimpel 2016, section 2 (arXiv:1606.08415).
    """
    return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))


def gelu_tanh(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The approximation of gelu that GPT-2 and the vision part of Qwen3-VL were trained with; differs by up to 5e-4.

        gelu_tanh(x) = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2

    Source: Hendrycks and Gimpel 2016, section 2 (arXiv:1606.08415).
    """
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Sigmoid linear unit, also called swish: each number times its sigmoid.

        silu(x) = x / (1 + exp(-x))

    Source: Hendrycks and Gimpel 2016, section 2 (arXiv:1606.08415).
    """
    return x * torch.sigmoid(x)


def block_gelu_tanh(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The numbers of gelu_tanh and its gradient, some at a time: the same in half of the time and a fraction of memory.

    Autograd keeps the result of every step of gelu_tanh for the way back. Here x alone is kept; a block of numbers goes
    through all steps while it lies in the processor's cache, and the way back computes them a second time:

        y = x s,   dy/dx = s (1 + (1 - s) x v'),   s = (1 + tanh(v / 2)) / 2 = sigmoid(v),
        v = 2 sqrt(2 / pi) (x + 0.044715 x^3),     v' = 2 sqrt(2 / pi) (1 + 3 * 0.044715 x^2)

    Half-precision numbers are computed in float32.

    Source: Hendrycks and Gimpel 2016, section 2 (arXiv:1606.08415).
    """
    if torch.compiler.is_compiling():  # a compiler joins the steps by itself
        return gelu_tanh(x)
    return _Blocks.apply(x)


# Numbers that block_gelu_tanh works on at a time: 0.5 MiB in float32, so that a block and what is made of it stay in
# the cache of a processor core. Of a quarter of it torch would compute each step on one thread only.
BLOCK = 2**17
_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR


class _Blocks(torch.autograd.Function):
    """block_gelu_tanh as one step of autograd."""

    @staticmethod
    def forward(x):
        x = x.contiguous()
        result, buffers = torch.empty_like(x), _wide_buffers(x, 2)
        for numbers, y in _blocks(x, result):
            wide, s = (buffer[: len(y)] for buffer in buffers)
            wide = _widened(numbers, wide)
            torch.mul(wide, wide, out=s).mul_(_CUBIC).add_(_LINEAR).mul_(wide).sigmoid_()
            torch.mul(s, wide, out=y)
        return result

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return _BlocksGradient.apply(grad, *ctx.saved_tensors)

    @staticmethod
    def jvp(ctx, change):
        return _gelu_gradient(change, *ctx.saved_tensors)

    @staticmethod
    def vmap(info, in_dims, x):
        return _Blocks.apply(x), in_dims[0]  # each number by itself: it is no matter which axis is mapped


class _BlocksGradient(torch.autograd.Function):
    """The way back; its own gradient, and what is mapped over an axis, is computed by _gelu_gradient."""

    @staticmethod
    def forward(grad, x):
        grad, x = grad.contiguous(), x.contiguous()
        result, buffers = torch.empty_like(x), _wide_buffers(x, 3)
        for g, numbers, dx in _blocks(grad, x, result):
            wide, square, s = (buffer[: len(dx)] for buffer in buffers)
            wide = _widened(numbers, wide)
            torch.mul(wide, wide, out=square)
            torch.mul(square, _CUBIC, out=s).add_(_LINEAR).mul_(wide).sigmoid_()
            slope = square.mul_(3 * _CUBIC).add_(_LINEAR).mul_(wide)  # x v'
            s.mul_(slope.addcmul_(slope, s, value=-1).add_(1))
            torch.mul(s, g, out=dx)
        return result

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, change):
        _, pull = torch.func.vjp(_gelu_gradient, *ctx.saved_tensors)
        return pull(change)

    @staticmethod
    def jvp(ctx, *changes):
        inputs = ctx.saved_tensors
        changes = tuple(torch.zeros_like(x) if c is None else c for x, c in zip(inputs, changes, strict=True))
        y, pull = torch.func.vjp(_gelu_gradient, *inputs)
        # The way back is linear in what is sent back, so its own way back is the way forward.
        _, push = torch.func.vjp(pull, torch.zeros_like(y))
        return push(changes)[0]

    @staticmethod
    def vmap(info, in_dims, grad, x):
        return torch.func.vmap(_gelu_gradient, in_dims)(grad, x), 0


def _gelu_gradient(grad: Tensor, x: Tensor) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    s = torch.sigmoid(_LINEAR * wide + _CUBIC * wide**3)
    return (grad * s * (1 + (1 - s) * wide * (_LINEAR + 3 * _CUBIC * wide**2))).to(x.dtype)


def _wide_buffers(x: Tensor, count: int) -> Tensor:
    return x.new_empty(count, min(BLOCK, x.numel()), dtype=torch.promote_types(x.dtype, torch.float32))


def _widened(numbers: Tensor, buffer: Tensor) -> Tensor:
    """The numbers themselves, or half-precision ones copied into a buffer of float32."""
    return numbers if numbers.dtype == buffer.dtype else buffer.copy_(numbers)


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some numbers at a time, of each tensor."""
    return zip(*(tensor.view(-1).split(BLOCK) for tensor in tensors), strict=True)


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, applied to every token alone.

        y = activation(x W_up + b_up) W_down + b_down

    Children `up_proj` and `down_proj`, both `nn.Linear`.

    Args:
        embed_dim: width d of a token.
        hidden_dim: width f between the two layers; 4 embed_dim is usual.
        activation: a function of one tensor.
        dropout: share of the hidden numbers set to zero, while training only.
        bias: whether the two layers add one.
        device, dtype: of the weights.

    Source: Vaswani et al. 2017, section 3.3 (arXiv:1706.03762).
    """

    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        *,
        activation: Callable[[Tensor], Tensor] = gelu,
        dropout: float = 0.0,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.activation = activation
        self.dropout = dropout
        self.up_proj = Linear(embed_dim, hidden_dim, bias=bias, device=device, dtype=dtype)
        self.down_proj = Linear(hidden_dim, embed_dim, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Send every token through the hidden layer and back to its width."""
        hidden = self.activation(self.up_proj(x))  # ... f
        return self.down_proj(F.dropout(hidden, self.dropout, self.training))


class SwiGLU(nn.Module):
    """A feed-forward layer whose hidden numbers pass a gate that the token itself opens.

        y = (silu(x W_gate) * (x W_up)) W_down

    Children `gate_proj`, `up_proj` and `down_proj`, all `nn.Linear`. Three matrices instead of two: with hidden_dim at
    two thirds it costs what FeedForward does.

    Args:
        embed_dim: width d of a token.
        hidden_dim: width f of gate and hidden numbers.
        bias: whether the three layers add one.

    Source: Shazeer 2020, equation 6 (arXiv:2002.05202).
    """

    def __init__(self, embed_dim: int, hidden_dim: int, *, bias: bool = False):
        super().__init__()
        self.gate_proj = Linear(embed_dim, hidden_dim, bias=bias)
        self.up_proj = Linear(embed_dim, hidden_dim, bias=bias)
        self.down_proj = Linear(hidden_dim, embed_dim, bias=bias)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Send every token through the gated hidden layer and back to its width."""
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))
