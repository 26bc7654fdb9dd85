"""Limits tokens in every window of a minute. Pure: time is passed in.

Reserved tokens count in full until they are spent or released. Spent tokens count for the minute that follows their
generation, by the second, and a second counts until its last moment is a minute old. What was reserved minutes ago and
released now therefore frees what it still held, and nothing of the windows before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

WINDOW_SECONDS = 60
# When running requests hold the rest, the moment at which they end is not known ahead.
_HELD_RETRY_SECONDS = 1.0


@dataclass(slots=True)
class TokenWindow:
    """One tenant's tokens: reserved by running requests, and spent within the last minute."""

    reserved: int = 0
    spent: int = 0
    """As of the last call; of the seconds in `_seconds`."""
    _seconds: deque[tuple[int, int]] = field(default_factory=deque)
    """Second and tokens spent in it, the oldest first."""

    def wait_seconds(self, limit: int, tokens: int, now_seconds: float) -> float:
        """Reserve tokens and return 0, or reserve nothing and return how long to wait; infinite for never."""
        if tokens > limit:
            return float("inf")
        self._forget(now_seconds)
        if self.reserved + self.spent + tokens <= limit:
            self.reserved += tokens
            return 0.0
        if self.reserved + tokens > limit:
            return _HELD_RETRY_SECONDS
        excess = self.reserved + self.spent + tokens - limit
        for second, amount in self._seconds:
            excess -= amount
            if excess <= 0:
                return max(0.0, second + 1 + WINDOW_SECONDS - now_seconds)
        raise AssertionError("what is spent is the sum of its seconds")

    def spend(self, reserved: int, tokens: int, now_seconds: float) -> None:
        """Count generated tokens, of which `reserved` were reserved; those beyond are a debt of this minute."""
        self.reserved -= reserved
        self._forget(now_seconds)
        second = int(now_seconds)
        if self._seconds and self._seconds[-1][0] >= second:
            last, amount = self._seconds.pop()
            self._seconds.append((last, amount + tokens))
        else:
            self._seconds.append((second, tokens))
        self.spent += tokens

    def release(self, reserved: int) -> None:
        """Free what was reserved and not spent."""
        self.reserved -= reserved  # proven: release-frees-what-is-held

    def spent_by_age(self, now_seconds: float) -> list[tuple[float, int]]:
        """What was spent within the last minute: seconds ago, and tokens."""
        self._forget(now_seconds)
        return [(max(0.0, now_seconds - second), tokens) for second, tokens in self._seconds]

    def merge(self, spent_by_age: Iterable[tuple[float, int]], now_seconds: float) -> None:
        """Count tokens that were spent elsewhere. A second that is not whole counts until its last moment is old."""
        self._forget(now_seconds)
        seconds: dict[int, int] = dict(self._seconds)
        for age_seconds, tokens in spent_by_age:
            second = math.ceil(now_seconds - age_seconds)
            if tokens and second + 1 + WINDOW_SECONDS > now_seconds:
                seconds[second] = seconds.get(second, 0) + tokens
                self.spent += tokens
        self._seconds = deque(sorted(seconds.items()))

    @property
    def idle(self) -> bool:
        """Whether nothing is reserved and nothing was spent lately, as of the last call."""
        return not self.reserved and not self.spent

    def _forget(self, now_seconds: float) -> None:
        while self._seconds and self._seconds[0][0] + 1 + WINDOW_SECONDS <= now_seconds:
            self.spent -= self._seconds.popleft()[1]
