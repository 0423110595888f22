"""What an upstream can do with one request, and what the caller is told; and that the next request is not harmed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from gateway.errors import GatewayError

pytestmark = pytest.mark.hazard

OK = b"HTTP/1.1 200 OK\r\n"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"


@dataclass(frozen=True)
class Fault:
    """`parts` are sent 20 ms apart; then `end`: keep, fin, rst or hang. `says` is status, error type or body."""

    name: str
    parts: tuple[bytes, ...]
    end: str
    says: int | str
    method: bytes = b"GET"


FAULTS = [
    Fault("control", (OK + b"Content-Length: 2\r\n\r\nok",), "keep", 200),
    Fault("no answer, FIN", (), "fin", "connection_terminated"),
    Fault("no answer, RST", (), "rst", "connection_terminated"),
    Fault("never answers", (), "hang", "connection_read_timeout"),
    Fault("half a head, FIN", (b"HTTP/1.1 200 OK\r\nX: ",), "fin", "http_response_incomplete"),
    Fault("half a head, RST", (b"HTTP/1.1 200 OK\r\nX: ",), "rst", "http_response_incomplete"),
    Fault("half a head, silence", (b"HTTP/1.1 200 OK\r\nX: ",), "hang", "connection_read_timeout"),
    Fault("103, then silence", (b"HTTP/1.1 103 E\r\n\r\n",), "hang", "connection_read_timeout"),
    Fault("103, then FIN", (b"HTTP/1.1 103 E\r\n\r\n",), "fin", "http_response_incomplete"),
    Fault("garbage", (b"\0\1garbage\r\n\r\n",), "fin", "http_protocol_error"),
    Fault("HTTP/0.9", (b"hello",), "fin", "http_protocol_error"),
    Fault("another protocol", (b"SSH-2.0-OpenSSH_9\r\n",), "keep", "http_protocol_error"),
    Fault("status 600", (b"HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n",), "keep", "http_protocol_error"),
    Fault("101", (b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",), "keep", "http_protocol_error"),
    Fault("response splitting", (OK + b"X: a\rSet-Cookie: a=1\r\n\r\n",), "keep", "http_protocol_error"),
    Fault("large head", (OK + b"X: " + b"a" * 250_000 + b"\r\n\r\n",), "keep", "http_protocol_error"),
    Fault(
        "CL and TE", (OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",), "keep", "http_protocol_error"
    ),
    Fault("cut at the length", (OK + b"Content-Length: 100\r\n\r\n", b"ok"), "fin", "http_response_incomplete"),
    Fault("cut in a chunk", (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",), "fin", "http_response_incomplete"),
    Fault(
        "cut before the last chunk",
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",),
        "fin",
        "http_response_incomplete",
    ),
    Fault("RST in the body", (OK + b"Content-Length: 100\r\n\r\n", b"ok"), "rst", "http_response_incomplete"),
    Fault("RST in an endless body", (OK + b"\r\n", b"ok"), "rst", "http_response_incomplete"),
    Fault("stall in the body", (OK + b"Content-Length: 100\r\n\r\nok",), "hang", "connection_read_timeout"),
    Fault(
        "bad chunk in the body",
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", b"ZZ\r\n"),
        "keep",
        "http_protocol_error",
    ),
    Fault("HTTP/1.0, ends with the connection", (b"HTTP/1.0 200 OK\r\n\r\n", b"ok"), "fin", 200),
    Fault("HEAD with a body", (OK + b"Content-Length: 42\r\n\r\n" + EVIL,), "keep", 200, b"HEAD"),
    Fault("HEAD with a late body", (OK + b"Content-Length: 42\r\n\r\n", EVIL), "keep", 200, b"HEAD"),
    Fault("204 with a body", (b"HTTP/1.1 204 N\r\n\r\n" + EVIL,), "keep", 204),
    Fault("304 with a body", (b"HTTP/1.1 304 N\r\nContent-Length: 42\r\n\r\n" + EVIL,), "keep", 304),
    Fault("304 with a late body", (b"HTTP/1.1 304 N\r\nContent-Length: 42\r\n\r\n", EVIL), "keep", 304),
    Fault("two answers", (OK + b"Content-Length: 2\r\n\r\nok" + EVIL,), "keep", 200),
    Fault("a second answer later", (OK + b"Content-Length: 2\r\n\r\nok", EVIL), "keep", 200),
    Fault("103, then 200", (b"HTTP/1.1 103 E\r\n\r\n", OK + b"Content-Length: 2\r\n\r\nok"), "keep", 200),
    Fault("500", (b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n",), "keep", 500),
    Fault("404", (b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n",), "keep", 404),
]


UNASKED = {"204 with a body", "304 with a body", "two answers", "a second answer later"}
"""What nobody asked for: such an origin has no kept connections for a while."""


def server_of(fault: Fault):
    """The first request gets the fault, every other a good answer."""

    async def behave(visitor) -> None:
        first = visitor.server.visits == 1
        while True:
            await visitor.request()
            if not first:
                await visitor.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
                continue
            first = False
            for part in fault.parts:
                await visitor.send(part)
                await asyncio.sleep(0.02)
            if fault.end == "rst":
                visitor.reset()
            if fault.end in ("rst", "fin"):
                return
            if fault.end == "hang":
                await visitor.gone()
                return

    return behave


async def outcome(client, fault: Fault) -> tuple[int | str, GatewayError | None]:
    try:
        reply = await client.ask(fault.method, read_s=0.3)
        async for _ in reply:
            pass
    except GatewayError as error:
        return error.proxy_error, error
    return reply.status, None


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_the_caller_is_told_the_truth_and_the_next_request_gets_its_own_answer(serve, reach, fault):
    server = await serve(server_of(fault))
    client = reach(server)
    said, error = await outcome(client, fault)
    assert said == fault.says
    if error is not None:
        assert error.sent
        assert error.code == ("upstream_timeout" if "timeout" in error.proxy_error else "upstream_protocol_error")
    if fault.name == "a second answer later":  # than a next request it cannot be told from that one's answer
        await asyncio.sleep(0.05)
    for _ in range(3):
        assert await client.text() == b"good"
        await asyncio.sleep(0.015)
    kept = 0 if fault.name in UNASKED else 1
    assert client.state == {"in_flight": 0, "idle": kept, "connecting": 0, "pending": 0}


async def test_endless_interim_responses_end_with_the_deadline(serve, reach):
    async def behave(visitor) -> None:
        await visitor.request()
        while True:
            await visitor.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await asyncio.sleep(0.02)

    client = reach(await serve(behave))
    with pytest.raises(GatewayError) as caught:
        await client.ask(read_s=0.2, deadline_s=0.5)
    assert caught.value.code == "deadline_exceeded"
    assert client.state["in_flight"] == 0


async def test_a_head_that_comes_byte_by_byte_ends_with_the_deadline(serve, reach):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            await visitor.send(b"a")
            await asyncio.sleep(0.02)

    client = reach(await serve(behave))
    with pytest.raises(GatewayError) as caught:
        await client.ask(read_s=0.2, deadline_s=0.5)
    assert caught.value.code == "deadline_exceeded"


async def test_what_came_before_a_body_broke_off_is_delivered_and_then_it_raises(serve, reach):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(OK + b"Content-Length: 100\r\n\r\npartial")

    reply = await reach(await serve(behave)).ask()
    assert await anext(reply) == b"partial"
    with pytest.raises(GatewayError, match="broken off"):
        await anext(reply)
    with pytest.raises(GatewayError, match="broken off"):
        await anext(reply)


@pytest.mark.parametrize("size", [b"ZZ", b"-1", b"f" * 17])
async def test_a_response_that_breaks_off_with_its_head_is_none(serve, reach, size):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(OK + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\n")

    client = reach(await serve(behave))
    with pytest.raises(GatewayError) as caught:
        await client.ask()
    assert caught.value.proxy_error == "http_protocol_error"
    assert client.state["in_flight"] == 0


async def test_bytes_that_nobody_asked_for_close_a_kept_connection(serve, reach, until):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(OK + b"Content-Length: 2\r\n\r\nok")
        await visitor.head() if visitor.server.visits > 1 else None
        await asyncio.sleep(0.05)
        await visitor.send(EVIL)
        await visitor.gone()

    client = reach(await serve(behave))
    assert await client.text() == b"ok"
    await until(lambda: client.state["idle"] == 0)
    assert await client.text() == b"ok"


async def test_nothing_is_said_to_the_caller_about_hosts_or_what_the_peer_wrote(serve, reach):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(b"HTTP/1.1 200 OK\r\nX: secret\x00\r\n\r\n")

    client = reach(await serve(behave))
    with pytest.raises(GatewayError) as caught:
        await client.ask()
    assert "127.0.0.1" not in caught.value.detail
    assert "secret" not in caught.value.detail


async def test_every_place_comes_back_after_every_fault(serve, reach, until):
    server = await serve()
    client = reach(server, max_connections=2)
    for fault in FAULTS:
        server.visits = 0
        server.behaviour = server_of(fault)
        await outcome(client, fault)
        for pool in client.upstream._members:
            for connection in list(pool.pool._idle):
                connection.abort()
    server.behaviour = server_of(FAULTS[0])
    whole = await client.text()
    assert whole
    assert await asyncio.gather(*(client.text() for _ in range(8))) == [whole] * 8
    assert client.state["in_flight"] == 0
