"""Questions about video files and pictures: a published Qwen3-VL reads them and answers in words, as they come."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from minivid.data.conversations import FILE_OPTIONS, SIZE_OPTIONS, ConversationPlan, plan, prepare
from minivid.data.processor import Processor
from minivid.models.generate import Sampling, column_major, generate
from minivid.models.pretrained import load_pretrained, qwen3_vl_config_of_published, read_config
from minivid.models.qwen3_vl import Qwen3VL, Qwen3VLConfig
from minivid.shapes import table
from minivid.text.byte_pair import BytePair
from minivid.text.chat import IMAGE_PAD, VIDEO_PAD
from minivid.video.clip import plan_json, plan_table
from minivid.video.decode import probe

GENERATION = "generation_config.json"
ENDS = ("<|im_end|>", "<|endoftext|>")  # where an answer ends, if the checkpoint does not say
DTYPES = {"stored": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
_PICTURES = ("image2", "gif", "apng")  # formats in which one frame is a picture; so it is in all that end with _pipe
_PUBLISHED = {ours: published for published, ours in FILE_OPTIONS.items()}


@dataclass(frozen=True)
class Question:
    """What is asked of which model about which files.

    Attributes:
        files: videos and pictures, in the order in which the model reads them, before the prompt.
        prompt: the words.
        checkpoint: a folder with a published Qwen3-VL and its tokenizer.
        clip: fields of ClipSettings that say otherwise than the checkpoint which frames are taken and in what size; of
            a picture, min_pixels and max_pixels.
        system: words before the question that say how to answer; None = none.
        max_new_tokens: the answer has no more.
        sampling: fields of Sampling that differ from its defaults; by default the best token is taken each time.
        seed: of chance, where sampling has any.
        dtype: a key of DTYPES: the numbers to compute with; "stored" = those of the file.
        device: where to compute: "cpu", "cuda".
    """

    files: tuple[str, ...]
    prompt: str
    checkpoint: str
    clip: Mapping[str, object] = field(default_factory=dict)
    system: str | None = None
    max_new_tokens: int = 256
    sampling: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    dtype: str = "stored"
    device: str = "cpu"

    def __post_init__(self):
        if not self.files:
            raise ValueError("files: none; give at least one video or picture")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} is not at least 1")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r} is none of {', '.join(DTYPES)}")
        idle = [name for name in ("top_k", "top_p", "min_p") if self.sampling.get(name) is not None]
        if idle and not self.drawing.temperature:
            raise ValueError(
                f"{', '.join(idle)}: nothing is drawn at temperature 0, the best token is taken; give a temperature, "
                "such as 0.7"
            )

    @property
    def drawing(self) -> Sampling:
        """How a token is chosen each time."""
        return Sampling(**{"temperature": 0.0, **self.sampling})


@dataclass(frozen=True)
class Plan:
    """What will be done for a question, known before a frame is decoded or a weight read.

    Attributes:
        question: what is asked.
        config: of the model.
        processor: what makes tokens of the question, with its settings for clips.
        messages: the conversation that the model goes on with.
        conversation: its tokens, and what each file becomes.
        weights: how many numbers the model has.
        dtype: what kind they will be.
        memory: bytes that the parts of the work need at most, see `memory_estimate`.
        free: bytes of memory that are free; None = not known.
        stops: tokens that end the answer, by name.
    """

    question: Question
    config: Qwen3VLConfig
    processor: Processor
    messages: list[dict]
    conversation: ConversationPlan
    weights: int
    dtype: torch.dtype
    memory: Mapping[str, int]
    free: int | None
    stops: Mapping[str, int]

    @property
    def needed(self) -> int:
        """Bytes in all."""
        return sum(self.memory.values())

    def check_memory(self) -> None:
        """Refuse what will not fit.

        Raises:
            ValueError: if more memory is needed than there is; the message says how much, and what takes it.
        """
        if self.free is not None and self.needed > self.free:
            raise ValueError(
                f"a prompt of {self.conversation.tokens} tokens needs about {_size(self.needed)} of memory "
                f"({_parts(self.memory)}), {_size(self.free)} are free; take fewer or smaller frames (--max-frames, "
                "--total-pixels), fewer --max-new-tokens, or --dtype bfloat16"
            )

    def text(self) -> str:
        """The effective values of everything, a line each."""
        question, talk = self.question, self.conversation
        free = "" if self.free is None else f"; {_size(self.free)} free"
        drawn = asdict(question.drawing)
        sampling = " ".join(f"{name}={value}" for name, value in drawn.items())
        rows = [("checkpoint", f"{question.checkpoint}: Qwen3VL of {self.weights:,} weights, {_word(self.dtype)}")]
        rows += [(medium.kind, _medium_line(medium)) for medium in talk.media]
        rows += [
            ("prompt", f"{talk.tokens} tokens, {talk.vision_tokens} of them pictures: {question.prompt!r}"),
            ("memory", f"about {_size(self.needed)}: {_parts(self.memory)}{free}"),
            ("sampling", f"{'greedy' if not drawn['temperature'] else f'seed={question.seed}'} {sampling}"),
            ("answer", f"at most {question.max_new_tokens} tokens, or up to {', '.join(self.stops)}"),
            ("device", f"{question.device}, {torch.get_num_threads()} threads"),
        ]
        return table(rows)

    def details(self) -> str:
        """The way of every file to its tokens, and below them the effective values."""
        ways = [f"{medium.name}\n{plan_table(medium.clip)}" for medium in self.conversation.media if medium.clip]
        return "\n\n".join([*ways, self.text()])

    def as_json(self) -> dict:
        """All this as plain numbers, lists and words."""
        media = [
            {
                "file": medium.name,
                "kind": medium.kind,
                "frames": medium.frames,
                "seconds": list(medium.seconds),
                "size": [medium.size.height, medium.size.width],
                "grid": list(medium.grid),
                "tokens": medium.tokens,
                "plan": plan_json(medium.clip) if medium.clip else None,
            }
            for medium in self.conversation.media
        ]
        return {
            "checkpoint": self.question.checkpoint,
            "prompt": self.question.prompt,
            "files": media,
            "prompt_tokens": self.conversation.tokens,
            "vision_tokens": self.conversation.vision_tokens,
            "weights": self.weights,
            "dtype": _word(self.dtype),
            "device": self.question.device,
            "memory": {**self.memory, "needed": self.needed, "free": self.free},
            "sampling": {**asdict(self.question.drawing), "seed": self.question.seed},
            "max_new_tokens": self.question.max_new_tokens,
            "stops": dict(self.stops),
        }


def plan_answer(question: Question) -> Plan:
    """Say what a question will cost, and find what is wrong with it, without decoding a file or reading a weight.

    Args:
        question: what is asked.

    Raises:
        FileNotFoundError: if the checkpoint, its configuration or its tokenizer is missing.
        ValueError: if one of them or a file cannot be used, or they do not fit together.
    """
    folder = Path(question.checkpoint)
    published = read_config(folder)
    if published["model_type"] != "qwen3_vl":
        raise ValueError(f"{folder}: model_type={published['model_type']!r} does not read words, expected 'qwen3_vl'")
    try:
        config = qwen3_vl_config_of_published(published)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    processor = Processor.from_folder(folder)
    _check_tokenizer(folder, processor.tokenizer, config)
    if question.clip.get("repeat_short"):
        processor = replace(processor, video=replace(processor.video, repeat_short=True))
    messages = _messages(question)
    talk = plan(messages, processor)
    said = published.get("dtype") or published.get("torch_dtype") or "float32"
    dtype = DTYPES[question.dtype] or getattr(torch, str(said).removeprefix("torch."), torch.float32)
    weights = weight_count(config)
    return Plan(
        question,
        config,
        processor,
        messages,
        talk,
        weights,
        dtype,
        memory_estimate(config, talk, weights, question.max_new_tokens, dtype),
        free_memory(question.device),
        _stops(folder, processor.tokenizer),
    )


def describe(planned: Plan, *, on_text: Callable[[str], object] | None = None, quiet: bool = False) -> dict:
    """Read the files and answer.

    Args:
        planned: of `plan_answer`.
        on_text: is called with each piece of the answer as soon as its characters are whole.
        quiet: no progress bar, and the effective values are not said before the start.

    Returns:
        `answer`, its tokens and the seconds it took, with all that `Plan.as_json` gives.

    Raises:
        FileNotFoundError: if a file with weights is missing.
        ValueError: if one is damaged or of another model, a video cannot be read, or the memory will not do.
    """
    question, tokenizer, seconds = planned.question, planned.processor.tokenizer, {}
    planned.check_memory()
    with _timed(seconds, "load"):
        model = load_pretrained(question.checkpoint, dtype=DTYPES[question.dtype]).to(question.device)
        if model.device.type == "cpu":
            column_major(model)
    if not quiet:
        print(planned.text(), file=sys.stderr)
    with _timed(seconds, "read"):
        inputs = prepare(planned.messages, planned.processor)
        inputs = {name: tensor.to(question.device) for name, tensor in inputs.items()}
    stream, stops = tokenizer.stream(), set(planned.stops.values())
    pieces, new = [], []

    def say(piece: str) -> None:
        if piece:
            pieces.append(piece)
            if on_text is not None:
                on_text(piece)

    def add(ids: Tensor) -> None:
        if not new:
            seconds["prompt"] = time.perf_counter() - started
            bar.close()
        new.append(int(ids[0]))
        if new[-1] not in stops:
            say(stream.add(new[-1]) if new[-1] in known else "\N{REPLACEMENT CHARACTER}")

    known = {*tokenizer.vocab.values(), *tokenizer.special_tokens.values(), *tokenizer.added_tokens.values()}
    with _watched(model, planned.conversation, quiet) as bar, _timed(seconds, "answer"):
        started = time.perf_counter()
        generate(
            model,
            inputs,
            max_new_tokens=question.max_new_tokens,
            eos_token_id=tuple(stops),
            generator=torch.Generator(question.device).manual_seed(question.seed),
            on_token=add,
            **asdict(question.drawing),
        )
    say(stream.end())
    seconds["answer"] -= seconds["prompt"]
    return {
        "answer": "".join(pieces),
        "new_tokens": len(new),
        "ended": next((name for name, token in planned.stops.items() if token == new[-1]), "max_new_tokens"),
        "seconds": seconds,
        **planned.as_json(),
    }


def weight_count(config: Qwen3VLConfig) -> int:
    """How many numbers a model learns.

    Args:
        config: of the model.
    """
    text, vision = config.text_config, config.vision_config
    d, k, f = text.hidden_size, text.head_dim, text.intermediate_size
    heads, pairs = text.num_attention_heads * k, text.num_key_value_heads * k
    bias = heads + 2 * pairs + d if text.attention_bias else 0
    layer = 2 * d * (heads + pairs) + bias + 2 * k + 3 * d * f + 2 * d
    words = text.num_hidden_layers * layer + d + text.vocab_size * d * (1 if config.tie_word_embeddings else 2)
    e, g = vision.hidden_size, vision.intermediate_size
    block = 4 * e * e + 4 * e + 2 * e * g + e + g + 4 * e
    wide = e * vision.spatial_merge_size**2
    merger = wide * wide + wide + wide * vision.out_hidden_size + vision.out_hidden_size
    levels = len(vision.deepstack_visual_indexes)
    eyes = vision.box_size * e + e + vision.num_position_embeddings * e + vision.depth * block
    return words + eyes + merger + 2 * e + levels * (merger + 2 * wide)


def memory_estimate(
    config: Qwen3VLConfig, talk: ConversationPlan, weights: int, new_tokens: int, dtype: torch.dtype
) -> dict[str, int]:
    """About how many bytes each part of answering needs at the same time; no n x n weights are kept.

    Args:
        config: of the model.
        talk: the prompt.
        weights: numbers of the model.
        new_tokens: of the answer.
        dtype: what is computed with.

    Returns:
        `weights`; `pixels`, the patches; `cache`, keys and values of prompt and answer; `work`, the most that passing
        the prompt through one layer needs, in the vision tower or in the language model.
    """
    text, vision, n, size = config.text_config, config.vision_config, talk.tokens, dtype.itemsize
    d, k, f = text.hidden_size, text.head_dim, text.intermediate_size
    heads, pairs = text.num_attention_heads * k, text.num_key_value_heads * k
    patches = max((_patches(run) for run in _runs(talk)), default=0)
    every = sum(_patches(run) for run in _runs(talk))
    e, g = vision.hidden_size, vision.intermediate_size
    seen = talk.vision_tokens * d * (1 + len(vision.deepstack_visual_indexes)) * size
    # What lives at once: the residual, its normed copy, and either queries, keys and values before and after they are
    # turned, or the hidden numbers of the feed-forward layer and their gates.
    look = patches * max(2 * e + 7 * e, 3 * e + 2 * g) * size + every * e * size
    read = n * max(3 * d + 3 * heads + 4 * pairs + 2 * heads, 3 * d + 3 * f) * size
    return {
        "weights": weights * size,
        "pixels": talk.bytes + (talk.bytes * size // 4 if size != 4 else 0),
        "cache": text.num_hidden_layers * 2 * pairs * (n + new_tokens) * size,
        "work": max(look, read) + seen,
    }


def free_memory(device: str = "cpu") -> int | None:
    """Bytes of memory that are free for this program; None where the system does not say.

    Args:
        device: of which: "cpu", "cuda".
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        pass
    try:  # a container's own limit
        place = Path("/sys/fs/cgroup")
        limit = int((place / "memory.max").read_text())
        taken = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
        found.append(max(0, limit - int(taken["anon"])))
    except (OSError, ValueError, KeyError):
        pass
    return min(found, default=None)


