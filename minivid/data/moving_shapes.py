"""Short clips of one moving shape, as mp4 files with labels: a set small enough to learn motion from in a minute.

The picture's opposite edges are joined: what leaves on the left comes back on the right. So at every moment every place
is equally likely, whichever way the shape moves, and no single frame tells the direction. A clip played backwards is
exactly a clip of the opposite motion.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path, PurePath

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from minivid.video.clip import Clip, ClipSettings, load_clip
from minivid.video.write import write_video

SHAPES = ("circle", "square", "triangle")
COLOURS = {
    "red": (0.90, 0.20, 0.20),
    "green": (0.20, 0.80, 0.30),
    "blue": (0.25, 0.40, 0.95),
    "yellow": (0.95, 0.85, 0.20),
}
MOTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
"""Motion to (rows, columns): a positive row step goes down the picture."""
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
CASES = ("plain", "noise", "occlusion", "two shapes", "uneven times")
"""What makes a clip hard: nothing, a noisy camera, a fence in front, a second shape at rest, an uneven frame rate."""

SIDE = 64  # pixels: large enough to look at, small enough for hundreds of clips in seconds
FRAMES = 16
FPS = 8
LABELS = "labels.jsonl"
TABLE = "labels.csv"
WORKERS = 2  # threads that write or read files: both wait in FFmpeg, which lets other threads run
# Bar and distance of the fence, in sides. Its gap, 0.34, is narrower than every shape: a part of it is always hidden.
_BAR, _SPACING = 0.16, 0.5


@dataclass(frozen=True)
class Still:
    """A shape at rest: its centre (row, column) and radius in shares of the picture's side."""

    shape: str
    colour: str
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Fence:
    """Bars in front of the picture, one above the other (across_rows) or side by side; the first begins at `phase`."""

    across_rows: bool
    phase: float


@dataclass(frozen=True)
class MovingShape:
    """Everything that is needed to draw one clip again.

    Attributes:
        shape, colour, motion: what is seen; one of SHAPES, COLOURS, MOTIONS.
        case: what is hard about it, one of CASES.
        seconds: when each frame is shown, starting at 0.
        start: centre (row, column) at second 0, in shares of the picture's side.
        speed: sides a second.
        radius: of a circle of the same area, in shares of the side.
        background: red, green, blue from 0 to 1.
        noise: standard deviation of the camera noise, on the same scale.
        noise_seed: which noise.
        fence: what stands in front, or None.
        other: a second shape, at rest and behind the first, or None.
    """

    shape: str
    colour: str
    motion: str
    case: str
    seconds: tuple[float, ...]
    start: tuple[float, float]
    speed: float
    radius: float
    background: tuple[float, float, float]
    noise: float = 0.0
    noise_seed: int = 0
    fence: Fence | None = None
    other: Still | None = None

    @property
    def caption(self) -> str:
        """The clip in words."""
        return f"a {self.colour} {self.shape} moves {self.motion}"


def combinations(split: str) -> list[tuple[str, str, str]]:
    """List the (shape, colour, motion) combinations of a split.

    Every pair of a shape and a colour lacks one of the four motions in training: 12 of the 48 combinations, each shape
    4, each colour 3 and each motion 3 times. In the test split all 48 are there, so that shape and colour say nothing
    about the motion.

    Args:
        split: "train", "validation" (the same combinations as train), "test", or "held out" (the 12 alone).

    Raises:
        ValueError: for another split.
    """
    everything = list(product(SHAPES, COLOURS, MOTIONS))
    held_out = [
        (shape, colour, list(MOTIONS)[(i + j) % len(MOTIONS)])
        for (i, shape), (j, colour) in product(enumerate(SHAPES), enumerate(COLOURS))
    ]
    seen = [combination for combination in everything if combination not in held_out]
    splits = {"train": seen, "validation": seen, "test": everything, "held out": held_out}
    if split not in splits:
        raise ValueError(f"split: {split!r} is none of {', '.join(map(repr, splits))}")
    return splits[split]


