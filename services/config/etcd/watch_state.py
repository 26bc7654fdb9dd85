"""What a watch response means, decided without a stream: the rules that lose no event. Pure.

- Never advance on `created`; advance to the last event's revision; a header counts only in an empty response of this
  watch, which the server sent by itself. What it answers when asked for progress belongs to no watch and is not in
  order with the events (etcd-io/etcd#15220): a sign of life, no more.
- A new stream or a notification behind what was applied, or of another cluster, is of another history: list again.
- Look at `canceled` before `created`: a refused watch carries both.
- A compacted start means listing again.
- Apply whole revisions only: fragments are collected, and what is older than the next revision due is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.config.etcd.follower import KeyChange

NO_WATCH = -1
"""The watch id of what belongs to no watch."""


@dataclass(frozen=True, slots=True)
class Response:
    """What `watch_state` needs of etcd's WatchResponse."""

    revision: int
    cluster_id: int = 0
    watch_id: int = 0
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    fragment: bool = False
    changes: tuple[KeyChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply these changes, all of revisions up to `revision`; none for a sign of life."""

    revision: int
    changes: tuple[KeyChange, ...]


@dataclass(frozen=True, slots=True)
class Relist:
    """The revisions we would need are gone."""

    another_history: bool = False
    """Whether they never were: etcd was restored or exchanged, or this member of it lags behind."""


@dataclass(frozen=True, slots=True)
class Reconnect:
    """The watch is over; begin a new one at the revision due."""


@dataclass(slots=True)
class WatchState:
    """Follows one watch over any number of connections."""

    next_revision: int
    """The first revision that has not been applied."""
    cluster_id: int = 0
    """Of the etcd that was listed; 0 for any."""
    _collected: list[KeyChange] = field(default_factory=list)

    def connected(self) -> None:
        """A new stream starts: fragments of the old one are void."""
        self._collected.clear()

    def take(self, response: Response) -> Apply | Relist | Reconnect | None:
        """Decide what a response means; None for nothing yet."""
        if response.compact_revision:  # proven: compaction-lists-again
            return Relist()
        if response.canceled:
            return Reconnect()
        if self._is_of_another_history(response):
            return Relist(another_history=True)
        if response.created:  # proven: created-advances-nothing
            return None
        if not response.changes:
            if response.watch_id == NO_WATCH:  # proven: asked-progress-is-life-only
                return None
            if self._collected or response.revision < self.next_revision:
                return None
            self.next_revision = response.revision + 1
            return Apply(response.revision, ())
        self._collected.extend(response.changes)
        if response.fragment:
            return None
        changes = tuple(change for change in self._collected if change.mod_revision >= self.next_revision)
        self._collected.clear()
        if not changes:
            return None
        revision = changes[-1].mod_revision
        self.next_revision = revision + 1
        return Apply(revision, changes)

    def _is_of_another_history(self, response: Response) -> bool:
        if self.cluster_id and response.cluster_id != self.cluster_id:
            return True
        in_order = response.created or response.watch_id != NO_WATCH
        return in_order and response.revision < self.next_revision - 1  # proven: behind-is-another-history
