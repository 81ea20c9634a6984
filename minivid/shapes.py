"""The axis letters of the project, one meaning each; the shapes that a model makes and those a module promises."""

import inspect
import types
import typing
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

AXES: dict[str, str] = {
    "b": "clips in a batch",
    "t": "frames",
    "m": "moments that a model keeps apart along time",
    "c": "channels",
    "h": "pixel rows",
    "w": "pixel columns",
    "gt": "patches along time",
    "gh": "patches along the height",
    "gw": "patches along the width",
    "tau": "frames in one patch",
    "p": "pixels along one side of a patch",
    "n": "tokens that ask (queries), or rows in general",
    "s": "tokens that answer (keys and values)",
    "d": "width of a token",
    "heads": "attention heads",
    "k": "width of one head",
    "f": "hidden width of a feed-forward layer",
    "v": "entries of a vocabulary, or classes",
    "r": "rank of a low-rank update",
}


class ShapeError(ValueError):
    """A tensor, or a size, does not fit; the message names the axis, what was expected, what came and what to do."""


class Grid(NamedTuple):
    """How many patches a clip has along time, height and width."""

    gt: int
    gh: int
    gw: int


def misfits(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, at_most: int = 3) -> str:
    """Say how weights differ from those of a model, by name and shape; nothing is said where they fit.

    Args:
        found: as in a file.
        wanted: the model's state_dict().
        at_most: so many differences are named.

    Returns:
        The differences, and how many more there are; empty if there is none.
    """
    missing, surplus = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    wrong = [*(f"missing {name}" for name in missing), *(f"surplus {name}" for name in surplus)]
    wrong += [
        f"{name} {tuple(found[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & found.keys())
        if found[name].shape != wanted[name].shape
    ]
    more = f" and {len(wrong) - at_most} more" if len(wrong) > at_most else ""
    return "; ".join(wrong[:at_most]) + more


def checked_grid(grid: Grid | tuple[int, int, int] | Tensor, spatial_merge_size: int) -> Grid:
    """The grid, if it is made of whole blocks of spatial_merge_size x spatial_merge_size patches.

    Args:
        grid: patches along time, height and width.
        spatial_merge_size: side of a block: the patches that become one token.

    Raises:
        ShapeError: if a number is below 1, or height or width is no multiple of spatial_merge_size.
    """
    gt, gh, gw = map(int, grid)
    if min(gt, gh, gw, spatial_merge_size) < 1 or gh % spatial_merge_size or gw % spatial_merge_size:
        raise ShapeError(
            f"grid: gt={gt}, gh={gh}, gw={gw}, expected at least 1 of each, gh and gw multiples of spatial_merge_size "
            f"{spatial_merge_size}"
        )
    return Grid(gt, gh, gw)


# ---- the shapes that a model makes, seen while it runs


class Axes(NamedTuple):
    """A tensor's axes, one letter and one size each; the letter is empty where nothing says what the axis is."""

    letters: tuple[str, ...]
    sizes: tuple[int, ...]

    def __str__(self) -> str:
        pairs = zip(self.letters, self.sizes, strict=True)
        return " ".join(f"{letter}={size}" if letter else str(size) for letter, size in pairs) or "one number"


@dataclass(frozen=True)
class Step:
    """One call of one module.

    Attributes:
        path: where the module is in the model, as in "blocks.0.attention"; empty for the model itself.
        depth: in how many calls of other modules this one was made.
        kind: the module's class.
        inputs: the axes of every tensor it was given, by the argument's name.
        outputs: the axes of every tensor it gave back.
        parameters: how many numbers it learns, those of the modules in it included.
    """

    path: str
    depth: int
    kind: str
    inputs: tuple[tuple[str, Axes], ...]
    outputs: tuple[Axes, ...]
    parameters: int

    @property
    def given(self) -> str:
        """The inputs in words."""
        return ", ".join(f"{name} {axes}" for name, axes in self.inputs)

    @property
    def gave(self) -> str:
        """The outputs in words."""
        return ", ".join(map(str, self.outputs))


