"""What one WebSocket may cost: other callers' time, memory, and how long it may wait; on a running gateway."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from websockets.frames import Frame, Opcode
from websockets.utils import accept_key

from tests.complete_path.issuer import Issuer
from tests.complete_path.patience import PATIENCE_S
from tests.e2e.conftest import GatewayProcess, free_port

pytestmark = [pytest.mark.hazard, pytest.mark.asyncio(loop_scope="module")]

ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{port}", admin: "127.0.0.1:{admin}", access_log: "off"}}
iam: {{url: "http://127.0.0.1:9"}}
identity: {identity}
upstreams: {{raw: {{url: "http://127.0.0.1:{upstream}"}}}}
routes:
  - {{id: any, path: /any/*, upstream: raw, authorize: public}}
  - {{id: small, path: /small/*, upstream: raw, authorize: public, max_body: 64KiB}}
  - {{id: quiet, path: /quiet/*, upstream: raw, authorize: public, stream_idle_timeout: 1s}}
  - {{id: known, path: /known/*, upstream: raw, authorize: authenticated}}
"""
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, masked: bool = True) -> bytes:
    return bytes(Frame(Opcode(opcode), data, fin).serialize(mask=masked))


async def next_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Opcode and payload of the next frame of a server."""
    async with asyncio.timeout(PATIENCE_S):
        first, size = await reader.readexactly(2)
        if size >= 126:
            size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8))
        return first & 15, await reader.readexactly(size)


async def close_code(reader: asyncio.StreamReader) -> int:
    """The code of the close frame, whatever comes before it."""
    while True:
        opcode, data = await next_frame(reader)
        if opcode == CLOSE:
            return int.from_bytes(data[:2])


def end(writer: asyncio.StreamWriter) -> None:
    """At once, whatever has not been sent."""
    writer.close()
    writer.transport.abort()


class Raw:
    """An upstream on plain streams, which does what the last part of the path says."""

    def __init__(self) -> None:
        self.port = 0
        self.got = 0
        self.deaf = asyncio.Event()  # set: those that are deaf begin to read
        self.tasks: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                key = re.search(rb"sec-websocket-key: *(\S+)", head, re.IGNORECASE)
                if key is None:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    continue
                writer.write(
                    b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
                    + accept_key(key[1].decode()).encode()
                    + b"\r\n\r\n"
                )
                await self._talk(head.split(b" ", 2)[1].rpartition(b"/")[2], reader, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self.tasks.discard(task)
            end(writer)

    async def end(self) -> None:
        """End all connections."""
        for task in self.tasks:
            task.cancel()
        while self.tasks:  # noqa: ASYNC110 - they end in a turn or two
            await asyncio.sleep(0.01)

    async def _talk(self, what: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if what == b"deaf":
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            await self.deaf.wait()
            reader._transport.resume_reading()  # type: ignore[attr-defined]
        elif what in {b"tiny", b"large"}:
            block = frame(BINARY, b"xx", masked=False) * 4096
            if what == b"large":
                block = frame(BINARY, b"x" * 1_000_000, masked=False)
            while True:
                writer.write(block)
                await writer.drain()
        elif what == b"pings":
            while True:
                writer.write(frame(PING, masked=False))
                await asyncio.sleep(0.2)
        while data := await reader.read(1 << 18):
            self.got += len(data)


class Scene:
    """One gateway for all tests of this file."""

    def __init__(self, gateway: GatewayProcess, upstream: Raw, issuer: Issuer) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.issuer = issuer
        self.writers: list[asyncio.StreamWriter] = []

    @property
    def resident_mib(self) -> float:
        assert self.gateway.process is not None
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.gateway.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024

    async def open(self, path: str, token: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        self.writers.append(writer)
        bearer = f"Authorization: Bearer {token}\r\n" if token else ""
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: gateway.test\r\n{bearer}Connection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        async with asyncio.timeout(PATIENCE_S):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        return reader, writer

    async def asks(self, seconds: float) -> list[float]:
        """How long another caller waits for each of its answers, in seconds."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        self.writers.append(writer)
        times, end = [], time.monotonic() + seconds
        while (begun := time.monotonic()) < end:
            writer.write(b"GET /any/x HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
            async with asyncio.timeout(PATIENCE_S):
                await reader.readuntil(b"\r\n\r\nok")
            times.append(time.monotonic() - begun)
            await asyncio.sleep(0.005)
        return sorted(times)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    issuer, upstream = Issuer(), Raw()
    folder = tmp_path_factory.mktemp("websocket-limits")
    port, admin = free_port(), free_port()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, limit=1 << 18)
    upstream.port = server.sockets[0].getsockname()[1]
    identity = issuer.settings(folder).replace("leeway: 0s", "leeway: 30s")
    file = folder / "routes.yaml"
    file.write_text(ROUTES.format(port=port, admin=admin, identity=identity, upstream=upstream.port))
    gateway = GatewayProcess(file, port, admin)
    await gateway.start()
    scene = Scene(gateway, upstream, issuer)
    await scene.asks(0.2)
    yield scene
    assert await gateway.stop() == 0
    server.close()


@pytest_asyncio.fixture(loop_scope="module")
async def scene(stage: Scene) -> AsyncIterator[Scene]:
    """Without connections of the test before."""
    stage.upstream.deaf.clear()
    stage.upstream.got = 0
    yield stage
    while stage.writers:
        end(stage.writers.pop())
    await stage.upstream.end()
    await asyncio.sleep(0.05)


async def pump(writer: asyncio.StreamWriter, block: bytes, first: bytes = b"") -> None:
    """Send without end, as fast as it is taken."""
    writer.write(first)
    while True:
        writer.write(block)
        await writer.drain()


