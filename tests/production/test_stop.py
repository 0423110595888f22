"""A stop resets nobody: what waits in the kernel is accepted and answered, also when the loop was busy for a while."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import GatewayProcess
from tests.production.backends import Backend, pid, routes, until

pytestmark = pytest.mark.hazard
NOW = ", drain_notice: 0s"
REQUEST = b"GET /open/x HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


def _serving(gateway: GatewayProcess, workers: int) -> list[int]:
    if workers == 1:
        return [pid(gateway)]
    children = Path(f"/proc/{pid(gateway)}/task/{pid(gateway)}/children").read_text().split()
    return [int(child) for child in children]


async def _status(connection: socket.socket) -> str:
    async with asyncio.timeout(20):
        try:
            answer = await asyncio.get_running_loop().sock_recv(connection, 4096)
        except ConnectionError as error:
            return type(error).__name__
        finally:
            connection.close()
    return answer[9:12].decode() or "nothing"


async def _exit_code(gateway: GatewayProcess) -> int:
    assert gateway.process is not None
    return await asyncio.wait_for(gateway.process.wait(), 20)


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_waits_to_be_accepted_is_answered(
    start_gateway: Any, iam: Any, backend: Backend, workers: int
) -> None:
    """The loop is busy for a moment, requests arrive, and then it learns that it has to end."""
    gateway = await start_gateway(routes(iam, backend, drain="10s", server=NOW), "--workers", str(workers))
    serving = _serving(gateway, workers)
    for process in serving:
        os.kill(process, signal.SIGSTOP)
    waiting = []
    for _ in range(100):
        waiting.append(socket.create_connection(("127.0.0.1", gateway.port)))
        waiting[-1].sendall(REQUEST)
        waiting[-1].setblocking(False)
    os.kill(pid(gateway), signal.SIGTERM)
    await asyncio.sleep(0.3)
    for process in serving:
        os.kill(process, signal.SIGCONT)
    assert set(await asyncio.gather(*map(_status, waiting))) == {"200"}
    assert await _exit_code(gateway) == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_request_is_lost_under_load(start_gateway: Any, iam: Any, backend: Backend, workers: int) -> None:
    """Callers with connections of their own and callers that keep theirs: an answer, or a refused connection."""
    gateway = await start_gateway(routes(iam, backend, drain="10s", server=NOW), "--workers", str(workers))
    seen: list[str] = []
    loop = asyncio.get_running_loop()

    async def fresh() -> None:
        while True:
            connection = socket.socket()
            connection.setblocking(False)
            try:
                await loop.sock_connect(connection, ("127.0.0.1", gateway.port))
            except ConnectionRefusedError:
                connection.close()
                return
            try:
                await loop.sock_sendall(connection, REQUEST)
            except ConnectionError as error:
                seen.append(type(error).__name__)
                connection.close()
                continue
            seen.append(await _status(connection))

    async def kept() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        while True:
            try:
                writer.write(REQUEST.replace(b"Connection: close\r\n", b""))
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                seen.append(type(error).__name__)
                return
            seen.append(head[9:12].decode())
            if b"connection: close" in head:
                writer.close()
                return

    callers = [asyncio.create_task(fresh()) for _ in range(40)] + [asyncio.create_task(kept()) for _ in range(20)]
    await asyncio.sleep(0.7)
    os.kill(pid(gateway), signal.SIGTERM)
    async with asyncio.timeout(30):
        await asyncio.gather(*callers)
    assert set(seen) == {"200"}
    assert len(seen) > 60
    assert await _exit_code(gateway) == 0


async def test_new_connections_are_taken_for_as_long_as_load_balancers_need(
    start_gateway: Any, iam: Any, backend: Backend
) -> None:
    gateway = await start_gateway(routes(iam, backend, drain="2s", server=", drain_notice: 2s"))
    os.kill(pid(gateway), signal.SIGTERM)
    await asyncio.sleep(1)
    connection = socket.create_connection(("127.0.0.1", gateway.port))
    connection.sendall(REQUEST)
    connection.setblocking(False)
    assert await _status(connection) == "200"

    async def refused() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        except ConnectionError:
            return True
        writer.close()
        return False

    await until(refused, "no new connections")
    assert await _exit_code(gateway) == 0


async def test_connections_are_spread_over_the_workers(start_gateway: Any, iam: Any, backend: Backend) -> None:
    """64 connections over two workers: the median of several rounds is no worse than 60 to 40."""
    gateway = await start_gateway(routes(iam, backend), "--workers", "2")
    shares = []
    for _ in range(7):
        connections = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(64)]
        for reader, writer in connections:
            writer.write(REQUEST.replace(b"Connection: close\r\n", b""))
            await reader.readuntil(b"\r\n\r\n")
        shares.append(max(_connections(worker, gateway.port) for worker in _serving(gateway, 2)) / 64)
        for _, writer in connections:
            writer.close()

        async def closed() -> bool:
            return not any(_connections(worker, gateway.port) for worker in _serving(gateway, 2))

        await until(closed, "all connections closed")
    assert sorted(shares)[3] <= 0.6
    assert await gateway.stop() == 0


def _connections(process: int, port: int) -> int:
    """How many connections of the public port a process holds, by what the kernel says (proc(5))."""
    held = set()
    for entry in Path(f"/proc/{process}/fd").iterdir():
        try:
            held.add(str(entry.readlink()))
        except OSError:
            continue
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = [row for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"]
    return sum(f"socket:[{row[9]}]" in held for row in ours)


async def test_a_killed_worker_takes_only_its_own_connections(start_gateway: Any, iam: Any, backend: Backend) -> None:
    gateway = await start_gateway(routes(iam, backend), "--workers", "2")
    connections = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(40)]
    ask = REQUEST.replace(b"Connection: close\r\n", b"").replace(b"/x", b"/x?sleep=1.5")
    for _, writer in connections:
        writer.write(ask)

    async def there() -> bool:
        return backend.requests == 40

    await until(there, "all requests at the backend")
    victim, other = _serving(gateway, 2)
    own = _connections(victim, gateway.port)
    assert own + _connections(other, gateway.port) == 40
    os.kill(victim, signal.SIGKILL)

    async def answer(reader: asyncio.StreamReader) -> bytes:
        try:
            return (await reader.read(12))[9:12]
        except ConnectionError:
            return b""

    answers = await asyncio.gather(*(answer(reader) for reader, _ in connections))
    assert (answers.count(b"200"), answers.count(b"")) == (40 - own, own)
    for _, writer in connections:
        writer.close()
    assert await gateway.stop() == 0
