import dataclasses
import json
import math
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st

from minivid.shapes import ShapeError
from minivid.video import clip as library
from minivid.video.clip import ClipSettings, load_clip, load_pixels, plan_clip, plan_json, plan_table
from minivid.video.decode import VideoError, VideoInfo, VideoWarning, probe, read_frames
from minivid.video.patches import patchify
from minivid.video.resize import normalize, resize
from minivid.video.write import write_video

VIDEO_BUDGET = json.loads((Path(__file__).parents[1] / "data" / "video_budget.json").read_text())["cases"]
# The published reader snaps a size asked for to whole tokens; here an exact size is taken as it is.
VIDEO_BUDGET = [case for case in VIDEO_BUDGET if "resized_height" not in case["ele"]]
WORKED_EXAMPLE = ClipSettings(total_pixels=20480 * 32 * 32, min_pixels=64 * 32 * 32)


def video_info(frames=900, height=720, width=1280, fps=60.0):
    return VideoInfo(
        width=width,
        height=height,
        fps=fps,
        frames=frames,
        duration=frames / fps,
        rotation=0,
        codec="h264",
        has_audio=False,
        container="mov",
        start=0.0,
        pixel_aspect=1.0,
        interlaced=False,
    )


def moving(t, h=48, w=64):
    """A bright square that moves over a dark gradient, so that every frame differs."""
    pixels = torch.zeros(t, 3, h, w, dtype=torch.uint8)
    pixels[:] = torch.linspace(0, 90, w).byte()
    for i in range(t):
        pixels[i, i % 3, h // 3 : h // 2, (3 * i) % (w - 9) :][:, :9] = 220
    return pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Clips of 3 s, of 5 frames, with uneven times, a photo, and a damaged one."""
    place = tmp_path_factory.mktemp("clips")
    write_video(place / "three_seconds.mp4", moving(30), fps=10, key_frame_interval=8)
    write_video(place / "five_frames.mp4", moving(5), fps=10)
    write_video(place / "uneven.mp4", moving(6), seconds=[0.0, 0.1, 0.9, 1.0, 1.1, 3.0])
    pillow = pytest.importorskip("PIL.Image")
    pillow.fromarray(rearrange(moving(1, 50, 70)[0], "c h w -> h w c").numpy()).save(place / "photo.png")
    whole = bytearray((place / "three_seconds.mp4").read_bytes())
    half, end = len(whole) // 3, 2 * len(whole) // 3
    whole[half:end] = bytes(end - half)
    (place / "damaged.mp4").write_bytes(whole)
    return place


SETTINGS = {
    "defaults": ClipSettings(),
    "by rate": ClipSettings(fps=4),
    "by number": ClipSettings(frames=8, patch_size=8),
    "a range": ClipSettings(start=0.95, end=2.5, patch_size=4, spatial_merge_size=3),
    "exact size": ClipSettings(frames=6, height=24, width=40, patch_size=8, spatial_merge_size=1),
    "smaller": ClipSettings(min_pixels=16 * 32, max_pixels=48 * 48, patch_size=8),
    "three deep": ClipSettings(frames=8, height=32, width=32, temporal_patch_size=3),
    "one deep": ClipSettings(frames=4, height=32, width=32, temporal_patch_size=1),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_clip_is_the_stages_one_after_the_other(folder, settings):
    path = folder / "three_seconds.mp4"
    clip, plan = load_clip(path, settings), plan_clip(probe(path), settings)
    raw = read_frames(path, plan.indices)
    small = resize(raw.pixels, plan.size[:2])
    cut = {name: getattr(settings, name) for name in ("patch_size", "temporal_patch_size", "spatial_merge_size")}
    rows, grid = patchify(normalize(small), **cut)
    assert torch.equal(clip.patches, rows)
    assert clip.grid == grid == plan.grid
    assert torch.equal(clip.frames, normalize(small))
    assert torch.equal(clip.seconds, raw.seconds)
    assert torch.equal(clip.indices, plan.indices)
    assert torch.equal(load_pixels(path, settings).pixels, small)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_plan_says_what_the_clip_will_be(folder, settings):
    path = folder / "three_seconds.mp4"
    clip, plan = load_clip(path, settings), plan_clip(probe(path), settings)
    shapes = {stage.name: (stage.shape, stage.bytes) for stage in plan.stages}
    assert shapes["normalised"][0] == clip.frames.shape
    assert shapes["patches"] == (clip.patches.shape, clip.patches.nbytes)
    assert plan.patches == clip.patches.shape
    assert plan.tokens * settings.spatial_merge_size**2 == len(clip.patches)
    assert math.prod(plan.segments) == len(clip.patches)
    # 10 frames a second without a gap: planned times are the real ones, to the tick of the file.
    assert torch.allclose(plan.seconds, clip.seconds, atol=1e-4)


def test_worked_example():
    plan = plan_clip(video_info(), WORKED_EXAMPLE)
    assert plan.indices.tolist() == list(range(0, 900, 31))
    assert (plan.size.height, plan.size.width, plan.size.bound) == (640, 1152, "per-frame cap")
    assert plan.grid == (15, 40, 72)
    assert plan.patches == (43200, 1536)
    assert plan.tokens == 10800
    assert plan.segments == (15, 2880)
    assert {stage.name: stage.bytes for stage in plan.stages} == {
        "video": 900 * 3 * 720 * 1280,
        "chosen": 30 * 3 * 720 * 1280,
        "resized": 30 * 3 * 640 * 1152,
        "normalised": 4 * 30 * 3 * 640 * 1152,
        "patches": 4 * 43200 * 1536,
        "grid": 0,
        "segments": 0,
        "tokens": 0,
    }


@pytest.mark.parametrize("case", VIDEO_BUDGET, ids=[case["id"] for case in VIDEO_BUDGET])
def test_plan_is_that_of_the_published_reader(case):
    t, h, w = case["shape_thw"]
    asked = {"frames" if name == "nframes" else name: value for name, value in case["ele"].items()}
    asked.pop("sample_fps", None)  # ignored by the published reader, too
    settings = ClipSettings(**asked, patch_size=case["image_patch_size"])
    if "error" in case:
        with pytest.raises(ValueError):
            plan_clip(video_info(t, h, w, case["video_fps"]), settings)
        return
    plan = plan_clip(video_info(t, h, w, case["video_fps"]), settings)
    assert plan.count.frames == case["out"]["nframes"]
    assert list(plan.size[:2]) == case["out"]["resized"]
    assert [plan.indices[:3].tolist(), plan.indices[-1].item()] == case["out"]["indices_head_tail"]


@given(
    st.integers(4, 2000), st.integers(32, 2000), st.integers(32, 2000), st.sampled_from([8, 14, 16]), st.integers(1, 3)
)
def test_patches_hold_every_pixel_of_the_resized_frames(frames, height, width, patch_size, depth):
    settings = ClipSettings(patch_size=patch_size, temporal_patch_size=depth)
    plan = plan_clip(video_info(frames, height, width), settings)
    t = math.ceil(plan.count.frames / depth) * depth
    assert math.prod(plan.patches) == t * 3 * plan.size.height * plan.size.width
    assert plan.size.height % settings.factor == plan.size.width % settings.factor == 0


def test_photo_is_a_clip_of_one_frame_held_as_often_as_a_patch_is_deep(folder):
    clip = load_clip(folder / "photo.png")
    assert clip.grid == (1, 4, 4)
    assert clip.frames.shape == (1, 3, 64, 64)
    depth = rearrange(clip.patches, "n (c tau p) -> tau n c p", c=3, tau=2)
    assert torch.equal(depth[0], depth[1])
    assert clip.seconds.tolist() == [0.0]


def test_photo_keeps_a_size_that_a_frame_of_a_clip_may_not_have():
    assert plan_clip(video_info(frames=1)).size[:2] == (704, 1280)
    assert plan_clip(video_info(frames=2)).size[:2] == (640, 1152)


def test_short_clip_is_an_error_or_repeats_frames_on_request(folder):
    path = folder / "five_frames.mp4"
    with pytest.raises(
        ValueError, match=r"five_frames.mp4: 8 frames asked for: 8 is not between 2 and the 5 frames.*repeat_short=True"
    ):
        load_clip(path, ClipSettings(frames=8))
    settings = ClipSettings(frames=8, repeat_short=True, height=32, width=32)
    clip = load_clip(path, settings)
    assert clip.indices.tolist() == plan_clip(clip.info, settings).indices.tolist() == [0, 1, 1, 2, 2, 3, 3, 4]
    assert clip.frames.shape == (8, 3, 32, 32)
    assert torch.equal(clip.frames[1], clip.frames[2])
    assert torch.equal(clip.frames, normalize(resize(read_frames(path, clip.indices).pixels, (32, 32))))


def test_photo_fills_a_fixed_number_of_frames_on_request(folder):
    clip = load_clip(folder / "photo.png", ClipSettings(frames=8, repeat_short=True, height=32, width=32))
    assert clip.frames.shape == (8, 3, 32, 32)
    assert clip.indices.tolist() == [0] * 8


def test_repeat_short_changes_nothing_where_there_are_enough():
    usual, kind = (plan_clip(video_info(), ClipSettings(frames=8, repeat_short=repeat)) for repeat in (False, True))
    assert torch.equal(usual.indices, kind.indices)
    assert usual.count == kind.count


def test_seconds_are_those_of_the_file_not_of_its_mean_rate(folder):
    clip = load_clip(folder / "uneven.mp4", ClipSettings(frames=6, height=32, width=32))
    # A tick of the file is 1/90000 s.
    assert torch.allclose(clip.seconds, torch.tensor([0, 0.1, 0.9, 1.0, 1.1, 3.0], dtype=torch.float64), atol=1e-5)


def test_damaged_file_gives_what_came_and_a_warning_or_an_error(folder):
    path, settings = folder / "damaged.mp4", ClipSettings(frames=30, height=32, width=32)
    with pytest.warns(VideoWarning, match="damaged.mp4"):
        clip = load_clip(path, settings)
    assert 0 < len(clip.indices) < 30
    assert clip.frames.shape == (len(clip.indices), 3, 32, 32)
    assert clip.grid == (math.ceil(len(clip.indices) / 2), 2, 2)
    whole = load_clip(folder / "three_seconds.mp4", settings)
    assert torch.equal(clip.frames[0], whole.frames[0])
    with pytest.warns(VideoWarning, match="damaged.mp4"):
        pixels = load_pixels(path, settings)
    assert torch.equal(pixels.indices, clip.indices)
    assert torch.equal(normalize(pixels.pixels), clip.frames)
    for load in (load_clip, load_pixels):
        with pytest.raises(VideoError, match="damaged.mp4"):
            load(path, settings, strict=True)


def test_healthy_files_give_no_warning(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("three_seconds.mp4", "five_frames.mp4", "uneven.mp4", "photo.png"):
            load_clip(folder / name)


def test_missing_file_is_an_error_that_names_it(folder):
    with pytest.raises(VideoError, match="nothing.mp4") as caught:
        load_clip(folder / "nothing.mp4")
    assert caught.value.kind == "not_found"


def test_error_in_the_other_thread_comes_out(folder, monkeypatch):
    def fail(pixels, size, **options):
        raise MemoryError("no room for 7 frames")

    monkeypatch.setattr(library, "resize", fail)
    for load in (load_clip, load_pixels):
        with pytest.raises(MemoryError, match="no room for 7 frames"):
            load(folder / "three_seconds.mp4")


@pytest.mark.parametrize("load", [load_clip, load_pixels])
def test_frames_are_made_only_a_few_ahead_of_the_work_and_let_go_after_it(folder, monkeypatch, load):
    ahead, alive, made, used = [], [], [], []
    decoded = library.Video.frames

    def watched(*arguments, **keywords):
        for index, second, pixels in decoded(*arguments, **keywords):
            ahead.append(len(made) - len(used))
            made.append(weakref.ref(pixels))
            alive.append(sum(frame() is not None for frame in made))
            yield index, second, pixels

    def resized(pixels, size, **options):
        used.append(size)
        return resize(pixels, size, **options)

    monkeypatch.setattr(library.Video, "frames", watched)
    monkeypatch.setattr(library, "resize", resized)
    load(folder / "three_seconds.mp4", ClipSettings(frames=30))
    assert len(ahead) == len(used) == 30
    assert max(ahead) <= 3
    # Two that wait, one in work, one in hand, one whose result is being taken.
    assert max(alive) <= 5


def test_a_range_of_seconds_is_kept_to():
    plan = plan_clip(video_info(), ClipSettings(start=5, end=7))
    assert plan.indices.tolist() == [300, 340, 380, 420]
    assert plan.seconds.tolist() == [5, 340 / 60, 380 / 60, 7]


def test_plan_reads_as_a_table():
    table = plan_table(plan_clip(video_info(), WORKED_EXAMPLE))
    lines = {line.split()[0]: line for line in table.splitlines() if line}
    assert table.startswith("h264, 1280 x 720, 900 frames, 60 per second, 15 s\n")
    assert "15 s x 2 frames per second = 30; frames 0, 31, 62, ..., 899 at 0.000 to 14.983 s" in lines["chosen"]
    assert "[30, 3, 640, 1152]" in lines["resized"] and "63.3 MiB" in lines["resized"]
    assert "per-frame cap: 704 x 1280 is above 786432 pixels" in lines["resized"]
    assert "[43200, 1536]" in lines["patches"] and "253.1 MiB" in lines["patches"]
    assert "15 40 72" in lines["grid"]
    assert "[15, 2880]" in lines["segments"]
    assert "[10800]" in lines["tokens"]


def test_table_of_a_photo_speaks_of_one_frame():
    table = plan_table(plan_clip(video_info(frames=1)))
    assert table.startswith("h264, 1280 x 720, 1 frame,")
    assert "a picture: its only frame; frame 0 at 0.000 s" in table
    assert "the last frame 2 times" in table


def test_plan_is_plain_json():
    plan = plan_clip(video_info(), WORKED_EXAMPLE)
    said = json.loads(json.dumps(plan_json(plan), allow_nan=False))
    assert said["frames"]["indices"] == plan.indices.tolist()
    assert said["frames"]["seconds"][1] == pytest.approx(31 / 60)
    assert (said["size"]["height"], said["size"]["width"], said["size"]["bound"]) == (640, 1152, "per-frame cap")
    assert (said["grid"], said["patches"], said["tokens"]) == ([15, 40, 72], [43200, 1536], 10800)
    assert said["segments"] == {"count": 15, "patches": 2880}
    assert [stage["name"] for stage in said["stages"]] == [stage.name for stage in plan.stages]
    assert said["settings"] == dataclasses.asdict(WORKED_EXAMPLE)
    assert said["video"]["frames"] == 900


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"height": 64}, "height=64, width=None: give both or none"),
        ({"height": 64, "width": 96, "max_pixels": 5}, "height=64, width=96 and a bound in pixels are both given"),
        ({"patch_size": 0}, "patch_size=0 is not at least 1"),
        ({"temporal_patch_size": -2}, "temporal_patch_size=-2 is not at least 1"),
        ({"spatial_merge_size": 0}, "spatial_merge_size=0 is not at least 1"),
    ],
)
def test_settings_that_contradict_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ClipSettings(**fields)


def test_exact_size_must_be_whole_tokens():
    with pytest.raises(ShapeError, match="h=112 is not a multiple of 32"):
        plan_clip(video_info(), ClipSettings(height=112, width=96))


def test_rate_and_number_together_are_refused():
    with pytest.raises(ValueError, match="fps=1 and frames=8 are both given"):
        plan_clip(video_info(), ClipSettings(fps=1, frames=8))
