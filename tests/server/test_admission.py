"""Connections before they have a request: counted from accept, refused at once, and never a busy loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
import time
from typing import Any

import pytest
from listener_harness import MiniGateway, Served, bare, served

from gateway.errors import GatewayError
from gateway.model.settings import ServerSettings
from gateway.server import EdgeServer, inner_config
from gateway.server.accepting import PAUSE_S, Acceptor
from gateway.server.listener import Admission, ConnectionRefusals, Listener, client_of, files_for, files_for_connections

pytestmark = pytest.mark.hazard
GET = b"GET /open/a HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n\r\n"


def admit(listener: Listener, peer: str = "192.0.2.1", file: int = 9) -> Admission | None:
    admission = listener.admit(peer, file, 0.0)
    return None if isinstance(admission, GatewayError) else admission


async def test_a_refused_connection_counts_for_nothing() -> None:
    listener = Listener(ServerSettings(max_connections=3, max_connections_per_client=2))
    first, second = admit(listener), admit(listener)
    for _ in range(1000):
        assert admit(listener) is None
    assert listener.connections == 2
    other = admit(listener, "192.0.2.2")
    assert first is not None
    assert second is not None
    assert other is not None
    for _ in range(1000):
        assert admit(listener, "192.0.2.3") is None
    first.release()
    first.release()
    assert listener.connections == 2
    assert admit(listener) is not None
    assert listener.refusals.total == {"max_connections_per_client": 1000, "max_connections": 1000}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
    ],
)
async def test_a_client_is_an_address_or_a_network_of_64_bits(one: str, other: str, *, same: bool) -> None:
    assert (client_of(one) == client_of(other)) == same
    listener = Listener(ServerSettings(max_connections_per_client=1))
    assert admit(listener, one)
    assert (admit(listener, other) is None) == same


async def test_a_trusted_proxy_has_no_share() -> None:
    trusted = (ipaddress.ip_network("2001:db8::/32"),)
    listener = Listener(ServerSettings(max_connections_per_client=1, trusted_proxies=trusted))
    assert all(admit(listener, "2001:db8::1") for _ in range(10))


async def test_files_are_left_for_everything_else() -> None:
    listener = Listener(ServerSettings(), makes_room=False)
    assert admit(listener, file=10**9) is None
    assert listener.refusals.total == {"open_files": 1}
    assert 20 < files_for_connections(64) < 48
    for connections in (1, 100, 10_000, 1_000_000):
        assert connections <= files_for_connections(files_for(connections)) < 1.2 * connections + 60


async def test_refusals_are_told_once_a_second_whoever_many(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "gateway.server")
    counted: list[str] = []
    refusals = ConnectionRefusals()
    refusals.on_count = counted.append
    for _ in range(5000):
        refusals.count("max_connections", "192.0.2.1")
    assert len(caplog.records) == 1
    assert len(counted) == 5000
    refusals._tell()  # a second later
    (second,) = caplog.records[1:]
    assert second.message.startswith("refused 4999 connections: ")
    assert second.message.endswith("server.max_connections allows; the last came from 192.0.2.1")


class Full:
    """A listening socket of a process that may open no more files."""

    def __init__(self) -> None:
        self.asked = 0
        self.real = socket.socket()
        self.real.bind(("127.0.0.1", 0))

    def accept(self) -> Any:
        self.asked += 1
        if self.asked < 4:
            raise OSError(errno.EMFILE, "Too many open files")
        return self.real.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


async def test_without_a_free_file_what_waits_is_kept_and_the_loop_is_not_busy() -> None:
    full, begun = Full(), asyncio.Event()

    def make(_admission: Admission) -> Any:
        begun.set()
        return asyncio.Protocol()

    listener = Listener(ServerSettings())
    acceptor = Acceptor(full, listener, make, None)  # type: ignore[arg-type]  # as much of a socket as it needs
    acceptor.start(10)
    began_s = time.monotonic()
    with socket.create_connection(full.getsockname()):
        async with asyncio.timeout(10):
            await begun.wait()
        assert full.asked <= 6
        assert time.monotonic() - began_s >= 2.5 * PAUSE_S
        assert listener.refusals.total == {"open_files": 3}
        acceptor.close()
        await acceptor.wait_closed()
    full.real.close()


async def test_refused_ones_that_stay_do_not_keep_others_out() -> None:
    async with served(bare(), ServerSettings(max_connections_per_client=2)) as edge:
        kept = [await edge.connect() for _ in range(2)]
        await until_open(edge, 2)
        refused = [await edge.connect() for _ in range(30)]
        for reader, _ in refused:
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionError):
                    assert b" 503 " in await reader.read()
        assert edge.listener.connections == 2
        kept.pop()[1].close()
        await until_open(edge, 1)
        assert (await edge.say(GET)).startswith(b"HTTP/1.1 200")
        for _, writer in (*kept, *refused):
            writer.close()


@contextlib.asynccontextmanager
async def inner(app: Any, settings: ServerSettings, connections: int) -> Any:
    listening = socket.create_server(("127.0.0.1", 0))
    server = EdgeServer(inner_config(app, settings, "admin", connections), listening)
    server.capture_signals = contextlib.nullcontext
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn sets a flag and no event
        await asyncio.sleep(0.005)
    try:
        yield Served(server, listening.getsockname()[1])
    finally:
        server.should_exit = server.force_exit = True
        await task
        listening.close()


async def test_unfinished_heads_cannot_shut_operators_out() -> None:
    settings = ServerSettings(header_timeout_s=60)
    async with inner(bare(), settings, 20) as edge:
        unfinished = []
        for _ in range(100):
            unfinished.append(await edge.connect())
            unfinished[-1][1].write(b"GET / HTTP/1.1\r\nX: ")
        assert (await edge.say(GET)).startswith(b"HTTP/1.1 200")
        assert edge.listener.connections <= 20
        for _, writer in unfinished:
            writer.close()


async def test_room_is_never_made_at_the_cost_of_a_request() -> None:
    slow = asyncio.Event()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await slow.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async with inner(app, ServerSettings(), 1) as edge:
        asked = asyncio.create_task(edge.say(GET))
        await until_open(edge, 1)
        await asyncio.sleep(0.1)
        assert b" 503 " in await edge.say()
        slow.set()
        assert (await asked).endswith(b"ok")


async def test_tiny_fields_are_refused_before_they_are_many() -> None:
    async with inner(bare(), ServerSettings(), 20) as edge:
        answer = await edge.say(b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 100_000)
        assert answer.startswith(b"HTTP/1.1 431")


async def test_a_few_empty_lines_before_a_request_are_ignored_and_many_are_not() -> None:
    app = MiniGateway(ServerSettings())
    async with served(app, app.settings) as edge:
        assert (await edge.say(b"\r\n" * 3, b"\r\n" * 3 + GET)).startswith(b"HTTP/1.1 200")
        assert (await edge.say(b"\r\n" * 20, b"\r\n" * 20 + GET)).startswith(b"HTTP/1.1 400")
        assert (await edge.say(b"\r\n" * 100_000)).startswith(b"HTTP/1.1 400")


async def until_open(edge: Served, count: int) -> None:
    async with asyncio.timeout(10):
        while edge.listener.connections != count:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.005)
