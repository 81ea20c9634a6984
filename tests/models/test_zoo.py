import re
from dataclasses import asdict

import pytest
import torch
from torch import nn

from minivid.models.clip_classifier import ClipClassifier
from minivid.models.qwen3_vl import Qwen3VL
from minivid.models.qwen3_vl_vision import Qwen3VLVision
from minivid.models.vivit import ViViT
from minivid.models.zoo import build_model, model_classes, small_config

# So small that a test may run it.
SMALL = {
    "conv3d_classifier": {"image_size": 8, "num_frames": 4, "hidden_sizes": (3, 4), "depths": (1, 1), "stem_size": 3},
    "conv_lstm": {"image_size": 8, "num_frames": 4, "conv_sizes": (3, 4), "hidden_size": 5},
    "vivit": {
        "image_size": 8,
        "num_frames": 4,
        "tubelet_size": (2, 4, 4),
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
    },
}
# What reads patches or words instead of clips.
OTHERS = {"qwen3_vl": Qwen3VL, "qwen3_vl_vision": Qwen3VLVision}


def test_every_model_is_found_and_runs_on_its_example():
    classes = model_classes()
    assert classes["vivit"] is ViViT and set(classes) == {*SMALL, *OTHERS}
    for name, model_class in OTHERS.items():
        assert classes[name] is model_class
        with torch.device("meta"):
            model = model_class(small_config(name))
            model(*model.example_inputs(3))
    for name, numbers in SMALL.items():
        model = build_model(name, numbers)
        assert type(model) is classes[name]
        clips = model.example_inputs(batch=3)
        assert model(*clips).shape == (3, 2)


def test_every_model_keeps_the_promises_of_a_clip_classifier():
    for name in SMALL:
        model_class = model_classes()[name]
        model = build_model(name, SMALL[name]).eval()
        assert issubclass(model_class, ClipClassifier) and isinstance(model.classifier, nn.Linear)
        clips = torch.randn(3, *model.example_inputs()[0].shape[1:])
        features, moments = model.features(clips), model.moment_features(clips)
        assert features.shape == (3, model.classifier.in_features)
        assert moments.shape == (3, model.config.num_moments, model.classifier.in_features)
        torch.testing.assert_close(model(clips), model.classifier(features))


def test_every_model_has_numbers_for_small_clips():
    for name in SMALL:
        model_class, config = model_classes()[name], small_config(name)
        assert (config.num_frames, config.image_size, config.num_labels) == (8, 32, 4)
        with torch.device("meta"):
            model = model_class(config)
            assert model(*model.example_inputs(5)).shape == (5, 4)


@pytest.mark.parametrize("name", ["conv-lstm", "ConvLSTM", "conv_lstm"])
def test_small_numbers_are_found_under_every_name_and_may_be_changed(name):
    assert type(small_config(name)).__name__ == "ConvLSTMConfig"
    assert build_model(name, asdict(small_config(name)) | {"num_labels": 7}).config.num_labels == 7


def test_small_numbers_of_a_model_that_does_not_exist_are_refused():
    with pytest.raises(ValueError, match="^vibert: there is no such model; there are .*vivit"):
        small_config("vibert")


@pytest.mark.parametrize("name", ["vivit", "ViViT", "vi-vit", "VI_VIT"])
def test_a_name_may_be_written_in_several_ways(name):
    with torch.device("meta"):
        assert build_model(name).config.num_frames == 32


def test_a_model_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match="^vibert: there is no such model; there are .*vivit"):
        build_model("vibert")


def test_a_number_that_a_model_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(ValueError, match=re.escape("ViViT has no depth, width; it has image_size, num_frames,")):
        build_model("vivit", {"width": 3, "depth": 2, "num_frames": 4})
