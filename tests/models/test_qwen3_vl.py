from dataclasses import replace

import pytest
import torch
from benchmarks.side_by_side import let_torchvision_load
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from mistakes import positions as wrong
from models.golden import States, equals_golden, golden_inputs, golden_model, noted
from strategies import normal, seeds, with_biases
from torch.nn import functional as F

from minivid.layers import attention, patch_embed, positions
from minivid.layers.attention import KERNELS
from minivid.layers.feed_forward import gelu, gelu_tanh
from minivid.layers.norms import rms_norm
from minivid.models import qwen3_vl, qwen3_vl_vision
from minivid.models.generate import generate
from minivid.models.pretrained import qwen3_vl_of_published
from minivid.models.qwen3_vl import (
    SMALL_CONFIG,
    Qwen3VL,
    Qwen3VLCache,
    Qwen3VLConfig,
    Qwen3VLLanguageModel,
    Qwen3VLLayer,
    Qwen3VLTextConfig,
)
from minivid.models.qwen3_vl_vision import Qwen3VLVisionConfig
from minivid.shapes import ShapeError

IMAGE, VIDEO, START, END = 20, 21, 22, 23
VISION = Qwen3VLVisionConfig(
    depth=2,
    hidden_size=8,
    num_heads=1,
    intermediate_size=10,
    patch_size=2,
    temporal_patch_size=1,
    in_channels=1,
    num_position_embeddings=9,
    out_hidden_size=10,
    deepstack_visual_indexes=(0, 1),
    initializer_range=0.4,
)
TEXT = Qwen3VLTextConfig(
    vocab_size=24,
    hidden_size=10,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    intermediate_size=14,
    rope_theta=100.0,
    mrope_section=(2, 1, 1),
    initializer_range=0.4,
)
SMALL = Qwen3VLConfig(TEXT, VISION, IMAGE, VIDEO, START, END)


def make(seed=0, config=SMALL):
    torch.manual_seed(seed)
    return with_biases(Qwen3VL(config), seed).eval()


def words(seed, *shape):
    return torch.randint(0, 20, shape, generator=torch.Generator().manual_seed(seed))


