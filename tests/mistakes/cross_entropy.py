"""Classic wrong answers about cross-entropy, each with three hints of increasing directness."""

from collections.abc import Iterator

import torch
from strategies import normal
from torch.nn import functional as F

from minivid.classroom.museum import Mistake
from minivid.training import cross_entropy as library

# ---- cross_entropy


def right_loss(logits, targets, **options):
    return library.plain_cross_entropy(logits, targets, **options)


def parts(logits, targets, ignore_index, weight):
    """Log-probabilities with the classes last, which targets are ignored, and the weight of each."""
    logits = logits.movedim(1, -1)
    ignored = targets == ignore_index
    right = targets.masked_fill(ignored, 0)
    weight = torch.ones(logits.shape[-1]) if weight is None else weight
    return logits.log_softmax(-1), right, ignored, weight[right].masked_fill(ignored, 0.0)


def reduced(losses, counts, reduction):
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.sum() / counts


def wrong(change):
    """A wrong answer that differs from the right one where targets are classes."""

    def answer(logits, targets, *, ignore_index=-100, label_smoothing=0.0, weight=None, reduction="mean"):
        options = dict(ignore_index=ignore_index, label_smoothing=label_smoothing, weight=weight, reduction=reduction)
        if targets.is_floating_point():
            return right_loss(logits, targets, label_smoothing=label_smoothing, weight=weight, reduction=reduction)
        return change(logits, targets, options)

    answer.__name__ = change.__name__
    return answer


@wrong
def mean_over_ignored_too(logits, targets, options):
    losses = right_loss(logits, targets, **(options | {"reduction": "none"}))
    if options["reduction"] != "mean":
        return reduced(losses, 1, options["reduction"])
    _, _, ignored, counts = parts(logits, targets, options["ignore_index"], options["weight"])
    return losses.sum() / (counts.sum() + ignored.sum())


@wrong
def weights_mean_over_answers(logits, targets, options):
    losses = right_loss(logits, targets, **(options | {"reduction": "none"}))
    return reduced(losses, (targets != options["ignore_index"]).sum(), options["reduction"])


@wrong
def nothing_ignored(logits, targets, options):
    targets = targets.masked_fill(targets == options["ignore_index"], 0)
    return right_loss(logits, targets, **(options | {"ignore_index": -100}))


@wrong
def always_minus_hundred(logits, targets, options):
    if options["ignore_index"] != -100:
        targets = targets.masked_fill(targets == options["ignore_index"], 0)
    return right_loss(logits, targets, **(options | {"ignore_index": -100}))


@wrong
def smoothed_over_the_others(logits, targets, options):
    e, v = options["label_smoothing"], logits.shape[1]
    # e / (v - 1) on the other classes is the library's e v / (v - 1) on all.
    return right_loss(logits, targets, **(options | {"label_smoothing": min(1.0, e * v / (v - 1))}))


@wrong
def smoothed_without_taking_away(logits, targets, options):
    e = options["label_smoothing"]
    sharp = right_loss(logits, targets, **(options | {"label_smoothing": 0.0}))
    return right_loss(logits, targets, **options) + e * sharp


@wrong
def smoothing_ignored(logits, targets, options):
    return right_loss(logits, targets, **(options | {"label_smoothing": 0.0}))


@wrong
def weights_ignored(logits, targets, options):
    return right_loss(logits, targets, **(options | {"weight": None}))


@wrong
def log_of_softmax(logits, targets, options):
    # The logarithm of a power that was rounded to 0.
    p = logits.softmax(1)
    losses = -p.log().movedim(1, -1)
    _, right, ignored, counts = parts(logits, targets, options["ignore_index"], options["weight"])
    weight = torch.ones(logits.shape[1]) if options["weight"] is None else options["weight"]
    e = options["label_smoothing"]
    picked = losses.gather(-1, right.unsqueeze(-1)).squeeze(-1) * weight[right]
    even = (losses * weight).mean(-1) if e else 0.0
    losses = ((1 - e) * picked + e * even).masked_fill(ignored, 0.0)
    return reduced(losses, counts.sum(), options["reduction"])


