"""Which connection a request gets, how long it waits, and what is kept."""

from __future__ import annotations

import asyncio
import select

import pytest

from gateway.errors import GatewayError

pytestmark = pytest.mark.hazard

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"


class Gate:
    """A server that answers only when it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.inside = 0

    async def __call__(self, visitor) -> None:
        while True:
            await visitor.request()
            self.inside += 1
            await self.open.wait()
            await visitor.send(OK)


async def test_a_connection_is_used_again(serve, reach):
    server = await serve()
    client = reach(server)
    for _ in range(5):
        assert await client.text() == b"good"
    assert server.visits == 1
    assert client.state == {"in_flight": 0, "idle": 1, "connecting": 0, "pending": 0}


async def test_the_connection_that_came_back_last_is_used_first(serve, reach):
    server = await serve(gate := Gate())
    client = reach(server)
    many = [asyncio.create_task(client.text()) for _ in range(4)]
    while gate.inside < 4:  # noqa: ASYNC110 - counts visits of a server
        await asyncio.sleep(0.005)
    gate.open.set()
    await asyncio.gather(*many)
    pool = client.upstream._members[0].pool
    last = pool._idle[-1]
    requests = last.requests
    for _ in range(3):
        await client.text()
    assert last.requests == requests + 3
    assert pool._idle[-1] is last


async def test_no_more_than_max_connections_are_open_and_the_rest_wait_their_turn(serve, reach, until):
    server = await serve(gate := Gate())
    client = reach(server, max_connections=3)
    many = [asyncio.create_task(client.text()) for _ in range(10)]
    await until(lambda: gate.inside == 3)
    assert client.state == {"in_flight": 3, "idle": 0, "connecting": 0, "pending": 7}
    gate.open.set()
    assert await asyncio.gather(*many) == [b"good"] * 10
    assert server.visits == 3


async def test_more_than_max_pending_are_refused_at_once_as_our_own_overload(serve, reach, until):
    server = await serve(gate := Gate())
    client = reach(server, max_connections=1, max_pending=2)
    many = [asyncio.create_task(client.text()) for _ in range(3)]
    await until(lambda: client.state["pending"] == 2 and gate.inside == 1)
    with pytest.raises(GatewayError) as caught:
        await client.text()
    assert caught.value.code == "upstream_overloaded"
    assert caught.value.proxy_error == "connection_limit_reached"
    assert not caught.value.sent
    gate.open.set()
    assert await asyncio.gather(*many) == [b"good"] * 3


async def test_waiting_for_a_place_ends_with_the_deadline(serve, reach, until):
    server = await serve(gate := Gate())
    client = reach(server, max_connections=1)
    first = asyncio.create_task(client.text())
    await until(lambda: gate.inside == 1)
    with pytest.raises(GatewayError) as caught:
        await client.ask(deadline_s=0.1)
    assert caught.value.code == "deadline_exceeded"
    assert not caught.value.sent
    gate.open.set()
    assert await first == b"good"
    assert client.state == {"in_flight": 0, "idle": 1, "connecting": 0, "pending": 0}


async def test_a_place_that_a_broken_connection_leaves_goes_to_who_waits(serve, reach, until):
    async def behave(visitor) -> None:
        first = visitor.server.visits == 1
        while True:
            await visitor.request()
            if first:
                await asyncio.sleep(0.05)
                visitor.reset()
                return
            await visitor.send(OK)

    client = reach(await serve(behave), max_connections=1)
    results = await asyncio.gather(*(client.text(b"POST", b"x") for _ in range(3)), return_exceptions=True)
    assert [result for result in results if not isinstance(result, GatewayError)] == [b"good"] * 2


async def test_idle_connections_are_closed_after_idle_timeout(serve, reach, until):
    server = await serve()
    client = reach(server, idle_timeout_s=0.1)
    await client.text(read_s=30.0)
    assert client.state["idle"] == 1
    await until(lambda: client.state["idle"] == 0)
    await until(lambda: not server.present)
    assert await client.text() == b"good"


async def test_a_connection_in_use_is_not_idle(serve, reach):
    async def behave(visitor) -> None:
        await visitor.request()
        await asyncio.sleep(0.3)
        await visitor.send(OK)
        await visitor.gone()

    assert await reach(await serve(behave), idle_timeout_s=0.1).text() == b"good"


async def closes_after_one(visitor) -> None:
    """Answers once and closes when the next request arrives, as servers do whose keep-alive ends."""
    await visitor.request()
    await visitor.send(OK)
    if visitor.server.visits == 1:
        await visitor.head()
    else:
        await visitor.gone()


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"])
async def test_a_stale_connection_is_replaced_once_for_what_may_be_repeated(serve, reach, method):
    server = await serve(closes_after_one)
    client = reach(server)
    await client.text()
    assert (await client.ask(method, b"x" if method == b"PUT" else None)).status == 200
    assert server.visits == 2


@pytest.mark.parametrize("method", [b"POST", b"PATCH"])
async def test_a_stale_connection_is_not_replaced_when_the_request_may_have_been_acted_on(serve, reach, method):
    server = await serve(closes_after_one)
    client = reach(server)
    await client.text()
    with pytest.raises(GatewayError) as caught:
        await client.ask(method, b"x")
    assert (caught.value.code, caught.value.proxy_error) == ("upstream_protocol_error", "connection_terminated")
    assert caught.value.sent
    assert server.visits == 2 - 1


async def test_a_connection_whose_end_is_already_known_counts_as_never_used(serve, reach, until):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(OK)

    server = await serve(behave)
    client = reach(server)
    for _ in range(20):
        assert await client.text(b"POST", b"x") == b"good"
        await until(lambda: client.state["idle"] == 0)
    assert len(server.heads) == 20


async def test_a_post_does_not_meet_an_end_that_lies_unread_in_the_socket(serve, reach):
    """The loop has not got round to reading the FIN when the next request is sent."""

    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(OK)

    server = await serve(behave)
    client = reach(server)
    for _ in range(20):
        assert await client.text(b"POST", b"x") == b"good"
        kept = client.upstream._members[0].pool._idle
        if kept:
            select.select([kept[0]._transport.get_extra_info("socket").fileno()], [], [], 0.05)
    assert len(server.heads) == 20


async def test_a_stale_connection_is_replaced_only_once(serve, reach):
    async def behave(visitor) -> None:
        await visitor.request()
        if visitor.server.visits == 1:
            await visitor.send(OK)
            await visitor.head()

    server = await serve(behave)
    client = reach(server)
    await client.text()
    with pytest.raises(GatewayError) as caught:
        await client.text()
    assert caught.value.proxy_error == "connection_terminated"
    assert server.visits == 2


async def test_a_new_connection_that_ends_without_an_answer_is_not_replaced(serve, reach):
    async def behave(visitor) -> None:
        await visitor.head()

    server = await serve(behave)
    with pytest.raises(GatewayError):
        await reach(server).text()
    assert server.visits == 1


async def test_a_silent_kept_connection_is_a_timeout_and_not_tried_again(serve, reach):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(OK)
        await visitor.gone()

    server = await serve(behave)
    client = reach(server)
    await client.text()
    with pytest.raises(GatewayError) as caught:
        await client.ask(read_s=0.2)
    assert caught.value.code == "upstream_timeout"
    assert server.visits == 1


async def test_a_restarted_upstream_costs_no_request(serve, reach):
    server = await serve(gate := Gate())
    gate.open.set()
    client = reach(server, max_connections=4)
    await asyncio.gather(*(client.text() for _ in range(4)))
    for task in list(server.present):
        task.cancel()
    assert await asyncio.gather(*(client.text() for _ in range(20))) == [b"good"] * 20


async def test_a_full_pool_makes_room_for_the_replacement(serve, reach, until):
    async def behave(visitor) -> None:
        await visitor.request()
        visitor.server.inside = getattr(visitor.server, "inside", 0) + 1
        while visitor.server.inside < 2:  # noqa: ASYNC110 - a counter of the test
            await asyncio.sleep(0.005)
        await visitor.send(OK)
        await visitor.head()
        if visitor.server.visits > 2:
            await visitor.send(OK)
            await visitor.gone()

    server = await serve(behave)
    client = reach(server, max_connections=2)
    await asyncio.gather(client.text(), client.text())
    assert client.state["idle"] == 2
    assert await client.text() == b"good"
    assert server.visits == 3


async def test_closing_refuses_who_waits_and_ends_who_is_served(serve, reach, until):
    server = await serve(gate := Gate())
    client = reach(server, max_connections=1)
    many = [asyncio.create_task(client.text()) for _ in range(3)]
    await until(lambda: gate.inside == 1)
    await client.upstream.aclose()
    results = await asyncio.gather(*many, return_exceptions=True)
    assert [error.code for error in results if isinstance(error, GatewayError)] == ["draining"] * 3
    with pytest.raises(GatewayError, match="draining"):
        await client.text()
    gate.open.set()
    await until(lambda: not server.present)


async def test_every_object_says_how_it_is(serve, reach, until):
    server = await serve(gate := Gate())
    client = reach(server)
    pool = client.upstream._members[0].pool
    task = asyncio.create_task(client.ask())
    await until(lambda: gate.inside == 1)
    (connection,) = pool._open
    assert repr(connection) == f"<Connection http://127.0.0.1:{server.port} WAITING requests=1>"
    gate.open.set()
    reply = await task
    assert repr(reply) == "<Reply 200 COMPLETE buffered=4>"
    assert repr(connection) == f"<Connection http://127.0.0.1:{server.port} IDLE requests=1>"
    assert repr(pool) == f"<Pool http://127.0.0.1:{server.port} in_flight=0 idle=1 connecting=0 pending=0>"
    assert repr(client.upstream) == f"<Upstream thing [{pool!r}]>"
    connection.abort()
    assert repr(connection) == f"<Connection http://127.0.0.1:{server.port} CLOSED requests=1>"
