"""An Envoy in front of the gateway: its bootstrap with listeners, edge hardening and routes, most specific first."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.config.proxies.plan import NotExportable, reached_at
from gateway.model.route import ProxyAction, Route, Segment
from gateway.model.settings import Address, Configuration, ServerSettings, ServerTls

# Routes of the gateway as Envoy's: one virtual host per `host`, the most specific first, as Envoy takes the first.
#
# Times: what answers with one document (aggregate, navigation, permissions, health) has the route's deadline and
# SLACK_S. What is proxied has no limit on the whole, because a download may take as long as it flows; silence ends
# it, after the longest that the gateway itself allows. The gateway's own times are shorter, so its answer comes
# first.

CLUSTER: Final = "gateway"
SLACK_S: Final = 1.0
_RETRY: Final = {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 1}
"""Only what never reached the gateway is tried again: everything else is the gateway's to know."""


def seconds(value: float) -> str:
    """Envoy's duration."""
    return f"{value:g}s"


def virtual_hosts(configuration: Configuration) -> list[dict[str, Any]]:
    """For every named host its own routes and then those for any host; then one for all other hosts."""
    routes = sorted(configuration.routes, key=_specificity)
    hosts = sorted({route.host for route in routes if route.host is not None})
    for_any = [route for route in routes if route.host is None]
    last = _catch_all(configuration.server.deadline_s)
    found = []
    for host in hosts:
        own = [route for route in routes if route.host == host]
        found.append(_virtual_host(host, [host, f"{host}:*"], [*own, *for_any], last))
    return [*found, _virtual_host("any", ["*"], for_any, last)]


def _virtual_host(name: str, domains: list[str], routes: Iterable[Route], last: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "domains": domains, "routes": [*map(_route, routes), last]}


def _route(route: Route) -> dict[str, Any]:
    methods = "|".join(map(re.escape, sorted(route.methods | ({"HEAD"} if "GET" in route.methods else set()))))
    method = {"name": ":method", "string_match": {"safe_regex": {"regex": methods}}}
    return {
        "name": route.id,
        "match": {**_path(route.segments), "headers": [method]},
        "route": {"cluster": CLUSTER, "retry_policy": _RETRY, **_times(route)},
    }


def _catch_all(deadline_s: float) -> dict[str, Any]:
    """No route, or not this method: the gateway says so."""
    action = {"cluster": CLUSTER, "timeout": seconds(deadline_s + SLACK_S)}
    return {"name": "unknown", "match": {"prefix": "/"}, "route": action}


def _times(route: Route) -> dict[str, str]:
    if not isinstance(route.action, ProxyAction):
        return {"timeout": seconds(route.deadline_s + SLACK_S)}
    silence_s = max(route.deadline_s, route.resilience.timeout.read_s, route.stream_idle_timeout_s)
    return {"timeout": "0s", "idle_timeout": seconds(silence_s + SLACK_S)}


def _path(segments: tuple[Segment, ...]) -> dict[str, Any]:
    """Literal prefixes as such; what has parameters as a regular expression (RE2: linear in the path)."""
    if segments and segments[-1].rest:
        fixed = segments[:-1]
        if not fixed:
            return {"prefix": "/"}
        if all(segment.literal is not None for segment in fixed):
            return {"path_separated_prefix": _literal(fixed)}
        return {"safe_regex": {"regex": f"{_pattern(fixed)}(/.*)?"}}
    return {"safe_regex": {"regex": f"{_pattern(segments)}/?"}}


def _literal(segments: tuple[Segment, ...]) -> str:
    return "".join(f"/{segment.literal}" for segment in segments)


def _pattern(segments: tuple[Segment, ...]) -> str:
    return "".join("/" + ("[^/]+" if segment.literal is None else re.escape(segment.literal)) for segment in segments)


def _specificity(route: Route) -> list[int]:
    """Literal before `{x}` before `*`, left to right; the end of a path before its `*`."""
    return [0 if segment.literal is not None else 2 if segment.rest else 1 for segment in route.segments] + [-1]


# The bootstrap of an Envoy in front of the gateway: listeners, edge hardening, the gateway as a cluster.
#
# Paths are neither normalised nor merged by Envoy: the bytes that were asked for are what the gateway decides on, and
# what is ambiguous it refuses. Limits follow `server`, where Envoy has the like. Idle connections to the gateway are
# closed by Envoy before the gateway does, so that no request meets one that is just being closed.

