"""What signals mean to `tenantry up`: the first one stops it, a second one stops it at once."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager

import pytest

from services.cli.commands.up import _until_signal
from tests.fakes.dispositions import STOPPING, dispositions

LONG_SECONDS = 60


class Work:
    """Runs until it is cancelled; then ends once it is hurried or `end` is set."""

    def __init__(self):
        self.began, self.stopping, self.end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.hurried = False

    async def __call__(self, hurry):
        try:
            self.began.set()
            await asyncio.Event().wait()
        finally:
            self.stopping.set()
            waits = [asyncio.create_task(event.wait()) for event in (hurry, self.end)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            self.hurried = hurry.is_set()
            for wait in waits:
                wait.cancel()


@asynccontextmanager
async def running(ignored=()):
    """Work under a signal's watch, which has begun; it ends with the test, also when that fails."""
    work = Work()
    with dispositions(ignored):
        task = asyncio.create_task(_until_signal(work))
        try:
            async with asyncio.timeout(LONG_SECONDS):
                await work.began.wait()
                yield work, task
        finally:
            work.end.set()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("number", STOPPING)
async def test_one_signal_stops_and_a_second_hurries(number):
    async with running() as (work, task):
        os.kill(os.getpid(), number)
        await work.stopping.wait()
        assert not task.done()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await task
        assert work.hurried


async def test_a_terminal_that_is_closed_says_so_twice_and_is_in_no_hurry():
    async with running() as (work, task):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
            await work.stopping.wait()
        await asyncio.sleep(0)
        work.end.set()
        assert await task
        assert not work.hurried


async def test_the_first_signal_is_answered_at_once_and_once():
    said = []
    work = Work()
    with dispositions():
        task = asyncio.create_task(_until_signal(work, lambda: said.append(work.stopping.is_set())))
        await work.began.wait()
        os.kill(os.getpid(), signal.SIGINT)
        await work.stopping.wait()
        os.kill(os.getpid(), signal.SIGINT)
        assert await task
    assert said == [False]


async def test_nohup_is_heeded():
    async with running(ignored=[signal.SIGHUP]) as (work, task):
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
        assert not work.stopping.is_set()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGTERM)
        work.end.set()
        assert await task


async def test_work_that_ends_by_itself_was_not_interrupted():
    async def work(_hurry):
        return None

    with dispositions():
        assert not await _until_signal(work)
