"""Three real routers of one mesh over a scripted Triton in the test's own process, which counts what runs at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import grpc
from tenantry.config.v1 import adapter_pb2, pool_pb2, tenant_pb2
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.inference.v1 import inference_service_pb2 as inference_pb
from tenantry.inference.v1 import inference_service_pb2_grpc as inference_rpc

from services.common.rpc.channel import open_channel
from tests.fakes.config_service import ConfigServicePlane
from tests.fakes.patience import PATIENCE_SECONDS
from tests.fakes.scripted_triton.script import Script
from tests.fakes.scripted_triton.server import ScriptedTriton
from tests.fakes.service_process import ServiceProcess
from tests.integration.mesh_access import Failure, bearer, question

NAMES = ("r1", "r2", "r3")
TIMEOUT_SECONDS = 10.0
_PLENTY = 1_000_000
_SCRIPT = Script(tokens=4, first_token=3, vocabulary_tokens=97, token_delay_seconds=0.01)


class FlowFleet:
    """`async with FlowFleet(folder, places=4) as fleet`; callers are started with `call_on`."""

    def __init__(self, folder: Path, *, places: int, script: Script = _SCRIPT) -> None:
        self._folder = folder
        self._places = places
        self.plane = ConfigServicePlane(folder)
        self.triton = ScriptedTriton(script, listen=f"unix:{folder}/t.sock")
        self.routers = {name: self._router(name) for name in NAMES}
        self.outcomes: Counter[str] = Counter()
        self.answered_at: dict[str, float] = dict.fromkeys(NAMES, 0.0)
        """When a router answered last."""
        self.overdue = 0
        """Requests that ended later than their deadline allows."""
        self._callers: set[asyncio.Task[None]] = set()

    def _router(self, name: str) -> ServiceProcess:
        folder = self._folder
        settings = {
            "ROUTER": name,
            "LISTEN": f"unix:{folder}/{name}.sock",
            "FLOW_LISTEN": f"unix:{folder}/{name}-f.sock",
            "CONFIG_TARGET": f"unix:{folder}/d.sock",
            "AUDIT_TARGET": f"unix:{folder}/u.sock",
            "ARTIFACT_DIR": str(folder / "artifacts"),
            "JWKS_PATH": str(folder / "state" / "jwks.json"),
            "STATE_DIR": str(folder / f"state-{name}"),
        }
        return ServiceProcess(
            "services.router",
            {f"TENANTRY_ROUTER_{setting}": value for setting, value in settings.items()},
            f"unix:{folder}/{name}.sock",
            folder / f"{name}.log",
        )

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.plane)
            await stack.enter_async_context(self.triton)
            await self.plane.with_base_model()
            pool = pool_pb2.Pool(
                base_model="models/m",
                dialect=adapter_pb2.DIALECT_TRTLLM_ENGINE,
                server_model="tensorrt_llm",
                endpoints=[pool_pb2.Endpoint(target=self.triton.target)],
                capacity=pool_pb2.Capacity(
                    concurrent_requests=self._places,
                    adapters=4,
                    adapter_rank=8,
                    kv_tokens=_PLENTY,
                    queued_requests=256,
                ),
                engine_sha256="e" * 64,
                adapter_dtype="float16",
                adapter_config_columns=4,
            )
            await self.plane.call("CreatePool", admin_pb.CreatePoolRequest(pool_id="served", pool=pool))
            for router in self.routers.values():
                stack.push_async_callback(router.kill)
                await router.start(wait_ready=False)
            for router in self.routers.values():
                await router.ready()
            stack.push_async_callback(self.stop_callers)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def new_tenant(
        self, tenant_id: str, config: tenant_pb2.TenantConfig | None = None, **limits: Any
    ) -> str:
        """A tenant of the served pool, with what else its config says; returns its key."""
        defaults = {"requests_per_second": _PLENTY, "request_burst": _PLENTY, "concurrent_requests": 1000}
        alias = tenant_pb2.ModelAlias(alias="chat", base_model="models/m")
        config = config or tenant_pb2.TenantConfig()
        config.models.append(alias)
        config.audit_policy = tenant_pb2.AUDIT_POLICY_BATCH
        config.limits.MergeFrom(tenant_pb2.Limits(**(defaults | limits)))
        request = admin_pb.CreateTenantRequest(tenant_id=tenant_id, tenant=tenant_pb2.Tenant(config=config))
        tenant = await self.plane.call("CreateTenant", request)
        key = await self.plane.call("CreateKey", admin_pb.CreateKeyRequest(parent=tenant.name))
        await self.plane.call("WaitForPropagation", admin_pb.WaitForPropagationRequest(revision=0), None, 20)
        return str(key.secret)

    @property
    def controller(self) -> str:
        """The flow controller that most routers keep on disk."""
        named = []
        for name in NAMES:
            try:
                kept = json.loads((self._folder / f"state-{name}" / "flow.json").read_bytes())
            except (OSError, ValueError):
                continue
            named.append((kept["epoch"], kept["controller"]))
        return str(max(named)[1])

    def target(self, router: str) -> str:
        """Where a router listens."""
        return f"unix:{self._folder}/{router}.sock"

    def pid(self, router: str) -> int:
        """The process of a router."""
        process = self.routers[router].process
        assert process is not None
        return int(process.pid)

    def call_on(self, router: str, key: str, callers: int) -> None:
        """Let callers ask one router, one request after another."""
        for _ in range(callers):
            self._callers.add(asyncio.create_task(self._call(router, key)))

    async def ask(self, router: str, key: str, request: inference_pb.GenerateRequest) -> Any:
        """Ask one router once.

        Raises:
            AioRpcError: it refuses.
        """
        async with open_channel(self.target(router)) as channel:
            stub = inference_rpc.InferenceServiceStub(channel)
            return await stub.Generate(request, metadata=bearer(key), timeout=TIMEOUT_SECONDS)

    async def stop_callers(self) -> None:
        for caller in self._callers:
            caller.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)
        self._callers.clear()

    async def _call(self, router: str, key: str) -> None:
        request = question("hi")
        async with open_channel(f"unix:{self._folder}/{router}.sock") as channel:
            stub = inference_rpc.InferenceServiceStub(channel)
            while True:
                began = time.monotonic()
                try:
                    await stub.Generate(request, metadata=bearer(key), timeout=TIMEOUT_SECONDS)
                except grpc.aio.AioRpcError as error:
                    failure = Failure.of(error)
                    self.outcomes[failure.reason or f"{router} is gone: {failure.code.name}"] += 1
                    await asyncio.sleep(0.02)
                else:
                    self.outcomes["ok"] += 1
                    self.answered_at[router] = time.monotonic()
                self.overdue += time.monotonic() - began > TIMEOUT_SECONDS + 2.0

    async def answers_of(self, routers: set[str], since: float) -> float:
        """Wait until each of the routers has answered since a moment; returns how long the last one took."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while any(self.answered_at[name] <= since for name in routers):
                for caller in self._callers:
                    if caller.done():
                        caller.result()
                await asyncio.sleep(0.01)
        return max(self.answered_at[name] for name in routers) - since
