"""Conversations with pictures and clips become what a model is fed: tokens, patches, grids, labels, batches."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from minivid.data.processor import Processor
from minivid.shapes import Grid, ShapeError
from minivid.text.chat import (
    ANSWER_HEADER,
    IGNORED,
    IMAGE_PAD,
    MESSAGE_END,
    VIDEO_PAD,
    Message,
    Part,
    answer_labels,
    chat_text,
    check_media,
    check_placeholders,
    expand,
    group_seconds,
    parts,
    timestamps,
)
from minivid.video.clip import CHANNELS, ClipPlan, ClipSettings, load_clip, plan_clip
from minivid.video.decode import probe, read_frames
from minivid.video.patches import grid_of, patchify, token_count
from minivid.video.resize import SizeDecision, decide_size, normalize, resize, smart_resize

Inputs = dict[str, Tensor]

# The names under which a model takes the pixels of pictures and of clips, and their grids.
PIXELS = {
    "image": ("pixel_values", "image_grid_thw"),
    "video": ("pixel_values_videos", "video_grid_thw"),
}
# What fills up short rows. Positions that are masked count for nothing; the published collator writes 1.
FILLS = {"attention_mask": 0, "labels": IGNORED, "position_ids": 1}
# What a message may say about a picture or a clip, in the published words, and what it sets.
SIZE_OPTIONS = {
    "min_pixels": "min_pixels",
    "max_pixels": "max_pixels",
    "resized_height": "height",
    "resized_width": "width",
}
CLIP_OPTIONS = SIZE_OPTIONS | {"total_pixels": "total_pixels"}
FILE_OPTIONS = CLIP_OPTIONS | {
    "fps": "fps",
    "nframes": "frames",
    "min_frames": "min_frames",
    "max_frames": "max_frames",
    "video_start": "start",
    "video_end": "end",
}
# When frames that are given one by one are shown. For a file they say nothing, and are passed over as the published
# reader does; raw_fps, the rate of the clip that frames came from, is passed over always: it would bend the seconds.
FRAME_OPTIONS = ("seconds", "sample_fps", "raw_fps")
SAMPLE_FPS = 2.0
# Budgets of clips count pairs of frames; an odd last frame is a pair of its own.
PAIR = 2


@dataclass(frozen=True)
class MediumPlan:
    """What one picture or clip of a conversation will become, known before it is decoded.

    Attributes:
        kind: "image" or "video".
        place: where the conversation has it, as in "message 0, part 1".
        name: the file, or "pixels".
        frames: how many are taken.
        seconds: the second of each frame group; empty for a picture.
        size: height and width, which bound decided them, and the rule.
        grid: patches along time, height and width.
        tokens: merged tokens that the language model gets.
        bytes: of its patches, float32.
        clip: the plan of a file in full, see `minivid.video.clip.plan_table`; None for pixels.
    """

    kind: str
    place: str
    name: str
    frames: int
    seconds: tuple[float, ...]
    size: SizeDecision
    grid: Grid
    tokens: int
    bytes: int
    clip: ClipPlan | None = None


@dataclass(frozen=True)
class ConversationPlan:
    """What a conversation will become, known before anything is decoded.

    Attributes:
        input_ids: the tokens of the whole prompt.
        answer_tokens: how many of them a model would learn to write, see `minivid.text.chat.answer_labels`.
        media: its pictures and clips, in order.
    """

    input_ids: tuple[int, ...]
    answer_tokens: int
    media: tuple[MediumPlan, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the prompt, those of pictures and clips included."""
        return len(self.input_ids)

    @property
    def vision_tokens(self) -> int:
        """Merged tokens of pictures and clips."""
        return sum(medium.tokens for medium in self.media)

    @property
    def bytes(self) -> int:
        """Of all patches together, float32."""
        return sum(medium.bytes for medium in self.media)


