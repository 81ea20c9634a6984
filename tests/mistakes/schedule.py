"""Classic wrong answers about learning-rate schedules, each with three hints of increasing directness."""

import math
from collections.abc import Iterator

from minivid.classroom.museum import Mistake
from minivid.training import schedule as library


def falling(shape):
    """Both schedules that fall get the same wrong answers: only how they fall differs."""

    def warmup_one_early(step, *, total_steps, warmup_steps=0):
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return shape((step - warmup_steps) / max(1, total_steps - warmup_steps))

    def over_all_steps(step, *, total_steps, warmup_steps=0):
        if step < warmup_steps:
            return step / warmup_steps
        return shape(min(1.0, step / total_steps))

    def warmup_forgotten(step, *, total_steps, warmup_steps=0):
        return shape(min(1.0, step / total_steps))

    def warmup_added(step, *, total_steps, warmup_steps=0):
        if step < warmup_steps:
            return step / warmup_steps
        return shape(min(1.0, (step - warmup_steps) / total_steps))

    def warmup_multiplied(step, *, total_steps, warmup_steps=0):
        rise = min(1.0, step / warmup_steps) if warmup_steps else 1.0
        return rise * shape(min(1.0, step / total_steps))

    def upside_down(step, *, total_steps, warmup_steps=0):
        if step < warmup_steps:
            return step / warmup_steps
        return 1.0 - shape(min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))

    def last_step_is_zero(step, *, total_steps, warmup_steps=0):
        if step < warmup_steps:
            return step / warmup_steps
        return shape(min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps - 1)))

    def warmup_starts_below(step, *, total_steps, warmup_steps=0):
        if step <= warmup_steps:
            return step / (warmup_steps + 1)
        return shape(min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))

    return [
        (
            warmup_one_early,
            (
                "Steps are counted from 0. What is the factor of step 0 in a warm-up of 4 steps?",
                "The straight line starts one step too early: it is 1 before the warm-up is over.",
                "return step / warmup_steps",
            ),
        ),
        (
            over_all_steps,
            (
                "What is the factor of the first step behind the warm-up? Does it jump?",
                "The way down is measured from step 0; it begins where the warm-up ends.",
                "done = (step - warmup_steps) / (total_steps - warmup_steps)",
            ),
        ),
        (
            warmup_forgotten,
            (
                "What is the factor of step 0 when there is a warm-up?",
                "There is no warm-up.",
                "if step < warmup_steps: return step / warmup_steps",
            ),
        ),
        (
            warmup_added,
            (
                "What is the factor of the last steps?",
                "The way down is as long as the whole training, so that it never comes to its end.",
                "done = (step - warmup_steps) / (total_steps - warmup_steps)",
            ),
        ),
        (
            warmup_multiplied,
            (
                "What is the largest factor? It should be 1, at the end of the warm-up.",
                "It falls while it still rises: the two are multiplied. They come one after the other.",
                "if step < warmup_steps: return step / warmup_steps, and the way down only behind it.",
            ),
        ),
        (
            upside_down,
            (
                "Is the factor behind the warm-up 1 or 0?",
                "It rises where it should fall: it starts at 1 and ends at 0.",
                "0.5 * (1 + cos(pi * done)) for the cosine, 1 - done for the line.",
            ),
        ),
        (
            last_step_is_zero,
            (
                "The last step is total_steps - 1. Should a step be wasted on a rate of 0?",
                "The factor is 0 one step too early.",
                "Divide by total_steps - warmup_steps, without the - 1.",
            ),
        ),
        (
            warmup_starts_below,
            (
                "What is the factor of step number warmup_steps?",
                "The straight line is one step too long: the factor is 1 at step warmup_steps.",
                "if step < warmup_steps: return step / warmup_steps",
            ),
        ),
    ]


def cosine(done: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def line(done: float) -> float:
    return 1.0 - min(1.0, done)


def whole_wave(step, *, total_steps, warmup_steps=0):
    if step < warmup_steps:
        return step / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(2 * math.pi * min(1.0, done)))


def no_half(step, *, total_steps, warmup_steps=0):
    if step < warmup_steps:
        return step / warmup_steps
    return math.cos(math.pi * min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))


def rises_again(step, *, total_steps, warmup_steps=0):
    if step < warmup_steps:
        return step / warmup_steps
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup_steps) / max(1, total_steps - warmup_steps)))


def falls_below_zero(step, *, total_steps, warmup_steps=0):
    if step < warmup_steps:
        return step / warmup_steps
    return (total_steps - step) / max(1, total_steps - warmup_steps)


def cosine_for_line(step, *, total_steps, warmup_steps=0):
    return library.cosine_with_warmup(step, total_steps=total_steps, warmup_steps=warmup_steps)


def line_for_cosine(step, *, total_steps, warmup_steps=0):
    return library.linear_with_warmup(step, total_steps=total_steps, warmup_steps=warmup_steps)


def constant_one_early(step, *, warmup_steps=0):
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def constant_without_warmup(step, *, warmup_steps=0):
    return 1.0


