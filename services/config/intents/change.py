"""A change of live config: who makes it, to what, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.config.intents.version_entries import NewVersion
from services.config.state.operators import Operator


@dataclass(frozen=True, slots=True)
class Change:
    """A change that an operator is about to make."""

    operator: Operator
    method: str
    """The RPC's name."""
    resource: str
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More for the operator audit log, such as ids and digests; never prompts, patterns or secrets."""
    version: NewVersion | None = None
    """The config version that the change makes; its tenant's audit log records it once it is in force."""

    @property
    def recorded_details(self) -> dict[str, Any]:
        """The details, with the number and the digest of the version."""
        if self.version is None:
            return dict(self.details)
        stored = self.version.stored
        return {
            **self.details,
            "config_version": stored.config_version,
            "config_sha256": stored.config_sha256,
        }
