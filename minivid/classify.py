"""Video files of your own: teach a model to tell their classes apart, measure it, and ask it about other files."""

import json
import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from minivid import plots
from minivid.data.augmentation import Augmentation
from minivid.data.clip_cache import GIGABYTE, ClipCache
from minivid.data.file_clips import FileClips, read_files
from minivid.data.labelled_files import (
    SPLITS,
    LabelledFile,
    Unreadable,
    assign_splits,
    read_labelled_files,
    without_repeats,
)
from minivid.models.zoo import build_model, small_config
from minivid.training.checkpoint import CONFIG, WEIGHTS, load_checkpoint, save_checkpoint, write_text
from minivid.training.finetune import Metrics, check_fits, evaluate, finetune
from minivid.training.finetune_config import FinetuneConfig
from minivid.training.history import CURVES, HISTORY
from minivid.training.metrics import class_scores, classification_report, expected_calibration_error
from minivid.training.objectives import Classification, replace_head
from minivid.training.output_folder import RUN, begin, in_short, make_room, write_lines
from minivid.training.processes import device, is_first, joined, wait_for_all
from minivid.training.run_folder import STATE
from minivid.training.sealed_folder import CHECKSUMS
from minivid.video.clip import ClipSettings, load_pixels
from minivid.video.resize import normalize

FILES = "files.jsonl"  # every clip with its split, so that what was learnt from is never tested on
UNREADABLE = "unreadable.jsonl"
METRICS = "metrics.json"
CACHE = "cache"
CONFUSION = "confusion.png"
_MADE = (RUN, FILES, UNREADABLE, METRICS, CURVES, CONFUSION, CONFIG, WEIGHTS, CHECKSUMS, HISTORY, STATE, "tensorboard")
_SAME = ("fingerprint", "label", "split", "start", "end")  # what makes a clip the same clip
_SHOWN = 20  # classes of which a table or a picture can still be read


@dataclass(frozen=True)
class Request:
    """What a training on files of one's own is asked for.

    Attributes:
        data: a folder with a folder for each class, or a table, see `read_labelled_files`.
        output: the folder that gets everything.
        model: a name of the zoo; not with `start`.
        size: "small", which a processor trains in minutes, or "published", the numbers of the paper.
        numbers: fields of the model's configuration that differ from those.
        start: a checkpoint whose weights are the first ones; its head is kept where its classes are the same.
        training: fields of FinetuneConfig that differ from its defaults; but where they are not given, a batch is not
            larger than the clips to learn from, the training is looked at 6 and saved 12 times, and the best weights of
            these looks are the ones that count.
        epochs: rounds over the clips, instead of `steps` in `training`.
        augment: see `Augmentation`.
        shares: of train, validation and test, where the data does not say.
        cache: where decoded clips are kept; None = in the output folder; "none" = nowhere.
        cache_limit: bytes.
        workers: processes that load clips ahead; 0 = none. Of no influence on the numbers.
        sharded: whether processes that train together hold a part of every weight each, instead of all of them.
    """

    data: str
    output: str = "runs/finetune"
    model: str | None = None
    size: str = "small"
    numbers: Mapping[str, object] = field(default_factory=dict)
    start: str | None = None
    training: Mapping[str, object] = field(default_factory=dict)
    epochs: int | float | None = None
    augment: tuple[str, ...] = ("crop", "color")
    shares: tuple[int | float, ...] = (0.7, 0.15, 0.15)
    cache: str | None = None
    cache_limit: int = 10 * GIGABYTE
    workers: int = 0
    sharded: bool = False

    @property
    def seed(self) -> int:
        """Of the first weights, of the splits and of all that is random in the training."""
        return int(self.training.get("seed", FinetuneConfig.seed))