@wrong
def log_of_softmax_plus_little(logits, targets, options):
    p = logits.softmax(1) + 1e-7
    return F.nll_loss(p.log(), targets, options["weight"], ignore_index=options["ignore_index"],
                      reduction=options["reduction"]) if not options["label_smoothing"] else right_loss(
        logits, targets, **options)  # fmt: skip


@wrong
def powers_that_overflow(logits, targets, options):
    return right_loss((logits.exp() / logits.exp().sum(1, keepdim=True)).log(), targets, **options)


@wrong
def softmax_over_the_answers(logits, targets, options):
    log_p = logits - logits.logsumexp(0, keepdim=True)
    return F.nll_loss(log_p, targets, options["weight"], ignore_index=options["ignore_index"],
                      reduction=options["reduction"])  # fmt: skip


@wrong
def softmax_twice(logits, targets, options):
    return right_loss(logits.softmax(1), targets, **options)


@wrong
def sign_forgotten(logits, targets, options):
    return -right_loss(logits, targets, **options)


@wrong
def logarithm_to_base_two(logits, targets, options):
    return right_loss(logits, targets, **options) / torch.tensor(2.0).log()


@wrong
def probability_not_its_logarithm(logits, targets, options):
    losses = 1 - right_loss(logits, targets, **(options | {"reduction": "none"})).neg().exp()
    _, _, _, counts = parts(logits, targets, options["ignore_index"], options["weight"])
    return reduced(losses, counts.sum(), options["reduction"])


@wrong
def always_the_mean(logits, targets, options):
    return right_loss(logits, targets, **(options | {"reduction": "mean"}))


@wrong
def sum_for_mean(logits, targets, options):
    reduction = "sum" if options["reduction"] == "mean" else options["reduction"]
    return right_loss(logits, targets, **(options | {"reduction": reduction}))


@wrong
def cut_off_from_the_gradient(logits, targets, options):
    return right_loss(logits.detach(), targets, **options).requires_grad_()


def classes_at_the_end(logits, targets, **options):
    if logits.ndim == 3 and targets.ndim == 2:
        logits = logits.transpose(1, 2)
    return library.cross_entropy(logits, targets, **options)


def probabilities_taken_for_the_largest(logits, targets, **options):
    if targets.is_floating_point():
        targets = targets.argmax(1)
    return library.cross_entropy(logits, targets, **options)


