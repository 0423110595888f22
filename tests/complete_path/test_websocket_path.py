"""WebSockets the whole way: a real client, the running gateway, a real upstream, and an IAM that comes and goes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.complete_path.issuer import Issuer
from tests.complete_path.patience import PATIENCE_S, standstill, until, until_served
from tests.complete_path.talkative import Talkative, talkative
from tests.e2e.conftest import GatewayProcess, Server, free_port, permits

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{port}", admin: "127.0.0.1:{admin}", max_streams: 48}}
iam:
  url: "{iam}"
  timeout: {{connect: 500ms, read: 500ms, total: 800ms}}
  circuit_breaker: {{failure_threshold: 2, open_for: 1s, open_for_max: 1s}}
  cache: {{max_stale: 1s}}
identity: {identity}
upstreams: {{talkative: {{url: "{upstream}"}}, gone: {{url: "http://127.0.0.1:{gone}"}}}}
routes:
  - {{id: chat, path: /chat/*, upstream: talkative, authorize: ["read system:chat"]}}
  - {{id: small, path: /small/*, upstream: talkative, authorize: public, max_body: 64KiB}}
  - {{id: quiet, path: /quiet/*, upstream: talkative, authorize: public, stream_idle_timeout: 700ms}}
  - {{id: watched, path: /watched/*, upstream: talkative, authorize: ["read system:watched"], recheck: 300ms}}
  - {{id: gone, path: /gone/*, upstream: gone, authorize: public}}
"""


