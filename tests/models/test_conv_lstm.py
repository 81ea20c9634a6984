from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from strategies import normal, seeds, with_biases
from torch import nn
from torch.nn import functional as F

from minivid.models.conv_lstm import SMALL_CONFIG, ConvLSTM, ConvLSTMConfig
from minivid.shapes import ShapeError

TINY = ConvLSTMConfig(
    image_size=8,
    num_frames=5,
    num_channels=2,
    num_labels=3,
    conv_sizes=(3, 4),
    hidden_size=6,
    num_hidden_layers=2,
    initializer_range=0.3,
    group_norm_eps=1e-3,
)


def make(seed=0, config=TINY):
    torch.manual_seed(seed)
    return with_biases(ConvLSTM(config).eval(), seed)


def clips(seed, b=2, config=TINY):
    return normal(seed, b, config.num_frames, config.num_channels, config.image_size, config.image_size)


def by_torch(model, x):
    """The same network of torch's picture convolutions and LSTM, frame by frame."""
    config, state = model.config, model.state_dict()
    lstm = nn.LSTM(config.hidden_size, config.hidden_size, config.num_hidden_layers)
    lstm.load_state_dict(model.lstm.state_dict())
    seen = []
    for frame in x.unbind(1):
        for i in range(len(config.conv_sizes)):
            frame = F.conv2d(frame, state[f"frame_network.{i}.0.weight"].squeeze(2), None, 2, 1)
            scale, shift = state[f"frame_network.{i}.1.weight"], state[f"frame_network.{i}.1.bias"]
            frame = F.relu(F.group_norm(frame, 1, scale, shift, config.group_norm_eps))
        seen.append(model.projection(frame.flatten(1)))
    return model.classifier(lstm(torch.stack(seen))[0][-1])


@given(seed=seeds)
@settings(max_examples=8)
def test_equals_the_network_built_of_torch_parts(seed):
    model, x = make(seed), clips(seed + 1)
    with torch.no_grad():
        # Sums of at most 27 products of size 1, five steps of two layers.
        torch.testing.assert_close(model(x), by_torch(model, x), atol=2e-5, rtol=1e-4)


def test_batch_of_two_is_two_batches_of_one_even_while_training():
    model, x = make(1).train(), clips(2)
    with torch.no_grad():
        torch.testing.assert_close(model(x), torch.cat([model(x[:1]), model(x[1:])]), atol=1e-5, rtol=1e-4)


def test_a_frame_is_seen_by_itself_and_remembered_from_then_on():
    model, x = make(3), clips(4)
    other = x.clone()
    other[:, 2] += normal(5, *x[:, 2].shape)
    with torch.no_grad():
        seen, remembered = (
            (getattr(model, name)(x) - getattr(model, name)(other)).abs().amax((0, 2)) > 1e-4
            for name in ("frame_features", "moment_features")
        )
    assert seen.tolist() == [False, False, True, False, False]
    assert remembered.tolist() == [False, False, True, True, True]


def test_the_order_of_frames_is_seen_and_a_clip_that_stands_still_has_none():
    model, x = make(6), clips(7)
    still = x[:, :1].expand_as(x)
    with torch.no_grad():
        assert (model(x) - model(x.flip(1))).abs().max() > 1e-4  # a hundred times what rounding does
        assert torch.equal(model(still), model(still.flip(1)))
        frames = model.frame_features(still)
    torch.testing.assert_close(frames, frames[:, :1].expand_as(frames))


def test_features_are_the_last_moment_and_the_classifier_reads_them():
    model, x = make(8), clips(9, b=4)
    with torch.no_grad():
        moments = model.moment_features(x)
        assert moments.shape == (4, 5, 6) and TINY.num_moments == 5
        torch.testing.assert_close(model.features(x), moments[:, -1])
        torch.testing.assert_close(model(x), model.classifier(moments[:, -1]))


def test_where_a_thing_stands_in_a_frame_is_not_averaged_away():
    model, x = make(10), torch.zeros(1, 5, 2, 8, 8)
    x[..., 2, 2] = 3.0
    with torch.no_grad():
        assert (model.frame_features(x) - model.frame_features(x.roll(4, -1))).abs().max() > 1e-2


def test_the_answer_is_the_same_twice_and_dropout_is_for_training_only():
    model, x = make(11, replace(TINY, hidden_dropout_prob=0.5)), clips(12)
    with torch.no_grad():
        assert torch.equal(model(x), model(x))
        model.train()
        assert not torch.equal(model(x), model(x))


def test_training_reaches_every_weight():
    model = make(13)
    model(clips(14)).square().sum().backward()
    assert [name for name, weight in model.named_parameters() if not weight.grad.abs().max() > 1e-7] == []


def test_gradcheck():
    config = replace(TINY, image_size=4, num_frames=2, num_channels=1, conv_sizes=(2,), hidden_size=2)
    model = make(15, config).double()
    x = clips(16, b=1, config=config).double().requires_grad_()
    assert torch.autograd.gradcheck(model, (x,))


def test_kernels_begin_with_he_s_spread_and_the_classifier_with_the_configured_one():
    torch.manual_seed(0)
    model = ConvLSTM(replace(TINY, conv_sizes=(24, 32), num_labels=1000))
    # 9 x 24 x 32 = 6912 numbers tell the deviation to 0.9 %.
    assert model.frame_network[1][0].weight.std().item() == pytest.approx((2 / (24 * 9)) ** 0.5, rel=0.04)
    assert model.classifier.weight.std().item() == pytest.approx(0.3, rel=0.03)
    assert not model.classifier.bias.any()


def test_the_default_reads_sixteen_frames():
    with torch.device("meta"):
        model = ConvLSTM(ConvLSTMConfig(num_labels=101))
        (x,) = model.example_inputs(3)
        assert x.shape == (3, 16, 3, 112, 112) and model(x).shape == (3, 101)
        assert model.moment_features(x).shape == (3, 16, 512)


def test_the_small_one_reads_small_clips():
    assert (SMALL_CONFIG.num_frames, SMALL_CONFIG.image_size, SMALL_CONFIG.num_labels) == (8, 32, 4)


def test_clips_of_another_size_are_refused():
    with pytest.raises(ShapeError, match=r"\(2, 5, 2, 8, 9\).*\(5, 2, 8, 8\)"):
        make()(torch.zeros(2, 5, 2, 8, 9))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"num_frames": 0}, "num_frames=0 is not at least 1"),
        ({"conv_sizes": ()}, "conv_sizes=() is not at least 1"),
        ({"hidden_size": 0}, "hidden_size=0 is not at least 1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 is not at least 1"),
        ({"group_norm_eps": -1.0}, "group_norm_eps=-1.0 is not above 0"),
        (
            {"image_size": 10},
            "image_size=10 is not a multiple of 4, which the 2 stages of conv_sizes (3, 4) halve away",
        ),
    ],
)
def test_the_configuration_checks_its_numbers(change, words):
    with pytest.raises(ValueError) as error:
        replace(TINY, **change)
    assert str(error.value) == words
