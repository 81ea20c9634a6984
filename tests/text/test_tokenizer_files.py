"""Published tokenizers as files: what is read, what is refused by name, and what is written."""

import json
import re

import pytest

from minivid.text.byte_pair import LETTERS, QWEN_PATTERN, BytePair
from minivid.text.tokenizer_files import GPT2_PATTERN, read_tokenizer

MERGES = ["l o", "lo w", "Ġ low"]
VOCAB = {name: number for number, name in enumerate([*LETTERS, *(line.replace(" ", "") for line in MERGES)])}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
SPLIT = {"type": "Split", "pattern": {"Regex": QWEN_PATTERN}, "behavior": "Isolated", "invert": False}
END = {"id": 259, "content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False}
END |= {"normalized": False, "special": True}
CALL = {**END, "id": 260, "content": "<call>", "special": False}


def published(**changes) -> dict:
    """A tokenizer.json as the Qwen family publishes it, in small."""
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "vocab": VOCAB}
    model |= {"end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "merges": MERGES}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [END, CALL],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, BYTE_LEVEL]},
        "post_processor": BYTE_LEVEL,
        "decoder": BYTE_LEVEL,
        "model": {**model, **changes.pop("model", {})},
    } | changes


def written(folder, content) -> str:
    path = folder / "tokenizer.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# ---- a tokenizer.json


def test_a_published_file_is_read(tmp_path):
    got = read_tokenizer(written(tmp_path, published()))
    assert got == {
        "vocab": VOCAB,
        "merges": [("l", "o"), ("lo", "w"), ("Ġ", "low")],
        "special_tokens": {"<|end|>": 259},
        "added_tokens": {"<call>": 260},
        "look_later": [],
        "normalization": "NFC",
        "pattern": QWEN_PATTERN,
    }
    tokenizer = BytePair.load(tmp_path)
    assert tokenizer.encode("low low<|end|><call>") == [257, 258, 259, 260]
    assert tokenizer.decode([257, 259, 260], skip_special_tokens=True) == "low<call>"


def test_merges_may_be_lists_and_the_type_left_out(tmp_path):
    content = published(model={"merges": [line.split(" ") for line in MERGES]})
    del content["model"]["type"]
    assert read_tokenizer(written(tmp_path, content))["merges"] == [("l", "o"), ("lo", "w"), ("Ġ", "low")]


def test_steps_that_are_missing_are_not_done(tmp_path):
    content = published(normalizer=None, pre_tokenizer=BYTE_LEVEL, post_processor=None, added_tokens=None)
    got = read_tokenizer(written(tmp_path, content))
    assert (got["normalization"], got["pattern"], got["special_tokens"]) == (None, None, {})


def test_sequences_of_one_step_are_that_step(tmp_path):
    content = published(
        normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}]},
        pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False},
        post_processor={"type": "Sequence", "processors": [BYTE_LEVEL]},
    )
    got = read_tokenizer(written(tmp_path, content))
    assert (got["normalization"], got["pattern"]) == ("NFC", GPT2_PATTERN)
    assert BytePair.load(tmp_path).encode("12 low") == [VOCAB["1"], VOCAB["2"], 258]


