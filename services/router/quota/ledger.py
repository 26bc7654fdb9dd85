"""The protocol of quotas and spend budgets: reserve the most a request can use, settle what it used. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Allowance(IntEnum):
    """What is leased; the numbers are those of `tenantry.config.v1.Allowance`."""

    TOKENS_HOUR = 1
    TOKENS_DAY = 2
    TOKENS_MONTH = 3
    SPEND_DAY = 4
    SPEND_MONTH = 5

    @property
    def spends(self) -> bool:
        """Whether its unit is a micro-unit of the currency; otherwise it is a token."""
        return self in {Allowance.SPEND_DAY, Allowance.SPEND_MONTH}

    @property
    def window(self) -> str:
        """`hour`, `day` or `month`."""
        return self.name.partition("_")[2].lower()

    @property
    def limit(self) -> str:
        """Its name in refusals and metrics, for example `quotas.day`."""
        return f"{'spend_budgets' if self.spends else 'quotas'}.{self.window}"


@dataclass(frozen=True, slots=True)
class Use:
    """What a request may use, or used."""

    tokens: int = 0
    micro_units: int = 0
    """Of the currency that prices are in."""

    def of(self, allowance: Allowance) -> int:
        """In the unit of an allowance."""
        return self.micro_units if allowance.spends else self.tokens


NOTHING = Use()


@dataclass(frozen=True, slots=True)
class QuotaTenant:
    """A tenant with its quotas and spend budgets, by the snapshot in force."""

    tenant_uid: str
    name: str
    """`tenants/{tenant}`, for refusals."""
    allowances: Sequence[Allowance] = ()
    """Those its config has; a tenant without any is never asked about."""
    shadow: frozenset[Allowance] = frozenset()
    """Those that are tried out: they refuse nothing."""


@dataclass(frozen=True, slots=True)
class QuotaReservation:
    """What was taken for one request out of every allowance of its tenant."""

    tenant_uid: str
    use: Use
    lots: tuple[tuple[Allowance, int], ...] = ()
    """The lot of each allowance that it is from: a lot ends with its window, or when its lease runs out."""


class QuotaLedger(Protocol):
    """The tenants' quotas and spend budgets, as far as this router holds slices of them."""

    async def reserve(self, tenant: QuotaTenant, use: Use) -> QuotaReservation:
        """Take what a request may use out of every allowance of a tenant, or out of none.

        Waits only if the slice is too small, and then for one answer of the config service at most.

        Raises:
            ResourceExhaustedError: QUOTA_EXHAUSTED; too little is left of a window.
            UnavailableError: QUOTA_UNAVAILABLE; the slice is used up and the config service grants none right now.
        """
        ...

    def settle(self, reservation: QuotaReservation, used: Use) -> None:
        """Give back what was reserved and not used; exactly once for each reservation."""
        ...
