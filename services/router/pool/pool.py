"""Decides where and when a request runs: one decision over the endpoints' load and the queue's order.

A request that cannot run yet (its adapter is loading, or it needs more KV cache than is free) does not hold up those
behind it, until the queue calls it starving: then one endpoint is kept for it. Places come from one synchronous
`_serve`, so that each is either with an endpoint or with exactly one grant. A request that is cancelled at the moment
it is served hands its place on.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from services.common.errors import Reason, ResourceExhaustedError, UnavailableError
from services.router.pool.demand import Demand
from services.router.pool.endpoints import Endpoint, EndpointCapacity, EndpointSet, Place
from services.router.pool.queue_discipline import QueueDiscipline, Ticket
from services.router.snapshot.model import PoolConfig

# About the time until a probe finds an endpoint that came back.
_RETRY_SECONDS = 1.0


class Grant:
    """A place at an endpoint; an async context manager, given back exactly once however it is left."""

    def __init__(self, pool: Pool, place: Place) -> None:
        self._pool = pool
        self._place = place

    @property
    def target(self) -> str:
        """The endpoint's gRPC target."""
        return self._place.endpoint.target

    @property
    def send_weights(self) -> bool:
        """Whether the adapter's weights go along; at most one grant at a time of each endpoint says so."""
        return self._place.send_weights

    @property
    def withdrawn(self) -> bool:
        """Whether the pool is retired: nothing may be sent any more, what was sent ends there."""
        return self._pool.retired

    def adapter_accepted(self) -> None:
        """Record that the endpoint answered: it holds the adapter now."""
        if self._place.adapter_accepted():
            self._pool.changed()

    async def adapter_missed(self) -> None:
        """Record that the endpoint does not hold the adapter; wait until `send_weights` says anew what to send.

        Raises:
            UnavailableError: the endpoint went away meanwhile.
        """
        self._place.adapter_missed()
        await self._pool.reload_turn(self._place)
        self._place.take_reload()

    def endpoint_failed(self) -> None:
        """Send nothing to the endpoint until it is probed: it broke the stream or refused the connection."""
        if not self._place.outdated:
            self._pool.probed(self._place.endpoint.target, ready=False)

    def charge(self, output_tokens: int) -> None:
        """Count tokens as they are generated, for the queue."""
        self._pool.charge(self._place.demand, output_tokens)

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
        self._place.give_back()
        self._pool.changed()


class Pool:
    """One pool's endpoints behind one queue. All methods run on the event loop; only `acquire` and reloads wait."""

    def __init__(self, config: PoolConfig, queue: QueueDiscipline) -> None:
        self._endpoints = EndpointSet()
        self._queue = queue
        self._granted: dict[Ticket, asyncio.Future[Grant]] = {}
        self._kept: tuple[Endpoint, Ticket] | None = None
        """The endpoint that only the request of this ticket may use."""
        self._retired = False
        # Requests that missed an adapter wait here for the one of them that sends its weights again.
        self._reloads: set[asyncio.Future[None]] = set()
        self.configure(config)

    def configure(self, config: PoolConfig) -> None:
        """Follow the config: endpoints that stay keep their load and what is believed of them."""
        self._max_queued = config.queued_requests
        capacity = EndpointCapacity(config.concurrent_requests, config.kv_tokens, config.adapters)
        self._endpoints.configure(config.targets, capacity)
        self._refuse_if_none_usable()
        self._serve()

    def retire(self) -> None:
        """End the pool: what runs there ends there, what waits is refused."""
        self._retired = True
        self._endpoints.keep_only(())
        self._refuse_if_none_usable()

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
        return self._endpoints.requests

    @property
    def targets(self) -> list[str]:
        """The endpoints to probe."""
        return self._endpoints.targets

    def probed(self, target: str, ready: bool) -> None:
        """Follow what a probe found."""
        if not self._endpoints.probed(target, ready):
            return
        if ready:
            self._serve()
        else:
            self._wake_reloads()
            self._refuse_if_none_usable()

    async def acquire(self, demand: Demand) -> Grant:
        """Wait for a place, as long as the caller's own deadline allows; cancel-safe.

        Raises:
            ResourceExhaustedError: the queue is full.
            UnavailableError: no endpoint is ready.
        """
        if not self._endpoints.any_usable:
            raise none_ready()
        if (grant := self._grant(demand, None)) is not None:
            return grant
        if len(self._queue) >= self._max_queued:
            raise ResourceExhaustedError(
                "the pool's queue is full", reason=Reason.QUEUE_FULL, retry_after_seconds=_RETRY_SECONDS
            )
        ticket = self._queue.join(demand)
        granted: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._granted[ticket] = granted
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and not granted.exception():
                granted.result().give_back()  # proven: place-handed-on
            raise
        finally:
            self._queue.leave(ticket)
            del self._granted[ticket]
            if self._kept is not None and self._kept[1] is ticket:
                self._kept = None
                self._serve()

    def _grant(self, demand: Demand, ticket: Ticket | None) -> Grant | None:
        """A place for a request in the queue, or for one that just came and has no ticket."""
        kept = None if self._kept is None or self._kept[1] is ticket else self._kept[0]
        place = self._endpoints.place(demand, kept)
        if place is None:
            return None
        self._queue.served(ticket, demand)
        starving = self._queue.starving()
        if starving is not None and self._kept is None:
            emptiest = self._endpoints.emptiest()
            self._kept = None if emptiest is None else (emptiest, starving)
        return Grant(self, place)

    def _serve(self) -> None:
        if not self._queue or not self._endpoints.any_place:
            return
        for ticket in self._queue.in_order():
            granted = self._granted[ticket]
            # A caller that left has not taken its ticket with it yet.
            if not granted.done() and (grant := self._grant(ticket.demand, ticket)) is not None:
                granted.set_result(grant)

    def _refuse_if_none_usable(self) -> None:
        if self._kept is not None and not self._kept[0].usable:
            self._kept = None
        if self._endpoints.any_usable:
            return
        for ticket in self._queue.in_order():
            self._queue.leave(ticket)
            if not self._granted[ticket].done():
                self._granted[ticket].set_exception(none_ready())

    def changed(self) -> None:
        """Serve what can run now that something was given back or became known."""
        self._wake_reloads()
        self._endpoints.drop_left()
        self._serve()

    def charge(self, demand: Demand, output_tokens: int) -> None:
        """Count tokens as they are generated."""
        self._queue.charge(demand, output_tokens)

    async def reload_turn(self, place: Place) -> None:
        """Wait while another request sends the adapter's weights to this place's endpoint.

        Raises:
            UnavailableError: the endpoint went away.
        """
        while place.adapter_loads and not place.outdated:
            waiting = asyncio.get_running_loop().create_future()
            self._reloads.add(waiting)
            try:
                await waiting
            finally:
                self._reloads.discard(waiting)
            if not place.endpoint.ready:
                raise none_ready()
        if place.outdated:
            raise none_ready()

    def _wake_reloads(self) -> None:
        for waiting in self._reloads:
            if not waiting.done():
                waiting.set_result(None)


def none_ready() -> UnavailableError:
    """The refusal while no endpoint of a pool serves."""
    return UnavailableError(
        "no model server of the pool is ready",
        reason=Reason.NO_READY_ENDPOINT,
        retry_after_seconds=_RETRY_SECONDS,
    )
