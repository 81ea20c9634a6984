"""Published tokenizers as files: a tokenizer.json, or a vocab.json with a merges.txt, read and written."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

# The way in which GPT-2 cuts words, which a file calls by the name `use_regex` only.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def read_tokenizer(path: str | os.PathLike) -> dict[str, object]:
    """What a published tokenizer of the byte-level BPE kind says of itself.

    Limits of length and padding that a file may hold are left to who makes batches.

    Args:
        path: a tokenizer.json, or a folder with one, or with vocab.json and merges.txt. Special tokens of the latter
            stand in tokenizer_config.json; without it they are what no merge makes.

    Returns:
        The arguments of `BytePair`, those that the files say nothing of left out.

    Raises:
        ValueError: if a file is not a tokenizer, of another kind, or holds a step that is not read here.
        OSError: if a file cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        return _from_tokenizer_json(path)
    if (path / "tokenizer.json").is_file():
        return _from_tokenizer_json(path / "tokenizer.json")
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return _from_vocab_and_merges(path)
    raise ValueError(f"{path}: no tokenizer (looked for tokenizer.json, and for vocab.json with merges.txt)")


def write_tokenizer(
    path: str | os.PathLike,
    *,
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    special_tokens: Mapping[str, int],
    added_tokens: Mapping[str, int],
    look_later: Collection[str],
    normalization: str | None,
    pattern: str | None,
) -> None:
    """Write a tokenizer.json that `read_tokenizer`, and the library `tokenizers`, read.

    Args:
        path: the file; the others are the arguments of `BytePair`.
    """
    path = Path(path)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    steps: list[dict] = [byte_level]
    if pattern is not None:
        steps = [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, byte_level]
    outside = {**added_tokens, **special_tokens}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token_id,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": name in look_later,
                "special": name in special_tokens,
            }
            for name, token_id in sorted(outside.items(), key=lambda item: item[1])
        ],
        "normalizer": normalization and {"type": normalization},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            # Other readers number a token anew that is only added; in the vocabulary it keeps its id.
            "vocab": {**vocab, **outside},
            "merges": [f"{left} {right}" for left, right in merges],
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _from_tokenizer_json(path: Path) -> dict[str, object]:
    content = _json(path)
    model = content.get("model")
    if not isinstance(model, dict):
        keys = ", ".join(map(repr, content)) or "none"
        raise ValueError(f"{path}: not a tokenizer.json (no 'model'; its keys: {keys})")
    kind = model.get("type", "BPE" if "merges" in model else "none")
    if kind != "BPE":
        raise ValueError(f"{path}: a model of type {kind!r}, expected 'BPE'; other kinds are not read")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(option):
            raise ValueError(f"{path}: the model's option {option} is {model[option]!r}, which is not read")
    special, added, later = {}, {}, []
    for token in content.get("added_tokens") or ():
        _sort_in(path, token, token.get("id"), special, added, later)
    if not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
        raise ValueError(f"{path}: the model lacks 'vocab' or 'merges'")
    _check_post_processor(path, content.get("post_processor"))
    return {
        "vocab": model["vocab"],
        "merges": [_pair(path, place, merge) for place, merge in enumerate(model["merges"])],
        "special_tokens": special,
        "added_tokens": added,
        "look_later": later,
        "normalization": _normalization(path, content.get("normalizer")),
        "pattern": _pattern(path, content.get("pre_tokenizer")),
    }


def _from_vocab_and_merges(folder: Path) -> dict[str, object]:
    vocab = _json(folder / "vocab.json")
    path = folder / "merges.txt"
    lines = [line for line in _text(path).split("\n") if line.strip() and not line.startswith("#version")]
    merges = [_pair(path, place, line) for place, line in enumerate(lines)]
    special, added, later = {}, {}, []
    path = folder / "tokenizer_config.json"
    if path.is_file():
        for token_id, token in (_json(path).get("added_tokens_decoder") or {}).items():
            _sort_in(path, token, int(token_id), special, added, later)
    else:
        made = {left + right for left, right in merges}
        special = {name: token_id for name, token_id in vocab.items() if len(name) > 1 and name not in made}
    return {
        "vocab": vocab,
        "merges": merges,
        "special_tokens": special,
        "added_tokens": added,
        "look_later": later,
    }


def _pair(path: Path, place: int, merge: str | list[str]) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if len(parts) != 2:
        raise ValueError(f"{path}: merge {place} is {merge!r}, expected two parts")
    return parts[0], parts[1]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8 (byte {error.start})") from None


def _json(path: Path) -> dict:
    try:
        content = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error.msg}, line {error.lineno}, column {error.colno})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON {type(content).__name__}, expected an object")
    return content


def _sort_in(path: Path, token: dict, token_id: object, special: dict, added: dict, later: list) -> None:
    """Sort a published added token in by its flags."""
    name = token.get("content")
    for flag in ("single_word", "lstrip", "rstrip"):
        if token.get(flag):
            raise ValueError(f"{path}: the token {name!r} has {flag}, which is not read")
    (special if token.get("special") else added)[name] = token_id
    if token.get("normalized"):
        later.append(name)


def _steps(step: dict | None, inner: str) -> list[dict]:
    """A published step, or the steps of a sequence, without what does nothing."""
    if step is None:
        return []
    return [each for one in step[inner] for each in _steps(one, inner)] if step.get("type") == "Sequence" else [step]


def _normalization(path: Path, step: dict | None) -> str | None:
    kinds = [str(each.get("type")) for each in _steps(step, "normalizers")]
    if kinds not in ([], ["NFC"]):
        raise ValueError(f"{path}: the normalizer {' then '.join(kinds)} is not read, only NFC or none")
    return kinds[0] if kinds else None


def _pattern(path: Path, step: dict | None) -> str | None:
    steps = _steps(step, "pretokenizers")
    match steps:
        case [{"type": "ByteLevel"} as last]:
            pattern = GPT2_PATTERN if last.get("use_regex", True) else None
        case [{"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"} as first, last] if (
            not first.get("invert") and last.get("type") == "ByteLevel" and not last.get("use_regex", True)
        ):
            pass
        case _:
            kinds = " then ".join(str(each.get("type")) for each in steps) or "none"
            raise ValueError(
                f"{path}: the pre_tokenizer ({kinds}) is not byte-level BPE as read here: "
                "ByteLevel, or Split (Regex, Isolated) then ByteLevel"
            )
    if last.get("add_prefix_space"):
        raise ValueError(f"{path}: the pre_tokenizer's option add_prefix_space is not read")
    return pattern


def _check_post_processor(path: Path, step: dict | None) -> None:
    for each in _steps(step, "processors"):
        if each.get("type") != "ByteLevel":
            raise ValueError(f"{path}: the post_processor {each.get('type')} is not read: it adds tokens of its own")
