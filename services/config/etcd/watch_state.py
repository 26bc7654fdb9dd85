"""Decides what a watch response means, without a stream, by the rules that lose no event. Pure.

- Never advance on `created`. Advance to the last event's revision. Advance to the revision of a header only in an empty
  response of this watch, which the server sends unasked. The answer to a progress request belongs to no watch and is
  not ordered with the events (etcd-io/etcd#15220), so it is a sign of life only.
- List again when a new stream or a notification is behind what was applied or comes from another cluster: it belongs to
  another history.
- Check `canceled` before `created`: a refused watch carries both.
- List again when the start revision was compacted.
- Apply whole revisions only: collect fragments, and ignore what is older than the next revision due.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.config.etcd.follower import KeyChange

NO_WATCH = -1
"""The watch id of responses that belong to no watch."""


@dataclass(frozen=True, slots=True)
class Response:
    """The part of etcd's WatchResponse that decides."""

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
    """Apply these changes, all of revisions up to `revision`; empty for a sign of life."""

    revision: int
    changes: tuple[KeyChange, ...]


@dataclass(frozen=True, slots=True)
class Relist:
    """The revisions due are not available; list again."""

    another_history: bool = False
    """Whether this etcd never had them: it was restored or exchanged, or this member lags behind."""


@dataclass(frozen=True, slots=True)
class Reconnect:
    """The watch has ended; start a new one at the revision due."""


@dataclass(slots=True)
class WatchState:
    """Follows one watch over any number of connections."""

    next_revision: int
    """The first revision that was not applied yet."""
    cluster_id: int = 0
    """The cluster id of the etcd that was listed; 0 accepts any."""
    _collected: list[KeyChange] = field(default_factory=list)

    def connected(self) -> None:
        """Forget the fragments of the last stream: a new one starts."""
        self._collected.clear()

    def take(self, response: Response) -> Apply | Relist | Reconnect | None:
        """Decide what a response means; None when nothing follows from it yet."""
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
