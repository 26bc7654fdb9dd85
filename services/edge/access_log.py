"""The access log: one JSON object a request, without a key, a query or a header that a client chose."""

from __future__ import annotations

from services.edge.hygiene import REQUEST_ID
from services.edge.keys import KEY_CHECK, KEY_ID, SUBJECT
from services.edge.listener_specs import ListenerSpec
from services.edge.messages import accesslog, core, file_log, pack, protobuf, stream_log
from services.edge.spec import STDOUT

_REQUEST = {
    "time": "%START_TIME%",
    "request_id": f"%REQ({REQUEST_ID})%",
    "method": "%REQ(:METHOD):16%",
    # Cut, so that a few requests do not fill the disk; without its query, which may hold a secret.
    "path": "%PATH(NQ):256%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS(SNAKE_STRING)%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration_ms": "%DURATION%",
    "received_bytes": "%BYTES_RECEIVED%",
    "sent_bytes": "%BYTES_SENT%",
    "upstream": "%UPSTREAM_HOST%",
}
_HOLDERS = {
    # What an issuer's subject is, and what its key is called.
    "caller": ("tenant_uid", "key_id"),
    "operator": ("operator", "key_id"),
    "reviewer": ("tenant_uid", "grant_id"),
}


def access_log(path: str, listener: ListenerSpec) -> accesslog.AccessLog:
    """A line for every request, appended to a file or written to stdout."""
    fields = {"listener": listener.name} | _REQUEST | _holder_fields(listener)
    line = core.SubstitutionFormatString(json_format=protobuf.Struct.from_dict(fields))
    if path == STDOUT:
        log: object = stream_log.StdoutAccessLog(log_format=line)
        return accesslog.AccessLog(name="envoy.access_loggers.stdout", typed_config=pack(log))
    log = file_log.FileAccessLog(path=path, log_format=line)
    return accesslog.AccessLog(name="envoy.access_loggers.file", typed_config=pack(log))


def _holder_fields(listener: ListenerSpec) -> dict[str, str]:
    """The key's holder and id, as the key check verified them; null where it did not."""
    fields = {}
    for issuer in sorted({item.issuer.name for item in listener.routes if item.issuer}):
        for name, claim in zip(_HOLDERS[issuer], (SUBJECT, KEY_ID), strict=True):
            fields[name] = f"%DYNAMIC_METADATA({KEY_CHECK}:{issuer}:{claim}):64%"
    return fields
