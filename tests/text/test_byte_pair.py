"""Byte-level BPE: letters for bytes, words, merges in order, special tokens, training, and text as it comes."""

import copy
import json
import pickle
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minivid.classroom.evidence import holds
from minivid.text.byte_pair import (
    LETTERS,
    QWEN_PATTERN,
    BytePair,
    cut_out,
    learn_merges,
    merge_word,
    spell,
    split_words,
)
from minivid.text.characters import composed

# Made with the published tokenizer library; the file says how.
PUBLISHED = json.loads((Path(__file__).parents[1] / "data" / "byte_pair.json").read_text(encoding="utf-8"))
CHAT = dict(
    vocab=PUBLISHED["vocab"],
    merges=[tuple(line.split(" ")) for line in PUBLISHED["merges"]],
    special_tokens={name: number for name, number in PUBLISHED["vocab"].items() if name.startswith("<|")},
)
# What goes wrong in tokenizers: accents in both forms, digits, runs of spaces, several scripts, signs, joined emoji.
PIECES = ["the", "low", "est", " ", "  ", "\n", "\r\n", "\t", "7", "42", "'s", "'LL", ".", "!?", "é", "e\u0301", "ß"]
PIECES += [
    "\u0323\u0307",
    "가",
    "\u1100\u1161",
    "视频",
    "१२",
    "½",
    "🙂",
    "👩\u200d👧",
    "\u3000",
    "\x00",
    "\u2028",
    "_",
    "<|",
    "|>",
]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8).map("".join)
words = st.text("ab", min_size=1, max_size=7)
MERGES = [("a", "b"), ("b", "a"), ("a", "a"), ("ab", "a"), ("b", "b"), ("ab", "ab"), ("aa", "aa"), ("b", "ab")]


def tiny(**changes) -> dict:
    """Arguments of a small tokenizer that knows "low", "lower" and "é"."""
    merges = [("l", "o"), ("lo", "w"), ("Ġ", "low"), ("e", "r"), ("low", "er"), *[tuple(spell("é"))]]
    vocab = {name: number for number, name in enumerate([*LETTERS, *(left + right for left, right in merges)])}
    return {"vocab": vocab, "merges": merges, "special_tokens": {"<|end|>": 262, "<|end|>s": 263}, **changes}


def crossing() -> dict:
    """The same, with merges that no word holds."""
    given_ = tiny()
    given_["merges"] += [("low", "Ġlow"), ("7", "7")]
    given_["vocab"] |= {"lowĠlow": 264, "77": 265}
    return given_


def ranks(merges) -> dict[str, int]:
    return {f"{left} {right}": rank for rank, (left, right) in enumerate(merges)}


# ---- spell


@pytest.mark.law("spell")
@given(texts)
def test_spell_writes_one_letter_for_each_byte(impl, text):
    """There are as many letters as UTF-8 bytes, and each byte has its own letter."""
    letters, raw = impl.spell(text), list(text.encode())
    holds(len(letters) == len(raw), f"{len(letters)} letters for {len(raw)} bytes", text=text, letters=letters)
    want = "".join(LETTERS[byte] for byte in raw)
    holds(letters == want, "a byte is spelled by another letter", text=text, letters=letters, want=want)


@pytest.mark.law("spell")
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126)))
def test_spell_leaves_plain_letters_as_they_are(impl, text):
    """Letters, digits and signs of ASCII stand for themselves."""
    holds(impl.spell(text) == text, "a printable letter of ASCII is changed", text=text, letters=impl.spell(text))


@pytest.mark.law("spell")
@given(st.text(" \t\n\r\x00\x7f\xa0\xad", min_size=1))
def test_spell_shows_what_cannot_be_seen(impl, text):
    """No letter is white space or a control character."""
    letters = impl.spell(text)
    bad = [letter for letter in letters if letter.isspace() or not letter.isprintable()]
    holds(not bad, f"{bad} cannot be seen", text=text, letters=letters)


