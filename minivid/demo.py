"""The demo: clips are drawn and written as files, a small video transformer learns their motion, a report says what.

The report also says whether it learnt from the motion: frames are frozen, shuffled and played backwards.
"""

import html
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from string import Template

import torch
from tqdm import tqdm

from minivid import plots, report
from minivid.data.batches import Example
from minivid.data.moving_shapes import CASES, MOTIONS, OPPOSITE, LabelledClip, load_clips, make_clips, roll
from minivid.models.vivit import SMALL_CONFIG, ViViT
from minivid.training.checkpoint import save_checkpoint, write_text
from minivid.training.finetune import STATE, FinetuneConfig, History, Metrics, evaluate, finetune
from minivid.training.threads import threads
from minivid.video.clip import ClipSettings, load_pixels

FOLDER = Path("runs/demo")
CLASSES = tuple(MOTIONS)
SPLITS = {
    "train": 540,
    "validation": 90,
    "test": 240,
}  # whole rounds of all combinations with all cases, or half of one

MODEL = replace(SMALL_CONFIG, num_labels=len(CLASSES))
CLIP = ClipSettings(
    frames=8, height=32, width=32, repeat_short=True, patch_size=8, temporal_patch_size=2, spatial_merge_size=1
)
TRAINING = FinetuneConfig(
    steps=500,
    batch_size=32,
    learning_rate=2e-3,
    weight_decay=0.05,
    betas=(0.9, 0.98),  # 500 steps are too few for an average over 1000
    evaluate_every=50,
    save_every=50,
)


def run(
    folder: str | os.PathLike = FOLDER,
    *,
    seed: int = 0,
    steps: int = TRAINING.steps,
    clips: dict[str, int] | None = None,
    quiet: bool = False,
) -> dict:
    """Draw clips, learn their motion from the files, measure on clips that were held out, and report.

    Leaves in the folder: clips/ (mp4 files and labels), the model (config.json, model.safetensors, checksums.json),
    history.jsonl, curves.png, metrics.json, report.html and pictures/. After Ctrl-C the same call goes on from the
    training's last save.

    Args:
        folder: made if it does not exist.
        seed: of the clips, the first weights and the order; the same seed gives the same weights.
        steps: of the training.
        clips: how many of each split, "train", "validation" and "test"; by default SPLITS.
        quiet: no progress bars and no summary.

    Returns:
        What metrics.json holds.

    Raises:
        OSError: if the folder cannot be written to.
        ValueError: if the folder holds an unfinished training with another seed or number of steps.
    """
    folder = Path(folder)
    training = FinetuneConfig(**asdict(TRAINING) | {"seed": seed, "steps": steps})
    done = 0

    def count(step: int) -> None:
        nonlocal done
        done = step

    try:
        with threads(1):  # so small a model loses more by a second one than it gains
            return _run(folder, training, SPLITS if clips is None else clips, quiet, count)
    except KeyboardInterrupt:
        if not quiet:
            print(report.stopped(done, training.steps, training.save_every, (folder / STATE).exists()), file=sys.stderr)
        raise


@dataclass(frozen=True)
class _Control:
    """A changed test set: what a model that looks at the motion must answer to it, and what this one answered."""

    name: str
    question: str
    expected: str
    low: float
    high: float
    obtained: float
    why: str

    @property
    def as_expected(self) -> bool:
        return self.low <= self.obtained <= self.high


