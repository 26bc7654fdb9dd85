"""Measure the audit service: entries a second and how long an ack takes, each entry on disk before its ack."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.table import Table
from tenantry.audit.v1 import entry_pb2

from scripts.bench.processes import cpu_seconds
from scripts.bench.report import machine_facts
from services.common.audit_writer import AuditEntry, AuditWriter, EntryKind
from services.common.grpc_channel import open_channel
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


@dataclass(frozen=True, slots=True)
class Figure:
    """One load on one number of tenants; medians of the rounds."""

    load: str
    tenants: int
    entries_per_second: float
    ack_p50_ms: float
    ack_p99_ms: float
    service_cpu_us: float
    """Processor time of the service for each entry."""


@dataclass(frozen=True, slots=True)
class Disk:
    """What the disk does without us: overwrite 4 KiB of an allocated file, fdatasync, again."""

    syncs_per_second: float
    sync_p50_ms: float
    sync_p99_ms: float


Latencies = list[float]
Load = Callable[[AuditServicePlane, list[str], Plan], Awaitable[tuple[Latencies, float]]]
"""Gives each ack's latency and how long it took in all, in seconds."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=Plan().rounds)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; the temporary folder otherwise")
    arguments = parser.parse_args()
    plan = Plan(rounds=arguments.rounds)
    with tempfile.TemporaryDirectory(prefix="tenantry-bench-", dir=arguments.folder) as folder:
        disk = measure_disk(Path(folder))
        figures = asyncio.run(measure(Path(folder), plan))
    if arguments.json:
        document = {
            "figures": [asdict(figure) for figure in figures],
            "disk": asdict(disk),
            "plan": asdict(plan),
            "machine": machine_facts(),
        }
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    else:
        show(figures, disk, plan)


async def measure(folder: Path, plan: Plan) -> list[Figure]:
    """Every load on every number of tenants, in interleaved rounds, each on a service with fresh logs."""
    loads: dict[str, Load] = {
        "saturated, bare stream": _saturated,
        "saturated, AuditWriter": _writer,
        f"{plan.paced_entries_per_second:,} a second, AuditWriter": _paced,
        f"{plan.stream_entries_per_second:,} a second, bare stream": _paced_stream,
        "one by one": _single,
        "each tenant's first after a start": _first_after_start,
    }
    taken: dict[tuple[str, int], list[Figure]] = {}
    for number in range(plan.rounds):
        for tenants in plan.tenants:
            here = folder / f"{number}-{tenants}"
            here.mkdir()
            names = [f"tenant-{place}" for place in range(tenants)]
            async with AuditServicePlane(here) as plane:
                await _warm_up(plane, names, plan)
                for name, load in loads.items():
                    sys.stderr.write(f"round {number + 1} of {plan.rounds}: {tenants} tenants, {name}\n")
                    figure = await _timed(name, load, plane, names, plan)
                    taken.setdefault((name, tenants), []).append(figure)
                await plane.service.end()
    return [_median(rounds) for rounds in taken.values()]


def _median(rounds: list[Figure]) -> Figure:
    first = rounds[0]
    middle = [
        statistics.median(getattr(one, name) for one in rounds)
        for name in ("entries_per_second", "ack_p50_ms", "ack_p99_ms", "service_cpu_us")
    ]
    return Figure(first.load, first.tenants, *middle)


