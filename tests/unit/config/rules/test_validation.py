"""Bad configs: every field of each is named, in one answer."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from tenantry.config.v1 import tenant_pb2

from services.config.rules.report import Surroundings
from services.config.rules.serving import PoolFacts, VersionFacts
from services.config.rules.validation import validate_config, validate_tenant_id

AROUND = Surroundings(
    "tenants/acme",
    {"models/m": 2048},
    {
        "pools/shared": PoolFacts("models/m", ""),
        "pools/mine": PoolFacts("models/m", "tenants/acme"),
        "pools/theirs": PoolFacts("models/m", "tenants/x"),
    },
    {"pirate": {1: VersionFacts("models/m"), 2: VersionFacts("models/other")}},
)


def good() -> tenant_pb2.TenantConfig:
    return tenant_pb2.TenantConfig(
        models=[
            tenant_pb2.ModelAlias(alias="plain", base_model="models/m"),
            tenant_pb2.ModelAlias(alias="sea", base_model="models/m", adapter="pirate", adapter_version=1),
        ],
        default_model="plain",
        system_prompt="Be kind.",
    )


def fields(config) -> set[str]:
    return {violation.field.removeprefix("tenant.config.") for violation in validate_config(config, AROUND)}


def test_a_good_config_has_no_violations():
    assert fields(good()) == set()


def _set(path, value):
    def mutate(config):
        *parents, last = path.split(".")
        target = config
        for parent in parents:
            target = getattr(target, parent)
        if isinstance(value, Duration):
            getattr(target, last).CopyFrom(value)
        else:
            setattr(target, last, value)

    return mutate


def _alias(number, name, value):
    return lambda config: setattr(config.models[number], name, value)


MISTAKES = {
    "default_model": _set("default_model", "nobody"),
    "system_prompt": _set("system_prompt", "x" * 20_000),
    "weight": _set("weight", 0),
    "pool": _set("pool", "pools/theirs"),
    "parameter_defaults.temperature": _set("parameter_defaults.temperature", 2.5),
    "parameter_defaults.top_p": _set("parameter_defaults.top_p", 0.0),
    "parameter_defaults.max_output_tokens": _set("parameter_defaults.max_output_tokens", 0),
    "parameter_bounds.max_temperature": _set("parameter_bounds.max_temperature", 3.0),
    "limits.requests_per_second": _set("limits.requests_per_second", -1.0),
    "limits.concurrent_requests": _set("limits.concurrent_requests", -5),
    "limits.input_bytes": _set("limits.input_bytes", -1),
    "deadlines.default_timeout": _set("deadlines.default_timeout", Duration(seconds=-1)),
    "deadlines.max_timeout": _set("deadlines.max_timeout", Duration(seconds=99_999)),
    "models[0].alias": _alias(0, "alias", "Not Good"),
    "models[0].base_model": _alias(0, "base_model", "models/none"),
    "models[1].adapter": _alias(1, "adapter", "nobody"),
}


@given(chosen=st.sets(st.sampled_from(sorted(MISTAKES)), min_size=1, max_size=8))
def test_every_mistake_is_named_and_nothing_else(chosen):
    config = good()
    for name in chosen:
        MISTAKES[name](config)
    if "models[0].alias" in chosen:
        chosen = chosen | {"default_model"}  # it named the alias that is no longer there
    assert fields(config) == chosen


@pytest.mark.parametrize(
    ("tier", "pool", "wrong"),
    [
        (tenant_pb2.ISOLATION_TIER_DEDICATED, "", {"pool"}),
        (tenant_pb2.ISOLATION_TIER_DEDICATED, "pools/shared", {"pool"}),
        (tenant_pb2.ISOLATION_TIER_DEDICATED, "pools/mine", set()),
        (tenant_pb2.ISOLATION_TIER_ISOLATED, "pools/shared", set()),
        (tenant_pb2.ISOLATION_TIER_SHARED, "", {"models[1].adapter"}),
    ],
)
def test_tiers(tier, pool, wrong):
    config = good()
    config.isolation_tier, config.pool = tier, pool
    assert fields(config) == wrong


def test_another_tenants_pool_looks_like_none():
    theirs, none = good(), good()
    theirs.pool, none.pool = "pools/theirs", "pools/none"
    assert validate_config(theirs, AROUND) == validate_config(none, AROUND)


def test_an_adapter_of_another_base_model_is_refused():
    config = good()
    config.models[1].adapter_version = 2
    assert fields(config) == {"models[1].adapter"}


def test_no_version_means_the_newest_for_this_base_model_as_at_the_routers():
    config = good()
    config.models[1].adapter_version = 0
    assert max(AROUND.adapters["pirate"]) == 2
    assert fields(config) == set()


def test_unknown_fields_and_enum_values_are_named():
    config = tenant_pb2.TenantConfig.FromString(good().SerializeToString() + b"\xf8\x3f\x01")
    assert [v.field for v in validate_config(config, AROUND)] == ["tenant.config"]
    config = good()
    config.audit_policy = 99
    (violation,) = validate_config(config, AROUND)
    assert violation.field == "tenant.config.audit_policy"
    assert violation.description.startswith("is 99, which is not known to this version: choose AUDIT_POLICY_")


def test_errors_list_what_there_is_to_choose_from():
    config = good()
    config.models[0].base_model = "models/none"
    config.models[1].adapter_version = 7
    config.default_model = "none"
    config.guardrails.add(rule_id="r", pattern="x")
    config.quotas.add(tokens=1)
    found = {v.field.removeprefix("tenant.config."): v.description for v in validate_config(config, AROUND)}
    assert found["models[0].base_model"].endswith(f"choose {' or '.join(sorted(AROUND.models))}")
    assert found["models[1].adapter_version"] == "is 7, which does not exist; choose 1 or 2"
    assert found["default_model"].startswith("is none of the aliases; choose ")
    assert (
        found["guardrails[0].action"] == "is missing: choose GUARDRAIL_ACTION_DENY or GUARDRAIL_ACTION_REDACT"
    )
    assert "QUOTA_WINDOW_HOUR, QUOTA_WINDOW_DAY or QUOTA_WINDOW_MONTH" in found["quotas[0].window"]


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "x" * 64, "ä"])
def test_tenant_ids(name):
    assert validate_tenant_id(name)
    assert not validate_tenant_id("acme-1")
