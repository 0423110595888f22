"""A WebSocket handshake at the edge, and the connection after it (RFC 6455), on uvicorn's sans-IO implementation.

Rules: the handshake is a request like any other: the same head rules, the same app, which authorizes it before it
accepts. What is wrong with the handshake itself is refused before the app is asked. Frames are the library's business.
Before `websocket.accept` a client that leaves cancels the app's task; afterwards the app gets `websocket.disconnect`.

Deliberately absent: compression (a decompressed message could be a thousand times its size) and subprotocols of ours.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway.errors import GatewayError
from gateway.forwarded import new_request_id
from gateway.model.request import Headers
from gateway.server.head import Head
from gateway.server.response import refusal
from gateway.server.scope import target_keys

if TYPE_CHECKING:
    from gateway.server.connection import EdgeProtocol

_VERSION: Final = b"13"
_KEY_BYTES: Final = 16
_MAX_FIELD: Final = 4096
_MAX_EARLY: Final = 64 * 1024
_SUPPORTED: Final = ((b"sec-websocket-version", _VERSION),)
_HANDSHAKE: Final = frozenset({b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol"})
_PROTOCOLS: Final = re.compile(rb"[!#-'*+\-.^_`|~\w]+(?:[ \t]*,[ \t]*[!#-'*+\-.^_`|~\w]+)*")
_logger: Final = logging.getLogger("gateway.server")
_frames: Final = logging.getLogger("gateway.server.frames")
_frames.setLevel(logging.CRITICAL)  # a client's mistakes are told to the client: no log has a traceback of them


def check_handshake(head: Head, headers: Headers) -> None:
    """RFC 6455 section 4.2.1. Raises `bad_request`."""
    fields = dict(headers)
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


class EdgeWebSocket(WebSocketsSansIOProtocol):
    """The connection from the handshake on. Is the `Edge` of its scope."""

    def __init__(self, connection: EdgeProtocol, head: Head, headers: Headers) -> None:
        super().__init__(connection.config, connection.server_state, connection.app_state.copy(), _loop=connection.loop)
        self.logger = _frames
        self._head = head
        self._headers = headers
        self._peer = connection.peer
        self._listener = connection.listener
        self._task: asyncio.Task[None] | None = None
        self._early: bytes | None = b""
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
        return self.disconnected and not self._aborted

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
        """Let the library see the handshake and nothing else of the request, to which it has limits of its own."""
        lines = [b"GET / HTTP/1.1", b"host: handshake", b"connection: upgrade", b"upgrade: websocket"]
        lines += [name + b": " + value for name, value in self._headers if name in _HANDSHAKE]
        super().data_received(b"\r\n".join(lines) + b"\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        """Frames. What comes before the handshake is answered waits for it, and is nothing if it is refused."""
        if self._early is None:
            super().data_received(data)
        elif len(self._early) > _MAX_EARLY:
            self.transport.abort()
        else:
            self._early += data

    async def send(self, message: Any) -> None:
        """As ASGI says; once the socket is accepted, what came early is looked at."""
        await super().send(message)
        early = self._early
        if early is not None and message["type"] == "websocket.accept":
            self._early = None
            if early and not self.disconnected:
                super().data_received(early)

    async def run_asgi(self) -> None:
        """Run the app on the handshake and what follows."""
        self._task = asyncio.current_task()
        self._complete_scope()
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except asyncio.CancelledError:
            self._end()
            raise
        except Exception:
            _logger.exception("the application raised")
        self._end()

    def _complete_scope(self) -> None:
        scope = cast("dict[str, Any]", self.scope)
        scope["headers"] = self._headers
        scope.update(target_keys(self._head.target))
        scope["extensions"]["gateway.edge"] = self

    def _end(self) -> None:
        """Nothing is left open: an unanswered handshake is `internal_error`, an open connection is closed."""
        if not self.handshake_complete and self.initial_response is None and not self.disconnected:
            self.handshake_complete = True
            self.transport.write(
                refusal(
                    GatewayError("internal_error"),
                    server_name=self._listener.settings.name,
                    request_id=new_request_id(),
                    defaults=self.default_headers,
                    head_request=False,
                )
            )
        if self.close_timer is None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: during the handshake the app's task is cancelled, afterwards its queue tells it."""
        accepted = self.handshake_complete
        super().connection_lost(exc)
        self._listener.release(self._peer)
        if not accepted and not self._aborted and self._task is not None:
            self._task.cancel()
