"""Spend budgets count what has a price, limits of keys name keys, shadow limits are known."""

from __future__ import annotations

import pytest
from tenantry.config.v1 import tenant_pb2

from services.config.rules import limits as real_limits
from services.config.rules.report import Surroundings
from services.config.rules.serving import PoolFacts
from services.config.rules.validation import validate_config
from tests.fakes.mutants import without

AROUND = Surroundings(
    "tenants/acme", {"models/m": 2048, "models/n": 2048}, {"pools/p": PoolFacts("models/m", "")},
    has_key=lambda key_id: key_id == "k1",
)  # fmt: skip
DAY, MONTH = tenant_pb2.QUOTA_WINDOW_DAY, tenant_pb2.QUOTA_WINDOW_MONTH


def config(**fields) -> tenant_pb2.TenantConfig:
    return tenant_pb2.TenantConfig(
        models=[tenant_pb2.ModelAlias(alias="plain", base_model="models/m")], **fields
    )


def found(given: tenant_pb2.TenantConfig) -> dict[str, str]:
    return {
        violation.field.removeprefix("tenant.config."): violation.description
        for violation in validate_config(given, AROUND)
    }


def price(base_model: str = "models/m", adapter: str = "", *, cost: int = 1) -> tenant_pb2.TokenPrice:
    return tenant_pb2.TokenPrice(
        base_model=base_model, adapter=adapter, input_micro_units=cost, output_micro_units=cost
    )


def budget(window=MONTH, micro_units: int = 10) -> tenant_pb2.SpendBudget:
    return tenant_pb2.SpendBudget(window=window, micro_units=micro_units)


def test_a_budget_with_a_price_for_each_model_is_good():
    assert found(config(spend_budgets=[budget(DAY, 5), budget()], prices=[price(), price(adapter="a")])) == {}


def test_prices_need_no_budget_and_outlive_an_alias():
    assert found(config(prices=[price(), price("models/gone")])) == {}


@pytest.mark.parametrize("prices", [[], [price(adapter="a")]])
def test_a_budget_that_would_count_nothing_is_refused(prices):
    (where,) = found(config(spend_budgets=[budget()], prices=prices))
    assert where == "models[0].base_model"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"spend_budgets": [budget(tenant_pb2.QUOTA_WINDOW_HOUR)]}, "spend_budgets[0].window"),
        ({"spend_budgets": [budget(tenant_pb2.QUOTA_WINDOW_UNSPECIFIED)]}, "spend_budgets[0].window"),
        ({"spend_budgets": [budget(), budget()]}, "spend_budgets[1].window"),
        ({"spend_budgets": [budget(micro_units=0)]}, "spend_budgets[0].micro_units"),
        ({"spend_budgets": [budget(DAY, 11), budget(MONTH, 10)]}, "spend_budgets[0].micro_units"),
        ({"spend_budgets": [budget()] * 3}, "spend_budgets"),
        ({"prices": [price(), price()]}, "prices[1]"),
        ({"prices": [price("nothing")]}, "prices[0].base_model"),
        ({"prices": [price(adapter="No Adapter")]}, "prices[0].adapter"),
        ({"prices": [price(cost=-1)]}, "prices[0].input_micro_units"),
        ({"prices": [price(cost=10**12 + 1)]}, "prices[0].output_micro_units"),
        ({"shadow_limits": [tenant_pb2.LIMIT_QUOTA_DAY] * 2}, "shadow_limits[1]"),
        ({"shadow_limits": [tenant_pb2.LIMIT_UNSPECIFIED]}, "shadow_limits[0]"),
        ({"shadow_limits": [99]}, "shadow_limits"),
        ({"key_limits": [tenant_pb2.KeyLimits(key="k2", concurrent_requests=1)]}, "key_limits[0].key"),
        ({"key_limits": [tenant_pb2.KeyLimits(key="k1")]}, "key_limits[0]"),
        ({"key_limits": [tenant_pb2.KeyLimits(request_burst=1)]}, "key_limits[0]"),
        ({"key_limits": [tenant_pb2.KeyLimits(concurrent_requests=1)] * 2}, "key_limits[1].key"),
        ({"key_limits": [tenant_pb2.KeyLimits(tokens_per_minute=-1)]}, "key_limits[0].tokens_per_minute"),
        ({"limits": tenant_pb2.Limits(output_tokens=0)}, "limits.output_tokens"),
    ],
)
def test_a_bad_value_is_named(fields, named):
    if "spend_budgets" in fields:
        fields = {"prices": [price()]} | fields
    assert named in found(config(**fields))


def test_a_named_key_and_every_other_key_may_have_limits():
    named = tenant_pb2.KeyLimits(key="k1", requests_per_second=1)
    every = tenant_pb2.KeyLimits(concurrent_requests=0)
    assert found(config(key_limits=[named, every])) == {}


def test_mutant_that_takes_any_key_lets_a_limit_apply_to_none():
    mistyped = config(key_limits=[tenant_pb2.KeyLimits(key="k2", concurrent_requests=1)])
    careless = without(real_limits, "limits-of-own-keys")
    said: list[str] = []
    careless.check_key_limits(mistyped, AROUND, lambda where, what: said.append(where))
    assert said == []
