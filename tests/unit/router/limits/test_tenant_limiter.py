"""Limits of tenants and keys: exact, all or nothing, and only counted in shadow mode."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import Reason, ResourceExhaustedError
from services.router.limits import tenant_limiter
from services.router.limits.limited import Limited, UsageLimits
from services.router.limits.tenant_limiter import TenantLimiter
from tests.fakes.mutants import without


def of(tenant: str, **limits) -> tuple[Limited, ...]:
    return (Limited(tenant, f"tenants/{tenant}", UsageLimits(**limits)),)


def of_key(key: str, **limits) -> tuple[Limited, ...]:
    """A key of tenant `t`, which has no limits of its own."""
    return (*of("t"), Limited(f"t/{key}", f"tenants/t/keys/{key}", UsageLimits(**limits)))


def test_a_rate_that_is_used_up_says_when_to_come_back():
    limiter, limited = TenantLimiter(), of("t", requests_per_second=2)
    limiter.enter(limited, 0.0)
    limiter.leave(limited)
    with pytest.raises(ResourceExhaustedError) as refused:
        limiter.enter(limited, 0.0)
    assert refused.value.reason is Reason.RATE_LIMITED
    assert refused.value.retry_after_seconds == pytest.approx(0.5)
    assert refused.value.violations[0].subject == "tenants/t"
    limiter.enter(limited, 0.5)


def test_concurrency_counts_each_tenant_alone():
    limiter, one, other = TenantLimiter(), of("a", concurrent_requests=1), of("b", concurrent_requests=1)
    limiter.enter(one, 0.0)
    limiter.enter(other, 0.0)
    with pytest.raises(ResourceExhaustedError) as refused:
        limiter.enter(one, 0.0)
    assert refused.value.reason is Reason.CONCURRENCY_LIMITED
    limiter.leave(one)
    limiter.enter(one, 0.0)
    assert limiter._usage["a"].concurrent == 1


def test_a_refused_rate_holds_no_concurrency():
    limiter, limited = TenantLimiter(), of("t", requests_per_second=0)
    with pytest.raises(ResourceExhaustedError) as refused:
        limiter.enter(limited, 0.0)
    assert refused.value.retry_after_seconds is None
    assert limiter._usage["t"].concurrent == 0


def test_tokens_are_reserved_whole_and_settled_to_what_was_used():
    limiter, limited = TenantLimiter(), of("t", tokens_per_minute=100)
    hold = limiter.reserve_tokens(limited, 100, 0.0)
    with pytest.raises(ResourceExhaustedError):
        limiter.reserve_tokens(limited, 50, 0.0)
    hold.spend(40, 0.5)
    hold.release()
    limiter.reserve_tokens(limited, 60, 0.5).release()
    with pytest.raises(ResourceExhaustedError) as refused:
        limiter.reserve_tokens(limited, 61, 0.5)
    assert refused.value.retry_after_seconds == pytest.approx(60.5)
    limiter.reserve_tokens(limited, 61, 61.0)


def test_a_request_that_uses_more_than_it_reserved_leaves_a_debt():
    limiter, limited = TenantLimiter(), of("t", tokens_per_minute=100)
    hold = limiter.reserve_tokens(limited, 30, 0.0)
    hold.spend(70, 1.0)
    hold.release()
    with pytest.raises(ResourceExhaustedError):
        limiter.reserve_tokens(limited, 31, 1.0)
    limiter.reserve_tokens(limited, 30, 1.0)


def test_what_nothing_limits_is_not_counted():
    assert TenantLimiter().reserve_tokens(of("t"), 10**9, 0.0) is None


def test_usage_of_tenants_and_keys_that_are_gone_is_forgotten_once_idle():
    limiter, limited = TenantLimiter(), of_key("k")
    limiter.enter(limited, 0.0)
    limiter.forget(lambda subject: False)
    limiter.leave(limited)
    limiter.forget(lambda subject: subject == "t")
    assert list(limiter._usage) == ["t"]


def test_a_key_has_limits_of_its_own_within_its_tenants():
    limiter = TenantLimiter()
    first, second = of_key("k1", concurrent_requests=1), of_key("k2", concurrent_requests=1)
    limiter.enter(first, 0.0)
    with pytest.raises(
        ResourceExhaustedError, match="limit of this key reached: at most 1 requests"
    ) as refused:
        limiter.enter(first, 0.0)
    assert refused.value.metadata["limit"] == "key_limits.concurrent_requests"
    assert refused.value.violations[0].subject == "tenants/t/keys/k1"
    limiter.enter(second, 0.0)


def taken_by_a_refused_request(module) -> tuple[float, int]:
    """What a request that its key's limits refuse leaves of its tenant's rate and tokens."""
    limiter = module.TenantLimiter()
    limited = (
        *of("t", requests_per_second=1, request_burst=5, tokens_per_minute=100),
        Limited("t/k", "tenants/t/keys/k", UsageLimits(requests_per_second=0, tokens_per_minute=10)),
    )
    with pytest.raises(ResourceExhaustedError):
        limiter.enter(limited, 0.0)
    with pytest.raises(ResourceExhaustedError):
        limiter.reserve_tokens(limited, 20, 0.0)
    return limiter.rate_level("t", 0.0), limiter.usage("t", 0.0).reserved_tokens


def test_a_request_that_its_key_may_not_make_takes_nothing_from_the_tenant():
    assert taken_by_a_refused_request(tenant_limiter) == (0.0, 0)


def test_that_test_notices_a_limiter_that_takes_before_it_refuses():
    assert taken_by_a_refused_request(without(tenant_limiter, "all-or-nothing"))[0] == 1.0


@given(
    st.lists(
        st.tuples(st.sampled_from(["k1", "k2", "k3"]), st.floats(0, 5), st.integers(1, 60), st.booleans()),
        max_size=40,
    )
)
def test_neither_a_key_nor_its_tenant_exceeds_a_limit(steps):
    """Oracle: everything that was let in is written down, and every window of it is counted."""
    limiter, now = TenantLimiter(), 0.0
    entered: list[tuple[float, str]] = []
    spent: list[tuple[float, str, int]] = []
    running: list[tuple[tuple[Limited, ...], object]] = []
    tenant = {
        "requests_per_second": 2,
        "request_burst": 3,
        "concurrent_requests": 4,
        "tokens_per_minute": 150,
    }
    key = {"requests_per_second": 1, "request_burst": 1, "concurrent_requests": 2, "tokens_per_minute": 70}
    for key_id, pause, tokens, ends in steps:
        now += pause
        if ends and running:
            limited, hold = running.pop(0)
            hold.release()
            limiter.leave(limited)
        limited = (*of("t", **tenant), Limited(f"t/{key_id}", f"tenants/t/keys/{key_id}", UsageLimits(**key)))
        try:
            limiter.enter(limited, now)
        except ResourceExhaustedError:
            continue
        entered.append((now, key_id))
        try:
            hold = limiter.reserve_tokens(limited, tokens, now)
        except ResourceExhaustedError:
            limiter.leave(limited)
            continue
        hold.spend(tokens, now)
        spent.append((now, key_id, tokens))
        running.append((limited, hold))
    for whose, limits in ((None, tenant), *((key_id, key) for key_id in ("k1", "k2", "k3"))):
        at = [moment for moment, key_id in entered if whose in {None, key_id}]
        for first, start in enumerate(at):
            for count, end in enumerate(at[first:], 1):
                most = limits["request_burst"] + 1 + limits["requests_per_second"] * (end - start)
                assert count <= most + 1e-3
        for moment, _, _ in spent:
            inside = [n for then, who, n in spent if moment <= then < moment + 60 and whose in {None, who}]
            assert sum(inside) <= limits["tokens_per_minute"]


def test_a_limit_in_shadow_mode_counts_and_refuses_nothing():
    seen: list[tuple[str, str]] = []
    limiter = TenantLimiter(lambda subject, limit: seen.append((subject, limit)))
    every = frozenset({"requests_per_second", "concurrent_requests", "tokens_per_minute"})
    limited = of("t", requests_per_second=1, concurrent_requests=1, tokens_per_minute=10, shadow=every)
    limiter.enter(limited, 0.0)
    assert seen == []
    limiter.enter(limited, 0.0)
    assert seen == [("t", "limits.concurrent_requests"), ("t", "limits.requests_per_second")]
    assert limiter.reserve_tokens(limited, 11, 0.0) is None
    assert seen[2:] == [("t", "limits.tokens_per_minute")]
    limiter.leave(limited)
    limiter.leave(limited)


def test_one_limit_in_shadow_mode_leaves_the_others_in_force():
    limiter = TenantLimiter()
    limited = of("t", concurrent_requests=1, requests_per_second=1, shadow=frozenset({"requests_per_second"}))
    limiter.enter(limited, 0.0)
    with pytest.raises(ResourceExhaustedError):
        limiter.enter(limited, 0.0)