def told(seed, *pictures, token=VIDEO):
    """Two words, then each picture in its own frame of tokens and a word behind it; grids of one row each."""
    ids = words(seed, 2 + len(pictures)).tolist()
    text = ids[:2]
    for word, (t, h, w) in zip(ids[2:], pictures, strict=True):
        text += [START, *[token] * (h * w // 4), END, word] * t
    patches = normal(seed, sum(t * h * w for t, h, w in pictures), VISION.box_size)
    names = ("pixel_values_videos", "video_grid_thw") if token == VIDEO else ("pixel_values", "image_grid_thw")
    return torch.tensor([text]), dict(zip(names, (patches, torch.tensor(pictures)), strict=True))


def near(got, want):
    """Three layers of float32 on numbers of size 10."""
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


# ---- the published model


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_state_equals_the_published_model_s(kernel):
    model, inputs = golden_model(kernel), golden_inputs()
    real = inputs["attention_mask"].bool()
    layers = [f"language_model.layers.{i}" for i in range(3)]
    with torch.no_grad(), States(model, *layers, "language_model.norm") as states:
        logits = model(**inputs)
    for i, layer in enumerate(layers):
        equals_golden(states.seen[layer][0][real], noted(f"layer_{i}")[0][real])
    equals_golden(states.seen["language_model.norm"][0][real], noted("final_norm")[0][real])
    equals_golden(logits[real], noted("logits")[0][real])


@pytest.mark.parametrize("kernel", KERNELS)
def test_with_a_cache_it_goes_on_as_the_published_model_does(kernel):
    model, (ids, logits) = golden_model(kernel), noted("generated_ids", "generated_logits")
    cache = model.make_cache()
    with torch.no_grad():
        got = [model(**golden_inputs(), cache=cache, keep=1)]
        for step in range(ids.shape[1] - 1):
            assert torch.equal(got[-1][:, -1].argmax(-1), ids[:, step])
            got.append(model(ids[:, step, None], cache=cache))
    equals_golden(torch.cat(got, 1), logits)


def test_positions_are_the_published_ones(monkeypatch):
    seen = {}
    mrope_angles = qwen3_vl.mrope_angles
    monkeypatch.setattr(
        qwen3_vl,
        "mrope_angles",
        lambda places, *rest, **base: mrope_angles(seen.setdefault("places", places), *rest, **base),
    )
    with torch.no_grad():
        golden_model()(**golden_inputs())
    assert torch.equal(seen["places"], *noted("position_ids"))
    with torch.no_grad():
        equals_golden(
            golden_model()(**golden_inputs(), position_ids=noted("position_ids")[0])[:, -1], noted("logits")[0][:, -1]
        )


# Each is the model with one line wrong. That the comparison above sees it is what the comparison is worth.
MISTAKES = {}


def mistake(plant):
    MISTAKES[plant.__name__] = plant
    return plant


@mistake
def one_position_for_a_picture(patch, model):
    patch(qwen3_vl, "mrope_positions", wrong.one_token_a_picture)


@mistake
def every_merged_patch_moves_the_count(patch, model):
    patch(qwen3_vl, "mrope_positions", wrong.every_patch_counted)


@mistake
def the_axes_in_sections_instead_of_turns(patch, model):
    patch(positions, "interleaved_axes", wrong.in_sections)


@mistake
def a_slightly_larger_base(patch, model):
    model.language_model.config = replace(model.language_model.config, rope_theta=10500.0)


@mistake
def the_exact_gelu_in_the_blocks(patch, model):
    for block in model.visual.blocks:
        block.feed_forward.activation = gelu


@mistake
def the_approximate_gelu_in_the_mergers(patch, model):
    patch(patch_embed, "gelu", gelu_tanh)


@mistake
def deepstack_one_layer_late(patch, model):
    forward = Qwen3VLLanguageModel.forward

    def late(self, *arguments, deepstack=(), **options):
        nothing = [torch.zeros_like(level) for level in deepstack[:1]]
        return forward(self, *arguments, deepstack=[*nothing, *deepstack], **options)

    patch(Qwen3VLLanguageModel, "forward", late)


@mistake
def deepstack_forgotten(patch, model):
    forward = Qwen3VLLanguageModel.forward
    patch(Qwen3VLLanguageModel, "forward", lambda self, *x, deepstack=(), **o: forward(self, *x, **o))


@mistake
def deepstack_levels_exchanged(patch, model):
    mergers = model.visual.deepstack_merger_list
    mergers[0], mergers[1] = mergers[1], mergers[0]


@mistake
def places_in_raster_order(patch, model):
    patch(qwen3_vl_vision, "grid_positions", wrong.raster_order)


@mistake
def the_table_in_raster_order(patch, model):
    forward = positions.LearnedPositions.forward
    patch(positions.LearnedPositions, "forward", lambda self, grid, *, spatial_merge_size: forward(self, grid))


@mistake
def the_table_edge_on_edge(patch, model):
    model.visual.pos_embed.resize = positions.resize_table


@mistake
def every_axis_turns_all_pairs_of_a_head(patch, model):
    def angles(places, k, *, base):
        return positions.rotary_angles(places, k, base=base)[..., : k // 4].flatten(-2)

    patch(qwen3_vl_vision, "axial_angles", angles)


@mistake
def frame_groups_that_see_each_other(patch, model):
    forward = qwen3_vl_vision.EncoderBlock.forward

    def all_together(self, x, *, rotary):
        rotary = rotary.repeat(len(x), 1)
        return forward(self, x.flatten(0, 1)[None], rotary=rotary).view_as(x)

    patch(qwen3_vl_vision.EncoderBlock, "forward", all_together)


@mistake
def heads_dealt_out_to_their_keys(patch, model):
    real = attention.repeat
    patch(attention, "repeat", lambda x, text, **o: real(x, text.replace("(heads copies)", "(copies heads)"), **o))


@mistake
def queries_and_keys_without_their_norm(patch, model):
    for layer in model.language_model.layers:
        layer.attention.q_norm = layer.attention.k_norm = torch.nn.Identity()


@mistake
def norm_over_all_heads_together(patch, model):
    def joined(self, x):
        return rms_norm(rearrange(x, "b h n k -> b n h k"), axes=2, eps=self.eps).transpose(1, 2) * self.weight

    for layer in model.language_model.layers:
        for norm in (layer.attention.q_norm, layer.attention.k_norm):
            norm.forward = joined.__get__(norm)


@mistake
def norm_behind_the_rotation(patch, model):
    real, norms = attention.turn, {}
    for layer in model.language_model.layers:
        heads = layer.attention.num_heads, layer.attention.num_kv_heads
        norms.setdefault("todo", []).append(
            dict(zip(heads, (layer.attention.q_norm, layer.attention.k_norm), strict=True))
        )
        layer.attention.q_norm = layer.attention.k_norm = torch.nn.Identity()
    calls = iter(range(10**6))

    def turned(x, *by):
        if by[0].ndim == 3:  # for all pictures the same: the eyes
            return real(x, *by)
        return norms["todo"][next(calls) // 2][x.shape[1]](real(x, *by))

    patch(attention, "turn", turned)


@mistake
def ten_times_the_eps(patch, model):
    for module in model.language_model.modules():
        if isinstance(module, qwen3_vl.RMSNorm):
            module.eps *= 100


@mistake
def clips_before_pictures(patch, model):
    index_copy = torch.Tensor.index_copy
    patch(torch.Tensor, "index_copy", lambda x, dim, rows, source: index_copy(x, dim, rows, source.roll(1, 0)))


@mistake
def padding_is_seen(patch, model):
    patch(qwen3_vl, "_mask", lambda *_: None)


@mistake
def everyone_sees_ahead(patch, model):
    patch(qwen3_vl, "causal_mask", lambda n, s, device: torch.ones(n, s, dtype=torch.bool))


@pytest.mark.parametrize("plant", MISTAKES.values(), ids=MISTAKES)
def test_every_planted_mistake_moves_the_logits(plant, monkeypatch):
    model, inputs = golden_model(), golden_inputs()
    plant(monkeypatch.setattr, model)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        moved = (model(**inputs) - noted("logits")[0])[real].abs().max()
    assert moved > 3e-4  # twice what the comparison forgives


# ---- batches, documents, caches: what is read together is what is read alone


@given(seed=seeds)
@settings(max_examples=8)
def test_padding_on_either_side_changes_nothing(seed):
    model = make(seed)
    (one, clip), two = told(seed, (2, 4, 6)), words(seed + 1, 1, 5)
    n = one.shape[1]
    with torch.no_grad():
        alone = [model(one, **clip)[0], model(two)[0]]
        for left in (True, False):
            pad = words(seed + 2, 1, n - 5)  # any words
            ids = torch.cat([one, torch.cat([pad, two] if left else [two, pad], 1)])
            mask = torch.ones_like(ids)
            mask[1, : n - 5] = mask[1, 5:] = 0
            mask[1, -5:] = 1 if left else mask[1, -5:]
            if not left:
                mask[1] = torch.arange(n) < 5
            else:
                mask[1] = torch.arange(n) >= n - 5
            together = model(ids, mask, **clip)
            near(together[0], alone[0])
            near(together[1][mask[1].bool()], alone[1])


@pytest.mark.parametrize("kernel", ["plain", "fused"])
def test_padding_sends_no_gradient_that_is_not_a_number(kernel):
    model = make(1, replace(SMALL, kernel=kernel))
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    model(words(1, 2, 4), mask)[mask.bool()].square().sum().backward()
    assert all(w.grad is None or w.grad.isfinite().all() for w in model.parameters())


def test_a_mask_without_padding_is_no_mask(monkeypatch):
    model, ids = make(2), words(2, 2, 5)
    with torch.no_grad():
        want = model(ids)
        monkeypatch.setattr(qwen3_vl, "causal_mask", None)  # would be called
        assert torch.equal(model(ids, torch.ones_like(ids)), want)
        assert torch.equal(model(ids, torch.ones(2, 5, dtype=torch.bool)), want)


@given(seed=seeds)
@settings(max_examples=8)
def test_documents_in_one_row_do_not_see_each_other(seed):
    model = make(seed)
    texts = [told(seed, (2, 2, 4)), (words(seed, 1, 3), {}), told(seed + 1, (1, 4, 4))]
    ids = torch.cat([ids for ids, _ in texts], 1)
    clips = {
        name: torch.cat([clip[name] for _, clip in texts if clip]) for name in ("pixel_values_videos", "video_grid_thw")
    }
    lengths = [ids.shape[1] for ids, _ in texts]
    with torch.no_grad():
        alone = torch.cat([model(ids, **clip) for ids, clip in texts], 1)
        near(model(ids, **clips, document_lengths=lengths), alone)
        near(model(ids, **clips, document_lengths=torch.tensor(lengths)), alone)
        padded = torch.cat([ids, words(seed, 1, 2)], 1), torch.arange(ids.shape[1] + 2)[None] < ids.shape[1]
        lengths[-1] += 2
        near(model(*padded, **clips, document_lengths=lengths)[:, :-2], alone)


@pytest.mark.parametrize("kernel", KERNELS)
@given(seed=seeds, pieces=st.lists(st.integers(1, 4), min_size=1, max_size=4))
@settings(max_examples=6)
def test_with_a_cache_any_split_gives_the_same(kernel, seed, pieces):
    model = make(seed, replace(SMALL, kernel=kernel))
    start, clip = told(seed, (2, 4, 2))
    ids = torch.cat([start, words(seed, 1, sum(pieces))], 1)
    with torch.no_grad():
        want = model(ids, **clip)
        cache = model.make_cache(3)
        got = [model(start, **clip, cache=cache)]
        for part in ids[:, start.shape[1] :].split(pieces, 1):
            got.append(model(part, cache=cache))
    near(torch.cat(got, 1), want)
    assert cache.length == ids.shape[1] and cache.kept is None


@given(seed=seeds)
@settings(max_examples=6)
def test_with_a_cache_padding_may_come_at_any_time(seed):
    model, ids = make(seed), words(seed, 2, 7)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 1, 1]])
    with torch.no_grad():
        want = model(ids, mask)
        cache = model.make_cache()
        got = [model(ids[:, :3], mask[:, :3], cache=cache), model(ids[:, 3:6], mask[:, 3:6], cache=cache)]
        got.append(model(ids[:, 6:], cache=cache))
        late = model.make_cache()  # without padding at first
        model(ids[:, 2:4], cache=late), model(ids[:, 4:5], mask[:, 4:5], cache=late)
    near(torch.cat(got, 1)[mask.bool()], want[mask.bool()])
    assert late.kept.tolist() == [[True, True, True], [True, True, False]]
    assert late.next_position.tolist() == [3, 2]


def test_a_text_goes_on_with_new_pictures():
    model = make(3)
    (one, first), (two, second) = told(3, (2, 4, 4)), told(4, (1, 2, 6), token=IMAGE)
    with torch.no_grad():
        want = model(torch.cat([one, two], 1), **first, **second)
        cache = model.make_cache()
        got = torch.cat([model(one, **first, cache=cache), model(two, **second, cache=cache)], 1)
    near(got, want)


def test_a_placeholder_that_the_model_says_itself_is_a_word():
    model, ids = make(4), words(4, 1, 3)
    with torch.no_grad():
        cache = model.make_cache()
        model(ids, cache=cache)
        assert torch.isfinite(model(torch.tensor([[VIDEO]]), cache=cache)).all()
    assert cache.next_position.tolist() == [4]


def test_pictures_and_clips_each_take_their_own_placeholders():
    """In a text clip, picture, clip, picture: the features are those of each alone."""
    model = make(5)
    parts = [told(5, (2, 2, 4)), told(6, (1, 4, 4), token=IMAGE), told(7, (1, 2, 2)), told(8, (1, 2, 6), token=IMAGE)]
    ids = torch.cat([ids for ids, _ in parts], 1)
    pictures = {}
    for _, given_ in parts:
        for name, tensor in given_.items():
            pictures[name] = torch.cat([pictures[name], tensor]) if name in pictures else tensor
    seen = {}
    forward = Qwen3VLLanguageModel.forward

    def watched(self, x, *rest, **options):
        seen["x"] = x
        return forward(self, x, *rest, **options)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qwen3VLLanguageModel, "forward", watched)
        model(ids, **pictures)
        alone = torch.cat([model.visual(*given_.values()).merged for _, given_ in parts])
        places = (ids == IMAGE) | (ids == VIDEO)
        near(seen["x"][places], alone)
        assert torch.equal(seen["x"][~places], model.language_model.embed_tokens(ids)[~places])


