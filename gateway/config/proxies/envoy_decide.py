"""The bootstrap of an Envoy that asks the decision listener by HTTP `ext_authz` and forwards by itself.

The decision names the route (`X-Gateway-Route`), and Envoy looks its routes up anew: path and host matter only for what
goes to the gateway undecided. Fields that only a gateway may set are taken off before anything reads them.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.config.proxies.envoy import (
    BUFFER,
    FILTERS,
    HTTP,
    OPTIONS,
    PROBLEM,
    SOCKETS,
    WINDOWS,
    Places,
    address,
    certificate,
    connections_limited,
    is_address,
    ready,
    seconds,
)
from gateway.config.proxies.plan import (
    Destination,
    Plan,
    Way,
    exactly,
    field_pattern,
    names,
    prefixes,
    reached_at,
    trusted_bundle,
)
from gateway.errors import KINDS
from gateway.model.settings import ClientTls, ServerTls
from gateway.problem import FAILURES_FIELD, MOVED, moved_failure

_EARLY: Final = "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
_OTHER_HOST: Final = "envoy.retry_host_predicates.previous_hosts"
_PREVIOUS_HOSTS: Final = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
_DECISIONS: Final = "decisions"
_AUTHZ: Final = "envoy.filters.http.ext_authz"
_ROUTE: Final = "x-gateway-route"
_ANSWERED: Final = (
    *("www-authenticate", "retry-after", "proxy-status", "cache-control", "allow", "x-request-id", "content-type"),
    *("content-security-policy", "x-content-type-options", "referrer-policy", "vary"),
)
"""Of a refusal. The second row is what an `error_page` has."""
_NEVER_ASKED_WITH: Final = ("content-length", "transfer-encoding", "expect", "te", "trailer", "connection")
_PATTERNS: Final = {"re2.max_program_size.error_level": 100_000, "re2.max_program_size.warn_level": 100_000}
"""Envoy's own limit (100) is for patterns of strangers; a path of some segments is longer."""
_SERVER_ERROR: Final = 500
_OWN_REMARKS: Final = (
    "A gateway that does not answer is 503 here, with `Retry-After: 1` and the code iam_unreachable.",
    "Envoy counts the gateway's 503 under `ext_authz.denied`. The gateway's own metrics tell the two apart.",
    "A field with `_` in its name is 400, by Envoy.",
    "max_body, timeout.read, server.max_concurrency, max_streams and min_body_rate are not limited here.",
)


def deciding(plan: Plan, places: Places) -> dict[str, Any]:
    """The whole bootstrap, JSON-ready. JSON has no comments: what Envoy cannot carry is in `node.metadata`."""
    clusters = [_decisions(plan), *(_cluster(destination) for destination in plan.destinations)]
    return {
        "node": {"metadata": {"comments": [*plan.remarks, *_OWN_REMARKS]}},
        "admin": {"address": address(places.admin)},
        "static_resources": {"listeners": [_listener(plan, places)], "clusters": clusters},
        "overload_manager": connections_limited(plan.configuration.server),
        "layered_runtime": {"layers": [{"name": "patterns", "static_layer": _PATTERNS}]},
    }


def _listener(plan: Plan, places: Places) -> dict[str, Any]:
    chain: dict[str, Any] = {"filters": [_manager(plan)]}
    tls = plan.configuration.server.tls
    if tls is not None:
        chain["transport_socket"] = _downstream(tls)
    return {
        "name": "tcp",
        "address": address(places.listen),
        "per_connection_buffer_limit_bytes": BUFFER,
        "filter_chains": [chain],
    }


