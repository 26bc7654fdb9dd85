"""One tenant's account in a fair queue: what it was given, and what of it waits. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

from services.router.pool.queue_discipline import Ticket

PRIORITIES = (3, 2, 1)
"""Highest first."""
MAX_PASSED = 8
"""Requests of higher priorities that are served while a lower one waits; then it is that one's turn."""
_LANES_TRIED = 8

Rank = tuple[int, int, int]
"""The order of one tenant's requests: whose turn is due, by priority, by arrival."""
Kind = tuple[int, bool]
"""What decides where a request can run: its size class, and whether it needs an adapter."""


def kind_of(ticket: Ticket) -> Kind:
    """Two size classes to each doubling of the KV cache: requests of one class mostly fit where the others do."""
    size = max(ticket.kv_tokens, 1)
    doublings = size.bit_length()
    upper_half = size >> max(doublings - 2, 0) & 1
    return 2 * doublings + upper_half, ticket.demand.lora_id is not None


class _Lane:
    """Requests for one adapter, or for none: if one of them cannot run, nor can those behind it."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: dict[int, OrderedDict[Ticket, None]] = {p: OrderedDict() for p in PRIORITIES}

    def __bool__(self) -> bool:
        return any(self.waiting.values())

    def first(self, due: int) -> Ticket:
        if due and (waiting := self.waiting[due]):
            return next(iter(waiting))
        for waiting in self.waiting.values():
            if waiting:
                return next(iter(waiting))
        raise AssertionError("an empty lane")


class Bin:
    """One tenant's requests of one kind, by adapter."""

    __slots__ = ("account", "kind", "lanes")

    def __init__(self, account: TenantAccount, kind: Kind) -> None:
        self.account = account
        self.kind = kind
        self.lanes: OrderedDict[int | None, _Lane] = OrderedDict()

    def add(self, ticket: Ticket) -> None:
        """Add a request."""
        lane = self.lanes.get(ticket.demand.lora_id)
        if lane is None:
            lane = self.lanes[ticket.demand.lora_id] = _Lane()
        lane.waiting[ticket.demand.priority][ticket] = None

    def remove(self, ticket: Ticket) -> None:
        """Remove a request."""
        lane = self.lanes[ticket.demand.lora_id]
        del lane.waiting[ticket.demand.priority][ticket]
        if not lane:
            del self.lanes[ticket.demand.lora_id]

    def firsts(self) -> list[Ticket]:
        """The first request for each of a few adapters, in order."""
        due = self.account.due
        if len(self.lanes) == 1:
            return [next(iter(self.lanes.values())).first(due)]
        firsts = [lane.first(due) for lane in islice(self.lanes.values(), _LANES_TRIED)]
        return sorted(firsts, key=self.account.rank)

    def served(self, lora_id: int | None) -> None:
        """Look at other adapters next time, where there are more than are looked at: it is their turn."""
        if len(self.lanes) > _LANES_TRIED and lora_id in self.lanes:
            self.lanes.move_to_end(lora_id)  # proven: every-adapter-has-a-turn

    def rotate(self) -> None:
        """Look at other adapters next time: none of the first ones can run now."""
        if len(self.lanes) > _LANES_TRIED:
            for lora_id in list(islice(self.lanes, _LANES_TRIED)):
                self.lanes.move_to_end(lora_id)


class TenantAccount:
    """What one tenant was given of a pool, what it holds, and what waits."""

    __slots__ = (
        "_count", "bins", "due", "kv_tokens", "passed", "places", "preferred", "ranked_service", "service",
        "tenant_uid", "waiting", "waiting_service", "weight",
    )  # fmt: skip

    def __init__(self, tenant_uid: str) -> None:
        self.tenant_uid = tenant_uid
        self.weight = 0
        self.service = 0.0
        """VTC's counter: service by weight, lifted after idle times."""
        self.ranked_service = -1.0
        """The counter when its bins were last put in order."""
        self.places = 0
        self.kv_tokens = 0
        self.waiting: dict[int, OrderedDict[Ticket, None]] = {p: OrderedDict() for p in PRIORITIES}
        """By priority, in order of arrival."""
        self.waiting_service = dict.fromkeys(PRIORITIES, 0)
        """The most service that what waits can come to, by priority."""
        self._count = 0
        self.bins: dict[Kind, Bin] = {}
        self.passed = dict.fromkeys(PRIORITIES, 0)
        """How often a higher priority was served while one of this waited."""
        self.due = 0
        """The priority whose turn it is after having been passed too often; 0 for none."""
        self.preferred = 0
        """How often another tenant was served first for the endpoints' sake since it was served."""

    def __len__(self) -> int:
        """Requests waiting."""
        return self._count

    def __iter__(self) -> Iterator[Ticket]:
        """All that wait."""
        for waiting in self.waiting.values():
            yield from waiting

    @property
    def active(self) -> bool:
        """Whether any of its requests waits or holds a place."""
        return bool(self.places or self.bins)

    def rank(self, ticket: Ticket) -> Rank:
        """The request's place among its tenant's; lower is first."""
        priority = ticket.demand.priority
        return 0 if priority == self.due else 1, -priority, ticket.number

    def add(self, ticket: Ticket) -> None:
        """Add a request."""
        demand, kind = ticket.demand, kind_of(ticket)
        self.waiting[demand.priority][ticket] = None
        self._count += 1
        self.waiting_service[demand.priority] += demand.cost.service
        found = self.bins.get(kind)
        if found is None:
            found = self.bins[kind] = Bin(self, kind)
        found.add(ticket)

    def remove(self, ticket: Ticket) -> Bin:
        """Remove a request; returns the bin it was in."""
        demand = ticket.demand
        del self.waiting[demand.priority][ticket]
        self._count -= 1
        self.waiting_service[demand.priority] -= demand.cost.service
        found = self.bins[kind_of(ticket)]
        found.remove(ticket)
        if not found.lanes:
            del self.bins[found.kind]
        if self.passed[demand.priority] and not self.waiting[demand.priority]:
            self.passed[demand.priority] = 0
            self._see_who_is_due()
        return found

    def served(self, ticket: Ticket) -> None:
        """Age the lower priorities that wait while a higher one was served."""
        priority = ticket.demand.priority
        self.passed[priority] = 0
        if (found := self.bins.get(kind_of(ticket))) is not None:
            found.served(ticket.demand.lora_id)
        if self._count:
            for lower in range(1, priority):
                if self.waiting[lower]:
                    self.passed[lower] += 1
            self._see_who_is_due()

    def firsts_for(self, lora_id: int) -> list[Ticket]:
        """The first request of each kind for an adapter, in order."""
        lanes = [one.lanes[lora_id] for one in self.bins.values() if lora_id in one.lanes]
        return sorted((lane.first(self.due) for lane in lanes), key=self.rank)

    def newest_of_lowest(self) -> Ticket:
        """The request to refuse first: of the lowest priority that waits, the newest."""
        for priority in reversed(PRIORITIES):
            if self.waiting[priority]:
                return next(reversed(self.waiting[priority]))
        raise AssertionError("nothing waits")

    def waits_below(self, priority: int) -> bool:
        """Whether a request of a lower priority waits."""
        return any(self.waiting[lower] for lower in range(1, priority))

    def service_ahead(self, priority: int) -> int:
        """The most service due to its own requests before one of this priority that joins now."""
        return sum(self.waiting_service[higher] for higher in range(priority, max(PRIORITIES) + 1))

    def _see_who_is_due(self) -> None:
        self.due = next((p for p in reversed(PRIORITIES) if self.passed[p] >= MAX_PASSED), 0)
