"""How fairly a pool is shared, against order of arrival (`make bench-fairness`).

The product's scheduler and queues over a model of a batching server on simulated time: the same figures on every
machine, by their seeds. Prints a table, and writes a page that a person can read.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "gen/python")]

from scripts.bench.fairness.figures import QUEUES, Run, run  # noqa: E402 - after the path is set
from scripts.bench.fairness.report import COLUMNS, cells, level_name, page  # noqa: E402
from scripts.bench.fairness.workloads import WORKLOADS, Level, Workload  # noqa: E402


def main() -> None:
    """Run every workload at every level under both queues."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind, pooled")
    parser.add_argument("--seconds", type=float, default=240.0, help="simulated seconds a run")
    parser.add_argument("--headroom", type=int, default=0, help="headroom_requests of the pool")
    parser.add_argument("--workload", choices=[one.name for one in WORKLOADS], help="only this one")
    parser.add_argument("--html", type=Path, default=Path("fairness.html"), help="where the page goes")
    parser.add_argument("--json", action="store_true", help="print one object in place of the table")
    given = parser.parse_args()
    workloads = [one for one in WORKLOADS if given.workload in (None, one.name)]
    runs = measured(workloads, given.seeds, given.seconds, given.headroom)
    about = (
        f"Simulated time, {given.seeds} seeds (1 to {given.seeds}) of {given.seconds:.0f} s each; one server of 16"
        f" places with {given.headroom} kept as headroom, and the step times of the CPU twin; no limits, no deadlines."
        " A request that was refused, or not served within 30 s of the last one, counts as never."
    )
    given.html.write_text(page(runs, workloads, about))
    print(as_json(runs) if given.json else as_table(runs))
    print(f"{about}\nThe page with charts: {given.html}", file=sys.stderr)


def measured(workloads: list[Workload], seeds: int, seconds: float, headroom: int) -> list[Run]:
    """Every run; says on standard error how far it is."""
    runs = []
    for workload in workloads:
        for level in Level:
            for queue in QUEUES:
                print(f"{workload.name}, {level_name(level)}, {queue}", file=sys.stderr)
                runs.append(
                    run(
                        workload,
                        level,
                        queue,
                        seeds=range(1, seeds + 1),
                        seconds=seconds,
                        headroom=headroom,
                    )
                )
    return runs


def as_table(runs: list[Run]) -> str:
    """Aligned columns."""
    rows: list[tuple[str, ...]] = [("workload", "the other tenant", "queue", *COLUMNS)]
    rows += [(one.workload, level_name(one.level), one.queue, *cells(one)) for one in runs]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            f"{cell:{width}}" if column < 3 else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def as_json(runs: list[Run]) -> str:
    """Every figure; an infinite time is null."""

    def finite(value: float) -> float | None:
        return round(value, 4) if math.isfinite(value) else None

    return json.dumps(
        [
            {
                "workload": one.workload,
                "attacker_times_its_share": one.level.value,
                "queue": one.queue,
                "headroom_requests": one.headroom,
                "victim_requests": one.requests,
                "victim_not_served": one.refused,
                "victim_goodput": round(one.goodput, 4),
                "victim_first_token_p50_seconds": finite(one.first_token(0.5)),
                "victim_first_token_p99_seconds": finite(one.first_token(0.99)),
                "attacker_answered": one.attackers,
                "tokens_a_second": round(one.tokens_a_second, 1),
            }
            for one in runs
        ],
        indent=1,
    )


if __name__ == "__main__":
    main()
