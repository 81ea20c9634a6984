"""The feed-forward layer of a transformer: each token by itself goes through a wide hidden layer and back."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


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
        self.up_proj = nn.Linear(embed_dim, hidden_dim, bias=bias, device=device, dtype=dtype)
        self.down_proj = nn.Linear(hidden_dim, embed_dim, bias=bias, device=device, dtype=dtype)

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
        self.gate_proj = nn.Linear(embed_dim, hidden_dim, bias=bias)
        self.up_proj = nn.Linear(embed_dim, hidden_dim, bias=bias)
        self.down_proj = nn.Linear(hidden_dim, embed_dim, bias=bias)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Send every token through the gated hidden layer and back to its width."""
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))
