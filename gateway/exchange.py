"""One request and its one response, over raw ASGI: what pipeline and forward write to.

Rules: a response is started once; what was started and cannot be finished is aborted, never ended, so that a response
that broke off upstream never looks complete. Framing belongs to the listener: `content-length` passes through; without
it the listener chunks (HTTP/1.1) or closes (HTTP/1.0). `transfer-encoding` and hop-by-hop fields are not written here.

The listener (`server`) gives more than ASGI under `scope["extensions"]["gateway.edge"]`, see `Edge`. Its `receive` may
raise GatewayError for what the client did wrong while sending its body (`bad_request`, `request_timeout`), and it
cancels the request's task when the client leaves: nobody polls for a disconnect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from gateway.errors import GatewayError
from gateway.model.request import AccessRecord, Header, Headers, Request
from gateway.telemetry.observer import Span

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Edge(Protocol):
    """What the listener's connection offers beyond ASGI."""

    @property
    def client_left(self) -> bool:
        """Whether the client closed or reset the connection."""

    def abort(self) -> None:
        """Break the connection at once (RST), so that nobody takes a partial response for a complete one."""

    def close_after_response(self) -> None:
        """Say `Connection: close` and close when the response is complete."""

    def respond(self, status: int, headers: Headers, body: bytes) -> bool:
        """Send a whole response now. False: the client reads slowly, or this is no HTTP; nothing was sent.

        Raises GatewayError for a head that would be no well-formed one. Once the client is gone it does nothing.
        """


def _uncounted(_share_key: str) -> None:
    """Nobody counts this exchange."""


class Exchange:
    """One request and its response. `extra` are header fields that every response of this exchange gets.

    `become_stream`: what a long-lived answer calls before it starts, to be counted as a stream (`max_streams`) and no
    longer as a request, with the caller's `Permit.share_key`; raises GatewayError `overloaded`.
    """

    __slots__ = (
        "_send",
        "_websocket",
        "become_stream",
        "edge",
        "extra",
        "finished",
        "receive",
        "record",
        "request",
        "span",
        "started",
    )

    def __init__(
        self, request: Request, record: AccessRecord, span: Span, edge: Edge, receive: Receive, send: Send
    ) -> None:
        self.request = request
        self.record = record
        self.span = span
        self.edge = edge
        self.receive = receive
        self._send = send
        self._websocket = request.websocket
        self.become_stream: Callable[[str], None] = _uncounted
        self.extra: list[Header] = []
        self.started = False
        self.finished = False

    async def start(self, status: int, headers: Headers) -> None:
        """Send the response head. `headers` in lower case; `extra` is added.

        Raises GatewayError, and nothing has started, if the listener finds that this would be no well-formed head.
        """
        kind = "websocket.http.response.start" if self._websocket else "http.response.start"
        await self._send({"type": kind, "status": status, "headers": headers + self.extra})
        self.started = True
        self.record.status = status

    async def write(self, chunk: bytes) -> None:
        """Send a part of the body; waits while the client reads slowly."""
        await self._body(chunk, more=True)

    async def finish(self, chunk: bytes = b"") -> None:
        """Send the last part of the body."""
        await self._body(chunk, more=False)
        self.finished = True

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """A response whose body is here already; its framing is in `headers`. `start` and `finish` in one."""
        if self.edge.respond(status, headers + self.extra if self.extra else headers, body):
            self.started = self.finished = True
            self.record.status = status
        else:
            await self.start(status, headers)
            await self.finish(body)

    async def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """A whole response with its `content-length`."""
        framed = [*headers, (b"content-length", b"%d" % len(body))]
        await self.whole(status, framed, b"" if self.request.method == "HEAD" else body)

    async def send(self, message: Message) -> None:
        """A raw ASGI message, for WebSocket."""
        await self._send(message)

    def abort(self) -> None:
        """Break off a response that cannot be completed."""
        self.finished = True
        self.edge.abort()

    def body(self, max_body: int) -> AsyncIterator[bytes]:
        """The request body in parts, at most `max_body` bytes (0 = no limit), else `body_too_large`."""
        return Body(self.receive, max_body)

    async def _body(self, chunk: bytes, *, more: bool) -> None:
        kind = "websocket.http.response.body" if self._websocket else "http.response.body"
        await self._send({"type": kind, "body": chunk, "more_body": more})


class Body:
    """A request body in parts, as they come. No generator: the compiler knows none that is asynchronous."""

    __slots__ = ("_max", "_more", "_receive", "_size")

    def __init__(self, receive: Receive, max_body: int) -> None:
        self._receive = receive
        self._max = max_body
        self._size = 0
        self._more = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Itself: it is read once."""
        return self

    async def __anext__(self) -> bytes:
        """The next part that is not empty."""
        while self._more:
            message = await self._receive()
            if message["type"] != "http.request":
                raise GatewayError("bad_request", "The request body ended early.")
            self._more = message.get("more_body", False)
            chunk: bytes = message.get("body", b"")
            self._size += len(chunk)
            if self._max and self._size > self._max:
                self._more = False
                raise GatewayError("body_too_large", f"The request body is larger than {self._max} bytes.")
            if chunk:
                return chunk
        raise StopAsyncIteration
