"""The one way live config is written: intent durable first, mark in the transaction, outcome after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.config import layout
from services.config.intent_marks import IntentMarks
from services.config.operator_log import Change, OperatorLog, Outcome
from services.config.store import ConfigStore, Expect, StoreUnavailableError, Unchanged


@dataclass(frozen=True, slots=True)
class AnnouncedWrites:
    """A store that nothing live is written to without an intent."""

    store: ConfigStore
    operator_log: OperatorLog
    marks: IntentMarks

    async def write(
        self,
        change: Change,
        conditions: Sequence[Expect | Unchanged],
        puts: Mapping[str, bytes],
        deletes: Sequence[str] = (),
    ) -> int | None:
        """Write as one revision; None when a condition did not hold.

        That it was written is concluded by whoever sees it in the watch (`AnnouncedChanges`): so it is, too, when
        this process dies before etcd's answer comes.

        Raises:
            UnavailableError: the operator audit log is not reachable; nothing was written.
            StoreUnavailableError: etcd does not answer; it may have been written.
        """
        intent_id = await self.operator_log.intend(change)
        marked = {**puts, layout.INTENT: self.marks.mark(intent_id, puts, deletes)}
        try:
            revision = await self.store.write(conditions, marked, deletes)
        except StoreUnavailableError:
            self.operator_log.conclude(intent_id, Outcome.UNKNOWN)
            raise StoreUnavailableError(
                "the config store did not answer; whether the change was written is not known: read before retrying"
            ) from None
        except BaseException:
            self.operator_log.conclude(intent_id, Outcome.UNKNOWN)
            raise
        if revision is None:
            self.operator_log.conclude(intent_id, Outcome.REFUSED)
        return revision
