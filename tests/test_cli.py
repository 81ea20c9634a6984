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
