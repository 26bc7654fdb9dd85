"""Three real routers behind a real Envoy: what is revoked is so at all of them, and whoever lacks it is named."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import router_status_pb2 as status_pb
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as inference_pb
from tenantry.inference.v1 import inference_service_pb2_grpc as inference_rpc

from services.common.rpc.channel import open_channel
from services.local import specs
from services.local.layout import open_layout
from services.local.mesh import LocalMesh, MeshOptions
from tests.fakes.patience import promised
from tests.integration.mesh_access import Failure, bearer, question
from tests.integration.running_mesh import RunningMesh, running

pytestmark = [pytest.mark.integration, pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]
ROUTERS = ("router-1", "router-2", "router-3")
EXPIRY_SECONDS = 6.0
SHORT = inference_pb.SamplingParameters(max_output_tokens=2)


class ThreeRouters:
    """The mesh, and a way to each of its routers that does not leave the choice to Envoy."""

    def __init__(self, mesh: RunningMesh, channels: dict[str, grpc.aio.Channel]) -> None:
        self.mesh = mesh
        self.direct = {
            name: inference_rpc.InferenceServiceStub(channel) for name, channel in channels.items()
        }

    async def ask(self, key, router=None):
        """One request: by way of Envoy, or at one router."""
        stub = self.direct[router] if router else self.mesh.access.inference
        return await stub.Generate(question("Hello?", parameters=SHORT), metadata=bearer(key), timeout=30)

    async def reasons(self, key):
        """What became of ten requests at each router and of thirty by way of Envoy."""
        ways = [router for router in ROUTERS for _ in range(10)] + [None] * 30
        return await asyncio.gather(*(self.outcome(key, way) for way in ways))

    async def outcome(self, key, router=None):
        try:
            await self.ask(key, router)
        except grpc.RpcError as error:
            return Failure.of(error).reason
        return "OK"

    async def wait(self, revision=0, seconds=10.0):
        request = admin_pb.WaitForPropagationRequest(revision=revision)
        return await self.mesh.admin("WaitForPropagation", request, timeout_seconds=seconds)

    async def listed(self):
        answer = await self.mesh.admin("ListRouters", admin_pb.ListRoutersRequest())
        return {router.router: router.state for router in answer.routers}

    def signal(self, process, number):
        pid = self.mesh.local._supervisor[process].pid
        assert pid is not None
        os.kill(pid, number)

    @contextlib.contextmanager
    def stopped(self, process):
        """Alive, connected and silent."""
        self.signal(process, signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(process, signal.SIGCONT)

    async def edit(self):
        """Change something that every router gets."""
        made = await self.mesh.admin(
            "CreateKey", admin_pb.CreateKeyRequest(parent=f"tenants/{self.mesh.tenants[0]}")
        )
        assert made.secret


ALL_CURRENT = dict.fromkeys(ROUTERS, status_pb.ROUTER_STATE_CURRENT)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def routers(prepared_model, pytestconfig):
    made = specs.config

    def forgets_soon(*given):
        spec = made(*given)
        expiry = {"TENANTRY_CONFIG_ROUTER_EXPIRY_SECONDS": str(EXPIRY_SECONDS)}
        return dataclasses.replace(spec, env={**spec.env, **expiry})

    # pytest's own directories are often too deep for a socket.
    folder = Path(tempfile.mkdtemp(prefix="mesh-"))
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(specs, "config", forgets_soon)
            with open_layout(folder / "state", pytestconfig.cache.mkdir("models")) as layout:
                async with (
                    running(LocalMesh(layout, MeshOptions(routers=3))) as mesh,
                    contextlib.AsyncExitStack() as stack,
                ):
                    channels = {
                        name: await stack.enter_async_context(open_channel(layout.target(name)))
                        for name in ROUTERS
                    }
                    yield ThreeRouters(mesh, channels)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def test_every_router_is_known_and_current(routers):
    answer = await routers.wait()
    assert (answer.complete, answer.applied_routers, list(answer.missing)) == (True, 3, [])
    assert await routers.listed() == ALL_CURRENT


async def test_a_revoked_key_is_refused_by_every_router_once_propagation_is_complete(routers):
    tenant = await routers.mesh.new_tenant()
    assert (await routers.wait()).complete
    for router in ROUTERS:
        assert (await routers.ask(tenant.key, router)).text
    started = time.monotonic()
    await routers.mesh.admin("RevokeKey", admin_pb.RevokeKeyRequest(name=tenant.key_name))
    answer = await routers.wait()
    assert (answer.complete, answer.applied_routers) == (True, 3)
    assert time.monotonic() - started < promised(2.0)
    assert set(await routers.reasons(tenant.key)) == {"KEY_REFUSED"}


async def test_a_suspended_tenant_is_refused_by_every_router_and_served_again_when_resumed(routers):
    tenant = await routers.mesh.new_tenant()
    started = time.monotonic()
    suspended = await routers.mesh.admin("SuspendTenant", admin_pb.SuspendTenantRequest(name=tenant.name))
    answer = await routers.wait(suspended.revision)
    assert (answer.revision, answer.complete, answer.applied_routers) == (suspended.revision, True, 3)
    assert time.monotonic() - started < promised(2.0)
    assert set(await routers.reasons(tenant.key)) == {"TENANT_SUSPENDED"}
    resumed = await routers.mesh.admin("ResumeTenant", admin_pb.ResumeTenantRequest(name=tenant.name))
    assert (await routers.wait(resumed.revision)).complete
    for router in ROUTERS:
        assert (await routers.ask(tenant.key, router)).text


async def test_a_router_that_hangs_is_named_and_the_others_are_not(routers):
    assert (await routers.wait()).complete
    with routers.stopped("router-2"):
        await routers.edit()
        started = time.monotonic()
        answer = await routers.wait(seconds=30.0)
        assert time.monotonic() - started < promised(5.0)
        assert (answer.complete, answer.applied_routers) == (False, 2)
        (missing,) = answer.missing
        assert missing.router == "router-2"
        assert missing.state in {status_pb.ROUTER_STATE_UNREACHABLE, status_pb.ROUTER_STATE_APPLYING}
        assert 0 < missing.applied_revision < answer.revision
        states = await routers.listed()
        assert {states["router-1"], states["router-3"]} == {status_pb.ROUTER_STATE_CURRENT}
    # It has to speak before it is waited for: until then it is out of reach, and waiting would be in vain.
    await routers.mesh.until(routers.listed, ALL_CURRENT)
    answer = await routers.wait()
    assert (answer.complete, answer.applied_routers) == (True, 3)


async def test_a_killed_router_is_named_then_forgotten_and_counts_again_when_it_is_back(routers):
    assert (await routers.wait()).complete
    async with routers.mesh.down("router-3"):
        killed = time.monotonic()
        await routers.edit()
        answer = await routers.wait(seconds=5.0)
        assert (answer.complete, answer.applied_routers) == (False, 2)
        (missing,) = answer.missing
        assert (missing.router, missing.state) == ("router-3", status_pb.ROUTER_STATE_UNREACHABLE)
        rest = dict.fromkeys(("router-1", "router-2"), status_pb.ROUTER_STATE_CURRENT)
        await routers.mesh.until(routers.listed, rest)
        assert time.monotonic() - killed > EXPIRY_SECONDS - 1.0
        answer = await routers.wait(answer.revision)
        assert (answer.complete, answer.applied_routers) == (True, 2)
    await routers.mesh.until(routers.listed, ALL_CURRENT)
    assert (await routers.wait()).applied_routers == 3


async def test_with_etcd_silent_every_router_flags_its_answers_or_refuses_as_the_tenant_chose(routers):
    serves = await routers.mesh.new_tenant()
    refuses = await routers.mesh.new_tenant(staleness_policy=tenant_pb2.STALENESS_POLICY_REFUSE)
    assert (await routers.wait()).complete
    for router in ROUTERS:
        assert not (await routers.ask(serves.key, router)).provenance.stale
        assert await routers.outcome(refuses.key, router) == "OK"

    async def refused():
        return {await routers.outcome(refuses.key, router) for router in ROUTERS}

    with routers.stopped("etcd"):
        stopped = time.monotonic()
        await routers.mesh.until(refused, {"CONFIG_STALE"})
        assert time.monotonic() - stopped < promised(10.0)
        for router in ROUTERS:
            assert (await routers.ask(serves.key, router)).provenance.stale
    await routers.mesh.until(refused, {"OK"})
    assert not (await routers.ask(serves.key)).provenance.stale
