"""Classic wrong answers about the gradients of a training loop, each with three hints of increasing directness."""

from collections.abc import Iterator

import torch
from strategies import normal
from torch import nn

from minivid.classroom.museum import Mistake
from minivid.data.batches import Batch, place_seeds
from minivid.training.finetune_config import FinetuneConfig
from minivid.training.objectives import Classification

# ---- clip_gradients


def gradients(model):
    return [weight.grad for weight in model.parameters() if weight.grad is not None]


def joint_length(model):
    return torch.stack([gradient.square().sum() for gradient in gradients(model)]).sum().sqrt().item()


def each_weight_by_itself(model, max_norm):
    before = joint_length(model)
    for gradient in gradients(model):
        if max_norm and gradient.norm() > max_norm:
            gradient.mul_(max_norm / gradient.norm())
    return before


def number_by_number(model, max_norm):
    before = joint_length(model)
    for gradient in gradients(model):
        if max_norm:
            gradient.clamp_(-max_norm, max_norm)
    return before


def always_to_the_limit(model, max_norm):
    before = joint_length(model)
    for gradient in gradients(model):
        if max_norm and before:
            gradient.mul_(max_norm / before)
    return before


def root_forgotten(model, max_norm):
    square = joint_length(model) ** 2
    for gradient in gradients(model):
        if max_norm and square > max_norm:
            gradient.mul_(max_norm / square)
    return square


def sum_of_lengths(model, max_norm):
    before = sum(gradient.norm().item() for gradient in gradients(model))
    for gradient in gradients(model):
        if max_norm and before > max_norm:
            gradient.mul_(max_norm / before)
    return before


def largest_number(model, max_norm):
    before = max(gradient.abs().max().item() for gradient in gradients(model))
    for gradient in gradients(model):
        if max_norm and before > max_norm:
            gradient.mul_(max_norm / before)
    return before


def length_afterwards(model, max_norm):
    before = joint_length(model)
    for gradient in gradients(model):
        if max_norm and before > max_norm:
            gradient.mul_(max_norm / before)
    return joint_length(model)


def nothing_shortened(model, max_norm):
    before = joint_length(model)
    for gradient in gradients(model):
        if max_norm and before > max_norm:
            gradient = gradient * (max_norm / before)  # a new tensor, which nobody looks at
    return before


def no_limit_taken_for_zero(model, max_norm):
    before = joint_length(model)
    for gradient in gradients(model):
        if before > max_norm:
            gradient.mul_(max_norm / before)
    return before


def weights_shortened(model, max_norm):
    before = joint_length(model)
    if max_norm and before > max_norm:
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(max_norm / before)
    return before


CLIPPING = [
    (
        each_weight_by_itself,
        (
            "Two weights, both with too long a gradient: is their joint direction the same afterwards?",
            "Each gradient is measured and shortened by itself, so that the step goes another way.",
            "One length over all gradients, one factor for all.",
        ),
    ),
    (
        number_by_number,
        (
            "Gradient (3, 0.1), limit 1: does the direction stay?",
            "Each number is cut off; that turns the gradient.",
            "Multiply all numbers by the same factor, max_norm / length.",
        ),
    ),
    (
        always_to_the_limit,
        (
            "What happens to a gradient that is short already?",
            "It is made longer; only long ones are to be changed.",
            "if length > max_norm: ...",
        ),
    ),
    (
        root_forgotten,
        (
            "How long is the gradient (3, 4)?",
            "The root of the sum of squares is missing.",
            "torch.stack([g.square().sum() for g in gradients]).sum().sqrt()",
        ),
    ),
    (
        sum_of_lengths,
        (
            "Two gradients, of lengths 3 and 4: how long are they together?",
            "The lengths are added; their squares are to be added, and the root is taken of the sum.",
            "torch.stack([g.square().sum() for g in gradients]).sum().sqrt()",
        ),
    ),
    (
        largest_number,
        (
            "How long is the gradient (3, 4)?",
            "The largest number is not the length.",
            "torch.stack([g.square().sum() for g in gradients]).sum().sqrt()",
        ),
    ),
    (
        length_afterwards,
        (
            "What would a curve of these lengths look like while the gradients explode?",
            "The length is measured after shortening; it should be the one before.",
            "Measure once, before anything is multiplied, and return that.",
        ),
    ),
    (
        nothing_shortened,
        (
            "Look at weight.grad before and after.",
            "gradient * factor is a new tensor; the weight's own gradient stays as it was.",
            "gradient.mul_(max_norm / length)",
        ),
    ),
    (
        no_limit_taken_for_zero,
        (
            "What does max_norm=0 mean?",
            "0 means no limit, but here all gradients become 0 and nothing learns.",
            "if max_norm and length > max_norm: ...",
        ),
    ),
    (
        weights_shortened,
        (
            "What is to be shortened?",
            "The weights are; it should be their gradients.",
            "weight.grad.mul_(...), not weight.mul_(...)",
        ),
    ),
]

