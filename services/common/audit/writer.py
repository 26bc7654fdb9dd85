"""Writes audit entries over one long-lived stream. Routers and the config service use it.

A queued entry is sent even if the call that queued it ends. After a broken connection it is sent again, and the audit
service recognises it by session, sequence and record id.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from tenantry.audit.v1 import audit_append_service_pb2 as pb
from tenantry.audit.v1 import audit_append_service_pb2_grpc, entry_pb2

from services.common.audit.entry import AuditEntry, AuditReceipt, AuditUnavailableError, EntryKind
from services.common.audit.turns import TenantTurns
from services.common.backoff import Backoff
from services.common.canonical_json import canonical_json
from services.common.errors import Error, Reason
from services.common.rpc.status import from_status

__all__ = ["AuditEntry", "AuditReceipt", "AuditUnavailableError", "AuditWriter", "EntryKind"]

_log = logging.getLogger(__name__)
MAX_MESSAGE_ENTRIES = 256
MAX_MESSAGE_BYTES = 2 << 20
MAX_KEPT_BYTES = 64 << 20
MAX_KEPT_ENTRIES = 65_536
CONNECT_SECONDS = 5.0
RESEND_SECONDS = 0.1
"""How long an entry waits before it is sent again when the service's queue was full."""
_LAST_ACKS_SECONDS = 1.0
_SESSION_ID_BYTES = 16


@dataclass(slots=True)
class _Kept:
    message: entry_pb2.AppendEntry
    size_bytes: int
    done: asyncio.Future[AuditReceipt]


@dataclass(slots=True)
class _Share:
    entries: int = 0
    size_bytes: int = 0

    def add(self, entries: int, size_bytes: int) -> None:
        self.entries += entries
        self.size_bytes += size_bytes


