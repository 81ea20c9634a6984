"""The command `minivid`: reads arguments, calls the room that does the work, turns errors into one line.

Rooms are imported inside the commands, because torch alone takes longer to import than help may take to answer.
"""

import argparse
import ast
import json
import math
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: as on the command line, without the program's name; by default those of this process.

    Returns:
        The exit status: 0 done, 1 done and the answer is no (a law does not hold), 2 the input cannot be used,
        130 stopped by Ctrl-C.
    """
    options = parser().parse_args(arguments)
    warnings.showwarning = lambda message, *_, **__: print(f"minivid: warning: {message}", file=sys.stderr)
    try:
        return options.command(options) or 0
    except BrokenPipeError:
        # What reads our output, such as `head`, has seen enough; Python must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"minivid {options.name}: stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if options.traceback:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"minivid {options.name}: error: {message}", file=sys.stderr)
        return 2


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others are."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message}; see `{self.prog} --help`\n")


def parser() -> argparse.ArgumentParser:
    """Describe every command and option."""
    top = _Parser(prog="minivid", description="Video large models from scratch: run, look, check.")
    top.add_argument("--version", action="version", version=f"minivid {version('minivid')}")
    commands = top.add_subparsers(dest="name", metavar="COMMAND", required=True)

    demo = _command(commands, "demo", _demo, "train a small video model on clips made here, and report what it learnt")
    demo.add_argument(
        "--task",
        choices=("motion", "caption"),
        default="motion",
        help="motion: a classifier learns which way shapes move; caption: a Qwen3-VL learns to answer questions in "
        "words (%(default)s)",
    )
    demo.add_argument(
        "--folder", type=Path, help="where everything goes (runs/demo, or runs/caption for the task caption)"
    )
    demo.add_argument("--seed", type=int, default=0, help="of the clips, the weights and the order (%(default)s)")
    _add_json(demo)

    make_clips = _command(commands, "make-clips", _make_clips, "write a set of labelled clips to learn from")
    make_clips.add_argument("folder", metavar="FOLDER", type=Path, help="gets train, validation and test")
    make_clips.add_argument("--count", type=int, default=800, metavar="N", help="clips in all (%(default)s)")
    make_clips.add_argument("--side", type=int, default=64, help="height and width in pixels (%(default)s)")
    make_clips.add_argument("--seed", type=int, default=0, help="which clips (%(default)s)")
    _add_json(make_clips)

    finetune = _command(
        commands,
        "finetune",
        _finetune,
        "teach a model to tell classes of your own video files apart, or to talk about them",
    )
    _add_finetune(finetune)
    _add_json(finetune)

    evaluate = _command(commands, "evaluate", _evaluate, "measure a trained model on labelled files")
    evaluate.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a trained model")
    evaluate.add_argument("--data", metavar="WHERE", help="as for finetune (what the model was trained with)")
    evaluate.add_argument(
        "--split",
        choices=("test", "validation", "train", "all"),
        default="test",
        help="which clips; a file that the training did not know belongs to test (%(default)s)",
    )
    evaluate.add_argument("--plot", metavar="FILE", help="draw the confusion matrix as a PNG")
    _add_cache(evaluate, "CHECKPOINT")
    _add_json(evaluate)

    predict = _command(commands, "predict", _predict, "answer for video files of your own")
    predict.add_argument("clips", metavar="CLIP", nargs="+", help="a local video file or picture")
    predict.add_argument("--checkpoint", type=Path, default=Path("runs/demo"), help="a trained model (%(default)s)")
    predict.add_argument("--top", type=int, metavar="K", help="only the K most probable classes")
    predict.add_argument("--json", action="store_true", help="print one JSON object a file, a line each")

    describe = _command(commands, "describe", _describe, "ask a published Qwen3-VL about videos and pictures")
    _add_describe(describe)
    _add_json(describe)

    shapes = _command(
        commands,
        "shapes",
        _shapes,
        "show the shapes of a video file on its way into a model, of a model's modules, or those a module promises",
    )
    shapes.add_argument(
        "subject", metavar="WHAT", nargs="?", help="a local video file or picture; or a module: layers.attention"
    )
    shapes.add_argument("--model", metavar="NAME", help="instead: every module of a model, as in vivit")
    shapes.add_argument("--batch", type=int, help="with --model: clips in a batch (1)")
    shapes.add_argument(
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="with --model: a number of its configuration; may be given again",
    )
    _add_clip_settings(shapes)
    _add_cut(shapes)
    shapes.add_argument("--plot", type=Path, metavar="FILE", help="draw the frames, patches and tokens as a PNG")
    _add_json(shapes)

    check = _command(commands, "check", _check, "put the laws of the library to your own answer")
    check.add_argument("topic", metavar="NAME", help="what your file defines: attend, patchify, ... or a module's name")
    check.add_argument("file", metavar="FILE", type=Path, help="a Python file with your answer")
    check.add_argument(
        "--hint", type=int, choices=(1, 2, 3), default=1, help="how direct the hint may be (%(default)s)"
    )
    _add_json(check)

    grade = _command(commands, "grade", _grade, "put the laws to every answer in a folder, one Python file a student")
    grade.add_argument("topic", metavar="NAME", help="what the files define: attend, patchify, ... or a module's name")
    grade.add_argument("folder", metavar="FOLDER", type=Path, help="holds the answers")
    grade.add_argument("--jobs", type=int, metavar="N", help="answers checked at a time (one a processor)")
    form = grade.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    form.add_argument("--json", action="store_true", help="print one JSON object an answer, in a list")
    return top


def _command(commands, name: str, command, help: str) -> argparse.ArgumentParser:
    added = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    added.add_argument("--traceback", action="store_true", help="show where an error came from")
    added.set_defaults(command=command)
    return added


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print figures as one JSON object")


def _add_finetune(command: argparse.ArgumentParser) -> None:
    """Add the options of finetune; what is not given keeps the default of Request or FinetuneConfig."""
    data = command.add_argument_group("what it learns from")
    data.add_argument(
        "--data",
        required=True,
        metavar="WHERE",
        help="a folder with a folder for each class, or train, val and test with such folders; "
        "or a .csv or .jsonl file with path, label and if wanted split, start, end (in seconds); "
        "or, where --model is a folder, a .json or .jsonl file of conversations",
    )
    data.add_argument(
        "--shares",
        type=numbers,
        metavar="A,B,C",
        help="of train, validation and test, where the data does not say (0.7,0.15,0.15)",
    )
    data.add_argument(
        "--augment",
        metavar="NAMES",
        help="random changes of training clips, with commas between: crop, color, flip (not where left and right "
        "differ), roll (for the clips of make-clips), or none (crop,color)",
    )
    _add_cache(data, "OUTPUT")
    model = command.add_argument_group("what learns")
    model.add_argument(
        "--model", metavar="NAME", help="conv-lstm, conv3d-classifier or vivit (conv-lstm); or a folder with a Qwen3-VL"
    )
    model.add_argument(
        "--size",
        choices=("small", "published"),
        help="numbers for minutes on a processor, or those of the paper (small)",
    )
    model.add_argument(
        "--set", type=setting, action="append", default=[], metavar="FIELD=VALUE",
        help="a number of its configuration, as in image_size=64; may be given again",
    )  # fmt: skip
    model.add_argument("--from", dest="start", metavar="CHECKPOINT", help="begin with the weights of a trained model")
    what = command.add_argument_group(
        "which of its weights learn (PIECE: of a weight's name, as in classifier or blocks.0.)"
    )
    what.add_argument("--train-only", action="append", metavar="PIECE", help="these; may be given again (all)")
    what.add_argument("--freeze", action="append", metavar="PIECE", help="not these; may be given again")
    what.add_argument("--rate", dest="rates", type=rate, action="append", metavar="PIECE=RATE",
        help="a learning rate of their own; may be given again, the first that fits counts")  # fmt: skip
    what.add_argument("--no-decay", action="append", metavar="PIECE", help="no weight decay; may be given again")
    what.add_argument("--adamw-for", action="append", metavar="PIECE",
        help="matrices that AdamW moves beside Muon; may be given again (tables and heads)")  # fmt: skip
    how = command.add_argument_group("how it learns")
    length = how.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, metavar="N", help="how often the weights move (600)")
    length.add_argument("--epochs", type=float, metavar="N", help="instead: rounds over the training clips")
    how.add_argument(
        "--batch-size", type=int, metavar="N", help="clips in each step (32, or all where there are fewer)"
    )
    how.add_argument("--accumulate", dest="micro_batches", type=int, metavar="N",
        help="cut each batch into N parts, one after the other: the same gradient in less memory (1)")  # fmt: skip
    how.add_argument("--optimizer", choices=("adamw", "sgd", "muon"), help="(adamw)")
    how.add_argument("--learning-rate", type=float, metavar="RATE", help="the largest (0.001)")
    how.add_argument("--schedule", choices=("cosine", "linear", "constant"), help="after the warm-up (cosine)")
    how.add_argument("--warmup-ratio", type=float, metavar="SHARE", help="of the steps in which the rate rises (0.1)")
    how.add_argument("--weight-decay", type=float, metavar="RATE", help="of the matrices (0.05)")
    how.add_argument("--betas", type=numbers, metavar="A,B", help="how slowly AdamW forgets (0.9,0.999)")
    how.add_argument("--momentum", type=float, metavar="SHARE", help="of its last step that SGD or Muon keeps (0.9)")
    how.add_argument("--max-grad-norm", type=float, metavar="LENGTH", help="of all gradients; 0 = no limit (1)")
    how.add_argument("--label-smoothing", type=float, metavar="SHARE", help="of the right answer, for all classes (0)")
    how.add_argument("--bfloat16", action="store_true", default=None, help="matrix products in 16 bits")
    how.add_argument(
        "--gradient-checkpointing", action="store_true", default=None, help="compute twice, in less memory"
    )
    how.add_argument("--seed", type=int, metavar="N", help="of the splits, the first weights and all luck (0)")
    how.add_argument("--workers", type=int, metavar="N", help="processes that load clips ahead (0)")
    look = command.add_argument_group("how often it is looked at and saved")
    look.add_argument("--evaluate-every", type=int, metavar="N", help="steps between looks at validation (a sixth)")
    look.add_argument("--evaluate-every-epochs", type=int, metavar="N", help="instead: rounds over the training clips")
    look.add_argument("--metric", metavar="NAME", help="tells which look is best (validation_loss)")
    look.add_argument("--patience", type=int, metavar="N", help="end after so many looks without a new best (never)")
    look.add_argument(
        "--return-best", action=argparse.BooleanOptionalAction, help="the weights of the best look, not the last"
    )
    look.add_argument(
        "--save-every", type=int, metavar="N", help="steps between saves: all that a stop can cost (a twelfth)"
    )
    look.add_argument("--save-total-limit", type=int, metavar="N", help="saves that stay in the end (0)")
    how.add_argument("--sharded", action="store_true", help="under torchrun: each process holds a part of every weight")
    _add_conversations(command)
    where = command.add_argument_group("where it goes")
    where.add_argument(
        "--output", metavar="FOLDER", help="gets the model and all about it (runs/finetune, or runs/conversations)"
    )
    where.add_argument(
        "--resume",
        action="store_true",
        help="there must be an unfinished training (without it: go on where there is one)",
    )
    where.add_argument("--overwrite", action="store_true", help="remove an earlier training there and begin anew")


def _add_conversations(command: argparse.ArgumentParser) -> None:
    """Add what only a training on conversations has; what is not given keeps the default of its Request."""
    talk = command.add_argument_group(
        "conversations, where --model is a folder (there the largest rate is 2e-05, the warm-up 0.03, the decay 0.01)"
    )
    talk.add_argument("--validation", metavar="FILE", help="more conversations, to be measured on")
    talk.add_argument("--validation-share", type=float, metavar="SHARE", help="instead: held out of the data (0.1)")
    talk.add_argument("--media", metavar="FOLDER", help="what paths in the data are relative to (the data's folder)")
    for part, what in (
        ("vision", "the vision tower but its merger"),
        ("merger", "what turns its patches into tokens"),
        ("language", "the language model"),
    ):
        talk.add_argument(f"--tune-{part}", dest=part, action=argparse.BooleanOptionalAction, help=f"{what} (on)")
    talk.add_argument("--merger-rate", type=float, metavar="RATE", help="of all mergers; 0 = as all else (4e-05)")
    talk.add_argument("--vision-rate", type=float, metavar="RATE", help="of the rest of the tower (2e-06)")
    talk.add_argument("--fps", type=float, help="frames taken per second of video (as the model's folder says)")
    talk.add_argument("--frames", type=int, help="frames taken in all, instead of --fps")
    talk.add_argument("--min-frames", type=int, help="at least this many")
    talk.add_argument("--max-frames", type=int, help="at most this many")
    talk.add_argument("--min-pixels", type=pixels, help="floor of one frame; may be a product: 4*28*28")
    talk.add_argument("--max-pixels", type=pixels, help="cap of one frame")
    talk.add_argument("--total-pixels", type=pixels, help="budget of a clip, counted once per pair of frames")
    talk.add_argument("--image-min-pixels", type=pixels, help="floor of a picture")
    talk.add_argument("--image-max-pixels", type=pixels, help="cap of a picture")
    talk.add_argument("--max-tokens", type=int, metavar="N", help="longer conversations are left out (8192)")
    talk.add_argument(
        "--flatten", action="store_true", default=None,
        help="several conversations in one row that do not see each other, instead of padding",
    )  # fmt: skip
    talk.add_argument(
        "--weighting", choices=("tokens", "parts"), help="what counts the same: tokens, or the parts of --accumulate"
    )
    talk.add_argument("--answer-tokens", type=int, metavar="N", help="of the answers shown before and after (128)")


def _add_cache(command, folder: str) -> None:
    command.add_argument(
        "--cache",
        metavar="FOLDER",
        help=f"keeps decoded clips, may be removed at any time; none = nowhere ({folder}/cache)",
    )
    command.add_argument("--cache-limit", type=float, default=10.0, metavar="GB", help="size of it (%(default)g)")
    command.add_argument("--clear-cache", action="store_true", help="empty it first")


def _add_describe(command: argparse.ArgumentParser) -> None:
    """Add the options of describe; what is not given keeps the default of Question, Sampling or the checkpoint."""
    command.add_argument("files", metavar="FILE", nargs="+", help="a local video or picture")
    command.add_argument(
        "--checkpoint", required=True, metavar="FOLDER", help="a published model and its tokenizer, as downloaded"
    )
    command.add_argument("--prompt", required=True, metavar="TEXT", help="what to ask about the files")
    command.add_argument("--system", metavar="TEXT", help="said before the question: how to answer")
    _add_clip_settings(command, default="the checkpoint's")
    answer = command.add_argument_group("the answer")
    answer.add_argument("--max-new-tokens", type=int, metavar="N", help="it has no more (256)")
    answer.add_argument("--temperature", type=float, help="0 = take the best token; above, draw one (0)")
    answer.add_argument("--top-k", type=int, metavar="K", help="draw among the K best (all)")
    answer.add_argument("--top-p", type=float, metavar="SHARE", help="draw among the best with this share in all (1)")
    answer.add_argument("--min-p", type=float, metavar="SHARE", help="draw among those with this share of the best (0)")
    answer.add_argument("--repetition-penalty", type=float, metavar="X", help="of tokens seen before (1 = none)")
    answer.add_argument("--presence-penalty", type=float, metavar="X", help="of tokens already answered (0 = none)")
    answer.add_argument("--seed", type=int, metavar="N", help="of what is drawn (0)")
    how = command.add_argument_group("how it is computed")
    how.add_argument("--dtype", choices=("stored", "float32", "bfloat16"), help="the numbers (as in the file)")
    how.add_argument("--device", help="cpu, or cuda for a graphics card (cpu)")
    how.add_argument(
        "--dry-run", action="store_true", help="only say frames, patches, tokens and memory; no weight is read"
    )


def _add_clip_settings(command: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Add an option for every field of ClipSettings that says which frames and what size.

    What is not given keeps the default of the field, unless `default` says whose values hold.
    """
    which = command.add_argument_group("which frames" + (f" (by default {default})" if default else ""))
    fps, least, most = ("", "", "") if default else (" (2)", " (4)", " (768)")
    which.add_argument("--fps", type=float, help=f"frames taken per second of video{fps}")
    which.add_argument("--frames", type=int, help="frames taken in all, instead of --fps")
    which.add_argument("--min-frames", type=int, help=f"at least this many{least}")
    which.add_argument("--max-frames", type=int, help=f"at most this many{most}")
    which.add_argument("--start", type=float, metavar="SECOND", help="leave out what is before")
    which.add_argument("--end", type=float, metavar="SECOND", help="leave out what is after")
    which.add_argument("--repeat-short", action="store_true", help="where there are fewer than --frames, repeat some")
    size = command.add_argument_group("what size (pixels may be written as a product: 20480*32*32)")
    size.add_argument("--min-pixels", type=pixels, help="floor of one frame")
    size.add_argument("--max-pixels", type=pixels, help="cap of one frame")
    size.add_argument("--total-pixels", type=pixels, help="budget of the clip, counted once per pair of frames")


