"""Two hundred kills of routers, config service and etcd while one quota is spent."""

from __future__ import annotations

import pytest

from tests.fakes.quota_windows import within_one_month
from tests.integration.test_quota_kills import plane, spend_through_kills

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.timeout(900)]
KILLS = 200
__all__ = ["plane"]


async def test_kills_overshoot_nothing_and_lose_no_usage(plane, tell):
    await within_one_month(lambda: spend_through_kills(plane, KILLS))
    tell.figure("kills", KILLS)
