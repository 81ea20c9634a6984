import json

import pytest
import torch
from benchmarks.side_by_side import let_torchvision_load
from safetensors.torch import save_file
from strategies import normal

from minivid.models.pretrained import config_of_published, load_pretrained, rename_published, vivit_of_published
from minivid.models.vivit import ViViT, ViViTConfig

# Of the size of a test; the names are the published ones.
PUBLISHED = {
    "model_type": "vivit",
    "image_size": 12,
    "num_frames": 6,
    "tubelet_size": [2, 4, 4],
    "num_channels": 5,
    "hidden_size": 14,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 11,
    "hidden_act": "gelu_fast",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.03,
    "layer_norm_eps": 1e-3,
    "qkv_bias": True,
}
# Our names and those of the two spellings.
BLOCK = {
    "attention.q_proj": ("attention.attention.query", "attention.q_proj"),
    "attention.k_proj": ("attention.attention.key", "attention.k_proj"),
    "attention.v_proj": ("attention.attention.value", "attention.v_proj"),
    "attention.out_proj": ("attention.output.dense", "attention.o_proj"),
    "attention_norm": ("layernorm_before", "layernorm_before"),
    "feed_forward_norm": ("layernorm_after", "layernorm_after"),
    "feed_forward.up_proj": ("intermediate.dense", "mlp.fc1"),
    "feed_forward.down_proj": ("output.dense", "mlp.fc2"),
}


def published_names(spelling, prefix=""):
    """Our names to the published ones, of a model with three blocks and without a head."""
    names = {
        "class_token": f"{prefix}embeddings.cls_token",
        "positions": f"{prefix}embeddings.position_embeddings",
        "patch_embed.proj.weight": f"{prefix}embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": f"{prefix}embeddings.patch_embeddings.projection.bias",
        "norm.weight": f"{prefix}layernorm.weight",
        "norm.bias": f"{prefix}layernorm.bias",
    }
    blocks = f"{prefix}{('encoder.layer', 'layers')[spelling]}"
    for i in range(3):
        for ours, theirs in BLOCK.items():
            for part in ("weight", "bias"):
                names[f"blocks.{i}.{ours}.{part}"] = f"{blocks}.{i}.{theirs[spelling]}.{part}"
    return names


def made(num_labels=7, **changes):
    """A model of ours with numbers that matter everywhere, the same at every call."""
    torch.manual_seed(0)
    model = ViViT(config_of_published(PUBLISHED | changes, num_labels=num_labels)).eval()
    with torch.no_grad():
        for i, weight in enumerate(model.parameters()):
            weight.add_(0.3 * normal(i, *weight.shape))
    return model


def as_published(model, spelling, prefix="", head=True):
    state = model.state_dict()
    weights = {theirs: state[ours] for ours, theirs in published_names(spelling, prefix).items() if ours in state}
    head = {name: state[name] for name in ("classifier.weight", "classifier.bias")} if head else {}
    return weights | head


@pytest.fixture(scope="module")
def transformers():
    let_torchvision_load()
    return pytest.importorskip("transformers")


@pytest.mark.parity
@pytest.mark.parametrize(
    "changes",
    [{}, {"qkv_bias": False}, {"hidden_act": "gelu"}, {"hidden_act": "relu", "image_size": 8, "num_hidden_layers": 1}],
    ids=str,
)
@pytest.mark.filterwarnings("default")
def test_every_hidden_state_is_that_of_the_published_model(transformers, changes):
    torch.manual_seed(0)
    config = transformers.VivitConfig(**PUBLISHED | changes, num_labels=7)
    theirs = transformers.VivitForVideoClassification(config).eval()
    with torch.no_grad():
        for i, weight in enumerate(theirs.parameters()):  # some begin at 0 or 1, where a lost one would not show
            weight.add_(0.3 * normal(i, *weight.shape))
    ours = vivit_of_published(config.to_dict(), theirs.state_dict())
    clips = normal(1, 3, 6, 5, config.image_size, config.image_size)
    with torch.no_grad():
        want = theirs(clips, output_hidden_states=True)
        tokens = [ours.embed(clips)]
        for block in ours.blocks:
            tokens.append(block(tokens[-1]))
        for got, expected in zip(tokens, want.hidden_states, strict=True):
            # Numbers of size 10, float32; seen: 5e-6.
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(ours.encode(tokens[0]), theirs.vivit(clips).last_hidden_state, atol=1e-4, rtol=0)
        torch.testing.assert_close(ours(clips), want.logits, atol=1e-4, rtol=0)


@pytest.mark.parity
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("head", [True, False])
def test_a_folder_that_transformers_wrote_is_read(transformers, head, tmp_path):
    torch.manual_seed(0)
    kind = transformers.VivitForVideoClassification if head else transformers.VivitModel
    theirs = kind(transformers.VivitConfig(**PUBLISHED, num_labels=7)).eval()
    theirs.save_pretrained(tmp_path)
    ours, clips = load_pretrained(tmp_path), normal(1, 3, 6, 5, 12, 12)
    with torch.no_grad():
        want = (theirs.vivit if head else theirs)(clips).last_hidden_state
        torch.testing.assert_close(ours.encode(ours.embed(clips)), want, atol=1e-4, rtol=0)
        if head:
            torch.testing.assert_close(ours(clips), theirs(clips).logits, atol=1e-4, rtol=0)
    assert len(ours.classifier.weight) == 7


