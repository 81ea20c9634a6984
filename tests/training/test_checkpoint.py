import errno
import json
import logging
import os
import random
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from minivid.models.vivit import ViViT, ViViTConfig
from minivid.models.zoo import build_model, model_classes
from minivid.training.checkpoint import (
    BEST_AND_LAST,
    CONFIG,
    OPTIMIZER,
    TRAINING,
    WEIGHTS,
    CheckpointError,
    TrainingState,
    find_training,
    load_checkpoint,
    load_training,
    optimizer_state,
    put_optimizer_state,
    put_weights,
    save_checkpoint,
    save_training,
    write_text,
)
from minivid.training.optimizer import SGD, AdamW
from minivid.training.sealed_folder import CHECKSUMS, seal
from minivid.video.clip import ClipSettings
from minivid.whole_files import UNFINISHED

MODEL = ViViTConfig(
    image_size=6, num_frames=4, tubelet_size=(2, 3, 3), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=7, num_labels=3,
)  # fmt: skip
CLIP = ClipSettings(frames=4, height=6, width=6, patch_size=3, temporal_patch_size=2, spatial_merge_size=1)
CLASSES = ("left", "right", "elsewhere")
FILES = (CHECKSUMS, CONFIG, WEIGHTS)


# ---- a trained model


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = ViViT(MODEL)
    save_checkpoint(tmp_path, model, classes=CLASSES, clip=CLIP)
    return tmp_path, model


def test_a_model_comes_back_bit_for_bit(saved):
    folder, model = saved
    found = load_checkpoint(folder)
    assert found.classes == CLASSES and found.clip == CLIP and found.model.config == MODEL
    assert not found.model.training
    ours, theirs = model.state_dict(), found.model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    clips = torch.randn(2, 4, 3, 6, 6)
    with torch.no_grad():
        assert torch.equal(model.eval()(clips), found.model(clips))


SMALL = {
    "vivit": {"image_size": 8, "num_frames": 4, "tubelet_size": (2, 4, 4), "hidden_size": 8, "num_hidden_layers": 1,
              "num_attention_heads": 2, "intermediate_size": 8},
    "conv3d_classifier": {"image_size": 8, "num_frames": 4, "hidden_sizes": (4, 6), "depths": (1, 1)},
    "conv_lstm": {"image_size": 8, "num_frames": 4, "conv_sizes": (4, 6), "hidden_size": 8},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(model_classes()) & set(SMALL)))
def test_every_model_of_the_house_comes_back(tmp_path, name):
    model = build_model(name, SMALL[name] | {"num_labels": 3})
    save_checkpoint(tmp_path, model, classes=CLASSES, clip=CLIP)
    found = load_checkpoint(tmp_path).model
    assert type(found) is type(model) and found.config == model.config
    assert all(torch.equal(one, found.state_dict()[key]) for key, one in model.state_dict().items())


def test_the_configuration_can_be_read_by_people_and_nothing_is_pickled(saved):
    folder, _ = saved
    about = json.loads((folder / CONFIG).read_text())
    assert about["model"] == "ViViT" and about["config"]["hidden_size"] == 8 and about["classes"] == list(CLASSES)
    assert about["clip"]["frames"] == 4
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert_only_numbers(folder / WEIGHTS, {"classifier.weight": [3, 8]})


def assert_only_numbers(path, shapes):
    # A safetensors file is the length of a JSON text, that text, and the numbers it describes: nothing that could run.
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    numbers = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header.values())
    assert 8 + length + numbers == len(data)
    assert {name: header[name]["shape"] for name in shapes} == shapes


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [0, 1, 9, 0.5, 0.99])
def test_a_file_that_was_cut_short_is_named_with_its_size(saved, name, left):
    folder, _ = saved
    whole = (folder / name).read_bytes()
    cut = whole[: left if left >= 1 or left == 0 else int(left * len(whole))]
    (folder / name).write_bytes(cut)
    with pytest.raises(CheckpointError, match=f"{name}: {len(cut)} bytes"):
        load_checkpoint(folder)


def test_a_changed_number_is_seen(saved):
    folder, model = saved
    tensors = load_file(folder / WEIGHTS)
    tensors["classifier.bias"] += 1.0
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=f"{WEIGHTS}: it has changed since it was written"):
        load_checkpoint(folder)


