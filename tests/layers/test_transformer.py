"""Transformer blocks: laws of the residual stream, and torch's layers with the same weights as the oracle."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds, small
from torch import Tensor, nn
from torch.nn import functional as F

from minivid.classroom.evidence import agree, holds
from minivid.layers import transformer as library
from minivid.layers.attention import causal_mask, padding_mask
from minivid.layers.feed_forward import gelu, gelu_tanh, silu
from minivid.layers.kv_cache import KVCache
from minivid.layers.positions import rotary_angles
from minivid.layers.transformer import ACTIVATIONS, Decoder, DecoderBlock, Encoder, EncoderBlock
from minivid.shapes import ShapeError

D, HEADS, HIDDEN = 6, 3, 11
# What a law gives a block: width, heads, hidden width.
SIZES = (6, 2, 5)
pieces_of_five = st.sampled_from([[5], [1, 4], [4, 1], [2, 3], [3, 1, 1], [1, 1, 1, 1, 1]])

# Our names of the children of a block, and torch's.
NAMES = {
    "EncoderBlock": {
        "attention": "self_attn",
        "attention_norm": "norm1",
        "feed_forward.up_proj": "linear1",
        "feed_forward.down_proj": "linear2",
        "feed_forward_norm": "norm2",
    },
    "DecoderBlock": {
        "self_attention": "self_attn",
        "self_attention_norm": "norm1",
        "cross_attention": "multihead_attn",
        "cross_attention_norm": "norm2",
        "feed_forward.up_proj": "linear1",
        "feed_forward.down_proj": "linear2",
        "feed_forward_norm": "norm3",
    },
}
TORCH = {"EncoderBlock": nn.TransformerEncoderLayer, "DecoderBlock": nn.TransformerDecoderLayer}
LAST = {"attention": "attention.out_proj", "feed_forward": "feed_forward.down_proj"} | {
    name: f"{name}.out_proj" for name in ("self_attention", "cross_attention")
}


def weights(name: str, seed: int, *, silent: tuple[str, ...] = (), bias: bool = True) -> dict[str, Tensor]:
    """Weights of a block of SIZES that depend on the seed alone; the parts that are named add nothing."""
    d, _, f = SIZES
    shapes = {}
    for child in NAMES[name]:
        if child.endswith("_norm"):
            shapes[child] = (d,)
        elif child.startswith("feed_forward"):
            shapes[child] = (f, d) if child.endswith("up_proj") else (d, f)
        else:
            shapes |= {f"{child}.{part}_proj": (d, d) for part in ("q", "k", "v", "out")}
    state = {}
    for i, (child, shape) in enumerate(shapes.items()):
        zero = any(LAST[part] == child for part in silent)
        around = 1.0 if child.endswith("_norm") else 0.0
        state[f"{child}.weight"] = torch.zeros(shape) if zero else around + 0.5 * normal(seed + 2 * i, *shape)
        if bias:
            state[f"{child}.bias"] = (0.0 if zero else 0.5) * normal(seed + 2 * i + 1, shape[0])
    return state


def block_of(impl, name: str, state: dict[str, Tensor], **options):
    """A block of the answer's with these weights, ready for evaluation."""
    block = getattr(impl, name)(*SIZES, **options)
    block.load_state_dict(state)
    block.eval()
    return block


def torch_block(name: str, state: dict[str, Tensor], *, norm_eps: float = 1e-5, **options) -> nn.Module:
    """Torch's layer with the same weights, ready for evaluation."""
    options = {"norm_first": True, "activation": "gelu", "dropout": 0.0} | options
    layer = TORCH[name](*SIZES, layer_norm_eps=norm_eps, batch_first=True, **options)
    renamed = {}
    for key, x in state.items():
        child, part = key.rsplit(".", 1)
        ours, _, projection = child.partition(".")
        if projection in ("q_proj", "k_proj", "v_proj"):
            stacked = [state[f"{ours}.{q}_proj.{part}"] for q in "qkv"]
            renamed[f"{NAMES[name][ours]}.in_proj_{part}"] = torch.cat(stacked)
        elif projection == "out_proj":
            renamed[f"{NAMES[name][ours]}.out_proj.{part}"] = x
        else:
            renamed[f"{NAMES[name][child]}.{part}"] = x
    layer.load_state_dict(renamed)
    return layer.eval()


# ---- laws of EncoderBlock, from the first things to get right to the last


@pytest.mark.law("EncoderBlock")
@given(small, small, seeds)
def test_a_block_with_nothing_to_add_is_the_identity(impl, b, n, seed):
    """Where both parts have nothing to add, a pre-norm block hands on the tokens as they came."""
    block = block_of(impl, "EncoderBlock", weights("EncoderBlock", seed, silent=("attention", "feed_forward")))
    x = normal(seed, b, n, SIZES[0])
    agree(block(x), x, "the tokens are not what came in, plus nothing", axes="b n d", x=x)


@pytest.mark.law("EncoderBlock")
@given(small, small, seeds, st.sampled_from(["feed_forward", "attention"]))
def test_a_block_adds_what_one_part_makes(impl, b, n, seed, silent):
    """With one part silent, a pre-norm block is x + the other part of norm(x), and each part has its own norm."""
    state = weights("EncoderBlock", seed, silent=(silent,))
    block, x = block_of(impl, "EncoderBlock", state), normal(seed, b, n, SIZES[0])
    other = "attention" if silent == "feed_forward" else "feed_forward"
    want = torch_block("EncoderBlock", state)(x).detach()
    agree(block(x), want, f"not x + {other}({other}_norm(x)), with {silent} silent", axes="b n d", x=x)


@pytest.mark.law("EncoderBlock")
@given(small, small, seeds)
def test_a_block_thinks_about_what_it_has_seen(impl, b, n, seed):
    """The feed-forward layer reads the tokens after attention has added to them, and adds to those."""
    state = weights("EncoderBlock", seed)
    block, x = block_of(impl, "EncoderBlock", state), normal(seed, b, n, SIZES[0])
    want = torch_block("EncoderBlock", state)(x).detach()
    agree(block(x), want, "not x = x + attention(norm(x)), then x + feed_forward(norm(x))", axes="b n d", x=x)


@pytest.mark.law("EncoderBlock")
@given(small, small, seeds)
def test_a_post_norm_block_normalises_the_sum(impl, b, n, seed):
    """With norm_first=False each sum is normalised: x = norm(x + attention(x)), then norm(x + feed_forward(x))."""
    state = weights("EncoderBlock", seed)
    block, x = block_of(impl, "EncoderBlock", state, norm_first=False), normal(seed, b, n, SIZES[0])
    want = torch_block("EncoderBlock", state, norm_first=False)(x).detach()
    agree(block(x), want, "not norm(x + attention(x)), then norm(x + feed_forward(x))", axes="b n d", x=x)


