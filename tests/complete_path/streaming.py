"""A raw HTTP/1.1 upstream of endless and of very large messages, which counts what it sent and what it got."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

BLOCK = bytes(range(256)) * 1024
EVENT_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TICK_S = 0.05


class Streaming:
    """Speaks by the last words of the path: `ticks`, `three`, `silent`, `flood`, `break`, `down/BYTES`, `up`."""

    def __init__(self) -> None:
        self.port = 0
        self.sent = 0
        self.received = 0
        self.reading = asyncio.Event()
        self.reading.set()
        self.pause_s = 0.0
        self.targets: list[str] = []
        self.left: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        target = ""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                target = head.split(" ", 2)[1]
                self.targets.append(target)
                await self._answer(target.partition("?")[0].split("/")[2:], head.lower(), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.left.append(target)
            writer.close()

    async def _answer(
        self, words: list[str], head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        match words:
            case ["down", size]:
                await self._down(int(size), writer)
            case ["up"]:
                await self._up(head, reader, writer)
            case [kind]:
                writer.write(EVENT_STREAM)
                await self._events(kind, reader, writer)

    async def _events(self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if kind == "three":
            for number in range(3):
                await self._event(f"id: {number}\ndata: {number}\n\n", writer)
            writer.write(b"0\r\n\r\n")
            return
        if kind == "flood":
            while True:
                await self._event(f"data: {'x' * 60000}\n\n", writer)
        gone = asyncio.create_task(reader.read(1))
        number = 0
        try:
            while not gone.done():
                await self._event(f"data: {number}\n\n", writer)
                number += 1
                if kind == "break" and number == 2:
                    writer.transport.abort()
                await asyncio.wait((gone,), timeout=None if kind == "silent" else TICK_S)
            raise ConnectionResetError
        finally:
            gone.cancel()

    async def _event(self, text: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(text), text.encode()))
        await writer.drain()
        self.sent += len(text)

    async def _down(self, size: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        left = size
        while left:
            block = BLOCK[:left]
            writer.write(block)
            await writer.drain()
            left -= len(block)
            self.sent += len(block)

    async def _up(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "transfer-encoding: chunked" in head:
            while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
                await self._take(size, reader)
                await reader.readexactly(2)
            await reader.readexactly(2)
        else:
            length = head.partition("content-length:")[2].partition("\r\n")[0]
            await self._take(int(length), reader)
        answer = b"%d" % self.received
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))

    async def _take(self, size: int, reader: asyncio.StreamReader) -> None:
        while size:
            await self.reading.wait()
            await asyncio.sleep(self.pause_s)
            block = await reader.read(min(size, 1 << 18))
            if not block:
                raise ConnectionResetError
            size -= len(block)
            self.received += len(block)


@asynccontextmanager
async def streaming() -> AsyncIterator[Streaming]:
    """A running one."""
    upstream = Streaming()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, limit=1 << 18)
    upstream.port = server.sockets[0].getsockname()[1]
    yield upstream
    server.close()
