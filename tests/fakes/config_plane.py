"""The admin modules of the config service over a store in memory: no process, no socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from tenantry.config.v1 import adapter_pb2, pool_pb2, tenant_pb2
from tenantry.config.v1 import config_admin_service_pb2 as pb

from services.common.artifacts import DirectoryArtifactStore
from services.common.audit.writer import AuditEntry, AuditReceipt, AuditUnavailableError
from services.common.tokens import CONFIG_ISSUER, Audience, TokenVerifier
from services.config.admin.bootstrap import issue_first_operator, load_issuer
from services.config.admin.checks import ConfigChecks
from services.config.admin.edits import Edits
from services.config.admin.propagation import PropagationAdmin
from services.config.admin.servicer import admin_servicer
from services.config.discovery.registry import RouterRegistry
from services.config.etcd import keys as etcd_keys
from services.config.intents.transactions import Intents
from services.config.metrics import ConfigMetrics
from services.config.quota.leases import QuotaLeases
from services.config.rules.prompt_lengths import PromptLengths
from services.config.state.config_state import ConfigStateBuilder
from services.config.state.current_state import CurrentState
from services.config.state.operators import OperatorCheck
from services.config.state.sealing import TenantKeys
from tests.fakes.manual_clock import ManualClock
from tests.fakes.memory_config_store import MemoryConfigStore
from tests.fakes.peft_files import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, MLP
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json


class Call:
    """What an admin method needs of a gRPC context."""

    def __init__(self, key: str) -> None:
        self._key = key

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._key}"),)


class ConfigPlane:
    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.store = MemoryConfigStore()
        self.keys = TenantKeys(b"r" * 32)
        self.current = CurrentState(ConfigStateBuilder(self.keys), self.clock)
        self.entries: list[AuditEntry] = []
        self.audit_down = False
        self.metrics = ConfigMetrics(self.current)
        self.intents = Intents(self.store, self, self.keys.intent_key, self.clock, self.metrics)
        for follower in (self.current, self.intents.watch_check):
            self.store.follow(etcd_keys.LIVE, follower)
        self.artifacts = DirectoryArtifactStore(folder / "artifacts")
        issuer = load_issuer(folder / "state")
        verifier = TokenVerifier(folder / "state" / "jwks.json", CONFIG_ISSUER, Audience.OPERATOR, self.clock)
        check = OperatorCheck(verifier, lambda: self.current.state)
        self.edits = Edits(
            self.intents,
            self.store,
            self.current,
            check,
            self.clock,
            ConfigChecks(PromptLengths(self.artifacts)),
        )
        self.routers = RouterRegistry(self.clock, expiry_seconds=60.0)
        self.recalled = asyncio.Event()
        self.recalled.set()
        propagation = PropagationAdmin(self.edits, self.routers, self.recalled)
        leases = QuotaLeases(self.store, self.current, self.clock)
        self.admin: Any = admin_servicer(self.edits, self.keys, issuer, self.artifacts, propagation, leases)
        first = issue_first_operator(folder / "state", issuer, self.clock)
        key_id = first.key.name.rsplit("/", 1)[1]
        self.store.put({etcd_keys.credential_key(key_id): first.SerializeToString()})
        self.operator = Call((folder / "state" / "operator.key").read_text().strip())

    def append_soon(self, entry: AuditEntry) -> bool:
        self.entries.append(entry)
        return True

    async def append(self, entry: AuditEntry, timeout_seconds: float) -> AuditReceipt:
        if self.audit_down:
            raise AuditUnavailableError("the audit service did not answer in time")
        self.entries.append(entry)
        return AuditReceipt(entry.tenant_uid, len(self.entries), b"")

    async def call(self, method: str, request: Any, caller: Call | None = None) -> Any:
        return await getattr(self.admin, method)(request, caller or self.operator)

    async def new_model(self, model_id: str = "m") -> None:
        model = pool_pb2.BaseModel(
            weights_sha256="a" * 64,
            tokenizer_sha256=self.artifacts.put(tiny_tokeniser_json()),
            chat_template_sha256=self.artifacts.put(CHAT_TEMPLATE.encode()),
            context_tokens=2048,
            end_token_id=2,
            pad_token_id=2,
            architecture=pool_pb2.Architecture(
                layers=LAYERS,
                hidden=HIDDEN,
                heads=HEADS,
                kv_heads=KV_HEADS,
                head_dim=HEAD_DIM,
                mlp=MLP,
                vocabulary=400,
            ),
        )
        await self.call(
            "CreateBaseModel", pb.CreateBaseModelRequest(base_model_id=model_id, base_model=model)
        )

    async def new_pool(self, pool_id: str = "p", **changes: Any) -> pool_pb2.Pool:
        pool = pool_pb2.Pool(
            base_model="models/m",
            dialect=adapter_pb2.DIALECT_TRTLLM_ENGINE,
            server_model="tensorrt_llm",
            endpoints=[pool_pb2.Endpoint(target=f"{pool_id}.internal:8001")],
            capacity=pool_pb2.Capacity(
                concurrent_requests=4, adapters=4, adapter_rank=8, kv_tokens=1000, queued_requests=9
            ),
            engine_sha256="b" * 64,
            adapter_dtype="float16",
            adapter_config_columns=3,
        )
        pool.MergeFrom(pool_pb2.Pool(**changes))
        created: pool_pb2.Pool = await self.call(
            "CreatePool", pb.CreatePoolRequest(pool_id=pool_id, pool=pool)
        )
        return created

    async def new_tenant(self, tenant_id: str, **config: Any) -> tenant_pb2.Tenant:
        alias = tenant_pb2.ModelAlias(alias="default", base_model="models/m")
        tenant = tenant_pb2.Tenant(config=tenant_pb2.TenantConfig(models=[alias], **config))
        request = pb.CreateTenantRequest(tenant_id=tenant_id, tenant=tenant)
        created: tenant_pb2.Tenant = await self.call("CreateTenant", request)
        return created

    async def register(
        self, tenant_id: str, files: Iterable[tuple[str, bytes]], adapter_id: str = "sea", **header: Any
    ) -> adapter_pb2.Adapter:
        named = {"base_model": "models/m", **header}
        head = pb.AdapterHeader(parent=f"tenants/{tenant_id}", adapter_id=adapter_id, **named)
        made: adapter_pb2.Adapter = await self.admin.RegisterAdapter(_pieces(head, files), self.operator)
        return made


async def _pieces(
    head: pb.AdapterHeader, files: Iterable[tuple[str, bytes]]
) -> AsyncIterator[pb.RegisterAdapterRequest]:
    yield pb.RegisterAdapterRequest(header=head)
    for name, data in files:
        yield pb.RegisterAdapterRequest(chunk=pb.FileChunk(file=name, data=data))
