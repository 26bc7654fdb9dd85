"""What gRPC completes for the closed loop of one test does not reach the log of the next."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import grpc
import pytest

from tests.event_loops import QuietlyClosedLoop


def watched_past_the_end(loop, folder):
    """A channel of a closed loop, with an operation that nothing can cancel and that ends half a second from now."""

    async def watch():
        channel = grpc.aio.insecure_channel(f"unix:{folder}/nowhere.sock")
        # The public way to wait for a change of state repeats this with no end.
        watching = asyncio.ensure_future(channel._channel.watch_connectivity_state(0, time.time() + 0.5))
        await asyncio.sleep(0)
        assert not watching.done()
        return channel

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(watch())


async def errors_of_a_later_loop(folder):
    """What goes wrong in the running loop while gRPC completes what the other one asked for."""
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    async with grpc.aio.insecure_channel(f"unix:{folder}/nowhere.sock") as channel:
        # It ends after the other operation, and completions come in order.
        with suppress(asyncio.TimeoutError, TimeoutError):
            await channel._channel.watch_connectivity_state(0, time.time() + 1)
    return errors


@pytest.mark.parametrize(
    ("kind", "messages"),
    [(QuietlyClosedLoop, []), (asyncio.SelectorEventLoop, ["Event loop is closed"])],
)
def test_a_completion_for_a_closed_loop_is_dropped(tmp_path, kind, messages):
    channel = watched_past_the_end(kind(), tmp_path)
    with asyncio.Runner(loop_factory=QuietlyClosedLoop) as runner:
        errors = runner.run(errors_of_a_later_loop(tmp_path))
    assert [str(error["exception"]) for error in errors] == messages
    del channel


async def test_tests_run_in_such_a_loop():
    assert type(asyncio.get_running_loop()) is QuietlyClosedLoop


def test_anything_else_for_a_closed_loop_is_an_error():
    loop = QuietlyClosedLoop()
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.call_soon_threadsafe(print)
