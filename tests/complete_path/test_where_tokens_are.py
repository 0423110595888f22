"""Tokens in cookie, query and WebSocket subprotocol, through the running gateway: who sees them, and who does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidStatus

from tests.complete_path.issuer import Issuer
from tests.complete_path.patience import PATIENCE_S
from tests.e2e.conftest import GatewayProcess, Seen, Server, free_port, permits

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{port}", admin: "127.0.0.1:{admin}"}}
iam: {{url: "{iam}"}}
identity:
  {jwt}
  token: [header, {{cookie: session}}, {{query: access_token}}, websocket_protocol]
upstreams: {{app: {{url: "{upstream}"}}, ws: {{url: "http://127.0.0.1:{ws}"}}}}
routes:
  - {{id: app, path: /app/*, upstream: app, authorize: ["{{method}} thing:{{route.path}}"],
     cors: {{origins: [https://front.example], credentials: true}}}}
  - {{id: forwards, path: /forwards/*, upstream: app, authorize: authenticated, forward_token: true}}
  - {{id: open, path: /open/*, upstream: app, authorize: public}}
  - {{id: queried, path: /queried/*, upstream: app, authorize: ["read thing:{{query.id}}"]}}
  - {{id: ws, path: /ws/*, upstream: ws, authorize: authenticated}}
"""


class Scene:
    """One gateway for all tests of this file."""

    def __init__(self, gateway: GatewayProcess, iam: Server, upstream: Server, issuer: Issuer) -> None:
        self.gateway = gateway
        self.iam = iam
        self.upstream = upstream
        self.issuer = issuer
        self.offered: list[str | None] = []

    async def ask(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        async with httpx.AsyncClient(base_url=self.gateway.url, trust_env=False, timeout=PATIENCE_S) as client:
            return await client.request(method, path, headers=fields)

    def seen(self) -> Seen:
        return self.upstream.seen[-1]

    def open(self, *protocols: str, **options: Any) -> connect:
        url = f"ws://127.0.0.1:{self.gateway.port}/ws/1"
        return connect(url, subprotocols=list(protocols) or None, proxy=None, open_timeout=PATIENCE_S, **options)


def _echo(_seen: Seen) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, b"{}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("tokens")
    issuer, iam, upstream = Issuer(), Server(permits(lambda _: True)), Server(_echo)
    await iam.start()
    await upstream.start()
    gateway = GatewayProcess(folder / "routes.yaml", free_port(), free_port())
    made = Scene(gateway, iam, upstream, issuer)

    async def talk(connection: ServerConnection) -> None:
        assert connection.request is not None
        made.offered.append(connection.request.headers.get("sec-websocket-protocol"))
        await connection.send("hello")

    async with serve(talk, "127.0.0.1", 0, subprotocols=["chat"], select_subprotocol=_chat) as server:  # type: ignore[list-item]
        ws = next(iter(server.sockets)).getsockname()[1]
        text = ROUTES.format(
            port=gateway.port,
            admin=gateway.admin_port,
            iam=iam.url,
            upstream=upstream.url,
            ws=ws,
            jwt=issuer.settings(folder).strip("{}").join(("", "}")),
        )
        gateway.file.write_text(text)
        await gateway.start()
        yield made
        await gateway.stop()
    await iam.stop()
    await upstream.stop()


def _chat(_connection: ServerConnection, offered: Any) -> Any:
    return "chat" if "chat" in offered else None


@pytest.mark.parametrize(
    ("query", "rest"),
    [
        ("?access_token={t}", ""),
        ("?a=1&access_token={t}&b=%2f&a=1", "?a=1&b=%2f&a=1"),
        ("?access%5Ftoken={t}&x", "?x"),
        ("?&access_token={t}", ""),
        ("?a=b&access_token={t}", "?a=b"),
    ],
)
async def test_a_token_in_the_query_is_cut_out_and_the_rest_goes_on_byte_for_byte(scene, query, rest):
    answer = await scene.ask("/app/x%20y" + query.format(t=scene.issuer.token("alice")))
    assert answer.status_code == 200
    assert scene.seen().target == "/app/x%20y" + rest
    assert dict(scene.seen().headers)["x-auth-subject"] == "alice"


async def test_a_token_twice_in_the_query_is_refused(scene):
    token = scene.issuer.token("alice")
    answer = await scene.ask(f"/app/x?access_token={token}&access%5ftoken={token}")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


async def test_the_first_place_that_holds_a_token_counts_and_no_other_is_tried(scene):
    good, before = scene.issuer.token("alice"), len(scene.upstream.seen)
    answer = await scene.ask(f"/app/x?access_token={good}", authorization="Bearer bad.bad.bad")
    assert answer.status_code == 401
    answer = await scene.ask(f"/app/x?access_token={good}", cookie="session=bad")
    assert answer.status_code == 401
    assert len(scene.upstream.seen) == before
    bob = scene.issuer.token("bob")
    answer = await scene.ask(f"/app/x?access_token={bob}", authorization=f"Bearer {good}")
    assert dict(scene.seen().headers)["x-auth-subject"] == "alice"
    assert bob not in scene.seen().target, "not used, and not passed on either"
    answer = await scene.ask("/app/x", authorization="Basic eDp5", cookie=f"session={good}")
    assert answer.status_code == 200


async def test_a_cookie_that_is_the_token_does_not_go_on_and_the_others_do(scene):
    token = scene.issuer.token("alice")
    for cookie, rest in ((f"session={token}", []), (f"a=1; session={token}; b=2", ["a=1; b=2"])):
        answer = await scene.ask("/app/x", cookie=cookie)
        assert answer.status_code == 200
        assert scene.seen().values("cookie") == rest
    answer = await scene.ask("/app/x", cookie=f"session={token}; session={token}")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


async def test_neither_goes_on_from_a_public_route(scene):
    answer = await scene.ask("/open/x?access_token=secret-token&a=1", cookie="session=secret-token; a=1")
    assert answer.status_code == 200
    assert scene.seen().target == "/open/x?a=1"
    assert scene.seen().values("cookie") == ["a=1"]


async def test_a_route_may_forward_them(scene):
    token = scene.issuer.token("alice")
    assert (await scene.ask(f"/forwards/x?a=1&access_token={token}&b=2")).status_code == 200
    assert scene.seen().target == f"/forwards/x?a=1&access_token={token}&b=2"
    assert (await scene.ask("/forwards/x", cookie=f"a=1; session={token}")).status_code == 200
    assert scene.seen().values("cookie") == [f"a=1; session={token}"]


async def test_no_question_holds_the_token(scene):
    token = scene.issuer.token("alice")
    answer = await scene.ask(f"/queried/x?id=7&access_token={token}")
    assert answer.status_code == 200
    assert all(token.encode() not in seen.body for seen in scene.iam.seen)


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("POST", {}, 400),
        ("DELETE", {"origin": "https://evil.example"}, 400),
        ("POST", {"origin": "null"}, 400),
        ("POST", {"origin": "{own}"}, 200),
        ("POST", {"origin": "{own}.evil.example"}, 400),
        ("POST", {"origin": "https://front.example"}, 200),
        ("POST", {"origin": "https://front.example:8443"}, 400),
        ("POST", {"origin": "https://FRONT.example"}, 200),
    ],
)
async def test_a_cookie_needs_an_origin_that_may_use_it(scene, method, headers, status):
    fields = {name: value.format(own=scene.gateway.url) for name, value in headers.items()}
    answer = await scene.ask("/app/x", method, cookie=f"session={scene.issuer.token('alice')}", **fields)
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["code"] == "cross_site"
        assert answer.headers["proxy-status"] == "edge; error=http_request_error"


