"""Cross-entropy: how surprised a model is by the right answer, the loss of every classifier and language model."""

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.nn import functional as F

from minivid.shapes import ShapeError

REDUCTIONS = ("mean", "sum", "none")
# Numbers of one block of rows: half a MiB in float32, so that all passes over a block but the first find it in the
# processor's cache.
BLOCK = 2**17


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
    return largest.squeeze(dim) + (x - largest).exp().sum(dim).log()


def cross_entropy(
    logits: Float[Tensor, "..."],
    targets: Num[Tensor, "..."],
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    weight: Float[Tensor, " v"] | None = None,
    reduction: str = "mean",
    kernel: str = "blocks",
) -> Float[Tensor, "..."]:
    """Minus the logarithm of the probability that softmax(logits) gives to the right class.

        loss = -log softmax(x)_y = log sum_j exp(x_j) - x_y,   d loss / d x = softmax(x) - onehot(y)

    With label_smoothing e, the right answer is a mixture: 1 - e on class y and e / v on every class, y included.
    With weights, the term of class j counts weight_j times, and "mean" divides by the sum of the weights of the right
    classes. Half-precision logits are computed in float32, and so is the result. The same numbers as
    plain_cross_entropy: a few steps where the logits are few, else blocks of rows, with the gradient written out.

    Args:
        logits: b v, or b v and further axes as in b v n; v alone for one answer.
        targets: the right classes, 0 to v - 1: the shape of logits without v. Or a probability for every class: the
            shape of logits, in a float type; the loss is then -sum_j target_j log softmax(x)_j.
        ignore_index: a target of this number counts nowhere: not in the sum, not in the mean's divisor.
        label_smoothing: e, from 0 to 1.
        weight: one number a class; None = 1. No gradient is sent to it where targets are classes.
        reduction: "mean" over the targets that count, "sum", or "none" for one loss a target (0 where ignored).
        kernel: "blocks" computes what is written here, "fused" the same with one kernel of torch: quicker where the
            logits are few. Where a probability of 0 meets a logit of -inf, "blocks" counts 0 and "fused" gives NaN.

    Returns:
        One number, or the shape of `targets` (without v) for "none". The mean over no target at all is NaN, as 0 / 0
        is. With probabilities as targets, "mean" divides by the number of answers.

    Raises:
        ShapeError: if logits and targets do not fit together.
        TypeError: if the targets are neither class numbers nor probabilities.
        ValueError: for a target that is no class, an option outside its range, or an unknown kernel.

    Source: Goodfellow, Bengio and Courville 2016, Deep Learning, section 6.2.2.3; label smoothing: Szegedy et al. 2016,
    section 7 (arXiv:1512.00567).
    """
    options = dict(ignore_index=ignore_index, label_smoothing=label_smoothing, weight=weight, reduction=reduction)
    if kernel == "fused":
        return _fused(logits, targets, **options)
    if kernel != "blocks":
        raise ValueError(f"kernel is {kernel!r}, expected 'blocks' or 'fused'")
    # A compiler makes one loop of the plain form by itself, and with probabilities there is no single class to pick.
    if targets.is_floating_point() or torch.compiler.is_compiling():
        return plain_cross_entropy(logits, targets, **options)
    classes = _check(logits, targets, **options)
    logits = _wide(logits)
    rows = logits if logits.ndim == 2 else logits.movedim(classes, -1).reshape(-1, logits.shape[classes])
    answers = targets.reshape(-1)
    ignored = answers == ignore_index
    right = answers.masked_fill(ignored, 0)
    sharp, even, counts = None, None, ~ignored
    try:
        if weight is not None or label_smoothing:
            weight = rows.new_ones(rows.shape[1]) if weight is None else weight.detach().to(rows.dtype)
            counts = weight[right].masked_fill(ignored, 0.0)
            sharp = (1.0 - label_smoothing) * counts
            even = weight * (label_smoothing / len(weight)) if label_smoothing else None
        if rows.numel() <= BLOCK:  # to set the blocks up would take longer than all the steps
            losses = _surprise(rows, right, sharp, even)
        else:
            losses, _ = Surprise.apply(rows, right, rows.new_ones(len(rows)) if sharp is None else sharp, even)
    except (IndexError, RuntimeError) as error:
        _refuse_no_class(right, rows.shape[1], error)
        raise
    # Filled, not multiplied by 0: the gradient stays 0 even where the loss is infinite, or the divisor 0.
    losses = losses.masked_fill(ignored, 0.0)
    if reduction == "none":
        return losses.view(targets.shape)
    if reduction == "sum":
        return losses.sum()
    return losses.sum() / counts.sum()


