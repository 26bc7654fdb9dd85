"""The snapshot in force, and how long ago the config service, following etcd, was last heard."""

from __future__ import annotations

from services.common.clock import Clock
from services.common.errors import Reason, UnavailableError
from services.router.snapshot import Snapshot, Tenant

STALE_AFTER_SECONDS = 2.0
"""Four missed heartbeats."""


class ConfigState:
    """One reference, swapped whole."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._heard_at_seconds = float("-inf")
        self.from_file = False
        """Whether what is in force is out of a file: stale, whoever is heard."""

    def put(self, snapshot: Snapshot, *, from_file: bool = False) -> None:
        """Put a snapshot in force for every request from now on."""
        self._snapshot, self.from_file = snapshot, from_file

    def heard(self) -> None:
        """The config service spoke, and follows etcd: what is in force, or on its way, is the newest there is."""
        self._heard_at_seconds = self._clock.monotonic_seconds()

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
    def silence_seconds(self) -> float | None:
        """Since a config service that follows etcd was heard; None for never."""
        silence_seconds = self._clock.monotonic_seconds() - self._heard_at_seconds
        return silence_seconds if silence_seconds < float("inf") else None

    @property
    def stale(self) -> bool:
        """Whether touch is lost."""
        silence_seconds = self._clock.monotonic_seconds() - self._heard_at_seconds
        return self.from_file or silence_seconds > STALE_AFTER_SECONDS

    def check_fresh(self, tenant: Tenant) -> bool:
        """Whether this tenant's answers must be flagged stale.

        Raises:
            UnavailableError: stale, and the tenant wants no stale answers.
        """
        if self.stale and not tenant.serve_stale:
            raise UnavailableError("the config may be out of date", reason=Reason.CONFIG_STALE)
        return self.stale
