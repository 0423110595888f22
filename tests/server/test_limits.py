"""Limits of heads, connections and time: each refusal is structured, reported and ends the connection."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from listener_harness import MiniGateway, Served, bare, served

from gateway.errors import GatewayError
from gateway.model.settings import ServerSettings

pytestmark = pytest.mark.hazard
GET = b"GET /open/a HTTP/1.1\r\nHost: gateway.test\r\n\r\n"


def status_of(answer: bytes) -> int:
    return int(answer[9:12])


def head_and_body(answer: bytes) -> tuple[dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}, body


def problem_of(answer: bytes) -> dict[str, Any]:
    headers, body = head_and_body(answer)
    assert headers["content-type"] == "application/problem+json"
    assert headers["cache-control"] == "no-store"
    assert headers["connection"] == "close"
    assert int(headers["content-length"]) == len(body)
    document: dict[str, Any] = json.loads(body)
    assert document["status"] == status_of(answer)
    assert document["request_id"] == headers["x-request-id"]
    assert headers["proxy-status"].startswith("edge; error=")
    return document


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"GET /open/%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * 9000), "uri_too_long"),
        (b"GET /open/%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * 90000), "uri_too_long"),
        (b"GET /open/%s" % (b"a" * 40000), "uri_too_long"),
        (b"GET /open/a HTTP/1.1\r\nHost: a\r\nX: %s\r\n\r\n" % (b"a" * 40000), "headers_too_large"),
        (b"GET /open/a HTTP/1.1\r\nHost: a\r\nX: %s" % (b"a" * 40000), "headers_too_large"),
        (b"GET /open/a HTTP/1.1\r\nHost: a\r\n%s\r\n" % (b"X: a\r\n" * 100), "headers_too_large"),
        (b"GARBAGE\x00\r\n\r\n", "bad_request"),
        (b"GET /open/a HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", "expectation_failed"),
    ],
)
async def test_a_refused_head_is_answered_structured_and_reported(request_bytes: bytes, code: str) -> None:
    heard: list[tuple[GatewayError, str, str, bytes]] = []
    app = MiniGateway(ServerSettings())
    async with served(app, app.settings, on_refusal=lambda *facts: heard.append(facts)) as edge:
        problem = problem_of(await edge.say(request_bytes))
    assert problem["code"] == code
    assert [(error.code, peer, request_id) for error, peer, request_id, _ in heard] == [
        (code, "127.0.0.1", problem["request_id"])
    ]
    assert app.seen == []


async def test_the_target_of_a_refused_head_is_reported_as_it_came() -> None:
    heard: list[bytes] = []
    app = MiniGateway(ServerSettings())
    async with served(app, app.settings, on_refusal=lambda *facts: heard.append(facts[3])) as edge:
        await edge.say(b"GET /open/a?x=1 HTTP/1.1\r\n\r\n")
    assert heard == [b"/open/a?x=1"]


async def test_the_limits_are_those_of_the_settings() -> None:
    app = MiniGateway(ServerSettings(max_uri=20, max_headers=3, max_header_bytes=200))
    async with served(app, app.settings) as edge:
        assert status_of(await edge.say(GET.replace(b"\r\n\r\n", b"\r\nA: 1\r\nConnection: close\r\n\r\n"))) == 200
        assert problem_of(await edge.say(GET.replace(b"\r\n\r\n", b"\r\nA: 1\r\nB: 1\r\nC: 1\r\n\r\n")))
        assert status_of(await edge.say(b"GET /open/%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * 20))) == 414
        assert status_of(await edge.say(b"GET /open/a HTTP/1.1\r\nHost: a\r\nA: %s" % (b"a" * 200))) == 431


async def test_a_connection_that_says_nothing_is_closed_within_the_header_timeout() -> None:
    async with served(bare(), ServerSettings(header_timeout_s=0.1)) as edge:
        assert await edge.say() == b""


async def test_a_slow_head_is_408_from_accept_however_often_a_byte_comes() -> None:
    async with served(bare(), ServerSettings(header_timeout_s=0.3)) as edge:
        answer = await edge.say(*(GET[i : i + 1] for i in range(20)), pause=0.02)
    assert problem_of(answer)["code"] == "request_timeout"


async def test_a_later_head_is_timed_from_its_first_byte_and_not_before() -> None:
    async with served(bare(), ServerSettings(header_timeout_s=0.2, idle_timeout_s=30)) as edge:
        answer = await edge.say(GET, b"", b"", b"GE", b"T", pause=0.15)
    first, _, second = answer.partition(b"ok")
    assert status_of(first) == 200
    assert problem_of(second)["code"] == "request_timeout"


async def test_an_idle_connection_is_closed_without_an_answer() -> None:
    async with served(bare(), ServerSettings(idle_timeout_s=0.2)) as edge:
        assert (await edge.say(GET, pause=0)).endswith(b"ok")


async def test_empty_lines_between_requests_do_not_keep_a_connection_open() -> None:
    async with served(bare(), ServerSettings(idle_timeout_s=1.5, header_timeout_s=30)) as edge:
        assert (await edge.say(GET, *[b"\r\n"] * 10, pause=0.02)).endswith(b"ok")


async def test_one_connection_too_many_is_told_so_and_the_others_go_on() -> None:
    async with served(bare(), ServerSettings(max_connections=1)) as edge:
        reader, writer = await edge.connect()
        writer.write(GET)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        answer = await edge.say()
        problem = problem_of(answer)
        assert problem["code"] == "overloaded"
        assert problem["retry_after"] == int(head_and_body(answer)[0]["retry-after"]) >= 1
        writer.write(GET)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()
        await until_connections(edge, 0)
        assert status_of(await edge.say(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))) == 200


async def test_one_client_has_its_share_of_connections_and_a_trusted_proxy_has_no_share() -> None:
    import ipaddress  # for the one test that names a network

    trusted = (ipaddress.ip_network("127.0.0.0/8"),)
    for settings, statuses in (
        (ServerSettings(max_connections_per_client=1), [200, 503]),
        (ServerSettings(max_connections_per_client=1, trusted_proxies=trusted), [200, 200]),
    ):
        async with served(bare(), settings) as edge:
            seen = []
            open_ones = [await edge.connect() for _ in statuses]
            for reader, writer in open_ones:
                writer.write(GET)
                seen.append(status_of(await reader.readuntil(b"\r\n\r\n")))
            for _, writer in open_ones:
                writer.close()
            assert seen == statuses


async def until_connections(edge: Served, count: int) -> None:
    async with asyncio.timeout(5):
        while edge.listener.connections != count:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.01)


async def test_every_connection_is_counted_out_again_however_it_ends() -> None:
    async with served(bare(), ServerSettings(header_timeout_s=0.2)) as edge:
        await edge.say(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await edge.say(b"\x00")
        await edge.say()
        _, writer = await edge.connect()
        writer.transport.abort()
        await until_connections(edge, 0)
        assert edge.listener._by_client == {}


async def test_new_settings_hold_for_the_next_request_of_an_open_connection() -> None:
    async with served(bare(), ServerSettings()) as edge:
        reader, writer = await edge.connect()
        writer.write(GET)
        assert status_of(await reader.readuntil(b"ok")) == 200
        edge.listener.update(ServerSettings(max_uri=2))
        writer.write(GET)
        await reader.readuntil(b"ok")
        writer.write(GET)
        assert status_of(await reader.readuntil(b"\r\n\r\n")) == 414
        writer.close()
