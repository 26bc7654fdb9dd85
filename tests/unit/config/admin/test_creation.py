"""Creating a tenant during an edit of the pool that it names, over a store in memory."""

from __future__ import annotations

import pytest
from tenantry.config.v1 import pool_pb2

from services.common.errors import InvalidArgumentError
from services.config.etcd import keys as etcd_keys
from tests.fakes.config_plane import ConfigPlane


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    return plane


async def create_while_the_pool_changes(plane, **changes):
    changed = pool_pb2.Pool()
    changed.CopyFrom(plane.current.state.pool("pools/p").pool)
    changed.MergeFrom(pool_pb2.Pool(**changes))

    def come_in():
        plane.store.before_write = lambda: None
        plane.store.put({etcd_keys.pool_key("p"): changed.SerializeToString()})

    plane.store.before_write = come_in
    return await plane.new_tenant("acme", pool="pools/p")


async def test_a_pool_that_changes_in_between_does_not_hold_up_a_creation(plane):
    made = await create_while_the_pool_changes(plane, server_model="another")
    assert made.config.pool == "pools/p"


async def test_a_tenant_is_not_created_on_a_pool_that_was_dedicated_in_between(plane):
    await plane.new_tenant("globex")
    with pytest.raises(InvalidArgumentError):
        await create_while_the_pool_changes(plane, dedicated_to="tenants/globex")
    assert plane.current.state.tenant("acme") is None
