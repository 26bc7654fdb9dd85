"""In which order the requests of a pool wait: the seam between a pool and its queue. Pure.

A discipline knows requests, not endpoints. The pool offers each free place to the tickets in the discipline's order
and passes over those that cannot run yet. It reports every place that it gives away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.router.pool.demand import Demand


@dataclass(eq=False, slots=True)
class Ticket:
    """One request's turn in a queue."""

    demand: Demand


class QueueDiscipline(Protocol):
    """Orders what waits; synchronous, and without a clock."""

    def __len__(self) -> int:
        """Requests waiting."""
        ...

    def join(self, demand: Demand) -> Ticket:
        """Queue a request for which there is no place now."""
        ...

    def leave(self, ticket: Ticket) -> None:
        """Remove a ticket that was refused or whose caller left; does nothing for one that is gone."""
        ...

    def in_order(self) -> Sequence[Ticket]:
        """All tickets, the one to be served next first."""
        ...

    def served(self, ticket: Ticket | None, demand: Demand) -> None:
        """Account for a place that was given away, and remove its ticket; None for a request that never queued."""
        ...

    def starving(self) -> Ticket | None:
        """The ticket that was passed over so often that an endpoint is to be kept for it; None for none."""
        ...

    def charge(self, demand: Demand, output_tokens: int) -> None:
        """Account for tokens as they are generated."""
        ...
