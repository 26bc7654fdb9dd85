"""Durations as people say them. Pure."""

from __future__ import annotations

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_TENTHS_BELOW_SECONDS = 10


def spoken(seconds: float) -> str:
    """A duration in its two largest units: `0.4 s`, `42 s`, `2 min 5 s`, `23 h 19 min`, `3 d 4 h`; rounded up."""
    if seconds < _TENTHS_BELOW_SECONDS:
        return f"{max(seconds, 0.1):.1f} s"
    whole = int(seconds) + (seconds > int(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    for unit, name, smaller, smaller_name in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= unit:
            large, rest = divmod(-(-whole // smaller) * smaller, unit)
            return f"{large} {name}" + (f" {rest // smaller} {smaller_name}" if rest else "")
    raise AssertionError("seconds are said above")
