"""Qwen3-VL beside transformers' on the same weights: prefill, decoding and a training step.

    pytest -m benchmark -n0 -s tests/benchmarks/test_qwen3_vl_cost.py

The peer runs as it is used, with torch's fused attention ("sdpa"), and ours with its default, "fastest"; a loop over
`model()` decodes, without what `generate` adds. Ours has its matrices laid out by `column_major`, as in `describe` ("as
loaded" without it), and takes its steps under `vector_products`, as in `generate`. Weights are random, 83 million
("mid") and 10 million ("tiny"). Ratios are of the processor time with one thread, which other jobs disturb least, and
of the clock with two.

The peer is installed by hand (transformers 5). MINIVID_BENCHMARK_ROUNDS says how many rounds (5), and
MINIVID_BENCHMARK_THREADS how many threads (1).
"""

import importlib.util
import os

import pytest
import torch
from benchmarks.side_by_side import let_torchvision_load, ratio, side_by_side, table
from strategies import normal

from minivid.models.generate import column_major, vector_products
from minivid.models.pretrained import qwen3_vl_of_published
from minivid.training.cross_entropy import cross_entropy
from minivid.training.optimizer import AdamW

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("default")]

ROUNDS = int(os.environ.get("MINIVID_BENCHMARK_ROUNDS", "5"))
THREADS = int(os.environ.get("MINIVID_BENCHMARK_THREADS", "1"))
NEW = 16  # tokens decoded in one call
VISION = {"patch_size": 16, "num_position_embeddings": 2304, "deepstack_visual_indexes": [1, 3, 5]}
SIZES = {
    "mid": (
        {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 4}
        | {"head_dim": 64, "intermediate_size": 1536, "vocab_size": 32768, "mrope_section": [12, 10, 10]},
        VISION | {"depth": 8, "hidden_size": 384, "num_heads": 6, "intermediate_size": 1536, "out_hidden_size": 512},
    ),
    "tiny": (
        {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
        | {"head_dim": 64, "intermediate_size": 768, "vocab_size": 16384, "mrope_section": [12, 10, 10]},
        VISION | {"depth": 4, "hidden_size": 192, "num_heads": 3, "intermediate_size": 768, "out_hidden_size": 256}
        | {"deepstack_visual_indexes": [1, 2]},
    ),
}  # fmt: skip
IMAGE, VIDEO, START, END = 100, 101, 102, 103
# Frame groups, and patches along height and width of each; every 4 patches are one token.
CLIPS = {980: (5, 28, 28), 3920: (20, 28, 28)}

_made = {}


def make(kind, size, dtype):
    """Both models of one seed; what a call starts from is made once a process, before the counted calls."""
    if "model" in _made:
        return _made["model"]
    let_torchvision_load()
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    text, vision = SIZES[size]
    text = dict(text)
    rope = {"rope_theta": 5e6, "rope_type": "default", "mrope_interleaved": True}
    text["rope_parameters"] = rope | {"mrope_section": text.pop("mrope_section")}
    config = Qwen3VLConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO,
        vision_start_token_id=START, vision_end_token_id=END, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration._from_config(config, attn_implementation="sdpa").to(dtype)
    if kind != "transformers":
        model = qwen3_vl_of_published(config.to_dict(), model.state_dict()).to(dtype)
    _made["model"] = model
    return model


def clip(tokens):
    """A question about one clip: ids, patches and grid."""
    gt, gh, gw = CLIPS[tokens]
    group = [START, *[VIDEO] * (gh * gw // 4), END, 7, 8, 9]
    ids = torch.tensor([[5, 6, *group * gt, *range(200, 264)]])
    return {
        "input_ids": ids,
        "pixel_values_videos": normal(1, gt * gh * gw, 3 * 2 * 16 * 16),
        "video_grid_thw": torch.tensor([[gt, gh, gw]]),
    }


def of_peer(inputs):
    kinds = (inputs["input_ids"] == VIDEO) * 2
    return inputs | {"attention_mask": torch.ones_like(inputs["input_ids"]), "mm_token_type_ids": kinds}


@torch.inference_mode()
def prefill(kind, size, tokens, dtype, threads):
    torch.set_num_threads(threads)
    model = make(kind, size, dtype).eval()
    inputs = _made.setdefault("inputs", clip(tokens))
    inputs = inputs | {"pixel_values_videos": inputs["pixel_values_videos"].to(dtype)}
    if kind == "transformers":
        return model(**of_peer(inputs), use_cache=True, logits_to_keep=1).logits[0, -1, :1000:100]
    return model(**inputs, cache=model.make_cache(), keep=1)[0, -1, :1000:100]


prefill.describe = lambda logits: logits.tolist()


@torch.inference_mode()
def decode(kind, size, context, dtype, threads):
    """NEW greedy tokens behind a text of `context` tokens."""
    torch.set_num_threads(threads)
    model = make(kind, size, dtype).eval()
    if kind == "minivid" and "cache" not in _made:
        column_major(model)
    ids = torch.arange(context)[None] % 90
    if kind == "transformers":
        return _decode_of_peer(model, ids)
    if "cache" not in _made:
        _made["cache"] = model.make_cache(context + NEW)
        _made["first"] = model(ids, cache=_made["cache"], keep=1)[:, -1].argmax(-1)
    cache, new = _made["cache"], _made["first"]
    for layer in cache.layers:
        layer.crop(context)
    cache.next_position = torch.tensor([context])
    said = []
    with vector_products(model):
        for _ in range(NEW):
            new = model(new[:, None], cache=cache, keep=1)[:, -1].argmax(-1)
            said.append(int(new))
    return said


decode.describe = lambda said: said


def _decode_of_peer(model, ids):
    from transformers import DynamicCache

    if "cache" not in _made:
        _made["cache"] = DynamicCache(config=model.config.text_config)
        logits = model(ids, past_key_values=_made["cache"], use_cache=True, logits_to_keep=1).logits
        _made["first"] = logits[:, -1].argmax(-1)
    cache, new = _made["cache"], _made["first"]
    if (more := cache.get_seq_length() - ids.shape[1]) > 0:
        cache.crop(-more)
    said = []
    for _ in range(NEW):
        new = model(new[:, None], past_key_values=cache, use_cache=True).logits[:, -1].argmax(-1)
        said.append(int(new))
    return said


def train(kind, size, tokens, autocast, threads):
    """One step on the last 63 tokens of the text: forward, cross-entropy, backward, AdamW."""
    torch.set_num_threads(threads)
    model = make(kind, size, torch.float32).train()
    if "inputs" not in _made:
        _made["inputs"] = clip(tokens)
        _made["optimizer"] = (torch.optim.AdamW if kind == "transformers" else AdamW)(model.parameters(), lr=1e-5)
    inputs, optimizer = _made["inputs"], _made["optimizer"]
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -63:] = inputs["input_ids"][:, -63:]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        if kind == "transformers":
            loss = model(**of_peer(inputs), labels=labels).loss
        else:
            counts = torch.cat([labels[:, 1:] != -100, torch.zeros_like(labels[:, :1], dtype=torch.bool)], 1)
            loss = cross_entropy(model(**inputs, keep=counts).float(), labels[:, 1:][counts[:, :-1]])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


train.describe = lambda loss: loss
train.again = True  # a step of a training finds the memory of the step before


@pytest.fixture(autouse=True)
def peer():
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")


def costs(function, name, *rest, peer_rest=None, kinds=("transformers", "minivid")):
    measured = side_by_side(
        {kind: (function, (kind, *(peer_rest if kind == "transformers" and peer_rest else rest), THREADS))
         for kind in kinds}, rounds=ROUNDS,
    )  # fmt: skip
    print(f"\n{name}, threads: {THREADS}\n{table(measured, 'transformers')}")
    time = ratio(measured, "minivid", "transformers", "cpu" if THREADS == 1 else "wall")
    return measured, time, ratio(measured, "minivid", "transformers", "memory")


@pytest.mark.parametrize("tokens", CLIPS)
def test_prefill_costs_no_more_than_the_peer_s(tokens):
    measured, time, memory = costs(prefill, f"prefill of {tokens} visual tokens, mid", "mid", tokens, torch.float32)
    got, want = (torch.tensor(measured[kind].result) for kind in ("minivid", "transformers"))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert time <= 1.0 and memory <= 1.0


@pytest.mark.parametrize(
    "size, context, dtype, bounds",
    [
        ("mid", 64, torch.float32, (0.85, 0.87)),
        ("mid", 1024, torch.float32, (0.75, 0.82)),
        ("mid", 64, torch.bfloat16, (0.78, 0.80)),
        ("tiny", 64, torch.float32, (0.62, 0.62)),
    ],
)
def test_a_decoded_token_costs_less_than_the_peer_s(size, context, dtype, bounds):
    name, kinds = f"{NEW} tokens at context {context}, {size}, {dtype}", ("transformers", "minivid", "as loaded")
    measured, time, _ = costs(decode, name, size, context, dtype, kinds=kinds[: 3 if dtype == torch.float32 else 2])
    if dtype == torch.float32:
        assert len({tuple(runs.result) for runs in measured.values()}) == 1
    assert time <= bounds[0 if THREADS == 1 else 1]


@pytest.mark.parametrize("autocast, bound", [(False, 0.88), (True, 0.40)])
def test_a_training_step_costs_less_than_the_peer_s_in_float32(autocast, bound):
    measured, time, memory = costs(
        train, f"a training step on 980 visual tokens, mid, bfloat16: {autocast}", "mid", 980, autocast,
        peer_rest=("mid", 980, False),
    )  # fmt: skip
    losses = [runs.result for runs in measured.values()]
    assert abs(losses[0] - losses[1]) < (0.05 if autocast else 1e-4)
    assert time <= bound and memory <= 1.0
