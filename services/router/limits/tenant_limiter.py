"""Limits what tenants and their keys may use: request rate, concurrency, tokens a minute.

Pure: time is passed in. A changed limit is in force at the next request, in both directions. A request is counted
against all that limits it, or against nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from services.common.errors import QuotaViolation, Reason, ResourceExhaustedError
from services.router.limits.limited import CONCURRENCY, RATE, TOKENS, Limited
from services.router.limits.rate_limiter import RateLimiter
from services.router.limits.token_window import TokenWindow

# A place frees when a request ends, and that moment is not known ahead.
_CONCURRENCY_RETRY_SECONDS = 1.0

Shadowed = Callable[[str, str], object]
"""Takes the subject and the name of a limit in shadow mode that would have refused a request."""


@dataclass(slots=True)
class TokenHold:
    """Tokens reserved for one request in the minutes of its tenant and of its key."""

    _windows: Sequence[tuple[str, TokenWindow]]
    _left: int

    @property
    def subjects(self) -> Sequence[str]:
        """Whose minutes they are reserved in."""
        return [subject for subject, _ in self._windows]

    def spend(self, tokens: int, now_seconds: float) -> None:
        """Count tokens as the request uses them; those beyond the reservation are a debt."""
        reserved = min(tokens, self._left)
        self._left -= reserved
        for _, window in self._windows:
            window.spend(reserved, tokens, now_seconds)

    def release(self) -> None:
        """Free what the request did not use."""
        for _, window in self._windows:
            window.release(self._left)
        self._left = 0


@dataclass(slots=True)
class _Usage:
    requests: RateLimiter = field(default_factory=RateLimiter)
    tokens: TokenWindow = field(default_factory=TokenWindow)
    concurrent: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant or a key used of its limits, as far as one router knows."""

    subject: str
    """A tenant's uid, or `{tenant_uid}/{key_id}`."""
    rate_level: float = 0.0
    """Of the rate limiter, now."""
    reserved_tokens: int = 0
    """Of running requests that are not reported one by one."""
    spent_tokens: Sequence[tuple[float, int]] = ()
    """Seconds since they were spent, and how many; of the last minute."""


