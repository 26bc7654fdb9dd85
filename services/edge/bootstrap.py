"""The whole of Envoy's config: made from a spec, written in a form Envoy reads."""

from __future__ import annotations

import json
from pathlib import Path

from services.common.durable_files import replace_file
from services.edge.clusters import service_cluster
from services.edge.listener_specs import operations_listener, tenant_listener
from services.edge.listeners import tls_listener
from services.edge.messages import bootstrap, bound_address, core, to_json_names
from services.edge.overload import overload_manager, runtime
from services.edge.spec import EdgeSpec

BINARY_SUFFIX = ".pb"
TEXT_SUFFIXES = (".json", ".yaml", ".yml")
"""Envoy takes a file's format from its name; JSON is YAML too."""


def build(spec: EdgeSpec) -> bytes:
    """Envoy's bootstrap for a spec, as a binary protobuf message."""
    return bytes(_message(spec))


def build_json(spec: EdgeSpec) -> str:
    """The same as JSON, to read and to compare."""
    return json.dumps(to_json_names(_message(spec)), indent=2) + "\n"


def write(spec: EdgeSpec, path: Path) -> None:
    """Write the bootstrap for `envoy --config-path`, with mode 0600: it may hold private keys.

    Raises:
        ValueError: the name ends in none of the suffixes by which Envoy knows a format.
        OSError: it cannot be written.
    """
    if path.suffix == BINARY_SUFFIX:
        replace_file(path, build(spec))
    elif path.suffix in TEXT_SUFFIXES:
        replace_file(path, build_json(spec).encode())
    else:
        raise ValueError(f"{path.name} ends in none of {BINARY_SUFFIX}, {', '.join(TEXT_SUFFIXES)}")


def _message(spec: EdgeSpec) -> bootstrap.Bootstrap:
    listeners = (tenant_listener(spec), operations_listener(spec))
    upstreams = spec.upstreams
    return bootstrap.Bootstrap(
        node=core.Node(id=spec.node_id, cluster="tenantry"),
        admin=bootstrap.Admin(address=bound_address(spec.admin)),
        static_resources=bootstrap.BootstrapStaticResources(
            listeners=[tls_listener(spec, listener) for listener in listeners],
            clusters=[
                service_cluster("router", upstreams.router),
                service_cluster("config", upstreams.config),
                service_cluster("audit", upstreams.audit),
            ],
        ),
        overload_manager=overload_manager(spec.limits, listeners),
        layered_runtime=runtime(listeners),
    )
