"""After a config service died between etcd's answer and the audit service's, the next one records the versions."""

from __future__ import annotations

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb

from services.common.audit.writer import AuditReceipt, AuditUnavailableError, EntryKind
from services.config.etcd import keys as etcd_keys
from services.config.intents import version_replay
from services.config.intents.version_replay import NEWEST_SECONDS, lately_changed
from services.config.state.config_state import ConfigStateBuilder
from services.config.state.current_state import CurrentState
from tests.fakes.config_plane import ConfigPlane
from tests.fakes.mutants import changed


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    return plane


class NextProcess:
    """A config service that starts over what is in etcd; an audit service that keeps one entry of a record id."""

    def __init__(self, plane, recorded=()):
        self.plane, self.down = plane, 0
        self.entries = {
            entry.record_id: entry for entry in recorded if entry.kind is EntryKind.CONFIG_VERSION
        }
        self.appended = []

    async def append(self, entry, timeout_seconds):
        if self.down:
            self.down -= 1
            raise AuditUnavailableError("not yet")
        self.appended.append(entry)
        assert self.entries.setdefault(entry.record_id, entry) == entry, "another entry under the same id"
        return AuditReceipt(entry.tenant_uid, len(self.entries), b"")

    async def starts(self, module=version_replay):
        self.current = CurrentState(ConfigStateBuilder(self.plane.keys), self.plane.clock)
        self.current.replace(*await self.plane.store.list(etcd_keys.LIVE))
        await module.VersionReplay(self.current, self.plane.store, self).run()
        return self

    @property
    def recorded(self):
        return sorted(
            (entry.meta["config_version"], entry.prompt["config"].get("weight", 1))
            for entry in self.entries.values()
        )


async def reweigh(plane, weight, name="tenants/acme"):
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name=name))
    tenant.config.weight = weight
    await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))


async def dies_before_it_records(plane):
    """Versions 2 and 3 are in etcd, and their entries died with the process."""
    await plane.new_tenant("acme", weight=1)
    recorded = list(plane.entries)
    await reweigh(plane, 2)
    await reweigh(plane, 3)
    return recorded


async def test_versions_that_nobody_told_are_told_at_the_next_start(plane):
    following = NextProcess(plane, await dies_before_it_records(plane))
    assert following.recorded == [(1, 1)]
    following.down = 2
    assert (await following.starts()).recorded == [(1, 1), (2, 2), (3, 3)]


async def test_that_test_notices_a_start_that_tells_only_the_version_in_force(plane):
    only_the_newest = changed(
        version_replay,
        "all-recent-versions",
        "if version.config_version != record.stored.config_version: return None",
    )
    following = NextProcess(plane, await dies_before_it_records(plane))
    assert (await following.starts(only_the_newest)).recorded == [(1, 1), (3, 3)]


async def test_what_was_told_is_the_same_entry_again(plane):
    await dies_before_it_records(plane)
    following = await NextProcess(plane, plane.entries).starts()
    assert len(following.appended) == len(following.entries) == 3


async def test_what_is_old_is_left_alone(plane):
    await dies_before_it_records(plane)
    plane.clock.advance(NEWEST_SECONDS + 1)
    await plane.new_tenant("globex", weight=9)
    assert [record.name for record in lately_changed(plane.current.state)] == ["tenants/globex"]
    assert (await NextProcess(plane).starts()).recorded == [(1, 9)]


async def test_a_version_that_was_changed_in_etcd_is_named_and_not_told(plane, caplog):
    await dies_before_it_records(plane)
    uid = plane.current.state.tenant("acme").stored.tenant_uid
    two = await plane.store.get(etcd_keys.version_key(uid, 2))
    plane.store.put({etcd_keys.version_key(uid, 3): two.value})
    assert (await NextProcess(plane).starts()).recorded == [(1, 1), (2, 2)]
    assert f"ALARM: {etcd_keys.version_key(uid, 3)} is not what was written" in caplog.text


async def test_it_is_bounded(plane, monkeypatch):
    monkeypatch.setattr(version_replay, "MAX_TENANTS", 2)
    for number in range(3):
        plane.clock.advance(1)
        await plane.new_tenant(f"tenant-{number}")
    assert [record.name for record in lately_changed(plane.current.state)] == [
        "tenants/tenant-2",
        "tenants/tenant-1",
    ]
