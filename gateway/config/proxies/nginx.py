"""nginx: `auth_request`, a location for every route, the gateway's refusals by `error_page`.

nginx chooses the location by the decoded path and forwards the bytes as they came. So each location says in
`X-Gateway-Route` by which route it would forward, and the gateway refuses where it decided on another one. nginx can
overwrite fields by name only; the gateway refuses the other spellings (`X-Gateway-Spoofed`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from gateway.config.proxies.plan import GATEWAY, NO_ROUTE, Destination, Plan, Way, shown, trusted_bundle
from gateway.errors import KINDS
from gateway.model.settings import ServerTls

_ASK: Final = "/-/gateway/decision"
_OVERWRITTEN: Final = (
    *("X-Auth-User", "X-Auth-Email", "X-Auth-Groups", "X-Authenticated-User", "X-User", "X-User-Id", "Remote-User"),
    *("X-Remote-User", "Forwarded", "X-Real-IP", "Proxy", "X-Forwarded-Port", "X-Forwarded-Server"),
    *("X-Forwarded-User", "X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method", "X-HTTP-Method-Override"),
    *("X-Method-Override", "traceparent", "tracestate", "baggage"),
)
_ANSWERED: Final = ("retry-after", "www-authenticate", "allow", "proxy-status", "cache-control")
_OWN_REMARKS: Final = (
    "Names of upstreams are looked up once, when nginx starts.",
    "nginx sends a caller's other X-Auth-*, X-Gateway-*, X-User* … fields on, so the gateway refuses them with 400.",
    "Fields with `_` or `.` in their names are dropped by nginx.",
    "A path in which %2F must not separate segments is 400 where nginx reads it as another route.",
    "server.max_concurrency, max_streams and min_body_rate are not limited here.",
)


def nginx_conf(plan: Plan) -> str:
    """A complete nginx.conf."""
    return "\n".join([*_head(plan), *_http(plan), "}", ""])


def _head(plan: Plan) -> Iterator[str]:
    yield "# nginx in front of the decision listener of the gateway. What it cannot carry:"
    for remark in (*plan.remarks, *_OWN_REMARKS):
        yield f"#   {remark}"
    yield from ("worker_processes auto;", "events { worker_connections 4096; }", "http {")


def _http(plan: Plan) -> Iterator[str]:
    server = plan.configuration.server
    kilobytes = max(1, -(-server.max_header_bytes // 1024))
    yield from (
        "  access_log off;  # the gateway logs each decision; a query may hold a token",
        "  server_tokens off;",
        "  merge_slashes off;",
        "  underscores_in_headers off;",
        "  ignore_invalid_headers on;",
        f"  large_client_header_buffers 4 {kilobytes}k;",
        f"  client_header_timeout {_seconds(server.header_timeout_s)};",
        f"  keepalive_timeout {_seconds(server.idle_timeout_s)};",
        "  proxy_http_version 1.1;",
        "  proxy_request_buffering off;",
        "  proxy_buffering off;",
        "  proxy_next_upstream off;",
        '  map $http_upgrade $gateway_upgrade { default ""; "~*^websocket$" websocket; }',
        '  map $http_upgrade $gateway_connection { default ""; "~*^websocket$" upgrade; }',
        "  # The host that chose the server, with its port; empty where target and Host disagree.",
        '  map "$host|$http_host" $gateway_asked_host {',
        '    default ""; "~^[^|]*\\|$" $host; "~*^([^|]+)\\|\\1\\.?(:[0-9]*)?$" $http_host;',
        "  }",
        '  map $gateway_problem $gateway_wait { "" 1; default $gateway_retry_after; }',
        "  # nginx itself passes on the challenge of a 401.",
        '  map $gateway_status $gateway_challenge { default ""; "~403$" $gateway_www_authenticate; }',
    )
    for count in sorted({way.strip for way in plan.ways if way.strip}):
        skipped = f"(?:/[^/?]*){{{count}}}"
        yield f"  map $request_uri $gateway_rest_{count} {{"
        yield f'    default "/"; "~^{skipped}(/.*)$" $1; "~^{skipped}(\\?.*)$" "/$1";'
        yield "  }"
    yield f"  upstream decisions {{ server {plan.decisions}; keepalive 64; {_kept(plan)} }}"
    for destination in plan.destinations:
        servers = " ".join(f"server {origin};" for origin in destination.origins)
        balanced = "least_conn; " if len(destination.origins) > 1 else ""
        kept = f" {_kept(plan)}" if destination.name == GATEWAY else ""
        yield f"  upstream {destination.name} {{ {balanced}{servers} keepalive 64;{kept} }}"
    for host in plan.hosts:
        yield from _server(plan, host)
    yield from _server(plan, None)


def _kept(plan: Plan) -> str:
    return f"keepalive_timeout {_seconds(plan.kept_idle_s)};"


def _server(plan: Plan, host: str | None) -> Iterator[str]:
    tls = plan.configuration.server.tls
    yield "  server {"
    yield f"    listen {plan.listen}{' ssl' if tls else ''}{'' if host else ' default_server'};"
    yield f"    server_name {host or '_'};"
    if tls is not None:
        yield from _certificate(tls)
    yield from ('    if ($gateway_asked_host = "") { return 400; }',)
    yield from _decided(plan)
    yield from _sent_on(plan)
    yield from _decision(plan)
    yield from _refusals()
    for way in plan.ways:
        if way.route.host in (None, host):
            yield from _location(way)
    yield from ("    # No route: asked all the same, so that the gateway says so.", "    location / {")
    yield from _aimed(NO_ROUTE, None, "")
    yield from (*_asked(), f"      proxy_pass {_scheme(plan.gateway)}://{GATEWAY}$request_uri;")
    yield from (*_tls(plan.gateway), "    }", "  }")


def _certificate(tls: ServerTls) -> Iterator[str]:
    yield f"    ssl_certificate {_quoted(str(tls.cert_file))};"
    yield f"    ssl_certificate_key {_quoted(str(tls.key_file))};"
    yield "    ssl_protocols TLSv1.2 TLSv1.3;"


def _decided(plan: Plan) -> Iterator[str]:
    yield "    auth_request_set $gateway_status $upstream_status;"
    yield "    auth_request_set $gateway_problem $upstream_http_x_gateway_problem;"
    for name in (*_ANSWERED, *plan.told):
        yield f"    auth_request_set {_variable(name)} $upstream_http_{name.replace('-', '_')};"


def _sent_on(plan: Plan) -> Iterator[str]:
    """What the forwarded request says, for all locations. An empty value takes the field off."""
    for name, value in (
        ("Host", "$gateway_host"),
        ("Connection", "$gateway_connection"),
        ("Upgrade", "$gateway_upgrade"),
        *_of_the_caller(),
        ("X-Forwarded-Prefix", "$gateway_prefix"),
        *((shown(name), _variable(name)) for name in plan.told),
        *_taken_off(plan),
        ("X-Original-Method", '""'),
        ("X-Original-URI", '""'),
        ("X-Forwarded-Method", '""'),
        ("X-Forwarded-Uri", '""'),
        ("X-Gateway-Spoofed", '""'),
        ("X-Gateway-Problem", '""'),
    ):
        yield f"    proxy_set_header {name} {value};"


def _of_the_caller() -> tuple[tuple[str, str], ...]:
    return (
        ("X-Forwarded-For", "$remote_addr"),
        ("X-Forwarded-Host", "$gateway_asked_host"),
        ("X-Forwarded-Proto", "$scheme"),
        ("X-Request-ID", "$request_id"),
    )


def _taken_off(plan: Plan) -> Iterator[tuple[str, str]]:
    mine = {"X-Original-Method", "X-Original-URI", *map(shown, plan.told)}
    more = (name.decode("ascii") for name in plan.configuration.server.strip_request_headers)
    named = [name for name in more if not name.endswith("*")]
    for name in dict.fromkeys((*_OVERWRITTEN, *map(shown, sorted(named)))):
        if name not in mine:
            yield name, '""'


def _decision(plan: Plan) -> Iterator[str]:
    yield f"    location = {_ASK} {{"
    yield "      internal;"
    yield "      proxy_pass http://decisions/nginx;"
    yield "      proxy_method GET;"
    yield "      proxy_pass_request_body off;"
    yield "      proxy_buffering on;"
    yield "      proxy_buffer_size 32k;"
    yield "      proxy_buffers 4 32k;"
    yield "      proxy_connect_timeout 1s;"
    yield f"      proxy_read_timeout {_seconds(plan.decision_timeout_s)};"
    yield "      # A decision changes nothing, so one that broke off is asked for again, of another gateway."
    yield "      proxy_next_upstream error timeout;"
    yield "      proxy_next_upstream_tries 2;"
    yield f"      proxy_next_upstream_timeout {_seconds(plan.decision_timeout_s)};"
    for name, value in (
        ("Host", "$proxy_host"),
        ("Connection", '""'),
        ("Content-Length", '""'),
        ("Upgrade", "$gateway_upgrade"),
        *_of_the_caller(),
        ("X-Original-Method", "$request_method"),
        ("X-Original-URI", "$request_uri"),
        ("X-Gateway-Route", "$gateway_expects"),
        ("X-Gateway-Spoofed", "refuse"),
        ("X-Gateway-Problem", '""'),
        ("X-Forwarded-Prefix", '""'),
        ("X-Forwarded-Method", '""'),
        ("X-Forwarded-Uri", '""'),
        *((shown(name), '""') for name in plan.told if name != "x-gateway-route"),
        *_taken_off(plan),
    ):
        yield f"      proxy_set_header {name} {value};"
    yield "    }"


def _refusals() -> Iterator[str]:
    """What `auth_request` would turn into 403 or 500 becomes what the gateway said."""
    yield from ("    location @gateway_refused {", "      default_type application/problem+json;")
    yield "      add_header Retry-After $gateway_wait always;"
    yield "      add_header WWW-Authenticate $gateway_challenge always;"
    for name in _ANSWERED[2:]:
        yield f"      add_header {shown(name)} {_variable(name)} always;"
    yield "      add_header X-Request-ID $request_id always;"
    yield f"      if ($gateway_status = 200) {{ return 500 {_problem('internal_error')}; }}"
    yield f'      if ($gateway_problem = "") {{ return 503 {_problem("iam_unreachable", 1)}; }}'
    for status in sorted({kind.status for kind in KINDS.values()} - {503}):
        yield f'      if ($gateway_status ~ "{status}$") {{ return {status} $gateway_problem; }}'
    yield from ("      return 503 $gateway_problem;", "    }")
    for status, code in ((502, "upstream_unreachable"), (504, "upstream_timeout")):
        yield f"    location @gateway_{code} {{"
        yield "      default_type application/problem+json;"
        yield "      add_header Cache-Control no-store always;"
        yield "      add_header X-Request-ID $request_id always;"
        yield f"      return {status} {_problem(code)};"
        yield "    }"


def _problem(code: str, retry_after: int | None = None) -> str:
    kind = KINDS[code]
    document = {"type": f"urn:gateway:problem:{code}", "title": kind.title, "status": kind.status, "code": code}
    if retry_after is not None:
        document["detail"] = "Access could not be checked, so nothing was forwarded. Try again in a second."
        document["retry_after"] = retry_after
    return f"'{json.dumps({**document, 'request_id': '$request_id'})}'"


def _aimed(route: str, authority: str | None, prefix: str) -> Iterator[str]:
    """In each location, because a server's own `set` is done again for the question."""
    yield f"      set $gateway_expects {route};"
    yield f"      set $gateway_host {authority or '$gateway_asked_host'};"
    yield f"      set $gateway_prefix {_quoted(prefix)};"


