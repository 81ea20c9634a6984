"""A broken law shows the input, what came out, what should have, and where they first differ."""

import pytest
import torch

from minivid.classroom.evidence import Broken, agree, holds, show


def test_close_tensors_agree():
    agree(torch.tensor([1.0, float("nan")]), torch.tensor([1.0 + 1e-6, float("nan")]), "equal")


def test_the_first_differing_place_is_named_by_its_axes():
    got, want = torch.zeros(2, 3), torch.tensor([[0.0, 0, 0], [0, 2.5, 1]])
    with pytest.raises(Broken, match=r"rows differ \(first at n=1, d=1: 0 instead of 2\.5\)") as caught:
        agree(got, want, "rows differ", axes="n d", query=torch.tensor([True, False]))
    assert str(caught.value).splitlines()[1:] == [
        "    query = [x .]   (2)",
        "      got = [0 0 0]",
        "            [0 0 0]   (2 x 3)",
        "     want = [0.000 0.000 0.000]",
        "            [0.000 2.500 1.000]   (2 x 3)",
    ]
    assert list(caught.value.shown) == ["query", "got", "want"]


def test_a_number_has_one_place():
    with pytest.raises(Broken, match="first at the only number: 1 instead of 2"):
        agree(torch.tensor(1.0), torch.tensor(2.0), "differs")


@pytest.mark.parametrize(
    "got, words",
    [
        (torch.zeros(3, 2), r"the shape is \(3, 2\), expected \(2, 3\) n d"),
        ([[0.0] * 3] * 2, "the result is a list, not a tensor"),
        (None, "the result is a NoneType, not a tensor"),
    ],
)
def test_what_is_no_tensor_of_the_shape_is_named(got, words):
    with pytest.raises(Broken, match=f"rows differ: {words}"):
        agree(got, torch.zeros(2, 3), "rows differ", axes="n d")


def test_holds_shows_the_case():
    holds(True, "never seen")
    with pytest.raises(Broken, match=r"too many\n +count = 3"):
        holds(False, "too many", count=3)


@pytest.mark.parametrize(
    "value, text",
    [
        (torch.zeros(2, 2, 1, 1), "[0 0]\n[0 0]   (2 x 2 x 1 x 1)"),
        (torch.zeros(1, 1), "[0]   (1 x 1)"),
        (torch.tensor(1.5), "[1.500]   (one number)"),
        (torch.zeros(37), "float32 tensor, 37"),
        (torch.zeros(0, 3), "float32 tensor, 0 x 3"),
        (
            torch.arange(20).reshape(10, 2),
            "\n".join(f"[{2 * i} {2 * i + 1}]" for i in range(7)) + "\n... 3 more rows   (10 x 2)",
        ),
        ("x" * 300, "'" + "x" * 196 + "..."),
    ],
)
def test_values_are_shown_small(value, text):
    head = "    value = "
    assert show("value", value) == head + text.replace("\n", "\n" + " " * len(head))
