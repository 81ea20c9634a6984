import html
import json
import re
from dataclasses import replace

import pytest
import torch

from minivid import caption
from minivid.data.clip_questions import QUESTIONS, ClipQuestions
from minivid.data.moving_shapes import COLOURS, MOTIONS, SHAPES, read_labels
from minivid.data.processor import Processor
from minivid.models.pretrained import load_pretrained
from minivid.models.qwen3_vl import SMALL_CONFIG, Qwen3VL
from minivid.training.finetune import clip_gradients

FEW = {"train": 6, "validation": 2, "test": 6}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tests run side by side: two threads each would wait for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caption, "THREADS", 1)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caption")
    return folder, caption.run(folder, seed=3, steps=2, clips=FEW, quiet=True)


def test_leaves_what_it_promises(finished):
    folder, metrics = finished
    names = {path.name for path in folder.iterdir()}
    assert names - {"tensorboard"} >= {
        "answers.jsonl", "clips", "config.json", "curves.png", "generation_config.json", "history.jsonl",
        "metrics.json", "model.safetensors", "pictures", "preprocessor_config.json", "report.html", "tokenizer.json",
        "video_preprocessor_config.json",
    }  # fmt: skip
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    for split, count in FEW.items():
        assert len(read_labels(folder / "clips" / split)) == count
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    assert (folder / "eyes" / "history.jsonl").is_file()
    assert set(metrics["exact"]) == set(QUESTIONS)


def test_every_question_is_written_down_with_its_answer(finished):
    folder, metrics = finished
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    labels = {label.file: label for label in read_labels(folder / "clips" / "test")}
    assert len(rows) == len(QUESTIONS) * FEW["test"]
    for row in rows:
        assert row["question"] in QUESTIONS[row["about"]]
        assert row["right"] == getattr(labels[row["file"]].description, row["about"])
    for about, share in metrics["exact"].items():
        mine = [row["answer"] == row["right"] for row in rows if row["about"] == about and not row["held_out"]]
        assert share == sum(mine) / len(mine)


def test_the_folder_is_a_published_model_that_gives_the_same_answers(finished):
    folder, _ = finished
    model, processor = load_pretrained(folder), Processor.from_folder(folder)
    test = ClipQuestions.load(folder / "clips" / "test", processor)
    again = [answered.answer for answered in caption.ask(model, test)]
    assert again == [json.loads(line)["answer"] for line in (folder / "answers.jsonl").read_text().splitlines()]
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == processor.tokenizer.token_id("<|im_end|>")
    assert processor.video == replace(caption.VIDEO, total_pixels=processor.video.total_pixels)


def test_the_report_needs_nothing_but_itself(finished):
    folder, _ = finished
    text = (folder / "report.html").read_text(encoding="utf-8")
    prose = re.sub(r'"data:[^"]*"', "", text)
    for line in (folder / "answers.jsonl").read_text().splitlines():  # who has learnt for two steps may say anything
        prose = prose.replace(html.escape(ascii(json.loads(line)["answer"])), "")
    assert "http" not in prose and "url(" not in prose and "<script" not in prose and "$" not in prose
    assert text.count("<img") == 2 == len(list((folder / "pictures").iterdir()))
    assert "&lt;|vision_start|&gt;" in text  # the prompt is shown as text


def test_prints_a_table_and_the_next_command(finished):
    folder, metrics = finished
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    text = caption._summary(folder, metrics, [caption.Answered(**row) for row in rows])
    assert f"{metrics['exact']['colour']:.1%}" in text and "unseen combinations" in text
    assert f"--checkpoint {folder} --prompt" in text and "minivid describe" in text


@pytest.fixture
def without_report(monkeypatch):
    """Drawing takes most of the time of a run this short, and has tests of its own."""
    monkeypatch.setattr(caption._Report, "write", lambda self: None)


BOTH = 2 + 2 * caption.EYES.steps // caption.TRAINING.steps


