"""Who may set a field, as the reference has it, is whom the service lets set it."""

from __future__ import annotations

from typing import Any

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import credential_pb2, pool_pb2, tenant_pb2

from services.cli.reference.catalog import load
from services.common.errors import Error, InvalidArgumentError, PermissionDeniedError, Reason
from services.config.admin.platform_fields import PLATFORM_FIELDS
from tests.fakes.config_plane import Call, ConfigPlane
from tests.fakes.peft_files import peft_files

CATALOG = load()
ROLE = credential_pb2.Key(role=credential_pb2.OPERATOR_ROLE_TENANT_ADMIN, role_tenant="tenants/acme")


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_pool("other")
    await plane.new_tenant("acme")
    made = await plane.call("CreateKey", pb.CreateKeyRequest(parent="operators/ada", key=ROLE))
    plane.ada = Call(made.secret)
    return plane


def changed(config: tenant_pb2.TenantConfig, field: str) -> None:
    """Give a field another good value."""
    values: dict[str, Any] = {
        "audit_policy": tenant_pb2.AUDIT_POLICY_BATCH,
        "default_model": config.models[0].alias,
        "isolation_tier": tenant_pb2.ISOLATION_TIER_SHARED,
        "pool": "pools/other",
        "staleness_policy": tenant_pb2.STALENESS_POLICY_REFUSE,
        "system_prompt": "Be kind.",
        "weight": 7,
    }
    if field in values:
        setattr(config, field, values[field])
    elif field == "models":
        config.models.add(alias="more", base_model="models/m")
    elif field == "guardrails":
        config.guardrails.add(rule_id="r", action=tenant_pb2.GUARDRAIL_ACTION_DENY, pattern="x")
    elif field == "quotas":
        config.quotas.add(window=tenant_pb2.QUOTA_WINDOW_DAY, tokens=1)
    elif field == "key_limits":
        config.key_limits.add(concurrent_requests=1)
    elif field == "shadow_limits":
        config.shadow_limits.append(tenant_pb2.LIMIT_QUOTA_DAY)
    elif field == "spend_budgets":
        config.prices.add(base_model="models/m", input_micro_units=1, output_micro_units=1)
        config.spend_budgets.add(window=tenant_pb2.QUOTA_WINDOW_DAY, micro_units=1)
    elif field == "prices":
        config.prices.add(base_model="models/m", input_micro_units=1, output_micro_units=1)
    else:
        inside = {
            "deadlines": lambda: config.deadlines.max_timeout.FromSeconds(9),
            "limits": lambda: setattr(config.limits, "input_bytes", 9),
            "parameter_bounds": lambda: setattr(config.parameter_bounds, "max_output_tokens", 9),
            "parameter_defaults": lambda: setattr(config.parameter_defaults, "top_k", 9),
            "priorities": lambda: setattr(config.priorities, "max_priority", 1),
        }
        inside[field]()


async def update(plane, tenant, caller) -> bool:
    """Whether the service makes the change; a refusal names the fields."""
    try:
        await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant, validate_only=True), caller)
    except PermissionDeniedError as error:
        return error.reason is not Reason.ROLE_FORBIDS
    return True


@pytest.mark.parametrize(
    "field", CATALOG.messages["TenantConfig"].fields.values(), ids=lambda field: field.name
)
async def test_a_configs_field(plane, field):
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"))
    changed(tenant.config, field.name)
    assert await update(plane, tenant, plane.operator)
    assert await update(plane, tenant, plane.ada) == (field.set_by == "tenant-admin")
    assert (field.name in PLATFORM_FIELDS) == (field.set_by == "platform-admin")
    assert field.set_when == "any time"


def test_what_is_inside_a_field_is_set_by_whom_the_field_is():
    for field in CATALOG.messages["TenantConfig"].fields.values():
        if field.message:
            inside = CATALOG.walk(CATALOG.messages[field.message], field.name)
            assert {part.set_by for _, part in inside} == {field.set_by}


def other_value(message: Any, name: str) -> None:
    """Put something else than what is there."""
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.message_type is not None:
        getattr(message, name).seconds = 12345
    elif field.type == field.TYPE_STRING:
        setattr(message, name, "other")
    else:
        setattr(message, name, 1 if getattr(message, name) != 1 else 2)


async def test_a_tenants_other_fields(plane):
    """The service's are as they were, whatever was sent; only the display name is as it was sent."""
    before = await plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"))
    for field in CATALOG.messages["Tenant"].fields.values():
        if field.name in {"name", "etag", "config"}:
            continue
        tenant = tenant_pb2.Tenant()
        tenant.CopyFrom(before)
        other_value(tenant, field.name)
        request = pb.UpdateTenantRequest(tenant=tenant, validate_only=True)
        for caller in (plane.operator, plane.ada):
            after = await plane.call("UpdateTenant", request, caller)
            taken = getattr(after, field.name) == getattr(tenant, field.name)
            assert taken == (field.set_by == "tenant-admin"), field.name


