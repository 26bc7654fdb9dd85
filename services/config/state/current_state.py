"""Holds the config in force and wakes those that wait for a change of it."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from services.common.clock import Clock
from services.config.etcd import keys as etcd_keys
from services.config.etcd.follower import Follower, KeyChange
from services.config.etcd.store import Stored
from services.config.state.config_state import ConfigState, ConfigStateBuilder
from services.config.state.sealing import SealError

_REMEMBERED = 256
_log = logging.getLogger(__name__)


class CurrentState(Follower):
    """Follows the watch; replaces one reference for each batch of revisions."""

    def __init__(self, builder: ConfigStateBuilder, clock: Clock) -> None:
        self._builder = builder
        self._clock = clock
        self._waiters: set[asyncio.Event] = set()
        self.state = ConfigState()
        self.listed = asyncio.Event()
        """Set once there is a state to serve: etcd's first list, or the content of a file."""
        self.live = asyncio.Event()
        """Set once etcd itself was listed; before that, the state in force comes from a file."""
        self.connected = False
        self._touched: deque[frozenset[str]] = deque(maxlen=_REMEMBERED)
        """The keys that each of the newest generations changed."""
        self._heard_at_seconds = clock.monotonic_seconds()

    @property
    def silence_ms(self) -> int:
        """Milliseconds since etcd's last sign of life."""
        return int(1000 * (self._clock.monotonic_seconds() - self._heard_at_seconds))

    def replace(self, items: Mapping[str, Stored], revision: int) -> None:
        """Put a whole list in force.

        Raises:
            SealError: it is the first list, and none of its tenants opens. Under a wrong root key, all would vanish.
        """
        if self.listed.is_set() and (not self.live.is_set() or revision < self.state.revision):
            # Values of a file, or from before etcd was restored, may differ from etcd's at the same revision.
            self.history_ended()
        before = self.state
        if before.revision == 0:  # proven: no-record-of-another-history
            before = ConfigState()
        state = self._builder.full(items, revision, before)
        if not self.live.is_set() and state.lost_every_tenant:
            raise SealError("no tenant's config opens under this root key")
        self._begin_anew(state)
        self.live.set()
        self.listed.set()

    def restore(self, items: dict[str, Stored], revision: int, age_seconds: float) -> None:
        """Put the content of a file in force until etcd is listed; it was current `age_seconds` ago.

        Raises:
            SealError: none of its tenants opens.
        """
        state = self._builder.full(items, revision, ConfigState())
        if state.lost_every_tenant:
            raise SealError("no tenant's config opens under this root key")
        self._heard_at_seconds = self._clock.monotonic_seconds() - age_seconds
        self._begin_anew(state)
        self.listed.set()

    def _begin_anew(self, state: ConfigState) -> None:
        """Put a state in force whose differences from the last one are not known; no generation number repeats."""
        self._touched.clear()
        generation = self.state.generation + 1  # proven: no-generation-twice
        self._swap(replace(state, generation=generation, history=self.state.history))

    def history_ended(self) -> None:
        """Drop the revision: etcd was restored or exchanged. The records stay in force until the next list."""
        self._swap(replace(self.state, revision=0, history=self.state.history + 1))

    def apply(self, changes: Sequence[KeyChange], revision: int) -> None:
        """Put whole revisions up to `revision` in force."""
        before = self.state
        self._swap(self._builder.changed(before, changes, revision))
        if self.state.generation != before.generation:
            self._touched.append(frozenset(etcd_keys.relative(change.key) for change in changes))

    def touched(self, before: ConfigState, after: ConfigState) -> frozenset[str] | None:
        """The keys below the live prefix that may differ between two states; None when that is not known."""
        newest = self.state.generation
        first, last = before.generation - newest, after.generation - newest
        if not -len(self._touched) <= first <= last <= 0:
            return None
        steps = itertools.islice(self._touched, len(self._touched) + first, len(self._touched) + last)
        return frozenset().union(*steps)

    def heard(self) -> None:
        """Note a sign of life of etcd."""
        self.connected = True
        self._heard_at_seconds = self._clock.monotonic_seconds()

    def lost(self) -> None:
        """Note that the connection to etcd is gone."""
        self.connected = False

    def _swap(self, state: ConfigState) -> None:
        for key in sorted(state.damaged - self.state.damaged):
            _log.error("the value of %s does not open; the value before it stays in force", key)
        self.state = state
        for waiter in self._waiters:
            waiter.set()

    async def applied(self, revision: int, timeout_seconds: float) -> bool:
        """Wait until a revision is in force here; returns False when the time is up first."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.until(lambda state: state.revision >= revision)
        except TimeoutError:
            return False
        return True

    async def until(self, condition: Callable[[ConfigState], bool]) -> None:
        """Wait until the state in force meets a condition."""
        changed = self.subscribe()
        try:
            while not condition(self.state):
                changed.clear()
                await changed.wait()
        finally:
            self.unsubscribe(changed)

    def subscribe(self) -> asyncio.Event:
        """Return an event that is set at every new state; end it with `unsubscribe`."""
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        return waiter

    def unsubscribe(self, waiter: asyncio.Event) -> None:
        """Stop setting an event."""
        self._waiters.discard(waiter)