async def test_a_token_in_the_header_needs_no_origin(scene):
    answer = await scene.ask(
        "/app/x", "POST", authorization=f"Bearer {scene.issuer.token('alice')}", cookie="session=x"
    )
    assert answer.status_code == 200


async def test_of_the_subprotocols_the_token_is_cut_out(scene):
    token = scene.issuer.token("alice")
    async with scene.open("chat", "bearer", token) as socket:
        assert socket.subprotocol == "chat"
        assert await socket.recv() == "hello"
    assert scene.offered[-1] == "chat"
    async with scene.open("bearer", token) as socket:
        assert socket.subprotocol == "bearer", "a browser gives up on a handshake that chose none of its protocols"
    assert scene.offered[-1] is None
    for bad in (("bearer", token, "chat"), ("chat", "bearer"), ("bearer", "bearer", token)):
        with pytest.raises(InvalidStatus) as refused:
            async with scene.open(*bad):
                pass
        assert refused.value.response.status_code == 400
    with pytest.raises(InvalidStatus) as refused:
        async with scene.open("chat", "bearer", "not-a-token"):
            pass
    assert refused.value.response.status_code == 401


async def test_a_handshake_with_a_cookie_needs_an_origin(scene):
    cookie = {"cookie": f"session={scene.issuer.token('alice')}"}
    with pytest.raises(InvalidStatus) as refused:
        async with scene.open("chat", additional_headers=cookie):
            pass
    assert refused.value.response.status_code == 400
    async with scene.open("chat", additional_headers=cookie, origin=scene.gateway.url) as socket:  # type: ignore[arg-type]
        assert await socket.recv() == "hello"


async def test_no_log_line_holds_a_token(scene):
    token = scene.issuer.token("alice", jti="very-own")
    await scene.ask(f"/app/x?access_token={token}")
    await scene.ask(f"/app/x?access_token={token}&access_token={token}")
    await scene.ask(f"/nowhere?access_token={token}")
    await scene.ask(f"/app/../x?access_token={token}#{token}")
    await scene.ask("/app/x", "POST", cookie=f"session={token}")
    await asyncio.sleep(0.3)
    said = scene.gateway.output + scene.gateway.errors
    assert b'"path":"/app/x"' in said
    assert token.encode() not in said
    assert token.rpartition(".")[2].encode() not in said
