"""Cross-entropy beside torch's over every option, its gradient, and its stability."""

import functools
import importlib
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds, small, whole
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from minivid.classroom.evidence import agree, holds
from minivid.shapes import ShapeError
from minivid.training.cross_entropy import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    log_sum_exp,
    plain_cross_entropy,
)


@st.composite
def logits_targets(draw, low: int = -2, high: int = 2):
    """Whole-number logits b v and one right class each."""
    b, v = draw(small), draw(st.integers(2, 4))
    logits = draw(whole(b, v, low=low, high=high))
    return logits, torch.tensor(draw(st.lists(st.integers(0, v - 1), min_size=b, max_size=b)))


# ---- laws


@pytest.mark.law("cross_entropy")
@given(logits_targets())
def test_cross_entropy_is_minus_the_logarithm_of_the_probability(impl, case):
    """The mean over the answers of -log(exp(x_y) / sum_j exp(x_j))."""
    logits, targets = case
    rows = zip(logits.tolist(), targets.tolist(), strict=True)
    losses = [-math.log(math.exp(row[y]) / sum(math.exp(x) for x in row)) for row, y in rows]
    want = torch.tensor(sum(losses) / len(losses))
    agree(
        impl.cross_entropy(logits, targets), want, "the loss is not the mean of -log p", logits=logits, targets=targets
    )


@pytest.mark.law("cross_entropy")
@given(st.integers(2, 6), st.integers(0, 3))
def test_cross_entropy_of_equal_logits_is_log_v(impl, v, level):
    """Who knows nothing pays log v."""
    logits = torch.full((1, v), float(level))
    got = impl.cross_entropy(logits, torch.tensor([v - 1]))
    agree(got, torch.tensor(math.log(v)), "equal logits do not cost log v", v=v, logits=logits)


@pytest.mark.law("cross_entropy")
@given(logits_targets())
def test_cross_entropy_has_the_gradient_softmax_minus_onehot(impl, case):
    """d loss / d logits = (softmax(logits) - onehot(target)) / b."""
    logits, targets = case
    x = logits.clone().requires_grad_()
    (got,) = torch.autograd.grad(impl.cross_entropy(x, targets), x)
    want = (torch.softmax(logits, 1) - F.one_hot(targets, logits.shape[1])) / len(logits)
    agree(got, want, "the gradient is not softmax minus one-hot", axes="b v", logits=logits, targets=targets)


@pytest.mark.law("cross_entropy")
@given(logits_targets(), st.integers(-3, 3))
def test_cross_entropy_stays_finite_when_logits_are_large(impl, case, shift):
    """A thousand more on every logit costs nothing, and a sure right or wrong answer costs what it should."""
    logits, targets = case
    loud = 1000.0 * (logits + shift)
    want = F.cross_entropy(1000.0 * logits.double(), targets).float()
    agree(
        impl.cross_entropy(loud, targets), want, "large logits spoil the loss", atol=1e-2, logits=loud, targets=targets
    )


@pytest.mark.law("cross_entropy")
@given(logits_targets(), st.data())
def test_cross_entropy_counts_ignored_targets_nowhere(impl, case, data):
    """An answer whose target is ignore_index changes neither the sum nor the divisor of the mean."""
    logits, targets = case
    extra = data.draw(whole(2, logits.shape[1]))
    more = torch.cat([extra[:1], logits, extra[1:]])
    labels = torch.cat([torch.tensor([-100]), targets, torch.tensor([-100])])
    want = impl.cross_entropy(logits, targets)
    agree(impl.cross_entropy(more, labels), want, "an ignored target counts", logits=more, targets=labels)
    labels = labels.masked_fill(labels == -100, -1)
    got = impl.cross_entropy(more, labels, ignore_index=-1)
    agree(got, want, "ignore_index=-1 is not followed", logits=more, targets=labels)


@pytest.mark.law("cross_entropy")
@given(logits_targets(), st.sampled_from([0.1, 0.5, 1.0]))
def test_cross_entropy_smooths_towards_all_classes_alike(impl, case, smoothing):
    """With label_smoothing e, 1 - e of the answer is class y, and e / v of it every class."""
    logits, targets = case
    v = logits.shape[1]
    answer = (1.0 - smoothing) * F.one_hot(targets, v) + smoothing / v
    want = -(answer * torch.log_softmax(logits, 1)).sum(1).mean()
    got = impl.cross_entropy(logits, targets, label_smoothing=smoothing)
    agree(got, want, "the smoothed loss differs", logits=logits, targets=targets, label_smoothing=smoothing)


@pytest.mark.law("cross_entropy")
@given(logits_targets(), st.data())
def test_cross_entropy_weighs_classes_and_divides_by_their_weights(impl, case, data):
    """The mean is sum(weight_y loss) / sum(weight_y), not divided by the number of answers."""
    logits, targets = case
    weight = data.draw(whole(logits.shape[1], low=1, high=3))
    want = F.cross_entropy(logits, targets, weight=weight)
    got = impl.cross_entropy(logits, targets, weight=weight)
    agree(got, want, "the weighted mean differs", logits=logits, targets=targets, weight=weight)


