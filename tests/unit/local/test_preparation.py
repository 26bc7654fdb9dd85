"""The model's preparation, stopped halfway and failing."""

from __future__ import annotations

import asyncio
import fcntl
import threading

import pytest

from services.common.command_errors import CommandError
from services.local import preparation
from triton_models.cpu_engine import preparation as model_preparation
from triton_models.cpu_engine.preparation import ModelSourceError
from triton_models.cpu_engine.verified_directory import LockTimeoutError


def preparing():
    return [thread for thread in threading.enumerate() if thread.name == "prepare model"]


async def ended(threads):
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)
    assert not [thread for thread in threads if thread.is_alive()]


async def test_it_stops_while_it_waits_for_another_process(tmp_path):
    waiting, loop = asyncio.Event(), asyncio.get_running_loop()

    def progress(step, done, total):
        if step == "wait for another process":
            loop.call_soon_threadsafe(waiting.set)

    name = f".{model_preparation.MODEL_NAME}-v{model_preparation._FORMAT}.lock"
    with (tmp_path / name).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        task = asyncio.create_task(preparation.prepare_model(tmp_path, progress))
        await asyncio.wait_for(waiting.wait(), 20)
        threads = preparing()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await ended(threads)


async def test_it_stops_halfway_and_leaves_nothing(tmp_path):
    checking, loop = asyncio.Event(), asyncio.get_running_loop()

    def progress(step, done, total):
        if step == "check source":
            loop.call_soon_threadsafe(checking.set)

    task = asyncio.create_task(preparation.prepare_model(tmp_path, progress))
    await asyncio.wait_for(checking.wait(), 60)
    threads = preparing()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ended(threads)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


async def test_a_disk_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "_STOP_SECONDS", 0.05)
    began, answer = threading.Event(), threading.Event()

    def stuck(cache_dir, progress):
        began.set()
        answer.wait(60)
        progress("write", 1, 1)

    monkeypatch.setattr(preparation, "prepare", stuck)
    task = asyncio.create_task(preparation.prepare_model(tmp_path, None))
    await asyncio.to_thread(began.wait, 10)
    threads = preparing()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert threads[0].is_alive()
    assert threads[0].daemon
    answer.set()
    await ended(threads)


@pytest.mark.parametrize(
    ("error", "said", "hint"),
    [
        (OSError(28, "No space left on device"), "No space left", "550 MB"),
        (ModelSourceError("the package holds no model"), "holds no model", "make venv"),
        (LockTimeoutError("held by another process"), "held by another", "Wait for it"),
    ],
)
async def test_what_goes_wrong_is_said_with_what_to_do(tmp_path, monkeypatch, error, said, hint):
    def fail(cache_dir, progress):
        raise error

    monkeypatch.setattr(preparation, "prepare", fail)
    with pytest.raises(CommandError, match=said) as failure:
        await preparation.prepare_model(tmp_path, None)
    assert hint in failure.value.hint
