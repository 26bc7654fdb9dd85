"""Shares a pool among tenants by the service they are given: weighted VTC. Pure.

The virtual token counter of Sheng et al. (OSDI'24, arXiv 2401.00588, algorithm 2): each tenant's counter grows by one
for each token of a prompt that gets a place and by two for each token that is generated, divided by its weight. The
waiting tenant with the smallest counter is next. A tenant that comes back after an idle time is lifted to the smallest
counter of those that wait, so that idle time is not saved up. No place is left free for fairness' sake, but for the
headroom that a pool's config asks for.

A decision looks at the first tenant of each kind of request, and at a bounded number of others: its cost grows with the
logarithm of the waiting tenants. Counters grow with every token; a tenant's place in the order is corrected when it
comes to the front.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator
from itertools import islice

from services.router.pool.demand import Demand
from services.router.pool.endpoints import Spot
from services.router.pool.lazy_heap import LazyHeap
from services.router.pool.queue_discipline import MAX_OVERTAKES, Find, QueueLimits, Ticket
from services.router.pool.tenant_account import Bin, Kind, TenantAccount

MAX_IDLE = 4096
"""Counters kept of idle tenants: of those that became idle last."""
_TRIES_A_KIND = 4
# How many adapters that are loaded and waited for are tried once the first in order cannot run, and how many tenants
# are compared that could be served with one.
_WARM_TRIES = 32
_WARM_COMPARED = 4
# How many tenants are compared once one is found that could be served, and how often one may be the loser.
_COMPARED = 3
_MAX_PREFERRED = 8
_NO_DRAWBACKS = (False, False)


_Key = tuple[float, float, int, int, int]
"""A bin's place in the order: least service, then fewest places for its weight, then the tenant's own order."""


class FairQueue:
    """Weighted VTC; see `QueueDiscipline`."""

    def __init__(self, service: Iterable[tuple[str, float]] = (), floor: float = 0.0) -> None:
        """Start with these counters, by tenant_uid, and this floor: those of the pool that this one replaces."""
        self._limits = QueueLimits()
        self._base = floor
        """What newcomers are lifted to before any request got a place here."""
        self._active: dict[str, TenantAccount] = {}
        self._idle: OrderedDict[str, TenantAccount] = OrderedDict()
        for tenant_uid, counter in service:
            account = self._idle[tenant_uid] = TenantAccount(tenant_uid)
            account.service = counter
        self._active_weight = 0
        self._waiting_weight = 0
        """Of the tenants of which something waits."""
        self._waiting = 0
        self._kinds: dict[Kind, LazyHeap[Bin]] = {}
        """The bins of a kind, by key. Keys may be outdated: too small, never too large."""
        self._order: LazyHeap[Kind] = LazyHeap()
        """The kinds, by the key of their first bin, likewise."""
        self._most_queued: LazyHeap[TenantAccount] = LazyHeap()
        self._last: TenantAccount | None = None
        """Whose request got a place last: what newcomers are lifted to while nobody waits."""
        self._starving: Ticket | None = None
        self._wanted: dict[int, dict[str, int]] = {}
        """How many requests wait, by adapter and tenant_uid."""
        self._resident: set[int] = set()
        self._warm: OrderedDict[str, OrderedDict[int, None]] = OrderedDict()
        """By tenant_uid: the adapters that are loaded somewhere and waited for."""

    def __len__(self) -> int:
        """Requests waiting."""
        return self._waiting

    @property
    def tenants(self) -> Iterable[tuple[str, int, int]]:
        """Each active tenant's uid, its requests that wait and its places."""
        # A copy, in one step: scrapes read it on another thread.
        return [(uid, len(account), account.places) for uid, account in self._active.copy().items()]

    @property
    def service(self) -> Iterator[tuple[str, float]]:
        """Every counter that is kept, by tenant_uid."""
        for accounts in (self._idle, self._active):
            for tenant_uid, account in accounts.items():
                yield tenant_uid, account.service

    def counter(self, tenant_uid: str) -> float:
        """What a tenant was given, by weight and lifted; 0 for one that is not known."""
        # Not `or`: an account of which nothing waits is false.
        account = self._active.get(tenant_uid, self._idle.get(tenant_uid))
        return 0.0 if account is None else account.service

    def recall(self, tenant_uid: str, counter: float) -> None:
        """Take over what was counted for a tenant elsewhere, unless it is less."""
        account = self._active.get(tenant_uid)
        if account is not None:
            account.service = max(account.service, counter)
            self._rank(account)
            return
        idle = self._idle.get(tenant_uid)
        if idle is None:
            idle = self._idle[tenant_uid] = TenantAccount(tenant_uid)
            self._prune()
        idle.service = max(idle.service, counter)
        # Else a tenant that is new here would be served alone until it has caught up.
        self._base = max(self._base, counter)

    def configure(self, limits: QueueLimits) -> None:
        """Follow the config and the endpoints' state."""
        self._limits = limits

    def join(self, ticket: Ticket) -> None:
        """Queue a request; lifts its tenant's counter if none of its requests waits.

        A tenant whose requests all run keeps a little credit, at most what one place can come to: without it, every
        pause between two requests of a tenant below its share would cost the second one its turn.
        """
        account = self._account(ticket.demand)
        if not account.bins:
            self._waiting_weight += account.weight
            credit = self._limits.slack_service / account.weight if account.places else 0.0
            account.service = max(account.service, self.floor - credit)  # proven: lift
        account.add(ticket)
        self._want(ticket)
        self._waiting += 1
        self._rank(account)
        self._most_queued.set(account, -len(account) / account.weight)

    def leave(self, ticket: Ticket) -> None:
        """Remove a ticket, if it is still there."""
        account = self._active.get(ticket.demand.tenant_uid)
        if account is not None and ticket in account.waiting[ticket.demand.priority]:
            self._remove(account, ticket)
            self._rank(account)
            self._rest(account)

    def choose(self, find: Find) -> tuple[Ticket, Spot] | None:
        """The first in order that can run now.

        Within the slack one comes first whose tenant is below its share of places and KV cache, and whose adapter
        pushes none out; the first in order loses to such requests a bounded number of times.
        """
        tries: dict[Kind, int] = {}
        blocked: Ticket | None = None
        able: list[tuple[tuple[bool, bool], int, Ticket, Spot]] = []
        first, limit, least = None, 0.0, None
        order = self._in_order(tries)
        for key, candidate in order:
            if first is not None and key[0] > limit:
                break
            account = candidate.account
            slack = self._limits.slack_service / account.weight
            least = key[0] if least is None else least
            # Else one that was given much would live in the headroom, and a tenant behind it get less than without it.
            in_line = key[0] <= least + slack  # proven: headroom-in-order
            found = self._try(candidate, find, headroom=in_line and self._below_share(account))
            if found is None:
                tries[candidate.kind] = tries.get(candidate.kind, _TRIES_A_KIND) - 1
                if first is None and blocked is None:
                    blocked = self._starves(candidate, find)
                candidate.rotate()
                continue
            if first is None:
                first, limit = account, key[0] + slack
            drawbacks = self._over_share(account), found[1].evicts
            able.append((drawbacks, len(able), *found))
            if drawbacks == _NO_DRAWBACKS or first.preferred >= _MAX_PREFERRED or len(able) >= _COMPARED:
                break
        order.close()
        if first is None:
            # Those whose adapters find no slot hide none whose adapter is there.
            warm = self._warm_one(find)  # proven: cold-hide-no-warm
            if warm is not None:
                self._overtake(blocked)
            return warm
        ticket, spot = min(able)[2:]
        if ticket.demand.tenant_uid != first.tenant_uid:
            first.preferred += 1
        self._overtake(blocked)
        return ticket, spot

    def take(self, ticket: Ticket) -> None:
        """Remove a ticket that gets a place, and charge its prompt."""
        account = self._active[ticket.demand.tenant_uid]
        account.preferred = 0
        account.places += 1
        account.kv_tokens += ticket.kv_tokens
        self._remove(account, ticket)
        account.served(ticket)
        account.service += ticket.unpaid(ticket.demand.cost.input_service) / ticket.demand.weight
        self._rank(account)
        self._last = account

    def give_back(self, ticket: Ticket) -> None:
        """Count a place as free again."""
        account = self._active[ticket.demand.tenant_uid]
        account.places -= 1
        account.kv_tokens -= ticket.kv_tokens
        if account.service == account.ranked_service:
            # Else it is ranked anew when it comes to the front.
            self._rank(account)
        self._rest(account)

    def charge(self, ticket: Ticket, service: float) -> None:
        """Charge service that a request with a place is given; negative to take some back."""
        account = self._active[ticket.demand.tenant_uid]
        # By the weight that it was asked with: a refund is worth what was charged.
        # What was paid for keeping an endpoint stays paid.
        account.service += ticket.unpaid(service) / ticket.demand.weight  # proven: keeping-is-not-refunded
        if service < 0:
            self._rank(account)

    def prepay(self, ticket: Ticket, service: float) -> None:
        """Charge service that an endpoint does not give to others because it is kept for a request."""
        account = self._active[ticket.demand.tenant_uid]
        account.service += service / ticket.demand.weight
        ticket.prepaid += service
        self._rank(account)

    def starving(self) -> Ticket | None:
        """The ticket that was first in order and passed over too often, while it waits."""
        ticket = self._starving
        if ticket is not None:
            account = self._active.get(ticket.demand.tenant_uid)
            if account is None or ticket not in account.waiting[ticket.demand.priority]:
                self._starving = ticket = None
        return ticket

    def surplus(self, joined: Ticket) -> Ticket | None:
        """Of a tenant with more requests queued than one may, or most for its weight: the newest of low priority."""
        account = self._active[joined.demand.tenant_uid]
        if len(account) > self._limits.waiting_a_tenant:
            return account.newest_of_lowest()  # proven: bound-a-tenant
        if self._waiting <= self._limits.waiting:
            return None
        most = self._heaviest()
        assert most is not None, "too many wait, and nobody does"
        # Of equals the one that came last.
        heaviest = account if len(account) / account.weight >= len(most) / most.weight else most
        return heaviest.newest_of_lowest()

    def excess(self) -> Iterator[Ticket]:
        """The newest of tenants with more than one may have, then of those with most for their weight."""
        for account in list(self._active.values()):
            while len(account) > self._limits.waiting_a_tenant:
                yield account.newest_of_lowest()
        while self._waiting > self._limits.waiting and (most := self._heaviest()) is not None:
            yield most.newest_of_lowest()

    def refuses(self, demand: Demand) -> bool:
        """Whether this request would be the one to refuse, if it joined now and could not run at once."""
        account = self._active.get(demand.tenant_uid)
        own = 1 if account is None else len(account) + 1
        if account is not None and account.waits_below(demand.priority):
            return False
        if own > self._limits.waiting_a_tenant:
            return True
        if self._waiting < self._limits.waiting:
            return False
        most = self._heaviest()
        return most is None or own / demand.weight >= len(most) / most.weight

    def ahead(self, demand: Demand) -> tuple[float, float]:
        """Its own tenant's requests of no lower priority, at the share its weight gives it."""
        account = self._active.get(demand.tenant_uid)
        # Those that wait for nothing leave to others what they do not use.
        others = self._waiting_weight - (0 if account is None or not account.bins else account.weight)
        share = demand.weight / (others + demand.weight)  # proven: only-the-waiting-share
        return 0 if account is None else account.service_ahead(demand.priority), share

    def tickets(self) -> Iterable[Ticket]:
        """All that wait."""
        for account in self._active.values():
            yield from account

    def _account(self, demand: Demand) -> TenantAccount:
        account = self._active.get(demand.tenant_uid)
        if account is None:
            account = self._idle.pop(demand.tenant_uid, None)
            if account is None:
                account = TenantAccount(demand.tenant_uid)
            account.weight = 0
            self._active[demand.tenant_uid] = account
        self._active_weight += demand.weight - account.weight
        if account.bins:
            self._waiting_weight += demand.weight - account.weight
        account.weight = demand.weight
        return account

    def _rest(self, account: TenantAccount) -> None:
        """Let a tenant go idle if nothing of it waits or runs; forget those that have been idle for longest."""
        if account.active:
            return
        self._active_weight -= account.weight
        del self._active[account.tenant_uid]
        self._idle[account.tenant_uid] = account
        self._prune()

    def _prune(self) -> None:
        while len(self._idle) > MAX_IDLE:
            self._idle.popitem(last=False)

    @property
    def floor(self) -> float:
        """What the counter of a tenant is lifted to when it begins to wait."""
        head = self._head()
        if head is not None:
            return head[0][0]
        return self._base if self._last is None else self._last.service

    def _heaviest(self) -> TenantAccount | None:
        """The tenant with most requests queued for its weight."""
        while (first := self._most_queued.first()) is not None:
            key, account = first
            if key == (actual := -len(account) / account.weight):
                return account
            self._most_queued.set(account, actual)
        return None

    def _remove(self, account: TenantAccount, ticket: Ticket) -> None:
        changed = account.remove(ticket)
        self._want_no_more(ticket)
        self._waiting -= 1
        if not changed.lanes:
            self._kinds[changed.kind].discard(changed)
        if not account.bins:
            self._waiting_weight -= account.weight
            self._most_queued.discard(account)

    def _key(self, candidate: Bin) -> _Key:
        account = candidate.account
        return account.service, account.places / account.weight, *account.rank(candidate.firsts()[0])

    def _rank(self, account: TenantAccount) -> None:
        """Bring a tenant's places in the order in line with its account."""
        account.ranked_service = account.service
        for kind, changed in account.bins.items():
            heap = self._kinds.get(kind)
            if heap is None:
                heap = self._kinds[kind] = LazyHeap()
            key = self._key(changed)
            heap.set(changed, key)
            first = self._order.key(kind)
            if first is None or key < first:
                self._order.set(kind, key)

    def _head(self) -> tuple[_Key, Bin] | None:
        """The first of all, after what comes before it by outdated keys got its due place."""
        while (first := self._order.first()) is not None:
            key, kind = first
            heap = self._kinds[kind]
            head = heap.first()
            if head is None:
                self._order.discard(kind)
            elif head[0] != key:
                self._order.set(kind, head[0])
            elif head[1].account.service != key[0]:
                heap.set(head[1], self._key(head[1]))
            else:
                return head
        return None

    def _in_order(self, tries: dict[Kind, int]) -> Generator[tuple[_Key, Bin], None, None]:
        """The bins in order, of each kind until `tries` of it is 0. Not while the queue changes."""
        aside: list[tuple[_Key, Bin]] = []
        try:
            while (head := self._head()) is not None:
                yield head
                kind = head[1].kind
                aside.append(head)
                if tries.get(kind, 1):
                    self._kinds[kind].discard(head[1])
                else:
                    self._order.discard(kind)
        finally:
            for key, candidate in reversed(aside):
                self._kinds[candidate.kind].set(candidate, key)
                self._order.set(candidate.kind, key)

    def _overtake(self, blocked: Ticket | None) -> None:
        """Count that another was served before the first in order, which could not run."""
        if blocked is not None:
            blocked.overtaken += 1
            if blocked.overtaken >= MAX_OVERTAKES:
                self._starving = blocked

    def _try(self, candidate: Bin, find: Find, *, headroom: bool) -> tuple[Ticket, Spot] | None:
        for ticket in candidate.firsts():
            if (spot := find(ticket, headroom)) is not None:
                return ticket, spot
        return None

    def resident(self, lora_id: int, resident: bool) -> None:
        """Follow whether any endpoint is believed to hold an adapter."""
        if resident:
            self._resident.add(lora_id)
            for tenant_uid in self._wanted.get(lora_id, ()):
                self._warm.setdefault(tenant_uid, OrderedDict())[lora_id] = None
        else:
            self._resident.discard(lora_id)
            for tenant_uid in self._wanted.get(lora_id, ()):
                self._cool(tenant_uid, lora_id)

    def _want(self, ticket: Ticket) -> None:
        lora_id, tenant_uid = ticket.demand.lora_id, ticket.demand.tenant_uid
        if lora_id is None:
            return
        wanted = self._wanted.setdefault(lora_id, {})
        wanted[tenant_uid] = wanted.get(tenant_uid, 0) + 1
        if lora_id in self._resident:
            self._warm.setdefault(tenant_uid, OrderedDict())[lora_id] = None

    def _want_no_more(self, ticket: Ticket) -> None:
        lora_id, tenant_uid = ticket.demand.lora_id, ticket.demand.tenant_uid
        if lora_id is None:
            return
        wanted = self._wanted[lora_id]
        wanted[tenant_uid] -= 1
        if not wanted[tenant_uid]:
            del wanted[tenant_uid]
            if not wanted:
                del self._wanted[lora_id]
            if lora_id in self._resident:
                self._cool(tenant_uid, lora_id)

    def _cool(self, tenant_uid: str, lora_id: int) -> None:
        warm = self._warm[tenant_uid]
        del warm[lora_id]
        if not warm:
            del self._warm[tenant_uid]

    def _warm_one(self, find: Find) -> tuple[Ticket, Spot] | None:
        """A request whose adapter is loaded where it can run: least service first, of a few tenants in turn."""
        able: list[tuple[float, int, Ticket, Spot]] = []
        tries = 0
        for tenant_uid in list(islice(self._warm, _WARM_TRIES)):
            account, warm = self._active[tenant_uid], self._warm[tenant_uid]
            self._warm.move_to_end(tenant_uid)
            for lora_id in list(islice(warm, _WARM_TRIES - tries)):
                warm.move_to_end(lora_id)
                tries += 1
                found = self._try_warm(account, lora_id, find)
                if found is not None:
                    able.append((account.service, len(able), *found))
                    break
            if tries >= _WARM_TRIES or len(able) >= _WARM_COMPARED:
                break
        return min(able)[2:] if able else None  # proven: warm-in-order

    def _try_warm(self, account: TenantAccount, lora_id: int, find: Find) -> tuple[Ticket, Spot] | None:
        for ticket in account.firsts_for(lora_id):
            if (spot := find(ticket, False)) is not None:
                return ticket, spot
        return None

    def _over_share(self, account: TenantAccount) -> bool:
        """Whether a tenant holds a place more than its share of places or KV cache, among the active tenants."""
        share = account.weight / self._active_weight
        limits = self._limits
        return account.places >= limits.places * share + 1 or account.kv_tokens >= limits.kv_tokens * (
            share + 1 / limits.places
        )

    def _starves(self, candidate: Bin, find: Find) -> Ticket | None:
        """The request that counts as passed over, if more than the headroom is kept from it."""
        ticket = candidate.firsts()[0]
        if not self._limits.headroom or self._below_share(candidate.account):
            return ticket
        return ticket if find(ticket, True) is None else None  # proven: starves-at-its-share

    def _below_share(self, account: TenantAccount) -> bool:
        """Whether a tenant holds less than its share; of a tenant that is alone that is a half."""
        share = account.weight / max(self._active_weight, 2 * account.weight)
        limits = self._limits
        return account.places < limits.places * share and account.kv_tokens < limits.kv_tokens * share
