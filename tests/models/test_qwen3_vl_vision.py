from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from models.golden import States, equals_golden, golden_model, noted
from strategies import normal, seeds, with_biases
from torch import nn

from minivid.layers.attention import KERNELS
from minivid.layers.feed_forward import block_gelu_tanh, gelu, gelu_tanh
from minivid.models.qwen3_vl_vision import (
    SMALL_CONFIG,
    Qwen3VLVision,
    Qwen3VLVisionConfig,
    initialize,
)
from minivid.shapes import Grid, ShapeError

SMALL = Qwen3VLVisionConfig(
    depth=3,
    hidden_size=16,
    num_heads=2,
    intermediate_size=20,
    patch_size=3,
    temporal_patch_size=2,
    spatial_merge_size=2,
    in_channels=1,
    num_position_embeddings=9,
    out_hidden_size=10,
    deepstack_visual_indexes=(0, 2),
    initializer_range=0.3,
)


def make(seed=0, config=SMALL, **options):
    torch.manual_seed(seed)
    return with_biases(Qwen3VLVision(config, **options), seed).eval()


def clips(seed, *grids, config=SMALL):
    grids = torch.tensor(grids)
    return normal(seed, int(grids.prod(1).sum()), config.box_size), grids


# ---- the published model


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind, pixels, grids", [
    ("image", "pixel_values", "image_grid_thw"), ("video", "pixel_values_videos", "video_grid_thw"),
])  # fmt: skip
def test_every_state_equals_the_published_model_s(kind, pixels, grids, kernel):
    visual = golden_model(kernel).visual
    blocks = [f"blocks.{i}" for i in range(3)]
    with torch.no_grad(), States(visual, *blocks) as states:
        made = visual(*noted(pixels, grids))
    for i, block in enumerate(blocks):
        equals_golden(states.rows(block), *noted(f"{kind}_block_{i}"))
    equals_golden(made.merged, *noted(f"{kind}_merged"))
    assert len(made.deepstack) == 2
    for i, level in enumerate(made.deepstack):
        equals_golden(level, *noted(f"{kind}_deepstack_{i}"))


# ---- who sees whom


@given(seed=seeds)
@settings(max_examples=10)
def test_pictures_together_are_pictures_alone(seed):
    model = make(seed)
    grids = [(1, 2, 4), (3, 4, 4), (2, 4, 4), (1, 2, 4), (1, 4, 2)]
    pixels, together = clips(seed, *grids)
    with torch.no_grad():
        made = model(pixels, together)
        alone, start = [], 0
        for grid in grids:
            rows = grid[0] * grid[1] * grid[2]
            alone.append(model(pixels[start : start + rows], torch.tensor([grid])))
            start += rows
    torch.testing.assert_close(made.merged, torch.cat([each.merged for each in alone]), atol=1e-5, rtol=1e-4)
    for i, level in enumerate(made.deepstack):
        torch.testing.assert_close(level, torch.cat([each.deepstack[i] for each in alone]), atol=1e-5, rtol=1e-4)


def test_frame_groups_of_equal_size_that_follow_each_other_are_one_batch():
    model = make(1)
    with torch.no_grad(), States(model, "blocks.1") as states:
        model(*clips(1, (3, 4, 4), (2, 4, 4), (1, 2, 4), (1, 4, 4)))
    assert [tuple(x.shape) for x in states.seen["blocks.1"]] == [(5, 16, 16), (1, 8, 16), (1, 16, 16)]


@given(seed=seeds)
@settings(max_examples=10)
def test_a_patch_is_seen_by_its_frame_group_alone(seed):
    model, (pixels, grid) = make(seed), clips(seed, (3, 4, 2))
    other = pixels.clone()
    other[8 + seed % 8, seed % 7] += 3.0  # in the second group
    with torch.no_grad():
        moved = (model(pixels, grid).merged - model(other, grid).merged).abs().amax(1) > 1e-5
    assert moved.tolist() == [False] * 2 + [True] * 2 + [False] * 2


def test_the_same_group_at_another_time_gives_the_same_tokens():
    model, (pixels, grid) = make(2), clips(2, (2, 4, 4))
    with torch.no_grad():
        merged = model(pixels.roll(16, 0), grid).merged
        torch.testing.assert_close(merged, model(pixels, grid).merged.roll(4, 0), atol=1e-5, rtol=1e-4)


