"""WebSockets: a real upstream of the `websockets` library, a caller of ASGI events."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers as WebSocketHeaders
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HandshakeRequest
from websockets.http11 import Response
from websockets.utils import accept_key

from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.forward.streams import Streams
from gateway.forward.websocket import WebSocketEndpoint, max_message
from gateway.headers import HeaderRules
from gateway.model.permit import Permit
from gateway.model.request import AccessRecord, Headers
from gateway.model.route import BreakerPolicy, ProxyAction, Resilience, Timeouts
from gateway.model.settings import ServerSettings, UpstreamSettings
from gateway.resilience.breaker import Breaker
from gateway.resilience.deadline import Deadline
from gateway.resilience.retry import RetryBudget
from gateway.telemetry.observer import NO_SPAN
from gateway.upstream import Upstream
from gateway.upstream.guarded import GuardedUpstream
from gateway.upstream.websocket import WebSocketDialer
from gateway.websocket.frames import BINARY, CONTINUATION, FIN, TEXT, Piece
from tests.forward.conftest import ALICE, FakeEdge, Spy, a_request, a_route, upstream_of

pytestmark = pytest.mark.hazard

HANDSHAKE: Headers = [
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-extensions", b"permessage-deflate"),
    (b"origin", b"https://app.example"),
    (b"authorization", b"Bearer theirs"),
]


class Caller:
    """The caller's side as uvicorn shows it."""

    def __init__(self, *extra: tuple[bytes, bytes], target: bytes = b"/inventory/ws?q=%2F") -> None:
        self.request = a_request("GET", target, [*HANDSHAKE, *extra])
        self.request.websocket = True
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.edge = FakeEdge()
        self.record = AccessRecord(started_s=time.monotonic())
        self.exchange = Exchange(self.request, self.record, NO_SPAN, self.edge, self.incoming.get, self.send)
        self.gone = False
        self.gate: asyncio.Event | None = None

    async def send(self, message: dict[str, Any]) -> None:
        if self.gone:
            raise OSError
        if self.gate is not None and message["type"] == "websocket.send":
            await self.gate.wait()
        self.outgoing.put_nowait(message)

    async def next(self) -> dict[str, Any]:
        return await asyncio.wait_for(self.outgoing.get(), 5)

    def say(self, *frames: Piece) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", "frames": frames})

    def close(self, code: int, reason: str = "", *, broke: bool = False) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason, "broke": broke})

    async def message(self) -> bytes:
        """The next whole message."""
        data = b""
        while (event := await self.next())["type"] == "websocket.send":
            data += b"".join(part for _, part in event["frames"])
            if event["frames"][-1][0] >= FIN:
                return data
        raise AssertionError(event)


@asynccontextmanager
async def endpoint(port: int, *, streams: Streams | None = None, **over: Any) -> AsyncIterator[Any]:
    route = a_route(**{"resilience": Resilience(timeout=Timeouts(connect_s=1.0, read_s=0.5)), **over})
    upstream = Upstream(UpstreamSettings(name="store", urls=(f"http://127.0.0.1:{port}",)))
    spy = Spy()
    breaker = Breaker("inventory", "upstream", BreakerPolicy(), observer=spy)
    guarded = GuardedUpstream(
        name="inventory",
        upstream=WebSocketDialer(upstream, max_message(route)),
        resilience=route.resilience,
        breaker=breaker,
        budget=RetryBudget(),
        observer=spy,
    )
    subject = WebSocketEndpoint(
        route,
        ProxyAction(upstream="store"),
        guarded,
        authority=upstream.authority,
        rules=HeaderRules(ServerSettings()),
        streams=streams or Streams(),
    )

    async def call(caller: Caller, **permit: Any) -> None:
        deadline = Deadline.after(5)
        fields: dict[str, Any] = {"subject": ALICE, "outcome": "allow", "source": "iam", **permit}
        with deadline.enforced():
            await subject(Permit(request=caller.request, route=route, **fields), caller.exchange, deadline)

    call.breaker = breaker  # type: ignore[attr-defined]
    yield call
    await upstream.aclose()


