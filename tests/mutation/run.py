"""Change a module in every small way mutmut knows, and see whether its own tests notice: run by hand, not in CI.

    python tests/mutation/run.py layers.kv_cache video.patches      # python tests/mutation/run.py --help

A change that no test notices is a survivor: a test is missing, or the change is none (it is equivalent) and stands in
equivalent.toml with the reason. The run fails for any other survivor, for an entry that is no survivor any more, for a
time-out, and below 95 % killed.

mutmut (its version is pinned below and in the extra `mutation`) gives the changes. Its own runner switches them on by
wrappers and therefore leaves out decorated functions, what runs at import and all that stands outside of functions;
here each mutant is a whole module, imported afresh in a process forked from one that has torch loaded. Everything
happens in a copy of the project. Only tests that call the changed function are run (all of them where its signature
is changed), those that killed its other mutants first. Laws run derandomised, with fewer examples, no database, no
deadline and no shrinking.
"""

import argparse
import ast
import contextlib
import gc
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import copytree, ignore_patterns

MUTMUT = "3.8.1"
ROOT = Path(__file__).resolve().parents[2]
MODULES = ("layers.*", "training.cross_entropy", "training.optimizer", "video.patches")
LEFT_OUT = "not compile and not slow and not benchmark and not parity"
KILLED_AT_LEAST = 0.95
SAVE_EVERY = 20  # seconds: a run that is stopped has lost no more
# A fork copies no threads, so there must be none; and sets must be walked in the same order in every run.
# Plugins of pytest that happen to be installed have no say.
FIXED = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
FIXED |= {"PYTHONHASHSEED": "0", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
FIXED |= {"PYTHONDONTWRITEBYTECODE": ""}  # the tests are compiled once, and not once a mutant


# ---- in the child: one run of the tests of one module, with one source


def _run_tests(case: "Case", source: str, tests: list[str] | None, trace: bool, told) -> int:
    """Import `source` as the module, run its tests until one fails, and write down what happened."""
    import importlib.machinery

    import pytest
    from hypothesis import HealthCheck, Phase, Verbosity, settings

    class Loader(importlib.machinery.SourceFileLoader):
        def get_code(self, fullname):
            return compile(source, self.path, "exec", dont_inherit=True)

    class Finder:
        @staticmethod
        def find_spec(fullname, path=None, target=None):
            if fullname == case.name:
                return importlib.util.spec_from_file_location(fullname, case.path, loader=Loader(fullname, case.path))

    class Watch:
        report = {"killer": None, "seconds": {}, "calls": {}}
        now = ""

        def pytest_configure(self, config):
            settings.register_profile(
                "mutation",
                max_examples=case.examples,
                deadline=None,
                derandomize=True,
                database=None,
                print_blob=False,
                phases=[Phase.explicit, Phase.generate],
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
                verbosity=Verbosity.quiet,
            )
            settings.load_profile("mutation")

        def pytest_collection_modifyitems(self, items):
            if tests is not None:
                place = {name: i for i, name in enumerate(tests)}
                items[:] = sorted((item for item in items if item.nodeid in place), key=lambda item: place[item.nodeid])

        def pytest_runtest_setup(self, item):
            import random

            import numpy
            import torch

            # What a test draws without a seed of its own must not depend on the tests before it.
            random.seed(0), numpy.random.seed(0), torch.manual_seed(0)  # noqa: NPY002

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_call(self, item):
            self.now = item.nodeid
            try:
                return (yield)
            finally:
                self.now = ""  # what is called outside of a test may matter to each

        def pytest_runtest_logreport(self, report):
            seconds = self.report["seconds"]
            seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration
            if report.failed:
                self.report["killer"] = report.nodeid

        def pytest_collectreport(self, report):
            if report.failed:
                self.report["killer"] = "import"

        def called(self, frame, event, argument):
            if frame.f_code.co_filename == case.path:
                self.report["calls"].setdefault(self.now, []).append(frame.f_code.co_firstlineno)

    sys.meta_path.insert(0, Finder)
    watch = Watch()
    if trace:
        sys.settrace(watch.called)
    case.pytest.option.tbstyle = "short" if trace else "no"
    case.pytest.pluginmanager.register(watch)
    status = case.pytest.hook.pytest_cmdline_main(config=case.pytest)
    sys.settrace(None)
    if trace:
        watch.report["calls"] = {test: sorted(set(lines)) for test, lines in watch.report["calls"].items()}
        here = os.getcwd()
        files = ((name, getattr(module, "__file__", None) or "") for name, module in sys.modules.items())
        watch.report["modules"] = [name for name, file in files if not file.startswith(here)]
    json.dump(watch.report, told)
    told.flush()
    return int(status)


class Child:
    """A forked process that runs the tests against one source."""

    def __init__(self, case: "Case", source: str, tests: list[str] | None, *, limit: float, trace: bool = False):
        self.output, self.told = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.start, self.limit = time.monotonic(), limit
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                os.dup2(self.output.fileno(), 1), os.dup2(self.output.fileno(), 2)
                resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 3))
                status = _run_tests(case, source, tests, trace, self.told)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                os._exit(status)

    def check(self) -> bool:
        """Whether it has ended. It may take its limit in seconds of work, and ten times that by the clock."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if not pid:
            if time.monotonic() - self.start > 10 * self.limit + 60:
                os.kill(self.pid, signal.SIGXCPU)
            return False
        self.seconds = usage.ru_utime + usage.ru_stime
        self.told.seek(0)
        text = self.told.read()
        self.report = json.loads(text) if text else {}
        self.status = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return True

    def wait(self) -> "Child":
        while not self.check():
            time.sleep(0.005)
        return self

    def verdict(self) -> str:
        if self.status == 0:
            return "survived"
        if self.status in (1, 2):
            return "killed"
        if self.status in (-signal.SIGXCPU, -signal.SIGKILL):
            return "timed out"
        return "killed" if self.status in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGFPE) else "not judged"

    def printed(self) -> str:
        self.output.seek(0)
        return self.output.read()


# ---- one module: its mutants, its tests, its verdicts


class Case:
    """One module, its tests, and which test calls which function.

    Raises:
        SystemExit: if the tests fail on the module as it stands.
    """

    def __init__(self, short: str, copy: Path, examples: int, known: dict, earlier: dict):
        from _pytest.config import _prepareconfig
        from mutants import functions_of, mutants_of

        folder, _, stem = short.rpartition(".")
        self.short, self.name, self.examples = short, f"minivid.{short}", examples
        self.path = str(copy / "minivid" / folder / f"{stem}.py")
        self.tests = f"tests/{folder}/test_{stem}.py"
        self.source = Path(self.path).read_text(encoding="utf-8")
        self.spans = functions_of(self.source)
        functions = [node for node in ast.walk(ast.parse(self.source)) if isinstance(node, ast.FunctionDef)]
        self.signatures = {line for node in functions for line in range(node.lineno, node.body[0].lineno)}
        self.mutants = mutants_of(self.source)
        # pytest.main in two halves: the first, its plugins and conftest.py, is the same for every mutant. Nothing is
        # captured by file descriptor, which a child would give back to its parent's output.
        options = ["-x", "-q", "--capture=sys", "-p", "no:cacheprovider", "-o", "addopts=", "-m", LEFT_OUT]
        self.pytest = _prepareconfig([*options, self.tests])
        self.known = known if known.get("of") == self._fingerprint() else {"of": self._fingerprint(), "verdicts": {}}
        self.verdicts = self.known["verdicts"]
        if "seconds" not in self.known:
            # Only the order of the tests and the limits follow from what the watched run took.
            measured = earlier if earlier.get("of") == self.known["of"] and "seconds" in earlier else self._watch()
            self.known |= {name: measured[name] for name in ("modules", "calls", "seconds", "overhead")}
        self._load(self.known["modules"])
        self.seconds, calls = self.known["seconds"], self.known["calls"]
        self.first = {int(i): killer for i, (_, killer, _) in earlier.get("verdicts", {}).items()}
        # What is called outside of a test, at import or by a fixture, may matter to every test.
        self.callers = {name: list(self.seconds) for name in self._functions(calls.get("", []))}
        for name in self.spans.keys() - self.callers.keys():
            self.callers[name] = [test for test in self.seconds if name in self._functions(calls.get(test, []))]
        self.kills = {name: Counter() for name in [*self.spans, ""]}
        for i, (_, killer, _) in self.verdicts.items():
            self.kills[self.mutants[int(i)].function][killer] += 1

    def _load(self, modules: list[str]) -> None:
        """Import what the tests import of libraries: once, here, and not once a mutant."""
        for name in modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        gc.collect(), gc.freeze()

    def _watch(self) -> dict:
        child = Child(self, self.source, None, limit=600, trace=True).wait()
        if child.status:
            sys.exit(
                f"{child.printed()}\n{self.short}: its tests fail before anything is changed (exit {child.status})"
            )
        return child.report | {"overhead": max(child.seconds - sum(child.report["seconds"].values()), 0.0)}

    def _functions(self, lines: list[int]) -> set[str]:
        return {name for name, (first, last) in self.spans.items() if any(first <= line <= last for line in lines)}

    def begin(self, i: int) -> Child:
        """Run the tests that call the changed function: those that killed before first, then the fast ones."""
        mutant, first = self.mutants[i], self.first.get(i)
        kills = self.kills[mutant.function]
        callers = self.callers.get(mutant.function) or list(self.seconds)
        # A signature is read at import, and may be looked at without a call.
        tests = self.seconds if mutant.line in self.signatures else callers
        apart = self.seconds.keys() - set(callers)
        tests = sorted(tests, key=lambda test: (test != first, test in apart, -kills[test], self.seconds[test]))
        return Child(
            self, mutant.source, tests, limit=5 + 10 * (self.known["overhead"] + sum(map(self.seconds.get, tests)))
        )

    def _fingerprint(self) -> str:
        """What a verdict depends on, but for the modules that this one imports."""
        files = [self.path, self.tests, "tests/conftest.py", "tests/strategies.py"]
        files.append(Path(__file__).with_name("mutants.py"))
        digest = hashlib.sha256(f"{MUTMUT} {self.examples}".encode())
        for file in files:
            digest.update(Path(file).read_bytes())
        return digest.hexdigest()[:16]

    def judge(self, until: float, jobs: int, only: str | None, save: Callable[[], None]) -> None:
        """Judge the mutants that have no verdict yet, until the clock says `until`; save them now and then."""
        saved = time.monotonic()
        waiting = [i for i, m in enumerate(self.mutants) if str(i) not in self.verdicts and only in (None, m.function)]
        waiting.reverse()
        running: dict[int, Child] = {}
        while running or (waiting and time.monotonic() < until):
            while waiting and len(running) < jobs and time.monotonic() < until:
                i = waiting.pop()
                running[i] = self.begin(i)
            for i, child in list(running.items()):
                if child.check():
                    killer = child.report.get("killer")
                    if killer is not None:
                        self.kills[self.mutants[i].function][killer] += 1
                    self.verdicts[str(i)] = [child.verdict(), killer, round(child.seconds, 3)]
                    if child.verdict() == "not judged":
                        print(child.printed()[-3000:], f"\n{self.short}: exit {child.status}", file=sys.stderr)
                    child.output.close(), child.told.close()
                    del running[i]
            if time.monotonic() > saved + SAVE_EVERY:
                save()
                saved = time.monotonic()
            time.sleep(0.002)


# ---- all modules: the list of equivalent mutants, and the table


def listed() -> dict[str, dict[tuple[str, str, str, int], str]]:
    """The mutants of equivalent.toml by module, each with the reason why nothing can tell it from the module."""
    with open(Path(__file__).with_name("equivalent.toml"), "rb") as file:
        entries = tomllib.load(file)
    found = {}
    for module, group in entries.items():
        found[module] = {}
        for entry in group:
            becomes = entry["becomes"]
            for text in becomes if isinstance(becomes, list) else [becomes]:
                for nth in entry.get("nth", [1]):
                    found[module][entry["function"], entry["was"], text, nth] = entry["because"]
    return found


def write(file: Path, known: dict) -> None:
    """Keep what is known of a module, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".new").write_text(json.dumps(known))
    file.with_suffix(".new").replace(file)


