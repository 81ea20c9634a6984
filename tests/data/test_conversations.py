import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from einops import rearrange
from hypothesis import example, given
from hypothesis import strategies as st

from minivid.classroom.evidence import agree, holds
from minivid.data.conversations import collate, flatten, plan, prepare, prepare_labelled
from minivid.data.processor import Processor
from minivid.shapes import ShapeError
from minivid.text.byte_pair import BytePair
from minivid.text.chat import chat_text, expand, timestamps
from minivid.video.clip import ClipSettings, load_clip
from minivid.video.decode import VideoWarning, read_frames
from minivid.video.patches import patchify
from minivid.video.resize import normalize, resize
from minivid.video.write import write_video

GOLDEN = json.loads((Path(__file__).with_name("chat.json")).read_text(encoding="utf-8"))

on_collate = pytest.mark.law("collate")
on_flatten = pytest.mark.law("flatten")

# ---- several conversations at once


def sample(length, first, holding, *, rows=2):
    """A conversation as `prepare` gives it, of numbers that say where they came from."""
    ids = torch.arange(first, first + length)[None]
    made = {"input_ids": ids, "attention_mask": torch.ones(1, length, dtype=torch.int64)}
    if "labels" in holding:
        made["labels"] = torch.where(ids % 3 == 0, ids, -100)
    if "position_ids" in holding:
        made["position_ids"] = ids[..., None] * 10 + torch.arange(3)
    for kind, pixels, grids in (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ):
        if kind in holding:
            made[pixels] = (torch.arange(rows * 2.0) + first).view(rows, 2)
            made[grids] = torch.tensor([[1, rows, 1]])
    return made


def conversations(shared, sizes):
    """Conversations of different lengths; all or none have labels and positions, any of them pictures and clips."""
    made, first = [], 1
    for length, media, rows in sizes:
        made.append(sample(length, first, (*shared, *media), rows=rows))
        first += length
    return made


subsets = st.sampled_from([(), (0,), (1,), (0, 1)])
samples = st.builds(
    conversations,
    subsets.map(lambda chosen: [("labels", "position_ids")[place] for place in chosen]),
    st.lists(
        st.tuples(
            st.integers(1, 5), subsets.map(lambda chosen: [("image", "video")[i] for i in chosen]), st.integers(1, 3)
        ),
        min_size=1,
        max_size=4,
    ),
)


def pixels_follow(got, made, name_of):
    """Pixels and grids stand below each other in the order of the samples, and are absent where no sample has any."""
    for name in ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw"):
        wanted = [one[name] for one in made if name in one]
        if wanted:
            holds(name in got, f"{name} is missing", samples=made)
            agree(got[name], torch.cat(wanted), f"{name} is not that of the samples, in order", samples=made)
        else:
            holds(name not in got, f"{name} is there, but no {name_of} has it", samples=made)


FILLS = {"input_ids": 7, "attention_mask": 0, "labels": -100, "position_ids": 1}
THREE = [sample(2, 1, {"labels"}), sample(5, 3, {"labels", "image"}), sample(1, 8, {"labels", "image"})]


@on_collate
@example(THREE, "left")
@example(THREE, "right")
@given(samples, st.sampled_from(["left", "right"]))
def test_short_conversations_are_filled_up_on_one_side(impl, made, side):
    """A row is its conversation and fill: pad_token_id, mask 0, label -100, on the side that was asked for."""
    got = impl.collate(made, pad_token_id=7, padding_side=side)
    length = max(one["input_ids"].shape[1] for one in made)
    case = {"samples": made, "padding_side": side}
    for name, fill in FILLS.items():
        if name not in made[0]:
            holds(name not in got, f"{name} is there, but no sample has it", **case)
            continue
        holds(name in got, f"{name} is missing", **case)
        want = torch.full((len(made), length, *made[0][name].shape[2:]), fill)
        for row, one in zip(want, made, strict=True):
            own = one[name][0]
            row[-len(own) :] = own if side == "left" else row[-len(own) :]
            row[: len(own)] = own if side == "right" else row[: len(own)]
        agree(got[name], want, f"{name} is not the conversations and fill", **case)


