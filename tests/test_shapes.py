"""The axis letters have one meaning each and every signature's are explained; traces and contracts show them."""

import ast
import importlib
import re
from pathlib import Path

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minivid.layers import attention
from minivid.models.zoo import build_model
from minivid.shapes import AXES, Axes, Grid, ShapeError, checked_grid, contract, contract_text, fitted, misfits, trace

PACKAGE = Path(__file__).parent.parent / "minivid"
SHAPE = re.compile(r"\b(?:Float|Float32|Float64|Int|Int64|UInt8|Num|Bool|Shaped)\[[\w.]+, \"([^\"]*)\"\]")


def unexplained(code: str) -> set[str]:
    """Axes in the signatures of some code that are neither in the key nor words, numbers or `...`."""
    axes = {part for shape in SHAPE.findall(code) for axis in shape.split() for part in re.split(r"[*#+()-]", axis)}
    return {axis for axis in axes if axis not in AXES and not re.fullmatch(r"\d*|\.\.\.|_|\{.*\}|[a-z_]{3,}", axis)}


def test_an_axis_letter_has_one_meaning():
    assert len(set(AXES.values())) == len(AXES)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_every_letter_in_a_signature_is_explained(path):
    assert unexplained(path.read_text(encoding="utf-8")) == set()


def test_a_letter_that_is_not_in_the_key_is_found():
    assert unexplained('def f(x: Float[Tensor, "b q 3 kdim"]) -> Bool[Tensor, "z+4*d _"]: ...') == {"q", "z"}


def test_a_grid_reads_as_time_height_width():
    assert tuple(Grid(gt=15, gh=40, gw=72)) == (15, 40, 72)


def test_a_grid_of_whole_blocks_comes_back_as_a_grid_of_plain_numbers():
    for grid, merge in (((2, 4, 6), 2), (torch.tensor([1, 3, 9]), 3), (Grid(3, 1, 2), 1), ((1, 1, 1), 1)):
        got = checked_grid(grid, merge)
        assert type(got) is Grid and got == tuple(grid)
        assert {type(size) for size in got} == {int}


@pytest.mark.parametrize(
    "grid, merge",
    [((0, 2, 2), 1), ((1, 3, 4), 2), ((1, 4, 3), 2), ((1, 2, 2), 0), ((1, 0, 2), 1), ((1, -2, 2), 1), ((1, 2, 0), 1)],
)
def test_a_grid_of_broken_blocks_is_refused_with_its_numbers(grid, merge):
    gt, gh, gw = grid
    message = f"^grid: gt={gt}, gh={gh}, gw={gw}, expected at least 1 of each, gh and gw multiples of "
    with pytest.raises(ShapeError, match=f"{message}spatial_merge_size {merge}$"):
        checked_grid(grid, merge)


def test_weights_that_do_not_fit_are_named_and_those_that_fit_are_not():
    wanted = {"a": torch.zeros(2, 3), "b": torch.zeros(5), "c": torch.zeros(7)}
    assert misfits(wanted, wanted) == ""
    assert misfits({"a": torch.zeros(3, 2), "b": torch.zeros(5), "d": torch.zeros(1)}, wanted) == (
        "missing c; surplus d; a (3, 2) instead of (2, 3)"
    )
    assert misfits({"e": torch.zeros(1)}, wanted) == "missing a; missing b; missing c and 1 more"


def test_a_shape_error_is_a_value_error():
    with pytest.raises(ValueError, match="h=30"):
        raise ShapeError("frames: h=30 is not a multiple of 32")


# ---- trace


class Mean(nn.Module):
    def forward(
        self, x: Float[Tensor, "b n d"], *others: Float[Tensor, " n"], scale: float = 1.0
    ) -> Float[Tensor, "b d"]:
        return scale * x.mean(1)


