"""The report as one HTML page, which loads nothing: figures in words, tables, charts. Pure."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from scripts.bench.neighbours.charts import Axis, Line, cumulative, line_chart, swatch
from scripts.bench.neighbours.comparison import (
    DISCIPLINES,
    FCFS,
    HEADINGS,
    VTC,
    Row,
    cells,
    conditions,
    rows,
    select,
    shown_seconds,
    workloads_of,
)
from scripts.bench.neighbours.figures import RunFigures, pooled
from scripts.bench.neighbours.workloads import Attack, Workload

_STYLE = Path(__file__).with_name("report.css").read_text("utf-8")
_ATTACK_CLASSES = {Attack.ABSENT: "quiet", Attack.AT_SHARE: "a", Attack.TENFOLD: "b"}
_TEXT_COLUMNS = 4
_INTRODUCTION = (
    "<p>Every workload runs with the attacker absent, at its share of the engine, and at ten times that; once first "
    "come, first served (FCFS), once by the virtual token counter (VTC). Both get the same requests.</p>"
)


def as_html(runs: Sequence[RunFigures], facts: dict[str, str]) -> str:
    """The whole page."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    made = list(rows(runs))
    body = [
        "<h1>What tenants feel of one another</h1>",
        _INTRODUCTION,
        f'<p class="dim">{escape(conditions(runs))}.</p>',
        "<h2>In short</h2>",
        _table(_SHORT_HEADINGS, [_short(workload, made) for workload in workloads_of(runs)], 2),
    ]
    for workload in workloads_of(runs):
        body += _section(workload, runs, [row for row in made if row.workload == workload.name])
    shown_facts = ", ".join(f"{name} {fact}" for name, fact in facts.items())
    body.append(f"<footer><p>{escape(shown_facts)}</p></footer>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Fairness of tenantry's queues</title><style>{_STYLE}</style></head><body><main>"
        + "\n".join(body)
        + "</main></body></html>\n"
    )


_SHORT_HEADINGS = (
    "workload", "tenant", "p99, attacker at its share", "p99 at 10x", "at 10x: FCFS", "goodput at 10x", "FCFS",
    "tokens/s at 10x", "FCFS",
)  # fmt: skip


def _short(workload: Workload, made: Sequence[Row]) -> tuple[str, ...]:
    """The first victim of a workload, in a line."""
    victim = next(tenant.name for tenant in workload.tenants if tenant.name != workload.attacker)

    def row(attack: Attack, discipline: str) -> Row | None:
        wanted = (workload.name, str(attack), discipline, victim)
        return next((r for r in made if (r.workload, r.attack, r.discipline, r.tenant) == wanted), None)

    share, fair, unfair = row(Attack.AT_SHARE, VTC), row(Attack.TENFOLD, VTC), row(Attack.TENFOLD, FCFS)
    return (
        workload.name,
        victim,
        *(shown_seconds(one.p99_seconds if one else math.nan) for one in (share, fair, unfair)),
        *(f"{one.goodput:.1%}" if one else "-" for one in (fair, unfair)),
        *(f"{one.tokens_a_second:,.0f}" if one else "-" for one in (fair, unfair)),
    )


def _section(workload: Workload, runs: Sequence[RunFigures], made: Sequence[Row]) -> list[str]:
    strongest = [attack for attack in Attack if select(runs, workload, attack, VTC)][-1]
    return [
        f"<h2>{escape(workload.name)}</h2><p>{escape(workload.says[0].upper() + workload.says[1:])}.</p>",
        '<div class="charts">',
        *_service_charts(workload, runs, strongest),
        *_first_token_charts(workload, runs),
        "</div>",
        _table(HEADINGS[1:], [cells(row)[1:] for row in made], _TEXT_COLUMNS - 1),
    ]


def _service_charts(workload: Workload, runs: Sequence[RunFigures], attack: Attack) -> list[str]:
    """One a discipline, at the same scale; of the first round."""
    first = {discipline: select(runs, workload, attack, discipline)[0] for discipline in DISCIPLINES}
    high = max(one.service[-1] for run in first.values() for one in run.tenants) or 1.0
    across = Axis("seconds", 0.0, float(len(first[VTC].tenants[0].service)))
    up = Axis("service given (input + 2 output tokens)", 0.0, high * 1.05)
    figures = []
    for discipline, run in first.items():
        lines = []
        for one, css_class in zip(run.tenants, ("a", "b", "c"), strict=False):
            points = ((0.0, 0.0), *((second, given) for second, given in enumerate(one.service, 1)))
            lines.append(Line(one.tenant, tuple(points), css_class))
        title = f"{discipline}: service over time, attacker {attack}"
        figures.append(_figure(title, line_chart(f"{workload.name}, {title}", lines, across, up), lines))
    return figures


def _first_token_charts(workload: Workload, runs: Sequence[RunFigures]) -> list[str]:
    """One a victim."""
    figures = []
    for tenant in (one.name for one in workload.tenants if one.name != workload.attacker):
        lines = []
        for attack, css_class in _ATTACK_CLASSES.items():
            for discipline in DISCIPLINES:
                points = cumulative(pooled(select(runs, workload, attack, discipline), tenant))
                dashed = " dashed" if discipline == FCFS else ""
                if points:
                    lines.append(Line(f"{discipline}, attacker {attack}", points, css_class + dashed))
        times = [1000 * seconds for line in lines for seconds, _ in line.points]
        if not times:
            continue
        across = Axis("first token after at most, ms", _down(min(times)), _up(max(times)), logarithmic=True)
        scaled = [
            Line(one.name, tuple((1000 * seconds, part) for seconds, part in one.points), one.css_class)
            for one in lines
        ]
        title = f"{tenant}: first token"
        chart = line_chart(f"{workload.name}, {title}", scaled, across, Axis("% of requests", 0.0, 100.0))
        figures.append(_figure(title, chart, scaled))
    return figures


def _down(value: float) -> float:
    return float(10 ** math.floor(math.log10(max(value, 0.1))))


def _up(value: float) -> float:
    return float(10 ** (math.floor(math.log10(max(value, 0.1))) + 1))


def _figure(caption: str, chart: str, lines: Sequence[Line]) -> str:
    legend = "".join(f"<li>{swatch(line.css_class)}{escape(line.name)}</li>" for line in lines)
    return (
        f'<figure><figcaption>{escape(caption)}</figcaption>{chart}<ul class="legend">{legend}</ul></figure>'
    )


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]], text_columns: int) -> str:
    def cell(tag: str, column: int, text: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        css_class = ' class="text"' if column < text_columns else ""
        return f"<{tag}{scope}{css_class}>{escape(text)}</{tag}>"

    head = "".join(cell("th", column, text) for column, text in enumerate(headings))
    body = "".join(
        f"<tr>{''.join(cell('td', column, text) for column, text in enumerate(line))}</tr>" for line in lines
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
