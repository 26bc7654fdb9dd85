"""`python -m tests.fakes.router_reading_first`: the mutant of a router that parses requests before it knows callers."""

from __future__ import annotations

from typing import Any

import grpc
from tenantry.inference.v1 import inference_service_pb2 as pb

from services.router import main as main_module
from services.router.request import servicer


class _Read:
    """A call whose request has been read."""

    def __init__(self, request: pb.GenerateRequest, context: Any) -> None:
        self._request = request
        self._context = context

    async def read(self) -> bytes:
        return self._request.SerializeToString()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _register(self: Any, server: grpc.aio.Server) -> None:
    """As generated stubs do it: gRPC reads the request and parses it, then asks the servicer."""

    async def generate(request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        answer: pb.GenerateResponse = await self.Generate(None, _Read(request, context))
        return answer

    handler = grpc.unary_unary_rpc_method_handler(
        generate,
        request_deserializer=pb.GenerateRequest.FromString,
        response_serializer=pb.GenerateResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(servicer.SERVICE, {"Generate": handler}),)
    )


servicer.InferenceServicer.register = _register  # type: ignore[method-assign]
main_module.RECEIVED_BYTES = 4 << 20  # type: ignore[attr-defined]

if __name__ == "__main__":
    main_module.main()
