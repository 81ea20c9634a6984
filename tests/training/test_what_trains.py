import json
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minivid.classroom.evidence import holds
from minivid.models.pretrained import qwen3_vl_config_of_published, save_pretrained
from minivid.models.qwen3_vl import Qwen3VL
from minivid.training.checkpoint import load_tensors
from minivid.training.what_trains import learning_groups, part_settings, partly_frozen, train_mode, what_trains


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, 7, 5))
        self.blocks = nn.ModuleList([nn.Linear(5, 5) for _ in range(2)])
        self.norm = nn.BatchNorm1d(5)
        self.other_norm = nn.BatchNorm1d(5, affine=False)
        self.drop = nn.Dropout(0.5)
        self.classifier = nn.Linear(5, 3)


def learned(model):
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def named(model, group):
    names = {weight: name for name, weight in model.named_parameters()}
    return {names[weight] for weight in group["params"]}


def test_everything_trains_unless_said_otherwise():
    model = Parts()
    with partly_frozen(model):
        assert learned(model) == {name for name, _ in model.named_parameters()}


def test_pieces_of_names_say_what_trains():
    model = Parts()
    with partly_frozen(model, train_only=("classifier", "blocks.1.")):
        assert learned(model) == {"classifier.weight", "classifier.bias", "blocks.1.weight", "blocks.1.bias"}
    with partly_frozen(model, freeze=("positions", "blocks", "norm")):
        assert learned(model) == {"classifier.weight", "classifier.bias"}
    with partly_frozen(model, train_only=("blocks",), freeze=("bias",)):
        assert learned(model) == {"blocks.0.weight", "blocks.1.weight"}
    assert learned(model) == {name for name, _ in model.named_parameters()}


def test_what_did_not_learn_before_does_not_learn_and_stays_so():
    model = Parts()
    model.classifier.bias.requires_grad_(False)
    before = learned(model)
    with pytest.raises(KeyboardInterrupt), partly_frozen(model, train_only=("classifier",)):
        assert learned(model) == {"classifier.weight"}
        raise KeyboardInterrupt
    assert learned(model) == before


@pytest.mark.parametrize(
    "options, words",
    [
        ({"train_only": ("head",)}, "train_only: no parameter has 'head' in its name; there are positions, blocks"),
        ({"freeze": ("classifier", "x.y")}, r"freeze: no parameter has 'x.y' in its name; .* and 6 more"),
        ({"train_only": ("norm",), "freeze": ("norm",)}, r"nothing learns with train_only=\('norm',\) and freeze=\('n"),
    ],
)  # fmt: skip
def test_a_piece_that_fits_nothing_is_an_error(options, words):
    model = Parts()
    with pytest.raises(ValueError, match=words), partly_frozen(model, **options):
        pass
    assert learned(model) == {name for name, _ in model.named_parameters()}


def test_a_frozen_norm_keeps_its_running_averages():
    model = Parts().eval()
    with partly_frozen(model, freeze=("norm",)):
        train_mode(model)
        assert not model.norm.training and model.other_norm.training and model.drop.training
    train_mode(model)
    assert model.norm.training


def test_groups_have_rate_and_decay_by_name_and_kind():
    model = Parts()
    groups = learning_groups(
        model, learning_rate=0.1, weight_decay=0.3, rates={"classifier": 0.5}, no_decay=("position",)
    )
    assert [group["group"] for group in groups] == [
        "everything else: weights", "everything else: biases, scales", "classifier: weights",
        "classifier: biases, scales",
    ]  # fmt: skip
    assert [(group["lr"], group["initial_lr"], group["weight_decay"]) for group in groups] == [
        (0.1, 0.1, 0.3), (0.1, 0.1, 0.0), (0.5, 0.5, 0.3), (0.5, 0.5, 0.0),
    ]  # fmt: skip
    assert named(model, groups[0]) == {"blocks.0.weight", "blocks.1.weight"}
    assert named(model, groups[1]) == {"blocks.0.bias", "blocks.1.bias", "norm.weight", "norm.bias", "positions"}
    assert named(model, groups[2]) == {"classifier.weight"} and named(model, groups[3]) == {"classifier.bias"}
    decaying = learning_groups(model, learning_rate=0.1, weight_decay=0.3)[0]
    assert named(model, decaying) == {"positions", "blocks.0.weight", "blocks.1.weight", "classifier.weight"}
    with pytest.raises(ValueError, match="'head'"):
        learning_groups(model, learning_rate=0.1, weight_decay=0.3, rates={"head": 0.5})


