"""Command line, settings and readiness probe of each process of the local mesh."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from services.local.layout import StateLayout
from services.local.mesh_ports import Ports
from services.local.needs import required_binary
from services.local.ports import LOOPBACK
from services.local.process import ProcessSpec
from services.local.readiness import grpc_health, http_ok
from triton_models.cpu_engine.launch import (
    TwinSettings,
    assemble,
    remove_abandoned_memory,
    remove_leftover_memory,
    triton_command,
)

# The mesh gets none of the caller's environment: no proxy, no stray setting, no secret.
_ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", "GRPC_VERBOSITY": "ERROR"}


def etcd(layout: StateLayout, ports: Ports, program: Path | None = None) -> ProcessSpec:
    """A single etcd over the state directory's data, every write synced.

    Args:
        layout: has the directory of its data.
        ports: has its ports.
        program: in place of the packaged one. The PATH is not searched: a newer etcd found there would change the
            data so that the packaged one cannot read them any more.
    """
    client, peer = f"http://{LOOPBACK}:{ports.etcd_client}", f"http://{LOOPBACK}:{ports.etcd_peer}"
    flags = {
        "name": "local",
        "data-dir": layout.etcd_dir,
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"local={peer}",
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "1h",
        "log-level": "warn",
    }
    return ProcessSpec(
        name="etcd",
        argv=[
            str(program or required_binary("etcd")),
            *(f"--{flag}={value}" for flag, value in flags.items()),
        ],
        env=_ENVIRONMENT,
        ready=http_ok("/health", port=ports.etcd_client),
    )


def _service(
    name: str,
    module: str,
    layout: StateLayout,
    ports: Ports,
    settings: dict[str, str | Path],
    health_target: str,
) -> ProcessSpec:
    prefix = f"TENANTRY_{module.rsplit('.', 1)[-1].upper()}_"
    settings["metrics_address"] = f"{LOOPBACK}:{ports.metrics[name]}"
    settings["metrics_token_path"] = layout.metrics_token_path
    return ProcessSpec(
        name=name,
        argv=[sys.executable, "-P", "-m", module],
        env=_ENVIRONMENT | {prefix + key.upper(): str(value) for key, value in settings.items()},
        ready=grpc_health(health_target),
    )


def audit(layout: StateLayout, ports: Ports) -> ProcessSpec:
    """The audit service."""
    settings: dict[str, str | Path] = {
        "append_listen": layout.target("audit-append"),
        "review_listen": layout.target("audit-review"),
        "state_dir": layout.audit_dir,
    }
    return _service("audit", "services.audit", layout, ports, settings, layout.target("audit-review"))


def config(layout: StateLayout, ports: Ports) -> ProcessSpec:
    """The config service."""
    settings: dict[str, str | Path] = {
        "admin_listen": layout.target("config-admin"),
        "discovery_listen": layout.target("config-discovery"),
        "etcd_target": f"{LOOPBACK}:{ports.etcd_client}",
        "state_dir": layout.config_dir,
        "artifact_dir": layout.artifact_dir,
        "audit_target": layout.target("audit-append"),
    }
    return _service("config", "services.config", layout, ports, settings, layout.target("config-admin"))


def router(layout: StateLayout, ports: Ports, name: str) -> ProcessSpec:
    """One router process."""
    settings: dict[str, str | Path] = {
        "router": name,
        "listen": layout.target(name),
        "flow_listen": layout.target(f"{name}-flow"),
        "config_target": layout.target("config-discovery"),
        "audit_target": layout.target("audit-append"),
        "artifact_dir": layout.artifact_dir,
        "jwks_path": layout.config_dir / "jwks.json",
        # The config service makes it before it is ready, and routers start after that.
        "config_signer_path": layout.config_dir / "config-signer",
        "state_dir": layout.router_dir(name),
        "drain_seconds": "1.0",
    }
    return _service(name, "services.router", layout, ports, settings, layout.target(name))


def triton(layout: StateLayout, ports: Ports, model_directory: Path) -> ProcessSpec:
    """A tritonserver with the CPU twin."""
    settings = TwinSettings(
        model_directory=model_directory,
        state_directory=layout.triton_dir,
        grpc_port=ports.triton_grpc,
        http_port=ports.triton_http,
        metrics_port=ports.triton_metrics,
        shm_prefix=layout.shm_prefix,
    )
    assemble(settings)
    command = triton_command(settings)
    return ProcessSpec(
        name="triton",
        argv=command.argv,
        env=command.env,
        ready=http_ok("/v2/health/ready", port=ports.triton_http),
        before_start=lambda: _forget_memory(layout),
        # It counts whole seconds until its model is gone, three of them on two busy cores.
        stop_seconds=3.5,
    )


def _forget_memory(layout: StateLayout) -> None:
    remove_leftover_memory(layout.shm_prefix)
    remove_abandoned_memory(time.time())


# Without free descriptors Envoy accepts no connection, operators' included; it keeps the soft limit of its start.
_ALL_DESCRIPTORS = ["/bin/sh", "-c", 'ulimit -n "$(ulimit -H -n)" && exec "$@"', "envoy"]


def envoy(layout: StateLayout, bootstrap: Path) -> ProcessSpec:
    """The edge."""
    flags = ["--config-path", str(bootstrap), "--concurrency", "1", "--disable-hot-restart"]
    # Envoy's own is ten seconds, in which an operator would not find a request in the log.
    flags += ["--file-flush-interval-msec", "1000"]
    return ProcessSpec(
        name="envoy",
        argv=[*_ALL_DESCRIPTORS, str(required_binary("envoy")), *flags, "--log-level", "warning"],
        env=_ENVIRONMENT,
        ready=http_ok("/ready", socket=layout.socket("envoy-admin")),
    )
