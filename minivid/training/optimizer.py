"""Optimisers: how a gradient moves the weights. SGD with momentum, Adam, and AdamW."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

# Options of torch.optim's classes that say how a step is computed, not what it does, and that are not taken here.
NOT_TAKEN = ("capturable", "differentiable", "fused")

# Numbers of the weights that a processor moves together: what a step needs of them stays in its cache.
RUN = 2**18


# ---- one step of one weight, as the formulas read


def sgd_step(
    weight: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    velocity: Float[Tensor, "*shape"] | None = None,
    *,
    lr: int | float,
    momentum: int | float = 0.0,
    dampening: int | float = 0.0,
    weight_decay: int | float = 0.0,
    nesterov: bool = False,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """One step of gradient descent: downhill, in a direction that remembers the steps before.

        g = gradient + weight_decay w
        v = momentum v + (1 - dampening) g          (the first v is g itself)
        w = w - lr v                                (nesterov: w - lr (g + momentum v))

    Args:
        weight: w.
        gradient: of the loss, with respect to w.
        velocity: v after the step before; None = this is the first step.
        lr: how far a step goes.
        momentum: share of the last step's direction that is kept; 0 keeps none.
        dampening: share of the gradient that is held back from the momentum.
        weight_decay: pulls every weight towards zero, through the gradient.
        nesterov: whether the gradient is taken as if the momentum had already moved the weights.

    Returns:
        The new w and v. The arguments stay as they are.

    Source: Polyak 1964; Nesterov's form: Sutskever et al. 2013, section 2.
    """
    gradient = gradient + weight_decay * weight
    velocity = gradient.clone() if velocity is None else momentum * velocity + (1.0 - dampening) * gradient
    direction = gradient + momentum * velocity if nesterov else velocity
    return weight - lr * direction, velocity


def adam_step(
    weight: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    mean: Float[Tensor, "*shape"],
    square: Float[Tensor, "*shape"],
    step: int,
    *,
    lr: int | float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: int | float = 1e-8,
    weight_decay: int | float = 0.0,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """One step of Adam: every weight moves by about lr, against the sign that its gradient usually has.

        g = gradient + weight_decay w
        m = beta1 m + (1 - beta1) g,     v = beta2 v + (1 - beta2) g^2
        w = w - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)

    m follows the gradient and v its square, each an average that forgets; both start at 0, and the divisors
    1 - beta^step undo that start.

    Args:
        weight: w.
        gradient: of the loss, with respect to w.
        mean, square: m and v after the step before; zeros for the first.
        step: which step this is, counted from 1.
        lr: about how far a weight moves, whatever the size of its gradient.
        betas: how slowly m and v forget.
        eps: keeps the divisor away from zero.
        weight_decay: pulls every weight towards zero, through the gradient.

    Returns:
        The new w, m and v. The arguments stay as they are.

    Source: Kingma and Ba 2015, algorithm 1 (arXiv:1412.6980).
    """
    gradient = gradient + weight_decay * weight
    mean = betas[0] * mean + (1.0 - betas[0]) * gradient
    square = betas[1] * square + (1.0 - betas[1]) * gradient**2
    return weight - lr * _direction(mean, square, step, betas, eps), mean, square


def adamw_step(
    weight: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    mean: Float[Tensor, "*shape"],
    square: Float[Tensor, "*shape"],
    step: int,
    *,
    lr: int | float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: int | float = 1e-8,
    weight_decay: int | float = 1e-2,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """One step of AdamW: Adam on the gradient of the loss alone, and a decay of the weight beside it.

        m = beta1 m + (1 - beta1) g,     v = beta2 v + (1 - beta2) g^2
        w = w - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps) - lr weight_decay w

    The decay does not pass through m and v: a weight with large gradients is decayed as fast as one with small ones,
    which a decay through the gradient does not do.

    Args:
        weight, gradient, mean, square, step, lr, betas, eps: as for adam_step.
        weight_decay: share of a weight that is taken away per step, in units of lr.

    Returns:
        The new w, m and v. The arguments stay as they are.

    Source: Loshchilov and Hutter 2019, algorithm 2 (arXiv:1711.05101).
    """
    mean = betas[0] * mean + (1.0 - betas[0]) * gradient
    square = betas[1] * square + (1.0 - betas[1]) * gradient**2
    return weight - lr * _direction(mean, square, step, betas, eps) - lr * weight_decay * weight, mean, square


def _direction(mean: Tensor, square: Tensor, step: int, betas: tuple[float, float], eps: int | float) -> Tensor:
    unbiased_mean = mean / (1.0 - betas[0] ** step)
    unbiased_square = square / (1.0 - betas[1] ** step)
    return unbiased_mean / (unbiased_square.sqrt() + eps)


# ---- the same for all weights of a model


class SGD(Optimizer):
    """Stochastic gradient descent with momentum; the twin of torch.optim.SGD. A step is sgd_step.

    Args:
        params: tensors, or groups of them as dicts with their own options.
        lr, momentum, dampening, weight_decay, nesterov: as for sgd_step.
        maximize: whether to go uphill.
        foreach: False = weight by weight, by sgd_step; True or None = all weights together, in place: the same
            numbers, in a fraction of the time where there are many weights.
        differentiable, fused: of the twin; not taken.

    Raises:
        ValueError: for an option outside its range or not taken.

    Source: Polyak 1964; Nesterov's form: Sutskever et al. 2013, section 2.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: int | float = 1e-3,
        momentum: int | float = 0.0,
        dampening: int | float = 0.0,
        weight_decay: int | float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        _check_not_negative(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum == 0.0 or dampening != 0.0):
            raise ValueError(f"nesterov needs momentum > 0 and dampening 0, got momentum {momentum}, {dampening=}")
        options = dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov)
        options |= dict(maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused)
        _refuse_not_taken(options, "is not taken here")
        super().__init__(params, options)

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from a state dict, of this class or of its twin.

        Raises:
            ValueError: if the twin was used with an option that is not taken here.
        """
        for group in state_dict["param_groups"]:
            _refuse_not_taken(group, "in the state dict is not taken here; go on with torch.optim")
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Move every weight that has a gradient, once.

        Args:
            closure: computes loss and gradients anew; its loss is returned.
        """
        loss = _call(closure)
        for group in self.param_groups:
            weights, gradients = _with_gradients(group)
            if weights and group["foreach"] is False:
                self._one_by_one(weights, gradients, group)
            elif weights:
                self._all_together(weights, gradients, group)
        return loss

    def _one_by_one(self, weights: Sequence[Tensor], gradients: Sequence[Tensor], group: dict) -> None:
        options = {name: group[name] for name in ("lr", "momentum", "dampening", "weight_decay", "nesterov")}
        for weight, gradient in zip(weights, gradients, strict=True):
            before = self.state[weight].get("momentum_buffer") if group["momentum"] else None
            new, velocity = sgd_step(weight, gradient, before, **options)
            weight.copy_(new)
            if group["momentum"]:
                self.state[weight]["momentum_buffer"] = velocity

    def _all_together(self, weights: Sequence[Tensor], directions: Sequence[Tensor], group: dict) -> None:
        if group["weight_decay"]:
            directions = torch._foreach_add(directions, weights, alpha=group["weight_decay"])
        if group["momentum"]:
            velocities = self._velocities(weights, directions, group)
            if group["nesterov"]:
                torch._foreach_add_(weights, velocities, alpha=-group["lr"] * group["momentum"])
            else:
                directions = velocities
        torch._foreach_add_(weights, directions, alpha=-group["lr"])

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


