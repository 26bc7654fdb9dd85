"""The RPC surface: messages in, messages out. No policy in here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.duration_pb2 import Duration
from grpc.aio import ServicerContext
from tenantry.inference.v1 import inference_service_pb2 as pb
from tenantry.inference.v1 import inference_service_pb2_grpc as rpc

from services.common.audit.writer import AuditReceipt
from services.router.request.exchange import Exchange
from services.router.request.outbox import Outbox
from services.router.request.pipeline import Call, Pipeline

_AUTHORIZATION = "authorization"
_MAX_UNREAD_CHARACTERS = 256 << 10


class InferenceServicer(rpc.InferenceServiceServicer):
    """`tenantry.inference.v1.InferenceService`."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def Generate(
        self, request: pb.GenerateRequest, context: ServicerContext[Any, Any]
    ) -> pb.GenerateResponse:
        """Generate a whole answer."""
        exchange = await self._pipeline.run(_call(request, context), None)
        final = _final(exchange)
        return pb.GenerateResponse(
            request_id=final.request_id,
            text=exchange.text,
            finish_reason=final.finish_reason,
            usage=final.usage,
            provenance=final.provenance,
            timing=final.timing,
        )

    async def StreamGenerate(
        self, request: pb.GenerateRequest, context: ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.StreamGenerateResponse]:
        """Generate an answer piece by piece."""
        outbox = Outbox(_MAX_UNREAD_CHARACTERS)
        running = asyncio.create_task(
            self._pipeline.run(_call(request, context), outbox), name="stream generate"
        )
        running.add_done_callback(lambda done: _close(outbox, done))
        try:
            while (delta := await outbox.get()) is not None:
                yield pb.StreamGenerateResponse(
                    delta=pb.Delta(text=delta.text, output_tokens=delta.output_tokens)
                )
            yield pb.StreamGenerateResponse(final=_final(await running))
        finally:
            if not running.done():
                running.cancel()
                # The caller left: what the request holds is given back before this call is over.
                await asyncio.wait([running])

    async def ListModels(
        self, request: pb.ListModelsRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListModelsResponse:
        """List the models the caller's tenant may ask."""
        return await self._pipeline.list_models(_authorization(context), request)


def _close(outbox: Outbox, done: asyncio.Task[Exchange]) -> None:
    outbox.close()
    if not done.cancelled():
        # Looked at here, for a caller that left meanwhile: asyncio would log what nobody looks at, text and all.
        done.exception()


def _call(request: pb.GenerateRequest, context: ServicerContext[Any, Any]) -> Call:
    return Call(request, _authorization(context), context.time_remaining())


def _authorization(context: ServicerContext[Any, Any]) -> str | None:
    found = [value for key, value in context.invocation_metadata() or () if key == _AUTHORIZATION]
    # Two of them are a smuggling attempt, whichever one a proxy looked at.
    return str(found[0]) if len(found) == 1 else None


def _final(exchange: Exchange) -> pb.Final:
    shape, cost, tenant = exchange.shape, exchange.cost, exchange.caller.tenant
    assert shape is not None
    assert cost is not None
    assert exchange.finish_reason is not None
    provenance = pb.Provenance(
        config_version=tenant.config_version,
        config_sha256=tenant.config_sha256,
        model=shape.alias,
        base_model=shape.base_model.name,
        base_model_sha256=shape.base_model.weights_sha256,
        stale=exchange.stale,
        admit_receipt=_receipt(exchange.admit_receipt),
        outcome_receipt=_receipt(exchange.outcome_receipt),
    )
    if shape.binding is not None:
        provenance.adapter = shape.binding.version.adapter
        provenance.adapter_version = shape.binding.version.version
        provenance.adapter_sha256 = shape.binding.version.source_sha256
        provenance.rendition_sha256 = shape.binding.rendition.sha256
    return pb.Final(
        request_id=exchange.request_id,
        finish_reason=pb.FinishReason.ValueType(exchange.finish_reason.value),
        usage=pb.Usage(input_tokens=cost.input_tokens, output_tokens=exchange.output_tokens),
        provenance=provenance,
        timing=pb.Timing(
            queued=_since(exchange.arrived_at, exchange.dispatched_at),
            first_token=_since(exchange.arrived_at, exchange.first_token_at),
            total=_since(exchange.arrived_at, exchange.last_token_at),
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
