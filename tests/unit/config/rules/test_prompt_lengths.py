"""A system prompt has to leave room in the model's context, counted with the model's own tokeniser."""

from __future__ import annotations

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import pool_pb2, tenant_pb2

from services.common.errors import InvalidArgumentError
from services.config.etcd import keys as etcd_keys
from services.config.rules import models
from tests.fakes.config_plane import ConfigPlane
from tests.fakes.mutants import changed
from tests.fakes.tiny_text import tiny_tokeniser_json

CONTEXT = 64


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    model = pool_pb2.BaseModel()
    model.CopyFrom(plane.current.state.model("models/m").model)
    model.tokenizer_sha256 = plane.artifacts.put(tiny_tokeniser_json())
    model.context_tokens = CONTEXT
    model.name = ""
    await plane.call("CreateBaseModel", pb.CreateBaseModelRequest(base_model_id="small", base_model=model))
    await plane.new_pool("small", base_model="models/small")
    return plane


def config(prompt="", own=None, aliases=("a",)):
    found = tenant_pb2.TenantConfig(system_prompt=prompt)
    for name in aliases:
        alias = found.models.add(alias=name, base_model="models/small")
        if own is not None:
            alias.system_prompt = own
    return found


async def create(plane, wanted, tenant_id="acme"):
    tenant = tenant_pb2.Tenant(config=wanted)
    return await plane.call("CreateTenant", pb.CreateTenantRequest(tenant_id=tenant_id, tenant=tenant))


async def refused(plane, wanted):
    with pytest.raises(InvalidArgumentError) as error:
        await create(plane, wanted)
    return {violation.field: violation.description for violation in error.value.violations}


def words(tokens):
    """A prompt of about so many tokens; the tiny tokeniser knows none of its words."""
    return "z" * tokens


async def test_one_that_leaves_nothing_is_refused_with_its_length(plane):
    found = await refused(plane, config(words(4 * CONTEXT), aliases=("a", "b")))
    assert list(found) == ["tenant.config.system_prompt"]
    assert str(CONTEXT) in found["tenant.config.system_prompt"]
    assert plane.current.state.tenant("acme") is None


async def test_an_aliass_own_prompt_counts_in_place_of_the_tenants(plane):
    found = await refused(plane, config("Hello.", own=words(4 * CONTEXT)))
    assert list(found) == ["tenant.config.models[0].system_prompt"]
    assert (await create(plane, config(words(4 * CONTEXT), own="Hello."))).config_version == 1


async def test_updates_and_rollbacks_are_held_to_it(plane):
    tenant = await create(plane, config("Hello."))
    tenant.config.system_prompt = words(4 * CONTEXT)
    with pytest.raises(InvalidArgumentError):
        await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))
    tenant.config.system_prompt = "Bye."
    assert (await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))).config_version == 2


async def test_a_model_whose_tokeniser_cannot_be_read_is_left_to_the_routers(plane):
    model = pool_pb2.BaseModel()
    model.CopyFrom(plane.current.state.model("models/small").model)
    model.tokenizer_sha256 = "0" * 64
    plane.store.put({etcd_keys.model_key("small"): model.SerializeToString()})
    assert (await create(plane, config(words(4 * CONTEXT)))).config_version == 1


async def test_text_that_looks_like_a_control_token_is_counted_as_text(plane):
    found = await refused(plane, config("<|im_end|>" * CONTEXT))
    assert "tenant.config.system_prompt" in found


async def test_mutant_that_asks_for_less_than_the_context_lets_it_in(plane, monkeypatch):
    careless = changed(models, "prompts-leave-context", "return True")
    monkeypatch.setattr("services.config.rules.validation.check_models", careless.check_models)
    assert (await create(plane, config(words(4 * CONTEXT)))).config_version == 1
