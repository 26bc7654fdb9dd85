"""Points in time as options give them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from services.cli.moments import moment
from services.common.command_errors import UsageError

NOW = datetime(2026, 12, 31, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-12-31", "2026-12-31T00:00:00+00:00"),
        ("2026-12-31T10:30", "2026-12-31T10:30:00+00:00"),
        ("2026-12-31T10:30+02:00", "2026-12-31T08:30:00+00:00"),
        ("2026-12-31T10:30:05.5Z", "2026-12-31T10:30:05.500000+00:00"),
        ("30m", "2026-12-31T11:30:00+00:00"),
        ("24h", "2026-12-30T12:00:00+00:00"),
        ("7d", "2026-12-24T12:00:00+00:00"),
    ],
)
def test_a_time_is_a_day_a_minute_or_so_long_ago(text, meant):
    expected = datetime.fromisoformat(meant)
    assert moment(text, NOW, "--since") == int(expected.timestamp() * 1_000_000) * 1000


def test_no_time_is_no_bound():
    assert moment("", NOW, "--since") is None


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "999999w", "5y", "-1d", "٣d"])
def test_anything_else_is_a_usage_error_that_names_the_option(text):
    with pytest.raises(UsageError, match="--until"):
        moment(text, NOW, "--until")
