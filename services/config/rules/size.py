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
MAX_KEY_LIMITS = 256
MAX_BUDGETS = 2
"""A day's and a month's."""
MAX_PRICES = 128
MAX_SHADOW_LIMITS = 13
"""Every limit once."""
_MOST = (
    ("models", MAX_MODELS, "aliases"),
    ("quotas", MAX_QUOTAS, "quotas, one a window"),
    ("guardrails", MAX_RULES, "rules"),
    ("key_limits", MAX_KEY_LIMITS, "entries"),
    ("shadow_limits", MAX_SHADOW_LIMITS, "limits"),
    ("spend_budgets", MAX_BUDGETS, "budgets, one a window"),
    ("prices", MAX_PRICES, "prices"),
)


def check_lengths(config: tenant_pb2.TenantConfig, report: Report) -> tenant_pb2.TenantConfig:
    """Report lists that are too long; returns the config with such lists cut to what is allowed."""
    lengths = [(name, len(getattr(config, name)), most, what) for name, most, what in _MOST]
    too_long = [one for one in lengths if one[1] > one[2]]
    if not too_long:
        return config
    shorter = tenant_pb2.TenantConfig()
    shorter.CopyFrom(config)
    for name, length, most, what in too_long:
        report(name, f"has {length} {what}; at most {most}")
        del getattr(shorter, name)[most:]
    return shorter
