"""The watch against a real etcd: nothing missing, nothing twice, over cuts, kill -9, compaction and silence."""

from __future__ import annotations

import signal

import pytest

from services.config.etcd import watch, watch_state
from services.config.etcd.client import EtcdClient
from tests.fakes.cutting_proxy import CuttingProxy
from tests.fakes.etcd_process import EtcdProcess
from tests.fakes.mutants import changed, without
from tests.fakes.patience import promised
from tests.fakes.watch_faults import Replay, live_through_kills, replay_over_cuts
from tests.fakes.watch_recorder import following

pytestmark = pytest.mark.integration
RUNS, EVENTS, CUTS = 10, 600, 8
ADVANCING = """
if response.created:
    self.next_revision = response.revision + 1
    return None
"""


@pytest.fixture
async def etcd(tmp_path):
    async with EtcdProcess(tmp_path) as running:
        yield running


@pytest.fixture
async def writer(etcd):
    channel = etcd.channel()
    yield EtcdClient(channel)
    await channel.close()


def decide_with(monkeypatch, rules):
    """Let the watch decide by a mutant of its rules."""
    for name in ("WatchState", "Apply", "Relist", "Reconnect"):
        monkeypatch.setattr(watch, name, getattr(rules, name))


async def test_cut_connections_lose_and_repeat_nothing(etcd, writer):
    cuts = 0
    for seed in range(RUNS):
        run = await replay_over_cuts(etcd, writer, watch, Replay(seed, EVENTS, CUTS))
        assert run.recorder.lists == 1
        assert run.recorder.changes == run.written
        assert run.whole, "a torn revision"
        cuts += run.cuts
    assert cuts >= 3 * RUNS


async def test_mutant_resuming_from_a_created_header_loses_events(etcd, writer, monkeypatch):
    """What a published client does."""
    decide_with(monkeypatch, changed(watch_state, "created-advances-nothing", ADVANCING))
    lost = came = 0
    for seed in range(3):
        run = await replay_over_cuts(etcd, writer, watch, Replay(seed, EVENTS, CUTS, reaches_seconds=1.0))
        lost += run.missing
        came += len(run.recorder.changes)
    assert lost > 0
    assert came > 0


async def test_killed_etcd_ends_in_its_own_state(etcd):
    survived = await live_through_kills(etcd, watch, kills=3)
    assert survived.ours == survived.theirs
    assert max(survived.recovery_seconds) <= promised(3.0)


async def test_mutant_watching_from_now_on_misses_what_came_meanwhile(etcd):
    forgetful = changed(watch, "watch-begins-where-it-ended", "start_revision = 0")
    survived = await live_through_kills(etcd, forgetful, kills=3)
    assert survived.ours != survived.theirs


async def compacted_while_away(etcd, writer, module, reaches_seconds):
    """Keys vanish and revisions are compacted while the watch is cut off; returns its recorder and etcd's state."""
    away = False

    def budget():
        return 1 if away else 8_000

    async with (
        CuttingProxy(etcd.target, budget) as proxy,
        following(module, proxy.target, "/c/", 0.6) as recorder,
    ):
        kept = await writer.write([], {"/c/kept": b"1", "/c/gone": b"1"})
        await recorder.reaches(kept)
        away = True
        while proxy.cuts == 0:
            last = await writer.write([], {"/c/filler": b"x" * 500})
        await writer.write([], {"/c/new": b"1"}, ["/c/gone"])
        last = await writer.write([], {"/c/last": b"1"})
        await etcd.compact(last)
        away = False
        await recorder.reaches(last, reaches_seconds)
        listed, _ = await writer.list("/c/")
        return recorder, {key: stored.mod_revision for key, stored in listed.items()}


async def test_after_a_compaction_everything_is_listed_again(etcd, writer):
    recorder, theirs = await compacted_while_away(etcd, writer, watch, 10.0)
    assert recorder.lists == 2
    assert recorder.state == theirs
    assert "/c/gone" not in recorder.state


async def test_mutant_blind_to_compaction_never_catches_up(etcd, writer, monkeypatch):
    decide_with(monkeypatch, without(watch_state, "compaction-lists-again"))
    with pytest.raises(TimeoutError):
        await compacted_while_away(etcd, writer, watch, 2.0)


async def test_a_silent_etcd_is_noticed_and_caught_up_with(etcd, writer):
    async with following(watch, etcd.target, "/s/", 0.6) as recorder:
        etcd.send(signal.SIGSTOP)
        await recorder.lost_touch(2.0)
        etcd.send(signal.SIGCONT)
        await recorder.reaches(await writer.write([], {"/s/a": b"1"}), 5.0)
        assert recorder.state.keys() == {"/s/a"}
