"""Translates our errors into `google.rpc.Status`, and back.

Every status carries exactly one `ErrorInfo`, plus `BadRequest`, `QuotaFailure`, `RequestInfo` and
`RetryInfo` where they apply (AIP-193). The only module that knows the detail messages.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from services.common.errors import (
    DOMAIN,
    AbortedError,
    AlreadyExistsError,
    Code,
    DeadlineExceededError,
    Error,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    QuotaViolation,
    Reason,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from services.common.misleading_text import escaped
from services.common.request_ids import REQUEST_ID_KEY

GRPC_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_BY_CODE: dict[int, type[Error]] = {
    kind.code: kind
    for kind in (
        AbortedError,
        AlreadyExistsError,
        DeadlineExceededError,
        FailedPreconditionError,
        NotFoundError,
        PermissionDeniedError,
        UnimplementedError,
    )
}


# The trailer is base64 and also holds the message.
_DETAIL_BYTES = 4_600
_OVERHEAD_BYTES = 6
_MAX_REQUEST_ID_CHARACTERS = 128


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


def fitting(violations: Sequence[FieldViolation]) -> list[FieldViolation]:
    """The violations that fit into a status.

    A status travels in trailers, and gRPC's callers accept 8 KiB of them by default. Violations that are too long lose
    first their descriptions, then the last of them.
    """
    names = [len(violation.field.encode()) + _OVERHEAD_BYTES for violation in violations]
    whole = list(itertools.accumulate(names))
    count = bisect.bisect_right(whole, _DETAIL_BYTES)
    left = _DETAIL_BYTES - (whole[count - 1] if count else 0)
    found: list[FieldViolation] = []
    for violation in violations[:count]:
        left -= len(violation.description.encode())
        found.append(violation if left >= 0 else FieldViolation(violation.field, ""))
    if count < len(violations):
        found.append(FieldViolation("", f"and {len(violations) - count} more"))
    return found


def to_status(error: Error) -> status_pb2.Status:
    """Translate an error. The result holds only the parts of the error that callers may see.

    Text in it may quote what a caller sent, so characters that mislead a reader or have no UTF-8 are escaped.
    """
    metadata = {key: escaped(value) for key, value in error.metadata.items()}
    info = error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=metadata)
    details: list[
        error_details_pb2.ErrorInfo
        | error_details_pb2.BadRequest
        | error_details_pb2.QuotaFailure
        | error_details_pb2.RequestInfo
        | error_details_pb2.RetryInfo
    ] = [info]
    if isinstance(error, InvalidArgumentError):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                    for v in fitting([_escaped(violation) for violation in error.violations])
                ]
            )
        )
    if isinstance(error, ResourceExhaustedError) and error.violations:
        details.append(
            error_details_pb2.QuotaFailure(
                violations=[
                    error_details_pb2.QuotaFailure.Violation(
                        subject=escaped(v.subject), description=escaped(v.description)
                    )
                    for v in error.violations
                ]
            )
        )
    if error.request_id:
        details.append(error_details_pb2.RequestInfo(request_id=error.request_id))
    if error.retry_after_seconds is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=_duration(error.retry_after_seconds)))
    status = status_pb2.Status(code=int(error.code), message=escaped(error.message))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _escaped(violation: FieldViolation) -> FieldViolation:
    return FieldViolation(escaped(violation.field), escaped(violation.description))


def from_status(status: status_pb2.Status) -> Error:
    """Rebuild the error of a status. An unknown reason becomes INTERNAL."""
    reason, metadata = Reason.INTERNAL, dict[str, str]()
    violations: list[FieldViolation] = []
    quotas: list[QuotaViolation] = []
    retry: float | None = None
    request_id = ""
    for packed in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        quota, wait = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
        request = error_details_pb2.RequestInfo()
        if packed.Unpack(info) and info.domain == DOMAIN and info.reason in Reason.__members__:
            reason, metadata = Reason(info.reason), dict(info.metadata)
        elif packed.Unpack(bad):
            violations += [FieldViolation(v.field, v.description) for v in bad.field_violations]
        elif packed.Unpack(quota):
            quotas += [QuotaViolation(v.subject, v.description) for v in quota.violations]
        elif packed.Unpack(wait):
            retry = wait.retry_delay.ToNanoseconds() / 1e9
        elif packed.Unpack(request):
            request_id = request.request_id[:_MAX_REQUEST_ID_CHARACTERS]
    error = _rebuild(status, reason, violations, quotas)
    error.reason, error.metadata = reason, metadata
    error.retry_after_seconds, error.request_id = retry, request_id
    return error


def _rebuild(
    status: status_pb2.Status, reason: Reason, violations: list[FieldViolation], quotas: list[QuotaViolation]
) -> Error:
    if status.code == Code.INVALID_ARGUMENT:
        error: Error = InvalidArgumentError(violations)
        error.message = status.message
        return error
    if status.code == Code.RESOURCE_EXHAUSTED:
        return ResourceExhaustedError(status.message, violations=quotas)
    if status.code == Code.UNAVAILABLE:
        return UnavailableError(status.message, reason=reason)
    if status.code == Code.UNAUTHENTICATED:
        return UnauthenticatedError(status.message)
    kind = _BY_CODE.get(status.code)
    return kind(status.message, reason=reason) if kind else InternalError(status.message)


def from_rpc_error(error: grpc.RpcError) -> Error:
    """Rebuild the error that a server of ours answered, or a similar one for a failure of the connection."""
    call = error
    assert isinstance(call, grpc.Call | grpc.aio.AioRpcError)
    status = rpc_status.from_call(call)
    if status is None:
        status = status_pb2.Status(code=call.code().value[0], message=call.details() or "")
    rebuilt: Error = from_status(status)
    if status.code == Code.UNAVAILABLE and not status.details:
        rebuilt.retry_after_seconds = 1.0
    rebuilt.request_id = rebuilt.request_id or _request_id(call)
    return rebuilt


def _request_id(call: grpc.Call | grpc.aio.AioRpcError) -> str:
    """The id an answer carries beside its status, as the edge's own refusals do."""
    for metadata in (call.trailing_metadata(), call.initial_metadata()):
        for key, value in metadata or ():
            if key == REQUEST_ID_KEY and isinstance(value, str):
                return value[:_MAX_REQUEST_ID_CHARACTERS]
    return ""


def trailing_details(status: status_pb2.Status) -> bytes:
    """The value of the `grpc-status-details-bin` trailer."""
    return bytes(status.SerializeToString())
