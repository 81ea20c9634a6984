"""Many processes, one training: each computes its share of every batch, and torch.distributed sums up what they found.

Start them with `torchrun --nproc-per-node N -m minivid finetune ...`. Of a batch of b clips each takes b / N,
and the weights move as with one process. Either every process holds the whole model (DDP), or each holds a part of
every weight and fetches the rest when a block needs it (FSDP2), for models that do not fit otherwise.
"""

import copy
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.parallel import DistributedDataParallel

from minivid.models.qwen3_vl import Qwen3VL
from minivid.training.checkpoint import OPTIMIZER, WEIGHTS, Read, TrainingState, load_tensors, save_training
from minivid.training.objectives import MaskedAutoencoder, WithHead
from minivid.training.recompute import blocks_of


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


# ---- a model in many processes


@contextmanager
def spread(model: nn.Module, *, sharded: bool = False) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Let a model be trained by all processes, from the first one's weights on.

    A gradient is then the mean over all processes of what each computed. Inside the context the model's own weights
    must not be used; when it ends well, they are the trained ones, in every process.

    Args:
        model: on this process's device, with requires_grad as it will be trained.
        sharded: whether each process holds only a part of every weight (FSDP2) instead of all of them (DDP). The
            members of the model's outermost nn.ModuleList are fetched one by one; a vision tower, whose blocks are
            called as often as there are sizes of frames, is fetched as a whole.

    Yields:
        The model whose parameters move, by the names they had, and what is to be called to compute a loss.

    Raises:
        ValueError: if sharded is asked for with one process only.

    Source: DDP: Li et al. 2020 (arXiv:2006.15704); sharding: Zhao et al. 2023 (arXiv:2304.11277).
    """
    processes = share().processes
    if processes == 1:
        if sharded:
            raise ValueError("sharded=True with one process: start several with torchrun --nproc-per-node N")
        yield model, model
        return
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, 0)
    if not sharded:
        # A model that learns without labels has a task head that waits, and a text shows a vision tower nothing.
        idle = isinstance(model, MaskedAutoencoder | WithHead | Qwen3VL)
        yield model, DistributedDataParallel(model, find_unused_parameters=idle)
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # late: loading it takes a second

    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (processes,))
    twin = copy.deepcopy(model)  # what is sharded cannot be made whole again in place
    for part in (*_fetched(twin), twin):
        # Whole weights that outlive a forward pass without a backward one would be stale after the next step.
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    yield twin, twin
    put_whole(model, twin.state_dict())


def _fetched(model: nn.Module) -> list[nn.Module]:
    """The parts of a model that are fetched one after the other; every process must need them equally often."""
    if isinstance(model, Qwen3VL):
        return [model.visual, *model.language_model.layers]
    return list(blocks_of(model))


def seen_by_all(model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
    """Where a model is sharded and any process has a picture or a clip, see to it that each has one.

    Whoever fetches the vision tower needs all others to fetch it too. So a process whose conversations are text alone
    gets one more, of an empty picture that nobody asks about: no label counts in it, and its gradient is zero.

    Args:
        model: as `spread` gives it; every process must call this.
        inputs: of a Qwen3VL: padded rows, or one flattened row.
        labels: -100 where none counts.

    Returns:
        Both, as they came or with one conversation more.
    """
    if not (isinstance(model, Qwen3VL) and _is_sharded(dict(model.named_parameters()))):
        return inputs, labels
    lacks = "pixel_values" not in inputs and "pixel_values_videos" not in inputs
    (others,) = total(int(not lacks), device=labels.device)
    if not (lacks and others):
        return inputs, labels
    c = model.config
    eye, m = c.vision_config, c.vision_config.spatial_merge_size
    box = eye.in_channels * eye.temporal_patch_size * eye.patch_size**2
    ids = labels.new_tensor([[c.vision_start_token_id, c.image_token_id, c.vision_end_token_id]])
    silent = torch.full_like(ids, -100)
    picture = {
        "pixel_values": torch.zeros(m**2, box, device=labels.device),
        "image_grid_thw": labels.new_tensor([[1, m, m]]),
    }
    if "document_lengths" in inputs:
        lengths = torch.cat([inputs["document_lengths"], inputs["document_lengths"].new_tensor([3])])
        row = {"input_ids": torch.cat([inputs["input_ids"], ids], 1), "document_lengths": lengths}
        return row | picture, torch.cat([labels, silent], 1)
    n = max(labels.shape[1], 3)
    short, rest = n - labels.shape[1], n - 3
    mask = inputs.get("attention_mask", torch.ones_like(labels))
    rows = {
        "input_ids": torch.cat([pad(inputs["input_ids"], (0, short)), pad(ids, (0, rest))]),
        "attention_mask": torch.cat([pad(mask, (0, short)), pad(torch.ones_like(ids), (0, rest))]),
    }
    return rows | picture, torch.cat([pad(labels, (0, short), value=-100), pad(silent, (0, rest), value=-100)])


@torch.no_grad()
def put_whole(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a model the weights of its sharded twin, one after the other, so that only one is whole at a time.

    Args:
        model: gets them.
        state: the twin's state_dict(); every process must call this.
    """
    for name, tensor in model.state_dict().items():
        tensor.copy_(_whole(state[name]))


