"""A pool that serves in the order of arrival, behind a bounded queue.

A waiter that cannot run yet (its adapter is loading, or it needs more KV cache than is free) does not hold up
those behind it. Places come from one synchronous `_serve`, so that a place is either with an endpoint or with
exactly one grant; a waiter that is cancelled at the moment it is served hands its place on.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from services.common.errors import Reason, ResourceExhaustedError, UnavailableError
from services.router.pool.endpoints import EndpointCapacity, EndpointState, pick
from services.router.pool.pool import Cost
from services.router.pool.residency import AdapterLedger, Residency
from services.router.snapshot import PoolConfig

# About the time until a probe finds an endpoint that came back.
_RETRY_SECONDS = 1.0


@dataclass(eq=False, slots=True)
class _Waiter:
    cost: Cost
    lora_id: int | None
    granted: asyncio.Future[FifoGrant]


class FifoPool:
    """One pool's endpoints and queue. All methods run on the event loop; none but `acquire` waits."""

    def __init__(self, config: PoolConfig) -> None:
        self._endpoints: dict[str, EndpointState] = {}
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()
        # Those told of a miss wait here for the one of them that sends the weights again.
        self._reloads: set[asyncio.Future[None]] = set()
        self.configure(config)

    def configure(self, config: PoolConfig) -> None:
        """Follow the config: endpoints that stay keep their load and what is believed of them."""
        self._max_queued = config.queued_requests
        capacity = EndpointCapacity(config.concurrent_requests, config.kv_tokens)
        for target in config.targets:
            known = self._endpoints.get(target)
            if known is None:
                ledger = AdapterLedger(config.adapters)
                self._endpoints[target] = EndpointState(target, capacity, ledger)
            else:
                known.capacity, known.ledger.capacity, known.leaving = capacity, config.adapters, False
        self._leave(self._endpoints.keys() - set(config.targets))
        self._serve()

    def retire(self) -> None:
        """The pool is gone: what runs there ends there, what waits is refused."""
        self._leave(set(self._endpoints))

    def _leave(self, targets: AbstractSet[str]) -> None:
        for target in targets:
            self._endpoints[target].leaving = True
        self._drop_left()
        self._refuse_if_none_ready()

    @property
    def queued(self) -> int:
        """Requests waiting."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Requests holding a place."""
        return sum(endpoint.requests for endpoint in self._endpoints.values())

    @property
    def targets(self) -> list[str]:
        """The endpoints to probe."""
        return [target for target, endpoint in self._endpoints.items() if not endpoint.leaving]

    def probed(self, target: str, ready: bool) -> None:
        """A probe's finding. An endpoint that comes back starts with an empty adapter cache."""
        endpoint = self._endpoints.get(target)
        if endpoint is None or endpoint.ready == ready:
            return
        endpoint.ready = ready
        if ready:
            endpoint.ledger.reset()
            self._serve()
        else:
            self._notify_reloads()
            self._refuse_if_none_ready()

    async def acquire(self, tenant_uid: str, cost: Cost, lora_id: int | None) -> FifoGrant:
        """Wait for a place; see `Pool.acquire`."""
        del tenant_uid  # Order of arrival knows no tenants.
        if not any(endpoint.ready and not endpoint.leaving for endpoint in self._endpoints.values()):
            raise _none_ready()
        waiter = _Waiter(cost, lora_id, asyncio.get_running_loop().create_future())
        if (grant := self._try(waiter)) is not None:
            return grant
        if len(self._queue) >= self._max_queued:
            raise ResourceExhaustedError(
                "the pool's queue is full", reason=Reason.QUEUE_FULL, retry_after_seconds=_RETRY_SECONDS
            )
        self._queue[waiter] = None
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and not waiter.granted.exception():
                waiter.granted.result().give_back()
            raise
        finally:
            self._queue.pop(waiter, None)

    def _try(self, waiter: _Waiter) -> FifoGrant | None:
        endpoint = pick(self._endpoints.values(), waiter.cost, waiter.lora_id)
        if endpoint is None:
            return None
        endpoint.take(waiter.cost)
        send_weights = waiter.lora_id is not None and endpoint.ledger.use(waiter.lora_id)
        return FifoGrant(self, endpoint, waiter.cost, waiter.lora_id, send_weights)

    def _serve(self) -> None:
        if not self._queue or not any(
            e.ready and e.requests < e.capacity.requests for e in self._endpoints.values()
        ):
            return
        for waiter in list(self._queue):
            if waiter.granted.done():
                continue
            if (grant := self._try(waiter)) is not None:
                del self._queue[waiter]
                waiter.granted.set_result(grant)

    def _refuse_if_none_ready(self) -> None:
        if any(endpoint.ready and not endpoint.leaving for endpoint in self._endpoints.values()):
            return
        for waiter in self._queue:
            if not waiter.granted.done():
                waiter.granted.set_exception(_none_ready())
        self._queue.clear()

    def _drop_left(self) -> None:
        for target, endpoint in list(self._endpoints.items()):
            if endpoint.leaving and not endpoint.requests:
                del self._endpoints[target]

    def changed(self) -> None:
        """Something was given back or became known: serve whoever can run now."""
        self._notify_reloads()
        self._drop_left()
        self._serve()

    async def reload_turn(self, endpoint: EndpointState, lora_id: int) -> None:
        """Wait while another request sends the adapter's weights to this endpoint.

        Raises:
            UnavailableError: the endpoint went away.
        """
        epoch = endpoint.ledger.epoch
        while endpoint.ledger.state(lora_id) is Residency.LOADING:
            waiting = asyncio.get_running_loop().create_future()
            self._reloads.add(waiting)
            try:
                await waiting
            finally:
                self._reloads.discard(waiting)
            if not endpoint.ready or endpoint.ledger.epoch != epoch:
                raise _none_ready()

    def _notify_reloads(self) -> None:
        for waiting in self._reloads:
            if not waiting.done():
                waiting.set_result(None)


