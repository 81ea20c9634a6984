"""Run a generator in another thread, so that its items are made before they are asked for."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


@contextmanager
def made_ahead(items: Generator[Item, None, None], *, at_most: int) -> Iterator[Iterator[Item]]:
    """Run a generator in a thread of its own, and yield an iterator over its items.

    The items come in their order; an error of the generator comes out where the next item would. On leaving, no item is
    begun any more, the one in work is waited for, and the generator is closed, in its thread.

    Args:
        items: what to run; the thread has it to itself.
        at_most: how many items are made before they are taken, at least 1.
    """
    end = object()
    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting = deque(thread.submit(next, items, end) for _ in range(at_most))

        def taken() -> Iterator[Item]:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, items, end))
                yield item

        try:
            yield taken()
        finally:
            for item in waiting:
                item.cancel()
            thread.submit(items.close)