def _add_cut(command: argparse.ArgumentParser) -> None:
    """Add an option for every field of ClipSettings that a model decides."""
    cut = command.add_argument_group("how it is cut")
    cut.add_argument("--patch-size", type=int, help="side of a patch in pixels (16)")
    cut.add_argument("--temporal-patch-size", type=int, help="frames in one patch (2)")
    cut.add_argument("--spatial-merge-size", type=int, help="patches along one side of a merged token (2)")


def pixels(text: str) -> int:
    """Read a number of pixels, written as one whole number or as a product of some: 20480*32*32.

    Raises:
        argparse.ArgumentTypeError: if it is neither, or below 1.
    """
    try:
        number = math.prod(int(factor) for factor in text.split("*"))
    except ValueError:
        message = f"{text!r} is neither a whole number nor a product of whole numbers such as 20480*32*32"
        raise argparse.ArgumentTypeError(message) from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is {number} pixels; give at least 1")
    return number


def numbers(text: str) -> tuple[float, ...]:
    """Read numbers with commas between them: 0.7,0.15,0.15.

    Raises:
        argparse.ArgumentTypeError: if one is none.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers with commas between, as in 0.7,0.15,0.15") from None


def rate(text: str) -> tuple[str, float]:
    """Read a piece of weights' names and their learning rate: classifier=0.01.

    Raises:
        argparse.ArgumentTypeError: if it is not both.
    """
    name, _, value = text.partition("=")
    try:
        if name:
            return name, float(value)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not PIECE=RATE, as in classifier=0.01")


def setting(text: str) -> tuple[str, object]:
    """Read one field of a configuration: num_frames=16, tubelet_size=(2,16,16), text where it is no Python value.

    Raises:
        argparse.ArgumentTypeError: if there is no equals sign, or nothing beside it.
    """
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE, as in num_frames=16")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _demo(options: argparse.Namespace) -> int:
    if options.task == "caption":
        from minivid import caption as demo
    else:
        from minivid import demo

    metrics = demo.run(options.folder or demo.FOLDER, seed=options.seed, quiet=options.json)
    if options.json:
        print(json.dumps(metrics))
    return 0


def _make_clips(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from minivid.data.moving_shapes import make_class_folders

    with tqdm(total=options.count, desc="draw", unit="clip", file=sys.stderr, disable=options.json, delay=0.2) as bar:
        counts = make_class_folders(options.folder, options.count, options.seed, side=options.side, on_clip=bar.update)
    if options.json:
        print(json.dumps({"folder": str(options.folder), "clips": counts}))
        return 0
    shown = ", ".join(f"{split} {count}" for split, count in counts.items())
    print(f"{options.folder}: {shown}; four classes, left, right, up and down. Then try")
    print(f"  minivid finetune --data {options.folder} --augment roll")
    return 0


# Options of finetune that only one of its two trainings has, with the names that its Request has for them.
_CLASSES_ONLY = ("size", "set", "start", "shares", "augment", "cache", "clear_cache", "label_smoothing")
_CLIP_LIMITS = ("fps", "frames", "min_frames", "max_frames", "min_pixels", "max_pixels", "total_pixels")
_IMAGE_LIMITS = ("image_min_pixels", "image_max_pixels")
_TALK = (
    "validation", "validation_share", "media", "vision", "merger", "language", "merger_rate", "vision_rate",
    "max_tokens", "flatten", "weighting", "answer_tokens",
)  # fmt: skip
_TUNES = ("vision", "merger", "language")


def _refuse(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    given = [name for name in names if getattr(options, name) not in (None, False, [])]
    given += [name for name in names if name in _TUNES and getattr(options, name) is False]
    words = [
        "--" + ("tune-" * (name in _TUNES) + {"start": "from"}.get(name, name)).replace("_", "-") for name in given
    ]
    if words:
        raise ValueError(f"{', '.join(words)}: {why}")


def _finetune(options: argparse.Namespace) -> int:
    if options.model and (os.path.isdir(options.model) or os.sep in options.model):
        _refuse(options, _CLASSES_ONLY, f"not for conversations, and --model {options.model} is a folder")
        return _finetune_conversations(options)
    if Path(options.data).suffix == ".json":
        what = f"--model {options.model} is none" if options.model else "give one with --model"
        raise ValueError(f"{options.data}: conversations are for a folder with a Qwen3-VL; {what}")
    _refuse(
        options,
        (*_TALK, *_CLIP_LIMITS, *_IMAGE_LIMITS),
        "only for conversations; give --model a folder with a Qwen3-VL",
    )
    return _finetune_classes(options)


def _finetune_conversations(options: argparse.Namespace) -> int:
    from minivid.converse import Request, finetune_conversations, report_text

    given = {
        name: getattr(options, name) for name in ("model", "data", "output", "workers", "sharded", "epochs", *_TALK)
    }
    limits = [
        {name.removeprefix("image_"): getattr(options, name) for name in names if getattr(options, name) is not None}
        for names in (_CLIP_LIMITS, _IMAGE_LIMITS)
    ]
    given |= {"clips": limits[0], "images": limits[1], "training": _training(options)}
    request = Request(**{name: value for name, value in given.items() if value is not None})
    metrics = finetune_conversations(request, resume=options.resume, overwrite=options.overwrite, quiet=options.json)
    if not metrics:  # one of several processes, and not the one that reports
        return 0
    if options.json:
        print(json.dumps(metrics))
        return 0
    print(report_text(metrics))
    print(f"Then try\n  minivid describe YOUR.mp4 --checkpoint {request.output} --prompt 'What is seen?'")
    return 0


def _finetune_classes(options: argparse.Namespace) -> int:
    from minivid.classify import CACHE, Request, finetune_files, report_text
    from minivid.data.augmentation import parse_changes

    given = {
        name: getattr(options, name)
        for name in ("data", "output", "model", "size", "start", "shares", "cache", "workers", "sharded")
    }
    given |= {"numbers": dict(options.set), "epochs": options.epochs, "training": _training(options)}
    given |= {"cache_limit": _bytes(options.cache_limit), "augment": options.augment and parse_changes(options.augment)}
    request = Request(**{name: value for name, value in given.items() if value is not None})
    _clear_cache(options, Path(request.output) / CACHE)
    metrics = finetune_files(request, resume=options.resume, overwrite=options.overwrite, quiet=options.json)
    if not metrics:  # one of several processes, and not the one that reports
        return 0
    if options.json:
        print(json.dumps(metrics))
        return 0
    print(report_text(metrics))
    print(f"Then try\n  minivid evaluate {request.output}\n  minivid predict YOUR.mp4 --checkpoint {request.output}")
    return 0


def _training(options: argparse.Namespace) -> dict[str, object]:
    """The fields of FinetuneConfig that the command line sets."""
    from minivid.training.finetune_config import FinetuneConfig

    given = {field.name: getattr(options, field.name) for field in fields(FinetuneConfig)}
    given["rates"] = options.rates and dict(options.rates)
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None
    }


def _bytes(gigabytes: float) -> int:
    if not 0 <= gigabytes < math.inf:
        raise ValueError(f"--cache-limit {gigabytes:g}: give a number of gigabytes from 0 on")
    return int(gigabytes * 10**9)


def _clear_cache(options: argparse.Namespace, default: Path) -> None:
    from minivid.data.clip_cache import ClipCache

    if options.clear_cache and options.cache != "none":
        ClipCache(options.cache or default).clear()


def _evaluate(options: argparse.Namespace) -> int:
    from minivid.classify import CACHE, evaluate_files, report_text, unreadable_lines
    from minivid.data.labelled_files import Unreadable

    _clear_cache(options, options.checkpoint / CACHE)
    metrics = evaluate_files(
        options.checkpoint,
        options.data,
        split=options.split,
        cache=options.cache,
        cache_limit=_bytes(options.cache_limit),
        plot=options.plot,
        quiet=options.json,
    )
    if options.json:
        print(json.dumps(metrics))
        return 0
    print(report_text(metrics))
    for line in unreadable_lines([Unreadable(**entry) for entry in metrics["unreadable"]]):
        print(line, file=sys.stderr)
    if options.plot:
        print(f"drawn: {options.plot}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    from minivid.classify import Classifier
    from minivid.video.decode import VideoError

    classifier, status = Classifier(options.checkpoint), 0
    for clip in options.clips:
        try:
            answer = classifier.predict(clip, top=options.top)
        except VideoError as error:  # the other files get their answers
            if options.traceback:
                raise
            print(f"minivid predict: error: {error}", file=sys.stderr)
            status = 2
            continue
        if options.json:
            print(json.dumps(answer))
            continue
        print(f"{clip}: {answer['label']}")
        wide = max(map(len, answer["probabilities"]))
        for name, probability in sorted(answer["probabilities"].items(), key=lambda item: -item[1]):
            print(f"  {name:<{max(wide, 8)}} {probability:6.1%}")
    return status


def _describe(options: argparse.Namespace) -> int:
    from minivid.describe import Question, describe, plan_answer
    from minivid.models.generate import Sampling

    names = ("prompt", "checkpoint", "system", "max_new_tokens", "seed", "dtype", "device")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    drawn = {field.name: getattr(options, field.name) for field in fields(Sampling)}
    drawn = {name: value for name, value in drawn.items() if value is not None}
    clip = _given_clip_settings(options)
    planned = plan_answer(Question(files=tuple(options.files), clip=clip, sampling=drawn, **given))
    if options.dry_run:
        print(json.dumps(planned.as_json()) if options.json else planned.details())
        return 0
    if options.json:
        print(json.dumps(describe(planned, quiet=True)))
        return 0
    describe(planned, on_text=lambda piece: print(piece, end="", flush=True))
    print()
    return 0


def _shapes(options: argparse.Namespace) -> int:
    if (options.subject is None) == (options.model is None):
        raise ValueError("give one thing to look at: a video file, a module such as layers.attention, or --model NAME")
    if options.model is None and (options.set or options.batch is not None):
        raise ValueError("--set and --batch go with --model NAME")
    place = _module(options.subject) if options.subject else None
    if options.model is None and place is None:
        return _video_shapes(options)
    if given := [*_given_clip_settings(options), *(["plot"] if options.plot else [])]:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"{names}: only for a video file, which {options.model or options.subject} is not")
    return _model_shapes(options) if options.model else _module_shapes(place, options)


def _model_shapes(options: argparse.Namespace) -> int:
    import torch

    from minivid.models.zoo import build_model
    from minivid.shapes import trace

    batch = 1 if options.batch is None else options.batch
    if batch < 1:
        raise ValueError(f"--batch {batch}: give at least 1")
    with torch.device("meta"):  # shapes without numbers: nothing is computed, whatever the size
        model = build_model(options.model, dict(options.set))
        seen = trace(model, *model.example_inputs(batch))
    print(json.dumps(seen.as_json()) if options.json else seen)
    return 0


def _module(name: str) -> str | None:
    """The address of the library's module that a name such as layers.attention means; None if it means none."""
    parts = name.removeprefix("minivid.").split(".")
    path = Path(__file__).parent.joinpath(*parts).with_suffix(".py")
    named = all(part.isidentifier() for part in parts) and not Path(name).exists()
    return ".".join(["minivid", *parts]) if named and path.is_file() else None