@pytest.mark.law("cross_entropy")
@given(logits_targets())
def test_cross_entropy_gives_mean_sum_or_each(impl, case):
    """reduction="none" gives one loss an answer; "sum" is their sum and "mean" their mean."""
    logits, targets = case
    each = impl.cross_entropy(logits, targets, reduction="none")
    shown = dict(logits=logits, targets=targets)
    agree(each, F.cross_entropy(logits, targets, reduction="none"), "the single losses differ", axes="b", **shown)
    agree(impl.cross_entropy(logits, targets, reduction="sum"), each.sum(), "the sum is not the sum", **shown)
    agree(impl.cross_entropy(logits, targets, reduction="mean"), each.mean(), "the mean is not the mean", **shown)


@pytest.mark.law("binary_cross_entropy")
@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.integers(0, 1)), min_size=1, max_size=4))
def test_binary_cross_entropy_is_minus_the_logarithm_of_the_probability(impl, pairs):
    """-log p where the answer is yes, -log(1 - p) where it is no, and the mean of both."""
    want = torch.tensor(sum(-math.log(p if t else 1 - p) for p, t in pairs) / len(pairs))
    p, t = (torch.tensor([float(pair[i]) for pair in pairs]) for i in (0, 1))
    agree(impl.binary_cross_entropy(p, t), want, "the loss differs", probabilities=p, targets=t)


@pytest.mark.law("binary_cross_entropy")
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 1.0]), st.integers(0, 1)), min_size=1, max_size=4))
def test_binary_cross_entropy_of_a_sure_answer_is_finite(impl, pairs):
    """A sure right answer costs 0, a sure wrong one 100, and nothing is NaN."""
    p, t = (torch.tensor([float(pair[i]) for pair in pairs]) for i in (0, 1))
    agree(impl.binary_cross_entropy(p, t), F.binary_cross_entropy(p, t), "the loss differs", probabilities=p, targets=t)


@pytest.mark.law("binary_cross_entropy_with_logits")
@given(st.lists(st.tuples(st.integers(-200, 200), st.integers(0, 2)), min_size=1, max_size=4))
def test_binary_cross_entropy_with_logits_is_that_of_the_sigmoid(impl, pairs):
    """The loss of p = 1 / (1 + exp(-x)), also where exp overflows, with gradient (p - t) / count."""
    x = torch.tensor([float(pair[0]) for pair in pairs]).requires_grad_()
    t = torch.tensor([pair[1] / 2 for pair in pairs])
    loss = impl.binary_cross_entropy_with_logits(x, t)
    want = F.binary_cross_entropy_with_logits(x.detach().double(), t.double()).float()
    agree(loss, want, "the loss differs", logits=x.detach(), targets=t)
    (gradient,) = torch.autograd.grad(loss, x)
    agree(
        gradient,
        (x.detach().sigmoid() - t) / len(t),
        "the gradient is not p - t",
        axes="n",
        logits=x.detach(),
        targets=t,
    )


@pytest.mark.law("log_sum_exp")
@given(whole(2, 3), st.integers(-2, 2))
def test_log_sum_exp_is_the_logarithm_of_the_sum_of_powers(impl, x, shift):
    """log sum exp(x), also where exp(x) overflows: a shift of x shifts the result."""
    want = torch.tensor([math.log(sum(math.exp(v) for v in row)) for row in x.tolist()])
    apart = 1000.0 * shift * torch.tensor([1.0, -1.0])  # one row up, the other down
    got = impl.log_sum_exp(x + apart.unsqueeze(1))
    agree(got, want + apart, "the result differs", axes="n", atol=1e-3, x=x, shift=shift)


@pytest.mark.law("cross_entropy")
@given(logits_targets(), st.sampled_from([0.0, 0.5]))
def test_cross_entropy_is_never_negative_and_does_not_see_a_shift(impl, case, smoothing):
    """No answer earns anything, and the same number added to every logit of an answer changes nothing."""
    logits, targets = case
    shown = dict(logits=logits, targets=targets, label_smoothing=smoothing)
    losses = impl.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    holds(bool((losses >= -1e-6).all()), "a loss is negative", **shown)
    shift = torch.arange(1.0, len(logits) + 1).unsqueeze(1)
    got = impl.cross_entropy(logits + shift, targets, label_smoothing=smoothing, reduction="none")
    agree(got, losses, "a shift of the logits changes the loss", axes="b", **shown)


@pytest.mark.law("cross_entropy")
@given(logits_targets(), st.sampled_from([0.0, 0.5]))
def test_cross_entropy_has_a_gradient_that_sums_to_zero_and_spares_what_is_ignored(impl, case, smoothing):
    """What one class's logit is pushed up, the others' are pushed down; an ignored answer pushes nothing."""
    logits, targets = case
    rows, labels = torch.cat([logits, logits[:1]]), torch.cat([targets, torch.tensor([-100])])
    x = rows.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(impl.cross_entropy(x, labels, label_smoothing=smoothing), x)
    shown = dict(logits=rows, targets=labels, label_smoothing=smoothing)
    agree(gradient.sum(1), torch.zeros(len(rows)), "the gradient does not sum to 0", axes="b", **shown)
    agree(gradient[-1], torch.zeros(rows.shape[1]), "an ignored answer has a gradient", axes="v", **shown)


