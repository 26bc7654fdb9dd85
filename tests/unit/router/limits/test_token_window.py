"""Tokens a minute against an oracle: no window of a minute holds more than the limit, however requests end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.limits import token_window
from services.router.limits.tenant_limiter import TokenHold
from services.router.limits.token_window import WINDOW_SECONDS, TokenWindow
from tests.fakes.mutants import changed

LIMIT = 600
STEP = st.tuples(
    st.floats(0, 40),
    st.sampled_from(["start", "use", "end"]),
    st.integers(1, LIMIT),
)


def run(steps, limit_at=lambda now: LIMIT, window=None):
    """Play a history; the tokens generated, each with its time."""
    window = window or TokenWindow()
    running, generated, now = [], [], 0.0
    for gap, action, amount in steps:
        now += gap
        if action == "start":
            if window.wait_seconds(limit_at(now), amount, now) == 0:
                running.append([TokenHold([("t", window)], amount), amount])
        elif running:
            hold, left = running[amount % len(running)]
            if action == "end":
                hold.release()
                running.remove([hold, left])
            else:
                used = min(left, amount)
                hold.spend(used, now)
                running[amount % len(running)][1] -= used
                generated.append((now, used))
    for hold, _ in running:
        hold.release()
    assert window.reserved == 0
    return generated


def fullest(generated):
    """The most tokens that any window of a minute holds."""
    return max(
        (
            sum(tokens for at, tokens in generated if start <= at < start + WINDOW_SECONDS)
            for start, _ in generated
        ),
        default=0,
    )


@given(st.lists(STEP, max_size=80))
def test_no_window_of_a_minute_holds_more_than_the_limit(steps):
    assert fullest(run(steps)) <= LIMIT


@given(st.lists(STEP, max_size=80))
def test_a_lowered_limit_admits_nothing_until_the_window_has_room(steps):
    window, now = TokenWindow(), 0.0
    run(steps, window=window)
    now = sum(gap for gap, _, _ in steps)
    if window.wait_seconds(100, 50, now) == 0:
        assert window.reserved + window.spent <= 100


def ten_slow_requests(window):
    """Ten requests, each a minute after the one before, end together; how much fits at once then."""
    holds = []
    for minute in range(10):
        assert window.wait_seconds(6000, 600, minute * 60.0) == 0
        holds.append(TokenHold([("t", window)], 600))
    for hold in holds:
        hold.spend(50, 590.0)
        hold.release()
    taken = 0
    while window.wait_seconds(600, 10, 600.0) == 0:
        taken += 10
    return taken


def test_reservations_released_together_free_no_more_than_the_limit():
    assert ten_slow_requests(TokenWindow()) == 100  # 500 of 600 were spent ten seconds ago


def test_mutant_that_credits_what_is_released_lets_too_much_through():
    generous = changed(
        token_window, "release-frees-what-is-held", "self.reserved -= reserved; self.spent -= reserved"
    ).TokenWindow()
    assert ten_slow_requests(generous) > 600


@given(st.lists(STEP, max_size=40), st.integers(1, LIMIT))
def test_who_waits_as_told_gets_in_when_nothing_else_runs(steps, tokens):
    window = TokenWindow()
    run(steps, window=window)
    now = sum(gap for gap, _, _ in steps)
    wait = window.wait_seconds(LIMIT, tokens, now)
    if wait:
        assert window.wait_seconds(LIMIT, tokens, now + wait) == 0


def test_more_than_the_limit_never_fits_and_what_runs_gives_no_date():
    window = TokenWindow()
    assert window.wait_seconds(10, 11, 0.0) == float("inf")
    assert window.wait_seconds(10, 10, 0.0) == 0
    assert window.wait_seconds(10, 1, 0.0) == pytest.approx(1.0)


def test_a_raised_limit_is_in_force_at_once():
    window = TokenWindow()
    assert window.wait_seconds(10, 10, 0.0) == 0
    assert window.wait_seconds(20, 10, 0.0) == 0
