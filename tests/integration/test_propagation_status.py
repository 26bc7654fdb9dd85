"""Routers remembered over restarts of the config service, in a real etcd under real leases."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import config_discovery_service_pb2 as discovery_pb
from tenantry.config.v1 import router_status_pb2 as status_pb

from services.config.discovery.status_keeper import STATUS_PREFIX
from services.config.etcd.client import EtcdClient
from services.config.etcd.lease import EtcdLeases, LeaseOverError
from services.config.etcd.store import StoreUnavailableError
from tests.fakes.config_service import ConfigServicePlane
from tests.fakes.etcd_process import EtcdProcess

pytestmark = pytest.mark.integration
EXPIRY_SECONDS = 4.0


class Router:
    """Follows discovery under a name and acknowledges everything, until it is cut off."""

    def __init__(self, plane: ConfigServicePlane, name: str) -> None:
        self._call = plane.discovery.StreamSnapshots(wait_for_ready=True)
        self._name = name
        self._left = False
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        hello = discovery_pb.RouterHello(router=self._name)
        await self._call.write(discovery_pb.StreamSnapshotsRequest(hello=hello))
        while True:
            message = await self._call.read()
            if self._left:
                if message is grpc.aio.EOF:
                    return
                continue
            answer = discovery_pb.StreamSnapshotsRequest(outcomes=discovery_pb.OutcomeReport())
            if message.WhichOneof("message") == "chunk":
                if not message.chunk.last:
                    continue
                ack = discovery_pb.SnapshotAck(nonce=message.chunk.nonce, revision=message.chunk.revision)
                answer = discovery_pb.StreamSnapshotsRequest(ack=ack)
            await self._call.write(answer)

    async def leave(self) -> None:
        """Stop cleanly."""
        self._left = True
        await self._call.write(discovery_pb.StreamSnapshotsRequest(goodbye=discovery_pb.RouterGoodbye()))
        await self._call.done_writing()
        await self._task

    async def cut(self) -> None:
        self._call.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def plane(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TENANTRY_CONFIG_ROUTER_EXPIRY_SECONDS", str(EXPIRY_SECONDS))
    async with ConfigServicePlane(tmp_path_factory.mktemp("p")) as running:
        yield running


async def listed(plane):
    answer = await plane.call("ListRouters", admin_pb.ListRoutersRequest())
    return {router.router: router.state for router in answer.routers}


async def until(measure, wanted, seconds=60.0):
    async with asyncio.timeout(seconds):
        while await measure() != wanted:  # noqa: ASYNC110 another process's state has no event
            await asyncio.sleep(0.05)


async def remembered(plane):
    channel = plane.etcd.channel()
    try:
        found, _ = await EtcdClient(channel).list(STATUS_PREFIX)
        return {key.removeprefix(STATUS_PREFIX) for key in found}
    finally:
        await channel.close()


async def test_a_restarted_service_names_the_router_that_does_not_come_back_and_then_forgets_it(plane):
    here, gone = Router(plane, "here"), Router(plane, "gone")
    await until(lambda: remembered(plane), {"here", "gone"})
    await plane.service.kill()
    await here.cut()
    await gone.cut()
    await plane.service.start()
    assert set(await listed(plane)) == {"here", "gone"}
    here = Router(plane, "here")
    await until(
        lambda: listed(plane),
        {"here": status_pb.ROUTER_STATE_CURRENT, "gone": status_pb.ROUTER_STATE_UNREACHABLE},
    )
    # The newest revision includes what `gone` never saw.
    await plane.with_catalog()
    answer = await plane.call("WaitForPropagation", admin_pb.WaitForPropagationRequest(), timeout_seconds=8)
    assert [(r.router, r.state) for r in answer.missing] == [("gone", status_pb.ROUTER_STATE_UNREACHABLE)]
    assert (answer.complete, answer.applied_routers) == (False, 1)
    await until(lambda: listed(plane), {"here": status_pb.ROUTER_STATE_CURRENT})
    await until(lambda: remembered(plane), {"here"})
    assert (await plane.call("WaitForPropagation", admin_pb.WaitForPropagationRequest())).complete
    await here.cut()


async def test_routers_that_stop_cleanly_are_missed_by_nobody_after_a_restart(plane):
    here, stopping = Router(plane, "here"), Router(plane, "router")
    await until(lambda: remembered(plane), {"here", "router"})
    await here.cut()
    await stopping.leave()
    await until(lambda: listed(plane), {"here": status_pb.ROUTER_STATE_UNREACHABLE})
    await plane.service.end()
    await plane.service.start()
    assert set(await listed(plane)) == {"here"}


async def test_nothing_is_left_of_routers_and_service_once_their_leases_end(plane):
    router = Router(plane, "r1")
    await until(lambda: remembered(plane), {"r1"})
    await plane.service.kill()
    await router.cut()
    await until(lambda: remembered(plane), set(), seconds=4 * EXPIRY_SECONDS)


async def test_statuses_make_no_snapshots(plane):
    router = Router(plane, "r1")
    await until(lambda: remembered(plane), {"r1"})
    follower = plane.discovery.StreamSnapshots()
    await follower.write(discovery_pb.StreamSnapshotsRequest(hello=discovery_pb.RouterHello(router="quiet")))
    chunks, ends = 0, time.monotonic() + 2 * EXPIRY_SECONDS
    while time.monotonic() < ends:
        message = await follower.read()
        if message.WhichOneof("message") == "chunk":
            chunks += 1
            ack = discovery_pb.SnapshotAck(nonce=message.chunk.nonce, revision=message.chunk.revision)
            await follower.write(discovery_pb.StreamSnapshotsRequest(ack=ack))
    assert chunks == 1
    follower.cancel()
    await router.cut()


async def test_leases_end_and_say_so(tmp_path):
    async with EtcdProcess(tmp_path) as etcd:
        channel = etcd.channel()
        leases, client = EtcdLeases(channel), EtcdClient(channel)
        lease = await leases.grant(2)
        await client.write([], {"/old": b"1"})
        await leases.write(lease, {"/a": b"1"}, ["/old"])
        assert (await client.get("/a")).value == b"1"
        assert await client.get("/old") is None
        await until(lambda: client.get("/a"), None)
        with pytest.raises(LeaseOverError):
            await leases.write(lease, {"/a": b"2"})
        await etcd.kill()
        with pytest.raises(StoreUnavailableError):
            await leases.grant(2)
        await channel.close()
