"""Rules between fields, and the ends of ranges: the last allowed value passes, the next one does not."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from tenantry.config.v1 import adapter_pb2, pool_pb2, tenant_pb2

from services.common.request_sizes import MAX_INPUT_BYTES
from services.config.rules.catalog_rules import pool_violations
from services.config.rules.report import Surroundings
from services.config.rules.serving import PoolFacts, VersionFacts
from services.config.rules.validation import validate_config
from tests.fakes.bad_configs import good_config

AROUND = Surroundings(
    "tenants/acme",
    {"models/m": 2048, "models/long": 32_768},
    {"pools/mine": PoolFacts("models/m", "tenants/acme"), "pools/long": PoolFacts("models/long")},
    {"sea": {1: VersionFacts("models/m")}},
)
HOUR, DAY, MONTH = (
    tenant_pb2.QUOTA_WINDOW_HOUR,
    tenant_pb2.QUOTA_WINDOW_DAY,
    tenant_pb2.QUOTA_WINDOW_MONTH,
)


def fields(config) -> set[str]:
    return {v.field.removeprefix("tenant.config.") for v in validate_config(config, AROUND)}


def minimal(**config) -> tenant_pb2.TenantConfig:
    return tenant_pb2.TenantConfig(models=[tenant_pb2.ModelAlias(alias="a", base_model="models/m")], **config)


def test_a_config_with_every_field_and_one_with_hardly_any_are_good():
    assert fields(good_config()) == set()
    assert fields(minimal()) == set()


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        ({"parameter_defaults": {"max_output_tokens": 1025}}, {"parameter_defaults.max_output_tokens"}),
        ({"parameter_defaults": {"max_output_tokens": 1024}}, set()),
        ({"parameter_bounds": {"max_output_tokens": 100}}, set()),
        ({"parameter_bounds": {"min_temperature": 0.5}}, set()),
        (
            {"parameter_defaults": {"temperature": 0.4}, "parameter_bounds": {"min_temperature": 0.5}},
            {"parameter_defaults.temperature"},
        ),
        (
            {"parameter_defaults": {"temperature": 0.7}, "parameter_bounds": {"max_temperature": 0.7}},
            set(),
        ),
        (
            {"parameter_bounds": {"min_temperature": 0.8, "max_temperature": 0.7}},
            {"parameter_bounds.min_temperature"},
        ),
        ({"parameter_defaults": {"top_p": 1e-9}}, set()),
        ({"deadlines": {"default_timeout": Duration(seconds=601)}}, {"deadlines.default_timeout"}),
        ({"deadlines": {"default_timeout": Duration(seconds=600)}}, set()),
        ({"deadlines": {"max_timeout": Duration(seconds=1)}}, set()),
        ({"deadlines": {"max_timeout": Duration(seconds=3600)}}, set()),
        ({"deadlines": {"max_timeout": Duration(nanos=1)}}, set()),
        ({"deadlines": {"max_timeout": Duration(seconds=2, nanos=-1)}}, {"deadlines.max_timeout"}),
        ({"deadlines": {"max_timeout": Duration(nanos=1_000_000_000)}}, {"deadlines.max_timeout"}),
        ({"deadlines": {"max_timeout": Duration(seconds=(1 << 63) - 1)}}, {"deadlines.max_timeout"}),
        ({"priorities": {"max_priority": 1}}, set()),
        ({"priorities": {"default_priority": 3}}, set()),
        ({"priorities": {"default_priority": 2, "max_priority": 1}}, {"priorities.default_priority"}),
    ],
)
def test_what_is_set_keeps_to_what_is_in_force_and_what_is_not_gives_way(config, wrong):
    assert fields(minimal(**config)) == wrong


def test_no_limit_is_a_value_and_none_at_all_too():
    names = ["request_burst", "concurrent_requests", "input_bytes", "input_tokens", "tokens_per_minute"]
    assert fields(minimal(limits={"requests_per_second": 0.0, **dict.fromkeys(names, 0)})) == set()


def test_no_more_text_is_allowed_than_can_be_recorded():
    assert fields(minimal(limits={"input_bytes": MAX_INPUT_BYTES})) == set()
    assert fields(minimal(limits={"input_bytes": MAX_INPUT_BYTES + 1})) == {"limits.input_bytes"}


def test_input_tokens_fit_the_longest_context_among_the_aliases():
    config = minimal(limits={"input_tokens": 4000})
    assert fields(config) == {"limits.input_tokens"}
    config.models.add(alias="b", base_model="models/long")
    assert fields(config) == set()
    # A model that does not exist has no context: only that is reported.
    lost = minimal(limits={"input_tokens": 4000})
    lost.models[0].base_model = "models/none"
    assert fields(lost) == {"models[0].base_model"}


@pytest.mark.parametrize(
    ("quotas", "wrong"),
    [
        ([(HOUR, 1), (DAY, 1), (MONTH, 1)], set()),
        ([(MONTH, 5), (DAY, 6)], {"quotas[1].tokens"}),
        ([(HOUR, 7), (MONTH, 6)], {"quotas[0].tokens"}),
        ([(HOUR, 3), (DAY, 2), (MONTH, 1)], {"quotas[0].tokens", "quotas[1].tokens"}),
        ([(DAY, 1 << 50)], set()),
        ([(DAY, (1 << 50) + 1)], {"quotas[0].tokens"}),
        ([(HOUR, 1), (HOUR, 1), (HOUR, 0)], {"quotas[1].window", "quotas[2].window", "quotas[2].tokens"}),
        ([(0, 1), (0, 1)], {"quotas[0].window", "quotas[1].window"}),
    ],
)
def test_quotas(quotas, wrong):
    assert fields(minimal(quotas=[{"window": w, "tokens": t} for w, t in quotas])) == wrong


def rule(**given) -> dict:
    return {"rule_id": "r", "action": "GUARDRAIL_ACTION_REDACT", "pattern": "x", **given}


@pytest.mark.parametrize(
    ("rules", "wrong"),
    [
        ([rule(rule_id=f"r{number}") for number in range(100)], set()),
        ([rule(rule_id=f"r{number}") for number in range(101)], {"guardrails"}),
        ([rule(rule_id="a.b_c-9" + "x" * 57)], set()),
        ([rule(replacement="x" * 256)], set()),
        ([rule(replacement="")], set()),
        ([rule(replacement="\t")], {"guardrails[0].replacement"}),
        ([rule(action="GUARDRAIL_ACTION_DENY", replacement="")], {"guardrails[0].replacement"}),
        ([rule(), rule()], {"guardrails[1].rule_id"}),
        ([rule(rule_id=f"r{n}", pattern=r"\pL") for n in range(4)], set()),
        ([rule(rule_id=f"r{n}", pattern=r"\pL") for n in range(5)], {"guardrails"}),
        ([rule(pattern="(")], {"guardrails[0].pattern"}),
    ],
)
def test_guardrails(rules, wrong):
    assert fields(minimal(guardrails=rules)) == wrong


def test_a_flood_of_items_has_a_bounded_answer():
    config = minimal(quotas=[{"window": HOUR, "tokens": 0}] * 5000, guardrails=[rule(pattern="(")] * 5000)
    config.models.extend([tenant_pb2.ModelAlias(alias="A", base_model="?")] * 500)
    found = [v.field.removeprefix("tenant.config.") for v in validate_config(config, AROUND)]
    assert [field for field in found if "[" not in field] == ["models", "quotas", "guardrails"]
    assert len(found) <= 3 + 2 * 64 + 2 * 3 + 2 * 100


def test_unknown_numbers_are_named_where_they_are():
    config = minimal(guardrails=[rule(action=99, stage=98)], quotas=[{"window": 97, "tokens": 1}])
    assert fields(config) == {"guardrails[0].action", "guardrails[0].stage", "quotas[0].window"}


def test_a_pool_whose_dialect_no_router_speaks_is_refused():
    pool = pool_pb2.Pool(dialect=adapter_pb2.DIALECT_VLLM)
    found = {violation.field: violation.description for violation in pool_violations(pool, pool)}
    assert found["pool.dialect"] == "is not spoken by routers yet: DIALECT_TRTLLM_ENGINE is"
