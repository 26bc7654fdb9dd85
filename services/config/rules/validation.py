"""Is a tenant's config right? Every violation in one answer, each with its field, its limit and the actual value.

Pure: what else exists comes in as `Surroundings`. The rules themselves are in `services.config.rules`.
"""

from __future__ import annotations

import re

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from tenantry.config.v1 import tenant_pb2

from services.common.errors import FieldViolation
from services.config.rules.guardrails import check_guardrails
from services.config.rules.limits import check_deadlines, check_limits, check_quotas
from services.config.rules.models import check_models
from services.config.rules.placement import check_pool, check_priorities, check_weight
from services.config.rules.report import Surroundings
from services.config.rules.sampling import check_sampling
from services.config.rules.size import MAX_CONFIG_BYTES, check_lengths

__all__ = [
    "MAX_CONFIG_BYTES",
    "Surroundings",
    "has_unknown_fields",
    "oversize",
    "unknown_fields",
    "unknown_in",
    "validate_config",
    "validate_tenant_id",
]

_LISTED_BYTES = 1 << 10
_TENANT_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def validate_tenant_id(tenant_id: str, path: str = "tenant_id") -> list[FieldViolation]:
    """A lowercase DNS label (RFC 1123)."""
    if _TENANT_ID.fullmatch(tenant_id):
        return []
    return [
        FieldViolation(path, "has to be 1 to 63 of a-z, 0-9 and -, and begin and end with a letter or digit")
    ]


def oversize(config: tenant_pb2.TenantConfig, path: str = "tenant.config") -> list[FieldViolation]:
    """Too large to be looked at any further?"""
    size = config.ByteSize()
    return [FieldViolation(path, f"has {size} bytes, more than {MAX_CONFIG_BYTES}")] * (
        size > MAX_CONFIG_BYTES
    )


def validate_config(
    config: tenant_pb2.TenantConfig, around: Surroundings, path: str = "tenant.config"
) -> list[FieldViolation]:
    """Every violation of a config, named by its path; of one that is too large, that alone."""
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
    check_quotas(config, report)
    check_deadlines(config, report)
    check_weight(config, report)
    check_pool(config, around, report)
    check_priorities(config, report)
    check_guardrails(config.guardrails, report)
    return found


def unknown_in(config: tenant_pb2.TenantConfig, path: str = "tenant.config") -> list[FieldViolation]:
    """What the contract does not know in a config, in as much of its lists as there may be."""
    shorter = check_lengths(config, lambda _name, _what: None)
    return [FieldViolation(where, "is not known to this version") for where in unknown_fields(shorter, path)]


def unknown_fields(message: Message, path: str) -> list[str]:
    """Paths of fields and enum values the contract does not know; accepting them would mean ignoring them."""
    found = [path] if has_unknown_fields(message) else []
    for descriptor, value in message.ListFields():
        where = f"{path}.{descriptor.name}"
        if descriptor.enum_type is not None:
            values = value if descriptor.is_repeated else [value]
            if any(number not in descriptor.enum_type.values_by_number for number in values):
                found.append(where)
        elif descriptor.message_type is not None:
            if descriptor.is_repeated:
                for number, item in enumerate(value):
                    found += unknown_fields(item, f"{where}[{number}]")
            else:
                found += unknown_fields(value, where)
    return found


def has_unknown_fields(message: Message) -> bool:
    """Whether a message itself has fields the contract does not know, whatever those in it have."""
    if message.ByteSize() <= _LISTED_BYTES:
        return len(UnknownFieldSet(message)) > 0
    # Listing 100,000 of them takes 0.1 s; what is left without the known ones shows at once.
    rest = type(message)()
    rest.CopyFrom(message)
    for field, _ in rest.ListFields():
        rest.ClearField(field.name)
    return rest.ByteSize() > 0
