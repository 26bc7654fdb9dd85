"""One quota or spend budget of one tenant: units used for good, and slices that routers hold. Pure.

Two invariants hold at every moment, even when processes die and messages are lost, repeated or late:

- used + held never exceeds the quota that was in force at the last grant, unless it is in shadow mode;
- what routers have spent and may still spend never exceeds used + held.

The second one rests on three rules. A slice that ends without a return (it expires, or its router has another session)
becomes used, not free, since its router may have spent it. Usage only moves units from held to used. Only a return
makes units free again; the router gives them up before it sends the return, and the request's number keeps it from
counting twice. See docs/adr/0008-quota-leases.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.config.quota.allowances import Allowed
from services.config.quota.windows import Span

MAX_SLICES = 512
"""The most routers that may hold slices of one quota at one time."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The units that one router holds."""

    router: str
    session_id: str
    held_units: int
    """Units granted, and neither reported as used nor returned."""
    expires_seconds: float
    """Wall clock; then the held units become used."""
    sequence: int
    """The number of the session's last request that counted."""
    granted_units: int
    """The units that this request was granted."""


@dataclass(frozen=True, slots=True)
class Account:
    """One quota in one window."""

    span: Span
    used_units: int = 0
    slices: tuple[Slice, ...] = ()

    @property
    def held_units(self) -> int:
        """The units that routers hold."""
        return sum(part.held_units for part in self.slices)


@dataclass(frozen=True, slots=True)
class Claim:
    """A router's report of usage and returns, and its request for units."""

    router: str
    session_id: str
    sequence: int
    window_start_seconds: int
    """The window of used and returned units; for another window than the current one they do not count."""
    used_units: int = 0
    returned_units: int = 0
    wanted_units: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to a claim."""

    span: Span
    granted_units: int
    expires_seconds: float
    free_units: int
    """Left of what the config allows, and not held; below 0 by as much as was granted beyond that."""


def lease(
    account: Account | None,
    claim: Claim,
    most: Allowed,
    span: Span,
    now_seconds: float,
    lease_seconds: float,
) -> tuple[Account | None, Grant]:
    """Settle a claim; returns the account after it, and the answer. Without anything to write, the account is the same.

    Args:
        account: as stored; None before the first claim.
        claim: the router's claim.
        most: what the config allows in one window; 0 for nothing, which grants nothing also in shadow mode.
        span: the window of `now_seconds`.
        now_seconds: wall clock.
        lease_seconds: how long a slice lasts unless it is renewed.
    """
    current = account_at(account, span, now_seconds)
    own = next((part for part in current.slices if part.router == claim.router), None)
    resumed = own is not None and own.session_id == claim.session_id
    if own is not None and resumed and claim.sequence <= own.sequence:  # proven: requests-count-once
        again = claim.sequence == own.sequence
        answer = Grant(
            current.span,
            own.granted_units if again else 0,
            own.expires_seconds,
            _free(current, most.units),
        )
        return account, answer
    others = tuple(part for part in current.slices if part is not own)
    used, held = current.used_units, own.held_units if own else 0
    spent = returned = 0
    if own is not None and own.session_id != claim.session_id:
        # The process that held the slice has ended, and may have spent all of it.
        used, held = used + held, 0  # proven: ended-sessions-are-used
    if claim.window_start_seconds == current.span.start_seconds:
        spent = min(claim.used_units, held)
        returned = min(claim.returned_units, held - spent)  # proven: returns-are-bounded
        held -= spent + returned
        used += spent
    free = most.units - used - held - sum(part.held_units for part in others)
    grantable = max(0, free) if most.refuses or not most.units else claim.wanted_units
    granted = min(claim.wanted_units, grantable) if len(others) < MAX_SLICES else 0
    fresh = own is None or own.expires_seconds - now_seconds > lease_seconds / 2
    same_session = own is None or own.session_id == claim.session_id
    if fresh and same_session and not (granted or spent or returned):
        # A router without enough units asks often; that must not cost a write each time.
        return account, Grant(current.span, 0, own.expires_seconds if own else now_seconds, free)
    mine = Slice(
        claim.router,
        claim.session_id,
        held + granted,
        now_seconds + lease_seconds,
        claim.sequence,
        granted,
    )
    # Kept even while it holds nothing: it remembers until it expires which requests have counted.
    kept = (*others, mine) if len(others) < MAX_SLICES else others
    settled = replace(current, used_units=used, slices=kept)
    return settled, Grant(current.span, granted, mine.expires_seconds, free - granted)


def account_at(account: Account | None, span: Span, now_seconds: float) -> Account:
    """The account now: empty in a new window; slices that were not renewed count as used."""
    # Config services' clocks differ a little: a window that one has begun is not undone by another.
    if account is None or account.span.start_seconds < span.start_seconds:
        return Account(span)
    alive = tuple(part for part in account.slices if part.expires_seconds > now_seconds)
    if len(alive) == len(account.slices):
        return account
    lost = account.held_units - sum(part.held_units for part in alive)  # proven: expired-slices-are-used
    return replace(account, used_units=account.used_units + lost, slices=alive)


def _free(account: Account, quota_units: int) -> int:
    return quota_units - account.used_units - account.held_units
