import argparse
import json
import subprocess
import sys
import time

import pytest
import torch

from minivid import cli
from minivid.video.write import write_video


def test_help_does_not_wait_for_torch():
    code = "import sys, minivid.cli; minivid.cli.parser(); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    start = time.perf_counter()
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    # Half a second is promised; five leave room for a busy machine, and an import of torch is caught above.
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("text, number", [("1024", 1024), ("64*32*32", 65536), ("20480 * 32 * 32", 20971520)])
def test_pixels_may_be_written_as_a_product(text, number):
    assert cli.pixels(text) == number


@pytest.mark.parametrize("text", ["", "64x32", "2**3", "1.5", "64*"])
def test_pixels_that_are_no_product_are_refused_with_the_text(text):
    with pytest.raises(argparse.ArgumentTypeError, match="whole number") as caught:
        cli.pixels(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text, number", [("0", 0), ("-4*32", -128)])
def test_fewer_pixels_than_one_are_refused_with_their_number(text, number):
    with pytest.raises(argparse.ArgumentTypeError, match=f"is {number} pixels"):
        cli.pixels(text)


def test_a_picture_without_a_folder_is_refused_before_the_work(tmp_path, capsys):
    assert cli.main(["shapes", "no/such/clip.mp4", "--plot", str(tmp_path / "none" / "plan.png")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_a_bad_file_is_one_line_and_exit_status_2(capsys):
    assert cli.main(["shapes", "no/such/clip.mp4"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and "no/such/clip.mp4" in captured.err and "Traceback" not in captured.err


def test_traceback_shows_where_an_error_came_from():
    with pytest.raises(ValueError, match="no/such/clip.mp4"):
        cli.main(["shapes", "no/such/clip.mp4", "--traceback"])


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "clips"
    assert cli.main(["make-clips", str(folder), "--count", "16", "--side", "16", "--json"]) == 0
    return folder


SETTINGS = "image_size=8 num_frames=4 tubelet_size=(2,4,4) hidden_size=8 num_hidden_layers=1 num_attention_heads=2"
TINY = ["--model", "vivit", *(word for number in SETTINGS.split() for word in ("--set", number))]


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    command = ["finetune", "--data", str(shapes), *TINY, "--output", str(folder), "--augment", "roll", "--steps", "2"]
    assert cli.main([*command, "--batch-size", "4", "--json"]) == 0
    return folder


def test_clips_are_made_in_class_folders_and_the_next_command_is_said(tmp_path, capsys):
    assert cli.main(["make-clips", str(tmp_path / "a"), "--count", "8", "--side", "16", "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert (
        "train 5, validation 1, test 2" in said and f"minivid finetune --data {tmp_path / 'a'} --augment roll" in said
    )
    assert len(list((tmp_path / "a").glob("*/*/*.mp4"))) == 8
    assert cli.main(["make-clips", str(tmp_path / "a"), "--count", "7"]) == 2
    assert "count=7 is not at least 8" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("")
    assert cli.main(["make-clips", str(tmp_path / "mine"), "--count", "8"]) == 2
    assert "mine: holds something else" in capsys.readouterr().err


def test_a_model_is_trained_measured_and_asked(shapes, run, tmp_path, capsys):
    metrics = json.loads((run / "metrics.json").read_text())
    assert cli.main(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["confusion"] == metrics["confusion"]
    picture = tmp_path / "a.png"
    assert cli.main(["evaluate", str(run), "--data", str(shapes), "--split", "all", "--plot", str(picture)]) == 0
    text = capsys.readouterr().out
    assert "all: 16 clips, accuracy" in text and "weighted avg" in text and picture.exists()
    files = [str(path) for path in sorted((shapes / "test").glob("*/*.mp4"))]
    assert cli.main(["predict", *files, "--checkpoint", str(run), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * len(files) and lines[0].startswith(files[0] + ": ") and lines[1].endswith("%")
    assert cli.main(["predict", *files, "--checkpoint", str(run), "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["file"] for answer in answers] == files and len(answers[0]["probabilities"]) == 4


def test_a_file_that_cannot_be_read_does_not_keep_the_others_from_their_answers(shapes, run, tmp_path, capsys):
    good = str(next((shapes / "test").glob("*/*.mp4")))
    (tmp_path / "bad.mp4").write_bytes(b"")
    files = [str(tmp_path / "bad.mp4"), good, "no/such/clip.mp4"]
    assert cli.main(["predict", *files, "--checkpoint", str(run), "--json"]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["file"] == good
    assert [line.startswith("minivid predict: error: ") for line in said.err.splitlines()] == [True, True]
    assert "bad.mp4: is empty" in said.err and "no/such/clip.mp4" in said.err
    with pytest.raises(ValueError, match="bad.mp4"):
        cli.main(["predict", *files, "--checkpoint", str(run), "--traceback"])


def test_every_number_of_a_training_can_be_given(tmp_path, monkeypatch):
    from minivid import classify
    from minivid.training.finetune_config import FinetuneConfig

    asked = {}
    monkeypatch.setattr(classify, "finetune_files", lambda request, **how: asked.update(vars(request)) or {"split": ""})
    monkeypatch.setattr(classify, "report_text", lambda metrics: "")
    words = """--steps 7 --batch-size 5 --accumulate 2 --learning-rate 0.5 --rate classifier=0.1 --rate norm=0.2
        --schedule linear --warmup-ratio 0.3 --optimizer sgd --betas 0.8,0.9 --momentum 0.7 --weight-decay 0.6
        --no-decay position --no-decay token --adamw-for head --max-grad-norm 3 --label-smoothing 0.2
        --train-only blocks --freeze blocks.0. --bfloat16 --gradient-checkpointing --seed 4
        --evaluate-every 9 --evaluate-every-epochs 8 --metric validation_accuracy --patience 6 --no-return-best
        --save-every 11 --save-total-limit 12"""
    assert cli.main(["finetune", "--data", "x", *words.split()]) == 0
    want = {
        "steps": 7, "batch_size": 5, "micro_batches": 2, "learning_rate": 0.5, "schedule": "linear",
        "rates": {"classifier": 0.1, "norm": 0.2}, "warmup_ratio": 0.3, "optimizer": "sgd", "betas": (0.8, 0.9),
        "momentum": 0.7, "weight_decay": 0.6, "no_decay": ("position", "token"), "adamw_for": ("head",),
        "max_grad_norm": 3.0, "label_smoothing": 0.2, "train_only": ("blocks",), "freeze": ("blocks.0.",),
        "bfloat16": True, "gradient_checkpointing": True, "seed": 4, "evaluate_every": 9, "evaluate_every_epochs": 8,
        "metric": "validation_accuracy", "patience": 6, "return_best": False, "save_every": 11, "save_total_limit": 12,
    }  # fmt: skip
    assert asked["training"] == want and vars(FinetuneConfig(**want)) == want
    words = """--epochs 2.5 --model vivit --size published --set a=(1,2) --from runs/y --output runs/z --shares 3,1,1
        --augment color,flip --cache none --cache-limit 0.5 --workers 2 --sharded"""
    assert cli.main(["finetune", "--data", "x", *words.split()]) == 0
    assert asked == vars(
        classify.Request(
            data="x", output="runs/z", model="vivit", size="published", numbers={"a": (1, 2)}, start="runs/y",
            epochs=2.5, augment=("color", "flip"), shares=(3, 1, 1), cache="none", cache_limit=500_000_000, workers=2,
            sharded=True,
        )
    )  # fmt: skip
    assert cli.main(["finetune", "--data", "x"]) == 0
    assert asked == vars(classify.Request(data="x"))
    assert cli.main(["finetune", "--data", "x", "--augment", "none"]) == 0 and asked["augment"] == ()


def test_help_says_the_defaults_that_hold(capsys):
    from minivid.training.finetune_config import FinetuneConfig

    with pytest.raises(SystemExit):
        cli.main(["finetune", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    config = FinetuneConfig()
    for name in ("steps", "learning_rate", "warmup_ratio", "weight_decay", "momentum", "max_grad_norm", "seed"):
        option = "--" + name.replace("_", "-")
        assert f"({getattr(config, name):g})" in said[said.rindex(option + " ") :][:200]
    assert "(cosine)" in said and config.schedule == "cosine" and "(adamw)" in said and config.optimizer == "adamw"
    assert "(0.9,0.999)" in said and config.betas == (0.9, 0.999)


def test_emptying_the_cache_leaves_what_is_not_of_it(run, capsys):
    entries = set((run / "cache").glob("*.clip"))
    (run / "cache" / "mine.txt").write_text("")
    assert entries and cli.main(["evaluate", str(run), "--clear-cache", "--cache", "none", "--json"]) == 0
    assert set((run / "cache").glob("*.clip")) == entries
    assert cli.main(["evaluate", str(run), "--clear-cache", "--cache-limit", "0", "--json"]) == 0
    assert [path.name for path in (run / "cache").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["finetune"], "--data"),
        (["finetune", "--data", "x", "--shares", "a,b"], "'a,b' is not numbers with commas between"),
        (["finetune", "--data", "x", "--rate", "0.1"], "'0.1' is not PIECE=RATE"),
        (["finetune", "--data", "x", "--rate", "=0.1"], "'=0.1' is not PIECE=RATE"),
        (["finetune", "--data", "x", "--steps", "3", "--epochs", "2"], "not allowed with"),
        (["evaluate"], "CHECKPOINT"),
        (["evaluate", "x", "--split", "dev"], "--split"),
        (["predict"], "CLIP"),
    ],
)
def test_words_that_cannot_be_read_are_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    message = capsys.readouterr().err
    assert caught.value.code == 2 and words in message and message.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["finetune", "--data", "no/such/folder"], "no/such/folder: no such folder or file"),
        (["finetune", "--data", ".", "--cache-limit", "-1"], "--cache-limit -1: give a number of gigabytes"),
        (["evaluate", "no/such/run"], "no/such/run: no config.json"),
        (["predict", "a.mp4", "--checkpoint", "no/such/run"], "no/such/run: no config.json"),
    ],
)
def test_what_cannot_be_used_is_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_an_unknown_command_is_exit_status_2(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["paint"])
    assert caught.value.code == 2 and "paint" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["paint"], [], ["shapes", "--set", "depth"], ["shapes", "a.mp4", "--fps", "fast"], ["shapes", "-a.mp4"]],
)
def test_arguments_that_cannot_be_read_are_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    message = capsys.readouterr().err
    assert caught.value.code == 2 and message.count("\n") == 1 and "--help`" in message


def test_a_name_that_no_law_speaks_about_is_exit_status_2(tmp_path, capsys):
    (tmp_path / "answer.py").write_text("def paint(): ...\n")
    assert cli.main(["check", "paint", str(tmp_path / "answer.py")]) == 2
    assert "paint" in "".join(capsys.readouterr())


def test_settings_that_do_not_fit_a_file_are_refused_with_its_name(tmp_path, capsys):
    clip = tmp_path / "clip.mp4"
    write_video(clip, torch.zeros(5, 3, 32, 64, dtype=torch.uint8))
    assert cli.main(["shapes", str(clip), "--frames", "8"]) == 2
    message = capsys.readouterr().err
    assert str(clip) in message and "8" in message and "5 frames" in message and message.count("\n") == 1
    assert (
        cli.main(["shapes", str(clip), "--frames", "8", "--repeat-short"]) == 0 and "[8, 3," in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "give one thing to look at"),
        (["clip.mp4", "--model", "vivit"], "give one thing to look at"),
        (["layers.attention", "--batch", "2"], "--set and --batch go with --model"),
        (["layers.attention", "--fps", "2", "--plot", "a.png"], "--fps, --plot: only for a video file"),
        (["--model", "vivit", "--patch-size", "8"], "--patch-size: only for a video file, which vivit is not"),
        (["--model", "vivit", "--batch", "0"], "--batch 0: give at least 1"),
        (["--model", "vibert"], "vibert: there is no such model; there are"),
        (["--model", "vivit", "--set", "depth=3"], "ViViT has no depth"),
        (["layers.nothing"], "layers.nothing: cannot be opened"),
    ],
)
def test_shapes_of_nothing_that_is_there_are_refused(arguments, words, capsys):
    assert cli.main(["shapes", *arguments]) == 2
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1


def test_shapes_prints_every_module_of_a_model(capsys):
    options = ["--set", "num_frames=4", "--set", "tubelet_size=(4,16,16)", "--batch", "5"]
    assert cli.main(["shapes", "--model", "vivit", *options]) == 0
    table = capsys.readouterr().out
    assert "clips b=5 t=4 c=3 h=224 w=224" in table and "b=5 n=196 d=768" in table and "blocks.0 to blocks.11" in table
    assert cli.main(["shapes", "--model", "vivit", *options, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert first["class"] == "ViViT" and first["outputs"] == [{"axes": ["b", "v"], "shape": [5, 2]}]


@pytest.mark.parametrize("name", ["layers.attention", "minivid.layers.attention"])
def test_shapes_prints_what_a_module_promises(name, capsys):
    assert cli.main(["shapes", name]) == 0
    text = capsys.readouterr().out
    assert "attend(query, key, value, mask=None)\n" in text and "  query  Float b heads n k\n" in text
    assert cli.main(["shapes", name, "--json"]) == 0
    promises = {promise["name"]: promise for promise in json.loads(capsys.readouterr().out)}
    assert promises["attend"]["gives"] == ["Float b heads n k", "Float b heads n s"]


def test_a_file_of_the_name_of_a_module_is_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").write_bytes(b"no video")
    assert cli.main(["shapes", "shapes"]) == 2
    assert "shapes: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, value",
    [("a=3", 3), ("a=(2,4)", (2, 4)), ("a=none", "none"), ("a=None", None), ("a=b=c", "b=c"), ("a=1e-6", 1e-6)],
)
def test_a_setting_is_a_name_and_a_python_value_or_text(text, value):
    assert cli.setting(text) == ("a", value)


def test_shapes_prints_the_plan_as_a_table_and_as_json_and_draws_it(tmp_path, capsys):
    clip, picture = tmp_path / "clip.mp4", tmp_path / "plan.png"
    write_video(clip, torch.zeros(30, 3, 64, 96, dtype=torch.uint8), fps=10)
    options = ["--fps", "2", "--min-pixels", "64*96", "--max-pixels", "64*96"]
    assert cli.main(["shapes", str(clip), *options, "--plot", str(picture)]) == 0
    table = capsys.readouterr().out
    assert "[6, 3, 64, 96]" in table and "3 4 6" in table and picture.read_bytes().startswith(b"\x89PNG")
    assert cli.main(["shapes", str(clip), *options, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["grid"], plan["patches"], plan["tokens"]) == ([3, 4, 6], [72, 1536], 18)
