"""The decision listener's pipeline: what another proxy names is judged like any request, and only a permit is a 2xx."""

from dataclasses import dataclass, field

import pytest

from gateway.config import load
from gateway.decide import DecisionPipeline
from gateway.errors import GatewayError
from gateway.forwarded import RequestBuilder
from gateway.model.permit import Fallback, Permit
from gateway.model.request import Subject
from gateway.model.route import FallbackResponse
from gateway.pipeline import ActiveConfig, Pipeline, Service
from gateway.resilience.admission import ConcurrencyLimit
from gateway.routing import Router
from gateway.telemetry.observer import Observer

ROUTES = """
version: 1
server: {trusted_proxies: [10.0.0.0/8], decisions: {listen: 127.0.0.1:0}}
iam: {url: http://127.0.0.1:1}
identity: {opaque: {}}
upstreams: {shop: {url: http://127.0.0.1:2}}
routes:
  - {id: orders, path: /orders/*, methods: [GET, HEAD, POST], authorize: ["read system:orders"]}
  - {id: open, path: /open/*, methods: [GET], authorize: public, upstream: shop, cors: {origins: [https://app.example]}}
  - {id: hosted, path: /hosted, host: shop.example, methods: [GET], authorize: public}
  - {id: paged, path: /paged, authorize: ["read system:orders"], error_page: {}}
  - {id: rest, path: /*, authorize: public, upstream: shop}
"""
ALICE = Subject("identity", "alice\u00e9", "k", "{}", headers=((b"x-auth-email", b"alice@example"),))


class Identifier:
    async def identify(self, request):
        if not request.values(b"authorization"):
            raise GatewayError("unauthenticated")
        return ALICE


@dataclass
class Authorizer:
    verdict: object = None
    asked: list = field(default_factory=list)

    async def authorize(self, request, route, subject, deadline, record, span):
        self.asked.append((request.method, request.target.raw, request.host, request.websocket, request.client))
        if isinstance(self.verdict, GatewayError):
            raise self.verdict
        if isinstance(self.verdict, Fallback):
            return self.verdict
        degraded = self.verdict or {}
        return Permit(request, route, subject, "allow", "iam", **degraded)


class Edge:
    client_left = False
    raw_target = b""
    host = "gateway.internal"

    def __init__(self, raw_target):
        self.raw_target = raw_target
        self.sent = None

    def respond(self, status, headers, body):
        self.sent = (status, dict(headers), body)
        return True

    def close_after_response(self):
        pass

    def abort(self):
        raise AssertionError("aborted")


@pytest.fixture
def site(tmp_path):
    (tmp_path / "routes.yaml").write_text(ROUTES)
    configuration = load(tmp_path / "routes.yaml", {})

    async def forwarded(permit, exchange, deadline):
        await exchange.respond(200, [], b"forwarded")

    services = {
        route.id: Service(route, None if route.id in {"orders", "hosted"} else forwarded, ConcurrencyLimit(10))
        for route in configuration.routes
    }
    return ActiveConfig(
        settings=configuration.server,
        router=Router(configuration.routes),
        services=services,
        identifier=Identifier(),
        tokens=None,
        authorizer=Authorizer(),
        limit=ConcurrencyLimit(10),
        streams=ConcurrencyLimit(10),
    )


async def ask(
    site, raw, headers=(), *, method="GET", peer="10.1.2.3", pipeline=DecisionPipeline, type_="http", observer=None
):
    edge = Edge(raw)
    scope = {
        "type": type_,
        "method": method,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        "client": (peer, 1),
        "scheme": "http",
        "http_version": "1.1",
        "extensions": {"gateway.edge": edge},
    }

    async def receive():
        raise AssertionError("a decision reads no body")

    async def send(message):
        raise AssertionError(message)

    observer = observer or Observer()
    made = pipeline(site, observer) if pipeline is DecisionPipeline else Pipeline(site, observer, RequestBuilder())
    await made(scope, receive, send)
    return edge.sent


