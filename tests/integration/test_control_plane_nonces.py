"""One transaction is seen whole: no answer mixes two states of a tenant's config, adapter and pool."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes.nonce_load import nonce_tenants, serve_under_writes
from tests.fakes.nonce_writer import as_one, pool_apart, tenant_apart
from tests.fakes.served_mesh import ServedMesh

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]
TENANTS, ANSWERS, WRITES_PER_SECOND = 20, 900, 10
ENOUGH_FOR_A_MUTANT = 3_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served():
    # pytest's own directories are often too deep for a socket.
    folder = Path(tempfile.mkdtemp(prefix="nonces-"))
    try:
        async with ServedMesh(folder) as mesh, nonce_tenants(mesh, TENANTS) as tenants:
            yield mesh, tenants
    finally:
        shutil.rmtree(folder)


async def test_no_answer_shows_two_nonces(served):
    mesh, tenants = served
    seen = await serve_under_writes(
        mesh, tenants, as_one, answers=ANSWERS, writes_per_second=WRITES_PER_SECOND
    )
    assert not seen.mixed, seen.summary
    assert not seen.errors, seen.summary
    assert len(seen.nonces_seen) > 5 * TENANTS, "the config hardly moved"
    await mesh.propagated(max(tenant.revision for tenant in tenants))
    assert "ALARM" not in (mesh.plane.folder / "config.log").read_text()


@pytest.mark.parametrize("split", [tenant_apart, pool_apart])
async def test_mutant_with_two_transactions_shows_mixed_nonces(served, split):
    mesh, tenants = served
    seen = await serve_under_writes(
        mesh,
        tenants,
        split,
        answers=ENOUGH_FOR_A_MUTANT,
        writes_per_second=WRITES_PER_SECOND,
        enough=lambda seen: bool(seen.mixed),
    )
    assert seen.mixed, seen.summary
