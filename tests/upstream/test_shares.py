"""One caller cannot hold what all need: turns, shares of the connections, and streams that take up no place."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model.route import Timeouts
from gateway.resilience.admission import ConcurrencyLimit, Place
from gateway.resilience.deadline import Deadline
from gateway.upstream import Outgoing, Reply
from gateway.upstream.sharing import Shares, Turns

pytestmark = pytest.mark.hazard

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
TIMEOUTS = Timeouts(connect_s=5.0, read_s=30.0, write_s=30.0)


async def ask(client, caller: str, target: bytes = b"/", body=None, *, deadline_s: float = 10.0) -> Reply:
    method = b"POST" if body is not None else b"GET"
    outgoing = Outgoing(method, target, [(b"host", client.upstream.authority)], body, share_key=caller)
    return await client.upstream.exchange(outgoing, timeouts=TIMEOUTS, deadline=Deadline.after(deadline_s))


async def text(client, caller: str, target: bytes = b"/", **more: float) -> bytes:
    return await (await ask(client, caller, target, **more)).read(1 << 20)


async def busy(visitor) -> None:
    """Ten milliseconds for every answer."""
    while True:
        await visitor.request()
        await asyncio.sleep(0.01)
        await visitor.send(OK)


async def large(visitor) -> None:
    """An upstream whose `/large` is longer than anybody reads."""
    while True:
        head = await visitor.request()
        if b"/large" in head:
            await visitor.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
            while True:
                await visitor.send(b"x" * 100_000)
        await visitor.send(OK)


async def test_a_flood_beside_a_normal_caller_costs_it_nothing(serve, reach):
    client = reach(await serve(busy), max_connections=8, max_pending=32)
    flooding = [asyncio.create_task(text(client, "mallory", deadline_s=20.0)) for _ in range(400)]
    await asyncio.sleep(0.02)
    for _ in range(20):
        assert await text(client, "alice", deadline_s=1.0) == b"good"
        flooding += [asyncio.create_task(text(client, "mallory", deadline_s=20.0)) for _ in range(20)]
        await asyncio.sleep(0)
    ends = await asyncio.gather(*flooding, return_exceptions=True)
    refused = [end for end in ends if isinstance(end, GatewayError)]
    assert {error.code for error in refused} == {"upstream_overloaded"}
    assert ends.count(b"good") >= 100


async def test_one_caller_may_use_everything_while_nobody_waits(serve, reach, until):
    client = reach(await serve(busy), max_connections=8)
    asking = [asyncio.create_task(text(client, "alice")) for _ in range(8)]
    await until(lambda: client.state["in_flight"] == 8)
    assert await asyncio.gather(*asking) == [b"good"] * 8


async def test_uploads_of_one_caller_hold_a_quarter_and_the_rest_of_them_wait(serve, reach, until):
    client = reach(await serve(), max_connections=8)
    gate = asyncio.Event()

    async def slow():
        yield b"part"
        await gate.wait()
        yield b"rest"

    uploads = [asyncio.create_task(ask(client, "mallory", body=slow(), deadline_s=30.0)) for _ in range(12)]
    await until(lambda: client.state["in_flight"] == 2)
    assert client.state["pending"] == 10
    assert [await text(client, "alice", deadline_s=2.0) for _ in range(5)] == [b"good"] * 5
    assert await text(client, "mallory", deadline_s=2.0) == b"good"
    gate.set()
    assert {reply.status for reply in await asyncio.gather(*uploads)} == {200}
    assert client.upstream._members[0].pool._shares._sending == {}


async def test_downloads_that_nobody_reads_make_room_while_others_wait(serve, reach, until):
    client = reach(await serve(large), max_connections=8)
    unread = [await ask(client, "mallory", b"/large") for _ in range(8)]
    assert await asyncio.gather(*(text(client, f"user {n}", deadline_s=5.0) for n in range(20))) == [b"good"] * 20
    with pytest.raises(GatewayError) as caught:
        await text(client, "mallory", deadline_s=1.5)
    assert caught.value.code == "deadline_exceeded"
    broken = [reply for reply in unread if reply.error is not None]
    assert 1 <= len(broken) <= 6
    assert {reply.error.code for reply in broken} == {"overloaded"}
    for reply in unread:
        await reply.aclose()
    assert await text(client, "mallory") == b"good"


async def test_a_stream_takes_up_no_place(serve, reach, until):
    async def endless(visitor) -> None:
        head = await visitor.request()
        if b"/events" in head:
            await visitor.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
            await visitor.gone()
        else:
            await visitor.send(OK)
            await visitor.gone()

    server = await serve(endless)
    client = reach(server, max_connections=2)
    streams = []
    for number in range(6):
        streams.append(await ask(client, f"user {number}", b"/events"))
        streams[-1].allow_silence(60.0)
    assert client.upstream.snapshot()["origins"][0]["streams"] == 6
    assert await text(client, "alice", deadline_s=2.0) == b"good"
    assert await anext(streams[0]) == b"data: 1\n\n"
    for stream in streams:
        await stream.aclose()
    await until(lambda: client.upstream.snapshot()["origins"][0]["streams"] == 0)


async def test_nothing_is_left_of_what_was_counted(serve, reach, until):
    client = reach(await serve(busy), max_connections=4)

    async def body():
        yield b"x"

    for number in range(60):
        asking = asyncio.create_task(ask(client, f"user {number % 3}", body=body() if number % 2 else None))
        await asyncio.sleep(0.002)
        if number % 5 == 0:
            asking.cancel()
    await until(lambda: client.state["in_flight"] == client.state["pending"] == client.state["connecting"] == 0)
    shares = client.upstream._members[0].pool._shares
    assert (shares._held, shares._sending, shares._unread) == ({}, {}, {})


# --- turns and streams, without sockets -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Waiting:
    share_key: str
    number: int


def order(turns: Turns, modest=lambda key: True) -> list[str]:
    served = []
    while (waiter := turns.first(lambda each: True, modest)) is not None:
        turns.taken(waiter)
        served.append(f"{waiter.share_key}{waiter.number}")
    return served


def test_callers_take_turns_each_with_its_oldest():
    turns: Turns = Turns()
    for waiter in (
        Waiting("m", 1),
        Waiting("m", 2),
        Waiting("m", 3),
        Waiting("a", 1),
        Waiting("b", 1),
        Waiting("a", 2),
    ):
        turns.add(waiter)
    assert order(turns) == ["m1", "a1", "b1", "m2", "a2", "m3"]
    assert turns.count == 0
    assert not turns


def test_who_holds_less_than_a_quarter_goes_first():
    turns: Turns = Turns()
    for waiter in (Waiting("m", 1), Waiting("m", 2), Waiting("a", 1), Waiting("a", 2)):
        turns.add(waiter)
    assert order(turns, modest=lambda key: key == "a") == ["a1", "a2", "m1", "m2"]


def test_who_waits_most_loses_its_latest():
    turns: Turns = Turns()
    for number in range(5):
        turns.add(Waiting("m", number))
    turns.add(Waiting("a", 1))
    assert turns.loser("a") == Waiting("m", 4)
    assert turns.loser("m") is None
    assert turns.loser("new") == Waiting("m", 4)


@given(st.lists(st.tuples(st.sampled_from(["add", "drop", "take"]), st.sampled_from("abc")), max_size=60))
def test_turns_forget_nobody_and_keep_nobody(steps):
    turns: Turns = Turns()
    model: list[Waiting] = []
    for number, (step, key) in enumerate(steps):
        own = [waiter for waiter in model if waiter.share_key == key]
        if step == "add":
            model.append(Waiting(key, number))
            turns.add(model[-1])
        elif step == "drop" and own:
            model.remove(own[-1])
            assert turns.drop(own[-1])
        elif step == "take" and own:
            assert turns.first(own.__contains__, lambda _: True) == own[0]
            model.remove(own[0])
            turns.taken(own[0])
        assert sorted(turns.everyone(), key=lambda each: each.number) == model
        assert turns.count == len(model)
        assert all(turns.values())


def test_one_caller_has_at_most_a_quarter_of_the_streams():
    whole, route, streams = ConcurrencyLimit(100), ConcurrencyLimit(100), ConcurrencyLimit(8)
    places = [Place(whole, route, streams) for _ in range(4)]
    places[0].become_stream("mallory")
    places[1].become_stream("mallory")
    with pytest.raises(GatewayError, match="share"):
        places[2].become_stream("mallory")
    places[3].become_stream("alice")
    assert (streams.in_use, whole.in_use) == (3, 1)
    places[0].release()
    places[0].release()
    places[2].become_stream("mallory")
    for place in places:
        place.release()
    assert (streams.in_use, whole.in_use, route.in_use, streams.by_caller) == (0, 0, 0, {})


@dataclass(eq=False)
class Held:
    number: int
    share_key: str = "mallory"
    sending: bool = False


def test_who_leaves_answers_unread_gets_no_new_ones_for_those_that_are_broken_off(monkeypatch):
    now = 0.0
    monkeypatch.setattr("gateway.upstream.sharing.time", SimpleNamespace(monotonic=lambda: now))
    shares = Shares(8)
    held = [Held(number) for number in range(6)]
    for connection in held:
        shares.take("mallory", sending=False)
        shares.unread(connection)
        now += 0.1
    assert [connection.number for connection in shares.excess()] == []
    now += 1.0
    excess = shares.excess()
    assert [connection.number for connection in excess] == [2, 3, 4, 5]
    for connection in excess:
        shares.release(connection)
    assert not shares.may("mallory", sending=False)
    assert shares.may("alice", sending=False)


@pytest.mark.parametrize(("limit", "stay"), [(8, 6), (4, 3), (1, 0)])
def test_of_what_many_callers_leave_unread_the_oldest_beyond_three_quarters_goes(monkeypatch, limit, stay):
    now = 0.0
    monkeypatch.setattr("gateway.upstream.sharing.time", SimpleNamespace(monotonic=lambda: now))
    shares = Shares(limit)
    held = [Held(number, f"user {number}") for number in range(limit)]
    for connection in held:
        shares.take(connection.share_key, sending=False)
        shares.unread(connection)
        now += 0.1
    assert shares.excess() == []
    now += 1.0
    assert [connection.number for connection in shares.excess()] == list(range(limit - stay))


def test_whose_answer_was_broken_off_leaves_a_quarter_to_the_others(monkeypatch):
    now = 0.0
    monkeypatch.setattr("gateway.upstream.sharing.time", SimpleNamespace(monotonic=lambda: now))
    shares = Shares(8)
    slow = [Held(number, f"user {number % 8}") for number in range(32)]
    for connection in slow:
        shares.take(connection.share_key, sending=False)
        shares.unread(connection)
    now += 2.0
    assert len(shares.break_off(["alice"])) == 32 - 6
    for connection in slow:
        shares.release(connection)
    for number in range(6):
        assert shares.may(f"user {number}", sending=False)
        shares.take(f"user {number}", sending=False)
    assert not shares.may("user 7", sending=False)
    assert shares.may("alice", sending=False)
    shares.give_back(SimpleNamespace(share_key="user 0", sending=False))
    assert shares.may("user 7", sending=False)
    now += 31.0
    shares.take("user 7", sending=False)
    assert shares.may("user 0", sending=False)


async def test_downloads_of_many_callers_each_below_its_quarter_leave_room_for_others(serve, reach):
    client = reach(await serve(large), max_connections=4)
    unread = [await ask(client, f"slow {n}", b"/large") for n in range(4)]
    assert await text(client, "alice", deadline_s=5.0) == b"good"
    assert [reply.error is not None for reply in unread] == [True, False, False, False]
    again = [asyncio.create_task(ask(client, f"slow {n}", b"/large", deadline_s=9.0)) for n in range(4)]
    for _ in range(8):
        assert await text(client, "alice", deadline_s=5.0) == b"good"
    for task in again:
        task.cancel()
    for reply in unread:
        await reply.aclose()


async def test_uploads_of_many_callers_leave_a_quarter_to_what_has_arrived(serve, reach, until):
    client = reach(await serve(), max_connections=4)
    gate = asyncio.Event()

    async def slow():
        yield b"part"
        await gate.wait()

    uploads = [asyncio.create_task(ask(client, f"slow {n}", body=slow(), deadline_s=30.0)) for n in range(6)]
    await until(lambda: client.state["in_flight"] == 3)
    assert [await text(client, "alice", deadline_s=2.0) for _ in range(5)] == [b"good"] * 5
    gate.set()
    assert {reply.status for reply in await asyncio.gather(*uploads)} == {200}


async def test_another_limit_is_another_quarter(serve, reach):
    client = reach(await serve(), max_connections=4)
    pool = client.upstream._members[0].pool
    pool.update(max_connections=40, max_pending=1, idle_timeout_s=1.0, max_age_s=1.0)
    assert pool._shares.quarter == 10