@pytest.mark.law("cross_entropy")
@given(logits_targets(), st.data())
def test_cross_entropy_takes_a_weight_of_two_for_the_answer_twice(impl, case, data):
    """An answer whose class has weight 2 counts as if it stood there twice."""
    logits, targets = case
    weight = data.draw(whole(logits.shape[1], low=1, high=3))
    times = weight[targets].long()
    want = impl.cross_entropy(logits.repeat_interleave(times, 0), targets.repeat_interleave(times))
    got = impl.cross_entropy(logits, targets, weight=weight)
    agree(got, want, "a weight is not so many answers", logits=logits, targets=targets, weight=weight)


@pytest.mark.law("cross_entropy")
@given(whole(2, 3, 2), whole(2, 2, low=0, high=2, dtype=torch.int64))
def test_cross_entropy_has_its_classes_on_the_second_axis(impl, logits, targets):
    """Logits b v n with targets b n are b times n answers."""
    got = impl.cross_entropy(logits, targets, reduction="none")
    want = F.cross_entropy(logits, targets, reduction="none")
    agree(got, want, "the losses differ", axes="b n", logits=logits, targets=targets)


@pytest.mark.law("cross_entropy")
@given(logits_targets(), st.data(), st.sampled_from([0.0, 0.5]))
def test_cross_entropy_takes_probabilities_as_targets(impl, case, data, smoothing):
    """Where the right answer is a mixture, the loss is the mixture of the losses."""
    logits, _ = case
    parts = data.draw(whole(*logits.shape, low=0, high=3)) + torch.tensor([1.0] + [0.0] * (logits.shape[1] - 1))
    targets = parts / parts.sum(1, keepdim=True)
    want = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    got = impl.cross_entropy(logits, targets, label_smoothing=smoothing)
    agree(got, want, "the loss differs", logits=logits, targets=targets, label_smoothing=smoothing)


@pytest.mark.law("plain_cross_entropy")
@given(
    logits_targets(),
    st.sampled_from([-100, 0, 1]),
    st.sampled_from([0.0, 0.25]),
    st.booleans(),
    st.sampled_from(["sum", "none", "mean"]),
)
def test_plain_cross_entropy_equals_cross_entropy(impl, case, ignore_index, smoothing, weighted, reduction):
    """The formula as it reads gives what the blocks with the written-out gradient give, gradient included."""
    logits, targets = case
    weight = torch.arange(1.0, logits.shape[1] + 1) if weighted else None
    options = dict(ignore_index=ignore_index, label_smoothing=smoothing, weight=weight, reduction=reduction)
    results = []
    for function in (impl.plain_cross_entropy, cross_entropy):
        x = logits.clone().requires_grad_()
        loss = function(x, targets, **options)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        results.append((loss.detach(), gradient))
    if reduction == "mean" and (targets == ignore_index).all():
        return  # 0 / 0: what its gradient is, nobody needs
    shown = dict(logits=logits, targets=targets, **options)
    agree(results[0][0], results[1][0], "the loss differs", axes="b" if reduction == "none" else "", **shown)
    agree(results[0][1], results[1][1], "the gradient differs", axes="b v", **shown)


@pytest.mark.law("binary_cross_entropy")
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 3)), min_size=1, max_size=4))
def test_binary_cross_entropy_takes_parts_of_a_yes_and_weights(impl, rows):
    """With a target between 0 and 1 both terms count; weights multiply; "mean" divides by the number of answers."""
    p, t, weight = (torch.tensor([float(row[i]) for row in rows]) / (4, 4, 1)[i] for i in range(3))
    shown = dict(probabilities=p, targets=t, weight=weight)
    for reduction in ("none", "sum", "mean"):
        want = F.binary_cross_entropy(p, t, weight=weight, reduction=reduction)
        got = impl.binary_cross_entropy(p, t, weight=weight, reduction=reduction)
        agree(got, want, f"the loss differs for {reduction}", **shown)


@pytest.mark.law("binary_cross_entropy_with_logits")
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 2), st.integers(1, 3)), min_size=1, max_size=4))
def test_binary_cross_entropy_with_logits_takes_both_weights(impl, rows):
    """pos_weight multiplies the term of "yes", weight the whole; "mean" divides by the number of answers."""
    x, t, weight = (torch.tensor([float(row[i]) for row in rows]) / (1, 2, 1)[i] for i in range(3))
    for options in ({"pos_weight": weight}, {"weight": weight}, {"weight": weight, "reduction": "sum"}):
        want = F.binary_cross_entropy_with_logits(x, t, **options)
        got = impl.binary_cross_entropy_with_logits(x, t, **options)
        agree(got, want, "the loss differs", logits=x, targets=t, **options)
    each = impl.binary_cross_entropy_with_logits(x, t, reduction="none")
    want = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    agree(each, want, "the single losses differ", axes="n", logits=x, targets=t)


@pytest.mark.law("log_sum_exp")
@given(whole(2, 3, 4), st.sampled_from([0, 1, 2, -1]))
def test_log_sum_exp_has_the_gradient_softmax(impl, x, dim):
    """Along any axis; its slope is the share of each power in the sum."""
    leaf = x.clone().requires_grad_()
    got = impl.log_sum_exp(leaf, dim)
    agree(got.detach(), torch.logsumexp(x, dim), "the result differs", x=x, dim=dim)
    (gradient,) = torch.autograd.grad(got.sum(), leaf)
    agree(gradient, x.softmax(dim), "the gradient is not softmax", x=x, dim=dim)


