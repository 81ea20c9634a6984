"""Files that appear whole or not at all."""

import os
from pathlib import Path

import pytest

from minivid.whole_files import UNFINISHED, replace_file, replaced_files, sweep, unfinished_folder


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuse(*_, **__):
    raise PermissionError(13, "refused")


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    for text in ("old", "new"):
        replace_file(path, lambda name, text=text: Path(name).write_text(text))
    assert tree(tmp_path) == {"x.txt": b"new"} and path.stat().st_mode & 0o777 == 0o644

    def half(name):
        Path(name).write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, half)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(PermissionError):
            patch.setattr(os, name, refuse)
            replace_file(path, lambda name: Path(name).write_text("newer"))
    assert tree(tmp_path) == {"x.txt": b"new"}


def test_a_temporary_name_keeps_the_ending_of_the_file(tmp_path):
    names = []
    replace_file(tmp_path / "x.json", lambda name: names.append(Path(name)) or Path(name).write_text("{}"))
    assert names[0].suffix == ".json" and names[0].name.startswith(UNFINISHED) and names[0].parent == tmp_path


def write(folder, files):
    for name, text in files.items():
        (folder / name).write_text(text)


def replace(folder, files):
    with replaced_files(folder, key="key", surplus=lambda folder: folder.glob("part-*")) as unfinished:
        write(unfinished, files)


OLD = {"key": "old", "part-1": "old", "part-2": "old", "other": "stays"}
NEW = {"key": "new", "part-1": "new", "part-3": "new"}


def test_files_of_a_set_replace_those_of_an_earlier_one_and_leave_others(tmp_path):
    write(tmp_path, OLD)
    replace(tmp_path, NEW)
    assert tree(tmp_path) == {"key": b"new", "part-1": b"new", "part-3": b"new", "other": b"stays"}


@pytest.mark.parametrize("calls", range(12))
def test_whoever_is_stopped_leaves_the_old_set_the_new_one_or_none(tmp_path, monkeypatch, calls):
    write(tmp_path, OLD)
    left = [calls]

    def stopping(function):
        def called(*arguments, **options):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return function(*arguments, **options)

        return called

    with monkeypatch.context() as patch:
        for name in ("replace", "fsync", "unlink"):
            patch.setattr(os, name, stopping(getattr(os, name)))
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: os.unlink(self))
        patch.setattr("minivid.whole_files.shutil.rmtree", lambda *_, **__: None)  # as after a kill
        try:
            replace(tmp_path, NEW)
        except KeyboardInterrupt:
            assert calls < 11
        else:
            assert calls >= 11  # 4 flushes, 3 removals, 3 moves, 1 flush: each of them was the last one once
    sweep(tmp_path)
    found = tree(tmp_path)
    if "key" in found:
        assert found in (
            {name: text.encode() for name, text in OLD.items()},
            {name: text.encode() for name, text in (NEW | {"other": "stays"}).items()},
        )
    else:
        assert found["other"] == b"stays"


def test_what_is_on_the_disk_has_its_name_and_not_before(tmp_path, monkeypatch):
    done, fsync, rename = [], os.fsync, os.replace
    place = "/proc/self/fd/{}"
    monkeypatch.setattr(os, "fsync", lambda d: (done.append(os.path.basename(os.readlink(place.format(d)))), fsync(d)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(f"move {b.name}"), rename(a, b)))
    replace(tmp_path, NEW)
    here = tmp_path.name
    moves = ["move part-1", "move part-3", "move key"]
    assert done == ["part-1", "part-3", "key", here, *moves, here]


def test_a_set_that_is_not_finished_changes_nothing(tmp_path):
    write(tmp_path, OLD)
    before = tree(tmp_path)
    with (
        pytest.raises(ValueError),
        replaced_files(tmp_path, key="key", surplus=lambda folder: folder.glob("part-*")) as unfinished,
    ):
        write(unfinished, NEW)
        raise ValueError
    assert tree(tmp_path) == before


def test_an_unfinished_folder_is_gone_unless_it_was_renamed(tmp_path):
    with unfinished_folder(tmp_path) as folder:
        assert folder.parent == tmp_path and folder.name.startswith(UNFINISHED)
        write(folder, NEW)
    assert tree(tmp_path) == {} and not folder.exists()
    with unfinished_folder(tmp_path) as folder:
        write(folder, {"a": "b"})
        os.rename(folder, tmp_path / "kept")
    assert tree(tmp_path) == {"kept/a": b"b"}


def test_what_a_killed_program_left_is_swept_away(tmp_path):
    (tmp_path / f"{UNFINISHED}abc").mkdir()
    write(tmp_path / f"{UNFINISHED}abc", NEW)
    (tmp_path / f"{UNFINISHED}def.json").write_text("half")
    (tmp_path / "mine").write_text("stays")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    sweep(tmp_path / "nowhere")
