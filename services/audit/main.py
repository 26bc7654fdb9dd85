"""The audit service's composition root."""

from __future__ import annotations

import asyncio

import grpc
from tenantry.audit.v1 import audit_append_service_pb2_grpc, audit_review_service_pb2_grpc

from services.audit.keys.root import FileKeyProvider
from services.audit.keys.signing import ROOT_KEK, load_signing_keys
from services.audit.logs.store import LogStore
from services.audit.metrics import AuditMetrics
from services.audit.rpc.append_servicer import AppendServicer
from services.audit.rpc.appender import Appender
from services.audit.rpc.grants import GrantCheck
from services.audit.rpc.review_servicer import ReviewServicer
from services.audit.settings import AuditSettings
from services.audit.storage.disk import die_of_disk
from services.audit.storage.state_directory import StateDirectory
from services.common.clock import SystemClock
from services.common.durable_files import SyncFailedError
from services.common.lifecycle import Lifetime
from services.common.logs import configure_logging
from services.common.metrics import serve_metrics
from services.common.rpc.health import HealthBoard
from services.common.rpc.server import build_server
from services.common.tokens import AUDIT_ISSUER, Audience, TokenVerifier

STOP_SECONDS = 2.0
MAX_APPEND_MESSAGE_BYTES = 8 << 20


async def serve(settings: AuditSettings) -> None:
    """Run until a signal, or until the journal's task dies."""
    clock = SystemClock()
    metrics = AuditMetrics()
    directory = StateDirectory.claim(settings.state_dir)
    keys = load_signing_keys(settings.state_dir / "keys")
    provider = FileKeyProvider(settings.state_dir / "keys" / ROOT_KEK)
    store = LogStore(directory, keys, provider, clock)
    metrics.quarantined.set_function(lambda: store.logs.quarantined)
    appender = Appender(store, metrics.batch)
    grants = GrantCheck(TokenVerifier(settings.state_dir / "jwks.json", AUDIT_ISSUER, Audience.REVIEW, clock))
    append_servicer = AppendServicer(appender, store, metrics)
    review_servicer = ReviewServicer(appender, keys, grants, clock)
    health = HealthBoard(["journal"])

    def add_append(server: grpc.aio.Server) -> None:
        audit_append_service_pb2_grpc.add_AuditAppendServiceServicer_to_server(append_servicer, server)

    def add_review(server: grpc.aio.Server) -> None:
        audit_review_service_pb2_grpc.add_AuditReviewServiceServicer_to_server(review_servicer, server)

    append_server = build_server(
        listen=[settings.append_listen],
        register=add_append,
        service_names=["tenantry.audit.v1.AuditAppendService"],
        health=health,
        tls=settings.tls,
        max_message_bytes=MAX_APPEND_MESSAGE_BYTES,
    )
    review_server = build_server(
        listen=[settings.review_listen],
        register=add_review,
        service_names=["tenantry.audit.v1.AuditReviewService"],
        health=health,
        tls=settings.tls,
        max_concurrent_rpcs=64,
    )
    with serve_metrics(metrics.registry, settings.metrics_address, settings.metrics_token_path):
        try:
            async with Lifetime() as lifetime:
                lifetime.own(appender.run(), "journal")
                await health.publish()
                await append_server.start()
                await review_server.start()
                await health.set("journal", ready=True)
                await lifetime.wait()
                await health.set("journal", ready=False)
                await asyncio.gather(append_server.stop(STOP_SECONDS), review_server.stop(STOP_SECONDS))
        finally:
            await appender.close()


def main() -> None:
    """Read the settings and serve."""
    settings = AuditSettings()
    configure_logging(settings.log_level)
    try:
        asyncio.run(serve(settings))
    except SyncFailedError as error:
        die_of_disk(error)