@pytest.mark.law("EncoderBlock")
@given(st.booleans(), st.integers(1, 3), seeds)
def test_padding_changes_no_token(impl, norm_first, length, seed):
    """What a mask hides (False = may not look) changes no other token, and what it shows counts."""
    block = block_of(impl, "EncoderBlock", weights("EncoderBlock", seed), norm_first=norm_first)
    x, mask = normal(seed, 1, 4, SIZES[0]), padding_mask(torch.tensor([length]), 4)
    got, want = block(x, mask=mask)[:, :length], block(x[:, :length].clone())
    agree(got, want.detach(), "padding behind the tokens changes them", axes="b n d", x=x, mask=mask)


@pytest.mark.law("EncoderBlock")
@given(st.booleans(), st.integers(1, 4), seeds)
def test_a_causal_block_does_not_read_the_future(impl, norm_first, at, seed):
    """With a causal mask, a change of token i changes no token before it."""
    block = block_of(impl, "EncoderBlock", weights("EncoderBlock", seed), norm_first=norm_first)
    x, mask = normal(seed, 1, 5, SIZES[0]), causal_mask(5, 5)
    other = torch.cat([x[:, :at], normal(seed + 1, 1, 5 - at, SIZES[0])], 1)
    got, want = block(other, mask=mask)[:, :at], block(x, mask=mask)[:, :at]
    agree(got, want.detach(), f"new tokens from {at} on change tokens before them", axes="b n d", x=x, other=other)


@pytest.mark.law("EncoderBlock")
@given(st.permutations(range(4)), st.booleans(), seeds)
def test_tokens_in_another_order_come_out_in_that_order(impl, order, norm_first, seed):
    """Tokens in another order give the same tokens in that order: a block does not know who stands where."""
    block = block_of(impl, "EncoderBlock", weights("EncoderBlock", seed), norm_first=norm_first)
    x = normal(seed, 2, 4, SIZES[0])
    agree(block(x[:, order]), block(x)[:, order].detach(), "the order of tokens counts", axes="b n d", order=order, x=x)


@pytest.mark.law("EncoderBlock")
@given(st.booleans(), small, seeds)
def test_clips_of_a_batch_do_not_meet(impl, norm_first, n, seed):
    """A batch of two clips gives what each of them gives alone."""
    block = block_of(impl, "EncoderBlock", weights("EncoderBlock", seed), norm_first=norm_first)
    x = normal(seed, 2, n, SIZES[0])
    want = torch.cat([block(x[:1].clone()), block(x[1:].clone())]).detach()
    agree(block(x), want, "the clips of a batch change each other", axes="b n d", x=x)


@pytest.mark.law("EncoderBlock")
@given(st.booleans(), small, seeds)
def test_evaluation_drops_nothing(impl, norm_first, n, seed):
    """After eval(), a block with dropout gives what it gives without, every time."""
    state, x = weights("EncoderBlock", seed), normal(seed, 1, n, SIZES[0])
    block = block_of(impl, "EncoderBlock", state, norm_first=norm_first, dropout=0.5)
    want = torch_block("EncoderBlock", state, norm_first=norm_first)(x).detach()
    agree(block(x), want, "dropout 0.5 changes the evaluation", axes="b n d", x=x)


@pytest.mark.law("EncoderBlock")
@given(st.booleans(), small, seeds)
def test_training_drops_what_is_added_not_the_stream(impl, norm_first, n, seed):
    """In training, dropout falls on what each part adds: with a share of almost 1, nothing is added."""
    silent, x = ("attention", "feed_forward"), normal(seed, 1, n, SIZES[0])
    # One number in 10^12 is kept: none of the few hundred here.
    block = block_of(impl, "EncoderBlock", weights("EncoderBlock", seed), norm_first=norm_first, dropout=1 - 1e-12)
    block.train()
    want = torch_block("EncoderBlock", weights("EncoderBlock", seed, silent=silent), norm_first=norm_first)(x).detach()
    agree(block(x), want, "with everything dropped it is not the block that adds nothing", axes="b n d", x=x)


@pytest.mark.law("EncoderBlock")
@given(st.booleans(), st.sampled_from(["relu", "gelu", "silu"]), st.booleans(), seeds)
def test_options_are_those_of_torch(impl, norm_first, activation, bias, seed):
    """activation, bias and norm_eps mean what they mean in torch's layer."""
    state, x = weights("EncoderBlock", seed, bias=bias), normal(seed, 2, 3, SIZES[0])
    options = dict(norm_first=norm_first, bias=bias, norm_eps=0.3)
    block = block_of(impl, "EncoderBlock", state, activation=activation, **options)
    theirs = torch_block("EncoderBlock", state, activation=F.silu if activation == "silu" else activation, **options)
    agree(block(x), theirs(x).detach(), "not as torch's layer", axes="b n d", x=x, activation=activation, **options)


@pytest.mark.law("EncoderBlock")
@given(st.booleans(), st.integers(1, 3), seeds)
def test_the_gradient_of_a_block_is_that_of_torch(impl, norm_first, n, seed):
    """The gradient flows through both parts and through both sums."""
    state, direction = weights("EncoderBlock", seed), normal(seed + 1, 1, n, SIZES[0])
    gradients = []
    for block in (
        block_of(impl, "EncoderBlock", state, norm_first=norm_first),
        torch_block("EncoderBlock", state, norm_first=norm_first),
    ):
        x = normal(seed, 1, n, SIZES[0]).requires_grad_()
        y = block(x)
        holds(isinstance(y, Tensor) and y.requires_grad, "no gradient reaches the tokens", x=x)
        gradients += torch.autograd.grad((y * direction).sum(), x)
    agree(*gradients, "the gradient differs from torch's", axes="b n d", atol=1e-4, x=normal(seed, 1, n, SIZES[0]))


# ---- laws of DecoderBlock

PARTS = ("self_attention", "cross_attention", "feed_forward")


@pytest.mark.law("DecoderBlock")
@given(small, small, small, seeds)
def test_a_decoder_block_with_nothing_to_add_is_the_identity(impl, b, n, s, seed):
    """Where all three parts have nothing to add, a pre-norm block hands on the tokens as they came."""
    block = block_of(impl, "DecoderBlock", weights("DecoderBlock", seed, silent=PARTS))
    x, memory = normal(seed, b, n, SIZES[0]), normal(seed + 1, b, s, SIZES[0])
    agree(block(x, memory), x, "the tokens are not what came in, plus nothing", axes="b n d", x=x, memory=memory)


