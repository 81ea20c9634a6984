"""Tensors, numbers and their tuples as JSON and raw bytes: what arrives is checked and copied, never executed."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minivid.classroom.pipe import Garbled
from minivid.shapes import Grid

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
    )
}
NAMED = {"Grid": Grid}
# Every tensor starts at a multiple of the widest element, so that the receiver may read it where it lies.
ALIGNMENT = 16


class Unsendable(TypeError):
    """A value that is neither a tensor nor made of plain ones, such as a model."""


def pack(value: object, keep: Callable[[object], int] | None = None) -> tuple[object, bytes]:
    """A value as a JSON tree and the bytes of its tensors.

    Args:
        value: None, a number, a string, a dtype, a tensor, or a tuple, list or dict of such.
        keep: called for anything else, gives the number under which the receiver can speak of it.

    Raises:
        Unsendable: for anything else, if there is no `keep`.
    """
    body = bytearray()

    def tree(value: object) -> object:
        if value is None or isinstance(value, (bool, str)) or type(value) is float:
            return value
        if type(value) is int and abs(value) < 2**63:
            return value
        if isinstance(value, torch.dtype) and value in DTYPES.values():
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, Tensor):
            # A subclass may have changed what its methods do; the plain tensor below it is what is sent.
            with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
                if value.layout == torch.strided and value.dtype in DTYPES.values():
                    return {"tensor": tensor(value)}
        if isinstance(value, tuple):
            name = type(value).__name__ if type(value) in NAMED.values() else ""
            return {"tuple": [tree(item) for item in value], "named": name}
        if isinstance(value, list):
            return {"list": [tree(item) for item in value]}
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {"dict": [[key, tree(item)] for key, item in value.items()]}
        if keep is None:
            raise Unsendable(f"a {type(value).__name__} cannot be sent to an answer")
        return {"object": keep(value), "type": type(value).__name__}

    def tensor(value: Tensor) -> dict:
        plain = value.detach().as_subclass(Tensor).cpu().resolve_conj().resolve_neg().contiguous()
        raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        body.extend(bytes(-len(body) % ALIGNMENT))
        at = len(body)
        body.extend(raw)
        dtype = str(plain.dtype).removeprefix("torch.")
        return {"dtype": dtype, "shape": list(plain.shape), "at": at, "grad": value.requires_grad}

    return tree(value), bytes(body)


def unpack(
    tree: object,
    body: bytearray,
    *,
    tensor: Callable[[Tensor, bool], object] | None = None,
    handle: Callable[[int, str], object] | None = None,
) -> object:
    """The value that `pack` described.

    Args:
        tree: the JSON tree.
        body: the bytes of the tensors.
        tensor: called with each new tensor and whether the sender's took part in a gradient; gives what stands for it.
        handle: called with the number and the type's name of each object that stayed with the sender.

    Raises:
        Garbled: if the tree and the bytes do not describe a value.
    """

    def value(node: object) -> object:
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        match node:
            case {"dtype": str(name)}:
                return DTYPES[name]
            case {"tensor": dict(entry)}:
                found = array(entry["dtype"], entry["shape"], entry["at"])
                return tensor(found, entry["grad"] is True) if tensor else found
            case {"tuple": list(items), "named": str(name)}:
                items = tuple(value(item) for item in items)
                named = NAMED.get(name)
                return named(*items) if named and len(named._fields) == len(items) else items
            case {"list": list(items)}:
                return [value(item) for item in items]
            case {"dict": list(items)}:
                return {str(key): value(item) for key, item in items}
            case {"object": int(number), "type": str(name)} if handle:
                return handle(number, name)
        raise Garbled("a value of an unknown kind")

    def array(dtype: str, shape: list[int], at: int) -> Tensor:
        if not all(type(size) is int and size >= 0 for size in (*shape, at)):
            raise Garbled("a tensor of an impossible shape")
        kind, count = DTYPES[dtype], math.prod(shape)
        if count == 0:
            return torch.empty(shape, dtype=kind)
        # frombuffer refuses what reaches beyond the bytes that came.
        return torch.frombuffer(body, dtype=kind, count=count, offset=at).reshape(shape).clone()

    try:
        return value(tree)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, RecursionError) as error:
        raise Garbled(f"a value that cannot be read ({type(error).__name__})") from None
