from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgumentError, Reason, ResourceExhaustedError
from services.router.request.limits import RateLimiter, TenantLimiter, check_input_bytes
from services.router.snapshot.model import Limits


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


def test_what_is_given_back_can_be_taken_again():
    limiter = RateLimiter()
    assert limiter.wait_seconds(1, 10, 10, 0) == 0
    assert limiter.wait_seconds(1, 10, 4, 0) > 0
    limiter.give_back(1, 6)
    assert limiter.wait_seconds(1, 10, 6, 0) == 0
    assert limiter.wait_seconds(1, 10, 1, 0) > 0


def test_a_rate_that_is_used_up_says_when_to_come_back():
    limiter, limits = TenantLimiter(), Limits(requests_per_second=2, request_burst=0)
    limiter.enter("t", "tenants/t", limits, 0.0)
    limiter.leave("t")
    with pytest.raises(ResourceExhaustedError) as refused:
        limiter.enter("t", "tenants/t", limits, 0.0)
    assert refused.value.reason is Reason.RATE_LIMITED
    assert refused.value.retry_after_seconds == pytest.approx(0.5)
    assert refused.value.violations[0].subject == "tenants/t"
    limiter.enter("t", "tenants/t", limits, 0.5)


def test_concurrency_counts_each_tenant_alone():
    limiter, limits = TenantLimiter(), Limits(concurrent_requests=1)
    limiter.enter("a", "tenants/a", limits, 0.0)
    limiter.enter("b", "tenants/b", limits, 0.0)
    with pytest.raises(ResourceExhaustedError) as refused:
        limiter.enter("a", "tenants/a", limits, 0.0)
    assert refused.value.reason is Reason.CONCURRENCY_LIMITED
    limiter.leave("a")
    limiter.enter("a", "tenants/a", limits, 0.0)
    assert limiter._usage["a"].concurrent == 1


def test_a_refused_rate_holds_no_concurrency():
    limiter, limits = TenantLimiter(), Limits(requests_per_second=0)
    with pytest.raises(ResourceExhaustedError) as refused:
        limiter.enter("t", "tenants/t", limits, 0.0)
    assert refused.value.retry_after_seconds is None
    assert limiter._usage["t"].concurrent == 0


def test_tokens_are_reserved_whole_and_settled_to_what_was_used():
    limiter, limits = TenantLimiter(), Limits(tokens_per_minute=100)
    limiter.reserve_tokens("t", "tenants/t", limits, 100, 0.0)
    with pytest.raises(ResourceExhaustedError):
        limiter.reserve_tokens("t", "tenants/t", limits, 50, 0.0)
    limiter.settle_tokens("t", limits, reserved=100, used=40)
    limiter.reserve_tokens("t", "tenants/t", limits, 60, 0.0)
    with pytest.raises(ResourceExhaustedError):
        limiter.reserve_tokens("t", "tenants/t", limits, 1, 0.0)
    limiter.reserve_tokens("t", "tenants/t", limits, 50, 30.0)


def test_usage_of_tenants_that_are_gone_is_forgotten_once_idle():
    limiter = TenantLimiter()
    limiter.enter("gone", "tenants/gone", Limits(), 0.0)
    limiter.forget(frozenset())
    limiter.leave("gone")
    limiter.forget(frozenset())
    assert limiter._usage == {}


def test_too_many_bytes_name_limit_and_actual():
    check_input_bytes("prompt", 10, Limits(input_bytes=10))
    with pytest.raises(InvalidArgumentError, match="11 bytes of text; at most 10"):
        check_input_bytes("prompt", 11, Limits(input_bytes=10))
