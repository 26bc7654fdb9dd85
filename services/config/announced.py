"""Follows the watch beside the state: concludes intents that came true, raises the alarm on what nobody intended."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable

from services.config import layout
from services.config.etcd.watch import Follower
from services.config.etcd.watch_state import Change
from services.config.intent_marks import IntentMarks
from services.config.metrics import ConfigMetrics
from services.config.open_intents import OpenIntents
from services.config.store import Stored

_log = logging.getLogger(__name__)
_NAMED_KEYS = 5


class AnnouncedChanges:
    """A `Follower` that passes everything on. What it has seen once it does not check again after a new list."""

    def __init__(
        self, follower: Follower, marks: IntentMarks, intents: OpenIntents, metrics: ConfigMetrics
    ) -> None:
        self._follower = follower
        self._marks = marks
        self._intents = intents
        self._metrics = metrics

    def replace(self, items: dict[str, Stored], revision: int) -> None:
        """The whole state. Its newest mark's outcome is told again: whoever wrote it may have died before."""
        self._follower.replace(items, revision)
        self._intents.listed(revision)
        mark = items.get(layout.INTENT)
        if mark is None:
            return
        newest = [
            Change(key, stored, stored.mod_revision)
            for key, stored in items.items()
            if stored.mod_revision == mark.mod_revision
        ]
        intent_id = self._marks.intent_of(newest)
        # A revision that deleted keys too cannot be checked from a list; it was when it came, or by another.
        if intent_id is not None:
            self._intents.seen(intent_id, mark.mod_revision)

    def apply(self, changes: Iterable[Change], revision: int) -> None:
        """Whole revisions."""
        changes = list(changes)
        self._follower.apply(changes, revision)
        for number, group in itertools.groupby(changes, lambda change: change.mod_revision):
            self._check(number, list(group))

    def _check(self, revision: int, changes: list[Change]) -> None:
        intent_id = self._marks.intent_of(changes)
        if intent_id is not None:
            self._intents.seen(intent_id, revision)
            return
        self._metrics.unannounced.inc()
        keys = ", ".join(layout.relative(change.key) for change in changes[:_NAMED_KEYS])
        _log.error("ALARM: revision %d was written around the operator audit log: %s", revision, keys)

    def history_ended(self) -> None:
        """Etcd was restored or exchanged."""
        self._follower.history_ended()
        self._intents.history_ended()

    def heard(self) -> None:
        """Etcd gave a sign of life."""
        self._follower.heard()

    def lost(self) -> None:
        """The connection to etcd is gone."""
        self._follower.lost()