def test_places_matter_and_each_is_told_by_table_and_rotation():
    pixels, grid = clips(3, (1, 4, 4))
    swapped = torch.cat([pixels[4:8], pixels[:4], pixels[8:]])  # two blocks change places
    order = [1, 0, 2, 3]
    for keep_table, keep_rotation in ((True, False), (False, True), (False, False)):
        model = make(3, SMALL if keep_rotation else replace(SMALL, rope_theta=1e30))
        with torch.no_grad():
            if not keep_table:
                model.pos_embed.weight.zero_()
            moved = (model(pixels, grid).merged[order] - model(swapped, grid).merged).abs().max()
        # With a base of 1e30 the first pair of each axis still turns.
        assert moved > 1e-3


# ---- levels of DeepStack


@pytest.mark.parametrize(
    "indexes, blocks", [((), []), ((1,), [1]), ((2, 0), [0, 2]), ((0, 1, 2), [0, 1, 2]), ((1, 7), [1])]
)
def test_levels_come_in_the_order_of_the_blocks_and_those_behind_the_last_never(indexes, blocks):
    model = make(4, replace(SMALL, deepstack_visual_indexes=indexes))
    pixels, grid = clips(4, (1, 4, 4))
    with torch.no_grad(), States(model, *(f"blocks.{i}" for i in range(3))) as states:
        made = model(pixels, grid)
        assert len(made.deepstack) == len(blocks) and len(model.deepstack_merger_list) == len(indexes)
        for level, block in zip(made.deepstack, blocks, strict=True):
            merger = model.deepstack_merger_list[indexes.index(block)]
            torch.testing.assert_close(level, merger(states.rows(f"blocks.{block}")))
        torch.testing.assert_close(made.merged, model.merger(states.rows("blocks.2")))


def test_merging_uses_the_exact_gelu_and_the_blocks_its_approximation():
    assert make(5).blocks[1].feed_forward.activation is block_gelu_tanh
    model = make(5, replace(SMALL, hidden_act="gelu"))
    assert model.blocks[1].feed_forward.activation is gelu
    merger, tokens = model.merger, normal(5, 4, 16)
    with torch.no_grad():
        hidden = merger.linear_fc1(merger.norm(tokens).reshape(1, 64))
        torch.testing.assert_close(merger(tokens), merger.linear_fc2(gelu(hidden)))
        assert (merger(tokens) - merger.linear_fc2(gelu_tanh(hidden))).abs().max() > 1e-5


# ---- weights, kinds of numbers, examples


def test_training_reaches_every_weight():
    model = make(6)
    made = model(*clips(6, (2, 4, 4)))
    sum(x.square().sum() for x in (made.merged, *made.deepstack)).backward()
    # A key's bias adds one number to all scores of a query, and softmax does not see it.
    silent = [name for name, weight in model.named_parameters() if not weight.grad.abs().max() > 1e-6]
    assert all(name.endswith("k_proj.bias") for name in silent)


def test_gradcheck():
    config = replace(SMALL, depth=1, hidden_size=4, num_heads=1, patch_size=1, intermediate_size=2, out_hidden_size=2)
    model = make(7, replace(config, deepstack_visual_indexes=(0,))).double()
    pixels, grid = clips(7, (2, 2, 2), config=config)

    def made(pixels):
        merged, deepstack = model(pixels, grid)
        return merged, *deepstack

    assert torch.autograd.gradcheck(made, (pixels.double().requires_grad_(),))


def test_first_weights_are_drawn_with_the_deviation_of_the_configuration():
    model = Qwen3VLVision(replace(SMALL_CONFIG, initializer_range=0.5))
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            assert 0.4 < weight.std() < 0.6, name
        else:
            assert torch.equal(weight, torch.full_like(weight, float(not name.endswith("bias")))), name


def test_initialize_draws_any_model():
    model = nn.Sequential(nn.Linear(40, 50), nn.LayerNorm(50))
    with torch.no_grad():
        model[1].weight.zero_()
    initialize(model, 3.0)
    assert 2.5 < model[0].weight.std() < 3.5 and torch.equal(model[1].weight, torch.ones(50))
    assert torch.equal(model[0].bias, torch.zeros(50)) and torch.equal(model[1].bias, torch.zeros(50))


def test_half_precision_is_near():
    model, (pixels, grid) = make(8), clips(8, (2, 4, 4))
    with torch.no_grad():
        want = model(pixels, grid).merged
        got = model.bfloat16()(pixels, grid).merged  # pixels are brought to the weights' kind of numbers
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).abs().max() < 0.05 * want.abs().max()


