"""The router's last known good file: when a router starts from it, and which config replaces it."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from tenantry.config.v1 import config_discovery_service_pb2 as pb

from services.common.artifacts import DirectoryArtifactStore
from services.common.errors import UnavailableError
from services.router.settings import RouterSettings
from services.router.snapshot import last_known_good
from services.router.snapshot.compiler import compile_snapshot
from services.router.snapshot.config_state import ConfigState
from services.router.snapshot.last_known_good import open_last_known_good
from services.router.text.text_model import TextModelLoader
from tests.fakes.mutants import changed, without
from tests.unit.router.snapshot.kept_router import CANARY, DAY_SECONDS, Router

pytestmark = pytest.mark.usefixtures("the_config_service_gets_no_time")


async def test_what_was_in_force_is_in_force_after_a_start_without_config_and_stale(
    kept_world, kept, manual_clock, caplog
):
    manual_clock.advance(60)
    router = await Router(kept_world, kept, manual_clock).starts()
    snapshot = router.state.snapshot()
    assert (snapshot.revision, set(snapshot.tenants)) == (9, {"uid-acme", "uid-strict"})
    assert router.state.check_fresh(snapshot.tenants["uid-acme"]) is True
    with pytest.raises(UnavailableError):
        router.state.check_fresh(snapshot.tenants["uid-strict"])
    assert "serving revision 9, which was current 60 s ago" in caplog.text
    assert router.registry.get_sample_value("tenantry_config_from_file") == 1


async def test_it_stays_stale_while_only_heartbeats_come_and_is_fresh_with_a_snapshot(
    kept_world, kept, manual_clock
):
    router = await Router(kept_world, kept, manual_clock).starts()
    router.state.heard()
    assert router.state.stale
    router.is_sent(9, kept_world.resources)
    assert not router.state.stale


async def test_when_the_config_service_was_first_the_file_is_not_used(kept_world, kept, manual_clock, caplog):
    router = Router(kept_world, kept, manual_clock)
    router.is_sent(12, kept_world.resources)
    await router.starts()
    assert (router.state.revision, router.state.from_file) == (12, False)
    assert not caplog.records


async def test_another_routers_file_is_refused(kept_world, kept, manual_clock, caplog):
    router = await Router(kept_world, kept, manual_clock, name="router-2").starts()
    assert router.state.revision == 0
    assert "was written by router-1, not by router-2" in caplog.text


async def test_a_file_under_another_key_is_refused(kept_world, kept, manual_clock, caplog):
    (kept / "state" / "lkg.key").unlink()
    router = await Router(kept_world, kept, manual_clock).starts()
    assert router.state.revision == 0
    assert "sealed under another key" in caplog.text


async def test_a_file_that_is_too_old_is_refused(kept_world, kept, manual_clock, caplog):
    manual_clock.advance(DAY_SECONDS + 1)
    router = await Router(kept_world, kept, manual_clock).starts()
    assert router.state.revision == 0
    assert "more than the 86400 s allowed" in caplog.text


async def test_mutant_that_takes_any_age_starts_from_it(kept_world, kept, manual_clock):
    manual_clock.advance(DAY_SECONDS + 1)
    broken = changed(last_known_good, "known-good-age", "self._max_age_seconds = float('inf')")
    router = await Router(kept_world, kept, manual_clock, last_known_good=broken).starts()
    assert router.state.revision == 9


async def test_a_file_that_does_not_compile_any_more_is_refused_and_the_older_one_is_tried(
    kept_world, tmp_path, manual_clock, caplog
):
    router = Router(kept_world, tmp_path, manual_clock)
    router.is_sent(9, dict(kept_world.resources))
    await router.known_good._writer._save()
    # Written by a newer router, which knows more kinds of resources.
    router.is_sent_signed(10, {**kept_world.resources, "news/1": pb.Resource(key="news/1")})
    await router.stops()
    again = await Router(kept_world, tmp_path, manual_clock).starts()
    assert again.state.revision == 9
    assert "known-good.1" in caplog.text


async def test_what_a_config_service_without_etcd_sent_is_not_kept_as_current(
    kept_world, tmp_path, manual_clock
):
    router = Router(kept_world, tmp_path, manual_clock)
    router.state.put(compile_snapshot(9, kept_world.resources, router.loader.load).snapshot)
    router.known_good.hold(9, kept_world.resources)
    await router.stops()
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"lkg.key"}


async def test_the_file_says_when_touch_was_lost_not_when_it_was_written(
    kept_world, tmp_path, manual_clock, caplog
):
    router = Router(kept_world, tmp_path, manual_clock)
    router.is_sent(9, kept_world.resources)
    manual_clock.advance(600)
    await router.stops()
    await Router(kept_world, tmp_path, manual_clock).starts()
    assert "which was current 600 s ago" in caplog.text


async def test_no_prompt_and_no_artifact_key_is_readable_on_disk(kept_world, tmp_path, manual_clock):
    kept_world.adapter("uid-acme", "sea", 1, b"weights", artifact_key=b"0123456789abcdef" * 2)
    router = Router(kept_world, tmp_path, manual_clock)
    router.is_sent_signed(9, kept_world.resources)
    await router.stops()
    files = [path for path in (tmp_path / "state").iterdir() if path.name.startswith("known-good")]
    assert len(files) == 1
    for path in files:
        assert CANARY.encode() not in path.read_bytes()
        assert b"0123456789abcdef" not in path.read_bytes()


def test_a_state_directory_that_cannot_be_used_is_told_and_the_router_starts(tmp_path, manual_clock, caplog):
    (tmp_path / "file").write_text("")
    settings = RouterSettings(
        listen="unix:/l",
        config_target="unix:/c",
        audit_target="unix:/a",
        artifact_dir=tmp_path,
        jwks_path=tmp_path,
        state_dir=tmp_path / "file" / "state",
    )
    loader = TextModelLoader(DirectoryArtifactStore(tmp_path))
    state = ConfigState(manual_clock)
    assert open_last_known_good(settings, state, loader.load, manual_clock, CollectorRegistry()) is None
    assert "NO LAST KNOWN GOOD CONFIG IS KEPT" in caplog.text


async def test_a_start_gives_the_config_service_a_moment(kept_world, kept, manual_clock, monkeypatch):
    monkeypatch.setattr(last_known_good, "START_SECONDS", 0.05)
    router = Router(kept_world, kept, manual_clock)
    starting = asyncio.create_task(router.starts())
    await asyncio.sleep(0)
    router.is_sent(12, kept_world.resources)
    await starting
    assert (router.state.revision, router.state.from_file) == (12, False)


async def started_while_a_config_arrives(kept_world, kept, clock, module):
    """Start while a config is compiled for longer than a silent config service is waited for."""
    router, at_rest = Router(kept_world, kept, clock, last_known_good=module), asyncio.Event()
    starting = asyncio.create_task(router.starts(at_rest))
    done, _ = await asyncio.wait([starting], timeout=0.5)
    if not done:
        router.is_sent(12, kept_world.resources)
        at_rest.set()
    await asyncio.wait_for(starting, 5)
    return router.state.revision, router.state.from_file


async def test_a_config_that_is_arriving_is_waited_for(kept_world, kept, manual_clock):
    found = await started_while_a_config_arrives(kept_world, kept, manual_clock, last_known_good)
    assert found == (12, False)


async def test_that_test_notices_a_file_that_is_preferred(kept_world, kept, manual_clock):
    hasty = without(last_known_good, "arriving-config-comes-first")
    hasty.START_SECONDS = 0.0
    found = await started_while_a_config_arrives(kept_world, kept, manual_clock, hasty)
    assert found == (9, True)


async def test_a_config_that_never_has_arrived_is_not_waited_for_any_longer(
    kept_world, kept, manual_clock, monkeypatch
):
    monkeypatch.setattr(last_known_good, "ARRIVAL_SECONDS", 0.05)
    router = await Router(kept_world, kept, manual_clock).starts(asyncio.Event())
    assert (router.state.revision, router.state.from_file) == (9, True)