# ---- what the question becomes


def _messages(question: Question) -> list[dict]:
    """The conversation, in the words of chat templates."""
    # Chat templates have no word for repeat_short: it is set in the processor.
    options = {name: value for name, value in question.clip.items() if name != "repeat_short"}
    if unknown := sorted(options.keys() - _PUBLISHED.keys()):
        raise ValueError(f"{', '.join(unknown)}: follows from the checkpoint; leave it out")
    content, used = [], set()
    for file in question.files:
        kind = _kind(file)
        taken = {name for name in options if kind == "video" or _PUBLISHED[name] in SIZE_OPTIONS}
        used |= taken | ({"repeat_short"} if kind == "video" else set())
        content.append({"type": kind, kind: os.fspath(file), **{_PUBLISHED[name]: options[name] for name in taken}})
    if idle := [name for name in question.clip if name not in used]:
        raise ValueError(f"{', '.join(idle)}: only for a video, and {', '.join(question.files)} holds none")
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": question.prompt}]}]
    return messages if question.system is None else [{"role": "system", "content": question.system}, *messages]


def _kind(file: str) -> str:
    info = probe(file)
    if info.frames > 1:
        return "video"
    if info.container.endswith("_pipe") or info.container in _PICTURES:
        return "image"
    raise ValueError(f"{file}: 1 frame, expected at least 2 of a video; save it as a picture (PNG, JPEG) and give that")


