import copy
import json
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from minivid.classroom.evidence import holds
from minivid.shapes import ShapeError
from minivid.text.chat import (
    ANSWER_HEADER,
    Part,
    answer_labels,
    chat_text,
    check_media,
    check_placeholders,
    expand,
    group_seconds,
    parts,
    timestamps,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "chat.json").read_text(encoding="utf-8"))

on_chat = pytest.mark.law("chat_text")
on_timestamps = pytest.mark.law("timestamps")
on_expand = pytest.mark.law("expand")
on_labels = pytest.mark.law("answer_labels")

IMAGE, VIDEO = "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"

# ---- what is said


words = st.text(st.sampled_from("ab 0:\n<é这"), max_size=4)
shown = {
    "image": st.sampled_from([{"type": "image"}, {"image": "a.png"}, {"type": "image", "image": "b.png"}]),
    "video": st.sampled_from([{"type": "video"}, {"video": "a.mp4", "fps": 2}, {"type": "video", "video": "b.mp4"}]),
    "text": words.flatmap(lambda text: st.sampled_from([{"type": "text", "text": text}, {"text": text}])),
}
pieces = st.sampled_from(list(shown)).flatmap(shown.get)
contents = words | st.lists(pieces, max_size=4)
turns = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": contents})
conversations = st.lists(turns, max_size=4)


def kind_of(part):
    return next(kind for kind in ("image", "video", "text") if part.get("type") == kind or kind in part)


def said(content):
    """The content of one turn as it is written, taken apart by the test itself."""
    if isinstance(content, str):
        return content
    return "".join({"image": IMAGE, "video": VIDEO}.get(kind_of(part), part.get("text", "")) for part in content)


def gives(got, want, claim, **case):
    holds(got == want, claim, **case, got=got, want=want)


@on_chat
@given(turns)
def test_a_turn_is_its_role_and_its_content_between_start_and_end(impl, message):
    """A turn is `<|im_start|>`, its role, a new line, its content, `<|im_end|>` and a new line."""
    want = f"<|im_start|>{message['role']}\n{said(message['content'])}<|im_end|>\n"
    gives(impl.chat_text([message]), want, "a turn is written in another way", messages=[message])


@on_chat
@given(conversations, conversations)
def test_turns_follow_each_other_without_anything_between(impl, earlier, later):
    """Two conversations one after the other are written one after the other."""
    got, want = impl.chat_text(earlier + later), impl.chat_text(earlier) + impl.chat_text(later)
    gives(got, want, "the turns of two conversations differ from those of each", messages=earlier + later)


@on_chat
@given(conversations, st.booleans())
def test_a_generation_prompt_is_the_beginning_of_an_answer(impl, messages, numbered):
    """With a generation prompt the text ends with the beginning of an answer, and is otherwise the same."""
    without = impl.chat_text(messages, add_vision_id=numbered)
    got = impl.chat_text(messages, add_generation_prompt=True, add_vision_id=numbered)
    claim = "the text with a generation prompt is not the text and <|im_start|>assistant"
    gives(got, without + "<|im_start|>assistant\n", claim, messages=messages)


@on_chat
@example([{"role": "user", "content": [{"video": "a.mp4"}, {"image": "a"}]}] * 2)
@given(conversations)
def test_pictures_and_clips_are_numbered_over_the_whole_conversation(impl, messages):
    """Pictures are numbered Picture 1, Picture 2, ..., and clips Video 1, Video 2, ..., over the whole conversation."""
    counts, want = {"image": 0, "video": 0}, ""
    for message in messages:
        want += f"<|im_start|>{message['role']}\n"
        for part in [{"text": message["content"]}] if isinstance(message["content"], str) else message["content"]:
            kind = kind_of(part)
            if kind != "text":
                counts[kind] += 1
                want += f"{'Picture' if kind == 'image' else 'Video'} {counts[kind]}: "
            want += said([part])
        want += "<|im_end|>\n"
    gives(impl.chat_text(messages, add_vision_id=True), want, "the numbers differ", messages=messages)


