"""Generation: what changes the logits does what it says, and the loop gives what reading everything anew would give."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from benchmarks.side_by_side import let_torchvision_load
from hypothesis import given
from hypothesis import strategies as st
from strategies import masks, normal, seeds, small, whole
from torch import Tensor, nn

from minivid.classroom.evidence import agree, holds
from minivid.layers.attention import MultiHeadAttention, causal_mask, softmax
from minivid.layers.kv_cache import KVCache
from minivid.layers.positions import rotary_angles
from minivid.models import generate as library
from minivid.models.generate import (
    Sampling,
    draw,
    emit,
    generate,
    min_p,
    presence_penalty,
    repetition_penalty,
    seen_ids,
    top_k,
    top_p,
)
from minivid.models.qwen3_vl import SMALL_CONFIG, Qwen3VL
from minivid.shapes import ShapeError

# Made by the logits processors of transformers; null = removed, and top_k 0, top_p 1, min_p 0 = off.
PUBLISHED = json.loads((Path(__file__).parents[1] / "data" / "sampling.json").read_text(encoding="utf-8"))["cases"]
AXES = "b v"


# ---- seen_ids


@st.composite
def prompts(draw):
    """Ids b n, a mask of padding, and the size of the vocabulary."""
    b, n, v = draw(small), draw(st.integers(1, 5)), draw(st.integers(1, 6))
    return draw(whole(b, n, low=0, high=v - 1, dtype=torch.int64)), draw(masks(b, n)), v


@pytest.mark.law("seen_ids")
@given(prompts())
def test_seen_are_the_ids_that_stand_in_the_row(impl, case):
    """An entry of the vocabulary is marked in a row if its id stands there, once or several times, and only then."""
    ids, _, v = case
    want = torch.tensor([[entry in row for entry in range(v)] for row in ids.tolist()])
    got = impl.seen_ids(ids, v)
    holds(isinstance(got, Tensor) and got.dtype == torch.bool, "the marks are not a boolean tensor", ids=ids)
    agree(got, want, "other entries are marked", axes=AXES, ids=ids)


@pytest.mark.law("seen_ids")
@given(prompts())
def test_padding_is_not_seen(impl, case):
    """Padding marks nothing, even where the same id is a token elsewhere in the row, which marks it."""
    ids, mask, v = case
    want = torch.zeros(len(ids), v, dtype=torch.bool)
    for row, place in mask.nonzero().tolist():
        want[row, ids[row, place]] = True
    for form in (mask, mask.long()):
        agree(impl.seen_ids(ids, v, form), want, "other entries are marked", axes=AXES, ids=ids, mask=mask)


# ---- the two penalties


@st.composite
def logits_and_marks(draw):
    """Whole numbers b v, and marks of the same shape."""
    b, v = draw(small), draw(st.integers(1, 6))
    return draw(whole(b, v)), draw(masks(b, v))


@pytest.mark.law("repetition_penalty")
@given(logits_and_marks(), st.sampled_from([0.5, 1.0, 2.0, 4.0]))
def test_repetition_divides_positive_logits_and_multiplies_negative_ones(impl, case, penalty):
    """Where an id was seen, a logit of at least 0 is divided by the penalty and a negative one multiplied by it."""
    logits, seen = case
    want = [
        [(x / penalty if x >= 0 else x * penalty) if mark else x for x, mark in zip(row, marks, strict=True)]
        for row, marks in zip(logits.tolist(), seen.tolist(), strict=True)
    ]
    got = impl.repetition_penalty(logits, seen, penalty)
    agree(got, torch.tensor(want), "other logits", axes=AXES, logits=logits, seen=seen, penalty=penalty)


@pytest.mark.law("repetition_penalty")
@given(logits_and_marks(), st.sampled_from([1.5, 2.0]))
def test_what_was_seen_never_becomes_more_likely(impl, case, penalty):
    """With a penalty above 1 no logit rises, and those of ids that were not seen stay."""
    logits, seen = case
    got = impl.repetition_penalty(logits, seen, penalty)
    holds(bool((got <= logits).all()), "a logit has risen", logits=logits, seen=seen, penalty=penalty, got=got)
    holds(torch.equal(got[~seen], logits[~seen]), "what was not seen changes", logits=logits, seen=seen, got=got)


@pytest.mark.law("presence_penalty")
@given(logits_and_marks(), st.sampled_from([-1.0, 0.0, 0.5, 2.0]))
def test_presence_lowers_what_came_out_by_the_penalty(impl, case, penalty):
    """Where an id came out, its logit is lower by the penalty; the others stay."""
    logits, generated = case
    want = logits - penalty * generated
    got = impl.presence_penalty(logits, generated, penalty)
    agree(got, want, "other logits", axes=AXES, logits=logits, generated=generated, penalty=penalty)


# ---- which entries are kept


@pytest.mark.law("top_k")
@given(logits_and_marks(), st.integers(1, 7))
def test_top_k_keeps_what_fewer_than_k_are_better_than(impl, case, k):
    """An entry keeps its logit if fewer than k of its row have a higher one, ties included; the others get -inf."""
    logits, _ = case
    better = (logits[:, None, :] > logits[:, :, None]).sum(-1)
    want = torch.where(better < k, logits, -math.inf)
    agree(impl.top_k(logits, k), want, "other entries are kept", axes=AXES, logits=logits, k=k)


@st.composite
def ranked(draw):
    """Weights that are different whole numbers, each row in another order; how many to keep; the rows' sum."""
    v, b = draw(st.integers(1, 6)), draw(small)
    values = draw(st.lists(st.integers(1, 12), min_size=v, max_size=v, unique=True))
    rows = [draw(st.permutations(values)) for _ in range(b)]
    return torch.tensor(rows, dtype=torch.float32), draw(st.integers(1, v)), sum(values)


