"""Patch embedding beside a strided convolution, the order of boxes, tubelets out of pictures, and merged tokens."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds, small
from torch import Tensor, nn
from torch.nn import functional as F

from minivid.classroom.evidence import agree, holds
from minivid.layers.conv3d import Conv3d
from minivid.layers.patch_embed import (
    PatchEmbed,
    PatchMerger,
    box_grid,
    embed_patches,
    inflate_average,
    inflate_central,
    merge_order,
    tubelets,
)
from minivid.shapes import Grid, ShapeError

few = st.integers(1, 3)
two = st.integers(1, 2)
grids = st.tuples(few, few, few)
# Numbers of transformers' modules; the file says how their weights were drawn.
PEER = json.loads((Path(__file__).parents[1] / "data" / "patch_merger.json").read_text(encoding="utf-8"))


def rounded(seed: int, *shape: int) -> Tensor:
    """Small whole numbers that depend on the seed alone: drawn fast, exact in every float format."""
    return normal(seed, *shape).mul(1.5).round()


def numbered(*shape: int) -> Tensor:
    """0, 1, 2, ...: every number says where it stood."""
    return torch.arange(float(torch.Size(shape).numel())).view(shape)


# ---- laws of tubelets


@pytest.mark.law("tubelets")
@given(two, few, few)
def test_a_box_is_written_channel_by_channel_then_in_time(impl, c, tau, p):
    """A clip that is one box is one row: channel by channel, in it frame by frame, in it pixel row by pixel row."""
    clip = numbered(1, tau, c, p, p)
    got = impl.tubelets(clip, patch_size=p, temporal_patch_size=tau)
    want = torch.stack([clip[0, i, channel] for channel in range(c) for i in range(tau)]).reshape(1, 1, -1)
    agree(got, want, "the numbers of a row stand in another order", axes="b n box", clips=clip, patch_size=p)


@pytest.mark.law("tubelets")
@given(two, grids)
def test_boxes_stand_in_raster_order(impl, b, grid):
    """Boxes of one pixel come out as the pixels stand: frame by frame, row by row, clip by clip."""
    clips = numbered(b, grid[0], 1, *grid[1:])
    got = impl.tubelets(clips, patch_size=1, temporal_patch_size=1)
    agree(got, clips.reshape(b, -1, 1), "the boxes stand in another order", axes="b n box", clips=clips)


@pytest.mark.law("tubelets")
@given(two, two, grids, few, few)
def test_tubelets_cut_every_box_out_of_its_place(impl, b, c, grid, p, tau):
    """Row (i, j, k) holds frames tau i to tau i + tau - 1, pixel rows p j to p j + p - 1, and so the columns."""
    gt, gh, gw = grid
    clips = numbered(b, gt * tau, c, gh * p, gw * p)
    got = impl.tubelets(clips, patch_size=p, temporal_patch_size=tau)
    boxes = [
        clips[:, i * tau : (i + 1) * tau, :, j * p : (j + 1) * p, k * p : (k + 1) * p].transpose(1, 2).flatten(1)
        for i, j, k in itertools.product(range(gt), range(gh), range(gw))
    ]
    claim = "a row is not the box of its place"
    agree(got, torch.stack(boxes, 1), claim, axes="b n box", clips=clips, patch_size=p, temporal_patch_size=tau)


# ---- laws of embed_patches


@pytest.mark.law("embed_patches")
@given(st.integers(0, 3), two, few, few, few, seeds)
def test_embed_patches_equals_a_convolution_on_each_box(impl, n, c, d, p, tau, seed):
    """A kernel laid once on a box as large as itself is one inner product, not flipped."""
    patches, weight = rounded(seed, n, c * tau * p * p), rounded(seed + 1, d, c, tau, p, p)
    got = impl.embed_patches(patches, weight)
    want = torch.einsum("nctij,dctij->nd", patches.view(n, c, tau, p, p), weight)
    agree(got, want, "not the sum of products of box and kernel", axes="n d", patches=patches, weight=weight)


@pytest.mark.law("embed_patches")
@given(few, two, few, few, seeds)
def test_embed_patches_adds_the_bias_to_every_token(impl, n, c, d, p, seed):
    """Every token gets the same bias, one number for each of its numbers."""
    patches, weight, bias = rounded(seed, n, c * p * p), rounded(seed + 1, d, c, 1, p, p), rounded(seed + 2, d)
    got = impl.embed_patches(patches, weight, bias)
    want = torch.einsum("nctij,dctij->nd", patches.view(n, c, 1, p, p), weight) + bias
    agree(got, want, "the bias is not added once", axes="n d", patches=patches, weight=weight, bias=bias)


@pytest.mark.law("embed_patches")
@given(two, st.integers(2, 3), few, seeds)
def test_embed_patches_keeps_the_rows_where_they_are(impl, b, n, d, seed):
    """Rows in another order give the same tokens in that order, and a batch of clips keeps its axes."""
    patches, weight = rounded(seed, b, n, 8), rounded(seed + 1, d, 2, 1, 2, 2)
    got = impl.embed_patches(patches.flip(1), weight)
    want = torch.stack([impl.embed_patches(clip, weight).flip(0) for clip in patches])
    agree(got, want, "a token is not where its row is", axes="b n d", patches=patches, weight=weight)


# ---- laws of the two inflations


@pytest.mark.law("inflate_average")
@given(few, two, few, st.integers(1, 4), seeds)
def test_a_still_box_keeps_the_token_of_its_picture(impl, d, c, p, tau, seed):
    """If all tau frames of a box are the same picture, its token is the token of that picture."""
    weight, picture = rounded(seed, d, c, p, p), rounded(seed + 1, c, p, p)
    kernel = inflated(impl.inflate_average, weight, tau)
    got = torch.einsum("dctij,cij->d", kernel, picture)
    want = torch.einsum("dcij,cij->d", weight, picture)
    agree(got, want, "a still box has another token", axes="d", weight=weight, picture=picture, temporal_patch_size=tau)


@pytest.mark.law("inflate_average")
@given(few, two, few, st.integers(1, 4), seeds)
def test_the_average_treats_every_frame_alike(impl, d, c, p, tau, seed):
    """Every frame of the kernel is the picture's kernel divided by the number of frames."""
    weight = rounded(seed, d, c, p, p)
    got = inflated(impl.inflate_average, weight, tau)
    want = torch.stack([weight / tau] * tau, 2)
    agree(got, want, "the frames differ", axes="d c tau p p", weight=weight, temporal_patch_size=tau)


