"""Chapters are the source: NN_name.md becomes two notebooks, one executed and one to be worked through.

    python chapters/build.py            rebuild what is out of step
    python chapters/build.py --all      rebuild everything
    python chapters/build.py --check    change nothing; exit 1 if a chapter breaks a rule of chapters/lint.py
                                        or a notebook is out of step with its chapter

`notebooks/NN_name.ipynb` holds the outputs. `notebooks/exercises/NN_name.ipynb` holds none, and a stub in place of
each block between `### BEGIN SOLUTION` and `### END SOLUTION`. Both are generated: edit the chapter. A rebuild gives
the same bytes: cell numbers follow from the text, no times are recorded, pictures do not name the program that drew
them, and an output that would differ elsewhere (an address in memory, an absolute path, a warning) is refused.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jupytext
import nbformat
from lint import lint
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
FIGURES = "{'bbox_inches': 'tight', 'metadata': {'Software': None}}"
SOLUTION = re.compile(r"^([ \t]*)### BEGIN SOLUTION[ \t]*\n.*?### END SOLUTION[ \t]*\n?", re.S | re.M)
MARKER = re.compile(r"^[ \t]*### (?:BEGIN|END) SOLUTION[ \t]*\n?", re.M)
# One thread and one seed, so that sums are taken in one order and unseeded cells draw one sequence.
SURROUNDINGS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "TQDM_DISABLE": "1",
    "COLUMNS": "118",
}
# Python's own random is not seeded here, since the kernel draws from it too: lint.py asks chapters to seed it.
SEED = "import numpy, torch; numpy.random.seed(0); _ = torch.manual_seed(0)"
# The longest that one cell may run, in seconds; a whole chapter runs in under two minutes on two cores.
LONGEST_CELL = 120


def chapters(root: Path) -> list[Path]:
    """The chapters, in order."""
    return sorted((root / "chapters").glob("[0-9][0-9]_*.md"))


def targets(chapter: Path) -> tuple[Path, Path]:
    """Where the executed notebook and the student's edition of a chapter stand."""
    folder, name = chapter.parents[1] / "notebooks", f"{chapter.stem}.ipynb"
    return folder / name, folder / "exercises" / name


def read(chapter: Path, *, student: bool) -> NotebookNode:
    """The chapter as a notebook without outputs.

    Args:
        chapter: the Markdown file.
        student: whether stubs stand in place of solutions.
    """
    text = chapter.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="md")
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = (SOLUTION.sub(stub, cell.source) if student else MARKER.sub("", cell.source)).rstrip()
        else:
            cell.source = relinked(cell.source, student=student)
        # A number that follows from the text, so that a rebuild keeps it; the same text twice gets a running number.
        key = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        seen[key] = seen.get(key, 0) + 1
        cell.id = key if seen[key] == 1 else f"{key}-{seen[key]}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": KERNEL,
            "language_info": {"name": "python"},
            "minivid": {"chapter": f"chapters/{chapter.name}", "sha256": digest},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def stub(solution: re.Match) -> str:
    """What a student finds in place of a solution: inside a function a line that raises, outside one a comment."""
    indent = solution[1]
    return f'{indent}raise NotImplementedError("your code here")\n' if indent else "# your code here\n"


def relinked(text: str, *, student: bool) -> str:
    """Markdown with its relative links made good for the notebook: to other notebooks, and one folder deeper."""
    text = re.sub(r"\]\(([0-9]{2}_\w+)\.md(#[^)]*)?\)", r"](\1.ipynb\2)", text)
    return text.replace("](../", "](../../") if student else text


