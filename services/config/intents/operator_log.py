"""The operator audit log: what an operator is about to change, before it happens, and what became of it.

Nothing is written to etcd whose intent is not durable. Intents and outcomes stand in a log of their own in the
audit service, under a name no tenant's uid can have.
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
    """What became of an intent."""

    WRITTEN = "written"
    REFUSED = "refused"
    """Nothing was written: a condition did not hold, or nobody waited for the intent until it was durable."""
    UNKNOWN = "unknown"
    """Etcd did not answer. If it was written all the same, an entry that says so follows."""


class EntrySink(Protocol):
    """Where entries go; `services.common.audit.writer.AuditWriter` is one."""

    async def append(self, entry: AuditEntry, timeout_seconds: float) -> AuditReceipt:
        """Append and wait until it is durable; raises `Error`."""
        ...

    def append_soon(self, entry: AuditEntry) -> bool:
        """Queue without waiting; False when there is no room."""
        ...


class OperatorLog(Protocol):
    """Intents and outcomes."""

    async def intend(self, change: Change) -> bytes:
        """Record an intent; returns its id once it is durable.

        Raises:
            UnavailableError: it is not known to be durable; the change must not be made.
        """
        ...

    def conclude(self, intent_id: bytes, outcome: Outcome, revision: int = 0) -> None:
        """Record what became of an intent; does not wait."""
        ...


class AuditedOperatorLog:
    """Writes to the audit service."""

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
            # What was queued may become durable yet, and nothing follows from it.
            self.conclude(intent_id, Outcome.REFUSED)
            if not isinstance(error, Error):
                raise
            raise UnavailableError(
                "the operator audit log is not reachable, and nothing is changed without it",
                reason=Reason.AUDIT_UNAVAILABLE,
            ) from None
        return intent_id

    def conclude(self, intent_id: bytes, outcome: Outcome, revision: int = 0) -> None:
        """Record what became of an intent. Saying the same twice leaves one entry."""
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
    """For a config service that is given no audit service: development only."""

    async def intend(self, change: Change) -> bytes:  # noqa: ARG002 - nobody is told
        """Mint an id."""
        return os.urandom(ID_BYTES)

    def conclude(self, intent_id: bytes, outcome: Outcome, revision: int = 0) -> None:
        """Say nothing."""
