"""Whether etcd's answers go on where earlier ones left off. Pure.

A cluster never forgets a revision that it answered with. An answer below one that was known when it was asked for, or
one of another cluster, means that etcd was restored or exchanged: its revisions are another history's, and comparing
them with ours says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asked:
    """What was known when a question was asked; answers may overtake each other."""

    number: int
    cluster_id: int
    revision: int


class History:
    """The line of revisions that is followed."""

    def __init__(self) -> None:
        self.number = 1
        """One more with every history that ended."""
        self.cluster_id = 0
        """Of the etcd that answered last; 0 before the first answer."""
        self.revision = 0
        """The highest known."""
        self.on_end: Callable[[], None] = lambda: None
        """Called at once when the history ends, before anybody uses the answer that told of it."""

    def asking(self) -> Asked:
        """To be given back with the answer."""
        return Asked(self.number, self.cluster_id, self.revision)

    def answered(self, asked: Asked, cluster_id: int, revision: int) -> bool:
        """A linearizable answer came; returns whether it is certainly of the history that is followed now."""
        if asked.number != self.number:
            # Somebody else's answer told of it already, and this one may be of either.
            return False
        if (asked.cluster_id and cluster_id != asked.cluster_id) or revision < asked.revision:
            self.end()  # proven: older-answers-end-a-history
        self.cluster_id = cluster_id
        self.revision = max(self.revision, revision)
        return True

    def reached(self, revision: int) -> None:
        """The watch shows everything up to a revision."""
        self.revision = max(self.revision, revision)

    def end(self) -> None:
        """What comes is of another history."""
        self.number += 1
        self.revision = 0
        self.on_end()
