"""Checks spend budgets, and the prices that they are counted by. Pure."""

from __future__ import annotations

import re

from tenantry.config.v1 import tenant_pb2

from services.config.rules.limits import MAX_QUOTA_TOKENS
from services.config.rules.report import NAME, NAME_RULE, Report

MAX_PRICE_MICRO_UNITS = 10**12
_MODEL = re.compile(r"models/[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")


def check_spending(config: tenant_pb2.TenantConfig, report: Report) -> None:
    """Check that there is at most one budget a day and a month, and a price for all that they count."""
    _check_budgets(config, report)
    priced = _check_prices(config, report)
    if not config.spend_budgets:
        return
    for number, alias in enumerate(config.models):
        if alias.base_model not in priced:
            # Its tokens would cost nothing, and the budget would refuse nothing.
            what = "has no price without an adapter, which spend_budgets need; platform-admins set prices"
            report(f"models[{number}].base_model", what)


def _check_budgets(config: tenant_pb2.TenantConfig, report: Report) -> None:
    found: dict[int, tuple[int, int]] = {}
    for number, budget in enumerate(config.spend_budgets):
        where = f"spend_budgets[{number}]"
        if budget.window not in {tenant_pb2.QUOTA_WINDOW_DAY, tenant_pb2.QUOTA_WINDOW_MONTH}:
            report(f"{where}.window", "has to be QUOTA_WINDOW_DAY or QUOTA_WINDOW_MONTH")
        elif budget.window in found:
            report(f"{where}.window", "is there twice")
        if not 1 <= budget.micro_units <= MAX_QUOTA_TOKENS:
            report(f"{where}.micro_units", f"is {budget.micro_units}, not 1 to {MAX_QUOTA_TOKENS}")
        else:
            found.setdefault(budget.window, (budget.micro_units, number))
    day, month = found.get(tenant_pb2.QUOTA_WINDOW_DAY), found.get(tenant_pb2.QUOTA_WINDOW_MONTH)
    if day and month and day[0] > month[0]:
        report(f"spend_budgets[{day[1]}].micro_units", f"is {day[0]}, more than {month[0]}, a month's")


def _check_prices(config: tenant_pb2.TenantConfig, report: Report) -> set[str]:
    """Check every price; returns the base models that have one without an adapter.

    A price may outlive the alias: tenants' admins change aliases, and may not change prices.
    """
    seen: set[tuple[str, str]] = set()
    for number, price in enumerate(config.prices):
        where = f"prices[{number}]"
        if not _MODEL.fullmatch(price.base_model):
            report(f"{where}.base_model", "is not a base model's name, models/{model}")
        if price.adapter and not NAME.fullmatch(price.adapter):
            report(f"{where}.adapter", NAME_RULE)
        if (price.base_model, price.adapter) in seen:
            report(where, "is there twice: one price for each base model and adapter")
        seen.add((price.base_model, price.adapter))
        for name in ("input_micro_units", "output_micro_units"):
            value = getattr(price, name)
            if not 0 <= value <= MAX_PRICE_MICRO_UNITS:
                report(f"{where}.{name}", f"is {value}, not 0 to {MAX_PRICE_MICRO_UNITS}")
    return {base_model for base_model, adapter in seen if not adapter}
