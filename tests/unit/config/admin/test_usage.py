"""What a tenant has used: its own admins and platform-admins see it, others do not."""

from __future__ import annotations

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import quota_lease_service_pb2 as lease_pb
from tenantry.config.v1 import tenant_pb2, tenant_usage_pb2

from services.common.errors import NotFoundError
from services.config.etcd import keys as etcd_keys
from services.config.quota.leases import QuotaLeases
from services.config.quota.servicer import QuotaLeaseServicer
from tests.fakes.config_plane import ConfigPlane

HOUR, DAY = tenant_pb2.QUOTA_WINDOW_HOUR, tenant_pb2.QUOTA_WINDOW_DAY


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    plane.tenant = await plane.new_tenant(
        "acme",
        quotas=[tenant_pb2.Quota(window=HOUR, tokens=1000)],
        spend_budgets=[tenant_pb2.SpendBudget(window=DAY, micro_units=70)],
        prices=[tenant_pb2.TokenPrice(base_model="models/m")],
        shadow_limits=[tenant_pb2.LIMIT_SPEND_DAY],
    )
    plane.leases = QuotaLeaseServicer(QuotaLeases(plane.store, plane.current, plane.clock))
    return plane


async def leased(plane, sequence, **units):
    demand = lease_pb.QuotaDemand(
        tenant_uid=plane.tenant.tenant_uid, allowance=tenant_usage_pb2.ALLOWANCE_TOKENS_HOUR, **units
    )
    demand.window_start.FromSeconds(int(plane.clock.wall_seconds()) // 3600 * 3600)
    request = lease_pb.LeaseQuotasRequest(router="r1", session_id="s1", sequence=sequence, demands=[demand])
    await plane.leases.LeaseQuotas(request, None)


async def usage(plane, name="tenants/acme", caller=None):
    return await plane.call("GetTenantUsage", pb.GetTenantUsageRequest(name=name), caller)


async def test_it_shows_what_was_reported_and_what_is_held(plane):
    await leased(plane, 1, wanted_units=300)
    await leased(plane, 2, used_units=120)
    hour, day = (await usage(plane)).allowances
    assert (hour.limit_units, hour.used_units, hour.held_units, hour.enforced) == (1000, 120, 180, True)
    assert hour.window_end.seconds - hour.window_start.seconds == 3600
    assert day.allowance == tenant_usage_pb2.ALLOWANCE_SPEND_DAY
    assert (day.limit_units, day.used_units, day.held_units, day.enforced) == (70, 0, 0, False)


async def test_a_window_that_is_over_shows_nothing(plane):
    await leased(plane, 1, wanted_units=300)
    plane.clock.advance(3600)
    hour, _ = (await usage(plane)).allowances
    assert (hour.used_units, hour.held_units) == (0, 0)


async def test_a_damaged_account_shows_nothing_and_says_so_in_the_log(plane, caplog):
    plane.store.put({etcd_keys.quota_key(plane.tenant.tenant_uid, "hour"): b"\xff\xff"})
    hour, _ = (await usage(plane)).allowances
    assert hour.used_units == 0
    assert "damaged" in caplog.text


async def test_a_tenant_that_does_not_exist_is_not_found(plane):
    with pytest.raises(NotFoundError):
        await usage(plane, "tenants/nobody")