TOKEN = ("authorization", "Bearer t")


def named(door, method, target, **more):
    """The question of each proxy about `method target`."""
    if door == "envoy":
        return (b"/envoy" + target.encode("latin-1"), [TOKEN], {"method": method, **more})
    pair = ("x-original-method", "x-original-uri") if door == "nginx" else ("x-forwarded-method", "x-forwarded-uri")
    return (f"/{door}".encode(), [TOKEN, (pair[0], method), (pair[1], target)], more)


DOORS = ["envoy", "nginx", "traefik", "caddy"]


@pytest.mark.parametrize("door", DOORS)
async def test_a_permit_is_200_with_who_it_is_for(site, door):
    raw, headers, more = named(door, "POST", "/orders/7?a=%31")
    status, fields, body = await ask(site, raw, headers, **more)
    assert (status, body) == (200, b"")
    assert fields[b"x-auth-subject"] == b"alice%C3%A9"
    assert fields[b"x-auth-email"] == b"alice@example"
    assert fields[b"x-request-id"]
    assert fields[b"x-gateway-route"] == b"orders"
    assert site.authorizer.asked == [("POST", b"/orders/7?a=%31", "gateway.internal", False, "10.1.2.3")]


@pytest.mark.parametrize("door", DOORS)
async def test_a_denial_keeps_status_and_document(site, door):
    site.authorizer.verdict = GatewayError("iam_denied")
    raw, headers, more = named(door, "GET", "/orders/7")
    status, fields, body = await ask(site, raw, headers, **more)
    assert status == 403
    assert b"iam_denied" in body
    assert fields.get(b"x-gateway-problem") == (body if door == "nginx" else None)


@pytest.mark.parametrize("door", DOORS)
async def test_an_outage_of_iam_is_503_with_retry_after(site, door):
    site.authorizer.verdict = GatewayError("iam_circuit_open", retry_after_s=7)
    raw, headers, more = named(door, "GET", "/orders/7")
    status, fields, body = await ask(site, raw, headers, **more)
    assert status == 503
    assert int(fields[b"retry-after"]) >= 7
    assert b"iam_circuit_open" in body


@pytest.mark.parametrize(
    ("code", "public", "sent"), [("iam_timeout", 503, 473), ("internal_error", 500, 470), ("iam_denied", 403, 403)]
)
async def test_a_proxy_that_drops_a_5xx_can_ask_for_47x(site, code, public, sent):
    """Envoy alone, whose exported configuration turns it back. The document says what the caller gets."""
    site.authorizer.verdict = GatewayError(code)
    for door in DOORS:
        for value in ("47x", "200", "4", ""):
            raw, headers, more = named(door, "GET", "/orders/7")
            status, _, body = await ask(site, raw, [*headers, ("x-gateway-failures", value)], **more)
            assert status == (sent if (door, value) == ("envoy", "47x") else public)
            assert f'"status": {public}'.encode() in body


async def test_the_record_has_the_status_that_the_caller_gets(site):
    site.authorizer.verdict = GatewayError("iam_timeout")
    raw, headers, more = named("envoy", "GET", "/orders/7")
    seen = []

    class Watching(Observer):
        def request_ended(self, record, span):
            seen.append(record.status)

    await ask(site, raw, [*headers, ("x-gateway-failures", "47x")], observer=Watching(), **more)
    assert seen == [503]


@pytest.mark.parametrize("door", DOORS)
async def test_a_stale_permit_is_marked(site, door):
    site.authorizer.verdict = {"degraded": "stale", "age_s": 12.5, "code": "iam_timeout"}
    raw, headers, more = named(door, "GET", "/orders/7")
    status, fields, _ = await ask(site, raw, headers, **more)
    assert (status, fields[b"x-gateway-degraded"]) == (200, b"iam; mode=stale; age=12")


