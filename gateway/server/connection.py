"""One connection of the public listener: an asyncio protocol for uvicorn (`uvicorn.Config(http=EdgeProtocol)`).

One message at a time. A piece that is fed to the parser never reaches over the end of a message: heads and chunked
bodies end with CRLFCRLF, other bodies are counted. So what a client pipelines waits as bytes (bounded: reading pauses),
answers come in order, and a malformed request cannot touch the answer to the one before.

    HEAD ──► LENGTH or CHUNKED ──► ANSWERING ──► HEAD …          TAKEN: a WebSocket's now
      └─────────── anything wrong, or Connection: close ──► OVER: answer, FIN, discard, close

Rules: the head has an absolute deadline, from accept and from the first byte of each later head; between requests there
is an idle limit; a client that takes nothing of its answer for that long is cut off. What is refused here is answered
structured, reported to `Listener.on_refusal`, and ends the connection, with FIN first so that the client can read it.
Trailers are discarded. Foreign upgrades are ignored (RFC 9110 section 7.8). A FIN is a client that left: half-closed
clients are not served, because they cannot be told from it.

Not derived from uvicorn's httptools protocol, of which nothing would be left; what it needs of uvicorn is Config,
ServerState and FlowControl. While the gateway itself does not read (64 KiB wait), it learns of a leaving client late.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, Final, cast

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from gateway.errors import GatewayError
from gateway.exchange import Receive, Send
from gateway.forwarded import new_request_id
from gateway.model.request import Headers
from gateway.server.alarm import Alarm
from gateway.server.boundary import Boundary
from gateway.server.cycle import App, Cycle
from gateway.server.head import Head, read_head
from gateway.server.response import refusal
from gateway.server.scope import http_scope
from gateway.server.websocket import EdgeWebSocket, check_handshake

if TYPE_CHECKING:
    from uvicorn.server import ServerState

    from gateway.server.factory import ListenerConfig

_HEAD, _LENGTH, _CHUNKED, _ANSWERING, _OVER, _TAKEN = range(6)
_EMPTY_LINE: Final = b"\r\n"  # RFC 9112 section 2.2: ignored before a request line
_HELD_HIGH_WATER: Final = 64 * 1024
_AROUND_A_BYTE: Final = 16  # what a chunk of one byte may have around it, itself included
LINGER_S: Final = 2.0
_RESET: Final = struct.pack("ii", 1, 0)
_WHAT_IS_SERVED: Final = [(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")]


class EdgeProtocol(asyncio.Protocol):
    """One connection. uvicorn makes it, and calls `shutdown` when the server stops."""

    def __init__(
        self,
        config: ListenerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.config = config
        self._app = cast("App", config.loaded_app)
        self.listener = config.listener
        self.settings = config.listener.settings
        self.server_state = server_state
        self.app_state = app_state
        self.loop = _loop or asyncio.get_running_loop()
        self.transport: asyncio.Transport
        self.flow: FlowControl
        self.peer = ""
        self._client: tuple[str, int] | None = None
        self._local: tuple[str, int | None] | None = None
        self._scheme = "http"
        self._parser = httptools.HttpRequestParser(self)
        self._alarm = Alarm(self.loop, self._too_slow)
        self._boundary = Boundary()
        self._phase = _HEAD
        self._raw = b""
        self._headers: Headers = []
        self._left = 0
        self._overhead = 0
        self._head_timed = True
        self._upgrading: Head | None = None
        self._cycle: Cycle | None = None
        self._socket: EdgeWebSocket | None = None
        self._held = b""
        self._held_at = 0
        self._reset = False

    # The connection begins and ends

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected (and, with TLS, shook hands)."""
        self.transport = cast("asyncio.Transport", transport)
        self.flow = FlowControl(self.transport)
        self._client, self._local = get_remote_addr(self.transport), get_local_addr(self.transport)
        self.peer = self._client[0] if self._client else ""
        self._scheme = "https" if is_ssl(self.transport) else "http"
        self.server_state.connections.add(self)  # type: ignore[arg-type]  # uvicorn lists its own protocols
        self._alarm.set(self.settings.header_timeout_s)
        error = self.listener.admit(self.peer)
        if error is not None:
            self.refuse(error)

    def eof_received(self) -> None:
        """The client is done sending; the transport closes."""
        self._client_left()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The connection is gone, for whatever reason."""
        self._client_left()
        self._alarm.cancel()
        self.server_state.connections.discard(self)
        if self._socket is None:
            self.listener.release(self.peer)
        self.flow.resume_writing()
        self._phase, self._cycle, self._held = _OVER, None, b""
        del self._parser  # it holds this protocol's methods

    def _client_left(self) -> None:
        if self._cycle is not None:
            self._cycle.lost(client_left=not self._reset)

    def close_after_response(self) -> None:
        """The answer to what runs says `Connection: close`; nothing else changes."""
        if self._cycle is not None:
            self._cycle.close_after_response()

    def shutdown(self) -> None:
        """The server stops: what runs ends with `Connection: close`, what is idle is closed."""
        if self._cycle is None:
            self.transport.close()
        else:
            self._cycle.close_after_response()

    def reset(self) -> None:
        """Break the connection so that the client sees an error, never an end (RST, not FIN)."""
        self._reset = True
        raw: socket.socket | None = self.transport.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    # Bytes arrive

    def data_received(self, data: bytes) -> None:
        """Consume what belongs to the present message, keep what follows it."""
        if self._phase == _ANSWERING:
            self._held, self._held_at = self._held[self._held_at :] + data, 0
            if len(self._held) > _HELD_HIGH_WATER:
                self.flow.pause_reading()
        else:
            self._consume(data, 0)

    def _consume(self, data: bytes, at: int) -> None:
        while at < len(data) and self._phase < _ANSWERING:
            if data[at] in _EMPTY_LINE and not self._raw and self._phase == _HEAD:
                at += 1
                continue
            end = self._reach(data, at)
            self._parse(data[at:end])
            at = end
        if self._phase == _HEAD:
            self._time_head()
        elif self._phase == _ANSWERING and at < len(data):
            self._held, self._held_at = data, at
        elif self._phase == _TAKEN and self._socket is not None and at < len(data):
            self._socket.data_received(data[at:])

    def _reach(self, data: bytes, at: int) -> int:
        """How far the present message may reach into the data."""
        if self._phase != _LENGTH:
            return self._boundary.after(data, at)
        end = min(len(data), at + self._left)
        self._left -= end - at
        return end

    def _parse(self, piece: bytes) -> None:
        chunked = self._phase == _CHUNKED
        if chunked:
            self._overhead += len(piece)
        elif self._phase == _HEAD:
            self._raw = self._raw + piece if self._raw else piece
            if len(self._raw) > self.settings.max_header_bytes:
                self._wrong(self._too_large())
                return
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._upgrade()
        except httptools.HttpParserError as error:
            self._wrong(_refusal_of(error))
        else:
            if chunked and self._overhead > self.settings.max_header_bytes:
                self._wrong(GatewayError("headers_too_large"))

    def _too_large(self) -> GatewayError:
        line = self._raw.partition(b"\r\n")[0]
        if len(line) > self.settings.max_uri:
            return GatewayError("uri_too_long")
        return GatewayError("headers_too_large")

    def _time_head(self) -> None:
        """From the first byte of a later head on, `header_timeout` instead of the idle limit; once, so absolute."""
        if self._raw and not self._head_timed:
            self._head_timed = True
            self._alarm.set(self.settings.header_timeout_s)

    def _too_slow(self) -> None:
        """The alarm: a head that is not complete, nothing to do, or an answer that the client does not take."""
        if self._phase == _HEAD and self._raw:
            self.refuse(GatewayError("request_timeout", "The request head arrived too slowly."))
        elif self._phase == _HEAD or (self._phase == _OVER and not self.transport.is_closing()):
            self._alarm.set(self.settings.idle_timeout_s)
            self.transport.close()
        else:
            self.transport.abort()

    # The parser's callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or a trailer field: those are discarded with this list (RFC 9110 section 6.5.1)."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is complete: accept it and start the app, or raise the refusal."""
        if self._upgrading is not None:
            return
        if self._phase != _HEAD:
            raise GatewayError("bad_request")
        self._alarm.clear()
        headers, self._headers = self._headers, []
        if b" \r\n" in self._raw or b"\t\r\n" in self._raw:
            headers = [(name, value.rstrip(b" \t")) for name, value in headers]
        head = read_head(self._raw, headers, self._scheme, self.settings)
        if self._parser.should_upgrade():
            self._upgrading = head
            if head.upgrade == b"websocket":
                check_handshake(head, headers)
                self._headers = headers
                return
        self._begin(head, headers)

    def on_body(self, data: bytes) -> None:
        """A part of the body. What a chunked body has around it, trailers too, counts like header fields."""
        self._overhead = max(0, self._overhead - _AROUND_A_BYTE * len(data))
        if self._cycle is not None and self._cycle.feed(data):
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """The end of the message, except where llhttp takes a foreign upgrade for it."""
        if self._cycle is not None and self._upgrading is None:
            self._phase = _ANSWERING
            self._cycle.end_of_body()

    # A request begins

    def _begin(self, head: Head, headers: Headers) -> None:
        self._phase = _CHUNKED if head.body is None else _LENGTH
        self._left = head.body or 0
        self._overhead = 0
        cycle = Cycle(self, head, keep_alive=head.version == "1.1" and self._parser.should_keep_alive())
        self._cycle = cycle
        scope = http_scope(head, headers)
        scope["server"], scope["client"], scope["scheme"] = self._local, self._client, self._scheme
        scope["state"] = self.app_state.copy()
        scope["extensions"] = {"gateway.edge": cycle}
        cycle.begin(self._app if head.target != b"*" else _what_is_served, scope)

    def _upgrade(self) -> None:
        """The parser stops at an upgrade. A WebSocket is handed over; of any other, the body's framing is fed anew."""
        head, self._upgrading = self._upgrading, None
        if head is None:
            return
        if self._cycle is None:
            self._take_over(head)
        elif head.body == 0:
            self.on_message_complete()
        else:
            framing = b"transfer-encoding: chunked" if head.body is None else b"content-length: %d" % head.body
            self._upgrading = head
            self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
            self._upgrading = None

    def _take_over(self, head: Head) -> None:
        self._phase = _TAKEN
        self._alarm.cancel()
        self.server_state.connections.discard(self)
        self._socket = EdgeWebSocket(self, head, self._headers)
        self._socket.connection_made(self.transport)
        self.transport.set_protocol(self._socket)
        self._socket.shake_hands()

    # A request ends

    def answered(self, cycle: Cycle) -> None:
        """A response is complete: go on with the next request, or close."""
        self.server_state.total_requests += 1
        self._cycle = None
        if not cycle.keep_alive or self._phase != _ANSWERING:
            self._finish()
            return
        self.settings = self.listener.settings
        self._phase, self._raw, self._headers, self._head_timed = _HEAD, b"", [], False
        self._alarm.set(self.settings.idle_timeout_s)
        held, at, self._held = self._held, self._held_at, b""
        if held:
            self._consume(held, at)
        if len(self._held) - self._held_at <= _HELD_HIGH_WATER:
            self.flow.resume_reading()

    def refuse(self, error: GatewayError) -> None:
        """Answer what never reached the app, or what the app left unanswered, and close."""
        request_id = new_request_id()
        self._cycle = None
        self.write(
            refusal(
                error,
                server_name=self.settings.name,
                request_id=request_id,
                defaults=self.server_state.default_headers,
                head_request=self._raw[:5] == b"HEAD ",
            )
        )
        self._finish()
        self.listener.on_refusal(error, self.peer, request_id, _target(self._raw))

    def _wrong(self, error: GatewayError) -> None:
        """The client's bytes make no sense from here on. An app that has not begun yet never hears of the request."""
        if self._cycle is None or self._cycle.forestall():
            self.refuse(error)
            return
        self._phase = _OVER
        self.flow.resume_reading()
        self._cycle.fail(error)

    def _finish(self) -> None:
        """FIN, then discard what still comes for a while: a RST would take the answer from the client."""
        request_complete = self._phase == _ANSWERING and not self._held
        self._phase, self._held = _OVER, b""
        self.flow.resume_reading()
        self._alarm.set(LINGER_S)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        elif request_complete:
            self.transport.close()

    # Bytes leave

    def write(self, data: bytes) -> None:
        """Write, unless the connection is on its way out."""
        if not self.transport.is_closing():
            self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written; at most the idle limit."""
        self._alarm.set(self.settings.idle_timeout_s)
        try:
            await self.flow.drain()
        finally:
            self._alarm.clear()

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        """The transport's buffer has drained."""
        self.flow.resume_writing()


async def _what_is_served(_scope: Any, _receive: Receive, send: Send) -> None:
    """`OPTIONS *` (RFC 9110 section 9.3.7): asks about the server, so the server answers."""
    await send({"type": "http.response.start", "status": 204, "headers": _WHAT_IS_SERVED})
    await send({"type": "http.response.body", "body": b""})


def _refusal_of(error: httptools.HttpParserError) -> GatewayError:
    """What a callback of ours raised, or else what the parser says."""
    cause = error.__context__
    return cause if isinstance(cause, GatewayError) else GatewayError("bad_request", reason=str(error))


def _target(raw: bytes) -> bytes:
    """The target of a request line, as far as there is one."""
    parts = raw.partition(b"\r\n")[0].split(b" ", 2)
    return parts[1] if len(parts) > 1 else b""