def _run(
    folder: Path, training: FinetuneConfig, counts: dict[str, int], quiet: bool, on_step: Callable[[int], object]
) -> dict:
    clock = report.Clock()
    labels: dict[str, list[LabelledClip]] = {}
    data: dict[str, list[Example]] = {}
    with tqdm(total=sum(counts.values()), desc="draw", unit="clip", file=sys.stderr, disable=quiet, delay=0.2) as bar:
        for split, count in counts.items():
            labels[split] = make_clips(folder / "clips" / split, count, training.seed, split=split, on_clip=bar.update)
    clock.lap("draw")
    with tqdm(total=sum(counts.values()), desc="load", unit="clip", file=sys.stderr, disable=quiet) as bar:
        for split in counts:
            data[split] = load_clips(folder / "clips" / split, CLIP, on_clip=bar.update)
    clock.lap("load")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = ViViT(MODEL)
    before = evaluate(model, data["test"])
    clock.lap("evaluate")
    history = finetune(
        model,
        data["train"],
        data["validation"],
        training,
        augment=roll,
        folder=folder,
        on_step=on_step,
        quiet=quiet,
    )
    clock.lap("train")
    changed = _changed(data["test"], training.seed)
    with tqdm(total=len(changed) * counts["test"], desc="evaluate", unit="clip", file=sys.stderr, disable=quiet) as bar:
        found = {name: evaluate(model, clips, on_batch=bar.update) for name, clips in changed.items()}
    controls = _controls(found)
    save_checkpoint(folder, model, classes=CLASSES, clip=CLIP)
    clock.lap("evaluate")

    metrics = {
        "seed": training.seed,
        "clips": counts,
        "weights": sum(weight.numel() for weight in model.parameters()),
        "accuracy_before": before.accuracy,
        "accuracy": found["as drawn"].accuracy,
        "loss_before": before.loss,
        "loss": found["as drawn"].loss,
        "cases": _cases(found["as drawn"], labels["test"]),
        "confusion": {"classes": CLASSES, "matrix": found["as drawn"].confusion.tolist()},
        "controls": {control.name: asdict(control) | {"as_expected": control.as_expected} for control in controls},
    }
    _Report(folder, model, training, labels["test"], changed, found, history, metrics, controls).write()
    clock.lap("report")
    metrics["seconds"] = clock.laps
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    if not quiet:
        print(_summary(folder, metrics, controls, labels["test"]))
    return metrics


def _changed(test: list[Example], seed: int) -> dict[str, list[Example]]:
    """The test clips as they are, and with their frames in another order."""
    rng = torch.Generator().manual_seed(seed)
    return {
        "as drawn": test,
        "frozen": [(frames[:1].expand_as(frames), label) for frames, label in test],
        "backwards": [(frames.flip(0), label) for frames, label in test],
        "shuffled": [(frames[torch.randperm(len(frames), generator=rng)], label) for frames, label in test],
    }


def _controls(found: dict[str, Metrics]) -> list[_Control]:
    opposite = torch.tensor([CLASSES.index(OPPOSITE[motion]) for motion in CLASSES])
    backwards = found["backwards"]
    turned = (backwards.answers == opposite[backwards.labels]).double().mean().item()
    n, chance = len(backwards.labels), 1 / len(CLASSES)
    right = found["as drawn"].accuracy

    def slack(share: float) -> float:
        """Three standard errors of a share of n clips, with two clips more on each side (Agresti and Coull 1998)."""
        share = (share * n + 2) / (n + 4)
        return 3 * math.sqrt(share * (1 - share) / n)

    return [
        _Control(
            "frozen",
            "the first frame, eight times: the right motion?",
            f"{chance:.0%} ± {slack(chance):.0%}",
            chance - slack(chance),
            chance + slack(chance),
            found["frozen"].accuracy,
            "Where a shape starts says nothing about where it goes, so nobody can do better than chance, one in four.",
        ),
        _Control(
            "backwards",
            "the frames from last to first: the opposite motion?",
            f"{right:.0%} ± {math.sqrt(2) * slack(right):.0%}",
            right - math.sqrt(2) * slack(right),
            1.0,
            turned,
            "A clip played backwards is exactly a clip of the opposite motion, so the opposite must be answered as "
            "often as the right motion is for clips played forwards.",
        ),
        _Control(
            "shuffled",
            "the frames in a random order: the right motion?",
            f"{chance:.0%} to {2 * chance:.0%}",
            chance - slack(chance),
            2 * chance + slack(2 * chance),
            found["shuffled"].accuracy,
            "A random order is as likely as the same order backwards, so left and right can no longer be told apart: "
            "at best the axis is seen and a coin decides (50%), at worst not even the axis (25%).",
        ),
    ]


