"""Fills in the contract's defaults for everything a tenant's config leaves unset. Pure."""

from __future__ import annotations

import hashlib
import sys
from functools import lru_cache

from google.protobuf.duration_pb2 import Duration
from tenantry.config.v1 import tenant_pb2

from services.common.request_sizes import MAX_INPUT_BYTES
from services.router.quota.ledger import Allowance
from services.router.snapshot.model import (
    Durability,
    GuardrailRule,
    GuardrailRules,
    KeyLimits,
    Limits,
    ParameterRules,
    PriorityRules,
    StageRules,
    Tier,
    TokenPrice,
)

_DURABILITY = {
    tenant_pb2.AUDIT_POLICY_BATCH: Durability.BATCH,
    tenant_pb2.AUDIT_POLICY_BLOCKING: Durability.BLOCKING,
}
_TIER = {
    tenant_pb2.ISOLATION_TIER_SHARED: Tier.SHARED,
    tenant_pb2.ISOLATION_TIER_DEDICATED: Tier.DEDICATED,
}
_QUOTA = {
    tenant_pb2.QUOTA_WINDOW_HOUR: Allowance.TOKENS_HOUR,
    tenant_pb2.QUOTA_WINDOW_DAY: Allowance.TOKENS_DAY,
    tenant_pb2.QUOTA_WINDOW_MONTH: Allowance.TOKENS_MONTH,
}
_BUDGET = {tenant_pb2.QUOTA_WINDOW_MONTH: Allowance.SPEND_MONTH}
_LIMIT = {
    tenant_pb2.LIMIT_REQUESTS_PER_SECOND: "limits.requests_per_second",
    tenant_pb2.LIMIT_CONCURRENT_REQUESTS: "limits.concurrent_requests",
    tenant_pb2.LIMIT_TOKENS_PER_MINUTE: "limits.tokens_per_minute",
    tenant_pb2.LIMIT_INPUT_BYTES: "limits.input_bytes",
    tenant_pb2.LIMIT_INPUT_TOKENS: "limits.input_tokens",
    tenant_pb2.LIMIT_KEY_REQUESTS_PER_SECOND: "key_limits.requests_per_second",
    tenant_pb2.LIMIT_KEY_CONCURRENT_REQUESTS: "key_limits.concurrent_requests",
    tenant_pb2.LIMIT_KEY_TOKENS_PER_MINUTE: "key_limits.tokens_per_minute",
    tenant_pb2.LIMIT_QUOTA_HOUR: Allowance.TOKENS_HOUR.limit,
    tenant_pb2.LIMIT_QUOTA_DAY: Allowance.TOKENS_DAY.limit,
    tenant_pb2.LIMIT_QUOTA_MONTH: Allowance.TOKENS_MONTH.limit,
    tenant_pb2.LIMIT_SPEND_DAY: Allowance.SPEND_DAY.limit,
    tenant_pb2.LIMIT_SPEND_MONTH: Allowance.SPEND_MONTH.limit,
}
_DEFAULT_REPLACEMENT = "[redacted]"
_DEFAULT_TIMEOUT_SECONDS = 60.0
_NO_RULES = GuardrailRules()
_MAX_TIMEOUT_SECONDS = 600.0


# Most of 10,000 tenants have the defaults: the same settings are compiled once, into one object for all of them.
_one_for_all = lru_cache(maxsize=4096)


def durability(policy: tenant_pb2.AuditPolicy.ValueType) -> Durability:
    """Unset means the strictest, and so does a value that a newer config service may add."""
    return _DURABILITY.get(policy, Durability.BLOCKING_STRICT)


def tier(isolation: tenant_pb2.IsolationTier.ValueType) -> Tier:
    """Unset means ISOLATED."""
    return _TIER.get(isolation, Tier.ISOLATED)


def limits(given: tenant_pb2.Limits) -> Limits:
    """The effective limits. 0 stays 0, which allows nothing; `input_bytes` is at most `MAX_INPUT_BYTES`."""
    return _limits(given.SerializeToString())


@_one_for_all
def _limits(serialised: bytes) -> Limits:
    given, default = tenant_pb2.Limits.FromString(serialised), Limits()
    return Limits(
        requests_per_second=(
            given.requests_per_second
            if given.HasField("requests_per_second")
            else default.requests_per_second
        ),
        request_burst=given.request_burst if given.HasField("request_burst") else default.request_burst,
        concurrent_requests=(
            given.concurrent_requests
            if given.HasField("concurrent_requests")
            else default.concurrent_requests
        ),
        input_bytes=(
            min(given.input_bytes, MAX_INPUT_BYTES) if given.HasField("input_bytes") else default.input_bytes
        ),
        input_tokens=given.input_tokens if given.HasField("input_tokens") else None,
        tokens_per_minute=given.tokens_per_minute if given.HasField("tokens_per_minute") else None,
        output_tokens=given.output_tokens if given.HasField("output_tokens") else None,
    )


def key_limits(config: tenant_pb2.TenantConfig) -> dict[str, KeyLimits]:
    """The effective limits of single keys, by key id; under the empty one those of every other key."""
    return {given.key: _of_key(given) for given in config.key_limits}


def _of_key(given: tenant_pb2.KeyLimits) -> KeyLimits:
    default = KeyLimits()
    return KeyLimits(
        given.requests_per_second if given.HasField("requests_per_second") else None,
        given.request_burst if given.HasField("request_burst") else default.request_burst,
        given.concurrent_requests if given.HasField("concurrent_requests") else None,
        given.tokens_per_minute if given.HasField("tokens_per_minute") else None,
    )


def shadow_limits(config: tenant_pb2.TenantConfig) -> frozenset[str]:
    """The limits that are tried out, as refusals name them; those this router does not know are left out."""
    return _shadow_limits(tuple(config.shadow_limits))


