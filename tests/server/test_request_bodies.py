"""Bodies: what the app receives, what it never takes for complete, and how the connection ends if it is not read."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from listener_harness import MiniGateway, bare, served

from gateway.errors import GatewayError
from gateway.model.settings import ServerSettings
from gateway.server import connection, cycle

pytestmark = pytest.mark.hazard
POST = b"POST /open/a HTTP/1.1\r\nHost: gateway.test\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


class Reader:
    """An application that remembers what it was given."""

    def __init__(self) -> None:
        self.body = b""
        self.complete = False
        self.error: GatewayError | None = None
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.headers = scope["headers"]
        try:
            while not self.complete:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                self.body += message["body"]
                self.complete = not message["more_body"]
        except GatewayError as error:
            self.error = error
        status = self.error.kind.status if self.error else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + b"Content-Length: 5\r\n\r\nhello",
        CHUNKED + b"5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\nX-Forwarded-User: admin\r\n\r\n",
        POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello",
        POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        POST + b"Connection: Upgrade\r\nUpgrade:\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
@pytest.mark.parametrize("split", [False, True])
async def test_a_body_arrives_whole_however_it_is_framed_or_split(request_bytes: bytes, split: bool) -> None:
    app = Reader()
    last = POST + b"Connection: close\r\n\r\n"
    parts = [bytes([byte]) for byte in request_bytes] if split else [request_bytes]
    async with served(app, ServerSettings()) as edge:
        answer = await edge.say(*parts, last, pause=0.001)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert app.body == b"hello"
    assert all(name != b"x-forwarded-user" for name, _ in app.headers)


@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-1\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\nX\r\n\r\n",
        b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
    ],
)
async def test_a_malformed_body_is_never_complete_and_closes_the_connection(body: bytes) -> None:
    app = Reader()
    async with served(app, ServerSettings()) as edge:
        for parts in ((CHUNKED + body,), (CHUNKED, body)):
            answer = await edge.say(*parts)
            assert answer.startswith(b"HTTP/1.1 400")
            assert b"connection: close" in answer
            assert not app.complete


@pytest.mark.parametrize("framing", [CHUNKED + b"5\r\nhel", POST + b"Content-Length: 10\r\n\r\nhello"])
async def test_a_body_cut_off_by_the_client_is_never_complete(framing: bytes) -> None:
    app = Reader()
    async with served(app, ServerSettings()) as edge:
        reader, writer = await edge.connect()
        writer.write(framing)
        await asyncio.sleep(0.05)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
    assert not app.complete


@pytest.mark.parametrize("body", [b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\nno colon\r\n\r\n"])
async def test_an_app_never_hears_of_a_request_that_came_malformed_in_one_piece(body: bytes) -> None:
    app = Reader()
    async with served(app, ServerSettings()) as edge:
        answer = await edge.say(CHUNKED + body)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1
    assert app.headers == []


@pytest.mark.parametrize("size", [1, 16, 300_000])
async def test_a_large_chunked_body_arrives_whole_in_chunks_of_any_size(size: int) -> None:
    """What is counted against `max_header_bytes` is what stands around the content, not the content."""
    app = Reader()
    chunks = b"%x\r\n%b\r\n" % (size, b"x" * size) * (900_000 // size)
    async with served(app, ServerSettings()) as edge:
        answer = await edge.say(CHUNKED + chunks + b"0\r\n\r\n", POST + b"Connection: close\r\n\r\n", wait=20)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert len(app.body) == 900_000


async def test_endless_chunk_extensions_are_bounded() -> None:
    app = Reader()
    async with served(app, ServerSettings()) as edge:
        answer = await edge.say(CHUNKED, *[b"1;" + b"a" * 9000 + b"\r\nx\r\n"] * 6, pause=0.01)
    assert answer.startswith(b"HTTP/1.1 431")
    assert not app.complete


async def test_endless_trailers_are_bounded() -> None:
    app = Reader()
    trailers = [b"T: " + b"a" * 9000 + b"\r\n"] * 6
    async with served(app, ServerSettings()) as edge:
        answer = await edge.say(CHUNKED + b"5\r\nhello\r\n0\r\n", *trailers, pause=0.01)
    assert answer.startswith(b"HTTP/1.1 431")
    assert not app.complete


async def test_a_body_slower_than_the_rate_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycle, "RATE_WINDOW_S", 0.2)
    app = Reader()
    async with served(app, ServerSettings(min_body_rate=1024)) as edge:
        answer = await edge.say(POST + b"Content-Length: 1000\r\n\r\n", *[b"a"] * 20, pause=0.03)
    assert app.error is not None
    assert app.error.code == "request_timeout"
    assert answer.startswith(b"HTTP/1.1 408")


async def test_a_body_as_fast_as_the_rate_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycle, "RATE_WINDOW_S", 0.1)
    app = Reader()
    body = [b"a" * 500] * 10
    async with served(app, ServerSettings(min_body_rate=1024)) as edge:
        answer = await edge.say(POST + b"Connection: close\r\nContent-Length: 5000\r\n\r\n", *body, pause=0.05)
    assert answer.startswith(b"HTTP/1.1 200")
    assert app.body == b"".join(body)


async def test_100_continue_is_sent_when_the_app_first_waits_for_the_body() -> None:
    async with served(Reader(), ServerSettings()) as edge:
        head = POST + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"
        assert (await edge.say(head, b"hello")).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")
        assert (await edge.say(head + b"hello")).startswith(b"HTTP/1.1 200")
        assert (await edge.say(head.replace(b"th: 5", b"th: 0"))).startswith(b"HTTP/1.1 200")


async def test_100_continue_is_not_sent_to_who_is_refused_or_speaks_1_0() -> None:
    async with served(bare(403), ServerSettings()) as edge:
        head = POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        answer = await edge.say(head)
        assert answer.startswith(b"HTTP/1.1 403")
        assert b"connection: close" in answer
    async with served(Reader(), ServerSettings()) as edge:
        answer = await edge.say(head.replace(b"1.1", b"1.0"), b"hello")
        assert answer.startswith(b"HTTP/1.1 200")


async def test_an_early_answer_reaches_a_client_that_is_still_sending() -> None:
    """FIN comes before a reset could, and what is still sent is discarded."""
    async with served(bare(403), ServerSettings()) as edge:
        reader, writer = await edge.connect()
        writer.write(POST + b"Content-Length: 100000000\r\n\r\n")
        for _ in range(20):
            writer.write(b"a" * 65536)
            await asyncio.sleep(0.005)
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 403")
    assert answer.endswith(b"ok")


async def test_an_unread_body_is_never_the_next_request() -> None:
    app = MiniGateway(ServerSettings())
    smuggled = b"GET /open/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    refused = b"POST /inventory/a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    async with served(app, app.settings) as edge:
        assert (await edge.say(refused % 200 + smuggled)).count(b"HTTP/1.1 ") == 1
        assert (await edge.say(refused % 200, smuggled)).count(b"HTTP/1.1 ") == 1
        whole = refused % len(smuggled) + smuggled
        assert (await edge.say(whole, b"GET / HTTP/1.0\r\n\r\n")).count(b"HTTP/1.1 40") == 2
    assert [request.target.raw for request in app.seen] == [b"/inventory/a"] * 3 + [b"/"]


async def test_a_body_that_the_app_does_not_read_stops_being_read() -> None:
    """Backpressure: the client's bytes wait in the client."""
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await Reader()(scope, receive, send)

    async with served(app, ServerSettings()) as edge:
        reader, writer = await edge.connect()
        size = 20_000_000
        writer.write(POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size)
        writer.write(b"a" * size)
        await asyncio.sleep(0.3)
        assert writer.transport.get_write_buffer_size() > size / 2
        go.set()
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()


