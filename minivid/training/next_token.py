"""Next-token prediction: every token of an answer is to be told from all that stands before it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from minivid.data.batches import Examples, collated, runs, to_device
from minivid.shapes import ShapeError
from minivid.training.cross_entropy import cross_entropy
from minivid.training.distributed import seen_by_all
from minivid.training.processes import done_in_turns

IGNORED = -100
"""The label of a token that does not count."""

WEIGHTINGS = ("tokens", "parts")


def next_token_cross_entropy(
    logits: Float[Tensor, "b n v"], labels: Int64[Tensor, "b n"]
) -> tuple[Float[Tensor, ""], Int64[Tensor, ""]]:
    """How surprising the labelled tokens are, each to who has read what stands before it.

        loss = sum over b and n >= 1, where labels[b, n] counts, of -log softmax(logits[b, n - 1])[labels[b, n]]

    The logits of token n are an answer to the question what token n + 1 is. So the last logits of a row answer nothing,
    and the first token of a row is never asked for.

    Args:
        logits: of every token.
        labels: the tokens themselves where they count, -100 where they do not; in the same places, not shifted.

    Returns:
        The sum in nats, in float32 whatever the logits are, and how many labels count. Their quotient is the mean.

    Raises:
        ShapeError: if the two do not fit together.

    Source: Radford et al. 2018, equation 1 (GPT); only over the answers: Liu et al. 2023, equation 3
    (arXiv:2304.08485).
    """
    if logits.shape[:2] != labels.shape:
        raise ShapeError(
            f"labels: b n = {tuple(labels.shape)}, expected those of the logits, {tuple(logits.shape[:2])}; "
            "labels are given unshifted, one a token"
        )
    kept, targets = next_token_targets(labels)
    return cross_entropy(logits[kept], targets, reduction="sum"), kept.sum()


def next_token_targets(
    labels: Int64[Tensor, "b n"], document_lengths: Int64[Tensor, " documents"] | None = None
) -> tuple[Bool[Tensor, "b n"], Int64[Tensor, " kept"]]:
    """Which tokens are asked what follows, and the right answers.

    Of a prompt of a thousand visual tokens and an answer of twenty, twenty logits rows are needed, not a thousand and
    twenty. With a vocabulary of 151936 that is the larger part of the memory of a training step.

    Args:
        labels: the tokens themselves where they count, -100 where they do not; in the same places, not shifted.
        document_lengths: of the conversations that stand one after the other in a single row; they sum to n. The last
            token of one is not asked for the first of the next.

    Returns:
        True where a token's successor counts, and these successors, row by row.

    Raises:
        ShapeError: if there are document_lengths and not one row, or they do not sum to n.
    """
    following = labels.roll(-1, dims=1)  # b n
    following[:, -1] = IGNORED
    if document_lengths is not None:
        b, n = labels.shape
        if b != 1 or int(document_lengths.sum()) != n:
            raise ShapeError(
                f"document_lengths: {document_lengths.tolist()} sum to {int(document_lengths.sum())}, and labels are "
                f"b n = {(b, n)}; expected one row of that many tokens"
            )
        following[0, document_lengths.cumsum(0) - 1] = IGNORED
    kept = following != IGNORED
    return kept, following[kept]


def next_token_loss(
    model: nn.Module, inputs: Mapping[str, Tensor], labels: Int64[Tensor, "b n"]
) -> tuple[Float[Tensor, ""], Int64[Tensor, ""]]:
    """next_token_cross_entropy of a model's logits, computed only where a label counts.

    Args:
        model: called as `model(**inputs, keep=kept)`, it gives the logits of the tokens where `kept` is True.
        inputs: input_ids b n and what belongs to them: attention_mask, pictures, document_lengths.
        labels: as for next_token_cross_entropy.

    Returns:
        The sum and how many labels count.
    """
    kept, targets = next_token_targets(labels, inputs.get("document_lengths"))
    return cross_entropy(model(**inputs, keep=kept), targets, reduction="sum"), kept.sum()


@dataclass(frozen=True)
class NextToken:
    """The objective of a model that answers in words: cross-entropy of every token that counts.

    Attributes:
        weighting: "tokens": every token counts the same, so that a batch in parts, or in processes, is one large batch.
            "parts": every part of a batch counts the same, whatever number of tokens counts in it, as in the published
            recipe; a token of a short answer then weighs more than one of a long answer, and the more parts a batch is
            cut into, the more so.
        measured_at_once: conversations that are put to the model at once where it is measured; of no influence on the
            figures.

    Raises:
        ValueError: for another weighting, or none at once.

    Source: as for next_token_cross_entropy.
    """

    figures: ClassVar = ("validation_loss", "validation_token_accuracy", "validation_exact_match")
    weighting: str = "tokens"
    measured_at_once: int = field(default=8, repr=False)  # not a part of what is minimised

    def __post_init__(self):
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting={self.weighting!r} is none of {', '.join(WEIGHTINGS)}")
        if self.measured_at_once < 1:
            raise ValueError(f"measured_at_once={self.measured_at_once} is not at least 1")

    def loss(self, model, inputs, labels, generators=None):
        """The sum over the tokens that count, and their number; of parts, the mean of this one, and 1."""
        summed, count = next_token_loss(model, *seen_by_all(model, inputs, labels))
        if self.weighting == "parts":
            return summed / count.clamp(min=1), (count > 0).long()
        return summed, count

    @torch.no_grad()
    def measure(self, model, data: Examples, *, batch_size: int | None = None) -> dict[str, float]:
        """validation_loss in nats a token; the share of tokens, validation_token_accuracy, and of whole conversations,
        validation_exact_match, in which the most probable token is the right one, when all before it are given.
        """
        if len(data) == 0:
            raise ValueError("data: 0 conversations, expected at least 1 to evaluate on")
        mode, device = model.training, next(model.parameters()).device
        batch_size = batch_size or self.measured_at_once

        def put(places: range) -> tuple[float, int, int, int, int]:
            inputs, labels = collated(data, [data[i] for i in places])
            inputs, labels = seen_by_all(model, to_device(inputs, device), labels.to(device))
            lengths = inputs.get("document_lengths")
            kept, targets = next_token_targets(labels, lengths)
            logits = model(**inputs, keep=kept)  # kept v
            hits, owners = logits.argmax(-1) == targets, _conversations(kept, lengths)
            conversations = len(owners.unique())
            perfect = conversations - len(owners[~hits].unique())
            loss = cross_entropy(logits, targets, reduction="sum").item()
            return loss, len(targets), int(hits.sum()), conversations, perfect

        model.eval()
        try:
            found = done_in_turns(runs(len(data), batch_size), put)
        finally:
            model.train(mode)
        loss, tokens, right, conversations, perfect = (sum(column) for column in zip(*found, strict=True))
        if tokens == 0:
            raise ValueError(f"data: no label counts in {len(data)} conversations, so there is nothing to measure")
        return {
            "validation_loss": loss / tokens,
            "validation_token_accuracy": right / tokens,
            "validation_exact_match": perfect / conversations,
        }


def _conversations(kept: Bool[Tensor, "b n"], document_lengths: Tensor | None) -> Int64[Tensor, " kept"]:
    """The number of the conversation in which each kept token stands."""
    rows, places = kept.nonzero(as_tuple=True)
    if document_lengths is None:
        return rows
    return torch.searchsorted(document_lengths.cumsum(0).to(places.device), places, right=True)
