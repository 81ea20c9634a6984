"""What property tests draw from: small sizes, and tensors that shrink to a few ones among zeros."""

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

small = st.integers(1, 4)
seeds = st.integers(0, 2**16)


def whole(*shape: int, low: int = -2, high: int = 2, dtype: torch.dtype = torch.float32):
    """Tensors of small whole numbers: exact in every float format, and a counterexample fits on a few lines."""
    return arrays(np.int64, shape, elements=st.integers(low, high)).map(lambda a: torch.from_numpy(a).to(dtype))


def masks(*shape: int):
    """Boolean tensors; a counterexample shrinks to all False."""
    return arrays(np.bool_, shape).map(torch.from_numpy)


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal numbers that depend on the seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@torch.no_grad()
def with_biases(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """A model whose biases and norms matter: fresh ones are 0 and 1, where a lost one would not show."""
    for i, weight in enumerate(model.parameters()):
        if weight.ndim == 1:
            weight.add_(0.3 * normal(seed + i, *weight.shape))
    return model
