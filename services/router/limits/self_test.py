"""Shows, before a router serves anything, that each of its limiters refuses. Pure.

A limiter that lets everything through looks like one that nobody reaches: it is found out here, not by the bill.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count

from services.common.errors import ResourceExhaustedError
from services.router.limits.limited import Limited, UsageLimits
from services.router.limits.tenant_limiter import TenantLimiter
from services.router.quota.slices import QuotaSlice, SliceRules

_NO_LIMITS = UsageLimits()
_SUBJECTS = ("t", "t/k")
_AMOUNTS = (0, 1, 5)


class LimitsBrokenError(Exception):
    """Limiters that do not refuse."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"these limits refuse nothing, or too early: {', '.join(names)}")


def require_refusals() -> None:
    """Take each limit to its end: what fits is let in, and one more is refused.

    Raises:
        LimitsBrokenError: names every limit that fails.
    """
    checks: dict[str, Callable[[str, int], bool]] = {
        "requests_per_second": _rate_refuses,
        "concurrent_requests": _concurrency_refuses,
        "tokens_per_minute": _tokens_refuse,
    }
    broken = [
        f"{Limited(subject, '', _NO_LIMITS).group}.{name}"
        for subject in _SUBJECTS
        for name, refuses in checks.items()
        if not all(refuses(subject, amount) for amount in _AMOUNTS)
    ]
    if not _quotas_refuse():
        broken.append("quotas and spend_budgets")
    if broken:
        raise LimitsBrokenError(broken)


def _limited(subject: str, limits: UsageLimits) -> list[Limited]:
    """What limits a request of a subject; a key's request counts against its tenant first."""
    own = [Limited(subject.partition("/")[0], "", _NO_LIMITS)] if "/" in subject else []
    return [*own, Limited(subject, "", limits)]


def _lets_in(limiter: TenantLimiter, limited: list[Limited]) -> bool:
    try:
        limiter.enter(limited, 0.0)
    except ResourceExhaustedError:
        return False
    return True


def _rate_refuses(subject: str, burst: int) -> bool:
    limited = _limited(subject, replace(_NO_LIMITS, requests_per_second=1.0, request_burst=burst))
    limiter = TenantLimiter()
    return all(_lets_in(limiter, limited) for _ in range(burst + 1)) and not _lets_in(limiter, limited)


def _concurrency_refuses(subject: str, most: int) -> bool:
    limiter, limited = TenantLimiter(), _limited(subject, replace(_NO_LIMITS, concurrent_requests=most))
    return all(_lets_in(limiter, limited) for _ in range(most)) and not _lets_in(limiter, limited)


def _tokens_refuse(subject: str, most: int) -> bool:
    limiter, limited = TenantLimiter(), _limited(subject, replace(_NO_LIMITS, tokens_per_minute=most))
    try:
        limiter.reserve_tokens(limited, most, 0.0)
    except ResourceExhaustedError:
        return False
    try:
        limiter.reserve_tokens(limited, 1, 0.0)
    except ResourceExhaustedError:
        return True
    return False


def _quotas_refuse() -> bool:
    return not QuotaSlice(SliceRules(), count()).fits(1, 0.0)
