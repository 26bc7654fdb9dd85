"""The control plane under measurement: real etcd, audit and config services and routers, 10,000 tenants."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import config_admin_service_pb2_grpc as rpc

from scripts.bench.population import Shape, populate
from services.common.artifacts import DirectoryArtifactStore
from services.common.rpc.channel import open_channel
from services.config.etcd.client import EtcdClient
from tests.fakes.etcd_process import EtcdProcess
from tests.fakes.service_process import ServiceProcess
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json

Say = Callable[[str], None]
_CALL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes of a measurement."""

    tenants: int = 10_000
    routers: int = 3
    changes: int = 200


@dataclass(frozen=True, slots=True)
class Figures:
    """The measured figures."""

    config_start_seconds: float
    """Process start to SERVING, everything listed."""
    router_start_seconds: float
    """Process start to SERVING: the slowest of the routers, all started at once."""
    router_idle_mib: float
    """Resident, with one tenant."""
    router_full_mib: float
    """Resident, with all of them: the largest."""
    config_full_mib: float
    change_p50_ms: float
    """From sending UpdateTenant to every router's ACK, as WaitForPropagation reports it."""
    change_p99_ms: float
    applied_p50_ms: float
    """From UpdateTenant's answer, which follows the commit, to the same moment."""
    applied_p99_ms: float


class ControlPlane:
    """Processes over one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "config").mkdir(parents=True, mode=0o700)
        self.etcd = EtcdProcess(folder / "etcd")
        self.artifacts = DirectoryArtifactStore(folder / "artifacts")

    def _target(self, name: str) -> str:
        return f"unix:{self._folder}/{name}.sock"

    def audit(self) -> ServiceProcess:
        """The audit service."""
        settings = {
            "TENANTRY_AUDIT_APPEND_LISTEN": self._target("append"),
            "TENANTRY_AUDIT_REVIEW_LISTEN": self._target("review"),
            "TENANTRY_AUDIT_STATE_DIR": str(self._folder / "audit"),
        }
        return ServiceProcess("services.audit", settings, self._target("review"), self._folder / "audit.log")

    def config(self) -> ServiceProcess:
        """The config service."""
        settings = {
            "TENANTRY_CONFIG_ADMIN_LISTEN": self._target("admin"),
            "TENANTRY_CONFIG_DISCOVERY_LISTEN": self._target("discovery"),
            "TENANTRY_CONFIG_ETCD_TARGET": self.etcd.target,
            "TENANTRY_CONFIG_AUDIT_TARGET": self._target("append"),
            "TENANTRY_CONFIG_STATE_DIR": str(self._folder / "config"),
            "TENANTRY_CONFIG_ARTIFACT_DIR": str(self._folder / "artifacts"),
        }
        return ServiceProcess("services.config", settings, self._target("admin"), self._folder / "config.log")

    def router(self, number: int) -> ServiceProcess:
        """One router."""
        settings = {
            "TENANTRY_ROUTER_ROUTER": f"router-{number}",
            "TENANTRY_ROUTER_LISTEN": self._target(f"router-{number}"),
            "TENANTRY_ROUTER_CONFIG_TARGET": self._target("discovery"),
            "TENANTRY_ROUTER_AUDIT_TARGET": self._target("append"),
            "TENANTRY_ROUTER_ARTIFACT_DIR": str(self._folder / "artifacts"),
            "TENANTRY_ROUTER_JWKS_PATH": str(self._folder / "config" / "jwks.json"),
        }
        log = self._folder / f"router-{number}.log"
        return ServiceProcess("services.router", settings, self._target(f"router-{number}"), log)

    async def fill(self, tenants: int, say: Say) -> None:
        """Write the tenants to etcd."""
        digests = (
            self.artifacts.put(tiny_tokeniser_json()),
            self.artifacts.put(CHAT_TEMPLATE.encode()),
        )
        async with self.etcd.channel() as channel:
            store = EtcdClient(channel)
            await populate(
                store, self._folder / "config", digests, tenants, Shape(),
                lambda done, of: say(f"writing tenants: {done:,} of {of:,}"),
            )  # fmt: skip

    async def change_all_round(self, changes: int, say: Say) -> list[tuple[float, float]]:
        """Change one tenant after another; milliseconds from sending, and from the answer, to every router's ACK."""
        key = (self._folder / "config" / "operator.key").read_text().strip()
        metadata = [("authorization", f"Bearer {key}")]
        found = []
        async with open_channel(self._target("admin")) as channel:
            stub: Any = rpc.ConfigAdminServiceStub(channel)

            async def call(method: str, request: Any) -> Any:
                return await getattr(stub, method)(request, metadata=metadata, timeout=_CALL_SECONDS)

            for number in range(changes):
                tenant = await call("GetTenant", pb.GetTenantRequest(name=f"tenants/tenant-{number + 1}"))
                tenant.config.system_prompt = f"Changed {number}. " + tenant.config.system_prompt[20:]
                sent = time.perf_counter()
                written = await call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))
                answered = time.perf_counter()
                wait = pb.WaitForPropagationRequest(revision=written.revision)
                spread = await call("WaitForPropagation", wait)
                done = time.perf_counter()
                if not spread.complete:
                    raise RuntimeError(f"not in force everywhere: {spread}")
                found.append(((done - sent) * 1e3, (done - answered) * 1e3))
                if (number + 1) % 50 == 0:
                    say(f"changing tenants: {number + 1} of {changes}")
        return found


@asynccontextmanager
async def _etcd(folder: Path) -> AsyncIterator[ControlPlane]:
    plane = ControlPlane(folder)
    async with plane.etcd:
        yield plane


async def _idle_router_mib(folder: Path) -> float:
    async with _etcd(folder) as plane:
        await plane.fill(1, lambda _line: None)
        async with plane.audit(), plane.config(), plane.router(1) as router:
            return resident_mib(router)


async def measure(folder: Path, plan: Plan, say: Say) -> Figures:
    """Fill, start, change; everything is stopped in the end."""
    idle_mib = await _idle_router_mib(folder / "one")
    async with _etcd(folder / "all") as plane, AsyncExitStack() as stack:
        await plane.fill(plan.tenants, say)
        await stack.enter_async_context(plane.audit())
        say("starting the config service")
        started = time.perf_counter()
        config = await stack.enter_async_context(plane.config())
        config_seconds = time.perf_counter() - started
        say("starting routers")
        routers = [plane.router(number + 1) for number in range(plan.routers)]
        for router in routers:
            stack.push_async_callback(_killed, router)
        started = time.perf_counter()
        await asyncio.gather(*(router.start() for router in routers))
        router_seconds = time.perf_counter() - started
        found = await plane.change_all_round(plan.changes, say)
        return Figures(
            config_start_seconds=config_seconds,
            router_start_seconds=router_seconds,
            router_idle_mib=idle_mib,
            router_full_mib=max(resident_mib(router) for router in routers),
            config_full_mib=resident_mib(config),
            change_p50_ms=statistics.median(first for first, _ in found),
            change_p99_ms=p99([first for first, _ in found]),
            applied_p50_ms=statistics.median(second for _, second in found),
            applied_p99_ms=p99([second for _, second in found]),
        )


async def _killed(process: ServiceProcess) -> None:
    if process.process is not None:
        await process.kill()


def p99(values: list[float]) -> float:
    """The 99th percentile, by the nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-99 * len(ordered) // 100) - 1)]


def resident_mib(process: ServiceProcess) -> float:
    """Resident memory now."""
    assert process.process is not None
    for line in Path(f"/proc/{process.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the process is gone")
