"""Metrics are read within bounds, whatever a server sends or does not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from services.router.backends import server_metrics
from services.router.backends.server_metrics import ServerMetrics

GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nthing 1\n"


@contextmanager
def serving(answer: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """A server that answers one connection; the event is set when the test is over."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                answer(connection, over)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"
        over.set()
        thread.join(10)


async def read(url: str, timeout_seconds: float = 5.0) -> str:
    async with ServerMetrics() as metrics:
        return await metrics.read(url, timeout_seconds)


async def test_an_answer_is_read():
    with serving(lambda connection, _: connection.sendall(GOOD)) as url:
        assert await read(url) == "thing 1\n"


def _endless(connection: socket.socket, _: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    try:
        while True:
            connection.sendall(b"a 1\n" * 10_000)
    except OSError:
        return


@pytest.mark.parametrize(
    "answer",
    [
        lambda connection, _: connection.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
        lambda connection, _: connection.sendall(b"nothing of the kind\r\n\r\n"),
        lambda connection, _: connection.close(),
        _endless,
    ],
    ids=["an error", "no HTTP", "nothing", "without end"],
)
async def test_another_answer_is_an_os_error(answer, monkeypatch):
    monkeypatch.setattr(server_metrics, "_MOST_BYTES", 1 << 18)
    with serving(answer) as url, pytest.raises(OSError):  # noqa: PT011 - of any kind
        await read(url)


async def test_a_server_that_hangs_is_not_waited_for():
    with serving(lambda _, over: over.wait(30) and None) as url, pytest.raises(TimeoutError):
        await read(url, 0.05)


async def test_nobody_there_is_an_os_error():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(OSError):  # noqa: PT011 - of any kind
        await read(f"http://127.0.0.1:{port}/metrics")
