"""Delays the final responses of requests whose client has gone until Triton has handled the cancellation.

Triton 2.51 takes a segmentation fault where a cancelled call's last response is completed between the cancellation's
arrival and its processing (triton-inference-server/server, issue #8034; fixed by its pull requests #7840 and #8078 in
later releases). The client has gone, so the delay costs nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from triton_models.cpu_engine.response_sink import ResponseSink

GRACE_SECONDS = 0.25
_MAX_HELD = 1024


class DelayedFinals:
    """Holds sinks in the order in which their grace ends; used by one thread.

    Args:
        clock: Monotonic seconds.
        max_held: Beyond this number the oldest sink is given out before its grace ends.
    """

    def __init__(self, clock: Callable[[], float], max_held: int = _MAX_HELD) -> None:
        self._clock = clock
        self._max_held = max_held
        self._held: deque[tuple[float, ResponseSink]] = deque()

    def hold(self, sink: ResponseSink) -> None:
        """Hold a sink until its grace ends."""
        self._held.append((self._clock() + GRACE_SECONDS, sink))

    def due(self) -> Iterator[ResponseSink]:
        """Give out the sinks whose grace has ended."""
        while self._held and (len(self._held) > self._max_held or self._held[0][0] <= self._clock()):
            yield self._held.popleft()[1]

    def all(self) -> Iterator[ResponseSink]:
        """Give out every sink at once."""
        while self._held:
            yield self._held.popleft()[1]
