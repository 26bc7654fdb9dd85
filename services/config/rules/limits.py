"""Checks rates, sizes, quotas and deadlines.

A limit of 0 is allowed: it stops a tenant without suspending it. A quota of 0 is refused, since it would do the same
less plainly.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from google.protobuf.duration_pb2 import Duration
from tenantry.config.v1 import tenant_pb2

from services.common.deadlines import MAX_TIMEOUT_SECONDS
from services.common.request_sizes import MAX_INPUT_BYTES
from services.config.rules.known_fields import choices
from services.config.rules.report import Report, Surroundings, between

MAX_QUOTA_TOKENS = 1 << 50
DEFAULT_MAX_TIMEOUT_SECONDS = 600
_NANOS = 1_000_000_000
# google.protobuf.Duration's own range: about 10,000 years.
_MAX_DURATION_SECONDS = 315_576_000_000
_RANGES = (
    ("requests_per_second", 1e6),
    ("request_burst", 1_000_000),
    ("concurrent_requests", 100_000),
    ("input_bytes", MAX_INPUT_BYTES),
    ("input_tokens", 1 << 24),
    ("tokens_per_minute", 1 << 50),
)
_KEY_RANGES = (
    ("requests_per_second", 1e6),
    ("request_burst", 1_000_000),
    ("concurrent_requests", 100_000),
    ("tokens_per_minute", 1 << 50),
)
MAX_OUTPUT_TOKENS = 1 << 20
_WINDOWS = (tenant_pb2.QUOTA_WINDOW_HOUR, tenant_pb2.QUOTA_WINDOW_DAY, tenant_pb2.QUOTA_WINDOW_MONTH)


def check_limits(config: tenant_pb2.TenantConfig, around: Surroundings, report: Report) -> None:
    """Check that each limit is in its range, and that some aliased model has context for the input tokens."""
    limits = config.limits
    good = {name: between(limits, name, 0, high, "limits", report) for name, high in _RANGES}
    between(limits, "output_tokens", 1, MAX_OUTPUT_TOKENS, "limits", report)
    contexts = [
        around.models[alias.base_model] for alias in config.models if alias.base_model in around.models
    ]
    if good["input_tokens"] and contexts and limits.input_tokens > max(contexts):
        what = f"is {limits.input_tokens}, more than {max(contexts)}, the longest context of its models"
        report("limits.input_tokens", what)


def check_key_limits(config: tenant_pb2.TenantConfig, around: Surroundings, report: Report) -> None:
    """Check that each entry names a key of the tenant's, or none, once, and that each limit is in its range."""
    seen: set[str] = set()
    for number, limits in enumerate(config.key_limits):
        where = f"key_limits[{number}]"
        for name, high in _KEY_RANGES:
            between(limits, name, 0, high, where, report)
        if limits.key in seen:
            report(
                f"{where}.key", "is there twice" if limits.key else "is missing, and in another entry as well"
            )
        elif limits.key and not around.has_key(limits.key):
            what = "is no key of this tenant; `tenantry key list` shows their ids"
            report(f"{where}.key", what)  # proven: limits-of-own-keys
        seen.add(limits.key)
        if not (
            limits.HasField("requests_per_second")
            or limits.HasField("concurrent_requests")
            or limits.HasField("tokens_per_minute")
        ):
            report(where, "limits nothing: set requests_per_second, concurrent_requests or tokens_per_minute")


def check_shadow_limits(config: tenant_pb2.TenantConfig, report: Report) -> None:
    """Check that each limit is known and there once."""
    seen: set[int] = set()
    for number, limit in enumerate(config.shadow_limits):
        if limit == tenant_pb2.LIMIT_UNSPECIFIED:
            report(f"shadow_limits[{number}]", f"is missing: {choices(tenant_pb2.Limit.DESCRIPTOR)}")
        elif limit in seen:
            report(f"shadow_limits[{number}]", "is there twice")
        seen.add(limit)


def check_quotas(config: tenant_pb2.TenantConfig, report: Report) -> None:
    """Check that there is at most one quota a window, each of at least 1 token and none above a longer window's."""
    seen: set[int] = set()
    tokens_of: dict[int, tuple[int, int]] = {}
    for number, quota in enumerate(config.quotas):
        if quota.window == tenant_pb2.QUOTA_WINDOW_UNSPECIFIED:
            windows = choices(tenant_pb2.QuotaWindow.DESCRIPTOR)
            report(f"quotas[{number}].window", f"is missing: {windows}")
        elif quota.window in seen:
            report(f"quotas[{number}].window", "is there twice")
        if not 1 <= quota.tokens <= MAX_QUOTA_TOKENS:
            report(f"quotas[{number}].tokens", f"is {quota.tokens}, not 1 to {MAX_QUOTA_TOKENS}")
        elif quota.window not in seen:
            tokens_of[quota.window] = (quota.tokens, number)
        seen.add(quota.window)
    ordered = [tokens_of[window] for window in _WINDOWS if window in tokens_of]
    for (tokens, number), (most, _) in pairwise(ordered):
        if tokens > most:  # proven: longer-windows-hold-more
            report(f"quotas[{number}].tokens", f"is {tokens}, more than {most}, a longer window's")


def check_deadlines(config: tenant_pb2.TenantConfig, report: Report) -> None:
    """Check that deadlines are above 0 and at most an hour, and the default not above the longest granted."""
    deadlines = config.deadlines
    default = _nanoseconds(deadlines, "default_timeout", report)
    longest = _nanoseconds(deadlines, "max_timeout", report)
    if longest is None and not deadlines.HasField("max_timeout"):
        longest = DEFAULT_MAX_TIMEOUT_SECONDS * _NANOS
    if default is not None and longest is not None and default > longest:
        what = f"is {default / _NANOS:.12g} s, more than {longest / _NANOS:.12g} s, the longest granted"
        report("deadlines.default_timeout", what)


def _nanoseconds(
    deadlines: tenant_pb2.Deadlines, name: Literal["default_timeout", "max_timeout"], report: Report
) -> int | None:
    """A deadline in nanoseconds; None where it is unset or wrong."""
    if not deadlines.HasField(name):
        return None
    given: Duration = getattr(deadlines, name)
    where = f"deadlines.{name}"
    whole = abs(given.seconds) <= _MAX_DURATION_SECONDS and abs(given.nanos) < _NANOS
    if not whole or given.seconds * given.nanos < 0:
        report(where, f"is no duration: {given.seconds} s and {given.nanos} ns")
        return None
    total = given.seconds * _NANOS + given.nanos
    if not 0 < total <= MAX_TIMEOUT_SECONDS * _NANOS:  # proven: deadlines-have-a-range
        report(where, f"is {total / _NANOS:.12g} s, not above 0 and at most {MAX_TIMEOUT_SECONDS} s")
        return None
    return total
