"""Measure what tenants feel of one another: first come, first served, against fair queues, in one run.

Real routers before scripted Tritons that batch at the CPU twin's pace, or a multiple of it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.bench.neighbours.comparison import as_json, as_table
from scripts.bench.neighbours.html_report import as_html
from scripts.bench.neighbours.suite import Plan, run
from scripts.bench.report import machine_facts


def main() -> None:
    """Measure and print."""
    plan = Plan()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--html", type=Path, help="write a report with charts to this file")
    parser.add_argument(
        "--workload", action="append", choices=plan.workloads, help="only this one; may be repeated"
    )
    parser.add_argument("--seconds", type=float, default=plan.seconds, help="measured of each run")
    parser.add_argument("--rounds", type=int, default=plan.rounds, help="with a seed each")
    parser.add_argument("--seed", type=int, default=plan.seed, help="of the first round")
    parser.add_argument("--speed", type=float, default=plan.speed, help="of the engine; 1 is the CPU twin's")
    arguments = parser.parse_args()
    plan = Plan(
        workloads=tuple(arguments.workload or plan.workloads),
        seconds=arguments.seconds,
        rounds=arguments.rounds,
        seed=arguments.seed,
        speed=arguments.speed,
    )
    with tempfile.TemporaryDirectory(prefix="tenantry-bench-") as folder:
        runs = asyncio.run(run(Path(folder), plan, lambda step: print(step, file=sys.stderr)))
    facts = machine_facts() | {"engine": f"{plan.speed:g} times the CPU twin's pace"}
    print(as_json(runs, facts) if arguments.json else as_table(runs, facts))
    if arguments.html is not None:
        arguments.html.write_text(as_html(runs, facts), "utf-8")
        print(f"report: {arguments.html}", file=sys.stderr)


if __name__ == "__main__":
    main()
