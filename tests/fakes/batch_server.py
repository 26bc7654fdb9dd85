"""A pool on simulated time: the real scheduler over a model of a batching server.

The server runs every request that has a place, one token a step. A step takes longer the more requests run, as measured
of the CPU twin (18.5 ms for one, 29 ms for 8, 41 ms for 16), and longer by the prompts that begin in it.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from services.common.errors import Error
from services.router.pool.demand import OUTPUT_TOKEN_SERVICE, Cost, Demand
from services.router.pool.endpoints import Place, Servers
from services.router.pool.queue_discipline import QueueDiscipline, Ticket
from services.router.pool.scheduler import Scheduler
from services.router.snapshot.model import PoolConfig

_STEP_MS = ((0, 14.0), (1, 18.5), (8, 29.0), (16, 41.0), (32, 70.0), (1024, 1657.0))
_PROMPT_TOKENS_A_MS = 1.2
POOL = PoolConfig(
    name="pools/simulated",
    base_model="models/m",
    dialect="TRTLLM_ENGINE",
    server_model="m",
    targets=("server:8001",),
    concurrent_requests=16,
    adapters=8,
    kv_tokens=16_384,
    queued_requests=256,
    engine_sha256="",
    adapter_dtype="float16",
    adapter_config_columns=4,
    dedicated_to_uid=None,
    kv_block_tokens=32,
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that comes."""

    at: float
    tenant: str
    input_tokens: int = 40
    output_tokens: int = 64
    """What it generates, if its caller stays."""
    max_output_tokens: int = 256
    weight: int = 100
    priority: int = 2
    leaves_after: int | None = None
    """How many tokens its caller waits for; -1 to leave while it waits, at the next step."""
    lora_id: int | None = None
    """The adapter it needs."""


@dataclass(slots=True)
class _Running:
    arrival: Arrival
    ticket: Ticket
    place: Place
    tokens: int = 0


@dataclass(slots=True)
class Served:
    """What a simulation saw."""

    first_token_seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    service: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    tokens: int = 0
    finished: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    refused: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seconds: float = 0.0

    def first_token(self, tenant: str, quantile: float) -> float:
        """A quantile of a tenant's first-token times; a refusal counts as infinite."""
        seen = sorted(self.first_token_seconds[tenant]) + [float("inf")] * self.refused[tenant]
        return seen[min(int(len(seen) * quantile), len(seen) - 1)]


class Simulation:
    """Arrivals, a scheduler, and a server; `run` to the end, or step by step."""

    def __init__(
        self, queue: QueueDiscipline, arrivals: Iterable[Arrival] = (), config: PoolConfig = POOL
    ) -> None:
        self.scheduler = Scheduler(config, queue, Servers())
        for target in config.targets:
            self.scheduler.probed(target, ready=True)
        self.now = 0.0
        self.seen = Served()
        self.running: list[_Running] = []
        self._arrivals = sorted(arrivals, key=lambda arrival: arrival.at, reverse=True)
        self._waiting: dict[Ticket, Arrival] = {}
        self._prompts = 0

    def run(self, until: float, after_step: Callable[[Simulation], None] | None = None) -> Served:
        """Run to a time, or until nothing is left."""
        while self.now < until and (self._arrivals or self._waiting or self.running):
            self.step()
            if after_step is not None:
                after_step(self)
        self.seen.seconds = self.now
        return self.seen

    def arrive(self, arrival: Arrival) -> None:
        """A request comes now."""
        cost = Cost(arrival.input_tokens, arrival.max_output_tokens)
        demand = Demand(arrival.tenant, cost, arrival.lora_id, arrival.weight, arrival.priority)
        try:
            self.scheduler.check(demand, self.now)
        except Error:
            self.seen.refused[arrival.tenant] += 1
            return
        ticket = self.scheduler.join(demand, self.now)
        self._waiting[ticket] = arrival
        self._serve()
        if ticket in self._waiting and (surplus := self.scheduler.surplus(ticket)) is not None:
            self.scheduler.leave(surplus, self.now)
            self.seen.refused[self._waiting.pop(surplus).tenant] += 1

    def waiting(self, tenant: str) -> int:
        """A tenant's requests that wait."""
        return sum(arrival.tenant == tenant for arrival in self._waiting.values())

    def step(self) -> None:
        """One step of the server."""
        for ticket in [t for t, arrival in self._waiting.items() if arrival.leaves_after == -1]:
            del self._waiting[ticket]
            self.scheduler.leave(ticket, self.now)
        while self._arrivals and self._arrivals[-1].at <= self.now:
            self.arrive(self._arrivals.pop())
        self._serve()
        if not self.running:
            self.now = self._arrivals[-1].at if self._arrivals else self.now + 0.001
            return
        self.now += (_step_ms(len(self.running)) + self._prompts / _PROMPT_TOKENS_A_MS) / 1000
        self._prompts = 0
        for running in self.running:
            arrival = running.arrival
            if not running.tokens:
                running.place.adapter_accepted()
                self.seen.first_token_seconds[arrival.tenant].append(self.now - arrival.at)
            running.tokens += 1
            self.seen.tokens += 1
            self.seen.service[arrival.tenant] += OUTPUT_TOKEN_SERVICE
            self.scheduler.charge(running.ticket, OUTPUT_TOKEN_SERVICE)
        for running in [one for one in self.running if one.tokens >= _length(one.arrival)]:
            self.running.remove(running)
            self.seen.finished[running.arrival.tenant] += 1
            used = running.arrival.input_tokens + OUTPUT_TOKEN_SERVICE * running.tokens
            self.scheduler.give_back(running.ticket, running.place, used, self.now)
        self._serve()

    def _serve(self) -> None:
        for ticket, place in self.scheduler.serve(self.now):
            arrival = self._waiting.pop(ticket)
            self.running.append(_Running(arrival, ticket, place))
            self.seen.service[arrival.tenant] += arrival.input_tokens
            self._prompts += arrival.input_tokens


def poisson(
    rng: random.Random, tenant: str, a_second: float, seconds: float, **fields: int
) -> Iterator[Arrival]:
    """Chat-sized requests that come at random, at a mean rate."""
    at = rng.expovariate(a_second)
    while at < seconds:
        yield Arrival(at, tenant, output_tokens=rng.randint(16, 112), **fields)
        at += rng.expovariate(a_second)


def _length(arrival: Arrival) -> int:
    whole = min(arrival.output_tokens, arrival.max_output_tokens)
    return whole if arrival.leaves_after is None else max(1, min(arrival.leaves_after, whole))


def _step_ms(running: int) -> float:
    for (few, fast), (many, slow) in itertools.pairwise(_STEP_MS):
        if running <= many:
            return fast + (slow - fast) * (running - few) / (many - few)
    return _STEP_MS[-1][1]