def prepare(
    messages: Sequence[Message],
    processor: Processor,
    *,
    add_generation_prompt: bool = True,
    add_vision_id: bool = False,
) -> Inputs:
    """Turn messages with pictures and clips into what a model is called with.

    A picture is a file, or uint8 pixels `c h w`. A clip is a file, uint8 pixels `t c h w`, or a list of pictures. A
    message may say how its own are read, in the published words: min_pixels, max_pixels, total_pixels,
    resized_height and resized_width; for a file fps or nframes, min_frames, max_frames, video_start, video_end; for
    frames given one by one sample_fps (2 where it is not said) or seconds, one for each.

    Args:
        messages: see `minivid.text.chat.parts`; they are not changed.
        processor: the model's.
        add_generation_prompt: whether the prompt ends with the beginning of an answer.
        add_vision_id: whether "Picture 1: " or "Video 1: " is written before each.

    Returns:
        input_ids and attention_mask, int64 `1 n`; where there are pictures pixel_values, float32 `rows d`, and
        image_grid_thw, int64 `images 3`; where there are clips pixel_values_videos and video_grid_thw.

    Raises:
        ValueError: if a message is not as it should be, a prompt spells a placeholder that stands for nothing, or a
            picture or clip cannot be had as asked. VideoError and ShapeError are among them.

    Warns:
        VideoWarning: if a file is damaged; the frames that came are used.
    """
    prompt, media = _read(messages, processor, add_generation_prompt, add_vision_id)
    for medium in media:  # whatever is wrong is said before the first frame is decoded
        medium.plan()
    loaded = [medium.load() for medium in media]
    ids = _tokenised(prompt, loaded, processor)
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
    for kind, (pixels, grids) in PIXELS.items():
        mine = [medium for medium in loaded if medium.kind == kind]
        if mine:
            inputs[pixels] = _stacked([medium.patches for medium in mine])
            inputs[grids] = torch.tensor([list(medium.grid) for medium in mine])
    return inputs


def prepare_labelled(messages: Sequence[Message], processor: Processor) -> Inputs:
    """Turn a conversation with its answers into what a model learns from: `prepare`, and labels, int64 `1 n`.

    The arguments and errors are those of `prepare`; the labels are those of `minivid.text.chat.answer_labels`.
    """
    inputs = prepare(messages, processor, add_generation_prompt=False)
    labels = _labels(inputs["input_ids"][0].tolist(), processor)
    return {**inputs, "labels": torch.tensor([labels])}


def plan(
    messages: Sequence[Message],
    processor: Processor,
    *,
    add_generation_prompt: bool = True,
    add_vision_id: bool = False,
) -> ConversationPlan:
    """Say what `prepare` would give, without decoding a file.

    The arguments and errors are those of `prepare`. Of a damaged file fewer frames can come than planned.
    """
    prompt, media = _read(messages, processor, add_generation_prompt, add_vision_id)
    plans = tuple(medium.plan() for medium in media)
    ids = _tokenised(prompt, plans, processor)
    answers = sum(label != IGNORED for label in _labels(ids, processor))
    return ConversationPlan(tuple(ids), answers, plans)


# ---- several conversations at once


def collate(
    samples: Sequence[Inputs], *, pad_token_id: int, padding_side: Literal["left", "right"] = "right"
) -> Inputs:
    """Put conversations below each other, the short ones filled up; their pictures and clips follow one another.

    Fill: pad_token_id in input_ids, 0 in attention_mask, -100 in labels. Nothing is cut off.

    Args:
        samples: from `prepare` or `prepare_labelled`; position_ids, int64 `b n 3`, are taken along.
        pad_token_id: any token; what is fill is told by the attention mask.
        padding_side: "left" to write on from the last token of each, "right" to learn.

    Returns:
        The names that the samples have; pixels and grids where any sample has them.

    Raises:
        ValueError: if there is no sample, they hold different things, or the side is neither left nor right.
    """
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side={padding_side!r}, expected 'left' or 'right'")
    fills = {"input_ids": pad_token_id, **FILLS}
    rows = _per_token(samples)
    length = max(row.shape[1] for row in rows["input_ids"])
    return {
        name: torch.cat([_filled(row, length, fills[name], padding_side) for row in rows[name]]) for name in rows
    } | _pixels(samples)


def flatten(samples: Sequence[Inputs]) -> Inputs:
    """Put conversations behind each other in one row, without fill, and say how long each is.

    A model that is told the lengths lets no conversation look at another, and counts the positions of each from 0.

    Args:
        samples: from `prepare` or `prepare_labelled`, one row each and nothing masked; position_ids, int64 `1 n 3`, are
            taken along.

    Returns:
        The names that the samples have but attention_mask, `1 n`; document_lengths, int64 `documents`; pixels and
        grids where any sample has them.

    Raises:
        ValueError: if there is no sample, or they hold different things.
        ShapeError: if a sample has several rows, or part of it is masked.
    """
    rows = _per_token(samples)
    for number, (ids, mask) in enumerate(zip(rows["input_ids"], rows.pop("attention_mask"), strict=True)):
        if len(ids) != 1 or not mask.all():
            raise ShapeError(
                f"samples[{number}]: {len(ids)} rows, {int((mask == 0).sum())} tokens masked, expected 1 row and none; "
                "flatten what prepare() gives, before any padding"
            )
    lengths = torch.tensor([ids.shape[1] for ids in rows["input_ids"]])
    return {
        **{name: torch.cat(found, dim=1) for name, found in rows.items()},
        "document_lengths": lengths,
        **_pixels(samples),
    }


