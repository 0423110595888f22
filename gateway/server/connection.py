"""One connection of the public listener: an asyncio protocol for uvicorn (`uvicorn.Config(http=EdgeProtocol)`).

READING ──► ANSWERING ──► READING …          a WebSocket handshake: TAKEN, by another protocol
   └──── anything wrong, or Connection: close ──► OVER: answer, FIN, discard, close
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from gateway.errors import GatewayError
from gateway.exchange import Receive, Send
from gateway.forwarded import new_request_id, plain_address
from gateway.model.request import Headers
from gateway.server.alarm import Alarm
from gateway.server.cycle import App, Cycle
from gateway.server.head import Head, http_scope, socket_scope
from gateway.server.messages import COMPLETE, HEAD, MessageReader
from gateway.server.response import refusal
from gateway.server.websocket import EdgeWebSocket

if TYPE_CHECKING:
    from uvicorn.server import ServerState

    from gateway.server.factory import ListenerConfig
    from gateway.server.listener import Admission

_READING, _ANSWERING, _OVER, _TAKEN = range(4)
_HELD_HIGH_WATER: Final = 64 * 1024
LINGER_S: Final = 2.0
"""How long a client may be silent after its answer before the connection is closed."""
LINGER_MAX_S: Final = 30.0
"""How long what a client sends after its answer is discarded at most."""
_RESET: Final = struct.pack("ii", 1, 0)
_WHAT_IS_SERVED: Final = [(b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")]


# Not derived from uvicorn's httptools protocol, of which nothing would be left.
class EdgeProtocol(asyncio.Protocol):
    """One connection. uvicorn makes it, and calls `shutdown` when the server stops."""

    __deletable__ = ("_reader",)  # compiled, no other attribute can be taken away

    def __init__(
        self,
        config: ListenerConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        admission: Admission | None = None,
    ) -> None:
        self.admission = admission
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
        self.client: tuple[str, int] | None = None
        self._local: tuple[str, int | None] | None = None
        self._scheme = "http"
        self._reader = MessageReader(self, "http", self.settings)
        self._alarm = Alarm(self.loop, self._too_slow)
        self._phase = _READING
        self._head_timed = True
        self._cycle: Cycle | None = None
        self._held = b""
        self._held_at = 0
        self._working = False
        self._discarded = 0
        self._linger_end_s = 0.0
        self._reset = False

    # The connection begins and ends

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected (and, with TLS, shook hands)."""
        self.transport = cast("asyncio.Transport", transport)
        self.flow = FlowControl(self.transport)
        client, local = get_remote_addr(self.transport), get_local_addr(self.transport)
        if client is not None and local is not None:  # none of a Unix socket
            self.client, self._local = (plain_address(client[0]), client[1]), (plain_address(local[0]), local[1])
            self.peer = self.client[0]
        if is_ssl(self.transport):
            self._scheme = "https"
            self._reader = MessageReader(self, "https", self.settings)
        self.server_state.connections.add(self)  # type: ignore[arg-type]  # uvicorn lists its own protocols
        left_s = self.settings.header_timeout_s
        if self.admission is not None:
            self.admission.connection = self
            left_s -= self.loop.time() - self.admission.since_s
        # The head's deadline is absolute, counted from accept.
        self._alarm.set(max(0.0, left_s))

    def eof_received(self) -> None:
        """The client is done sending; the transport closes."""
        # A half-closed client cannot be told from one that left.
        self._client_left()

    def connection_lost(self, exc: Exception | None) -> None:  # asyncio's signature
        """The connection is gone, for whatever reason."""
        self._client_left()
        self._alarm.cancel()
        self.server_state.connections.discard(self)
        if self.admission is not None:
            self.admission.release()
        self.flow.resume_writing()
        self._phase, self._cycle, self._held = _OVER, None, b""
        del self._reader  # it holds this protocol, and the parser holds it

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

    def make_room(self) -> bool:
        """Close, if no request is being served; for another connection that needs the place."""
        if self._phase not in (_READING, _OVER) or self._cycle is not None:
            return False
        self.transport.abort()
        return True

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
        if self._phase == _OVER:
            self._discarded += len(data)
        elif self._phase == _ANSWERING or self._working:
            self._held, self._held_at = self._held[self._held_at :] + data, 0
            # What a client pipelines waits as bytes, bounded because reading pauses; its leaving is noticed late.
            if len(self._held) > _HELD_HIGH_WATER:
                self.flow.pause_reading()
        else:
            self._consume(data, 0)

    def resume_reading(self) -> None:
        """The app takes more of the body."""
        if len(self._held) - self._held_at <= _HELD_HIGH_WATER:
            self.flow.resume_reading()

    def _consume(self, data: bytes, at: int) -> None:
        if self._phase != _READING:
            return
        try:
            at = self._reader.read(data, at)
        except GatewayError as error:
            self._wrong(error)
            return
        if self._reader.socket is not None:
            self._take_over(data[at:], *self._reader.socket)
        elif self._reader.state == COMPLETE:
            self._phase = _ANSWERING
            if at < len(data):
                self._held, self._held_at = data, at
        elif at < len(data):
            self._held, self._held_at, self._working = data, at, True
            # One step in each turn of the loop, so that a body in tiny chunks lets others have theirs.
            self.loop.call_soon(self._go_on)
        elif self._reader.state == HEAD:
            self._time_head()

    def _go_on(self) -> None:
        """The next step of what has arrived already; others had their turn."""
        self._working = False
        held, at = self._held, self._held_at
        if self._phase == _READING and held:
            self._held, self._held_at = b"", 0
            self._consume(held, at)
            if self._cycle is not None and not self._cycle.full:
                self.resume_reading()

    def _time_head(self) -> None:
        """From the first byte of a later head on, `header_timeout` instead of the idle limit; once, so absolute."""
        if self._reader.raw and not self._head_timed:
            self._head_timed = True
            self._alarm.set(self.settings.header_timeout_s)

    def _too_slow(self) -> None:
        """The alarm: a head that is not complete, nothing to do, or an answer that the client does not take."""
        in_head = self._phase == _READING and self._reader.state == HEAD
        if self._phase == _OVER and self._still_sends():
            self._alarm.set(LINGER_S)
        elif in_head and self._reader.raw:
            self.refuse(GatewayError("request_timeout", "The request head arrived too slowly."))
        elif in_head or (self._phase == _OVER and not self.transport.is_closing()):
            self._alarm.set(self.settings.idle_timeout_s)
            self.transport.close()
        else:
            self.transport.abort()

    def _still_sends(self) -> bool:
        """Whether the client went on with its body since the last look, at `min_body_rate` at least, and may go on."""
        enough = max(1.0, self.settings.min_body_rate * LINGER_S)
        sent, self._discarded = self._discarded, 0
        return sent >= enough and self.loop.time() < self._linger_end_s and not self.transport.is_closing()

    # A request arrives

    def head_arrived(self, head: Head, headers: Headers, *, keep_alive: bool) -> None:
        """Start the app on it; the body follows while it runs."""
        self._alarm.clear()
        cycle = Cycle(self, head, keep_alive=keep_alive)
        self._cycle = cycle
        edge = {"gateway.edge": cycle}
        scope = http_scope(head, headers, self._local, self.client, self._scheme, self.app_state.copy(), edge)
        cycle.begin(self._app if head.target != b"*" else _what_is_served, scope)

    def part_arrived(self, data: bytes) -> None:
        """A part of the body; reading pauses if the app does not take it."""
        if self._cycle is not None and self._cycle.feed(data):
            self.flow.pause_reading()

    def end_arrived(self) -> None:
        """The body is complete."""
        if self._cycle is not None:
            self._cycle.end_of_body()

    def _take_over(self, rest: bytes, head: Head, headers: Headers) -> None:
        self._phase = _TAKEN
        self._alarm.cancel()
        self.server_state.connections.discard(self)
        scope = socket_scope(head, headers, self._local, self.client, self._scheme, self.app_state.copy())
        successor = EdgeWebSocket(self, head, scope)
        self.transport.set_protocol(successor)
        successor.shake_hands()
        if rest:
            successor.data_received(rest)

    # A request ends

    def answered(self, cycle: Cycle) -> None:
        """A response is complete: go on with the next request, or close."""
        self.server_state.total_requests += 1
        self._cycle = None
        if not cycle.keep_alive or self._phase != _ANSWERING:
            self._finish()
            return
        self.settings = self.listener.settings
        self._reader.next_message(self.settings)
        self._phase, self._head_timed = _READING, False
        self._alarm.set(self.settings.idle_timeout_s)
        held, at = self._held, self._held_at
        if held:
            self._held, self._held_at = b"", 0
            self._consume(held, at)
        if self.flow.read_paused:
            self.resume_reading()

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
                head_request=self._reader.raw[:5] == b"HEAD ",
            )
        )
        self._finish()
        self.listener.on_refusal(error, self.peer, request_id, _target(self._reader.raw))

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
        # What still comes is discarded while the client goes on sending, within LINGER_MAX_S.
        self._phase, self._held = _OVER, b""
        self.flow.resume_reading()
        self._alarm.set(LINGER_S)
        self._linger_end_s = self.loop.time() + LINGER_MAX_S
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
        # A client that takes nothing of its answer for that long is cut off.
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


def _target(raw: bytes) -> bytes:
    """The target of a request line, as far as there is one."""
    parts = raw.partition(b"\r\n")[0].split(b" ", 2)
    return parts[1] if len(parts) > 1 else b""