def _module_shapes(place: str, options: argparse.Namespace) -> int:
    from importlib import import_module

    from minivid.shapes import contract, contract_text

    promises = contract(import_module(place))
    if options.json:
        print(json.dumps([promise._asdict() for promise in promises]))
    else:
        print(contract_text(promises))
    return 0


def _given_clip_settings(options: argparse.Namespace) -> dict[str, object]:
    """The fields of ClipSettings that the command line sets."""
    from minivid.video.clip import ClipSettings

    given = {field.name: getattr(options, field.name, None) for field in fields(ClipSettings)}
    return {name: value for name, value in given.items() if value is not None and value is not False}


def _video_shapes(options: argparse.Namespace) -> int:
    from minivid.video.clip import ClipSettings, load_pixels, plan_clip, plan_json, plan_table
    from minivid.video.decode import probe

    settings = ClipSettings(**_given_clip_settings(options))
    if options.plot and not options.plot.absolute().parent.is_dir():
        raise ValueError(f"--plot {options.plot}: there is no folder {options.plot.parent}; make it first")
    info = probe(options.subject)
    try:
        plan = plan_clip(info, settings)
    except ValueError as error:
        raise ValueError(f"{options.subject}: {error}") from error
    print(json.dumps(plan_json(plan)) if options.json else plan_table(plan))
    if options.plot:
        from minivid.plots import sampled_frames, save_png

        chosen = load_pixels(options.subject, settings)
        figure = sampled_frames(
            chosen.pixels,
            chosen.seconds,
            chosen.indices.tolist(),
            patch_size=settings.patch_size,
            spatial_merge_size=settings.spatial_merge_size,
            title=f"{Path(options.subject).name}: {plan.tokens} merged tokens",
        )
        save_png(figure, options.plot)
        if not options.json:
            print(f"drawn: {options.plot}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from minivid.classroom.check import run

    return run(options.topic, options.file, hint=options.hint, as_json=options.json)


def _grade(options: argparse.Namespace) -> int:
    from minivid.classroom.grade import as_csv, grade, table

    rows = grade(options.topic, options.folder, jobs=options.jobs)
    if options.csv:
        print(as_csv(rows), end="")
    else:
        print(json.dumps(rows) if options.json else table(rows))
    return 0