def run(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Execute the cells, in the folder, with the Python that runs this file; the notebook with its outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
        ValueError: if an output would not be the same on a rebuild, or elsewhere.
    """
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    class ThisPython(KernelSpecManager):
        """Knows one kernel, that of this Python, whatever kernels are registered on the machine."""

        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=command, display_name=KERNEL["display_name"], language="python")

    manager = AsyncKernelManager(kernel_spec_manager=ThisPython())
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=LONGEST_CELL,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=[
            "--IPKernelApp.log_level=ERROR",
            f"--InlineBackend.print_figure_kwargs={FIGURES}",
            f"--IPKernelApp.exec_lines={SEED}",
        ],
    )
    with tempfile.TemporaryDirectory(prefix="kernel-") as room:
        # A port that is free when the manager looks may be taken when the kernel binds it: sockets are files where the
        # system has them, unless the name would be longer than the 104 bytes that every such system admits.
        if os.name == "posix" and len(os.fsencode(room)) < 90:
            manager.transport, manager.ip = "ipc", str(Path(room) / "socket")
        with client.setup_kernel(env={**os.environ, **SURROUNDINGS}, cleanup_kc=True):
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index)
    number = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            number += 1
            cell.execution_count = number
            if "no-output" in cell.metadata.get("tags", ()):
                cell.outputs = []
            first = cell.source.splitlines()[0]
            for output in cell.outputs:
                if "check" in cell.metadata.get("tags", ()) and ": not yet" in output.get("text", ""):
                    raise ValueError(f"code cell {number} ({first}): the solution is not accepted: {output.text}")
                if "execution_count" in output:
                    output["execution_count"] = number
                if why := unsteady(output):
                    raise ValueError(f"code cell {number} ({first}): its output {why}")
    return notebook


def unsteady(output: NotebookNode) -> str:
    """Why an output would not be the same on a rebuild or on another machine; empty if it would."""
    if output.get("name") == "stderr":
        return f"has a warning or a progress bar: {output.text.strip()[:200]!r}"
    data = output.get("data", {})
    text = json.dumps([output.get("text", ""), *(data[kind] for kind in data if not kind.startswith("image/"))])
    if found := re.search(r" at 0x[0-9a-f]{6,}", text):
        return f"holds an address in memory ({found[0].strip()}); end the line with a semicolon"
    for place in (str(ROOT), str(Path.home()) + os.sep, sys.prefix, "/tmp/", "/var/folders/"):
        if place in text:
            return f"holds a path of this machine ({place}); print the file's name"
    return ""


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook in one step: a reader finds the old file or the new one."""
    nbformat.validate(notebook)
    text = nbformat.writes(notebook, indent=1, ensure_ascii=False).rstrip() + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def out_of_step(chapter: Path) -> list[str]:
    """What keeps the chapter's notebooks from being those that it makes, outputs aside."""
    problems = []
    for path, student in zip(targets(chapter), (False, True), strict=True):
        name = f"{path.parent.name}/{path.name}"
        if not path.exists():
            problems.append(f"{name} is missing")
            continue
        have, want = nbformat.read(path, as_version=4), read(chapter, student=student)
        if have.metadata != want.metadata or list(map(content, have.cells)) != list(map(content, want.cells)):
            problems.append(f"{name} does not match chapters/{chapter.name}")
            continue
        code = [cell for cell in have.cells if cell.cell_type == "code"]
        if student and any(cell.outputs or cell.execution_count for cell in code):
            problems.append(f"{name} holds outputs")
        if not student and [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
            problems.append(f"{name} was not executed from top to bottom")
    return problems


def content(cell: NotebookNode) -> tuple:
    """What a chapter says of a cell."""
    return cell.id, cell.cell_type, cell.source, cell.metadata


def orphans(root: Path) -> list[str]:
    """Notebooks that no chapter makes."""
    made = {path for chapter in chapters(root) for path in targets(chapter)}
    found = sorted((root / "notebooks").rglob("*.ipynb"))
    loose = [path for path in found if path not in made and ".ipynb_checkpoints" not in path.parts]
    return [f"{path.relative_to(root)} has no chapter" for path in loose]


def check(root: Path) -> list[str]:
    """Every broken rule and every notebook out of step."""
    problems = [problem for chapter in chapters(root) for problem in (*lint(chapter), *out_of_step(chapter))]
    return problems + orphans(root)


def build(chapter: Path) -> str:
    """Make both notebooks of a chapter; what was done, in one line."""
    start = time.perf_counter()
    executed, exercises = targets(chapter)
    executed.parent.mkdir(parents=True, exist_ok=True)
    notebook = run(read(chapter, student=False), executed.parent)
    write(read(chapter, student=True), exercises)
    write(notebook, executed)
    return f"{chapter.name}: {time.perf_counter() - start:.1f} s"


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="rebuild everything")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something is wrong")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count(), help="chapters built at a time")
    options = parser.parse_args(arguments)
    if options.check:
        problems = check(root)
        print("\n".join(problems) or f"{len(chapters(root))} chapters: notebooks in step, no rule broken")
        return 1 if problems else 0
    todo = [chapter for chapter in chapters(root) if options.all or out_of_step(chapter)]
    broken = [problem for chapter in todo for problem in lint(chapter)]
    for problem in broken:
        print(problem, file=sys.stderr)
    if len(todo) < 2:
        for chapter in todo:
            print(build(chapter))
    else:
        with ProcessPoolExecutor(options.jobs) as pool:
            for line in pool.map(build, todo):
                print(line, flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