@on_chat
@given(conversations)
def test_messages_are_left_as_they_are(impl, messages):
    """The caller's messages are not changed."""
    before = copy.deepcopy(messages)
    impl.chat_text(messages, add_generation_prompt=True)
    holds(messages == before, "the messages were changed", before=before, after=messages)


@pytest.mark.parametrize("case", GOLDEN["chat_text"], ids=lambda case: case["id"])
def test_text_equals_the_published_template(case):
    options = {"add_generation_prompt": case["gen"], **case.get("template_kwargs", {})}
    assert chat_text(case["messages"], **options) == case["out"]["chat_text"]


def test_an_address_of_a_picture_may_stand_in_an_object():
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, {"text": "x"}]}
    assert chat_text([message]) == f"<|im_start|>user\n{IMAGE}x<|im_end|>\n"
    [(role, [picture, text])] = parts([message])
    assert role == "user" and picture == Part("image", "a.png", {}, "message 0, part 0")
    assert text == Part("text", "x", {}, "message 0, part 1")


def test_a_part_keeps_what_is_said_about_it():
    content = [{"type": "video", "video": "a.mp4", "fps": 2}, {"image_url": "b.png"}]
    [(_, [clip, picture])] = parts([{"role": "user", "content": content}])
    assert clip == Part("video", "a.mp4", {"fps": 2}, "message 0, part 0")
    assert picture == Part("image", "b.png", {}, "message 0, part 1")


USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    "messages, message",
    [
        (USER, "messages: a dict, expected a list of {'role': ..., 'content': ...}, one per turn"),
        ("hello", "messages: a str, expected a list of {'role': ..., 'content': ...}, one per turn"),
        (7, "messages: a int, expected a list of {'role': ..., 'content': ...}, one per turn"),
        ([USER, "hello"], "message 1: a str, expected {'role': ..., 'content': ...}"),
        ([USER, {"content": "x"}], "message 1: role None, expected one of system, user, assistant"),
        ([{"role": "robot", "content": "x"}], "message 0: role 'robot', expected one of system, user, assistant"),
        ([{"role": "user"}], "message 0 (user): no content; give a text, or a list of texts, pictures and clips"),
        ([{"role": "user", "content": 7}], "message 0 (user): content is a int, expected a text or a list"),
        (
            [{"role": "user", "content": {"text": "x"}}],
            "message 0 (user): content is a dict, expected a text or a list",
        ),
        (
            [{"role": "user", "content": [{"text": "x"}, "y"]}],
            "message 0, part 1: a str, expected {'text': ...}, {'image': ...} or the like",
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": {"tags": []}}]}],
            "message 0, part 0: 'text' is a dict, expected a string under 'text', or 'image', or 'video'",
        ),
        (
            [{"role": "user", "content": [{"type": "audio", "audio": "x"}]}],
            "message 0, part 0: only 'type', 'audio', expected a string under 'text', or 'image', or 'video'",
        ),
        (
            [{"role": "user", "content": [{}]}],
            "message 0, part 0: only {}, expected a string under 'text', or 'image', or 'video'",
        ),
    ],
)
def test_what_is_no_conversation_is_refused_by_its_place(messages, message, unchecked):
    with pytest.raises(ValueError) as error:
        chat_text(messages)
    assert str(error.value) == message


# ---- when it is shown

indices = st.lists(st.integers(0, 999), min_size=1, max_size=11)
rates = st.sampled_from([1, 10, 12.5, 24.0, 25.0, 29.97, 60])
depths = st.integers(1, 5)


def close(got, want):
    return len(got) == len(want) and all(abs(one - other) < 1e-9 for one, other in zip(got, want, strict=True))


