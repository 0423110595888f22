"""One request and its one response on a connection: ASGI's `receive` and `send`, and what `Edge` promises."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from gateway.errors import GatewayError
from gateway.exchange import Message
from gateway.model.request import Headers
from gateway.server.head import Head
from gateway.server.response import CHUNKED, NOTHING, UNTIL_CLOSE, response_head

if TYPE_CHECKING:
    from gateway.server.connection import EdgeProtocol

App = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Any]

BODY_HIGH_WATER: Final = 64 * 1024
RATE_WINDOW_S: Final = 10.0
_LARGE: Final = 16 * 1024
_logger: Final = logging.getLogger("gateway.server")


class Cycle:
    """One request and its response. Is the `Edge` of `scope["extensions"]["gateway.edge"]`."""

    __slots__ = (
        "_begun",
        "_buffered",
        "_connection",
        "_delivered",
        "_expected",
        "_fault",
        "_parts",
        "_pending",
        "_started",
        "_tasks",
        "_waited_s",
        "_waiter",
        "_window_bytes",
        "client_left",
        "closed",
        "complete",
        "expects_continue",
        "head",
        "keep_alive",
        "more_body",
        "task",
    )

    def __init__(self, connection: EdgeProtocol, head: Head, *, keep_alive: bool) -> None:
        self._connection = connection
        self._tasks = connection.server_state.tasks
        self.head = head
        self.keep_alive = keep_alive
        self.expects_continue = head.expects_continue
        self.more_body = head.body != 0
        self.client_left = False
        self.closed = False
        self.complete = False
        self.task: asyncio.Task[None] | None = None
        self._begun = False
        self._parts: list[bytes] = []
        self._buffered = 0
        self._delivered = False
        self._fault: GatewayError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._waited_s = 0.0
        self._window_bytes = 0
        self._started = False
        self._pending = b""
        self._expected = UNTIL_CLOSE

    # What the app is told by `Edge`

    @property
    def raw_target(self) -> bytes:
        """The request target in origin form, byte for byte as received."""
        return self.head.target

    @property
    def host(self) -> str:
        """The `Host` field as received, "" where HTTP/1.0 sent none."""
        return self.head.host

    def abort(self) -> None:
        """Break the connection at once (RST)."""
        self.closed = True
        self._connection.reset()

    def close_after_response(self) -> None:
        """Say `Connection: close` and close when the response is complete."""
        self.keep_alive = False

    # What the connection tells

    def feed(self, data: bytes) -> bool:
        """A part of the body arrived. Whether so much waits for the app that reading should pause."""
        self._parts.append(data)
        self._buffered += len(data)
        self._window_bytes += len(data)
        self._wake()
        return self._buffered > BODY_HIGH_WATER

    @property
    def full(self) -> bool:
        """Whether so much of the body waits for the app that reading should pause."""
        return self._buffered > BODY_HIGH_WATER

    def end_of_body(self) -> None:
        """The body is complete."""
        self.more_body = False
        self._wake()

    def fail(self, fault: GatewayError) -> None:
        """The body is malformed: the app learns it from `receive`, and nothing more is read."""
        self._fault = fault
        self.keep_alive = False
        self._wake()

    def lost(self, *, client_left: bool) -> None:
        """The connection is gone. If the client left, the app's task is cancelled."""
        self.closed = True
        self._wake()
        if client_left and not self.complete and not self.client_left:
            self.client_left = True
            # The client has gone: the app's task ends, and nothing is logged as an error.
            self._cancel()

    def _cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()
            self.task.add_done_callback(self._tasks.discard)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The app's life

    def begin(self, app: App, scope: MutableMapping[str, Any]) -> None:
        """Start the app in a task of its own."""
        self.task = self._connection.loop.create_task(self._run(app, scope))
        self._tasks.add(self.task)

    def forestall(self) -> bool:
        """Keep the app from beginning, as its request turned out to be none. False if it has begun already."""
        if self._begun or self.task is None:
            return False
        self.closed = True
        self._cancel()
        return True

    async def _run(self, app: App, scope: MutableMapping[str, Any]) -> None:
        """Whatever the app does, the connection ends up in a defined state."""
        self._begun = True
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._break_off()
            raise
        except Exception:
            if not self.closed:
                _logger.exception("the application raised")
            self._break_off()
        else:
            if not self.complete and not self.closed:
                _logger.error("the application returned without completing its response")
            self._break_off()
        finally:
            if self.task is not None:
                self._tasks.discard(self.task)

    def _break_off(self) -> None:
        """End what the app left unfinished: with `internal_error` if nothing was sent, else by a reset."""
        if self.complete or self.closed:
            return
        if not self._started:
            self.closed = True
            self._connection.refuse(GatewayError("internal_error"))
        else:
            # What cannot be completed is aborted (RST), never ended.
            self.abort()

    # The request body, by ASGI

    async def receive(self) -> Message:
        """The next part of the body; after the last, when connection or response are over, `http.disconnect`.

        Raises GatewayError: `bad_request` for a malformed body, `request_timeout` for one that comes too slowly.
        """
        if self.expects_continue:
            self._continue()
        while not self._parts and self.more_body and self._fault is None and not self._over():
            await self._wait_for_body()
        if self._fault is not None:
            raise self._fault
        while self._delivered and not self._over():
            await self._wait()
        return {"type": "http.disconnect"} if self._over() else self._next_part()

    def _over(self) -> bool:
        return self.closed or self.complete

    def _continue(self) -> None:
        """RFC 9110 section 10.1.1: needless once some of the body is here."""
        self.expects_continue = False
        # Only when the app first waits for a body of which nothing has come.
        if self.more_body and not self._parts and not self._started:
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _next_part(self) -> Message:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._buffered = 0
        self._delivered = not self.more_body
        if self.more_body:
            self._connection.resume_reading()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def _wait(self) -> None:
        self._waiter = self._connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def _wait_for_body(self) -> None:
        """Wait until something arrives, and hold the client to `min_body_rate` over windows of waiting."""
        loop, rate = self._connection.loop, self._connection.settings.min_body_rate
        if not rate:
            await self._wait()
            return
        started = loop.time()
        alarm = loop.call_later(RATE_WINDOW_S - self._waited_s, self._wake)
        try:
            await self._wait()
        finally:
            alarm.cancel()
        # Only time in which the app waits for the client counts as slow.
        self._waited_s += loop.time() - started
        if self._waited_s >= RATE_WINDOW_S:
            if self._window_bytes < rate * RATE_WINDOW_S and self.more_body and not self._over():
                self.fail(GatewayError("request_timeout", "The request body arrived too slowly."))
            self._waited_s, self._window_bytes = 0.0, 0

    # The response, by ASGI

    async def send(self, message: Message) -> None:
        """The response head, then its content. Waits while the client reads slowly; does nothing once it is gone.

        Raises `upstream_protocol_error` for a head that would not be one well-formed message, before writing it.
        """
        connection = self._connection
        if connection.flow.write_paused and not self.closed:
            await connection.drain()
        if self.closed:
            return
        if not self._started:
            if message["type"] != "http.response.start":
                raise RuntimeError(f"expected http.response.start, not {message['type']}")
            self._start(message["status"], message.get("headers", []))
            # Nearly every app writes content at once, and one write of both is much cheaper than two.
            connection.loop.call_soon(self._flush)
        elif self.complete or message["type"] != "http.response.body":
            raise RuntimeError(f"unexpected {message['type']}")
        else:
            self._content(message.get("body", b""), more=message.get("more_body", False))

    def respond(self, status: int, headers: Headers, body: bytes) -> bool:
        """A whole response without waiting: see `Edge`."""
        if self.closed:
            return True
        if self._started or self._connection.flow.write_paused:
            return False
        self._start(status, headers)
        self._content(body, more=False)
        return True

    def _start(self, status: int, headers: Headers) -> None:
        head, self._expected, self.keep_alive = response_head(
            status,
            headers,
            self._connection.server_state.default_headers,
            head_request=self.head.method == "HEAD",
            http_1_0=self.head.version == "1.0",
            # What follows an unread body could not be told from a next request.
            keep_alive=self.keep_alive and not self.more_body,
        )
        self._started = True
        self.expects_continue = False
        self._pending = head

    def _flush(self) -> None:
        if self._pending and not self.closed:
            self._write(b"")

    def _write(self, data: bytes) -> None:
        """Content as it goes on the wire, after the head if that has not gone yet."""
        head, self._pending = self._pending, b""
        if head and len(data) > _LARGE:
            self._connection.write(head)
            self._connection.write(data)
        else:
            self._connection.write(head + data if head else data)

    def _content(self, data: bytes, *, more: bool) -> None:
        if self._expected >= 0:
            self._expected -= len(data)
            if self._expected < 0 or (self._expected and not more):
                self.abort()
                raise RuntimeError("response content does not match its content-length")
        elif self._expected == CHUNKED:
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            if not more:
                data += b"0\r\n\r\n"
        elif self._expected == NOTHING:
            data = b""
        if data or not more:
            self._write(data)
        if not more:
            self.complete = True
            self._wake()
            self._connection.answered(self)
