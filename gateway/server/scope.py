"""A head as an ASGI 3 scope. `path` is for ASGI's sake alone: decisions are made on the raw target."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

from gateway.model.request import Headers
from gateway.server.head import Head

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
