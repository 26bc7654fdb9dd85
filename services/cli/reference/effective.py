"""A config with its defaults filled in: what is in force where a tenant sets nothing. Pure.

The values are the routers' (`services/router/snapshot/tenant_rules.py`); a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.cli.reference.catalog import Catalog, Default, Message

Plain = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Effective:
    """A config with its defaults, and which of its fields those are."""

    values: Plain
    """Every field; None where a default cannot be said as a value."""
    defaults: Mapping[str, Default] = field(default_factory=dict)
    """By path, for example `limits.request_burst` or `models[0].adapter`: the unset fields."""


@dataclass(frozen=True, slots=True)
class Unset:
    """The meaning of a differing field on the side where it is unset, in words; empty for none."""

    before: str = ""
    after: str = ""


def effective_config(config: Plain, catalog: Catalog) -> Effective:
    """Fill in a tenant's config.

    Args:
        config: the fields that are set, as `services.cli.documents.to_plain` makes them.
        catalog: the defaults.
    """
    defaults: dict[str, Default] = {}
    values = _filled(config, catalog.messages["TenantConfig"], "", (catalog, config, defaults))
    return Effective(values, defaults)


_Around = tuple[Catalog, Plain, dict[str, Default]]


def _filled(given: Plain, message: Message, path: str, around: _Around) -> Plain:
    catalog, config, defaults = around
    filled: Plain = {}
    for name, described in message.fields.items():
        where = f"{path}.{name}" if path else name
        inside = catalog.messages.get(described.message)
        if inside is not None and described.repeated:
            filled[name] = [
                _filled(item, inside, f"{where}[{place}]", around)
                for place, item in enumerate(given.get(name, []))
            ]
        elif inside is not None:
            filled[name] = _filled(given.get(name, {}), inside, where, around)
        elif name in given:
            filled[name] = given[name]
        else:
            default = described.default or Default("" if described.type == "text" else None)
            derive = _DERIVED.get(f"{message.name}.{name}")
            value = default.value if derive is None else derive(config, default.value)
            defaults[where] = Default(value, default.text)
            filled[name] = value
    return filled


def _most_tokens(config: Plain, default: int) -> int:
    bound: int = config.get("parameter_bounds", {}).get("max_output_tokens", default)
    return min(default, bound)


def _temperature(config: Plain, default: float) -> float:
    bounds = config.get("parameter_bounds", {})
    low: float = bounds.get("min_temperature", default)
    high: float = bounds.get("max_temperature", max(default, low))
    return min(max(default, low), high)


def _timeout(config: Plain, default: str) -> str:
    longest = config.get("deadlines", {}).get("max_timeout")
    return default if longest is None or _seconds(default) <= _seconds(longest) else longest


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def _priority(config: Plain, default: int) -> int:
    highest: int = config.get("priorities", {}).get("max_priority", default)
    return min(default, highest)


def _first_alias(config: Plain, _default: None) -> str | None:
    return next((model.get("alias", "") for model in config.get("models", [])), None)


def _tenants_prompt(config: Plain, _default: None) -> str:
    return str(config.get("system_prompt", ""))


# Defaults that depend on what else is set.
_DERIVED: dict[str, Callable[[Plain, Any], Any]] = {
    "Deadlines.default_timeout": _timeout,
    "ModelAlias.system_prompt": _tenants_prompt,
    "ParameterDefaults.max_output_tokens": _most_tokens,
    "ParameterDefaults.temperature": _temperature,
    "PriorityRules.default_priority": _priority,
    "TenantConfig.default_model": _first_alias,
}
