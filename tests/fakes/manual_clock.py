"""A clock that moves when told to."""

from __future__ import annotations


class ManualClock:
    """Both clocks start at a given time and advance together."""

    def __init__(self, wall_seconds: float = 1_800_000_000.0) -> None:
        self._wall_seconds = wall_seconds
        self._monotonic_seconds = 1_000.0

    def wall_seconds(self) -> float:
        return self._wall_seconds

    def monotonic_seconds(self) -> float:
        return self._monotonic_seconds

    def advance(self, seconds: float) -> None:
        self._wall_seconds += seconds
        self._monotonic_seconds += seconds
