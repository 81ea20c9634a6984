import multiprocessing
import os
import signal
import time
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds

from minivid.classroom.evidence import holds
from minivid.data.batches import (
    Examples,
    PlaceGenerators,
    TrainingBatches,
    batch_indices,
    batch_parts,
    loaded,
    place_seeds,
    stack,
)
from minivid.shapes import ShapeError

# Newer Pythons warn where a process with threads forks, torch where there are more workers than cores.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]

T, C, H, W = 2, 3, 5, 7


def clips(count=11):
    return [(normal(i, T, C, H, W), i) for i in range(count)]


def shake(clip, rng):
    return clip + torch.rand(clip.shape, generator=rng)


def same(one, other):
    return one[:2] == other[:2] and torch.equal(one.inputs, other.inputs) and torch.equal(one.labels, other.labels)


# ---- which clips, in which order, with what luck


@given(examples=st.integers(1, 11), batch_size=st.integers(1, 7), seed=seeds)
def test_every_example_comes_once_in_each_round(examples, batch_size, seed):
    row = [i for step in range(3 * examples) for i in batch_indices(examples, batch_size, step=step, seed=seed)]
    assert len(row) == 3 * examples * batch_size
    for start in range(0, len(row), examples):
        assert sorted(row[start : start + examples]) == list(range(examples))


@given(step=st.integers(0, 50), seed=seeds)
def test_the_batch_of_a_step_depends_on_seed_and_step_alone(step, seed):
    assert batch_indices(13, 5, step=step, seed=seed) == batch_indices(13, 5, step=step, seed=seed)


def test_rounds_and_seeds_have_orders_of_their_own():
    orders = [tuple(batch_indices(13, 13, step=step, seed=seed)) for step in (0, 1, 2) for seed in (0, 1, 2)]
    assert max(Counter(orders).values()) == 1


@given(parts=st.integers(1, 23), more=st.integers(0, 40))
def test_the_parts_of_a_batch_follow_each_other_and_are_equally_long(parts, more):
    batch_size = parts + more
    runs = batch_parts(batch_size, parts)
    assert len(runs) == parts and runs[0].start == 0 and runs[-1].stop == batch_size
    assert all(one.stop == next_one.start for one, next_one in pairwise(runs))
    lengths = [len(run) for run in runs]
    assert max(lengths) - min(lengths) <= 1 and min(lengths) >= 1


def test_every_place_has_three_streams_of_its_own():
    starts = [
        start
        for seed in (0, 1, 2)
        for step in (0, 1, 2)
        for place in (0, 1, 2)
        for start in place_seeds(seed, step, place)
    ]
    assert len(set(starts)) == 81
    assert place_seeds(3, 4, 5) == place_seeds(3, 4, 5)
    assert place_seeds(2**40, 4) != place_seeds(0, 4)


def test_each_clip_has_a_generator_that_its_place_decides():
    whole, part = PlaceGenerators(3, 4, range(6)), PlaceGenerators(3, 4, range(2, 5))
    assert (len(whole), len(part)) == (6, 3)
    drawn = [torch.rand((), generator=generator).item() for generator in whole]
    assert [torch.rand((), generator=part[i]).item() for i in range(3)] == drawn[2:5] and len(set(drawn)) == 6
    assert torch.rand((), generator=whole[1]).item() != drawn[1]  # it goes on where it was
    other = PlaceGenerators(3, 5, range(6))
    assert torch.rand((), generator=other[0]).item() != drawn[0]


@given(parts=st.integers(1, 3), processes=st.integers(1, 3), more=st.integers(0, 5), seed=seeds)
def test_parts_and_processes_are_views_of_one_batch(parts, processes, more, seed):
    size, step = parts * processes + more, 3
    whole = TrainingBatches(clips(), size, seed, augment=shake)[step, 0]
    assert whole.step == step and whole.places == range(size)
    pieces = [
        TrainingBatches(clips(), size, seed, parts, (process, processes), shake)[step, part]
        for process in range(processes)
        for part in range(parts)
    ]
    assert [place for piece in pieces for place in piece.places] == list(range(size))
    assert torch.equal(torch.cat([piece.inputs for piece in pieces]), whole.inputs)
    assert torch.equal(torch.cat([piece.labels for piece in pieces]), whole.labels)
    assert whole.labels.tolist() == batch_indices(11, size, step=step, seed=seed)


def test_the_same_clip_is_augmented_anew_each_time_and_in_each_seed():
    first = TrainingBatches(clips(1), 2, 0, augment=shake)[0, 0]
    again = TrainingBatches(clips(1), 2, 0, augment=shake)[1, 0]
    other = TrainingBatches(clips(1), 2, 1, augment=shake)[0, 0]
    assert len({clip.sum().item() for batch in (first, again, other) for clip in batch.inputs}) == 6


