"""A router's pipeline over simulators: everything of ours is real, the servers and the disk are not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.artifacts import DirectoryArtifactStore
from services.common.clock import Clock, SystemClock
from services.common.errors import Error
from services.common.tokens import (
    CONFIG_ISSUER,
    Audience,
    Claims,
    TokenIssuer,
    TokenVerifier,
    new_signing_key_pem,
)
from services.router.audit.recorder import AuditRecorder
from services.router.audit.refusals import RefusalLog
from services.router.backends.backend import (
    AdapterCacheFullError,
    AdapterMissError,
    BackendUnavailableError,
    DispatchRequest,
    Linger,
    TokenChunk,
    unwatched,
)
from services.router.backends.dispatch import Dispatcher
from services.router.flow.controller import FlowController
from services.router.flow.mirror import Mirror
from services.router.flow.requests import Requests
from services.router.flow.role import FlowRole
from services.router.limits.limited import tenant_of
from services.router.limits.tenant_limiter import TenantLimiter
from services.router.metrics import RequestMetrics
from services.router.pool.directory import PoolDirectory
from services.router.pool.probing import Served
from services.router.quota.ledger import QuotaReservation, QuotaTenant, Use
from services.router.request import pipeline as pipeline_module
from services.router.request.admission import Admission
from services.router.request.intake import Intake, Shares
from services.router.request.refusal_pace import RefusalPace
from services.router.request.servicer import InferenceServicer
from services.router.snapshot.compiler import compile_snapshot
from services.router.snapshot.config_state import ConfigState
from services.router.snapshot.model import AdapterBinding
from services.router.snapshot.outcomes import OutcomeCounts
from services.router.text.prompt_encoding import PromptEncoder
from services.router.text.text_model import TextModelLoader
from tests.fakes.router_config import FAR_FUTURE_SECONDS, POOL, ConfigWorld
from tests.fakes.scripted_audit import MemoryAudit
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json


class SimulatedServer:
    """A model server with an adapter cache; says `answer`, one token a step."""

    def __init__(self, answer: list[int]) -> None:
        self.answer = answer
        self.cached: set[int] = set()
        self.requests: list[DispatchRequest] = []
        self.open_streams = 0
        self.cancelled = 0
        self.cache_full_times = 0
        self.broken = False
        self.fail_after: int | None = None
        self.begun = asyncio.Event()
        self.hold = asyncio.Event()
        self.hold.set()

    @property
    def weights_sent(self) -> int:
        return sum(
            request.adapter is not None and request.adapter.weights is not None for request in self.requests
        )

    async def generate(
        self, target: str, request: DispatchRequest, timeout_seconds: float, linger: Linger = unwatched
    ) -> AsyncGenerator[TokenChunk, None]:
        self.requests.append(request)
        self.open_streams += 1
        self.begun.set()
        ended = False
        try:
            await asyncio.sleep(0)
            self._take_adapter(request)
            self._break_if(self.broken)
            tokens = self.answer[: request.parameters.max_output_tokens]
            for place, token in enumerate(tokens):
                await self.hold.wait()
                await asyncio.sleep(0)
                self._break_if(place == self.fail_after)
                yield TokenChunk((token,), final=False)
            ended = True
            yield TokenChunk((), final=True)
        except (AdapterMissError, AdapterCacheFullError, BackendUnavailableError):
            ended = True
            raise
        finally:
            self.open_streams -= 1
            self.cancelled += not ended

    def _break_if(self, broken: bool) -> None:
        if broken:
            raise BackendUnavailableError("broken", broken=True)

    def _take_adapter(self, request: DispatchRequest) -> None:
        if request.adapter is None:
            return
        lora_id = request.adapter.lora_id
        if self.cache_full_times:
            self.cache_full_times -= 1
            raise AdapterCacheFullError("full")
        if request.adapter.weights is not None:
            self.cached.add(lora_id)
        elif lora_id not in self.cached:
            raise AdapterMissError(lora_id)


class InstantWeights:
    """Adapter weights without threads, so that a test can count its steps."""

    async def load(self, tenant_uid: str, binding: AdapterBinding) -> bytes:
        await asyncio.sleep(0)
        return b"weights"


class MemoryQuotas:
    """Quotas of one process, in memory: `free` tokens of every window, and what is held of them."""

    def __init__(self) -> None:
        self.free = 1_000_000
        self.held = 0
        self.used = 0
        self.held_micro_units = 0
        self.spent_micro_units = 0
        self.refusal: Error | None = None
        self.asked: list[QuotaTenant] = []

    async def reserve(self, tenant: QuotaTenant, use: Use) -> QuotaReservation:
        self.asked.append(tenant)
        await asyncio.sleep(0)
        if self.refusal is not None:
            raise self.refusal
        self.free -= use.tokens
        self.held += use.tokens
        self.held_micro_units += use.micro_units
        return QuotaReservation(tenant.tenant_uid, use)

    def settle(self, reservation: QuotaReservation, used: Use) -> None:
        self.held -= reservation.use.tokens
        self.free += reservation.use.tokens - used.tokens
        self.used += used.tokens
        self.held_micro_units -= reservation.use.micro_units
        self.spent_micro_units += used.micro_units


def flow_alone(
    pools: PoolDirectory, own: TenantLimiter, clock: Clock, metrics: RequestMetrics | None = None
) -> Requests:
    """The requests of a router that is its own flow controller."""
    requests = Requests("router-1", "instance-1", own, pools.serves, clock)
    counted = metrics or RequestMetrics(CollectorRegistry())
    controller = FlowController(
        pools, clock, shadowed=lambda subject, limit: counted.limit_shadowed(tenant_of(subject), limit)
    )
    mirror = Mirror(own, controller.rate_level, clock)
    controller.inherit = mirror.inherit
    role = FlowRole(requests, controller, mirror, None, clock)
    controller.spawn = role.spawn
    role.stand_alone()
    return requests


class UnaskedProbe:
    async def ready(self, target: str, server_model: str, timeout_seconds: float) -> bool:
        raise AssertionError("pools are told by the test")


@dataclass
class PipelineWorld:
    """A pipeline and everything around it a test looks at."""

    folder: Path
    server: SimulatedServer
    clock: Clock = field(default_factory=SystemClock)
    pipeline_class: type[Any] = pipeline_module.Pipeline
    configure: Callable[[ConfigWorld], None] | None = None

    def __post_init__(self) -> None:
        artifacts = DirectoryArtifactStore(self.folder / "artifacts")
        self.config = ConfigWorld(
            artifacts, artifacts.put(tiny_tokeniser_json()), artifacts.put(CHAT_TEMPLATE.encode())
        )
        self.config.base_model()
        self.config.pool(["server"])
        self.issuer = TokenIssuer.from_pem(new_signing_key_pem(), CONFIG_ISSUER)
        jwks = self.folder / "jwks.json"
        jwks.write_text(self.issuer.jwks())
        self.audit = MemoryAudit()
        self.recorder = AuditRecorder(self.audit)
        self.limiter = TenantLimiter()
        self.quotas = MemoryQuotas()
        self.state = ConfigState(self.clock)
        self.pools = PoolDirectory(UnaskedProbe(), self.clock)
        self.registry = CollectorRegistry()
        self.metrics = RequestMetrics(self.registry)
        self.requests = flow_alone(self.pools, self.limiter, self.clock, self.metrics)
        self.outcomes = OutcomeCounts()
        self.refusals = RefusalLog(self.audit, self.clock)
        self._loader = TextModelLoader(artifacts)
        self.pipeline = self.pipeline_class(
            config=self.state,
            verifier=TokenVerifier(jwks, CONFIG_ISSUER, Audience.INFERENCE, self.clock),
            admission=Admission(self.limiter, self.quotas, self.clock),
            encoder=PromptEncoder(1),
            requests=self.requests,
            dispatcher=Dispatcher({"TRTLLM_ENGINE": self.server}, InstantWeights(), self.clock, self.metrics),
            audit=self.recorder,
            refusals=self.refusals,
            outcomes=self.outcomes,
            metrics=self.metrics,
            clock=self.clock,
            rng=random.Random(1),
        )
        if self.configure is not None:
            self.configure(self.config)
            self.apply()

    def apply(self, revision: int = 1) -> None:
        """Put the config in force, every endpoint ready."""
        snapshot = compile_snapshot(revision, self.config.resources, self._loader.load).snapshot
        self.state.put(snapshot)
        self.state.heard()
        self.pools.configure(snapshot)
        for config in snapshot.pools.values():
            for target in config.targets:
                self.pools.probed(Served(target, config.server_model), ready=True)
        self.pipeline.config_changed(snapshot)

    def pool(self, name: str = POOL) -> Any:
        return self.pools._pools[name][1]

    def token(self, tenant_uid: str, key_id: str, **claims: Any) -> str:
        fields: dict[str, Any] = {
            "key_id": key_id,
            "subject": tenant_uid,
            "scopes": (),
            "expire_seconds": FAR_FUTURE_SECONDS,
            "role": "",
            "role_tenant_uid": "",
        }
        return "Bearer " + self.issuer.issue(Audience.INFERENCE, Claims(**{**fields, **claims}), 1)

    def call(
        self,
        tenant_uid: str,
        text: str = "hello",
        timeout_seconds: float | None = 5.0,
        key_id: str = "",
        **fields: Any,
    ) -> pipeline_module.Call:
        """A call with a key of the tenant's, `key-<uid>` unless another is named."""
        token = self.token(tenant_uid, key_id or f"key-{tenant_uid}")
        return pipeline_module.Call(received(question(text, **fields)), token, timeout_seconds)

    def leaks(self) -> list[str]:
        """What is still held once nothing runs."""
        found = {
            "concurrent": sum(usage.concurrent for usage in self.limiter._usage.values()),
            "quota tokens": self.quotas.held,
            "in flight": self.pool().in_flight,
            "queued": self.pool().queued,
            "kv tokens": sum(endpoint.kv_tokens for endpoint in self.pool()._endpoints),
            "adapters in use": sum(len(endpoint.ledger._users) for endpoint in self.pool()._endpoints),
            "adapters loading": sum(len(endpoint.ledger._loading) for endpoint in self.pool()._endpoints),
            "streams": self.server.open_streams,
        }
        return [f"{name}: {count}" for name, count in found.items() if count]


def inference_servicer(pipeline: pipeline_module.Pipeline) -> InferenceServicer:
    return InferenceServicer(pipeline, Intake(Shares.of(4096)), RefusalPace(SystemClock(), 512))


class SentCall:
    """The part of a gRPC context that the servicer uses: a call whose request is there."""

    def __init__(self, request: Any, authorization: str) -> None:
        self._request = request
        self._authorization = authorization

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [("authorization", self._authorization)]

    def time_remaining(self) -> float:
        return 5.0

    async def read(self) -> bytes:
        message: bytes = self._request.SerializeToString()
        return message

    async def send_initial_metadata(self, metadata: Any) -> None:
        pass


def received(request: Any) -> Callable[[str], Awaitable[Any]]:
    """A request that has arrived."""

    async def receive(tenant_uid: str) -> Any:
        return request

    return receive


def question(text: str, **fields: Any) -> pb.GenerateRequest:
    message = pb.Message(role=pb.ROLE_USER, content=[pb.ContentPart(text=text)])
    fields.setdefault("conversation", pb.Conversation(messages=[message]))
    return pb.GenerateRequest(**fields)
