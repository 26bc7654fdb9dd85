"""The watch, for long: 100 replays over cut connections, 30 kills of etcd under a writer."""

from __future__ import annotations

import pytest

from services.config.etcd import watch, watch_state
from services.config.etcd.client import EtcdClient
from tests.fakes.etcd_process import EtcdProcess
from tests.fakes.mutants import changed
from tests.fakes.watch_faults import Replay, live_through_kills, replay_over_cuts

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.timeout(3600)]
RUNS, LIVE_RUNS, EVENTS, CUTS, KILLS = 100, 20, 3000, 24, 30
ADVANCING = """
if response.created:
    self.next_revision = response.revision + 1
    return None
"""
REPLAY_CUT_BYTES, LIVE_CUT_BYTES = (200, 60_000), (200, 20_000)


@pytest.fixture
async def etcd(tmp_path):
    async with EtcdProcess(tmp_path) as running:
        yield running


@pytest.fixture
async def writer(etcd):
    channel = etcd.channel()
    yield EtcdClient(channel)
    await channel.close()


def replay(seed: int, reaches_seconds: float = 60.0) -> Replay:
    """The follower is kept away until everything is written, and cut off while all of it is replayed."""
    return Replay(seed, EVENTS, CUTS, REPLAY_CUT_BYTES, after_the_fact=True, reaches_seconds=reaches_seconds)


def live(seed: int) -> Replay:
    """The follower is cut off while the events come."""
    return Replay(RUNS + seed, EVENTS, CUTS, LIVE_CUT_BYTES, after_the_fact=False, reaches_seconds=60.0)


@pytest.mark.parametrize(("kind", "runs"), [(replay, RUNS), (live, LIVE_RUNS)], ids=["replayed", "live"])
async def test_cut_connections_lose_and_repeat_nothing(etcd, writer, tell, kind, runs):
    cuts = missing = twice = disordered = torn = lists = uncut = 0
    for seed in range(runs):
        run = await replay_over_cuts(etcd, writer, watch, kind(seed))
        cuts += run.cuts
        uncut += not run.cuts
        missing += run.missing
        twice += run.twice
        disordered += not run.ordered
        torn += not run.whole
        lists += run.recorder.lists
        if (seed + 1) % 5 == 0:
            tell.progress(f"{seed + 1}/{runs} runs, {cuts} cuts, {missing} missing, {twice} twice")
        assert run.missing or run.twice or not run.ordered or run.recorder.changes == run.written
    tell.figure("runs x events", f"{runs} x {EVENTS}")
    tell.figure("cuts, runs without one", f"{cuts}, {uncut}", "0 runs")
    tell.figure("missing, twice", f"{missing}, {twice}", "0, 0")
    tell.figure("disordered runs, torn revisions", f"{disordered}, {torn}", "0, 0")
    assert (missing, twice, disordered, torn) == (0, 0, 0, 0)
    assert lists == runs, "a cut connection is no reason to list again"
    assert uncut == 0


async def test_mutant_resuming_from_a_created_header_loses_events(etcd, writer, tell, monkeypatch):
    rules = changed(watch_state, "created-advances-nothing", ADVANCING)
    for name in ("WatchState", "Apply", "Relist", "Reconnect"):
        monkeypatch.setattr(watch, name, getattr(rules, name))
    runs = [await replay_over_cuts(etcd, writer, watch, replay(seed, 2.0)) for seed in range(4)]
    tell.figure("missing", f"{sum(run.missing for run in runs)} of {4 * EVENTS}", "> 0")
    assert sum(run.missing for run in runs) > 0


async def test_killed_etcd_ends_in_its_own_state(etcd, tell):
    survived = await live_through_kills(
        etcd, watch, KILLS, tell=lambda kill, seconds: tell.progress(f"kill {kill}/{KILLS}: {seconds:.2f} s")
    )
    ordered = sorted(survived.recovery_seconds)
    tell.figure("kills", KILLS)
    tell.figure("writes acknowledged", survived.acknowledged)
    tell.figure("of these lost by etcd itself", len(survived.lost_by_etcd), "reported")
    kept = survived.theirs.keys()
    tell.figure("kept by etcd and not in our state", len(kept - survived.ours.keys()), "0")
    tell.figure("recovery, median and worst", f"{ordered[KILLS // 2]:.2f} s, {ordered[-1]:.2f} s", "<= 3 s")
    assert survived.ours == survived.theirs
    assert ordered[-1] <= 3.0


async def test_mutant_watching_from_now_on_misses_what_came_meanwhile(etcd, tell):
    forgetful = changed(watch, "watch-begins-where-it-ended", "start_revision = 0")
    survived = await live_through_kills(etcd, forgetful, kills=5)
    missed = survived.theirs.keys() - survived.ours.keys()
    tell.figure("missed over 5 kills", len(missed), "> 0")
    assert survived.ours != survived.theirs
