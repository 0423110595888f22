"""A head as an ASGI 3 scope. `path` is for ASGI's sake alone: decisions are made on the raw target."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

from gateway.model.request import Headers
from gateway.server.head import Head

_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


def http_scope(head: Head, headers: Headers, **known: Any) -> dict[str, Any]:
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
        **known,
    }


def target_keys(target: bytes) -> dict[str, Any]:
    """`path`, `raw_path` and `query_string` of a target."""
    raw_path, _, query = target.partition(b"?")
    return {"path": _path(raw_path), "raw_path": raw_path, "query_string": query}


def _path(raw_path: bytes) -> str:
    path = raw_path.decode("latin-1")
    return unquote(path) if "%" in path else path