def report(case: Case, reasons: dict, whole: bool) -> tuple[list, list[str]]:
    """The line of the table, and what is wrong."""
    from mutants import statements_of

    count, wrong, alive, seconds, imports = Counter(), [], set(), 0.0, 0
    keys = {}
    for i, mutant in enumerate(case.mutants):
        key = (mutant.function, mutant.was, mutant.becomes, mutant.nth)
        keys[key] = i
        if str(i) not in case.verdicts:
            continue
        verdict, killer, took = case.verdicts[str(i)]
        seconds += took
        imports += killer == "import"
        if verdict == "survived" and key in reasons:
            verdict = "equivalent"
        count[verdict] += 1
        if verdict == "equivalent":
            alive.add(key)
        elif verdict != "killed":
            times = f" (number {mutant.nth})" if mutant.nth > 1 else ""
            was, becomes = (text.replace("\n", "\n    ") for text in (mutant.was, mutant.becomes))
            wrong.append(
                f"{verdict}: {case.short} {mutant.function}, line {mutant.line}{times}\n  - {was}\n  + {becomes}"
            )
    for key in reasons:
        if key not in keys and whole:
            wrong.append(f"stale: {case.short}: no such mutant any more: {key}")
        elif key in keys and str(keys[key]) in case.verdicts and key not in alive:
            wrong.append(f"stale: {case.short}: not a survivor any more: {key}")
    total = sum(count.values())
    raw = count["killed"] / total if total else 1.0
    if whole and raw < KILLED_AT_LEAST:
        wrong.append(f"{case.short}: {raw:.1%} killed, expected at least {KILLED_AT_LEAST:.0%}")
    statements = statements_of(case.source)
    starts = sorted(statements)
    changed = {max((s for s in starts if s <= m.line), default=0) for m in case.mutants} & statements
    rest = total - count["equivalent"]
    row = [
        case.short,
        total,
        count["killed"],
        imports,
        count["survived"] + count["not judged"],
        count["equivalent"],
        count["timed out"],
        f"{raw:.1%}",
        f"{count['killed'] / rest:.1%}" if rest else "-",
        f"{len(changed) / len(statements):.0%}",
        f"{seconds / total:.2f}" if total else "-",
    ]
    return row, wrong


