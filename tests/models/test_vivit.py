from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import normal, seeds, with_biases
from torch import nn

from minivid.layers.feed_forward import block_gelu_tanh
from minivid.models.vivit import SpaceTimeBlock, ViViT, ViViTConfig, by_moment, from_moments
from minivid.shapes import Grid, ShapeError

SMALL = ViViTConfig(
    image_size=6,
    num_frames=4,
    tubelet_size=(2, 3, 3),
    num_channels=5,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=7,
    initializer_range=0.3,
    num_labels=3,
)


def make(seed=0, config=SMALL):
    torch.manual_seed(seed)
    return ViViT(config).eval()


def clips(seed, b=2, config=SMALL):
    return normal(seed, b, config.num_frames, config.num_channels, config.image_size, config.image_size)


class Torch(nn.Module):
    """The same model of torch's own parts, with the weights of ours."""

    def __init__(self, ours):
        super().__init__()
        config, self.ours = ours.config, ours
        d = config.hidden_size
        self.stem = ours.patch_embed.proj
        layer = nn.TransformerEncoderLayer(
            d, config.num_attention_heads, config.intermediate_size, dropout=0.0, activation="gelu",
            layer_norm_eps=config.layer_norm_eps, batch_first=True, norm_first=True,
        )  # fmt: skip
        norm = nn.LayerNorm(d, config.layer_norm_eps)
        self.encoder = nn.TransformerEncoder(layer, config.num_hidden_layers, norm, enable_nested_tensor=False)
        with torch.no_grad():
            for theirs, block in zip(self.encoder.layers, ours.blocks, strict=True):
                a = block.attention
                theirs.self_attn.in_proj_weight.copy_(torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]))
                theirs.self_attn.in_proj_bias.copy_(torch.cat([a.q_proj.bias, a.k_proj.bias, a.v_proj.bias]))
                theirs.self_attn.out_proj.load_state_dict(a.out_proj.state_dict())
                theirs.linear1.load_state_dict(block.feed_forward.up_proj.state_dict())
                theirs.linear2.load_state_dict(block.feed_forward.down_proj.state_dict())
                theirs.norm1.load_state_dict(block.attention_norm.state_dict())
                theirs.norm2.load_state_dict(block.feed_forward_norm.state_dict())
            norm.load_state_dict(ours.norm.state_dict())

    def forward(self, x):
        x = self.stem(x.transpose(1, 2)).flatten(2).transpose(1, 2)
        x = torch.cat([self.ours.class_token.expand(len(x), -1, -1), x], dim=1) + self.ours.positions
        return self.ours.classifier(self.encoder(x)[:, 0])


@given(seed=seeds)
@settings(max_examples=10)
def test_equals_the_model_built_of_torch_parts(seed):
    ours = with_biases(make(seed), seed)
    x = clips(seed + 1)
    with torch.no_grad():
        # Two blocks of float32 sums of at most 90 products of size 1.
        torch.testing.assert_close(ours(x), Torch(ours).eval()(x), atol=2e-5, rtol=1e-4)


@given(seed=seeds)
@settings(max_examples=10)
def test_batch_of_two_is_two_batches_of_one(seed):
    model, x = make(seed), clips(seed)
    with torch.no_grad():
        torch.testing.assert_close(model(x), torch.cat([model(x[:1]), model(x[1:])]), atol=1e-5, rtol=1e-4)


@given(seed=seeds, t=st.integers(0, 3), c=st.integers(0, 4), h=st.integers(0, 5), w=st.integers(0, 5))
@settings(max_examples=20)
def test_every_pixel_is_read(seed, t, c, h, w):
    model, x = make(seed), clips(seed, b=1)
    other = x.clone()
    other[0, t, c, h, w] += 3
    with torch.no_grad():
        assert (model(x) - model(other)).abs().max() > 1e-5


def test_without_positions_the_order_of_boxes_is_lost_and_with_them_it_is_not():
    model, x = make(1), clips(2, b=1)
    swapped = x.roll(2, dims=1)  # whole boxes change places in time
    with torch.no_grad():
        assert (model(x) - model(swapped)).abs().max() > 1e-3
        model.positions.zero_()
        torch.testing.assert_close(model(x), model(swapped), atol=1e-5, rtol=1e-4)


def test_training_reaches_every_weight():
    model = with_biases(make(3), 3)
    model(clips(4)).square().sum().backward()
    # A key's bias adds one number to all scores of a query, and softmax does not see it.
    silent = [name for name, weight in model.named_parameters() if not weight.grad.abs().max() > 1e-6]
    assert all(name.endswith("k_proj.bias") for name in silent)


# ---- who looks at whom


FACTORISED = {
    "factorised_encoder": replace(SMALL, attention_type="factorised_encoder", num_temporal_layers=2),
    "factorised_self_attention": replace(SMALL, attention_type="factorised_self_attention"),
}
EVERY = [SMALL, *FACTORISED.values()]