def _per_token(samples: Sequence[Inputs]) -> dict[str, list[Tensor]]:
    """What has a value for each token, of all samples; where nothing is said of a mask, nothing is masked."""
    if not samples:
        raise ValueError("samples: 0, expected at least one")
    pixels = {name for names in PIXELS.values() for name in names}
    first, *others = [{"attention_mask", *sample} - pixels for sample in samples]
    for number, names in enumerate(others, start=1):
        if names != first:
            raise ValueError(
                f"samples[{number}]: holds {', '.join(sorted(names))}, but samples[0] {', '.join(sorted(first))}; "
                "prepare all of them alike"
            )
    if surplus := first - {"input_ids", *FILLS}:
        raise ValueError(f"samples: {', '.join(sorted(surplus))} cannot be filled up; collate what prepare() gives")
    return {
        name: [sample.get(name, torch.ones_like(sample["input_ids"])) for sample in samples]
        for name in ("input_ids", *FILLS)
        if name in first
    }


def _filled(rows: Tensor, length: int, fill: int, side: str) -> Tensor:
    missing = rows.new_full((len(rows), length - rows.shape[1], *rows.shape[2:]), fill)
    return torch.cat([missing, rows] if side == "left" else [rows, missing], dim=1)


def _pixels(samples: Sequence[Inputs]) -> Inputs:
    found = {
        name: [sample[name] for sample in samples if name in sample] for names in PIXELS.values() for name in names
    }
    return {name: _stacked(rows) for name, rows in found.items() if rows}


def _stacked(rows: list[Tensor]) -> Tensor:
    """One below the other; a single one is not copied, for the patches of a clip can be most of the memory."""
    return rows[0] if len(rows) == 1 else torch.cat(rows)


# ---- from messages to tokens


def _read(
    messages: Sequence[Message], processor: Processor, add_generation_prompt: bool, add_vision_id: bool
) -> tuple[str, list["_Medium"]]:
    prompt = chat_text(messages, add_generation_prompt=add_generation_prompt, add_vision_id=add_vision_id)
    media = [_medium(part, processor) for _, content in parts(messages) for part in content if part.kind != "text"]
    kinds = [medium.part.kind for medium in media]
    check_media(prompt, kinds.count("image"), kinds.count("video"))
    return prompt, media


def _tokenised(prompt: str, media: Iterable["MediumPlan | _Loaded"], processor: Processor) -> list[int]:
    pictures = [medium for medium in media if medium.kind == "image"]
    clips = [medium for medium in media if medium.kind == "video"]
    merge = processor.spatial_merge_size
    grids = {
        "image_grids": [tuple(medium.grid) for medium in pictures],
        "video_grids": [tuple(medium.grid) for medium in clips],
        "spatial_merge_size": merge,
    }
    text = expand(prompt, **grids, video_seconds=[clip.seconds for clip in clips], nested=processor.nested)
    ids = processor.tokenizer.encode(text)
    placeholders = {
        "image_token_id": processor.tokenizer.token_id(IMAGE_PAD),
        "video_token_id": processor.tokenizer.token_id(VIDEO_PAD),
    }
    check_placeholders(ids, **placeholders, **grids)
    return ids


def _labels(ids: Sequence[int], processor: Processor) -> list[int]:
    tokenizer = processor.tokenizer
    return answer_labels(ids, header=tokenizer.encode(ANSWER_HEADER), end=tokenizer.token_id(MESSAGE_END))


# ---- pictures and clips