class Pair(nn.Module):
    """Calls the same module twice, a torch layer on a tensor with letters, one on a tensor nobody has named."""

    def __init__(self):
        super().__init__()
        self.mean = Mean()
        self.wide, self.narrow = nn.Linear(7, 11), nn.Linear(11, 3, bias=False)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        pair: tuple[Float[Tensor, "b d"], Int[Tensor, " n"]],
        free: Tensor | None = None,
    ) -> dict | tuple[Float[Tensor, "b v"], Float[Tensor, "b n d"] | None]:
        mean = self.mean(x, pair[1].float(), scale=2.0)
        wide = self.wide(mean) + self.wide(pair[0])
        return self.narrow(wide), self.mean(x)[:, None] + x


def traced(*more) -> dict[str, list]:
    found = {}
    pair = torch.zeros(2, 7), torch.zeros(5, dtype=torch.int64)
    for step in trace(Pair(), torch.zeros(2, 5, 7), pair, *more).steps:
        found.setdefault(step.path, []).append(step)
    return found


def test_a_trace_has_a_step_for_every_call_in_order():
    steps = trace(Pair(), torch.zeros(2, 5, 7), (torch.zeros(2, 7), torch.zeros(5, dtype=torch.int64))).steps
    assert [(step.path, step.depth, step.kind) for step in steps] == [
        ("", 0, "Pair"),
        ("mean", 1, "Mean"),
        ("wide", 1, "Linear"),
        ("wide", 1, "Linear"),
        ("narrow", 1, "Linear"),
        ("mean", 1, "Mean"),
    ]
    assert [step.parameters for step in steps] == [7 * 11 + 11 + 11 * 3, 0, 88, 88, 33, 0]


def test_a_trace_reads_letters_from_signatures_tuples_and_keywords_included():
    (model,), means = traced()[""], traced()["mean"]
    x, mean = Axes(("b", "n", "d"), (2, 5, 7)), Axes(("b", "d"), (2, 7))
    assert model.inputs == (("x", x), ("pair", mean), ("pair", Axes(("n",), (5,))))
    assert model.outputs == (Axes(("b", "v"), (2, 3)), x)
    assert means[0].inputs == (("x", x), ("others", Axes(("n",), (5,)))) and means[0].outputs == (mean,)
    assert means[1].inputs == (("x", x),)
    assert str(x) == "b=2 n=5 d=7" and str(Axes((), ())) == "one number"


def test_a_trace_keeps_the_letters_of_a_tensor_through_a_layer_without_a_signature():
    first, second = traced()["wide"]
    assert first.given == second.given == "input b=2 d=7" and first.gave == "b=2 11"
    assert traced()["narrow"][0].given == "input b=2 11" and traced()["narrow"][0].gave == "b=2 3"


def test_a_size_that_several_letters_have_gets_none():
    class Free(nn.Module):
        def forward(self, x: Float[Tensor, "b n d"]) -> Tensor:
            return inner(x + 1)

    inner = nn.Identity()
    model = Free()
    model.inner = inner
    assert trace(model, torch.zeros(2, 5, 7)).steps[1].given == "input b=2 n=5 d=7"
    assert trace(model, torch.zeros(2, 5, 5)).steps[1].given == "input b=2 5 5"
    assert trace(model, torch.zeros(1, 5, 7)).steps[1].given == "input 1 n=5 d=7"


def test_a_trace_leaves_the_model_as_it_was_even_after_an_error():
    model = Pair()
    with pytest.raises(RuntimeError):
        trace(model, torch.zeros(2, 5, 6), (torch.zeros(2, 7), torch.zeros(5)))
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    x = torch.zeros(2, 5, 7, requires_grad=True)
    trace(model, x, (torch.zeros(2, 7), torch.zeros(5)))
    assert x.grad is None and model.training
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_a_printed_trace_shows_equal_blocks_once_and_explains_its_letters():
    sizes = {"image_size": 32, "num_frames": 4, "num_hidden_layers": 3, "num_labels": 6}
    with torch.device("meta"):
        model = build_model("vivit", sizes)
        seen = trace(model, *model.example_inputs(2))
    text = str(seen)
    assert "  blocks.0 to blocks.2" in text and "blocks.1" not in text.replace("blocks.0 to blocks.2", "")
    assert "clips b=2 t=4 c=3 h=32 w=32" in text and "b=2 v=6" in text and "b=2 n=9 d=768" in text
    assert "\n  norm  " in text and "\nb  clips in a batch\n" in text and "\nk  " not in text
    paths = [row["module"] for row in seen.as_json()]
    assert {"blocks.0", "blocks.1.attention.q_proj", "blocks.2"} <= set(paths)
    # Every module of the model that does anything is there.
    uncalled = {"blocks", "patch_embed.proj"}  # a list; and a Conv3d whose weights alone are used
    assert set(dict(model.named_modules())) - set(paths) <= uncalled


