"""Filters of tenant lists, over a store in memory."""

from __future__ import annotations

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb

from services.common.errors import InvalidArgumentError
from tests.fakes.config_plane import ConfigPlane


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    return plane


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["acme", "globex"]),
        ("state = SUSPENDED", ["globex"]),
        ('state=ACTIVE AND display_name : "AC"', ["acme"]),
        ("pool = pools/p", ["acme"]),
        ("display_name = Acme", []),
    ],
)
async def test_lists_are_filtered(plane, text, names):
    tenant = await plane.new_tenant("acme", pool="pools/p")
    tenant.display_name = "The Acme company"
    await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))
    await plane.new_tenant("globex")
    await plane.call("SuspendTenant", pb.SuspendTenantRequest(name="tenants/globex"))
    listed = await plane.call("ListTenants", pb.ListTenantsRequest(filter=text))
    assert [one.name.removeprefix("tenants/") for one in listed.tenants] == names


@pytest.mark.parametrize(
    "text", ["state", "state = GONE", "weight = 3", "state = ACTIVE OR state = SUSPENDED", "x" * 600, "AND"]
)
async def test_what_is_no_filter_is_refused(plane, text):
    with pytest.raises(InvalidArgumentError) as refused:
        await plane.call("ListTenants", pb.ListTenantsRequest(filter=text))
    assert [violation.field for violation in refused.value.violations] == ["filter"]
