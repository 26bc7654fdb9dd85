"""One decision over a pool's queue and its endpoints: who is served, where, and who is refused.

Pure: synchronous, with the clock passed in. Places come from `serve` alone, so that a place is either with an endpoint
or with exactly one request. A request that cannot run yet (its adapter is loading, or it needs more KV cache than is
free) does not hold up those behind it, until the queue calls it starving: then one endpoint is kept for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

from services.common.errors import QuotaViolation, Reason, ResourceExhaustedError, UnavailableError
from services.router.pool.demand import OUTPUT_TOKEN_SERVICE, Demand
from services.router.pool.endpoint_set import EndpointSet
from services.router.pool.endpoints import Endpoint, EndpointCapacity, Place, Server, Servers
from services.router.pool.pace import Pace
from services.router.pool.queue_discipline import QueueDiscipline, QueueLimits, Ticket
from services.router.snapshot.model import PoolConfig

# About the time until a probe finds an endpoint that came back.
_RETRY_SECONDS = 1.0
_MIN_RETRY_SECONDS = 0.1
_MAX_RETRY_SECONDS = 60.0
_SLACKS_A_PLACE = 4


class Scheduler:
    """A pool's queue over its endpoints.

    Args:
        config: the pool's.
        queue: in which order requests are served.
        servers: what servers carry, whichever pools name them.
        on_free: called when a request of any pool gave a place at one of the endpoints back.
    """

    def __init__(
        self,
        config: PoolConfig,
        queue: QueueDiscipline,
        servers: Servers,
        on_free: Callable[[], object] = lambda: None,
    ) -> None:
        self.queue = queue
        self.endpoints = EndpointSet(servers, on_free, queue.resident)
        self.pace = Pace()
        self._numbers = count(1)
        self._kept: tuple[Endpoint, Ticket] | None = None
        """The endpoint that only the request of this ticket may use."""
        self._released: list[Server] = []
        self.configure(config)

    def configure(self, config: PoolConfig) -> None:
        """Follow the config: endpoints that stay keep their load and what is believed of them."""
        self._config = config
        capacity = EndpointCapacity(
            config.concurrent_requests, config.kv_tokens, config.adapters, config.headroom_requests
        )
        self.endpoints.configure(config.targets, capacity)
        self._endpoints_changed()

    def retire(self) -> None:
        """Start nothing any more."""
        self.endpoints.keep_only(())
        self._endpoints_changed()

    def probed(self, target: str, ready: bool) -> bool:
        """Record what a probe found, and return whether that is news."""
        news = self.endpoints.probed(target, ready)
        if news:
            self._endpoints_changed()
        return news

    def narrow(self, target: str, window: int | None) -> bool:
        """Follow what a server's own queue leaves of its places; returns whether that is news."""
        news = self.endpoints.narrow(target, window)
        if news:
            self._endpoints_changed()
        return news

    def check(self, demand: Demand, now: float) -> None:
        """Refuse at once what would be refused anyway, before anything is done for it.

        Raises:
            ResourceExhaustedError: the queue is full, or moves too slowly for the request's deadline.
            UnavailableError: no endpoint is ready.
        """
        if not self.endpoints.any_usable:
            raise none_ready()
        if not self.endpoints.any_place and self.queue.refuses(demand):
            raise self.full(demand)
        wait_seconds = self.pace.seconds(*self.queue.ahead(demand))
        if wait_seconds is not None and now + wait_seconds > demand.deadline:
            raise _too_slow(wait_seconds, demand.deadline - now)

    def join(self, demand: Demand, now: float) -> Ticket:
        """Queue a request; `serve` may serve it at once.

        Raises:
            UnavailableError: no endpoint is ready.
        """
        if not self.endpoints.any_usable:
            raise none_ready()
        ticket = self._ticket(demand)
        self.queue.join(ticket)
        self.pace.waiting(now, waits=True)
        return ticket

    def adopt(self, demand: Demand, target: str) -> tuple[Ticket, Place]:
        """Count a place that was taken elsewhere, whether or not it fits."""
        ticket = self._ticket(demand)
        self.queue.join(ticket)
        self.queue.take(ticket)
        # Charged where it was taken: the tenant's counter is reported.
        self.queue.charge(ticket, -demand.cost.input_service)
        return ticket, self.endpoints.adopt(target, ticket)

    def leave(self, ticket: Ticket, now: float) -> bool:
        """Remove a ticket that was refused, or whose caller left or has its place.

        Returns whether others may run now: an endpoint was kept for it.
        """
        self.queue.leave(ticket)
        kept = self._kept is not None and self._kept[1] is ticket
        if kept:
            self._release_kept()
        self.pace.waiting(now, waits=bool(len(self.queue)))
        return kept

    def serve(self, now: float) -> Iterator[tuple[Ticket, Place]]:
        """Give places to as many as can run now."""
        while len(self.queue):
            if (granted := self._serve_kept() or self._serve_next()) is None:
                return
            ticket, endpoint = granted
            self.queue.take(ticket)
            self.pace.serve(ticket.demand.cost.input_service)
            self.pace.waiting(now, waits=bool(len(self.queue)))
            yield ticket, self.endpoints.place(endpoint, ticket)
            self._keep_for_starving()

    def released(self) -> Iterator[Server]:
        """Servers that were kept for a request of this pool and are no longer: every pool may serve there."""
        while self._released:
            yield self._released.pop()

    def surplus(self, joined: Ticket) -> Ticket | None:
        """The ticket to refuse because too many wait since this one joined and was not served."""
        return self.queue.surplus(joined)

    def charge(self, ticket: Ticket, service: float) -> None:
        """Count service as it is given; negative for a prompt that was charged and never run."""
        self.queue.charge(ticket, service)
        # A refund may be of a prompt from before the measured time, so taking it off would make the pace negative.
        self.pace.serve(max(service, 0.0))  # proven: refund-is-no-pace

    def give_back(self, ticket: Ticket, place: Place, used_service: float, now: float) -> None:
        """Take a place back: the server's work has ended."""
        place.give_back()
        self.queue.give_back(ticket)
        self.pace.settled(now, used_service, ticket.demand.cost.service)
        self.endpoints.drop_left()

    def full(self, demand: Demand) -> ResourceExhaustedError:
        """The refusal of a request because too many wait."""
        _, share = self.queue.ahead(demand)
        seconds = self.pace.seconds(demand.cost.service, share)
        return ResourceExhaustedError(
            "the pool's queue is full",
            reason=Reason.QUEUE_FULL,
            violations=[
                QuotaViolation(
                    self._config.name,
                    f"at most {self.limits.waiting} requests wait for the pool, "
                    f"{self.limits.waiting_a_tenant} of one tenant",
                )
            ],
            retry_after_seconds=_RETRY_SECONDS if seconds is None else _bounded(seconds),
        )

    def _ticket(self, demand: Demand) -> Ticket:
        block_tokens = self._config.kv_block_tokens
        kv_tokens = -(-demand.cost.tokens // block_tokens) * block_tokens
        return Ticket(demand, kv_tokens, next(self._numbers))

    def _serve_kept(self) -> tuple[Ticket, Endpoint] | None:
        if self._kept is None:
            return None
        endpoint, ticket = self._kept
        if not endpoint.admits(ticket.kv_tokens, ticket.demand.lora_id, headroom=True):
            return None
        self._release_kept()
        return ticket, endpoint

    def _serve_next(self) -> tuple[Ticket, Endpoint] | None:
        if not self.endpoints.any_place:
            return None
        chosen = self.queue.choose(self.endpoints.find)
        if chosen is None:
            return None
        ticket, spot = chosen
        if self._kept is not None and self._kept[1] is ticket:
            self._release_kept()
        return ticket, spot.endpoint

    def _keep_for_starving(self) -> None:
        starving = self.queue.starving()
        if (
            starving is not None
            and self._kept is None
            and (emptiest := self.endpoints.emptiest()) is not None
        ):
            self._kept = emptiest, starving
            self.endpoints.keep(emptiest)
            # Once, and not given back: else a tenant that asks and leaves would keep endpoints empty for nothing.
            if not starving.prepaid:
                self.queue.prepay(
                    starving, OUTPUT_TOKEN_SERVICE * starving.kv_tokens
                )  # proven: keeping-is-paid

    def _release_kept(self) -> None:
        if self._kept is not None:
            self.endpoints.release(self._kept[0])
            self._released.append(self._kept[0].server)
            self._kept = None

    def _endpoints_changed(self) -> None:
        if self._kept is not None and not self._kept[0].usable:
            self._release_kept()
        config = self._config
        self.limits = QueueLimits(
            places=self.endpoints.places,
            kv_tokens=self.endpoints.kv_capacity_tokens,
            headroom=bool(config.headroom_requests),
            waiting=config.queued_requests,
            # Half, so that no tenant alone can fill the queue.
            waiting_a_tenant=-(-config.queued_requests // 2),
            # A part of what one place can come to, about a few requests of a chat.
            slack_service=OUTPUT_TOKEN_SERVICE
            * config.kv_tokens
            / config.concurrent_requests
            / _SLACKS_A_PLACE,
        )
        self.queue.configure(self.limits)


def none_ready() -> UnavailableError:
    """The refusal while no endpoint of a pool serves."""
    return UnavailableError(
        "no model server of the pool is ready",
        reason=Reason.NO_READY_ENDPOINT,
        retry_after_seconds=_RETRY_SECONDS,
    )


def _too_slow(wait_seconds: float, left_seconds: float) -> ResourceExhaustedError:
    return ResourceExhaustedError(
        f"the tenant's requests ahead of this one take about {wait_seconds:.1f} s; its deadline is in "
        f"{max(left_seconds, 0.0):.1f} s",
        reason=Reason.QUEUE_FULL,
        retry_after_seconds=_bounded(wait_seconds - left_seconds),
    )


def _bounded(seconds: float) -> float:
    return min(max(seconds, _MIN_RETRY_SECONDS), _MAX_RETRY_SECONDS)
