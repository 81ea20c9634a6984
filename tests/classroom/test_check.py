"""`minivid check NAME FILE` and `check(answer)` from end to end."""

import contextlib
import io
import textwrap
import threading
import time

import pytest
import torch

from minivid.classroom.check import Tail, at_most, check, run
from minivid.classroom.child import Stopped
from minivid.layers import attention, conv3d

SCALE_FORGOTTEN = """
import torch

def attend(query, key, value, mask=None):
    scores = query @ key.mT
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1).nan_to_num(0.0)
    return weights @ value, weights
"""


@pytest.fixture
def checked(tmp_path, capsys, monkeypatch):
    """Check an answer in a file: the exit status, and what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "118")

    def checked(name: str, code: str, file: str = "answer.py", **options):
        (tmp_path / file).write_text(textwrap.dedent(code))
        status = run(name, file, **options)
        said = capsys.readouterr()
        return status, said.out + said.err

    return checked


def test_the_library_passes(checked, tmp_path):
    status, said = checked("causal_mask", "from minivid.layers.attention import causal_mask")
    assert status == 0 and said.startswith("causal_mask: all ")
    # Nothing of the check, caches included, is left beside the student's file.
    assert [path.name for path in tmp_path.iterdir()] == ["answer.py"]


def test_a_known_mistake_is_shown_and_hinted_at(checked):
    status, said = checked("attend", SCALE_FORGOTTEN)
    lines = said.splitlines()
    assert status == 1 and lines[0] == "attend: not yet"
    assert any(line.startswith("  BREAKS  softmax(query key^T / sqrt(k)) value") for line in lines)
    assert any(line.startswith("    query = [") for line in lines) and "first at b=0, heads=0, n=0, s=0" in said
    assert "This is how a known mistake behaves. Hint 1 of 3: " in said
    assert "minivid check attend answer.py --hint 2" in said
    assert len(lines) <= 16


def test_a_module_stands_for_its_names_one_after_the_other(checked):
    code = """
    from minivid.layers.attention import causal_mask

    def padding_mask(lengths, size):
        raise NotImplementedError("your code here")

    def block_mask(blocks):
        raise NotImplementedError("your code here")
    """
    status, said = checked("attention", code)
    lines = said.splitlines()
    assert status == 1 and lines[0].startswith("causal_mask: all ") and lines[1] == "padding_mask: not yet"
    assert "still raises NotImplementedError" in lines[2] and lines[-1] == "Not looked at yet: block_mask"


PATCHES = """
import sys
import hypothesis, torch
import minivid.classroom.evidence as evidence
import minivid.classroom.judge as judge
import minivid.layers.attention as library

torch.allclose = torch.isclose = torch.equal = lambda *a, **k: True
torch.Tensor.__eq__ = lambda *a: True
hypothesis.given = lambda *a, **k: lambda test: test
evidence.agree = evidence.holds = lambda *a, **k: None
judge.judge = lambda name, *a: judge.Verdict(name, ("All.",))
library.attend = lambda *a: None
sys.exit = lambda *a: None

class Yes(torch.Tensor):
    def __eq__(self, other):
        return True
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return True

def attend(query, key, value, mask=None):
    weights = torch.zeros(*query.shape[:-1], key.shape[-2])
    return torch.zeros_like(query).as_subclass(Yes), weights.as_subclass(Yes)
"""


def test_an_answer_that_patches_the_checker_forges_nothing(checked):
    status, said = checked("attend", PATCHES)
    assert status == 1 and "BREAKS" in said


SIGNATURE = "def attend(query, key):\n    return query\n"


@pytest.mark.parametrize(
    "code, words",
    [
        (SIGNATURE, "Its signature should be attend(query, key, value, mask=None)"),
        ("def attend(query, key:\n    return query\n", "answer.py, line 1: def attend(query, key:\n  SyntaxError: "),
        ("import nowhere\n", "answer.py, line 1: import nowhere\n  ModuleNotFoundError: No module named 'nowhere'"),
        (
            "import os\nos._exit(0)\n",
            "answer.py: it cannot be loaded\n  answer.py\n  the answer ended the Python process",
        ),
    ],
    ids=["signature", "syntax", "import", "exit"],
)
def test_an_answer_that_cannot_be_used_is_told_why(checked, code, words):
    status, said = checked("attend", code)
    assert status == 1 and words in said and len(said.splitlines()) <= 12


def test_an_endless_loop_is_stopped_in_eleven_seconds(checked):
    start = time.monotonic()
    status, said = checked("attend", "def attend(query, key, value, mask=None):\n    while True:\n        pass\n")
    assert time.monotonic() - start < 11
    assert status == 1 and "STOPS" in said and "does a loop end?" in said and "query = " in said


@pytest.mark.parametrize(
    "name, file, words",
    [
        ("atend", "answer.py", "atend: there are no laws for it; did you mean attend?"),
        ("attend", "gone.py", "gone.py: no such file; give the Python file that defines attend"),
        ("attend", "answer.ipynb", "answer.ipynb: a notebook; call check(answer)"),
    ],
)
def test_a_command_that_cannot_be_followed_is_refused(tmp_path, monkeypatch, capsys, name, file, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "118")
    (tmp_path / "answer.ipynb").write_text("{}")
    assert run(name, file) == 2
    assert capsys.readouterr().err.startswith(f"minivid check: {words}")


def test_a_hint_that_does_not_exist_is_refused(checked):
    assert checked("attend", "", hint=4) == (2, "minivid check: --hint 4: there are hints 1, 2 and 3\n")


def test_a_file_without_the_name_is_refused_with_what_it_has(checked):
    status, said = checked("attend", "def atend(query): pass\ndef other(): pass\n")
    assert (status, said) == (2, "minivid check: answer.py does not define attend; it defines atend, other\n")


# ---- in a notebook


def told(answer, *about, **options) -> str:
    """What check prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert check(answer, *about, **options) is None
    return printed.getvalue()


