"""Tenant-admins change neither their tenant's share nor its limits, place or audit policy."""

from __future__ import annotations

import random

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import credential_pb2, tenant_pb2

from services.common.errors import PermissionDeniedError, Reason
from services.config.admin import platform_fields
from services.config.admin.platform_fields import PLATFORM_FIELDS
from tests.fakes.config_plane import Call, ConfigPlane

TENANTS_FIELDS = {
    "deadlines",
    "default_model",
    "guardrails",
    "key_limits",
    "models",
    "parameter_bounds",
    "parameter_defaults",
    "priorities",
    "staleness_policy",
    "system_prompt",
}


def _lower_limit(config):
    config.limits.input_bytes = 1


def _raise_limit(config):
    config.limits.requests_per_second = 1e6


def _no_quota(config):
    del config.quotas[:]


def _more_quota(config):
    for quota in config.quotas:
        quota.tokens = 1 << 40


def _set(name, value):
    return lambda config: setattr(config, name, value)


PLATFORMS = [
    ("weight", _set("weight", 1000)),
    ("weight", lambda config: config.ClearField("weight")),
    ("limits", _raise_limit),
    ("limits", _lower_limit),
    ("limits", lambda config: config.ClearField("limits")),
    ("quotas", _no_quota),
    ("quotas", _more_quota),
    ("isolation_tier", _set("isolation_tier", tenant_pb2.ISOLATION_TIER_SHARED)),
    ("isolation_tier", _set("isolation_tier", tenant_pb2.ISOLATION_TIER_UNSPECIFIED)),
    ("pool", _set("pool", "pools/other")),
    ("pool", _set("pool", "")),
    ("audit_policy", _set("audit_policy", tenant_pb2.AUDIT_POLICY_BATCH)),
    ("spend_budgets", lambda config: config.ClearField("spend_budgets")),
    ("prices", lambda config: setattr(config.prices[0], "input_micro_units", 0)),
    ("shadow_limits", lambda config: config.shadow_limits.append(tenant_pb2.LIMIT_QUOTA_DAY)),
]


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_pool("other")
    await plane.new_tenant(
        "acme",
        weight=100,
        limits=tenant_pb2.Limits(requests_per_second=5),
        quotas=[tenant_pb2.Quota(window=tenant_pb2.QUOTA_WINDOW_DAY, tokens=1000)],
        isolation_tier=tenant_pb2.ISOLATION_TIER_ISOLATED,
        pool="pools/p",
        spend_budgets=[tenant_pb2.SpendBudget(window=tenant_pb2.QUOTA_WINDOW_DAY, micro_units=9)],
        prices=[tenant_pb2.TokenPrice(base_model="models/m", input_micro_units=5, output_micro_units=5)],
        shadow_limits=[tenant_pb2.LIMIT_SPEND_DAY],
        audit_policy=tenant_pb2.AUDIT_POLICY_BLOCKING_STRICT,
    )
    role = credential_pb2.Key(role=credential_pb2.OPERATOR_ROLE_TENANT_ADMIN, role_tenant="tenants/acme")
    made = await plane.call("CreateKey", pb.CreateKeyRequest(parent="operators/ada", key=role))
    plane.ada = Call(made.secret)
    return plane


async def acme(plane):
    return await plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"), plane.ada)


async def update(plane, tenant, caller=None, paths=()):
    request = pb.UpdateTenantRequest(tenant=tenant, update_mask=FieldMask(paths=paths))
    return await plane.call("UpdateTenant", request, caller or plane.ada)


def test_every_field_of_a_config_is_somebodys():
    assert set(PLATFORM_FIELDS) | TENANTS_FIELDS == set(tenant_pb2.TenantConfig.DESCRIPTOR.fields_by_name)
    assert not set(PLATFORM_FIELDS) & TENANTS_FIELDS
    assert {field for field, _ in PLATFORMS} == set(PLATFORM_FIELDS)