@pytest.mark.parametrize("stop", [2, BOTH], ids=["the eyes learn", "the whole learns"])
def test_stopped_and_begun_again_it_ends_in_the_weights_of_a_run_without_a_stop(
    stop, finished, without_report, tmp_path, monkeypatch, capsys
):
    folder, _ = finished
    for name in ("EYES", "TRAINING"):
        monkeypatch.setattr(caption, name, replace(getattr(caption, name), save_every=1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("minivid.training.finetune.clip_gradients", _stop_at(stop))
        caption.run(tmp_path, seed=3, steps=2, clips=FEW)
    assert re.search(
        rf"after step {stop - 1} of {BOTH}.*last save, at most 1 steps back", capsys.readouterr().err, re.DOTALL
    )
    caption.run(tmp_path, seed=3, steps=2, clips=FEW, quiet=True)
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def _stop_at(step):
    """A clip_gradients at whose n-th call Ctrl-C is pressed."""
    calls = []

    def press(*arguments):
        calls.append(1)
        if len(calls) == step:
            raise KeyboardInterrupt
        return clip_gradients(*arguments)

    return press


def test_every_word_of_the_task_is_one_token():
    tokenizer = caption.new_tokenizer()
    for about in ("colour", "shape", "motion"):
        for word in {"colour": COLOURS, "shape": SHAPES, "motion": MOTIONS}[about]:
            assert len(tokenizer.encode(word)) == 1 == len(tokenizer.encode(" " + word))
    assert len(tokenizer.encode("a red circle moves left")) == 5
    assert tokenizer.decode(tokenizer.encode("Größe? 大")) == "Größe? 大"  # others are spelled


def test_every_wording_is_asked_in_training():
    asked = {turn for view in caption.VIEWS for turns in view.conversations for turn in turns}
    assert {turn.question for turn in asked} == {text for wordings in QUESTIONS.values() for text in wordings}


@pytest.mark.parametrize("views", [caption.EYES_VIEWS, caption.VIEWS])
def test_no_shape_is_learnt_where_colour_and_motion_both_have_a_word(views):
    """Else what is never together in training could be ruled out, and no one would have to look."""
    hidden = {caption.nameless_motion: "motion", caption.nameless_colour: "colour", None: None}
    for view in views:
        asked = {turn.about for turns in view.conversations for turn in turns}
        assert hidden[view.change] not in asked
        if view.change is None:
            assert set(SHAPES) <= set(view.unasked) and "shape" not in asked
        elif "caption" in asked:  # whose end is the motion
            assert view.change is caption.nameless_motion and set(MOTIONS) <= set(view.unasked)


def test_what_has_no_word_is_not_shown(finished):
    """Nothing but the first picture where the motion is hidden, and other colours, as bright, where the colour is."""
    folder, _ = finished
    train = ClipQuestions.load(folder / "clips" / "train", Processor.from_folder(folder))
    frames, clip = train.clips[0].frames, train.labels[0].description
    rng = torch.Generator().manual_seed(0)
    still = caption.nameless_motion(frames, clip, rng)
    assert torch.equal(still[0], frames[0]) and still.shape == frames.shape
    other = caption.nameless_colour(frames, clip, rng)
    torch.testing.assert_close(other.mean(1), frames.mean(1), atol=1e-5, rtol=0)
    assert (other - frames).abs().max() > 0.1


def test_a_share_of_frozen_clips_is_expected_around_one_in_four():
    def still(right):
        return [
            caption.Answered("f", "motion", "q", "left" if i < right else "up", "left", "plain", False)
            for i in range(240)
        ]

    found = caption._frozen(still(60))
    assert found["motion"] == 0.25 and found["as_expected"]
    assert found["low"] == pytest.approx(0.16569, abs=1e-5) and found["high"] == pytest.approx(0.33431, abs=1e-5)
    assert not caption._frozen(still(100))["as_expected"] and not caption._frozen(still(20))["as_expected"]


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learns_to_answer_in_words_about_clips_it_has_never_seen(seed, without_report, tmp_path):
    metrics = caption.run(tmp_path, seed=seed, quiet=True)
    print(json.dumps(metrics))
    assert min(metrics["exact"][about] for about in ("colour", "shape", "motion")) >= 0.95
    assert metrics["unseen_combinations"]["caption"] >= 0.83
    assert metrics["frozen"]["as_expected"]
    assert sum(metrics["seconds"].values()) < 240


def test_no_answer_without_an_end(monkeypatch, unchecked):
    class Mute(ClipQuestions):
        def __init__(self):
            object.__setattr__(self, "processor", Mute.Processor())

        class Processor:
            pad_token_id = 0

            class tokenizer:
                token_id = staticmethod({"<|im_end|>": 9}.get)
                decode = staticmethod(lambda ids: " ".join(map(str, ids)))

        def prompts(self, items):
            return len(items)

    said = torch.tensor([[1, 9, 0], [1, 2, 3], [9, 0, 0]])
    monkeypatch.setattr(caption, "generate", lambda model, inputs, **options: said[:inputs])
    seen = []
    assert caption.answer_all(Qwen3VL(SMALL_CONFIG), Mute(), [None] * 3, on_batch=seen.append) == ["1", "1 2 3...", ""]
    assert seen == [3]