def test_a_folder_without_a_model_says_what_is_missing(tmp_path, saved):
    with pytest.raises(FileNotFoundError, match=rf"nowhere: no {CONFIG}.*minivid demo"):
        load_checkpoint(tmp_path / "nowhere")
    folder, _ = saved
    for name in (CHECKSUMS, WEIGHTS):
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"no {name}, expected {CONFIG}, {WEIGHTS} and {CHECKSUMS}"):
            load_checkpoint(folder)


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"model": "ResNet", "config": {}, "classes": [], "clip": {}}', "ViViT.*ResNet"),
        ('{"architectures": ["BertModel"]}', "KeyError.*model"),
        ("[1, 2]", "TypeError"),
        ('{"model": "ViViT", "config": {"wings": 2}, "classes": [], "clip": {}}', "wings"),
        ('{"model": "ViViT", "config": {"image_size": 7}, "classes": [], "clip": {}}', "image_size=7"),
    ],
)
def test_a_configuration_of_something_else_is_told_apart(saved, text, words):
    folder, _ = saved
    (folder / CONFIG).write_text(text)
    seal(folder, (CONFIG, WEIGHTS))
    with pytest.raises(CheckpointError, match=f"{CONFIG}.*{words}"):
        load_checkpoint(folder)


def test_weights_of_another_model_are_told_apart(saved):
    folder, model = saved
    tensors = dict(model.state_dict())
    save_file(tensors | {"classifier.weight": torch.zeros(5, 8)}, folder / WEIGHTS)
    seal(folder, (CONFIG, WEIGHTS))
    with pytest.raises(CheckpointError, match=r"another model.*ViViT.*classifier.weight \(5, 8\) instead of \(3, 8\)"):
        load_checkpoint(folder)
    tensors["head.weight"] = tensors.pop("classifier.weight")
    save_file(tensors, folder / WEIGHTS)
    seal(folder, (CONFIG, WEIGHTS))
    with pytest.raises(CheckpointError, match="missing classifier.weight; surplus head.weight$"):
        load_checkpoint(folder)


def test_as_many_classes_as_logits(saved):
    folder, _ = saved
    about = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(about | {"classes": ["left"]}))
    seal(folder, (CONFIG, WEIGHTS))
    with pytest.raises(CheckpointError, match="1 classes for num_labels=3"):
        load_checkpoint(folder)


def test_a_model_that_could_not_be_loaded_is_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match="Linear: not one of .*ViViT"):
        save_checkpoint(tmp_path / "new", nn.Linear(2, 3), classes=("a", "b", "c"), clip=CLIP)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("moment", ["write", "rename"])
def test_being_stopped_in_the_middle_leaves_the_old_files_whole(saved, monkeypatch, moment):
    folder, _ = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def half(tensors, path, *_):
        with open(path, "wb") as file:
            file.write(b"half of it")
        raise KeyboardInterrupt

    def stop(*_):
        raise KeyboardInterrupt

    if moment == "write":
        monkeypatch.setattr("minivid.training.checkpoint.save_file", half)
    else:
        monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, ViViT(MODEL), classes=CLASSES, clip=CLIP)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_weights_that_do_not_fit_leave_the_model_as_it_was(tmp_path):
    model = nn.Linear(2, 3)
    before = model.weight.clone()
    with pytest.raises(
        CheckpointError, match=r"x: the weights of another model than this Linear: bias \(4,\) instead of \(3,\)"
    ):
        put_weights(model, {"weight": torch.zeros(3, 2), "bias": torch.zeros(4)}, tmp_path / "x")
    assert torch.equal(model.weight, before)


def test_text_replaces_text(tmp_path):
    for text in ("one\n", "två\n"):
        write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


# ---- an unfinished training


def state(step):
    numbers = torch.arange(12.0).view(3, 4) + step
    return TrainingState(
        step,
        {"layer.weight": numbers.T, "layer.scale": torch.tensor(1.5), "none": torch.zeros(0, 2)},
        {"layer.weight.exp_avg": -numbers.T, "layer.weight.step": torch.tensor(float(step))},
        {"seed": 3, "history": [{"step": step, "loss": 0.1 + step}]},
    )


def equal(one, other):
    def tensors(a, b):
        return a.keys() == b.keys() and all(
            torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a
        )

    same_words = (one.step, one.about) == (other.step, other.about)
    return same_words and tensors(one.model, other.model) and tensors(one.optimizer, other.optimizer)


