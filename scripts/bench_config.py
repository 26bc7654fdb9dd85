"""Measure the control plane: start from empty, memory, and how soon one change is in force at every router."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.bench.control_plane import Figures, Plan, measure
from scripts.bench.lookups import Lookups, measure_lookups
from scripts.bench.population import Shape
from scripts.bench.report import machine_facts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--tenants", type=int, default=Plan().tenants)
    parser.add_argument("--changes", type=int, default=Plan().changes)
    arguments = parser.parse_args()
    plan = Plan(tenants=arguments.tenants, changes=arguments.changes)
    with tempfile.TemporaryDirectory(prefix="tenantry-bench-") as folder:
        figures = asyncio.run(measure(Path(folder), plan, say))
        say("looking tenants up")
        lookups = measure_lookups(Path(folder) / "lookups", [10, plan.tenants])
    facts = {"plan": asdict(plan), "shape": asdict(Shape()), "machine": machine_facts()}
    if arguments.json:
        print(json.dumps({"figures": asdict(figures), "lookups": asdict(lookups), **facts}, indent=1))
    else:
        print(as_table(figures, lookups, plan))
        print(", ".join(f"{name} {value}" for name, value in machine_facts().items()))


def say(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr)


def as_table(figures: Figures, lookups: Lookups, plan: Plan) -> str:
    """Aligned, with what each figure says."""
    few, many = lookups.microseconds
    rows = [
        ("config service: start to serving", f"{figures.config_start_seconds:.1f} s"),
        (f"{plan.routers} routers at once: start to serving", f"{figures.router_start_seconds:.1f} s"),
        ("router memory, 1 tenant", f"{figures.router_idle_mib:.0f} MiB"),
        (f"router memory, {plan.tenants:,} tenants", f"{figures.router_full_mib:.0f} MiB"),
        (f"config service memory, {plan.tenants:,} tenants", f"{figures.config_full_mib:.0f} MiB"),
        ("change sent to in force everywhere, p50", f"{figures.change_p50_ms:.0f} ms"),
        ("change sent to in force everywhere, p99", f"{figures.change_p99_ms:.0f} ms"),
        ("change answered to in force everywhere, p50", f"{figures.applied_p50_ms:.0f} ms"),
        ("change answered to in force everywhere, p99", f"{figures.applied_p99_ms:.0f} ms"),
        ("a request's lookups among 10 tenants", f"{few:.2f} µs"),
        (f"a request's lookups among {plan.tenants:,} tenants", f"{many:.2f} µs"),
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{row[0]:{widths[0]}}  {row[1]:>{widths[1]}}" for row in rows]
    shape = Shape()
    lines.append(
        f"\n{plan.changes} changes one by one; a tenant: {shape.prompt_bytes} B of prompt, {shape.patterns} patterns,"
        f" {shape.keys} keys, {shape.adapters} adapters"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
