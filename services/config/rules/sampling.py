"""Checks sampling defaults and their bounds.

A default that the tenant sets has to be within the bounds in force, whether those are set or not. An unset default is
no violation: the router clamps the contract's own defaults to the tenant's bounds.
"""

from __future__ import annotations

from tenantry.config.v1 import tenant_pb2

from services.config.rules.report import Report, between

MAX_TOKENS = 1 << 20
DEFAULT_MAX_OUTPUT_TOKENS_BOUND = 1024
DEFAULT_MIN_TEMPERATURE = 0.0
DEFAULT_MAX_TEMPERATURE = 2.0


def check_sampling(config: tenant_pb2.TenantConfig, report: Report) -> None:
    """Check that every value is in its range, and each set default within the bounds."""
    tokens = _max_output_tokens(config, report)
    _temperature(config, report)
    defaults = config.parameter_defaults
    between(defaults, "top_k", 0, MAX_TOKENS, "parameter_defaults", report)
    if defaults.HasField("top_p") and not 0.0 < defaults.top_p <= 1.0:
        report("parameter_defaults.top_p", f"is {defaults.top_p:.12g}, not above 0 and at most 1")
    if tokens is not None and defaults.max_output_tokens > tokens:
        what = f"is {defaults.max_output_tokens}, more than {tokens}, the bound"
        report("parameter_defaults.max_output_tokens", what)


def _max_output_tokens(config: tenant_pb2.TenantConfig, report: Report) -> int | None:
    """The bound in force; None if it or the default is wrong by itself."""
    defaults, bounds = config.parameter_defaults, config.parameter_bounds
    good = between(defaults, "max_output_tokens", 1, MAX_TOKENS, "parameter_defaults", report)
    good &= between(bounds, "max_output_tokens", 1, MAX_TOKENS, "parameter_bounds", report)
    if not good:
        return None
    return (
        bounds.max_output_tokens if bounds.HasField("max_output_tokens") else DEFAULT_MAX_OUTPUT_TOKENS_BOUND
    )


def _temperature(config: tenant_pb2.TenantConfig, report: Report) -> None:
    defaults, bounds = config.parameter_defaults, config.parameter_bounds
    limits = (DEFAULT_MIN_TEMPERATURE, DEFAULT_MAX_TEMPERATURE)
    good = between(defaults, "temperature", *limits, "parameter_defaults", report)
    bounded = between(bounds, "min_temperature", *limits, "parameter_bounds", report)
    bounded &= between(bounds, "max_temperature", *limits, "parameter_bounds", report)
    if not bounded:
        return
    low = bounds.min_temperature if bounds.HasField("min_temperature") else DEFAULT_MIN_TEMPERATURE
    high = bounds.max_temperature if bounds.HasField("max_temperature") else DEFAULT_MAX_TEMPERATURE
    if low > high:
        report("parameter_bounds.min_temperature", f"is {low:.12g}, more than max_temperature's {high:.12g}")
    elif good and defaults.HasField("temperature") and not low <= defaults.temperature <= high:
        what = f"is {defaults.temperature:.12g}, not {low:.12g} to {high:.12g}, the bounds"
        report("parameter_defaults.temperature", what)
