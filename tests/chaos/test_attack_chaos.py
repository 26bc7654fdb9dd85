"""Half a minute under each attack: what another tenant feels, and what router and Envoy grow to.

The attackers, who would be on other machines, have a processor of their own; the mesh and its victim have another.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fakes.attacked_mesh import Peak, attacked_mesh

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.timeout(300)]
SECONDS = 30.0
MEBIBYTE = 1 << 20

ATTACKS = [
    ("pieces", "revoked"),
    ("gzipped", "revoked"),
    ("pieces", "attacker"),
    ("gzipped", "attacker"),
    ("fitting", "attacker"),
    ("unfinished", "attacker"),
    ("idle", "attacker"),
    ("idle", "revoked"),
    ("reflection", "attacker"),
    ("silence", "revoked"),
]


@pytest.fixture
def one_processor():
    """For this process and those it starts."""
    usual = os.sched_getaffinity(0)
    _confine({min(usual)})
    yield
    _confine(usual)


def _confine(processors: set[int]) -> None:
    for thread in Path("/proc/self/task").iterdir():
        # A thread may have ended since.
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), processors)


@pytest.mark.usefixtures("one_processor")
@pytest.mark.parametrize(("kind", "key"), ATTACKS, ids=[f"{kind} {key}" for kind, key in ATTACKS])
async def test_attacked(kind, key, tell):
    # New callers are what a flood of connections keeps out; the others go on over theirs.
    new = kind == "silence"
    async with attacked_mesh() as mesh:
        alone = await mesh.victim_for(SECONDS / 3, new_connections=new)
        async with Peak(mesh) as peak, mesh.attack(kind, getattr(mesh, key), SECONDS) as counts:
            # Until it is in full force.
            await mesh.victim_for(2.0, new_connections=new)
            beside = await mesh.victim_for(SECONDS - 4.0, new_connections=new)
    assert alone.failures == []
    ratio = beside.median / alone.median
    tell.figure("attacker's calls", counts)
    tell.figure(
        "victim's p50",
        f"{alone.median * 1e3:.1f} ms to {beside.median * 1e3:.1f} ms, n={len(beside.seconds)}",
    )
    tell.figure("victim's p50 ratio", f"{ratio:.2f}", "<= 1.5")
    tell.figure("victim's failures", len(beside.failures), "0")
    tell.figure("router grew by", f"{peak.router / MEBIBYTE:.0f} MiB", "<= 200")
    tell.figure("Envoy grew by", f"{peak.envoy / MEBIBYTE:.0f} MiB", "<= 200")
    assert beside.failures == []
    assert ratio <= 1.5
    assert max(peak.router, peak.envoy) <= 200 * MEBIBYTE
