"""Classic wrong answers about optimisers, each with three hints of increasing directness."""

from collections.abc import Iterator

import torch
from strategies import normal

from minivid.classroom.museum import Mistake
from minivid.training import optimizer as library

# ---- sgd_step


def sgd(change):
    """A wrong answer with the signature of sgd_step, from a function of its arguments as one dict."""

    def answer(
        weight,
        gradient,
        velocity=None,
        *,
        lr,
        momentum=0.0,
        dampening=0.0,
        weight_decay=0.0,
        nesterov=False,
    ):
        options = dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov)
        return change(weight, gradient, velocity, options)

    answer.__name__ = change.__name__
    return answer


@sgd
def uphill(weight, gradient, velocity, options):
    new, velocity = library.sgd_step(weight, gradient, velocity, **options)
    return 2 * weight - new, velocity


@sgd
def momentum_forgotten(weight, gradient, velocity, options):
    return library.sgd_step(weight, gradient, None, **options)


@sgd
def first_velocity_dampened(weight, gradient, velocity, options):
    velocity = torch.zeros_like(weight) if velocity is None else velocity
    return library.sgd_step(weight, gradient, velocity, **options)


@sgd
def dampening_forgotten(weight, gradient, velocity, options):
    return library.sgd_step(weight, gradient, velocity, **(options | {"dampening": 0.0}))


@sgd
def averaged_momentum(weight, gradient, velocity, options):
    # As Adam keeps its average: 1 - momentum before the gradient.
    if options["momentum"]:
        options = options | {"dampening": options["momentum"]}
    return library.sgd_step(weight, gradient, velocity, **options)


@sgd
def nesterov_ignored(weight, gradient, velocity, options):
    return library.sgd_step(weight, gradient, velocity, **(options | {"nesterov": False}))


@sgd
def nesterov_with_the_old_velocity(weight, gradient, velocity, options):
    new, after = library.sgd_step(weight, gradient, velocity, **options)
    if options["nesterov"] and velocity is not None:
        new = weight - options["lr"] * (gradient + options["weight_decay"] * weight + options["momentum"] * velocity)
    return new, after


@sgd
def nesterov_without_the_gradient(weight, gradient, velocity, options):
    new, after = library.sgd_step(weight, gradient, velocity, **options)
    return (weight - options["lr"] * options["momentum"] * after if options["nesterov"] else new), after


@sgd
def decay_forgotten(weight, gradient, velocity, options):
    return library.sgd_step(weight, gradient, velocity, **(options | {"weight_decay": 0.0}))


@sgd
def decay_beside_the_gradient(weight, gradient, velocity, options):
    new, velocity = library.sgd_step(weight, gradient, velocity, **(options | {"weight_decay": 0.0}))
    return new - options["lr"] * options["weight_decay"] * weight, velocity


@sgd
def decay_grows_the_weight(weight, gradient, velocity, options):
    return library.sgd_step(weight, gradient, velocity, **(options | {"weight_decay": -options["weight_decay"]}))


@sgd
def lr_inside_the_velocity(weight, gradient, velocity, options):
    new, velocity = library.sgd_step(weight, options["lr"] * gradient, velocity, **(options | {"lr": 1.0}))
    return new, velocity


