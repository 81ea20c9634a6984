"""The rules of the house, read from the source with the standard library alone.

Each rule takes files, as a mapping from path to text, and returns what breaks it. It is put to this project, where it
must return nothing, and to a small made-up offence, which it must find.
"""

import ast
import re
import subprocess
import sys
import tomllib
import unittest
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
Files = dict[str, str]

if not (ROOT / "pyproject.toml").exists():  # the tests of an installed copy
    raise unittest.SkipTest("no project around the tests")

# Who may import whom (a room may always import itself). Lower floors first.
ROOMS = (
    "shapes",
    "whole_files",
    "plots",
    "video",
    "audio",
    "text",
    "layers",
    "models",
    "data",
    "training",
    "peft",
    "continual",
)
FLOORS: dict[str, set[str]] = {
    "shapes": set(),
    "whole_files": set(),
    "plots": set(),
    "video": {"shapes"},
    "audio": {"shapes"},
    "text": {"shapes"},
    "layers": {"shapes"},
    "models": {"layers", "shapes", "whole_files"},
    "data": {"video", "audio", "text", "shapes", "whole_files"},
    "training": {"models", "data", "layers", "text", "video", "audio", "shapes", "plots", "whole_files"},
    "peft": {"models", "layers", "shapes"},
    "continual": set(ROOMS) - {"plots", "continual"},
    "classroom": set(ROOMS),
    "report": {"plots", "whole_files"},
    "demo": {*ROOMS, "cli", "report"},
    "caption": {*ROOMS, "report"},
    "classify": set(ROOMS),
    "converse": set(ROOMS),
    "describe": set(ROOMS),
    "cli": {*ROOMS, "demo", "caption", "classify", "converse", "describe", "classroom"},
    "__main__": {"cli"},
}
# Libraries with one place each, so that what they do can be looked up, and replaced, there.
PLACES = {
    "av": r"minivid/(video|audio)/\w+\.py",
    "matplotlib": r"minivid/plots\.py",
    "safetensors": r"minivid/(models/pretrained|training/checkpoint)\.py",
}
# What `minivid --help`, which answers in half a second, has no time to load.
SLOW = {"torch", "numpy", "av", "matplotlib", "hypothesis", "pytest", "einops", "jaxtyping", "safetensors"}
VAGUE = re.compile(r"(utils?|helpers?|common|misc|stuff|tools?|ch\d+)")
# Test files about the project as a whole, not about one module.
WHOLE = {"tests/test_house.py", "tests/test_chapters.py", "tests/test_readme.py"}
# Methods that torch calls and documents: what they do is said where their class is.
EXPLAINED = {"forward", "backward"}


@cache
def project() -> Files:
    """The Python files of this project, and the texts that rules look into."""
    found = [path for folder in ("minivid", "tests", "chapters") for path in sorted((ROOT / folder).rglob("*.py"))]
    found += [ROOT / "README.md", ROOT / "pyproject.toml"]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in found if path.is_file()}


@cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


def package(files: Files) -> Files:
    """The library's own files."""
    return {path: text for path, text in files.items() if path.startswith("minivid/") and path.endswith(".py")}


def suite(files: Files) -> Files:
    """The files of the test suite."""
    return {path: text for path, text in files.items() if path.startswith("tests/") and path.endswith(".py")}


def address(path: str) -> str:
    """minivid/video/patches.py as minivid.video.patches."""
    return ".".join(PurePosixPath(path).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.AST, *, late: bool = True) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported; without `late`, only what importing the file itself loads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif late or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(node, late=late)


