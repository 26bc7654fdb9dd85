"""Cold starts without etcd, of real processes: served from the files, flagged, and fresh again when etcd is back."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2_grpc as inference_rpc

from services.common.grpc_channel import open_channel
from tests.fakes.served_mesh import ServedMesh
from tests.integration.mesh_access import bearer, failure_of, question

pytestmark = pytest.mark.integration
CANARY = "quokka-canary-prompt-0457"
COLD_START_SECONDS = 3.0
CONVERGED_SECONDS = 3.0


async def until(true: Callable[[], Any], within_seconds: float = 20.0) -> None:
    async with asyncio.timeout(within_seconds):
        while True:
            found = true()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.02)


class Mesh(ServedMesh):
    """With one router, asked at its own socket, and a tenant of either policy."""

    async def prepare(self) -> None:
        self.router_channel = open_channel(f"unix:{self._folder}/r1.sock")
        self.inference = inference_rpc.InferenceServiceStub(self.router_channel)
        await self.new_pool("p")
        self.tenant, self.key = await self.new_tenant("acme", system_prompt=CANARY)
        _, self.strict_key = await self.new_tenant(
            "strict", staleness_policy=tenant_pb2.STALENESS_POLICY_REFUSE
        )
        waited = await self.plane.call("WaitForPropagation", admin_pb.WaitForPropagationRequest())
        self.revision = waited.revision
        await self.answered(stale=False, within_seconds=20)

    async def ask(self, key: str):
        return await self.inference.Generate(question("hello"), metadata=bearer(key), timeout=5)

    async def answered(self, *, stale: bool, within_seconds: float) -> float:
        """Seconds until the tenant's requests are answered with or without the flag."""
        begun = time.monotonic()

        async def is_answered() -> bool:
            with contextlib.suppress(grpc.RpcError):
                return (await self.ask(self.key)).provenance.stale is stale
            return False

        await until(is_answered, within_seconds)
        return time.monotonic() - begun

    def state_dirs(self) -> list[Path]:
        return [self._folder / "state", self._folder / "state-r1"]

    async def on_disk(self, revision: int) -> None:
        """Wait until both files hold a revision; their headers are readable."""
        files = [folder / "known-good.1" for folder in self.state_dirs()]
        await until(lambda: min(map(revision_of, files)) >= revision)

    async def read(self):
        return await self.plane.call("GetTenant", admin_pb.GetTenantRequest(name="tenants/acme"))


def revision_of(path: Path) -> int:
    if not path.exists():
        return 0
    data = path.read_bytes()
    header = json.loads(data[28 : 28 + int.from_bytes(data[24:28], "big")])
    return int(header["revision"])


@pytest.fixture
async def mesh():
    # pytest's own directories are often too deep for a socket.
    folder = Path(tempfile.mkdtemp(prefix="lkg-"))
    try:
        async with Mesh(folder, routers=1) as running:
            await running.prepare()
            yield running
            await running.router_channel.close()
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("stop", ["end", "kill"])
async def test_both_start_without_etcd_and_converge_when_it_is_back(mesh, stop):
    (router,), config = mesh.routers, mesh.plane.service
    if stop == "kill":
        await mesh.on_disk(mesh.revision)
    await asyncio.gather(getattr(router, stop)(), getattr(config, stop)())
    await mesh.plane.etcd.kill()
    await asyncio.gather(config.start(wait_ready=False), router.start(wait_ready=False))
    cold = await mesh.answered(stale=True, within_seconds=20)
    failure = await failure_of(mesh.ask(mesh.strict_key))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "CONFIG_STALE")

    await config.ready()
    await router.ready()
    assert (await mesh.read()).config.system_prompt == CANARY
    mesh.tenant.config.system_prompt = CANARY + "-2"
    edit = admin_pb.UpdateTenantRequest(tenant=mesh.tenant)
    failure = await failure_of(mesh.plane.call("UpdateTenant", edit))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")

    await mesh.plane.etcd.start()
    converged = await mesh.answered(stale=False, within_seconds=20)
    await mesh.ask(mesh.strict_key)
    updated = await mesh.plane.call("UpdateTenant", edit)
    await mesh.propagated()
    assert (await mesh.ask(mesh.key)).provenance.config_version == updated.config_version
    assert cold <= COLD_START_SECONDS
    assert converged <= CONVERGED_SECONDS


async def test_a_router_starts_alone_while_the_config_service_is_down(mesh):
    (router,), config = mesh.routers, mesh.plane.service
    await router.end()
    await config.kill()
    await router.start(wait_ready=False)
    assert await mesh.answered(stale=True, within_seconds=20) <= COLD_START_SECONDS
    assert (await failure_of(mesh.ask(mesh.strict_key))).reason == "CONFIG_STALE"
    await config.start()
    assert await mesh.answered(stale=False, within_seconds=20) <= CONVERGED_SECONDS


async def test_without_any_whole_file_a_start_without_etcd_serves_nobody_and_recovers(mesh):
    (router,), config = mesh.routers, mesh.plane.service
    await asyncio.gather(router.end(), config.end())
    for folder in mesh.state_dirs():
        for path in folder.glob("known-good.*"):
            path.write_bytes(path.read_bytes()[:-1])
    await mesh.plane.etcd.kill()
    await asyncio.gather(config.start(wait_ready=False), router.start(wait_ready=False))

    async def knows_nobody() -> bool:
        return (await failure_of(mesh.ask(mesh.key))).reason == "NO_SNAPSHOT"

    await until(knows_nobody)
    await mesh.plane.etcd.start()
    await mesh.answered(stale=False, within_seconds=20)
    logs = [(mesh._folder / name).read_text() for name in ("config.log", "r1.log")]
    assert all("LAST KNOWN GOOD REFUSED" in log and "ends early" in log for log in logs)


async def test_no_prompt_is_found_in_any_file(mesh):
    await asyncio.gather(mesh.routers[0].end(), mesh.plane.service.end())
    for folder in mesh.state_dirs():
        names = {path.name for path in folder.iterdir()}
        assert "known-good.1" in names
        assert revision_of(folder / "known-good.1") >= mesh.revision
    holding = [
        path for path in mesh._folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()
    ]
    assert not holding
