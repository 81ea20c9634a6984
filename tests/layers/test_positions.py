"""Positions: the sinusoidal and the learned table, rotation by one, two and three coordinates, and who stands where."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds, small
from torch import nn
from torch.nn import functional as F

from minivid.classroom.evidence import agree, holds
from minivid.layers.positions import (
    LearnedPositions,
    axial_angles,
    corner_places,
    edge_places,
    grid_positions,
    hat_weights,
    interleaved_axes,
    mrope_angles,
    mrope_positions,
    resize_table,
    rotary_angles,
    rotate,
    sinusoidal,
    stretch_table,
    turn,
    turns,
)
from minivid.shapes import Grid, ShapeError

# Made by the published model's own code; tests/data/positions.json says how.
PUBLISHED = json.loads((Path(__file__).parents[1] / "data" / "positions.json").read_text(encoding="utf-8"))

even = st.integers(1, 6).map(lambda half: 2 * half)


# ---- sinusoidal


@pytest.mark.law("sinusoidal")
@given(small, even)
def test_sinusoidal_equals_its_formula(impl, n, d):
    """Column 2i is sin(position / 10000^(2i/d)), column 2i + 1 the cosine of the same angle."""
    want = torch.zeros(n, d, dtype=torch.float64)
    for position in range(n):
        for column in range(d):
            angle = position / 10000 ** (2 * (column // 2) / d)
            want[position, column] = math.cos(angle) if column % 2 else math.sin(angle)
    agree(impl.sinusoidal(n, d), want, "the table differs from the formula", axes="n d", n=n, d=d)


@pytest.mark.law("sinusoidal")
@given(st.integers(2, 40), even)
def test_sinusoidal_pairs_are_points_on_a_circle(impl, n, d):
    """Sine and cosine of one angle: their squares sum to one."""
    pairs = impl.sinusoidal(n, d).unflatten(1, (d // 2, 2))
    agree(pairs.square().sum(-1), torch.ones(n, d // 2), "a pair is not on the circle", axes="n pair", n=n, d=d)


@pytest.mark.law("sinusoidal")
@given(st.integers(2, 20), st.integers(0, 20), even)
def test_sinusoidal_products_see_only_the_distance(impl, n, shift, d):
    """The product of two rows is the same for every two positions as far apart."""
    table = impl.sinusoidal(n + shift, d)
    want = (table[:n] @ table[:n].T).double()
    got = table[shift:] @ table[shift:].T
    agree(got, want, "the product depends on more than the distance", axes="n n", atol=1e-4, n=n, shift=shift, d=d)


def test_sinusoidal_is_exact_far_out():
    table = sinusoidal(100_001, 4)
    assert table.dtype == torch.float32
    want = torch.tensor([math.sin(1e5), math.cos(1e5), math.sin(1e3), math.cos(1e3)])
    torch.testing.assert_close(table[-1], want, atol=1e-6, rtol=0)


def test_sinusoidal_stands_on_the_device_asked_for():
    assert sinusoidal(3, 4, device="meta").device.type == "meta"


def test_sinusoidal_names_an_odd_width():
    with pytest.raises(ValueError, match="^d is 7, expected an even number: sines and cosines come in pairs$"):
        sinusoidal(3, 7)


# ---- a table read at other places

cells = st.integers(1, 7)


@pytest.mark.law("edge_places")
@given(cells, cells)
def test_edge_places_put_middles_of_fields_on_middles_of_fields(impl, n, size):
    """Cell i has its middle at (i + 1/2) size / n, and a number of the axis its middle at j + 1/2."""
    want = torch.tensor([min(max((i + 0.5) * size / n - 0.5, 0.0), size - 1.0) for i in range(n)])
    agree(impl.edge_places(n, size), want, "a place differs from the formula", axes="n", n=n, size=size)


@pytest.mark.law("edge_places")
@given(cells, cells)
def test_edge_places_are_the_same_from_the_other_end(impl, n, size):
    """Counted from the last cell backwards, the places are the same."""
    places = impl.edge_places(n, size)
    agree(size - 1 - places.flip(0), places, "the two ends differ", axes="n", n=n, size=size)


@pytest.mark.law("corner_places")
@given(cells, cells)
def test_corner_places_are_evenly_spread_from_the_first_to_the_last(impl, n, size):
    """The first cell stands on the first, the last on the last, the others at equal distances between them."""
    want = torch.linspace(0.0, size - 1.0, n)
    agree(impl.corner_places(n, size), want, "not evenly from 0 to size - 1", axes="n", n=n, size=size)


@st.composite
def between(draw):
    """Places on an axis, and its size."""
    size = draw(cells)
    quarters = draw(st.lists(st.integers(0, 4 * (size - 1)), min_size=1, max_size=4))
    return torch.tensor(quarters) / 4, size


@pytest.mark.law("hat_weights")
@given(between())
def test_hat_weights_sum_to_one(impl, case):
    """The weights of a place sum to one."""
    places, size = case
    got = impl.hat_weights(places, size).sum(-1)
    agree(got, torch.ones(len(places)), "the weights do not sum to one", axes="n", places=places, size=size)


@pytest.mark.law("hat_weights")
@given(between())
def test_hat_weights_average_to_the_place(impl, case):
    """The cells, averaged with the weights of a place, are that place; only the two next to it count."""
    places, size = case
    weights = impl.hat_weights(places, size)
    numbers = torch.arange(size, dtype=torch.float32)
    agree(weights @ numbers, places, "the weights lie elsewhere", axes="n", places=places, size=size)
    far = weights * ((numbers - places[:, None]).abs() >= 1)
    agree(far, torch.zeros(len(places), size), "a cell further than 1 counts", axes="n size", places=places, size=size)


@st.composite
def table_and_size(draw):
    """A position table rows columns d, and rows and columns wanted."""
    rows, columns, d, gh, gw, seed = draw(st.tuples(cells, cells, small, cells, cells, seeds))
    return normal(seed, rows, columns, d), gh, gw


RESIZERS = pytest.mark.parametrize("name, corners", [("resize_table", False), ("stretch_table", True)])


def interpolated(table, gh, gw, corners):
    picture = F.interpolate(table.permute(2, 0, 1)[None], (gh, gw), mode="bilinear", align_corners=corners)
    return picture[0].permute(1, 2, 0)


@pytest.mark.law("resize_table")
@given(table_and_size())
def test_resize_table_to_its_own_size_is_the_identity(impl, case):
    """Read at its own size, a table is unchanged."""
    table = case[0]
    agree(impl.resize_table(table, *table.shape[:2]), table, "the table changed", axes="gh gw d", table=table)


@pytest.mark.law("resize_table")
@given(table_and_size())
def test_resize_table_equals_torch(impl, case):
    """Bilinear, edges on edges: torch's interpolate with align_corners=False."""
    table, gh, gw = case
    want = interpolated(table, gh, gw, False)
    agree(impl.resize_table(table, gh, gw), want, "the result differs", axes="gh gw d", table=table, gh=gh, gw=gw)