@pytest.mark.law("inflate_central")
@given(few, two, few, st.integers(1, 5), seeds)
def test_the_token_is_that_of_the_central_frame(impl, d, c, p, tau, seed):
    """The token of a box is the token of its frame number floor(tau / 2), whatever the other frames show."""
    weight, box = rounded(seed, d, c, p, p), rounded(seed + 1, c, tau, p, p)
    kernel = inflated(impl.inflate_central, weight, tau)
    got = torch.einsum("dctij,ctij->d", kernel, box)
    want = torch.einsum("dcij,cij->d", weight, box[:, tau // 2])
    agree(got, want, "not the token of the central frame", axes="d", weight=weight, box=box, temporal_patch_size=tau)


@pytest.mark.law("inflate_central")
@given(few, two, few, st.integers(1, 5), seeds)
def test_all_frames_but_the_central_one_are_zeros(impl, d, c, p, tau, seed):
    """The kernel is the picture's at frame floor(tau / 2) and zero elsewhere."""
    weight = rounded(seed, d, c, p, p)
    got = inflated(impl.inflate_central, weight, tau)
    want = torch.stack([weight if i == tau // 2 else 0 * weight for i in range(tau)], 2)
    agree(got, want, "another frame has the kernel", axes="d c tau p p", weight=weight, temporal_patch_size=tau)


def inflated(inflate, weight: Tensor, tau: int) -> Tensor:
    """A kernel of the right shape, made of a weight that stays as it is, or the law is broken."""
    given = weight.clone()
    kernel = inflate(given, tau)
    claim = "the picture's kernel itself was changed; make a new one"
    holds(torch.equal(given, weight), claim, weight=weight, afterwards=given)
    want = (*weight.shape[:2], tau, *weight.shape[2:])
    shape = tuple(kernel.shape) if isinstance(kernel, Tensor) else type(kernel).__name__
    holds(shape == want, f"the kernel is {shape}, expected d c tau p p = {want}", weight=weight)
    return kernel


# ---- laws of merge_order


@pytest.mark.law("merge_order")
@given(grids, two)
def test_blocks_of_one_change_nothing(impl, grid, d):
    """With a merge size of 1 the order stays as it is."""
    tokens = numbered(torch.Size(grid).numel(), d)
    got = impl.merge_order(tokens, grid, spatial_merge_size=1)
    agree(got, tokens, "the order has changed", axes="n d", tokens=tokens, grid=grid)


@pytest.mark.law("merge_order")
@given(st.tuples(two, few, few), st.integers(1, 3), two)
def test_every_block_stands_together(impl, blocks, merge, d):
    """Frame group by frame group, block by block; in a block its m x m boxes row by row."""
    gt, bh, bw = blocks
    tokens = numbered(gt, bh * merge, bw * merge, d)
    want = [
        tokens[i, j * merge : (j + 1) * merge, k * merge : (k + 1) * merge].reshape(-1, d)
        for i, j, k in itertools.product(range(gt), range(bh), range(bw))
    ]
    flat, grid = tokens.reshape(-1, d), (gt, bh * merge, bw * merge)
    got = impl.merge_order(flat, grid, spatial_merge_size=merge)
    claim = "the boxes of a block do not stand together"
    agree(got, torch.cat(want), claim, axes="n d", tokens=flat, grid=grid, spatial_merge_size=merge)


@pytest.mark.law("merge_order")
@given(st.integers(2, 3), two)
def test_every_clip_is_ordered_by_itself(impl, b, bw):
    """A batch of clips gives each clip's order."""
    grid = (1, 2, 2 * bw)
    tokens = numbered(b, 4 * bw, 1)
    got = impl.merge_order(tokens, grid)
    want = torch.stack([impl.merge_order(clip, grid) for clip in tokens])
    agree(got, want, "clips have met", axes="b n d", tokens=tokens, grid=grid)


# ---- laws of PatchEmbed


@pytest.mark.law("PatchEmbed")
@given(two, two, grids, small, few, few, seeds)
def test_patch_embed_is_the_convolution_whose_stride_is_its_kernel(impl, b, c, grid, d, p, tau, seed):
    """Loaded with a convolution's weights as `proj.weight` and `proj.bias`, it gives that convolution's numbers."""
    weight, bias = rounded(seed, d, c, tau, p, p), rounded(seed + 1, d)
    clips = rounded(seed + 2, b, grid[0] * tau, c, grid[1] * p, grid[2] * p)
    module = impl.PatchEmbed(c, d, p, tau)
    module.load_state_dict({"proj.weight": weight, "proj.bias": bias})
    places = F.conv3d(clips.transpose(1, 2), weight, bias, stride=(tau, p, p))
    want = rearrange(places, "b d gt gh gw -> b (gt gh gw) d")
    agree(module(clips), want, "not the convolution", axes="b n d", clips=clips, weight=weight, bias=bias)


@pytest.mark.law("PatchEmbed")
@given(two, grids, small, few, few, seeds)
def test_a_clip_and_its_rows_have_the_same_tokens(impl, c, grid, d, p, tau, seed):
    """Embedding a clip is embedding the rows that `tubelets` cuts, in the same order."""
    clips = rounded(seed, 2, grid[0] * tau, c, grid[1] * p, grid[2] * p)
    module = impl.PatchEmbed(c, d, p, tau)
    module.load_state_dict({"proj.weight": rounded(seed + 1, d, c, tau, p, p), "proj.bias": rounded(seed + 2, d)})
    rows = tubelets(clips, patch_size=p, temporal_patch_size=tau)
    agree(module.embed(rows), module(clips), "rows and clip differ", axes="b n d", clips=clips, rows=rows)


@pytest.mark.law("PatchEmbed")
@given(two, few, few, seeds)
def test_patch_embed_without_a_bias_adds_none(impl, c, d, p, seed):
    """With bias=False there is `proj.weight` alone, and a black clip gives zeros."""
    module = impl.PatchEmbed(c, d, p, 1, bias=False)
    module.load_state_dict({"proj.weight": rounded(seed, d, c, 1, p, p)})
    clips = torch.zeros(1, 1, c, p, p)
    agree(module(clips), torch.zeros(1, 1, d), "something is added", axes="b n d", clips=clips)


# ---- laws of PatchMerger


@st.composite
def merger_case(draw):
    """Arguments of a merger, its weights, and tokens of one clip in merge order."""
    d, out, merge, blocks, seed = draw(st.tuples(few, two, st.integers(1, 3), two, seeds))
    after, scale = draw(st.booleans()), draw(st.sampled_from([1.0, 1e-3]))
    wide = d * merge**2
    weights = {
        "norm.weight": 1 + rounded(seed, wide if after else d) / 4,
        "norm.bias": rounded(seed + 1, wide if after else d) / 4,
        "linear_fc1.weight": rounded(seed + 2, wide, wide) / 4,
        "linear_fc1.bias": rounded(seed + 3, wide) / 4,
        "linear_fc2.weight": rounded(seed + 4, out, wide),
        "linear_fc2.bias": rounded(seed + 5, out),
    }
    tokens = scale * rounded(seed + 6, blocks * merge**2, d)
    return (d, out), dict(spatial_merge_size=merge, use_postshuffle_norm=after), weights, tokens


def merged(weights: dict[str, Tensor], tokens: Tensor, *, spatial_merge_size: int, use_postshuffle_norm: bool):
    """What torch's layers make of the tokens, in float64."""
    w = {key: value.double() for key, value in weights.items()}
    wide = w["linear_fc1.weight"].shape[0]
    x = tokens.double().view(-1, wide) if use_postshuffle_norm else tokens.double()
    x = F.layer_norm(x, x.shape[-1:], w["norm.weight"], w["norm.bias"], 1e-6).view(-1, wide)
    x = F.gelu(F.linear(x, w["linear_fc1.weight"], w["linear_fc1.bias"]))
    return F.linear(x, w["linear_fc2.weight"], w["linear_fc2.bias"])


def loaded(impl, case):
    """The implementation's merger with the weights of a case."""
    arguments, options, weights, _ = case
    module = impl.PatchMerger(*arguments, **options)
    module.load_state_dict(weights)
    return module


@pytest.mark.law("PatchMerger")
@given(merger_case())
def test_patch_merger_makes_one_token_of_a_block(impl, case):
    """Loaded with weights by their published names, it makes n / m^2 tokens of n, each out_hidden_size wide."""
    (_, out), options, _, tokens = case
    want = len(tokens) // options["spatial_merge_size"] ** 2, out
    got = loaded(impl, case)(tokens)
    shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
    holds(shape == want, f"the result is {shape}, expected {want}", tokens=tokens, **options)


@pytest.mark.law("PatchMerger")
@given(merger_case())
def test_patch_merger_is_norm_group_and_two_layers(impl, case):
    """Norm and grouping (in the order asked for), linear_fc1, the exact GELU, linear_fc2; eps is 1e-6."""
    _, options, weights, tokens = case
    got = loaded(impl, case)(tokens)
    want = merged(weights, tokens, **options)
    # Single precision on sums of up to 27 products of about 1.
    agree(got, want, "other numbers come out", axes="n out", atol=2e-5, rtol=1e-5, tokens=tokens, **options)


@pytest.mark.law("PatchMerger")
@given(merger_case())
def test_a_merged_token_sees_its_own_block_only(impl, case):
    """Other tokens in the last block leave the merged tokens before it as they are."""
    _, options, _, tokens = case
    block = options["spatial_merge_size"] ** 2
    other = tokens.clone()
    other[-block:] = other[-block:].flip(0, 1) + 1.0
    module = loaded(impl, case)
    got, want = module(other)[:-1], module(tokens)[:-1]
    agree(got, want, "a block sees another", axes="n out", tokens=tokens, other=other, **options)


@pytest.mark.law("PatchMerger")
@given(merger_case(), st.integers(2, 3))
def test_patch_merger_takes_a_batch(impl, case, b):
    """A batch of clips is merged clip by clip."""
    _, options, _, tokens = case
    clips = torch.stack([tokens + i for i in range(b)])
    module = loaded(impl, case)
    got, want = module(clips), torch.stack([module(clip) for clip in clips])
    agree(got, want, "clips have met", axes="b n out", tokens=clips, **options)


# ---- PatchEmbed beside torch and a published model


@given(few, few, grids, small, st.integers(1, 3), st.integers(1, 3), st.booleans(), seeds)
def test_patch_embed_and_its_gradients_equal_a_strided_convolution(b, c, grid, d, p, tau, bias, seed):
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


def test_patch_embed_agrees_in_single_precision_at_the_published_size():
    torch.manual_seed(0)
    theirs = nn.Conv3d(3, 64, (2, 16, 16), stride=(2, 16, 16))
    clips = normal(0, 2, 4, 3, 32, 48)
    want = rearrange(theirs(rearrange(clips, "b t c h w -> b c t h w")), "b d gt gh gw -> b (gt gh gw) d")
    torch.testing.assert_close(PatchEmbed.from_conv3d(theirs)(clips), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", PEER["cases"], ids=lambda case: f"{case['module']} {case['arguments']}")
def test_a_published_model_gives_the_same_numbers(case):
    module = {"PatchEmbed": PatchEmbed, "PatchMerger": PatchMerger}[case["module"]](**case["arguments"]).double()
    module.load_state_dict(
        {
            key: normal(seed, *shape, dtype=torch.float64) + (1.0 if key == "norm.weight" else 0.0)
            for key, seed, shape in case["weights"]
        }
    )
    seed, shape = case["input"]
    rows = normal(seed, *shape, dtype=torch.float64)
    got = module.embed(rows) if case["module"] == "PatchEmbed" else module(rows)
    torch.testing.assert_close(got, torch.tensor(case["output"], dtype=torch.float64), atol=1e-10, rtol=0)


def test_weights_have_the_published_names_and_shapes():
    shapes = {key: tuple(x.shape) for key, x in PatchEmbed(3, 7, 5, 2).state_dict().items()}
    assert shapes == {"proj.weight": (7, 3, 2, 5, 5), "proj.bias": (7,)}
    for after, width in ((False, 3), (True, 12)):
        shapes = {key: tuple(x.shape) for key, x in PatchMerger(3, 7, use_postshuffle_norm=after).state_dict().items()}
        assert shapes == {
            "norm.weight": (width,),
            "norm.bias": (width,),
            "linear_fc1.weight": (12, 12),
            "linear_fc1.bias": (12,),
            "linear_fc2.weight": (7, 12),
            "linear_fc2.bias": (7,),
        }
    assert set(PatchEmbed(3, 7, 5, 2, bias=False).state_dict()) == {"proj.weight"}


def test_patch_embed_starts_as_the_convolution_does():
    torch.manual_seed(3)
    ours = PatchEmbed(3, 7, 5, 2)
    torch.manual_seed(3)
    theirs = nn.Conv3d(3, 7, (2, 5, 5), stride=(2, 5, 5))
    assert torch.equal(ours.proj.weight, theirs.weight) and torch.equal(ours.proj.bias, theirs.bias)


def test_what_holds_the_weights_is_the_convolution_that_published_models_call():
    torch.manual_seed(3)
    embed, clips = PatchEmbed(3, 7, 5, 2), normal(0, 1, 4, 3, 10, 15)
    assert embed.proj.kernel_size == embed.proj.stride == (2, 5, 5)
    want = rearrange(embed.proj(rearrange(clips, "b t c h w -> b c t h w")), "b d gt gh gw -> b (gt gh gw) d")
    torch.testing.assert_close(embed(clips), want, atol=1e-5, rtol=1e-5)


def test_weights_are_made_where_and_as_what_is_asked():
    module = PatchEmbed(3, 7, 5, 2, device="meta", dtype=torch.bfloat16)
    assert {(x.device.type, x.dtype) for x in module.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize("kind", [nn.Conv3d, Conv3d])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"padding": "valid"}, {"dtype": torch.float64}])
def test_a_convolution_is_taken_over(kind, options):
    conv = kind(3, 7, (2, 5, 5), stride=(2, 5, 5), **options)
    embed = PatchEmbed.from_conv3d(conv)
    clips = normal(0, 1, 4, 3, 10, 15, dtype=conv.weight.dtype)
    want = rearrange(conv(rearrange(clips, "b t c h w -> b c t h w")), "b d gt gh gw -> b (gt gh gw) d")
    torch.testing.assert_close(embed(clips), want, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        conv.weight.zero_()
    assert embed.proj.weight.abs().min() > 0  # copies
    assert (embed.in_channels, embed.patch_size, embed.temporal_patch_size) == (3, 5, 2)


def test_a_convolution_is_taken_over_where_it_is():
    conv = nn.Conv3d(3, 7, (2, 5, 5), stride=(2, 5, 5), device="meta")
    assert {x.device.type for x in PatchEmbed.from_conv3d(conv).parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(stride=1), r"stride is \(1, 1, 1\), expected \(2, 5, 5\): only then is every box read once, whole"),
        (dict(stride=(2, 5, 4)), r"stride is \(2, 5, 4\), expected \(2, 5, 5\)"),
        (dict(stride=(1, 5, 5)), r"stride is \(1, 5, 5\), expected \(2, 5, 5\)"),
        (dict(kernel_size=(2, 5, 4), stride=(2, 5, 4)), r"kernel_size is \(2, 5, 4\), expected \(2, 5, 5\)"),
        (dict(padding=(0, 1, 0)), r"padding is \(0, 1, 0\), expected \(0, 0, 0\)"),
        (dict(padding="same", stride=1), r"stride is \(1, 1, 1\)"),
        (dict(dilation=2), r"dilation is \(2, 2, 2\), expected \(1, 1, 1\)"),
        (dict(groups=3), "groups is 3, expected 1"),
        (dict(padding_mode="circular"), "padding_mode is 'circular', expected 'zeros'"),
    ],
)
def test_another_convolution_is_no_patch_embedding(options, message):
    conv = nn.Conv3d(3, 6, **{"kernel_size": (2, 5, 5), "stride": (2, 5, 5), **options})
    with pytest.raises(ValueError, match=message):
        PatchEmbed.from_conv3d(conv)


# ---- by hand


def test_tokens_stand_frame_group_by_frame_group_row_by_row():
    module = PatchEmbed(1, 1, 2, 3, bias=False)
    nn.init.constant_(module.proj.weight, 1 / 12)  # a token is the mean of its box
    clips = numbered(2, 1, 3, 5).repeat_interleave(3, 0).repeat_interleave(2, 2).repeat_interleave(2, 3)[None]
    torch.testing.assert_close(module(clips).flatten(), torch.arange(30.0))
    assert module.grid(clips) == box_grid(clips, patch_size=2, temporal_patch_size=3) == Grid(2, 3, 5)
    assert {type(count) for count in module.grid(clips)} == {int}


def test_tubelets_of_the_picture_in_the_chapter():
    # Hundreds: the frame; tens: the pixel row; ones: the column.
    clip = torch.tensor([[[[0.0, 1, 2, 3], [10, 11, 12, 13]]], [[[100, 101, 102, 103], [110, 111, 112, 113]]]])[None]
    rows = tubelets(clip, patch_size=2, temporal_patch_size=2)
    assert rows.tolist() == [[[0, 1, 10, 11, 100, 101, 110, 111], [2, 3, 12, 13, 102, 103, 112, 113]]]


def test_tubelets_of_one_clip_are_the_rows_of_that_clip_alone():
    clips = normal(0, 3, 4, 2, 6, 9)
    together = tubelets(clips, patch_size=3, temporal_patch_size=2)
    for clip, rows in zip(clips, together, strict=True):
        assert torch.equal(tubelets(clip[None], patch_size=3, temporal_patch_size=2)[0], rows)


def test_merge_order_of_two_by_four_boxes():
    tokens = torch.arange(8.0)[:, None]
    assert merge_order(tokens, (1, 2, 4)).flatten().tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


def test_an_inflated_kernel_of_two_frames_by_hand():
    weight = torch.tensor([3.0, 5.0]).view(2, 1, 1, 1)
    assert inflate_average(weight, 2).flatten(1).tolist() == [[1.5, 1.5], [2.5, 2.5]]
    assert inflate_central(weight, 2).flatten(1).tolist() == [[0, 3], [0, 5]]
    assert inflate_central(weight, 3).flatten(1).tolist() == [[0, 3, 0], [0, 5, 0]]


@pytest.mark.parametrize("inflate", [inflate_average, inflate_central])
def test_gradients_and_formats_pass_through_inflation(inflate):
    assert torch.autograd.gradcheck(
        lambda w: inflate(w, 3), normal(0, 2, 1, 2, 2, dtype=torch.float64).requires_grad_()
    )
    assert inflate(normal(0, 2, 1, 2, 2, dtype=torch.bfloat16), 3).dtype == torch.bfloat16
    torch.testing.assert_close(
        torch.func.vmap(lambda w: inflate(w, 3))(normal(0, 5, 2, 1, 2, 2))[4], inflate(normal(0, 5, 2, 1, 2, 2)[4], 3)
    )


def test_a_token_alone_may_be_brighter_but_a_merged_one_sees_it():
    tokens = normal(0, 4, 5)
    brighter = tokens * torch.tensor([[3.0], [1.0], [1.0], [1.0]])
    before, after = PatchMerger(5, 7), PatchMerger(5, 7, use_postshuffle_norm=True)
    torch.testing.assert_close(before(brighter), before(tokens), atol=1e-5, rtol=1e-5)
    assert (after(brighter) - after(tokens)).abs().max() > 1e-2
    torch.testing.assert_close(after(3 * tokens), after(tokens), atol=1e-5, rtol=1e-5)


def test_patch_merger_equals_torch_with_its_gradients():
    for after in (False, True):
        module = PatchMerger(5, 7, spatial_merge_size=3, use_postshuffle_norm=after).double()
        tokens = normal(0, 18, 5, dtype=torch.float64).requires_grad_()
        parameters = dict(module.named_parameters())
        results = []
        for output in (
            module(tokens),
            merged(parameters, tokens, spatial_merge_size=3, use_postshuffle_norm=after),
        ):
            cotangent = normal(1, *output.shape, dtype=torch.float64)
            results.append([output, *torch.autograd.grad(output, [tokens, *parameters.values()], cotangent)])
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want, atol=1e-10, rtol=0)


def test_the_merge_size_is_two_and_the_norm_comes_first_if_nothing_is_said():
    merger = PatchMerger(3, 5)
    assert (merger.hidden_size, merger.spatial_merge_size, merger.use_postshuffle_norm) == (3, 2, False)
    assert merger(normal(0, 2, 8, 3)).shape == (2, 2, 5)


def test_a_clip_goes_the_whole_way_to_merged_tokens():
    embed, merger = PatchEmbed(3, 5, 2, 2), PatchMerger(5, 7, spatial_merge_size=2)
    clips = normal(0, 2, 4, 3, 8, 12)
    tokens = merge_order(embed(clips), embed.grid(clips))
    assert merger(tokens).shape == (2, 2 * 4 * 6 // 4, 7)
    # The last merged token is made of the last 4 x 4 pixels of the last two frames.
    alone = embed(clips[:, 2:, :, 4:, 8:])
    torch.testing.assert_close(merger(tokens)[:, -1:], merger(alone), atol=1e-6, rtol=1e-5)


# ---- any rows, formats and transforms


def test_rows_are_embedded_in_the_order_they_come():
    module, rows = PatchEmbed(3, 7, 2, 2), normal(0, 11, 24)
    torch.testing.assert_close(module.embed(rows.flip(0)), module.embed(rows).flip(0))
    torch.testing.assert_close(module.embed(rows[None]), module.embed(rows)[None])
    torch.testing.assert_close(embed_patches(rows[0], module.proj.weight, module.proj.bias), module.embed(rows)[0])


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


@pytest.mark.parametrize("after", [False, True])
def test_patch_merger_maps_over_an_axis_and_runs_under_autocast(after):
    module, tokens = PatchMerger(3, 7, use_postshuffle_norm=after), normal(0, 5, 8, 3)
    torch.testing.assert_close(torch.func.vmap(module)(tokens), module(tokens), atol=1e-6, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        got = module(tokens)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), module(tokens), atol=3e-2, rtol=0)  # 8 bits on numbers of about 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_odd_sizes_work_in_half_precision(dtype):
    module, clips = PatchEmbed(1, 7, 3, 5).to(dtype), normal(0, 1, 5, 1, 9, 3).to(dtype)
    want = F.conv3d(clips.transpose(1, 2).float(), module.proj.weight.float(), module.proj.bias.float(), (5, 3, 3))
    want = rearrange(want, "b d gt gh gw -> b (gt gh gw) d")
    torch.testing.assert_close(module(clips).float(), want, atol=3e-2, rtol=0)  # 8 bits on numbers of about 1
    merger = PatchMerger(7, 5, spatial_merge_size=3).to(dtype)
    tokens = normal(1, 9, 7).to(dtype)
    torch.testing.assert_close(merger(tokens).float(), merger.float()(tokens.float()), atol=3e-2, rtol=0)


def test_gradients_pass_gradcheck():
    module = PatchEmbed(2, 3, 2, 1).double()
    assert torch.autograd.gradcheck(module, normal(0, 1, 2, 2, 2, 4, dtype=torch.float64).requires_grad_())
    for after in (False, True):
        merger = PatchMerger(3, 2, spatial_merge_size=2, use_postshuffle_norm=after).double()
        assert torch.autograd.gradcheck(merger, normal(0, 4, 3, dtype=torch.float64).requires_grad_())


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # the compiler's own import
def test_patch_embed_and_merger_compile(compiled):
    embed, merger, clips = PatchEmbed(3, 7, 2, 2), PatchMerger(7, 5), normal(0, 1, 4, 3, 4, 4)

    def whole(clips):
        return merger(merge_order(embed(clips), (2, 2, 2)))

    torch.testing.assert_close(compiled(whole)(clips), whole(clips), atol=1e-6, rtol=1e-5)


# ---- errors


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 5, 3, 4, 6), "clips: t=5 is not a multiple of 2; crop, pad or resize the clip first"),
        ((1, 4, 3, 7, 6), "clips: h=7 is not a multiple of 3"),
        ((1, 4, 3, 6, 10), "clips: w=10 is not a multiple of 3"),
        ((1, 0, 3, 6, 6), "clips: t=0 is not a multiple of 2"),
        ((1, 2, 3, 0, 6), "clips: h=0 is not a multiple of 3"),
        ((4, 3, 4, 6), r"clips: shape \(4, 3, 4, 6\), expected b t c h w"),
    ],
)
def test_the_axis_that_does_not_fit_is_named(shape, message):
    for call in (
        PatchEmbed(3, 7, 3, 2),
        PatchEmbed(3, 7, 3, 2).grid,
        lambda clips: tubelets(clips, patch_size=3, temporal_patch_size=2),
        lambda clips: box_grid(clips, patch_size=3, temporal_patch_size=2),
    ):
        with pytest.raises(ShapeError, match=message):
            call(torch.zeros(shape))