@pytest.mark.parametrize("door", DOORS)
async def test_a_fallback_response_never_lets_a_request_through(site, door):
    site.authorizer.verdict = Fallback(FallbackResponse(200, b"{}"), "iam_timeout")
    raw, headers, more = named(door, "GET", "/orders/7")
    status, _, body = await ask(site, raw, headers, **more)
    assert status == 503
    assert b"iam_timeout" in body


@pytest.mark.parametrize("door", DOORS)
async def test_without_a_token_it_is_401(site, door):
    raw, headers, more = named(door, "GET", "/orders/7")
    status, _, _ = await ask(site, raw, headers[1:], **more)
    assert status == 401


@pytest.mark.parametrize("door", DOORS)
async def test_a_preflight_is_not_answered_as_if_it_were_permitted(site, door):
    raw, headers, more = named(door, "OPTIONS", "/open/7")
    asking = [("origin", "https://app.example"), ("access-control-request-method", "GET")]
    status, _, _ = await ask(site, raw, headers + asking, **more)
    assert status == 405


AMBIGUOUS = [
    "/orders/../open/7",
    "/orders/%2e%2e/open",
    "/orders//7",
    "/orders/a%2Fb",
    "/orders/a\\b",
    "/orders/7#x",
    "/orders/7;v=1",
    "/orders/%00",
    "http://evil/orders/7",
    "*",
    "",
    "orders/7",
    "/orders/\xff",
    "/orders/ 7",
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("target", AMBIGUOUS)
async def test_what_two_parsers_read_differently_is_400(site, door, target):
    raw, headers, more = named(door, "GET", target)
    status, _, _ = await ask(site, raw, headers, **more)
    assert status == 400
    assert site.authorizer.asked == []


BROKEN = {
    "no method": [("x-original-uri", "/orders/7")],
    "no target": [("x-original-method", "GET")],
    "two targets": [("x-original-method", "GET"), ("x-original-uri", "/open/7"), ("x-original-uri", "/orders/7")],
    "two methods": [("x-original-method", "GET"), ("x-original-method", "GET"), ("x-original-uri", "/orders/7")],
    "an odd method": [("x-original-method", "get it"), ("x-original-uri", "/orders/7")],
    "fields of another proxy": [("x-forwarded-method", "GET"), ("x-forwarded-uri", "/orders/7")],
    "two hosts": [("x-original-method", "GET"), ("x-original-uri", "/open/7"), ("x-forwarded-host", "a, b")],
    "a long target": [("x-original-method", "GET"), ("x-original-uri", "/orders/" + "a" * 9000)],
}


@pytest.mark.parametrize("headers", BROKEN.values(), ids=BROKEN)
async def test_what_does_not_name_one_request_is_400_and_never_guessed(site, headers):
    status, _, body = await ask(site, b"/nginx", [TOKEN, *headers])
    assert status == 400
    assert b"bad_request" in body
    assert site.authorizer.asked == []


@pytest.mark.parametrize("door", ["nginx", "traefik", "caddy"])
async def test_another_route_than_the_proxy_would_forward_by_is_refused(site, door):
    raw, headers, more = named(door, "GET", "/orders/7")
    assert (await ask(site, raw, [*headers, ("x-gateway-route", "orders")], **more))[0] == 200
    for other in ("rest", "-", "", "Orders", "orders, rest"):
        assert (await ask(site, raw, [*headers, ("x-gateway-route", other)], **more))[0] == 400
    twice = [("x-gateway-route", "orders"), ("x-gateway-route", "rest")]
    assert (await ask(site, raw, [*headers, *twice], **more))[0] == 400
    assert (await ask(site, named(door, "GET", "/open/7")[0], [*headers, *twice], **more))[0] == 400


@pytest.mark.parametrize("name", ["x-auth-role", "x_auth_subject", "x.gateway.degraded", "x-user-id", "remote_user"])
async def test_a_proxy_that_overwrites_by_name_alone_has_other_spellings_refused(site, name):
    raw, headers, more = named("nginx", "GET", "/orders/7")
    assert (await ask(site, raw, [*headers, (name, "root")], **more))[0] == 200
    refusing = [*headers, ("x-gateway-spoofed", "refuse"), ("x-gateway-route", "orders")]
    assert (await ask(site, raw, refusing, **more))[0] == 200
    status, _, body = await ask(site, raw, [*refusing, (name, "root")], **more)
    assert (status, b"bad_request" in body) == (400, True)


@pytest.mark.parametrize("raw", [b"/", b"/envoy", b"/envoy?x=/orders/7", b"/nginx/", b"/orders/7", b"/NGINX", b"*"])
async def test_other_entry_paths_decide_nothing(site, raw):
    headers = [TOKEN, ("x-original-method", "GET"), ("x-original-uri", "/open/7")]
    status, _, _ = await ask(site, raw, headers)
    assert 400 <= status < 500


@pytest.mark.parametrize("door", DOORS)
async def test_only_a_trusted_proxy_may_ask(site, door):
    raw, headers, more = named(door, "GET", "/open/7")
    assert (await ask(site, raw, headers, **more))[0] == 200
    assert (await ask(site, raw, headers, peer="11.0.0.1", **more))[0] == 400


async def test_the_query_of_the_listeners_own_target_is_ignored(site):
    raw, headers, more = named("traefik", "GET", "/orders/7?x=1")
    await ask(site, raw + b"?X-Forwarded-Uri=/open/1", headers, **more)
    assert site.authorizer.asked[0][1] == b"/orders/7?x=1"


async def test_the_named_host_chooses_the_route_and_the_chain_the_client(site):
    headers = [("x-forwarded-host", "shop.example:8443"), ("x-forwarded-for", "203.0.113.9, 10.9.9.9")]
    raw, fields, more = named("caddy", "GET", "/hosted")
    assert (await ask(site, raw, fields + headers, **more))[0] == 200
    assert site.authorizer.asked[0][2] == "shop.example:8443"
    assert site.authorizer.asked[0][4] == "203.0.113.9"


@pytest.mark.parametrize("door", DOORS)
async def test_a_handshake_is_known_as_one(site, door):
    raw, headers, more = named(door, "GET", "/orders/7")
    assert (await ask(site, raw, [*headers, ("upgrade", "WebSocket")], **more))[0] == 200
    assert site.authorizer.asked[0][3] is True


async def test_a_refusal_of_a_named_head_request_is_framed_for_the_request_that_was_made(site):
    site.authorizer.verdict = GatewayError("iam_denied")
    raw, headers, more = named("nginx", "HEAD", "/orders/7")
    _, fields, body = await ask(site, raw, headers, **more)
    assert int(fields[b"content-length"]) == len(body) > 0
    raw, headers, more = named("envoy", "HEAD", "/orders/7")
    _, _, body = await ask(site, raw, headers, **more)
    assert body == b""


async def test_a_route_without_upstream_is_not_found_on_the_public_listener(site):
    """Although the route `/*` would match, too: nothing falls through to a looser route."""
    status, _, _ = await ask(site, b"/orders/7", [TOKEN], pipeline=Pipeline)
    assert status == 404
    assert site.authorizer.asked == []
    assert (await ask(site, b"/open/7", [], pipeline=Pipeline))[2] == b"forwarded"


@pytest.mark.parametrize("door", DOORS)
async def test_a_person_behind_another_proxy_sees_the_page_where_the_proxy_can_carry_it(site, door):
    site.authorizer.verdict = GatewayError("iam_unreachable", retry_after_s=5)
    raw, headers, more = named(door, "GET", "/paged")
    status, fields, _ = await ask(site, raw, [*headers, ("accept", "text/html")], **more)
    page = b"text/html; charset=utf-8"
    assert (status, fields[b"content-type"]) == (503, b"application/problem+json" if door == "nginx" else page)
    assert b"\n" not in fields.get(b"x-gateway-problem", b"")