@pytest.mark.law("stretch_table")
@given(table_and_size())
def test_stretch_table_to_its_own_size_is_the_identity(impl, case):
    """Read at its own size, a table is unchanged."""
    table = case[0]
    agree(impl.stretch_table(table, *table.shape[:2]), table, "the table changed", axes="gh gw d", table=table)


@pytest.mark.law("stretch_table")
@given(table_and_size())
def test_stretch_table_equals_torch(impl, case):
    """Bilinear, corners on corners: torch's interpolate with align_corners=True."""
    table, gh, gw = case
    want = interpolated(table, gh, gw, True)
    agree(impl.stretch_table(table, gh, gw), want, "the result differs", axes="gh gw d", table=table, gh=gh, gw=gw)


@pytest.mark.parametrize("resize", [resize_table, stretch_table])
def test_a_resized_table_keeps_its_type_and_has_exact_gradients(resize):
    table = normal(0, 3, 5, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: resize(x, 4, 3), table)
    corners = resize is stretch_table
    torch.testing.assert_close(resize(table, 4, 3), interpolated(table, 4, 3, corners), atol=1e-6, rtol=0)
    assert resize(table.bfloat16(), 4, 3).dtype == torch.bfloat16


@pytest.mark.parametrize("places", [edge_places, corner_places])
@pytest.mark.parametrize("n, size", [(0, 3), (3, 0)])
def test_places_name_an_axis_without_cells(places, n, size):
    with pytest.raises(ValueError, match=f"^{n} cells on an axis of {size}, expected at least 1 of each$"):
        places(n, size)
    assert places(1, 1).tolist() == [0.0]


def test_hat_weights_keep_the_type_of_the_places():
    assert hat_weights(torch.tensor([0.25], dtype=torch.float64), 2).tolist() == [[0.75, 0.25]]
    assert hat_weights(torch.tensor([0.25], dtype=torch.float64), 2).dtype == torch.float64
    assert hat_weights(torch.zeros(2, device="meta"), 3).device.type == "meta"


# ---- the order of patches

grids = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))


@pytest.mark.law("grid_positions")
@given(grids)
def test_grid_positions_run_row_by_row(impl, grid):
    """Without blocks: frame group by frame group, row by row, column by column."""
    gt, gh, gw = grid
    want = torch.tensor([(t, i, j) for t in range(gt) for i in range(gh) for j in range(gw)])
    agree(impl.grid_positions(grid), want, "another order", axes="n axis", grid=grid)


