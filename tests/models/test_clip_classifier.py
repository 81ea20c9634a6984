from dataclasses import replace

import pytest
import torch
from strategies import normal
from torch import nn

from minivid.models.clip_classifier import ClipClassifier, ClipConfig
from minivid.shapes import ShapeError

CONFIG = ClipConfig(image_size=5, num_frames=3, num_channels=2, num_labels=4)


class Pixels(ClipClassifier):
    """A classifier whose moments are frames and whose features are their pixels."""

    def __init__(self, config):
        super().__init__(config)
        self.classifier = nn.Linear(config.num_channels * config.image_size**2, config.num_labels)

    def moment_features(self, clips):
        self.check_clips(clips)
        return clips.flatten(2)


def test_logits_are_a_linear_function_of_the_mean_of_the_moments():
    model, clips = Pixels(CONFIG), normal(0, 7, 3, 2, 5, 5)
    torch.testing.assert_close(model.features(clips), clips.flatten(2).mean(1))
    want = clips.flatten(2).mean(1) @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model(clips), want)  # float32, one sum of 50


def test_dropout_hides_features_while_training_only():
    model, clips = Pixels(replace(CONFIG, hidden_dropout_prob=0.9)), torch.ones(200, 3, 2, 5, 5)
    with torch.no_grad():
        model.classifier.weight.fill_(1.0)
        model.classifier.bias.zero_()
        # A tenth of the 50 ones is kept, each ten times as large: every sum is a multiple of 10, 50 on the mean.
        trained = model(clips)
        assert torch.equal(model.eval()(clips), torch.full((200, 4), 50.0))
    torch.testing.assert_close(trained / 10, (trained / 10).round(), atol=1e-3, rtol=0)
    # A sum has deviation 10 sqrt(50 0.1 0.9) = 21; the four logits of a clip are equal, so the mean is one of 200.
    assert trained.std() > 10 and abs(trained.mean() - 50) < 4 * 21 / 200**0.5


def test_example_inputs_have_the_size_of_the_configuration():
    (clips,) = Pixels(CONFIG).example_inputs(7)
    assert clips.shape == (7, 3, 2, 5, 5) and not clips.any()
    assert Pixels(CONFIG).example_inputs()[0].shape == (1, 3, 2, 5, 5)


@pytest.mark.parametrize("shape", [(7, 3, 2, 5, 6), (7, 2, 3, 5, 5), (3, 2, 5, 5)])
def test_clips_of_another_size_are_refused_with_both_sizes(shape):
    with pytest.raises(ShapeError) as error:
        Pixels(CONFIG).check_clips(torch.zeros(shape))
    assert str(error.value) == (
        f"clips: shape {shape}, expected b t c h w with t c h w = (3, 2, 5, 5); "
        "sample and resize the clip to the size the model was made for"
    )


def test_a_class_without_moments_says_so():
    with pytest.raises(NotImplementedError, match="^ClipClassifier has no moment_features$"):
        ClipClassifier(CONFIG).features(torch.zeros(7, 3, 2, 5, 5))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"image_size": 0}, "image_size=0 is not at least 1"),
        ({"num_frames": -1}, "num_frames=-1 is not at least 1"),
        ({"num_channels": 0}, "num_channels=0 is not at least 1"),
        ({"num_labels": 0}, "num_labels=0 is not at least 1"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob=1.0 is not in 0 <= p < 1"),
        ({"hidden_dropout_prob": -0.1}, "hidden_dropout_prob=-0.1 is not in 0 <= p < 1"),
        ({"initializer_range": 0.0}, "initializer_range=0.0 is not above 0"),
    ],
)
def test_the_configuration_checks_its_numbers(change, words):
    with pytest.raises(ValueError) as error:
        replace(CONFIG, **change)
    assert str(error.value) == words
