"""Fills in the contract's defaults for everything a tenant's config leaves unset. Pure."""

from __future__ import annotations

import hashlib
import sys
from functools import lru_cache

from google.protobuf.duration_pb2 import Duration
from tenantry.config.v1 import tenant_pb2

from services.common.request_sizes import MAX_INPUT_BYTES
from services.router.quota.ledger import Window
from services.router.snapshot.model import (
    Durability,
    GuardrailRule,
    GuardrailRules,
    Limits,
    ParameterRules,
    PriorityRules,
    StageRules,
    Tier,
)

_DURABILITY = {
    tenant_pb2.AUDIT_POLICY_BATCH: Durability.BATCH,
    tenant_pb2.AUDIT_POLICY_BLOCKING: Durability.BLOCKING,
}
_TIER = {
    tenant_pb2.ISOLATION_TIER_SHARED: Tier.SHARED,
    tenant_pb2.ISOLATION_TIER_DEDICATED: Tier.DEDICATED,
}
_WINDOW = {
    tenant_pb2.QUOTA_WINDOW_HOUR: Window.HOUR,
    tenant_pb2.QUOTA_WINDOW_DAY: Window.DAY,
    tenant_pb2.QUOTA_WINDOW_MONTH: Window.MONTH,
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
    )


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


def quota_windows(config: tenant_pb2.TenantConfig) -> tuple[Window, ...]:
    """The windows with a quota.

    A window that a newer config service may add is asked for as an hour's. The config service has none for that, so the
    tenant is refused rather than served without its limit.
    """
    return _quota_windows(tuple(quota.window for quota in config.quotas))


@_one_for_all
def _quota_windows(windows: tuple[tenant_pb2.QuotaWindow.ValueType, ...]) -> tuple[Window, ...]:
    return tuple(sorted({_WINDOW.get(window, Window.HOUR) for window in windows}))


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
