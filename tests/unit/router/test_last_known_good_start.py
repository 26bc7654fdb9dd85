"""The router's file: when it is started from, how stale it counts, and what it gives way to."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tenantry.config.v1 import config_discovery_service_pb2 as pb
from tenantry.config.v1 import tenant_pb2

from services.common.artifacts import DirectoryArtifactStore
from services.common.errors import UnavailableError
from services.common.known_good import Expected, Kind
from services.common.signed_state import Statement, StatementSigner
from services.common.state_digest import digest_of
from services.router import last_known_good
from services.router.config_state import ConfigState
from services.router.last_known_good import LastKnownGood, open_last_known_good
from services.router.settings import RouterSettings
from services.router.snapshot_compiler import compile_snapshot
from services.router.text_model import TextModelLoader
from tests.fakes.manual_clock import ManualClock
from tests.fakes.mutants import mutant
from tests.fakes.router_config import ConfigWorld
from tests.fakes.tiny_text import CHAT_TEMPLATE, tiny_tokeniser_json

CANARY = "quokka-canary-prompt"
REFUSE = tenant_pb2.STALENESS_POLICY_REFUSE
DAY_SECONDS = 86_400.0
SIGNER, ANOTHER_SIGNER = StatementSigner(b"s" * 32), StatementSigner(b"t" * 32)


@pytest.fixture(autouse=True)
def the_config_service_gets_no_time(monkeypatch):
    monkeypatch.setattr(last_known_good, "START_SECONDS", 0.0)


@pytest.fixture
def world(tmp_path):
    artifacts = DirectoryArtifactStore(tmp_path / "artifacts")
    world = ConfigWorld(
        artifacts, artifacts.put(tiny_tokeniser_json()), artifacts.put(CHAT_TEMPLATE.encode())
    )
    world.base_model()
    world.pool(["a:1"])
    world.tenant("acme", 7, system_prompt=CANARY)
    world.tenant("strict", 8, staleness_policy=REFUSE)
    return world


class Router:
    """One run of a router over a state directory, as far as the file is concerned."""

    def __init__(
        self, world: ConfigWorld, folder: Path, clock: ManualClock, name: str = "router-1", **modules: Any
    ) -> None:
        self.clock, self.registry = clock, CollectorRegistry()
        self.state = ConfigState(clock)
        self.loader = TextModelLoader(world.artifacts)
        settings = RouterSettings(
            router=name,
            listen="unix:/l",
            config_target="unix:/c",
            audit_target="unix:/a",
            artifact_dir=folder,
            jwks_path=folder,
            state_dir=folder / "state",
        )
        opening = modules.get("last_known_good", last_known_good).open_last_known_good
        found = opening(settings, self.state, self.loader.load, clock, self.registry)
        assert found is not None
        self.known_good: LastKnownGood = found

    def is_sent(self, revision: int, resources: dict[str, pb.Resource]) -> None:
        self.state.put(compile_snapshot(revision, resources, self.loader.load).snapshot)
        self.state.heard()
        self.is_sent_signed(revision, resources)

    def is_sent_signed(
        self,
        revision: int,
        resources: dict[str, pb.Resource],
        by: StatementSigner = SIGNER,
        cluster: str = "c1",
    ) -> None:
        self.known_good.hold(revision, resources)
        current_ms = int(1000 * self.clock.wall_seconds())
        digest = digest_of(
            (key, resource.SerializeToString(deterministic=True)) for key, resource in resources.items()
        )
        signed = by.sign(Statement(cluster, current_ms, revision, digest))
        self.known_good.attest(
            pb.SnapshotStatement(
                statement=signed.text, signature=signed.signature, signer_public_key=signed.signer
            )
        )

    async def starts(self):
        await self.known_good.start_without_config(
            lambda resources, compiled: self.state.put(compiled.snapshot, from_file=True)
        )
        return self

    async def stops(self) -> None:
        await self.known_good.finish(5)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def kept(world, tmp_path, clock):
    """The folder that a router left on a clean stop."""
    router = Router(world, tmp_path, clock)
    router.is_sent(9, world.resources)
    await router.stops()
    return tmp_path


async def test_what_was_in_force_is_in_force_after_a_start_without_config_and_stale(
    world, kept, clock, caplog
):
    clock.advance(60)
    router = await Router(world, kept, clock).starts()
    snapshot = router.state.snapshot()
    assert (snapshot.revision, set(snapshot.tenants)) == (9, {"uid-acme", "uid-strict"})
    assert router.state.check_fresh(snapshot.tenants["uid-acme"]) is True
    with pytest.raises(UnavailableError):
        router.state.check_fresh(snapshot.tenants["uid-strict"])
    assert "serving revision 9, which was current 60 s ago" in caplog.text
    assert router.registry.get_sample_value("tenantry_config_from_file") == 1


async def test_it_stays_stale_while_only_heartbeats_come_and_is_fresh_with_a_snapshot(world, kept, clock):
    router = await Router(world, kept, clock).starts()
    router.state.heard()
    assert router.state.stale
    router.is_sent(9, world.resources)
    assert not router.state.stale


async def test_when_the_config_service_was_first_the_file_is_not_used(world, kept, clock, caplog):
    router = Router(world, kept, clock)
    router.is_sent(12, world.resources)
    await router.starts()
    assert (router.state.revision, router.state.from_file) == (12, False)
    assert not caplog.records


async def test_another_routers_file_is_refused(world, kept, clock, caplog):
    router = await Router(world, kept, clock, name="router-2").starts()
    assert router.state.revision == 0
    assert "was written by router-1, not by router-2" in caplog.text


async def test_a_file_under_another_key_is_refused(world, kept, clock, caplog):
    (kept / "state" / "lkg.key").unlink()
    router = await Router(world, kept, clock).starts()
    assert router.state.revision == 0
    assert "sealed under another key" in caplog.text


def record(folder: Path, name: str, line: str) -> None:
    (folder / "state" / name).write_text(f"{line}\n")


async def test_a_file_that_another_config_service_signed_is_refused(world, kept, clock, caplog):
    record(kept, "config-signer", ANOTHER_SIGNER.public_key.hex())
    router = await Router(world, kept, clock).starts()
    assert router.state.revision == 0
    assert "its signature does not verify" in caplog.text


async def test_a_file_of_another_cluster_is_refused(world, kept, clock, caplog):
    record(kept, "etcd-cluster-id", "c2")
    router = await Router(world, kept, clock).starts()
    assert router.state.revision == 0
    assert "is of etcd cluster c1, not of c2" in caplog.text


@pytest.mark.parametrize(
    ("record_of", "line", "check", "broken"),
    [
        ("config-signer", ANOTHER_SIGNER.public_key.hex(), "require_signed(sealed, self._signer, _signed_items)",
         "replace(sealed, parts=sealed.parts[2:])"),
        ("etcd-cluster-id", "c2", "self._max_age_seconds, self._cluster)", 'self._max_age_seconds, "")'),
    ],
)  # fmt: skip
async def test_mutant_without_a_check_starts_from_it(world, kept, clock, record_of, line, check, broken):
    record(kept, record_of, line)
    unchecked = mutant(last_known_good, check, broken)
    unchecked.replace = replace
    router = await Router(world, kept, clock, last_known_good=unchecked).starts()
    assert router.state.revision == 9


async def test_whoever_has_the_routers_key_makes_no_config(world, kept, clock, caplog):
    files = Router(world, kept, clock).known_good._files
    (known,) = files.readable(Expected(Kind.ROUTER, "router-1", DAY_SECONDS), clock.wall_seconds())
    text, signature, *parts = known.parts
    tenants = [pb.Resource.FromString(part) for part in parts]
    for resource in tenants:
        resource.tenant.config.system_prompt = "say what I want"
    forged = [resource.SerializeToString(deterministic=True) for resource in tenants]
    files.save(known.header, [text, signature, *forged])
    (kept / "state" / "known-good.2").unlink()
    router = await Router(world, kept, clock).starts()
    assert router.state.revision == 0
    assert "its content is not the one that is signed" in caplog.text


async def test_a_statement_of_another_config_service_is_told_and_not_kept(world, kept, clock, caplog):
    router = Router(world, kept, clock)
    router.is_sent_signed(12, world.resources, by=ANOTHER_SIGNER)
    await router.stops()
    assert "ALARM: a statement about config is signed by another config service" in caplog.text
    again = await Router(world, kept, clock).starts()
    assert again.state.revision == 9


async def test_a_published_signer_counts_more_than_the_one_on_disk(world, kept, clock, caplog, monkeypatch):
    published = kept / "published"
    published.write_text(f"{ANOTHER_SIGNER.public_key.hex()}\n")
    monkeypatch.setenv("TENANTRY_ROUTER_CONFIG_SIGNER_PATH", str(published))
    router = await Router(world, kept, clock).starts()
    assert router.state.revision == 0
    assert "its signature does not verify" in caplog.text


async def test_another_cluster_under_the_same_signature_is_the_expected_one_from_then_on(world, kept, clock):
    router = Router(world, kept, clock)
    router.is_sent_signed(3, world.resources, cluster="c2")
    await router.stops()
    again = await Router(world, kept, clock).starts()
    assert again.state.revision == 3


async def test_what_differs_from_what_was_signed_is_not_kept(world, tmp_path, clock, caplog):
    router = Router(world, tmp_path, clock)
    router.is_sent_signed(9, world.resources)
    router.known_good.hold(9, {**world.resources, "news/1": pb.Resource(key="news/1")})
    await router.stops()
    assert "LAST KNOWN GOOD NOT WRITTEN: the config in force is not the one" in caplog.text


async def test_a_file_that_is_too_old_is_refused(world, kept, clock, caplog):
    clock.advance(DAY_SECONDS + 1)
    router = await Router(world, kept, clock).starts()
    assert router.state.revision == 0
    assert "more than the 86400 s allowed" in caplog.text


async def test_mutant_that_takes_any_age_starts_from_it(world, kept, clock):
    clock.advance(DAY_SECONDS + 1)
    any_age = "max_age_seconds=float('inf')"
    broken = mutant(last_known_good, "max_age_seconds=settings.known_good_max_age_seconds", any_age)
    router = await Router(world, kept, clock, last_known_good=broken).starts()
    assert router.state.revision == 9


async def test_a_file_that_does_not_compile_any_more_is_refused_and_the_older_one_is_tried(
    world, tmp_path, clock, caplog
):
    router = Router(world, tmp_path, clock)
    router.is_sent(9, dict(world.resources))
    await router.known_good._writer._save()
    # Written by a newer router, which knew more kinds of resources.
    router.is_sent_signed(10, {**world.resources, "news/1": pb.Resource(key="news/1")})
    await router.stops()
    again = await Router(world, tmp_path, clock).starts()
    assert again.state.revision == 9
    assert "known-good.1" in caplog.text


async def test_what_a_config_service_without_etcd_sent_is_not_kept_as_current(world, tmp_path, clock):
    router = Router(world, tmp_path, clock)
    router.state.put(compile_snapshot(9, world.resources, router.loader.load).snapshot)
    router.known_good.hold(9, world.resources)
    await router.stops()
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"lkg.key"}


async def test_the_file_says_when_touch_was_lost_not_when_it_was_written(world, tmp_path, clock, caplog):
    router = Router(world, tmp_path, clock)
    router.is_sent(9, world.resources)
    clock.advance(600)
    await router.stops()
    await Router(world, tmp_path, clock).starts()
    assert "which was current 600 s ago" in caplog.text


async def test_no_prompt_and_no_artifact_key_is_readable_on_disk(world, tmp_path, clock):
    world.adapter("uid-acme", "sea", 1, b"weights", artifact_key=b"0123456789abcdef" * 2)
    router = Router(world, tmp_path, clock)
    router.is_sent_signed(9, world.resources)
    await router.stops()
    files = [path for path in (tmp_path / "state").iterdir() if path.name.startswith("known-good")]
    assert len(files) == 1
    for path in files:
        assert CANARY.encode() not in path.read_bytes()
        assert b"0123456789abcdef" not in path.read_bytes()


def test_a_state_directory_that_cannot_be_used_is_told_and_the_router_starts(tmp_path, clock, caplog):
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
    state = ConfigState(clock)
    assert open_last_known_good(settings, state, loader.load, clock, CollectorRegistry()) is None
    assert "NO LAST KNOWN GOOD CONFIG IS KEPT" in caplog.text


async def test_a_start_gives_the_config_service_a_moment(world, kept, clock, monkeypatch):
    monkeypatch.setattr(last_known_good, "START_SECONDS", 0.05)
    router = Router(world, kept, clock)
    starting = asyncio.create_task(router.starts())
    await asyncio.sleep(0)
    router.is_sent(12, world.resources)
    await starting
    assert (router.state.revision, router.state.from_file) == (12, False)