@asynccontextmanager
async def websocket_server(handler: Callable[[ServerConnection], Any], **options: Any) -> AsyncIterator[int]:
    async with serve(handler, "127.0.0.1", 0, ping_interval=None, **options) as server:
        yield next(iter(server.sockets)).getsockname()[1]


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def test_messages_go_across_as_they_are() -> None:
    async with websocket_server(echo) as port, endpoint(port) as call:
        caller = Caller()
        task = asyncio.create_task(call(caller))
        assert (await caller.next())["type"] == "websocket.accept"
        caller.say((FIN | TEXT, "grüß".encode()))
        assert await caller.next() == {"type": "websocket.send", "frames": [(FIN | TEXT, "grüß".encode())]}
        caller.say((BINARY, b"\x00"), (FIN | CONTINUATION, b"\xff"))
        assert await caller.message() == b"\x00\xff"
        caller.say((FIN | BINARY, b"x" * 300_000))
        assert await caller.message() == b"x" * 300_000
        caller.close(1000)
        await asyncio.wait_for(task, 5)
        assert caller.record.status == 101


async def test_the_handshake_goes_up_as_decided_and_its_answer_comes_down() -> None:
    seen: list[HandshakeRequest] = []

    def note(connection: ServerConnection, request: HandshakeRequest) -> None:
        seen.append(request)

    def cookie(connection: ServerConnection, request: HandshakeRequest, response: Response) -> Response:
        response.headers["Set-Cookie"] = "a=b"
        return response

    options = {"process_request": note, "process_response": cookie, "subprotocols": ["v2"]}
    async with websocket_server(echo, **options) as port, endpoint(port) as call:
        caller = Caller((b"sec-websocket-protocol", b"v1, v2"), (b"x-auth-subject", b"root"))
        task = asyncio.create_task(call(caller, degraded="stale", age_s=3.2))
        accepted = await caller.next()
        assert accepted["subprotocol"] == "v2"
        assert (b"set-cookie", b"a=b") in accepted["headers"]
        assert (b"x-gateway-degraded", b"iam; mode=stale; age=3") in accepted["headers"]
        assert (b"x-request-id", b"req-1") in accepted["headers"]
        assert not [name for name, _ in accepted["headers"] if name.startswith(b"sec-websocket") or name == b"upgrade"]
        headers = seen[0].headers
        assert seen[0].path == "/inventory/ws?q=%2F"
        assert headers["Host"] == f"127.0.0.1:{port}"
        assert headers["Origin"] == "https://app.example"
        assert headers["Authorization"] == "Bearer theirs"
        assert headers.get_all("X-Auth-Subject") == ["alice"]
        assert headers["Sec-WebSocket-Key"] != "dGhlIHNhbXBsZSBub25jZQ=="
        assert "Sec-WebSocket-Extensions" not in headers
        assert "User-Agent" not in headers
        caller.close(1000)
        await asyncio.wait_for(task, 5)


@pytest.mark.parametrize(("code", "seen"), [(1000, 1000), (1001, 1001), (4321, 4321), (1005, 1000)])
async def test_the_callers_close_code_reaches_the_upstream(code: int, seen: int) -> None:
    closed: asyncio.Queue[Any] = asyncio.Queue()

    async def until_closed(connection: ServerConnection) -> None:
        await connection.wait_closed()
        closed.put_nowait((connection.close_code, connection.close_reason))

    async with websocket_server(until_closed) as port, endpoint(port) as call:
        caller = Caller()
        task = asyncio.create_task(call(caller))
        await caller.next()
        caller.close(code, "bye")
        await asyncio.wait_for(task, 5)
        assert await asyncio.wait_for(closed.get(), 5) == (seen, "bye")


