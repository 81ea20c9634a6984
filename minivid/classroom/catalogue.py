"""What can be checked: the public names that the tests hold laws for, found by reading, without running a test file."""

import ast
import difflib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
# An installed copy carries the tests inside the package (pyproject.toml, force-include).
TESTS = PACKAGE / "_tests" if (PACKAGE / "_tests").is_dir() else PACKAGE.parent / "tests"
MARK = re.compile(r"""\bmark\.law\(\s*["'](\w+)["']""")


@dataclass(frozen=True)
class Subject:
    """A module of the library whose public names have laws.

    Attributes:
        module: its name, as in "attention".
        place: its address, as in "minivid.layers.attention".
        names: the public names that have laws, in the order in which the module defines them.
        laws: the test file that holds the laws.
        mistakes: the file of known mistakes, which need not exist.
    """

    module: str
    place: str
    names: tuple[str, ...]
    laws: Path
    mistakes: Path


@cache
def subjects() -> dict[str, Subject]:
    """Every subject by its module's name."""
    found = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        module = file.stem.removeprefix("test_")
        path = file.relative_to(TESTS).with_name(module)
        source = (PACKAGE / path).with_suffix(".py")
        marked = set(MARK.findall(file.read_text(encoding="utf-8"))) if source.is_file() else set()
        names = [name for name in defined(source) if name in marked] if marked else []
        if names:
            place = ".".join(["minivid", *path.parts])
            found[module] = Subject(module, place, tuple(names), file, TESTS / "mistakes" / f"{module}.py")
    return found


def defined(source: Path) -> list[str]:
    """The functions and classes of a file, in order."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in ast.parse(source.read_text(encoding="utf-8")).body if isinstance(node, kinds)]


def find(name: str) -> tuple[Subject, tuple[str, ...]]:
    """The subject that a module's name or a public name belongs to, and the public names that are meant.

    Raises:
        LookupError: if there is none; the message lists what can be checked.
    """
    everything = subjects()
    if name in everything:
        return everything[name], everything[name].names
    for subject in everything.values():
        if name in subject.names:
            return subject, (name,)
    known = [*everything, *(each for subject in everything.values() for each in subject.names)]
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    lists = "; ".join(f"{subject.module}: {', '.join(subject.names)}" for subject in everything.values())
    raise LookupError(f"{name}: there are no laws for it; {meant}can be checked: {lists}")
