import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from minivid.classroom.evidence import holds
from minivid.data.conversation_files import (
    Conversation,
    ConversationFiles,
    LeftOut,
    check_conversations,
    conversation_messages,
    read_conversations,
)
from minivid.data.conversations import collate, flatten, prepare_labelled
from minivid.data.processor import Processor
from minivid.text.byte_pair import BytePair
from minivid.video.clip import ClipSettings
from minivid.video.write import write_video

GOLDEN = json.loads((Path(__file__).with_name("chat.json")).read_text(encoding="utf-8"))

on_messages = pytest.mark.law("conversation_messages")

# ---- one annotation

words = st.text(st.sampled_from("ab 这{\n"), max_size=4)
answers = words | st.builds(lambda text, number: {"tags": [text], "n": number}, words, st.integers(0, 3))


@st.composite
def annotations(draw):
    """An annotation, and the messages that it stands for, put together piece by piece."""
    item, messages = {"conversations": []}, []
    files = {"image": [], "video": []}
    for _ in range(draw(st.integers(1, 3))):
        question, content = "", []
        for _ in range(draw(st.integers(0, 4))):
            kind = draw(st.sampled_from(["image", "video", "text"]))
            if kind == "text":
                # two texts with nothing between them would be one
                text = draw(words) if not content or content[-1]["type"] != "text" else ""
                question += text
                content += [{"type": "text", "text": text.strip()}] if text.strip() else []
            else:
                files[kind].append(f"{kind}s/{len(files[kind])}.xyz")
                question += f"<{kind}>"
                content.append({"type": kind, kind: f"/clips/{files[kind][-1]}"})
        item["conversations"].append({"from": "human", "value": question})
        messages.append({"role": "user", "content": content})
        answer = draw(answers)
        text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        item["conversations"].append({"from": "gpt", "value": answer})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
    for kind, paths in files.items():
        if len(paths) == 1 and draw(st.booleans()):
            item[kind] = paths[0]
        elif paths:
            item[kind] = paths
    return item, messages


TAG_IN_ANSWER = {
    "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": " <video>\n{"}],
}
OBJECT = {
    "video": "v.mp4",
    "conversations": [{"from": "human", "value": "<video>\nWhat is it?"}, {"from": "gpt", "value": {"tags": ["这"]}}],
}
SYSTEM = {
    "conversations": [{"from": "system", "value": " s\n"}, {"from": "human", "value": " q "}],
}


def text(words):
    return [{"type": "text", "text": words}]


@on_messages
@example(
    (TAG_IN_ANSWER, [{"role": "user", "content": text("a")}, {"role": "assistant", "content": text(" <video>\n{")}])
)
@example(
    (
        OBJECT,
        [
            {"role": "user", "content": [{"type": "video", "video": "/clips/v.mp4"}, *text("What is it?")]},
            {"role": "assistant", "content": text('{"tags": ["这"]}')},
        ],
    )
)
@example((SYSTEM, [{"role": "system", "content": text(" s\n")}, {"role": "user", "content": text("q")}]))
@given(annotations())
def test_tags_of_questions_take_the_files_in_order(impl, annotation):
    """Each tag of a question takes the next file of its kind; texts between tags lose white space, answers do not."""
    item, want = annotation
    got = impl.conversation_messages(item, folder="/clips")
    holds(got == want, "the messages differ", item=item, got=got, want=want)


@on_messages
@given(annotations())
def test_the_annotation_is_left_as_it_is(impl, annotation):
    """The annotation is not changed."""
    item, _ = annotation
    before = copy.deepcopy(item)
    impl.conversation_messages(item, folder="/clips")
    holds(item == before, "the annotation was changed", before=before, after=item)


@on_messages
@given(annotations())
def test_paths_that_are_absolute_stay(impl, annotation):
    """An absolute path stays what it is, whatever the folder."""
    item, want = annotation
    item = copy.deepcopy(item)
    for kind in ("image", "video"):
        if kind in item:
            paths = [item[kind]] if isinstance(item[kind], str) else item[kind]
            item[kind] = [f"/clips/{path}" for path in paths]
    got = impl.conversation_messages(item, folder="/elsewhere")
    holds(got == want, "an absolute path was changed", item=item, got=got, want=want)


@pytest.mark.parametrize("case", GOLDEN["conversation"], ids=lambda case: case["id"])
def test_messages_equal_the_published_ones(case):
    assert conversation_messages(case["item"], folder=case["base"]) == case["out"]


def test_who_speaks_can_be_said_otherwise():
    # as the published reader takes it, which teaches the system message as an answer
    speakers = {"human": "user", "gpt": "assistant", "system": "assistant"}
    [first, _] = conversation_messages(SYSTEM, speakers=speakers)
    assert first == {"role": "assistant", "content": text(" s\n")}


def turn(value, speaker="human"):
    return {"from": speaker, "value": value}


