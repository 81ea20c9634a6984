import re

import pytest
import torch

from minivid.models.vivit import ViViT
from minivid.models.zoo import build_model, model_classes

# So small that a test may run it.
SMALL = {
    "vivit": {
        "image_size": 8,
        "num_frames": 4,
        "tubelet_size": (2, 4, 4),
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 20,
    }
}


def test_every_model_is_found_and_runs_on_its_example():
    classes = model_classes()
    assert classes["vivit"] is ViViT and set(classes) == set(SMALL)
    for name, numbers in SMALL.items():
        model = build_model(name, numbers)
        assert type(model) is classes[name]
        assert len(model(*model.example_inputs(batch=3))) == 3


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