CROSS_ENTROPY = [
    (
        mean_over_ignored_too,
        (
            "Half of the targets are ignored. Does the mean stay what it was without them?",
            "Ignored targets are left out of the sum, but still counted in the divisor.",
            "Divide by (targets != ignore_index).sum(), or by the sum of the weights of those.",
        ),
    ),
    (
        weights_mean_over_answers,
        (
            "All classes have weight 2. Should the mean be twice as large?",
            "The weighted sum is divided by the number of answers, not by the sum of their weights.",
            "losses.sum() / weight[targets].sum()",
        ),
    ),
    (
        nothing_ignored,
        (
            "What does a target of -100 cost?",
            "Targets of ignore_index are taken for class 0.",
            "losses.masked_fill(targets == ignore_index, 0), and leave them out of the divisor.",
        ),
    ),
    (
        always_minus_hundred,
        (
            "Try ignore_index=-1.",
            "Only -100 is ignored, whatever is asked for.",
            "Compare with the argument: targets == ignore_index.",
        ),
    ),
    (
        smoothed_over_the_others,
        (
            "With 4 classes and smoothing 0.4, what is asked of the right class: 0.6 or 0.7?",
            "e is divided among the v - 1 other classes; all v get a share, the right one included.",
            "answer = (1 - e) * onehot + e / v",
        ),
    ),
    (
        smoothed_without_taking_away,
        (
            "Do the parts of the answer still sum to 1?",
            "e / v is added to every class, but nothing is taken from the right one.",
            "answer = (1 - e) * onehot + e / v",
        ),
    ),
    (
        smoothing_ignored,
        ("What changes with label_smoothing=0.5?", "label_smoothing is not used.", "(1 - e) * onehot + e / v"),
    ),
    (
        weights_ignored,
        (
            "What changes if one class has weight 3?",
            "The weights are not used.",
            "losses * weight[targets], and the mean divides by weight[targets].sum().",
        ),
    ),
    (
        log_of_softmax,
        (
            "A wrong answer with a logit 1000 below the best: what is its probability in floating point?",
            "A small probability is rounded to 0 before the logarithm is taken.",
            "log softmax(x)_y = x_y - log_sum_exp(x): never make p at all.",
        ),
    ),
    (
        log_of_softmax_plus_little,
        (
            "A wrong answer with a logit 1000 below the best should cost 1000. What does it cost here?",
            "A small number beside p keeps the logarithm finite, and wrong: no loss is above 16.",
            "log softmax(x)_y = x_y - log_sum_exp(x): never make p at all.",
        ),
    ),
    (
        powers_that_overflow,
        (
            "What is exp(1000) in floating point?",
            "Powers of large logits overflow, and inf / inf is NaN.",
            "Take the largest logit away first, or use log_sum_exp.",
        ),
    ),
    (
        softmax_over_the_answers,
        (
            "One answer alone, with two classes of equal logits: what should it cost?",
            "Softmax runs over the answers (axis 0); the probabilities of the classes sum to 1.",
            "Sum over axis 1.",
        ),
    ),
    (
        softmax_twice,
        (
            "How small can the loss get when the right logit grows and grows?",
            "Softmax is taken twice: the loss wants logits and makes probabilities itself.",
            "Leave out the first softmax.",
        ),
    ),
    (
        sign_forgotten,
        (
            "Is the logarithm of a probability positive or negative?",
            "The sign is missing: the loss is minus the logarithm.",
            "-log p, that is log_sum_exp(x) - x_y.",
        ),
    ),
    (
        logarithm_to_base_two,
        (
            "What do two equal logits cost: 1, or 0.693?",
            "The logarithm is to base 2; the natural one is meant.",
            "torch.log",
        ),
    ),
    (
        probability_not_its_logarithm,
        (
            "What does an answer cost to which the model gives probability 0.01? 0.99, or 4.6?",
            "This is 1 - p; the loss is -log p.",
            "log_sum_exp(x) - x_y",
        ),
    ),
    (
        always_the_mean,
        (
            "What shape has the result for reduction='none'?",
            "reduction is not used.",
            "Return the losses for 'none', their sum for 'sum'.",
        ),
    ),
    (
        sum_for_mean,
        (
            "The same answer twice: should the loss double?",
            "'mean' gives the sum.",
            "Divide by the number of answers that count.",
        ),
    ),
    (
        cut_off_from_the_gradient,
        (
            "What is the gradient of the loss with respect to the logits?",
            "Somewhere the way back is cut: the loss is right, and nothing can be learned from it.",
            "Look for .detach(), .item(), .data or torch.no_grad().",
        ),
    ),
    (
        classes_at_the_end,
        (
            "For logits b v n, which axis counts the classes?",
            "With three axes, the classes stand on the second, not on the last.",
            "logits.movedim(1, -1) puts them last.",
        ),
    ),
    (
        probabilities_taken_for_the_largest,
        (
            "What does an answer cost that is half right to be cat and half right to be dog?",
            "Only the most probable class of the targets is used.",
            "-(targets * log_p).sum(1)",
        ),
    ),
]

# ---- binary_cross_entropy


def binary(loss):
    """A wrong answer about probabilities, from a wrong loss of each."""

    def answer(probabilities, targets, *, weight=None, reduction="mean"):
        losses = loss(probabilities, targets)
        losses = losses if weight is None else losses * weight
        return reduced(losses, losses.numel(), reduction)

    answer.__name__ = loss.__name__
    return answer


