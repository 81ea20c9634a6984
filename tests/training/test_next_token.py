"""Next-token prediction beside torch's shifted cross-entropy; parts, rows and documents that add up."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import golden
from strategies import normal, seeds, small, whole
from torch import nn
from torch.nn import functional as F

from minivid.classroom.evidence import agree, holds
from minivid.data.batches import Batch, batch_indices, collated
from minivid.models.pretrained import save_pretrained
from minivid.shapes import ShapeError
from minivid.training.checkpoint import load_tensors
from minivid.training.finetune import finetune, gather_gradients
from minivid.training.finetune_config import FinetuneConfig
from minivid.training.next_token import NextToken, next_token_cross_entropy, next_token_loss, next_token_targets
from minivid.training.what_trains import part_settings

V = 5
DATA = Path(__file__).parents[1] / "data"


@st.composite
def rows_of_labels(draw, rows=small):
    """Some rows of labels, of which about half count."""
    numbers = draw(whole(draw(rows), draw(st.integers(1, 5)), low=-4, high=V - 1, dtype=torch.int64))
    return numbers.masked_fill(numbers < 0, -100)


@st.composite
def logits_labels(draw):
    """Whole-number logits b n v and the labels of their tokens."""
    labels = draw(rows_of_labels())
    return draw(whole(*labels.shape, V)), labels


# ---- laws


@pytest.mark.law("next_token_cross_entropy")
@given(logits_labels())
def test_next_token_cross_entropy_asks_each_token_for_the_one_after_it(impl, case):
    """The logits of token n answer for label n + 1: the sum of their -log p, and how many there are."""
    logits, labels = case
    summed, count = impl.next_token_cross_entropy(logits, labels)
    before, after = logits[:, :-1].reshape(-1, V), labels[:, 1:].reshape(-1)
    want = F.cross_entropy(before, after, ignore_index=-100, reduction="sum")
    number = (after != -100).sum()
    agree(count, number, "the count is not that of the labels that are asked for", labels=labels)
    agree(summed, want, "the loss is not the sum over the labels that count", logits=logits, labels=labels)


@pytest.mark.law("next_token_cross_entropy")
@given(logits_labels(), st.integers(-2, 2))
def test_next_token_cross_entropy_asks_nobody_for_the_first_token_and_the_last_for_nothing(impl, case, shift):
    """Neither the first label of a row nor the last logits matter."""
    logits, labels = case
    other, asked = logits.clone(), labels.clone()
    other[:, -1, 0] += 3.0 * shift
    asked[:, 0] = (asked[:, 0] + shift).clamp(0, V - 1)
    want, number = impl.next_token_cross_entropy(logits, labels)
    got, count = impl.next_token_cross_entropy(other, asked)
    agree(count, number, "the first label of a row is counted", labels=labels, other=asked)
    agree(got, want, "the first label or the last logits of a row matter", logits=logits, labels=labels)


@pytest.mark.law("next_token_cross_entropy")
@given(logits_labels(), st.integers(0, 3))
def test_next_token_cross_entropy_is_blind_to_padding(impl, case, padding):
    """Tokens without a label at the end of every row change neither the sum nor the count."""
    logits, labels = case
    want, number = impl.next_token_cross_entropy(logits, labels)
    got, count = impl.next_token_cross_entropy(
        F.pad(logits, (0, 0, 0, padding), value=1.0), F.pad(labels, (0, padding), value=-100)
    )
    agree(count, number, "padding is counted", labels=labels, padding=padding)
    agree(got, want, "padding changes the loss", logits=logits, labels=labels, padding=padding)


@pytest.mark.law("next_token_cross_entropy")
@given(logits_labels(), st.data())
def test_next_token_cross_entropy_of_parts_adds_up(impl, case, data):
    """Cut a batch between two rows: sums and counts of the parts add up to those of the whole."""
    logits, labels = case
    cut = data.draw(st.integers(0, len(labels)))
    parts = [impl.next_token_cross_entropy(logits[part], labels[part]) for part in (slice(None, cut), slice(cut, None))]
    summed, count = impl.next_token_cross_entropy(logits, labels)
    agree(parts[0][1] + parts[1][1], count, "the counts of parts do not add up", labels=labels, cut=cut)
    agree(parts[0][0] + parts[1][0], summed, "the sums of parts do not add up", logits=logits, labels=labels, cut=cut)


@pytest.mark.law("next_token_cross_entropy")
@given(seeds)
def test_next_token_cross_entropy_is_computed_in_float32(impl, seed):
    """Logits in bfloat16 give the loss of the same numbers in float32."""
    logits, labels = normal(seed, 2, 4, V).mul(8).bfloat16(), torch.arange(8).view(2, 4) % V
    want, _ = impl.next_token_cross_entropy(logits.float(), labels)
    got, _ = impl.next_token_cross_entropy(logits, labels)
    holds(got.dtype == torch.float32, "the loss of bfloat16 logits is not float32", dtype=str(got.dtype))
    agree(got, want, "the loss is rounded to bfloat16", logits=logits, labels=labels)


@pytest.mark.law("next_token_targets")
@given(rows_of_labels())
def test_next_token_targets_are_the_labels_one_place_on(impl, labels):
    """A token is kept if the one after it in its row counts; the targets are these, row by row."""
    kept, targets = impl.next_token_targets(labels)
    want = torch.zeros_like(labels, dtype=torch.bool)
    answers = []
    for b, row in enumerate(labels.tolist()):
        for n, following in enumerate(row[1:]):
            if following != -100:
                want[b, n] = True
                answers.append(following)
    agree(kept, want, "the kept tokens are not those before a label that counts", axes="b n", labels=labels)
    agree(targets, torch.tensor(answers, dtype=torch.int64), "the targets are not the labels after", labels=labels)


@pytest.mark.law("next_token_targets")
@given(st.lists(rows_of_labels(rows=st.just(1)), min_size=1, max_size=4))
def test_next_token_targets_of_a_flattened_row_are_those_of_its_documents(impl, documents):
    """Conversations in one row are asked what each is asked alone; none begins the next one."""
    lengths = torch.tensor([labels.shape[1] for labels in documents])
    kept, targets = impl.next_token_targets(torch.cat(documents, dim=1), lengths)
    apart = [impl.next_token_targets(labels) for labels in documents]
    case = {"documents": [labels[0].tolist() for labels in documents]}
    agree(kept, torch.cat([one for one, _ in apart], 1), "a flattened row keeps other tokens", axes="b n", **case)
    agree(targets, torch.cat([one for _, one in apart]), "a flattened row has other targets", **case)


# ---- the two forms are one


class Writer(nn.Module):
    """Embeds, takes the mean of what came before, writes; documents in a row and padding are kept apart.

    `asked` says for how many tokens the head was computed.
    """

    def __init__(self, width=7):
        super().__init__()
        self.embed = nn.Embedding(V, width)
        self.head = nn.Linear(width, V)
        self.asked = []

    def forward(self, input_ids, *, attention_mask=None, document_lengths=None, keep):
        lengths = [input_ids.shape[1]] if document_lengths is None else document_lengths.tolist()
        states = []
        for part in self.embed(input_ids).split(lengths, dim=1):
            states.append(part.cumsum(1) / torch.arange(1, part.shape[1] + 1)[:, None])
        self.asked.append(int(keep.sum()))
        return self.head(torch.cat(states, dim=1).tanh()[keep])


def conversation(seed, n):
    """Ids, and labels of about every second one."""
    ids = torch.randint(V, (n,), generator=torch.Generator().manual_seed(seed))
    return ids, ids.masked_fill(torch.arange(n) % 2 == seed % 2, -100)


class Conversations(list):
    """Pads its items to the longest; with `flat`, puts them into one row."""

    flat = False

    def collate(self, chosen):
        if self.flat:
            ids, labels = (torch.cat(part)[None] for part in zip(*chosen, strict=True))
            return {"input_ids": ids, "document_lengths": torch.tensor([len(one) for one, _ in chosen])}, labels
        pad = nn.utils.rnn.pad_sequence
        ids, labels = zip(*chosen, strict=True)
        ids, labels = pad(ids, batch_first=True), pad(labels, batch_first=True, padding_value=-100)
        return {"input_ids": ids, "attention_mask": (labels != 17).long()}, labels


def conversations(count=6, flat=False):
    made = Conversations(conversation(seed, 3 + seed % 4) for seed in range(count))
    made.flat = flat
    return made


@given(seeds)
def test_the_loss_of_a_model_is_that_of_all_its_logits(seed):
    torch.manual_seed(seed)
    model, data = Writer(), conversations()
    inputs, labels = data.collate(data)
    summed, count = next_token_loss(model, inputs, labels)
    logits = model(**inputs, keep=torch.ones_like(labels, dtype=torch.bool)).view(*labels.shape, V)
    want, number = next_token_cross_entropy(logits, labels)
    torch.testing.assert_close(summed, want)
    assert count == number == model.asked[0]  # the head was asked no more than counts
    assert model.asked[0] < labels.numel() / 2


def test_flattened_conversations_have_the_loss_and_the_gradient_of_a_batch():
    model = Writer()
    found = []
    for flat in (False, True):
        data = conversations(flat=flat)
        summed, count = next_token_loss(model, *data.collate(data))
        found.append((summed, count, *torch.autograd.grad(summed, list(model.parameters()))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


# ---- the objective


def parts_of(data, cuts):
    places = zip([0, *cuts], [*cuts, len(data)], strict=True)
    return [Batch(0, range(i, j), *collated(data, data[i:j])) for i, j in places]


def gradients(model, data, cuts, objective):
    config = FinetuneConfig(batch_size=len(data), micro_batches=len(cuts) + 1)
    loss = gather_gradients(model, objective, parts_of(data, cuts), config)
    return loss, [weight.grad.clone() for weight in model.parameters()]


@pytest.mark.parametrize("cuts", [[3], [1, 2], [1, 2, 3, 4, 5]])
def test_every_token_counts_the_same_however_a_batch_is_cut(cuts):
    model, data = Writer(), conversations()
    whole_loss, whole_gradient = gradients(model, data, [], NextToken())
    loss, gradient = gradients(model, data, cuts, NextToken())
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    torch.testing.assert_close(gradient, whole_gradient)


def test_parts_weigh_the_same_if_asked_to():
    model, data, cuts = Writer(), conversations(), [1, 4]
    loss, gradient = gradients(model, data, cuts, NextToken(weighting="parts"))
    means = []
    for part in parts_of(data, cuts):
        summed, count = next_token_loss(model, part.inputs, part.labels)
        means.append(summed / count)
    want = torch.stack(means).mean()
    assert loss == pytest.approx(want.item(), rel=1e-6)
    torch.testing.assert_close(gradient, list(torch.autograd.grad(want, list(model.parameters()))))
    assert abs(loss - gradients(model, data, cuts, NextToken())[0]) > 1e-3


@pytest.mark.parametrize("weighting", ["tokens", "parts"])
def test_a_part_in_which_nothing_counts_adds_nothing(weighting):
    model, data = Writer(), conversations()
    silent = Conversations([*data[:3], *((ids, torch.full_like(labels, -100)) for ids, labels in data[3:])])
    loss, gradient = gradients(model, silent, [3], NextToken(weighting))
    want, wanted = gradients(model, Conversations(data[:3]), [], NextToken(weighting))
    assert loss == pytest.approx(want, rel=1e-6)
    torch.testing.assert_close(gradient, wanted)
    with pytest.raises(ValueError, match="the batch of step 1: no label in it counts"):
        gradients(model, Conversations(silent[3:]), [1], NextToken(weighting))


@pytest.mark.parametrize("at_once", [1, 4, 8])
@pytest.mark.parametrize("flat", [False, True])
def test_measuring_does_not_depend_on_how_many_are_shown_at_once(at_once, flat):
    model, data = Writer(), conversations(8)
    with torch.no_grad():  # a model that knows a part of the answers
        model.head.weight.mul_(9)
    found = NextToken(measured_at_once=at_once).measure(model, conversations(8, flat))
    assert NextToken().measure(model, conversations(8, flat), batch_size=at_once) == found
    losses, hits, perfect = [], [], 0
    for ids, labels in data:
        kept, targets = next_token_targets(labels[None])
        logits = model(ids[None], keep=kept)
        losses += F.cross_entropy(logits, targets, reduction="none").tolist()
        right = (logits.argmax(-1) == targets).tolist()
        hits += right
        perfect += all(right)
    assert found["validation_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert found["validation_token_accuracy"] == sum(hits) / len(hits)
    assert found["validation_exact_match"] == perfect / 8
    assert 0 < sum(hits) < len(hits)
    assert set(found) == {"validation_loss", "validation_token_accuracy", "validation_exact_match"}
    assert model.training


def test_a_conversation_is_answered_only_if_every_token_of_it_is():
    class Knows(nn.Module):
        """Answers 3 always."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, input_ids, *, document_lengths=None, attention_mask=None, keep):
            return F.one_hot(torch.full((int(keep.sum()),), 3), V).float() * 100 + self.weight

    three, ids = torch.tensor([0, 3, 3]), torch.zeros(3, dtype=torch.int64)
    data = Conversations([(ids, three), (ids, torch.tensor([3, 3, 2])), (ids, three)])
    for data.flat in (False, True):
        found = NextToken().measure(Knows(), data)
        assert found["validation_token_accuracy"] == 5 / 6
        assert found["validation_exact_match"] == 2 / 3
        assert found["validation_loss"] == pytest.approx(100 / 6, rel=1e-5)


