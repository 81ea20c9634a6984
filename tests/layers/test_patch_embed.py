"""Patch embedding beside a strided convolution with the same weights."""

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds, small
from torch import nn

from minivid.layers.patch_embed import PatchEmbed
from minivid.shapes import Grid, ShapeError

few = st.integers(1, 3)


@given(few, few, st.tuples(few, few, few), small, st.integers(1, 3), st.integers(1, 3), st.booleans(), seeds)
def test_patch_embed_equals_a_strided_convolution(b, c, grid, d, p, tau, bias, seed):
    box = (tau, p, p)
    theirs = nn.Conv3d(c, d, box, stride=box, bias=bias).double()
    ours = PatchEmbed(c, d, p, tau, bias=bias).double()
    ours.load_state_dict({f"proj.{key}": x for key, x in theirs.state_dict().items()})
    gt, gh, gw = grid
    results = []
    for module in (ours, theirs):
        clips = normal(seed, b, gt * tau, c, gh * p, gw * p, dtype=torch.float64).requires_grad_()
        if module is ours:
            tokens = ours(clips)
        else:
            tokens = rearrange(theirs(rearrange(clips, "b t c h w -> b c t h w")), "b d gt gh gw -> b (gt gh gw) d")
        cotangent = normal(seed + 1, *tokens.shape, dtype=torch.float64)
        results.append([tokens, *torch.autograd.grad(tokens, [clips, *module.parameters()], cotangent)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-10, rtol=0)


def test_weights_have_the_published_names_and_shapes():
    shapes = {key: tuple(x.shape) for key, x in PatchEmbed(3, 7, 5, 2).state_dict().items()}
    assert shapes == {"proj.weight": (7, 3, 2, 5, 5), "proj.bias": (7,)}


def test_tokens_stand_frame_group_by_frame_group_row_by_row():
    module = PatchEmbed(1, 1, 2, 3, bias=False)
    nn.init.constant_(module.proj.weight, 1 / 12)  # a token is the mean of its box
    number = torch.arange(2 * 3 * 5.0).view(2, 1, 3, 5)
    clips = number.repeat_interleave(3, 0).repeat_interleave(2, 2).repeat_interleave(2, 3)[None]
    torch.testing.assert_close(module(clips).flatten(), torch.arange(30.0))
    assert module.grid(clips) == Grid(2, 3, 5)


def test_a_box_is_read_channel_by_channel_then_in_time():
    module = PatchEmbed(2, 1, 1, 3, bias=False)
    clips = normal(0, 1, 3, 2, 1, 1)
    rows = torch.cat([clips[0, :, 0].flatten(), clips[0, :, 1].flatten()])[None]  # c tau p p
    torch.testing.assert_close(module.embed(rows), module(clips)[0])


def test_rows_are_embedded_in_the_order_they_come():
    module, rows = PatchEmbed(3, 7, 2, 2), normal(0, 11, 24)
    torch.testing.assert_close(module.embed(rows.flip(0)), module.embed(rows).flip(0))
    torch.testing.assert_close(module.embed(rows[None]), module.embed(rows)[None])


def test_a_token_sees_its_own_box_only():
    module, clips = PatchEmbed(3, 7, 2, 2), normal(0, 1, 4, 3, 4, 6)
    other = clips.clone()
    other[0, 2:, :, 2:, 4:] += 1.0  # the last box
    changed = (module(other) != module(clips)).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [11]


def test_patch_embed_maps_over_an_axis_and_runs_under_autocast():
    module, clips = PatchEmbed(3, 7, 2, 2), normal(0, 2, 3, 4, 3, 4, 6)
    torch.testing.assert_close(torch.func.vmap(module)(clips)[1], module(clips[1]), atol=1e-6, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = module(clips[0])
    assert tokens.dtype == torch.bfloat16
    torch.testing.assert_close(tokens.float(), module(clips[0]), atol=3e-2, rtol=0)  # 8 bits on numbers of about 1


def test_patch_embed_passes_gradcheck():
    module = PatchEmbed(2, 3, 2, 1).double()
    assert torch.autograd.gradcheck(module, normal(0, 1, 2, 2, 2, 4, dtype=torch.float64).requires_grad_())


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # the compiler's own import
def test_patch_embed_compiles():
    module, clips = PatchEmbed(3, 7, 2, 2), normal(0, 1, 4, 3, 4, 6)
    torch.testing.assert_close(torch.compile(module, fullgraph=True)(clips), module(clips), atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 5, 3, 4, 6), "clips: t=5 is not a multiple of 2"),
        ((1, 4, 3, 7, 6), "clips: h=7 is not a multiple of 2"),
        ((1, 4, 3, 4, 9), "clips: w=9 is not a multiple of 2"),
        ((1, 0, 3, 4, 6), "clips: t=0 is not a multiple of 2"),
        ((1, 3, 4, 4, 6), r"clips: shape \(1, 3, 4, 4, 6\), expected b t c h w with c=3"),
        ((4, 3, 4, 6), r"clips: shape \(4, 3, 4, 6\), expected b t c h w with c=3"),
    ],
)
def test_patch_embed_names_the_axis_that_does_not_fit(shape, message):
    with pytest.raises(ShapeError, match=message):
        PatchEmbed(3, 7, 2, 2)(torch.zeros(shape))


def test_embed_names_the_width_of_the_rows():
    with pytest.raises(ShapeError, match="rows of 12 numbers, expected 24 = 3 channels x 2 frames x 2 x 2 pixels"):
        PatchEmbed(3, 7, 2, 2).embed(torch.zeros(5, 12))
