"""kill -9 of each process in turn; each test starts from and leaves a mesh that answers."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from google.rpc import error_details_pb2
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import tenant_pb2

from tests.fakes.patience import PATIENCE_SECONDS, promised
from tests.integration.mesh_access import Failure, bearer, failure_of, question

pytestmark = [pytest.mark.integration, pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]


def ask(mesh, key, timeout_seconds=30.0):
    return mesh.access.inference.Generate(question("Hello?"), metadata=bearer(key), timeout=timeout_seconds)


async def read_to_end(stream):
    while await stream.read() is not grpc.aio.EOF:
        pass


async def answers_again(mesh, key):
    async def answered() -> bool:
        try:
            return bool((await ask(mesh, key)).text)
        except grpc.RpcError:
            return False

    await mesh.until(answered, True)


async def test_without_etcd_requests_go_on_and_edits_fail(mesh):
    tenant = await mesh.new_tenant()
    read = await mesh.admin("GetTenant", admin_pb.GetTenantRequest(name=tenant.name))
    async with mesh.down("etcd"):
        assert (await ask(mesh, tenant.key)).text
        read.config.system_prompt = "Not now."
        failure = await failure_of(
            mesh.admin(
                "UpdateTenant", admin_pb.UpdateTenantRequest(tenant=read), timeout_seconds=PATIENCE_SECONDS
            )
        )
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert (await ask(mesh, tenant.key)).text

    async def edited() -> bool:
        try:
            await mesh.admin("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=read))
        except grpc.RpcError as error:
            if Failure.of(error).code is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True

    await mesh.until(edited, True)


async def test_without_triton_callers_are_told_when_to_retry_and_service_resumes(mesh):
    key = mesh.key(mesh.tenants[1])
    async with mesh.down("triton"):
        failure = await failure_of(ask(mesh, key))
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        retry = failure.detail(error_details_pb2.RetryInfo)
        assert retry.retry_delay.ToTimedelta().total_seconds() > 0
    await answers_again(mesh, key)


async def test_without_the_audit_service_each_policy_decides(mesh):
    strict = await mesh.new_tenant(audit_policy=tenant_pb2.AUDIT_POLICY_BLOCKING_STRICT)
    blocking = await mesh.new_tenant(audit_policy=tenant_pb2.AUDIT_POLICY_BLOCKING)
    batch = await mesh.new_tenant(audit_policy=tenant_pb2.AUDIT_POLICY_BATCH)
    async with mesh.down("audit"):
        failure = await failure_of(ask(mesh, strict.key))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE")
        assert (await ask(mesh, blocking.key)).text
        assert (await ask(mesh, batch.key)).text
    await answers_again(mesh, strict.key)
    receipt = (await ask(mesh, strict.key)).provenance.outcome_receipt
    assert len(receipt.leaf_hash) == 32


async def test_without_the_router_envoy_answers_and_no_stream_hangs(mesh):
    key = mesh.key(mesh.tenants[0])
    request = question("Tell me a very long story.")
    request.parameters.max_output_tokens = 512
    stream = mesh.access.inference.StreamGenerate(request, metadata=bearer(key), timeout=60)
    await stream.read()
    async with mesh.down("router"):
        started = time.monotonic()
        ended = await failure_of(asyncio.wait_for(read_to_end(stream), promised(5)))
        # Its headers have gone out, so all Envoy can do is reset it; gRPC calls that INTERNAL.
        assert ended.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
        failure = await failure_of(ask(mesh, key, timeout_seconds=PATIENCE_SECONDS))
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - started < promised(8)
    await answers_again(mesh, key)
