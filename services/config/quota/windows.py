"""Quota windows: UTC hours, days and months. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum


class Window(IntEnum):
    """The length of a quota's window; the numbers are those of `tenantry.config.v1.QuotaWindow`."""

    HOUR = 1
    DAY = 2
    MONTH = 3


@dataclass(frozen=True, slots=True)
class Span:
    """One window, from its start up to but not including its end; seconds since the Unix epoch."""

    start_seconds: int
    end_seconds: int


def span_at(window: Window, wall_seconds: float) -> Span:
    """The window that a moment lies in."""
    moment = datetime.fromtimestamp(wall_seconds, UTC)
    if window is Window.HOUR:
        start = moment.replace(minute=0, second=0, microsecond=0)
        end = start + timedelta(hours=1)
    elif window is Window.DAY:
        start = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        end = start + timedelta(days=1)
    else:
        start = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        # Every month has 28 to 31 days, so 32 days later is always in the next one.
        end = (start + timedelta(days=32)).replace(day=1)
    return Span(int(start.timestamp()), int(end.timestamp()))
