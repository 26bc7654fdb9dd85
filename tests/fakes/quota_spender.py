"""A router's use of quotas as a process of its own, which may be killed at any moment; its log tells the truth."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from services.common.clock import SystemClock
from services.common.errors import Error
from services.common.rpc.channel import open_channel
from services.router.quota.client import QuotaClient
from services.router.quota.ledger import Allowance, QuotaTenant, Use
from services.router.quota.slices import SliceRules

# Forked from a server that has imported everything: a router's start costs milliseconds.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["__main__", __name__])
WORKERS = 3
GIVEN_BACK = b"given back\n"


@dataclass(frozen=True)
class Spending:
    target: str
    router: str
    tenant_uid: str
    allowance: Allowance
    log: Path
    renew_seconds: float
    seed: int


def truth(log: Path) -> int:
    """Tokens one session has spent or may have: settled, and reserved without a settlement."""
    total = 0
    for line in log.read_bytes().splitlines() if log.exists() else ():
        kind, *numbers = line.split()
        if kind == b"reserved":
            total += int(numbers[0])
        elif kind == b"settled":
            total += int(numbers[1]) - int(numbers[0])
    return total


def start(spending: Spending) -> BaseProcess:
    process = _FORKS.Process(target=_main, args=(spending,), daemon=True)
    process.start()
    return process


def _main(spending: Spending) -> None:
    asyncio.run(_spend(spending))


async def _spend(spending: Spending) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    rules = SliceRules(min_units=400, renew_seconds=spending.renew_seconds)
    channel = open_channel(spending.target)
    client = QuotaClient(channel, router=spending.router, clock=SystemClock(), rules=rules)
    log = os.open(spending.log, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    tenant = QuotaTenant(spending.tenant_uid, "tenants/acme", (spending.allowance,))
    running = asyncio.create_task(client.run())
    rng = random.Random(spending.seed)

    async def work() -> None:
        while not stop.is_set():
            tokens = rng.randint(1, 300)
            try:
                reservation = await client.reserve(tenant, Use(tokens))
            except Error:
                await asyncio.sleep(0.01)
                continue
            os.write(log, b"reserved %d\n" % tokens)
            await asyncio.sleep(rng.uniform(0.005, 0.02))
            used = rng.randint(0, tokens)
            os.write(log, b"settled %d %d\n" % (tokens, used))
            client.settle(reservation, Use(used))

    workers = [asyncio.create_task(work()) for _ in range(WORKERS)]
    await asyncio.gather(*workers)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    if await client.give_back(10):
        os.write(log, GIVEN_BACK)
    await channel.close()