# ---- which tokens get logits


def test_keep_says_which_tokens_get_logits():
    model, ids = make(6), words(6, 3, 5)
    with torch.no_grad():
        every = model(ids)
        assert torch.equal(model.logits(model.hidden(ids)), every)
        near(model(ids, keep=1), every[:, -1:])
        near(model(ids, keep=3), every[:, -3:])
        mask = words(7, 3, 5) > 9
        near(model(ids, keep=mask), every[mask])
    with pytest.raises(ValueError, match="^keep is 0, expected a mask or at least 1, the last tokens of each row$"):
        model(ids, keep=0)


def test_the_head_is_the_table_where_both_are_tied():
    tied, untied = make(7), make(7, replace(SMALL, tie_word_embeddings=False))
    assert tied.lm_head is None and "lm_head.weight" not in tied.state_dict()
    hidden = normal(7, 2, 3, 10)
    assert torch.equal(tied.logits(hidden), hidden @ tied.language_model.embed_tokens.weight.T)
    assert torch.equal(untied.logits(hidden), hidden @ untied.lm_head.weight.T)
    assert untied.lm_head.weight.shape == (24, 10) and untied.lm_head.bias is None


# ---- layers of the language model


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_is_its_parts_by_hand(bias):
    torch.manual_seed(8)
    layer, x = with_biases(Qwen3VLLayer(replace(TEXT, attention_bias=bias)), 8).eval(), normal(8, 2, 5, 10)
    look, norm = layer.attention, layer.attention_norm
    angles = positions.rotary_angles(torch.arange(5), 8)

    def heads(projection, count):
        return rearrange(projection(rms_norm(x, norm.weight)), "b n (heads k) -> b heads n k", heads=count)

    with torch.no_grad():
        q, k, v = heads(look.q_proj, 4), heads(look.k_proj, 2), heads(look.v_proj, 2)
        q, k = rms_norm(q, look.q_norm.weight), rms_norm(k, look.k_norm.weight)
        q, k = positions.rotate(q, angles), positions.rotate(k, angles)
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        want = x + look.out_proj(seen.transpose(1, 2).flatten(2))
        y = rms_norm(want, layer.feed_forward_norm.weight)
        mlp = layer.feed_forward
        want = want + mlp.down_proj(F.silu(mlp.gate_proj(y)) * mlp.up_proj(y))
        near(layer(x, rotary=angles[None].expand(2, -1, -1)), want)
    assert (look.q_proj.bias is None, look.out_proj.bias is None) == (not bias, not bias)
    assert mlp.down_proj.bias is None


