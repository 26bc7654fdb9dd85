"""What is leased of one tenant: the quota or the spend budget of one window, and how much its config allows. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from tenantry.config.v1 import tenant_pb2

from services.config.quota.windows import Window
from services.config.state.records import TenantRecord


class Allowance(IntEnum):
    """The kinds; the numbers are those of `tenantry.config.v1.Allowance`."""

    TOKENS_HOUR = 1
    TOKENS_DAY = 2
    TOKENS_MONTH = 3
    SPEND_DAY = 4
    SPEND_MONTH = 5

    @property
    def window(self) -> Window:
        """The window that it lasts for."""
        return _KINDS[self].window

    @property
    def key(self) -> str:
        """Its name in etcd."""
        return _KINDS[self].key


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a tenant may use of one allowance in one window."""

    units: int = 0
    """Tokens or micro-units; 0 without a quota or budget for the window."""
    refuses: bool = True
    """Whether no more than that is granted; False in shadow mode."""


@dataclass(frozen=True, slots=True)
class _Kind:
    window: Window
    key: str
    shadow: tenant_pb2.Limit.ValueType


_KINDS = {
    Allowance.TOKENS_HOUR: _Kind(Window.HOUR, "hour", tenant_pb2.LIMIT_QUOTA_HOUR),
    Allowance.TOKENS_DAY: _Kind(Window.DAY, "day", tenant_pb2.LIMIT_QUOTA_DAY),
    Allowance.TOKENS_MONTH: _Kind(Window.MONTH, "month", tenant_pb2.LIMIT_QUOTA_MONTH),
    Allowance.SPEND_DAY: _Kind(Window.DAY, "spend-day", tenant_pb2.LIMIT_SPEND_DAY),
    Allowance.SPEND_MONTH: _Kind(Window.MONTH, "spend-month", tenant_pb2.LIMIT_SPEND_MONTH),
}


def allowed(record: TenantRecord | None, allowance: Allowance) -> Allowed:
    """What a tenant's config allows; nothing for a tenant that does not exist."""
    if record is None:
        return Allowed()
    config, kind = record.config, _KINDS[allowance]
    if allowance in {Allowance.SPEND_DAY, Allowance.SPEND_MONTH}:
        units = [one.micro_units for one in config.spend_budgets if int(one.window) == kind.window.value]
    else:
        units = [one.tokens for one in config.quotas if int(one.window) == kind.window.value]
    return Allowed(min(units, default=0), kind.shadow not in config.shadow_limits)
