"""The demo that speaks: a small Qwen3-VL watches clips that are made here and learns to answer questions about them.

The code is that of the published models, the weights are its own, and what it leaves is a folder of the published kind:
`minivid describe CLIP --checkpoint FOLDER --prompt QUESTION` asks it about any clip.
"""

import html
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from string import Template

import torch
from torch import Tensor
from tqdm import tqdm

from minivid import plots, report
from minivid.data.clip_questions import (
    QUESTIONS,
    Asked,
    ClipQuestions,
    Turn,
    View,
    conversations_about,
    vocabulary_texts,
)
from minivid.data.moving_shapes import (
    CASES,
    MOTIONS,
    SHAPES,
    MovingShape,
    drift,
    make_clips,
    random_obstacle,
    recoloured,
    roll,
)
from minivid.data.processor import PAD, Processor
from minivid.models.generate import generate
from minivid.models.pretrained import save_pretrained
from minivid.models.qwen3_vl import SMALL_CONFIG, Qwen3VL, Qwen3VLConfig
from minivid.text.byte_pair import BytePair
from minivid.text.chat import IMAGE_PAD, MESSAGE_END, MESSAGE_START, VIDEO_PAD, VISION_END, VISION_START
from minivid.training.bag_of_words import LEARNS, BagOfWords
from minivid.training.checkpoint import write_text
from minivid.training.finetune import STATE, FinetuneConfig, History, finetune
from minivid.training.next_token import NextToken
from minivid.training.threads import threads
from minivid.video.clip import ClipSettings, load_pixels

FOLDER = Path("runs/caption")
GENERATION = "generation_config.json"
SPECIAL_TOKENS = (PAD, MESSAGE_START, MESSAGE_END, VISION_START, VISION_END, "<|vision_pad|>", IMAGE_PAD, VIDEO_PAD)
VOCABULARY = 448  # 8 special tokens, 256 bytes, and joined parts until every word of the task is one token
LONGEST_ANSWER = 12  # tokens; "a red circle moves left" and its end are six

