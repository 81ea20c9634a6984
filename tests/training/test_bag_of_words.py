"""The bag-of-words objective beside the same sum written out, and what of a model it moves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds
from torch.nn import functional as F

from minivid.models.qwen3_vl import SMALL_CONFIG, Qwen3VL
from minivid.shapes import ShapeError
from minivid.training.bag_of_words import LEARNS, BagOfWords, words_seen

BOX, V = SMALL_CONFIG.vision_config.box_size, SMALL_CONFIG.text_config.vocab_size


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Qwen3VL(SMALL_CONFIG).eval()


def asked(seed, groups=(1, 2, 1), size=(2, 4)):
    """Clips of so many frame groups, and labels of which about half count."""
    clips = [normal(seed + i, t * size[0] * size[1], BOX) for i, t in enumerate(groups)]
    inputs = {
        "input_ids": torch.zeros(len(groups), 5, dtype=torch.int64),
        "pixel_values_videos": torch.cat(clips),
        "video_grid_thw": torch.tensor([[t, *size] for t in groups]),
    }
    labels = torch.randint(-V, V, (len(groups), 5), generator=torch.Generator().manual_seed(seed))
    labels[:, -1] = 1  # something always counts
    return inputs, labels.masked_fill(labels < 0, -100)


@given(seeds, st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_it_is_the_cross_entropy_of_every_label_at_the_mean_of_its_own_clip(model, seed, groups):
    inputs, labels = asked(seed, groups)
    summed, count = BagOfWords().loss(model, inputs, labels)
    want, counted, first = 0.0, 0, 0
    for row, t in enumerate(groups):
        seen = model.visual(inputs["pixel_values_videos"][first : first + 8 * t], inputs["video_grid_thw"][row, None])
        first += 8 * t
        mean = (seen.merged + seen.deepstack[0]).mean(0)
        logits = F.linear(model.language_model.norm(mean), model.language_model.embed_tokens.weight)
        answers = labels[row, 1:][labels[row, 1:] != -100]
        want, counted = want + sum(F.cross_entropy(logits, y) for y in answers), counted + len(answers)
    assert count == counted
    # Sums of at most 12 terms of about 6 nats each, in float32.
    torch.testing.assert_close(summed, torch.as_tensor(want), atol=1e-4, rtol=1e-5)


@given(seeds)
def test_the_order_of_the_words_says_nothing(model, seed):
    inputs, labels = asked(seed)
    other = torch.cat([labels[:, :1], labels[:, 1:].flip(1)], 1)
    one, two = (BagOfWords().loss(model, inputs, each)[0] for each in (labels, other))
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-5)  # the same terms, added in another order


@given(seeds, st.integers(1, 4))
def test_tokens_that_every_answer_has_can_be_left_out(model, seed, count):
    inputs, labels = asked(seed)
    words = labels[labels != -100].unique()
    without = tuple(words[:count].tolist())
    others = torch.where(torch.isin(labels, words[count:]), labels, -100)
    got, counted = BagOfWords(without=without).loss(model, inputs, labels)
    want, expected = BagOfWords().loss(model, inputs, others)
    assert counted == expected and torch.equal(got, want)


def test_it_moves_what_it_says_and_all_of_that():
    model = Qwen3VL(SMALL_CONFIG)
    BagOfWords().loss(model, *asked(0))[0].backward()
    moved = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert moved == {name for name, _ in model.named_parameters() if any(piece in name for piece in LEARNS)}


def test_it_is_measured_whatever_number_is_put_to_the_model_at_once(model):
    class Clips(list):
        def collate(self, items):
            labels = torch.cat([each[1] for each in items])
            inputs = {name: torch.cat([each[0][name] for each in items]) for name in items[0][0]}
            return inputs, labels

    data = Clips(asked(seed, [1]) for seed in range(5))
    inputs, labels = data.collate(data)
    summed, count = BagOfWords().loss(model, inputs, labels)
    for at_once in (1, 2, 64):
        found = BagOfWords(measured_at_once=at_once).measure(model, data)
        assert found == {"validation_loss": pytest.approx((summed / count).item(), rel=1e-5)}
    with pytest.raises(ValueError, match="0 conversations"):
        BagOfWords().measure(model, Clips())
    silent = Clips((inputs, torch.full_like(labels, -100)) for inputs, labels in data)
    with pytest.raises(ValueError, match="no label counts in 5"):
        BagOfWords().measure(model, silent)
    with pytest.raises(ValueError, match="measured_at_once=0"):
        BagOfWords(measured_at_once=0)


def test_every_row_needs_a_clip(model):
    inputs, _ = asked(0)
    with pytest.raises(ShapeError, match="3 clips for 2 rows"):
        words_seen(model, inputs | {"input_ids": inputs["input_ids"][:2]})
