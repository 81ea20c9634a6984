"""A generator in another thread gives what it gives in this one, and is gone when nobody asks any more."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivid.video.ahead import made_ahead


@given(st.lists(st.none() | st.integers()), st.integers(1, 5))
def test_items_come_in_their_order(items, at_most):
    with made_ahead((item for item in items), at_most=at_most) as ahead:
        assert list(ahead) == items


@pytest.mark.parametrize("at_most", [1, 3])
def test_so_many_items_are_made_before_they_are_taken_and_no_more(at_most):
    made, enough = [], threading.Event()

    def count():
        for number in range(20):
            made.append(number)
            if number == at_most + 1:  # taken: 0 and 1; waiting: so many more
                enough.set()
            yield number

    with made_ahead(count(), at_most=at_most) as ahead:
        assert next(ahead) == 0 and next(ahead) == 1
        assert enough.wait(10)
        assert not threading.Event().wait(0.05)  # time to make one too many
        assert made == list(range(at_most + 2))


def test_an_error_comes_where_it_stood_among_the_items():
    def fail():
        yield 0
        yield 1
        raise ArithmeticError("after two items")

    with made_ahead(fail(), at_most=5) as ahead:
        assert [next(ahead), next(ahead)] == [0, 1]
        with pytest.raises(ArithmeticError, match="after two items"):
            next(ahead)


@pytest.mark.parametrize("error", [None, KeyError])
def test_leaving_closes_the_generator_in_its_thread(error):
    threads, ran = threading.enumerate(), []

    def endless():
        try:
            while True:
                ran.append(threading.current_thread())
                yield
        finally:
            ran.append("closed")
            ran.append(threading.current_thread())

    def leave():
        with made_ahead(endless(), at_most=2) as ahead:
            next(ahead)
            if error:
                raise error

    if error:
        with pytest.raises(error):
            leave()
    else:
        leave()
    assert ran[-2] == "closed" and set(ran[:-2]) == {ran[-1]} and ran[-1] not in threads
    assert threading.enumerate() == threads