def _cases(metrics: Metrics, labels: list[LabelledClip]) -> dict[str, dict[str, int | float]]:
    """Accuracy on each kind of hard clip, and on combinations that training never showed."""
    groups = {case: [clip.description.case == case for clip in labels] for case in CASES}
    groups["new combinations"] = [clip.held_out for clip in labels]
    table = {}
    for name, belongs in groups.items():
        right = metrics.correct[torch.tensor(belongs)]
        if len(right):
            table[name] = {"clips": len(right), "accuracy": right.double().mean().item()}
    return table


def _summary(folder: Path, metrics: dict, controls: list[_Control], labels: list[LabelledClip]) -> str:
    chance = controls[0].expected
    rows = [
        ("", "expected", "obtained"),
        ("before training", chance, f"{metrics['accuracy_before']:.1%}"),
        ("held-out clips", "95% or more", f"{metrics['accuracy']:.1%}"),
    ]
    rows += [(f"  {name}", "", f"{case['accuracy']:.1%}") for name, case in metrics["cases"].items()]
    answers = {"backwards": "played backwards: opposite", "frozen": "frozen frame", "shuffled": "shuffled frames"}
    rows += [(answers[control.name], control.expected, f"{control.obtained:.1%}") for control in controls]
    seconds = metrics["seconds"]
    lines = [
        f"A video transformer of {metrics['weights']:,} weights learnt which way shapes move from "
        f"{metrics['clips']['train']} mp4 files",
        f"in {seconds['train']:.0f} s ({sum(seconds.values()):.0f} s with drawing, loading and this report).",
        "",
        *(f"  {name:<28}{expected:>14}{obtained:>11}" for name, expected, obtained in rows),
        "",
        f"Open {folder / 'report.html'} in a browser: what was seen, learnt and looked at, in pictures. Then try",
        f"  minivid predict {folder / 'clips' / 'test' / labels[0].file} --checkpoint {folder}",
        f"  minivid shapes {folder / 'clips' / 'test' / labels[0].file} --frames 8 --plot frames.png",
    ]
    return "\n".join(lines)


