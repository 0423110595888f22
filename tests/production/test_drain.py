"""The way back: whom a gateway that was told to end still serves, and how everybody else learns it."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import websockets
from websockets.asyncio.server import serve

from tests.e2e.conftest import GatewayProcess, Server
from tests.production.backends import Backend, pid, post, routes, until

pytestmark = pytest.mark.hazard


class Connection:
    """A connection that stays open between requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def ask(self, path: str) -> None:
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(20):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            fields = dict(line.split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(fields.get("content-length", 0)))
        return int(head[0].split()[1]), fields, body

    async def ended(self) -> bool:
        async with asyncio.timeout(20):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[GatewayProcess], Awaitable[Connection]]]:
    """Opens connections, and closes them in the end."""
    made: list[Connection] = []

    async def connection(gateway: GatewayProcess) -> Connection:
        made.append(Connection(*await asyncio.open_connection("127.0.0.1", gateway.port)))
        return made[-1]

    yield connection
    for each in made:
        each.writer.close()


def _end(gateway: GatewayProcess, number: int = signal.SIGTERM) -> None:
    assert gateway.process is not None
    gateway.process.send_signal(number)


async def _ready(gateway: GatewayProcess) -> int:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"{gateway.admin}/readyz")).status_code


async def _refused(gateway: GatewayProcess) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def _not_ready(gateway: GatewayProcess) -> bool:
    return await _ready(gateway) == 503


async def _true(value: bool) -> bool:
    return value


async def _exit_code(gateway: GatewayProcess) -> int:
    assert gateway.process is not None
    return await asyncio.wait_for(gateway.process.wait(), 20)


async def test_the_order_in_which_it_ends(start_gateway: Any, iam: Any, backend: Backend, connect: Any) -> None:
    """Readiness; then `Connection: close` on what is open, new ones still taken; then no new ones; then exit 0."""
    gateway = await start_gateway(routes(iam, backend, drain="10s", server=", drain_notice: 2s"))
    running, idle, late = [await connect(gateway) for _ in range(3)]
    running.ask("/open/slow?sleep=3")
    await until(lambda: _true(backend.requests == 1), "the slow request at the backend")
    _end(gateway)
    await until(lambda: _not_ready(gateway), "readiness lost", within_s=1)
    new = await connect(gateway)
    new.ask("/open/new")
    status, fields, _ = await new.answer()
    assert (status, fields["connection"]) == (200, "close")
    idle.ask("/open/idle")
    status, fields, _ = await idle.answer()
    assert (status, fields["connection"]) == (200, "close")
    assert await idle.ended()
    await until(lambda: _refused(gateway), "no new connections")
    late.ask("/open/late")
    status, fields, _ = await late.answer()
    assert (status, fields["connection"]) == (200, "close"), "an open connection is served as long as anything runs"
    status, fields, _ = await running.answer()
    assert (status, fields["connection"]) == (200, "close")
    assert await _exit_code(gateway) == 0
    assert await gateway.stop() == 0


async def test_fifty_requests_in_flight_all_finish(
    start_gateway: Any, iam: Any, backend: Backend, connect: Any
) -> None:
    gateway = await start_gateway(routes(iam, backend, drain="10s"))
    connections = [await connect(gateway) for _ in range(50)]
    for connection in connections:
        connection.ask("/open/x?sleep=1.5")
    await until(lambda: _true(backend.requests == 50), "all at the backend")
    _end(gateway)
    answers = await asyncio.gather(*(connection.answer() for connection in connections))
    assert [status for status, _, _ in answers] == [200] * 50
    assert {fields["connection"] for _, fields, _ in answers} == {"close"}
    assert await _exit_code(gateway) == 0


async def test_what_still_runs_at_drain_timeout_is_told(
    start_gateway: Any, iam: Any, backend: Backend, connect: Any
) -> None:
    gateway = await start_gateway(routes(iam, backend, drain="1s"))
    connection = await connect(gateway)
    connection.ask("/open/x?sleep=15")
    await until(lambda: _true(backend.requests == 1), "the request at the backend")
    begun = time.monotonic()
    _end(gateway)
    status, fields, body = await connection.answer()
    assert (status, json.loads(body)["code"]) == (503, "draining")
    assert int(fields["retry-after"]) >= 1
    assert await _exit_code(gateway) == 0
    assert 0.9 < time.monotonic() - begun < 6
    await gateway.stop()
    assert b'"code":"draining"' in gateway.output.replace(b'": "', b'":"')


async def test_a_response_that_has_begun_is_broken_off_visibly(
    start_gateway: Any, iam: Any, backend: Backend, connect: Any
) -> None:
    """A download that does not end in time must not look complete."""
    gateway = await start_gateway(routes(iam, backend, drain="1s"))

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"1\r\nx\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            writer.close()

    await backend.stop()
    async with await asyncio.start_server(endless, "127.0.0.1", backend.port):
        connection = await connect(gateway)
        connection.ask("/open/x")
        await connection.reader.readuntil(b"x")
        _end(gateway)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(connection.reader.readuntil(b"\r\n0\r\n\r\n"), 20)
        assert await _exit_code(gateway) == 0