def _asked() -> Iterator[str]:
    yield f"      auth_request {_ASK};"
    yield "      error_page 401 403 500 = @gateway_refused;"
    yield "      error_page 502 = @gateway_upstream_unreachable;"
    yield "      error_page 504 = @gateway_upstream_timeout;"
    yield "      add_header X-Request-ID $request_id always;"
    yield "      add_header X-Gateway-Degraded $gateway_x_gateway_degraded always;"


def _location(way: Way) -> Iterator[str]:
    there = way.destination
    yield f'    location ~ "{way.pattern}" {{'
    yield from _aimed(way.route.id, way.authority, way.prefix)
    if way.asked:
        yield from _asked()
    yield f"      client_max_body_size {way.route.max_body};"
    yield f"      proxy_read_timeout {_seconds(way.silence_s)};"
    rest = f"$gateway_rest_{way.strip}" if way.strip else "$request_uri"
    yield f"      proxy_pass {_scheme(there)}://{there.name}{rest};"
    yield from _tls(there)
    yield "    }"


def _scheme(destination: Destination) -> str:
    return "http" if destination.tls is None else "https"


def _tls(destination: Destination) -> Iterator[str]:
    tls = destination.tls
    if tls is None:
        return
    name = tls.server_name or destination.origins[0].host
    yield from ("      proxy_ssl_server_name on;", f"      proxy_ssl_name {name};")
    if tls.verify:
        yield from ("      proxy_ssl_verify on;", "      proxy_ssl_verify_depth 5;")
        yield f"      proxy_ssl_trusted_certificate {_quoted(trusted_bundle(tls))};"
    if tls.cert_file is not None:
        yield f"      proxy_ssl_certificate {_quoted(str(tls.cert_file))};"
        yield f"      proxy_ssl_certificate_key {_quoted(str(tls.key_file))};"


def _variable(name: str) -> str:
    return "$gateway_" + name.replace("-", "_")


def _quoted(text: str) -> str:
    if '"' in text or "$" in text or "\\" in text:
        raise ValueError(text)
    return f'"{text}"'


def _seconds(value: float) -> str:
    return f"{max(1, round(value * 1000))}ms"
