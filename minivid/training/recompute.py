"""Gradient checkpointing: what a block computes on the way is forgotten, and computed again for the gradient."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Inside the context, keep of each of a model's blocks only what goes in, and compute it twice.

    With n blocks the memory for what lies between them falls from n blocks' to one's, and a step costs a second forward
    pass, about a third more time. The numbers stay the same: dropout is drawn again as it was, and running averages
    count a batch once.

    Args:
        model: its blocks are the members of its outermost nn.ModuleList or nn.Sequential.

    Raises:
        ValueError: if it has none.

    Source: Chen et al. 2016 (arXiv:1604.06174).
    """
    blocks = list(blocks_of(model))
    if not blocks:
        raise ValueError(f"{type(model).__name__}: no nn.ModuleList or nn.Sequential, so no blocks to compute again")
    try:
        for block in blocks:
            contexts = partial(_contexts, block)
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


def blocks_of(model: nn.Module) -> Iterator[nn.Module]:
    """The members of a model's outermost nn.ModuleList or nn.Sequential, or of each if there are several side by side.

    Args:
        model: may have none.
    """
    if isinstance(model, nn.ModuleList | nn.Sequential):
        yield from model
    else:
        for child in model.children():
            yield from blocks_of(child)


def _contexts(block: nn.Module) -> tuple:
    return nullcontext(), _unchanged_buffers(block)


@contextmanager
def _unchanged_buffers(block: nn.Module) -> Iterator[None]:
    before = [buffer.clone() for buffer in block.buffers()]
    try:
        yield
    finally:
        for buffer, old in zip(block.buffers(), before, strict=True):
            buffer.data.copy_(old)  # through .data: the first pass's graph still holds it
