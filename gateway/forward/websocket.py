"""A permit, carried out as a WebSocket: the handshake passed on, then messages in both directions until one side ends.

The gateway itself ends with 1008 when the token has expired or a recheck is denied, 1013 when it has no answer,
1001 when the gateway stops or both sides are idle, and 1014 when the upstream does not speak the protocol.
Deliberately absent: looking into messages.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.exchange import Exchange, Message
from gateway.forward.body import break_off
from gateway.forward.heads import OutgoingHead, mark_degraded_permit
from gateway.forward.streams import Streams
from gateway.headers import HeaderRules, client_response_headers
from gateway.model.permit import Permit
from gateway.model.request import Headers
from gateway.model.route import ProxyAction, Route
from gateway.resilience.deadline import Deadline
from gateway.upstream.guarded import GuardedUpstream
from gateway.upstream.outgoing import Outgoing
from gateway.upstream.websocket import Handshake, UpstreamSocket
from gateway.websocket.frames import ABNORMAL, MAX_MESSAGE, NO_STATUS, POLICY, TOO_BIG, End

_LISTENERS: Final = frozenset({b"content-length", b"date"})
_GOING_AWAY: Final = 1001
_TRY_LATER: Final = 1013
_BAD_GATEWAY: Final = 1014
_CODES: Final = {"iam_denied": POLICY, "unauthenticated": POLICY, "draining": _GOING_AWAY}


def max_message(route: Route) -> int:
    """The largest message of a route, in bytes."""
    return min(route.max_body or MAX_MESSAGE, MAX_MESSAGE)


@dataclass(frozen=True, slots=True)
class _Ending:
    """How to close each side: a code; ABNORMAL to abort it; None if it is closed already."""

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
        exchange.become_stream(permit.share_key)
        outgoing = self._outgoing(permit, degraded)
        # The upstream's handshake first, so the caller is accepted only if the upstream accepted.
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

    async def _carry(self, permit: Permit, exchange: Exchange, connection: UpstreamSocket, headers: Headers) -> None:
        exchange.started = True
        exchange.record.status = 101
        bridge = _Bridge(exchange, connection, self._route.stream_idle_timeout_s)
        await exchange.send(
            {
                "type": "websocket.accept",
                "subprotocol": connection.subprotocol or exchange.request.subprotocol,
                "headers": headers + exchange.extra,
                "max_message": max_message(self._route),
                "heard": bridge.heard,
            }
        )
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

    def __init__(self, exchange: Exchange, connection: UpstreamSocket, idle_s: float) -> None:
        self._exchange = exchange
        self._connection = connection
        self._idle_s = idle_s
        self._heard_s = 0.0
        connection.heard = self.heard
        self.heard()

    def heard(self) -> None:
        """One of the two sent a byte."""
        # Any byte of either side, pings and parts of messages too.
        self._heard_s = self._connection.loop.time()

    async def run(self) -> None:
        """Until one side ends, then end the other the same way."""
        await self.close(await _first(self._to_upstream(), self._to_caller(), self._silence()))

    async def close(self, ending: _Ending) -> None:
        """Close both sides."""
        if ending.caller == ABNORMAL:
            break_off(self._exchange, GatewayError("upstream_protocol_error", reason="WebSocket broken off"))
        elif ending.caller is not None:
            await self._tell_caller(ending.caller, ending.reason)
        if ending.upstream == ABNORMAL:
            self._connection.transport.abort()
            return
        if ending.upstream is not None:
            self._connection.close(ending.upstream, ending.reason)
        await self._connection.wait_closed()

    async def _to_upstream(self) -> _Ending:
        while True:
            message = await self._exchange.receive()
            if message["type"] == "websocket.disconnect":
                return _left(message)
            if message["type"] != "websocket.receive":
                continue
            with contextlib.suppress(ConnectionError):  # gone: the other direction says how, after what came before
                # Taken before the next are read: backpressure, and no message is held.
                await self._connection.give(message["frames"])

    async def _to_caller(self) -> _Ending:
        while not isinstance(taken := await self._connection.take(), End):
            try:
                await self._exchange.send({"type": "websocket.send", "frames": taken})
            except OSError:  # the listener's way to say that the caller is gone
                return _Ending(None, ABNORMAL)
        return _closed(taken)

    async def _silence(self) -> _Ending:
        """Ends when both sides were idle for too long."""
        loop = self._connection.loop
        while (left_s := self._heard_s + self._idle_s - loop.time()) > 0:  # noqa: ASYNC110 - time itself is awaited
            await asyncio.sleep(left_s)
        return _Ending(_GOING_AWAY, _GOING_AWAY, "idle")

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


def _closed(end: End) -> _Ending:
    """The upstream's end. If its frames broke a rule, it was told already."""
    if end.broke:
        # Over the limit before it was complete, so no receiver takes the message for complete.
        return _Ending(TOO_BIG if end.code == TOO_BIG else _BAD_GATEWAY, None)
    if end.code == ABNORMAL:
        return _Ending(ABNORMAL, None)
    return _Ending(_sendable(end.code), None, end.reason)


def _left(message: Message) -> _Ending:
    """The caller's end. If the caller broke a rule, the upstream only learns that it is gone."""
    code: int = message["code"]
    if code == ABNORMAL:
        return _Ending(None, ABNORMAL)
    if message["broke"]:
        return _Ending(None, _GOING_AWAY)
    return _Ending(None, _sendable(code), message["reason"])


def _sendable(code: int) -> int:
    """A code that may stand in a close frame: one that was not there means 1000."""
    return 1000 if code == NO_STATUS else code
