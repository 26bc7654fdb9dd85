"""Who may come in, what they may name, and what they learn when they may not."""

from __future__ import annotations

import re
import time

import grpc
import pytest
from google.protobuf import timestamp_pb2
from google.rpc import error_details_pb2
from tenantry.audit.v1 import audit_review_service_pb2 as review_pb
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import credential_pb2

from tests.fakes.patience import promised
from tests.integration.mesh_access import Failure, bearer, failure_of, question

pytestmark = [pytest.mark.integration, pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]


def ask(mesh, metadata, **fields):
    return mesh.access.inference.Generate(question("Hello?", **fields), metadata=metadata, timeout=60)


async def test_keys_that_open_nothing(mesh):
    good = mesh.key(mesh.tenants[0])
    header, body, signature = good.split(".")
    flipped = body[:-1] + ("A" if body[-1] != "A" else "B")
    for metadata in (
        [],
        [("authorization", good)],
        [("authorization", "Basic " + good)],
        bearer("not.a.token"),
        bearer(f"{header}.{flipped}.{signature}"),
        bearer(mesh.operator_key),
        bearer(mesh.grant(mesh.tenants[0])),
    ):
        failure = await failure_of(ask(mesh, metadata))
        assert failure.code is grpc.StatusCode.UNAUTHENTICATED
    for metadata in ([], bearer(good), bearer(mesh.grant(mesh.tenants[0]))):
        call = mesh.access.admin.ListTenants(admin_pb.ListTenantsRequest(), metadata=metadata, timeout=5)
        assert (await failure_of(call)).code is grpc.StatusCode.UNAUTHENTICATED
    name = f"tenants/{mesh.tenant_uid(mesh.tenants[0])}/auditLog"
    for metadata in ([], bearer(good), bearer(mesh.operator_key)):
        call = mesh.access.review.GetCheckpoint(
            review_pb.GetCheckpointRequest(name=name), metadata=metadata, timeout=5
        )
        assert (await failure_of(call)).code is grpc.StatusCode.UNAUTHENTICATED


async def test_an_expired_key_is_refused(mesh):
    tenant = await mesh.new_tenant()
    # Long enough to be in force and to answer first, on a machine that is busy.
    soon = timestamp_pb2.Timestamp(seconds=int(time.time() + min(promised(10), 40)))
    created = await mesh.admin(
        "CreateKey",
        admin_pb.CreateKeyRequest(parent=tenant.name, key=credential_pb2.Key(expire_time=soon)),
    )
    await mesh.in_force(created.key.revision)
    assert (await ask(mesh, bearer(created.secret))).text

    async def refused() -> bool:
        try:
            await ask(mesh, bearer(created.secret))
        except grpc.RpcError as error:
            return Failure.of(error).code is grpc.StatusCode.UNAUTHENTICATED
        return False

    # The router refuses it to the second; the edge allows for clocks that differ by five.
    await mesh.until(refused, True)


async def test_a_revoked_key_is_refused_within_two_seconds(mesh):
    tenant = await mesh.new_tenant()
    assert (await ask(mesh, bearer(tenant.key))).text
    await mesh.admin("RevokeKey", admin_pb.RevokeKeyRequest(name=tenant.key_name))
    revoked = time.monotonic()
    while True:
        started = time.monotonic()
        try:
            await ask(mesh, bearer(tenant.key))
        except grpc.RpcError as error:
            failure = Failure.of(error)
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_REFUSED")
            break
        assert started - revoked < promised(2.0), (
            "a request that began two seconds after the revocation was answered"
        )


async def test_another_tenants_model_or_adapter_looks_like_one_that_does_not_exist(mesh):
    _, owner, other = mesh.tenants
    adapter = mesh.adapter_of(owner)
    foreign = await failure_of(ask(mesh, bearer(mesh.key(other)), adapter=adapter))
    missing = await failure_of(ask(mesh, bearer(mesh.key(other)), adapter="nobody-has-this"))
    assert foreign.code is grpc.StatusCode.NOT_FOUND
    assert foreign.status.SerializeToString() == missing.status.SerializeToString()
    model, mine = "globex-only", await tenant_with_alias(mesh, "globex-only")
    foreign = await failure_of(ask(mesh, bearer(mesh.key(other)), model=model))
    missing = await failure_of(ask(mesh, bearer(mesh.key(other)), model="nobody-has-this"))
    assert foreign.code is grpc.StatusCode.NOT_FOUND
    assert foreign.status.SerializeToString() == missing.status.SerializeToString()
    # Both are there, for those whose they are.
    assert (await ask(mesh, bearer(mesh.key(owner)), adapter=adapter)).provenance.adapter == adapter
    assert (await ask(mesh, bearer(mine.key), model=model)).text


async def tenant_with_alias(mesh, alias):
    tenant = await mesh.new_tenant()
    read = await mesh.admin("GetTenant", admin_pb.GetTenantRequest(name=tenant.name))
    usual = read.config.models[0]
    read.config.models.add(alias=alias, base_model=usual.base_model)
    read.config.default_model = usual.alias
    updated = await mesh.admin("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=read))
    await mesh.in_force(updated.revision)
    return tenant


async def test_a_header_of_ours_sent_by_a_client_changes_nothing(mesh):
    """That none arrives at all is shown before an echo, in `test_edge_spoofing`."""
    mine, _, other = mesh.tenants
    plain = await ask(mesh, bearer(mesh.key(mine)))
    spoofed = [
        (f"x-tenantry-{name}", value)
        for name in ("tenant", "tenant-uid", "key-id", "anything")
        for value in (mesh.tenant_uid(other), other)
    ]
    answer = await ask(mesh, [*bearer(mesh.key(mine)), *spoofed])
    assert answer.provenance.config_sha256 == plain.provenance.config_sha256
    assert (answer.text, answer.provenance.adapter) == (plain.text, plain.provenance.adapter)


async def test_too_long_an_input_names_limit_and_actual(mesh):
    request = question("word " * 20_000)
    call = mesh.access.inference.Generate(request, metadata=bearer(mesh.key(mesh.tenants[0])), timeout=60)
    failure = await failure_of(call)
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.fields() == {"conversation"}
    (violation,) = failure.detail(error_details_pb2.BadRequest).field_violations
    found = re.fullmatch(r"(\d+) .*; at most (\d+)", violation.description)
    assert found, violation.description
    actual, limit = map(int, found.groups())
    assert actual > limit > 0


async def test_a_request_without_a_deadline_gets_the_tenants(mesh):
    tenant = await mesh.new_tenant(default_timeout_seconds=1)
    request = question("Tell me a very long story about the sea.")
    request.parameters.max_output_tokens = 1000
    started = time.monotonic()
    failure = await failure_of(mesh.access.inference.Generate(request, metadata=bearer(tenant.key)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_PASSED")
    assert time.monotonic() - started < promised(5)
