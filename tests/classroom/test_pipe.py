"""Messages over a pipe arrive whole, or are refused."""

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivid.classroom import pipe
from minivid.classroom.pipe import LENGTHS, MOST_BODY, MOST_HEAD, Garbled, receive, send


@pytest.fixture
def ends():
    source, sink = os.pipe()
    yield source, sink
    os.close(source)
    os.close(sink)


heads = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.lists(st.tuples(heads, st.binary(max_size=300)), max_size=3))
def test_messages_arrive_as_they_were_sent(messages):
    source, sink = os.pipe()
    try:
        for head, body in messages:
            send(sink, head, body)
        assert [receive(source) for _ in messages] == [(head, bytearray(body)) for head, body in messages]
    finally:
        os.close(source)
        os.close(sink)


def test_a_message_larger_than_the_pipe_holds_arrives(ends):
    source, sink = ends
    body = os.urandom(1 << 20)
    writer = threading.Thread(target=send, args=(sink, "large", body))
    writer.start()
    assert receive(source) == ("large", bytearray(body))
    writer.join()


def test_a_closed_pipe_is_the_end():
    source, sink = os.pipe()
    os.close(sink)
    assert receive(source) is None
    os.close(source)


@pytest.mark.parametrize(
    "raw, words",
    [
        (b"\0", "ends in its first bytes"),
        (LENGTHS.pack(MOST_HEAD + 1, 0), "claims 1 MB"),
        (LENGTHS.pack(0, MOST_BODY + 1), "claims 67 MB"),
        (LENGTHS.pack(2, 4) + b"{}ab", "ends early"),
        (LENGTHS.pack(3, 0) + b"{]}", "not JSON"),
        (LENGTHS.pack(2, 0) + b"\xff\xff", "not JSON"),
        (LENGTHS.pack(200_000, 0) + b"[" * 200_000, "not JSON"),
    ],
)
def test_what_is_no_message_is_refused(raw, words):
    source, sink = os.pipe()
    threading.Thread(target=lambda: (os.write(sink, raw[:65536]), pour(sink, raw[65536:]), os.close(sink))).start()
    with pytest.raises(Garbled, match=words):
        receive(source)
    os.close(source)


def pour(sink: int, raw: bytes) -> None:
    """Write all of it."""
    while raw:
        raw = raw[os.write(sink, raw) :]


def test_a_message_that_nobody_would_take_is_not_sent(ends, monkeypatch):
    monkeypatch.setattr(pipe, "MOST_BODY", 10)
    with pytest.raises(Garbled, match="a message of 0 MB"):
        send(ends[1], {}, b"x" * 11)
