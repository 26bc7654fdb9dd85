"""A pool of one endpoint, and requests that wait for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from services.router.pool.fifo import FifoPool
from services.router.pool.fifo_grant import FifoGrant
from services.router.pool.pool import Cost
from services.router.snapshot.model import PoolConfig

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
)
COST = Cost(10, 10)


def ready_pool(**changes) -> FifoPool:
    pool = FifoPool(replace(CONFIG, **changes))
    for target in pool.targets:
        pool.probed(target, ready=True)
    return pool


async def waiting(pool: FifoPool, lora_id: int | None = None, cost: Cost = COST) -> asyncio.Task[FifoGrant]:
    """A request that has joined the queue, or been served."""
    task = asyncio.create_task(pool.acquire("t", cost, lora_id))
    await asyncio.sleep(0)
    return task


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)
