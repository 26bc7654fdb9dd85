"""One router's requests at the flow controller: entered, queued, granted, given back. Synchronous.

Everything that a router's requests hold of limits and pools is held here, so that closing the session gives it back.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from services.common.clock import Clock
from services.common.errors import Error
from services.router.flow.events import (
    AdapterAccepted,
    AdapterMissed,
    Ask,
    Ended,
    EndpointFailed,
    Enter,
    Entered,
    Granted,
    Held,
    Join,
    Left,
    Refused,
    Reload,
    RequestAnswer,
    RequestEvent,
    Reserved,
    Used,
)
from services.router.limits.tenant_limiter import TenantLimiter, TokenHold, Usage
from services.router.limits.token_window import TokenWindow
from services.router.pool.directory import PoolDirectory
from services.router.pool.pool import Grant, Pool
from services.router.pool.queue_discipline import Ticket

Spawn = Callable[[Coroutine[Any, Any, None]], object]
"""Runs a coroutine as a task that its owner ends."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all sessions share: the truth."""

    limiter: TenantLimiter
    pools: PoolDirectory
    clock: Clock
    spawn: Spawn


class _Asked:
    """One request's hold on tokens, and its turn or place in a pool; `pool.Waiting`."""

    def __init__(self, session: Session, ask: Ask, tokens: TokenHold | None) -> None:
        self.session = session
        self.ask = ask
        self.grant: Grant | None = None
        self._tokens = tokens
        self._spent = 0
        self._output_tokens = 0
        self._pool: Pool | None = None
        self._ticket: Ticket | None = None
        self._ended = False

    @property
    def left(self) -> bool:
        return self._ended

    def granted(self, grant: Grant) -> None:
        self.grant, self._ticket = grant, None
        assert self._pool is not None, "granted by no pool"
        self.session.answer(
            Granted(
                self.ask.number,
                grant.target,
                grant.send_weights,
                grant.queued_seconds,
                self._pool.counter(self.ask.demand.tenant_uid),
                self.session.rate_levels(self.ask.number),
            )
        )

    def refused(self, error: Error) -> None:
        self.session.refuse(self.ask.number, error)

    def join(self, pool: Pool) -> None:
        if self._pool is not None:
            return
        self._pool = pool
        ticket = pool.join(self.ask.demand, self)
        if self._ended:
            pool.withdraw(ticket)
        elif self.grant is None:
            self._ticket = ticket

    def adopt(self, pool: Pool, held: Held) -> None:
        self._pool = pool
        self.grant = pool.adopt(self.ask.demand, held.target)
        pool.recall(self.ask.demand.tenant_uid, held.service_counter)

    def spent_before(self, output_tokens: int) -> int:
        """Take what was spent before as spent, since its router's usage holds it; returns how many tokens."""
        self._output_tokens = output_tokens
        self._spent = self.ask.demand.cost.input_tokens + output_tokens if output_tokens else 0
        return self._spent

    def used(self, output_tokens: int) -> None:
        new = output_tokens - self._output_tokens
        if new <= 0 or self.grant is None:
            return
        self._output_tokens = output_tokens
        self.grant.charge(new)
        self._spend(self.ask.demand.cost.input_tokens + output_tokens)

    def end(self, ended: Ended | None) -> None:
        """Give back everything, exactly once. None for a request that was not granted."""
        assert not self._ended, "a request ended twice"
        self._ended = True
        if self._ticket is not None and self._pool is not None:
            self._pool.withdraw(self._ticket)
        if self.grant is not None and ended is not None:
            self._end_grant(self.grant, ended)
        if self._tokens is not None:
            self._tokens.release()

    def lose(self) -> None:
        """Give back everything of a router that is gone, as if it had used all that it could."""
        cost = self.ask.demand.cost
        if self.grant is not None:
            self._spend(cost.tokens)  # proven: gone-routers-used-it-all
        self.end(Ended(self.ask.number, self._output_tokens))

    def _end_grant(self, grant: Grant, ended: Ended) -> None:
        self.used(ended.output_tokens)
        if ended.prompt_used:
            self._spend(self.ask.demand.cost.input_tokens + ended.output_tokens)
        else:
            grant.refund_prompt()
        grant.give_back(in_time=ended.in_time)

    def _spend(self, total: int) -> None:
        if self._tokens is not None and total > self._spent:
            now = self.session.shared.clock.monotonic_seconds()
            self._tokens.spend(total - self._spent, now)
            self.session.spent(self._tokens.subjects, total - self._spent, now)
            self._spent = total


