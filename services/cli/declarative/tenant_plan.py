"""What would have to change for the tenants to be as declared. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tenantry.config.v1.tenant_pb2 import Tenant
from tenantry.config.v1.tenant_version_pb2 import Difference

from services.cli.declarative.declared import Declared, declared_part, require_known
from services.config.admin.config_diff import differences


class Action(StrEnum):
    """What is to be done with a tenant."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done with one tenant."""

    action: Action
    tenant_id: str
    wanted: Tenant
    """For CREATE and UPDATE: as declared; for an update with the name and the etag of what was compared."""
    live: Tenant | None
    """As it was when it was compared; None for CREATE."""
    source: str
    """Where it is declared; empty for DELETE."""
    differences: tuple[Difference, ...] = ()


def make_plan(declared: Iterable[Declared], live: Mapping[str, Tenant], *, prune: bool) -> list[Step]:
    """Steps in the order they are to be taken: creations and updates as declared, deletions last.

    Args:
        declared: the wanted tenants, none twice.
        live: the tenants there are, by id; to prune, all of them.
        prune: delete what is not declared.

    Raises:
        CommandError: a tenant has fields this version does not know.
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
    """How many steps are of a kind."""
    return sum(step.action is action for step in steps)
