"""Makes a request of received bytes within bounds: size, then counts, then the parser.

Counting a request of few fields takes less than its parsing. One of many fields is counted slice by slice with pauses,
one request a tenant and one slice at a time, so that the event loop keeps most of its time for all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar
from weakref import WeakValueDictionary

from google.protobuf.message import DecodeError
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.errors import FieldViolation, InvalidArgumentError
from services.common.request_sizes import MAX_REQUEST_BYTES, RECEIVED_BYTES
from services.router.request.request_fields import (
    MAX_MESSAGES,
    MAX_METADATA_ENTRIES,
    MAX_PARTS,
    MAX_STOP_SEQUENCES,
)
from services.router.request.wire_scan import Counted, UnreadableError, scan

_LISTING_BYTES = 16 << 10
# Each message has a role and its pieces, each piece a text; the rest are parameters, notes and names.
_MAX_FIELDS = 2 * (MAX_MESSAGES + MAX_PARTS) + 256
# So few bytes hold few fields, whatever they are.
_UNCOUNTED_BYTES = 1024
_PAUSE_SECONDS = 0.001
_MESSAGES = Counted(
    "conversation.messages",
    MAX_MESSAGES,
    "messages",
    {2: Counted("conversation.messages.content", MAX_PARTS, "pieces of content")},
)
_GENERATE: Mapping[int, Counted] = {
    # A parser joins all occurrences of a message field.
    2: Counted("conversation", MAX_MESSAGES, "pieces of a conversation", {1: _MESSAGES}),
    5: Counted(
        "parameters",
        MAX_MESSAGES,
        "pieces of parameters",
        {6: Counted("parameters.stop_sequences", MAX_STOP_SEQUENCES, "stop sequences")},
    ),
    8: Counted("client_metadata", MAX_METADATA_ENTRIES, "entries"),
}
Request = TypeVar("Request", pb.GenerateRequest, pb.ListModelsRequest)


class Receiver:
    """Parses the requests of all tenants."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._slice = asyncio.Lock()

    async def generate(self, tenant_uid: str, data: bytes | None) -> pb.GenerateRequest:
        """Parse a question; None is a call that ended without one.

        Raises:
            InvalidArgumentError: it is too large, holds too many pieces, or is not a question; names field and limit.
        """
        try:
            data = _sized(data, MAX_REQUEST_BYTES)
            if len(data) > _UNCOUNTED_BYTES:
                await self._count(tenant_uid, scan(data, _GENERATE, _MAX_FIELDS))  # proven: counts-first
            return _parsed(pb.GenerateRequest.FromString, data)
        except UnreadableError:
            raise _unreadable() from None
        except InvalidArgumentError as error:
            raise error.with_traceback(None) from None
        finally:
            # Nor does the traceback of a refusal keep the bytes, for as long as no collection of garbage finds it.
            data = None

    async def listing(self, _tenant_uid: str, data: bytes | None) -> pb.ListModelsRequest:
        """Parse the request for a list of models.

        Raises:
            InvalidArgumentError: it is too large or is not one.
        """
        return _parsed(pb.ListModelsRequest.FromString, _sized(data, _LISTING_BYTES))

    async def _count(self, tenant_uid: str, slices: Iterator[None]) -> None:
        for _ in slices:
            break
        else:
            return
        turn = self._turns.setdefault(tenant_uid, asyncio.Lock())
        async with turn:
            while True:
                async with self._slice:
                    await asyncio.sleep(_PAUSE_SECONDS)
                    for _ in slices:
                        break
                    else:
                        return


def _sized(data: bytes | None, most: int) -> bytes:
    """The bytes, if there are any and not too many."""
    if data is None:
        raise InvalidArgumentError(
            [FieldViolation("request", f"is missing, or above {RECEIVED_BYTES} bytes")]
        )
    if len(data) > most:  # proven: size-first
        raise InvalidArgumentError([FieldViolation("request", f"{len(data)} bytes; at most {most}")])
    return data


def _parsed(parse: Callable[[bytes], Request], data: bytes) -> Request:
    try:
        return parse(data)
    except DecodeError:
        raise _unreadable() from None


def _unreadable() -> InvalidArgumentError:
    return InvalidArgumentError([FieldViolation("request", "is not a message that this method takes")])