def share(weights: Tensor, kept: int) -> float:
    """A probability that the best `kept` of a row's whole weights reach, and fewer do not."""
    return (sum(sorted(weights[0].tolist())[-kept:]) - 0.5) / weights[0].sum().item()


@pytest.mark.law("top_p")
@given(ranked())
def test_top_p_keeps_the_fewest_that_reach_p(impl, case):
    """From the most probable on, entries keep their logits until they hold p together, the one that reaches it too."""
    weights, kept, _ = case
    logits, p = weights.log(), share(weights, kept)
    rank = (weights[:, None, :] > weights[:, :, None]).sum(-1)
    want = torch.where(rank < kept, logits, -math.inf)
    claim = "other entries are kept"
    agree(impl.top_p(logits, p), want, claim, axes=AXES, probabilities=softmax(logits), p=p, logits=logits)


@pytest.mark.law("top_p")
@given(ranked(), st.integers(1, 3))
def test_top_p_counts_nothing_that_is_out_of_question(impl, case, places):
    """Entries of -inf, which an earlier step removed, change nothing about the others."""
    weights, kept, _ = case
    logits, p = weights.log(), share(weights, kept)
    gone = torch.full((len(logits), places), -math.inf)
    want = torch.cat([gone, impl.top_p(logits, p), gone], 1)
    agree(impl.top_p(torch.cat([gone, logits, gone], 1), p), want, "-inf beside them matters", axes=AXES, p=p)


@pytest.mark.law("top_p")
@given(logits_and_marks(), st.sampled_from([1e-9, 1e-6, 1.0]))
def test_top_p_keeps_at_least_one_and_at_most_all(impl, case, p):
    """With p near 0 one entry of each row stays, one of the best; with p = 1 all stay."""
    logits, _ = case
    got = impl.top_p(logits, p)
    if p == 1:
        agree(got, logits, "p = 1 changes something", axes=AXES, logits=logits)
    else:
        holds((got > -math.inf).sum(-1).tolist() == [1] * len(got), "not one entry is left", logits=logits, got=got)
        agree(got.amax(-1), logits.amax(-1), "what is left is not the best", axes="b", logits=logits)


@pytest.mark.law("min_p")
@given(ranked(), st.data())
def test_min_p_keeps_what_is_a_share_of_the_best(impl, case, data):
    """An entry keeps its logit if its probability is at least p times that of the most probable one of its row."""
    weights, _, total = case
    largest = int(weights.max())
    p = data.draw(st.integers(0, largest - 1)) + 0.5
    logits = weights.log() + 3 * torch.arange(len(weights))[:, None]  # a number for all of a row changes nothing
    want = torch.where(weights >= p, logits, -math.inf)
    claim = "other entries are kept"
    agree(impl.min_p(logits, p / largest), want, claim, axes=AXES, probabilities=weights / total, p=p / largest)


# ---- the choice


@st.composite
def lots(draw):
    """Whole weights b v with at least one above 0 in each row, and a mark for each row as (odd number) / (2 sum)."""
    b, v = draw(small), draw(st.integers(1, 5))
    weights = draw(whole(b, v, low=0, high=3))
    weights[torch.arange(b), draw(whole(b, low=0, high=v - 1, dtype=torch.int64))] += 1
    marks = [draw(st.integers(0, int(row.sum()) - 1)) for row in weights]
    return weights, torch.tensor(marks, dtype=torch.float64)


@pytest.mark.law("draw")
@given(lots())
def test_draw_finds_the_entry_under_the_mark(impl, case):
    """A row's entries lie side by side from 0 on, each as long as its weight: the one under dice x sum is drawn."""
    weights, marks = case
    want = [
        [entry for entry, weight in enumerate(row) for _ in range(int(weight))][int(mark)]
        for row, mark in zip(weights.tolist(), marks.tolist(), strict=True)
    ]
    dice = (marks + 0.5) / weights.sum(-1)
    agree(impl.draw(weights, dice), torch.tensor(want), "another entry is drawn", axes="b", weights=weights, dice=dice)


@pytest.mark.law("draw")
@given(lots())
def test_draw_never_gives_an_entry_of_weight_zero(impl, case):
    """The smallest mark draws the first entry of weight above 0, and the mark 1 the last."""
    weights, _ = case
    rows = [[entry for entry, weight in enumerate(row) if weight > 0] for row in weights.tolist()]
    for mark, want in ((1e-9, [row[0] for row in rows]), (1.0, [row[-1] for row in rows])):
        dice = torch.full((len(weights),), mark, dtype=torch.float64)
        got = impl.draw(weights, dice)
        agree(got, torch.tensor(want), "another entry is drawn", axes="b", weights=weights, dice=dice)


@st.composite
def rows_on_the_way(draw):
    """Chosen ids b, which rows are finished, stop ids and the padding's."""
    b = draw(small)
    stops = draw(st.lists(st.integers(0, 5), max_size=3, unique=True))
    chosen = draw(whole(b, low=0, high=5, dtype=torch.int64))
    return chosen, draw(masks(b)), torch.tensor(stops, dtype=torch.int64), draw(st.integers(0, 5))


def emitted(impl, case) -> tuple[Tensor, Tensor]:
    """What emit gives back, a pair of tensors."""
    pair = impl.emit(*case)
    two = isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(x, Tensor) for x in pair)
    holds(two, "emit returns (ids, finished), a tuple of two tensors", case=case)
    return pair