def describe(shape: str, colour: str, motion: str, case: str, rng: np.random.Generator) -> MovingShape:
    """Draw at random what a clip's words leave open: where, how fast, how large, in front of what.

    Nothing that is drawn here depends on the motion.

    Args:
        shape, colour, motion, case: one each of SHAPES, COLOURS, MOTIONS, CASES.
        rng: where the randomness comes from.

    Raises:
        ValueError: if a word is not in its list.
    """
    for word, known in ((shape, SHAPES), (colour, COLOURS), (motion, MOTIONS), (case, CASES)):
        if word not in known:
            raise ValueError(f"{word!r} is none of {', '.join(known)}")
    start, speed, radius = _place(rng), rng.uniform(0.25, 0.45), rng.uniform(0.2, 0.26)
    background = tuple(np.clip(rng.uniform(0.05, 0.6) + rng.uniform(-0.04, 0.04, 3), 0, 1).tolist())
    gaps = np.full(FRAMES - 1, 1.0)
    if case == "uneven times":
        gaps = rng.choice([0.4, 0.7, 1.0, 1.8, 3.0], FRAMES - 1)
    # Whole milliseconds, which a file can store exactly.
    seconds = np.round(np.concatenate([[0], np.cumsum(gaps)]) * (FRAMES - 1) / gaps.sum() / FPS, 3)
    other = None
    if case == "two shapes":
        choices = [pair for pair in product(SHAPES, COLOURS) if pair != (shape, colour)]
        other = Still(*choices[rng.integers(len(choices))], _place(rng), rng.uniform(0.2, 0.26))
    return MovingShape(
        shape=shape,
        colour=colour,
        motion=motion,
        case=case,
        seconds=tuple(seconds.tolist()),
        start=start,
        speed=float(speed),
        radius=float(radius),
        background=background,
        noise=float(rng.uniform(0.05, 0.1)) if case == "noise" else 0.0,
        noise_seed=int(rng.integers(2**31)),
        fence=Fence(bool(rng.integers(2)), float(rng.uniform(0, _SPACING))) if case == "occlusion" else None,
        other=other,
    )


def _place(rng: np.random.Generator) -> tuple[float, float]:
    row, column = rng.uniform(0, 1, 2)
    return float(row), float(column)


def centres(clip: MovingShape) -> Float[Tensor, "t 2"]:
    """Where the moving shape's centre (row, column) is in every frame, in shares of the side, from 0 to 1."""
    step = torch.tensor(MOTIONS[clip.motion]) * clip.speed
    return (torch.tensor(clip.start) + torch.tensor(clip.seconds)[:, None] * step) % 1.0


def render(clip: MovingShape, *, side: int = SIDE) -> UInt8[Tensor, "t c h w"]:
    """Draw a clip, with smooth edges.

    A pixel's share of a shape is clamp(1/2 - distance, 0, 1), its distance in pixels from the outline, inside negative.

    Args:
        clip: what to draw.
        side: height and width of the picture, in pixels.
    """
    t = len(clip.seconds)
    picture = torch.tensor(clip.background)[:, None, None].expand(t, 3, side, side)
    if clip.other is not None:
        still = torch.tensor(clip.other.centre).expand(t, 2)
        picture = _paint(
            picture, coverage(clip.other.shape, still, clip.other.radius, side), COLOURS[clip.other.colour]
        )
    picture = _paint(picture, coverage(clip.shape, centres(clip), clip.radius, side), COLOURS[clip.colour])
    if clip.fence is not None:
        hidden = _behind(clip.fence, side)
        picture = torch.where(hidden, torch.tensor(0.75), picture)  # a light grey that no shape and no background has
    if clip.noise:
        noise = np.random.default_rng(clip.noise_seed).standard_normal(picture.shape, dtype=np.float32)
        picture = picture + clip.noise * torch.from_numpy(noise)
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


def _behind(fence: Fence, side: int, bar: float = _BAR) -> Bool[Tensor, "h w"]:
    """Which pixels a fence hides."""
    pixel = (torch.arange(side) + 0.5) / side
    hidden = (pixel - fence.phase) % _SPACING < bar
    return (hidden[:, None] if fence.across_rows else hidden[None, :]).expand(side, side)


def _paint(
    picture: Float[Tensor, "t 3 h w"], share: Float[Tensor, "#t h w"], colour: Sequence[float]
) -> Float[Tensor, "t 3 h w"]:
    return picture + share[:, None] * (torch.tensor(colour)[:, None, None] - picture)