@pytest.mark.parametrize("config", [SMALL, SMALL_CONFIG, replace(SMALL, spatial_merge_size=3, temporal_patch_size=1)])
def test_example_inputs_are_taken(config):
    model = make(9, config)
    pixels, grid = model.example_inputs(3)
    assert pixels.shape == (3 * 2 * 4 * config.spatial_merge_size**2, config.box_size)
    with torch.no_grad():
        made = model(pixels, grid)
    assert made.merged.shape == (3 * 2 * 4, config.out_hidden_size)
    assert [level.shape for level in made.deepstack] == [made.merged.shape] * len(config.deepstack_visual_indexes)


def test_look_takes_frame_groups_of_one_size():
    model, x = make(10), normal(10, 3, 8, 16)
    with torch.no_grad():
        merged, *levels = model.look(x, Grid(1, 2, 4))
    assert merged.shape == (6, 10) and [level.shape for level in levels] == [(6, 10)] * 2


# ---- what does not fit

BOX = "expected rows of 18 = 1 channels x 2 frames x 3 x 3 pixels"


@pytest.mark.parametrize(
    "shape, grids, words",
    [
        ((16, 17), [[1, 4, 4]], f"pixel_values: shape (16, 17), {BOX}"),
        ((2, 8, 18), [[1, 4, 4]], f"pixel_values: shape (2, 8, 18), {BOX}"),
        ((16, 18), [1, 4, 4], "grid_thw: shape (3,), expected one row (t, h, w) for each picture or clip"),
        ((16, 18), [[4, 4]], "grid_thw: shape (1, 2), expected one row (t, h, w) for each picture or clip"),
        (
            (12, 18),
            [[1, 3, 4]],
            "grid: gt=1, gh=3, gw=4, expected at least 1 of each, gh and gw multiples of spatial_merge_size 2",
        ),
        (
            (24, 18),
            [[1, 4, 4], [1, 2, 2]],
            "pixel_values: 24 patches, but grid_thw [[1, 4, 4], [1, 2, 2]] has 20; give the rows of all pictures and "
            "clips, and one grid for each",
        ),
    ],
)  # fmt: skip
def test_patches_and_grids_that_do_not_fit_are_refused_with_the_numbers(shape, grids, words, unchecked):
    with pytest.raises(ShapeError) as error:
        make(11)(torch.zeros(shape), torch.tensor(grids))
    assert str(error.value) == words


def test_no_grid_at_all_is_refused(unchecked):
    with pytest.raises(ShapeError, match=r"^grid_thw: shape \(0, 3\), expected one row"):
        make(11)(torch.zeros(0, 18), torch.zeros(0, 3, dtype=torch.long))


@pytest.mark.parametrize(
    "numbers, words",
    [
        ({name: 0}, f"{name}=0 is not at least 1")
        for name in (
            "depth", "hidden_size", "num_heads", "intermediate_size", "patch_size", "temporal_patch_size",
            "spatial_merge_size", "in_channels", "num_position_embeddings", "out_hidden_size",
        )
    ]
    + [
        (
            {"hidden_size": 20},
            "hidden_size=20 is not a multiple of 4 num_heads = 8: a head turns pairs of numbers by the row and as many "
            "by the column",
        ),
        ({"num_position_embeddings": 10}, "num_position_embeddings=10 is not a square number"),
        ({"deepstack_visual_indexes": (1, -1)}, "deepstack_visual_indexes=(1, -1) holds a number below 0"),
        ({"hidden_act": "tanh"}, "hidden_act='tanh' is none of gelu, gelu_tanh, relu, silu"),
        ({"initializer_range": 0.0}, "initializer_range=0.0 is not above 0"),
    ],
)  # fmt: skip
def test_numbers_that_do_not_fit_together_are_refused(numbers, words):
    with pytest.raises(ValueError) as error:
        replace(SMALL, **numbers)
    assert str(error.value) == words


def test_the_defaults_are_those_of_the_published_model():
    config = Qwen3VLVisionConfig()
    assert (config.table_size, config.box_size) == (48, 1536)
    assert config == Qwen3VLVisionConfig(
        24, 1024, 16, 4096, 16, 2, 2, 3, 2304, 2560, (5, 11, 17), "gelu_tanh", 10000.0, 0.02
    )
    assert SMALL_CONFIG.box_size == 3 * 2 * 64
