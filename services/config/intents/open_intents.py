"""This process's intents whose outcome is not in the operator log yet, and what is to be done once they came true."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from services.config.intents.operator_log import Change, OperatorLog, Outcome

_log = logging.getLogger(__name__)
MAX_UNANSWERED = 64
"""Beyond it the oldest are forgotten: each holds a config, and an outage of etcd makes many. One that turns up in the
watch after all is still concluded as written."""
OnWritten = Callable[[], None]


@dataclass(slots=True)
class _Open:
    on_written: OnWritten
    revision: int = 0
    """What etcd answered; 0 before, or when it did not."""


class OpenIntents:
    """The operator log with a memory, so that an outcome is told however it comes to be known.

    An edit came true when the watch shows its mark, or when etcd answered its revision and a list holds that revision:
    a list shows the newest mark only, and the revisions before it are never watched.
    """

    def __init__(self, operator_log: OperatorLog) -> None:
        self._operator_log = operator_log
        self._open: dict[bytes, _Open] = {}
        self._unanswered: deque[bytes] = deque()
        self._listed_revision = 0

    async def intend(self, change: Change, on_written: OnWritten = lambda: None) -> bytes:
        """Record an intent; see `OperatorLog`. `on_written` is called once, when the edit came true."""
        intent_id = await self._operator_log.intend(change)
        self._open[intent_id] = _Open(on_written)
        return intent_id

    def refused(self, intent_id: bytes) -> None:
        """Nothing was written."""
        self._open.pop(intent_id, None)
        self._operator_log.conclude(intent_id, Outcome.REFUSED)

    def unanswered(self, intent_id: bytes) -> None:
        """Etcd did not answer; the watch may still show it."""
        self._unanswered.append(intent_id)
        if len(self._unanswered) > MAX_UNANSWERED:
            self._open.pop(self._unanswered.popleft(), None)
        self._operator_log.conclude(intent_id, Outcome.UNKNOWN)

    def answered(self, intent_id: bytes, revision: int) -> None:
        """Etcd answered that it was written; the watch has yet to show it, unless a list came before."""
        intent = self._open.get(intent_id)
        if intent is None:
            return
        intent.revision = revision
        if revision <= self._listed_revision:
            self.seen(intent_id, revision)

    def seen(self, intent_id: bytes, revision: int) -> None:
        """A revision carries the intent's mark, whoever wrote it."""
        self._operator_log.conclude(intent_id, Outcome.WRITTEN, revision)
        intent = self._open.pop(intent_id, None)
        if intent is None:
            return
        try:
            intent.on_written()
        except Exception as error:  # noqa: BLE001 - the watch goes on, whatever an edit's own work comes to
            _log.error("after revision %d: %s", revision, type(error).__name__)

    def listed(self, revision: int) -> None:
        """Everything up to a revision is in force; what was written until then is not going to be watched."""
        self._listed_revision = revision
        self._conclude_answered(revision)

    def history_ended(self) -> None:
        """Etcd was restored or exchanged: what it answered until now the watch is not going to show."""
        self._listed_revision = 0
        self._conclude_answered(None)

    def stop(self) -> None:
        """The watch ends before it has shown everything that etcd answered."""
        self._conclude_answered(None)

    def _conclude_answered(self, up_to: int | None) -> None:
        for intent_id, intent in list(self._open.items()):
            if intent.revision and (up_to is None or intent.revision <= up_to):
                self.seen(intent_id, intent.revision)