HEAD = ["module", "mutants", "killed", "at import", "survived", "equivalent", "timed out"]
HEAD += ["killed raw", "of the others", "statements", "s/mutant"]


def table(rows: list[list]) -> str:
    """The rows under the names of their columns."""
    lines = [HEAD, *[[str(cell) for cell in row] for row in rows]]
    width = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, width, strict=True))
        )
        for line in lines
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=MODULES, help="such as layers.attention; none = all of them")
    parser.add_argument("--only", metavar="FUNCTION", help="mutants of one function, such as KVCache.append")
    parser.add_argument("--examples", type=int, default=30, help="examples of each law (default 30)")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time (default 1)")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long; exit status 75 = not finished")
    parser.add_argument(
        "--after", type=Path, metavar="FOLDER", help="earlier verdicts: each mutant meets its killer first"
    )
    parser.add_argument("--verdicts", type=Path, metavar="FOLDER", help="keep verdicts here and go on where they end")
    arguments = parser.parse_args()
    try:
        version = importlib.metadata.version("mutmut")
    except importlib.metadata.PackageNotFoundError:
        version = "none"
    if version != MUTMUT:
        sys.exit(f"mutmut {version} is installed, expected {MUTMUT}: pip install 'minivid[mutation]'")
    if any(os.environ.get(name) != value for name, value in FIXED.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | FIXED)

    names = [
        path.relative_to(ROOT / "minivid").with_suffix("").as_posix().replace("/", ".")
        for pattern in arguments.modules
        for path in sorted((ROOT / "minivid").glob(pattern.replace(".", "/") + ".py"))
        if path.stem != "__init__"
    ]
    if not names:
        sys.exit(f"no module of this name: {' '.join(arguments.modules)}; expected such as layers.attention")
    reasons, rows, wrong, finished, left = listed(), [], [], True, 60 * arguments.minutes
    with tempfile.TemporaryDirectory(prefix="minivid-mutation-") as folder:
        copy = Path(folder).resolve()
        for part in ("minivid", "tests"):
            copytree(ROOT / part, copy / part, ignore=ignore_patterns("__pycache__", ".*", "mutation", "benchmarks"))
        (copy / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
        os.chdir(copy)
        sys.path[:0] = [str(copy), str(copy / "tests")]
        import pytest  # noqa: F401
        import torch

        torch.set_num_threads(1)
        torch.ones(3, 3) @ torch.ones(3, 3)  # the first call of an operator takes long
        for name in names:
            file = (ROOT / arguments.verdicts / f"{name}.json").resolve() if arguments.verdicts else None
            known = json.loads(file.read_text()) if file and file.exists() else {}
            before = (ROOT / arguments.after / f"{name}.json").resolve() if arguments.after else None
            earlier = json.loads(before.read_text()) if before and before.exists() else {}
            case = Case(name, copy, arguments.examples, known, earlier)
            start = time.monotonic()
            save = partial(write, file, case.known) if file else lambda: None
            try:
                case.judge(start + left, arguments.jobs, arguments.only, save)
            finally:
                left -= time.monotonic() - start
                save()
            done = len(case.verdicts) == len(case.mutants)
            finished = finished and (done or arguments.only is not None)
            row, found = report(case, reasons.get(name, {}), done)
            rows.append(row)
            wrong += found
    print("\n".join([*wrong, "", table(rows)]))
    if not finished:
        print("not finished: run it again with the same --verdicts")
        return 75
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
