"""In which order the requests of a pool wait: the seam between a pool and its queue. Pure.

A discipline knows requests, not endpoints. It offers requests in its order to `Find`, which says where one could run;
one that cannot run yet is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from services.router.pool.demand import Demand
from services.router.pool.endpoints import Spot

MAX_OVERTAKES = 32
"""How often the first in line may be passed over before an endpoint is kept for it. A request that needs most of an
endpoint would otherwise starve beside a steady stream of small ones."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One request's turn in a queue, and later its place."""

    demand: Demand
    kv_tokens: int
    """The KV cache it can fill, in whole blocks."""
    number: int
    """Its place in the order of arrival."""
    overtaken: int = 0
    """How often another was served while it was the first in line."""
    prepaid: float = 0.0
    """Service that was charged ahead, because an endpoint was kept for it."""
    used: float = 0.0
    """Service that it was given."""

    def unpaid(self, service: float) -> float:
        """How much of a service is to be charged beyond what was prepaid; negative for what is given back."""
        before = max(self.used - self.prepaid, 0.0)
        self.used += service
        return max(self.used - self.prepaid, 0.0) - before


Find = Callable[[Ticket, bool], Spot | None]
"""Where a request could run now, if anywhere; the flag says whether it may use the headroom."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What a pool has to share out, and how many may wait for it."""

    places: int = 1
    """Of all usable endpoints together."""
    kv_tokens: int = 1
    """Of all usable endpoints together."""
    headroom: bool = False
    """Whether some places are for tenants below their share only."""
    waiting: int = 256
    waiting_a_tenant: int = 128
    slack_service: float = 0.0
    """How much service a tenant may be behind another one that is served first for the endpoints' sake."""


class QueueDiscipline(Protocol):
    """Orders what waits; synchronous, and without a clock."""

    def __len__(self) -> int:
        """Requests waiting."""
        ...

    def configure(self, limits: QueueLimits) -> None:
        """Follow the config and the endpoints' state."""
        ...

    def join(self, ticket: Ticket) -> None:
        """Queue a request."""
        ...

    def leave(self, ticket: Ticket) -> None:
        """Remove a ticket that was refused or whose caller left; does nothing for one that is gone."""
        ...

    def choose(self, find: Find) -> tuple[Ticket, Spot] | None:
        """The request to serve next and where; None if none of them can run now. The pool then calls `take`."""
        ...

    def take(self, ticket: Ticket) -> None:
        """Remove a ticket that gets a place, and account for its prompt."""
        ...

    def give_back(self, ticket: Ticket) -> None:
        """Account for a place that was taken and is free again."""
        ...

    def charge(self, ticket: Ticket, service: float) -> None:
        """Account for service that a request with a place is given; negative for what was charged and not given."""
        ...

    def prepay(self, ticket: Ticket, service: float) -> None:
        """Account for service that an endpoint does not give to others because it is kept for a request."""
        ...

    def starving(self) -> Ticket | None:
        """The ticket that was passed over so often that an endpoint is to be kept for it; None for none."""
        ...

    def surplus(self, joined: Ticket) -> Ticket | None:
        """The ticket to refuse because too many wait since this one joined; None while all may."""
        ...

    def excess(self) -> Iterator[Ticket]:
        """The tickets to refuse because fewer may wait than before; each leaves before the next is asked for."""
        ...

    def refuses(self, demand: Demand) -> bool:
        """Whether this request would be the one to refuse, if it joined now and could not run at once."""
        ...

    def ahead(self, demand: Demand) -> tuple[float, float]:
        """The most service that is due before a request that joins now, and its tenant's share of the pool."""
        ...

    def tickets(self) -> Iterable[Ticket]:
        """All that wait, in no order."""
        ...

    @property
    def tenants(self) -> Iterable[tuple[str, int, int]]:
        """Each tenant's uid, its requests that wait and its places, where tenants are told apart."""
        ...

    @property
    def floor(self) -> float:
        """Where newcomers start, for the queue that replaces this one."""
        ...

    @property
    def service(self) -> Iterable[tuple[str, float]]:
        """What each tenant was given, by tenant_uid, for the queue that replaces this one."""
        ...

    def resident(self, lora_id: int, resident: bool) -> None:
        """Follow whether any endpoint is believed to hold an adapter."""
        ...

    def counter(self, tenant_uid: str) -> float:
        """What a tenant was given; 0 where tenants are not told apart."""
        ...

    def recall(self, tenant_uid: str, counter: float) -> None:
        """Take over what was counted for a tenant elsewhere, unless it is less."""
        ...
