"""The config service's composition root."""

from __future__ import annotations

import asyncio

import grpc
from tenantry.config.v1 import config_admin_service_pb2_grpc, config_discovery_service_pb2_grpc

from services.common.artifacts import DirectoryArtifactStore
from services.common.audit_writer import AuditWriter
from services.common.backoff import Backoff
from services.common.clock import SystemClock
from services.common.grpc_channel import open_channel
from services.common.grpc_server import build_server
from services.common.health import HealthBoard
from services.common.lifecycle import Lifetime
from services.common.logs import configure_logging
from services.common.metrics import serve_metrics
from services.common.tokens import CONFIG_ISSUER, Audience, TokenVerifier
from services.config import layout
from services.config.admin.adapters import AdapterAdmin
from services.config.admin.catalog import CatalogAdmin
from services.config.admin.edits import Edits
from services.config.admin.keys import KeyAdmin
from services.config.admin.tenants import TenantAdmin
from services.config.admin_servicer import AdminServicer
from services.config.bootstrap import (
    FirstOperator,
    has_platform_admin,
    issue_first_operator,
    load_issuer,
)
from services.config.current_state import CurrentState
from services.config.discovery_servicer import DiscoveryServicer
from services.config.etcd.client import EtcdClient
from services.config.etcd.watch import EtcdWatch
from services.config.metrics import ConfigMetrics
from services.config.operators import OperatorCheck
from services.config.sealing import TenantKeys, load_root_key
from services.config.settings import ConfigSettings
from services.config.state import StateBuilder
from services.config.store import ConfigStore, StoreUnavailableError

STOP_SECONDS = 1.0
MAX_ETCD_MESSAGE_BYTES = 64 << 20


async def serve(settings: ConfigSettings) -> None:
    """Run until a signal, or until the watch's task dies."""
    clock = SystemClock()
    issuer, issuer_is_new = load_issuer(settings.state_dir)
    keys = TenantKeys(load_root_key(settings.state_dir / "root.kek"))
    artifacts = DirectoryArtifactStore(settings.artifact_dir)
    current = CurrentState(StateBuilder(keys), clock)
    metrics = ConfigMetrics(current)
    etcd_channel = open_channel(settings.etcd_target, settings.tls, max_message_bytes=MAX_ETCD_MESSAGE_BYTES)
    etcd = EtcdClient(etcd_channel)
    watch = EtcdWatch(etcd_channel, etcd, layout.LIVE, current)
    audit_channel = open_channel(settings.audit_target, settings.tls) if settings.audit_target else None
    audit = AuditWriter(audit_channel, "config") if audit_channel else None
    verifier = TokenVerifier(settings.state_dir / "jwks.json", CONFIG_ISSUER, Audience.OPERATOR, clock)
    edits = Edits(etcd, current, OperatorCheck(verifier, lambda: current.state), clock)
    admin = AdminServicer(
        TenantAdmin(edits, keys, audit),
        KeyAdmin(edits, issuer),
        AdapterAdmin(edits, artifacts),
        CatalogAdmin(edits, artifacts),
    )
    discovery = DiscoveryServicer(current, metrics)
    health = HealthBoard(["first-list", "first-operator"])

    def add_admin(server: grpc.aio.Server) -> None:
        config_admin_service_pb2_grpc.add_ConfigAdminServiceServicer_to_server(admin, server)

    def add_discovery(server: grpc.aio.Server) -> None:
        config_discovery_service_pb2_grpc.add_ConfigDiscoveryServiceServicer_to_server(discovery, server)

    admin_server = build_server(
        listen=[settings.admin_listen],
        register=add_admin,
        service_names=["tenantry.config.v1.ConfigAdminService"],
        health=health,
        tls=settings.tls,
        max_concurrent_rpcs=256,
    )
    discovery_server = build_server(
        listen=[settings.discovery_listen],
        register=add_discovery,
        service_names=["tenantry.config.v1.ConfigDiscoveryService"],
        health=health,
        tls=settings.tls,
    )

    async def become_ready() -> None:
        await current.listed.wait()
        await health.set("first-list", ready=True)
        if issuer_is_new or not has_platform_admin(current.state, clock):
            first = issue_first_operator(settings.state_dir, issuer, clock)
            await _record(first, etcd)
            await current.until(lambda state: state.credential(first.key_id) is not None)
        await health.set("first-operator", ready=True)

    with serve_metrics(metrics.registry, settings.metrics_address):
        async with Lifetime() as lifetime:
            lifetime.own(watch.run(), "etcd-watch")
            lifetime.finish(become_ready(), "become-ready")
            if audit:
                lifetime.own(audit.run(), "audit-writer")
            await admin_server.start()
            await discovery_server.start()
            try:
                await lifetime.wait()
            finally:
                await asyncio.gather(admin_server.stop(STOP_SECONDS), discovery_server.stop(STOP_SECONDS))
                if audit:
                    await audit.flush(STOP_SECONDS)
    for channel in (etcd_channel, audit_channel):
        if channel:
            await channel.close()


async def _record(operator: FirstOperator, store: ConfigStore) -> None:
    backoff = Backoff(0.1, 2.0)
    while True:
        try:
            await operator.record(store)
        except StoreUnavailableError:
            await asyncio.sleep(backoff.next_delay_seconds())
        else:
            return


def main() -> None:
    """Read the settings and serve."""
    settings = ConfigSettings()
    configure_logging(settings.log_level)
    asyncio.run(serve(settings))
