"""Bodies stream both ways, at the pace of the slower side, and what broke off never looks complete."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from gateway.errors import GatewayError
from gateway.upstream.reply import HIGH_WATER

pytestmark = pytest.mark.hazard

READ_AT_ONCE = 256 * 1024
"""What asyncio and uvloop hand over in one piece at most."""


def sending(total: int, sent: list[int]):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(total // 65536):
            await visitor.send(b"a" * 65536)
            sent.append(65536)
        await visitor.gone()

    return behave


async def test_a_large_answer_read_slowly_stops_the_upstream(serve, reach):
    sent: list[int] = []
    reply = await reach(await serve(sending(1600 * 65536, sent))).ask(read_s=0.2)
    got = 0
    for pause in range(20):
        got += len(await anext(reply))
        await asyncio.sleep(0.3 if pause == 0 else 0.01)  # longer than read_s: it is our caller who is slow
        assert reply.buffered <= HIGH_WATER + READ_AT_ONCE
    assert sum(sent) < 60 * 1024 * 1024
    async for part in reply:
        got += len(part)
        assert reply.buffered <= HIGH_WATER + READ_AT_ONCE
    assert got == 1600 * 65536


async def test_an_abandoned_answer_closes_its_connection_at_once(serve, reach, until):
    server = await serve(sending(1600 * 65536, []))
    client = reach(server)
    reply = await client.ask()
    await anext(reply)
    await reply.aclose()
    assert client.state == {"in_flight": 0, "idle": 0, "connecting": 0, "pending": 0}
    await until(lambda: not server.present)
    await reply.aclose()
    with pytest.raises(GatewayError):
        await anext(reply)


async def test_closing_wakes_who_still_reads(serve, reach):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        await visitor.gone()

    reply = await reach(await serve(behave)).ask()
    reading = asyncio.ensure_future(anext(reply))
    await asyncio.sleep(0)
    await reply.aclose()
    with pytest.raises(GatewayError):
        await reading


async def test_a_small_answer_is_here_at_once(serve, reach):
    client = reach(await serve())
    reply = await client.ask()
    assert reply.arrived
    assert client.state["idle"] == 1
    assert reply.whole() == b"good"
    assert reply.whole() == b""
    assert [part async for part in reply] == []


async def test_read_has_a_limit(serve, reach):
    client = reach(await serve())
    assert await (await client.ask()).read(4) == b"good"
    with pytest.raises(GatewayError) as caught:
        await (await client.ask()).read(3)
    assert caught.value.proxy_error == "http_response_body_size"
    client = reach(await serve(sending(100 * 65536, [])))
    with pytest.raises(GatewayError, match="larger"):
        await (await client.ask()).read(1 << 20)
    assert client.state["in_flight"] == 0


async def test_an_event_stream_may_be_silent_for_longer(serve, reach):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await asyncio.sleep(0.5)
        await visitor.send(b"data: 2\n\n")
        await visitor.gone()

    reply = await reach(await serve(behave)).ask(read_s=0.2)
    reply.allow_silence(5.0)
    assert await anext(reply) == b"data: 1\n\n"
    assert await anext(reply) == b"data: 2\n\n"
    reply.allow_silence(0.1)
    with pytest.raises(GatewayError) as caught:
        await anext(reply)
    assert caught.value.code == "upstream_timeout"


async def parts(size: int, number: int, pulled: list[int] | None = None):
    for at in range(number):
        if pulled is not None:
            pulled.append(at)
        yield bytes([at % 251]) * size


@pytest.mark.parametrize("announced", [True, False])
async def test_a_large_upload_arrives_whole(serve, reach, announced):
    server = await serve()
    client = reach(server)
    length = 300 * 50_000 if announced else None
    reply = await client.ask(b"PUT", parts(50_000, 300), length=length)
    assert reply.status == 200
    assert server.bodies == [b"".join(bytes([at % 251]) * 50_000 for at in range(300))]
    framing = b"content-length: 15000000" if announced else b"transfer-encoding: chunked"
    assert framing in server.heads[0]
    assert client.state["idle"] == 1


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 16 * 1024 + 1, 3_000_000])
async def test_bytes_arrive_whole_and_say_their_length(serve, reach, size):
    server = await serve()
    assert await reach(server).text(b"POST", b"x" * size) == b"good"
    assert server.bodies == [b"x" * size]
    assert b"content-length: %d\r\n" % size in server.heads[0]


async def test_an_upload_goes_no_faster_than_the_upstream_reads(serve, reach, until):
    go = asyncio.Event()

    async def behave(visitor) -> None:
        await visitor.head()
        await go.wait()
        await visitor.reader.readexactly(800 * 65536)
        await visitor.send(b"HTTP/1.1 204 N\r\n\r\n")

    pulled: list[int] = []
    client = reach(await serve(behave))
    upload = asyncio.create_task(client.ask(b"POST", parts(65536, 800, pulled), length=800 * 65536))
    await asyncio.sleep(0.3)
    before = len(pulled)
    await asyncio.sleep(0.2)
    assert len(pulled) == before < 800
    go.set()
    assert (await upload).status == 204


@pytest.mark.parametrize("body", ["bytes", "parts"])
async def test_an_upstream_that_takes_nothing_is_a_write_timeout(serve, reach, body):
    async def behave(visitor) -> None:
        visitor.writer.transport.pause_reading()
        await asyncio.sleep(3600)

    client = reach(await serve(behave))
    with pytest.raises(GatewayError) as caught:
        await client.ask(b"POST", b"x" * 30_000_000 if body == "bytes" else parts(65536, 800), write_s=0.3)
    assert (caught.value.code, caught.value.proxy_error) == ("upstream_timeout", "connection_write_timeout")
    assert client.state["in_flight"] == 0


async def test_an_upstream_that_takes_little_by_little_is_slow_but_not_silent(serve, reach):
    async def behave(visitor) -> None:
        await visitor.head()
        left = 12_000_000
        while left:
            left -= len(await visitor.reader.read(min(left, 1_500_000)))
            await asyncio.sleep(0.05)
        await visitor.send(b"HTTP/1.1 204 N\r\n\r\n")

    client = reach(await serve(behave))
    assert (await client.ask(b"POST", b"x" * 12_000_000, write_s=0.4)).status == 204


async def test_a_caller_that_sends_slowly_is_not_the_upstreams_silence(serve, reach):
    async def slow():
        for _ in range(4):
            await asyncio.sleep(0.15)
            yield b"part"

    server = await serve()
    reply = await reach(server).ask(b"POST", slow(), read_s=0.2)
    assert reply.status == 200
    assert server.bodies == [b"part" * 4]


async def early(visitor) -> None:
    """Answers as soon as it has seen the head."""
    await visitor.head()
    await visitor.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge")
    await visitor.gone()


async def test_an_early_refusal_is_delivered_and_stops_the_sending(serve, reach):
    pulled: list[int] = []

    async def endless():
        for at in count():
            pulled.append(at)
            yield b"x" * 1000
            await asyncio.sleep(0.01)

    server = await serve(early)
    client = reach(server)
    reply = await client.ask(b"POST", endless())
    assert reply.status == 413
    assert await reply.read(100) == b"large"
    before = len(pulled)
    await asyncio.sleep(0.05)
    assert len(pulled) <= before + 1
    assert client.state == {"in_flight": 0, "idle": 0, "connecting": 0, "pending": 0}


async def test_an_early_refusal_does_not_wait_for_a_caller_that_has_stopped_sending(serve, reach):
    async def stuck():
        yield b"x"
        await asyncio.sleep(3600)

    async with asyncio.timeout(5):
        reply = await reach(await serve(early)).ask(b"POST", stuck())
    assert reply.status == 413


@pytest.mark.parametrize("attempt", range(10))
@pytest.mark.parametrize("body", ["bytes", "parts"])
async def test_an_early_refusal_is_seen_although_the_upstream_closes_on_us(serve, reach, body, attempt):
    async def behave(visitor) -> None:
        await visitor.head()
        await visitor.send(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    client = reach(await serve(behave))
    reply = await client.ask(b"POST", b"x" * 10_000_000 if body == "bytes" else parts(65536, 160))
    assert reply.status == 413


async def test_an_early_success_may_go_on_in_both_directions(serve, reach):
    async def echo(visitor) -> None:
        await visitor.head()
        await visitor.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while size := int(await visitor.reader.readuntil(b"\r\n"), 16):
            part = (await visitor.reader.readexactly(size + 2))[:-2]
            await visitor.send(b"%x\r\n%b\r\n" % (len(part), part))
        await visitor.reader.readexactly(2)
        await visitor.send(b"0\r\n\r\n")
        await visitor.gone()

    heard = asyncio.Queue()

    async def talk():
        yield b"first"
        for _ in range(3):
            yield b"answer to " + await heard.get()

    client = reach(await serve(echo))
    reply = await client.ask(b"POST", talk())
    assert reply.status == 200
    got = b""
    async for part in reply:
        got += part
        heard.put_nowait(part)
    assert got.startswith(b"firstanswer to first")
    assert client.state["idle"] == 1


class ClientWentAway(Exception):
    pass


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("before", [0, 1, 20])
async def test_a_request_whose_body_broke_off_is_never_ended(serve, reach, until, announced, before):
    seen = bytearray()

    async def behave(visitor) -> None:
        while data := await visitor.reader.read(65536):
            seen.extend(data)

    async def breaks():
        for _ in range(before):
            yield b"part"
            await asyncio.sleep(0)
        raise ClientWentAway

    server = await serve(behave)
    client = reach(server)
    with pytest.raises(ClientWentAway):
        await client.ask(b"POST", breaks(), length=1000 if announced else None)
    await until(lambda: not server.present)
    assert not seen.endswith(b"\r\n0\r\n\r\n")
    assert client.state == {"in_flight": 0, "idle": 0, "connecting": 0, "pending": 0}


async def test_a_body_that_is_cancelled_from_outside_ends_its_request(serve, reach, until):
    async def behave(visitor) -> None:
        await visitor.gone()

    async def leaves():
        yield b"part"
        raise asyncio.CancelledError

    server = await serve(behave)
    client = reach(server)
    with pytest.raises(GatewayError) as caught:
        await client.ask(b"POST", leaves())
    assert caught.value.code == "bad_request"
    await until(lambda: not server.present)


async def test_a_request_that_cannot_be_sent_costs_no_connection(serve, reach):
    client = reach(await serve())
    await client.text()
    with pytest.raises(GatewayError) as caught:
        await client.ask(headers=((b"x", b"a\r\nb: c"),))
    assert (caught.value.code, caught.value.sent) == ("bad_request", False)
    assert client.state == {"in_flight": 0, "idle": 1, "connecting": 0, "pending": 0}


async def test_a_body_that_breaks_off_after_an_early_success_breaks_the_answer_off(serve, reach):
    async def behave(visitor) -> None:
        await visitor.head()
        await visitor.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await visitor.gone()

    go = asyncio.Event()

    async def breaks():
        yield b"x"
        await go.wait()
        raise ClientWentAway

    reply = await reach(await serve(behave)).ask(b"POST", breaks())
    assert await anext(reply) == b"half"
    go.set()
    with pytest.raises(ClientWentAway):
        await anext(reply)


@pytest.mark.parametrize("length", [0, 7, 9])
async def test_a_body_of_another_length_than_announced_is_not_sent_as_if_it_were_whole(serve, reach, until, length):
    server = await serve()
    client = reach(server)
    with pytest.raises(GatewayError) as caught:
        await client.ask(b"POST", parts(4, 2), length=length)
    assert caught.value.code == "bad_request"
    await until(lambda: not server.present)


async def test_no_body_and_no_length_says_nothing_about_a_body(serve, reach):
    server = await serve()
    client = reach(server)
    await client.text()
    await client.ask(b"POST", None, length=0)
    assert b"content-length" not in server.heads[0]
    assert b"content-length: 0\r\n" in server.heads[1]
