import pytest
import torch
from torch import nn

from minivid.training.what_trains import learning_groups, partly_frozen, train_mode, what_trains


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