def test_no_group_is_empty():
    model = Parts()
    with partly_frozen(model, train_only=("classifier.weight",)):
        (group,) = learning_groups(model, learning_rate=0.1, weight_decay=0.3)
    assert named(model, group) == {"classifier.weight"} and group["group"] == "everything: weights"


def test_the_table_tells_what_trains():
    model = Parts()
    with partly_frozen(model, freeze=("blocks",)):
        groups = learning_groups(model, learning_rate=1e-3, weight_decay=0.05, rates={"classifier": 0.01})
        table = what_trains(model, groups)
    assert table.splitlines() == [
        "what trains                      parameters   share  learning rate  decay",
        "everything else: weights                 35   28.5%          0.001   0.05",
        "everything else: biases, scales          10    8.1%          0.001      0",
        "classifier: weights                      15   12.2%           0.01   0.05",
        "classifier: biases, scales                3    2.4%           0.01      0",
        "frozen                                   60   48.8%",
        "all                                     123  100.0%",
    ]


# ---- the parts of a model that sees and writes

TIED = (
    "visual.patch_embed.weight",
    "visual.blocks.0.norm1.bias",
    "visual.merger.linear_fc1.weight",
    "visual.deepstack_merger_list.0.norm.weight",
    "language_model.embed_tokens.weight",
    "language_model.layers.0.mlp.up_proj.weight",
)
UNTIED = (*TIED, "lm_head.weight")
switches = st.booleans()


def moved(names, settings):
    """The names that learn, each with the piece whose rate it has, by the rules of FinetuneConfig."""
    only, freeze, rates = (settings[name] for name in ("train_only", "freeze", "rates"))
    names = [name for name in names if not only or any(piece in name for piece in only)]
    names = [name for name in names if not any(piece in name for piece in freeze)]
    return {name: next((rate for piece, rate in rates.items() if piece in name), None) for name in names}


def part_of(name):
    if name.startswith("visual.merger."):
        return "merger"
    return {"visual": "vision", "language_model": "language", "lm_head": "head"}[name.split(".")[0]]


@pytest.mark.law("part_settings")
@given(vision=switches, merger=switches, language=switches, names=st.sampled_from([TIED, UNTIED]))
def test_part_settings_let_the_parts_learn_that_are_wanted(impl, vision, merger, language, names):
    """Vision without its merger, the merger alone, the language model: each by its own word; an untied head always."""
    wanted = {"vision": vision, "merger": merger, "language": language, "head": True}
    if names is TIED and not any((vision, merger, language)):
        return
    settings = impl.part_settings(names, vision=vision, merger=merger, language=language)
    got = sorted(moved(names, settings))
    want = sorted(name for name in names if wanted[part_of(name)])
    holds(got == want, "other parameters learn", vision=vision, merger=merger, language=language, got=got, want=want)
    holds(not settings["rates"], "there are rates that nobody gave", rates=settings["rates"])


