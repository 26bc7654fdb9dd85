"""Measure the audit service: entries a second and how long an ack takes, each entry on disk before its ack."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.table import Table

from scripts.bench.audit_loads import (
    Load,
    Plan,
    first_after_start,
    paced,
    paced_stream,
    saturated,
    single,
    through_writer,
    warm_up,
)
from scripts.bench.processes import cpu_seconds
from scripts.bench.report import machine_facts
from tests.fakes.audit_service import AuditServicePlane


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
    """The disk's speed without the service: overwrite 4 KiB of an allocated file, fdatasync, again."""

    syncs_per_second: float
    sync_p50_ms: float
    sync_p99_ms: float


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
        "saturated, bare stream": saturated,
        "saturated, AuditWriter": through_writer,
        f"{plan.paced_entries_per_second:,} a second, AuditWriter": paced,
        f"{plan.stream_entries_per_second:,} a second, bare stream": paced_stream,
        "one by one": single,
        "each tenant's first after a start": first_after_start,
    }
    taken: dict[tuple[str, int], list[Figure]] = {}
    for number in range(plan.rounds):
        for tenants in plan.tenants:
            here = folder / f"{number}-{tenants}"
            here.mkdir()
            names = [f"tenant-{place}" for place in range(tenants)]
            async with AuditServicePlane(here) as plane:
                await warm_up(plane, names, plan)
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


def measure_disk(folder: Path, syncs: int = 1000) -> Disk:
    """Measure the disk under a folder with a journal's kind of writes."""
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
