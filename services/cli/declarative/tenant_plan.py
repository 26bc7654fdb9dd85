"""Compares declared tenants with those in the mesh: one step for each tenant. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tenantry.config.v1.tenant_pb2 import Tenant
from tenantry.config.v1.tenant_version_pb2 import Difference

from services.cli.declarative.declared import Declared, declared_part, require_known
from services.config.admin.config_diff import differences


class Action(StrEnum):
    """The kinds of step."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Step:
    """One tenant, and the action that makes it as declared."""

    action: Action
    tenant_id: str
    wanted: Tenant
    """For CREATE and UPDATE: the tenant as declared. An update has the name and etag of the compared tenant."""
    live: Tenant | None
    """The tenant in the mesh when it was compared; None for CREATE."""
    source: str
    """The file that declares it; empty for DELETE."""
    differences: tuple[Difference, ...] = ()


def make_plan(declared: Iterable[Declared], live: Mapping[str, Tenant], *, prune: bool) -> list[Step]:
    """Make the steps in their order: creations and updates as declared, deletions last.

    Args:
        declared: the wanted tenants, each once.
        live: the tenants in the mesh, by id; all of them if `prune`.
        prune: delete tenants that are not declared.

    Raises:
        CommandError: a tenant in the mesh has fields that this version does not know.
    """
    steps = [_step(wanted, live.get(wanted.tenant_id)) for wanted in declared]
    if prune:
        kept = {step.tenant_id for step in steps}
        steps += [
            Step(Action.DELETE, tenant_id, Tenant(), live[tenant_id], "")
            for tenant_id in sorted(live.keys() - kept)
        ]
    return steps


def _step(declared: Declared, live: Tenant | None) -> Step:
    if live is None:
        return Step(Action.CREATE, declared.tenant_id, declared.tenant, None, declared.source)
    require_known(live)
    now, wanted = declared_part(live), declared.tenant
    if now == wanted:
        return Step(Action.UNCHANGED, declared.tenant_id, wanted, live, declared.source)
    request = Tenant()
    request.CopyFrom(wanted)
    request.name, request.etag = live.name, live.etag
    return Step(
        Action.UPDATE, declared.tenant_id, request, live, declared.source, tuple(differences(now, wanted))
    )


def count(steps: Iterable[Step], action: Action) -> int:
    """Count the steps of one kind."""
    return sum(step.action is action for step in steps)