def _check_tokenizer(folder: Path, tokenizer: BytePair, config: Qwen3VLConfig) -> None:
    """Refuse a tokenizer of another model."""
    ids = [*tokenizer.vocab.values(), *tokenizer.special_tokens.values(), *tokenizer.added_tokens.values()]
    v = config.text_config.vocab_size
    if max(ids) >= v:
        raise ValueError(f"{folder}: the tokenizer has ids up to {max(ids)}, the model vocab_size={v}; it is another's")
    for name, wanted in ((IMAGE_PAD, config.image_token_id), (VIDEO_PAD, config.video_token_id)):
        if (found := tokenizer.token_id(name)) != wanted:
            raise ValueError(
                f"{folder}: {name} is {found} in the tokenizer and {wanted} in config.json; one of them is another's"
            )


def _stops(folder: Path, tokenizer: BytePair) -> dict[str, int]:
    """The tokens that end an answer: those of generation_config.json, or those of every Qwen chat."""
    try:
        said = json.loads((folder / GENERATION).read_text(encoding="utf-8")).get("eos_token_id")
    except FileNotFoundError:
        said = None
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{folder / GENERATION}: is not a JSON table ({error}); get it anew or remove it") from error
    if said is None:
        return {name: tokenizer.special_tokens[name] for name in ENDS if name in tokenizer.special_tokens}
    names = {token: name for name, token in tokenizer.special_tokens.items()}
    return {names.get(token, str(token)): token for token in ([said] if isinstance(said, int) else said)}


