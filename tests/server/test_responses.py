"""Responses on the wire: framing by status, method and version, and what may not get out."""

from __future__ import annotations

from typing import Any

import pytest
from listener_harness import served

from gateway.errors import GatewayError
from gateway.model.settings import ServerSettings
from gateway.server.response import CHUNKED, NOTHING, UNTIL_CLOSE, response_head

LENGTH = (b"content-length", b"5")


def head_of(status: int = 200, headers: Any = (), method: str = "GET", version: str = "1.1") -> tuple[bytes, int, bool]:
    return response_head(
        status, list(headers), [], head_request=method == "HEAD", http_1_0=version == "1.0", keep_alive=version != "1.0"
    )


@pytest.mark.parametrize(
    ("status", "headers", "method", "version", "framing", "content", "keep"),
    [
        (200, [LENGTH], "GET", "1.1", b"content-length: 5", 5, True),
        (200, [], "GET", "1.1", b"transfer-encoding: chunked", CHUNKED, True),
        (200, [LENGTH], "GET", "1.0", b"content-length: 5", 5, False),
        (200, [], "GET", "1.0", b"connection: close", UNTIL_CLOSE, False),
        (200, [LENGTH], "HEAD", "1.1", b"content-length: 5", NOTHING, True),
        (200, [], "HEAD", "1.1", b"", NOTHING, True),
        (204, [LENGTH], "GET", "1.1", b"", NOTHING, True),
        (304, [LENGTH], "GET", "1.1", b"", NOTHING, True),
        (304, [], "GET", "1.0", b"connection: close", NOTHING, False),
        (200, [LENGTH, LENGTH], "GET", "1.1", b"content-length: 5", 5, True),
        (200, [LENGTH, (b"connection", b"Close")], "GET", "1.1", b"connection: close", 5, False),
        (200, [(b"transfer-encoding", b"gzip")], "GET", "1.1", b"transfer-encoding: chunked", CHUNKED, True),
    ],
)
def test_framing(
    status: int, headers: Any, method: str, version: str, framing: bytes, content: int, keep: bool
) -> None:
    head, ends, goes_on = head_of(status, headers, method, version)
    assert (ends, goes_on) == (content, keep)
    fields = head.split(b"\r\n")[1:-2]
    assert sum(field.startswith((b"content-length", b"transfer-encoding")) for field in fields) <= 1
    assert framing in fields or not framing
    if not framing:
        assert fields == []


@pytest.mark.parametrize("status", [0, 99, 100, 101, 199, 600, 999])
def test_a_status_that_is_none_is_the_upstreams_fault(status: int) -> None:
    with pytest.raises(GatewayError) as raised:
        head_of(status)
    assert raised.value.code == "upstream_protocol_error"


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nSet-Cookie: b"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x\r\n", b"a"),
        (b"x", b"\0"),
        (b"content-length", b"-1"),
        (b"content-length", b""),
        (b"content-length", b"5, 5"),
    ],
)
def test_a_field_that_could_split_the_message_is_never_written(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(GatewayError) as raised:
        head_of(headers=[header])
    assert raised.value.code == "upstream_protocol_error"


def test_two_lengths_that_differ_are_refused() -> None:
    with pytest.raises(GatewayError):
        head_of(headers=[LENGTH, (b"content-length", b"6")])


def test_the_origins_date_stands_and_is_added_where_there_is_none() -> None:
    ours = [(b"date", b"ours")]
    keep = {"head_request": False, "http_1_0": False, "keep_alive": True}
    assert b"date: ours" in response_head(200, [], ours, **keep)[0]
    assert b"ours" not in response_head(200, [(b"date", b"theirs")], ours, **keep)[0]


async def streaming(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1"), (b"x-a", b"2")]})
    for part in (b"a" * 3, b"", b"b" * 40_000):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"c"})


@pytest.mark.hazard
async def test_a_stream_is_chunked_for_1_1_and_ends_with_the_connection_for_1_0() -> None:
    async with served(streaming, ServerSettings()) as edge:
        answer = await edge.say(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        body = b"3\r\naaa\r\n9c40\r\n" + b"b" * 40_000 + b"\r\n1\r\nc\r\n0\r\n\r\n"
        assert answer.partition(b"\r\n\r\n")[2] == body
        assert b"x-a: 1\r\nx-a: 2\r\n" in answer
        assert b"\r\nserver:" not in answer
        answer = await edge.say(b"GET / HTTP/1.0\r\n\r\n")
        assert answer.partition(b"\r\n\r\n")[2] == b"aaa" + b"b" * 40_000 + b"c"
        assert b"chunked" not in answer
        answer = await edge.say(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answer.partition(b"\r\n\r\n")[2] == b""


@pytest.mark.hazard
async def test_head_204_and_304_leave_the_connection_in_step() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        status = int(scope["path"][1:])
        await send({"type": "http.response.start", "status": status, "headers": [LENGTH]})
        await send({"type": "http.response.body", "body": b"hello"})

    async with served(app, ServerSettings()) as edge:
        request = b"%s /%d HTTP/1.1\r\nHost: a\r\n\r\n"
        talk = [request % (b"HEAD", 200), request % (b"GET", 204), request % (b"GET", 304), request % (b"GET", 200)]
        answer = await edge.say(*talk, b"\0")
    assert answer.count(b"hello") == 1
    assert answer.count(b"HTTP/1.1 ") == 5


@pytest.mark.hazard
async def test_the_app_may_ask_for_the_connection_to_close() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"]["gateway.edge"].close_after_response()
        await streaming(scope, receive, send)

    async with served(app, ServerSettings()) as edge:
        assert b"connection: close" in await edge.say(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")


@pytest.mark.hazard
async def test_options_asterisk_is_answered_here() -> None:
    async with served(streaming, ServerSettings()) as edge:
        answer = await edge.say(b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 204")
    assert b"allow: GET, HEAD, POST" in answer
