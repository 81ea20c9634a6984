"""Sinusoidal and rotary positions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds, small

from minivid.classroom.evidence import agree
from minivid.layers.positions import rotary_angles, rotate, sinusoidal
from minivid.shapes import ShapeError

even = st.integers(1, 6).map(lambda half: 2 * half)


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


def test_sinusoidal_names_an_odd_width():
    with pytest.raises(ValueError, match="d is 7, expected an even number"):
        sinusoidal(3, 7)


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


@pytest.mark.usefixtures("unchecked")
def test_rotary_positions_name_what_does_not_fit():
    with pytest.raises(ValueError, match="k is 7, expected an even number"):
        rotary_angles(torch.arange(3), 7)
    x = torch.zeros(2, 3, 5, 4)
    with pytest.raises(ShapeError, match=r"angles: shape \(5, 4\), expected n=5 rows of k/2 = 2 angles"):
        rotate(x, torch.zeros(5, 4))
    with pytest.raises(ShapeError, match=r"angles: shape \(6, 2\), expected n=5 rows"):
        rotate(x, torch.zeros(6, 2))
    with pytest.raises(ShapeError, match=r"k/2 = 2.5 angles"):
        rotate(torch.zeros(2, 3, 5, 5), torch.zeros(5, 2))
