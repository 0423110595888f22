"""OpenAPI 3 → Draft: a route for each path, with its methods, to the first server."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from gateway.config.tree import Node
from gateway.starter.draft import Draft, NotUnderstoodError
from gateway.starter.trees import text_of

_METHODS: Final = ("get", "head", "post", "put", "patch", "delete", "options")
_ASSUMED: Final = "http://127.0.0.1:9001"


def read_openapi(tree: Node, service: str = "") -> Draft:
    """`service` is the URL that stands for `servers`. Raises NotUnderstoodError if nothing of the file was of use."""
    draft = Draft(tree.mark.file)
    upstream, base = _server(draft, tree, service)
    paths = tree.get("paths")
    for path, item in paths.members().items() if paths else ():
        line = item.mark.line if paths is None else paths.keys.get(path, item.mark).line
        methods = tuple(method.upper() for method in _METHODS if item.get(method) is not None)
        if not methods:
            draft.leave_out(line, f"{path}: there is no operation")
            continue
        draft.route(f"{base}{path}", upstream, line, methods=methods)
    return draft.ready()


def _server(draft: Draft, tree: Node, service: str) -> tuple[str, str]:
    """The upstream, and the path before all paths."""
    servers = tree.get("servers")
    first = servers.items()[0] if servers and servers.items() else None
    url = text_of(first.get("url")) if first else ""
    parts = urlsplit(url)
    if service:
        return _given(draft, service), parts.path.rstrip("/")
    if first is not None and parts.scheme in ("http", "https") and parts.netloc and "{" not in url:
        name = draft.upstream([f"{parts.scheme}://{parts.netloc}"], first.mark.line)
        if name:
            return name, parts.path.rstrip("/")
    line = first.mark.line if first else tree.mark.line
    draft.leave_out(line, f"servers: there is no whole URL; {_ASSUMED} stands for it")
    return draft.upstream([_ASSUMED], line), parts.path.rstrip("/") if url.startswith("/") else ""


def _given(draft: Draft, service: str) -> str:
    name = draft.upstream([service], 0)
    if not name:
        raise NotUnderstoodError(f"{service}: the http:// or https:// URL of an origin is expected, without a path")
    return name
