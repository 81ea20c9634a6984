import json
import os
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from minivid.data.labelled_files import (
    SPLITS,
    LabelledFile,
    assign_splits,
    fingerprint,
    read_labelled_files,
    without_repeats,
)


def lay(folder, *names):
    """Make files; their content is their name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def table(folder, text, name="clips.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def found(source, **options):
    listed = read_labelled_files(source, **options)
    places = [os.path.relpath(file.path, source if source.is_dir() else source.parent) for file in listed.files]
    return [(place, file.label, file.split) for place, file in zip(places, listed.files, strict=True)]


# ---- folders


def test_a_folder_for_each_class_is_read_at_any_depth_and_in_order(tmp_path):
    lay(tmp_path, "run/b.avi", "run/a.mp4", "jump/deep/er/c.webm", "jump/no_suffix")
    assert found(tmp_path) == [
        ("jump/no_suffix", "jump", None),
        ("jump/deep/er/c.webm", "jump", None),
        ("run/a.mp4", "run", None),
        ("run/b.avi", "run", None),
    ]
    assert read_labelled_files(tmp_path).classes == ("jump", "run")


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Dev"])
def test_folders_that_are_called_as_splits_are_splits(tmp_path, name):
    lay(tmp_path, "train/run/a.mp4", "train/jump/a.mp4", f"{name}/run/b.mp4", "TEST/jump/c.mp4")
    assert sorted(found(tmp_path)) == sorted(
        [
            ("train/run/a.mp4", "run", "train"),
            ("train/jump/a.mp4", "jump", "train"),
            (f"{name}/run/b.mp4", "run", "validation"),
            ("TEST/jump/c.mp4", "jump", "test"),
        ]
    )


def test_a_class_may_be_called_as_a_split_where_others_are_not(tmp_path):
    lay(tmp_path, "train/a.mp4", "bus/b.mp4", "car/c.mp4")
    assert {label for _, label, _ in found(tmp_path)} == {"train", "bus", "car"}


def test_hidden_files_are_no_clips_and_files_beside_the_classes_are_reported(tmp_path):
    lay(tmp_path, "a/1.mp4", "b/2.mp4", ".git/x", "a/.DS_Store", "__MACOSX/z", "a/Thumbs.db", "README.md", "loose.mp4")
    listed = read_labelled_files(tmp_path)
    assert [os.path.basename(file.path) for file in listed.files] == ["1.mp4", "2.mp4"]
    assert listed.left_out == ((str(tmp_path / "loose.mp4"), "lies in no class folder", "no_class", False),)


def test_links_are_followed_and_circles_end(tmp_path):
    lay(tmp_path / "far", "x/1.mp4")
    lay(tmp_path / "set", "a/2.mp4")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "far")
    (tmp_path / "set" / "a" / "round").symlink_to(tmp_path / "set" / "a")
    assert [(place, label) for place, label, _ in found(tmp_path / "set")] == [("a/2.mp4", "a"), ("b/x/1.mp4", "b")]


@pytest.mark.parametrize(
    "names, words",
    [
        ([], "holds no folders, expected one for each class"),
        (["a.mp4"], "holds no folders, expected one for each class"),
        (["a/1.mp4"], "1 class, 'a', expected at least 2"),
        (["train/1.mp4", "test/2.mp4"], "test, train hold no class folders; expected test/CLASS/FILE"),
        (["train/a/1.mp4", "dogs/2.mp4"], "train looks like a split, dogs like a class"),
        (["a/1.mp4", "b/.hidden"], "b: no file for the class 'b'"),
        (["a/1.mp4", "b\n/2.mp4"], r"'b\n' is no name for a class"),
    ],
)
def test_folders_that_cannot_be_meant_are_refused(tmp_path, names, words):
    lay(tmp_path, *names)
    with pytest.raises(ValueError) as caught:
        read_labelled_files(tmp_path)
    assert words in str(caught.value) and str(tmp_path) in str(caught.value)


def test_one_class_is_enough_to_measure(tmp_path):
    assert len(read_labelled_files(lay(tmp_path, "a/1.mp4"), fewest_classes=1).files) == 1


def test_what_is_no_folder_and_no_table_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        read_labelled_files(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"clip.mp4: expected a folder .* or a .csv, .tsv or .jsonl"):
        read_labelled_files(lay(tmp_path, "clip.mp4") / "clip.mp4")


# ---- tables

TEXTS = {
    "clips.csv": "\ufeffpath,label,split,start,end,caption\na.mp4,run,train,1.5,2,x\n\nb/c.mp4,up/down,val,,,\n",
    "clips.tsv": "Label\tPath\tSplit\tStart\tEnd\nrun\ta.mp4\ttrain\t1.5\t2\nup/down\tb/c.mp4\tdev\t\t\n",
    "clip2.csv": 'label;path;split;start;end\r\nrun;a.mp4;train;1.5;2\r\n"up/down";b/c.mp4;valid;;\r\n',
    "clips.jsonl": '{"path": "a.mp4", "label": "run", "split": "train", "start": 1.5, "end": 2}\n'
    '{"path": "b/c.mp4", "label": "up/down", "split": "validation", "start": null}\n',
}


@pytest.mark.parametrize("name", TEXTS)
def test_tables_are_read_whatever_their_separator_and_order(tmp_path, name):
    source = table(tmp_path, TEXTS[name], name)
    first, second = read_labelled_files(source).files
    assert first == LabelledFile(str(tmp_path / "a.mp4"), "run", "train", 1.5, 2.0)
    assert second == LabelledFile(str(tmp_path / "b/c.mp4"), "up/down", "validation")


def test_a_path_may_be_absolute_and_an_address_stays_one(tmp_path):
    source = table(tmp_path, "path,label\n/far/a.mp4,x\nhttps://example.org/b.mp4,y\n")
    assert [file.path for file in read_labelled_files(source).files] == ["/far/a.mp4", "https://example.org/b.mp4"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "empty, expected a header"),
        ("path,label\n", "names no clips"),
        ("a.mp4,run\nb.mp4,jump\n", "line 1: 'a.mp4,run' is no header with the columns path and label"),
        ("path,label,path\na,b,c\n", "the column path stands there twice"),
        ("path,label\na.mp4\n", "line 2: 1 cells, expected the 2 of path,label"),
        ("path,label\n,run\n", "line 2: no path"),
        ("path,label\na.mp4,\n", "line 2: '' is no name for a class"),
        ("path,label,split\na.mp4,x,trian\n", "line 2: split 'trian' is none of train, validation, test"),
        ("path,label,split\na.mp4,x,train\nb.mp4,y,\n", "b.mp4 has no split though others have"),
        ("path,label,start,end\na.mp4,x,two,\n", "line 2: start=two is not a number of seconds"),
        ("path,label,start,end\na.mp4,x,,-1\n", "line 2: end=-1 is not a number of seconds"),
        ("path,label,start,end\na.mp4,x,3,2.5\n", "line 2: start=3 is not before end=2.5"),
        ("path,label\na.mp4,x\n./a.mp4,y\n", "a.mp4 is 'y', but 'x' in "),
        ("path,label,split,start,end\na,x,train,0,1\na,y,test,1,2\n", "a is in test, but in train in "),
        ('path,label\n"a.mp4,x\n', "not comma-separated values"),
        ("path,label\na,x\nb,x\n", "1 class, 'x'"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused_with_their_line(tmp_path, text, words):
    source = table(tmp_path, text)
    with pytest.raises(ValueError) as caught:
        read_labelled_files(source)
    assert words in str(caught.value) and str(source) in str(caught.value)


@pytest.mark.parametrize(
    "text, words",
    [
        ("path,label\n", "line 1: not JSON"),
        ('\n["a", "b"]\n', 'line 2: \'["a", "b"]\' is no object with path and label'),
        ('{"path": "a"}\n', "is no object with path and label"),
    ],
)
def test_json_lines_that_cannot_be_meant_are_refused_with_their_line(tmp_path, text, words):
    with pytest.raises(ValueError) as caught:
        read_labelled_files(table(tmp_path, text, "clips.jsonl"))
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_what_is_not_utf_8_is_said(tmp_path, name):
    (tmp_path / name).write_bytes(b"path,label\na.mp4,gr\xfcn\n")
    with pytest.raises(ValueError, match="not a text in UTF-8"):
        read_labelled_files(tmp_path / name)


# ---- splits


def clips(counts, clips_of_a_file=1):
    """Files of each class, with made-up fingerprints."""
    return [
        LabelledFile(f"{label}/{i}.mp4", label, start=float(k), fingerprint=f"{label}{i}")
        for label, count in counts.items()
        for i in range(count)
        for k in range(clips_of_a_file)
    ]


@given(first=st.integers(3, 40), second=st.integers(3, 40), seed=seeds)
def test_every_class_is_in_every_split_in_about_its_share(first, second, seed):
    counts = {"a": first, "b": second}
    files = assign_splits(clips(counts), seed=seed)
    got = Counter((file.label, file.split) for file in files)
    for label, n in counts.items():
        for split, share in zip(SPLITS, (0.7, 0.15, 0.15), strict=True):
            # Two splits are rounded by half a file at most, or, of three files, each from 0.45 up to one.
            assert abs(got[label, split] - share * n) <= 1.1 + 1e-9 and got[label, split] >= 1


@given(n=st.integers(3, 20), parts=st.integers(1, 4), seed=seeds)
def test_clips_of_one_file_are_in_one_split(n, parts, seed):
    of = {}
    for file in assign_splits(clips({"a": n, "b": 3}, parts), seed=seed):
        assert of.setdefault(file.fingerprint, file.split) == file.split


@given(seed=seeds)
def test_the_split_of_a_file_depends_on_seed_and_content_alone(seed):
    files = clips({"a": 11, "b": 7})
    of = {file.fingerprint: file.split for file in assign_splits(files, seed=seed)}
    renamed = [replace(file, path=f"elsewhere/{i}") for i, file in enumerate(reversed(files))]
    assert {file.fingerprint: file.split for file in assign_splits(renamed, seed=seed)} == of
    assert [file.path for file in assign_splits(files, seed=seed)] == [file.path for file in files]


def test_a_file_that_is_added_moves_few_others():
    before = {file.fingerprint: file.split for file in assign_splits(clips({"a": 40, "b": 3}))}
    after = {file.fingerprint: file.split for file in assign_splits(clips({"a": 41, "b": 3}))}
    # It pushes at most one file over each of the two borders.
    assert sum(before[name] != after[name] for name in before) <= 2


def test_another_seed_is_another_split():
    files = clips({"a": 20, "b": 20})
    assert len({tuple(file.split for file in assign_splits(files, seed=seed)) for seed in range(5)}) == 5


def test_given_splits_stay_and_validation_is_taken_from_train_where_it_is_missing():
    given_splits = [replace(file, split="test" if i % 4 == 0 else "train") for i, file in enumerate(clips({"a": 24}))]
    got = assign_splits(given_splits, shares=(0.8, 0.2, 0.5))
    assert all(file.split == "test" for file, was in zip(got, given_splits, strict=True) if was.split == "test")
    # 18 are left, two tenths of them 3.6.
    assert Counter(file.split for file in got) == {"test": 6, "validation": 4, "train": 14}
    assert assign_splits(given_splits, shares=(1, 0, 0)) == given_splits
    whole = [replace(file, split=SPLITS[i % 3]) for i, file in enumerate(clips({"a": 9}))]
    assert assign_splits(whole) == whole


def test_splits_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"class 'b': 2 readable files, expected at least 3.*train, validation, test"):
        assign_splits(clips({"a": 3, "b": 2}))
    with pytest.raises(ValueError, match=r"class 'b': 1 readable file, expected at least 2.*train, test"):
        assign_splits(clips({"a": 3, "b": 1}), shares=(0.5, 0, 0.5))
    for shares in ((0, 0.5, 0.5), (0.5, 0.5), (0.5, -0.1, 0.6), (float("nan"), 1, 1)):
        with pytest.raises(ValueError, match="expected three numbers"):
            assign_splits(clips({"a": 3, "b": 3}), shares=shares)
    with pytest.raises(ValueError, match="no clip is in train .splits: test, validation"):
        assign_splits([replace(file, split=SPLITS[1 + i]) for i, file in enumerate(clips({"a": 2}))])
    one = clips({"a": 1}, clips_of_a_file=2)
    with pytest.raises(ValueError, match="a/0.mp4 is in train, and a/0.mp4, of the same file, in test"):
        assign_splits([replace(one[0], split="train"), replace(one[1], split="test")])


# ---- content


@pytest.mark.parametrize("size", [0, 5, 65536, 70000, 196608, 196609, 1000000])
def test_a_fingerprint_is_of_the_content_not_of_the_name(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(data)
    (tmp_path / "longer").write_bytes(data + b"\0")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != fingerprint(tmp_path / "longer")
    for place in {0, size // 2, size - 1} if size else ():
        (tmp_path / "b").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


def test_copies_are_left_out_and_the_one_that_tests_stays():
    files = [
        LabelledFile("1", "x", "train", fingerprint="f"),
        LabelledFile("2", "x", "test", fingerprint="f"),
        LabelledFile("3", "x", "validation", fingerprint="f"),
        LabelledFile("4", "y", "train", fingerprint="g"),
        LabelledFile("5", "x", "train", start=1.0, fingerprint="h"),
        LabelledFile("6", "x", "train", start=2.0, fingerprint="h"),
    ]
    kept, left_out = without_repeats(files)
    assert [file.path for file in kept] == ["2", "4", "5", "6"]
    assert left_out == [
        ("1", "the same as 2, which is kept", "repeated", False),
        ("3", "the same as 2, which is kept", "repeated", False),
    ]
    undecided = [replace(file, split=None) for file in files[:3]]
    assert [file.path for file in without_repeats(undecided)[0]] == ["1"]


def test_copies_with_two_labels_are_refused():
    files = [LabelledFile("a/1", "a", fingerprint="f"), LabelledFile("b/2", "b", fingerprint="f")]
    with pytest.raises(ValueError, match="a/1 is 'a', and b/2, the same clip, is 'b'"):
        without_repeats(files)


def test_a_row_can_be_written_as_json():
    file = LabelledFile("a", "b", "train", 1.0, None, "f")
    assert LabelledFile(**json.loads(json.dumps(vars(file)))) == file
