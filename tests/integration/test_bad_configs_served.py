"""Two hundred bad configs sent while a tenant is served: three routers behind Envoy never notice one of them."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

import grpc
import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb

from tests.fakes.bad_configs import CANARY, bad_configs
from tests.fakes.served_mesh import ServedMesh
from tests.integration.mesh_access import bearer, failure_of, question

pytestmark = pytest.mark.integration
SEED = 20_261_126
# The tenant has no adapters here.
OF_ADAPTERS = {"models[1].adapter", "models[1].adapter_version"}


@pytest.fixture
async def mesh():
    # pytest's own directories are often too deep for a socket.
    folder = Path(tempfile.mkdtemp(prefix="bad-"))
    try:
        async with ServedMesh(folder) as running:
            await running.new_pool("p")
            yield running
    finally:
        shutil.rmtree(folder)


async def revisions(mesh) -> set[int]:
    answer = await mesh.plane.call("ListRouters", pb.ListRoutersRequest())
    assert len(answer.routers) == 3
    return {router.applied_revision for router in answer.routers}


async def test_no_router_applies_anything_of_200_bad_configs(mesh):
    made, key = await mesh.new_tenant("acme", system_prompt="Be kind.")
    await mesh.new_tenant("globex")
    await mesh.propagated()
    seen: set[tuple[int, str]] = set()

    async def keep_asking() -> None:
        turn = 0
        while True:
            stub = mesh.stubs[turn % len(mesh.stubs)]
            got = await stub.Generate(question("hello"), metadata=bearer(key), timeout=10)
            seen.add((got.provenance.config_version, got.provenance.config_sha256))
            turn += 1

    await mesh.serves(key)
    (before,) = await revisions(mesh)
    asking, refusals = asyncio.create_task(keep_asking()), 0
    for place, bad in enumerate(bad_configs(200, SEED)):
        made.config.CopyFrom(bad.config)
        made.config.models[1].ClearField("adapter")
        made.config.models[1].ClearField("adapter_version")
        if not (expected := bad.fields - OF_ADAPTERS):
            continue
        failure = await failure_of(mesh.plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=made)))
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        named = {field.removeprefix("tenant.config.") for field in failure.fields()}
        assert (place, named) == (place, expected)
        assert CANARY.encode() not in failure.status.SerializeToString()
        refusals += 1
    assert refusals > 180
    assert not asking.done(), "a caller got an error"
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert await revisions(mesh) == {before}
    assert seen == {(made.config_version, made.config_sha256)}
    good = await mesh.plane.call("GetTenant", pb.GetTenantRequest(name=made.name))
    good.config.system_prompt = "Be brief."
    edited = await mesh.plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=good))
    assert edited.config_version == made.config_version + 1
    await mesh.propagated(edited.revision)
    got = await mesh.stubs[0].Generate(question("hello"), metadata=bearer(key), timeout=10)
    assert got.provenance.config_version == edited.config_version
