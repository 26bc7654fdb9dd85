"""Receives an adapter's files in pieces and within bounds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from tenantry.config.v1 import config_admin_service_pb2 as pb

from services.common.errors import (
    DeadlineExceededError,
    FieldViolation,
    InvalidArgumentError,
    Reason,
    ResourceExhaustedError,
)
from services.config.adapters.peft import WEIGHTS_FILE
from services.config.adapters.peft_config import CONFIG_FILE

MAX_CONFIG_BYTES = 64 << 10
MAX_WEIGHTS_BYTES = 256 << 20
MAX_UPLOADS = 4
UPLOAD_SECONDS = 300.0
IDLE_SECONDS = 10.0
"""The longest wait for the next piece."""
DRAIN_SECONDS = 10.0
_RETRY_SECONDS = 5.0
_LIMITS = {CONFIG_FILE: MAX_CONFIG_BYTES, WEIGHTS_FILE: MAX_WEIGHTS_BYTES}

Pieces = AsyncIterator[pb.RegisterAdapterRequest]


class UploadPlaces:
    """Limits uploads, which are held in memory until they are stored: few at once, and one of each tenant."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    @contextlib.contextmanager
    def taken(self, tenant_uid: str) -> Iterator[None]:
        """Hold a place for a tenant.

        Raises:
            ResourceExhaustedError: the tenant holds one already, or all are taken.
        """
        if tenant_uid in self._taken:  # proven: one-upload-a-tenant
            raise ResourceExhaustedError(
                "another adapter of the tenant is being uploaded",
                reason=Reason.CONCURRENCY_LIMITED,
                retry_after_seconds=_RETRY_SECONDS,
            )
        if len(self._taken) >= MAX_UPLOADS:
            raise ResourceExhaustedError(
                "too many uploads at once", reason=Reason.QUEUE_FULL, retry_after_seconds=_RETRY_SECONDS
            )
        self._taken.add(tenant_uid)
        try:
            yield
        finally:
            self._taken.discard(tenant_uid)


async def receive_header(pieces: Pieces) -> pb.AdapterHeader:
    """Receive the first piece.

    Raises:
        InvalidArgumentError: it is not a header.
        DeadlineExceededError: it did not come in time.
    """
    first = await _next(pieces)
    if first is None or first.WhichOneof("piece") != "header":
        raise InvalidArgumentError([FieldViolation("header", "has to be the first message")])
    return first.header


async def receive_files(pieces: Pieces) -> dict[str, bytes]:
    """Receive both files, whole.

    Raises:
        InvalidArgumentError: a file is missing, unknown or too large.
        DeadlineExceededError: they did not come in time.
    """
    files: dict[str, bytearray] = {}
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            while (piece := await _next(pieces)) is not None:
                _add(files, piece)
    except TimeoutError:
        raise DeadlineExceededError(f"the upload took more than {UPLOAD_SECONDS:g} s") from None
    missing = [FieldViolation(name, "is missing") for name in _LIMITS if name not in files]
    if missing:
        raise InvalidArgumentError(missing)
    return {name: bytes(data) for name, data in files.items()}


async def _next(pieces: Pieces) -> pb.RegisterAdapterRequest | None:
    """Receive the next piece; None at the end."""
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            return await anext(pieces, None)
    except TimeoutError:
        raise DeadlineExceededError(f"nothing more came for {IDLE_SECONDS:g} s") from None


def _add(files: dict[str, bytearray], piece: pb.RegisterAdapterRequest) -> None:
    chunk = piece.chunk
    if piece.WhichOneof("piece") != "chunk" or chunk.file not in _LIMITS:
        raise InvalidArgumentError(
            [FieldViolation("chunk.file", f"is neither {CONFIG_FILE} nor {WEIGHTS_FILE}")]
        )
    data = files.setdefault(chunk.file, bytearray())
    size = len(data) + len(chunk.data)
    if size > _LIMITS[chunk.file]:
        what = f"has {size} bytes or more, more than {_LIMITS[chunk.file]}"
        raise InvalidArgumentError([FieldViolation(chunk.file, what)])
    data += chunk.data


async def drain(pieces: Pieces) -> None:
    """Read and drop the rest of an upload.

    A gRPC client that is refused while it sends may lose the status; so a refusal waits a while for the end of the
    upload.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in pieces:
                pass
