"""Scenarios whose figures are those of one quota window, on whichever day they run."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from services.config.quota.windows import Span, Window, span_at

T = TypeVar("T")


async def within_one_month(scenario: Callable[[], Awaitable[T]]) -> T:
    """Run a scenario; where it fails and a month ended meanwhile, run it again, from its beginning, in the new one."""
    month = _month()
    try:
        return await scenario()
    except (Exception, pytest.fail.Exception):
        if _month() == month:
            raise
    return await scenario()


def _month() -> Span:
    return span_at(Window.MONTH, time.time())
