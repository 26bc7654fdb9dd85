"""Callers and writers at once: does any answer show two nonces?"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from services.common.artifacts import DirectoryArtifactStore
from services.common.clock import SystemClock
from services.common.rpc.channel import open_channel
from services.config.etcd.client import EtcdClient
from services.config.intents.transactions import Intents
from services.config.metrics import ConfigMetrics
from services.config.state.config_state import ConfigStateBuilder
from services.config.state.current_state import CurrentState
from services.config.state.sealing import TenantKeys, load_root_key
from services.router.text.text_model import TextModelLoader
from tests.fakes.nonce_writer import ADAPTER, QUESTION, NonceTenant, Split, as_one
from tests.fakes.served_mesh import ServedMesh
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json
from tests.integration.mesh_access import Failure, bearer, question

_CALL_SECONDS = 20.0


@asynccontextmanager
async def nonce_tenants(mesh: ServedMesh, count: int) -> AsyncIterator[list[NonceTenant]]:
    """Tenants with their first nonce in force at every router, written as the config service writes."""
    keys = TenantKeys(load_root_key(mesh.plane.folder / "state" / "root.kek"))
    artifacts: DirectoryArtifactStore = mesh.plane.artifacts
    text = TextModelLoader(artifacts).load(
        artifacts.put(tiny_tokeniser_json()), artifacts.put(CHAT_TEMPLATE.encode())
    )
    # Tenants are made where a pool serves them; each goes to its own with its first nonce.
    await mesh.new_pool("before-the-first-nonce")
    async with open_channel(mesh.plane.etcd.target) as channel:
        clock, etcd = SystemClock(), EtcdClient(channel)
        metrics = ConfigMetrics(CurrentState(ConfigStateBuilder(keys), clock))
        intents = Intents(etcd, None, keys.intent_key, clock, metrics)
        tenants = [
            await NonceTenant.create(mesh, etcd, intents, keys, f"tenant-{number}", text)
            for number in range(1, count + 1)
        ]
        await mesh.propagated(max(tenant.revision for tenant in tenants))
        for tenant in tenants:
            await mesh.serves(tenant.secret)
        yield tenants


@dataclass
class Consistency:
    """What callers saw."""

    answers: int = 0
    mixed: list[set[int]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    writes: int = 0
    seconds: float = 0.0
    nonces_seen: set[tuple[str, int]] = field(default_factory=set)

    @property
    def summary(self) -> str:
        return (
            f"{self.answers} answers ({self.answers / self.seconds:.0f}/s), {len(self.mixed)} with two nonces, "
            f"{self.errors.total()} errors {dict(self.errors)}, {self.writes} nonces written "
            f"({self.writes / self.seconds:.0f}/s), {len(self.nonces_seen)} of them seen"
        )


async def serve_under_writes(
    mesh: ServedMesh,
    tenants: Sequence[NonceTenant],
    split: Split,
    *,
    answers: int,
    writes_per_second: float,
    clients: int = 8,
    tell: Callable[[str], None] = lambda _text: None,
    enough: Callable[[Consistency], bool] = lambda _seen: False,
) -> Consistency:
    """Ask until there are so many answers, or until it is enough, while every tenant's nonce changes.

    Clients ask without a pause; more of them than eight keep a machine of two cores from writing as often as wanted.
    """
    # A run before this one may have ended between two transactions.
    for tenant in tenants:
        await tenant.write_next(as_one)
    await mesh.propagated(max(tenant.revision for tenant in tenants))
    seen, begun_at = Consistency(), time.monotonic()
    turns = itertools.count()
    told_at = begun_at

    async def ask() -> None:
        nonlocal told_at
        while seen.answers < answers and not enough(seen):
            turn = next(turns)
            tenant, stub = tenants[turn % len(tenants)], mesh.stubs[turn % len(mesh.stubs)]
            try:
                got = await stub.Generate(
                    question(QUESTION), metadata=bearer(tenant.secret), timeout=_CALL_SECONDS
                )
            except grpc.RpcError as error:
                failure = Failure.of(error)
                seen.errors[failure.reason or failure.code.name] += 1
                assert seen.errors.total() < answers, "more errors than answers wanted"
                continue
            seen.answers += 1
            assert got.provenance.adapter == ADAPTER
            nonces = tenant.nonces_in(got)
            seen.nonces_seen |= {(tenant.secret, nonce) for nonce in nonces}
            if len(nonces) != 1:
                seen.mixed.append(nonces)
            if (now := time.monotonic()) - told_at > 10:
                told_at, seen.seconds = now, now - begun_at
                tell(seen.summary)

    async def write(tenant: NonceTenant, number: int) -> None:
        period = 1 / writes_per_second
        due = time.monotonic() + period * number / len(tenants)
        while True:
            await asyncio.sleep(max(due - time.monotonic(), 0))
            await tenant.write_next(split)
            seen.writes += 1
            due = max(due + period, time.monotonic() - period)

    writing: list[asyncio.Future[None]] = [
        asyncio.create_task(write(tenant, number)) for number, tenant in enumerate(tenants)
    ]
    asking: asyncio.Future[list[None]] = asyncio.gather(*(ask() for _ in range(clients)))
    # Writers never end by themselves: one that does has failed, and ends the run.
    failing: asyncio.Future[list[None]] = asyncio.gather(*writing)
    try:
        await asyncio.wait([asking, failing], return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            failing.result()
        await asking
    finally:
        asking.cancel()
        failing.cancel()
        await asyncio.gather(asking, failing, return_exceptions=True)
    seen.seconds = time.monotonic() - begun_at
    return seen
