"""A router does not start with a limiter that cannot say no."""

from __future__ import annotations

import pytest

from services.router.limits import self_test
from services.router.limits.rate_limiter import RateLimiter
from services.router.limits.self_test import LimitsBrokenError, require_refusals
from services.router.limits.tenant_limiter import TenantLimiter
from services.router.limits.token_window import TokenWindow
from services.router.quota.slices import QuotaSlice


def test_every_limit_of_this_router_refuses():
    require_refusals()


@pytest.mark.parametrize(
    ("kind", "method", "careless", "named"),
    [
        (RateLimiter, "wait_seconds", lambda *_: 0.0, "limits.requests_per_second"),
        (TenantLimiter, "_check_concurrency", lambda *_: None, "key_limits.concurrent_requests"),
        (TokenWindow, "wait_seconds", lambda *_: 0.0, "key_limits.tokens_per_minute"),
        (TokenWindow, "wait_seconds", lambda *_: 1.0, "limits.tokens_per_minute"),
        (QuotaSlice, "fits", lambda *_: True, "quotas and spend_budgets"),
    ],
)
def test_a_limit_that_refuses_nothing_or_everything_is_named(monkeypatch, kind, method, careless, named):
    monkeypatch.setattr(kind, method, careless)
    with pytest.raises(LimitsBrokenError, match=named.replace(".", r"\.")):
        require_refusals()


def test_each_limit_is_tried_for_tenants_and_for_keys(monkeypatch):
    monkeypatch.setattr(TenantLimiter, "enter", lambda *_, **__: None)
    with pytest.raises(LimitsBrokenError) as broken:
        self_test.require_refusals()
    for name in ("requests_per_second", "concurrent_requests"):
        assert f" limits.{name}" in str(broken.value)
        assert f"key_limits.{name}" in str(broken.value)
