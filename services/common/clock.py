"""Clocks, which are passed in, so that pure code never asks the operating system for the time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: a wall clock, and one that only moves forward."""

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
