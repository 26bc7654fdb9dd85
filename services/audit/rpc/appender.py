"""Group commit: takes entries of every writer in fair order and makes one batch after another durable.

A batch is made of the entries that wait when the disk becomes idle, up to 256 entries or 1 MiB. Tenants take turns, and
the bytes that may wait are bounded for each, so that a flood of one tenant does not delay the others. Work that needs
files of one log (opening it, folding it, signing its checkpoint) is done for a few tenants between two batches.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from services.audit.logs.sessions import WriterSession
from services.audit.logs.store import LogStore, Result
from services.audit.logs.tenant_log import NewEntry
from services.audit.storage.disk import die_of_disk
from services.common.errors import Reason, ResourceExhaustedError

MAX_BATCH_ENTRIES = 256
MAX_BATCH_BYTES = 1 << 20
MAX_BATCH_OPENING_COST = 16
"""The most logs that are opened for one batch. A new log counts as eight."""
MAX_BATCH_CHECKPOINTS = 16
MAX_TENANT_WAITING_BYTES = 16 << 20
MAX_WAITING_BYTES = 128 << 20
CHECKPOINT_SECONDS = 1.0
FOLD_SECONDS = 30.0

T = TypeVar("T")


@dataclass(slots=True)
class _Waiting:
    entry: NewEntry
    session: WriterSession | None
    sequence: int
    settled: bool
    """Whether its sequence was settled when it came, so that it is no new entry."""
    done: asyncio.Future[Result]


class Appender:
    """Owns the store. Nothing else may use the store while the appender runs."""

    def __init__(self, store: LogStore, on_batch: Callable[[int, float], None] | None = None) -> None:
        self._store = store
        self._on_batch = on_batch
        self._queues: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        self._tenant_bytes: dict[str, int] = {}
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._disk = ThreadPoolExecutor(1, "audit-disk")
        self._requested: dict[str, None] = {}
        """Tenants whose logs get a checkpoint, in the order of the requests."""
        self._asked: dict[str, list[asyncio.Future[None]]] = {}

    def submit(
        self, entry: NewEntry, session: WriterSession | None = None, sequence: int = 0
    ) -> asyncio.Future[Result]:
        """Queue an entry. The future resolves when it is durable, or with the refusal.

        Raises:
            ResourceExhaustedError: too many bytes are waiting, of this tenant or in all.
        """
        size = entry.size_bytes
        waiting = self._tenant_bytes.get(entry.tenant_uid, 0)
        if waiting + size > MAX_TENANT_WAITING_BYTES or self._waiting_bytes + size > MAX_WAITING_BYTES:
            raise ResourceExhaustedError(
                "too many audit entries are waiting", reason=Reason.QUEUE_FULL, retry_after_seconds=0.1
            )
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(entry.tenant_uid, deque()).append(
            _Waiting(entry, session, sequence, session is not None and sequence in session.settled, done)
        )
        self._tenant_bytes[entry.tenant_uid] = waiting + size
        self._waiting_bytes += size
        self._wake.set()
        return done

    async def checkpoint(self, tenant_uid: str) -> None:
        """Make a checkpoint of everything that is durable so far. Returns when the checkpoint is durable."""
        # A caller waits for this one, so it goes before those that are merely due.
        self._requested = {tenant_uid: None, **self._requested}
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(tenant_uid, []).append(done)
        self._wake.set()
        await done

    async def with_store(self, work: Callable[[LogStore], T]) -> T:
        """Run work on the store between batches, in its thread. An error of the disk ends the process."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, _or_die, work, self._store)

    async def run(self) -> None:
        """Write batches until cancelled."""
        loop = asyncio.get_running_loop()
        next_checkpoint = loop.time() + CHECKPOINT_SECONDS
        next_fold = loop.time() + FOLD_SECONDS
        folding = False
        while True:
            try:
                async with asyncio.timeout_at(min(next_checkpoint, next_fold)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            if loop.time() >= next_checkpoint:
                self._requested |= dict.fromkeys(await self.with_store(LogStore.dirty))
                next_checkpoint = loop.time() + CHECKPOINT_SECONDS
            await self._write(self._take())
            if not folding and (loop.time() >= next_fold or self._store.needs_fold):
                await self.with_store(LogStore.begin_fold)
                folding = True
                next_fold = loop.time() + FOLD_SECONDS
            if folding:
                folding = await self.with_store(LogStore.fold_slice)
            if self._queues or self._requested or folding:
                self._wake.set()

    async def close(self) -> None:
        """Fold and release the store. Call it after `run` has ended."""
        await self.with_store(LogStore.close)
        self._disk.shutdown()

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = opening_cost = 0
        opened: set[str] = set()
        later: list[tuple[str, deque[_Waiting]]] = []
        while self._queues and len(batch) < MAX_BATCH_ENTRIES and size < MAX_BATCH_BYTES:
            tenant_uid, queue = next(iter(self._queues.items()))
            if tenant_uid not in opened and (costs := self._store.logs.opening_cost(tenant_uid)):
                if opening_cost + costs > MAX_BATCH_OPENING_COST:
                    later.append(self._queues.popitem(last=False))
                    continue
                opening_cost += costs
                opened.add(tenant_uid)
            item = queue.popleft()
            batch.append(item)
            size += item.entry.size_bytes
            self._tenant_bytes[tenant_uid] -= item.entry.size_bytes
            self._waiting_bytes -= item.entry.size_bytes
            if queue:
                self._queues.move_to_end(tenant_uid)
            else:
                del self._queues[tenant_uid], self._tenant_bytes[tenant_uid]
        # The next batches open these logs first.
        for tenant_uid, queue in reversed(later):
            self._queues[tenant_uid] = queue
            self._queues.move_to_end(tenant_uid, last=False)
        return batch

    async def _write(self, batch: list[_Waiting]) -> None:
        checkpoints, asked = self._take_checkpoints()
        if not batch and not checkpoints:
            return
        settling = _sequences(batch)
        marks = [session.mark(sequences) for session, sequences in settling.items()]
        entries = [item.entry for item in batch]
        settled = {place for place, item in enumerate(batch) if item.settled}

        def commit(store: LogStore) -> list[Result]:
            results = store.commit(entries, marks, checkpoints, settled)
            store.checkpointed(checkpoints)
            return results

        started = asyncio.get_running_loop().time()
        results = await self.with_store(commit)
        # Only now: a sequence that is called settled has to be durable.
        for session, sequences in settling.items():
            for sequence in sequences:
                session.settled.add(sequence)
        if self._on_batch is not None and batch:
            self._on_batch(len(batch), asyncio.get_running_loop().time() - started)
        for item, result in zip(batch, results, strict=True):
            if not item.done.done():
                item.done.set_result(result)
        for done in asked:
            if not done.done():
                done.set_result(None)

    def _take_checkpoints(self) -> tuple[list[str], list[asyncio.Future[None]]]:
        """Tenants whose turn it is, and the futures that wait for their checkpoints."""
        checkpoints = list(self._requested)[:MAX_BATCH_CHECKPOINTS]
        for tenant_uid in checkpoints:
            del self._requested[tenant_uid]
        return checkpoints, [done for tenant_uid in checkpoints for done in self._asked.pop(tenant_uid, [])]


def _sequences(batch: list[_Waiting]) -> dict[WriterSession, list[int]]:
    found: dict[WriterSession, list[int]] = {}
    for item in batch:
        if item.session is not None:
            found.setdefault(item.session, []).append(item.sequence)
    return found


def _or_die(work: Callable[[LogStore], T], store: LogStore) -> T:
    try:
        return work(store)
    except OSError as error:
        # The store turns errors of reading into quarantines. An OSError that arrives here is a failed write.
        die_of_disk(error)
