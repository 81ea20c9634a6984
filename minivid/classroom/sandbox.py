"""The program of the process in which an answer runs: load a file, call what it defines, send back what came out.

`python -m minivid.classroom.sandbox` reads requests from its standard input and writes replies to its standard output.
It decides nothing: whatever an answer does to this process, the verdict is made in another one.
"""

import contextlib
import gc
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import einops  # noqa: F401  (most answers import it: loaded while the other process loads too)
import torch
from torch import Tensor

from minivid.classroom import wire
from minivid.classroom.pipe import Garbled, receive, send

# What an answer may take beyond what is loaded when it starts: laws use tensors of a few kilobytes.
MEMORY = 1 << 30
PROCESSOR_SECONDS = 30
FILE_SIZE = 16 << 20


class AnswerError(Exception):
    """An exception of a kind that only the answer knows, or that would end more than the answer."""


class SignatureError(TypeError):
    """The arguments do not fit the parameters of the function that was called."""


def main() -> None:
    """Serve requests until the pipe is closed."""
    source, sink = os.dup(0), os.dup(1)
    # From here on the answer reads an empty input, and what it prints goes where standard error goes.
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    limit()
    own, desk = os.getpid(), Desk()
    send(sink, {"ready": True})
    while (request := receive(source)) is not None:
        reply = desk.answer(*request)
        if os.getpid() != own:
            os._exit(0)  # a copy that the answer made by os.fork came back here: only the first one replies
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        try:
            send(sink, *reply)
        except Garbled as error:
            send(sink, {"raised": {"types": ["AnswerError"], "message": f"the result is too large: {error}"}})


def limit() -> None:
    """Bound memory, processor time and the size of files, where the system can."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    bounds = {
        resource.RLIMIT_CPU: int(used.ru_utime + used.ru_stime) + PROCESSOR_SECONDS,
        resource.RLIMIT_FSIZE: FILE_SIZE,
        resource.RLIMIT_CORE: 0,
    }
    with contextlib.suppress(OSError):  # only Linux tells the size in use, and only there the bound is kept
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        bounds[resource.RLIMIT_AS] = pages * resource.getpagesize() + MEMORY
    for kind, bound in bounds.items():
        with contextlib.suppress(ValueError, OSError):
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(
                kind, (bound, bound) if hard in (-1, resource.RLIM_INFINITY) else (min(bound, hard), hard)
            )


@dataclass(frozen=True)
class Place:
    """A line of the answer's file."""

    line: int | None
    text: str


