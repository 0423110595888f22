"""Which connections are used again, and which never: old ones, suspect ones, and those that stand for one user."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from gateway.errors import GatewayError
from gateway.model.route import Timeouts
from gateway.resilience.deadline import Deadline
from gateway.upstream import Outgoing
from gateway.upstream.pool import UNKEPT_S

pytestmark = pytest.mark.hazard

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"


class Mortal:
    """Answers; connections made up to `dead` swallow everything."""

    def __init__(self) -> None:
        self.dead = 0
        self.gate = asyncio.Event()
        self.inside = 0

    async def __call__(self, visitor) -> None:
        number = visitor.server.visits
        while True:
            await visitor.request()
            if number <= self.dead:
                await visitor.gone()
                return
            self.inside += 1
            await self.gate.wait()
            await visitor.send(OK)


async def warm(client, server: Mortal, count: int, until) -> None:
    """So many kept connections."""
    server.gate.clear()
    server.inside = 0
    asking = [asyncio.create_task(client.text()) for _ in range(count)]
    await until(lambda: server.inside == count)
    server.gate.set()
    await asyncio.gather(*asking)


def fresh(client) -> Outgoing:
    return Outgoing(b"GET", b"/", [(b"host", client.upstream.authority)], fresh=True)


PATIENT = Timeouts(connect_s=5.0, read_s=5.0, write_s=5.0)


async def test_one_failure_on_a_kept_connection_closes_the_others_that_are_as_old(serve, reach, until):
    server = await serve(mortal := Mortal())
    client = reach(server)
    await warm(client, mortal, 8, until)
    mortal.dead = server.visits
    with pytest.raises(GatewayError) as caught:
        await client.ask(read_s=0.2)
    assert caught.value.code == "upstream_timeout"
    assert client.state["idle"] == 0
    assert [await client.text() for _ in range(3)] == [b"good"] * 3
    assert server.visits == mortal.dead + 1


async def test_a_connection_that_answered_since_the_failing_exchange_began_is_kept(serve, reach, until):
    async def behave(visitor) -> None:
        while True:
            head = await visitor.request()
            if b"x-slow" in head:
                await visitor.gone()
                return
            await visitor.send(OK)

    server = await serve(behave)
    client = reach(server)
    await client.text()
    failing = asyncio.create_task(client.ask(headers=((b"x-slow", b"1"),), read_s=0.2))
    await asyncio.sleep(0.05)
    await client.text()
    with pytest.raises(GatewayError):
        await failing
    assert client.state["idle"] == 1


async def test_a_failure_on_a_new_connection_makes_no_other_suspect(serve, reach, until):
    server = await serve(mortal := Mortal())
    client = reach(server)
    await warm(client, mortal, 3, until)
    mortal.dead = 4
    visits = server.visits
    outgoing = fresh(client)
    with pytest.raises(GatewayError):
        await client.upstream.exchange(
            outgoing, timeouts=dataclasses.replace(PATIENT, read_s=0.2), deadline=Deadline.after(5)
        )
    assert server.visits == visits + 1
    assert client.state["idle"] == 3


async def test_a_request_can_ask_for_a_new_connection_also_when_the_pool_is_full(serve, reach, until):
    server = await serve(mortal := Mortal())
    client = reach(server, max_connections=2)
    await warm(client, mortal, 2, until)
    reply = await client.upstream.exchange(fresh(client), timeouts=PATIENT, deadline=Deadline.after(5))
    assert await reply.read(100) == b"good"
    assert server.visits == 3
    assert client.state == {"in_flight": 0, "idle": 2, "connecting": 0, "pending": 0}


async def test_old_connections_take_no_further_request(serve, reach, until):
    server = await serve()
    client = reach(server, max_connection_age_s=0.2)
    await client.text()
    (connection,) = client.upstream._members[0].pool._open
    connection.answered_s = connection.retire_at_s + 1
    client.upstream._members[0].pool._idle.clear()
    client.upstream._members[0].pool.on_free(connection)
    assert client.state["idle"] == 0
    await client.text()
    await until(lambda: client.state["idle"] == 0)
    assert server.visits == 2


async def test_ages_are_spread(serve, reach, until):
    server = await serve(mortal := Mortal())
    client = reach(server, max_connection_age_s=1000.0)
    await warm(client, mortal, 8, until)
    ages = [connection.retire_at_s - connection.began_s for connection in client.upstream._members[0].pool._open]
    assert all(890 < age < 1110 for age in ages)
    assert max(ages) - min(ages) > 1


# --- an answer that nobody asked for ----------------------------------------------------------------------------------


@pytest.mark.parametrize("later_s", [0.0, 0.003, 0.02])
@pytest.mark.parametrize("method", [b"GET", b"PUT", b"POST"])
async def test_an_answer_that_nobody_asked_for_is_nobodys(serve, reach, later_s, method):
    async def behave(visitor) -> None:
        while True:
            await visitor.request()
            await visitor.send(OK)
            await asyncio.sleep(later_s)
            await visitor.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL")

    client = reach(await serve(behave))
    for _ in range(5):
        assert await client.text(method, None if method == b"GET" else b"x") == b"good"
        await asyncio.sleep(later_s + 0.02)
    assert client.state["idle"] == 0


async def test_an_origin_that_sent_one_loses_keep_alive_for_a_while(serve, reach, until, caplog):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(OK)
        if visitor.server.visits == 1:
            await asyncio.sleep(0.01)
            await visitor.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL")
        await visitor.request()
        await visitor.send(OK)
        await visitor.gone()

    server = await serve(behave)
    client = reach(server)
    await client.text()
    await until(lambda: client.state["idle"] == 0)
    assert [await client.text() for _ in range(3)] == [b"good"] * 3
    assert server.visits == 4
    assert "nobody asked for" in caplog.text
    pool = client.upstream._members[0].pool
    pool._unkept_until_s -= UNKEPT_S
    assert [await client.text() for _ in range(2)] == [b"good"] * 2
    assert server.visits == 5


async def test_a_408_at_the_end_of_an_idle_connection_is_no_offence(serve, reach, until):
    async def behave(visitor) -> None:
        await visitor.request()
        await visitor.send(OK)
        await late.wait()
        await visitor.send(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")

    late = asyncio.Event()
    client = reach(await serve(behave))
    await client.text()
    late.set()
    await until(lambda: client.state["idle"] == 0)
    assert client.upstream._members[0].pool._unkept_until_s == 0


# --- connections that stand for a user --------------------------------------------------------------------------------


class Windows:
    """As IIS with NTLM: who has authenticated on a connection is that connection's user from then on."""

    async def __call__(self, visitor) -> None:
        user = b"nobody"
        while True:
            head = (await visitor.request()).lower()
            if b"authorization: negotiate alice" in head or b"authorization: ntlm alice" in head:
                user = b"alice"
            if b"/thing" in head and b"x-wants: login" in head:
                challenge = b"HTTP/1.1 401 U\r\nWWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM\r\n"
                await visitor.send(challenge + b"Content-Length: 0\r\n\r\n")
                user = b"half a login"
            else:
                await visitor.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(user), user))