@pytest.mark.law("DecoderBlock")
@given(small, small, seeds, st.sampled_from(PARTS))
def test_a_decoder_block_adds_what_one_part_makes(impl, n, s, seed, part):
    """With two parts silent, a pre-norm block is x + the third; cross-attention reads the memory as it is."""
    state = weights("DecoderBlock", seed, silent=tuple(set(PARTS) - {part}))
    block = block_of(impl, "DecoderBlock", state)
    x, memory = normal(seed, 2, n, SIZES[0]), normal(seed + 1, 2, s, SIZES[0])
    want = torch_block("DecoderBlock", state)(x, memory).detach()
    agree(block(x, memory), want, f"not x + {part} of the normalised x", axes="b n d", x=x, memory=memory)


@pytest.mark.law("DecoderBlock")
@given(small, small, seeds)
def test_a_decoder_block_looks_at_itself_then_at_the_memory(impl, n, s, seed):
    """Self-attention first, then attention to the memory, then the feed-forward layer, each reading the sum so far."""
    state = weights("DecoderBlock", seed)
    block = block_of(impl, "DecoderBlock", state)
    x, memory = normal(seed, 2, n, SIZES[0]), normal(seed + 1, 2, s, SIZES[0])
    want = torch_block("DecoderBlock", state)(x, memory).detach()
    agree(block(x, memory), want, "not self-attention, cross-attention, feed-forward", axes="b n d", x=x, memory=memory)


@pytest.mark.law("DecoderBlock")
@given(small, small, seeds)
def test_a_post_norm_decoder_block_normalises_the_sum(impl, n, s, seed):
    """With norm_first=False each of the three sums is normalised, and the parts read them as they are."""
    state = weights("DecoderBlock", seed)
    block = block_of(impl, "DecoderBlock", state, norm_first=False)
    x, memory = normal(seed, 2, n, SIZES[0]), normal(seed + 1, 2, s, SIZES[0])
    want = torch_block("DecoderBlock", state, norm_first=False)(x, memory).detach()
    agree(block(x, memory), want, "not x = norm(x + part(x)), three times", axes="b n d", x=x, memory=memory)


@pytest.mark.law("DecoderBlock")
@given(st.booleans(), st.integers(1, 3), seeds)
def test_padding_of_the_memory_changes_nothing(impl, norm_first, length, seed):
    """`memory_mask` hides tokens of the memory (False = may not look), as if they were not there."""
    block = block_of(impl, "DecoderBlock", weights("DecoderBlock", seed), norm_first=norm_first)
    x, memory = normal(seed, 1, 3, SIZES[0]), normal(seed + 1, 1, 4, SIZES[0])
    mask = padding_mask(torch.tensor([length]), 4)
    got, want = block(x, memory, memory_mask=mask), block(x, memory[:, :length].clone()).detach()
    agree(got, want, "hidden tokens of the memory count", axes="b n d", x=x, memory=memory, memory_mask=mask)


@pytest.mark.law("DecoderBlock")
@given(st.booleans(), st.integers(1, 3), seeds)
def test_a_decoder_block_does_not_read_the_future(impl, norm_first, at, seed):
    """With a causal `mask`, a change of token i changes no token before it, and the memory is seen whole."""
    block = block_of(impl, "DecoderBlock", weights("DecoderBlock", seed), norm_first=norm_first)
    x, memory, mask = normal(seed, 1, 4, SIZES[0]), normal(seed + 1, 1, 4, SIZES[0]), causal_mask(4, 4)
    got, want = block(x, memory, mask=mask)[:, :at], block(x[:, :at].clone(), memory, mask=mask[:at, :at]).detach()
    agree(got, want, "later tokens count, or the memory is hidden", axes="b n d", x=x, memory=memory, mask=mask)


@pytest.mark.law("DecoderBlock")
@given(st.permutations(range(4)), st.booleans(), seeds)
def test_the_memory_is_a_set(impl, order, norm_first, seed):
    """The order of the memory's tokens does not count, that of the block's tokens is that of the result."""
    block = block_of(impl, "DecoderBlock", weights("DecoderBlock", seed), norm_first=norm_first)
    x, memory = normal(seed, 2, 4, SIZES[0]), normal(seed + 1, 2, 4, SIZES[0])
    got, want = block(x.flip(1), memory[:, order]), block(x, memory).flip(1).detach()
    agree(got, want, "the order of tokens counts", axes="b n d", order=order, x=x, memory=memory)


@pytest.mark.law("DecoderBlock")
@given(st.booleans(), seeds)
def test_evaluation_of_a_decoder_block_drops_nothing(impl, norm_first, seed):
    """After eval(), a block with dropout gives what it gives without; in training, nothing is added at almost 1."""
    state, x, memory = weights("DecoderBlock", seed), normal(seed, 1, 3, SIZES[0]), normal(seed + 1, 1, 2, SIZES[0])
    block = block_of(impl, "DecoderBlock", state, norm_first=norm_first, dropout=1 - 1e-12)
    want = torch_block("DecoderBlock", state, norm_first=norm_first)(x, memory).detach()
    agree(block(x, memory), want, "dropout changes the evaluation", axes="b n d", x=x, memory=memory)
    block.train()
    state = weights("DecoderBlock", seed, silent=PARTS)
    want = torch_block("DecoderBlock", state, norm_first=norm_first)(x, memory).detach()
    agree(block(x, memory), want, "in training it is not what is added that is dropped", axes="b n d", x=x)


# ---- laws of Encoder: a stack


def stacked(seed: int, layers: int, *, final_norm: bool) -> dict[str, Tensor]:
    """Weights of a stack, other ones in every block."""
    state = {
        f"layers.{i}.{key}": x
        for i in range(layers)
        for key, x in weights("EncoderBlock", seed + 100 * i).items()
    }  # fmt: skip
    if final_norm:
        state |= {"norm.weight": 1 + 0.5 * normal(seed, SIZES[0]), "norm.bias": normal(seed + 1, SIZES[0])}
    return state


def stack_of(impl, state: dict[str, Tensor], layers: int, **options):
    stack = impl.Encoder(*SIZES, layers, **options)
    stack.load_state_dict(state)
    stack.eval()
    return stack


