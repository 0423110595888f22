"""A WebSocket to an upstream: the opening handshake (RFC 6455 section 4.1), as one attempt among others.

One border: what `websockets` raises leaves here as GatewayErrors. The frames after the handshake are Peer's business.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator
from typing import Final, cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from gateway.model.request import Headers
from gateway.model.route import Timeouts
from gateway.resilience.deadline import Deadline
from gateway.upstream import failures
from gateway.upstream.call import Journey
from gateway.upstream.connect import Origin, peer_of
from gateway.upstream.outgoing import Outgoing, head_of
from gateway.upstream.upstream import Upstream
from gateway.websocket import Peer

_FINAL: Final = 200
_HEAD_END: Final = b"\r\n\r\n"
_CLOSE_TIMEOUT_S: Final = 2.0
_LOG: Final = logging.getLogger("gateway.upstream.websocket")
_LOG.setLevel(logging.WARNING)  # below that the library writes whole handshakes, with their tokens


class Handshake:
    """How an upstream answered the opening handshake: an open `connection`, or a refusal with its small body.

    See Answer; the body has always arrived. Whoever takes the connection over closes it.
    """

    def __init__(self, response: Response, connection: UpstreamSocket | None) -> None:
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

    @property
    def several(self) -> bool:
        """See Caller."""
        return self._upstream.several

    @property
    def holds(self) -> bool:
        """See Caller."""
        return self._upstream.holds

    def held_s(self) -> float:
        """See Caller."""
        return self._upstream.held_s()

    def hold(self, journey: Journey, seconds: float) -> None:
        """See Caller."""
        self._upstream.hold(journey, seconds)

    def elsewhere(self, journey: Journey) -> bool:
        """See Caller."""
        return self._upstream.elsewhere(journey)

    async def exchange(self, outgoing: Outgoing, *, timeouts: Timeouts, deadline: Deadline) -> Handshake:
        """The upstream's answer to the handshake. `outgoing` is a GET, with the offered subprotocols in its header.

        Raises GatewayError as `Upstream.exchange`.
        """

        def factory(origin: Origin) -> UpstreamSocket:
            return UpstreamSocket(_Protocol(origin, self._addressed(outgoing, origin), self._max_message))

        connection = await self._upstream.dial(factory, deadline.cap(timeouts.connect_s), outgoing.journey)
        return await _shake_hands(connection, deadline.cap(timeouts.read_s))

    def _addressed(self, outgoing: Outgoing, origin: Origin) -> Outgoing:
        """With the `Host` of the origin chosen, unless the caller's own is kept."""
        ours = (b"host", self._upstream.authority)
        host = (b"host", origin.authority)
        return dataclasses.replace(
            outgoing, headers=[host if header == ours else header for header in outgoing.headers]
        )


async def _shake_hands(connection: UpstreamSocket, within_s: float) -> Handshake:
    peer = peer_of(connection.transport)
    try:
        async with asyncio.timeout(within_s):
            return Handshake(await connection.answer, connection)
    except BaseException as error:
        connection.transport.abort()
        # Redirects are not followed: a response other than 101 is an answer to pass on.
        if isinstance(error, InvalidStatus) and error.response.status_code >= _FINAL:
            return Handshake(error.response, None)
        if isinstance(error, TimeoutError):
            raise failures.read_timed_out(within_s, peer) from None
        if isinstance(error, InvalidHandshake) and not isinstance(error.__cause__, (EOFError, OSError)):
            raise failures.protocol_error(f"handshake: {error}") from error
        if isinstance(error, (WebSocketException, OSError)):
            raise failures.lost(None, peer, sent=True) from error
        raise


class UpstreamSocket(Peer):
    """The connection: the library's handshake, then frames. `answer` is the upstream's response to the handshake."""

    def __init__(self, handshake: _Protocol) -> None:
        super().__init__(asyncio.get_running_loop(), client=True, close_timeout_s=_CLOSE_TIMEOUT_S)
        self.answer: asyncio.Future[Response] = self.loop.create_future()
        self._handshake = handshake
        self._open = False
        self._tail = b""

    @property
    def subprotocol(self) -> str | None:
        """What the upstream chose among the subprotocols offered."""
        return self._handshake.subprotocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: ask for the handshake."""
        self.transport = cast("asyncio.Transport", transport)
        self._handshake.send_request(self._handshake.connect())
        self.transport.writelines(self._handshake.data_to_send())

    def data_received(self, data: bytes) -> None:
        """The response, up to the empty line after its head; then frames, or the body of a refusal."""
        if self._open:
            super().data_received(data)
            return
        end = (self._tail + data).find(_HEAD_END)
        cut = len(data) if end < 0 else end + len(_HEAD_END) - len(self._tail)
        self._tail = (self._tail + data)[1 - len(_HEAD_END) :]
        self._handshake.receive_data(data[:cut])
        if self._handshake.state is State.OPEN:
            self._open = True
            self.begin(self._handshake.longest)
            super().data_received(data[cut:])
        elif cut < len(data):
            self._handshake.receive_data(data[cut:])
        self._note_answer()

    def connection_lost(self, exc: Exception | None) -> None:
        """TCP has ended."""
        super().connection_lost(exc)
        if not self._open:
            self._handshake.receive_eof()
            self._note_answer()

    def _note_answer(self) -> None:
        if self.answer.done():
            return
        events = self._handshake.events_received()
        if self._handshake.handshake_exc is not None:
            self.answer.set_exception(self._handshake.handshake_exc)
            self.answer.exception()  # whoever asked for it may be gone
        elif events:
            self.answer.set_result(cast("Response", events[0]))


class _Protocol(ClientProtocol):
    """The library's protocol with a request of ours."""

    def __init__(self, origin: Origin, outgoing: Outgoing, max_message: int) -> None:
        offered = [value for name, value in outgoing.headers if name == b"sec-websocket-protocol"]
        names = [name.strip() for name in b",".join(offered).decode("latin-1").split(",")]
        super().__init__(
            WebSocketURI(origin.scheme == "https", origin.address.host, origin.address.port, "/", ""),
            subprotocols=[Subprotocol(name) for name in names if name] or None,
            # No extension is offered: each side of the gateway negotiates its own.
            logger=_LOG,
        )
        self._outgoing = outgoing
        self.longest = max_message

    def connect(self) -> Request:
        """Our head, with what makes it a handshake."""
        # The head leaves as it was made, as for any request.
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
