"""The flow controller: one truth on limits and pools, over the sessions of all routers of a mesh. Synchronous.

A controller begins with what every router reports: until all of them have, nothing is admitted, so that nothing is
admitted twice. A router whose session ends keeps what it holds for a grace time, since its requests may still run: it
comes back and goes on, or it is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.common.clock import Clock
from services.router.flow.events import Report, RequestAnswer, RequestEvent
from services.router.flow.session import Session, Shared, Spawn
from services.router.limits.tenant_limiter import Shadowed, TenantLimiter, Usage
from services.router.pool.directory import PoolDirectory

_log = logging.getLogger(__name__)

GRACE_SECONDS = 5.0
"""How long a router that lost its session keeps what it holds, unless the config service says that it is gone."""
FENCE_SECONDS = 4.0
"""How long a router without a session lets its requests run: less than the grace, so that nothing runs unaccounted."""
REPORT_SECONDS = 5.0
"""How long a controller waits for routers that do not report: by then they have ended their requests."""


def _no_tasks(work: Coroutine[Any, Any, None]) -> None:
    work.close()
    raise AssertionError("nothing runs the controller's tasks")


@dataclass(slots=True, eq=False)
class Member:
    """One router at the controller."""

    report: Report
    session: Session
    serving: Callable[[], object]
    """Called once its requests are taken."""
    left_at: float | None = None
    """When its stream ended; None while it is open."""
    open: bool = False
    """Whether `serving` was called."""


@dataclass(slots=True)
class _Reign:
    """What one epoch of this controller knows."""

    epoch: int
    began_at: float
    awaited: set[str]
    """Routers that have not reported."""
    shared: Shared
    members: dict[str, Member] = field(default_factory=dict)
    """By router."""
    merged: set[str] = field(default_factory=set)
    """Instances whose usage was counted."""
    witnessed: dict[str, Sequence[Usage]] = field(default_factory=dict)
    """By instance of an earlier controller: what its own requests used, as another router kept it."""
    orphans: list[tuple[Session, float]] = field(default_factory=list)
    """Requests of routers that restarted, and until when they may still run."""


class FlowController:
    """This process as flow controller; it is one while it has an epoch."""

    def __init__(
        self,
        pools: PoolDirectory,
        clock: Clock,
        spawn: Spawn = _no_tasks,
        shadowed: Shadowed = lambda _subject, _limit: None,
    ) -> None:
        self._pools = pools
        self._clock = clock
        self._shadowed = shadowed
        self.spawn = spawn
        """Runs what waits."""
        self.inherit: Callable[[Sequence[Usage]], object] = lambda usages: None  # noqa: ARG005 - takes nothing over
        """Called with what routers that are gone spent: nobody else would report it to the next controller."""
        self._reign: _Reign | None = None

    @property
    def epoch(self) -> int:
        """The epoch in which it is the flow controller; 0 while it is not."""
        return 0 if self._reign is None else self._reign.epoch

    @property
    def serving(self) -> bool:
        """Whether every router has reported, so that requests are admitted."""
        return self._reign is not None and not self._reign.awaited

    @property
    def routers(self) -> dict[str, int]:
        """The routers that are known, and how many requests each holds; empty while it is no controller."""
        reign = self._reign
        return {} if reign is None else {name: len(one.session) for name, one in reign.members.items()}

    @property
    def settled(self) -> bool:
        """Whether no router is away whose requests may still run."""
        reign = self._reign
        return reign is None or not (
            reign.orphans or any(one.left_at is not None for one in reign.members.values())
        )

    def rate_level(self, subject: str) -> float:
        """The level of the rate limiter of a tenant or key, over all routers; 0 while it is no controller."""
        reign = self._reign
        return 0.0 if reign is None else reign.shared.limiter.rate_level(subject, self._now)

    def forget(self, known: Callable[[str], bool]) -> None:
        """Drop idle usage of tenants and keys that are not known any more."""
        if self._reign is not None:
            self._reign.shared.limiter.forget(known)

    def begin(self, epoch: int, routers: Iterable[str]) -> None:
        """Become the controller of an epoch, once these routers have reported."""
        self.end()
        shared = Shared(TenantLimiter(self._shadowed), self._pools, self._clock, self.spawn)
        self._reign = _Reign(epoch, self._now, set(routers), shared)

    def end(self) -> None:
        """Be the controller no longer: everything is given back here, and reported to the next one."""
        reign, self._reign = self._reign, None
        if reign is None:
            return
        for member in reign.members.values():
            member.session.answer = _nobody
            member.session.close()
        for session, _ in reign.orphans:
            session.close()

    def expect_only(self, routers: frozenset[str]) -> None:
        """Follow which routers the mesh has: what others held is free, and their reports are not waited for."""
        reign = self._reign
        if reign is None:
            return
        reign.awaited &= routers
        for name in [name for name in reign.members if name not in routers]:
            if reign.members[name].left_at is not None:
                self._close(reign.members.pop(name).session)
        self._open_all()

    def report(
        self, report: Report, answer: Callable[[RequestAnswer], object], serving: Callable[[], object]
    ) -> Member:
        """Take a router in, with all it holds.

        Args:
            report: of the router.
            answer: takes what its requests are answered.
            serving: called once its requests are taken, which may be at once.
        """
        reign = self._reign
        assert reign is not None, "reported to a router that is no flow controller"
        session, now = Session(reign.shared, answer), self._now
        older = reign.members.pop(report.router, None)
        known: frozenset[int] = frozenset()
        if older is not None:
            older.session.answer = _nobody
            if older.report.instance == report.instance:
                numbers = frozenset(held.ask.number for held in report.held)
                known = frozenset(number for number in numbers if older.session.holds(number))
                session.take_over(older.session, known)
            else:
                # The server may still work for the process that died.
                since = now if older.left_at is None else older.left_at
                reign.orphans.append((older.session, since + GRACE_SECONDS))
        if report.instance not in reign.merged:
            reign.merged.add(report.instance)
            session.reported(report.usage)
            for used in report.usage:
                reign.shared.limiter.merge(used, now)
            for pool_name, tenant_uid, counter in report.counters:
                if (pool := self._pools.pools.get(pool_name)) is not None:
                    pool.recall(tenant_uid, counter)
        reign.witnessed.update(report.witnessed)
        for held in report.held:
            if held.ask.number not in known:
                session.adopt(held)
        member = reign.members[report.router] = Member(report, session, serving)
        reign.awaited.discard(report.router)
        self._open_all()
        return member

    def receive(self, member: Member, event: RequestEvent) -> None:
        """Take what a router says, unless it was replaced meanwhile."""
        reign = self._reign
        if reign is not None and reign.members.get(member.report.router) is member:
            member.session.receive(event)

    def lost(self, member: Member) -> None:
        """Note that a router's stream ended: it may come back."""
        reign = self._reign
        if reign is not None and reign.members.get(member.report.router) is member:
            member.left_at = self._now
            member.session.answer = _nobody
            # It asks again when it is back.
            member.session.drop_waiting()

    def left(self, member: Member) -> None:
        """Note that a router stopped cleanly: nothing of it runs any more."""
        reign = self._reign
        if reign is not None and reign.members.get(member.report.router) is member:
            del reign.members[member.report.router]
            self._close(member.session)

    def tick(self) -> None:
        """Give back what routers held that did not come back, and stop waiting for reports; call it often."""
        reign, now = self._reign, self._now
        if reign is None:
            return
        for name, member in list(reign.members.items()):
            if member.left_at is not None and now >= member.left_at + GRACE_SECONDS:
                _log.warning("%s did not come back: its %d requests end", name, len(member.session))
                del reign.members[name]
                self._close(member.session)
        for orphan in [one for one in reign.orphans if now >= one[1]]:
            reign.orphans.remove(orphan)
            self._close(orphan[0])
        if reign.awaited and now >= reign.began_at + REPORT_SECONDS:
            _log.error("no report came from %s", ", ".join(sorted(reign.awaited)))
            reign.awaited.clear()
            self._open_all()

    def _close(self, session: Session) -> None:
        """Give back what a router held that is gone, and keep what it spent."""
        session.close()
        if usages := session.usage():
            self.inherit(usages)  # proven: what-the-gone-spent-is-kept

    def _open_all(self) -> None:
        reign = self._reign
        if reign is None or reign.awaited:
            return
        for instance, usages in reign.witnessed.items():
            # One that reported itself knows better.
            if instance not in reign.merged:
                reign.merged.add(instance)
                for used in usages:
                    reign.shared.limiter.merge(used, self._now)  # proven: a-dead-controllers-own-use
                self.inherit(usages)
        reign.witnessed.clear()
        for member in list(reign.members.values()):
            if not member.open:
                member.open = True
                member.serving()

    @property
    def _now(self) -> float:
        return self._clock.monotonic_seconds()


def _nobody(answer: RequestAnswer) -> None:
    """Drop the answer: its router's stream has ended."""
