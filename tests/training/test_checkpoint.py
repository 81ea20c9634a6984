import json
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from minivid.models.vivit import ViViT, ViViTConfig
from minivid.training import checkpoint
from minivid.training.checkpoint import (
    CONFIG,
    WEIGHTS,
    CheckpointError,
    load_checkpoint,
    load_state,
    save_checkpoint,
    save_state,
    write_text,
)
from minivid.video.clip import ClipSettings

MODEL = ViViTConfig(
    image_size=6, num_frames=4, tubelet_size=(2, 3, 3), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=7, num_labels=3,
)  # fmt: skip
CLIP = ClipSettings(frames=4, height=6, width=6, patch_size=3, temporal_patch_size=2, spatial_merge_size=1)
CLASSES = ("left", "right", "elsewhere")


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


def test_the_configuration_can_be_read_by_people_and_nothing_is_pickled(saved):
    folder, _ = saved
    about = json.loads((folder / CONFIG).read_text())
    assert about["model"] == "ViViT" and about["config"]["hidden_size"] == 8 and about["classes"] == list(CLASSES)
    assert about["clip"]["frames"] == 4
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]
    # A safetensors file is the length of a JSON text, that text, and the numbers it describes: nothing that could run.
    data = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    numbers = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header.values())
    assert header["classifier.weight"]["shape"] == [3, 8] and 8 + length + numbers == len(data)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("left", [0, 1, 9, 0.5, 0.99])
def test_a_file_that_was_cut_short_is_named_with_its_size(saved, name, left):
    folder, _ = saved
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: left if left >= 1 or left == 0 else int(left * len(whole))])
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


def test_a_folder_without_a_model_says_what_is_missing(tmp_path, saved):
    with pytest.raises(FileNotFoundError, match=rf"nowhere: no {CONFIG}.*minivid demo"):
        load_checkpoint(tmp_path / "nowhere")
    folder, _ = saved
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=f"no {WEIGHTS}"):
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
    with pytest.raises(CheckpointError, match=f"{CONFIG}.*{words}"):
        load_checkpoint(folder)


def test_weights_of_another_model_are_told_apart(saved):
    folder, model = saved
    tensors = dict(model.state_dict())
    wide = tensors | {"classifier.weight": torch.zeros(5, 8)}
    save_file(wide, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"classifier.weight \(5, 8\) instead of \(3, 8\)"):
        load_checkpoint(folder)
    tensors["head.weight"] = tensors.pop("classifier.weight")
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="missing classifier.weight.*surplus head.weight"):
        load_checkpoint(folder)


def test_as_many_classes_as_logits(saved):
    folder, _ = saved
    about = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(about | {"classes": ["left"]}))
    with pytest.raises(CheckpointError, match="1 classes for num_labels=3"):
        load_checkpoint(folder)


def test_a_model_that_could_not_be_loaded_is_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match="Linear: not one of ViViT"):
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
        monkeypatch.setattr(checkpoint, "save_file", half)
    else:
        monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, ViViT(MODEL), classes=CLASSES, clip=CLIP)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_state_keeps_its_tensors_and_its_words_together(tmp_path):
    tensors = {"a": torch.arange(6).view(2, 3).T, "b.c": torch.tensor(1.5), "d": torch.zeros(0, 2)}
    save_state(tmp_path / "x.safetensors", tensors, {"steps": 7, "rows": [{"loss": 0.5}]})
    found, about = load_state(tmp_path / "x.safetensors")
    assert about == {"steps": 7, "rows": [{"loss": 0.5}]}
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert found["a"].dtype == torch.int64


def test_text_replaces_text(tmp_path):
    for text in ("one\n", "två\n"):
        write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
