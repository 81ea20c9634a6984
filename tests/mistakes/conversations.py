"""Classic wrong answers about batches of conversations, each with three hints of increasing directness."""

from collections.abc import Iterator

import torch

from minivid.classroom.museum import Mistake

PIXELS = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")


def pixels_of(samples, order=list, one_below_the_other=torch.cat):
    found = {name: [sample[name] for sample in order(samples) if name in sample] for name in PIXELS}
    return {name: one_below_the_other(rows) for name, rows in found.items() if rows}


# ---- collate


def fills(
    *,
    labels=-100,
    mask=0,
    positions=1,
    side=lambda asked: asked,
    sides=None,
    cut=max,
    mask_by_token=False,
    order=list,
    names=("input_ids", "attention_mask", "labels", "position_ids"),
    pixels=True,
    reverse=False,
):
    """A wrong answer with the signature of collate, from what it fills up with, where."""

    def answer(samples, *, pad_token_id, padding_side="right"):
        samples = order(samples)
        length = cut(sample["input_ids"].shape[1] for sample in samples)
        values = {"input_ids": pad_token_id, "attention_mask": mask, "labels": labels, "position_ids": positions}
        batch = {}
        for name in names:
            if name not in samples[0]:
                continue
            rows = []
            for sample in samples:
                own = sample[name][:, :length]
                fill = own.new_full(
                    (1, length - own.shape[1], *own.shape[2:]),
                    values[name] if values[name] is not None else pad_token_id,
                )
                left = (sides or {}).get(name, side(padding_side)) == "left"
                rows.append(torch.cat([fill, own] if left else [own, fill], dim=1))
            batch[name] = torch.cat(rows)
        if mask_by_token:
            batch["attention_mask"] = (batch["input_ids"] != pad_token_id).long()
        return batch | (pixels_of(samples, order=(lambda rows: rows[::-1]) if reverse else list) if pixels else {})

    return answer


padding_learnt = fills(labels=None)
padding_learnt_as_token_0 = fills(labels=0)
padding_not_masked = fills(mask=1)
always_right = fills(side=lambda asked: "right")
always_left = fills(side=lambda asked: "left")
sides_swapped = fills(side=lambda asked: "left" if asked == "right" else "right")
labels_on_the_other_side = fills(sides={"labels": "right"})
mask_on_the_other_side = fills(sides={"attention_mask": "right"})
cut_to_the_shortest = fills(cut=min)
mask_from_the_fill = fills(mask_by_token=True)
sorted_by_length = fills(order=lambda samples: sorted(samples, key=lambda sample: -sample["input_ids"].shape[1]))
pixels_lost = fills(pixels=False)
pixels_in_reverse = fills(reverse=True)
labels_lost = fills(names=("input_ids", "attention_mask", "position_ids"))


def pixels_of_the_first_alone(samples, *, pad_token_id, padding_side="right"):
    batch = fills(pixels=False)(samples, pad_token_id=pad_token_id, padding_side=padding_side)
    return batch | {name: sample[name] for sample in samples[::-1] for name in PIXELS if name in sample}


def filled_in_place(samples, *, pad_token_id, padding_side="right"):
    batch = fills()(samples, pad_token_id=pad_token_id, padding_side=padding_side)
    for row, sample in enumerate(samples):
        sample["input_ids"] = batch["input_ids"][row : row + 1]
    return batch


SIDE = 'torch.cat([fill, row] if padding_side == "left" else [row, fill], dim=1)'

