"""The requests of every workload, drawn from a seed. Pure.

After the workloads of the virtual token counter paper (Sheng et al., OSDI'24, section 5), with a long-context attacker,
a storm of cancels and adapters that push each other out. A *share* is a tenant's part of the engine's time by weight.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from tests.fakes.scripted_triton.script import Batching

VICTIM, ATTACKER = "victim", "attacker"
_ON_SECONDS = 4.0
_CHAT_PROMPT, _CHAT_OUTPUT = 40, 64
_LONG_PROMPT = 1500
_ATTACKER_ADAPTERS = 12


class Attack(StrEnum):
    """How much the attacker asks for."""

    ABSENT = "absent"
    AT_SHARE = "at its share"
    TENFOLD = "at 10x"

    @property
    def shares(self) -> float:
        """Of the engine's time, as a multiple of the attacker's share."""
        return {Attack.ABSENT: 0.0, Attack.AT_SHARE: 1.0, Attack.TENFOLD: 10.0}[self]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that comes at its time, whether or not earlier ones were answered."""

    at_seconds: float
    tenant: str
    prompt_tokens: int
    """About; the chat template comes on top."""
    output_tokens: int
    adapter: int | None = None
    """Which of the tenant's adapters."""
    leaves_after_first: bool = False
    """Whether its caller cancels once it has the first token."""


@dataclass(frozen=True, slots=True)
class TenantShape:
    """One tenant of a workload."""

    name: str
    weight: int = 100
    adapters: int = 0


Draw = Callable[[random.Random, Batching, float, float], Iterator[Arrival]]
"""Draws a workload's requests of so many seconds, with the attacker at so many of its shares."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Who asks for what."""

    name: str
    says: str
    draw: Draw
    tenants: tuple[TenantShape, ...] = (TenantShape(VICTIM), TenantShape(ATTACKER))
    attacker: str = ATTACKER

    def arrivals(self, attack: Attack, seconds: float, batching: Batching, seed: int) -> list[Arrival]:
        """Every request, in order of time. The victims ask for the same, however strong the attack."""
        rng = random.Random(f"{self.name} {seed}")  # noqa: S311 - drawn again from its seed
        drawn = list(self.draw(rng, batching, seconds, attack.shares))
        return sorted(drawn, key=lambda arrival: (arrival.at_seconds, arrival.tenant))


def engine_seconds(batching: Batching, prompt_tokens: int, output_tokens: int) -> float:
    """The part of a full engine's time that a request takes."""
    full = next(seconds for running, seconds in batching.step_seconds if running >= batching.slots)
    return output_tokens * full / batching.slots + prompt_tokens / batching.prompt_tokens_a_second


def requests_a_second(batching: Batching, share: float, prompt_tokens: int, output_tokens: int) -> float:
    """How many requests of a size take so large a part of the engine's time."""
    return share / engine_seconds(batching, prompt_tokens, output_tokens)


def _steady(a_second: float, seconds: float, start: float = 0.0) -> Iterator[float]:
    """Evenly spaced times."""
    yield from (start + number / a_second for number in range(int((seconds - start) * a_second)))


def _poisson(rng: random.Random, a_second: float, seconds: float) -> Iterator[float]:
    """Times at random, at a mean rate."""
    if a_second <= 0:
        return
    at = rng.expovariate(a_second)
    while at < seconds:
        yield at
        at += rng.expovariate(a_second)


def _chat_rate(batching: Batching, share: float) -> float:
    return requests_a_second(batching, share, _CHAT_PROMPT, _CHAT_OUTPUT)


def _victim(rng: random.Random, batching: Batching, seconds: float) -> Iterator[Arrival]:
    """Chat at random times, at half of an equal share; on one adapter or none."""
    own = random.Random(rng.random())  # noqa: S311 - the attacker's draws must not change these
    for at in _poisson(own, _chat_rate(batching, 0.25), seconds):
        yield Arrival(at, VICTIM, _CHAT_PROMPT, own.randint(16, 112))


def _overload(rng: random.Random, batching: Batching, seconds: float, shares: float) -> Iterator[Arrival]:
    yield from _victim(rng, batching, seconds)
    if shares:
        for at in _steady(_chat_rate(batching, 0.5 * shares), seconds):
            yield Arrival(at, ATTACKER, _CHAT_PROMPT, _CHAT_OUTPUT)