def test_stack_keeps_clips_and_labels_together():
    examples = [(torch.full((2, 3, 5, 7), float(label)), label) for label in (3, 0, 2)]
    found, labels = stack(examples)
    assert found.shape == (3, 2, 3, 5, 7) and labels.tolist() == [3, 0, 2] and labels.dtype == torch.int64
    assert torch.equal(found[:, 0, 0, 0, 0], labels.float())


def test_stack_takes_labels_of_one_number_and_of_many():
    clip = torch.zeros(T, C, H, W)
    assert stack([(clip, 0.5), (clip, 2.0)])[1].tolist() == [0.5, 2.0]
    assert stack([(clip, (1, 0, 1)), (clip, [0, 0, 1])])[1].tolist() == [[1, 0, 1], [0, 0, 1]]
    with pytest.raises(ShapeError, match=r"labels: 2 shapes.*\(2,\), \(3,\).*expected one"):
        stack([(clip, (1, 0, 1)), (clip, (0, 1))])


def test_errors_name_the_sizes():
    with pytest.raises(ShapeError, match=r"2 sizes.*\(2, 3, 5, 7\), \(2, 3, 5, 11\)"):
        stack([(torch.zeros(2, 3, 5, 7), 0), (torch.zeros(2, 3, 5, 11), 1)])
    with pytest.raises(ShapeError, match="0 sizes"):
        stack([])
    with pytest.raises(ValueError, match="examples=0 and batch_size=4.*at least 1"):
        batch_indices(0, 4, step=0)
    with pytest.raises(ValueError, match="batch_size=5 clips cannot be cut into 6 parts, expected 1 to 5"):
        TrainingBatches(clips(), 5, 0, 3, (0, 2))
    batches = TrainingBatches(clips(), 5)
    with pytest.raises(ValueError, match="workers=-1 is below 0"), loaded(batches, range(2), workers=-1):
        pass


def test_a_list_of_pairs_is_examples():
    assert isinstance(clips(), Examples)


# ---- workers


@contextmanager
def no_process_left():
    before = set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(workers):
    batches = TrainingBatches(clips(), 5, 7, parts=2, augment=shake)
    with loaded(batches, range(3, 7)) as stream:
        want = list(stream)
    assert [batch.step for batch in want] == [3, 3, 4, 4, 5, 5, 6, 6]
    torch.manual_seed(1)
    drawn = torch.rand(2)
    torch.manual_seed(1)
    with no_process_left(), loaded(batches, range(3, 7), workers=workers) as stream:
        found = list(stream)
    assert len(found) == len(want) and all(same(*pair) for pair in zip(found, want, strict=True))
    assert torch.equal(torch.rand(2), drawn)  # the caller's random numbers were left alone


class Odd:
    """Clips of which one does something else."""

    def __init__(self, act):
        self.act, self.here = act, os.getpid()

    def __len__(self):
        return 11

    def __getitem__(self, index):
        if index == 7:
            self.act(self)
        return normal(index, T, C, H, W), index


def die(odd):
    assert os.getpid() != odd.here
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_one_clear_error():
    start = time.monotonic()
    words = r"one of 2 data workers died \(DataLoader worker.*memory.*fewer workers.*same call again"
    batches = TrainingBatches(Odd(die), 5)
    with (
        no_process_left(),
        pytest.raises(ChildProcessError, match=words) as caught,
        loaded(batches, range(9), workers=2) as stream,
    ):
        list(stream)
    assert "\n" not in str(caught.value) and time.monotonic() - start < 8


def test_a_worker_that_is_killed_while_nobody_waits_for_it_is_the_same_error():
    batches = TrainingBatches(clips(), 5)
    with (
        no_process_left(),
        pytest.raises(ChildProcessError, match="one of 1 data workers died"),
        loaded(batches, range(9), workers=1) as stream,
    ):
        next(stream)
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        for _ in range(100):
            time.sleep(0.05)


