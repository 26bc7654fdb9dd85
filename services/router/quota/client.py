"""Leases slices of quotas ahead of need: asks in the background, gives back at the end.

One lease request is under way at a time. A request without an answer is sent again unchanged, under its number, until
it is answered, since the config service may have settled it. Nothing here is durable; the units that a killed router
held are lost to its tenants until the window ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import grpc
from tenantry.config.v1 import quota_lease_service_pb2 as pb
from tenantry.config.v1 import quota_lease_service_pb2_grpc as rpc
from tenantry.config.v1 import tenant_usage_pb2

from services.common.backoff import Backoff
from services.common.clock import Clock
from services.common.errors import QuotaViolation, Reason, ResourceExhaustedError, UnavailableError
from services.router.quota.ledger import Allowance, QuotaReservation, QuotaTenant, Use
from services.router.quota.slices import Demand, Granted, QuotaSlice, SliceRules

_log = logging.getLogger(__name__)
MAX_DEMANDS = 1000
MAX_WAITING = 4096
ASK_SECONDS = 5.0
"""The config service answers or refuses within 3 s."""
TURN_SECONDS = 1.0
PAUSE_SECONDS = 0.02
WAIT_SECONDS = 0.5
_POINTLESS = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED})

_Key = tuple[str, Allowance]


class _WrongAnswerError(Exception):
    """The answer does not fit the lease request."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A lease request under way, and the futures that its answer resolves."""

    request: pb.LeaseQuotasRequest
    keys: tuple[_Key, ...]
    waiting: tuple[asyncio.Future[None], ...]


