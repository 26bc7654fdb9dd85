"""Config resources as a router gets them, and a config service that sends what a test tells it to."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from tenantry.config.v1 import adapter_pb2, credential_pb2, pool_pb2, tenant_pb2
from tenantry.config.v1 import config_discovery_service_pb2 as pb
from tenantry.config.v1 import config_discovery_service_pb2_grpc as rpc

from services.common.artifacts import ArtifactStore
from services.common.sealed_artifact import artifact_associated_data, seal

ENGINE_SHA256 = "e" * 64
BASE_MODEL = "models/tiny"
POOL = "pools/main"
FAR_FUTURE_SECONDS = 4_000_000_000


def tiny_rendition(fill: int, rows: int = 2, width: int = 4, columns: int = 4) -> bytes:
    """A well-formed rendition: safetensors with fp16 weights and an int32 config."""
    weights = bytes([fill, 0x3C]) * (rows * width)
    config = struct.pack(f"<{rows * columns}i", *range(rows * columns))
    header = json.dumps(
        {
            "lora_weights": {"dtype": "F16", "shape": [rows, width], "data_offsets": [0, len(weights)]},
            "lora_config": {
                "dtype": "I32",
                "shape": [rows, columns],
                "data_offsets": [len(weights), len(weights) + len(config)],
            },
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header + weights + config


@dataclass
class ConfigWorld:
    """Resources under construction, by key."""

    artifacts: ArtifactStore
    tokeniser_sha256: str
    template_sha256: str
    resources: dict[str, pb.Resource] = field(default_factory=dict)
    ordinals: dict[str, int] = field(default_factory=dict)

    def _put(self, key: str, **kind: Any) -> None:
        self.resources[key] = pb.Resource(key=key, mod_revision=1, **kind)

    def base_model(self, name: str = BASE_MODEL, context_tokens: int = 2048, end_token_id: int = 2) -> None:
        model = pool_pb2.BaseModel(
            name=name,
            weights_sha256="b" * 64,
            tokenizer_sha256=self.tokeniser_sha256,
            chat_template_sha256=self.template_sha256,
            context_tokens=context_tokens,
            end_token_id=end_token_id,
            pad_token_id=2,
        )
        self._put(name, base_model=model)

    def pool(
        self,
        targets: list[str],
        name: str = POOL,
        *,
        base_model: str = BASE_MODEL,
        dedicated_to: str = "",
        server_model: str = "tensorrt_llm",
        **capacity: int,
    ) -> None:
        sizes = {
            "concurrent_requests": 8,
            "adapters": 4,
            "adapter_rank": 16,
            "kv_tokens": 16_384,
            "queued_requests": 64,
        }
        pool = pool_pb2.Pool(
            name=name,
            base_model=base_model,
            dialect=adapter_pb2.DIALECT_TRTLLM_ENGINE,
            server_model=server_model,
            endpoints=[pool_pb2.Endpoint(target=target) for target in targets],
            capacity=pool_pb2.Capacity(**{**sizes, **capacity}),
            dedicated_to=dedicated_to,
            engine_sha256=ENGINE_SHA256,
            adapter_dtype="float16",
            adapter_config_columns=4,
        )
        self._put(name, pool=pool)

    def tenant(
        self,
        name: str,
        ordinal: int,
        models: list[tenant_pb2.ModelAlias] | None = None,
        *,
        version: int = 1,
        suspended: bool = False,
        **config: Any,
    ) -> str:
        tenant_uid = f"uid-{name}"
        self.ordinals[tenant_uid] = ordinal
        aliases = models or [tenant_pb2.ModelAlias(alias="chat", base_model=BASE_MODEL)]
        rules = tenant_pb2.TenantConfig(models=aliases, **config)
        state = tenant_pb2.TENANT_STATE_SUSPENDED if suspended else tenant_pb2.TENANT_STATE_ACTIVE
        tenant = tenant_pb2.Tenant(
            name=f"tenants/{name}",
            tenant_uid=tenant_uid,
            ordinal=ordinal,
            state=state,
            config=rules,
            config_version=version,
            config_sha256=hashlib.sha256(rules.SerializeToString(deterministic=True)).hexdigest(),
        )
        self._put(f"tenants/{tenant_uid}", tenant=tenant)
        return tenant_uid

    def key(
        self, tenant_uid: str, key_id: str, *, revoked: bool = False, expire: int = FAR_FUTURE_SECONDS
    ) -> None:
        state = credential_pb2.KEY_STATE_REVOKED if revoked else credential_pb2.KEY_STATE_ACTIVE
        key = credential_pb2.Key(
            name=f"tenants/x/keys/{key_id}", state=state, expire_time=Timestamp(seconds=expire)
        )
        credential = pb.CredentialResource(key=key, tenant_uid=tenant_uid)
        self._put(f"credentials/{key_id}", credential=credential)

    def adapter(
        self,
        tenant_uid: str,
        adapter: str,
        serial: int,
        rendition: bytes,
        *,
        artifact_key: bytes = b"k" * 32,
        lora_id: int | None = None,
    ) -> int:
        sha256 = hashlib.sha256(rendition).hexdigest()
        sealed = seal(artifact_key, artifact_associated_data(tenant_uid, sha256), rendition)
        lora_id = lora_id if lora_id is not None else (self.ordinals[tenant_uid] << 40) | serial
        version = adapter_pb2.AdapterVersion(
            version=1,
            base_model=BASE_MODEL,
            source_sha256="5" * 64,
            rank=2,
            renditions=[
                adapter_pb2.Rendition(
                    dialect=adapter_pb2.DIALECT_TRTLLM_ENGINE,
                    lora_id=lora_id,
                    sha256=sha256,
                    artifact_sha256=self.artifacts.put(sealed),
                    size_bytes=len(rendition),
                    dtype="float16",
                    config_columns=4,
                    engine_sha256=ENGINE_SHA256,
                )
            ],
        )
        resource = pb.AdapterResource(
            tenant_uid=tenant_uid,
            adapter=adapter_pb2.Adapter(name=f"tenants/x/adapters/{adapter}", versions=[version]),
            artifact_key=artifact_key,
        )
        self._put(f"adapters/{tenant_uid}/{adapter}", adapter=resource)
        return lora_id


class ScriptedConfigService(rpc.ConfigDiscoveryServiceServicer):
    """Sends whole snapshots in pieces, and heartbeats; keeps what routers answer."""

    def __init__(self, *, heartbeat_seconds: float = 0.1) -> None:
        self.heartbeat_seconds = heartbeat_seconds
        self.hellos: list[pb.RouterHello] = []
        self.acks: list[pb.SnapshotAck] = []
        self.nacks: list[pb.SnapshotNack] = []
        self.outcomes: list[pb.OutcomeCount] = []
        self.silent = False
        self.etcd_connected = True
        self.etcd_silence_ms = 0
        self.reports = self.heartbeats = self.goodbyes = 0
        self.flow: pb.FlowAssignment | None = None
        """The flow controller that every router is told before its first snapshot; None for none."""
        self._to_send: list[pb.StreamSnapshotsResponse] = []
        self._revision = 0
        self._pushed = asyncio.Condition()

    async def push(self, resources: dict[str, pb.Resource], pieces: int = 2) -> int:
        """Send everything; returns its revision."""
        self._revision += 1
        everything = [resources[key] for key in sorted(resources)]
        size = max(1, -(-len(everything) // pieces))
        parts = [everything[start : start + size] for start in range(0, len(everything), size)] or [[]]
        chunks = [
            pb.SnapshotChunk(
                nonce=f"n{self._revision}",
                revision=self._revision,
                kind=pb.SNAPSHOT_KIND_FULL,
                chunk=place,
                last=place == len(parts) - 1,
                resources=part,
            )
            for place, part in enumerate(parts)
        ]
        await self.send(chunks)
        return self._revision

    async def send(self, chunks: list[pb.SnapshotChunk]) -> None:
        """Send these pieces as they are, to routers that come later too."""
        await self.say([pb.StreamSnapshotsResponse(chunk=chunk) for chunk in chunks])

    async def say(self, messages: list[pb.StreamSnapshotsResponse]) -> None:
        """Send these messages, whatever they are."""
        async with self._pushed:
            self._to_send = messages
            self._pushed.notify_all()

    async def StreamSnapshots(
        self, request_iterator: AsyncIterator[pb.StreamSnapshotsRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.StreamSnapshotsResponse]:
        reading = asyncio.create_task(self._read(request_iterator))
        sent: list[pb.StreamSnapshotsResponse] = []
        try:
            if self.flow is not None:
                yield pb.StreamSnapshotsResponse(flow=self.flow)
            while not reading.done():
                if self._to_send is not sent and self._to_send:
                    sent = self._to_send
                    for message in sent:
                        yield message
                elif not self.silent:
                    yield pb.StreamSnapshotsResponse(heartbeat=self._heartbeat())
                try:
                    async with asyncio.timeout(self.heartbeat_seconds), self._pushed:
                        await self._pushed.wait()
                except TimeoutError:
                    pass
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _heartbeat(self) -> pb.Heartbeat:
        self.heartbeats += 1
        return pb.Heartbeat(
            revision=self._revision,
            etcd_connected=self.etcd_connected,
            etcd_silence_ms=self.etcd_silence_ms,
        )

    async def _read(self, requests: AsyncIterator[pb.StreamSnapshotsRequest]) -> None:
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind == "hello":
                self.hellos.append(request.hello)
            elif kind == "ack":
                self.acks.append(request.ack)
            elif kind == "nack":
                self.nacks.append(request.nack)
            elif kind == "outcomes":
                self.reports += 1
                self.outcomes.extend(request.outcomes.counts)
            elif kind == "goodbye":
                self.goodbyes += 1