def test_levels_beyond_the_last_layer_are_left_out():
    model = Qwen3VLLanguageModel(replace(TEXT, num_hidden_layers=1)).eval()
    x, places = normal(9, 1, 4, 10), torch.arange(4)[None, :, None].expand(1, 4, 3)
    rows, levels = torch.tensor([1, 2]), [normal(10, 2, 10), normal(11, 2, 10)]
    with torch.no_grad():
        one = model(x, places, rows=rows, deepstack=levels[:1])
        assert torch.equal(model(x, places, rows=rows, deepstack=levels), one)
        assert not torch.equal(model(x, places), one)


# ---- weights, kinds of numbers, examples


def test_training_reaches_every_weight():
    model = make(10, replace(SMALL, tie_word_embeddings=False, text_config=replace(TEXT, attention_bias=True)))
    ids, clip = told(10, (2, 4, 4))
    model(ids, **clip).square().sum().backward()
    silent = [name for name, weight in model.named_parameters() if not weight.grad.abs().max() > 1e-6]
    # A key's bias adds one number to all scores of a query, where nothing normalises the keys.
    assert all(name.startswith("visual.") and name.endswith("k_proj.bias") for name in silent)


def test_first_weights_are_drawn_with_the_deviations_of_the_configuration():
    config = replace(SMALL, text_config=replace(TEXT, initializer_range=5.0, vocab_size=900))
    for name, weight in Qwen3VL(config).named_parameters():
        if weight.ndim > 1:
            wanted = 0.4 if name.startswith("visual.") else 5.0
            assert 0.6 * wanted < weight.std() < 1.4 * wanted, name
        else:
            assert torch.equal(weight, torch.full_like(weight, float(not name.endswith("bias")))), name


