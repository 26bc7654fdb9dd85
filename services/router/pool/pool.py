"""One running pool: requests wait here for what the scheduler decides.

A request whose caller has left at the moment it is served hands its place on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from services.common.clock import Clock
from services.common.errors import Error
from services.router.pool.demand import OUTPUT_TOKEN_SERVICE, Demand
from services.router.pool.endpoint_set import EndpointSet
from services.router.pool.endpoints import Place, Servers
from services.router.pool.queue_discipline import QueueDiscipline, Ticket
from services.router.pool.scheduler import Scheduler, none_ready
from services.router.snapshot.model import PoolConfig


class Grant:
    """A place at an endpoint, to be given back exactly once."""

    def __init__(self, pool: Pool, ticket: Ticket, place: Place, queued_seconds: float) -> None:
        self.queued_seconds = queued_seconds
        """How long the request waited for the place."""
        self._pool = pool
        self._ticket = ticket
        self._place = place
        self._service = float(ticket.demand.cost.input_service)
        self._left = False

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
        """Whether pool or endpoint are gone: nothing may be sent any more, what was sent ends there."""
        return self._pool.retired or self._place.endpoint.leaving

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
        """Send nothing to the endpoint until it is probed: it broke the stream or refused the connection.

        What waits goes on waiting, and its adapters are believed to be there: one stream may break for its own reasons.
        """
        if not self._place.outdated:
            self._pool.suspect(self._place)

    def charge(self, output_tokens: int) -> None:
        """Charge tokens as they are generated."""
        self._charge(OUTPUT_TOKEN_SERVICE * output_tokens)

    def refund_prompt(self) -> None:
        """Take back what the prompt was charged: its server failed before it was known to have run."""
        self._charge(-self._ticket.demand.cost.input_service)

    def _charge(self, service: float) -> None:
        self._service += service
        self._pool.scheduler.charge(self._ticket, service)

    def give_back(self, *, in_time: bool = True) -> None:
        """Give the place back; exactly once, when the server's work has ended.

        Args:
            in_time: False if that work did not end in time: its endpoint is sent nothing until it is probed.
        """
        assert not self._left, "a grant was given back twice"
        self._left = True
        if not in_time:
            self.endpoint_failed()
        self._pool.take_back(self._ticket, self._place, self._service)


class Waiting(Protocol):
    """A request that waits in a pool; exactly one of its methods is called, unless it withdraws first."""

    @property
    def left(self) -> bool:
        """Whether its caller has left and has not withdrawn yet."""
        ...

    def granted(self, grant: Grant) -> None:
        """Take the place."""
        ...

    def refused(self, error: Error) -> None:
        """Be refused."""
        ...


class Pool:
    """One pool's endpoints behind one queue. All methods run on the event loop; only reloads wait."""

    def __init__(self, config: PoolConfig, queue: QueueDiscipline, servers: Servers, clock: Clock) -> None:
        self._clock = clock
        self._retired = False
        self._waiting: dict[Ticket, tuple[Waiting, float]] = {}
        """What waits, and since when."""
        # Requests that missed an adapter wait here for the one of them that sends its weights again.
        self._reloads: set[asyncio.Future[None]] = set()
        self.scheduler = Scheduler(config, queue, servers, self.changed)

    def configure(self, config: PoolConfig) -> None:
        """Follow the config: endpoints that stay keep their load and what is believed of them."""
        self.scheduler.configure(config)
        self._refuse_if_none_usable()
        for excess in self.scheduler.queue.excess():
            error = self.scheduler.full(excess.demand)
            self.scheduler.leave(excess, self._now)
            self._refuse(excess, error)
        self._serve()

    def retire(self) -> None:
        """End the pool: what runs there ends there, what waits is refused."""
        self._retired = True
        self.scheduler.retire()
        self._refuse_if_none_usable()
        self._hand_on()

    @property
    def retired(self) -> bool:
        """Whether the pool is gone."""
        return self._retired

    @property
    def queued(self) -> int:
        """Requests waiting."""
        return len(self.scheduler.queue)

    @property
    def in_flight(self) -> int:
        """Requests holding a place."""
        return self._endpoints.requests

    def in_flight_at(self, target: str) -> int:
        """Requests of any pool that run at a target's server."""
        return self._endpoints.in_flight_at(target)

    @property
    def targets(self) -> list[str]:
        """The endpoints to probe."""
        return self._endpoints.targets

    def has(self, target: str) -> bool:
        """Whether new requests may be sent to a target, if it is ready."""
        return not self._retired and self._endpoints.has(target)

    @property
    def places(self) -> int:
        """Requests that the usable endpoints take at once."""
        return self._endpoints.places

    @property
    def kv_tokens(self) -> int:
        """KV cache that requests at its endpoints may fill."""
        return self._endpoints.kv_tokens

    @property
    def kv_capacity_tokens(self) -> int:
        """KV cache of the usable endpoints."""
        return self._endpoints.kv_capacity_tokens

    @property
    def tenants(self) -> Iterable[tuple[str, int, int]]:
        """Each active tenant's uid, its requests that wait and its places."""
        return self.scheduler.queue.tenants

    @property
    def service(self) -> list[tuple[str, float]]:
        """What tenants were given, as the queue counts it, by tenant_uid."""
        return list(self.scheduler.queue.service)

    @property
    def _endpoints(self) -> EndpointSet:
        return self.scheduler.endpoints

    def probed(self, target: str, ready: bool) -> None:
        """Follow what a probe found."""
        if not self.scheduler.probed(target, ready):
            return
        if ready:
            self._serve()
        else:
            self._wake_reloads()
            self._refuse_if_none_usable()
            self._hand_on()

    def narrow(self, target: str, window: int | None) -> None:
        """Send a target so many requests at once; None for as many as config says. What runs beyond that runs on."""
        if self.scheduler.narrow(target, window):
            self._serve()

    def suspect(self, place: Place) -> None:
        """Send nothing to a place's endpoint until it is probed."""
        self.scheduler.endpoints.suspect(place.endpoint)

    def check(self, demand: Demand) -> None:
        """Refuse at once what would be refused anyway, before anything is done for it.

        Raises:
            ResourceExhaustedError: the queue is full, or moves too slowly for the request's deadline.
            UnavailableError: no endpoint is ready.
        """
        self.scheduler.check(demand, self._now)

    def join(self, demand: Demand, waiting: Waiting) -> Ticket:
        """Queue a request. It may be granted or refused before this returns; `withdraw` the ticket in any case.

        Raises:
            UnavailableError: no endpoint is ready.
        """
        joined_at = self._now
        ticket = self.scheduler.join(demand, joined_at)
        self._waiting[ticket] = waiting, joined_at
        self._serve()
        if not waiting.left and ticket in self._waiting:
            self._refuse_surplus(ticket)
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Let a request wait no longer; does nothing for a place that it was granted."""
        self._waiting.pop(ticket, None)
        if self.scheduler.leave(ticket, self._now):
            self._serve()

    def adopt(self, demand: Demand, target: str) -> Grant:
        """Count a place that a request took under an earlier controller, whether or not it fits."""
        ticket, place = self.scheduler.adopt(demand, target)
        return Grant(self, ticket, place, 0.0)

    def recall(self, tenant_uid: str, counter: float) -> None:
        """Take over what an earlier controller counted for a tenant, unless it is less."""
        self.scheduler.queue.recall(tenant_uid, counter)

    def counter(self, tenant_uid: str) -> float:
        """What a tenant was given, as the queue counts it."""
        return self.scheduler.queue.counter(tenant_uid)

    def take_back(self, ticket: Ticket, place: Place, service: float) -> None:
        """Take a place back and serve who can run now, in every pool that names the server."""
        self.scheduler.give_back(ticket, place, service, self._now)
        place.endpoint.server.give_turn()

    def changed(self) -> None:
        """Serve what can run now that something was given back or became known."""
        self._wake_reloads()
        self._serve()

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

    @property
    def _now(self) -> float:
        return self._clock.monotonic_seconds()

    def _serve(self) -> None:
        now = self._now
        for ticket, place in self.scheduler.serve(now):
            waiting, joined_at = self._waiting.pop(ticket)
            grant = Grant(self, ticket, place, now - joined_at)
            if waiting.left:
                # Its caller left and has not taken its ticket along yet.
                grant.refund_prompt()
                self.scheduler.give_back(ticket, place, 0.0, now)  # proven: place-handed-on
            else:
                waiting.granted(grant)
        self._hand_on()

    def _hand_on(self) -> None:
        """Let other pools serve at servers that this one no longer keeps."""
        for server in self.scheduler.released():
            server.give_turn()

    def _refuse_surplus(self, joined: Ticket) -> None:
        refused = self.scheduler.surplus(joined)
        if refused is not None:
            error = self.scheduler.full(refused.demand)
            kept = self.scheduler.leave(refused, self._now)
            self._refuse(refused, error)
            if kept:
                self._serve()

    def _refuse_if_none_usable(self) -> None:
        if self._endpoints.any_usable:
            return
        for ticket in list(self.scheduler.queue.tickets()):
            self.scheduler.leave(ticket, self._now)
            self._refuse(ticket, none_ready())

    def _refuse(self, ticket: Ticket, error: Error) -> None:
        waiting, _ = self._waiting.pop(ticket)
        if not waiting.left:
            waiting.refused(error)

    def _wake_reloads(self) -> None:
        for waiting in self._reloads:
            if not waiting.done():
                waiting.set_result(None)
