from __future__ import annotations

import pytest

from services.common.errors import InvalidArgumentError, Reason, ResourceExhaustedError
from services.router.limits.tenant_limiter import TenantLimiter, check_input_bytes
from services.router.snapshot.model import Limits


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
    hold = limiter.reserve_tokens("t", "tenants/t", limits, 100, 0.0)
    with pytest.raises(ResourceExhaustedError):
        limiter.reserve_tokens("t", "tenants/t", limits, 50, 0.0)
    hold.spend(40, 0.5)
    hold.release()
    limiter.reserve_tokens("t", "tenants/t", limits, 60, 0.5).release()
    with pytest.raises(ResourceExhaustedError) as refused:
        limiter.reserve_tokens("t", "tenants/t", limits, 61, 0.5)
    assert refused.value.retry_after_seconds == pytest.approx(60.5)
    limiter.reserve_tokens("t", "tenants/t", limits, 61, 61.0)


def test_a_request_that_uses_more_than_it_reserved_leaves_a_debt():
    limiter, limits = TenantLimiter(), Limits(tokens_per_minute=100)
    hold = limiter.reserve_tokens("t", "tenants/t", limits, 30, 0.0)
    hold.spend(70, 1.0)
    hold.release()
    with pytest.raises(ResourceExhaustedError):
        limiter.reserve_tokens("t", "tenants/t", limits, 31, 1.0)
    limiter.reserve_tokens("t", "tenants/t", limits, 30, 1.0)


def test_what_nothing_limits_is_not_counted():
    assert TenantLimiter().reserve_tokens("t", "tenants/t", Limits(), 10**9, 0.0) is None


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
