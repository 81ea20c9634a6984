"""`minivid grade`: one row an answer, whatever the answer does."""

import csv
import io
import json
import sys

import pytest

from minivid import cli
from minivid.classroom import grade as grading
from minivid.classroom.grade import as_csv, grade, graded, table

RIGHT = "from minivid.layers.attention import softmax\n"
OVERFLOWS = "def softmax(scores, dim=-1):\n    e = scores.exp()\n    return e / e.sum(dim, keepdim=True)\n"
KILLER = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    answers = {"ada": RIGHT, "bob": OVERFLOWS, "cy": "def softmax(scores, dim:\n", "=dan": "x = 1\n", "eve": KILLER}
    for name, code in answers.items():
        (folder / f"{name}.py").write_text(code)
    (folder / "notes.txt").write_text("no answer")
    (folder / "_draft.py").write_text("no answer")
    (folder / "sub.py").mkdir()
    return {row["name"]: row for row in grade("softmax", folder, jobs=2, quiet=True)}


def test_there_is_a_row_for_every_answer_in_order(rows):
    assert list(rows) == ["=dan", "ada", "bob", "cy", "eve"]
    assert all(tuple(row) == grading.COLUMNS for row in rows.values())


def test_a_right_answer_holds_every_law(rows):
    assert rows["ada"]["held"] == rows["ada"]["laws"] > 1
    assert rows["ada"]["broken"] is rows["ada"]["why"] is rows["ada"]["mistake"] is None


def test_a_known_mistake_holds_some_laws_and_is_named(rows):
    assert 0 < rows["bob"]["held"] < rows["bob"]["laws"] == rows["ada"]["laws"]
    assert rows["bob"]["broken"] and rows["bob"]["why"].startswith("The smallest input found: ")
    assert "amax" in rows["bob"]["mistake"]


@pytest.mark.parametrize(
    "name, why",
    [
        ("cy", "cy.py: it cannot be loaded cy.py, line 1: def softmax(scores, dim: SyntaxError: "),
        ("=dan", "=dan.py does not define softmax"),
        ("eve", "no verdict: the checker ended with status -9; it said nothing"),
    ],
)
def test_an_answer_without_a_verdict_says_why_and_costs_nobody_else_a_mark(rows, name, why):
    assert rows[name]["held"] == 0 and rows[name]["broken"] is rows[name]["mistake"] is None
    assert rows[name]["why"].startswith(why)


def test_a_table_has_a_line_an_answer_and_counts_the_right_ones(rows):
    lines = table(list(rows.values()), 90).splitlines()
    assert lines[0].split()[0] == "name" and [line.split()[0] for line in lines[1:6]] == list(rows)
    laws = rows["ada"]["laws"]
    assert f"{laws} of {laws}" in lines[2] and lines[5].split()[1] == "none" and lines[-1] == "1 of 5 answers are right"
    assert max(map(len, lines)) <= 90 and lines[3].endswith("...")


def test_comma_separated_values_are_read_back_and_hold_no_formula(rows):
    read = list(csv.DictReader(io.StringIO(as_csv(list(rows.values())))))
    assert [row["name"] for row in read] == ["'=dan", "ada", "bob", "cy", "eve"]
    assert read[1]["held"] == str(rows["ada"]["laws"]) and read[1]["why"] == "" and read[4]["laws"] == ""
    assert read[2]["mistake"] == rows["bob"]["mistake"]


def test_an_answer_that_never_ends_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(grading, "LONGEST", 0.01)
    (tmp_path / "ada.py").write_text(RIGHT)
    assert graded("softmax", tmp_path / "ada.py")["why"] == "no verdict after 0 s"


def test_a_module_counts_the_laws_of_every_name_it_has(tmp_path, capsys):
    (tmp_path / "ada.py").write_text(RIGHT)
    assert cli.main(["check", "attention", str(tmp_path / "ada.py"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    mine = found["names"]["softmax"]
    assert found["file"] == "ada.py" and found["held"] == mine["held"] == mine["laws"] < found["laws"]
    assert found["why"] == found["names"]["attend"]["why"] == "ada.py does not define attend"
    assert found["laws"] == sum(row["laws"] for row in found["names"].values())


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["atend", "."], "atend: there are no laws for it; did you mean attend?"),
        (["attend", "none"], "none: no such folder; give one with one Python file a student"),
        (["attend", "."], ".: holds no Python file; one file a student is expected, as in ada.py"),
        (["attend", ".", "--jobs", "0"], "--jobs 0: give at least 1"),
    ],
)
def test_a_folder_or_name_that_cannot_be_graded_is_refused(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["grade", *arguments]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1


def test_the_command_prints_a_table_csv_or_json(tmp_path, monkeypatch, capsys):
    row = dict.fromkeys(grading.COLUMNS) | {"name": "ada", "held": 3, "laws": 3}
    monkeypatch.setattr(grading, "grade", lambda *_, **__: [row])
    said = []
    for form in ([], ["--csv"], ["--json"]):
        assert cli.main(["grade", "attend", str(tmp_path), *form]) == 0
        said.append(capsys.readouterr().out)
    assert (
        "3 of 3" in said[0] and said[1] == f"{','.join(grading.COLUMNS)}\nada,3,3,,,\n" and json.loads(said[2]) == [row]
    )
    assert sys.executable not in "".join(said)
