"""Objectives: sums that add up over parts, figures beside torch's, and heads by task."""

from dataclasses import dataclass, replace
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds
from torch import nn
from torch.nn import functional as F

from minivid.classroom.evidence import agree
from minivid.models.conv3d_classifier import Conv3dClassifier, Conv3dClassifierConfig
from minivid.models.conv_lstm import ConvLSTM, ConvLSTMConfig
from minivid.models.vivit import ViViT, ViViTConfig
from minivid.shapes import Grid, ShapeError
from minivid.training.objectives import (
    TASKS,
    Classification,
    FrameOrder,
    FrameSimilarity,
    MaskedTubelets,
    MultiLabel,
    Objective,
    Regression,
    objective_of,
    replace_head,
    respond,
    tube_mask,
)

T, C, H, W, V = 2, 3, 5, 7, 4
SMALL = ViViTConfig(
    image_size=8,
    num_frames=4,
    tubelet_size=(2, 4, 4),
    hidden_size=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
)
SMALL_3D = Conv3dClassifierConfig(image_size=8, num_frames=4, hidden_sizes=(4, 6), depths=(1, 1), stem_size=3)
SMALL_LSTM = ConvLSTMConfig(image_size=8, num_frames=4, conv_sizes=(4,), hidden_size=6)


@dataclass(frozen=True)
class TinyConfig:
    num_labels: int = V
    initializer_range: float = 0.5


class Tiny(nn.Module):
    """Pixels to outputs by one layer."""

    def __init__(self, seed=0, outputs=V):
        super().__init__()
        self.config = TinyConfig(outputs)
        self.classifier = nn.Linear(T * C * H * W, outputs)
        with torch.no_grad():
            self.classifier.weight.copy_(0.1 * normal(seed, outputs, T * C * H * W))
            self.classifier.bias.copy_(normal(seed + 1, outputs))

    def forward(self, clips):
        return self.classifier(clips.flatten(1))


def labelled(kind, count=7, seed=0):
    labels = {
        "classification": lambda i: (3 * i + 1) % V,
        "multi-label": lambda i: [float((i >> j) & 1) for j in range(V)],
        "regression": lambda i: normal(seed + i, V).tolist(),
    }
    return [(normal(100 * seed + i, T, C, H, W), labels[kind](i)) for i in range(count)]


def batch(kind, count=7, seed=0):
    data = labelled(kind, count, seed)
    return torch.stack([clip for clip, _ in data]), torch.tensor([label for _, label in data])


THEIRS = {
    "classification": F.cross_entropy,
    "multi-label": F.binary_cross_entropy_with_logits,
    "regression": F.mse_loss,
}


@pytest.mark.parametrize("task", TASKS)
@given(seed=seeds)
def test_sum_over_count_is_torchs_mean_loss(task, seed):
    model, (clips, labels) = Tiny(seed), batch(task, seed=seed)
    summed, count = objective_of(task).loss(model, clips, labels, None)
    torch.testing.assert_close(summed / count, THEIRS[task](model(clips), labels))
    want = torch.autograd.grad(THEIRS[task](model(clips), labels), list(model.parameters()))
    got = torch.autograd.grad(summed / count, list(model.parameters()))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("task", TASKS)
@given(cut=st.integers(1, 6), seed=seeds)
def test_sums_and_counts_of_parts_are_those_of_the_whole(task, cut, seed):
    model, (clips, labels) = Tiny(seed), batch(task, seed=seed)
    objective = objective_of(task)
    whole, parts = objective.loss(model, clips, labels, None), []
    for part in (slice(None, cut), slice(cut, None)):
        parts.append(objective.loss(model, clips[part], labels[part], None))
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole[0])
    assert parts[0][1] + parts[1][1] == whole[1]


def test_unknown_labels_count_nowhere():
    model, (clips, labels) = Tiny(), batch("classification")
    known = torch.tensor([True, False, True, True, False, True, True])
    summed, count = Classification(0.1).loss(model, clips, labels.masked_fill(~known, -100), None)
    torch.testing.assert_close(summed, Classification(0.1).loss(model, clips[known], labels[known], None)[0])
    assert count == 5


