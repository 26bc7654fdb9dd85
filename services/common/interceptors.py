"""The server interceptor that turns every failure into one typed status.

Unary and stream, before and after the first message: whatever leaves a servicer as `Error` reaches the caller
as its status; anything else becomes INTERNAL, says nothing, and is logged here without the exception's text,
which may hold what a tenant wrote.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from grpc.aio import ServicerContext

from services.common.errors import Error, InternalError
from services.common.rpc_status import GRPC_CODES, to_status, trailing_details

_log = logging.getLogger(__name__)


async def abort_with(context: ServicerContext[Any, Any], error: Error) -> NoReturn:
    """End the call with the error's status; never returns."""
    status = to_status(error)
    await context.abort(
        GRPC_CODES[status.code],
        status.message,
        trailing_metadata=(("grpc-status-details-bin", trailing_details(status)),),
    )
    raise AssertionError("abort returned")


def where(error: BaseException) -> str:
    """The innermost frames of an exception, without its text."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return " < ".join(
        f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}:{frame.name}" for frame in reversed(frames)
    )


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Maps errors to statuses for every method of the server it is given to."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the method's behaviour, whatever its arity."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return handler
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(_answering(handler.unary_unary, method), **codecs)
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(_answering(handler.stream_unary, method), **codecs)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(_streaming(handler.unary_stream, method), **codecs)
        assert handler.stream_stream is not None
        return grpc.stream_stream_rpc_method_handler(_streaming(handler.stream_stream, method), **codecs)


async def _fail(context: ServicerContext[Any, Any], method: str, error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, Error):
        _log.error("unexpected %s in %s at %s", type(error).__name__, method, where(error))
        error = InternalError()
    await abort_with(context, error)


def _answering(behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
    async def call(request: object, context: ServicerContext[Any, Any]) -> object:
        try:
            answer = behaviour(request, context)
            return await answer if asyncio.iscoroutine(answer) else answer
        except Exception as error:  # noqa: BLE001 - the one place where every failure becomes a status
            await _fail(context, method, error)

    return call


def _streaming(behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
    async def call(request: object, context: ServicerContext[Any, Any]) -> AsyncIterator[object]:
        answers = behaviour(request, context)
        try:
            async for answer in answers:
                yield answer
        except Exception as error:  # noqa: BLE001 - the one place where every failure becomes a status
            await _fail(context, method, error)
        finally:
            # A caller that leaves closes this generator; the servicer's own must end now, not at collection.
            await answers.aclose()

    return call
