"""The snapshot in force, and how long ago etcd's last sign of life was."""

from __future__ import annotations

from services.common.clock import Clock
from services.common.errors import Reason, UnavailableError
from services.router.snapshot.model import Snapshot, Tenant

STALE_AFTER_SECONDS = 1.9
"""A tenth of a second less than the two that are promised, for the way of a heartbeat.

The config service asks a silent etcd every 0.25 s and sends a heartbeat every 0.5 s: while all is well, the last sign
of life is at most 0.75 s old. More than a second remains for a busy host.
"""


class ConfigState:
    """One reference to a snapshot, swapped whole."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._heard_at_seconds = float("-inf")
        self.from_file = False
        """Whether the snapshot in force is from a file; then it is stale, heartbeats or not."""

    def put(self, snapshot: Snapshot, *, from_file: bool = False) -> None:
        """Put a snapshot in force for every request from now on."""
        self._snapshot, self.from_file = snapshot, from_file

    def heard(self, etcd_silence_seconds: float = 0.0) -> None:
        """Record a heartbeat of a config service that follows etcd: its snapshots were the newest so long ago."""
        heard_at_seconds = self._clock.monotonic_seconds() - etcd_silence_seconds
        self._heard_at_seconds = max(self._heard_at_seconds, heard_at_seconds)

    @property
    def revision(self) -> int:
        """The revision in force; 0 before the first."""
        return self._snapshot.revision if self._snapshot else 0

    def snapshot(self) -> Snapshot:
        """The snapshot in force.

        Raises:
            UnavailableError: there is none yet.
        """
        if self._snapshot is None:
            raise UnavailableError("the router has no config yet", reason=Reason.NO_SNAPSHOT)
        return self._snapshot

    @property
    def stale(self) -> bool:
        """Whether the snapshot may be out of date."""
        silence_seconds = self._clock.monotonic_seconds() - self._heard_at_seconds
        return self.from_file or silence_seconds > STALE_AFTER_SECONDS

    def check_fresh(self, tenant: Tenant) -> bool:
        """Whether this tenant's answers must be flagged stale.

        Raises:
            UnavailableError: stale, and the tenant's policy refuses stale answers.
        """
        if self.stale and not tenant.serve_stale:
            raise UnavailableError("the config may be out of date", reason=Reason.CONFIG_STALE)
        return self.stale
