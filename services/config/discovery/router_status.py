"""One router as the config service knows it, and what that makes it look like. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

SILENT_AFTER_SECONDS = 3.0
"""A router speaks twice a second; one that is connected and silent for this long counts as out of reach."""
RETURNS_WITHIN_SECONDS = 2.0
"""A router that is back within this time was not out of reach: streams break and are opened again."""


class RouterStatus(Enum):
    """Where a router stands."""

    CURRENT = "current"
    APPLYING = "applying"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, eq=False)
class Newest:
    """The config in force."""

    revision: int = 0
    content: object | None = None
    """The same object for as long as revisions move without the records."""
    history: int = 0
    """Which history of etcd the revision is of."""

    def same_as(self, other: Newest) -> bool:
        """Whether nothing moved. Contents are told apart as objects: comparing them would take long."""
        same = (self.revision, self.history) == (other.revision, other.history)
        return same and self.content is other.content


@dataclass(slots=True)
class Router:
    """What is known of one router; the registry alone changes it."""

    name: str
    heard_at_seconds: float
    """On the clock that only moves forward."""
    heard_wall_seconds: float
    session: int | None = None
    """Its connection; None while it has none."""
    applied_revision: int = 0
    held: object | None = None
    """The content it applied last in this session."""
    refused_revision: int = 0
    refused: object | None = None
    """The content it refused, until it applies one."""
    reasons: tuple[str, ...] = ()
    changes: int = 0
    """Counts answers and connections; signs of life do not count."""


@dataclass(frozen=True, slots=True)
class RouterView:
    """A router at one moment."""

    name: str
    status: RouterStatus
    applied_revision: int
    refused_revision: int
    """For REFUSED; 0 otherwise."""
    reasons: tuple[str, ...]
    """For REFUSED; empty otherwise."""
    heard_wall_seconds: float
    settled: bool
    """Whether it stays as it is unless something new happens."""


def view(router: Router, newest: Newest, now_seconds: float) -> RouterView:
    """What a router looks like now."""
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
