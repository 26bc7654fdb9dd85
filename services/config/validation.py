"""Is a tenant's config right? Every violation in one answer, each with its field, its limit and the actual value.

Pure: what else exists comes in as `Surroundings`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from tenantry.config.v1 import tenant_pb2

from services.common.errors import FieldViolation

MAX_MODELS = 64
MAX_PROMPT_BYTES = 16 << 10
# Twice in one etcd transaction (1.5 MiB), and readable in one audit entry (1 MiB).
MAX_CONFIG_BYTES = 256 << 10
MAX_TIMEOUT_SECONDS = 3600
_ALIAS = re.compile(r"[a-z0-9._-]{1,64}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TENANT_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
Report = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a tenant's config may refer to."""

    tenant_name: str
    models: Mapping[str, int]
    """Base models by resource name, with their context in tokens."""
    pools: Mapping[str, tuple[str, str]]
    """Pools by resource name, with base model and the tenant they are dedicated to (or empty)."""
    adapters: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """The tenant's adapters by id: version to base model."""


def validate_tenant_id(tenant_id: str, path: str = "tenant_id") -> list[FieldViolation]:
    """A lowercase DNS label (RFC 1123)."""
    if _TENANT_ID.fullmatch(tenant_id):
        return []
    return [
        FieldViolation(path, "has to be 1 to 63 of a-z, 0-9 and -, and begin and end with a letter or digit")
    ]


def validate_config(
    config: tenant_pb2.TenantConfig, around: Surroundings, path: str = "tenant.config"
) -> list[FieldViolation]:
    """Every violation of a config, named by its path."""
    found: list[FieldViolation] = []

    def report(name: str, description: str) -> None:
        found.append(FieldViolation(f"{path}.{name}", description))

    found += [FieldViolation(where, "is not known to this version") for where in unknown_fields(config, path)]
    if config.ByteSize() > MAX_CONFIG_BYTES:
        found.append(FieldViolation(path, f"has {config.ByteSize()} bytes, more than {MAX_CONFIG_BYTES}"))
    _models(config, around, report)
    _prompt(config.system_prompt, "system_prompt", report)
    _sampling(config, report)
    _limits(config.limits, report)
    if config.HasField("weight") and not 1 <= config.weight <= 1000:
        report("weight", f"is {config.weight}, not 1 to 1000")
    _placement(config, around, report)
    _deadlines(config.deadlines, report)
    return found


def unknown_fields(message: Message, path: str) -> list[str]:
    """Paths of fields and enum values the contract does not know; accepting them would mean ignoring them."""
    found = [path] if len(UnknownFieldSet(message)) else []
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


def _models(config: tenant_pb2.TenantConfig, around: Surroundings, report: Report) -> None:
    if not 1 <= len(config.models) <= MAX_MODELS:
        report("models", f"has {len(config.models)} aliases, not 1 to {MAX_MODELS}")
    seen: set[str] = set()
    for number, alias in enumerate(config.models):
        where = f"models[{number}]"
        if not _ALIAS.fullmatch(alias.alias):
            report(f"{where}.alias", "has to be 1 to 64 of a-z, 0-9, '.', '_' and '-'")
        elif alias.alias in seen:
            report(f"{where}.alias", "is there twice")
        seen.add(alias.alias)
        if alias.base_model not in around.models:
            report(f"{where}.base_model", "names no base model")
        _adapter(alias, where, config.isolation_tier, around, report)
        if alias.HasField("system_prompt"):
            _prompt(alias.system_prompt, f"{where}.system_prompt", report)
    if config.default_model and config.default_model not in seen:
        report("default_model", "is none of the aliases")


