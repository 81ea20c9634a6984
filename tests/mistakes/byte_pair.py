"""Classic wrong answers about byte-level BPE, each with three hints of increasing directness."""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from minivid.classroom.museum import Mistake, Probe
from minivid.text import byte_pair as library
from minivid.text.byte_pair import LETTERS, QWEN_PATTERN

# ---- spell


def characters_not_bytes(text):
    return "".join(LETTERS[ord(c)] if ord(c) < 256 else c for c in text)


def code_points_cut_to_a_byte(text):
    return "".join(LETTERS[ord(c) % 256] for c in text)


def bytes_as_they_are(text):
    return text.encode().decode("latin-1")


def only_the_space_changed(text):
    return text.encode().decode("latin-1").replace(" ", "Ġ")


def unknown_for_what_is_not_ascii(text):
    return "".join(LETTERS[ord(c)] if c.isascii() else "?" for c in text)


def what_is_not_ascii_left_out(text):
    return library.spell(text.encode("ascii", "ignore").decode())


def two_bytes_a_character(text):
    return "".join(LETTERS[byte] for byte in text.encode("utf-16-le"))


def all_shifted(text):
    return "".join(chr(256 + byte) for byte in text.encode())


def space_lost(text):
    return library.spell(text).replace("Ġ", "")


BY_BYTE = "''.join(LETTERS[byte] for byte in text.encode('utf-8'))"
SPELL = [
    (
        characters_not_bytes,
        (
            "How many bytes has é, and how many letters come out?",
            "Characters are looked up where bytes should be; characters above 255 have no letter.",
            BY_BYTE,
        ),
    ),
    (
        code_points_cut_to_a_byte,
        (
            "Spell two different characters of another script: can they come out alike?",
            "The number of a character is not a byte; UTF-8 writes it with one to four bytes.",
            BY_BYTE,
        ),
    ),
    (
        bytes_as_they_are,
        (
            "Can you see every letter that comes out?",
            "Bytes below 33, from 127 to 160, and 173 are no printable characters; they have letters from 256 on.",
            BY_BYTE,
        ),
    ),
    (
        only_the_space_changed,
        (
            "What becomes of a line end?",
            "The space is only one of 68 bytes that cannot be seen.",
            BY_BYTE,
        ),
    ),
    (
        unknown_for_what_is_not_ascii,
        (
            "Spell é and ß: do they come out alike?",
            "There is no unknown character: each is one to four bytes, and each byte has a letter.",
            BY_BYTE,
        ),
    ),
    (
        what_is_not_ascii_left_out,
        (
            "What is left of a text in another script?",
            "Characters are left out that ASCII does not have; UTF-8 has all of them.",
            BY_BYTE,
        ),
    ),
    (
        two_bytes_a_character,
        (
            "How many letters should a plain a have?",
            "UTF-16 is used; published vocabularies are made of UTF-8.",
            BY_BYTE,
        ),
    ),
    (
        all_shifted,
        (
            "What should become of a plain a?",
            "Every byte is shifted by 256; those that are printable stay as they are.",
            BY_BYTE,
        ),
    ),
    (
        space_lost,
        (
            "Can the text be put together again?",
            "The space is left out; it is the letter Ġ.",
            BY_BYTE,
        ),
    ),
]

# ---- split_words


def by(pattern):
    """Cut with another pattern."""

    def answer(text, pattern_given=QWEN_PATTERN):
        return library.split_words(text, pattern)

    return answer


