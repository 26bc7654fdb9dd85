"""Paths of the local mesh: one state directory, and a short one for sockets where that is too deep."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.common.command_errors import CommandError
from services.common.rpc.targets import MAX_UNIX_PATH_BYTES, UNIX_PREFIX
from triton_models.cpu_engine.launch import MEMORY_PREFIX

# Triton's python backend puts its stub's path into a shell's command line as it is.
_PLAIN_PATH = re.compile(r"[\w@%+=:,./-]+")
_LONGEST_SOCKET_NAME = "config-discovery.sock"


@dataclass(frozen=True, slots=True)
class StateLayout:
    """Paths under one state directory."""

    state_dir: Path
    socket_dir: Path
    """Short enough for Unix sockets; removed at the end."""
    models_dir: Path
    """Prepared models: made once, shared by later runs."""

    @property
    def etcd_dir(self) -> Path:
        """Etcd's data."""
        return self.state_dir / "etcd"

    @property
    def audit_dir(self) -> Path:
        """The audit service's state."""
        return self.state_dir / "audit"

    @property
    def config_dir(self) -> Path:
        """The config service's state."""
        return self.state_dir / "config"

    def router_dir(self, name: str) -> Path:
        """One router's state."""
        return self.state_dir / "routers" / name

    @property
    def artifact_dir(self) -> Path:
        """The artifact store, shared by config service and routers."""
        return self.state_dir / "artifacts"

    @property
    def triton_dir(self) -> Path:
        """Triton's model repository, assembled at each start."""
        return self.state_dir / "triton"

    @property
    def triton_targets_path(self) -> Path:
        """Targets of our own Triton in earlier runs, so that the pool's other endpoints are left alone."""
        return self.state_dir / "triton-targets"

    @property
    def edge_dir(self) -> Path:
        """Envoy's bootstrap and certificates."""
        return self.state_dir / "edge"

    @property
    def keys_dir(self) -> Path:
        """One key file a demo tenant."""
        return self.state_dir / "keys"

    @property
    def logs_dir(self) -> Path:
        """A log file for each process; a second one beside it holds the older lines of a full one."""
        return self.state_dir / "logs"

    @property
    def access_log_path(self) -> Path:
        """Requests at the edge, written by Envoy itself."""
        return self.logs_dir / "access.log"

    @property
    def ports_path(self) -> Path:
        """The ports of the start before."""
        return self.state_dir / "ports.json"

    @property
    def metrics_token_path(self) -> Path:
        """Opens the metrics of every service of this mesh."""
        return self.state_dir / "metrics-token"

    @property
    def operator_key_path(self) -> Path:
        """The first platform-admin's key."""
        return self.config_dir / "operator.key"

    @property
    def shm_prefix(self) -> str:
        """Starts the names of Triton's shared memory; the same at every run, so that a new one cleans up."""
        digest = hashlib.sha256(os.fsencode(self.state_dir)).hexdigest()[:12]
        return f"{MEMORY_PREFIX}{digest}_"

    def socket(self, name: str) -> Path:
        """The Unix socket of a listener."""
        return self.socket_dir / f"{name}.sock"

    def target(self, name: str) -> str:
        """The socket as a gRPC target."""
        return f"{UNIX_PREFIX}{self.socket(name)}"


@contextmanager
def open_layout(state_dir: Path, models_dir: Path | None = None) -> Iterator[StateLayout]:
    """Take a state directory for this process alone; its sockets are gone at the end.

    Raises:
        CommandError: another mesh runs in it, it cannot be written, or Triton cannot run from it.
    """
    state_dir = state_dir.absolute()
    if not _PLAIN_PATH.fullmatch(str(state_dir)):
        raise CommandError(
            f"Triton cannot run from {state_dir}: its path has a space or a character special to shells.",
            "Give --state-dir another.",
        )
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(state_dir / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandError(
            f"cannot use {state_dir}: {error.strerror}.", "Give --state-dir another."
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(
                f"a mesh runs in {state_dir} already.",
                "Stop it with Ctrl-C where it runs, or give --state-dir another directory.",
            ) from None
        socket_dir = _socket_dir(state_dir)
        try:
            yield StateLayout(state_dir, socket_dir, models_dir or state_dir / "models")
        finally:
            shutil.rmtree(socket_dir, ignore_errors=True)
    finally:
        os.close(lock)


def _socket_dir(state_dir: Path) -> Path:
    near = state_dir / "run"
    if len(os.fsencode(near / _LONGEST_SOCKET_NAME)) > MAX_UNIX_PATH_BYTES:
        return Path(tempfile.mkdtemp(prefix="tenantry-"))
    # Left by a killed run.
    shutil.rmtree(near, ignore_errors=True)
    near.mkdir(mode=0o700)
    return near
