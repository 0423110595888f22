"""Bodies larger than the gateway may ever hold: flat memory, one pace for both sides, and the clock of an upload.

The soak test (scripts/soak) does the same with 8 GiB each way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.complete_path.patience import PATIENCE_S, standstill, until
from tests.complete_path.streaming import BLOCK, Streaming, streaming
from tests.e2e.conftest import GatewayProcess, Server

pytestmark = pytest.mark.hazard

MIB = 1024 * 1024
GROWTH = 24 * MIB
ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{{port}}", admin: "127.0.0.1:{{admin}}", max_body: 0}}
iam: {{url: "{iam}"}}
identity: {{opaque: {{}}}}
upstreams: {{raw: {{url: "{upstream}"}}}}
routes:
  - {{id: raw, path: /raw/*, upstream: raw, authorize: ["move system:raw"], deadline: 1s, timeout: {{write: 1s}}}}
  - {{id: patient, path: /patient/*, upstream: raw, authorize: ["move system:raw"], timeout: {{write: 2500ms}}}}
"""


@dataclass
class Caller:
    """A raw caller with one connection, which reads and writes no faster than it is told."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    sent: int = 0

    @classmethod
    async def connect(cls, gateway: GatewayProcess) -> Caller:
        return cls(*await asyncio.open_connection("127.0.0.1", gateway.port, limit=1 << 18))

    async def ask(self, line: str, *fields: str) -> None:
        head = "\r\n".join((f"{line} HTTP/1.1", "Host: gateway.test", "Authorization: Bearer allow", *fields, "", ""))
        self.writer.write(head.encode())
        await self.writer.drain()

    async def send(self, size: int) -> None:
        while size:
            block = BLOCK[:size]
            self.writer.write(block)
            await self.writer.drain()
            size -= len(block)
            self.sent += len(block)

    async def send_chunked(self, size: int) -> None:
        for _ in range(size // len(BLOCK)):
            self.writer.writelines((b"%x\r\n" % len(BLOCK), BLOCK, b"\r\n"))
            await self.writer.drain()
            self.sent += len(BLOCK)
        self.writer.write(b"0\r\n\r\n")

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def read(self, size: int) -> None:
        """So many bytes of the body, each of them the right one at its place."""
        at = 0
        while at < size:
            block = await self.reader.read(min(size - at, len(BLOCK)))
            assert block
            begin = at % 256
            assert block == BLOCK[begin : begin + len(block)] or block == (BLOCK + BLOCK)[begin : begin + len(block)]
            at += len(block)

    def close(self) -> None:
        self.writer.transport.abort()


def memory(gateway: GatewayProcess, name: str) -> int:
    """`VmRSS` (now) or `VmHWM` (the most there ever was) in bytes."""
    assert gateway.process is not None
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


async def _moved(gateway: GatewayProcess, upstream: Streaming, size: int) -> int:
    """Download and upload so many bytes, and a quarter of them chunked; by how much memory grew at most."""
    caller = await Caller.connect(gateway)
    await caller.ask("GET /raw/down/1000")
    await caller.head()
    await caller.read(1000)
    before = memory(gateway, "VmRSS")
    await caller.ask(f"GET /raw/down/{size}")
    assert b"content-length: %d\r\n" % size in (await caller.head()).lower()
    await caller.read(size)
    await _uploaded(caller, upstream, size, f"Content-Length: {size}", caller.send)
    await _uploaded(caller, upstream, size // 4, "Transfer-Encoding: chunked", caller.send_chunked)
    caller.close()
    return memory(gateway, "VmHWM") - before


async def _uploaded(
    caller: Caller, upstream: Streaming, size: int, framing: str, send: Callable[[int], Awaitable[None]]
) -> None:
    upstream.received = 0
    await caller.ask("POST /raw/up", framing)
    await send(size)
    assert (await caller.head()).startswith(b"HTTP/1.1 200 ")
    assert await caller.reader.readexactly(len(str(size))) == str(size).encode()
    assert upstream.received == size


@pytest.fixture
async def raw() -> AsyncIterator[Streaming]:
    async with streaming() as upstream:
        yield upstream


@pytest.fixture
async def gateway(start_gateway: Any, iam: Server, raw: Streaming) -> GatewayProcess:
    started: GatewayProcess = await start_gateway(ROUTES.format(iam=iam.url, upstream=raw.url))
    return started


async def test_a_gib_each_way_passes_with_flat_memory(gateway: GatewayProcess, raw: Streaming) -> None:
    assert await _moved(gateway, raw, 1024 * MIB) < GROWTH


@pytest.mark.soak
async def test_8_gib_each_way_pass_with_flat_memory(gateway: GatewayProcess, raw: Streaming) -> None:
    assert await _moved(gateway, raw, 8 * 1024 * MIB) < GROWTH


async def test_a_slow_reader_pauses_the_upstream(gateway: GatewayProcess, raw: Streaming) -> None:
    before = memory(gateway, "VmRSS")
    caller = await Caller.connect(gateway)
    await caller.ask(f"GET /raw/down/{512 * MIB}")
    await caller.head()
    sent = await standstill(lambda: raw.sent)
    assert sent < 32 * MIB
    await caller.read(64 * MIB)
    await until(lambda: raw.sent > sent)
    assert memory(gateway, "VmHWM") - before < GROWTH
    caller.close()
    await until(lambda: bool(raw.left))


async def test_a_slow_upstream_pauses_the_caller_and_the_deadline(gateway: GatewayProcess, raw: Streaming) -> None:
    """What counts is progress: an upload takes as long as it takes, on a route with a deadline of a second."""
    before = memory(gateway, "VmRSS")
    raw.pause_s = 0.01
    caller = await Caller.connect(gateway)
    await caller.ask("POST /raw/up", f"Content-Length: {64 * MIB}")
    sending = asyncio.create_task(caller.send(64 * MIB))
    await asyncio.wait_for(sending, PATIENCE_S)
    assert (await caller.head()).startswith(b"HTTP/1.1 200 ")
    assert raw.received == 64 * MIB
    assert memory(gateway, "VmHWM") - before < GROWTH
    caller.close()


async def test_an_upstream_that_takes_nothing_more_ends_the_upload(gateway: GatewayProcess, raw: Streaming) -> None:
    raw.reading.clear()
    caller = await Caller.connect(gateway)
    await caller.ask("POST /patient/up", f"Content-Length: {512 * MIB}")
    sending = asyncio.create_task(caller.send(512 * MIB))
    sent = await standstill(lambda: caller.sent)
    assert sent < 32 * MIB
    assert (await asyncio.wait_for(caller.head(), PATIENCE_S)).startswith(b"HTTP/1.1 504 ")
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    caller.close()
    raw.reading.set()  # reads what had arrived, then the end
    await until(lambda: bool(raw.left))
