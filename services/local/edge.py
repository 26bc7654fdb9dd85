"""The edge of a local mesh, as the spec that `services.edge` renders."""

from __future__ import annotations

from services.edge.spec import EdgeLimits, EdgeSpec, KeySets, Listeners, Source, TlsListener, Upstreams
from services.local.certificates import Certificates
from services.local.layout import StateLayout


def edge_spec(
    layout: StateLayout,
    certificates: Certificates,
    upstreams: Upstreams,
    jwks: KeySets,
    *,
    tenant_port: int,
    operations_port: int,
    limits: EdgeLimits | None = None,
) -> EdgeSpec:
    """Both listeners on loopback under one certificate; admin socket and access log under the layout."""

    def bound(port: int) -> TlsListener:
        certificate, key = Source(file=certificates.certificate_path), Source(file=certificates.key_path)
        return TlsListener(port=port, certificate=certificate, private_key=key)

    return EdgeSpec(
        listeners=Listeners(tenant=bound(tenant_port), operations=bound(operations_port)),
        upstreams=upstreams,
        jwks=jwks,
        admin=layout.target("envoy-admin"),
        access_log=str(layout.access_log_path),
        limits=limits or EdgeLimits(),
    )