def finetune_files(request: Request, *, resume: bool = False, overwrite: bool = False, quiet: bool = False) -> dict:
    """Teach a model to tell classes of video files apart, and measure it on files that it never saw.

    Leaves in the output folder: the model (config.json, model.safetensors), history.jsonl, files.jsonl (every clip and
    its split), unreadable.jsonl, metrics.json, curves.png and confusion.png. After Ctrl-C the same call goes on.

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
        OSError: if the data cannot be read, or the output folder not written to.
    """
    with joined():  # alone, or with the processes that torchrun started
        quiet = quiet or not is_first()
        unfinished = make_room(Path(request.output), _MADE, source=request.start, resume=resume, overwrite=overwrite)
        wait_for_all()
        task = _prepare(request, quiet)
        _begin(task, unfinished)
        if not quiet:
            print(_echo(task, unfinished), file=sys.stderr)
        _learn(task, quiet)
        return _finish(task) if is_first() else {}


@dataclass(frozen=True)
class _Task:
    """All that a training needs."""

    request: Request
    config: FinetuneConfig
    model: nn.Module
    classes: tuple[str, ...]
    clip: ClipSettings
    files: list[LabelledFile]
    data: dict[str, FileClips]
    unreadable: list[Unreadable]

    @property
    def folder(self) -> Path:
        return Path(self.request.output)

    @property
    def about(self) -> dict:
        """What must be the same for a training to go on, besides the FinetuneConfig, which the loop looks at."""
        request = self.request
        about = {
            "data": os.path.abspath(request.data),
            "model": type(self.model).__name__,
            "config": asdict(self.model.config),
            "classes": self.classes,
            "from": request.start and os.path.abspath(request.start),
            "augment": request.augment,
            "shares": request.shares,
            "seed": request.seed,
        }
        return json.loads(json.dumps(about))


def _prepare(request: Request, quiet: bool) -> _Task:
    Augmentation(tuple(request.augment))  # wrong names are found before hours of decoding
    listed = read_labelled_files(request.data)
    model, classes = _model(request, listed.classes)
    check_fits(model, _training(request, len(listed.files)), Classification())
    if not request.sharded:  # else it goes there in parts
        model.to(device())
    clip = clip_settings(model.config)
    folder = Path(request.output)
    cache = _cache(request.cache, folder, request.cache_limit)
    if not is_first():
        wait_for_all()  # the first one fills the cache
    files, unreadable = _read(listed.files, clip, cache, quiet)
    unreadable = [*listed.left_out, *unreadable]
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        write_lines(folder / UNREADABLE, [entry._asdict() for entry in unreadable])
        wait_for_all()
    _nothing_lost(listed.files, files, unreadable, folder / UNREADABLE)
    files = assign_splits(files, shares=request.shares, seed=request.seed)
    data = {}
    for split in SPLITS:
        chosen = [file for file in files if file.split == split]
        data[split] = FileClips(chosen, classes, clip, cache=cache, unreadable=unreadable)
    for split, share in zip(SPLITS[:2], request.shares[:2], strict=True):
        if not len(data[split]):
            raise ValueError(f"{request.data}: no clip is left in {split}; give it a share (now {share:g}) or files")
    if lacking := set(classes) - {file.label for file in data["train"].files}:
        raise ValueError(
            f"{request.data}: class {min(lacking)!r} has no clip in train; add some or remove the class "
            f"({folder / UNREADABLE} says what was left out)"
        )
    config = _training(request, len(data["train"]))
    return _Task(request, config, model, classes, clip, files, data, unreadable)


