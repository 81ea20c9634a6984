"""Byte-level byte-pair encoding: any text becomes numbers and comes back, by merges learned here or published."""

import codecs
import heapq
import operator
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

from minivid.text.characters import composed, splitter
from minivid.text.tokenizer_files import read_tokenizer, write_tokenizer

# How the Qwen family cuts a text into words, in the order in which the ways are tried.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # endings of English words
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"  # letters, with the one space or sign before them
    r"|\p{N}"  # digits one by one
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"  # signs, with the space before and the line ends behind them
    r"|\s*[\r\n]+"  # empty lines
    r"|\s+(?!\S)"  # spaces, but for the last one, which the next word takes
    r"|\s+"
)
# Words of a text repeat, so their ids are kept; not those of rare, long ones, and not without end.
LONGEST_KEPT, MOST_KEPT = 64, 2**17


def _letters() -> str:
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return "".join(chr(byte if byte in printable else next(others)) for byte in range(256))


# A printable letter for every byte: itself where it is one, else the next one from 256 on. Byte 32, a space, is Ġ.
LETTERS = _letters()
_BYTES = {letter: byte for byte, letter in enumerate(LETTERS)}


def spell(text: str) -> str:
    """Write a text's UTF-8 bytes as printable letters, one a byte.

    There are 256 letters for all the texts of the world, so no text holds an unknown one. A space becomes Ġ.

    Raises:
        ValueError: if the text holds half of a surrogate pair, which UTF-8 cannot write.

    Source: Radford et al. 2019, section 2.2 (GPT-2), and the table in its published code.
    """
    return _utf8(text).decode("latin-1").translate(LETTERS)


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"{text[error.start]!r} at place {error.start}"
        raise ValueError(f"text: {half} is half of a surrogate pair and no character; replace it") from None


def split_words(text: str, pattern: str | None = QWEN_PATTERN) -> list[str]:
    """Cut a text into the words that no merge crosses; put together again they are the text.

    Args:
        text: any text.
        pattern: a regular expression whose matches, and what lies between them, are the words. It may name classes of
            characters as in \\p{L}, the letters of every script. None leaves the text whole.

    Raises:
        ValueError: if the pattern holds what is not read here.

    Source: Qwen team 2025, the file tokenizer.json published with Qwen3-VL.
    """
    pieces = [text] if pattern is None else splitter(pattern).split(text)
    return [piece for piece in pieces if piece]


def merge_word(word: str, ranks: Mapping[str, int]) -> list[str]:
    """Join neighbours, first the pair that was learned first, until no two neighbours are a known pair.

    Of equal pairs the leftmost is joined first. The pairs wait in a heap, so n letters take about n log n steps.

    Args:
        word: letters, as `spell` gives them.
        ranks: "left right" to the place of that pair among the merges, as the lines of a merges.txt are numbered.

    Returns:
        The parts of the word, from left to right.

    Source: Sennrich et al. 2016, section 3.2 (arXiv:1508.07909).
    """
    # A part that was joined to the one before it is left empty; an empty one behind the last is its neighbour.
    parts = [*word, ""]
    before, after = list(range(-1, len(word))), list(range(1, len(word) + 2))
    waiting = [(ranks[pair], left) for left, pair in enumerate(map(" ".join, pairwise(word))) if pair in ranks]
    heapq.heapify(waiting)
    while waiting:
        rank, left = heapq.heappop(waiting)
        # One of the two may have been joined to something else while the pair waited.
        if not parts[left] or ranks.get(f"{parts[left]} {parts[after[left]]}") != rank:
            continue
        right = after[left]
        parts[left] += parts[right]
        parts[right] = ""
        after[left] = after[right]
        before[after[left]] = left
        for first, second in ((before[left], left), (left, after[left])):
            if first >= 0:
                found = ranks.get(f"{parts[first]} {parts[second]}")
                if found is not None:
                    heapq.heappush(waiting, (found, first))
    return [part for part in parts if part]


def cut_out(text: str, names: Collection[str]) -> list[str]:
    """Cut a text before and after each of the given names in it; put together again the pieces are the text.

    Args:
        text: any text.
        names: what is never cut, as "<|im_start|>". Of two that begin at one place the longer one is found.

    Returns:
        The pieces in order, none of them empty.
    """
    return [piece for piece in _cutter(tuple(names)).split(text) if piece] if names else [text] * bool(text)


