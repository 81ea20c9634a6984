"""Messages between people and a model become one prompt: roles, placeholders, timestamps, and which tokens are answers.

A prompt is made in two steps. `chat_text` writes the turns down and puts one placeholder for every picture and clip.
`expand` then writes as many placeholders as the picture has merged tokens, and for a clip one stretch per frame group,
each with the second at which it is shown.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from minivid.shapes import Grid, ShapeError, checked_grid

ROLES = ("system", "user", "assistant")
MESSAGE_START, MESSAGE_END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
# What stands before every answer; the newline after it is left to the tokenizer, which may join it with what follows.
ANSWER_HEADER = f"{MESSAGE_START}assistant"
PADS = {"image": IMAGE_PAD, "video": VIDEO_PAD}
# What `add_vision_id` calls them.
TITLES = {"image": "Picture", "video": "Video"}
# Assumed where a file does not say how many frames it shows per second.
FPS = 24.0
# A label with this value counts for nothing in the loss.
IGNORED = -100

Message = Mapping[str, object]
Grids = Sequence[Sequence[int]]


class Part(NamedTuple):
    """A piece of a message.

    Attributes:
        kind: "text", "image" or "video".
        value: the text, or what the message gives as the picture or the clip (None where it is only announced).
        options: what else the message says about it, such as how many frames to take.
        place: where it stands, for whoever must say that something is wrong with it.
    """

    kind: str
    value: object
    options: dict[str, object]
    place: str


def parts(messages: Sequence[Message]) -> Iterator[tuple[str, list[Part]]]:
    """Read messages: the role of each, and its text, pictures and clips in order.

    A message is {"role": ..., "content": ...}; its content is a text, or a list of parts: {"text": ...},
    {"image": ...} or {"video": ...}, with or without a "type". What is wrong is told by its place, counted from 0.

    Args:
        messages: in order; they are not changed.

    Yields:
        Role and parts of each message.

    Raises:
        ValueError: if something is not of that form, or a role is none of system, user and assistant.
    """
    if isinstance(messages, Mapping | str) or not isinstance(messages, Sequence):
        raise ValueError(
            f"messages: a {type(messages).__name__}, expected a list of {{'role': ..., 'content': ...}}, one per turn"
        )
    for number, message in enumerate(messages):
        place = f"message {number}"
        if not isinstance(message, Mapping):
            raise ValueError(f"{place}: a {type(message).__name__}, expected {{'role': ..., 'content': ...}}")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise ValueError(f"{place}: role {role!r}, expected one of {', '.join(ROLES)}")
        if content is None:
            raise ValueError(f"{place} ({role}): no content; give a text, or a list of texts, pictures and clips")
        if isinstance(content, str):
            yield role, [Part("text", content, {}, place)]
        elif isinstance(content, Sequence):
            yield role, [_part(part, f"{place}, part {index}") for index, part in enumerate(content)]
        else:
            raise ValueError(f"{place} ({role}): content is a {type(content).__name__}, expected a text or a list")


def _part(part: object, place: str) -> Part:
    if not isinstance(part, Mapping):
        raise ValueError(f"{place}: a {type(part).__name__}, expected {{'text': ...}}, {{'image': ...}} or the like")
    options = {key: value for key, value in part.items() if key not in ("type", "text", "image", "image_url", "video")}
    if part.get("type") == "image" or "image" in part or "image_url" in part:
        value = part.get("image", part.get("image_url"))
        return Part("image", value.get("url") if isinstance(value, Mapping) else value, options, place)
    if part.get("type") == "video" or "video" in part:
        return Part("video", part.get("video"), options, place)
    text = part.get("text")
    if not isinstance(text, str):
        found = f"'text' is a {type(text).__name__}" if "text" in part else f"only {', '.join(map(repr, part)) or '{}'}"
        raise ValueError(f"{place}: {found}, expected a string under 'text', or 'image', or 'video'")
    return Part("text", text, options, place)


def chat_text(messages: Sequence[Message], *, add_generation_prompt: bool = False, add_vision_id: bool = False) -> str:
    """Write a conversation down as the text that a chat model reads, one placeholder for each picture and clip.

    Each message becomes `<|im_start|>role`, a new line, its content, `<|im_end|>` and a new line. A picture becomes
    `<|vision_start|><|image_pad|><|vision_end|>`, a clip the same with `<|video_pad|>`. Nothing is added between parts,
    and no system message where there is none.

    Args:
        messages: {"role": "system", "user" or "assistant", "content": a text, or a list of {"text": ...},
            {"image": ...} and {"video": ...}}; they are not changed.
        add_generation_prompt: whether to end with the beginning of an answer, for the model to go on from.
        add_vision_id: whether to write "Picture 1: " or "Video 1: " before each, counted over the conversation.

    Returns:
        The text.

    Raises:
        ValueError: if a message has no content, an unknown role, or a part that is neither text, picture nor clip.

    Source: the chat template published with Qwen3-VL.
    """
    counts, turns = Counter(), []
    for role, content in parts(messages):
        turns.append(f"{MESSAGE_START}{role}\n")
        for part in content:
            if part.kind == "text":
                turns.append(part.value)
                continue
            counts[part.kind] += 1
            title = f"{TITLES[part.kind]} {counts[part.kind]}: " if add_vision_id else ""
            turns.append(f"{title}{VISION_START}{PADS[part.kind]}{VISION_END}")
        turns.append(f"{MESSAGE_END}\n")
    if add_generation_prompt:
        turns.append(f"{ANSWER_HEADER}\n")
    return "".join(turns)


def timestamps(frames_indices: Iterable[int], fps: int | float | None, *, temporal_patch_size: int = 2) -> list[float]:
    """Say at which second each frame group of a clip is shown: halfway between its first and its last frame.

    Frame i is shown at i / fps; a group is temporal_patch_size frames, the last one filled up with the last frame:

        second of group g = (t_first + t_last) / 2

    Args:
        frames_indices: number of each chosen frame in the file, in order.
        fps: frames per second of the file, not the rate at which they were chosen; None = 24.
        temporal_patch_size: frames in a group.

    Returns:
        One second for each group.

    Raises:
        ValueError: if there is no frame, a group has none, or fps is not above 0.

    Source: Qwen3-VL technical report (arXiv:2511.21631), text-based time alignment.
    """
    rate = FPS if fps is None else fps
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"fps={fps} is not a number of frames per second above 0; give that of the file")
    return group_seconds([float(index) / rate for index in frames_indices], temporal_patch_size=temporal_patch_size)


def group_seconds(seconds: Iterable[int | float], *, temporal_patch_size: int = 2) -> list[float]:
    """Turn the seconds of frames into those of frame groups, as `timestamps` does, for frames whose times are known.

    Args:
        seconds: when each frame is shown, in order.
        temporal_patch_size: frames in a group.

    Returns:
        One second for each group: the middle between its first and its last frame.

    Raises:
        ValueError: if there is no frame, or a group has none.
    """
    shown = [float(second) for second in seconds]
    size = temporal_patch_size
    if not shown:
        raise ValueError("frames: 0, a clip has at least one frame")
    if size < 1:
        raise ValueError(f"temporal_patch_size={size}, expected at least 1 frame in a group")
    shown += shown[-1:] * (-len(shown) % size)
    return [(shown[first] + shown[first + size - 1]) / 2 for first in range(0, len(shown), size)]


def check_media(text: str, images: int, videos: int) -> None:
    """Make sure that a prompt has one placeholder for each picture and clip.

    Args:
        text: what `chat_text` gives.
        images, videos: how many pictures and clips there are.

    Raises:
        ValueError: if there are more or fewer placeholders than that.
    """
    for kind, given in (("image", images), ("video", videos)):
        found = text.count(PADS[kind])
        if found != given:
            raise ValueError(
                f"prompt: {_counted(found, PADS[kind] + ' placeholder')}, but {_counted(given, kind)}; "
                f"write one {PADS[kind]} for each {kind}"
            )


def expand(
    text: str,
    *,
    image_grids: Grids = (),
    video_grids: Grids = (),
    video_seconds: Sequence[Sequence[int | float]] = (),
    spatial_merge_size: int = 2,
    nested: bool = False,
) -> str:
    """Give every picture and clip of a prompt as many placeholders as it has tokens, and every frame group its second.

    A picture's `<|image_pad|>` is repeated gt gh gw / spatial_merge_size^2 times. A clip's
    `<|vision_start|><|video_pad|><|vision_end|>`, all three, becomes for each of its gt frame groups

        <0.3 seconds><|vision_start|>, gh gw / spatial_merge_size^2 times <|video_pad|>, <|vision_end|>

    Args:
        text: what `chat_text` gives; in it one placeholder for each picture and clip.
        image_grids: patches along time, height and width of every picture, in order.
        video_grids: the same for every clip.
        video_seconds: of every clip, the second of each frame group, as from `timestamps`.
        spatial_merge_size: side of the blocks of patches that are merged into one token.
        nested: whether the pair `<|vision_start|>`, `<|vision_end|>` around the whole clip stays, as transformers 5
            leaves it: two tokens more for each clip. The published models have seen the other form.

    Returns:
        The text that is tokenised.

    Raises:
        ValueError: if placeholders and pictures or clips, or seconds and frame groups, are not equally many.
        ShapeError: if a grid is not made of whole blocks.

    Source: Qwen3-VL technical report (arXiv:2511.21631), text-based time alignment.
    """
    check_media(text, len(image_grids), len(video_grids))
    if len(video_seconds) != len(video_grids):
        raise ValueError(
            f"video_seconds: of {_counted(len(video_seconds), 'clip')}, but there are {len(video_grids)} in "
            "video_grids; give the seconds of each"
        )
    merge = spatial_merge_size
    pictures = iter([IMAGE_PAD * _tokens(grid, merge) for grid in image_grids])
    clips = iter(
        [
            "".join(_frame_groups(number, grid, seconds, merge))
            for number, (grid, seconds) in enumerate(zip(video_grids, video_seconds, strict=True))
        ]
    )
    # A clip's placeholder may also stand alone, in a prompt that was written by hand.
    around = "" if nested else f"{re.escape(VISION_START + VIDEO_PAD + VISION_END)}|"
    placeholder = f"{around}{re.escape(VIDEO_PAD)}|{re.escape(IMAGE_PAD)}"
    return re.sub(placeholder, lambda found: next(pictures if found[0] == IMAGE_PAD else clips), text)


def _frame_groups(number: int, grid: Sequence[int], seconds: Sequence[int | float], merge: int) -> Iterator[str]:
    gt, gh, gw = _whole(grid, merge)
    if len(seconds) != gt:
        raise ValueError(
            f"video_seconds: {_counted(len(seconds), 'second')} of clip {number}, expected one for each of its "
            f"{_counted(gt, 'frame group')}"
        )
    for second in seconds:
        yield f"<{second:.1f} seconds>{VISION_START}{VIDEO_PAD * (gh * gw // merge**2)}{VISION_END}"


def check_placeholders(
    ids: Iterable[int],
    *,
    image_token_id: int,
    video_token_id: int,
    image_grids: Grids = (),
    video_grids: Grids = (),
    spatial_merge_size: int = 2,
) -> None:
    """Make sure that a tokenised prompt has one placeholder for every merged token of its pictures and clips.

    Args:
        ids: all tokens of the prompt.
        image_token_id, video_token_id: the placeholders.
        image_grids, video_grids: patches along time, height and width of every picture and clip.
        spatial_merge_size: side of the blocks of patches that are merged into one token.

    Raises:
        ShapeError: if there are more or fewer, as in a prompt that was cut; or a grid is not made of whole blocks.
    """
    counts = Counter(int(token) for token in ids)
    for kind, token, grids in (("image", image_token_id, image_grids), ("video", video_token_id, video_grids)):
        wanted = sum(_tokens(grid, spatial_merge_size) for grid in grids)
        if counts[token] != wanted:
            raise ShapeError(
                f"input_ids: {_counted(counts[token], kind + ' placeholder')} (id {token}), but the "
                f"{_counted(len(grids), kind)} of the prompt gave {_counted(wanted, 'merged token')}; "
                "do not cut a prompt, and tokenise what expand() gives"
            )


def answer_labels(ids: Sequence[int], *, header: Sequence[int], end: int) -> list[int]:
    """Say which tokens of a conversation a model learns to write: the answers, each with what ends it.

    An answer begins behind `<|im_start|>assistant` and the newline, and goes on to the next `<|im_end|>` and the
    newline after it, both included. The word "assistant" elsewhere, as in a question, begins no answer, and an answer
    without its `<|im_end|>` was cut off, so nothing of it counts.

    Args:
        ids: the tokens.
        header: those of `<|im_start|>assistant`, without the newline.
        end: that of `<|im_end|>`.

    Returns:
        For each token itself where it counts, and -100 where it does not. Not shifted: the loss compares what the
        model says at token i - 1 with label i.

    Raises:
        ValueError: if the header is empty.

    Source: the fine-tuning code published with Qwen3-VL, which takes the word alone for a header.
    """
    ids, header = list(ids), list(header)
    if not header:
        raise ValueError("header: 0 tokens, expected those of <|im_start|>assistant")
    labels = [IGNORED] * len(ids)
    place = 0
    while place + len(header) <= len(ids):
        if ids[place : place + len(header)] != header:
            place += 1
            continue
        first = place + len(header) + 1  # behind the newline
        if end not in ids[first:]:
            break
        last = ids.index(end, first)
        labels[first : last + 2] = ids[first : last + 2]
        place = last + 1
    return labels


def _tokens(grid: Sequence[int], merge: int) -> int:
    return math.prod(_whole(grid, merge)) // merge**2


def _whole(grid: Sequence[int], merge: int) -> Grid:
    return checked_grid(Grid(*map(int, grid)), merge)


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