def _downstream(tls: ServerTls) -> dict[str, Any]:
    context = {"@type": f"{SOCKETS}.tls.v3.DownstreamTlsContext", **certificate(tls, ["h2", "http/1.1"])}
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _manager(plan: Plan) -> dict[str, Any]:
    server = plan.configuration.server
    manager = {
        "@type": HTTP,
        "stat_prefix": "edge",
        "use_remote_address": True,
        "normalize_path": False,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "strip_trailing_host_dot": True,
        "server_header_transformation": "PASS_THROUGH",
        "forward_client_cert_details": "SANITIZE",
        "max_request_headers_kb": max(1, -(-server.max_header_bytes // 1024)),
        "request_headers_timeout": seconds(server.header_timeout_s),
        "common_http_protocol_options": {
            "idle_timeout": seconds(server.idle_timeout_s),
            "max_headers_count": server.max_headers,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {**WINDOWS, "allow_connect": True},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "early_header_mutation_extensions": [_cleaned(plan)],
        "local_reply_config": _local_replies(),
        "route_config": {
            "name": "decided",
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": _routes(plan)}],
        },
        "http_filters": [
            {"name": _AUTHZ, "typed_config": _asking(plan)},
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{FILTERS}.router.v3.Router"}},
        ],
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def _cleaned(plan: Plan) -> dict[str, Any]:
    """Before the route is chosen and before Envoy adds its own fields."""
    server = plan.configuration.server
    pattern = field_pattern([*prefixes(server), "x-envoy-"], names(server))
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": _EARLY,
            "mutations": [{"remove_on_match": {"key_matcher": {"safe_regex": {"regex": pattern}}}}],
        },
    }


def _asking(plan: Plan) -> dict[str, Any]:
    told = [{"exact": name} for name in (*plan.told, "x-request-id")]
    return {
        "@type": f"{FILTERS}.ext_authz.v3.ExtAuthz",
        "failure_mode_allow": False,
        "status_on_error": {"code": "ServiceUnavailable"},
        "clear_route_cache": True,
        "allowed_headers": {"patterns": [{"safe_regex": {"regex": ".*"}}]},
        "disallowed_headers": {"patterns": [{"exact": name} for name in _NEVER_ASKED_WITH]},
        "http_service": {
            "server_uri": {
                "uri": f"http://{plan.decisions}",
                "cluster": _DECISIONS,
                "timeout": seconds(plan.decision_timeout_s),
            },
            "path_prefix": "/envoy",
            "authorization_request": {"headers_to_add": [{"key": FAILURES_FIELD, "value": MOVED}]},
            "authorization_response": {
                "allowed_upstream_headers": {"patterns": told},
                "allowed_client_headers": {"patterns": [{"exact": name} for name in _ANSWERED]},
                "allowed_client_headers_on_success": {
                    "patterns": [{"exact": "x-gateway-degraded"}, {"exact": "x-request-id"}]
                },
            },
            # A decision changes nothing, so one that broke off is asked for again, of another gateway if there is one.
            "retry_policy": {
                "retry_on": "connect-failure,refused-stream,reset",
                "num_retries": 2,
                # Envoy takes `max_interval` for the time limit of one attempt, too.
                "retry_back_off": {"base_interval": "0.005s", "max_interval": seconds(plan.decision_timeout_s)},
                "retry_host_predicate": [{"name": _OTHER_HOST, "typed_config": {"@type": _PREVIOUS_HOSTS}}],
                "host_selection_retry_max_attempts": 5,
            },
        },
    }


def _local_replies() -> dict[str, Any]:
    """A refusal of the gateway stays as it is; where Envoy has no decision, and where it answers itself, it says so.

    Envoy replaces a 5xx of the decision listener by a 503 of its own, without fields and body. So 5xx come as 47x.
    """
    flagged = {"response_flag_filter": {"flags": ["UAEX"]}}
    undecided = {
        "filter": {"and_filter": {"filters": [flagged, _status_is(503)]}},
        "headers_to_add": [
            {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for name, value in _ALONGSIDE
        ],
        "body_format_override": {"content_type": "application/problem+json", "json_format": _UNDECIDED},
    }
    as_it_came = {
        "content_type": "application/problem+json",
        "text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"},
    }
    failed = [
        {
            "filter": {"and_filter": {"filters": [flagged, _status_is(moved_failure(status))]}},
            "status_code": status,
            "body_format_override": as_it_came,
        }
        for status in sorted({kind.status for kind in KINDS.values() if kind.status >= _SERVER_ERROR})
    ]
    refused = {"filter": flagged, "body_format_override": as_it_came}
    return {"mappers": [*failed, undecided, refused], "body_format": PROBLEM}


_ALONGSIDE: Final = (
    ("retry-after", "1"),
    ("cache-control", "no-store"),
    ("x-request-id", "%REQ(X-REQUEST-ID)%"),
)
_UNDECIDED: Final = {
    "type": "urn:gateway:problem:iam_unreachable",
    "title": "Authorization service unavailable",
    "status": 503,
    "code": "iam_unreachable",
    "detail": "Access could not be checked, so nothing was forwarded. Try again in a second.",
    "retry_after": 1,
    "request_id": "%REQ(X-REQUEST-ID)%",
}


def _status_is(status: int) -> dict[str, Any]:
    value = {"default_value": status, "runtime_key": f"decided.status_{status}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _routes(plan: Plan) -> list[dict[str, Any]]:
    """First by what was decided; then, for the first look, what needs no decision; then nothing."""
    last = max((number + 1 for number, way in enumerate(plan.ways) if not way.asked), default=0)
    return [
        *(_decided(way) for way in plan.ways),
        *(_undecided(way) for way in plan.ways[:last]),
        {"name": "ask", "match": {"prefix": "/"}, **_NOWHERE},
    ]


_NOWHERE: Final = {"direct_response": {"status": 503}}
"""`ext_authz` comes first. What is permitted for a route that this Envoy does not know ends here."""


def _decided(way: Way) -> dict[str, Any]:
    named = {"name": _ROUTE, "string_match": {"exact": way.route.id}}
    return {"name": way.route.id, "match": {"prefix": "/", "headers": [named]}, **_forwarded(way)}


def _undecided(way: Way) -> dict[str, Any]:
    match: dict[str, Any] = {"safe_regex": {"regex": way.pattern}}
    if way.route.host is not None:
        host = f"(?i){exactly(way.route.host)}(:[0-9]*)?"
        match["headers"] = [{"name": ":authority", "string_match": {"safe_regex": {"regex": host}}}]
    if way.asked:
        return {"name": f"ask-{way.route.id}", "match": match, **_NOWHERE}
    disabled = {"@type": f"{FILTERS}.ext_authz.v3.ExtAuthzPerRoute", "disabled": True}
    return {
        "name": f"gateway-{way.route.id}",
        "match": match,
        **_forwarded(way),
        "typed_per_filter_config": {_AUTHZ: disabled},
    }


def _forwarded(way: Way) -> dict[str, Any]:
    action: dict[str, Any] = {
        "cluster": way.destination.name,
        "timeout": "0s",
        "idle_timeout": seconds(way.silence_s),
    }
    if way.authority is not None:
        action["host_rewrite_literal"] = way.authority
    found: dict[str, Any] = {"route": action}
    if way.strip:
        pattern = {"regex": f"^(/[^/]*){{{way.strip}}}/?"}
        action["regex_rewrite"] = {"pattern": pattern, "substitution": "/"}
        found["request_headers_to_add"] = [{"header": {"key": "x-forwarded-prefix", "value": way.prefix}}]
    return found


def _decisions(plan: Plan) -> dict[str, Any]:
    """More gateways are more `lb_endpoints` here, or a name with several addresses."""
    admin = reached_at(plan.configuration.server.admin)
    options = {
        "@type": f"type.googleapis.com/{OPTIONS}",
        "common_http_protocol_options": {"idle_timeout": seconds(plan.kept_idle_s)},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    endpoint = {"address": address(plan.decisions), "health_check_config": {"address": address(admin)}}
    return {
        **_common(_DECISIONS, static=is_address(plan.decisions.host) and is_address(admin.host), limit=10_000),
        "typed_extension_protocol_options": {OPTIONS: options},
        "health_checks": [ready(tls=False)],
        "load_assignment": {"cluster_name": _DECISIONS, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }


def _cluster(destination: Destination) -> dict[str, Any]:
    static = all(is_address(origin.host) for origin in destination.origins)
    endpoints = [{"endpoint": {"address": address(origin)}} for origin in destination.origins]
    cluster = {
        **_common(destination.name, static=static, limit=destination.max_connections),
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": destination.name, "endpoints": [{"lb_endpoints": endpoints}]},
    }
    if destination.tls is not None:
        cluster["transport_socket"] = _upstream_tls(destination.tls, destination.origins[0].host)
    return cluster


def _common(name: str, *, static: bool, limit: int) -> dict[str, Any]:
    limited = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    thresholds = dict.fromkeys(limited, max(limit, 1024))
    return {
        "name": name,
        "type": "STATIC" if static else "STRICT_DNS",
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": BUFFER,
        "circuit_breakers": {"thresholds": [thresholds]},
    }


def _upstream_tls(tls: ClientTls, host: str) -> dict[str, Any]:
    name = tls.server_name or host
    context: dict[str, Any] = {} if is_address(name) else {"sni": name}
    common: dict[str, Any] = {}
    if tls.verify:
        kind = "IP_ADDRESS" if is_address(name) else "DNS"
        alternatives = [{"san_type": kind, "matcher": {"exact": name}}]
        trusted = {"filename": trusted_bundle(tls)}
        validation = {"trusted_ca": trusted, "match_typed_subject_alt_names": alternatives}
        common["validation_context"] = validation
    if tls.cert_file is not None:
        pair = {"certificate_chain": {"filename": str(tls.cert_file)}, "private_key": {"filename": str(tls.key_file)}}
        common["tls_certificates"] = [pair]
    if common:
        context["common_tls_context"] = common
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {"@type": f"{SOCKETS}.tls.v3.UpstreamTlsContext", **context},
    }
