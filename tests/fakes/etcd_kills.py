"""Operators who never rest, a whole control plane, and an etcd that is killed under them again and again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import stored_pb2
from tenantry.inference.v1 import inference_service_pb2_grpc as inference_rpc

from services.common.rpc.channel import open_channel
from services.config.etcd import keys as etcd_keys
from services.config.etcd.client import EtcdClient
from tests.fakes.served_mesh import ServedMesh
from tests.integration.mesh_access import bearer, question

_RETRY_SECONDS = 0.02
_RECOVERS_WITHIN_SECONDS = 20.0
Version = tuple[int, str]
"""A config's number and digest."""


@dataclass
class Killed:
    """What is left after the last kill."""

    acknowledged: int = 0
    recovery_seconds: list[float] = field(default_factory=list)
    """Of each kill: from etcd being ready until an edit made after that is in force at every router."""
    etcd: dict[str, Version] = field(default_factory=dict)
    routers: list[dict[str, Version]] = field(default_factory=list)
    """What each router answers with."""
    lost_by_etcd: list[str] = field(default_factory=list)
    """Tenants whose newest acknowledged version etcd does not have any more."""


async def edit_through_kills(
    mesh: ServedMesh, kills: int, *, seed: int = 0, tell: Callable[[int, float], None] = lambda *_: None
) -> Killed:
    """Edit three tenants without rest while etcd is killed at random moments."""
    await mesh.new_pool("p")
    tenants = [await mesh.new_tenant(f"edited-{number}") for number in range(3)]
    await mesh.propagated()
    seen, rng, moved = Killed(), random.Random(seed), asyncio.Event()
    newest = {made.tenant_uid: made.config_version for made, _ in tenants}

    async def edit(name: str) -> int:
        tenant = await mesh.plane.call("GetTenant", admin_pb.GetTenantRequest(name=name))
        tenant.config.system_prompt = f"after version {tenant.config_version}"
        edited = await mesh.plane.call("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=tenant))
        newest[edited.tenant_uid] = edited.config_version
        return int(edited.revision)

    async def keep_editing(name: str) -> None:
        while True:
            try:
                await edit(name)
            except grpc.RpcError:
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                seen.acknowledged += 1
                moved.set()

    editing = [asyncio.create_task(keep_editing(made.name)) for made, _ in tenants[:-1]]
    try:
        for kill in range(kills):
            target = seen.acknowledged + rng.randrange(3, 30)
            while seen.acknowledged < target:
                moved.clear()
                await asyncio.wait_for(moved.wait(), _RECOVERS_WITHIN_SECONDS)
            await mesh.plane.etcd.kill()
            await mesh.plane.etcd.start()
            ready_at = time.monotonic()
            await _in_force(mesh, lambda: edit(tenants[-1][0].name))
            seen.recovery_seconds.append(time.monotonic() - ready_at)
            tell(kill + 1, seen.recovery_seconds[-1])
    finally:
        for task in editing:
            task.cancel()
        await asyncio.gather(*editing, return_exceptions=True)
    await _in_force(mesh, lambda: edit(tenants[-1][0].name))
    seen.etcd = await _stored(mesh, [made.tenant_uid for made, _ in tenants])
    seen.routers = [await _answered(mesh, router, tenants) for router in mesh.router_targets]
    seen.lost_by_etcd = [uid for uid, version in newest.items() if seen.etcd[uid][0] < version]
    return seen


async def _in_force(mesh: ServedMesh, edit: Callable[[], Awaitable[int]]) -> None:
    async with asyncio.timeout(_RECOVERS_WITHIN_SECONDS):
        while True:
            try:
                await mesh.propagated(await edit())
            except grpc.RpcError:
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return


async def _stored(mesh: ServedMesh, uids: list[str]) -> dict[str, Version]:
    async with open_channel(mesh.plane.etcd.target) as channel:
        found, _ = await EtcdClient(channel).list(etcd_keys.LIVE)
    tenants = (stored_pb2.StoredTenant.FromString(found[etcd_keys.tenant_key(uid)].value) for uid in uids)
    return {tenant.tenant_uid: (tenant.config_version, tenant.config_sha256) for tenant in tenants}


async def _answered(mesh: ServedMesh, router_target: str, tenants: list[tuple]) -> dict[str, Version]:
    async with open_channel(router_target) as channel:
        stub = inference_rpc.InferenceServiceStub(channel)
        found = {}
        for made, key in tenants:
            got = await stub.Generate(question("hello"), metadata=bearer(key), timeout=10)
            found[made.tenant_uid] = (got.provenance.config_version, got.provenance.config_sha256)
    return found
