"""A permit, carried out as a WebSocket: the handshake passed on, then messages in both directions until one side ends.

Rules: authorized before, like any request; what refuses it, here or upstream, is an HTTP response. The upstream's
handshake comes first, so the caller is only accepted when there is somebody to talk to; Origin and subprotocols go up,
the chosen one comes down. One message at a time and direction, taken when the other side has taken the one before
(backpressure); a message over the limit ends with 1009. Close codes go across; a side that breaks off without one
breaks the other off. Ends of our own making: 1008 when the token has expired or a recheck says no, 1013 when it cannot
say, 1001 when the gateway goes away or nobody has said anything for `stream_idle_timeout`, 1014 when the upstream does
not speak the protocol.
Pings are answered on each side, not passed on: they are about a connection, not about the stream.
Deliberately absent: looking into messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.forward.marks import mark_degraded_permit
from gateway.forward.outgoing import OutgoingHead
from gateway.forward.relay import break_off
from gateway.forward.streams import Streams
from gateway.headers import HeaderRules, client_response_headers
from gateway.model.permit import Permit
from gateway.model.request import Headers
from gateway.model.route import ProxyAction, Route
from gateway.resilience.deadline import Deadline
from gateway.upstream.guarded import GuardedUpstream
from gateway.upstream.outgoing import Outgoing
from gateway.upstream.websocket import Handshake

MAX_MESSAGE: Final = 16 * 1024 * 1024
"""Bytes of one message, whatever `max_body` says: it is held whole in memory. The listener's limit is the same."""

_LISTENERS: Final = frozenset({b"content-length", b"date"})
_GOING_AWAY: Final = 1001
_NO_STATUS: Final = 1005
_ABNORMAL: Final = 1006
_POLICY: Final = 1008
_TOO_BIG: Final = 1009
_TRY_LATER: Final = 1013
_BAD_GATEWAY: Final = 1014
_SENDABLE: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})
_CODES: Final = {"iam_denied": _POLICY, "unauthenticated": _POLICY, "draining": _GOING_AWAY}


def max_message(route: Route) -> int:
    """The largest message of a route, in bytes."""
    return min(route.max_body or MAX_MESSAGE, MAX_MESSAGE)


@dataclass(frozen=True, slots=True)
class _Ending:
    """How to close each side: a code; `_ABNORMAL` to break it off; None if it is closed already."""

    caller: int | None
    upstream: int | None
    reason: str = ""


class WebSocketEndpoint:
    """Forwards WebSockets to one upstream. `upstream` guards a WebSocketDialer; the rest is as for ProxyEndpoint."""

    def __init__(
        self,
        route: Route,
        action: ProxyAction,
        upstream: GuardedUpstream,
        *,
        authority: bytes,
        rules: HeaderRules,
        streams: Streams,
    ) -> None:
        self._route = route
        self._upstream = upstream
        self._head = OutgoingHead(action, authority, rules)
        self._via = rules.via
        self._streams = streams

    async def __call__(self, permit: Permit, exchange: Exchange, deadline: Deadline) -> None:
        """Open the permitted WebSocket and carry it until it ends. Raises GatewayError while it is not accepted."""
        degraded = mark_degraded_permit(permit, exchange)
        exchange.become_stream()
        outgoing = self._outgoing(permit, degraded)
        answer = await self._upstream.exchange(
            outgoing, deadline=deadline, span=exchange.span, replayable=True, record=exchange.record
        )
        deadline.stop()
        try:
            connection = answer.connection if isinstance(answer, Handshake) else None
            headers = self._shown(answer.headers, exchange)
            if connection is None:
                await exchange.respond(answer.status, headers, answer.whole() or b"")
            else:
                await self._carry(permit, exchange, connection, headers)
        finally:
            await answer.aclose()

    def _outgoing(self, permit: Permit, degraded: bytes | None) -> Outgoing:
        headers = self._head.headers(permit, degraded)
        offered = permit.request.values(b"sec-websocket-protocol")
        if offered:
            headers.append((b"sec-websocket-protocol", b", ".join(offered)))
        return Outgoing(b"GET", self._head.target(permit.request.target), headers, share_key=permit.share_key)

    def _shown(self, headers: Headers, exchange: Exchange) -> Headers:
        """The handshake's header for the caller, whose own handshake (and `Date`) is made by the listener."""
        shown = client_response_headers(headers, via=self._via, request_id=exchange.request.request_id)
        return [header for header in shown if header[0] not in _LISTENERS and header[0][:14] != b"sec-websocket-"]

    async def _carry(self, permit: Permit, exchange: Exchange, connection: ClientConnection, headers: Headers) -> None:
        exchange.started = True
        exchange.record.status = 101
        await exchange.send(
            {"type": "websocket.accept", "subprotocol": connection.subprotocol, "headers": headers + exchange.extra}
        )
        bridge = _Bridge(exchange, connection, max_message(self._route), self._route.stream_idle_timeout_s)
        ended = await self._streams.serve(permit, bridge.run())
        if ended is not None:
            exchange.record.code = ended.code
            exchange.record.reason = ended.reason or ended.detail
            await bridge.close(_ended_by_us(ended))
        exchange.finished = True


