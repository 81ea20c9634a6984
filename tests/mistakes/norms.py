"""Classic wrong answers about normalisation, each with three hints of increasing directness."""

from collections.abc import Iterator

import torch
from strategies import normal

from minivid.classroom.museum import Mistake
from minivid.layers import norms as library

# ---- layer_norm, and block_layer_norm, which should give the same


def finish(normal, weight, bias):
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias


def divided_by_one_less(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    last = tuple(range(-axes, 0))
    centred = x - x.mean(last, keepdim=True)
    count = x.shape[x.ndim - axes :].numel()
    return finish(centred * (centred.square().sum(last, keepdim=True) / (count - 1) + eps).rsqrt(), weight, bias)


def over_the_tokens(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    centred = x - x.mean(0, keepdim=True)
    return finish(centred * (centred.square().mean(0, keepdim=True) + eps).rsqrt(), weight, bias)


def over_everything(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    centred = x - x.mean()
    return finish(centred * (centred.square().mean() + eps).rsqrt(), weight, bias)


def last_axis_only(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    return finish(library.layer_norm(x, eps=eps), weight, bias)


def eps_behind_the_root(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    last = tuple(range(-axes, 0))
    centred = x - x.mean(last, keepdim=True)
    return finish(centred / (centred.square().mean(last, keepdim=True).sqrt() + eps), weight, bias)


def deviation_of_statistics(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    last = tuple(range(-axes, 0))
    return finish((x - x.mean(last, keepdim=True)) / (x.std(last, keepdim=True) + eps), weight, bias)


def eps_squared(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    return library.layer_norm(x, weight, bias, axes=axes, eps=eps**2)


def eps_forgotten(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    return library.layer_norm(x, weight, bias, axes=axes, eps=0.0)


def own_eps(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    return library.layer_norm(x, weight, bias, axes=axes, eps=1e-5)


def root_forgotten(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    last = tuple(range(-axes, 0))
    centred = x - x.mean(last, keepdim=True)
    return finish(centred / (centred.square().mean(last, keepdim=True) + eps), weight, bias)


def mean_left_in(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    return finish(library.rms_norm(x, axes=axes, eps=eps), weight, bias)


def only_the_spread(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    last = tuple(range(-axes, 0))
    return finish(x * (x.var(last, correction=0, keepdim=True) + eps).rsqrt(), weight, bias)


def shift_forgotten(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    return library.layer_norm(x, weight, axes=axes, eps=eps)


def scale_forgotten(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    return library.layer_norm(x, None, bias, axes=axes, eps=eps)


def shift_scaled_too(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    normal = library.layer_norm(x, None, bias, axes=axes, eps=eps)
    return normal if weight is None else normal * weight


def scale_around_one(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    return library.layer_norm(x, None if weight is None else 1 + weight, bias, axes=axes, eps=eps)


LAST_AXES = "mean and square are taken over the last `axes` axes: x.mean(last, keepdim=True)"
LAYER_NORM = [
    (
        divided_by_one_less,
        (
            "Square the numbers that come out: is their mean 1?",
            "The variance divides by the count less one, as in statistics; here it divides by the count.",
            "centred.square().mean(last, keepdim=True), or var(correction=0)",
        ),
    ),
    (
        deviation_of_statistics,
        (
            "Square the numbers that come out: is their mean 1? And with a large eps?",
            "std() divides by the count less one, and eps is added behind the root; both stand in old tutorials.",
            "(centred.square().mean(last, keepdim=True) + eps).rsqrt()",
        ),
    ),
    (
        eps_squared,
        (
            "With a small eps it is right. Try a large one.",
            "eps is squared; it is added to the variance as it is.",
            "(variance + eps).sqrt()",
        ),
    ),
    (
        over_the_tokens,
        (
            "Change one token: does another one change?",
            "Mean and variance run over the tokens (batch norm); they run over the numbers of one token.",
            LAST_AXES,
        ),
    ),
    (
        over_everything,
        (
            "Change one token: does another one change?",
            "There is one mean for all tokens; every token has its own.",
            LAST_AXES,
        ),
    ),
    (
        last_axis_only,
        (
            "With axes=1 it is right. What is a token with axes=2?",
            "Only the last axis is normalised; a token may have several.",
            "last = tuple(range(-axes, 0))",
        ),
    ),
    (
        eps_behind_the_root,
        (
            "With a small eps it is right. Try a large one.",
            "eps is added to the deviation; it belongs to the variance, inside the root.",
            "(variance + eps).sqrt()",
        ),
    ),
    (
        eps_forgotten,
        (
            "What comes out of a token whose numbers are all equal?",
            "eps is an argument that no line uses: 0 / 0.",
            "(variance + eps).sqrt()",
        ),
    ),
    (
        own_eps,
        (
            "Try another eps.",
            "eps is an argument that no line uses.",
            "(variance + eps).sqrt()",
        ),
    ),
    (
        root_forgotten,
        (
            "Square the numbers that come out: is their mean 1?",
            "The token is divided by its variance instead of its deviation.",
            "(variance + eps).sqrt()",
        ),
    ),
    (
        mean_left_in,
        (
            "What is the mean of the numbers that come out?",
            "The mean is not taken off: this is rms_norm.",
            "centred = x - x.mean(last, keepdim=True), and the variance is the mean of centred^2.",
        ),
    ),
    (
        only_the_spread,
        (
            "What is the mean of the numbers that come out?",
            "The token is divided by its deviation, but its mean is not taken off.",
            "(x - mean) / sqrt(variance + eps)",
        ),
    ),
    (
        shift_forgotten,
        (
            "Give a shift (bias): does anything change?",
            "bias is an argument that no line uses.",
            "normal * weight + bias",
        ),
    ),
    (
        scale_forgotten,
        (
            "Give a scale (weight): does anything change?",
            "weight is an argument that no line uses.",
            "normal * weight + bias",
        ),
    ),
    (
        shift_scaled_too,
        (
            "With a scale alone or a shift alone it is right. With both?",
            "The shift is added before the scale and is scaled with it.",
            "normal * weight + bias",
        ),
    ),
    (
        scale_around_one,
        (
            "Give a scale of ones: does anything change?",
            "The scale is taken as 1 + weight.",
            "normal * weight + bias",
        ),
    ),
]


def numbers_only(x, weight=None, bias=None, *, axes=1, eps=1e-5):
    return library.layer_norm(x, weight, bias, axes=axes, eps=eps).detach() + 0.0 * x


class Gradients(torch.autograd.Function):
    """The right numbers, and the gradients that `wrong` makes."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps, wrong):
        ctx.save_for_backward(x, weight)
        ctx.eps, ctx.wrong = eps, wrong
        return library.layer_norm(x, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx, grad):
        return *ctx.wrong(grad, *ctx.saved_tensors, eps=ctx.eps), None, None


def with_gradients(wrong):
    def answer(x, weight=None, bias=None, *, axes=1, eps=1e-5):
        weight = x.new_ones(x.shape[-1]) if weight is None else weight
        bias = x.new_zeros(x.shape[-1]) if bias is None else bias
        return Gradients.apply(x, weight, bias, eps, wrong)

    return answer


# ---- layer_norm_gradient


def pieces(grad, x, weight, axes, eps):
    last = tuple(range(-axes, 0))
    centred = x - x.mean(last, keepdim=True)
    inverse = (centred.square().mean(last, keepdim=True) + eps).rsqrt()
    return last, centred * inverse, grad * weight, inverse


def summed(tensor, axes):
    return tensor.reshape(-1, *tensor.shape[tensor.ndim - axes :]).sum(0)


def mean_and_deviation_held_fixed(grad, x, weight, *, axes=1, eps=1e-5):
    _, n, scaled, inverse = pieces(grad, x, weight, axes, eps)
    return scaled * inverse, summed(grad * n, axes), summed(grad, axes)


def deviation_held_fixed(grad, x, weight, *, axes=1, eps=1e-5):
    last, n, scaled, inverse = pieces(grad, x, weight, axes, eps)
    return (scaled - scaled.mean(last, keepdim=True)) * inverse, summed(grad * n, axes), summed(grad, axes)


def mean_held_fixed(grad, x, weight, *, axes=1, eps=1e-5):
    last, n, scaled, inverse = pieces(grad, x, weight, axes, eps)
    slope = (scaled * n).mean(last, keepdim=True)
    return (scaled - n * slope) * inverse, summed(grad * n, axes), summed(grad, axes)


def sums_for_means(grad, x, weight, *, axes=1, eps=1e-5):
    last, n, scaled, inverse = pieces(grad, x, weight, axes, eps)
    slope = (scaled * n).sum(last, keepdim=True)
    d_x = (scaled - scaled.sum(last, keepdim=True) - n * slope) * inverse
    return d_x, summed(grad * n, axes), summed(grad, axes)


def not_divided(grad, x, weight, *, axes=1, eps=1e-5):
    d_x, *others = library.layer_norm_gradient(grad, x, weight, axes=axes, eps=eps)
    return d_x / pieces(grad, x, weight, axes, eps)[3], *others


def scale_left_out(grad, x, weight, *, axes=1, eps=1e-5):
    _, *others = library.layer_norm_gradient(grad, x, weight, axes=axes, eps=eps)
    return library.layer_norm_gradient(grad, x, torch.ones_like(weight), axes=axes, eps=eps)[0], *others


def scale_gradient_of_x(grad, x, weight, *, axes=1, eps=1e-5):
    d_x, _, d_bias = library.layer_norm_gradient(grad, x, weight, axes=axes, eps=eps)
    return d_x, summed(grad * x, axes), d_bias


def means_over_tokens(grad, x, weight, *, axes=1, eps=1e-5):
    d_x, d_weight, d_bias = library.layer_norm_gradient(grad, x, weight, axes=axes, eps=eps)
    count = x.shape[: x.ndim - axes].numel()
    return d_x, d_weight / count, d_bias / count


def not_summed(grad, x, weight, *, axes=1, eps=1e-5):
    _, n, _, _ = pieces(grad, x, weight, axes, eps)
    return library.layer_norm_gradient(grad, x, weight, axes=axes, eps=eps)[0], grad * n, grad


GRADIENT = [
    (
        mean_and_deviation_held_fixed,
        (
            "Move all numbers of a token alike: does the result change? What should the sum of d x be?",
            "Mean and deviation are taken for constants; both depend on every number of the token.",
            "(scaled - scaled.mean() - z * (scaled * z).mean()) / deviation, the means over the token",
        ),
    ),
    (
        deviation_held_fixed,
        (
            "Stretch a token: does the result change? What does d x say?",
            "The mean's share is there, the deviation's is missing.",
            "Take off z * (scaled * z).mean() as well.",
        ),
    ),
    (
        mean_held_fixed,
        (
            "Move all numbers of a token alike: does the result change? What should the sum of d x be?",
            "The deviation's share is there, the mean's is missing.",
            "Take off scaled.mean() as well.",
        ),
    ),
    (
        sums_for_means,
        (
            "Move all numbers of a token alike: does the result change? What should the sum of d x be?",
            "Sums are taken off where means belong.",
            "scaled.mean(last, keepdim=True) and (scaled * z).mean(last, keepdim=True)",
        ),
    ),
    (
        not_divided,
        (
            "Make the token ten times as large: d x should become a tenth.",
            "The division by the deviation is missing.",
            "... * inverse, with inverse = (variance + eps).rsqrt()",
        ),
    ),
    (
        scale_left_out,
        (
            "With a scale of ones it is right.",
            "The scale is not in d x.",
            "scaled = grad * weight",
        ),
    ),
    (
        scale_gradient_of_x,
        (
            "What is the scale multiplied with in the forward pass: x, or the normalised z?",
            "d weight is the sum of grad * x; the scale meets z.",
            "(grad * z) summed over the tokens",
        ),
    ),
    (
        means_over_tokens,
        (
            "With one token it is right. With two, does each count in full?",
            "d weight and d bias are means over the tokens; they are sums.",
            ".sum(0), not .mean(0)",
        ),
    ),
    (
        not_summed,
        (
            "Which shape has the scale, which one its gradient?",
            "d weight and d bias are not summed over the tokens.",
            "(grad * z).reshape(-1, *token).sum(0)",
        ),
    ),
]

BLOCK_LAYER_NORM = [
    *(row for row in LAYER_NORM if row[0] not in (last_axis_only, over_the_tokens, over_everything)),
    (
        numbers_only,
        (
            "The numbers are right. The gradients?",
            "The result is detached: nothing is left to learn from.",
            "Write forward and backward of a torch.autograd.Function; backward is layer_norm_gradient.",
        ),
    ),
    *((with_gradients(wrong), hints) for wrong, hints in GRADIENT if wrong is not not_summed),
]

# ---- rms_norm


def rms_finish(normal, weight):
    return normal if weight is None else normal * weight


def mean_taken_off(x, weight=None, *, axes=1, eps=1e-6):
    return library.layer_norm(x, weight, axes=axes, eps=eps)


def sum_for_mean(x, weight=None, *, axes=1, eps=1e-6):
    last = tuple(range(-axes, 0))
    return rms_finish(x * (x.square().sum(last, keepdim=True) + eps).rsqrt(), weight)


def spread_for_square(x, weight=None, *, axes=1, eps=1e-6):
    last = tuple(range(-axes, 0))
    return rms_finish(x * (x.var(last, correction=0, keepdim=True) + eps).rsqrt(), weight)


def rms_root_forgotten(x, weight=None, *, axes=1, eps=1e-6):
    last = tuple(range(-axes, 0))
    return rms_finish(x / (x.square().mean(last, keepdim=True) + eps), weight)


def rms_eps_behind_the_root(x, weight=None, *, axes=1, eps=1e-6):
    last = tuple(range(-axes, 0))
    return rms_finish(x / (x.square().mean(last, keepdim=True).sqrt() + eps), weight)


def rms_own_eps(x, weight=None, *, axes=1, eps=1e-6):
    return library.rms_norm(x, weight, axes=axes)


def rms_over_everything(x, weight=None, *, axes=1, eps=1e-6):
    return rms_finish(x * (x.square().mean() + eps).rsqrt(), weight)


def rms_last_axis_only(x, weight=None, *, axes=1, eps=1e-6):
    return rms_finish(library.rms_norm(x, eps=eps), weight)


def rms_scale_forgotten(x, weight=None, *, axes=1, eps=1e-6):
    return library.rms_norm(x, axes=axes, eps=eps)


def rms_scale_around_one(x, weight=None, *, axes=1, eps=1e-6):
    return library.rms_norm(x, None if weight is None else 1 + weight, axes=axes, eps=eps)


def length_one(x, weight=None, *, axes=1, eps=1e-6):
    last = tuple(range(-axes, 0))
    return rms_finish(x / (x.square().sum(last, keepdim=True).sqrt() + eps), weight)


def multiplied(x, weight=None, *, axes=1, eps=1e-6):
    last = tuple(range(-axes, 0))
    return rms_finish(x * (x.square().mean(last, keepdim=True) + eps).sqrt(), weight)


def divided_by_the_last_axis(x, weight=None, *, axes=1, eps=1e-6):
    last = tuple(range(-axes, 0))
    return rms_finish(x * (x.square().sum(last, keepdim=True) / x.shape[-1] + eps).rsqrt(), weight)


def magnitude(x, weight=None, *, axes=1, eps=1e-6):
    last = tuple(range(-axes, 0))
    return rms_finish(x / (x.abs().mean(last, keepdim=True) + eps), weight)


RMS_NORM = [
    (
        mean_taken_off,
        (
            "Does a number that was 0 stay 0?",
            "The mean is taken off: this is layer_norm.",
            "x * (x.square().mean(last, keepdim=True) + eps).rsqrt()",
        ),
    ),
    (
        sum_for_mean,
        (
            "Square the numbers that come out: is their mean 1, or their sum?",
            "The squares are summed; they are averaged.",
            "x.square().mean(last, keepdim=True)",
        ),
    ),
    (
        length_one,
        (
            "Square the numbers that come out: is their mean 1, or their sum?",
            "Every token is brought to length 1; here it is the mean square that becomes 1, and eps is under the root.",
            "(x.square().mean(last, keepdim=True) + eps).rsqrt()",
        ),
    ),
    (
        multiplied,
        (
            "Does a loud token become quieter?",
            "The root multiplies; it should divide.",
            "rsqrt() is 1 / sqrt().",
        ),
    ),
    (
        divided_by_the_last_axis,
        (
            "With axes=1 it is right. How many numbers has a token with axes=2?",
            "The sum runs over all axes of a token, but it is divided by the size of the last one only.",
            "x.square().mean(last, keepdim=True)",
        ),
    ),
    (
        spread_for_square,
        (
            "Square the numbers that come out: is their mean 1? Also where all are far from 0?",
            "The token is divided by its deviation from the mean; rms_norm knows no mean.",
            "x.square().mean(last, keepdim=True)",
        ),
    ),
    (
        rms_root_forgotten,
        (
            "Square the numbers that come out: is their mean 1?",
            "The token is divided by its mean square, without the root.",
            "x * (mean square + eps).rsqrt()",
        ),
    ),
    (
        rms_eps_behind_the_root,
        (
            "With a small eps it is right. Try a large one.",
            "eps is added behind the root; it belongs inside.",
            "(mean square + eps).rsqrt()",
        ),
    ),
    (
        rms_own_eps,
        (
            "Try another eps.",
            "eps is an argument that no line uses.",
            "(mean square + eps).rsqrt()",
        ),
    ),
    (
        rms_over_everything,
        (
            "Change one token: does another one change?",
            "There is one mean for all tokens; every token has its own.",
            LAST_AXES,
        ),
    ),
    (
        rms_last_axis_only,
        (
            "With axes=1 it is right. What is a token with axes=2?",
            "Only the last axis is normalised; a token may have several.",
            "last = tuple(range(-axes, 0))",
        ),
    ),
    (
        rms_scale_forgotten,
        (
            "Give a scale (weight): does anything change?",
            "weight is an argument that no line uses.",
            "normal * weight",
        ),
    ),
    (
        rms_scale_around_one,
        (
            "Give a scale of ones: does anything change?",
            "The scale is taken as 1 + weight, as in Gemma.",
            "normal * weight",
        ),
    ),
    (
        magnitude,
        (
            "Square the numbers that come out: is their mean 1?",
            "The token is divided by its mean magnitude; it should be the root of the mean square.",
            "x * (x.square().mean(last, keepdim=True) + eps).rsqrt()",
        ),
    ),
]

MISTAKES: dict[str, list[Mistake]] = {
    "layer_norm": [Mistake(*row) for row in LAYER_NORM],
    "layer_norm_gradient": [Mistake(*row) for row in GRADIENT],
    "block_layer_norm": [Mistake(*row) for row in BLOCK_LAYER_NORM],
    "rms_norm": [Mistake(*row) for row in RMS_NORM],
}


def with_its_gradients(x, weight, bias, **settings):
    """Ask for the result and what autograd makes of it."""

    def probe(answer):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        y = answer(*inputs, **settings)
        return [y, *torch.autograd.grad((y * normal(9, *y.shape)).sum(), inputs, allow_unused=True)]

    return probe


def probes(name: str) -> Iterator[tuple[tuple, dict]]:
    """Arguments on which every two of the mistakes above differ."""
    x, weight, bias = 2.0 + normal(0, 3, 5), normal(1, 5), normal(2, 5)
    if name in ("layer_norm", "block_layer_norm"):
        yield (x,), {}
        yield (x, weight), {}
        yield (x, None, bias), {}
        yield (x, weight, bias), {"eps": 0.3}
        yield (torch.zeros(1, 3),), {}
    if name == "layer_norm":
        yield (normal(3, 2, 3, 5),), {"axes": 2}
    elif name == "block_layer_norm":
        yield with_its_gradients(x, weight, bias, eps=0.1)
    elif name == "layer_norm_gradient":
        yield (normal(4, 3, 5), x, weight), {"eps": 0.1}
    elif name == "rms_norm":
        yield (x,), {}
        yield (x, weight), {"eps": 0.3}
        yield (normal(3, 2, 3, 5),), {"axes": 2}
