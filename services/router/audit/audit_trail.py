"""A request's two audit entries, by the tenant's policy.

Each entry is written by a task of the recorder's, so that a caller who leaves changes neither whether it is
written nor what it says. Requests wait for those tasks as their tenant's policy asks:

    BLOCKING_STRICT   no durable admit, no dispatch; no durable outcome, no last byte
    BLOCKING          waits a moment, then answers all the same
    BATCH             waits for nothing
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from typing import Any, Protocol

from services.common.audit.writer import AuditEntry, AuditReceipt, EntryKind
from services.common.errors import Error, Reason, UnavailableError
from services.common.rpc.interceptors import where
from services.router.audit.audit_entries import (
    admit_meta,
    answer_section,
    check_entry_sizes,
    outcome_meta,
    prompt_section,
)
from services.router.request.exchange import Exchange
from services.router.snapshot.model import Durability

_log = logging.getLogger(__name__)

_BLOCKING_SECONDS = 1.0
_STRICT_SECONDS = 5.0
_BACKGROUND_SECONDS = 30.0
_MAX_PENDING = 65_536


class AuditSink(Protocol):
    """What entries are written to: `AuditWriter`."""

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
        """Whether the audit service is there right now, as far as is known."""
        return self._sink.connected

    def trail(self, exchange: Exchange) -> AuditTrail:
        """The entries of one request.

        Raises:
            InvalidArgumentError: the request is larger than an entry may be.
            UnavailableError: too many requests wait for their entries.
        """
        check_entry_sizes(exchange)
        if len(self._pending) >= _MAX_PENDING:
            raise UnavailableError("too many audit entries are waiting", reason=Reason.AUDIT_UNAVAILABLE)
        return AuditTrail(self._sink, self._own, exchange)

    def _own(self, write: Coroutine[Any, Any, AuditReceipt | None]) -> asyncio.Task[AuditReceipt | None]:
        task = asyncio.create_task(write, name="audit entry")
        self._pending.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[AuditReceipt | None]) -> None:
        self._pending.discard(task)
        if task.cancelled():
            return
        cause = task.exception()
        if isinstance(cause, Error):
            _log.warning("an audit entry is not known to be durable: %s", cause.reason)
        elif cause is not None:
            _log.error("an audit entry failed: %s at %s", type(cause).__name__, where(cause))

    async def drain(self, timeout_seconds: float) -> int:
        """Wait for the entries being written; returns how many are not done in time."""
        if self._pending:
            await asyncio.wait(set(self._pending), timeout=timeout_seconds)
        return len(self._pending)


class Own(Protocol):
    """Starts a task that somebody else owns."""

    def __call__(self, write: Coroutine[Any, Any, AuditReceipt | None]) -> asyncio.Task[AuditReceipt | None]:
        """Start it."""
        ...


class AuditTrail:
    """One request's entries: at most one admit, and exactly one outcome for each admit that was begun."""

    def __init__(self, sink: AuditSink, own: Own, exchange: Exchange) -> None:
        self._sink = sink
        self._own = own
        self._exchange = exchange
        self._durability = exchange.caller.tenant.durability
        self._admit_record_id = os.urandom(16)
        self._admit: asyncio.Task[AuditReceipt | None] | None = None
        self._outcome: asyncio.Task[AuditReceipt | None] | None = None

    def start_admit(self) -> None:
        """Begin writing the admit entry, beside whatever the request does next."""
        self._admit = self._own(self._write_admit())

    def abandon_admit(self) -> None:
        """The request was refused at once: an admit that has not left yet never does."""
        if self._admit is not None and not self._exchange.admit_begun:
            self._admit.cancel()

    async def admitted(self) -> None:
        """Wait for the admit as the policy asks.

        Raises:
            UnavailableError: the policy asks for a durable entry and there is none.
        """
        assert self._admit is not None, "nothing was begun"
        self._exchange.admit_receipt = await self._wait(self._admit)

    def start_outcome(self, status: str) -> None:
        """Begin writing the outcome: `OK`, or the reason of the failure. Its content is fixed here.

        The admit was queued before, whatever became of waiting for it, and the writer keeps the order.
        """
        assert self._outcome is None, "a second outcome"
        exchange = self._exchange
        entry = AuditEntry(
            tenant_uid=exchange.caller.tenant.tenant_uid,
            kind=EntryKind.OUTCOME,
            meta=outcome_meta(exchange, status),
            answer=answer_section(exchange),
            admit_record_id=self._admit_record_id,
            key_id=exchange.caller.key_id,
        )
        self._outcome = self._own(self._write(entry))

    async def settled(self) -> None:
        """Wait for the outcome as the policy asks.

        Raises:
            UnavailableError: the policy asks for a durable entry and there is none.
        """
        assert self._outcome is not None, "nothing was begun"
        self._exchange.outcome_receipt = await self._wait(self._outcome)

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
        exchange = self._exchange
        exchange.admit_begun = True
        entry = AuditEntry(
            tenant_uid=exchange.caller.tenant.tenant_uid,
            kind=EntryKind.ADMIT,
            meta=admit_meta(exchange),
            prompt=prompt_section(exchange),
            record_id=self._admit_record_id,
            key_id=exchange.caller.key_id,
        )
        return await self._write(entry)

    async def _write(self, entry: AuditEntry) -> AuditReceipt | None:
        if self._durability is Durability.BATCH:
            self._sink.append_soon(entry)
            return None
        return await self._sink.append(entry, _BACKGROUND_SECONDS)