@pytest.mark.law("part_settings")
@given(
    vision=switches,
    merger=switches,
    merger_rate=st.sampled_from([None, 4e-5]),
    vision_rate=st.sampled_from([None, 2e-6]),
)
def test_part_settings_give_mergers_and_the_rest_of_vision_rates_of_their_own(
    impl, vision, merger, merger_rate, vision_rate
):
    """All mergers move at the merger's rate, the rest of vision at its own, if the merger has one; else as all does."""
    given = {"vision": vision, "merger": merger, "merger_rate": merger_rate, "vision_rate": vision_rate}
    settings = impl.part_settings(UNTIED, **given)
    for name, rate in moved(UNTIED, settings).items():
        want = merger_rate if "merger" in name else vision_rate if "visual" in name and merger_rate else None
        holds(rate == want, f"{name} has another rate", **given, got=rate, want=want)
    for piece in settings["rates"]:
        first = any(
            next(p for p in settings["rates"] if p in name) == piece
            for name, rate in moved(UNTIED, settings).items()
            if rate
        )
        holds(first, f"the rate of {piece!r} is nobody's, and FinetuneConfig refuses that", **given)


@pytest.mark.parametrize("vision, merger, language", list(product([False, True], repeat=3)))
def test_part_settings_are_taken_by_the_loop(vision, merger, language):
    def module(names):
        root = nn.Module()
        for name in names:
            *path, leaf = name.split(".")
            place = root
            for piece in path:
                if not hasattr(place, piece):
                    place.add_module(piece, nn.Module())
                place = getattr(place, piece)
            place.register_parameter(leaf, nn.Parameter(torch.zeros((3, 2) if "norm" not in name else 3)))
        return root

    model = module(UNTIED)
    settings = part_settings(UNTIED, vision=vision, merger=merger, language=language, merger_rate=3.0, vision_rate=2.0)
    with partly_frozen(model, settings["train_only"], settings["freeze"]):
        groups = learning_groups(model, learning_rate=1.0, weight_decay=0.5, rates=settings["rates"])
        found = {name: (group["lr"], group["weight_decay"]) for group in groups for name in named(model, group)}
    rates = {name: rate or 1.0 for name, rate in moved(UNTIED, settings).items()}
    assert found == {name: (rate, 0.0 if "norm" in name else 0.5) for name, rate in rates.items()}


def test_no_part_at_all_is_refused():
    with pytest.raises(
        ValueError, match="^nothing learns with vision=False, merger=False and language=False; choose one$"
    ):
        part_settings(TIED, vision=False, merger=False, language=False)
    assert part_settings(UNTIED, vision=False, merger=False, language=False)["train_only"] == ("lm_head.",)


DATA = Path(__file__).parents[1] / "data"
RECIPES = json.loads((DATA / "optim_groups.json").read_text())["cases"]


@pytest.mark.parametrize("case", range(len(RECIPES)))
def test_every_weight_has_the_rate_and_the_decay_of_the_published_recipe(case, tmp_path):
    recipe = RECIPES[case]
    configs = json.loads((DATA / "published_qwen3_vl.json").read_text())["configs"]
    model = Qwen3VL(qwen3_vl_config_of_published(configs[recipe["model"]]["new"]))
    settings = part_settings(
        dict(model.named_parameters()),
        vision=recipe["vision"],
        merger=recipe["mlp"],
        language=recipe["llm"],
        merger_rate=recipe["merger_rate"],
        vision_rate=recipe["vision_rate"],
    )
    with partly_frozen(model, settings["train_only"], settings["freeze"]):
        groups = learning_groups(
            model, learning_rate=recipe["lr"], weight_decay=recipe["decay"], rates=settings["rates"]
        )
    with torch.no_grad():  # a weight holds the number of its group, so that the group is found under its published name
        for weight in model.parameters():
            weight.fill_(-1)
        for number, group in enumerate(groups):
            for weight in group["params"]:
                weight.fill_(number)
    save_pretrained(model, tmp_path)
    held = {
        name: set(weight.flatten().tolist()) for name, weight in load_tensors(tmp_path / "model.safetensors").items()
    }
    options = [[group["lr"], group["weight_decay"]] for group in groups]
    found = {name: [options[int(number)] for number in numbers] for name, numbers in held.items() if numbers != {-1}}
    assert found == {name: [pair] for name, pair in recipe["groups"].items()}
