"""One upstream's input never holds the event loop: it is parsed in turns, and what waits for a caller has a bound."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import GatewayError
from gateway.upstream.parse import TURN_PARTS
from gateway.upstream.reply import MAX_WAITING

pytestmark = pytest.mark.hazard

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
COUNT = 60_000


async def tiny_chunks(visitor) -> None:
    while True:
        await visitor.request()
        await visitor.send(CHUNKED + b"1\r\nx\r\n" * COUNT + b"0\r\n\r\n")


async def test_a_body_of_tiny_chunks_arrives_whole(serve, reach):
    client = reach(await serve(tiny_chunks))
    for _ in range(2):
        assert await client.text() == b"x" * COUNT
    assert client.state["idle"] == 1


async def test_tiny_chunks_are_parsed_in_many_turns(serve, reach, monkeypatch):
    client = reach(await serve(tiny_chunks))
    reply = await client.ask()
    connection = next(iter(client.upstream._members[0].pool._open))
    grown: list[int] = []
    parse = type(connection)._parse_in_turns

    def counted(self, reply, data):
        before = self._parser.parts
        whole = parse(self, reply, data)
        grown.append(self._parser.parts - before)
        return whole

    monkeypatch.setattr(type(connection), "_parse_in_turns", counted)
    assert len(await reply.read(1 << 20)) == COUNT
    assert max(grown[3:]) <= 2 * TURN_PARTS  # by then the stride fits


async def test_what_waits_for_a_caller_who_does_not_read_has_a_bound(serve, reach):
    client = reach(await serve(tiny_chunks))
    reply = await client.ask()
    await asyncio.sleep(0.3)
    assert reply.waiting_parts <= MAX_WAITING + 2 * TURN_PARTS
    connection = next(iter(client.upstream._members[0].pool._open))
    assert len(connection._rest) <= 300_000
    assert len(await reply.read(1 << 20)) == COUNT


@pytest.mark.parametrize("size", [1_000, 70_000, 300_000, 3_000_000])
async def test_large_bodies_arrive_whole_in_every_framing(serve, reach, size):
    body = bytes(range(256)) * (size // 256)

    async def behave(visitor) -> None:
        for _ in range(2):
            await visitor.request()
            await visitor.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await visitor.request()
        await visitor.send(CHUNKED + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n")
        await visitor.request()
        await visitor.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)

    server = await serve(behave)
    client = reach(server)
    for _ in range(4):
        assert await (await client.ask()).read(1 << 23) == body
    assert server.visits == 1


async def test_an_answer_behind_a_large_one_is_still_nobodys(serve, reach):
    async def behave(visitor) -> None:
        await visitor.request()
        body = b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20_000
        await visitor.send(body + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL")
        await visitor.gone()

    client = reach(await serve(behave))
    for _ in range(2):
        assert await client.text() == b"x" * 20_000
    assert client.state["idle"] == 0


async def test_too_many_fields_end_before_their_head_does(serve, reach):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 10_000)
        await visitor.gone()

    with pytest.raises(GatewayError) as caught:
        await reach(await serve(behave)).ask()
    assert caught.value.code == "upstream_protocol_error"
    assert "header fields" in caught.value.reason
