"""Bag of words: the eyes of a model learn which words an answer holds, before the model learns to say them in order."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from minivid.data.batches import Examples, Inputs, collated, runs, to_device
from minivid.models.qwen3_vl import Qwen3VL
from minivid.shapes import ShapeError
from minivid.training.cross_entropy import cross_entropy
from minivid.training.next_token import IGNORED, next_token_targets
from minivid.training.processes import done_in_turns

LEARNS = ("visual.", "embed_tokens", "language_model.norm")
"""What is used, as pieces of names for FinetuneConfig.train_only: of a model with tied word embeddings, no more."""


@dataclass(frozen=True)
class BagOfWords:
    """The objective that asks for every answer token at the mean of what the vision tower made of the clip.

        logits = W norm(mean over the clip's tokens of (merged + deepstack_1 + deepstack_2 + ...))

    No layer of the language model lies between the eyes and the words. So in which order words come cannot be learnt;
    but which words belong to the clip can, and the gradient of it reaches the eyes undiluted from the first step, when
    a language model would not yet know where to look.

    Attributes:
        without: ids of tokens that are not asked for, because every answer has them, such as its end.
        measured_at_once: clips that are put to the model at once where it is measured; of no influence on the figure.

    Raises:
        ValueError: for none at once.

    Source: Joulin et al. 2016, section 3 (arXiv:1511.02251): features that foretell the words of a picture's caption.
    """

    figures: ClassVar = ("validation_loss",)
    without: tuple[int, ...] = ()
    measured_at_once: int = field(default=64, repr=False)  # not a part of what is minimised

    def __post_init__(self):
        if self.measured_at_once < 1:
            raise ValueError(f"measured_at_once={self.measured_at_once} is not at least 1")

    def loss(self, model, inputs, labels, generators=None):
        """The sum over the tokens that count, and their number."""
        labels = labels.masked_fill(torch.isin(labels, labels.new_tensor(self.without)), IGNORED)
        kept, targets = next_token_targets(labels)
        rows = kept.nonzero()[:, 0]
        return cross_entropy(words_seen(model, inputs)[rows], targets, reduction="sum"), len(targets)

    @torch.no_grad()
    def measure(self, model, data: Examples, *, batch_size: int | None = None) -> dict[str, float]:
        """validation_loss, in nats a token."""
        if len(data) == 0:
            raise ValueError("data: 0 conversations, expected at least 1 to evaluate on")

        def put(places: range) -> tuple[float, int]:
            inputs, labels = collated(data, [data[i] for i in places])
            summed, counted = self.loss(model, to_device(inputs, model.device), labels.to(model.device))
            return summed.item(), counted

        found = done_in_turns(runs(len(data), batch_size or self.measured_at_once), put)
        loss, count = (sum(column) for column in zip(*found, strict=True))
        if count == 0:
            raise ValueError(f"data: no label counts in {len(data)} conversations, so there is nothing to measure")
        return {"validation_loss": loss / count}


def words_seen(model: Qwen3VL, inputs: Inputs) -> Float[Tensor, "b v"]:
    """How well each word fits each clip, read off what the vision tower made of it.

    Args:
        model: its vision tower, last norm and vocabulary head are used.
        inputs: pixel_values_videos and video_grid_thw, one clip for each row of input_ids.

    Returns:
        Logits.

    Raises:
        ShapeError: if there are more or fewer clips than rows.
    """
    grids, rows = inputs["video_grid_thw"], len(inputs["input_ids"])
    if len(grids) != rows:
        raise ShapeError(f"video_grid_thw: {len(grids)} clips for {rows} rows of input_ids, expected one for each")
    seen = model.visual(inputs["pixel_values_videos"], grids)
    x = sum(seen.deepstack, seen.merged)  # tokens d
    lengths = grids.prod(-1) // model.config.vision_config.spatial_merge_size**2
    means = torch.stack([tokens.mean(0) for tokens in x.split(lengths.tolist())])  # b d
    return model.logits(model.language_model.norm(means))
