"""How laws are put to an implementation: until one breaks, on how many inputs, and what is kept of the failure."""

import textwrap

import hypothesis
import pytest
import torch

from minivid.classroom import judge as module
from minivid.classroom.catalogue import Subject
from minivid.classroom.child import Stopped
from minivid.classroom.evidence import Broken
from minivid.classroom.judge import Implementation, judge, load_bench

LAWS = '''
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minivid.classroom.evidence import agree, holds
from minivid.shapes import ShapeError

seen = []


@pytest.mark.law("double")
@given(st.integers(0, 1000))
def test_even(impl, n):
    """The result is even."""
    seen.append(n)
    holds(impl.double(n) % 2 == 0, "it is odd", n=n)


@pytest.mark.law("double")
@pytest.mark.parametrize("sign", [1, pytest.param(-1, id="minus")])
@pytest.mark.parametrize("base, more", [(0, 1), (5, 2)])
def test_odd_function(impl, sign, base, more):
    """A sign goes through."""
    seen.append((sign, base, more))
    holds(impl.double(sign * (base + more)) == sign * impl.double(base + more), "the sign is lost")


@pytest.mark.law("double")
@given(st.integers(0, 1000))
def test_grows(impl, n):
    """The result is not smaller.

    More words.
    """
    assume(n != 3)
    holds(impl.double(n) >= n, "it is smaller", n=n)


@pytest.mark.law("double")
@given(st.integers(-9, -1))
def test_refuses(impl, n):
    with pytest.raises(ShapeError, match="negative"):
        impl.double(float(n))


@pytest.mark.law("half")
@given(st.integers(0, 3), st.data())
def test_half(impl, n, data):
    """Drawn while it runs."""
    more = data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    holds(impl.half(2 * n + 2 * sum(more)) == n + sum(more), "not half", n=n)


@pytest.mark.law("other")
def test_other(impl):
    """Never asked."""
    raise RuntimeError


def test_no_law(impl):
    raise RuntimeError
'''

