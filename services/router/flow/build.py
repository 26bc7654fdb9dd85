"""Puts this router's part in flow control together."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from tenantry.flow.v1 import flow_service_pb2_grpc as rpc

from services.common.clock import Clock
from services.common.rpc.health import HealthBoard
from services.common.rpc.server import build_server
from services.router.flow.controller import FlowController
from services.router.flow.membership import Membership
from services.router.flow.mirror import Mirror
from services.router.flow.requests import Requests
from services.router.flow.role import FlowRole
from services.router.flow.servicer import FlowServicer
from services.router.limits.tenant_limiter import Shadowed, TenantLimiter
from services.router.pool.directory import PoolDirectory
from services.router.settings import RouterSettings

_STOP_SECONDS = 0.5


@dataclass(slots=True)
class Flow:
    """This router's part in flow control."""

    requests: Requests
    role: FlowRole
    membership: Membership
    server: grpc.aio.Server | None
    """For the mesh's other routers; None for a router alone."""
    forget: Callable[[Callable[[str], bool]], object]
    """Takes whether a tenant or key is known, and forgets the usage of others."""

    async def start(self) -> None:
        """Take other routers in."""
        if self.server is not None:
            await self.server.start()

    async def stop(self, within_seconds: float) -> None:
        """After the last request: say goodbye, and take no router in any more."""
        await self.role.leave(within_seconds)
        if self.server is not None:
            await self.server.stop(_STOP_SECONDS)


def build_flow(
    settings: RouterSettings, pools: PoolDirectory, own: TenantLimiter, shadowed: Shadowed, clock: Clock
) -> Flow:
    """Put it together.

    Args:
        settings: of this router.
        pools: whose truth this router is, when it is the controller.
        own: what this router's own requests used.
        shadowed: told of what limits in shadow mode would have refused.
        clock: of everything.
    """
    instance = secrets.token_hex(8)
    requests = Requests(settings.router, instance, own, pools.serves, clock)
    controller = FlowController(pools, clock, shadowed=shadowed)
    mirror = Mirror(own, controller.rate_level, clock)
    controller.inherit = mirror.inherit
    servicer = FlowServicer(controller, mirror, instance, clock)
    role = FlowRole(requests, controller, mirror, settings.tls, clock, servicer.role_changed)
    controller.spawn = role.spawn
    server = None
    if settings.flow_listen is None:
        role.stand_alone()
    else:
        server = build_server(
            listen=[settings.flow_listen],
            register=lambda server: rpc.add_FlowServiceServicer_to_server(servicer, server),
            service_names=["tenantry.flow.v1.FlowService"],
            health=HealthBoard([]),
            tls=settings.tls,
        )
    target = settings.flow_target or settings.flow_listen or ""
    return Flow(requests, role, Membership(role, target, settings.state_dir), server, controller.forget)
