"""50,000 answers while every tenant's config, adapter and pool change ten times a second."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes.nonce_load import nonce_tenants, serve_under_writes
from tests.fakes.nonce_writer import as_one, pool_apart, tenant_apart
from tests.fakes.served_mesh import ServedMesh

pytestmark = [
    pytest.mark.integration,
    pytest.mark.chaos,
    pytest.mark.timeout(3600),
    pytest.mark.asyncio(loop_scope="module"),
]
TENANTS, ANSWERS, WRITES_PER_SECOND = 20, 50_000, 10


@asynccontextmanager
async def under_writers(**options):
    folder = Path(tempfile.mkdtemp(prefix="nonces-"))
    try:
        async with ServedMesh(folder, **options) as mesh, nonce_tenants(mesh, TENANTS) as tenants:
            yield mesh, tenants
    finally:
        shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served():
    async with under_writers() as prepared:
        yield prepared


async def test_no_answer_shows_two_nonces(served, tell):
    mesh, tenants = served
    seen = await serve_under_writes(
        mesh, tenants, as_one, answers=ANSWERS, writes_per_second=WRITES_PER_SECOND, tell=tell.progress
    )
    tell.figure("answers", f"{seen.answers} at {seen.answers / seen.seconds:.0f}/s")
    tell.figure("of two nonces", len(seen.mixed), "0")
    tell.figure("errors", dict(seen.errors) or 0, "0")
    wanted = TENANTS * WRITES_PER_SECOND
    tell.figure(
        "nonces written", f"{seen.writes} at {seen.writes / seen.seconds:.0f}/s", f">= {0.8 * wanted:.0f}/s"
    )
    tell.figure("nonces seen in answers", len(seen.nonces_seen), f">= {seen.writes // 4}")
    assert not seen.mixed
    assert not seen.errors
    assert seen.writes / seen.seconds >= 0.8 * wanted
    assert len(seen.nonces_seen) >= seen.writes // 4
    await mesh.propagated(max(tenant.revision for tenant in tenants))
    assert "ALARM" not in (mesh.plane.folder / "config.log").read_text()


@pytest.mark.parametrize("split", [tenant_apart, pool_apart])
async def test_mutant_with_two_transactions_shows_mixed_nonces(served, split, tell):
    mesh, tenants = served
    seen = await serve_under_writes(mesh, tenants, split, answers=2000, writes_per_second=WRITES_PER_SECOND)
    tell.figure("of two nonces", f"{len(seen.mixed)} of {seen.answers}", "> 0")
    assert seen.mixed


async def test_mutant_config_service_that_tears_revisions_shows_mixed_nonces(tell):
    async with under_writers(config_module="tests.fakes.config_tearing_revisions") as (mesh, tenants):
        seen = await serve_under_writes(
            mesh,
            tenants,
            as_one,
            answers=2000,
            writes_per_second=WRITES_PER_SECOND,
            enough=lambda seen: bool(seen.mixed),
        )
    tell.figure("of two nonces", f"{len(seen.mixed)} of {seen.answers}", "> 0")
    assert seen.mixed
