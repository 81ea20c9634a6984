from collections import Counter
from dataclasses import replace
from itertools import permutations

import pytest
import torch

from minivid.data.clip_questions import (
    QUESTIONS,
    Asked,
    ClipQuestions,
    Turn,
    View,
    answer,
    conversations_about,
    single_questions,
    vocabulary_texts,
)
from minivid.data.conversations import prepare
from minivid.data.moving_shapes import SHAPES, make_clips, roll
from minivid.data.processor import PAD, Processor
from minivid.text.byte_pair import BytePair
from minivid.text.chat import IMAGE_PAD, MESSAGE_END, MESSAGE_START, VIDEO_PAD, VISION_END, VISION_START
from minivid.video.clip import ClipSettings

SPECIAL = (PAD, MESSAGE_START, MESSAGE_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)
CUT = {"patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2}
AREA = 16 * 16


@pytest.fixture(scope="module")
def processor():
    return Processor(
        BytePair.train(vocabulary_texts(), 300, special_tokens=SPECIAL),
        ClipSettings(**CUT, min_pixels=AREA, max_pixels=AREA),
        ClipSettings(**CUT, frames=6, repeat_short=True, min_pixels=AREA, total_pixels=3 * AREA),
    )


@pytest.fixture(scope="module")
def data(processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    labels = make_clips(folder, 5, seed=1, split="test", side=16)
    seen = []
    found = ClipQuestions.load(folder, processor, on_clip=lambda: seen.append(1))
    assert found.labels == labels and len(seen) == 5
    return folder, found


def test_every_question_has_one_answer_that_says_what_was_drawn(data):
    _, questions = data
    for label in questions.labels:
        clip = label.description
        assert [answer(about, clip) for about in ("colour", "shape", "motion")] == [
            clip.colour,
            clip.shape,
            clip.motion,
        ]
        assert answer("caption", clip) == f"a {clip.colour} {clip.shape} moves {clip.motion}"
    with pytest.raises(ValueError, match="about: 'size' is none of colour, shape, motion, caption"):
        answer("size", questions.labels[0].description)


def test_no_two_things_are_asked_in_the_same_words():
    wordings = [question for questions in QUESTIONS.values() for question in questions]
    assert len(set(wordings)) == len(wordings) == len(single_questions())
    assert [turn.question for (turn,) in single_questions()] == wordings
    texts = list(vocabulary_texts())
    assert set(wordings) < set(texts) and "a green triangle moves up" in texts and "yellow" in texts
    assert len(texts) == 2 + 20 + len(wordings) + 4 + 3 + 4 + 48


def test_items_are_every_clip_with_every_conversation(data):
    _, questions = data
    assert len(questions) == 5 * len(single_questions())
    frames, asked = questions[len(single_questions()) + 2]
    assert frames is questions.clips[1].frames
    assert asked == Asked(1, (Turn("colour", QUESTIONS["colour"][2]),))
    with pytest.raises(IndexError, match=f"item {len(questions)} of {len(questions)}"):
        questions[len(questions)]


def test_conversations_about_some_things_ask_each_of_them_once_in_every_order_and_wording():
    found = conversations_about(("shape", "motion", "caption"), 12)
    assert len(set(found)) == len(found) == 12
    assert {tuple(turn.about for turn in turns) for turns in found} == set(permutations(("shape", "motion", "caption")))
    for about in ("shape", "motion", "caption"):
        said = Counter(turn.question for turns in found for turn in turns if turn.about == about)
        assert said == dict.fromkeys(QUESTIONS[about], 3)


def test_views_follow_each_other_and_each_look_is_another_one(data):
    _, questions = data
    mark = lambda frames, clip, rng: torch.full_like(frames, torch.rand((), generator=rng).item())  # noqa: E731
    asks = conversations_about(("shape", "motion"), 2)
    views = (View(asks[:1], unasked=("left",)), View(asks, mark, looks=3))
    seen = replace(questions, views=views)
    assert [len(view) for view in views] == [1, 6] and len(seen) == 5 * 7
    items = [seen[i] for i in range(7, 14)]  # of the second clip
    assert {asked.clip for _, asked in items} == {1}
    assert items[0][0] is questions.clips[1].frames and items[0][1] == Asked(1, asks[0], ("left",))
    assert [asked for _, asked in items[1:]] == [Asked(1, asks[0])] * 3 + [Asked(1, asks[1])] * 3
    marks = [frames.flatten()[0].item() for frames, _ in items[1:]]
    assert len(set(marks)) == 6
    assert [seen[i][0].flatten()[0].item() for i in range(8, 14)] == marks  # the same again
    with pytest.raises(IndexError, match="item 35 of 35"):
        seen[35]


@pytest.mark.parametrize(
    ("options", "numbers"), [({"looks": 0}, "16 conv.*looks=0"), ({"conversations": ()}, "0 conv")]
)
def test_a_view_without_anything_to_ask_is_refused(options, numbers):
    with pytest.raises(ValueError, match=f"{numbers}.*expected at least 1 of each"):
        View(**options)


def test_a_change_is_told_what_is_drawn(data):
    _, questions = data
    told = []
    change = lambda frames, clip, rng: told.append(clip) or frames  # noqa: E731
    seen = replace(questions, views=(View(conversations_about(("shape",), 1), change),))
    for i in range(5):
        seen[i]
    assert told == [label.description for label in questions.labels]


def test_pieces_are_clips_with_their_own_seconds(data, processor):
    _, questions = data
    pieces = questions.pieces(2)
    assert len(pieces.clips) == len(pieces.labels) == 3 * len(questions.clips)
    for number, (piece, label) in enumerate(zip(pieces.clips, pieces.labels, strict=True)):
        clip, part = questions.clips[number // 3], number % 3
        assert torch.equal(piece.frames, clip.frames[2 * part : 2 * part + 2])
        assert piece.seconds == clip.seconds[part : part + 1] and label == questions.labels[number // 3]
    inputs, _ = pieces.collate([pieces[0], pieces[-1 + len(pieces)]])
    assert inputs["video_grid_thw"].tolist() == [[1, 4, 4]] * 2
    # As many placeholders as tokens come of it: the text says what is seen.
    placeholder = processor.tokenizer.token_id(VIDEO_PAD)
    assert (inputs["input_ids"] == placeholder).sum(1).tolist() == [4, 4]
    assert [len(clip.frames) for clip in questions.pieces(4).clips] == [4] * 5  # two of six frames are left over
    for frames in (3, 0):
        with pytest.raises(ValueError, match=f"pieces of {frames} frames are no whole frame groups, which have 2"):
            questions.pieces(frames)


def test_unasked_words_stand_in_the_answer_and_do_not_count(data, processor):
    tokenizer = BytePair.train(vocabulary_texts(), 448, special_tokens=SPECIAL)  # every word of the task is one token
    processor = Processor(tokenizer, processor.image, processor.video)
    questions = replace(data[1], processor=processor)
    frames, clip = questions.clips[0].frames, questions.labels[0].description
    turns = (Turn("shape", "What shape is it?"), Turn("caption", "What happens?"))
    (all_ids, all_labels), (ids, labels) = (
        (inputs["input_ids"], labels)
        for inputs, labels in (questions.collate([(frames, Asked(0, turns, left))]) for left in ((), SHAPES))
    )
    assert torch.equal(ids, all_ids)
    dropped = (labels != all_labels).nonzero()[:, 1]
    assert [processor.tokenizer.decode([all_labels[0, i].item()]) for i in dropped] == [clip.shape, f" {clip.shape}"]
    assert (labels[0, dropped] == -100).all()
    with pytest.raises(ValueError, match=r"unasked: 'perpendicular' is \d+ tokens, expected one"):
        questions.collate([(frames, Asked(0, turns, ("perpendicular",)))])


def test_a_prompt_is_what_describing_the_file_would_read(data, processor):
    folder, questions = data
    for number, label in enumerate(questions.labels):
        text = QUESTIONS["motion"][number % 4]
        asked = Asked(number, (Turn("motion", text),))
        got = questions.prompts([(questions.clips[number].frames, asked)])
        content = [{"type": "video", "video": str(folder / label.file)}, {"type": "text", "text": text}]
        want = prepare([{"role": "user", "content": content}], processor)
        assert set(got) == set(want)
        assert all(torch.equal(got[name], want[name]) for name in want)


def test_answers_count_with_what_ends_them_and_nothing_else_does(data, processor):
    _, questions = data
    turns = (Turn("caption", "What happens?"), Turn("shape", "What shape is it?"))
    items = [(questions.clips[number].frames, Asked(number, turns[: 1 + number % 2])) for number in (0, 1)]
    inputs, labels = questions.collate(items)
    tokenizer = processor.tokenizer
    for row, (_, asked) in enumerate(items):
        counted = labels[row][labels[row] != -100].tolist()
        said = [f"{text}{MESSAGE_END}\n" for text in questions.answers(asked)]
        assert tokenizer.decode(counted) == "".join(said)
        kept = labels[row] != -100
        assert torch.equal(inputs["input_ids"][row][kept], labels[row][kept])
    # The short row is filled up on the right, and nothing there counts.
    pads = inputs["input_ids"] == processor.pad_token_id
    assert pads[0].any() and not pads[1].any() and (pads[0].sort().values == pads[0]).all()


def test_prompts_end_where_the_last_answer_begins_filled_up_on_the_left(data, processor):
    _, questions = data
    turns = (Turn("caption", "What happens?"), Turn("shape", "What shape is it?"))
    items = [(questions.clips[number].frames, Asked(number, turns[: 1 + number % 2])) for number in (0, 1)]
    inputs = questions.prompts(items)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    for row, (_, asked) in enumerate(items):
        text = processor.tokenizer.decode(ids[row][mask[row] == 1].tolist())
        assert text.endswith(f"{asked.turns[-1].question}{MESSAGE_END}\n{MESSAGE_START}assistant\n")
        assert text.count(MESSAGE_START) == 2 * len(asked.turns)
    assert (ids[mask == 0] == processor.pad_token_id).all() and mask[:, -1].all() and not mask[0, 0]


def test_a_batch_holds_the_patches_of_its_clips_one_after_the_other(data):
    _, questions = data
    items = [questions[i] for i in (0, 40, 70)]
    inputs, _ = questions.collate(items)
    alone = [questions.collate([item])[0]["pixel_values_videos"] for item in items]
    assert torch.equal(inputs["pixel_values_videos"], torch.cat(alone))
    assert inputs["video_grid_thw"].tolist() == [[3, 4, 4]] * 3


def test_changed_clips_keep_their_questions_and_answers(data):
    _, questions = data
    rng = torch.Generator().manual_seed(0)
    rolled = questions.changed(lambda frames: roll(frames, rng))
    assert rolled.labels is questions.labels and len(rolled) == len(questions)
    before, after = questions.clips[3].frames, rolled.clips[3].frames
    assert not torch.equal(before, after) and torch.equal(before.flatten().sort().values, after.flatten().sort().values)


def test_an_odd_last_frame_is_shown_twice(data):
    _, questions = data
    clip = questions.clips[0]
    odd = replace(questions, clips=[replace(clip, frames=clip.frames[:5])])
    even = replace(questions, clips=[replace(clip, frames=clip.frames[[0, 1, 2, 3, 4, 4]])])
    (one, _), (two, _) = (some.collate([some[0]]) for some in (odd, even))
    assert torch.equal(one["pixel_values_videos"], two["pixel_values_videos"])
    assert torch.equal(one["input_ids"], two["input_ids"])