COLLATE = [
    (
        padding_learnt,
        (
            "What is the label of a token that only fills?",
            "The fill counts: the model learns to write the padding token.",
            "-100 fills the labels, pad_token_id only input_ids",
        ),
    ),
    (
        padding_learnt_as_token_0,
        ("What is the label of a token that only fills?", "0 is a token like any other.", "-100 fills the labels"),
    ),
    (
        padding_not_masked,
        (
            "What is the mask of a token that only fills?",
            "The fill is not masked, so every token looks at it.",
            "0 fills the attention mask",
        ),
    ),
    (
        always_right,
        (
            'Try padding_side="left".',
            "The fill is always on the right; to write on, the last token of each row must be the conversation's.",
            SIDE,
        ),
    ),
    (always_left, ('Try padding_side="right".', "The fill is always on the left.", SIDE)),
    (sides_swapped, ("On which side is the fill?", "Left and right are swapped.", SIDE)),
    (
        labels_on_the_other_side,
        (
            'Compare labels and tokens with padding_side="left".',
            "The labels are filled on the right whatever the tokens are, so they no longer stand below them.",
            SIDE,
        ),
    ),
    (
        mask_on_the_other_side,
        (
            'Compare mask and tokens with padding_side="left".',
            "The mask is filled on the right whatever the tokens are: it hides the end of the conversation.",
            SIDE,
        ),
    ),
    (
        cut_to_the_shortest,
        (
            "How long are the rows?",
            "All are cut to the shortest: ends of answers, and halves of pictures, are lost.",
            "length = max(sample['input_ids'].shape[1] for sample in samples)",
        ),
    ),
    (
        mask_from_the_fill,
        (
            "Try a conversation that holds pad_token_id itself.",
            "The mask is made by comparing tokens, so that a token of the conversation is hidden.",
            "The mask follows from the lengths.",
        ),
    ),
    (
        sorted_by_length,
        ("In which order do the rows come?", "The rows are sorted by length.", "Row i is samples[i]."),
    ),
    (
        pixels_lost,
        ("Which names has the batch?", "Pixels and grids are missing.", 'torch.cat([sample["pixel_values"] ...])'),
    ),
    (
        pixels_in_reverse,
        (
            "Compare the pixels with the rows.",
            "The pictures come in reverse order: each row sees the picture of another.",
            "Pixels and grids follow the order of the samples.",
        ),
    ),
    (
        labels_lost,
        ("Which names has the batch?", "The labels are missing.", "Every name of the samples is one of the batch."),
    ),
    (
        pixels_of_the_first_alone,
        (
            "Try two samples with a picture each.",
            "Only the first sample's pixels are there.",
            'torch.cat([sample["pixel_values"] for sample in samples if "pixel_values" in sample])',
        ),
    ),
    (
        filled_in_place,
        (
            "Look at the samples after the call.",
            "The samples are changed, so the next batch finds the fill in them.",
            "Make new tensors; leave the samples as they are.",
        ),
    ),
]

# ---- flatten


def rows_behind(
    *,
    lengths=lambda lengths: lengths,
    name="document_lengths",
    names=("input_ids", "labels", "position_ids"),
    order=list,
    positions=lambda rows: torch.cat(rows, dim=1),
    labels=lambda rows: torch.cat(rows, dim=1),
    mask=False,
    pixels=True,
    reverse=False,
):
    """A wrong answer with the signature of flatten."""

    def answer(samples):
        samples = order(samples)
        found = {key: [sample[key] for sample in samples] for key in names if key in samples[0]}
        how = {"position_ids": positions, "labels": labels}
        row = {key: how.get(key, lambda rows: torch.cat(rows, dim=1))(rows) for key, rows in found.items()}
        row[name] = lengths(torch.tensor([sample["input_ids"].shape[1] for sample in samples]))
        if mask:
            row["attention_mask"] = torch.ones_like(row["input_ids"])
        return row | (pixels_of(samples, order=(lambda rows: rows[::-1]) if reverse else list) if pixels else {})

    return answer


def going_on(rows):
    """Positions that do not begin anew."""
    moved, after = [], 0
    for row in rows:
        moved.append(row + after)
        after = int(moved[-1].max()) + 1
    return torch.cat(moved, dim=1)


ends_instead_of_lengths = rows_behind(lengths=lambda lengths: lengths.cumsum(0))
ends_with_a_zero = rows_behind(
    lengths=lambda lengths: torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
)
one_document = rows_behind(lengths=lambda lengths: lengths.sum()[None])
lengths_of_the_longest = rows_behind(lengths=lambda lengths: torch.full_like(lengths, int(lengths.max())))
lengths_in_another_order = rows_behind(lengths=lambda lengths: lengths.flip(0))
positions_go_on = rows_behind(positions=going_on)
flat_labels_shifted = rows_behind(labels=lambda rows: torch.cat(rows, dim=1).roll(-1, 1))
sorted_first = rows_behind(order=lambda samples: sorted(samples, key=lambda sample: sample["input_ids"].shape[1]))
mask_of_ones = rows_behind(mask=True)
flat_labels_lost = rows_behind(names=("input_ids", "position_ids"))
flat_pixels_lost = rows_behind(pixels=False)
flat_pixels_in_reverse = rows_behind(reverse=True)


def below_each_other(samples):
    return fills()(samples, pad_token_id=0)


