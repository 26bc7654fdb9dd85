"""The only way to write live config: record the intent durably, write with a mark, record the outcome.

docs/adr/0009-operator-intents.md gives the reasons for the three steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from services.common.clock import Clock
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import NOTHING_WRITTEN, ConfigStore, Expect, StoreUnavailableError, Unchanged
from services.config.intents.change import Change
from services.config.intents.marks import IntentMarks
from services.config.intents.open_intents import OpenIntents
from services.config.intents.operator_log import AuditedOperatorLog, EntrySink, UnauditedOperatorLog
from services.config.intents.watch_check import WatchCheck
from services.config.metrics import ConfigMetrics


class Intents:
    """Writes changes, and concludes them when the watch shows them.

    `watch_check` has to follow the watch after the state, so that a change is in force before its outcome is recorded.
    """

    def __init__(
        self,
        store: ConfigStore,
        audit: EntrySink | None,
        mark_key: bytes,
        clock: Clock,
        metrics: ConfigMetrics,
    ) -> None:
        """Start without open intents.

        Args:
            store: where changes are written.
            audit: takes the operator audit log and the tenants' config versions; None records neither.
            mark_key: authenticates marks; the same for every config service over one etcd.
            clock: gives marks their time.
            metrics: counts revisions without an intent.
        """
        self._store = store
        self._marks = IntentMarks(mark_key, clock)
        self._open = OpenIntents(AuditedOperatorLog(audit) if audit else UnauditedOperatorLog(), audit)
        self._running: set[asyncio.Task[int | None]] = set()
        self.watch_check = WatchCheck(self._marks, self._open, metrics)
        """The follower that concludes intents and raises the alarm."""

    async def write(
        self,
        change: Change,
        conditions: Sequence[Expect | Unchanged],
        puts: Mapping[str, bytes],
        deletes: Sequence[str] = (),
    ) -> int | None:
        """Write a change as one revision; None when a condition did not hold.

        The watch concludes that the change was written, even when this process dies before etcd's answer arrives. When
        the caller is cancelled before the intent is durable, nothing is written; later, the write goes on.

        Raises:
            UnavailableError: the operator audit log is not reachable; nothing was written.
            StoreUnavailableError: etcd does not answer; it may have been written.
        """
        intent_id = await self._open.intend(change)  # proven: intent-before-write
        task = asyncio.create_task(self._written(intent_id, conditions, puts, deletes), name="write-change")
        self._running.add(task)
        task.add_done_callback(self._ended)
        # Unlike awaiting the task, this does not cancel it with the caller: a write under way gets its outcome.
        await asyncio.wait({task})
        return task.result()

    async def finish(self, within_seconds: float) -> None:
        """Wait for the outcomes of writes under way; call it before the operator log and the watch end."""
        running = set(self._running)
        if running:
            await asyncio.wait(running, timeout=within_seconds)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._open.stop()

    async def _written(
        self,
        intent_id: bytes,
        conditions: Sequence[Expect | Unchanged],
        puts: Mapping[str, bytes],
        deletes: Sequence[str],
    ) -> int | None:
        marked = {**puts, etcd_keys.INTENT: self._marks.mark(intent_id, puts, deletes)}
        try:
            revision = await self._store.write(conditions, marked, deletes)
        except StoreUnavailableError:
            self._open.unanswered(intent_id)
            raise StoreUnavailableError(
                "the config store did not answer; whether the change was written is not known: read before retrying"
            ) from None
        except NOTHING_WRITTEN:
            self._open.refused(intent_id)  # proven: refused-where-nothing-was-written
            raise
        except BaseException:
            self._open.unanswered(intent_id)
            raise
        if revision is None:
            self._open.refused(intent_id)
        else:
            self._open.answered(intent_id, revision)
        return revision

    def _ended(self, task: asyncio.Task[int | None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # Retrieves the exception when no caller waits any more, so that asyncio does not log it as lost.
            task.exception()
