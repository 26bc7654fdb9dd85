"""The edge's own words: its access log, and the statuses of requests it refuses."""

from __future__ import annotations

from services.edge.messages import accesslog, core, file_log, hcm, pack, protobuf, stream_log
from services.edge.spec import STDOUT

LOGGED = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD):16%",
    # Without its query, which may hold what its sender should not have put there.
    "path": "%PATH(NQ):256%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration_ms": "%DURATION%",
    "received_bytes": "%BYTES_RECEIVED%",
    "sent_bytes": "%BYTES_SENT%",
    # A caller may choose it.
    "request_id": "%REQ(X-REQUEST-ID):64%",
}
"""A line a request. What a sender chooses is cut to a length, so that nobody fills the disk with few requests."""

_UNAUTHENTICATED = 401
_RESOURCE_EXHAUSTED = "8"
_DEADLINE_EXCEEDED = "4"


def access_log(path: str, listener: str) -> accesslog.AccessLog:
    """One JSON object a request, appended to a file or written to stdout."""
    line = core.SubstitutionFormatString(
        json_format=protobuf.Struct.from_dict({"listener": listener, **LOGGED})
    )
    if path == STDOUT:
        log: object = stream_log.StdoutAccessLog(log_format=line)
        return accesslog.AccessLog(name="envoy.access_loggers.stdout", typed_config=pack(log))
    log = file_log.FileAccessLog(path=path, log_format=line)
    return accesslog.AccessLog(name="envoy.access_loggers.file", typed_config=pack(log))


def refusals() -> hcm.LocalReplyConfig:
    """The statuses gRPC has for what Envoy refuses, where Envoy's own choice would mislead."""
    return hcm.LocalReplyConfig(
        mappers=[
            # A key for another door is as good as none; Envoy says PERMISSION_DENIED.
            hcm.ResponseMapper(filter=_when(403), status_code=_UNAUTHENTICATED),
            # Too slow and too large: Envoy says UNKNOWN.
            hcm.ResponseMapper(filter=_when(408), headers_to_add=[_grpc_status(_DEADLINE_EXCEEDED)]),
            hcm.ResponseMapper(filter=_when(413), headers_to_add=[_grpc_status(_RESOURCE_EXHAUSTED)]),
        ]
    )


def _when(status: int) -> accesslog.AccessLogFilter:
    comparison = accesslog.ComparisonFilter(
        op=accesslog.ComparisonFilterOp.EQ,
        value=core.RuntimeUInt32(default_value=status, runtime_key=f"tenantry.refused_with_{status}"),
    )
    return accesslog.AccessLogFilter(status_code_filter=accesslog.StatusCodeFilter(comparison=comparison))


def _grpc_status(status: str) -> core.HeaderValueOption:
    return core.HeaderValueOption(
        header=core.HeaderValue(key="grpc-status", value=status),
        append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
