"""The interface between the rules and their callers, and the checks that several rules share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import Message

from services.config.rules.serving import Adapters, Pools

Report = Callable[[str, str], None]
"""Takes a field's path below the config, and its violation: limit and actual value, never tenant text."""

_LISTED = 8
NAME = re.compile(r"[a-z0-9._-]{1,64}")
NAME_RULE = "has to be 1 to 64 of a-z, 0-9, '.', '_' and '-'"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The resources that a tenant's config may refer to."""

    tenant_name: str
    models: Mapping[str, int]
    """The context in tokens of base models, by resource name."""
    pools: Pools
    """The facts of pools, by resource name."""
    adapters: Adapters = field(default_factory=dict)
    """The facts of the tenant's adapters, by id and version."""
    prompt_tokens: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """The tokens of system prompts, by base model and prompt; absent where they were not counted."""
    has_key: Callable[[str], bool] = lambda _key_id: False
    """Whether a key of the tenant's has this id."""


def listed(names: Iterable[str]) -> str:
    """List the names to choose from, for a message: the first few, and how many more there are."""
    found = list(names)
    if not found:
        return "there is none"
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"choose {' or '.join(found[:_LISTED])}{more}"


def between(message: Message, name: str, low: float, high: float, where: str, report: Report) -> bool:
    """Check that a field is unset or in its range, and report it otherwise. NaN is in no range."""
    if not message.HasField(name):
        return True
    value = getattr(message, name)
    # Positive form, because every comparison with NaN is false.
    if low <= value <= high:  # proven: nan-is-in-no-range
        return True
    report(f"{where}.{name}", f"is {value:.12g}, not {low:.17g} to {high:.17g}")
    return False
