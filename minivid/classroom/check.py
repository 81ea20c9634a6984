"""`minivid check NAME FILE` and `check(answer)`: the library's own laws, put to a student's answer.

On the command line the answer runs in a process of its own (child.py) and the verdict is made in this one; in a
notebook both run here. Nothing in this file imports torch at the top: the answer's process starts first, and both load
torch side by side.
"""

import contextlib
import io
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from minivid.classroom.catalogue import Subject, find
from minivid.classroom.child import KEPT, Child, Stopped
from minivid.classroom.prose import terminal_width, tidy


def run(name: str, file: str | Path, *, hint: int = 1, seconds: float = 10.0, as_json: bool = False) -> int:
    """Check the answers in a file and print what came of it.

    Args:
        name: a public name, as in "attend", or a module's, as in "attention": all its names that the file defines.
        file: the Python file with the answers.
        hint: which hint of a known mistake is shown, 1 to 3, each more direct than the one before.
        seconds: an endless loop is stopped when this time is over.
        as_json: put every law of every name, and print one JSON object instead (`report`).

    Returns:
        0 if all laws hold, 1 if a law broke, 2 if there is no such name or file.
    """
    path = Path(file)
    try:
        subject, names = find(name)
    except LookupError as error:
        return refuse(error.args[0])
    if hint not in (1, 2, 3):
        return refuse(f"--hint {hint}: there are hints 1, 2 and 3")
    if not path.is_file():
        return refuse(f"{path}: no such file; give the Python file that defines {' or '.join(names)}")
    if path.suffix == ".ipynb":
        return refuse(
            f"{path}: a notebook; call check(answer) of minivid.classroom.check inside it, or give a .py file"
        )
    with Child(seconds) as child:
        from minivid.classroom.wire import Unsendable  # loads torch

        try:
            if as_json:
                found = report(subject, names, path, child)
                print(json.dumps(found))
                return 0 if found["held"] == found["laws"] else 1
            return put(subject, names, path, child, hint)
        except Unsendable as error:
            return refuse(
                f"{error}, which runs in a process of its own; call check({names[0]}) of minivid.classroom.check "
                "in a notebook, or at the end of your file"
            )


def refuse(message: str) -> int:
    """Say what is wrong with the command; its exit status."""
    print(tidy(f"minivid check: {message}", terminal_width()), file=sys.stderr)
    return 2


def put(subject: Subject, names: tuple[str, ...], path: Path, child: Child, hint: int) -> int:
    """Put the laws of the names to the file's answers, one name after the other until one is not yet right."""
    from minivid.classroom.feedback import feedback, stumble, summary
    from minivid.classroom.judge import judge, load_bench
    from minivid.classroom.remote import Remote

    bench = load_bench(subject)  # before the answer runs a line
    remote = Remote(child)
    try:
        child.ready()
        defined = remote.load(str(path.resolve()))
    except (Exception, Stopped) as error:
        print(tidy(stumble(path.name, error, child.printed()), terminal_width()))
        return 1
    found = [name for name in names if name in defined]
    if not found:
        has = f"it defines {', '.join(sorted(defined)[:8])}" if defined else "it defines no function and no class"
        return refuse(f"{path} does not define {' or '.join(names)}; {has}")
    answers = {name: remote.function(name) for name in found}
    for i, name in enumerate(found):
        with at_most(3 * child.seconds):
            verdict = judge(name, answers, bench, child.printed)
        if not verdict.good or len(found) == 1:
            again = f"minivid check {name} {path} --hint {{}}"
            print(tidy(feedback(verdict, bench, hint=hint, again=again), terminal_width()))
        else:
            print(summary(verdict))
        if not verdict.good:
            if rest := found[i + 1 :]:
                print(f"\nNot looked at yet: {', '.join(rest)}")
            return 1
    return 0


def report(subject: Subject, names: tuple[str, ...], path: Path, child: Child) -> dict:
    """What came of putting every law of the names to the file's answers, as plain values.

    Returns:
        `file`; `laws`, how many there are; `held`, how many of them hold; `broken`, the first that does not, and `why`;
        `mistake`, how the known mistake that the answer behaves like is put right, or None; `names`, the same for each
        name. Of a name that the file does not define, and of a file that cannot be loaded, no law holds.
    """
    from minivid.classroom.feedback import reason, stumble
    from minivid.classroom.judge import Verdict, judge, load_bench
    from minivid.classroom.remote import Remote

    bench = load_bench(subject)  # before the answer runs a line
    remote, trouble, answers, rows = Remote(child), None, {}, {}
    try:
        child.ready()
        defined = remote.load(str(path.resolve()))
        answers = {name: remote.function(name) for name in names if name in defined}
    except (Exception, Stopped) as error:
        trouble = " ".join(stumble(path.name, error, "").split())
    for name in names:
        why, mistake, verdict = trouble or f"{path.name} does not define {name}", None, Verdict(name, (), "")
        if name in answers:
            with at_most(3 * child.seconds):
                verdict = judge(name, answers, bench, child.printed, every=True)
            why = None if verdict.good else " ".join(reason(verdict, bench)[0].split())
            mistake = verdict.mistake.hints[-1] if verdict.mistake else None
        laws = len({law.sentence for law in bench.laws[name]})
        rows[name] = {
            "laws": laws,
            "held": len(verdict.held),
            "broken": verdict.broken or None,
            "why": why,
            "mistake": mistake,
        }
    first = next((row for row in rows.values() if row["why"]), {"broken": None, "why": None, "mistake": None})
    sums = {key: sum(row[key] for row in rows.values()) for key in ("laws", "held")}
    return {
        "file": path.name,
        **sums,
        "broken": first["broken"],
        "why": first["why"],
        "mistake": first["mistake"],
        "names": rows,
    }


def check(answer: Callable, about: str = "", *, hint: int = 1, seconds: float = 10.0) -> None:
    """Check an answer written in a notebook and print what came of it.

    Args:
        answer: a function or class.
        about: the public name it is an answer to, or the module where the answer's own name is found. Without it, the
            answer's own name counts.
        hint: which hint of a known mistake is shown, 1 to 3, each more direct than the one before.
        seconds: an endless loop is stopped after this time (where the notebook's main thread runs this).

    Raises:
        LookupError: if there are no laws for that name.
    """
    from minivid.classroom.feedback import feedback
    from minivid.classroom.judge import judge, load_bench
    from minivid.classroom.sandbox import located

    own = getattr(answer, "__name__", type(answer).__name__)
    subject, names = find(about or own)
    if own in names:
        name = own
    elif about in names or len(names) == 1:  # a module may have the name of its main function: conv3d
        name = about if about in names else names[0]
    else:
        raise LookupError(
            f"{own} is none of the names with laws in {about}: {', '.join(names)}; say which one it answers"
        )
    bench, prints = load_bench(subject), Tail()
    with contextlib.redirect_stdout(prints), at_most(seconds):
        verdict = judge(name, {name: located(answer)}, bench, lambda: prints.text)
    again = f"check({own}{f', {about!r}' if about else ''}, hint={{}})"
    print(tidy(feedback(verdict, bench, hint=hint, again=again)))


class Tail(io.TextIOBase):
    """A text stream that keeps its end."""

    def __init__(self):
        self.text = ""

    def write(self, text: str) -> int:
        """Take some text, keep the end of all there was."""
        self.text = (self.text + text)[-KEPT:]
        return len(text)


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise Stopped in the main thread when the time is over, and again until it is heard.

    Where the system has no alarm clock, or in another thread, there is no limit.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_):
        raise Stopped(f"stopped after {seconds:.0f} s: does a loop end?")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
