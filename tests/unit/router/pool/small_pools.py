"""A pool of one endpoint, and requests that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from services.common.clock import Clock
from services.common.errors import Error
from services.router.pool.demand import Cost, Demand
from services.router.pool.endpoints import Servers
from services.router.pool.fair_queue import FairQueue
from services.router.pool.pool import Grant, Pool
from services.router.pool.queue_discipline import QueueDiscipline
from services.router.snapshot.model import PoolConfig
from tests.fakes.manual_clock import ManualClock

CONFIG = PoolConfig(
    name="pools/p",
    base_model="models/m",
    dialect="TRTLLM_ENGINE",
    server_model="tensorrt_llm",
    targets=("a",),
    concurrent_requests=2,
    adapters=2,
    kv_tokens=100,
    queued_requests=3,
    engine_sha256="e" * 64,
    adapter_dtype="float16",
    adapter_config_columns=4,
    dedicated_to_uid=None,
    kv_block_tokens=1,
)
COST = Cost(10, 10)


def demand(cost: Cost = COST, lora_id: int | None = None, tenant: str = "t", **fields) -> Demand:
    return Demand(tenant, cost, lora_id, **fields)


def ready_pool(queue: QueueDiscipline | None = None, clock: Clock | None = None, **changes) -> Pool:
    pool = Pool(
        replace(CONFIG, **changes), FairQueue() if queue is None else queue, Servers(), clock or ManualClock()
    )
    for target in pool.targets:
        pool.probed(target, ready=True)
    return pool


class _Acquiring:
    """A coroutine that waits."""

    def __init__(self) -> None:
        self.grant: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()

    @property
    def left(self) -> bool:
        return self.grant.done()

    def granted(self, grant: Grant) -> None:
        self.grant.set_result(grant)

    def refused(self, error: Error) -> None:
        if not self.grant.done():
            self.grant.set_exception(error)


async def acquire(pool: Pool, demand: Demand, first: Callable[[], Awaitable[object]] | None = None) -> Grant:
    """Check, await `first`, and wait for a place; a caller that leaves hands its place on."""
    pool.check(demand)
    if first is not None:
        await first()
    acquiring = _Acquiring()
    ticket = pool.join(demand, acquiring)
    granted = acquiring.grant
    try:
        return granted.result() if granted.done() else await granted
    except asyncio.CancelledError:
        if granted.done() and not granted.cancelled() and not granted.exception():
            granted.result().give_back()
        raise
    finally:
        pool.withdraw(ticket)


async def waiting(
    pool: Pool, lora_id: int | None = None, cost: Cost = COST, tenant: str = "t", **fields
) -> asyncio.Task[Grant]:
    """A request that has joined the queue, or been served."""
    task = asyncio.create_task(acquire(pool, demand(cost, lora_id, tenant, **fields)))
    await asyncio.sleep(0)
    return task


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)