@_one_for_all
def _shadow_limits(given: tuple[tenant_pb2.Limit.ValueType, ...]) -> frozenset[str]:
    return frozenset(_LIMIT[limit] for limit in given if limit in _LIMIT)


def prices(config: tenant_pb2.TenantConfig) -> dict[tuple[str, str], TokenPrice]:
    """What tokens cost, by base model and adapter."""
    return {
        (sys.intern(price.base_model), sys.intern(price.adapter)): TokenPrice(
            price.input_micro_units, price.output_micro_units
        )
        for price in config.prices
    }


def parameter_rules(config: tenant_pb2.TenantConfig) -> ParameterRules:
    """The effective defaults and bounds."""
    return _parameter_rules(
        config.parameter_defaults.SerializeToString(), config.parameter_bounds.SerializeToString()
    )


@_one_for_all
def _parameter_rules(serialised_defaults: bytes, serialised_bounds: bytes) -> ParameterRules:
    defaults = tenant_pb2.ParameterDefaults.FromString(serialised_defaults)
    bounds = tenant_pb2.ParameterBounds.FromString(serialised_bounds)
    plain = ParameterRules()
    return ParameterRules(
        default_max_output_tokens=(
            defaults.max_output_tokens
            if defaults.HasField("max_output_tokens")
            else plain.default_max_output_tokens
        ),
        default_temperature=(
            defaults.temperature if defaults.HasField("temperature") else plain.default_temperature
        ),
        default_top_p=defaults.top_p if defaults.HasField("top_p") else plain.default_top_p,
        default_top_k=defaults.top_k if defaults.HasField("top_k") else plain.default_top_k,
        max_output_tokens=(
            bounds.max_output_tokens if bounds.HasField("max_output_tokens") else plain.max_output_tokens
        ),
        min_temperature=(
            bounds.min_temperature if bounds.HasField("min_temperature") else plain.min_temperature
        ),
        max_temperature=(
            bounds.max_temperature if bounds.HasField("max_temperature") else plain.max_temperature
        ),
    )


def guardrail_rules(config: tenant_pb2.TenantConfig) -> GuardrailRules:
    """The rules of each stage. Unset means both; an action or stage that is not known denies, in both."""
    if not config.guardrails:
        return _NO_RULES
    rules = [(rule.stage, _rule(rule)) for rule in config.guardrails]
    before = tuple(rule for stage, rule in rules if stage != tenant_pb2.GUARDRAIL_STAGE_OUTPUT)
    after = tuple(rule for stage, rule in rules if stage != tenant_pb2.GUARDRAIL_STAGE_INPUT)
    first = _stage(before)
    return GuardrailRules(input=first, output=first if before == after else _stage(after))


def _rule(rule: tenant_pb2.GuardrailRule) -> GuardrailRule:
    return GuardrailRule(
        rule_id=sys.intern(rule.rule_id),
        denies=rule.action != tenant_pb2.GUARDRAIL_ACTION_REDACT,
        pattern=rule.pattern,
        replacement=rule.replacement if rule.HasField("replacement") else _DEFAULT_REPLACEMENT,
    )


def _stage(rules: tuple[GuardrailRule, ...]) -> StageRules:
    if not rules:
        return StageRules()
    patterns = [rule.pattern.encode() for rule in rules]
    framed = b"".join(len(pattern).to_bytes(8, "big") + pattern for pattern in patterns)
    return StageRules(rules, hashlib.sha256(framed).digest())


def priority_rules(given: tenant_pb2.PriorityRules) -> PriorityRules:
    """The effective default and maximum; a default above the maximum gives way to it."""
    return _priority_rules(given.SerializeToString())


@_one_for_all
def _priority_rules(serialised: bytes) -> PriorityRules:
    given, plain = tenant_pb2.PriorityRules.FromString(serialised), PriorityRules()
    most = given.max_priority if given.HasField("max_priority") else plain.max_priority
    default = given.default_priority if given.HasField("default_priority") else plain.default_priority
    return PriorityRules(default_priority=min(default, most), max_priority=most)


def allowances(config: tenant_pb2.TenantConfig) -> tuple[Allowance, ...]:
    """The quotas and spend budgets.

    A window that a newer config service may add is asked for as an hour's quota, or a day's budget. If the config
    service has none for that, the tenant is refused rather than served without its limit.
    """
    return _allowances(
        tuple(quota.window for quota in config.quotas), tuple(one.window for one in config.spend_budgets)
    )


@_one_for_all
def _allowances(
    quotas: tuple[tenant_pb2.QuotaWindow.ValueType, ...],
    budgets: tuple[tenant_pb2.QuotaWindow.ValueType, ...],
) -> tuple[Allowance, ...]:
    found = {_QUOTA.get(window, Allowance.TOKENS_HOUR) for window in quotas}
    return tuple(sorted(found | {_BUDGET.get(window, Allowance.SPEND_DAY) for window in budgets}))


def timeouts(config: tenant_pb2.TenantConfig) -> tuple[float, float]:
    """Seconds for requests that bring no deadline, and the longest granted."""
    return _timeouts(config.deadlines.SerializeToString())


@_one_for_all
def _timeouts(serialised: bytes) -> tuple[float, float]:
    deadlines = tenant_pb2.Deadlines.FromString(serialised)
    longest = _seconds(deadlines.max_timeout) if deadlines.HasField("max_timeout") else _MAX_TIMEOUT_SECONDS
    default = (
        _seconds(deadlines.default_timeout)
        if deadlines.HasField("default_timeout")
        else _DEFAULT_TIMEOUT_SECONDS
    )
    return min(default, longest), longest


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9