def _learn(task: _Task, quiet: bool) -> None:
    done = 0

    def count(step: int) -> None:
        nonlocal done
        done = step

    names = tuple(task.request.augment)
    try:
        finetune(
            task.model,
            task.data["train"],
            task.data["validation"],
            # A finished training leaves its checkpoint too, until the model is saved: a stop in between costs nothing.
            replace(task.config, save_total_limit=max(1, task.config.save_total_limit)),
            augment=Augmentation(names) if names else None,
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


def _finish(task: _Task) -> dict:
    """Save the model, measure it, and draw what came out."""
    save_checkpoint(task.folder, task.model, classes=task.classes, clip=task.clip)  # now the training is finished
    if not task.config.save_total_limit:
        shutil.rmtree(task.folder / STATE, ignore_errors=True)
    split = "test" if len(task.data["test"]) else "validation"
    found = evaluate(task.model, task.data[split])
    metrics = _figures(found, task.classes, split) | {
        "weights": sum(weight.numel() for weight in task.model.parameters()),
        "clips": {name: len(clips) for name, clips in task.data.items()},
        "unreadable": sum(not entry.used for entry in task.unreadable),
        "steps": task.config.steps,
    }
    _draw_confusion(task.folder / CONFUSION, found, task.classes, split)
    write_text(task.folder / METRICS, json.dumps(metrics, indent=2) + "\n")
    return metrics


def evaluate_files(
    checkpoint: str | os.PathLike,
    data: str | os.PathLike | None = None,
    *,
    split: str = "test",
    cache: str | None = None,
    cache_limit: int = 10 * GIGABYTE,
    plot: str | os.PathLike | None = None,
    quiet: bool = False,
) -> dict:
    """Measure a trained model on labelled files.

    Which of them belong to a split is what the data says; or else what the training of this model recorded, where a
    file that it did not know, whatever its name, belongs to test.

    Args:
        checkpoint: a folder with a trained model.
        data: as in Request; None = what the model was trained with.
        split: one of SPLITS, or "all".
        cache: where decoded clips are kept; None = in the checkpoint's folder; "none" = nowhere.
        cache_limit: bytes.
        plot: draw the confusion matrix to this PNG file.
        quiet: no progress bars and nothing printed but warnings.

    Returns:
        Accuracy, loss, precision, recall and F1 of each class, the confusion matrix and the calibration error.

    Raises:
        ValueError: if the data has a class that the model does not know, or no clip in this split.
        OSError: if something cannot be read or written.
    """
    checkpoint = Path(checkpoint)
    trained = _load(checkpoint)
    if plot is not None and not Path(plot).absolute().parent.is_dir():
        raise ValueError(f"{plot}: there is no folder {Path(plot).parent}; make it first")
    if data is None:
        data = _recorded_source(checkpoint)
    listed = read_labelled_files(data, fewest_classes=1)
    if unknown := [name for name in listed.classes if name not in trained.classes]:
        raise ValueError(
            f"{data}: class {unknown[0]!r} is none of those that {checkpoint} knows: {', '.join(trained.classes)}"
        )
    kept = _cache(cache, checkpoint, cache_limit)
    files, unreadable = _read(listed.files, trained.clip, kept, quiet)
    unreadable = [*listed.left_out, *unreadable]
    files = _recorded_splits(checkpoint, files)
    chosen = [file for file in files if split in ("all", file.split)]
    counts = Counter(file.split for file in files)
    if not chosen:
        there = ", ".join(f"{counts[name]} in {name}" for name in SPLITS if counts[name]) or "none that can be read"
        raise ValueError(f"{data}: no clip in {split} ({there}); choose another with --split, or --split all")
    clips = FileClips(chosen, trained.classes, trained.clip, cache=kept, unreadable=unreadable)
    with tqdm(total=len(clips), desc="evaluate", unit="clip", file=sys.stderr, disable=quiet) as bar:
        found = evaluate(trained.model, clips, on_batch=bar.update)
    if plot is not None:
        _draw_confusion(Path(plot), found, trained.classes, split)
    return _figures(found, trained.classes, split) | {
        "checkpoint": os.fspath(checkpoint),
        "data": os.fspath(data),
        "splits": {name: counts[name] for name in SPLITS},
        "unreadable": [entry._asdict() for entry in unreadable],
    }


class Classifier:
    """A trained model that answers for video files.

    Args:
        checkpoint: a folder with a trained model.

    Raises:
        FileNotFoundError: if the folder holds no trained model.
        CheckpointError: if what it holds is damaged.
    """

    def __init__(self, checkpoint: str | os.PathLike):
        self.trained = _load(Path(checkpoint))

    def predict(self, path: str | os.PathLike, *, top: int | None = None) -> dict:
        """Answer for any video file.

        The frames are spread evenly over the whole file and resized to the model's square, whatever the file's
        proportions. Of a file with fewer frames than the model reads, some are shown to it more than once; a picture is
        a clip that stands still.

        Args:
            path: a local video file or picture.
            top: only so many classes, the most probable ones, in this order; None = all, in the model's order.

        Returns:
            `label`, the most probable class; `probabilities`; `frames`, the number and the second of each frame that
            was looked at; `file`.

        Raises:
            VideoError: if the file cannot be read.
            ValueError: if `top` is below 1.
        """
        if top is not None and top < 1:
            raise ValueError(f"top={top} is not at least 1")
        chosen = load_pixels(path, self.trained.clip)
        pixels, missing = chosen.pixels, (self.trained.clip.frames or len(chosen)) - len(chosen)
        # A damaged file can give fewer frames than planned.
        frames = normalize(torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)]))
        with torch.no_grad():
            numbers = self.trained.model(frames[None])[0].softmax(-1)
        probabilities = dict(zip(self.trained.classes, numbers.tolist(), strict=True))
        if top is not None:
            probabilities = dict(sorted(probabilities.items(), key=lambda item: -item[1])[:top])
        return {
            "file": os.fspath(path),
            "label": self.trained.classes[numbers.argmax()],
            "probabilities": probabilities,
            "frames": [
                {"index": index, "second": second}
                for index, second in zip(chosen.indices.tolist(), chosen.seconds.tolist(), strict=True)
            ],
        }