def _on_off(_rng: random.Random, batching: Batching, seconds: float, shares: float) -> Iterator[Arrival]:
    """The victim asks for its whole share half of the time."""
    start = 0.0
    while start < seconds:
        for at in _steady(_chat_rate(batching, 0.5), min(start + _ON_SECONDS, seconds), start):
            yield Arrival(at, VICTIM, _CHAT_PROMPT, _CHAT_OUTPUT)
        start += 2 * _ON_SECONDS
    if shares:
        for at in _steady(_chat_rate(batching, 0.5 * shares), seconds):
            yield Arrival(at, ATTACKER, _CHAT_PROMPT, _CHAT_OUTPUT)


def _both_poisson(rng: random.Random, batching: Batching, seconds: float, shares: float) -> Iterator[Arrival]:
    yield from _victim(rng, batching, seconds)
    for at in _poisson(rng, _chat_rate(batching, 0.5 * shares), seconds):
        yield Arrival(at, ATTACKER, _CHAT_PROMPT, rng.randint(16, 112))


def _short_long(rng: random.Random, batching: Batching, seconds: float, shares: float) -> Iterator[Arrival]:
    own = random.Random(rng.random())  # noqa: S311
    for at in _poisson(own, requests_a_second(batching, 0.25, 20, 16), seconds):
        yield Arrival(at, VICTIM, 20, 16)
    for at in _poisson(rng, requests_a_second(batching, 0.5 * shares, 40, 256), seconds):
        yield Arrival(at, ATTACKER, 40, 256)


def _weighted(rng: random.Random, batching: Batching, seconds: float, shares: float) -> Iterator[Arrival]:
    """The others ask for half as much again as their share, so that they are always backlogged."""
    own = random.Random(rng.random())  # noqa: S311
    for tenant, part in (("weight-2", 2 / 7), ("weight-4", 4 / 7)):
        for at in _poisson(own, _chat_rate(batching, 1.5 * part), seconds):
            yield Arrival(at, tenant, _CHAT_PROMPT, _CHAT_OUTPUT)
    for at in _poisson(rng, _chat_rate(batching, shares / 7), seconds):
        yield Arrival(at, "weight-1", _CHAT_PROMPT, _CHAT_OUTPUT)


def _long_context(rng: random.Random, batching: Batching, seconds: float, shares: float) -> Iterator[Arrival]:
    yield from _victim(rng, batching, seconds)
    for at in _poisson(rng, requests_a_second(batching, 0.5 * shares, _LONG_PROMPT, 64), seconds):
        yield Arrival(at, ATTACKER, _LONG_PROMPT, 64)


def _cancel_storm(rng: random.Random, batching: Batching, seconds: float, shares: float) -> Iterator[Arrival]:
    """Its rate is that of whole chat answers: a caller that leaves has had its prompt and one token."""
    yield from _victim(rng, batching, seconds)
    for at in _poisson(rng, _chat_rate(batching, 0.5 * shares), seconds):
        yield Arrival(at, ATTACKER, _CHAT_PROMPT, 256, leaves_after_first=True)


def _adapter_thrash(
    rng: random.Random, batching: Batching, seconds: float, shares: float
) -> Iterator[Arrival]:
    for arrival in _victim(rng, batching, seconds):
        yield Arrival(arrival.at_seconds, VICTIM, arrival.prompt_tokens, arrival.output_tokens, adapter=0)
    for number, at in enumerate(_poisson(rng, _chat_rate(batching, 0.5 * shares), seconds)):
        yield Arrival(at, ATTACKER, _CHAT_PROMPT, _CHAT_OUTPUT, adapter=number % _ATTACKER_ADAPTERS)


WORKLOADS = (
    Workload("overload", "chat at half its share, beside chat that comes evenly", _overload),
    Workload(
        "on-off", "its whole share for 4 s, then nothing for 4 s, beside chat that comes evenly", _on_off
    ),
    Workload("poisson", "chat at half its share, beside chat that comes at random", _both_poisson),
    Workload("short-long", "16 tokens a request, beside 256 tokens a request", _short_long),
    Workload(
        "weighted",
        "weights 1, 2 and 4; 2 and 4 ask for 1.5 times their share, 1 is the attacker",
        _weighted,
        (TenantShape("weight-1", 100), TenantShape("weight-2", 200), TenantShape("weight-4", 400)),
        attacker="weight-1",
    ),
    Workload("long-context", f"chat, beside prompts of {_LONG_PROMPT:,} tokens", _long_context),
    Workload("cancel-storm", "chat, beside callers that leave at the first token", _cancel_storm),
    Workload(
        "adapter-thrash",
        f"chat on one adapter, beside {_ATTACKER_ADAPTERS} adapters in turn; the server holds 4",
        _adapter_thrash,
        (TenantShape(VICTIM, adapters=1), TenantShape(ATTACKER, adapters=_ATTACKER_ADAPTERS)),
    ),
)
