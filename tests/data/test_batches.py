from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from minivid.data.batches import batch_indices, stack
from minivid.shapes import ShapeError


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


def test_stack_keeps_clips_and_labels_together():
    examples = [(torch.full((2, 3, 5, 7), float(label)), label) for label in (3, 0, 2)]
    clips, labels = stack(examples)
    assert clips.shape == (3, 2, 3, 5, 7) and labels.tolist() == [3, 0, 2]
    assert torch.equal(clips[:, 0, 0, 0, 0], labels.float())


def test_errors_name_the_sizes():
    with pytest.raises(ShapeError, match=r"2 sizes.*\(2, 3, 5, 7\), \(2, 3, 5, 11\)"):
        stack([(torch.zeros(2, 3, 5, 7), 0), (torch.zeros(2, 3, 5, 11), 1)])
    with pytest.raises(ShapeError, match="0 sizes"):
        stack([])
    with pytest.raises(ValueError, match="examples=0 and batch_size=4.*at least 1"):
        batch_indices(0, 4, step=0)
