"""Chapters keep their rules, notebooks are in step, and the machine that makes them gives the same bytes twice."""

import importlib
import importlib.util
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "chapters").is_dir():  # the tests of an installed copy
    pytest.skip("no chapters beside the tests", allow_module_level=True)
if importlib.util.find_spec("nbformat") is None:
    pytest.skip("the extra `notebooks` is not installed", allow_module_level=True)


def load(name: str):
    """A file of chapters/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "chapters" / f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lint = load("lint")
CHAPTERS = sorted((ROOT / "chapters").glob("[0-9][0-9]_*.md"))


@pytest.fixture(scope="module")
def nbformat():
    """The library, which takes seconds to load: only where a test needs it."""
    return importlib.import_module("nbformat")


@pytest.fixture(scope="module")
def build():
    """chapters/build.py, which loads it too."""
    return load("build")


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_keeps_the_rules_and_shows_the_code_of_the_library(chapter):
    assert lint.lint(chapter) == []


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_notebooks_are_in_step_with_their_chapter(chapter, build):
    assert build.out_of_step(chapter) == [], "run: python chapters/build.py"


def test_every_notebook_has_a_chapter(build):
    assert build.orphans(ROOT) == []


@pytest.mark.notebook
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_runs_from_top_to_bottom(chapter, build):
    notebook = build.run(build.read(chapter, student=False), ROOT / "notebooks")
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize(("folder", "transport"), [("short", "ipc"), ("long" * 30, "tcp")])
def test_a_kernel_is_reached_by_files_unless_their_names_would_be_too_long(
    folder, transport, monkeypatch, build, nbformat
):
    if sys.platform == "win32":
        transport = "tcp"
    code = "from ipykernel.kernelapp import IPKernelApp\nprint(IPKernelApp.instance().transport)"
    with tempfile.TemporaryDirectory() as short:
        (Path(short) / folder).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(Path(short) / folder))
        notebook = build.run(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), Path(short))
        assert notebook.cells[0].outputs[0]["text"].strip() == transport
        assert not list((Path(short) / folder).iterdir())


# ---- the machine, on a chapter of its own

HINTS = "\n".join(f"<details><summary>Hint {i}</summary>\n\nThink {i} times.\n\n</details>\n" for i in (1, 2, 3))
EXERCISE = '''{hints}
```python tags=["exercise"]
def {name}(x):
    """{name} of a number."""
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION
```

```python tags=["check"]
{name}(3)
```
'''
CHAPTER = '''# Halves

See [the next one](01_more.md), [the reader](../README.md#top) and [a page](https://example.org/a).

## How large is a half?

A half of $x$ is $\\frac{x}{2}$, costs \\$2, and `$HOME` is code.

## By hand

$$
y = \\frac{x}{2}
$$

## The code

```python tags=["show"] source="minivid/video/halve.py"
def halve(x: float) -> float:
    """Half of a number."""
    return x / 2
```

```text
{ not a cell }
```

## A picture

![a curve](pictures/curve.png)

```python
import random

import matplotlib.pyplot as plt
import torch
from tqdm import tqdm

for _ in tqdm(range(3)):
    pass
random.seed(3)
figure, axes = plt.subplots(figsize=(2, 2))
axes.plot(torch.randn(5));
```

```python
print(halve(3), torch.get_num_threads(), random.choice([1]))
for i in range(3):
    print(i, flush=True)
halve(3)
```

```python tags=["no-output"]
object()
```

## The law

Two halves are one.

## Exercises

''' + "\n".join(EXERCISE.format(hints=HINTS, name=name) for name in ("double", "twice", "redouble"))
CHAPTER += """
## Broken in the wild

It happened.

## In the large

### Reading list

