"""What signals mean to `tenantry up`: stop, and for who asks twice, at once."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from services.cli.commands.up import _until_signal


class Work:
    """Runs until it is cancelled; then ends when it is hurried or told to."""

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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_one_signal_stops_and_a_second_hurries(number):
    work = Work()
    task = asyncio.create_task(_until_signal(work))
    await work.began.wait()
    os.kill(os.getpid(), number)
    await work.stopping.wait()
    assert not task.done()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(task, 10)
    assert work.hurried


async def test_a_terminal_that_is_closed_says_so_twice_and_is_in_no_hurry():
    work = Work()
    task = asyncio.create_task(_until_signal(work))
    await work.began.wait()
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGHUP)
        await work.stopping.wait()
    await asyncio.sleep(0)
    work.end.set()
    assert await asyncio.wait_for(task, 10)
    assert not work.hurried


async def test_nohup_is_heeded():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        work = Work()
        task = asyncio.create_task(_until_signal(work))
        await work.began.wait()
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
        assert not work.stopping.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        work.end.set()
        assert await asyncio.wait_for(task, 10)
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_work_that_ends_by_itself_was_not_interrupted():
    async def work(_hurry):
        return None

    assert not await _until_signal(work)
