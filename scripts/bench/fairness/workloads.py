"""Open-loop workloads of two or three tenants: requests come when they come, however slow the server is. Pure.

After the workloads of the virtual token counter paper (Sheng et al., OSDI'24, section 5) and the ways in which tenants
of shared servers hurt one another. In each the victim keeps to half of its share; the attacker is absent, keeps to
exactly its share, or sends ten times as much.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from tests.fakes.batch_server import Arrival

TAIL_SECONDS = 30.0
"""How long the attacker goes on after the victim's last request, so that each of these has its time."""
SHARE_A_SECOND = 3.0
"""Chat-sized requests that come to half of what the simulated server takes."""
VICTIM = "victim"
ATTACKER = "attacker"


class Level(Enum):
    """What the attacker does, as a multiple of its share."""

    ABSENT = 0
    AT_ITS_SHARE = 1
    TEN_TIMES = 10


@dataclass(frozen=True, slots=True)
class Workload:
    """One way of sharing a pool."""

    name: str
    about: str
    attack: Callable[[random.Random, float, float], Iterator[Arrival]]
    """By a source of randomness, requests a second and seconds: what the attacker sends."""
    weights: tuple[int, int] = (100, 100)
    """Of victim and attacker."""

    def arrivals(self, level: Level, seed: int, seconds: float) -> list[Arrival]:
        """All requests of one run."""
        share = self.weights[0] / sum(self.weights)
        rng = random.Random(seed)  # noqa: S311 - a workload that can be repeated
        victims = chat(rng, VICTIM, SHARE_A_SECOND * share, seconds, self.weights[0])
        if level is Level.ABSENT:
            return list(victims)
        attackers = self.attack(
            random.Random(seed + 1000),  # noqa: S311 - as above
            2 * SHARE_A_SECOND * (1 - share) * level.value,
            seconds + TAIL_SECONDS,
        )
        return [*victims, *attackers]


def chat(
    rng: random.Random, tenant: str, a_second: float, seconds: float, weight: int = 100
) -> Iterator[Arrival]:
    """Chat-sized requests at random times."""
    at = rng.expovariate(a_second)
    while at < seconds:
        yield Arrival(at, tenant, output_tokens=rng.randint(16, 112), weight=weight)
        at += rng.expovariate(a_second)


def _overload(rng: random.Random, a_second: float, seconds: float) -> Iterator[Arrival]:
    yield from chat(rng, ATTACKER, a_second, seconds)


def _on_off(rng: random.Random, a_second: float, seconds: float) -> Iterator[Arrival]:
    # Twice as much in every other ten seconds.
    for arrival in chat(rng, ATTACKER, 2 * a_second, seconds):
        if int(arrival.at / 10) % 2 == 0:
            yield arrival


def _bursts(rng: random.Random, a_second: float, seconds: float) -> Iterator[Arrival]:
    at = 0.0
    while at < seconds:
        for _ in range(round(5 * a_second)):
            yield Arrival(at, ATTACKER, output_tokens=rng.randint(16, 112))
        at += 5.0


def _long_answers(rng: random.Random, a_second: float, seconds: float) -> Iterator[Arrival]:
    for arrival in chat(rng, ATTACKER, a_second / 8, seconds):
        yield Arrival(
            arrival.at, ATTACKER, input_tokens=20, output_tokens=rng.randint(400, 512), max_output_tokens=512
        )


def _weighted(rng: random.Random, a_second: float, seconds: float) -> Iterator[Arrival]:
    yield from chat(rng, ATTACKER, a_second, seconds, weight=100)


def _long_contexts(rng: random.Random, a_second: float, seconds: float) -> Iterator[Arrival]:
    for arrival in chat(rng, ATTACKER, a_second / 8, seconds):
        yield Arrival(
            arrival.at,
            ATTACKER,
            input_tokens=rng.randint(2000, 4000),
            output_tokens=rng.randint(16, 112),
            max_output_tokens=512,
        )


def _cancel_storm(rng: random.Random, a_second: float, seconds: float) -> Iterator[Arrival]:
    for arrival in chat(rng, ATTACKER, 4 * a_second, seconds):
        yield Arrival(
            arrival.at,
            ATTACKER,
            output_tokens=256,
            leaves_after=rng.choice((-1, 1, 1)),
            max_output_tokens=256,
        )


def _adapter_thrash(rng: random.Random, a_second: float, seconds: float) -> Iterator[Arrival]:
    # Four times as many adapters as the server has slots.
    for arrival in chat(rng, ATTACKER, a_second, seconds):
        yield Arrival(arrival.at, ATTACKER, output_tokens=rng.randint(16, 112), lora_id=rng.randint(1, 32))


WORKLOADS = (
    Workload("overload", "chat-sized requests, without end", _overload),
    Workload("on/off", "twice as many in every other ten seconds", _on_off),
    Workload("bursts", "five seconds' worth at once", _bursts),
    Workload("long answers", "few requests with answers of 400 to 512 tokens", _long_answers),
    Workload("weighted 1:4", "the victim's weight is a quarter of the attacker's", _weighted, (25, 100)),
    Workload("long contexts", "prompts of 2,000 to 4,000 tokens", _long_contexts),
    Workload("cancel storm", "callers that leave at the first token, or before", _cancel_storm),
    Workload("adapter thrash", "32 adapters for 8 slots", _adapter_thrash),
)