async def seconds_of_upload(size: int, monkeypatch: pytest.MonkeyPatch, at_most_s: float) -> tuple[bytes, float]:
    """Upload in pieces of `size` after an early answer: the answer, and how long the upload was not broken off."""
    monkeypatch.setattr(connection, "LINGER_S", 0.4)
    monkeypatch.setattr(connection, "LINGER_MAX_S", 1.5)
    loop = asyncio.get_running_loop()
    async with served(bare(413), ServerSettings()) as edge:
        reader, writer = await edge.connect()
        writer.write(POST + b"Content-Length: 100000000\r\n\r\n")
        answer = await reader.readuntil(b"ok")
        began_s = loop.time()
        with contextlib.suppress(ConnectionError):
            while loop.time() - began_s < at_most_s:
                writer.write(b"u" * size)
                await writer.drain()
                await asyncio.sleep(0.05)
        lasted_s = loop.time() - began_s
        writer.close()
    return answer, lasted_s


async def test_after_an_early_answer_an_upload_may_go_on_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, lasted_s = await seconds_of_upload(4096, monkeypatch, 1.0)
    assert answer.startswith(b"HTTP/1.1 413")
    assert lasted_s >= 1.0


async def test_it_does_not_go_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    _, lasted_s = await seconds_of_upload(4096, monkeypatch, 20.0)
    assert 1.0 <= lasted_s < 20.0


async def test_a_trickle_is_broken_off_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER_MAX_S", 60.0)
    _, lasted_s = await seconds_of_upload(1, monkeypatch, 20.0)
    assert lasted_s < 20.0


async def test_others_have_their_turn_while_one_sends_tiny_chunks() -> None:
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(count)

    loop, app = asyncio.get_running_loop(), Reader()
    async with served(app, ServerSettings()) as edge:
        task = asyncio.create_task(edge.say(CHUNKED + b"1\r\na\r\n" * 30_000 + b"0\r\n\r\n", wait=20))
        loop.call_soon(count)
        async with asyncio.timeout(20):
            while not app.complete:  # noqa: ASYNC110 - turns are what is counted
                await asyncio.sleep(0)
        assert app.body == b"a" * 30_000
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert turns > 30_000 / 256