def logs(p):
    return p.log().clamp(min=-100), (1 - p).log().clamp(min=-100)


@binary
def only_yes(p, t):
    return -t * logs(p)[0]


@binary
def terms_swapped(p, t):
    return -((1 - t) * logs(p)[0] + t * logs(p)[1])


@binary
def binary_sign_forgotten(p, t):
    return t * logs(p)[0] + (1 - t) * logs(p)[1]


@binary
def not_cut_off(p, t):
    return -(t * p.log() + (1 - t) * (1 - p).log())


@binary
def cut_off_by_a_little(p, t):
    p = p.clamp(1e-7, 1 - 1e-7)
    return -(t * p.log() + (1 - t) * (1 - p).log())


@binary
def targets_rounded(p, t):
    t = t.round()
    return -(t * logs(p)[0] + (1 - t) * logs(p)[1])


@binary
def logits_expected(p, t):
    return F.binary_cross_entropy_with_logits(p, t, reduction="none")


@binary
def squared_error(p, t):
    return (p - t).square()


def binary_weights_ignored(probabilities, targets, *, weight=None, reduction="mean"):
    return library.binary_cross_entropy(probabilities, targets, reduction=reduction)


def binary_mean_over_weights(probabilities, targets, *, weight=None, reduction="mean"):
    losses = library.binary_cross_entropy(probabilities, targets, weight=weight, reduction="none")
    return reduced(losses, losses.numel() if weight is None else weight.sum(), reduction)


def binary_always_mean(probabilities, targets, *, weight=None, reduction="mean"):
    return library.binary_cross_entropy(probabilities, targets, weight=weight)


ONLY_YES = (
    "What does an answer cost that says yes, surely, where no is right?",
    "Only the term of yes is there.",
    "t * log(p) + (1 - t) * log(1 - p)",
)
SWAPPED = (
    "p is the probability of yes, t = 1 means yes. Which logarithm belongs to t?",
    "The two terms are swapped.",
    "t * log(p) + (1 - t) * log(1 - p)",
)
SIGN = (
    "Is the logarithm of a probability positive or negative?",
    "The sign is missing.",
    "-(t * log(p) + (1 - t) * log(1 - p))",
)
SQUARED = (
    "What does an answer cost that says no, surely, where yes is right? 1, or much more?",
    "This is the squared error; the cross-entropy is minus a logarithm.",
    "-(t * log(p) + (1 - t) * log(1 - p))",
)
WEIGHTS = ("What changes if one answer has weight 3?", "The weights are not used.", "losses * weight")
WEIGHT_MEAN = (
    "All weights are 2. What should 'mean' divide by?",
    "Here, unlike in cross_entropy, 'mean' divides by the number of answers.",
    "(losses * weight).mean()",
)
REDUCTION = (
    "What shape has the result for reduction='none'?",
    "reduction is not used.",
    "Return the losses for 'none', their sum for 'sum'.",
)
BINARY = [
    (only_yes, ONLY_YES),
    (terms_swapped, SWAPPED),
    (binary_sign_forgotten, SIGN),
    (
        not_cut_off,
        (
            "p = 0 and t = 0: what are 0 times log 0, and the loss?",
            "The logarithm of 0 is -inf, and 0 times -inf is NaN.",
            "log(p).clamp(min=-100), and the same for 1 - p.",
        ),
    ),
    (
        cut_off_by_a_little,
        (
            "p = 0 and t = 1: the loss should be 100. What is it here?",
            "The probability is cut off; torch cuts the logarithm off at -100.",
            "log(p).clamp(min=-100)",
        ),
    ),
    (
        targets_rounded,
        (
            "What does p = 0.5 cost where t = 0.5?",
            "A target between 0 and 1 is rounded; both terms count, each by its share.",
            "t * log(p) + (1 - t) * log(1 - p), for any t.",
        ),
    ),
    (
        logits_expected,
        (
            "p = 1 and t = 1: what should it cost?",
            "The sigmoid is taken of what is already a probability.",
            "Leave out the sigmoid.",
        ),
    ),
    (squared_error, SQUARED),
    (binary_weights_ignored, WEIGHTS),
    (binary_mean_over_weights, WEIGHT_MEAN),
    (binary_always_mean, REDUCTION),
]

