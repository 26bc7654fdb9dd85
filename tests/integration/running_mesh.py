"""The whole mesh as tests see it: started by the code behind `tenantry up`, reached as callers reach it."""

from __future__ import annotations

import asyncio
import itertools
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from tenantry.config.v1 import config_admin_service_pb2 as admin_pb
from tenantry.config.v1 import tenant_pb2
from typer.testing import CliRunner, Result

from services.cli.clients.admin import AdminClient
from services.cli.clients.listener import Listener
from services.cli.demo.catalog import MODEL
from services.cli.demo.demonstration import ask
from services.cli.demo.provisioning import ALIAS, DEMO_TENANTS, provision
from services.cli.main import app
from services.cli.mesh import read_secret
from services.cli.review.grants import issue_grant
from services.common.durable_files import replace_file
from services.local.layout import StateLayout
from services.local.mesh import LocalMesh
from tests.integration.mesh_access import Access, bearer

ADAPTERS = {tenant.tenant_id: tenant.adapter for tenant in DEMO_TENANTS}
READY_SECONDS = 60.0


@dataclass(frozen=True)
class NewTenant:
    """A tenant made for one test."""

    name: str
    tenant_id: str
    tenant_uid: str
    key: str
    key_name: str


class RunningMesh:
    """A provisioned mesh with three tenants: bare, pirate, butler."""

    def __init__(self, local: LocalMesh, access: Access, keys: Mapping[str, Path]) -> None:
        self.local = local
        self.layout: StateLayout = local.layout
        self.access = access
        self.tenants = [tenant.tenant_id for tenant in DEMO_TENANTS]
        self.operator_key = read_secret(local.layout.operator_key_path, "operator's key")
        self._keys = {tenant: read_secret(path, "key") for tenant, path in keys.items()}
        self._uids: dict[str, str] = {}
        self._grants: dict[str, str] = {}
        self._numbers = itertools.count(1)

    async def settle(self) -> None:
        """Wait until every tenant answers; remember what tests look up without waiting."""
        endpoints = self.local.endpoints({})
        listener = Listener(endpoints.tenant_address, endpoints.ca_path)
        for tenant in self.tenants:
            await ask(listener, self._keys[tenant], tenant)
            read = await self.admin("GetTenant", admin_pb.GetTenantRequest(name=f"tenants/{tenant}"))
            self._uids[tenant] = read.tenant_uid
            self._grants[tenant] = await self._grant(read.tenant_uid)
        self._grants["operators"] = await self._grant("operators")

    async def _grant(self, tenant_uid: str) -> str:
        return await issue_grant(self.layout.audit_dir, tenant_uid, ttl_seconds=600)

    def key(self, tenant: str) -> str:
        return self._keys[tenant]

    def tenant_uid(self, tenant: str) -> str:
        return self._uids[tenant]

    def grant(self, tenant: str) -> str:
        return self._grants[tenant]

    def adapter_of(self, tenant: str) -> str:
        assert ADAPTERS[tenant]
        return ADAPTERS[tenant]

    async def admin(self, method: str, request: Any, timeout_seconds: float = 10.0) -> Any:
        call = getattr(self.access.admin, method)
        return await call(request, metadata=bearer(self.operator_key), timeout=timeout_seconds)

    async def new_tenant(self, default_timeout_seconds: int = 0, **config: Any) -> NewTenant:
        """A tenant of the bare base model, with a key that works by now."""
        tenant_id = f"tenant-{next(self._numbers)}"
        wanted = tenant_pb2.TenantConfig(
            models=[tenant_pb2.ModelAlias(alias=ALIAS, base_model=f"models/{MODEL}")], **config
        )
        if default_timeout_seconds:
            wanted.deadlines.default_timeout.FromSeconds(default_timeout_seconds)
        made = await self.admin(
            "CreateTenant",
            admin_pb.CreateTenantRequest(
                tenant_id=tenant_id, tenant=tenant_pb2.Tenant(config=wanted, display_name=tenant_id)
            ),
        )
        created = await self.admin("CreateKey", admin_pb.CreateKeyRequest(parent=made.name))
        self._uids[tenant_id] = made.tenant_uid
        self._grants[tenant_id] = await self._grant(made.tenant_uid)
        await self._in_force(created.secret)
        return NewTenant(made.name, tenant_id, made.tenant_uid, created.secret, created.key.name)

    async def _in_force(self, key: str) -> None:
        endpoints = self.local.endpoints({})
        listener = Listener(endpoints.tenant_address, endpoints.ca_path)
        await ask(listener, key, "new")

    async def in_force(self, revision: int) -> None:
        """Wait until every router has a revision."""
        answer = await self.admin("WaitForPropagation", admin_pb.WaitForPropagationRequest(revision=revision))
        assert answer.complete, answer

    async def metric(self, process: str, name: str, **labels: str) -> float:
        """The sum of a process's samples of a name that carry these labels."""
        endpoints = self.local.endpoints({})
        assert endpoints.metrics_token_path is not None
        token = endpoints.metrics_token_path.read_text()
        return await scraped(f"http://{endpoints.metrics[process]}/metrics", name, token, **labels)

    async def triton_metric(self, name: str, **labels: str) -> float:
        """The same of tritonserver."""
        return await scraped(f"http://127.0.0.1:{self.local.ports.triton_metrics}/metrics", name, **labels)

    async def until(self, measure: Callable[[], Awaitable[Any]], wanted: Any) -> None:
        """Wait until a measurement is what is wanted."""
        async with asyncio.timeout(READY_SECONDS):
            while await measure() != wanted:  # noqa: ASYNC110 another process's state has no event
                await asyncio.sleep(0.1)

    @asynccontextmanager
    async def down(self, process: str) -> AsyncIterator[None]:
        """A process killed with -9; it answers its probe again at the end."""
        await self.local.kill(process)
        try:
            yield
        finally:
            await self.local.start(process)

    async def export(self, tenant: str, folder: Path, *, grant_of: str | None = None) -> Result:
        """`tenantry audit export` into `folder/bundle`, with a grant for this tenant or for another."""
        grant = folder / "grant"
        replace_file(grant, self.grant(grant_of or tenant).encode())
        arguments = [
            "audit", "export", tenant, "--out", folder / "bundle",
            "--grant-file", grant, "--state-dir", self.layout.state_dir, "--json",
        ]  # fmt: skip
        return await asyncio.to_thread(CliRunner().invoke, app, [str(argument) for argument in arguments])


def read_page(url: str, token: str) -> str:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})
    with direct.open(request, timeout=5) as answer:
        return str(answer.read().decode("utf-8"))


async def scraped(url: str, name: str, token: str = "", **labels: str) -> float:
    text = await asyncio.to_thread(read_page, url, token)
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@asynccontextmanager
async def running(local: LocalMesh) -> AsyncIterator[RunningMesh]:
    """Start, provision and wait until all three tenants answer."""
    async with local:
        endpoints = local.endpoints({})
        operator_key = read_secret(endpoints.operator_key_path, "operator's key")
        listener = Listener(endpoints.operations_address, endpoints.ca_path)
        assert local.model is not None
        async with AdminClient.connect(listener, operator_key) as admin:
            provisioned = await provision(admin, local.model, local.triton_target, local.layout)
        assert not provisioned.refused
        await local.wait_ready("triton")
        assert endpoints.ca_path is not None
        async with Access(
            endpoints.tenant_address, endpoints.operations_address, endpoints.ca_path
        ) as access:
            mesh = RunningMesh(local, access, provisioned.keys)
            await mesh.settle()
            yield mesh
