"""Put the laws of one public name to an implementation, and say which hold, which breaks, and on what input."""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import hypothesis
import pytest
from hypothesis.configuration import set_hypothesis_home_dir

from minivid.classroom.catalogue import TESTS, Subject
from minivid.classroom.child import Stopped
from minivid.classroom.museum import Mistake, recognise
from minivid.classroom.wire import Unsendable

# How many inputs one law is tried on, and all laws of a name together: enough for the known mistakes, in seconds.
EXAMPLES, ALL_EXAMPLES, FEWEST_EXAMPLES = 40, 120, 16
# Once a law is broken, on how many more inputs a smaller one is looked for. A number and not a time, so that a notebook
# shows the same input whenever it is run.
SHRINKING = 400
# No explain phase: it runs a law hundreds of times more for a line that a newcomer does not need.
PHASES = (hypothesis.Phase.explicit, hypothesis.Phase.generate, hypothesis.Phase.shrink)


@dataclass(frozen=True)
class Law:
    """A property test, with the sentence a reader sees and the arguments it was parametrised with."""

    sentence: str
    test: Callable
    given: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Bench:
    """What an answer is judged by: the library's own module, the laws of each public name, and the known mistakes."""

    library: ModuleType | SimpleNamespace
    laws: Mapping[str, list[Law]]
    museum: ModuleType | None


@dataclass(frozen=True)
class Verdict:
    """What came of putting the laws of a name to an answer.

    Attributes:
        name: the public name.
        held: the sentences of the laws that held.
        broken: the sentence of the law that broke, or None.
        error: what showed it; for the smallest input that was found.
        call: the last call before that: the name and the arguments.
        mistake: the known mistake that behaves like the answer, or None.
        printed: the end of what the answer had printed when the law broke.
    """

    name: str
    held: tuple[str, ...]
    broken: str | None = None
    error: BaseException | None = None
    call: tuple[str, tuple, dict] | None = None
    mistake: Mistake | None = None
    printed: str = ""

    @property
    def good(self) -> bool:
        """Whether every law held."""
        return self.broken is None


class Implementation:
    """What laws are put to: the answer's functions, the library's where the answer has none, and the last call made.

    Args:
        answers: the answer's functions and classes by public name.
        library: the module whose names they stand for.
    """

    def __init__(self, answers: Mapping[str, Callable], library: ModuleType | SimpleNamespace):
        self._answers, self._library, self.last_call = answers, library, None

    def __getattr__(self, name: str):
        if name not in self._answers:
            return getattr(self._library, name)

        def call(*arguments, **keywords):
            self.last_call = name, arguments, keywords
            return self._answers[name](*arguments, **keywords)

        return call


