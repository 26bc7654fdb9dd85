"""Delays that grow with every failure, with full jitter.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import random


class Backoff:
    """Delays drawn from [0, min(cap, base * 2^failures)]; `reset` after a success."""

    def __init__(self, base_seconds: float, cap_seconds: float, rng: random.Random | None = None) -> None:
        self._base_seconds = base_seconds
        self._cap_seconds = cap_seconds
        # Jitter spreads load; it is no secret.
        self._rng = rng or random.Random()  # noqa: S311
        self._failures = 0

    def next_delay_seconds(self) -> float:
        """The next delay; counts one more failure."""
        ceiling = min(self._cap_seconds, self._base_seconds * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return self._rng.uniform(0.0, ceiling)

    def reset(self) -> None:
        """Start over from the base delay."""
        self._failures = 0
