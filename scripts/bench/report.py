"""The figures as a table and as JSON, with what they were taken on."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from scripts.bench.rounds import Comparison, Plan


def machine_facts() -> dict[str, str]:
    """The facts of the machine that the figures depend on."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "load average": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "protobuf": version("protobuf"),
    }


def as_table(comparisons: list[Comparison], plan: Plan, ways: tuple[str, str] = ("relay", "router")) -> str:
    """Aligned columns."""
    rows = [("", *ways, "ratio")]
    rows += [
        (
            f"{one.name}, {one.unit}".rstrip(", "),
            _figure(one.relay),
            _figure(one.router),
            f"{one.ratio:.2f}",
        )
        for one in comparisons
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:{widths[0]}}" + "".join(f"  {row[place]:>{widths[place]}}" for place in (1, 2, 3))
        for row in rows
    ]
    facts = ", ".join(f"{name} {value}" for name, value in machine_facts().items())
    return "\n".join([*lines, "", _samples(plan), facts])


def as_json(comparisons: list[Comparison], plan: Plan) -> str:
    """Everything as one object."""
    figures = [{**asdict(one), "ratio": one.ratio} for one in comparisons]
    return json.dumps({"figures": figures, "plan": asdict(plan), "machine": machine_facts()}, indent=1)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def _samples(plan: Plan) -> str:
    return (
        f"medians of {plan.rounds} interleaved rounds; a round and route: {plan.unary_requests} unary requests of"
        f" 1 token and {plan.streams} streams of {plan.stream_tokens} tokens, {plan.concurrency} at a time, and"
        f" {plan.latency_requests} unary requests one by one; added to the way straight to Triton"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
