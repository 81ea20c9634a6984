"""The process in which an answer runs, seen from outside: start it, ask it, stop it whatever it does."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from minivid.classroom.pipe import Garbled, receive, send

# The longest that one call may take, in seconds: the laws ask about tensors of a few dozen numbers.
LONGEST_CALL = 4.0
# A call that takes longer is slow, and the longest that all slow calls may take together.
SLOW_CALL, ALL_SLOW_CALLS = 0.2, 5.0
# How many bytes of what the answer prints are kept: the last ones.
KEPT = 4000


class Stopped(BaseException):
    """The answer gave no result: it ran too long, ended its process or broke the connection.

    Not an Exception, so that a law, or the search for a smaller input, does not take it for one more wrong result.
    """


class Child:
    """A process of its own for one answer, with nothing but a pipe between it and the verdict.

    Args:
        seconds: after this time, counted from now, a call that is still running is stopped. A call that begins later
            still gets one second, so that a right answer passes on a busy machine; after three times as long all ends.
    """

    def __init__(self, seconds: float = 10.0):
        self.start, self.seconds, self.slow = time.monotonic(), seconds, 0.0
        self.ended: Stopped | None = None
        self.tail = bytearray()
        self.folder = tempfile.TemporaryDirectory(prefix="minivid-check-", ignore_cleanup_errors=True)
        package = Path(__file__).resolve().parents[2]
        environment = dict(
            os.environ,
            PYTHONPATH=os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH", "")])),
            PYTHONIOENCODING="utf-8",
            OMP_NUM_THREADS="1",
            CUDA_VISIBLE_DEVICES="",
        )
        # -P: a file of the student's called random.py must not stand in for Python's. -u: what is printed to standard
        # output and to standard error comes in that order, and nothing of it is lost in a crash.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-u", "-m", "minivid.classroom.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=self.folder.name,
            env=environment,
            start_new_session=True,
        )
        self.requests: queue.Queue = queue.Queue()
        self.replies: queue.Queue = queue.Queue(maxsize=1)
        # Threads, because a write to a process that does not read, and a read from one that does not write, never end.
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.exchange, self.listen)]
        for thread in self.threads:
            thread.start()

    def exchange(self) -> None:
        """Carry requests and replies until the process or the agreed form of a message ends."""
        sink, source = self.process.stdin.fileno(), self.process.stdout.fileno()
        while (request := self.requests.get()) is not None:
            try:
                if request != "hello":
                    send(sink, *request)
                self.replies.put(receive(source))
            except (OSError, Garbled) as error:
                self.replies.put(error)
        self.process.stdin.close()
        self.process.stdout.close()

    def listen(self) -> None:
        """Take whatever the answer prints, keep the end of it."""
        descriptor = self.process.stderr.fileno()
        with contextlib.suppress(OSError):
            while piece := os.read(descriptor, 1 << 16):
                self.tail = (self.tail + piece)[-KEPT:]
        self.process.stderr.close()

    def ready(self) -> None:
        """Wait until the process has loaded what it needs and says so.

        Raises:
            Stopped: if it does not.
        """
        self.requests.put("hello")
        self.reply(3 * self.seconds)

    def ask(self, head: dict, body: bytes = b"") -> tuple[dict, bytearray]:
        """One request and its reply.

        Raises:
            Stopped: if there is none in time, or none that can be read. Every later request raises the same.
        """
        if self.ended:
            raise self.ended
        now = time.monotonic()
        gone = now - self.start
        if self.slow > ALL_SLOW_CALLS:
            raise self.stop(Stopped(f"too slow: slow calls took {self.slow:.0f} s, for tensors of a few numbers"))
        if gone > 3 * self.seconds:
            raise self.stop(Stopped(f"no verdict after {gone:.0f} s"))
        self.requests.put((head, body))
        reply = self.reply(max(1.0, min(LONGEST_CALL, self.seconds - gone)))
        took = time.monotonic() - now
        self.slow += took if took > SLOW_CALL else 0.0
        return reply

    def reply(self, patience: float) -> tuple[dict, bytearray]:
        """The next reply, waited for as many seconds as `patience` says."""
        try:
            reply = self.replies.get(timeout=patience)
        except queue.Empty:
            raise self.stop(Stopped(f"stopped after {patience:.0f} s in one call: does a loop end?")) from None
        if isinstance(reply, Garbled):
            raise self.stop(Stopped(f"the answer sent {reply}"))
        if isinstance(reply, OSError) or reply is None:
            raise self.stop(Stopped(self.obituary()))
        if not isinstance(reply[0], dict):
            raise self.stop(Stopped("the answer sent a message of its own making"))
        return reply

    def obituary(self) -> str:
        """How the process ended, in words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        code = self.process.returncode
        if code is None:
            return "the answer closed the connection to the checker"
        if code >= 0:
            return f"the answer ended the Python process (exit status {code})"
        name = signal.Signals(-code).name if -code in iter(signal.Signals) else f"signal {-code}"
        causes = {
            "SIGKILL": "out of memory?",
            "SIGXCPU": "too much processor time",
            "SIGSEGV": "memory that is not its own was touched",
        }
        cause = f": {causes[name]}" if name in causes else ""
        return f"the answer crashed the Python process ({name}{cause})"

    def stop(self, reason: Stopped | None = None) -> Stopped:
        """End the process and all that it started; say why to whoever asks next."""
        self.ended = self.ended or reason or Stopped("the answer was stopped")
        self.requests.put(None)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        for thread in self.threads:
            thread.join(0.2)
        self.folder.cleanup()
        return self.ended

    def printed(self) -> str:
        """The end of what the answer printed."""
        time.sleep(0.02)  # what it printed before its last reply is on its way through the other pipe
        return bytes(self.tail).decode("utf-8", "replace")

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_) -> None:
        self.stop()
