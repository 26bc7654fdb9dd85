"""How long a config service waits for etcd at its start before it reads its file."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from services.config.recovery import last_known_good
from tests.fakes.mutants import changed
from tests.unit.config.recovery.kept_config import Process, pools

pytestmark = pytest.mark.usefixtures("etcd_gets_no_time")


async def test_a_start_without_etcd_waits_for_it_a_moment(kept, clock, monkeypatch):
    monkeypatch.setattr(last_known_good, "START_SECONDS", 30.0)
    process = Process(kept, clock)
    starting = asyncio.create_task(process.known_good.start_without_etcd())
    await asyncio.sleep(0)
    process.etcd_lists(pools(11, c="three"), 12)
    await asyncio.wait_for(starting, 15)
    assert process.current.state.revision == 12


async def started_while_etcd_lists(kept, clock, module):
    """etcd sends page after page, the last one long after a silent etcd would have been given up."""
    process = Process(kept, clock, last_known_good=module)

    def pages():
        yield from range(1, 10)
        process.etcd_lists(pools(11, c="three"), 12)
        yield from itertools.repeat(10)

    process.etcd_answers = pages()
    await process.starts()
    return process.current.live.is_set()


async def test_an_etcd_that_is_being_listed_answers(kept, clock, caplog):
    assert await started_while_etcd_lists(kept, clock, last_known_good)
    assert not caplog.records


async def test_that_test_notices_a_list_that_counts_as_silence(kept, clock, caplog):
    hasty = changed(last_known_good, "answers-are-life", "await asyncio.sleep(0)")
    hasty.START_SECONDS = 0.0
    assert not await started_while_etcd_lists(kept, clock, hasty)
    assert "etcd sends no config" in caplog.text


async def test_an_etcd_that_never_ends_its_list_is_not_waited_for_any_longer(kept, clock, monkeypatch):
    monkeypatch.setattr(last_known_good, "LIST_SECONDS", 0.05)
    process = Process(kept, clock)
    process.etcd_answers = itertools.count(1)
    await process.starts()
    assert (process.current.live.is_set(), process.current.state.revision) == (False, 9)
