"""How rules report what is wrong, and the checks that several subjects share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import Message

from services.config.rules.serving import Adapters, Pools

Report = Callable[[str, str], None]
"""Takes a field's path below the config, and what is wrong with it: limit and actual value, never tenant text."""

_LISTED = 8
NAME = re.compile(r"[a-z0-9._-]{1,64}")
NAME_RULE = "has to be 1 to 64 of a-z, 0-9, '.', '_' and '-'"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a tenant's config may refer to."""

    tenant_name: str
    models: Mapping[str, int]
    """Base models by resource name, with their context in tokens."""
    pools: Pools
    """By resource name."""
    adapters: Adapters = field(default_factory=dict)
    """The tenant's, by id and version."""
    prompt_tokens: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Tokens of system prompts, by base model and prompt; nothing where nobody counted them."""


def listed(names: Iterable[str]) -> str:
    """The names there are to choose from, for a message: the first few, and how many more there are."""
    found = list(names)
    if not found:
        return "there is none"
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"choose {' or '.join(found[:_LISTED])}{more}"


def between(message: Message, name: str, low: float, high: float, where: str, report: Report) -> bool:
    """Whether a field is unset or in its range; reported where it is not. NaN is in no range."""
    if not message.HasField(name):
        return True
    value = getattr(message, name)
    # Asks for what is right: a NaN fails every comparison.
    if low <= value <= high:  # proven: nan-is-in-no-range
        return True
    report(f"{where}.{name}", f"is {value:.12g}, not {low:.17g} to {high:.17g}")
    return False
