"""Serves in the order of arrival, whoever asks: what `FairQueue` is compared with. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice

from services.router.pool.demand import Demand
from services.router.pool.endpoints import Spot
from services.router.pool.queue_discipline import MAX_OVERTAKES, Find, QueueLimits, Ticket

# So many of the oldest are offered a place: a decision does not cost more because more wait.
_TRIES = 64


class FifoQueue:
    """Order of arrival; see `QueueDiscipline`. Has one bound for all tenants together."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Ticket, None] = OrderedDict()
        self._limits = QueueLimits()
        self._service = 0

    def __len__(self) -> int:
        """Requests waiting."""
        return len(self._waiting)

    def configure(self, limits: QueueLimits) -> None:
        """Follow the config."""
        self._limits = limits

    def join(self, ticket: Ticket) -> None:
        """Queue a request behind all others."""
        self._waiting[ticket] = None
        self._service += ticket.demand.cost.service

    def leave(self, ticket: Ticket) -> None:
        """Remove a ticket, if it is still there."""
        if ticket in self._waiting:
            del self._waiting[ticket]
            self._service -= ticket.demand.cost.service

    def choose(self, find: Find) -> tuple[Ticket, Spot] | None:
        """The oldest that can run."""
        oldest: Ticket | None = None
        for ticket in islice(self._waiting, _TRIES):
            if (spot := find(ticket, True)) is not None:
                if oldest is not None:
                    oldest.overtaken += 1
                return ticket, spot
            oldest = oldest or ticket
        return None

    def take(self, ticket: Ticket) -> None:
        """Remove a ticket."""
        self.leave(ticket)

    def give_back(self, ticket: Ticket) -> None:
        """Do nothing: order of arrival takes no account of places."""

    def charge(self, ticket: Ticket, service: float) -> None:
        """Do nothing: order of arrival takes no account of tokens."""

    def prepay(self, ticket: Ticket, service: float) -> None:
        """Do nothing: order of arrival takes no account of tokens."""

    def starving(self) -> Ticket | None:
        """The oldest ticket, once it was overtaken too often."""
        oldest = next(iter(self._waiting), None)
        return oldest if oldest is not None and oldest.overtaken >= MAX_OVERTAKES else None

    def surplus(self, joined: Ticket) -> Ticket | None:
        """The one that just joined, if too many wait."""
        return joined if len(self) > self._limits.waiting else None

    def excess(self) -> Iterator[Ticket]:
        """The newest, while more wait than may."""
        while len(self) > self._limits.waiting:
            yield next(reversed(self._waiting))

    def refuses(self, demand: Demand) -> bool:  # noqa: ARG002 - the newest is refused, whoever asks
        """Whether as many wait as may."""
        return len(self) >= self._limits.waiting

    def ahead(self, demand: Demand) -> tuple[float, float]:  # noqa: ARG002 - everybody is before it
        """All that wait, of the whole pool."""
        return self._service, 1.0

    def tickets(self) -> Iterable[Ticket]:
        """All that wait."""
        return self._waiting

    @property
    def tenants(self) -> Iterable[tuple[str, int, int]]:
        """Nothing: tenants are not told apart."""
        return ()

    @property
    def floor(self) -> float:
        """Nothing: service is not counted."""
        return 0.0

    @property
    def service(self) -> Iterable[tuple[str, float]]:
        """Nothing: it is not counted."""
        return ()

    def resident(self, lora_id: int, resident: bool) -> None:
        """Do nothing: order of arrival takes no account of adapters."""

    def counter(self, tenant_uid: str) -> float:  # noqa: ARG002 - the discipline tells no tenants apart
        """What a tenant was given: not counted."""
        return 0.0

    def recall(self, tenant_uid: str, counter: float) -> None:
        """Do nothing: service is not counted."""