@pytest.mark.law("emit")
@given(rows_on_the_way())
def test_a_finished_row_gives_out_padding(impl, case):
    """Rows that were finished before give out padding; the others what was chosen, a stop token too."""
    chosen, finished, stops, pad = case
    want = [pad if done else token for token, done in zip(chosen.tolist(), finished.tolist(), strict=True)]
    case_ = dict(chosen=chosen, finished=finished, stop_ids=stops, pad_token_id=pad)
    agree(emitted(impl, case)[0], torch.tensor(want), "other ids come out", axes="b", **case_)


@pytest.mark.law("emit")
@given(rows_on_the_way())
def test_any_stop_token_finishes_a_row_for_good(impl, case):
    """A row is finished if it was so before, or if one of the stop tokens was chosen."""
    chosen, finished, stops, pad = case
    ends = [token in stops.tolist() for token in chosen.tolist()]
    got = emitted(impl, case)[1]
    holds(got.dtype == torch.bool, f"finished is of {got.dtype}, not boolean", chosen=chosen)
    case_ = dict(chosen=chosen, finished=finished, stop_ids=stops, pad_token_id=pad)
    agree(got, finished | torch.tensor(ends), "other rows are finished", axes="b", **case_)


settings_of_sampling = st.fixed_dictionaries(
    {
        "repetition_penalty": st.sampled_from([1.0, 1.7]),
        "presence_penalty": st.sampled_from([0.0, 0.8]),
        "temperature": st.sampled_from([0.4, 1.0, 2.5]),
        "top_k": st.sampled_from([None, 2, 4]),
        "top_p": st.sampled_from([None, 0.6, 0.9]),
        "min_p": st.sampled_from([None, 0.15, 0.5]),
    }
)


@pytest.mark.law("Sampling")
@given(settings_of_sampling, seeds)
def test_the_steps_are_made_in_their_order(impl, settings, seed):
    """Repetition, presence, temperature, top_k, top_p, min_p: each step works on what the one before has left."""
    logits, seen, generated = 3 * normal(seed, 3, 7), normal(seed + 1, 3, 7) > 0, normal(seed + 2, 3, 7) > 0.5
    got = impl.Sampling(**settings).scores(logits, seen, generated)
    want = library.repetition_penalty(logits, seen, settings["repetition_penalty"])
    want = library.presence_penalty(want, generated, settings["presence_penalty"]) / settings["temperature"]
    for name in ("top_k", "top_p", "min_p"):
        if settings[name] is not None:
            want = getattr(library, name)(want, settings[name])
    agree(got, want, f"the steps {settings} give others", axes=AXES, logits=logits, seen=seen, generated=generated)


@pytest.mark.law("Sampling")
@given(settings_of_sampling, seeds)
def test_at_temperature_0_the_best_is_chosen(impl, settings, seed):
    """With temperature 0 the entry with the highest score after the penalties is chosen, whatever is kept."""
    logits, seen, generated = 3 * normal(seed, 3, 7), normal(seed + 1, 3, 7) > 0, normal(seed + 2, 3, 7) > 0.5
    got = impl.Sampling(**{**settings, "temperature": 0.0}).choose(logits, seen, generated)
    lowered = library.repetition_penalty(logits, seen, settings["repetition_penalty"])
    want = library.presence_penalty(lowered, generated, settings["presence_penalty"]).argmax(-1)
    agree(got, want, "another entry is chosen", axes="b", logits=logits, seen=seen, generated=generated)


# ---- what a law cannot ask of them


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case["id"])
def test_scores_are_those_of_the_published_library(case):
    logits, history = torch.tensor(case["logits"]), torch.tensor(case["history"])
    sampling = Sampling(
        repetition_penalty=case["repetition_penalty"],
        temperature=case["temperature"],
        top_k=case["top_k"] or None,
        top_p=case["top_p"],
        min_p=case["min_p"],
    )
    seen = seen_ids(history, logits.shape[1])
    got = sampling.scores(logits, seen, torch.zeros_like(seen))
    want = torch.tensor([[-math.inf if x is None else x for x in row] for row in case["out"]])
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(softmax(got), torch.tensor(case["probs"]), atol=1e-6, rtol=1e-5)


@pytest.mark.parity
def test_scores_are_those_of_the_installed_library():
    let_torchvision_load()
    peer = pytest.importorskip("transformers")
    for seed in range(200):
        v, ties = 2 + seed % 61, seed % 3 == 0
        logits, history = 4 * normal(seed, 3, v), (normal(seed + 1, 3, 5).abs() * v / 3).long() % v
        logits = (logits.round() / 2) if ties else logits
        r, t, k, m = 1 + seed % 4 / 2, 0.3 + seed % 5 / 2, 1 + seed % 7, seed % 6 / 10
        p = 1.0 if ties else 0.2 + seed % 4 / 4  # which of equal ones at its border stay is the sorting's business
        steps = [
            peer.RepetitionPenaltyLogitsProcessor(r),
            peer.TemperatureLogitsWarper(t),
            *([peer.TopKLogitsWarper(k)] if seed % 2 else []),
            *([peer.TopPLogitsWarper(p)] if p < 1 else []),
            peer.MinPLogitsWarper(m),
        ]
        want = logits.clone()
        for step in steps:
            want = step(history, want)
        seen = seen_ids(history, v)
        sampling = Sampling(r, 0.0, t, k if seed % 2 else None, p, m)
        got = sampling.scores(logits, seen, torch.zeros_like(seen))
        torch.testing.assert_close(got, want, msg=lambda text, seed=seed: f"seed {seed}: {text}")


