from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from services.common.rpc.tls import InsecureTargetError
from services.router.backends.channels import EndpointChannels
from services.router.backends.triton_health import TritonProbe
from services.router.pool import directory as directory_module
from services.router.pool import probing
from services.router.snapshot.compiler import compile_snapshot
from tests.fakes.mutants import changed
from tests.fakes.router_config import ConfigWorld
from tests.fakes.router_pipeline import PipelineWorld, SimulatedServer


def two_endpoints(world: ConfigWorld) -> None:
    world.key(world.tenant("acme", 7), "key-uid-acme")
    world.pool(["good", "bad"])


class ScriptedProbe:
    """Answers by target; an exception is raised."""

    def __init__(self, **answers: object) -> None:
        self.answers = answers
        self.asked = asyncio.Condition()
        self.count: dict[str, int] = {}

    async def ready(self, target: str, server_model: str, timeout_seconds: float) -> bool:
        async with self.asked:
            self.count[target] = self.count.get(target, 0) + 1
            self.asked.notify_all()
        answer = self.answers[target]
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    async def asked_again(self, target: str, times: int) -> None:
        """Wait until the target was asked so many times more."""
        wanted = self.count.get(target, 0) + times
        async with asyncio.timeout(5), self.asked:
            await self.asked.wait_for(lambda: self.count.get(target, 0) >= wanted)


@asynccontextmanager
async def probed(folder, monkeypatch, probe, module=directory_module):
    monkeypatch.setattr(probing, "_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(probing.probe_endpoint, "__defaults__", (lambda seconds: asyncio.sleep(0),))
    world = PipelineWorld(folder, SimulatedServer([ord("a")]), configure=two_endpoints)
    directory = module.PoolDirectory(probe, world.clock)
    directory.configure(world.state.snapshot())
    running = asyncio.create_task(directory.run())
    try:
        yield world, directory, running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def main_pool(world, directory):
    return directory.pool(world.state.snapshot().pools["pools/main"])


def ready_targets(pool) -> list[str]:
    return [endpoint.target for endpoint in pool._endpoints if endpoint.ready]


async def test_a_target_that_cannot_be_asked_ends_nobody_elses_probes(tmp_path, monkeypatch, caplog):
    probe = ScriptedProbe(good=True, bad=InsecureTargetError("text out of config"))
    async with probed(tmp_path, monkeypatch, probe) as (world, directory, running):
        pool = main_pool(world, directory)
        await probe.asked_again("good", 3)
        await probe.asked_again("bad", 3)
        assert not running.done()
        assert ready_targets(pool) == ["good"]
        said = [record for record in caplog.records if "cannot be probed" in record.message]
        assert len(said) == 1
        assert "text out of config" not in caplog.text


async def test_a_busy_server_may_be_late_and_a_hung_one_is_left_alone(tmp_path, monkeypatch):
    probe = ScriptedProbe(good=True, bad=True)
    async with probed(tmp_path, monkeypatch, probe) as (world, directory, _):
        pool = main_pool(world, directory)
        await probe.asked_again("bad", 2)
        assert set(ready_targets(pool)) == {"good", "bad"}
        probe.answers["bad"] = TimeoutError()
        await probe.asked_again("bad", 2)
        assert "bad" in ready_targets(pool)
        await probe.asked_again("bad", 3)
        assert ready_targets(pool) == ["good"]


async def test_a_target_that_leaves_the_host_in_the_clear_is_never_ready(tmp_path, monkeypatch):
    class Counting(TritonProbe):
        asked = 0

        async def ready(self, target: str, server_model: str, timeout_seconds: float) -> bool:
            self.asked += 1
            return await super().ready("10.1.2.3:8001", server_model, timeout_seconds)

    async with EndpointChannels(None) as channels:
        probe = Counting(channels)
        async with probed(tmp_path, monkeypatch, probe) as (world, directory, running):
            pool = main_pool(world, directory)
            async with asyncio.timeout(5):
                while probe.asked < 6:  # noqa: ASYNC110 - counts turns of a loop that never waits
                    await asyncio.sleep(0)
            assert not running.done()
            assert ready_targets(pool) == []


POOLS = [f"pools/p{number}" for number in range(20)]


async def shared_by_twenty_pools(folder, monkeypatch, module=directory_module) -> int:
    """Twenty pools at one server; how often it is asked while another one is asked three times."""
    probe = ScriptedProbe(good=True, bad=True)
    async with probed(folder, monkeypatch, probe, module) as (world, directory, _):
        for name in POOLS:
            world.config.pool(["good"], name)
        world.config.pool(["bad"], "pools/other")
        directory.configure(compile_snapshot(2, world.config.resources, world._loader.load).snapshot)
        await probe.asked_again("bad", 2)
        begun = probe.count["good"]
        await probe.asked_again("bad", 3)
        return probe.count["good"] - begun


async def test_a_server_is_asked_once_for_all_its_pools(tmp_path, monkeypatch):
    assert await shared_by_twenty_pools(tmp_path, monkeypatch) <= 6


async def test_that_test_notices_a_probe_for_every_pool(tmp_path, monkeypatch):
    one_each = changed(directory_module, "one-probe-a-server", "served = Served(target, pool)")
    assert await shared_by_twenty_pools(tmp_path, monkeypatch, one_each) > 20


async def test_every_pool_hears_what_a_probe_found_and_one_that_joins_what_was_found_before(
    tmp_path, monkeypatch
):
    probe = ScriptedProbe(good=True, bad=False)
    async with probed(tmp_path, monkeypatch, probe) as (world, directory, _):
        pools = await with_pools(world, directory, probe, POOLS[:2])
        assert [ready_targets(pool) for pool in pools] == [["good"]] * 2
        probe.answers["good"] = False
        await probe.asked_again("good", 3)
        assert [ready_targets(pool) for pool in pools] == [[]] * 2
        probe.answers["good"] = True
        await probe.asked_again("good", 3)
        # From here on no probe is answered: pools know only the earlier findings.
        probe.answers["good"] = TimeoutError()
        await probe.asked_again("good", 1)
        late = await with_pools(world, directory, probe, POOLS[2:3])
        assert [ready_targets(pool) for pool in (*pools, *late)] == [["good"]] * 3


async def test_a_model_of_another_name_at_the_same_server_is_asked_for_itself(tmp_path, monkeypatch):
    class ByModel(ScriptedProbe):
        async def ready(self, target, server_model, timeout_seconds):
            return await super().ready(target, server_model, timeout_seconds) and server_model != "unloaded"

    probe = ByModel(good=True, bad=True)
    async with probed(tmp_path, monkeypatch, probe) as (world, directory, _):
        [pool] = await with_pools(world, directory, probe, POOLS[:1])
        [other] = await with_pools(world, directory, probe, POOLS[1:2], server_model="unloaded")
        await probe.asked_again("good", 4)
        assert (ready_targets(pool), ready_targets(other)) == (["good"], [])


async def with_pools(world, directory, probe, names, **fields):
    """More pools at one server, probed since."""
    for name in names:
        world.config.pool(["good"], name, **fields)
    snapshot = compile_snapshot(2, world.config.resources, world._loader.load).snapshot
    directory.configure(snapshot)
    await probe.asked_again("good", 1)
    return [directory.pool(snapshot.pools[name]) for name in names]