LIBRARY = """
from minivid.shapes import ShapeError

def double(n):
    if isinstance(n, float):
        raise ShapeError("negative")
    return 2 * n

def half(n):
    return n // 2

def other(n):
    return n
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    (tmp_path / "doubling.py").write_text(textwrap.dedent(LIBRARY))
    laws = tmp_path / "test_doubling.py"
    laws.write_text(textwrap.dedent(LAWS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "doubling", raising=False)
    return load_bench(Subject("doubling", "doubling", ("double", "half", "other"), laws, tmp_path / "none.py"))


def test_all_laws_of_a_name_are_put_and_no_others(bench):
    verdict = judge("double", {"double": bench.library.double}, bench)
    assert verdict.good
    assert verdict.held == ("The result is even.", "A sign goes through.", "The result is not smaller.", "refuses")


def test_a_law_is_put_once_for_each_way_it_is_parametrised(bench):
    assert len(bench.laws["double"]) == 7
    judge("double", {"double": bench.library.double}, bench)
    seen = bench.laws["double"][0].test.hypothesis.inner_test.__globals__["seen"]
    assert {case for case in seen if isinstance(case, tuple)} == {
        (s, b, m) for s in (1, -1) for b, m in ((0, 1), (5, 2))
    }


def test_the_smallest_input_is_found(bench):
    verdict = judge("double", {"double": lambda n: 2 * n if n < 37 else 2 * n + 1}, bench)
    assert (verdict.held, verdict.broken) == ((), "The result is even.")
    assert isinstance(verdict.error, Broken) and verdict.error.case == {"n": 37}
    assert verdict.call == ("double", (37,), {})


def test_the_settings_of_other_tests_stay_as_they_were(bench, pytestconfig):
    asked_for = pytestconfig.getoption("--hypothesis-profile", None)
    assert hypothesis.settings.get_current_profile_name() == (asked_for or "minivid")
    assert bench.laws["double"][0].test._hypothesis_internal_use_settings.max_examples == module.EXAMPLES


def test_laws_after_the_one_that_breaks_are_not_put(bench):
    asked = []
    judge("double", {"double": lambda n: asked.append(n) or 2 * abs(n)}, bench)
    assert not any(isinstance(n, float) for n in asked)


def test_every_law_can_be_put_and_those_that_hold_are_counted(bench):
    def wrong(n):  # not odd as a function, and refuses nothing
        return 2 * abs(int(n))

    verdict = judge("double", {"double": wrong}, bench, every=True)
    assert verdict.broken == "A sign goes through."
    # One of its four ways holds a sentence no more than none does.
    assert verdict.held == ("The result is even.", "The result is not smaller.")
    assert judge("double", {"double": bench.library.double}, bench, every=True).good


def test_a_law_is_put_on_at_most_so_many_inputs(bench, monkeypatch):
    monkeypatch.setattr(module, "FEWEST_EXAMPLES", 7)
    monkeypatch.setattr(module, "ALL_EXAMPLES", 7)
    asked = []
    judge("double", {"double": lambda n: asked.append(n) or bench.library.double(n)}, bench)
    assert len(asked) <= 7 * 3 + 2 * 4


def test_a_law_that_draws_while_it_runs_may_be_broken_off(bench, monkeypatch):
    monkeypatch.setattr(module, "FEWEST_EXAMPLES", 20)
    monkeypatch.setattr(module, "ALL_EXAMPLES", 20)
    verdict = judge("half", {"half": bench.library.half}, bench)
    assert verdict.good, verdict.error


def test_the_search_for_a_smaller_input_ends(bench, monkeypatch):
    monkeypatch.setattr(module, "SHRINKING", 5)
    asked = []
    verdict = judge("double", {"double": lambda n: asked.append(n) or (2 * n + (n > 100))}, bench)
    first = next(i for i, n in enumerate(asked) if n > 100)
    assert verdict.broken and len(asked) <= first + 1 + 5


def test_the_same_input_is_found_each_time(bench):
    answer = {"double": lambda n: 2 * n + (n > 123)}
    found = {judge("double", answer, bench).error.case["n"] for _ in range(2)}
    assert len(found) == 1


def test_an_exception_of_the_answer_breaks_the_law(bench):
    verdict = judge("double", {"double": lambda n: 1 // (n - n)}, bench)
    assert isinstance(verdict.error, ZeroDivisionError) and verdict.broken == "The result is even."


def test_a_missing_exception_breaks_the_law(bench):
    verdict = judge("double", {"double": lambda n: 2 * n}, bench)
    assert verdict.broken == "refuses" and "DID NOT RAISE" in str(verdict.error)


def test_an_answer_that_changes_its_mind_breaks_the_law(bench):
    asked = []
    verdict = judge("double", {"double": lambda n: asked.append(n) or 2 * n + (len(asked) == 5)}, bench)
    assert isinstance(verdict.error, Broken) and verdict.error.unsteady


def test_an_answer_that_is_stopped_is_not_asked_again(bench):
    asked = []

    def answer(n):
        asked.append(n)
        raise Stopped("too long")

    verdict = judge("double", {"double": answer}, bench)
    assert isinstance(verdict.error, Stopped) and len(asked) == 1 and verdict.mistake is None


def test_what_is_stopped_while_a_smaller_input_is_looked_for_shows_the_one_found(bench):
    asked = []

    def answer(n):
        asked.append(n)
        if sum(n > 100 for n in asked) > 1:
            raise Stopped("too long")
        return 2 * n + (n > 100)

    verdict = judge("double", {"double": answer}, bench)
    assert isinstance(verdict.error, Broken) and verdict.error.case["n"] > 100


def test_a_name_that_the_answer_lacks_is_the_librarys(bench):
    impl = Implementation({"double": torch.neg}, bench.library)
    assert impl.other is bench.library.other and impl.last_call is None
    impl.double(torch.ones(1))
    assert impl.last_call[0] == "double"


def test_the_prints_of_the_failure_are_kept(bench):
    verdict = judge("double", {"double": lambda n: 1}, bench, lambda: "seen")
    assert verdict.printed == "seen"