def test_letters_are_those_of_the_published_table():
    assert len(set(LETTERS)) == len(LETTERS) == 256
    # Control characters and the space follow from 256 on; 127 to 160 after them, and 173, the soft hyphen, at the end.
    assert LETTERS[:34] == "".join(map(chr, range(256, 289))) + "!"
    assert LETTERS[126:162] == "~" + "".join(map(chr, range(289, 323))) + "¡"
    assert (LETTERS[172], LETTERS[173], LETTERS[174], LETTERS[255]) == ("¬", chr(323), "®", "ÿ")
    assert spell(" é") == "ĠÃ©"


def test_half_of_a_surrogate_pair_is_named_with_its_place():
    message = r"^text: '\\ud83d' at place 2 is half of a surrogate pair and no character; replace it$"
    for use in (spell, BytePair(**tiny()).encode):
        with pytest.raises(ValueError, match=message):
            use("ab\ud83dc")


# ---- split_words


@pytest.mark.law("split_words")
@given(texts)
def test_words_put_together_are_the_text(impl, text):
    """Nothing is lost: the words, one after the other, are the text, and none is empty."""
    found = impl.split_words(text)
    holds("".join(found) == text, "the words are not the text", text=text, words=found)
    holds(all(found), "a word is empty", text=text, words=found)


@pytest.mark.law("split_words")
@given(st.text("0123456789२½Ⅷ", min_size=1, max_size=6), st.sampled_from(["", "ab", " ", "ab "]))
def test_digits_stand_alone(impl, digits, before):
    """Every digit is a word of its own, and takes no space with it."""
    found = impl.split_words(before + digits)
    want = [*({"": [], "ab ": ["ab", " "]}.get(before, [before])), *digits]
    holds(found == want, "digits are not one by one", text=before + digits, words=found, want=want)


@pytest.mark.law("split_words")
@given(st.lists(st.sampled_from(["the", "Ärger", "видео", "视频", "نص"]), min_size=2, max_size=4), st.integers(1, 4))
def test_a_word_takes_one_space_before_it(impl, names, spaces):
    """The last space before a word belongs to it; the others stand together."""
    text = (" " * spaces).join(names)
    gap = [" " * (spaces - 1)] if spaces > 1 else []
    want = [names[0], *(part for name in names[1:] for part in (*gap, f" {name}"))]
    found = impl.split_words(text)
    holds(found == want, "a space is at the wrong word", text=text, words=found, want=want)


@pytest.mark.law("split_words")
@given(st.sampled_from(PUBLISHED["words"]))
@example(["'LL", "ama"])
def test_words_are_the_published_ones(impl, want):
    """Words of several scripts, signs and lines are cut as the published tokenizers cut them."""
    text = "".join(want)
    found = impl.split_words(text)
    holds(found == want, "the words differ from the published ones", text=text, words=found, want=want)


def test_another_pattern_cuts_otherwise_and_none_not_at_all():
    assert split_words("a 12 b", r"\p{N}+") == ["a ", "12", " b"]
    assert split_words("a 12 b", None) == ["a 12 b"]
    assert split_words("", None) == split_words("") == []


# ---- merge_word


def merged_by_hand(word: str, order: dict[str, int]) -> list[str]:
    """Look at all pairs after every merge."""
    parts = list(word)
    while True:
        known = [(order[f"{a} {b}"], place) for place, (a, b) in enumerate(pairwise(parts)) if f"{a} {b}" in order]
        if not known:
            return parts
        _, place = min(known)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


@pytest.mark.law("merge_word")
@given(st.text("abc", max_size=12), st.permutations(MERGES))
@example("ab" * 4, MERGES)
@example("aba", [("ab", "a"), ("a", "b")])  # what comes later in the list serves what stands before it
def test_the_pair_learned_first_is_joined_first(impl, word, merges):
    """After every merge, the pair of neighbours with the lowest rank is next, the leftmost of equals."""
    got, want = impl.merge_word(word, ranks(merges)), merged_by_hand(word, ranks(merges))
    holds(got == want, "the parts differ", word=word, ranks=ranks(merges), got=got, want=want)


