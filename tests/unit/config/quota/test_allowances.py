"""How much a tenant's config allows of each quota and budget."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tenantry.config.v1 import tenant_pb2, tenant_usage_pb2

from services.config.quota.allowances import Allowance, Allowed, allowed
from services.config.quota.windows import Window
from services.router.quota import ledger

HOUR, DAY, MONTH = (
    tenant_pb2.QUOTA_WINDOW_HOUR,
    tenant_pb2.QUOTA_WINDOW_DAY,
    tenant_pb2.QUOTA_WINDOW_MONTH,
)
CONFIG = tenant_pb2.TenantConfig(
    quotas=[tenant_pb2.Quota(window=HOUR, tokens=5), tenant_pb2.Quota(window=MONTH, tokens=70)],
    spend_budgets=[tenant_pb2.SpendBudget(window=DAY, micro_units=900)],
    shadow_limits=[tenant_pb2.LIMIT_QUOTA_MONTH],
)


@pytest.mark.parametrize(
    ("allowance", "expected"),
    [
        (Allowance.TOKENS_HOUR, Allowed(5)),
        (Allowance.TOKENS_DAY, Allowed(0)),
        (Allowance.TOKENS_MONTH, Allowed(70, refuses=False)),
        (Allowance.SPEND_DAY, Allowed(900)),
        (Allowance.SPEND_MONTH, Allowed(0)),
    ],
)
def test_each_allowance_is_that_of_its_window_and_unit(allowance, expected):
    assert allowed(SimpleNamespace(config=CONFIG), allowance) == expected


def test_a_tenant_that_does_not_exist_may_use_nothing():
    assert allowed(None, Allowance.SPEND_DAY) == Allowed()


def test_router_and_config_service_number_them_alike():
    named = {
        name.removeprefix("ALLOWANCE_"): number
        for name, number in tenant_usage_pb2.Allowance.items()
        if number
    }
    assert {one.name: one.value for one in Allowance} == named
    assert {one.name: one.value for one in ledger.Allowance} == named
    for one in Allowance:
        assert one.window is Window[ledger.Allowance(one.value).window.upper()]
