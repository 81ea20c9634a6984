"""What pre-training without labels buys: few labels after it, against the same few labels from nothing.

pytest -m benchmark -n0 -s tests/benchmarks/test_pretraining.py
"""

from dataclasses import replace
from statistics import mean

import pytest
import torch

from minivid.data.moving_shapes import MOTIONS, load_clips, make_clips, roll
from minivid.models.vivit import SMALL_CONFIG, ViViT
from minivid.training.finetune import FinetuneConfig, evaluate, finetune
from minivid.training.objectives import FrameSimilarity, replace_head
from minivid.video.clip import ClipSettings

CLIP = ClipSettings(
    frames=8, height=32, width=32, repeat_short=True, patch_size=8, temporal_patch_size=2, spatial_merge_size=1
)
OBJECTIVE = FrameSimilarity(roll, temperature=0.1, reversals=True)
PRETRAINING = FinetuneConfig(
    steps=1000, batch_size=16, learning_rate=2e-3, betas=(0.9, 0.98), evaluate_every=0, save_every=0
)
FEW = FinetuneConfig(steps=120, batch_size=16, learning_rate=2e-3, betas=(0.9, 0.98), evaluate_every=0, save_every=0)
LABELS = 40  # ten a motion


def turned(clip, generator):
    """Moved, and mirrored or turned at random: where there are no labels, their truth cannot suffer."""
    clip = roll(clip, generator)
    transposed, *mirrored = (torch.rand(3, generator=generator) < 0.5).tolist()
    if transposed:
        clip = clip.transpose(-2, -1)
    for axis, wanted in zip((-2, -1), mirrored, strict=True):
        clip = clip.flip(axis) if wanted else clip
    return clip


def few_labels(clips, count, seed):
    """As many clips of every class, drawn at random."""
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(seed)).tolist()
    each = count // len(MOTIONS)
    return [clips[i] for label in range(len(MOTIONS)) for i in [i for i in order if clips[i][1] == label][:each]]


def accuracies(seed, train, validation, test, labels=LABELS, few=FEW):
    """Held-out accuracy with few labels: from nothing, and after pre-training on all clips without labels."""
    known = few_labels(train, labels, seed)
    found = []
    for pretrained in (False, True):
        torch.manual_seed(seed)
        model = ViViT(SMALL_CONFIG)
        if pretrained:
            pretrainer, config = OBJECTIVE.pretrainer(model), replace(PRETRAINING, seed=seed)
            finetune(pretrainer, train, validation, config, objective=OBJECTIVE, augment=turned, quiet=True)
            replace_head(model, len(MOTIONS))
        finetune(model, known, validation, replace(few, seed=seed), augment=roll, quiet=True)
        found.append(evaluate(model, test).accuracy)
    return found


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder, data = tmp_path_factory.mktemp("clips"), []
    for split, count in {"train": 540, "validation": 30, "test": 240}.items():
        make_clips(folder / split, count, split=split)
        data.append(load_clips(folder / split, CLIP))
    return data


@pytest.mark.benchmark
def test_pretraining_without_labels_gains_ten_points_with_few_labels(splits):
    found = []
    for seed in range(3):
        found.append(accuracies(seed, *splits))
        print("\nseed {}: {:.1%} from nothing, {:.1%} after pre-training".format(seed, *found[-1]), flush=True)
    nothing, pretrained = (mean(column) for column in zip(*found, strict=True))
    print(f"{LABELS} labels, mean of 3 seeds: {nothing:.1%} from nothing, {pretrained:.1%} after pre-training")
    assert pretrained >= nothing + 0.10
