"""Removes headers that callers may not send; refuses paths and sizes that callers may not use."""

from __future__ import annotations

from services.edge.messages import core, early, hcm, matcher, mutation, pack, request_ids, seconds

OUR_HEADERS = "x-tenantry-"
STRIPPED_HEADERS = (
    # The mesh's own statements about a request.
    OUR_HEADERS,
    # Other gateways' names for a tenant; a service or a log that reads one must not be misled.
    "x-tenant-",
    # Envoy takes timeouts, retries and routes from these, and trusts callers on its own host with them.
    "x-envoy-",
)
"""Prefixes of headers that are never taken from a client."""
REQUEST_ID = "x-request-id"
"""Envoy's own, a version 4 UUID: a client's would let two requests share one, or put text into our logs."""


def strip_headers() -> core.TypedExtensionConfig:
    """Remove every such header, before anything else looks at the request.

    Only this extension point stops every spelling: a route's own removals run after authentication.
    """
    removals = [mutation.HeaderMutation(remove=REQUEST_ID)]
    removals += [
        mutation.HeaderMutation(
            remove_on_match=mutation.HeaderMutationRemoveOnMatch(
                key_matcher=matcher.StringMatcher(prefix=prefix, ignore_case=True)
            )
        )
        for prefix in STRIPPED_HEADERS
    ]
    return core.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=pack(early.HeaderMutation(mutations=removals)),
    )


def random_request_ids() -> hcm.RequestIdExtension:
    """Make every digit of the id random; without a tracer no digit marks a trace."""
    config = request_ids.UuidRequestIdConfig(pack_trace_reason=False)
    return hcm.RequestIdExtension(typed_config=pack(config))


def http2_limits() -> core.Http2ProtocolOptions:
    """Bounds on open streams and unread bytes of one connection."""
    return core.Http2ProtocolOptions(
        max_concurrent_streams=100,
        initial_stream_window_size=1 << 16,
        initial_connection_window_size=1 << 20,
    )


def http_limits(idle_connection_seconds: float) -> core.HttpProtocolOptions:
    """Bounds on headers and idle connections, of HTTP/1.1 and HTTP/2 alike."""
    return core.HttpProtocolOptions(
        idle_timeout=seconds(idle_connection_seconds),
        max_headers_count=64,
        # `x_tenantry_tenant` is `x-tenantry-tenant` to software that reads headers as variables.
        headers_with_underscores_action=core.HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST,
    )


NO_CLIENT_CERTIFICATE = hcm.HttpConnectionManagerForwardClientCertDetails.SANITIZE
"""`x-forwarded-client-cert` is removed: no proxy before this edge has checked a certificate."""
REFUSE_ESCAPED_SLASHES = hcm.HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST
"""`%2F` is a slash to some servers and a letter to others."""
