from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.limits import rate_limiter
from services.router.limits.rate_limiter import RateLimiter
from tests.fakes.mutants import without


@given(
    st.floats(0.1, 1000),
    st.integers(1, 20),
    st.lists(st.floats(0, 5), min_size=1, max_size=60),
)
def test_no_window_holds_more_than_rate_and_burst(rate, burst, gaps):
    limiter, now, taken = RateLimiter(), 1000.0, []
    for gap in gaps:
        now += gap
        if limiter.wait_seconds(rate, burst, 1, now) == 0:
            taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            allowed = burst + rate * (taken[last] - taken[first]) + 1e-3
            assert last - first + 1 <= allowed


@given(st.floats(0.1, 1000), st.integers(1, 20), st.integers(1, 20))
def test_who_waits_as_told_gets_in(rate, burst, cost):
    limiter, now = RateLimiter(), 50.0
    while (wait := limiter.wait_seconds(rate, burst, min(cost, burst), now)) == 0:
        pass
    assert limiter.wait_seconds(rate, burst, min(cost, burst), now + wait) == 0


def test_zero_allows_nothing_and_more_than_the_burst_never_fits():
    assert RateLimiter().wait_seconds(0, 5, 1, 0) == float("inf")
    assert RateLimiter().wait_seconds(1, 5, 6, 0) == float("inf")


def wait_after_a_raise(limiter):
    while limiter.wait_seconds(0.01, 101, 1, 10.0) == 0:
        pass
    return limiter.wait_seconds(100, 101, 1, 10.0)


def test_a_raised_rate_is_in_force_at_once():
    """A hundred and one requests at one in a hundred seconds, then a hundred a second: the next waits 10 ms."""
    assert wait_after_a_raise(RateLimiter()) == pytest.approx(0.01)


def test_a_lowered_rate_and_a_lowered_burst_are_in_force_at_once():
    limiter = RateLimiter()
    for _ in range(10):
        assert limiter.wait_seconds(100, 10, 1, 10.0) == 0
    assert limiter.wait_seconds(1, 10, 1, 10.0) == pytest.approx(1.0)
    assert limiter.wait_seconds(1, 5, 1, 10.0) == pytest.approx(6.0)
    assert limiter.wait_seconds(1, 5, 1, 16.0) == 0


def test_mutant_that_keeps_no_rate_lets_nothing_drain():
    keeps_none = without(rate_limiter, "rate-in-force").RateLimiter()
    while keeps_none.wait_seconds(1, 5, 1, 10.0) == 0:
        pass
    assert keeps_none.wait_seconds(1, 5, 1, 20.0) > 0


@given(st.lists(st.tuples(st.floats(0, 5), st.sampled_from([0.5, 2.0, 50.0])), min_size=1, max_size=60))
def test_no_change_of_the_rate_lets_through_more_than_the_highest_rate_does(steps):
    limiter, now, taken = RateLimiter(), 0.0, []
    for gap, rate in steps:
        now += gap
        if limiter.wait_seconds(rate, 3, 1, now) == 0:
            taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first + 1 <= 3 + 50.0 * (taken[last] - taken[first]) + 1e-3