digits_in_threes = by(QWEN_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|"))
digits_in_groups = by(QWEN_PATTERN.replace(r"|\p{N}|", r"|\p{N}+|"))
digits_take_the_space = by(QWEN_PATTERN.replace(r"|\p{N}|", r"| ?\p{N}|"))
no_space_before_words = by(QWEN_PATTERN.replace(r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{L}+"))
ascii_letters_only = by(QWEN_PATTERN.replace(r"\p{L}", "a-zA-Z").replace("?a-zA-Z+", "?[a-zA-Z]+"))
ascii_digits_only = by(QWEN_PATTERN.replace(r"|\p{N}|", r"|[0-9]|").replace(r"\p{N}", "0-9"))
all_spaces_before_the_word = by(
    QWEN_PATTERN.replace(r"|\s+(?!\S)", "").replace(r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\s*\p{L}+")
)
no_space_for_the_next_word = by(QWEN_PATTERN.replace(r"|\s+(?!\S)", ""))
small_endings_only = by(QWEN_PATTERN.replace("(?i:", "(?:"))
line_ends_apart = by(QWEN_PATTERN.replace(r"]+[\r\n]*", "]+"))
not_cut_at_all = by(None)


def split_at_spaces(text, pattern=QWEN_PATTERN):
    return text.split()


def split_at_single_spaces(text, pattern=QWEN_PATTERN):
    return text.split(" ")


def spaces_apart(text, pattern=QWEN_PATTERN):
    found = []
    for word in library.split_words(text):
        found += [" ", word[1:]] if word[0] == " " and word.strip() else [word]
    return found


def white_space_left_out(text, pattern=QWEN_PATTERN):
    return [word for word in library.split_words(text) if word.strip()]


WHOLE_PATTERN = "QWEN_PATTERN as it stands, through `splitter(pattern).split(text)`, without the empty pieces."
SPLIT_WORDS = [
    (
        digits_in_threes,
        (
            "Into how many words is 2026 cut?",
            "Digits come in groups of up to three, as in Llama 3; here each stands alone.",
            r"\p{N} without {1,3}.",
        ),
    ),
    (
        digits_in_groups,
        (
            "Into how many words is 2026 cut?",
            "A number is one word; here each digit stands alone, so that numbers of any length look alike.",
            r"\p{N} without a plus.",
        ),
    ),
    (
        digits_take_the_space,
        (
            "To which word belongs the space before a digit?",
            "Digits take no space, in contrast to letters and signs.",
            r"\p{N} without ' ?' before it.",
        ),
    ),
    (
        no_space_before_words,
        (
            "Which words are there in 'a b'?",
            "The space stands alone; it belongs to the word behind it.",
            r"[^\r\n\p{L}\p{N}]?\p{L}+: one sign or space may stand before the letters.",
        ),
    ),
    (
        spaces_apart,
        (
            "Which words are there in 'a b'?",
            "The space stands alone; it belongs to the word behind it.",
            "Leave the matches of the pattern as they are.",
        ),
    ),
    (
        ascii_letters_only,
        (
            "Try a word with an accent, or in another script.",
            r"Only the letters a to z count as letters; \p{L} is those of every script.",
            WHOLE_PATTERN,
        ),
    ),
    (
        ascii_digits_only,
        (
            "Try the digits of another script, or ½.",
            r"Only 0 to 9 count as numbers; \p{N} is those of every script.",
            WHOLE_PATTERN,
        ),
    ),
    (
        all_spaces_before_the_word,
        (
            "Which words are there in 'a   b', with three spaces?",
            "A word takes all the spaces before it; it takes one.",
            WHOLE_PATTERN,
        ),
    ),
    (
        no_space_for_the_next_word,
        (
            "Which words are there in 'a   b', with three spaces?",
            "A run of spaces keeps its last one, which belongs to the next word.",
            r"\s+(?!\S) before \s+: spaces that no word follows.",
        ),
    ),
    (
        small_endings_only,
        (
            "Try the words 'LLama and 'llama, with the sign in front.",
            "Endings in capitals are not known.",
            "(?i:...) makes no difference between small and capital letters.",
        ),
    ),
    (
        line_ends_apart,
        (
            "Try a full stop with a line end behind it.",
            "Signs take the line ends behind them along.",
            r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        ),
    ),
    (
        not_cut_at_all,
        (
            "How many words has 'a b'?",
            "The text is not cut: merges would cross the borders of words.",
            WHOLE_PATTERN,
        ),
    ),
    (
        split_at_spaces,
        (
            "Can you put the text together again?",
            "str.split throws the white space away.",
            WHOLE_PATTERN,
        ),
    ),
    (
        split_at_single_spaces,
        (
            "Can you put the text together again?",
            "The spaces are thrown away, and signs and digits stay at the words.",
            WHOLE_PATTERN,
        ),
    ),
    (
        white_space_left_out,
        (
            "Can you put the text together again?",
            "Words of white space are words too.",
            WHOLE_PATTERN,
        ),
    ),
]

# ---- merge_word


def walk(choose, *, rounds=None):
    """Join one pair after the other; `choose` says which of (rank, place) is next."""

    def answer(word, ranks):
        parts, left = list(word), len(word) if rounds is None else rounds
        while left:
            known = [(ranks[f"{a} {b}"], at) for at, (a, b) in enumerate(pairwise(parts)) if f"{a} {b}" in ranks]
            if not known:
                break
            rank, at = choose(known)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
            left -= 1
        return parts

    return answer


in_order_of_place = walk(lambda known: min(known, key=lambda pair: pair[1]))
highest_rank_first = walk(max)
rightmost_first = walk(lambda known: min(known, key=lambda pair: (pair[0], -pair[1])))
from_the_right = walk(lambda known: max(known, key=lambda pair: pair[1]))
one_merge_only = walk(min, rounds=1)


def pairs_of_letters_only(word, ranks):
    return walk(min)(word, {pair: rank for pair, rank in ranks.items() if len(pair) == 3})


def longest_part_first(word, ranks):
    """The longest known beginning, again and again, as WordPiece does."""
    known = {pair.replace(" ", "") for pair in ranks}
    parts = []
    while word:
        size = next((n for n in range(len(word), 1, -1) if word[:n] in known), 1)
        parts.append(word[:size])
        word = word[size:]
    return parts


def each_merge_once(word, ranks):
    """One pass through the list of merges: what comes later cannot serve what came before."""
    parts = list(word)
    for pair in sorted(ranks, key=ranks.get):
        for at, (a, b) in enumerate(pairwise(parts)):
            if f"{a} {b}" == pair:
                parts[at : at + 2] = [a + b]
                break
    return parts


def one_pass_through_the_list(word, ranks):
    parts = list(word)
    for pair in sorted(ranks, key=ranks.get):
        at = 0
        while at < len(parts) - 1:
            if f"{parts[at]} {parts[at + 1]}" == pair:
                parts[at : at + 2] = [parts[at] + parts[at + 1]]
            at += 1
    return parts


def one_text_again(word, ranks):
    return ["".join(library.merge_word(word, ranks))]


def joined_parts_put_at_the_end(word, ranks):
    return sorted(library.merge_word(word, ranks), key=len)


LOWEST = "After every merge look at all pairs again and take the smallest (rank, place)."
MERGE_WORD = [
    (
        in_order_of_place,
        (
            "Which two pairs compete in the word that is shown, and which of them was learned first?",
            "The leftmost pair is joined; the one with the lowest rank comes first, wherever it stands.",
            LOWEST,
        ),
    ),
    (
        highest_rank_first,
        (
            "Was the pair that is joined first learned first, or last?",
            "The pair with the highest rank is joined; rank 0 was learned first and goes first.",
            LOWEST,
        ),
    ),
    (
        rightmost_first,
        (
            "Which pair of aaa is joined?",
            "Of equal pairs the rightmost is taken; it is the leftmost.",
            LOWEST,
        ),
    ),
    (
        from_the_right,
        (
            "Which two pairs compete in the word that is shown, and which of them was learned first?",
            "The rightmost pair is joined; the one with the lowest rank comes first, wherever it stands.",
            LOWEST,
        ),
    ),
    (
        one_merge_only,
        (
            "Are there two neighbours left that are a known pair?",
            "Only one pair is joined.",
            "Go on until no pair of neighbours has a rank.",
        ),
    ),
    (
        pairs_of_letters_only,
        (
            "Can a part of two letters be joined again?",
            "Only letters are joined; a joined part is a part like any other.",
            LOWEST,
        ),
    ),
    (
        longest_part_first,
        (
            "Does the order of the merges make any difference to what comes out?",
            "The longest known beginning is taken, as in WordPiece; BPE joins pairs in the order of their ranks.",
            LOWEST,
        ),
    ),
    (
        each_merge_once,
        (
            "What becomes of a pair that occurs twice in a word?",
            "Each pair is joined once only.",
            LOWEST,
        ),
    ),
    (
        one_pass_through_the_list,
        (
            "Can a merge late in the list make a pair that stands early in it?",
            "The list is walked through once; a new part may make a pair of a lower rank.",
            LOWEST,
        ),
    ),
    (
        one_text_again,
        (
            "How many parts has a word of which no pair is known?",
            "The parts are put together again.",
            "Give the list of parts back.",
        ),
    ),
    (
        joined_parts_put_at_the_end,
        (
            "Put the parts together: is it the word?",
            "The parts are not in the order in which they stand in the word.",
            "A joined part takes the place of the pair.",
        ),
    ),
]

# ---- cut_out


def shortest_first(text, names):
    return cut_in_order(text, sorted(names, key=len))


def cut_in_order(text, names):
    """At every place, the first of the names in the order given."""
    pieces, start, at = [], 0, 0
    while at < len(text):
        found = next((name for name in names if text.startswith(name, at)), None)
        if found is None:
            at += 1
            continue
        pieces += [text[start:at], found]
        start = at = at + len(found)
    return [piece for piece in [*pieces, text[start:]] if piece]


def as_they_are_given(text, names):
    return cut_in_order(text, list(names))


def one_name_after_the_other(text, names):
    """The longest name everywhere first, so that one further right can be found before one further left."""
    pieces = [text]
    for name in sorted(names, key=len, reverse=True):
        pieces = [part for piece in pieces for part in (cut_in_order(piece, [name]) if piece not in names else [piece])]
    return [piece for piece in pieces if piece]


def names_lost(text, names):
    return [piece for piece in library.cut_out(text, names) if piece not in names]


def empty_pieces_kept(text, names):
    pieces = [""]
    for piece in library.cut_out(text, names):
        if piece in names:
            pieces += [piece, ""]
        else:
            pieces[-1] = piece
    return pieces


def spaces_around_names_lost(text, names):
    pieces = [piece if piece in names else piece.strip() for piece in library.cut_out(text, names)]
    return [piece for piece in pieces if piece]


def first_name_only(text, names):
    pieces = library.cut_out(text, names)
    at = next((at for at, piece in enumerate(pieces) if piece in names), len(pieces))
    rest = "".join(pieces[at + 1 :])
    return [*pieces[: at + 1], *([rest] if rest else [])]


def names_as_patterns(text, names):
    import re

    if not names:
        return [text] * bool(text)
    return [piece for piece in re.split("(" + "|".join(sorted(names, key=len, reverse=True)) + ")", text) if piece]


def names_cut_like_words(text, names):
    return library.split_words(text)


def nothing_cut_out(text, names):
    return [text] if text else []


def name_with_what_follows(text, names):
    found = []
    for piece in library.cut_out(text, names):
        if found and found[-1] in names and piece not in names:
            found[-1] += piece
        else:
            found.append(piece)
    return found


ESCAPED = "re.split('(' + '|'.join(re.escape(name) for name in longest_first) + ')', text), without empty pieces."
CUT_OUT = [
    (
        shortest_first,
        (
            "Which names begin at the same place in the text that is shown?",
            "The shortest name is found; it should be the longest.",
            ESCAPED,
        ),
    ),
    (
        as_they_are_given,
        (
            "Give the same names in another order: does the same come out?",
            "The first name in the list is found; it should be the longest that begins there.",
            ESCAPED,
        ),
    ),
    (
        names_lost,
        (
            "Put the pieces together: is it the text?",
            "The names are thrown away.",
            "A group (...) around the pattern makes re.split keep what it cuts at.",
        ),
    ),
    (
        empty_pieces_kept,
        (
            "What stands between two names, one directly after the other?",
            "Empty pieces are no pieces.",
            ESCAPED,
        ),
    ),
    (
        spaces_around_names_lost,
        (
            "Put the pieces together: is it the text?",
            "Spaces beside the names are thrown away.",
            ESCAPED,
        ),
    ),
    (
        first_name_only,
        (
            "Does a text hold a name only once?",
            "Only the first name is cut out.",
            ESCAPED,
        ),
    ),
    (
        names_as_patterns,
        (
            "What does | mean in a regular expression, and what in <|im_start|>?",
            "The names are read as patterns.",
            ESCAPED,
        ),
    ),
    (
        names_cut_like_words,
        (
            "Is <|im_start|> one piece?",
            "Special tokens are split like any word: cut them out first.",
            ESCAPED,
        ),
    ),
    (
        nothing_cut_out,
        (
            "How many pieces has a text with a name in it?",
            "Nothing is cut out.",
            ESCAPED,
        ),
    ),
    (
        name_with_what_follows,
        (
            "Is every name a piece of its own?",
            "What stands behind a name is joined to it.",
            ESCAPED,
        ),
    ),
]

# ---- learn_merges


def learner(best, *, weigh=True, again=True):
    """Count all pairs, join one, and begin again; each mistake changes one decision."""

    def answer(words, count):
        split = {word: list(word) for word in words}
        age = {letter: number for number, letter in enumerate(sorted(LETTERS))}
        merges, pairs = [], None
        while len(age) < 256 + count:
            if pairs is None or again:
                pairs = Counter()
                for word, parts in split.items():
                    for pair in pairwise(parts):
                        pairs[pair] += words[word] if weigh else 1
            if not pairs:
                break
            pair = best(pairs, age)
            if not again:
                del pairs[pair]
            merges.append(pair)
            age.setdefault("".join(pair), len(age))
            for parts in split.values():
                at = 0
                while at < len(parts) - 1:
                    if (parts[at], parts[at + 1]) == pair:
                        parts[at : at + 2] = ["".join(pair)]
                    at += 1
        return merges

    return answer


def by_age(pairs, age):
    return min(pairs, key=lambda pair: (-pairs[pair], age[pair[0]], age[pair[1]]))


words_counted_once = learner(by_age, weigh=False)
counted_only_at_first = learner(by_age, again=False)
rarest_first = learner(lambda pairs, age: min(pairs, key=lambda pair: (pairs[pair], age[pair[0]], age[pair[1]])))
longest_first = learner(
    lambda pairs, age: min(pairs, key=lambda p: (-len("".join(p)), -pairs[p], age[p[0]], age[p[1]]))
)
youngest_of_equals = learner(lambda pairs, age: max(pairs, key=lambda p: (pairs[p], age[p[0]], age[p[1]])))
first_seen_of_equals = learner(lambda pairs, age: pairs.most_common(1)[0][0])
alphabetical_of_equals = learner(lambda pairs, age: min(pairs, key=lambda pair: (-pairs[pair], pair)))
right_part_first_of_equals = learner(lambda pairs, age: min(pairs, key=lambda p: (-pairs[p], age[p[1]], age[p[0]])))


def across_word_borders(words, count):
    return library.learn_merges({"Ġ".join(word for word, n in words.items() for _ in range(n)): 1}, count)


def one_too_many(words, count):
    return library.learn_merges(words, count + 1)


def one_too_few(words, count):
    return library.learn_merges(words, max(count - 1, 0))


def joined_text_not_pairs(words, count):
    return [(left + right, "") for left, right in library.learn_merges(words, count)]


AGAIN = "While fewer than count parts are new: count all pairs in the words as they are now, join the best everywhere."
EQUALS = (
    "min(pairs, key=lambda pair: (-pairs[pair], age[pair[0]], age[pair[1]])), where age numbers parts as they came up."
)
LEARN_MERGES = [
    (
        words_counted_once,
        (
            "Does a word that occurs often count for more?",
            "Each different word counts once; each occurrence should.",
            "pairs[pair] += words[word]",
        ),
    ),
    (
        counted_only_at_first,
        (
            "Which pairs are there after the first merge that were not there before?",
            "The pairs are counted once, at the beginning; a merge makes new pairs and ends others.",
            AGAIN,
        ),
    ),
    (
        rarest_first,
        (
            "How often does the pair occur that is joined first?",
            "The rarest pair is joined; it should be the most frequent one.",
            AGAIN,
        ),
    ),
    (
        longest_first,
        (
            "How often does the pair occur that is joined?",
            "The longest pair is joined; it should be the most frequent one.",
            AGAIN,
        ),
    ),
    (
        youngest_of_equals,
        (
            "Which pairs occur equally often in the words that are shown?",
            "Of equals the youngest is joined; it should be the oldest.",
            EQUALS,
        ),
    ),
    (
        first_seen_of_equals,
        (
            "Give the same words in another order: do the same merges come out?",
            "Of equals the first one seen is joined, so the result depends on the order of the words.",
            EQUALS,
        ),
    ),
    (
        alphabetical_of_equals,
        (
            "Which of the parts of equally frequent pairs is older?",
            "Of equals the alphabet decides; it should be the age: letters first, then parts as they came up.",
            EQUALS,
        ),
    ),
    (
        right_part_first_of_equals,
        (
            "Which pairs occur equally often in the words that are shown?",
            "Of equals the one with the older right part is joined; the left part decides first.",
            EQUALS,
        ),
    ),
    (
        across_word_borders,
        (
            "Is there a pair that occurs in no single word?",
            "Merges cross the borders of words: the end of one is joined to the beginning of the next.",
            "Count the pairs of each word by itself.",
        ),
    ),
    (
        one_too_many,
        (
            "How many new parts were asked for?",
            "There is one merge too many.",
            "Stop as soon as count parts are new.",
        ),
    ),
    (
        one_too_few,
        (
            "How many new parts were asked for?",
            "There is one merge too few.",
            "Stop as soon as count parts are new, not before.",
        ),
    ),
    (
        joined_text_not_pairs,
        (
            "What are the two sides of a merge?",
            "The joined part comes back; a merge is a pair (left, right).",
            "merges.append(pair)",
        ),
    ),
]

# ---- BytePair


class Changed(library.BytePair):
    """The library's tokenizer; each mistake below changes one step."""

    def prepared(self, text):
        return text

    def encode(self, text):
        return super().encode(self.prepared(text))


class AccentsAsTheyCome(library.BytePair):
    def __init__(self, *given, **options):
        super().__init__(*given, **{**options, "normalization": None})


class AccentsTakenApart(AccentsAsTheyCome):
    def encode(self, text):
        return super().encode(unicodedata.normalize("NFD", text))


class LooksAlike(Changed):
    def prepared(self, text):
        return unicodedata.normalize("NFKC", text)


class AccentsLost(Changed):
    def prepared(self, text):
        apart = unicodedata.normalize("NFD", text)
        return "".join(character for character in apart if not unicodedata.combining(character))


class SmallLetters(Changed):
    def prepared(self, text):
        return text.lower()


class SpacesAtTheEndsLost(Changed):
    def prepared(self, text):
        return text.strip()


class SpaceInFront(Changed):
    """As SentencePiece and some published BPE tokenizers do."""

    def prepared(self, text):
        return f" {text}" if text else text


class SpecialTokensSplit(library.BytePair):
    def __init__(self, *given, special_tokens=(), **options):
        super().__init__(*given, special_tokens=special_tokens, **options)
        self._first = ()


class WordsNotCut(library.BytePair):
    def __init__(self, *given, **options):
        super().__init__(*given, **{**options, "pattern": None})


class NoMerges(library.BytePair):
    def __init__(self, vocab, merges, **options):
        super().__init__(vocab, [], **options)


class MergesFromTheLast(library.BytePair):
    def __init__(self, vocab, merges, **options):
        super().__init__(vocab, merges[::-1], **options)


class DecodedOneByOne(library.BytePair):
    """Each id is decoded for itself, so a character of several tokens is lost."""

    def decode(self, ids, *, skip_special_tokens=False):
        special = set(self.special_tokens.values()) if skip_special_tokens else set()
        return "".join(self.token_bytes(i).decode(errors="replace") for i in ids if i not in special)


class BrokenBytesLeftOut(library.BytePair):
    def decode(self, ids, *, skip_special_tokens=False):
        return super().decode(ids, skip_special_tokens=skip_special_tokens).replace("\ufffd", "")


class SpecialTokensNeverShown(library.BytePair):
    def decode(self, ids, *, skip_special_tokens=False):
        return super().decode(ids, skip_special_tokens=True)


class SpecialTokensAlwaysShown(library.BytePair):
    def decode(self, ids, *, skip_special_tokens=False):
        return super().decode(ids)


class LettersShown(library.BytePair):
    """The letters that stand for bytes are given out as the text."""

    def decode(self, ids, *, skip_special_tokens=False):
        names = {number: name for name, number in {**self.vocab, **self.special_tokens}.items()}
        return "".join(names[number] for number in ids).replace("Ġ", " ")


class HalfCharactersShown(library.BytePair):
    def stream(self, *, skip_special_tokens=False):
        outer = self

        class Hasty:
            def add(self, token_id):
                return outer.decode([token_id])

            def end(self):
                return ""

        return Hasty()


STEPS = "cut_out special tokens, then composed, split_words, spell, merge_word, and the ids of the parts"
BYTE_PAIR = [
    (
        AccentsAsTheyCome,
        (
            "Write é as one character, and as e with an accent behind it: are the ids the same?",
            "The normal form is forgotten: NFC makes one character of both.",
            STEPS,
        ),
    ),
    (
        AccentsTakenApart,
        (
            "What comes back for é: one character or two?",
            "The text is taken apart (NFD); it should be composed (NFC).",
            STEPS,
        ),
    ),
    (
        LooksAlike,
        (
            "What comes back for ½, or for the wide space of Chinese texts?",
            "NFKC replaces characters by others that look alike; NFC changes accents only.",
            STEPS,
        ),
    ),
    (
        AccentsLost,
        (
            "What comes back for é?",
            "The accents are thrown away.",
            STEPS,
        ),
    ),
    (
        SmallLetters,
        (
            "Does the text come back?",
            "Capital letters are made small.",
            STEPS,
        ),
    ),
    (
        SpacesAtTheEndsLost,
        (
            "Does a text that begins with a space come back?",
            "White space at the ends is thrown away.",
            STEPS,
        ),
    ),
    (
        SpaceInFront,
        (
            "Does the text come back?",
            "A space is put in front of the text; the Qwen family does not.",
            STEPS,
        ),
    ),
    (
        SpecialTokensSplit,
        (
            "How many ids has a special token?",
            "Special tokens are split like any text: they have to be cut out first.",
            STEPS,
        ),
    ),
    (
        WordsNotCut,
        (
            "Is there a part with a space within it?",
            "The text is not cut into words, so merges cross their borders.",
            STEPS,
        ),
    ),
    (
        NoMerges,
        (
            "How many ids has a word all of whose merges were learned?",
            "No pair is joined.",
            STEPS,
        ),
    ),
    (
        MergesFromTheLast,
        (
            "Which of two competing pairs was learned first?",
            "The merges are taken from the last to the first.",
            "ranks: the place of each pair in the list of merges.",
        ),
    ),
    (
        DecodedOneByOne,
        (
            "What comes back for a character whose bytes are two tokens?",
            "Each token is decoded for itself; put the bytes of all together first.",
            "b''.join(bytes of each token).decode('utf-8', errors='replace')",
        ),
    ),
    (
        BrokenBytesLeftOut,
        (
            "What comes back for a single byte of a longer character?",
            "Bytes that are no character are left out; they become U+FFFD.",
            "errors='replace', not 'ignore'.",
        ),
    ),
    (
        SpecialTokensNeverShown,
        (
            "Decode a special token without skip_special_tokens.",
            "Special tokens are always left out.",
            "Leave them out only if skip_special_tokens.",
        ),
    ),
    (
        SpecialTokensAlwaysShown,
        (
            "Decode a special token with skip_special_tokens.",
            "skip_special_tokens is an argument that no line uses.",
            "Leave them out if skip_special_tokens.",
        ),
    ),
    (
        LettersShown,
        (
            "What comes back for é?",
            "The letters that stand for bytes come back; each has to become its byte again.",
            "bytes(LETTERS.index(letter) for letter in name), then decode all of it as UTF-8.",
        ),
    ),
    (
        HalfCharactersShown,
        (
            "What does the stream show while a character lacks a byte?",
            "Half a character is shown as U+FFFD; nothing should be shown until it is complete.",
            "codecs.getincrementaldecoder('utf-8')('replace')",
        ),
    ),
]

MISTAKES: dict[str, list[Mistake]] = {
    "spell": [Mistake(*row) for row in SPELL],
    "split_words": [Mistake(*row) for row in SPLIT_WORDS],
    "merge_word": [Mistake(*row) for row in MERGE_WORD],
    "cut_out": [Mistake(*row) for row in CUT_OUT],
    "learn_merges": [Mistake(*row) for row in LEARN_MERGES],
    "BytePair": [Mistake(*row) for row in BYTE_PAIR],
}


def use(tokenizer_of) -> list:
    """A small tokenizer at work."""
    merges = [
        ("l", "o"),
        ("lo", "w"),
        ("Ġ", "low"),
        ("w", "e"),
        ("low", "e"),
        ("low", "Ġlow"),
        tuple(library.spell("é")),
    ]
    vocab = {name: number for number, name in enumerate([*LETTERS, *(left + right for left, right in merges)])}
    tokenizer = tokenizer_of(vocab, merges, special_tokens={"<|end|>": 263})
    texts = ["é", "e\u0301", "½", "Low low", "low low", " lowe ", "<|end|>low", "视", "lowe"]
    ids = [tokenizer.encode(text) for text in texts]
    shown = [tokenizer.decode(numbers, skip_special_tokens=skip) for numbers in ids for skip in (False, True)]
    stream = tokenizer.stream()
    return [
        ids,
        shown,
        tokenizer.decode([200, 263, 201]),
        [stream.add(number) for number in (*vocab.values(),)[200:203]],
    ]


def probes(name: str) -> Iterator[Probe]:
    """Arguments on which every two of the mistakes above differ."""
    if name == "spell":
        for text in ("a b\n", "é", "ß", "视频", "\u4e41a", "\xad"):
            yield (text,), {}
    elif name == "split_words":
        for text in (
            "a b 12345 c",
            "a   b",
            " Ärger 视频",
            "a १२ ½",
            "'LLama it's.\n\nb",
            "x   \n  y",
            "- -a",
        ):
            yield (text,), {}
    elif name == "merge_word":
        lists = (
            ["a b", "ab a", "b a", "a a"],
            ["b a", "a b", "b ab", "a ba"],
            ["ab ab", "b b", "a b"],
            ["aa a", "a a", "b b"],
        )
        for merges in lists:
            for word in ("abab", "aaabb", "babab", "aaaa", "bbb"):
                yield (word, {pair: rank for rank, pair in enumerate(merges)}), {}
    elif name == "cut_out":
        for text in ("x <a>b<a> y", "<a><a>b", "a(.)b|c", " <a> x|<", ""):
            yield (text, ["<a>", "<a>b", "<", "(.)", "|"]), {}
            yield (text, ["<a>b", "|"]), {}
    elif name == "learn_merges":
        for words in (
            {"low": 5, "lower": 2, "newest": 6, "widest": 3},
            {"ab": 1, "ba": 1, "cab": 1},
            {"aaaa": 2, "ba": 1},
            {"ab": 1, "ba": 1},
        ):
            for count in (1, 3, 6):
                yield (words, count), {}
    else:
        yield use