@pytest.mark.parametrize(("code", "broke", "seen"), [(1006, False, 1006), (1009, True, 1001)])
async def test_a_caller_who_just_goes_or_has_to_is_just_gone_upstream(code: int, broke: bool, seen: int) -> None:
    closed: asyncio.Queue[Any] = asyncio.Queue()

    async def until_closed(connection: ServerConnection) -> None:
        await connection.wait_closed()
        closed.put_nowait(connection.close_code)

    async with websocket_server(until_closed) as port, endpoint(port) as call:
        caller = Caller()
        task = asyncio.create_task(call(caller))
        await caller.next()
        caller.close(code, broke=broke)
        await asyncio.wait_for(task, 5)
        assert await asyncio.wait_for(closed.get(), 5) == seen


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4000])
async def test_the_upstreams_close_code_reaches_the_caller(code: int) -> None:
    async def close(connection: ServerConnection) -> None:
        await connection.close(code, "done")

    async with websocket_server(close) as port, endpoint(port) as call:
        caller = Caller()
        await asyncio.wait_for(call(caller), 5)
        await caller.next()
        assert await caller.next() == {"type": "websocket.close", "code": code, "reason": "done"}


@pytest.mark.parametrize(
    ("frame", "code"), [(b"\x88\x02\x0f\xa0", 4000), (b"\x83\x00", 1014), (b"\x81\x80\0\0\0\0", 1014)]
)
async def test_an_upstream_that_closes_but_keeps_the_connection_is_not_waited_for(frame: bytes, code: int) -> None:
    async def reply(talk: Any) -> None:
        key = re.search(rb"sec-websocket-key: (\S+)", talk.head)[1].decode()
        accept = accept_key(key).encode()
        head = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
        await talk.send(head % accept + frame)
        while await talk.reader.read(1024):
            pass

    async with upstream_of(reply) as upstream, endpoint(upstream.port) as call:
        caller = Caller()
        await asyncio.wait_for(call(caller), 10)
        await caller.next()
        assert (await caller.next())["code"] == code


async def test_an_upstream_that_breaks_off_breaks_the_caller_off() -> None:
    async def cut(connection: ServerConnection) -> None:
        connection.transport.abort()

    async with websocket_server(cut) as port, endpoint(port) as call:
        caller = Caller()
        await asyncio.wait_for(call(caller), 5)
        assert caller.edge.aborted


async def test_a_refused_handshake_is_passed_on_as_that_response() -> None:
    def refuse(connection: ServerConnection, request: HandshakeRequest) -> Response:
        headers = WebSocketHeaders({"Location": "https://login.example/", "Content-Length": "2", "X-Why": "no"})
        return Response(302, "Found", headers, b"no")

    async with websocket_server(echo, process_request=refuse) as port, endpoint(port) as call:
        caller = Caller()
        await asyncio.wait_for(call(caller), 5)
        start, body = await caller.next(), await caller.next()
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 302)
        assert (b"location", b"https://login.example/") in start["headers"]
        assert [value for name, value in start["headers"] if name == b"content-length"] == [b"2"]
        assert body["body"] == b"no"
        assert call.breaker.snapshot()["consecutive_failures"] == 0


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "upstream_protocol_error"),
        (b"hello\r\n\r\n", "upstream_protocol_error"),
        (b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "upstream_protocol_error"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", "upstream_protocol_error"),
        (None, "upstream_timeout"),
    ],
)
async def test_a_broken_handshake_is_an_error_that_counts(answer: bytes | None, code: str) -> None:
    async def reply(talk: Any) -> None:
        if answer is None:
            await talk.reader.read()
        else:
            await talk.send(answer)
            talk.writer.close()

    async with upstream_of(reply) as upstream, endpoint(upstream.port) as call:
        with pytest.raises(GatewayError, match=code):
            await call(Caller())
        assert call.breaker.snapshot()["consecutive_failures"] == 1


async def test_an_upstream_that_is_not_there_is_unreachable(refused_port: int) -> None:
    async with endpoint(refused_port) as call:
        with pytest.raises(GatewayError, match="upstream_unreachable"):
            await call(Caller())


async def test_no_place_among_the_streams_refuses_before_the_upstream_is_asked(refused_port: int) -> None:
    def full(_: str) -> None:
        raise GatewayError("overloaded")

    async with endpoint(refused_port) as call:
        caller = Caller()
        caller.exchange.become_stream = full
        with pytest.raises(GatewayError, match="overloaded"):
            await call(caller)


async def wait(connection: ServerConnection) -> None:
    await connection.wait_closed()