@given(
    logits_targets(),
    st.sampled_from([-100, 0, 1]),
    st.sampled_from([0.0, 0.25, 1.0]),
    st.booleans(),
    st.sampled_from(["sum", "none", "mean"]),
    st.booleans(),
    st.booleans(),
)
def test_the_fused_kernel_gives_the_same_with_every_option(
    case, ignore_index, smoothing, weighted, reduction, further, probabilities
):
    logits, targets = case
    b, v = logits.shape
    weight = torch.arange(1.0, v + 1).requires_grad_() if weighted else None
    options = dict(label_smoothing=smoothing, weight=weight, reduction=reduction)
    if probabilities:
        targets = logits.flip(0).softmax(1)
    else:
        options["ignore_index"] = ignore_index
    if further:  # axes behind the classes
        logits, targets = (torch.stack([x, x.roll(1, 0)], -1) for x in (logits, targets))
    results = []
    for kernel in ("blocks", "fused"):
        x = logits.clone().requires_grad_()
        loss = cross_entropy(x, targets, kernel=kernel, **options)
        learned = (x, weight) if weighted else (x,)
        results.append((loss, *torch.autograd.grad(loss.sum(), learned, allow_unused=True)))
    for one, other in zip(*results, strict=True):
        if reduction == "mean" and bool((targets == ignore_index).all()) and not probabilities:
            assert one is None or one.isnan().all() or not one.any()  # 0 / 0
        elif one is None:
            assert other is None  # no gradient goes to the weights of classes
        else:
            # Sums of at most 40 terms near 20: ten times the rounding of float32.
            torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-5)


def test_the_fused_kernel_has_the_same_errors_and_computes_half_precision_in_float32(monkeypatch):
    for targets, shown in ((torch.tensor([0, 3]), "0 to 3"), (torch.tensor([-1, 2]), "-1 to 2")):
        with pytest.raises(ValueError, match=f"^targets: from {shown}, expected classes 0 to 2 or ignore_index$"):
            cross_entropy(torch.zeros(2, 3), targets, kernel="fused")
    with pytest.raises(ShapeError, match="^weight: shape \\(2,\\), expected one number a class, \\(3,\\)$"):
        cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]), weight=torch.ones(2), kernel="fused")
    with pytest.raises(ValueError, match="^kernel is 'quick', expected 'blocks' or 'fused'$"):
        cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]), kernel="quick")
    x = normal(0, 5, 7).bfloat16()
    for targets, weight in ((torch.arange(5), torch.ones(7).double()), (x.double().softmax(1), torch.ones(7).half())):
        got = cross_entropy(x, targets, weight=weight, kernel="fused")
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, cross_entropy(x, targets, weight=weight), atol=1e-6, rtol=0)

    def broken(*arguments, **options):
        raise RuntimeError("something else")

    monkeypatch.setattr(BLOCKS.F, "cross_entropy", broken)
    for v in (1, 3):
        with pytest.raises(RuntimeError, match="^something else$"):
            cross_entropy(torch.zeros(2, v), torch.tensor([0, -100]), kernel="fused")


# ---- beside torch, every option with every other

BLOCKS = importlib.import_module("minivid.training.cross_entropy")


@pytest.fixture(params=[2**17, 1])
def blocks(request, monkeypatch):
    """All rows at once, in a few steps; and by the written-out gradient, each row in a block of its own."""
    monkeypatch.setattr(BLOCKS, "BLOCK", request.param)


@pytest.mark.parametrize("function", [cross_entropy, plain_cross_entropy])
@pytest.mark.parametrize("targets", ["classes", "probabilities"])
def test_blocks_of_any_size_give_the_same(function, targets, monkeypatch):
    logits, answers = normal(0, 7, 5, dtype=torch.float64), torch.arange(7) % 5
    if targets == "probabilities":
        answers = normal(1, 7, 5, dtype=torch.float64).softmax(1)
    results = []
    for block in (1, 15, 34, 35):  # rows one by one, three by three, all but one; and all at once, without blocks
        monkeypatch.setattr(BLOCKS, "BLOCK", block)
        x = logits.clone().requires_grad_()
        loss = function(x, answers, label_smoothing=0.1)
        results.append([loss.detach(), *torch.autograd.grad(loss, x)])
    for loss, gradient in results:
        torch.testing.assert_close(loss, results[0][0], atol=1e-14, rtol=0)
        torch.testing.assert_close(gradient, results[0][1], atol=1e-14, rtol=0)


@pytest.mark.parametrize("rows", [2, 3])
def test_more_logits_than_one_block_go_through_blocks(rows, monkeypatch):
    monkeypatch.setattr(BLOCKS, "BLOCK", 10)
    loss = cross_entropy(normal(0, rows, 5).requires_grad_(), torch.arange(rows), reduction="sum")
    names, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        names.add(node.name())
        left += [before for before, _ in node.next_functions if before is not None]
    assert ("SurpriseBackward" in names) == (rows * 5 > 10)


