"""Routers of one mesh without processes: every message, death and second is the test's to give.

The flow control is the product's own; the model server, the network and the config service's stream are simulated.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from services.common.errors import Error
from services.config.discovery.flow_naming import FlowAssignment, FlowNaming
from services.router.flow.controller import FENCE_SECONDS, FlowController, Member
from services.router.flow.events import Witness, WitnessAck
from services.router.flow.mirror import Keeper, Mirror
from services.router.flow.requests import Requests
from services.router.limits.limited import Limited, UsageLimits, tenant_of
from services.router.limits.tenant_limiter import TenantLimiter
from services.router.pool.demand import Cost, Demand
from services.router.pool.directory import PoolDirectory
from services.router.pool.pool_kind import PoolKind
from services.router.pool.probing import Served
from services.router.snapshot.model import PoolConfig
from tests.fakes.manual_clock import ManualClock

TARGET = "server"
_TICK_SECONDS = 0.5
POOL = PoolConfig(
    name="pools/p",
    base_model="models/m",
    dialect="TRTLLM_ENGINE",
    server_model="tensorrt_llm",
    targets=(TARGET,),
    concurrent_requests=4,
    adapters=2,
    kv_tokens=400,
    queued_requests=64,
    engine_sha256="e" * 64,
    adapter_dtype="float16",
    adapter_config_columns=4,
    dedicated_to_uid=None,
    kv_block_tokens=1,
)
LIMITS = UsageLimits(requests_per_second=2.0, request_burst=6, concurrent_requests=3, tokens_per_minute=300)
KEY_LIMITS = UsageLimits(
    requests_per_second=1.0, request_burst=2, concurrent_requests=2, tokens_per_minute=140
)


def limited(caller: str) -> tuple[Limited, ...]:
    """What limits a caller: a tenant, or `tenant/key` for one of its keys."""
    tenant, _, key = caller.partition("/")
    own = Limited(tenant, f"tenants/{tenant}", LIMITS)
    return (own, Limited(caller, f"tenants/{tenant}/keys/{key}", KEY_LIMITS)) if key else (own,)


@dataclass
class Server:
    """The model server, and the truth about what reaches it."""

    clock: ManualClock
    running: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)
    """By process and request: the caller, and the KV cache it can fill."""
    spent: list[tuple[float, str, int]] = field(default_factory=list)
    asked: dict[str, float] = field(default_factory=dict)
    """When each tenant and key asked first."""
    dispatched: list[tuple[float, str]] = field(default_factory=list)
    faults: set[str] = field(default_factory=set)

    def start(self, process: str, number: int, caller: str, cost: Cost) -> None:
        self.running[process, number] = caller, cost.tokens
        self.dispatched.append((self.clock.monotonic_seconds(), caller))
        if len(self.running) > POOL.concurrent_requests:
            self.faults.add("places")
        if sum(kv for _, kv in self.running.values()) > POOL.kv_tokens and len(self.running) > 1:
            self.faults.add("kv")
        for one in limited(caller):
            limits, of = one.limits, f"{one.group} "
            # A rate counts arrivals, which may wait long before they are dispatched.
            passed = self.clock.monotonic_seconds() - self.asked[one.subject]
            if sum(_counts(each, one) for each, _ in self.running.values()) > (
                limits.concurrent_requests or 0
            ):
                self.faults.add(of + "concurrency")
            allowed = limits.request_burst + 1 + (limits.requests_per_second or 0) * passed
            if sum(_counts(each, one) for _, each in self.dispatched) > allowed + 1e-6:
                self.faults.add(of + "rate")

    def spend(self, caller: str, tokens: int) -> None:
        now = self.clock.monotonic_seconds()
        self.spent.append((now, caller, tokens))
        for one in limited(caller):
            recent = sum(n for at, each, n in self.spent if _counts(each, one) and at > now - 60.0)
            if recent > (one.limits.tokens_per_minute or 0):
                self.faults.add(f"{one.group} tokens a minute")

    def end(self, process: str, number: int) -> None:
        self.running.pop((process, number), None)

    def died(self, process: str) -> None:
        for key in [key for key in self.running if key[0] == process]:
            del self.running[key]


def _counts(caller: str, limited_by: Limited) -> bool:
    """Whether what a caller uses counts against these limits."""
    return limited_by.subject in {caller, tenant_of(caller)}


class Connection:
    """One router's stream to a controller in another process: messages wait until the test delivers them."""

    def __init__(self, router: Router, controller: Router) -> None:
        self.router, self.controller = router, controller
        self.up: deque[Any] = deque()
        self.down: deque[Any] = deque()
        self.member: Member | None = None
        self.keeper: Keeper | None = None
        self.broken = False
        report = router.requests.report()
        router.requests.link(self)
        self.up.append(report)

    def send(self, event: Any) -> None:
        if not self.broken:
            self.up.append(event)

    def deliver_up(self) -> None:
        event, controller = self.up.popleft(), self.controller.controller
        if self.member is None:
            named = self.router.assignment
            if named is None or controller.epoch != named.epoch:
                self.break_off()
                return
            self.down.append("taken")
            self.keeper = self.controller.mirror.add(self.down.append)
            self.member = controller.report(event, self.down.append, lambda: self.down.append("serving"))
        elif isinstance(event, WitnessAck) and self.keeper is not None:
            self.controller.mirror.kept(self.keeper, event.sequence)
        else:
            controller.receive(self.member, event)

    def deliver_down(self) -> None:
        event, requests = self.down.popleft(), self.router.requests
        if event == "taken":
            requests.taken()
        elif event == "serving":
            requests.open()
        elif isinstance(event, Witness):
            requests.witness(self.controller.instance, event.usage)
            self.send(WitnessAck(event.sequence))
        else:
            requests.receive(event)

    def break_off(self) -> None:
        """End the stream: both sides notice, if they live."""
        if self.broken:
            return
        self.broken = True
        if self.controller.alive:
            if self.keeper is not None:
                self.controller.mirror.remove(self.keeper)
            if self.member is not None:
                self.controller.controller.lost(self.member)
        if self.router.alive:
            self.router.requests.unlink(self)
            self.router.connection = None


