"""`tenantry tenant usage`: tokens as numbers, money with its places, shadow mode named."""

from __future__ import annotations

import json

from tenantry.config.v1.tenant_usage_pb2 import Allowance, AllowanceUsage, TenantUsage


def test_each_quota_and_budget_is_a_line(shell, admin):
    admin.add_tenant("acme")
    day, month = Allowance.ALLOWANCE_TOKENS_DAY, Allowance.ALLOWANCE_SPEND_MONTH
    usage = TenantUsage(
        name="tenants/acme",
        allowances=[
            AllowanceUsage(allowance=day, limit_units=1000, used_units=250, held_units=100, enforced=True),
            AllowanceUsage(allowance=month, limit_units=2_500_000, used_units=1_000_001, held_units=0),
        ],
    )
    admin.usages["tenants/acme"] = usage
    lines = shell("tenant", "usage", "acme").stdout.splitlines()
    assert lines[0].split() == ["OF", "USED", "HELD", "BY", "ROUTERS", "LIMIT", "USED", "%", "ENDS"]
    assert lines[1].split()[:7] == ["tokens", "this", "day", "250", "100", "1000", "25.0"]
    assert lines[2].split()[:7] == ["spend", "this", "month", "1.000001", "0.000000", "2.500000", "40.0"]
    assert lines[2].endswith("shadow: refuses nothing")
    records = [json.loads(line) for line in shell("tenant", "usage", "acme", "--json").stdout.splitlines()]
    assert [record["used_units"] for record in records] == [250, 1_000_001]


def test_a_tenant_without_any_is_told_so(shell, admin):
    admin.add_tenant("acme")
    assert "acme has no quotas and no spend budgets." in shell("tenant", "usage", "acme").stderr