# ---- gather_gradients


def gather(model, objective, parts, config, share, first=True):
    """Sum up gradients, each part's sum of losses times share(count of the part, its number); the losses, alike."""
    if first:
        model.zero_grad()
    total, counts = 0.0, []
    for number, (step, places, clips, labels) in enumerate(parts):
        torch.manual_seed(place_seeds(config.seed, step, places[0]).model)
        summed, count = objective.loss(model, clips, labels, None)
        mean = summed * share(int(count), len(places), number)
        mean.backward()
        total, counts = total + mean.item(), [*counts, int(count)]
    return total, counts


def scale(model, factor):
    for gradient in gradients(model):
        gradient.mul_(factor)


def mean_of_means(model, objective, parts, config):
    total, counts = gather(model, objective, parts, config, lambda count, clips, number: 1 / max(count, 1))
    scale(model, 1 / len(counts))
    return total / len(counts)


def sum_of_means(model, objective, parts, config):
    return gather(model, objective, parts, config, lambda count, clips, number: 1 / max(count, 1))[0]


def sum_of_sums(model, objective, parts, config):
    return gather(model, objective, parts, config, lambda count, clips, number: 1.0)[0]


def all_clips_count(model, objective, parts, config):
    return gather(model, objective, parts, config, lambda count, clips, number: 1 / config.batch_size)[0]


def earlier_gradient_stays(model, objective, parts, config):
    total, counts = gather(model, objective, parts, config, lambda count, clips, number: 1.0, first=False)
    scale(model, 1 / sum(counts))
    return total / sum(counts)


def last_part_alone(model, objective, parts, config):
    parts = list(parts)
    count = sum(int((part.labels != -100).sum()) for part in parts)
    return gather(model, objective, parts[-1:], config, lambda *_: 1 / count)[0]


def first_part_alone(model, objective, parts, config):
    parts = list(parts)
    total, counts = gather(model, objective, parts[:1], config, lambda count, *_: 1 / max(count, 1))
    return total


def loss_of_the_last_part(model, objective, parts, config):
    parts = list(parts)
    _, counts = gather(model, objective, parts, config, lambda *_: 1.0)
    scale(model, 1 / sum(counts))
    last = parts[-1]
    with torch.no_grad():
        summed, count = objective.loss(model, last.clips, last.labels, None)
    return summed.item() / max(int(count), 1)


def loss_not_divided(model, objective, parts, config):
    total, counts = gather(model, objective, parts, config, lambda *_: 1.0)
    scale(model, 1 / sum(counts))
    return total


def one_luck_for_all_parts(model, objective, parts, config):
    model.zero_grad()
    total, seen = 0.0, 0
    for step, _, clips, labels in parts:
        torch.manual_seed(place_seeds(config.seed, step).model)
        summed, count = objective.loss(model, clips, labels, None)
        summed.backward()
        total, seen = total + summed.item(), seen + int(count)
    scale(model, 1 / seen)
    return total / seen