def _ended_by_us(error: GatewayError) -> _Ending:
    return _Ending(_CODES.get(error.code, _TRY_LATER), _GOING_AWAY, error.detail)


class _Bridge:
    """Two open WebSockets and what goes across."""

    def __init__(self, exchange: Exchange, connection: ClientConnection, limit: int, idle_s: float) -> None:
        self._exchange = exchange
        self._connection = connection
        self._limit = limit
        self._idle_s = idle_s
        self._heard_s = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Until one side ends, then end the other the same way."""
        await self.close(await _first(self._to_upstream(), self._to_caller(), self._silence()))

    async def close(self, ending: _Ending) -> None:
        """Close both sides."""
        if ending.caller == _ABNORMAL:
            break_off(self._exchange, GatewayError("upstream_protocol_error", reason="WebSocket broken off"))
        elif ending.caller is not None:
            await self._tell_caller(ending.caller, ending.reason)
        if ending.upstream == _ABNORMAL:
            self._connection.transport.abort()
        elif ending.upstream is not None:
            await self._connection.close(ending.upstream, ending.reason)

    async def _to_upstream(self) -> _Ending:
        while True:
            message = await self._exchange.receive()
            if message["type"] == "websocket.disconnect":
                return _left(message.get("code", _NO_STATUS), message.get("reason"))
            if message["type"] != "websocket.receive":
                continue
            self._heard()
            data: str | bytes | None = message.get("bytes")
            if data is None:
                data = message["text"]
            if _too_big(data, self._limit):
                return _Ending(_TOO_BIG, _GOING_AWAY)
            try:
                await self._connection.send(data)
            except ConnectionClosed as closed:
                return _closed(closed)
            self._heard()

    async def _to_caller(self) -> _Ending:
        while True:
            try:
                data = await self._connection.recv()
            except ConnectionClosed as closed:
                return _closed(closed)
            self._heard()
            kind = "text" if isinstance(data, str) else "bytes"
            try:
                await self._exchange.send({"type": "websocket.send", kind: data})
            except OSError:  # the listener's way to say that the caller is gone
                return _Ending(None, _ABNORMAL)
            self._heard()

    async def _silence(self) -> _Ending:
        """Ends when neither side has said anything for too long."""
        loop = asyncio.get_running_loop()
        while (left_s := self._heard_s + self._idle_s - loop.time()) > 0:  # noqa: ASYNC110 - time itself is awaited
            await asyncio.sleep(left_s)
        return _Ending(_GOING_AWAY, _GOING_AWAY, "idle")

    def _heard(self) -> None:
        self._heard_s = asyncio.get_running_loop().time()

    async def _tell_caller(self, code: int, reason: str) -> None:
        try:
            await self._exchange.send({"type": "websocket.close", "code": code, "reason": reason})
        except OSError:  # gone already
            return


async def _first(*works: Coroutine[Any, Any, _Ending]) -> _Ending:
    """What the first to end says; the others are ended."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _too_big(data: str | bytes, limit: int) -> bool:
    """Whether a message has more than `limit` bytes; text is only encoded where that can matter."""
    if isinstance(data, bytes):
        return len(data) > limit
    return len(data) > limit or (len(data) * 4 > limit and len(data.encode()) > limit)


def _left(code: int, reason: str | None) -> _Ending:
    """The caller's end. A connection that just ended comes as 1006, or as 1005 without a reason."""
    if code == _ABNORMAL or (code == _NO_STATUS and reason is None):
        return _Ending(None, _ABNORMAL)
    return _Ending(None, code if code in _SENDABLE else 1000, reason or "")


def _closed(closed: ConnectionClosed) -> _Ending:
    """The upstream's end. What it broke by its messages, we have told it already."""
    if closed.rcvd is not None:
        code = closed.rcvd.code
        return _Ending(code if code in _SENDABLE else 1000, None, closed.rcvd.reason)
    if closed.sent is not None:
        return _Ending(_TOO_BIG if closed.sent.code == _TOO_BIG else _BAD_GATEWAY, None)
    return _Ending(_ABNORMAL, None)
