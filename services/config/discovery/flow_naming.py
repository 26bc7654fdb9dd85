"""Names the flow controller of a mesh: one of its routers, by an epoch that only rises. Pure.

The routers remember the epoch and the controller they follow, and say so when they connect: a config service that
restarts names the same one again. A router is gone once it said goodbye, or its stream ended and did not come back.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, field

from services.common.clock import Clock

_log = logging.getLogger(__name__)

GONE_SECONDS = 0.8
"""How long a router without a stream may come back. Shorter than `router.flow.role` lets requests run that neither
config service nor flow controller can count."""
CLAIM_SECONDS = 1.5
"""How long a config service that restarts waits for the controller that routers speak of."""


@dataclass(frozen=True, slots=True)
class FlowAssignment:
    """The flow controller that routers are to follow."""

    epoch: int
    controller: str
    target: str
    routers: frozenset[str]


@dataclass(slots=True)
class _Member:
    target: str
    joined: int
    """Rises with each router that joins."""
    lost_at: float | None = None
    serves: bool = False
    """Whether it has applied a snapshot."""


@dataclass(slots=True)
class FlowNaming:
    """Which router is the flow controller; `assignment` is asked often."""

    clock: Clock
    _members: dict[str, _Member] = field(default_factory=dict)
    _epoch: int = 0
    _controller: str = ""
    _spoken_of: tuple[str, float] | None = None
    """A controller that a router follows and that has not connected here, and since when."""
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def joined(self, router: str, target: str, epoch: int, controller: str) -> None:
        """Note that a router connected.

        Args:
            router: its name.
            target: where others reach it as controller; empty for one that counts for itself alone.
            epoch: the newest that it knows; 0 for none.
            controller: of that epoch.
        """
        if not target:
            if self._members:
                _log.error("%s shares no limits with the other routers: it has no flow target", router)
            return
        known = self._members.get(router)
        if known is None:
            self._members[router] = _Member(target, next(self._numbers))
        else:
            known.target, known.lost_at = target, None
        if epoch > self._epoch:
            # This process started after it was named.
            self._epoch, self._controller = epoch, controller  # proven: epochs-outlive-the-config-service
            if controller not in self._members:
                self._spoken_of = controller, self.clock.monotonic_seconds()

    def serves(self, router: str) -> None:
        """Note that a router has applied a snapshot, so that it knows pools."""
        if (member := self._members.get(router)) is not None:
            member.serves = True

    def lost(self, router: str) -> None:
        """Note that a router's stream ended; it may come back."""
        if (member := self._members.get(router)) is not None:
            member.lost_at = self.clock.monotonic_seconds()

    def left(self, router: str) -> None:
        """Note that a router stopped cleanly."""
        self._members.pop(router, None)

    def assignment(self) -> FlowAssignment | None:
        """The assignment in force; None while no router can be named."""
        now = self.clock.monotonic_seconds()
        for name, member in list(self._members.items()):
            if member.lost_at is not None and now >= member.lost_at + GONE_SECONDS:
                del self._members[name]
        if self._controller not in self._members and not self._name(now):
            return None
        controller = self._members[self._controller]
        return FlowAssignment(self._epoch, self._controller, controller.target, frozenset(self._members))

    def _name(self, now: float) -> bool:
        if self._spoken_of is not None:
            controller, since = self._spoken_of
            if controller == self._controller and now < since + CLAIM_SECONDS:
                return False
            self._spoken_of = None
        here = [(not m.serves, m.joined, name) for name, m in self._members.items() if m.lost_at is None]
        if not here:
            return False
        self._epoch += 1
        self._controller = min(here)[2]
        _log.info("%s is the flow controller of epoch %d", self._controller, self._epoch)
        return True