- https://example.org/b
"""
LIBRARY = '''
def halve(x: float) -> float:
    """Half of a number.

    Args:
        x: the number.
    """
    return x / 2
'''


@pytest.fixture
def project(tmp_path):
    """A small project with one chapter that keeps every rule."""
    lint.definitions.cache_clear()
    for folder in ("chapters/pictures", "minivid/video", "minivid/layers"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "minivid/video/halve.py").write_text(LIBRARY)
    (tmp_path / "chapters/pictures/curve.png").write_bytes(b"")
    (tmp_path / "README.md").write_text("# Top\n")
    (tmp_path / "chapters/00_halves.md").write_text(CHAPTER)
    (tmp_path / "chapters/01_more.md").write_text(CHAPTER)
    yield tmp_path
    lint.definitions.cache_clear()


def test_a_chapter_that_keeps_every_rule_breaks_none(project):
    assert lint.lint(project / "chapters/00_halves.md") == []


OFFENCES = {
    "title": ("# Halves", "Halves", "a chapter starts with its title"),
    "second title": ("## By hand", "# By hand", "a second title: By hand"),
    "skipped level": ("### Reading list", "#### Reading list", "the heading skips from level 2 to 4: Reading list"),
    "repeated heading": ("### Reading list", "### Reading list\n\n### Reading list", "two headings read alike"),
    "missing part": ("## By hand", "## By foot", "no heading for the part: the idea by hand"),
    "underlined heading": ("Two halves are one.", "Two halves\n------", "a heading is # and a space and its words"),
    "fence of another language": ("```text", "```bash", "a fence is one of console, json, python, text, not bash"),
    "open fence": ("{ not a cell }\n```", "{ not a cell }", "this fence is never closed"),
    "indented fence": ("```text\n", "  ```text\n", "a fence starts at the first column"),
    "head of a cell": ('tags=["show"] source', "tags=[show] source", "the head of a code cell reads"),
    "unknown tag": ('tags=["no-output"]', 'tags=["silent"]', "tags are check, exercise, no-output, show, not silent"),
    "long line": ("Two halves are one.", "x " * 90 + "x", "a line of 181 characters; at most 160"),
    "long line of code": (
        "halve(3)\n```",
        "halve(3)  # " + "x" * 120 + "\n```",
        "a line of code of 132 characters; at most 120",
    ),
    "white space": ("Two halves are one.", "Two halves are one. ", "white space at the end"),
    "two blank lines": ("Two halves are one.\n", "Two halves are one.\n\n", "two blank lines in a row"),
    "lonely dollar": ("Two halves are one.", "Two halves are $1.", "a $ without its partner"),
    "space in math": ("Two halves are one.", "Two halves are $ x $.", "no space between $ and the formula"),
    "math against a word": ("Two halves are one.", "Two half$x$ are one.", "needs a space or punctuation"),
    "latex delimiters": ("Two halves are one.", r"Two halves are \(x\).", r"not \( \) or \[ \]"),
    "eaten backslash": ("y = \\frac{x}{2}", r"y = \{x\}", r"\{ in math loses its backslash on GitHub"),
    "star in math": ("Two halves are one.", "Two halves are $x*y*z$.", "may be taken for italics"),
    "underscores": ("Two halves are one.", r"Two halves, $\bar{x}_{1}$ and $\bar{x}_{2}$.", "}_{ twice in a paragraph"),
    "display math in a line": ("Two halves are one.", "Two $$x$$ are one.", "$$ stands on a line of its own"),
    "open display math": ("\\frac{x}{2}\n$$", "\\frac{x}{2}", "this $$ is never closed"),
    "html": ("Two halves are one.", "Two <b>halves</b> are one.", "HTML other than <details> and <summary>: <b>"),
    "comment": ("Two halves are one.", "<!-- Two -->", "HTML other than <details> and <summary>: <!-->"),
    "hint without a blank line": ("Hint 1</summary>\n\n", "Hint 1</summary>\n", "a blank line follows <summary>"),
    "open hint": ("Think 3 times.\n\n</details>", "Think 3 times.", "<details> inside|never closed|code cell inside"),
    "too few hints": ("<summary>Hint 3</summary>", "<summary>More</summary>", "3 exercises, but Hint 3 is given for 2"),
    "picture without words": ("![a curve]", "![]", "the picture pictures/curve.png has no words"),
    "dead link": ("(../README.md#top)", "(../READ.md)", "nothing stands at ../READ.md"),
    "absolute link": ("(../README.md#top)", "(/README.md)", "a link that leads out of the project: /README.md"),
    "bare address": ("Two halves are one.", "See https://example.org/c", "a bare address"),
    "not python": ("import random\n", "import random)\n", "not Python: unmatched ')'"),
    "unseeded": ("random.seed(3)\n", "", "Python's random is not seeded"),
    "too few exercises": ('tags=["exercise"]', 'tags=["check"]', "2 exercises; a chapter has at least 3"),
    "exercise without a check": (
        'tags=["check"]',
        'tags=["no-output"]',
        "an exercise is followed by",
    ),
    "exercise without a solution": (
        "    ### BEGIN SOLUTION\n    return 2 * x\n    ### END SOLUTION",
        "    return 2 * x",
        "an exercise without a solution",
    ),
    "open solution": ("    ### END SOLUTION\n", "", "1 times ### BEGIN SOLUTION and 0 times ### END SOLUTION"),
    "solution in plain sight": ("object()", "### BEGIN SOLUTION\n### END SOLUTION", "not tagged exercise"),
    "other code": (
        "    return x / 2\n```",
        "    return x * 0.5\n```",
        "halve is not the halve of minivid/video/halve.py",
    ),
    "other signature": ("halve(x: float)", "halve(x: int)", "halve is not the halve of minivid/video/halve.py"),
    "other docstring": ('"""Half of a number."""', '"""Half."""', "halve is not the halve of minivid/video/halve.py"),
    "shows nothing": ("def halve", "def other", "shows nothing of minivid/video/halve.py"),
}


@pytest.mark.parametrize("old, new, words", OFFENCES.values(), ids=list(OFFENCES))
def test_each_rule_finds_its_offence(project, old, new, words):
    chapter = project / "chapters/00_halves.md"
    text = chapter.read_text()
    assert old in text
    chapter.write_text(text.replace(old, new, 1))
    found = lint.lint(chapter)
    assert found and any(word in problem for problem in found for word in words.split("|")), found
    assert all(problem.startswith("00_halves.md:") for problem in found)


def test_parts_come_in_order():
    headings = ["question", "by hand", "code", "picture", "law", "exercises", "wild", "large"]
    right, wrong = ("\n".join(f"## {words}" for words in order) for order in (headings, headings[::-1]))
    assert len(list(lint.parts_are_all_there(right))) == 0
    assert len(list(lint.parts_are_all_there(wrong))) == 7


def test_a_docstring_may_be_left_out(project):
    chapter = project / "chapters/00_halves.md"
    chapter.write_text(CHAPTER.replace('    """Half of a number."""\n', ""))
    assert lint.lint(chapter) == []


def test_an_exercise_whose_name_the_library_has_is_the_librarys(project):
    (project / "minivid/layers/double.py").write_text("def double(x):\n    return x + x\n")
    found = lint.lint(project / "chapters/00_halves.md")
    assert len(found) == 1 and "double is not the double of minivid/layers/double.py" in found[0]


def test_a_name_that_stands_twice_needs_its_source(project):
    (project / "minivid/layers/halve_again.py").write_text(LIBRARY)
    chapter = project / "chapters/00_halves.md"
    assert lint.lint(chapter) == []
    chapter.write_text(CHAPTER.replace(' source="minivid/video/halve.py"', ""))
    assert any(
        "halve stands in minivid/layers/halve_again.py and minivid/video/halve.py" in p for p in lint.lint(chapter)
    )


def test_the_students_edition_has_stubs_hints_and_no_outputs(project, build, nbformat):
    full, student = (build.read(project / "chapters/00_halves.md", student=student) for student in (False, True))
    code = ["\n".join(cell.source for cell in book.cells if cell.cell_type == "code") for book in (full, student)]
    assert code[0].count("return 2 * x") == 3 and "SOLUTION" not in "".join(code)
    assert code[1].count('    raise NotImplementedError("your code here")') == 3 and "return 2 * x" not in code[1]
    words = "".join(cell.source for cell in student.cells if cell.cell_type == "markdown")
    assert words.count("<summary>Hint 2</summary>") == 3 and "[the reader](../../README.md#top)" in words
    assert "[the next one](01_more.ipynb)" in words and "{ not a cell }" in words
    assert len({cell.id for cell in student.cells}) == len(student.cells)
    nbformat.validate(student)


def test_a_rebuild_gives_the_same_bytes_and_leaves_nothing_else(project, capsys, build, nbformat):
    (project / "chapters/01_more.md").unlink()
    chapter = project / "chapters/00_halves.md"
    chapter.write_text(CHAPTER.replace("[the next one](01_more.md)", "The next one"))
    made = []
    for _ in range(2):
        assert build.main(["--all"], project) == 0
        made.append({path: path.read_bytes() for path in (project / "notebooks").rglob("*.ipynb")})
    assert made[0] == made[1] and len(made[0]) == 2
    assert sorted(path.name for path in (project / "notebooks").iterdir()) == ["00_halves.ipynb", "exercises"]
    notebook = nbformat.read(project / "notebooks/00_halves.ipynb", as_version=4)
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert outputs[1][0].data["image/png"] and len(outputs[2]) == 2 and outputs[3] == []  # tqdm is silent
    assert outputs[2][0].text.startswith("1.5 1 1\n") and outputs[2][0].text.endswith("\n0\n1\n2\n")
    assert build.check(project) == [] and build.main(["--check"], project) == 0
    before = (project / "notebooks/00_halves.ipynb").stat().st_mtime_ns
    assert build.main([], project) == 0  # nothing is out of step
    assert (project / "notebooks/00_halves.ipynb").stat().st_mtime_ns == before


@pytest.fixture
def built(project, build):
    """The project with notebooks as a build leaves them, outputs aside."""
    (project / "notebooks/exercises").mkdir(parents=True)
    for chapter in build.chapters(project):
        executed, exercises = build.targets(chapter)
        build.write(build.read(chapter, student=True), exercises)
        notebook = build.read(chapter, student=False)
        for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
            cell.execution_count = number
        build.write(notebook, executed)
    assert build.check(project) == []
    return project


def test_check_finds_a_chapter_that_changed(built, capsys, build):
    chapter = built / "chapters/00_halves.md"
    chapter.write_text(chapter.read_text().replace("Two halves", "Both halves"))
    assert build.main(["--check"], built) == 1
    assert capsys.readouterr().out.splitlines() == [
        "notebooks/00_halves.ipynb does not match chapters/00_halves.md",
        "exercises/00_halves.ipynb does not match chapters/00_halves.md",
    ]


def test_check_finds_a_notebook_that_was_edited_lost_or_left_behind(built, build, nbformat):
    executed, exercises = build.targets(built / "chapters/00_halves.md")
    notebook = nbformat.read(executed, as_version=4)
    notebook.cells[1].source += "\nprint(1)"
    build.write(notebook, executed)
    exercises.unlink()
    build.write(notebook, built / "notebooks/02_gone.ipynb")
    assert build.check(built) == [
        "notebooks/00_halves.ipynb does not match chapters/00_halves.md",
        "exercises/00_halves.ipynb is missing",
        "notebooks/02_gone.ipynb has no chapter",
    ]


def test_check_finds_a_notebook_that_was_not_executed_and_an_edition_with_outputs(built, build, nbformat):
    executed, exercises = build.targets(built / "chapters/00_halves.md")
    build.write(build.read(built / "chapters/00_halves.md", student=False), executed)
    notebook = nbformat.read(exercises, as_version=4)
    notebook.cells[1].execution_count = 1
    build.write(notebook, exercises)
    assert build.check(built) == [
        "notebooks/00_halves.ipynb was not executed from top to bottom",
        "exercises/00_halves.ipynb holds outputs",
    ]


@pytest.mark.parametrize(
    "output, words",
    [
        (dict(output_type="stream", name="stderr", text="Warning: x"), "has a warning"),
        (dict(output_type="stream", name="stdout", text="<object at 0x7f00aa11bb>"), "an address in memory"),
        (dict(output_type="display_data", data={"text/plain": f"'{ROOT}/x'"}), "a path of this machine"),
        (dict(output_type="stream", name="stdout", text="/tmp/x"), "a path of this machine"),
        (dict(output_type="stream", name="stdout", text="0x7f in words, runs/demo"), ""),
        (dict(output_type="display_data", data={"image/png": "/tmp/x"}), ""),
    ],
)
def test_an_output_that_would_differ_elsewhere_is_refused(output, words, build, nbformat):
    found = build.unsteady(nbformat.v4.new_output(**output))
    assert words in found and bool(words) == bool(found)
