"""The operator audit log: records the intent of each change before it is written, and its outcome after.

Nothing is written to etcd before its intent is durable. The audit service keeps intents and outcomes in a log of its
own, under a name that no tenant's uid can have.
"""

from __future__ import annotations

import hashlib
import os
from enum import StrEnum
from typing import Protocol

from services.common.audit.entry import OPERATOR_LOG_UID
from services.common.audit.writer import AuditEntry, AuditReceipt, EntryKind
from services.common.errors import Error, Reason, UnavailableError
from services.config.intents.change import Change

INTENT_SECONDS = 5.0
ID_BYTES = 16


class Outcome(StrEnum):
    """The outcome of an intent."""

    WRITTEN = "written"
    REFUSED = "refused"
    """Nothing was written: a condition did not hold, the store or the disk refused the change, or the caller left
    before the intent was durable."""
    UNKNOWN = "unknown"
    """etcd did not answer. If the change was written all the same, a WRITTEN entry follows."""


class EntrySink(Protocol):
    """Takes audit entries; `services.common.audit.writer.AuditWriter` implements it."""

    async def append(self, entry: AuditEntry, timeout_seconds: float) -> AuditReceipt:
        """Append an entry and wait until it is durable; raises `Error`."""
        ...

    def append_soon(self, entry: AuditEntry) -> bool:
        """Queue an entry without waiting; returns False when there is no room."""
        ...


class OperatorLog(Protocol):
    """Records intents and outcomes."""

    async def intend(self, change: Change) -> bytes:
        """Record an intent; returns its id once it is durable.

        Raises:
            UnavailableError: it may not be durable; the change must not be made.
        """
        ...

    def conclude(self, intent_id: bytes, outcome: Outcome, revision: int = 0) -> None:
        """Record the outcome of an intent; does not wait."""
        ...


class AuditedOperatorLog:
    """Records in the audit service."""

    def __init__(self, sink: EntrySink) -> None:
        self._sink = sink

    async def intend(self, change: Change) -> bytes:
        """Record an intent; see `OperatorLog`."""
        intent_id = os.urandom(ID_BYTES)
        operator = change.operator
        entry = AuditEntry(
            OPERATOR_LOG_UID,
            EntryKind.ADMIN_INTENT,
            {
                "method": change.method,
                "resource": change.resource,
                "operator": operator.name,
                "role": operator.role,
                **change.recorded_details,
            },
            {"reason": change.reason},
            record_id=intent_id,
            key_id=operator.key_id,
        )
        try:
            await self._sink.append(entry, INTENT_SECONDS)
        except BaseException as error:
            # The queued entry may still become durable; its outcome has to say that nothing was written.
            self.conclude(intent_id, Outcome.REFUSED)
            if not isinstance(error, Error):
                raise
            raise UnavailableError(
                "the operator audit log is not reachable; nothing is changed without it",
                reason=Reason.AUDIT_UNAVAILABLE,
            ) from None
        return intent_id

    def conclude(self, intent_id: bytes, outcome: Outcome, revision: int = 0) -> None:
        """Record the outcome of an intent; the same outcome twice leaves one entry."""
        said = hashlib.sha256(b"outcome\0" + intent_id + f"\0{outcome}\0{revision}".encode())
        self._sink.append_soon(
            AuditEntry(
                OPERATOR_LOG_UID,
                EntryKind.ADMIN_OUTCOME,
                {"outcome": str(outcome), "revision": revision},
                record_id=said.digest()[:ID_BYTES],
                admit_record_id=intent_id,
            )
        )


class UnauditedOperatorLog:
    """Records nothing: for a config service without an audit service, in development only."""

    async def intend(self, change: Change) -> bytes:  # noqa: ARG002 - the interface's
        """Make an id."""
        return os.urandom(ID_BYTES)

    def conclude(self, intent_id: bytes, outcome: Outcome, revision: int = 0) -> None:
        """Record nothing."""