@pytest.mark.law("merge_word")
@given(st.text("abc", max_size=12), st.permutations(MERGES))
def test_parts_put_together_are_the_word(impl, word, merges):
    """Nothing is lost: the parts, one after the other, are the word."""
    got = impl.merge_word(word, ranks(merges))
    holds("".join(got) == word and all(got), "the parts are not the word", word=word, ranks=ranks(merges), got=got)


@pytest.mark.law("merge_word")
@given(st.text("abc", min_size=1, max_size=8))
def test_without_merges_a_word_is_its_letters(impl, word):
    """With no pair known, the parts are the letters."""
    holds(impl.merge_word(word, {}) == list(word), "letters are joined", word=word, got=impl.merge_word(word, {}))


def test_a_long_word_takes_little_longer_a_letter_than_a_short_one():
    """A scan of all pairs after every merge would take 10^9 steps here."""
    found = merge_word("ab" * 20_000, ranks(MERGES))
    assert found == ["abab"] * 10_000


# ---- cut_out


def cut_by_hand(text: str, names: list[str]) -> list[str]:
    """Look for the longest name at every place."""
    pieces, start, place = [], 0, 0
    while place < len(text):
        found = max((name for name in names if text.startswith(name, place)), key=len, default=None)
        if found is None:
            place += 1
            continue
        pieces += [text[start:place], found]
        start = place = place + len(found)
    return [piece for piece in [*pieces, text[start:]] if piece]


NAMES = ["<a>", "<a>b", "<", "(.)", "|"]


@pytest.mark.law("cut_out")
@given(
    st.lists(st.sampled_from([*NAMES, "a", "b>", " ", "x"]), max_size=6).map("".join),
    st.lists(st.sampled_from(NAMES), unique=True),
)
def test_names_are_cut_out_whole_the_longest_first(impl, text, names):
    """Each name in the text is a piece of its own; of two at one place the longer one is found."""
    got, want = impl.cut_out(text, names), cut_by_hand(text, names)
    holds(got == want, "the pieces differ", text=text, names=names, got=got, want=want)


# ---- learn_merges


def learned_by_hand(counts: dict[str, int], count: int) -> list[tuple[str, str]]:
    """Count all pairs anew after every merge."""
    split = {word: list(word) for word in counts}
    age = {letter: number for number, letter in enumerate(sorted(LETTERS))}
    merges = []
    while len(age) < 256 + count:
        pairs = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], age[pair[0]], age[pair[1]]))
        merges.append(best)
        age.setdefault("".join(best), len(age))
        for parts in split.values():
            place = 0
            while place < len(parts) - 1:
                if (parts[place], parts[place + 1]) == best:
                    parts[place : place + 2] = ["".join(best)]
                place += 1
    return merges


@pytest.mark.law("learn_merges")
@given(st.dictionaries(st.text("abĠ", min_size=1, max_size=9), st.integers(1, 4), max_size=6), st.integers(0, 12))
@example({"aaaaaa": 1, "ab": 1}, 6)
def test_the_most_frequent_pair_is_learned_next(impl, counts, count):
    """Each pair is the most frequent one in the words as they are joined so far; of equals, that of older parts."""
    got, want = impl.learn_merges(counts, count), learned_by_hand(counts, count)
    got = [tuple(pair) for pair in got]
    holds(got == want, "the merges differ", words=counts, count=count, got=got, want=want)


@pytest.mark.law("learn_merges")
@given(words, words, st.integers(1, 3))
def test_words_count_as_often_as_they_occur(impl, one, other, times):
    """Twice as many of every word change nothing."""
    if one == other:
        other += "b"
    counts = {one: times, other: 1}
    got, want = impl.learn_merges(counts, 5), impl.learn_merges({word: 2 * n for word, n in counts.items()}, 5)
    holds(got == want, "the merges depend on how often everything occurs", words=counts, got=got, doubled=want)


