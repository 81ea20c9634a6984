"""A process for an answer: whatever it does, it ends, in time, and it gives no verdict."""

import contextlib
import os
import re
import textwrap
import threading
import time

import pytest
import torch

from minivid.classroom import child as module
from minivid.classroom.child import Child, Stopped
from minivid.classroom.remote import Remote


def written(folder, code: str) -> str:
    """A file with an answer."""
    file = folder / "answer.py"
    file.write_text(textwrap.dedent(code))
    return str(file)


@contextlib.contextmanager
def serving(folder, code: str):
    """A process that has loaded an answer."""
    with Child(100.0) as child:
        child.ready()
        remote = Remote(child)
        remote.load(written(folder, code))
        yield child, remote


def ask(tmp_path, code: str, seconds: float = 100.0):
    """Load an answer in a process of its own and call its f; what became of both."""
    with Child(seconds) as child:
        child.ready()
        remote, start = Remote(child), time.monotonic()
        with pytest.raises(Stopped) as caught:
            remote.load(written(tmp_path, code))
            remote.function("f")(torch.zeros(2))
        with pytest.raises(Stopped):  # nothing more is asked of it
            remote.function("f")(torch.zeros(2))
    assert child.process.poll() is not None and not os.path.exists(child.folder.name)
    return str(caught.value), time.monotonic() - start


ENDINGS = {
    "exit at import": ("import os\nos._exit(0)", r"ended the Python process \(exit status 0\)"),
    "exit": ("import os\ndef f(x): os._exit(3)", r"ended the Python process \(exit status 3\)"),
    "segfault": ("import ctypes\ndef f(x): ctypes.string_at(0)", "crashed the Python process .SIGSEGV"),
    "closed pipe": ("import os\ndef f(x): os.closerange(0, 99)", "ended the Python process|closed the connection"),
    "rubbish on the pipe": (
        """
        import os, contextlib
        def f(x):
            for n in range(3, 9):
                with contextlib.suppress(OSError):
                    os.write(n, bytes([255]) * 99)
        """,
        "sent a message that claims",
    ),
    "a forged reply": (
        """
        import os, contextlib, struct
        def f(x):
            for n in range(3, 9):
                with contextlib.suppress(OSError):
                    os.write(n, struct.pack("!II", 2, 0) + b"[]")
        """,
        "message of its own making",
    ),
    "an exception without words": (
        """
        class E(Exception):
            def __str__(self): raise self
        def f(x): raise E
        """,
        "ended the Python process",
    ),
}


@pytest.mark.parametrize("code, words", ENDINGS.values(), ids=list(ENDINGS))
def test_an_answer_that_ends_its_process_ends_the_check(tmp_path, code, words):
    said, took = ask(tmp_path, code)
    assert re.search(words, said)
    assert took < 4


LOOPS = {
    "at import": "while True: pass",
    "deaf to exceptions": "def f(x):\n    while True:\n        try: pass\n        except BaseException: pass",
    "asleep": "import time\ndef f(x): time.sleep(1000)",
    "standing still": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSTOP)",
}


@pytest.mark.parametrize("code", LOOPS.values(), ids=list(LOOPS))
def test_an_answer_that_never_ends_is_stopped(tmp_path, monkeypatch, code):
    monkeypatch.setattr(module, "LONGEST_CALL", 1.0)
    said, took = ask(tmp_path, code)
    assert said == "stopped after 1 s in one call: does a loop end?"
    assert took < 3


def test_many_slow_calls_are_stopped_together(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ALL_SLOW_CALLS", 0.5)
    code = """
    import time
    def f(x):
        time.sleep(0.25)
        return x
    """
    with serving(tmp_path, code) as (child, remote):
        with pytest.raises(Stopped, match="too slow: slow calls took"):
            for _ in range(9):
                remote.function("f")(torch.zeros(2))
        assert child.slow < 2


def test_megabytes_of_prints_are_taken_and_only_their_end_is_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # a shell that sets it would hide prints out of order
    code = """
    import sys
    def f(x):
        for i in range(20_000): print("x" * 300)
        print("end", file=sys.stderr)
        return x
    """
    with serving(tmp_path, code) as (child, remote):
        assert remote.function("f")(torch.ones(1)).tolist() == [1]
        deadline = time.monotonic() + 5
        while "end" not in child.printed() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "end" in child.printed() and len(child.printed()) <= module.KEPT


def test_a_forked_copy_and_waiting_threads_do_no_harm(tmp_path):
    code = """
    import os, threading, time
    def f(x):
        os.fork()
        threading.Thread(target=time.sleep, args=(99,)).start()
        return x
    """
    with serving(tmp_path, code) as (child, remote):
        for i in range(5):
            assert remote.function("f")(torch.full((2,), i)).tolist() == [i, i]
    assert child.process.poll() is not None


def test_the_answer_works_in_an_empty_folder_and_writes_no_large_file(tmp_path):
    code = """
    import os
    def f():
        return os.listdir(), os.getcwd()
    def g():
        with open("large", "wb") as file: file.write(bytes(2**25))
    """
    with serving(tmp_path, code) as (child, remote):
        listing, folder = remote.function("f")()
        assert listing == [] and os.path.samefile(folder, child.folder.name)
        with pytest.raises(OSError, match="File too large"):
            remote.function("g")()
    assert not os.path.exists(folder) and [path.name for path in tmp_path.iterdir()] == ["answer.py"]


def test_no_thread_and_no_open_file_is_left():
    before = threading.active_count(), open_files()
    with Child(100.0) as child:
        child.ready()
    assert (threading.active_count(), open_files()) == before


def open_files() -> int:
    """How many files this process holds open, where the system tells."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