def test_blocks_that_differ_are_shown_apart():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 4))
    text = str(trace(model, torch.zeros(5, 3)))
    assert (
        "  0 to 1     Linear      input 5 3  5 3  12" in text and "  2          Linear      input 5 3  5 4  16" in text
    )


@pytest.mark.parametrize(
    "shape, sizes, letters",
    [
        ("b n d", (2, 3, 4), ("b", "n", "d")),
        ("b n d", (2, 3), None),
        ("*batch d", (2, 3, 4), ("", "", "d")),
        ("b ... d", (2, 4), ("b", "d")),
        ("... n 1", (5, 3, 1), ("", "n", "")),
        ("... n 1", (5, 3, 2), None),
        ("n {self.width}", (5, 3), ("n", "")),
        ("#b _ d", (2, 3, 4), ("b", "", "d")),
        ("b ... d", (2,), None),
        ("", (), ()),
    ],
)
def test_letters_are_fitted_to_sizes(shape, sizes, letters):
    assert fitted(shape, sizes) == letters


# ---- contract


def public_modules() -> list[str]:
    rooms = ("layers", "models", "training", "video", "data")
    paths = (path for room in rooms for path in sorted((PACKAGE / room).glob("*.py")))
    return [f"minivid.{path.parent.name}.{path.stem}" for path in paths if path.stem != "__init__"]


@pytest.mark.parametrize("place", public_modules())
def test_every_public_name_is_in_its_modules_contract(place):
    module = importlib.import_module(place)
    promises = {promise.name: promise for promise in contract(module)}
    source = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    written = {node.name for node in source.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert {name for name in promises if "." not in name} == {name for name in written if not name.startswith("_")}
    assert all(promise.sentence for name, promise in promises.items() if "." not in name)


@pytest.mark.parametrize("place", [place for place in public_modules() if ".layers." in place])
def test_every_tensor_that_a_layer_takes_has_a_shape(place):
    # A function that refuses what does not fit cannot promise that it fits.
    bare = []
    for promise in contract(importlib.import_module(place)):
        item = importlib.import_module(place)
        for part in promise.name.split("."):
            item = getattr(item, part)
        for name, annotation in getattr(item, "__annotations__", {}).items():
            if Tensor in (annotation, *getattr(annotation, "__args__", ())) and "check" not in promise.name:
                bare.append(f"{promise.name}: {name}")
    assert bare == []


def test_a_contract_says_what_goes_in_and_what_comes_out():
    promises = {promise.name: promise for promise in contract(attention)}
    attend = promises["attend"]
    assert attend.call == "(query, key, value, mask=None)" and attend.sentence.startswith(
        "Scaled dot-product attention"
    )
    assert attend.takes[:2] == (("query", "Float b heads n k"), ("key", "Float b heads s k"))
    assert attend.gives == ("Float b heads n k", "Float b heads n s")
    forward = promises["MultiHeadAttention.forward"]
    assert forward.takes[0] == ("x", "Float b n d") and forward.gives == ("Float b n d",)
    assert promises["MultiHeadAttention"].gives == () and "MultiHeadAttention.__init__" not in promises
    assert not any("self" in promise.call or "Tensor" in promise.call for promise in promises.values())


def test_a_contract_in_words_ends_with_the_key_to_its_letters():
    text = contract_text(contract(attention))
    assert "attend(query, key, value, mask=None)\n  Scaled dot-product attention" in text
    assert "\n  query  Float b heads n k\n" in text and "\n  gives  Float b heads n s\n" in text
    assert text.endswith("k      width of one head") and "pixel" not in text
