"""Leases slices of quotas ahead of need: asks in the background, gives back at the end.

One lease request is under way at a time. A request without an answer is sent again unchanged, under its number, until
it is answered, since the config service may have settled it. Nothing here is durable; the tokens that a killed router
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
from tenantry.config.v1 import tenant_pb2

from services.common.backoff import Backoff
from services.common.clock import Clock
from services.common.errors import QuotaViolation, Reason, ResourceExhaustedError, UnavailableError
from services.router.quota.ledger import QuotaReservation, QuotaTenant, Window
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

_Key = tuple[str, Window]


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
    ) -> None:
        self._stub = rpc.QuotaLeaseServiceStub(channel)
        self._router = router
        self._clock = clock
        self._rules = rules or SliceRules()
        self._wait_seconds = wait_seconds
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

    async def reserve(self, tenant: QuotaTenant, tokens: int) -> QuotaReservation:
        """Take tokens out of every quota of a tenant, or out of none; waits for an answer if they do not fit.

        Raises:
            ResourceExhaustedError: QUOTA_EXHAUSTED; nothing more is free in a window.
            UnavailableError: QUOTA_UNAVAILABLE; they do not fit, and no grant came in time.
        """
        slices = {window: self._slice(tenant.tenant_uid, window) for window in tenant.windows}
        deadline = asyncio.get_running_loop().time() + self._wait_seconds
        while True:
            now = self._clock.wall_seconds()
            short = [window for window, one in slices.items() if not one.fits(tokens, now)]
            if not short:
                lots = tuple((window, one.take(tokens)) for window, one in slices.items())
                if any(one.is_low(now) for one in slices.values()):
                    self._wake.set()
                return QuotaReservation(tenant.tenant_uid, tokens, lots)
            for window in short:
                if slices[window].is_dry(now):
                    raise _exhausted(tenant, window, tokens, slices[window], now)
                slices[window].wait_for(tokens)
            await self._answer(deadline)

    def settle(self, reservation: QuotaReservation, used_tokens: int) -> None:
        """Give back the tokens that were reserved and not used; exactly once for each reservation."""
        now = self._clock.wall_seconds()
        for window, lot in reservation.lots:
            one = self._slices.get((reservation.tenant_uid, window))
            # A slice is forgotten once its window is over; its usage counts nowhere any more.
            if one is not None:
                one.settle(lot, reservation.tokens, used_tokens, now)

    async def give_back(self, timeout_seconds: float) -> bool:
        """On a clean stop, after `run` and every request: give everything back; returns whether that was accepted.

        Tokens that were not accepted count as used when their lease runs out.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._exchange(QuotaSlice.give_back)
        except (TimeoutError, grpc.aio.AioRpcError, _WrongAnswerError) as error:
            _log.warning("quota slices were not given back: %s", _cause(error))
            return False
        return True

    def available_tokens(self, tenant_uid: str, window: Window) -> int:
        """The tokens this router may still reserve without asking."""
        one = self._slices.get((tenant_uid, window))
        return one.available_tokens if one else 0

    def _slice(self, tenant_uid: str, window: Window) -> QuotaSlice:
        key = (tenant_uid, window)
        if key not in self._slices:
            self._slices[key] = QuotaSlice(self._rules, self._lots)
        return self._slices[key]

    async def _answer(self, deadline: float) -> None:
        """Wait until the tokens wanted now were asked for and answered."""
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
                    # It will never be answered. The tokens it gave back are lost until the lease runs out.
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
                grant.granted_tokens,
                grant.expire_time.ToNanoseconds() / 1e9,
            )
            self._slice(*key).put(granted, demand.wanted_tokens, now)


def _require_fitting(asked: _Asked, response: pb.LeaseQuotasResponse) -> None:
    named = tuple((grant.tenant_uid, grant.window) for grant in response.grants)
    if named != tuple((uid, window.value) for uid, window in asked.keys):
        raise _WrongAnswerError


def _demand(key: _Key, demand: Demand) -> pb.QuotaDemand:
    message = pb.QuotaDemand(
        tenant_uid=key[0],
        window=tenant_pb2.QuotaWindow.ValueType(key[1].value),
        used_tokens=demand.used_tokens,
        returned_tokens=demand.returned_tokens,
        wanted_tokens=demand.wanted_tokens,
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
    tenant: QuotaTenant, window: Window, tokens: int, left: QuotaSlice, now_seconds: float
) -> ResourceExhaustedError:
    name, fits = window.name.lower(), max(0, left.available_tokens)
    description = f"the quota of this {name} is used up"
    if fits:
        description = f"this request may use {tokens} tokens, and {fits} are left of the quota of this {name}"
    return ResourceExhaustedError(
        description,
        reason=Reason.QUOTA_EXHAUSTED,
        violations=[QuotaViolation(tenant.name, description)],
        metadata={"limit": f"quotas.{name}", "needed": str(tokens), "fits_now": str(fits)},
        retry_after_seconds=left.seconds_left(now_seconds),
    )


def _unavailable() -> UnavailableError:
    return UnavailableError(
        "the config service granted no more of the quota in time", reason=Reason.QUOTA_UNAVAILABLE
    )
