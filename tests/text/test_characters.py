"""Characters: classes in patterns as Unicode 16 has them, and accents in one form."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivid.text.characters import LEFT_ALONE, composed, splitter

known = st.characters().filter(lambda character: unicodedata.category(character) != "Cn")


def matches(pattern: str, character: str) -> bool:
    return splitter(f"{pattern}+").fullmatch(character) is not None


# ---- patterns


@given(known, st.sampled_from(["L", "N", "M", "Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl", "No", "Mn", "Me"]))
def test_a_class_holds_the_characters_of_its_category(character, name):
    # U+1171E became a spacing mark in Unicode 15, whatever this Python says.
    has = unicodedata.category(character).startswith(name)
    if character != "\U0001171e":
        assert matches(rf"\p{{{name}}}", character) == has
        assert matches(rf"\P{{{name}}}", character) != has
        assert matches(rf"[-\p{{{name}}}]", character) == (has or character == "-")
        assert matches(rf"[^-\p{{{name}}}]", character) == (not has and character != "-")
        assert matches(rf"[-\P{{{name}}}]", character) == (not has or character == "-")


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("\u1c89", "Lu"),
        ("\U0001df2a", "Ll"),
        ("\U0001e030", "Lm"),
        ("\U00031350", "Lo"),
        ("\U000323af", "Lo"),
        ("\U0001e4f9", "Nd"),
        ("\U0001d2c0", "No"),
        ("\u0897", "Mn"),
        ("\u0cf3", "Mc"),
    ],
)
def test_characters_of_unicode_16_are_known_whatever_python_is_used(character, name):
    others = {"L", "N", "M"} - {name[0]}
    assert matches(rf"\p{{{name}}}", character)
    assert matches(rf"\p{{{name[0]}}}", character)
    assert not any(matches(rf"\p{{{other}}}", character) for other in others)


@pytest.mark.parametrize("code", [0x323B0, 0x1C8B, 0x10FFFF, 0x378])
def test_what_is_assigned_nowhere_is_in_no_class(code):
    assert matches(r"[^\p{L}\p{N}\p{M}]", chr(code))
    assert matches(r"\P{L}", chr(code))


def test_white_space_is_that_of_unicode():
    everything = "".join(map(chr, range(0x110000)))
    white = set("".join(splitter(r"\s").split(everything)[1::2]))
    assert white == {c for c in everything if c.isspace()} - set("\x1c\x1d\x1e\x1f")
    assert not any(matches(r"\S", character) for character in white)
    assert all(matches(r"\S", character) for character in "\x1c\x1fa\u200b\x00")
    assert splitter(r"[^\s]+").fullmatch("a\x1c")
    assert splitter(r"\s+(?!\S)").split("a   b") == ["a", "  ", " b"]


def test_everything_else_is_left_to_re():
    assert splitter(r"a\.\n|(?i:x)[\]\-\\]").split("..a.\n..X]x-x\\") == [
        "..",
        "a.\n",
        "..",
        "X]",
        "",
        "x-",
        "",
        "x\\",
        "",
    ]


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        (r"\p{Greek}", r"\p{Greek} is not read, only kinds of letters, numbers and marks"),
        (r"\p{Lx}", r"\p{Lx} is not read, only kinds of letters, numbers and marks"),
        (r"\p{P}", r"\p{P} is not read, only kinds of letters, numbers and marks"),
        (r"a|\w+", r"\w is not read; name a class, as in \p{L}"),
        (r"[\d]", r"\d is not read; name a class, as in \p{L}"),
        (r"[a[b]]", "an unexpected '['; classes within classes are not read"),
        (r"a]", "an unexpected ']'; classes within classes are not read"),
        (r"(a)|b", "holds a group that is kept; write (?:...)"),
        (r"(?:a", "not a regular expression (missing ), unterminated subpattern)"),
    ],
)
def test_a_pattern_that_is_not_read_says_why(pattern, complaint):
    with pytest.raises(ValueError, match=f"^{re.escape(f'pattern {pattern!r}: {complaint}')}$"):
        splitter(pattern)


# ---- normal form C


accents = st.text("aeioué\u0300\u0301\u0323\u0345가\u1100\u1161\u11a8Ωﬁ", max_size=9)


@given(accents)
def test_composed_is_normal_form_c(text):
    assert composed(text) == unicodedata.normalize("NFC", text)


@given(accents)
def test_composing_twice_is_composing_once(text):
    assert composed(composed(text)) == composed(text)


@pytest.mark.parametrize("mark", ["\u07fd", "\u0898", "\u1ab0\u1ac5", "\U0001e4ec", "\U0001e6f5"])
def test_a_young_mark_is_neither_moved_nor_joined(mark):
    """On either side of it, the text is composed as if it stood alone."""
    young = mark[-1]
    assert composed(f"e{young}\u0301e\u0301") == f"e{young}\u0301é"
    assert composed(f"e\u0301{young}\u0323") == f"é{young}\u0323"
    assert composed(f"q\u0307{young}\u0323q\u0307\u0323") == f"q\u0307{young}\u0323q\u0323\u0307"


def test_young_letters_are_not_joined_either():
    assert composed("\U00011935\U00011930e\u0301") == "\U00011935\U00011930é"


def test_the_list_of_young_marks_is_in_order():
    ends = [int(end, 16) for run in LEFT_ALONE.split() for end in (run.split("-") * 2)[:2]]
    assert ends == sorted(ends)
