"""Every text that an operator writes freely refuses characters that mislead its readers, with field and code point."""

from __future__ import annotations

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import credential_pb2, tenant_pb2

from services.common.errors import InvalidArgumentError
from services.config.etcd import keys as etcd_keys
from tests.fakes.config_plane import ConfigPlane

ESC, CSI, OVERRIDE, BREAK = "\x1b", "\x9b", "\u202e", "\n"


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_tenant("acme")
    return plane


async def set_display_name(plane, text):
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"))
    tenant.display_name = text
    await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))


async def set_config(plane, **changes):
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"))
    tenant.config.MergeFrom(tenant_pb2.TenantConfig(**changes))
    await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))


async def set_system_prompt(plane, text):
    await set_config(plane, system_prompt=text)


async def set_alias_prompt(plane, text):
    alias = tenant_pb2.ModelAlias(alias="other", base_model="models/m", system_prompt=text)
    await set_config(plane, models=[alias])


async def set_pattern(plane, text):
    deny = tenant_pb2.GuardrailRule(rule_id="r", action=tenant_pb2.GUARDRAIL_ACTION_DENY, pattern=text)
    await set_config(plane, guardrails=[deny])


async def set_replacement(plane, text):
    rule = tenant_pb2.GuardrailRule(
        rule_id="r", action=tenant_pb2.GUARDRAIL_ACTION_REDACT, pattern="secret", replacement=text
    )
    await set_config(plane, guardrails=[rule])


async def create_tenant(plane, text):
    config = tenant_pb2.TenantConfig(models=[tenant_pb2.ModelAlias(alias="a", base_model="models/m")])
    tenant = tenant_pb2.Tenant(display_name=text, config=config)
    await plane.call("CreateTenant", pb.CreateTenantRequest(tenant_id="globex", tenant=tenant))


async def name_key(plane, text):
    key = credential_pb2.Key(display_name=text)
    await plane.call("CreateKey", pb.CreateKeyRequest(parent="tenants/acme", key=key))


async def give_reason(plane, text):
    await plane.call("SuspendTenant", pb.SuspendTenantRequest(name="tenants/acme", reason=text))


async def name_server_model(plane, text):
    await plane.new_pool("q", server_model=text)


LINES = {
    create_tenant: "tenant.display_name",
    set_display_name: "tenant.display_name",
    name_key: "key.display_name",
    give_reason: "reason",
    name_server_model: "pool.server_model",
    set_replacement: "tenant.config.guardrails[0].replacement",
}
TEXTS = {
    set_system_prompt: "tenant.config.system_prompt",
    set_alias_prompt: "tenant.config.models[1].system_prompt",
    set_pattern: "tenant.config.guardrails[0].pattern",
}


async def refusal(plane, edit, text):
    with pytest.raises(InvalidArgumentError) as refused:
        await edit(plane, text)
    (violation,) = refused.value.violations
    return violation


@pytest.mark.parametrize("edit", [*LINES, *TEXTS])
@pytest.mark.parametrize("character", [ESC, CSI, OVERRIDE, "\u2028"])
async def test_what_misleads_is_refused_in_every_text(plane, edit, character):
    violation = await refusal(plane, edit, f"before{character}after")
    assert violation.field == {**LINES, **TEXTS}[edit]
    assert violation.description.startswith(f"holds U+{ord(character):04X}, ")
    assert "before" not in violation.description


@pytest.mark.parametrize("edit", LINES)
async def test_a_line_break_forges_no_row(plane, edit):
    assert (await refusal(plane, edit, "fine\n2  admin  rollback")).description.startswith(
        "holds U+000A, a line break"
    )


@pytest.mark.parametrize("edit", TEXTS)
async def test_prompts_and_patterns_may_hold_lines_and_tabs(plane, edit):
    await edit(plane, "one\n\ttwo\r\n")


async def test_a_pattern_is_told_how_to_write_the_character(plane):
    assert (await refusal(plane, set_pattern, OVERRIDE)).description.endswith(r"write it as \x{202E}")
    await set_pattern(plane, r"\x{202E}")


@pytest.mark.parametrize("text", ["Zoë & Söhne 👩\u200d💻", "\u05d0\u05d1\u200f"])
@pytest.mark.parametrize("edit", [*LINES, *TEXTS])
async def test_text_of_any_language_is_taken(plane, edit, text):
    await edit(plane, text)


async def test_a_name_that_is_stored_already_is_loaded_and_the_tenant_can_be_suspended(plane):
    record = plane.current.state.tenant("acme")
    stored = type(record.stored)()
    stored.CopyFrom(record.stored)
    stored.display_name = f"old{ESC}"
    plane.store.put({etcd_keys.tenant_key(stored.tenant_uid): stored.SerializeToString()})
    assert plane.current.state.tenant("acme").stored.display_name == f"old{ESC}"
    await give_reason(plane, "its key leaked")
    assert plane.current.state.tenant("acme").stored.state == tenant_pb2.TENANT_STATE_SUSPENDED
