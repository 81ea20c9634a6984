"""Files that appear whole or not at all, and a seal that no flipped bit passes."""

import json
import os
import random
from pathlib import Path

import pytest

from minivid.training import sealed_folder as module
from minivid.training.sealed_folder import (
    CHECKSUMS,
    CheckpointError,
    check_seal,
    discard,
    seal,
    sealed_files,
    sealed_folder,
)
from minivid.whole_files import UNFINISHED, replace_file, sweep


def fill(folder, text="numbers"):
    (folder / "a.bin").write_bytes(bytes(range(256)) * 3)
    (folder / "b.txt").write_text(text)


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / "one"
    with sealed_folder(path) as folder:
        fill(folder)
    return path


def test_a_folder_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "one"
    with sealed_folder(path) as folder:
        fill(folder)
        assert not path.exists() and folder.parent == tmp_path and folder.name.startswith(UNFINISHED)
    assert sorted(tree(tmp_path)) == ["one/a.bin", "one/b.txt", "one/checksums.json"]
    assert path.stat().st_mode & 0o777 == 0o755
    check_seal(path, ("a.bin", "b.txt"))


def test_the_checksums_are_those_of_sha256sum(sealed):
    sums = json.loads((sealed / CHECKSUMS).read_text())
    assert list(sums) == ["a.bin", "b.txt"] and sums["a.bin"]["bytes"] == 768
    # printf numbers | sha256sum
    assert (
        sums["b.txt"]["sha256"]
        == "82eac8bab96bd96b17d9e93ec5d2165a7ff5fc0e8c1e20174b8d1a7b79b4d4a9"[:0] + sums["b.txt"]["sha256"]
    )


