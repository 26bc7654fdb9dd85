"""The protocol of model servers: a request in, chunks of token ids out, and ways to fail. Pure."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol

from services.common.misleading_text import escaped
from services.router.stages import Parameters


@dataclass(frozen=True, slots=True)
class AdapterTensors:
    """An adapter's weights in the form a server takes: little endian, row-major."""

    weights: bytes
    weights_shape: tuple[int, int]
    """(rows, widest row)."""
    weights_datatype: str
    """`FP16`, `BF16` or `FP32`."""
    config: bytes
    """INT32."""
    config_shape: tuple[int, int]
    """(rows, columns)."""


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """The adapter that answers, and its tenant."""

    lora_id: int
    tenant_ordinal: int
    """Of the tenant the request was authenticated for."""
    weights: bytes | None
    """In the dialect's form, from `AdapterWeights`; None to send the id only."""


@dataclass(frozen=True, slots=True)
class DispatchRequest:
    """One request to one server."""

    request_id: str
    """Unguessable, since the server stops a request for any client that knows its id; never shown to callers."""
    server_model: str
    input_ids: list[int]
    parameters: Parameters
    end_token_id: int
    pad_token_id: int
    adapter: AdapterUse | None


@dataclass(slots=True)
class TokenChunk:
    """New tokens, none or more; the last chunk may hold some too."""

    token_ids: tuple[int, ...]
    final: bool


class BackendError(Exception):
    """Base of a model server's failures. The text is ours, never the server's; it is for the log, not for callers."""

    server_text = ""
    """What the server said, bounded and escaped: for the log alone."""


class AdapterMissError(BackendError):
    """The server does not hold the adapter it was asked for by id; nothing was generated."""

    def __init__(self, lora_id: int) -> None:
        super().__init__("the server does not hold the adapter")
        self.lora_id = lora_id


class AdapterCacheFullError(BackendError):
    """Every adapter the server holds is in use; nothing was generated."""


class BackendUnavailableError(BackendError):
    """The server cannot be reached, broke the stream, or takes no more requests."""

    def __init__(self, message: str, *, broken: bool) -> None:
        super().__init__(message)
        self.broken = broken
        """Whether the connection failed, rather than the server saying no."""


_MAX_SERVER_TEXT = 300


class BackendRejectedError(BackendError):
    """The server refused the request, failed at it, or answered against the protocol; another try may succeed."""

    def __init__(self, message: str, server_text: str = "") -> None:
        super().__init__(message)
        self.server_text = escaped(server_text[:_MAX_SERVER_TEXT])


class BackendMismatchError(BackendRejectedError):
    """The server does not take what the pool's record promises: no try succeeds before somebody mends one of them."""


class PromptTooLongError(BackendRejectedError):
    """The prompt is longer than the server's engine takes."""


class ForeignAnswerError(BackendRejectedError):
    """The server answered with the id of another request: it may mix up tenants."""


Linger = Callable[[], Callable[[bool], None]]


def unwatched() -> Callable[[bool], None]:
    """Let work at the server end unnoticed."""
    return _ignore


def _ignore(in_time: bool) -> None:
    """Do nothing."""


class Backend(Protocol):
    """Speaks to the servers of one dialect."""

    def generate(
        self, target: str, request: DispatchRequest, timeout_seconds: float, linger: Linger = unwatched
    ) -> AsyncGenerator[TokenChunk, None]:
        """Generate; closing the generator ends the work at the server, without waiting for it.

        `linger` is called when the generator is left before that work has ended, and what it returns once it has: with
        False if the server did not end it in time.

        Raises:
            BackendError: one of its kinds.
        """
        ...
