"""A server belongs to one pool, whatever it is called and whoever comes first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import pool_pb2

from services.common.errors import AbortedError, InvalidArgumentError
from services.common.rpc.targets import canonical
from services.config.admin import pools
from services.config.etcd import keys as etcd_keys
from tests.fakes.config_plane import ConfigPlane
from tests.fakes.mutants import changed, without

SERVERS = ("p.internal:8001", "P.Internal:8001", "p.internal.:08001")


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    return plane


def pool_at(plane, *targets) -> pool_pb2.Pool:
    pool = pool_pb2.Pool()
    pool.CopyFrom(plane.current.state.pool("pools/p").pool)
    del pool.endpoints[:]
    for target in targets:
        pool.endpoints.add(target=target)
    return pool


async def create(plane, *targets):
    request = pb.CreatePoolRequest(pool_id="q", pool=pool_at(plane, *targets))
    return await plane.call("CreatePool", request)


async def change(plane, name, **changes):
    pool = await plane.call("GetPool", pb.GetPoolRequest(name=name))
    pool.MergeFrom(pool_pb2.Pool(**changes))
    mask = FieldMask(paths=list(changes))
    return await plane.call("UpdatePool", pb.UpdatePoolRequest(pool=pool, update_mask=mask))


def wrong(error) -> list[tuple[str, str]]:
    return [(violation.field, violation.description) for violation in error.value.violations]


@pytest.mark.parametrize("target", SERVERS)
async def test_a_server_of_another_pool_is_refused_and_the_pool_named(plane, target):
    with pytest.raises(InvalidArgumentError) as refused:
        await create(plane, "q.internal:8001", target)
    assert wrong(refused) == [("pool.endpoints[1].target", "is a server of pools/p; a server has one pool")]


async def test_that_test_notices_a_pool_that_looks_at_no_other(plane, monkeypatch):
    monkeypatch.setattr(
        pools.PoolAdmin, "_require_good", without(pools, "one-pool-a-server").PoolAdmin._require_good
    )
    await create(plane, *SERVERS[:1])


async def test_an_update_takes_no_server_of_another_pool(plane):
    await create(plane, "q.internal:8001")
    with pytest.raises(InvalidArgumentError) as refused:
        await change(plane, "pools/q", endpoints=[pool_pb2.Endpoint(target="p.internal:8001")])
    assert wrong(refused) == [("pool.endpoints[1].target", "is a server of pools/p; a server has one pool")]


async def test_a_server_that_is_named_twice_is_refused(plane):
    with pytest.raises(InvalidArgumentError) as refused:
        await create(plane, "10.0.0.7:8001", "10.0.0.7:8001")
    assert wrong(refused) == [("pool.endpoints[1].target", "names a server of this pool again")]


async def test_what_two_pools_share_from_before_keeps_nobody_from_changing_them(plane):
    shared = pool_at(plane, "p.internal:8001")
    shared.name = "pools/old"
    plane.store.put({etcd_keys.pool_key("old"): shared.SerializeToString()})
    assert (await change(plane, "pools/old", server_model="other")).server_model == "other"


def another_takes_it_meanwhile(plane, target):
    """Another pool is written between a creation's checks and its write."""
    other = pool_at(plane, target)
    other.name = "pools/r"

    def write():
        plane.store.before_write = lambda: None
        plane.store.put({etcd_keys.pool_key("r"): other.SerializeToString()})

    plane.store.before_write = write


async def test_of_two_pools_that_take_a_server_at_once_one_is_refused(plane):
    another_takes_it_meanwhile(plane, "new.internal:8001")
    with pytest.raises(AbortedError):
        await create(plane, "new.internal:8001")
    assert plane.current.state.pool("pools/q") is None


async def test_that_test_notices_a_write_that_does_not_compare(plane):
    careless = changed(pools, "no-other-pool-meanwhile", "no_other = Expect(key, 0)")
    plane.admin = replace(plane.admin, pools=careless.PoolAdmin(plane.edits))
    another_takes_it_meanwhile(plane, "new.internal:8001")
    await create(plane, "new.internal:8001")
    assert plane.current.state.pool("pools/q") is not None


@pytest.mark.parametrize(
    "same",
    [
        ("127.0.0.1:8001", "localhost:8001", "[::1]:8001"),
        ("unix:/run/triton.sock", "unix:///run/triton.sock"),
        ("[2001:db8::7]:8001", "[2001:DB8:0::7]:8001"),
    ],
)
def test_spellings_of_one_server(same):
    assert len({canonical(target) for target in same}) == 1


def test_other_servers():
    targets = ("a:1", "b:1", "a:2", "unix:/a", "unix:/b", "10.0.0.1:1", "localhost:1")
    assert len({canonical(target) for target in targets}) == len(targets)
