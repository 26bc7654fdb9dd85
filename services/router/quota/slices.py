"""The slice of one quota that this router holds: units to spend, and how many to ask for. Pure.

Time is the wall clock's, passed in: leases and windows end at moments that the config service names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

_SURPLUS = 4
"""Units are given back when more than this many times the target is available."""


@dataclass(frozen=True, slots=True)
class SliceRules:
    """How far ahead of need units are leased; a router that is killed loses them for its tenants."""

    ahead_seconds: float = 5.0
    """Seconds of the recent spend a slice should last."""
    min_units: int = 1024
    """At least this much for a tenant that spends at all."""
    max_units: int = 1 << 22
    """At most this much, besides what a single request needs."""
    rate_seconds: float = 5.0
    """How long a unit spent is remembered."""
    idle_seconds: float = 30.0
    """After this long without a request everything is given back."""
    renew_seconds: float = 20.0
    """A slice is renewed when it ends in less than this."""
    dry_seconds: float = 1.0
    """How long an answer that nothing is free is believed."""


@dataclass(frozen=True, slots=True)
class Demand:
    """One quota's part of a lease request."""

    window_start_seconds: int
    used_units: int
    returned_units: int
    wanted_units: int


@dataclass(frozen=True, slots=True)
class Granted:
    """The config service's answer for one quota."""

    window_start_seconds: int
    window_end_seconds: int
    granted_units: int
    expires_seconds: float
    free_units: int = 0
    """Left of what the config allows, besides what routers hold; below 0 by as much as was granted beyond that."""


@dataclass(slots=True)
class SpendRate:
    """Units a second, weighted down exponentially with their age."""

    memory_seconds: float
    _units: float = 0.0
    _at_seconds: float = -math.inf

    def add(self, units: int, now_seconds: float) -> None:
        """Count units spent now."""
        self._units = self._remembered(now_seconds) + units
        self._at_seconds = now_seconds

    def units_per_second(self, now_seconds: float) -> float:
        """The present rate."""
        return self._remembered(now_seconds) / self.memory_seconds

    def _remembered(self, now_seconds: float) -> float:
        age = max(0.0, now_seconds - self._at_seconds)
        return self._units * math.exp(-age / self.memory_seconds) if self._units else 0.0