SIDE, FRAMES, PATCH = 32, 8, 8
AREA = SIDE * SIDE
CUT = {"patch_size": PATCH, "temporal_patch_size": 2, "spatial_merge_size": 2}
IMAGE = ClipSettings(**CUT, min_pixels=AREA, max_pixels=AREA)
# The budget of a clip counts pairs of frames.
VIDEO = ClipSettings(**CUT, frames=FRAMES, repeat_short=True, min_pixels=AREA, total_pixels=AREA * FRAMES // 2)

SPLITS = {
    "train": 1440,
    "validation": 90,
    "test": 240,
}  # whole rounds of all combinations with all cases, or half of one
BETAS = (0.7, 0.9)  # with so few steps averages may not reach far back
# First the eyes learn words, from two frames of each clip: in these is all that is asked about, at a quarter of the
# cost. Then the whole model learns to answer. With AdamW and without the first part, the second found colours alone.
EYES = FinetuneConfig(
    steps=1800,
    batch_size=128,
    learning_rate=1e-2,
    warmup_ratio=0.03,
    optimizer="muon",  # after 1500 steps the eyes tell 97 % of the shapes, with AdamW alone 63 %
    weight_decay=0.05,
    betas=BETAS,
    evaluate_every=450,
    save_every=100,
    save_total_limit=1,  # what the second part goes on from, after a stop
    train_only=LEARNS,
)
TRAINING = FinetuneConfig(
    steps=400,
    batch_size=32,
    learning_rate=3e-3,
    optimizer="muon",
    weight_decay=0.05,
    betas=BETAS,
    evaluate_every=100,
    save_every=100,
    rates={"visual.": 1e-3},  # the eyes know their words already
)
EYES_FOLDER = "eyes"
WORDS = ("colour", "shape", "motion")  # what is answered in one word
THREADS = 2  # the second saves a fifth of the eyes' time and a third of the rest; whatever the machine has
INITIALIZER_RANGE = (
    0.125  # 1 / sqrt(hidden_size); with 0.06 and AdamW the eyes took twice as many steps to tell motions
)


def run(
    folder: str | os.PathLike = FOLDER,
    *,
    seed: int = 0,
    steps: int = TRAINING.steps,
    clips: dict[str, int] | None = None,
    quiet: bool = False,
) -> dict:
    """Draw clips, learn to answer questions about them from the files, ask about held-out clips, and report.

    Leaves in the folder: clips/ (mp4 files and labels), eyes/ (how the first part of the training went), a model of the
    published kind (config.json, model.safetensors, tokenizer.json, the two preprocessor files, generation_config.json),
    history.jsonl, curves.png, answers.jsonl (every question, answer and right answer), metrics.json, report.html and
    pictures/. After Ctrl-C the same call goes on from the training's last save.

    Args:
        folder: made if it does not exist.
        seed: of the clips, the first weights and the order; the same seed gives the same weights.
        steps: of the training in words; those of the eyes before it are in proportion.
        clips: how many of each split, "train", "validation" and "test"; by default SPLITS.
        quiet: no progress bars and no summary.

    Returns:
        What metrics.json holds.

    Raises:
        OSError: if the folder cannot be written to.
        ValueError: if the folder holds an unfinished training with another seed or number of steps.
    """
    folder = Path(folder)
    eyes_steps = max(1, steps * EYES.steps // TRAINING.steps)
    eyes, training = replace(EYES, seed=seed, steps=eyes_steps), replace(TRAINING, seed=seed, steps=steps)
    done = 0

    def count(step: int) -> None:
        nonlocal done
        done = step

    try:
        with threads(THREADS):
            return _run(folder, eyes, training, SPLITS if clips is None else clips, quiet, count)
    except KeyboardInterrupt:
        if not quiet:
            saved = any((folder / name / STATE).exists() for name in ("", EYES_FOLDER))
            print(report.stopped(done, eyes.steps + training.steps, training.save_every, saved), file=sys.stderr)
        raise


def new_tokenizer() -> BytePair:
    """A tokenizer that knows the words of the questions and answers; other words it spells."""
    return BytePair.train(vocabulary_texts(), VOCABULARY, special_tokens=SPECIAL_TOKENS)


def model_config(tokenizer: BytePair) -> Qwen3VLConfig:
    """The numbers of the model.

    Args:
        tokenizer: its own.
    """
    return replace(
        SMALL_CONFIG,
        text_config=replace(
            SMALL_CONFIG.text_config, vocab_size=tokenizer.vocab_size, initializer_range=INITIALIZER_RANGE
        ),
        vision_config=replace(SMALL_CONFIG.vision_config, initializer_range=INITIALIZER_RANGE),
        image_token_id=tokenizer.token_id(IMAGE_PAD),
        video_token_id=tokenizer.token_id(VIDEO_PAD),
        vision_start_token_id=tokenizer.token_id(VISION_START),
        vision_end_token_id=tokenizer.token_id(VISION_END),
    )


def nameless_motion(frames: Tensor, clip: MovingShape, rng: torch.Generator) -> Tensor:
    """The clip's first picture, at rest or drifting at a slant: there is no word for how it moves.

    Args:
        frames: a clip, t c h w.
        clip: what is drawn in it.
        rng: where the randomness comes from.
    """
    return drift(frames, rng)


def nameless_colour(frames: Tensor, clip: MovingShape, rng: torch.Generator) -> Tensor:
    """The clip in other colours: there is no word for the moving shape's.

    Args:
        frames: a clip, t 3 h w.
        clip: what is drawn in it.
        rng: where the randomness comes from.
    """
    return recoloured(frames, clip.colour, rng)


# Who is asked for the shape of a clip whose colour and motion have words soon learns which shapes never had both, and
# looks no further: then no shape is told right that is new with its colour and motion. So the shape is asked for only
# where one of the two has no word. Several questions in one row cost little more than one, because the clip is the
# larger part of it.
EYES_VIEWS = (
    View(conversations_about(("shape", "motion"), 2), nameless_colour, looks=4),
    View(conversations_about(("colour", "shape"), 2), nameless_motion),
)
VIEWS = (
    View(conversations_about(("colour", "motion", "caption"), 12), unasked=SHAPES),
    View(conversations_about(("colour", "shape", "caption"), 12), nameless_motion, unasked=tuple(MOTIONS)),
    View(conversations_about(("shape", "motion"), 8), nameless_colour),
)


def varied(frames: Tensor, rng: torch.Generator) -> Tensor:
    """A clip of which the same is to be said: rolled, and sometimes behind an obstacle.

    Args:
        frames: a clip, t c h w.
        rng: where the randomness comes from.
    """
    return random_obstacle(roll(frames, rng), rng)


def test_questions(data: ClipQuestions, about: str) -> list[tuple[Tensor, Asked]]:
    """One question about every clip, its wordings in turn, as items of the data."""
    wordings = QUESTIONS[about]
    return [
        (clip.frames, Asked(number, (Turn(about, wordings[number % len(wordings)]),)))
        for number, clip in enumerate(data.clips)
    ]


def answer_all(
    model: Qwen3VL,
    data: ClipQuestions,
    items: Sequence[tuple[Tensor, Asked]],
    *,
    batch_size: int = 60,
    on_batch: Callable[[int], object] | None = None,
) -> list[str]:
    """Let the model answer, word by word, always with the most probable token.

    Args:
        model: answers the last question of each item.
        data: what the items are from.
        items: clips, and what is asked about them.
        batch_size: how many are put at once; up to rounding of no influence on the answers.
        on_batch: called after each batch with the number of its answers, for a progress bar.

    Returns:
        What it said before the end of its answer; with a "..." where it found no end.
    """
    tokenizer = data.processor.tokenizer
    end, said = tokenizer.token_id(MESSAGE_END), []
    for first in range(0, len(items), batch_size):
        inputs = data.prompts(items[first : first + batch_size])
        pad = data.processor.pad_token_id
        rows = generate(model, inputs, max_new_tokens=LONGEST_ANSWER, eos_token_id=end, pad_token_id=pad).tolist()
        for ids in rows:
            ended = end in ids
            text = tokenizer.decode(ids[: ids.index(end)] if ended else ids)
            said.append(text if ended else text + "...")
        if on_batch is not None:
            on_batch(len(rows))
    return said


@dataclass(frozen=True)
class Answered:
    """One question about a test clip, and what came of it.

    Attributes:
        file: the clip.
        about: one of QUESTIONS.
        question: in words.
        answer: what the model said.
        right: what it should have said.
        case: what is hard about the clip.
        held_out: whether its combination of shape, colour and motion is in no training clip.
    """

    file: str
    about: str
    question: str
    answer: str
    right: str
    case: str
    held_out: bool

    @property
    def exact(self) -> bool:
        """Whether the answer is the right one, letter by letter."""
        return self.answer == self.right


def ask(
    model: Qwen3VL, data: ClipQuestions, abouts: Iterable[str] = QUESTIONS, *, on_batch: Callable | None = None
) -> list[Answered]:
    """Ask one question of each kind about every clip.

    Args:
        model: answers.
        data: clips, what is to be seen in them, and the model's processor.
        abouts: some of QUESTIONS.
        on_batch: as in `answer_all`.
    """
    found = []
    for about in abouts:
        items = test_questions(data, about)
        for (_, asked), said in zip(items, answer_all(model, data, items, on_batch=on_batch), strict=True):
            label = data.labels[asked.clip]
            found.append(
                Answered(
                    file=label.file,
                    about=about,
                    question=asked.turns[-1].question,
                    answer=said,
                    right=data.answers(asked)[-1],
                    case=label.description.case,
                    held_out=label.held_out,
                )
            )
    return found


def exact_shares(answers: Iterable[Answered]) -> dict[str, float]:
    """The share of exact answers to each kind of question.

    Args:
        answers: some of `ask`.
    """
    kinds: dict[str, list[bool]] = {}
    for answered in answers:
        kinds.setdefault(answered.about, []).append(answered.exact)
    return {about: sum(exact) / len(exact) for about, exact in kinds.items()}


def _run(
    folder: Path,
    eyes: FinetuneConfig,
    training: FinetuneConfig,
    counts: dict[str, int],
    quiet: bool,
    on_step: Callable[[int], object],
) -> dict:
    clock = report.Clock()
    with tqdm(total=sum(counts.values()), desc="draw", unit="clip", file=sys.stderr, disable=quiet, delay=0.2) as bar:
        for split, count in counts.items():
            make_clips(folder / "clips" / split, count, training.seed, split=split, on_clip=bar.update)
    clock.lap("draw")
    Processor(new_tokenizer(), IMAGE, VIDEO).save(folder)
    processor = Processor.from_folder(folder)  # what everyone else will read
    with tqdm(total=sum(counts.values()), desc="load", unit="clip", file=sys.stderr, disable=quiet) as bar:
        data = {split: ClipQuestions.load(folder / "clips" / split, processor, on_clip=bar.update) for split in counts}
    clock.lap("load")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = Qwen3VL(model_config(processor.tokenizer))
    finetune(
        model,
        replace(data["train"].pieces(2), views=EYES_VIEWS),
        replace(data["validation"].pieces(2), views=(View(conversations_about(WORDS, 1)),)),
        eyes,
        objective=BagOfWords(without=_every_answer_s_end(processor.tokenizer)),
        augment=varied,
        folder=folder / EYES_FOLDER,
        on_step=on_step,
        quiet=quiet,
    )
    clock.lap("eyes")
    history = finetune(
        model,
        replace(data["train"], views=VIEWS),
        replace(data["validation"], views=(View(tuple(_first_wordings())),)),
        training,
        objective=NextToken(measured_at_once=90),
        augment=varied,
        folder=folder,
        on_step=lambda step: on_step(eyes.steps + step),
        quiet=quiet,
    )
    clock.lap("train")
    frozen = data["test"].changed(lambda frames: frames[:1].expand_as(frames))
    total = (len(QUESTIONS) + 1) * counts["test"]
    with tqdm(total=total, desc="ask", unit="answer", file=sys.stderr, disable=quiet) as bar:
        answers = ask(model, data["test"], on_batch=bar.update)
        still = ask(model, frozen, ["motion"], on_batch=bar.update)
    clock.lap("ask")
    save_model(folder, model, processor)

    metrics = {
        "seed": training.seed,
        "clips": counts,
        "weights": sum(weight.numel() for weight in model.parameters()),
        "vocabulary": processor.tokenizer.vocab_size,
        "exact": exact_shares(answered for answered in answers if not answered.held_out),
        "unseen_combinations": exact_shares(answered for answered in answers if answered.held_out),
        "cases": {case: exact_shares(a for a in answers if a.case == case and not a.held_out) for case in CASES},
        "frozen": _frozen(still),
    }
    lines = [json.dumps(asdict(answered)) + "\n" for answered in answers]
    write_text(folder / "answers.jsonl", "".join(lines))
    _Report(folder, model, training, data["test"], answers, still, history, metrics).write()
    clock.lap("report")
    metrics["seconds"] = clock.laps
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    if not quiet:
        print(_summary(folder, metrics, answers))
    return metrics


def _every_answer_s_end(tokenizer: BytePair) -> tuple[int, ...]:
    return tuple(tokenizer.encode(MESSAGE_END + "\n"))


def _first_wordings() -> list[tuple[Turn, ...]]:
    return [(Turn(about, wordings[0]),) for about, wordings in QUESTIONS.items()]


def save_model(folder: str | os.PathLike, model: Qwen3VL, processor: Processor) -> None:
    """Write a folder of the published kind: whoever reads those can ask this model.

    Args:
        folder: made if it does not exist.
        model: its weights and numbers.
        processor: its tokenizer, and how clips are cut.
    """
    processor.save(folder)
    tokenizer = processor.tokenizer
    stops = {"eos_token_id": tokenizer.token_id(MESSAGE_END), "pad_token_id": processor.pad_token_id}
    write_text(Path(folder) / GENERATION, json.dumps(stops | {"do_sample": False}, indent=2) + "\n")
    save_pretrained(model, folder)


def _frozen(still: Sequence[Answered]) -> dict[str, float | bool]:
    """Of clips whose first frame stands still, nobody can tell the motion: one in four, give or take."""
    n, chance = len(still), 1 / len(MOTIONS)
    # Three standard errors of a share of n clips, with two clips more on each side (Agresti and Coull 1998).
    share = (chance * n + 2) / (n + 4)
    slack = 3 * math.sqrt(share * (1 - share) / n)
    obtained = exact_shares(still)["motion"]
    return {
        "motion": obtained, "low": chance - slack, "high": chance + slack,
        "as_expected": chance - slack <= obtained <= chance + slack,
    }  # fmt: skip


def _summary(folder: Path, metrics: dict, answers: Sequence[Answered]) -> str:
    frozen, seconds = metrics["frozen"], metrics["seconds"]
    rows = [("exact answers about", "held-out clips", "unseen combinations")]
    rows += [
        (name, f"{share:.1%}", f"{metrics['unseen_combinations'].get(about, math.nan):.1%}")
        for about, share in metrics["exact"].items()
        for name in [about if about != "caption" else "all three, in a sentence"]
    ]
    example = next((a for a in answers if a.about == "motion" and a.exact), answers[0])
    clip = folder / "clips" / "test" / example.file
    lines = [
        f"A Qwen3-VL of {metrics['weights']:,} weights learnt to answer questions about "
        f"{metrics['clips']['train']} mp4 files\nin {seconds['eyes'] + seconds['train']:.0f} s "
        f"({sum(seconds.values()):.0f} s with drawing, loading, asking and this report).",
        "",
        *(f"  {name:<28}{seen:>16}{unseen:>22}" for name, seen, unseen in rows),
        f"  {'motion of frozen clips':<28}{frozen['motion']:>16.1%}    (chance is {1 / len(MOTIONS):.0%})",
        "",
        f"Open {folder / 'report.html'} in a browser: clips, questions and answers. Then ask it yourself",
        f'  minivid describe {clip} --checkpoint {folder} --prompt "{example.question}"',
    ]
    return "\n".join(lines)


@dataclass
class _Report:
    """report.html: one page with its pictures inside, for someone who sees all this for the first time."""

    folder: Path
    model: Qwen3VL
    training: FinetuneConfig
    test: ClipQuestions
    answers: list[Answered]
    still: list[Answered]
    history: History
    metrics: dict

    def write(self) -> None:
        """Draw every picture, save each in pictures/ too, and write the page."""
        (self.folder / "pictures").mkdir(exist_ok=True)
        m, wrong = self.metrics, [answered for answered in self.answers if not answered.exact]
        percent = {about: f"{share:.1%}" for about, share in m["exact"].items()}
        frozen = m["frozen"]
        body = Template(_BODY).substitute(
            percent,
            weights=f"{m['weights']:,}",
            vocabulary=m["vocabulary"],
            **m["clips"],
            clips_asked=self._clips("asked", self._first_of_each_case(), "clips it has never seen, and what it says"),
            curves=self._curves(),
            shares=report.rows(
                [about, share, f"{m['unseen_combinations'].get(about, math.nan):.1%}"]
                + [f"{m['cases'][case].get(about, math.nan):.1%}" for case in CASES]
                for about, share in percent.items()
            ),
            cases="".join(f"<th>{case}</th>" for case in CASES),
            frozen=f"{frozen['motion']:.1%}",
            expected=f"{frozen['low']:.0%} to {frozen['high']:.0%}",
            verdict="as expected" if frozen["as_expected"] else "not as expected",
            prompt=html.escape(self._prompt()),
            wrong=f"{len(wrong)} of {len(self.answers)} answers are not exact. The first of them:"
            if wrong
            else "Every answer is exact, this time. Another <code>--seed</code> may differ.",
            mistakes=report.rows(
                [a.file, a.case, a.question, a.answer, a.right, "yes" if a.held_out else "no"] for a in wrong[:12]
            ),
            folder=html.escape(str(self.folder)),
            example=html.escape(self.test.labels[0].file),
            settings=html.escape(self._settings()),
        )
        report.write_page(self.folder / "report.html", "minivid demo: what is to be seen?", body)

    def _first_of_each_case(self) -> list[int]:
        cases = [label.description.case for label in self.test.labels]
        return [cases.index(case) for case in CASES if case in cases]

    def _clips(self, name: str, numbers: Sequence[int], title: str) -> str:
        """Clips as they are in the files, with all that was asked about them."""
        shown, texts = [], []
        for number in numbers:
            file = self.test.labels[number].file
            shown.append(load_pixels(self._path(number), ClipSettings(frames=FRAMES, height=64, width=64)).pixels)
            texts.append(
                [
                    f"{a.question}  {_shown(a.answer)}" + ("" if a.exact else f"  (right: {a.right})")
                    for a in self.answers
                    if a.file == file
                ]
            )
        figure = plots.clips_with_words(shown, texts, title=title)
        words = "; ".join(f"{self.test.labels[n].file}: {' '.join(t)}" for n, t in zip(numbers, texts, strict=True))
        return report.picture(self.folder / "pictures" / f"{name}.png", figure, words)

    def _path(self, number: int) -> Path:
        return self.folder / "clips" / "test" / self.test.labels[number].file

    def _curves(self) -> str:
        figure, axes = plots.new_figure(1, 2, width=10.0, height=3.2)
        steps, losses = self.history.curve("loss")
        smooth, mean = [], losses[0]
        for loss in losses:  # single batches jump; their running mean can be read
            mean = 0.95 * mean + 0.05 * loss
            smooth.append(mean)
        plots.curves(
            {"training (running mean)": (steps, smooth), "validation": self.history.curve("validation_loss")},
            title="the loss of answers, once the eyes know words",
            ylabel="cross-entropy (nats a token)",
            axes=axes[0, 0],
        )
        plots.curves(
            {"answers": self.history.curve("validation_exact_match")},
            title="validation: whole answers with every token right",
            ylabel="share of answers",
            axes=axes[0, 1],
        )
        axes[0, 1].set_ylim(0, 1.03)
        return report.picture(
            self.folder / "pictures" / "curves.png", figure, "Two curves over the steps: the loss, and exact answers"
        )

    def _prompt(self) -> str:
        """What the model reads when it is asked the first question, with placeholders where it sees."""
        items = test_questions(replace(self.test, clips=self.test.clips[:1]), "motion")
        ids = self.test.prompts(items)["input_ids"][0].tolist()
        return self.test.processor.tokenizer.decode(ids)

    def _settings(self) -> str:
        parts = (
            ("text", self.model.config.text_config),
            ("vision", self.model.config.vision_config),
            ("training", self.training),
            ("clip", self.test.processor.video),
        )
        return "\n".join(
            f"{kind:<9} {name} = {value}"
            for kind, settings in parts
            for name, value in asdict(settings).items()
            if value is not None
        )


def _shown(answer: str) -> str:
    """An answer as it is, or, where it holds what a font has no picture of, in escapes."""
    return answer if answer.isascii() and answer.isprintable() else ascii(answer)


_BODY = """<h1>What is to be seen?</h1>
<p class="lead">A Qwen3-VL with $weights weights watched $train short clips and learnt to answer questions about them in
words. On clips it had never seen, its answer is exact in <b>$colour</b> for the colour, <b>$shape</b> for the shape,
<b>$motion</b> for the motion, and <b>$caption</b> for all three in a sentence.</p>

<h2>What it watches, and what it says</h2>
<p>One shape moves, and the picture's opposite edges are joined: what leaves on one side comes back on the other. One
clip in five is plain, the others are hard on purpose: a noisy camera, a fence in front, a second shape that stands
still, frames at uneven times. The model gets eight frames of 32 x 32 pixels. Beside each clip: the question, and what
the model said, token by token, until it said that its answer was over.</p>
$clips_asked

<h2>What it reads</h2>
<p>Its vocabulary has $vocabulary entries: every byte, and the words of this small world. Two frames make one group;
each group is written as the second at which it is shown and four placeholders, into which go the four tokens that the
vision tower made of the group. No token of a group has seen another group, so what moved where from group to group is
for the language model to find out.</p>
<pre>$prompt</pre>

<h2>How it learns</h2>
<p>First the eyes alone learn which words belong to a clip, from two frames at a time: the words of the answers are
asked of the mean of all that they made of it, without the language model. Then the whole model is shown a clip and some
questions in some order, and is told after each token of its answers what the right token would have been. Now it must
find out what is asked, and where to look. No clip is shown twice alike: it is rolled round its joined edges, and a
fence or a shape at rest stands in front of some. The shape is asked for only of clips whose first picture stands still
or drifts at a slant, and of clips in colours that have no name; the next part says why. While it learns, $validation
other clips are put to it now and then, one question at a time. Look for the share of exact answers, which begins high
because the eyes see already.</p>
$curves

<h2>What it answers</h2>
<p>Exact means: the right words and no others. Of the $test clips, three in four show a combination of shape, colour and
motion that was in other clips, too: <i>held-out clips</i>, and each kind of them. <i>Unseen combinations</i> are the
others, such as a red circle that moves left: each of the three was seen, but never the three together. A model that
is asked for the shape of red things that move left finds out that they are never circles. That is easier than to see an
outline, it is always right while it learns, and always wrong here. So it was never asked for a shape where colour and
motion both have a name.</p>
<table><tr><th>question about</th><th>held-out clips</th><th>unseen combinations</th>$cases</tr>
$shares
</table>
<p>Does it look at the motion? With the first frame in place of all eight, nobody can tell where the shape goes:
expected are $expected right answers, obtained were $frozen, $verdict.</p>

<h2>Where it is wrong</h2>
<p>$wrong</p>
<table><tr><th>clip</th><th>kind</th><th>question</th><th>answer</th><th>right</th><th>unseen</th></tr>
$mistakes
</table>

<h2>Go on</h2>
<ul>
<li><code>minivid describe $folder/clips/test/$example --checkpoint $folder --prompt "What colour is it?"</code>: ask it
about any of the clips, in your own words. It knows nothing but this small world, so be kind.</li>
<li><code>minivid demo --task caption --seed 1</code>: other clips, other first weights.</li>
<li><code>jupyter lab notebooks</code>: the course, which builds this model from its parts.</li>
</ul>
<details><summary>Every setting of this run</summary><pre>$settings</pre></details>"""