class Adam(Optimizer):
    """Adam; the twin of torch.optim.Adam. A step is adam_step: decay passes through the gradient.

    Args:
        params: tensors, or groups of them as dicts with their own options.
        lr, betas, eps, weight_decay: as for adam_step.
        amsgrad: whether the divisor takes the largest v so far, so that it never falls.
        foreach: False = weight by weight, by adam_step; True or None = all weights together, in place: the same
            numbers, in a fraction of the time where there are many weights.
        maximize: whether to go uphill.
        capturable, differentiable, fused: of the twin; not taken.
        decoupled_weight_decay: whether a step is adamw_step instead.

    Raises:
        ValueError: for an option outside its range or not taken.

    Source: Kingma and Ba 2015, algorithm 1 (arXiv:1412.6980); amsgrad: Reddi, Kale and Kumar 2018, algorithm 2
    (arXiv:1904.09237).
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: int | float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: int | float = 1e-8,
        weight_decay: int | float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ):
        _check_not_negative(lr=lr, eps=eps, weight_decay=weight_decay)
        for index, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"betas[{index}] is {beta}, expected 0 <= beta < 1")
        options = dict(lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)
        options |= dict(maximize=maximize, foreach=foreach, capturable=capturable, differentiable=differentiable)
        options |= dict(fused=fused, decoupled_weight_decay=decoupled_weight_decay)
        _refuse_not_taken(options, "is not taken here")
        super().__init__(params, options)

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from a state dict, of this class or of its twin.

        Raises:
            ValueError: if the twin was used with an option that is not taken here, or decayed in the other way.
        """
        mine = self.defaults["decoupled_weight_decay"]
        for group in state_dict["param_groups"]:
            _refuse_not_taken(group, "in the state dict is not taken here; go on with torch.optim")
            if group.get("decoupled_weight_decay", mine) != mine:
                raise ValueError(
                    f"decoupled_weight_decay is {not mine} in the state dict and {mine} here; "
                    f"load it into {'Adam' if mine else 'AdamW'}"
                )
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group.setdefault("decoupled_weight_decay", mine)  # torch wrote no such entry at first

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Move every weight that has a gradient, once.

        Args:
            closure: computes loss and gradients anew; its loss is returned.
        """
        loss = _call(closure)
        for group in self.param_groups:
            weights, gradients = _with_gradients(group)
            if not weights:
                continue
            states = [self._state_of(weight, group) for weight in weights]
            torch._foreach_add_([state["step"] for state in states], torch.tensor(1.0))
            if group["foreach"] is False:
                _one_by_one(weights, gradients, states, group)
            else:
                weights, gradients, states = _cut(weights, gradients, states)
                for run in _runs(weights):
                    _all_together(weights[run], gradients[run], states[run], group)
        return loss

    def _state_of(self, weight: Tensor, group: dict) -> dict[str, Tensor]:
        state = self.state[weight]
        if not state:
            state["step"] = torch.tensor(0.0)  # a tensor on the CPU, as torch's, so that state dicts can be exchanged
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = torch.zeros_like(weight)
        return state


class AdamW(Adam):
    """Adam with decoupled weight decay; the twin of torch.optim.AdamW. A step is adamw_step.

    Args:
        params, lr, betas, eps, amsgrad, maximize, foreach, capturable, differentiable, fused: as for Adam.
        weight_decay: share of a weight that is taken away per step, in units of lr.

    Raises:
        ValueError: for an option outside its range or not taken.

    Source: Loshchilov and Hutter 2019, algorithm 2 (arXiv:1711.05101).
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: int | float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: int | float = 1e-8,
        weight_decay: int | float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        how = dict(foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused)
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True, **how
        )


