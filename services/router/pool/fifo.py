"""A pool that serves in the order of arrival, behind a bounded queue.

A waiter that cannot run yet (its adapter is loading, or it needs more KV cache than is free) does not hold up
those behind it, until they have overtaken the oldest waiter too often: then one endpoint is kept for it. Places
come from one synchronous `_serve`, so that a place is either with an endpoint or with exactly one grant; a waiter
that is cancelled at the moment it is served hands its place on.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from services.common.errors import Reason, ResourceExhaustedError
from services.router.pool.endpoints import EndpointCapacity, EndpointState, pick
from services.router.pool.fifo_grant import RETRY_SECONDS, FifoGrant, none_ready
from services.router.pool.pool import Cost
from services.router.pool.residency import AdapterLedger, Residency
from services.router.snapshot.model import PoolConfig

# A request that needs most of an endpoint would starve beside a steady stream of small ones.
_MAX_OVERTAKES = 32


@dataclass(eq=False, slots=True)
class _Waiter:
    cost: Cost
    lora_id: int | None
    granted: asyncio.Future[FifoGrant]
    overtaken: int = 0
    """How often somebody who came later was served while this was the oldest waiter."""


class FifoPool:
    """One pool's endpoints and queue. All methods run on the event loop; none but `acquire` waits."""

    def __init__(self, config: PoolConfig) -> None:
        self._endpoints: dict[str, EndpointState] = {}
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()
        self._kept: tuple[EndpointState, _Waiter] | None = None
        self._retired = False
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
        self._retired = True
        self._leave(set(self._endpoints))

    def _leave(self, targets: AbstractSet[str]) -> None:
        for target in targets:
            self._endpoints[target].leaving = True
        self._drop_left()
        self._refuse_if_none_ready()

    @property
    def retired(self) -> bool:
        """Whether the pool is gone."""
        return self._retired

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
            raise none_ready()
        waiter = _Waiter(cost, lora_id, asyncio.get_running_loop().create_future())
        if (grant := self._try(waiter)) is not None:
            self._overtook(waiter)
            return grant
        if len(self._queue) >= self._max_queued:
            raise ResourceExhaustedError(
                "the pool's queue is full", reason=Reason.QUEUE_FULL, retry_after_seconds=RETRY_SECONDS
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
            self._let_go(waiter)

    def _try(self, waiter: _Waiter) -> FifoGrant | None:
        endpoint = pick(self._open_to(waiter), waiter.cost, waiter.lora_id)
        if endpoint is None:
            return None
        endpoint.take(waiter.cost)
        send_weights = waiter.lora_id is not None and endpoint.ledger.use(waiter.lora_id)
        return FifoGrant(self, endpoint, waiter.cost, waiter.lora_id, send_weights)

    def _open_to(self, waiter: _Waiter) -> Iterable[EndpointState]:
        if self._kept is None or self._kept[1] is waiter:
            return self._endpoints.values()
        kept, _ = self._kept
        return (endpoint for endpoint in self._endpoints.values() if endpoint is not kept)

    def _overtook(self, waiter: _Waiter) -> None:
        """Count a service against the oldest waiter; one that was overtaken too often gets an endpoint to itself."""
        oldest = next((other for other in self._queue if not other.granted.done()), waiter)
        if oldest is waiter:
            return
        oldest.overtaken += 1
        if oldest.overtaken >= _MAX_OVERTAKES and self._kept is None:
            usable = (e for e in self._endpoints.values() if e.ready and not e.leaving)
            emptiest = min(usable, key=lambda endpoint: endpoint.kv_tokens, default=None)
            self._kept = None if emptiest is None else (emptiest, oldest)

    def _let_go(self, waiter: _Waiter) -> None:
        if self._kept is not None and self._kept[1] is waiter:
            self._kept = None
            self._serve()

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
                self._overtook(waiter)

    def _refuse_if_none_ready(self) -> None:
        if self._kept is not None and (self._kept[0].leaving or not self._kept[0].ready):
            self._kept = None
        if any(endpoint.ready and not endpoint.leaving for endpoint in self._endpoints.values()):
            return
        for waiter in self._queue:
            if not waiter.granted.done():
                waiter.granted.set_exception(none_ready())
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
                raise none_ready()

    def _notify_reloads(self) -> None:
        for waiting in self._reloads:
            if not waiting.done():
                waiting.set_result(None)
