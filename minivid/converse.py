"""Conversations about clips of your own: teach a model that answers in words, and read its answers before and after."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from tqdm import tqdm

from minivid.data.batches import to_device
from minivid.data.conversation_files import (
    ConversationFiles,
    LeftOut,
    check_conversations,
    read_conversations,
)
from minivid.data.conversations import prepare
from minivid.data.held_out import hold_out, media_of
from minivid.data.processor import Processor
from minivid.models.generate import generate
from minivid.models.pretrained import CONFIG, load_pretrained, read_config, save_pretrained
from minivid.models.qwen3_vl import Qwen3VL
from minivid.text.chat import MESSAGE_END
from minivid.training.checkpoint import WEIGHTS, write_text
from minivid.training.finetune import check_fits, finetune
from minivid.training.finetune_config import FinetuneConfig
from minivid.training.history import CURVES, HISTORY, History
from minivid.training.next_token import NextToken
from minivid.training.output_folder import RUN, begin, in_short, make_room, write_lines
from minivid.training.processes import device, is_first, joined, wait_for_all
from minivid.training.run_folder import STATE
from minivid.training.what_trains import part_settings
from minivid.video.clip import ClipSettings

KIND = "qwen3_vl"
CONVERSATIONS = "conversations.jsonl"  # each with its side, so that what was learnt from is never tested on
LEFT_OUT = "left_out.jsonl"
ANSWERS = "before_and_after.json"
METRICS = "metrics.json"
_MADE = (RUN, CONVERSATIONS, LEFT_OUT, ANSWERS, METRICS, CURVES, CONFIG, WEIGHTS, HISTORY, STATE, "tensorboard")
_SHOWN = 5  # of what is left out, before the rest is only counted
# What the published recipe takes; batch_size and steps follow from the data.
RECIPE = {"learning_rate": 2e-5, "warmup_ratio": 0.03, "weight_decay": 0.01, "no_decay": (), "max_grad_norm": 1.0}
BATCH_SIZE = 8
CLIP_LIMITS = ("fps", "frames", "min_frames", "max_frames", "min_pixels", "max_pixels", "total_pixels")
IMAGE_LIMITS = ("min_pixels", "max_pixels")


@dataclass(frozen=True)
class Request:
    """What a training on conversations is asked for.

    Attributes:
        model: a folder with a published Qwen3-VL.
        data: a .json or .jsonl file of conversations, see `minivid.data.conversation_files.conversation_messages`.
        output: the folder that gets everything.
        media: the folder that paths in the data are relative to; None = the data's own.
        validation: another such file to be measured on; None = a share of the data.
        validation_share: of the conversations, see `hold_out`.
        vision, merger, language: whether this part learns, see `part_settings`.
        merger_rate, vision_rate: learning rates of these parts; 0 = that of all else.
        clips: how clips are read where it shall differ from the model's folder, by the fields of ClipSettings in
            CLIP_LIMITS: frames per second, numbers of frames, pixels of a frame.
        images: the same of pictures, by IMAGE_LIMITS.
        max_tokens: conversations that are longer are left out.
        flatten: whether the conversations of a batch, or of each of its parts, stand in one row without fill.
        weighting: see NextToken.
        training: fields of FinetuneConfig that differ from RECIPE and the defaults; but where they are not given, a
            batch is not larger than the conversations to learn from, and it is looked at 6 and saved 12 times.
        epochs: rounds over the conversations, instead of `steps` in `training`.
        answer_tokens: the longest answer that is shown before and after.
        workers: processes that load conversations ahead; 0 = none. Of no influence on the numbers.
        sharded: whether processes that train together hold a part of every weight each, instead of all of them.
    """

    model: str
    data: str
    output: str = "runs/conversations"
    media: str | None = None
    validation: str | None = None
    validation_share: float = 0.1
    vision: bool = True
    merger: bool = True
    language: bool = True
    merger_rate: float = 4e-5
    vision_rate: float = 2e-6
    clips: Mapping[str, int | float] = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)
    max_tokens: int = 8192
    flatten: bool = False
    weighting: str = "tokens"
    training: Mapping[str, object] = field(default_factory=dict)
    epochs: int | float | None = None
    answer_tokens: int = 128
    workers: int = 0
    sharded: bool = False

    def __post_init__(self):
        for name in ("max_tokens", "answer_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not at least 1")
        for name in ("merger_rate", "vision_rate"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} is not 0 or above")
        if self.validation is None and not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share={self.validation_share} is not between 0 and 1")


def finetune_conversations(
    request: Request, *, resume: bool = False, overwrite: bool = False, quiet: bool = False
) -> dict:
    """Teach a model to answer as conversations do, and measure it on some that it never saw.

    Leaves in the output folder: the model as published ones are, with its tokenizer and its settings, history.jsonl,
    conversations.jsonl (each and whether it was learnt from), left_out.jsonl, before_and_after.json, metrics.json and
    curves.png. After Ctrl-C the same call goes on.

    Args:
        request: what is asked for.
        resume: an unfinished training must be there, else it is an error.
        overwrite: remove an earlier training in the output folder, finished or not.
        quiet: no progress bars and nothing printed.

    Returns:
        What metrics.json holds; where several processes train together, only the first one measures, and the others
        return nothing.

    Raises:
        ValueError: if what is asked for does not fit together or to the data, or the output folder is taken.
        OSError: if something cannot be read, or the output folder not written to.
    """
    with joined():  # alone, or with the processes that torchrun started
        quiet = quiet or not is_first()
        unfinished = make_room(Path(request.output), _MADE, source=request.model, resume=resume, overwrite=overwrite)
        wait_for_all()
        task = _prepare(request, quiet)
        begin(
            task.folder,
            task.about,
            unfinished=unfinished,
            record=lambda: _record(task),
        )
        if not quiet:
            print(_echo(task, unfinished), file=sys.stderr)
        if is_first() and not (unfinished and (task.folder / ANSWERS).exists()):
            _write_json(task.folder / ANSWERS, _answers(task, "before"))
        wait_for_all()
        history = _learn(task, quiet)
        return _finish(task, history) if is_first() else {}


def limited(processor: Processor, clips: Mapping[str, object], images: Mapping[str, object]) -> Processor:
    """A processor that reads clips and pictures within other limits.

    Args:
        processor: the model's.
        clips: fields of ClipSettings in CLIP_LIMITS. A rate takes the place of a fixed number of frames, and the other
            way round; of a clip with fewer frames than that number, some are shown twice.
        images: the same, in IMAGE_LIMITS.

    Raises:
        ValueError: if both a rate and a number of frames are given.
    """
    settings = dict(clips)
    if "frames" in settings and "fps" in settings:
        raise ValueError(f"fps={settings['fps']:g} and frames={settings['frames']} are both given; give one of them")
    if "frames" in settings:
        settings |= {"fps": None, "repeat_short": True}
    elif settings.keys() & {"fps", "min_frames", "max_frames"}:
        settings |= {"frames": None, "repeat_short": False}
    return replace(processor, video=_resized(processor.video, settings), image=_resized(processor.image, images))


def _resized(settings: ClipSettings, given: Mapping[str, object]) -> ClipSettings:
    bounds = {"min_pixels", "max_pixels", "total_pixels"}
    exact = {"height": None, "width": None} if given.keys() & bounds else {}
    return replace(settings, **exact, **given)


@dataclass(frozen=True)
class _Task:
    """All that a training needs."""

    request: Request
    config: FinetuneConfig
    model: Qwen3VL
    processor: Processor
    learnt: ConversationFiles
    held: ConversationFiles
    left_out: list[LeftOut]

    @property
    def folder(self) -> Path:
        return Path(self.request.output)

    @property
    def objective(self) -> NextToken:
        part = max(1, self.config.batch_size // self.config.micro_batches)
        return NextToken(self.request.weighting, measured_at_once=part)

    @property
    def about(self) -> dict:
        """What must be the same for a training to go on, besides the FinetuneConfig, which the loop looks at."""
        request = self.request
        about = {
            "data": os.path.abspath(request.data),
            "conversations": _fingerprint(self.rows()),
            "model": os.path.abspath(request.model),
            "limits": {"clips": request.clips, "images": request.images},
            "flatten": request.flatten,
        }
        return json.loads(json.dumps(about))

    def rows(self) -> list[dict]:
        """Every conversation that is used, and on which side."""
        sides = (("train", self.learnt), ("validation", self.held))
        return [
            {"place": each.place, "split": name, "tokens": each.tokens, **each.item}
            for name, data in sides
            for each in data.conversations
        ]


def _prepare(request: Request, quiet: bool) -> _Task:
    for place, what in ((request.data, "conversations"), (request.validation, "conversations to be measured on")):
        if place is not None and not Path(place).is_file():
            raise FileNotFoundError(f"{place}: no such file; give the {what} as .json or .jsonl")
    kind = read_config(request.model).get("model_type")
    if kind != KIND:
        raise ValueError(f"{request.model}: model_type={kind!r}, expected {KIND!r}, a model that answers in words")
    processor = limited(Processor.from_folder(request.model), request.clips, request.images)
    read = read_conversations(request.data, folder=request.media)
    other = [] if request.validation is None else read_conversations(request.validation, folder=request.media)
    model = load_pretrained(request.model, dtype=torch.float32)
    check_fits(model, _training(request, model, len(read)), NextToken(request.weighting))
    if not request.sharded:  # else it goes there in parts
        model.to(device())
    with tqdm(total=len(read) + len(other), desc="check", unit="file", file=sys.stderr, disable=quiet) as bar:
        checks = {"max_tokens": request.max_tokens, "on_conversation": bar.update}
        good, left_out = check_conversations(read, processor, **checks)
        held, left_out_too = check_conversations(other, processor, **checks)
    left_out += left_out_too
    folder = Path(request.output)
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        write_lines(folder / LEFT_OUT, [entry._asdict() for entry in left_out])
    for place, wanted, found in ((request.data, read, good), (request.validation, other, held)):
        if wanted and not found:
            first = left_out[0] if place == request.data else left_out_too[0]
            raise ValueError(
                f"{place}: none of its {len(wanted)} conversations can be used; {first.place}: {first.reason}; "
                f"{folder / LEFT_OUT} lists the others"
            )
    if request.validation is None:
        good, held = hold_out(good, request.validation_share, seed=int(request.training.get("seed", 0)))
    elif shared := {path for each in good for path in media_of(each)} & {p for each in held for p in media_of(each)}:
        raise ValueError(f"{request.validation}: {min(shared)} is learnt from too; measure on others")
    config = _training(request, model, len(good))
    sides = (ConversationFiles(side, processor, flat=request.flatten) for side in (good, held))
    return _Task(request, config, model, processor, *sides, left_out)


def _record(task: _Task) -> None:
    write_lines(task.folder / CONVERSATIONS, task.rows())
    for path in _small_files(Path(task.request.model)):
        shutil.copyfile(path, task.folder / path.name)
    task.processor.save(task.folder)  # limits that a model's files cannot say are found before hours of training


def _training(request: Request, model: Qwen3VL, conversations: int) -> FinetuneConfig:
    known = {item.name for item in fields(FinetuneConfig)} - {"label_smoothing"}
    values = dict(request.training)
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"training: there is no {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    parts = part_settings(
        [name for name, _ in model.named_parameters()],
        vision=request.vision,
        merger=request.merger,
        language=request.language,
        merger_rate=request.merger_rate,
        vision_rate=request.vision_rate,
    )
    for name, chosen in parts.items():  # what is asked for by names comes on top of what is asked for by parts
        if name == "train_only" and values.get(name) and chosen:
            raise ValueError(
                f"train_only={values[name]} with a part that is not tuned; say what trains in one of the two ways"
            )
        merge = {**values.get(name, {}), **chosen} if name == "rates" else (*values.get(name, ()), *chosen)
        values[name] = merge
    values = RECIPE | values
    values.setdefault("batch_size", min(BATCH_SIZE, conversations))
    if "steps" not in values:
        epochs = 1 if request.epochs is None else request.epochs
        if not epochs > 0:
            raise ValueError(f"epochs={epochs:g} is not above 0")
        values["steps"] = -int(-epochs * conversations // values["batch_size"])
    elif request.epochs is not None:
        raise ValueError(f"steps={values['steps']} and epochs={request.epochs:g} are both given; give one of them")
    steps = int(values["steps"])
    values.setdefault("evaluate_every", max(1, steps // 6))
    values.setdefault("save_every", max(1, steps // 12))
    return FinetuneConfig(**values)


def _learn(task: _Task, quiet: bool) -> History:
    done = 0

    def count(step: int) -> None:
        nonlocal done
        done = step

    try:
        return finetune(
            task.model,
            task.learnt,
            task.held,
            # A finished training leaves its checkpoint too, until the model is saved: a stop in between costs nothing.
            replace(task.config, save_total_limit=max(1, task.config.save_total_limit)),
            objective=task.objective,
            folder=task.folder,
            workers=task.request.workers,
            sharded=task.request.sharded,
            on_step=count,
            quiet=quiet,
        )
    except KeyboardInterrupt:
        if not quiet:
            where = f"after step {done} of {task.config.steps}" if done else "before the first step"
            print(f"\nstopped {where}. Run the same command again: it goes on from the last save.", file=sys.stderr)
        raise


def _finish(task: _Task, history: History) -> dict:
    """Save the model as published ones are, and say what came out."""
    folder = task.folder
    answers = json.loads((folder / ANSWERS).read_text(encoding="utf-8")) | _answers(task, "after")
    _write_json(folder / ANSWERS, answers)
    save_pretrained(task.model, folder)  # now the training is finished
    if not task.config.save_total_limit:
        shutil.rmtree(folder / STATE, ignore_errors=True)
    looks = [row for row in history.rows if "validation_loss" in row]
    metrics = {
        "before": looks[0] if looks[0]["step"] == 0 else None,
        "after": looks[-1],
        "answers": answers,
        "conversations": {"train": len(task.learnt), "validation": len(task.held), "left_out": len(task.left_out)},
        "left_out": [entry._asdict() for entry in task.left_out],
        "steps": history.rows[-1]["step"],
        "weights": sum(weight.numel() for weight in task.model.parameters()),
    }
    _write_json(folder / METRICS, metrics)
    return metrics


def _small_files(folder: Path) -> Iterator[Path]:
    """What a published folder holds besides weights and their index: words of the tokenizer, how to generate."""
    made = {*_MADE, CONFIG}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".txt", ".jinja") and path.name not in made and ".index." not in path.name:
            yield path


# ---- an answer before and after


def _answers(task: _Task, when: str) -> dict:
    """What the model says now to the first held-out question, and what it should, as conversation files have it."""
    conversation = task.held.conversations[0]
    turn = next(i for i, message in enumerate(conversation.messages) if message["role"] == "assistant")
    question = conversation.messages[:turn]
    said = answer(task.model, question, task.processor, max_new_tokens=task.request.answer_tokens)
    turns = conversation.item["conversations"]
    wanted, shown = turns[turn], {**turns[turn], "value": as_value(said)}
    return {
        when: {**conversation.item, "conversations": [*turns[:turn], shown]},
        "wanted": {**conversation.item, "conversations": [*turns[:turn], wanted]},
    }


def answer(model: Qwen3VL, messages: Sequence[Mapping], processor: Processor, *, max_new_tokens: int = 128) -> str:
    """What a model says to messages, the most probable token at every step.

    Args:
        model: of any mode, training or evaluation, in which it is left.
        messages: the last one is a question.
        processor: the model's.
        max_new_tokens: after so many the answer ends, if it has not before.
    """
    inputs = to_device(prepare(messages, processor), model.device)
    ends = [processor.tokenizer.token_id(MESSAGE_END), processor.pad_token_id]
    mode = model.training
    model.eval()
    try:
        ids = generate(model, inputs, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=ends[1])
    finally:
        model.train(mode)
    return processor.tokenizer.decode(ids[0].tolist(), skip_special_tokens=True)


def as_value(text: str) -> object:
    """An answer as conversation files have it: the object or list that it spells as JSON, else the text.

    Args:
        text: the answer.
    """
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict | list) else text


# ---- what is printed


def report_text(metrics: Mapping) -> str:
    """Lay out for the eye what `finetune_conversations` returns.

    Args:
        metrics: what it returned.
    """
    count = metrics["conversations"]["validation"]
    rows = [("held-out conversations", f"{count}")]
    for when in ("before", "after"):
        if found := metrics[when]:
            rows.append(
                (
                    when,
                    f"loss {found['validation_loss']:.3f} nats a token, tokens right "
                    f"{found['validation_token_accuracy']:.1%}, whole answers {found['validation_exact_match']:.1%}",
                )
            )
    lines = [f"{name:<22}  {said}" for name, said in rows]
    for when in ("before", "after", "wanted"):
        lines += ["", f"{when}:", json.dumps(metrics["answers"][when], indent=2, ensure_ascii=False)]
    return "\n".join(lines)


def left_out_lines(left_out: Sequence[LeftOut], where: str | os.PathLike) -> Iterator[str]:
    """Say what was left out and why; of many, the first.

    Args:
        left_out: any number.
        where: the file that lists them all.
    """
    if left_out:
        yield f"left out  {len(left_out)} conversations: see {where}"
    for entry in left_out[:_SHOWN]:
        yield f"          {entry.place}: {entry.reason}"
    if len(left_out) > _SHOWN:
        yield f"          and {len(left_out) - _SHOWN} more"


def _echo(task: _Task, unfinished: bool) -> str:
    """The effective values of everything, a line each."""
    request, video, image = task.request, task.processor.video, task.processor.image
    tokens = [each.tokens for data in (task.learnt, task.held) for each in data.conversations]
    clips = {name: getattr(video, name) for name in CLIP_LIMITS if getattr(video, name) is not None}
    pictures = {name: getattr(image, name) for name in IMAGE_LIMITS if getattr(image, name) is not None}
    weights = sum(weight.numel() for weight in task.model.parameters())
    said = {"flatten": request.flatten, "weighting": request.weighting, **asdict(task.config)}
    lines = [
        f"data      {request.data}: {len(task.learnt)} conversations to learn from, {len(task.held)} held out, "
        f"{min(tokens)} to {max(tokens)} tokens each",
        *left_out_lines(task.left_out, task.folder / LEFT_OUT),
        f"clips     {in_short(clips)}",
        f"pictures  {in_short(pictures)}",
        f"model     {request.model}: Qwen3VL of {weights:,} weights",
        f"training  {in_short(said)}",
        f"output    {request.output}{' (goes on with the unfinished training there)' if unfinished else ''}",
    ]
    return "\n".join(lines)


def _fingerprint(rows: Sequence[Mapping]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def _write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
