"""httpx over the same wire and the same pool, for control calls (IAM, keys, tokens, health).

Deliberately absent: the `pool` timeout of httpx (the caller's total limit ends that wait), proxies, HTTP/2.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import lru_cache
from math import inf
from typing import Final, cast

import httpx

from gateway.errors import GatewayError
from gateway.model.request import Headers
from gateway.model.route import Timeouts
from gateway.resilience.deadline import Deadline
from gateway.upstream.outgoing import Outgoing
from gateway.upstream.reply import Reply
from gateway.upstream.upstream import Upstream

HARMLESS: Final = "harmless"
"""The extension of an httpx request that says that sending it twice does no harm, whatever its method."""

FRESH: Final = "fresh"
"""The extension of an httpx request that asks for a new connection."""

_PORTS: Final = {"http": 80, "https": 443}

_EXCEPTIONS: Final[dict[str, type[httpx.TransportError]]] = {
    "connection_timeout": httpx.ConnectTimeout,
    "connection_read_timeout": httpx.ReadTimeout,
    "connection_write_timeout": httpx.WriteTimeout,
    "connection_limit_reached": httpx.PoolTimeout,
    "http_response_timeout": httpx.ReadTimeout,
    "http_request_error": httpx.LocalProtocolError,
}
"""By RFC 9209 error type; otherwise by code, see `translated`."""


def cause_of(error: Exception) -> str:
    """What an operator is told of an exception of httpx: what was wrong and where, else its kind."""
    cause = error.__cause__
    return (isinstance(cause, GatewayError) and cause.reason) or type(error).__name__


class UpstreamTransport(httpx.AsyncBaseTransport):
    """`httpx.AsyncClient(transport=UpstreamTransport(upstream))`. Closing it closes the upstream."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self._origins = {(origin.scheme, origin.address.host, origin.address.port) for origin in upstream.origins}

    def serves(self, url: httpx.URL) -> bool:
        """Whether it is at one of the upstream's origins."""
        return (url.scheme, url.host, url.port or _PORTS.get(url.scheme)) in self._origins

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange; see httpx. Raises httpx.TransportError only."""
        # One transport serves one upstream, so that no URL can lead elsewhere.
        if not self.serves(request.url):
            raise httpx.UnsupportedProtocol(f"not an origin of upstream {self.upstream.name}", request=request)
        try:
            reply = await self.upstream.exchange(
                _outgoing(request), timeouts=_timeouts(request), deadline=Deadline(inf)
            )
        except GatewayError as error:
            raise translated(error, request) from error
        whole = reply.whole()
        return httpx.Response(
            reply.status,
            headers=reply.headers,
            stream=_Body(reply, request) if whole is None else httpx.ByteStream(whole),
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": reply.reason},
        )

    async def aclose(self) -> None:
        """Close the upstream's connections."""
        await self.upstream.aclose()


class _Body(httpx.AsyncByteStream):
    """A reply's body as httpx reads it."""

    __slots__ = ("_reply", "_request")

    def __init__(self, reply: Reply, request: httpx.Request) -> None:
        self._reply = reply
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._reply:
                yield part
        except GatewayError as error:
            raise translated(error, self._request) from error

    async def aclose(self) -> None:
        await self._reply.aclose()


def _outgoing(request: httpx.Request) -> Outgoing:
    headers: Headers = [(name.lower(), value) for name, value in request.headers.raw]
    target = request.extensions.get("target", request.url.raw_path)
    length = request.headers.get("content-length")
    announced = None if length is None else int(length)
    method, harmless = request.method.encode("ascii"), request.extensions.get(HARMLESS, False)
    fresh = request.extensions.get(FRESH, False)
    return Outgoing(method, target, headers, _body(request, announced), announced, harmless, fresh=fresh)


def _body(request: httpx.Request, announced: int | None) -> bytes | AsyncIterator[bytes] | None:
    try:
        content = request.content
    except httpx.RequestNotRead:
        return aiter(cast("httpx.AsyncByteStream", request.stream))
    return content if content or announced is not None else None


def _timeouts(request: httpx.Request) -> Timeouts:
    asked = request.extensions.get("timeout", {})
    return _timeouts_of(asked.get("connect"), asked.get("read"), asked.get("write"))


@lru_cache(maxsize=64)
def _timeouts_of(connect_s: float | None, read_s: float | None, write_s: float | None) -> Timeouts:
    return Timeouts(
        connect_s=inf if connect_s is None else connect_s,
        read_s=inf if read_s is None else read_s,
        write_s=inf if write_s is None else write_s,
    )


def translated(error: GatewayError, request: httpx.Request | None) -> httpx.TransportError:
    """What httpx calls it."""
    kind = _EXCEPTIONS.get(error.proxy_error)
    if kind is None:
        kind = httpx.ConnectError if error.code in ("upstream_unreachable", "draining") else httpx.RemoteProtocolError
    return kind(error.reason or error.code, request=request)