def steps(folder):
    return sorted(int(path.name[5:]) for path in folder.glob("step-*"))


def test_a_training_comes_back_bit_for_bit(tmp_path):
    folder = tmp_path / "checkpoints"
    assert find_training(folder) is None
    save_training(folder, state(7))
    assert equal(find_training(folder), state(7))
    path = folder / "step-00000007"
    assert sorted(file.name for file in path.iterdir()) == sorted([CHECKSUMS, OPTIMIZER, TRAINING, WEIGHTS])
    assert json.loads((folder / BEST_AND_LAST).read_text()) == {"last": "step-00000007", "best": None}
    assert json.loads((path / TRAINING).read_text())["history"] == [{"step": 7, "loss": 7.1}]
    assert_only_numbers(path / WEIGHTS, {"layer.weight": [4, 3]})
    assert_only_numbers(path / OPTIMIZER, {"layer.weight.exp_avg": [4, 3]})
    assert json.loads((path / CHECKSUMS).read_text()).keys() == {OPTIMIZER, TRAINING, WEIGHTS}


def test_one_weight_of_two_names_is_saved_under_both(tmp_path):
    weight = torch.arange(6.0).view(2, 3)
    save_training(tmp_path, TrainingState(1, {"a": weight, "b": weight}, {}, {}))
    found = find_training(tmp_path)
    assert torch.equal(found.model["a"], weight) and torch.equal(found.model["b"], weight) and found.optimizer == {}


def test_there_are_never_fewer_than_two_to_go_back_to(tmp_path):
    for step in (1, 2, 3):
        save_training(tmp_path, state(step), keep=0)
    assert steps(tmp_path) == [2, 3]


def test_the_last_and_the_best_stay_and_the_oldest_go(tmp_path):
    for step in range(1, 4):
        save_training(tmp_path, state(step), best=1, keep=0)
    assert steps(tmp_path) == [1, 3]
    for step in range(4, 9):
        save_training(tmp_path, state(step), best=5 if step >= 5 else 1, keep=3)
    assert steps(tmp_path) == [5, 7, 8]
    assert json.loads((tmp_path / BEST_AND_LAST).read_text()) == {"last": "step-00000008", "best": "step-00000005"}
    assert not list(tmp_path.glob(f"{UNFINISHED}*"))
    save_training(tmp_path, state(9), best=9, keep=2)
    assert steps(tmp_path) == [8, 9]


def test_of_a_damaged_checkpoint_the_previous_good_one_is_found_and_the_reason_told(tmp_path, caplog):
    save_training(tmp_path, state(4))
    save_training(tmp_path, state(8))
    last = tmp_path / "step-00000008"
    file = last / WEIGHTS
    changed = bytearray(file.read_bytes())
    changed[-3] ^= 16
    file.write_bytes(changed)
    with caplog.at_level(logging.WARNING):
        assert equal(find_training(tmp_path), state(4))
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("checkpoint of step 8 skipped: ") and f"{file}: it has changed" in first
    assert second == "going on from the checkpoint of step 4"
    # The next save makes the damaged one go.
    save_training(tmp_path, state(5))
    assert steps(tmp_path) == [4, 5] and equal(find_training(tmp_path), state(5))


