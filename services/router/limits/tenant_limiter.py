"""Limits what one tenant may use: request rate, concurrency, bytes, tokens a minute.

Pure: time is passed in. A changed limit is in force at the next request, in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.common.errors import (
    FieldViolation,
    InvalidArgumentError,
    QuotaViolation,
    Reason,
    ResourceExhaustedError,
)
from services.router.limits.rate_limiter import RateLimiter
from services.router.limits.token_window import TokenWindow
from services.router.snapshot.model import Limits

# A place frees when a request ends, and that moment is not known ahead.
_CONCURRENCY_RETRY_SECONDS = 1.0


@dataclass(slots=True)
class TokenHold:
    """Tokens reserved for one request in its tenant's minute."""

    _window: TokenWindow
    _left: int

    def spend(self, tokens: int, now_seconds: float) -> None:
        """Count tokens as the request uses them; those beyond the reservation are a debt."""
        reserved = min(tokens, self._left)
        self._left -= reserved
        self._window.spend(reserved, tokens, now_seconds)

    def release(self) -> None:
        """Free what the request did not use."""
        self._window.release(self._left)
        self._left = 0


@dataclass(slots=True)
class _Usage:
    requests: RateLimiter = field(default_factory=RateLimiter)
    tokens: TokenWindow = field(default_factory=TokenWindow)
    concurrent: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What one tenant used of its limits, as far as one router knows."""

    tenant_uid: str
    rate_level: float = 0.0
    """Of the rate limiter, now."""
    reserved_tokens: int = 0
    """Of running requests that are not reported one by one."""
    spent_tokens: Sequence[tuple[float, int]] = ()
    """Seconds since they were spent, and how many; of the last minute."""


class TenantLimiter:
    """Every tenant's usage in this process."""

    def __init__(self) -> None:
        self._usage: dict[str, _Usage] = {}

    def enter(
        self, tenant_uid: str, tenant_name: str, limits: Limits, now_seconds: float, *, counted: bool = False
    ) -> None:
        """Count a request in; `leave` counts it out, however it ends.

        Args:
            tenant_uid: whose request it is.
            tenant_name: for the refusal.
            limits: in force.
            now_seconds: of the monotonic clock.
            counted: whether the rate holds it already.

        Raises:
            ResourceExhaustedError: the rate or the concurrency is used up; nothing was counted.
        """
        usage = self._usage.setdefault(tenant_uid, _Usage())
        if usage.concurrent >= limits.concurrent_requests:
            raise _exhausted(
                tenant_name,
                "concurrent_requests",
                f"at most {limits.concurrent_requests} requests at once",
                Reason.CONCURRENCY_LIMITED,
                _CONCURRENCY_RETRY_SECONDS if limits.concurrent_requests > 0 else None,
                {"used": usage.concurrent, "limit_value": limits.concurrent_requests},
            )
        # The burst counts what may come above the sustained rate, so one request always fits.
        burst = limits.request_burst + 1
        wait = usage.requests.wait_seconds(
            limits.requests_per_second, burst, 0 if counted else 1, now_seconds
        )
        if wait:
            raise _exhausted(
                tenant_name,
                "requests_per_second",
                f"at most {limits.requests_per_second:g} requests a second",
                Reason.RATE_LIMITED,
                wait,
            )
        usage.concurrent += 1

    def leave(self, tenant_uid: str) -> None:
        """Count a request out; exactly once for each `enter` that succeeded."""
        usage = self._usage[tenant_uid]
        usage.concurrent -= 1
        assert usage.concurrent >= 0, "a request left twice"

    def reserve_tokens(
        self, tenant_uid: str, tenant_name: str, limits: Limits, tokens: int, now_seconds: float
    ) -> TokenHold | None:
        """Reserve the most tokens a request can use; None where nothing limits them.

        Raises:
            ResourceExhaustedError: they do not fit into this minute; nothing was reserved.
        """
        per_minute = limits.tokens_per_minute
        if per_minute is None:
            return None
        window = self._usage.setdefault(tenant_uid, _Usage()).tokens
        wait = window.wait_seconds(per_minute, tokens, now_seconds)
        if wait:
            used = window.reserved + window.spent
            fits = max(0, per_minute - used)
            description = (
                f"at most {per_minute} tokens a minute; this request may use {tokens}, and {fits} are left"
            )
            figures = {"needed": tokens, "used": used, "limit_value": per_minute, "fits_now": fits}
            raise _exhausted(
                tenant_name, "tokens_per_minute", description, Reason.RATE_LIMITED, wait, figures
            )
        return TokenHold(window, tokens)

    def adopt(self, tenant_uid: str) -> None:
        """Count a request in that entered elsewhere, whether or not it fits."""
        self._usage.setdefault(tenant_uid, _Usage()).concurrent += 1

    def hold_tokens(self, tenant_uid: str, limits: Limits, tokens: int) -> TokenHold | None:
        """Reserve tokens that were reserved elsewhere, whether or not they fit; None where nothing limits them."""
        if limits.tokens_per_minute is None:
            return None
        window = self._usage.setdefault(tenant_uid, _Usage()).tokens
        window.reserved += tokens
        return TokenHold(window, tokens)

    def uncount_rate(self, tenant_uid: str) -> None:
        """Take back a request's part in the rate: another limiter refused it."""
        requests = self._usage[tenant_uid].requests
        requests.level = max(0.0, requests.level - 1)

    def merge(self, used: Usage, now_seconds: float) -> None:
        """Count what was used elsewhere. Reserved tokens of it count as spent now: nothing gives them back."""
        usage = self._usage.setdefault(used.tenant_uid, _Usage())
        usage.requests.raise_to(used.rate_level, now_seconds)
        usage.tokens.merge([*used.spent_tokens, (0.0, used.reserved_tokens)], now_seconds)

    def usage(self, tenant_uid: str, now_seconds: float) -> Usage:
        """What a tenant used, running requests included."""
        known = self._usage.get(tenant_uid)
        if known is None:
            return Usage(tenant_uid)
        return Usage(
            tenant_uid,
            known.requests.level_at(now_seconds),
            known.tokens.reserved,
            known.tokens.spent_by_age(now_seconds),
        )

    def used(self, now_seconds: float) -> list[Usage]:
        """What every tenant used that used anything lately."""
        usages = (self.usage(tenant_uid, now_seconds) for tenant_uid in self._usage)
        return [used for used in usages if used.rate_level or used.reserved_tokens or used.spent_tokens]

    def rate_level(self, tenant_uid: str, now_seconds: float) -> float:
        """The level of a tenant's rate limiter."""
        known = self._usage.get(tenant_uid)
        return 0.0 if known is None else known.requests.level_at(now_seconds)

    def heard(self, tenant_uid: str, rate_level: float, now_seconds: float) -> None:
        """Follow the level that all routers' requests came to."""
        self._usage.setdefault(tenant_uid, _Usage()).requests.raise_to(rate_level, now_seconds)

    def forget(self, known_tenant_uids: frozenset[str]) -> None:
        """Drop idle usage of tenants that are gone, so that memory follows the config."""
        gone = [
            tenant_uid
            for tenant_uid, usage in self._usage.items()
            if tenant_uid not in known_tenant_uids and usage.concurrent == 0
        ]
        for tenant_uid in gone:
            del self._usage[tenant_uid]


def check_input_bytes(field_path: str, actual_bytes: int, limits: Limits) -> None:
    """Refuse a request with too much text.

    Raises:
        InvalidArgumentError: names limit and actual.
    """
    if actual_bytes > limits.input_bytes:
        raise InvalidArgumentError(
            [FieldViolation(field_path, f"{actual_bytes} bytes of text; at most {limits.input_bytes}")]
        )


def _exhausted(
    tenant_name: str,
    limit: str,
    description: str,
    reason: Reason,
    retry_seconds: float | None,
    figures: Mapping[str, int] | None = None,
) -> ResourceExhaustedError:
    finite = retry_seconds if retry_seconds is not None and retry_seconds < float("inf") else None
    return ResourceExhaustedError(
        f"limit reached: {description}",
        reason=reason,
        violations=[QuotaViolation(tenant_name, description)],
        metadata={"limit": f"limits.{limit}"} | {name: str(value) for name, value in (figures or {}).items()},
        retry_after_seconds=finite,
    )