NOISE = {
    "fragments": ("/any/sink", frame(CONTINUATION, b"xx", fin=False) * 4096, frame(BINARY, b"xx", fin=False)),
    "pings": ("/any/sink", frame(PING) * 4096, b""),
    "messages": ("/any/sink", frame(BINARY, b"xx") * 4096, b""),
    "large": ("/any/sink", frame(BINARY, b"x" * 1_000_000), b""),
    "chatty upstream": ("/any/tiny", b"", b""),
}


@pytest.mark.parametrize("kind", NOISE)
async def test_whatever_one_side_sends_others_have_their_turn(scene: Scene, kind: str) -> None:
    """The bounds are generous, as the test and other programs share the cores; what they exclude is seconds."""
    path, block, first = NOISE[kind]
    quiet = await scene.asks(0.3)
    before = scene.resident_mib
    reader, writer = await scene.open(path)
    noise = asyncio.create_task(pump(writer, block, first) if block else swallow(reader))
    times = await scene.asks(0.7)
    noise.cancel()
    await asyncio.gather(noise, return_exceptions=True)
    assert len(times) >= 5
    assert times[len(times) // 2] < 0.1 + 10 * quiet[len(quiet) // 2]
    assert scene.resident_mib - before < 6


async def swallow(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(BINARY, b"x", fin=False) + frame(CONTINUATION, b"", fin=False) * 2000, 1008),
        (frame(PING, b"x") * 200_000, 1008),
        (frame(BINARY, b"x" * 65_537)[:14], 1009),  # only the header, which says how long it will be
        (frame(BINARY, b"x" * 40_000, fin=False) + frame(CONTINUATION, b"x" * 30_000)[:14], 1009),
        (b"\xc1" + frame(TEXT, b"x")[1:], 1002),
        (frame(TEXT, b"\xff", fin=False), 1007),
    ],
    ids=["fragments", "pings", "frame too long", "message too long", "reserved bit", "no UTF-8"],  # masks are random
)
async def test_what_breaks_a_limit_is_closed_with_its_code_which_can_be_read(
    scene: Scene, sent: bytes, code: int
) -> None:
    reader, writer = await scene.open("/small/sink")
    writer.write(sent)
    assert await close_code(reader) == code
    await asyncio.wait_for(reader.read(), PATIENCE_S)


async def test_large_messages_cost_no_more_memory_than_small_ones(scene: Scene) -> None:
    """Most of a message of 15 MB each, to an upstream that reads nothing; and callers who read nothing."""
    before = scene.resident_mib
    started = frame(BINARY, b"x" * 15_000_000)
    tasks = []
    for _ in range(8):
        _, writer = await scene.open("/any/deaf")
        tasks.append(asyncio.create_task(pump(writer, started)))
        reader, _ = await scene.open("/any/large")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(1.5)
    assert scene.resident_mib - before < 16 * 2
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_waits_for_a_busy_upstream_is_delivered_and_pings_are_answered_meanwhile(scene: Scene) -> None:
    reader, writer = await scene.open("/any/deaf")
    writer.write(frame(BINARY, b"x" * 1000) + frame(PING, b"there?"))
    assert await next_frame(reader) == (PONG, b"there?")
    message = frame(BINARY, b"x" * 60_000)
    sending = asyncio.create_task(pump_times(writer, message, 200))
    await asyncio.sleep(0.5)
    assert not sending.done()
    scene.upstream.deaf.set()
    await asyncio.wait_for(sending, PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        while scene.upstream.got < 200 * len(message):  # noqa: ASYNC110 - the upstream sets no event
            await asyncio.sleep(0.02)


async def pump_times(writer: asyncio.StreamWriter, block: bytes, times: int) -> None:
    for _ in range(times):
        writer.write(block)
        await writer.drain()


async def _lives(scene: Scene, kind: str) -> None:
    """Longer than `stream_idle_timeout` by this sign of life, and no longer without it."""
    reader, writer = await scene.open("/quiet/pings" if kind == "pings of the upstream" else "/quiet/sink")
    whole = frame(BINARY, b"x" * 100)
    writer.write(frame(TEXT, b"a", fin=False) if kind == "fragments" else b"")
    closed = asyncio.create_task(close_code(reader))
    for number in range(8):
        await asyncio.sleep(0.3)
        if kind == "pings of the caller":
            writer.write(frame(PING))
        elif kind == "fragments":
            writer.write(frame(CONTINUATION, b"b", fin=False))
        elif kind == "one slow frame":
            writer.write(whole[number : number + 1])
        assert not closed.done(), (kind, number)
    if kind == "pings of the upstream":
        closed.cancel()
    else:
        assert await closed == 1001


async def test_every_sign_of_life_counts_and_silence_does_not(scene: Scene) -> None:
    kinds = ("pings of the caller", "pings of the upstream", "fragments", "one slow frame")
    await asyncio.gather(*(_lives(scene, kind) for kind in kinds))


async def test_a_token_within_the_leeway_opens_a_socket_that_stays_open(scene: Scene) -> None:
    reader, writer = await scene.open("/known/sink", scene.issuer.token("alice", lifetime_s=-5))
    writer.write(frame(PING, b"1"))
    assert await next_frame(reader) == (PONG, b"1")
    await asyncio.sleep(0.5)
    writer.write(frame(PING, b"2"))
    assert await next_frame(reader) == (PONG, b"2")
    reader, _ = await scene.open("/known/sink", scene.issuer.token("alice", lifetime_s=-28))
    assert await close_code(reader) == 1008
