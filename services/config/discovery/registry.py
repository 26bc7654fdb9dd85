"""Which routers there are and what each has applied: fed by the discovery streams, asked by the admin service. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from services.common.clock import Clock
from services.common.errors import ResourceExhaustedError
from services.config.discovery.router_status import Newest, Router, RouterView, view

MAX_ROUTERS = 4096
MAX_REASONS = 20
MAX_REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Session:
    """One router's connection."""

    router: str
    number: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a revision has come."""

    applied_routers: int
    missing: tuple[RouterView, ...]
    complete: bool
    settled: bool
    """Whether waiting longer would change nothing unless something new happens."""


class RouterRegistry:
    """Every router heard of within the expiry."""

    def __init__(self, clock: Clock, expiry_seconds: float) -> None:
        self._clock = clock
        self._expiry_seconds = expiry_seconds
        self._routers: dict[str, Router] = {}
        self._numbers = itertools.count(1)
        self._newest = Newest()
        self._listeners: set[Callable[[], None]] = set()

    def connect(self, name: str) -> Session:
        """A router opened a stream; an older stream of the same name counts no more.

        Raises:
            ResourceExhaustedError: more routers are connected than are kept track of.
        """
        self._forget_expired()
        router = self._routers.get(name)
        if router is None:
            self._make_room()
            router = self._routers[name] = Router(name, 0.0, 0.0)
        router.session = next(self._numbers)
        # What it holds it has yet to show: it may be another process under the same name.
        router.held = router.refused = None
        router.applied_revision = router.refused_revision = 0
        router.reasons = ()
        self._heard(router)
        self._changed(router)
        return Session(name, router.session)

    def stands(self, session: Session) -> bool:
        """Whether a session is the newest under its name."""
        return self._of(session) is not None

    def heard(self, session: Session) -> None:
        """The router gave a sign of life."""
        router = self._of(session)
        if router is not None:
            self._heard(router)

    def applied(self, session: Session, revision: int, content: object, history: int = 0) -> None:
        """The router applied a snapshot; one of a history of etcd that ended shows no revision."""
        router = self._of(session)
        if router is not None:
            router.held = content
            router.applied_revision = (
                revision if history == self._newest.history else 0
            )  # proven: revisions-of-one-history
            router.refused, router.refused_revision, router.reasons = None, 0, ()
            self._advance(router)
            self._changed(router)

    def refused(self, session: Session, revision: int, content: object, reasons: list[str]) -> None:
        """The router refused a snapshot; what it held before stays in force there."""
        router = self._of(session)
        if router is not None:
            router.refused, router.refused_revision = content, revision
            router.reasons = tuple(reason[:MAX_REASON_CHARACTERS] for reason in reasons[:MAX_REASONS])
            self._changed(router)

    def disconnect(self, session: Session) -> None:
        """A stream ended. A router that is gone stays known until it expires."""
        router = self._of(session)
        if router is not None:
            router.session = None
            self._changed(router)

    def leave(self, session: Session) -> None:
        """Forget a router that stopped cleanly."""
        if self._of(session) is not None:
            del self._routers[session.router]  # proven: goodbye-forgets
            self._tell()

    def newest(self, revision: int, content: object, history: int = 0) -> None:
        """The config in force moved; whoever holds the same content has the newer revision as well.

        Args:
            revision: 0 for none, between two histories of etcd.
            content: the records.
            history: revisions of another one mean nothing here.
        """
        newest = Newest(revision, content, history)
        if self._newest.same_as(newest):
            return
        if history != self._newest.history or revision < self._newest.revision:
            for router in self._routers.values():
                router.applied_revision = 0
                router.changes += 1
        self._newest = newest
        for router in self._routers.values():
            self._advance(router)
        self._tell()

    def recall(self, name: str, applied_revision: int, heard_wall_seconds: float) -> None:
        """A router that an earlier process knew: out of reach until it connects, and forgotten like any other."""
        if name not in self._routers and len(self._routers) < MAX_ROUTERS:
            router = Router(name, self._clock.monotonic_seconds(), heard_wall_seconds)
            router.applied_revision = applied_revision
            self._routers[name] = router
            self._tell()

    def routers(self) -> list[RouterView]:
        """Every router, by name."""
        self._forget_expired()
        now = self._clock.monotonic_seconds()
        return [view(router, self._newest, now) for _, router in sorted(self._routers.items())]

    def progress(self, revision: int) -> Progress:
        """How far a revision has come. Nobody has applied a revision that has not been seen here."""
        routers = self.routers()
        missing = tuple(router for router in routers if router.applied_revision < revision)
        seen = self._newest.revision >= revision
        return Progress(
            applied_routers=len(routers) - len(missing),
            missing=missing,
            complete=seen and not missing,
            settled=seen and all(router.settled for router in missing),
        )

    def connected(self) -> dict[str, Router]:
        """The routers that have a stream, to be read only."""
        return {name: router for name, router in self._routers.items() if router.session is not None}

    def starting(self) -> bool:
        """Whether a router that is connected has neither applied nor refused anything yet."""
        return any(router.held is None and router.refused is None for router in self.connected().values())

    def knows(self, name: str) -> bool:
        """Whether a router has not been forgotten."""
        self._forget_expired()
        return name in self._routers

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call at every change but signs of life; returns what ends it."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def _of(self, session: Session) -> Router | None:
        router = self._routers.get(session.router)
        return router if router is not None and router.session == session.number else None

    def _advance(self, router: Router) -> None:
        # Only while connected: a router that is gone may come back with something older.
        if router.session is not None and router.held is not None and router.held is self._newest.content:
            router.applied_revision = self._newest.revision

    def _heard(self, router: Router) -> None:
        router.heard_at_seconds = self._clock.monotonic_seconds()
        router.heard_wall_seconds = self._clock.wall_seconds()

    def _changed(self, router: Router) -> None:
        router.changes += 1
        self._tell()

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()

    def _forget_expired(self) -> None:
        limit = self._clock.monotonic_seconds() - self._expiry_seconds
        gone = [
            name
            for name, router in self._routers.items()
            if router.session is None and router.heard_at_seconds < limit
        ]
        for name in gone:
            del self._routers[name]

    def _make_room(self) -> None:
        if len(self._routers) < MAX_ROUTERS:
            return
        gone = [router for router in self._routers.values() if router.session is None]
        if not gone:
            raise ResourceExhaustedError("more routers are connected than are kept track of")
        del self._routers[min(gone, key=lambda router: router.heard_at_seconds).name]
