"""Time, passed in: what is pure never asks the operating system."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one that people read, one that only moves forward."""

    def wall_seconds(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    def monotonic_seconds(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...


class SystemClock:
    """The operating system's clocks."""

    def wall_seconds(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()

    def monotonic_seconds(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        return time.monotonic()
