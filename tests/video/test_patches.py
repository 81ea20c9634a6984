import inspect
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds
from torch.nn import functional as F

from minivid.classroom.evidence import agree, holds
from minivid.layers.positions import grid_positions
from minivid.shapes import Grid, ShapeError
from minivid.video import patches as library
from minivid.video.resize import normalize

on_patchify = pytest.mark.law("patchify")
on_unpatchify = pytest.mark.law("unpatchify")

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "patchify.json").read_text())["cases"]


@st.composite
def cuts(draw):
    """The size of a clip and the sizes of its boxes: a few pixels, of which the height and width are whole blocks."""
    side, depth, merge = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    t, c = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    h, w = draw(st.integers(1, 3)) * merge * side, draw(st.integers(1, 3)) * merge * side
    return (t, c, h, w), {"patch_size": side, "temporal_patch_size": depth, "spatial_merge_size": merge}


def numbered(*shape):
    """Every pixel is its own address, so a number in the wrong place says where it came from."""
    count = int(np.prod(shape))
    return torch.arange(count, dtype=torch.float32).reshape(shape)


def cut_by_hand(frames, *, patch_size, temporal_patch_size, spatial_merge_size):
    """The definition in loops: over time, blocks, places in a block; then over channels, frames and pixels."""
    t, c, h, w = frames.shape
    p, tau, m = patch_size, temporal_patch_size, spatial_merge_size
    grid, pixels = Grid(-(-t // tau), h // p, w // p), frames.tolist()
    rows = [
        [
            pixels[min(g * tau + k, t - 1)][channel][(bh * m + mh) * p + y][(bw * m + mw) * p + x]
            for channel in range(c)
            for k in range(tau)
            for y in range(p)
            for x in range(p)
        ]
        for g in range(grid.gt)
        for bh in range(grid.gh // m)
        for bw in range(grid.gw // m)
        for mh in range(m)
        for mw in range(m)
    ]
    return torch.tensor(rows), grid


@on_patchify
@given(cuts())
def test_patchify_orders_rows_by_block_and_columns_by_channel(impl, cut):
    """Rows run over time, blocks, then inside a block; columns over channels, frames, then pixels."""
    shape, sizes = cut
    frames = numbered(*shape)
    got = impl.patchify(frames, **sizes)
    two = isinstance(got, tuple) and len(got) == 2
    holds(two, "patchify returns (patches, grid), a tuple of two", frames=frames, **sizes)
    rows, _ = got
    want, _ = cut_by_hand(frames, **sizes)
    agree(rows, want, "a number is not where the order of rows and columns puts it", axes="n d", frames=frames, **sizes)


@on_patchify
@given(cuts())
def test_patchify_counts_the_grid(impl, cut):
    """The grid counts the boxes along time, height and width, and there is one row for each."""
    shape, sizes = cut
    frames = numbered(*shape)
    rows, grid = impl.patchify(frames, **sizes)
    _, want = cut_by_hand(frames, **sizes)
    holds(tuple(grid) == want, f"the grid is {tuple(grid)}, expected {tuple(want)}", frames=frames, **sizes)
    holds(len(rows) == want.gt * want.gh * want.gw, f"{len(rows)} rows for the grid {tuple(want)}", frames=frames)


@on_patchify
@given(cuts())
def test_patchify_repeats_the_last_frame(impl, cut):
    """A clip that does not fill its last box is the clip with its last frame repeated."""
    shape, sizes = cut
    frames = numbered(*shape)
    longer = torch.cat([frames, *[frames[-1:]] * (-len(frames) % sizes["temporal_patch_size"])])
    rows, _ = impl.patchify(frames, **sizes)
    want, _ = impl.patchify(longer, **sizes)
    agree(rows, want, "the last box is not filled with the last frame", axes="n d", frames=frames, **sizes)


@on_patchify
@given(cuts(), seeds)
def test_linear_layer_on_patches_is_a_convolution(impl, cut, seed):
    """A linear layer on the rows is a 3D convolution whose steps are as long as its kernel."""
    (t, c, h, w), sizes = cut
    p, tau = sizes["patch_size"], sizes["temporal_patch_size"]
    frames, weight = normal(seed, t + -t % tau, c, h, w), normal(seed + 1, 2, c, tau, p, p)
    rows, grid = impl.patchify(frames, **sizes)
    boxes = F.conv3d(frames.transpose(0, 1), weight, stride=(tau, p, p))
    at = grid_positions(grid, spatial_merge_size=sizes["spatial_merge_size"])
    holds(tuple(grid) == boxes.shape[1:], f"the grid is {tuple(grid)}, a convolution gives {tuple(boxes.shape[1:])}")
    want = boxes[:, at[:, 0], at[:, 1], at[:, 2]].T
    # Sums of at most 81 products of normal numbers in float32: 1e-4 is 40 times what was seen.
    agree(
        rows @ weight.flatten(1).T, want, "differs from torch's conv3d", axes="n d", atol=1e-4, frames=frames, **sizes
    )


@on_unpatchify
@given(cuts())
def test_unpatchify_undoes_patchify(impl, cut):
    """Cutting a clip and putting it together gives the clip."""
    shape, sizes = cut
    frames = numbered(*shape)
    rows, grid = library.patchify(frames, **sizes)
    want = torch.cat([frames, *[frames[-1:]] * (-len(frames) % sizes["temporal_patch_size"])])
    got = impl.unpatchify(rows, grid, **sizes)
    agree(got, want, "the clip is not what was cut", axes="t c h w", patches=rows, grid=tuple(grid), **sizes)


@on_unpatchify
@given(cuts(), st.data())
def test_unpatchify_puts_a_row_into_its_box(impl, cut, data):
    """A row of ones among zeros lights up one box, for as many frames as the box is deep."""
    (t, c, h, w), sizes = cut
    p, tau, merge = sizes["patch_size"], sizes["temporal_patch_size"], sizes["spatial_merge_size"]
    grid = library.grid_of(t, h, w, **sizes)
    rows = torch.zeros(grid.gt * grid.gh * grid.gw, c * tau * p * p)
    n = data.draw(st.integers(0, len(rows) - 1))
    rows[n] = 1
    time, row, column = grid_positions(grid, spatial_merge_size=merge)[n].tolist()
    want = torch.zeros(grid.gt * tau, c, h, w)
    want[time * tau :, :, row * p :, column * p :][:tau, :, :p, :p] = 1
    got = impl.unpatchify(rows, grid, **sizes)
    claim = f"row {n} belongs at time {time}, line {row}, column {column} of the grid"
    agree(got, want, claim, axes="t c h w", patches=rows, grid=tuple(grid), **sizes)


@given(cuts(), seeds)
def test_patchify_undoes_unpatchify(cut, seed):
    (t, c, h, w), sizes = cut
    grid = library.grid_of(t, h, w, **sizes)
    rows = normal(seed, grid.gt * grid.gh * grid.gw, c * sizes["temporal_patch_size"] * sizes["patch_size"] ** 2)
    again, grid_again = library.patchify(library.unpatchify(rows, grid, **sizes), **sizes)
    assert torch.equal(again, rows)
    assert grid_again == grid


@given(cuts())
def test_rows_stand_in_the_order_of_grid_positions(cut):
    (t, c, h, w), sizes = cut
    p, tau = sizes["patch_size"], sizes["temporal_patch_size"]
    place = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (t, h, w)), indexing="ij"), dim=1).float()
    rows, grid = library.patchify(place, **sizes)
    corner = rows.unflatten(1, (3, tau, p, p))[:, :, 0, 0, 0]
    want = corner / torch.tensor([tau, p, p])
    assert torch.equal(grid_positions(grid, spatial_merge_size=sizes["spatial_merge_size"]).float(), want)


@given(cuts())
def test_tokens_times_boxes_of_a_token_are_all_rows(cut):
    shape, sizes = cut
    rows, grid = library.patchify(numbered(*shape), **sizes)
    merge = sizes["spatial_merge_size"]
    assert library.token_count(grid, spatial_merge_size=merge) * merge**2 == len(rows)


@given(cuts(), seeds, st.booleans())
def test_writing_bytes_into_rows_equals_normalize_then_patchify(cut, seed, channels_last):
    (_, c, h, w), sizes = cut
    tau = sizes["temporal_patch_size"]
    pixels = torch.randint(0, 256, (tau, c, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    want, _ = library.patchify(normalize(pixels), **sizes)
    rows = torch.full(want.shape, torch.nan)
    frames = pixels.to(memory_format=torch.channels_last) if channels_last else pixels
    library.write_patches(frames, rows, patch_size=sizes["patch_size"], spatial_merge_size=sizes["spatial_merge_size"])
    assert torch.equal(rows, want)


def golden_clips(case):
    """The clips of a case, drawn as its file says."""
    draw = np.random.RandomState(case["seed"])
    for shape in case["shapes"]:
        pixels = torch.from_numpy(draw.randint(0, 256, size=shape).astype(np.uint8))
        yield pixels.float() if case["dtype"] == "float" else pixels


@pytest.mark.parametrize("case", GOLDEN, ids=[case["id"] for case in GOLDEN])
def test_patches_are_those_of_the_published_processor(case):
    init = case["init"]
    sizes = {"patch_size": init["patch_size"], "temporal_patch_size": init["temporal_patch_size"]}
    clips = (pixels if case["kind"] == "video" else pixels[None] for pixels in golden_clips(case))
    cut = [library.patchify(normalize(clip), **sizes, spatial_merge_size=init["merge_size"]) for clip in clips]
    rows = torch.cat([rows for rows, _ in cut])
    assert [list(grid) for _, grid in cut] == case["grid_thw"]
    assert sha256(rows.numpy().astype("<f4").tobytes()).hexdigest() == case["sha256_f32le"]


def test_two_by_four_picture_by_hand():
    # 0 1 | 4 5      a picture of 2 x 4 pixels, boxes of one pixel, blocks of 2 x 2:
    # 2 3 | 6 7      the rows of the left block come first.
    frames = torch.tensor([[[[0.0, 1, 4, 5], [2, 3, 6, 7]]]])
    rows, grid = library.patchify(frames, patch_size=1, temporal_patch_size=2, spatial_merge_size=2)
    assert grid == (1, 2, 4)
    assert rows.tolist() == [[float(i)] * 2 for i in range(8)]


def test_worked_example_has_10800_tokens():
    grid = library.grid_of(30, 640, 1152)
    assert grid == (15, 40, 72)
    assert library.token_count(grid) == 10800
    assert type(library.token_count(grid)) is int


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (library.patchify, ["frames"]),
        (library.unpatchify, ["patches", "grid"]),
        (library.grid_of, ["frames", "height", "width"]),
        (library.token_count, ["grid"]),
        (library.write_patches, ["pixels", "rows"]),
    ],
)
def test_sizes_are_given_by_name(function, inputs):
    kinds = {name: parameter.kind for name, parameter in inspect.signature(function).parameters.items()}
    assert [name for name, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD] == inputs
    assert {kind for name, kind in kinds.items() if name not in inputs} == {inspect.Parameter.KEYWORD_ONLY}


def test_sizes_that_are_not_given_are_the_same_everywhere():
    place = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (3, 64, 96)), indexing="ij"), dim=1).float()
    rows, grid = library.patchify(place)
    sizes = {"patch_size": 16, "temporal_patch_size": 2, "spatial_merge_size": 2}
    assert torch.equal(rows, library.patchify(place, **sizes)[0])
    assert grid == library.grid_of(3, 64, 96) == (2, 4, 6)
    corner = rows.unflatten(1, (3, 2, 16, 16))[:, :, 0, 0, 0]
    assert torch.equal(grid_positions(grid, spatial_merge_size=2).float(), corner / torch.tensor([2, 16, 16]))
    assert library.token_count(grid) == 12
    assert torch.equal(library.unpatchify(rows, grid), torch.cat([place, place[-1:]]))
    written = torch.empty(24, 1536)
    library.write_patches(place[:2].byte(), written)
    assert torch.equal(written, library.patchify(normalize(place[:2].byte()))[0])


