"""Group commit: entries from every writer, in fair order, one durable batch after another.

A batch is whatever waits when the disk becomes idle, up to 256 entries or 1 MiB; tenants take turns, and each may
have only so much waiting, so that one tenant's flood does not become everybody's latency.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from services.audit.file_ops import die_of_write
from services.audit.frame import SessionMark
from services.audit.log import NewEntry, Receipt, RecordConflictError
from services.audit.store import LogStore
from services.common.errors import Reason, ResourceExhaustedError

MAX_BATCH_ENTRIES = 256
MAX_BATCH_BYTES = 1 << 20
MAX_TENANT_WAITING_BYTES = 16 << 20
MAX_WAITING_BYTES = 128 << 20
CHECKPOINT_SECONDS = 1.0
FOLD_SECONDS = 30.0

T = TypeVar("T")
Result = Receipt | RecordConflictError


class WriterSession:
    """Which sequences of a writer's session are settled: durable, or refused for good.

    Tenants take turns, so a writer's entries do not become durable in its own order. Only what is settled without
    a hole may be promised as durable after a restart.
    """

    def __init__(self, session_id: bytes, durable_sequence: int) -> None:
        self.session_id = session_id
        self.durable_sequence = durable_sequence
        self.writer = ""
        """The writer's name, once it has said it."""
        self._ahead: set[int] = set()

    def settle(self, sequence: int) -> None:
        """Count a sequence as settled."""
        if sequence > self.durable_sequence:
            self._ahead.add(sequence)
        while self.durable_sequence + 1 in self._ahead:
            self.durable_sequence += 1
            self._ahead.remove(self.durable_sequence)

    def mark(self) -> SessionMark:
        """What the journal records."""
        return SessionMark(self.session_id, self.durable_sequence)


@dataclass(slots=True)
class _Waiting:
    entry: NewEntry
    session: WriterSession | None
    sequence: int
    done: asyncio.Future[Result]


class Appender:
    """Owns the store: nothing else touches it while the appender runs."""

    def __init__(self, store: LogStore, on_batch: Callable[[int, float], None] | None = None) -> None:
        self._store = store
        self._on_batch = on_batch
        self._queues: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        self._tenant_bytes: dict[str, int] = {}
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._disk = ThreadPoolExecutor(1, "audit-disk")
        self._requested: set[str] = set()
        self._asked: list[asyncio.Future[None]] = []

    def submit(
        self, entry: NewEntry, session: WriterSession | None = None, sequence: int = 0
    ) -> asyncio.Future[Result]:
        """Queue an entry; the future resolves once it is durable, or with the conflict that refused it.

        Raises:
            ResourceExhaustedError: too much is waiting, for this tenant or in all.
        """
        size = entry.size_bytes
        waiting = self._tenant_bytes.get(entry.tenant_uid, 0)
        if waiting + size > MAX_TENANT_WAITING_BYTES or self._waiting_bytes + size > MAX_WAITING_BYTES:
            raise ResourceExhaustedError(
                "too many audit entries are waiting", reason=Reason.QUEUE_FULL, retry_after_seconds=0.1
            )
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(entry.tenant_uid, deque()).append(_Waiting(entry, session, sequence, done))
        self._tenant_bytes[entry.tenant_uid] = waiting + size
        self._waiting_bytes += size
        self._wake.set()
        return done

    async def checkpoint(self, tenant_uid: str) -> None:
        """Make a checkpoint of everything durable so far; returns once it is durable itself."""
        self._requested.add(tenant_uid)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(done)
        self._wake.set()
        await done

    async def with_store(self, work: Callable[[LogStore], T]) -> T:
        """Run something on the store between batches, on its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, work, self._store)

    async def run(self) -> None:
        """Write batches for as long as the service lives."""
        loop = asyncio.get_running_loop()
        next_checkpoint = loop.time() + CHECKPOINT_SECONDS
        next_fold = loop.time() + FOLD_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(min(next_checkpoint, next_fold)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            if loop.time() >= next_checkpoint:
                self._requested.update(await self.with_store(LogStore.dirty))
                next_checkpoint = loop.time() + CHECKPOINT_SECONDS
            await self._write(self._take())
            if loop.time() >= next_fold or self._store.needs_fold:
                await self.with_store(_fold)
                next_fold = loop.time() + FOLD_SECONDS
            if self._waiting_bytes:
                self._wake.set()

    async def close(self) -> None:
        """Fold and give up the store; call it after `run` has ended."""
        await self.with_store(_close)
        self._disk.shutdown()

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._queues and len(batch) < MAX_BATCH_ENTRIES and size < MAX_BATCH_BYTES:
            tenant_uid, queue = next(iter(self._queues.items()))
            item = queue.popleft()
            batch.append(item)
            size += item.entry.size_bytes
            self._tenant_bytes[tenant_uid] -= item.entry.size_bytes
            self._waiting_bytes -= item.entry.size_bytes
            if queue:
                self._queues.move_to_end(tenant_uid)
            else:
                del self._queues[tenant_uid], self._tenant_bytes[tenant_uid]
        return batch

    async def _write(self, batch: list[_Waiting]) -> None:
        checkpoints, self._requested = sorted(self._requested), set()
        asked, self._asked = self._asked, []
        if not batch and not checkpoints:
            return
        sessions: dict[bytes, WriterSession] = {}
        for item in batch:
            if item.session is not None:
                item.session.settle(item.sequence)
                sessions[item.session.session_id] = item.session
        marks = [session.mark() for session in sessions.values()]
        entries = [item.entry for item in batch]

        def commit(store: LogStore) -> list[Result]:
            try:
                results = store.commit(entries, marks, checkpoints)
            except OSError as error:
                die_of_write(error)
            store.checkpointed(checkpoints)
            return results

        started = asyncio.get_running_loop().time()
        results = await self.with_store(commit)
        if self._on_batch is not None and batch:
            self._on_batch(len(batch), asyncio.get_running_loop().time() - started)
        for item, result in zip(batch, results, strict=True):
            if not item.done.done():
                item.done.set_result(result)
        for done in asked:
            if not done.done():
                done.set_result(None)


def _fold(store: LogStore) -> None:
    try:
        store.fold()
    except OSError as error:
        die_of_write(error)


def _close(store: LogStore) -> None:
    try:
        store.close()
    except OSError as error:
        die_of_write(error)