def test_learning_by_hand():
    """The words of the article: es and est 9 times, lo and low 7, then ew, new and newest 6."""
    counts = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
    want = [("e", "s"), ("es", "t"), ("l", "o"), ("lo", "w"), ("e", "w"), ("n", "ew"), ("new", "est")]
    assert learn_merges(counts, 7) == want


# ---- BytePair: there and back


@pytest.mark.law("BytePair")
@given(texts)
def test_decode_undoes_encode(impl, text):
    """The text comes back, accents in one form; no text is unknown."""
    tokenizer = impl.BytePair(**tiny())
    got, want = tokenizer.decode(tokenizer.encode(text)), composed(text)
    holds(got == want, "another text comes back", text=text, got=got, want=want)


@pytest.mark.law("BytePair")
@given(texts)
def test_both_ways_of_writing_an_accent_have_the_same_ids(impl, text):
    """A letter with an accent has the ids of the letter followed by the accent."""
    tokenizer = impl.BytePair(**tiny())
    apart, joined = unicodedata.normalize("NFD", text), unicodedata.normalize("NFC", text)
    got, want = tokenizer.encode(apart), tokenizer.encode(joined)
    holds(got == want, "the two forms have other ids", text=joined, apart=got, joined=want)


@pytest.mark.law("BytePair")
@given(texts.filter(lambda text: "<|" not in text), texts.filter(lambda text: "<|" not in text and text[:1] != "s"))
def test_a_special_token_is_one_id(impl, before, behind):
    """A special token is one id; what stands before and behind it has the ids that it has alone."""
    tokenizer = impl.BytePair(**tiny())
    got = tokenizer.encode(f"{before}<|end|>{behind}")
    want = [*tokenizer.encode(before), 262, *tokenizer.encode(behind)]
    holds(
        got == want, "a special token is cut, or joined to the text", before=before, behind=behind, got=got, want=want
    )


@pytest.mark.law("BytePair")
@given(
    st.lists(
        st.sampled_from(
            ["low", " low", "low low", "77", "lower", "slow", "é", "e\u0301", "<|end|>", "<|end|>s", "7", " "]
        ),
        max_size=5,
    )
)
def test_ids_are_those_of_the_parts_of_the_words(impl, pieces):
    """Special tokens are cut out, the rest is composed, cut into words, spelled and joined by rank."""
    text, given_ = "".join(pieces), crossing()
    want = []
    for piece in cut_out(text, given_["special_tokens"]):
        if piece in given_["special_tokens"]:
            want.append(given_["special_tokens"][piece])
            continue
        for word in split_words(composed(piece)):
            want += [given_["vocab"][part] for part in merged_by_hand(spell(word), ranks(given_["merges"]))]
    got = impl.BytePair(**given_).encode(text)
    holds(got == want, "the ids differ", text=text, got=got, want=want)


@pytest.mark.law("BytePair")
@given(st.sampled_from([*PUBLISHED["golden"], *PUBLISHED["peer"]]))
def test_ids_are_the_published_ones(impl, case):
    """Prompts, scripts, emoji and runs of spaces have the ids that the published library gives them."""
    got = impl.BytePair(**CHAT).encode(case["text"])
    holds(got == case["ids"], "the ids differ", text=case["text"], got=got, want=case["ids"])


@pytest.mark.law("BytePair")
@given(st.lists(st.integers(0, 263), max_size=8))
def test_any_ids_have_a_text(impl, ids):
    """Ids in any order can be decoded; bytes that are no character become U+FFFD. Special tokens can be left out."""
    tokenizer, given_ = impl.BytePair(**tiny()), tiny()
    special = {number: name for name, number in given_["special_tokens"].items()}
    names = {number: bytes(LETTERS.index(letter) for letter in name) for name, number in given_["vocab"].items()}
    for skip in (False, True):
        raw = b"".join(names.get(number, b"" if skip else special.get(number, "").encode()) for number in ids)
        got = tokenizer.decode(ids, skip_special_tokens=skip)
        want = raw.decode("utf-8", errors="replace")
        holds(got == want, "another text comes out", ids=ids, skip_special_tokens=skip, got=got, want=want)