HTTP: Final = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
FILTERS: Final = "type.googleapis.com/envoy.extensions.filters.http"
SOCKETS: Final = "type.googleapis.com/envoy.extensions.transport_sockets"
OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
BUFFER: Final = 32 * 1024
WINDOWS: Final = {
    "max_concurrent_streams": 100,
    "initial_stream_window_size": 64 * 1024,
    "initial_connection_window_size": 1024 * 1024,
}
_EARLIER_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Places:
    """Where Envoy listens: for callers, and for its own operators (loopback)."""

    listen: Address
    admin: Address


def bootstrap(configuration: Configuration, places: Places) -> dict[str, Any]:
    """The whole bootstrap, JSON-ready. Raises NotExportable."""
    server = configuration.server
    if server.tls is not None and server.tls.client_ca_file is not None:
        raise NotExportable(
            "server.tls.client_ca_file: behind Envoy the gateway would ask Envoy for the certificate, not the caller"
        )
    listeners = [_tcp(configuration, places)]
    if server.tls is not None:
        listeners.append(_quic(configuration, places, server.tls))
    return {
        "admin": {"address": address(places.admin)},
        "static_resources": {"listeners": listeners, "clusters": [_cluster(server)]},
        "overload_manager": connections_limited(server),
    }


def connections_limited(server: ServerSettings) -> dict[str, Any]:
    """`overload_manager`: as many callers as the gateway itself would accept."""
    limit = {
        "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3"
        ".DownstreamConnectionsConfig",
        "max_active_downstream_connections": server.max_connections,
    }
    name = "envoy.resource_monitors.global_downstream_max_connections"
    return {"resource_monitors": [{"name": name, "typed_config": limit}]}


def warnings(configuration: Configuration) -> list[str]:
    """What else has to be so for the two to work together."""
    server = configuration.server
    envoy = reached_at(server.listen).host
    if not is_address(envoy) or any(ipaddress.ip_address(envoy) in network for network in server.trusted_proxies):
        return []
    return [f"server.trusted_proxies does not have Envoy's address ({envoy}): every caller will look like Envoy"]


def _tcp(configuration: Configuration, places: Places) -> dict[str, Any]:
    chain: dict[str, Any] = {"filters": [_manager(configuration, "AUTO", places)]}
    tls = configuration.server.tls
    if tls is not None:
        context = {"@type": f"{SOCKETS}.tls.v3.DownstreamTlsContext", **certificate(tls, ["h2", "http/1.1"])}
        chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": context}
    return {
        "name": "tcp",
        "address": address(places.listen),
        "per_connection_buffer_limit_bytes": BUFFER,
        "filter_chains": [chain],
    }


def _quic(configuration: Configuration, places: Places, tls: ServerTls) -> dict[str, Any]:
    """HTTP/3 (RFC 9114) on the same port."""
    context = {
        "@type": f"{SOCKETS}.quic.v3.QuicDownstreamTransport",
        "downstream_tls_context": certificate(tls, ["h3"]),
    }
    chain = {
        "filters": [_manager(configuration, "HTTP3", places)],
        "transport_socket": {"name": "envoy.transport_sockets.quic", "typed_config": context},
    }
    return {
        "name": "quic",
        "address": address(places.listen, "UDP"),
        "udp_listener_config": {"quic_options": {}},
        "filter_chains": [chain],
    }


def certificate(tls: ServerTls, protocols: list[str]) -> dict[str, Any]:
    """The part of a listener's TLS that TCP and QUIC share."""
    pair = {
        "certificate_chain": {"filename": str(tls.cert_file)},
        "private_key": {"filename": str(tls.key_file)},
    }
    return {
        "common_tls_context": {
            "alpn_protocols": protocols,
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificates": [pair],
        }
    }


