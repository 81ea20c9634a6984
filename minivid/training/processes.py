"""The processes that train together: who they are, where they compute, and what all of them know."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

Item = TypeVar("Item")
Found = TypeVar("Found")


class Share(NamedTuple):
    """Which process this is, counted from 0, and how many there are."""

    process: int
    processes: int


def share() -> Share:
    """This process among those that train together; (0, 1) where it trains alone."""
    if dist.is_available() and dist.is_initialized():
        return Share(dist.get_rank(), dist.get_world_size())
    return Share(0, 1)


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return share().process == 0


def device() -> torch.device:
    """Where this process computes: on its graphics processor, if there is one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


# ---- together from beginning to end


@contextmanager
def joined() -> Iterator[Share]:
    """Meet the processes that torchrun started with this one; where it started none, this process is alone.

    If one of them fails, all end. Only the first to fail says why: what the others meet is a consequence.

    Raises:
        ChildProcessError: inside the context, if another process died.
        SystemExit: if another process has already said what went wrong.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Share(0, 1)
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    store, rank, processes = next(dist.rendezvous("env://"))
    dist.init_process_group(backend, store=dist.PrefixStore("group", store), rank=rank, world_size=processes)
    message = (
        f"one of the {processes} processes that train together died or was stopped; run the same command again and the "
        "training goes on from its last save"
    )

    def stop(*_: object) -> None:
        raise ChildProcessError(message)

    # torchrun stops all others when one dies.
    handled = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if handled else None
    try:
        yield Share(rank, processes)
    except BaseException as error:
        if not _first_to_tell(store):
            raise SystemExit(1) from None
        if _is_lost_connection(error):
            raise ChildProcessError(message) from error
        raise
    else:
        dist.barrier()  # nobody leaves while another still reads or writes
        dist.destroy_process_group()
    finally:
        if handled:
            signal.signal(signal.SIGTERM, before)


def _first_to_tell(store: dist.Store) -> bool:
    try:
        return store.add("failed", 1) == 1
    except Exception:  # the store was held by a process that is gone
        return True


def _is_lost_connection(error: BaseException) -> bool:
    # What gloo raises has no class of its own.
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if share().processes > 1:
        dist.barrier()


# ---- what all of them know


def total(*numbers: int | float, device: torch.device) -> list[int | float]:
    """Each number, summed over all processes; the same in all of them.

    Args:
        numbers: what this process found.
        device: where the model is.
    """
    if share().processes == 1:
        return list(numbers)
    sums = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return sums.tolist()


def told_by_all(found: Found) -> list[Found]:
    """What each process found, in their order; the same in all of them.

    Args:
        found: by this process; anything that can be pickled.
    """
    processes = share().processes
    everything = [found] * processes
    if processes > 1:
        dist.all_gather_object(everything, found)
    return everything


def done_in_turns(items: Sequence[Item], work: Callable[[Item], Found]) -> list[Found]:
    """Deal items out to the processes, and tell all of them what was found.

    Process p of N takes the items p, p + N, p + 2 N, ... All do equally much, because a sharded model answers only if
    every process calls it: who has none left does the first item again, and that is forgotten.

    Args:
        items: the same in all processes.
        work: what is done with one, on this process.

    Returns:
        What was found for each item, in their order, in every process.
    """
    mine, processes = share()
    places = range(mine, mine + len(items), processes) if items else ()
    found = told_by_all([work(items[place if place < len(items) else 0]) for place in places])
    return [found[place % processes][place // processes] for place in range(len(items))]


def rows_of_all(rows: Float[Tensor, "b d"]) -> tuple[Float[Tensor, "all d"], int]:
    """The rows of all processes, one process after the other; gradients find their way back to each one's own.

    Args:
        rows: of this process; another may have another number of them.

    Returns:
        All rows, and the place of this process's first.
    """
    mine, processes = share()
    if processes == 1:
        return rows, 0
    lengths = told_by_all(len(rows))
    padded = _Gathered.apply(pad(rows, (0, 0, 0, max(lengths) - len(rows))))
    own = [part[:length] for part, length in zip(padded, lengths, strict=True)]
    return torch.cat(own), sum(lengths[:mine])


class _Gathered(torch.autograd.Function):
    """The rows of all processes, equally many of each: all of them use them, so that gradients are added up."""

    @staticmethod
    def forward(ctx, rows: Float[Tensor, "b d"]) -> Float[Tensor, "processes b d"]:
        found = [torch.empty_like(rows) for _ in range(share().processes)]
        dist.all_gather(found, rows.contiguous())
        return torch.stack(found)

    @staticmethod
    def backward(ctx, grad: Float[Tensor, "processes b d"]) -> Float[Tensor, "b d"]:
        grad = grad.clone(memory_format=torch.contiguous_format)  # summed in place, and not ours to change
        dist.all_reduce(grad)
        return grad[share().process]


def check_alike(what: str, number: int) -> None:
    """Make sure that all processes found the same.

    Args:
        what: the number is.
        number: what this process found.

    Raises:
        ValueError: in every process, if one found another number.
    """
    found = told_by_all(number)
    if len(set(found)) > 1:
        raise ValueError(f"{what}: {found} in the {len(found)} processes; all must see the same folder")