# ---- TextStream


@pytest.mark.law("BytePair")
@given(texts)
def test_a_stream_shows_whole_characters_only(impl, text):
    """The pieces of a stream are the text; none ends within a character."""
    tokenizer = impl.BytePair(**tiny())
    stream, shown = tokenizer.stream(), []
    for number in tokenizer.encode(text):
        shown.append(stream.add(number))
    want = composed(text)
    holds("".join(shown) == want, "something is shown too early or too late", text=text, shown=shown, want=want)
    holds(stream.end() == "", "something is left at the end", text=text, shown=shown)


@given(st.lists(st.integers(0, 263), max_size=8), st.booleans())
def test_a_stream_of_any_ids_is_what_decode_gives(ids, skip):
    tokenizer = BytePair(**tiny())
    stream = tokenizer.stream(skip_special_tokens=skip)
    assert "".join([*map(stream.add, ids), stream.end()]) == tokenizer.decode(ids, skip_special_tokens=skip)


def test_a_stream_that_ends_within_a_character_says_so_at_the_end():
    tokenizer = BytePair(**tiny(merges=[]))
    stream = tokenizer.stream()
    first, second = tokenizer.encode("é")
    assert [stream.add(first), stream.add(second)] == ["", "é"]
    assert [stream.add(first), stream.end(), stream.add(second)] == ["", "\ufffd", "\ufffd"]


# ---- BytePair: parts


def test_ids_of_names_and_bytes_of_ids():
    tokenizer = BytePair(**tiny(added_tokens={"né": 264}))
    assert tokenizer.vocab_size == 265
    assert [tokenizer.token_id(name) for name in ("Ġlow", "<|end|>", "né")] == [258, 262, 264]
    assert [tokenizer.token_bytes(number) for number in (258, 262, 264, 0)] == [
        b" low",
        b"<|end|>",
        "né".encode(),
        b"\x00",
    ]
    assert tokenizer.special_tokens == {"<|end|>": 262, "<|end|>s": 263}
    assert tokenizer.added_tokens == {"né": 264}
    assert tokenizer.vocab["lower"] == 260
    assert repr(tokenizer) == "BytePair(265 tokens, 6 merges, 2 special)"


def test_added_tokens_are_cut_out_and_kept():
    tokenizer = BytePair(**tiny(added_tokens={"we": 264}))
    assert tokenizer.encode("lowe<|end|>") == [256, 264, 262]
    assert tokenizer.decode([264, 262], skip_special_tokens=True) == "we"


def test_tokens_looked_for_later_are_found_in_the_composed_text():
    given_ = tiny(added_tokens={"caf\u00e9": 264})
    assert BytePair(**given_).encode("cafe\u0301")[-1] != 264
    for name in ("caf\u00e9", "cafe\u0301"):
        later = tiny(added_tokens={name: 264}, look_later=[name])
        assert BytePair(**later).encode("a cafe\u0301")[-1] == 264
        assert BytePair(**later).encode("caf\u00e9<|end|>") == [264, 262]


def test_without_normalization_a_text_stays_as_it_is():
    tokenizer = BytePair(**tiny(normalization=None))
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "e\u0301"


def test_another_pattern_lets_merges_cross_words():
    assert BytePair(**crossing()).encode("low low77") == [257, 258, ord("7"), ord("7")]
    assert BytePair(**crossing(), pattern=None).encode("low low77") == [264, 265]


