"""Sliding counts and limits."""

import hypothesis.strategies as st
from hypothesis import given

from gateway.resilience.admission import ConcurrencyLimit
from gateway.resilience.counters import SlidingWindow


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans()), max_size=60))
def test_the_window_holds_what_is_young_and_nothing_that_is_old(steps):
    """Exact to a slice: everything younger than nine tenths is in, everything older than the window is out."""
    window, now, events = SlidingWindow(10), 100.0, []
    for wait_s, marked in steps:
        now += wait_s
        window.add(now, calls=1, marked=int(marked))
        events.append((now, marked))
        young = [mark for at, mark in events if now - at < 9.0 - 1e-6]
        alive = [mark for at, mark in events if now - at <= 10.0 + 1e-6]
        assert len(young) <= window.calls <= len(alive)
        assert sum(young) <= window.marked <= sum(alive)


def test_sliding_without_adding_forgets():
    window = SlidingWindow(10)
    window.add(5, calls=3, marked=2)
    window.slide(16)
    assert (window.calls, window.marked) == (0, 0)


def test_a_limit_says_no_at_once_and_gives_places_back():
    limit = ConcurrencyLimit(2)
    assert [limit.try_acquire() for _ in range(3)] == [True, True, False]
    limit.release()
    assert limit.try_acquire()
    assert limit.in_use == 2
