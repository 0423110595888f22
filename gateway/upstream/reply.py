"""A response as its caller reads it: the head at once, the body in parts as they come.

Rules: the parts wait here, not in the connection, so a connection whose response is complete goes back to its pool even
while the caller still reads; more than HIGH_WATER waiting bytes stop the reading from the socket (backpressure); a body
that broke off raises after the parts that did come, it never just ends.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from gateway.model.request import Headers
from gateway.upstream.failures import protocol_error

if TYPE_CHECKING:
    from gateway.upstream.wire import Connection


# Whose connections they are: what a connection tells its pool.


class Owner(Protocol):
    """Whose connection it is: the pool."""

    def on_free(self, connection: Connection) -> None:
        """Its exchange is over and it can take another."""

    def on_lost(self, connection: Connection) -> None:
        """It will take no more requests. Called once."""

    def on_closed(self, connection: Connection) -> None:
        """Its socket is closed. Called once, after `on_lost`."""

    def on_failed(self, connection: Connection, error: Exception) -> None:
        """Its exchange fails by the upstream, with `error`. Called before `on_lost`."""

    def on_unasked(self, connection: Connection) -> None:
        """The upstream sent what nobody asked for."""

    def on_sent(self, connection: Connection) -> None:
        """A request body that was still arriving has been sent."""

    def on_unread(self, connection: Connection) -> None:
        """The caller takes no more of its answer for now."""

    def on_read(self, connection: Connection) -> None:
        """It takes it again."""

    def on_stream(self, connection: Connection) -> None:
        """Its answer is a stream, which may last for ever."""


HIGH_WATER: Final = 64 * 1024
"""Bytes of body that may wait for the caller before the socket is no longer read."""
MAX_WAITING: Final = 1024
"""Parts of a body that may wait, however small: each costs some 50 bytes more than it holds."""


class Reply:
    """One response. `headers`: lower-case names, all of them as they came, hop-by-hop ones included.

    `content_length` is what the upstream announced, also for HEAD and 304. Iterating gives the body; whoever does not
    iterate to the end calls `aclose`, also when cancelled. Errors while iterating: `upstream_protocol_error` (broken
    off, garbled), `upstream_timeout` (silent for longer than `timeouts.read_s`), or what the request body raised.
    """

    __slots__ = (
        "_chunks",
        "_complete",
        "_connection",
        "_waiter",
        "buffered",
        "content_length",
        "error",
        "headers",
        "reason",
        "status",
    )

    def __init__(self, connection: Connection | None) -> None:
        self.status = 0
        self.reason = b""
        self.headers: Headers = []
        self.content_length: int | None = None
        self.buffered = 0
        self._connection = connection
        self._chunks: list[bytes] = []
        self._complete = False
        self.error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "BROKEN" if self.error else "COMPLETE" if self._complete else "OPEN" if self.status else "AWAITED"
        return f"<Reply {self.status} {state} buffered={self.buffered}>"

    def __aiter__(self) -> Reply:
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self.error is not None:
                raise self.error
            if self._complete:
                raise StopAsyncIteration
            await self._more()
        return self._take()

    async def read(self, limit: int) -> bytes:
        """The whole body, at most `limit` bytes, else `upstream_protocol_error`; the reply is closed in any case."""
        try:
            if self._complete and self.buffered <= limit:
                return self.whole() or b""
            parts: list[bytes] = []
            size = 0
            async for part in self:
                size += len(part)
                if size > limit:
                    break
                parts.append(part)
            else:
                return b"".join(parts)
            raise protocol_error(f"body larger than {limit} bytes", "http_response_body_size")
        finally:
            await self.aclose()

    def whole(self) -> bytes | None:
        """What is left of the body if all of it is here already, else None: spares waiting for small responses."""
        if not self._complete:
            return None
        return self._take() if self._chunks else b""

    @property
    def arrived(self) -> bool:
        """Whether the whole body is here already, so that nothing can break any more."""
        return self._complete

    def allow_silence(self, seconds: float) -> None:
        """This is a stream: it may be silent for `seconds`, and its connection counts for no limit of the pool."""
        if self._connection is not None:
            self._connection.become_stream(seconds)

    async def aclose(self) -> None:
        """Give up what was not read. A connection whose response is not complete is closed. May be called again."""
        connection = self._connection
        self._chunks.clear()
        self.buffered = 0
        if connection is not None:
            connection.give_up(self, protocol_error("response given up", "http_response_incomplete"))

    # Below: what the connection calls.

    @property
    def waiting_parts(self) -> int:
        """Parts of the body that wait for the caller."""
        return len(self._chunks)

    @property
    def full(self) -> bool:
        """Whether so much waits for the caller that the socket is not to be read any more."""
        return self.buffered > HIGH_WATER or len(self._chunks) > MAX_WAITING

    def wait(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """What the head, a part of the body, the end or a failure resolves."""
        self._waiter = loop.create_future()
        return self._waiter

    def add(self, chunk: bytes) -> None:
        """A part of the body came."""
        self._chunks.append(chunk)
        self.buffered += len(chunk)

    def finish(self) -> None:
        """The response is whole; the connection is no longer this reply's."""
        self._complete = True
        self._connection = None
        self.wake()

    def fail(self, error: Exception) -> None:
        """The response will not be completed."""
        self.error = error
        self._connection = None
        self.wake()

    def wake(self) -> None:
        """Let the waiting caller look again."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    async def _more(self) -> None:
        connection = self._connection
        assert connection is not None  # noqa: S101 - neither complete nor failed, so it is still ours
        connection.watch.start(connection.read_s)
        await self.wait(asyncio.get_running_loop())

    def _take(self) -> bytes:
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.buffered = 0
        if self._connection is not None:
            self._connection.resume()
        return data
