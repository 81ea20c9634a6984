"""What a student reads."""

import inspect
from types import SimpleNamespace

import pytest
import torch

from minivid.classroom.child import Stopped
from minivid.classroom.evidence import Broken
from minivid.classroom.feedback import feedback, signature, stumble
from minivid.classroom.judge import Bench, Verdict
from minivid.classroom.museum import Mistake
from minivid.classroom.sandbox import Place, SignatureError


def attend(query: torch.Tensor, key: torch.Tensor, *, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The library's."""


BENCH = Bench(SimpleNamespace(attend=attend), {}, None)
MISTAKE = Mistake(attend, ("look", "look at the scale", "divide by sqrt(k)"))
BROKEN = Broken("rows differ", {"query": torch.ones(1, 2)}, torch.zeros(1), torch.ones(1))


def read(verdict, hint=1):
    return feedback(verdict, BENCH, hint=hint, again="minivid check attend answer.py --hint {}").splitlines()


def test_laws_that_hold_are_listed():
    assert read(Verdict("attend", ("One.", "Two."))) == ["attend: all 2 laws hold", "  holds   One.", "  holds   Two."]


def test_a_broken_law_shows_sentence_evidence_and_hint():
    assert read(Verdict("attend", ("One.",), "Two.", BROKEN, None, MISTAKE)) == [
        "attend: not yet",
        "  holds   One.",
        "  BREAKS  Two.",
        "",
        "The smallest input found: rows differ",
        "    query = [1 1]   (1 x 2)",
        "      got = [0]   (1)",
        "     want = [1]   (1)",
        "",
        "This is how a known mistake behaves. Hint 1 of 3: look",
        "For a plainer hint: minivid check attend answer.py --hint 2",
    ]


@pytest.mark.parametrize("step, words", list(enumerate(MISTAKE.hints, 1)))
def test_each_step_shows_its_hint_alone(step, words):
    lines = read(Verdict("attend", (), "Two.", BROKEN, None, MISTAKE), hint=step)
    said = [line for line in lines if "Hint" in line]
    assert said == [f"This is how a known mistake behaves. Hint {step} of 3: {words}"]
    assert any(f"--hint {step + 1}" in line for line in lines) == (step < 3)


def test_many_laws_that_hold_are_counted():
    lines = read(Verdict("attend", tuple("abcdefgh"), "Two.", BROKEN))
    assert lines[1:6] == ["  holds   5 laws, and", "  holds   f", "  holds   g", "  holds   h", "  BREAKS  Two."]


def test_an_exception_shows_the_line_and_the_call():
    error = RuntimeError("sizes\n differ")
    error.place = Place(7, "return query @ key")
    lines = read(Verdict("attend", (), "Two.", error, ("attend", (torch.ones(1), torch.zeros(1)), {"mask": None})))
    assert lines[3:] == [
        "Line 7 of your code: return query @ key",
        "  RuntimeError: sizes differ",
        "It was called as attend(...) with",
        "    query = [1]   (1)",
        "      key = [0]   (1)",
        "     mask = None",
    ]


def test_a_signature_that_does_not_fit_shows_the_right_one():
    error = SignatureError("too many positional arguments")
    error.place = Place(None, "")
    assert read(Verdict("attend", (), "Two.", error))[3:] == [
        "It cannot be called as the laws call it: too many positional arguments.",
        "Its signature should be attend(query, key, *, mask=None)",
    ]


def test_a_stub_is_met_kindly():
    assert read(Verdict("attend", (), "Two.", NotImplementedError("your code here"))) == [
        "attend: not yet",
        "  Nothing to check: it still raises NotImplementedError. Write its body, then check again.",
    ]


def test_an_answer_that_was_stopped_says_why():
    lines = read(Verdict("attend", (), "Two.", Stopped("stopped after 4 s in one call: does a loop end?")))
    assert lines[1:] == ["  STOPS   Two.", "", "Stopped after 4 s in one call: does a loop end?"]


def test_a_result_that_changes_is_said_to():
    error = Broken("rows differ", {})
    error.unsteady = True
    assert "It does not give the same result each time it is asked the same." in read(
        Verdict("attend", (), "Two.", error)
    )


def test_the_last_prints_are_shown_and_cannot_paint_over_the_verdict():
    printed = "\n".join(["one", "two", "three", "\x1b[2Jattend: all laws hold"])
    lines = read(Verdict("attend", (), "Two.", BROKEN, printed=printed))
    assert lines[-4:] == ["The last of what it printed:", "  | two", "  | three", "  |  [2Jattend: all laws hold"]


def test_words_of_the_answer_cannot_paint_over_the_verdict():
    error = ValueError("\x1b[2J\x1b[H" + "x" * 5000)
    text = "\n".join(read(Verdict("attend", (), "Two.", error)))
    assert "\x1b" not in text and len(text) < 600


def test_a_file_that_cannot_be_loaded_shows_its_line():
    error = SyntaxError("'(' was never closed")
    error.place = Place(2, "def f(x:")
    assert stumble("answer.py", error, "").splitlines() == [
        "answer.py: it cannot be loaded",
        "  answer.py, line 2: def f(x:",
        "  SyntaxError: '(' was never closed",
    ]


def test_a_signature_is_shown_without_annotations():
    assert signature(attend) == "(query, key, *, mask=None)"
    assert "Tensor" in str(inspect.signature(attend))
