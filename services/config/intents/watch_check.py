"""Concludes the intents of the revisions that the watch shows, and raises the alarm about revisions without one."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence

from services.config.etcd import keys as etcd_keys
from services.config.etcd.follower import Follower, KeyChange
from services.config.etcd.store import Stored
from services.config.intents.marks import IntentMarks, NoIntentError
from services.config.intents.open_intents import OpenIntents
from services.config.metrics import ConfigMetrics

_log = logging.getLogger(__name__)
_NAMED_KEYS = 5
_NAMED_REVISIONS = 20


class WatchCheck(Follower):
    """Checks each revision once: revisions seen before a list are not checked again."""

    def __init__(self, marks: IntentMarks, intents: OpenIntents, metrics: ConfigMetrics) -> None:
        self._marks = marks
        self._intents = intents
        self._metrics = metrics
        self._checked_revision = 0
        """Revisions up to it were checked; 0 in a history of etcd that was not listed yet."""

    def replace(self, items: Mapping[str, Stored], revision: int) -> None:
        """Check a list: conclude its newest mark again, since its writer may have died before it did so.

        A list does not show whether revisions before that mark had an intent.
        """
        self._intents.listed(revision)
        mark = items.get(etcd_keys.INTENT)
        marked_revision = mark.mod_revision if mark else 0
        if marked_revision > self._checked_revision:
            newest = [
                KeyChange(key, stored, stored.mod_revision)
                for key, stored in items.items()
                if stored.mod_revision == marked_revision
            ]
            self._check(marked_revision, newest, listed=True)
        since = max(marked_revision, self._checked_revision)
        later = sorted(  # proven: lists-are-checked
            (stored.mod_revision, key) for key, stored in items.items() if stored.mod_revision > since
        )
        groups = itertools.groupby(later, lambda found: found[0])
        unmarked = [(number, [key for _, key in group]) for number, group in groups]
        for number, keys in unmarked[:_NAMED_REVISIONS]:
            self._alarm(number, keys, "it carries no mark")
        if more := len(unmarked[_NAMED_REVISIONS:]):
            # An etcd restored from elsewhere has thousands of them: one line reports the rest.
            self._metrics.revisions_without_intent.inc(more)
            _log.error(
                "ALARM: %d more revisions up to %d were written around the operator audit log: they carry no mark",
                more,
                unmarked[-1][0],
            )
        self._checked_revision = revision

    def apply(self, changes: Sequence[KeyChange], revision: int) -> None:
        """Check whole revisions."""
        for number, group in itertools.groupby(changes, lambda change: change.mod_revision):
            self._check(number, list(group), listed=False)
        self._checked_revision = revision

    def _check(self, revision: int, changes: list[KeyChange], *, listed: bool) -> None:
        check = self._marks.intent_in_list if listed else self._marks.intent_of
        try:
            intent_id = check(changes, revision)
        except NoIntentError as error:
            self._alarm(revision, [change.key for change in changes], str(error))
        else:
            self._intents.seen(intent_id, revision)

    def _alarm(self, revision: int, keys: list[str], why: str) -> None:
        self._metrics.revisions_without_intent.inc()
        named = ", ".join(etcd_keys.relative(key) for key in keys[:_NAMED_KEYS])
        _log.error(
            "ALARM: revision %d was written around the operator audit log: %s: %s", revision, why, named
        )

    def history_ended(self) -> None:
        """Start anew: etcd was restored or exchanged."""
        self._intents.history_ended()
        self._marks.history_ended()
        self._checked_revision = 0
