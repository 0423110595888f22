"""What a request head must be before anything of it is believed (RFC 9112 sections 3, 5, 6; RFC 9110 sections 5, 7).

llhttp has parsed the head in strict mode; this is what it leaves open.
Deliberately absent: what the path may be (`routing.parse_target`), and whose headers are believed (`forwarded`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote

from gateway.errors import GatewayError
from gateway.headers import connection_options
from gateway.model.request import Headers
from gateway.model.settings import ServerSettings

_VERSIONS: Final = MappingProxyType({b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"})
# A second one of these would let two readers of the same request believe different things.
_SINGLE: Final = frozenset(
    {
        b"host",
        b"authorization",
        b"content-length",
        b"content-type",
        b"expect",
        b"proxy-authorization",
        b"sec-websocket-key",
        b"sec-websocket-version",
        b"transfer-encoding",
        b"upgrade",
    }
)
_CONTROLS: Final = bytes(byte for byte in range(0x20) if byte not in b"\t\r\n") + b"\x7f"
_PLAIN_CONNECTION: Final = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_ABSOLUTE: Final = re.compile(rb"([A-Za-z]+)://([^/?#]*)(/.*)")
_MAX_LENGTH_DIGITS: Final = 18


@dataclass(slots=True)
class Head:
    """An accepted request head.

    `target` is in origin form, or `*`. `body` is the number of bytes that follow, None for chunked. `upgrade` is the
    protocol asked for, in lower case, b"" for none.
    """

    method: str
    target: bytes
    version: str
    host: str
    body: int | None
    expects_continue: bool
    upgrade: bytes


def read_head(raw: bytes, headers: Headers, scheme: str, settings: ServerSettings) -> Head:
    """The head's bytes and the fields that the parser made of them → Head.

    Raises `bad_request`, `uri_too_long`, `headers_too_large`, `expectation_failed`.
    """
    line = raw[: raw.find(b"\r\n")].split(b" ")
    version = _VERSIONS.get(line[-1])
    if version is None or len(line) != 3:  # method, target, version
        raise GatewayError("bad_request", "The request line is malformed.")
    if len(line[1]) > settings.max_uri:
        raise GatewayError("uri_too_long")
    if len(headers) > settings.max_headers:
        raise GatewayError("headers_too_large", f"There are more than {settings.max_headers} header fields.")
    if len(raw.translate(None, _CONTROLS)) != len(raw):
        raise GatewayError("bad_request", "A header field holds a control character.")
    fields, options = _fields(headers)
    host = _host(fields, version)
    method, target = line[0], line[1]
    if target[:1] != b"/" or method == b"CONNECT":
        target = _origin_form(method, target, host, scheme)
    expects = version == "1.1" and b"expect" in fields and _expects_continue(fields[b"expect"])
    upgrade = fields[b"upgrade"].lower() if b"upgrade" in options and b"upgrade" in fields else b""
    return Head(method.decode("ascii"), target, version, host, _body(fields, version), expects, upgrade)


def _fields(headers: Headers) -> tuple[dict[bytes, bytes], frozenset[bytes]]:
    """The fields that may stand only once, and the options of `Connection`."""
    fields: dict[bytes, bytes] = {}
    connection: list[bytes] = []
    for name, value in headers:
        if name in _SINGLE:
            if name in fields:
                raise GatewayError("bad_request", f"There is more than one {name.decode('ascii')} field.")
            fields[name] = value
        elif name == b"connection" and value not in _PLAIN_CONNECTION:
            connection.append(value)
    return fields, connection_options(connection) if connection else frozenset()


def _host(fields: dict[bytes, bytes], version: str) -> str:
    """RFC 9112 section 3.2: a 1.1 request without a valid Host is refused; 1.0 may lack it."""
    value = fields.get(b"host")
    if value is None and version == "1.0":
        return ""
    host = _valid_host(value or b"")
    if host is None:
        raise GatewayError("bad_request", "The request needs exactly one valid Host field.")
    return host


@lru_cache(maxsize=1024)
def _valid_host(value: bytes) -> str | None:
    return value.decode("ascii") if _HOST.fullmatch(value) else None


def _origin_form(method: bytes, target: bytes, host: str, scheme: str) -> bytes:
    if method == b"CONNECT":
        raise GatewayError("bad_request", "CONNECT is not served here.")
    if target == b"*" and method == b"OPTIONS":
        return target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise GatewayError("bad_request", "The request target is not in origin form.")
    given, authority, rest = absolute.groups()
    # RFC 9112 section 3.2.2 would let the absolute form win; here nobody but Host names the host.
    if given.lower() != scheme.encode() or authority.lower() != host.lower().encode():
        raise GatewayError("bad_request", "The request target names another origin than the Host field.")
    return rest


def _body(fields: dict[bytes, bytes], version: str) -> int | None:
    """RFC 9112 section 6: how many bytes follow, None for chunked."""
    length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    if coding is not None:
        # Exactly `chunked`, and never beside a length.
        if version != "1.1" or length is not None or coding.lower() != b"chunked":
            raise GatewayError("bad_request", "The request's framing is not understood.")
        return None
    if length is None:
        return 0
    if not length.isdigit() or len(length) > _MAX_LENGTH_DIGITS:
        raise GatewayError("bad_request", "The Content-Length is not a number of bytes.")
    return int(length)


def _expects_continue(value: bytes) -> bool:
    """RFC 9110 section 10.1.1."""
    if value.lower() != b"100-continue":
        raise GatewayError("expectation_failed")
    return True


# A head as an ASGI 3 scope. `path` is for ASGI's sake alone: decisions are made on the raw target.

_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


def http_scope(
    head: Head,
    headers: Headers,
    server: Any,
    client: Any,
    scheme: str,
    state: dict[str, Any],
    extensions: dict[str, Any],
) -> dict[str, Any]:
    """What the head says, with what the connection knows."""
    raw_path, _, query = head.target.partition(b"?")
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": head.version,
        "method": head.method,
        "root_path": "",
        "path": _path(raw_path),
        "raw_path": raw_path,
        "query_string": query,
        "headers": headers,
        "server": server,
        "client": client,
        "scheme": scheme,
        "state": state,
        "extensions": extensions,
    }


def socket_scope(
    head: Head, headers: Headers, server: Any, client: Any, scheme: str, state: dict[str, Any]
) -> dict[str, Any]:
    """The same for a WebSocket handshake."""
    offered = b",".join(value for name, value in headers if name == b"sec-websocket-protocol").decode("latin-1")
    return http_scope(head, headers, server, client, "wss" if scheme == "https" else "ws", state, {}) | {
        "type": "websocket",
        "subprotocols": [name.strip() for name in offered.split(",") if name.strip()],
    }


def _path(raw_path: bytes) -> str:
    path = raw_path.decode("latin-1")
    return unquote(path) if "%" in path else path
