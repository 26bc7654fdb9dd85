"""The RPC surface: turns calls into messages and messages into answers. No policy in here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from grpc.aio import ServicerContext
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.common.audit.entry import AuditReceipt
from services.common.request_ids import REQUEST_ID_KEY, current_request_id
from services.router.request.outbox import Outbox
from services.router.request.pipeline import Call, Pipeline
from services.router.request.unparsed import Unparsed
from services.router.stages import Answered, FinishReason

_AUTHORIZATION = "authorization"
_MAX_UNREAD_CHARACTERS = 256 << 10
_FINISH_REASONS = {
    FinishReason.END: pb.FINISH_REASON_END,
    FinishReason.STOP_SEQUENCE: pb.FINISH_REASON_STOP_SEQUENCE,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
SERVICE = "tenantry.inference.v1.InferenceService"
Request = TypeVar("Request", bound=Message)


class InferenceServicer:
    """`tenantry.inference.v1.InferenceService`, over requests that are not parsed yet."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def register(self, server: grpc.aio.Server) -> None:
        """Add the service to a server. Requests reach it as bytes: their callers are not known yet."""
        unary, streamed = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        handlers: dict[str, grpc.RpcMethodHandler[bytes, Any]] = {
            "Generate": unary(self.Generate, response_serializer=pb.GenerateResponse.SerializeToString),
            "StreamGenerate": streamed(
                self.StreamGenerate, response_serializer=pb.StreamGenerateResponse.SerializeToString
            ),
            "ListModels": unary(self.ListModels, response_serializer=pb.ListModelsResponse.SerializeToString),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def Generate(self, request: bytes, context: ServicerContext[Any, Any]) -> pb.GenerateResponse:
        """Generate a whole answer."""
        answered = await self._pipeline.run(_call(request, pb.GenerateRequest, context), None)
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
        self, request: bytes, context: ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.StreamGenerateResponse]:
        """Generate an answer piece by piece."""
        outbox, call = Outbox(_MAX_UNREAD_CHARACTERS), _call(request, pb.GenerateRequest, context)
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
            yield pb.StreamGenerateResponse(final=_final(await running))
        finally:
            if not running.done():
                running.cancel()
                # The caller left: the request gives back what it holds before this call ends.
                await asyncio.wait([running])

    async def ListModels(self, request: bytes, context: ServicerContext[Any, Any]) -> pb.ListModelsResponse:
        """List the models the caller's tenant may ask."""
        call = _call(request, pb.ListModelsRequest, context)
        listed = await self._pipeline.list_models(call)
        # The message has no field for it.
        await context.send_initial_metadata(((REQUEST_ID_KEY, call.request_id),))
        return listed


def _close(outbox: Outbox, done: asyncio.Task[Answered]) -> None:
    outbox.close()
    if not done.cancelled():
        # Retrieved for a caller that left meanwhile: asyncio would log an exception that is not, with its text.
        done.exception()


def _call(data: bytes, kind: type[Request], context: ServicerContext[Any, Any]) -> Call[Request]:
    request = Unparsed(data, kind)
    return Call(request, _authorization(context), context.time_remaining(), current_request_id())


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