def test_half_precision_is_near():
    model, (ids, clip) = make(11), told(11, (2, 4, 4))
    with torch.no_grad():
        want = model(ids, **clip)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(ids, **clip)
        half = model.bfloat16()(ids, **clip)
    assert half.dtype == torch.bfloat16
    for got in (mixed, half):
        assert (got.float() - want).abs().max() < 0.06 * want.abs().max()


@pytest.mark.parametrize("config", [SMALL, SMALL_CONFIG])
def test_example_inputs_are_taken(config):
    model = make(12, config)
    with torch.no_grad():
        assert model(*model.example_inputs(3)).shape == (3, 12, config.text_config.vocab_size)


def test_weights_may_be_without_numbers_while_ids_have_some():
    with torch.device("meta"):
        model = Qwen3VL(SMALL)
        inputs = model.example_inputs(2)
        assert model.device.type == "meta" and inputs[0].device.type == "cpu"
        assert model(*inputs).shape == (2, 12, 24)


def test_a_cache_has_as_many_layers_as_the_model():
    cache = make(13).make_cache(7)
    assert len(cache.layers) == 3 and [layer.capacity for layer in cache.layers] == [7] * 3
    assert (cache.length, cache.next_position, cache.kept) == (0, None, None)
    assert [layer.capacity for layer in Qwen3VLCache(2).layers] == [64] * 2


