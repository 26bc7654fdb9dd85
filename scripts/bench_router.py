"""Measure what the router costs, against a bare relay before the same scripted Triton.

With --far: what a router costs whose flow controller is another process, against one that is alone. With --policy: what
policy costs, against a router of identity and relay alone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.bench.report import as_json, as_table
from scripts.bench.rounds import Comparison, Plan, measure
from scripts.bench.routes import Routes, open_far_routes, open_policy_routes, open_routes

_KINDS = {
    "relay": (("relay", "router"), open_routes),
    "far": (("alone", "far"), open_far_routes),
    "policy": (("plain", "governed"), open_policy_routes),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=Plan().rounds)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--far", action="store_true", help="compare a router alone and one with a far controller"
    )
    kind.add_argument(
        "--policy", action="store_true", help="compare identity and relay alone with all policy"
    )
    arguments = parser.parse_args()
    plan = Plan(rounds=arguments.rounds)
    ways, opened = _KINDS["far" if arguments.far else "policy" if arguments.policy else "relay"]
    comparisons = asyncio.run(run(plan, opened))
    print(as_json(comparisons, plan) if arguments.json else as_table(comparisons, plan, ways))


async def run(plan: Plan, opened: Callable[[Path], AbstractAsyncContextManager[Routes]]) -> list[Comparison]:
    """Start everything, measure, stop everything."""
    with tempfile.TemporaryDirectory(prefix="tenantry-bench-") as folder:
        async with opened(Path(folder)) as routes:
            return await measure(routes, plan, lambda step: print(step, file=sys.stderr))


if __name__ == "__main__":
    main()
