"""Measures in interleaved rounds, so that a slow moment of the machine hits every route."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from scripts.bench.processes import cpu_seconds
from scripts.bench.routes import Route, Routes


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int = 5
    unary_requests: int = 600
    """A round and route, for processor time."""
    streams: int = 24
    """A round and route, for processor time."""
    stream_tokens: int = 256
    latency_requests: int = 300
    """A round and route, one after another."""
    concurrency: int = 8
    """For processor time; latency is taken of one request at a time."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One quantity on the relay's way and on the router's, or on two other ways; medians of the rounds."""

    name: str
    unit: str
    relay: float
    router: float

    @property
    def ratio(self) -> float:
        """How many times the relay's."""
        return self.router / self.relay


async def measure(routes: Routes, plan: Plan, progress: Callable[[str], None]) -> list[Comparison]:
    """Run every round.

    Raises:
        RuntimeError: a route lost tokens of a stream.
    """
    middle = (routes.relay, routes.router)
    every = (routes.straight, *middle)
    progress("warming up")
    for route in every:
        await _repeat(20, plan.concurrency, lambda route=route: route.generate(1))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        await _stream(route, plan.stream_tokens)
    unary: dict[str, list[float]] = {route.name: [] for route in middle}
    streamed: dict[str, list[float]] = {route.name: [] for route in middle}
    messages: dict[str, list[float]] = {route.name: [] for route in middle}
    latencies: dict[str, list[tuple[float, float]]] = {route.name: [] for route in every}
    for number in range(plan.rounds):
        progress(f"round {number + 1} of {plan.rounds}")
        for route in _turned(middle, number):
            unary[route.name].append(await _unary_cpu_seconds(route, plan))
            spent_seconds, messages_each = await _token_cost(route, plan)
            streamed[route.name].append(spent_seconds)
            messages[route.name].append(messages_each)
        for route in _turned(every, number):
            latencies[route.name].append(await _latency_seconds(route, plan.latency_requests))
    added = {
        route.name: [
            (way[0] - straight[0], way[1] - straight[1])
            for way, straight in zip(latencies[route.name], latencies[routes.straight.name], strict=True)
        ]
        for route in middle
    }
    return [
        _comparison("CPU a unary request", "µs", unary),
        _comparison("CPU a streamed token", "µs", streamed),
        _comparison("messages a streamed token", "", messages),
        _comparison(
            "added latency, p50", "µs", {name: [one[0] for one in all_] for name, all_ in added.items()}
        ),
        _comparison(
            "added latency, p99", "µs", {name: [one[1] for one in all_] for name, all_ in added.items()}
        ),
    ]


def _turned(routes: tuple[Route, ...], number: int) -> tuple[Route, ...]:
    start = number % len(routes)
    return routes[start:] + routes[:start]


def _comparison(name: str, unit: str, figures: dict[str, list[float]]) -> Comparison:
    scale = 1e6 if unit == "µs" else 1.0
    median = {route: statistics.median(values) * scale for route, values in figures.items()}
    first, second = median.values()
    return Comparison(name, unit, first, second)


async def _unary_cpu_seconds(route: Route, plan: Plan) -> float:
    assert route.pid is not None
    before = cpu_seconds(route.pid)
    await _repeat(plan.unary_requests, plan.concurrency, lambda: route.generate(1))
    return (cpu_seconds(route.pid) - before) / plan.unary_requests


async def _token_cost(route: Route, plan: Plan) -> tuple[float, float]:
    """Seconds of processor time and messages, a streamed token."""
    assert route.pid is not None
    shares: list[float] = []

    async def stream() -> None:
        shares.append(await _stream(route, plan.stream_tokens))

    before = cpu_seconds(route.pid)
    await _repeat(plan.streams, plan.concurrency, stream)
    spent = cpu_seconds(route.pid) - before
    return spent / (plan.streams * plan.stream_tokens), statistics.mean(shares)


async def _stream(route: Route, tokens: int) -> float:
    """Messages a token: below 1 where what has gathered leaves as one piece, and the router's last one is its own."""
    streamed = await route.stream(tokens)
    if streamed.tokens != tokens:
        raise RuntimeError(f"{route.name}: {streamed.tokens} tokens instead of {tokens}")
    return streamed.messages / tokens


async def _latency_seconds(route: Route, requests: int) -> tuple[float, float]:
    """The median and the 99th percentile of one request at a time."""
    taken = []
    for _ in range(requests):
        started = time.perf_counter()
        await route.generate(1)
        taken.append(time.perf_counter() - started)
    taken.sort()
    return taken[len(taken) // 2], taken[min(len(taken) - 1, len(taken) * 99 // 100)]


async def _repeat(times: int, concurrency: int, call: Callable[[], Awaitable[object]]) -> None:
    left = iter(range(times))

    async def worker() -> None:
        for _ in left:
            await call()

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())
