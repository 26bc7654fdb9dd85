"""This router's requests at the flow controller, which may be this process, another one, or none right now.

A request waits here while no controller is reached, and asks again when one is: what was not granted was not sent, so
asking twice is safe. What was granted goes on meanwhile, and is reported to the next controller. If none is found for
too long, it ends: a controller may have given its place to others.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import count
from typing import Protocol, TypeVar

from services.common.clock import Clock
from services.common.errors import Error, UnavailableError
from services.router.flow.events import (
    Ask,
    Ended,
    Enter,
    Entered,
    Granted,
    Held,
    Join,
    Left,
    Refused,
    Reload,
    Report,
    RequestAnswer,
    RequestEvent,
    Reserved,
)
from services.router.flow.grant import Grant, unreachable
from services.router.limits.limited import Limited
from services.router.limits.tenant_limiter import TenantLimiter, Usage
from services.router.pool.demand import Demand
from services.router.pool.pool_kind import PoolKind

_log = logging.getLogger(__name__)
_Waited = TypeVar("_Waited")

# A request is refused this long before its deadline, so that its caller hears why.
_ANSWER_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 3600.0
_KEPT_SECONDS = 120.0


class Link(Protocol):
    """The way to the flow controller."""

    def send(self, event: RequestEvent) -> None:
        """Send an event, after those sent before."""
        ...


class Serves(Protocol):
    """Whether requests for a pool may still be sent to a target: `PoolDirectory.serves`."""

    def __call__(self, kind: PoolKind, target: str) -> bool:
        """Whether they may."""
        ...


class Request:
    """One request, from its arrival to its end: what it holds at the flow controller."""

    def __init__(self, requests: Requests, enter: Enter) -> None:
        self._requests = requests
        self.enter = enter
        self.ask: Ask | None = None
        self.refusal: Error | None = None
        """Of its arrival."""
        self.heard = False
        """Whether a controller answered, so that the levels heard since hold its arrival."""
        self.confirmed: asyncio.Future[None] | None = None
        self.reserved: asyncio.Future[None] | None = None
        self.granted: asyncio.Future[Grant] | None = None
        self.grant: Grant | None = None

    async def confirm(self, deadline: float) -> None:
        """Wait until the flow controller has counted the arrival.

        Raises:
            ResourceExhaustedError: rate or concurrency are used up.
            UnavailableError: no flow controller was reached in time.
        """
        await self._requests.confirm(self, deadline)

    async def acquire(
        self, pool: PoolKind, demand: Demand, first: Callable[[], Awaitable[object]] | None = None
    ) -> Grant:
        """Reserve tokens and wait for a place, as long as the deadline allows; cancel-safe.

        Args:
            pool: where.
            demand: what is asked.
            first: awaited before the request joins the queue, so that no place is held meanwhile. Not begun for a
                request that is refused at once.

        Raises:
            ResourceExhaustedError: a limit is reached, the queue is full, or moves too slowly for the deadline.
            UnavailableError: no endpoint is ready, or no flow controller was reached before the deadline.
        """
        return await self._requests.acquire(self, pool, demand, first)

    def fail(self, error: Error) -> None:
        """Refuse what it waits for."""
        for waited in (self.confirmed, self.reserved, self.granted):
            if waited is not None and not waited.done():
                waited.set_exception(error)
                # Retrieved: one of them may be awaited no more.
                waited.exception()
        if self.ask is None:
            self.refusal = error


class Requests:
    """The requests of this router, as the flow controller knows them.

    Args:
        router: this router's name.
        instance: made at this process's start.
        own: what this router's own requests used; what it hears of others raises the rates.
        serves: whether requests for a pool may still be sent to a target.
        clock: of deadlines.
    """

    def __init__(self, router: str, instance: str, own: TenantLimiter, serves: Serves, clock: Clock) -> None:
        self.router = router
        self.instance = instance
        self.serves = serves
        self._own = own
        self._clock = clock
        self._numbers = count(1)
        self._requests: dict[int, Request] = {}
        self._grants: dict[int, tuple[Enter, Grant]] = {}
        """What holds a place, also after its request left while the server still works."""
        self._counters: dict[tuple[str, str], float] = {}
        self._witnessed: dict[str, dict[str, tuple[Usage, float]]] = {}
        """By instance of a controller, and by tenant and key: what its own requests used, and when it said so."""
        self._link: Link | None = None
        self._open = False
        """Whether the controller takes requests."""
        self.unreached_since: float | None = None
        """Since when no controller counts what is held; None while one does."""
        self.before_join: Callable[[Sequence[str]], Callable[[], Awaitable[object]] | None] = lambda _: None
        """Awaited before a request waits for a place: another router keeps what its tenant and key use."""

    @property
    def holding(self) -> int:
        """Requests with a place."""
        return len(self._grants)

    @property
    def reached(self) -> bool:
        """Whether a flow controller takes requests."""
        return self._open

    @contextmanager
    def entered(self, limited: Sequence[Limited], *, confirms: bool = False) -> Iterator[Request]:
        """Count a request against what limits it, as long as it is there.

        Raises:
            ResourceExhaustedError: rate or concurrency are used up, as far as is known here at once.
        """
        self._own.enter(limited, self._clock.monotonic_seconds())
        request = Request(self, Enter(next(self._numbers), limited, confirms))
        number = request.enter.number
        if confirms:
            request.confirmed = asyncio.get_running_loop().create_future()
        self._requests[number] = request
        try:
            if self._open:
                self.send(request.enter)
                if request.refusal is not None:
                    self._own.uncount_rate(limited)
                    raise request.refusal
            yield request
        finally:
            del self._requests[number]
            self._own.leave(limited)
            self.send(Left(number))

    @asynccontextmanager
    async def confirmed(self, limited: Sequence[Limited], deadline: float) -> AsyncIterator[None]:
        """Count a request as long as it is there, once the flow controller has counted its arrival.

        Raises:
            ResourceExhaustedError: rate or concurrency are used up.
            UnavailableError: no flow controller was reached before the deadline.
        """
        with self.entered(limited, confirms=True) as request:
            await request.confirm(deadline)
            yield

    async def confirm(self, request: Request, deadline: float) -> None:
        """Wait until a request's arrival is counted; see `Request.confirm`."""
        if request.confirmed is not None:
            await self._until(request.confirmed, deadline)

    async def acquire(
        self,
        request: Request,
        pool: PoolKind,
        demand: Demand,
        first: Callable[[], Awaitable[object]] | None,
    ) -> Grant:
        """Reserve tokens and wait for a place; see `Request.acquire`."""
        if request.refusal is not None:
            raise request.refusal
        kept = self.before_join([one.subject for one in request.enter.limited])
        joins, loop = first is None and kept is None, asyncio.get_running_loop()
        number = request.enter.number
        request.ask = Ask(number, pool, demand, joins)
        request.reserved, request.granted = loop.create_future(), loop.create_future()
        try:
            if self._open:
                self.send(request.ask)
            if not joins:
                await self._until(request.reserved, demand.deadline)
                if kept is not None:
                    await kept()
                if first is not None:
                    await first()
                request.ask = replace(request.ask, joins=True)
                if self._open:
                    self.send(Join(number))
            return await self._until(request.granted, demand.deadline)
        except BaseException:
            if request.grant is not None:
                request.grant.refund_prompt()
                request.grant.give_back()  # proven: grant-handed-on
            else:
                self.send(Ended(number))
            raise
        finally:
            request.ask = request.reserved = request.granted = request.grant = None

    def report(self) -> Report:
        """All that this router holds and knows, for a controller; ask nothing until it takes requests."""
        now = self._clock.monotonic_seconds()
        return Report(
            router=self.router,
            instance=self.instance,
            held=[
                Held(
                    replace(enter, counted=True, confirms=False),
                    grant.ask,
                    enter.number not in self._requests,
                    grant.target,
                    grant.output_tokens,
                    grant.counter,
                )
                for enter, grant in self._grants.values()
            ],
            usage=self._usage(now),
            counters=[(pool, uid, counter) for (pool, uid), counter in self._counters.items()],
            witnessed={
                instance: [_aged(used, now - at) for used, at in usages.values()]
                for instance, usages in self._witnessed.items()
            },
        )

    def _usage(self, now_seconds: float) -> list[Usage]:
        """What its requests used, without what they will enter and ask for at the controller."""
        unheard = Counter(
            one.subject
            for number, request in self._requests.items()
            if not request.heard and number not in self._grants
            for one in request.enter.limited
        )
        return [
            # Reserved tokens are those of what is held.
            replace(used, reserved_tokens=0, rate_level=max(0.0, used.rate_level - unheard[used.subject]))
            for used in self._own.used(now_seconds)
        ]

    def link(self, link: Link) -> None:
        """Send what happens to granted requests this way: they were reported there."""
        self._link, self._open = link, False

    def open(self) -> None:
        """Enter and ask for all that has no place: the controller takes requests."""
        self._open = True
        for request in list(self._requests.values()):
            if request.enter.number not in self._grants:
                request.enter = replace(request.enter, counted=request.heard)  # proven: arrivals-count-once
                self.send(request.enter)
                if request.ask is not None:
                    self.send(request.ask)

    def taken(self) -> None:
        """Note that a controller has taken the report."""
        self.unreached_since = None

    def stop_asking(self) -> None:
        """Ask nothing until there is another link: this process is the controller no longer."""
        if self._link is not None:
            self.unlink(self._link)

    def unlink(self, link: Link) -> None:
        """Ask nothing until there is another link."""
        if self._link is not link:
            return
        self._link, self._open = None, False
        if self.unreached_since is None:
            self.unreached_since = self._clock.monotonic_seconds()
        for _, grant in self._grants.values():
            grant.reloaded(unreachable())

    def fence(self) -> None:
        """End every request that holds a place: no controller was reached for too long."""
        if self._grants:
            _log.error("%d requests end: no flow controller was reached", len(self._grants))
        for _, grant in list(self._grants.values()):
            grant.fence()

    def witness(self, instance: str, usages: Sequence[Usage]) -> None:
        """Keep what a controller's own requests used, in case it dies."""
        now = self._clock.monotonic_seconds()
        for used in usages:
            self._witnessed.setdefault(instance, {})[used.subject] = used, now
        for other in list(self._witnessed):
            # What it used counts for a minute.
            if max(at for _, at in self._witnessed[other].values()) < now - _KEPT_SECONDS:
                del self._witnessed[other]

    def receive(self, answer: RequestAnswer) -> None:
        """Take the controller's word."""
        number = answer.number
        request, held = self._requests.get(number), self._grants.get(number)
        if isinstance(answer, Granted):
            self._granted(request, answer)
        elif isinstance(answer, Refused) and held is None:
            if request is not None:
                request.fail(answer.error)
        elif isinstance(answer, Refused | Reload):
            if held is not None:
                held[1].reloaded(answer.send_weights if isinstance(answer, Reload) else _failed(answer))
        elif request is not None:
            self._goes_on(request, answer)

    def send(self, event: RequestEvent) -> None:
        """Send an event, if there is a controller: otherwise the report to the next one holds it."""
        if self._link is not None:
            self._link.send(event)

    def over(self, ended: Ended) -> None:
        """Let a granted request end."""
        self._grants.pop(ended.number, None)
        self.send(ended)

    def _goes_on(self, request: Request, answer: Entered | Reserved) -> None:
        request.heard = True
        if isinstance(answer, Entered):
            waited = request.confirmed
        else:
            waited = request.reserved
            self._hear(request.enter, answer.rate_levels)
        if waited is not None and not waited.done():
            waited.set_result(None)

    def _granted(self, request: Request | None, answer: Granted) -> None:
        if request is None or request.ask is None or request.granted is None or request.granted.done():
            # Its caller left, or it was refused here meanwhile.
            self.send(Ended(answer.number, prompt_used=False))
            return
        ask = request.ask
        request.heard = True
        self._hear(request.enter, answer.rate_levels)
        self._counters[ask.pool.name, request.enter.tenant_uid] = answer.service_counter
        grant = request.grant = Grant(self, ask, answer)
        self._grants[answer.number] = request.enter, grant
        if request.reserved is not None and not request.reserved.done():
            request.reserved.set_result(None)
        request.granted.set_result(grant)

    def _hear(self, enter: Enter, rate_levels: Sequence[float]) -> None:
        now = self._clock.monotonic_seconds()
        for one, level in zip(enter.limited, rate_levels, strict=False):
            self._own.heard(one.subject, level, now)

    async def _until(self, answer: asyncio.Future[_Waited], deadline: float) -> _Waited:
        """Wait for an answer; a request that no controller hears is refused shortly before its deadline."""
        while not answer.done():
            left = deadline - _ANSWER_SECONDS - self._clock.monotonic_seconds()
            if left <= 0 and not self._open:
                raise unreachable()
            # Once a controller has it, the request's own deadline ends the wait.
            await asyncio.wait([answer], timeout=min(max(left, _ANSWER_SECONDS), _LONGEST_WAIT_SECONDS))
        return answer.result()


def _failed(refused: Refused) -> UnavailableError:
    error = refused.error
    return error if isinstance(error, UnavailableError) else unreachable()


def _aged(used: Usage, seconds: float) -> Usage:
    return replace(used, spent_tokens=[(age + seconds, tokens) for age, tokens in used.spent_tokens])