class QuotaClient:
    """One router's slices; a `QuotaLedger`."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        router: str,
        clock: Clock,
        rules: SliceRules | None = None,
        wait_seconds: float = WAIT_SECONDS,
        shadowed: Callable[[str, str], object] = lambda _uid, _limit: None,
    ) -> None:
        """Start without slices; `shadowed` takes tenant_uid and limit of what a limit in shadow mode would refuse."""
        self._stub = rpc.QuotaLeaseServiceStub(channel)
        self._router = router
        self._clock = clock
        self._rules = rules or SliceRules()
        self._wait_seconds = wait_seconds
        self._shadowed = shadowed
        self._session_id = secrets.token_hex(16)
        self._sequence = 0
        self._slices: dict[_Key, QuotaSlice] = {}
        self._lots = itertools.count()
        self._reachable = True
        self._asked: list[_Asked] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._asking = asyncio.Lock()

    async def run(self) -> NoReturn:
        """Keep the slices filled, for as long as the process lives."""
        backoff = Backoff(0.05, 1.0)
        while True:
            self._wake.clear()
            try:
                await self._exchange(QuotaSlice.demand)
            except (grpc.aio.AioRpcError, _WrongAnswerError) as error:
                _log.warning("quota leases: %s", _cause(error))
                self._reachable = False
                await asyncio.sleep(backoff.next_delay_seconds())
                continue
            self._reachable = True
            backoff.reset()
            # Demands that come within the pause are sent together.
            await asyncio.sleep(PAUSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TURN_SECONDS):
                    await self._wake.wait()

    async def reserve(self, tenant: QuotaTenant, use: Use) -> QuotaReservation:
        """Take what a request may use out of every allowance, or out of none; waits for an answer if it does not fit.

        Raises:
            ResourceExhaustedError: QUOTA_EXHAUSTED; nothing more is free in a window.
            UnavailableError: QUOTA_UNAVAILABLE; it does not fit, and no grant came in time.
        """
        slices = {allowance: self._slice(tenant.tenant_uid, allowance) for allowance in tenant.allowances}
        deadline = asyncio.get_running_loop().time() + self._wait_seconds
        while True:
            now = self._clock.wall_seconds()
            # Not a generator: each slice notes what is asked of it.
            fits = [one.fits(use.of(allowance), now) for allowance, one in slices.items()]
            lacking = [allowance for allowance, fit in zip(slices, fits, strict=True) if not fit]
            refusing = [allowance for allowance in lacking if allowance not in tenant.shadow]
            # One that is only tried out waits for the first answer of its window, to know what is left.
            asking = refusing + [
                one for one in lacking if one not in refusing and not slices[one].is_known(now)
            ]
            for allowance in asking:
                if allowance in refusing and slices[allowance].is_dry(now):
                    raise _exhausted(tenant, allowance, use.of(allowance), slices[allowance], now)
                slices[allowance].wait_for(use.of(allowance))
            if not asking:
                return self._taken(tenant, use, slices, now)
            try:
                await self._answer(deadline)
            except UnavailableError:
                if refusing:
                    raise
                return self._taken(tenant, use, slices, now)

    def settle(self, reservation: QuotaReservation, used: Use) -> None:
        """Give back what was reserved and not used; exactly once for each reservation."""
        now = self._clock.wall_seconds()
        for allowance, lot in reservation.lots:
            one = self._slices.get((reservation.tenant_uid, allowance))
            # A slice is forgotten once its window is over; its usage counts nowhere any more.
            if one is not None:
                one.settle(lot, reservation.use.of(allowance), used.of(allowance), now)

    async def give_back(self, timeout_seconds: float) -> bool:
        """On a clean stop, after `run` and every request: give everything back; returns whether that was accepted.

        Units that were not accepted count as used when their lease runs out.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._exchange(QuotaSlice.give_back)
        except (TimeoutError, grpc.aio.AioRpcError, _WrongAnswerError) as error:
            _log.warning("quota slices were not given back: %s", _cause(error))
            return False
        return True

    def available_units(self, tenant_uid: str, allowance: Allowance) -> int:
        """The units this router may still reserve without asking."""
        one = self._slices.get((tenant_uid, allowance))
        return one.available_units if one else 0

    def _taken(
        self, tenant: QuotaTenant, use: Use, slices: dict[Allowance, QuotaSlice], now_seconds: float
    ) -> QuotaReservation:
        """Take units that fit, or that may be a debt because their allowance is only tried out."""
        for allowance in tenant.shadow:
            if allowance in slices and slices[allowance].exceeds(use.of(allowance), now_seconds):
                self._shadowed(tenant.tenant_uid, allowance.limit)
        lots = tuple((allowance, one.take(use.of(allowance))) for allowance, one in slices.items())
        if any(one.is_low(now_seconds) for one in slices.values()):
            self._wake.set()
        return QuotaReservation(tenant.tenant_uid, use, lots)

    def _slice(self, tenant_uid: str, allowance: Allowance) -> QuotaSlice:
        key = (tenant_uid, allowance)
        if key not in self._slices:
            self._slices[key] = QuotaSlice(self._rules, self._lots)
        return self._slices[key]

    async def _answer(self, deadline: float) -> None:
        """Wait until the units wanted now were asked for and answered."""
        if not self._reachable or len(self._waiting) >= MAX_WAITING:
            raise _unavailable()
        answered = asyncio.get_running_loop().create_future()
        self._waiting.append(answered)
        self._wake.set()
        try:
            async with asyncio.timeout_at(deadline):
                await answered
        except TimeoutError:
            raise _unavailable() from None
        finally:
            if answered in self._waiting:
                self._waiting.remove(answered)

    async def _exchange(self, demand_of: Callable[[QuotaSlice, float], Demand | None]) -> None:
        """Get the requests under way answered, then send the demands of now."""
        async with self._asking:
            await self._send()
            self._ask(demand_of)
            await self._send()

    def _ask(self, demand_of: Callable[[QuotaSlice, float], Demand | None]) -> None:
        now = self._clock.wall_seconds()
        demands = [(key, demand) for key, one in self._slices.items() if (demand := demand_of(one, now))]
        waiting, self._waiting = tuple(self._waiting), []
        for start in range(0, len(demands), MAX_DEMANDS):
            part = demands[start : start + MAX_DEMANDS]
            self._sequence += 1
            request = pb.LeaseQuotasRequest(
                router=self._router,
                session_id=self._session_id,
                sequence=self._sequence,
                demands=[_demand(key, demand) for key, demand in part],
            )
            last = start + MAX_DEMANDS >= len(demands)
            self._asked.append(_Asked(request, tuple(key for key, _ in part), waiting if last else ()))
        if not demands:
            _resolve(waiting)
        for key in [key for key, one in self._slices.items() if one.is_idle(now)]:
            del self._slices[key]

    async def _send(self) -> None:
        while self._asked:
            asked = self._asked[0]
            try:
                response = await self._stub.LeaseQuotas(asked.request, timeout=ASK_SECONDS)
                _require_fitting(asked, response)
            except grpc.aio.AioRpcError as error:
                if error.code() in _POINTLESS:
                    # It will never be answered. The units it gave back are lost until the lease runs out.
                    del self._asked[0]
                raise
            except _WrongAnswerError:
                # The same number would get the same answer again.
                del self._asked[0]
                raise
            self._put(asked, response)
            del self._asked[0]
            _resolve(asked.waiting)

    def _put(self, asked: _Asked, response: pb.LeaseQuotasResponse) -> None:
        now = self._clock.wall_seconds()
        for key, demand, grant in zip(asked.keys, asked.request.demands, response.grants, strict=True):
            granted = Granted(
                grant.window_start.seconds,
                grant.window_end.seconds,
                grant.granted_units,
                grant.expire_time.ToNanoseconds() / 1e9,
                grant.free_units,
            )
            self._slice(*key).put(granted, demand.wanted_units, now)


