"""Writes a request's two audit entries, as the tenant's policy asks.

Each entry is written by a task of the recorder, so that a caller that leaves changes neither whether it is written nor
what it contains. Requests wait for those tasks by policy:

    BLOCKING_STRICT   no durable admit, no dispatch; no durable outcome, no last byte
    BLOCKING          waits up to a second for each, then goes on without
    BATCH             waits for nothing
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from functools import partial
from typing import Any, Protocol

from services.common.audit.entry import RECORD_ID_BYTES, AuditEntry, AuditReceipt, EntryKind
from services.common.errors import Error, Reason, UnavailableError
from services.common.rpc.interceptors import where
from services.router.audit.entry_sections import (
    admit_meta,
    answer_section,
    check_entry_sizes,
    outcome_meta,
    prompt_section,
)
from services.router.snapshot.model import Durability
from services.router.stages import Answered, Shaped, Stage

_log = logging.getLogger(__name__)

_BLOCKING_SECONDS = 1.0
_STRICT_SECONDS = 5.0
_BACKGROUND_SECONDS = 30.0
_MAX_PENDING = 65_536


class AuditSink(Protocol):
    """Takes entries: `AuditWriter`."""

    connected: bool

    async def append(self, entry: AuditEntry, timeout_seconds: float) -> AuditReceipt:
        """Append and wait until it is durable; raises `Error`."""
        ...

    def append_soon(self, entry: AuditEntry) -> bool:
        """Queue without waiting; False when there is no room."""
        ...


class AuditRecorder:
    """Owns the tasks that write entries."""

    def __init__(self, sink: AuditSink) -> None:
        self._sink = sink
        self._pending: set[asyncio.Task[AuditReceipt | None]] = set()

    @property
    def reachable(self) -> bool:
        """Whether the stream to the audit service is open right now."""
        return self._sink.connected

    def start(self, shaped: Shaped) -> RequestRecord:
        """Begin the entries of one request: the admit is written beside the request's next steps.

        Raises:
            InvalidArgumentError: the request is larger than an entry may be.
            UnavailableError: too many requests wait for their entries.
        """
        prompt_json = check_entry_sizes(shaped)
        if len(self._pending) >= _MAX_PENDING:
            raise UnavailableError("too many audit entries are waiting", reason=Reason.AUDIT_UNAVAILABLE)
        own = partial(self._own, shaped.identified.request_id)
        return RequestRecord(self._sink, own, shaped, prompt_json)

    def _own(
        self, request_id: str, write: Coroutine[Any, Any, AuditReceipt | None]
    ) -> asyncio.Task[AuditReceipt | None]:
        task = asyncio.create_task(write, name="audit entry")
        self._pending.add(task)
        task.add_done_callback(partial(self._ended, request_id))
        return task

    def _ended(self, request_id: str, task: asyncio.Task[AuditReceipt | None]) -> None:
        self._pending.discard(task)
        if task.cancelled():
            return
        cause = task.exception()
        if isinstance(cause, Error):
            _log.warning(
                "request %s: an audit entry is not known to be durable: %s", request_id, cause.reason
            )
        elif cause is not None:
            _log.error(
                "request %s: an audit entry failed: %s at %s", request_id, type(cause).__name__, where(cause)
            )

    async def drain(self, timeout_seconds: float) -> int:
        """Wait for the entries being written; returns how many are not done in time."""
        if self._pending:
            await asyncio.wait(set(self._pending), timeout=timeout_seconds)
        return len(self._pending)


class Own(Protocol):
    """Starts a task that the recorder owns."""

    def __call__(self, write: Coroutine[Any, Any, AuditReceipt | None]) -> asyncio.Task[AuditReceipt | None]:
        """Start it."""
        ...


class RequestRecord:
    """One request's entries: at most one admit, and exactly one outcome for each admit that was begun."""

    def __init__(self, sink: AuditSink, own: Own, shaped: Shaped, prompt_json: bytes | None) -> None:
        """Begin writing the admit entry; `prompt_json` is its prompt section, where that is in JSON already."""
        self._sink = sink
        self._own = own
        self._shaped = shaped
        self._prompt_json = prompt_json
        self._durability = shaped.tenant.durability
        self._admit_record_id = os.urandom(RECORD_ID_BYTES)
        self._admit_begun = False
        self._admit = own(self._write_admit())

    @property
    def begun(self) -> bool:
        """Whether an admit entry may have left: from here on there must be an outcome entry."""
        return self._admit_begun

    async def admitted(self) -> AuditReceipt | None:
        """Wait for the admit as the policy asks.

        Raises:
            UnavailableError: the policy asks for a durable entry and there is none.
        """
        return await self._wait(self._admit)

    def fail(self, reached: Stage, status: str, ended_at: float) -> None:
        """Begin writing the outcome of a request that failed; or, if its admit has not left yet, write neither.

        Args:
            reached: the last stage; the outcome's content is fixed here.
            status: the reason of the failure.
            ended_at: seconds of the monotonic clock.
        """
        if self._admit_begun:
            self._start_outcome(reached, status, ended_at)
        else:
            self._admit.cancel()

    async def succeed(self, answered: Answered, ended_at: float) -> AuditReceipt | None:
        """Write the outcome of a request that was answered, and wait for it as the policy asks.

        Raises:
            UnavailableError: the policy asks for a durable entry and there is none.
        """
        return await self._wait(self._start_outcome(answered, "OK", ended_at))

    def _start_outcome(
        self, reached: Stage, status: str, ended_at: float
    ) -> asyncio.Task[AuditReceipt | None]:
        # The admit was queued before, even if the wait for it failed, and the writer keeps the order.
        entry = AuditEntry(
            tenant_uid=self._shaped.tenant.tenant_uid,
            kind=EntryKind.OUTCOME,
            meta=outcome_meta(self._shaped, reached, status, ended_at),
            answer=answer_section(reached),
            admit_record_id=self._admit_record_id,
            key_id=self._shaped.identified.key_id,
        )
        return self._own(self._write(entry))

    async def _wait(self, writing: asyncio.Task[AuditReceipt | None]) -> AuditReceipt | None:
        if self._durability is Durability.BATCH:
            return None
        seconds = _BLOCKING_SECONDS if self._durability is Durability.BLOCKING else _STRICT_SECONDS
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(writing)
        except (Error, TimeoutError):
            if self._durability is Durability.BLOCKING:
                return None
            raise UnavailableError(
                "the tenant's audit policy asks for a durable entry", reason=Reason.AUDIT_UNAVAILABLE
            ) from None

    async def _write_admit(self) -> AuditReceipt | None:
        self._admit_begun = True
        shaped = self._shaped
        entry = AuditEntry(
            tenant_uid=shaped.tenant.tenant_uid,
            kind=EntryKind.ADMIT,
            meta=admit_meta(shaped),
            prompt=prompt_section(shaped.shape) if self._prompt_json is None else self._prompt_json,
            record_id=self._admit_record_id,
            key_id=shaped.identified.key_id,
        )
        return await self._write(entry)

    async def _write(self, entry: AuditEntry) -> AuditReceipt | None:
        if self._durability is Durability.BATCH:
            self._sink.append_soon(entry)
            return None
        return await self._sink.append(entry, _BACKGROUND_SECONDS)