# ---- how far it is


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


@contextmanager
def _watched(model: Qwen3VL, talk: ConversationPlan, quiet: bool) -> Iterator[tqdm]:
    """A bar for the prompt's way through the layers; it appears where that takes longer than two seconds."""
    layers = [*model.visual.blocks, *model.language_model.layers]
    total = len(model.visual.blocks) * len(_runs(talk)) + len(model.language_model.layers)
    with tqdm(total=total, desc="prompt", unit="layer", file=sys.stderr, disable=quiet, delay=2, leave=False) as bar:
        hooks = [layer.register_forward_hook(lambda *_: bar.update()) for layer in layers]
        try:
            yield bar
        finally:
            for hook in hooks:
                hook.remove()


def _runs(talk: ConversationPlan) -> list[list]:
    """The pictures, then the clips, in runs of equal frame size: what the vision tower takes at once."""
    media = sorted(talk.media, key=lambda medium: medium.kind)  # "image" before "video"
    return [list(run) for _, run in groupby(media, lambda medium: tuple(medium.grid)[1:])]


def _patches(run: list) -> int:
    return sum(math.prod(medium.grid) for medium in run)


# ---- words


def _medium_line(medium) -> str:
    size, grid = medium.size, " x ".join(map(str, medium.grid))
    frames = "" if medium.kind == "image" else f"{medium.frames} frames of "
    bound = "" if size.bound == "none" else f" ({size.bound})"
    return f"{medium.name}: {frames}{size.height} x {size.width}{bound}, patches {grid}, {medium.tokens} tokens"


def _parts(memory: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {_size(count)}" for name, count in memory.items())


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