# ---- what does not fit


def refused(error, message, *arguments, model=None, **options):
    with torch.no_grad(), pytest.raises(error) as raised:
        (model or make(14))(*arguments, **options)
    assert str(raised.value) == message


def test_placeholders_and_features_that_do_not_fit_are_refused_with_both_numbers(unchecked):
    ids, clip = told(14, (2, 4, 4))
    pixels, grid = clip.values()
    refused(
        ShapeError,
        "input_ids: 8 video placeholders (id 21), but no pixel_values_videos and no video_grid_thw; give both",
        ids,
    )
    refused(
        ShapeError,
        "input_ids: 8 video placeholders (id 21), but pixel_values_videos and no video_grid_thw; give both",
        ids, pixel_values_videos=pixels,
    )  # fmt: skip
    refused(
        ShapeError,
        "input_ids: 0 image placeholders (id 20), but no pixel_values and image_grid_thw; give both",
        words(14, 1, 4), image_grid_thw=grid,
    )  # fmt: skip
    refused(
        ShapeError,
        "input_ids: 7 video placeholders, but video_grid_thw [[2, 4, 4]] makes 8 tokens (t h w / spatial_merge_size "
        "2^2); give one placeholder for each",
        torch.where(torch.arange(ids.shape[1]) == 4, 0, ids), **clip,
    )  # fmt: skip
    refused(
        ShapeError,
        "input_ids: 0 image placeholders, but image_grid_thw [[2, 4, 4]] makes 8 tokens (t h w / spatial_merge_size "
        "2^2); give one placeholder for each",
        ids, pixel_values=pixels, image_grid_thw=grid,
    )  # fmt: skip
    refused(
        ShapeError,
        "grid: gt=2, gh=3, gw=4, expected at least 1 of each, gh and gw multiples of spatial_merge_size 2",
        ids, pixel_values_videos=pixels, video_grid_thw=torch.tensor([[2, 3, 4]]),
    )  # fmt: skip
    refused(
        ShapeError,
        "pixel_values: 31 patches, but grid_thw [[2, 4, 4]] has 32; give the rows of all pictures and clips, and one "
        "grid for each",
        ids, pixel_values_videos=pixels[1:], video_grid_thw=grid,
    )  # fmt: skip


