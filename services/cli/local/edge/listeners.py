"""The edge's two doors: one for tenants' callers, one for operators and reviewers."""

from __future__ import annotations

from collections.abc import Sequence

from services.cli.local.edge.filters import Guarded, Issuer, key_check, routing, seconds, strip_our_headers
from services.cli.local.edge.messages import (
    accesslog,
    core,
    file_log,
    hcm,
    listener,
    loopback,
    pack,
    protobuf,
    route,
    tls,
)
from services.cli.local.edge.spec import EdgeSpec

HEALTH = ("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch")
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/"
INFERENCE = "/tenantry.inference.v1.InferenceService/"
ADMIN = "/tenantry.config.v1.ConfigAdminService/"
REVIEW = "/tenantry.audit.v1.AuditReviewService/"

_BUFFER_BYTES = 1 << 20
_IDLE_SECONDS = 300.0
_LOGGED = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    # The path without its query: a query may hold what its sender should not have put there.
    "path": "%PATH(NQ)%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration_ms": "%DURATION%",
    "received_bytes": "%BYTES_RECEIVED%",
    "sent_bytes": "%BYTES_SENT%",
    "request_id": "%REQ(X-REQUEST-ID)%",
}


def tenant_listener(spec: EdgeSpec) -> listener.Listener:
    """Callers: inference, health, reflection; nothing else exists here."""
    callers = Issuer("caller", "tenantry", "tenantry-inference", spec.config_jwks)
    guarded = [
        *(Guarded(path, None, exact=True) for path in HEALTH),
        Guarded(INFERENCE, callers),
        Guarded(REFLECTION, callers),
    ]
    routes = [(item, "router") for item in guarded]
    return _listener(spec, "tenant", spec.tenant_port, routes)


def operations_listener(spec: EdgeSpec) -> listener.Listener:
    """Operators and reviewers, each with keys of their own kind."""
    operators = Issuer("operator", "tenantry", "tenantry-operator", spec.config_jwks)
    reviewers = Issuer("reviewer", "tenantry-audit", "tenantry-review", spec.audit_jwks)
    routes = [
        *((Guarded(path, None, exact=True), "config") for path in HEALTH),
        (Guarded(ADMIN, operators), "config"),
        (Guarded(REFLECTION, operators), "config"),
        (Guarded(REVIEW, reviewers), "audit"),
    ]
    return _listener(spec, "operations", spec.operations_port, routes)


def _route(item: Guarded, cluster_name: str) -> route.Route:
    match = route.RouteMatch(path=item.prefix) if item.exact else route.RouteMatch(prefix=item.prefix)
    # Streams last as long as their callers' deadlines; what ends the dead ones is the idle timeout.
    action = route.RouteAction(cluster=cluster_name, timeout=seconds(0), idle_timeout=seconds(_IDLE_SECONDS))
    return route.Route(match=match, route=action)


def _listener(
    spec: EdgeSpec, name: str, port: int, routes: Sequence[tuple[Guarded, str]]
) -> listener.Listener:
    manager = hcm.HttpConnectionManager(
        stat_prefix=name,
        codec_type=hcm.HttpConnectionManagerCodecType.AUTO,
        http_filters=[key_check([item for item, _ in routes]), routing()],
        early_header_mutation_extensions=[strip_our_headers()],
        route_config=route.RouteConfiguration(
            name=name,
            virtual_hosts=[
                route.VirtualHost(
                    name="all", domains=["*"], routes=[_route(item, cluster) for item, cluster in routes]
                )
            ],
        ),
        use_remote_address=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=hcm.HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST,
        request_headers_timeout=seconds(10),
        stream_idle_timeout=seconds(_IDLE_SECONDS),
        drain_timeout=seconds(1),
        max_request_headers_kb=32,
        http2_protocol_options=core.Http2ProtocolOptions(
            max_concurrent_streams=100,
            initial_stream_window_size=1 << 16,
            initial_connection_window_size=1 << 20,
        ),
        common_http_protocol_options=core.HttpProtocolOptions(
            idle_timeout=seconds(3600),
            max_headers_count=64,
            headers_with_underscores_action=core.HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST,
        ),
        access_log=[_access_log(spec, name)],
        local_reply_config=_refusals(),
    )
    return listener.Listener(
        name=name,
        address=loopback(port),
        per_connection_buffer_limit_bytes=_BUFFER_BYTES,
        filter_chains=[
            listener.FilterChain(
                filters=[
                    listener.Filter(
                        name="envoy.filters.network.http_connection_manager", typed_config=pack(manager)
                    )
                ],
                transport_socket=_tls(spec),
            )
        ],
    )


def _refusals() -> hcm.LocalReplyConfig:
    """A key for another door is as good as none: UNAUTHENTICATED, where Envoy would say PERMISSION_DENIED."""
    forbidden = accesslog.ComparisonFilter(
        op=accesslog.ComparisonFilterOp.EQ,
        value=core.RuntimeUInt32(default_value=403, runtime_key="tenantry.refused_status"),
    )
    status = accesslog.AccessLogFilter(status_code_filter=accesslog.StatusCodeFilter(comparison=forbidden))
    return hcm.LocalReplyConfig(mappers=[hcm.ResponseMapper(filter=status, status_code=401)])


def _tls(spec: EdgeSpec) -> core.TransportSocket:
    context = tls.DownstreamTlsContext(
        common_tls_context=tls.CommonTlsContext(
            tls_params=tls.TlsParameters(tls_minimum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_2),
            tls_certificates=[
                tls.TlsCertificate(
                    certificate_chain=core.DataSource(filename=str(spec.certificate_path)),
                    private_key=core.DataSource(filename=str(spec.key_path)),
                )
            ],
            alpn_protocols=["h2", "http/1.1"],
        )
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def _access_log(spec: EdgeSpec, name: str) -> accesslog.AccessLog:
    log = file_log.FileAccessLog(
        path=str(spec.access_log_path),
        log_format=core.SubstitutionFormatString(
            json_format=protobuf.Struct.from_dict({"listener": name, **_LOGGED})
        ),
    )
    return accesslog.AccessLog(name="envoy.access_loggers.file", typed_config=pack(log))
