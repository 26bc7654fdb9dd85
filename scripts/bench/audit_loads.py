"""Loads for the audit service: streams and writers, as fast as it goes and at a pace."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from tenantry.audit.v1 import entry_pb2

from services.common.audit.writer import AuditEntry, AuditWriter, EntryKind
from services.common.rpc.channel import open_channel
from tests.fakes.audit_service import AuditServicePlane, BareStream, append_entry

_APPEND_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int = 3
    tenants: tuple[int, ...] = (1, 8, 1000)
    entry_bytes: int = 1024
    """Of content; an admit's prompt."""
    saturated_entries: int = 20_000
    """As many as go through one stream, 256 a message, 8 messages unacknowledged."""
    writer_entries: int = 5_000
    """As many as one `AuditWriter` brings through, 1,024 waiting for their ack at a time."""
    paced_entries_per_second: int = 1_000
    paced_seconds: float = 4.0
    stream_entries_per_second: int = 3_000
    stream_seconds: float = 35.0
    """Longer than from one fold to the next: what a fold costs is in the figure."""
    single_entries: int = 500
    """One after another."""


Latencies = list[float]
Load = Callable[[AuditServicePlane, list[str], Plan], Awaitable[tuple[Latencies, float]]]
"""Gives each ack's latency and how long it took in all, in seconds."""


async def warm_up(plane: AuditServicePlane, names: list[str], plan: Plan) -> None:
    """Every tenant has a log before anything is measured."""
    messages = _messages(names, plan, max(256, len(names)))
    async with BareStream(plane.append_target) as stream:
        for start in range(0, len(messages), 256):
            await stream.send(messages[start : start + 256])
        await stream.until(lambda: len(stream.receipts) == len(messages))


def _messages(names: list[str], plan: Plan, count: int) -> list[entry_pb2.AppendEntry]:
    text = "x" * plan.entry_bytes
    return [append_entry(number + 1, names[number % len(names)], text) for number in range(count)]


async def saturated(plane: AuditServicePlane, names: list[str], plan: Plan) -> tuple[Latencies, float]:
    """As fast as one stream goes, 256 entries a message."""
    messages = _messages(names, plan, plan.saturated_entries)
    latencies: Latencies = []
    started = time.perf_counter()
    async with BareStream(plane.append_target) as stream:
        sent: dict[int, float] = {}
        for start in range(0, len(messages), 256):
            batch = messages[start : start + 256]
            sent.update(dict.fromkeys((one.sequence for one in batch), time.perf_counter()))
            await stream.send(batch)
            await stream.until(lambda start=start: len(stream.acks) >= start - 7 * 256)
            _settle(stream, sent, latencies)
        while sent:
            settled = len(latencies)
            await stream.until(lambda settled=settled: len(stream.acks) > settled)
            _settle(stream, sent, latencies)
        if len(stream.receipts) != len(messages):
            raise RuntimeError("entries were refused")
        return latencies, time.perf_counter() - started


def _settle(stream: BareStream, sent: dict[int, float], latencies: Latencies) -> None:
    """Take the acks that are new: every one before has given a latency."""
    now = time.perf_counter()
    new = len(stream.acks) - len(latencies)
    latencies.extend(now - sent.pop(sequence) for sequence in itertools.islice(reversed(stream.acks), new))


class _Appending:
    """An `AuditWriter` as a router has one; each append notes how long its ack took."""

    def __init__(self, writer: AuditWriter, names: list[str], plan: Plan) -> None:
        self._writer = writer
        self._names = names
        self._prompt = {"text": "x" * plan.entry_bytes}
        self.latencies: Latencies = []
        self._started = time.perf_counter()

    def taken(self) -> tuple[Latencies, float]:
        """The result of a load."""
        return self.latencies, time.perf_counter() - self._started

    async def append(self, number: int) -> None:
        name = self._names[number % len(self._names)]
        started = time.perf_counter()
        await self._writer.append(
            AuditEntry(name, EntryKind.ADMIT, {"number": number}, self._prompt), _APPEND_SECONDS
        )
        self.latencies.append(time.perf_counter() - started)


async def through_writer(plane: AuditServicePlane, names: list[str], plan: Plan) -> tuple[Latencies, float]:
    """As fast as one `AuditWriter` goes."""
    numbers = iter(range(plan.writer_entries))

    async def worker(appending: _Appending, numbers: Iterator[int]) -> None:
        for number in numbers:
            await appending.append(number)

    async with open_channel(plane.append_target) as channel, AuditWriter(channel, "bench") as writer:
        appending = _Appending(writer, names, plan)
        await asyncio.gather(*(worker(appending, numbers) for _ in range(1024)))
        return appending.taken()


async def paced(plane: AuditServicePlane, names: list[str], plan: Plan) -> tuple[Latencies, float]:
    """A router's writer, at a pace."""
    async with open_channel(plane.append_target) as channel, AuditWriter(channel, "bench") as writer:
        appending = _Appending(writer, names, plan)
        count = int(plan.paced_entries_per_second * plan.paced_seconds)
        started = time.perf_counter()
        tasks = []
        for number in range(count):
            due = started + number / plan.paced_entries_per_second
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(appending.append(number)))
        await asyncio.gather(*tasks)
        return appending.taken()


async def paced_stream(plane: AuditServicePlane, names: list[str], plan: Plan) -> tuple[Latencies, float]:
    """Messages of what came up in 5 ms each, as a batching writer sends them."""
    messages = _messages(names, plan, int(plan.stream_entries_per_second * plan.stream_seconds))
    each = plan.stream_entries_per_second // 200
    latencies: Latencies = []
    sent: dict[int, float] = {}
    started = time.perf_counter()
    async with BareStream(plane.append_target) as stream:

        async def settle() -> None:
            while len(latencies) < len(messages) and not stream.ended:
                settled = len(stream.acks)
                await stream.until(lambda settled=settled: len(stream.acks) > settled)
                _settle(stream, sent, latencies)

        settling = asyncio.create_task(settle())
        for number, start in enumerate(range(0, len(messages), each)):
            if (wait := started + number / 200 - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            batch = messages[start : start + each]
            sent.update(dict.fromkeys((one.sequence for one in batch), time.perf_counter()))
            await stream.send(batch)
        await settling
        if len(stream.receipts) != len(messages):
            raise RuntimeError("entries were refused")
        return latencies, time.perf_counter() - started


async def first_after_start(
    plane: AuditServicePlane, names: list[str], plan: Plan
) -> tuple[Latencies, float]:
    """Every log is opened and gets a new data key."""
    await plane.service.end()
    await plane.service.start()
    messages = _messages(names, plan, len(names))
    latencies: Latencies = []
    async with BareStream(plane.append_target) as stream:
        started = time.perf_counter()
        sent = dict.fromkeys((one.sequence for one in messages), started)
        for start in range(0, len(messages), 256):
            await stream.send(messages[start : start + 256])
        while sent:
            settled = len(latencies)
            await stream.until(lambda settled=settled: len(stream.acks) > settled)
            _settle(stream, sent, latencies)
        return latencies, time.perf_counter() - started


async def single(plane: AuditServicePlane, names: list[str], plan: Plan) -> tuple[Latencies, float]:
    """One entry after another."""
    async with open_channel(plane.append_target) as channel, AuditWriter(channel, "bench") as writer:
        appending = _Appending(writer, names, plan)
        for number in range(plan.single_entries):
            await appending.append(number)
        return appending.taken()