def clip_settings(config: object) -> ClipSettings:
    """Say how a file becomes the input of a model with this configuration.

    Args:
        config: has `num_frames`, `image_size` and `num_channels`, and `tubelet_size` where boxes are cut.

    Raises:
        ValueError: if the model does not read red, green and blue.
    """
    if config.num_channels != 3:
        raise ValueError(f"num_channels={config.num_channels}: files give 3, red, green and blue")
    tau, p, _ = getattr(config, "tubelet_size", (1, 1, 1))
    return ClipSettings(
        frames=config.num_frames,
        height=config.image_size,
        width=config.image_size,
        repeat_short=True,
        patch_size=p,
        temporal_patch_size=tau,
        spatial_merge_size=1,
    )


def report_text(metrics: Mapping) -> str:
    """Lay out for the eye what `finetune_files` and `evaluate_files` return.

    Args:
        metrics: one of the two.
    """
    matrix, classes = torch.tensor(metrics["confusion"]["matrix"]), metrics["confusion"]["classes"]
    lines = [
        f"{metrics['split']}: {metrics['examples']} clips, accuracy {metrics['accuracy']:.1%}, "
        f"loss {metrics['loss']:.3f}, calibration error {metrics['calibration_error']:.3f}",
        "",
        classification_report(matrix, classes),
    ]
    if len(classes) <= _SHOWN:
        lines += ["true class (row) answered as (column):", *_matrix_lines(metrics["confusion"]["matrix"], classes)]
    return "\n".join(lines)


def _matrix_lines(matrix: list[list[int]], classes: Sequence[str]) -> Iterator[str]:
    wide = max(map(len, classes))
    cell = max(5, min(12, wide), *(len(str(number)) for row in matrix for number in row))
    heads = [name[:cell] for name in classes]
    yield " " * wide + "  " + " ".join(f"{name:>{cell}}" for name in heads)
    for name, row in zip(classes, matrix, strict=True):
        yield f"{name:>{wide}}  " + " ".join(f"{number:>{cell}}" for number in row)


def _model(request: Request, classes: tuple[str, ...]) -> tuple[nn.Module, tuple[str, ...]]:
    """A model for these classes, and the classes in the order of its answers."""
    if "num_labels" in request.numbers:
        raise ValueError(f"num_labels={request.numbers['num_labels']}: follows from the data, {len(classes)} classes")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        if request.start is None:
            return _new_model(request, len(classes)), classes
        if request.model or request.numbers:
            raise ValueError("--from brings the model along with its numbers; leave --model and --set out")
        trained = _load(Path(request.start))
        if set(trained.classes) == set(classes):
            return trained.model, trained.classes
        replace_head(trained.model, len(classes))
        return trained.model, classes


