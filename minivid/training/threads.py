"""How many threads compute, for the length of a block."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads, and afterwards with as many as before.

    A model of a few hundred thousand weights gains little by more than one, loses much by them where others use the
    cores, and with a fixed number the sums, and so the weights, are the same however many cores there are.

    Args:
        count: at least 1.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
