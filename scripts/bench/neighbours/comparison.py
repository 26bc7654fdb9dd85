"""The rows of the comparison: each workload and attack under both disciplines, pooled over the rounds. Pure."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from scripts.bench.neighbours.figures import End, RunFigures, nearest_rank, pooled
from scripts.bench.neighbours.workloads import WORKLOADS, Attack, Workload

FCFS, VTC = "FCFS", "VTC"
DISCIPLINES = (FCFS, VTC)


@dataclass(frozen=True, slots=True)
class Row:
    """One tenant under one attack and discipline."""

    workload: str
    attack: str
    discipline: str
    tenant: str
    requests: int
    p50_seconds: float
    p99_seconds: float
    goodput: float
    refused: int
    service: float
    """Given in the measured time of all rounds."""
    tokens_a_second: float
    """Output tokens of all tenants; the median of the rounds."""


def workloads_of(runs: Sequence[RunFigures]) -> list[Workload]:
    """The workloads that were run."""
    return [workload for workload in WORKLOADS if any(run.workload == workload.name for run in runs)]


def select(
    runs: Sequence[RunFigures], workload: Workload, attack: Attack, discipline: str
) -> list[RunFigures]:
    """The rounds of one cell."""
    wanted = (workload.name, str(attack), discipline)
    return [run for run in runs if (run.workload, run.attack, run.discipline) == wanted]


def rows(runs: Sequence[RunFigures]) -> Iterator[Row]:
    """Every tenant that asked for anything, in the order of workloads and attacks."""
    for workload in workloads_of(runs):
        for attack in Attack:
            for tenant in workload.tenants:
                for discipline in DISCIPLINES:
                    cell = select(runs, workload, attack, discipline)
                    own = [run.of(tenant.name) for run in cell]
                    requests = sum(one.requests for one in own)
                    if not requests:
                        continue
                    times = pooled(cell, tenant.name)
                    yield Row(
                        workload.name,
                        str(attack),
                        discipline,
                        tenant.name,
                        requests,
                        nearest_rank(times, 0.5),
                        nearest_rank(times, 0.99),
                        sum(one.goodput * one.requests for one in own if one.requests) / requests,
                        sum(one.ends.get(End.REFUSED, 0) for one in own),
                        sum(one.service[-1] for one in own),
                        statistics.median(run.tokens_a_second for run in cell),
                    )


HEADINGS = (
    "workload", "attacker", "tenant", "queue", "requests", "first token p50", "p99", "goodput", "refused",
    "service", "tokens/s of all",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """A row, to be shown under `HEADINGS`."""
    return (
        row.workload, row.attack, row.tenant, row.discipline, f"{row.requests:,}", shown_seconds(row.p50_seconds),
        shown_seconds(row.p99_seconds), f"{row.goodput:.1%}", f"{row.refused:,}", f"{row.service:,.0f}",
        f"{row.tokens_a_second:,.0f}",
    )  # fmt: skip


def shown_seconds(seconds: float) -> str:
    """With its unit; "none" where so many requests got no token that the quantile is infinite."""
    if math.isnan(seconds):
        return "-"
    if math.isinf(seconds):
        return "none"
    return f"{seconds * 1000:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def as_table(runs: Sequence[RunFigures], facts: dict[str, str]) -> str:
    """Aligned columns, with what they were taken on."""
    table = [HEADINGS, *(cells(row) for row in rows(runs))]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 4 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
    return "\n".join(
        [*lines, "", conditions(runs), ", ".join(f"{name} {fact}" for name, fact in facts.items())]
    )


def conditions(runs: Sequence[RunFigures]) -> str:
    """How the runs were made, in a sentence."""
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))
    return (
        f"{len(runs)} runs of {runs[0].seconds:g} s measured, FCFS and VTC in turn; seeds {seeds}; the generator sent "
        f"99 % of requests at most {max(run.late_ms for run in runs):.0f} ms late; a request without a token counts "
        "as infinite"
    )


def as_json(runs: Sequence[RunFigures], facts: dict[str, str]) -> str:
    """Everything as one object; null for an infinite time."""
    made = {
        "rows": [asdict(row) for row in rows(runs)],
        "runs": [asdict(run) for run in runs],
        "machine": facts,
    }
    return json.dumps(_finite(made), indent=1)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
