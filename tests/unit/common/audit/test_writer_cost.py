"""The cost of a batch does not grow with the entries that wait for acks. Operations are counted, not time."""

from __future__ import annotations

import asyncio

import pytest
from tenantry.audit.v1 import audit_append_service_pb2 as pb
from tenantry.audit.v1 import entry_pb2

from services.common.audit import writer as writer_module
from services.common.audit.writer import AuditEntry, AuditWriter, EntryKind
from services.common.errors import Reason, ResourceExhaustedError
from services.common.rpc.channel import open_channel
from services.common.rpc.status import to_status

BATCH = 10
FULL = to_status(ResourceExhaustedError("full", reason=Reason.QUEUE_FULL))


class CountingDict(dict):
    """Counts every item touched."""

    touched = 0

    def _each(self, items):
        for item in items:
            self.touched += 1
            yield item

    def values(self):
        return self._each(super().values())

    def items(self):
        return self._each(super().items())

    def __iter__(self):
        return self._each(super().__iter__())

    def __getitem__(self, key):
        self.touched += 1
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.touched += 1
        return super().get(key, default)

    def pop(self, key, default=None):
        self.touched += 1
        return super().pop(key, default)


class RecordingCall:
    """Keeps the sequences written."""

    def __init__(self) -> None:
        self.messages: list[list[int]] = []
        self._grew = asyncio.Event()

    async def write(self, request) -> None:
        self.messages.append([entry.sequence for entry in request.batch.entries])
        self._grew.set()

    @property
    def sequences(self) -> list[int]:
        return [sequence for message in self.messages for sequence in message]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.sequences) < count:
                self._grew.clear()
                await self._grew.wait()


def queue(writer, count):
    for _ in range(count):
        assert writer.append_soon(AuditEntry("a", EntryKind.ADMIT, {}))


async def touched_by_a_batch(writer_type, waiting: int) -> int:
    """Items touched to send and settle one batch while so many entries wait for their acks."""
    async with open_channel("unix:/nobody") as channel:
        writer = writer_type(channel, "w")
        counting = writer._kept = CountingDict()
        call = RecordingCall()
        sender = asyncio.create_task(writer._send(call))
        queue(writer, waiting)
        await call.until(waiting)
        counting.touched = 0
        queue(writer, BATCH)
        await call.until(waiting + BATCH)
        for sequence in range(waiting + 1, waiting + BATCH + 1):
            writer._settle(pb.Ack(sequence=sequence, receipt=entry_pb2.Receipt(log_id="log")))
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
        assert call.sequences == list(range(1, waiting + BATCH + 1))
        assert max(len(message) for message in call.messages) <= writer_module.MAX_MESSAGE_ENTRIES
        return counting.touched


async def test_a_batch_touches_its_own_entries_only():
    few, many = [await touched_by_a_batch(AuditWriter, waiting) for waiting in (10, 10_000)]
    assert few == many <= 4 * BATCH


async def test_that_count_notices_a_look_at_everything_kept():
    class Looking(AuditWriter):
        def _note_gaps(self) -> None:
            list(self._kept.values())
            super()._note_gaps()

    few, many = [await touched_by_a_batch(Looking, waiting) for waiting in (10, 1000)]
    assert many > few + 900


@pytest.mark.parametrize("waiting", [10, 10_000])
async def test_entries_that_found_the_queue_full_cost_one_return_and_one_sending_each(waiting):
    async with open_channel("unix:/nobody") as channel:
        writer = AuditWriter(channel, "w")
        counting = writer._kept = CountingDict()
        call = RecordingCall()
        sender = asyncio.create_task(writer._send(call))
        queue(writer, waiting)
        await call.until(waiting)
        counting.touched = 0
        for sequence in range(1, waiting + 1):
            writer._settle(pb.Ack(sequence=sequence, error=FULL))
        queue(writer, BATCH)  # a newer batch does not send them ahead of their time
        await call.until(waiting + BATCH)
        assert call.sequences[waiting:] == list(range(waiting + 1, waiting + BATCH + 1))
        await call.until(2 * waiting + BATCH)
        assert call.sequences[waiting + BATCH :] == list(range(1, waiting + 1))
        assert counting.touched <= 2 * (waiting + BATCH)
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