# ---- binary_cross_entropy_with_logits


def with_logits(loss):
    """A wrong answer about logits, from a wrong pair of what each costs if yes and if no is right."""

    def answer(logits, targets, *, weight=None, pos_weight=None, reduction="mean"):
        if_yes, if_no = loss(logits)
        if_yes = if_yes if pos_weight is None else if_yes * pos_weight
        losses = targets * if_yes + (1 - targets) * if_no
        losses = losses if weight is None else losses * weight
        return reduced(losses, losses.numel(), reduction)

    answer.__name__ = loss.__name__
    return answer


@with_logits
def exp_overflows(x):
    return (1 + (-x).exp()).log(), (1 + x.exp()).log()


@with_logits
def log_of_sigmoid(x):
    return -x.sigmoid().log(), -(1 - x.sigmoid()).log()


@with_logits
def sigmoid_clamped(x):
    p = x.sigmoid()
    return -p.log().clamp(min=-100), -(1 - p).log().clamp(min=-100)


@with_logits
def sign_of_the_logit_turned(x):
    return F.softplus(x), F.softplus(-x)


@with_logits
def logits_only_yes(x):
    return F.softplus(-x), torch.zeros_like(x)


@with_logits
def hinge(x):
    return (1 - x).clamp(min=0), (1 + x).clamp(min=0)


def pos_weight_on_both(logits, targets, *, weight=None, pos_weight=None, reduction="mean"):
    if pos_weight is not None:
        weight = pos_weight if weight is None else weight * pos_weight
    return library.binary_cross_entropy_with_logits(logits, targets, weight=weight, reduction=reduction)


def pos_weight_ignored(logits, targets, *, weight=None, pos_weight=None, reduction="mean"):
    return library.binary_cross_entropy_with_logits(logits, targets, weight=weight, reduction=reduction)


def pos_weight_on_no(logits, targets, *, weight=None, pos_weight=None, reduction="mean"):
    return library.binary_cross_entropy_with_logits(
        -logits, 1 - targets, weight=weight, pos_weight=pos_weight, reduction=reduction
    )


def logits_weight_ignored(logits, targets, *, weight=None, pos_weight=None, reduction="mean"):
    return library.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight, reduction=reduction)


def logits_mean_over_weights(logits, targets, *, weight=None, pos_weight=None, reduction="mean"):
    losses = library.binary_cross_entropy_with_logits(
        logits, targets, weight=weight, pos_weight=pos_weight, reduction="none"
    )
    return reduced(losses, losses.numel() if weight is None else weight.sum(), reduction)


def logits_always_mean(logits, targets, *, weight=None, pos_weight=None, reduction="mean"):
    return library.binary_cross_entropy_with_logits(logits, targets, weight=weight, pos_weight=pos_weight)