@lru_cache(64)
def _cutter(names: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")


def learn_merges(words: Mapping[str, int], count: int) -> list[tuple[str, str]]:
    """Join the pair of neighbours that occurs most often, everywhere, and begin again, until `count` parts are new.

    Of pairs that occur equally often the one with the older left part is taken, then the one with the older right
    part: letters by their code points, then joined parts in the order in which they came up. Only words in which
    something was joined are counted again.

    Args:
        words: each word, in letters of `spell`, to how often it occurs.
        count: how many parts to learn at most; there are fewer if all words have become whole before.

    Returns:
        The pairs, in the order in which they were joined.

    Source: Sennrich et al. 2016, algorithm 1 (arXiv:1508.07909).
    """
    age = {letter: place for place, letter in enumerate(sorted(set(LETTERS).union(*words)))}
    most = len(age) + count
    split, times = [list(word) for word in words], list(words.values())
    counts: Counter[tuple[str, str]] = Counter()
    where: defaultdict[tuple[str, str], set[int]] = defaultdict(set)

    def note(word: int) -> set[tuple[str, str]]:
        for pair in pairwise(split[word]):
            counts[pair] += times[word]
            where[pair].add(word)
        return set(pairwise(split[word]))

    def queued(pair: tuple[str, str]) -> tuple[int, int, int, tuple[str, str]]:
        return -counts[pair], age[pair[0]], age[pair[1]], pair

    for word in range(len(split)):
        note(word)
    waiting = [queued(pair) for pair in counts]
    heapq.heapify(waiting)
    merges = []
    while waiting and len(age) < most:
        seen, _, _, pair = heapq.heappop(waiting)
        if counts[pair] != -seen:  # it changed while it waited, and was queued again
            continue
        if seen == 0:
            break
        merges.append(pair)
        age.setdefault(pair[0] + pair[1], len(age))
        changed: set[tuple[str, str]] = set()
        for word in sorted(where.pop(pair)):
            for gone in pairwise(split[word]):
                counts[gone] -= times[word]
                changed.add(gone)
            split[word] = _joined(split[word], pair)
            changed |= note(word)
        for other in changed:
            heapq.heappush(waiting, queued(other))
    return merges


def _joined(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """The parts with every occurrence of a pair made one, from the left."""
    found, place = [], 0
    while place < len(parts):
        both = tuple(parts[place : place + 2]) == pair
        found.append(pair[0] + pair[1] if both else parts[place])
        place += 1 + both
    return found


class BytePair:
    """A tokenizer: text to ids by byte-level BPE, and back.

        text -> cut_out special tokens -> normalise -> split_words -> spell -> merge_word -> ids

    It is not changed after it was made. `normalization`, `pattern` and `merges` are as they were given.

    Args:
        vocab: parts, in letters of `spell`, to ids; all 256 letters among them.
        merges: pairs of parts, in the order in which they were learned.
        special_tokens: names to ids that are cut out before anything else, as "<|im_start|>".
        added_tokens: the same, but `decode` keeps them where it skips special tokens.
        look_later: those of the added and special tokens that are looked for in the normalised text, not before.
        normalization: "NFC" (see `composed`) or None, for the text between special tokens.
        pattern: how `split_words` cuts.

    Raises:
        ValueError: if a letter is missing, two names share an id, a merge leads nowhere, or an option is unknown.

    Source: Radford et al. 2019, section 2.2 (GPT-2); the tokenizer of Qwen3-VL.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        special_tokens: Mapping[str, int] = MappingProxyType({}),
        added_tokens: Mapping[str, int] = MappingProxyType({}),
        look_later: Collection[str] = (),
        normalization: str | None = "NFC",
        pattern: str | None = QWEN_PATTERN,
    ):
        if normalization not in (None, "NFC"):
            raise ValueError(f"normalization is {normalization!r}, expected 'NFC' or None")
        self.normalization, self.pattern = normalization, pattern
        self.merges = tuple((left, right) for left, right in merges)
        self._vocab, self._special, self._added = dict(vocab), dict(special_tokens), dict(added_tokens)
        self._outside = {**self._added, **self._special}
        self._names = _names_by_id(self._vocab, self._outside)
        _check_parts(self._vocab, self.merges)
        if pattern is not None:
            splitter(pattern)
        self._ranks = {f"{left} {right}": rank for rank, (left, right) in enumerate(self.merges)}
        self.look_later = frozenset(look_later)
        self._first = tuple(name for name in self._outside if name not in self.look_later)
        self._later = {self._normalized(name): self._outside[name] for name in self._outside if name in self.look_later}
        self._kept: dict[str, list[int]] = {}

    @property
    def vocab(self) -> Mapping[str, int]:
        """Parts, in letters of `spell`, to ids."""
        return MappingProxyType(self._vocab)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Names of special tokens to ids."""
        return MappingProxyType(self._special)

    @property
    def added_tokens(self) -> Mapping[str, int]:
        """Names of tokens that are cut out like special ones, but are a part of the text."""
        return MappingProxyType(self._added)

    @property
    def vocab_size(self) -> int:
        """How many ids there are, special tokens included."""
        return len(self._names)

    def __repr__(self) -> str:
        return f"BytePair({self.vocab_size} tokens, {len(self.merges)} merges, {len(self._special)} special)"

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, *, special_tokens: Sequence[str] = ()) -> "BytePair":
        """Learn the merges that shorten some texts most.

        Ids are given to special tokens first, then to the 256 letters by their code points, then to joined parts in
        the order in which they were learned. Nothing is learned from special tokens in the texts.

        Args:
            texts: what to learn from.
            vocab_size: how many ids to give in all; fewer are given where the texts do not hold as many pairs.
            special_tokens: names that are never cut.

        Raises:
            ValueError: if vocab_size has no room for the letters and special tokens, or texts is one string.
        """
        fixed = [*dict.fromkeys(special_tokens), *sorted(LETTERS)]
        if vocab_size < len(fixed):
            raise ValueError(
                f"vocab_size is {vocab_size}, expected at least {len(fixed)}: "
                f"{len(fixed) - 256} special tokens and 256 bytes"
            )
        if isinstance(texts, str):
            raise ValueError("texts: one string came, expected several, as in [text]")
        words: Counter[str] = Counter()
        for text in texts:
            for piece in cut_out(text, special_tokens):
                if piece not in special_tokens:
                    words.update(split_words(composed(piece)))
        merges = learn_merges({spell(word): times for word, times in words.items()}, vocab_size - len(fixed))
        names = dict.fromkeys([*fixed, *(left + right for left, right in merges)])
        vocab = {name: place for place, name in enumerate(names)}
        return cls(vocab, merges, special_tokens={name: vocab[name] for name in fixed[:-256]})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "BytePair":
        """Read a published tokenizer of the byte-level BPE kind, as those of the Qwen family; see `read_tokenizer`.

        Args:
            path: a tokenizer.json, or a folder with one, or with vocab.json and merges.txt.

        Raises:
            ValueError: if the file is not a tokenizer, of another kind, or holds a step that is not read here.
            OSError: if a file cannot be read.
        """
        given = read_tokenizer(path)
        try:
            return cls(given.pop("vocab"), given.pop("merges"), **given)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save(self, folder: str | os.PathLike) -> None:
        """Write a tokenizer.json that `load`, and the library `tokenizers`, read back to the same ids.

        Args:
            folder: where to; made if it is not there.
        """
        write_tokenizer(
            Path(folder) / "tokenizer.json",
            vocab=self._vocab,
            merges=self.merges,
            special_tokens=self._special,
            added_tokens=self._added,
            look_later=self.look_later,
            normalization=self.normalization,
            pattern=self.pattern,
        )

    def encode(self, text: str) -> list[int]:
        """The ids of a text; none for an empty one.

        Raises:
            TypeError: if what came is no str.
            ValueError: if the text holds half of a surrogate pair.
        """
        if not isinstance(text, str):
            raise TypeError(f"text: a {type(text).__name__} came, expected a str")
        _utf8(text)
        ids: list[int] = []
        for piece in cut_out(text, self._first):
            if piece in self._outside and piece not in self.look_later:
                ids.append(self._outside[piece])
                continue
            for part in cut_out(self._normalized(piece), self._later):
                if part in self._later:
                    ids.append(self._later[part])
                else:
                    for word in split_words(part, self.pattern):
                        ids += self._kept.get(word) or self._merged(word)
        return ids

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """The text of some ids; bytes that are no character become U+FFFD.

        Args:
            ids: as `encode` gives them; a one-dimensional tensor will do.
            skip_special_tokens: whether special tokens are left out.

        Raises:
            ValueError: if an id is not in the vocabulary.
        """
        decoder = self.stream(skip_special_tokens=skip_special_tokens)
        return "".join([*map(decoder.add, ids), decoder.end()])

    def stream(self, *, skip_special_tokens: bool = False) -> "TextStream":
        """A decoder for ids that come one by one."""
        return TextStream(self, skip_special_tokens=skip_special_tokens)

    def token_id(self, name: str) -> int:
        """The id of a special token, or of a part in letters of `spell`.

        Raises:
            ValueError: if there is none; the message names it.
        """
        found = self._outside.get(name, self._vocab.get(name))
        if found is None:
            raise ValueError(f"token {name!r}: not among the {self.vocab_size} of this tokenizer")
        return found

    def token_bytes(self, token_id: int) -> bytes:
        """What an id stands for: UTF-8 bytes, which need not be whole characters.

        Raises:
            ValueError: if the id is not in the vocabulary.
        """
        name = self._names.get(operator.index(token_id))
        if name is None:
            raise ValueError(
                f"id {token_id}: not in the vocabulary of {self.vocab_size} tokens, whose highest id is "
                f"{max(self._names)}"
            )
        if name in self._outside or not all(letter in _BYTES for letter in name):
            return name.encode("utf-8")
        return bytes(_BYTES[letter] for letter in name)

    def _normalized(self, text: str) -> str:
        return text if self.normalization is None else composed(text)

    def _merged(self, word: str) -> list[int]:
        ids = [self._vocab[part] for part in merge_word(spell(word), self._ranks)]
        if len(word) <= LONGEST_KEPT:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[word] = ids
        return ids


class TextStream:
    """Ids in, text out as soon as its characters are complete: half a character is never shown.

    Args:
        tokenizer: whose ids come.
        skip_special_tokens: whether special tokens are left out.
    """

    def __init__(self, tokenizer: BytePair, *, skip_special_tokens: bool = False):
        self.tokenizer = tokenizer
        self._skipped = frozenset(tokenizer.special_tokens.values() if skip_special_tokens else ())
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token_id: int) -> str:
        """The text that is complete with one more id; "" while a character still lacks bytes.

        Raises:
            ValueError: if the id is not in the vocabulary.
        """
        token_id = operator.index(token_id)
        return "" if token_id in self._skipped else self._decoder.decode(self.tokenizer.token_bytes(token_id))

    def end(self) -> str:
        """What is left when no more ids come: U+FFFD for a character that lacks bytes, else ""."""
        return self._decoder.decode(b"", final=True)


