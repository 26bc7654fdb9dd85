"""Both listeners of the edge as the `tenantry` command sees them, with scripted services behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from tenantry.audit.v1 import audit_review_service_pb2 as review
from tenantry.audit.v1.audit_review_service_pb2_grpc import (
    AuditReviewServiceServicer,
    add_AuditReviewServiceServicer_to_server,
)
from tenantry.config.v1.config_admin_service_pb2_grpc import add_ConfigAdminServiceServicer_to_server
from tenantry.inference.v1 import inference_service_pb2 as inference
from tenantry.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)

from services.common.errors import Error
from services.local.profile import Endpoints
from tests.fakes.cli_admin import FakeAdmin
from tests.fakes.cli_calls import GRANT, OPERATOR_KEY, TENANT_KEY, abort, authenticate


@dataclass
class FakeInference(InferenceServiceServicer):
    """Answers with scripted pieces; keeps the requests."""

    pieces: tuple[str, ...] = ("Ahoy", ", ", "matey")
    error: Error | None = None
    error_after_pieces: int = 0
    hold_after_pieces: int | None = None
    requests: list[inference.GenerateRequest] = field(default_factory=list)
    holding: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def Generate(self, request, context):
        authenticate(context, TENANT_KEY)
        return inference.GenerateResponse(text="".join(self.pieces))

    def StreamGenerate(self, request, context):
        authenticate(context, TENANT_KEY)
        self.requests.append(request)
        if self.error and not self.error_after_pieces:
            abort(context, self.error)
        for number, piece in enumerate(self.pieces, start=1):
            yield inference.StreamGenerateResponse(delta=inference.Delta(text=piece, output_tokens=number))
            if self.error and number == self.error_after_pieces:
                abort(context, self.error)
            if number == self.hold_after_pieces:
                context.add_callback(self.cancelled.set)
                self.holding.set()
                self.cancelled.wait(10)
                return
        yield inference.StreamGenerateResponse(final=self._final(request))

    def ListModels(self, request, context):
        authenticate(context, TENANT_KEY)
        return inference.ListModelsResponse(
            models=[
                inference.Model(
                    model="pirate",
                    base_model="models/smollm2",
                    adapter="pirate",
                    context_tokens=2048,
                    is_default=True,
                )
            ]
        )

    def _final(self, request) -> inference.Final:
        final = inference.Final(
            request_id="r-1",
            finish_reason=inference.FINISH_REASON_END,
            usage=inference.Usage(input_tokens=12, output_tokens=len(self.pieces)),
            provenance=inference.Provenance(
                config_version=3,
                model=request.model or "pirate",
                base_model="models/smollm2",
                adapter="pirate",
                adapter_version=2,
                outcome_receipt=inference.AuditReceipt(log_id="log", index=7),
            ),
        )
        final.timing.first_token.FromMilliseconds(120)
        final.timing.total.FromMilliseconds(220)
        return final


@dataclass
class FakeReview(AuditReviewServiceServicer):
    """Sends scripted pieces of a bundle."""

    pieces: list[review.ExportLogResponse] = field(default_factory=list)
    log_keys: list[str] = field(default_factory=lambda: ["log+key"])
    manifest_keys: list[str] = field(default_factory=lambda: ["manifest+key"])
    error_at_end: Error | None = None
    names: list[str] = field(default_factory=list)
    grant: str = GRANT

    def GetCheckpoint(self, request, context):
        authenticate(context, self.grant)
        return review.Checkpoint(name=request.name)

    def ExportLog(self, request, context):
        authenticate(context, self.grant)
        self.names.append(request.name)
        yield from self.pieces
        if self.error_at_end:
            abort(context, self.error_at_end)

    def GetVerificationKeys(self, request, context):
        authenticate(context, self.grant)
        return review.VerificationKeys(
            name=request.name, log_keys=self.log_keys, manifest_keys=self.manifest_keys
        )


@dataclass
class FakeMesh:
    """A running fake, published in a state directory as `tenantry up` does."""

    state_dir: Path
    inference: FakeInference
    admin: FakeAdmin
    review: FakeReview
    endpoints: Endpoints


@contextmanager
def fake_mesh(state_dir: Path, tenants: tuple[str, ...] = ("acme",)) -> Iterator[FakeMesh]:
    """Serve all three services on loopback and write `endpoints.json` and the keys."""
    services = FakeInference(), FakeAdmin(), FakeReview()
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    add_InferenceServiceServicer_to_server(services[0], server)
    add_ConfigAdminServiceServicer_to_server(services[1], server)
    add_AuditReviewServiceServicer_to_server(services[2], server)
    addresses = [f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}" for _ in range(2)]
    server.start()
    keys = state_dir / "keys"
    keys.mkdir(parents=True)
    (keys / "operator.key").write_text(OPERATOR_KEY + "\n")
    for tenant in tenants:
        (keys / f"{tenant}.key").write_text(TENANT_KEY + "\n")
    endpoints = Endpoints(
        tenant_address=addresses[0],
        operations_address=addresses[1],
        ca_path=None,
        operator_key_path=keys / "operator.key",
        keys={tenant: keys / f"{tenant}.key" for tenant in tenants},
        state_dir=state_dir,
    )
    endpoints.save(state_dir)
    try:
        yield FakeMesh(state_dir, *services, endpoints)
    finally:
        services[0].cancelled.set()
        server.stop(grace=None).wait(5)