class Session:
    """One router's requests.

    Args:
        shared: the truth, of all sessions.
        answer: takes what the router is answered, at once.
    """

    def __init__(self, shared: Shared, answer: Callable[[RequestAnswer], object]) -> None:
        self.shared = shared
        self.answer = answer
        self._entered: dict[int, Enter] = {}
        self._asked: dict[int, _Asked] = {}
        self._windows: dict[str, TokenWindow] = {}
        """By tenant and key: what their requests spent within the last minute, reports included."""

    def __len__(self) -> int:
        """Requests that hold a place or wait for one."""
        return len(self._asked)

    def receive(self, event: RequestEvent) -> None:
        """Take what the router says."""
        if isinstance(event, Enter):
            self._enter(event)
        elif isinstance(event, Ask):
            self._ask(event)
        elif isinstance(event, Left):
            self._leave(event.number)
        elif (asked := self._asked.get(event.number)) is not None:
            self._of(asked, event)

    def adopt(self, held: Held) -> None:
        """Count in a request that was admitted under an earlier controller."""
        enter, demand, number = held.enter, held.ask.demand, held.ask.number
        limiter = self.shared.limiter
        if not held.left:
            limiter.adopt(enter.limited)
            self._entered[number] = enter
        spent = 0 if not held.output_tokens else demand.cost.input_tokens + held.output_tokens
        tokens = limiter.hold_tokens(enter.limited, max(0, demand.cost.tokens - spent))
        asked = self._asked[number] = _Asked(self, held.ask, tokens)
        asked.spent_before(held.output_tokens)
        pool = self.shared.pools.find(held.ask.pool)
        if pool is not None:
            asked.adopt(pool, held)

    def spent(self, subjects: Iterable[str], tokens: int, now_seconds: float) -> None:
        """Count tokens that a request of this router spent."""
        for subject in subjects:
            self._windows.setdefault(subject, TokenWindow()).spend(0, tokens, now_seconds)

    def reported(self, usages: Iterable[Usage]) -> None:
        """Count what the router's requests spent before."""
        now = self.shared.clock.monotonic_seconds()
        for used in usages:
            if used.spent_tokens:
                self._windows.setdefault(used.subject, TokenWindow()).merge(used.spent_tokens, now)

    def usage(self) -> list[Usage]:
        """What its requests spent, for whoever keeps it once the router is gone."""
        now = self.shared.clock.monotonic_seconds()
        return [
            Usage(subject, self.shared.limiter.rate_level(subject, now), 0, spent)
            for subject, window in self._windows.items()
            if (spent := window.spent_by_age(now))
        ]

    def take_over(self, older: Session, numbers: frozenset[int]) -> None:
        """Go on with an older session's places; its other requests end, as those of a router that is gone."""
        for number in numbers:
            asked = self._asked[number] = older._asked.pop(number)
            asked.session = self
            if (enter := older._entered.pop(number, None)) is not None:
                self._entered[number] = enter
        older.close()
        self._windows = older._windows

    def holds(self, number: int) -> bool:
        """Whether a request has a place."""
        asked = self._asked.get(number)
        return asked is not None and asked.grant is not None

    def drop_waiting(self) -> None:
        """Forget the requests that have no place."""
        for number, asked in list(self._asked.items()):
            if asked.grant is None:
                del self._asked[number]
                asked.end(None)
        for number in [number for number in self._entered if number not in self._asked]:
            self._leave(number)

    def close(self) -> None:
        """Give back all that the router held: it is gone."""
        for number in list(self._asked):
            self._asked.pop(number).lose()
        for number in list(self._entered):
            self._leave(number)

    def refuse(self, number: int, error: Error) -> None:
        """Refuse a request that waits."""
        if (asked := self._asked.pop(number, None)) is not None:
            asked.end(None)
        self.answer(Refused(number, error))

    def rate_levels(self, number: int) -> Sequence[float]:
        """The levels of the rate limiters of what limits a request; none for one that has left."""
        enter, now = self._entered.get(number), self.shared.clock.monotonic_seconds()
        limited = () if enter is None else enter.limited
        return [self.shared.limiter.rate_level(one.subject, now) for one in limited]

    def _enter(self, enter: Enter) -> None:
        if enter.number in self._entered:
            return
        now = self.shared.clock.monotonic_seconds()
        try:
            self.shared.limiter.enter(enter.limited, now, counted=enter.counted)
        except Error as error:
            self.answer(Refused(enter.number, error))
            return
        self._entered[enter.number] = enter
        if enter.confirms:
            self.answer(Entered(enter.number))

    def _leave(self, number: int) -> None:
        if (enter := self._entered.pop(number, None)) is not None:
            self.shared.limiter.leave(enter.limited)

    def _ask(self, ask: Ask) -> None:
        enter = self._entered.get(ask.number)
        # One that was refused when it entered has its answer.
        if enter is None or ask.number in self._asked:
            return
        shared, demand = self.shared, ask.demand
        now = shared.clock.monotonic_seconds()
        try:
            tokens = shared.limiter.reserve_tokens(enter.limited, demand.cost.tokens, now)
        except Error as error:
            self.answer(Refused(ask.number, error))
            return
        asked = self._asked[ask.number] = _Asked(self, ask, tokens)
        try:
            shared.pools.pool(ask.pool).check(demand)
        except Error as error:
            self.refuse(ask.number, error)
            return
        if ask.joins:
            self._join(asked)
        else:
            self.answer(Reserved(ask.number, self.rate_levels(ask.number)))

    def _join(self, asked: _Asked) -> None:
        try:
            asked.join(self.shared.pools.pool(asked.ask.pool))
        except Error as error:
            self.refuse(asked.ask.number, error)

    def _of(self, asked: _Asked, event: RequestEvent) -> None:
        if isinstance(event, Used):
            asked.used(event.output_tokens)
        elif isinstance(event, Ended):
            del self._asked[event.number]
            asked.end(event)
        elif isinstance(event, Join):
            self._join(asked)
        elif asked.grant is None:
            return
        elif isinstance(event, AdapterAccepted):
            asked.grant.adapter_accepted()
        elif isinstance(event, EndpointFailed):
            asked.grant.endpoint_failed()
        elif isinstance(event, AdapterMissed):
            self.shared.spawn(self._reload(asked, asked.grant))

    async def _reload(self, asked: _Asked, grant: Grant) -> None:
        try:
            await grant.adapter_missed()
        except Error as error:
            answer: RequestAnswer = Refused(asked.ask.number, error)
        else:
            answer = Reload(asked.ask.number, grant.send_weights)
        if not asked.left:
            asked.session.answer(answer)
