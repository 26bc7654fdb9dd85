"""Prepares the model on a thread of its own, which can be stopped."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from services.common.command_errors import CommandError
from triton_models.cpu_engine.preparation import ModelSourceError, PreparedModel, Progress, prepare
from triton_models.cpu_engine.verified_directory import LockTimeoutError

_STOP_SECONDS, _END_SECONDS = 1.0, 2.0


class _StoppedError(Exception):
    """The start was cancelled."""


async def prepare_model(cache_dir: Path, progress: Progress | None) -> PreparedModel:
    """Prepare the model, or verify the one that is there.

    Cancelled, it stops at its next sign of progress, for which it has a second, and two more at the end of the
    program. The next run removes files that a slow disk leaves half-made even so.

    Raises:
        CommandError: it cannot be prepared; names the remedy.
    """
    stop = threading.Event()

    def report(step: str, done: int, total: int) -> None:
        if stop.is_set():
            raise _StoppedError
        if progress is not None:
            progress(step, done, total)

    outcome = _on_a_daemon_thread(lambda: prepare(cache_dir, report))
    with _explained(cache_dir):
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({outcome}, timeout=_STOP_SECONDS)
            raise


def _on_a_daemon_thread(work: Callable[[], PreparedModel]) -> asyncio.Future[PreparedModel]:
    """Run it on a daemon thread: the program's end does not wait for it, as it would for the loop's threads."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[PreparedModel] = loop.create_future()
    # A cancelled caller does not look at the outcome; asyncio would log an exception that was never retrieved.
    outcome.add_done_callback(lambda done: done.cancelled() or done.exception())

    def settle(model: PreparedModel | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        elif model is not None:
            outcome.set_result(model)

    def run() -> None:
        model, failure = None, None
        try:
            model = work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            failure = error
        with suppress(RuntimeError):  # The loop is closed, so no task waits.
            loop.call_soon_threadsafe(settle, model, failure)

    thread = threading.Thread(target=run, name="prepare model", daemon=True)
    thread.start()
    # Ended inside native code, it could crash the program.
    atexit.register(thread.join, _END_SECONDS)
    return outcome


@contextmanager
def _explained(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except ModelSourceError as error:
        raise CommandError(f"the model cannot be prepared: {error}.", "Run `make venv`.") from None
    except LockTimeoutError as error:
        raise CommandError(f"the model cannot be prepared: {error}.", "Wait for it, or end it.") from None
    except OSError as error:
        raise CommandError(
            f"the model cannot be prepared in {cache_dir}: {error.strerror or error}.",
            "It takes 550 MB there. Free them, or give --state-dir another directory.",
        ) from None
