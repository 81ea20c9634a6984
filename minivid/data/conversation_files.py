"""Files of annotated conversations: read, checked before anything is learnt, and given out one by one."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Int64
from torch import Tensor

from minivid.data.conversations import Inputs, collate, flatten, plan, prepare_labelled
from minivid.data.processor import Processor

# Files looked at a time, while others wait for the disk.
THREADS = min(4, os.cpu_count() or 1)
# Who speaks, in the words of annotations, and in those of chat templates. The published reader takes everyone but
# "human" for the assistant, and so teaches a model to write its own system message.
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
KINDS = ("image", "video")
TAG = re.compile("<(image|video)>")


@dataclass(frozen=True)
class Conversation:
    """One annotated conversation.

    Attributes:
        messages: as `minivid.data.conversations.prepare` takes them.
        place: where it was read, as in "clips.json, item 3" (counted from 0).
        item: the annotation as it was read.
        tokens: how many it has, once it was checked; 0 before.
    """

    messages: list[dict]
    place: str
    item: Mapping[str, object] = field(default_factory=dict)
    tokens: int = 0

    @property
    def media(self) -> tuple[str, ...]:
        """The paths of its pictures and clips, in order."""
        content = [part for message in self.messages for part in message["content"]]
        return tuple(part[part["type"]] for part in content if part["type"] in KINDS)


class LeftOut(NamedTuple):
    """A conversation that is not used, and why."""

    place: str
    reason: str


def conversation_messages(
    item: Mapping[str, object], *, folder: str = "", speakers: Mapping[str, str] = SPEAKERS
) -> list[dict]:
    """Turn one annotation into messages.

    {"video": path or list, "image": path or list, "conversations": [{"from": "human", "value": "<video>What is it?"},
    {"from": "gpt", "value": "..."}]}: each <image> or <video> of a question stands for the next file of its kind, and
    the text between tags loses the white space around it. Answers stay as they are; what is no text, as an object, is
    written as JSON.

    Args:
        item: the annotation; it is not changed.
        folder: what paths are relative to.
        speakers: role by the name in "from".

    Returns:
        The messages, with the paths joined to the folder.

    Raises:
        ValueError: if there are more tags than files or files than tags, nothing is said, or by someone unknown.

    Source: the fine-tuning code published with Qwen3-VL.
    """
    files = {kind: [os.path.join(folder, path) for path in _files(item, kind)] for kind in KINDS}
    turns = item.get("conversations")
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise ValueError(f"conversations: {_shown(turns)}, expected a list of {{'from': ..., 'value': ...}}")
    roles, values = zip(*(_turn(number, turn, speakers) for number, turn in enumerate(turns)), strict=True)
    questions = [value for role, value in zip(roles, values, strict=True) if role == "user"]
    for kind in KINDS:
        tags = sum(value.count(f"<{kind}>") for value in questions)
        if tags != len(files[kind]):
            raise ValueError(
                f"tags <{kind}> in the questions: {tags}, files under {kind!r}: {len(files[kind])}; "
                "write one tag for each file"
            )
    left = {kind: iter(files[kind]) for kind in KINDS}
    return [
        {"role": role, "content": _split(value, left) if role == "user" else [{"type": "text", "text": value}]}
        for role, value in zip(roles, values, strict=True)
    ]


def _files(item: Mapping[str, object], kind: str) -> list[str]:
    found = item.get(kind)
    paths = [] if found is None else [found] if isinstance(found, str) else found
    if not isinstance(paths, Sequence) or not all(isinstance(path, str) for path in paths):
        raise ValueError(f"{kind}: {_shown(found)}, expected a path or a list of paths")
    return list(paths)


def _turn(number: int, turn: object, speakers: Mapping[str, str]) -> tuple[str, str]:
    place = f"conversations[{number}]"
    if not isinstance(turn, Mapping):
        raise ValueError(f"{place}: {_shown(turn)}, expected {{'from': ..., 'value': ...}}")
    speaker, value = turn.get("from"), turn.get("value")
    if speaker not in speakers:
        raise ValueError(f"{place}: from {speaker!r}, expected one of {', '.join(speakers)}")
    role = speakers[speaker]
    if value is None or (role == "user" and not isinstance(value, str)):
        raise ValueError(f"{place}: value {_shown(value)}, expected a text" + (" or an object" * (role != "user")))
    return role, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _split(question: str, left: Mapping[str, object]) -> list[dict]:
    content = []
    for place, piece in enumerate(TAG.split(question)):
        if place % 2:  # a tag: TAG has one group
            content.append({"type": piece, piece: next(left[piece])})
        elif piece.strip():
            content.append({"type": "text", "text": piece.strip()})
    return content


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."


def read_conversations(
    path: str | os.PathLike, *, folder: str | os.PathLike | None = None, speakers: Mapping[str, str] = SPEAKERS
) -> list[Conversation]:
    """Read annotated conversations from a JSON file; no picture and no clip is opened.

    The file holds a list of annotations, see `conversation_messages`, or one on each line (.jsonl). A list among them,
    conversations that were packed together, is read as what is in it.

    Args:
        path: the file.
        folder: what the paths in it are relative to; None = the file's own.
        speakers: role by the name in "from".

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON, holds no conversation, or one that cannot be meant; the message says which.
    """
    path = Path(path)
    base = path.parent if folder is None else folder
    found = []
    for place, item in _items(path):
        try:
            if not isinstance(item, Mapping):
                raise ValueError(f"{_shown(item)}, expected an object with 'conversations'")
            messages = conversation_messages(item, folder=os.fspath(base), speakers=speakers)
        except ValueError as error:
            raise ValueError(f"{path}, {place}: {error}") from None
        found.append(Conversation(messages, f"{path.name}, {place}", item))
    if not found:
        raise ValueError(f"{path}: holds no conversation; give a list of {{'video': ..., 'conversations': ...}}")
    return found


def _items(path: Path) -> list[tuple[str, object]]:
    """Every annotation and where it stands."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from None
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
        entries = [(f"line {number}", _parsed(path, line, number)) for number, line in lines]
    else:
        whole = _parsed(path, text, 1)
        if not isinstance(whole, list):
            whole = [whole]
        entries = [(f"item {number}", entry) for number, entry in enumerate(whole)]
    items = []
    for place, entry in entries:
        if isinstance(entry, list):
            items += [(f"{place}[{number}]", item) for number, item in enumerate(entry)]
        else:
            items.append((place, entry))
    return items