class _Here:
    """The way to a controller in the same process."""

    def __init__(self, controller: FlowController) -> None:
        self.controller = controller
        self.member: Member | None = None

    def send(self, event: Any) -> None:
        if self.member is not None:
            self.controller.receive(self.member, event)


class Router:
    """One router process."""

    def __init__(self, mesh: FlowMesh, name: str) -> None:
        self.mesh, self.name = mesh, name
        self.instance = f"{name}/{mesh.processes}"
        mesh.processes += 1
        clock = mesh.clock
        self.own = TenantLimiter()
        self.pools = PoolDirectory(SimpleNamespace(ready=None), clock)
        config: Any = SimpleNamespace(pools={POOL.name: POOL})
        self.pools.configure(config)
        self.pools.probed(Served(TARGET, POOL.server_model), ready=True)
        self.requests = Requests(name, self.instance, self.own, self.pools.serves, clock)
        self.controller = FlowController(self.pools, clock)
        self.mirror = Mirror(self.own, self.controller.rate_level, clock)
        self.controller.inherit = self.mirror.inherit
        self.controller.spawn = asyncio.get_running_loop().create_task
        self.assignment: FlowAssignment | None = None
        self.connection: Connection | None = None
        self.alive = True
        self.tasks: set[asyncio.Task[None]] = set()

    def follow(self, assignment: FlowAssignment) -> None:
        known, self.assignment = self.assignment, assignment
        if known is not None and (known.epoch, known.controller) == (assignment.epoch, assignment.controller):
            if assignment.controller == self.name:
                self.controller.expect_only(assignment.routers)
            return
        if self.connection is not None:
            self.connection.break_off()
        if known is not None and known.controller == self.name:
            self.requests.stop_asking()
            self.requests.before_join = lambda _: None
            self.controller.end()
        if assignment.controller == self.name:
            link = _Here(self.controller)
            self.controller.begin(assignment.epoch, assignment.routers)
            report = self.requests.report()
            self.requests.link(link)
            self.requests.before_join = self.mirror.before_join
            self.requests.taken()
            link.member = self.controller.report(report, self.requests.receive, self.requests.open)

    def connect(self) -> None:
        """Open the stream to the controller, if it lives elsewhere."""
        named = self.assignment
        if named is None or named.controller == self.name or self.connection is not None:
            return
        if self.name in self.mesh.cut_off:
            return
        controller = self.mesh.routers.get(named.controller)
        if controller is not None and controller.alive:
            self.connection = Connection(self, controller)
            self.mesh.connections.append(self.connection)

    def ask(self, caller: str, cost: Cost) -> None:
        """Serve a request of a tenant, or of `tenant/key`."""
        for one in limited(caller):
            self.mesh.server.asked.setdefault(one.subject, self.mesh.clock.monotonic_seconds())
        task = asyncio.get_running_loop().create_task(self._serve(caller, cost))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(self, caller: str, cost: Cost) -> None:
        clock, server = self.mesh.clock, self.mesh.server
        by = limited(caller)
        try:
            with self.requests.entered(by) as request:
                hold = self.own.reserve_tokens(by, cost.tokens, clock.monotonic_seconds())
                assert hold is not None
                try:
                    demand = Demand(tenant_of(caller), cost, None)
                    number = request.enter.number
                    async with await request.acquire(PoolKind.of(POOL), demand, self.mesh.first) as grant:
                        if self.alive:
                            server.start(self.instance, number, caller, cost)
                        try:
                            for given in range(self.mesh.random.randint(0, cost.max_output_tokens)):
                                await self.mesh.step_of_the_server()
                                if not self.alive:
                                    return
                                # A prompt whose server failed before the first token is not charged.
                                tokens = 1 if given else cost.input_tokens + 1
                                server.spend(caller, tokens)
                                grant.charge(1)
                                hold.spend(tokens, clock.monotonic_seconds())
                        finally:
                            server.end(self.instance, number)
                finally:
                    hold.release()
        except Error as error:
            self.mesh.refused.append(error)
        else:
            self.mesh.answered += 1


