"""etcd goes away for some seconds: callers go on, are told, and nobody is served who wants no stale answers."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes.etcd_outage import OutageRun
from tests.fakes.served_mesh import ServedMesh

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prepared():
    # pytest's own directories are often too deep for a socket.
    folder = Path(tempfile.mkdtemp(prefix="outage-"))
    try:
        async with ServedMesh(folder) as mesh:
            yield await OutageRun.prepare(mesh)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "killed"])
async def test_callers_go_on_without_etcd_flagged_or_refused(prepared, frozen):
    seen = await prepared.run(frozen=frozen, at_least_seconds=4.0, until_flagged=True)
    assert len(seen.serving) > 100
    assert not seen.unanswered
    assert not seen.wrong_refusals
    assert seen.flagged_after_seconds <= 10.0
    assert seen.refused_after_seconds <= 2.0
    assert seen.stale_while_refused == 0
    assert seen.converged_after_seconds <= 3.0
