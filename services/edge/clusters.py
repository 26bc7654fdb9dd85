"""Where the edge sends requests: our own services, over HTTP/2."""

from __future__ import annotations

import ipaddress

from services.edge.addresses import Address, parse_address
from services.edge.messages import (
    BUFFER_BYTES,
    address,
    cluster,
    core,
    data,
    endpoint,
    matcher,
    pack,
    percent,
    seconds,
    tls,
    upstream,
)
from services.edge.spec import Upstream, UpstreamTls

_STREAM_WINDOW_BYTES = 64 << 10
# As much as all of a service's streams together: callers that do not read leave room for the others' answers on the
# connection they share.
_CONNECTION_WINDOW_BYTES = 4096 * _STREAM_WINDOW_BYTES
_MAX_REQUESTS = 8192


def service_cluster(name: str, service: Upstream) -> cluster.Cluster:
    """One service's processes, taking turns; one that cannot be reached is left out for a moment."""
    addresses = [parse_address(target) for target in service.endpoints]
    by_name = any(at.is_host_name for at in addresses)
    return cluster.Cluster(
        name=name,
        type=cluster.ClusterDiscoveryType.STRICT_DNS if by_name else cluster.ClusterDiscoveryType.STATIC,
        connect_timeout=seconds(1),
        # Services usually listen on IPv4; Envoy's default asks for IPv6 first.
        dns_lookup_family=cluster.ClusterDnsLookupFamily.V4_PREFERRED,
        lb_policy=cluster.ClusterLbPolicy.ROUND_ROBIN,
        per_connection_buffer_limit_bytes=BUFFER_BYTES,
        # A process that was left out gets nothing, even when most are: callers hear UNAVAILABLE instead of waiting.
        common_lb_config=cluster.ClusterCommonLbConfig(healthy_panic_threshold=percent(0)),
        # A name may have several addresses.
        outlier_detection=_ejection() if by_name or len(addresses) > 1 else None,
        transport_socket=_mutual_tls(service.tls) if service.tls else None,
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[
                endpoint.LocalityLbEndpoints(
                    lb_endpoints=[endpoint.LbEndpoint(endpoint=_endpoint(at)) for at in addresses]
                )
            ],
        ),
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": pack(
                upstream.HttpProtocolOptions(
                    explicit_http_config=upstream.HttpProtocolOptionsExplicitHttpConfig(
                        http2_protocol_options=core.Http2ProtocolOptions(
                            initial_stream_window_size=_STREAM_WINDOW_BYTES,
                            initial_connection_window_size=_CONNECTION_WINDOW_BYTES,
                            connection_keepalive=core.KeepaliveSettings(
                                interval=seconds(10), timeout=seconds(5)
                            ),
                        )
                    )
                )
            )
        },
        circuit_breakers=cluster.CircuitBreakers(
            thresholds=[
                cluster.CircuitBreakersThresholds(max_requests=_MAX_REQUESTS, max_pending_requests=1024)
            ]
        ),
    )


def _endpoint(at: Address) -> endpoint.Endpoint:
    # The name is what TLS names to the server (RFC 6066, section 3), which does not allow IP addresses.
    return endpoint.Endpoint(address=address(at), hostname=at.host if at.is_host_name else "")


def _mutual_tls(service: UpstreamTls) -> core.TransportSocket:
    context = tls.UpstreamTlsContext(
        auto_host_sni=True,
        common_tls_context=tls.CommonTlsContext(
            tls_params=tls.TlsParameters(tls_minimum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_2),
            tls_certificates=[
                tls.TlsCertificate(
                    certificate_chain=data(service.certificate), private_key=data(service.private_key)
                )
            ],
            validation_context=tls.CertificateValidationContext(
                trusted_ca=data(service.ca),
                match_typed_subject_alt_names=[_server_name(name) for name in service.server_names],
            ),
            alpn_protocols=["h2"],
        ),
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def _server_name(name: str) -> tls.SubjectAltNameMatcher:
    kind = tls.SubjectAltNameMatcherSanType
    if "://" in name:
        san_type = kind.URI
    else:
        try:
            ipaddress.ip_address(name)
        except ValueError:
            san_type = kind.DNS
        else:
            san_type = kind.IP_ADDRESS
    return tls.SubjectAltNameMatcher(san_type=san_type, matcher=matcher.StringMatcher(exact=name))


def _ejection() -> cluster.OutlierDetection:
    """Leave a process out after the edge failed to reach it three times in a row.

    Never for its answers: to Envoy a gRPC status of UNAVAILABLE is a 503, so that one tenant's refusals would take the
    router from all others.
    """
    return cluster.OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=3,
        enforcing_consecutive_local_origin_failure=100,
        enforcing_local_origin_success_rate=0,
        enforcing_consecutive_gateway_failure=0,
        enforcing_consecutive_5xx=0,
        enforcing_success_rate=0,
        interval=seconds(0.5),
        base_ejection_time=seconds(1),
        max_ejection_time=seconds(10),
        max_ejection_percent=100,
    )
