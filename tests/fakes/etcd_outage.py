"""etcd goes and comes back under callers: who is answered, from when on answers are flagged, when all is as before."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import tenant_pb2

from tests.fakes.served_mesh import ServedMesh
from tests.integration.mesh_access import Failure, bearer, question

_PAUSE_SECONDS = 0.02
_SETTLED_SECONDS = 1.0
_GIVE_UP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a tenant, and what became of it."""

    begun_at: float
    ended_at: float
    refusing: bool
    """Whether the tenant is one that wants no stale answers."""
    error: str
    """The reason; empty for an answer."""
    stale: bool
    config_version: int


@dataclass
class Outage:
    """What callers saw. Times are of the monotonic clock."""

    stopped_at: float = 0.0
    returned_at: float = 0.0
    version_after: int = 0
    """The config version written after the return."""
    asked: list[Asked] = field(default_factory=list)

    def _of(self, *, refusing: bool) -> list[Asked]:
        return [one for one in self.asked if one.refusing is refusing]

    def _during(self, *, refusing: bool) -> list[Asked]:
        return [
            one
            for one in self._of(refusing=refusing)
            if self.stopped_at <= one.begun_at and one.ended_at < self.returned_at
        ]

    @property
    def serving(self) -> list[Asked]:
        return self._of(refusing=False)

    @property
    def unanswered(self) -> Counter[str]:
        """Of tenants that are served with what was last known: by reason."""
        return Counter(one.error for one in self.serving if one.error)

    @property
    def wrong_refusals(self) -> Counter[str]:
        """Of tenants that want no stale answers: for any other reason."""
        found = (one.error for one in self._of(refusing=True))
        return Counter(error for error in found if error not in {"", "CONFIG_STALE"})

    @property
    def flagged_after_seconds(self) -> float:
        """From the stop until the last request that was answered without the flag; infinite for no flag at all."""
        during = self._during(refusing=False)
        if not any(one.stale for one in during):
            return float("inf")
        plain = (one.begun_at for one in during if not one.stale and not one.error)
        return max(plain, default=self.stopped_at) - self.stopped_at

    @property
    def refused_after_seconds(self) -> float:
        """From the stop until the last request that was answered though it had to be refused."""
        during = self._during(refusing=True)
        if not any(one.error for one in during):
            return float("inf")
        return (
            max((one.begun_at for one in during if not one.error), default=self.stopped_at) - self.stopped_at
        )

    @property
    def stale_while_refused(self) -> int:
        """Flagged answers to tenants that want none."""
        return sum(one.stale for one in self._of(refusing=True))

    @property
    def converged_after_seconds(self) -> float:
        """From the return until the last request that was refused, flagged, or answered under the old config."""
        late = [
            one.begun_at
            for one in self.asked
            if one.begun_at >= self.returned_at
            and (one.error or one.stale or (not one.refusing and one.config_version < self.version_after))
        ]
        return max(late, default=self.returned_at) - self.returned_at


