"""Classic wrong answers about the batches of a training, each with three hints of increasing directness."""

from collections.abc import Iterator

import numpy as np

from minivid.classroom.museum import Mistake


def order(examples: int, *entropy: int) -> list[int]:
    return np.random.default_rng(entropy).permutation(examples).tolist()


def from_the_row(order_of):
    """A wrong answer with the signature of batch_indices, from a function that gives the order of a round."""

    def answer(examples, batch_size, *, step, seed=0):
        places = range(step * batch_size, (step + 1) * batch_size)
        return [order_of(examples, seed, place // examples)[place % examples] for place in places]

    answer.__name__ = order_of.__name__
    return answer


@from_the_row
def never_shuffled(examples, seed, epoch):
    return list(range(examples))


@from_the_row
def one_order_for_all_rounds(examples, seed, epoch):
    return order(examples, seed)


@from_the_row
def seed_ignored(examples, seed, epoch):
    return order(examples, epoch)


@from_the_row
def seed_plus_round(examples, seed, epoch):
    return order(examples, seed + epoch)


@from_the_row
def one_example_never_comes(examples, seed, epoch):
    mixed = order(examples, seed, epoch)
    return [mixed[min(place, examples - 2)] for place in range(examples)] if examples > 1 else mixed


def drawn_with_replacement(examples, batch_size, *, step, seed=0):
    return np.random.default_rng((seed, step)).integers(examples, size=batch_size).tolist()


def a_new_order_each_step(examples, batch_size, *, step, seed=0):
    mixed = order(examples, seed, step)
    return [mixed[place % examples] for place in range(batch_size)]


def same_batch_each_step(examples, batch_size, *, step, seed=0):
    return [order(examples, seed, place // examples)[place % examples] for place in range(batch_size)]


def last_batch_short(examples, batch_size, *, step, seed=0):
    steps = -(-examples // batch_size)
    epoch, part = divmod(step, steps)
    return order(examples, seed, epoch)[part * batch_size : (part + 1) * batch_size]


def rest_dropped(examples, batch_size, *, step, seed=0):
    if batch_size > examples:
        return a_new_order_each_step(examples, batch_size, step=step, seed=seed)
    epoch, part = divmod(step, examples // batch_size)
    return order(examples, seed, epoch)[part * batch_size : (part + 1) * batch_size]


def rest_filled_from_its_own_round(examples, batch_size, *, step, seed=0):
    epoch, part = divmod(step, -(-examples // batch_size))
    mixed = order(examples, seed, epoch)
    return [mixed[place % examples] for place in range(part * batch_size, (part + 1) * batch_size)]


def batches_overlap(examples, batch_size, *, step, seed=0):
    return [order(examples, seed, place // examples)[place % examples] for place in range(step, step + batch_size)]


def one_too_many(examples, batch_size, *, step, seed=0):
    places = range(step * batch_size, (step + 1) * batch_size + 1)
    return [order(examples, seed, place // examples)[place % examples] for place in places]


def counted_from_one(examples, batch_size, *, step, seed=0):
    places = range(step * batch_size, (step + 1) * batch_size)
    return [1 + order(examples, seed, place // examples)[place % examples] for place in places]


def sorted_in_the_batch(examples, batch_size, *, step, seed=0):
    places = range(step * batch_size, (step + 1) * batch_size)
    return sorted(order(examples, seed, place // examples)[place % examples] for place in places)


GLOBAL = np.random.default_rng(0)


def remembers_where_it_was(examples, batch_size, *, step, seed=0):
    row = []
    while len(row) < batch_size:
        row += GLOBAL.permutation(examples).tolist()
    return row[:batch_size]


BATCHES = [
    (
        remembers_where_it_was,
        (
            "Ask twice for the same step of the same seed.",
            "The order comes from a generator that goes on where it was: whoever resumes at step 50 gets other batches "
            "than who came there from step 0.",
            "Make the generator anew in each call: np.random.default_rng((seed, epoch)).permutation(examples)",
        ),
    ),
    (
        never_shuffled,
        (
            "Print the first three batches: in what order do the examples come?",
            "Nothing is shuffled. Files often lie sorted by class: whole batches then hold one class.",
            "np.random.default_rng((seed, epoch)).permutation(examples)",
        ),
    ),
    (
        one_order_for_all_rounds,
        (
            "Compare the first round with the second.",
            "Every round has the same order, so that the same examples meet in each.",
            "np.random.default_rng((seed, epoch)).permutation(examples)",
        ),
    ),
    (
        seed_ignored,
        ("Try two seeds.", "The seed is not used.", "np.random.default_rng((seed, epoch)).permutation(examples)"),
    ),
    (
        seed_plus_round,
        (
            "Compare round 1 of seed 0 with round 0 of seed 1.",
            "seed + epoch: two trainings with neighbouring seeds see the same orders, one round apart.",
            "default_rng((seed, epoch)) takes both numbers, and no two pairs give the same.",
        ),
    ),
    (
        one_example_never_comes,
        (
            "Count how often each example comes in one round.",
            "The last example of a round never comes; the one before it comes twice.",
            "epoch, place = divmod(place, examples), with place from 0 to examples - 1",
        ),
    ),
    (
        drawn_with_replacement,
        (
            "Count how often each example comes in one round.",
            "The examples are drawn anew each time: in a round of 100 about 37 never come.",
            "Shuffle all, and take them in that order: permutation, not integers.",
        ),
    ),
    (
        a_new_order_each_step,
        (
            "Count how often each example comes in one round.",
            "Each step shuffles all examples and takes the first ones: some never come.",
            "Shuffle once a round; step k takes places k * batch_size to (k + 1) * batch_size - 1 of the row.",
        ),
    ),
    (
        same_batch_each_step,
        (
            "Compare step 0 with step 1.",
            "The step is not used.",
            "places = range(step * batch_size, (step + 1) * batch_size)",
        ),
    ),
    (
        last_batch_short,
        (
            "5 examples, batches of 3: how many are in the second?",
            "The last batch of a round is short; its few examples weigh more in their step than others.",
            "Go on with the next round's order inside the same batch.",
        ),
    ),
    (
        rest_dropped,
        (
            "5 examples, batches of 3: count how often each example comes in 5 steps.",
            "What does not fill a batch at the end of a round is dropped.",
            "Go on with the next round's order inside the same batch.",
        ),
    ),
    (
        rest_filled_from_its_own_round,
        (
            "5 examples, batches of 3: count how often each example comes in 5 steps.",
            "The last batch of a round is filled up with the round's first examples, which so come twice.",
            "Fill it with the first ones of the next round.",
        ),
    ),
    (
        batches_overlap,
        (
            "How many examples do step 0 and step 1 share?",
            "Each step goes on by one place; it should go on by batch_size places.",
            "places = range(step * batch_size, (step + 1) * batch_size)",
        ),
    ),
    (
        one_too_many,
        (
            "How many examples are in a batch?",
            "Each batch holds one too many.",
            "range(step * batch_size, (step + 1) * batch_size)",
        ),
    ),
    (
        counted_from_one,
        ("Which numbers do the examples have?", "They are counted from 0.", "Leave out the 1 +."),
    ),
    (
        sorted_in_the_batch,
        (
            "Is the second half of a batch of 4 what a batch of 2 holds one step later?",
            "The batch is sorted. Cut into parts, each part then holds neighbours only.",
            "Keep the order of the shuffled row.",
        ),
    ),
]

MISTAKES = {"batch_indices": [Mistake(answer, hints) for answer, hints in BATCHES]}


def habits(answer) -> dict[str, bool]:
    """What is seen of an answer: not its random numbers, which may be others than ours, but what it does with them."""

    def batches(seed: int, batch_size: int = 5, steps: int = 13) -> list[list[int]]:
        return [list(answer(13, batch_size, step=step, seed=seed)) for step in range(steps)]

    def rounds(seed: int) -> list[list[int]]:
        row = sum(batches(seed), [])
        return [row[start : start + 13] for start in range(0, 65, 13)]

    if batches(0) != batches(0):
        return {"the same again": False}
    found = batches(0) + batches(1)
    firsts = [set(sum(batches(seed, steps=2), [])) for seed in range(4)]
    return {
        "the same again": True,
        "lengths": sorted({len(batch) for batch in found}),
        "numbers": max(map(max, found)) < 13,
        "a round holds all": all(sorted(part) == list(range(13)) for part in rounds(0) + rounds(1)),
        "a round lacks one": all(len(set(part)) == 12 for part in rounds(0) + rounds(1)),
        "a step holds none twice": all(len(set(batch)) == len(batch) for batch in found),
        "two steps share none": all(len(first) == 10 for first in firsts),
        "three steps hold all": len(set(sum(batches(0, steps=3), []))) == 13,
        "two steps share all but one": all(len(first) <= 6 for first in firsts),
        "two steps share all": all(len(first) == 5 for first in firsts),
        "in order": rounds(0)[0] == sorted(rounds(0)[0]),
        "rounds alike": rounds(0)[0] == rounds(0)[1],
        "seeds alike": rounds(0)[0] == rounds(1)[0],
        "seeds one round apart": rounds(0)[1] == rounds(1)[0],
        "batches in order": all(batch == sorted(batch) for batch in found),
        "two batches make a larger one": sum(batches(0, steps=2), []) == batches(0, 10, 1)[0],
    }


def probes(name: str) -> Iterator:
    """Ways to use an answer by which a wrong one is recognised."""
    yield habits
