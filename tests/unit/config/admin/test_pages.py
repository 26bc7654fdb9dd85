"""Pages of lists, over a store in memory."""

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


async def test_a_filter_in_several_lines_has_several_pages(plane):
    names = [(await plane.new_tenant(f"t{number}")).name for number in range(3)]
    request = pb.ListTenantsRequest(filter='state = ACTIVE\nAND display_name : ""', page_size=1)
    seen = []
    for _ in names:
        answer = await plane.call("ListTenants", request)
        seen += [tenant.name for tenant in answer.tenants]
        request.page_token = answer.next_page_token
    assert seen == names
    assert not request.page_token
    first = await plane.call("ListTenants", pb.ListTenantsRequest(page_size=1))
    request.page_token = first.next_page_token
    with pytest.raises(InvalidArgumentError):
        await plane.call("ListTenants", request)