@dataclass
class _Report:
    """report.html: one page with its pictures inside, for someone who sees all this for the first time."""

    folder: Path
    model: ViViT
    training: FinetuneConfig
    labels: list[LabelledClip]
    changed: dict[str, list[Example]]
    found: dict[str, Metrics]
    history: History
    metrics: dict
    controls: list[_Control]

    def write(self) -> None:
        """Draw every picture, save each in pictures/ too, and write the page."""
        (self.folder / "pictures").mkdir(exist_ok=True)
        drawn, m = self.found["as drawn"], self.metrics
        wrong = (~drawn.correct).nonzero().flatten().tolist()
        body = Template(_BODY).substitute(
            weights=f"{m['weights']:,}",
            accuracy=f"{m['accuracy']:.1%}",
            before=f"{m['accuracy_before']:.1%}",
            **m["clips"],
            strips="\n".join(
                self._strip(f"clip_{case.replace(' ', '_')}", self._first(case))
                for case in CASES
                if self._first(case) is not None
            ),
            curves=self._curves(),
            confusion=self._confusion(),
            cases=report.rows([name, case["clips"], f"{case['accuracy']:.1%}"] for name, case in m["cases"].items()),
            controls=report.rows(
                [
                    control.question,
                    control.expected,
                    f"{control.obtained:.1%}",
                    _YES_NO[control.as_expected],
                    control.why,
                ]
                for control in self.controls
            ),
            ways="\n".join(self._way(name) for name in self.changed),
            attention="\n".join(self._attention(case) for case in ("plain", "two shapes")),
            wrong=f"On {len(wrong)} of {len(drawn.labels)} test clips. The first of them; would you have got it?"
            if wrong
            else "On no test clip, this time. Another <code>--seed</code> may differ.",
            mistakes="\n".join(self._strip(f"wrong_{place}", number) for place, number in enumerate(wrong[:3], 1)),
            folder=html.escape(str(self.folder)),
            settings=html.escape(self._settings()),
        )
        report.write_page(self.folder / "report.html", "minivid demo: which way does it move?", body)

    def _first(self, case: str) -> int | None:
        """The number of the first test clip of a kind."""
        return next((i for i, clip in enumerate(self.labels) if clip.description.case == case), None)

    def _path(self, number: int) -> Path:
        return self.folder / "clips" / "test" / self.labels[number].file

    def _answer(self, number: int, control: str = "as drawn") -> str:
        answers = self.found[control]
        return f"{CLASSES[answers.answers[number]]}, {answers.probabilities[number].max().item():.0%} sure"

    def _strip(self, name: str, number: int) -> str:
        """The frames of a test clip side by side as they are in the file, what is true, and what was answered."""
        seen = load_pixels(self._path(number), ClipSettings(frames=CLIP.frames, height=64, width=64))
        clip = self.labels[number].description
        text = f"{clip.caption} ({clip.case}), answered: {self._answer(number)}"
        return self._picture(name, plots.frames(seen.pixels, seconds=seen.seconds, title=text), text)

    def _way(self, control: str) -> str:
        """The frames of one clip as the model got them in a control, and what it answered."""
        number = self._first("plain") or 0
        clip = self.labels[number].description
        text = f"{clip.caption}, {control}: {self._answer(number, control)}"
        figure = plots.frames(self.changed[control][number][0], title=text)
        return self._picture(f"control_{control.replace(' ', '_')}", figure, text)

    def _curves(self) -> str:
        figure, axes = plots.new_figure(1, 2, width=10.0, height=3.2)
        steps, losses = self.history.curve("loss")
        smooth, mean = [], losses[0]
        for loss in losses:  # single batches jump; their running mean can be read
            mean = 0.9 * mean + 0.1 * loss
            smooth.append(mean)
        plots.curves(
            {"training (running mean)": (steps, smooth), "validation": self.history.curve("validation_loss")},
            title="the loss falls, on clips it learns from and on others",
            ylabel="cross-entropy (nats)",
            axes=axes[0, 0],
        )
        plots.curves(
            {"validation": self.history.curve("validation_accuracy"), "chance": ((0.0, steps[-1]), (0.25, 0.25))},
            title="right answers, from chance to nearly all",
            ylabel="share of clips answered right",
            axes=axes[0, 1],
        )
        axes[0, 1].set_ylim(0, 1.03)
        return self._picture(
            "curves", figure, "Two curves over the training steps: the loss, and the share answered right"
        )

    def _confusion(self) -> str:
        figure, axes = plots.new_figure(1, 2, width=9.6, height=3.7)
        drawn, backwards = self.found["as drawn"], self.found["backwards"]
        plots.confusion(drawn.confusion, CLASSES, title=f"as drawn: {drawn.accuracy:.1%} right", axes=axes[0, 0])
        turned = self.metrics["controls"]["backwards"]["obtained"]
        title = f"played backwards: {turned:.1%} answered with the opposite"
        plots.confusion(backwards.confusion, CLASSES, title=title, axes=axes[0, 1])
        return self._picture("confusion", figure, "Two tables of true against answered motion")

    def _attention(self, case: str) -> str:
        number = self._first(case)
        if number is None:
            return ""
        frames, _ = self.changed["as drawn"][number]
        figure = plots.attention_on_frames(
            frames,
            self.model.attention(frames[None])[0],
            seconds=load_pixels(self._path(number), CLIP).seconds,
            title=f"{self.labels[number].description.caption} ({case}): attention over "
            f"{' x '.join(map(str, self.model.config.grid))} boxes",
        )
        return self._picture(f"attention_{case.replace(' ', '_')}", figure, "Four frames, and the weight of each box")

    def _settings(self) -> str:
        return "\n".join(
            f"{kind:<9} {name} = {value}"
            for kind, settings in (("model", self.model.config), ("training", self.training), ("clip", CLIP))
            for name, value in asdict(settings).items()
            if value is not None
        )

    def _picture(self, name: str, figure: plots.Figure, text: str) -> str:
        return report.picture(self.folder / "pictures" / f"{name}.png", figure, text)


