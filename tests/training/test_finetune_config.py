from dataclasses import replace

import pytest

from minivid.training.finetune_config import FinetuneConfig
from minivid.training.schedule import cosine_with_warmup

CONFIG = FinetuneConfig(steps=12, batch_size=3)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"steps": 0}, "steps=0 is not at least 1"),
        ({"batch_size": -1}, "batch_size=-1 is not at least 1"),
        ({"micro_batches": 0}, "micro_batches=0 is not at least 1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 is not above 0"),
        ({"rates": {"head": -0.5}}, "head=-0.5 is not above 0"),
        ({"label_smoothing": 1.5}, "label_smoothing=1.5 is not from 0 to 1"),
        ({"warmup_ratio": -0.1}, "warmup_ratio=-0.1 is not from 0 to 1"),
        ({"schedule": "sine"}, "schedule='sine' is none of cosine, linear, constant"),
        ({"optimizer": "lion"}, "optimizer='lion' is none of adamw, sgd, muon"),
        ({"patience": 3, "evaluate_every": 0}, "patience=3 with evaluate_every=0: there is no look"),
        ({"return_best": True, "evaluate_every": 0}, "return_best=True with evaluate_every=0: there is no look"),
        ({"freeze": "blocks"}, "freeze='blocks' is one text, expected a tuple"),
        ({"train_only": "head"}, "train_only='head' is one text, expected a tuple"),
        ({"no_decay": "position"}, "no_decay='position' is one text, expected a tuple"),
        *(
            ({name: -1}, f"{name}=-1 is below 0")
            for name in ["seed", "weight_decay", "momentum", "max_grad_norm", "patience"]
            + ["evaluate_every", "evaluate_every_epochs", "save_every", "save_total_limit"]
        ),
    ],
)
def test_the_configuration_checks_its_numbers(unchecked, change, words):
    with pytest.raises(ValueError, match=words):
        replace(CONFIG, **change)


def test_the_learning_rate_follows_its_schedule():
    config = replace(CONFIG, steps=20, warmup_ratio=0.21)  # five steps: rounded up
    cosine = [config.learning_rate_factor(step) for step in range(20)]
    assert cosine == [cosine_with_warmup(step, total_steps=20, warmup_steps=5) for step in range(20)]
    linear = [replace(config, schedule="linear").learning_rate_factor(step) for step in range(20)]
    assert linear[:7] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0, 14 / 15]) and linear[19] == pytest.approx(1 / 15)
    constant = [replace(config, schedule="constant").learning_rate_factor(step) for step in range(20)]
    assert constant[:5] == linear[:5] and constant[5:] == [1.0] * 15


def test_looks_come_every_so_many_steps_or_epochs_and_after_the_last():
    def looks(**change):
        return [done for done in range(1, 13) if replace(CONFIG, **change).looks_after(done, examples=7)]

    assert looks(evaluate_every=5) == [5, 10, 12]
    assert looks(evaluate_every=0) == [12]
    # Three of seven clips a step: the rounds end within steps 3, 5, 7, 10 and 12.
    assert looks(evaluate_every_epochs=1) == [3, 5, 7, 10, 12]
    assert looks(evaluate_every_epochs=2, evaluate_every=1) == [5, 10, 12]