async def test_a_pools_fields(plane):
    pool = await plane.call("GetPool", pb.GetPoolRequest(name="pools/p"))
    with pytest.raises(PermissionDeniedError):
        await plane.call("UpdatePool", pb.UpdatePoolRequest(pool=pool), plane.ada)
    for field in CATALOG.messages["Pool"].fields.values():
        wanted = pool_pb2.Pool()
        wanted.CopyFrom(pool)
        if field.name in {"name", "etag"}:
            assert field.set_when in {"creation", ""}
            continue
        if field.name == "dialect":
            # Routers speak one, so there is no other value to set.
            continue
        if field.name == "capacity":
            wanted.capacity.adapters = 3
        elif field.name == "endpoints":
            wanted.endpoints.add(target="b:2")
        elif field.name == "base_model":
            await plane.new_model("n")
            wanted.base_model = "models/n"
        else:
            good = {"dedicated_to": "tenants/acme", "engine_sha256": "c" * 64, "adapter_dtype": "float32",
                    "adapter_config_columns": 4}  # fmt: skip
            if field.name in good:
                setattr(wanted, field.name, good[field.name])
            else:
                other_value(wanted, field.name)
        request = pb.UpdatePoolRequest(pool=wanted, validate_only=True)
        try:
            after = await plane.call("UpdatePool", request)
            taken = getattr(after, field.name) == getattr(wanted, field.name)
        except InvalidArgumentError:
            raise
        except Error:
            # It would leave a tenant unserved: the field itself is the platform's to set.
            taken = True
        assert taken == (field.set_by == "platform-admin"), field.name


# Calls of a tenant-admin that a rule other than its role would refuse first.
SENT = {
    "CreateKey": pb.CreateKeyRequest(parent="tenants/acme"),
    "CreatePool": pb.CreatePoolRequest(pool_id="x"),
    "ListKeys": pb.ListKeysRequest(parent="tenants/acme"),
    "ListAdapters": pb.ListAdaptersRequest(parent="tenants/acme"),
    "ListTenantVersions": pb.ListTenantVersionsRequest(parent="tenants/acme"),
    "DiffTenantVersions": pb.DiffTenantVersionsRequest(name="tenants/acme", before_version=1),
    "DeleteBaseModel": pb.DeleteBaseModelRequest(name="models/m"),
    "DeleteTenant": pb.DeleteTenantRequest(name="tenants/acme"),
    "ResumeTenant": pb.ResumeTenantRequest(name="tenants/acme"),
    "SuspendTenant": pb.SuspendTenantRequest(name="tenants/acme", validate_only=True),
}


@pytest.mark.parametrize("call", CATALOG.calls.values(), ids=lambda call: call.name)
async def test_a_calls_role(plane, call):
    if call.name == "RegisterAdapter":
        config, weights, _ = peft_files()
        files = [("adapter_config.json", config), ("adapter_model.safetensors", weights)]
        plane.operator = plane.ada
        assert (await plane.register("acme", files)).name == "tenants/acme/adapters/sea"
        assert call.role == "tenant-admin"
        return
    if call.name == "WaitForPropagation":
        # Waits by its deadline, which a call in process has none of; a test of its own has both roles ask.
        assert call.role == "tenant-admin"
        return
    request = SENT.get(call.name, getattr(pb, call.request)())
    try:
        await plane.call(call.name, request, plane.ada)
        forbidden = False
    except Error as error:
        forbidden = error.reason is Reason.ROLE_FORBIDS
    assert forbidden == (call.role == "platform-admin")


async def test_a_keys_fields(plane):
    fields = CATALOG.messages["Key"].fields
    of_tenant = credential_pb2.Key(display_name="x", scopes=["inference"])
    of_tenant.expire_time.FromSeconds(int(plane.clock.wall_seconds()) + 60)
    made = await plane.call("CreateKey", pb.CreateKeyRequest(parent="tenants/acme", key=of_tenant), plane.ada)
    for name in ("display_name", "scopes", "expire_time"):
        assert getattr(made.key, name) == getattr(of_tenant, name)
        assert fields[name].set_by == "tenant-admin"
    with pytest.raises(PermissionDeniedError):
        await plane.call("CreateKey", pb.CreateKeyRequest(parent="operators/ada", key=ROLE), plane.ada)
    for name in ("role", "role_tenant"):
        assert fields[name].set_by == "platform-admin"
    assert {
        field.set_by for field in fields.values() if field.behaviour in {"output_only", "identifier"}
    } == {"service"}
    assert not [name for name in CATALOG.calls if name == "UpdateKey"]
    assert {field.set_when for field in fields.values() if field.set_by != "service"} == {"creation"}


def test_a_base_model_and_an_adapter_are_never_changed():
    assert not {"UpdateBaseModel", "UpdateAdapter"} & set(CATALOG.calls)
    for message in ("BaseModel", "Adapter"):
        setters = {field.set_when for field in CATALOG.messages[message].fields.values()}
        assert setters == {"creation", ""}
