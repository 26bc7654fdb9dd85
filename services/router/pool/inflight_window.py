"""How many requests a server is sent at once: fewer while some wait inside it, where order is not fair. Pure.

The size follows the server's own queue, never its latency: a long answer is no reason to send less.
"""

from __future__ import annotations

from dataclasses import dataclass

_GROWTH_PARTS = 8
"""An empty queue gives back one such part of the configured places at a time."""


@dataclass(slots=True)
class InflightWindow:
    """The window of one server."""

    most: int
    """Requests at once by the config."""
    size: int = 0
    """Requests at once now; 0 until the first observation."""
    _waited: int = 0

    def observe(self, waiting: int | None, in_flight: int) -> int:
        """Follow the server's queue; returns the size.

        Args:
            waiting: requests that wait inside the server; None if it does not say, which leaves it to the config.
            in_flight: requests that it was sent and has not ended.
        """
        if waiting is None:
            self.size, self._waited = self.most, 0
            return self.size
        size = min(self.size or self.most, self.most)
        # What waits at one look has just arrived; what waits at two in a row would better wait here.
        stuck, self._waited = min(waiting, self._waited), waiting
        if stuck:
            self.size = max(1, min(size, in_flight) - stuck)
        elif not waiting:
            self.size = min(self.most, size + max(1, self.most // _GROWTH_PARTS))
        else:
            self.size = size
        return self.size
