"""What a caller, an operator and a reviewer hold of a running mesh: stubs, grpcio, a CA file and a key.

Nothing here imports the services: the tests show that the wire contract alone is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from tenantry.audit.v1 import audit_review_service_pb2_grpc as review_rpc
from tenantry.config.v1 import config_admin_service_pb2_grpc as admin_rpc
from tenantry.inference.v1 import inference_service_pb2 as inference_pb
from tenantry.inference.v1 import inference_service_pb2_grpc as inference_rpc

Metadata = Sequence[tuple[str, str]]


def bearer(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


@dataclass(frozen=True)
class Failure:
    """A failed call, as a program sees it."""

    code: grpc.StatusCode
    reason: str
    status: status_pb2.Status
    """Without the request's id, in which any two failures differ."""
    request_id: str

    @classmethod
    def of(cls, error: grpc.RpcError) -> Failure:
        status = rpc_status.from_call(error) or status_pb2.Status(message=error.details() or "")
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
        reason = next((info.reason for detail in status.details if detail.Unpack(info)), "")
        for detail in [detail for detail in status.details if detail.Unpack(request)]:
            status.details.remove(detail)
        return cls(error.code(), reason, status, request.request_id)

    def detail(self, kind: type[Any]) -> Any:
        wanted = kind()
        return wanted if any(detail.Unpack(wanted) for detail in self.status.details) else None

    def fields(self) -> set[str]:
        bad = self.detail(error_details_pb2.BadRequest)
        return {violation.field for violation in bad.field_violations} if bad else set()


class Access:
    """Channels to the two listeners of one mesh."""

    def __init__(self, tenant_address: str, operations_address: str, ca_path: Path) -> None:
        credentials = grpc.ssl_channel_credentials(ca_path.read_bytes())
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.tenant_channel = grpc.aio.secure_channel(tenant_address, credentials, options)
        self.operations_channel = grpc.aio.secure_channel(operations_address, credentials, options)
        self.inference = inference_rpc.InferenceServiceStub(self.tenant_channel)
        self.admin = admin_rpc.ConfigAdminServiceStub(self.operations_channel)
        self.review = review_rpc.AuditReviewServiceStub(self.operations_channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.tenant_channel.close()
        await self.operations_channel.close()


def question(text: str, **fields: Any) -> inference_pb.GenerateRequest:
    message = inference_pb.Message(role=inference_pb.ROLE_USER, content=[inference_pb.ContentPart(text=text)])
    fields.setdefault("parameters", inference_pb.SamplingParameters(max_output_tokens=16))
    return inference_pb.GenerateRequest(conversation=inference_pb.Conversation(messages=[message]), **fields)


async def failure_of(call: Any) -> Failure:
    """Await a call that must fail."""
    try:
        await call
    except grpc.RpcError as error:
        return Failure.of(error)
    raise AssertionError("the call succeeded")