class FlowMesh:
    """Three routers, a config service that names their controller, and one model server."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.clock = ManualClock()
        self.server = Server(self.clock)
        self.naming = FlowNaming(self.clock)
        self.processes = 0
        self.routers: dict[str, Router] = {}
        self.connections: list[Connection] = []
        self.cut_off: set[str] = set()
        self.controllers_killed = self.others_killed = 0
        self.answered = 0
        self.refused: list[Error] = []
        self._steps: list[asyncio.Future[None]] = []

    async def first(self) -> None:
        """What a request waits for before it joins: an audit entry."""
        await asyncio.sleep(0)

    async def step_of_the_server(self) -> None:
        step = asyncio.get_running_loop().create_future()
        self._steps.append(step)
        await step

    def start(self, name: str) -> Router:
        router = self.routers[name] = Router(self, name)
        self.naming.joined(name, f"unix:/{name}", 0, "")
        self.naming.serves(name)
        return router

    async def kill(self, name: str) -> None:
        """Kill -9: its streams break, and the model server ends its work."""
        router = self.routers[name]
        router.alive = False
        if router.controller.serving:
            self.controllers_killed += 1
        else:
            self.others_killed += 1
        self.server.died(router.instance)
        self.naming.lost(name)
        for task in list(router.tasks):
            task.cancel()
        await asyncio.gather(*router.tasks, return_exceptions=True)
        for connection in self.connections:
            if router in (connection.router, connection.controller):
                connection.break_off()
        self.connections = [one for one in self.connections if not one.broken]

    async def settle(self) -> None:
        for _ in range(6):
            await asyncio.sleep(0)

    async def tell(self) -> None:
        """The config service names the controller to all who live."""
        named = self.naming.assignment()
        for router in self.routers.values():
            if router.alive and named is not None and named != router.assignment:
                router.follow(named)
        await self.settle()

    async def tick(self, seconds: float) -> None:
        """Time passes, in steps as fine as a router's own."""
        while seconds > 0:
            step = min(seconds, _TICK_SECONDS)
            seconds -= step
            self.clock.advance(step)
            alive = [router for router in self.routers.values() if router.alive]
            for router in alive:
                since = router.requests.unreached_since
                if since is not None and self.clock.monotonic_seconds() >= since + FENCE_SECONDS:
                    router.requests.fence()
            await self.settle()
            for router in alive:
                router.controller.tick()
            await self.settle()

    async def serve(self) -> None:
        """The model server does one step of all it runs."""
        steps, self._steps = self._steps, []
        for step in steps:
            if not step.done():
                step.set_result(None)
        await self.settle()

    async def deliver(self, connection: Connection, *, up: bool) -> None:
        if connection.broken:
            return
        if up and connection.up:
            connection.deliver_up()
        elif not up and connection.down:
            connection.deliver_down()
        await self.settle()

    async def calm(self) -> None:
        """Everything that is under way arrives."""
        for _ in range(2000):
            await self.tell()
            for router in self.routers.values():
                if router.alive:
                    router.connect()
            self.connections = [one for one in self.connections if not one.broken]
            busy = [one for one in self.connections if one.up or one.down]
            if not busy and not self._steps:
                return
            for connection in busy:
                await self.deliver(connection, up=bool(connection.up))
                await self.deliver(connection, up=False)
            await self.serve()
        raise AssertionError("the mesh does not come to rest")

    async def close(self) -> None:
        for router in self.routers.values():
            for task in list(router.tasks):
                task.cancel()
            await asyncio.gather(*router.tasks, return_exceptions=True)