async def _timed(name: str, load: Load, plane: AuditServicePlane, names: list[str], plan: Plan) -> Figure:
    before, pid = cpu_seconds(plane.pid), plane.pid
    latencies, seconds = await load(plane, names, plan)
    cpu = cpu_seconds(plane.pid) - (before if plane.pid == pid else 0)
    latencies.sort()
    count = len(latencies)
    return Figure(
        name,
        len(names),
        count / seconds,
        latencies[count // 2] * 1e3,
        latencies[min(count - 1, count * 99 // 100)] * 1e3,
        cpu / count * 1e6,
    )


async def _warm_up(plane: AuditServicePlane, names: list[str], plan: Plan) -> None:
    """Every tenant has a log before anything is measured."""
    messages = _messages(names, plan, max(256, len(names)))
    async with BareStream(plane.append_target) as stream:
        for start in range(0, len(messages), 256):
            await stream.send(messages[start : start + 256])
        await stream.until(lambda: len(stream.receipts) == len(messages))


def _messages(names: list[str], plan: Plan, count: int) -> list[entry_pb2.AppendEntry]:
    text = "x" * plan.entry_bytes
    return [append_entry(number + 1, names[number % len(names)], text) for number in range(count)]


async def _saturated(plane: AuditServicePlane, names: list[str], plan: Plan) -> tuple[Latencies, float]:
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
        """What a load gives."""
        return self.latencies, time.perf_counter() - self._started

    async def append(self, number: int) -> None:
        name = self._names[number % len(self._names)]
        started = time.perf_counter()
        await self._writer.append(
            AuditEntry(name, EntryKind.ADMIT, {"number": number}, self._prompt), _APPEND_SECONDS
        )
        self.latencies.append(time.perf_counter() - started)


async def _writer(plane: AuditServicePlane, names: list[str], plan: Plan) -> tuple[Latencies, float]:
    numbers = iter(range(plan.writer_entries))

    async def worker(appending: _Appending, numbers: Iterator[int]) -> None:
        for number in numbers:
            await appending.append(number)

    async with open_channel(plane.append_target) as channel, AuditWriter(channel, "bench") as writer:
        appending = _Appending(writer, names, plan)
        await asyncio.gather(*(worker(appending, numbers) for _ in range(1024)))
        return appending.taken()


async def _paced(plane: AuditServicePlane, names: list[str], plan: Plan) -> tuple[Latencies, float]:
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


async def _paced_stream(plane: AuditServicePlane, names: list[str], plan: Plan) -> tuple[Latencies, float]:
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


async def _first_after_start(
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


async def _single(plane: AuditServicePlane, names: list[str], plan: Plan) -> tuple[Latencies, float]:
    async with open_channel(plane.append_target) as channel, AuditWriter(channel, "bench") as writer:
        appending = _Appending(writer, names, plan)
        for number in range(plan.single_entries):
            await appending.append(number)
        return appending.taken()


def measure_disk(folder: Path, syncs: int = 1000) -> Disk:
    """What the disk under a folder does with a journal's kind of writes."""
    taken = []
    descriptor = os.open(folder / "probe", os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, syncs * 4096)
        os.fsync(descriptor)
        for _ in range(syncs):
            started = time.perf_counter()
            os.write(descriptor, bytes(4096))
            os.fdatasync(descriptor)
            taken.append(time.perf_counter() - started)
    finally:
        os.close(descriptor)
    taken.sort()
    return Disk(syncs / sum(taken), taken[syncs // 2] * 1e3, taken[syncs * 99 // 100] * 1e3)


def show(figures: list[Figure], disk: Disk, plan: Plan) -> None:
    """As a table."""
    table = Table("load", "tenants", "entries/s", "ack p50, ms", "ack p99, ms", "service CPU, µs an entry")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in figures:
        table.add_row(
            one.load,
            str(one.tenants),
            f"{one.entries_per_second:,.0f}",
            f"{one.ack_p50_ms:.1f}",
            f"{one.ack_p99_ms:.1f}",
            f"{one.service_cpu_us:.0f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"disk alone: {disk.syncs_per_second:,.0f} fdatasyncs/s, p50 {disk.sync_p50_ms:.2f} ms,"
        f" p99 {disk.sync_p99_ms:.2f} ms",
        f"medians of {plan.rounds} rounds, entries of {plan.entry_bytes} bytes, fsync on, the client beside it",
        ", ".join(f"{name} {value}" for name, value in machine_facts().items()),
        sep="\n",
        highlight=False,
    )


if __name__ == "__main__":
    main()
