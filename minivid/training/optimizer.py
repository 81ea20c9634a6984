"""Optimisers: how a gradient moves the weights. SGD with momentum, and AdamW."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class SGD(Optimizer):
    """Stochastic gradient descent with momentum; the twin of torch.optim.SGD.

        g = gradient + weight_decay w
        v = momentum v + (1 - dampening) g          (the first v is g itself)
        w = w - lr v                                (nesterov: w - lr (g + momentum v))

    Args:
        params: tensors, or groups of them as dicts with their own options.
        lr: how far a step goes.
        momentum: share of the last step's direction that is kept; 0 keeps none.
        dampening: share of the gradient that is held back from the momentum.
        weight_decay: pulls every weight towards zero, through the gradient.
        nesterov: whether the gradient is taken as if the momentum had already moved the weights.

    Raises:
        ValueError: for an option outside its range.

    Source: Polyak 1964; Nesterov's form: Sutskever et al. 2013, section 2.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ):
        _check_not_negative(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum == 0.0 or dampening != 0.0):
            raise ValueError(f"nesterov needs momentum > 0 and dampening 0, got momentum {momentum}, {dampening=}")
        options = dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov)
        super().__init__(params, options)

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from a state dict, of this class or of its twin.

        Raises:
            ValueError: if the twin was used with an option that is not taken here.
        """
        _refuse_other_options(state_dict)
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Move every weight that has a gradient, once.

        Args:
            closure: computes loss and gradients anew; its loss is returned.
        """
        loss = _call(closure)
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            directions = [weight.grad for weight in weights]
            if group["weight_decay"]:
                directions = torch._foreach_add(directions, weights, alpha=group["weight_decay"])
            if group["momentum"]:
                velocities = self._velocities(weights, directions, group)
                if group["nesterov"]:
                    torch._foreach_add_(weights, velocities, alpha=-group["lr"] * group["momentum"])
                else:
                    directions = velocities
            torch._foreach_add_(weights, directions, alpha=-group["lr"])
        return loss

    def _velocities(self, weights: Sequence[Tensor], directions: Sequence[Tensor], group: dict) -> list[Tensor]:
        moving, pushes = [], []
        for weight, direction in zip(weights, directions, strict=True):
            state = self.state[weight]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = direction.clone()
            else:
                moving.append(state["momentum_buffer"])
                pushes.append(direction)
        if moving:
            torch._foreach_mul_(moving, group["momentum"])
            torch._foreach_add_(moving, pushes, alpha=1.0 - group["dampening"])
        return [self.state[weight]["momentum_buffer"] for weight in weights]


class AdamW(Optimizer):
    """Adam with decoupled weight decay; the twin of torch.optim.AdamW.

        w = w - lr weight_decay w
        m = beta1 m + (1 - beta1) g,     v = beta2 v + (1 - beta2) g^2
        w = w - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)

    m follows the gradient g and v its square, each an average that forgets; both start at 0, and the divisors
    1 - beta^step undo that start. The decay does not pass through m and v: a weight with large gradients is decayed as
    fast as one with small ones, which an L2 term in the loss does not do.

    Args:
        params: tensors, or groups of them as dicts with their own options.
        lr: about how far a weight moves in a step, whatever the size of its gradient.
        betas: how slowly m and v forget.
        eps: keeps the root away from zero.
        weight_decay: share of a weight that is taken away per step, in units of lr.

    Raises:
        ValueError: for an option outside its range.

    Source: Loshchilov and Hutter 2019, algorithm 2 (arXiv:1711.05101); Adam: Kingma and Ba 2015, algorithm 1
    (arXiv:1412.6980).
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        _check_not_negative(lr=lr, eps=eps, weight_decay=weight_decay)
        for index, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"betas[{index}] is {beta}, expected 0 <= beta < 1")
        super().__init__(params, dict(lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay))

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from a state dict, of this class or of its twin.

        Raises:
            ValueError: if the twin was used with an option that is not taken here.
        """
        _refuse_other_options(state_dict)
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Move every weight that has a gradient, once.

        Args:
            closure: computes loss and gradients anew; its loss is returned.
        """
        loss = _call(closure)
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            gradients = [weight.grad for weight in weights]
            states = [self._state_of(weight) for weight in weights]
            means = [state["exp_avg"] for state in states]
            squares = [state["exp_avg_sq"] for state in states]
            lr, (beta1, beta2) = group["lr"], group["betas"]

            torch._foreach_mul_(weights, 1.0 - lr * group["weight_decay"])
            torch._foreach_lerp_(means, gradients, 1.0 - beta1)
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, gradients, gradients, value=1.0 - beta2)

            torch._foreach_add_([state["step"] for state in states], 1.0)
            steps = [state["step"].item() for state in states]
            roots = torch._foreach_sqrt(squares)
            torch._foreach_div_(roots, [(1.0 - beta2**step) ** 0.5 for step in steps])
            torch._foreach_add_(roots, group["eps"])
            torch._foreach_addcdiv_(weights, means, roots, [-lr / (1.0 - beta1**step) for step in steps])
        return loss

    def _state_of(self, weight: Tensor) -> dict[str, Tensor]:
        state = self.state[weight]
        if not state:
            state["step"] = torch.tensor(0.0)  # a tensor on the CPU, as torch's, so that state dicts can be exchanged
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
        return state


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """The parameters of a model in two groups: matrices, which decay, and vectors, which do not.

    Biases and the scales of norms are vectors. They set levels rather than mix features, and there are few of them.

    Args:
        model: its parameters that require a gradient are taken.
        weight_decay: of the first group.

    Returns:
        Two groups for an optimiser.

    Source: Radford et al. 2018, section 4.1 (GPT): decay "on all non bias or gain weights".
    """
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in learned if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in learned if parameter.ndim < 2], "weight_decay": 0.0},
    ]


def _refuse_other_options(state_dict: dict) -> None:
    for group in state_dict["param_groups"]:
        for name in ("amsgrad", "maximize"):
            if group.get(name):
                raise ValueError(f"{name} is True in the state dict; it is not taken here, go on with torch.optim")


def _call(closure: Callable[[], Tensor] | None) -> Tensor | None:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _check_not_negative(**options: float) -> None:
    for name, value in options.items():
        if value < 0.0:
            raise ValueError(f"{name} is {value}, expected 0 or more")
