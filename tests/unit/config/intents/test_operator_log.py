"""No edit without an intent, and an alarm about every revision without one; over a store in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb
from tenantry.config.v1 import pool_pb2

from services.common.audit.entry import OPERATOR_LOG_UID
from services.common.audit.writer import EntryKind
from services.common.errors import UnavailableError
from services.config.admin import tenants
from services.config.etcd import keys as etcd_keys
from services.config.intents import transactions
from tests.fakes.config_plane import ConfigPlane
from tests.fakes.mutants import changed

CANARY = "a-prompt-nobody-else-may-read"


@pytest.fixture
async def plane(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    return plane


async def test_intents_come_first_and_outcomes_name_their_revision(plane):
    plane.entries.clear()
    tenant = await plane.new_tenant("acme", system_prompt=CANARY)
    intent, outcome = [entry for entry in plane.entries if entry.tenant_uid == OPERATOR_LOG_UID]
    assert intent.kind is EntryKind.ADMIN_INTENT
    assert (intent.meta["method"], intent.meta["resource"]) == ("CreateTenant", "tenants/acme")
    assert outcome.admit_record_id == intent.record_id
    assert outcome.meta == {"outcome": "written", "revision": tenant.revision}
    assert CANARY not in str(intent) + str(outcome)


async def edit_without_audit(plane, module):
    plane.audit_down = True
    writer = module.Intents(plane.store, plane, plane.keys.intent_key, plane.clock, plane.metrics)
    tenant = await plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"))
    tenant.config.weight = 9
    admin = tenants.TenantAdmin(replace(plane.edits, intents=writer), plane.keys)
    return await admin.update(pb.UpdateTenantRequest(tenant=tenant), plane.operator)


async def test_without_a_durable_intent_nothing_is_written(plane):
    await plane.new_tenant("acme")
    revision = plane.current.state.revision
    with pytest.raises(UnavailableError):
        await edit_without_audit(plane, transactions)
    assert plane.current.state.revision == revision


async def test_mutant_that_does_not_wait_for_the_intent_writes(plane):
    await plane.new_tenant("acme")
    hasty = changed(transactions, "intent-before-write", 'intent_id = b"0" * 16')
    assert (await edit_without_audit(plane, hasty)).config.weight == 9


async def test_a_revision_nobody_intended_raises_the_alarm(plane, caplog):
    await plane.new_tenant("acme")
    alarms = plane.metrics.revisions_without_intent._value.get
    before = alarms()
    plane.store.put({etcd_keys.pool_key("evil"): pool_pb2.Pool(name="pools/evil").SerializeToString()})
    assert alarms() == before + 1
    assert "ALARM" in caplog.text
    # A mark that was seen before does not cover other keys.
    seen = await plane.store.get(etcd_keys.INTENT)
    plane.store.put({etcd_keys.pool_key("evil"): b"", etcd_keys.INTENT: seen.value})
    assert alarms() == before + 2
