"""A response head as bytes, with its framing decided (RFC 9112 section 6.3).

Rules: 204, 304 and answers to HEAD have no content; a known length is sent; otherwise HTTP/1.1 is chunked and HTTP/1.0
ends with the connection. `transfer-encoding` and `connection` are the listener's own. A head that would not be one
well-formed HTTP message is refused before a byte of it is written. `Date` is added unless the origin sent its own.
"""

from __future__ import annotations

import http
from typing import Final

from gateway.errors import GatewayError
from gateway.model.request import Headers
from gateway.problem import render

_NUL, _LF, _CR = b"\0\n\r"  # looked for as numbers: `in` with bytes costs ten times as much
BODILESS: Final = frozenset({204, 304})
NOTHING, CHUNKED, UNTIL_CLOSE = -1, -2, -3
_PHRASES: Final = {status.value: status.phrase for status in http.HTTPStatus}
_STATUS_LINES: Final = {code: f"HTTP/1.1 {code} {_PHRASES.get(code, '')}".encode("ascii") for code in range(200, 600)}
_UPGRADED: Final = (b"upgrade: websocket", b"connection: Upgrade")
_NOTED: Final = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"date"})


def response_head(
    status: int, headers: Headers, defaults: Headers, *, head_request: bool, http_1_0: bool, keep_alive: bool
) -> tuple[bytes, int, bool]:
    """The bytes up to and including the empty line; how much content follows; whether the connection goes on.

    The content is a number of bytes, or NOTHING, CHUNKED, UNTIL_CLOSE. Raises `upstream_protocol_error` for a status
    outside 200-599 or a field that could split the message.
    """
    first = _STATUS_LINES.get(status)
    if first is None:
        raise GatewayError("upstream_protocol_error", reason=f"response status {status}")
    lines = [first]
    length, keep = _collect(headers, defaults, lines)
    keep = keep and keep_alive
    if head_request or status in BODILESS:
        if length >= 0 and status not in BODILESS:
            lines.append(b"content-length: %d" % length)
        length = NOTHING
    elif length >= 0:
        lines.append(b"content-length: %d" % length)
    elif http_1_0:
        keep = False
    else:
        length = CHUNKED
        lines.append(b"transfer-encoding: chunked")
    if not keep:
        lines.append(b"connection: close")
    return _whole(lines), length, keep


def switching_head(headers: Headers, defaults: Headers) -> bytes:
    """101 to a WebSocket handshake (RFC 6455 section 4.2.2). Raises as `response_head`."""
    return _whole([b"HTTP/1.1 101 Switching Protocols", *_UPGRADED, *map(b": ".join, (*defaults, *headers))])


def _collect(headers: Headers, defaults: Headers, lines: list[bytes]) -> tuple[int, bool]:
    """Add the fields that pass as they are; the length that the app states, and whether the connection may go on."""
    dated, length, keep = False, UNTIL_CLOSE, True
    for field in headers:
        name = field[0]
        if name not in _NOTED:
            lines.append(b": ".join(field))
        elif name == b"date":
            lines.append(b": ".join(field))
            dated = True
        elif name == b"content-length":
            length = _length(field[1], length)
        elif name == b"connection":
            keep = keep and b"close" not in field[1].lower()
    if not dated:
        lines += map(b": ".join, defaults)
    return length, keep


def _length(value: bytes, before: int) -> int:
    if not value.isdigit() or before not in (UNTIL_CLOSE, int(value)):
        raise GatewayError("upstream_protocol_error", reason="content-length of a response")
    return int(value)


def _whole(lines: list[bytes]) -> bytes:
    """The lines as a head, if that many lines is what a reader will see."""
    head = b"\r\n".join(lines)
    breaks = len(lines) - 1
    if head.count(_LF) != breaks or head.count(_CR) != breaks or _NUL in head:
        raise GatewayError("upstream_protocol_error", reason="a control character in a response field")
    return head + b"\r\n\r\n"


def refusal(error: GatewayError, *, server_name: str, request_id: str, defaults: Headers, head_request: bool) -> bytes:
    """A whole response for what the app does not answer; the connection closes after it."""
    status, headers, body = render(error, server_name=server_name, request_id=request_id)
    headers.append((b"content-length", b"%d" % len(body)))
    head, _, _ = response_head(status, headers, defaults, head_request=head_request, http_1_0=False, keep_alive=False)
    return head if head_request else head + body