@pytest.mark.parametrize(
    "item, message",
    [
        ({}, "conversations: null, expected a list of {'from': ..., 'value': ...}"),
        ({"conversations": "x"}, "conversations: \"x\", expected a list of {'from': ..., 'value': ...}"),
        ({"conversations": []}, "conversations: [], expected a list of {'from': ..., 'value': ...}"),
        ({"conversations": ["x"]}, "conversations[0]: \"x\", expected {'from': ..., 'value': ...}"),
        (
            {"conversations": [turn("x"), turn("y", "bot")]},
            "conversations[1]: from 'bot', expected one of human, user, gpt, assistant, system",
        ),
        ({"conversations": [{"from": "human"}]}, "conversations[0]: value null, expected a text"),
        ({"conversations": [turn({"a": 1})]}, 'conversations[0]: value {"a": 1}, expected a text'),
        ({"conversations": [turn(None, "gpt")]}, "conversations[0]: value null, expected a text or an object"),
        (
            {"conversations": [turn({"a": "b" * 90})]},
            'conversations[0]: value {"a": "' + "b" * 50 + "..., expected a text",
        ),
        ({"video": 7, "conversations": [turn("x")]}, "video: 7, expected a path or a list of paths"),
        ({"image": ["a", 7], "conversations": [turn("x")]}, 'image: ["a", 7], expected a path or a list of paths'),
        (
            {"video": "1.mp4", "conversations": [turn("no tag"), turn("<video>", "gpt")]},
            "tags <video> in the questions: 0, files under 'video': 1; write one tag for each file",
        ),
        (
            {"image": ["1.png"], "conversations": [turn("<image><image>x"), turn("<image>y")]},
            "tags <image> in the questions: 3, files under 'image': 1; write one tag for each file",
        ),
        (
            {"conversations": [turn("<video>x")]},
            "tags <video> in the questions: 1, files under 'video': 0; write one tag for each file",
        ),
    ],
)
def test_an_annotation_that_cannot_be_meant_is_refused(item, message):
    with pytest.raises(ValueError) as error:
        conversation_messages(item)
    assert str(error.value) == message


# ---- a file of them

PLAIN = {"conversations": [turn("hi"), turn("ho", "gpt")]}
OF_PLAIN = [{"role": "user", "content": text("hi")}, {"role": "assistant", "content": text("ho")}]


def test_a_list_is_read(tmp_path):
    path = tmp_path / "clips.json"
    path.write_text(json.dumps([PLAIN, OBJECT], ensure_ascii=False), encoding="utf-8")
    plain, shown = read_conversations(path)
    assert plain == Conversation(OF_PLAIN, "clips.json, item 0", PLAIN) and plain.media == () and plain.tokens == 0
    assert shown.place == "clips.json, item 1" and shown.media == (str(tmp_path / "v.mp4"),) and shown.item == OBJECT
    [_, elsewhere] = read_conversations(str(path), folder="/clips")
    assert elsewhere.media == ("/clips/v.mp4",)
    [_, elsewhere] = read_conversations(path, folder=Path("/clips"))
    assert elsewhere.media == ("/clips/v.mp4",)


def test_one_annotation_a_line_is_read(tmp_path):
    for name in ("clips.jsonl", "clips.NDJSON"):
        path = tmp_path / name
        path.write_text(f"{json.dumps(PLAIN)}\n\n{json.dumps(OBJECT)}\n", encoding="utf-8-sig")
        assert [found.place for found in read_conversations(path)] == [f"{name}, line 1", f"{name}, line 3"]


def test_one_annotation_alone_and_packed_ones_are_read(tmp_path):
    path = tmp_path / "clips.json"
    path.write_text(json.dumps(PLAIN))
    assert read_conversations(path) == [Conversation(OF_PLAIN, "clips.json, item 0", PLAIN)]
    path.write_text(json.dumps([PLAIN, [PLAIN, PLAIN]]))
    places = [found.place for found in read_conversations(path)]
    assert places == ["clips.json, item 0", "clips.json, item 1[0]", "clips.json, item 1[1]"]


