import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minivid.data.conversations import plan
from minivid.data.processor import Processor
from minivid.text.byte_pair import BytePair
from minivid.video.clip import ClipSettings
from minivid.video.write import write_video

GOLDEN = json.loads((Path(__file__).with_name("chat.json")).read_text(encoding="utf-8"))
CUT = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
OURS = {"patch_size": 16, "temporal_patch_size": 2, "spatial_merge_size": 2}
HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
# As published with Qwen3-VL, but for what is of no interest here.
IMAGE = {"size": {"longest_edge": 16777216, "shortest_edge": 65536}, **CUT, **HALVES}
VIDEO = {"size": {"longest_edge": 25165824, "shortest_edge": 4096}, **CUT, **HALVES, "do_sample_frames": True}


@pytest.fixture(scope="module")
def tokenizer():
    made = GOLDEN["tokenizer"]
    special = {name: token for name, token in made["vocab"].items() if name.startswith("<|")}
    return BytePair(made["vocab"], [tuple(pair.split(" ")) for pair in made["merges"]], special_tokens=special)


@pytest.fixture
def written(tmp_path, tokenizer):
    def write(**files):
        tokenizer.save(tmp_path)
        for name, said in files.items():
            (tmp_path / f"{name}.json").write_text(said if isinstance(said, str) else json.dumps(said))
        return Processor.from_folder(tmp_path)

    return write


def test_published_files_are_read(written):
    got = written(preprocessor_config=IMAGE, video_preprocessor_config=VIDEO)
    assert got.image == ClipSettings(**OURS, min_pixels=65536, max_pixels=16777216)
    assert got.video == ClipSettings(**OURS, min_pixels=4096, total_pixels=12582912)
    assert not got.nested
    assert got.tokenizer.encode("<|im_start|>user") == [343, 258] and got.pad_token_id == 342
    assert (got.patch_size, got.temporal_patch_size, got.spatial_merge_size) == (16, 2, 2)


def test_both_may_stand_in_one_file(written):
    got = written(
        processor_config={"image_processor": IMAGE, "video_processor": {**VIDEO, "num_frames": None, "fps": 3}}
    )
    assert got.image == ClipSettings(**OURS, min_pixels=65536, max_pixels=16777216)
    assert got.video == ClipSettings(**OURS, min_pixels=4096, total_pixels=12582912, fps=3)


def test_older_files_name_the_bounds_themselves(written):
    got = written(preprocessor_config={"min_pixels": 3136, "max_pixels": 12845056, "size": None, "patch_size": 14})
    assert got.image == ClipSettings(patch_size=14, min_pixels=3136, max_pixels=12845056)
    assert got.video == ClipSettings(patch_size=14)


def test_what_is_left_open_the_model_says(written):
    model = {"vision_config": {"patch_size": 4, "temporal_patch_size": 3, "spatial_merge_size": 1, "depth": 2}}
    got = written(config=model, video_preprocessor_config={"patch_size": 4, "max_frames": 10, "min_frames": 2})
    cut = {"patch_size": 4, "temporal_patch_size": 3, "spatial_merge_size": 1}
    assert got.image == ClipSettings(**cut) and got.video == ClipSettings(**cut, max_frames=10, min_frames=2)


def test_a_folder_with_a_tokenizer_alone_is_read_as_the_published_models(written):
    got = written()
    assert got.image == got.video == ClipSettings()


def test_a_fixed_number_of_frames_shares_the_bounds(written, tmp_path):
    cut = {"patch_size": 8, "merge_size": 2}
    got = written(
        video_preprocessor_config={**cut, "num_frames": 8, "size": {"shortest_edge": 8192, "longest_edge": 8192}}
    )
    settings = {"frames": 8, "repeat_short": True, "min_pixels": 1024, "total_pixels": 4096}
    assert got.video == ClipSettings(patch_size=8, **settings)
    for name, frames, seconds in (("even", 16, None), ("uneven", 6, [0.0, 0.1, 0.9, 1.0, 1.1, 3.0])):
        pixels = torch.randint(0, 255, (frames, 3, 64, 64), dtype=torch.uint8)
        write_video(tmp_path / f"{name}.mp4", pixels, **({"seconds": seconds} if seconds else {"fps": 8}))
        [clip] = plan([{"role": "user", "content": [{"video": str(tmp_path / f"{name}.mp4")}]}], got).media
        assert (clip.frames, clip.size[:2], clip.grid) == (8, (32, 32), (4, 4, 4))