@on_timestamps
@example([0, 31], 60, 2)
@given(indices, rates, depths)
def test_a_group_is_shown_halfway_between_its_first_and_its_last_frame(impl, frames, fps, tau):
    """A group of frames is shown halfway between its first and its last frame; the last group is filled up."""
    got = impl.timestamps(frames, fps, temporal_patch_size=tau)
    filled = frames + [frames[-1]] * (-len(frames) % tau)
    want = [(filled[i] + filled[i + tau - 1]) / 2 / fps for i in range(0, len(filled), tau)]
    case = {"frames_indices": frames, "fps": fps, "temporal_patch_size": tau}
    holds(isinstance(got, list) and close(got, want), "the seconds differ", **case, got=got, want=want)


@on_timestamps
@given(indices, rates, depths, st.integers(1, 50))
def test_frames_that_come_later_are_shown_later(impl, frames, fps, tau, later):
    """Frames that stand k numbers further on are shown k / fps seconds later."""
    got = impl.timestamps([frame + later for frame in frames], fps, temporal_patch_size=tau)
    want = [second + later / fps for second in impl.timestamps(frames, fps, temporal_patch_size=tau)]
    case = {"frames_indices": frames, "fps": fps, "temporal_patch_size": tau, "later": later}
    holds(close(got, want), "the seconds did not move by later / fps", **case, got=got, want=want)


@on_timestamps
@given(indices, depths)
def test_an_unknown_rate_is_taken_for_24(impl, frames, tau):
    """Where the rate is not known, 24 frames per second are assumed."""
    got = impl.timestamps(frames, None, temporal_patch_size=tau)
    want = impl.timestamps(frames, 24.0, temporal_patch_size=tau)
    holds(close(got, want), "fps=None differs from fps=24", frames_indices=frames, got=got, want=want)


@on_timestamps
@given(indices, rates, depths)
def test_the_numbers_of_frames_are_left_as_they_are(impl, frames, fps, tau):
    """The caller's list is not changed."""
    before = list(frames)
    impl.timestamps(frames, fps, temporal_patch_size=tau)
    holds(frames == before, "frames_indices was changed", before=before, after=frames)


@pytest.mark.parametrize("case", GOLDEN["timestamps"], ids=lambda case: case["id"])
def test_seconds_and_their_text_equal_the_published_ones(case):
    tau, grid = case["temporal_patch_size"], case["grid_thw"]
    got = timestamps(case["frames_indices"], case["fps"], temporal_patch_size=tau)
    assert got == case["out"]["timestamps"]
    text = expand("<|video_pad|>", video_grids=[grid], video_seconds=[got], spatial_merge_size=case["merge_size"])
    assert len(text) == case["out"]["text_length"] and text.count("<|video_pad|>") == case["out"]["placeholders"]
    assert case["out"]["text"] in (None, text)


def test_groups_of_two_are_the_default():
    assert timestamps([0, 31, 62], 60) == [31 / 60 / 2, 62 / 60]
    assert group_seconds([1, 4.0, 6]) == [2.5, 6.0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([0], 0), "fps=0 is not a number of frames per second above 0; give that of the file"),
        (([0], float("nan")), "fps=nan is not a number of frames per second above 0; give that of the file"),
        (([0], float("inf")), "fps=inf is not a number of frames per second above 0; give that of the file"),
        (([], 24), "frames: 0, a clip has at least one frame"),
    ],
)
def test_seconds_need_frames_and_a_rate(arguments, message):
    with pytest.raises(ValueError) as error:
        timestamps(*arguments)
    assert str(error.value) == message


def test_a_group_has_at_least_one_frame():
    with pytest.raises(ValueError, match="^temporal_patch_size=0, expected at least 1 frame in a group$"):
        timestamps([0], 24, temporal_patch_size=0)


# ---- as many placeholders as there are tokens

ONE_CLIP = {"video_grids": [(1, 2, 2)], "video_seconds": [[3.0]]}


