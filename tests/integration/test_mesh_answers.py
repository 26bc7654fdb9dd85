"""A caller with nothing but the stubs, grpcio, a CA file and a key."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest
from google.protobuf import field_mask_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as inference_pb

from tests.fakes.patience import promised
from tests.integration.mesh_access import bearer, failure_of, question

pytestmark = [pytest.mark.integration, pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]

QUESTION = "What is the sea?"


async def test_three_tenants_answer_differently_and_say_what_answered(mesh):
    answers = await asyncio.gather(
        *(
            mesh.access.inference.Generate(question(QUESTION), metadata=bearer(mesh.key(tenant)), timeout=60)
            for tenant in mesh.tenants
        )
    )
    assert len({answer.text for answer in answers}) == 3
    assert len({answer.provenance.adapter for answer in answers}) == 3
    for answer in answers:
        made_by = answer.provenance
        assert made_by.config_version >= 1
        assert len(made_by.config_sha256) == len(made_by.base_model_sha256) == 64
        assert bool(made_by.adapter) == bool(made_by.adapter_version) == bool(made_by.adapter_sha256)
        assert bool(made_by.adapter) == bool(made_by.rendition_sha256)
        assert made_by.outcome_receipt.index > made_by.admit_receipt.index
        assert answer.usage.input_tokens > 0
        assert 0 < answer.usage.output_tokens <= 16


async def test_a_stream_is_deltas_and_one_final_and_equals_the_unary_answer(mesh):
    metadata = bearer(mesh.key(mesh.tenants[1]))
    whole = await mesh.access.inference.Generate(question(QUESTION), metadata=metadata, timeout=60)
    events = [
        event
        async for event in mesh.access.inference.StreamGenerate(
            question(QUESTION), metadata=metadata, timeout=60
        )
    ]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["delta"] * (len(events) - 1) + ["final"]
    assert len(events) > 2
    assert "".join(event.delta.text for event in events[:-1]) == whole.text
    assert events[-1].final.usage == whole.usage
    assert events[-1].final.finish_reason == whole.finish_reason
    assert events[-1].final.request_id != whole.request_id


async def test_health_answers_and_reflection_is_for_operators(mesh):
    health = health_pb2_grpc.HealthStub(mesh.access.tenant_channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(mesh.access.operations_channel)
    call = reflection.ServerReflectionInfo(metadata=bearer(mesh.operator_key), timeout=5)
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    services = {service.name for service in (await call.read()).list_services_response.service}
    assert "tenantry.config.v1.ConfigAdminService" in services
    call.cancel()
    callers = reflection_pb2_grpc.ServerReflectionStub(mesh.access.tenant_channel)
    call = callers.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]),
        metadata=bearer(mesh.key(mesh.tenants[0])),
        timeout=5,
    )
    assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_an_update_is_in_force_within_a_second_and_numbered(mesh):
    tenant = await mesh.new_tenant()
    before = await mesh.access.inference.Generate(question(QUESTION), metadata=bearer(tenant.key), timeout=60)
    read = await mesh.admin("GetTenant", admin_pb.GetTenantRequest(name=tenant.name))
    read.config.system_prompt = "You are a parrot. Answer every question with the word squawk only."
    written = await mesh.admin(
        "UpdateTenant",
        admin_pb.UpdateTenantRequest(
            tenant=read, update_mask=field_mask_pb2.FieldMask(paths=["config.system_prompt"])
        ),
    )
    committed = time.monotonic()
    assert written.config_version == read.config_version + 1
    while True:
        started = time.monotonic()
        after = await mesh.access.inference.Generate(
            question(QUESTION), metadata=bearer(tenant.key), timeout=60
        )
        if after.provenance.config_version == written.config_version:
            break
        assert started - committed < promised(1.0), (
            "a request that began a second after the commit saw the old version"
        )
    assert after.provenance.config_sha256 == written.config_sha256 != before.provenance.config_sha256
    assert after.usage.input_tokens != before.usage.input_tokens


async def test_a_stale_etag_is_aborted_and_changes_nothing(mesh):
    tenant = await mesh.new_tenant()
    first = await mesh.admin("GetTenant", admin_pb.GetTenantRequest(name=tenant.name))
    stale = tenant_pb2.Tenant.FromString(first.SerializeToString())
    first.config.system_prompt = "First."
    second = await mesh.admin("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=first))
    stale.config.system_prompt = "Stale."
    failure = await failure_of(mesh.admin("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=stale)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert await mesh.admin("GetTenant", admin_pb.GetTenantRequest(name=tenant.name)) == second


async def test_an_invalid_config_names_every_bad_field_and_changes_nothing(mesh):
    tenant = await mesh.new_tenant()
    before = await mesh.admin("GetTenant", admin_pb.GetTenantRequest(name=tenant.name))
    bad = tenant_pb2.Tenant.FromString(before.SerializeToString())
    bad.config.models[0].base_model = "models/there-is-none"
    bad.config.default_model = "nobody"
    bad.config.weight = 0
    bad.config.parameter_defaults.temperature = 9.0
    bad.config.limits.requests_per_second = -1.0
    failure = await failure_of(mesh.admin("UpdateTenant", admin_pb.UpdateTenantRequest(tenant=bad)))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.fields() == {
        "tenant.config.models[0].base_model",
        "tenant.config.default_model",
        "tenant.config.weight",
        "tenant.config.parameter_defaults.temperature",
        "tenant.config.limits.requests_per_second",
    }
    assert await mesh.admin("GetTenant", admin_pb.GetTenantRequest(name=tenant.name)) == before


async def test_a_caller_that_leaves_ends_its_request(mesh):
    tenant = await mesh.new_tenant()
    request = question("Tell me a very long story.")
    request.parameters.max_output_tokens = 512

    async def left():
        return await mesh.metric(
            "router", "tenantry_requests_total", tenant=tenant.tenant_uid, outcome="CANCELLED_BY_CALLER"
        )

    async def output_tokens():
        return await mesh.metric("router", "tenantry_output_tokens_total", tenant=tenant.tenant_uid)

    before = await output_tokens()
    call = mesh.access.inference.StreamGenerate(request, metadata=bearer(tenant.key), timeout=60)
    await call.read()
    assert await left() == 0
    call.cancel()
    await mesh.until(left, 1)
    # What the server itself does then is shown where it can be seen: test_twin_lifecycle.
    assert 1 <= await output_tokens() - before < 100


async def test_every_service_shows_its_metrics(mesh):
    tenant = await mesh.new_tenant()
    answer = await mesh.access.inference.Generate(question(QUESTION), metadata=bearer(tenant.key), timeout=60)

    async def counted(name, **labels):
        return await mesh.metric("router", f"tenantry_{name}", tenant=tenant.tenant_uid, **labels)

    assert await counted("requests_total", outcome="ok") >= 1
    assert await counted("input_tokens_total") >= answer.usage.input_tokens
    assert await counted("output_tokens_total") >= answer.usage.output_tokens
    assert await counted("first_token_seconds_count") >= 1
    assert await counted("per_token_seconds_count") >= 1
    assert await mesh.metric("audit", "tenantry_audit_entries_total", kind="outcome") >= 1
    assert await mesh.metric("config", "tenantry_config_revision") > 1
    assert await mesh.triton_metric("nv_inference_request_success_total", model="tensorrt_llm") >= 1


async def test_list_models_shows_the_tenants_own(mesh):
    for tenant in mesh.tenants:
        listed = await mesh.access.inference.ListModels(
            inference_pb.ListModelsRequest(), metadata=bearer(mesh.key(tenant)), timeout=5
        )
        assert [model.is_default for model in listed.models].count(True) == 1
