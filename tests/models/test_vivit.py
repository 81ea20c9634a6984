from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import normal, seeds
from torch import nn

from minivid.models.vivit import ViViT, ViViTConfig
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


def shake(model, seed):
    """Give biases and norms values that matter: fresh ones are 0 and 1, where a lost one would not show."""
    with torch.no_grad():
        for i, weight in enumerate(model.parameters()):
            if weight.ndim == 1:
                weight.add_(0.3 * normal(seed + i, *weight.shape))
    return model


@given(seed=seeds)
@settings(max_examples=10)
def test_equals_the_model_built_of_torch_parts(seed):
    ours = shake(make(seed), seed)
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
    model = shake(make(3), 3)
    model(clips(4)).square().sum().backward()
    # A key's bias adds one number to all scores of a query, and softmax does not see it.
    silent = [name for name, weight in model.named_parameters() if not weight.grad.abs().max() > 1e-6]
    assert all(name.endswith("k_proj.bias") for name in silent)


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
    ],
)
def test_the_configuration_checks_its_numbers(change, words):
    with pytest.raises(ValueError, match=".*".join(words)):
        replace(SMALL, **change)
