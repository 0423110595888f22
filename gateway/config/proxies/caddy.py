"""Caddy: `forward_auth`, then the route that the decision names in `X-Gateway-Route`.

Caddy reads matchers when a request comes to them, so a route is chosen by what the gateway decided, and path and host
matter only for what goes to the gateway undecided.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.config.proxies.plan import Destination, Plan, Way, names, prefixes, shown, spellings
from gateway.model.settings import Address

_OWN_REMARKS: Final = (
    'Caddy writes some characters of a target anew ({ } | " `): what is decided is what it sends.',
    "timeout.read, stream_idle_timeout, server.max_concurrency, max_streams and min_body_rate are not limited here.",
)
_UNDECIDED: Final = (
    '{"type": "urn:gateway:problem:iam_unreachable", "title": "Authorization service unavailable", "status": 503, '
    '"code": "iam_unreachable", "detail": "Access could not be checked, so nothing was forwarded. Try again in a '
    'second.", "retry_after": 1}'
)
_UNREACHABLE: Final = (
    '{"type": "urn:gateway:problem:upstream_unreachable", "title": "Upstream unreachable", "status": 502, '
    '"code": "upstream_unreachable", "detail": "The upstream could not be reached."}'
)


def caddyfile(plan: Plan) -> str:
    """A complete Caddyfile."""
    lines = ["# Caddy in front of the decision listener of the gateway. What it cannot carry:"]
    lines += [f"#   {remark}" for remark in (*plan.remarks, *_OWN_REMARKS)]
    return "\n".join([*lines, *_options(plan), *_site(plan), ""])


def _options(plan: Plan) -> Iterator[str]:
    server = plan.configuration.server
    yield from ("{", "\tadmin off", "\tauto_https off", "\tpersist_config off", "\tservers {", "\t\tprotocols h1 h2")
    yield f"\t\tmax_header_size {server.max_header_bytes}"
    yield from ("\t\ttimeouts {", f"\t\t\tread_header {server.header_timeout_s:g}s")
    yield from (f"\t\t\tidle {server.idle_timeout_s:g}s", "\t\t}", "\t}", "}")


def _site(plan: Plan) -> Iterator[str]:
    tls = plan.configuration.server.tls
    yield f"{'http' if tls is None else 'https'}://:{plan.listen.port} {{"
    yield f"\tbind {_bound(plan.listen)}"
    if tls is not None:
        yield f"\ttls {_quoted(str(tls.cert_file))} {_quoted(str(tls.key_file))}"
    yield "\troute {"
    yield from _cleaned(plan)
    for number, way in enumerate(plan.ways[: _last_undecided(plan)]):
        yield from _matched(number, way)
        yield from _to_the_gateway(number, plan) if not way.asked else _marked_for_decision(number)
    yield from ("\t\thandle {", "\t\t\troute {", *_decision(plan))
    for number, way in enumerate(plan.ways):
        yield from _decided(number, way)
    yield from ("\t\t\trespond 503", "\t\t\t}", "\t\t}", "\t}", *_errors(), "}")


def _cleaned(plan: Plan) -> Iterator[str]:
    server = plan.configuration.server
    for start in prefixes(server):
        yield from (f"\t\trequest_header -{shown(each)}*" for each in spellings(start))
    for name in names(server):
        yield from (f"\t\trequest_header -{shown(each)}" for each in spellings(name))
    yield from (
        "\t\t# What Connection names would be taken off after the decision.",
        "\t\t@handshake header_regexp Upgrade (?i)^websocket$",
        "\t\t@other not header_regexp Upgrade (?i)^websocket$",
        "\t\trequest_header @handshake Connection Upgrade",
        "\t\trequest_header @other -Connection",
        "\t\trequest_header @other -Upgrade",
    )


def _last_undecided(plan: Plan) -> int:
    """Routes up to the last one that goes to the gateway undecided have to be told apart beforehand."""
    return max((number + 1 for number, way in enumerate(plan.ways) if not way.asked), default=0)


def _matched(number: int, way: Way) -> Iterator[str]:
    yield f"\t\t# {way.route.id}"
    yield f"\t\t@path{number} {{"
    yield "\t\t\tnot header X-Gateway-Asked *"
    if way.route.host is not None:
        yield f"\t\t\thost {way.route.host}"
    yield f"\t\t\tpath_regexp {_quoted(way.pattern)}"
    yield "\t\t}"


def _marked_for_decision(number: int) -> Iterator[str]:
    yield f"\t\trequest_header @path{number} X-Gateway-Asked yes"


def _to_the_gateway(number: int, plan: Plan) -> Iterator[str]:
    yield f"\t\thandle @path{number} {{"
    yield from _proxied(plan.gateway, None, "\t\t\t")
    yield "\t\t}"


def _decision(plan: Plan) -> Iterator[str]:
    yield from (
        "\t\t\trequest_header -X-Gateway-Asked",
        f"\t\t\tforward_auth {plan.decisions} {{",
        "\t\t\t\turi /caddy",
    )
    yield f"\t\t\t\tcopy_headers {' '.join(map(shown, (*plan.told, 'x-request-id')))}"
    yield "\t\t\t\t# A decision changes nothing, so one that broke off is asked for again."
    yield "\t\t\t\tlb_retries 2"
    yield "\t\t\t\ttransport http {"
    yield "\t\t\t\t\tdial_timeout 1s"
    yield f"\t\t\t\t\tresponse_header_timeout {plan.decision_timeout_s:g}s"
    yield f"\t\t\t\t\tkeepalive {plan.kept_idle_s:g}s"
    yield from ("\t\t\t\t\tkeepalive_idle_conns_per_host 64", "\t\t\t\t}", "\t\t\t}")
    yield from (
        "\t\t\t@degraded header X-Gateway-Degraded *",
        "\t\t\theader @degraded X-Gateway-Degraded {header.X-Gateway-Degraded}",
        "\t\t\theader X-Request-ID {header.X-Request-ID}",
    )


def _decided(number: int, way: Way) -> Iterator[str]:
    yield f"\t\t\t@route{number} header X-Gateway-Route {way.route.id}"
    yield f"\t\t\thandle @route{number} {{"
    if way.asked and way.route.max_body:
        yield from ("\t\t\t\trequest_body {", f"\t\t\t\t\tmax_size {way.route.max_body}", "\t\t\t\t}")
    if way.strip:
        yield f"\t\t\t\turi path_regexp {_quoted(f'^(/[^/]*){{{way.strip}}}/?')} /"
        yield f"\t\t\t\trequest_header X-Forwarded-Prefix {_quoted(way.prefix)}"
    yield from _proxied(way.destination, way.authority, "\t\t\t\t")
    yield "\t\t\t}"


def _proxied(there: Destination, authority: str | None, indent: str) -> Iterator[str]:
    scheme = "http" if there.tls is None else "https"
    yield f"{indent}reverse_proxy {' '.join(f'{scheme}://{origin}' for origin in there.origins)} {{"
    if len(there.origins) > 1:
        yield f"{indent}\tlb_policy random_choose 2"
    yield f"{indent}\tflush_interval -1"
    if authority is not None:
        yield f"{indent}\theader_up Host {authority}"
    yield from (f"{indent}\ttransport http {{", f"{indent}\t\tkeepalive_idle_conns_per_host 64")
    yield from (f"{indent}\t\t{line}" for line in _tls(there))
    yield from (f"{indent}\t}}", f"{indent}}}")


def _tls(there: Destination) -> Iterator[str]:
    tls = there.tls
    if tls is None:
        return
    if not tls.verify:
        yield "tls_insecure_skip_verify"
    elif tls.ca_file is not None:
        yield f"tls_trust_pool file {_quoted(str(tls.ca_file))}"
    if tls.server_name is not None:
        yield f"tls_server_name {tls.server_name}"
    if tls.cert_file is not None:
        yield f"tls_client_auth {_quoted(str(tls.cert_file))} {_quoted(str(tls.key_file))}"


def _errors() -> Iterator[str]:
    """What Caddy answers by itself: without a decision nothing was forwarded, with one the upstream is at fault."""
    yield from (
        "\thandle_errors 502 503 504 {",
        "\t\theader Content-Type application/problem+json",
        "\t\theader Cache-Control no-store",
        "\t\t@undecided not header X-Gateway-Route *",
        "\t\thandle @undecided {",
        "\t\t\theader Retry-After 1",
        f"\t\t\trespond `{_UNDECIDED}` 503",
        "\t\t}",
        "\t\thandle {",
        f"\t\t\trespond `{_UNREACHABLE}` {{err.status_code}}",
        "\t\t}",
        "\t}",
    )


def _bound(address: Address) -> str:
    return f"[{address.host}]" if ":" in address.host else address.host


def _quoted(text: str) -> str:
    return f"`{text}`"
