"""The protocol of quotas: reserve the most a request can use, settle what it used. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Window(IntEnum):
    """How long a quota lasts; the numbers are those of `tenantry.config.v1.QuotaWindow`."""

    HOUR = 1
    DAY = 2
    MONTH = 3


@dataclass(frozen=True, slots=True)
class QuotaTenant:
    """A tenant with its quotas, by the snapshot in force."""

    tenant_uid: str
    name: str
    """`tenants/{tenant}`, for refusals."""
    windows: Sequence[Window] = ()
    """The windows its config has a quota for; none for a tenant without quotas, which is never asked about."""


@dataclass(frozen=True, slots=True)
class QuotaReservation:
    """Tokens taken for one request out of every quota of its tenant."""

    tenant_uid: str
    tokens: int
    lots: tuple[tuple[Window, int], ...] = ()
    """The lot of each window that they are from: a lot ends with its window, or when its lease runs out."""


class QuotaLedger(Protocol):
    """The tenants' quotas, as far as this router holds slices of them."""

    async def reserve(self, tenant: QuotaTenant, tokens: int) -> QuotaReservation:
        """Take tokens out of every quota of a tenant, or out of none.

        Waits only if the slice is too small, and then for one answer of the config service at most.

        Raises:
            ResourceExhaustedError: QUOTA_EXHAUSTED; the window has too few free tokens.
            UnavailableError: QUOTA_UNAVAILABLE; the slice is used up and the config service grants none right now.
        """
        ...

    def settle(self, reservation: QuotaReservation, used_tokens: int) -> None:
        """Give back the tokens that were reserved and not used; exactly once for each reservation."""
        ...
