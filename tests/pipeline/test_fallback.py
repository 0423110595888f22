"""IAM's fallback on every kind of route: the route's own response, and nothing of step 4."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.app.composition import compose
from gateway.app.shared import Parts
from gateway.config import load
from gateway.forwarded import RequestBuilder
from gateway.model.permit import Fallback
from gateway.pipeline import Pipeline
from gateway.telemetry.observer import Observer

pytestmark = pytest.mark.hazard

RULE = "{degrade: fallback, methods: [GET, POST], response: {status: 202, json: {menu: []}, headers: {X-Own: '1'}}}"
ROUTES = f"""
version: 1
iam: {{url: http://127.0.0.1:1, timeout: {{total: 100ms}}, retry: {{attempts: 1}}}}
identity: {{header: {{name: X-User}}}}
server: {{trusted_proxies: [127.0.0.1]}}
upstreams: {{shop: {{url: http://127.0.0.1:2}}}}
routes:
  - {{id: proxy, path: /proxy, upstream: shop, authorize: [read a:b], on_iam_failure: {RULE}}}
  - id: aggregate
    path: /aggregate/{{email}}
    authorize: [read a:b]
    on_iam_failure: {RULE}
    aggregate:
      systems: {{One: {{upstream: shop, path: /one}}}}
      bulk: {{path: /aggregate, items: /emails, param: email}}
  - id: navigation
    path: /navigation
    authorize: [read a:b]
    on_iam_failure: {RULE}
    navigation: {{upstream: shop, items: /items/*, check: "read x:{{item.id}}"}}
  - {{id: permissions, path: /permissions, methods: [POST], authorize: [read a:b], on_iam_failure: {RULE},
     permissions: {{}}}}
  - {{id: health, path: /health, authorize: [read a:b], on_iam_failure: {RULE}, health: {{}}}}
"""


class Edge:
    client_left = False
    host = "gateway"

    def __init__(self, target: bytes) -> None:
        self.raw_target = target
        self.sent: tuple[int, dict[bytes, bytes], bytes] | None = None

    def respond(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        self.sent = (status, dict(headers), body)
        return True


async def nothing(*_: Any) -> Any:
    raise AssertionError("the body was read, or a message was sent")


@pytest.mark.parametrize(
    ("method", "target", "type_"),
    [
        ("GET", b"/proxy", "http"),
        ("GET", b"/proxy", "websocket"),
        ("GET", b"/aggregate/a@b", "http"),
        ("POST", b"/aggregate", "http"),
        ("GET", b"/navigation", "http"),
        ("POST", b"/permissions", "http"),
        ("GET", b"/health", "http"),
    ],
)
async def test_the_routes_own_response_is_given_and_no_endpoint_is_reached(tmp_path, method, target, type_):
    (tmp_path / "routes.yaml").write_text(ROUTES)
    composition = compose(load(tmp_path / "routes.yaml", {}), Observer(), Parts())
    composition.parts.settle()
    for service in composition.site.services.values():
        service.endpoint = nothing  # whichever it is: a fallback is no permit to reach it
    edge = Edge(target)
    scope = {
        "type": type_,
        "method": method,
        "headers": [(b"x-user", b"alice")],
        "client": ("127.0.0.1", 1),
        "scheme": "http",
        "http_version": "1.1",
        "extensions": {"gateway.edge": edge},
    }
    await Pipeline(composition.site, Observer(), RequestBuilder())(scope, nothing, nothing)
    assert edge.sent is not None
    status, fields, body = edge.sent
    assert (status, body) == (202, b'{"menu":[]}')
    assert fields[b"x-gateway-degraded"] == b"iam; mode=fallback"
    assert fields[b"cache-control"] == b"no-store"
    assert (fields[b"x-own"], bool(fields[b"x-request-id"])) == (b"1", True)
    await composition.parts.release()


def test_a_fallback_is_no_permit():
    """What forwarding needs of a permit, a fallback does not have: to mistake one for the other is an error."""
    assert not {"request", "route", "subject"} & set(Fallback.__slots__)
