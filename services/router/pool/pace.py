"""How fast a pool works while requests wait for it. Pure: times are seconds of the monotonic clock, passed in."""

from __future__ import annotations

import math

_HALF_LIFE_SECONDS = 10.0
_FOLD_SECONDS = 0.25
_KEPT_A_REQUEST = 0.98
# Less than this says nothing.
_MIN_SECONDS = 2.0
_MIN_REQUESTS = 10


class Pace:
    """Service a second, and how much of what requests may use they do use; exponentially weighted.

    Only time in which requests wait counts: an idle pool says nothing of how fast it is.
    """

    def __init__(self) -> None:
        self._rate = 0.0
        self._measured_seconds = 0.0
        self._since: float | None = None
        self._served = 0.0
        self._used = self._allowed = 0.0
        self._requests = 0

    def waiting(self, now: float, waits: bool) -> None:
        """Follow whether requests wait."""
        if waits and self._since is None:
            self._since, self._served = now, 0.0
        elif not waits and self._since is not None:
            self._fold(now)
            self._since = None

    def serve(self, service: float) -> None:
        """Count service as it is given; not negative."""
        self._served += service

    def settled(self, now: float, used: float, allowed: float) -> None:
        """Count a request that ended: the service it was given and the most it could have been given."""
        self._requests += 1
        self._used = self._used * _KEPT_A_REQUEST + used
        self._allowed = self._allowed * _KEPT_A_REQUEST + allowed
        if self._since is not None and now - self._since >= _FOLD_SECONDS:
            self._fold(now)

    def seconds(self, allowed: float, share: float) -> float | None:
        """How long requests that may use so much take, at a share of the pool; None while too little is known."""
        if self._measured_seconds < _MIN_SECONDS or self._requests < _MIN_REQUESTS or not self._rate:
            return None
        return allowed * (self._used / self._allowed) / (self._rate * share)

    def _fold(self, now: float) -> None:
        assert self._since is not None, "no time is measured"
        seconds = now - self._since
        if seconds <= 0:
            return
        self._measured_seconds += seconds
        # At first the plain mean: an average that starts at zero would say "slow".
        kept = min(math.exp2(-seconds / _HALF_LIFE_SECONDS), max(1 - seconds / self._measured_seconds, 0.0))
        self._rate = self._rate * kept + self._served / seconds * (1 - kept)
        self._since, self._served = now, 0.0