def plain_cross_entropy(
    logits: Float[Tensor, "..."],
    targets: Num[Tensor, "..."],
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    weight: Float[Tensor, " v"] | None = None,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """cross_entropy as its formula reads: every class's -log p, times what should have been answered.

        loss = sum_j a_j (log sum_i exp(x_i) - x_j),   a = (1 - e) onehot(y) + e / v

    Args:
        logits, targets, ignore_index, label_smoothing, weight, reduction: as for cross_entropy.

    Raises:
        ShapeError, TypeError, ValueError: as for cross_entropy.

    Source: Goodfellow, Bengio and Courville 2016, Deep Learning, section 6.2.2.3.
    """
    classes = _check(
        logits, targets, ignore_index=ignore_index, label_smoothing=label_smoothing, weight=weight, reduction=reduction
    )
    logits = _wide(logits).movedim(classes, -1)
    v = logits.shape[-1]
    weight = logits.new_ones(v) if weight is None else weight.to(logits.dtype)
    if targets.is_floating_point():
        answer = targets.to(logits.dtype).movedim(classes, -1)
        counts, ignored = torch.ones_like(logits[..., 0]), torch.zeros_like(logits[..., 0], dtype=torch.bool)
    else:
        ignored = targets == ignore_index
        right = targets.masked_fill(ignored, 0)
        try:
            answer = torch.zeros_like(logits).scatter(-1, right.unsqueeze(-1), 1.0)
            counts = weight[right].masked_fill(ignored, 0.0)
        except (IndexError, RuntimeError) as error:
            _refuse_no_class(right, v, error)
            raise
    answer = ((1.0 - label_smoothing) * answer + label_smoothing / v) * weight
    surprise = log_sum_exp(logits).unsqueeze(-1) - logits
    # A class that is ruled out has logit -inf and surprise inf; where it is not asked for, 0 times inf counts as 0.
    losses = (answer * surprise.masked_fill((answer == 0) & surprise.isinf(), 0.0)).sum(-1)
    losses = losses.masked_fill(ignored, 0.0)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / counts.sum()


def _fused(logits: Tensor, targets: Tensor, *, weight: Tensor | None, **options) -> Tensor:
    """The loss by torch's own kernel, with the errors and the float32 of cross_entropy."""
    classes = _check(logits, targets, weight=weight, **options)
    logits = _wide(logits)
    if targets.is_floating_point():
        targets = targets.to(logits.dtype)
    elif weight is not None:
        weight = weight.detach()
    weight = None if weight is None else weight.to(logits.dtype)
    try:
        return F.cross_entropy(logits, targets, weight, **options)
    except (IndexError, RuntimeError) as error:
        right = targets.masked_fill(targets == options["ignore_index"], 0)
        _refuse_no_class(right, logits.shape[classes], error)
        raise


class Surprise(torch.autograd.Function):
    """The losses of many rows, block by block, and their gradient by the formula instead of by autograd.

        loss_i = a_i log sum_j exp(x_ij) - sharp_i x_i,right - sum_j even_j x_ij,   a_i = sharp_i + sum_j even_j
        d loss_i / d x_i = a_i softmax(x_i) - sharp_i onehot(right_i) - even

    Autograd keeps a tensor of the size of the logits and makes two more on the way back. Here the gradient itself is
    the only large one. The second result is log sum exp, kept for the gradient.
    """

    @staticmethod
    def forward(
        x: Float[Tensor, "n v"], right: Int[Tensor, " n"], sharp: Float[Tensor, " n"], even: Float[Tensor, " v"] | None
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        normalisers, evenly = [], []
        scratch = torch.empty_like(x[: _rows(x)])
        for block in x.split(_rows(x)):
            room = scratch[: len(block)]
            largest = block.amax(1, keepdim=True)
            powers = torch.sub(block, largest, out=room).exp_()
            normalisers.append(largest.squeeze(1) + powers.sum(1).log())
            if even is not None:
                evenly.append(torch.mul(block, even, out=room).sum(1))
        normaliser = torch.cat(normalisers)
        losses = sharp * (normaliser - x.gather(1, right.unsqueeze(1)).squeeze(1))
        if even is not None:
            losses = losses + (even.sum() * normaliser - torch.cat(evenly))
        return losses, normaliser

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        """Keep what the gradient needs: the arguments themselves and one number a row."""
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx, direction: Tensor, _) -> tuple[Tensor, None, None, None]:
        x, right, sharp, even, normaliser = ctx.saved_tensors
        right = right.unsqueeze(1)
        total = sharp if even is None else sharp + even.sum()
        mapped = (torch.func.debug_unwrap(tensor) is not tensor for tensor in (direction, x, right, total))
        # Where a gradient of this gradient is wanted, or vmap is at work: the same formula in steps that torch knows.
        if torch.is_grad_enabled() or any(mapped):
            softmax = (x - log_sum_exp(x).unsqueeze(1)).exp()
            answer = torch.zeros_like(x).scatter(1, right, 1.0) * sharp.unsqueeze(1)
            answer = answer if even is None else answer + even
            return direction.unsqueeze(1) * (total.unsqueeze(1) * softmax - answer), None, None, None
        gradient = torch.empty_like(x)
        blocks = (tensor.split(_rows(x)) for tensor in (gradient, x, normaliser, total * direction, direction))
        for g, logits, level, scale, push in zip(*blocks, strict=True):
            torch.sub(logits, level.unsqueeze(1), out=g).exp_().mul_(scale.unsqueeze(1))
            if even is not None:
                g.addr_(push, even, alpha=-1.0)
        gradient.scatter_add_(1, right, -(sharp * direction).unsqueeze(1))
        return gradient, None, None, None

    @staticmethod
    def vmap(info, in_dims, *arguments):
        """The same for one more axis: out of steps that torch can map, without blocks."""
        return torch.func.vmap(lambda x, *rest: (_surprise(x, *rest), log_sum_exp(x)), in_dims)(*arguments), (0, 0)


def _surprise(
    x: Float[Tensor, "n v"],
    right: Int[Tensor, " n"],
    sharp: Float[Tensor, " n"] | None,
    even: Float[Tensor, " v"] | None,
) -> Float[Tensor, " n"]:
    """The losses of Surprise in the fewest steps, without blocks; sharp None = 1 and even None = 0."""
    levels = x - x.amax(1, keepdim=True).detach()
    normaliser = levels.exp().sum(1, keepdim=True).log()
    losses = (normaliser - levels.gather(1, right.unsqueeze(1))).squeeze(1)
    if sharp is not None:
        losses = sharp * losses
    if even is not None:
        losses = losses + (even * (normaliser - levels)).sum(1)
    return losses


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


def _rows(x: Tensor) -> int:
    return max(1, BLOCK // x.shape[1])


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _refuse_no_class(right: Tensor, v: int, error: Exception) -> None:
    low, high = right.min().item(), right.max().item()
    if low < 0 or high >= v:
        raise ValueError(f"targets: from {low} to {high}, expected classes 0 to {v - 1} or ignore_index") from error


def _reduced(losses: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    if weight is not None:
        losses = losses * weight
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


def _check(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int,
    label_smoothing: float,
    weight: Tensor | None,
    reduction: str,
) -> int:
    """Refuse what does not fit; the axis of the classes."""
    classes = 1 if logits.ndim > 1 else 0
    if not logits.is_floating_point():
        raise TypeError(f"logits: {logits.dtype}, expected a float type; the first argument is what the model says")
    if targets.is_floating_point():
        if targets.shape != logits.shape or logits.ndim == 0:
            raise ShapeError(
                f"targets: {targets.dtype} of shape {tuple(targets.shape)} are probabilities, expected the shape of "
                f"logits, {tuple(logits.shape)}; class numbers are int64"
            )
        if ignore_index != -100:
            raise ValueError(f"ignore_index is {ignore_index}, but the targets are probabilities; leave it out")
    elif targets.dtype != torch.int64:
        raise TypeError(f"targets: {targets.dtype}, expected class numbers (int64) or probabilities (float)")
    else:
        wanted = (*logits.shape[:classes], *logits.shape[classes + 1 :])
        if logits.ndim == 0 or targets.shape != wanted:
            raise ShapeError(
                f"targets: shape {tuple(targets.shape)}, expected {wanted}: that of logits {tuple(logits.shape)} "
                f"without the classes, axis {classes}; move the classes there with rearrange if they stand elsewhere"
            )
    if weight is not None and weight.shape != logits.shape[classes : classes + 1]:
        raise ShapeError(
            f"weight: shape {tuple(weight.shape)}, expected one number a class, ({logits.shape[classes]},)"
        )
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}, expected 0 to 1")
    _check_reduction(reduction)
    return classes


def _check_binary(x: Tensor, targets: Tensor, reduction: str) -> None:
    if x.shape != targets.shape:
        raise ShapeError(f"targets: shape {tuple(targets.shape)}, expected that of the answers, {tuple(x.shape)}")
    _check_reduction(reduction)


def _check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}, expected one of {REDUCTIONS}")
