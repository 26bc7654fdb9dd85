"""Runs workloads over the product's scheduler on simulated time, and sums up what tenants were given. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from scripts.bench.fairness.workloads import ATTACKER, TAIL_SECONDS, VICTIM, Level, Workload
from services.router.pool.fair_queue import FairQueue
from services.router.pool.fifo_queue import FifoQueue
from services.router.pool.queue_discipline import QueueDiscipline
from tests.fakes.batch_server import POOL, Simulation

QUEUES: dict[str, Callable[[], QueueDiscipline]] = {"fair": FairQueue, "order of arrival": FifoQueue}


@dataclass(frozen=True, slots=True)
class Run:
    """What one workload did under one queue, pooled over its seeds."""

    workload: str
    level: Level
    queue: str
    headroom: int
    first_token_seconds: Sequence[float]
    """Of the victim's requests, in order; infinite for those that were refused or not served in time."""
    finished: int
    """Of the victim's."""
    attackers: int
    """Requests of the attacker that were answered."""
    tokens_a_second: float
    """Output tokens of all tenants."""
    service: dict[str, Sequence[float]] = field(default_factory=dict)
    """By tenant: service given by the end of each second; of the first seed."""

    @property
    def requests(self) -> int:
        """The victim's."""
        return len(self.first_token_seconds)

    @property
    def refused(self) -> int:
        """Of the victim's, refused or not served in time."""
        return sum(math.isinf(one) for one in self.first_token_seconds)

    @property
    def goodput(self) -> float:
        """The part of the victim's requests that were answered."""
        return self.finished / self.requests if self.requests else 1.0

    def first_token(self, quantile: float) -> float:
        """A quantile of the victim's first-token times."""
        if not self.requests:
            return math.nan
        return self.first_token_seconds[min(int(self.requests * quantile), self.requests - 1)]


def run(
    workload: Workload, level: Level, queue: str, *, seeds: Iterable[int], seconds: float, headroom: int = 0
) -> Run:
    """Run one workload.

    Args:
        workload: what comes.
        level: of the attacker.
        queue: one of `QUEUES`.
        seeds: one run each.
        seconds: of simulated time, a run, in which the victim asks; each request has `TAIL_SECONDS` more.
        headroom: the pool's `headroom_requests`.
    """
    first_tokens: list[float] = []
    finished = attackers = tokens = 0
    elapsed, service = 0.0, dict[str, Sequence[float]]()
    for seed in seeds:
        arrivals = workload.arrivals(level, seed, seconds)
        asked = sum(one.tenant == VICTIM for one in arrivals)
        simulation = Simulation(QUEUES[queue](), arrivals, replace(POOL, headroom_requests=headroom))
        over_time: dict[str, list[float]] = {VICTIM: [], ATTACKER: []}

        def sample(now: Simulation, over_time: dict[str, list[float]] = over_time) -> None:
            while len(over_time[VICTIM]) < now.now:
                for tenant, series in over_time.items():
                    series.append(now.seen.service[tenant])

        seen = simulation.run(seconds + TAIL_SECONDS, sample)
        served = seen.first_token_seconds[VICTIM]
        # Refused, or not served in time.
        first_tokens += served + [math.inf] * (asked - len(served))
        finished += seen.finished[VICTIM]
        attackers += seen.finished[ATTACKER]
        tokens += seen.tokens
        elapsed += seen.seconds
        service = service or {tenant: series for tenant, series in over_time.items() if any(series)}
    return Run(
        workload.name,
        level,
        queue,
        headroom,
        sorted(first_tokens),
        finished,
        attackers,
        tokens / elapsed if elapsed else 0.0,
        service,
    )
