"""Prometheus metrics: one registry for each process, served over HTTP on loopback to holders of a token.

Metrics name every tenant and count its tokens, so other users of the host must not read them. Prometheus sends the
token with `authorization: {credentials_file: FILE}` in its scrape config.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, disable_created_metrics, make_wsgi_app

from services.common.durable_files import read_or_create

# Seconds, from a millisecond to a minute: for first tokens and for whole answers.
LATENCY_BUCKETS_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
_TOKEN_BYTES = 32

_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@contextmanager
def serve_metrics(
    registry: CollectorRegistry, address: str | None, token_path: Path | None
) -> Iterator[None]:
    """Serve a registry while the context lasts. Without an address, serve nothing.

    Args:
        registry: the metrics.
        address: `host:port`.
        token_path: a file of mode 0600 with the token that requests have to bring; made if it is missing.

    Raises:
        OSError: the port is taken, or the token cannot be read or made.
        ValueError: the file of the token is empty.
    """
    if address is None or token_path is None:
        yield
        return
    host, port = address.rsplit(":", 1)
    # Creation times of series would be a quarter of all lines, and have no use here.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    application = _with_token(make_wsgi_app(registry), metrics_token(token_path))
    server = make_server(host, int(port), application, _Server, _Silent)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=2)


def metrics_token(path: Path) -> bytes:
    """The token in a file, made with mode 0600 where it is missing.

    Raises:
        OSError: it cannot be read or made.
        ValueError: the file is empty.
    """
    token = read_or_create(path, lambda: secrets.token_urlsafe(_TOKEN_BYTES).encode(), 0o600).strip()
    if not token:
        raise ValueError(f"{path} holds no token")
    return token


def _with_token(application: Any, token: bytes) -> _Application:
    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        scheme, _, given = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode("latin-1"), token):
            start_response(
                "401 Unauthorized", [("WWW-Authenticate", "Bearer"), ("Content-Type", "text/plain")]
            )
            return [b"metrics take the token of this service's TENANTRY_..._METRICS_TOKEN_PATH\n"]
        answer: Iterable[bytes] = application(environ, start_response)
        return answer

    return guarded


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, so that a slow reader does not keep Prometheus waiting."""

    daemon_threads = True


class _Silent(WSGIRequestHandler):
    """Scrapes are no news."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Log nothing."""
