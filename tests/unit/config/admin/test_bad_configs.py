"""Two hundred bad configs with known mistakes: each is refused with every field named, and nothing changes."""

from __future__ import annotations

import re

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb

from services.common.errors import InvalidArgumentError
from services.config.adapters.peft import WEIGHTS_FILE
from services.config.adapters.peft_config import CONFIG_FILE
from services.config.rules import limits, placement, report
from services.config.rules.report import Surroundings
from services.config.rules.serving import PoolFacts, VersionFacts
from services.config.rules.validation import validate_config
from tests.fakes.bad_configs import CANARY, MISTAKES, bad_configs, good_config
from tests.fakes.config_plane import ConfigPlane
from tests.fakes.mutants import changed
from tests.fakes.peft_files import peft_files

SEED = 20_261_125


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_tenant("acme")
    await plane.new_tenant("globex")
    await plane.new_pool("theirs", dedicated_to="tenants/globex")
    config, weights, _ = peft_files()
    await plane.register("acme", [(CONFIG_FILE, config), (WEIGHTS_FILE, weights)])
    return plane


OF_ADAPTERS = {"models[1].adapter", "models[1].adapter_version"}


def update(tenant, bad, *, validate_only):
    """An edit of a tenant that has all a good config names: the request, and its wrong fields."""
    tenant.config.CopyFrom(bad.config)
    return "UpdateTenant", pb.UpdateTenantRequest(tenant=tenant, validate_only=validate_only), bad.fields


def create(tenant, bad, *, validate_only):
    """The same config for a tenant that does not exist yet, and so has no adapters."""
    tenant.config.CopyFrom(bad.config)
    tenant.config.models[1].ClearField("adapter")
    tenant.config.models[1].ClearField("adapter_version")
    request = pb.CreateTenantRequest(tenant_id="new", tenant=tenant, validate_only=validate_only)
    return "CreateTenant", request, bad.fields - OF_ADAPTERS


@pytest.mark.parametrize("sent", [update, create])
@pytest.mark.parametrize("validate_only", [False, True], ids=["", "validate_only"])
async def test_200_bad_configs_are_refused_with_every_field_named_and_nothing_changes(
    plane, sent, validate_only
):
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"))
    tenant.config.CopyFrom(good_config())
    tenant = await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))
    before, told, refusals = await plane.store.list(""), len(plane.entries), 0
    for place, bad in enumerate(bad_configs(200, SEED)):
        method, request, expected = sent(tenant, bad, validate_only=validate_only)
        if not expected:
            continue
        with pytest.raises(InvalidArgumentError) as refused:
            await plane.call(method, request)
        violations = refused.value.violations
        assert (place, {v.field.removeprefix("tenant.config.") for v in violations}) == (place, expected)
        assert not [v for v in violations if CANARY in v.field or CANARY in v.description]
        assert CANARY not in refused.value.message
        refusals += 1
    assert refusals == 200 or (sent is create and refusals > 180)
    assert (await plane.store.list(""), len(plane.entries)) == (before, told)


def test_those_configs_make_every_mistake_there_is():
    named = frozenset[str]().union(*(bad.fields for bad in bad_configs(200, SEED)))
    assert named == frozenset[str]().union(*(mistake.fields for mistake in MISTAKES))
    assert len({re.sub(r"\[\d+\]", "", field) for field in named}) > 30


def around() -> Surroundings:
    pools = {"pools/p": PoolFacts("models/m", ""), "pools/theirs": PoolFacts("models/m", "tenants/globex")}
    return Surroundings("tenants/acme", {"models/m": 2048}, pools, {"sea": {1: VersionFacts("models/m")}})


def test_that_test_notices_a_violation_that_repeats_tenants_text(monkeypatch):
    careless = changed(placement, "no-tenant-text", 'report("pool", f"names {config.pool}")')
    monkeypatch.setattr("services.config.rules.validation.check_pool", careless.check_pool)
    told = [v.description for bad in bad_configs(200, SEED) for v in validate_config(bad.config, around())]
    assert any(CANARY in description for description in told)


@pytest.mark.parametrize(
    ("module", "mark", "new"),
    [
        (report, "nan-is-in-no-range", "if not (value < low or value > high): return True"),
        (limits, "deadlines-have-a-range", "pass"),
        (limits, "longer-windows-hold-more", "pass"),
    ],
    ids=["NaN", "negative deadlines", "windows"],
)
def test_that_test_notices_a_rule_that_is_gone(monkeypatch, module, mark, new):
    careless = changed(module, mark, new)
    if module is report:
        for name in ("limits", "sampling", "placement"):
            monkeypatch.setattr(f"services.config.rules.{name}.between", careless.between)
    else:
        for name in ("check_limits", "check_quotas", "check_deadlines"):
            monkeypatch.setattr(f"services.config.rules.validation.{name}", getattr(careless, name))
    missed = [
        bad
        for bad in bad_configs(200, SEED)
        if {v.field.removeprefix("tenant.config.") for v in validate_config(bad.config, around())}
        != bad.fields
    ]
    assert missed
