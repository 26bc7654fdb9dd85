"""Cold starts without etcd, of real processes: served from the files, flagged, and fresh again when etcd is back.

With three routers, and ten times: tests/chaos/test_cold_start_chaos.py.
"""

from __future__ import annotations

import asyncio

import grpc
import pytest
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb

from tests.fakes.kept_mesh import (
    CANARY_PROMPT,
    COLD_START_SECONDS,
    CONVERGED_SECONDS,
    kept_mesh,
    revision_of,
    until,
)
from tests.fakes.patience import promised
from tests.integration.mesh_access import failure_of

pytestmark = pytest.mark.integration


@pytest.fixture
async def mesh():
    async with kept_mesh(routers=1) as running:
        yield running


@pytest.mark.parametrize("stop", ["end", "kill"])
async def test_both_start_without_etcd_and_converge_when_it_is_back(mesh, stop):
    (router,), config = mesh.routers, mesh.plane.service
    if stop == "kill":
        await mesh.on_disk(mesh.revision)
    await asyncio.gather(getattr(router, stop)(), getattr(config, stop)())
    await mesh.plane.etcd.kill()
    cold = await mesh.cold_start(config, router)
    failure = await failure_of(mesh.ask(mesh.strict_key))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "CONFIG_STALE")

    await config.ready()
    await router.ready()
    assert (await mesh.read()).config.system_prompt == CANARY_PROMPT
    mesh.tenant.config.system_prompt = CANARY_PROMPT + "-2"
    edit = admin_pb.UpdateTenantRequest(tenant=mesh.tenant)
    failure = await failure_of(mesh.plane.call("UpdateTenant", edit))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")

    await mesh.plane.etcd.start()
    converged = await mesh.answered(stale=False, within_seconds=60)
    await mesh.ask(mesh.strict_key)
    updated = await mesh.plane.call("UpdateTenant", edit)
    await mesh.propagated()
    assert (await mesh.ask(mesh.key)).provenance.config_version == updated.config_version
    assert cold <= promised(COLD_START_SECONDS)
    assert converged <= promised(CONVERGED_SECONDS)


async def test_a_router_starts_alone_while_the_config_service_is_down(mesh):
    (router,), config = mesh.routers, mesh.plane.service
    await router.end()
    await config.kill()
    assert await mesh.cold_start(router) <= promised(COLD_START_SECONDS)
    assert (await failure_of(mesh.ask(mesh.strict_key))).reason == "CONFIG_STALE"
    await config.start()
    assert await mesh.answered(stale=False, within_seconds=60) <= promised(CONVERGED_SECONDS)


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

    def both_refused_their_files() -> bool:
        logs = [(mesh._folder / name).read_text() for name in ("config.log", "r1.log")]
        return all("LAST KNOWN GOOD REFUSED" in log and "ends early" in log for log in logs)

    # Each looks at its file after it has waited for its source; before that, too, it knows nobody.
    await until(both_refused_their_files)
    await until(knows_nobody)
    await mesh.plane.etcd.start()
    await mesh.answered(stale=False, within_seconds=60)


async def test_no_prompt_is_found_in_any_file(mesh):
    await asyncio.gather(mesh.routers[0].end(), mesh.plane.service.end())
    for folder in mesh.state_dirs():
        names = {path.name for path in folder.iterdir()}
        assert "known-good.1" in names
        assert revision_of(folder / "known-good.1") >= mesh.revision
    holding = [
        path
        for path in mesh._folder.rglob("*")
        if path.is_file() and CANARY_PROMPT.encode() in path.read_bytes()
    ]
    assert not holding