def test_300_flipped_bits_and_20_cuts_are_each_seen_and_nothing_is_lost(tmp_path, caplog):
    save_training(tmp_path, state(4))
    save_training(tmp_path, state(8))
    dice = random.Random(0)
    files = sorted((tmp_path / "step-00000008").iterdir())
    places = [(file, place) for file in files for place in range(8 * file.stat().st_size)]
    cuts = [(file, left) for file in files for left in range(file.stat().st_size)]
    faults = [*dice.sample(places, 300), *dice.sample(cuts, 20)]
    for number, (file, place) in enumerate(faults):
        whole = file.read_bytes()
        changed = bytearray(whole)
        if number < 300:
            changed[place // 8] ^= 1 << place % 8
        else:
            del changed[place:]
        file.write_bytes(changed)
        caplog.clear()
        assert find_training(tmp_path).step == 4 and "checkpoint of step 8 skipped" in caplog.text
        file.write_bytes(whole)
    assert equal(find_training(tmp_path), state(8)) and equal(load_training(tmp_path / "step-00000004"), state(4))


def test_where_no_checkpoint_is_whole_the_error_names_the_newest(tmp_path):
    for step in (4, 8):
        save_training(tmp_path, state(step))
        (tmp_path / f"step-{step:08d}" / OPTIMIZER).write_bytes(b"short")
    words = rf"none of its 2 checkpoints is whole.*step-00000008/{OPTIMIZER}: 5 bytes.*begin anew"
    with pytest.raises(CheckpointError, match=words):
        find_training(tmp_path)


def test_a_foreign_checkpoint_is_told_apart(tmp_path):
    save_training(tmp_path, state(4))
    path = tmp_path / "step-00000004"
    path.rename(tmp_path / "step-00000009")
    with pytest.raises(CheckpointError, match="step-00000009/training.json: not about this.*it is of step 4"):
        load_training(tmp_path / "step-00000009")
    (tmp_path / "step-00000009" / TRAINING).write_text("[]")
    seal(tmp_path / "step-00000009", (WEIGHTS, OPTIMIZER, TRAINING))
    with pytest.raises(CheckpointError, match="training.json: not about this checkpoint"):
        load_training(tmp_path / "step-00000009")
    (tmp_path / "step-00000009" / WEIGHTS).write_text("no tensors")
    write_text(tmp_path / "step-00000009" / TRAINING, '{"step": 9}')
    seal(tmp_path / "step-00000009", (WEIGHTS, OPTIMIZER, TRAINING))
    with pytest.raises(CheckpointError, match="model.safetensors: 10 bytes that are no complete safetensors file"):
        load_training(tmp_path / "step-00000009")
    (tmp_path / "step-00000009" / CHECKSUMS).unlink()
    with pytest.raises(FileNotFoundError, match="no checksums.json"):
        load_training(tmp_path / "step-00000009")
    (tmp_path / "step-nine").mkdir()
    assert find_training(tmp_path / "elsewhere") is None


def refuse(*_, **__):
    raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("fault", ["disk full", "read-only folder", "refused rename"])
def test_a_save_that_fails_is_loud_and_leaves_the_earlier_checkpoints(tmp_path, monkeypatch, fault):
    save_training(tmp_path, state(4))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    new = state(8)
    if fault == "disk full":
        # A file of more than 100,000 bytes cannot be written, as on a disk that is full: 160,000 do not fit.
        new.model["large"] = torch.zeros(40_000)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    elif fault == "read-only folder":
        tmp_path.chmod(0o555)
        if os.access(tmp_path, os.W_OK):  # whoever runs the tests may write anywhere
            monkeypatch.setattr(os, "mkdir", refuse)
    else:
        monkeypatch.setattr(os, "replace", refuse)
    try:
        with pytest.raises(OSError, match=r"step-00000008: the checkpoint could not be saved \(.*earlier ones.*again"):
            save_training(tmp_path, new)
    finally:
        monkeypatch.undo()
        tmp_path.chmod(0o755)
        if fault == "disk full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert equal(find_training(tmp_path), state(4))
    save_training(tmp_path, state(8))  # with the fault gone
    assert equal(find_training(tmp_path), state(8))


def test_nothing_is_removed_before_the_new_checkpoint_was_read_back(tmp_path, monkeypatch):
    for step in (1, 2):
        save_training(tmp_path, state(step))

    def rotten(folder, *_):
        raise CheckpointError("it does not read as it was written")

    monkeypatch.setattr("minivid.training.sealed_folder.check_seal", rotten)
    with pytest.raises(CheckpointError):
        save_training(tmp_path, state(3))
    assert {1, 2} <= set(steps(tmp_path))


@pytest.mark.parametrize(
    "make", [lambda weights: AdamW(weights, lr=0.1), lambda weights: SGD(weights, lr=0.1, momentum=0.9)]
)
def test_an_optimiser_goes_on_as_if_it_had_not_been_stopped(make):
    def step(model, optimizer, seed):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    other = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer, again = make(model.parameters()), make(other.parameters())
    assert optimizer_state(model, optimizer) == {}
    for seed in range(3):
        step(model, optimizer, seed)
    found = {name: value.clone() for name, value in optimizer_state(model, optimizer).items()}
    assert "0.weight.exp_avg" in found or "0.weight.momentum_buffer" in found
    other.load_state_dict(model.state_dict())
    put_optimizer_state(other, again, found)
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(other, again, seed)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