class Strange(Exception):
    """An error that cannot be sent from process to process."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def misfit(odd):
    raise ShapeError("clip 7: h=5, expected 6")


def strange(odd):
    raise Strange("this", "that")


@pytest.mark.parametrize(
    "act, kind, words",
    [(misfit, ShapeError, "clip 7: h=5, expected 6"), (strange, ValueError, "Strange: this and that")],
)
def test_an_error_in_a_worker_is_raised_as_what_it_is(act, kind, words):
    batches = TrainingBatches(Odd(act), 5)
    with no_process_left(), pytest.raises(kind) as caught, loaded(batches, range(9), workers=2) as stream:
        list(stream)
    assert str(caught.value) == words


def test_a_worker_whose_training_was_killed_while_it_started_is_gone_too():
    context = multiprocessing.get_context("fork")
    told, tell = context.Pipe(duplex=False)

    def train():
        def slowly(threads):  # the first thing that a worker does, before it looks for its parent
            tell.send("started")
            time.sleep(0.5)

        torch.set_num_threads = slowly
        with loaded(TrainingBatches(clips(), 5), range(9), workers=1) as stream:
            next(stream)

    training = context.Process(target=train)
    training.start()
    assert told.poll(10)
    told.recv()
    training.kill()
    training.join()
    tell.close()
    assert told.poll(3)  # the worker's end of the pipe is closed: it has ended
    with pytest.raises(EOFError):
        told.recv()


def test_the_workers_are_gone_when_the_training_stops_early():
    batches = TrainingBatches(clips(), 5)
    with no_process_left(), pytest.raises(KeyboardInterrupt), loaded(batches, range(1000), workers=2) as stream:
        next(stream)
        raise KeyboardInterrupt


def test_other_errors_of_the_training_are_left_as_they_are():
    batches = TrainingBatches(clips(), 5)
    with pytest.raises(RuntimeError, match="^not about workers$"), loaded(batches, range(9), workers=1):
        raise RuntimeError("not about workers")


# ---- laws


@pytest.mark.law("batch_indices")
@given(step=st.integers(0, 9), seed=st.integers(0, 3))
def test_a_batch_follows_from_seed_and_step_alone(impl, step, seed):
    """Asked again, or in another order, the answer is the same: nothing is remembered between calls."""
    first = list(impl.batch_indices(5, 3, step=step, seed=seed))
    list(impl.batch_indices(5, 3, step=step + 7, seed=seed + 1))
    again = list(impl.batch_indices(5, 3, step=step, seed=seed))
    holds(first == again, "the same step gave two batches", first=first, again=again, step=step, seed=seed)


@pytest.mark.law("batch_indices")
@given(examples=st.integers(1, 7), batch_size=st.integers(1, 5), step=st.integers(0, 7), seed=st.integers(0, 3))
def test_no_batch_is_short(impl, examples, batch_size, step, seed):
    """A batch holds batch_size numbers, each from 0 to examples - 1."""
    case = dict(examples=examples, batch_size=batch_size, step=step, seed=seed)
    got = list(impl.batch_indices(examples, batch_size, step=step, seed=seed))
    holds(len(got) == batch_size, f"the batch holds {len(got)} examples, expected {batch_size}", got=got, **case)
    holds(all(0 <= i < examples for i in got), f"a number is not from 0 to {examples - 1}", got=got, **case)


@pytest.mark.law("batch_indices")
@given(examples=st.integers(1, 7), batch_size=st.integers(1, 5), seed=st.integers(0, 3))
def test_each_round_holds_every_example_once(impl, examples, batch_size, seed):
    """The batches of all steps, one behind the other, hold every example once, then every example once again, ..."""
    case = dict(examples=examples, batch_size=batch_size, seed=seed)
    row = [i for step in range(2 * examples) for i in impl.batch_indices(examples, batch_size, step=step, seed=seed)]
    for start in range(0, len(row), examples):
        part = row[start : start + examples]
        claim = f"places {start} to {start + len(part) - 1} of the row lack an example, or hold one twice"
        holds(sorted(part) == list(range(examples)), claim, places=part, **case)


@pytest.mark.law("batch_indices")
@given(examples=st.integers(1, 7), batch_size=st.integers(1, 3), parts=st.integers(2, 3), step=st.integers(0, 3),
       seed=st.integers(0, 3))  # fmt: skip
def test_a_large_batch_is_small_batches_one_behind_the_other(impl, examples, batch_size, parts, step, seed):
    """One step with a batch twice as large takes what two steps take: the row of examples is the same."""
    large = list(impl.batch_indices(examples, parts * batch_size, step=step, seed=seed))
    steps = range(step * parts, (step + 1) * parts)
    small = [i for k in steps for i in impl.batch_indices(examples, batch_size, step=k, seed=seed)]
    claim = f"step {step} with batches of {parts * batch_size} differs from steps {list(steps)} with {batch_size}"
    holds(large == small, claim, large=large, small=small, examples=examples, seed=seed)


@pytest.mark.law("batch_indices")
def test_every_round_of_every_seed_has_an_order_of_its_own(impl):
    """Three rounds of three seeds are nine orders, none of them 0, 1, 2, ..."""
    orders = {
        (seed, step): list(impl.batch_indices(13, 13, step=step, seed=seed)) for seed in range(3) for step in range(3)
    }
    seen = {tuple(range(13)): "0, 1, 2, ..."}
    for (seed, step), order in orders.items():
        place = f"round {step} of seed {seed}"
        # Two of ten random orders of 13 are the same once in 10^8 times.
        holds(tuple(order) not in seen, f"{place} has the order of {seen.get(tuple(order))}", order=order)
        seen[tuple(order)] = place
