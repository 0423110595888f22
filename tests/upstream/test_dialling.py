"""Addresses are raced, every dial has the whole time limit, and a failing resolver or a moved name costs nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from gateway.errors import GatewayError
from gateway.model.settings import Address, ClientTls
from gateway.upstream import names
from gateway.upstream.names import DEAD_S, Names
from tests.upstream.test_connect import Authority, info, secure, swallowing

pytestmark = pytest.mark.hazard


class Resolver:
    """What a name's addresses are, changed at will; None: the look-up fails."""

    def __init__(self, monkeypatch, *addresses) -> None:
        self.addresses: list | None = list(addresses)
        self.delay_s = 0.0
        self.asked = 0
        monkeypatch.setattr(names, "_addresses", self)

    async def __call__(self, address: Address) -> list:
        self.asked += 1
        await asyncio.sleep(self.delay_s)
        if self.addresses is None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return self.addresses


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@contextmanager
def slow_handshakes(context: ssl.SSLContext, after_s: float) -> Iterator[tuple[int, list[int]]]:
    """A server, in threads, whose TLS handshake begins late: its port, and one item for each connection."""
    visits: list[int] = []

    def visit(raw: socket.socket) -> None:
        time.sleep(after_s)
        with raw, suppress(OSError), context.wrap_socket(raw, server_side=True) as tls:
            while tls.recv(65536):
                tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                raw, _ = listener.accept()
                visits.append(1)
                threads.append(threading.Thread(target=visit, args=(raw,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=accept, args=(listener,))]
        threads[0].start()
        yield listener.getsockname()[1], visits
        listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(10)


async def test_every_dial_has_the_whole_time_limit(serve, reach, authority, monkeypatch):
    with slow_handshakes(secure(authority, "localhost"), 0.35) as (port, _):
        Resolver(monkeypatch, *[info("127.0.0.1", port)] * 4)
        client = reach(await serve(), scheme="https", host="localhost", tls=ClientTls(ca_file=authority.file))
        assert await client.text(connect_s=1.0) == b"good"
        await client.upstream.aclose()


async def test_all_addresses_together_take_little_longer_than_one(serve, reach, monkeypatch):
    with ExitStack() as stack:
        Resolver(monkeypatch, *[info("127.0.0.1", swallowing(stack)) for _ in range(3)])
        client = reach(await serve())
        begun_s = time.monotonic()
        with pytest.raises(GatewayError) as caught:
            await client.ask(connect_s=0.3)
        assert 0.5 <= time.monotonic() - begun_s < 2.0
        assert caught.value.code == "upstream_timeout"
        assert caught.value.reason.count("timeout after 0.3s") == 3


async def test_the_next_address_is_tried_after_a_quarter_of_a_second_and_the_slow_one_is_remembered(
    serve, reach, monkeypatch
):
    server = await serve()
    with ExitStack() as stack:
        silent, good = info("127.0.0.1", swallowing(stack)), info("127.0.0.1", server.port)
        Resolver(monkeypatch, silent, good)
        client = reach(server)
        begun_s = time.monotonic()
        assert await client.text(connect_s=5.0) == b"good"
        assert 0.2 <= time.monotonic() - begun_s < 2.0
        dialer = client.upstream.members[0].connector
        assert await dialer._names.addresses(Address("127.0.0.1", server.port), 1.0) == [good, silent]


async def test_the_next_address_is_tried_at_once_when_one_is_refused(serve, reach, monkeypatch):
    server = await serve()
    Resolver(monkeypatch, info("127.0.0.1", 1), info("127.0.0.1", 2), info("127.0.0.1", server.port))
    begun_s = time.monotonic()
    assert await reach(server).text() == b"good"
    assert time.monotonic() - begun_s < 0.24


async def test_an_address_that_lost_the_race_is_let_go_of(serve, reach, monkeypatch, until, authority):
    server = await serve(ssl=secure(authority, "localhost"))
    with slow_handshakes(secure(authority, "localhost"), 0.6) as (port, visits):
        Resolver(monkeypatch, info("127.0.0.1", port), info("127.0.0.1", server.port))
        client = reach(server, scheme="https", host="localhost", tls=ClientTls(ca_file=authority.file))
        assert await client.text() == b"good"
        await asyncio.sleep(0.6)
        assert visits == [1]
        assert client.state == {"in_flight": 0, "idle": 1, "connecting": 0, "pending": 0}


async def test_a_dead_address_is_tried_last_for_a_minute_and_first_again_when_it_lives(monkeypatch):
    one, two = info("10.0.0.1", 80), info("10.0.0.2", 80)
    Resolver(monkeypatch, one, two)
    known, at = Names(), Address("many.test", 80)
    assert await known.addresses(at, 1.0) == [one, two]
    known.dead(one)
    assert await known.addresses(at, 1.0) == [two, one]
    known._dead[one[4]] -= DEAD_S + 1
    assert await known.addresses(at, 1.0) == [one, two]
    known.dead(one)
    known.alive(one)
    assert await known.addresses(at, 1.0) == [one, two]


async def test_families_alternate(monkeypatch):
    six, four = [info(f"fd00::{n}", 80) for n in (1, 2)], [info(f"10.0.0.{n}", 80) for n in (1, 2)]
    Resolver(monkeypatch, *six, *four)
    assert await Names().addresses(Address("many.test", 80), 1.0) == [six[0], four[0], six[1], four[1]]


async def test_what_is_remembered_of_addresses_has_a_bound(monkeypatch):
    Resolver(monkeypatch, info("10.0.0.1", 80))
    known = Names()
    for number in range(2000):
        known.dead(info("10.0.0.1", number))
    assert len(known._dead) <= 256


async def test_the_last_known_addresses_serve_while_the_resolver_fails_or_hangs(serve, reach, monkeypatch, caplog):
    server = await serve()
    resolver = Resolver(monkeypatch, info("127.0.0.1", server.port))
    client = reach(server, host="inventory.test")

    def forget() -> None:
        """No connection is left, and what was resolved is too old."""
        for connection in [*client.upstream._members[0].pool._open]:
            connection.abort()
        for known in client.upstream.members[0].connector._names._known.values():
            known.until_s = 0.0

    assert await client.text() == b"good"
    forget()
    resolver.addresses = None
    assert await client.text() == b"good"
    forget()
    resolver.delay_s = 30.0
    assert await client.text() == b"good"
    assert resolver.asked == 3
    assert caplog.text.count("the last known addresses go on") == 1
    for lookup in client.upstream.members[0].connector._names._lookups.values():
        lookup.newest.cancel()


async def test_a_look_up_that_hangs_is_asked_again_and_takes_few_threads(serve, reach, monkeypatch, until):
    monkeypatch.setattr(names, "AGAIN_AFTER_S", 0.1)
    server, asked, lost = await serve(), 0, asyncio.Event()

    async def hangs_at_first(address: Address) -> list:
        nonlocal asked
        asked += 1
        if asked <= 3:
            await lost.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [info("127.0.0.1", server.port)]

    monkeypatch.setattr(names, "_addresses", hangs_at_first)
    client = reach(server, host="inventory.test")
    begun_s = time.monotonic()
    answers = []
    while b"good" not in answers:
        with suppress(GatewayError):
            answers.append(await client.text(connect_s=0.05))
    assert asked == 4
    assert 0.65 <= time.monotonic() - begun_s < 10  # 0.1, 0.2 and 0.4 s: each that hangs doubles the time to the next
    lost.set()
    lookups = client.upstream.members[0].connector._names._lookups
    await until(lambda: not lookups)
    assert await client.text() == b"good"


async def test_an_old_look_up_that_ends_late_replaces_nothing_younger(monkeypatch):
    monkeypatch.setattr(names, "AGAIN_AFTER_S", 0.05)
    answers = [[info("10.0.0.1", 80)], [info("10.0.0.2", 80)]]
    late, begun = asyncio.Event(), []

    async def first_is_slow(address: Address) -> list:
        begun.append(address)
        mine = answers[len(begun) - 1]
        if len(begun) == 1:
            await late.wait()
        return mine

    monkeypatch.setattr(names, "_addresses", first_is_slow)
    known, at = Names(), Address("moved.test", 80)
    with pytest.raises(GatewayError):
        await known.addresses(at, 0.06)
    assert await known.addresses(at, 1.0) == answers[1]
    late.set()
    await asyncio.sleep(0.01)
    assert await known.addresses(at, 1.0) == answers[1]


async def test_the_first_look_up_is_part_of_the_time_limit(serve, reach, monkeypatch):
    with ExitStack() as stack:
        Resolver(monkeypatch, info("127.0.0.1", swallowing(stack))).delay_s = 0.6
        begun_s = time.monotonic()
        with pytest.raises(GatewayError) as caught:
            await reach(await serve(), host="slow.test").ask(connect_s=0.8)
        assert 0.75 <= time.monotonic() - begun_s < 1.3, "not 0.6 s and 0.8 s more"
        assert caught.value.reason.endswith("timeout after 0.8s")


async def test_a_name_that_moves_under_load_loses_no_request(serve, reach, monkeypatch, until):
    monkeypatch.setattr(names, "RESOLVED_FOR_S", 0.01)
    old, new = await serve(), await serve()
    resolver = Resolver(monkeypatch, info("127.0.0.1", old.port))
    client = reach(old, host="moving.test", max_connection_age_s=0.2)
    ends = asyncio.Event()
    got: list[bytes] = []

    async def caller() -> None:
        while not ends.is_set():
            got.append(await client.text())

    callers = [asyncio.create_task(caller()) for _ in range(8)]
    await asyncio.sleep(0.1)
    resolver.addresses = [info("127.0.0.1", new.port)]
    await until(lambda: not old.present)
    before = len(got)
    await until(lambda: len(got) > before + 50)
    ends.set()
    await asyncio.gather(*callers)
    assert set(got) == {b"good"}
    assert new.visits >= 8


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_a_few_names_that_hang_hold_up_no_other():
    program = """
import asyncio, os
from gateway.app import run
async def looks_up():
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)
    print(len(os.listdir("/proc/self/task")))
run._run(looks_up())
"""
    environ = {name: value for name, value in os.environ.items() if name != "UV_THREADPOOL_SIZE"}
    run = [sys.executable, "-c", program]
    ran = subprocess.run(run, env=environ, capture_output=True, check=True, timeout=60)  # noqa: S603 - our own
    assert int(ran.stdout) > 32, "half of these threads look names up, and uvloop has four"


# --- causes -----------------------------------------------------------------------------------------------------------


async def cause(client, **timeouts) -> str:
    with pytest.raises(GatewayError) as caught:
        await client.ask(**timeouts)
    told = client.upstream.snapshot()["origins"][0]["last_error"]
    assert (told["code"], told["reason"]) == (caught.value.code, caught.value.reason)
    assert "127.0.0.1" not in caught.value.detail
    return caught.value.reason


async def test_a_refusal_names_the_address(serve, reach):
    server = await serve()
    client, port = reach(server), server.port
    server.refuse()
    assert await cause(client) == f"connect 127.0.0.1:{port}: refused"


async def test_an_unknown_name_is_named(serve, reach, monkeypatch):
    async def unknown(address):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(names, "_addresses", unknown)
    assert await cause(reach(await serve(), host="iam.test")) == "dns iam.test: no such name"


async def test_a_connect_timeout_names_the_address(serve, reach, monkeypatch):
    with ExitStack() as stack:
        port = swallowing(stack)
        Resolver(monkeypatch, info("127.0.0.1", port))
        assert await cause(reach(await serve()), connect_s=0.2) == f"connect 127.0.0.1:{port}: timeout after 0.2s"


async def test_tls_to_a_port_without_tls_says_so(serve, reach):
    async def speaks(visitor) -> None:
        await visitor.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await visitor.gone()

    async def waits(visitor) -> None:
        await visitor.gone()

    server = await serve(speaks)
    said = await cause(reach(server, scheme="https"))
    assert said == f"tls 127.0.0.1:{server.port}: the port does not speak TLS"
    server = await serve(waits)
    said = await cause(reach(server, scheme="https"), connect_s=0.2)
    assert said.startswith(f"tls 127.0.0.1:{server.port}: timeout after 0.2s")
    assert said.endswith("is it TLS?")


async def test_a_certificate_says_what_is_wrong_with_it(serve, reach, authority):
    server = await serve(ssl=secure(authority))
    assert (await cause(reach(server, scheme="https"))).endswith(": certificate of an unknown authority")
    server = await serve(ssl=secure(authority, "other.test"))
    tls = ClientTls(ca_file=authority.file)
    assert (await cause(reach(server, scheme="https", tls=tls))).endswith(": certificate of another address")
    said = await cause(reach(server, scheme="https", host="localhost", tls=tls))
    assert said == f"tls localhost:{server.port}: certificate of another name"


async def test_an_expired_certificate_says_since_when(serve, reach, authority):
    server = await serve(ssl=secure(authority, days=-3))
    said = await cause(reach(server, scheme="https", tls=ClientTls(ca_file=authority.file)))
    assert said.startswith(f"tls 127.0.0.1:{server.port}: certificate expired 20")
    assert server.heads == []


async def test_a_connection_that_breaks_names_the_address(serve, reach):
    async def hangs_up(visitor) -> None:
        await visitor.request()
        visitor.reset()

    server = await serve(hangs_up)
    assert await cause(reach(server)) == f"read 127.0.0.1:{server.port}: reset before an answer"

    async def silent(visitor) -> None:
        await visitor.gone()

    server = await serve(silent)
    assert await cause(reach(server), read_s=0.1) == f"read 127.0.0.1:{server.port}: silent for 0.1s"