@st.composite
def prompts(draw):
    """A text with pictures and clips in any order, their grids and seconds, and what should become of it."""
    merge = draw(st.integers(1, 3))
    text, want, nested = "", "", ""
    arguments = {"image_grids": [], "video_grids": [], "video_seconds": [], "spatial_merge_size": merge}
    for kind in draw(st.lists(st.sampled_from(["image", "video", "bare video", "text"]), min_size=1, max_size=5)):
        h, w = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        if kind == "text":
            words = draw(st.sampled_from(["a ", "<0.5 seconds>", "<|vision_start|>", "\n"]))
            text, want, nested = text + words, want + words, nested + words
        elif kind == "image":
            text += IMAGE
            arguments["image_grids"].append((1, h * merge, w * merge))
            became = "<|vision_start|>" + "<|image_pad|>" * (h * w) + "<|vision_end|>"
            want, nested = want + became, nested + became
        else:
            gt = draw(st.integers(1, 3))
            seconds = [round(draw(st.integers(0, 40)) * 0.25, 2) for _ in range(gt)]
            arguments["video_grids"].append((gt, h * merge, w * merge))
            arguments["video_seconds"].append(seconds)
            pads = "<|video_pad|>" * (h * w)
            groups = "".join(f"<{second:.1f} seconds><|vision_start|>{pads}<|vision_end|>" for second in seconds)
            bare = kind == "bare video"
            text += "<|video_pad|>" if bare else VIDEO
            want, nested = want + groups, nested + (groups if bare else f"<|vision_start|>{groups}<|vision_end|>")
    assume("<|vision_start|><|vision_start|>" not in text and "<|vision_start|><|video_pad|><0" not in text)
    return text, arguments, want, nested


@on_expand
@example((VIDEO, {"video_grids": [(1, 2, 2)], "video_seconds": [[0.25]]}, "<0.2 seconds>" + VIDEO, ""))
@example((IMAGE, {"image_grids": [(1, 4, 6)]}, IMAGE.replace("<|image_pad|>", 6 * "<|image_pad|>"), ""))
@given(prompts())
def test_each_placeholder_becomes_that_of_its_own_tokens(impl, prompt):
    """A picture becomes as many placeholders as merged tokens; a clip, triple and all, one stretch per frame group."""
    text, arguments, want, _ = prompt
    gives(impl.expand(text, **arguments), want, "the text differs", text=text, **arguments)


@on_expand
@example(
    (
        VIDEO,
        {"video_grids": [(1, 2, 2)], "video_seconds": [[3.0]]},
        "",
        f"{VIDEO[:16]}<3.0 seconds>{VIDEO}{VIDEO[-14:]}",
    )
)
@given(prompts())
def test_nested_keeps_one_more_pair_around_a_whole_clip(impl, prompt):
    """With nested=True a clip keeps the start and the end around all of its frame groups."""
    text, arguments, _, want = prompt
    gives(impl.expand(text, nested=True, **arguments), want, "the text differs", text=text, **arguments)


@on_expand
@given(st.text(st.sampled_from("ab<|>\n"), max_size=8))
def test_words_alone_stay_as_they_are(impl, text):
    """A text without pictures and clips stays as it is."""
    gives(impl.expand(text), text, "words were changed", text=text)


@pytest.mark.parametrize("case", GOLDEN["chat_text"], ids=lambda case: case["id"])
def test_expansion_equals_the_published_one(case):
    tau = case["tps"]
    seconds = [timestamps(clip["frames_indices"], clip["fps"], temporal_patch_size=tau) for clip in case["metadata"]]
    arguments = {
        "image_grids": case["out"]["image_grid_thw"],
        "video_grids": case["out"]["video_grid_thw"],
        "video_seconds": seconds,
        "spatial_merge_size": case["merge"],
    }
    assert expand(case["out"]["chat_text"], **arguments) == case["out"]["expanded"]
    assert expand(case["out"]["chat_text"], nested=True, **arguments) == case["nested"]