def _new_model(request: Request, labels: int) -> nn.Module:
    name, small = request.model or DEFAULT_MODEL, {}
    config = small_config(name)
    if not hasattr(config, "num_labels"):
        raise ValueError(
            f"{name}: this model answers in words and tells no classes apart; choose another, or give a folder of a "
            "published one and conversations"
        )
    if request.size == "small":
        small = {item.name: getattr(config, item.name) for item in fields(config)}
    return build_model(name, small | dict(request.numbers) | {"num_labels": labels})


DEFAULT_MODEL = "conv-lstm"


def _cache(place: str | None, folder: Path, limit: int) -> ClipCache | None:
    return None if place == "none" else ClipCache(folder / CACHE if place is None else place, limit=limit)


def _read(
    files: Sequence[LabelledFile], settings: ClipSettings, cache: ClipCache | None, quiet: bool
) -> tuple[list[LabelledFile], list[Unreadable]]:
    with tqdm(total=len(files), desc="read", unit="file", file=sys.stderr, disable=quiet) as bar:
        good, unreadable = read_files(files, settings, cache=cache, on_file=bar.update)
    good, repeated = without_repeats(good)
    return good, unreadable + repeated


def _nothing_lost(
    wanted: Iterable[LabelledFile], left: Iterable[LabelledFile], unreadable: Sequence[Unreadable], report: Path
) -> None:
    """Raise ValueError if a class or a given split has no readable file left."""
    for kind in ("label", "split"):
        there, asked = ({getattr(file, kind) for file in files} for files in (left, wanted))
        if lost := asked - there - {None}:
            what, name = "class" if kind == "label" else "split", min(lost)
            lying = {file.path for file in wanted if getattr(file, kind) == name}
            first = next(entry for entry in unreadable if entry.path in lying)
            raise ValueError(
                f"{what} {name!r}: none of its {len(lying)} files can be used; "
                f"{first.path}: {first.reason}; {report} lists the others"
            )


