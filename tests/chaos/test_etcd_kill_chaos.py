"""etcd killed thirty times under operators' edits: what routers answer with in the end is what etcd holds."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.fakes.etcd_kills import edit_through_kills
from tests.fakes.served_mesh import ServedMesh

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.timeout(900)]
KILLS = 30


async def through_kills(kills: int, tell, **options):
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        async with ServedMesh(folder, **options) as mesh:
            return await edit_through_kills(
                mesh, kills, tell=lambda kill, seconds: tell.progress(f"kill {kill}/{kills}: {seconds:.2f} s")
            )
    finally:
        shutil.rmtree(folder)


async def test_every_router_ends_in_etcds_state(tell):
    seen = await through_kills(KILLS, tell)
    ordered = sorted(seen.recovery_seconds)
    tell.figure("kills, edits acknowledged", f"{KILLS}, {seen.acknowledged}")
    tell.figure("tenants whose newest edit etcd itself lost", len(seen.lost_by_etcd), "reported")
    tell.figure("routers that differ from etcd", sum(one != seen.etcd for one in seen.routers), "0")
    tell.figure("edit in force everywhere, median", f"{ordered[KILLS // 2]:.2f} s")
    tell.figure("edit in force everywhere, worst", f"{ordered[-1]:.2f} s", "<= 3 s")
    assert len(seen.routers) == 3
    assert all(one == seen.etcd for one in seen.routers)
    assert ordered[-1] <= 3.0
