"""A request as it goes out: what the caller says, the bytes of its head, and a body that is still arriving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from gateway.errors import GatewayError
from gateway.model.request import Headers

if TYPE_CHECKING:
    from gateway.upstream.call import Journey


# Rules: framing is decided here alone (RFC 9112 section 6), from `body` and `content_length`; fields that belong to
# the connection or to framing are never taken from the caller's list; what would end a line early is refused, whoever
# let it through, so that one request can never become two.

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS"})
"""RFC 9110 section 9.2.2. TRACE is never sent."""

_NUL, _LF, _CR, _SPACE = b"\0\n\r "  # looked for as numbers: `in` with bytes costs ten times as much
_name: Final = itemgetter(0)

_AUTHORIZATION: Final = b"\r\nauthorization: "
_VALUE_AFTER: Final = len(_AUTHORIZATION)
_OF_CONNECTION: Final = (b"negotiate", b"ntlm")
"""Authentication schemes with which a server may take a whole connection for one user's (RFC 4559 section 6)."""
_MAY_BIND: Final = frozenset(b"nN \t\v\f")
"""How the value of such a field begins, white space included: one byte to look at, for nearly every request."""

_OURS: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


@dataclass(slots=True)
class Outgoing:
    """One request to an upstream. Not frozen: one is made per request, and a frozen one costs four times as much.

    `target` goes out byte for byte. `headers`: lower-case names, `host` included; framing and connection fields in it
    are dropped. `body` None means no body at all, and then `content_length` 0 still says so on the wire. With an
    iterator `content_length` None means chunked; the iterator is consumed at most once. `harmless`: it changes nothing,
    whatever its method says (a question to IAM). `traced`: `headers` have the request's own trace context already.
    `fresh`: it goes over a new connection, as the trial of a half-open circuit does. `share_key` names the caller whose
    share of the upstream's connections it counts in; empty for calls of the gateway's own. `journey`: what is known of
    the request over all its attempts, where somebody judges them; else the upstream judges its origins by itself.
    """

    method: bytes
    target: bytes
    headers: Headers
    body: bytes | AsyncIterator[bytes] | None = None
    content_length: int | None = None
    harmless: bool = False
    traced: bool = False
    fresh: bool = False
    share_key: str = ""
    journey: Journey | None = None

    @property
    def streamed(self) -> bool:
        """Whether its body is still arriving from the caller."""
        return self.body is not None and not isinstance(self.body, bytes)

    @property
    def replayable(self) -> bool:
        """Whether sending it a second time is possible and harmless (RFC 9110 section 9.2.2)."""
        return (self.harmless or self.method in IDEMPOTENT) and (self.body is None or isinstance(self.body, bytes))


def head_of(outgoing: Outgoing) -> bytes:
    """The request line and header section, framing included.

    HEAD says `Connection: close`: an upstream that answers it with a body must not reach the next request.
    Raises `bad_request` when a line would end early.
    """
    headers = outgoing.headers
    if not _OURS.isdisjoint(map(_name, headers)):
        headers = [header for header in headers if header[0] not in _OURS]
    method, target, framing = outgoing.method, outgoing.target, b""
    line_ends = len(headers) + 2
    if outgoing.body is not None or outgoing.content_length is not None or method == b"HEAD":
        framing = _framing(outgoing)
        line_ends += framing.count(b"\n")
    head = b"%b %b HTTP/1.1\r\n%b\r\n%b\r\n" % (method, target, b"\r\n".join(map(b": ".join, headers)), framing)
    if head.count(_LF) != line_ends or head.count(_CR) != line_ends or _NUL in head or _SPACE in target:
        raise GatewayError("bad_request", sent=False, reason="line break in the head of a request to an upstream")
    return head


def binds_connection(head: bytes) -> bool:
    """Whether a request authenticates its connection and not only itself. `head` is of `head_of`."""
    at = head.find(_AUTHORIZATION)
    while at >= 0:
        at += _VALUE_AFTER
        if head[at] in _MAY_BIND and head[at : at + 32].lstrip().lower().startswith(_OF_CONNECTION):
            return True
        at = head.find(_AUTHORIZATION, at)
    return False


def asks_to_bind(headers: Headers) -> bool:
    """Whether the fields of a 401 ask for such a scheme."""
    asked = b",".join(value for name, value in headers if name == b"www-authenticate").lower()
    return any(scheme in asked for scheme in _OF_CONNECTION)


def _framing(outgoing: Outgoing) -> bytes:
    body, length = outgoing.body, outgoing.content_length
    if body is None:
        framing = b"" if length is None else b"content-length: 0\r\n"
    elif isinstance(body, bytes):
        framing = b"content-length: %d\r\n" % len(body)
    elif length is None:
        framing = b"transfer-encoding: chunked\r\n"
    else:
        framing = b"content-length: %d\r\n" % length
    return framing if outgoing.method != b"HEAD" else framing + b"connection: close\r\n"


# Sends a request body that is still arriving, chunk by chunk, as fast as the upstream takes it.

Ready = Callable[[], Awaitable[None]]
"""Waits until the upstream takes more."""


async def send_chunked(transport: asyncio.Transport, body: AsyncIterator[bytes], ready: Ready) -> None:
    """Send it in chunks (RFC 9112 section 7.1), ended by an empty one. Raises what the body raises."""
    async for chunk in body:
        if chunk:
            await ready()
            transport.writelines((b"%x\r\n" % len(chunk), chunk, b"\r\n"))
    await ready()
    transport.write(b"0\r\n\r\n")


async def send_sized(transport: asyncio.Transport, body: AsyncIterator[bytes], length: int, ready: Ready) -> None:
    """Send its `length` bytes; `bad_request` if it has more or fewer. Raises what the body raises."""
    left = length
    async for chunk in body:
        left -= len(chunk)
        if left < 0:
            break
        await ready()
        transport.write(chunk)
    if left:
        raise GatewayError("bad_request", "The request body is not as long as announced.")
