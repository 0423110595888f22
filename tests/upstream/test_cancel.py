"""Whoever leaves at whatever moment takes nothing with him: no connection, no place, nobody else's answer."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from gateway.errors import GatewayError

pytestmark = pytest.mark.hazard

FREE = {"in_flight": 0, "connecting": 0, "pending": 0}


async def moody(visitor) -> None:
    """Answers with what was asked for, in pieces, after different pauses; closes now and then."""
    dice = random.Random(visitor.server.visits)  # noqa: S311 - a test that can be repeated
    while True:
        head = await visitor.request()
        number = head.split(b"x-number: ")[1].split(b"\r\n")[0]
        await asyncio.sleep(dice.choice([0, 0, 0.001, 0.005]))
        close = dice.random() < 0.1
        answer = b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n" % (
            b"Connection: close\r\n" if close else b"",
            len(number) * 1000,
        )
        for piece in (answer, number * 500, number * 500):
            await visitor.send(piece)
            await asyncio.sleep(0)
        if close:
            return


async def ask(client, number: int, *, upload: bool) -> None:
    name = b"%06d" % number

    async def body():
        for _ in range(3):
            yield name
            await asyncio.sleep(0)

    sent = body() if upload else None
    reply = await client.ask(b"POST" if upload else b"GET", sent, headers=((b"x-number", name),))
    try:
        got = b"".join([part async for part in reply])
    finally:
        await reply.aclose()
    assert got == name * 1000


async def leave(task: asyncio.Task[None], after_s: float) -> None:
    await asyncio.sleep(after_s)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, GatewayError):
        await task


@pytest.mark.parametrize("seed", range(4))
async def test_random_cancellations_leak_nothing(serve, reach, until, seed):
    server = await serve(moody)
    client = reach(server, max_connections=5, max_pending=1000)
    dice = random.Random(seed)  # noqa: S311 - a test that can be repeated
    numbers = iter(range(10_000))
    for _ in range(30):
        tasks = [
            asyncio.create_task(ask(client, next(numbers), upload=dice.random() < 0.3))
            for _ in range(dice.randint(1, 20))
        ]
        await asyncio.gather(*(leave(task, dice.choice([0, 0, 0.001, 0.003, 0.01])) for task in tasks))
    await until(lambda: all(client.state[key] == 0 for key in FREE))
    # A GET goes out until it is answered: the server closes now and then, and a replacement may meet that too.
    await asyncio.gather(*(ask(client, next(numbers), upload=False) for _ in range(10)))
    assert client.state["idle"] <= 5


async def test_many_short_deadlines_leave_a_pool_that_works(serve, reach, until):
    server = await serve(moody)
    client = reach(server, max_connections=10)

    async def hurried(number: int) -> None:
        with contextlib.suppress(TimeoutError, GatewayError):
            async with asyncio.timeout(0.001 + 0.014 * (number * 7 % 20) / 20):
                await ask(client, number, upload=False)

    for begin in range(0, 1200, 20):
        await asyncio.gather(*(hurried(begin + at) for at in range(20)))
    await until(lambda: all(client.state[key] == 0 for key in FREE))
    await asyncio.gather(*(ask(client, 5000 + at, upload=False) for at in range(10)))


async def test_a_burst_at_an_upstream_that_always_closes_leaves_a_pool_that_works(serve, reach, until):
    async def closes(visitor) -> None:
        await visitor.request()
        await asyncio.sleep(0.002)
        await visitor.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")

    server = await serve(closes)
    client = reach(server, max_connections=10)
    for _ in range(10):
        burst = (client.ask(deadline_s=0.05) for _ in range(100))
        results = await asyncio.gather(*burst, return_exceptions=True)
        assert {error.code for error in results if isinstance(error, GatewayError)} <= {"deadline_exceeded"}
    await until(lambda: all(client.state[key] == 0 for key in FREE))
    assert await asyncio.gather(*(client.text() for _ in range(10))) == [b"ok"] * 10


async def test_who_leaves_while_connecting_leaves_the_connection_to_the_next(serve, reach, until):
    server = await serve()
    client = reach(server)
    task = asyncio.create_task(client.text())
    await asyncio.sleep(0)
    task.cancel()
    await until(lambda: client.state["idle"] == 1)
    assert await client.text() == b"good"
    assert server.visits == 1


async def test_who_leaves_at_the_moment_of_being_served_hands_the_connection_on(serve, reach, until):
    server = await serve()
    client = reach(server, max_connections=1)
    pool = client.upstream._members[0].pool
    first = await client.ask()
    assert first.arrived
    connection = pool._idle.pop()  # as if in use
    waiting = [asyncio.create_task(client.text()) for _ in range(2)]
    await until(lambda: client.state["pending"] == 2)
    pool.on_free(connection)
    waiting[0].cancel()
    assert await waiting[1] == b"good"
    assert server.visits == 1


async def test_the_answer_of_who_left_is_never_the_next_ones(serve, reach):
    async def slow(visitor) -> None:
        while True:
            head = await visitor.request()
            await asyncio.sleep(0.03)
            await visitor.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n" + head.split(b"x-number: ")[1][:6])

    client = reach(await serve(slow), max_connections=1)
    for number in range(10):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await client.ask(headers=((b"x-number", b"999999"),))
        reply = await client.ask(headers=((b"x-number", b"%06d" % number),))
        assert await reply.read(100) == b"%06d" % number


async def test_a_cancelled_upload_stops_its_body(serve, reach, until):
    stopped = asyncio.Event()

    async def body():
        try:
            while True:
                yield b"x"
                await asyncio.sleep(0.001)
        finally:
            stopped.set()

    server = await serve()
    client = reach(server)
    task = asyncio.create_task(client.ask(b"POST", body()))
    await until(lambda: bool(server.heads))
    task.cancel()
    await asyncio.wait_for(stopped.wait(), 5)
    await until(lambda: not server.present)
    assert server.bodies == []
