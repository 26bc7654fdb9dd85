"""The one way live config is written: intent durable first, mark in the transaction, outcome after."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import ConfigStore, Expect, StoreUnavailableError, Unchanged
from services.config.intents.marks import IntentMarks
from services.config.intents.open_intents import OnWritten, OpenIntents
from services.config.intents.operator_log import Change


@dataclass(frozen=True, slots=True)
class AnnouncedWrites:
    """A store that nothing live is written to without an intent."""

    store: ConfigStore
    intents: OpenIntents
    marks: IntentMarks
    _running: set[asyncio.Task[int | None]] = field(default_factory=set)

    async def write(
        self,
        change: Change,
        conditions: Sequence[Expect | Unchanged],
        puts: Mapping[str, bytes],
        deletes: Sequence[str] = (),
        on_written: OnWritten = lambda: None,
    ) -> int | None:
        """Write as one revision; None when a condition did not hold.

        That it was written is concluded by whoever sees it in the watch (`AnnouncedChanges`): so it is, too, when
        this process dies before etcd's answer comes. A caller that goes away before the intent is durable leaves
        nothing written; one that goes away later changes nothing. `on_written` is called once it is in force.

        Raises:
            UnavailableError: the operator audit log is not reachable; nothing was written.
            StoreUnavailableError: etcd does not answer; it may have been written.
        """
        intent_id = await self.intents.intend(change, on_written)
        task = asyncio.create_task(
            self._written(intent_id, conditions, puts, deletes), name="announced-write"
        )
        self._running.add(task)
        task.add_done_callback(self._ended)
        # Waiting for it, cancelled, does not cancel it: an edit on its way to etcd is brought to its outcome.
        await asyncio.wait({task})
        return task.result()

    async def finish(self, within_seconds: float) -> None:
        """Bring what is on its way to an outcome, before the operator log and the watch end."""
        running = set(self._running)
        if running:
            await asyncio.wait(running, timeout=within_seconds)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self.intents.stop()

    async def _written(
        self,
        intent_id: bytes,
        conditions: Sequence[Expect | Unchanged],
        puts: Mapping[str, bytes],
        deletes: Sequence[str],
    ) -> int | None:
        marked = {**puts, etcd_keys.INTENT: self.marks.mark(intent_id, puts, deletes)}
        try:
            revision = await self.store.write(conditions, marked, deletes)
        except StoreUnavailableError:
            self.intents.unanswered(intent_id)
            raise StoreUnavailableError(
                "the config store did not answer; whether the change was written is not known: read before retrying"
            ) from None
        except BaseException:
            self.intents.unanswered(intent_id)
            raise
        if revision is None:
            self.intents.refused(intent_id)
        else:
            self.intents.answered(intent_id, revision)
        return revision

    def _ended(self, task: asyncio.Task[int | None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # Heard of here, too, when nobody waits for it any more.
            task.exception()
