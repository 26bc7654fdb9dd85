"""Validates a tenant's config: every violation in one answer, with its field, the limit and the actual value. Pure.

What else exists comes in as `Surroundings`; the other modules of this package hold the rules.
"""

from __future__ import annotations

import re

from tenantry.config.v1 import tenant_pb2

from services.common.errors import FieldViolation
from services.config.rules.guardrails import check_guardrails
from services.config.rules.known_fields import unknown_violations
from services.config.rules.limits import (
    check_deadlines,
    check_key_limits,
    check_limits,
    check_quotas,
    check_shadow_limits,
)
from services.config.rules.models import check_models
from services.config.rules.placement import check_pool, check_priorities, check_weight
from services.config.rules.report import Surroundings
from services.config.rules.sampling import check_sampling
from services.config.rules.size import MAX_CONFIG_BYTES, check_lengths
from services.config.rules.spending import check_spending

_TENANT_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def validate_tenant_id(tenant_id: str, path: str = "tenant_id") -> list[FieldViolation]:
    """Check that a tenant's id is a lowercase DNS label (RFC 1123)."""
    if _TENANT_ID.fullmatch(tenant_id):
        return []
    return [
        FieldViolation(path, "has to be 1 to 63 of a-z, 0-9 and -, and begin and end with a letter or digit")
    ]


def oversize(config: tenant_pb2.TenantConfig, path: str = "tenant.config") -> list[FieldViolation]:
    """Check the size of a config in bytes."""
    size = config.ByteSize()
    return [FieldViolation(path, f"has {size} bytes, more than {MAX_CONFIG_BYTES}")] * (
        size > MAX_CONFIG_BYTES
    )


def validate_config(
    config: tenant_pb2.TenantConfig, around: Surroundings, path: str = "tenant.config"
) -> list[FieldViolation]:
    """Every violation of a config, by its path; for one that is too large, only that."""
    found = oversize(config, path)
    if found:
        return found

    def report(name: str, description: str) -> None:
        found.append(FieldViolation(f"{path}.{name}", description))

    config = check_lengths(config, report)
    found += unknown_in(config, path)
    check_models(config, around, report)
    check_sampling(config, report)
    check_limits(config, around, report)
    check_key_limits(config, around, report)
    check_shadow_limits(config, report)
    check_quotas(config, report)
    check_spending(config, report)
    check_deadlines(config, report)
    check_weight(config, report)
    check_pool(config, around, report)
    check_priorities(config, report)
    check_guardrails(config.guardrails, report)
    return found


def unknown_in(config: tenant_pb2.TenantConfig, path: str = "tenant.config") -> list[FieldViolation]:
    """Find what the contract does not know in a config, in lists up to their allowed length."""
    shorter = check_lengths(config, lambda _name, _what: None)
    return unknown_violations(shorter, path)
