"""The one id of a refused request, in the caller's hands, in three logs of three processes."""

from __future__ import annotations

import json

import grpc
import pytest
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as inference_pb

from tests.integration.mesh_access import bearer, failure_of, question

pytestmark = [pytest.mark.integration, pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]

DENY = tenant_pb2.GuardrailRule(
    rule_id="no-codenames", action=tenant_pb2.GUARDRAIL_ACTION_DENY, pattern="quokka-2281"
)
DAY = tenant_pb2.Quota(window=tenant_pb2.QUOTA_WINDOW_DAY, tokens=1)


def no_time() -> tenant_pb2.Deadlines:
    deadlines = tenant_pb2.Deadlines()
    deadlines.max_timeout.FromMilliseconds(1)
    return deadlines


REFUSED = {
    "QUOTA_EXHAUSTED": tenant_pb2.TenantConfig(quotas=[DAY]),
    "RATE_LIMITED": tenant_pb2.TenantConfig(limits=tenant_pb2.Limits(requests_per_second=0)),
    "GUARDRAIL_DENIED": tenant_pb2.TenantConfig(guardrails=[DENY]),
    "DEADLINE_PASSED": tenant_pb2.TenantConfig(deadlines=no_time()),
}


async def with_config(mesh, config):
    tenant = await mesh.new_tenant()
    read = await mesh.admin("GetTenant", admin_pb.GetTenantRequest(name=tenant.name))
    read.config.MergeFrom(config)
    updated = await mesh.admin("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=read))
    await mesh.in_force(updated.revision)
    return tenant


async def refusal_of(mesh, reason):
    tenant = await with_config(mesh, REFUSED[reason])
    call = mesh.access.inference.Generate(
        question("Do you know quokka-2281?"), metadata=bearer(tenant.key), timeout=30
    )
    return tenant, await failure_of(call)


async def read_to_end(stream):
    while await stream.read() is not grpc.aio.EOF:
        pass


async def break_of_a_server(mesh):
    """A stream whose model server dies."""
    tenant = await mesh.new_tenant()
    long = inference_pb.SamplingParameters(max_output_tokens=1000, temperature=1.0)
    stream = mesh.access.inference.StreamGenerate(
        question("Count to a thousand.", parameters=long), metadata=bearer(tenant.key), timeout=60
    )
    assert (await stream.read()).delta.text
    async with mesh.down("triton"):
        return tenant, await failure_of(read_to_end(stream))


async def require_found(mesh, folder, tenant, failure, reason):
    """The request is in the edge's log, the router's and the tenant's, with its reason."""
    assert failure.reason == reason
    request_id = failure.request_id

    async def in_access_log() -> int:
        lines = map(json.loads, mesh.layout.access_log_path.read_text().splitlines())
        return sum(line["request_id"] == request_id for line in lines)

    await mesh.until(in_access_log, 1)
    logs = "".join(path.read_text() for path in mesh.layout.logs_dir.glob("router*.log"))
    assert f"request {request_id} failed: {reason} tenant={tenant.tenant_uid}" in logs
    assert "quokka-2281" not in logs
    exports = iter(range(100))

    async def in_audit_log() -> bool:
        into = folder / str(next(exports))
        into.mkdir()
        exported = await mesh.export(tenant.tenant_id, into)
        assert exported.exit_code == 0, exported.output
        records = (into / "bundle" / "records.jsonl").read_text().splitlines()
        return any(request_id in record and reason in record for record in records)

    await mesh.until(in_audit_log, True)


@pytest.mark.parametrize("reason", REFUSED)
async def test_a_refusal_is_found_by_its_id_in_all_three_logs(mesh, tmp_path, reason):
    tenant, failure = await refusal_of(mesh, reason)
    await require_found(mesh, tmp_path, tenant, failure, reason)


async def test_so_is_a_request_whose_server_broke(mesh, tmp_path):
    tenant, failure = await break_of_a_server(mesh)
    await require_found(mesh, tmp_path, tenant, failure, "MODEL_SERVER_FAILED")
