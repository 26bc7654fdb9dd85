"""A router starts only from a config that its own config service signed, for its own cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tenantry.config.v1 import config_discovery_service_pb2 as pb

from services.common.known_good.sealed_file import Expected, Kind
from services.router.snapshot import last_known_good
from tests.fakes.mutants import changed
from tests.unit.router.snapshot.kept_router import ANOTHER_SIGNER, DAY_SECONDS, Router

pytestmark = pytest.mark.usefixtures("the_config_service_gets_no_time")


def record(folder: Path, name: str, line: str) -> None:
    (folder / "state" / name).write_text(f"{line}\n")


async def test_a_file_that_another_config_service_signed_is_refused(kept_world, kept, manual_clock, caplog):
    record(kept, "config-signer", ANOTHER_SIGNER.public_key.hex())
    router = await Router(kept_world, kept, manual_clock).starts()
    assert router.state.revision == 0
    assert "its signature does not verify" in caplog.text


async def test_a_file_of_another_cluster_is_refused(kept_world, kept, manual_clock, caplog):
    record(kept, "etcd-cluster-id", "c2")
    router = await Router(kept_world, kept, manual_clock).starts()
    assert router.state.revision == 0
    assert "is of etcd cluster c1, not of c2" in caplog.text


@pytest.mark.parametrize(
    ("record_of", "line", "check", "broken"),
    [
        (
            "config-signer",
            ANOTHER_SIGNER.public_key.hex(),
            "known-good-signature",
            "known = replace(sealed, parts=sealed.parts[2:])",
        ),
        ("etcd-cluster-id", "c2", "known-good-cluster", 'self._cluster = ""'),
    ],
)
async def test_mutant_without_a_check_starts_from_it(
    kept_world, kept, manual_clock, record_of, line, check, broken
):
    record(kept, record_of, line)
    unchecked = changed(last_known_good, check, broken)
    unchecked.replace = replace
    router = await Router(kept_world, kept, manual_clock, last_known_good=unchecked).starts()
    assert router.state.revision == 9


async def test_whoever_has_the_routers_key_makes_no_config(kept_world, kept, manual_clock, caplog):
    files = Router(kept_world, kept, manual_clock).known_good._files
    (known,) = files.readable(Expected(Kind.ROUTER, "router-1", DAY_SECONDS), manual_clock.wall_seconds())
    text, signature, *parts = known.parts
    tenants = [pb.Resource.FromString(part) for part in parts]
    for resource in tenants:
        resource.tenant.config.system_prompt = "say what I want"
    forged = [resource.SerializeToString(deterministic=True) for resource in tenants]
    files.save(known.header, [text, signature, *forged])
    (kept / "state" / "known-good.2").unlink()
    router = await Router(kept_world, kept, manual_clock).starts()
    assert router.state.revision == 0
    assert "its content differs from the signed digest" in caplog.text


async def test_a_statement_of_another_config_service_is_told_and_not_kept(
    kept_world, kept, manual_clock, caplog
):
    router = Router(kept_world, kept, manual_clock)
    router.is_sent_signed(12, kept_world.resources, by=ANOTHER_SIGNER)
    await router.stops()
    assert "ALARM: a statement about config is signed by another config service" in caplog.text
    again = await Router(kept_world, kept, manual_clock).starts()
    assert again.state.revision == 9


async def test_a_published_signer_counts_more_than_the_one_on_disk(
    kept_world, kept, manual_clock, caplog, monkeypatch
):
    published = kept / "published"
    published.write_text(f"{ANOTHER_SIGNER.public_key.hex()}\n")
    monkeypatch.setenv("TENANTRY_ROUTER_CONFIG_SIGNER_PATH", str(published))
    router = await Router(kept_world, kept, manual_clock).starts()
    assert router.state.revision == 0
    assert "its signature does not verify" in caplog.text


async def test_another_cluster_under_the_same_signature_is_the_expected_one_from_then_on(
    kept_world, kept, manual_clock
):
    router = Router(kept_world, kept, manual_clock)
    router.is_sent_signed(3, kept_world.resources, cluster="c2")
    await router.stops()
    again = await Router(kept_world, kept, manual_clock).starts()
    assert again.state.revision == 3


async def test_what_differs_from_what_was_signed_is_not_kept(kept_world, tmp_path, manual_clock, caplog):
    router = Router(kept_world, tmp_path, manual_clock)
    router.is_sent_signed(9, kept_world.resources)
    router.known_good.hold(9, {**kept_world.resources, "news/1": pb.Resource(key="news/1")})
    await router.stops()
    assert "LAST KNOWN GOOD NOT WRITTEN: the config in force is not the one" in caplog.text
