"""Cross-entropy: how surprised a model is by the right answer, the loss of every classifier and language model."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minivid.shapes import ShapeError

REDUCTIONS = ("mean", "sum", "none")


def log_sum_exp(x: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    """The logarithm of the sum of the powers, without computing powers that overflow.

        log sum_i exp(x_i) = m + log sum_i exp(x_i - m),   m = max_i x_i

    Args:
        x: any numbers; exp(x) itself may be too large for their type.
        dim: the axis that is summed over, and is gone from the result.

    Source: Goodfellow, Bengio and Courville 2016, Deep Learning, section 4.1.
    """
    # The result does not depend on m, so neither does the gradient, softmax(x): none is sent through the maximum.
    largest = x.amax(dim, keepdim=True).detach()
    # exp_ works in place on the difference, which nobody else holds: one pass over memory less.
    return largest.squeeze(dim) + (x - largest).exp_().sum(dim).log()


def cross_entropy(
    logits: Float[Tensor, "..."],
    targets: Int[Tensor, "..."],
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    weight: Float[Tensor, " v"] | None = None,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """Minus the logarithm of the probability that softmax(logits) gives to the right class.

        loss = -log softmax(x)_y = log sum_j exp(x_j) - x_y,   d loss / d x = softmax(x) - onehot(y)

    With label_smoothing e, the right answer is a mixture: 1 - e on class y and e / v on every class, y included.
    With weights, the term of class j counts weight_j times, and "mean" divides by the sum of the weights of the right
    classes. Half-precision logits are computed in float32, and so is the result.

    Args:
        logits: b v, or b v and further axes as in b v n; v alone for one answer.
        targets: the right classes, 0 to v - 1: the shape of logits without v.
        ignore_index: a target of this number counts nowhere: not in the sum, not in the mean's divisor.
        label_smoothing: e, from 0 to 1.
        weight: one number a class; None = 1.
        reduction: "mean" over the targets that count, "sum", or "none" for one loss a target (0 where ignored).

    Returns:
        One number, or the shape of `targets` for "none". The mean over no target at all is NaN, as 0 / 0 is.

    Raises:
        ShapeError: if logits and targets do not fit together.
        TypeError: if the targets are not class numbers: probabilities are not taken.
        ValueError: for a target that is no class, or an option outside its range.

    Source: Goodfellow, Bengio and Courville 2016, Deep Learning, section 6.2.2.3; label smoothing: Szegedy et al. 2016,
    section 7 (arXiv:1512.00567).
    """
    classes = 1 if logits.ndim > 1 else 0
    _check(logits, targets, classes, label_smoothing, weight, reduction)
    logits = _wide(logits)
    ignored = targets == ignore_index
    right = targets.masked_fill(ignored, 0).unsqueeze(classes)
    normaliser = log_sum_exp(logits, classes)
    losses = normaliser - _pick(logits, right, classes)
    counts = torch.ones_like(losses)
    if weight is not None:
        weight = weight.to(logits.dtype)
        counts = weight[right.squeeze(classes)]
        losses = losses * counts
    if label_smoothing:
        # The mean over all classes of weight_j (log sum exp - x_j), without keeping log softmax for every class.
        if weight is None:
            even = normaliser - logits.mean(classes)
        else:
            even = (weight.sum() * normaliser - torch.tensordot(weight, logits, ([0], [classes]))) / len(weight)
        losses = (1.0 - label_smoothing) * losses + label_smoothing * even
    # Filled, not multiplied by 0: the gradient stays 0 even where the loss is infinite, or the divisor 0.
    losses = losses.masked_fill(ignored, 0.0)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return losses.sum() / counts.masked_fill(ignored, 0.0).sum()


def binary_cross_entropy(
    probabilities: Float[Tensor, "*shape"],
    targets: Float[Tensor, "*shape"],
    *,
    weight: Float[Tensor, "..."] | None = None,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """Cross-entropy of a yes-or-no answer whose probability is given.

        loss = -(t log p + (1 - t) log(1 - p))

    Each logarithm is cut off at -100, as torch does, so that a sure and wrong answer costs 100 and not infinity. Where
    a model gives logits, binary_cross_entropy_with_logits is exact instead.

    Args:
        probabilities: p, from 0 to 1.
        targets: t, from 0 to 1, of the same shape.
        weight: counts each loss so many times; broadcasts to the shape. "mean" still divides by the number of losses.
        reduction: "mean", "sum", or "none".

    Raises:
        ShapeError: if the shapes differ.
        ValueError: if a probability is outside 0 to 1, or for an unknown reduction.

    Source: Goodfellow, Bengio and Courville 2016, Deep Learning, section 6.2.2.2.
    """
    _check_binary(probabilities, targets, reduction)
    if ((probabilities < 0) | (probabilities > 1)).any():
        raise ValueError(
            f"probabilities: from {probabilities.min().item():g} to {probabilities.max().item():g}, expected 0 to 1; "
            "give logits to binary_cross_entropy_with_logits"
        )
    probabilities, targets = _wide(probabilities), _wide(targets)
    yes = probabilities.log().clamp(min=-100.0)
    no = (1.0 - probabilities).log().clamp(min=-100.0)
    return _reduced(-(targets * yes + (1.0 - targets) * no), weight, reduction)


def binary_cross_entropy_with_logits(
    logits: Float[Tensor, "*shape"],
    targets: Float[Tensor, "*shape"],
    *,
    weight: Float[Tensor, "..."] | None = None,
    pos_weight: Float[Tensor, "..."] | None = None,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """Cross-entropy of a yes-or-no answer whose log odds x are given, p = 1 / (1 + exp(-x)).

        loss = t log(1 + exp(-x)) + (1 - t) log(1 + exp(x)),   d loss / d x = p - t

    It is the two-class cross-entropy of the logits (0, x), and exact for any x.

    Args:
        logits: x, any numbers.
        targets: t, from 0 to 1, of the same shape.
        weight: counts each loss so many times; broadcasts to the shape. "mean" still divides by the number of losses.
        pos_weight: counts the first term, "yes", so many times; broadcasts to the shape.
        reduction: "mean", "sum", or "none".

    Raises:
        ShapeError: if the shapes differ.
        ValueError: for an unknown reduction.

    Source: Goodfellow, Bengio and Courville 2016, Deep Learning, section 6.2.2.2.
    """
    _check_binary(logits, targets, reduction)
    logits, targets = _wide(logits), _wide(targets)
    if_yes = log_sum_exp(torch.stack([torch.zeros_like(logits), -logits], dim=-1))
    if_no = logits + if_yes
    if pos_weight is not None:
        if_yes = if_yes * pos_weight
    return _reduced(targets * if_yes + (1.0 - targets) * if_no, weight, reduction)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _pick(logits: Tensor, right: Tensor, classes: int) -> Tensor:
    try:
        return logits.gather(classes, right).squeeze(classes)
    except (IndexError, RuntimeError) as error:
        raise ValueError(
            f"targets: from {right.min().item()} to {right.max().item()}, expected classes 0 to "
            f"{logits.shape[classes] - 1} or ignore_index"
        ) from error


def _reduced(losses: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    if weight is not None:
        losses = losses * weight
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


def _check(
    logits: Tensor, targets: Tensor, classes: int, label_smoothing: float, weight: Tensor | None, reduction: str
) -> None:
    if targets.is_floating_point():
        raise TypeError(f"targets: {targets.dtype}, expected class numbers (int64); probabilities are not taken")
    wanted = (*logits.shape[:classes], *logits.shape[classes + 1 :])
    if logits.ndim == 0 or targets.shape != wanted:
        raise ShapeError(
            f"targets: shape {tuple(targets.shape)}, expected {wanted}: that of logits {tuple(logits.shape)} without "
            f"the classes, axis {classes}; move the classes there with rearrange if they stand elsewhere"
        )
    if weight is not None and weight.shape != logits.shape[classes : classes + 1]:
        raise ShapeError(
            f"weight: shape {tuple(weight.shape)}, expected one number a class, ({logits.shape[classes]},)"
        )
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}, expected 0 to 1")
    _check_reduction(reduction)


def _check_binary(x: Tensor, targets: Tensor, reduction: str) -> None:
    if x.shape != targets.shape:
        raise ShapeError(f"targets: shape {tuple(targets.shape)}, expected that of the answers, {tuple(x.shape)}")
    _check_reduction(reduction)


def _check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}, expected one of {REDUCTIONS}")