@dataclass(frozen=True)
class Trace:
    """The calls of a model's modules in the order in which they began; printed, it is a table."""

    steps: tuple[Step, ...]

    def __str__(self) -> str:
        rows = [("module", "class", "in", "out", "parameters")]
        for step, last in folded(self.steps):
            path = "  " * step.depth + (f"{step.path} to {last}" if last else step.path or "(the model)")
            rows.append((path, step.kind, step.given, step.gave, f"{step.parameters:,}"))
        used = {
            letter
            for step in self.steps
            for axes in (*dict(step.inputs).values(), *step.outputs)
            for letter in axes.letters
        }
        return f"{table(rows)}\n\n{key_of(used)}".rstrip()

    def as_json(self) -> list[dict]:
        """Every step as plain lists and numbers."""
        return [
            {
                "module": step.path,
                "class": step.kind,
                "inputs": {name: {"axes": list(axes.letters), "shape": list(axes.sizes)} for name, axes in step.inputs},
                "outputs": [{"axes": list(axes.letters), "shape": list(axes.sizes)} for axes in step.outputs],
                "parameters": step.parameters,
            }
            for step in self.steps
        ]


def trace(model: nn.Module, *inputs: object, **keywords: object) -> Trace:
    """Run a model once and note the shape of what goes into every module, and of what comes out.

    The letters come from the modules' signatures. Where a signature has none, as that of `nn.Linear`, the letters of
    the tensor that was given are kept; an axis that is left gets the letter that has its size in the enclosing call,
    where exactly one has, and stays a bare number where none or several have.

    On the device "meta" nothing is computed and nothing needs memory, so a model of any size can be looked at.

    Args:
        model: any module; it is left as it is.
        *inputs: what `model(...)` is called with.
        **keywords: likewise.

    Returns:
        One step for each call of a module, the model's own first. What a module does without calling another one, as
        with a tensor operation or a method other than `forward`, is not a step.
    """
    watch = _Watch(model)
    try:
        with torch.no_grad():
            model(*inputs, **keywords)
    finally:
        watch.end()
    return Trace(tuple(watch.steps))


