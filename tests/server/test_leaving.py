"""Clients that leave, applications that fail: who is told, what is cancelled, what is never taken for complete."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import struct
import weakref
from typing import Any

import pytest
from listener_harness import bare, served

from gateway.model.settings import ServerSettings
from gateway.server.connection import EdgeProtocol

pytestmark = pytest.mark.hazard
GET = b"GET /open/a HTTP/1.1\r\nHost: gateway.test\r\n\r\n"


class Waiting:
    """An application that never answers, and remembers how it ended."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.ended = asyncio.Event()
        self.cancelled = False
        self.client_left = False
        self.runs = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.runs += 1
        self.began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.client_left = scope["extensions"]["gateway.edge"].client_left
            self.ended.set()


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.mark.parametrize("leave", ["close", "half-close", "reset"])
@pytest.mark.parametrize("after", [b"", GET, GET * 5], ids=["alone", "one waits", "five wait"])
async def test_a_client_that_leaves_cancels_its_request_and_nothing_is_an_error(
    leave: str, after: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    app = Waiting()
    async with served(app, ServerSettings()) as edge:
        _, writer = await edge.connect()
        writer.write(GET + after)
        await app.began.wait()
        await asyncio.sleep(0.02)
        {"close": writer.close, "half-close": writer.write_eof, "reset": lambda: reset(writer)}[leave]()
        await asyncio.wait_for(app.ended.wait(), 5)
        await asyncio.sleep(0.05)
        assert edge.server.server_state.tasks == set()
        writer.close()
    assert app.cancelled
    assert app.client_left
    assert app.runs == 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_what_an_app_does_after_its_answer_is_not_cancelled() -> None:
    finished = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await bare()(scope, receive, send)
        await asyncio.sleep(0.2)
        finished.set()

    async with served(app, ServerSettings()) as edge:
        reader, writer = await edge.connect()
        writer.write(GET)
        await reader.readuntil(b"ok")
        writer.transport.abort()
        await asyncio.wait_for(finished.wait(), 5)


async def test_an_app_that_listens_is_told_of_the_end_of_its_response() -> None:
    """ASGI: `receive` after the body waits, then says `http.disconnect`."""
    heard = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.append(await receive())
        listening = asyncio.create_task(receive())
        await asyncio.sleep(0.01)
        assert not listening.done()
        await bare()(scope, receive, send)
        heard.append(await listening)

    async with served(app, ServerSettings()) as edge:
        reader, writer = await edge.connect()
        writer.write(GET)
        await reader.readuntil(b"ok")
        writer.close()
    assert [message["type"] for message in heard] == ["http.request", "http.disconnect"]


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_an_aborted_response_is_an_error_to_the_client_and_never_an_end(version: bytes) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await asyncio.sleep(0.05)
        edge = scope["extensions"]["gateway.edge"]
        edge.abort()
        await asyncio.sleep(0.05)
        assert not edge.client_left
        await send({"type": "http.response.body", "body": b"more"})

    async with served(app, ServerSettings()) as edge:
        reader, writer = await edge.connect()
        writer.write(GET.replace(b"1.1", version))
        assert b"part" in await reader.readuntil(b"part")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_an_app_that_raises_is_an_opaque_500(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("secret")

    async with served(app, ServerSettings()) as edge:
        answer = await edge.say(GET)
    assert answer.startswith(b"HTTP/1.1 500")
    assert b'"code": "internal_error"' in answer
    assert b"secret" not in answer
    assert "secret" in caplog.text


@pytest.mark.parametrize("ending", ["raises", "returns", "is cancelled", "writes too little", "writes too much"])
async def test_a_response_that_the_app_does_not_complete_is_reset(ending: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        await asyncio.sleep(0.02)
        match ending:
            case "raises":
                raise ValueError("secret")
            case "is cancelled":
                asyncio.current_task().cancel()
                await asyncio.sleep(1)
            case "writes too little":
                await send({"type": "http.response.body", "body": b"part"})
            case "writes too much":
                await send({"type": "http.response.body", "body": b"part" * 10})

    async with served(app, ServerSettings()) as edge:
        reader, writer = await edge.connect()
        writer.write(GET)
        assert await reader.readuntil(b"part")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_a_client_that_takes_nothing_is_cut_off_and_the_app_waits_meanwhile() -> None:
    sent = 0
    ended = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"a" * 65536, "more_body": True})
                sent += 65536
        finally:
            ended.set()

    async with served(app, ServerSettings(idle_timeout_s=0.5)) as edge:
        _, writer = await edge.connect()
        writer.transport.pause_reading()
        writer.write(GET)
        await asyncio.wait_for(ended.wait(), 10)
        writer.transport.abort()
    assert sent < 50_000_000


async def test_nothing_of_a_closed_connection_stays_in_memory() -> None:
    """Timers, tasks and cycles of requests let go of it (reset right after the answer, with the idle timer armed)."""
    async with served(bare(), ServerSettings()) as edge:
        reader, writer = await edge.connect()
        writer.write(GET)
        await reader.readuntil(b"ok")
        (connection,) = edge.server.server_state.connections
        assert isinstance(connection, EdgeProtocol)
        gone = weakref.ref(connection)
        del connection
        reset(writer)
        await asyncio.sleep(0.1)
        gc.collect()
        assert gone() is None


async def test_when_the_server_stops_idle_connections_close_and_running_requests_say_so() -> None:
    release = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await release.wait()
        await bare()(scope, receive, send)

    async with served(app, ServerSettings()) as edge:
        idle, idle_writer = await edge.connect()
        busy, writer = await edge.connect()
        writer.write(GET)
        await asyncio.sleep(0.05)
        for connection in list(edge.server.server_state.connections):
            connection.shutdown()
        assert await idle.read() == b""
        release.set()
        assert b"connection: close" in await busy.read()
        idle_writer.close()
        writer.close()