@pytest.mark.law("grid_positions")
@given(grids, st.integers(1, 3))
def test_grid_positions_run_block_by_block(impl, blocks, merge):
    """With blocks: block by block, and inside a block row by row."""
    gt, gh, gw = blocks
    grid = (gt, gh * merge, gw * merge)
    want = [
        (t, h * merge + i, w * merge + j)
        for t in range(gt)
        for h in range(gh)
        for w in range(gw)
        for i in range(merge)
        for j in range(merge)
    ]
    got = impl.grid_positions(grid, spatial_merge_size=merge)
    agree(got, torch.tensor(want), "another order", axes="n axis", grid=grid, spatial_merge_size=merge)


def test_grid_positions_are_made_where_they_are_wanted():
    assert grid_positions((1, 2, 2), device="meta").device.type == "meta"


@pytest.mark.parametrize(
    "grid, merge", [((0, 2, 2), 1), ((1, 3, 4), 2), ((1, 4, 3), 2), ((1, 2, 2), 0), ((1, -2, 2), 1), ((1, 2, 0), 1)]
)
def test_a_grid_of_broken_blocks_is_refused_with_its_numbers(grid, merge):
    gt, gh, gw = grid
    message = f"^grid: gt={gt}, gh={gh}, gw={gw}, expected at least 1 of each, gh and gw multiples of "
    for call in (grid_positions, LearnedPositions(2, 2, 3)):
        with pytest.raises(ShapeError, match=f"{message}spatial_merge_size {merge}$"):
            call(grid, spatial_merge_size=merge)


# ---- the learned table


@given(cells, cells, small, grids, st.integers(1, 2), seeds)
def test_learned_positions_are_the_table_read_at_every_patch(rows, columns, d, blocks, merge, seed):
    gt, gh, gw = blocks[0], blocks[1] * merge, blocks[2] * merge
    for resize in (resize_table, stretch_table):
        module = LearnedPositions(rows, columns, d, resize=resize)
        module.weight.data = normal(seed, rows * columns, d)
        table = resize(module.weight.unflatten(0, (rows, columns)), gh, gw)
        _, row, column = grid_positions((gt, gh, gw), spatial_merge_size=merge).T
        assert torch.equal(module((gt, gh, gw), spatial_merge_size=merge), table[row, column])


def test_learned_positions_read_corners_on_corners_in_raster_order_unless_told_otherwise():
    module = LearnedPositions(2, 3, 1)
    module.weight.data = torch.arange(6.0)[:, None]
    assert module(Grid(2, 2, 3)).flatten().tolist() == [0, 1, 2, 3, 4, 5] * 2
    assert module(Grid(1, 3, 5)).flatten().tolist() == [0, 0.5, 1, 1.5, 2, 1.5, 2, 2.5, 3, 3.5, 3, 3.5, 4, 4.5, 5]
    assert repr(module) == "LearnedPositions(2, 3, 1, resize=stretch_table)"


@pytest.mark.parametrize("case", PUBLISHED["vision"], ids=lambda case: str(case["grid_thw"]))
def test_learned_positions_are_those_of_the_published_model(case):
    side, merge = case["side"], case["merge"]
    module = LearnedPositions(side, side, side * side)
    module.weight.data = torch.eye(side * side)  # what comes out is how much of each row of the table was read
    grids = [Grid(*grid) for grid in case["grid_thw"]]
    got = torch.cat([module(grid, spatial_merge_size=merge) for grid in grids])
    want = torch.zeros(len(got), side * side)
    want.scatter_add_(1, torch.tensor(case["taps"]), torch.tensor(case["weights"]))
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)
    places = torch.cat([grid_positions(grid, spatial_merge_size=merge) for grid in grids])
    assert places[:, 1:].tolist() == case["hw_positions"]


def test_learned_positions_begin_small_and_load_an_embedding():
    torch.manual_seed(0)
    module = LearnedPositions(30, 40, 50)
    assert abs(module.weight.std().item() - 0.02) < 2e-4  # 60 000 numbers: four deviations are 2.3e-4
    assert abs(module.weight.mean().item()) < 4e-4
    module.load_state_dict(nn.Embedding(1200, 50).state_dict())
    half = LearnedPositions(2, 2, 3, dtype=torch.bfloat16, device="meta")
    assert half.weight.dtype == torch.bfloat16 and half.weight.device.type == "meta"
    assert (module.rows, module.columns, module.embed_dim) == (30, 40, 50)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_learned_positions_name_a_table_without_places(sizes):
    message = "^rows={}, columns={}, embed_dim={}: expected at least 1 of each$".format(*sizes)
    with pytest.raises(ValueError, match=message):
        LearnedPositions(*sizes)
    LearnedPositions(1, 1, 1)


def test_learned_positions_have_exact_gradients_and_run_under_autocast():
    module = LearnedPositions(3, 2, 2).double()
    weight = module.weight.detach().clone().requires_grad_()

    def read(weight):
        return torch.func.functional_call(module, {"weight": weight}, ((2, 4, 4),), {"spatial_merge_size": 2})

    assert torch.autograd.gradcheck(read, weight)
    both = torch.func.vmap(read)(torch.stack([weight, 2 * weight]))
    torch.testing.assert_close(both, torch.stack([read(weight), 2 * read(weight)]))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(module.float()((1, 5, 3)).float(), module((1, 5, 3)).float(), atol=1e-3, rtol=0)


