"""Muon: an optimiser for matrices, whose step is as long in every direction that the gradient has."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial that a step applies to singular values: steep at 0, so that small ones grow fast."""
LENGTHS = ("original", "match_rms_adamw")


def orthogonalized(
    matrix: Float[Tensor, "*batch m n"],
    *,
    coefficients: tuple[float, float, float] = COEFFICIENTS,
    steps: int = 5,
    eps: float = 1e-7,
) -> Float[Tensor, "*batch m n"]:
    """Bring all singular values of a matrix near 1, and leave its singular vectors as they are.

        X = G / |G|                                 (|G|: root of the sum of the squares; now no singular value is > 1)
        X = a X + b (X X^T) X + c (X X^T)^2 X       (a few times)

    With G = U S V^T the second line gives U p(S) V^T, p(s) = a s + b s^3 + c s^5: each singular value is changed by
    itself, and no decomposition is needed. After 5 steps, all from 0.002 to 1 have come between 0.68 and 1.21.

    Args:
        matrix: G, or several of one size.
        coefficients: a, b, c.
        steps: how often.
        eps: a length below it is taken for it.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the iteration for other
    coefficients: Higham 2008, "Functions of matrices", section 8.3 (Newton-Schulz).
    """
    a, b, c = coefficients
    wide = matrix.shape[-2] <= matrix.shape[-1]
    x = matrix if wide else matrix.mT  # X X^T is then the smaller of the two products
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(eps)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.mT


def muon_step(
    weight: Float[Tensor, "m n"],
    gradient: Float[Tensor, "m n"],
    buffer: Float[Tensor, "m n"] | None = None,
    *,
    lr: int | float,
    weight_decay: int | float = 0.1,
    momentum: int | float = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
    eps: float = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
) -> tuple[Float[Tensor, "m n"], Float[Tensor, "m n"]]:
    """One step of Muon: the mean gradient, with all its singular values made equal.

        v = momentum v + (1 - momentum) g           (the v before the first is 0)
        d = orthogonalized(v)                       (nesterov: of momentum v + (1 - momentum) g)
        w = w - lr weight_decay w - lr r d

    The gradient of a matrix is often long in a few directions and short in all others; what is rare may lie in the
    short ones. Here these count as much.

    Args:
        weight: w.
        gradient: of the loss, with respect to w.
        buffer: v after the step before; None = this is the first step.
        lr: how far a step goes.
        weight_decay: share of a weight that is taken away per step, in units of lr.
        momentum: share of v that is kept.
        nesterov: whether the gradient is mixed in once more.
        ns_coefficients, eps, ns_steps: as for `orthogonalized`.
        adjust_lr_fn: what r is. None or "original": sqrt(max(1, m / n)). "match_rms_adamw": 0.2 sqrt(max(m, n)), which
            makes steps as long as AdamW's usually are, so that both can have one learning rate.

    Returns:
        The new w and v. The arguments stay as they are.

    Source: Jordan et al. 2024; adjust_lr_fn="match_rms_adamw": Liu et al. 2025, section 2.2 (arXiv:2502.16982).
    """
    buffer = (1.0 - momentum) * gradient + (0.0 if buffer is None else momentum * buffer)
    mean = (1.0 - momentum) * gradient + momentum * buffer if nesterov else buffer
    direction = orthogonalized(mean, coefficients=ns_coefficients, steps=ns_steps, eps=eps)
    length = lr * _length(weight.shape, adjust_lr_fn)
    return weight - lr * weight_decay * weight - length * direction, buffer


class Muon(Optimizer):
    """Muon; the twin of torch.optim.Muon. A step is muon_step; matrices of one size are made orthogonal together.

    Its products are in the weights' own dtype, where the twin's are in bfloat16, and the twin takes two axes only.

    Args:
        params: matrices, or groups of them as dicts with their own options. Of a weight with more axes, such as a
            convolution's, each output's numbers are a row. Not for embeddings, of which a step sees few rows, nor for
            heads: these are AdamW's.
        lr, weight_decay, momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn: as for muon_step.

    Raises:
        ValueError: for an option outside its range, or a weight that is no matrix.

    Source: as muon_step.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: int | float = 1e-3,
        weight_decay: int | float = 0.1,
        momentum: int | float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ):
        for name, value in dict(lr=lr, weight_decay=weight_decay, momentum=momentum).items():
            if not value >= 0.0:
                raise ValueError(f"{name} is {value}, expected 0 or more")
        if adjust_lr_fn is not None and adjust_lr_fn not in LENGTHS:
            raise ValueError(f"adjust_lr_fn is {adjust_lr_fn!r}, expected {' or '.join(map(repr, LENGTHS))}")
        options = dict(lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov)
        options |= dict(ns_coefficients=ns_coefficients, eps=eps, ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn)
        super().__init__(params, options)

    def add_param_group(self, param_group: dict) -> None:
        """Take more matrices, with their own options.

        Raises:
            ValueError: for a weight that is no matrix.
        """
        super().add_param_group(param_group)
        for weight in self.param_groups[-1]["params"]:
            if weight.ndim < 2:
                raise ValueError(f"a weight has shape {tuple(weight.shape)}, expected a matrix; move it by AdamW")

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Move every weight that has a gradient, once.

        Args:
            closure: computes loss and gradients anew; its loss is returned.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            same: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    mean = self._mean_gradient(weight, group).flatten(1)
                    same[mean.shape].append((weight, mean))
            how = dict(coefficients=group["ns_coefficients"], steps=group["ns_steps"], eps=group["eps"])
            for shape, found in same.items():
                length = group["lr"] * _length(shape, group["adjust_lr_fn"])
                weights, means = zip(*found, strict=True)
                for weight, direction in zip(weights, orthogonalized(torch.stack(means), **how), strict=True):
                    weight.mul_(1.0 - group["lr"] * group["weight_decay"])
                    weight.sub_(direction.view_as(weight), alpha=length)
        return loss

    def _mean_gradient(self, weight: Tensor, group: dict) -> Tensor:
        state, momentum = self.state[weight], group["momentum"]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        buffer = state["momentum_buffer"].lerp_(weight.grad, 1.0 - momentum)
        return weight.grad.lerp(buffer, momentum) if group["nesterov"] else buffer


def _length(shape: Sequence[int], adjust_lr_fn: str | None) -> float:
    rows, columns = shape
    return (
        0.2 * math.sqrt(max(rows, columns)) if adjust_lr_fn == "match_rms_adamw" else math.sqrt(max(1, rows / columns))
    )


class Together(Optimizer):
    """Several optimisers as one: each moves its own weights, and a schedule, or a checkpoint, sees them all.

    Args:
        optimizers: at least one, of weights that no other has.

    Raises:
        ValueError: for no optimiser, or a weight that two have.
    """

    def __init__(self, *optimizers: Optimizer):
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        super().__init__(groups, {})
        self.optimizers = optimizers
        for optimizer in optimizers:
            self.state.update(optimizer.state)
        self._share()

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from a state dict of optimisers of the same kinds, put together in the same order.

        Args:
            state_dict: as `state_dict` gave it.

        Raises:
            ValueError: if it is of other groups.
        """
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for optimizer in self.optimizers:
            optimizer.param_groups = [next(groups) for _ in optimizer.param_groups]
            optimizer.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Move every weight that has a gradient, once.

        Args:
            closure: computes loss and gradients anew; its loss is returned.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss
