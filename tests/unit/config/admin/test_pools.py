"""Every alias in force is served: no edit of a tenant or of a pool leaves one without a pool or a rendition."""

from __future__ import annotations

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import pool_pb2, tenant_pb2

from services.common.errors import AbortedError, FailedPreconditionError, InvalidArgumentError
from services.config.adapters.peft import WEIGHTS_FILE
from services.config.adapters.peft_config import CONFIG_FILE
from services.config.admin import pools
from services.config.etcd import keys as etcd_keys
from services.config.rules.catalog_facts import pool_facts
from services.config.rules.serving import serving_pool
from tests.fakes.config_plane import ConfigPlane
from tests.fakes.mutants import without
from tests.fakes.peft_files import peft_files

ENGINE = "c" * 64


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    await plane.new_tenant("acme")
    return plane


def files():
    config, weights, _ = peft_files()
    return [(CONFIG_FILE, config), (WEIGHTS_FILE, weights)]


async def change_pool(plane, name="pools/p", **changes):
    pool = await plane.call("GetPool", pb.GetPoolRequest(name=name))
    for field, value in changes.items():
        setattr(pool, field, value)
    mask = FieldMask(paths=list(changes))
    return await plane.call("UpdatePool", pb.UpdatePoolRequest(pool=pool, update_mask=mask))


async def change_tenant(plane, **changes):
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"))
    for field, value in changes.items():
        setattr(tenant.config, field, value)
    return await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))


async def toned(plane):
    """The tenant has an alias with an adapter."""
    await plane.register("acme", files())
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"))
    tenant.config.models.add(alias="toned", base_model="models/m", adapter="sea")
    return await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))


def placed(plane, tenant="acme"):
    record = plane.current.state.tenant(tenant)
    return serving_pool(record.config, record.name, "models/m", pool_facts(plane.current.state))


async def test_a_pool_that_is_added_moves_nobody_whatever_its_name(plane):
    for name in ("a", "z"):
        await plane.new_pool(name, engine_sha256=ENGINE)
        assert placed(plane) == "pools/p"


async def shares_an_older_pool(plane, module):
    """The pool of a tenant that names none, after a pool older than its own became shared."""
    await plane.new_pool("a", dedicated_to="tenants/acme")
    await plane.new_tenant("globex")
    older = pool_pb2.Pool()
    older.CopyFrom(plane.current.state.pool("pools/a").pool)
    older.available_time.FromSeconds(1)
    plane.store.put({etcd_keys.pool_key("a"): older.SerializeToString()})
    pool = await plane.call("GetPool", pb.GetPoolRequest(name="pools/a"))
    pool.dedicated_to = ""
    request = pb.UpdatePoolRequest(pool=pool, update_mask=FieldMask(paths=["dedicated_to"]))
    await module.PoolAdmin(plane.edits).update(request, plane.operator)
    return placed(plane, "globex")


async def test_a_pool_that_begins_to_be_shared_moves_nobody(plane):
    assert await shares_an_older_pool(plane, pools) == "pools/p"


async def test_that_test_notices_a_pool_that_keeps_its_place(plane):
    careless = without(pools, "takes-over-from-no-pool")
    assert await shares_an_older_pool(plane, careless) == "pools/a"


async def test_order_is_that_of_coming_though_clocks_stand_still(plane):
    names = [f"pools/{letter}" for letter in "zyx"]
    for name in names:
        await plane.new_pool(name.removeprefix("pools/"))
    facts = pool_facts(plane.current.state)
    assert sorted(facts, key=lambda name: facts[name].available_ns) == ["pools/p", *names]


async def test_the_time_is_not_the_callers_to_set(plane):
    pool = await plane.call("GetPool", pb.GetPoolRequest(name="pools/p"))
    before = pool.available_time.ToNanoseconds()
    pool.available_time.seconds = 1
    pool.capacity.queued_requests = 5
    updated = await plane.call("UpdatePool", pb.UpdatePoolRequest(pool=pool))
    assert updated.available_time.ToNanoseconds() == before
    pool.endpoints[0].target = "early.internal:8001"
    created = await plane.call("CreatePool", pb.CreatePoolRequest(pool_id="early", pool=pool))
    assert created.available_time.ToNanoseconds() > before


async def test_an_alias_without_a_pool_is_refused(plane):
    await plane.new_model("other")
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"))
    tenant.config.models.add(alias="other", base_model="models/other")
    with pytest.raises(InvalidArgumentError) as refused:
        await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))
    assert [v.field for v in refused.value.violations] == ["tenant.config.models[1].base_model"]
    await plane.new_pool("other", base_model="models/other")
    assert (await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))).config_version == 2


async def test_an_adapter_without_a_rendition_for_the_pool_is_refused_until_it_is_registered_again(plane):
    await toned(plane)
    await plane.new_pool("new", engine_sha256=ENGINE)
    with pytest.raises(InvalidArgumentError) as refused:
        await change_tenant(plane, pool="pools/new")
    assert [v.field for v in refused.value.violations] == ["tenant.config.models[1].adapter"]
    await plane.register("acme", files())
    assert (await change_tenant(plane, pool="pools/new")).config.pool == "pools/new"


@pytest.mark.parametrize(
    "change",
    [{"dedicated_to": "tenants/globex"}, {"base_model": "models/other"}],
    ids=["the last shared pool", "another base model"],
)
async def test_a_pool_that_serves_an_alias_goes_on_serving_it(plane, change):
    await plane.new_tenant("globex", pool="pools/p")
    await plane.new_model("other")
    with pytest.raises(FailedPreconditionError, match="tenants/acme"):
        await change_pool(plane, **change)
    await plane.new_pool("spare")
    if "base_model" in change:
        # A tenant that names the pool is served by no other.
        with pytest.raises(FailedPreconditionError, match="tenants/globex"):
            await change_pool(plane, **change)
        return
    await change_pool(plane, **change)
    assert (placed(plane), placed(plane, "globex")) == ("pools/spare", "pools/p")


@pytest.mark.parametrize(
    "change",
    [{"engine_sha256": ENGINE}, {"adapter_dtype": "float32"}, {"adapter_config_columns": 4}],
)
async def test_a_pool_goes_on_taking_the_adapters_it_serves(plane, change):
    await toned(plane)
    with pytest.raises(FailedPreconditionError, match="tenants/acme"):
        await change_pool(plane, **change)


async def test_what_serves_no_adapter_may_change_its_engine(plane):
    await plane.register("acme", files())
    assert (await change_pool(plane, engine_sha256=ENGINE)).engine_sha256 == ENGINE


async def test_what_is_unserved_already_keeps_nobody_from_changing_pools(plane):
    await toned(plane)
    broken = plane.current.state.pool("pools/p").pool
    changed = pool_pb2.Pool()
    changed.CopyFrom(broken)
    changed.engine_sha256 = ENGINE
    plane.store.put({etcd_keys.pool_key("p"): changed.SerializeToString()})
    assert (await change_pool(plane, adapter_dtype="float32")).adapter_dtype == "float32"


async def test_a_dedicated_pool_stays_dedicated_while_its_tenant_asks_for_it(plane):
    await change_pool(plane, dedicated_to="tenants/acme")
    await change_tenant(plane, pool="pools/p", isolation_tier=tenant_pb2.ISOLATION_TIER_DEDICATED)
    with pytest.raises(FailedPreconditionError, match="tenants/acme"):
        await change_pool(plane, dedicated_to="")


async def test_that_test_notices_a_change_that_nobody_is_asked_about(plane, monkeypatch):
    monkeypatch.setattr(pools, "left_unserved", lambda _state, _pool: [])
    await plane.new_tenant("globex", pool="pools/p")
    await change_pool(plane, dedicated_to="tenants/globex")
    assert placed(plane) == ""


def once(plane, write):
    def before_write():
        plane.store.before_write = lambda: None
        write()

    plane.store.before_write = before_write


def exchange_engine(plane):
    changed = pool_pb2.Pool()
    changed.CopyFrom(plane.current.state.pool("pools/p").pool)
    changed.engine_sha256 = ENGINE
    return lambda: plane.store.put({etcd_keys.pool_key("p"): changed.SerializeToString()})


async def test_an_adapter_rendered_for_what_pools_were_is_not_registered(plane):
    once(plane, exchange_engine(plane))
    with pytest.raises(AbortedError, match="register again"):
        await plane.register("acme", files())
    assert list(plane.current.state.under("adapters/")) == []
    assert (await plane.register("acme", files())).versions[0].renditions[0].engine_sha256 == ENGINE


async def test_that_test_notices_a_registration_that_does_not_look(plane):
    plane.store.ignored_prefixes.add(etcd_keys.POOLS)
    once(plane, exchange_engine(plane))
    registered = await plane.register("acme", files())
    assert registered.versions[0].renditions[0].engine_sha256 != ENGINE
