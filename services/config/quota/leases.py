"""Leases slices of quotas: each debit is durable in etcd before it is answered.

Each account is one key, changed by compare and swap: of concurrent claims, all but one are decided again. The keys are
not watched, so that leases cause no snapshots.
"""

from __future__ import annotations

import asyncio
import logging

from google.protobuf.message import DecodeError
from tenantry.config.v1 import stored_pb2

from services.common.backoff import Backoff
from services.common.clock import Clock
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import ConfigStore, Expect, StoreUnavailableError
from services.config.quota.allowances import Allowance, allowed
from services.config.quota.ledger import Account, Claim, Grant, Slice, account_at, lease
from services.config.quota.windows import Window, span_at
from services.config.state.current_state import CurrentState

_log = logging.getLogger(__name__)
LEASE_SECONDS = 30.0
CLAIM_SECONDS = 3.0
_ATTEMPTS = 12


class QuotaLeases:
    """Settles claims on every tenant's quotas and spend budgets."""

    def __init__(
        self, store: ConfigStore, current: CurrentState, clock: Clock, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        self._store = store
        self._current = current
        self._clock = clock
        self._lease_seconds = lease_seconds

    async def lease(self, tenant_uid: str, allowance: Allowance, claim: Claim) -> Grant:
        """Settle a router's claim and grant what is free; the same claim again gets the same answer.

        Raises:
            StoreUnavailableError: it may not have been written in time. Sent again, the claim counts once.
        """
        backoff = Backoff(0.005, 0.1)
        try:
            async with asyncio.timeout(CLAIM_SECONDS):
                for _ in range(_ATTEMPTS):
                    answer = await self._attempt(tenant_uid, allowance, claim)
                    if answer is not None:
                        return answer
                    await asyncio.sleep(backoff.next_delay_seconds())
        except TimeoutError:
            raise StoreUnavailableError("the config store does not answer") from None
        raise StoreUnavailableError("too many claims on one quota at once")

    async def account(self, tenant_uid: str, allowance: Allowance) -> Account:
        """What was used and is held in the window of now; nothing, where the account is damaged.

        Raises:
            StoreUnavailableError: etcd does not answer.
        """
        key, now = etcd_keys.quota_key(tenant_uid, allowance.key), self._clock.wall_seconds()
        stored = await self._store.get(key)
        try:
            account = _opened(stored.value, allowance.window) if stored else None
        except (DecodeError, ValueError):
            _log.error("the value of %s is damaged: nothing of this quota is granted", key)
            account = None
        return account_at(account, span_at(allowance.window, now), now)

    async def _attempt(self, tenant_uid: str, allowance: Allowance, claim: Claim) -> Grant | None:
        """Try once, with one read and one write; None when another writer came in between."""
        record = self._current.state.tenant_by_uid(tenant_uid)
        key = etcd_keys.quota_key(tenant_uid, allowance.key)
        stored = await self._store.get(key)
        now = self._clock.wall_seconds()
        span = span_at(allowance.window, now)
        most = allowed(record, allowance)
        if stored is None and most.units == 0:
            return Grant(span, 0, now, 0)
        try:
            account = _opened(stored.value, allowance.window) if stored else None
        except (DecodeError, ValueError):
            _log.error("the value of %s is damaged: nothing of this quota is granted", key)
            return Grant(span, 0, now, 0)
        settled, grant = lease(account, claim, most, span, now, self._lease_seconds)
        if settled is None or settled is account:
            return grant
        conditions = [Expect(key, stored.mod_revision if stored else 0)]
        if record is not None:
            # Otherwise the quota could have been lowered between the read and the write.
            conditions.append(Expect(etcd_keys.tenant_key(tenant_uid), record.mod_revision))
        written = await self._store.write(
            conditions, {key: _packed(settled)}
        )  # proven: debit-before-the-answer
        return grant if written is not None else None


def _opened(value: bytes, window: Window) -> Account:
    stored = stored_pb2.StoredQuota.FromString(value)
    slices = tuple(
        Slice(
            part.router,
            part.session_id,
            part.held_units,
            part.expire_time.ToNanoseconds() / 1e9,
            part.sequence,
            part.granted_units,
        )
        for part in stored.slices
    )
    start = stored.window_start.seconds
    # The end follows from the start, so it is not stored.
    span = span_at(window, start)
    if span.start_seconds != start:
        raise ValueError("no window begins there")
    return Account(span, stored.used_units, slices)


def _packed(account: Account) -> bytes:
    stored = stored_pb2.StoredQuota(used_units=account.used_units)
    stored.window_start.FromSeconds(account.span.start_seconds)
    for part in account.slices:
        kept = stored.slices.add(
            router=part.router,
            session_id=part.session_id,
            held_units=part.held_units,
            sequence=part.sequence,
            granted_units=part.granted_units,
        )
        kept.expire_time.FromNanoseconds(int(part.expires_seconds * 1e9))
    return stored.SerializeToString()
