"""Points in time as people give them: a day, a minute, or so long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from services.common.command_errors import UsageError

_AGO = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str, now: datetime, option: str) -> int | None:
    """A point in time, in nanoseconds since the Unix epoch; None for an empty text.

    Args:
        text: `2026-12-31`, `2026-12-31T10:00` with or without an offset (UTC without), or `24h` for a day ago.
        now: the present.
        option: named in the error.

    Raises:
        UsageError: it is neither.
    """
    if not text:
        return None
    ago = _AGO.fullmatch(text)
    try:
        found = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])}) if ago else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option} {text} is not a time.", "Give 2026-12-31, 2026-12-31T10:00, 24h or 7d."
        ) from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return int(found.timestamp() * 1_000_000) * 1000