def coverage(shape: str, centre: Float[Tensor, "t 2"], radius: float, side: int) -> Float[Tensor, "t h w"]:
    """Say how much of every pixel a shape covers, from 0 to 1, on a picture whose opposite edges are joined.

    All shapes of one radius have the same area, that of the circle.

    Source: the distance to a regular polygon's outline is the largest of the distances to the lines of its sides (exact
    inside and along the sides, too small beyond the corners, which rounds nothing and is what a sharp corner needs).
    """
    pixel = (torch.arange(side) + 0.5) / side
    rows, columns = ((pixel - centre[:, axis, None] + 0.5) % 1.0 - 0.5 for axis in (0, 1))
    rows, columns = rows[:, :, None], columns[:, None, :]
    if shape == "circle":
        distance = (rows**2 + columns**2).sqrt() - radius
    elif shape == "square":
        half = radius * math.sqrt(math.pi) / 2
        distance = torch.maximum(rows.abs(), columns.abs()) - half
    else:
        inner = radius * math.sqrt(math.pi / (3 * math.sqrt(3)))  # of the circle that touches the three sides
        slanted = columns.abs() * (math.sqrt(3) / 2) - rows / 2
        distance = torch.maximum(rows, slanted) - inner
    return (0.5 - distance * side).clamp(0, 1)


def roll(frames: Float[Tensor, "t c h w"], rng: torch.Generator) -> Float[Tensor, "t c h w"]:
    """Move a whole clip by a random number of rows and columns; what leaves on one side comes back on the other.

    The edges of these pictures are joined, so that the result is as likely as the clip itself, and moves the same way:
    one clip stands for h w clips.

    Args:
        frames: a clip.
        rng: where the randomness comes from.
    """
    _, _, h, w = frames.shape
    rows, columns = (int(torch.randint(size, (), generator=rng)) for size in (h, w))
    return torch.roll(frames, (rows, columns), (-2, -1))


def drift(frames: Float[Tensor, "t c h w"], rng: torch.Generator) -> Float[Tensor, "t c h w"]:
    """Let the first picture of a clip stand still, or drift at a slant: a motion that has no word.

    All that is seen moves together, by one or two rows and one or two columns a frame; three clips in ten stand still.

    Args:
        frames: a clip whose opposite edges are joined.
        rng: where the randomness comes from.
    """
    still, *steps = torch.rand(5, generator=rng).tolist()
    down, right = ((2 if wide < 0.5 else 1) * (1 if ahead < 0.5 else -1) for wide, ahead in (steps[:2], steps[2:]))
    if still < 0.3:
        down = right = 0
    return torch.stack([torch.roll(frames[0], (i * down, i * right), (-2, -1)) for i in range(len(frames))])


def hue(colour: Sequence[int | float]) -> float:
    """The angle of a colour around the grey axis of the cube of red, green and blue, in degrees from red's, 0 to 360.

    Args:
        colour: red, green, blue.
    """
    red, green, blue = colour
    return math.degrees(math.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)) % 360


def _apart(one: int | float, other: int | float) -> float:
    return abs((one - other + 180) % 360 - 180)


# Whole degrees, 25 or more from every colour that has a word: turquoise, violet, and what lies around them.
NAMELESS_HUES = tuple(h for h in range(360) if all(_apart(h, hue(paint)) >= 25 for paint in COLOURS.values()))


def recoloured(frames: Float[Tensor, "t 3 h w"], colour: str, rng: torch.Generator) -> Float[Tensor, "t 3 h w"]:
    """Turn all colours of a clip by one angle, so that the moving shape gets a colour that has no word.

        x = R x,   R = c I + (1 - c) n n^T + s [n]      c, s: cosine and sine of the angle, n = (1, 1, 1) / sqrt(3)

    What is grey, such as the background, stays as it is. [n] is the matrix of the cross product: [n] x = n x x.

    Args:
        frames: a clip, in any normalisation that is the same for red, green and blue.
        colour: the moving shape's, one of COLOURS.
        rng: where the randomness comes from.

    Source: Rodrigues' rotation formula.
    """
    target = NAMELESS_HUES[int(torch.randint(len(NAMELESS_HUES), (), generator=rng))]
    angle = math.radians(target - hue(COLOURS[colour]))
    grey, turned = (1 - math.cos(angle)) / 3, math.sin(angle) / math.sqrt(3)
    same, after, before = math.cos(angle) + grey, grey - turned, grey + turned
    rotation = torch.tensor([[same, after, before], [before, same, after], [after, before, same]])
    return (rotation @ frames.flatten(2)).view_as(frames)


