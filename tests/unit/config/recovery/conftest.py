"""The state directory of a config service that was stopped cleanly."""

from __future__ import annotations

import pytest

from services.config.etcd import keys as etcd_keys
from services.config.etcd.follower import KeyChange
from services.config.recovery import last_known_good
from tests.fakes.manual_clock import ManualClock
from tests.unit.config.recovery.kept_config import Process, pools


@pytest.fixture
def etcd_gets_no_time(monkeypatch):
    monkeypatch.setattr(last_known_good, "START_SECONDS", 0.0)
    monkeypatch.setattr(last_known_good, "PAGE_SECONDS", 0.0)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def kept(tmp_path, clock):
    """A state directory after a clean stop at revision 9."""
    process = Process(tmp_path, clock)
    process.etcd_lists(pools(5, a="one", b="one"), 7)
    changed = {**pools(9, a="two"), etcd_keys.pool_key("b"): None}
    changes = [KeyChange(key, stored, 9) for key, stored in changed.items()]
    process.etcd_changes(changes, 9)
    await process.stops()
    return tmp_path