def _one_by_one(weights: Sequence[Tensor], gradients: Sequence[Tensor], states: Sequence[dict], group: dict) -> None:
    take = adamw_step if group["decoupled_weight_decay"] else adam_step
    lr, betas, eps, weight_decay = (group[name] for name in ("lr", "betas", "eps", "weight_decay"))
    for weight, gradient, state in zip(weights, gradients, states, strict=True):
        step = int(state["step"].item())
        old = weight, gradient, state["exp_avg"], state["exp_avg_sq"]
        new, mean, square = take(*old, step, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        if group["amsgrad"]:
            largest = torch.maximum(state["max_exp_avg_sq"], square, out=state["max_exp_avg_sq"])
            decay = lr * weight_decay * weight if group["decoupled_weight_decay"] else 0.0
            new = weight - lr * _direction(mean, largest, step, betas, eps) - decay
        weight.copy_(new)
        state["exp_avg"].copy_(mean)
        state["exp_avg_sq"].copy_(square)


def _all_together(weights: Sequence[Tensor], gradients: Sequence[Tensor], states: Sequence[dict], group: dict) -> None:
    lr, (beta1, beta2), weight_decay = group["lr"], group["betas"], group["weight_decay"]
    means = [state["exp_avg"] for state in states]
    squares = [state["exp_avg_sq"] for state in states]
    if group["decoupled_weight_decay"]:
        torch._foreach_mul_(weights, 1.0 - lr * weight_decay)
    elif weight_decay:
        gradients = torch._foreach_add(gradients, weights, alpha=weight_decay)

    torch._foreach_lerp_(means, gradients, 1.0 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, gradients, gradients, value=1.0 - beta2)
    if group["amsgrad"]:
        largest = [state["max_exp_avg_sq"] for state in states]
        torch._foreach_maximum_(largest, squares)
        squares = largest

    steps = [state["step"].item() for state in states]
    roots = torch._foreach_sqrt(squares)
    torch._foreach_div_(roots, [(1.0 - beta2**step) ** 0.5 for step in steps])
    torch._foreach_add_(roots, group["eps"])
    torch._foreach_addcdiv_(weights, means, roots, [-lr / (1.0 - beta1**step) for step in steps])


# ---- which weights, at which rate


def decay_groups(model: nn.Module, weight_decay: int | float, rates: Mapping[str, float] | None = None) -> list[dict]:
    """The parameters of a model in groups: matrices, which decay, and vectors, which do not.

    Biases and the scales of norms are vectors. They set levels rather than mix features, and there are few of them.

    Args:
        model: its parameters that require a gradient are taken.
        weight_decay: of the matrices.
        rates: learning rates for parts of the model, by a piece of the parameters' names, as in
            {"merger": 4e-5, "visual": 2e-6}. The first piece that a name contains counts; a name without any follows
            the optimiser's own rate.

    Returns:
        Groups for an optimiser: two, and two more for every piece in `rates`.

    Raises:
        ValueError: if no parameter's name has a piece as its first.

    Source: Radford et al. 2018, section 4.1 (GPT): decay "on all non bias or gain weights".
    """
    rates = rates or {}
    learned: dict[str | None, list[Tensor]] = {None: [], **{piece: [] for piece in rates}}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            learned[next((piece for piece in rates if piece in name), None)].append(parameter)
    for piece in rates:
        if not learned[piece]:
            raise ValueError(f"rates: no learned parameter has {piece!r} as the first piece in its name")
    groups = []
    for piece, parameters in learned.items():
        rate = {} if piece is None else {"lr": rates[piece]}
        matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
        vectors = [parameter for parameter in parameters if parameter.ndim < 2]
        groups.append({"params": matrices, "weight_decay": weight_decay, **rate})
        groups.append({"params": vectors, "weight_decay": 0.0, **rate})
    return groups


# ---- what every optimiser needs


def _with_gradients(group: dict) -> tuple[list[Tensor], list[Tensor]]:
    """The weights of a group that have a gradient, and the direction in which the loss (or minus it) rises."""
    weights = [weight for weight in group["params"] if weight.grad is not None]
    for weight in weights:
        if weight.grad.is_sparse or weight.is_complex():
            kind = "sparse" if weight.grad.is_sparse else str(weight.dtype)
            raise ValueError(f"a gradient of shape {tuple(weight.shape)} is {kind}; it is not taken here")
    gradients = [weight.grad for weight in weights]
    return weights, list(torch._foreach_neg(gradients)) if group["maximize"] and weights else gradients


def _cut(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], states: Sequence[dict[str, Tensor]]
) -> tuple[list[Tensor], list[Tensor], list[dict[str, Tensor]]]:
    """The same numbers, with what is larger than a run in pieces of some rows; the pieces share the memory."""
    cut = []
    for weight, gradient, state in zip(weights, gradients, states, strict=True):
        # Of a weight that is spread over processes (a DTensor), no process has all rows.
        if weight.numel() <= RUN or weight.device.type != "cpu" or type(weight) not in (Tensor, nn.Parameter):
            cut.append((weight, gradient, state))
            continue
        count = max(1, RUN * len(weight) // weight.numel())
        for start in range(0, len(weight), count):
            rows = slice(start, start + count)
            moments = {name: x if name == "step" else x[rows] for name, x in state.items()}
            cut.append((weight[rows], gradient[rows], moments))
    return tuple(map(list, zip(*cut, strict=True)))


def _runs(weights: Sequence[Tensor]) -> Iterator[slice]:
    start, size = 0, 0
    for i, weight in enumerate(weights):
        if size and size + weight.numel() > RUN and weight.device.type == "cpu":
            yield slice(start, i)
            start, size = i, 0
        size += weight.numel()
    yield slice(start, len(weights))


def _refuse_not_taken(options: Mapping[str, object], words: str) -> None:
    for name in NOT_TAKEN:
        if options.get(name):
            raise ValueError(f"{name}={options[name]} {words}")


def _call(closure: Callable[[], Tensor] | None) -> Tensor | None:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _check_not_negative(**options: int | float) -> None:
    for name, value in options.items():
        if isinstance(value, Tensor):
            raise ValueError(f"{name} is a tensor, expected a number; give {name}.item()")
        if value < 0.0:
            raise ValueError(f"{name} is {value}, expected 0 or more")
