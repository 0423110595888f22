"""A head as an ASGI 3 scope. `path` is for ASGI's sake alone: decisions are made on the raw target."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

from gateway.model.request import Headers
from gateway.server.head import Head

_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


def http_scope(head: Head, headers: Headers) -> dict[str, Any]:
    """What the head says; the connection adds who talks to whom."""
    scope = target_keys(head.target)
    scope["type"] = "http"
    scope["asgi"] = _ASGI
    scope["http_version"] = head.version
    scope["method"] = head.method
    scope["root_path"] = ""
    scope["headers"] = headers
    return scope


def target_keys(target: bytes) -> dict[str, Any]:
    """`path`, `raw_path` and `query_string` of a target."""
    raw_path, _, query = target.partition(b"?")
    path = raw_path.decode("latin-1")
    return {"path": unquote(path) if "%" in path else path, "raw_path": raw_path, "query_string": query}