def test_shapes_that_do_not_fit_are_refused_with_the_numbers(unchecked):
    ids = words(15, 2, 5)
    refused(
        ShapeError,
        "attention_mask: shape (2, 4), expected that of input_ids, (2, 5); with a cache, give the mask of the new ids "
        "alone",
        ids, torch.ones(2, 4),
    )  # fmt: skip
    refused(
        ShapeError,
        "position_ids: shape (3, 2, 5), expected (2, 5, 3): time, row and column of every token",
        ids, position_ids=torch.zeros(3, 2, 5, dtype=torch.long),
    )  # fmt: skip
    refused(ShapeError, "keep: shape (2, 4), expected one entry a token, (2, 5)", ids, keep=torch.ones(2, 4).bool())
    for lengths, words_ in (([2, 2], "[2, 2], 4"), ([3, 0, 2], "[3, 0, 2], 5"), ([], "[], 0")):
        refused(
            ShapeError,
            f"document_lengths: {words_} tokens in all, expected those of one row; input_ids is (1, 5)",
            ids[:1], document_lengths=lengths,
        )  # fmt: skip
    refused(
        ShapeError,
        "document_lengths: [2, 3], 5 tokens in all, expected those of one row; input_ids is (2, 5)",
        ids, document_lengths=[2, 3],
    )  # fmt: skip
    model = make(15)
    cache = model.make_cache()
    refused(
        ValueError,
        "document_lengths: with a cache every row is one text; give one or the other",
        ids[:1], document_lengths=[5], cache=cache,
    )  # fmt: skip
    with torch.no_grad():
        model(ids, cache=cache)
    refused(
        ShapeError,
        "input_ids: b=1 rows, but the cache has read 2; a cache serves one batch",
        ids[:1], cache=cache, model=model,
    )  # fmt: skip


@pytest.mark.parametrize(
    "numbers, words_",
    [
        ({name: 0}, f"{name}=0 is not at least 1")
        for name in (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
            "intermediate_size",
        )
    ]
    + [({name: 0.0}, f"{name}=0.0 is not above 0") for name in ("rms_norm_eps", "rope_theta", "initializer_range")]
    + [
        ({"num_key_value_heads": 3}, "num_attention_heads=4 is not a multiple of num_key_value_heads=3"),
        ({"head_dim": 9}, "head_dim=9 is odd: rotation turns pairs of numbers"),
        ({"mrope_section": (1, 1, 1)}, "mrope_section=(1, 1, 1) has 3 pairs, but head_dim=8 has 4"),
        (
            {"mrope_section": (1, 2, 1)},
            "sections are [1, 2, 1]: taken in turns, row or column has more pairs than there are",
        ),
        ({"mrope_section": (2, 2)}, "sections are [2, 2], expected three numbers of at least 0: time, row and column"),
    ],
)  # fmt: skip
def test_numbers_of_the_language_model_that_do_not_fit_are_refused(numbers, words_, unchecked):
    with pytest.raises(ValueError) as error:
        replace(TEXT, **numbers)
    assert str(error.value) == words_


@pytest.mark.parametrize(
    "numbers, words_",
    [
        ({"image_token_id": 24}, "image_token_id=24 is no token of vocab_size=24"),
        ({"video_token_id": -1}, "video_token_id=-1 is no token of vocab_size=24"),
        ({"vision_start_token_id": 99}, "vision_start_token_id=99 is no token of vocab_size=24"),
        ({"vision_end_token_id": 24}, "vision_end_token_id=24 is no token of vocab_size=24"),
        ({"video_token_id": IMAGE}, "image_token_id and video_token_id are both 20"),
        (
            {"vision_config": replace(VISION, out_hidden_size=12)},
            "vision_config.out_hidden_size=12 is not text_config.hidden_size=10, the width of a token",
        ),
        ({"kernel": "quick"}, "kernel='quick' is none of plain, blocks, fused, fastest"),
    ],
)
def test_numbers_of_the_whole_that_do_not_fit_are_refused(numbers, words_):
    with pytest.raises(ValueError) as error:
        replace(SMALL, **numbers)
    assert str(error.value) == words_


def test_the_defaults_are_those_of_the_published_model():
    assert Qwen3VLConfig() == Qwen3VLConfig(
        Qwen3VLTextConfig(151936, 2560, 36, 32, 8, 128, 9728, 1e-6, 5_000_000.0, (24, 20, 20), False, 0.02),
        Qwen3VLVisionConfig(),
        151655,
        151656,
        151652,
        151653,
        True,
        "fastest",
    )


# ---- a live peer


