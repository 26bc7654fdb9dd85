"""Pools follow the queue inside their servers; a server that breaks or lies changes nothing for others."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from services.router.backends.server_metrics import ServerMetrics
from services.router.pool import queue_following
from services.router.pool.directory import PoolDirectory
from services.router.pool.pool import Pool
from services.router.pool.probing import Served
from services.router.pool.queue_following import Watched, follow_queue
from services.router.snapshot.model import PoolConfig, Snapshot
from tests.fakes.manual_clock import ManualClock
from tests.unit.router.pool.small_pools import CONFIG, acquire, demand

URL = "http://a:8002/metrics"
WATCHED = Watched("a", "tensorrt_llm", URL)


class Unasked:
    async def ready(self, target: str, server_model: str, timeout_seconds: float) -> bool:
        raise AssertionError("pools are told by the test")


class Ready:
    async def ready(self, target: str, server_model: str, timeout_seconds: float) -> bool:
        return True


class ScriptedReader:
    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)

    async def read(self, url: str, timeout_seconds: float) -> str:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)


def pending(count: int) -> str:
    return f'nv_inference_pending_request_count{{model="tensorrt_llm",version="1"}} {count}\n'


def directory_of(*configs: PoolConfig) -> PoolDirectory:
    directory = PoolDirectory(Unasked(), ManualClock())
    directory.configure(Snapshot(1, {}, {}, {config.name: config for config in configs}))
    directory.probed(Served("a", "tensorrt_llm"), ready=True)
    return directory


ROOMY = replace(
    CONFIG, concurrent_requests=4, kv_tokens=10_000, queued_requests=40, metrics_urls=(("a", URL),)
)


async def test_a_full_server_is_sent_fewer_and_an_empty_queue_gives_them_back():
    directory = directory_of(ROOMY)
    pool = directory.pool(ROOMY)
    held = [await acquire(pool, demand()) for _ in range(4)]
    for _ in range(2):
        directory.queue_seen(WATCHED, 2)
    assert pool.places == 2
    waiting = asyncio.create_task(acquire(pool, demand()))
    held.pop().give_back()
    held.pop().give_back()
    await asyncio.sleep(0)
    assert (pool.in_flight, pool.queued) == (2, 1)
    directory.queue_seen(WATCHED, 0)
    assert (pool.places, pool.in_flight) == (3, 3)
    (await waiting).give_back()
    directory.queue_seen(WATCHED, 0)
    assert pool.places == 4
    for grant in held:
        grant.give_back()


async def test_one_place_is_left_whatever_a_server_says():
    directory = directory_of(ROOMY)
    pool = directory.pool(ROOMY)
    for _ in range(5):
        directory.queue_seen(WATCHED, 10**6)
    assert pool.places == 1
    (await acquire(pool, demand())).give_back()


async def test_a_pool_that_names_no_metrics_any_more_has_all_its_places():
    directory = directory_of(ROOMY)
    for _ in range(2):
        directory.queue_seen(WATCHED, 3)
    assert directory.pool(ROOMY).places == 1
    plain = replace(ROOMY, metrics_urls=())
    directory.configure(Snapshot(2, {}, {}, {plain.name: plain}))
    assert directory.pool(plain).places == 4
    directory.queue_seen(WATCHED, 3)
    assert directory.pool(plain).places == 4


async def test_every_pool_of_a_server_follows_it():
    other = replace(ROOMY, name="pools/other", concurrent_requests=2)
    directory = directory_of(ROOMY, other)
    for _ in range(2):
        directory.queue_seen(WATCHED, 9)
    assert (directory.pool(ROOMY).places, directory.pool(other).places) == (1, 1)
    directory.queue_seen(WATCHED, None)
    assert (directory.pool(ROOMY).places, directory.pool(other).places) == (4, 2)


class _Metrics(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = pending(self.server.waiting).encode()  # type: ignore[attr-defined]  # set by the test
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


async def places_become(pool: Pool, wanted: int) -> None:
    async with asyncio.timeout(10):
        while pool.places != wanted:  # noqa: ASYNC110 - the pool tells nobody
            await asyncio.sleep(0.01)


async def test_over_http_a_pools_places_follow_what_the_server_says(monkeypatch):
    monkeypatch.setattr(queue_following, "_INTERVAL_SECONDS", 0.02)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Metrics) as server:
        server.waiting = 3
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = replace(ROOMY, metrics_urls=(("a", f"http://127.0.0.1:{server.server_port}/metrics"),))
        async with ServerMetrics() as metrics:
            directory = PoolDirectory(Ready(), ManualClock(), metrics)
            directory.configure(Snapshot(1, {}, {}, {config.name: config}))
            running = asyncio.create_task(directory.run())
            pool = directory.pool(config)
            await places_become(pool, 1)
            server.waiting = 0
            await places_become(pool, 4)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        server.shutdown()


@pytest.mark.parametrize("broken", [OSError("refused"), TimeoutError(), "\x00{garbage", "", "other 1\n"])
async def test_a_server_that_does_not_say_is_as_if_it_had_no_metrics(broken, caplog):
    reports: list[int | None] = []
    reader = ScriptedReader(pending(2), broken, broken, pending(1))
    enough = asyncio.Event()

    def report(waiting: int | None) -> None:
        reports.append(waiting)
        if not reader.answers:
            enough.set()

    following = asyncio.create_task(follow_queue(reader, WATCHED, report, lambda _: asyncio.sleep(0)))
    await asyncio.wait_for(enough.wait(), 5)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert reports == [2, None, None, 1]
    complaints = [record for record in caplog.records if record.name == queue_following.__name__]
    assert len(complaints) == 1
