"""The whole of Envoy's config, as the binary message Envoy reads.

Binary, because JSON field names made from betterproto's differ from Envoy's for a few fields.
"""

from __future__ import annotations

from pathlib import Path

from services.edge.clusters import service_cluster
from services.edge.listener_specs import operations_door, tenant_door
from services.edge.listeners import door_listener
from services.edge.messages import bootstrap, core, pipe
from services.edge.overload import overload_manager, runtime
from services.edge.spec import EdgeSpec


def build(spec: EdgeSpec) -> bytes:
    """Envoy's bootstrap for a spec."""
    doors = (tenant_door(spec), operations_door(spec))
    message = bootstrap.Bootstrap(
        node=core.Node(id="edge", cluster="tenantry"),
        admin=bootstrap.Admin(address=pipe(spec.admin_socket)),
        static_resources=bootstrap.BootstrapStaticResources(
            listeners=[door_listener(spec, door) for door in doors],
            clusters=[
                service_cluster("router", spec.router_sockets),
                service_cluster("config", [spec.config_admin_socket]),
                service_cluster("audit", [spec.audit_review_socket]),
            ],
        ),
        overload_manager=overload_manager(spec.limits, doors),
        layered_runtime=runtime(doors),
    )
    return bytes(message)


def write(spec: EdgeSpec, path: Path) -> None:
    """Write the bootstrap for `envoy --config-path`; the name has to end with `.pb`."""
    path.write_bytes(build(spec))
