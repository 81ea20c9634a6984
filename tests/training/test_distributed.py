"""Two processes beside one: the same losses, every clip once, checkpoints that either can go on from, one message."""

import os
import signal
from collections import Counter
from dataclasses import replace

import pytest
import torch
from two_processes import two_processes

from minivid.data.conversations import collate, flatten
from minivid.models.qwen3_vl import SMALL_CONFIG, Qwen3VL
from minivid.models.vivit import ViViT, ViViTConfig
from minivid.training.checkpoint import OPTIMIZER, WEIGHTS, CheckpointError, load_training
from minivid.training.distributed import reader, spread
from minivid.training.finetune import STATE, FinetuneConfig, finetune
from minivid.training.next_token import NextToken
from minivid.training.objectives import Classification, FrameOrder, FrameSimilarity, MaskedTubelets
from minivid.training.processes import is_first, joined, share, wait_for_all

MODEL = ViViTConfig(
    image_size=8,
    num_frames=4,
    tubelet_size=(2, 4, 4),
    hidden_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    num_labels=5,
    initializer_range=0.3,
)
CONFIG = FinetuneConfig(steps=8, batch_size=6, learning_rate=3e-3, max_grad_norm=0.5, seed=5, evaluate_every=3,
                        save_every=2)  # fmt: skip


def brighter(clip, rng):
    return clip + torch.rand((), generator=rng)


TRAININGS = {
    "DDP": {},
    "DDP, 3 micro-batches": {"config": replace(CONFIG, micro_batches=3)},
    "DDP, SGD, a frozen part": {"config": replace(CONFIG, optimizer="sgd", freeze=("patch_embed",), steps=4)},
    "FSDP2": {"sharded": True},
    "FSDP2, 2 micro-batches": {"sharded": True, "config": replace(CONFIG, micro_batches=2)},
    "FSDP2, recomputed": {"sharded": True, "config": replace(CONFIG, gradient_checkpointing=True, steps=4)},
    "DDP, order": {"objective": FrameOrder(2), "config": replace(CONFIG, steps=4)},
    "DDP, similar": {
        "objective": FrameSimilarity(brighter, width=6, reversals=True),
        "config": replace(CONFIG, batch_size=5, steps=4),
    },  # 5 clips: 2 and 3
    "DDP, masked": {"objective": MaskedTubelets((2, 4, 4), 0.5), "config": replace(CONFIG, steps=4)},
}


def clips(count):
    """Clips that hold their number somewhere; of every third the class is not known."""
    made = []
    for i in range(count):
        clip = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(i))
        clip[0, 0, 0, 0] = i
        made.append((clip, i % 5 if i % 3 else -100))
    return made


class Looked(list):
    """Examples that note which of them are looked at."""

    def __init__(self, items):
        super().__init__(items)
        self.looked = []

    def __getitem__(self, index):
        self.looked.append(index)
        return super().__getitem__(index)


def train(*, config=CONFIG, objective=None, stop=None, seen=None, **options):
    """The rows and the weights of a training."""
    torch.manual_seed(share().process)  # the first process's weights count
    whole = ViViT(MODEL)
    model = whole if objective is None else objective.pretrainer(whole)

    def step(done):
        if done == stop:
            raise KeyboardInterrupt

    def note(clip, rng):
        if seen is not None:
            seen.append(int(clip[0, 0, 0, 0]))
        return clip + 0.1 * torch.rand((), generator=rng)

    data = clips(13)
    held_back = [(clip, label) for clip, label in data if label >= 0]
    rows = []
    try:
        found = finetune(
            model, data, held_back, config, objective=objective, augment=note, on_step=step, quiet=True, **options
        )
        rows = found.rows
    except KeyboardInterrupt:
        pass
    return rows, {name: weight.detach().tolist() for name, weight in model.named_parameters()}


# ---- conversations

