"""Requests as bytes, and how they become messages: after their caller is known and counted, and within bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from services.common.errors import FieldViolation, InvalidArgumentError
from services.router.request.wire_bounds import MalformedError, TooManyFieldsError, check_fields_of
from services.router.tenant_threads import TenantThreads

R = TypeVar("R", bound=Message)

MAX_REQUEST_BYTES = 2 << 20
"""Of one message: the most text that any tenant's config allows, with room for many short turns."""
MAX_FIELDS = 32_768
"""The most that a request within the contract comes to is about 25,000: 4,096 turns of 8,192 pieces."""
# A message of this size is parsed in place: it holds so few fields that it takes 2 ms at worst.
_IN_PLACE_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Unparsed(Generic[R]):
    """A serialised request."""

    data: bytes
    kind: type[R]


class RequestParser:
    """Parses large requests in a thread, of each tenant one at a time."""

    def __init__(self) -> None:
        self._threads = TenantThreads(1, "parse")

    def close(self) -> None:
        """Let the thread end."""
        self._threads.close()

    async def parse(self, tenant_uid: str, request: Unparsed[R] | R) -> R:
        """The message of a tenant's request.

        Raises:
            InvalidArgumentError: the bytes are no such message, or hold too many fields.
        """
        if not isinstance(request, Unparsed):
            return request
        work: Callable[[], R] = lambda: _parse(request)  # noqa: E731 - run here or in a thread
        if len(request.data) <= _IN_PLACE_BYTES:
            return work()
        return await self._threads.run(tenant_uid, work)


def _parse(request: Unparsed[R]) -> R:
    if len(request.data) > _IN_PLACE_BYTES:
        try:
            check_fields_of(
                request.data, request.kind.DESCRIPTOR, MAX_FIELDS
            )  # proven: counted-before-parsed
        except TooManyFieldsError:
            raise InvalidArgumentError(
                [FieldViolation("request", f"holds more than {MAX_FIELDS} fields")]
            ) from None
        except MalformedError:
            raise unreadable() from None
    try:
        return request.kind.FromString(request.data)
    except (DecodeError, ValueError):
        raise unreadable() from None


def unreadable() -> InvalidArgumentError:
    """The refusal of bytes that are no request."""
    return InvalidArgumentError([FieldViolation("request", "is not a message that this method takes")])