@pytest.mark.parametrize(("field", "change"), PLATFORMS)
@pytest.mark.parametrize(
    "paths", [(), ("*",), ("config",), None], ids=["unmasked", "*", "config", "the field"]
)
async def test_the_platforms_fields_are_the_platforms(plane, field, change, paths):
    tenant = await acme(plane)
    change(tenant.config)
    paths = (f"config.{field}",) if paths is None else paths
    before = await plane.store.list("")
    with pytest.raises(PermissionDeniedError) as refused:
        await update(plane, tenant, paths=paths)
    assert refused.value.reason is Reason.ROLE_FORBIDS
    assert refused.value.metadata == {"fields": f"tenant.config.{field}"}
    assert await plane.store.list("") == before
    assert (await update(plane, tenant, plane.operator, paths)).config_version == 2


async def test_every_such_field_is_named_at_once(plane):
    tenant = await acme(plane)
    for _, change in PLATFORMS:
        change(tenant.config)
    with pytest.raises(PermissionDeniedError) as refused:
        await update(plane, tenant)
    named = refused.value.metadata["fields"].split(",")
    assert named == [f"tenant.config.{field}" for field in PLATFORM_FIELDS]
    assert all(field in refused.value.message for field in named)


async def test_what_is_its_own_a_tenant_admin_changes_and_an_export_comes_back(plane):
    tenant = await acme(plane)
    assert (await update(plane, tenant, paths=("*",))).config_version == 1
    tenant.display_name = "Acme"
    config = tenant.config
    config.system_prompt, config.default_model = "Be kind.", "more"
    config.models.add(alias="more", base_model="models/m")
    config.parameter_defaults.temperature = 0.5
    config.parameter_bounds.max_output_tokens = 512
    config.staleness_policy = tenant_pb2.STALENESS_POLICY_REFUSE
    config.deadlines.max_timeout.seconds = 60
    config.guardrails.add(rule_id="r", action=tenant_pb2.GUARDRAIL_ACTION_DENY, pattern="secret")
    config.priorities.max_priority = 2
    config.key_limits.add(concurrent_requests=3)
    assert {field.name for field, _ in config.ListFields()} == TENANTS_FIELDS | set(PLATFORM_FIELDS)
    assert (await update(plane, tenant)).config_version == 2


async def test_a_rollback_is_held_to_it(plane):
    tenant = await acme(plane)
    tenant.config.system_prompt = "Be kind."
    tenant = await update(plane, tenant)
    back = pb.RollbackTenantRequest(name="tenants/acme", version=1)
    assert (await plane.call("RollbackTenant", back, plane.ada)).config_version == 3
    tenant = await acme(plane)
    tenant.config.weight = 5
    await update(plane, tenant, plane.operator)
    with pytest.raises(PermissionDeniedError, match=r"version\.config\.weight"):
        await plane.call("RollbackTenant", back, plane.ada)
    assert (await plane.call("RollbackTenant", back)).config_version == 5


async def changes_that_were_let_in(plane, seed):
    """Make random edits as a tenant-admin, each of some of the platform's fields."""
    rng, let_in = random.Random(seed), 0
    for _ in range(80):
        tenant = await acme(plane)
        for _, change in rng.sample(PLATFORMS, rng.randint(1, 3)):
            change(tenant.config)
        before = tenant_pb2.TenantConfig()
        before.CopyFrom((await acme(plane)).config)
        if tenant.config == before:
            continue
        try:
            await update(plane, tenant)
        except PermissionDeniedError:
            continue
        let_in += 1
    return let_in


async def test_no_mixture_is_let_in(plane):
    assert await changes_that_were_let_in(plane, 1) == 0


async def test_that_test_notices_a_field_that_is_not_on_the_list(plane, monkeypatch):
    but_weight = tuple(name for name in platform_fields.PLATFORM_FIELDS if name != "weight")
    monkeypatch.setattr(platform_fields, "PLATFORM_FIELDS", but_weight)
    assert await changes_that_were_let_in(plane, 1) > 0
