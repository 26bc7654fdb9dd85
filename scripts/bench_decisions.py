"""What a scheduling decision costs: CPU time by active tenants and endpoints (`make bench-decisions`).

Every place is taken and every tenant has a request waiting. A step ends one request, serves the next, streams the
tokens of one and lets a new request join. The decision is what happens between a place that comes free and the request
that gets it; the rest of the step is shown beside it. Prints the least of several repetitions.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "gen/python")]

from services.router.pool.demand import Cost, Demand  # noqa: E402 - after the path is set
from services.router.pool.endpoints import Place, Servers  # noqa: E402
from services.router.pool.fair_queue import FairQueue  # noqa: E402
from services.router.pool.queue_discipline import Ticket  # noqa: E402
from services.router.pool.scheduler import Scheduler  # noqa: E402
from services.router.snapshot.model import PoolConfig  # noqa: E402

TENANTS = (10, 100, 1_000, 10_000)
ENDPOINTS = (1, 64)
PLACES = 16
OUTPUT_TOKENS = (16, 256)
INPUT_TOKENS = (10, 500)
ADAPTER_SHARE = 0.3
REPETITIONS = 40


def pool_of(endpoints: int, waiting: int) -> PoolConfig:
    """A pool of so many endpoints."""
    return PoolConfig(
        name="pools/bench",
        base_model="models/m",
        dialect="TRTLLM_ENGINE",
        server_model="m",
        targets=tuple(f"server-{number}:8001" for number in range(endpoints)),
        concurrent_requests=PLACES,
        adapters=8,
        kv_tokens=PLACES * 512,
        queued_requests=4 * waiting,
        engine_sha256="",
        adapter_dtype="float16",
        adapter_config_columns=4,
        dedicated_to_uid=None,
    )


class Load:
    """A scheduler with every place taken, and as much waiting as it had at first."""

    def __init__(self, tenants: int, endpoints: int, rng: random.Random) -> None:
        self.rng = rng
        self.tenants = [f"tenant-{number}" for number in range(tenants)]
        self.weights = [rng.choice((50, 100, 200, 400)) for _ in self.tenants]
        places = endpoints * PLACES
        self.scheduler = Scheduler(pool_of(endpoints, places + tenants), FairQueue(), Servers())
        for target in self.scheduler.endpoints.targets:
            self.scheduler.probed(target, ready=True)
        self.held: list[tuple[Ticket, Place]] = []
        for number in range(places + tenants):
            self.join(number % tenants)
            self.serve()

    def join(self, tenant: int) -> None:
        """A request of a tenant joins the queue."""
        rng = self.rng
        adapter = (tenant + 1 << 40) + 1 if rng.random() < ADAPTER_SHARE else None
        cost = Cost(rng.randint(*INPUT_TOKENS), rng.randint(*OUTPUT_TOKENS))
        self.scheduler.join(Demand(self.tenants[tenant], cost, adapter, self.weights[tenant]), 0.0)

    def serve(self) -> None:
        """Give out the places that are free."""
        self.begin(list(self.scheduler.serve(0.0)))

    def begin(self, served: list[tuple[Ticket, Place]]) -> None:
        """Requests begin to run: their endpoints hold the adapters now."""
        for _, place in served:
            place.adapter_accepted()
        self.held += served

    def step(self) -> tuple[int, int]:
        """One request ends, others follow; nanoseconds of the decision, and of the rest."""
        scheduler, rng, clock = self.scheduler, self.rng, time.thread_time_ns
        place = rng.randrange(len(self.held))
        self.held[place], self.held[-1] = self.held[-1], self.held[place]
        ticket, ended = self.held.pop()
        streaming = rng.choice(self.held)[0] if self.held else None
        before = clock()
        scheduler.give_back(ticket, ended, 0.0, 0.0)
        served = list(scheduler.serve(0.0))
        decided = clock()
        self.begin(served)
        if streaming is not None:
            for _ in range(8):
                scheduler.charge(streaming, 2)
        streamed = clock()
        while len(scheduler.queue) < len(self.tenants):
            self.join(rng.randrange(len(self.tenants)))
        self.serve()
        return decided - before, clock() - streamed


def measured(tenants: int, endpoints: int, steps: int) -> tuple[float, float]:
    """Microseconds of a decision and of joining, each the mean of the best repetition."""
    load = Load(tenants, endpoints, random.Random(tenants))  # noqa: S311 - a load, not a secret
    for _ in range(steps // 2):
        load.step()
    decisions, joins = [], []
    for _ in range(REPETITIONS):
        spent = [load.step() for _ in range(steps)]
        decisions.append(sum(decision for decision, _ in spent) / steps / 1000)
        joins.append(sum(join for _, join in spent) / steps / 1000)
    return min(decisions), min(joins)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="CPU time of a scheduling decision")
    parser.add_argument("--steps", type=int, default=50, help="of each repetition")
    steps = parser.parse_args().steps
    print(f"µs of CPU, best of {REPETITIONS} x {steps} steps; {PLACES} places an endpoint, all taken")
    print(f"{'endpoints':>9} {'tenants':>8} {'decision':>9} {'join':>9}")
    for endpoints in ENDPOINTS:
        for tenants in TENANTS:
            decision, join = measured(tenants, endpoints, steps)
            print(f"{endpoints:>9} {tenants:>8} {decision:>9.1f} {join:>9.1f}")


if __name__ == "__main__":
    main()