def test_rows_of_one_block_may_be_far_apart(monkeypatch):
    monkeypatch.setattr(BLOCKS, "BLOCK", 10)  # two rows
    logits = normal(0, 5, 5) + torch.tensor([[1000.0], [-1000.0], [0.0], [1000.0], [0.0]])
    losses = cross_entropy(logits, torch.arange(5), reduction="none")
    want = F.cross_entropy(logits.double(), torch.arange(5), reduction="none").float()
    torch.testing.assert_close(losses, want, atol=1e-3, rtol=0)  # numbers near 1000 are 6e-5 apart


class Large(TorchDispatchMode):
    """Keeps every tensor of float numbers that is made, and counts those of the size of a block or more."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        results = operator(*arguments, **(keywords or {}))
        for x in results if isinstance(results, tuple | list) else (results,):
            if isinstance(x, torch.Tensor) and x.is_floating_point():
                self.made.append(x)
        return results

    def count(self, *but: torch.Tensor) -> int:
        places = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in self.made}
        for x in but:
            places.pop(x.untyped_storage().data_ptr(), None)
        return sum(size >= 4 * BLOCKS.BLOCK for size in places.values())


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_blocks_share_one_room_and_the_gradient_is_the_only_large_tensor(label_smoothing, monkeypatch):
    monkeypatch.setattr(BLOCKS, "BLOCK", 20)
    logits = normal(0, 13, 10).requires_grad_()
    with Large() as forward:
        loss = cross_entropy(logits, torch.arange(13) % 10, label_smoothing=label_smoothing, reduction="sum")
    with Large() as backward:
        (gradient,) = torch.autograd.grad(loss, logits)
    assert forward.count(logits) == 1
    assert backward.count(logits) == 1 and backward.count(logits, gradient) == 0


def test_blocks_hold_half_a_mebibyte():
    assert BLOCKS.BLOCK * 4 == 2**19
    assert [BLOCKS._rows(torch.empty(0, v, device="meta")) for v in (1, 400, 32768, 2**17, 2**18)] == [
        2**17,
        327,
        4,
        1,
        1,
    ]


LAYOUTS = [((5,), ()), ((7, 5), (7,)), ((2, 5, 3), (2, 3)), ((2, 5, 3, 4), (2, 3, 4))]


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(("shape", "answers"), LAYOUTS)
@pytest.mark.parametrize(("ours", "block"), [(cross_entropy, 2**17), (cross_entropy, 1), (plain_cross_entropy, None)])
def test_cross_entropy_equals_torch_with_every_option(ours, block, shape, answers, dtype, atol, monkeypatch):
    monkeypatch.setattr(BLOCKS, "BLOCK", block)
    targets = torch.randint(0, 5, answers, generator=torch.Generator().manual_seed(0))
    some = torch.where(normal(1, *answers) > 0.5, -1, targets) if answers else targets
    options = itertools.product(
        [(targets, -100), (some, -1), (targets, 3)],
        [0.0, 0.1, 1.0],
        [None, torch.tensor([0.5, 2.0, 1.0, 0.25, 3.0], dtype=dtype)],
        ["mean", "sum", "none"],
    )
    for (labels, ignore_index), label_smoothing, weight, reduction in options:
        keywords = dict(ignore_index=ignore_index, label_smoothing=label_smoothing, weight=weight, reduction=reduction)
        results = []
        for function in (ours, F.cross_entropy):
            logits = (3.0 * normal(2, *shape, dtype=dtype)).requires_grad_()
            loss = function(logits, labels, **keywords)
            results.append([loss, *torch.autograd.grad(loss, logits, normal(3, *loss.shape, dtype=dtype))])
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want, atol=atol, rtol=atol, msg=lambda m, k=keywords: f"{k}\n{m}")


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(("shape", "answers"), LAYOUTS)
def test_probabilities_as_targets_equal_torch_with_every_option(shape, answers, dtype, atol):
    options = itertools.product(
        [0.0, 0.1, 1.0],
        [None, torch.tensor([0.5, 2.0, 1.0, 0.25, 3.0], dtype=dtype)],
        ["mean", "sum", "none"],
    )
    for label_smoothing, weight, reduction in options:
        results = []
        for function in (cross_entropy, F.cross_entropy):
            logits = (3.0 * normal(2, *shape, dtype=dtype)).requires_grad_()
            targets = normal(4, *shape, dtype=dtype).abs().requires_grad_()
            loss = function(logits, targets, label_smoothing=label_smoothing, weight=weight, reduction=reduction)
            assert loss.shape == (answers if reduction == "none" else ())
            ways = normal(3, *loss.shape, dtype=dtype)
            results.append([loss, *torch.autograd.grad(loss, (logits, targets), ways)])
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want, atol=atol, rtol=atol)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_nothing_but_ignored_targets_gives_nan_and_no_gradient_as_in_torch(label_smoothing):
    for function in (cross_entropy, F.cross_entropy):
        logits = normal(0, 3, 5).requires_grad_()
        loss = function(logits, torch.full((3,), -100), label_smoothing=label_smoothing)
        assert loss.isnan()
        if function is cross_entropy:
            loss.backward()
            assert torch.equal(logits.grad, torch.zeros(3, 5))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_passes_gradcheck(label_smoothing, weighted):
    targets = torch.tensor([4, -100, 0])
    weight = torch.tensor([0.5, 2.0, 1.0, 0.25, 3.0], dtype=torch.float64) if weighted else None

    def loss(logits):
        return cross_entropy(logits, targets, label_smoothing=label_smoothing, weight=weight)

    logits = normal(0, 3, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(loss, logits)
    assert torch.autograd.gradgradcheck(loss, logits)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("function", [cross_entropy, plain_cross_entropy])
def test_a_class_that_is_ruled_out_costs_infinity_and_disturbs_nothing_else(function):
    logits = torch.tensor([[0.0, -math.inf, 0.0], [0.0, -math.inf, 0.0]], requires_grad=True)
    losses = function(logits, torch.tensor([0, 1]), reduction="none")
    torch.testing.assert_close(losses, torch.tensor([math.log(2.0), math.inf]))
    losses[0].backward()
    torch.testing.assert_close(logits.grad[0], torch.tensor([-0.5, 0.0, 0.5]))
    weighted = function(logits[:1], torch.tensor([0]), weight=torch.tensor([2.0, 1.0, 1.0]))
    assert weighted.item() == pytest.approx(math.log(2.0))


@pytest.mark.usefixtures("blocks")
def test_an_infinite_loss_that_is_ignored_sends_no_nan():
    logits = torch.tensor([[0.0, 1.0], [-math.inf, 0.0]], requires_grad=True)
    cross_entropy(logits, torch.tensor([0, -100])).backward()
    assert torch.equal(logits.grad[1], torch.zeros(2))


def test_by_hand():
    # Odds 3 to 1: right costs log(4/3), wrong costs log 4.
    logits = torch.tensor([[math.log(3.0), 0.0], [math.log(3.0), 0.0]])
    losses = cross_entropy(logits, torch.tensor([0, 1]), reduction="none")
    torch.testing.assert_close(losses, torch.tensor([math.log(4 / 3), math.log(4.0)]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits = (5.0 * normal(0, 7, 1000)).to(dtype)
    targets = torch.arange(7)
    loss = cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(logits.float(), targets))


@pytest.mark.usefixtures("blocks")
def test_cross_entropy_maps_over_an_axis():
    logits, targets = normal(0, 3, 7, 5), torch.arange(21).view(3, 7) % 5
    want = torch.stack([cross_entropy(x, y) for x, y in zip(logits, targets, strict=True)])
    torch.testing.assert_close(torch.func.vmap(cross_entropy)(logits, targets), want)
    smooth = functools.partial(cross_entropy, label_smoothing=0.1, weight=torch.arange(1.0, 6.0))
    got = torch.func.vmap(smooth, in_dims=(None, 0))(logits[0], targets)
    torch.testing.assert_close(got, torch.stack([smooth(logits[0], y) for y in targets]))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_one_gradient_an_answer_by_mapping_over_a_gradient(label_smoothing):
    logits, targets = normal(0, 7, 5), torch.arange(7) % 5
    slope = torch.func.grad(functools.partial(cross_entropy, label_smoothing=label_smoothing))
    got = torch.func.vmap(slope)(logits, targets)
    answer = (1 - label_smoothing) * F.one_hot(targets, 5) + label_smoothing / 5
    torch.testing.assert_close(got, logits.softmax(1) - answer)
    got = torch.func.vmap(slope, in_dims=(None, 0))(logits[0], targets)
    torch.testing.assert_close(got, logits[0].softmax(0) - answer)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_one_gradient_an_answer_where_nothing_else_is_differentiated(label_smoothing):
    # jacrev maps over the pass back, and here without a graph of it.
    logits, targets = normal(0, 7, 5), torch.arange(7) % 5
    losses = functools.partial(cross_entropy, targets=targets, label_smoothing=label_smoothing, reduction="none")
    with torch.no_grad():
        got = torch.func.jacrev(losses)(logits)
    answer = (1 - label_smoothing) * F.one_hot(targets, 5) + label_smoothing / 5
    torch.testing.assert_close(got, torch.diag_embed((logits.softmax(1) - answer).T).permute(1, 2, 0))

    def pulled(answers):
        _, pull = torch.func.vjp(lambda x: cross_entropy(x, answers, reduction="sum"), logits)
        return pull(torch.ones(()))[0]

    several = torch.stack([targets, targets.flip(0), targets.roll(1)])
    with torch.no_grad():
        got = torch.func.vmap(pulled)(several)
    torch.testing.assert_close(got, logits.softmax(1) - F.one_hot(several, 5))


@pytest.mark.usefixtures("blocks")
def test_a_gradient_by_the_formula_is_that_of_finite_differences():
    logits, targets, small = normal(0, 3, 5, dtype=torch.float64), torch.tensor([4, 0, 2]), 1e-6
    x = logits.clone().requires_grad_()
    (got,) = torch.autograd.grad(cross_entropy(x, targets), x)
    for i, j in itertools.product(range(3), range(5)):
        ahead, behind = logits.clone(), logits.clone()
        ahead[i, j] += small
        behind[i, j] -= small
        slope = (cross_entropy(ahead, targets) - cross_entropy(behind, targets)) / (2 * small)
        assert got[i, j].item() == pytest.approx(slope.item(), abs=1e-9)


@pytest.mark.usefixtures("blocks")
def test_autocast_leaves_the_loss_in_float32():
    model, clips = torch.nn.Linear(7, 5), normal(0, 3, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(clips)
        loss = cross_entropy(logits, torch.tensor([1, 2, 4]), label_smoothing=0.1)
        loss.backward()
    assert (logits.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    want = F.cross_entropy(logits.detach().float(), torch.tensor([1, 2, 4]), label_smoothing=0.1)
    torch.testing.assert_close(loss.detach(), want)
    assert model.weight.grad.isfinite().all()


@pytest.mark.usefixtures("blocks")
def test_no_answer_at_all_costs_nothing_in_the_sum():
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(0, dtype=torch.int64), reduction="sum")
    assert loss.item() == 0.0
    assert torch.autograd.grad(loss, logits)[0].shape == (0, 5)


@pytest.mark.usefixtures("blocks")
def test_the_arguments_stay_as_they_are():
    logits, targets, weight = normal(0, 3, 5), torch.tensor([4, -100, 0]), torch.ones(5)
    given = [x.clone() for x in (logits, targets, weight)]
    x = logits.requires_grad_()
    cross_entropy(x, targets, weight=weight, label_smoothing=0.1).backward()
    for now, then in zip((logits.detach(), targets, weight), given, strict=True):
        assert torch.equal(now, then)


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # the compiler's own import
def test_cross_entropy_compiles(compiled):
    logits, targets = normal(0, 7, 5), torch.arange(7) % 5
    got = compiled(cross_entropy, fullgraph=False)(logits, targets, label_smoothing=0.1)
    torch.testing.assert_close(got, cross_entropy(logits, targets, label_smoothing=0.1))


@given(seeds, st.sampled_from(["mean", "sum", "none"]), st.booleans())
def test_binary_cross_entropies_equal_torch(seed, reduction, weighted):
    x = normal(seed, 2, 3, dtype=torch.float64).requires_grad_()
    targets = normal(seed + 1, 2, 3, dtype=torch.float64).sigmoid()
    keywords = dict(reduction=reduction)
    if weighted:
        keywords["weight"] = normal(seed + 2, 3, dtype=torch.float64).exp()
    got = binary_cross_entropy(x.sigmoid(), targets, **keywords)
    torch.testing.assert_close(got, F.binary_cross_entropy(x.sigmoid(), targets, **keywords), atol=1e-10, rtol=0)
    if weighted:
        keywords["pos_weight"] = normal(seed + 3, 3, dtype=torch.float64).exp()
    results = []
    for function in (binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits):
        loss = function(x, targets, **keywords)
        results.append([loss, *torch.autograd.grad(loss.sum(), x)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-10, rtol=0)


def test_binary_cross_entropy_is_the_cross_entropy_of_two_classes():
    x, targets = normal(0, 7), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    two = torch.stack([torch.zeros(7), x], 1)
    torch.testing.assert_close(binary_cross_entropy_with_logits(x, targets.float()), cross_entropy(two, targets))


def test_binary_cross_entropies_pass_gradcheck():
    x, targets = normal(0, 5, dtype=torch.float64), normal(1, 5, dtype=torch.float64).sigmoid()
    assert torch.autograd.gradcheck(lambda x: binary_cross_entropy(x, targets), x.sigmoid().requires_grad_())
    assert torch.autograd.gradcheck(lambda x: binary_cross_entropy_with_logits(x, targets), x.requires_grad_())


def test_log_sum_exp_passes_gradcheck_along_any_axis():
    x = normal(0, 2, 3, 5, dtype=torch.float64).requires_grad_()
    for dim in (0, 1, -1):
        assert torch.autograd.gradcheck(lambda x, dim=dim: log_sum_exp(x, dim), x)
        torch.testing.assert_close(log_sum_exp(x, dim), torch.logsumexp(x, dim))


@pytest.mark.parametrize("function", [cross_entropy, plain_cross_entropy])
def test_one_class_is_always_right_and_an_ignored_target_needs_no_second(function):
    logits = normal(0, 2, 1)
    assert function(logits, torch.tensor([-100, 0])).item() == 0.0
    assert function(logits, torch.ones(2, 1)).item() == 0.0


@pytest.mark.parametrize("function", [cross_entropy, plain_cross_entropy])
def test_the_result_has_the_type_of_the_logits_whatever_that_of_the_rest(function):
    logits, weight = normal(0, 2, 3), torch.ones(3, dtype=torch.float64)
    for targets in (torch.tensor([1, 2]), torch.eye(3, dtype=torch.float64)[1:]):
        assert function(logits, targets, weight=weight, reduction="none").dtype == torch.float32
        torch.testing.assert_close(function(logits, targets), F.cross_entropy(logits, torch.tensor([1, 2])))


@pytest.mark.parametrize(
    "function", [cross_entropy, plain_cross_entropy, functools.partial(cross_entropy, kernel="fused")]
)
def test_a_target_that_is_no_class_shows_what_torch_said(function):
    with pytest.raises(ValueError, match="expected classes 0 to 4") as caught:
        function(torch.zeros(2, 5), torch.tensor([1, 5]))
    assert isinstance(caught.value.__cause__, IndexError | RuntimeError)


# ---- errors


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("logits", "targets", "keywords", "error", "message"),
    [
        (
            (7, 5),
            torch.zeros(7, 4),
            {},
            ShapeError,
            r"^targets: torch.float32 of shape \(7, 4\) are probabilities, expected the shape of logits, \(7, 5\); "
            "class numbers are int64$",
        ),
        (
            (),
            torch.zeros(()),
            {},
            ShapeError,
            r"^targets: torch.float32 of shape \(\) are probabilities, expected the shape of logits, \(\); "
            "class numbers are int64$",
        ),
        (
            (),
            torch.zeros((), dtype=torch.int64),
            {},
            ShapeError,
            r"^targets: shape \(\), expected \(\): that of logits \(\) without the classes, axis 0; "
            "move the classes there with rearrange if they stand elsewhere$",
        ),
        (
            (7, 5),
            torch.zeros(7, 5),
            {"ignore_index": 0},
            ValueError,
            "^ignore_index is 0, but the targets are probabilities; leave it out$",
        ),
        (
            (2, 5),
            torch.tensor([1, 2], dtype=torch.int32),
            {},
            TypeError,
            r"^targets: torch.int32, expected class numbers \(int64\) or probabilities \(float\)$",
        ),
        (
            (2, 5),
            torch.tensor([1, 2]),
            {"label_smoothing": -0.1},
            ValueError,
            "^label_smoothing is -0.1, expected 0 to 1$",
        ),
        (
            (2, 5, 3),
            torch.zeros(2, 5).long(),
            {},
            ShapeError,
            r"^targets: shape \(2, 5\), expected \(2, 3\): that of logits \(2, 5, 3\) without the classes, axis 1; "
            "move the classes there with rearrange if they stand elsewhere$",
        ),
        ((7, 5), torch.zeros(6).long(), {}, ShapeError, r"^targets: shape \(6,\), expected \(7,\): that of logits"),
        (
            (2, 5),
            torch.tensor([1, 5]),
            {},
            ValueError,
            "^targets: from 1 to 5, expected classes 0 to 4 or ignore_index$",
        ),
        (
            (2, 5),
            torch.tensor([-1, 2]),
            {},
            ValueError,
            "^targets: from -1 to 2, expected classes 0 to 4 or ignore_index$",
        ),
        (
            (2, 5),
            torch.tensor([1, 2]),
            {"weight": torch.ones(4)},
            ShapeError,
            r"^weight: shape \(4,\), expected one number a class, \(5,\)$",
        ),
        (
            (5,),
            torch.tensor(1),
            {"weight": torch.ones(1, 5)},
            ShapeError,
            r"^weight: shape \(1, 5\), expected one number a class, \(5,\)$",
        ),
        (
            (2, 5),
            torch.tensor([1, 2]),
            {"label_smoothing": 1.5},
            ValueError,
            "^label_smoothing is 1.5, expected 0 to 1$",
        ),
        (
            (2, 5),
            torch.tensor([1, 2]),
            {"reduction": "avg"},
            ValueError,
            r"^reduction is 'avg', expected one of \('mean', 'sum', 'none'\)$",
        ),
        ((2, 5), torch.tensor([1, 2]), {"size_average": True}, TypeError, "size_average"),
    ],
)
@pytest.mark.parametrize("function", [cross_entropy, plain_cross_entropy])
def test_cross_entropy_names_what_does_not_fit(function, logits, targets, keywords, error, message):
    with pytest.raises(error, match=message):
        function(torch.zeros(logits), targets, **keywords)


@pytest.mark.usefixtures("unchecked")
def test_logits_and_targets_in_the_wrong_order_are_named():
    with pytest.raises(
        TypeError, match="^logits: torch.int64, expected a float type; the first argument is what the model says$"
    ):
        cross_entropy(torch.tensor([1, 2]), torch.zeros(2, 5))


def test_an_error_that_is_not_about_classes_is_passed_on():
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        cross_entropy(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64, device="meta"))
    for function in (cross_entropy, plain_cross_entropy):
        with pytest.raises(RuntimeError, match="meta"):
            function(torch.zeros(2, 5), torch.tensor([0, 4]), weight=torch.ones(5, device="meta"))


@pytest.mark.usefixtures("unchecked")
def test_binary_cross_entropies_name_what_does_not_fit():
    for function in (binary_cross_entropy, binary_cross_entropy_with_logits):
        with pytest.raises(ShapeError, match=r"^targets: shape \(3,\), expected that of the answers, \(2,\)$"):
            function(torch.zeros(2), torch.zeros(3))
        with pytest.raises(ValueError, match=r"^reduction is 'avg', expected one of \('mean', 'sum', 'none'\)$"):
            function(torch.zeros(2), torch.zeros(2), reduction="avg")
    for low, high in ((-0.5, 1.25), (-0.5, 1.0), (0.0, 1.25)):
        words = f"^probabilities: from {low:g} to {high:g}, expected 0 to 1; give logits to binary_cross_entropy_with"
        with pytest.raises(ValueError, match=f"{words}_logits$"):
            binary_cross_entropy(torch.tensor([low, high]), torch.zeros(2))
