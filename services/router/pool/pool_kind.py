"""What makes a pool the pool that a request needs. Pure."""

from __future__ import annotations

from typing import NamedTuple

from services.router.snapshot.model import PoolConfig


class PoolKind(NamedTuple):
    """A pool by its name and what requests depend on.

    A request may queue under an older snapshot: a pool that serves another model now, or that was dedicated to another
    tenant since, is closed to it.
    """

    name: str
    base_model: str
    server_model: str
    dialect: str
    dedicated_to_uid: str | None

    @classmethod
    def of(cls, config: PoolConfig) -> PoolKind:
        """The kind of a configured pool."""
        return cls(
            config.name, config.base_model, config.server_model, config.dialect, config.dedicated_to_uid
        )