def held_back(called: nn.Module, *, last: bool) -> AbstractContextManager:
    """Inside the context, let gradients be summed over the processes only for the last micro-batch of a step.

    Args:
        called: what `spread` says is to be called.
        last: whether this is the last.
    """
    if isinstance(called, DistributedDataParallel):
        return nullcontext() if last else called.no_sync()
    if hasattr(called, "set_requires_gradient_sync"):
        called.set_requires_gradient_sync(last)
    return nullcontext()


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


# ---- checkpoints


def check_alike(what: str, number: int) -> None:
    """Make sure that all processes found the same.

    Args:
        what: the number is.
        number: what this process found.

    Raises:
        ValueError: in every process, if one found another number.
    """
    processes = share().processes
    found = [number] * processes
    if processes > 1:
        dist.all_gather_object(found, number)
    if len(set(found)) > 1:
        raise ValueError(f"{what}: {found} in the {processes} processes; all must see the same folder")


def save_together(folder: Path, state: TrainingState, *, best: int | None = None, keep: int = 2) -> None:
    """Write a checkpoint of a training: the first process all of it, or of a sharded model every process what it holds.

    Shards are safetensors files too, one a process, with the place of each part beside it; and they are sealed alike.

    Args:
        folder, state, best, keep: as for save_training; every process must call this.

    Raises:
        OSError: as for save_training, in the first process.
    """
    if not _is_sharded(state.model):
        if is_first():
            save_training(folder, state, best=best, keep=keep)
        return
    storage = _storage()

    def fill(unfinished: Path | None) -> None:
        where = [unfinished]
        dist.broadcast_object_list(where, 0)  # only the first knows the temporary name
        writer = storage.HuggingFaceStorageWriter(str(where[0]), save_distributed=True)
        storage.save(state.model | state.optimizer, storage_writer=writer)

    if is_first():
        save_training(folder, state, best=best, keep=keep, fill=fill)
    else:
        fill(None)


def reader(model: nn.Module) -> Read:
    """What reads weights and the optimiser's memory from a checkpoint, whoever wrote it, for this model.

    Of a sharded model, every process reads the parts that it holds.

    Args:
        model: whole or sharded.
    """

    def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        own = model.state_dict()
        if (path / WEIGHTS).exists() and not _is_sharded(own):
            return load_tensors(path / WEIGHTS), load_tensors(path / OPTIMIZER)
        storage = _storage()
        source = storage.HuggingFaceStorageReader(str(path))
        tensors = {}
        for name, entry in source.read_metadata().state_dict_metadata.items():
            alike = own.get(name, own.get(name.rpartition(".")[0]))
            if alike is not None and alike.shape == entry.size:
                tensors[name] = torch.zeros_like(alike, dtype=entry.properties.dtype)
            else:  # a count of steps
                tensors[name] = torch.zeros(entry.size, dtype=entry.properties.dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            storage.load(tensors, storage_reader=source, no_dist=share().processes == 1)
        weights = {name: tensor for name, tensor in tensors.items() if name in own}
        return weights, {name: tensor for name, tensor in tensors.items() if name not in own}

    return read


def _storage() -> ModuleType:
    from torch.distributed import checkpoint  # late: loading it takes a second

    if not hasattr(checkpoint, "HuggingFaceStorageWriter"):
        raise ImportError(f"checkpoints of a sharded model need torch 2.9 or newer, this is {torch.__version__}")
    return checkpoint


def _is_sharded(state: Mapping[str, Tensor]) -> bool:
    return any(hasattr(tensor, "full_tensor") for tensor in state.values())