@pytest.mark.usefixtures("unchecked")
def test_one_clip_alone_is_told_how_to_become_a_batch():
    message = r"^clips: shape \(4, 3, 4, 6\), expected b t c h w; one clip becomes a batch by clip\[None\]$"
    with pytest.raises(ShapeError, match=message):
        tubelets(torch.zeros(4, 3, 4, 6), patch_size=2, temporal_patch_size=2)


@pytest.mark.usefixtures("unchecked")
def test_patch_embed_names_the_channels():
    with pytest.raises(ShapeError, match=r"^clips: shape \(1, 3, 4, 4, 6\), expected b t c h w with c=3$"):
        PatchEmbed(3, 7, 2, 2)(torch.zeros(1, 3, 4, 4, 6))


@pytest.mark.usefixtures("unchecked")
def test_embed_names_the_width_of_the_rows():
    message = "^patches: rows of 12 numbers, expected 24 = 3 channels x 2 frames x 2 x 2 pixels$"
    with pytest.raises(ShapeError, match=message):
        PatchEmbed(3, 7, 2, 2).embed(torch.zeros(5, 12))
    with pytest.raises(ShapeError, match=message):
        PatchEmbed(3, 7, 2, 2).embed(torch.zeros(2, 5, 12))


def test_merge_order_names_what_does_not_fit():
    with pytest.raises(ShapeError, match="^tokens: n=7, but the grid 1 x 2 x 4 has 8 boxes$"):
        merge_order(torch.zeros(7, 3), (1, 2, 4))
    message = "^grid: gt=1, gh=3, gw=4, expected at least 1 of each, gh and gw multiples of spatial_merge_size 2$"
    with pytest.raises(ShapeError, match=message):
        merge_order(torch.zeros(12, 3), (1, 3, 4))
    with pytest.raises(ShapeError, match=message.replace("2$", "0$")):
        merge_order(torch.zeros(12, 3), (1, 3, 4), spatial_merge_size=0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("shape", "size"), [((8, 4), "8, 4"), ((6, 3), "6, 3"), ((2, 3, 3), "2, 3, 3"), ((3,), "3,")])