def test_of_equal_entries_at_the_border_of_top_p_the_later_stay():
    logits = torch.zeros(1, 5)
    assert top_p(logits, 0.5).tolist() == [[-math.inf, -math.inf, 0, 0, 0]]
    gone = torch.full((1, 2), -math.inf)  # what was removed before is not in the way
    assert top_p(torch.cat([logits[:, :4], gone], 1), 0.5).tolist()[0][:4] == [-math.inf, -math.inf, 0, 0]


def test_rows_of_which_unequally_many_are_left_are_cut_alone():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0], [1.0, -math.inf, 1.5, -math.inf]])
    alone = torch.cat([top_p(row[None], 0.8) for row in logits])
    assert torch.equal(top_p(logits, 0.8), alone)
    assert alone.isfinite().sum(-1).tolist() == [2, 2]


def test_what_is_off_keeps_what_is_too_improbable_for_a_number():
    logits = torch.tensor([[0.0, -200.0]])  # exp(-200) is 0 in float32
    assert torch.equal(top_p(logits, 1.0), logits) and torch.equal(min_p(logits, 0.0), logits)
    assert top_p(logits, 0.999).tolist() == [[0.0, -math.inf]]


def test_nothing_is_changed_in_place():
    logits, seen = normal(0, 3, 7), normal(1, 3, 7) > 0
    before = logits.clone(), seen.clone()
    Sampling(1.3, 0.5, 0.7, 5, 0.8, 0.1).choose(logits, seen, seen)
    repetition_penalty(logits, seen, 2.0), presence_penalty(logits, seen, 2.0)
    top_k(logits, 2), top_p(logits, 0.5), min_p(logits, 0.5)
    assert torch.equal(logits, before[0]) and torch.equal(seen, before[1])


def test_without_settings_the_scores_are_the_logits():
    logits, marks = normal(0, 3, 7), torch.ones(3, 7, dtype=torch.bool)
    assert torch.equal(Sampling().scores(logits, marks, marks), logits)
    assert torch.equal(Sampling(temperature=0.0).scores(logits, marks, marks), logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scores_are_computed_in_float32_at_least(dtype):
    logits, marks = normal(0, 2, 5).to(dtype), torch.ones(2, 5, dtype=torch.bool)
    got = Sampling(1.3, 0.5, 0.7).scores(logits, marks, marks)
    want = Sampling(1.3, 0.5, 0.7).scores(logits.double(), marks, marks)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=1e-6)


def test_draws_are_as_frequent_as_probable():
    logits = torch.tensor([[2.0, -math.inf, 0.5, -1.0, 1.0]]).expand(20000, 5)
    marks = torch.zeros(20000, 5, dtype=torch.bool)
    ids = Sampling(temperature=0.8).choose(logits, marks, marks, torch.Generator().manual_seed(0))
    share_ = ids.bincount(minlength=5) / 20000
    want = softmax(logits[0] / 0.8)
    # The deviation of a share is sqrt(p (1 - p) / 20000) <= 0.0036: four of them.
    torch.testing.assert_close(share_, want, atol=0.015, rtol=0)
    assert share_[1] == 0


def test_small_weights_behind_a_large_one_are_drawn():
    weights = torch.full((1, 1000), 1e-8)
    weights[0, 0] = 1.0  # in float32, 1 + 1e-8 is 1
    ends = weights.double().cumsum(-1)[0]
    for entry in (1, 7, 500, 999):
        middle = (ends[entry - 1] + ends[entry]) / 2
        assert draw(weights, (middle / ends[-1])[None]).item() == entry


# ---- two models for the loop: one that follows a table, and one that attends


class Chain(nn.Module):
    """The next token depends on the last one alone, by a table; every call is written down.

    The second-last number tells of training: a dropped one would change the choice.
    """

    def __init__(self, table: Tensor):
        super().__init__()
        self.table = nn.Parameter(table)
        self.part = nn.Linear(1, 1)
        self.calls: list[SimpleNamespace] = []

    def make_cache(self, capacity: int = 64) -> SimpleNamespace:
        return SimpleNamespace(capacity=capacity)

    def forward(self, input_ids, *, attention_mask=None, pixel_values=None, cache=None, keep=None):
        call = dict(ids=input_ids, mask=attention_mask, pixels=pixel_values, cache=cache, keep=keep)
        state = dict(grad=torch.is_grad_enabled(), training=self.training or self.part.training)
        self.calls.append(SimpleNamespace(**call, **state))
        return self.table[input_ids[:, -keep:]]


def chain(*following: int) -> Chain:
    """A chain in which token i is followed by following[i]."""
    return Chain(3 * nn.functional.one_hot(torch.tensor(following), len(following)).float())


class Decoder(nn.Module):
    """A small language model with grouped heads, rotary positions and a cache, which may be padded on the left."""

    def __init__(self, v=19, d=12, heads=3, layers=2):
        super().__init__()
        self.embed = nn.Embedding(v, d)
        self.layers = nn.ModuleList(MultiHeadAttention(d, heads, num_kv_heads=1) for _ in range(layers))
        self.head = nn.Linear(d, v)

    def make_cache(self, capacity: int = 64) -> SimpleNamespace:
        return SimpleNamespace(layers=[KVCache(capacity) for _ in self.layers], mask=None)

    def forward(self, input_ids, *, attention_mask=None, cache=None, keep=None):
        kept = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if cache is not None:
            kept = cache.mask = kept if cache.mask is None else torch.cat([cache.mask, kept], 1)
        n, s = input_ids.shape[1], kept.shape[1]
        positions = (kept.cumsum(1) - 1).clamp_min(0)[:, -n:]
        mask = causal_mask(n, s) & kept.bool()[:, None, None, :]
        x = self.embed(input_ids)
        for i, layer in enumerate(self.layers):
            rotary = rotary_angles(positions, layer.head_dim)
            x = x + layer(x, mask=mask, cache=None if cache is None else cache.layers[i], rotary=rotary)
        return self.head(x if keep is None else x[:, -keep:])


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(3)
    model = Decoder()
    with torch.no_grad():
        model.embed.weight.mul_(2)
    return model.eval()