def test_clips_stand_alone_under_vmap_and_grad():
    frames = normal(3, 2, 3, 4, 8).requires_grad_()
    rows, _ = library.patchify(frames, patch_size=2)
    rows.square().sum().backward()
    assert torch.equal(frames.grad, 2 * frames.detach())


@pytest.mark.parametrize(
    "shape, message",
    [
        (
            (2, 3, 30, 64),
            "frames: h=30 is not a multiple of 32 (patch_size 16 x spatial_merge_size 2); "
            "resize to 32 or use smart_resize",
        ),
        (
            (2, 3, 64, 90),
            "frames: w=90 is not a multiple of 32 (patch_size 16 x spatial_merge_size 2); "
            "resize to 96 or use smart_resize",
        ),
        (
            (2, 3, 0, 32),
            "frames: h=0 is not a multiple of 32 (patch_size 16 x spatial_merge_size 2); "
            "resize to 32 or use smart_resize",
        ),
        ((0, 3, 32, 32), "frames: t=0; a clip has at least one frame"),
    ],
)
def test_patchify_error_names_the_axis_and_the_sizes(shape, message):
    with pytest.raises(ShapeError) as caught:
        library.patchify(torch.zeros(shape))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "shape, grid, message",
    [
        ((7, 1536), (1, 2, 4), "patches: n=7 rows, but the grid 1 x 2 x 4 has 8; give its own grid"),
        ((9, 1536), (1, 2, 4), "patches: n=9 rows, but the grid 1 x 2 x 4 has 8; give its own grid"),
        (
            (8, 1535),
            (1, 2, 4),
            "patches: d=1535 is not a multiple of 512 (temporal_patch_size 2 x patch_size 16^2); "
            "give the sizes that cut them",
        ),
        (
            (8, 0),
            (1, 2, 4),
            "patches: d=0 is not a multiple of 512 (temporal_patch_size 2 x patch_size 16^2); "
            "give the sizes that cut them",
        ),
        (
            (9, 1536),
            (1, 3, 3),
            "grid: gt=1, gh=3, gw=3, expected at least 1 of each, gh and gw multiples of spatial_merge_size 2",
        ),
        (
            (6, 1536),
            (1, 2, 3),
            "grid: gt=1, gh=2, gw=3, expected at least 1 of each, gh and gw multiples of spatial_merge_size 2",
        ),
    ],
)
def test_unpatchify_error_names_the_axis_and_the_sizes(shape, grid, message):
    with pytest.raises(ShapeError) as caught:
        library.unpatchify(torch.zeros(shape), grid)
    assert str(caught.value) == message


def test_half_a_block_is_no_token():
    message = "^grid: gt=1, gh=5, gw=6, expected at least 1 of each, gh and gw multiples of spatial_merge_size 3$"
    with pytest.raises(ShapeError, match=message):
        library.token_count((1, 5, 6), spatial_merge_size=3)


@pytest.mark.parametrize("rows", [torch.zeros(3, 24), torch.zeros(4, 23), torch.zeros(24, 4).T])
def test_write_patches_refuses_rows_that_do_not_fit(rows):
    n, d = rows.shape
    with pytest.raises(ShapeError, match=f"^rows: n={n}, d={d}; these frames need 4 x 24, contiguous$"):
        library.write_patches(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), rows, patch_size=2)