def test_words_are_kept_but_not_without_end(monkeypatch):
    monkeypatch.setattr("minivid.text.byte_pair.MOST_KEPT", 2)
    monkeypatch.setattr("minivid.text.byte_pair.LONGEST_KEPT", 3)
    tokenizer = BytePair(**tiny())
    assert tokenizer.encode("low er low") == tokenizer.encode("low er low")
    assert set(tokenizer._kept) == {"low", " er"}  # " low" has four letters
    assert tokenizer.encode("us low") == [ord("u"), ord("s"), 258]
    assert set(tokenizer._kept) == {"us"}


def test_a_copy_gives_the_same_ids():
    tokenizer = BytePair(**tiny())
    want = tokenizer.encode("lower low<|end|>")
    for other in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert other.encode("lower low<|end|>") == want


def test_what_is_given_away_cannot_change_a_tokenizer():
    given_ = tiny()
    tokenizer = BytePair(**given_)
    given_["vocab"].clear()
    assert tokenizer.encode("low") == [257]
    with pytest.raises(TypeError):
        tokenizer.vocab["low"] = 3


# ---- training


def test_training_is_that_of_the_published_trainer():
    case = PUBLISHED["learned"]
    tokenizer = BytePair.train(case["texts"], case["vocab_size"], special_tokens=case["special_tokens"])
    assert [list(pair) for pair in tokenizer.merges] == case["merges"]
    assert tokenizer.vocab == case["vocab"]
    assert tokenizer.special_tokens == {"<|a|>": 0, "<|b|>": 1}
    assert tokenizer.vocab_size == 306  # no pair is left


@given(st.lists(texts, min_size=1, max_size=4), st.integers(258, 270))
@settings(max_examples=30)
def test_a_trained_tokenizer_gives_every_text_back(some, size):
    tokenizer = BytePair.train(some, size, special_tokens=["<|end|>"])
    assert tokenizer.vocab_size <= size
    for text in some:
        assert tokenizer.decode(tokenizer.encode(text)) == composed(text)


def test_nothing_is_learned_from_special_tokens_or_across_words():
    tokenizer = BytePair.train(["<|end|>a b<|end|>a b"], 300, special_tokens=["<|end|>", "<|end|>"])
    assert tokenizer.merges == (("Ġ", "b"),)
    assert tokenizer.vocab_size == 258


def test_training_composes_accents():
    assert BytePair.train(["e\u0301"], 300).merges == (("Ã", "©"),)


def test_training_with_no_room_says_how_much_is_needed():
    message = "^vocab_size is 256, expected at least 257: 1 special tokens and 256 bytes$"
    with pytest.raises(ValueError, match=message):
        BytePair.train(["a"], 256, special_tokens=["<|end|>"])
    assert BytePair.train(["aa"], 256).merges == ()


def test_training_on_one_string_is_refused(unchecked):
    with pytest.raises(ValueError, match=r"^texts: one string came, expected several, as in \[text\]$"):
        BytePair.train("low lower", 300)