STABLE = "log_sum_exp of the pair (0, -x) is log(1 + exp(-x)) without overflow; add x for log(1 + exp(x))."
WITH_LOGITS = [
    (exp_overflows, ("What is exp(200) in single precision?", "exp overflows for large logits.", STABLE)),
    (
        log_of_sigmoid,
        (
            "What is the sigmoid of 200 in single precision, and one minus it?",
            "The probability is rounded to 0 or 1 before the logarithm is taken.",
            STABLE,
        ),
    ),
    (
        sigmoid_clamped,
        (
            "A logit of 50 where no is right should cost 50. What does it cost here?",
            "Cutting the logarithm off at -100 hides that the probability was rounded to 0.",
            STABLE,
        ),
    ),
    (
        sign_of_the_logit_turned,
        (
            "Does a large logit mean yes or no?",
            "The two terms are swapped: yes costs log(1 + exp(-x)).",
            "t * log(1 + exp(-x)) + (1 - t) * log(1 + exp(x))",
        ),
    ),
    (logits_only_yes, ONLY_YES),
    (
        hinge,
        (
            "What does a logit of 2 cost where yes is right? 0, or a little?",
            "This is the hinge loss; the cross-entropy never gets to 0.",
            "t * log(1 + exp(-x)) + (1 - t) * log(1 + exp(x))",
        ),
    ),
    (
        pos_weight_on_both,
        (
            "What should pos_weight change where the answer is no?",
            "pos_weight multiplies both terms; it is meant for yes alone.",
            "pos_weight * t * if_yes + (1 - t) * if_no",
        ),
    ),
    (
        pos_weight_ignored,
        ("What changes with pos_weight=3?", "pos_weight is not used.", "pos_weight * t * if_yes + (1 - t) * if_no"),
    ),
    (
        pos_weight_on_no,
        (
            "What should pos_weight change where the answer is yes?",
            "pos_weight multiplies the term of no.",
            "pos_weight * t * if_yes + (1 - t) * if_no",
        ),
    ),
    (logits_weight_ignored, WEIGHTS),
    (logits_mean_over_weights, WEIGHT_MEAN),
    (logits_always_mean, REDUCTION),
]

# ---- log_sum_exp


def sum_of_powers_overflows(x, dim=-1):
    return x.exp().sum(dim).log()


def maximum_not_added_back(x, dim=-1):
    return (x - x.amax(dim, keepdim=True)).exp().sum(dim).log()


def always_the_last_axis(x, dim=-1):
    return x.logsumexp(-1)


def axis_kept(x, dim=-1):
    return x.logsumexp(dim, keepdim=True)


def maximum_alone(x, dim=-1):
    return x.amax(dim)


def logarithm_of_the_mean(x, dim=-1):
    return x.logsumexp(dim) - torch.tensor(float(x.shape[dim])).log()


def one_maximum_for_all(x, dim=-1):
    return x.max() + (x - x.max()).exp().sum(dim).log()


def sum_without_logarithm(x, dim=-1):
    return (x - x.amax(dim, keepdim=True)).exp().sum(dim) + x.amax(dim)


LOG_SUM_EXP = [
    (
        sum_of_powers_overflows,
        (
            "What is exp(1000) in floating point?",
            "The powers overflow, or are all rounded to 0.",
            "m = x.amax(dim, keepdim=True); sum exp(x - m) instead, and add m behind the logarithm.",
        ),
    ),
    (
        maximum_not_added_back,
        (
            "One number alone: what is log(exp(5))?",
            "The largest was taken away and not put back.",
            "m + log sum exp(x - m)",
        ),
    ),
    (always_the_last_axis, ("Try dim=0.", "dim is not used.", "Give dim to amax and to sum.")),
    (
        axis_kept,
        (
            "What shape has the sum over an axis?",
            "The axis that is summed over stays, with size 1.",
            "squeeze(dim) the maximum, and sum without keepdim.",
        ),
    ),
    (
        maximum_alone,
        (
            "Two equal numbers x: is the result x?",
            "Only the largest is used; log 2 is missing for two equal ones.",
            "m + log sum exp(x - m)",
        ),
    ),
    (
        logarithm_of_the_mean,
        (
            "Two equal numbers x: is the result x?",
            "This is the logarithm of the mean of the powers, not of their sum.",
            ".sum(dim), not .mean(dim)",
        ),
    ),
    (
        one_maximum_for_all,
        (
            "One row of numbers about 1000 and one about -1000: what is left of the second?",
            "One maximum for all rows: in a row far below it, all powers are rounded to 0.",
            "x.amax(dim, keepdim=True)",
        ),
    ),
    (
        sum_without_logarithm,
        ("One number alone: what is log(exp(5))?", "The logarithm is missing.", "m + log sum exp(x - m)"),
    ),
]

