"""The program beside an answer: what it replies, with no process in between."""

import importlib

import pytest
import torch

from minivid.classroom import wire
from minivid.classroom.sandbox import AnswerError, Desk, SignatureError, call, located, raised, tensors


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)  # so that what loading appends is taken off again
    desk = Desk()
    file = tmp_path / "answer.py"
    file.write_text(
        "from math import pi\nclass C: pass\ndef double(x):\n    return 2 * x\ndef fail():\n    return 1 / 0\n"
    )
    reply, _ = desk.answer({"do": "load", "file": str(file)}, bytearray())
    assert reply == {"names": ["C", "double", "fail"]}
    return desk


def ask(desk, name, *arguments):
    """The reply to a call."""
    tree, body = wire.pack((arguments, {}))
    return desk.answer({"do": "call", "name": name, "with": tree}, bytearray(body))


def test_a_call_gives_its_result(desk):
    head, body = ask(desk, "double", torch.arange(3))
    result, places, changed = wire.unpack(head["gave"], bytearray(body))
    assert (result.tolist(), places, changed, head["graph"]) == ([0, 2, 4], (), (), None)


def test_an_exception_is_reported_with_its_line(desk):
    head, _ = ask(desk, "fail")
    assert head["raised"]["types"][0] == "ZeroDivisionError"
    assert (head["raised"]["line"], head["raised"]["text"]) == (6, "return 1 / 0")


def test_a_request_of_no_known_kind_is_an_exception(desk):
    assert desk.answer({"do": "dance"}, bytearray())[0]["raised"]["types"][0] == "AttributeError"


def test_a_file_that_is_not_python_is_reported_with_its_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    file = tmp_path / "answer.py"
    file.write_text("x = 1\ndef f(x:\n    return x\n")
    head, _ = Desk().answer({"do": "load", "file": str(file)}, bytearray())
    assert head["raised"]["types"][0] == "SyntaxError"
    assert (head["raised"]["line"], head["raised"]["text"]) == (2, "def f(x:")


def test_a_kept_result_gives_gradients_until_it_is_forgotten(desk):
    head, _ = ask(desk, "double", torch.ones(2, requires_grad=True))
    tree, body = wire.pack((torch.ones(2),))
    request = {"do": "backward", "graph": head["graph"], "with": tree}
    reply, raw = desk.answer(request, bytearray(body))
    assert wire.unpack(reply["gave"], bytearray(raw))[0].tolist() == [2, 2]
    assert desk.answer({**request, "forget": [head["graph"]]}, bytearray(body))[0]["raised"]["types"][0] == "KeyError"


def test_only_a_call_that_does_not_fit_is_a_signature_error():
    with pytest.raises(SignatureError, match="too many positional arguments"):
        call(lambda x: x, (1, 2), {})
    with pytest.raises(SignatureError, match="unexpected keyword argument 'mask'"):
        call(lambda x: x, (1,), {"mask": None})
    with pytest.raises(TypeError) as caught:
        call(lambda x: x + "a", (1,), {})
    assert type(caught.value) is TypeError
    assert call(max, (1, 2), {}) == 2


def test_tensors_are_found_in_the_order_of_the_wire():
    one, two, three = torch.ones(1), torch.ones(2), torch.ones(3)
    assert [len(t) for t in tensors(({"a": one, "b": [2, two]}, None, three))] == [1, 2, 3]


def test_an_exception_here_carries_its_line():
    def answer():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        located(answer)()
    assert caught.value.place.text == 'raise ValueError("no")'


def test_a_class_written_in_a_notebook_is_located_by_its_methods():
    class Answer:
        __module__ = "__main__"  # where a notebook's cells run: its classes have no file
        size = 3

        def __init__(self):
            raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        located(Answer)()
    assert caught.value.place.text == 'raise ValueError("no")'


def test_sys_exit_here_is_an_exception_like_others():
    def answer():
        raise SystemExit(0)

    with pytest.raises(AnswerError, match=r"sys\.exit\(\) was called"):
        located(answer)()


def test_words_of_an_exception_are_cut():
    assert len(raised(ValueError("x" * 10_000), "")["message"]) == 500
