import json
import os
import re
import shutil
from dataclasses import fields

import av
import numpy as np
import pytest
import torch

from minivid import classify
from minivid.classify import Classifier, Request, clip_settings, evaluate_files, finetune_files, report_text
from minivid.data.labelled_files import LabelledFile
from minivid.data.moving_shapes import MOTIONS, make_class_folders
from minivid.models.vivit import ViViT, ViViTConfig
from minivid.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from minivid.training.finetune import clip_gradients, evaluate
from minivid.training.finetune_config import FinetuneConfig
from minivid.video.clip import load_clip
from minivid.video.decode import VideoError
from minivid.video.write import write_video

TINY = {
    "image_size": 8, "num_frames": 4, "tubelet_size": (2, 4, 4), "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 8,
}  # fmt: skip


def asked(data, output, **changes):
    values = {"model": "vivit", "numbers": TINY, "training": {"steps": 2, "batch_size": 3}} | changes
    return Request(data=str(data), output=str(output), **values)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    make_class_folders(folder, 40, side=16)
    return folder


@pytest.fixture
def undrawn(monkeypatch):
    """Drawing takes most of the time of a training of two steps, and one test looks at the drawings."""
    monkeypatch.setattr("minivid.training.run_folder.draw_curves", lambda *_: None)
    monkeypatch.setattr(classify, "_draw_confusion", lambda *_: None)


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, finetune_files(asked(shapes, folder), quiet=True)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder as a person has it: two classes, no splits, one file that is no video and a copy."""
    folder = tmp_path_factory.mktemp("own")
    for label, level in (("dark", 20), ("light", 220)):
        (folder / label).mkdir()
        for i in range(4):
            pixels = torch.full((3 + i, 3, 16, 24), level, dtype=torch.uint8) + i
            write_video(folder / label / f"{i}.mp4", pixels, fps=10)
    (folder / "dark" / "notes.mp4").write_text("not a video")
    shutil.copy(folder / "light" / "0.mp4", folder / "light" / "copy of 0.mp4")
    return folder


# ---- training


def test_leaves_what_it_promises_and_measures_on_what_it_never_saw(shapes, trained):
    folder, metrics = trained
    assert {path.name for path in folder.iterdir()} - {"tensorboard"} == {
        "cache", "checksums.json", "config.json", "confusion.png", "curves.png", "files.jsonl", "history.jsonl",
        "metrics.json", "model.safetensors", "run.json", "unreadable.jsonl",
    }  # fmt: skip
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert (metrics["split"], metrics["examples"]) == ("test", 10)
    assert metrics["clips"] == {"train": 25, "validation": 5, "test": 10}
    checkpoint = load_checkpoint(folder)
    assert checkpoint.classes == tuple(sorted(MOTIONS)) and checkpoint.clip == clip_settings(checkpoint.model.config)
    clips = [
        (load_clip(path, checkpoint.clip).frames, checkpoint.classes.index(path.parent.name))
        for path in sorted((shapes / "test").glob("*/*.mp4"))
    ]
    found = evaluate(checkpoint.model, clips)
    assert found.accuracy == metrics["accuracy"] and found.confusion.tolist() == metrics["confusion"]["matrix"]
    assert found.loss == pytest.approx(metrics["loss"], rel=1e-5)  # summed in the same order, read from the file


def test_the_label_map_the_splits_and_the_unreadable_files_are_saved(undrawn, own, tmp_path):
    metrics = finetune_files(asked(own, tmp_path), quiet=True)
    assert json.loads((tmp_path / "config.json").read_text())["classes"] == ["dark", "light"]
    rows = [json.loads(line) for line in (tmp_path / "unreadable.jsonl").read_text().splitlines()]
    assert [(os.path.basename(row["path"]), row["kind"]) for row in rows] == [
        ("notes.mp4", "not_video"),
        ("copy of 0.mp4", "repeated") if rows[1]["path"].endswith("copy of 0.mp4") else ("0.mp4", "repeated"),
    ]
    assert all(row["reason"] and row["used"] is False for row in rows) and metrics["unreadable"] == 2
    files = [LabelledFile(**json.loads(line)) for line in (tmp_path / "files.jsonl").read_text().splitlines()]
    assert len(files) == 8 and metrics["clips"] == {"train": 4, "validation": 2, "test": 2}
    assert len({file.fingerprint for file in files}) == 8


def test_everything_is_said_before_the_start(undrawn, own, tmp_path, capsys):
    finetune_files(asked(own, tmp_path, epochs=1.5, training={"batch_size": 3, "learning_rate": 0.01}))
    said = capsys.readouterr()
    assert said.out == ""
    for words in (
        "8 clips, train 4, validation 2, test 2",
        "classes   2: dark 4, light 4",
        f"2 left out (not_video 1, repeated 1): see {tmp_path}/unreadable.jsonl",
        "ViViT of ",
        "tubelet_size=(2,4,4)",
        "num_labels=2",
        "steps=2 batch_size=3",  # 1.5 rounds over 4 clips are 6 clips
        "learning_rate=0.01",
        "augment   crop, color",
        f"output    {tmp_path}",
    ):
        assert words in said.err


def test_the_same_request_gives_the_same_weights_and_another_seed_others(undrawn, own, tmp_path):
    def weights(name, **training):
        finetune_files(asked(own, tmp_path / name, training={"steps": 2, "batch_size": 3} | training), quiet=True)
        return (tmp_path / name / "model.safetensors").read_bytes()

    assert weights("a") == weights("b") != weights("c", seed=1)


def stop_at(call):
    """A clip_gradients at whose n-th call Ctrl-C is pressed."""
    calls = []

    def press(*arguments):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return clip_gradients(*arguments)

    return press


def test_after_ctrl_c_the_same_call_goes_on_and_ends_in_the_same_weights(undrawn, own, tmp_path, monkeypatch, capsys):
    request = asked(own, tmp_path / "run", training={"steps": 4, "batch_size": 3, "save_every": 1})
    with pytest.raises(ValueError, match="holds no unfinished training to resume"):
        finetune_files(request, resume=True, quiet=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("minivid.training.finetune.clip_gradients", stop_at(3))
        finetune_files(request)
    assert re.search("stopped after step 2 of 4. Run the same command again", capsys.readouterr().err)
    with pytest.raises(FileNotFoundError, match="not finished; run `minivid finetune` again"):
        Classifier(tmp_path / "run")
    for change, words in (
        ({"augment": ("color",)}, r"augment \['crop', 'color'\] \(now \['color'\]\)"),
        ({"numbers": TINY | {"hidden_size": 4}}, "config .*'hidden_size': 8.*now .*'hidden_size': 4"),
        ({"training": {"steps": 5, "batch_size": 3, "save_every": 1}}, r"steps=4 \(now 5\)"),
    ):
        with pytest.raises(ValueError, match=words):
            finetune_files(asked(own, tmp_path / "run", **{"training": request.training} | change), quiet=True)
    finetune_files(request, resume=True, quiet=True)
    finetune_files(asked(own, tmp_path / "whole", training=request.training), quiet=True)
    names = "model.safetensors", "history.jsonl", "metrics.json"
    assert all((tmp_path / "run" / n).read_bytes() == (tmp_path / "whole" / n).read_bytes() for n in names)


def test_a_stop_after_the_last_step_costs_no_step(undrawn, own, tmp_path, monkeypatch):
    request = asked(own, tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("minivid.classify.save_checkpoint", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        finetune_files(request, quiet=True)
    monkeypatch.setattr("minivid.training.finetune.clip_gradients", None)
    assert finetune_files(request, quiet=True)["steps"] == 2
    assert not (tmp_path / "checkpoints").exists()


def test_files_that_changed_since_the_stop_are_said(undrawn, own, tmp_path, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(own, data)
    request = asked(data, tmp_path / "run")
    for calls, label in (
        (1, "dark"),
        (2, "light"),
    ):  # before the first save nothing is there to go on with, and other files may be given
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("minivid.training.finetune.clip_gradients", stop_at(calls))
            finetune_files(request, quiet=True)
        (data / label / f"{calls}.mp4").unlink()
    with pytest.raises(ValueError, match=r"other files \(\d new or moved, \d gone\)"):
        finetune_files(request, quiet=True)


def test_a_finished_training_is_not_overwritten_unless_asked(undrawn, trained, shapes, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    with pytest.raises(ValueError, match="holds a finished training.*--overwrite"):
        finetune_files(asked(shapes, tmp_path / "run"), quiet=True)
    (tmp_path / "run" / "mine.txt").write_text("stays")
    request = asked(shapes, tmp_path / "run", training={"steps": 1, "batch_size": 2})
    with pytest.raises(ValueError, match="resume and overwrite"):
        finetune_files(request, overwrite=True, resume=True, quiet=True)
    assert finetune_files(request, overwrite=True, quiet=True)["steps"] == 1
    assert (tmp_path / "run" / "mine.txt").exists()
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(ValueError, match="was not made by `minivid finetune`"):
        finetune_files(request, overwrite=True, quiet=True)


def test_the_weights_of_another_training_are_a_start(undrawn, trained, shapes, own, tmp_path):
    start, _ = trained
    still = {"steps": 1, "batch_size": 2, "learning_rate": 1e-12, "weight_decay": 0.0}
    finetune_files(Request(str(shapes), str(tmp_path / "a"), start=str(start), training=still), quiet=True)
    before, same = (load_checkpoint(folder).model.state_dict() for folder in (start, tmp_path / "a"))
    assert all(torch.allclose(before[name], same[name], atol=1e-9) for name in before)
    finetune_files(Request(str(own), str(tmp_path / "b"), start=str(start), training=still), quiet=True)
    other = load_checkpoint(tmp_path / "b")
    assert other.classes == ("dark", "light") and other.model.config.num_labels == 2
    kept = [name for name in before if not name.startswith("classifier.")]
    assert all(torch.allclose(before[name], other.model.state_dict()[name], atol=1e-9) for name in kept)


def test_a_start_keeps_the_order_of_its_answers(undrawn, shapes, tmp_path):
    classes = tuple(MOTIONS)
    assert list(classes) != sorted(classes)  # which is the order of a new model
    model = ViViT(ViViTConfig(**TINY, num_labels=4))
    save_checkpoint(tmp_path / "a", model, classes=classes, clip=clip_settings(model.config))
    still = {"steps": 1, "batch_size": 2, "learning_rate": 1e-12, "weight_decay": 0.0}
    finetune_files(Request(str(shapes), str(tmp_path / "b"), start=str(tmp_path / "a"), training=still), quiet=True)
    assert load_checkpoint(tmp_path / "b").classes == classes
    for path in list((shapes / "test").glob("*/*.mp4"))[:3]:
        before, after = (Classifier(tmp_path / name).predict(path)["probabilities"] for name in "ab")
        assert list(after) == list(before) and list(after.values()) == pytest.approx(list(before.values()), abs=1e-6)
    found = evaluate_files(tmp_path / "b", quiet=True)
    assert [found["classes"][name]["support"] for name in classes] == [
        len(list((shapes / "test" / name).glob("*.mp4"))) for name in classes
    ]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model": "vibert"}, "vibert: there is no such model"),
        ({"model": "qwen3_vl"}, "qwen3_vl: this model answers in words and tells no classes apart; choose another"),
        ({"numbers": {"depth": 3}}, "ViViT has no depth"),
        ({"numbers": TINY | {"num_labels": 7}}, "num_labels=7: follows from the data, 2 classes"),
        ({"numbers": TINY | {"num_channels": 1}}, "num_channels=1: files give 3"),
        ({"start": "nowhere"}, "leave --model and --set out"),
        ({"start": "nowhere", "model": None, "numbers": {}}, "nowhere: no config.json"),
        ({"augment": ("reverse",)}, "there is no 'reverse'"),
        ({"training": {"pace": 3}}, "training: there is no pace"),
        ({"training": {"steps": 0}}, "steps=0 is not at least 1"),
        ({"epochs": 3}, "steps=2 and epochs=3 are both given"),
        ({"epochs": 0, "training": {}}, "epochs=0 is not above 0"),
        ({"shares": (1, 0, 0)}, "no clip is left in validation; give it a share .now 0. or files"),
        ({"shares": (1, 2)}, "expected three numbers"),
    ],
)
def test_what_does_not_fit_together_is_one_error_before_the_start(own, tmp_path, changes, words):
    with pytest.raises((ValueError, OSError), match=words):
        finetune_files(asked(own, tmp_path, **changes), quiet=True)
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    "training, words",
    [
        ({"freeze": ("backbone",)}, "freeze: no parameter has 'backbone' in its name"),
        ({"rates": {"backbone": 1e-3}}, "rates: no learned parameter has 'backbone' as the first piece in its name"),
        ({"metric": "f1"}, "metric='f1' is none of what is measured: validation_loss, validation_accuracy"),
    ],
)
def test_a_wrong_name_is_told_before_hours_of_decoding(own, tmp_path, monkeypatch, training, words):
    monkeypatch.setattr("minivid.classify.read_files", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(ValueError, match=words):
        finetune_files(asked(own, tmp_path, training=training), quiet=True)


def test_a_class_or_a_split_without_a_readable_file_is_an_error_that_says_where_to_look(shapes, own, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(own, data)
    for path in (data / "light").iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        ValueError, match="class 'light': none of its 5 files can be used; .*0.mp4: is empty.*jsonl lists"
    ):
        finetune_files(asked(data, tmp_path / "run"), quiet=True)
    assert len((tmp_path / "run" / "unreadable.jsonl").read_text().splitlines()) == 6
    shutil.copytree(shapes, tmp_path / "shapes")
    for path in (tmp_path / "shapes" / "validation").glob("*/*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="split 'validation': none of its 5 files can be used; .*is empty"):
        finetune_files(asked(tmp_path / "shapes", tmp_path / "run"), quiet=True)


def test_workers_and_no_cache_change_nothing(undrawn, own, tmp_path):
    finetune_files(asked(own, tmp_path / "plain"), quiet=True)
    finetune_files(asked(own, tmp_path / "other", workers=1, cache="none"), quiet=True)
    plain, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "other"))
    assert plain == other and not (tmp_path / "other" / "cache").exists()


def test_the_small_numbers_are_the_default_and_the_published_ones_are_to_be_had():
    request = Request("data")
    with torch.device("meta"):
        small = classify._new_model(request, 3).config
        published = classify._new_model(Request("data", size="published", numbers={"image_size": 64}), 3).config
    assert type(small).__name__ == "ConvLSTMConfig" and small.num_labels == published.num_labels == 3
    assert published == type(published)(image_size=64, num_labels=3) and small.image_size < 64


def test_unset_numbers_of_a_training_follow_from_the_others():
    config = classify._training(Request("data"), 10)
    assert (config.batch_size, config.evaluate_every, config.save_every, config.return_best) == (10, 100, 50, True)
    config = classify._training(Request("data", training={"steps": 5, "save_every": 0}), 100)
    assert (config.batch_size, config.evaluate_every, config.save_every, config.return_best) == (32, 1, 0, False)
    given = {item.name: getattr(FinetuneConfig(), item.name) for item in fields(FinetuneConfig)}
    assert classify._training(Request("data", training=given), 10) == FinetuneConfig()


# ---- measuring


def test_evaluates_what_the_training_kept_for_testing(trained):
    folder, metrics = trained
    found = evaluate_files(folder, quiet=True)
    assert {name: found[name] for name in ("split", "examples", "accuracy", "confusion", "classes")} == {
        name: metrics[name] for name in ("split", "examples", "accuracy", "confusion", "classes")
    }
    assert evaluate_files(folder, split="all", quiet=True)["examples"] == 40
    assert evaluate_files(folder, split="validation", quiet=True)["examples"] == 5
    assert (
        json.dumps(found) and "weighted avg" in report_text(found) and f"{found['accuracy']:.1%}" in report_text(found)
    )


def test_a_file_that_the_training_saw_is_never_tested_on_whatever_its_name(undrawn, own, tmp_path):
    finetune_files(asked(own, tmp_path / "run"), quiet=True)
    files = [LabelledFile(**json.loads(line)) for line in (tmp_path / "run" / "files.jsonl").read_text().splitlines()]
    moved = tmp_path / "moved"
    for number, file in enumerate(files):
        (moved / file.label).mkdir(parents=True, exist_ok=True)
        shutil.copy(file.path, moved / file.label / f"renamed_{number}.mp4")
    assert evaluate_files(tmp_path / "run", moved, quiet=True)["splits"] == {"train": 4, "validation": 2, "test": 2}
    write_video(moved / "dark" / "new.mp4", torch.zeros(4, 3, 16, 24, dtype=torch.uint8))
    assert evaluate_files(tmp_path / "run", moved, quiet=True)["examples"] == 3
    only = tmp_path / "only" / "dark"
    only.mkdir(parents=True)
    shutil.copy(next(file.path for file in files if file.split == "train"), only / "a.mp4")
    (only.parent / next(file.label for file in files if file.split == "train")).mkdir(exist_ok=True)
    seen = next(file for file in files if file.split == "train" and file.label == "dark")
    shutil.copy(seen.path, only / "a.mp4")
    shutil.rmtree(only.parent / "light", ignore_errors=True)
    with pytest.raises(ValueError, match=r"no clip in test \(1 in train\); choose another with --split"):
        evaluate_files(tmp_path / "run", only.parent, quiet=True)


def test_what_cannot_be_evaluated_is_one_error(trained, own, shapes, tmp_path):
    folder, _ = trained
    with pytest.raises(ValueError, match="class 'dark' is none of those that .* knows: down, left, right, up"):
        evaluate_files(folder, own, quiet=True)
    with pytest.raises(ValueError, match="there is no folder"):
        evaluate_files(folder, plot=tmp_path / "none" / "a.png", quiet=True)
    with pytest.raises(FileNotFoundError, match="no config.json"):
        evaluate_files(tmp_path, quiet=True)
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "run.json").unlink()
    with pytest.raises(ValueError, match="does not say which files it was trained with; give some with --data"):
        evaluate_files(tmp_path / "copy", quiet=True)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "copy" / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="model.safetensors"):
        evaluate_files(tmp_path / "copy", shapes, quiet=True)


def test_the_confusion_is_drawn(trained, tmp_path):
    evaluate_files(trained[0], plot=tmp_path / "a.png", quiet=True)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_many_classes_are_reported_without_the_matrix(trained):
    metrics = evaluate_files(trained[0], quiet=True)
    names = [f"class {i}" for i in range(21)]
    wide = metrics | {"confusion": {"classes": names, "matrix": np.eye(21, dtype=int).tolist()}}
    assert "answered as" in report_text(metrics) and "answered as" not in report_text(wide)


# ---- answering


@pytest.mark.parametrize("t, height, width", [(1, 18, 34), (3, 64, 64), (50, 41, 30)])
def test_predicts_for_files_of_any_length_and_size(trained, tmp_path, t, height, width):
    write_video(tmp_path / "a.mp4", torch.randint(0, 255, (t, 3, height, width), dtype=torch.uint8), fps=10)
    found = Classifier(trained[0]).predict(tmp_path / "a.mp4")
    assert list(found["probabilities"]) == sorted(MOTIONS)
    assert found["label"] == max(found["probabilities"], key=found["probabilities"].get)
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    indices = [frame["index"] for frame in found["frames"]]
    assert len(indices) == 4 and indices == sorted(indices) and indices[0] == 0 and indices[-1] == t - 1
    assert [frame["second"] for frame in found["frames"]] == pytest.approx([i / 10 for i in indices], abs=1e-4)
    json.dumps(found)


def test_the_most_probable_classes_come_first(trained, shapes):
    path = next((shapes / "test").glob("*/*.mp4"))
    classifier = Classifier(trained[0])
    every, two = classifier.predict(path)["probabilities"], classifier.predict(path, top=2)["probabilities"]
    assert list(two.items()) == sorted(every.items(), key=lambda item: -item[1])[:2]
    assert len(classifier.predict(path, top=9)["probabilities"]) == 4
    with pytest.raises(ValueError, match="top=0 is not at least 1"):
        classifier.predict(path, top=0)


def test_predicts_what_was_measured_on_the_same_files(trained, shapes):
    found = evaluate_files(trained[0], shapes, split="validation", quiet=True)
    classifier = Classifier(trained[0])
    files = sorted((shapes / "validation").glob("*/*.mp4"))
    right = [classifier.predict(path)["label"] == path.parent.name for path in files]
    assert sum(right) / len(right) == found["accuracy"]


def test_predicts_for_a_gif(trained, tmp_path):
    with av.open(str(tmp_path / "a.gif"), "w") as file:
        stream = file.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 37, 21, "rgb8"
        for level in range(5):
            picture = np.full((21, 37, 3), 40 * level, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    found = Classifier(trained[0]).predict(tmp_path / "a.gif")
    assert len(found["frames"]) == 4 and found["frames"][-1]["index"] == 4


def test_what_cannot_be_predicted_is_one_error(trained, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(VideoError, match="a.mp4"):
        Classifier(trained[0]).predict(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="b.mp4"):
        Classifier(trained[0]).predict(tmp_path / "b.mp4")
    with pytest.raises(FileNotFoundError, match="config.json.*minivid demo"):
        Classifier(tmp_path)


def test_a_file_becomes_the_input_of_the_model_that_will_read_it():
    settings = clip_settings(ViViTConfig(**TINY))
    assert (settings.frames, settings.height, settings.width, settings.repeat_short) == (4, 8, 8, True)
    assert (settings.patch_size, settings.temporal_patch_size, settings.spatial_merge_size) == (4, 2, 1)