@pytest.mark.parametrize("prefix", ["", "vivit."])
@pytest.mark.parametrize("spelling", [0, 1])
def test_both_spellings_are_renamed_to_ours(spelling, prefix):
    weights = as_published(made(), spelling, prefix) | {"pooler.dense.weight": torch.zeros(2), "odd": torch.zeros(3)}
    renamed = rename_published(weights)
    assert renamed.keys() == {*made().state_dict(), "odd"}
    assert all(torch.equal(renamed[name], weight) for name, weight in made().state_dict().items())


def test_the_model_is_the_one_the_weights_were_taken_from():
    model, clips = made(), normal(1, 3, 6, 5, 12, 12)
    again = vivit_of_published(PUBLISHED, as_published(model, 0, "vivit."))
    assert not again.training and again.config == model.config
    assert torch.equal(again(clips), model(clips))


def test_without_a_head_the_classifier_is_new_and_the_rest_is_loaded():
    model = made()
    again = vivit_of_published(PUBLISHED | {"id2label": {0: "a", 1: "b", 2: "c"}}, as_published(model, 1, head=False))
    assert again.classifier.weight.shape == (3, 14) and again.classifier.weight.std() > 0
    assert torch.equal(again.features(torch.ones(1, 6, 5, 12, 12)), model.features(torch.ones(1, 6, 5, 12, 12)))


def test_weights_of_another_configuration_are_refused_by_name():
    weights = as_published(made(), 0)
    lost = {name: weight for name, weight in weights.items() if "layer.2.output.dense" not in name}
    wider = weights | {"layernorm.bias": torch.zeros(15), "wings.weight": torch.zeros(1)}
    for wrong, words in (
        (lost, "missing blocks.2.feed_forward.down_proj.bias; missing blocks.2.feed_forward.down_proj.weight"),
        (wider, r"surplus wings.weight; norm.bias (15,) instead of (14,)"),
        (
            as_published(made(qkv_bias=False), 0),
            "missing blocks.0.attention.k_proj.bias; missing blocks.0.attention.q_proj.bias; "
            "missing blocks.0.attention.v_proj.bias and 6 more",
        ),
    ):
        with pytest.raises(ValueError) as error:
            vivit_of_published(PUBLISHED, wrong)
        assert str(error.value) == f"weights: not those of the configuration: {words}"


def test_the_configuration_is_taken_over_number_by_number():
    assert config_of_published(PUBLISHED, num_labels=7) == ViViTConfig(
        image_size=12,
        num_frames=6,
        tubelet_size=(2, 4, 4),
        num_channels=5,
        hidden_size=14,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=11,
        hidden_act="gelu_tanh",
        initializer_range=0.03,
        layer_norm_eps=1e-3,
        num_labels=7,
    )
    assert config_of_published({}) == ViViTConfig(hidden_act="gelu_tanh")  # the published defaults
    config = config_of_published({"qkv_bias": False, "hidden_act": "swish", "image_size": [32, 32], "num_labels": 9})
    assert (config.qkv_bias, config.hidden_act, config.image_size, config.num_labels) == (False, "silu", 32, 9)
    config = config_of_published({"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1})
    assert config.hidden_dropout_prob == 0.1 and config.num_labels == 2


@pytest.mark.parametrize(
    "option, words",
    [
        ({"model_type": "videomae"}, "model_type='videomae', expected 'vivit'"),
        (
            {"hidden_act": "quick_gelu"},
            "hidden_act='quick_gelu' is not known here, only gelu, gelu_python, gelu_fast, gelu_new, "
            "gelu_pytorch_tanh, relu, silu, swish",
        ),
        ({"image_size": [12, 16]}, "image_size=[12, 16]: only square frames are read here"),
        ({"image_size": (12,)}, "image_size=(12,): only square frames are read here"),
        ({"tubelet_size": [2, 4, 2]}, "tubelet_size (2, 4, 2) is not (frames, side, side) with square boxes"),
        (
            {"attention_probs_dropout_prob": 0.2},
            "attention_probs_dropout_prob=0.2 and hidden_dropout_prob=0.0: only one share for both is known here; "
            "write the one to train with into both, the weights do not depend on it",
        ),
        (
            {"head_dim": 5},
            "head_dim=5, expected hidden_size / num_attention_heads = 7: heads are parts of the width here",
        ),
    ],
)
def test_what_is_not_known_here_is_refused_by_name(option, words):
    with pytest.raises(ValueError) as error:
        config_of_published(PUBLISHED | option)
    assert str(error.value) == words


def test_a_folder_is_read_and_a_missing_or_damaged_file_named(tmp_path):
    model = made()
    with pytest.raises(FileNotFoundError) as error:
        load_pretrained(tmp_path)
    wanted = "expected config.json and model.safetensors of a published model"
    assert str(error.value) == f"{tmp_path}: no config.json, {wanted}"
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    with pytest.raises(FileNotFoundError) as error:
        load_pretrained(tmp_path)
    assert str(error.value) == f"{tmp_path}: no model.safetensors, {wanted}"
    save_file(
        {name: weight.detach() for name, weight in as_published(model, 0).items()}, tmp_path / "model.safetensors"
    )
    clips = normal(1, 3, 6, 5, 12, 12)
    assert torch.equal(load_pretrained(tmp_path)(clips), model(clips))
    for name in ("model.safetensors", "config.json"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:50])
        with pytest.raises(
            ValueError, match=f"^{tmp_path}: config.json or model.safetensors is damaged .*get both anew"
        ):
            load_pretrained(tmp_path)
        (tmp_path / name).write_bytes(content)
