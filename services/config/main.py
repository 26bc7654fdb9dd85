"""The config service's composition root."""

from __future__ import annotations

import asyncio

from services.common import gc_pauses
from services.common.artifacts import DirectoryArtifactStore
from services.common.audit.writer import AuditWriter
from services.common.clock import SystemClock
from services.common.lifecycle import Lifetime
from services.common.logs import configure_logging
from services.common.metrics import serve_metrics
from services.common.rpc.channel import open_channel
from services.common.rpc.health import HealthBoard
from services.common.tokens import CONFIG_ISSUER, Audience, TokenVerifier
from services.config.admin.bootstrap import (
    FirstOperator,
    load_issuer,
)
from services.config.admin.checks import ConfigChecks
from services.config.admin.edits import Edits
from services.config.admin.propagation import PropagationAdmin
from services.config.admin.servicer import admin_servicer
from services.config.discovery.flow_naming import FlowNaming
from services.config.discovery.registry import RouterRegistry
from services.config.discovery.servicer import DiscoveryServicer
from services.config.discovery.snapshot_statements import SnapshotStatements, open_signer
from services.config.discovery.start_gate import StartGate
from services.config.discovery.status_keeper import RouterStatusKeeper
from services.config.etcd import keys as etcd_keys
from services.config.etcd.client import EtcdClient
from services.config.etcd.lease import EtcdLeases
from services.config.etcd.watch import EtcdWatch
from services.config.intents.transactions import Intents
from services.config.intents.version_replay import VersionReplay
from services.config.metrics import ConfigMetrics
from services.config.quota.leases import QuotaLeases
from services.config.quota.servicer import QuotaLeaseServicer
from services.config.recovery.allocation_marks import MarkedStore
from services.config.recovery.etcd_identity import EtcdIdentity
from services.config.recovery.last_known_good import LastKnownGood
from services.config.rules.prompt_lengths import PromptLengths
from services.config.servers import build_admin_server, build_discovery_server
from services.config.settings import ConfigSettings
from services.config.state.config_state import ConfigStateBuilder
from services.config.state.current_state import CurrentState
from services.config.state.operators import OperatorCheck
from services.config.state.sealing import TenantKeys, load_root_key

STOP_SECONDS = 1.0
KNOWN_GOOD_SECONDS = 3.0
"""Writing the file of 10,000 tenants takes more than 1 s."""
MAX_ETCD_MESSAGE_BYTES = 64 << 20


async def serve(settings: ConfigSettings) -> None:  # noqa: PLR0915 - a composition root reads from top to bottom
    """Run until a signal, or until an owned task dies."""
    clock = SystemClock()
    issuer = load_issuer(settings.state_dir)
    keys = TenantKeys(load_root_key(settings.state_dir / "root.kek"))
    artifacts = DirectoryArtifactStore(settings.artifact_dir)
    audit_channel = open_channel(settings.audit_target, settings.tls) if settings.audit_target else None
    audit = AuditWriter(audit_channel, "config") if audit_channel else None
    etcd_channel = open_channel(settings.etcd_target, settings.tls, max_message_bytes=MAX_ETCD_MESSAGE_BYTES)
    etcd = EtcdClient(etcd_channel)
    store = MarkedStore(etcd, settings.state_dir)

    current = CurrentState(ConfigStateBuilder(keys), clock)
    metrics = ConfigMetrics(current)
    routers = RouterRegistry(clock, settings.router_expiry_seconds)
    start_gate = StartGate(routers)
    intents = Intents(store, audit, keys.intent_key, clock, metrics)
    identity = EtcdIdentity(lambda: etcd.cluster_id, settings.state_dir, metrics.registry)
    signer = open_signer(keys.statement_seed, settings.state_dir)
    known_good = LastKnownGood(
        current,
        identity,
        lambda: etcd.answers,
        state_dir=settings.state_dir,
        key=keys.known_good_key,
        signer=signer,
        start_gate=start_gate,
        max_age_seconds=settings.known_good_max_age_seconds,
        clock=clock,
        registry=metrics.registry,
    )
    followers = [
        identity,  # raises the alarm when etcd was replaced
        current,  # puts changes in force; discovery and Edits wait on it
        intents.watch_check,  # records outcomes and versions of changes that are in force
        known_good,  # writes what is in force to the file
    ]
    watch = EtcdWatch(etcd_channel, etcd, etcd_keys.LIVE, followers)

    keeper = RouterStatusKeeper(
        routers, etcd, EtcdLeases(etcd_channel), clock, settings.router_expiry_seconds
    )
    verifier = TokenVerifier(settings.state_dir / "jwks.json", CONFIG_ISSUER, Audience.OPERATOR, clock)
    operators = OperatorCheck(verifier, lambda: current.state)
    edits = Edits(intents, store, current, operators, clock, ConfigChecks(PromptLengths(artifacts)))
    leases = QuotaLeases(etcd, current, clock)
    propagation = PropagationAdmin(edits, routers, keeper.recalled)
    admin = admin_servicer(edits, keys, issuer, artifacts, propagation, leases)
    statements = SnapshotStatements(current, signer, lambda: etcd.cluster_id, clock, start_gate)
    health = HealthBoard(["first-list", "first-operator"])

    admin_server = build_admin_server(settings, admin, health)
    discovery_server = build_discovery_server(
        settings,
        DiscoveryServicer(current, metrics, routers, statements, FlowNaming(clock)),
        QuotaLeaseServicer(leases),
        health,
    )

    with serve_metrics(metrics.registry, settings.metrics_address, settings.metrics_token_path):
        async with Lifetime() as lifetime:
            lifetime.own(watch.run(), "etcd-watch")
            lifetime.own(known_good.run(), "last-known-good")
            lifetime.own(keeper.run(), "router-status")
            lifetime.own(statements.run(), "snapshot-statements")
            lifetime.finish(store.learn(), "allocation-marks")
            first = FirstOperator(settings.state_dir, issuer, current, intents, clock)
            lifetime.finish(_become_ready(current, first, health), "become-ready")
            if audit:
                lifetime.own(audit.run(), "audit-writer")
                lifetime.finish(VersionReplay(current, etcd, audit).run(), "version-replay")
            await health.publish()
            await admin_server.start()
            await discovery_server.start()
            try:
                await lifetime.wait()
            finally:
                await asyncio.gather(admin_server.stop(STOP_SECONDS), discovery_server.stop(STOP_SECONDS))
                await intents.finish(STOP_SECONDS)
                flushed = [audit.flush(STOP_SECONDS)] if audit else []
                await asyncio.gather(
                    known_good.finish(KNOWN_GOOD_SECONDS), keeper.finish(STOP_SECONDS), *flushed
                )
    await asyncio.gather(*(channel.close() for channel in (etcd_channel, audit_channel) if channel))


async def _become_ready(current: CurrentState, first: FirstOperator, health: HealthBoard) -> None:
    await current.listed.wait()
    gc_pauses.freeze()
    await health.set("first-list", ready=True)
    await first.ensure()
    await health.set("first-operator", ready=True)


def main() -> None:
    """Read the settings and serve."""
    settings = ConfigSettings()
    configure_logging(settings.log_level)
    asyncio.run(serve(settings))
