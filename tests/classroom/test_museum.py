"""Known mistakes: how one is recognised, and that the laws of the library and its museum are worth something.

The laws judge answers, so they are judged here: every known mistake breaks one of them and is recognised, and the
library's own functions break none.
"""

import functools

import pytest
import torch

from minivid.classroom import judge, museum
from minivid.classroom.catalogue import subjects
from minivid.classroom.feedback import feedback
from minivid.classroom.judge import load_bench
from minivid.classroom.museum import Mistake, recognise

HINTS = ("look", "look here", "write this")
SUBJECTS = subjects()
NAMES = [(module, name) for module, subject in SUBJECTS.items() for name in subject.names]
BENCHES = {module: load_bench(subject) for module, subject in SUBJECTS.items()}
PROBES = {module: bench.museum.probes for module, bench in BENCHES.items() if bench.museum}
OUTCOMES = {}
MISTAKES = [
    pytest.param(module, name, mistake, id=f"{name}-{i}-{getattr(mistake.answer, '__name__', 'mistake')}")
    for module, name in NAMES
    for i, mistake in enumerate(BENCHES[module].museum.MISTAKES.get(name, ()) if BENCHES[module].museum else ())
]


def judged(monkeypatch, name, answer, bench):
    """A verdict, without looking for the smallest input that breaks the law.

    A law is put to the same inputs in the same order each time: what breaks it among the first few breaks it in `check`
    too. So few are tried first, of every law, and all of them only for a mistake that passes these.
    """
    monkeypatch.setattr(judge, "SHRINKING", 0)
    with monkeypatch.context() as few:
        few.setattr(judge, "FEWEST_EXAMPLES", 4)
        few.setattr(judge, "ALL_EXAMPLES", 4)
        verdict = judge.judge(name, {name: answer}, bench)
    return verdict if not verdict.good else judge.judge(name, {name: answer}, bench)


@pytest.fixture
def kept_outcomes(monkeypatch):
    """Each mistake is put to a probe once and not anew beside every other; an answer itself is always put to it."""
    whole, last = museum.outcome, None

    def outcome(call, probe):
        nonlocal last
        if probe is not last:  # `recognise` asks the answer first, and then the suspects
            last = probe
            return whole(call, probe)
        key = id(call), id(probe)
        if key not in OUTCOMES:
            OUTCOMES[key] = whole(call, probe)
        return OUTCOMES[key]

    monkeypatch.setattr(museum, "outcome", outcome)
    for module, bench in BENCHES.items():
        if bench.museum:
            monkeypatch.setattr(bench.museum, "probes", functools.partial(kept_probes, module))


@functools.cache
def kept_probes(module, name):
    """The probes of a name, always the same objects."""
    return tuple(PROBES[module](name))


@pytest.mark.usefixtures("kept_outcomes")
@pytest.mark.parametrize("module, name, mistake", MISTAKES)
def test_a_known_mistake_breaks_a_law_and_is_recognised(module, name, mistake, monkeypatch):
    verdict = judged(monkeypatch, name, mistake.answer, BENCHES[module])
    assert not verdict.good
    # Two mistakes that give the same everywhere are one mistake: the first of them is named, with the same hints.
    assert verdict.mistake is not None and verdict.mistake.hints == mistake.hints
    assert len(set(mistake.hints)) == 3 and all(mistake.hints)


@pytest.mark.parametrize("module, name", NAMES)
def test_the_library_breaks_no_law_and_is_no_known_mistake(module, name):
    bench = BENCHES[module]
    own = getattr(bench.library, name)
    verdict = judge.judge(name, {name: own}, bench)
    assert verdict.good and verdict.held, feedback(verdict, bench, hint=1, again="")
    if bench.museum and bench.museum.MISTAKES.get(name):
        assert recognise(name, own, bench.museum.MISTAKES, bench.museum.probes) is None


@pytest.mark.parametrize("module, name", NAMES)
def test_a_stub_is_told_that_there_is_nothing_to_check_yet(module, name):
    def stub(*arguments, **keywords):
        raise NotImplementedError("your code here")

    bench = BENCHES[module]
    text = feedback(judge.judge(name, {name: stub}, bench), bench, hint=1, again="")
    assert text.splitlines()[0] == f"{name}: not yet" and "still raises NotImplementedError" in text


def probes(_):
    yield (torch.tensor([1.0, -2.0, 0.0]),), {}
    yield (torch.tensor([[3.0]]),), {}


def test_the_mistake_with_equal_results_on_every_probe_is_named():
    once, always = Mistake(lambda x: x if x.ndim == 1 else -x, HINTS), Mistake(lambda x: x.abs(), HINTS)
    found = recognise("f", lambda x: (x * x).sqrt(), {"f": [once, always]}, probes)
    assert found is always


def test_no_mistake_is_named_for_another_result():
    assert recognise("f", torch.neg, {"f": [Mistake(torch.abs, HINTS)]}, probes) is None
    assert recognise("g", torch.abs, {"f": [Mistake(torch.abs, HINTS)]}, probes) is None


@pytest.mark.parametrize(
    "answer, other, same",
    [
        pytest.param(lambda x: x / x, lambda x: x / x, True, id="nan equals nan"),
        pytest.param(lambda x: x[None], lambda x: x, False, id="another shape"),
        pytest.param(lambda x: x.double(), lambda x: x, False, id="another dtype"),
        pytest.param(lambda x: x + 1e-7, lambda x: x, True, id="rounding"),
        pytest.param(lambda x: (x, 1), lambda x: (x, 1), True, id="tuples"),
        pytest.param(lambda x: (x, 1), lambda x: (x, 2), False, id="another number"),
        pytest.param(lambda x: {"a": [x]}, lambda x: {"a": [x]}, True, id="nested"),
        pytest.param(lambda x: {"a": [x]}, lambda x: {"b": [x]}, False, id="another key"),
        pytest.param(lambda x: 1, lambda x: True, False, id="1 is not True"),
        pytest.param(lambda x: float("nan"), lambda x: float("nan"), True, id="nan as a number"),
        pytest.param(lambda x: {}["a"], lambda x: {}["b"], True, id="the same type of exception"),
        pytest.param(lambda x: {}["a"], lambda x: [][0], False, id="another type of exception"),
        pytest.param(lambda x: x.neg_(), lambda x: -x, False, id="changes its argument"),
    ],
)
def test_results_are_the_same(answer, other, same):
    assert (recognise("f", answer, {"f": [Mistake(other, HINTS)]}, probes) is not None) == same


def test_a_probe_may_be_a_function_that_uses_the_answer():
    def uses(answer):
        return answer(3).sum()

    mistake = Mistake(torch.zeros, HINTS)
    assert recognise("f", torch.zeros, {"f": [mistake]}, lambda _: [uses]) is mistake
    assert recognise("f", torch.ones, {"f": [mistake]}, lambda _: [uses]) is None


def test_a_call_does_not_spoil_the_arguments_of_the_next():
    given = torch.tensor([1.0, -2.0])
    mistake = Mistake(lambda x: x.mul_(2), HINTS)
    assert recognise("f", lambda x: x.add_(x), {"f": [mistake]}, lambda _: [((given,), {})] * 2) is mistake
    assert given.tolist() == [1.0, -2.0]