TALK = FinetuneConfig(steps=6, batch_size=4, learning_rate=3e-3, rates={"merger": 1e-3}, evaluate_every=3, save_every=0)
TALKS = {
    "DDP": {},
    "DDP, by parts": {"config": replace(TALK, micro_batches=2), "weighting": "parts"},
    "FSDP2": {"sharded": True},
    "FSDP2, flat": {"sharded": True, "flat": True},
    "FSDP2, recomputed": {"sharded": True, "config": replace(TALK, gradient_checkpointing=True, steps=3)},
    "FSDP2, only the merger": {"sharded": True, "config": replace(TALK, train_only=("visual.merger.",), steps=3)},
}


class Talks(list):
    """Conversations about a picture, about frames of another size, and, of every second, about nothing."""

    flat = False

    def __init__(self, count):
        c, eye = SMALL_CONFIG, SMALL_CONFIG.vision_config
        box = eye.in_channels * eye.temporal_patch_size * eye.patch_size**2
        for i in range(count):
            random = torch.Generator().manual_seed(i)
            ids, grids = torch.randint(500, (4 + i % 5,), generator=random).tolist(), []
            for h, w in () if i % 2 else ((2, 2 + i % 4),):
                grids.append([1, h, w - w % 2])
                ids = [
                    c.vision_start_token_id,
                    *[c.image_token_id] * (h * (w - w % 2) // 4),
                    c.vision_end_token_id,
                    *ids,
                ]
            ids = torch.tensor([ids])
            labels = ids.masked_fill((ids >= 500) | (torch.arange(ids.shape[1]) % 3 == 0), -100)
            item = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
            if grids:
                rows = sum(h * w for _, h, w in grids)
                item["pixel_values"] = torch.randn(rows, box, generator=random)
                item["image_grid_thw"] = torch.tensor(grids)
            self.append(item)

    def collate(self, chosen):
        batch = flatten(chosen) if self.flat else collate(chosen, pad_token_id=0)
        return batch, batch.pop("labels")


def talk(*, config=TALK, flat=False, weighting="tokens", **options):
    """The rows and the weights of a training on conversations."""
    torch.manual_seed(share().process)
    model, data = Qwen3VL(SMALL_CONFIG), Talks(11)
    data.flat = flat
    objective = NextToken(weighting, measured_at_once=1)
    found = finetune(model, data, data, config, objective=objective, quiet=True, **options)
    return found.rows, {name: weight.detach().tolist() for name, weight in model.named_parameters()}


# ---- what the processes do


def everything(folder):
    found = {}
    for name, options in TRAININGS.items():
        seen = []
        found[name] = train(seen=seen, **options)
        found[f"{name}: clips"] = seen
    for name, options in TALKS.items():
        found[f"talk: {name}"] = talk(**options)
    for name, options in (("sharded", {"sharded": True}), ("whole", {})):
        train(folder=folder / name, stop=5, **options)
    wait_for_all()
    found["on with one's"] = train(folder=folder / "one's", sharded=True)
    config = replace(CONFIG, return_best=True, save_total_limit=1)
    found["best"] = train(folder=folder / "best", sharded=True, config=config)
    model, data = ViViT(MODEL), Looked((clip, 0) for clip, _ in clips(13))
    Classification().measure(model, data)
    found["looked at"] = data.looked
    with spread(model, sharded=True) as (moved, _):
        found["held"] = sum(weight.numel() for weight in model.parameters())
        found["shards"] = sum(weight.to_local().untyped_storage().nbytes() // 4 for weight in moved.parameters())
    found["returned"] = sum(weight.numel() for weight in model.parameters())
    return found


def die(folder):
    train(folder=folder, config=replace(CONFIG, save_every=1), stop=None if is_first() else 4)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("together")
    train(folder=place / "one's", stop=5)
    return place


@pytest.fixture(scope="module")
def both(folder):
    return two_processes(everything, folder)


# ---- what must hold


def agree(found, want):
    """The same rows, and the same weights but for the key biases: their gradient is 0 but for rounding, which AdamW
    makes as large as any other.
    """
    (rows, weights), (want_rows, want_weights) = found, want
    assert [sorted(row) for row in rows] == [sorted(row) for row in want_rows] and rows
    for row, expected in zip(rows, want_rows, strict=True):
        # float32 sums in another order; after 8 steps.
        assert row == pytest.approx(expected, abs=1e-5, rel=1e-5)
    for name, weight in weights.items():
        if "k_proj.bias" not in name:
            torch.testing.assert_close(torch.tensor(weight), torch.tensor(want_weights[name]), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TALKS)
def test_two_processes_learn_from_conversations_as_one_does(both, name):
    options = {key: value for key, value in TALKS[name].items() if key != "sharded"}
    if options.get("weighting") == "parts":  # of which two processes have twice as many
        options["config"] = replace(options["config"], micro_batches=4)
    want = talk(**options)
    for found in both:
        agree(found[f"talk: {name}"], want)


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_with_half_the_batch_are_one_with_the_whole(both, name):
    options = {key: value for key, value in TRAININGS[name].items() if key != "sharded"}
    want = train(**options)
    for found in both:
        agree(found[name], want)


def test_no_clip_is_lost_or_doubled(both):
    alone = []
    train(seen=alone)
    for name in ("DDP", "DDP, 3 micro-batches", "FSDP2"):
        first, second = (found[f"{name}: clips"] for found in both)
        assert len(first) == len(second) == 24 and Counter(first + second) == Counter(alone)


@pytest.mark.parametrize("name", ["sharded", "whole"])
def test_one_process_goes_on_from_a_checkpoint_of_two(both, folder, name):
    saved = folder / name / STATE / "step-00000004"
    files = sorted(path.suffix for path in saved.iterdir())
    assert files == [".json", ".json", ".safetensors", ".safetensors"]
    assert (saved / WEIGHTS).exists() == (name == "whole")
    agree(train(folder=folder / name), train())


def test_two_processes_go_on_from_a_checkpoint_of_one_in_shards(both):
    for found in both:
        agree(found["on with one's"], train())


def test_the_best_weights_come_back_from_shards(both, tmp_path):
    config = replace(CONFIG, return_best=True)
    want = train(folder=tmp_path, config=config)
    for found in both:
        agree(found["best"], want)


def test_each_process_measures_its_share(both):
    assert [found["looked at"] for found in both] == [list(range(7)), list(range(7, 13))]


def test_nowhere_is_there_a_second_copy_of_what_is_sharded(both):
    whole = sum(weight.numel() for weight in ViViT(MODEL).parameters())
    for found in both:
        assert found["held"] == 0 and found["returned"] == whole
    # Rows are dealt out: of an odd number, both processes hold the larger half.
    assert whole / 2 <= found["shards"] <= 0.55 * whole


def test_damaged_shards_are_found(both, folder):
    saved = folder / "sharded" / STATE / "step-00000004"
    if not saved.exists():  # another test went on from it
        saved = folder / "best" / STATE / "step-00000008"
    shard = next(saved.glob("shard-*"))
    text = bytearray(shard.read_bytes())
    text[-1] ^= 1
    shard.write_bytes(text)
    with pytest.raises(CheckpointError, match=f"{shard.name}: it has changed"):
        load_training(saved, read=reader(ViViT(MODEL)))


def test_a_process_that_dies_ends_all_with_one_message_and_a_usable_checkpoint(tmp_path):
    alive, killed = two_processes(die, tmp_path)
    assert killed is None and isinstance(alive, ChildProcessError)
    assert "one of the 2 processes that train together died" in str(alive) and "same command again" in str(alive)
    agree(train(folder=tmp_path, config=replace(CONFIG, save_every=1)), train(config=replace(CONFIG, save_every=1)))


# ---- alone


def test_alone_nothing_is_spread(tmp_path):
    model = ViViT(MODEL)
    with joined(), spread(model) as (moved, called):
        assert moved is called is model
    with pytest.raises(ValueError, match="sharded=True with one process: start several with torchrun"):
        train(sharded=True)


def test_a_reader_tells_a_missing_file(tmp_path):
    rows = train(folder=tmp_path, stop=5)
    saved = tmp_path / STATE / "step-00000004"
    (saved / OPTIMIZER).unlink()
    with pytest.raises(CheckpointError, match=f"{OPTIMIZER} is missing"):
        load_training(saved, read=reader(ViViT(MODEL)))
    assert rows[0] == []