@pytest.mark.parametrize(
    "text, arguments, message",
    [
        (
            "Describe it.",
            {"video_grids": [(1, 2, 2)], "video_seconds": [[0.5]]},
            "prompt: 0 <|video_pad|> placeholders, but 1 video; write one <|video_pad|> for each video",
        ),
        (
            IMAGE * 3,
            {"image_grids": [(1, 2, 2), (1, 2, 2)]},
            "prompt: 3 <|image_pad|> placeholders, but 2 images; write one <|image_pad|> for each image",
        ),
        (
            VIDEO,
            {},
            "prompt: 1 <|video_pad|> placeholder, but 0 videos; write one <|video_pad|> for each video",
        ),
        (
            VIDEO * 2,
            {"video_grids": [(1, 2, 2), (1, 2, 2)], "video_seconds": [[0.5]]},
            "video_seconds: of 1 clip, but there are 2 in video_grids; give the seconds of each",
        ),
        (
            VIDEO,
            {"video_grids": [(3, 2, 2)], "video_seconds": [[0.5]]},
            "video_seconds: 1 second of clip 0, expected one for each of its 3 frame groups",
        ),
        (
            VIDEO * 2,
            {"video_grids": [(1, 2, 2), (1, 2, 2)], "video_seconds": [[0.5], [0.5, 1.5]]},
            "video_seconds: 2 seconds of clip 1, expected one for each of its 1 frame group",
        ),
        (
            IMAGE,
            {"image_grids": [(1, 2, 3)]},
            "grid: gt=1, gh=2, gw=3, expected at least 1 of each, gh and gw multiples of spatial_merge_size 2",
        ),
        (
            VIDEO,
            {"video_grids": [(1, 4, 4)], "video_seconds": [[0.5]], "spatial_merge_size": 3},
            "grid: gt=1, gh=4, gw=4, expected at least 1 of each, gh and gw multiples of spatial_merge_size 3",
        ),
    ],
)
def test_what_does_not_fit_is_told_with_both_numbers(text, arguments, message):
    with pytest.raises(ValueError) as error:
        expand(text, **arguments)
    assert str(error.value) == message


def test_as_many_placeholders_as_pictures_and_clips_are_accepted():
    check_media("", 0, 0)
    check_media(IMAGE + VIDEO + IMAGE, 2, 1)


IDS = {"image_token_id": 3, "video_token_id": 4}


def test_as_many_placeholders_as_merged_tokens_are_accepted():
    check_placeholders([9, 3, 3, 3, 9, 4, 4], **IDS, image_grids=[(1, 2, 6)], video_grids=[(2, 2, 2)])
    check_placeholders(
        [9, 3, 4, 4, 4, 4], **IDS, image_grids=[(1, 3, 3)], video_grids=[(1, 6, 6)], spatial_merge_size=3
    )
    check_placeholders([9, 9], **IDS)


@pytest.mark.parametrize(
    "ids, grids, message",
    [
        (
            [9, 4, 4],
            {"video_grids": [(1, 2, 4), (1, 2, 2)]},
            "input_ids: 2 video placeholders (id 4), but the 2 videos of the prompt gave 3 merged tokens; "
            "do not cut a prompt, and tokenise what expand() gives",
        ),
        (
            [9, 3, 3],
            {"image_grids": [(1, 2, 2)]},
            "input_ids: 2 image placeholders (id 3), but the 1 image of the prompt gave 1 merged token; "
            "do not cut a prompt, and tokenise what expand() gives",
        ),
        (
            [3],
            {},
            "input_ids: 1 image placeholder (id 3), but the 0 images of the prompt gave 0 merged tokens; "
            "do not cut a prompt, and tokenise what expand() gives",
        ),
    ],
)
def test_a_prompt_that_was_cut_is_refused(ids, grids, message):
    with pytest.raises(ShapeError) as error:
        check_placeholders(ids, **IDS, **grids)
    assert str(error.value) == message


