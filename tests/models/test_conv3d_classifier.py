from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from strategies import normal, seeds, with_biases
from torch import nn
from torch.nn import functional as F

from minivid.layers.conv3d import Conv2Plus1d
from minivid.models.conv3d_classifier import (
    SMALL_CONFIG,
    Conv3dClassifier,
    Conv3dClassifierConfig,
    Factorised,
    ResidualBlock,
)
from minivid.shapes import ShapeError

TINY = Conv3dClassifierConfig(
    image_size=11,
    num_frames=5,
    num_channels=2,
    num_labels=3,
    hidden_sizes=(3, 4),
    depths=(1, 2),
    stem_size=5,
    initializer_range=0.3,
    group_norm_eps=1e-3,
)


def make(seed=0, config=TINY):
    torch.manual_seed(seed)
    return with_biases(Conv3dClassifier(config).eval(), seed)


def clips(seed, b=2, config=TINY):
    return normal(seed, b, config.num_frames, config.num_channels, config.image_size, config.image_size)


def by_torch(model, x):
    """The same network of torch's convolutions and norms, written out."""
    state, eps = model.state_dict(), model.config.group_norm_eps

    def norm(x, name):
        return F.group_norm(x, 1, state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def factorised(x, name, stride, side):
        x = F.conv3d(x, state[f"{name}.0.spatial.weight"], None, (1, stride[1], stride[1]), (0, side // 2, side // 2))
        x = F.relu(norm(x, f"{name}.0.activation.0"))
        x = F.conv3d(x, state[f"{name}.0.temporal.weight"], None, (stride[0], 1, 1), (1, 0, 0))
        return norm(x, f"{name}.1")

    x = F.relu(factorised(x.transpose(1, 2), "stem", (1, 2), model.config.stem_size))
    for number, depth in enumerate(model.config.depths):
        for block in range(depth):
            name, stride = f"stages.{number}.{block}", 2 if number and not block else 1
            y = F.relu(factorised(x, f"{name}.first", (stride, stride), 3))
            y = factorised(y, f"{name}.second", (1, 1), 3)
            if f"{name}.shortcut.0.weight" in state:
                x = norm(F.conv3d(x, state[f"{name}.shortcut.0.weight"], None, stride), f"{name}.shortcut.1")
            x = F.relu(x + y)
    return F.linear(x.mean((2, 3, 4)), state["classifier.weight"], state["classifier.bias"])


@given(seed=seeds)
@settings(max_examples=8)
def test_equals_the_network_built_of_torch_parts(seed):
    model, x = make(seed), clips(seed + 1)
    with torch.no_grad():
        # Seven convolutions of float32, sums of at most 50 products.
        torch.testing.assert_close(model(x), by_torch(model, x), atol=2e-5, rtol=1e-4)


def test_batch_of_two_is_two_batches_of_one_even_while_training():
    model, x = make(1).train(), clips(2)
    with torch.no_grad():
        torch.testing.assert_close(model(x), torch.cat([model(x[:1]), model(x[1:])]), atol=1e-5, rtol=1e-4)


def test_the_answer_is_the_same_twice_and_dropout_is_for_training_only():
    model, x = make(3, replace(TINY, hidden_dropout_prob=0.5)), clips(4)
    with torch.no_grad():
        assert torch.equal(model(x), model(x))
        model.train()
        assert not torch.equal(model(x), model(x))


def test_features_are_the_mean_of_moments_and_the_classifier_reads_them():
    model, x = make(5), clips(6, b=3)
    with torch.no_grad():
        moments, features = model.moment_features(x), model.features(x)
        assert moments.shape == (3, 3, 4) and TINY.num_moments == 3  # 5 frames, halved once and rounded up
        torch.testing.assert_close(features, moments.mean(1))
        torch.testing.assert_close(model(x), model.classifier(features))


@pytest.mark.parametrize("frames, stages, moments", [(1, 1, 1), (8, 1, 8), (8, 2, 4), (9, 3, 3), (16, 4, 2), (4, 4, 1)])
def test_every_stage_but_the_first_halves_the_moments(frames, stages, moments):
    config = replace(TINY, num_frames=frames, hidden_sizes=(2,) * stages, depths=(1,) * stages, image_size=8)
    with torch.no_grad():
        assert make(0, config).moment_features(clips(0, config=config)).shape == (2, moments, 2)
    assert config.num_moments == moments


def test_it_tells_a_clip_from_the_same_backwards_but_not_one_that_stands_still():
    model, x = make(7), clips(8)
    still = x[:, :1].expand_as(x)
    with torch.no_grad():
        assert (model(x) - model(x.flip(1))).abs().max() > 1e-2
        assert torch.equal(model(still), model(still.flip(1)))


def test_training_reaches_every_weight():
    model = make(9)
    model(clips(10)).square().sum().backward()
    assert [name for name, weight in model.named_parameters() if not weight.grad.abs().max() > 1e-6] == []


def test_gradcheck():
    config = replace(TINY, image_size=3, num_frames=2, hidden_sizes=(2,), depths=(1,), stem_size=3)
    model = make(11, config).double()
    x = clips(12, b=1, config=config).double().requires_grad_()
    assert torch.autograd.gradcheck(model, (x,))


def test_a_block_that_adds_nothing_is_its_shortcut():
    torch.manual_seed(0)
    block, x = ResidualBlock(3, 3, 1), normal(1, 2, 3, 4, 5, 6)
    with torch.no_grad():
        block.second[1].weight.zero_()
        assert torch.equal(block(x), x.relu())
    assert isinstance(block.shortcut, nn.Identity)
    assert ResidualBlock(3, 5, 1)(x).shape == (2, 5, 4, 5, 6)
    assert ResidualBlock(3, 3, 2)(x).shape == (2, 3, 2, 3, 3)


def test_kernels_begin_with_he_s_spread_and_the_classifier_with_the_configured_one():
    torch.manual_seed(0)
    model = Conv3dClassifier(replace(TINY, hidden_sizes=(16, 32), num_labels=1000))
    assert isinstance(model.stem, Factorised) and isinstance(model.stem[0], Conv2Plus1d)
    temporal = model.stages[1][0].second[0].temporal.weight  # 32 channels out, three frames
    # 3 x 72 x 32 = 6912 numbers tell the deviation to 0.9 %.
    assert temporal.std().item() == pytest.approx((2 / (32 * 3)) ** 0.5, rel=0.04)
    assert model.classifier.weight.std().item() == pytest.approx(0.3, rel=0.02)
    assert not model.classifier.bias.any()


def test_the_default_is_the_published_network():
    with torch.device("meta"):
        model = Conv3dClassifier(Conv3dClassifierConfig(num_labels=400))
        (x,) = model.example_inputs(3)
        assert x.shape == (3, 16, 3, 112, 112) and model(x).shape == (3, 400)
        assert model.moment_features(x).shape == (3, 2, 512)
    # The paper's table 2: 33.3 million weights.
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(33.3e6, rel=0.01)


def test_the_small_one_reads_small_clips():
    assert (SMALL_CONFIG.num_frames, SMALL_CONFIG.image_size, SMALL_CONFIG.num_labels) == (8, 32, 4)


def test_clips_of_another_size_are_refused():
    with pytest.raises(ShapeError, match=r"\(2, 5, 2, 11, 12\).*\(5, 2, 11, 11\)"):
        make()(torch.zeros(2, 5, 2, 11, 12))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"image_size": 0}, "image_size=0 is not at least 1"),
        ({"hidden_sizes": (3, 0)}, "hidden_sizes=(3, 0) is not at least 1"),
        ({"depths": ()}, "depths=() is not at least 1"),
        ({"stem_size": 0}, "stem_size=0 is not at least 1"),
        ({"stem_size": 4}, "stem_size=4 is not odd: only then has the kernel a middle"),
        ({"group_norm_eps": 0.0}, "group_norm_eps=0.0 is not above 0"),
        (
            {"depths": (1, 2, 3)},
            "hidden_sizes (3, 4) has 2 stages and depths (1, 2, 3) has 3; give one number of each for every stage",
        ),
    ],
)
def test_the_configuration_checks_its_numbers(change, words):
    with pytest.raises(ValueError) as error:
        replace(TINY, **change)
    assert str(error.value) == words