@on_collate
@given(samples)
def test_pixels_of_a_batch_follow_the_order_of_its_rows(impl, made):
    """Pixels and grids of the samples follow one another; a batch without any has none."""
    pixels_follow(impl.collate(made, pad_token_id=7), made, "sample")


@on_collate
@given(samples, st.sampled_from(["left", "right"]))
def test_a_token_that_equals_the_fill_is_not_taken_for_fill(impl, made, side):
    """The mask depends on the lengths alone: a conversation may hold the token that fills."""
    want = impl.collate(made, pad_token_id=9999, padding_side=side)["attention_mask"]
    first = made[0]["input_ids"][0, 0].item()
    got = impl.collate(made, pad_token_id=first, padding_side=side)["attention_mask"]
    agree(got, want, f"the mask depends on pad_token_id ({first})", samples=made)


@on_collate
@given(samples, st.sampled_from(["left", "right"]))
def test_samples_are_left_as_they_are(impl, made, side):
    """The samples are not changed."""
    before = copy.deepcopy(made)
    impl.collate(made, pad_token_id=7, padding_side=side)
    kept = all(one.keys() == old.keys() for one, old in zip(made, before, strict=True))
    kept = kept and all(torch.equal(one[key], old[key]) for one, old in zip(made, before, strict=True) for key in one)
    holds(kept, "a sample was changed", samples=before)


@on_flatten
@example(THREE)
@given(samples)
def test_conversations_stand_behind_each_other(impl, made):
    """One row holds the conversations in order, without fill, and document_lengths says how long each is."""
    got = impl.flatten(made)
    lengths = torch.tensor([one["input_ids"].shape[1] for one in made])
    agree(got.get("document_lengths"), lengths, "document_lengths are not those of the samples", samples=made)
    for name in ("input_ids", "labels", "position_ids"):
        if name in made[0]:
            want = torch.cat([one[name] for one in made], dim=1)
            agree(got.get(name), want, f"{name} is not one row of all", samples=made)
        else:
            holds(name not in got, f"{name} is there, but no sample has it", samples=made)
    holds("attention_mask" not in got, "there is an attention_mask, but nothing to mask", samples=made)


@on_flatten
@given(samples)
def test_pixels_of_a_row_follow_the_order_of_its_conversations(impl, made):
    """Pixels and grids of the samples follow one another; a row without any has none."""
    pixels_follow(impl.flatten(made), made, "sample")


def published(case):
    """The samples of a published case in this library's layout, and what became of them."""
    layout = "axes b n -> b n axes"
    made = []
    for one in case["samples"]:
        one = {name: torch.tensor(value) for name, value in one.items() if name != "attention_mask"}
        made.append(one | {"position_ids": rearrange(one["position_ids"], layout)})
    out = {name: torch.tensor(value) for name, value in case["out"].items() if value is not None}
    return made, out | {"position_ids": rearrange(out["position_ids"], layout)}


@pytest.mark.parametrize("case", GOLDEN["collate"], ids=lambda case: case["id"])
def test_batches_equal_the_published_ones(case):
    made, want = published(case)
    got = flatten(made) if case["flatten"] else collate(made, pad_token_id=case["pad"])
    if case["flatten"]:
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), got.pop("document_lengths").cumsum(0)])
        got["attention_mask"] = ends  # the published collator keeps where each document ends
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert torch.equal(got[name], value)


@pytest.mark.parametrize(
    "made, message",
    [
        ([], "samples: 0, expected at least one"),
        (
            [sample(2, 1, {"labels"}), sample(2, 3, ())],
            "samples[1]: holds attention_mask, input_ids, but samples[0] attention_mask, input_ids, labels; "
            "prepare all of them alike",
        ),
        (
            [{**sample(2, 1, ()), "token_types": torch.zeros(1, 2), "mood": torch.zeros(1)}],
            "samples: mood, token_types cannot be filled up; collate what prepare() gives",
        ),
    ],
)
@pytest.mark.parametrize("put_together", [flatten, lambda made: collate(made, pad_token_id=0)])
def test_samples_that_do_not_go_together_are_refused(made, message, put_together):
    with pytest.raises(ValueError) as error:
        put_together(made)
    assert str(error.value) == message


def test_padding_has_two_sides(unchecked):
    with pytest.raises(ValueError, match="^padding_side='middle', expected 'left' or 'right'$"):
        collate([sample(2, 1, ())], pad_token_id=0, padding_side="middle")