class _Watch:
    """Hooks on every module of a model, which write down the calls."""

    def __init__(self, model: nn.Module):
        self.steps: list[Step] = []
        self.open: list[tuple[int, dict[str, int]]] = []  # calls under way: which step, and the sizes of its letters
        self.known: dict[int, tuple[weakref.ref, tuple[str, ...]]] = {}  # the letters of tensors seen before
        self.paths = {module: path for path, module in model.named_modules()}
        self.hooks = []
        for module in self.paths:
            self.hooks.append(module.register_forward_pre_hook(self.begin, with_kwargs=True))
            self.hooks.append(module.register_forward_hook(self.finish, with_kwargs=True))

    def end(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def begin(self, module: nn.Module, arguments: tuple, keywords: dict) -> None:
        signature = inspect.signature(module.forward)
        sizes: dict[str, int] = {}
        inputs = []
        for name, value in signature.bind(*arguments, **keywords).arguments.items():
            annotation = signature.parameters[name].annotation
            several = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
            for tensor, shape in tensors_of(value, tuple[(annotation,) * len(value)] if several else annotation):
                inputs.append((name, self.named(tensor, shape, sizes)))
        parameters = sum(weight.numel() for weight in module.parameters())
        step = Step(self.paths[module], len(self.open), type(module).__name__, tuple(inputs), (), parameters)
        self.open.append((len(self.steps), sizes))
        self.steps.append(step)

    def finish(self, module: nn.Module, arguments: tuple, keywords: dict, result: object) -> None:
        at, sizes = self.open[-1]
        annotation = inspect.signature(module.forward).return_annotation
        before = self.steps[at]
        given = before.inputs[0][1] if before.inputs else None
        outputs = tuple(self.named(tensor, shape, sizes, given) for tensor, shape in tensors_of(result, annotation))
        self.open.pop()
        if self.open:  # what was learnt inside, such as the width, helps to read what follows
            outer = self.open[-1][1]
            outer.update({letter: size for letter, size in sizes.items() if letter not in outer})
        self.steps[at] = Step(before.path, before.depth, before.kind, before.inputs, outputs, before.parameters)

    def named(self, tensor: Tensor, shape: str | None, sizes: dict[str, int], given: Axes | None = None) -> Axes:
        """The axes of a tensor; those that get a letter are added to the sizes of the call."""
        letters = list((fitted(shape, tensor.shape) if shape else None) or [""] * tensor.ndim)
        reference, before = self.known.get(id(tensor), (None, ()))
        if reference is not None and reference() is tensor:  # an id may be used again
            self.fill(letters, before)
        if given is not None and len(given.sizes) == tensor.ndim:
            pairs = zip(given.letters, given.sizes, tensor.shape, strict=True)
            self.fill(letters, [letter if size == now else "" for letter, size, now in pairs])
        for i, size in enumerate(tensor.shape):
            letters[i] = letters[i] or self.guess(size, letters)
        sizes.update({letter: size for letter, size in zip(letters, tensor.shape, strict=True) if letter})
        self.known[id(tensor)] = (weakref.ref(tensor), tuple(letters))
        return Axes(tuple(letters), tuple(tensor.shape))

    def fill(self, letters: list[str], others: Sequence[str]) -> None:
        """Give the axes without a letter that of another source, unless it is used already."""
        for i, other in enumerate(others):
            if not letters[i] and other not in letters:
                letters[i] = other

    def guess(self, size: int, used: list[str]) -> str:
        """The letter that has this size in the innermost enclosing call where any has; none if several have."""
        for _, sizes in reversed(self.open):
            fits = [letter for letter, known in sizes.items() if known == size > 1 and letter not in used]
            if fits:
                return fits[0] if len(fits) == 1 else ""
        return ""


def folded(steps: tuple[Step, ...]) -> Iterator[tuple[Step, str]]:
    """The steps without those of equal neighbours, as the blocks of a stack are: the first, and the last one's name."""
    at = 0
    while at < len(steps):
        length = subtree(steps, at)
        last, after = "", at + length
        while after < len(steps) and alike(steps[at : at + length], steps[after : after + subtree(steps, after)]):
            last, after = steps[after].path, after + length
        yield steps[at], last
        yield from folded(steps[at + 1 : at + length])
        at = after


def subtree(steps: tuple[Step, ...], at: int) -> int:
    """How many steps a call is, with all those made in it."""
    deeper = (i for i in range(at + 1, len(steps)) if steps[i].depth <= steps[at].depth)
    return next(deeper, len(steps)) - at


def alike(one: tuple[Step, ...], other: tuple[Step, ...]) -> bool:
    """Whether two calls are of different modules of one list, and the same in all but the place in it."""

    def seen(steps: tuple[Step, ...]) -> list[tuple]:
        start = len(steps[0].path)
        return [(step.path[start:], step.kind, step.inputs, step.outputs, step.parameters) for step in steps]

    (stem, _, number), (other_stem, _, other_number) = (steps[0].path.rpartition(".") for steps in (one, other))
    in_a_list = stem == other_stem and number.isdigit() and other_number.isdigit() and number != other_number
    return in_a_list and seen(one) == seen(other)


# ---- annotations


def tensors_of(value: object, annotation: object) -> Iterator[tuple[Tensor, str | None]]:
    """Every tensor in a value, each with the shape that the annotation gives it: "b n d", or None."""
    if isinstance(value, Tensor):
        shapes = [dims for choice in choices(annotation) if (dims := dims_of(choice)) is not None]
        yield value, next((dims for dims in shapes if fitted(dims, value.shape) is not None), None)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_of(item, None)
    elif isinstance(value, tuple | list):
        for item, inner in zip(value, inner_annotations(annotation, len(value)), strict=True):
            yield from tensors_of(item, inner)


def choices(annotation: object) -> tuple[object, ...]:
    """The members of a union, or the one annotation."""
    return (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )


def dims_of(annotation: object) -> str | None:
    """The axes in a jaxtyping annotation, as in "b n d"; None for any other."""
    return getattr(annotation, "dim_str", None)


def inner_annotations(annotation: object, count: int) -> tuple[object, ...]:
    """The annotation of each item of a tuple or list that is annotated so."""
    for choice in choices(annotation):
        if fields := getattr(choice, "_fields", ()):
            inner = tuple(typing.get_type_hints(choice, include_extras=True).get(name) for name in fields)
        else:
            inner = typing.get_args(choice)
            if (len(inner) == 2 and inner[1] is Ellipsis) or (
                len(inner) == 1 and typing.get_origin(choice) is not tuple
            ):
                inner = (inner[0],) * count
        if len(inner) == count:
            return inner
    return (None,) * count


def fitted(shape: str, sizes: tuple[int, ...]) -> tuple[str, ...] | None:
    """The letter of each axis, from a shape as jaxtyping writes it; None if the rank or a fixed size differs."""
    tokens = shape.split()
    rest = next((i for i, token in enumerate(tokens) if token == "..." or token.startswith("*")), None)
    if rest is not None:
        free = len(sizes) - (len(tokens) - 1)
        tokens[rest : rest + 1] = ["_"] * free
    if len(tokens) != len(sizes):
        return None
    if any(token.isdigit() and int(token) != size for token, size in zip(tokens, sizes, strict=True)):
        return None
    # {self.embed_dim} is a number that the signature leaves to the object.
    return tuple("" if token.isdigit() or token[0] in "_{" else token.lstrip("#?") for token in tokens)


# ---- the shapes that a module of the library promises


class Promise(NamedTuple):
    """What a public function or method takes and gives.

    Attributes:
        name: as in "attend" or "MultiHeadAttention.forward".
        call: how it is called: the parameters and their defaults.
        sentence: the first sentence of its documentation.
        takes: the shape of each parameter that is a tensor, as in ("query", "Float b heads n k").
        gives: the shape of each tensor that comes back.
    """

    name: str
    call: str
    sentence: str
    takes: tuple[tuple[str, str], ...]
    gives: tuple[str, ...]


def contract(module: types.ModuleType) -> list[Promise]:
    """The shapes that a module's public names promise, read from their signatures.

    Args:
        module: a module of the library, as in `minivid.layers.attention`.

    Returns:
        The functions, the classes (how they are made) and their public methods, in the order in which they are written.
    """
    found = []
    for name, item in vars(module).items():
        if name.startswith("_") or getattr(item, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(item):
            found.append(promise(name, item))
            for method, function in vars(item).items():
                function = getattr(function, "__func__", function)  # of a static or class method
                if not method.startswith("_") and inspect.isfunction(function):
                    found.append(promise(f"{name}.{method}", function))
        elif inspect.isfunction(inspect.unwrap(item)):  # lru_cache makes an object of another class of it
            found.append(promise(name, item))
    return found


def promise(name: str, item: object) -> Promise:
    """What one function, method or class takes and gives."""
    try:
        signature = inspect.signature(item)
    except ValueError:  # an exception, or another class whose constructor is not written in Python
        signature = inspect.Signature()
    parameters = [
        parameter for parameter in signature.parameters.values() if parameter.name not in ("self", "cls", "ctx")
    ]
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    takes = tuple((each.name, " or ".join(shapes)) for each in parameters if (shapes := shapes_in(each.annotation)))
    gives = () if inspect.isclass(item) else tuple(shapes_in(signature.return_annotation))
    words = (inspect.getdoc(item) or "").split("\n\n")[0]
    return Promise(name, str(inspect.Signature(bare)), " ".join(words.split()), takes, gives)


def shapes_in(annotation: object) -> list[str]:
    """Every shape in an annotation, each with the kind of its numbers: "Float b n d"."""
    if (dims := dims_of(annotation)) is not None:
        return [f"{annotation.__name__.split('[')[0]} {dims}".strip()]
    return [shape for inner in typing.get_args(annotation) for shape in shapes_in(inner)]


def contract_text(promises: list[Promise]) -> str:
    """Promises as text, and below them what their letters mean."""
    parts, used = [], set()
    for each in promises:
        rows = [(f"  {name}", shape) for name, shape in each.takes]
        rows += [("  gives", shape) for shape in each.gives]
        used.update(letter for _, shape in rows for letter in shape.split())
        parts.append(
            "\n".join(
                [
                    f"{each.name}{each.call}",
                    *([f"  {each.sentence}"] if each.sentence else []),
                    *([table(rows)] if rows else []),
                ]
            )
        )
    return "\n\n".join([*parts, key_of(used)]).rstrip()


def key_of(letters: set[str]) -> str:
    """What some letters mean, in the order of the project's key."""
    return table([(letter, meaning) for letter, meaning in AXES.items() if letter in letters])


def table(rows: list[tuple[str, ...]], *, numbers: bool = False) -> str:
    """Rows of text in columns, two spaces apart; with `numbers`, all columns but the first end at one place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = (
            cell.rjust(width) if numbers else cell.ljust(width) for cell, width in zip(others, widths[1:], strict=True)
        )
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)