@dataclass(frozen=True)
class _Loaded:
    kind: str
    patches: Float32[Tensor, "n d"]
    grid: Grid
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class _File:
    """A picture or a clip in a file."""

    part: Part
    path: str
    settings: ClipSettings

    def plan(self) -> MediumPlan:
        info = probe(self.path)
        kind, place = self.part.kind, self.part.place
        if kind == "image" and info.frames != 1:
            raise ValueError(f"{place}: {self.path}: {info.frames} frames, expected a picture; give it as a 'video'")
        try:
            clip = plan_clip(info, self.settings)
        except ValueError as error:
            raise type(error)(f"{place}: {self.path}: {error}") from None
        if kind == "video" and clip.count.frames < PAIR:
            raise ValueError(f"{place}: {self.path}: 1 frame, a video has at least {PAIR}; give it as an 'image'")
        seconds = self._seconds(clip.indices, info.fps)
        size = 4 * clip.patches[0] * clip.patches[1]
        frames = clip.count.frames
        return MediumPlan(kind, place, self.path, frames, seconds, clip.size, clip.grid, clip.tokens, size, clip)

    def load(self) -> _Loaded:
        clip = load_clip(self.path, self.settings)
        return _Loaded(self.part.kind, clip.patches, clip.grid, self._seconds(clip.indices, clip.info.fps))

    def _seconds(self, indices: Tensor, fps: float) -> tuple[float, ...]:
        if self.part.kind == "image":
            return ()
        return tuple(timestamps(indices.tolist(), fps, temporal_patch_size=self.settings.temporal_patch_size))


