"""Conversations to a model that answers: what is left in the folder, what goes on after a stop, what is refused."""

import json
import os
from dataclasses import replace

import pytest
import torch

from minivid import cli, converse
from minivid.converse import Request, answer, as_value, finetune_conversations, left_out_lines, limited, report_text
from minivid.data.conversation_files import ConversationFiles, LeftOut, check_conversations, read_conversations
from minivid.data.processor import Processor
from minivid.models.pretrained import load_pretrained, save_pretrained
from minivid.models.qwen3_vl import SMALL_CONFIG, Qwen3VL
from minivid.text.byte_pair import BytePair
from minivid.training.next_token import NextToken, next_token_loss
from minivid.video.clip import ClipSettings
from minivid.video.write import write_video

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>")  # fmt: skip
SAID = {"dark": {"light": "no"}, "grey": "so so", "light": {"light": "yes"}}


def tiny(folder, *, tied=True):
    """A folder as a published model's: 4 frames of 8 x 8 pixels are 2 tokens."""
    tokenizer = BytePair.train(["user\nHow is it?", "assistant\n", json.dumps(SAID)] * 3, 280, special_tokens=SPECIAL)
    vision = replace(
        SMALL_CONFIG.vision_config, depth=2, hidden_size=8, num_heads=2, intermediate_size=8, patch_size=4,
        out_hidden_size=16, deepstack_visual_indexes=(0,), num_position_embeddings=4,
    )  # fmt: skip
    text = replace(
        SMALL_CONFIG.text_config, vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, mrope_section=(2, 1, 1), intermediate_size=16,
    )  # fmt: skip
    ids = {
        f"{name}_token_id": tokenizer.token_id(f"<|{word}|>")
        for name, word in (
            ("image", "image_pad"), ("video", "video_pad"),
            ("vision_start", "vision_start"), ("vision_end", "vision_end"),
        )
    }  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3VL(replace(SMALL_CONFIG, vision_config=vision, text_config=text, tie_word_embeddings=tied, **ids))
    cut = {"patch_size": 4, "temporal_patch_size": vision.temporal_patch_size, "spatial_merge_size": 2}
    pictures = ClipSettings(**cut, min_pixels=64, max_pixels=64)
    clips = ClipSettings(**cut, frames=4, repeat_short=True, min_pixels=64, total_pixels=128)
    Processor(tokenizer, pictures, clips).save(folder)
    save_pretrained(model, folder)
    (folder / "generation_config.json").write_text('{"do_sample": false}')
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, and conversations about clips of three brightnesses, four clips each; one answer is a text."""
    folder = tmp_path_factory.mktemp("talk")
    tiny(folder / "model")
    items = []
    for level, label in zip((20, 120, 220), SAID, strict=True):
        for i in range(4):
            name = f"{label} {i}.mp4"
            write_video(folder / name, torch.full((4, 3, 16, 16), level + i, dtype=torch.uint8), fps=4)
            asked = {"from": "human", "value": "<video>\nHow is it?"}
            items.append({"video": name, "conversations": [asked, {"from": "gpt", "value": SAID[label]}]})
    (folder / "talk.json").write_text(json.dumps(items))
    return folder


def asked(place, output, **changes):
    values = {"training": {"steps": 3, "batch_size": 4}, "answer_tokens": 5} | changes
    return Request(model=str(place / "model"), data=str(place / "talk.json"), output=str(output), **values)


@pytest.fixture(scope="module")
def trained(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    metrics = finetune_conversations(asked(place, folder, training={"steps": 4, "learning_rate": 0.05}), quiet=True)
    return folder, metrics


@pytest.fixture
def undrawn(monkeypatch):
    """Drawing takes most of the time of a training of three steps, and one test looks at the drawings."""
    monkeypatch.setattr("minivid.training.run_folder.draw_curves", lambda *_: None)


def weights(folder):
    return load_pretrained(folder).state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- training


def test_leaves_what_it_promises(place, trained):
    folder, metrics = trained
    assert {path.name for path in folder.iterdir()} - {"tensorboard"} == {
        "before_and_after.json", "config.json", "conversations.jsonl", "curves.png", "generation_config.json",
        "history.jsonl", "left_out.jsonl", "metrics.json", "model.safetensors", "preprocessor_config.json", "run.json",
        "tokenizer.json", "video_preprocessor_config.json",
    }  # fmt: skip
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert metrics["conversations"] == {"train": 10, "validation": 2, "left_out": 0} and metrics["steps"] == 4
    assert (metrics["before"]["step"], metrics["after"]["step"]) == (0, 4)
    rows = [json.loads(line) for line in (folder / "conversations.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["train"] * 10 + ["validation"] * 2
    assert len({row["video"] for row in rows}) == 12 and all(row["tokens"] > 20 for row in rows)


def test_the_model_in_the_folder_is_the_one_that_was_measured(place, trained):
    folder, metrics = trained
    model, processor = load_pretrained(folder), Processor.from_folder(folder)
    good, _ = check_conversations(read_conversations(place / "talk.json"), processor)
    rows = map(json.loads, (folder / "conversations.jsonl").read_text().splitlines())
    held = {row["video"] for row in rows if row["split"] != "train"}
    data = ConversationFiles([each for each in good if each.item["video"] in held], processor)
    found = NextToken().measure(model, data)
    wanted = {name: value for name, value in metrics["after"].items() if name != "step"}
    assert found == pytest.approx(wanted, rel=1e-5)
    assert wanted["validation_loss"] < metrics["before"]["validation_loss"]


def test_before_and_after_are_shown_as_conversation_files_have_them(place, trained):
    folder, metrics = trained
    answers = metrics["answers"]
    assert list(answers) == ["before", "wanted", "after"]
    items = {item["video"]: item for item in json.loads((place / "talk.json").read_text())}
    assert answers["wanted"] == items[answers["wanted"]["video"]]
    for when, model in (("before", place / "model"), ("after", folder)):
        shown = answers[when]
        assert (shown["video"], shown["conversations"][0]) == (
            answers["wanted"]["video"],
            {"from": "human", "value": "<video>\nHow is it?"},
        )
        messages = [{"role": "user", "content": [{"video": str(place / shown["video"])}, {"text": "How is it?"}]}]
        said = answer(load_pretrained(model), messages, Processor.from_folder(folder), max_new_tokens=5)
        assert shown["conversations"][1]["value"] == as_value(said)
    assert answers["before"] != answers["after"]


def test_in_one_row_and_in_parts_the_weights_are_those_of_a_padded_batch(undrawn, place, tmp_path):
    whole = {"steps": 3, "batch_size": 4, "learning_rate": 3e-3}
    finetune_conversations(asked(place, tmp_path / "padded", training=whole), quiet=True)
    want = weights(tmp_path / "padded")
    for name, changes in (
        ("flat", {"flatten": True}),
        ("flat parts", {"flatten": True, "training": whole | {"micro_batches": 2}}),
        ("recomputed", {"training": whole | {"gradient_checkpointing": True}}),
    ):
        finetune_conversations(asked(place, tmp_path / name, **({"training": whole} | changes)), quiet=True)
        for key, found in weights(tmp_path / name).items():
            if "k_proj.bias" not in key:  # its gradient is 0 but for rounding, which AdamW makes as large as any other
                torch.testing.assert_close(found, want[key], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_a_flattened_row_has_the_loss_and_the_gradients_of_its_conversations(place, tmp_path, tied):
    folder = tiny(tmp_path, tied=tied)
    model, processor = load_pretrained(folder), Processor.from_folder(folder)
    with torch.no_grad():
        for weight in model.parameters():  # a fresh model looks nowhere in particular
            weight.add_(0.2 * torch.randn_like(weight))
    good, _ = check_conversations(read_conversations(place / "talk.json"), processor)
    found = []
    for flat in (False, True):
        data = ConversationFiles(good[2:6], processor, flat=flat)
        summed, count = next_token_loss(model, *data.collate([data[i] for i in range(4)]))
        found.append((summed, count, *torch.autograd.grad(summed, list(model.parameters()))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    lengths = [data[i]["input_ids"].shape[1] for i in range(4)]
    assert len(set(lengths)) > 1  # so that there was padding


def test_a_stopped_training_goes_on_to_the_same_weights(undrawn, place, tmp_path, monkeypatch):
    config = {"steps": 6, "batch_size": 4, "save_every": 2, "learning_rate": 1e-3}
    whole = finetune_conversations(asked(place, tmp_path / "whole", training=config), quiet=True)
    stopped = asked(place, tmp_path / "stopped", training=config)

    def finetune(*arguments, on_step, **options):
        def stop(step):
            on_step(step)
            if step == 3:
                raise KeyboardInterrupt

        return real(*arguments, on_step=stop, **options)

    real = converse.finetune
    with monkeypatch.context() as patched:
        patched.setattr(converse, "finetune", finetune)
        with pytest.raises(KeyboardInterrupt):
            finetune_conversations(stopped, quiet=True)
    assert not (tmp_path / "stopped" / "config.json").exists()
    with pytest.raises(ValueError, match=r"an unfinished training with flatten False \(now True\); ask for the same"):
        finetune_conversations(replace(stopped, flatten=True), quiet=True)
    before = (tmp_path / "stopped" / "before_and_after.json").read_text()
    assert "before" in json.loads(before)
    metrics = finetune_conversations(stopped, resume=True, quiet=True)
    assert same(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))
    assert metrics == whole
    with pytest.raises(ValueError, match="holds a finished training; give another output folder, or --overwrite"):
        finetune_conversations(stopped, quiet=True)


@pytest.mark.parametrize("part", ["vision", "merger", "language"])
def test_a_part_that_is_not_tuned_stays_as_it_is(undrawn, place, tmp_path, part):
    # The first step has learning rate 0.
    config = {"steps": 2, "batch_size": 4, "learning_rate": 1e-2}
    finetune_conversations(asked(place, tmp_path, training=config, **{part: False}), quiet=True)
    piece = {"vision": "visual.", "merger": "visual.merger.", "language": "language_model."}[part]
    before, after = weights(place / "model"), weights(tmp_path)
    for name in before:
        stays = piece in name and not (part == "vision" and "visual.merger." in name)
        if name != "visual.pos_embed.weight":  # rows that no frame of this size reads
            assert torch.equal(before[name], after[name]) == stays, name


def test_each_part_has_its_rate(place, tmp_path, capsys):
    request = asked(place, tmp_path, merger_rate=0.25, vision_rate=0.0, training={"steps": 1, "learning_rate": 0.5})
    finetune_conversations(request)
    table = capsys.readouterr().err
    rates = {line.split(":")[0]: line.split()[-2] for line in table.splitlines() if ": weights" in line}
    assert rates == {"everything else": "0.5", "merger": "0.25"}


def test_the_recipe_is_the_published_one(undrawn, place, tmp_path, capsys):
    finetune_conversations(asked(place, tmp_path, training={}, epochs=0.5))
    said = capsys.readouterr().err
    for words in (
        "10 conversations to learn from, 2 held out",
        "clips     frames=4 min_frames=4 max_frames=768 min_pixels=64 total_pixels=128",
        "pictures  min_pixels=64 max_pixels=64",
        "steps=1 batch_size=8 micro_batches=1 learning_rate=2e-05 rates={merger:4e-05,visual:2e-06} schedule=cosine "
        "warmup_ratio=0.03 optimizer=adamw betas=(0.9,0.999)",
        "weight_decay=0.01 no_decay=() max_grad_norm=1",
        f"output    {tmp_path}",
    ):
        assert words in said


# ---- which conversations


def test_what_cannot_be_used_is_listed(undrawn, place, tmp_path, capsys):
    items = json.loads((place / "talk.json").read_text())
    items[3]["conversations"][0]["value"] += " Tell me all about it." * 9
    items[5]["video"] = "no such.mp4"
    data = place / "some.json"
    data.write_text(json.dumps(items))
    metrics = finetune_conversations(replace(asked(place, tmp_path, max_tokens=99), data=str(data)))
    assert [entry["place"] for entry in metrics["left_out"]] == ["some.json, item 3", "some.json, item 5"]
    assert "more than the 99 allowed" in metrics["left_out"][0]["reason"]
    assert "no such.mp4" in metrics["left_out"][1]["reason"]
    rows = [json.loads(line) for line in (tmp_path / "left_out.jsonl").read_text().splitlines()]
    assert rows == metrics["left_out"] and metrics["conversations"]["train"] == 9
    said = capsys.readouterr().err
    assert f"left out  2 conversations: see {tmp_path}/left_out.jsonl\n          some.json, item 3: " in said


def test_of_many_left_out_the_first_are_shown():
    lines = list(left_out_lines([LeftOut(f"x, item {i}", "why") for i in range(8)], "left_out.jsonl"))
    assert lines[0] == "left out  8 conversations: see left_out.jsonl"
    assert lines[1:] == [*(f"          x, item {i}: why" for i in range(5)), "          and 3 more"]
    assert list(left_out_lines([], "")) == []


def test_other_conversations_to_be_measured_on(undrawn, place, tmp_path):
    items = json.loads((place / "talk.json").read_text())
    for name, part in (("learn.json", items[:9]), ("measure.json", items[9:])):
        (place / name).write_text(json.dumps(part))
    request = replace(asked(place, tmp_path), data=str(place / "learn.json"), validation=str(place / "measure.json"))
    metrics = finetune_conversations(request, quiet=True)
    assert metrics["conversations"] == {"train": 9, "validation": 3, "left_out": 0}
    with pytest.raises(ValueError, match=r"talk.json: .*dark 0.mp4 is learnt from too; measure on others$"):
        finetune_conversations(
            replace(request, output=str(tmp_path / "other"), validation=request.model + "/../talk.json"), quiet=True
        )


# ---- limits


def test_limits_are_in_frames_and_pixels(place):
    processor = Processor.from_folder(place / "model")
    found = limited(processor, {"fps": 1.5, "max_pixels": 256}, {"max_pixels": 144})
    assert (found.video.fps, found.video.frames, found.video.repeat_short) == (1.5, None, False)
    assert (found.video.max_pixels, found.image.max_pixels) == (256, 144)
    found = limited(found, {"frames": 6}, {})
    assert (found.video.fps, found.video.frames, found.video.repeat_short) == (None, 6, True)
    assert limited(processor, {}, {}) == processor
    assert limited(found, {"max_frames": 9}, {}).video.frames is None
    with pytest.raises(ValueError, match="^fps=2 and frames=4 are both given; give one of them$"):
        limited(processor, {"frames": 4, "fps": 2.0}, {})


# ---- words


def test_an_answer_that_is_an_object_is_given_as_one():
    assert as_value('{"a": [1, "é"]}') == {"a": [1, "é"]} and as_value("[1]") == [1]
    for text in ("left", "3", '"left"', '{"a": ', "null"):
        assert as_value(text) == text


def test_the_report_shows_both_answers(trained):
    _, metrics = trained
    text = report_text(metrics)
    assert text.startswith("held-out conversations  2\nbefore                  loss ")
    for when in ("before", "after", "wanted"):
        assert f"\n{when}:\n" + json.dumps(metrics["answers"][when], indent=2, ensure_ascii=False) in text
    assert "\nbefore                  loss" not in report_text(metrics | {"before": None})


# ---- wrong input


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"data": "nowhere.json"}, "nowhere.json: no such file; give the conversations as .json or .jsonl"),
        ({"validation": "nowhere"}, "nowhere: no such file; give the conversations to be measured on as .json or .js"),
        ({"training": {"layers": 3}}, "training: there is no layers; there are adamw_for, batch_size, betas"),
        ({"training": {"steps": 3}, "epochs": 2}, "steps=3 and epochs=2 are both given; give one of them"),
        ({"training": {}, "epochs": 0}, "epochs=0 is not above 0"),
        ({"vision": False, "merger": False, "language": False}, "nothing learns with vision=False, merger=False and"),
        ({"vision": False, "training": {"train_only": ("lm_head",)}}, "with a part that is not tuned; say what trains"),
        ({"training": {"freeze": ("backbone",)}}, "freeze: no parameter has 'backbone' in its name"),
        (
            {"training": {"metric": "bleu"}},
            "metric='bleu' is none of what is measured: validation_loss, validation_tok",
        ),
        ({"max_tokens": 9}, "none of its 12 conversations can be used; talk.json, item 0: "),
        ({"clips": {"frames": 1}}, "frames"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(undrawn, place, tmp_path, changes, words):
    with pytest.raises((ValueError, OSError)) as caught:
        finetune_conversations(replace(asked(place, tmp_path), **changes), quiet=True)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"max_tokens": 0}, "max_tokens=0 is not at least 1"),
        ({"answer_tokens": 0}, "answer_tokens=0 is not at least 1"),
        ({"merger_rate": -1.0}, "merger_rate=-1.0 is not 0 or above"),
        ({"vision_rate": float("nan")}, "vision_rate=nan is not 0 or above"),
        ({"validation_share": 1.0}, "validation_share=1.0 is not between 0 and 1"),
    ],
)
def test_a_request_is_checked(place, changes, words):
    with pytest.raises(ValueError, match=f"^{words}$"):
        asked(place, "x", **changes)


def test_another_model_is_refused(place, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vivit"}')
    with pytest.raises(ValueError, match="model_type='vivit', expected 'qwen3_vl', a model that answers in words$"):
        finetune_conversations(replace(asked(place, tmp_path / "x"), model=str(tmp_path)), quiet=True)


# ---- the command


def test_the_command_passes_everything_on(monkeypatch, tmp_path, capsys):
    seen = {}
    monkeypatch.setattr(converse, "finetune_conversations", lambda request, **how: seen.update(r=request, **how) or {})
    words = (
        f"finetune --model {tmp_path} --data talk.json --output out --validation v.json --media m --no-tune-vision "
        "--tune-language --merger-rate 1e-4 --vision-rate 0 --fps 2 --max-frames 8 --max-pixels 4*32*32 "
        "--image-max-pixels 1024 --max-tokens 500 --flatten --weighting parts --answer-tokens 9 --epochs 2 "
        "--batch-size 16 --accumulate 4 --bfloat16 --gradient-checkpointing --workers 2 --sharded --resume --json"
    )
    assert cli.main(words.split()) == 0
    assert seen["r"] == Request(
        model=str(tmp_path), data="talk.json", output="out", validation="v.json", media="m", vision=False,
        language=True, merger_rate=1e-4, vision_rate=0.0, clips={"fps": 2.0, "max_frames": 8, "max_pixels": 4096},
        images={"max_pixels": 1024}, max_tokens=500, flatten=True, weighting="parts", answer_tokens=9, epochs=2.0,
        workers=2, sharded=True,
        training={"batch_size": 16, "micro_batches": 4, "bfloat16": True, "gradient_checkpointing": True},
    )  # fmt: skip
    assert {name: seen[name] for name in ("resume", "overwrite", "quiet")} == {
        "resume": True, "overwrite": False, "quiet": True,
    }  # fmt: skip
    assert cli.main(["finetune", "--model", str(tmp_path), "--data", "talk.json"]) == 0
    assert seen["r"] == Request(model=str(tmp_path), data="talk.json")


@pytest.mark.parametrize(
    "words, said",
    [
        ("--model {model} --augment crop --size small", "--size, --augment: not for conversations, and --model"),
        ("--model {model} --from x", "--from: not for conversations, and --model"),
        (
            "--data x --model vivit --flatten",
            "--flatten: only for conversations; give --model a folder with a Qwen3-VL",
        ),
        ("--data x --no-tune-vision --fps 2", "--fps, --tune-vision: only for conversations; give --model a folder"),
        ("--model no/such/folder", "no/such/folder"),
        ("--model folder", "conversations are for a folder with a Qwen3-VL; --model folder is none"),
        ("", "conversations are for a folder with a Qwen3-VL; give one with --model"),
    ],
)
def test_options_of_the_other_training_are_refused(place, capsys, words, said):
    words = words.format(model=place / "model").split()
    assert cli.main(["finetune", "--data", str(place / "talk.json"), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_user_sees_before_and_after(undrawn, place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, data = os.path.relpath(place / "model"), os.path.relpath(place / "talk.json")
    command = ["finetune", "--model", model, "--data", data, "--steps", "1", "--answer-tokens", "2"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "held-out conversations  2" in said and '"from": "gpt"' in said
    assert "minivid describe YOUR.mp4 --checkpoint runs/conversations" in said
    assert cli.main(command) == 2
    assert "runs/conversations: holds a finished training" in capsys.readouterr().err
