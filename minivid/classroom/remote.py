"""Functions and objects that live in the answer's process, to be used as if they were here, gradients included."""

import builtins
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minivid.classroom import wire
from minivid.classroom.child import Child, Stopped
from minivid.classroom.pipe import Garbled
from minivid.classroom.sandbox import AnswerError, Place, SignatureError, tensors
from minivid.shapes import ShapeError


class Remote:
    """The answer's process as a place to call things in.

    Raises:
        Stopped: from every call that gets no result.
    """

    def __init__(self, child: Child):
        self.child, self.unused = child, []

    def load(self, file: str) -> list[str]:
        """Run the answer's file; the names of the functions and classes it defines."""
        head, _ = self.ask({"do": "load", "file": file})
        names = head.get("names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self.child.stop(Stopped("the answer sent a message of its own making"))
        return names

    def function(self, name: str) -> Callable:
        """A function or class of the answer's."""
        return lambda *arguments, **keywords: self.call({"name": name}, arguments, keywords)

    def call(self, target: dict, arguments: tuple, keywords: dict) -> object:
        """Call the target there; its result here, with the gradient's way back if an argument asks for one."""
        given = tensors((arguments, keywords))
        request = Request(self, target, (arguments, keywords))
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
            results = Bridge.apply(request, *given)
        else:
            results = request.send()
        if request.changed:
            with torch.no_grad():
                for index, tensor in request.changed.items():
                    if tensor.shape == given[index].shape and tensor.dtype == given[index].dtype:
                        given[index].copy_(tensor)
        return request.result(results)

    def ask(self, head: dict, body: bytes = b"") -> tuple[dict, bytearray]:
        """One request; raise here what was raised there."""
        forget = list(self.unused)
        del self.unused[: len(forget)]
        head, body = self.child.ask({**head, "forget": forget}, body)
        if isinstance(head.get("raised"), dict):
            raise revived(head["raised"])
        return head, body

    def read(self, tree: object, body: bytearray, tensor: Callable | None = None) -> object:
        """A value out of a reply."""
        try:
            return wire.unpack(tree, body, tensor=tensor, handle=self.handle)
        except Garbled as error:
            raise self.child.stop(Stopped(f"the answer sent {error}")) from None

    def handle(self, number: int, kind: str) -> "Handle":
        """A stand-in for an object that stays there, of a type of the same name."""
        handle = type(kind if kind.isidentifier() else "object", (Handle,), {})(self, number)
        weakref.finalize(handle, self.unused.append, number).atexit = False
        return handle


class Handle:
    """An object in the answer's process: calling it and its methods, and reading its attributes, happens there."""

    def __init__(self, remote: Remote, number: int):
        self._remote, self._number = remote, number

    def __call__(self, *arguments, **keywords):
        return self._remote.call({"object": self._number}, arguments, keywords)

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        head, body = self._remote.ask({"do": "get", "object": self._number, "name": name})
        if "callable" in head:
            target = {"object": self._number, "method": name}
            return lambda *arguments, **keywords: self._remote.call(target, arguments, keywords)
        return self._remote.read(head.get("gave"), body)


class Request:
    """One call on its way: what it was given, and how its result is put together from the tensors that come back."""

    def __init__(self, remote: Remote, target: dict, given: tuple):
        self.remote, self.target, self.given = remote, target, given
        self.graph, self.tree, self.changed, self.grads = None, None, {}, []

    def send(self) -> tuple[Tensor, ...]:
        """Call there; the tensors of the result, in order."""
        tree, body = wire.pack(self.given)
        head, body = self.remote.ask({"do": "call", "with": tree, **self.target}, body)
        found: list[Tensor] = []

        def take(tensor: Tensor, grad: bool) -> "Slot":
            found.append(tensor)
            self.grads.append(grad)
            return Slot(len(found) - 1)

        value = self.remote.read(head.get("gave"), body, take)
        self.graph = head.get("graph")
        match value:
            case (result, tuple(places), tuple(slots)) if (
                len(places) == len(slots) and are(Slot, slots) and are(int, places)
            ):
                count = len(found) - len(slots)
                known = range(len(tensors(self.given)))
                self.changed = {i: found[s.index] for i, s in zip(places, slots, strict=True) if i in known}
                self.tree, self.grads = result, self.grads[:count]
                return tuple(found[:count])
        raise self.remote.child.stop(Stopped("the answer sent a message of its own making"))

    def result(self, results: tuple[Tensor, ...]) -> object:
        """The result, with the tensors in their places."""

        def fill(node: object) -> object:
            if isinstance(node, Slot):
                return results[node.index]
            if isinstance(node, dict):
                return {key: fill(item) for key, item in node.items()}
            if isinstance(node, list):
                return [fill(item) for item in node]
            if isinstance(node, tuple):
                items = [fill(item) for item in node]
                return type(node)(*items) if hasattr(node, "_fields") else tuple(items)
            return node

        return fill(self.tree)


@dataclass(frozen=True)
class Slot:
    """The place of one tensor in a result."""

    index: int


def are(kind: type, items: tuple) -> bool:
    """Whether all items are of one type."""
    return all(type(item) is kind for item in items)


class Bridge(torch.autograd.Function):
    """A call in the answer's process as a step of this process's autograd."""

    @staticmethod
    def forward(ctx, request: Request, *given: Tensor):
        results = request.send()
        ctx.request = request
        if isinstance(request.graph, int):
            weakref.finalize(request, request.remote.unused.append, request.graph).atexit = False
        plain = [t for t, grad in zip(results, request.grads, strict=True) if not (grad and request.graph)]
        ctx.mark_non_differentiable(*plain)
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx, *directions: Tensor):
        request = ctx.request
        wanted = tuple(d for d, grad in zip(directions, request.grads, strict=True) if grad)
        tree, body = wire.pack(wanted)
        head, body = request.remote.ask({"do": "backward", "graph": request.graph, "with": tree}, body)
        found = request.remote.read(head.get("gave"), body)
        given = tensors(request.given)
        if not isinstance(found, tuple) or len(found) != len(given):
            raise request.remote.child.stop(Stopped("the answer sent a message of its own making"))
        return None, *found


# Exceptions that a law may ask for by type. Others, above all those by which a test is steered, mean nothing here.
KNOWN = {"ShapeError": ShapeError, "SignatureError": SignatureError} | {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, (UnicodeError, ExceptionGroup))
}


def revived(raised: dict) -> BaseException:
    """The exception that a reply speaks of, of the nearest known type; `.place` is the line of the answer's file."""
    types = [str(name) for name in raised.get("types", ())] if isinstance(raised.get("types"), list) else []
    message, line = str(raised.get("message", ""))[:500], raised.get("line")
    kind = next((KNOWN[name] for name in types if name in KNOWN and name != "Exception"), None)
    first = types[0] if types else "an exception"
    if "SystemExit" in types:
        kind, message = AnswerError, "sys.exit() was called"
    elif kind is None:
        kind, message = AnswerError, f"{first}: {message}" if first != "AnswerError" else message
    elif kind is MemoryError or "can't allocate memory" in message:
        kind, message = MemoryError, "more than 1 GB of memory was asked for"
    error = kind(message)
    error.place = Place(line if type(line) is int else None, str(raised.get("text", ""))[:200])
    return error