def block_after_block(state: dict[str, Tensor], layers: int, x: Tensor, mask=None, **options) -> Tensor:
    for i in range(layers):
        own = {key.removeprefix(f"layers.{i}."): v for key, v in state.items() if key.startswith(f"layers.{i}.")}
        x = block_of(library, "EncoderBlock", own, **options)(x, mask=mask)
    if "norm.weight" in state:
        x = F.layer_norm(x, x.shape[-1:], state["norm.weight"], state["norm.bias"])
    return x.detach()


@pytest.mark.law("Encoder")
@given(st.integers(1, 3), small, seeds)
def test_a_stack_is_block_after_block(impl, layers, n, seed):
    """Without a final norm a stack is its blocks one after the other, each with weights of its own."""
    state, x = stacked(seed, layers, final_norm=False), normal(seed, 2, n, SIZES[0])
    stack = stack_of(impl, state, layers, final_norm=False)
    agree(stack(x), block_after_block(state, layers, x), "not block after block", axes="b n d", num_layers=layers, x=x)


@pytest.mark.law("Encoder")
@given(st.integers(1, 3), small, seeds)
def test_a_stack_of_pre_norm_blocks_ends_in_a_norm(impl, layers, n, seed):
    """A pre-norm stack ends in one norm, once, behind the last block."""
    state, x = stacked(seed, layers, final_norm=True), normal(seed, 2, n, SIZES[0])
    claim = "not norm(block after block)"
    agree(stack_of(impl, state, layers)(x), block_after_block(state, layers, x), claim, axes="b n d", x=x)


@pytest.mark.law("Encoder")
@given(st.integers(1, 3), small, seeds)
def test_a_stack_of_post_norm_blocks_needs_no_other_norm(impl, layers, n, seed):
    """A post-norm stack ends in the norm of its last block and has no other, unless final_norm=True."""
    x = normal(seed, 2, n, SIZES[0])
    for options, final in (({}, False), ({"final_norm": True}, True)):
        state = stacked(seed, layers, final_norm=final)
        stack = stack_of(impl, state, layers, norm_first=False, **options)
        want = block_after_block(state, layers, x, norm_first=False)
        agree(stack(x), want, f"with {options} it is not its blocks", axes="b n d", x=x)


@pytest.mark.law("Encoder")
@given(st.integers(1, 3), seeds)
def test_every_block_of_a_stack_gets_the_mask(impl, layers, seed):
    """The mask holds in every block: through one that forgets it, all would be seen."""
    state, x, mask = stacked(seed, layers, final_norm=True), normal(seed, 1, 4, SIZES[0]), causal_mask(4, 4)
    got = stack_of(impl, state, layers)(x, mask=mask)
    want = block_after_block(state, layers, x, mask)
    agree(got, want, "a block does not get the mask", axes="b n d", num_layers=layers, x=x)


@pytest.mark.law("Encoder")
@given(seeds)
def test_blocks_of_a_stack_start_different(impl, seed):
    """Every block of a new stack has weights of its own, drawn by itself."""
    state = {key: x for key, x in impl.Encoder(*SIZES, 3).state_dict().items() if key.endswith("up_proj.weight")}
    holds(len(state) == 3, f"{len(state)} feed-forward layers in the state dict of 3 blocks", keys=list(state))
    one, two, three = state.values()
    different = not (torch.equal(one, two) or torch.equal(two, three) or torch.equal(one, three))
    holds(different, "two blocks have the same weights", keys=list(state))


# ---- torch as the oracle, over every option


def both(name: str, dtype: torch.dtype, **options) -> tuple[nn.Module, nn.Module]:
    """Our block and torch's layer with the same random weights, loaded from torch's state dict as it is."""
    ours = {"EncoderBlock": EncoderBlock, "DecoderBlock": DecoderBlock}[name]
    activation = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}[options.pop("activation", "gelu")]
    theirs = TORCH[name](
        D,
        HEADS,
        HIDDEN,
        dropout=options.get("dropout", 0.0),
        activation=activation,
        layer_norm_eps=options.get("norm_eps", 1e-5),
        batch_first=True,
        norm_first=options.get("norm_first", True),
        bias=options.get("bias", True),
        dtype=dtype,
    )
    for i, parameter in enumerate(theirs.parameters()):  # biases start at 0 and scales at 1, where a lost one hides
        parameter.data = 0.4 * normal(i, *parameter.shape, dtype=dtype)
    named = {F.gelu: "gelu", F.relu: "relu", F.silu: "silu"}[activation]
    block = ours(D, HEADS, HIDDEN, activation=named, dtype=dtype, **options)
    assert str(block.load_state_dict(theirs.state_dict())) == "<All keys matched successfully>"
    return block, theirs


def gradients(module: nn.Module, y: Tensor, *inputs: Tensor) -> list[Tensor]:
    """The result, and the gradients with respect to the inputs and all weights, by our names and in their order."""
    found = torch.autograd.grad(y, [*inputs, *module.parameters()], normal(9, *y.shape, dtype=y.dtype))
    return [y, *found[: len(inputs)]], dict(
        zip((name for name, _ in module.named_parameters()), found[len(inputs) :], strict=True)
    )


