"""The bars of the control plane: each figure beside its bar, and whether it is kept."""

from __future__ import annotations

from dataclasses import dataclass

from scripts.bench.control_plane import Figures, Plan
from scripts.bench.lookups import Lookups

_START_SECONDS = 10.0
_PROPAGATION_P99_MS = 100.0
_SNAPSHOT_MIB = 200.0
# "Does not grow": what is looked up of 10,000 tenants is not in the processor's caches, of 10 it is. Looking at even a
# hundredth of the tenants would show as ten times, not as half as much again.
_LOOKUP_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    name: str
    value: float
    unit: str
    digits: int = 0
    bar: float | None = None
    """The most it may be; none where nothing was promised."""

    @property
    def kept(self) -> bool:
        """Whether it is within its bar."""
        return self.bar is None or self.value <= self.bar

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Name, figure, bar and verdict, to be shown."""
        if self.bar is None:
            return self.name, self._shown(self.value), "", ""
        return self.name, self._shown(self.value), self._shown(self.bar), "kept" if self.kept else "NOT KEPT"

    def _shown(self, value: float) -> str:
        return f"{value:,.{self.digits}f} {self.unit}".rstrip()


def rows(figures: Figures, lookups: Lookups, plan: Plan) -> list[Row]:
    """Every figure; the bars are for `Plan()` and `Shape()`, fewer tenants keep them more easily."""
    few, many = lookups.microseconds
    tenants = f"{plan.tenants:,} tenants"
    snapshot_mib = figures.router_full_mib - figures.router_idle_mib
    return [
        Row("config service: start to serving", figures.config_start_seconds, "s", 1, _START_SECONDS),
        Row(
            f"{plan.routers} routers at once: start to serving",
            figures.router_start_seconds,
            "s",
            1,
            _START_SECONDS,
        ),
        Row("router memory, 1 tenant", figures.router_idle_mib, "MiB"),
        Row(f"router memory, {tenants}", figures.router_full_mib, "MiB"),
        Row("router memory, the snapshot", snapshot_mib, "MiB", 0, _SNAPSHOT_MIB),
        Row(f"config service memory, {tenants}", figures.config_full_mib, "MiB"),
        Row("change sent to in force everywhere, p50", figures.change_p50_ms, "ms"),
        Row("change sent to in force everywhere, p99", figures.change_p99_ms, "ms"),
        Row("change committed to in force everywhere, p50", figures.applied_p50_ms, "ms"),
        Row(
            "change committed to in force everywhere, p99",
            figures.applied_p99_ms,
            "ms",
            0,
            _PROPAGATION_P99_MS,
        ),
        Row("a request's lookups among 10 tenants", few, "µs", 2),
        Row(f"a request's lookups among {tenants}", many, "µs", 2),
        Row("their growth", lookups.growth, "times", 2, _LOOKUP_GROWTH),
    ]


def table(rows: list[Row]) -> str:
    """Aligned columns."""
    cells = [("", "", "at most", ""), *(row.cells for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = (
        f"{row[0]:{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip()
        for row in cells
    )
    return "\n".join(lines)
