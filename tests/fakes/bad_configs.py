"""Bad tenant configs whose every violation is known: a valid config with one to six mistakes made in it.

Each mistake says which fields it spoils. Two mistakes of one subject could hide or cause one another, so a config
has at most one of each.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration
from tenantry.config.v1 import tenant_pb2

Mutation = Callable[[tenant_pb2.TenantConfig, random.Random], None]
NAN, INFINITY = float("nan"), float("inf")
CANARY = "canary-5f2d"
"""In every text of these configs, so that a violation that repeats tenant text is found."""


@dataclass(frozen=True, slots=True)
class Mistake:
    subject: str
    fields: frozenset[str]
    make: Mutation


@dataclass(frozen=True, slots=True)
class BadConfig:
    config: tenant_pb2.TenantConfig
    fields: frozenset[str]
    """The paths below `tenant.config` that are wrong."""


def good_config(base_model: str = "models/m", adapter: str = "sea") -> tenant_pb2.TenantConfig:
    """Every field set, and nothing wrong."""
    return tenant_pb2.TenantConfig(
        models=[
            tenant_pb2.ModelAlias(alias="plain", base_model=base_model, system_prompt=f"Short. {CANARY}"),
            tenant_pb2.ModelAlias(alias="toned", base_model=base_model, adapter=adapter, adapter_version=1),
        ],
        default_model="plain",
        system_prompt=f"Be kind. {CANARY}",
        parameter_defaults=tenant_pb2.ParameterDefaults(
            max_output_tokens=128, temperature=0.5, top_p=0.9, top_k=40
        ),
        parameter_bounds=tenant_pb2.ParameterBounds(
            max_output_tokens=512, min_temperature=0.1, max_temperature=1.5
        ),
        limits=tenant_pb2.Limits(
            requests_per_second=5.0,
            request_burst=10,
            concurrent_requests=4,
            input_bytes=100_000,
            input_tokens=1000,
            tokens_per_minute=50_000,
        ),
        weight=200,
        isolation_tier=tenant_pb2.ISOLATION_TIER_ISOLATED,
        audit_policy=tenant_pb2.AUDIT_POLICY_BLOCKING,
        staleness_policy=tenant_pb2.STALENESS_POLICY_REFUSE,
        deadlines=tenant_pb2.Deadlines(
            default_timeout=Duration(seconds=30), max_timeout=Duration(seconds=120)
        ),
        guardrails=[
            tenant_pb2.GuardrailRule(
                rule_id="card",
                action=tenant_pb2.GUARDRAIL_ACTION_REDACT,
                pattern=r"\d{4}-\d{4}",
                replacement="#",
            ),
            tenant_pb2.GuardrailRule(
                rule_id="word",
                action=tenant_pb2.GUARDRAIL_ACTION_DENY,
                stage=tenant_pb2.GUARDRAIL_STAGE_OUTPUT,
                pattern=CANARY,
            ),
        ],
        quotas=[
            tenant_pb2.Quota(window=tenant_pb2.QUOTA_WINDOW_MONTH, tokens=9_000_000),
            tenant_pb2.Quota(window=tenant_pb2.QUOTA_WINDOW_HOUR, tokens=100_000),
        ],
        priorities=tenant_pb2.PriorityRules(default_priority=2, max_priority=3),
    )


def bad_configs(count: int, seed: int, base_model: str = "models/m", adapter: str = "sea") -> list[BadConfig]:
    """As many, the same for the same seed."""
    rng = random.Random(seed)
    subjects = sorted({mistake.subject for mistake in MISTAKES})
    made = []
    for _ in range(count):
        config, fields = good_config(base_model, adapter), set[str]()
        for subject in rng.sample(subjects, rng.randint(1, 6)):
            mistake = rng.choice([mistake for mistake in MISTAKES if mistake.subject == subject])
            mistake.make(config, rng)
            fields |= mistake.fields
        made.append(BadConfig(config, frozenset(fields)))
    return made


def _one_of(path: str, *values: Any, subject: str | None = None, also: tuple[str, ...] = ()) -> Mistake:
    def make(config: tenant_pb2.TenantConfig, rng: random.Random) -> None:
        target: Any = config
        *parents, last = path.split(".")
        for parent in parents:
            name, _, number = parent.rstrip("]").partition("[")
            target = getattr(target, name)[int(number)] if number else getattr(target, name)
        value = rng.choice(values)
        if isinstance(value, Duration):
            getattr(target, last).CopyFrom(value)
        else:
            setattr(target, last, value)

    return Mistake(subject or path, frozenset({path, *also}), make)


def _by(subject: str, *fields: str) -> Callable[[Mutation], Mutation]:
    def register(make: Mutation) -> Mutation:
        MISTAKES.append(Mistake(subject, frozenset(fields), make))
        return make

    return register


_NOT_POSITIVE = (0, -1, -(1 << 31))
_BEYOND_INT = (-1, (1 << 31) - 1)
MISTAKES: list[Mistake] = [
    _one_of("models[0].alias", "", "Not Good", "é", "a" * 65, subject="default", also=("default_model",)),
    _one_of("default_model", "nobody", CANARY, subject="default"),
    _one_of("models[0].base_model", "", "models/none", CANARY),
    _one_of("models[0].system_prompt", "x" * 16_385, "é" * 8_193, f"{CANARY}\x00"),
    _one_of("models[1].alias", "", "A", f"{CANARY} ", "plain", subject="default"),
    _one_of("models[1].adapter", "nobody", CANARY, subject="adapter"),
    _one_of("models[1].adapter_version", 99, -1, 1 << 62, subject="adapter"),
    _one_of("system_prompt", "x" * 16_385, f"{CANARY}\x07", f"{CANARY}\x1b[0m"),
    _one_of("parameter_defaults.max_output_tokens", *_NOT_POSITIVE, 513, (1 << 20) + 1, subject="tokens"),
    _one_of("parameter_bounds.max_output_tokens", *_NOT_POSITIVE, (1 << 20) + 1, subject="tokens"),
    _one_of("parameter_defaults.temperature", NAN, INFINITY, -0.5, 0.05, 1.6, 2.5, subject="temperature"),
    _one_of("parameter_bounds.min_temperature", NAN, -INFINITY, -0.1, 1.7, 9.0, subject="temperature"),
    _one_of("parameter_bounds.max_temperature", NAN, INFINITY, -1.0, 2.1, subject="temperature"),
    _one_of("parameter_defaults.top_p", NAN, INFINITY, 0.0, -0.1, 1.01),
    _one_of("parameter_defaults.top_k", -1, (1 << 20) + 1),
    _one_of("limits.requests_per_second", NAN, INFINITY, -INFINITY, -1.0, 1e7),
    _one_of("limits.request_burst", *_BEYOND_INT),
    _one_of("limits.concurrent_requests", *_BEYOND_INT),
    _one_of("limits.input_bytes", *_BEYOND_INT),
    _one_of("limits.input_tokens", *_BEYOND_INT, 2049),
    _one_of("limits.tokens_per_minute", -1, (1 << 50) + 1, 1 << 62),
    _one_of("weight", 0, -1, 1001, (1 << 31) - 1),
    _one_of("pool", "pools/theirs", "pools/none", CANARY, subject="place"),
    _one_of("audit_policy", 99),
    _one_of("staleness_policy", 3),
    _one_of(
        "deadlines.default_timeout",
        Duration(seconds=-1),
        Duration(),
        Duration(seconds=121),
        Duration(seconds=1, nanos=-1),
        Duration(nanos=2_000_000_000),
        Duration(seconds=(1 << 63) - 1),
        subject="deadlines",
    ),
    _one_of(
        "deadlines.max_timeout",
        Duration(seconds=-1, nanos=-1),
        Duration(seconds=3600, nanos=1),
        Duration(seconds=99_999),
        Duration(nanos=-5),
        Duration(seconds=-(1 << 63)),
        subject="deadlines",
    ),
    _one_of("guardrails[0].rule_id", "", "Card", "a" * 65, f"{CANARY}!", subject="rule ids"),
    _one_of("guardrails[1].rule_id", "card", subject="rule ids"),
    _one_of(
        "guardrails[0].pattern",
        "",
        "x" * 1025,
        f"({CANARY}",
        rf"({CANARY})\1",
        "(a{1000}){1000}",
        r"\pL{1000}",
        r"\pL{3}",
        f"(?={CANARY})",
        f"({CANARY})*",
        r"\b",
        "^",
        subject="patterns",
    ),
    _one_of(
        "guardrails[0].replacement", "x" * 257, "é" * 129, f"{CANARY}\n", "\x85", subject="card's action"
    ),
    _one_of("guardrails[0].action", 0, subject="card's action", also=("guardrails[0].replacement",)),
    _one_of("guardrails[1].action", 0, 7, subject="word's action"),
    _one_of("guardrails[1].replacement", CANARY, "", subject="word's action"),
    _one_of("guardrails[1].stage", 3),
    _one_of("quotas[0].window", 0, 4, subject="quotas"),
    _one_of("quotas[1].window", tenant_pb2.QUOTA_WINDOW_MONTH, subject="quotas"),
    _one_of("quotas[0].tokens", 0, -1, (1 << 50) + 1, subject="quotas"),
    _one_of("quotas[1].tokens", 0, -(1 << 63), 9_000_001, subject="quotas"),
    _one_of("priorities.default_priority", 0, 4, -1, subject="priorities"),
    _one_of("priorities.max_priority", 0, 4, -(1 << 31), subject="priorities"),
]


@_by("place", "models[1].adapter")
def _shared(config: tenant_pb2.TenantConfig, _: random.Random) -> None:
    config.isolation_tier = tenant_pb2.ISOLATION_TIER_SHARED


@_by("place", "pool")
def _dedicated(config: tenant_pb2.TenantConfig, rng: random.Random) -> None:
    config.isolation_tier = tenant_pb2.ISOLATION_TIER_DEDICATED
    config.pool = rng.choice(["", "pools/p"])


@_by("priorities", "priorities.default_priority")
def _default_above_its_maximum(config: tenant_pb2.TenantConfig, _: random.Random) -> None:
    config.priorities.max_priority = 1


@_by("patterns", "guardrails")
def _too_many_rules(config: tenant_pb2.TenantConfig, _: random.Random) -> None:
    for number in range(99):
        config.guardrails.add(rule_id=f"r{number}", action=tenant_pb2.GUARDRAIL_ACTION_DENY, pattern="x")


@_by("patterns", "guardrails")
def _too_much_together(config: tenant_pb2.TenantConfig, _: random.Random) -> None:
    for number in range(5):
        config.guardrails.add(rule_id=f"r{number}", action=tenant_pb2.GUARDRAIL_ACTION_DENY, pattern=r"\pL")


@_by("quotas", "quotas")
def _too_many_quotas(config: tenant_pb2.TenantConfig, _: random.Random) -> None:
    for _number in range(2):
        config.quotas.add(window=tenant_pb2.QUOTA_WINDOW_DAY, tokens=100_000)