class FifoGrant:
    """A place at one endpoint of a `FifoPool`; see `Grant`."""

    def __init__(
        self, pool: FifoPool, endpoint: EndpointState, cost: Cost, lora_id: int | None, send_weights: bool
    ) -> None:
        self._pool = pool
        self._endpoint = endpoint
        self._cost = cost
        self._lora_id = lora_id
        self._epoch = endpoint.ledger.epoch
        self._load_number = endpoint.ledger.load_number(lora_id) if lora_id is not None else 0
        self._loading = send_weights
        self._held = True
        self.send_weights = send_weights

    @property
    def target(self) -> str:
        """The endpoint's gRPC target."""
        return self._endpoint.target

    def adapter_accepted(self) -> None:
        """The endpoint answered: it holds the adapter now."""
        if self._loading and self._lora_id is not None:
            self._loading = False
            self._endpoint.ledger.loaded(self._lora_id, self._epoch)
            self._pool.changed()

    async def adapter_missed(self) -> None:
        """The endpoint does not hold the adapter; waits until `send_weights` says anew what to send."""
        assert self._lora_id is not None, "a request without an adapter cannot miss one"
        ledger = self._endpoint.ledger
        ledger.missed(self._lora_id, self._load_number, self._epoch)
        await self._pool.reload_turn(self._endpoint, self._lora_id)
        if ledger.epoch != self._epoch:
            raise _none_ready()
        self.send_weights = self._loading = ledger.resend(self._lora_id)
        self._load_number = ledger.load_number(self._lora_id)

    def endpoint_failed(self) -> None:
        """Send nobody to the endpoint until it is probed."""
        if self._endpoint.ledger.epoch == self._epoch:
            self._pool.probed(self._endpoint.target, ready=False)

    def charge(self, output_tokens: int) -> None:
        """Nothing: order of arrival takes no account of tokens."""

    async def __aenter__(self) -> Self:
        """Hold the place."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the place back."""
        self.give_back()

    def give_back(self) -> None:
        """Give the place back; exactly once."""
        assert self._held, "a grant was given back twice"
        self._held = False
        ledger = self._endpoint.ledger
        if self._lora_id is not None:
            if self._loading:
                ledger.load_failed(self._lora_id, self._epoch)
            ledger.release(self._lora_id, self._epoch)
        self._endpoint.give_back(self._cost)
        self._pool.changed()


def _none_ready() -> UnavailableError:
    return UnavailableError(
        "no model server of the pool is ready",
        reason=Reason.NO_READY_ENDPOINT,
        retry_after_seconds=_RETRY_SECONDS,
    )
