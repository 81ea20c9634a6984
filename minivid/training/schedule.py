"""Learning-rate schedules: small steps first, then large ones, then smaller and smaller."""

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine_with_warmup(step: int, *, total_steps: int, warmup_steps: int = 0) -> float:
    """The factor on the learning rate in one step: up in a straight line, then down along half a cosine.

        step / warmup_steps                                                            for step < warmup_steps
        (1 + cos(pi (step - warmup_steps) / (total_steps - warmup_steps))) / 2         from there on

    The first step of a warm-up has factor 0: the weights stay, and AdamW only collects its averages. From total_steps
    on, the factor stays 0.

    Args:
        step: counted from 0.
        total_steps: steps of the whole training.
        warmup_steps: steps of the straight line.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: if the step is negative, or the warm-up is negative or longer than the training.

    Source: cosine: Loshchilov and Hutter 2017, equation 5 (arXiv:1608.03983); warm-up: Goyal et al. 2017, section 2.2
    (arXiv:1706.02677).
    """
    _check(step, total_steps, warmup_steps)
    if step < warmup_steps:
        return step / warmup_steps
    return 0.5 * (1.0 + math.cos(math.pi * _done(step, total_steps, warmup_steps)))


def linear_with_warmup(step: int, *, total_steps: int, warmup_steps: int = 0) -> float:
    """The factor on the learning rate in one step: up in a straight line, then down in another.

        step / warmup_steps                                                            for step < warmup_steps
        (total_steps - step) / (total_steps - warmup_steps)                            from there on

    Args:
        step, total_steps, warmup_steps: as for cosine_with_warmup.

    Returns:
        A number from 0 to 1; 0 from total_steps on.

    Raises:
        ValueError: as for cosine_with_warmup.

    Source: Devlin et al. 2019, appendix A.2 (arXiv:1810.04805).
    """
    _check(step, total_steps, warmup_steps)
    if step < warmup_steps:
        return step / warmup_steps
    return 1.0 - _done(step, total_steps, warmup_steps)


def constant_with_warmup(step: int, *, warmup_steps: int = 0) -> float:
    """The factor on the learning rate in one step: up in a straight line, then 1 for ever.

        min(1, step / warmup_steps)

    Args:
        step: counted from 0.
        warmup_steps: steps of the straight line.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: if the step or the warm-up is negative.

    Source: Goyal et al. 2017, section 2.2 (arXiv:1706.02677).
    """
    if step < 0 or warmup_steps < 0:
        raise ValueError(f"step is {step} and warmup_steps is {warmup_steps}, expected 0 or more")
    return 1.0 if step >= warmup_steps else step / warmup_steps


def cosine_schedule(optimizer: Optimizer, *, total_steps: int, warmup_ratio: float = 0.0) -> LambdaLR:
    """A scheduler that multiplies the learning rate of every group by cosine_with_warmup.

    Call its `step()` after each step of the optimiser.

    Args:
        optimizer: each group's learning rate is the one that factor 1 stands for.
        total_steps: steps of the whole training.
        warmup_ratio: share of them that is warm-up, rounded up to whole steps.

    Raises:
        ValueError: if the ratio is not between 0 and 1, or there is no step.
    """
    warmup_steps = warmup(total_steps, warmup_ratio)
    return LambdaLR(optimizer, partial(cosine_with_warmup, total_steps=total_steps, warmup_steps=warmup_steps))


def linear_schedule(optimizer: Optimizer, *, total_steps: int, warmup_ratio: float = 0.0) -> LambdaLR:
    """A scheduler that multiplies the learning rate of every group by linear_with_warmup.

    Args:
        optimizer, total_steps, warmup_ratio: as for cosine_schedule.

    Raises:
        ValueError: as for cosine_schedule.
    """
    warmup_steps = warmup(total_steps, warmup_ratio)
    return LambdaLR(optimizer, partial(linear_with_warmup, total_steps=total_steps, warmup_steps=warmup_steps))


def constant_schedule(optimizer: Optimizer, *, total_steps: int, warmup_ratio: float = 0.0) -> LambdaLR:
    """A scheduler that multiplies the learning rate of every group by constant_with_warmup.

    Args:
        optimizer, total_steps, warmup_ratio: as for cosine_schedule; total_steps only says how long the warm-up is.

    Raises:
        ValueError: as for cosine_schedule.
    """
    return LambdaLR(optimizer, partial(constant_with_warmup, warmup_steps=warmup(total_steps, warmup_ratio)))


def warmup(total_steps: int, ratio: float) -> int:
    """How many steps a share of the training is, rounded up.

    Args:
        total_steps: steps of the whole training, at least one.
        ratio: share of them, from 0 to 1.

    Raises:
        ValueError: if the ratio is not between 0 and 1, or there is no step.
    """
    if total_steps < 1 or not 0.0 <= ratio <= 1.0:
        raise ValueError(f"{total_steps=} and warmup_ratio={ratio}, expected at least 1 step and a ratio from 0 to 1")
    return math.ceil(total_steps * ratio)


def _done(step: int, total_steps: int, warmup_steps: int) -> float:
    # Without a step behind the warm-up, the training is over when the warm-up is.
    return min(1.0, (step - warmup_steps) / (total_steps - warmup_steps)) if total_steps > warmup_steps else 1.0


def _check(step: int, total_steps: int, warmup_steps: int) -> None:
    if step < 0:
        raise ValueError(f"step is {step}, expected 0 or more")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_steps is {warmup_steps}, expected 0 to total_steps={total_steps}")