class TenantLimiter:
    """The usage of every tenant and key, in this process.

    Args:
        shadowed: told of each refusal that shadow mode turned into none.
    """

    def __init__(self, shadowed: Shadowed = lambda _subject, _limit: None) -> None:
        self._usage: dict[str, _Usage] = {}
        self._shadowed = shadowed

    def enter(self, limited: Sequence[Limited], now_seconds: float, *, counted: bool = False) -> None:
        """Count a request in; `leave` counts it out, however it ends.

        Args:
            limited: the limits in force, and whose they are.
            now_seconds: of the monotonic clock.
            counted: whether the rates hold it already.

        Raises:
            ResourceExhaustedError: a rate or a concurrency is used up; nothing was counted.
        """
        usages = [self._of(one.subject) for one in limited]
        for one, usage in zip(limited, usages, strict=True):
            self._check_concurrency(one, usage)
        taken: list[_Usage] = []
        for one, usage in zip(limited, usages, strict=True):
            wait = 0.0 if counted else _rate_wait(one, usage, now_seconds)
            if not wait:
                taken.append(usage)
            elif RATE in one.limits.shadow:
                self._shadowed(one.subject, f"{one.group}.{RATE}")
            else:
                if not counted:
                    for before in taken:
                        _uncount(before.requests)  # proven: all-or-nothing
                what = f"at most {one.limits.requests_per_second:g} requests a second"
                raise _exhausted(one, RATE, what, Reason.RATE_LIMITED, wait)
        for usage in usages:
            usage.concurrent += 1

    def leave(self, limited: Sequence[Limited]) -> None:
        """Count a request out; exactly once for each `enter` that succeeded."""
        for one in limited:
            usage = self._usage[one.subject]
            usage.concurrent -= 1
            assert usage.concurrent >= 0, "a request left twice"

    def reserve_tokens(self, limited: Sequence[Limited], tokens: int, now_seconds: float) -> TokenHold | None:
        """Reserve the most tokens a request can use; None where nothing limits them.

        Raises:
            ResourceExhaustedError: they do not fit into a minute; nothing was reserved.
        """
        windows: list[tuple[str, TokenWindow]] = []
        for one in limited:
            per_minute = one.limits.tokens_per_minute
            if per_minute is None:
                continue
            window = self._of(one.subject).tokens
            wait = window.wait_seconds(per_minute, tokens, now_seconds)
            if not wait:
                windows.append((one.subject, window))
            elif TOKENS in one.limits.shadow:
                self._shadowed(one.subject, f"{one.group}.{TOKENS}")
            else:
                for _, before in windows:
                    before.release(tokens)
                raise _too_many_tokens(one, per_minute, tokens, window, wait)
        return TokenHold(windows, tokens) if windows else None

    def adopt(self, limited: Sequence[Limited]) -> None:
        """Count a request in that entered elsewhere, whether or not it fits."""
        for one in limited:
            self._of(one.subject).concurrent += 1

    def hold_tokens(self, limited: Sequence[Limited], tokens: int) -> TokenHold | None:
        """Reserve tokens that were reserved elsewhere, whether or not they fit; None where nothing limits them."""
        windows = [
            (one.subject, self._of(one.subject).tokens)
            for one in limited
            if one.limits.tokens_per_minute is not None
        ]
        for _, window in windows:
            window.reserved += tokens
        return TokenHold(windows, tokens) if windows else None

    def uncount_rate(self, limited: Sequence[Limited]) -> None:
        """Take back a request's part in the rates: another limiter refused it."""
        for one in limited:
            _uncount(self._usage[one.subject].requests)

    def merge(self, used: Usage, now_seconds: float) -> None:
        """Count what was used elsewhere. Reserved tokens of it count as spent now: nothing gives them back."""
        usage = self._of(used.subject)
        usage.requests.raise_to(used.rate_level, now_seconds)
        usage.tokens.merge([*used.spent_tokens, (0.0, used.reserved_tokens)], now_seconds)

    def usage(self, subject: str, now_seconds: float) -> Usage:
        """What a tenant or a key used, running requests included."""
        known = self._usage.get(subject)
        if known is None:
            return Usage(subject)
        return Usage(
            subject,
            known.requests.level_at(now_seconds),
            known.tokens.reserved,
            known.tokens.spent_by_age(now_seconds),
        )

    def used(self, now_seconds: float) -> list[Usage]:
        """What every tenant and key used that used anything lately."""
        usages = (self.usage(subject, now_seconds) for subject in self._usage)
        return [used for used in usages if used.rate_level or used.reserved_tokens or used.spent_tokens]

    def rate_level(self, subject: str, now_seconds: float) -> float:
        """The level of the rate limiter of a tenant or a key."""
        known = self._usage.get(subject)
        return 0.0 if known is None else known.requests.level_at(now_seconds)

    def heard(self, subject: str, rate_level: float, now_seconds: float) -> None:
        """Follow the level that all routers' requests came to."""
        self._of(subject).requests.raise_to(rate_level, now_seconds)

    def forget(self, known: Callable[[str], bool]) -> None:
        """Drop idle usage of subjects that are not known any more, so that memory follows the config."""
        gone = [
            subject for subject, usage in self._usage.items() if usage.concurrent == 0 and not known(subject)
        ]
        for subject in gone:
            del self._usage[subject]

    def _of(self, subject: str) -> _Usage:
        usage = self._usage.get(subject)
        if usage is None:
            usage = self._usage[subject] = _Usage()
        return usage

    def _check_concurrency(self, limited: Limited, usage: _Usage) -> None:
        most = limited.limits.concurrent_requests
        if most is None or usage.concurrent < most:
            return
        if CONCURRENCY in limited.limits.shadow:
            self._shadowed(limited.subject, f"{limited.group}.{CONCURRENCY}")
            return
        raise _exhausted(
            limited,
            CONCURRENCY,
            f"at most {most} requests at once",
            Reason.CONCURRENCY_LIMITED,
            _CONCURRENCY_RETRY_SECONDS if most > 0 else None,
            {"used": usage.concurrent, "limit_value": most},
        )


def _rate_wait(limited: Limited, usage: _Usage, now_seconds: float) -> float:
    rate = limited.limits.requests_per_second
    if rate is None:
        return 0.0
    # The burst counts what may come above the sustained rate, so one request always fits.
    return usage.requests.wait_seconds(rate, limited.limits.request_burst + 1, 1, now_seconds)


def _uncount(requests: RateLimiter) -> None:
    requests.level = max(0.0, requests.level - 1)


def _too_many_tokens(
    limited: Limited, per_minute: int, tokens: int, window: TokenWindow, wait_seconds: float
) -> ResourceExhaustedError:
    used = window.reserved + window.spent
    fits = max(0, per_minute - used)
    description = f"at most {per_minute} tokens a minute; this request may use {tokens}, and {fits} are left"
    figures = {"needed": tokens, "used": used, "limit_value": per_minute, "fits_now": fits}
    return _exhausted(limited, TOKENS, description, Reason.RATE_LIMITED, wait_seconds, figures)


def _exhausted(
    limited: Limited,
    limit: str,
    description: str,
    reason: Reason,
    retry_seconds: float | None,
    figures: Mapping[str, int] | None = None,
) -> ResourceExhaustedError:
    finite = retry_seconds if retry_seconds is not None and retry_seconds < float("inf") else None
    whose = "limit of this key" if limited.group == "key_limits" else "limit"
    return ResourceExhaustedError(
        f"{whose} reached: {description}",
        reason=reason,
        violations=[QuotaViolation(limited.name, description)],
        metadata={"limit": f"{limited.group}.{limit}"}
        | {name: str(value) for name, value in (figures or {}).items()},
        retry_after_seconds=finite,
    )
