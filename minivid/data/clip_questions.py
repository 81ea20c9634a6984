"""Questions about the generated clips, and their answers: what a model learns from that is to answer in words."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import cycle, islice, permutations, zip_longest
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minivid.data.conversations import Inputs
from minivid.data.moving_shapes import COLOURS, MOTIONS, SHAPES, WORKERS, LabelledClip, MovingShape, read_labels
from minivid.data.processor import Processor
from minivid.text.byte_pair import BytePair
from minivid.text.chat import ANSWER_HEADER, IGNORED, MESSAGE_END, answer_labels, chat_text, expand, timestamps
from minivid.video.clip import load_clip
from minivid.video.patches import patchify

QUESTIONS = {
    "colour": (
        "What colour is it?",
        "Which colour does the moving shape have?",
        "What color is it?",
        "What is the colour of the shape that moves?",
    ),
    "shape": (
        "What shape is it?",
        "What shape moves?",
        "Which shape is moving?",
        "What is it that moves?",
    ),
    "motion": (
        "Which way does it move?",
        "Where does it move?",
        "In which direction does the shape move?",
        "What is the direction of its motion?",
    ),
    "caption": (
        "Describe the clip.",
        "What happens?",
        "Describe the video.",
        "What do you see?",
    ),
}
"""What is asked about: in which words."""


def answer(about: str, clip: MovingShape) -> str:
    """The right answer to a question about a clip: one word, or for "caption" a sentence.

    Args:
        about: one of QUESTIONS.
        clip: what was drawn. A second shape, which is at rest, is not asked about.

    Raises:
        ValueError: if nothing is asked about that.
    """
    if about not in QUESTIONS:
        raise ValueError(f"about: {about!r} is none of {', '.join(QUESTIONS)}")
    return getattr(clip, about)


def vocabulary_texts() -> Iterator[str]:
    """All questions and all answers, and what a chat puts around them: what a tokenizer of its own is trained on."""
    yield from ("user\n", "assistant\n")
    yield from (f"<{tenths / 10:.1f} seconds>" for tenths in range(20))
    for questions in QUESTIONS.values():
        yield from questions
    for words in (COLOURS, SHAPES, MOTIONS):
        yield from words
    for colour in COLOURS:
        for shape in SHAPES:
            for motion in MOTIONS:
                yield f"a {colour} {shape} moves {motion}"


class Turn(NamedTuple):
    """A question.

    Attributes:
        about: one of QUESTIONS.
        question: in words.
    """

    about: str
    question: str


class Asked(NamedTuple):
    """Some questions about one clip, one after the other.

    Attributes:
        clip: number of the clip.
        turns: at least one.
        unasked: words that count in no answer.
    """

    clip: int
    turns: tuple[Turn, ...]
    unasked: tuple[str, ...] = ()


def single_questions() -> tuple[tuple[Turn, ...], ...]:
    """Every question in each of its wordings, alone."""
    return tuple((Turn(about, question),) for about, wordings in QUESTIONS.items() for question in wordings)


def conversations_about(abouts: Sequence[str], count: int) -> tuple[tuple[Turn, ...], ...]:
    """Some conversations with one question about each thing, in every order and in changing words.

    Args:
        abouts: some of QUESTIONS.
        count: how many conversations.
    """
    orders = islice(cycle(permutations(abouts)), count)
    return tuple(
        tuple(Turn(about, QUESTIONS[about][(number + abouts.index(about)) % len(QUESTIONS[about])]) for about in order)
        for number, order in enumerate(orders)
    )


Change = Callable[[Tensor, MovingShape, torch.Generator], Tensor]


@dataclass(frozen=True)
class View:
    """A way to show every clip, and what is asked about it then.

    Attributes:
        conversations: the questions.
        change: makes of a clip's frames, of what is drawn in them, and of a source of random numbers what is shown;
            None = they are shown as they are.
        looks: how often each clip is there with each conversation, changed in other random ways each time.
        unasked: words that answers hold, but that are not to be learnt from this view.

    Raises:
        ValueError: if there is no conversation, or no look.
    """

    conversations: tuple[tuple[Turn, ...], ...] = single_questions()
    change: Change | None = None
    looks: int = 1
    unasked: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.conversations or self.looks < 1:
            raise ValueError(
                f"{len(self.conversations)} conversations and looks={self.looks}: expected at least 1 of each"
            )

    def __len__(self) -> int:
        """How many items each clip becomes."""
        return len(self.conversations) * self.looks


@dataclass(frozen=True)
class ShownClip:
    """A clip as a model gets it.

    Attributes:
        frames: normalised to -1..1.
        seconds: when each frame group is shown, as the prompt says it.
    """

    frames: Float[Tensor, "t c h w"]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class ClipQuestions:
    """Every clip in every view with every conversation about it, and the right answers.

    Items are a clip's frames and what is asked about it, so that what changes frames, such as a roll, can stand
    between; `collate` makes of some of them what a model is called with, and labels. All clips have one size.

    Attributes:
        clips: as a model gets them.
        labels: what was drawn in each.
        processor: the model's.
        views: how each is shown, and what is asked then; by default as it is, and every question alone.
    """

    clips: Sequence[ShownClip]
    labels: Sequence[LabelledClip]
    processor: Processor
    views: tuple[View, ...] = (View(),)

    @classmethod
    def load(
        cls, folder: str | os.PathLike, processor: Processor, *, on_clip: Callable[[], object] | None = None
    ) -> "ClipQuestions":
        """Decode every clip of a folder, in the order of its labels.jsonl.

        Args:
            folder: what make_clips wrote.
            processor: the model's: which frames, at what size.
            on_clip: called after each clip, for a progress bar.

        Raises:
            VideoError: if a file cannot be read.
            FileNotFoundError, ValueError: as in `minivid.data.moving_shapes.read_labels`.
        """
        labels = read_labels(folder)

        def load(label: LabelledClip) -> ShownClip:
            clip = load_clip(Path(folder) / label.file, processor.video)
            tau = processor.temporal_patch_size
            return ShownClip(
                clip.frames, tuple(timestamps(clip.indices.tolist(), clip.info.fps, temporal_patch_size=tau))
            )

        clips = []
        with ThreadPoolExecutor(WORKERS) as pool:
            for clip in pool.map(load, labels):
                clips.append(clip)
                if on_clip is not None:
                    on_clip()
        return cls(clips, labels, processor)

    def __len__(self) -> int:
        return len(self.clips) * sum(map(len, self.views))

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "t c h w"], Asked]:
        clip, place = divmod(index, sum(map(len, self.views)))
        if not 0 <= clip < len(self.clips):
            raise IndexError(f"item {index} of {len(self)}")
        for view in self.views:
            if place < len(view):
                break
            place -= len(view)
        frames = self.clips[clip].frames
        if view.change is not None:
            # The same item is the same whenever it is taken.
            frames = view.change(frames, self.labels[clip].description, torch.Generator().manual_seed(index))
        return frames, Asked(clip, view.conversations[place // view.looks], view.unasked)

    def answers(self, asked: Asked) -> tuple[str, ...]:
        """The right answers, one a turn.

        Args:
            asked: of an item.
        """
        return tuple(answer(turn.about, self.labels[asked.clip].description) for turn in asked.turns)

    def changed(self, change: Callable[[Tensor], Tensor]) -> "ClipQuestions":
        """The same questions about changed clips.

        Args:
            change: gives frames for frames.
        """
        clips = [replace(clip, frames=change(clip.frames)) for clip in self.clips]
        return replace(self, clips=clips)

    def pieces(self, frames: int) -> "ClipQuestions":
        """The same questions about pieces of the clips, one after the other; what is left over at an end is left out.

        Args:
            frames: of each piece, whole frame groups.

        Raises:
            ValueError: if a frame group would be cut.
        """
        tau = self.processor.temporal_patch_size
        if frames < 1 or frames % tau:
            raise ValueError(f"pieces of {frames} frames are no whole frame groups, which have {tau}")
        clips, labels = [], []
        for clip, label in zip(self.clips, self.labels, strict=True):
            for first in range(0, len(clip.frames) - frames + 1, frames):
                seconds = clip.seconds[first // tau : (first + frames) // tau]
                clips.append(ShownClip(clip.frames[first : first + frames], seconds))
                labels.append(label)
        return replace(self, clips=clips, labels=labels)

    def collate(self, items: Sequence[tuple[Float[Tensor, "t c h w"], Asked]]) -> tuple[Inputs, Int64[Tensor, "b n"]]:
        """Conversations with their answers, the short ones filled up on the right, and which tokens are answers.

        What follows a token does not change what a causal model makes of it, so that no attention mask is needed.

        Args:
            items: some of this set.

        Returns:
            input_ids, pixel_values_videos and video_grid_thw; the ids again where they count, elsewhere -100.
        """
        rows = [self._written(asked, self.answers(asked)) for _, asked in items]
        ids, marks = zip(*rows, strict=True)
        input_ids = pad_sequence(ids, batch_first=True, padding_value=self.processor.pad_token_id)
        labels = pad_sequence(marks, batch_first=True, padding_value=IGNORED)
        return {"input_ids": input_ids, **self._patches([frames for frames, _ in items])}, labels

    def prompts(self, items: Sequence[tuple[Float[Tensor, "t c h w"], Asked]]) -> Inputs:
        """Conversations up to where the last answer begins, the short ones filled up on the left.

        Args:
            items: some of this set.

        Returns:
            What a model is called with to go on, attention_mask among it.
        """
        rows = [self._written(asked, self.answers(asked)[:-1])[0] for _, asked in items]
        left = {"batch_first": True, "padding_side": "left"}
        input_ids = pad_sequence(rows, padding_value=self.processor.pad_token_id, **left)
        mask = pad_sequence([torch.ones_like(ids) for ids in rows], padding_value=0, **left)
        return {
            "input_ids": input_ids, "attention_mask": mask, **self._patches([frames for frames, _ in items])
        }  # fmt: skip

    def _patches(self, clips: Sequence[Tensor]) -> Inputs:
        patches, grid = patchify(
            # One long clip: no frame group holds frames of two, because each has whole groups.
            torch.cat([_whole_groups(clip, self.processor.temporal_patch_size) for clip in clips]),
            patch_size=self.processor.patch_size,
            temporal_patch_size=self.processor.temporal_patch_size,
            spatial_merge_size=self.processor.spatial_merge_size,
        )
        each = torch.tensor([grid.gt // len(clips), grid.gh, grid.gw])
        return {"pixel_values_videos": patches, "video_grid_thw": each.expand(len(clips), 3)}

    def _written(self, asked: Asked, answers: tuple[str, ...]) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        clip = self.clips[asked.clip]
        questions = tuple(turn.question for turn in asked.turns)
        size = tuple(clip.frames.shape[-2:])
        return written(self.processor, questions, answers, clip.seconds, size, asked.unasked)


@lru_cache(maxsize=100_000)
def written(
    processor: Processor,
    questions: tuple[str, ...],
    answers: tuple[str, ...],
    seconds: tuple[float, ...],
    size: tuple[int, int],
    unasked: tuple[str, ...] = (),
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """The tokens of a conversation about one clip, and which of them are answers.

    Args:
        processor: the model's.
        questions: the clip stands before the first.
        answers: one for each question, or one less: then the tokens end where the last answer begins.
        seconds: of the clip's frame groups.
        size: height and width of its frames.
        unasked: words, each one token, that count in no answer.

    Returns:
        The ids; the ids again where they count, elsewhere -100. The same tensors for the same call: do not change them.

    Raises:
        ValueError: if an unasked word is not one token.
    """
    messages = []
    for question, reply in zip_longest(questions, answers):
        content = [{"type": "text", "text": question}]
        messages.append({"role": "user", "content": content if messages else [{"type": "video"}, *content]})
        if reply is not None:
            messages.append({"role": "assistant", "content": reply})
    text = expand(
        chat_text(messages, add_generation_prompt=len(answers) < len(questions)),
        video_grids=[(len(seconds), size[0] // processor.patch_size, size[1] // processor.patch_size)],
        video_seconds=[seconds],
        spatial_merge_size=processor.spatial_merge_size,
        nested=processor.nested,
    )
    tokenizer = processor.tokenizer
    ids = tokenizer.encode(text)
    header, end = tokenizer.encode(ANSWER_HEADER), tokenizer.token_id(MESSAGE_END)
    labels = answer_labels(ids, header=header, end=end)
    dropped = {_only_token(tokenizer, spelt) for word in unasked for spelt in (word, f" {word}")}
    return torch.tensor(ids), torch.tensor([IGNORED if label in dropped else label for label in labels])


def _only_token(tokenizer: BytePair, word: str) -> int:
    ids = tokenizer.encode(word)
    if len(ids) != 1:
        raise ValueError(f"unasked: {word!r} is {len(ids)} tokens, expected one")
    return ids[0]


def _whole_groups(frames: Float[Tensor, "t c h w"], temporal_patch_size: int) -> Float[Tensor, "filled c h w"]:
    missing = -len(frames) % temporal_patch_size
    return torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)]) if missing else frames
