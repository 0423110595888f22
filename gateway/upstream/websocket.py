"""A WebSocket to an upstream: the opening handshake (RFC 6455 section 4.1), as one attempt among others.

Rules: the request line and header leave exactly as they were made, as for any request; only `Upgrade`, `Connection`,
the key and the version are added. Redirects are not followed and no proxy is looked for: a response other than 101 is
an answer to pass on. No extension is offered (no permessage-deflate): each side of the gateway negotiates its own.
Pings of the upstream are answered here; none are sent, silence is the bridge's business. A message is held whole in
memory, so it has a size limit. An upstream that has closed, or must be, has a little time to end the connection as
well, then we do. One border: what `websockets` raises leaves here as GatewayErrors.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator
from typing import Final

from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from gateway.model.request import Headers
from gateway.model.route import Timeouts
from gateway.resilience.deadline import Deadline
from gateway.upstream import failures
from gateway.upstream.connect import Origin
from gateway.upstream.outgoing import Outgoing, head_of
from gateway.upstream.upstream import Upstream

_FINAL: Final = 200
_CLOSE_TIMEOUT_S: Final = 2.0
_LOG: Final = logging.getLogger("gateway.upstream.websocket")
_LOG.setLevel(logging.WARNING)  # below that the library writes whole handshakes, with their tokens


class Handshake:
    """How an upstream answered the opening handshake: an open `connection`, or a refusal with its small body.

    See Answer; the body has always arrived. Whoever takes the connection over closes it.
    """

    def __init__(self, response: Response, connection: ClientConnection | None) -> None:
        self.status = response.status_code
        self.headers: Headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1", "surrogateescape"))
            for name, value in response.headers.raw_items()
        ]
        self.connection = connection
        self._body = bytes(response.body)

    @property
    def content_length(self) -> int | None:
        """See Answer."""
        return len(self._body)

    @property
    def arrived(self) -> bool:
        """See Answer."""
        return True

    def whole(self) -> bytes:
        """See Answer."""
        body, self._body = self._body, b""
        return body

    def allow_silence(self, seconds: float) -> None:
        """See Answer; there is nothing to wait for."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """See Answer."""
        yield self.whole()

    async def read(self, limit: int) -> bytes:
        """See Answer."""
        if len(self._body) > limit:
            raise failures.protocol_error(f"body larger than {limit} bytes", "http_response_body_size")
        return self.whole()

    async def aclose(self) -> None:
        """Break the connection off, if nobody has closed it in an orderly way."""
        if self.connection is not None:
            self.connection.transport.abort()


class WebSocketDialer:
    """Opens WebSockets to one upstream: a Caller, as Upstream is. `max_message` is in bytes."""

    def __init__(self, upstream: Upstream, max_message: int) -> None:
        self.name = upstream.name
        self._upstream = upstream
        self._max_message = max_message

    async def exchange(self, outgoing: Outgoing, *, timeouts: Timeouts, deadline: Deadline) -> Handshake:
        """The upstream's answer to the handshake. `outgoing` is a GET, with the offered subprotocols in its header.

        Raises GatewayError as `Upstream.exchange`.
        """

        def factory(origin: Origin) -> ClientConnection:
            protocol = _Protocol(origin, self._addressed(outgoing, origin), self._max_message)
            return _Connection(protocol, ping_interval=None, close_timeout=_CLOSE_TIMEOUT_S)

        connection = await self._upstream.dial(factory, deadline.cap(timeouts.connect_s))
        return await _shake_hands(connection, deadline.cap(timeouts.read_s))

    def _addressed(self, outgoing: Outgoing, origin: Origin) -> Outgoing:
        """With the `Host` of the origin chosen, unless the caller's own is kept."""
        ours = (b"host", self._upstream.authority)
        host = (b"host", origin.authority)
        return dataclasses.replace(
            outgoing, headers=[host if header == ours else header for header in outgoing.headers]
        )


async def _shake_hands(connection: ClientConnection, within_s: float) -> Handshake:
    try:
        async with asyncio.timeout(within_s):
            await connection.handshake(user_agent_header=None)
    except BaseException as error:
        connection.transport.abort()
        if isinstance(error, InvalidStatus) and error.response.status_code >= _FINAL:
            return Handshake(error.response, None)
        if isinstance(error, TimeoutError):
            raise failures.read_timed_out(within_s) from None
        if isinstance(error, InvalidHandshake) and not isinstance(error.__cause__, (EOFError, OSError)):
            raise failures.protocol_error(f"handshake: {error}") from error
        if isinstance(error, (WebSocketException, OSError)):
            raise failures.lost(None, sent=True) from error
        raise
    response = connection.response
    if response is None:
        raise failures.lost(None, sent=True)
    return Handshake(response, connection)


class _Connection(ClientConnection):
    """The library's connection, which by itself waits for the upstream to end TCP for as long as nobody sends."""

    _ending: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Bytes of the upstream; after those that close, it has the close timeout left."""
        super().data_received(data)
        if self._ending is None and self.protocol.close_expected():
            self._ending = self.loop.call_later(_CLOSE_TIMEOUT_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """TCP has ended."""
        if self._ending is not None:
            self._ending.cancel()
        super().connection_lost(exc)


class _Protocol(ClientProtocol):
    """The library's protocol with a request of ours."""

    def __init__(self, origin: Origin, outgoing: Outgoing, max_message: int) -> None:
        offered = [value for name, value in outgoing.headers if name == b"sec-websocket-protocol"]
        names = [name.strip() for name in b",".join(offered).decode("latin-1").split(",")]
        super().__init__(
            WebSocketURI(origin.scheme == "https", origin.address.host, origin.address.port, "/", ""),
            subprotocols=[Subprotocol(name) for name in names if name] or None,
            max_size=max_message,
            logger=_LOG,
        )
        self._outgoing = outgoing

    def connect(self) -> Request:
        """Our head, with what makes it a handshake."""
        head = head_of(self._outgoing)[:-2]
        upgrade = (
            b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: %b\r\n\r\n"
        )
        return _Ready(super().connect(), head + upgrade % self.key.encode("ascii"))


class _Ready(Request):
    """A request whose bytes are made already."""

    def __init__(self, request: Request, raw: bytes) -> None:
        super().__init__(request.path, request.headers)
        self._raw = raw

    def serialize(self) -> bytes:
        """The bytes."""
        return self._raw
