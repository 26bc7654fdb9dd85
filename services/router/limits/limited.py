"""What limits one request: its tenant's limits, and those of its key. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from services.router.snapshot.model import KeyLimits, Limits, Tenant

RATE, CONCURRENCY, TOKENS = "requests_per_second", "concurrent_requests", "tokens_per_minute"
_TENANT, _KEY = "limits", "key_limits"
EVERY_KEY = ""
"""In place of a key id: the limits of keys that have none of their own."""


@dataclass(frozen=True, slots=True)
class UsageLimits:
    """What a tenant, or a key, may use. None for no limit; 0 allows nothing."""

    requests_per_second: float | None = None
    request_burst: int = 0
    """Requests above the sustained rate that may come at once."""
    concurrent_requests: int | None = None
    tokens_per_minute: int | None = None
    shadow: frozenset[str] = field(default_factory=frozenset)
    """Names of limits that are tried out: they count what they would refuse, and refuse nothing."""


@dataclass(frozen=True, slots=True)
class Limited:
    """Limits, and whose usage counts against them."""

    subject: str
    """A tenant's uid, or `{tenant_uid}/{key_id}` for one of its keys."""
    name: str
    """`tenants/{tenant}` or `tenants/{tenant}/keys/{key}`, for refusals."""
    limits: UsageLimits

    @property
    def group(self) -> str:
        """The field of the tenant's config that holds the limits."""
        return _KEY if "/" in self.subject else _TENANT


def tenant_of(subject: str) -> str:
    """The uid of a subject's tenant."""
    return subject.partition("/")[0]


def key_of(subject: str) -> str:
    """The id of a subject's key; empty for a tenant."""
    return subject.partition("/")[2]


def limited_of(tenant: Tenant, key_id: str) -> tuple[Limited, ...]:
    """What limits a request: its tenant first, then its key, where that has limits."""
    own = Limited(tenant.tenant_uid, tenant.name, _tenant_limits(tenant.limits, tenant.shadow_limits))
    if not tenant.key_limits:
        return (own,)
    of_key = tenant.key_limits.get(key_id) or tenant.key_limits.get(EVERY_KEY)
    if of_key is None:
        return (own,)
    subject, name = f"{tenant.tenant_uid}/{key_id}", f"{tenant.name}/keys/{key_id}"
    return own, Limited(subject, name, _key_limits(of_key, tenant.shadow_limits))


@lru_cache(maxsize=4096)
def _tenant_limits(limits: Limits, shadow: frozenset[str]) -> UsageLimits:
    return UsageLimits(
        limits.requests_per_second,
        limits.request_burst,
        limits.concurrent_requests,
        limits.tokens_per_minute,
        _shadow(_TENANT, shadow),
    )


@lru_cache(maxsize=4096)
def _key_limits(limits: KeyLimits, shadow: frozenset[str]) -> UsageLimits:
    return UsageLimits(
        limits.requests_per_second,
        limits.request_burst,
        limits.concurrent_requests,
        limits.tokens_per_minute,
        _shadow(_KEY, shadow),
    )


def _shadow(group: str, shadow: frozenset[str]) -> frozenset[str]:
    return frozenset(name for name in (RATE, CONCURRENCY, TOKENS) if f"{group}.{name}" in shadow)