def padded(prompts: list[list[int]], pad: int = 0) -> dict[str, Tensor]:
    """Prompts as one batch, with padding on the left."""
    n = max(map(len, prompts))
    rows = [[pad] * (n - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (n - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


PROMPTS = [[3, 1, 4, 1, 5, 9, 2], [6, 5], [18, 5, 8, 9]]


@torch.no_grad()
def reread(model: nn.Module, prompt: list[int], steps: int) -> list[int]:
    """The best continuation, everything read anew for each token."""
    ids = torch.tensor([prompt])
    for _ in range(steps):
        ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[0, len(prompt) :].tolist()


# ---- the loop


def test_cached_is_what_reading_everything_anew_gives(decoder):
    for prompt in PROMPTS:
        got = generate(decoder, {"input_ids": torch.tensor([prompt])}, max_new_tokens=9)
        assert got.tolist() == [reread(decoder, prompt, 9)]
        assert len(set(got[0].tolist())) > 2  # a model that says one thing only would prove nothing


def test_logits_are_the_same_however_the_tokens_are_split(decoder):
    inputs = padded(PROMPTS)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        whole_ = decoder(ids, attention_mask=mask)
        for pieces in ((7,), (1,) * 7, (3, 4), (6, 1), (1, 2, 4), (5, 1, 1)):
            cache, found = decoder.make_cache(2), []
            for part, kept in zip(ids.split(pieces, 1), mask.split(pieces, 1), strict=True):
                found.append(decoder(part, attention_mask=kept, cache=cache))
            got = torch.cat(found, 1)
            torch.testing.assert_close(got[mask.bool()], whole_[mask.bool()], atol=1e-5, rtol=1e-5)


def test_a_prompt_may_end_anywhere_in_its_continuation(decoder):
    everything = reread(decoder, PROMPTS[0], 9)
    for split in range(1, 9):
        prompt = PROMPTS[0] + everything[:split]
        got = generate(decoder, {"input_ids": torch.tensor([prompt])}, max_new_tokens=9 - split)
        assert got.tolist() == [everything[split:]]


def test_rows_of_a_batch_are_what_they_are_alone(decoder):
    settings = dict(max_new_tokens=9, repetition_penalty=1.4, presence_penalty=0.3, pad_token_id=0)
    got = generate(decoder, padded(PROMPTS), **settings)
    for row, prompt in zip(got, PROMPTS, strict=True):
        assert row.tolist() == generate(decoder, {"input_ids": torch.tensor([prompt])}, **settings)[0].tolist()


def test_rows_of_a_batch_that_stop_are_what_they_are_alone(decoder):
    alone = [reread(decoder, prompt, 9) for prompt in PROMPTS]
    stop = alone[0][4]
    ends = [row.index(stop) + 1 if stop in row else 9 for row in alone]
    assert len(set(ends)) > 1
    got = generate(decoder, padded(PROMPTS), max_new_tokens=9, eos_token_id=stop, pad_token_id=0)
    want = [row[:end] + [0] * (max(ends) - end) for row, end in zip(alone, ends, strict=True)]
    assert got.tolist() == want


def test_the_best_token_follows_the_best():
    model = chain(3, 0, 1, 2)
    assert generate(model, {"input_ids": torch.tensor([[2, 0]])}, max_new_tokens=5).tolist() == [[3, 2, 1, 0, 3]]


def test_a_stop_token_comes_out_and_ends_the_row():
    model = chain(1, 2, 3, 4, 0)
    inputs = {"input_ids": torch.tensor([[0]])}
    for stop, want in ((3, [1, 2, 3]), ([4, 2], [1, 2]), ((4,), [1, 2, 3, 4]), (1, [1]), ([], [1, 2, 3, 4, 0, 1])):
        assert generate(model, inputs, max_new_tokens=6, eos_token_id=stop).tolist() == [want]
    assert generate(model, inputs, max_new_tokens=2, eos_token_id=3).tolist() == [[1, 2]]


def test_a_stop_token_in_the_prompt_is_no_end():
    got = generate(chain(1, 2, 3, 0), {"input_ids": torch.tensor([[3, 3, 3]])}, max_new_tokens=2, eos_token_id=3)
    assert got.tolist() == [[0, 1]]


def test_finished_rows_give_out_padding_until_all_are_finished():
    model = chain(1, 2, 3, 4, 5, 5)
    inputs = {"input_ids": torch.tensor([[0], [2], [1]])}
    got = generate(model, inputs, max_new_tokens=9, eos_token_id=[3], pad_token_id=5)
    assert got.tolist() == [[1, 2, 3], [3, 5, 5], [2, 3, 5]]
    assert len(model.calls) == 3  # the last token is not read


def test_padding_that_is_a_stop_token_too_changes_nothing():
    inputs = {"input_ids": torch.tensor([[0], [2]])}
    got = generate(chain(1, 2, 3, 3), inputs, max_new_tokens=9, eos_token_id=3, pad_token_id=3)
    assert got.tolist() == [[1, 2, 3], [3, 3, 3]]


def test_the_prompt_is_read_once_and_then_one_token_a_step():
    model = chain(1, 2, 3, 0)
    inputs = {**padded([[0, 3], [2]]), "pixel_values": torch.ones(2, 3)}
    got = generate(model, inputs, max_new_tokens=4)
    first, *others = model.calls
    assert first.ids is inputs["input_ids"] and first.mask is inputs["attention_mask"]
    assert first.pixels is inputs["pixel_values"]
    assert [call.ids.tolist() for call in others] == [got[:, [i]].tolist() for i in range(3)]
    assert all(call.mask is None and call.pixels is None for call in others)
    assert {id(call.cache) for call in model.calls} == {id(first.cache)}
    assert first.cache.capacity == 2 + 4 - 1  # no copying on the way, and no room for what is not read
    assert [call.keep for call in model.calls] == [1] * 4


def test_no_gradient_is_recorded_and_every_part_keeps_its_mode():
    model = chain(1, 0).train()
    model.part.eval()
    got = generate(model, {"input_ids": torch.tensor([[0]])}, max_new_tokens=3)
    assert got.dtype == torch.int64
    assert all(not call.grad and not call.training for call in model.calls)
    assert model.training and not model.part.training
    assert torch.is_grad_enabled()
    model(torch.tensor([[0]]), keep=1).sum().backward()  # what generation has touched can still learn


def test_modes_come_back_after_an_error():
    model = chain(1, 0).train()

    def broken(ids):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, {"input_ids": torch.tensor([[0]])}, max_new_tokens=3, on_token=broken)
    assert model.training and model.part.training


def test_every_step_is_told_of_before_the_next_is_made():
    model, told = chain(1, 2, 3, 0), []
    inputs = {"input_ids": torch.tensor([[0], [2]])}

    def tell(ids):
        told.append((ids.tolist(), len(model.calls)))

    got = generate(model, inputs, max_new_tokens=9, eos_token_id=3, pad_token_id=0, on_token=tell)
    assert told == [([1, 3], 1), ([2, 0], 2), ([3, 0], 3)]
    assert got.T.tolist() == [ids for ids, _ in told]


def test_repetition_counts_the_prompt_and_presence_does_not():
    table = torch.tensor([[2.0, 1.9, 1.5], [2.0, 1.9, 1.5], [2.0, 1.9, 1.5]])
    inputs = {"input_ids": torch.tensor([[0, 0, 0]])}
    assert generate(Chain(table), inputs, max_new_tokens=4).tolist() == [[0, 0, 0, 0]]
    # 2 / 1.2 = 1.67, 1.9 / 1.2 = 1.58: from the second token on 0 and 1 are seen, and 0 is best again.
    assert generate(Chain(table), inputs, max_new_tokens=4, repetition_penalty=1.2).tolist() == [[1, 0, 0, 0]]
    # 2 - 0.3 = 1.7, 1.9 - 0.3 = 1.6: 0 is said once, 1 is said once, and then 0 is best again.
    assert generate(Chain(table), inputs, max_new_tokens=4, presence_penalty=0.3).tolist() == [[0, 1, 0, 0]]
    both = generate(Chain(table), inputs, max_new_tokens=4, repetition_penalty=1.2, presence_penalty=0.3)
    assert both.tolist() == [[1, 0, 2, 0]]  # 2/1.2 1.9 1.5 | 1.67 1.28 1.5 | 1.37 1.28 1.5 | 1.37 1.28 0.95


def test_padding_is_neither_seen_nor_generated(decoder):
    # With padding 7, a row that says 7 of its own may not be hindered.
    settings = dict(max_new_tokens=6, repetition_penalty=3.0)
    for pad in range(19):
        got = generate(decoder, padded(PROMPTS, pad), **settings)
        assert got.tolist() == generate(decoder, padded(PROMPTS, 0), **settings).tolist()


def test_chance_comes_from_the_generator_alone(decoder):
    settings = dict(max_new_tokens=8, temperature=1.5)
    inputs = padded(PROMPTS)

    def once(seed):
        return generate(decoder, inputs, generator=torch.Generator().manual_seed(seed), **settings).tolist()

    state = torch.random.get_rng_state()
    assert once(0) == once(0) != once(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    found = [generate(decoder, inputs, **settings).tolist() for _ in range(2)]
    torch.random.set_rng_state(state)
    assert found[0] == generate(decoder, inputs, **settings).tolist() != found[1]


def test_one_number_is_drawn_for_each_row_in_each_step():
    model = Chain(torch.zeros(10, 10))
    inputs = {"input_ids": torch.zeros(3, 1, dtype=torch.int64)}
    got = generate(model, inputs, max_new_tokens=4, temperature=1.0, generator=torch.Generator().manual_seed(5))
    again, dice = torch.Generator().manual_seed(5), []
    for _ in range(4):
        dice.append(torch.rand(3, generator=again, dtype=torch.float64))
    want = ((1 - torch.stack(dice, 1)) * 10).ceil().long() - 1
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    "settings, allowed",
    [
        (dict(top_k=2), {0, 1}),
        (dict(top_p=0.6), {0, 1}),
        (dict(min_p=0.5), {0, 1}),
        (dict(top_k=3, top_p=0.99), {0, 1, 2}),
        (dict(temperature=1e-3), {0}),
        (dict(), {0, 1, 2, 3}),
    ],
)
def test_only_what_is_kept_is_drawn(settings, allowed):
    table = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(4, 4)
    inputs = {"input_ids": torch.zeros(50, 1, dtype=torch.int64)}
    generator = torch.Generator().manual_seed(0)
    got = generate(
        Chain(table.clone()), inputs, max_new_tokens=4, generator=generator, **{"temperature": 1.0, **settings}
    )
    assert set(got.flatten().tolist()) == allowed


def test_logits_of_half_precision_will_do():
    model = chain(1, 2, 0).bfloat16()
    got = generate(model, {"input_ids": torch.tensor([[0]])}, max_new_tokens=3, repetition_penalty=1.01, top_p=0.5)
    assert got.tolist() == [[1, 2, 0]]


# ---- Qwen3-VL


SEE, PICTURE, CLIP, SEEN = 508, [510] * 2, [511] * 4, 509


@pytest.fixture(scope="module")
def qwen():
    torch.manual_seed(7)
    model = Qwen3VL(SMALL_CONFIG)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(0.3 * normal(len(name), *weight.shape) * (0.2 if weight.ndim > 1 else 1))
    return model.eval()


def texts_with_pictures() -> tuple[list[list[int]], dict[str, Tensor]]:
    """Three prompts of different length: words and a clip, a picture that is wider than high, words alone."""
    group = [SEE, *CLIP, SEEN]
    prompts = [[3, 1, *group, 4, *group, 1, 5], [SEE, *PICTURE, SEEN, 6, 5], [18, 5, 8]]
    grids = {"image_grid_thw": torch.tensor([[1, 2, 4]]), "video_grid_thw": torch.tensor([[2, 4, 4]])}
    box = SMALL_CONFIG.vision_config.box_size
    return prompts, {"pixel_values": normal(1, 8, box), "pixel_values_videos": normal(2, 32, box), **grids}


@torch.no_grad()
def reread_rows(model: nn.Module, inputs: dict[str, Tensor], steps: int) -> Tensor:
    """The best continuation of every row, everything read anew for each token."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    for _ in range(steps):
        logits = model(**{**inputs, "input_ids": ids, "attention_mask": mask})
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
    return ids[:, -steps:]


def test_qwen3_vl_cached_is_what_reading_everything_anew_gives(qwen):
    prompts, pictures = texts_with_pictures()
    inputs = {**padded(prompts), **pictures}
    got = generate(qwen, inputs, max_new_tokens=7)
    assert torch.equal(got, reread_rows(qwen, inputs, 7))
    assert len(set(got.flatten().tolist())) > 5


def test_rows_of_qwen3_vl_are_what_they_are_alone(qwen):
    prompts, pictures = texts_with_pictures()
    got = generate(qwen, {**padded(prompts), **pictures}, max_new_tokens=7)
    own = [("pixel_values_videos", "video_grid_thw"), ("pixel_values", "image_grid_thw"), ()]
    for row, prompt, names in zip(got, prompts, own, strict=True):
        alone = {"input_ids": torch.tensor([prompt]), **{name: pictures[name] for name in names}}
        assert row.tolist() == generate(qwen, alone, max_new_tokens=7)[0].tolist()


# ---- errors


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(max_new_tokens=0), "max_new_tokens is 0, expected at least 1"),
        (dict(temperature=-0.5), "temperature is -0.5, expected at least 0; 0 takes the best token"),
        (dict(temperature=math.nan), "temperature is nan, expected at least 0; 0 takes the best token"),
        (dict(temperature=math.inf), "temperature is inf, expected at least 0; 0 takes the best token"),
        (dict(top_k=0), "top_k is 0, expected at least 1; None keeps everything"),
        (dict(top_p=0.0), "top_p is 0.0, expected above 0 and up to 1; 1 keeps everything"),
        (dict(top_p=1.01), "top_p is 1.01, expected above 0 and up to 1; 1 keeps everything"),
        (dict(min_p=1.0), "min_p is 1.0, expected from 0 to below 1; 0 keeps everything"),
        (dict(min_p=-0.1), "min_p is -0.1, expected from 0 to below 1; 0 keeps everything"),
        (dict(repetition_penalty=0.0), "repetition_penalty is 0.0, expected a number above 0; 1 changes nothing"),
        (dict(repetition_penalty=math.inf), "repetition_penalty is inf, expected a number above 0; 1 changes nothing"),
        (dict(presence_penalty=math.nan), "presence_penalty is nan, expected a finite number; 0 changes nothing"),
    ],
)
def test_numbers_out_of_their_range_are_refused_before_any_work(settings, message):
    model = chain(1, 0)
    with pytest.raises(ValueError) as error:
        generate(model, {"input_ids": torch.tensor([[0]])}, **{"max_new_tokens": 3, **settings})
    assert str(error.value) == message
    assert not model.calls


@pytest.mark.usefixtures("unchecked")
def test_numbers_at_the_ends_of_their_range_are_taken():
    inputs = {"input_ids": torch.tensor([[0]])}
    for settings in (
        dict(temperature=0),
        dict(top_k=1),
        dict(top_k=99),
        dict(top_p=1),
        dict(top_p=1e-9),
        dict(min_p=0),
    ):
        generate(chain(1, 0), inputs, max_new_tokens=1, **{"temperature": 1.0, **settings})
    generate(chain(1, 0), inputs, max_new_tokens=1, repetition_penalty=0.1, presence_penalty=-2.0)


def test_several_rows_with_a_stop_token_need_padding():
    inputs = {"input_ids": torch.tensor([[0], [1], [0]])}
    message = (
        "pad_token_id is missing: of 3 rows some may be finished by 1, 0 while others go on; "
        "give what a finished row is filled with"
    )
    with pytest.raises(ValueError) as error:
        generate(chain(1, 0), inputs, max_new_tokens=2, eos_token_id=[1, 0])
    assert str(error.value) == message
    assert generate(chain(1, 0), inputs, max_new_tokens=2).tolist() == [[1, 0], [0, 1], [1, 0]]


def test_tokens_that_the_model_does_not_have_are_refused():
    inputs = {"input_ids": torch.tensor([[0], [1]])}
    for stop, pad, wrong in (((0, 2), 1, "eos_token_id 2"), (0, 2, "pad_token_id 2"), (0, -1, "pad_token_id -1")):
        with pytest.raises(ValueError) as error:
            generate(chain(1, 0), inputs, max_new_tokens=2, eos_token_id=stop, pad_token_id=pad)
        assert str(error.value) == f"{wrong}: expected 0 to 1, the model's vocabulary; is it another's?"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "inputs, message",
    [
        ({}, "inputs: input_ids is missing (there are none)"),
        (
            {"pixel_values": torch.zeros(1), "ids": torch.zeros(1, 1)},
            "inputs: input_ids is missing (there are ids, pixel_values)",
        ),
        (
            {"input_ids": torch.tensor([1, 0])},
            "input_ids: shape (2,), expected b n with at least one row and one token",
        ),
        (
            {"input_ids": torch.zeros(3, 0, dtype=torch.int64)},
            "input_ids: shape (3, 0), expected b n with at least one row and one token",
        ),
        (
            {"input_ids": torch.tensor([[1, 0]]), "attention_mask": torch.ones(1, 3)},
            "attention_mask: shape (1, 3), expected that of input_ids, (1, 2)",
        ),
        (
            {
                "input_ids": torch.zeros(2, 5, dtype=torch.int64),
                "attention_mask": torch.tensor([[1] * 5, [1, 1, 1, 0, 0]]),
            },
            "attention_mask: row 1 has padding behind the token at place 2 of 5; new tokens "
            "come behind the last place, so pad on the left",
        ),
        (
            {"input_ids": torch.zeros(1, 4, dtype=torch.int64), "attention_mask": torch.tensor([[0, 1, 0, 1]])},
            "attention_mask: row 0 has padding behind the token at place 1 of 4; new tokens "
            "come behind the last place, so pad on the left",
        ),
        (
            {
                "input_ids": torch.zeros(2, 4, dtype=torch.int64),
                "attention_mask": torch.tensor([[0, 0, 0, 1], [0] * 4]),
            },
            "attention_mask: row 1 is padding alone, expected at least one token of 4",
        ),
    ],
)
def test_prompts_that_cannot_be_continued_are_refused(inputs, message):
    model = chain(1, 0)
    with pytest.raises(ValueError) as error:
        generate(model, inputs, max_new_tokens=3)
    assert str(error.value) == message
    assert not model.calls
    assert type(error.value) is (ValueError if "missing" in message else ShapeError)


@pytest.mark.usefixtures("unchecked")
def test_a_mask_that_does_not_fit_the_ids_is_refused():
    with pytest.raises(ShapeError) as error:
        seen_ids(torch.tensor([[1, 0]]), 3, torch.ones(1, 3))
    assert str(error.value) == "mask: shape (1, 3), expected that of ids, (1, 2)"


def test_functions_and_settings_can_be_seen():
    assert repr(Sampling(top_k=20)).endswith("temperature=1.0, top_k=20, top_p=None, min_p=None)")
    ids, finished = emit(torch.tensor([4, 2]), torch.tensor([False, True]), torch.tensor([4]), 9)
    assert (ids.tolist(), finished.tolist()) == ([4, 9], [True, True])


# ---- products of single tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_layout_of_a_matrix_changes_no_name_and_no_number(dtype):
    torch.manual_seed(0)
    model = Qwen3VL(SMALL_CONFIG).to(dtype).eval()
    ids, before = torch.arange(6)[None], {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.no_grad():
        want = model(ids)
        assert library.column_major(model) is model
        got = model(ids)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    # The same sums, added up in another order; of 16 bits the layout, and so the order, stays.
    torch.testing.assert_close(got, want, atol=1e-5 if dtype == torch.float32 else 0.0, rtol=0.0)
    tall = model.language_model.embed_tokens.weight
    assert tall.stride() == ((1, 512) if dtype == torch.float32 else (64, 1))
    wide = model.language_model.layers[0].feed_forward.down_proj.weight
    assert wide.stride() == ((1, 64) if dtype == torch.float32 else (128, 1))


def test_a_model_that_is_laid_out_in_inference_mode_can_be_trained_afterwards():
    model = Qwen3VL(SMALL_CONFIG)
    with torch.inference_mode():
        library.column_major(model)
        made_here = library.column_major(Qwen3VL(SMALL_CONFIG))
    assert made_here.language_model.embed_tokens.weight.stride() == (1, 512)
    model(torch.arange(6)[None]).sum().backward()
    assert all(weight.grad is not None for weight in model.language_model.parameters())


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_only_single_rows_of_16_bits_are_multiplied_without_onednn():
    def inside(dtype, rows):
        with library.vector_products(nn.Linear(2, 2, dtype=dtype), rows=rows):
            return torch._C._get_mkldnn_enabled()

    assert [inside(torch.bfloat16, 1), inside(torch.bfloat16, 2), inside(torch.float32, 1)] == [False, True, True]
    with pytest.raises(KeyError), library.vector_products(nn.Linear(2, 2, dtype=torch.bfloat16)):
        raise KeyError
    assert torch._C._get_mkldnn_enabled()
    with library.vector_products(nn.Flatten()):
        assert torch._C._get_mkldnn_enabled()
