"""Reaches a listener of the edge: TLS, a bearer key, a deadline, typed errors.

`UnreachableError` is a failure on the way: no service of ours was asked. Any other error is a service's answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeVar

import grpc

from services.common.errors import UnavailableError
from services.common.rpc.status import from_rpc_error
from services.common.rpc.targets import is_local

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),
]
Request = TypeVar("Request")
Response = TypeVar("Response")
_DETAILS_KEY = "grpc-status-details-bin"


class Obstacle(Enum):
    """Why a listener could not be reached."""

    NO_ANSWER = "nothing answers"
    CERTIFICATE = "the certificate shown is not signed by the expected CA"
    NOTHING_BEHIND = "the edge answers, the service behind it does not"
    ANOTHER_SERVICE = "something else answers"


class UnreachableError(UnavailableError):
    """No service was asked: the listener is down, at another address, or shows another certificate."""

    def __init__(self, address: str, obstacle: Obstacle) -> None:
        super().__init__(f"{address}: {obstacle.value}")
        self.address = address
        self.obstacle = obstacle


@dataclass(frozen=True, slots=True)
class Listener:
    """One listener of the edge."""

    address: str
    """`host:port` or `unix:/path`."""
    ca_path: Path | None = None
    """PEM certificate of the CA that signed the listener's; None means the system's CAs, and plain text for a
    target on this host."""

    def _channel(self) -> grpc.aio.Channel:
        if self.ca_path is None and is_local(self.address):
            return grpc.aio.insecure_channel(self.address, _OPTIONS)
        roots = self.ca_path.read_bytes() if self.ca_path else None
        return grpc.aio.secure_channel(self.address, grpc.ssl_channel_credentials(roots), _OPTIONS)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel that connects when first used and is closed at the end."""
        channel = self._channel()
        try:
            yield channel
        finally:
            await channel.close(grace=None)


def bearer(key: str) -> grpc.aio.Metadata:
    """The call metadata with a key."""
    return grpc.aio.Metadata(("authorization", f"Bearer {key}"))


@contextmanager
def typed_errors(address: str) -> Iterator[None]:
    """Raise the tree's errors in place of gRPC's.

    Raises:
        Error: what the server answered.
        UnreachableError: no server of ours was asked.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        answered_by_us = _DETAILS_KEY in (error.trailing_metadata() or ())
        obstacle = None if answered_by_us else _obstacle(error)
        if obstacle is not None:
            raise UnreachableError(address, obstacle) from None
        raise from_rpc_error(error) from None


@dataclass(frozen=True, slots=True)
class Caller:
    """The address and the metadata of every call of a client."""

    address: str
    metadata: grpc.aio.Metadata

    async def unary(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        timeout_seconds: float,
    ) -> Response:
        """Call a unary method.

        Raises:
            Error: as `typed_errors` does.
        """
        with typed_errors(self.address):
            return await method(request, timeout=timeout_seconds, metadata=self.metadata)


def _obstacle(error: grpc.aio.AioRpcError) -> Obstacle | None:
    """Why a call reached no service; None if the edge itself answered it."""
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return Obstacle.ANOTHER_SERVICE
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return None
    text = (error.details() or "") + (error.debug_error_string() or "")
    if "CERTIFICATE_VERIFY_FAILED" in text or "Hostname Verification Check failed" in text:
        return Obstacle.CERTIFICATE
    # Envoy's words. gRPC's words for a listener that is down have no "upstream".
    return Obstacle.NOTHING_BEHIND if "upstream" in text else Obstacle.NO_ANSWER
