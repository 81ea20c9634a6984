"""Messages over a pipe: a JSON head and a body of raw bytes, both of bounded size."""

import json
import os
import struct

MOST_HEAD = 1 << 20
MOST_BODY = 64 << 20
LENGTHS = struct.Struct("!II")


class Garbled(Exception):
    """What came over the pipe is not a message of the agreed form."""


def send(descriptor: int, head: object, body: bytes = b"") -> None:
    """Write one message.

    Raises:
        Garbled: if the head or the body is larger than a receiver would take.
    """
    text = json.dumps(head).encode()
    if len(text) > MOST_HEAD or len(body) > MOST_BODY:
        raise Garbled(f"a message of {(len(text) + len(body)) / 1e6:.0f} MB; at most {MOST_BODY / 1e6:.0f} MB are sent")
    rest = memoryview(LENGTHS.pack(len(text), len(body)) + text + body)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def receive(descriptor: int) -> tuple[object, bytearray] | None:
    """Read one message; None if the other end was closed before it began.

    Raises:
        Garbled: if a length is out of bounds, the message ends early or its head is not JSON.
    """
    start = read(descriptor, LENGTHS.size)
    if not start:
        return None
    if len(start) < LENGTHS.size:
        raise Garbled("a message that ends in its first bytes")
    head, body = LENGTHS.unpack(start)
    if head > MOST_HEAD or body > MOST_BODY:
        raise Garbled(f"a message that claims {(head + body) / 1e6:.0f} MB; at most {MOST_BODY / 1e6:.0f} MB are taken")
    text, content = read(descriptor, head), read(descriptor, body)
    if len(text) < head or len(content) < body:
        raise Garbled("a message that ends early")
    try:
        return json.loads(text), content
    except (ValueError, RecursionError):
        raise Garbled("a message whose head is not JSON") from None


def read(descriptor: int, size: int) -> bytearray:
    """Exactly `size` bytes, or fewer where the other end was closed."""
    content = bytearray()
    while len(content) < size:
        piece = os.read(descriptor, min(size - len(content), 1 << 20))
        if not piece:
            break
        content += piece
    return content
