"""Limits a rate with a burst. Pure: time is passed in.

A leaky bucket in units, which admits what GCRA (ITU-T I.371) admits. It keeps what was taken, not when the next unit is
due, so that another rate or burst is in force at once, in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass

# Rounding by a microsecond must not refuse a caller that waited for exactly the delay it was given.
_ROUNDING_SECONDS = 1e-6


@dataclass(slots=True)
class RateLimiter:
    """What was taken and has not drained away yet."""

    level: float = 0.0
    """Units; drains at the rate."""
    _rate: float = 0.0
    """Units a second, as last asked for: what drained since was drained at this rate."""
    _updated_seconds: float = 0.0

    def wait_seconds(self, rate: float, burst: float, cost: float, now_seconds: float) -> float:
        """Take `cost` units and return 0, or take nothing and return how long to wait; infinite for never."""
        if cost <= 0:
            return 0.0
        if rate <= 0 or cost > burst:
            return float("inf")
        self.level = max(0.0, self.level - self._rate * max(0.0, now_seconds - self._updated_seconds))
        self._rate, self._updated_seconds = rate, now_seconds  # proven: rate-in-force
        wait = (self.level + cost - burst) / rate
        if wait > _ROUNDING_SECONDS:
            return wait
        self.level += cost
        return 0.0

    def level_at(self, now_seconds: float) -> float:
        """The level after what drains until then."""
        return max(0.0, self.level - self._rate * max(0.0, now_seconds - self._updated_seconds))

    def raise_to(self, level: float, now_seconds: float) -> None:
        """Take over a level that was reached elsewhere, unless it is lower."""
        self.level = max(level, self.level_at(now_seconds))
        self._updated_seconds = now_seconds