def named(config):
    return config.attention_type


@pytest.mark.parametrize("config", FACTORISED.values(), ids=named)
def test_with_one_moment_and_nothing_added_in_time_factorised_attention_is_joint(config):
    config = replace(config, num_frames=2)
    ours, joint = with_biases(make(1, config), 1), make(2, replace(SMALL, num_frames=2))
    for name, weight in ours.named_parameters():
        if "temporal" in name and ("out_proj" in name or "down_proj" in name or "positions" in name):
            nn.init.zeros_(weight)
    joint.load_state_dict({name: weight for name, weight in ours.state_dict().items() if "temporal" not in name})
    x = clips(3, config=config)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), joint(x), atol=1e-5, rtol=1e-4)  # two blocks of float32
        torch.testing.assert_close(ours.encode(ours.embed(x)), joint.encode(joint.embed(x)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", EVERY, ids=named)
@pytest.mark.parametrize("blocks", [1, 2])
def test_who_sees_a_changed_box(config, blocks):
    """Change the second box (first row, second column) of the first of three moments, and see whose result moves."""
    config = replace(config, num_frames=6, num_hidden_layers=blocks)
    model, x = with_biases(make(4, config), 4), clips(5, config=config)
    other = x.clone()
    other[:, :2, :, :3, 3:] += 1.0
    with torch.no_grad():
        moved = (model.encode(model.embed(x)) - model.encode(model.embed(other))).abs().amax((0, 2)) > 1e-5
    # Along time at its place, then around: in model 3 one block is enough for all to see all.
    later = [config.attention_type != "factorised_encoder"] * 8
    assert moved.tolist() == [True, *[True] * 4, *later]


@pytest.mark.parametrize("config", EVERY, ids=named)
def test_features_are_the_first_token_and_the_classifier_reads_them(config):
    model, x = with_biases(make(6, config), 6), clips(7, b=3, config=config)
    with torch.no_grad():
        tokens = model.encode(model.embed(x))
        assert tokens.shape == (3, 9, 8)
        torch.testing.assert_close(model.features(x), tokens[:, 0])
        torch.testing.assert_close(model(x), model.classifier(tokens[:, 0]))


@pytest.mark.parametrize("config", [SMALL, FACTORISED["factorised_self_attention"]], ids=named)
def test_a_moment_is_the_mean_of_its_boxes(config):
    config = replace(config, num_frames=6)
    model, x = with_biases(make(8, config), 8), clips(9, b=5, config=config)
    with torch.no_grad():
        moments, boxes = model.moment_features(x), model.encode(model.embed(x))[:, 1:]
    assert moments.shape == (5, 3, 8) and config.num_moments == 3
    for moment in range(3):
        torch.testing.assert_close(moments[:, moment], boxes[:, 4 * moment : 4 * moment + 4].mean(1))


def test_a_factorised_encoder_is_a_picture_s_encoder_on_every_moment_and_one_over_time():
    config = replace(FACTORISED["factorised_encoder"], num_frames=6)
    model, x = with_biases(make(10, config), 10), clips(11, b=5, config=config)
    pictures = with_biases(make(12, replace(SMALL, num_frames=2)), 12)
    pictures.load_state_dict({name: weight for name, weight in model.state_dict().items() if "temporal" not in name})
    pictures.norm = nn.Identity()
    with torch.no_grad():
        moments = torch.stack([pictures.features(x[:, i : i + 2]) for i in (0, 2, 4)], dim=1)  # b gt d
        moments = moments + model.temporal_positions
        for block in model.temporal_blocks:
            moments = block(moments)
        torch.testing.assert_close(model.moment_features(x), model.norm(moments), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(model.features(x), model.norm(moments.mean(1)), atol=1e-5, rtol=1e-4)


def test_a_space_time_block_is_its_three_parts_by_hand():
    torch.manual_seed(13)
    block, x = with_biases(SpaceTimeBlock(8, 2, 7, 3, norm_eps=1e-3), 13).eval(), normal(14, 5, 1 + 3 * 2, 8)
    first, boxes = x[:, :1], x[:, 1:].unflatten(1, (3, 2))  # b 1 d, b gt m d
    with torch.no_grad():
        norm, look = block.temporal_attention_norm, block.temporal_attention
        boxes = boxes + torch.stack([look(norm(boxes[:, :, i])) for i in range(2)], 2)
        norm, look = block.attention_norm, block.attention
        seen = [look(norm(torch.cat([first, boxes[:, i]], 1))) for i in range(3)]
        first = first + torch.stack([tokens[:, :1] for tokens in seen]).mean(0)
        boxes = boxes + torch.stack([tokens[:, 1:] for tokens in seen], 1)
        want = torch.cat([first, boxes.flatten(1, 2)], 1)
        want = want + block.feed_forward(block.feed_forward_norm(want))
        torch.testing.assert_close(block(x), want, atol=1e-5, rtol=1e-4)


@given(seed=seeds)
@settings(max_examples=10)
def test_from_moments_undoes_by_moment(seed):
    tokens = normal(seed, 3, 1 + 5 * 2, 7)
    parted = by_moment(tokens, 5)
    assert parted.shape == (15, 3, 7) and torch.equal(parted[5 + 2], tokens[1, [0, 5, 6]])
    torch.testing.assert_close(from_moments(parted, 5), tokens)


@pytest.mark.parametrize("config", FACTORISED.values(), ids=named)
def test_training_reaches_every_weight_of_factorised_models(config):
    model = with_biases(make(15, config), 15)
    model(clips(16, config=config)).square().sum().backward()
    unseen = [name for name, weight in model.named_parameters() if not weight.grad.abs().max() > 1e-6]
    assert all(name.endswith("k_proj.bias") for name in unseen)


@pytest.mark.parametrize("config", EVERY, ids=named)
def test_gradcheck(config):
    config = replace(config, num_channels=1, image_size=2, tubelet_size=(2, 1, 1), hidden_size=2, num_hidden_layers=1)
    config = replace(config, num_temporal_layers=min(config.num_temporal_layers, 1), intermediate_size=2)
    x = clips(17, b=1, config=config).double().requires_grad_()
    assert torch.autograd.gradcheck(make(18, config).double(), (x,))


@pytest.mark.parametrize("config", EVERY, ids=named)
@pytest.mark.parametrize("kernel", ["blocks", "fused"])
def test_every_kernel_gives_the_same(config, kernel):
    plain, other = make(19, config), make(20, replace(config, kernel=kernel))
    other.load_state_dict(plain.state_dict())
    x = clips(21, config=config)
    torch.testing.assert_close(other(x), plain(x), atol=1e-5, rtol=1e-4)


def test_without_qkv_bias_queries_keys_and_values_have_none_and_the_output_has():
    for config in EVERY:
        names = dict(make(22, replace(config, qkv_bias=False)).named_parameters())
        assert not [name for name in names if name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias"))]
        outputs = [name.removesuffix(".weight") for name in names if name.endswith("out_proj.weight")]
        assert outputs and all(f"{name}.bias" in names for name in outputs)


def test_the_activation_is_the_configured_one():
    assert make(23, replace(SMALL, hidden_act="relu")).blocks[1].feed_forward.activation is torch.relu
    assert make(23, replace(SMALL, hidden_act="gelu_tanh")).blocks[1].feed_forward.activation is block_gelu_tanh
    config = replace(FACTORISED["factorised_self_attention"], hidden_act="relu")
    assert make(24, config).blocks[1].feed_forward.activation is torch.relu


# ---- boxes that are hidden


@pytest.mark.parametrize("config", EVERY, ids=named)
def test_a_hidden_box_is_not_read_and_the_others_are(config):
    model, x = with_biases(make(25, config), 25), clips(26, config=config)
    masked = torch.zeros(2, 8, dtype=torch.bool)
    masked[0, 6] = True  # second moment, second row, first column
    other = x.clone()
    other[0, 2:, :, 3:, :3] += normal(27, 2, 5, 3, 3)
    with torch.no_grad():
        assert torch.equal(model.embed(x, masked), model.embed(other, masked))
        assert not torch.equal(model.embed(x), model.embed(other))
        changed = (model.embed(x, masked) != model.embed(x)).any(-1)
    assert changed[:, 1:].equal(masked) and not changed[:, 0].any()


def test_what_stands_for_a_hidden_box_keeps_its_position():
    model, x, token = with_biases(make(28), 28), clips(29), normal(30, 8)
    masked = torch.ones(2, 8, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(model.embed(x, masked)[:, 1:], model.positions[:, 1:].expand(2, -1, -1))
        got = model.embed(x, masked, token)[:, 1:]
        torch.testing.assert_close(got, (model.positions[:, 1:] + token).expand(2, -1, -1))
        assert torch.equal(model.embed(x, masked, token.view(1, 1, 8))[:, 1:], got)


def test_the_token_that_stands_for_hidden_boxes_learns():
    model, token = make(31), torch.zeros(8, requires_grad=True)
    model.encode(model.embed(clips(32), torch.ones(2, 8, dtype=torch.bool), token)).square().sum().backward()
    assert token.grad.abs().max() > 0


def test_masks_of_another_size_are_refused(unchecked):
    with pytest.raises(ShapeError) as error:
        make().embed(clips(0), torch.zeros(2, 7, dtype=torch.bool))
    assert str(error.value) == (
        "masked: shape (2, 7), expected (2, 8): one entry for each of the 2 x 2 x 2 boxes of 2 clips"
    )
    with pytest.raises(ShapeError) as error:
        make().embed(clips(0), torch.zeros(2, 8, dtype=torch.bool), torch.zeros(9))
    assert str(error.value) == "mask_token: shape (9,), expected (8,), the width of a token"


# ---- attention to look at


@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("config", FACTORISED.values(), ids=named)
def test_attention_of_a_factorised_model_is_that_of_each_moment_s_class_token(config, layer):
    config = replace(config, num_frames=6)
    model, x = make(5, config), clips(6, b=5, config=config)
    weights = model.attention(x, layer=layer)
    assert weights.shape == (5, 3, 2, 2)
    with torch.no_grad():
        tokens = model.embed(x)
        if config.attention_type == "factorised_encoder":
            tokens = by_moment(tokens, 3)
        for earlier in model.blocks[: range(2)[layer]]:
            tokens = earlier(tokens)
        block = model.blocks[layer]
        if config.attention_type == "factorised_self_attention":
            tokens = by_moment(block.look_along(tokens), 3)
        rows = block.attention.attention_weights(block.attention_norm(tokens)).mean(1)[:, 0].view(5, 3, 5)
    torch.testing.assert_close(weights.flatten(2), rows[:, :, 1:])
    torch.testing.assert_close(weights.sum((2, 3)) + rows[:, :, 0], torch.ones(5, 3))


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_attention_is_what_the_class_token_gives_away(layer):
    config = replace(SMALL, num_frames=6)
    model, x = make(5, config), clips(6, b=3, config=config)
    weights = model.attention(x, layer=layer)
    assert weights.shape == (3, *config.grid) and config.grid == Grid(3, 2, 2)
    block = model.blocks[layer]
    with torch.no_grad():
        tokens = model.embed(x)
        for earlier in model.blocks[: range(2)[layer]]:
            tokens = earlier(tokens)
        rows = block.attention.attention_weights(block.attention_norm(tokens)).mean(1)[:, 0]
    torch.testing.assert_close(weights.flatten(1).sum(1) + rows[:, 0], torch.ones(3))
    torch.testing.assert_close(weights[:, 2, 0, 1], rows[:, 1 + 2 * 4 + 0 * 2 + 1])  # time by time, in it row by row


def test_dropout_is_for_training_only():
    model, x = make(7, replace(SMALL, hidden_dropout_prob=0.5)), clips(8)
    with torch.no_grad():
        assert torch.equal(model(x), model(x))
        model.train()
        assert not torch.equal(model(x), model(x))


def test_initializer_range_is_the_spread_of_the_first_weights():
    weight = make(0, replace(SMALL, hidden_size=64, intermediate_size=512)).blocks[0].feed_forward.up_proj.weight
    # A normal distribution cut at two deviations has 0.880 of the deviation; 32768 samples tell it to 0.4 %.
    assert weight.std().item() == pytest.approx(0.880 * 0.3, rel=0.02)
    assert weight.abs().max() <= 0.6


def test_error_names_the_shape_that_came_and_the_one_expected():
    with pytest.raises(ShapeError, match=r"\(2, 3, 5, 6, 6\).*\(4, 5, 6, 6\)"):
        make()(torch.zeros(2, 3, 5, 6, 6))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"image_size": 7}, ("image_size=7", "multiple of 3", r"\(2, 3, 3\)")),
        ({"num_frames": 5}, ("num_frames=5", "multiple of 2")),
        ({"hidden_size": 9}, ("hidden_size=9", "multiple of 2", "num_attention_heads")),
        ({"tubelet_size": (2, 3, 4)}, (r"\(2, 3, 4\)", "square")),
        ({"tubelet_size": (0, 3, 3)}, (r"\(0, 3, 3\)", "below 1")),
        ({"num_labels": 0}, ("num_labels=0", "at least 1")),
        ({"hidden_dropout_prob": 1.0}, ("hidden_dropout_prob=1.0", "p < 1")),
        ({"layer_norm_eps": 0.0}, ("layer_norm_eps=0.0", "above 0")),
        ({"num_hidden_layers": 0}, ("num_hidden_layers=0", "at least 1")),
        ({"hidden_act": "mish"}, ("hidden_act='mish'", "gelu, gelu_tanh, relu, silu")),
        ({"attention_type": "divided"}, ("attention_type='divided'", "joint, factorised_encoder, factorised_self")),
        ({"num_temporal_layers": 2}, ("num_temporal_layers=2, expected 0", "'joint'")),
        (
            {"attention_type": "factorised_encoder"},
            (r"num_temporal_layers=0, expected at least 1 \(4 as published\)", "'factorised_encoder'"),
        ),
    ],
)
def test_the_configuration_checks_its_numbers(change, words):
    with pytest.raises(ValueError, match=".*".join(words)):
        replace(SMALL, **change)