def separated(samples):
    row = rows_behind()(samples)
    parts = []
    for sample in samples:
        parts += [sample["input_ids"], torch.zeros(1, 1, dtype=torch.int64)]
    return row | {"input_ids": torch.cat(parts, dim=1), "document_lengths": row["document_lengths"] + 1}


FLATTEN = [
    (
        ends_instead_of_lengths,
        (
            "Two conversations of 2 and 5 tokens: what are their lengths?",
            "These are the places where they end, not their lengths.",
            "document_lengths = [2, 5]",
        ),
    ),
    (
        ends_with_a_zero,
        (
            "Two conversations of 2 and 5 tokens: what are their lengths?",
            "These are the ends with a 0 before them, as attention kernels for rows of several lengths want them.",
            "document_lengths = [2, 5]",
        ),
    ),
    (
        one_document,
        (
            "How many documents are there?",
            "All are taken for one, so that each looks at those before it.",
            "One length for each sample.",
        ),
    ),
    (
        lengths_of_the_longest,
        (
            "Sum the lengths.",
            "Each conversation is said to be as long as the longest.",
            "The lengths sum to the row's.",
        ),
    ),
    (
        lengths_in_another_order,
        ("Compare the lengths with the samples.", "They come in reverse order.", "Length i is that of samples[i]."),
    ),
    (
        positions_go_on,
        (
            "What is the position of a second conversation's first token?",
            "The positions go on from one conversation to the next; each begins anew.",
            "torch.cat(positions, dim=1), as they are",
        ),
    ),
    (
        flat_labels_shifted,
        (
            "Compare labels and tokens.",
            "The labels are shifted by one; the loss shifts them, so they are shifted twice.",
            "label i is token i",
        ),
    ),
    (
        sorted_first,
        ("In which order do they stand?", "They are sorted by length.", "The order of the samples stays."),
    ),
    (
        mask_of_ones,
        (
            "Which names has the row?",
            "There is a mask, but nothing to mask; what keeps conversations apart is their lengths.",
            "Leave attention_mask out.",
        ),
    ),
    (
        flat_labels_lost,
        ("Which names has the row?", "The labels are missing.", "Every name of the samples but the mask."),
    ),
    (
        flat_pixels_lost,
        ("Which names has the row?", "Pixels and grids are missing.", 'torch.cat([sample["pixel_values"] ...])'),
    ),
    (
        flat_pixels_in_reverse,
        (
            "Compare the pixels with the conversations.",
            "The pictures come in reverse order: each conversation sees the picture of another.",
            "Pixels and grids follow the order of the samples.",
        ),
    ),
    (
        below_each_other,
        (
            "How many rows are there?",
            "The conversations stand below each other, filled up; they belong into one row.",
            "torch.cat(rows, dim=1)",
        ),
    ),
    (
        separated,
        (
            "How long is the row?",
            "A token is put in between; the lengths alone keep them apart.",
            "torch.cat(rows, dim=1), and nothing between",
        ),
    ),
]

NAMED = {"collate": COLLATE, "flatten": FLATTEN}
MISTAKES = {name: [Mistake(answer, hints) for answer, hints in found] for name, found in NAMED.items()}


def probes(name: str) -> Iterator[tuple[tuple, dict]]:
    """Samples on which no two of the mistakes above give the same."""

    def sample(length, first, **more):
        ids = torch.arange(first, first + length)[None]
        positions = (ids - first)[..., None] + torch.tensor([0, 1, 2])
        labels = torch.where(ids % 2 == 0, ids, -100)
        made = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "position_ids": positions}
        return made | {name: torch.tensor(value) for name, value in more.items()}

    one = {"pixel_values": [[1.0, 2.0]], "image_grid_thw": [[1, 1, 1]]}
    two = {"pixel_values": [[3.0, 4.0], [5.0, 6.0]], "image_grid_thw": [[1, 2, 1]]}
    clip = {"pixel_values_videos": [[7.0, 8.0]], "video_grid_thw": [[1, 1, 1]]}
    for samples in (
        [sample(2, 5, **one), sample(5, 20, **two, **clip), sample(3, 40)],
        [sample(4, 2), sample(3, 10, **clip)],
    ):
        if name == "flatten":
            yield (samples,), {}
        else:
            for side in ("left", "right"):
                yield (samples,), {"pad_token_id": 5, "padding_side": side}
