"""The key-value cache: what goes in comes out in order, and attention in pieces is attention in one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal, seeds, whole
from torch import Tensor

from minivid.classroom.evidence import agree, holds
from minivid.layers.attention import attend, causal_mask
from minivid.layers.kv_cache import KVCache
from minivid.shapes import ShapeError

few = st.integers(1, 2)
lengths = st.lists(st.integers(1, 3), min_size=1, max_size=4)


@st.composite
def keys_values_pieces(draw):
    """Whole numbers of b heads s k, and the lengths of the pieces in which they come."""
    pieces = draw(lengths)
    b, heads, k = draw(st.tuples(few, few, few))
    return draw(whole(b, heads, sum(pieces), k)), draw(whole(b, heads, sum(pieces), k)), pieces


def appended(cache, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """What append gives back, a pair of tensors."""
    kept = cache.append(keys, values)
    pair = isinstance(kept, tuple) and len(kept) == 2 and all(isinstance(x, Tensor) for x in kept)
    holds(pair, "append returns (keys, values), a tuple of two tensors", keys=keys, values=values)
    return kept


# ---- laws


@pytest.mark.law("KVCache")
@given(keys_values_pieces())
def test_cache_gives_back_what_it_was_given_in_order(impl, case):
    """After each append, the keys and values of all tokens so far come back, in the order in which they came."""
    keys, values, pieces = case
    cache, end = impl.KVCache(), 0
    for n in pieces:
        kept = appended(cache, keys[:, :, end : end + n], values[:, :, end : end + n])
        end += n
        for name, got, given_ in zip(("keys", "values"), kept, (keys, values), strict=True):
            want = given_[:, :, :end]
            claim = f"the {name} that come back are not those of the first {end} tokens"
            agree(got, want, claim, axes="b heads s k", pieces=pieces, keys=keys, values=values)


@pytest.mark.law("KVCache")
@given(keys_values_pieces())
def test_cache_counts_its_tokens(impl, case):
    """`length` is the number of tokens kept: 0 at first, and one more for each token of a piece."""
    keys, values, pieces = case
    cache, end = impl.KVCache(), 0
    holds(cache.length == 0, f"a new cache has length {cache.length}, expected 0")
    for n in pieces:
        appended(cache, keys[:, :, end : end + n], values[:, :, end : end + n])
        end += n
        holds(cache.length == end, f"after {end} tokens the length is {cache.length}", pieces=pieces)


@pytest.mark.law("KVCache")
@given(keys_values_pieces(), st.integers(1, 3))
def test_cache_grows_past_its_capacity(impl, case, capacity):
    """The capacity is the room at first, not a limit: no token is lost, whatever it is."""
    keys, values, pieces = case
    cache = impl.KVCache(capacity)
    for new_keys, new_values in zip(keys.split(pieces, 2), values.split(pieces, 2), strict=True):
        kept = appended(cache, new_keys, new_values)
    for got, want in zip(kept, (keys, values), strict=True):
        agree(got, want, "tokens beyond the capacity are lost", axes="b heads s k", capacity=capacity, pieces=pieces)


@pytest.mark.law("KVCache")
@given(lengths, st.integers(1, 4), seeds)
def test_cache_changes_no_output_however_the_tokens_are_split(impl, pieces, capacity, seed):
    """Causal attention over the pieces with a cache equals causal attention over the whole without."""
    s = sum(pieces)
    query, key, value = (normal(seed + i, 2, 2, s, 3) for i in range(3))
    want, _ = attend(query, key, value, causal_mask(s, s))
    cache, outputs, start = impl.KVCache(capacity), [], 0
    for n in pieces:
        end = start + n
        keys, values = appended(cache, key[:, :, start:end], value[:, :, start:end])
        holds(keys.shape[2] == end, f"{keys.shape[2]} keys come back after {end} tokens", pieces=pieces)
        outputs.append(attend(query[:, :, start:end], keys, values, causal_mask(n, end))[0])
        start = end
    agree(torch.cat(outputs, 2), want, "the cache changes the output", axes="b heads n k", pieces=pieces)


@pytest.mark.law("KVCache")
@given(keys_values_pieces(), st.data())
def test_cache_forgets_what_is_cropped(impl, case, data):
    """crop(length) keeps the first tokens, and what is appended next stands behind them."""
    keys, values, pieces = case
    length = data.draw(st.integers(0, sum(pieces)))
    cache = impl.KVCache()
    appended(cache, keys, values)
    cache.crop(length)
    holds(cache.length == length, f"after crop({length}) the length is {cache.length}", tokens=sum(pieces))
    kept = appended(cache, keys + 5, values + 5)
    for got, given_ in zip(kept, (keys, values), strict=True):
        want = torch.cat([given_[:, :, :length], given_ + 5], 2)
        agree(got, want, f"after crop({length}) other tokens are kept", axes="b heads s k", pieces=pieces)


# ---- what a law cannot ask


@given(keys_values_pieces(), st.integers(1, 4), st.data())
def test_written_in_place_or_copied_the_tokens_are_the_same(case, capacity, data):
    keys, values, pieces = case
    length = data.draw(st.integers(0, sum(pieces)))
    for recorded in (False, True):  # gradients: while they are recorded, every append copies
        with torch.set_grad_enabled(recorded):
            cache = KVCache(capacity)
            for pair in zip(keys.split(pieces, 2), values.split(pieces, 2), strict=True):
                kept = cache.append(*pair)
            assert torch.equal(torch.stack(kept), torch.stack([keys, values]))
            cache.crop(length)
            kept = cache.append(keys + 5, values + 5)
        want = [torch.cat([x[:, :, :length], x + 5], 2) for x in (keys, values)]
        assert torch.equal(torch.stack(kept), torch.stack(want))


def test_what_is_given_may_be_written_over_afterwards():
    for recorded in (True, False):
        cache, keys = KVCache(), normal(0, 1, 2, 3, 5)
        want = keys.clone()
        with torch.set_grad_enabled(recorded):
            cache.append(keys, keys)
            keys.zero_()
            kept, _ = cache.append(want, want)
        assert torch.equal(kept, torch.cat([want, want], 2))


def test_what_came_back_earlier_stays_as_it_was():
    keys = normal(0, 1, 2, 7, 5)
    for recorded in (True, False):
        cache = KVCache(capacity=4)
        with torch.set_grad_enabled(recorded):
            first, _ = cache.append(keys[:, :, :3], keys[:, :, :3])
            cache.append(keys[:, :, 3:4], keys[:, :, 3:4])  # fits
            cache.append(keys[:, :, 4:], keys[:, :, 4:])  # does not
        assert torch.equal(first, keys[:, :, :3])


def test_room_is_that_of_the_capacity_or_of_the_first_tokens():
    assert repr(KVCache()) == "KVCache(length=0, capacity=64)"
    for n, room in ((3, 5), (5, 5), (7, 7)):
        cache = KVCache(capacity=5)
        with torch.no_grad():
            keys, values = cache.append(torch.zeros(1, 1, n, 1), torch.zeros(1, 1, n, 1))
        assert cache.capacity == room
        assert keys.untyped_storage().nbytes() == values.untyped_storage().nbytes() == 4 * room


def test_room_is_doubled_so_that_few_tokens_are_copied():
    cache, rooms = KVCache(capacity=2), set()
    with torch.no_grad():
        for _ in range(33):
            keys, _ = cache.append(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))
            rooms.add((cache.capacity, keys.untyped_storage().nbytes() // 4))
        cache.append(torch.zeros(1, 1, 200, 1), torch.zeros(1, 1, 200, 1))
    assert rooms == {(2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (64, 64)}
    assert cache.capacity == cache.length == 233


def test_nothing_moves_while_there_is_room():
    cache, places = KVCache(capacity=9), set()
    with torch.no_grad():
        for n in (4, 1, 4):
            keys, values = cache.append(torch.ones(2, 3, n, 5), torch.ones(2, 3, n, 5))
            places.add((keys.data_ptr(), values.data_ptr()))
    assert len(places) == 1


def test_gradients_go_back_to_every_piece():
    pieces = [normal(i, 1, 2, n, 3, dtype=torch.float64).requires_grad_() for i, n in enumerate((2, 1, 3))]

    def kept(*pieces):
        cache = KVCache(capacity=8)
        for piece in pieces:
            keys, values = cache.append(piece, 2 * piece)
        return keys.square() + values

    assert torch.autograd.gradcheck(kept, pieces)


def test_a_frozen_prompt_may_be_followed_by_tokens_that_learn():
    cache, prompt = KVCache(capacity=8), normal(0, 1, 2, 3, 5)
    cache.append(prompt, prompt)
    new = normal(1, 1, 2, 1, 5).requires_grad_()
    keys, values = cache.append(new, new)
    (keys.sum() + values.sum()).backward()
    assert torch.equal(new.grad, torch.full_like(new, 2.0))
    assert torch.equal(keys[:, :, :3], prompt)


def test_queries_may_learn_while_keys_and_values_are_frozen():
    # The backward pass of the query needs the keys of its time: written over, they are gone.
    query, key, value = normal(0, 1, 2, 3, 5).requires_grad_(), normal(1, 1, 2, 3, 5), normal(2, 1, 2, 3, 5)
    cache, outputs = KVCache(capacity=8), []
    for piece in zip(*(x.split(1, 2) for x in (query, key, value)), strict=True):
        outputs.append(attend(piece[0], *cache.append(*piece[1:]))[0])
    (got,) = torch.autograd.grad(torch.cat(outputs, 2).square().sum(), query)
    (want,) = torch.autograd.grad(attend(query, key, value, causal_mask(3, 3))[0].square().sum(), query)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_cache_takes_the_dtype_of_what_it_is_given(dtype):
    keys, values = KVCache().append(torch.ones(1, 1, 2, 3, dtype=dtype), torch.ones(1, 1, 2, 3, dtype=dtype))
    assert keys.dtype == values.dtype == dtype


def test_cache_shows_its_numbers():
    cache = KVCache(capacity=5)
    with torch.no_grad():
        cache.append(torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 3))
    assert repr(cache) == "KVCache(length=2, capacity=5)"


@pytest.mark.usefixtures("unchecked")
def test_append_names_what_does_not_fit():
    cache = KVCache()
    cache.append(torch.zeros(2, 3, 5, 7), torch.zeros(2, 3, 5, 7))
    for shape in ((1, 3, 1, 7), (2, 4, 1, 7), (2, 3, 1, 8)):
        message = rf"keys: shape \({', '.join(map(str, shape))}\), torch.float32 on cpu, expected b=2, heads=3, n, k=7"
        with pytest.raises(ShapeError, match=message):
            cache.append(torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(ShapeError, match=r"torch.float64 on cpu, expected b=2, heads=3, n, k=7, torch.float32 on cpu"):
        cache.append(torch.zeros(2, 3, 1, 7).double(), torch.zeros(2, 3, 1, 7).double())
    new, first = torch.zeros(2, 3, 1, 7), "expected b=2, heads=3, n, k=7, torch.float32 on cpu, as appended first"
    with pytest.raises(ShapeError, match=rf"values: shape \(2, 3, 1, 7\), torch.float64 on cpu, {first}"):
        cache.append(new, new.double())
    with pytest.raises(ShapeError, match=rf"keys: shape \(2, 3, 1, 7\), torch.float32 on meta, {first}"):
        cache.append(new.to("meta"), new)
    with pytest.raises(ShapeError, match=r"keys \(2, 3, 1, 7\) and values \(2, 3, 2, 7\): expected b heads n k"):
        cache.append(torch.zeros(2, 3, 1, 7), torch.zeros(2, 3, 2, 7))
    with pytest.raises(ShapeError, match=r"keys \(3, 1, 7\) and values \(3, 1, 7\)"):
        cache.append(torch.zeros(3, 1, 7), torch.zeros(3, 1, 7))
    assert cache.length == 5


def test_crop_names_the_tokens_that_are_kept():
    cache = KVCache()
    cache.append(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2))
    for length in (4, -1):
        with pytest.raises(ShapeError, match=f"length: {length}, expected 0 to 3"):
            cache.crop(length)


def test_a_cache_without_room_is_refused():
    with pytest.raises(ValueError, match="capacity is 0, expected at least 1 token"):
        KVCache(capacity=0)
