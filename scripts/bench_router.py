"""Measure what the router costs, against a bare relay before the same scripted Triton.

With --far: what a router costs whose flow controller is another process, against one that is alone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.bench.report import as_json, as_table
from scripts.bench.rounds import Comparison, Plan, measure
from scripts.bench.routes import open_far_routes, open_routes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=Plan().rounds)
    parser.add_argument(
        "--far", action="store_true", help="compare a router alone and one with a far controller"
    )
    arguments = parser.parse_args()
    plan = Plan(rounds=arguments.rounds)
    comparisons = asyncio.run(run(plan, far=arguments.far))
    ways = ("alone", "far") if arguments.far else ("relay", "router")
    print(as_json(comparisons, plan) if arguments.json else as_table(comparisons, plan, ways))


async def run(plan: Plan, *, far: bool = False) -> list[Comparison]:
    """Start everything, measure, stop everything."""
    with tempfile.TemporaryDirectory(prefix="tenantry-bench-") as folder:
        async with (open_far_routes if far else open_routes)(Path(folder)) as routes:
            return await measure(routes, plan, lambda step: print(step, file=sys.stderr))


if __name__ == "__main__":
    main()
