"""The router's composition root."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry

from services.common.artifacts import DirectoryArtifactStore
from services.common.audit.writer import AuditWriter
from services.common.clock import SystemClock
from services.common.lifecycle import Lifetime, TaskDiedError
from services.common.logs import configure_logging
from services.common.metrics import serve_metrics
from services.common.request_sizes import RECEIVED_BYTES
from services.common.rpc.channel import open_channel
from services.common.rpc.health import HealthBoard
from services.common.rpc.server import build_server
from services.common.tokens import CONFIG_ISSUER, Audience, TokenVerifier
from services.router.audit.recorder import AuditRecorder
from services.router.audit.refusals import RefusalLog
from services.router.backends import trtllm_engine
from services.router.backends.adapter_weights import AdapterWeights
from services.router.backends.channels import EndpointChannels
from services.router.backends.dispatch import Dispatcher
from services.router.backends.server_metrics import ServerMetrics
from services.router.backends.triton_health import TritonProbe
from services.router.backends.triton_stream import TritonStreamBackend
from services.router.flow.build import build_flow
from services.router.limits.limited import tenant_of
from services.router.limits.self_test import LimitsBrokenError, require_refusals
from services.router.limits.tenant_limiter import TenantLimiter
from services.router.metrics import RequestMetrics
from services.router.pool.directory import PoolDirectory
from services.router.pool_metrics import PoolMetrics
from services.router.quota.client import QuotaClient
from services.router.request.admission import Admission
from services.router.request.intake import Intake, Shares
from services.router.request.pipeline import Pipeline
from services.router.request.refusal_pace import RefusalPace
from services.router.request.servicer import SERVICE, InferenceServicer
from services.router.settings import RouterSettings
from services.router.snapshot.config_client import ConfigClient
from services.router.snapshot.config_metrics import ConfigMetrics
from services.router.snapshot.config_state import ConfigState
from services.router.snapshot.last_known_good import open_last_known_good
from services.router.snapshot.outcomes import OutcomeCounts
from services.router.snapshot_follower import SnapshotFollower
from services.router.text.prompt_encoding import PromptEncoder
from services.router.text.text_model import TextModelLoader

_log = logging.getLogger(__name__)

_CONFIG = "config"
_AUDIT_DRAIN_SECONDS = 1.0
_ANSWER_SECONDS = 0.5
_KNOWN_GOOD_SECONDS = 3.0
_GIVE_BACK_SECONDS = 1.0
_GOODBYE_SECONDS = 0.5


def main() -> None:
    """Run until a signal, or until a task that the router needs ends."""
    settings = RouterSettings()
    configure_logging(settings.log_level)
    try:
        require_refusals()
        asyncio.run(serve(settings))
    except (LimitsBrokenError, TaskDiedError) as error:
        _log.error("stopped: %s", error)
        sys.exit(1)


async def serve(settings: RouterSettings) -> None:  # noqa: PLR0915 - a composition root reads from top to bottom
    """Put the router together, serve, and take it apart in reverse."""
    clock, registry = SystemClock(), CollectorRegistry()
    metrics, outcomes = RequestMetrics(registry, settings.metric_tenants), OutcomeCounts()
    artifacts, health = DirectoryArtifactStore(settings.artifact_dir), HealthBoard([_CONFIG])
    async with AsyncExitStack() as stack:
        stack.enter_context(serve_metrics(registry, settings.metrics_address, settings.metrics_token_path))
        config_channel = await stack.enter_async_context(open_channel(settings.config_target, settings.tls))
        audit_channel = await stack.enter_async_context(open_channel(settings.audit_target, settings.tls))
        endpoint_channels = await stack.enter_async_context(EndpointChannels(settings.tls))

        audit_writer = await stack.enter_async_context(AuditWriter(audit_channel, settings.router))
        recorder, refusals = AuditRecorder(audit_writer), RefusalLog(audit_writer, clock)
        triton = await stack.enter_async_context(TritonStreamBackend(endpoint_channels))
        weights = await stack.enter_async_context(
            AdapterWeights(artifacts, settings.adapter_cache_bytes, trtllm_engine.encode_adapter)
        )
        encoder = stack.enter_context(PromptEncoder(settings.tokeniser_threads))

        state, limiter, config_metrics = ConfigState(clock), TenantLimiter(), ConfigMetrics(registry)
        quotas = QuotaClient(
            config_channel, router=settings.router, clock=clock, shadowed=metrics.limit_shadowed
        )
        server_metrics = await stack.enter_async_context(ServerMetrics())
        pools = PoolDirectory(TritonProbe(endpoint_channels), clock, server_metrics)
        flow = build_flow(
            settings,
            pools,
            limiter,
            lambda subject, limit: metrics.limit_shadowed(tenant_of(subject), limit),
            clock,
        )
        registry.register(PoolMetrics(pools, metrics))
        follower = SnapshotFollower(
            pools,
            [limiter.forget, flow.forget],
            metrics,
            config_metrics,
            endpoint_channels,
            health,
            _CONFIG,
        )
        loader = TextModelLoader(artifacts)
        known_good = open_last_known_good(settings, state, loader.load, clock, registry)
        config = ConfigClient(
            config_channel,
            router=settings.router,
            state=state,
            load_text_model=loader.load,
            on_snapshot=follower.follow,
            on_held=known_good.hold if known_good else None,
            on_statement=known_good.attest if known_good else None,
            outcomes=outcomes,
            metrics=config_metrics,
            flow=flow.membership,
        )
        pipeline = Pipeline(
            config=state,
            verifier=TokenVerifier(settings.jwks_path, CONFIG_ISSUER, Audience.INFERENCE, clock),
            admission=Admission(limiter, quotas, clock),
            encoder=encoder,
            requests=flow.requests,
            dispatcher=Dispatcher({"TRTLLM_ENGINE": triton}, weights, clock, metrics),
            audit=recorder,
            refusals=refusals,
            outcomes=outcomes,
            metrics=metrics,
            clock=clock,
            rng=random.SystemRandom(),
        )
        follower.then = pipeline.config_changed
        calls = settings.max_concurrent_rpcs
        server = build_server(
            listen=[settings.listen],
            register=InferenceServicer(
                pipeline, Intake(Shares.of(calls)), RefusalPace(clock, calls // 8)
            ).register,
            service_names=[SERVICE],
            health=health,
            tls=settings.tls,
            max_message_bytes=RECEIVED_BYTES,
            max_concurrent_rpcs=calls,
            compressed=True,
        )
        # Entered last: its tasks end first, while everything they use is still open.
        lifetime = await stack.enter_async_context(Lifetime())
        await health.publish()
        await flow.start()
        await server.start()
        stopped_cleanly = False
        try:
            lifetime.own(config.run(), "follow config")
            if known_good:
                lifetime.own(known_good.run(config.start_from, config.at_rest), "last known good")
            leasing = lifetime.own(quotas.run(), "lease quotas")
            lifetime.own(pools.run(), "probe endpoints")
            lifetime.own(flow.role.run(), "flow control")
            lifetime.finish(flow.membership.run(), "flow membership")
            lifetime.own(follower.run(), "close channels")
            lifetime.own(refusals.run(), "count refusals")
            lifetime.own(pipeline.failures.run(), "log failures")
            _log.info("router %s listens on %s", settings.router, settings.listen)
            await lifetime.wait()
            stopped_cleanly = True
        finally:
            await health.set(_CONFIG, ready=False)
            # The listener refuses new calls at once. It waits a little longer than requests may take, so that those
            # that are ended are answered.
            await asyncio.gather(
                server.stop(settings.drain_seconds + _ANSWER_SECONDS), pipeline.stop(settings.drain_seconds)
            )
            endings = [_settle_up(leasing, quotas, refusals, recorder), flow.stop(_GOODBYE_SECONDS)]
            if stopped_cleanly:
                endings.append(config.leave(_GOODBYE_SECONDS))
            if known_good:
                endings.append(known_good.finish(_KNOWN_GOOD_SECONDS))
            await asyncio.gather(*endings)


async def _settle_up(
    leasing: asyncio.Task[object], quotas: QuotaClient, refusals: RefusalLog, recorder: AuditRecorder
) -> None:
    """After the last request: give quotas back, for others to use at once, and write the last audit entries."""
    # Stopped first, since it would lease more.
    leasing.cancel()
    await asyncio.wait([leasing])
    await quotas.give_back(_GIVE_BACK_SECONDS)
    refusals.flush()
    await recorder.drain(_AUDIT_DRAIN_SECONDS)
