"""Serves in the order of arrival, all tenants alike. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from services.router.pool.demand import Demand
from services.router.pool.queue_discipline import Ticket

# A request that needs most of an endpoint would starve beside a steady stream of small ones.
_MAX_OVERTAKES = 32


class FifoQueue:
    """Order of arrival; see `QueueDiscipline`."""

    def __init__(self) -> None:
        self._overtaken: dict[Ticket, int] = {}
        """Tickets in order of arrival, with how many later arrivals were served while each was the oldest."""

    def __len__(self) -> int:
        """Requests waiting."""
        return len(self._overtaken)

    def join(self, demand: Demand) -> Ticket:
        """Queue a request behind all others."""
        ticket = Ticket(demand)
        self._overtaken[ticket] = 0
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Remove a ticket, if it is still there."""
        self._overtaken.pop(ticket, None)

    def in_order(self) -> Sequence[Ticket]:
        """All tickets, the oldest first."""
        return list(self._overtaken)

    def served(self, ticket: Ticket | None, demand: Demand) -> None:  # noqa: ARG002 - arrival counts, not cost
        """Remove the ticket; if an older one waits, that one was overtaken."""
        oldest = next(iter(self._overtaken), None)
        if oldest is not None and oldest is not ticket:
            self._overtaken[oldest] += 1
        if ticket is not None:
            del self._overtaken[ticket]

    def starving(self) -> Ticket | None:
        """The oldest ticket, once it was overtaken too often."""
        oldest = next(iter(self._overtaken), None)
        return oldest if oldest is not None and self._overtaken[oldest] >= _MAX_OVERTAKES else None

    def charge(self, demand: Demand, output_tokens: int) -> None:
        """Do nothing: order of arrival takes no account of tokens."""
