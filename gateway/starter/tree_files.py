"""Traefik's dynamic configuration and OpenAPI 3 → Draft: YAML and JSON with the line of every value."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from gateway.config.problems import Problems
from gateway.config.tree import Node
from gateway.config.yaml_reader import read_yaml
from gateway.starter.draft import Draft, NotUnderstoodError

# YAML and JSON files of others, with the line of every value.


def read_tree(file: str, content: bytes) -> Node:
    """The tree of a file. Raises NotUnderstoodError with every mistake."""
    problems = Problems()
    tree = read_yaml(file, content, problems)
    if tree is None:
        raise NotUnderstoodError("\n".join(map(str, problems.errors)))
    return tree


def text_of(node: Node | None) -> str:
    """The text of a value, "" where there is none."""
    return str(node.value) if node is not None and isinstance(node.value, str | int | float) else ""


# OpenAPI 3 → Draft: a route for each path, with its methods, to the first server.

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


# Traefik's dynamic configuration → Draft: `http.routers` with Host, Path and PathPrefix, services, stripPrefix.

_TERM: Final = re.compile(r"(?P<name>\w+)\((?P<values>[^()]*)\)\Z")
_VALUE: Final = re.compile(r"[`\"']([^`\"']*)[`\"']")
_UNDERSTOOD: Final = frozenset({"Host", "Path", "PathPrefix", "Method"})


def read_traefik(tree: Node) -> Draft:
    """Raises NotUnderstoodError if nothing of the file was of use."""
    draft = Draft(tree.mark.file)
    routers = tree.get("http", "routers")
    if routers is None:
        draft.leave_out(
            tree.mark.line, "neither `paths` (OpenAPI) nor `http.routers` (Traefik's dynamic configuration)"
        )
    for name, router in routers.members().items() if routers else ():
        _router(draft, tree, name, router)
    return draft.ready()


def _router(draft: Draft, tree: Node, name: str, router: Node) -> None:
    line = router.mark.line
    rule = _rule(text_of(router.get("rule")))
    if rule is None:
        draft.leave_out(line, f"router {name}: only Host, Path, PathPrefix and Method, joined by &&, are understood")
        return
    service = text_of(router.get("service")).removesuffix("@file")
    servers = tree.get("http", "services", service, "loadBalancer", "servers")
    urls = [text_of(server.get("url")).rstrip("/") for server in servers.items()] if servers else []
    upstream = draft.upstream(urls, line)
    strip = _strip(draft, tree, router, rule)
    if upstream:
        path = rule.get("Path", "") or f"{rule.get('PathPrefix', '').rstrip('/')}/*"
        methods = (rule["Method"].upper(),) if "Method" in rule else ()
        draft.route(path, upstream, line, host=rule.get("Host", ""), methods=methods, strip=strip)


def _rule(text: str) -> dict[str, str] | None:
    """`Host(…) && PathPrefix(…)` as names and values; None for anything else."""
    found: dict[str, str] = {}
    for part in text.split("&&"):
        term = _TERM.match(part.strip())
        values = _VALUE.findall(term["values"]) if term else []
        if term is None or term["name"] not in _UNDERSTOOD or len(values) != 1 or term["name"] in found:
            return None
        found[term["name"]] = values[0]
    return found


def _strip(draft: Draft, tree: Node, router: Node, rule: dict[str, str]) -> str:
    middlewares = router.get("middlewares")
    strip = ""
    for each in middlewares.items() if middlewares else ():
        name = text_of(each).removesuffix("@file")
        prefixes = tree.get("http", "middlewares", name, "stripPrefix", "prefixes")
        wanted = [text_of(prefix).rstrip("/") for prefix in prefixes.items()] if prefixes else []
        if wanted == [rule.get("PathPrefix", "").rstrip("/")]:
            strip = wanted[0]
        else:
            draft.leave_out(each.mark.line, f"middleware {name}: not taken over")
    return strip
