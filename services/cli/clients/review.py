"""The reviewer's client: reads one tenant's audit log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import grpc
from tenantry.audit.v1.audit_review_service_pb2 import (
    ExportLogRequest,
    ExportLogResponse,
    GetVerificationKeysRequest,
    VerificationKeys,
)
from tenantry.audit.v1.audit_review_service_pb2_grpc import AuditReviewServiceStub

from services.cli.clients.listener import Caller, Listener, bearer, typed_errors
from services.cli.clients.names import audit_log_name

CALL_TIMEOUT_SECONDS = 10.0


class ReviewClient:
    """Calls `AuditReviewService` with a reviewer's grant; every method raises `errors.Error`."""

    def __init__(self, channel: grpc.aio.Channel, address: str, grant: str) -> None:
        self._stub = AuditReviewServiceStub(channel)
        self._caller = Caller(address, bearer(grant))

    @classmethod
    @asynccontextmanager
    async def connect(cls, listener: Listener, grant: str) -> AsyncIterator[ReviewClient]:
        """A client for as long as the context lasts."""
        async with listener.open() as channel:
            yield cls(channel, listener.address, grant)

    async def get_verification_keys(self, tenant_uid: str) -> VerificationKeys:
        """The public keys to pin, outside any bundle."""
        return await self._caller.unary(
            self._stub.GetVerificationKeys,
            GetVerificationKeysRequest(name=audit_log_name(tenant_uid)),
            CALL_TIMEOUT_SECONDS,
        )

    async def export_log(
        self, tenant_uid: str, *, timeout_seconds: float = 600.0
    ) -> AsyncGenerator[ExportLogResponse]:
        """The pieces of a bundle's files, one file after another; closing the iterator cancels the export."""
        with typed_errors(self._caller.address):
            call = self._stub.ExportLog(
                ExportLogRequest(name=audit_log_name(tenant_uid)),
                timeout=timeout_seconds,
                metadata=self._caller.metadata,
            )
            try:
                async for piece in call:
                    yield piece
            finally:
                call.cancel()
