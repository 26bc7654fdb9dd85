"""Puts one nonce at a time into a tenant's config, its adapter and its pool, and knows afterwards whose is whose.

Each nonce is told by the prompt (and so by the config's digest and version), by the adapter version with its source's
digest, and by the pool's engine. An adapter version holds a rendition for its own engine and one for the engine
before it: a router that takes the new adapter with the old pool is seen by the older rendition.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp
from tenantry.config.v1 import adapter_pb2, stored_pb2, tenant_pb2
from tenantry.inference.v1 import inference_service_pb2 as inference_pb

from services.common.sealed_artifact import artifact_associated_data, seal
from services.common.text.templates import Turn
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import ConfigStore
from services.config.intents.change import Change
from services.config.intents.transactions import Intents
from services.config.state.operators import PLATFORM_ADMIN, Operator
from services.config.state.sealed_versions import seal_in_force
from services.config.state.sealing import TenantKey, TenantKeys
from services.router.text.text_model import TextModel
from tests.fakes.router_config import tiny_rendition
from tests.fakes.scripted_triton.answers import answer
from tests.fakes.served_mesh import (
    ANSWER_TOKENS,
    END_TOKEN,
    FIRST_TOKEN,
    MODEL,
    VOCABULARY_TOKENS,
    ServedMesh,
)

ADAPTER, QUESTION = "sea", "hello world"
_CHANGE = Change(Operator("nonces", "operators/nonces", PLATFORM_ADMIN, ""), "Nonce", "tenants/-")
Puts = Mapping[str, bytes]


class Split(Protocol):
    """How one nonce's keys are spread over transactions."""

    def __call__(self, tenant: Puts, adapter: Puts, pool: Puts) -> Sequence[Puts]: ...


def as_one(tenant: Puts, adapter: Puts, pool: Puts) -> Sequence[Puts]:
    return [{**tenant, **adapter, **pool}]


def tenant_apart(tenant: Puts, adapter: Puts, pool: Puts) -> Sequence[Puts]:
    """The mutant: two transactions."""
    return [tenant, {**adapter, **pool}]


def pool_apart(tenant: Puts, adapter: Puts, pool: Puts) -> Sequence[Puts]:
    """Another mutant."""
    return [{**tenant, **adapter}, pool]


def _digest(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


@dataclass
class NonceTenant:
    """One tenant under a writer."""

    mesh: ServedMesh
    intents: Intents
    stored: stored_pb2.StoredTenant
    config: tenant_pb2.TenantConfig
    key: TenantKey
    secret: str
    text: TextModel
    nonce: int = 1
    """The newest written; the tenant's creation was the first config version."""
    revision: int = 0
    nonce_of: dict[str, int] = field(default_factory=dict)
    """By digest of a config, an adapter's source or a rendition."""
    _rendition: adapter_pb2.Rendition | None = None

    @classmethod
    async def create(
        cls,
        mesh: ServedMesh,
        store: ConfigStore,
        intents: Intents,
        keys: TenantKeys,
        tenant_id: str,
        text: TextModel,
    ) -> NonceTenant:
        """A tenant whose first nonce is written."""
        made, secret = await mesh.new_tenant(tenant_id)
        found = await store.get(etcd_keys.tenant_key(made.tenant_uid))
        assert found is not None
        stored = stored_pb2.StoredTenant.FromString(found.value)
        key = keys.open(made.tenant_uid, stored.wrapped_key)
        tenant = cls(mesh, intents, stored, made.config, key, secret, text)
        await tenant.write_next(as_one)
        return tenant

    def prompt(self, nonce: int) -> str:
        return f"nonce {nonce} of {self.stored.tenant_id}"

    def lora_id(self, nonce: int) -> int:
        return self.stored.ordinal << 40 | nonce

    async def write_next(self, split: Split) -> None:
        """Write the next nonce."""
        nonce = self.nonce + 1
        for puts in split(self._tenant(nonce), self._adapter(nonce), self._pool(nonce)):
            revision = await self.intents.write(_CHANGE, [], puts)
            assert revision is not None
            self.revision = revision
        self.nonce = nonce

    def _tenant(self, nonce: int) -> Puts:
        config = self.config
        config.system_prompt = self.prompt(nonce)
        config.pool = f"pools/{self.stored.tenant_id}"
        config.models[0].adapter = ADAPTER
        stored = self.stored
        stored.config_version = nonce
        seal_in_force(stored, config, self.key)
        self.nonce_of[stored.config_sha256] = nonce
        return {etcd_keys.tenant_key(stored.tenant_uid): stored.SerializeToString()}

    def _engine(self, nonce: int) -> str:
        return _digest("engine", self.stored.tenant_id, nonce)

    def _pool(self, nonce: int) -> Puts:
        pool_id = self.stored.tenant_id
        return {
            etcd_keys.pool_key(pool_id): self.mesh.pool(pool_id, self._engine(nonce)).SerializeToString(),
        }

    def _adapter(self, nonce: int) -> Puts:
        rendition = self._rendered(nonce)
        renditions = [rendition, self._rendition] if self._rendition else [rendition]
        self._rendition = rendition
        source = _digest("source", self.stored.tenant_id, nonce)
        self.nonce_of[source] = nonce
        version = adapter_pb2.AdapterVersion(
            version=nonce, base_model=MODEL, source_sha256=source, rank=2, renditions=renditions
        )
        stored = stored_pb2.StoredAdapter(
            adapter_id=ADAPTER,
            tenant_uid=self.stored.tenant_uid,
            versions=[version],
            create_time=Timestamp(seconds=1),
        )
        return {etcd_keys.adapter_key(self.stored.tenant_uid, ADAPTER): stored.SerializeToString()}

    def _rendered(self, nonce: int) -> adapter_pb2.Rendition:
        # The last four bytes are of the config's last row, which the scripted Triton does not look at.
        data = tiny_rendition(nonce % 251)[:-4] + struct.pack("<i", nonce)
        sha256 = hashlib.sha256(data).hexdigest()
        bound_to = artifact_associated_data(self.stored.tenant_uid, sha256)
        sealed = seal(self.key.artifact, bound_to, data)
        self.nonce_of[sha256] = nonce
        return adapter_pb2.Rendition(
            dialect=adapter_pb2.DIALECT_TRTLLM_ENGINE,
            lora_id=self.lora_id(nonce),
            sha256=sha256,
            artifact_sha256=self.mesh.keep(sealed),
            size_bytes=len(data),
            dtype="float16",
            config_columns=4,
            engine_sha256=self._engine(nonce),
        )

    def nonces_in(self, got: inference_pb.GenerateResponse) -> set[int]:
        """Every nonce an answer shows: of its provenance, and of its text, which prompt and adapter make."""
        seen = got.provenance
        nonces = {
            seen.config_version,
            seen.adapter_version,
            self.nonce_of[seen.config_sha256],
            self.nonce_of[seen.adapter_sha256],
            self.nonce_of[seen.rendition_sha256],
        }
        if len(nonces) == 1 and got.text != self._said(seen.config_version):
            nonces.add(-1)
        return nonces

    def _said(self, nonce: int) -> str:
        turns = [Turn("system", self.prompt(nonce)), Turn("user", QUESTION)]
        ids = self.text.encode_conversation(turns)
        tokens = answer(
            self.lora_id(nonce),
            struct.pack(f"<{len(ids)}i", *ids),
            FIRST_TOKEN,
            VOCABULARY_TOKENS,
            END_TOKEN,
        )
        token_bytes = self.text.tokeniser.token_bytes
        return b"".join(token_bytes[next(tokens)] for _ in range(ANSWER_TOKENS)).decode()