def test_tokens_that_are_looked_for_in_the_normalised_text_are_told(tmp_path):
    content = published(added_tokens=[END, {**CALL, "normalized": True}])
    assert read_tokenizer(written(tmp_path, content))["look_later"] == ["<call>"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not JSON (Expecting property name enclosed in double quotes, line 1, column 2)"),
        ("[1]", "a JSON list, expected an object"),
        ({"a": 1, "b": 2}, "not a tokenizer.json (no 'model'; its keys: 'a', 'b')"),
        ({}, "not a tokenizer.json (no 'model'; its keys: none)"),
        (
            published(model={"type": "WordPiece"}),
            "a model of type 'WordPiece', expected 'BPE'; other kinds are not read",
        ),
        (published(model={"type": "Unigram"}), "a model of type 'Unigram', expected 'BPE'; other kinds are not read"),
        ({"model": {"vocab": {}}}, "a model of type 'none', expected 'BPE'; other kinds are not read"),
        (published(model={"dropout": 0.1}), "the model's option dropout is 0.1, which is not read"),
        (
            published(model={"continuing_subword_prefix": "##"}),
            "the model's option continuing_subword_prefix is '##', which is not read",
        ),
        (
            published(model={"end_of_word_suffix": "</w>"}),
            "the model's option end_of_word_suffix is '</w>', which is not read",
        ),
        (published(model={"ignore_merges": True}), "the model's option ignore_merges is True, which is not read"),
        (published(model={"vocab": [1]}), "the model lacks 'vocab' or 'merges'"),
        (published(model={"merges": None}), "the model lacks 'vocab' or 'merges'"),
        (published(model={"merges": ["l o", "low"]}), "merge 1 is 'low', expected two parts"),
        (published(model={"merges": [["l", "o", "w"]]}), "merge 0 is ['l', 'o', 'w'], expected two parts"),
        (published(model={"merges": ["l o", "l x"]}), "merge 1, 'l x': 'lx' is not in the vocabulary"),
        (published(added_tokens=[{**END, "id": 3}]), "token '<|end|>': its id 3 is that of 'ă'"),
        (published(added_tokens=[{**END, "lstrip": True}]), "the token '<|end|>' has lstrip, which is not read"),
        (published(added_tokens=[{**END, "rstrip": True}]), "the token '<|end|>' has rstrip, which is not read"),
        (
            published(added_tokens=[{**END, "single_word": True}]),
            "the token '<|end|>' has single_word, which is not read",
        ),
        (published(normalizer={"type": "NFKC"}), "the normalizer NFKC is not read, only NFC or none"),
        (
            published(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}),
            "the normalizer NFC then Lowercase is not read, only NFC or none",
        ),
        (
            published(pre_tokenizer=None),
            "the pre_tokenizer (none) is not byte-level BPE as read here: ByteLevel, or Split (Regex, Isolated) then "
            "ByteLevel",
        ),
        (
            published(pre_tokenizer={"type": "Sequence", "pretokenizers": [SPLIT, {"type": "Digits"}]}),
            "the pre_tokenizer (Split then Digits) is not byte-level BPE as read here: ByteLevel, or Split (Regex, "
            "Isolated) then ByteLevel",
        ),
        (
            published(pre_tokenizer={"type": "Sequence", "pretokenizers": [{**SPLIT, "invert": True}, BYTE_LEVEL]}),
            "the pre_tokenizer (Split then ByteLevel) is not byte-level BPE as read here: ByteLevel, or Split (Regex, "
            "Isolated) then ByteLevel",
        ),
        (
            published(pre_tokenizer={**BYTE_LEVEL, "add_prefix_space": True}),
            "the pre_tokenizer's option add_prefix_space is not read",
        ),
        (
            published(post_processor={"type": "TemplateProcessing"}),
            "the post_processor TemplateProcessing is not read: it adds tokens of its own",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_not_read_says_why(tmp_path, content, complaint):
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {complaint}')}$"):
        BytePair.load(path)


def test_a_file_that_is_no_text_says_at_which_byte(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"{}\xff")
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: not a text in UTF-8 (byte 2)')}$"):
        BytePair.load(tmp_path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        BytePair.load(tmp_path / "tokenizer.json")


# ---- a vocab.json with a merges.txt


def two_files(folder, merges=("#version: 0.2", *MERGES, ""), vocab=VOCAB):
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(merges), encoding="utf-8")


def test_two_files_are_read_and_what_no_merge_makes_is_special(tmp_path):
    two_files(tmp_path, vocab={**VOCAB, "<|end|>": 259})
    tokenizer = BytePair.load(tmp_path)
    assert tokenizer.special_tokens == {"<|end|>": 259}
    assert tokenizer.encode("low low<|end|>") == [257, 258, 259]
    assert (tokenizer.pattern, tokenizer.normalization) == (QWEN_PATTERN, "NFC")


def test_added_tokens_of_two_files_stand_in_the_configuration(tmp_path):
    two_files(tmp_path)
    tokens = {str(token["id"]): {key: token[key] for key in token if key != "id"} for token in (END, CALL)}
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"added_tokens_decoder": tokens}), encoding="utf-8")
    tokenizer = BytePair.load(tmp_path)
    assert (tokenizer.special_tokens, tokenizer.added_tokens) == ({"<|end|>": 259}, {"<call>": 260})
    config.write_text("{}", encoding="utf-8")
    assert BytePair.load(tmp_path).special_tokens == {}


