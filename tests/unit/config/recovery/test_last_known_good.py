"""The config service's file: its content, when a start uses it, and that a list from etcd replaces it."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from tenantry.config.v1 import config_admin_service_pb2 as pb

from services.common.known_good.sealed_file import Expected, Kind
from services.common.known_good.signed_state import StatementSigner
from services.config.etcd.store import StoreUnavailableError
from services.config.recovery import last_known_good
from services.config.state import current_state
from services.config.state.sealing import TenantKeys
from tests.fakes.config_plane import ConfigPlane
from tests.fakes.mutants import changed, replaced, without
from tests.unit.config.recovery.kept_config import DAY_SECONDS, Process, pools

pytestmark = pytest.mark.usefixtures("etcd_gets_no_time")


async def test_what_etcd_held_is_in_force_after_a_start_without_it(kept, clock, caplog):
    clock.advance(3_600)
    process = await Process(kept, clock).starts()
    assert process.current.state.revision == 9
    assert (process.model_of("a"), process.current.state.pool("pools/b")) == ("two", None)
    assert process.current.listed.is_set()
    assert not process.current.connected
    assert not process.current.live.is_set()
    assert process.current.silence_ms == 3_600_000
    assert process.registry.get_sample_value("tenantry_config_from_file") == 1
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "serving revision 9, which was current 3600 s ago" in record.getMessage()


async def test_when_etcd_answers_in_time_the_file_is_not_looked_at(kept, clock, caplog):
    process = Process(kept, clock)
    process.etcd_lists(pools(11, c="three"), 12)
    await process.starts()
    assert process.current.state.revision == 12
    assert not caplog.records


async def test_etcds_list_replaces_what_the_file_held(kept, clock, caplog):
    process = await Process(kept, clock).starts()
    caplog.clear()
    process.etcd_lists(pools(11, c="three"), 12)
    assert process.current.state.pool("pools/a") is None
    assert (process.model_of("c"), process.current.silence_ms) == ("three", 0)
    assert (process.alarms("cluster"), process.alarms("revision")) == (None, None)
    assert process.registry.get_sample_value("tenantry_config_from_file") == 0
    assert not caplog.records


async def test_an_etcd_that_was_set_back_wins_loudly_even_at_equal_revisions(kept, clock, caplog):
    process = await Process(kept, clock).starts()
    process.etcd_lists(pools(9, a="another history"), 8)
    assert (process.model_of("a"), process.current.state.revision) == ("another history", 8)
    assert process.alarms("revision") == 1
    assert "etcd is at revision 8, older than 9 as before" in caplog.text


async def test_mutant_that_trusts_equal_revisions_keeps_the_files_value(kept, clock):
    broken = without(current_state, "no-record-of-another-history")
    process = await Process(kept, clock, current_state=broken).starts()
    process.etcd_lists(pools(9, a="another history"), 8)
    assert process.model_of("a") == "two"


async def test_another_cluster_wins_loudly_and_is_the_expected_one_from_then_on(kept, clock, caplog):
    process = await Process(kept, clock).starts()
    process.cluster = 0xBEEF
    process.etcd_lists(pools(3, z="elsewhere"), 50)
    assert process.alarms("cluster") == 1
    assert "etcd is cluster beef, not cdf818194e3a8c32 as before" in caplog.text
    await process.stops()
    again = await Process(kept, clock).starts()
    assert again.model_of("z") == "elsewhere"


async def test_a_file_of_another_cluster_is_refused_at_a_start(kept, clock, caplog):
    (kept / "etcd-cluster-id").write_text("beef\n")
    process = await Process(kept, clock).starts()
    assert not process.current.listed.is_set()
    assert "is of etcd cluster cdf818194e3a8c32, not of beef" in caplog.text


async def test_mutant_that_expects_any_cluster_starts_from_another_ones_file(kept, clock):
    (kept / "etcd-cluster-id").write_text("beef\n")
    broken = changed(last_known_good, "file-of-this-cluster", 'cluster = ""')
    process = await Process(kept, clock, last_known_good=broken).starts()
    assert process.current.listed.is_set()


async def test_a_file_that_is_too_old_or_under_another_key_is_refused(kept, clock, caplog):
    foreign = await Process(kept, clock, key=TenantKeys(b"x" * 32).known_good_key).starts()
    clock.advance(DAY_SECONDS + 1)
    old = await Process(kept, clock).starts()
    assert not foreign.current.listed.is_set()
    assert not old.current.listed.is_set()
    assert "sealed under another key" in caplog.text
    assert "more than the 86400 s allowed" in caplog.text


async def test_a_file_that_another_config_service_signed_is_refused(kept, clock, caplog):
    process = await Process(kept, clock, signer=StatementSigner(bytes(32))).starts()
    assert not process.current.listed.is_set()
    assert "its signature does not verify" in caplog.text


async def test_mutant_that_checks_no_signature_starts_from_it(kept, clock):
    broken = replaced(
        last_known_good, "require_signed", lambda known, *_: replace(known, parts=known.parts[2:])
    )
    process = await Process(kept, clock, signer=StatementSigner(bytes(32)), last_known_good=broken).starts()
    assert process.current.listed.is_set()


async def test_a_damaged_newest_generation_gives_way_to_the_one_before(tmp_path, clock, caplog):
    process = Process(tmp_path, clock)
    for revision in (7, 8):
        process.etcd_lists(pools(revision, a="x"), revision)
        await process.known_good._writer._save()
    await process.stops()
    newest = tmp_path / "known-good.1"
    newest.write_bytes(newest.read_bytes()[:-1])
    again = await Process(tmp_path, clock).starts()
    assert again.current.state.revision == 7
    assert "known-good.1: ends early" in caplog.text


async def test_a_service_that_heard_nothing_since_does_not_make_its_file_look_newer(kept, clock):
    process = await Process(kept, clock).starts()
    clock.advance(3_600)
    await process.stops()
    again = await Process(kept, clock).starts()
    assert again.current.silence_ms == 3_600_000


async def test_a_stop_long_after_etcd_fell_silent_dates_the_file_back(tmp_path, clock):
    process = Process(tmp_path, clock)
    process.etcd_lists(pools(5, a="one"), 7)
    clock.advance(600)
    await process.stops()
    files = process.known_good._files
    (known,) = files.readable(Expected(Kind.CONFIG, "config", DAY_SECONDS), clock.wall_seconds())
    assert known.header.age_seconds(clock.wall_seconds()) == pytest.approx(600)


async def test_edits_wait_for_etcd_itself_and_leave_no_intent(tmp_path):
    plane = ConfigPlane(tmp_path)
    await plane.new_model()
    await plane.new_pool()
    tenant = await plane.new_tenant("acme")
    entries, revision = len(plane.entries), plane.current.state.revision
    plane.current.live.clear()
    tenant.config.weight = 3
    with pytest.raises(StoreUnavailableError):
        await plane.call("UpdateTenant", pb.UpdateTenantRequest(tenant=tenant))
    read = await plane.call("GetTenant", pb.GetTenantRequest(name="tenants/acme"))
    assert read.config.weight == 0
    assert (len(plane.entries), plane.current.state.revision) == (entries, revision)
