"""Checks the size of a config, before all other rules, so that those cost no more than for a good config.

Several rules are loops over a list, and a message of 256 KiB may hold 128,000 empty entries.
"""

from __future__ import annotations

from tenantry.config.v1 import tenant_pb2

from services.config.rules.report import Report

# It has to fit twice into an etcd transaction (1.5 MiB), and in readable form into an audit entry (1 MiB).
MAX_CONFIG_BYTES = 256 << 10
MAX_MODELS = 64
MAX_RULES = 100
MAX_QUOTAS = 3
"""One for each window."""


def check_lengths(config: tenant_pb2.TenantConfig, report: Report) -> tenant_pb2.TenantConfig:
    """Report lists that are too long; returns the config with such lists cut to what is allowed."""
    models, rules, quotas = len(config.models), len(config.guardrails), len(config.quotas)
    if models > MAX_MODELS:
        report("models", f"has {models} aliases, more than {MAX_MODELS}")
    if quotas > MAX_QUOTAS:
        report("quotas", f"has {quotas}, more than {MAX_QUOTAS}: one a window")
    if rules > MAX_RULES:
        report("guardrails", f"has {rules} rules, more than {MAX_RULES}")
    if models <= MAX_MODELS and rules <= MAX_RULES and quotas <= MAX_QUOTAS:
        return config
    shorter = tenant_pb2.TenantConfig()
    shorter.CopyFrom(config)
    del shorter.models[MAX_MODELS:]
    del shorter.guardrails[MAX_RULES:]
    del shorter.quotas[MAX_QUOTAS:]
    return shorter
