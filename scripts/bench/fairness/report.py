"""The figures as one HTML file: no script, no network, light and dark. Pure."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from scripts.bench.fairness.figures import Run
from scripts.bench.fairness.workloads import Level, Workload

_WIDTH, _HEIGHT, _MARGIN = 420, 180, 34
_STYLE = """
:root { color-scheme: light dark; --victim: #1769aa; --attacker: #c2571a; --line: #8888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
figure { display: inline-block; margin: .5rem 1rem .5rem 0; }
figcaption { font-size: .85rem; }
svg { max-width: 100%; } svg text { font-size: 10px; fill: currentColor; }
.victim { stroke: var(--victim); } .attacker { stroke: var(--attacker); }
.line { fill: none; stroke-width: 2; } .dashed { stroke-dasharray: 5 4; }
.axis { stroke: var(--line); } .key-victim { color: var(--victim); } .key-attacker { color: var(--attacker); }
"""
_CSP = "default-src 'none'; style-src 'unsafe-inline'"


def page(runs: Sequence[Run], workloads: Iterable[Workload], about: str) -> str:
    """The whole report.

    Args:
        runs: of every workload, level and queue.
        workloads: in their order.
        about: how the figures were taken, in a sentence or two.
    """
    parts = [
        _part(workload, [one for one in runs if one.workload == workload.name]) for workload in workloads
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_CSP}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>How fairly a pool is shared</title><style>{_STYLE}</style></head><body>"
        "<h1>How fairly a pool is shared</h1>"
        "<p>A victim keeps to half of its share of a pool. Another tenant is absent, keeps to exactly its share, or"
        " sends ten times as much. Look at the victim's first-token p99: beside ten times as much it should be what it"
        " is beside a tenant that keeps to its share.</p>"
        f"<p>{html.escape(about)}</p>" + "".join(parts) + "</body></html>\n"
    )


def _part(workload: Workload, runs: Sequence[Run]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(level_name(one.level))}, {html.escape(one.queue)}</td>"
        + "".join(f"<td>{cell}</td>" for cell in cells(one))
        + "</tr>"
        for one in runs
    )
    heads = "".join(f"<th>{name}</th>" for name in ("the other tenant, queue", *COLUMNS))
    flood = [one for one in runs if one.level is Level.TEN_TIMES]
    charts = "".join(_service_chart(one) for one in flood) + _first_token_chart(runs)
    return (
        f"<h2>{html.escape(workload.name)}</h2><p>The other tenant sends: {html.escape(workload.about)}.</p>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{charts}"
    )


COLUMNS = ("requests", "not served", "answered", "first token p50", "p99", "tokens/s of all")


def cells(one: Run) -> tuple[str, ...]:
    """The figures of a run, by `COLUMNS`."""
    return (
        f"{one.requests:,}",
        f"{one.refused / one.requests:.0%}" if one.requests else "",
        f"{one.goodput:.1%}",
        seconds(one.first_token(0.5)),
        seconds(one.first_token(0.99)),
        f"{one.tokens_a_second:,.0f}",
    )


def seconds(value: float) -> str:
    """A time, or that there was none."""
    return "never" if math.isinf(value) else "" if math.isnan(value) else f"{value:.2f} s"


def level_name(level: Level) -> str:
    """What the other tenant does."""
    return {Level.ABSENT: "absent", Level.AT_ITS_SHARE: "at its share", Level.TEN_TIMES: "ten times"}[level]


def _service_chart(one: Run) -> str:
    most = max((series[-1] for series in one.service.values() if series), default=1.0) or 1.0
    lines = "".join(
        f'<polyline class="line {html.escape(tenant)}" points="{_points(series, len(series), most)}"/>'
        for tenant, series in one.service.items()
    )
    length = max((len(series) for series in one.service.values()), default=0)
    return _figure(
        lines,
        f"0 to {length} s",
        f"{most:,.0f}",
        f"Service given over time, {one.queue}: " + _key(one.service),
    )


def _key(tenants: Iterable[str]) -> str:
    return ", ".join(f'<span class="key-{html.escape(name)}">{html.escape(name)}</span>' for name in tenants)


def _first_token_chart(runs: Sequence[Run]) -> str:
    """The part of the victim's requests that have their first token within a time, on a logarithmic axis."""
    low, high = 0.02, 60.0

    def place(value: float) -> float:
        return math.log(min(max(value, low), high) / low) / math.log(high / low)

    lines = []
    for one in runs:
        if one.level is Level.ABSENT or not one.requests:
            continue
        kind = "victim" if one.queue == "fair" else "attacker"
        dashed = " dashed" if one.level is Level.AT_ITS_SHARE else ""
        steps = [one.first_token(part / 100) for part in range(100)]
        points = " ".join(
            f"{_x(place(value)):.1f},{_y(part / 100):.1f}"
            for part, value in enumerate(steps)
            if not math.isinf(value)
        )
        lines.append(f'<polyline class="line {kind}{dashed}" points="{points}"/>')
    key = (
        'First token of the victim: <span class="key-victim">fair</span>, '
        '<span class="key-attacker">order of arrival</span>; dashed beside a tenant at its share'
    )
    return _figure("".join(lines), "0.02 to 60 s, logarithmic", "100 %", key)


def _figure(lines: str, x_label: str, y_label: str, caption: str) -> str:
    axes = (
        f'<path class="axis line" d="M{_MARGIN},8 V{_HEIGHT - _MARGIN} H{_WIDTH - 8}"/>'
        f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 14}" text-anchor="end">{html.escape(x_label)}</text>'
        f'<text x="4" y="18">{html.escape(y_label)}</text>'
    )
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img">{axes}{lines}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _points(series: Sequence[float], length: int, most: float) -> str:
    return " ".join(
        f"{_x(at / max(length - 1, 1)):.1f},{_y(value / most):.1f}" for at, value in enumerate(series)
    )


def _x(part: float) -> float:
    return _MARGIN + part * (_WIDTH - 8 - _MARGIN)


def _y(part: float) -> float:
    return _HEIGHT - _MARGIN - part * (_HEIGHT - _MARGIN - 8)