async def test_a_token_that_expires_closes_with_1008() -> None:
    async with websocket_server(wait) as port, endpoint(port) as call:
        caller = Caller()
        await asyncio.wait_for(call(caller, subject=dataclasses.replace(ALICE, expires_at_s=time.time() + 0.2)), 5)
        await caller.next()
        assert (await caller.next())["code"] == 1008


@pytest.mark.parametrize(("error", "code"), [("iam_denied", 1008), ("iam_circuit_open", 1013)])
async def test_a_recheck_closes_with_1008_when_denied_and_1013_when_unknown(error: str, code: int) -> None:
    async def recheck(permit: Permit) -> None:
        raise GatewayError(error)

    streams = Streams(recheck=recheck)
    async with websocket_server(wait) as port, endpoint(port, streams=streams, recheck_s=0.05) as call:
        caller = Caller()
        await asyncio.wait_for(call(caller), 5)
        await caller.next()
        assert (await caller.next())["code"] == code
        assert caller.record.code == error


async def test_draining_closes_with_1001() -> None:
    streams = Streams()
    async with websocket_server(wait) as port, endpoint(port, streams=streams) as call:
        caller = Caller()
        task = asyncio.create_task(call(caller))
        await caller.next()
        streams.drain()
        assert (await caller.next())["code"] == 1001
        await asyncio.wait_for(task, 5)


async def test_silence_on_both_sides_closes_with_1001() -> None:
    async with websocket_server(wait) as port, endpoint(port, stream_idle_timeout_s=0.1) as call:
        caller = Caller()
        await asyncio.wait_for(call(caller), 5)
        await caller.next()
        assert (await caller.next())["code"] == 1001


async def test_the_listener_is_told_the_routes_limit_of_a_message() -> None:
    async with websocket_server(wait) as port, endpoint(port, max_body=100) as call:
        caller = Caller()
        task = asyncio.create_task(call(caller))
        assert (await caller.next())["max_message"] == 100
        caller.close(1000)
        await asyncio.wait_for(task, 5)


async def test_a_message_of_the_upstreams_over_the_limit_closes_with_1009() -> None:
    async def big(connection: ServerConnection) -> None:
        await connection.send(b"x" * 101)
        await connection.wait_closed()

    async with websocket_server(big) as port, endpoint(port, max_body=100) as call:
        caller = Caller()
        await asyncio.wait_for(call(caller), 5)
        await caller.next()
        assert (await caller.next())["code"] == 1009


async def test_a_slow_caller_stops_the_upstream() -> None:
    sent = 0

    async def flood(connection: ServerConnection) -> None:
        nonlocal sent
        try:
            for _ in range(2000):
                await connection.send(b"x" * 100_000)
                sent += 1
        except ConnectionClosed:
            return

    async with websocket_server(flood) as port, endpoint(port) as call:
        caller = Caller()
        caller.gate = asyncio.Event()
        task = asyncio.create_task(call(caller))
        await caller.next()
        await asyncio.sleep(0.5)
        held = sent
        await asyncio.sleep(0.2)
        assert sent == held < 300
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_slow_upstream_stops_the_caller() -> None:
    release = asyncio.Event()

    async def lazy(connection: ServerConnection) -> None:
        await release.wait()
        async for _ in connection:
            pass

    async with websocket_server(lazy, max_queue=1) as port, endpoint(port) as call:
        caller = Caller()
        for _ in range(2000):
            caller.say((FIN | BINARY, b"x" * 100_000))
        task = asyncio.create_task(call(caller))
        await caller.next()
        await asyncio.sleep(0.5)
        left = caller.incoming.qsize()
        await asyncio.sleep(0.2)
        assert caller.incoming.qsize() == left > 1700
        release.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_cancelled_request_closes_the_upstreams_connection() -> None:
    closed = asyncio.Event()

    async def note(connection: ServerConnection) -> None:
        await connection.wait_closed()
        closed.set()

    async with websocket_server(note) as port, endpoint(port) as call:
        caller = Caller()
        task = asyncio.create_task(call(caller))
        await caller.next()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.wait_for(closed.wait(), 2)
