"""A WebSocket upstream of the `websockets` library that remembers how its connections went."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

MAX_MESSAGE = 64 * 1024 * 1024
WHOLE = bytes(range(256)) * 256


@dataclass
class Talkative:
    """What it is asked for by path: `echo`, `close/CODE/REASON`, `flood`, `drop`, `silent`, else `echo`."""

    port: int = 0
    paths: list[str] = field(default_factory=list)
    handshakes: list[dict[str, str]] = field(default_factory=list)
    closed: list[tuple[str, int | None, str | None]] = field(default_factory=list)
    sent: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, connection: ServerConnection) -> None:
        """One connection."""
        assert connection.request is not None
        path = connection.request.path
        self.paths.append(path)
        self.handshakes.append({name.lower(): value for name, value in connection.request.headers.raw_items()})
        try:
            await self._talk(connection, path.partition("?")[0].split("/")[2:])
        except ConnectionClosed:
            pass
        finally:
            await connection.wait_closed()
            self.closed.append((path, connection.close_code, connection.close_reason))

    async def _talk(self, connection: ServerConnection, words: list[str]) -> None:
        match words:
            case ["close", code, reason]:
                await connection.close(int(code), reason)
            case ["flood"]:
                while True:
                    await connection.send(WHOLE)
                    self.sent += len(WHOLE)
            case ["drop"]:
                connection.transport.abort()
            case ["ping"]:
                await (await connection.ping())
                await connection.send("pong")
            case _:
                async for message in connection:
                    await connection.send(message)


def _newest(_connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return max(offered, default=None)


@asynccontextmanager
async def talkative() -> AsyncIterator[Talkative]:
    """A running one."""
    upstream = Talkative()
    async with serve(
        upstream.serve,
        "127.0.0.1",
        0,
        select_subprotocol=_newest,
        ping_interval=None,
        max_size=MAX_MESSAGE,
        close_timeout=1,
    ) as server:
        upstream.port = next(iter(server.sockets)).getsockname()[1]
        yield upstream
