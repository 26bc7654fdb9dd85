"""Keeps track of the routers and of what each has applied, for the admin service. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from services.common.clock import Clock
from services.common.errors import AlreadyExistsError, ResourceExhaustedError
from services.config.discovery.router_status import (
    SILENT_AFTER_SECONDS,
    Newest,
    Router,
    RouterView,
    view,
)

MAX_ROUTERS = 4096
MAX_REASONS = 20
MAX_REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Session:
    """One stream of a router."""

    router: str
    number: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How many routers have applied a revision, and which have not."""

    applied_routers: int
    missing: tuple[RouterView, ...]
    complete: bool
    settled: bool
    """Whether waiting longer is useless unless something new happens."""


class RouterRegistry:
    """Knows every router that was heard within the expiry."""

    def __init__(self, clock: Clock, expiry_seconds: float) -> None:
        self._clock = clock
        self._expiry_seconds = expiry_seconds
        self._routers: dict[str, Router] = {}
        self._numbers = itertools.count(1)
        self._newest = Newest()
        self._listeners: set[Callable[[], None]] = set()
        self._left: dict[str, None] | None = {}
        """Names that said goodbye, oldest first; None once the routers of an earlier process were recalled."""

    def connect(self, name: str, process_id: str = "") -> Session:
        """Note that a router opened a stream; an older stream of the same process no longer counts.

        Raises:
            AlreadyExistsError: another process has the name, and was heard lately.
            ResourceExhaustedError: as many routers are connected as can be kept track of.
        """
        self._forget_expired()
        router = self._routers.get(name)
        if router is not None and self._is_another(router, process_id):
            raise AlreadyExistsError(  # proven: one-process-a-name
                f"another process is the router {name}: give each router a name of its own, "
                "TENANTRY_ROUTER_ROUTER. If it was just killed, this one is let in soon"
            )
        if router is None:
            self._make_room()
            router = self._routers[name] = Router(name, 0.0, 0.0)
            if self._left:
                self._left.pop(name, None)
        router.session, router.process_id = next(self._numbers), process_id
        # A reconnect may be a new process, so forget what it applied.
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
        """Note a sign of life of a router."""
        router = self._of(session)
        if router is not None:
            self._heard(router)

    def applied(self, session: Session, revision: int, content: object, history: int = 0) -> None:
        """Note that a router applied a snapshot; the revision counts only if it is of the current history of etcd."""
        router = self._of(session)
        if router is not None:
            router.held = content
            same_history = history == self._newest.history
            router.applied_revision = revision if same_history else 0  # proven: revisions-of-one-history
            router.refused, router.refused_revision, router.reasons = None, 0, ()
            self._advance(router)
            self._changed(router)

    def refused(self, session: Session, revision: int, content: object, reasons: list[str]) -> None:
        """Note that a router refused a snapshot; it goes on with the one before."""
        router = self._of(session)
        if router is not None:
            router.refused, router.refused_revision = content, revision
            router.reasons = tuple(reason[:MAX_REASON_CHARACTERS] for reason in reasons[:MAX_REASONS])
            self._changed(router)

    def disconnect(self, session: Session) -> None:
        """Note that a stream ended; the router stays known until it expires."""
        router = self._of(session)
        if router is not None:
            router.session = None
            self._changed(router)

    def leave(self, session: Session) -> None:
        """Forget a router that stopped cleanly."""
        if self._of(session) is not None:
            del self._routers[session.router]  # proven: goodbye-forgets
            if self._left is not None:
                self._left[session.router] = None  # proven: a-goodbye-is-not-undone
                if len(self._left) > MAX_ROUTERS:
                    del self._left[next(iter(self._left))]
            self._notify()

    def newest(self, revision: int, content: object, history: int = 0) -> None:
        """Note the config in force; a router that holds the same content has the newer revision as well.

        Args:
            revision: the revision in force; 0 between two histories of etcd.
            content: the records.
            history: the history of etcd that the revision belongs to.
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
        self._notify()

    def recall(self, name: str, applied_revision: int, heard_wall_seconds: float) -> None:
        """Add a router that an earlier process knew: unreachable until it connects, forgotten when it expires.

        One that said goodbye to this process already is not added.
        """
        known = name in self._routers or name in (self._left or ())
        if not known and len(self._routers) < MAX_ROUTERS:
            router = Router(name, self._clock.monotonic_seconds(), heard_wall_seconds)
            router.applied_revision = applied_revision
            self._routers[name] = router
            self._notify()

    def recalled(self) -> None:
        """Note that every router of an earlier process was recalled."""
        self._left = None

    def routers(self) -> list[RouterView]:
        """Every router, sorted by name."""
        self._forget_expired()
        now = self._clock.monotonic_seconds()
        return [view(router, self._newest, now) for _, router in sorted(self._routers.items())]

    def progress(self, revision: int) -> Progress:
        """The routers that have applied a revision and those that have not; one not seen here yet is never complete."""
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
        """The routers that have a stream, for reading only."""
        return {name: router for name, router in self._routers.items() if router.session is not None}

    def starting(self) -> bool:
        """Whether a connected router has neither applied nor refused a snapshot yet."""
        return any(router.held is None and router.refused is None for router in self.connected().values())

    def knows(self, name: str) -> bool:
        """Whether a router is known."""
        self._forget_expired()
        return name in self._routers

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call a function at every change but signs of life; returns a function that ends this."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def _is_another(self, router: Router, process_id: str) -> bool:
        """Whether the router's stream is that of another process that is alive."""
        silent_seconds = self._clock.monotonic_seconds() - router.heard_at_seconds
        return (
            router.session is not None
            and silent_seconds <= SILENT_AFTER_SECONDS
            and bool(process_id and router.process_id)
            and process_id != router.process_id
        )

    def _of(self, session: Session) -> Router | None:
        router = self._routers.get(session.router)
        return router if router is not None and router.session == session.number else None

    def _advance(self, router: Router) -> None:
        # Only while connected: a router that reconnects may hold something older.
        if router.session is not None and router.held is not None and router.held is self._newest.content:
            router.applied_revision = self._newest.revision

    def _heard(self, router: Router) -> None:
        router.heard_at_seconds = self._clock.monotonic_seconds()
        router.heard_wall_seconds = self._clock.wall_seconds()

    def _changed(self, router: Router) -> None:
        router.changes += 1
        self._notify()

    def _notify(self) -> None:
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
            raise ResourceExhaustedError("as many routers are connected as can be kept track of")
        del self._routers[min(gone, key=lambda router: router.heard_at_seconds).name]