def constant_growing(step, *, warmup_steps=0):
    return step / warmup_steps if warmup_steps else 1.0


def constant_zero_first(step, *, warmup_steps=0):
    return 0.0 if step < warmup_steps else 1.0


def constant_one_late(step, *, warmup_steps=0):
    return min(1.0, step / (warmup_steps + 1))


def constant_downwards(step, *, warmup_steps=0):
    return 1.0 - step / warmup_steps if step < warmup_steps else 1.0


def constant_in_a_curve(step, *, warmup_steps=0):
    return 0.5 * (1.0 - math.cos(math.pi * step / warmup_steps)) if step < warmup_steps else 1.0


def constant_squared(step, *, warmup_steps=0):
    return (step / warmup_steps) ** 2 if step < warmup_steps else 1.0


def constant_that_falls(step, *, warmup_steps=0):
    if step < warmup_steps:
        return step / warmup_steps
    return math.sqrt(warmup_steps / step) if warmup_steps else 1.0


ENDS = "The factor stays at 0 when the training is over: cut the share that is done off at 1."
COSINE = [
    *falling(cosine),
    (
        whole_wave,
        (
            "What is the factor of the last steps?",
            "The cosine runs through a whole wave, down and up again; half a one leads from 1 to 0.",
            "cos(pi * done), not cos(2 * pi * done)",
        ),
    ),
    (
        no_half,
        (
            "What does a negative learning rate do?",
            "A cosine goes from 1 to -1; it is lifted by 1 and halved.",
            "0.5 * (1 + math.cos(math.pi * done))",
        ),
    ),
    (rises_again, ("What comes after the last step?", ENDS, "done = min(1.0, done)")),
    (
        line_for_cosine,
        (
            "Where does it fall fastest: everywhere alike, or in the middle?",
            "This is a straight line down; half a cosine is asked for.",
            "0.5 * (1 + math.cos(math.pi * done))",
        ),
    ),
]
LINEAR = [
    *falling(line),
    (falls_below_zero, ("What comes after the last step?", ENDS, "max(0.0, ...)")),
    (
        cosine_for_line,
        (
            "Does it fall by the same amount in each step?",
            "This is half a cosine; a straight line is asked for.",
            "1 - done, with done = (step - warmup_steps) / (total_steps - warmup_steps)",
        ),
    ),
]
CONSTANT = [
    (
        constant_one_early,
        (
            "Steps are counted from 0. What is the factor of step 0 in a warm-up of 4 steps?",
            "The straight line starts one step too early.",
            "step / warmup_steps",
        ),
    ),
    (
        constant_without_warmup,
        (
            "What is the factor of step 0 when there is a warm-up?",
            "There is no warm-up.",
            "if step < warmup_steps: return step / warmup_steps",
        ),
    ),
    (
        constant_growing,
        (
            "What is the factor long after the warm-up?",
            "It grows beyond 1.",
            "min(1.0, step / warmup_steps)",
        ),
    ),
    (
        constant_zero_first,
        (
            "How large are the steps of the warm-up?",
            "It waits instead of rising.",
            "step / warmup_steps during the warm-up.",
        ),
    ),
    (
        constant_one_late,
        (
            "What is the factor of step number warmup_steps?",
            "The straight line is one step too long.",
            "Divide by warmup_steps, and give 1 where there is none.",
        ),
    ),
    (
        constant_downwards,
        (
            "Is the first step of a warm-up the smallest or the largest?",
            "It falls during the warm-up, where it should rise.",
            "step / warmup_steps, without the 1 -",
        ),
    ),
    (
        constant_in_a_curve,
        (
            "Does it rise by the same amount in each step of the warm-up?",
            "This rises along half a cosine; the warm-up is a straight line.",
            "step / warmup_steps",
        ),
    ),
    (
        constant_squared,
        (
            "What is the factor in the middle of the warm-up?",
            "This rises along a parabola, from a quarter in the middle; the warm-up is a straight line.",
            "step / warmup_steps, without a square",
        ),
    ),
    (
        constant_that_falls,
        (
            "What is the factor long after the warm-up?",
            "It falls with the root of the step, as in the first Transformer; a constant one stays.",
            "return 1.0 for every step from warmup_steps on",
        ),
    ),
]

MISTAKES: dict[str, list[Mistake]] = {
    "cosine_with_warmup": [Mistake(*row) for row in COSINE],
    "linear_with_warmup": [Mistake(*row) for row in LINEAR],
    "constant_with_warmup": [Mistake(*row) for row in CONSTANT],
}


def probes(name: str) -> Iterator[tuple[tuple, dict]]:
    """Arguments on which every two of the mistakes above differ."""
    for step in (0, 1, 3, 4, 5, 7, 10, 11, 12, 13):
        if name == "constant_with_warmup":
            yield (step,), {"warmup_steps": 4}
        else:
            yield (step,), {"total_steps": 12, "warmup_steps": 4}
