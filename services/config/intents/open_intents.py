"""The intents of this process whose outcome is not recorded yet."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

from services.config.intents.change import Change
from services.config.intents.operator_log import OperatorLog, Outcome
from services.config.intents.version_entries import NewVersion, VersionSink

_log = logging.getLogger(__name__)
MAX_UNANSWERED = 64
"""Beyond it the oldest are forgotten, since each holds a config and an outage of etcd makes many. The watch still
concludes a forgotten one as written."""


@dataclass(slots=True)
class _Open:
    version: NewVersion | None
    revision: int = 0
    """The revision that etcd answered with; 0 before its answer, or without one."""


class OpenIntents:
    """Remembers intents until they are concluded, once each, by the first of several ways to learn an outcome.

    A change is in force when the watch shows its mark, or when etcd answered its revision and a list holds that
    revision: a list shows the newest mark only, and the revisions before it are never watched.
    """

    def __init__(self, operator_log: OperatorLog, versions: VersionSink | None) -> None:
        self._operator_log = operator_log
        self._versions = versions
        self._open: dict[bytes, _Open] = {}
        self._unanswered: deque[bytes] = deque()
        self._listed_revision = 0

    async def intend(self, change: Change) -> bytes:
        """Record an intent; see `OperatorLog`."""
        intent_id = await self._operator_log.intend(change)
        self._open[intent_id] = _Open(change.version)
        return intent_id

    def refused(self, intent_id: bytes) -> None:
        """Conclude that nothing was written."""
        self._open.pop(intent_id, None)
        self._operator_log.conclude(intent_id, Outcome.REFUSED)

    def unanswered(self, intent_id: bytes) -> None:
        """Conclude that etcd did not answer; the watch may still show the change, or has shown it already."""
        if intent_id not in self._open:  # proven: written-stays-written
            return
        self._unanswered.append(intent_id)
        if len(self._unanswered) > MAX_UNANSWERED:
            self._open.pop(self._unanswered.popleft(), None)
        self._operator_log.conclude(intent_id, Outcome.UNKNOWN)

    def answered(self, intent_id: bytes, revision: int) -> None:
        """Note that etcd answered with a revision; the watch has yet to show it, unless a list came before."""
        intent = self._open.get(intent_id)
        if intent is None:
            return
        intent.revision = revision
        if revision <= self._listed_revision:
            self.seen(intent_id, revision)

    def seen(self, intent_id: bytes, revision: int) -> None:
        """Conclude that a revision carries the intent's mark, written by any process."""
        self._operator_log.conclude(intent_id, Outcome.WRITTEN, revision)
        intent = self._open.pop(intent_id, None)
        if intent is None or intent.version is None or self._versions is None:
            return
        try:
            self._versions.append_soon(intent.version.entry())
        except Exception as error:  # noqa: BLE001 - one change's entry must not end the watch
            _log.error("after revision %d: %s", revision, type(error).__name__)

    def listed(self, revision: int) -> None:
        """Conclude what was answered up to a revision that a list holds: the watch does not show it any more."""
        self._listed_revision = revision
        self._conclude_answered(revision)

    def history_ended(self) -> None:
        """Conclude all that was answered: etcd was restored or exchanged, and the watch will not show it."""
        self._listed_revision = 0
        self._conclude_answered(None)

    def stop(self) -> None:
        """Conclude all that was answered: the watch ends before it has shown it."""
        self._conclude_answered(None)

    def _conclude_answered(self, up_to: int | None) -> None:
        for intent_id, intent in list(self._open.items()):
            if intent.revision and (up_to is None or intent.revision <= up_to):
                self.seen(intent_id, intent.revision)