# ---- which tokens are answers

START, ASSISTANT, USER_ID, END, LINE = 91, 92, 93, 94, 95
HEADER = {"header": [START, ASSISTANT], "end": END}
tokens = st.lists(st.integers(1, 9) | st.just(ASSISTANT), max_size=4)


@st.composite
def labelled(draw):
    """Tokens of a conversation, and which of them are to be learnt, put together turn by turn."""
    ids, labels = [], []

    def add(tokens, learnt=False):
        ids.extend(tokens)
        labels.extend(tokens if learnt else [-100] * len(tokens))

    for answered in draw(st.lists(st.booleans(), max_size=4)):
        if answered:
            add([START, ASSISTANT, LINE])
            add([*draw(tokens), END, LINE], learnt=True)
        else:
            add([START, USER_ID, LINE, *draw(tokens), END, LINE])
    return ids, labels


@on_labels
@example(([START, USER_ID, LINE, ASSISTANT, 1, END, LINE], [-100] * 7))
@example(([START, ASSISTANT, LINE, 1, END, LINE], [-100] * 3 + [1, END, LINE]))
@given(labelled())
def test_answers_and_their_ends_are_learnt_and_nothing_else(impl, conversation):
    """Every answer counts, with its end and the newline; no question does, whatever words are in it."""
    ids, want = conversation
    got = impl.answer_labels(ids, **HEADER)
    gives(got, want, "other tokens count", ids=ids, **HEADER)


@on_labels
@given(labelled(), tokens)
def test_an_answer_that_was_cut_off_is_not_learnt(impl, conversation, rest):
    """Where the end of the last answer is missing, nothing of that answer counts."""
    ids, want = conversation
    cut = [*ids, START, ASSISTANT, LINE, *rest]
    got = impl.answer_labels(cut, **HEADER)
    gives(got, want + [-100] * (3 + len(rest)), "a part of an answer counts", ids=cut, **HEADER)


@on_labels
@given(labelled())
def test_the_newline_after_the_end_may_be_missing(impl, conversation):
    """A conversation that stops right behind the last end keeps its labels."""
    ids, want = conversation
    got = impl.answer_labels(ids[:-1], **HEADER)
    gives(got, want[:-1], "the labels before differ", ids=ids[:-1], **HEADER)


@on_labels
@given(labelled())
def test_a_header_may_have_several_tokens_for_one_word(impl, conversation):
    """A tokenizer that writes "assistant" as two tokens gives the same labels."""
    ids, labels = conversation
    split = [part for token in ids for part in ([71, 72] if token == ASSISTANT else [token])]
    want = []
    for token, label in zip(ids, labels, strict=True):
        want += [label if label == -100 else part for part in ([71, 72] if token == ASSISTANT else [token])]
    got = impl.answer_labels(split, header=[START, 71, 72], end=END)
    gives(got, want, "other tokens count", ids=split, header=[START, 71, 72], end=END)


@on_labels
@given(labelled())
def test_tokens_are_left_as_they_are(impl, conversation):
    """The caller's tokens are not changed, and there is a label for each."""
    ids, _ = conversation
    before = list(ids)
    got = impl.answer_labels(ids, **HEADER)
    holds(ids == before and len(got) == len(before), "the tokens were changed", before=before, after=ids, got=got)


@pytest.mark.parametrize("case", GOLDEN["label_mask"], ids=lambda case: case["note"])
def test_labels_equal_the_published_ones_but_for_the_bare_word(case):
    assert answer_labels(case["ids"], header=[151644, 77091], end=151645) == case["out"]


def test_an_empty_header_is_refused():
    with pytest.raises(ValueError, match=r"^header: 0 tokens, expected those of <\|im_start\|>assistant$"):
        answer_labels([1, 2], header=[], end=3)


def test_the_header_is_what_stands_before_an_answer():
    assert chat_text([], add_generation_prompt=True) == f"{ANSWER_HEADER}\n"