def load(path: Path, name: str) -> ModuleType:
    """Run a file of the tests as a module of the given name."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(TESTS))  # for `import strategies`
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(TESTS))
    return module


def load_bench(subject: Subject) -> Bench:
    """Load all that a verdict on a subject needs, before the answer has run a line."""
    # Hypothesis would keep its cache in the working directory, which is the student's.
    set_hypothesis_home_dir(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minivid")
    hypothesis.settings.register_profile(
        "minivid-check",
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=PHASES,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    before = hypothesis.settings.get_current_profile_name()
    hypothesis.settings.load_profile("minivid-check")  # read by @given when the file is loaded
    try:
        module = load(subject.laws, f"minivid_laws_{subject.module}")
    finally:
        hypothesis.settings.load_profile(before)
    laws: dict[str, list[Law]] = {name: [] for name in subject.names}
    for name, test in vars(module).items():
        if name.startswith("test_") and callable(test):
            for mark in getattr(test, "pytestmark", ()):
                if mark.name == "law" and mark.args[0] in laws:
                    laws[mark.args[0]].extend(expanded(test))
    museum = None
    if subject.mistakes.is_file():
        museum = load(subject.mistakes, f"minivid_mistakes_{subject.module}")
    return Bench(importlib.import_module(subject.place), laws, museum)


def expanded(test: Callable) -> Iterator[Law]:
    """One law for each way in which a test is parametrised."""
    sentence = (inspect.getdoc(test) or test.__name__.removeprefix("test_").replace("_", " ")).splitlines()[0]
    choices = []
    for mark in test.pytestmark:
        if mark.name == "parametrize":
            names = mark.args[0]
            names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
            rows = [
                getattr(row, "values", row) if len(names) > 1 or hasattr(row, "values") else (row,)
                for row in mark.args[1]
            ]
            choices.append([dict(zip(names, row, strict=True)) for row in rows])
    for chosen in itertools.product(*choices):
        yield Law(sentence, test, {name: value for row in chosen for name, value in row.items()})


def judge(
    name: str,
    answers: Mapping[str, Callable],
    bench: Bench,
    printed: Callable[[], str] = str,
    *,
    every: bool = False,
) -> Verdict:
    """Put the laws of a name to an answer until one breaks.

    Args:
        name: the public name.
        answers: the answer's functions and classes by public name.
        bench: what they are judged by.
        printed: gives the end of what the answer has printed so far.
        every: go on behind the first law that breaks, so that all those that hold are counted.

    Raises:
        Unsendable: if the answer is in another process, and a law is about something that cannot be sent there.
    """
    held: dict[str, bool] = {}  # a sentence may stand for several laws, and holds if all of them do
    first: Verdict | None = None
    examples = max(FEWEST_EXAMPLES, ALL_EXAMPLES // len(bench.laws[name]))
    for law in bench.laws[name]:
        implementation = Implementation(answers, bench.library)
        error = broken_by(law, implementation, examples, shrinking=0 if first else SHRINKING)
        if isinstance(error, Unsendable):
            raise error
        held[law.sentence] = error is None and held.get(law.sentence, True)
        if error is not None and first is None:
            mistake, words = None, printed()
            if bench.museum and not isinstance(error, Stopped | NotImplementedError):
                with contextlib.suppress(Stopped):
                    mistake = recognise(name, answers[name], bench.museum.MISTAKES, bench.museum.probes)
            first = Verdict(name, (), law.sentence, error, implementation.last_call, mistake, words)
            if not every:
                break
    return replace(first or Verdict(name, ()), held=tuple(sentence for sentence, good in held.items() if good))


class Enough(BaseException):
    """The law has held for enough inputs, or a smaller input that breaks it was looked for long enough."""


def broken_by(
    law: Law, implementation: Implementation, examples: int = EXAMPLES, shrinking: int = SHRINKING
) -> BaseException | None:
    """What shows that the implementation breaks the law, for the smallest input found; None if the law holds."""
    smallest: BaseException | None = None
    last_call, held, after, enough = None, 0, 0, False

    def watched(test: Callable) -> Callable:
        @functools.wraps(test)
        def run(*arguments, **keywords):
            nonlocal smallest, last_call, held, after, enough
            if held >= examples if smallest is None else after >= shrinking:
                enough = True
                raise Enough
            after += smallest is not None
            try:
                test(*arguments, **keywords)
                held += 1
            except (Exception, SystemExit, pytest.fail.Exception) as error:
                # Hypothesis steers a test by exceptions of its own: they are no evidence.
                if not isinstance(error, hypothesis.errors.HypothesisException):
                    smallest, last_call = error, implementation.last_call
                raise

        return run

    test = law.test
    inside = getattr(test, "hypothesis", None)
    original = inside.inner_test if inside else test
    try:
        if inside:
            inside.inner_test = watched(original)
            test(impl=implementation, **law.given)
        else:
            watched(test)(impl=implementation, **law.given)
    except (Exception, SystemExit, Enough, Stopped, pytest.fail.Exception) as error:
        if smallest is not None:
            smallest.unsteady = isinstance(error, hypothesis.errors.Flaky)
            implementation.last_call = last_call
            return smallest
        # Hypothesis may call a run flaky that was broken off: it drew less than the one before it.
        return None if enough else error
    finally:
        if inside:
            inside.inner_test = original
    return None
