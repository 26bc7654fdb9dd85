"""The access log: one JSON object a request, without a key, a query or a header that a client chose.

A flood of refusals, such as a revoked key makes, must not fill the disk or rotate the other lines away: above a rate
only one refusal in a hundred is logged. The rate is each key holder's own, so that no flood hides the others' refusals.
"""

from __future__ import annotations

from services.edge.hygiene import REQUEST_ID
from services.edge.keys import KEY_CHECK, KEY_ID, SUBJECT
from services.edge.listener_specs import ListenerSpec
from services.edge.messages import accesslog, core, file_log, hcm, lua, matcher, pack, protobuf, stream_log
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
    # Names of an issuer's subject and key in the log.
    "caller": ("tenant_uid", "key_id"),
    "operator": ("operator", "key_id"),
    "reviewer": ("tenant_uid", "grant_id"),
}
_SAMPLING = "tenantry.access_log"
_LOGGED = "logged"
_ONE_IN = 100
# Envoy runs it in each worker thread by itself. A gRPC refusal has its status in the headers unless it is an answer
# that fails later; such answers have been paid for, and are logged. Counts are kept by verified holder for one second,
# so that there are never more of them than requests in it; callers without a verified key share one.
_SAMPLE = """
local second, refused = 0, {}
local function holder(handle)
  local verified = handle:streamInfo():dynamicMetadata():get("%(key_check)s")
  for issuer, claims in pairs(verified or {}) do
    if type(claims) == "table" and claims["%(subject)s"] then return issuer .. " " .. claims["%(subject)s"] end
  end
  return ""
end
function envoy_on_response(handle)
  local headers = handle:headers()
  local grpc_status = headers:get("grpc-status")
  if headers:get(":status") == "200" and (grpc_status == nil or grpc_status == "0") then return end
  local now = os.time()
  if now ~= second then second, refused = now, {} end
  local who = holder(handle)
  local count = (refused[who] or 0) + 1
  refused[who] = count
  if count > %(per_second)d and count %% %(one_in)d ~= 0 then
    handle:streamInfo():dynamicMetadata():set("%(sampling)s", "%(logged)s", false)
  end
end
"""


def sampling(per_second: int) -> hcm.HttpFilter:
    """Mark the refusals that the log leaves out. First in the chain, so that it sees every filter's refusals."""
    names = {
        "sampling": _SAMPLING,
        "logged": _LOGGED,
        "one_in": _ONE_IN,
        "per_second": per_second,
        "key_check": KEY_CHECK,
        "subject": SUBJECT,
    }
    code = core.DataSource(inline_string=_SAMPLE % names)
    return hcm.HttpFilter(name="envoy.filters.http.lua", typed_config=pack(lua.Lua(default_source_code=code)))


def access_log(path: str, listener: ListenerSpec) -> accesslog.AccessLog:
    """A line for every request but the refusals left out, appended to a file or written to stdout."""
    fields = {"listener": listener.name} | _REQUEST | _holder_fields(listener)
    line = core.SubstitutionFormatString(json_format=protobuf.Struct.from_dict(fields))
    if path == STDOUT:
        log: object = stream_log.StdoutAccessLog(log_format=line)
        name = "envoy.access_loggers.stdout"
    else:
        log = file_log.FileAccessLog(path=path, log_format=line)
        name = "envoy.access_loggers.file"
    return accesslog.AccessLog(name=name, typed_config=pack(log), filter=_kept())


def _kept() -> accesslog.AccessLogFilter:
    logged = matcher.MetadataMatcher(
        filter=_SAMPLING,
        path=[matcher.MetadataMatcherPathSegment(key=_LOGGED)],
        value=matcher.ValueMatcher(bool_match=True),
    )
    return accesslog.AccessLogFilter(
        metadata_filter=accesslog.MetadataFilter(matcher=logged, match_if_key_not_found=True)
    )


def _holder_fields(listener: ListenerSpec) -> dict[str, str]:
    """The key's holder and id, as the key check verified them; null where it did not."""
    fields = {}
    for issuer in sorted({item.issuer.name for item in listener.routes if item.issuer}):
        for name, claim in zip(_HOLDERS[issuer], (SUBJECT, KEY_ID), strict=True):
            fields[name] = f"%DYNAMIC_METADATA({KEY_CHECK}:{issuer}:{claim}):64%"
    return fields