CONFIGURATIONS = {
    "merge size 3, one frame deep": ({}, {"spatial_merge_size": 3, "temporal_patch_size": 1}, True),
    "merge size 1, three frames deep, no deepstack": (
        {"num_key_value_heads": 1},
        {"spatial_merge_size": 1, "temporal_patch_size": 3, "deepstack_visual_indexes": []},
        False,
    ),
    "heads alone, bias, more levels than layers": (
        {"num_key_value_heads": 6, "attention_bias": True, "num_hidden_layers": 2},
        {"deepstack_visual_indexes": [0, 1, 2, 3], "depth": 4, "patch_size": 5},
        True,
    ),
    "wide heads, one level, exact GELU": (
        {"num_key_value_heads": 2, "head_dim": 24, "mrope_section": [4, 4, 4], "rms_norm_eps": 1e-5},
        {"deepstack_visual_indexes": [2], "num_heads": 4, "hidden_size": 32, "hidden_act": "gelu"},
        False,
    ),
}


@pytest.mark.parity
@pytest.mark.parametrize("text, vision, tied", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@pytest.mark.filterwarnings("default")
def test_logits_equal_a_live_peer_s(text, vision, tied):
    pytest.importorskip("transformers")
    let_torchvision_load()
    from transformers import Qwen3VLConfig as PeerConfig
    from transformers import Qwen3VLForConditionalGeneration as Peer

    text = {
        "vocab_size": 40, "hidden_size": 20, "num_hidden_layers": 3, "num_attention_heads": 6, "head_dim": 12,
        "num_key_value_heads": 3, "intermediate_size": 28, "mrope_section": [2, 2, 2], "rms_norm_eps": 1e-6,
    } | text  # fmt: skip
    rotary = {"rope_theta": 1000.0, "rope_type": "default", "mrope_interleaved": True}
    text["rope_parameters"] = rotary | {"mrope_section": text.pop("mrope_section")}
    vision = {
        "depth": 3, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "patch_size": 2, "in_channels": 3,
        "temporal_patch_size": 2, "spatial_merge_size": 2, "num_position_embeddings": 16, "out_hidden_size": 20,
        "deepstack_visual_indexes": [0, 2],
    } | vision  # fmt: skip
    config = PeerConfig(
        text_config=text, vision_config=vision, image_token_id=36, video_token_id=37, vision_start_token_id=38,
        vision_end_token_id=39, tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(0)
    peer = Peer._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for i, weight in enumerate(peer.parameters()):
            weight.add_(normal(i, *weight.shape) * (0.3 if weight.ndim == 1 else weight[0].numel() ** -0.5))
    ours = qwen3_vl_of_published(config.to_dict(), peer.state_dict())
    m, box = vision["spatial_merge_size"], 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2

    def group(token, h, w):
        return [38, *[token] * (h * w), 39]

    rows = [
        [1, 2, *group(36, 2, 3), 3, *group(37, 2, 2), 4, *group(37, 2, 2), 5, 6],
        [7, 8, 9],
        [10, *group(37, 1, 3), 11, *group(36, 1, 1), *group(36, 3, 2), 12],
    ]
    n = max(map(len, rows))
    ids = torch.tensor([[0] * (n - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (n - len(row)) + [1] * len(row) for row in rows])
    images = torch.tensor([[1, 2 * m, 3 * m], [1, m, m], [1, 3 * m, 2 * m]])
    videos = torch.tensor([[2, 2 * m, 2 * m], [1, m, 3 * m]])
    inputs = {
        "input_ids": ids, "attention_mask": mask,
        "pixel_values": normal(1, int(images.prod(1).sum()), box), "image_grid_thw": images,
        "pixel_values_videos": normal(2, int(videos.prod(1).sum()), box), "video_grid_thw": videos,
    }  # fmt: skip
    kinds = (ids == 36) + 2 * (ids == 37)
    with torch.no_grad():
        want = peer(**inputs, mm_token_type_ids=kinds).logits
        cache = ours.make_cache()
        got = ours(**inputs, cache=cache)
        equals_golden(got[mask.bool()], want[mask.bool()])
        said = peer.generate(
            **inputs, mm_token_type_ids=kinds, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0
        )[:, n:]
        new = got[:, -1].argmax(-1)
        for step in range(5):
            assert torch.equal(new, said[:, step])
            new = ours(new[:, None], cache=cache)[:, -1].argmax(-1)
    assert torch.equal(generate(ours, inputs, max_new_tokens=5, pad_token_id=0), said)
