"""A WebSocket handshake at the edge, and the connection after it (RFC 6455), for an app that relays frames.

What differs from ASGI: `websocket.receive` and `websocket.send` carry `frames`, a list of pieces; `websocket.accept`
may say `max_message` and whom to tell of life (`heard`); `websocket.disconnect` says in `broke` who broke a rule.
Deliberately absent: compression (a decompressed message could be a thousand times its size), subprotocols of ours.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
from typing import TYPE_CHECKING, Any, Final

from websockets.utils import accept_key

from gateway.errors import GatewayError
from gateway.exchange import Message
from gateway.forwarded import new_request_id
from gateway.model.request import Headers
from gateway.server.head import Head
from gateway.server.response import refusal, response_head, switching_head
from gateway.websocket import End, Peer

if TYPE_CHECKING:
    from gateway.server.connection import EdgeProtocol
    from gateway.server.cycle import App

_VERSION: Final = b"13"
_KEY_BYTES: Final = 16
_MAX_FIELD: Final = 4096
_MAX_EARLY: Final = 64 * 1024
_SUPPORTED: Final = ((b"sec-websocket-version", _VERSION),)
_HANDSHAKE: Final = frozenset({b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol"})
_PROTOCOLS: Final = re.compile(rb"[!#-'*+\-.^_`|~\w]+(?:[ \t]*,[ \t]*[!#-'*+\-.^_`|~\w]+)*")
_CLOSE_TIMEOUT_S: Final = 10.0
_GOING_AWAY: Final = 1001
_RESTART: Final = 1012
_SHAKING, _OPEN, _REFUSED = range(3)
_logger: Final = logging.getLogger("gateway.server")


def check_handshake(head: Head, headers: Headers) -> None:
    """RFC 6455 section 4.2.1. Raises `bad_request`."""
    fields = dict(headers)
    # What is wrong with the handshake itself is refused before the app is asked.
    if head.method != "GET" or head.version != "1.1" or head.body != 0:
        raise GatewayError("bad_request", "A WebSocket handshake is a GET without content.")
    if fields.get(b"sec-websocket-version") != _VERSION:
        raise GatewayError("bad_request", "Only WebSocket version 13 is served.", headers=_SUPPORTED)
    if not _valid_key(fields.get(b"sec-websocket-key", b"")):
        raise GatewayError("bad_request", "The Sec-WebSocket-Key is not 16 bytes in base64.")
    for name, value in headers:
        if len(value) > _MAX_FIELD and name in _HANDSHAKE:
            raise GatewayError("headers_too_large")
        if name == b"sec-websocket-protocol" and not _PROTOCOLS.fullmatch(value):
            raise GatewayError("bad_request", "The Sec-WebSocket-Protocol is malformed.")


def _valid_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False


class EdgeWebSocket(Peer):
    """The connection from the handshake on. Is the `Edge` of its scope."""

    def __init__(self, connection: EdgeProtocol, head: Head, scope: dict[str, Any]) -> None:
        super().__init__(connection.loop, client=False, close_timeout_s=_CLOSE_TIMEOUT_S)
        self.transport = connection.transport
        self._head = head
        self._admission = connection.admission
        self._listener = connection.listener
        self._server = connection.server_state
        self._app: App = connection.config.loaded_app
        self._scope = scope | {"extensions": {"websocket.http.response": {}, "gateway.edge": self}}
        self._task: asyncio.Task[None] | None = None
        self._phase = _SHAKING
        self._early = b""
        self._connected = False
        self._body = b""
        self._aborted = False

    # Edge

    @property
    def raw_target(self) -> bytes:
        """The request target in origin form, byte for byte as received."""
        return self._head.target

    @property
    def host(self) -> str:
        """The `Host` field as received."""
        return self._head.host

    @property
    def client_left(self) -> bool:
        """Whether the client closed or reset the connection."""
        return self.lost.done() and not self._aborted

    def abort(self) -> None:
        """Break the connection at once."""
        self._aborted = True
        self.transport.abort()

    def close_after_response(self) -> None:
        """A refused handshake closes in any case, an accepted one has no response to close after."""

    def respond(self, _status: int, _headers: Headers, _body: bytes) -> bool:
        """Answers to a handshake are messages of their own kind."""
        return False

    # The life of the connection

    def shake_hands(self) -> None:
        """Start the app on the handshake."""
        self._server.connections.add(self)  # type: ignore[arg-type]  # uvicorn lists its own protocols
        # A request like any other: the app authorizes it before it accepts.
        self._task = self.loop.create_task(self._run())
        self._server.tasks.add(self._task)
        self._task.add_done_callback(self._server.tasks.discard)

    def data_received(self, data: bytes) -> None:
        """Frames. What comes before the handshake is answered waits for it, and is nothing if it is refused."""
        if self._phase == _OPEN:
            super().data_received(data)
        elif len(self._early) > _MAX_EARLY:
            self.transport.abort()
        else:
            self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: during the handshake the app's task is cancelled, afterwards it is told."""
        super().connection_lost(exc)
        self._server.connections.discard(self)
        if self._admission is not None:
            self._admission.release()
        if self._phase == _SHAKING and not self._aborted and self._task is not None:
            self._task.cancel()

    def shutdown(self) -> None:
        """The server stops. A handshake is answered by its app, in the time that is left."""
        if self._phase == _OPEN:
            self.close(_RESTART)

    async def _run(self) -> None:
        """Run the app on the handshake and what follows; nothing is left open after it."""
        try:
            await self._app(self._scope, self.receive, self.send)
        except ConnectionError:
            pass  # the client is gone
        except asyncio.CancelledError:
            self._finish()
            raise
        except Exception:
            _logger.exception("the application raised")
        self._finish()

    def _finish(self) -> None:
        if self._phase == _SHAKING and not self.transport.is_closing():
            self._phase = _REFUSED
            error, settings, defaults = GatewayError("internal_error"), self._listener.settings, self._defaults
            request_id = new_request_id()
            self.transport.write(
                refusal(error, server_name=settings.name, request_id=request_id, defaults=defaults, head_request=False)
            )
        if self._phase == _OPEN:
            self.close(_GOING_AWAY)
        else:
            self.transport.close()

    # ASGI

    async def receive(self) -> Message:
        """The next event of the client."""
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        taken = await self.take()
        if isinstance(taken, End):
            return {"type": "websocket.disconnect", "code": taken.code, "reason": taken.reason, "broke": taken.broke}
        return {"type": "websocket.receive", "frames": taken}

    async def send(self, message: Message) -> None:
        """Send it. ConnectionError once the client is gone; GatewayError for a head that would be none."""
        kind = message["type"]
        if kind == "websocket.send":
            await self.give(message["frames"])
        elif kind == "websocket.close":
            self.close(message["code"], message["reason"])
        elif self.transport.is_closing():
            raise ConnectionResetError
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.http.response.start":
            self._body, _, _ = response_head(
                message["status"],
                message["headers"],
                self._defaults,
                head_request=False,
                http_1_0=True,  # without a length it ends with the connection
                keep_alive=False,
            )
        else:
            self._refuse(message)

    def _accept(self, message: Message) -> None:
        key = dict(self._scope["headers"])[b"sec-websocket-key"].decode("ascii")
        fields = [(b"sec-websocket-accept", accept_key(key).encode("ascii"))]
        if message.get("subprotocol"):
            fields.append((b"sec-websocket-protocol", message["subprotocol"].encode("ascii")))
        self.transport.write(switching_head(fields + list(message.get("headers", ())), self._defaults))
        self._phase = _OPEN
        self.begin(**{name: message[name] for name in ("max_message", "heard") if name in message})
        early, self._early = self._early, b""
        if early:
            self.data_received(early)

    def _refuse(self, message: Message) -> None:
        self._body += message["body"]
        if not message.get("more_body"):
            self._phase = _REFUSED
            self.transport.write(self._body)
            self.transport.close()

    @property
    def _defaults(self) -> Headers:
        return self._server.default_headers
