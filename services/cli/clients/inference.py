"""The client of a tenant's caller."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import grpc
from tenantry.inference.v1.inference_service_pb2 import (
    GenerateRequest,
    ListModelsRequest,
    Model,
    StreamGenerateResponse,
)
from tenantry.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from services.cli.clients.listener import Caller, Listener, bearer, typed_errors
from services.cli.clients.paging import collect_pages

LIST_TIMEOUT_SECONDS = 10.0


class InferenceClient:
    """Calls `InferenceService` with one tenant's key; every method raises `errors.Error`."""

    def __init__(self, channel: grpc.aio.Channel, address: str, key: str) -> None:
        self._stub = InferenceServiceStub(channel)
        self._caller = Caller(address, bearer(key))

    @classmethod
    @asynccontextmanager
    async def connect(cls, listener: Listener, key: str) -> AsyncIterator[InferenceClient]:
        """A client for as long as the context lasts."""
        async with listener.open() as channel:
            yield cls(channel, listener.address, key)

    async def stream_generate(
        self, request: GenerateRequest, *, timeout_seconds: float = 60.0
    ) -> AsyncGenerator[StreamGenerateResponse]:
        """Ask for an answer piece by piece; closing the iterator cancels the answer at the server."""
        with typed_errors(self._caller.address):
            call = self._stub.StreamGenerate(request, timeout=timeout_seconds, metadata=self._caller.metadata)
            try:
                async for response in call:
                    yield response
            finally:
                call.cancel()

    async def list_models(self) -> list[Model]:
        """Every model the tenant may ask for."""

        async def page(token: str) -> tuple[list[Model], str]:
            response = await self._caller.unary(
                self._stub.ListModels, ListModelsRequest(page_token=token), LIST_TIMEOUT_SECONDS
            )
            return list(response.models), response.next_page_token

        return await collect_pages(page)
