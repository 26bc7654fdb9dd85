"""A minute without etcd, silent or dead, under callers of tenants of both staleness policies."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fakes.etcd_outage import OutageRun
from tests.fakes.served_mesh import ServedMesh

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.timeout(600)]
AWAY_SECONDS = 60.0


@asynccontextmanager
async def prepared(**options):
    folder = Path(tempfile.mkdtemp(prefix="outage-"))
    try:
        async with ServedMesh(folder, **options) as mesh:
            yield await OutageRun.prepare(mesh)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "killed"])
async def test_callers_go_on_without_etcd_flagged_or_refused(frozen, tell):
    async with prepared() as run:
        seen = await run.run(frozen=frozen, at_least_seconds=AWAY_SECONDS, tell=tell.progress)
    answered = len(seen.serving) - seen.unanswered.total()
    tell.figure("unanswered, by reason", dict(seen.unanswered) or 0, "0")
    tell.figure("answered, of tenants that are served", f"{answered} of {len(seen.serving)}", "all")
    tell.figure("all answers flagged after", f"{seen.flagged_after_seconds:.2f} s", "<= 10 s")
    tell.figure("REFUSE: last answer after the stop", f"{seen.refused_after_seconds:.2f} s", "<= 2 s")
    tell.figure("REFUSE: flagged answers", seen.stale_while_refused, "0")
    tell.figure("all as before after the return", f"{seen.converged_after_seconds:.2f} s", "<= 3 s")
    assert not seen.unanswered
    assert not seen.wrong_refusals
    assert seen.flagged_after_seconds <= 10.0
    assert seen.refused_after_seconds <= 2.0
    assert seen.stale_while_refused == 0
    assert seen.converged_after_seconds <= 3.0


async def test_mutant_routers_that_do_not_hear_that_etcd_is_lost_flag_and_refuse_nothing(tell):
    async with prepared(router_module="tests.fakes.router_blind_to_etcd") as run:
        seen = await run.run(frozen=True, at_least_seconds=10.0)
    tell.figure("all answers flagged after", f"{seen.flagged_after_seconds:.2f} s", "> 10 s")
    assert seen.flagged_after_seconds > 10.0
    assert seen.refused_after_seconds > 2.0