class OutageRun:
    """Callers of tenants of both policies, without rest."""

    def __init__(self, mesh: ServedMesh, serving: list[tuple[str, str]], refusing: list[str]) -> None:
        self._mesh = mesh
        self.serving = serving
        """Names and keys."""
        self._refusing = refusing
        self.seen = Outage()
        self._turns = itertools.count()

    @classmethod
    async def prepare(cls, mesh: ServedMesh, serving: int = 3, refusing: int = 2) -> OutageRun:
        """Make tenants and wait until every router serves them."""
        await mesh.new_pool("p")
        served = []
        for number in range(serving):
            made, key = await mesh.new_tenant(f"serve-{number}")
            served.append((made.name, key))
        refuse = tenant_pb2.STALENESS_POLICY_REFUSE
        refused = [
            (await mesh.new_tenant(f"refuse-{number}", staleness_policy=refuse))[1]
            for number in range(refusing)
        ]
        await mesh.propagated()
        await mesh.serves(served[0][1])
        return cls(mesh, served, refused)

    async def _ask(self, key: str, *, refusing: bool) -> Asked:
        stub = self._mesh.stubs[next(self._turns) % len(self._mesh.stubs)]
        begun_at = time.monotonic()
        try:
            got = await stub.Generate(question("hello"), metadata=bearer(key), timeout=10)
        except grpc.RpcError as error:
            failure = Failure.of(error)
            reason = failure.reason or failure.code.name
            return Asked(begun_at, time.monotonic(), refusing, reason, False, 0)
        shown = got.provenance
        return Asked(begun_at, time.monotonic(), refusing, "", shown.stale, shown.config_version)

    async def _keep_asking(self, key: str, *, refusing: bool) -> None:
        while True:
            self.seen.asked.append(await self._ask(key, refusing=refusing))
            await asyncio.sleep(_PAUSE_SECONDS)

    @asynccontextmanager
    async def _callers(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._keep_asking(key, refusing=False)) for _, key in self.serving]
        tasks += [asyncio.create_task(self._keep_asking(key, refusing=True)) for key in self._refusing]
        try:
            yield
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def run(
        self,
        *,
        frozen: bool,
        at_least_seconds: float,
        until_flagged: bool = False,
        tell: Callable[[str], None] = lambda _text: None,
    ) -> Outage:
        """Take etcd away, by SIGSTOP or by kill -9, and bring it back.

        Args:
            frozen: whether it is stopped alive.
            at_least_seconds: how long it is away.
            until_flagged: whether it stays away beyond that until a second has passed with flagged answers only,
                for a minute at most.
            tell: told every 5 s.
        """
        seen = self.seen = Outage()
        etcd = self._mesh.plane.etcd
        async with self._callers():
            await asyncio.sleep(_SETTLED_SECONDS)
            seen.stopped_at = time.monotonic()
            if frozen:
                etcd.send(signal.SIGSTOP)
            else:
                await etcd.kill()
            told_at = seen.stopped_at
            while not self._long_enough(at_least_seconds, until_flagged=until_flagged):
                await asyncio.sleep(0.1)
                if (now := time.monotonic()) - told_at >= 5:
                    told_at = now
                    asked = f"{len(seen.asked)} asked, unanswered: {dict(seen.unanswered) or 0}"
                    tell(f"etcd away for {now - seen.stopped_at:.0f} s: {asked}")
            if frozen:
                seen.returned_at = time.monotonic()
                etcd.send(signal.SIGCONT)
            else:
                await etcd.start()
                seen.returned_at = time.monotonic()
            await self._edit()
            await asyncio.sleep(3.0)
            await self._mesh.propagated()
            await asyncio.sleep(_SETTLED_SECONDS)
        return seen

    def _long_enough(self, at_least_seconds: float, *, until_flagged: bool) -> bool:
        away = time.monotonic() - self.seen.stopped_at
        if away < at_least_seconds or not until_flagged or away > _GIVE_UP_SECONDS:
            return away >= at_least_seconds
        recent = [one for one in self.seen.asked if one.begun_at > time.monotonic() - _SETTLED_SECONDS]
        return all(one.error or one.stale for one in recent)

    async def _edit(self) -> None:
        """Change every served tenant's config, as soon as that is possible again."""
        self.seen.version_after = 1 << 62
        versions = []
        async with asyncio.timeout(_GIVE_UP_SECONDS):
            for name, _ in self.serving:
                while True:
                    try:
                        read = await self._mesh.plane.call("GetTenant", admin_pb.GetTenantRequest(name=name))
                        read.config.system_prompt = f"after {read.config_version}"
                        made = await self._mesh.plane.call(
                            "UpdateTenant", admin_pb.UpdateTenantRequest(tenant=read)
                        )
                        break
                    except grpc.RpcError as error:
                        if Failure.of(error).code is not grpc.StatusCode.UNAVAILABLE:
                            raise
                        await asyncio.sleep(0.05)
                versions.append(made.config_version)
        self.seen.version_after = min(versions)
