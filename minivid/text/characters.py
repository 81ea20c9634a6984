"""Characters: their classes in patterns, and the one form in which an accent is written."""

import re
import sys
import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import groupby

# What Unicode calls white space, from and to. Python's \s counts four control characters more.
WHITE_SPACE = (
    (0x9, 0xD),
    (0x20, 0x20),
    (0x85, 0x85),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
)

# Letters, numbers and marks of Unicode 15 and 16, which a Python may be too old to know. Tokenizers do know them.
LATER = {
    "Lu": "1C89 A7CB-A7CC A7DA A7DC 10D50-10D65",
    "Ll": "1C8A A7CD A7DB 10D70-10D85 1DF25-1DF2A",
    "Lm": "10D4E 10D6F 16D40-16D42 16D6B-16D6C 1E030-1E06D 1E4EB",
    "Lo": "105C0-105F3 10D4A-10D4D 10D4F 10EC2-10EC4 1123F-11240 11380-11389 1138B 1138E 11390-113B5 113B7 113D1 113D3 "
    "11BC0-11BE0 11F02 11F04-11F10 11F12-11F33 1342F 13441-13446 13460-143FA 16100-1611D 16D43-16D6A 18CFF 1B132 1B155 "
    "1E4D0-1E4EA 1E5D0-1E5ED 1E5F0 2B739 2EBF0-2EE5D 31350-323AF",
    "Nd": "10D40-10D49 116D0-116E3 11BF0-11BF9 11F50-11F59 16130-16139 16D70-16D79 1CCF0-1CCF9 1E4F0-1E4F9 1E5F1-1E5FA",
    "No": "1D2C0-1D2D3",
    "Mn": "897 ECE 10D69-10D6D 10EFC-10EFF 11241 113BB-113C0 113CE 113D0 113D2 113E1-113E2 11F00-11F01 11F36-11F3A "
    "11F40 11F42 11F5A 13440 13447-13455 1611E-16129 1612D-1612F 1E08F 1E4EC-1E4EF 1E5EE-1E5EF",
    "Mc": "CF3 113B8-113BA 113C2 113C5 113C7-113CA 113CC-113CD 113CF 11F03 11F34-11F35 11F3E-11F3F 11F41 1612A-1612C",
}

# Marks that are younger than the normaliser with which tokenizers are published, which neither moves nor joins them.
LEFT_ALONE = (
    "5C8-5C9 7FD 897-89F 8CA-8D3 9FE C3C D3B-D3C EBA 1715 1ABF-1AF0 1DF6-1DFA A82C 105C9 105D2 105DA 105E4 10D24-10D27 "
    "10D69-10D6D 10EAB-10EAC 10ECB-10ECF 10EF0-10EFB 10EFD-10EFF 10F46-10F50 10F82-10F85 11070 1133B 113B8 113BB 113C2 "
    "113C9 113CE-113D0 1145E 11839-1183A 11930 1193D-1193E 11943 119E0 11A34 11A47 11A99 11D42 11D44-11D45 11D97 "
    "11F41-11F42 1611E-16120 16129 1612F 16D67 16FF0-16FF1 1D127-1D128 1D250-1D252 1D25B-1D25C 1D25F 1D280-1D281 1E08F "
    "1E130-1E136 1E2AE 1E2EC-1E2EF 1E4EC-1E4EF 1E5EE-1E5EF 1E6E3 1E6E6 1E6EE-1E6EF 1E6F5"
)

Runs = Sequence[tuple[int, int]]


def composed(text: str) -> str:
    """The text in normal form C: a letter and its accents become one character where there is one, else go in order.

    The two ways of writing e with an accent look the same and should have the same ids.

    Source: Unicode Standard Annex 15; characters that are younger than Unicode 9 are left as they are.
    """
    if unicodedata.is_normalized("NFC", text):
        return text
    return "".join(unicodedata.normalize("NFC", piece) for piece in _left_alone().split(text))


def splitter(pattern: str) -> re.Pattern[str]:
    r"""A pattern as published with a tokenizer, for Python's re, in one group.

    Python knows no \p{L}, all letters, so each such class is written out as the ranges of its code points. `split`
    of the result gives what matches and, between two matches, what does not.

    Args:
        pattern: what Python's re reads, and the classes \p{...} and \P{...} of letters (L), numbers (N), marks (M) or
            a kind of these, as in \p{Lu}. \s and \S are what Unicode calls white space.

    Raises:
        ValueError: if the pattern holds another class, a group, or is no regular expression.
    """
    return _compiled(pattern)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    inside, translated = False, ["("]
    for part in re.findall(r"\\[pP]\{\w+\}|\\.|.", pattern, flags=re.DOTALL):
        if part in ("[", "]"):
            if inside == (part == "["):
                raise ValueError(f"pattern {pattern!r}: an unexpected {part!r}; classes within classes are not read")
            inside = part == "["
        elif part[:2] in (r"\p", r"\P", r"\s", r"\S"):
            runs = WHITE_SPACE if part[1] in "sS" else _category(part[3:-1])
            if not runs:
                raise ValueError(f"pattern {pattern!r}: {part} is not read, only kinds of letters, numbers and marks")
            ranges = _ranges(_others(runs) if part[1].isupper() else runs)
            part = ranges if inside else f"[{ranges}]"
        elif part[0] == "\\" and part[1:].isalnum() and part[1] not in "rntfv":
            raise ValueError(f"pattern {pattern!r}: {part} is not read; name a class, as in \\p{{L}}")
        translated.append(part)
    try:
        found = re.compile("".join([*translated, ")"]))
    except re.error as error:
        raise ValueError(f"pattern {pattern!r}: not a regular expression ({error.msg})") from None
    if found.groups > 1:
        raise ValueError(f"pattern {pattern!r}: holds a group that is kept; write (?:...)")
    return found


@cache
def _left_alone() -> re.Pattern[str]:
    return re.compile(f"([{_ranges(_read(LEFT_ALONE))}])")


@cache
def _category(name: str) -> Runs:
    """The code points of a category, as L or Nd; none for one that is not read."""
    if name[:1] not in ("L", "N", "M"):
        return []
    later = [run for category, text in LATER.items() if category.startswith(name) for run in _read(text)]
    known = [(first, last) for category, first, last in _assigned() if category.startswith(name)]
    return sorted(known + later)


@cache
def _assigned() -> list[tuple[str, int, int]]:
    """Neighbouring code points of one category: its name, the first and the last."""
    found, first = [], 0
    for category, run in groupby(map(unicodedata.category, map(chr, range(sys.maxunicode + 1)))):
        last = first + sum(1 for _ in run) - 1
        found.append((category, first, last))
        first = last + 1
    return found


def _others(runs: Runs) -> Runs:
    """The code points that are in none of the runs."""
    found, free = [], 0
    for first, last in runs:
        if first > free:
            found.append((free, first - 1))
        free = max(free, last + 1)
    return [*found, (free, sys.maxunicode)]


def _read(text: str) -> Runs:
    """Runs from their hexadecimal numbers."""
    ends = (run.split("-") for run in text.split())
    return [(int(run[0], 16), int(run[-1], 16)) for run in ends]


def _ranges(runs: Runs) -> str:
    """The inside of a [...]."""
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in runs)
