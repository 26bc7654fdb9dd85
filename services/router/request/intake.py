"""Shares what calls hold before and while they are served among tenants: RPC places, and bytes of requests.

gRPC keeps at most a flow-control window of a request until the router reads it. A call reads once its tenant is known
and within its limits, once there is room for the largest request, and only for so long: a tenant that sends slowly,
or does not read its answers, uses up its own share. A tenant without any call is always let in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from services.common.errors import DeadlineExceededError, Reason, ResourceExhaustedError
from services.common.request_sizes import RECEIVED_BYTES

BODY_SECONDS = 15.0
"""From a call's turn to read until its request is whole: a mebibyte at 70 kB/s."""
_ROOM_SECONDS = 5.0
_RETRY_SECONDS = 1.0


@dataclass(slots=True)
class Held:
    """What a tenant's calls hold."""

    calls: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Arrival:
    """One call, and what it holds of its tenant's share."""

    held: Held
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Shares:
    """The most that may be held."""

    calls: int
    """Over all tenants."""
    tenant_calls: int
    tenant_bytes: int = 64 << 20
    all_bytes: int = 256 << 20
    """Over all tenants."""

    @classmethod
    def of(cls, calls: int) -> Shares:
        """Divide so many calls: at most a quarter for a tenant, and an eighth is kept for tenants without any."""
        return cls(calls - calls // 8, max(calls // 4, 1))


class Intake:
    """The calls of one router, by tenant."""

    def __init__(self, shares: Shares, body_seconds: float = BODY_SECONDS) -> None:
        self._shares = shares
        self._body_seconds = body_seconds
        self._held: dict[str, Held] = {}
        self._calls = 0
        self._bytes = 0
        self._waiting: deque[tuple[Held, asyncio.Future[None]]] = deque()

    @property
    def held(self) -> tuple[int, int]:
        """Calls and bytes of all tenants."""
        return self._calls, self._bytes

    @contextmanager
    def arrival(self, tenant_uid: str) -> Iterator[Arrival]:
        """Count a call, and the bytes of its request, until the call has ended.

        Raises:
            ResourceExhaustedError: the tenant has its share of calls.
        """
        held = self._held.get(tenant_uid)
        if held is not None and (
            held.calls >= self._shares.tenant_calls or self._calls >= self._shares.calls
        ):  # proven: share-of-calls
            raise ResourceExhaustedError(
                f"the router serves {held.calls} calls of this tenant; at most {self._shares.tenant_calls}, "
                f"and {self._shares.calls} of all tenants",
                reason=Reason.SERVER_BUSY,
                retry_after_seconds=_RETRY_SECONDS,
            )
        if held is None:
            held = self._held[tenant_uid] = Held()
        held.calls += 1
        self._calls += 1
        arrival = Arrival(held)
        try:
            yield arrival
        finally:
            self._resize(arrival, 0)
            self._calls -= 1
            held.calls -= 1
            if not held.calls:
                del self._held[tenant_uid]

    async def read(self, arrival: Arrival, receive: Callable[[], Awaitable[bytes | None]]) -> bytes | None:
        """Receive a call's request once there is room for it; its bytes count until the call ends.

        Raises:
            ResourceExhaustedError: its tenant, or all tenants together, hold too much.
            DeadlineExceededError: the request did not arrive in time.
        """
        if self._fits(arrival.held):
            self._resize(arrival, RECEIVED_BYTES)
        else:
            await self._room(arrival)
        try:
            async with asyncio.timeout(self._body_seconds):
                data = await receive()
        except TimeoutError:
            raise DeadlineExceededError(
                f"the request was not received within {self._body_seconds:g} seconds"
            ) from None
        self._resize(arrival, 0 if data is None else len(data))
        return data

    def _fits(self, held: Held) -> bool:
        shares, size = self._shares, RECEIVED_BYTES
        within = held.bytes + size <= shares.tenant_bytes and self._bytes + size <= shares.all_bytes
        return within or not held.bytes

    def _resize(self, arrival: Arrival, size: int) -> None:
        change = size - arrival.bytes
        arrival.bytes = size
        arrival.held.bytes += change
        self._bytes += change
        if change < 0 and self._waiting:
            self._wake()

    def _wake(self) -> None:
        """Give room to those that wait, in order; passes over tenants that have their share."""
        for held, waiting in list(self._waiting):
            if not waiting.done() and self._fits(held):
                waiting.set_result(None)
                # The others see its bytes once it runs.
                return

    async def _room(self, arrival: Arrival) -> None:
        """Wait for room for the largest request, and take it."""
        try:
            async with asyncio.timeout(_ROOM_SECONDS):
                while not self._fits(arrival.held):
                    await self._wait(arrival.held)
        except TimeoutError:
            raise ResourceExhaustedError(
                f"requests that are not answered yet hold {arrival.held.bytes} bytes of this tenant; at most "
                f"{self._shares.tenant_bytes}, and {self._shares.all_bytes} of all tenants",
                reason=Reason.SERVER_BUSY,
                retry_after_seconds=_RETRY_SECONDS,
            ) from None
        self._resize(arrival, RECEIVED_BYTES)

    async def _wait(self, held: Held) -> None:
        waiting = asyncio.get_running_loop().create_future()
        entry = (held, waiting)
        self._waiting.append(entry)
        try:
            await waiting
        finally:
            self._waiting.remove(entry)
            if waiting.done() and not waiting.cancelled():
                # There may be room for more than one, and the one that was woken may have been cancelled since.
                asyncio.get_running_loop().call_soon(self._wake)