class AuditWriter:
    """One session of one writer. Use it as an async context manager, or own `run` as a task.

    Every wait for an entry ends: with its receipt, its refusal, the caller's deadline, or the end of `run`.
    """

    def __init__(self, channel: grpc.aio.Channel, writer: str) -> None:
        self._stub = audit_append_service_pb2_grpc.AuditAppendServiceStub(channel)
        self._writer = writer
        self._session_id = os.urandom(_SESSION_ID_BYTES)
        self._kept: dict[int, _Kept] = {}
        """Entries that are not settled, by sequence."""
        self._kept_bytes = 0
        self._held: dict[str, _Share] = {}
        """What each tenant has of the entries that are kept."""
        self._to_send = TenantTurns()
        """Sequences that were not sent over the open stream yet."""
        self._returned: list[int] = []
        """Sequences that were refused by a full queue and wait for `RESEND_SECONDS`."""
        self._sequence = 0
        self._ended = False
        self._unsent = asyncio.Event()
        self._dropped: dict[str, int] = {}
        self._newest: dict[str, entry_pb2.Receipt] = {}
        self.connected = False
        """Whether the stream is open right now."""

    async def append(self, entry: AuditEntry, timeout_seconds: float) -> AuditReceipt:
        """Append and wait until the entry is durable. A cancelled wait leaves the entry queued.

        An entry for which there is no room is dropped and counted in a gap entry.

        Raises:
            AuditUnavailableError: not known to be durable in time, too much is waiting, or `run` has ended.
            Error: the audit service refused the entry.
        """
        if self._ended:
            raise _stopped()
        kept = self._keep(entry)
        if kept is None:
            self._drop(entry)
            raise AuditUnavailableError("too many audit entries of the tenant are waiting")
        try:
            async with asyncio.timeout(timeout_seconds):
                return await asyncio.shield(kept.done)
        except TimeoutError:
            raise AuditUnavailableError("the audit service did not answer in time") from None

    def append_soon(self, entry: AuditEntry) -> bool:
        """Queue without waiting. Returns False when there is no room; a gap entry counts the dropped entries."""
        if self._ended or self._keep(entry) is None:
            self._drop(entry)
            return False
        return True

    def _drop(self, entry: AuditEntry) -> None:
        self._dropped[entry.tenant_uid] = self._dropped.get(entry.tenant_uid, 0) + 1

    async def run(self) -> None:
        """Keep the stream open until cancelled.

        Its end ends every wait with `AuditUnavailableError`; those entries may be durable or not.
        """
        backoff = Backoff(0.05, 2.0)
        self._ended = False
        try:
            while True:
                try:
                    await self._stream(backoff)
                except (grpc.RpcError, TimeoutError, _StreamEndedError) as error:
                    _log.warning("audit stream ended: %s", type(error).__name__)
                finally:
                    self.connected = False
                await asyncio.sleep(backoff.next_delay_seconds())
        finally:
            self._ended = True
            for kept in self._kept.values():
                if not kept.done.done():
                    kept.done.set_exception(_stopped())  # proven: end-reaches-waiters

    async def flush(self, timeout_seconds: float) -> int:
        """Wait until all queued entries are settled. Returns how many are not."""
        waiting = [kept.done for kept in self._kept.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_seconds)
        return len(self._kept)

    async def __aenter__(self) -> Self:
        """Start writing."""
        self._task = asyncio.create_task(self.run(), name="audit-writer")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait up to a second for queued entries, then stop."""
        await self.flush(1.0)
        self._task.cancel()
        (end,) = await asyncio.gather(self._task, return_exceptions=True)
        if isinstance(end, Exception):
            raise end

    def _keep(self, entry: AuditEntry) -> _Kept | None:
        sections = [_spelled(section) for section in (entry.meta, entry.prompt, entry.answer)]
        size = sum(len(section) for section in sections) + 256
        if not self._has_room(entry.tenant_uid, size):
            return None
        self._sequence += 1
        message = entry_pb2.AppendEntry(
            sequence=self._sequence,
            tenant_uid=entry.tenant_uid,
            record_id=entry.record_id,
            kind=entry_pb2.EntryKind.ValueType(entry.kind),
            meta_json=sections[0],
            prompt_json=sections[1],
            answer_json=sections[2],
            admit_record_id=entry.admit_record_id,
            key_id=entry.key_id,
        )
        done: asyncio.Future[AuditReceipt] = asyncio.get_running_loop().create_future()
        # A refusal is logged when it comes, so asyncio need not complain that it was never awaited.
        done.add_done_callback(lambda future: future.cancelled() or future.exception())
        kept = self._kept[self._sequence] = _Kept(message, size, done)
        self._to_send.add(entry.tenant_uid, self._sequence)
        self._kept_bytes += size
        self._held.setdefault(entry.tenant_uid, _Share()).add(1, size)
        self._unsent.set()
        return kept

    def _has_room(self, tenant_uid: str, size_bytes: int) -> bool:
        """Whether one more entry of a tenant fits: a tenant may have as much as is left for others.

        One alone may fill half, two a third each, and so on: there is always room for one more (the dynamic thresholds
        of Choudhury and Hahne, IEEE/ACM ToN 6(2), 1998, with alpha 1).
        """
        left_bytes = MAX_KEPT_BYTES - self._kept_bytes
        left_entries = MAX_KEPT_ENTRIES - len(self._kept)
        held = self._held.get(tenant_uid)
        if held is None:
            return size_bytes <= left_bytes and left_entries > 0
        return (
            held.size_bytes + size_bytes <= left_bytes and held.entries < left_entries
        )  # proven: a-share-each

    async def _stream(self, backoff: Backoff) -> None:
        call = self._stub.Append()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                hello = pb.SessionHello(
                    writer=self._writer,
                    session_id=self._session_id,
                    newest_receipts=list(self._newest.values()),
                    lowest_unsettled_sequence=min(self._kept, default=self._sequence + 1),
                )
                await call.write(pb.AppendRequest(hello=hello))
                welcome = await call.read()
            if not isinstance(welcome, pb.AppendResponse) or not welcome.HasField("welcome"):
                raise _StreamEndedError
            self.connected = True
            backoff.reset()
            self._to_send.clear()
            for sequence, kept in self._kept.items():
                self._to_send.add(kept.message.tenant_uid, sequence)
            self._returned.clear()
            self._unsent.set()
            await self._exchange(call)
        finally:
            call.cancel()

    async def _exchange(self, call: Any) -> None:
        """Send and receive until one of them ends, which ends the stream."""
        sender = asyncio.create_task(self._send(call), name="audit-writer-send")
        receiver = asyncio.create_task(self._receive(call), name="audit-writer-receive")
        try:
            await asyncio.wait((sender, receiver), return_when=asyncio.FIRST_COMPLETED)
            # The end of the sender ends the stream, but acks that came before it still count.
            await asyncio.wait((receiver,), timeout=_LAST_ACKS_SECONDS)
        finally:
            sender.cancel()
            receiver.cancel()
            ends = await asyncio.gather(receiver, sender, return_exceptions=True)
        for end in ends:
            # A write to a call that is over raises InvalidStateError.
            if isinstance(end, Exception) and not isinstance(end, asyncio.InvalidStateError):
                raise end
        raise _StreamEndedError

    async def _send(self, call: Any) -> None:
        while True:
            await self._unsent.wait()
            self._unsent.clear()
            self._note_gaps()
            batch: list[entry_pb2.AppendEntry] = []
            size = 0
            while self._to_send:
                kept = self._kept.get(self._to_send.take())
                if kept is None:
                    continue
                if batch and (
                    len(batch) >= MAX_MESSAGE_ENTRIES or size + kept.size_bytes > MAX_MESSAGE_BYTES
                ):
                    await call.write(pb.AppendRequest(batch=pb.EntryBatch(entries=batch)))
                    batch, size = [], 0
                batch.append(kept.message)
                size += kept.size_bytes
            if batch:
                await call.write(pb.AppendRequest(batch=pb.EntryBatch(entries=batch)))

    def _note_gaps(self) -> None:
        for tenant_uid, dropped in list(self._dropped.items()):
            if self._keep(
                AuditEntry(tenant_uid, EntryKind.GAP, {"dropped": dropped, "writer": self._writer})
            ):
                del self._dropped[tenant_uid]

    async def _receive(self, call: Any) -> None:
        while True:
            response = await call.read()
            if response is grpc.aio.EOF:
                raise _StreamEndedError
            for ack in response.acks.acks:
                self._settle(ack)
            if self._dropped:
                self._unsent.set()

    def _settle(self, ack: pb.Ack) -> None:
        if ack.HasField("error"):
            error: Error = from_status(ack.error)
            if error.reason is Reason.QUEUE_FULL:
                if ack.sequence in self._kept:
                    if not self._returned:
                        asyncio.get_running_loop().call_later(RESEND_SECONDS, self._send_again)
                    self._returned.append(ack.sequence)
                return
        kept = self._kept.pop(ack.sequence, None)
        if kept is None:
            return
        self._kept_bytes -= kept.size_bytes
        held = self._held[kept.message.tenant_uid]
        held.add(-1, -kept.size_bytes)
        if not held.entries:
            del self._held[kept.message.tenant_uid]
        if ack.HasField("error"):
            _log.error("audit entry refused: %s", error.reason)
            if not kept.done.done():
                kept.done.set_exception(error)
            return
        receipt = ack.receipt
        known = self._newest.get(receipt.log_id)
        if known is None or receipt.index > known.index:
            self._newest[receipt.log_id] = receipt
        if not kept.done.done():
            kept.done.set_result(AuditReceipt(receipt.log_id, receipt.index, receipt.leaf_hash))

    def _send_again(self) -> None:
        # They were first sent before the entries that still wait, so they go first again.
        by_tenant: dict[str, list[int]] = {}
        for sequence in sorted(self._returned):
            if (kept := self._kept.get(sequence)) is not None:
                by_tenant.setdefault(kept.message.tenant_uid, []).append(sequence)
        for tenant_uid, sequences in by_tenant.items():
            self._to_send.add_first(tenant_uid, sequences)
        self._returned.clear()
        self._unsent.set()


def _spelled(section: Mapping[str, Any] | bytes | None) -> bytes:
    if section is None:
        return b""
    return section if isinstance(section, bytes) else canonical_json(dict(section))


def _stopped() -> AuditUnavailableError:
    return AuditUnavailableError("the audit writer has stopped")


class _StreamEndedError(Exception):
    """The audit service ended the stream."""
