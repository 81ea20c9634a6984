"""Many processes, one training: each computes its share of every batch, and torch.distributed sums up what they found.

Start them with `torchrun --nproc-per-node N -m minivid finetune ...`. Of a batch of b clips each takes b / N,
and the weights move as with one process. Either every process holds the whole model (DDP), or each holds a part of
every weight and fetches the rest when a block needs it (FSDP2), for models that do not fit otherwise.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.parallel import DistributedDataParallel

from minivid.models.qwen3_vl import Qwen3VL
from minivid.training.checkpoint import OPTIMIZER, WEIGHTS, Read, TrainingState, load_tensors, save_training
from minivid.training.objectives import MaskedAutoencoder, WithHead
from minivid.training.processes import device, is_first, share, total
from minivid.training.recompute import blocks_of

# ---- a model in many processes


@contextmanager
def spread(model: nn.Module, *, sharded: bool = False) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Let a model be trained by all processes, from the first one's weights on.

    A gradient is then the mean over all processes of what each computed. Inside the context the model's own weights
    must not be used; when it ends well, they are the trained ones, in every process.

    Args:
        model: with requires_grad as it will be trained; on this process's device or, if sharded, wherever there is
            room for the whole of it.
        sharded: whether each process holds only a part of every weight (FSDP2) instead of all of them (DDP). Part by
            part is brought to this process's device, cut, and taken away from the model, which is empty until the end.
            The members of its outermost nn.ModuleList are fetched one by one; a vision tower, whose blocks are called
            as often as there are sizes of frames, is fetched as a whole.

    Yields:
        The model whose parameters move, by the names they had, and what is to be called to compute a loss.

    Raises:
        ValueError: if sharded is asked for with one process only.

    Source: DDP: Li et al. 2020 (arXiv:2006.15704); sharding: Zhao et al. 2023 (arXiv:2304.11277).
    """
    if share().processes == 1:
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
    place = next(model.parameters()).device
    twin = _sharded_twin(model)
    yield twin, twin
    _put_whole(model, twin.state_dict(), place)


@torch.no_grad()
def _sharded_twin(model: nn.Module) -> nn.Module:
    """The model in shards, whose weights the model itself has lost: what is sharded cannot be made whole in place."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # late: loading it takes a second

    mesh = init_device_mesh(device().type, (share().processes,))
    # At first the two have the same weights, not equal ones, so that there is never a second copy of all.
    twin = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    for part in (*_fetched(twin), twin):
        whole = [weight for weight in part.parameters() if not _is_cut(weight)]
        # Whole weights that outlive a forward pass without a backward one would be stale after the next step.
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
        for weight in whole:
            weight.data = weight.new_empty(0)
    return twin


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
def _put_whole(model: nn.Module, state: Mapping[str, Tensor], place: torch.device) -> None:
    # One weight after the other, so that of the sharded twin's only one is whole beside them.
    for name, weight in model.named_parameters():
        weight.data = _whole(state[name]).to(place)
    for name, tensor in model.named_buffers():
        if name in state:
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
    return tensor.full_tensor() if _is_cut(tensor) else tensor


def _is_cut(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


# ---- checkpoints


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
    return any(_is_cut(tensor) for tensor in state.values())