def test_what_is_padded_cannot_be_flattened():
    padded = collate([sample(2, 1, ()), sample(5, 3, ())], pad_token_id=0)
    for number, made in ((0, [padded]), (1, [sample(2, 1, ()), padded])):
        with pytest.raises(ShapeError) as error:
            flatten(made)
        assert str(error.value) == (
            f"samples[{number}]: 2 rows, 3 tokens masked, expected 1 row and none; "
            "flatten what prepare() gives, before any padding"
        )
    one_row = {name: value[:1] for name, value in padded.items()}
    with pytest.raises(ShapeError, match=r"^samples\[0\]: 1 rows, 3 tokens masked, expected 1 row and none; "):
        flatten([one_row])


def test_the_pixels_of_a_single_clip_are_not_copied():
    one = sample(3, 1, {"video"})
    assert collate([one], pad_token_id=0)["pixel_values_videos"] is one["pixel_values_videos"]


# ---- from messages to inputs


def moving(t, h=48, w=64):
    """A bright square that moves over a dark gradient, so that every frame differs."""
    pixels = torch.zeros(t, 3, h, w, dtype=torch.uint8)
    pixels[:] = torch.linspace(0, 90, w).byte()
    for i in range(t):
        pixels[i, i % 3, h // 3 : h // 2, 3 * i % max(w - 9, 1) :][:, :9] = 220
    return pixels


@pytest.fixture(scope="module")
def tokenizer():
    made = GOLDEN["tokenizer"]
    special = {name: token for name, token in made["vocab"].items() if name.startswith("<|")}
    return BytePair(made["vocab"], [tuple(pair.split(" ")) for pair in made["merges"]], special_tokens=special)


CUT = {"patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2}
SMALL = ClipSettings(**CUT, min_pixels=16 * 16, max_pixels=48 * 64)


@pytest.fixture(scope="module")
def processor(tokenizer):
    return Processor(tokenizer, image=SMALL, video=SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("media")
    write_video(place / "three_seconds.mp4", moving(30), fps=10)
    write_video(place / "five_frames.mp4", moving(5, 16, 24), fps=10)
    write_video(place / "one_frame.mp4", moving(1, 16, 24), fps=10)
    pillow = pytest.importorskip("PIL.Image")
    for number, frame in enumerate(moving(3, 50, 70)):
        pillow.fromarray(rearrange(frame, "c h w -> h w c").numpy()).save(place / f"photo{number}.png")
    pillow.fromarray(rearrange(moving(1, 8, 9)[0], "c h w -> h w c").numpy()).save(place / "other.png")
    whole = bytearray((place / "three_seconds.mp4").read_bytes())
    (place / "cut.mp4").write_bytes(whole[: len(whole) // 8])
    return place


def user(*content):
    return [{"role": "user", "content": list(content)}]


def words(tokenizer, ids):
    return tokenizer.decode(ids[0].tolist())


def test_a_clip_becomes_tokens_and_patches(processor, folder):
    path = folder / "three_seconds.mp4"
    got = prepare(user({"video": str(path)}, {"type": "text", "text": "Describe this video"}), processor)
    clip = load_clip(path, SMALL)
    assert list(got) == ["input_ids", "attention_mask", "pixel_values_videos", "video_grid_thw"]
    assert torch.equal(got["pixel_values_videos"], clip.patches)
    assert got["video_grid_thw"].tolist() == [list(clip.grid)] == [[3, 12, 16]]
    assert got["input_ids"].dtype == got["attention_mask"].dtype == got["video_grid_thw"].dtype == torch.int64
    assert got["attention_mask"].shape == got["input_ids"].shape and got["attention_mask"].all()
    # 6 of 30 frames at 10 per second: 0, 6, 12, 17, 23, 29
    groups = "".join(
        f"<{second} seconds><|vision_start|>{'<|video_pad|>' * 48}<|vision_end|>" for second in ("0.3", "1.4", "2.6")
    )
    text = f"<|im_start|>user\n{groups}Describe this video<|im_end|>\n<|im_start|>assistant\n"
    assert words(processor.tokenizer, got["input_ids"]) == text


def test_a_picture_is_a_clip_of_one_frame_without_a_second(processor, folder):
    path = folder / "photo0.png"
    got = prepare(user({"image": path}, {"text": "x"}), processor, add_generation_prompt=False)
    clip = load_clip(path, SMALL)
    assert list(got) == ["input_ids", "attention_mask", "pixel_values", "image_grid_thw"]
    assert torch.equal(got["pixel_values"], clip.patches)
    assert got["image_grid_thw"].tolist() == [list(clip.grid)] == [[1, 10, 16]]
    pads = "<|image_pad|>" * 40
    text = f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>x<|im_end|>\n"
    assert words(processor.tokenizer, got["input_ids"]) == text


def test_several_pictures_and_clips_keep_their_order(processor, folder):
    photos = [str(folder / f"photo{number}.png") for number in range(2)]
    clips = [str(folder / name) for name in ("five_frames.mp4", "three_seconds.mp4")]
    order = [{"image": photos[0]}, {"video": clips[0]}, {"video": clips[1]}, {"image": photos[1]}]
    got = prepare([*user(*order[:2]), *user(*order[2:])], processor)
    loaded = {path: load_clip(path, SMALL) for path in photos + clips}
    assert torch.equal(got["pixel_values"], torch.cat([loaded[path].patches for path in photos]))
    assert torch.equal(got["pixel_values_videos"], torch.cat([loaded[path].patches for path in clips]))
    assert got["image_grid_thw"].tolist() == [list(loaded[path].grid) for path in photos]
    assert got["video_grid_thw"].tolist() == [list(loaded[path].grid) for path in clips] == [[2, 4, 6], [3, 12, 16]]


def test_pixels_are_resized_and_cut_like_a_file(processor):
    frames = moving(5, 50, 70)
    got = prepare(user({"video": frames, "sample_fps": 4}), processor)
    patches, grid = patchify(normalize(resize(frames, (40, 64))), **CUT)
    assert torch.equal(got["pixel_values_videos"], patches) and got["video_grid_thw"].tolist() == [list(grid)]
    seconds = timestamps(range(5), 4)
    text = expand(
        chat_text(user({"video": None}), add_generation_prompt=True), video_grids=[grid], video_seconds=[seconds]
    )
    assert got["input_ids"].tolist() == [processor.tokenizer.encode(text)]
    picture = prepare(user({"image": frames[0]}), processor)
    patches, grid = patchify(normalize(resize(frames[:1], (40, 64))), **CUT)
    assert torch.equal(picture["pixel_values"], patches) and picture["image_grid_thw"].tolist() == [list(grid)]


def test_frames_given_one_by_one_are_a_clip(processor, folder):
    paths = [folder / f"photo{number}.png" for number in range(3)]
    frames = torch.cat([read_frames(path).pixels for path in paths])
    want = prepare(user({"video": frames}), processor)
    for given_as in (paths, [str(path) for path in paths], list(frames), (paths[0], *frames[1:])):
        got = prepare(user({"video": given_as}), processor)
        assert got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in want)


def seconds_of(messages, processor):
    return plan(messages, processor).media[0].seconds


def test_frames_are_shown_half_a_second_apart_unless_it_is_said(processor):
    frames = moving(3, 16, 16)
    assert seconds_of(user({"video": frames}), processor) == (0.25, 1.0)
    assert seconds_of(user({"video": frames, "sample_fps": 5}), processor) == (0.1, 0.4)
    # the rate of the clip that they came from says nothing about them
    assert seconds_of(user({"video": frames, "sample_fps": 5, "raw_fps": 30}), processor) == (0.1, 0.4)
    assert seconds_of(user({"video": frames, "seconds": [1, 2.5, 7]}), processor) == (1.75, 7.0)


def test_a_message_may_say_how_its_own_clip_is_read(processor, folder):
    path = str(folder / "three_seconds.mp4")
    told = {
        "nframes": 8,
        "video_start": 0.5,
        "video_end": 2.5,
        "min_pixels": 8 * 8,
        "max_pixels": 16 * 16,
        "sample_fps": 9,
    }
    [medium] = plan(user({"video": path, **told}), processor).media
    settings = replace(SMALL, frames=8, start=0.5, end=2.5, min_pixels=64, max_pixels=256)
    assert medium.clip.settings == settings
    [medium] = plan(user({"video": path, "fps": 4, "min_frames": 2, "max_frames": 10}), processor).media
    assert medium.clip.settings == replace(SMALL, fps=4, min_frames=2, max_frames=10) and medium.frames == 10
    [medium] = plan(user({"video": path, "total_pixels": 3 * 32 * 32}), processor).media
    assert medium.clip.settings == replace(SMALL, total_pixels=3 * 32 * 32) and medium.grid == (3, 6, 8)
    [medium] = plan(user({"video": path, "resized_height": 30, "resized_width": 41}), processor).media
    assert medium.size[:3] == (32, 40, "exact") and medium.clip.settings.min_pixels is None
    [medium] = plan(user({"image": str(folder / "photo0.png"), "max_pixels": 16 * 24}), processor).media
    assert medium.size[:2] == (16, 16)
    frames = moving(2, 50, 70)
    [medium] = plan(user({"video": frames, "resized_height": 30, "resized_width": 41}), processor).media
    assert medium.size == (32, 40, "exact", "height=32, width=40 asked for") and medium.grid == (1, 8, 10)


def test_what_a_message_says_replaces_what_contradicts_it(processor, folder):
    path = str(folder / "three_seconds.mp4")
    by_number = replace(processor, video=replace(SMALL, frames=4, repeat_short=True))
    [medium] = plan(user({"video": path, "fps": 3}), by_number).media
    assert medium.clip.settings == replace(SMALL, fps=3)
    by_rate = replace(processor, video=replace(SMALL, fps=4))
    [medium] = plan(user({"video": path, "nframes": 6}), by_rate).media
    assert medium.clip.settings == replace(SMALL, frames=6)
    fixed = ClipSettings(**CUT, height=16, width=24)
    [medium] = plan(
        user({"video": path, "max_pixels": 48 * 64, "min_pixels": 8}), replace(processor, video=fixed)
    ).media
    assert medium.size[:2] == (48, 64)
    [medium] = plan(user({"video": path}), replace(processor, video=fixed)).media
    assert medium.size[:2] == (16, 24)


def test_a_plan_says_what_prepare_gives_without_decoding(processor, folder):
    messages = [
        *user({"video": str(folder / "three_seconds.mp4")}, {"image": str(folder / "photo0.png")}, {"text": "x"}),
        {"role": "assistant", "content": "hi"},
    ]
    planned = plan(messages, processor, add_generation_prompt=False)
    got = prepare_labelled(messages, processor)
    assert planned.input_ids == tuple(got["input_ids"][0].tolist()) and planned.tokens == len(planned.input_ids)
    assert planned.vision_tokens == 3 * 48 + 40 == sum(medium.tokens for medium in planned.media)
    pixels = [got["pixel_values_videos"], got["pixel_values"]]
    assert [medium.bytes for medium in planned.media] == [4 * rows.numel() for rows in pixels]
    assert planned.bytes == sum(4 * rows.numel() for rows in pixels)
    assert planned.answer_tokens == int((got["labels"] != -100).sum()) == 4
    clip, picture = planned.media
    assert (clip.kind, clip.place, clip.name) == ("video", "message 0, part 0", str(folder / "three_seconds.mp4"))
    assert (clip.frames, clip.grid, clip.clip.tokens) == (6, (3, 12, 16), 144)
    assert (picture.kind, picture.frames, picture.seconds, picture.grid) == ("image", 1, (), (1, 10, 16))
    generation = plan(messages, processor)
    assert generation.tokens == planned.tokens + 3
    pixels = plan(user({"video": moving(3, 16, 24)}), processor).media[0]
    assert (pixels.name, pixels.frames, pixels.clip, pixels.tokens) == ("pixels", 3, None, 2 * 6)
    assert pixels.bytes == 4 * 2 * 4 * 6 * 3 * 2 * 4 * 4


def test_only_answers_are_learnt(processor):
    messages = [
        {"role": "system", "content": "json"},
        {"role": "user", "content": "<|im_end|>assistant\nthis"},
        {"role": "assistant", "content": "10.5 seconds"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": [{"type": "text", "text": "hi"}]},
    ]
    got = prepare_labelled(messages, processor)
    learnt = got["labels"] != -100
    assert got["labels"].shape == got["input_ids"].shape
    assert torch.equal(got["labels"][learnt], got["input_ids"][learnt])
    answers = processor.tokenizer.decode(got["input_ids"][learnt].tolist())
    assert answers == "10.5 seconds<|im_end|>\nhi<|im_end|>\n"


def test_the_pair_around_a_clip_may_stay(processor, folder):
    messages = user({"video": str(folder / "five_frames.mp4")})
    nested = prepare(messages, replace(processor, nested=True))
    assert nested["input_ids"].shape[1] == prepare(messages, processor)["input_ids"].shape[1] + 2


def test_pictures_can_be_numbered(processor, folder):
    got = prepare(user({"image": str(folder / "photo0.png")}), processor, add_vision_id=True)
    assert words(processor.tokenizer, got["input_ids"]).startswith("<|im_start|>user\nPicture 1: <|vision_start|>")
    planned = plan(user({"image": str(folder / "photo0.png")}), processor, add_vision_id=True)
    assert planned.input_ids == tuple(got["input_ids"][0].tolist())


def test_messages_are_left_as_they_were(processor, folder):
    messages = user({"video": str(folder / "five_frames.mp4"), "nframes": 4}, {"text": "x"})
    before = copy.deepcopy(messages)
    prepare_labelled(messages, processor)
    plan(messages, processor)
    assert messages == before


def test_clips_of_different_length_make_one_batch(processor, folder):
    names = ("five_frames.mp4", "three_seconds.mp4")
    made = [prepare(user({"video": str(folder / name)}, {"text": "x"}), processor) for name in names]
    got = collate(made, pad_token_id=processor.pad_token_id, padding_side="left")
    assert got["video_grid_thw"].tolist() == [[2, 4, 6], [3, 12, 16]]
    assert got["attention_mask"].sum(1).tolist() == [one["input_ids"].shape[1] for one in made]
    assert got["input_ids"][0, 0] == processor.pad_token_id


def test_a_damaged_file_gives_the_frames_that_came(processor, folder):
    write_video(folder / "sound.mp4", moving(30), fps=10, key_frame_interval=8)
    data = bytearray((folder / "sound.mp4").read_bytes())
    third = len(data) // 3
    data[third : 2 * third] = bytes(third)
    (folder / "damaged.mp4").write_bytes(data)
    messages = user({"video": str(folder / "damaged.mp4"), "fps": 10})
    with pytest.warns(VideoWarning):
        got = prepare(messages, processor)
    groups = int(got["video_grid_thw"][0, 0])
    assert 1 <= groups < 15  # of 30 frames
    assert int((got["input_ids"] == processor.tokenizer.token_id("<|video_pad|>")).sum()) == groups * 48


NAMES = "min_pixels, max_pixels, resized_height, resized_width"
FILE_NAMES = f"{NAMES}, total_pixels, fps, nframes, min_frames, max_frames, video_start, video_end"
ASIDES = "seconds, sample_fps, raw_fps"
PICTURE, CLIP = "a path, or uint8 pixels c h w with c=3", "a path, or uint8 pixels t c h w with c=3"


@pytest.mark.parametrize(
    "part, message",
    [
        ({"video": None}, f"announced, but not given; expected {CLIP}"),
        ({"type": "image"}, f"announced, but not given; expected {PICTURE}"),
        ({"video": 7}, f"a int, expected {CLIP}"),
        ({"image": moving(2, 8, 8)}, f"uint8 pixels of shape (2, 3, 8, 8), expected {PICTURE}"),
        ({"image": torch.zeros(3, 8, 8)}, f"float32 pixels of shape (3, 8, 8), expected {PICTURE}"),
        ({"video": moving(2, 8, 8)[:, :1]}, f"uint8 pixels of shape (2, 1, 8, 8), expected {CLIP}"),
        ({"video": [moving(1, 8, 8)]}, f"uint8 pixels of shape (1, 3, 8, 8), expected {PICTURE}"),
        ({"video": []}, "0 frames, a clip has at least one"),
        ({"video": moving(0, 8, 8)}, "0 frames, a clip has at least one"),
        (
            {"video": [moving(1, 8, 8)[0], moving(1, 8, 16)[0]]},
            "frames of 2 sizes, [(8, 8), (8, 16)], expected one",
        ),
        ({"video": moving(2, 8, 8), "seconds": [1.0]}, "1 seconds for 2 frames, expected one for each"),
        ({"video": moving(2, 8, 8), "sample_fps": 0}, "sample_fps=0 is not a number of frames per second above 0"),
        (
            {"video": moving(2, 8, 8), "fps": 2},
            f"'fps' says nothing about such a clip, expected one of {NAMES}, total_pixels, {ASIDES}",
        ),
        (
            {"video": "a.mp4", "frames": 2},
            f"'frames' says nothing about such a clip, expected one of {FILE_NAMES}, {ASIDES}",
        ),
        ({"image": "a.png", "fps": 2}, f"'fps' says nothing about such a picture, expected one of {NAMES}"),
        ({"video": "a.mp4", "fps": "2"}, "fps='2', expected a number"),
        ({"video": "a.mp4", "nframes": True}, "nframes=True, expected a number"),
        ({"video": "a.mp4", "resized_height": 32}, "height=32, width=None: give both or none"),
        (
            {"video": "https://example.org/a.mp4"},
            "https://example.org/a.mp4: only local files are read; download it and give its path",
        ),
        (
            {"video": moving(2, 8, 8), "min_pixels": 99, "max_pixels": 98},
            "max_pixels=98 is below min_pixels=99; raise the one or lower the other",
        ),
    ],
)
def test_a_picture_or_clip_that_cannot_be_meant_is_refused_by_its_place(part, message, processor):
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": ["x", part]}]
    messages[1]["content"][0] = {"text": "x"}
    for use in (prepare, plan):
        with pytest.raises(ValueError) as error:
            use(messages, processor)
        assert str(error.value) == f"message 1, part 1: {message}"


@pytest.mark.parametrize("use", [prepare, plan])
def test_files_that_are_not_what_they_are_given_as_are_refused(use, processor, folder):
    def refused(part):
        with pytest.raises(ValueError) as error:
            use(user(part), processor)
        return str(error.value)

    path = str(folder / "one_frame.mp4")
    assert refused({"video": path}) == (
        f"message 0, part 0: {path}: 1 frame, a video has at least 2; give it as an 'image'"
    )
    path = str(folder / "five_frames.mp4")
    assert refused({"image": path}) == f"message 0, part 0: {path}: 5 frames, expected a picture; give it as a 'video'"
    assert refused({"video": [path]}) == (f"{path}: 5 frames, expected a picture, one of the frames of a clip")
    assert refused({"video": path, "nframes": 6}) == (
        f"message 0, part 0: {path}: 6 frames asked for: 6 is not between 2 and the 5 frames of the clip; "
        "ask for a number in between, or load with repeat_short=True"
    )
    photos = [str(folder / name) for name in ("photo0.png", "other.png")]
    assert refused({"video": photos}) == "message 0, part 0: frames of 2 sizes, [(8, 9), (50, 70)], expected one"
    for path in (str(folder / "missing.mp4"), str(folder / "cut.mp4")):
        assert path in refused({"video": path}) and "\n" not in refused({"video": path})


def test_a_local_address_is_a_path(processor, folder):
    path = str(folder / "photo0.png")
    assert plan(user({"image": f"file://{path}"}), processor).media[0].name == path


def test_a_placeholder_that_stands_for_nothing_is_refused_before_anything_is_read(processor):
    with pytest.raises(ValueError) as error:
        prepare(user({"video": "missing.mp4"}, {"text": "and <|video_pad|>"}), processor)
    assert str(error.value) == (
        "prompt: 2 <|video_pad|> placeholders, but 1 video; write one <|video_pad|> for each video"
    )


def test_the_worked_example_has_10938_tokens(tokenizer):
    indices = [round(31 * place) for place in range(30)]  # 15 s, 1280 x 720, 60 frames per second
    text = chat_text(user({"video": "clip.mp4"}, {"text": "请描述这个视频的内容"}), add_generation_prompt=True)
    clip = {"video_grids": [(15, 40, 72)], "video_seconds": [timestamps(indices, 60.0)]}
    assert len(tokenizer.encode(expand(text, **clip))) == 10938
    assert len(tokenizer.encode(expand(text, nested=True, **clip))) == 10940