def mistaken(query, key, value, mask=None):
    """The scale is forgotten."""
    print("shape", query.shape)
    scores = query @ key.mT
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1).nan_to_num(0.0)
    return weights @ value, weights


def test_a_notebook_shows_the_same_text_each_time():
    first, second = told(mistaken, "attend", hint=2), told(mistaken, "attend", hint=2)
    assert first == second and first.startswith("attend: not yet") and "Hint 2 of 3" in first
    assert "check(mistaken, 'attend', hint=3)" in first
    assert "  | shape torch.Size([1, 1, 1, 2])" in first


def test_a_public_name_is_meant_where_a_module_has_the_same():
    def one_place(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        return conv3d.conv3d(input, weight, bias, stride, padding, dilation, groups)[..., :1]

    assert told(one_place, "conv3d").startswith("conv3d: not yet")


def test_the_name_of_the_answer_says_what_it_answers():
    assert told(attention.causal_mask) == told(attention.causal_mask, "attention")
    assert told(attention.causal_mask).startswith("causal_mask: all ")
    with pytest.raises(LookupError, match="mistaken: there are no laws for it"):
        check(mistaken)
    with pytest.raises(LookupError, match="mistaken is none of the names with laws in attention"):
        check(mistaken, "attention")


@pytest.mark.parametrize("rest", [lambda: None, lambda: time.sleep(99)], ids=["busy", "asleep"])
def test_an_endless_loop_in_a_notebook_is_stopped(rest):
    def attend(query, key, value, mask=None):
        while True:
            rest()

    start = time.monotonic()
    said = told(attend, seconds=0.5)
    assert "Stopped after 0 s: does a loop end?" in said or "Stopped after 1 s" in said
    assert time.monotonic() - start < 4


def test_sys_exit_in_a_notebook_ends_nothing():
    def attend(query, key, value, mask=None):
        raise SystemExit(0)

    assert "sys.exit() was called" in told(attend)


def test_a_failure_in_a_notebook_shows_the_line():
    def attend(query, key, value, mask=None):
        return query @ torch.zeros(7, 7), key

    said = told(attend)
    assert "of your code: return query @ torch.zeros(7, 7), key" in said and "RuntimeError" in said


def test_time_is_up_again_until_it_is_heard():
    heard = []
    with pytest.raises(Stopped), at_most(0.05):
        for _ in range(2):
            try:
                time.sleep(3)
            except Stopped:
                heard.append("first")
        time.sleep(3)
    assert len(heard) == 2


def test_no_time_limit_is_set_off_the_main_thread():
    results = []

    def work():
        with at_most(0.01):
            time.sleep(0.05)
            results.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == ["done"]


def test_a_tail_keeps_the_end():
    tail = Tail()
    for i in range(5000):
        print(i, file=tail)
    assert tail.text.endswith("4999\n") and len(tail.text) <= 4000


def test_a_law_about_a_model_is_refused_in_another_process_and_put_in_this_one(checked, capsys):
    answer = "def clip_gradients(model, max_norm):\n    return 0.0\n"
    status, said = checked("clip_gradients", answer)
    assert status == 2 and " ".join(said.split()) == (
        "minivid check: a Line cannot be sent to an answer, which runs in a process of its own; call "
        "check(clip_gradients) of minivid.classroom.check in a notebook, or at the end of your file"
    )
    space = {}
    exec(answer, space)
    check(space["clip_gradients"])
    assert "clip_gradients: not yet" in capsys.readouterr().out