@dataclass(frozen=True)
class _Pixels:
    """A picture or a clip as pixels, or as a list of pictures."""

    part: Part
    frames: tuple[str | UInt8[Tensor, "c _ _"], ...]
    settings: ClipSettings

    def plan(self) -> MediumPlan:
        size, grid = self._size(*self._area())
        kind, count, settings = self.part.kind, len(self.frames), self.settings
        tokens = token_count(grid, spatial_merge_size=settings.spatial_merge_size)
        columns = CHANNELS * settings.temporal_patch_size * settings.patch_size**2
        bytes = 4 * grid.gt * grid.gh * grid.gw * columns
        return MediumPlan(kind, self.part.place, "pixels", count, self._seconds(), size, grid, tokens, bytes)

    def load(self) -> _Loaded:
        size, _ = self._size(*self._area())
        shown = [resize(_picture(frame)[None], size[:2]) for frame in self.frames]
        settings = self.settings
        patches, grid = patchify(
            normalize(torch.cat(shown)),
            patch_size=settings.patch_size,
            temporal_patch_size=settings.temporal_patch_size,
            spatial_merge_size=settings.spatial_merge_size,
        )
        return _Loaded(self.part.kind, patches, grid, self._seconds())

    def _area(self) -> tuple[int, int]:
        sizes = {_height_and_width(frame) for frame in self.frames}
        if len(sizes) > 1:
            raise ShapeError(f"{self.part.place}: frames of {len(sizes)} sizes, {sorted(sizes)}, expected one")
        return sizes.pop()

    def _size(self, height: int, width: int) -> tuple[SizeDecision, Grid]:
        settings, frames = self.settings, len(self.frames)
        cut = {name: getattr(settings, name) for name in ("patch_size", "temporal_patch_size", "spatial_merge_size")}
        try:
            if settings.height is not None:
                said = f"height={settings.height}, width={settings.width} asked for"
                size = SizeDecision(settings.height, settings.width, "exact", said)
            else:
                bounds = {name: getattr(settings, name) for name in ("min_pixels", "max_pixels", "total_pixels")}
                counted = 1 if self.part.kind == "image" else PAIR * -(-frames // PAIR)
                size = decide_size(height, width, counted, factor=settings.factor, **bounds)
            return size, grid_of(frames, size.height, size.width, **cut)
        except ValueError as error:
            raise type(error)(f"{self.part.place}: {error}") from None

    def _seconds(self) -> tuple[float, ...]:
        if self.part.kind == "image":
            return ()
        options = self.part.options
        seconds = options.get("seconds")
        if seconds is None:
            seconds = [place / options.get("sample_fps", SAMPLE_FPS) for place in range(len(self.frames))]
        return tuple(group_seconds(seconds, temporal_patch_size=self.settings.temporal_patch_size))


_Medium = _File | _Pixels


def _medium(part: Part, processor: Processor) -> _Medium:
    """What a part of a message gives as its picture or clip, checked as far as that goes without opening a file."""
    value, place = part.value, part.place
    if part.kind == "image":
        settings = replace(processor.image, frames=None, fps=None, start=None, end=None)
        if isinstance(value, str | os.PathLike):
            return _File(part, _path(value, place), _with_options(settings, part, SIZE_OPTIONS))
        frames = (_checked(value, ("c", "h", "w"), place),)
        return _Pixels(part, frames, _with_options(settings, part, SIZE_OPTIONS))
    if isinstance(value, str | os.PathLike):
        return _File(part, _path(value, place), _with_options(processor.video, part, FILE_OPTIONS))
    settings = _with_options(processor.video, part, CLIP_OPTIONS)
    if isinstance(value, list | tuple):
        frames = tuple(
            _path(frame, place) if isinstance(frame, str | os.PathLike) else _checked(frame, ("c", "h", "w"), place)
            for frame in value
        )
    else:
        frames = tuple(_checked(value, ("t", "c", "h", "w"), place))
    if not frames:
        raise ValueError(f"{place}: 0 frames, a clip has at least one")
    return _Pixels(_timed(part, len(frames)), frames, settings)


def _path(value: str | os.PathLike, place: str) -> str:
    path = os.fspath(value)
    if path.startswith("file://"):
        return path.removeprefix("file://")
    if path.startswith(("http://", "https://", "data:")):
        raise ValueError(f"{place}: {path[:60]}: only local files are read; download it and give its path")
    return path


def _checked(value: object, axes: Sequence[str], place: str) -> UInt8[Tensor, "..."]:
    wanted = f"a path, or uint8 pixels {' '.join(axes)} with c={CHANNELS}"
    if value is None:
        raise ValueError(f"{place}: announced, but not given; expected {wanted}")
    if not isinstance(value, Tensor):
        raise ValueError(f"{place}: a {type(value).__name__}, expected {wanted}")
    if value.dtype != torch.uint8 or value.ndim != len(axes) or value.shape[-3] != CHANNELS:
        dtype = str(value.dtype).removeprefix("torch.")
        raise ShapeError(f"{place}: {dtype} pixels of shape {tuple(value.shape)}, expected {wanted}")
    return value


def _timed(part: Part, frames: int) -> Part:
    """The part, if what it says of the times of its frames can be meant."""
    seconds, rate = part.options.get("seconds"), part.options.get("sample_fps", SAMPLE_FPS)
    if seconds is not None and len(seconds) != frames:
        raise ValueError(f"{part.place}: {len(seconds)} seconds for {frames} frames, expected one for each")
    if not rate > 0:
        raise ValueError(f"{part.place}: sample_fps={rate} is not a number of frames per second above 0")
    return part


def _with_options(settings: ClipSettings, part: Part, known: Mapping[str, str]) -> ClipSettings:
    """The settings as a message changes them for its own picture or clip."""
    asides = FRAME_OPTIONS if part.kind == "video" else ()
    given = {name: value for name, value in part.options.items() if name not in asides and value is not None}
    for name, value in given.items():
        if name not in known:
            raise ValueError(
                f"{part.place}: {name!r} says nothing about such {'a clip' if asides else 'a picture'}, "
                f"expected one of {', '.join([*known, *asides])}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{part.place}: {name}={value!r}, expected a number")
    given = {known[name]: value for name, value in given.items()}
    # What is said in one way takes the place of what was to hold in the other.
    if "fps" in given and "frames" not in given:
        given = {"frames": None, "repeat_short": False, **given}
    if "frames" in given and "fps" not in given:
        given = {"fps": None, **given}
    bounds = dict.fromkeys(("min_pixels", "max_pixels", "total_pixels"))
    try:
        if given.keys() & {"height", "width"}:
            settings = replace(settings, **bounds, **given)
            size = smart_resize(settings.height, settings.width, factor=settings.factor)
            return replace(settings, height=size[0], width=size[1])
        if given.keys() & bounds.keys():
            settings = replace(settings, height=None, width=None)
        return replace(settings, **given)
    except ValueError as error:
        raise ValueError(f"{part.place}: {error}") from None


def _height_and_width(frame: str | Tensor) -> tuple[int, int]:
    if isinstance(frame, Tensor):
        return frame.shape[-2], frame.shape[-1]
    info = probe(frame)
    if info.frames != 1:
        raise ValueError(f"{frame}: {info.frames} frames, expected a picture, one of the frames of a clip")
    return info.height, info.width


def _picture(frame: str | Tensor) -> Tensor:
    return frame if isinstance(frame, Tensor) else read_frames(frame).pixels[0]