def test_a_tokenizer_json_goes_before_the_two_files(tmp_path):
    two_files(tmp_path)
    written(tmp_path, published())
    assert BytePair.load(tmp_path).added_tokens == {"<call>": 260}


def test_a_line_that_is_no_merge_is_named(tmp_path):
    two_files(tmp_path, merges=("#version: 0.2", "l o", "low"))
    complaint = f"{tmp_path / 'merges.txt'}: merge 1 is 'low', expected two parts"
    with pytest.raises(ValueError, match=f"^{re.escape(complaint)}$"):
        BytePair.load(tmp_path)


@pytest.mark.parametrize("lone", ["vocab.json", "merges.txt", None])
def test_a_folder_without_a_tokenizer_says_what_was_looked_for(tmp_path, lone):
    two_files(tmp_path)
    for name in {"vocab.json", "merges.txt"} - {lone}:
        (tmp_path / name).unlink()
    complaint = f"{tmp_path}: no tokenizer (looked for tokenizer.json, and for vocab.json with merges.txt)"
    with pytest.raises(ValueError, match=f"^{re.escape(complaint)}$"):
        BytePair.load(tmp_path)


# ---- writing


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"normalization": None, "pattern": None},
        {"special_tokens": {"<|end|>": 300, "<b>": 280}, "added_tokens": {"<c>": 290}, "look_later": ["<c>"]},
    ],
    ids=str,
)
def test_what_is_written_is_read_back(tmp_path, changes):
    merges = [tuple(line.split(" ")) for line in MERGES]
    ours = BytePair(VOCAB, merges, **changes)
    ours.save(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tokenizer.json"]
    # A token that is only added would get another id from other readers.
    inside = json.loads((tmp_path / "new" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert inside == {**VOCAB, **changes.get("special_tokens", {}), **changes.get("added_tokens", {})}
    other = BytePair.load(tmp_path / "new")
    for name in ("merges", "special_tokens", "added_tokens", "look_later", "normalization", "pattern", "vocab_size"):
        assert getattr(other, name) == getattr(ours, name), name
    text = "low low<|end|><b>e\u0301<c>12"
    assert other.encode(text) == ours.encode(text)


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    tokenizer = BytePair(VOCAB, [])
    tokenizer.save(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()

    def fails(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("minivid.text.tokenizer_files.os.replace", fails)
    with pytest.raises(OSError, match="^no space left$"):
        BytePair(VOCAB, [("l", "o")]).save(tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("tokenizer.json", before)]


@pytest.mark.parity
@pytest.mark.parametrize(
    "content",
    [
        published(),
        published(
            normalizer=None, pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        ),
        published(added_tokens=[END, {**CALL, "content": "cafe\u0301", "normalized": True}]),
    ],
    ids=["Qwen", "GPT-2", "later"],
)
def test_files_mean_what_they_mean_to_the_published_library(tmp_path, content):
    tokenizers = pytest.importorskip("tokenizers", reason="the published library of tokenizers is not installed")
    path = written(tmp_path, content)
    theirs, ours = tokenizers.Tokenizer.from_file(str(path)), BytePair.load(path)
    ours.save(tmp_path / "ours")
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "ours" / "tokenizer.json"))
    for text in ("low low<|end|><call>", "a 123 cafe\u0301 caf\u00e9 lowcafe\u0301", "  \n\n low's"):
        ids = theirs.encode(text).ids
        assert ours.encode(text) == again.encode(text).ids == ids
        if text.isascii():  # they take the é of a token's own name for the letter of a byte
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    assert ours.vocab_size == theirs.get_vocab_size()
