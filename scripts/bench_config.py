"""Measure the control plane: start from empty, memory, and how soon one change is in force at every router.

Exits with 1 where a figure is not within its bar.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.bench.bars import rows, table
from scripts.bench.control_plane import Plan, measure
from scripts.bench.lookups import measure_lookups
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
    found = rows(figures, lookups, plan)
    facts = {"plan": asdict(plan), "shape": asdict(Shape()), "machine": machine_facts()}
    if arguments.json:
        shown = [{**asdict(row), "kept": row.kept} for row in found]
        print(json.dumps({"figures": shown, **facts}, indent=1))
    else:
        print(table(found))
        print(f"\n{samples(plan)}")
        print(", ".join(f"{name} {value}" for name, value in machine_facts().items()))
    sys.exit(0 if all(row.kept for row in found) else 1)


def say(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr)


def samples(plan: Plan) -> str:
    """How much was measured, and of what."""
    shape = Shape()
    return (
        f"{plan.changes} changes one by one; a tenant: {shape.prompt_bytes} B of prompt, {shape.patterns} patterns,"
        f" {shape.keys} keys, {shape.adapters} adapters"
    )


if __name__ == "__main__":
    main()