# plain_cross_entropy has one law, equality with cross_entropy, and the same mistakes where targets are classes.
SHARED = (mean_over_ignored_too, weights_mean_over_answers, nothing_ignored, smoothed_over_the_others)
SHARED += (smoothing_ignored, weights_ignored, softmax_over_the_answers, softmax_twice, sign_forgotten)
SHARED += (always_the_mean, sum_for_mean)
PLAIN = [row for row in CROSS_ENTROPY if row[0] in SHARED]

MISTAKES: dict[str, list[Mistake]] = {
    "log_sum_exp": [Mistake(*row) for row in LOG_SUM_EXP],
    "cross_entropy": [Mistake(*row) for row in CROSS_ENTROPY],
    "plain_cross_entropy": [Mistake(*row) for row in PLAIN],
    "binary_cross_entropy": [Mistake(*row) for row in BINARY],
    "binary_cross_entropy_with_logits": [Mistake(*row) for row in WITH_LOGITS],
}


def sent_back(call):
    """The gradient of the mean loss."""
    logits = normal(9, 3, 4).requires_grad_()
    return torch.autograd.grad(call(logits, torch.tensor([3, 0, 1])), logits, allow_unused=True)[0]


def probes(name: str) -> Iterator:
    """Arguments on which every two of the mistakes above differ."""
    if name in ("cross_entropy", "plain_cross_entropy"):
        logits, targets = normal(0, 4, 3), torch.tensor([2, 0, 1, 1])
        ignoring = torch.tensor([2, -100, 1, -100])
        yield (logits, targets), {}
        yield (logits, targets), {"reduction": "none"}
        yield (logits, targets), {"reduction": "sum"}
        yield (logits, ignoring), {}
        yield (logits, torch.tensor([2, -1, 1, -1])), {"ignore_index": -1}
        yield (logits, targets), {"weight": torch.tensor([1.0, 2.0, 3.0])}
        yield (logits, targets), {"label_smoothing": 0.3}
        yield (100 * logits, targets), {"reduction": "none"}
        yield (20 * logits, targets), {"reduction": "none"}
        yield (20 * logits, targets), {"reduction": "none", "label_smoothing": 0.25}
        yield (normal(1, 2, 3, 3), torch.tensor([[0, 1, 2], [2, 2, 0]])), {}
        yield (logits, normal(2, 4, 3).softmax(1)), {}
        yield sent_back
    elif name == "binary_cross_entropy":
        p, t = torch.tensor([0.25, 0.625, 1.0, 0.0, 0.75]), torch.tensor([1.0, 0.25, 1.0, 0.0, 0.0])
        yield (p, t), {}
        yield (torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])), {"reduction": "none"}
        yield (p, t), {"weight": torch.tensor([1.0, 2.0, 3.0, 1.0, 5.0])}
        yield (p, t), {"reduction": "sum"}
    elif name == "binary_cross_entropy_with_logits":
        x, t = torch.tensor([-3.0, 0.5, 2.0, 1.0]), torch.tensor([1.0, 0.25, 0.0, 1.0])
        yield (x, t), {}
        yield (torch.tensor([50.0, -50.0]), torch.tensor([0.0, 1.0])), {"reduction": "none"}
        yield (torch.tensor([200.0, -200.0]), torch.tensor([0.0, 1.0])), {"reduction": "none"}
        yield (x, t), {"pos_weight": torch.tensor(3.0)}
        yield (x, t), {"weight": torch.tensor([1.0, 2.0, 3.0, 1.0])}
        yield (x, t), {"reduction": "sum"}
    elif name == "log_sum_exp":
        yield (normal(3, 3, 3),), {}
        yield (normal(3, 3, 3),), {"dim": 0}
        yield (1000.0 * normal(4, 3, 3),), {}
        yield (torch.tensor([[1000.0, 999.0], [-1000.0, -999.0]]),), {}
