import json
import os

import pytest

from minivid.training.output_folder import RUN, begin, in_short, make_room, write_lines
from minivid.training.run_folder import STATE


def unfinished(folder, about=None):
    """A folder with a training that was saved once."""
    (folder / STATE / "step-00000001").mkdir(parents=True)
    (folder / RUN).write_text(json.dumps(about or {}))
    return folder


def test_an_empty_folder_has_room(tmp_path):
    assert make_room(tmp_path, []) is False
    assert make_room(tmp_path / "new", []) is False and not (tmp_path / "new").exists()
    (tmp_path / "my notes.txt").touch()
    assert make_room(tmp_path, []) is False


def test_an_unfinished_training_is_gone_on_with(tmp_path):
    assert make_room(unfinished(tmp_path), []) is True
    assert make_room(tmp_path, [], resume=True) is True


def test_a_training_that_was_never_saved_begins_anew(tmp_path):
    (tmp_path / RUN).write_text("{}")
    assert make_room(tmp_path, []) is False
    with pytest.raises(ValueError, match=f"^{tmp_path}: holds no unfinished training to resume$"):
        make_room(tmp_path, [], resume=True)


def test_overwriting_removes_what_a_training_made_and_nothing_else(tmp_path):
    unfinished(tmp_path)
    for name in ("config.json", "mine.txt"):
        (tmp_path / name).touch()
    assert make_room(tmp_path, [RUN, STATE, "config.json", "never there"], overwrite=True) is False
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_is_finished_or_of_others_is_not_touched(tmp_path):
    (tmp_path / "config.json").touch()
    with pytest.raises(ValueError, match=f"^{tmp_path}: holds a model that was not made by `minivid finetune`; gi"):
        make_room(tmp_path, ["config.json"], overwrite=True)
    (tmp_path / RUN).touch()
    with pytest.raises(ValueError, match=f"^{tmp_path}: holds a finished training; give another output folder, or"):
        make_room(tmp_path, ["config.json"])
    with pytest.raises(ValueError, match="^resume and overwrite: one keeps what the other removes; give one of them$"):
        make_room(tmp_path, [], resume=True, overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=f"^{tmp_path}: the training begins with the model there; give another output"):
        make_room(tmp_path, ["config.json"], source=str(tmp_path / "link"), overwrite=True)
    assert (tmp_path / "config.json").exists()


def test_what_is_asked_for_is_written_down_last(tmp_path):
    seen = []
    begin(tmp_path, {"data": "here"}, unfinished=False, record=lambda: seen.append(os.listdir(tmp_path)))
    assert seen == [[]] and json.loads((tmp_path / RUN).read_text()) == {"data": "here"}
    # Nothing is compared where nothing goes on.
    begin(tmp_path, {"data": "there"}, unfinished=False, differences=lambda: ["all"])
    assert json.loads((tmp_path / RUN).read_text()) == {"data": "there"}


def test_a_training_goes_on_only_if_it_is_asked_for_the_same(tmp_path):
    unfinished(tmp_path, {"data": "here", "seed": 3})
    begin(tmp_path, {"data": "here", "seed": 3}, unfinished=True)
    with pytest.raises(ValueError) as caught:
        begin(tmp_path, {"data": "there", "seed": 4, "size": 5}, unfinished=True, differences=lambda: ["not asked"])
    assert str(caught.value) == (
        f"{tmp_path}: an unfinished training with data here (now there); seed 3 (now 4); size None (now 5); ask for "
        "the same, give another output folder, or --overwrite to train anew"
    )
    with pytest.raises(ValueError, match="an unfinished training with other files; and more; ask for the same"):
        about = {"data": "here", "seed": 3}
        begin(tmp_path, about, unfinished=True, differences=lambda: ["other files", "and more"])
    (tmp_path / RUN).write_text("{")
    with pytest.raises(ValueError, match=r"an unfinished training with data None \(now here\)"):
        begin(tmp_path, {"data": "here"}, unfinished=True)


def test_lines_and_numbers_in_short(tmp_path):
    write_lines(tmp_path / "rows.jsonl", [{"a": 1}, {"b": "é"}])
    assert (tmp_path / "rows.jsonl").read_text() == '{"a": 1}\n{"b": "\\u00e9"}\n'
    numbers = {"rate": 1e-05, "betas": (0.9, 0.999), "rates": {"merger": 4e-05}, "name": "x", "steps": 3}
    assert in_short(numbers) == "rate=1e-05 betas=(0.9,0.999) rates={merger:4e-05} name=x steps=3"