def test_clips_of_unknown_label_are_not_counted_as_wrong_answers():
    model, (clips, labels) = Tiny(), batch("classification")
    known = torch.tensor([True, False, True, True, False, True, True])
    found = Classification().measure(model, list(zip(clips, labels.masked_fill(~known, -100).tolist(), strict=True)))
    expected = Classification().measure(model, list(zip(clips[known], labels[known].tolist(), strict=True)))
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_label_smoothing_is_torchs_and_only_for_training(smoothing):
    model, (clips, labels) = Tiny(), batch("classification")
    objective = objective_of("classification", label_smoothing=smoothing)
    want = F.cross_entropy(model(clips), labels, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(objective.loss(model, clips, labels, None)[0], want)
    found = objective.measure(model, labelled("classification"))["validation_loss"]
    assert found == pytest.approx(F.cross_entropy(model(clips), labels).item(), rel=1e-5)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_mode_and_does_not_depend_on_the_batch_size(task, training):
    model = Tiny().train(training)
    objective = objective_of(task)
    found = objective.measure(model, labelled(task), batch_size=3)
    assert found == pytest.approx(objective.measure(model, labelled(task)), rel=1e-5)
    assert model.training is training and isinstance(objective, Objective)
    clips, labels = batch(task)
    assert found["validation_loss"] == pytest.approx(THEIRS[task](model(clips), labels).item(), rel=1e-5)
    assert all(name.startswith("validation_") for name in found)


def fixed(outputs):
    """A model that puts out these rows for the clips 0, 1, 2, ..., which hold their own number."""
    model = nn.Module()
    model.forward = lambda clips: torch.tensor(outputs)[clips[:, 0, 0, 0, 0].long()]
    return model


def numbered(labels):
    return [(torch.full((1, 1, 1, 1), float(i)), label) for i, label in enumerate(labels)]


def test_accuracy_of_classes_worked_by_hand():
    model = fixed([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
    assert Classification().measure(model, numbered([1, 0, 0]))["validation_accuracy"] == pytest.approx(2 / 3)


def test_multi_label_figures_worked_by_hand():
    model = fixed([[1.0, -1.0], [2.0, 3.0], [-1.0, -2.0]])
    found = MultiLabel().measure(model, numbered([(1, 0), (1, 0), (0, 1)]))
    assert found["validation_accuracy"] == pytest.approx(4 / 6)
    assert found["validation_exact_match"] == pytest.approx(1 / 3)


def test_regression_figures_worked_by_hand():
    found = Regression().measure(fixed([[1.0], [2.0], [4.0]]), numbered([0.0, 2.0, 1.0]))
    assert found == {"validation_loss": pytest.approx(10 / 3), "validation_absolute_error": pytest.approx(4 / 3)}


def test_one_number_a_clip_is_compared_with_its_own_clip_only():
    model, clips = Tiny(outputs=1), batch("classification")[0]
    summed, count = Regression().loss(model, clips, torch.arange(7.0), None)
    torch.testing.assert_close(summed, (model(clips)[:, 0] - torch.arange(7.0)).square().sum())
    assert count == 7


def test_wrong_numbers_of_labels_are_errors_with_the_numbers(unchecked):
    clips = batch("classification")[0]
    with pytest.raises(ShapeError, match=r"labels: shape \(7, 3\), expected \(7, 4\).*replace_head\(model, 3\)"):
        Regression().loss(Tiny(), clips, torch.zeros(7, 3), None)
    with pytest.raises(ShapeError, match=r"7, 4.*7, 3|7, 3.*7, 4"):
        MultiLabel().loss(Tiny(), clips, torch.zeros(7, 3), None)
    with pytest.raises(ValueError, match="data: 0 clips, expected at least 1"):
        respond(Tiny(), [])


def test_outputs_come_in_the_order_of_the_data_and_batches_are_counted():
    model, seen = Tiny(), []
    outputs, labels = respond(model, labelled("classification"), batch_size=3, on_batch=seen.append)
    clips, want = batch("classification")
    torch.testing.assert_close(outputs, model(clips))
    assert torch.equal(labels, want) and seen == [3, 3, 1] and not outputs.requires_grad


def test_a_mode_is_given_back_after_an_error_too():
    model = Tiny().train()
    with pytest.raises(RuntimeError):
        respond(model, [(torch.zeros(1, 1, 1, 1), 0)])
    assert model.training


# ---- tasks and heads


def test_a_task_chooses_its_objective():
    assert objective_of("classification", label_smoothing=0.2) == Classification(0.2)
    assert objective_of("multi-label") == MultiLabel() and objective_of("regression") == Regression()
    with pytest.raises(ValueError, match="task: 'ranking' is none of 'classification', 'multi-label', 'regression'"):
        objective_of("ranking")
    with pytest.raises(ValueError, match="'regression' does not take label_smoothing"):
        objective_of("regression", label_smoothing=0.1)


def test_a_new_head_changes_nothing_else():
    model = ViViT(replace(SMALL, num_labels=3, initializer_range=0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    head = replace_head(model.eval(), 200)
    assert head is model.classifier and model.config.num_labels == 200
    assert model(*model.example_inputs(2)).shape == (2, 200) and not model.classifier.training
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name]) for name in before if not name.startswith("classifier"))
    # 2400 normal numbers: their deviation is 0.5 to within 5 standard errors of 0.5 / sqrt(4800).
    assert after["classifier.weight"].std().item() == pytest.approx(0.5, abs=0.04)
    assert not after["classifier.bias"].any()


def test_a_new_head_keeps_number_type_and_mode():
    model = Tiny().double().train()
    head = replace_head(model, 2)
    assert head.weight.dtype == torch.float64 and head.training and head.in_features == T * C * H * W
    model.classifier = nn.Linear(5, 3, bias=False)
    assert replace_head(model, 2).bias is None
    bare = nn.Module()
    bare.classifier = nn.Linear(400, 2)
    assert replace_head(bare, 50).weight.std().item() == pytest.approx(0.02, rel=0.03)  # 20000 numbers


def test_a_model_without_a_head_is_refused_by_name():
    with pytest.raises(ValueError, match="ReLU: no `classifier`, expected an nn.Linear"):
        replace_head(nn.ReLU(), 3)
    odd = nn.Module()
    odd.classifier = nn.Sequential()
    with pytest.raises(ValueError, match="Module: a `classifier` of kind Sequential"):
        replace_head(odd, 3)
    with pytest.raises(ValueError, match="num_labels=0 is not at least 1"):
        replace_head(Tiny(), 0)


# ---- clips without labels

BOXES = (2, 4, 4)  # of SMALL: 2 x 2 x 2 of them


def generators(count, seed=0):
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(count)]


def clips_of(count=5, seed=0, t=4, side=8):
    return normal(seed, count, t, 3, side, side)


def unlabelled(count=5, seed=0):
    return [(clip, 0) for clip in clips_of(count, seed)]


def wide_view(clip, generator):
    """Moves a clip by whole rows."""
    return clip.roll(int(torch.randint(8, (), generator=generator)), -2)


PRETEXTS = {
    "masked": MaskedTubelets(BOXES, 0.5),
    "order": FrameOrder(2),
    "similarity": FrameSimilarity(wide_view, width=6),
    "reversals": FrameSimilarity(wide_view, width=6, reversals=True),
}


@given(gt=st.integers(1, 4), gh=st.integers(1, 5), gw=st.integers(2, 5), share=st.floats(0.01, 0.99), seed=seeds)
def test_tube_mask_hides_the_share_at_the_same_places_in_every_moment(gt, gh, gw, share, seed):
    tubes = tube_mask(Grid(gt, gh, gw), share, generators(3, seed)).view(3, gt, gh * gw)
    hidden = min(max(1, round(share * (gh * gw))), gh * gw - 1)
    assert torch.equal(tubes.sum(-1), torch.full((3, gt), hidden))
    assert torch.equal(tubes, tubes[:, :1].expand_as(tubes))


def test_tube_mask_hides_every_place_equally_often():
    often = tube_mask(Grid(1, 2, 4), 0.25, generators(800)).double().mean(0)
    # A share of 800 clips has a standard error of sqrt(0.25 x 0.75 / 800) = 0.015; five of them, for 8 places.
    torch.testing.assert_close(often, torch.full((8,), 0.25, dtype=torch.float64), atol=0.08, rtol=0.0)


def test_the_mask_of_a_clip_follows_from_its_own_generator_alone():
    whole = tube_mask(Grid(2, 3, 5), 0.4, generators(5))
    assert torch.equal(tube_mask(Grid(2, 3, 5), 0.4, generators(5)[3:]), whole[3:])
    assert not torch.equal(whole[0], whole[1])


def pretrainer(name, model=None):
    torch.manual_seed(1)
    return PRETEXTS[name].pretrainer(model or ViViT(replace(SMALL, initializer_range=0.3)))


@given(seed=seeds)
def test_the_masked_loss_is_the_mean_squared_error_of_hidden_boxes(seed):
    model, objective, clips = pretrainer("masked"), PRETEXTS["masked"], clips_of(3, seed)
    mask = tube_mask(Grid(2, 2, 2), 0.5, generators(3, seed))
    summed, count = objective.loss(model, clips, None, generators(3, seed))
    boxes = clips.view(3, 2, 2, 3, 2, 4, 2, 4).permute(0, 1, 4, 6, 3, 2, 5, 7).reshape(3, 8, -1)  # b gt gh gw c tau p p
    boxes = (boxes - boxes.mean(-1, keepdim=True)) / (boxes.std(-1, keepdim=True) + 1e-3)
    assert count == 3 * 4 * 96
    torch.testing.assert_close(summed / count, F.mse_loss(model(clips, mask).flatten(0, 1), boxes[mask]))


@pytest.mark.parametrize("attention_type", ["joint", "factorised_encoder", "factorised_self_attention"])
def test_hidden_boxes_are_not_seen_and_shown_boxes_are_not_judged(attention_type):
    temporal = 1 if attention_type == "factorised_encoder" else 0
    config = replace(SMALL, initializer_range=0.3, attention_type=attention_type, num_temporal_layers=temporal)
    model = pretrainer("masked", ViViT(config))
    clips, mask = clips_of(2), tube_mask(Grid(2, 2, 2), 0.5, generators(2))
    pixels = mask.view(2, 2, 1, 1, 2, 1, 2, 1).expand(2, 2, 2, 3, 2, 4, 2, 4).reshape_as(clips)  # hidden, by pixel
    drawn = model(clips, mask)
    torch.testing.assert_close(model(torch.where(pixels, -clips, clips), mask), drawn)
    assert not torch.allclose(model(torch.where(pixels, clips, -clips), mask), drawn)
    targets = PRETEXTS["masked"].targets
    torch.testing.assert_close(targets(torch.where(pixels, clips, -clips))[mask], targets(clips)[mask])


def test_targets_are_normalised_box_by_box_and_an_even_box_is_zero():
    clips = clips_of(2)
    targets = PRETEXTS["masked"].targets(3.0 * clips + 5.0)
    torch.testing.assert_close(targets.mean(-1), torch.zeros(2, 8), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(targets.std(-1), torch.ones(2, 8), atol=2e-3, rtol=0.0)  # 1e-3 is added to 3
    assert not PRETEXTS["masked"].targets(torch.full((1, 4, 3, 8, 8), 0.5)).any()


@pytest.mark.parametrize("segments", [2, 4])
def test_order_labels_are_uniform_and_name_the_order(segments):
    objective = FrameOrder(segments)
    orders = list(permutations(range(segments)))
    clips = torch.arange(8.0).view(1, 8, 1, 1, 1).expand(200 * len(orders), 8, 1, 1, 1)  # a frame holds its number
    shuffled, drawn = objective.shuffle(clips, generators(len(clips)))
    length = 8 // segments
    for frames, order in zip(shuffled.flatten(1).tolist(), drawn.tolist(), strict=True):
        assert frames == [length * part + i for part in orders[order] for i in range(length)]
    counts = torch.bincount(drawn, minlength=len(orders)).double()
    # Chi-square over the orders: mean segments! - 1, variance twice that; five deviations.
    chi = ((counts - 200) ** 2 / 200).sum().item()
    free = len(orders) - 1
    assert abs(chi - free) < 5 * (2 * free) ** 0.5


def test_the_first_order_moves_nothing_and_each_clip_follows_its_own_generator():
    objective, clips = FrameOrder(4), clips_of(40)
    shuffled, drawn = objective.shuffle(clips, generators(40))
    kept = drawn == 0
    assert kept.any() and torch.equal(shuffled[kept], clips[kept])
    tail, orders = objective.shuffle(clips[33:], generators(40)[33:])
    assert torch.equal(tail, shuffled[33:]) and torch.equal(orders, drawn[33:])


def test_the_order_loss_is_torchs_cross_entropy_of_the_shuffled_clips():
    model, objective, clips = pretrainer("order"), PRETEXTS["order"], clips_of()
    shuffled, drawn = objective.shuffle(clips, generators(5))
    summed, count = objective.loss(model, clips, None, generators(5))
    torch.testing.assert_close(summed / count, F.cross_entropy(model(shuffled), drawn))
    assert count == 5
    found = objective.measure(model, unlabelled())
    shuffled, drawn = objective.shuffle(clips, [torch.Generator().manual_seed(i) for i in range(5)])
    assert found["validation_accuracy"] == pytest.approx((model(shuffled).argmax(1) == drawn).double().mean().item())
    assert found["validation_loss"] == pytest.approx(F.cross_entropy(model(shuffled), drawn).item(), rel=1e-5)


@pytest.mark.law("similarity_loss")
@given(b=st.integers(1, 5), d=st.integers(1, 4), temperature=st.floats(0.1, 2.0), seed=seeds)
def test_similarity_loss_equals_torchs_in_both_directions(impl, b, d, temperature, seed):
    """Cross-entropy of the cosines / temperature with the diagonal as the right answer, by rows and by columns."""
    first, second = normal(seed, b, d), normal(seed + 1, b, d)
    scores = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T / temperature
    want = F.cross_entropy(scores, torch.arange(b), reduction="sum")
    want = want + F.cross_entropy(scores.T, torch.arange(b), reduction="sum")
    got = impl.similarity_loss(first, second, temperature)
    agree(got, want, "the loss is another", first=first, second=second, temperature=temperature)


@pytest.mark.law("similarity_loss")
@given(b=st.integers(1, 5), d=st.integers(1, 4), seed=seeds)
def test_similarity_loss_is_symmetric_and_does_not_know_order_or_length(impl, b, d, seed):
    """Exchanging the sides, giving the pairs in another order, or longer vectors, changes nothing."""
    first, second = normal(seed, b, d), normal(seed + 1, b, d)
    want = impl.similarity_loss(first, second, 0.5)
    case = {"first": first, "second": second}
    agree(impl.similarity_loss(second, first, 0.5), want, "the sides are not treated alike", **case)
    agree(impl.similarity_loss(first.flip(0), second.flip(0), 0.5), want, "the order of the pairs counts", **case)
    agree(impl.similarity_loss(3.0 * first, 0.5 * second, 0.5), want, "the length of the vectors counts", **case)


@pytest.mark.law("similarity_loss")
@given(b=st.integers(1, 6))
def test_similarity_loss_of_vectors_that_are_all_alike_is_log_b(impl, b):
    """Who cannot tell b clips apart pays log b for each of the 2 b choices; who is sure pays next to nothing."""
    alike = torch.ones(b, 3)
    want = 2 * b * torch.tensor(float(b)).log()
    agree(impl.similarity_loss(alike, alike, 0.1), want, "guessing does not cost log b", b=b)
    agree(impl.similarity_loss(torch.eye(b), torch.eye(b), 0.02), torch.tensor(0.0), "being sure is not free", b=b)


@pytest.mark.parametrize("reversals", [False, True])
def test_a_clip_played_backwards_takes_part_as_another_clip_where_asked(reversals):
    objective = FrameSimilarity(wide_view, temperature=0.3, width=6, reversals=reversals)
    model, clips = pretrainer("similarity"), clips_of(4)
    first, second = FrameSimilarity(wide_view).views(clips, generators(4)).chunk(2)
    if reversals:
        first, second = torch.cat([first, first.flip(1)]), torch.cat([second, second.flip(1)])
    assert torch.equal(objective.views(clips, generators(4)), torch.cat([first, second]))
    scores = F.normalize(model(first), dim=-1) @ F.normalize(model(second), dim=-1).T / 0.3
    summed, count = objective.loss(model, clips, None, generators(4))
    want = F.cross_entropy(scores, torch.arange(len(first))) + F.cross_entropy(scores.T, torch.arange(len(first)))
    torch.testing.assert_close(summed / count, want / 2)
    assert count == (16 if reversals else 8)


def test_the_two_views_of_a_clip_differ_and_follow_its_own_generator():
    objective, clips = PRETEXTS["similarity"], clips_of(6)
    first, second = objective.views(clips, generators(6)).split(6)
    assert not torch.equal(first, second)
    again = objective.views(clips[4:], generators(6)[4:])
    assert torch.equal(again, torch.cat([first[4:], second[4:]]))


MODELS = {
    "ViViT": lambda: ViViT(SMALL),
    "Conv3dClassifier": lambda: Conv3dClassifier(SMALL_3D),
    "ConvLSTM": lambda: ConvLSTM(SMALL_LSTM),
}


@pytest.mark.parametrize("name", PRETEXTS)
@pytest.mark.parametrize("family", MODELS)
def test_the_gradient_reaches_every_weight_but_the_task_head(name, family):
    if name == "masked" and family != "ViViT":
        pytest.skip("boxes are hidden from models that read boxes")
    model = MODELS[family]()
    whole = pretrainer(name, model)
    summed, count = PRETEXTS[name].loss(whole, clips_of(4), None, generators(4))
    (summed / count).backward()
    still = {name for name, weight in whole.named_parameters() if weight.grad is None or not weight.grad.any()}
    # Adding one number to all scores of a row changes no softmax, so key biases have gradient 0 but for rounding.
    assert {name for name in still if "k_proj.bias" not in name} <= {"model.classifier.weight", "model.classifier.bias"}
    assert whole.model is model


@pytest.mark.parametrize("name", PRETEXTS)
def test_pretext_losses_of_parts_add_up_where_clips_do_not_see_each_other(name):
    whole, objective, clips = pretrainer(name), PRETEXTS[name], clips_of(6)
    summed, count = objective.loss(whole, clips, None, generators(6))
    parts = [objective.loss(whole, clips[at], None, generators(6)[at]) for at in (slice(0, 2), slice(2, None))]
    assert parts[0][1] + parts[1][1] == count
    same = torch.allclose(parts[0][0] + parts[1][0], summed, rtol=1e-5)
    assert same == (name in ("masked", "order"))


@pytest.mark.parametrize("name", PRETEXTS)
def test_measuring_without_labels_is_the_same_every_time(name):
    whole, objective = pretrainer(name).train(), PRETEXTS[name]
    found = objective.measure(whole, unlabelled())
    torch.rand(3)
    assert objective.measure(whole, unlabelled()) == found and whole.training
    assert isinstance(objective, Objective) and "validation_loss" in found
    if name in ("masked", "order"):
        assert objective.measure(whole, unlabelled(), batch_size=2) == pytest.approx(found, rel=1e-5)
    with pytest.raises(ValueError, match="data: 0 clips"):
        objective.measure(whole, [])


@pytest.mark.parametrize("name", PRETEXTS)
def test_one_batch_of_unlabelled_clips_is_learnt(name):
    whole, objective, clips = pretrainer(name), PRETEXTS[name], clips_of(4)
    optimizer = torch.optim.Adam(whole.parameters(), lr=3e-3)
    losses = []
    for _ in range(120 if name == "masked" else 40):
        summed, count = objective.loss(whole, clips, None, generators(4))
        optimizer.zero_grad()
        (summed / count).backward()
        optimizer.step()
        losses.append((summed / count).item())
    assert losses[-1] < 0.5 * losses[0]


def test_pretext_errors_name_the_numbers(unchecked):
    with pytest.raises(ValueError, match="share=1.0 and decoder_layers=1"):
        MaskedTubelets(share=1.0)
    with pytest.raises(ValueError, match="share=0.5 and decoder_layers=0"):
        MaskedTubelets(share=0.5, decoder_layers=0)
    with pytest.raises(ValueError, match=r"tubelet_size \(2, 16, 16\) is not the model's, \(2, 4, 4\)"):
        MaskedTubelets().pretrainer(ViViT(SMALL))
    with pytest.raises(ValueError, match="1 x 1 places, expected at least 2"):
        tube_mask(Grid(3, 1, 1), 0.5, generators(1))
    for segments in (1, 6):
        with pytest.raises(ValueError, match=f"segments={segments} is not from 2 to 5"):
            FrameOrder(segments)
    with pytest.raises(ShapeError, match="clips: t=4 is not a multiple of segments=3"):
        FrameOrder(3).shuffle(clips_of(), generators(5))
    with pytest.raises(ValueError, match="temperature=0.0 and width=32"):
        FrameSimilarity(wide_view, temperature=0.0)
    with pytest.raises(ValueError, match="width=0"):
        FrameSimilarity(wide_view, width=0)
