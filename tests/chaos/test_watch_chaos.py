"""The watch, for long: 100 replays over cut connections, 30 kills of etcd under a writer."""

from __future__ import annotations

import pytest

from services.config.etcd import watch, watch_state
from services.config.etcd.client import EtcdClient
from tests.fakes.etcd_process import EtcdProcess
from tests.fakes.mutants import mutant
from tests.fakes.watch_faults import Replay, live_through_kills, replay_over_cuts

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.timeout(3600)]
RUNS, EVENTS, CUTS, KILLS = 100, 3000, 24, 30
MOST_OF_A_REPLAY_BYTES = 150_000


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
    """By turns: cut while the events come, and cut while all of them are replayed."""
    after_the_fact = bool(seed % 2)
    cut_bytes = (200, MOST_OF_A_REPLAY_BYTES if after_the_fact else 20_000)
    return Replay(seed, EVENTS, CUTS, cut_bytes, after_the_fact, reaches_seconds)


async def test_cut_connections_lose_and_repeat_nothing(etcd, writer, tell):
    cuts = cut_while_replaying = missing = twice = disordered = torn = lists = 0
    for seed in range(RUNS):
        wanted = replay(seed)
        run = await replay_over_cuts(etcd, writer, watch, wanted)
        cuts += run.cuts
        cut_while_replaying += run.cuts if wanted.after_the_fact else 0
        missing += run.missing
        twice += run.twice
        disordered += not run.ordered
        torn += not run.whole
        lists += run.recorder.lists
        if (seed + 1) % 5 == 0:
            tell.progress(f"{seed + 1}/{RUNS} runs, {cuts} cuts, {missing} missing, {twice} twice")
        assert run.missing or run.twice or not run.ordered or run.recorder.changes == run.written
    tell.figure("runs x events", f"{RUNS} x {EVENTS}")
    tell.figure("cuts", f"{cuts}, {cut_while_replaying} of them in replays")
    tell.figure("missing, twice", f"{missing}, {twice}", "0, 0")
    tell.figure("disordered runs, torn revisions", f"{disordered}, {torn}", "0, 0")
    assert (missing, twice, disordered, torn) == (0, 0, 0, 0)
    assert lists == RUNS, "a cut connection is no reason to list again"
    assert cuts >= 5 * RUNS


async def test_mutant_resuming_from_a_created_header_loses_events(etcd, writer, tell, monkeypatch):
    ignore = "        if response.created:\n            return None\n"
    advance = ignore.replace(
        "            return", "            self.next_revision = response.revision + 1\n            return"
    )
    rules = mutant(watch_state, ignore, advance)
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
    forgetful = mutant(watch, "start_revision=state.next_revision", "start_revision=0")
    survived = await live_through_kills(etcd, forgetful, kills=5)
    missed = survived.theirs.keys() - survived.ours.keys()
    tell.figure("missed over 5 kills", len(missed), "> 0")
    assert survived.ours != survived.theirs
