"""What a router and the flow controller say to each other about requests. Pure.

The router numbers its requests; numbers are never reused within a process. Every event of a request that is unknown to
the receiver is ignored: the request has ended, or was reported to another controller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from services.common.errors import Error
from services.router.limits.limited import Limited
from services.router.limits.tenant_limiter import Usage
from services.router.pool.demand import Demand
from services.router.pool.pool_kind import PoolKind

# From a router.


@dataclass(frozen=True, slots=True)
class Enter:
    """A request has arrived: it counts against the rates and concurrency of its tenant and key until it leaves.

    Only a refusal is answered, and `Entered` if it `confirms`: the controller meets events in their order.
    """

    number: int
    limited: Sequence[Limited]
    """The limits of the config version that the request runs under: its tenant's, and its key's if it has any."""
    confirms: bool = False
    counted: bool = False
    """Whether an earlier controller counted it against the rates."""

    @property
    def tenant_uid(self) -> str:
        """Whose request it is."""
        return self.limited[0].subject


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that has entered asks for its tokens and a place."""

    number: int
    pool: PoolKind
    demand: Demand
    joins: bool
    """Whether it waits for a place at once; otherwise it is answered `Reserved`, and sends `Join` later."""


@dataclass(frozen=True, slots=True)
class Join:
    """A reserved request waits for a place now."""

    number: int


@dataclass(frozen=True, slots=True)
class Used:
    """A request with a place was given output tokens."""

    number: int
    output_tokens: int
    """In all."""


@dataclass(frozen=True, slots=True)
class AdapterAccepted:
    """The endpoint answered: it holds the request's adapter."""

    number: int


@dataclass(frozen=True, slots=True)
class AdapterMissed:
    """The endpoint does not hold the request's adapter; answered `Reload`."""

    number: int


@dataclass(frozen=True, slots=True)
class EndpointFailed:
    """The endpoint broke the stream or refused the connection."""

    number: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A request asks no more, and the server's work on it is over: it gives back its tokens and its place."""

    number: int
    output_tokens: int = 0
    """In all."""
    prompt_used: bool = True
    """False if the prompt is not known to have run."""
    in_time: bool = True
    """False if the server did not end its work in time: its endpoint is sent nothing until it is probed."""


@dataclass(frozen=True, slots=True)
class Left:
    """A request is over: it does not count as concurrent any more."""

    number: int


@dataclass(frozen=True, slots=True)
class Held:
    """A request that holds a place from an earlier controller, as reported to the next one."""

    enter: Enter
    ask: Ask
    left: bool
    """Whether only the server still works for it."""
    target: str
    output_tokens: int
    service_counter: float
    """The tenant's counter in the pool's queue, as last heard."""


@dataclass(frozen=True, slots=True)
class WitnessAck:
    """A `Witness` is kept."""

    sequence: int


RequestEvent: TypeAlias = (
    Enter | Ask | Join | Used | AdapterAccepted | AdapterMissed | EndpointFailed | Ended | Left
)
RouterEvent: TypeAlias = RequestEvent | WitnessAck


# From the controller.


@dataclass(frozen=True, slots=True)
class Entered:
    """Confirms `Enter`."""

    number: int


@dataclass(frozen=True, slots=True)
class Reserved:
    """A request has its tokens and may join the queue."""

    number: int
    rate_levels: Sequence[float]
    """Of the rate limiters of what limits it, in that order."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A request has a place."""

    number: int
    target: str
    send_weights: bool
    queued_seconds: float
    service_counter: float
    """The tenant's counter in the pool's queue."""
    rate_levels: Sequence[float]
    """Of the rate limiters of what limits it, in that order."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A request is refused, or a reload: it holds nothing of what it asked last."""

    number: int
    error: Error


@dataclass(frozen=True, slots=True)
class Reload:
    """Answers `AdapterMissed`: whether the request sends the weights."""

    number: int
    send_weights: bool


@dataclass(frozen=True, slots=True)
class Witness:
    """What the controller's own requests used, kept by another router in case the controller dies."""

    sequence: int
    usage: Sequence[Usage] = ()


RequestAnswer: TypeAlias = Entered | Reserved | Granted | Refused | Reload
ControllerEvent: TypeAlias = RequestAnswer | Witness


@dataclass(frozen=True, slots=True)
class Report:
    """All that one router holds and knows, for a controller that begins."""

    router: str
    instance: str
    """Made at the process's start: a restarted router holds nothing of what it held."""
    held: Sequence[Held] = ()
    usage: Sequence[Usage] = ()
    """Of its own requests; the rate levels are those of all routers, as last heard."""
    counters: Sequence[tuple[str, str, float]] = ()
    """Pool, tenant_uid, and the tenant's counter in the pool's queue, as last heard."""
    witnessed: Mapping[str, Sequence[Usage]] = field(default_factory=dict)
    """By the instance of an earlier controller: what its own requests used."""
