"""What a run's requests come to: counts, quantiles and service over time. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

INPUT_SERVICE, OUTPUT_SERVICE = 1, 2


class End(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    LEFT = "left"
    """Its caller cancelled it once it had what it came for."""
    REFUSED = "refused"
    FAILED = "failed"
    UNFINISHED = "unfinished"
    """It still ran, or waited, when the run was over."""


@dataclass(slots=True)
class Outcome:
    """One request, as its caller saw it. Times are in seconds since the run's start."""

    tenant: str
    sent_at: float
    prompt_tokens: int
    end: End = End.UNFINISHED
    reason: str = ""
    """Of a refusal or failure."""
    token_times: list[tuple[float, int]] = field(default_factory=list)
    """When how many output tokens came."""

    @property
    def output_tokens(self) -> int:
        """Those that came."""
        return sum(tokens for _, tokens in self.token_times)

    @property
    def first_token_seconds(self) -> float:
        """From sending to the first token; infinite where none came."""
        return self.token_times[0][0] - self.sent_at if self.token_times else math.inf


@dataclass(frozen=True, slots=True)
class TenantFigures:
    """One tenant in one run. Counts and quantiles are of the requests that were sent in the measured time."""

    tenant: str
    requests: int
    ends: dict[str, int]
    reasons: dict[str, int]
    first_token_seconds: tuple[float, ...]
    """Of each request, in order of size; infinite for one that got none."""
    service: tuple[float, ...]
    """Given by the end of each second since the start: 1 an input token, 2 an output token."""
    output_tokens: int
    """That came in the measured time."""

    @property
    def goodput(self) -> float:
        """The part of the requests that got all they came for."""
        if not self.requests:
            return math.nan
        return (self.ends.get(End.ANSWERED, 0) + self.ends.get(End.LEFT, 0)) / self.requests

    def first_token(self, quantile: float) -> float:
        """A quantile by the nearest rank."""
        return nearest_rank(self.first_token_seconds, quantile)


@dataclass(frozen=True, slots=True)
class RunFigures:
    """One run."""

    workload: str
    attack: str
    discipline: str
    seed: int
    seconds: float
    """The measured time."""
    tenants: tuple[TenantFigures, ...]
    late_ms: float
    """The 99th percentile of how late the generator sent a request."""

    @property
    def tokens_a_second(self) -> float:
        """Output tokens of all tenants."""
        return sum(one.output_tokens for one in self.tenants) / self.seconds

    def of(self, tenant: str) -> TenantFigures:
        """One tenant's."""
        return next(one for one in self.tenants if one.tenant == tenant)


def nearest_rank(ordered: Sequence[float], quantile: float) -> float:
    """A quantile of values that are in order; not a number where there are none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(quantile * len(ordered)) - 1)]


def tenant_figures(tenant: str, outcomes: Iterable[Outcome], seconds: float) -> TenantFigures:
    """Count one tenant's requests of a run, whose first `seconds` are measured."""
    own = [one for one in outcomes if one.tenant == tenant]
    measured = [one for one in own if one.sent_at < seconds]
    service = [0.0] * max(1, math.ceil(seconds))
    tokens_in_time = 0
    for one in own:
        if one.token_times:
            _add(service, one.token_times[0][0], INPUT_SERVICE * one.prompt_tokens)
        for at, tokens in one.token_times:
            _add(service, at, OUTPUT_SERVICE * tokens)
            tokens_in_time += tokens if at < seconds else 0
    for second in range(1, len(service)):
        service[second] += service[second - 1]
    return TenantFigures(
        tenant,
        len(measured),
        dict(Counter(str(one.end) for one in measured)),
        dict(Counter(one.reason for one in measured if one.reason)),
        tuple(sorted(one.first_token_seconds for one in measured)),
        tuple(service),
        tokens_in_time,
    )


def _add(service: list[float], at: float, amount: float) -> None:
    if 0 <= at < len(service):
        service[int(at)] += amount


def pooled(runs: Sequence[RunFigures], tenant: str) -> tuple[float, ...]:
    """The first-token times of a tenant over several runs, in order of size."""
    return tuple(sorted(seconds for run in runs for seconds in run.of(tenant).first_token_seconds))