SGD = [
    (
        uphill,
        (
            "The gradient points to where the loss rises. Which way should the weight go?",
            "The step goes uphill.",
            "weight - lr * direction",
        ),
    ),
    (
        momentum_forgotten,
        (
            "Two steps with the same gradient and momentum 0.5: is the second longer?",
            "The velocity of the step before is not used.",
            "velocity = momentum * velocity + (1 - dampening) * gradient",
        ),
    ),
    (
        first_velocity_dampened,
        (
            "With dampening 0.5, how long is the very first step?",
            "The first velocity is the gradient itself, undampened: there is nothing to mix it with yet.",
            "velocity = gradient if velocity is None else ...",
        ),
    ),
    (
        dampening_forgotten,
        ("Try dampening=0.5.", "dampening is not used.", "momentum * velocity + (1 - dampening) * gradient"),
    ),
    (
        averaged_momentum,
        (
            "With gradient 1 again and again and momentum 0.5, does the velocity tend to 1 or to 2?",
            "The gradient is multiplied by 1 - momentum, as in Adam; here only dampening holds it back.",
            "momentum * velocity + (1 - dampening) * gradient",
        ),
    ),
    (
        nesterov_ignored,
        (
            "Does nesterov=True change the step?",
            "nesterov is not used.",
            "direction = gradient + momentum * velocity if nesterov else velocity",
        ),
    ),
    (
        nesterov_with_the_old_velocity,
        (
            "Which velocity looks ahead: the one before this gradient came, or the one after?",
            "The old velocity is used; the new one is meant.",
            "First the new velocity, then direction = gradient + momentum * velocity.",
        ),
    ),
    (
        nesterov_without_the_gradient,
        (
            "With nesterov, how long is the first step?",
            "The gradient itself is missing beside the velocity.",
            "direction = gradient + momentum * velocity",
        ),
    ),
    (
        decay_forgotten,
        (
            "A gradient of 0 and weight_decay 0.5: does the weight shrink?",
            "weight_decay is not used.",
            "gradient = gradient + weight_decay * weight",
        ),
    ),
    (
        decay_beside_the_gradient,
        (
            "Is the decay part of the velocity?",
            "The decay stands beside the step; in SGD it goes through the gradient, and so into the velocity.",
            "gradient = gradient + weight_decay * weight, before all else.",
        ),
    ),
    (
        decay_grows_the_weight,
        (
            "A gradient of 0 and weight_decay 0.5: does the weight shrink or grow?",
            "The sign of the decay is turned.",
            "gradient + weight_decay * weight",
        ),
    ),
    (
        lr_inside_the_velocity,
        (
            "What is v after the first step: the gradient, or lr times it?",
            "lr is in the velocity; it is applied when the weight moves, so that a schedule acts at once.",
            "velocity without lr, then weight - lr * velocity.",
        ),
    ),
]

# ---- adam_step and adamw_step


def adam(change):
    """Both steps get the same wrong answers: a function of all arguments and of how the right one decays."""

    def made(decoupled):
        right = library.adamw_step if decoupled else library.adam_step

        def answer(
            weight,
            gradient,
            mean,
            square,
            step,
            *,
            lr=1e-3,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=1e-2 if decoupled else 0.0,
        ):
            options = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
            return change(right, weight, gradient, mean, square, step, options)

        answer.__name__ = change.__name__
        return answer

    return made


def rebuilt(right, weight, gradient, mean, square, step, options, direction):
    """The right averages, another direction, and the right decay."""
    _, mean, square = right(weight, gradient, mean, square, step, **options)
    new = weight - options["lr"] * direction(mean, square, options["betas"], options["eps"])
    if right is library.adamw_step:
        new = new - options["lr"] * options["weight_decay"] * weight
    return new, mean, square


@adam
def no_correction(*arguments):
    return rebuilt(*arguments, lambda m, v, betas, eps: m / (v.sqrt() + eps))


@adam
def correction_of_the_step_before(right, weight, gradient, mean, square, step, options):
    def direction(m, v, betas, eps):
        return m / (1 - betas[0] ** (step + 1)) / ((v / (1 - betas[1] ** (step + 1))).sqrt() + eps)

    return rebuilt(right, weight, gradient, mean, square, step, options, direction)


@adam
def only_the_mean_corrected(right, weight, gradient, mean, square, step, options):
    def direction(m, v, betas, eps):
        return m / (1 - betas[0] ** step) / (v.sqrt() + eps)

    return rebuilt(right, weight, gradient, mean, square, step, options, direction)


@adam
def corrected_outside_the_root(right, weight, gradient, mean, square, step, options):
    def direction(m, v, betas, eps):
        return m / (1 - betas[0] ** step) / (v.sqrt() / (1 - betas[1] ** step) + eps)

    return rebuilt(right, weight, gradient, mean, square, step, options, direction)


@adam
def eps_inside_the_root(right, weight, gradient, mean, square, step, options):
    def direction(m, v, betas, eps):
        return m / (1 - betas[0] ** step) / (v / (1 - betas[1] ** step) + eps).sqrt()

    return rebuilt(right, weight, gradient, mean, square, step, options, direction)


@adam
def root_forgotten(right, weight, gradient, mean, square, step, options):
    def direction(m, v, betas, eps):
        return m / (1 - betas[0] ** step) / (v / (1 - betas[1] ** step) + eps)

    return rebuilt(right, weight, gradient, mean, square, step, options, direction)


