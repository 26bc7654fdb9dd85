"""A door as Envoy's listener: TLS, HTTP, filters, routes."""

from __future__ import annotations

from services.edge.filters import chain
from services.edge.hygiene import (
    NO_CLIENT_CERTIFICATE,
    REFUSE_ESCAPED_SLASHES,
    http2_limits,
    http_limits,
    strip_headers,
)
from services.edge.listener_specs import Door
from services.edge.messages import BUFFER_BYTES, core, hcm, listener, loopback, pack, seconds, tls
from services.edge.replies import access_log, refusals
from services.edge.routes import route_table
from services.edge.spec import EdgeSpec

_MAX_HEADERS_KIB = 16
"""What the services take."""
_SILENT_SECONDS = 300.0
"""For requests that lead nowhere; the others' routes say their own."""


def door_listener(spec: EdgeSpec, door: Door) -> listener.Listener:
    """Envoy's listener for a door, on loopback."""
    manager = listener.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=pack(_manager(spec, door))
    )
    return listener.Listener(
        name=door.name,
        address=loopback(door.port),
        per_connection_buffer_limit_bytes=BUFFER_BYTES,
        # A second Envoy on these ports has to fail, not to take every other connection.
        enable_reuse_port=False,
        ignore_global_conn_limit=door.spared,
        bypass_overload_manager=door.spared,
        filter_chains=[
            listener.FilterChain(
                filters=[manager],
                transport_socket=_tls(spec),
                transport_socket_connect_timeout=seconds(spec.limits.handshake_seconds),
            )
        ],
    )


def _manager(spec: EdgeSpec, door: Door) -> hcm.HttpConnectionManager:
    return hcm.HttpConnectionManager(
        stat_prefix=door.name,
        codec_type=hcm.HttpConnectionManagerCodecType.AUTO,
        http_filters=chain(door, spec.limits),
        early_header_mutation_extensions=[strip_headers()],
        route_config=route_table(door),
        use_remote_address=True,
        forward_client_cert_details=NO_CLIENT_CERTIFICATE,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=REFUSE_ESCAPED_SLASHES,
        request_headers_timeout=seconds(10),
        request_timeout=seconds(door.request_seconds),
        stream_idle_timeout=seconds(_SILENT_SECONDS),
        drain_timeout=seconds(1),
        max_request_headers_kb=_MAX_HEADERS_KIB,
        http2_protocol_options=http2_limits(),
        common_http_protocol_options=http_limits(spec.limits.idle_connection_seconds),
        access_log=[access_log(spec.access_log_path, door.name)],
        local_reply_config=refusals(),
    )


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
