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
        ValueError: if the warm-up is negative or longer than the training.

    Source: cosine: Loshchilov and Hutter 2017, equation 5 (arXiv:1608.03983); warm-up: Goyal et al. 2017, section 2.2
    (arXiv:1706.02677).
    """
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_steps is {warmup_steps}, expected 0 to total_steps={total_steps}")
    if step < warmup_steps:
        return step / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


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
    if total_steps < 1 or not 0.0 <= warmup_ratio <= 1.0:
        raise ValueError(f"{total_steps=} and {warmup_ratio=}, expected at least 1 step and a ratio from 0 to 1")
    warmup_steps = math.ceil(total_steps * warmup_ratio)
    return LambdaLR(optimizer, partial(cosine_with_warmup, total_steps=total_steps, warmup_steps=warmup_steps))
