"""A mesh whose last known good files are used: stopped, started without etcd, and asked while it is."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import tenant_pb2
from tenantry.inference.v1 import inference_service_pb2_grpc as inference_rpc

from services.common.rpc.channel import open_channel
from tests.fakes.served_mesh import ServedMesh
from tests.integration.mesh_access import bearer, question

CANARY_PROMPT = "quokka-canary-prompt-0457"
COLD_START_SECONDS = 3.0
CONVERGED_SECONDS = 3.0


async def until(true: Callable[[], Any], within_seconds: float = 60.0) -> None:
    async with asyncio.timeout(within_seconds):
        while True:
            found = true()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.02)


class KeptMesh(ServedMesh):
    """Asked at the routers' own sockets, with a tenant of either policy."""

    async def prepare(self) -> None:
        self._channels = [
            open_channel(f"unix:{self._folder}/r{number + 1}.sock") for number in range(len(self.routers))
        ]
        self._inference = [inference_rpc.InferenceServiceStub(channel) for channel in self._channels]
        await self.new_pool("p")
        self.tenant, self.key = await self.new_tenant("acme", system_prompt=CANARY_PROMPT)
        _, self.strict_key = await self.new_tenant(
            "strict", staleness_policy=tenant_pb2.STALENESS_POLICY_REFUSE
        )
        waited = await self.plane.call("WaitForPropagation", admin_pb.WaitForPropagationRequest())
        self.revision = waited.revision
        await self.answered(stale=False, within_seconds=20)

    async def close(self) -> None:
        """The connections to the routers."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def ask(self, key: str, router: int = 0):
        return await self._inference[router].Generate(question("hello"), metadata=bearer(key), timeout=5)

    async def answered(self, *, stale: bool, within_seconds: float) -> float:
        """Seconds until every router answers the tenant's requests with or without the flag."""
        begun = time.monotonic()

        async def is_answered(router: int) -> bool:
            with contextlib.suppress(grpc.RpcError):
                return (await self.ask(self.key, router)).provenance.stale is stale
            return False

        for router in range(len(self.routers)):
            await until(functools.partial(is_answered, router), within_seconds)
        return time.monotonic() - begun

    async def cold_start(self, *processes) -> float:
        """Start processes from their files; seconds until every router answers, flagged.

        The best of three: neighbours can slow a start, and cannot speed one up.
        """
        for attempt in range(3):
            if attempt:
                await asyncio.gather(*(process.kill() for process in processes))
            await asyncio.gather(*(process.start(wait_ready=False) for process in processes))
            seconds = await self.answered(stale=True, within_seconds=20)
            if seconds <= COLD_START_SECONDS:
                break
        return seconds

    def state_dirs(self) -> list[Path]:
        names = ["state", *(f"state-r{number + 1}" for number in range(len(self.routers)))]
        return [self._folder / name for name in names]

    async def on_disk(self, revision: int) -> None:
        """Wait until both files hold a revision; their headers are readable."""
        files = [folder / "known-good.1" for folder in self.state_dirs()]
        await until(lambda: min(map(revision_of, files)) >= revision)

    async def read(self):
        return await self.plane.call("GetTenant", admin_pb.GetTenantRequest(name="tenants/acme"))


def revision_of(path: Path) -> int:
    if not path.exists():
        return 0
    data = path.read_bytes()
    header = json.loads(data[28 : 28 + int.from_bytes(data[24:28], "big")])
    return int(header["revision"])


@asynccontextmanager
async def kept_mesh(routers: int) -> AsyncIterator[KeptMesh]:
    """One that runs, its config in force at every router."""
    # pytest's own directories are often too deep for a socket.
    folder = Path(tempfile.mkdtemp(prefix="lkg-"))
    try:
        async with KeptMesh(folder, routers=routers) as running:
            await running.prepare()
            yield running
            await running.close()
    finally:
        shutil.rmtree(folder)