def random_obstacle(frames: Float[Tensor, "t 3 h h"], rng: torch.Generator) -> Float[Tensor, "t 3 h h"]:
    """Put a fence in front of three clips in ten, a shape at rest in front of one, and leave the rest.

    What moves is the same, though a part of it is hidden: who has seen many obstacles is less easily misled by others.

    Args:
        frames: a square clip, normalised to -1..1.
        rng: where the randomness comes from; six numbers are drawn.

    Source: for patches of noise, Zhong et al. 2017, section 3 (arXiv:1708.04896).
    """
    chance, kind, row, column, size, colour = torch.rand(6, generator=rng).tolist()
    side = frames.shape[-1]
    if chance < 0.3:
        hidden = _behind(Fence(kind < 0.5, _SPACING * row), side, bar=0.06 + 0.14 * size)
        return torch.where(hidden, torch.tensor(2 * colour - 1), frames)
    if chance < 0.4:
        shape, paint = SHAPES[int(kind * len(SHAPES))], list(COLOURS.values())[int(colour * len(COLOURS))]
        share = coverage(shape, torch.tensor([[row, column]]), 0.2 + 0.06 * size, side)
        return _paint(frames, share, [2 * level - 1 for level in paint])
    return frames


@dataclass(frozen=True)
class LabelledClip:
    """One line of labels.jsonl.

    Attributes:
        file: the mp4 file, beside labels.jsonl.
        held_out: whether its combination of shape, colour and motion is in no training clip.
        description: what was drawn.
    """

    file: str
    held_out: bool
    description: MovingShape

    @property
    def label(self) -> int:
        """The number of the motion in MOTIONS."""
        return list(MOTIONS).index(self.description.motion)


def make_clips(
    folder: str | os.PathLike,
    count: int,
    seed: int = 0,
    *,
    split: str = "train",
    side: int = SIDE,
    by_motion: bool = False,
    on_clip: Callable[[], object] | None = None,
) -> list[LabelledClip]:
    """Draw clips and write them as mp4 files, with labels.jsonl beside them, one line a clip.

    Every combination of the split is taken with every case before one is taken twice: a test split of 240 = 48 x 5
    clips holds each exactly once. The same arguments give the same files. labels.jsonl is written last and all at once,
    so that a folder without it is unfinished; clips that an earlier labels.jsonl lists are replaced.

    Args:
        folder: made if it does not exist.
        count: how many clips.
        seed: which clips; splits with the same seed share no random numbers.
        split: as in `combinations`.
        side: height and width, in pixels.
        by_motion: whether the files lie in a folder for each motion, or all in one.
        on_clip: called after each clip, for a progress bar.

    Returns:
        What labels.jsonl holds.

    Raises:
        ValueError: if count is below 1, or for an unknown split.
        OSError: if the folder cannot be written to.
    """
    if count < 1:
        raise ValueError(f"count={count} is not at least 1")
    cells = list(product(combinations(split), CASES))
    held_out = set(combinations("held out"))
    rng = np.random.default_rng((seed, *split.encode()))
    order = [i for _ in range(0, count, len(cells)) for i in rng.permutation(len(cells))][:count]
    clips = []
    for number, ((shape, colour, motion), case) in enumerate(cells[i] for i in order):
        description = describe(shape, colour, motion, case, rng)
        file = f"{motion}/{number:05d}.mp4" if by_motion else f"{number:05d}.mp4"
        clips.append(LabelledClip(file, (shape, colour, motion) in held_out, description))

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_earlier(folder)
    for place in {(folder / clip.file).parent for clip in clips}:
        place.mkdir(exist_ok=True)

    def write(clip: LabelledClip) -> None:
        # Times are given for an even rate too: write_video then makes no B-frames, and x264's search for the best ones
        # does not give the same bytes at every run.
        write_video(folder / clip.file, render(clip.description, side=side), seconds=clip.description.seconds, fps=FPS)

    _each(write, clips, on_clip)
    _write_labels(folder, clips)
    return clips


