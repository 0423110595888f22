"""A response head as bytes, with its framing decided (RFC 9112 section 6.3).

Rules: 204, 304 and answers to HEAD have no content; a known length is sent; otherwise HTTP/1.1 is chunked and HTTP/1.0
ends with the connection. `transfer-encoding` and `connection` are the listener's own. A head that would not be one
well-formed HTTP message is refused before a byte of it is written. `Date` is added unless the origin sent its own.
"""

from __future__ import annotations

import http
from types import MappingProxyType
from typing import Final

from gateway.errors import GatewayError
from gateway.model.request import Headers
from gateway.problem import render

BODILESS: Final = frozenset({204, 304})
_PHRASES: Final = {status.value: status.phrase for status in http.HTTPStatus}
_STATUS_LINES: Final = MappingProxyType(
    {code: f"HTTP/1.1 {code} {_PHRASES.get(code, '')}".encode("ascii") for code in range(200, 600)}
)
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"date"})


class Framing:
    """How the content of one response ends: after `length` bytes, else chunked, else with the connection."""

    __slots__ = ("bodiless", "chunked", "close", "dated", "length")

    def __init__(self, *, bodiless: bool) -> None:
        self.bodiless = bodiless
        self.chunked = False
        self.close = False
        self.dated = False
        self.length: int | None = None

    def take(self, name: bytes, value: bytes, lines: list[bytes]) -> None:
        """A field of the app's that concerns framing."""
        if name == b"content-length":
            if not value.isdigit() or (self.length is not None and self.length != int(value)):
                raise GatewayError("upstream_protocol_error", reason="content-length of a response")
            self.length = int(value)
        elif name == b"connection":
            self.close = self.close or b"close" in value.lower()
        elif name == b"date":
            self.dated = True
            lines.append(b"date: " + value)


def response_head(
    status: int, headers: Headers, defaults: Headers, *, head_request: bool, http_1_0: bool, keep_alive: bool
) -> tuple[bytes, Framing]:
    """The bytes up to and including the empty line, and how the content is framed. `framing.close`: closes after it.

    Raises `upstream_protocol_error` for a status outside 200-599 or a field that could split the message.
    """
    first = _STATUS_LINES.get(status)
    if first is None:
        raise GatewayError("upstream_protocol_error", reason=f"response status {status}")
    framing = Framing(bodiless=head_request or status in BODILESS)
    framing.close = not keep_alive
    lines = [first]
    for name, value in headers:
        if name in _FRAMING:
            framing.take(name, value, lines)
        else:
            lines.append(name + b": " + value)
    if not framing.dated:
        lines += [name + b": " + value for name, value in defaults]
    _settle(framing, lines, status, http_1_0=http_1_0)
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1 or b"\0" in head:
        raise GatewayError("upstream_protocol_error", reason="a control character in a response field")
    return head + b"\r\n\r\n", framing


def _settle(framing: Framing, lines: list[bytes], status: int, *, http_1_0: bool) -> None:
    if framing.length is not None:
        if status not in BODILESS:
            lines.append(b"content-length: %d" % framing.length)
    elif not framing.bodiless:
        framing.chunked = not http_1_0
        framing.close = framing.close or http_1_0
        if framing.chunked:
            lines.append(b"transfer-encoding: chunked")
    if framing.close:
        lines.append(b"connection: close")


def refusal(error: GatewayError, *, server_name: str, request_id: str, defaults: Headers, head_request: bool) -> bytes:
    """A whole response for what the app does not answer; the connection closes after it."""
    status, headers, body = render(error, server_name=server_name, request_id=request_id)
    headers.append((b"content-length", b"%d" % len(body)))
    head, _ = response_head(status, headers, defaults, head_request=head_request, http_1_0=False, keep_alive=False)
    return head if head_request else head + body
