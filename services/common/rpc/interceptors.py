"""The server interceptor that turns every failure into one typed status.

An `Error` that a servicer raises, in a unary call or at any point of a stream, reaches the caller as its status. Any
other exception becomes INTERNAL without a cause, and is logged here without its text, which may hold text of a tenant.
Requests that do not parse, unknown methods and too many calls are refused here, because gRPC would answer them in its
own words.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, NoReturn

import grpc
from grpc.aio import ServicerContext

from services.common.errors import (
    Error,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    Reason,
    ResourceExhaustedError,
    UnimplementedError,
)
from services.common.request_ids import (
    REQUEST_ID_KEY,
    current_request_id,
    request_id_of,
    set_request_id,
)
from services.common.rpc.status import GRPC_CODES, to_status, trailing_details

_log = logging.getLogger(__name__)

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
# Streams without an end, each of which costs a place.
_SIDE_METHODS = ("/grpc.reflection.", "/grpc.health.v1.Health/")
_SIDE_CALLS = 16


async def abort_with(context: ServicerContext[Any, Any], error: Error) -> NoReturn:
    """End the call with the error's status, which names the current request's id; never returns."""
    error.request_id = current_request_id()
    status = to_status(error)
    await context.abort(
        GRPC_CODES[status.code],
        status.message,
        trailing_metadata=(
            ("grpc-status-details-bin", trailing_details(status)),
            (REQUEST_ID_KEY, error.request_id),
        ),
    )
    raise AssertionError("abort returned")


def where(error: BaseException) -> str:
    """The innermost frames of an exception, without its text."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return " < ".join(
        f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}:{frame.name}" for frame in reversed(frames)
    )


def _name_request(context: ServicerContext[Any, Any]) -> None:
    """Take or make the request id of the call, and send it back with every answer."""
    request_id = request_id_of(context.invocation_metadata() or ())
    set_request_id(request_id)
    context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Maps errors to statuses, and gives each call its request id, for every method of its server."""

    def __init__(self, max_calls: int | None = None) -> None:
        """Take at most `max_calls` at once of the server's own methods. None is no bound.

        Reflection and watches of health, which need none of them, have a small bound of their own. Health checks have
        none: they are how others know that the process lives.
        """
        self._calls = _Calls(max_calls)
        self._side_calls = _Calls(_SIDE_CALLS)
        self._checks = _Calls(None)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Wrap a method of any arity."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        calls = self._calls_of(method)  # proven: reflection-has-its-own-bound
        if handler is None:
            # Takes requests of every arity: on the wire, one message is a stream of one.
            return grpc.stream_unary_rpc_method_handler(_answering(_unknown_method, method, calls))
        codecs = {
            "request_deserializer": _reading(handler.request_deserializer, handler.request_streaming),
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            answering = _answering(handler.unary_unary, method, calls)
            return grpc.unary_unary_rpc_method_handler(answering, **codecs)
        if handler.stream_unary:
            answering = _answering(handler.stream_unary, method, calls)
            return grpc.stream_unary_rpc_method_handler(answering, **codecs)
        if handler.unary_stream:
            streaming = _streaming(handler.unary_stream, method, calls)
            return grpc.unary_stream_rpc_method_handler(streaming, **codecs)
        assert handler.stream_stream is not None
        streaming = _streaming(handler.stream_stream, method, calls)
        return grpc.stream_stream_rpc_method_handler(streaming, **codecs)

    def _calls_of(self, method: str) -> _Calls:
        if method == HEALTH_CHECK:
            return self._checks  # proven: health-is-never-refused
        if method.startswith(_SIDE_METHODS):
            return self._side_calls
        return self._calls


class _Calls:
    """Bounds the number of calls that run at once."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._running = 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        if self._most is not None and self._running >= self._most:
            raise ResourceExhaustedError(
                "the process takes no more calls now", reason=Reason.SERVER_BUSY, retry_after_seconds=1.0
            )
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1


_UNREADABLE = object()


def _reading(parse: Callable[[bytes], Any] | None, streamed: bool) -> Callable[[bytes], Any] | None:
    """Parse a request.

    For a stream of requests, gRPC calls this inside the behaviour, so it may raise. For a single request, gRPC calls it
    before the behaviour and would answer with the exception's text, so it returns `_UNREADABLE` in that case.
    """
    if parse is None:
        return None

    def read(data: bytes) -> object:
        try:
            return parse(data)
        except Exception:  # noqa: BLE001 - every exception of a parser means a wrong message
            if streamed:
                raise _unreadable() from None
            return _UNREADABLE  # proven: parser-is-silent

    return read


def _require_readable(request: object) -> None:
    if request is _UNREADABLE:
        raise _unreadable()


def _unreadable() -> InvalidArgumentError:
    return InvalidArgumentError([FieldViolation("request", "is not a message that this method takes")])


async def _unknown_method(_request: object, _context: ServicerContext[Any, Any]) -> NoReturn:
    raise UnimplementedError("no such method")


async def _fail(context: ServicerContext[Any, Any], method: str, error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, Error):
        _log.error(
            "request %s: unexpected %s in %s at %s",
            current_request_id(),
            type(error).__name__,
            method,
            where(error),
        )
        error = InternalError()
    await abort_with(context, error)


def _answering(behaviour: Callable[..., Any], method: str, calls: _Calls) -> Callable[..., Any]:
    async def call(request: object, context: ServicerContext[Any, Any]) -> object:
        _name_request(context)
        try:
            with calls.one_more():
                _require_readable(request)
                answer = behaviour(request, context)
                return await answer if asyncio.iscoroutine(answer) else answer
        except Exception as error:  # noqa: BLE001 - the one place where every failure becomes a status
            await _fail(context, method, error)

    return call


def _streaming(behaviour: Callable[..., Any], method: str, calls: _Calls) -> Callable[..., Any]:
    async def call(request: object, context: ServicerContext[Any, Any]) -> AsyncIterator[object]:
        _name_request(context)
        try:
            with calls.one_more():
                _require_readable(request)
                # When the caller leaves, this generator is closed; the servicer's own has to end with it.
                async with aclosing(behaviour(request, context)) as answers:
                    async for answer in answers:
                        yield answer
        except Exception as error:  # noqa: BLE001 - the one place where every failure becomes a status
            await _fail(context, method, error)

    return call
