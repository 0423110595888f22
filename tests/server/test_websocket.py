"""WebSocket handshakes are requests: refused like any other, and only then a socket."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
import websockets
from listener_harness import MiniGateway, served

from gateway.model.settings import ServerSettings

pytestmark = pytest.mark.hazard
KEY = base64.b64encode(b"0123456789abcdef")
HANDSHAKE = (
    b"GET /inventory/live?x=1 HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer allow\r\n"
    b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n\r\n"
)


async def test_an_authorized_socket_carries_messages_both_ways() -> None:
    app = MiniGateway(ServerSettings())
    async with served(app, app.settings) as edge:
        url = f"ws://127.0.0.1:{edge.port}/inventory/live?x=1"
        long = {"Authorization": "Bearer allow", "Cookie": "c" * 10_000}
        async with websockets.connect(url, additional_headers=long, proxy=None) as socket:
            await socket.send("text")
            assert await socket.recv() == "text"
            await socket.send(b"\x00" * 100_000)
            assert await socket.recv() == b"\x00" * 100_000
        assert edge.listener.connections == 0
    (request,) = app.seen
    assert request.websocket
    assert request.target.raw == b"/inventory/live?x=1"
    assert request.scheme == "http"
    assert request.values(b"cookie") == [b"c" * 10_000]
    assert request.host == f"127.0.0.1:{edge.port}"


async def test_frames_sent_with_the_handshake_are_not_lost() -> None:
    app = MiniGateway(ServerSettings())
    masked_hi = b"\x81\x82\x00\x00\x00\x00hi"
    async with served(app, app.settings) as edge:
        reader, writer = await edge.connect()
        writer.write(HANDSHAKE + masked_hi)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        assert await reader.readexactly(4) == b"\x81\x02hi"
        writer.close()


async def test_a_text_that_is_no_utf_8_ends_with_1007_and_is_nobodys_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = MiniGateway(ServerSettings())
    async with served(app, app.settings) as edge:
        reader, writer = await edge.connect()
        writer.write(HANDSHAKE + b"\x81\x82\x00\x00\x00\x00\xff\xfe")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        assert await reader.readexactly(4) == b"\x88\x02\x03\xef"
        writer.close()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"Bearer allow", b"Bearer deny"), b"403"),
        ((b"Authorization: Bearer allow\r\n", b""), b"401"),
        ((b"/inventory/live", b"/nothing"), b"404"),
        ((b"/inventory/live", b"/inventory/../live"), b"400"),
        ((b"Version: 13", b"Version: 8"), b"400"),
        ((b"Version: 13", b"Version: 13\r\nSec-WebSocket-Version: 13"), b"400"),
        ((KEY, b"x"), b"400"),
        ((KEY, b"!!!!"), b"400"),
        ((b"GET", b"POST"), b"400"),
        ((b"HTTP/1.1", b"HTTP/1.0"), b"400"),
        ((b"Host: gateway.test\r\n", b""), b"400"),
        ((b"Version: 13", b"Version: 13\r\nSec-WebSocket-Protocol: a b"), b"400"),
        ((b"Version: 13", b"Version: 13\r\nSec-WebSocket-Protocol: " + b"a" * 5000), b"431"),
        ((b"Version: 13", b"Version: 13\r\nContent-Length: 5"), b"400"),
    ],
)
async def test_a_refused_handshake_is_a_problem_and_no_socket(change: tuple[bytes, bytes], status: bytes) -> None:
    app = MiniGateway(ServerSettings())
    async with served(app, app.settings) as edge:
        answer = await edge.say(HANDSHAKE.replace(*change) + b"GET /open/smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"application/problem+json" in answer.lower()
    assert answer.count(b"HTTP/1.1 ") == 1
    assert all(request.target.raw != b"/open/smuggled" for request in app.seen)


async def test_an_upgrade_without_connection_is_a_plain_request() -> None:
    app = MiniGateway(ServerSettings())
    async with served(app, app.settings) as edge:
        answer = await edge.say(HANDSHAKE.replace(b"keep-alive, Upgrade", b"close"))
    assert answer.startswith(b"HTTP/1.1 200")
    assert not app.seen[0].websocket


async def test_a_client_that_leaves_during_the_handshake_cancels_the_app() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            assert scope["extensions"]["gateway.edge"].client_left
            ended.set()

    async with served(app, ServerSettings()) as edge:
        _, writer = await edge.connect()
        writer.write(HANDSHAKE)
        await began.wait()
        writer.close()
        await asyncio.wait_for(ended.wait(), 5)


async def test_an_app_that_raises_during_the_handshake_is_an_opaque_500() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("secret")

    async with served(app, ServerSettings()) as edge:
        answer = await edge.say(HANDSHAKE)
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"internal_error" in answer
    assert b"secret" not in answer


async def test_a_client_that_leaves_an_open_socket_is_told_to_the_app() -> None:
    heard: list[Any] = []
    ended = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        heard.append(await receive())
        ended.set()

    async with served(app, ServerSettings()) as edge:
        reader, writer = await edge.connect()
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
        await asyncio.wait_for(ended.wait(), 5)
    assert heard[0]["type"] == "websocket.disconnect"
