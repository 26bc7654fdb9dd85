from __future__ import annotations

import asyncio
import os
import signal

import pytest

from services.common.lifecycle import Lifetime, TaskDiedError


async def test_the_death_of_an_owned_task_ends_the_process_and_is_named():
    async def die() -> None:
        raise RuntimeError

    async with Lifetime() as lifetime:
        forever = lifetime.own(asyncio.Event().wait(), "forever")
        lifetime.own(die(), "watch")
        with pytest.raises(TaskDiedError, match="watch ended: RuntimeError"):
            await lifetime.wait()
    assert forever.cancelled()


async def test_sigterm_ends_the_wait():
    async with Lifetime() as lifetime:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(lifetime.wait(), 5)