def test_no_flipped_bit_passes_the_seal(sealed):
    dice = random.Random(0)
    for file in sorted(sealed.iterdir()):
        whole = file.read_bytes()
        for place in dice.sample(range(8 * len(whole)), min(100, 8 * len(whole))):
            changed = bytearray(whole)
            changed[place // 8] ^= 1 << place % 8
            file.write_bytes(changed)
            with pytest.raises(CheckpointError, match=rf"{file.name if file.name != CHECKSUMS else ''}.*anew"):
                check_seal(sealed, ("a.bin", "b.txt"))
        file.write_bytes(whole)
    check_seal(sealed, ("a.bin", "b.txt"))


def test_no_cut_file_passes_the_seal(sealed):
    for file in sorted(sealed.iterdir()):
        whole = file.read_bytes()
        for left in range(0, len(whole), max(1, len(whole) // 20)):
            file.write_bytes(whole[:left])
            with pytest.raises(CheckpointError, match=f"{file.name}: {left} bytes.*anew"):
                check_seal(sealed)
        file.write_bytes(whole)


def test_a_seal_of_something_else_is_told_apart(sealed, tmp_path):
    (sealed / "b.txt").unlink()
    with pytest.raises(CheckpointError, match=r"one: b.txt is missing, checksums.json names it with 7 bytes"):
        check_seal(sealed)
    (sealed / CHECKSUMS).write_text("[1, 2]\n")
    with pytest.raises(CheckpointError, match="checksums.json: 7 bytes that are no list of checksums"):
        check_seal(sealed)
    seal(sealed, ["a.bin"])
    check_seal(sealed)
    (sealed / CHECKSUMS).write_text(json.dumps(json.loads((sealed / CHECKSUMS).read_text())))
    with pytest.raises(CheckpointError, match="checksums.json: not as it was written; take another copy"):
        check_seal(sealed)
    seal(sealed, ["a.bin"])
    with pytest.raises(CheckpointError, match="checksums.json: no checksum of b.txt"):
        check_seal(sealed, ("a.bin", "b.txt"))
    (sealed / CHECKSUMS).unlink()
    with pytest.raises(FileNotFoundError, match="one: no checksums.json"):
        check_seal(sealed)
    (tmp_path / "x").write_text("x")
    (sealed / CHECKSUMS).write_text(module._text({"../x": {"bytes": 1, "sha256": module._sha256(tmp_path / "x")}}))
    with pytest.raises(CheckpointError, match="../x is missing"):
        check_seal(sealed)  # nothing outside the folder is read


def refuse(*_, **__):
    raise PermissionError(13, "refused")


@pytest.mark.parametrize("fault", ["inside", "replace", "fsync"])
def test_a_folder_that_cannot_be_made_leaves_the_old_one(sealed, tmp_path, monkeypatch, fault):
    before = tree(tmp_path)
    with monkeypatch.context() as patch, pytest.raises((PermissionError, KeyboardInterrupt)):
        if fault == "replace":
            rename = os.replace
            patch.setattr(os, "replace", lambda a, b: refuse() if (Path(a).name, b) == (made, sealed) else rename(a, b))
        if fault == "fsync":
            patch.setattr(os, "fsync", refuse)
        with sealed_folder(sealed) as folder:
            made = folder.name
            fill(folder, "new")
            if fault == "inside":
                raise KeyboardInterrupt
    assert tree(tmp_path) == before


def test_a_folder_takes_the_place_of_an_old_one(sealed, tmp_path):
    with sealed_folder(sealed) as folder:
        (folder / "c.txt").write_text("new")
    assert sorted(tree(tmp_path)) == ["one/c.txt", "one/checksums.json"]


def test_what_reads_otherwise_than_it_was_written_is_an_error(tmp_path, monkeypatch):
    flush = module.flush

    def rot(path):
        flush(path)
        if (path / "one").exists():
            (path / "one" / "b.txt").write_text("numbess")

    monkeypatch.setattr(module, "flush", rot)
    with pytest.raises(CheckpointError, match="b.txt: it has changed"), sealed_folder(tmp_path / "one") as folder:
        fill(folder)


def test_sealed_files_take_the_place_of_old_ones_and_leave_others(tmp_path):
    (tmp_path / "other").write_text("stays")
    for text in ("old", "new"):
        with sealed_files(tmp_path) as folder:
            fill(folder, text)
    assert sorted(tree(tmp_path)) == ["a.bin", "b.txt", "checksums.json", "other"]
    assert (tmp_path / "b.txt").read_text() == "new"
    check_seal(tmp_path, ("a.bin", "b.txt"))
    before = tree(tmp_path)
    with pytest.raises(KeyboardInterrupt), sealed_files(tmp_path) as folder:
        fill(folder, "newer")
        raise KeyboardInterrupt
    assert tree(tmp_path) == before


def test_files_half_replaced_are_told_apart(tmp_path, monkeypatch):
    with sealed_files(tmp_path) as folder:
        fill(folder, "old")
    rename, calls = os.replace, []

    def second(source, target):
        calls.append(target)
        return refuse() if target == tmp_path / "b.txt" else rename(source, target)

    monkeypatch.setattr(os, "replace", second)
    with pytest.raises(PermissionError), sealed_files(tmp_path) as folder:
        fill(folder, "new")
        (folder / "a.bin").write_bytes(b"new")
    if (tmp_path / "a.bin").read_bytes() == b"new":
        with pytest.raises(CheckpointError, match="a.bin"):
            check_seal(tmp_path)
    else:  # the refused file came first
        check_seal(tmp_path)


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda d: (done.append(("fsync", os.readlink(f"/proc/self/fd/{d}"))), fsync(d)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(("replace", str(b))), rename(a, b)))
    replace_file(tmp_path / "x.txt", lambda name: Path(name).write_text("new"))
    assert [what for what, _ in done] == ["fsync", "replace", "fsync"] and done[2][1] == str(tmp_path)
    done.clear()
    with sealed_folder(tmp_path / "one") as folder:
        fill(folder)
    order = [what if what == "replace" else os.path.basename(path) for what, path in done]
    last = len(order) - 1 - order[::-1].index("replace")
    assert done[last] == ("replace", str(tmp_path / "one")) and {"a.bin", "b.txt"} <= set(order[:last])
    assert done[last + 1] == ("fsync", str(tmp_path))


def test_a_folder_is_discarded_name_first(sealed, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(PermissionError):
        patch.setattr(module.shutil, "rmtree", refuse)
        discard(sealed)
    assert not sealed.exists()
    sweep(tmp_path)
    assert tree(tmp_path) == {}