def test_a_training_on_conversations_is_the_same_in_parts_and_with_workers():
    def trained(micro_batches, workers=0):
        torch.manual_seed(0)
        model, data = Writer(), conversations(8)
        config = FinetuneConfig(steps=7, batch_size=4, micro_batches=micro_batches, learning_rate=0.05)
        history = finetune(model, data, data, config, objective=NextToken(), workers=workers, quiet=True)
        return history.rows, model.state_dict()

    rows, weights = trained(1)
    cut_rows, cut = trained(3)
    torch.testing.assert_close(cut, weights)
    for one, other in zip(cut_rows, rows, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]
    loaded_rows, loaded = trained(1, workers=1)
    assert loaded_rows == rows and all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_the_loss_under_autocast_is_float32():
    model, data = Writer(), conversations()
    with torch.autocast("cpu", torch.bfloat16):
        summed, _ = next_token_loss(model, *data.collate(data))
    assert summed.dtype == torch.float32


# ---- the published recipe


class Parts(list):
    """Items that are a batch each."""

    def collate(self, chosen):
        (batch,) = chosen
        return batch


def test_six_steps_are_those_of_the_published_recipe(tmp_path):
    wanted = json.loads((DATA / "training_trajectory.json").read_text())
    said = wanted["settings"]
    model, inputs = golden.golden_model(), golden.golden_inputs()
    ids, config = inputs["input_ids"], model.config
    read = inputs["attention_mask"].bool()
    # Neither pictures nor the first word behind the padding are asked for.
    words = read & read.roll(1, 1) & (ids != config.image_token_id) & (ids != config.video_token_id)
    b, n = torch.meshgrid(*map(torch.arange, ids.shape), indexing="ij")
    parts = Parts([None] * 12)
    for k, index in enumerate(batch_indices(12, 12, step=0)):  # so that the loop takes them in their order
        parts[index] = inputs, ids.masked_fill(~(words & ((b + 2 * n + k) % (2 + k % 3) == 0)), -100)
    settings = part_settings(
        dict(model.named_parameters()), merger_rate=said["merger_rate"], vision_rate=said["vision_rate"]
    )
    recipe = FinetuneConfig(
        steps=said["steps"], batch_size=said["parts"], micro_batches=said["parts"], learning_rate=said["lr"],
        warmup_ratio=said["warmup_ratio"], weight_decay=said["decay"], no_decay=(), max_grad_norm=said["max_norm"],
        evaluate_every=0, **settings,
    )  # fmt: skip
    history = finetune(model, parts, Parts(parts[:1]), recipe, objective=NextToken("parts", 1), quiet=True)
    for row, step in zip(history.rows, wanted["log"], strict=False):
        # Seen: 3e-7 of the losses and 1e-6 of the lengths.
        assert row["loss"] == pytest.approx(sum(step["losses"]) / said["parts"], rel=1e-5)
        assert row["gradient_norm"] == pytest.approx(step["gradient_norm"], rel=1e-4)
        assert row["learning_rate"] == pytest.approx(step["rate"] * said["lr"], rel=1e-12)
    save_pretrained(model, tmp_path)
    final = load_tensors(tmp_path / "model.safetensors")
    assert final.keys() == wanted["final"].keys()
    for name, (total, size) in wanted["final"].items():
        assert final[name].double().sum().item() == pytest.approx(total, abs=1e-5 * size), name
        assert final[name].double().abs().sum().item() == pytest.approx(size, rel=1e-5), name