def make_class_folders(
    folder: str | os.PathLike,
    count: int = 800,
    seed: int = 0,
    *,
    side: int = SIDE,
    on_clip: Callable[[], object] | None = None,
) -> dict[str, int]:
    """Write clips as a set of files that any classifier can learn from: FOLDER/train/left/00000.mp4 and so on.

    A quarter of the clips is for testing, an eighth for validation, the rest for training. labels.csv beside the splits
    says the same as a table (path, label, split, caption).

    Args:
        folder: made if it does not exist; else empty, or made by this function, and then its clips are replaced.
        count: how many clips in all, at least 8.
        seed, side, on_clip: as for `make_clips`.

    Returns:
        How many clips each split has.

    Raises:
        ValueError: if count is below 8, or the folder holds something else.
        OSError: if the folder cannot be written to.
    """
    folder = Path(folder)
    if count < 8:
        raise ValueError(f"count={count} is not at least 8, so that each split has some")
    if folder.exists() and any(folder.iterdir()) and not (folder / TABLE).exists():
        raise ValueError(f"{folder}: holds something else; give an empty folder, or one that does not exist")
    counts = {"train": count - count // 8 - count // 4, "validation": count // 8, "test": count // 4}
    rows = ["path,label,split,caption\n"]
    for split, number in counts.items():
        clips = make_clips(folder / split, number, seed, split=split, side=side, by_motion=True, on_clip=on_clip)
        for clip in clips:
            rows.append(f"{split}/{clip.file},{clip.description.motion},{split},{clip.description.caption}\n")
    _write_whole(folder / TABLE, rows)
    return counts


def read_labels(folder: str | os.PathLike) -> list[LabelledClip]:
    """Read the labels.jsonl that make_clips wrote.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a line is not what make_clips writes.
    """
    path = Path(folder) / LABELS
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; make_clips writes it when all clips of a folder are there")
    clips = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            clips.append(_from_line(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number}: not a clip's label ({error}); make the clips again") from error
    return clips


def load_clips(
    folder: str | os.PathLike, settings: ClipSettings, *, on_clip: Callable[[], object] | None = None
) -> list[tuple[Float[Tensor, "t c h w"], int]]:
    """Decode every clip of a folder, in the order of its labels.jsonl.

    Args:
        folder: what make_clips wrote.
        settings: which frames, at what size.
        on_clip: called after each clip, for a progress bar.

    Returns:
        Normalised frames and the number of the motion in MOTIONS, for each clip.

    Raises:
        VideoError: if a file cannot be read.
        FileNotFoundError, ValueError: as in `read_labels`.
    """
    clips = read_labels(folder)

    def load(clip: LabelledClip) -> Clip:
        return load_clip(Path(folder) / clip.file, settings)

    loaded = _each(load, clips, on_clip)
    return [(found.frames, clip.label) for found, clip in zip(loaded, clips, strict=True)]


def _each(work: Callable, clips: list[LabelledClip], on_clip: Callable[[], object] | None) -> list:
    """Do the same to every clip, in WORKERS threads; the results come in the clips' order."""
    results = []
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            for result in pool.map(work, clips):
                results.append(result)
                if on_clip is not None:
                    on_clip()
        except BaseException:  # Ctrl-C too: what has not begun is not begun
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return results


def _remove_earlier(folder: Path) -> None:
    labels = folder / LABELS
    try:
        names = [json.loads(line)["file"] for line in labels.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError, KeyError):
        names = []
    labels.unlink(missing_ok=True)
    for name in map(PurePath, names):
        inside = name.parent.name if name.parent.name in MOTIONS else ""
        (folder / inside / name.name).unlink(missing_ok=True)


def _write_labels(folder: Path, clips: list[LabelledClip]) -> None:
    lines = []
    for clip in clips:
        line = {"file": clip.file, "caption": clip.description.caption, "held_out": clip.held_out}
        lines.append(json.dumps(line | asdict(clip.description)) + "\n")
    _write_whole(folder / LABELS, lines)


def _write_whole(path: Path, lines: list[str]) -> None:
    """Write a text that appears under its name only when it is complete."""
    descriptor, unfinished = tempfile.mkstemp(prefix=".unfinished-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(lines)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def _from_line(line: dict) -> LabelledClip:
    file, held_out = line.pop("file"), line.pop("held_out")
    del line["caption"]  # follows from the rest
    for name in ("seconds", "start", "background"):
        line[name] = tuple(line[name])
    if line["fence"] is not None:
        line["fence"] = Fence(**line["fence"])
    if line["other"] is not None:
        line["other"] = Still(**line["other"] | {"centre": tuple(line["other"]["centre"])})
    return LabelledClip(file, held_out, MovingShape(**line))