def _require_fitting(asked: _Asked, response: pb.LeaseQuotasResponse) -> None:
    named = tuple((grant.tenant_uid, grant.allowance) for grant in response.grants)
    if named != tuple((uid, allowance.value) for uid, allowance in asked.keys):
        raise _WrongAnswerError


def _demand(key: _Key, demand: Demand) -> pb.QuotaDemand:
    message = pb.QuotaDemand(
        tenant_uid=key[0],
        allowance=tenant_usage_pb2.Allowance.ValueType(key[1].value),
        used_units=demand.used_units,
        returned_units=demand.returned_units,
        wanted_units=demand.wanted_units,
    )
    message.window_start.FromSeconds(demand.window_start_seconds)
    return message


def _resolve(waiting: tuple[asyncio.Future[None], ...]) -> None:
    for one in waiting:
        if not one.done():
            one.set_result(None)


def _cause(error: BaseException) -> str:
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__


def _exhausted(
    tenant: QuotaTenant, allowance: Allowance, units: int, left: QuotaSlice, now_seconds: float
) -> ResourceExhaustedError:
    fits = max(0, left.available_units)
    what = f"{'spend budget' if allowance.spends else 'quota'} of this {allowance.window}"
    description = f"the {what} is used up"
    if fits and allowance.spends:
        description = (
            f"this request may cost {units / 1e6:.6f}, and {fits / 1e6:.6f} is left of the {what}, "
            "in the currency of its prices"
        )
    elif fits:
        description = f"this request may use {units} tokens, and {fits} are left of the {what}"
    return ResourceExhaustedError(
        description,
        reason=Reason.QUOTA_EXHAUSTED,
        violations=[QuotaViolation(tenant.name, description)],
        metadata={"limit": allowance.limit, "needed": str(units), "fits_now": str(fits)},
        retry_after_seconds=left.seconds_left(now_seconds),
    )


def _unavailable() -> UnavailableError:
    return UnavailableError(
        "the config service granted no more of the quota in time", reason=Reason.QUOTA_UNAVAILABLE
    )