def in_our_names(module: nn.Module, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a torch layer as the entries of our state dict: a gradient is renamed as its weight is."""
    ours = {"TransformerEncoderLayer": EncoderBlock, "TransformerDecoderLayer": DecoderBlock}[type(module).__name__]
    block = ours(D, HEADS, HIDDEN, bias="norm1.bias" in found, dtype=next(iter(found.values())).dtype)
    block.load_state_dict(found)
    return dict(block.named_parameters())


OPTIONS = [
    dict(norm_first=True),
    dict(norm_first=False),
    dict(norm_first=True, activation="relu", bias=False),
    dict(norm_first=False, activation="relu", norm_eps=0.1),
    dict(norm_first=True, activation="silu", norm_eps=0.1),
    dict(norm_first=False, activation="silu", bias=False),
    dict(norm_first=True, kernel="blocks"),
    dict(norm_first=False, kernel="fused"),
]
PRECISIONS = [(torch.float32, 1e-5), (torch.float64, 1e-10)]
MASKS = {
    "no mask": None,
    "causal": causal_mask(5, 5),
    "padding": padding_mask(torch.tensor([5, 3]), 5),
    "causal and padding": causal_mask(5, 5) & padding_mask(torch.tensor([5, 3]), 5),
}


def masks_of_torch(name: str) -> dict[str, Tensor]:
    """The same for torch.nn.TransformerEncoderLayer, where True means: may not look."""
    masks = {}
    if "causal" in name:
        masks["src_mask"] = ~causal_mask(5, 5)
    if "padding" in name:
        masks["src_key_padding_mask"] = ~padding_mask(torch.tensor([5, 3]), 5)[:, 0, 0]
    return masks


def assert_same(ours, theirs, atol):
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, atol=atol, rtol=atol)


@pytest.mark.parametrize(("dtype", "atol"), PRECISIONS, ids=["float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("masked", MASKS)
def test_encoder_block_and_all_gradients_equal_torch(masked, options, dtype, atol):
    block, layer = both("EncoderBlock", dtype, **options)
    x = normal(1, 2, 5, D, dtype=dtype).requires_grad_()
    results, ours = gradients(block, block(x, mask=MASKS[masked]), x)
    want, theirs = gradients(layer, layer(x, **masks_of_torch(masked)), x)
    theirs = in_our_names(layer, theirs)
    assert_same(results, want, atol)
    assert list(ours) == list(theirs)
    assert_same(ours.values(), theirs.values(), 10 * atol)  # sums over the ten tokens, up to 10


@pytest.mark.parametrize(("dtype", "atol"), PRECISIONS, ids=["float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_decoder_block_and_all_gradients_equal_torch(masked, options, dtype, atol):
    block, layer = both("DecoderBlock", dtype, **options)
    x, memory = (normal(i, 2, n, D, dtype=dtype).requires_grad_() for i, n in ((1, 5), (3, 7)))
    tokens = padding_mask(torch.tensor([7, 4]), 7)  # the second memory has 4 tokens
    see = normal(4, 5, 7) > -0.5
    see[:, 0] = True  # torch gives NaN for a token that may look nowhere
    if masked:
        masks = dict(mask=MASKS["causal and padding"], memory_mask=tokens & see)
        torch_masks = dict(
            tgt_mask=~causal_mask(5, 5),
            tgt_key_padding_mask=~padding_mask(torch.tensor([5, 3]), 5)[:, 0, 0],
            memory_mask=~see,
            memory_key_padding_mask=~tokens[:, 0, 0],
        )
    else:
        masks = torch_masks = {}
    results, ours = gradients(block, block(x, memory, **masks), x, memory)
    want, theirs = gradients(layer, layer(x, memory, **torch_masks), x, memory)
    theirs = in_our_names(layer, theirs)
    assert_same(results, want, atol)
    assert list(ours) == list(theirs)
    assert_same(ours.values(), theirs.values(), 10 * atol)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("name", ["EncoderBlock", "DecoderBlock"])
def test_training_with_dropout_equals_torch_from_the_same_seed(name, norm_first):
    # One clip: of several, torch lays its tokens out token by token and so draws in another order.
    block, layer = both(name, torch.float32, dropout=0.3, norm_first=norm_first)
    inputs = (normal(1, 1, 5, D),) if name == "EncoderBlock" else (normal(1, 1, 5, D), normal(2, 1, 7, D))
    results = []
    for module in (block, layer):
        torch.manual_seed(5)
        results.append(module(*inputs))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(results[0], block.eval()(*inputs), atol=0.1)


@pytest.mark.parametrize("norm_first", [True, False])
def test_evaluation_equals_the_fast_path_of_torch(norm_first):
    block, layer = both("EncoderBlock", torch.float32, norm_first=norm_first, dropout=0.3)
    x = normal(0, 2, 5, D)
    with torch.no_grad():
        torch.testing.assert_close(block.eval()(x), layer.eval()(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("norm_first", "final_norm"), [(True, True), (False, False), (False, True), (True, False)])
@pytest.mark.parametrize("stack", ["Encoder", "Decoder"])
def test_a_stack_loads_and_equals_that_of_torch(stack, norm_first, final_norm):
    ours, theirs = (
        (Encoder, nn.TransformerEncoder) if stack == "Encoder" else (Decoder, nn.TransformerDecoder)
    )  # fmt: skip
    layer = TORCH[f"{stack}Block"](D, HEADS, HIDDEN, 0.2, "gelu", 0.1, True, norm_first, dtype=torch.float64)
    norm = nn.LayerNorm(D, eps=0.1, dtype=torch.float64) if final_norm else None
    theirs = theirs(layer, 3, norm, **({"enable_nested_tensor": False} if stack == "Encoder" else {})).eval()
    for i, parameter in enumerate(theirs.parameters()):
        parameter.data = 0.4 * normal(i, *parameter.shape, dtype=torch.float64)
    options = dict(norm_first=norm_first, final_norm=final_norm, dropout=0.2, norm_eps=0.1, dtype=torch.float64)
    ours = ours(D, HEADS, HIDDEN, 3, **options).eval()
    ours.load_state_dict(theirs.state_dict())
    x, memory = normal(0, 2, 5, D, dtype=torch.float64), normal(1, 2, 7, D, dtype=torch.float64)
    mask, see = causal_mask(5, 5), causal_mask(5, 7)
    if stack == "Encoder":
        got, want = ours(x, mask=mask), theirs(x, mask=~mask)
    else:
        got = ours(x, memory, mask=mask, memory_mask=see)
        want = theirs(x, memory, tgt_mask=~mask, memory_mask=~see)
    torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-10)


def test_our_own_state_dict_loads_too_and_alone():
    for block in (EncoderBlock(D, HEADS, HIDDEN), DecoderBlock(D, HEADS, HIDDEN)):
        other = type(block)(D, HEADS, HIDDEN)
        other.load_state_dict(block.state_dict())
        for key, x in block.state_dict().items():
            assert torch.equal(x, other.state_dict()[key])
    # Inside another module, and beside one whose children have torch's names.
    model = nn.ModuleDict({"ours": EncoderBlock(D, HEADS, HIDDEN), "norm1": nn.LayerNorm(D)})
    state = {f"ours.{k}": v for k, v in nn.TransformerEncoderLayer(D, HEADS, HIDDEN).state_dict().items()}
    state |= {"norm1.weight": torch.full((D,), 3.0), "norm1.bias": torch.full((D,), 4.0)}
    before = list(state)
    model.load_state_dict(state)
    assert list(state) == before  # the caller's dict is as it was
    assert torch.equal(model["ours"].attention_norm.weight, torch.ones(D))
    assert torch.equal(model["norm1"].weight, torch.full((D,), 3.0))
    assert torch.equal(model["ours"].attention.k_proj.weight, state["ours.self_attn.in_proj_weight"][D : 2 * D])


def test_a_state_dict_of_something_else_is_refused():
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*attention_norm.weight"):
        EncoderBlock(D, HEADS, HIDDEN).load_state_dict({})
    decoder = nn.TransformerDecoderLayer(D, HEADS, HIDDEN).state_dict()
    with pytest.raises(RuntimeError, match="multihead_attn.in_proj_weight"):
        EncoderBlock(D, HEADS, HIDDEN).load_state_dict(decoder)


# ---- what a law cannot ask


def test_a_block_by_hand():
    # Two tokens of width 2, one head, all projections the identity, no norm to speak of: its bias alone, (1, 0).
    block = EncoderBlock(2, 1, 2, activation="relu")
    eye = torch.eye(2)
    state = {f"attention.{part}_proj.weight": eye for part in "qkv"} | {"attention.out_proj.weight": 2 * eye}
    state |= {f"attention.{part}_proj.bias": torch.zeros(2) for part in ("q", "k", "v", "out")}
    state |= {"attention_norm.weight": torch.zeros(2), "attention_norm.bias": torch.tensor([1.0, 0.0])}
    state |= {"feed_forward_norm.weight": torch.zeros(2), "feed_forward_norm.bias": torch.tensor([-1.0, 3.0])}
    state |= {"feed_forward.up_proj.weight": eye, "feed_forward.up_proj.bias": torch.zeros(2)}
    state |= {"feed_forward.down_proj.weight": eye, "feed_forward.down_proj.bias": torch.tensor([0.0, 10.0])}
    block.load_state_dict(state)
    x = torch.tensor([[[5.0, 7.0], [-5.0, 1.0]]])
    # Attention reads (1, 0) twice, returns its mean, doubled: (2, 0). The feed-forward layer reads (-1, 3), keeps
    # (0, 3) and adds 10 to the second: (0, 13).
    assert block(x).tolist() == [[[7.0, 20.0], [-3.0, 14.0]]]


@given(st.booleans(), pieces_of_five, st.sampled_from(["plain", "fused", "blocks"]), seeds)
def test_blocks_with_a_cache_give_the_same_numbers_for_any_split(norm_first, pieces, kernel, seed):
    torch.manual_seed(seed)
    encoder, decoder = (kind(*SIZES, norm_first=norm_first, kernel=kernel) for kind in (EncoderBlock, DecoderBlock))
    x, memory, see = (
        normal(seed, 2, 5, SIZES[0]),
        normal(seed + 1, 2, 3, SIZES[0]),
        padding_mask(torch.tensor([3, 1]), 3),
    )
    caches, outputs, start = (KVCache(), KVCache()), ([], []), 0
    for piece in x.split(pieces, 1):
        mask = causal_mask(piece.shape[1], start + piece.shape[1])
        outputs[0].append(encoder(piece, mask=mask, cache=caches[0]))
        outputs[1].append(decoder(piece, memory, mask=mask, memory_mask=see, cache=caches[1]))
        start += piece.shape[1]
    assert caches[0].length == caches[1].length == 5
    mask = causal_mask(5, 5)
    torch.testing.assert_close(torch.cat(outputs[0], 1), encoder(x, mask=mask), atol=1e-5, rtol=1e-5)
    whole = decoder(x, memory, mask=mask, memory_mask=see)
    torch.testing.assert_close(torch.cat(outputs[1], 1), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm_first", [True, False])
def test_stacks_with_caches_give_the_same_numbers(norm_first):
    encoder, decoder = (kind(D, HEADS, HIDDEN, 3, norm_first=norm_first) for kind in (Encoder, Decoder))
    x, memory, mask = normal(0, 2, 5, D), normal(1, 2, 7, D), causal_mask(5, 5)
    kept, outputs = ([KVCache() for _ in range(3)], [KVCache() for _ in range(3)]), ([], [])
    for start, end in ((0, 2), (2, 3), (3, 5)):
        masks = dict(mask=causal_mask(end - start, end))
        outputs[0].append(encoder(x[:, start:end], caches=kept[0], **masks))
        outputs[1].append(decoder(x[:, start:end], memory, caches=kept[1], **masks))
    torch.testing.assert_close(torch.cat(outputs[0], 1), encoder(x, mask=mask), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(outputs[1], 1), decoder(x, memory, mask=mask), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm_first", [True, False])
def test_rotary_turns_the_queries_and_keys_of_a_block(norm_first):
    block, x = EncoderBlock(8, 2, HIDDEN, norm_first=norm_first), normal(0, 2, 5, 8)
    angles = rotary_angles(torch.arange(5) * 3, 4)
    if norm_first:
        want = x + block.attention(block.attention_norm(x), rotary=angles)
        want = want + block.feed_forward(block.feed_forward_norm(want))
    else:
        want = block.attention_norm(x + block.attention(x, rotary=angles))
        want = block.feed_forward_norm(want + block.feed_forward(want))
    torch.testing.assert_close(block(x, rotary=angles), want, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(block(x, rotary=angles), block(x), atol=1e-3)
    stack = Encoder(8, 2, HIDDEN, 2, norm_first=norm_first, final_norm=False)
    want = stack.layers[1](stack.layers[0](x, rotary=angles), rotary=angles)
    torch.testing.assert_close(stack(x, rotary=angles), want, atol=0, rtol=0)


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
    attention, tokens, hidden = (2, HEADS, 5, 5), (2, 5, D), (2, 5, HIDDEN)
    assert dropped == [(shape, 0.3, True) for shape in (attention, tokens, hidden, tokens)]
    dropped.clear()
    DecoderBlock(D, HEADS, HIDDEN, **options).eval()(normal(0, 2, 5, D), normal(1, 2, 7, D))
    shapes = (attention, tokens, (2, HEADS, 5, 7), tokens, hidden, tokens)
    assert dropped == [(shape, 0.3, False) for shape in shapes]


def test_defaults_are_those_of_the_docstring():
    for block in (EncoderBlock(D, HEADS, HIDDEN), DecoderBlock(D, HEADS, HIDDEN)):
        norms = [child for name, child in block.named_children() if name.endswith("_norm")]
        assert [norm.eps for norm in norms] == [1e-5] * len(norms)
        assert (block.norm_first, block.dropout, block.feed_forward.dropout) == (True, 0.0, 0.0)
        assert block.feed_forward.activation is gelu
        attentions = [child for name, child in block.named_children() if name.endswith("attention")]
        assert [(a.dropout, a.kernel, a.num_heads) for a in attentions] == [(0.0, "plain", HEADS)] * len(attentions)
        assert all(p.dtype == torch.float32 for p in block.parameters())
        biases = [name for name, _ in block.named_parameters() if name.endswith("bias")]
        assert len(biases) == 4 * len(attentions) + 2 + len(norms)
    for stack in (Encoder(D, HEADS, HIDDEN, 2), Decoder(D, HEADS, HIDDEN, 2)):
        assert stack.norm.eps == stack.layers[1].feed_forward_norm.eps == 1e-5
        assert stack.norm.bias is not None and stack.layers[1].feed_forward.up_proj.bias is not None
        assert stack.layers[1].norm_first


@pytest.mark.parametrize("stack", [Encoder, Decoder])
def test_a_stack_gives_its_options_to_every_block_and_to_the_norm(stack):
    options = dict(norm_eps=0.25, bias=False, dropout=0.1, activation="relu", kernel="fused", dtype=torch.float64)
    model = stack(D, HEADS, HIDDEN, 2, norm_first=True, **options)
    assert model.norm.eps == 0.25 and model.norm.bias is None
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    for layer in model.layers:
        assert layer.feed_forward_norm.eps == 0.25 and layer.feed_forward.activation is torch.relu
        assert layer.dropout == 0.1
        assert [m.kernel for m in layer.modules() if hasattr(m, "kernel")] == ["fused"] * (1 + (stack is Decoder))
    assert stack(D, HEADS, HIDDEN, 2, norm_first=False).norm is None
    assert stack(D, HEADS, HIDDEN, 2, device="meta").norm.weight.is_meta


@pytest.mark.parametrize("block", [EncoderBlock, DecoderBlock])
def test_options_reach_every_part_of_a_block(block):
    made = block(D, HEADS, HIDDEN, norm_eps=0.25, bias=False, dropout=0.1, activation=torch.tanh, kernel="fused")
    assert [m.eps for m in made.modules() if hasattr(m, "eps")] == [0.25] * (2 + (block is DecoderBlock))
    assert [m.kernel for m in made.modules() if hasattr(m, "kernel")] == ["fused"] * (1 + (block is DecoderBlock))
    dropouts = [m.dropout for m in made.modules() if hasattr(m, "dropout")]
    assert dropouts == [0.1] * (3 + (block is DecoderBlock))
    assert made.feed_forward.activation is torch.tanh
    assert not any(name.endswith("bias") for name, _ in made.named_parameters())
    assert block(D, HEADS, HIDDEN, dtype=torch.float64, device="meta").feed_forward.up_proj.weight.is_meta
    assert block(D, HEADS, HIDDEN, dtype=torch.float64).feed_forward.up_proj.weight.dtype == torch.float64


def test_activations_have_names():
    assert {"gelu": gelu, "gelu_tanh": gelu_tanh, "relu": torch.relu, "silu": silu} == ACTIVATIONS
    for name, function in ACTIVATIONS.items():
        for block in (EncoderBlock, DecoderBlock):
            assert block(D, HEADS, HIDDEN, activation=name).feed_forward.activation is function


def test_decoder_block_takes_a_memory_of_another_width():
    block = DecoderBlock(D, HEADS, HIDDEN, memory_dim=13)
    assert block.cross_attention.k_proj.in_features == block.cross_attention.v_proj.in_features == 13
    x, memory = normal(0, 2, 5, D), normal(1, 2, 7, 13)
    want = x + block.self_attention(block.self_attention_norm(x))
    want = want + block.cross_attention(block.cross_attention_norm(want), memory)
    want = want + block.feed_forward(block.feed_forward_norm(want))
    torch.testing.assert_close(block(x, memory), want, atol=1e-6, rtol=1e-6)
    assert Decoder(D, HEADS, HIDDEN, 2, memory_dim=13)(x, memory).shape == (2, 5, D)


def test_a_new_block_leaves_its_inputs_alone():
    x, memory = normal(0, 2, 5, D), normal(1, 2, 7, D)
    before = x.clone(), memory.clone()
    for norm_first in (True, False):
        EncoderBlock(D, HEADS, HIDDEN, norm_first=norm_first)(x)
        DecoderBlock(D, HEADS, HIDDEN, norm_first=norm_first)(x, memory)
    assert torch.equal(x, before[0]) and torch.equal(memory, before[1])


def test_a_token_that_may_look_nowhere_gets_no_nan():
    block, x = EncoderBlock(D, HEADS, HIDDEN), normal(0, 2, 5, D).requires_grad_()
    mask = padding_mask(torch.tensor([5, 0]), 5)
    y = block(x, mask=mask)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.isfinite().all() and gradient.isfinite().all()
    alone = x + block.attention.out_proj.bias
    want = alone + block.feed_forward(block.feed_forward_norm(alone))
    torch.testing.assert_close(y[1], want[1], atol=1e-6, rtol=1e-6)


def test_the_stream_grows_before_the_norm_and_stays_after_it():
    # Every pre-norm block adds to the stream; a post-norm block ends in a norm, so that each token has length sqrt(d).
    torch.manual_seed(0)
    x = normal(0, 1, 50, 64)
    for norm_first in (True, False):
        y, lengths = x, []
        for _ in range(8):
            y = EncoderBlock(64, 4, 128, norm_first=norm_first)(y)
            lengths.append(y.norm(dim=-1).mean().item())
        if norm_first:
            assert lengths == sorted(lengths) and lengths[-1] > 1.2 * 8
        else:
            assert lengths == pytest.approx([8.0] * 8, abs=1e-3)


@pytest.mark.parametrize("norm_first", [True, False])
def test_blocks_pass_gradcheck(norm_first):
    x, memory = (normal(i, 1, n, 4, dtype=torch.float64).requires_grad_() for i, n in enumerate((3, 2)))
    options = dict(norm_first=norm_first, dtype=torch.float64)
    assert torch.autograd.gradcheck(EncoderBlock(4, 2, 3, **options), x)
    assert torch.autograd.gradcheck(DecoderBlock(4, 2, 3, **options), (x, memory))


@pytest.mark.parametrize("kernel", ["plain", "blocks"])
@pytest.mark.parametrize("norm_first", [True, False])
def test_blocks_map_over_an_axis(norm_first, kernel):
    options = dict(norm_first=norm_first, kernel=kernel)
    encoder, decoder = EncoderBlock(D, HEADS, HIDDEN, **options), DecoderBlock(D, HEADS, HIDDEN, **options)
    x, memory = normal(0, 3, 2, 5, D), normal(1, 3, 2, 7, D)
    one_by_one = torch.stack([encoder(y) for y in x])
    torch.testing.assert_close(torch.func.vmap(encoder)(x), one_by_one, atol=1e-5, rtol=1e-5)
    one_by_one = torch.stack([decoder(y, z) for y, z in zip(x, memory, strict=True)])
    torch.testing.assert_close(torch.func.vmap(decoder)(x, memory), one_by_one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm_first", [True, False])
def test_blocks_run_under_autocast_and_in_half_precision(norm_first):
    encoder, decoder = (kind(D, HEADS, HIDDEN, norm_first=norm_first) for kind in (EncoderBlock, DecoderBlock))
    x, memory = normal(0, 2, 5, D), normal(1, 2, 7, D)
    want = encoder(x), decoder(x, memory)
    with torch.autocast("cpu", torch.bfloat16):
        got = encoder(x), decoder(x, memory)
        sum(y.float().square().sum() for y in got).backward()
    assert all(p.grad.isfinite().all() for block in (encoder, decoder) for p in block.parameters())
    for y, z in zip(got, want, strict=True):  # 8 bits, on numbers of about 2
        torch.testing.assert_close(y.float(), z, atol=6e-2, rtol=0)
    half = encoder.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), want[0], atol=8e-2, rtol=0)


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # the compiler's own import
@pytest.mark.parametrize("norm_first", [True, False])
def test_stacks_compile(norm_first, compiled):
    encoder, decoder = (kind(D, HEADS, HIDDEN, 2, norm_first=norm_first) for kind in (Encoder, Decoder))
    x, memory, mask = normal(0, 2, 5, D), normal(1, 2, 7, D), causal_mask(5, 5)
    results = []
    for wrap in (lambda f: f, compiled):
        outputs = [wrap(encoder)(x, mask=mask), wrap(decoder)(x, memory, mask=mask)]
        parameters = [*encoder.parameters(), *decoder.parameters()]
        results.append([*outputs, *torch.autograd.grad(sum(y.square().sum() for y in outputs), parameters)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # the compiler's own import
def test_stacks_become_machine_code():
    # One block is enough: a second is the same code once more, and takes the compiler as long again.
    encoder, decoder = (kind(D, HEADS, HIDDEN, 1, norm_first=True) for kind in (Encoder, Decoder))
    x, memory, mask = normal(0, 2, 5, D), normal(1, 2, 7, D), causal_mask(5, 5)
    compiled = torch.compile(encoder, fullgraph=True)(x, mask=mask)
    torch.testing.assert_close(compiled, encoder(x, mask=mask), atol=1e-5, rtol=1e-5)
    compiled = torch.compile(decoder, fullgraph=True)(x, memory, mask=mask)
    torch.testing.assert_close(compiled, decoder(x, memory, mask=mask), atol=1e-5, rtol=1e-5)


# ---- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(activation="tanh"), "activation is 'tanh', expected one of gelu, gelu_tanh, relu, silu, or a function"),
        (dict(hidden_dim=0), "hidden_dim is 0, expected at least 1"),
        (dict(num_heads=4), "embed_dim 6 is not a multiple of num_heads 4; choose a divisor"),
        (dict(dropout=1.0), "dropout is 1.0, expected 0 <= dropout < 1"),
        (dict(kernel="flash"), "kernel is 'flash', expected one of plain, blocks, fused, fastest"),
    ],
)
@pytest.mark.parametrize("block", [EncoderBlock, DecoderBlock])
def test_an_option_out_of_range_is_named(block, options, message):
    sizes = dict(embed_dim=D, num_heads=HEADS, hidden_dim=HIDDEN)
    with pytest.raises(ValueError) as caught:
        block(**(sizes | options))
    assert str(caught.value) == message
    assert block(**(sizes | dict(hidden_dim=1))).feed_forward.up_proj.out_features == 1


@pytest.mark.parametrize("name", ["d_model", "dim_feedforward", "layer_norm_eps", "batch_first", "add_zero_attn"])
@pytest.mark.parametrize(("kind", "sizes"), [(EncoderBlock, 3), (DecoderBlock, 3), (Encoder, 4), (Decoder, 4)])
def test_an_option_that_is_not_taken_is_refused_by_name(kind, sizes, name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        kind(*(D, HEADS, HIDDEN, 2)[:sizes], **{name: True})


@pytest.mark.parametrize("stack", [Encoder, Decoder])
def test_a_stack_names_what_is_wrong_with_its_numbers(stack):
    with pytest.raises(ValueError) as caught:
        stack(D, HEADS, HIDDEN, 0)
    assert str(caught.value) == "num_layers is 0, expected at least 1"
    model, memory = stack(D, HEADS, HIDDEN, 1), () if stack is Encoder else (normal(1, 2, 7, D),)
    assert len(model.layers) == 1
    with pytest.raises(ValueError) as caught:
        model(normal(0, 2, 5, D), *memory, caches=[KVCache(), KVCache()])
    assert str(caught.value) == "caches: 2 for 1 blocks; give one for each"


@pytest.mark.usefixtures("unchecked")
def test_tensors_that_do_not_fit_are_named():
    encoder, decoder, x = EncoderBlock(D, HEADS, HIDDEN), DecoderBlock(D, HEADS, HIDDEN), normal(0, 2, 5, D)
    with pytest.raises(ShapeError, match=r"x: shape \(2, 5, 7\), expected the last axes to be \(6,\)"):
        encoder(normal(0, 2, 5, 7))
    with pytest.raises(ShapeError, match=r"x: shape \(5, 6\), expected b=5, tokens, d=6"):
        encoder(normal(0, 5, D))
    with pytest.raises(ShapeError, match=r"mask: shape \(4, 5\) does not broadcast to b heads n s = \(2, 3, 5, 5\)"):
        encoder(x, mask=causal_mask(4, 5))
    with pytest.raises(TypeError, match="mask: torch.float32, expected torch.bool"):
        encoder(x, mask=torch.zeros(5, 5))
    for shape in ((3, 7, 6), (2, 7, 5), (7, 6)):
        with pytest.raises(ShapeError) as caught:
            decoder(x, torch.zeros(shape))
        assert str(caught.value) == f"memory: shape {shape}, expected b=2, s, memory_dim=6"
    with pytest.raises(ShapeError, match=r"mask: shape \(5, 5\) does not broadcast to .* \(2, 3, 5, 7\)"):
        decoder(x, normal(1, 2, 7, D), memory_mask=causal_mask(5, 5))
    with pytest.raises(ShapeError, match=r"memory: shape \(2, 7, 6\), expected b=2, s, memory_dim=13"):
        DecoderBlock(D, HEADS, HIDDEN, memory_dim=13)(x, normal(1, 2, 7, D))


def test_a_block_prints_its_numbers():
    assert repr(EncoderBlock(D, HEADS, HIDDEN, norm_first=False, dropout=0.25)).startswith(
        "EncoderBlock(\n  norm_first=False, dropout=0.25\n"
    )
    assert repr(DecoderBlock(D, HEADS, HIDDEN)).startswith("DecoderBlock(\n  norm_first=True, dropout=0.0\n")
