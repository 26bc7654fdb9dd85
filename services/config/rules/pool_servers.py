"""A server belongs to one pool: two pools would each fill it to its capacity. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from tenantry.config.v1 import pool_pb2

from services.common.errors import FieldViolation
from services.common.rpc.targets import canonical


def server_violations(
    pool: pool_pb2.Pool, others: Iterable[pool_pb2.Pool], before: pool_pb2.Pool | None = None
) -> list[FieldViolation]:
    """Every endpoint of a pool that it names twice, or that is another pool's.

    Args:
        pool: as it would be.
        others: all pools; the pool itself may be among them.
        before: the pool as it is. What it shares already, from before this rule, keeps nobody from changing it.
    """
    owners = {
        canonical(endpoint.target): other.name
        for other in others
        if other.name != pool.name
        for endpoint in other.endpoints
    }
    kept = set() if before is None else {canonical(endpoint.target) for endpoint in before.endpoints}
    wrong, seen = [], set[str]()
    for number, endpoint in enumerate(pool.endpoints):
        where, server = f"pool.endpoints[{number}].target", canonical(endpoint.target)
        if server in seen:
            wrong.append(FieldViolation(where, "names a server of this pool again"))
        elif server in owners and server not in kept:
            wrong.append(FieldViolation(where, f"is a server of {owners[server]}; a server has one pool"))
        seen.add(server)
    return wrong
