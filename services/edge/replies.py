"""The statuses and texts of requests that the edge refuses itself."""

from __future__ import annotations

from services.edge.keys import ONE_BEARER
from services.edge.messages import accesslog, core, hcm, matcher, route

_UNAUTHENTICATED = 401
_RESOURCE_EXHAUSTED = "8"
_DEADLINE_EXCEEDED = "4"
_NO_KEY = "no key was sent: send the header `authorization: Bearer KEY`"
_MALFORMED = "the authorization header must hold the scheme Bearer, one space and one key, and be sent once"
_UNUSABLE = "the key does not open this method"


def refusals() -> hcm.LocalReplyConfig:
    """Statuses where Envoy's own would mislead, and reasons where Envoy gives none; the first match counts."""
    keyless = _header(route.HeaderMatcher(name="authorization", present_match=False))
    malformed = _header(
        route.HeaderMatcher(
            name="authorization",
            string_match=matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=ONE_BEARER)),
            invert_match=True,
        )
    )
    refused_key = _any(_status(_UNAUTHENTICATED), _status(403))
    return hcm.LocalReplyConfig(
        mappers=[
            _unauthenticated(_all(refused_key, keyless), _NO_KEY),
            _unauthenticated(_all(refused_key, malformed), _MALFORMED),
            # A verified key without a holder; Envoy says PERMISSION_DENIED.
            _unauthenticated(_status(403), _UNUSABLE),
            # Too slow and too large: Envoy says UNKNOWN.
            hcm.ResponseMapper(filter=_status(408), headers_to_add=[_grpc_status(_DEADLINE_EXCEEDED)]),
            hcm.ResponseMapper(filter=_status(413), headers_to_add=[_grpc_status(_RESOURCE_EXHAUSTED)]),
        ]
    )


def _unauthenticated(when: accesslog.AccessLogFilter, text: str) -> hcm.ResponseMapper:
    return hcm.ResponseMapper(
        filter=when, status_code=_UNAUTHENTICATED, body=core.DataSource(inline_string=text)
    )


def _status(status: int) -> accesslog.AccessLogFilter:
    comparison = accesslog.ComparisonFilter(
        op=accesslog.ComparisonFilterOp.EQ,
        value=core.RuntimeUInt32(default_value=status, runtime_key=f"tenantry.refused_with_{status}"),
    )
    return accesslog.AccessLogFilter(status_code_filter=accesslog.StatusCodeFilter(comparison=comparison))


def _header(header: route.HeaderMatcher) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(header_filter=accesslog.HeaderFilter(header=header))


def _all(*filters: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(and_filter=accesslog.AndFilter(filters=list(filters)))


def _any(*filters: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(or_filter=accesslog.OrFilter(filters=list(filters)))


def _grpc_status(status: str) -> core.HeaderValueOption:
    return core.HeaderValueOption(
        header=core.HeaderValue(key="grpc-status", value=status),
        append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
