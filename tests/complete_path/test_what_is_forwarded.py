"""Prefixes, hosts, forwarding headers, request identifiers and CORS through the running gateway, trusted and not."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.complete_path.patience import PATIENCE_S
from tests.e2e.conftest import GatewayProcess, Seen, Server, free_port, permits

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

APP, OTHER = "https://app.example", "https://other.example"
ROUTES = """
version: 1
server:
  listen: "127.0.0.1:{port}"
  admin: "127.0.0.1:{admin}"
  trusted_proxies: [{trusted}]
  strip_request_headers: [x-internal]
iam: {{url: "{iam}"}}
identity: {identity}
upstreams: {{echo: {{url: "http://127.0.0.1:{upstream}"}}}}
routes:
  - {{id: plain, path: /plain/*, upstream: echo, authorize: public}}
  - {{id: stripped, path: /old/api/*, upstream: echo, strip_prefix: /old/api, authorize: public}}
  - {{id: kept-host, path: /kept/*, upstream: echo, preserve_host: true, authorize: public}}
  - {{id: tenant, path: /where/*, host: tenant.example, upstream: echo, strip_prefix: /where, authorize: public}}
  - {{id: anywhere, path: /where/*, upstream: echo, authorize: public}}
  - {{id: closed, path: /closed/*, upstream: echo, authorize: ["read system:closed"]}}
  - id: app
    path: /app/*
    upstream: echo
    authorize: ["read system:app"]
    cors: {{origins: ["https://app.example"], max_age: 10m}}
"""
SPOOFED = (
    ("X-Auth-Subject", "root"),
    ("X_Auth_Subject", "root"),
    ("x-gateway-degraded", "iam; mode=stale"),
    ("X-Authenticated-User", "root"),
    ("X-User", "root"),
    ("X.User.Id", "root"),
    ("Remote-User", "root"),
    ("X-Remote-Groups", "wheel"),
    ("Forwarded", "for=10.0.0.1"),
    ("X-Real-IP", "10.0.0.1"),
    ("Proxy", "http://127.0.0.1:1"),
    ("X-Original-URL", "/admin"),
    ("X-Rewrite-URL", "/admin"),
    ("X-HTTP-Method-Override", "DELETE"),
    ("X-Internal", "1"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Authorization", "Basic eDp5"),
)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Stage:
    """A gateway that trusts nobody and one that trusts this machine, before the same upstream and IAM."""

    def __init__(self) -> None:
        self.upstream = Server(self._answer)
        self.iam = Server(permits(lambda evaluation: evaluation["subject"]["id"] == "alice"))
        self.untrusting, self.trusting, self.elsewhere = (httpx.AsyncClient() for _ in range(3))
        self.gateways: list[GatewayProcess] = []

    def _answer(self, _seen: Seen) -> tuple[int, dict[str, str], bytes]:
        headers = {"X-Request-ID": "the-upstreams-own", "Access-Control-Allow-Origin": "*", "Keep-Alive": "timeout=9"}
        return 200, headers, b"{}"

    async def start(self, folder: Path, name: str, identity: str, trusted: str) -> httpx.AsyncClient:
        port, admin = free_port(), free_port()
        text = ROUTES.format(
            port=port,
            admin=admin,
            trusted=trusted,
            identity=identity,
            iam=self.iam.url,
            upstream=self.upstream.port,
        )
        file = folder / name / "routes.yaml"
        file.parent.mkdir()
        file.write_text(text)
        gateway = GatewayProcess(file, port, admin, {"OTEL_SDK_DISABLED": "true"})
        self.gateways.append(gateway)
        await gateway.start()
        return httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S, trust_env=False)

    @property
    def last(self) -> Seen:
        return self.upstream.seen[-1]

    def seen(self, name: str) -> list[str]:
        """The values of a field in the last request that the upstream saw."""
        return self.last.values(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    stage, folder = Stage(), tmp_path_factory.mktemp("forwarded")
    await stage.upstream.start()
    await stage.iam.start()
    stage.untrusting = await stage.start(folder, "untrusting", "{opaque: {}}", "")
    stage.trusting = await stage.start(folder, "trusting", "{header: {name: X-User}}", "127.0.0.0/8")
    stage.elsewhere = await stage.start(folder, "elsewhere", "{header: {name: X-User}}", "10.0.0.0/8")
    yield stage
    for client in (stage.untrusting, stage.trusting, stage.elsewhere):
        await client.aclose()
    for gateway in stage.gateways:
        assert await gateway.stop() == 0
    await stage.upstream.stop()
    await stage.iam.stop()


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        ("/old/api/items/7?x=%2F&x=1", "/items/7?x=%2F&x=1"),
        ("/old/api", "/"),
        ("/old/api/", "/"),
        ("/old/api?x=1", "/?x=1"),
        ("/old/%61pi/a%20b", "/a%20b"),
    ],
)
async def test_a_prefix_is_taken_off_and_told(stage: Stage, asked: str, target: str) -> None:
    assert (await stage.untrusting.get(asked)).status_code == 200
    assert stage.last.target == target
    assert stage.seen("x-forwarded-prefix") == ["/old/api"]


async def test_the_upstream_gets_its_own_host_unless_the_route_keeps_the_callers(stage: Stage) -> None:
    await stage.untrusting.get("/plain/x", headers={"host": "gateway.example"})
    assert stage.seen("host") == [f"127.0.0.1:{stage.upstream.port}"]
    assert stage.seen("x-forwarded-host") == ["gateway.example"]
    await stage.untrusting.get("/kept/x", headers={"host": "gateway.example:8080"})
    assert stage.seen("host") == ["gateway.example:8080"]


@pytest.mark.parametrize(
    ("host", "target"),
    [("tenant.example", "/x"), ("TENANT.example:8080", "/x"), ("tenant.example.org", "/where/x"), ("x", "/where/x")],
)
async def test_a_route_with_the_host_comes_before_one_without(stage: Stage, host: str, target: str) -> None:
    await stage.untrusting.get("/where/x", headers={"host": host})
    assert stage.last.target == target


async def test_a_strangers_word_about_itself_is_worth_nothing(stage: Stage) -> None:
    forwarded = {"x-forwarded-for": "203.0.113.7", "x-forwarded-proto": "https", "x-forwarded-host": "bank.example"}
    reply = await stage.untrusting.get("/plain/x", headers={**forwarded, "x-request-id": "mine", "traceparent": TRACE})
    assert stage.seen("x-forwarded-for") == ["127.0.0.1"]
    assert stage.seen("x-forwarded-proto") == ["http"]
    assert stage.seen("x-forwarded-host") == [stage.untrusting.base_url.netloc.decode()]
    assert not [value for value in stage.seen("traceparent") if TRACE[3:35] in value]
    assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])
    assert reply.headers.get_list("x-request-id") == stage.seen("x-request-id")


async def test_a_trusted_proxys_word_is_passed_on(stage: Stage) -> None:
    headers = [
        ("x-forwarded-for", "198.51.100.1, 203.0.113.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("x-request-id", "order-4711/a"),
        ("traceparent", TRACE),
    ]
    reply = await stage.trusting.get("/plain/x", headers=headers)
    assert stage.seen("x-forwarded-for") == ["198.51.100.1, 203.0.113.7, 127.0.0.1"]
    assert stage.seen("x-forwarded-proto") == ["https"]
    assert stage.seen("x-forwarded-host") == ["shop.example"]
    assert [value[3:35] for value in stage.seen("traceparent")] == [TRACE[3:35]]
    assert stage.seen("x-request-id") == ["order-4711/a"]
    assert reply.headers["x-request-id"] == "order-4711/a"
    refused = await stage.trusting.get("/nowhere", headers=headers)
    assert refused.json()["request_id"] == refused.headers["x-request-id"] == "order-4711/a"


@pytest.mark.parametrize(
    "given", [["a b"], ["x" * 129], ["a,b"], ['"><script>'], ["one", "two"], [""], [r"..\..\etc"], ["-x"]]
)
async def test_an_odd_request_id_is_replaced_even_from_a_trusted_proxy(stage: Stage, given: list[str]) -> None:
    reply = await stage.trusting.get("/plain/x", headers=[("x-request-id", value) for value in given])
    assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])
    assert stage.seen("x-request-id") == [reply.headers["x-request-id"]]


@pytest.mark.parametrize("trusting", [False, True])
async def test_nobody_can_say_who_they_are_in_our_words(stage: Stage, trusting: bool) -> None:
    client = stage.trusting if trusting else stage.untrusting
    assert (await client.get("/plain/x", headers=list(SPOOFED))).status_code == 200
    values = [value for _, value in SPOOFED]
    assert not [value for _, value in stage.last.headers if value in values]
    assert stage.seen("x-forwarded-for") == ["127.0.0.1"]


async def test_the_header_names_the_subject_only_behind_a_trusted_proxy(stage: Stage) -> None:
    assert (await stage.trusting.get("/closed/x", headers={"x-user": "alice"})).status_code == 200
    assert stage.seen("x-auth-subject") == ["alice"]
    assert stage.seen("x-user") == ["alice"]  # the trusted proxy's own, where it is the identity
    assert json.loads(stage.iam.seen[-1].body)["evaluations"][0]["subject"] == {"type": "identity", "id": "alice"}
    assert (await stage.trusting.get("/closed/x", headers={"x-user": "mallory"})).status_code == 403
    for headers in ([], [("x-user", "alice"), ("x-user", "root")], [("x-user", "")]):
        assert (await stage.trusting.get("/closed/x", headers=headers)).status_code == 401
    assert (await stage.elsewhere.get("/closed/x", headers={"x-user": "alice"})).status_code == 401


async def test_responses_lose_hop_by_hop_fields_and_gain_ours(stage: Stage) -> None:
    reply = await stage.untrusting.get("/plain/x")
    assert reply.headers["via"] == "1.1 edge"
    assert "keep-alive" not in reply.headers
    assert reply.headers["access-control-allow-origin"] == "*"
    assert stage.seen("via") == ["1.1 edge"]


async def test_a_preflight_is_answered_here_and_costs_nobody_a_question(stage: Stage) -> None:
    asked, seen = len(stage.iam.seen), len(stage.upstream.seen)
    preflight = {"origin": APP, "access-control-request-method": "PUT", "access-control-request-headers": "x-a, x-b"}
    reply = await stage.untrusting.options("/app/x", headers=preflight)
    assert reply.status_code == 204
    assert reply.headers["access-control-allow-origin"] == APP
    assert "PUT" in reply.headers["access-control-allow-methods"]
    assert reply.headers["access-control-allow-headers"] == "x-a, x-b"
    assert reply.headers["access-control-max-age"] == "600"
    assert "access-control-allow-credentials" not in reply.headers
    refused = await stage.untrusting.options("/app/x", headers={**preflight, "origin": OTHER})
    assert "access-control-allow-origin" not in refused.headers
    assert (len(stage.iam.seen), len(stage.upstream.seen)) == (asked, seen)


@pytest.mark.parametrize(("token", "status"), [("alice", 200), ("mallory", 403), ("", 401)])
async def test_every_answer_of_a_cors_route_can_be_read_by_its_origins(stage: Stage, token: str, status: int) -> None:
    headers = {"origin": APP, **({"authorization": f"Bearer {token}"} if token else {})}
    reply = await stage.untrusting.get("/app/x", headers=headers)
    assert reply.status_code == status
    assert reply.headers.get_list("access-control-allow-origin") == [APP]
    exposed = {name.strip().lower() for name in reply.headers["access-control-expose-headers"].split(",")}
    assert exposed == {"retry-after", "x-request-id", "x-gateway-degraded"}
    assert "origin" in reply.headers["vary"].lower()
    other = await stage.untrusting.get("/app/x", headers={**headers, "origin": OTHER})
    assert other.status_code == status
    assert "access-control-allow-origin" not in other.headers


async def test_without_cors_options_is_a_request_like_any_other(stage: Stage) -> None:
    headers: dict[str, Any] = {"origin": APP, "access-control-request-method": "PUT"}
    assert (await stage.untrusting.options("/closed/x", headers=headers)).status_code == 401
    headers["authorization"] = "Bearer alice"
    assert (await stage.untrusting.options("/closed/x", headers=headers)).status_code == 200
    assert stage.last.method == "OPTIONS"
