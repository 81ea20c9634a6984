"""Encoder and decoder blocks beside torch's layers with the same weights."""

import pytest
import torch
from strategies import normal
from torch import Tensor, nn
from torch.nn import functional as F

from minivid.layers.attention import causal_mask
from minivid.layers.feed_forward import gelu
from minivid.layers.transformer import DecoderBlock, EncoderBlock

D, HEADS, HIDDEN = 6, 3, 11


def weights_of_torch(theirs: nn.Module) -> dict[str, Tensor]:
    """A torch layer's state dict under our names."""
    decoder = isinstance(theirs, nn.TransformerDecoderLayer)
    names = {
        "linear1": "feed_forward.up_proj",
        "linear2": "feed_forward.down_proj",
        "norm1": "self_attention_norm" if decoder else "attention_norm",
        "norm2": "cross_attention_norm" if decoder else "feed_forward_norm",
        "norm3": "feed_forward_norm",
        "self_attn": "self_attention" if decoder else "attention",
        "multihead_attn": "cross_attention",
    }
    state = {}
    for key, x in theirs.state_dict().items():
        child, rest = key.split(".", 1)
        state[f"{names[child]}.{rest}"] = x
    return state


def both(ours: type, theirs: type, dtype: torch.dtype, activation, **options):
    """Torch's layer with random weights, and our block with the same."""
    torch.manual_seed(0)
    theirs = theirs(
        D,
        HEADS,
        HIDDEN,
        dropout=0.0,
        activation=F.gelu if activation is gelu else activation,
        layer_norm_eps=options.get("norm_eps", 1e-5),
        batch_first=True,
        norm_first=options["norm_first"],
        bias=options.get("bias", True),
        dtype=dtype,
    )
    for parameter in theirs.parameters():  # torch starts biases at 0 and scales at 1, where a forgotten one hides
        nn.init.normal_(parameter, std=0.4)
    ours = ours(D, HEADS, HIDDEN, activation=activation, **options).to(dtype)
    ours.load_state_dict(weights_of_torch(theirs))
    return ours, theirs


OPTIONS = [
    dict(norm_first=True, activation=gelu),
    dict(norm_first=False, activation=gelu),
    dict(norm_first=True, activation=torch.relu, bias=False),
    dict(norm_first=False, activation=torch.relu, norm_eps=0.1),
    dict(norm_first=False, activation=gelu, kernel="fused"),
]
PRECISIONS = [(torch.float32, 1e-5), (torch.float64, 1e-10)]


def assert_same(results, atol):
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=atol, rtol=atol)


