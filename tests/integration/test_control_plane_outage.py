"""etcd goes away for some seconds: callers go on, are told, and nobody is served who wants no stale answers."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb

from services.edge import clusters
from tests.fakes.etcd_outage import OutageRun
from tests.fakes.patience import promised
from tests.fakes.served_mesh import ServedMesh
from tests.integration.mesh_access import Failure, bearer, question

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]
LEFT_OUT_SECONDS = 4.0
"""Long enough to see it: the edge leaves a router out about a second after it decides to."""


@asynccontextmanager
async def running():
    # pytest's own directories are often too deep for a socket.
    folder = Path(tempfile.mkdtemp(prefix="outage-"))
    try:
        async with ServedMesh(folder) as mesh:
            yield mesh, await OutageRun.prepare(mesh)
    finally:
        shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prepared():
    async with running() as mesh_and_run:
        yield mesh_and_run


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "killed"])
async def test_callers_go_on_without_etcd_flagged_or_refused(prepared, frozen):
    _, run = prepared
    seen = await run.run(frozen=frozen, at_least_seconds=4.0, until_flagged=True)
    assert len(seen.serving) > 100
    assert not seen.unanswered
    assert not seen.wrong_refusals
    assert seen.flagged_after_seconds <= promised(10.0)
    assert seen.refused_after_seconds <= promised(2.0)
    assert seen.stale_while_refused == 0
    assert seen.converged_after_seconds <= promised(3.0)


async def one_tenants_refusals_beside_anothers_answers(mesh, run):
    """By reason, over some seconds: what a tenant hears whose pool is down, and what one that is served."""
    pool = mesh.pool("z-dead", "e" * 64)
    pool.endpoints[0].target = f"unix:{mesh.plane.folder}/nobody.sock"
    await mesh.plane.call("CreatePool", admin_pb.CreatePoolRequest(pool_id="z-dead", pool=pool))
    _, unlucky = await mesh.new_tenant("unlucky", pool="pools/z-dead")
    await mesh.propagated()

    async def reasons(key, clients):
        told, until = Counter(), time.monotonic() + LEFT_OUT_SECONDS

        async def ask(stub):
            while time.monotonic() < until:
                try:
                    await stub.Generate(question("hello"), metadata=bearer(key), timeout=5)
                except grpc.RpcError as error:
                    failure = Failure.of(error)
                    told[failure.reason or failure.status.message] += 1
                else:
                    told["answered"] += 1

        await asyncio.gather(*(ask(stub) for stub in mesh.stubs * clients))
        return told

    (_, key), *_ = run.serving
    return await asyncio.gather(reasons(unlucky, 2), reasons(key, 1))


async def test_one_tenants_refusals_take_no_router_from_the_others(prepared):
    """What makes the outage above harmless for tenants that are served; here without any outage."""
    refused, answered = await one_tenants_refusals_beside_anothers_answers(*prepared)
    assert refused.keys() == {"NO_READY_ENDPOINT"}
    assert answered.keys() == {"answered"}


async def test_mutant_edge_that_leaves_routers_out_for_their_answers_fails_other_tenants(monkeypatch):
    rightly = clusters._ejection

    def wrongly():
        ejection = rightly()
        ejection.split_external_local_origin_errors = False
        ejection.enforcing_consecutive_gateway_failure = 100
        ejection.consecutive_gateway_failure = 3
        return ejection

    monkeypatch.setattr(clusters, "_ejection", wrongly)
    async with running() as (mesh, run):
        _, answered = await one_tenants_refusals_beside_anothers_answers(mesh, run)
    assert "no healthy upstream" in answered