# ---- wrong input


def test_labels_of_another_shape_are_refused(unchecked):
    with pytest.raises(
        ShapeError,
        match=r"^labels: b n = \(2, 3\), expected those of the logits, \(2, 4\); labels are given unshifted, one a tok",
    ):
        next_token_cross_entropy(torch.zeros(2, 4, V), torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize("labels, lengths", [((1, 5), [2, 2]), ((2, 4), [2, 2]), ((1, 3), [2, 2])])
def test_documents_that_are_not_one_row_are_refused(labels, lengths):
    with pytest.raises(
        ShapeError, match=rf"^document_lengths: \[2, 2\] sum to 4, and labels are b n = \({labels[0]}, {labels[1]}\);"
    ):
        next_token_targets(torch.zeros(labels, dtype=torch.int64), torch.tensor(lengths))


def test_the_objective_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="^weighting='rows' is none of tokens, parts$"):
        NextToken("rows")
    with pytest.raises(ValueError, match="^measured_at_once=0 is not at least 1$"):
        NextToken(measured_at_once=0)
    with pytest.raises(ValueError, match="^data: 0 conversations, expected at least 1 to evaluate on$"):
        NextToken().measure(Writer(), Conversations())
    silent = Conversations([(torch.zeros(3, dtype=torch.int64), torch.full((3,), -100))])
    with pytest.raises(ValueError, match="^data: no label counts in 1 conversations, so there is nothing to measure$"):
        NextToken().measure(Writer(), silent)


def test_who_knows_nothing_pays_log_v():
    summed, count = next_token_cross_entropy(torch.zeros(2, 3, V), torch.tensor([[1, 2, -100], [4, -100, 0]]))
    assert count == 2 and summed.item() == pytest.approx(2 * math.log(V))


def test_how_many_are_measured_at_once_is_no_part_of_what_is_minimised():
    assert repr(NextToken(measured_at_once=3)) == repr(NextToken()) == "NextToken(weighting='tokens')"