def test_another_tokenizer_can_be_given(tmp_path, tokenizer):
    assert Processor.from_folder(tmp_path, tokenizer=tokenizer).tokenizer is tokenizer


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"image": ClipSettings(min_pixels=1024, max_pixels=4096)},
        {"video": ClipSettings(min_pixels=2048, total_pixels=123456, fps=1.5, min_frames=6, max_frames=20)},
        {"video": ClipSettings(max_pixels=50000)},
        {"video": ClipSettings(frames=8, repeat_short=True, min_pixels=1000.5, total_pixels=5000.5)},
    ],
)
def test_what_was_saved_is_read_again(change, tokenizer, tmp_path):
    made = Processor(tokenizer, **change)
    made.save(tmp_path / "new" / "folder")
    got = Processor.from_folder(tmp_path / "new" / "folder")
    # What was left open is written down as the numbers that hold.
    image = {"min_pixels": 4 * 1024, "max_pixels": 16384 * 1024}
    video = {"min_pixels": 128 * 1024, "total_pixels": 115200 * 1024, **({} if made.video.frames else {"fps": 2})}
    for kind, filled in (("image", image), ("video", video)):
        settings = getattr(made, kind)
        left = {name: value for name, value in filled.items() if getattr(settings, name) is None}
        assert getattr(got, kind) == replace(settings, **left)
    text = "<|im_start|>user\nDescribe this video 这个"
    assert got.tokenizer.encode(text) == tokenizer.encode(text)
    made.save(tmp_path / "new" / "folder")  # over the old ones
    assert Processor.from_folder(tmp_path / "new" / "folder").image == got.image


def test_saved_files_hold_what_published_readers_look_for(tokenizer, tmp_path):
    Processor(tokenizer, video=ClipSettings(max_pixels=50000)).save(tmp_path)
    image = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert image == {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": 4096, "longest_edge": 16777216},
        **CUT,
        **HALVES,
    }
    video = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert video == {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": 131072, "longest_edge": 235929600},
        **CUT,
        **HALVES,
        "max_frame_pixels": 50000,
        "fps": 2.0,
        "min_frames": 4,
        "max_frames": 768,
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "preprocessor_config.json",
        "tokenizer.json",
        "video_preprocessor_config.json",
    ]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"image": ClipSettings(total_pixels=9)},
            "image: total_pixels=9 has no place in a model's files; leave it open",
        ),
        ({"video": ClipSettings(start=1.5)}, "video: start=1.5 has no place in a model's files; leave it open"),
        ({"video": ClipSettings(end=2)}, "video: end=2 has no place in a model's files; leave it open"),
        (
            {"video": ClipSettings(height=32, width=64)},
            "video: height=32 has no place in a model's files; leave it open",
        ),
    ],
)
def test_what_files_cannot_say_is_refused(change, message, tokenizer, tmp_path):
    with pytest.raises(ValueError) as error:
        Processor(tokenizer, **change).save(tmp_path / "new")
    assert str(error.value) == message and not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["patch_size", "temporal_patch_size", "spatial_merge_size"])
def test_pictures_and_clips_are_cut_alike(name, tokenizer):
    with pytest.raises(ValueError, match=f"^{name}: 3 for pictures, 5 for clips; one model cuts both alike$"):
        Processor(tokenizer, image=ClipSettings(**{name: 3}), video=ClipSettings(**{name: 5}))


@pytest.mark.parametrize(
    "files, message",
    [
        (
            {"preprocessor_config": IMAGE, "video_preprocessor_config": {**VIDEO, "merge_size": 3}},
            "{folder}: spatial_merge_size is 2 for pictures, 3 for clips",
        ),
        (
            {"preprocessor_config": IMAGE, "config": {"vision_config": {"patch_size": 14}}},
            "{folder}: patch_size is 16 for pictures, 14 for the vision_config of config.json",
        ),
        (
            {"video_preprocessor_config": {**VIDEO, "image_mean": [0.48, 0.5, 0.5]}},
            "{folder}: image_mean [0.48, 0.5, 0.5], expected [0.5, 0.5, 0.5]: pixels are normalised to -1..1 here",
        ),
        (
            {"preprocessor_config": {**IMAGE, "image_std": [1, 1, 1]}},
            "{folder}: image_std [1, 1, 1], expected [0.5, 0.5, 0.5]: pixels are normalised to -1..1 here",
        ),
        (
            {"preprocessor_config": "{"},
            "{folder}/preprocessor_config.json: not JSON "
            "(Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
        ),
        ({"config": "[1]"}, "{folder}/config.json: a list, expected an object of settings"),
    ],
)
def test_files_that_contradict_or_cannot_be_read_are_named(files, message, written, tmp_path):
    with pytest.raises(ValueError) as error:
        written(**files)
    assert str(error.value) == message.replace("{folder}", str(tmp_path))


def test_a_folder_that_is_missing_is_named(tmp_path, tokenizer):
    for place in (tmp_path / "none", tmp_path / "file"):
        (tmp_path / "file").write_text("x")
        with pytest.raises(FileNotFoundError) as error:
            Processor.from_folder(place, tokenizer=tokenizer)
        assert str(error.value) == f"{place}: no such folder; give one with a model's files"
