"""Derives a router's status from its known facts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

SILENT_AFTER_SECONDS = 3.0
"""A router sends something twice a second; a connected one that is silent for so long is unreachable."""
RETURNS_WITHIN_SECONDS = 2.0
"""A router that reconnects within this time was not unreachable: streams break and are opened again."""


class RouterStatus(Enum):
    """How far a router is with the config in force."""

    CURRENT = "current"
    APPLYING = "applying"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, eq=False)
class Newest:
    """The config in force."""

    revision: int = 0
    content: object | None = None
    """The records; the same object while revisions advance without changing them."""
    history: int = 0
    """The history of etcd that the revision belongs to."""

    def same_as(self, other: Newest) -> bool:
        """Whether both are the same. Contents are compared by identity, since comparing records would take long."""
        same = (self.revision, self.history) == (other.revision, other.history)
        return same and self.content is other.content


@dataclass(slots=True)
class Router:
    """The known facts of one router; only the registry changes them."""

    name: str
    heard_at_seconds: float
    """Monotonic time."""
    heard_wall_seconds: float
    session: int | None = None
    """The number of its stream; None while it has none."""
    process_id: str = ""
    """Of the process that opened the stream; empty for one that did not say."""
    applied_revision: int = 0
    held: object | None = None
    """The content that it applied last on this stream."""
    refused_revision: int = 0
    refused: object | None = None
    """The content that it refused, until it applies one."""
    reasons: tuple[str, ...] = ()
    changes: int = 0
    """The number of answers, connects and disconnects; signs of life do not count."""


@dataclass(frozen=True, slots=True)
class RouterView:
    """A router at one moment."""

    name: str
    status: RouterStatus
    applied_revision: int
    refused_revision: int
    """Set for REFUSED; 0 otherwise."""
    reasons: tuple[str, ...]
    """Set for REFUSED; empty otherwise."""
    heard_wall_seconds: float
    settled: bool
    """Whether its status stays the same unless something new happens."""


def view(router: Router, newest: Newest, now_seconds: float) -> RouterView:
    """The view of a router now."""
    silent_seconds = now_seconds - router.heard_at_seconds
    settled = True
    if router.session is None or silent_seconds > SILENT_AFTER_SECONDS:
        status = RouterStatus.UNREACHABLE
        settled = silent_seconds > RETURNS_WITHIN_SECONDS
    elif newest.content is not None and router.held is newest.content:
        status = RouterStatus.CURRENT
    elif newest.content is not None and router.refused is newest.content:
        status = RouterStatus.REFUSED
    else:
        status, settled = RouterStatus.APPLYING, False
    refused = status is RouterStatus.REFUSED
    return RouterView(
        name=router.name,
        status=status,
        applied_revision=router.applied_revision,
        refused_revision=router.refused_revision if refused else 0,
        reasons=router.reasons if refused else (),
        heard_wall_seconds=router.heard_wall_seconds,
        settled=settled,
    )
