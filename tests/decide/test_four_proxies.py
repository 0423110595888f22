"""nginx, Envoy, Traefik and Caddy on what `gateway export` prints: they forward what was decided, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.decide.proxies import PROXIES, Backend, Lab, ask, lab
from tests.e2e.conftest import Seen, Server
from tests.wire.client import Response

pytestmark = [pytest.mark.integration, pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]
each = pytest.mark.parametrize("proxy", PROXIES)
HANDSHAKE = (
    *("Connection: Upgrade", "Upgrade: websocket"),
    *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with lab(tmp_path_factory.mktemp("proxies")) as made:
        yield made


@pytest.fixture(autouse=True)
def _afresh(running: Lab) -> None:
    running.iam.mode = "ok"
    running.backend.seen.clear()
    running.shop.seen.clear()


def bearer(running: Lab, subject: str = "alice") -> str:
    return f"Authorization: Bearer {running.token(subject, email=f'{subject}@example')}"


def arrived(backend: Backend) -> Seen:
    (seen,) = backend.seen
    return seen


def problem(response: Response) -> tuple[int, str]:
    assert response.value("content-type") == "application/problem+json"
    return response.status, json.loads(response.body)["code"]


def nothing_arrived(running: Lab) -> bool:
    return not running.backend.seen and not running.shop.seen


@each
async def test_what_is_allowed_arrives_byte_for_byte_and_says_who_asks(running: Lab, proxy: str) -> None:
    response = await ask(
        running.ports[proxy], "/orders/7%20x?a=%31&b=//..", bearer(running), method="POST", body="hello"
    )
    assert (response.status, json.loads(response.body)) == (200, {"by": "backend"})
    seen = arrived(running.backend)
    assert (seen.method, seen.target, seen.body) == ("POST", "/orders/7%20x?a=%31&b=//..", b"hello")
    assert seen.values("x-auth-subject") == ["alice"]
    assert seen.values("x-auth-email") == ["alice@example"]
    assert seen.values("x-gateway-route") == ["orders"]
    assert seen.values("host") == ["gateway.test"]


SPELLINGS = ["X-Auth-Subject", "x-auth-subject", "X_Auth_Subject", "X-Auth_Subject", "X.Auth.Subject", "x_auth-subject"]
OTHERS = ["X-Auth-Role", "X-Auth-Email", "X_Gateway_Degraded", "X-Gateway-Degraded", "X-Gateway-Route", "X-User-Id"]
OTHERS += [
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Uri",
    "X-Forwarded-Method",
    "X-Original-URI",
    "X-Real-IP",
]
OTHERS += ["X-Original-Method", "X-Gateway-Spoofed", "X-Gateway-Asked", "X-Gateway-Problem", "X_Forwarded_For"]
OTHERS += ["Remote-User", "Remote_User", "X-Original-URL", "X-Forwarded-Prefix", "X-Method-Override"]


@each
@pytest.mark.parametrize("target", ["/orders/7", "/things/open", "/shop/7"])
async def test_no_forged_field_arrives_in_any_spelling(running: Lab, proxy: str, target: str) -> None:
    """The route `/things/open` is public, so nothing would overwrite the subject that a caller names."""
    port, token = running.ports[proxy], bearer(running)
    names = (*SPELLINGS, *OTHERS)
    responses = await asyncio.gather(*(ask(port, target, token, f"{n}: forged", f"{n}: forged") for n in names))
    assert {response.status for response in responses} <= {200, 400}
    assert responses[0].status == 200
    for seen in (*running.backend.seen, *running.shop.seen):
        assert "forged" not in str(seen.headers)
        assert seen.values("x-auth-subject") == ([] if target == "/things/open" else ["alice"])


@each
async def test_connection_takes_nothing_off_that_the_gateway_said(running: Lab, proxy: str) -> None:
    named = "Connection: close, X-Auth-Subject, X-Gateway-Route, X-Auth-Email"
    await ask(running.ports[proxy], "/orders/7", bearer(running), named)
    for seen in running.backend.seen:
        assert seen.values("x-auth-subject") == ["alice"]


@each
async def test_denied_is_403_no_token_401_no_route_404_other_method_405(running: Lab, proxy: str) -> None:
    port = running.ports[proxy]
    assert problem(await ask(port, "/orders/7", bearer(running, "bob"))) == (403, "iam_denied")
    missing = await ask(port, "/orders/7")
    assert problem(missing) == (401, "unauthenticated")
    assert [value for name, value in missing.headers if name == "www-authenticate"] == ['Bearer realm="edge"']
    assert problem(await ask(port, "/nowhere", bearer(running))) == (404, "route_not_found")
    wrong = await ask(port, "/things/open", method="POST")
    assert problem(wrong) == (405, "method_not_allowed")
    assert wrong.value("allow") == "GET, HEAD"
    assert (await ask(port, "/orders/7", bearer(running, "bob"), method="HEAD")).status == 403
    assert nothing_arrived(running)


@each
async def test_while_iam_is_down_it_is_503_or_stale_and_marked(running: Lab, proxy: str) -> None:
    port, target = running.ports[proxy], f"/orders/{proxy}"
    assert (await ask(port, target, bearer(running))).status == 200
    running.iam.mode = "errors"
    down = await ask(port, "/strict/7", bearer(running))
    assert problem(down) == (503, "iam_error")
    assert int(down.value("retry-after") or 0) == json.loads(down.body)["retry_after"] >= 1
    assert json.loads(down.body)["route"] == "strict"
    running.backend.seen.clear()
    stale = await ask(port, target, bearer(running))
    assert stale.status == 200
    (mark,) = arrived(running.backend).values("x-gateway-degraded")
    assert mark.startswith("iam; mode=stale; age=")
    if proxy != "traefik":
        assert stale.value("x-gateway-degraded") == mark


@each
async def test_a_person_sees_the_routes_page_where_the_proxy_carries_it(running: Lab, proxy: str) -> None:
    """With the fields that protect it, and in an outage as in a denial. nginx has problem+json in its place."""
    port, person = running.ports[proxy], "Accept: text/html,*/*;q=0.8"
    denied = await ask(port, "/paged/7", bearer(running, "bob"), person)
    running.iam.mode = "errors"
    down = await ask(port, "/paged/7", bearer(running), person)
    assert (denied.status, down.status) == (403, 503)
    assert int(down.value("retry-after") or 0) >= 1
    for response in (denied, down):
        if proxy == "nginx":
            assert response.value("content-type") == "application/problem+json"
            continue
        assert response.value("content-type") == "text/html; charset=utf-8"
        assert "default-src 'none'" in (response.value("content-security-policy") or "")
        assert response.value("x-content-type-options") == "nosniff"
        assert b"<html" in response.body


@each
async def test_the_most_specific_route_is_the_one_that_was_decided(running: Lab, proxy: str) -> None:
    port = running.ports[proxy]
    assert (await ask(port, "/things/open")).status == 200
    assert arrived(running.backend).values("x-gateway-route") == ["exact"]
    assert (await ask(port, "/things/open/")).status == 200
    assert (await ask(port, "/things/closed")).status == 401
    assert (await ask(port, "/hosted/x", host="shop.example:8080")).status == 200
    assert (await ask(port, "/hosted/x", host="SHOP.example")).status == 200
    assert (await ask(port, "/hosted/x", host="other.example")).status == 404
    assert (await ask(port, "/%6frders/7")).status in (400, 401)


@each
async def test_routes_with_an_upstream_go_there(running: Lab, proxy: str) -> None:
    port = running.ports[proxy]
    assert (await ask(port, "/shop/7?x=1", bearer(running))).status == 200
    seen = arrived(running.shop)
    assert seen.target == "/shop/7?x=1"
    assert seen.values("host") == [f"127.0.0.1:{running.shop.port}"]
    assert seen.values("x-auth-subject") == ["alice"]
    for target, stripped in (("/a/b/c%20d?x=1", "/c%20d?x=1"), ("/a/b?x=1", "/?x=1"), ("/a/b/", "/")):
        running.shop.seen.clear()
        assert (await ask(port, target)).status == 200
        assert arrived(running.shop).target == stripped
        assert arrived(running.shop).values("x-forwarded-prefix") == ["/a/b"]


@each
async def test_what_only_the_gateway_can_do_goes_through_the_gateway(running: Lab, proxy: str) -> None:
    """Its own documents, and routes whose token must not reach the upstream."""
    port = running.ports[proxy]
    systems = await ask(port, "/orders/systems")
    assert (systems.status, "systems" in json.loads(systems.body)) == (200, True)
    assert (await ask(port, "/taken/7", f"Cookie: session={running.token()}; a=b")).status == 200
    seen = arrived(running.shop)
    assert seen.values("cookie") == ["a=b"]
    assert seen.values("x-auth-subject") == ["alice"]
    assert any("edge" in value for value in seen.values("via"))
    assert problem(await ask(port, "/taken/7", bearer(running, "bob"))) == (403, "iam_denied")


AMBIGUOUS = [
    *("/things/../orders/7", "/things/open/../../orders/7", "/things/open/%2e%2e/%2e%2e/orders/7", "/things//open"),
    *("/things/open%2f..%2f..%2forders/7", "/things/open/..;/orders/7", "/things\\open", "/things/open%00"),
    *("/things/%2e%2e/orders/7", "//things/open", "/things/open;/../../orders/7", "/things/open%5c..%5corders", "/."),
    *("/things/open#/orders/7", "/things/open/./", "/orders/%252e%252e/things/open", "/things/open/%c0%ae/"),
    *("http://shop.example/things/open", "/things/open%2F", "/%2e/things/open", "/a/b/../../orders/7", "/things/%zz"),
]


@each
async def test_an_ambiguous_target_is_refused_or_forwarded_as_it_was_decided(running: Lab, proxy: str) -> None:
    """Without a token: whatever arrives must be a public route, however a server behind reads it."""
    await asyncio.gather(*(ask(running.ports[proxy], target) for target in AMBIGUOUS))
    for seen in running.backend.seen:
        assert seen.values("x-gateway-route") == ["exact"]
        assert seen.target.rstrip("/") == "/things/open"
    for seen in running.shop.seen:
        assert seen.values("x-gateway-route") == ["strip"]
        assert ".." not in seen.target


@each
async def test_a_websocket_is_decided_before_it_opens(running: Lab, proxy: str) -> None:
    port, cookie = running.ports[proxy], f"Cookie: session={running.token()}"
    assert problem(await ask(port, "/orders/ws", bearer(running, "bob"), *HANDSHAKE)) == (403, "iam_denied")
    foreign = await ask(port, "/orders/ws", cookie, "Origin: http://evil.example", *HANDSHAKE)
    assert problem(foreign) == (400, "cross_site")
    assert (await ask(port, "/orders/ws", cookie, *HANDSHAKE)).status == 400
    assert nothing_arrived(running)
    assert (await ask(port, "/orders/ws", cookie, "Origin: http://gateway.test", *HANDSHAKE)).status == 101
    assert (await ask(port, "/orders/ws", bearer(running), *HANDSHAKE)).status == 101
    assert [seen.values("x-auth-subject") for seen in running.backend.seen] == [["alice"], ["alice"]]
    assert running.backend.seen[0].values("upgrade") == ["websocket"]


@each
async def test_a_cross_site_post_with_a_cookie_is_refused(running: Lab, proxy: str) -> None:
    cookie = f"Cookie: session={running.token()}"
    response = await ask(
        running.ports[proxy], "/orders/7", cookie, "Origin: http://evil.example", method="POST", body="x"
    )
    assert problem(response) == (400, "cross_site")
    assert nothing_arrived(running)


@each
async def test_other_upgrades_are_no_way_around(running: Lab, proxy: str) -> None:
    """HTTP/2 in clear text (h2c) would be a tunnel through which no request is decided."""
    fields = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    await ask(running.ports[proxy], "/things/open", *fields)
    for seen in running.backend.seen:
        assert seen.values("upgrade") == []


async def test_of_two_gateways_one_is_killed_under_load_without_a_failed_request(running: Lab) -> None:
    """Killed, not stopped: its connections break. Every proxy asks the other one again."""
    other = await running.start_gateway(running.folder / "other" / "routes.yaml")
    proxies = dict(
        zip(PROXIES, await asyncio.gather(*(running.with_two(name, other) for name in PROXIES)), strict=True)
    )
    stop = asyncio.Event()
    statuses: dict[str, list[int]] = {name: [] for name in PROXIES}

    async def caller(name: str, port: int) -> None:
        while not stop.is_set():
            statuses[name].append((await ask(port, "/orders/7", bearer(running))).status)

    callers = [asyncio.create_task(caller(name, port)) for name, (port, _) in proxies.items() for _ in range(2)]
    try:
        await asyncio.sleep(1.0)
        before = {name: len(seen) for name, seen in statuses.items()}
        assert other.process is not None
        other.process.kill()
        await asyncio.sleep(1.5)
    finally:
        stop.set()
        await asyncio.gather(*callers)
        running.of_two = {name: port for name, (port, _) in proxies.items()}
        running.processes += [process for _, process in proxies.values()]
        await asyncio.gather(other.process.wait(), *other._readers)
    assert {name: set(seen) for name, seen in statuses.items()} == {name: {200} for name in PROXIES}
    assert all(0 < before[name] < len(statuses[name]) for name in PROXIES)


@each
async def test_without_a_gateway_nothing_is_forwarded(running: Lab, proxy: str) -> None:
    """Last: it ends the gateway."""
    assert running.gateway is not None
    if running.gateway.process is not None and running.gateway.process.returncode is None:
        assert await running.gateway.stop() == 0
    response = await ask(running.ports[proxy], "/things/open", bearer(running))
    assert nothing_arrived(running)
    if proxy == "traefik":
        assert response.status == 500
        several = await ask(running.of_two[proxy], "/things/open", bearer(running))
        assert several.status in (502, 503)
    else:
        assert problem(response) == (503, "iam_unreachable")
        assert response.value("retry-after") == "1"


@each
async def test_no_other_answer_than_a_permit_lets_a_request_through(running: Lab, proxy: str) -> None:
    """After the test above: in the gateway's place is somebody who answers oddly."""
    answers = {
        "/things/open?1": (302, {"Location": "/elsewhere"}),
        "/things/open?2": (304, {}),
        "/things/open?3": (418, {}),
        "/things/open?4": (500, {}),
    }
    if proxy in ("envoy", "caddy"):
        answers["/things/open?5"] = (200, {"X-Gateway-Route": "unknown"})
        answers["/things/open?6"] = (200, {})

    def answer(seen: Seen) -> tuple[int, dict[str, str], bytes]:
        targets = [*seen.values("x-original-uri"), *seen.values("x-forwarded-uri"), seen.target.removeprefix("/envoy")]
        return *answers[targets[0]], b""

    somebody = Server(answer)
    somebody.port = running.decisions
    await somebody.start()
    try:
        responses = {target: await ask(running.ports[proxy], target) for target in answers}
    finally:
        await somebody.stop()
    assert nothing_arrived(running)
    assert all(response.status >= 300 for response in responses.values())
    assert len(somebody.seen) >= len(answers)