def test_speakers_are_passed_on(tmp_path):
    (tmp_path / "clips.json").write_text(json.dumps([{"conversations": [turn("hi", "me")]}]))
    [found] = read_conversations(tmp_path / "clips.json", speakers={"me": "user"})
    assert found.messages == OF_PLAIN[:1]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.json", b"", "not JSON at line 1, column 1 (Expecting value)"),
        ("a.json", b'[\n{"a": }]', "not JSON at line 2, column 7 (Expecting value)"),
        (
            "a.json",
            b"{}\n{}",
            "not JSON at line 2, column 1 (Extra data); one object on each line needs the ending .jsonl",
        ),
        ("a.jsonl", b'\n{"a"}', "not JSON at line 2, column 5 (Expecting ':' delimiter)"),
        ("a.json", b'["\xff"]', "byte 2 is not UTF-8; save it as UTF-8"),
        ("a.json", b"[]", "holds no conversation; give a list of {'video': ..., 'conversations': ...}"),
        ("a.jsonl", b"\n", "holds no conversation; give a list of {'video': ..., 'conversations': ...}"),
    ],
)
def test_a_file_that_is_no_such_list_is_refused(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_conversations(tmp_path / name)
    assert str(error.value) == f"{tmp_path / name}: {message}"


def test_the_wrong_annotation_is_named(tmp_path):
    for content, message in (
        ([PLAIN, {"conversations": []}], "item 1: conversations: [], expected a list of {'from': ..., 'value': ...}"),
        ([PLAIN, 7], "item 1: 7, expected an object with 'conversations'"),
        ([[PLAIN, 7]], "item 0[1]: 7, expected an object with 'conversations'"),
    ):
        (tmp_path / "a.json").write_text(json.dumps(content))
        with pytest.raises(ValueError) as error:
            read_conversations(tmp_path / "a.json")
        assert str(error.value) == f"{tmp_path / 'a.json'}, {message}"
    with pytest.raises(FileNotFoundError):
        read_conversations(tmp_path / "none.json")


# ---- what can be used of them


@pytest.fixture(scope="module")
def processor():
    made = GOLDEN["tokenizer"]
    special = {name: token for name, token in made["vocab"].items() if name.startswith("<|")}
    tokenizer = BytePair(made["vocab"], [tuple(pair.split(" ")) for pair in made["merges"]], special_tokens=special)
    settings = ClipSettings(patch_size=4, min_pixels=8 * 8, max_pixels=16 * 16)
    return Processor(tokenizer, image=settings, video=settings)


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """Five conversations: about a short clip, about a long one, without answer, about a missing file, and plain."""
    folder = tmp_path_factory.mktemp("annotated")
    for name, frames in (("short", 6), ("long", 40)):
        write_video(folder / f"{name}.mp4", torch.randint(0, 255, (frames, 3, 16, 16), dtype=torch.uint8), fps=10)
    items = [
        {"video": f"{name}.mp4", "conversations": [turn("<video>\nwhat?"), turn("this", "gpt")]}
        for name in ("short", "long", "missing")
    ]
    items.insert(2, {"video": "short.mp4", "conversations": [turn("<video>what?")]})
    (folder / "clips.json").write_text(json.dumps([*items, PLAIN]))
    return read_conversations(folder / "clips.json")


def test_what_cannot_be_used_is_listed_with_its_reason(annotated, processor):
    counted = []
    good, left_out = check_conversations(annotated, processor, max_tokens=60, on_conversation=lambda: counted.append(1))
    sizes = [prepare_labelled(annotated[number].messages, processor)["input_ids"].shape[1] for number in (0, 1, 2, 4)]
    assert good == [replace(annotated[0], tokens=sizes[0]), replace(annotated[4], tokens=sizes[3])]
    assert sizes[1] > 60 >= sizes[0] and len(counted) == 5
    assert left_out[:2] == [
        LeftOut("clips.json, item 1", f"{sizes[1]} tokens, 16 of them of pictures and clips, more than the 60 allowed"),
        LeftOut("clips.json, item 2", f"{sizes[2]} tokens, but no answer to learn from"),
    ]
    [missing] = left_out[2:]
    assert missing.place == "clips.json, item 3" and "missing.mp4" in missing.reason and "\n" not in missing.reason


def test_without_a_limit_nothing_is_too_long(annotated, processor):
    good, left_out = check_conversations(annotated, processor)
    assert [found.place for found in good] == [f"clips.json, item {number}" for number in (0, 1, 4)]
    assert len(left_out) == 2
    longest = max(found.tokens for found in good)
    assert check_conversations(annotated, processor, max_tokens=longest)[0] == good


def test_examples_are_prepared_conversations(annotated, processor):
    examples = ConversationFiles(annotated[:2], processor, left_out=[LeftOut("x", "y")])
    assert len(examples) == 2 and examples.left_out == [LeftOut("x", "y")]
    for number in range(2):
        got, want = examples[number], prepare_labelled(annotated[number].messages, processor)
        assert got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in got)


@pytest.mark.parametrize("flat", [False, True])
def test_a_batch_is_the_inputs_of_a_model_and_the_labels(annotated, processor, flat):
    examples = ConversationFiles(annotated, processor, flat=flat)
    items = [examples[0], examples[4]]
    inputs, labels = examples.collate(items)
    want = flatten(items) if flat else collate(items, pad_token_id=processor.pad_token_id)
    assert torch.equal(labels, want.pop("labels"))
    assert inputs.keys() == want.keys() and all(torch.equal(inputs[name], want[name]) for name in inputs)
    assert "labels" in items[0]


def test_an_example_that_cannot_be_prepared_is_named(annotated, processor):
    with pytest.raises(ValueError, match=r"^clips\.json, item 3: .*missing\.mp4"):
        ConversationFiles(annotated, processor)[3]
