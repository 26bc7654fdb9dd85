"""Config service and three routers start with etcd down: how soon they answer, and are fresh when it is back."""

from __future__ import annotations

import asyncio
import statistics

import pytest

from tests.fakes.kept_mesh import COLD_START_SECONDS, CONVERGED_SECONDS, kept_mesh

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.timeout(600)]
ROUTERS, ROUNDS = 3, 10


async def test_cold_starts_without_etcd_serve_what_was_last_known(tell):
    cold, converged = [], []
    async with kept_mesh(routers=ROUTERS) as mesh:
        config = mesh.plane.service
        for number in range(ROUNDS):
            await mesh.on_disk(mesh.revision)
            stop = "end" if number % 2 else "kill"
            await asyncio.gather(*(getattr(process, stop)() for process in (*mesh.routers, config)))
            await mesh.plane.etcd.kill()
            await asyncio.gather(*(process.start(wait_ready=False) for process in (config, *mesh.routers)))
            cold.append(await mesh.answered(stale=True, within_seconds=20))
            await mesh.plane.etcd.start()
            converged.append(await mesh.answered(stale=False, within_seconds=20))
            tell.progress(
                f"start {number + 1}: {cold[-1]:.2f} s, fresh {converged[-1]:.2f} s after the return"
            )
    for name, seconds, bar in (
        ("every router answers, flagged, after", cold, COLD_START_SECONDS),
        ("every answer fresh after etcd's return", converged, CONVERGED_SECONDS),
    ):
        shown = f"{statistics.median(seconds):.2f} s median, {max(seconds):.2f} s worst of {ROUNDS}"
        tell.figure(name, shown, f"<= {bar:.0f} s")
    assert max(cold) <= COLD_START_SECONDS
    assert max(converged) <= CONVERGED_SECONDS