@pytest.mark.parametrize("scheme", [b"Negotiate", b"NTLM", b"negotiate", b"ntlm"])
async def test_a_connection_that_was_authenticated_is_never_a_strangers(serve, reach, scheme):
    client = reach(await serve(Windows()))
    assert await client.text(headers=((b"authorization", scheme + b" alice"),)) == b"alice"
    assert await client.text() == b"nobody"


async def test_a_second_authorization_field_does_not_hide_the_scheme(serve, reach):
    client = reach(await serve(Windows()))
    fields = ((b"authorization", b"Bearer x"), (b"authorization", b"  NTLM alice"))
    await client.text(headers=fields)
    assert client.state["idle"] == 0


async def test_a_connection_on_which_a_login_was_asked_for_is_not_kept(serve, reach):
    client = reach(await serve(Windows()))
    assert (await client.ask(headers=((b"x-wants", b"login"),))).status == 401
    assert client.state["idle"] == 0
    assert await client.text() == b"nobody"


@pytest.mark.parametrize("scheme", [b"Bearer x", b"Basic bnRsbQ=="])
async def test_other_schemes_authenticate_a_request_and_connections_are_kept(serve, reach, scheme):
    server = await serve(Windows())
    client = reach(server)
    for _ in range(3):
        await client.text(headers=((b"authorization", scheme),))
    assert server.visits == 1
