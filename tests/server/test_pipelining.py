"""Several requests on one connection: one at a time, in order, each delimited exactly."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from listener_harness import MiniGateway, bare, served

from gateway.model.settings import ServerSettings
from gateway.server.messages import Boundary
from tests.support.properties import examples

GET = b"GET /open/%d HTTP/1.1\r\nHost: gateway.test\r\n\r\n"
LAST = b"GET /open/last HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n\r\n"
CHUNKED = b"POST /open/c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.hazard
async def test_many_pipelined_requests_are_answered_in_order() -> None:
    app = MiniGateway(ServerSettings())
    async with served(app, app.settings) as edge:
        answer = await edge.say(b"".join(GET % i for i in range(2000)) + LAST, wait=20)
    assert answer.count(b"HTTP/1.1 200 OK") == 2001
    assert [request.target.raw for request in app.seen] == [b"/open/%d" % i for i in range(2000)] + [b"/open/last"]


@pytest.mark.hazard
async def test_the_next_request_begins_exactly_after_a_body() -> None:
    app = MiniGateway(ServerSettings())
    talk = (
        CHUNKED
        + b"a\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\nT: x\r\n\r\n"
        + b"POST /open/l HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nGET / HT\r\n\r\n"
        + LAST
    )
    async with served(app, app.settings) as edge:
        answer = await edge.say(talk)
        assert answer.count(b"HTTP/1.1 200 OK") == 3
        assert await edge.say(*(bytes([byte]) for byte in talk), pause=0.0005) == answer
    assert [request.target.raw for request in app.seen] == [b"/open/c", b"/open/l", b"/open/last"] * 2


@pytest.mark.hazard
@pytest.mark.parametrize("garbage", [b"GARBAGE\x00\r\n\r\n", b"X", b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\n\r\n"])
async def test_a_malformed_request_does_not_touch_the_answer_before_it(garbage: bytes) -> None:
    release = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await release.wait()
        await bare()(scope, receive, send)

    async with served(slow, ServerSettings(header_timeout_s=0.5)) as edge:
        reader, writer = await edge.connect()
        writer.write(GET % 1 + garbage)
        await asyncio.sleep(0.05)
        release.set()
        answer = await reader.read()
        writer.close()
    first, _, second = answer.partition(b"ok")
    assert first.startswith(b"HTTP/1.1 200")
    assert second.startswith((b"HTTP/1.1 400", b"HTTP/1.1 408"))


@pytest.mark.hazard
async def test_what_follows_connection_close_is_no_request() -> None:
    app = MiniGateway(ServerSettings())
    async with served(app, app.settings) as edge:
        assert (await edge.say(LAST + GET % 1)).count(b"HTTP/1.1") == 1
    assert len(app.seen) == 1


@pytest.mark.hazard
async def test_what_is_pipelined_behind_a_slow_answer_is_bounded() -> None:
    release = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await release.wait()
        await bare()(scope, receive, send)

    async with served(slow, ServerSettings()) as edge:
        reader, writer = await edge.connect()
        count = 300_000
        writer.write(b"".join(GET % i for i in range(count // 10)) * 10)
        await asyncio.sleep(0.3)
        (connection,) = edge.server.server_state.connections
        assert len(connection._held) < 1_000_000
        assert writer.transport.get_write_buffer_size() > 5_000_000
        release.set()
        assert (await reader.readexactly(100_000)).count(b"HTTP/1.1 200") > 500
        writer.transport.abort()


@given(st.data())
@examples(100)
def test_boundaries_are_the_same_however_the_stream_is_split(data: st.DataObject) -> None:
    """Oracle: the ends of CRLFCRLF, non-overlapping, in the whole stream."""
    stream = data.draw(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"a"]), max_size=20).map(b"".join))
    expected, at = [], 0
    while (found := stream.find(b"\r\n\r\n", at)) >= 0:
        at = found + 4
        expected.append(at)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=6)) | {0, len(stream)})
    boundary, ends = Boundary(), []
    for start, stop in itertools.pairwise(cuts):
        part, position = stream[start:stop], 0
        while position < len(part):
            position = boundary.after(part, position)
            if boundary._tail == b"":
                ends.append(start + position)
    assert ends == expected
