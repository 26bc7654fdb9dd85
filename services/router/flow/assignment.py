"""Which router is the flow controller, as the config service says. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Assignment:
    """The flow controller of a mesh."""

    epoch: int
    """Rises with every other controller."""
    controller: str
    """The name of its router."""
    target: str
    """Where other routers reach it."""
    routers: frozenset[str]
    """Every router of the mesh."""


def alone(router: str) -> Assignment:
    """The assignment of a router that counts for itself alone."""
    return Assignment(1, router, "", frozenset({router}))