def _manager(configuration: Configuration, codec: str, places: Places) -> dict[str, Any]:
    server = configuration.server
    manager: dict[str, Any] = {
        "@type": HTTP,
        "stat_prefix": "edge",
        "codec_type": codec,
        "use_remote_address": True,
        "normalize_path": False,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "server_header_transformation": "PASS_THROUGH",
        "forward_client_cert_details": "SANITIZE",
        "max_request_headers_kb": max(1, ceil(server.max_header_bytes / 1024)),
        "request_headers_timeout": seconds(server.header_timeout_s),
        "common_http_protocol_options": {
            "idle_timeout": seconds(server.idle_timeout_s),
            "max_headers_count": server.max_headers,
        },
        "http2_protocol_options": {**WINDOWS, "allow_connect": True},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "local_reply_config": {"body_format": PROBLEM},
        "route_config": {"name": "gateway", "virtual_hosts": virtual_hosts(configuration)},
        "http_filters": [
            _grpc_bridge(),
            {"name": "envoy.filters.http.router", "typed_config": _typed("router.v3.Router")},
        ],
    }
    if codec == "HTTP3":
        manager["http3_protocol_options"] = {"allow_extended_connect": True}
    if server.tls is not None:
        offer = {"key": "alt-svc", "value": f'h3=":{places.listen.port}"; ma=86400'}
        manager["route_config"]["response_headers_to_add"] = [{"header": offer}]
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


PROBLEM: Final = {
    "content_type": "application/problem+json",
    "json_format": {"type": "about:blank", "title": "%LOCAL_REPLY_BODY%", "status": "%RESPONSE_CODE%"},
}
"""What Envoy answers by itself looks like what the gateway answers (RFC 9457)."""


def _typed(name: str) -> dict[str, Any]:
    return {"@type": f"{FILTERS}.{name}"}


def _grpc_bridge() -> dict[str, Any]:
    """Unary gRPC as a POST of its protobuf message, for upstreams that answer `application/x-protobuf` by HTTP/1.1."""
    return {
        "name": "envoy.filters.http.grpc_http1_reverse_bridge",
        "typed_config": {
            **_typed("grpc_http1_reverse_bridge.v3.FilterConfig"),
            "content_type": "application/x-protobuf",
            "withhold_grpc_frames": True,
        },
    }


def _cluster(server: ServerSettings) -> dict[str, Any]:
    target, admin = reached_at(server.listen), reached_at(server.admin)
    idle_s = max(server.idle_timeout_s - _EARLIER_S, server.idle_timeout_s / 2)
    options = {
        "@type": f"type.googleapis.com/{OPTIONS}",
        "common_http_protocol_options": {"idle_timeout": seconds(idle_s)},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    endpoint = {
        "address": address(target),
        "health_check_config": {"address": address(admin)},
    }
    thresholds = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), server.max_connections)
    cluster: dict[str, Any] = {
        "name": CLUSTER,
        "type": "STATIC" if is_address(target.host) and is_address(admin.host) else "STRICT_DNS",
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": BUFFER,
        "typed_extension_protocol_options": {OPTIONS: options},
        "circuit_breakers": {"thresholds": [thresholds]},
        "health_checks": [ready(tls=server.tls is not None)],
        "load_assignment": {"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }
    if server.tls is not None:
        cluster["transport_socket"] = _tls_to_the_gateway(server.tls)
        raw = {"@type": f"{SOCKETS}.raw_buffer.v3.RawBuffer"}
        socket = {"name": "envoy.transport_sockets.raw_buffer", "typed_config": raw}
        cluster["transport_socket_matches"] = [{"name": "plain", "match": _PLAIN, "transport_socket": socket}]
    return cluster


_PLAIN: Final = {"plain": True}


def ready(*, tls: bool) -> dict[str, Any]:
    """`/readyz` of the admin listener, which does without its token and never speaks TLS."""
    check: dict[str, Any] = {
        "timeout": "1s",
        "interval": "2s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/readyz"},
    }
    return {**check, "transport_socket_match_criteria": _PLAIN} if tls else check


def _tls_to_the_gateway(tls: ServerTls) -> dict[str, Any]:
    """The gateway's key is known here, so it is pinned: a renewed certificate with the same key goes on working."""
    certificate = x509.load_pem_x509_certificate(tls.cert_file.read_bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = base64.b64encode(hashlib.sha256(key).digest()).decode()
    validation = {"trust_chain_verification": "ACCEPT_UNTRUSTED", "verify_certificate_spki": [pin]}
    context = {
        "@type": f"{SOCKETS}.tls.v3.UpstreamTlsContext",
        "common_tls_context": {"validation_context": validation},
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def is_address(host: str) -> bool:
    """Whether it is an IP address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def address(place: Address, protocol: str = "TCP") -> dict[str, Any]:
    """An `Address` of Envoy's."""
    return {"socket_address": {"protocol": protocol, "address": place.host, "port_value": place.port}}