@adam
def gradient_for_the_mean(right, weight, gradient, mean, square, step, options):
    def direction(m, v, betas, eps):
        return gradient / ((v / (1 - betas[1] ** step)).sqrt() + eps)

    return rebuilt(right, weight, gradient, mean, square, step, options, direction)


@adam
def betas_swapped(right, weight, gradient, mean, square, step, options):
    return right(weight, gradient, mean, square, step, **(options | {"betas": options["betas"][::-1]}))


@adam
def weight_of_old_and_new_swapped(right, weight, gradient, mean, square, step, options):
    betas = tuple(1 - beta for beta in options["betas"])
    new = rebuilt(right, weight, gradient, mean, square, step, options | {"betas": betas},
                  lambda m, v, _, eps: m / (1 - options["betas"][0] ** step)
                  / ((v / (1 - options["betas"][1] ** step)).sqrt() + eps))  # fmt: skip
    return new


@adam
def square_of_the_mean(right, weight, gradient, mean, square, step, options):
    lr, (beta1, beta2), eps, decay = (options[name] for name in ("lr", "betas", "eps", "weight_decay"))
    coupled = right is library.adam_step
    gradient = gradient + decay * weight if coupled else gradient
    mean = beta1 * mean + (1 - beta1) * gradient
    square = beta2 * square + (1 - beta2) * mean**2
    new = weight - lr * mean / (1 - beta1**step) / ((square / (1 - beta2**step)).sqrt() + eps)
    return (new if coupled else new - lr * decay * weight), mean, square


@adam
def decay_left_out(right, weight, gradient, mean, square, step, options):
    return right(weight, gradient, mean, square, step, **(options | {"weight_decay": 0.0}))


@adam
def step_uphill(right, weight, gradient, mean, square, step, options):
    new, mean, square = right(weight, gradient, mean, square, step, **options)
    return 2 * weight - new, mean, square


@adam
def decay_the_other_way(right, weight, gradient, mean, square, step, options):
    other = library.adam_step if right is library.adamw_step else library.adamw_step
    return other(weight, gradient, mean, square, step, **options)