# ---- rotary positions


@st.composite
def tokens(draw):
    """Queries or keys b heads n k with k even, and the seed they came from."""
    b, heads, n, k, seed = draw(st.tuples(small, small, small, even, seeds))
    return normal(seed, b, heads, n, k), seed


@pytest.mark.law("rotary_angles")
@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), even, st.sampled_from([10000.0, 100.0]))
def test_rotary_angles_equal_their_formula(impl, positions, k, base):
    """Pair i is turned by position / base^(2 i / k)."""
    want = torch.tensor([[position / base ** (2 * i / k) for i in range(k // 2)] for position in positions])
    got = impl.rotary_angles(torch.tensor(positions), k, base=base)
    agree(got, want, "an angle differs", axes="n half", positions=positions, k=k, base=base)


def test_rotary_angles_have_the_articles_base_and_are_exact_far_out():
    angles = rotary_angles(torch.tensor([100_000]), 6)
    torch.testing.assert_close(angles, torch.tensor([[1e5, 1e5 / 10000 ** (1 / 3), 1e5 / 10000 ** (2 / 3)]]))
    assert angles.dtype == torch.float32


def test_rotary_angles_are_rounded_once():
    positions = range(100_000, 100_050)
    want = torch.tensor([[position / 5e6 ** (2 * i / 64) for i in range(32)] for position in positions])
    # Rounding the speeds to float32 first would change every second number.
    assert torch.equal(rotary_angles(torch.tensor(positions), 64, base=5e6), want)


def test_angles_have_base_10000_unless_told_otherwise_and_stand_where_the_positions_do():
    for angles, positions in (
        (rotary_angles, torch.tensor([3000])),
        (axial_angles, torch.tensor([[3000, 5000]])),
        (lambda places, k, **base: mrope_angles(places, [k // 2, 0, 0], **base), torch.tensor([[3000, 4000, 5000]])),
    ):
        assert torch.equal(angles(positions, 8), angles(positions, 8, base=10000.0))
        assert not torch.equal(angles(positions, 8), angles(positions, 8, base=10001.0))
    assert rotary_angles(torch.arange(3, device="meta"), 8).device.type == "meta"


@pytest.mark.law("rotate")
@given(tokens())
def test_rotate_is_a_product_of_complex_numbers(impl, case):
    """Entries i and i + k/2 are one complex number, multiplied by exp(i angle)."""
    x, seed = case
    angles = 3.0 * normal(seed + 1, x.shape[2], x.shape[3] // 2)
    turned = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones_like(angles), angles)
    want = torch.cat([turned.real, turned.imag], -1)
    agree(impl.rotate(x, angles), want, "the pairs are not turned", axes="b heads n k", x=x, angles=angles)


@pytest.mark.law("rotate")
@given(tokens())
def test_rotate_keeps_lengths(impl, case):
    """A rotation changes no length."""
    x, seed = case
    angles = 3.0 * normal(seed + 1, x.shape[2], x.shape[3] // 2)
    got = impl.rotate(x, angles).norm(dim=-1)
    agree(got, x.norm(dim=-1), "a length changed", axes="b heads n", x=x, angles=angles)


@pytest.mark.law("rotate")
@given(tokens(), st.integers(0, 30))
def test_rotate_makes_scores_see_only_distances(impl, case, shift):
    """Queries and keys that all stand further on by the same number of positions give the same scores."""
    query, seed = case
    key = normal(seed + 1, *query.shape)
    n, k = query.shape[2:]
    scores = []
    for start in (0, shift):
        angles = rotary_angles(torch.arange(start, start + n), k)
        scores.append(impl.rotate(query, angles) @ impl.rotate(key, angles).mT)
    claim = "the scores depend on more than the distance"
    agree(scores[1], scores[0], claim, axes="b heads n s", atol=1e-4, query=query, key=key, shift=shift)


@pytest.mark.law("rotate")
@given(tokens())
def test_rotate_takes_positions_for_each_clip(impl, case):
    """Angles of b n half turn each clip by its own."""
    x, seed = case
    angles = 3.0 * normal(seed + 1, x.shape[0], x.shape[2], x.shape[3] // 2)
    want = torch.cat([impl.rotate(x[b : b + 1], angles[b]) for b in range(len(x))])
    agree(impl.rotate(x, angles), want, "a clip was turned by another's angles", axes="b heads n k", x=x, angles=angles)


@pytest.mark.parametrize("several", [False, True])  # angles for all clips, or for each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_turning_in_three_steps_is_rotating(several, dtype, unchecked):
    x, angles = normal(0, 2, 3, 5, 6).to(dtype), normal(1, *([2] if several else []), 5, 3)
    cosines, sines = turns(angles)
    assert cosines.shape == sines.shape == (*([2] if several else []), 1, 5, 6)
    got = turn(x, cosines, sines)
    assert got.dtype == dtype
    # One rounding in another order; in half precision both round their float32 result once.
    torch.testing.assert_close(
        got,
        rotate(x, angles),
        atol=1e-6 if dtype == torch.float32 else 1e-2,
        rtol=1e-6 if dtype == torch.float32 else 1e-2,
    )
    message = r"^cosines: shape \(1, 5, 4\), expected n=5 rows of k=6 numbers for x \(2, 3, 5, 6\); every angle makes "
    with pytest.raises(ShapeError, match=message + "two$"):
        turn(x, *turns(torch.zeros(5, 2)))


def test_turning_in_three_steps_passes_gradcheck():
    x, angles = normal(0, 1, 2, 3, 4, dtype=torch.float64), normal(1, 3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, angles: turn(x, *turns(angles)), (x.requires_grad_(), angles.requires_grad_())
    )


def test_rotate_passes_gradcheck_and_undoes_itself():
    x, angles = normal(0, 1, 2, 3, 4, dtype=torch.float64), normal(1, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(rotate(rotate(x, angles), -angles), x, atol=1e-12, rtol=0)
    assert torch.equal(rotate(x, torch.zeros(3, 2)), x)
    assert torch.autograd.gradcheck(rotate, (x.requires_grad_(), angles.requires_grad_()))


def test_rotate_keeps_half_precision_and_rounds_once():
    x, angles = normal(0, 1, 2, 3, 4), normal(1, 3, 2)
    got = rotate(x.bfloat16(), angles)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, rotate(x.bfloat16().float(), angles).bfloat16())


def test_rotate_maps_over_an_axis():
    x, angles = normal(0, 2, 1, 2, 3, 4), normal(1, 3, 2)
    torch.testing.assert_close(
        torch.func.vmap(rotate, (0, None))(x, angles), torch.stack([rotate(each, angles) for each in x])
    )


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # the compiler's own import
def test_rotate_and_learned_positions_compile(compiled):
    x, angles = normal(0, 2, 2, 3, 4), normal(1, 3, 2)
    torch.testing.assert_close(compiled(rotate)(x, angles), rotate(x, angles))
    module = LearnedPositions(3, 2, 5)
    torch.testing.assert_close(compiled(module)((2, 4, 4)), module((2, 4, 4)))


@pytest.mark.usefixtures("unchecked")
def test_rotary_positions_name_what_does_not_fit():
    with pytest.raises(ValueError, match="^k is 7, expected an even number: rotation turns pairs$"):
        rotary_angles(torch.arange(3), 7)
    x = torch.zeros(2, 3, 5, 4)
    tail = r"expected n=5 rows of k/2 = 2 angles for x \(2, 3, 5, 4\)$"
    with pytest.raises(ShapeError, match=r"^angles: shape \(5, 4\), " + tail):
        rotate(x, torch.zeros(5, 4))
    with pytest.raises(ShapeError, match=r"^angles: shape \(6, 2\), " + tail):
        rotate(x, torch.zeros(6, 2))
    with pytest.raises(ShapeError, match=r"k/2 = 2.5 angles"):
        rotate(torch.zeros(2, 3, 5, 5), torch.zeros(5, 2))


# ---- several coordinates


@st.composite
def places(draw, axes):
    """Positions n axes."""
    rows = st.lists(st.integers(0, 9), min_size=axes, max_size=axes)
    return torch.tensor(draw(st.lists(rows, min_size=1, max_size=4)))


@pytest.mark.law("axial_angles")
@given(places(2), st.sampled_from([4, 8, 12]), st.sampled_from([10000.0, 100.0]))
def test_axial_angles_turn_a_share_of_the_pairs_by_each_coordinate(impl, positions, k, base):
    """The first half of the pairs is turned by the row, the second by the column, each like a head half as wide."""
    want = [
        [place / base ** (2 * i / (k // 2)) for place in (row, column) for i in range(k // 4)]
        for row, column in positions.tolist()
    ]
    got = impl.axial_angles(positions, k, base=base)
    agree(got, torch.tensor(want), "an angle differs", axes="n half", positions=positions, k=k, base=base)


@pytest.mark.law("axial_angles")
@given(places(2), st.integers(0, 5), st.integers(0, 5), seeds)
def test_axial_angles_make_scores_see_only_distances_in_both_axes(impl, positions, down, right, seed):
    """A picture that stands further down and further right gives the same scores."""
    query, key = normal(seed, 1, 1, len(positions), 8), normal(seed + 1, 1, 1, len(positions), 8)
    scores = []
    for shift in (torch.tensor([0, 0]), torch.tensor([down, right])):
        angles = impl.axial_angles(positions + shift, 8)
        scores.append(rotate(query, angles) @ rotate(key, angles).mT)
    claim = "the scores depend on more than the distances"
    agree(scores[1], scores[0], claim, axes="b heads n s", atol=1e-4, positions=positions, down=down, right=right)


def test_axial_angles_take_one_and_three_coordinates_and_batches():
    positions = torch.tensor([[[1, 2, 3]], [[4, 5, 6]]])  # b n axes
    one = axial_angles(positions[..., :1], 4)
    torch.testing.assert_close(one, rotary_angles(positions[..., 0], 4))
    three = axial_angles(positions, 12)
    torch.testing.assert_close(three, torch.cat([rotary_angles(positions[..., i], 4) for i in range(3)], -1))
    assert three.shape == (2, 1, 6)


def test_axial_angles_name_a_width_that_does_not_split():
    with pytest.raises(ValueError, match="^k is 6, expected a multiple of 4: pairs for each of 2 axes$"):
        axial_angles(torch.zeros(3, 2, dtype=torch.int64), 6)


@st.composite
def sections(draw):
    """Pairs for time, row and column, with enough for time that row and column get all of theirs in turns."""
    row, column = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    return [max(row, column, 2 * row - column, 2 * column - row) + draw(st.integers(0, 2)), row, column]


@pytest.mark.law("interleaved_axes")
@given(sections())
def test_interleaved_axes_take_turns(impl, sections):
    """Time, row, column, time, row, column, ...; an axis whose pairs are used up is stood in for by time."""
    time, row, column = sections
    want = [
        1 if i % 3 == 1 and i // 3 < row else 2 if i % 3 == 2 and i // 3 < column else 0
        for i in range(time + row + column)
    ]
    got = impl.interleaved_axes(sections)
    agree(got, torch.tensor(want, dtype=torch.int64), "another order of axes", axes="half", sections=sections)


def test_interleaved_axes_of_no_pairs_are_whole_numbers_too():
    assert interleaved_axes([0, 0, 0]).dtype == torch.long


def test_interleaved_axes_of_the_published_model():
    axes = interleaved_axes([24, 20, 20])
    assert axes.tolist() == [0, 1, 2] * 20 + [0] * 4


@pytest.mark.parametrize("wrong", [[2, 1], [2, 1, 1, 1], [2, -1, 1]])
def test_interleaved_axes_name_sections_that_are_not_three(wrong):
    message = f"sections are {wrong}, expected three numbers of at least 0: time, row and column"
    with pytest.raises(ValueError) as error:
        interleaved_axes(wrong)
    assert str(error.value) == message


@pytest.mark.parametrize("wrong", [[1, 3, 1], [1, 1, 3], (0, 1, 0)])
def test_interleaved_axes_name_sections_that_cannot_take_turns(wrong):
    message = f"sections are {list(wrong)}: taken in turns, row or column has more pairs than there are"
    with pytest.raises(ValueError) as error:
        interleaved_axes(wrong)
    assert str(error.value) == message


@pytest.mark.law("mrope_angles")
@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), sections().filter(sum))
def test_mrope_angles_of_text_are_plain_rotary_angles(impl, positions, sections):
    """Three equal positions turn a token as one position does."""
    want = rotary_angles(torch.tensor(positions), 2 * sum(sections))
    got = impl.mrope_angles(torch.tensor(positions)[:, None].repeat(1, 3), sections)
    agree(got, want, "text is turned by other angles", axes="n half", positions=positions, sections=sections)


@pytest.mark.law("mrope_angles")
@given(places(3), sections().filter(sum), st.sampled_from([10000.0, 100.0]))
def test_mrope_angles_give_each_pair_its_axis(impl, positions, sections, base):
    """Pair i is turned by the position of its axis over base^(2 i / k): each pair keeps its own speed."""
    axes, k = interleaved_axes(sections).tolist(), 2 * sum(sections)
    want = [[row[axis] / base ** (2 * i / k) for i, axis in enumerate(axes)] for row in positions.tolist()]
    got = impl.mrope_angles(positions, sections, base=base)
    claim = "an angle differs"
    agree(got, torch.tensor(want), claim, axes="n half", positions=positions, sections=sections, base=base)


def test_mrope_angles_take_batches():
    positions = torch.tensor([[[1, 2, 3]], [[4, 5, 6]]])
    got = mrope_angles(positions, [2, 1, 1])
    assert torch.equal(got, torch.stack([mrope_angles(each, [2, 1, 1]) for each in positions]))


# ---- where each token of text, pictures and clips stands

TEXT, IMAGE, VIDEO = 7, 1, 2


@st.composite
def conversations(draw):
    """One row of tokens as runs of text and pictures, and the sizes of the pictures, in merged patches."""
    kinds = draw(st.lists(st.sampled_from([IMAGE, VIDEO]), max_size=4))
    ids, sizes = [TEXT] * draw(st.integers(0, 3)), {IMAGE: [], VIDEO: []}
    for kind in kinds:
        h, w = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        ids += [kind] * (h * w) + [TEXT] * draw(st.integers(1, 3))
        sizes[kind].append((h, w))
    return ids or [TEXT], sizes


def put(impl, rows, sizes, *, merge=1, attention_mask=None):
    """Ask for the positions of rows of ids, with one grid of one frame group for each picture."""
    given = {}
    for kind, name in ((IMAGE, "image_grid_thw"), (VIDEO, "video_grid_thw")):
        if sizes[kind]:
            given[name] = torch.tensor([(1, h * merge, w * merge) for h, w in sizes[kind]])
    settings = dict(image_token_id=IMAGE, video_token_id=VIDEO, spatial_merge_size=merge)
    return impl.mrope_positions(torch.tensor(rows), attention_mask=attention_mask, **settings, **given)


@pytest.mark.law("mrope_positions")
@given(st.integers(1, 6))
def test_mrope_positions_count_text_on_all_axes(impl, n):
    """Text alone: 0, 1, 2, ... on all three axes, and the next token stands at n."""
    got, following = impl.mrope_positions(torch.full((1, n), TEXT), image_token_id=IMAGE, video_token_id=VIDEO)
    want = torch.arange(n)[None, :, None].repeat(1, 1, 3)
    agree(got, want, "text does not count 0, 1, 2, ...", axes="b n axis", n=n)
    agree(following, torch.tensor([n]), "the next token does not stand at n", axes="b", n=n)


@pytest.mark.law("mrope_positions")
@given(conversations())
def test_the_next_text_position_is_one_past_the_largest_before_it(impl, case):
    """Every run of text begins one past the largest position before it, on all three axes."""
    ids, sizes = case
    positions, following = put(impl, [ids], sizes)
    before = torch.cat([torch.tensor([-1]), positions[0].amax(-1).cummax(0).values])
    for i, token in enumerate(ids):
        if token == TEXT:
            want = (before[i] + 1).repeat(3)
            agree(positions[0, i], want, f"token {i} is not one past the largest before", axes="axis", input_ids=ids)
    agree(following[0], before[-1] + 1, "the next token is not one past the largest", input_ids=ids)


@pytest.mark.law("mrope_positions")
@given(conversations(), st.integers(1, 3))
def test_a_picture_counts_rows_and_columns_and_stands_still_in_time(impl, case, merge):
    """From where the text had come to, c: (c, c + row, c + column) for every merged patch."""
    ids, sizes = case
    positions, _ = put(impl, [ids], sizes, merge=merge)
    start, left = 0, {kind: list(sizes[kind]) for kind in sizes}
    while start < len(ids):
        if ids[start] == TEXT:
            start += 1
            continue
        h, w = left[ids[start]].pop(0)
        part = positions[0, start : start + h * w]
        want = part[0, 0] + torch.tensor([(0, i, j) for i in range(h) for j in range(w)])
        case = dict(input_ids=ids, picture=(h, w), spatial_merge_size=merge)
        agree(part, want, "a picture does not count its rows and columns", axes="n axis", **case)
        start += h * w


@pytest.mark.law("mrope_positions")
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))
def test_every_frame_group_of_a_clip_is_a_picture_of_its_own(impl, gt, h, w, words):
    """A clip of T groups is T pictures, with the words that tell their time between them."""
    ids = ([TEXT] * words + [VIDEO] * (h * w)) * gt
    settings = dict(image_token_id=IMAGE, video_token_id=VIDEO, spatial_merge_size=1)
    positions, following = impl.mrope_positions(
        torch.tensor([ids]), video_grid_thw=torch.tensor([(gt, h, w)]), **settings
    )
    alone, after = impl.mrope_positions(torch.tensor([ids]), video_grid_thw=torch.tensor([(1, h, w)] * gt), **settings)
    agree(positions, alone, "not as so many pictures", axes="b n axis", input_ids=ids, video_grid_thw=(gt, h, w))
    agree(following, after, "the next token stands elsewhere", axes="b", input_ids=ids, video_grid_thw=(gt, h, w))
    want = torch.tensor([gt * (words + max(h, w))])
    agree(following, want, "a group takes the longer side", axes="b", input_ids=ids, video_grid_thw=(gt, h, w))


@pytest.mark.law("mrope_positions")
@given(conversations(), conversations(), st.booleans())
def test_padding_counts_for_nothing(impl, one, other, left):
    """A row that is filled up has the positions it has alone, and zeros on the filling; grids run on over the batch."""
    n = max(len(one[0]), len(other[0])) + 1
    rows, masks = [], []
    for ids, _ in (one, other):
        filling = [TEXT] * (n - len(ids))
        rows.append(filling + ids if left else ids + filling)
        masks.append([0] * len(filling) + [1] * len(ids) if left else [1] * len(ids) + [0] * len(filling))
    mask = torch.tensor(masks)
    sizes = {kind: one[1][kind] + other[1][kind] for kind in (IMAGE, VIDEO)}
    positions, following = put(impl, rows, sizes, attention_mask=mask)
    for row, (ids, own) in enumerate((one, other)):
        alone, after = put(impl, [ids], own)
        case = dict(input_ids=rows, attention_mask=mask)
        agree(positions[row][mask[row] == 1], alone[0], f"row {row} is not as it is alone", axes="n axis", **case)
        agree(following[row], after[0], f"the next token of row {row} is not as it is alone", **case)
        holds(bool((positions[row][mask[row] == 0] == 0).all()), "padding has positions", **case)


@pytest.mark.parametrize(
    "case", PUBLISHED["rope"], ids=lambda case: f"{case['image_grid_thw']}-{case['video_grid_thw']}"
)
def test_mrope_positions_are_those_of_the_published_model(case):
    given = {name: case[name] and torch.tensor(case[name]) for name in ("image_grid_thw", "video_grid_thw")}
    for mask in (torch.tensor(case["attention_mask"]), torch.tensor(case["attention_mask"]).bool()):
        positions, following = mrope_positions(
            torch.tensor(case["input_ids"]),
            attention_mask=mask,
            spatial_merge_size=case["merge"],
            image_token_id=case["image_token_id"],
            video_token_id=case["video_token_id"],
            **given,
        )
        assert positions.permute(2, 0, 1).tolist() == case["position_ids"]
        assert following.tolist() == case["next_position"]


def test_mrope_positions_stand_where_the_ids_do():
    ids = torch.tensor([[1, 9, 9, 9, 9, 2]])
    options = dict(image_token_id=9, video_token_id=8, image_grid_thw=torch.tensor([[1, 4, 4]]), spatial_merge_size=2)
    want, _ = mrope_positions(ids, **options)
    with torch.device("meta"):  # where new tensors go unless they are told
        got, _ = mrope_positions(ids, **options)
    assert got.device.type == "cpu" and torch.equal(got, want)


def test_mrope_positions_merge_two_by_two_unless_told_otherwise():
    ids = torch.tensor([[TEXT, IMAGE, IMAGE, TEXT]])
    grid = torch.tensor([(1, 2, 4)])
    positions, following = mrope_positions(ids, image_token_id=IMAGE, video_token_id=VIDEO, image_grid_thw=grid)
    assert positions[0].tolist() == [[0, 0, 0], [1, 1, 1], [1, 1, 2], [3, 3, 3]]
    assert following.tolist() == [4]
    assert positions.dtype == following.dtype == torch.int64
    narrow, _ = mrope_positions(ids.int(), image_token_id=IMAGE, video_token_id=VIDEO, image_grid_thw=grid)
    assert narrow.dtype == torch.int32 and torch.equal(narrow.long(), positions)


def test_a_row_of_padding_has_zeros_and_begins_at_zero():
    ids, mask = torch.full((2, 3), TEXT), torch.tensor([[0, 0, 0], [1, 1, 0]])
    positions, following = mrope_positions(ids, image_token_id=IMAGE, video_token_id=VIDEO, attention_mask=mask)
    assert positions[:, :, 0].tolist() == [[0, 0, 0], [0, 1, 0]]
    assert following.tolist() == [0, 2]


def refused(ids, **given):
    with pytest.raises(ShapeError) as error:
        mrope_positions(torch.tensor([ids]), image_token_id=IMAGE, video_token_id=VIDEO, **given)
    return str(error.value)


def test_placeholders_and_grids_that_do_not_fit_are_named_with_their_numbers():
    image = torch.tensor([(1, 4, 6)])
    assert refused([TEXT, IMAGE, IMAGE, TEXT], image_grid_thw=image) == (
        "input_ids: a run of 2 image placeholders, expected 2 x 3 = 6 for picture or frame group 0 of image_grid_thw; "
        "two runs need another token between them"
    )
    assert refused([IMAGE] * 6 + [TEXT] + [IMAGE] * 6, image_grid_thw=image) == (
        "image_grid_thw: 1 pictures or frame groups, but input_ids holds one more, a run of 6 image placeholders; "
        "give a grid for each"
    )
    assert refused([TEXT, VIDEO]) == (
        "video_grid_thw: 0 pictures or frame groups, but input_ids holds one more, a run of 1 video placeholders; "
        "give a grid for each"
    )
    assert refused([VIDEO, TEXT], video_grid_thw=torch.tensor([(3, 2, 2)])) == (
        "video_grid_thw: 3 pictures or frame groups, but input_ids holds 1 runs of video placeholders; "
        "give one run for each"
    )
    assert refused([IMAGE], image_grid_thw=torch.tensor([(1, 3, 2)])) == (
        "grid: gt=1, gh=3, gw=2, expected at least 1 of each, gh and gw multiples of spatial_merge_size 2"
    )


@pytest.mark.usefixtures("unchecked")
def test_a_mask_of_another_shape_is_refused():
    assert refused([TEXT, TEXT], attention_mask=torch.ones(1, 3)) == (
        "attention_mask: shape (1, 3), expected that of input_ids, (1, 2)"
    )