class Scene:
    """One gateway for all tests of this file; each test undoes what it broke."""

    def __init__(self, gateway: GatewayProcess, iam: Server, upstream: Talkative, issuer: Issuer) -> None:
        self.gateway = gateway
        self.iam = iam
        self.upstream = upstream
        self.issuer = issuer
        self.denied: set[str] = set()

    def open(self, path: str, subject: str = "alice", **options: Any) -> connect:
        headers = options.pop("headers", None) or self.issuer.bearer(subject)
        return connect(
            f"ws://127.0.0.1:{self.gateway.port}{path}",
            additional_headers=headers,
            proxy=None,
            open_timeout=PATIENCE_S,
            close_timeout=PATIENCE_S,
            max_size=None,
            **options,
        )

    async def refusal(self, path: str, subject: str = "alice", **options: Any) -> tuple[int, dict[str, Any], Any]:
        """Status, problem and header of a handshake that is refused."""
        with pytest.raises(InvalidStatus) as caught:
            async with self.open(path, subject, **options):
                pass
        response = caught.value.response
        return response.status_code, json.loads(response.body or b"{}"), response.headers

    async def attempt(self, path: str) -> int:
        """200 for a connection that echoes, else the status of the refusal."""
        try:
            async with self.open(path) as connection:
                await connection.send("x")
                assert await asyncio.wait_for(connection.recv(), PATIENCE_S) == "x"
        except InvalidStatus as refused:
            return refused.response.status_code
        return 200

    async def upstream_closed(self, path: str) -> tuple[int | None, str | None]:
        """How the upstream's side of the one connection with this path ended."""
        await until(lambda: any(entry[0] == path for entry in self.upstream.closed))
        return next(entry[1:] for entry in self.upstream.closed if entry[0] == path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    issuer, denied = Issuer(), {"mallory"}
    iam = Server(permits(lambda evaluation: evaluation["subject"]["id"] not in denied))
    await iam.start()
    folder = tmp_path_factory.mktemp("websocket")
    port, admin = free_port(), free_port()
    async with talkative() as upstream:
        text = ROUTES.format(
            port=port,
            admin=admin,
            iam=iam.url,
            identity=issuer.settings(folder),
            upstream=upstream.url,
            gone=free_port(),
        )
        file = folder / "routes.yaml"
        file.write_text(text)
        gateway = GatewayProcess(file, port, admin)
        await gateway.start()
        scene = Scene(gateway, iam, upstream, issuer)
        scene.denied = denied
        yield scene
        assert await gateway.stop() == 0
    await iam.stop()


@pytest.fixture
def scene(stage: Scene) -> Scene:
    """Fresh counters; everybody but mallory is permitted."""
    stage.upstream.closed.clear()
    stage.upstream.paths.clear()
    stage.upstream.handshakes.clear()
    stage.upstream.sent = 0
    stage.denied &= {"mallory"}
    stage.iam.seen.clear()
    return stage


async def _until_closed(connection: ClientConnection) -> ConnectionClosed:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await connection.recv()
            except ConnectionClosed as closed:
                return closed


async def _code(connection: ClientConnection) -> tuple[int | None, str]:
    closed = await _until_closed(connection)
    return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (None, "")


async def test_text_binary_and_pings_go_both_ways_after_one_question_to_iam(scene: Scene) -> None:
    async with scene.open("/chat/room?since=%2F1") as connection:
        for message in ("grüße", b"\x00\xff" * 3, "", b""):
            await connection.send(message)
            assert await asyncio.wait_for(connection.recv(), PATIENCE_S) == message
        await asyncio.wait_for(await connection.ping(b"are you there"), PATIENCE_S)
    assert await scene.upstream_closed("/chat/room?since=%2F1") == (1000, "")
    assert scene.upstream.paths == ["/chat/room?since=%2F1"]
    assert len(scene.iam.seen) == 1


async def test_a_ping_of_the_upstream_is_answered(scene: Scene) -> None:
    async with scene.open("/chat/ping") as connection:
        assert await asyncio.wait_for(connection.recv(), PATIENCE_S) == "pong"


async def test_the_upstream_chooses_among_the_offered_subprotocols(scene: Scene) -> None:
    async with scene.open(
        "/chat/room", subprotocols=["chat.v1", "chat.v2"], origin="https://app.example"
    ) as connection:
        assert connection.subprotocol == "chat.v2"
        assert connection.response is not None
        assert connection.response.headers["via"] == "1.1 edge"
    handshake = scene.upstream.handshakes[0]
    assert handshake["origin"] == "https://app.example"
    assert handshake["x-auth-subject"] == "alice"
    async with scene.open("/chat/room") as connection:
        assert connection.subprotocol is None


@pytest.mark.parametrize(("code", "reason"), [(1000, "done"), (1001, ""), (4001, "bad token ünd so")])
async def test_a_close_of_the_caller_reaches_the_upstream(scene: Scene, code: int, reason: str) -> None:
    async with scene.open(f"/chat/room?{code}") as connection:
        await connection.close(code, reason)
    assert await scene.upstream_closed(f"/chat/room?{code}") == (code, reason)


@pytest.mark.parametrize(("code", "reason"), [(1000, "done"), (1011, "broken"), (4999, "own")])
async def test_a_close_of_the_upstream_reaches_the_caller(scene: Scene, code: int, reason: str) -> None:
    async with scene.open(f"/chat/close/{code}/{reason}") as connection:
        assert await _code(connection) == (code, reason)


async def test_a_break_on_either_side_is_a_break_on_the_other(scene: Scene) -> None:
    """Never a clean close: a stream that broke off must not look complete."""
    async with scene.open("/chat/drop") as connection:
        assert await _code(connection) == (None, "")
    async with scene.open("/chat/room?break") as connection:
        await connection.send("x")
        await connection.recv()
        connection.transport.abort()
    assert (await scene.upstream_closed("/chat/room?break"))[0] == 1006


async def test_big_messages_pass_whole_and_too_big_ones_close_with_1009(scene: Scene) -> None:
    async with scene.open("/chat/room") as connection:
        for message in (b"x" * 8_000_000, "ü" * 2_000_000):
            await connection.send(message)
            assert await asyncio.wait_for(connection.recv(), PATIENCE_S) == message
    async with scene.open("/small/room") as connection:
        await connection.send(b"x" * 65536)
        assert await asyncio.wait_for(connection.recv(), PATIENCE_S) == b"x" * 65536
        await connection.send(b"x" * 65537)
        assert (await _code(connection))[0] == 1009


async def test_refused_handshakes_are_http_answers_and_nobody_upstream_hears_of_them(scene: Scene) -> None:
    status, problem, headers = await scene.refusal("/chat/room", "mallory")
    assert (status, problem["code"]) == (403, "iam_denied")
    assert "retry-after" not in headers
    assert headers["content-type"] == "application/problem+json"
    status, problem, headers = await scene.refusal("/chat/room", headers={"x-nobody": "1"})
    assert (status, problem["code"]) == (401, "unauthenticated")
    assert headers["www-authenticate"].startswith("Bearer")
    assert (await scene.refusal("/nowhere"))[0] == 404
    assert (await scene.refusal("/gone/room"))[:1] == (502,)
    assert scene.upstream.paths == []


async def test_silence_on_both_sides_closes_with_1001_and_talking_does_not(scene: Scene) -> None:
    async with scene.open("/quiet/room") as connection:
        for _ in range(4):
            await connection.send("x")
            await asyncio.wait_for(connection.recv(), PATIENCE_S)
            await asyncio.sleep(0.3)
        begun = time.monotonic()
        assert (await _code(connection))[0] == 1001
        assert time.monotonic() - begun < 0.7 + 3.0


async def test_a_stream_ends_with_its_token(scene: Scene) -> None:
    async with scene.open("/chat/room?exp", headers=scene.issuer.bearer("alice", lifetime_s=2.0)) as connection:
        await connection.send("x")
        await asyncio.wait_for(connection.recv(), PATIENCE_S)
        assert (await _code(connection))[0] == 1008
    assert (await scene.upstream_closed("/chat/room?exp"))[0] == 1001


async def test_a_recheck_that_is_denied_closes_with_1008(scene: Scene) -> None:
    async with scene.open("/watched/room", "carol") as connection:
        await connection.send("x")
        await asyncio.wait_for(connection.recv(), PATIENCE_S)
        scene.denied.add("carol")
        assert (await _code(connection))[0] == 1008
    assert len(scene.iam.seen) >= 2


async def test_an_open_stream_outlives_iam_and_new_ones_open_when_it_is_back(scene: Scene) -> None:
    """While IAM is away: open streams go on, new ones are 503 with Retry-After, a recheck closes with 1013."""
    async with scene.open("/chat/room") as old, scene.open("/watched/room") as watched:
        await scene.iam.stop()
        for _ in range(3):
            status, problem, headers = await scene.refusal("/chat/room")
            assert status == 503
            assert problem["code"] in {"iam_unreachable", "iam_timeout", "iam_circuit_open"}
            assert int(headers["retry-after"]) == problem["retry_after"] >= 1
        assert (await _code(watched))[0] == 1013
        await old.send("still here")
        assert await asyncio.wait_for(old.recv(), PATIENCE_S) == "still here"
        await scene.iam.start()
        await until_served(lambda: scene.attempt("/chat/room"), meanwhile=503)
        await old.send("and still")
        assert await asyncio.wait_for(old.recv(), PATIENCE_S) == "and still"


async def test_more_than_its_quarter_of_max_streams_is_refused_to_a_caller_and_a_place_freed_is_a_place(
    scene: Scene,
) -> None:
    opened = [await scene.open("/small/room") for _ in range(12)]
    status, problem, headers = await scene.refusal("/small/room")
    assert (status, problem["code"]) == (503, "overloaded")
    assert "retry-after" in headers
    await opened.pop().close()
    await until_served(lambda: scene.attempt("/small/room"), meanwhile=503)
    for connection in opened:
        await connection.close()


async def test_a_slow_reader_stops_the_upstream(scene: Scene) -> None:
    async with scene.open("/small/flood", max_queue=1) as connection:
        sent = await standstill(lambda: scene.upstream.sent)
        for _ in range(200):
            await asyncio.wait_for(connection.recv(), PATIENCE_S)
        await until(lambda: scene.upstream.sent > sent)
        connection.transport.abort()
