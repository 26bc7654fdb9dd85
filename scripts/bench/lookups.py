"""Times a request's lookups in the snapshot, among few tenants and among many."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tenantry.config.v1 import adapter_pb2, credential_pb2, tenant_pb2
from tenantry.config.v1 import config_discovery_service_pb2 as pb
from tenantry.inference.v1 import inference_service_pb2 as inference_pb

from scripts.bench.population import Shape, adapter_version, tenant_config
from services.common.artifacts import DirectoryArtifactStore
from services.router.request.shaping import caller_turns, shape
from services.router.snapshot.compiler import compile_snapshot
from services.router.snapshot.model import Snapshot
from services.router.text.text_model import TextModelLoader
from tests.fakes.router_config import BASE_MODEL, ENGINE_SHA256, ConfigWorld
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json

_ROUNDS = 9
_REQUESTS = 5_000


@dataclass(frozen=True, slots=True)
class Lookups:
    """Medians of several rounds."""

    microseconds: tuple[float, ...]
    """A request's key record, tenant, alias, adapter and shape, by number of tenants."""

    @property
    def growth(self) -> float:
        """The cost of the last size, as a multiple of the first one's."""
        return self.microseconds[-1] / self.microseconds[0]


def measure_lookups(folder: Path, sizes: Sequence[int]) -> Lookups:
    """Time the same requests' lookups among so many tenants each, in turn."""
    snapshots = [_snapshot(folder, size) for size in sizes]
    rounds: list[list[float]] = [[] for _ in sizes]
    for _ in range(_ROUNDS):
        for place, snapshot in enumerate(snapshots):
            rounds[place].append(_round(snapshot))
    return Lookups(tuple(statistics.median(times) for times in rounds))


def _round(snapshot: Snapshot) -> float:
    rng = random.Random(1)  # noqa: S311 - the same choices every round
    key_ids = rng.choices(list(snapshot.keys), k=_REQUESTS)
    message = inference_pb.Message(
        role=inference_pb.ROLE_USER, content=[inference_pb.ContentPart(text="Hello?")]
    )
    request = inference_pb.GenerateRequest(conversation=inference_pb.Conversation(messages=[message]))
    said = caller_turns(request)
    started = time.perf_counter()
    for key_id in key_ids:
        record = snapshot.keys[key_id]
        shape(snapshot.tenants[record.tenant_uid], request, rng, said)
    return (time.perf_counter() - started) / _REQUESTS * 1e6


def _snapshot(folder: Path, tenants: int) -> Snapshot:
    artifacts = DirectoryArtifactStore(folder)
    world = ConfigWorld(
        artifacts, artifacts.put(tiny_tokeniser_json()), artifacts.put(CHAT_TEMPLATE.encode())
    )
    world.base_model()
    world.pool(["a:1"])
    for ordinal in range(1, tenants + 1):
        uid = f"{ordinal:016x}"
        config = tenant_config(ordinal, Shape())
        config.models[0].base_model = BASE_MODEL
        tenant = tenant_pb2.Tenant(
            name=f"tenants/tenant-{ordinal}",
            tenant_uid=uid,
            ordinal=ordinal,
            state=tenant_pb2.TENANT_STATE_ACTIVE,
            config=config,
        )
        world.resources[f"tenants/{uid}"] = pb.Resource(key=f"tenants/{uid}", tenant=tenant)
        _add_adapter(world, uid, ordinal)
        key = credential_pb2.Key(name=f"tenants/x/keys/key{ordinal}", state=credential_pb2.KEY_STATE_ACTIVE)
        world.resources[f"credentials/key{ordinal}"] = pb.Resource(
            key=f"credentials/key{ordinal}", credential=pb.CredentialResource(key=key, tenant_uid=uid)
        )
    return compile_snapshot(1, world.resources, TextModelLoader(artifacts).load).snapshot


def _add_adapter(world: ConfigWorld, tenant_uid: str, ordinal: int) -> None:
    version = adapter_version(ordinal, 1)
    version.base_model = BASE_MODEL
    version.renditions[0].engine_sha256 = ENGINE_SHA256
    key = f"adapters/{tenant_uid}/adapter-1"
    adapter = adapter_pb2.Adapter(name="tenants/x/adapters/adapter-1", versions=[version])
    resource = pb.AdapterResource(tenant_uid=tenant_uid, adapter=adapter, artifact_key=b"k" * 32)
    world.resources[key] = pb.Resource(key=key, adapter=resource)