def decay_without_lr(weight, gradient, mean, square, step, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
    new, mean, square = library.adam_step(weight, gradient, mean, square, step, lr=lr, betas=betas, eps=eps)
    return new - weight_decay * weight, mean, square


def decay_after_the_step(
    weight, gradient, mean, square, step, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2
):
    new, mean, square = library.adam_step(weight, gradient, mean, square, step, lr=lr, betas=betas, eps=eps)
    return new * (1 - lr * weight_decay), mean, square


def averages_changed_in_place(
    weight, gradient, mean, square, step, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2
):
    options = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    new, after, squares = library.adamw_step(weight, gradient, mean, square, step, **options)
    mean.copy_(after)
    square.copy_(squares)
    return new, mean, square


BOTH = [
    (
        no_correction,
        (
            "The averages start at 0. After one step with gradient 1, what is m, and what should it stand for?",
            "The averages are used as they are; at first they are far too small.",
            "m / (1 - beta1 ** step), and v / (1 - beta2 ** step).",
        ),
    ),
    (
        correction_of_the_step_before,
        (
            "step is counted from 1. After the first step, what is 1 - beta1 ** step?",
            "The correction is one step off.",
            "1 - beta1 ** step, with the step that is given.",
        ),
    ),
    (
        only_the_mean_corrected,
        (
            "How long is the first step? It should be lr.",
            "v is not corrected; only m is.",
            "v / (1 - beta2 ** step) before the root is taken.",
        ),
    ),
    (
        corrected_outside_the_root,
        (
            "How long is the first step? It should be lr.",
            "v is divided by its correction behind the root; the correction belongs under it.",
            "(v / (1 - beta2 ** step)).sqrt() + eps",
        ),
    ),
    (
        eps_inside_the_root,
        (
            "With eps = 1e-8 and a v of 0, what is the divisor: 1e-8, or 1e-4?",
            "eps is added under the root.",
            "(v / (1 - beta2 ** step)).sqrt() + eps",
        ),
    ),
    (
        root_forgotten,
        (
            "All gradients ten times as large: is the step the same?",
            "The root of v is missing.",
            "m / (sqrt(v) + eps)",
        ),
    ),
    (
        gradient_for_the_mean,
        (
            "Does the step remember the gradients before?",
            "The gradient is used where its average m is meant.",
            "m / (sqrt(v) + eps)",
        ),
    ),
    (
        betas_swapped,
        (
            "Which of the two averages forgets faster by default?",
            "beta1 belongs to the mean, beta2 to the square; here they are swapped.",
            "mean = betas[0] * mean + ..., square = betas[1] * square + ...",
        ),
    ),
    (
        weight_of_old_and_new_swapped,
        (
            "With beta1 = 0.9, how much of the old average is kept?",
            "The old average gets 1 - beta and the new gradient beta.",
            "mean = beta1 * mean + (1 - beta1) * gradient",
        ),
    ),
    (
        square_of_the_mean,
        (
            "Gradients 1 and -1 in turn: is v large or small?",
            "The square of the average is kept; the average of the squares is meant.",
            "square = beta2 * square + (1 - beta2) * gradient ** 2",
        ),
    ),
    (
        decay_left_out,
        (
            "A gradient of 0 and weight_decay 0.5: does the weight shrink?",
            "weight_decay is not used.",
            "AdamW: - lr * weight_decay * weight. Adam: gradient + weight_decay * weight.",
        ),
    ),
    (
        step_uphill,
        (
            "The gradient points to where the loss rises. Which way should the weight go?",
            "The step goes uphill.",
            "weight - lr * ...",
        ),
    ),
]
ADAM = [
    *[(change(False), hints) for change, hints in BOTH],
    (
        decay_the_other_way(False),
        (
            "Does the decay go into the averages?",
            "This is AdamW: in Adam, the decay is part of the gradient.",
            "gradient = gradient + weight_decay * weight, before all else.",
        ),
    ),
]
ADAMW = [
    *[(change(True), hints) for change, hints in BOTH],
    (
        decay_the_other_way(True),
        (
            "A weight whose gradient is always 0: by which share should it shrink?",
            "The decay is added to the gradient and goes through m and v: that is Adam, not AdamW.",
            "Leave the gradient alone, and take lr * weight_decay * weight away from the weight.",
        ),
    ),
    (
        decay_without_lr,
        (
            "By which share should a weight shrink in a step: weight_decay, or less?",
            "The decay is not multiplied by lr.",
            "- lr * weight_decay * weight",
        ),
    ),
    (
        decay_after_the_step,
        (
            "With large lr and weight_decay: is it the old or the new weight that is decayed?",
            "The step is decayed with the weight; only the old weight should be.",
            "weight - lr * direction - lr * weight_decay * weight, all with the old weight.",
        ),
    ),
    (
        averages_changed_in_place,
        (
            "Look at the arguments after the call.",
            "The averages that were given are written over.",
            "mean = beta1 * mean + ... makes a new tensor; mean *= beta1 does not.",
        ),
    ),
]

MISTAKES: dict[str, list[Mistake]] = {
    "sgd_step": [Mistake(*row) for row in SGD],
    "adam_step": [Mistake(*row) for row in ADAM],
    "adamw_step": [Mistake(*row) for row in ADAMW],
}


def probes(name: str) -> Iterator[tuple[tuple, dict]]:
    """Arguments on which every two of the mistakes above differ."""
    weight, gradient, velocity = normal(0, 3), normal(1, 3), normal(2, 3)
    if name == "sgd_step":
        yield (weight, gradient), {"lr": 0.5}
        yield (weight, gradient, velocity), {"lr": 0.5, "momentum": 0.75}
        for before in ((), (velocity,)):
            yield (weight, gradient, *before), {"lr": 0.5, "momentum": 0.75, "dampening": 0.25}
            yield (weight, gradient, *before), {"lr": 0.5, "momentum": 0.75, "nesterov": True, "weight_decay": 0.5}
    else:
        square = normal(3, 3).square()
        yield (weight, gradient, velocity, square, 3), {"lr": 0.5}
        yield (weight, gradient, velocity, square, 2), {"lr": 0.5, "betas": (0.5, 0.75), "eps": 0.25}
        yield (weight, gradient, velocity, square, 1), {"lr": 0.5, "weight_decay": 0.75}
