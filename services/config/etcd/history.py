"""Detects that etcd was restored or exchanged, from the answers it gives. Pure.

A cluster's revision never goes back. If an answer has a lower revision than one known when it was requested, or another
cluster id, etcd was restored or exchanged. Its revisions then belong to another history and do not compare with ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asked:
    """The state known when a request was sent; answers may arrive out of order."""

    number: int
    cluster_id: int
    revision: int


class History:
    """The history of revisions that is followed."""

    def __init__(self) -> None:
        self.number = 1
        """Increases with every history that ends."""
        self.cluster_id = 0
        """The cluster id of the etcd that answered last; 0 before the first answer."""
        self.revision = 0
        """The highest known revision."""
        self.on_end: Callable[[], None] = lambda: None
        """Called as soon as a history ends, before the answer that showed it is used."""

    def asking(self) -> Asked:
        """Note what is known before a request; pass it to `answered` with the answer."""
        return Asked(self.number, self.cluster_id, self.revision)

    def answered(self, asked: Asked, cluster_id: int, revision: int) -> bool:
        """Check a linearizable answer; returns whether it certainly belongs to the history followed now."""
        if asked.number != self.number:
            # Another answer has ended that history already; this one may belong to either.
            return False
        if (asked.cluster_id and cluster_id != asked.cluster_id) or revision < asked.revision:
            self.end()  # proven: older-answers-end-a-history
        self.cluster_id = cluster_id
        self.revision = max(self.revision, revision)
        return True

    def reached(self, revision: int) -> None:
        """Note that the watch has shown everything up to a revision."""
        self.revision = max(self.revision, revision)

    def end(self) -> None:
        """End the history: what follows belongs to another one."""
        self.number += 1
        self.revision = 0
        self.on_end()