# ---- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalization": "NFKC"}, "normalization is 'NFKC', expected 'NFC' or None"),
        ({"pattern": r"\w+"}, "pattern '\\\\\\\\w\\+': \\\\w is not read; name a class, as in \\\\p{L}"),
        ({"special_tokens": {"": 300}}, "special tokens: one has no name"),
        ({"special_tokens": {"<|end|>": 5}}, r"token '<\|end\|>': its id 5 is that of 'ą'"),
        ({"special_tokens": {"low": 300}}, "token 'low': its id is 300, but 257 in the vocabulary"),
        ({"special_tokens": {"<e>": -1}}, "token '<e>': its id is -1, expected a whole number from 0 on"),
        ({"added_tokens": {"<e>": "7"}}, "token '<e>': its id is '7', expected a whole number from 0 on"),
        ({"merges": [("l", "o"), ("o", "x")]}, "merge 1, 'o x': 'ox' is not in the vocabulary"),
        ({"merges": [("l", "o"), ("xx", "o")]}, "merge 1, 'xx o': 'xx' is not in the vocabulary"),
        (
            {"vocab": {letter: number for number, letter in enumerate(LETTERS[4:])}, "merges": []},
            r"vocabulary: 4 of the 256 letters of bytes are missing: "
            r"'Ā' \(byte 0\), 'ā' \(byte 1\), 'Ă' \(byte 2\), \.\.\.",
        ),
        (
            {"vocab": {letter: number for number, letter in enumerate(LETTERS[1:])}, "merges": []},
            r"vocabulary: 1 of the 256 letters of bytes are missing: 'Ā' \(byte 0\)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_tokenizer_that_cannot_work_says_why(unchecked, changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        BytePair(**tiny(**changes))


def test_unknown_names_and_ids_are_named(unchecked):
    tokenizer = BytePair(**tiny())
    with pytest.raises(ValueError, match=r"^token '<\|im_end\|>': not among the 264 of this tokenizer$"):
        tokenizer.token_id("<|im_end|>")
    for use in (tokenizer.token_bytes, lambda number: tokenizer.decode([1, number]), tokenizer.stream().add):
        with pytest.raises(ValueError, match="^id 264: not in the vocabulary of 264 tokens, whose highest id is 263$"):
            use(264)
    with pytest.raises(ValueError, match="^id -1: not in the vocabulary of 264 tokens, whose highest id is 263$"):
        tokenizer.decode([-1])
    with pytest.raises(TypeError, match="^text: a list came, expected a str$"):
        tokenizer.encode(["low"])
    with pytest.raises(TypeError):
        tokenizer.decode([1.5])


# ---- the published library


@pytest.fixture(scope="module")
def peer():
    return pytest.importorskip("tokenizers", reason="the published library of tokenizers is not installed")


@pytest.fixture(scope="module")
def both(peer, tmp_path_factory):
    """One trained tokenizer, ours and as the published library reads it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    some = [
        "the low lower lowest newest",
        "12 frames; don't",
        "视频内容 描述视频",
        "é e\u0301 Ärger",
        "🙂🙂 👩\u200d👧",
    ] * 2
    ours = BytePair.train(some, 330, special_tokens=["<|end|>", "<|end|>s", "<"])
    ours.save(folder)
    return ours, peer.Tokenizer.from_file(str(folder / "tokenizer.json"))


any_text = st.lists(
    texts | st.text(max_size=12) | st.sampled_from(["<|end|>", "<|end|>s", "'ſ", "\x1c", "\U00031350"])
).map("".join)


@pytest.mark.parity
@given(any_text)
@settings(max_examples=400)
def test_ids_equal_those_of_the_published_library(both, text):
    ours, theirs = both
    assert ours.encode(text) == theirs.encode(text).ids


@pytest.mark.parity
@given(st.lists(st.integers(0, 329), max_size=12), st.booleans())
def test_texts_equal_those_of_the_published_library(both, ids, skip):
    ours, theirs = both
    ids = [number for number in ids if number < ours.vocab_size]
    assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


@pytest.mark.parity
@pytest.mark.slow
def test_every_character_has_the_ids_of_the_published_library(both):
    """Between two letters, so that its class shows: letters join them to one word, numbers and signs do not."""
    ours, theirs = both
    codes = [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE0200), 0x10FFFF]
    for start in range(0, len(codes), 4096):
        text = "".join(f"a{chr(code)}a {chr(code)}\u0323\u0307" for code in codes[start : start + 4096])
        assert ours.encode(text) == theirs.encode(text).ids, hex(codes[start])


@pytest.mark.parity
@given(st.lists(st.text("ab é", max_size=9) | texts, max_size=5), st.integers(256, 290))
@settings(max_examples=60)
def test_training_equals_that_of_the_published_library(peer, some, size):
    pre_tokenizers = peer.pre_tokenizers
    theirs = peer.Tokenizer(peer.models.BPE())
    theirs.normalizer = peer.normalizers.NFC()
    split = pre_tokenizers.Split(peer.Regex(QWEN_PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = peer.trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    theirs.train_from_iterator(some, trainer)
    assert BytePair.train(some, size).vocab == theirs.get_vocab()
