"""An adapter's files, received in pieces and within bounds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tenantry.config.v1 import config_admin_service_pb2 as pb

from services.common.errors import DeadlineExceededError, FieldViolation, InvalidArgumentError
from services.config.adapters.peft import WEIGHTS_FILE
from services.config.adapters.peft_config import CONFIG_FILE

MAX_CONFIG_BYTES = 64 << 10
MAX_WEIGHTS_BYTES = 256 << 20
UPLOAD_SECONDS = 300.0
DRAIN_SECONDS = 10.0
_LIMITS = {CONFIG_FILE: MAX_CONFIG_BYTES, WEIGHTS_FILE: MAX_WEIGHTS_BYTES}

Pieces = AsyncIterator[pb.RegisterAdapterRequest]


async def receive_header(pieces: Pieces) -> pb.AdapterHeader:
    """The first piece.

    Raises:
        InvalidArgumentError: it is not a header.
    """
    first = await anext(pieces, None)
    if first is None or first.WhichOneof("piece") != "header":
        raise InvalidArgumentError([FieldViolation("header", "has to be the first message")])
    return first.header


async def receive_files(pieces: Pieces) -> dict[str, bytes]:
    """Both files, whole.

    Raises:
        InvalidArgumentError: a file is missing, unknown or too large.
        DeadlineExceededError: they did not come in time.
    """
    files: dict[str, bytearray] = {}
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            async for piece in pieces:
                _add(files, piece)
    except TimeoutError:
        raise DeadlineExceededError(f"the upload took more than {UPLOAD_SECONDS:g} s") from None
    missing = [FieldViolation(name, "is missing") for name in _LIMITS if name not in files]
    if missing:
        raise InvalidArgumentError(missing)
    return {name: bytes(data) for name, data in files.items()}


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
    """Read what a caller still sends, and forget it.

    gRPC clients that are refused while they send may lose the status they are refused with; so a refusal waits for
    the end of the upload, for a while.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in pieces:
                pass
