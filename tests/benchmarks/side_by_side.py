"""Measure functions beside each other: each in a process of its own, in turns, one call at a time."""

import ctypes
import gc
import importlib.util
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median

MIB = 2**20
# A call is repeated, at most so often, if other processes took more than this share of the processor meanwhile.
QUIET, TRIES = 0.10, int(os.environ.get("MINIVID_BENCHMARK_TRIES", "5"))


@dataclass(frozen=True)
class Run:
    """One call: seconds on the clock, seconds of processor time of all threads, rise of the peak memory in MiB.

    `others` is the share of the machine's processor time that other processes took meanwhile.
    """

    wall: float
    cpu: float
    memory: float
    others: float


@dataclass(frozen=True)
class Runs:
    """Calls of one function, and what `describe` said of its result."""

    runs: tuple[Run, ...]
    result: object

    def median(self, figure: str) -> float:
        return median(getattr(run, figure) for run in self.runs)

    def spread(self, figure: str) -> tuple[float, float]:
        values = [getattr(run, figure) for run in self.runs]
        return min(values), max(values)


def side_by_side(candidates: Mapping[str, tuple[Callable, tuple]], *, rounds: int = 5) -> dict[str, Runs]:
    """Call each candidate once a round, in turns, after one call that is not counted.

    Args:
        candidates: name to a function of a module (it is imported in the other process) and its arguments. What the
            function returns is dropped; what its attribute `describe` makes of it, if there is one, comes back. If it
            has an attribute `again` that is true, its time is measured as `measure` says.
        rounds: how many counted calls of each.

    Returns:
        The runs by name.
    """
    context = multiprocessing.get_context("spawn")
    children: dict[str, tuple[Connection, multiprocessing.Process]] = {}
    try:
        for name, (function, arguments) in candidates.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, function, arguments), daemon=True)
            process.start()
            children[name] = ours, process
            theirs.close()
        results = {name: _receive(connection, name) for name, (connection, _) in children.items()}
        runs: dict[str, list[Run]] = {name: [] for name in candidates}
        for turn in range(rounds):
            # The one that goes first changes from round to round.
            order = list(children)[turn % len(children) :] + list(children)[: turn % len(children)]
            for name in order:
                runs[name].append(_quietest(children[name][0], name))
    finally:
        for connection, process in children.values():
            connection.close()
            process.join(5)
            if process.is_alive():
                process.kill()
    return {name: Runs(tuple(runs[name]), results[name]) for name in candidates}


def _quietest(connection: Connection, name: str) -> Run:
    tried = []
    while len(tried) < TRIES and not (tried and tried[-1].others <= QUIET):
        connection.send("run")
        tried.append(_receive(connection, name))
    return min(tried, key=lambda run: run.others)


def table(measured: Mapping[str, Runs], peer: str) -> str:
    """Lay runs out as a Markdown table: medians, spread in brackets, and ratios of the medians to one of them."""
    lines = [
        "| | wall s | CPU s | memory rise MiB | wall, CPU, memory / peer | others' CPU |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in measured.items():
        cells = []
        for figure, digits in (("wall", 3), ("cpu", 3), ("memory", 0)):
            low, high = runs.spread(figure)
            cells.append(f"{runs.median(figure):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})")
        ratios = ", ".join(f"{ratio(measured, name, peer, figure):.2f}" for figure in ("wall", "cpu", "memory"))
        lines.append(f"| {name} | {' | '.join(cells)} | {ratios} | {runs.median('others'):.0%} |")
    return "\n".join(lines)


def ratio(measured: Mapping[str, Runs], name: str, peer: str, figure: str) -> float:
    """The median of one over the median of another; below 1 the first is faster or smaller."""
    return measured[name].median(figure) / measured[peer].median(figure)


def measure(call: Callable[[], object], *, again: bool = False) -> tuple[Run, object]:
    """Call once and say what it cost in this process (Linux).

    Memory that the process had kept for itself goes back to the system before, so that the rise is the call's. To have
    it back costs time, a page at a time, which what is called over and over does not pay.

    Args:
        call: what is measured.
        again: take the time of a second call, which finds the memory of the first.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew from what is in use now
    before, busy = _status("VmRSS"), _busy()
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    memory = (_status("VmHWM") - before) / MIB
    if again:
        busy = _busy()
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    others = max(_busy() - busy - cpu, 0) / (wall * (os.cpu_count() or 1))
    return Run(wall, cpu, memory, others), result


_kept: list[object] = []


def let_torchvision_load() -> None:
    """Declare torchvision's compiled operators where its wheel is for CUDA and torch is not; transformers imports it.

    No operator is used by what is measured here: Python code over torch is.
    """
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        import torch

        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        _kept.append(library)  # what it defines goes when it goes
        pooling = ["roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d"]
        for name in ["nms", "qnms", "qroi_align", *pooling, *(f"_{name}_backward" for name in pooling)]:
            library.define(f"{name}(Tensor x) -> Tensor")


def _status(field: str) -> int:
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(field + ":"))


def _busy() -> float:
    """Seconds that all processors together have worked since the machine started."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, interrupts, soft, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def _serve(connection: Connection, function: Callable, arguments: tuple) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        describe, again = getattr(function, "describe", lambda result: None), getattr(function, "again", False)
        connection.send(describe(function(*arguments)))
        while connection.recv() == "run":
            run, result = measure(lambda: function(*arguments), again=again)
            del result
            connection.send(run)
    except (EOFError, BrokenPipeError):  # the one who asks has gone
        return
    except BaseException as error:
        connection.send(RuntimeError(f"{type(error).__name__}: {error}"))


def _receive(connection: Connection, name: str) -> object:
    try:
        answer = connection.recv()
    except EOFError:
        raise RuntimeError(f"{name}: its process ended") from None
    if isinstance(answer, Exception):
        raise RuntimeError(f"{name}: {answer}")
    return answer