def _training(request: Request, clips: int) -> FinetuneConfig:
    known = {item.name for item in fields(FinetuneConfig)}
    values = dict(request.training)
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"training: there is no {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    values.setdefault("batch_size", min(FinetuneConfig.batch_size, clips))
    if request.epochs is not None:
        if "steps" in values:
            raise ValueError(f"steps={values['steps']} and epochs={request.epochs:g} are both given; give one of them")
        if not request.epochs > 0:
            raise ValueError(f"epochs={request.epochs:g} is not above 0")
        values["steps"] = math.ceil(request.epochs * clips / values["batch_size"])
    steps = int(values.get("steps", FinetuneConfig.steps))
    values.setdefault("evaluate_every", max(1, steps // 6))
    values.setdefault("save_every", max(1, steps // 12))
    values.setdefault("return_best", values["save_every"] > 0)
    return FinetuneConfig(**values)


def _begin(task: _Task, unfinished: bool) -> None:
    """Write down what is asked for, if it is what an unfinished training in the folder was asked for."""
    path, rows = task.folder / FILES, [asdict(file) for file in task.files]

    def other_files() -> list[str]:
        try:
            rows_before = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError):
            rows_before = []
        # By content, so that the same folder may be named in another way.
        old, new = ({tuple(row[name] for name in _SAME) for row in some} for some in (rows_before, rows))
        return [f"other files ({len(new - old)} new or moved, {len(old - new)} gone)"] if old != new else []

    begin(
        task.folder,
        task.about,
        unfinished=unfinished,
        differences=other_files,
        record=lambda: write_lines(path, rows),
    )


def _echo(task: _Task, unfinished: bool) -> str:
    """The effective values of everything, a line each."""
    request, classes, unreadable = task.request, task.classes, task.unreadable
    splits, labels = Counter(file.split for file in task.files), Counter(file.label for file in task.files)
    counts = ", ".join(f"{split} {splits[split]}" for split in SPLITS if splits[split])
    shown = ", ".join(f"{name} {labels[name]}" for name in classes[:_SHOWN])
    numbers, settings = (in_short(asdict(config)) for config in (task.model.config, task.config))
    weights = sum(weight.numel() for weight in task.model.parameters())
    start = f" from {request.start}" if request.start else ""
    lines = [
        f"data      {request.data}: {len(task.files)} clips, {counts}",
        f"classes   {len(classes)}: {shown}{', ...' if len(classes) > _SHOWN else ''}",
        *([f"files     {unreadable_text(unreadable)}: see {task.folder / UNREADABLE}"] if unreadable else []),
        f"model     {type(task.model).__name__} of {weights:,} weights{start}: {numbers}",
        f"training  {settings}",
        f"augment   {', '.join(request.augment) or 'none'}",
        f"output    {request.output}{' (goes on with the unfinished training there)' if unfinished else ''}",
    ]
    return "\n".join(lines)


def unreadable_text(unreadable: Sequence[Unreadable]) -> str:
    """Say in one line how many files were left out or are damaged, of which kinds.

    Args:
        unreadable: at least one.
    """
    parts = []
    for used, what in ((False, "left out"), (True, "damaged, used as far as they go")):
        kinds = Counter(entry.kind for entry in unreadable if entry.used is used)
        if kinds:
            parts.append(f"{kinds.total()} {what} ({', '.join(f'{kind} {n}' for kind, n in kinds.most_common())})")
    return "; ".join(parts)


def unreadable_lines(unreadable: Sequence[Unreadable]) -> Iterator[str]:
    """Say of each file that is not as it should be what became of it and why; of very many, the first.

    Args:
        unreadable: any number.
    """
    if unreadable:
        yield f"files: {unreadable_text(unreadable)}"
    for entry in unreadable[:_SHOWN]:
        yield f"  {entry.path}: {'used' if entry.used else 'left out'}: {entry.reason}"
    if len(unreadable) > _SHOWN:
        yield f"  and {len(unreadable) - _SHOWN} more (--json lists all)"


def _figures(found: Metrics, classes: Sequence[str], split: str) -> dict:
    scores = class_scores(found.confusion)
    columns = {name: getattr(scores, name).tolist() for name in ("precision", "recall", "f1", "support")}
    return {
        "split": split,
        "examples": len(found.labels),
        "accuracy": found.accuracy,
        "loss": found.loss,
        "calibration_error": expected_calibration_error(found.probabilities, found.labels),
        "classes": {
            name: {column: numbers[i] for column, numbers in columns.items()} for i, name in enumerate(classes)
        },
        "confusion": {"classes": list(classes), "matrix": found.confusion.tolist()},
    }


def _draw_confusion(path: Path, found: Metrics, classes: Sequence[str], split: str) -> None:
    title = f"{split}: {found.accuracy:.1%} of {len(found.labels)} clips right"
    plots.save_png(plots.confusion(found.confusion, classes, title=title).figure, path)


def _load(folder: Path):
    begun = (folder / RUN).exists() or (folder / STATE).exists()
    if begun and not (folder / CONFIG).exists():
        command = "minivid finetune" if (folder / RUN).exists() else f"minivid demo --folder {folder}"
        raise FileNotFoundError(f"{folder}: the training there is not finished; run `{command}` again to go on")
    return load_checkpoint(folder)


def _recorded_source(checkpoint: Path) -> str:
    try:
        return json.loads((checkpoint / RUN).read_text(encoding="utf-8"))["data"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{checkpoint}: does not say which files it was trained with; give some with --data") from None


def _recorded_splits(checkpoint: Path, files: Sequence[LabelledFile]) -> list[LabelledFile]:
    """Give each file without a split the one that the training recorded for its content; new ones are for testing."""
    recorded = {}
    if (checkpoint / FILES).exists():
        for line in (checkpoint / FILES).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            recorded[row["fingerprint"]] = row["split"]
    return [file if file.split else replace(file, split=recorded.get(file.fingerprint, "test")) for file in files]