def _adapter(
    alias: tenant_pb2.ModelAlias,
    where: str,
    tier: tenant_pb2.IsolationTier.ValueType,
    around: Surroundings,
    report: Report,
) -> None:
    if not alias.adapter:
        if alias.adapter_version:
            report(f"{where}.adapter_version", "is set without an adapter")
        return
    if tier == tenant_pb2.ISOLATION_TIER_SHARED:
        report(f"{where}.adapter", "is not for the tier SHARED, which uses the base model only")
    versions = around.adapters.get(alias.adapter)
    if not versions:
        report(f"{where}.adapter", "names no adapter of this tenant")
        return
    if alias.adapter_version and alias.adapter_version not in versions:
        report(f"{where}.adapter_version", f"is {alias.adapter_version}, which does not exist")
        return
    if versions[alias.adapter_version or max(versions)] != alias.base_model:
        report(f"{where}.adapter", "was made for another base model")


def _prompt(prompt: str, where: str, report: Report) -> None:
    size = len(prompt.encode())
    if size > MAX_PROMPT_BYTES:
        report(where, f"has {size} bytes, more than {MAX_PROMPT_BYTES}")
    if _CONTROL.search(prompt):
        report(where, "holds a control character other than tab and line ends")


def _between(message: Message, name: str, low: float, high: float, where: str, report: Report) -> None:
    if message.HasField(name):
        value = getattr(message, name)
        if not low <= value <= high:
            report(f"{where}.{name}", f"is {value:g}, not {low:g} to {high:g}")


def _sampling(config: tenant_pb2.TenantConfig, report: Report) -> None:
    defaults, bounds = config.parameter_defaults, config.parameter_bounds
    for message, where in ((defaults, "parameter_defaults"), (bounds, "parameter_bounds")):
        _between(message, "max_output_tokens", 1, 1 << 20, where, report)
    _between(defaults, "temperature", 0, 2, "parameter_defaults", report)
    _between(defaults, "top_p", 1e-6, 1, "parameter_defaults", report)
    _between(defaults, "top_k", 0, 1 << 20, "parameter_defaults", report)
    _between(bounds, "min_temperature", 0, 2, "parameter_bounds", report)
    _between(bounds, "max_temperature", 0, 2, "parameter_bounds", report)
    both = bounds.HasField("min_temperature") and bounds.HasField("max_temperature")
    if both and bounds.min_temperature > bounds.max_temperature:
        report("parameter_bounds.min_temperature", "is more than max_temperature")


def _limits(limits: tenant_pb2.Limits, report: Report) -> None:
    for name, high in (
        ("requests_per_second", 1e6),
        ("request_burst", 1e6),
        ("concurrent_requests", 1e5),
        ("input_bytes", float(64 << 20)),
        ("input_tokens", float(1 << 24)),
        ("tokens_per_minute", float(1 << 50)),
    ):
        _between(limits, name, 0, high, "limits", report)


def _placement(config: tenant_pb2.TenantConfig, around: Surroundings, report: Report) -> None:
    dedicated = config.isolation_tier == tenant_pb2.ISOLATION_TIER_DEDICATED
    if not config.pool:
        if dedicated:
            report("pool", "is needed by the tier DEDICATED")
        return
    pool = around.pools.get(config.pool)
    owner = pool[1] if pool else ""
    # A pool dedicated to somebody else looks like one that does not exist.
    if pool is None or (owner and owner != around.tenant_name):
        report("pool", "names no pool this tenant may use")
        return
    if dedicated and owner != around.tenant_name:
        report("pool", "is not dedicated to this tenant, as the tier DEDICATED asks")
    for number, alias in enumerate(config.models):
        if alias.base_model in around.models and alias.base_model != pool[0]:
            report(f"models[{number}].base_model", "is not the one the tenant's pool serves")


def _deadlines(deadlines: tenant_pb2.Deadlines, report: Report) -> None:
    for name in ("default_timeout", "max_timeout"):
        if deadlines.HasField(name):
            seconds = _seconds(getattr(deadlines, name))
            if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
                report(
                    f"deadlines.{name}", f"is {seconds:g} s, not above 0 and at most {MAX_TIMEOUT_SECONDS} s"
                )
    both = deadlines.HasField("default_timeout") and deadlines.HasField("max_timeout")
    if both and _seconds(deadlines.default_timeout) > _seconds(deadlines.max_timeout):
        report("deadlines.default_timeout", "is more than max_timeout")


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
