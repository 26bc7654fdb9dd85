"""The RPC surface: turns calls into messages and messages into answers. No policy in here.

Methods take raw bytes, and take them as a stream of one message: gRPC then hands a call over with its metadata, before
its request has arrived. Nothing is read of a call whose caller is not known.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from grpc.aio import ServicerContext
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.audit.entry import AuditReceipt
from services.common.request_ids import REQUEST_ID_KEY, current_request_id
from services.router.request.intake import Intake
from services.router.request.outbox import Outbox
from services.router.request.pipeline import Call, Pipeline
from services.router.request.receiving import Receiver
from services.router.request.refusal_pace import RefusalPace
from services.router.stages import Answered, FinishReason

_AUTHORIZATION = "authorization"
_MAX_UNREAD_CHARACTERS = 256 << 10
_FINISH_REASONS = {
    FinishReason.END: pb.FINISH_REASON_END,
    FinishReason.STOP_SEQUENCE: pb.FINISH_REASON_STOP_SEQUENCE,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
Request = TypeVar("Request")
Parse = Callable[[str, bytes | None], Awaitable[Request]]
SERVICE = pb.DESCRIPTOR.services_by_name["InferenceService"].full_name


class InferenceServicer:
    """`tenantry.inference.v1.InferenceService`."""

    def __init__(self, pipeline: Pipeline, intake: Intake, pace: RefusalPace) -> None:
        self._pipeline = pipeline
        self._intake = intake
        self._pace = pace
        self._receiver = Receiver()

    def register(self, server: grpc.aio.Server) -> None:
        """Serve the methods at a server that is not started."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Generate": grpc.stream_unary_rpc_method_handler(
                self.Generate, response_serializer=pb.GenerateResponse.SerializeToString
            ),
            "StreamGenerate": grpc.stream_stream_rpc_method_handler(
                self.StreamGenerate, response_serializer=pb.StreamGenerateResponse.SerializeToString
            ),
            "ListModels": grpc.stream_unary_rpc_method_handler(
                self.ListModels, response_serializer=pb.ListModelsResponse.SerializeToString
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def Generate(self, _requests: object, context: ServicerContext[Any, Any]) -> pb.GenerateResponse:
        """Generate a whole answer."""
        with ExitStack() as held:
            call = self._call(self._receiver.generate, context, held)
            async with self._pace.paced(call.authorization):
                answered = await self._pipeline.run(call, None)
        final = _final(answered)
        return pb.GenerateResponse(
            request_id=final.request_id,
            text=answered.text,
            finish_reason=final.finish_reason,
            usage=final.usage,
            provenance=final.provenance,
            timing=final.timing,
        )

    async def StreamGenerate(
        self, _requests: object, context: ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.StreamGenerateResponse]:
        """Generate an answer piece by piece."""
        # Lasts until the caller has read the answer: one that does not read uses up its own tenant's share.
        with ExitStack() as held:
            outbox = Outbox(_MAX_UNREAD_CHARACTERS)
            call = self._call(self._receiver.generate, context, held)
            running = asyncio.create_task(self._pipeline.run(call, outbox), name="stream generate")
            running.add_done_callback(lambda done: _close(outbox, done))
            try:
                named = False
                while (delta := await outbox.get()) is not None:
                    if not named:
                        # A stream may break before its final message, which names the request too.
                        await context.send_initial_metadata(((REQUEST_ID_KEY, call.request_id),))
                        named = True
                    yield pb.StreamGenerateResponse(
                        delta=pb.Delta(text=delta.text, output_tokens=delta.output_tokens)
                    )
                async with self._pace.paced(call.authorization):
                    answered = await running
                yield pb.StreamGenerateResponse(final=_final(answered))
            finally:
                if not running.done():
                    running.cancel()
                    # The caller left: the request gives back what it holds before this call ends.
                    await asyncio.wait([running])
                # The traceback of its failure leads here: without this, only a collection of garbage ends the circle.
                del running

    async def ListModels(
        self, _requests: object, context: ServicerContext[Any, Any]
    ) -> pb.ListModelsResponse:
        """List the models the caller's tenant may ask."""
        with ExitStack() as held:
            call = self._call(self._receiver.listing, context, held)
            async with self._pace.paced(call.authorization):
                listed = await self._pipeline.list_models(call)
            # The message has no field for it.
            await context.send_initial_metadata(((REQUEST_ID_KEY, call.request_id),))
            return listed

    def _call(
        self,
        parse: Parse[Request],
        context: ServicerContext[Any, Any],
        held: ExitStack,
    ) -> Call[Request]:
        """The call, before its request has arrived; `held` is closed once it has ended."""

        async def receive(tenant_uid: str) -> Request:
            arrival = held.enter_context(self._intake.arrival(tenant_uid))
            # Not named: the traceback of a refusal would keep it.
            return await parse(tenant_uid, await self._intake.read(arrival, lambda: _message(context)))

        return Call(receive, _authorization(context), context.time_remaining(), current_request_id())


def _close(outbox: Outbox, done: asyncio.Task[Answered]) -> None:
    outbox.close()
    if not done.cancelled():
        # Retrieved for a caller that left meanwhile: asyncio would log an exception that is not, with its text.
        done.exception()


async def _message(context: ServicerContext[Any, Any]) -> bytes | None:
    """The call's message, or None if it ended without one. Iterating would keep it as long as the call."""
    message = await context.read()
    return None if message is grpc.aio.EOF else message


def _authorization(context: ServicerContext[Any, Any]) -> str | None:
    found = [value for key, value in context.invocation_metadata() or () if key == _AUTHORIZATION]
    # Two of them are a smuggling attempt: a proxy may have verified the other one.
    return str(found[0]) if len(found) == 1 else None


def _final(answered: Answered) -> pb.Final:
    identified, shape, tenant = answered.identified, answered.shaped.shape, answered.tenant
    admitted, generation = answered.admitted, answered.generation
    provenance = pb.Provenance(
        config_version=tenant.config_version,
        config_sha256=tenant.config_sha256,
        model=shape.alias,
        base_model=shape.base_model.name,
        base_model_sha256=shape.base_model.weights_sha256,
        stale=identified.stale,
        admit_receipt=_receipt(admitted.admit_receipt),
        outcome_receipt=_receipt(answered.outcome_receipt),
    )
    if shape.binding is not None:
        provenance.adapter = shape.binding.version.adapter
        provenance.adapter_version = shape.binding.version.version
        provenance.adapter_sha256 = shape.binding.version.source_sha256
        provenance.rendition_sha256 = shape.binding.rendition.sha256
    return pb.Final(
        request_id=identified.request_id,
        finish_reason=_FINISH_REASONS[answered.finish_reason],
        usage=pb.Usage(
            input_tokens=answered.shaped.cost.input_tokens, output_tokens=generation.output_tokens
        ),
        provenance=provenance,
        timing=pb.Timing(
            queued=_since(identified.arrived_at, admitted.dispatched_at),
            first_token=_since(identified.arrived_at, generation.first_token_at),
            total=_since(identified.arrived_at, answered.last_token_at),
        ),
    )


def _receipt(receipt: AuditReceipt | None) -> pb.AuditReceipt | None:
    if receipt is None:
        return None
    return pb.AuditReceipt(log_id=receipt.log_id, index=receipt.index, leaf_hash=receipt.leaf_hash)


def _since(start: float, moment: float | None) -> Duration | None:
    if moment is None:
        return None
    duration = Duration()
    duration.FromNanoseconds(int((moment - start) * 1e9))
    return duration
