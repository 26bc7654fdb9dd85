"""Limits what one tenant may use: request rate, concurrency, bytes, tokens a minute.

Pure: time is passed in. A changed limit is in force at the next request, in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.common.errors import (
    FieldViolation,
    InvalidArgumentError,
    QuotaViolation,
    Reason,
    ResourceExhaustedError,
)
from services.router.request.rate_limiter import RateLimiter
from services.router.request.token_window import TokenWindow
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


class TenantLimiter:
    """Every tenant's usage in this process."""

    def __init__(self) -> None:
        self._usage: dict[str, _Usage] = {}

    def enter(self, tenant_uid: str, tenant_name: str, limits: Limits, now_seconds: float) -> None:
        """Count a request in; `leave` counts it out, however it ends.

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
            )
        # The burst counts what may come above the sustained rate, so one request always fits.
        burst = limits.request_burst + 1
        wait = usage.requests.wait_seconds(limits.requests_per_second, burst, 1, now_seconds)
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
            description = f"at most {per_minute} tokens a minute; this request may use {tokens}"
            raise _exhausted(tenant_name, "tokens_per_minute", description, Reason.RATE_LIMITED, wait)
        return TokenHold(window, tokens)

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
    tenant_name: str, limit: str, description: str, reason: Reason, retry_seconds: float | None
) -> ResourceExhaustedError:
    finite = retry_seconds if retry_seconds is not None and retry_seconds < float("inf") else None
    return ResourceExhaustedError(
        f"limit reached: {description}",
        reason=reason,
        violations=[QuotaViolation(tenant_name, description)],
        metadata={"limit": f"limits.{limit}"},
        retry_after_seconds=finite,
    )
