"""A published model is asked about files, from the command line to the words."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minivid import cli, describe
from minivid.describe import Question, free_memory, memory_estimate, plan_answer, weight_count
from minivid.models.generate import generate
from minivid.models.pretrained import load_pretrained, published_qwen3_vl_config, save_pretrained
from minivid.models.qwen3_vl import Qwen3VL, Qwen3VLConfig, Qwen3VLTextConfig
from minivid.models.qwen3_vl_vision import Qwen3VLVisionConfig
from minivid.plots import new_figure, save_png
from minivid.text.byte_pair import BytePair
from minivid.video.decode import VideoInfo
from minivid.video.write import write_video

TOKENIZER = json.loads((Path(__file__).parent / "data" / "chat.json").read_text(encoding="utf-8"))["tokenizer"]
SPECIAL = {name: number for name, number in TOKENIZER["vocab"].items() if name.startswith("<|")}
CONFIG = Qwen3VLConfig(
    text_config=Qwen3VLTextConfig(
        vocab_size=352, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=26, mrope_section=(2, 1, 1), initializer_range=0.3,
    ),
    vision_config=Qwen3VLVisionConfig(
        depth=2, hidden_size=16, num_heads=2, intermediate_size=22, num_position_embeddings=9, out_hidden_size=24,
        deepstack_visual_indexes=(0,), initializer_range=0.3,
    ),
    image_token_id=348, video_token_id=349, vision_start_token_id=345, vision_end_token_id=346,
)  # fmt: skip
SMALL = ["--min-pixels", "32*32", "--max-pixels", "64*64", "--max-new-tokens", "4"]


def tokenizer():
    merges = [tuple(merge.split(" ")) for merge in TOKENIZER["merges"]]
    return BytePair(TOKENIZER["vocab"], merges, special_tokens=SPECIAL)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    save_pretrained(Qwen3VL(CONFIG), folder, shard_size=20_000)
    tokenizer().save(folder)
    return folder


@pytest.fixture
def copied(checkpoint, tmp_path):
    folder = tmp_path / "copied"
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    frames = torch.randint(0, 256, (20, 3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    write_video(path, frames, fps=10)
    return str(path)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    save_png(new_figure(1, 1, width=1.0, height=1.0)[0], path)
    return str(path)


def ask(*words):
    return cli.main(["describe", *map(str, words)])


def asked(capsys, *words):
    assert ask(*words, "--json") == 0
    said = capsys.readouterr()
    assert said.err == ""
    return json.loads(said.out)


def test_a_clip_is_answered_with_the_words_that_the_model_gives(checkpoint, clip, capsys):
    told = asked(capsys, clip, "--checkpoint", checkpoint, "--prompt", "Describe this video", *SMALL)
    (file,) = told["files"]
    assert (file["kind"], file["frames"], file["size"], file["grid"], file["tokens"]) == (
        "video", 4, [64, 64], [2, 4, 4], 8,
    )  # fmt: skip
    assert told["prompt_tokens"] == 8 + 3 + 2 * 2 + 2 * 6 + 8 and told["vision_tokens"] == 8
    planned = plan_answer(
        Question((clip,), "Describe this video", str(checkpoint), clip={"min_pixels": 1024, "max_pixels": 4096})
    )
    inputs = describe.prepare(planned.messages, planned.processor)
    assert inputs["input_ids"][0].tolist() == list(planned.conversation.input_ids)
    ids = generate(load_pretrained(checkpoint), inputs, max_new_tokens=4, eos_token_id=(342, 344))[0].tolist()
    assert told["new_tokens"] == len(ids)
    assert told["answer"] == tokenizer().decode([number for number in ids if number not in (342, 344)])
    assert told["ended"] == ("max_new_tokens" if ids[-1] not in (342, 344) else told["ended"])
    assert set(told["seconds"]) == {"load", "read", "prompt", "answer"} and min(told["seconds"].values()) >= 0


def test_words_come_one_by_one_and_the_values_are_said_before(checkpoint, clip, capsys):
    assert ask(clip, "--checkpoint", checkpoint, "--prompt", "Describe this video", *SMALL, "--fps", "3") == 0
    said = capsys.readouterr()
    for words in ("6 frames of 64 x 64", "12 tokens", "47 tokens", "float32", "greedy", "at most 4 tokens", "GiB free"):
        assert words in said.err, words
    planned = plan_answer(Question((clip,), "Describe this video", str(checkpoint), max_new_tokens=4))
    pieces = []
    told = describe.describe(planned, on_text=pieces.append, quiet=True)
    assert "".join(pieces) == told["answer"] and all(pieces)


def test_the_same_seed_draws_the_same_words_and_another_one_others(checkpoint, clip, capsys):
    words = [clip, "--checkpoint", checkpoint, "--prompt", "user", *SMALL[:4], "--max-new-tokens", "12"]
    drawn = ["--temperature", "2", "--top-k", "300", "--top-p", "0.99", "--min-p", "0.0001", "--presence-penalty", "1"]
    answers = [asked(capsys, *words, *drawn, "--seed", seed) for seed in (1, 1, 2)]
    assert answers[0]["answer"] == answers[1]["answer"] != answers[2]["answer"]
    sampling = answers[2]["sampling"]
    assert sampling == {
        "repetition_penalty": 1.0, "presence_penalty": 1.0, "temperature": 2.0, "top_k": 300, "top_p": 0.99,
        "min_p": 0.0001, "seed": 2,
    }  # fmt: skip


def test_pictures_and_clips_stand_in_the_order_of_the_command(checkpoint, clip, picture, capsys):
    words = ["--checkpoint", checkpoint, "--prompt", "Describe this image and the video", *SMALL, "--frames", "2"]
    told = asked(capsys, picture, clip, picture, *words, "--system", "user")
    assert [(file["kind"], file["frames"]) for file in told["files"]] == [("image", 1), ("video", 2), ("image", 1)]
    planned = plan_answer(Question((picture, clip), "a", str(checkpoint), system="use", clip={"frames": 2}))
    ids = planned.conversation.input_ids
    assert ids.index(348) < ids.index(349) and planned.messages[0] == {"role": "system", "content": "use"}


def test_a_dry_run_reads_no_weight_and_decodes_no_frame(copied, clip, capsys, monkeypatch):
    for path in copied.glob("*.safetensors*"):
        path.unlink()
    monkeypatch.setattr(describe, "prepare", None)
    words = [clip, "--checkpoint", copied, "--prompt", "Describe this video", *SMALL, "--dry-run"]
    assert ask(*words) == 0
    said = capsys.readouterr().out
    assert "[2, 16]" in said and "35 tokens" in said and f"{weight_count(CONFIG):,} weights" in said
    told = asked(capsys, *words)
    assert told["prompt_tokens"] == 35 and told["files"][0]["plan"]["grid"] == [2, 4, 4] and "answer" not in told


def test_the_worked_example_has_10938_tokens(checkpoint, monkeypatch):
    info = VideoInfo(1280, 720, 60.0, 900, 15.0, 0, "h264", False, "mov,mp4,m4a,3gp,3g2,mj2", 0.0, 1.0, False)
    for place in ("minivid.describe.probe", "minivid.data.conversations.probe"):
        monkeypatch.setattr(place, lambda path: info)
    bounds = {"total_pixels": 20480 * 32 * 32, "min_pixels": 64 * 32 * 32}
    planned = plan_answer(Question(("clip.mp4",), "Describe this video..", str(checkpoint), clip=bounds))
    assert len(tokenizer().encode("Describe this video..")) == 5
    talk = planned.conversation
    assert (talk.tokens, talk.vision_tokens, talk.media[0].grid) == (10938, 10800, (15, 40, 72))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_weights_are_counted_without_making_them(tied, bias):
    text = replace(CONFIG.text_config, attention_bias=bias)
    config = replace(CONFIG, text_config=text, tie_word_embeddings=tied)
    assert weight_count(config) == sum(weight.numel() for weight in Qwen3VL(config).parameters())
    assert weight_count(Qwen3VLConfig()) == 4_437_815_808  # as published for Qwen3-VL-4B


def test_what_does_not_fit_into_memory_is_refused_before_a_weight_is_read(checkpoint, clip, monkeypatch, capsys):
    monkeypatch.setattr(describe, "free_memory", lambda device: 100_000)
    monkeypatch.setattr(describe, "load_pretrained", None)
    assert ask(clip, "--checkpoint", checkpoint, "--prompt", "a", *SMALL) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for words in ("a prompt of 33 tokens needs about", "weights 0.2 MiB", "0.1 MiB are free", "--total-pixels"):
        assert words in said, words
    assert ask(clip, "--checkpoint", checkpoint, "--prompt", "a", *SMALL, "--dry-run") == 0


def test_memory_grows_with_what_it_holds(checkpoint, clip):
    planned = plan_answer(Question((clip,), "a", str(checkpoint)))
    talk, weights = planned.conversation, planned.weights
    one, two = (memory_estimate(CONFIG, talk, weights, new, torch.float32) for new in (1, 1001))
    assert two["cache"] - one["cache"] == 1000 * 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, width, bytes
    assert one["weights"] == 4 * weights and one["pixels"] == talk.bytes
    assert memory_estimate(CONFIG, talk, weights, 1, torch.bfloat16)["weights"] == 2 * weights
    assert free_memory() is None or free_memory() > 0


def test_an_answer_ends_where_the_checkpoint_says(copied, clip, capsys):
    words = [clip, "--checkpoint", copied, "--prompt", "a", *SMALL]
    assert asked(capsys, *words)["stops"] == {"<|im_end|>": 344, "<|endoftext|>": 342}
    (copied / "generation_config.json").write_text('{"eos_token_id": [344, 9]}')
    assert asked(capsys, *words)["stops"] == {"<|im_end|>": 344, "9": 9}
    (copied / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(352))}))
    told = asked(capsys, *words)
    assert (told["new_tokens"], told["answer"]) == (1, "") and told["ended"] in told["stops"]


def test_an_id_that_the_tokenizer_lacks_is_shown_as_unknown(checkpoint, clip, monkeypatch):
    def speak(model, inputs, *, on_token, **_):
        for number in (97, 351, 98):
            on_token(torch.tensor([number]))

    monkeypatch.setattr(describe, "generate", speak)
    told = describe.describe(plan_answer(Question((clip,), "a", str(checkpoint))), quiet=True)
    assert told["answer"] == "a\N{REPLACEMENT CHARACTER}b" and told["new_tokens"] == 3


def test_numbers_may_be_others_than_those_of_the_file(checkpoint, clip, capsys):
    words = [clip, "--checkpoint", checkpoint, "--prompt", "a", *SMALL]
    assert asked(capsys, *words, "--dtype", "bfloat16")["dtype"] == "bfloat16"
    assert asked(capsys, *words)["dtype"] == "float32"


def test_every_option_reaches_the_question(monkeypatch):
    seen = []
    monkeypatch.setattr(describe, "plan_answer", lambda question: seen.append(question) or 1 / 0)
    words = """a.mp4 b.png --checkpoint c --prompt d --system e --fps 3 --min-frames 6 --max-frames 7 --start 1 --end 2
        --repeat-short --min-pixels 8 --max-pixels 9 --total-pixels 2*5 --max-new-tokens 11 --temperature 0.5 --top-k 12
        --top-p 0.6 --min-p 0.1 --repetition-penalty 1.5 --presence-penalty 1.25 --seed 13 --dtype float32
        --device cuda"""
    with pytest.raises(ZeroDivisionError):
        ask(*words.split())
    assert seen == [
        Question(
            ("a.mp4", "b.png"), "d", "c", system="e", max_new_tokens=11, seed=13, dtype="float32", device="cuda",
            clip={"fps": 3.0, "min_frames": 6, "max_frames": 7, "start": 1.0, "end": 2.0, "repeat_short": True,
                  "min_pixels": 8, "max_pixels": 9, "total_pixels": 10},
            sampling={"temperature": 0.5, "top_k": 12, "top_p": 0.6, "min_p": 0.1, "repetition_penalty": 1.5,
                      "presence_penalty": 1.25},
        )
    ]  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        ask("a.mp4", "--checkpoint", "c", "--prompt", "d")
    assert seen[1] == Question(("a.mp4",), "d", "c")


# ---- what cannot be used is one line


def refused(capsys, *words):
    assert ask(*words) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("minivid describe: error: ")
    return said.err.removeprefix("minivid describe: error: ")


def test_a_checkpoint_that_cannot_be_used_is_refused(copied, clip, tmp_path, capsys):
    def said():
        return refused(capsys, clip, "--checkpoint", copied, "--prompt", "a", *SMALL)

    def changed(name, content):
        whole = (copied / name).read_bytes()
        if content is None:
            (copied / name).unlink()
        else:
            (copied / name).write_bytes(content)
        words = said()
        (copied / name).write_bytes(whole)
        return words

    shard = sorted(path.name for path in copied.glob("*.safetensors"))[1]
    assert f"1 of {len(list(copied.glob('*.safetensors')))} files with weights are missing, {shard}" in changed(
        shard, None
    )
    assert f"{shard}: 1000 bytes that are no complete safetensors file" in changed(
        shard, (copied / shard).read_bytes()[:1000]
    )
    assert "config.json: is not JSON" in changed("config.json", b'{"model_type":')
    assert "model_type='llava' is not known here" in changed("config.json", b'{"model_type": "llava"}')
    assert "model_type='vivit' does not read words" in changed("config.json", b'{"model_type": "vivit"}')
    assert "no config.json" in changed("config.json", None)
    assert "no tokenizer" in changed("tokenizer.json", None)
    text = published_qwen3_vl_config(CONFIG)
    few = text | {name: number - 10 for name, number in text.items() if name.endswith("token_id")}
    few |= {"text_config": text["text_config"] | {"vocab_size": 340}}
    said_few = changed("config.json", json.dumps(few).encode())
    assert "the tokenizer has ids up to 349, the model vocab_size=340; it is another's" in said_few
    other = json.dumps(text | {"image_token_id": 347}).encode()
    assert "<|image_pad|> is 348 in the tokenizer and 347 in config.json" in changed("config.json", other)
    (copied / "generation_config.json").write_text("[")
    assert "generation_config.json: is not a JSON table" in said()
    for place, words in ((tmp_path / "no", "there is no such folder"), (Path(clip), "is a file, expected a folder")):
        assert f"{place}: {words}" in refused(capsys, clip, "--checkpoint", place, "--prompt", "a")


def test_a_file_that_cannot_be_used_is_refused(checkpoint, clip, picture, tmp_path, capsys):
    def said(file, *options):
        return refused(capsys, file, "--checkpoint", checkpoint, "--prompt", "a", *options)

    write_video(tmp_path / "one.mp4", torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    one = said(tmp_path / "one.mp4")
    assert "one.mp4: 1 frame, expected at least 2 of a video; save it as a picture (PNG, JPEG) and give that" in one
    (tmp_path / "text.mp4").write_text("no video")
    assert "text.mp4" in said(tmp_path / "text.mp4") and "no.mp4" in said("no.mp4")
    assert "frames" in said(clip, "--frames", "99")
    assert "fps: only for a video, and" in said(picture, "--fps", "2")
    assert "repeat_short, total_pixels: only for a video" in said(picture, "--total-pixels", "99999", "--repeat-short")
    assert "max_new_tokens=0 is not at least 1" in said(clip, "--max-new-tokens", "0")
    assert "temperature" in said(clip, "--temperature", "-1")
    assert "top_k, min_p: nothing is drawn at temperature 0" in said(clip, "--top-k", "3", "--min-p", "0.1")
    spelt = refused(capsys, clip, "--checkpoint", checkpoint, "--prompt", "see <|video_pad|>")
    assert "2 video placeholders" in spelt or "<|video_pad|>" in spelt


def test_what_a_model_decides_is_no_option(clip, capsys):
    for words in (["--patch-size", "8"], []):
        with pytest.raises(SystemExit) as caught:
            ask(clip, "--prompt", "a", *(["--checkpoint", "c"] if words else []), *words)
        assert caught.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    with pytest.raises(ValueError, match="^patch_size: follows from the checkpoint; leave it out$"):
        describe._messages(Question((clip,), "a", "c", clip={"patch_size": 8}))
    with pytest.raises(ValueError, match="^files: none; give at least one video or picture$"):
        Question((), "a", "c")
    with pytest.raises(ValueError, match="^dtype='int8' is none of stored, float32, bfloat16$"):
        Question(("a",), "a", "c", dtype="int8")
