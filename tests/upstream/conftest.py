"""A raw TCP server that does to a request whatever a test says, and upstreams that clean up after themselves."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from gateway.model.route import Timeouts
from gateway.model.settings import UpstreamSettings
from gateway.resilience.deadline import Deadline
from gateway.upstream import Outgoing, Reply, Upstream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"


class Visitor:
    """One accepted connection, seen from the server."""

    def __init__(self, server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer

    async def head(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.server.heads.append(head)
        return head

    async def request(self) -> bytes:
        """One whole request; its body is kept in `server.bodies`."""
        head = await self.head()
        body = b""
        if length := re.search(rb"(?im)^content-length: *(\d+)", head):
            body = await self.reader.readexactly(int(length[1]))
        elif re.search(rb"(?im)^transfer-encoding: *chunked", head):
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            assert await self.reader.readexactly(2) == b"\r\n"
        self.server.bodies.append(body)
        return head

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Wait until the client has closed its side."""
        while await self.reader.read(65536):
            pass

    def reset(self) -> None:
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Behaviour = Callable[[Visitor], Awaitable[None]]


class RawServer:
    """Calls `behaviour` for every connection. `visits` counts them, `present` are those still open."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.visits = 0
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.errors: list[BaseException] = []
        self.present: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, ssl: object = None) -> None:
        self._server = await asyncio.start_server(self._visit, "127.0.0.1", 0, ssl=ssl, limit=1 << 20)

    @property
    def port(self) -> int:
        assert self._server is not None
        return self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """From now on nobody listens."""
        assert self._server is not None
        self._server.close()

    async def stop(self) -> None:
        self.refuse()
        for task in list(self.present):
            task.cancel()
        await asyncio.gather(*self.present, return_exceptions=True)

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.visits += 1
        self.present.add(task)
        try:
            await self.behaviour(Visitor(self, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except Exception as error:  # noqa: BLE001 - shown by the fixture
            self.errors.append(error)
        finally:
            writer.close()
            self.present.discard(task)


async def answer_all(visitor: Visitor) -> None:
    """A good server: answers every request on its connection."""
    while True:
        head = await visitor.request()
        await visitor.send(OK if not head.startswith(b"HEAD ") else OK[:-4])


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test here runs on both event loops: their transports differ where it hurts."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[RawServer]]]:
    """Starts a RawServer with the behaviour given."""
    servers: list[RawServer] = []

    async def start(behaviour: Behaviour = answer_all, ssl: object = None) -> RawServer:
        server = RawServer(behaviour)
        await server.start(ssl)
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop()
        assert not server.errors


class Client:
    """An upstream with short words for tests."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream

    async def ask(
        self,
        method: bytes = b"GET",
        body: bytes | AsyncIterator[bytes] | None = None,
        *,
        length: int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        deadline_s: float = 10.0,
        **timeouts: float,
    ) -> Reply:
        outgoing = Outgoing(method, b"/thing?x=1", [(b"host", self.upstream.authority), *headers], body, length)
        limits = Timeouts(**{"connect_s": 5.0, "read_s": 5.0, "write_s": 5.0, **timeouts})
        return await self.upstream.exchange(outgoing, timeouts=limits, deadline=Deadline.after(deadline_s))

    async def text(self, method: bytes = b"GET", body: bytes | None = None, **more: float) -> bytes:
        """The whole body of a reply."""
        return await (await self.ask(method, body, **more)).read(1 << 20)

    @property
    def state(self) -> dict[str, object]:
        origins = self.upstream.snapshot()["origins"]
        assert isinstance(origins, list)
        return {key: origins[0][key] for key in ("in_flight", "idle", "connecting", "pending")}


@pytest.fixture
async def reach() -> AsyncIterator[Callable[..., Client]]:
    """`reach(server, …)`: a Client of one or several servers; keyword arguments are UpstreamSettings'."""
    clients: list[Client] = []

    def make(*servers: RawServer, scheme: str = "http", host: str = "127.0.0.1", **settings: object) -> Client:
        urls = tuple(f"{scheme}://{host}:{server.port}" for server in servers)
        client = Client(Upstream(UpstreamSettings(name="thing", urls=urls, **settings)))
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.upstream.aclose()
        assert client.state == {"in_flight": 0, "idle": 0, "connecting": 0, "pending": 0}


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Waits at most 5 s for something to become true."""

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - what is waited for raises no event
                await asyncio.sleep(0.005)

    return wait