class QuotaSlice:
    """One tenant's units of one window in this router.

    Units are available, reserved, or used and not yet reported; the config service counts the three together as held
    here. They form a lot. When its window or lease ends, the lot is closed; units that running requests still use of
    it are already counted.
    """

    def __init__(self, rules: SliceRules, lots: Iterator[int]) -> None:
        """Start empty; `lots` numbers the lots of all slices, so that no two are confused."""
        self._rules = rules
        self._lots = lots
        self._rate = SpendRate(rules.rate_seconds)
        self._start_seconds = self._end_seconds = 0
        self._expires_seconds = 0.0
        self._lot = next(lots)
        self._available = self._reserved = self._unreported = 0
        # Of lots that are over, not reported yet.
        self._over_used = self._over_returned = 0
        self._largest = self._awaited = self._left = 0
        self._largest_seconds = self._asked_seconds = self._dry_seconds = -math.inf

    def fits(self, units: int, now_seconds: float) -> bool:
        """Whether a request may take these units."""
        self._turn(now_seconds)
        self._asked_seconds = now_seconds
        if units >= self._largest or now_seconds - self._largest_seconds > self._rules.idle_seconds:
            self._largest, self._largest_seconds = units, now_seconds
        return units <= self._available

    def take(self, units: int) -> int:
        """Reserve units that fit; returns the lot they are of."""
        self._available -= units
        self._reserved += units
        return self._lot

    def wait_for(self, units: int) -> None:
        """Ask for the units of a waiting request, on top of the rest."""
        self._awaited += units

    def settle(self, lot: int, reserved_units: int, used_units: int, now_seconds: float) -> None:
        """Settle a request that ended; units used beyond its reservation are a debt."""
        self._turn(now_seconds)
        self._rate.add(used_units, now_seconds)
        if lot == self._lot:
            self._reserved -= reserved_units
            self._available += reserved_units - used_units
            self._unreported += used_units
        else:
            beyond = max(0, used_units - reserved_units)
            self._available -= beyond
            self._unreported += beyond

    def is_dry(self, now_seconds: float) -> bool:
        """Whether a recent answer said that nothing more is free."""
        return now_seconds < self._dry_seconds

    def is_known(self, now_seconds: float) -> bool:
        """Whether the config service has answered in this window."""
        self._turn(now_seconds)
        return self._end_seconds > 0

    def exceeds(self, units: int, now_seconds: float) -> bool:
        """Whether these units are more than what the last answer left of the allowance, as far as is known here."""
        return self.is_known(now_seconds) and units > self._available + self._left

    def is_low(self, now_seconds: float) -> bool:
        """Whether more should be asked for without waiting for the next turn."""
        self._turn(now_seconds)
        if self.is_dry(now_seconds):
            return False
        return self._awaited > 0 or 2 * self._available < self._target(now_seconds)

    def is_idle(self, now_seconds: float) -> bool:
        """Whether nothing is held, owed, unreported or wanted, so that the slice can be forgotten."""
        self._turn(now_seconds)
        kept = self._available, self._reserved, self._unreported, self._over_used, self._over_returned
        return not any(kept) and self._target(now_seconds) == 0

    def demand(self, now_seconds: float) -> Demand | None:
        """The demand of now; None for none. Units that it gives back are gone from here at once, without an answer."""
        self._turn(now_seconds)
        target, wanted = self._target(now_seconds), 0
        if self.is_low(now_seconds):
            wanted = max(0, target + self._awaited - self._available)
        elif self._available > _SURPLUS * target:
            self._over_returned += self._available - target
            self._available = target  # proven: given-back-is-gone
        self._awaited = 0
        used = self._reportable()
        held = self._available + self._reserved + self._unreported
        ends_soon = held > 0 and self._expires_seconds - now_seconds < self._rules.renew_seconds
        over = self._over_used or self._over_returned
        if not (wanted or over or ends_soon or (used and used == held)):
            return None
        return self._report(used, wanted)

    def give_back(self, now_seconds: float) -> Demand | None:
        """The demand that gives back everything no request holds; None if there is nothing to report."""
        self._turn(now_seconds)
        self._over_returned += max(0, self._available)
        self._available = min(0, self._available)
        used = self._reportable()
        return self._report(used, 0) if used or self._over_used or self._over_returned else None

    def put(self, granted: Granted, wanted_units: int, now_seconds: float) -> None:
        """Take the answer to a demand."""
        if granted.window_start_seconds < self._start_seconds:
            return
        if granted.window_start_seconds > self._start_seconds:
            self._end_window()
        self._start_seconds = granted.window_start_seconds
        self._end_seconds = granted.window_end_seconds
        self._expires_seconds = granted.expires_seconds
        self._available += granted.granted_units
        self._left = granted.free_units
        dry = granted.granted_units < wanted_units
        self._dry_seconds = now_seconds + self._rules.dry_seconds if dry else -math.inf
        self._turn(now_seconds)

    def seconds_left(self, now_seconds: float) -> float:
        """Until the window ends."""
        return max(0.0, self._end_seconds - now_seconds)

    @property
    def available_units(self) -> int:
        """The units that requests may still reserve; below zero while a debt waits for a grant."""
        return self._available

    def _report(self, used: int, wanted: int) -> Demand:
        report = Demand(self._start_seconds, used + self._over_used, self._over_returned, wanted)
        self._unreported -= used
        self._over_used = self._over_returned = 0
        return report

    def _reportable(self) -> int:
        """Used units that were granted: a debt is reported once a grant covers it."""
        return max(0, self._unreported + min(0, self._available + self._reserved))

    def _target(self, now_seconds: float) -> int:
        """How much should be available."""
        if now_seconds - self._asked_seconds > self._rules.idle_seconds:
            return 0
        spend = int(self._rules.ahead_seconds * self._rate.units_per_second(now_seconds))
        return max(self._rules.min_units, min(self._rules.max_units, spend), self._largest)

    def _turn(self, now_seconds: float) -> None:
        """End the lot whose window or lease is over."""
        if now_seconds >= self._end_seconds:
            # Units of a window that is over are worth nothing, and its usage counts nowhere.
            self._end_window()  # proven: window-ends
        elif now_seconds >= self._expires_seconds and (self._available or self._reserved or self._unreported):
            # The config service counts them all as used, now or soon: to report them once more changes nothing.
            self._over_used += self._reserved + self._reportable()
            self._over_returned += max(0, self._available)
            self._end_lot()

    def _end_window(self) -> None:
        if self._available or self._reserved or self._unreported:
            self._end_lot()
        self._over_used = self._over_returned = 0
        self._dry_seconds = -math.inf
        self._end_seconds = 0

    def _end_lot(self) -> None:
        self._lot = next(self._lots)  # proven: new-lot
        self._available = self._reserved = self._unreported = 0
