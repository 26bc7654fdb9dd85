"""Registers, gets, lists and updates pools."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import pool_pb2

from services.common.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
)
from services.config.admin.edits import Context, Edits
from services.config.admin.page_tokens import page
from services.config.admin.tenant_config import model_still_there, still_there
from services.config.admin.update_mask import merged
from services.config.etcd import keys as etcd_keys
from services.config.etcd.store import Expect, Unchanged
from services.config.intents.change import Change
from services.config.rules.catalog_facts import facts_of_pool, no_base_model
from services.config.rules.catalog_rules import pool_violations
from services.config.rules.free_text import check_reason
from services.config.rules.pool_servers import server_violations
from services.config.rules.pool_users import left_unserved
from services.config.state.config_state import ConfigState
from services.config.state.etag import require_etag
from services.config.state.operators import Operator
from services.config.state.records import PoolRecord
from services.config.state.resources import listed, parse_name, pool_resource, require_id

_POOL_FIXED = frozenset({"name", "etag", "available_time"})


class PoolAdmin:
    """The admin RPCs of pools."""

    def __init__(self, edits: Edits) -> None:
        self._edits = edits

    async def create(self, request: pb.CreatePoolRequest, context: Context) -> pool_pb2.Pool:
        """Register a pool. Tenants that name no pool stay where they are."""
        operator = self._edits.operator(context, request)
        operator.require_platform()
        pool_id = require_id(request.pool_id, "pool_id")
        pool = pool_pb2.Pool()
        pool.CopyFrom(request.pool)
        pool.name, pool.etag = f"pools/{pool_id}", ""
        self._require_good(pool, request.reason, request.pool)
        pool.available_time.CopyFrom(self._after_all())
        if self._edits.state.pool(pool.name) is not None:
            raise AlreadyExistsError("a pool of this name exists")
        if request.validate_only:
            return pool
        key = etcd_keys.pool_key(pool_id)
        change = Change(operator, "CreatePool", pool.name, request.reason)
        # Two pools that come at once may name one server.
        no_other = Unchanged(etcd_keys.POOLS, self._edits.state.revision)  # proven: no-other-pool-meanwhile
        conditions: list[Expect | Unchanged] = [Expect(key, 0), no_other, *self._references_hold(pool)]
        await self._edits.write(change, conditions, {key: pool.SerializeToString()})
        return pool_resource(self._pool(pool.name))

    async def get(self, request: pb.GetPoolRequest, context: Context) -> pool_pb2.Pool:
        """Get a pool."""
        self._edits.operator(context, request).require_platform()
        parse_name(request.name, "pools/{pool}", field="name")
        return pool_resource(self._pool(request.name))

    async def list_page(self, request: pb.ListPoolsRequest, context: Context) -> pb.ListPoolsResponse:
        """List pools."""
        self._edits.operator(context, request).require_platform()
        found = [pool_resource(r) for r in self._edits.state.under("pools/") if isinstance(r, PoolRecord)]
        chosen, token = page(found, lambda pool: pool.name, request.page_size, request.page_token, "pools")
        return pb.ListPoolsResponse(pools=chosen, next_page_token=token)

    async def update(self, request: pb.UpdatePoolRequest, context: Context) -> pool_pb2.Pool:
        """Update a pool; every alias that it serves has to be served afterwards."""
        operator = self._edits.operator(context, request)
        operator.require_platform()
        parse_name(request.pool.name, "pools/{pool}", field="pool.name")
        state = self._edits.state
        record = self._pool(request.pool.name)
        require_etag(request.pool.etag, record.mod_revision, "pool.etag")
        pool = merged(record.pool, request.pool, request.update_mask.paths, _POOL_FIXED)
        self._require_good(pool, request.reason, request.pool, record.pool)
        if (pool.base_model, pool.dedicated_to) != (record.pool.base_model, record.pool.dedicated_to):
            # It may serve other tenants now; being the newest, it takes over from no other pool.
            pool.available_time.CopyFrom(self._after_all())  # proven: takes-over-from-no-pool
        key = etcd_keys.pool_key(pool.name.removeprefix("pools/"))
        conditions: list[Expect | Unchanged] = [Expect(key, record.mod_revision)]
        conditions += self._references_hold(pool)
        if facts_of_pool(pool) != facts_of_pool(record.pool):
            await self._require_nobody_unserved(operator, state, pool)
            conditions.append(Unchanged(etcd_keys.TENANTS, state.revision))
            conditions.append(Unchanged(etcd_keys.ADAPTERS, state.revision))
        if facts_of_pool(pool) != facts_of_pool(record.pool) or pool.endpoints != record.pool.endpoints:
            conditions.append(Unchanged(etcd_keys.POOLS, state.revision))
        if request.validate_only or pool == record.pool:
            return pool_resource(PoolRecord(pool, record.mod_revision))
        change = Change(operator, "UpdatePool", pool.name, request.reason)
        await self._edits.write(change, conditions, {key: pool.SerializeToString()})
        return pool_resource(self._pool(pool.name))

    def _pool(self, name: str) -> PoolRecord:
        record = self._edits.state.pool(name)
        if record is None:
            raise NotFoundError("no such pool")
        return record

    async def _require_nobody_unserved(
        self, operator: Operator, state: ConfigState, pool: pool_pb2.Pool
    ) -> None:
        # Looks at every tenant, so not on the event loop.
        tenants = await self._edits.checks.run(operator, lambda: left_unserved(state, pool))
        if tenants:
            raise FailedPreconditionError(f"no pool would serve all aliases of {listed(tenants)} any more")

    def _after_all(self) -> Timestamp:
        """Now, or 1 ns after the newest pool: the times order pools as they were registered."""
        newest = max((pool.available_time.ToNanoseconds() for pool in self._pools()), default=0)
        stamp = Timestamp()
        stamp.FromNanoseconds(max(self._edits.now().ToNanoseconds(), newest + 1))
        return stamp

    def _references_hold(self, pool: pool_pb2.Pool) -> list[Expect]:
        """Conditions of a pool: its base model and its owner still exist.

        Routers refuse a pool whose tenant is gone, and the next tenant of that name would get the pool.
        """
        state = self._edits.state
        owner = state.tenant(pool.dedicated_to.removeprefix("tenants/"))
        held = [still_there(state, owner.stored.tenant_uid)] if owner else []
        return [model_still_there(state, pool.base_model, "pool.base_model"), *held]

    def _pools(self) -> list[pool_pb2.Pool]:
        return [record.pool for record in self._edits.state.under("pools/") if isinstance(record, PoolRecord)]

    def _require_good(
        self, pool: pool_pb2.Pool, reason: str, sent: pool_pb2.Pool, before: pool_pb2.Pool | None = None
    ) -> None:
        wrong = pool_violations(pool, sent) + check_reason(reason)
        wrong += server_violations(pool, self._pools(), before)  # proven: one-pool-a-server
        if self._edits.state.model(pool.base_model) is None:
            wrong.append(FieldViolation("pool.base_model", no_base_model(self._edits.state)))
        if pool.dedicated_to:
            _, (tenant_id,) = parse_name(pool.dedicated_to, "tenants/{tenant}", field="pool.dedicated_to")
            if self._edits.state.tenant(tenant_id) is None:
                wrong.append(FieldViolation("pool.dedicated_to", "names no tenant"))
        if wrong:
            raise InvalidArgumentError(wrong)