# ---- what a tokenizer must hold


def _names_by_id(vocab: Mapping[str, int], outside: Mapping[str, int]) -> dict[int, str]:
    """Every id to its one name."""
    if "" in outside:
        raise ValueError("special tokens: one has no name")
    names: dict[int, str] = {}
    for name, token_id in {**vocab, **outside}.items():
        if not isinstance(token_id, int) or token_id < 0:
            raise ValueError(f"token {name!r}: its id is {token_id!r}, expected a whole number from 0 on")
        if names.setdefault(token_id, name) != name:
            raise ValueError(f"token {name!r}: its id {token_id} is that of {names[token_id]!r}")
    for name in outside:
        if name in vocab and vocab[name] != outside[name]:
            raise ValueError(f"token {name!r}: its id is {outside[name]}, but {vocab[name]} in the vocabulary")
    return names


def _check_parts(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
    missing = [f"{letter!r} (byte {byte})" for byte, letter in enumerate(LETTERS) if letter not in vocab]
    if missing:
        shown = ", ".join(missing[:3]) + ", ..." * (len(missing) > 3)
        raise ValueError(f"vocabulary: {len(missing)} of the 256 letters of bytes are missing: {shown}")
    for place, (left, right) in enumerate(merges):
        for part in (left, right, left + right):
            if part not in vocab:
                raise ValueError(f"merge {place}, '{left} {right}': {part!r} is not in the vocabulary")