def test_patch_merger_names_what_does_not_fit(shape, size):
    message = rf"^tokens: shape \({size}\), expected n d with d=3 and n a multiple of 4 \(spatial_merge_size 2\^2\)$"
    with pytest.raises(ShapeError, match=message):
        PatchMerger(3, 5)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: PatchEmbed(0, 7, 2, 2), "in_channels"),
        (lambda: PatchEmbed(3, 0, 2, 2), "embed_dim"),
        (lambda: PatchEmbed(3, 7, 0, 2), "patch_size"),
        (lambda: PatchEmbed(3, 7, 2, 0), "temporal_patch_size"),
        (lambda: PatchMerger(0, 5), "hidden_size"),
        (lambda: PatchMerger(3, 0), "out_hidden_size"),
        (lambda: PatchMerger(3, 5, spatial_merge_size=0), "spatial_merge_size"),
        (lambda: inflate_average(torch.zeros(1, 1, 1, 1), 0), "temporal_patch_size"),
        (lambda: inflate_central(torch.zeros(1, 1, 1, 1), 0), "temporal_patch_size"),
        (lambda: tubelets(torch.zeros(1, 2, 1, 2, 2), patch_size=0, temporal_patch_size=1), "patch_size"),
        (lambda: tubelets(torch.zeros(1, 2, 1, 2, 2), patch_size=1, temporal_patch_size=0), "temporal_patch_size"),
    ],
)
def test_a_number_below_one_is_named(call, name):
    with pytest.raises(ValueError, match=f"^{name} is 0, expected at least 1$"):
        call()