_YES_NO = {True: "as expected", False: "not as expected"}


_BODY = """<h1>Which way does it move?</h1>
<p class="lead">A video transformer with $weights weights watched $train short clips and learnt which way a shape moves.
On $test clips it had never seen it is right in <b>$accuracy</b>; before training it was in $before. Chance is 25%.</p>

<h2>What it watches</h2>
<p>Each clip is an mp4 file of about two seconds. One shape moves left, right, up or down. The picture's opposite edges
are joined: what leaves on one side comes back on the other, and no single picture tells the direction. One clip in five
is plain, the others are hard on purpose: a noisy camera, a fence in front, a second shape that stands still, frames at
uneven times. Below are the eight frames of a clip that the model reads (it gets them smaller, 32 x 32 pixels). Follow
the shape from frame to frame, and compare the words above: what is true, and what the model answered.</p>
$strips

<h2>How it learns</h2>
<p>While it learns, $validation other clips are put to it now and then, and nothing is learnt from them. Look for the
step where the loss leaves 1.39 = log 4, the loss of someone who guesses: there the model has found out that it is the
difference between frames that matters.</p>
$curves

<h2>What it answers</h2>
<p>Rows are what is true, columns what was answered, numbers count test clips. A model that is always right fills the
diagonal. On the right the same clips are played backwards: left and right change places, and so do up and down.</p>
$confusion
<p><i>New combinations</i> are clips whose combination of shape, colour and motion is in no training clip, such as a red
circle that moves left: each of the three was seen, but never the three together.</p>
<table><tr><th>kind of test clip</th><th>clips</th><th>right</th></tr>
$cases
</table>

<h2>Does it look at the motion?</h2>
<p>A model can be right for a wrong reason. So the frames of the test clips are frozen, turned round and shuffled. What
a model that looks at the motion must then answer can be said without running it: the column <i>expected</i>, with three
standard errors.</p>
<table><tr><th>what it gets: what it is asked</th><th>expected</th><th>obtained</th><th></th><th>why</th></tr>
$controls
</table>
<p>One clip, four ways, as small as the model gets it. Compare the answers. On a frozen clip a model can be sure, and
even right, by luck; only the count over many clips tells that it knows nothing.</p>
$ways

<h2>Where and when it looks</h2>
<p>The model cuts a clip into boxes of 2 frames x 8 x 8 pixels, 64 in all, and reads its answer from one more token that
looks at every box. The lower row shows how that look is shared out in the last of the two blocks: bright boxes count
most. See whether they follow the shape that moves, and whether the one at rest draws the look too: attention tells
where the token reads, not what it makes of it. And the block before has already mixed neighbours into each box, so a
bright box is where something was read, not always where it was seen.</p>
$attention

<h2>Where it is wrong</h2>
<p>$wrong</p>
$mistakes

<h2>Go on</h2>
<ul>
<li><code>minivid predict YOUR.mp4 --checkpoint $folder</code>: which way does it move? Any video file or GIF will do;
it knows nothing but shapes, so be kind.</li>
<li><code>minivid shapes YOUR.mp4</code>: what your file becomes inside a large model, stage by stage.</li>
<li><code>minivid demo --seed 1</code>: other clips, other first weights.</li>
<li><code>jupyter lab notebooks</code>: the course, which begins with these clips.</li>
</ul>
<details><summary>Every setting of this run</summary><pre>$settings</pre></details>"""