class Desk:
    """The answer's file once it is loaded, and what is kept for later: objects, results that wait for a gradient."""

    def __init__(self):
        self.file, self.module, self.kept, self.next = "", None, {}, 0

    def keep(self, thing: object) -> int:
        """Hold a thing for later requests; the number under which they name it."""
        self.next += 1
        self.kept[self.next] = thing
        return self.next

    def answer(self, request: dict, body: bytearray) -> tuple[dict, bytes]:
        """The reply to a request: a value, or what was raised."""
        for number in request.get("forget", ()):
            self.kept.pop(number, None)
        try:
            return getattr(self, "do_" + request["do"])(request, body)
        except BaseException as error:  # sys.exit and the like: reported, whatever it is
            return {"raised": raised(error, self.file)}, b""

    def do_load(self, request: dict, body: bytearray) -> tuple[dict, bytes]:
        """Run the file; what it defines."""
        self.file = request["file"]
        sys.path.append(str(Path(self.file).parent))
        loader = importlib.machinery.SourceFileLoader("answer", self.file)
        self.module = importlib.util.module_from_spec(importlib.util.spec_from_loader("answer", loader))
        sys.modules["answer"] = self.module
        loader.exec_module(self.module)
        return {"names": [name for name, value in vars(self.module).items() if callable(value)]}, b""

    def do_get(self, request: dict, body: bytearray) -> tuple[dict, bytes]:
        """An attribute of a kept object, or that it is one to be called."""
        value = getattr(self.kept[request["object"]], request["name"])
        if callable(value):
            return {"callable": True}, b""
        tree, body = wire.pack(value, self.keep)
        return {"gave": tree}, body

    def do_call(self, request: dict, body: bytearray) -> tuple[dict, bytes]:
        """Call what the file defines, or a kept object, or a method of one."""
        inputs: list[Tensor] = []

        def take(tensor: Tensor, grad: bool) -> Tensor:
            inputs.append(tensor.requires_grad_(grad))
            return tensor

        arguments, keywords = wire.unpack(
            request["with"], body, tensor=take, handle=lambda number, _: self.kept[number]
        )
        target = self.kept[request["object"]] if "object" in request else getattr(self.module, request["name"])
        if "method" in request:
            target = getattr(target, request["method"])
        versions = [tensor._version for tensor in inputs]
        result = call(target, arguments, keywords)
        changed = {i: tensor for i, tensor in enumerate(inputs) if tensor._version != versions[i]}
        outputs: list[Tensor] = []
        if any(tensor.requires_grad for tensor in inputs):
            outputs = [tensor for tensor in tensors(result) if tensor.requires_grad]
        tree, body = wire.pack((result, tuple(changed), tuple(changed.values())), self.keep)
        return {"gave": tree, "graph": self.keep((inputs, outputs)) if outputs else None}, body

    def do_backward(self, request: dict, body: bytearray) -> tuple[dict, bytes]:
        """The gradients of a kept result with respect to the tensors that its call was given."""
        inputs, outputs = self.kept[request["graph"]]
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        directions = wire.unpack(request["with"], body)
        # The sum of the products, because torch takes half a second to load what it compares shapes of directions with.
        total = sum((output * direction).sum() for output, direction in zip(outputs, directions, strict=True))
        found = iter(torch.autograd.grad(total, wanted, retain_graph=True, allow_unused=True))
        tree, body = wire.pack(tuple(next(found) if tensor.requires_grad else None for tensor in inputs))
        return {"gave": tree}, body


def tensors(value: object) -> list[Tensor]:
    """Every tensor in a value, in the order in which the wire packs them."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return []
    return [tensor for item in value for tensor in tensors(item)]


def call(function: Callable, arguments: tuple, keywords: dict) -> object:
    """Call a function.

    Raises:
        SignatureError: if the arguments do not fit its parameters.
    """
    try:
        inspect.signature(function).bind(*arguments, **keywords)
    except TypeError as error:
        raise SignatureError(str(error)) from None
    except ValueError:
        pass  # a builtin has no signature to look at
    return function(*arguments, **keywords)


def located(function: Callable) -> Callable:
    """The function, with the line of its own file at which it failed as `.place` of each exception, in this process."""
    # Python knows no file of a class that is written in a notebook, but one of each of its methods.
    methods = (
        [part for part in vars(function).values() if inspect.isfunction(part)] if inspect.isclass(function) else []
    )
    file = inspect.getsourcefile(methods[0] if methods else function) or ""

    def run(*arguments, **keywords):
        try:
            return call(function, arguments, keywords)
        except (Exception, SystemExit) as error:
            found = raised(error, file)
            failure = AnswerError("sys.exit() was called") if isinstance(error, SystemExit) else error
            failure.place = Place(found["line"], found["text"])
            raise failure from None

    return run


def raised(error: BaseException, file: str) -> dict:
    """What a reader needs to know of an exception: its type, its words, and the line of their file where it arose."""
    message = str(error)
    if isinstance(error, MemoryError):
        gc.collect()
    if isinstance(error, SyntaxError) and error.filename == file:
        line, text, message = error.lineno, error.text or "", error.msg
    else:
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        line, text = (own[-1].lineno, own[-1].line or "") if own else (None, "")
    types = [kind.__name__ for kind in type(error).__mro__ if kind is not object]
    return {"types": types, "message": message[:500], "line": line, "text": text.strip()[:200]}


if __name__ == "__main__":
    main()
