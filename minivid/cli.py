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
    demo.add_argument("--folder", type=Path, default=Path("runs/demo"), help="where everything goes (%(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="of the clips, the weights and the order (%(default)s)")
    _add_json(demo)

    predict = _command(commands, "predict", _predict, "answer for a video file of your own")
    predict.add_argument("clip", metavar="CLIP", help="a local video file or picture")
    predict.add_argument("--checkpoint", type=Path, default=Path("runs/demo"), help="a trained model (%(default)s)")
    _add_json(predict)

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


def _add_clip_settings(command: argparse.ArgumentParser) -> None:
    """Add an option for every field of ClipSettings; what is not given keeps the default of the field."""
    which = command.add_argument_group("which frames")
    which.add_argument("--fps", type=float, help="frames taken per second of video (2)")
    which.add_argument("--frames", type=int, help="frames taken in all, instead of --fps")
    which.add_argument("--min-frames", type=int, help="at least this many (4)")
    which.add_argument("--max-frames", type=int, help="at most this many (768)")
    which.add_argument("--start", type=float, metavar="SECOND", help="leave out what is before")
    which.add_argument("--end", type=float, metavar="SECOND", help="leave out what is after")
    which.add_argument("--repeat-short", action="store_true", help="where there are fewer than --frames, repeat some")
    size = command.add_argument_group("what size (pixels may be written as a product: 20480*32*32)")
    size.add_argument("--min-pixels", type=pixels, help="floor of one frame")
    size.add_argument("--max-pixels", type=pixels, help="cap of one frame")
    size.add_argument("--total-pixels", type=pixels, help="budget of the clip, counted once per pair of frames")
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
    from minivid.demo import run

    metrics = run(options.folder, seed=options.seed, quiet=options.json)
    if options.json:
        print(json.dumps(metrics))
    return 0


def _predict(options: argparse.Namespace) -> int:
    from minivid.demo import predict

    answer = predict(options.clip, options.checkpoint)
    if options.json:
        print(json.dumps(answer))
        return 0
    print(f"{options.clip}: {answer['label']}")
    for name, probability in sorted(answer["probabilities"].items(), key=lambda item: -item[1]):
        print(f"  {name:<8} {probability:6.1%}")
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
