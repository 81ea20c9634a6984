"""Questions about the generated clips, and their answers: what a model learns from that is to answer in words."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minivid.data.conversations import Inputs
from minivid.data.moving_shapes import COLOURS, MOTIONS, SHAPES, WORKERS, LabelledClip, MovingShape, read_labels
from minivid.data.processor import Processor
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
    """

    clip: int
    turns: tuple[Turn, ...]


def single_questions() -> tuple[tuple[Turn, ...], ...]:
    """Every question in each of its wordings, alone."""
    return tuple((Turn(about, question),) for about, wordings in QUESTIONS.items() for question in wordings)


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
    """Every clip with every conversation about it, and the right answers.

    Items are a clip's frames and what is asked about it, so that what changes frames, such as a roll, can stand
    between; `collate` makes of some of them what a model is called with, and labels. All clips have one size.

    Attributes:
        clips: as a model gets them.
        labels: what was drawn in each.
        processor: the model's.
        conversations: the questions of each.
    """

    clips: Sequence[ShownClip]
    labels: Sequence[LabelledClip]
    processor: Processor
    conversations: tuple[tuple[Turn, ...], ...] = single_questions()

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
        return len(self.clips) * len(self.conversations)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "t c h w"], Asked]:
        clip, conversation = divmod(index, len(self.conversations))
        if not 0 <= clip < len(self.clips):
            raise IndexError(f"item {index} of {len(self)}")
        return self.clips[clip].frames, Asked(clip, self.conversations[conversation])

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
        return written(self.processor, questions, answers, clip.seconds, tuple(clip.frames.shape[-2:]))


@lru_cache(maxsize=100_000)
def written(
    processor: Processor,
    questions: tuple[str, ...],
    answers: tuple[str, ...],
    seconds: tuple[float, ...],
    size: tuple[int, int],
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """The tokens of a conversation about one clip, and which of them are answers.

    Args:
        processor: the model's.
        questions: the clip stands before the first.
        answers: one for each question, or one less: then the tokens end where the last answer begins.
        seconds: of the clip's frame groups.
        size: height and width of its frames.

    Returns:
        The ids; the ids again where they count, elsewhere -100. The same tensors for the same call: do not change them.
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
    return torch.tensor(ids), torch.tensor(answer_labels(ids, header=header, end=end))


def _whole_groups(frames: Float[Tensor, "t c h w"], temporal_patch_size: int) -> Float[Tensor, "filled c h w"]:
    missing = -len(frames) % temporal_patch_size
    return torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)]) if missing else frames
