"""Quota leases over a store in memory: concurrent claims, damaged values, refusals."""

from __future__ import annotations

import asyncio

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import quota_lease_service_pb2 as pb
from tenantry.config.v1 import stored_pb2, tenant_pb2, tenant_usage_pb2

from services.common.errors import InvalidArgumentError
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import StoreUnavailableError
from services.config.quota import leases as leases_module
from services.config.quota.leases import QuotaLeases
from services.config.quota.servicer import MAX_DEMANDS, QuotaLeaseServicer
from tests.fakes.config_plane import ConfigPlane

HOUR = tenant_pb2.QUOTA_WINDOW_HOUR


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    plane.tenant = await plane.new_tenant("acme", quotas=[tenant_pb2.Quota(window=HOUR, tokens=1000)])
    plane.key = etcd_keys.quota_key(plane.tenant.tenant_uid, "hour")
    plane.leases = QuotaLeaseServicer(QuotaLeases(plane.store, plane.current, plane.clock))
    return plane


def asks(
    plane,
    sequence,
    router="r1",
    session="s1",
    allowance=tenant_usage_pb2.ALLOWANCE_TOKENS_HOUR,
    uid=None,
    **units,
):
    demand = pb.QuotaDemand(
        tenant_uid=uid or plane.tenant.tenant_uid,
        allowance=allowance,
        **{f"{name}_units": n for name, n in units.items()},
    )
    demand.window_start.FromSeconds(int(plane.clock.wall_seconds()) // 3600 * 3600)
    return pb.LeaseQuotasRequest(router=router, session_id=session, sequence=sequence, demands=[demand])


async def granted(plane, *request, **units):
    response = await plane.leases.LeaseQuotas(asks(plane, *request, **units), None)
    return response.grants[0].granted_units


async def books(plane):
    stored = await plane.store.get(plane.key)
    return stored_pb2.StoredQuota.FromString(stored.value) if stored else None


async def test_what_is_granted_is_on_the_books_first(plane):
    response = await plane.leases.LeaseQuotas(asks(plane, 1, wanted=300), None)
    grant, stored = response.grants[0], await books(plane)
    assert (grant.granted_units, grant.free_units) == (300, 700)
    assert grant.window_end.seconds - grant.window_start.seconds == 3600
    assert (stored.used_units, stored.slices[0].held_units) == (0, 300)
    assert stored.slices[0].expire_time == grant.expire_time


async def test_leases_make_no_snapshots(plane):
    before = plane.current.state
    await granted(plane, 1, wanted=300)
    assert plane.current.state.records is before.records
    assert not plane.key.startswith(etcd_keys.LIVE)


async def test_claims_at_one_moment_never_share_a_token(plane):
    answers = await asyncio.gather(*(granted(plane, 1, f"r{n}", wanted=300) for n in range(8)))
    assert sum(answers) == 1000
    stored = await books(plane)
    assert sum(part.held_units for part in stored.slices) == 1000


async def test_a_write_in_between_is_seen(plane):
    def come_in():
        plane.store.before_write = lambda: None
        other = stored_pb2.StoredQuota(used_units=950)
        other.window_start.FromSeconds(int(plane.clock.wall_seconds()) // 3600 * 3600)
        plane.store.put({plane.key: other.SerializeToString()})

    plane.store.before_write = come_in
    assert await granted(plane, 1, wanted=300) == 50


class Behind:
    """The state of a config service whose watch lags by one edit, until it has been asked once."""

    def __init__(self, old, new):
        self._old, self._new = old, new
        self.asked = 0

    @property
    def state(self):
        self.asked += 1
        return self._old if self.asked == 1 else self._new


async def test_a_quota_lowered_in_between_is_the_one_that_counts(plane):
    before = plane.current.state
    lowered = tenant_pb2.Tenant.FromString(plane.tenant.SerializeToString())
    lowered.config.quotas[0].tokens = 10
    await plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=lowered))
    behind = Behind(before, plane.current.state)
    plane.leases = QuotaLeaseServicer(QuotaLeases(plane.store, behind, plane.clock))
    assert await granted(plane, 1, wanted=300) == 10
    assert behind.asked == 2


async def test_without_a_quota_nothing_is_granted_and_nothing_written(plane):
    assert await granted(plane, 1, allowance=tenant_usage_pb2.ALLOWANCE_TOKENS_DAY, wanted=5) == 0
    assert await granted(plane, 1, uid="nobody", wanted=5) == 0
    listed, _ = await plane.store.list(f"{etcd_keys.ROOT}/quota/")
    assert listed == {}


async def test_a_damaged_account_grants_nothing_and_stays_as_it_is(plane, caplog):
    plane.store.put({plane.key: b"\xff\xff"})
    assert await granted(plane, 1, wanted=5) == 0
    assert (await plane.store.get(plane.key)).value == b"\xff\xff"
    assert "damaged" in caplog.text


async def test_without_the_store_no_answer_is_given(plane):
    plane.store.down = True
    with pytest.raises(StoreUnavailableError):
        await granted(plane, 1, wanted=5)


async def test_a_store_that_hangs_is_not_waited_for(plane, monkeypatch):
    async def hang(key):
        await asyncio.Event().wait()

    monkeypatch.setattr(plane.store, "get", hang)
    monkeypatch.setattr(leases_module, "CLAIM_SECONDS", 0.01)
    with pytest.raises(StoreUnavailableError):
        await granted(plane, 1, wanted=5)


async def test_a_bad_request_names_every_field(plane):
    demand = pb.QuotaDemand(tenant_uid="a/b", allowance=9, used_units=-1)
    bad = pb.LeaseQuotasRequest(sequence=0, demands=[demand, demand])
    with pytest.raises(InvalidArgumentError) as refused:
        await plane.leases.LeaseQuotas(bad, None)
    named = {violation.field for violation in refused.value.violations}
    assert named >= {
        "router", "session_id", "sequence", "demands[0].tenant_uid", "demands[0].allowance",
        "demands[0].used_units", "demands[1]",
    }  # fmt: skip
    for count in (0, MAX_DEMANDS + 1):
        many = pb.LeaseQuotasRequest(router="r", session_id="s", sequence=1, demands=[demand] * count)
        with pytest.raises(InvalidArgumentError, match="demands"):
            await plane.leases.LeaseQuotas(many, None)
