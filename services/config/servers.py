"""The config service's two listeners: one for operators, behind Envoy, and one for the mesh's own services."""

from __future__ import annotations

import grpc
from tenantry.config.v1 import (
    config_admin_service_pb2_grpc,
    config_discovery_service_pb2_grpc,
    quota_lease_service_pb2_grpc,
)

from services.common.rpc.health import HealthBoard
from services.common.rpc.server import build_server
from services.config.admin.servicer import AdminServicer
from services.config.discovery.servicer import DiscoveryServicer
from services.config.quota.servicer import QuotaLeaseServicer
from services.config.settings import ConfigSettings

MAX_ADMIN_RPCS = 256


def build_admin_server(
    settings: ConfigSettings, admin: AdminServicer, health: HealthBoard
) -> grpc.aio.Server:
    """Build the listener for operators."""

    def register(server: grpc.aio.Server) -> None:
        config_admin_service_pb2_grpc.add_ConfigAdminServiceServicer_to_server(admin, server)

    return build_server(
        listen=[settings.admin_listen],
        register=register,
        service_names=["tenantry.config.v1.ConfigAdminService"],
        health=health,
        tls=settings.tls,
        max_concurrent_rpcs=MAX_ADMIN_RPCS,
    )


def build_discovery_server(
    settings: ConfigSettings, discovery: DiscoveryServicer, leases: QuotaLeaseServicer, health: HealthBoard
) -> grpc.aio.Server:
    """Build the listener for routers."""

    def register(server: grpc.aio.Server) -> None:
        config_discovery_service_pb2_grpc.add_ConfigDiscoveryServiceServicer_to_server(discovery, server)
        quota_lease_service_pb2_grpc.add_QuotaLeaseServiceServicer_to_server(leases, server)

    return build_server(
        listen=[settings.discovery_listen],
        register=register,
        service_names=[
            "tenantry.config.v1.ConfigDiscoveryService",
            "tenantry.config.v1.QuotaLeaseService",
        ],
        health=health,
        tls=settings.tls,
    )
