"""Several origins behind one name."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import GatewayError
from gateway.model.route import Timeouts
from gateway.model.settings import UpstreamSettings
from gateway.resilience.deadline import Deadline
from gateway.upstream import Outgoing, Upstream
from gateway.upstream.origins import ASIDE_S

pytestmark = pytest.mark.hazard

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


async def test_all_origins_are_used(serve, reach):
    servers = [await serve() for _ in range(3)]
    client = reach(*servers)
    for _ in range(60):
        await client.text()
    assert all(len(server.heads) > 5 for server in servers)


async def test_a_slow_origin_gets_less(serve, reach):
    async def slow(visitor) -> None:
        while True:
            await visitor.request()
            await asyncio.sleep(0.4)
            await visitor.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    servers = [await serve(slow), await serve(), await serve()]
    client = reach(*servers)

    async def work() -> None:
        for _ in range(25):
            await client.text()

    await asyncio.gather(*(work() for _ in range(4)))
    assert len(servers[0].heads) < 25
    assert sum(len(server.heads) for server in servers) == 100


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def ask(upstream: Upstream, method: bytes = b"GET", host: bytes | None = None) -> int:
    outgoing = Outgoing(method, b"/", [(b"host", host or upstream.authority)])
    reply = await upstream.exchange(outgoing, timeouts=Timeouts(), deadline=Deadline.after(5))
    await reply.aclose()
    return reply.status


async def test_an_origin_that_cannot_be_reached_is_set_aside_and_tried_again_later(serve):
    down, up = await serve(), await serve()
    down.refuse()
    clock = Clock()
    urls = tuple(f"http://127.0.0.1:{server.port if server is up else 1}" for server in (down, up))
    upstream = Upstream(UpstreamSettings(name="thing", urls=urls), clock=clock)
    for _ in range(30):
        assert await ask(upstream, b"POST") == 200
    described = upstream.snapshot()["origins"]
    assert isinstance(described, list)
    assert described[0]["set_aside_s"] == ASIDE_S
    assert described[1]["set_aside_s"] == 0.0
    assert len(up.heads) == 30
    clock.now += ASIDE_S
    assert upstream.snapshot()["origins"][0]["set_aside_s"] == 0.0
    await upstream.aclose()


async def test_who_waits_for_a_place_there_goes_to_a_good_one_when_it_is_set_aside(serve, until):
    """Not one by one, as each of those before it fails, and no request that cannot be repeated is lost."""
    inside = asyncio.Event()

    async def stuck(visitor) -> None:
        await visitor.request()
        await inside.wait()
        visitor.reset()

    bad, good = await serve(stuck), await serve()
    urls = tuple(f"http://127.0.0.1:{server.port}" for server in (bad, good))
    upstream = Upstream(UpstreamSettings(name="thing", urls=urls, max_connections=1), clock=Clock())
    upstream.members[1].ill = True  # so that all begin at the bad one
    asking = [asyncio.create_task(ask(upstream, b"POST")) for _ in range(12)]
    await until(lambda: upstream.members[0].pool.pending == 11)
    upstream.members[1].ill = False
    inside.set()
    ends = await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), 4)
    assert ends.count(200) == 11
    assert (len(bad.heads), len(good.heads)) == (1, 11)
    await upstream.aclose()


async def test_who_waits_stays_where_no_other_origin_is_better(serve, until):
    async def once(visitor) -> None:
        await visitor.request()
        if bad.visits == 1:
            visitor.reset()
        else:
            await visitor.send(OK)

    bad = await serve(once)
    urls = (f"http://127.0.0.1:{bad.port}", "http://127.0.0.1:1")
    upstream = Upstream(UpstreamSettings(name="thing", urls=urls, max_connections=1), clock=Clock())
    upstream.members[1].ill = True
    ends = await asyncio.gather(*(ask(upstream, b"POST") for _ in range(4)), return_exceptions=True)
    assert ends.count(200) == 3
    await upstream.aclose()


async def test_while_it_is_set_aside_nobody_waits_for_it(serve):
    up = await serve()
    tried = []

    class Counting:
        def __init__(self, inner) -> None:
            self.inner = inner

        async def __call__(self, origin, factory, within_s):
            tried.append(origin.address.port)
            return await self.inner(origin, factory, within_s)

    upstream = Upstream(
        UpstreamSettings(name="thing", urls=("http://127.0.0.1:1", f"http://127.0.0.1:{up.port}")), clock=Clock()
    )
    for member in upstream._members:
        member.pool._connector = Counting(member.pool._connector)
    for _ in range(50):
        assert await ask(upstream) == 200
    assert tried.count(1) == 1
    await upstream.aclose()


async def test_when_none_can_be_reached_the_caller_is_told_after_each_was_tried_once(serve):
    upstream = Upstream(UpstreamSettings(name="thing", urls=("http://127.0.0.1:1", "http://127.0.0.1:2")))
    for _ in range(3):  # all set aside: all are tried
        with pytest.raises(GatewayError) as caught:
            await ask(upstream)
        assert caught.value.code == "upstream_unreachable"
        assert not caught.value.sent
    await upstream.aclose()


async def test_a_request_that_was_sent_is_not_sent_to_another(serve, reach):
    async def hangs_up(visitor) -> None:
        await visitor.head()

    servers = [await serve(hangs_up) for _ in range(3)]
    with pytest.raises(GatewayError) as caught:
        await reach(*servers).ask()
    assert caught.value.sent
    assert sum(len(server.heads) for server in servers) == 1


async def test_each_origin_is_called_by_its_own_name_but_the_callers_host_is_kept(serve, reach):
    servers = [await serve() for _ in range(2)]
    client = reach(*servers)
    for _ in range(20):
        await ask(client.upstream)
        await ask(client.upstream, host=b"shop.example")
    for server in servers:
        hosts = {head.split(b"host: ")[1].split(b"\r\n")[0] for head in server.heads}
        assert hosts == {b"127.0.0.1:%d" % server.port, b"shop.example"}
