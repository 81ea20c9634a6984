"""What the README says of the files and of the worked example is what stands there and what comes out."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from minivid.video.clip import ClipSettings, plan_clip, plan_table
from minivid.video.decode import VideoInfo

ROOT = Path(__file__).parent.parent
# The order of the way from a file to an answer.
ORDER = {
    "": ["shapes", "plots", "whole_files", "report", "cli", "demo", "caption", "describe", "classify", "converse"],
    "video": ["containers", "timeline", "ahead", "decode", "sample", "resize", "patches", "augment", "clip", "write"],
    "text": ["byte_pair", "characters", "tokenizer_files", "chat"],
    "layers": ["attention", "kv_cache", "positions", "norms", "feed_forward", "transformer", "cross_attention"]
    + ["conv3d", "dynamic_conv", "linear", "lstm", "patch_embed", "vmap"],
    "models": ["clip_classifier", "conv3d_classifier", "conv_lstm", "vivit", "qwen3_vl_vision", "qwen3_vl", "generate"]
    + ["pretrained", "zoo"],
    "data": ["moving_shapes", "clip_questions", "labelled_files", "file_clips", "clip_cache", "augmentation", "batches"]
    + ["processor", "conversations", "conversation_files", "held_out"],
    "training": ["cross_entropy", "objectives", "next_token", "bag_of_words", "optimizer", "muon", "schedule"]
    + ["what_trains", "finetune_config", "finetune", "recompute", "history", "run_folder", "output_folder", "threads"]
    + ["checkpoint", "sealed_folder", "processes", "distributed", "metrics"],
    "classroom": ["check", "grade", "judge", "catalogue", "evidence", "museum", "feedback", "prose"]
    + ["child", "sandbox", "remote", "wire", "pipe"],
}

if not (ROOT / "README.md").exists():  # the tests of an installed copy
    pytest.skip("no README beside the tests", allow_module_level=True)


def sentence(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()[0]


def tree() -> str:
    """The folder listing with the first sentence of every file's docstring."""
    package = ROOT / "minivid"
    lines = ["minivid/"]
    for folder, names in ORDER.items():
        if folder:
            lines.append(f"  {folder + '/':<20} {sentence(package / folder / '__init__.py')}")
        indent = "    " if folder else "  "
        lines += [f"{indent + name + '.py':<22} {sentence(package / folder / f'{name}.py')}" for name in names]
    return "\n".join(lines)


def test_the_tree_lists_every_file_with_its_own_sentence():
    files = {path.relative_to(ROOT / "minivid").with_suffix("") for path in (ROOT / "minivid").rglob("*.py")}
    listed = {Path(folder) / name for folder, names in ORDER.items() for name in names}
    assert {path for path in files if not path.name.startswith("__")} == listed
    assert tree() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_worked_example_is_what_the_command_prints():
    info = VideoInfo(1280, 720, 60.0, 900, 15.0, 0, "h264", True, "mov,mp4,m4a,3gp,3g2,mj2", 0.0, 1.0, False)
    table = plan_table(plan_clip(info, ClipSettings(min_pixels=64 * 32 * 32, total_pixels=20480 * 32 * 32)))
    assert table in (ROOT / "README.md").read_text(encoding="utf-8")
    assert table != plan_table(plan_clip(replace(info, frames=840), ClipSettings(min_pixels=64 * 32 * 32)))
