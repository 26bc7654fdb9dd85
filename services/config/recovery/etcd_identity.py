"""Recognises that etcd was replaced: another cluster, or an older revision than was known."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter

from services.common.known_good.generations import read_record, write_record
from services.config.etcd.follower import Follower, KeyChange
from services.config.etcd.store import Stored

_log = logging.getLogger(__name__)
_CLUSTER_FILE = "etcd-cluster-id"


class EtcdIdentity(Follower):
    """Compares each list with what was known before it, and raises the alarm. The list is used in any case."""

    def __init__(self, cluster_id: Callable[[], int], state_dir: Path, registry: CollectorRegistry) -> None:
        """Read the cluster id that an earlier process recorded.

        Args:
            cluster_id: of the etcd that answered last.
            state_dir: where the id is recorded.
            registry: takes the counter of replacements.
        """
        self._cluster_id = cluster_id
        self._path = state_dir / _CLUSTER_FILE
        self.cluster = read_record(self._path)
        """The cluster's id in hex; empty before the first list on a fresh state directory."""
        self.revision = 0
        """The newest revision that was in force; kept when etcd's history ends."""
        self._replaced = Counter(
            "tenantry_config_etcd_replaced_total",
            "Times etcd came back as another cluster, or at an older revision than was known.",
            ["how"],
            registry=registry,
        )

    def restored(self, cluster: str, revision: int) -> None:
        """Note the cluster and the revision of a last known good file that is in force."""
        self.cluster, self.revision = cluster, revision

    def record(self, cluster: str) -> None:
        """Write a cluster's id to disk. Blocking."""
        write_record(self._path, cluster)

    def replace(self, items: Mapping[str, Stored], revision: int) -> None:  # noqa: ARG002 - a follower's signature
        """Compare a list's cluster and revision with those known before."""
        cluster = f"{self._cluster_id():x}"
        if self.cluster and cluster != self.cluster:
            self._replaced.labels(how="cluster").inc()
            _log.error(
                "ALARM: etcd is cluster %s, not %s as before; its config is used", cluster, self.cluster
            )
        elif revision < self.revision:
            self._replaced.labels(how="revision").inc()
            _log.error(
                "ALARM: etcd is at revision %d, older than %d as before: was it restored? Its config is used",
                revision,
                self.revision,
            )
        self.cluster, self.revision = cluster, revision

    def apply(self, changes: Sequence[KeyChange], revision: int) -> None:  # noqa: ARG002 - a follower's signature
        """Note the revision."""
        self.revision = revision