def _parsed(path: Path, text: str, first_line: int) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        more = "; one object on each line needs the ending .jsonl" if error.msg == "Extra data" else ""
        line = first_line + error.lineno - 1
        raise ValueError(f"{path}: not JSON at line {line}, column {error.colno} ({error.msg}){more}") from None


def check_conversations(
    conversations: Sequence[Conversation],
    processor: Processor,
    *,
    max_tokens: int | None = None,
    on_conversation: Callable[[], object] | None = None,
) -> tuple[list[Conversation], list[LeftOut]]:
    """Find out before anything is learnt which conversations can be used; nothing is decoded.

    Args:
        conversations: what `read_conversations` gives.
        processor: the model's.
        max_tokens: longer ones are left out, for what is cut off a conversation can be half a picture.
        on_conversation: called after each, for a progress bar.

    Returns:
        Those that can be used, with their numbers of tokens; and those that are left out, because they are too long,
        one of their files cannot be read, or there is no answer in them to learn from.
    """
    good, left_out = [], []
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for found in pool.map(lambda each: _checked(each, processor, max_tokens), conversations):
                (left_out if isinstance(found, LeftOut) else good).append(found)
                if on_conversation is not None:
                    on_conversation()
        except BaseException:  # Ctrl-C too: what has not begun is not begun
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return good, left_out


def _checked(conversation: Conversation, processor: Processor, max_tokens: int | None) -> Conversation | LeftOut:
    try:
        found = plan(conversation.messages, processor, add_generation_prompt=False)
    except (ValueError, OSError) as error:
        return LeftOut(conversation.place, " ".join(str(error).split()))
    if max_tokens is not None and found.tokens > max_tokens:
        words = f"{found.tokens} tokens, {found.vision_tokens} of them of pictures and clips"
        return LeftOut(conversation.place, f"{words}, more than the {max_tokens} allowed")
    if not found.answer_tokens:
        return LeftOut(conversation.place, f"{found.tokens} tokens, but no answer to learn from")
    return replace(conversation, tokens=found.tokens)


class ConversationFiles:
    """Annotated conversations as examples: item i is conversation i, prepared with its labels.

    It holds messages and settings, no open file and no pixels, so that it costs a data worker nothing to take along.

    Args:
        conversations: what can be used of what `read_conversations` gives, see `check_conversations`.
        processor: the model's.
        flat: whether the conversations of a batch stand behind each other in one row, see
            `minivid.data.conversations.flatten`, or below each other with fill, see `collate`.
        left_out: what is not used, for whoever wants to show it.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        processor: Processor,
        *,
        flat: bool = False,
        left_out: Sequence[LeftOut] = (),
    ):
        self.conversations = tuple(conversations)
        self.processor = processor
        self.flat = flat
        self.left_out = list(left_out)

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> Inputs:
        conversation = self.conversations[index]
        try:
            return prepare_labelled(conversation.messages, self.processor)
        except ValueError as error:
            raise ValueError(f"{conversation.place}: {error}") from error

    def collate(self, items: Sequence[Inputs]) -> tuple[Inputs, Int64[Tensor, "b n"]]:
        """Put items into one batch: what the model is called with, and the labels."""
        if self.flat:
            batch = flatten(items)
        else:
            batch = collate(items, pad_token_id=self.processor.pad_token_id)
        labels = batch.pop("labels")
        return batch, labels
