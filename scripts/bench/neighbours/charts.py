"""Line charts as SVG text, without styles: the page's style sheet has the classes. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 40
_MIN_TICKS = 4


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart."""

    name: str
    points: tuple[tuple[float, float], ...]
    css_class: str


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from `low` to `high`."""

    label: str
    low: float
    high: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Where a value is, from 0 to 1."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Round values: powers of ten, or four to nine even ones."""
        if self.logarithmic:
            exponents = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            return [10.0**exponent for exponent in exponents]
        span = self.high - self.low
        step = 10.0 ** math.floor(math.log10(span))
        while span / step < _MIN_TICKS:
            step /= 2
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def line_chart(title: str, lines: Sequence[Line], across: Axis, up: Axis) -> str:
    """A chart; its title is read out for those who do not see it."""
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
        *_grid(across, up),
    ]
    for line in lines:
        points = " ".join(f"{_x(across, x):.1f},{_y(up, y):.1f}" for x, y in line.points)
        parts.append(
            f'<polyline class="line {line.css_class}" points="{points}"><title>{escape(line.name)}</title></polyline>'
        )
    parts.append("</svg>")
    return "".join(parts)


def swatch(css_class: str) -> str:
    """A piece of a line, for a legend."""
    return (
        '<svg class="swatch" viewBox="0 0 30 8" aria-hidden="true">'
        f'<polyline class="line {css_class}" points="1,4 29,4"/></svg>'
    )


def _grid(across: Axis, up: Axis) -> list[str]:
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts = []
    for value in up.ticks():
        y = _y(up, value)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{y + 4:.1f}">{_shown(value)}</text>')
    for value in across.ticks():
        x = _x(across, value)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="tick middle" x="{x:.1f}" y="{bottom + 16}">{_shown(value)}</text>')
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text class="label middle" x="{middle:.1f}" y="{HEIGHT - 6}">{escape(across.label)}</text>'
    )
    parts.append(
        f'<text class="label middle" transform="translate(13 {(_TOP + bottom) / 2:.1f}) rotate(-90)">'
        f"{escape(up.label)}</text>"
    )
    return parts


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.at(value) * (WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - _BOTTOM - axis.at(value) * (HEIGHT - _TOP - _BOTTOM)


def _shown(value: float) -> str:
    if value >= 1000:
        return f"{value / 1000:,.10g}k"
    return f"{value:.10g}"


def cumulative(ordered: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """The part of values, in percent, that is at most so large, as steps; it ends below 100 where some are infinite."""
    points: list[tuple[float, float]] = []
    for place, value in enumerate(ordered):
        if math.isinf(value):
            break
        points += [(value, 100 * place / len(ordered)), (value, 100 * (place + 1) / len(ordered))]
    return tuple(points)