GATHERING = [
    (
        mean_of_means,
        (
            "One part holds 1 label that counts, the other 3: how much does each label weigh?",
            "The mean of the parts' means weighs the single label three times as much as the others.",
            "Sum the losses of all parts, and divide once by the number of labels that count in all of them.",
        ),
    ),
    (
        sum_of_means,
        (
            "Cut a batch into two parts: does the gradient double?",
            "The means of the parts are added.",
            "Sum the losses of all parts, and divide once by the number of labels that count in all of them.",
        ),
    ),
    (
        sum_of_sums,
        (
            "Show each clip twice: does the gradient double?",
            "Nothing is divided; the learning rate would have to change with the size of the batch.",
            "Divide by the number of labels that count in all parts.",
        ),
    ),
    (
        all_clips_count,
        (
            "Half of the labels are -100: is the gradient half as long?",
            "It is divided by the clips of the batch; only those whose label counts are to be counted.",
            "Objective.loss gives the count as well: sum it up, and divide by that.",
        ),
    ),
    (
        earlier_gradient_stays,
        (
            "Call it twice in a row: is the second gradient the first?",
            "The gradient of the step before is still there, and backward adds to it.",
            "model.zero_grad() before the first part.",
        ),
    ),
    (
        last_part_alone,
        (
            "Does the first part change the gradient?",
            "The gradient is set to zero before every part, so that only the last is left.",
            "model.zero_grad() once, before the loop.",
        ),
    ),
    (
        first_part_alone,
        (
            "Does the second part change the gradient?",
            "Only the first part is used.",
            "for ... in parts: all of them go forward and backward; backward adds up.",
        ),
    ),
    (
        loss_of_the_last_part,
        (
            "Compare the number that is returned with the mean loss of the whole batch.",
            "It is that of the last part.",
            "Add up the losses of all parts, divided as the gradient is.",
        ),
    ),
    (
        loss_not_divided,
        (
            "Compare the number that is returned with the mean loss of the whole batch.",
            "It is a sum.",
            "Divide it by the number of labels that count, as the gradient is.",
        ),
    ),
    (
        one_luck_for_all_parts,
        (
            "With dropout: does each part lose other features?",
            "Every part begins with the same random numbers, so that the same features are dropped in each.",
            "torch.manual_seed(place_seeds(config.seed, step, places[0]).model): the place of the part is in it.",
        ),
    ),
]

MISTAKES = {
    "clip_gradients": [Mistake(answer, hints) for answer, hints in CLIPPING],
    "gather_gradients": [Mistake(answer, hints) for answer, hints in GATHERING],
}


class Dropping(nn.Module):
    """A linear layer behind a dropout."""

    def __init__(self, share: float = 0.0):
        super().__init__()
        self.dropout, self.layer = nn.Dropout(share), nn.Linear(6, 3)
        with torch.no_grad():
            self.layer.weight.copy_(normal(0, 3, 6))
            self.layer.bias.copy_(normal(1, 3))

    def forward(self, clips):
        return self.layer(self.dropout(clips.flatten(1)))


def shortened(max_norm: float):
    """A probe of clip_gradients: the length it gives, and the gradients and weights it leaves."""

    def probe(answer):
        model = Dropping()
        model.layer.weight.grad, model.layer.bias.grad = normal(2, 3, 6), normal(3, 3)
        found = answer(model, max_norm)
        return float(found), [weight.grad for weight in model.parameters()], [w.detach() for w in model.parameters()]

    return probe


def gathered(dropout: float, parts: int):
    """A probe of gather_gradients: the loss it gives and the gradients it leaves, in two steps in a row."""

    def probe(answer):
        model, config = Dropping(dropout), FinetuneConfig(batch_size=6, micro_batches=parts, seed=5)
        clips, labels = normal(4, 6, 1, 1, 2, 3), torch.tensor([0, -100, -100, 2, 1, 1])
        found = []
        for step in (0, 1):
            cuts = [range(i * 6 // parts, (i + 1) * 6 // parts) for i in range(parts)]
            batches = [Batch(step, cut, clips[cut.start : cut.stop], labels[cut.start : cut.stop]) for cut in cuts]
            torch.manual_seed(7)
            loss = answer(model, Classification(), iter(batches), config)
            found.append((float(loss), [weight.grad.clone() for weight in model.parameters()]))
        return found

    return probe


def probes(name: str) -> Iterator:
    """Ways to use an answer by which a wrong one is recognised."""
    if name == "clip_gradients":
        for limit in (0.0, 0.5, 3.0, 100.0):
            yield shortened(limit)
    else:
        for dropout in (0.0, 0.5):
            for parts in (1, 2, 3):
                yield gathered(dropout, parts)