async def test_an_event_stream_ends_well(start_gateway: Any, iam: Any, backend: Backend) -> None:
    """The client connects again, to another instance, instead of waiting for this one."""
    gateway = await start_gateway(routes(iam, backend, drain="10s"))
    async with (
        httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client,
        client.stream("GET", "/open/events") as reply,
    ):
        parts = reply.aiter_bytes()
        assert await anext(parts)
        begun = time.monotonic()
        _end(gateway)
        async for _ in parts:
            pass
    assert time.monotonic() - begun < 5
    assert await _exit_code(gateway) == 0


async def test_a_websocket_is_told_to_go_away(start_gateway: Any, iam: Any, backend: Backend) -> None:
    async def talk(socket: Any) -> None:
        async for message in socket:
            await socket.send(message)

    await backend.stop()
    async with serve(talk, "127.0.0.1", backend.port):
        gateway = await start_gateway(routes(iam, backend, drain="10s"))
        async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/open/ws", proxy=None) as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
            begun = time.monotonic()
            _end(gateway)
            with pytest.raises(websockets.ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1001
        assert time.monotonic() - begun < 5
        assert await _exit_code(gateway) == 0


@pytest.mark.parametrize("mode", ["ok", "hang"])
async def test_telemetry_is_flushed_in_a_bounded_time(
    start_gateway: Any, iam: Any, backend: Backend, connect: Any, mode: str
) -> None:
    """The last spans and metrics are sent at the end, and a collector that hangs does not keep the process."""
    collector = Server(lambda _: (200, {}, b""))
    collector.mode = mode
    await collector.start()
    later = dict.fromkeys(("OTEL_BSP_SCHEDULE_DELAY", "OTEL_METRIC_EXPORT_INTERVAL"), "600000")
    gateway = await start_gateway(
        routes(iam, backend), OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_SDK_DISABLED="false", **later
    )
    connection = await connect(gateway)
    connection.ask("/open/x")
    assert (await connection.answer())[0] == 200
    assert collector.seen == []
    begun = time.monotonic()
    assert await gateway.stop() == 0
    assert time.monotonic() - begun < 15
    if mode == "ok":
        assert {"/v1/traces", "/v1/metrics"} <= {seen.target for seen in collector.seen}
    await collector.stop()


async def test_idle_connections_are_kept_for_a_while_and_do_not_hold_it_up(
    start_gateway: Any, iam: Any, backend: Backend, connect: Any
) -> None:
    """Their clients were not told, and may have a request on the way."""
    gateway = await start_gateway(routes(iam, backend, drain="30s"))
    idle, late = await connect(gateway), await connect(gateway)
    begun = time.monotonic()
    _end(gateway)
    await until(lambda: _refused(gateway), "no new connections")
    await asyncio.sleep(1)
    late.ask("/open/late")
    status, fields, _ = await late.answer()
    assert (status, fields["connection"]) == (200, "close")
    assert await idle.ended()
    assert await _exit_code(gateway) == 0
    assert time.monotonic() - begun < 15


async def test_with_nobody_connected_it_ends_soon(start_gateway: Any, iam: Any, backend: Backend) -> None:
    gateway = await start_gateway(routes(iam, backend, drain="30s"))
    begun = time.monotonic()
    assert await gateway.stop() == 0
    assert time.monotonic() - begun < 10


async def test_a_second_signal_ends_it_at_once(start_gateway: Any, iam: Any, backend: Backend, connect: Any) -> None:
    gateway = await start_gateway(routes(iam, backend, drain="60s"))
    connection = await connect(gateway)
    connection.ask("/open/x?sleep=15")
    await until(lambda: _true(backend.requests == 1), "the request at the backend")
    _end(gateway)
    await until(lambda: _not_ready(gateway), "readiness lost")
    begun = time.monotonic()
    _end(gateway, signal.SIGINT)
    assert await _exit_code(gateway) == 1
    assert time.monotonic() - begun < 5


async def test_an_operator_can_begin_it(start_gateway: Any, iam: Any, backend: Backend) -> None:
    gateway = await start_gateway(routes(iam, backend))
    assert (await post(gateway, "/-/drain")).status_code == 202
    assert await _exit_code(gateway) == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_signal_after_an_operators_drain_cuts_nobody_off(
    start_gateway: Any, iam: Any, backend: Backend, connect: Any, workers: int
) -> None:
    gateway = await start_gateway(routes(iam, backend, drain="10s"), "--workers", str(workers))
    connection = await connect(gateway)
    connection.ask("/open/x?sleep=3")
    await until(lambda: _true(backend.requests == 1), "the request at the backend")
    assert (await post(gateway, "/-/drain")).status_code == 202
    _end(gateway)
    assert (await connection.answer())[0] == 200
    assert await _exit_code(gateway) == 0


async def test_it_starts_and_is_ready_while_iam_is_down(start_gateway: Any, iam: Any, backend: Backend) -> None:
    await iam.stop()
    gateway = await start_gateway(routes(iam, backend))
    assert await _ready(gateway) == 200
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        reply = await client.get("/guarded/x", headers={"authorization": "Bearer allow"})
        assert (reply.status_code, reply.json()["code"]) == (503, "iam_unreachable")
    assert await _ready(gateway) == 200
    assert pid(gateway)