def room(dotted: str) -> str | None:
    """minivid.video.patches.patchify is in the room video."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "minivid" and len(parts) > 1 else None


# ---- who imports whom


def climbing_imports(files: Files) -> list[str]:
    found = []
    for path, text in package(files).items():
        own = room(address(path))
        if own is None:
            continue
        if own not in FLOORS:
            found.append(f"{path}: the room {own} has no floor")
            continue
        for line, name in imports(parsed(text)):
            other = room(name)
            if name.startswith("."):
                found.append(f"{path}:{line}: {name} is not an address; write from minivid.room.module import name")
            elif other and other != own and other not in FLOORS[own]:
                found.append(f"{path}:{line}: {own} may not import {other}")
    return found


def test_imports_only_go_down():
    assert climbing_imports(project()) == []
    offence = {
        "minivid/layers/lstm.py": "from minivid.layers.norms import x\nfrom minivid.training.optimizer import SGD\n",
        "minivid/models/bart.py": "def f():\n    import minivid.classroom.check\n",
        "minivid/video/clip.py": "from .decode import probe\n",
        "minivid/attic/box.py": "",
    }
    assert climbing_imports(offence) == [
        "minivid/layers/lstm.py:2: layers may not import training",
        "minivid/models/bart.py:2: models may not import classroom",
        "minivid/video/clip.py:1: .decode.probe is not an address; write from minivid.room.module import name",
        "minivid/attic/box.py: the room attic has no floor",
    ]


def test_nothing_but_the_command_line_imports_the_classroom():
    assert [room for room, below in FLOORS.items() if "classroom" in below] == ["cli"]


def misplaced_libraries(files: Files) -> list[str]:
    return [
        f"{path}:{line}: {name.split('.')[0]} is imported in {PLACES[name.split('.')[0]]} only"
        for path, text in package(files).items()
        for line, name in imports(parsed(text))
        if name.split(".")[0] in PLACES and not re.fullmatch(PLACES[name.split(".")[0]], path)
    ]


def test_libraries_stay_in_their_place():
    assert misplaced_libraries(project()) == []
    offence = {
        "minivid/data/batches.py": "import av\n",
        "minivid/video/decode.py": "import av\n",
        "minivid/video/plot.py": "def draw():\n    from matplotlib import pyplot\n",
    }
    assert misplaced_libraries(offence) == [
        r"minivid/data/batches.py:1: av is imported in minivid/(video|audio)/\w+\.py only",
        r"minivid/video/plot.py:2: matplotlib is imported in minivid/plots\.py only",
    ]


def undeclared_imports(files: Files) -> list[str]:
    """Imports of neither the standard library, nor this project, nor a dependency that pyproject.toml declares."""
    project_table = tomllib.loads(files["pyproject.toml"])["project"]
    extras = project_table.get("optional-dependencies", {})
    runtime = {imported(line) for line in project_table["dependencies"]}
    # `_pytest` is what pytest is made of, and comes with it.
    every = runtime | {imported(line) for lines in extras.values() for line in lines} | {"_pytest"}
    # Test files import what stands in tests/, and beside them, by name alone (pythonpath in pyproject.toml).
    own = {"minivid"} | {part for path in suite(files) for part in PurePosixPath(path).with_suffix("").parts}
    found = []
    for path, text in {**package(files), **suite(files)}.items():
        known = {*sys.stdlib_module_names, *own, *(runtime if path in package(files) else every)}
        # A benchmark may look for a peer when it runs: the peer is an optional install.
        late = not path.startswith("tests/benchmarks/")
        for line, name in imports(parsed(text), late=late):
            top = name.split(".")[0]
            if top and top not in known:
                found.append(f"{path}:{line}: {top} is not declared in pyproject.toml")
    return found


def imported(requirement: str) -> str:
    """The name by which a requirement is imported."""
    name = re.match(r"[\w.-]+", requirement)[0].lower().replace("-", "_")
    return {"pytest_xdist": "xdist", "pillow": "PIL", "scikit_learn": "sklearn"}.get(name, name)


def test_only_declared_libraries_are_imported():
    assert undeclared_imports(project()) == []
    declared = '[project]\ndependencies = ["torch>=2.6"]\n[project.optional-dependencies]\ndev = ["nbclient>=0.10"]\n'
    offence = {
        "pyproject.toml": declared,
        "minivid/layers/norms.py": "import math\nimport torch\nimport nbclient\n",
        "tests/strategies.py": "",
        "tests/layers/test_norms.py": "import nbclient\nfrom strategies import small\ndef f():\n    import timm\n",
        "tests/benchmarks/test_decoding.py": "def f():\n    import torchcodec\n",
    }
    assert undeclared_imports(offence) == [
        "minivid/layers/norms.py:3: nbclient is not declared in pyproject.toml",
        "tests/layers/test_norms.py:4: timm is not declared in pyproject.toml",
    ]


def circles(files: Files) -> list[str]:
    """Modules that import each other, directly or round about."""
    modules = {address(path): text for path, text in package(files).items()}
    edges = {
        name: sorted({target for _, dotted in imports(parsed(text)) if (target := module_of(dotted, modules))} - {name})
        for name, text in modules.items()
    }
    found, done = [], set()

    def walk(name: str, trail: list[str]) -> None:
        if name in trail:
            found.append(" -> ".join([*trail[trail.index(name) :], name]))
        elif name not in done:
            for other in edges[name]:
                walk(other, [*trail, name])
            done.add(name)

    for name in sorted(edges):
        walk(name, [])
    return found


def module_of(dotted: str, modules: dict[str, str]) -> str | None:
    """The module that an imported name stands in."""
    parts = dotted.split(".")
    return next((name for n in range(len(parts), 1, -1) if (name := ".".join(parts[:n])) in modules), None)


def test_no_module_imports_itself_round_about():
    assert circles(project()) == []
    offence = {
        "minivid/layers/a.py": "from minivid.layers.b import x\n",
        "minivid/layers/b.py": "def f():\n    from minivid.layers import c\n",
        "minivid/layers/c.py": "import minivid.layers.a\n",
    }
    assert circles(offence) == ["minivid.layers.a -> minivid.layers.b -> minivid.layers.c -> minivid.layers.a"]


def loaded_by(start: str, files: Files) -> dict[str, str]:
    """Every outside library that importing a module loads, and the module that imports it."""
    modules = {address(path): text for path, text in package(files).items()}
    found, seen, todo = {}, set(), [start]
    while todo:
        name = todo.pop()
        if name in seen or name not in modules:
            continue
        seen.add(name)
        for _, dotted in imports(parsed(modules[name]), late=False):
            if room(dotted):
                todo.append(module_of(dotted, modules) or "")
            else:
                found.setdefault(dotted.split(".")[0], name)
    return found


def test_the_command_line_starts_without_loading_a_slow_library():
    assert {name: by for name, by in loaded_by("minivid.cli", project()).items() if name in SLOW} == {}
    offence = {
        "minivid/cli.py": "import argparse\nfrom minivid.demo import run\ndef f():\n    import numpy\n",
        "minivid/demo.py": "try:\n    import torch\nfinally:\n    pass\n",
    }
    assert loaded_by("minivid.cli", offence) == {"argparse": "minivid.cli", "torch": "minivid.demo"}


def test_the_command_line_starts_without_torch_in_truth():
    code = f"import sys, minivid.cli; print(sorted({SLOW} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


# ---- names and places


def repeated_names(files: Files) -> list[str]:
    places: dict[str, list[str]] = {}
    for path in package(files):
        if not path.endswith(("__init__.py", "__main__.py")):
            places.setdefault(PurePosixPath(path).name, []).append(path)
    return [" and ".join(paths) for paths in places.values() if len(paths) > 1]


def test_a_file_name_stands_for_one_file():
    assert repeated_names(project()) == []
    offence = {"minivid/video/clip.py": "", "minivid/data/clip.py": "", "minivid/data/__init__.py": ""}
    assert repeated_names(offence) == ["minivid/video/clip.py and minivid/data/clip.py"]


def vague_names(files: Files) -> list[str]:
    parts = {(path, part) for path in files for part in PurePosixPath(path).with_suffix("").parts}
    return sorted(f"{path}: {part} says nothing" for path, part in parts if VAGUE.fullmatch(part.removeprefix("test_")))


def test_no_name_says_nothing():
    assert vague_names(project()) == []
    offence = {
        "minivid/video/utils.py": "",
        "tests/test_common.py": "",
        "minivid/layers/ch05.py": "",
        "tests/helpers/a.py": "",
    }
    assert vague_names(offence) == [
        "minivid/layers/ch05.py: ch05 says nothing",
        "minivid/video/utils.py: utils says nothing",
        "tests/helpers/a.py: helpers says nothing",
        "tests/test_common.py: test_common says nothing",
    ]


def unmirrored(files: Files) -> list[str]:
    """Modules without a test file of the same place and name, and test files without a module."""
    modules = {path for path in package(files) if not path.endswith(("__init__.py", "__main__.py"))}
    wanted = {mirror(path): path for path in modules}
    have = {path for path in suite(files) if PurePosixPath(path).name.startswith("test_")}
    loose = {path for path in have - set(wanted) - WHOLE if not path.startswith("tests/benchmarks/")}
    return [
        *(f"{wanted[path]} has no {path}" for path in sorted(set(wanted) - have)),
        *(f"{path} mirrors no module" for path in sorted(loose)),
    ]


def mirror(path: str) -> str:
    """minivid/video/patches.py is tested by tests/video/test_patches.py."""
    place = PurePosixPath(path).relative_to("minivid")
    return str(PurePosixPath("tests") / place.with_name(f"test_{place.name}"))


def test_every_module_has_its_test_file():
    assert unmirrored(project()) == []
    offence = {
        "minivid/video/clip.py": "",
        "minivid/shapes.py": "",
        "tests/test_shapes.py": "",
        "tests/test_clip.py": "",
        "tests/strategies.py": "",
    }
    assert unmirrored(offence) == [
        "minivid/video/clip.py has no tests/video/test_clip.py",
        "tests/test_clip.py mirrors no module",
    ]


def not_in_one_chapter(files: Files) -> list[str]:
    """Modules that the README's table of chapters does not name exactly once.

    A row reads `| 02_attention | `layers.attention` | ... |`. The classroom is what checks the course, not its subject.
    """
    rows = re.findall(r"^\| *(?:\[)?\d\d_\w+[^|]*\|([^|]*)\|", files["README.md"], re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    modules = [address(path).removeprefix("minivid.") for path in package(files) if not path.endswith("__.py")]
    taught = [name for name in modules if not name.startswith("classroom.")]
    return [
        *(
            f"{name}: named {named.count(name)} times in the table of chapters"
            for name in taught
            if named.count(name) != 1
        ),
        *(f"{name}: in the table of chapters, but there is no such module" for name in named if name not in modules),
    ]


def test_every_module_belongs_to_one_chapter():
    assert not_in_one_chapter(project()) == []
    offence = {
        "README.md": "| chapter |\n|---|---|\n| [00_a](x.md) | `shapes`, `plots` |\n| 01_b | `plots`, `gone` |\n",
        "minivid/shapes.py": "",
        "minivid/plots.py": "",
        "minivid/layers/lstm.py": "",
        "minivid/classroom/check.py": "",
        "minivid/__init__.py": "",
    }
    assert not_in_one_chapter(offence) == [
        "plots: named 2 times in the table of chapters",
        "layers.lstm: named 0 times in the table of chapters",
        "gone: in the table of chapters, but there is no such module",
    ]


# ---- what a file holds


def undocumented(files: Files) -> list[str]:
    """Public names without a docstring: modules, functions, classes, and the methods of classes."""
    found = []
    for path, text in package(files).items():
        tree = parsed(text)
        if ast.get_docstring(tree) is None:
            found.append(f"{path}: the module says nothing about itself")
        for name, node in public(tree):
            if ast.get_docstring(node) is None:
                found.append(f"{path}:{node.lineno}: {name} has no docstring")
    return found


def public(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if not (isinstance(tree, ast.ClassDef) and (node.name in EXPLAINED or is_setter(node))):
                yield node.name, node
            if isinstance(node, ast.ClassDef):
                yield from ((f"{node.name}.{name}", inner) for name, inner in public(node))


def is_setter(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return any(isinstance(mark, ast.Attribute) and mark.attr == "setter" for mark in node.decorator_list)


def test_every_public_name_has_a_docstring():
    assert undocumented(project()) == []
    offence = {
        "minivid/layers/lstm.py": '"1"\nclass LSTM:\n    "2"\n    def forward(self): ...\n    def reset(self): ...\n',
        "minivid/layers/norms.py": "def _inner(): ...\ndef norm(): ...\n",
    }
    assert undocumented(offence) == [
        "minivid/layers/lstm.py:5: LSTM.reset has no docstring",
        "minivid/layers/norms.py: the module says nothing about itself",
        "minivid/layers/norms.py:2: norm has no docstring",
    ]


def talkative_inits(files: Files) -> list[str]:
    found = []
    for path, text in package(files).items():
        if path.endswith("__init__.py"):
            body, words = parsed(text).body, ast.get_docstring(parsed(text)) or ""
            if len(body) != 1 or not words or "\n" in words:
                found.append(f"{path}: holds one sentence and nothing else")
    return found


def test_an_init_holds_one_sentence():
    assert talkative_inits(project()) == []
    offence = {
        "minivid/video/__init__.py": '"""A file becomes patches."""\nfrom minivid.video.clip import load_clip\n',
        "minivid/layers/__init__.py": "",
        "minivid/models/__init__.py": '"""Whole systems."""\n',
    }
    assert talkative_inits(offence) == [
        "minivid/video/__init__.py: holds one sentence and nothing else",
        "minivid/layers/__init__.py: holds one sentence and nothing else",
    ]


# Calls whose only use is their truth.
QUESTIONS = {"equal", "allclose", "isclose", "array_equal", "isfinite", "isnan", "isinstance", "issubclass", "hasattr"}
QUESTIONS |= {"all", "any", "startswith", "endswith", "is_file", "exists", "issubset"}


def lost_comparisons(files: Files) -> list[str]:
    """Statements in a test that ask something and drop the answer: an assert was forgotten."""
    found = []
    for path, text in suite(files).items():
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.Expr) and asks(node.value):
                found.append(f"{path}:{node.lineno}: {ast.unparse(node)[:60]} is not asserted")
            if isinstance(node, ast.Assert) and isinstance(node.test, ast.Tuple | ast.Constant):
                found.append(f"{path}:{node.lineno}: {ast.unparse(node)[:60]} cannot fail")
    return found


def asks(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        function = value.func
        return getattr(function, "attr", getattr(function, "id", "")) in QUESTIONS
    return isinstance(value, ast.Compare | ast.BoolOp) or (
        isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not)
    )


def test_no_comparison_in_a_test_is_lost():
    assert lost_comparisons(project()) == []
    offence = {
        "tests/test_a.py": "def f():\n    x == 1\n    assert x\n    torch.equal(x, y)\n    not x\n    assert (x, y)\n",
        "minivid/a.py": "x == 1\n",
    }
    assert lost_comparisons(offence) == [
        "tests/test_a.py:2: x == 1 is not asserted",
        "tests/test_a.py:4: torch.equal(x, y) is not asserted",
        "tests/test_a.py:5: not x is not asserted",
        "tests/test_a.py:6: assert (x, y) cannot fail",
    ]


def places_outside(files: Files) -> list[str]:
    """Strings that name a place outside the project, on the machine of whoever wrote them."""
    found = []
    for path, text in files.items():
        for node in ast.walk(parsed(text)) if path.endswith(".py") else ():
            words = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if place := re.match(r"(/(work|home|root|Users|mnt|data)/\S+|~/\S+|[A-Z]:\\\S+)", words):
                found.append(f"{path}:{node.lineno}: {place[0]} is a place on one machine")
    return found


def test_no_file_names_a_place_on_one_machine():
    assert places_outside(project()) == []
    offence = {"tests/test_a.py": "open('/ho" + "me/ada/clip.mp4')\nopen('tests/data/clip.mp4')\n"}
    assert places_outside(offence) == ["tests/test_a.py:1: /ho" + "me/ada/clip.mp4 is a place on one machine"]
