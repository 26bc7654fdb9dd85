"""The whole of Envoy's config, as the binary message Envoy reads.

Binary, because JSON field names made from betterproto's differ from Envoy's for a few fields.
"""

from __future__ import annotations

from pathlib import Path

from services.cli.local.edge.clusters import service_cluster
from services.cli.local.edge.filters import seconds
from services.cli.local.edge.listeners import operations_listener, tenant_listener
from services.cli.local.edge.messages import bootstrap, connections, core, overload, pack, pipe
from services.cli.local.edge.spec import EdgeSpec


def build(spec: EdgeSpec) -> bytes:
    """Envoy's bootstrap for a spec."""
    message = bootstrap.Bootstrap(
        node=core.Node(id="edge", cluster="tenantry"),
        admin=bootstrap.Admin(address=pipe(spec.admin_socket)),
        static_resources=bootstrap.BootstrapStaticResources(
            listeners=[tenant_listener(spec), operations_listener(spec)],
            clusters=[
                service_cluster("router", spec.router_sockets),
                service_cluster("config", [spec.config_admin_socket]),
                service_cluster("audit", [spec.audit_review_socket]),
            ],
        ),
        overload_manager=overload.OverloadManager(
            refresh_interval=seconds(0.25),
            resource_monitors=[
                overload.ResourceMonitor(
                    name="envoy.resource_monitors.global_downstream_max_connections",
                    typed_config=pack(
                        connections.DownstreamConnectionsConfig(
                            max_active_downstream_connections=spec.max_connections
                        )
                    ),
                )
            ],
        ),
    )
    return bytes(message)


def write(spec: EdgeSpec, path: Path) -> None:
    """Write the bootstrap for `envoy --config-path`; the name has to end with `.pb`."""
    path.write_bytes(build(spec))
