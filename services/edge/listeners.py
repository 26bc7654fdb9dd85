"""Envoy's listeners: TLS, HTTP, filters, routes."""

from __future__ import annotations

from services.edge.access_log import access_log
from services.edge.filters import chain
from services.edge.hygiene import (
    NO_CLIENT_CERTIFICATE,
    REFUSE_ESCAPED_SLASHES,
    http2_limits,
    http_limits,
    random_request_ids,
    strip_headers,
)
from services.edge.listener_specs import ListenerSpec
from services.edge.messages import BUFFER_BYTES, core, data, hcm, listener, pack, port, seconds, tls
from services.edge.replies import refusals
from services.edge.routes import route_table
from services.edge.spec import EdgeSpec, TlsListener

_MAX_HEADERS_KIB = 16
"""As much as the services take."""
_HEADERS_SECONDS = 3.0
"""From a request's first byte to the end of its headers, which show no key before."""
_SILENT_SECONDS = 300.0
"""For requests without a route; each route has a bound of its own."""


def tls_listener(spec: EdgeSpec, of: ListenerSpec) -> listener.Listener:
    """One listener, with everything behind its port."""
    manager = listener.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=pack(_manager(spec, of))
    )
    return listener.Listener(
        name=of.name,
        address=port(of.bind.address, of.bind.port),
        per_connection_buffer_limit_bytes=BUFFER_BYTES,
        # A second Envoy on these ports has to fail, not to take every other connection.
        enable_reuse_port=False,
        ignore_global_conn_limit=of.spared,
        bypass_overload_manager=of.spared,
        filter_chains=[
            listener.FilterChain(
                filters=[manager],
                transport_socket=_tls(of.bind),
                transport_socket_connect_timeout=seconds(spec.limits.handshake_seconds),
            )
        ],
    )


def _manager(spec: EdgeSpec, of: ListenerSpec) -> hcm.HttpConnectionManager:
    return hcm.HttpConnectionManager(
        stat_prefix=of.name,
        codec_type=hcm.HttpConnectionManagerCodecType.AUTO,
        http_filters=chain(of, spec.limits),
        early_header_mutation_extensions=[strip_headers()],
        route_config=route_table(of),
        use_remote_address=True,
        # Also of the edge's own refusals.
        always_set_request_id_in_response=True,
        request_id_extension=random_request_ids(),
        forward_client_cert_details=NO_CLIENT_CERTIFICATE,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=REFUSE_ESCAPED_SLASHES,
        request_headers_timeout=seconds(_HEADERS_SECONDS),
        request_timeout=seconds(of.request_seconds),
        stream_idle_timeout=seconds(_SILENT_SECONDS),
        drain_timeout=seconds(1),
        max_request_headers_kb=_MAX_HEADERS_KIB,
        http2_protocol_options=http2_limits(),
        common_http_protocol_options=http_limits(spec.limits.idle_connection_seconds),
        access_log=[access_log(spec.access_log, of)],
        local_reply_config=refusals(),
    )


def _tls(bind: TlsListener) -> core.TransportSocket:
    context = tls.DownstreamTlsContext(
        common_tls_context=tls.CommonTlsContext(
            tls_params=tls.TlsParameters(tls_minimum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_2),
            tls_certificates=[
                tls.TlsCertificate(
                    certificate_chain=data(bind.certificate), private_key=data(bind.private_key)
                )
            ],
            alpn_protocols=["h2", "http/1.1"],
        )
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))
