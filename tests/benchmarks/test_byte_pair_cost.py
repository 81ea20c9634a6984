"""Byte-level BPE beside the published library, which is compiled: a megabyte of text, one thread.

    pytest -m benchmark -n0 -s tests/benchmarks/test_byte_pair_cost.py

Each call reads the tokenizer anew, so that no word is known from the call before; reading is measured by itself and
taken off. Ratios are of the processor time.
"""

import os
import random
import time

import pytest
from benchmarks.side_by_side import side_by_side, table

from minivid.text.byte_pair import BytePair, merge_word

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("default")]

ROUNDS = int(os.environ.get("MINIVID_BENCHMARK_ROUNDS", "3"))
# How much slower than the compiled library the readable form may be.
BOUND = 20.0
MEGABYTE = 10**6


def prose() -> str:
    """English: the texts that come with Python's help."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    return (text * (MEGABYTE // len(text) + 1))[:MEGABYTE]


def scripts() -> str:
    """Words of several scripts, drawn at random, so that many are met for the first time."""
    drawn = random.Random(0)
    alphabets = ["abcdefghijklmnop", "абвгдежзик", "视频描述这个内容请", "अआकखगघ", "éüñß"]
    words = []
    for _ in range(MEGABYTE // 16):
        alphabet = drawn.choice(alphabets)
        words.append("".join(drawn.choices(alphabet, k=drawn.randint(1, 9))))
    return " ".join(words)


def one_word() -> str:
    """No space anywhere: a single word of a million letters, the worst case for a search of all pairs."""
    return "".join(random.Random(1).choices("ab", k=MEGABYTE))


TEXTS = {"prose": prose, "scripts": scripts, "one word": one_word}


def ours(folder, text):
    tokenizer = BytePair.load(folder)
    return tokenizer.encode(text) if text else []


def theirs(folder, text):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    return tokenizer.encode(text).ids if text else []


ours.describe = theirs.describe = lambda ids: (len(ids), hash(tuple(ids)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    some = [prose()[:200_000], scripts()[:200_000], "ab aab bba abab"]
    started = time.perf_counter()
    tokenizer = BytePair.train(some, 8000, special_tokens=["<|im_end|>"])
    print(f"\nlearned {len(tokenizer.merges)} merges from 0.4 million letters in {time.perf_counter() - started:.1f} s")
    tokenizer.save(folder)
    return str(folder)


@pytest.mark.parametrize("kind", TEXTS)
def test_a_megabyte_takes_at_most_so_many_times_as_long(folder, kind):
    pytest.importorskip("tokenizers", reason="the published library of tokenizers is not installed")
    text = TEXTS[kind]()
    measured = side_by_side(
        {
            "minivid": (ours, (folder, text)),
            "minivid, reading": (ours, (folder, "")),
            "tokenizers": (theirs, (folder, text)),
            "tokenizers, reading": (theirs, (folder, "")),
        },
        rounds=ROUNDS,
    )
    print(f"\n{kind}: {len(text.encode()) / 1e6:.2f} MB\n{table(measured, 'tokenizers')}")
    assert measured["minivid"].result == measured["tokenizers"].result
    net = {}
    for name in ("minivid", "tokenizers"):
        net[name] = measured[name].median("cpu") - measured[f"{name}, reading"].median("cpu")
    seconds = f"{net['minivid']:.3f} s, {net['tokenizers']:.3f} s"
    print(f"without reading: {seconds}, ratio {net['minivid'] / net['tokenizers']:.2f}")
    assert net["minivid"] <= BOUND * net["tokenizers"]


def test_time_grows_little_faster_than_the_word():
    ranks = {f"{a} {b}": rank for rank, (a, b) in enumerate([("a", "b"), ("ab", "ab"), ("a", "a"), ("b", "b")])}
    times = []
    for size in (20_000, 200_000):
        started = time.process_time()
        merge_word("ab" * (size // 2), ranks)
        times.append(time.process_time() - started)
    print(f"\n20 000 letters {times[0]:.3f} s, 200 000 letters {times[1]:.3f} s")
    assert times[1] < 20 * times[0]