@pytest.mark.parametrize(("dtype", "atol"), PRECISIONS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("masked", [False, True])
def test_encoder_block_equals_torch(options, masked, dtype, atol):
    ours, theirs = both(EncoderBlock, nn.TransformerEncoderLayer, dtype, **options)
    mask = causal_mask(5, 5) if masked else None
    results = []
    for module in (ours, theirs):
        x = normal(1, 2, 5, D, dtype=dtype).requires_grad_()
        y = ours(x, mask=mask) if module is ours else theirs(x, src_mask=None if mask is None else ~mask)
        results.append([y, *torch.autograd.grad(y, x, normal(2, *y.shape, dtype=dtype))])
    assert_same(results, atol)


@pytest.mark.parametrize(("dtype", "atol"), PRECISIONS)
@pytest.mark.parametrize("options", OPTIONS)
def test_decoder_block_equals_torch(options, dtype, atol):
    ours, theirs = both(DecoderBlock, nn.TransformerDecoderLayer, dtype, **options)
    mask = causal_mask(5, 5)
    tokens = torch.tensor([7, 4])[:, None] > torch.arange(7)  # the second memory has 4 tokens
    results = []
    for module in (ours, theirs):
        x = normal(1, 2, 5, D, dtype=dtype).requires_grad_()
        memory = normal(3, 2, 7, D, dtype=dtype).requires_grad_()
        if module is ours:
            y = ours(x, memory, mask=mask, memory_mask=tokens[:, None, None])
        else:
            y = theirs(x, memory, tgt_mask=~mask, memory_key_padding_mask=~tokens)
        results.append([y, *torch.autograd.grad(y, [x, memory], normal(2, *y.shape, dtype=dtype))])
    assert_same(results, atol)


@pytest.mark.parametrize("norm_first", [True, False])
def test_evaluation_is_deterministic_and_training_is_not(norm_first):
    x, memory = normal(0, 2, 5, D), normal(1, 2, 7, D)
    for block, inputs in (
        (EncoderBlock(D, HEADS, HIDDEN, dropout=0.5, norm_first=norm_first), (x,)),
        (DecoderBlock(D, HEADS, HIDDEN, dropout=0.5, norm_first=norm_first), (x, memory)),
    ):
        assert not torch.equal(block(*inputs), block(*inputs))
        block.eval()
        assert torch.equal(block(*inputs), block(*inputs))


@pytest.mark.parametrize("norm_first", [True, False])
def test_dropout_falls_where_torch_drops(norm_first, monkeypatch):
    # torch.nn.TransformerEncoderLayer drops attention weights, what attention adds, hidden numbers, and what they add.
    dropped = []

    def dropout(x, p, training):
        dropped.append((tuple(x.shape), p, training))
        return x

    monkeypatch.setattr(F, "dropout", dropout)
    options = dict(dropout=0.3, norm_first=norm_first)
    EncoderBlock(D, HEADS, HIDDEN, **options)(normal(0, 2, 5, D))
    weights, tokens, hidden = (2, HEADS, 5, 5), (2, 5, D), (2, 5, HIDDEN)
    assert dropped == [(shape, 0.3, True) for shape in (weights, tokens, hidden, tokens)]
    dropped.clear()
    DecoderBlock(D, HEADS, HIDDEN, **options).eval()(normal(0, 2, 5, D), normal(1, 2, 7, D))
    shapes = (weights, tokens, (2, HEADS, 5, 7), tokens, hidden, tokens)
    assert dropped == [(shape, 0.3, False) for shape in shapes]


def test_encoder_block_with_nothing_to_add_is_the_identity():
    block = EncoderBlock(D, HEADS, HIDDEN)
    for projection in (block.attention.out_proj, block.feed_forward.down_proj):
        nn.init.zeros_(projection.weight)
        nn.init.zeros_(projection.bias)
    x = normal(0, 2, 5, D)
    assert torch.equal(block(x), x)  # the residual stream of a pre-norm block


def test_encoder_block_does_not_see_the_order_of_tokens():
    block, x = EncoderBlock(D, HEADS, HIDDEN), normal(0, 2, 5, D)
    torch.testing.assert_close(block(x.flip(1)), block(x).flip(1), atol=1e-5, rtol=1e-5)


def test_a_causal_block_does_not_read_the_future():
    block, x = EncoderBlock(D, HEADS, HIDDEN), normal(0, 2, 5, D)
    other = torch.cat([x[:, :3], normal(1, 2, 2, D)], 1)
    mask = causal_mask(5, 5)
    torch.testing.assert_close(block(x, mask=mask)[:, :3], block(other, mask=mask)[:, :3], atol=1e-6, rtol=0)


def test_decoder_block_takes_a_memory_of_another_width():
    block = DecoderBlock(D, HEADS, HIDDEN, memory_dim=13)
    assert block(normal(0, 2, 5, D), normal(1, 2, 7, 13)).shape == (2, 5, D)


@pytest.mark.parametrize("norm_first", [True, False])
def test_blocks_pass_gradcheck(norm_first):
    x, memory = (normal(i, 1, n, 4, dtype=torch.float64).requires_grad_() for i, n in enumerate((3, 2)))
    assert torch.autograd.gradcheck(EncoderBlock(4, 2, 3, norm_first=norm_first).double(), x)
    assert torch.autograd.gradcheck(DecoderBlock(4, 2, 3, norm_first=norm_first).double(), (x, memory))


def test_blocks_map_over_an_axis_and_run_under_autocast():
    block, x = EncoderBlock(D, HEADS, HIDDEN), normal(0, 3, 2, 5, D)
    one_by_one = torch.stack([block(y) for y in x])
    torch.testing.assert_close(torch.func.vmap(block)(x), one_by_one, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x[0])
    torch.testing.assert_close(y.float(), one_by_one[0], atol=5e-2, rtol=0)  # 8 bits on numbers of about 2


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # the compiler's own import
def test_encoder_block_compiles():
    block, x = EncoderBlock(D, HEADS, HIDDEN), normal(0, 2, 5, D)
    torch.testing.assert_close(torch.compile(block, fullgraph=True)(x), block(x), atol=1e-5, rtol=1e-5)
